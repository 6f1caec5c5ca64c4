"""The flows on a real server: called from the test itself, and by the command in a process of its own."""

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import State
from prefect.client.schemas.schedules import CronSchedule
from prefect.flow_engine import run_flow
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.states import Failed, Scheduled

from mnist_pipeline.core.network import Architecture
from mnist_pipeline.datasets.sources import fetching
from mnist_pipeline.errors import ChecksumError, DamagedError, RunNotFoundError, SourceError, UnavailableError
from mnist_pipeline.orchestration import progress, tasks
from mnist_pipeline.orchestration.flow_runs import WAITING, shown_as_waiting
from mnist_pipeline.orchestration.tasks import is_retryable
from mnist_pipeline.pipeline import arrival
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.settings import load_settings
from tests import engine
from tests.builders import make_split, random_images, random_labels, random_network
from tests.engine import ask, free_port, python_m, wait_until
from tests.mirror import FILES, IMAGES, OTHER, PACKED, Answer, Site
from tests.parquet_files import as_numbers, column, write
from tests.published import flip_bit, identity, publish_run

pytestmark = pytest.mark.engine

RUN_DATE = "2026-01-31"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_split(folder, 95)
    make_split(folder, 60, split="train")
    return folder


@pytest.fixture(scope="module")
def environment(prefect_server: dict[str, str], data: Path) -> dict[str, str]:
    """The variables of a person whose nights are of `data`, with the server of all tests."""
    return prefect_server | {
        "MNIST_PIPELINE_DATASET": "toy",
        "MNIST_PIPELINE_DATA_DIR": str(data),
        "MNIST_PIPELINE_SHARD_ROWS": "10",
        "MNIST_PIPELINE_MAX_TASKS": "4",
        "MNIST_PIPELINE_REPORT": "false",
    }


@pytest.fixture(scope="module")
def person(environment: dict[str, str]) -> Iterator[str]:
    """This process as that of the person with `environment`. Yields the server's address."""
    with engine.in_this_process(environment):
        yield environment["PREFECT_API_URL"]


@pytest.fixture
def in_this_process(person: str, tmp_path: Path) -> Iterator[str]:
    """Flows called from the test itself run as that person's, in an empty folder. Yields the server's address."""
    with chdir(tmp_path):
        yield person


def _task_run_names(address: str, flow_run_id: object) -> list[str]:
    of_the_run = {"flow_runs": {"id": {"any_": [str(flow_run_id)]}}}
    return sorted(found["name"] for found in ask(address, "task_runs/filter", of_the_run))


def _flow(name: str) -> Any:
    loaded: Flow[..., Any] = load_flow_from_entrypoint(f"mnist_pipeline.flows.{name}.{name}")
    return loaded


def _tables(outputs: Path) -> dict[str, bytes]:
    """The published tables, by name below the outputs folder."""
    return {str(path.relative_to(outputs)): path.read_bytes() for path in (outputs / "runs").rglob("*.parquet")}


def test_the_flow_publishes_what_the_steps_publish_in_a_bounded_number_of_tasks(
    in_this_process: str, tmp_path: Path
) -> None:
    tensors: dict[str, Any] = dict(random_network(architecture=Architecture((20,), "relu")))
    np.savez(tmp_path / "other.npz", **tensors)
    given: dict[str, Any] = {"run_date": RUN_DATE, "weights": tmp_path / "other.npz", "activation": "relu"}
    state = _flow("evaluate")(**given, outputs=tmp_path / "flow", return_state=True)
    assert state.is_completed(), state
    run_nightly(load_settings(**given, outputs=tmp_path / "direct"))
    assert _tables(tmp_path / "direct") == _tables(tmp_path / "flow") != {}
    (manifest,) = (tmp_path / "flow" / "runs").glob("*/manifest.json")
    written = json.loads(manifest.read_text())
    assert (written["engine"], written["architecture"]) == ("prefect", "784-20-10 relu")
    assert list((tmp_path / "flow" / ".staging").iterdir()) == []
    names = _task_run_names(in_this_process, state.state_details.flow_run_id)
    assert len([name for name in names if name.startswith("predict ")]) == 4
    assert "predict shards 1-2 of 10" in names
    assert "fetch toy/test" in names
    again = _flow("evaluate")(**given, outputs=tmp_path / "flow")
    assert not again.published.new


