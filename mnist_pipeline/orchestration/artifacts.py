"""What a run shows in Prefect's UI: a summary, the per-digit table, the confusion matrix.

Keyed by data set and split, so that the UI lines up the nights of each. The published files are the record;
these are a view of them.
"""

from dataclasses import asdict
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from mnist_pipeline.core.images import DIGITS
from mnist_pipeline.report.terminal import accuracy_line
from mnist_pipeline.stages import Published


def show_published(published: Published) -> None:
    """Create the three artifacts of a run in the flow run in progress."""
    identity = published.identity
    key = f"{identity.dataset}-{identity.split}".replace("_", "-")
    create_markdown_artifact(_summary(published), key=f"{key}-summary", description=published.run_id)
    create_table_artifact(
        [_rounded(asdict(score)) for score in published.scores], key=f"{key}-digits", description=published.run_id
    )
    create_table_artifact(_confusion(published), key=f"{key}-confusion", description=published.run_id)


def _summary(published: Published) -> str:
    identity = published.identity
    facts = {
        "run": f"`{published.run_id}`",
        "published": "now" if published.new else "before, with the same predictions",
        "files": f"`{published.folder}`",
        "weights sha256": f"`{identity.weights_sha256}`",
        "images sha256": f"`{identity.images_sha256}`",
        "labels sha256": f"`{identity.labels_sha256}`" if identity.labels_sha256 else "no labels",
        "batch rows": identity.batch_rows,
        "shard rows": identity.shard_rows,
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    title = f"# {identity.dataset}/{identity.split}, night of {identity.run_date}"
    return (
        f"{title}\n\n{accuracy_line(published.totals.correct, published.totals.labelled)}\n\n| | |\n|---|---|\n{rows}\n"
    )


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def _confusion(published: Published) -> list[dict[str, Any]]:
    confusion = published.tally.confusion.tolist()
    rows: list[dict[str, Any]] = [
        {"label": str(label)} | {f"-> {digit}": confusion[label][digit] for digit in range(DIGITS)}
        for label in range(DIGITS)
    ]
    if published.tally.unlabelled.any():
        counts = published.tally.unlabelled.tolist()
        rows.append({"label": "none"} | {f"-> {digit}": counts[digit] for digit in range(DIGITS)})
    return rows
