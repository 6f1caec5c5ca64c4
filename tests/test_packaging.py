"""What is built of the project and installed: wheel, sdist, lock files and, as far as text shows it, containers."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.builders import make_split
from tests.engine import ROOT, clean_environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = {"requirements.lock": ["objectstore"], "requirements-dev.lock": ["dask", "objectstore", "dev"]}


@pytest.mark.parametrize("lock", LOCKED)
def test_a_lock_file_has_every_requirement_in_its_bounds_and_with_hashes(lock: str) -> None:
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / lock).read_text())[1:]
    found = {re.match(r"[a-z0-9._-]+", entry)[0]: entry for entry in entries}  # type: ignore[index]
    assert all("--hash=sha256:" in entry for entry in entries)
    extras = [each for extra in LOCKED[lock] for each in PROJECT["optional-dependencies"][extra]]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras, "hatchling"]):
        if requirement.name != PROJECT["name"]:
            entry = found[requirement.name.lower().replace("_", "-")]
            assert requirement.specifier.contains(re.search("==([^ ]+)", entry)[1]), entry  # type: ignore[index]


def test_containers_send_nothing_home_and_have_passwords_of_their_own() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {"database", "server", "setup", "worker"}
    assert all(each["env_file"] == "config/prefect.env" for name, each in services.items() if name != "database")
    assert "DO_NOT_TRACK=1" in (ROOT / "Dockerfile").read_text()
    assert ":?" in services["database"]["environment"]["POSTGRES_PASSWORD"]
    for name in ("server", "setup", "worker"):
        assert ":?" in services[name]["environment"]["PREFECT_API_AUTH_STRING"]
    assert services["server"]["ports"] == ["127.0.0.1:4200:4200"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel of the checkout, and that of its sdist."""
    folder = tmp_path_factory.mktemp("built")
    _hatchling(ROOT, "wheel", folder / "checkout")
    _hatchling(ROOT, "sdist", folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    _hatchling(folder / sdist.name.removesuffix(".tar.gz"), "wheel", folder / "sdist")
    wheels = [next(iter((folder / source).glob("*.whl"))) for source in ("checkout", "sdist")]
    return wheels[0], wheels[1]


@pytest.mark.slow
def test_the_wheel_of_the_sdist_is_that_of_the_checkout(built: tuple[Path, Path]) -> None:
    ours, theirs = map(zipfile.ZipFile, built)
    assert ours.namelist() == theirs.namelist()
    assert {f"mnist_pipeline/{name}" for name in ("py.typed", "prefect.yaml", "config/gates.toml")} <= {
        *ours.namelist()
    }
    assert all(ours.read(name) == theirs.read(name) for name in ours.namelist())


@pytest.mark.slow
def test_in_an_empty_environment_the_wheel_evaluates_with_the_locked_libraries(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    environment, work = tmp_path / "environment", tmp_path / "work"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = str(environment / "bin" / "python")
    lock = ["--require-hashes", "--only-binary", ":all:", "-r", str(ROOT / "requirements.lock")]
    for words in (["install", *lock], ["install", "--no-deps", str(built[0])], ["check"]):
        command = [python, "-m", "pip", "--disable-pip-version-check", *words]
        subprocess.run(command, check=True, capture_output=True)
    make_split(tmp_path / "data", 30)
    variables = clean_environment(tmp_path / "home") | {"MNIST_PIPELINE_DATA_DIR": str(tmp_path / "data")}
    variables.pop("PYTHONPATH", None)
    command = [str(environment / "bin" / "mnist-pipeline"), "run", "--direct", "--dataset", "toy"]
    done = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(work.glob("outputs/reports/*.html"))


def _hatchling(source: Path, what: str, target: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", what, "--directory", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
