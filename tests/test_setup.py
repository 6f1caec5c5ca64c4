"""Set-up and diagnosis against a real server and a real worker."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, State
from prefect.events.actions import ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed, Failed, Scheduled
from pydantic import SecretStr

from mnist_pipeline.core.gates import Gates
from mnist_pipeline.errors import EngineError, SettingsError
from mnist_pipeline.orchestration import deployments
from mnist_pipeline.orchestration.automations import FAILED_AUTOMATION, LOST_AUTOMATION, Change
from mnist_pipeline.orchestration.deployments import POOL
from mnist_pipeline.orchestration.doctor import diagnosis, run_checks, server_checks
from mnist_pipeline.orchestration.doctor.diagnosis import diagnose
from mnist_pipeline.orchestration.doctor.findings import Finding
from mnist_pipeline.orchestration.flow_runs import REJECTED, RejectedError, configured_parameters
from mnist_pipeline.orchestration.scheduled import Due
from mnist_pipeline.pipeline.evaluation import evaluate
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.settings import Settings, load_settings
from tests.builders import images_name, make_split, small_settings
from tests.documents import found
from tests.engine import free_port, in_this_process, running_worker, take_down, wait_until
from tests.published import flip_bit, identity, on_disk, publish_run

pytestmark = pytest.mark.engine

PROJECT = Path(__file__).parents[1]
NIGHTLY, DEADLINE = "mnist-evaluation/nightly", "mnist-deadline/deadline"
MAINTENANCE = "mnist-maintenance/maintenance"
DEPLOYMENTS = {
    *(NIGHTLY, DEADLINE, MAINTENANCE),
    *("mnist-evaluation/adhoc", "mnist-evaluation/backfill", "mnist-training/training"),
}


def set_up(project: Path, notify: str | None = None, **how: Any) -> list[Change]:
    return deployments.set_up(project, project / "nights", notify, **how)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, in which set-up takes the prefect.yaml of the package until a test writes one."""
    return tmp_path_factory.mktemp("project")


@contextmanager
def changed_file(project: Path, *changes: tuple[str, str]) -> Iterator[None]:
    """The prefect.yaml of the package, changed, in the project."""
    text = (PROJECT / "prefect.yaml").read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (project / "prefect.yaml").write_text(text)
    yield
    (project / "prefect.yaml").unlink()


@pytest.fixture(scope="module", autouse=True)
def person(prefect_server: dict[str, str]) -> Iterator[None]:
    """This process, and those it starts, as those of a person whose PREFECT_API_URL is the server's address."""
    with in_this_process(prefect_server):
        yield


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    with deployments.server_in_force() as client:
        yield client


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, outputs=tmp_path / "outputs", cache=tmp_path / "cache")


@pytest.fixture
def look(settings: Settings, project: Path) -> Callable[[], dict[str, Finding]]:
    return lambda: {finding.what: finding for finding in diagnose(settings, project)}


def _states(changes: list[Change]) -> set[str]:
    return {change.state for change in changes}


def _server_state(client: SyncPrefectClient) -> dict[str, Any]:
    """Everything set-up looks after, with its ids and the time of its last change."""
    found: dict[str, Any] = {name: client.read_deployment_by_name(name).model_dump() for name in DEPLOYMENTS}
    for deployment in found.values():
        del deployment["last_polled"], deployment["status"]
    automations = {item.name: item.model_dump() for item in client.read_automations()}
    return found | automations | {"pool": client.read_work_pool(POOL).id}


def _scheduled(client: SyncPrefectClient) -> list[FlowRun]:
    runs: list[FlowRun] = client.read_flow_runs()
    return [run for run in runs if run.state_name == "Scheduled" and run.auto_scheduled]


