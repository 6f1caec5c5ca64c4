"""prefect.yaml and prefect.toml, checked without a server."""

import json
import os
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.exceptions import ParameterTypeError
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import validate
from rich.text import Text

from mnist_pipeline.cli.options import FILES_ONLY, Given
from mnist_pipeline.errors import SettingsError
from mnist_pipeline.orchestration.deployments import read_entries
from mnist_pipeline.settings import DATED, Settings

ROOT = Path(__file__).parents[1]
PROJECT = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in PROJECT["deployments"]}

ADDRESSES = [
    "https://me:hunter2@host/a",
    "https:/me:hunter2@host/a",
    "s3://me:hunter2@bucket/a",
    "s3://bucket/a?token=hunter2",
    "gs://bucket/a\nhttps://me:hunter2@host",
]

FLOWS = {"training": "mnist-training", "deadline": "mnist-deadline", "maintenance": "mnist-maintenance"}


def flow_of(name: str) -> Flow[..., Any]:
    return load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"])


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_deployment_names_a_flow_and_parameters_it_takes(name: str) -> None:
    flow = flow_of(name)
    given = {"run_date": "2026-01-31"} if name == "backfill" else {}  # it has to be given
    flow.validate_parameters(DEPLOYMENTS[name]["parameters"] | given)
    assert flow.name == FLOWS.get(name, "mnist-evaluation")
    assert "mnist" in DEPLOYMENTS[name]["tags"]  # the automations and the doctor go by it
    assert DEPLOYMENTS[name]["work_pool"]["name"] == "mnist"


def test_the_flow_and_the_command_take_the_same_settings() -> None:
    parameters = set(signature(flow_of("nightly").fn).parameters)
    assert parameters == {*Settings.model_fields, "config"} - {*FILES_ONLY}


def test_there_are_these_deployments() -> None:
    assert set(DEPLOYMENTS) == {"nightly", "deadline", "adhoc", "backfill", "maintenance", "training"}


