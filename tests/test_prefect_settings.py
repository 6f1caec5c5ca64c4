"""What we tell Prefect, we say in four places: all of them say the same."""

import os
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from prefect.settings import Settings

from mnist_pipeline.errors import SettingsError
from mnist_pipeline.orchestration.environment import PREFECT_DEFAULTS, prepare_environment
from mnist_pipeline.settings import ENVIRONMENT_PREFIX, load_settings, project_file

ROOT = Path(__file__).parents[1]
ENV_FILE = project_file("config") / "prefect.env"
NOT_OF_PREFECT = "DO_NOT_TRACK"  # a convention of many programs; Prefect reads it outside its settings

PrefectSees = Callable[[], dict[str, str]]


def variables() -> dict[str, str]:
    """The variables of config/prefect.env, whose lines systemd and sh must read alike."""
    lines = [line for line in ENV_FILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Z_]+=[\w.,:/]+", line), line
    pairs = [line.split("=") for line in lines]
    assert len(dict(pairs)) == len(pairs), "a variable is set twice"
    return dict(pairs)


def set_all(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def prefect_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrefectSees:
    """All settings as Prefect itself would read them now, in a folder and a home that hold nothing else."""
    for name in os.environ:
        if name.startswith("PREFECT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return lambda: Settings().to_environment_variables(include_secrets=True)


def test_the_env_file_does_to_prefect_what_prefect_toml_does(
    prefect_sees: PrefectSees, monkeypatch: pytest.MonkeyPatch
) -> None:
    untold = prefect_sees()
    shutil.copy(ROOT / "prefect.toml", Path.cwd())
    by_toml = prefect_sees()
    Path("prefect.toml").unlink()
    set_all(variables(), monkeypatch)
    assert prefect_sees() == by_toml
    assert by_toml != untold  # the file was found


def test_prefect_knows_every_variable_of_the_env_file(
    prefect_sees: PrefectSees, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(variables(), monkeypatch)
    assert set(variables()) - set(prefect_sees()) == {NOT_OF_PREFECT}


def test_the_env_file_has_every_default_of_ours() -> None:
    assert PREFECT_DEFAULTS.items() <= variables().items()


def test_the_work_pool_gives_runs_the_same_values() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    for deployment in deployments:
        given = deployment["work_pool"]["job_variables"]["env"]
        theirs = {name: value for name, value in given.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        assert NOT_OF_PREFECT in theirs
        assert theirs.items() <= variables().items(), deployment["name"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PREFECT_HOME", "https://me:hunter2@host", "^PREFECT_HOME: expected a path on disk, got an address"),
        ("HTTP_PROXY", "ftp://me:hunter2@host", "^HTTP_PROXY, .*: expected addresses http://HOST:PORT, got another"),
        ("HTTPS_PROXY", "http://me:hunter2@host:x", r"got another \(InvalidURL\); correct or unset them$"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_not_repeated(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {name: value})
    with pytest.raises(SettingsError, match=message) as caught:
        prepare_environment()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_setting_that_prefect_cannot_use_is_one_line_that_does_not_repeat_it() -> None:
    code = "from mnist_pipeline.orchestration import environment; environment.prepare_environment()"
    variables = os.environ | {"PREFECT_API_REQUEST_TIMEOUT": "hunter2"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert "SettingsError: settings of Prefect: request_timeout: Input should be a valid number" in done.stderr
    assert "correct it in the environment ('PREFECT_API_REQUEST_TIMEOUT') or in prefect.toml" in done.stderr
    assert "hunter2" not in done.stderr


def test_settings_of_prefect_that_cannot_be_read_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect.settings.get_current_settings", Path("/").read_text)
    with pytest.raises(SettingsError, match=r"^settings of Prefect: .*Is a directory.*; correct its files"):
        prepare_environment()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "PREFECT_PROFILES_PATH",
            "/dev/zero",
            "PREFECT_PROFILES_PATH: expected a file or folder, got",
        ),
        ("SSL_CERT_FILE", "/nowhere.pem", "'SSL_CERT_FILE'.*: expected files that can be used, got .*No such file"),
    ],
)
def test_a_variable_that_names_no_file_is_named(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{message}"):
        prepare_environment()


def test_our_own_settings_pass_over_the_env_file() -> None:
    assert ENV_FILE.is_file()
    load_settings()  # would refuse it: it is no TOML
