"""The flows in real processes: on a real server on loopback, and on the temporary one that Prefect starts itself."""

import json
import logging
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME, temporary_settings
from prefect.states import Failed

from mnist_pipeline.datasets.sources import fetching
from mnist_pipeline.errors import ChecksumError, RunNotFoundError, SourceError, UnavailableError
from mnist_pipeline.orchestration import progress, tasks
from mnist_pipeline.orchestration.tasks import is_retryable
from mnist_pipeline.settings import project_folder
from tests.builders import make_split, random_images, random_labels
from tests.engine import START_SECONDS, clean_environment, free_port, request_of, running_server, wait_until
from tests.mirror import FILES, IMAGES, OTHER, PACKED, Answer, Site
from tests.parquet_files import as_numbers, column, write

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


@pytest.fixture
def in_this_process(environment: dict[str, str], server: str) -> Iterator[str]:
    """Flows called from the test itself run on the server; without a heartbeat, so that none waits for it at its end.

    Yields the server's address.
    """
    ours = {PREFECT_API_URL: server, PREFECT_HOME: Path(environment["PREFECT_HOME"])}
    with temporary_settings({**ours, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield server


def _ask(address: str, path: str, question: object) -> Any:
    with urllib.request.urlopen(request_of(address, path, question), timeout=100) as answer:
        return json.load(answer)


def _task_run_names(address: str) -> list[str]:
    return sorted(found["name"] for found in _ask(address, "task_runs/filter", {}))


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


def test_the_flow_publishes_what_the_steps_publish_in_a_bounded_number_of_tasks(
    environment: dict[str, str], server: str, tmp_path: Path
) -> None:
    variables = environment | {"PREFECT_API_URL": server}
    direct, flow = tmp_path / "direct", tmp_path / "flow"
    for folder, engine in ((direct, ["--direct"]), (flow, [])):
        folder.mkdir()
        done = _command(folder, variables, "run", "--run-date", RUN_DATE, *engine)
        assert done.returncode == 0, done.stderr
        assert "published run" in done.stdout
    assert _tables(direct / "outputs") == _tables(flow / "outputs") != {}
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


def test_a_night_that_its_gates_reject_ends_under_that_name_and_stays_published(
    environment: dict[str, str], server: str, tmp_path: Path
) -> None:
    (tmp_path / "strict.toml").write_text("[gates.toy]\nmin_accuracy = 0.9\n")
    night = ["run", "--run-date", "2026-01-30", "--config", "strict.toml"]
    ended = [_command(tmp_path, environment | {"PREFECT_API_URL": server}, *night) for _ in range(2)]
    assert [done.returncode for done in ended] == [7, 7], ended[0].stderr
    for done in ended:
        assert "verdict: fail" in done.stdout
        assert "min_accuracy: accuracy" in done.stdout
        assert "error: run 2026-01-30-toy-test-" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    assert len(list((tmp_path / "outputs" / "verdicts" / run.name).iterdir())) == 1
    assert (tmp_path / "outputs" / "reports" / f"{run.name}.html").is_file()
    found = _ask(server, "flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["Rejected"]}}}})
    assert {(item["state_type"], item["name"]) for item in found} == {("FAILED", "evaluate toy/test 2026-01-30")}
    assert "min_accuracy (" in found[0]["state"]["message"]
    summaries = _ask(server, "artifacts/filter", {"artifacts": {"key": {"any_": ["toy-test-summary"]}}})
    summary = next(item for item in summaries if item["description"].startswith("2026-01-30"))
    assert "night of 2026-01-30: fail" in summary["data"]
    assert "- **fail** `min_accuracy`: accuracy" in summary["data"]


def test_an_expected_error_in_the_flow_is_one_message_without_traceback_and_publishes_nothing(
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


def test_an_installed_wheel_on_a_server_that_prefect_starts_publishes_what_the_steps_publish(
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
    unreachable = f"http://127.0.0.1:{free_port()}"
    proxies = {
        "HTTP_PROXY": unreachable,
        "http_proxy": unreachable,
        "ALL_PROXY": unreachable,
        "no_proxy": ".example",
        "NO_PROXY": "",
    }
    done = _command(work, variables | proxies, "run", "--run-date", RUN_DATE)
    assert done.returncode == 0, done.stderr
    assert "Starting temporary server" in done.stderr
    assert "published run" in done.stdout
    direct = tmp_path / "direct"
    direct.mkdir()
    assert _command(direct, environment, "run", "--direct", "--run-date", RUN_DATE).returncode == 0
    assert _tables(work / "outputs") == _tables(direct / "outputs") != {}


def _flow(name: str) -> Any:
    loaded: Flow[..., Any] = load_flow_from_entrypoint(f"{project_folder('flows') / name}.py:{name}")
    return loaded


@pytest.fixture
def from_a_site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """The toy data set comes from a site on this machine, and is asked for again at once where it is at all."""
    site = Site({name: Answer(body) for name, body in PACKED.items()})
    files = [file.model_dump(exclude_none=True) for file in FILES]
    entry = {
        "title": "Toy",
        "splits": {"test": dict(zip(("images", "labels"), files, strict=True))},
        "sources": [{"kind": "web", "url": f"http://{site.place}/"}],
    }
    monkeypatch.setenv("MNIST_PIPELINE_DATASETS", json.dumps({"toy": entry}))
    monkeypatch.setattr(tasks, "open_images", tasks.open_images.with_options(retry_delay_seconds=0.1))
    monkeypatch.setattr(fetching, "PAUSES_SECONDS", ())
    monkeypatch.chdir(tmp_path)
    yield site
    site.close()


def test_a_fetch_that_no_source_answers_is_retried_and_succeeds(
    in_this_process: str, from_a_site: Site, tmp_path: Path
) -> None:
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
        found = _ask(in_this_process, "task_runs/filter", of_the_run)
        return [run["run_count"] for run in found if run["state_type"] == "FAILED"]

    for state, count in ((ended, 3), (refused, 1)):
        wait_until(lambda state=state: tries(state) != [], what="the failed fetch", seconds=60)  # type: ignore[misc]
        assert tries(state) == [count]


def test_the_flow_evaluates_images_in_parquet_like_the_same_as_idx_files(
    environment: dict[str, str], server: str, tmp_path: Path
) -> None:
    images, labels = random_images(95), random_labels(95)
    write(tmp_path / "mine.parquet", column(as_numbers(images, "float32")), labels, row_group_size=20)
    variables = environment | {"PREFECT_API_URL": server}
    del variables["MNIST_PIPELINE_DATA_DIR"]
    words = ["--run-date", RUN_DATE, "--dataset", "mine", "--images", "mine.parquet"]
    done = _command(tmp_path, variables, "run", *words)
    assert done.returncode == 0, done.stderr
    idx = _command(tmp_path, environment, "run", "--direct", "--run-date", RUN_DATE)
    assert idx.returncode == 0, idx.stderr
    mine, toy = (
        [pq.read_table(path).drop_columns("run_id") for path in sorted(tmp_path.glob(f"outputs/runs/*-{name}-*/*/*"))]
        for name in ("mine", "toy")
    )
    assert mine == toy
    assert len(mine) == 10
    in_one = _command(tmp_path, variables, "run", *words, "--runner", "processes")
    assert "was published before with the same predictions" in in_one.stdout, in_one.stderr


def test_the_deadline_fails_for_a_night_without_a_run_and_is_content_with_one(
    in_this_process: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"dataset": "toy", "run_date": RUN_DATE, "outputs": tmp_path / "outputs"}
    with pytest.raises(RunNotFoundError, match=f"got none of {RUN_DATE}; .*backfill .*--from {RUN_DATE}"):
        _flow("deadline")(**given)
    _command(tmp_path, environment, "run", "--direct", "--run-date", RUN_DATE)
    _flow("deadline")(**given)
    with pytest.raises(RunNotFoundError, match="got none of 2026-01-29, 2026-01-30;"):
        _flow("deadline")(**given, nights=3)
    names = {run["name"] for run in _ask(in_this_process, "flow_runs/filter", {})}
    assert f"deadline toy/test {RUN_DATE}" in names


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
    found = _ask(in_this_process, "artifacts/filter", {"artifacts": of_the_run})
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
    done = _command(tmp_path, environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "run")
    assert done.returncode == 4
    assert "error: Prefect server http://127.0.0.1:9/api: expected an answer" in done.stderr
    assert "Traceback" not in done.stderr