def test_a_run_that_waits_for_its_data_is_shown_as_waiting(
    in_this_process: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "in" / RUN_DATE
    monkeypatch.setattr(arrival, "sleep", lambda _: shutil.copytree(data, there))
    given = {"data_dir": "in/{run_date}", "wait_for_data_minutes": 1, "outputs": tmp_path / "flow"}
    state = _flow("evaluate")(run_date=RUN_DATE, **given, return_state=True)
    assert state.is_completed(), state
    run = state.state_details.flow_run_id
    states = ask(in_this_process, f"flow_run_states/?flow_run_id={run}")
    assert [each["name"] for each in states] == ["Pending", "Running", WAITING, "Running", "Completed"]
    assert re.fullmatch(rf"waiting for data until .* UTC: {there} \(data_dir\)", states[2]["message"])
    assert "wait for toy/test" in _task_run_names(in_this_process, run)


def test_a_state_that_cannot_be_shown_fails_nothing(in_this_process: str, caplog: pytest.LogCaptureFixture) -> None:
    with shown_as_waiting() as show:  # in no flow run
        show("waiting")
    assert "the run cannot be shown as WaitingForData" in caplog.text


def test_a_night_that_its_gates_reject_ends_under_that_name_and_stays_published(
    environment: dict[str, str], in_this_process: str, tmp_path: Path
) -> None:
    (tmp_path / "strict.toml").write_text("[gates.toy]\nmin_accuracy = 0.9\n")
    first = _flow("evaluate")(run_date="2026-01-30", config=tmp_path / "strict.toml", return_state=True)
    assert (first.type, first.name) == ("FAILED", "Rejected")
    assert "min_accuracy (" in first.message
    run_id = str(first.state_details.flow_run_id)
    (found,) = ask(in_this_process, "flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    assert (found["state"]["name"], found["name"]) == ("Rejected", "evaluate toy/test 2026-01-30")
    artifacts = {"artifacts": {"flow_run_id": {"any_": [run_id]}, "key": {"any_": ["toy-test-summary"]}}}
    (summary,) = ask(in_this_process, "artifacts/filter", artifacts)
    assert "night of 2026-01-30: fail" in summary["data"]
    assert "- **fail** `min_accuracy`: accuracy" in summary["data"]
    assert "| architecture | 784-50-100-10 sigmoid |" in summary["data"]
    assert re.search(r"\| all nights \| `/.*/outputs/reports/index\.html` \|", summary["data"])

    words = ["mnist_pipeline", "run", "--run-date", "2026-01-30", "--config", "strict.toml", "--report"]
    done = python_m(tmp_path, environment, *words)
    assert done.returncode == 7, done.stderr
    assert "verdict: fail" in done.stdout
    assert "min_accuracy: accuracy" in done.stdout
    assert "error: run 2026-01-30-toy-test-" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert len(list((tmp_path / "outputs" / "verdicts" / run.name).iterdir())) == 1
    assert (tmp_path / "outputs" / "reports" / f"{run.name}.html").is_file()


def test_an_expected_error_in_the_flow_is_one_message_without_traceback_and_publishes_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = python_m(tmp_path, environment, "mnist_pipeline", "run", "--weights", "nowhere.npz")
    assert done.returncode == 3
    assert "error: " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "outputs" / "runs").exists()


def test_the_training_flow_writes_weights_and_card(in_this_process: str, tmp_path: Path) -> None:
    trained = _flow("train")(epochs=1, seed=3, hidden=[20], activation="relu")
    (weights,) = (tmp_path / "outputs" / "weights").glob("*.safetensors")
    assert trained.path == weights
    assert weights.with_suffix(".md").is_file()
    assert str(trained.architecture) == "784-20-10 relu"


def test_a_flow_run_that_is_late_stands_for_the_night_it_was_scheduled_for(in_this_process: str) -> None:
    evaluate = _flow("evaluate")
    with get_client(sync_client=True) as client:
        scheduled = datetime(2026, 1, 15, 2, 30, tzinfo=UTC)
        run = client.create_flow_run(evaluate, state=Scheduled(scheduled_time=scheduled))
    late: Any = run_flow(evaluate, flow_run=run)
    assert late.published.identity.run_date == scheduled.date()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as its wheel installs it."""
    return engine.install_wheel(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize("engine", ["direct", pytest.param("temporary server", marks=pytest.mark.slow)])
def test_an_installed_wheel_publishes_what_the_checkout_publishes(
    engine: str, environment: dict[str, str], installed: Path, in_this_process: str, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    variables = {name: value for name, value in environment.items() if name != "PREFECT_API_URL"}
    variables["PYTHONPATH"] = str(installed)
    assert {path.name.partition("-")[0] for path in installed.iterdir()} <= {"mnist_pipeline", "bin"}
    code = "import mnist_pipeline.flows.evaluate as flow; print(flow.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code], cwd=work, env=variables, capture_output=True, text=True, check=True
    )
    assert Path(where.stdout.strip()) == installed / "mnist_pipeline" / "flows" / "evaluate.py"
    unreachable = f"http://127.0.0.1:{free_port()}"
    proxies = {
        "HTTP_PROXY": unreachable,
        "http_proxy": unreachable,
        "ALL_PROXY": unreachable,
        "no_proxy": ".example",
        "NO_PROXY": "",
    }
    words = ["--direct"] if engine == "direct" else []
    done = python_m(work, variables | proxies, "mnist_pipeline", "run", "--run-date", RUN_DATE, *words)
    assert done.returncode == 0, done.stderr
    assert ("Starting temporary server" in done.stderr) == (engine != "direct")
    assert "published run" in done.stdout
    run_nightly(load_settings(run_date=RUN_DATE, outputs=tmp_path / "outputs"))
    assert _tables(work / "outputs") == _tables(tmp_path / "outputs") != {}


@pytest.fixture
def from_a_site(in_this_process: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The toy data set comes from a site on this machine, and is asked for again at once where it is at all."""
    site = Site({name: Answer(body) for name, body in PACKED.items()})
    files = [file.model_dump(exclude_none=True) for file in FILES]
    entry = {
        "title": "Toy",
        "splits": {"test": dict(zip(("images", "labels"), files, strict=True))},
        "sources": [{"kind": "web", "url": f"http://{site.place}/"}],
    }
    monkeypatch.delenv("MNIST_PIPELINE_DATA_DIR")
    monkeypatch.setenv("MNIST_PIPELINE_DATASETS", json.dumps({"toy": entry}))
    monkeypatch.setattr(tasks, "open_images", tasks.open_images.with_options(retry_delay_seconds=0.1))
    monkeypatch.setattr(fetching, "PAUSES_SECONDS", ())
    yield site
    site.close()


def test_a_fetch_that_no_source_answers_is_retried_and_succeeds(from_a_site: Site, tmp_path: Path) -> None:
    from_a_site.first = {f"{IMAGES}.gz": [Answer(status=503)] * 2}
    judged = _flow("evaluate")(dataset="toy", run_date=RUN_DATE, cache=tmp_path / "cache")
    assert judged.published.totals.images == len(random_labels(5))
    assert len([path for path in from_a_site.asked if "images" in path]) == 3


def test_a_retryable_fetch_ends_after_three_tries_and_another_after_one(
    in_this_process: str, from_a_site: Site, tmp_path: Path
) -> None:
    from_a_site.answers = {name: Answer(status=503) for name in from_a_site.answers}
    ended = _flow("evaluate")(dataset="toy", cache=tmp_path / "cache", return_state=True)
    assert isinstance(ended.result(raise_on_failure=False), SourceError)
    assert len([path for path in from_a_site.asked if "images" in path]) == 3
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / IMAGES).write_bytes(OTHER)
    refused = _flow("evaluate")(dataset="toy", data_dir=tmp_path / "wrong", return_state=True)
    assert isinstance(refused.result(raise_on_failure=False), ChecksumError)

    def tries(state: State[Any]) -> list[int]:
        of_the_run = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
        found = ask(in_this_process, "task_runs/filter", of_the_run)
        return [run["run_count"] for run in found if run["state_type"] == "FAILED"]

    for state, count in ((ended, 3), (refused, 1)):
        wait_until(lambda state=state: tries(state) != [], what="the failed fetch", seconds=60)  # type: ignore[misc]
        assert tries(state) == [count]