def test_a_second_set_up_changes_nothing(client: SyncPrefectClient, project: Path) -> None:
    take_down()
    first = set_up(project)
    assert _states(first) == {"created"}
    assert {change.what.removeprefix("deployment ") for change in first} >= DEPLOYMENTS
    before = _server_state(client)
    assert _states(set_up(project)) == {"unchanged"}
    assert _server_state(client) == before
    assert before[NIGHTLY]["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(project)}}
    ]
    assert before[NIGHTLY]["job_variables"]["env"]["MNIST_PIPELINE_OUTPUTS"] == f"{project}/nights"


def test_setup_and_doctor_print_documents(
    client: SyncPrefectClient, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_up(project)
    monkeypatch.chdir(project)
    given = found(f"setup --outputs {project / 'nights'} --project {project}")
    assert {change["state"] for change in given["changes"]} == {"unchanged"}
    assert given["notified"] is False
    checks = found(f"doctor --project {project} --outputs {tmp_path / 'none'}", exit_code=8)["checks"]
    assert {check["state"] for check in checks} == {"ok", "note", "failed"}


def test_what_a_deployment_gives_is_configured_and_what_a_person_gives_is_not(
    client: SyncPrefectClient, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(project)
    assert configured_parameters() is None  # no deployment
    run = client.create_flow_run_from_deployment(client.read_deployment_by_name(NIGHTLY).id, parameters={"split": "x"})
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(run.id))
    assert configured_parameters() == {"split": "test"}
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", str(run.id))  # no such deployment any more
    assert configured_parameters() == {}
    client.delete_flow_run(run.id)


def test_the_server_schedules_runs_of_the_nightly_its_deadline_and_the_maintenance_alone(
    client: SyncPrefectClient, project: Path
) -> None:
    set_up(project)
    names = {client.read_deployment_by_name(name).id: name for name in DEPLOYMENTS}

    def scheduled() -> dict[str, list[FlowRun]]:
        found: dict[str, list[FlowRun]] = {}
        for run in _scheduled(client):
            if run.deployment_id in names:  # a run of another test's deployment may have outlived it
                found.setdefault(names[run.deployment_id], []).append(run)
        return found

    wait_until(lambda: len(scheduled()) == 3, what="scheduled runs", seconds=60)
    for name, hour in ((NIGHTLY, "02:30"), (DEADLINE, "06:00"), (MAINTENANCE, "04:00")):
        runs = scheduled().pop(name)
        starts = [run.expected_start_time for run in runs]
        assert all(start and start > datetime.now(UTC) for start in starts)
        assert {f"{start:%H:%M}" for start in starts} == {hour}
        assert {tag for run in runs for tag in run.tags} >= {"mnist", name.partition("/")[2]}


def test_what_left_prefect_yaml_leaves_the_server_and_what_a_person_has_paused_stays_paused(
    client: SyncPrefectClient, project: Path, look: Callable[[], dict[str, Finding]]
) -> None:
    set_up(project)
    text = (PROJECT / "prefect.yaml").read_text()
    start = text.index("    schedules:\n      # ")
    schedule = text[start : text.index("    concurrency_limit:", start)]
    upkeep, deadline = (client.read_deployment_by_name(name) for name in (MAINTENANCE, DEADLINE))
    client.pause_deployment(deadline.id)
    client.update_deployment_schedule(upkeep.id, upkeep.schedules[0].id, active=False)
    with changed_file(project, (schedule, ""), ('cron: "0 4 * * 0"', 'cron: "0 5 * * 0"')):
        states = {change.what: change.state for change in set_up(project)}
    nightly = client.read_deployment_by_name(NIGHTLY)
    assert nightly.schedules == []
    assert [run for run in _scheduled(client) if run.deployment_id == nightly.id] == []
    paused = {what for what, state in states.items() if state == "paused"}
    assert paused == {f"schedule of {MAINTENANCE}: 0 5 * * 0 UTC", f"deployment {DEADLINE}"}
    pauses = {f"schedule of {MAINTENANCE}: 0 4 * * 0 UTC", f"deployment {DEADLINE}"}

    states = {change.what: change.state for change in set_up(project)}
    assert states[f"deployment {NIGHTLY}"] == states[f"deployment {MAINTENANCE}"] == "updated"
    assert not client.read_deployment_by_name(MAINTENANCE).schedules[0].active
    assert client.read_deployment_by_name(DEADLINE).paused
    findings = look()
    assert findings[f"schedule of {MAINTENANCE}"].found == "paused by a person: 0 4 * * 0 UTC"
    assert findings["deadline of mnist/test"].healthy is False
    assert findings[f"deployment {MAINTENANCE}"].healthy

    assert {change.what for change in set_up(project, resume=True) if change.state == "resumed"} == pauses
    assert client.read_deployment_by_name(MAINTENANCE).schedules[0].active
    assert not client.read_deployment_by_name(DEADLINE).paused
    assert _states(set_up(project)) == {"unchanged"}


def test_a_deployment_that_is_not_in_prefect_yaml_is_named_and_removed_if_asked(
    client: SyncPrefectClient, project: Path, tmp_path: Path, look: Callable[[], dict[str, Finding]]
) -> None:
    set_up(project)
    for name, folder in (("gone", project), ("elsewhere", tmp_path)):
        step = {"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}
        client.create_deployment(client.create_flow_from_name("mnist-training"), name, pull_steps=[step])
    gone = "deployment mnist-training/gone"
    assert [change for change in set_up(project) if change.state == "left"] == [Change(gone, "left")]
    findings = look()
    assert (findings[gone].healthy, findings[gone].advice) == (None, "`mnist-pipeline setup --prune` removes it")
    assert findings["deployment mnist-training/elsewhere"].found == "not in this prefect.yaml: somebody's own"
    assert Change(gone, "removed") in set_up(project, prune=True)
    assert set(look()) & {gone, "deployment mnist-training/elsewhere"} == {"deployment mnist-training/elsewhere"}
    client.delete_deployment(client.read_deployment_by_name("mnist-training/elsewhere").id)


def _with_pool(project: Path, folder: Path, pool: str) -> Path:
    """A copy of the project whose deployments run in another pool."""
    folder.mkdir()
    text = (PROJECT / "prefect.yaml").read_text()
    (folder / "prefect.yaml").write_text(text.replace("&pool\n    name: mnist", f"&pool\n    name: {pool}"))
    return folder


def test_a_pool_of_another_type_is_refused(
    client: SyncPrefectClient, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_work_pool(WorkPoolCreate(name="taken", type="docker"))
    monkeypatch.setattr(deployments, "POOL", "taken")
    with pytest.raises(SettingsError, match=r"work pool taken: expected type process, got docker; .*work-pool delete"):
        set_up(_with_pool(project, tmp_path / "project", "taken"))


@pytest.mark.slow
def test_a_pool_of_another_name_is_somebodys_own_and_is_looked_after_by_the_doctor(
    client: SyncPrefectClient, project: Path, tmp_path: Path, settings: Settings
) -> None:
    elsewhere = _with_pool(project, tmp_path / "project", "own")
    with pytest.raises(SettingsError, match=r"expected `prefect deploy` to take nightly, .* got: .*own"):
        set_up(elsewhere)
    findings = {finding.what: finding for finding in diagnose(settings, elsewhere)}
    assert findings["work pool own"].advice == "`prefect work-pool create own --type ...`"
    client.create_work_pool(WorkPoolCreate(name="own", type="docker"))
    assert "work pool mnist" not in {change.what for change in set_up(elsewhere)}
    findings = {finding.what: finding for finding in diagnose(settings, elsewhere)}
    assert findings["work pool own"].healthy
    assert findings["worker of own"].advice == "`prefect worker start --pool own`"
    set_up(project)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("team", "expected TYPE/NAME"),
        ("slack-webhook/nobody", "no such block"),
        ("secret/quiet", "it cannot send notifications"),
    ],
)
def test_a_block_that_cannot_notify_is_refused(project: Path, block: str, message: str) -> None:
    from prefect.blocks.system import Secret

    Secret(value=SecretStr("x")).save("quiet", overwrite=True, _sync=True)  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match=f"'{block}': {message}"):
        set_up(project, block)