def test_the_nightly_its_deadline_and_the_maintenance_alone_have_schedules_in_utc() -> None:
    schedules = {name: entry["schedules"] for name, entry in DEPLOYMENTS.items() if entry["schedules"]}
    assert schedules == {
        "nightly": [{"cron": "30 2 * * *", "timezone": "UTC", "active": True}],
        "deadline": [{"cron": "0 6 * * *", "timezone": "UTC", "active": True}],
        "maintenance": [{"cron": "0 4 * * 0", "timezone": "UTC", "active": True}],
    }


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_outputs_do_not_depend_on_where_the_worker_was_started(name: str) -> None:
    variables = DEPLOYMENTS[name]["work_pool"]["job_variables"]["env"]
    assert variables["MNIST_PIPELINE_OUTPUTS"] == "{{ $MNIST_PIPELINE_OUTPUTS }}"
    assert variables["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    (step,) = PROJECT["pull"]
    assert step == {"prefect.deployments.steps.set_working_directory": {"directory": "{{ $PWD }}"}}


@pytest.mark.parametrize(
    "given",
    [
        {"batch_rows": 0},
        {"batch_rows": 100_001},
        {"workers": 0},
        {"split": "test-1"},
        {"dataset": "../mnist"},
        {"run_date": "yesterday"},
        {"run_date": 0},
        {"run_date": "2999-01-01"},
        {"spilt": "train"},
    ],
    ids=str,
)
def test_unknown_and_out_of_range_parameters_are_refused_before_a_run(given: dict[str, Any]) -> None:
    with pytest.raises((ParameterTypeError, TypeError)):
        flow_of("adhoc").validate_parameters(given)


@pytest.mark.parametrize(
    "given", [{"hidden": [0]}, {"hidden": [5] * 8}, {"hidden": "200,100"}, {"activation": "tanh"}], ids=str
)
def test_networks_that_cannot_be_trained_are_refused_before_a_run(given: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError):
        flow_of("training").validate_parameters(given)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_terminal_of_prefect_shows_the_patterns_whole(name: str) -> None:
    patterns = re.findall(r'"pattern": (".*?")[,}]', json.dumps(flow_of(name).parameters.model_dump(mode="json")))
    for pattern in map(json.loads, patterns):
        assert Text.from_markup(pattern).plain == pattern
    assert patterns or name == "training"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_server_keeps_no_address_with_a_password_as_a_parameter(name: str, tmp_path: Path) -> None:
    (entry,) = (entry for entry in read_entries(tmp_path, tmp_path) if entry.name == name)
    schema = dict(entry.schema)
    texts = {key for key, about in schema["properties"].items() if '"string"' in json.dumps(about)}
    paths = {key for key in texts if '"path"' in json.dumps(schema["properties"][key])}
    assert paths >= {"outputs", "config"}

    def refuses(key: str, value: str) -> bool:
        return bool(validate({key: value}, schema, ignore_required=True))

    for address in ADDRESSES:
        assert [key for key in texts if not refuses(key, address)] == []
    for path in ("/a/b", "~/x y", "a:b", "x@y?z#", "ä"):
        assert [key for key in paths if refuses(key, path)] == []
    for key in paths:
        assert refuses(key, "s3://bucket/a b") == (key not in ("outputs", *DATED))


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_flow_that_is_called_refuses_it_before_the_server_has_it(address: str) -> None:
    for name in DEPLOYMENTS:
        with pytest.raises(SettingsError, match=r"^config: expected no address with a user name"):
            flow_of(name).serialize_parameters({"nights": 1, "config": Path(address)})


@pytest.mark.parametrize(
    "where",
    [
        "parameters: {images: ADDRESS}",
        "schedules: [{cron: 0 0 * * *, parameters: {data_dir: ADDRESS}}]",
        "work_pool: {name: mnist, job_variables: {env: {MNIST_PIPELINE_IMAGES: ADDRESS}}}",
        "parameters: {images: '{{ $ADDRESS }}'}",
    ],
)
def test_an_address_with_a_password_in_the_project_file_is_refused_before_it_is_deployed(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADDRESS", ADDRESSES[0])
    entry = f"  - name: own\n    entrypoint: mnist_pipeline.flows.evaluate.evaluate\n    {where}\n"
    text = f"deployments:\n{entry}".replace(" ADDRESS", f" {ADDRESSES[0]}")
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(SettingsError, match="deployment own: expected no address with a user name") as caught:
        read_entries(tmp_path, tmp_path)
    assert "hunter2" not in str(caught.value)


def test_a_backfill_without_a_run_date_is_refused_before_a_run() -> None:
    with pytest.raises(ParameterTypeError, match="run_date"):
        flow_of("backfill").validate_parameters({"split": "test"})


def test_parameters_come_as_text_from_the_command_line_and_are_taken() -> None:
    given = {"split": "train", "batch_rows": "100", "run_date": "2026-01-31", "workers": "2"}
    assert flow_of("adhoc").validate_parameters(given)["batch_rows"] == 100


def test_every_parameter_says_in_the_form_what_leaving_it_out_means() -> None:
    entries = read_entries(ROOT, ROOT / "outputs")
    parameters = [(name, each) for entry in entries for name, each in entry.schema["properties"].items()]
    silent = [name for name, each in parameters if "left out" not in each["description"] and "default" not in each]
    assert silent == ["run_date"]  # of a backfill, which has to be given
    described = {(name, each["description"].partition(", unless ")[0]) for name, each in parameters}
    assert ("batch_rows", "images per forward pass. If left out: 1000") in described
    assert ("report", "whether to write the report of the run. If left out: yes") in described
    unless = {each["description"].partition(", unless ")[2] for name, each in parameters if name == "workers"}
    assert unless == {"`config` or the worker's MNIST_PIPELINE_WORKERS says otherwise."}


def test_parameters_have_bounds_in_the_form() -> None:
    schema = flow_of("adhoc").parameters
    (rows, _) = schema.properties["batch_rows"]["anyOf"]
    assert (rows["minimum"], rows["maximum"]) == (1, 100_000)


def test_prefect_reads_our_settings_from_the_projects_folder(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    code = """
import json
from prefect.settings import get_current_settings
settings = get_current_settings()
server, logs = settings.server, settings.logging
print(json.dumps([
    server.analytics_enabled, server.ephemeral.startup_timeout_seconds, server.concurrency.lease_storage,
    logs.extra_loggers, logs.to_api.when_missing_flow,
]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=variables | {"PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    filesystem = "prefect.server.concurrency.lease_storage.filesystem"
    assert json.loads(done.stdout) == [False, 120, filesystem, ["mnist_pipeline"], "ignore"]


def test_an_empty_outputs_variable_is_the_folder_that_it_means(tmp_path: Path) -> None:
    (nightly, *_) = read_entries(tmp_path, tmp_path / "outputs")
    wanted = nightly.values["work_pool"]["job_variables"]
    left_empty = {"env": wanted["env"] | {"MNIST_PIPELINE_OUTPUTS": ""}}  # by `prefect deploy`, where it is not set
    assert nightly._with_outputs(left_empty) == nightly._with_outputs(wanted) == wanted
    elsewhere = {"env": wanted["env"] | {"MNIST_PIPELINE_OUTPUTS": "s3://bucket/nights"}}
    assert nightly._with_outputs(elsewhere) != wanted


def test_relative_outputs_are_meant_in_the_folder_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MNIST_PIPELINE_OUTPUTS", raising=False)
    assert Given({"outputs": None}, None).in_folder(project).load().outputs == project / "outputs"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_PIPELINE_OUTPUTS", "nights")
    assert Given({"outputs": None}, None).in_folder(project).load().outputs == project / "nights"
    monkeypatch.chdir(tmp_path)
    assert Given({"outputs": "here"}, None).in_folder(project).load().outputs == tmp_path / "here"  # as it was typed
    with pytest.raises(SettingsError, match="--project nowhere: expected a folder, got none"):
        Given({}, None).in_folder(Path("nowhere"))