@pytest.mark.usefixtures("in_this_process")
def test_the_flow_evaluates_images_in_parquet_in_processes_like_the_same_as_idx_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_nightly(load_settings(run_date=RUN_DATE))
    images, labels = random_images(95), random_labels(95)
    write(tmp_path / "mine.parquet", column(as_numbers(images, "float32")), labels, row_group_size=20)
    monkeypatch.delenv("MNIST_PIPELINE_DATA_DIR")
    given = {"run_date": RUN_DATE, "dataset": "mine", "images": Path("mine.parquet")}
    _flow("evaluate")(**given, runner="processes", workers=1)
    mine, toy = (
        [
            pq.read_table(path).drop_columns(["run_id", "dataset"])
            for path in sorted(tmp_path.glob(f"outputs/runs/*-{name}-*/*/*"))
        ]
        for name in ("mine", "toy")
    )
    assert mine == toy
    assert len(mine) == 10


def test_the_deadline_fails_for_a_night_without_a_run_and_is_content_with_one(in_this_process: str) -> None:
    engine.take_down()
    with pytest.raises(RunNotFoundError, match=f"got none of {RUN_DATE}; .*backfill .*--from {RUN_DATE}"):
        _flow("deadline")(run_date=RUN_DATE)
    run_nightly(load_settings(run_date=RUN_DATE))
    state = _flow("deadline")(run_date=RUN_DATE, return_state=True)
    assert state.is_completed()
    with pytest.raises(RunNotFoundError, match="got none of 2026-01-29, 2026-01-30;"):
        _flow("deadline")(run_date=RUN_DATE, nights=3)
    found = ask(in_this_process, f"flow_runs/{state.state_details.flow_run_id}")
    assert found["name"] == f"deadline {RUN_DATE}"