def test_the_automations_are_made_once_and_keep_what_a_person_gave_them(
    client: SyncPrefectClient, project: Path
) -> None:
    from prefect.blocks.notifications import SlackWebhook

    set_up(project)
    (failed,) = client.read_automations_by_name(FAILED_AUTOMATION)
    (lost,) = client.read_automations_by_name(LOST_AUTOMATION)
    assert failed.actions == [DoNothing()]
    assert isinstance(lost.actions[0], ChangeFlowRunState)

    SlackWebhook(url="https://hooks.slack.com/services/A/B/C").save("team", overwrite=True, _sync=True)  # type: ignore[arg-type,call-arg]
    assert "updated" in _states(set_up(project, "slack-webhook/team"))
    client.pause_automation(failed.id)
    assert _states(set_up(project)) == {"unchanged"}
    (kept,) = client.read_automations_by_name(FAILED_AUTOMATION)
    assert kept.id == failed.id
    assert isinstance(kept.actions[0], SendNotification)
    assert not kept.enabled

    client.create_automation(AutomationCore(**lost.model_dump(exclude={"id"})))
    assert "updated" in _states(set_up(project))
    assert len(client.read_automations_by_name(LOST_AUTOMATION)) == 1
    client.delete_automation(failed.id)  # no later test may notify that address


