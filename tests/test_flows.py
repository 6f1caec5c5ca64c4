"""The flows in real processes: on a real server on loopback, and on the temporary one that Prefect starts itself."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Failed

from mnist_pipeline.errors import SourceError, WeightsError
from mnist_pipeline.orchestration.tasks import can_heal
from tests.builders import make_split
from tests.engine import START_SECONDS, clean_environment, running_server

pytestmark = pytest.mark.engine

RUN_DATE = "2026-01-31"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_split(folder, 95)
    make_split(folder, 60, split="train")
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, str]:
    return clean_environment(tmp_path_factory.mktemp("prefect")) | {
        "MNIST_PIPELINE_DATASET": "toy",
        "MNIST_PIPELINE_DATA_DIR": str(data),
        "MNIST_PIPELINE_SHARD_ROWS": "10",
        "MNIST_PIPELINE_MAX_TASKS": "4",
    }


@pytest.fixture(scope="module")
def server(environment: dict[str, str]) -> Iterator[str]:
    with running_server(environment) as address:
        yield address


def _task_run_names(address: str) -> list[str]:
    request = urllib.request.Request(
        f"{address}/task_runs/filter", data=b"{}", headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return sorted(found["name"] for found in json.load(answer))


def _command(folder: Path, variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mnist_pipeline", *words],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


def _tables(outputs: Path) -> dict[str, bytes]:
    return {str(path.relative_to(outputs)): path.read_bytes() for path in (outputs / "runs").rglob("*.parquet")}


def test_the_flow_publishes_what_the_stages_publish_in_a_bounded_number_of_tasks(
    environment: dict[str, str], server: str, tmp_path: Path
) -> None:
    variables = environment | {"PREFECT_API_URL": server}
    direct, flow = tmp_path / "direct", tmp_path / "flow"
    for folder, engine in ((direct, ["--direct"]), (flow, [])):
        folder.mkdir()
        done = _command(folder, variables, "run", "--run-date", RUN_DATE, *engine)
        assert done.returncode == 0, done.stderr
        assert "published run" in done.stdout
    assert _tables(direct / "outputs") == _tables(flow / "outputs")
    (manifest,) = (flow / "outputs" / "runs").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["engine"] == "prefect"
    assert list((flow / "outputs" / ".staging").iterdir()) == []
    names = _task_run_names(server)
    assert len([name for name in names if name.startswith("predict ")]) == 4
    assert "predict shards 1-2 of 10" in names
    assert "fetch toy/test" in names

    again = _command(flow, variables, "run", "--run-date", RUN_DATE)
    assert again.returncode == 0
    assert "nothing new" in again.stdout


def test_a_refusal_in_the_flow_is_one_message_without_traceback_and_publishes_nothing(
    environment: dict[str, str], server: str, tmp_path: Path
) -> None:
    done = _command(tmp_path, environment | {"PREFECT_API_URL": server}, "run", "--weights", "nowhere.npz")
    assert done.returncode == 3
    assert "error: " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "outputs" / "runs").exists()


def test_the_training_flow_writes_weights_and_card(environment: dict[str, str], server: str, tmp_path: Path) -> None:
    done = _command(tmp_path, environment | {"PREFECT_API_URL": server}, "train", "--epochs", "1", "--seed", "3")
    assert done.returncode == 0, done.stderr
    (weights,) = (tmp_path / "outputs" / "weights").glob("*.safetensors")
    assert f"weights: outputs/weights/{weights.name}" in done.stdout
    assert weights.with_suffix(".md").is_file()


def test_an_installed_wheel_runs_in_an_empty_folder_on_a_server_that_prefect_starts(
    environment: dict[str, str], tmp_path: Path
) -> None:
    project, site, work = Path(__file__).parents[1], tmp_path / "site", tmp_path / "work"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(site), str(project)], check=True, capture_output=True)
    variables = environment | {"PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import mnist_pipeline.settings as s; print(s.project_folder('flows'))"],
        cwd=work,
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()) == site / "mnist_pipeline" / "flows"
    done = _command(work, variables, "run", "--run-date", RUN_DATE)
    assert done.returncode == 0, done.stderr
    assert "Starting temporary server" in done.stderr
    assert "published run" in done.stdout


@pytest.mark.parametrize(("error", "heals"), [(SourceError("no source"), True), (WeightsError("bad weights"), False)])
def test_only_a_source_that_did_not_answer_is_worth_another_try(error: Exception, heals: bool) -> None:
    nothing: Any = None
    assert can_heal(nothing, nothing, Failed(data=error)) is heals


def test_a_server_that_does_not_answer_is_one_message(environment: dict[str, str], tmp_path: Path) -> None:
    done = _command(tmp_path, environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "run")
    assert done.returncode == 4
    assert "error: Prefect server http://127.0.0.1:9/api: expected an answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminated_run_takes_the_server_that_prefect_started_with_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    make_split(tmp_path / "large", 30_000)
    slow = {"MNIST_PIPELINE_DATA_DIR": "large", "MNIST_PIPELINE_BATCH_ROWS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_pipeline", "run"],
        cwd=tmp_path,
        env=environment | slow,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "30,000 images" in line:
            break
    process.send_signal(signal.SIGTERM)
    # A server left behind would hold this pipe open, and the wait would run out.
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM, rest
    assert "Stopping temporary server" in rest
    assert not (tmp_path / "outputs" / "runs").exists()