def test_the_deadline_says_of_every_night_that_is_due_what_is_wrong(in_this_process: str, tmp_path: Path) -> None:
    engine.take_down()
    with get_client(sync_client=True) as client:
        for dataset in ("one", "two"):
            schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *", timezone="UTC"))
            parameters = {"dataset": dataset, "outputs": str(tmp_path / dataset)}
            flow_id = client.create_flow_from_name("mnist-evaluation")
            client.create_deployment(flow_id, dataset, schedules=[schedule], parameters=parameters)
    with pytest.raises(RunNotFoundError) as missing:
        _flow("deadline")(run_date=RUN_DATE)
    engine.take_down()
    for dataset in ("one", "two"):
        assert f"nights of {dataset}/test from {RUN_DATE} to {RUN_DATE}: expected" in str(missing.value)
        assert f"--outputs {tmp_path / dataset}" in str(missing.value)


def test_the_maintenance_verifies_prunes_if_asked_and_fails_if_anything_is_damaged(
    in_this_process: str, tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    old, new = (publish_run(outputs, identity(day)) for day in ("2026-01-30", "2026-01-31"))
    publish_run(outputs, identity("2026-01-29"))
    state = _flow("maintenance")(outputs=outputs, return_state=True)
    assert state.is_completed()
    assert old.pruned() is None
    of_the_run = {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}
    (found,) = ask(in_this_process, "artifacts/filter", {"artifacts": of_the_run})
    assert "- runs: 3 verified, 0 damaged" in found["data"].splitlines()
    assert found["description"] == "nothing damaged; not pruned: no [retention] in the config"
    (tmp_path / "retention.toml").write_text("[retention]\nkeep_days = 1\nkeep_last = 1\ngrace_hours = 0\n")
    flip_bit(new.folder / "summary.parquet")
    with pytest.raises(DamagedError, match=f"damaged: 1: {new.folder}: .*summary.parquet.*verify --repair"):
        _flow("maintenance")(outputs=outputs, config=tmp_path / "retention.toml")
    assert old.pruned() is not None


def test_work_that_takes_long_is_shown_as_progress_and_other_work_is_not(
    in_this_process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("mnist_pipeline.tests")

    @flow
    def work() -> None:
        report_progress = progress.shown(logger)
        for done in range(5):
            report_progress("short", done, 4)
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 0.0)
        for done in range(5):
            report_progress("training, loss 0.1", done, 4)
        report_progress("of unknown size", 0, 0)

    state: Any = work(return_state=True)
    of_the_run = {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}
    found = ask(in_this_process, "artifacts/filter", {"artifacts": of_the_run})
    assert {(bar["description"], float(bar["data"])) for bar in found} == {
        ("training", 100.0),
        ("of unknown size", 0.0),
    }


def test_progress_that_cannot_be_shown_fails_nothing_and_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*_: object, **__: object) -> None:
        asked.append(1)
        raise OSError("the server is gone")

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 0.0)
    monkeypatch.setattr(progress, "get_client", refuse)
    report_progress = progress.shown(logging.getLogger("mnist_pipeline.tests"))
    report_progress("training", 1, 2)
    report_progress("training", 2, 2)
    assert len(asked) == 1  # a server that is away delays the run only once


@pytest.mark.parametrize(("error", "retryable"), [(UnavailableError("busy"), True), (SourceError("not there"), False)])
def test_only_a_source_that_may_yet_answer_is_worth_another_try(error: Exception, retryable: bool) -> None:
    nothing: Any = None
    assert is_retryable(nothing, nothing, Failed(data=error)) is retryable


def test_a_server_that_does_not_answer_is_one_message(environment: dict[str, str], tmp_path: Path) -> None:
    done = python_m(tmp_path, environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "mnist_pipeline", "run")
    assert done.returncode == 4
    assert "error: Prefect server http://127.0.0.1:9/api: expected an answer" in done.stderr
    assert "Traceback" not in done.stderr