@pytest.mark.parametrize("bad_end", [Crashed(), Failed(name=REJECTED)], ids=["crashed", "rejected"])
def test_a_failed_run_of_ours_sets_the_automation_off_and_another_one_does_not(
    client: SyncPrefectClient, project: Path, bad_end: State[Any]
) -> None:
    set_up(project)
    flow = client.read_flow_by_name("mnist-evaluation")
    ours, other = f"ours {bad_end.name}", f"other {bad_end.name}"
    for name, tags in ((other, ["other"]), (ours, ["mnist"])):
        client.request("POST", "/flow_runs/", json={"flow_id": str(flow.id), "name": name, "tags": tags})
    runs = {run.name: run for run in client.read_flow_runs()}
    for name in (other, ours):  # the one that must not first, so that it has had its time
        client.set_flow_run_state(runs[name].id, bad_end, force=True)
    wait_until(lambda: ours in _set_off(client), what="automation", seconds=60)
    assert other not in _set_off(client)


def _set_off(client: SyncPrefectClient) -> list[str | None]:
    """Names of the runs that set the automation of failed runs off."""
    wanted = {"event": {"name": ["prefect.automation.triggered"]}}
    events = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
    return [
        event["payload"]["triggering_event"]["resource"].get("prefect.resource.name")
        for event in events
        if event["resource"]["prefect.resource.name"] == FAILED_AUTOMATION
    ]


@pytest.mark.slow  # Prefect misses it after three heartbeats
def test_the_doctor_misses_a_worker_that_has_ended(
    prefect_server: dict[str, str], project: Path, look: Callable[[], dict[str, Finding]]
) -> None:
    set_up(project)
    with running_worker(prefect_server, POOL):
        wait_until(lambda: look()["worker of mnist"].healthy is True, what="a worker", seconds=60)
    wait_until(lambda: not look()["worker of mnist"].healthy, what="a worker missed", seconds=60)
    assert look()["worker of mnist"].advice == "`prefect worker start --pool mnist`"


