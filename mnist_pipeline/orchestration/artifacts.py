"""Creates the artifacts of a run in Prefect's UI: a summary, the per-digit table, the confusion matrix.

Keyed by data set and split, so that the UI groups the runs of each. A view: the published files are the record.
"""

import re
from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from mnist_pipeline.core.images import DIGITS
from mnist_pipeline.errors import printable
from mnist_pipeline.maintenance.verification import Verified
from mnist_pipeline.pipeline.evaluation import Published
from mnist_pipeline.pipeline.judging import Judged
from mnist_pipeline.report.terminal import accuracy_cell, accuracy_line, not_counted_line, score_cells
from mnist_pipeline.runs import layout
from mnist_pipeline.settings import Settings


def _text(value: object) -> str:
    """A text from outside in Markdown: one line of it, of which no character means anything."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~])", r"\\\1", printable(value))


def _code(value: object) -> str:
    """The same as code, in which nothing can be escaped."""
    return f"`{printable(value).translate({ord(each): None for each in '`|'})}`"


def show_judged(settings: Settings, judged: Judged) -> None:
    """Create the three artifacts of a run in the current flow run.

    Args:
        settings: where its pages are, and whether it has a report.
        judged: the run.
    """
    published = judged.published
    identity, totals = published.identity, published.totals
    key = f"{identity.dataset}-{identity.split}".replace("_", "-")
    accuracy = accuracy_cell(totals.accuracy, totals.labelled, totals.images) if totals.labelled else "no labels"
    shown = f"{identity.run_date}: {accuracy}, {judged.verdict.outcome} ({published.run_id})"
    create_markdown_artifact(_summary(settings, judged), key=f"{key}-summary", description=shown)
    create_table_artifact(_digits(published), key=f"{key}-digits", description=shown)
    create_table_artifact(_confusion(published), key=f"{key}-confusion", description=shown)


def show_maintained(outputs: str, verified: Sequence[Verified], pruned: str) -> None:
    """Create the artifact of a maintenance run: what was verified, what is damaged, what was pruned."""
    damaged = [problem for each in verified for problem in each.problems]
    lines = [
        f"## Maintenance of {_code(outputs)}",
        "",
        *(f"- {each.line}" for each in verified),
        *(f"- **damaged** {_text(problem)}" for problem in damaged),
        f"- {pruned}",
    ]
    found = f"{len(damaged)} damaged" if damaged else "nothing damaged"
    if not any(each.checked for each in verified):
        found = "nothing there to verify"
    create_markdown_artifact("\n".join(lines) + "\n", key="maintenance", description=f"{found}; {pruned}")


def _summary(settings: Settings, judged: Judged) -> str:
    published, verdict, identity = judged.published, judged.verdict, judged.published.identity
    totals = published.totals
    not_passed = [result for result in verdict.results if result.outcome != "pass"]
    facts = {
        "run": f"`{published.run_id}`",
        "published": "by this flow run" if published.new else "before, with the same predictions",
        "files": _code(published.folder),
        # As text: a page that was loaded over http may not link to a file.
        **({"report": _code(settings.outputs / layout.report(published.run_id))} if settings.report else {}),
        "all nights": _code(settings.outputs / layout.INDEX),
        "verdict": f"`{verdict.verdict_id}`",
        **{_text(reference.against): _code(reference.run_id) for reference in verdict.references},
        "architecture": published.architecture,
        "weights sha256": f"`{identity.weights_sha256}`",
        "images sha256": f"`{identity.images_sha256}`",
        "labels sha256": f"`{identity.labels_sha256}`" if identity.labels_sha256 else "no labels",
        "batch rows": identity.batch_rows,
        "shard rows": identity.shard_rows,
    }
    lines = [
        f"## {identity.dataset}/{identity.split}, night of {identity.run_date}: {verdict.outcome}",
        "",
        f"**{accuracy_line(totals.correct, totals.labelled, totals.images)}**",
        "",
        *(f"- **{result.outcome}** {_code(result.gate)}: {_text(result.reason)}" for result in not_passed),
        *(["- nothing was judged"] if verdict.outcome == "none" else []),
        *(f"- {_text(note)}" for note in verdict.notes),
        *([f"- {not_counted_line(published.run_id, published.by_hand)}"] if published.by_hand else []),
        "",
        "| what | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
    ]
    return "\n".join(lines) + "\n"


def _digits(published: Published) -> list[dict[str, Any]]:
    """The score of each digit, or without labels how often it was predicted."""
    if published.totals.labelled:
        return [score_cells(score) for score in published.scores]
    return [{"digit": str(score.digit), "predicted": f"{score.predicted:,}"} for score in published.scores]


def _confusion(published: Published) -> list[dict[str, Any]]:
    """Predictions by label; in a row of their own those of images without one."""
    confusion, counts = published.tally.confusion.tolist(), published.tally.unlabelled.tolist()
    rows: list[dict[str, Any]] = []
    if published.totals.labelled:
        rows += [
            {"label": str(label)} | {f"-> {digit}": confusion[label][digit] for digit in range(DIGITS)}
            for label in range(DIGITS)
        ]
    if any(counts):
        rows.append({"label": "none"} | {f"-> {digit}": counts[digit] for digit in range(DIGITS)})
    return rows
