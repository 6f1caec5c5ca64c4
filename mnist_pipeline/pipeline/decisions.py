"""Records what a person decides of a published run, and brings the views and its report up to date with it."""

from datetime import UTC, datetime
from typing import Literal

from mnist_pipeline import tables
from mnist_pipeline.errors import SettingsError, has_secrets, shown
from mnist_pipeline.index import try_index
from mnist_pipeline.pipeline.reporting import try_report
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.decisions import Decision, record_decision
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.store.base import exists
from mnist_pipeline.views import update_views

MAX_REASON = 200  # characters


def decide(outputs: Outputs, run: Run, standing: Literal["accepted", "withdrawn"], reason: str) -> Decision:
    """Accept or withdraw a run from now on; verdicts that were given before stay as they are.

    Raises:
        SettingsError: the reason is empty, of several lines, longer than 200 characters, or holds a password.
        DamagedError: the run's manifest is missing or altered.
        OutputsError: the outputs folder cannot be written.
    """
    if not reason.strip() or len(reason) > MAX_REASON or not reason.isprintable():
        raise SettingsError(
            f"reason {shown(reason, 40)}: expected one line of 1 to {MAX_REASON} characters, got {len(reason)}; "
            "say in a few words why"
        )
    if has_secrets(reason):
        raise SettingsError(
            "reason: expected no address with a user name, password or query, got one; leave them out: the reason is "
            "kept and shown with the run"
        )
    content = run.manifest().content
    decision = Decision(
        schema_version=tables.SCHEMA_VERSION,
        run_id=content.run_id,
        run_sha256=content.sha256,
        standing=standing,
        reason=reason.strip(),
        decided_at=datetime.now(UTC),
    )
    record_decision(outputs, decision)
    update_views(outputs, run.name.run_id)
    if exists(outputs.store, layout.report(run.name.run_id)):
        try_report(outputs, run.name.run_id)
    else:
        try_index(outputs, run.name.run_id)
    return decision
