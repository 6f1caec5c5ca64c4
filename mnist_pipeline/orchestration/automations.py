"""Creates and updates the automations that report failed runs and end lost ones; finds the block that notifies."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypesOrUnknown, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from mnist_pipeline.errors import SettingsError
from mnist_pipeline.orchestration.flow_runs import REJECTED

TAG = "mnist"  # of every run of prefect.yaml's deployments
FAILED_AUTOMATION = "mnist: run failed, crashed or rejected"
LOST_AUTOMATION = "mnist: run lost its heartbeat"
# A run sends a heartbeat every 180 seconds unless PREFECT_FLOWS_HEARTBEAT_FREQUENCY is set: three heartbeats and a
# minute. The 90 seconds of Prefect's own example would mark every longer run as crashed.
HEARTBEAT_LOST = timedelta(minutes=10)
# Events carry the state's name, not its type: a run that ends as Rejected sends no "Failed".
_BAD_ENDS = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", REJECTED)}
_ENDED = _BAD_ENDS | {f"prefect.flow-run.{state}" for state in ("Completed", "Cancelled")}
_HEARTBEAT = "prefect.flow-run.heartbeat"
_OUR_RUNS: dict[str, str | list[str]] = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}

State = Literal["created", "updated", "unchanged", "paused", "resumed", "left", "removed"]


@dataclass(frozen=True)
class Change:
    """One object on the server, and what set-up did to it; `paused` and `left` are what it left alone."""

    what: str
    state: State


def find_block(client: SyncPrefectClient, notify_block: str) -> SendNotification:
    """The action that notifies through the block TYPE/NAME.

    Raises:
        SettingsError: it is not of that form, does not exist, or cannot notify.
    """
    slug, _, name = notify_block.partition("/")
    known = "see those there are with `prefect block ls`, or make one in the UI under Blocks"
    if not slug or not name:
        raise SettingsError(
            f"notification block {notify_block!r}: expected TYPE/NAME, as in slack-webhook/team; {known}"
        )
    try:
        found = client.read_block_document_by_name(name, slug, include_secrets=False)
    except ObjectNotFound as error:
        raise SettingsError(f"notification block {notify_block!r}: no such block on the server; {known}") from error
    if found.block_schema is None or "notify" not in found.block_schema.capabilities:
        raise SettingsError(f"notification block {notify_block!r}: it cannot send notifications; {known}")
    return SendNotification(
        block_document_id=found.id,
        subject="{{ flow.name }}: {{ flow_run.name }} is {{ flow_run.state.name }}",
        body="{{ flow_run.state.message }}\n\nRun: {{ flow_run|ui_url }}\nNext: mnist-pipeline doctor",
    )


def set_up_automations(client: SyncPrefectClient, block: SendNotification | None, lost: timedelta) -> list[Change]:
    """Create or update both automations; without a block that of failed runs keeps what it does."""
    notify: list[ActionTypesOrUnknown] = [block] if block else [DoNothing()]
    return [
        _set_up(client, _on_failure(notify), keep_actions=block is None),
        _set_up(client, _on_lost_heartbeat(lost), keep_actions=False),
    ]


def notified(client: SyncPrefectClient) -> bool:
    """Whether the automation of failed runs does anything, and is switched on."""
    found = client.read_automations_by_name(FAILED_AUTOMATION)
    return any(each.enabled and any(not isinstance(action, DoNothing) for action in each.actions) for each in found)


def _on_failure(actions: list[ActionTypesOrUnknown]) -> AutomationCore:
    return AutomationCore(
        name=FAILED_AUTOMATION,
        description=f"Reports failed, crashed and rejected runs tagged {TAG}. Kept by `mnist-pipeline setup`.",
        trigger=EventTrigger(
            expect=_BAD_ENDS,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_OUR_RUNS,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=actions,
    )


def _on_lost_heartbeat(lost: timedelta) -> AutomationCore:
    """As in Prefect's guide to zombie flows: after a heartbeat comes neither another one nor a final state."""
    return AutomationCore(
        name=LOST_AUTOMATION,
        description=f"Marks runs tagged {TAG} as crashed when their process is gone. Kept by `mnist-pipeline setup`.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT} | _ENDED,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_OUR_RUNS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=lost,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,  # the default name of the state
                force=False,
                state=StateType.CRASHED,
                message=f"No heartbeat for {lost.total_seconds():.0f} seconds: its process is gone.",
            )
        ],
    )


def _set_up(client: SyncPrefectClient, wanted: AutomationCore, keep_actions: bool) -> Change:
    """Create or update the automation of that name, and remove others of the same name.

    Keeps it enabled or disabled, so that a user can disable it in the UI.
    """
    what = f"automation {wanted.name!r}"
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return Change(what, "created")
    kept, *others = found
    for other in others:
        client.delete_automation(other.id)
    wanted.enabled = kept.enabled
    if keep_actions:
        wanted.actions = kept.actions
    same = (kept.description, kept.trigger, kept.actions) == (wanted.description, wanted.trigger, wanted.actions)
    if not same:
        client.update_automation(kept.id, wanted)
    return Change(what, "unchanged" if same and not others else "updated")
