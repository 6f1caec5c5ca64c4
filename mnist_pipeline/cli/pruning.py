"""The command that makes space: prune."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_pipeline.cli.console import opened
from mnist_pipeline.cli.options import Given, command
from mnist_pipeline.cli.printing import conclude, out, print_table
from mnist_pipeline.errors import RunNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_pipeline.cli.results.work import PruneResult
    from mnist_pipeline.maintenance.orphans import Orphan
    from mnist_pipeline.maintenance.pruning import Prune
    from mnist_pipeline.settings import Settings

CONFIGURED = "If left out, that of the config's table retention, or"


@command("outputs")
def prune(
    given: Given,
    keep_days: Annotated[
        int | None,
        typer.Option(min=1, max=36_500, help=f"Keep the runs of the last N days. {CONFIGURED} 90.", metavar="N"),
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option(min=1, help=f"Keep the last M runs of each data set and split. {CONFIGURED} 7.", metavar="M"),
    ] = None,
    grace_hours: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=87_600,
            help=f"Hours between marking a run and deleting its predictions and report. {CONFIGURED} 24.",
            metavar="HOURS",
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply/--dry-run", help="Apply the changes; otherwise only list them.")
    ] = False,
) -> None:
    """Delete predictions and reports of old runs, and orphaned files; without --apply only list them.

    Manifests, summaries, verdicts and the history stay.

    Prune marks a run first; the first prune HOURS later deletes its predictions and report.

    Always kept: the latest run, the last that passed or had nothing judged, the baseline, just published runs.
    """
    from mnist_pipeline.maintenance.orphans import Inventory
    from mnist_pipeline.maintenance.pruning import carry_out
    from mnist_pipeline.pipeline.housekeeping import plan_by
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.lookup import list_runs
    from mnist_pipeline.settings import RetentionSettings

    settings = given.load()
    if not list_runs(opened(settings)):
        raise RunNotFoundError(f"{settings.outputs}: expected published runs, got none; check the folder given")
    options = {"keep_days": keep_days, "keep_last": keep_last, "grace_hours": grace_hours}
    configured = settings.retention or RetentionSettings(keep_days=90)
    rule = configured.model_copy(update={name: value for name, value in options.items() if value is not None})
    now = datetime.now(UTC)
    plan = plan_by(rule, opened(settings), now)
    left = carry_out(opened(settings), plan, now) if apply else []  # before a closed terminal can interrupt it
    after = sum(Inventory.take(opened(settings)).use_bytes().values()) if apply else None
    conclude(_pruned(settings, plan, left, after))
    rows = [
        (decision.run.name.run_id, terminal.size(decision.size_bytes), decision.action, decision.why)
        for decision in plan.decisions
    ]
    print_table(lambda width: terminal.decisions_table(rows, width))
    for what, orphans in (("unused shards", plan.shards), ("orphan", plan.staging)):
        for orphan in orphans:
            path = terminal.path_line(settings.outputs / orphan.name)
            out.print(f"delete {what}: {path} ({terminal.size(orphan.size_bytes)})")
    before = sum(plan.use_bytes.values())
    use = ", ".join(f"{name} {terminal.size(size_bytes)}" for name, size_bytes in plan.use_bytes.items())
    out.print(f"disk use before: {terminal.size(before)}: {use}")
    counts = ", ".join(f"{action} {len(plan.of(action))}" for action in ("mark", "delete", "restore"))
    if after is None:
        free = terminal.size(plan.frees_bytes)
        out.print(f"{counts}; would free {free}; nothing is changed without --apply")
        return
    for line in left:
        out.print(f"left alone: {line}")
    out.print(f"done: {counts}; disk use now: {terminal.size(after)}")


def _pruned(settings: "Settings", plan: "Prune", left: "Sequence[str]", after: int | None) -> "PruneResult":
    from mnist_pipeline.cli.results.work import OrphanFacts, PruneDecisionFacts, PruneResult

    def located(orphans: "Sequence[Orphan]") -> tuple[OrphanFacts, ...]:
        return tuple(
            OrphanFacts(path=str(settings.outputs / each.name), size_bytes=each.size_bytes) for each in orphans
        )

    return PruneResult(
        applied=after is not None,
        runs=tuple(
            PruneDecisionFacts(
                run_id=each.run.name.run_id,
                action=each.action,
                why=each.why,
                size_bytes=each.size_bytes,
                prunable_bytes=each.prunable_bytes,
            )
            for each in plan.decisions
        ),
        unused_shards=located(plan.shards),
        orphans=located(plan.staging),
        left_alone=tuple(left),
        frees_bytes=plan.frees_bytes,
        use_bytes_before=dict(plan.use_bytes),
        use_bytes_after=after,
    )
