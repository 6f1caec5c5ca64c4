"""What doctor, deadline and backfill make of the deployments on a server: made by its API, without `prefect deploy`."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import State
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Completed, Crashed, Failed
from typer.testing import CliRunner

from mnist_pipeline.cli import app
from mnist_pipeline.cli.evaluate import _wait_for
from mnist_pipeline.errors import EngineError, NoDataError, SettingsError, VerdictError
from mnist_pipeline.orchestration.automations import FAILED_AUTOMATION, set_up_automations
from mnist_pipeline.orchestration.deployments import our_deployments
from mnist_pipeline.orchestration.doctor import server_checks
from mnist_pipeline.orchestration.doctor.diagnosis import diagnose
from mnist_pipeline.orchestration.doctor.findings import Finding
from mnist_pipeline.orchestration.flow_runs import REJECTED
from mnist_pipeline.orchestration.scheduled import due, scheduled_runs
from mnist_pipeline.pipeline.nightly import require_run_dates
from mnist_pipeline.settings import Settings, load_settings
from tests.builders import random_network
from tests.engine import in_this_process, take_down
from tests.published import flip_bit, identity, promote_to, publish_run

pytestmark = pytest.mark.engine

EVALUATION, DEADLINE = "mnist-evaluation", "mnist-deadline"
HOUR = "0 {hour} * * *"


@pytest.fixture(scope="module", autouse=True)
def person(prefect_server: dict[str, str]) -> Iterator[None]:
    with in_this_process(prefect_server):
        yield


@pytest.fixture
def client(person: None) -> Iterator[SyncPrefectClient]:
    take_down()
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="mnist", type="process"))
        yield client
    take_down()


def deploy(client: SyncPrefectClient, flow: str, name: str, *crons: str, folder: Path, **how: Any) -> Any:
    """A deployment that runs in a folder, with a schedule for each of `crons`."""
    return client.create_deployment(
        client.create_flow_from_name(flow),
        name,
        entrypoint="mnist_pipeline.flows.evaluate.evaluate",
        work_pool_name="mnist",
        schedules=[DeploymentScheduleCreate(schedule=CronSchedule(cron=cron, timezone="UTC")) for cron in crons],
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}],
        **how,
    )


@pytest.fixture
def nights(client: SyncPrefectClient, tmp_path: Path) -> SyncPrefectClient:
    """Two nightly deployments, of data sets and outputs of their own, and a deadline for all."""
    bucket = {"env": {"MNIST_PIPELINE_OUTPUTS": str(tmp_path / "elsewhere"), "MNIST_PIPELINE_DATASET": "toy"}}
    deploy(client, EVALUATION, "nightly", HOUR.format(hour=2), folder=tmp_path)
    deploy(client, EVALUATION, "toys", HOUR.format(hour=3), folder=tmp_path, job_variables=bucket)
    deploy(client, EVALUATION, "adhoc", folder=tmp_path, parameters={"dataset": "never"})
    deploy(client, DEADLINE, "deadline", HOUR.format(hour=6), folder=tmp_path)
    return client


def shell(tmp_path: Path) -> Settings:
    return load_settings(outputs=tmp_path / "outputs", cache=tmp_path / "cache", run_date="2026-01-31")


def look(tmp_path: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in diagnose(shell(tmp_path), tmp_path)}


def test_a_night_has_the_data_set_and_outputs_that_its_deployment_gives(
    nights: SyncPrefectClient, tmp_path: Path
) -> None:
    planned = scheduled_runs(our_deployments(nights))
    found = {each.deployment: (each.settings.dataset, each.settings.outputs) for each in planned}
    assert found == {
        f"{EVALUATION}/nightly": ("mnist", tmp_path / "outputs"),
        f"{EVALUATION}/toys": ("toy", tmp_path / "elsewhere"),
    }


def test_what_is_due_are_all_nights_that_are_not_paused_or_those_that_are_asked_for(
    nights: SyncPrefectClient, tmp_path: Path
) -> None:
    def due_now(count: int = 1, **given: Any) -> list[tuple[str, list[str], Path]]:
        found = due(shell(tmp_path), given, count)
        return [(each.settings.dataset, [*map(str, each.dates)], Path(each.settings.outputs)) for each in found]

    mnist = ("mnist", ["2026-01-31"], tmp_path / "outputs")
    toy = ("toy", ["2026-01-31"], tmp_path / "elsewhere")
    assert due_now() == [mnist, toy]
    assert due_now(2, dataset="toy", split="test") == [(toy[0], ["2026-01-30", "2026-01-31"], toy[2])]
    assert due_now(outputs=tmp_path / "x") == [(*mnist[:2], tmp_path / "x"), (*toy[:2], tmp_path / "x")]
    assert due_now(dataset="other") == [mnist]  # no deployment is of it: what the settings say
    nights.pause_deployment(nights.read_deployment_by_name(f"{EVALUATION}/toys").id)
    assert due_now() == [mnist]
    assert due_now(dataset="toy") == []
    findings = look(tmp_path)
    assert findings["nights of toy/test"].found == "not due: no active schedule"


def test_dates_are_due_by_the_schedules_of_a_night_and_once_they_have_begun(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    later = now + timedelta(minutes=10)
    deploy(client, EVALUATION, "weekly", "30 2 * * 0", folder=tmp_path)
    (weekly,) = due(shell(tmp_path), {}, 3)
    assert [str(day) for day in weekly.dates] == ["2026-01-11", "2026-01-18", "2026-01-25"]
    deploy(client, EVALUATION, "weekly", f"{later.minute} {later.hour} * * *", folder=tmp_path)
    (daily,) = due(load_settings(outputs=tmp_path / "outputs", run_date=now.date()), {}, 1)
    assert daily.dates == ((now if later.date() > now.date() else now - timedelta(days=1)).date(),)
    midnight = "0 0 * * *"  # of the same outputs: whichever is the later date is due
    deploy(client, EVALUATION, "early", midnight, folder=tmp_path)
    (both,) = due(load_settings(outputs=tmp_path / "outputs", run_date=now.date()), {}, 1)
    assert max(both.dates) == now.date()


def test_the_outputs_of_a_night_are_those_of_its_config_file_if_nothing_else_says_so(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_PIPELINE_OUTPUTS", str(tmp_path / "of this shell"))
    (tmp_path / "mine.toml").write_text("outputs = 'elsewhere'\n")
    deploy(client, EVALUATION, "mine", HOUR.format(hour=2), folder=tmp_path, parameters={"config": "mine.toml"})
    (planned,) = scheduled_runs(our_deployments(client))
    assert planned.settings.outputs == tmp_path / "elsewhere"
    assert planned.settings.by_hand == {}
    (tmp_path / "mine.toml").write_text("output = 'elsewhere'\n")
    with pytest.raises(SettingsError, match=f"deployment {EVALUATION}/mine: settings refused: output"):
        scheduled_runs(our_deployments(client))


def test_what_a_schedule_says_of_locations_is_that_of_each_date_in_its_folder(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text("labels = 'labels/{run_date}.csv'\nweights = 'w.npz'\nactivation = 'relu'\n")
    parameters = {"config": "mine.toml", "dataset": "mine", "images": "in/{run_date:%m/%d}"}
    deploy(client, EVALUATION, "mine", HOUR.format(hour=2), folder=tmp_path, parameters=parameters)
    (planned,) = due(shell(tmp_path), {}, 2)
    assert [planned.settings.on(day).images for day in planned.dates] == [tmp_path / "in/01/30", tmp_path / "in/01/31"]
    assert planned.settings.on(planned.dates[0]).labels == tmp_path / "labels" / "2026-01-30.csv"
    assert (planned.settings.weights, planned.settings.activation) == (tmp_path / "w.npz", "relu")
    assert planned.settings.by_hand == {}
    (tmp_path / "in" / "01" / "31").mkdir(parents=True)
    (tmp_path / "in" / "01" / "31" / "a.parquet").touch()
    with pytest.raises(NoDataError, match=rf"30: no data at {tmp_path}/in/01/30 \(images\) and .*/2026-01-30.csv"):
        require_run_dates(planned.settings, planned.dates)
    publish_run(tmp_path / "outputs", identity("2026-01-01", dataset="mine"))
    found = diagnose(load_settings(outputs=tmp_path / "outputs"), tmp_path)
    (nights,) = (each.found for each in found if each.what == "nights of mine/test")
    assert f"no data at {tmp_path}/in/" in nights


def test_the_doctor_looks_at_the_night_of_every_deployment_where_it_publishes(
    nights: SyncPrefectClient, tmp_path: Path
) -> None:
    publish_run(tmp_path / "elsewhere", identity("2026-01-31"))
    promote_to(tmp_path / "elsewhere", random_network())
    (weights,) = (tmp_path / "elsewhere" / "weights").glob("*.safetensors")
    flip_bit(weights)
    found = look(tmp_path)
    where = found["where nights are published"]
    assert (where.healthy, f"toys publishes in {tmp_path / 'elsewhere'}" in where.found) == (None, True)
    assert (found["gates of mnist/test"].healthy, found["gates of toy/test"].healthy) == (True, None)
    assert (found["weights of mnist/test"].healthy, found["weights of toy/test"].healthy) == (True, False)
    assert found["deadline of toy/test"] == Finding("deadline of toy/test", True, f"{DEADLINE}/deadline")
    assert not found["nights of toy/test"].healthy
    assert f"--outputs {tmp_path / 'elsewhere'}" in found["nights of toy/test"].advice
    assert "expected a verdict, got none" in found["newest night of toy/test"].found
    assert found["newest night of mnist/test"].healthy is None


def test_the_doctor_misses_a_deadline_and_what_keeps_a_pool_from_starting_runs(
    nights: SyncPrefectClient, tmp_path: Path
) -> None:
    deadline = nights.read_deployment_by_name(f"{DEADLINE}/deadline")
    nights.pause_deployment(deadline.id)
    nights.update_work_pool("mnist", WorkPoolUpdate(concurrency_limit=0))
    (queue,) = nights.read_work_queues(work_pool_name="mnist")
    nights.update_work_queue(queue.id, is_paused=True)
    found = look(tmp_path)
    assert found["deadline of toy/test"].healthy is False
    assert found["work pool mnist"].advice == "`prefect work-pool clear-concurrency-limit mnist`"
    assert found["work queue mnist/default"].advice == "`prefect work-queue resume 'default' --pool mnist`"
    assert found[f"deployment {DEADLINE}/deadline"].found == "paused by a person"


def test_nobody_who_hears_of_failed_runs_is_a_note(client: SyncPrefectClient) -> None:
    set_up_automations(client, None, timedelta(minutes=10))
    (finding,) = server_checks._notifications(client)
    assert (finding.healthy, finding.advice) == (None, "`mnist-pipeline setup --notify TYPE/NAME`")
    assert client.read_automations_by_name(FAILED_AUTOMATION)


def test_a_backfill_looks_where_its_deployment_publishes_and_says_so(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = {"env": {"MNIST_PIPELINE_OUTPUTS": str(tmp_path / "elsewhere")}}
    deploy(client, EVALUATION, "backfill", folder=tmp_path, job_variables=there)
    publish_run(tmp_path / "elsewhere", identity("2026-01-31", dataset="mnist"))
    words = ["backfill", "--from", "2026-01-31", "--to", "2026-01-31"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"looking into {tmp_path / 'elsewhere'}, where {EVALUATION}/backfill publishes",
        f"not into {tmp_path / 'outputs'}, where the commands of this shell look",
        f"no date is missing in {tmp_path / 'elsewhere'}: nothing to do",
    ]
    given = CliRunner().invoke(app, [*words, "--outputs", str(tmp_path / "outputs")])
    assert given.stdout.startswith(f"started: {EVALUATION}/backfill 2026-01-31 (")
    assert not (tmp_path / "outputs").exists()


def test_a_backfill_that_waits_ends_as_the_worst_of_its_runs(
    client: SyncPrefectClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = deploy(client, EVALUATION, "backfill", folder=tmp_path)

    def ended(*states: Any) -> dict[str, date]:
        runs = {}
        for day, state in enumerate(states, start=1):
            run = client.create_flow_run_from_deployment(deployment)
            client.set_flow_run_state(run.id, state, force=True)
            runs[str(run.id)] = date(2026, 1, day)
        return runs

    good: State[Any]
    rejected: State[Any]
    crashed: State[Any]
    good, rejected, crashed = Completed(), Failed(name=REJECTED, message="fail: min_accuracy"), Crashed(message="gone")
    _wait_for(started := ended(good, good), {day: {} for day in started.values()})
    with pytest.raises(VerdictError, match=r"rejected: 2026-01-02; `mnist-pipeline show DATE`"):
        _wait_for(started := ended(good, rejected), {day: {} for day in started.values()})
    with pytest.raises(EngineError, match="runs without a result: 2026-01-03; look"):
        _wait_for(started := ended(good, rejected, crashed), {day: {} for day in started.values()})
    said = capsys.readouterr().out
    assert "2026-01-02: Rejected: fail: min_accuracy" in said
    assert "ended: 1 Completed, 1 Crashed, 1 Rejected" in said