def test_the_doctor_names_the_next_command_for_whatever_is_taken_away(
    client: SyncPrefectClient, project: Path, look: Callable[[], dict[str, Finding]]
) -> None:
    set_up(project)
    nightly = client.read_deployment_by_name(NIGHTLY)
    scheduled = datetime(2026, 1, 31, 2, 30, tzinfo=UTC)
    late = client.create_flow_run_from_deployment(nightly.id, state=Scheduled(scheduled_time=scheduled, name="Late"))
    client.delete_deployment_schedule(nightly.id, nightly.schedules[0].id)
    limit = nightly.global_concurrency_limit
    assert limit is not None
    client.update_global_concurrency_limit(limit.name, GlobalConcurrencyLimitUpdate(active_slots=1))
    client.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))
    findings = look()
    assert "(2026-01-31 02:30 UTC)" in findings["late runs"].found
    assert findings[f"schedule of {NIGHTLY}"].advice == "`mnist-pipeline setup`"
    assert "schedules" in findings[f"deployment {NIGHTLY}"].found
    leaked = findings[f"concurrency slots of {NIGHTLY}"]
    assert (leaked.healthy, leaked.advice) == (False, f"`prefect gcl update '{limit.name}' --active-slots 0`")
    assert findings["work pool mnist"].advice == "`prefect work-pool resume mnist`"

    client.delete_flow_run(late.id)
    client.update_global_concurrency_limit(limit.name, GlobalConcurrencyLimitUpdate(active_slots=0))
    client.delete_work_pool(POOL)
    findings = look()
    assert findings["work pool mnist"].advice == "`mnist-pipeline setup`"
    assert findings["worker of mnist"].advice == "`mnist-pipeline setup`, then `prefect worker start --pool mnist`"
    set_up(project)
    findings = look()
    for what in ("work pool mnist", f"deployment {NIGHTLY}", f"concurrency slots of {NIGHTLY}", "late runs"):
        assert findings[what].healthy, what
    assert findings["worker of mnist"].advice == "`prefect worker start --pool mnist`"


def test_a_schedule_service_that_plans_nothing_is_found_out(
    client: SyncPrefectClient, project: Path, look: Callable[[], dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(project)
    monkeypatch.setattr(server_checks, "_runs", lambda *_, **__: [])
    finding = look()[f"schedule of {NIGHTLY}"]
    assert not finding.healthy
    assert "pip check" in finding.advice


def test_without_a_server_set_up_is_refused_and_the_doctor_says_how_to_start_one(
    project: Path, look: Callable[[], dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setattr(deployments, "START_SECONDS", 1)
    with temporary_settings({PREFECT_API_URL: unreachable, PREFECT_CLIENT_MAX_RETRIES: 0}):
        with pytest.raises(EngineError, match=f"{unreachable}: expected an answer, .*`prefect server start`"):
            set_up(project)
        findings = look()
        assert findings["server"] == Finding(
            "server", False, f"{unreachable} does not answer", "`prefect server start` on the machine it names"
        )
        assert findings["work pools"].found == "not checked: needs the server"
        assert findings["outputs"].healthy
    monkeypatch.setattr(deployments, "LOCAL_SERVER", unreachable)
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}, restore_defaults={PREFECT_API_URL}):
        assert "prefect config set PREFECT_API_URL=" in look()["server"].advice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deployments: {", "expected deployments"),
        ("pull: []", "expected deployments"),
        ("deployments: [{name: x, entrypoint: nowhere.py:nothing}]", "deployment x: cannot load nowhere.py:nothing"),
    ],
)
def test_a_prefect_yaml_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        set_up(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_outputs_that_cannot_be_written_are_found_out(settings: Settings) -> None:
    on_disk(settings.outputs).mkdir(mode=0o500)
    (finding,) = run_checks.check_writable(settings.outputs)
    assert not finding.healthy
    assert "ls -ld" in finding.advice


def test_outputs_that_are_a_file_and_a_full_disk_are_found_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk(settings.outputs).write_text("not a folder")
    (finding,) = run_checks.check_writable(settings.outputs)
    assert not finding.healthy
    monkeypatch.setattr(run_checks, "MIN_FREE_BYTES", 1 << 60)
    (finding,) = run_checks.check_disk(settings.outputs)
    assert not finding.healthy
    assert "du -sh" in finding.advice


def test_a_damaged_file_in_the_cache_is_found_out(settings: Settings) -> None:
    make_split(settings.cache / "mnist", 3)
    (finding,) = run_checks._cache(settings)
    assert not finding.healthy
    assert images_name() in finding.found
    assert finding.advice.startswith("`mnist-pipeline fetch --dataset mnist --split test`")


def test_libraries_outside_their_bounds_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    assert {finding.healthy for finding in diagnosis._versions()} == {False}
    assert any("'prefect<3.10,>=3.9.1'" in finding.advice for finding in diagnosis._versions())


def test_nights_that_are_due_and_not_published_or_damaged_are_found_out(settings: Settings) -> None:
    last = datetime.now(UTC).date()
    days = [last - timedelta(days=ago) for ago in (3, 2, 1, 0)]

    def look(due: list[date]) -> list[Finding]:
        return list(run_checks._recent_run_dates(Due(settings, tuple(due))))

    (finding,) = look(days)
    assert (finding.healthy, "none due yet" in finding.found) == (None, True)
    publish_run(settings.outputs, identity(str(days[0]), dataset="mnist", batch_rows=9), counts=False)  # by hand
    publish_run(settings.outputs, identity(str(days[1]), dataset="mnist"))
    (finding,) = look(days)
    assert finding.found == f"no published run that counts of {days[2]}, {days[3]} in {settings.outputs}"
    where = f"--dataset mnist --split test --from {days[2]} --to {days[3]} --outputs {settings.outputs}"
    assert finding.advice == f"`mnist-pipeline backfill {where}`"
    damaged = publish_run(settings.outputs, identity(str(days[2]), dataset="mnist"))
    (finding,) = look(days[:3])  # the last is not due
    assert finding.healthy
    flip_bit(damaged.folder / "manifest.json")
    (finding,) = look(days[:3])
    assert not finding.healthy
    assert "expected a run's manifest" in finding.found
    (finding,) = look([])
    assert (finding.healthy, finding.found) == (None, "not due: no active schedule")


def test_a_newest_night_that_fails_its_gates_or_was_not_judged_is_found_out(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, gates={"toy": Gates(min_images=30)})
    (finding,) = run_checks._newest_verdict(settings)
    assert (finding.healthy, finding.found) == (None, f"none yet in {settings.outputs}")
    judged = run_nightly(settings)
    (finding,) = run_checks._newest_verdict(settings)
    assert (finding.healthy, finding.found) == (False, judged.line)
    where = f"{judged.published.run_id} --outputs {settings.outputs}"
    assert finding.advice == f"`mnist-pipeline show {where}`, or its report, has the gates that failed"
    evaluate(settings.model_copy(update={"batch_rows": 5}))
    (finding,) = run_checks._newest_verdict(settings)
    assert (finding.healthy, "expected a verdict, got none" in finding.found) == (False, True)
    for rows, gates in ((6, {"toy": Gates(min_images=20)}), (7, {"toy": Gates(max_flips_unchanged=None)})):
        judged = run_nightly(settings.model_copy(update={"batch_rows": rows, "gates": gates}))
        (finding,) = run_checks._newest_verdict(settings)
        assert (finding.healthy, finding.found) == (True, judged.line)
    assert ": none: nothing was judged" in finding.found


def test_what_prefect_raises_for_a_rejected_night_can_be_sent_to_another_process(tmp_path: Path) -> None:
    judged = run_nightly(small_settings(tmp_path, gates={"toy": Gates(min_images=30)}))
    error = pickle.loads(pickle.dumps(RejectedError(judged)))
    assert str(error) == judged.line
    assert error.judged.verdict == judged.verdict
