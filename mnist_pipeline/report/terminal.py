"""Terminal output of the commands: rich tables, and digits drawn in half blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from mnist_pipeline.core.gates import WORST_FIRST, GateResult, Outcome, Reference
from mnist_pipeline.core.images import SIDE
from mnist_pipeline.core.intervals import chance_note, wilson
from mnist_pipeline.core.tally import DigitScore
from mnist_pipeline.report.picture import Picture, sure

CELL_GAP = 2
INK = 96  # pixels at least this bright are drawn
BLOCKS = " ▄▀█"
OUTCOME_STYLES: dict[Outcome, str] = {"fail": "bold red", "inconclusive": "yellow", "pass": "green", "none": "dim"}


LEFT_OUT_FIRST = ("weights", "published_at", "images")  # of the columns of `runs_table`


@dataclass(frozen=True)
class RunLine:
    """One line of the list of published runs, as text; `weights` is the start of their sha256."""

    run_id: str
    images: str
    accuracy: str
    verdict: str
    weights: str
    published_at: str


def percent(share: float | None) -> str:
    """A share 0..1 as a percentage with two decimals; a dash for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


def accuracy_line(correct: int, labelled: int) -> str:
    """Overall accuracy with its 95 % Wilson interval, in one line."""
    interval = wilson(correct, labelled)
    if interval is None:
        return "no labels: predictions without accuracy"
    found = (
        f"accuracy {percent(correct / labelled)} ({correct:,} of {labelled:,}), "
        f"95 % interval {percent(interval.low)} to {percent(interval.high)}"
    )
    return ": ".join(filter(None, (found, chance_note(correct, labelled))))


def chance_suffix(correct: int, labelled: int) -> str:
    """What the first line of a run ends with if its accuracy may be that of guessing; else nothing."""
    note = chance_note(correct, labelled)
    return f" (accuracy {note})" if note else ""


def not_counted_line(run_id: str, by_hand: Sequence[str] = ()) -> str:
    """That a run is not the night of its date, why, and how it becomes that, in one line."""
    what = ", ".join(by_hand) or "weights or settings"
    return f"not counted, as {what} were given by hand; `mnist-pipeline accept {run_id} --reason TEXT` counts it"


def digits_table(scores: Sequence[DigitScore]) -> Table:
    """The per-digit table: scores, or without labels how often each digit was predicted."""
    return _scores_table(scores) if any(score.images for score in scores) else _predicted_table(scores)


def _predicted_table(scores: Sequence[DigitScore]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in ("digit", "predicted"):
        table.add_column(heading, justify="right", no_wrap=True)
    for score in scores:
        table.add_row(str(score.digit), f"{score.predicted:,}")
    return table


def score_cells(score: DigitScore) -> dict[str, str]:
    """A row of the per-digit table as text, by heading."""
    low, high, wrong = score.accuracy_low, score.accuracy_high, score.top_wrong_prediction
    return {
        "digit": str(score.digit),
        "images": f"{score.images:,}",
        "correct": f"{score.correct:,}",
        "accuracy": percent(score.accuracy),
        "95 % interval": "-" if low is None or high is None else f"{100 * low:.2f}-{100 * high:.2f}",
        "precision": percent(score.precision),
        "f1": "-" if score.f1 is None else f"{score.f1:.3f}",
        "mean conf.": "-" if score.mean_confidence is None else f"{score.mean_confidence:.3f}",
        "taken for": "-" if wrong is None else f"{wrong} ({score.top_wrong_count:,}x)",
    }


def _scores_table(scores: Sequence[DigitScore]) -> Table:
    """The per-digit table, at most 80 characters wide up to 999,999 images of a digit."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    rows = [score_cells(score) for score in scores]
    for heading in rows[0]:
        # Break headings into two lines: the last two columns are narrower than theirs.
        table.add_column(heading if "%" in heading else heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    return table


def runs_table(rows: Sequence[RunLine], width: int) -> Table:
    """The table of published runs, without the columns that do not fit into `width` characters."""
    headings = {"run_id": "run", "published_at": "published (UTC)"}
    cells = {
        field.name: [headings.get(field.name, field.name), *(getattr(row, field.name) for row in rows)]
        for field in fields(RunLine)
    }
    for name in LEFT_OUT_FIRST:
        if sum(2 + max(map(len, column)) for column in cells.values()) - 1 > width:  # padding and rules included
            del cells[name]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name, (heading, *_) in cells.items():
        justify: JustifyMethod = "right" if name in ("images", "accuracy") else "left"
        table.add_column(heading, justify=justify, no_wrap=name != "run_id", overflow="fold")
    for row in rows:
        table.add_row(*(getattr(row, name) for name in cells))
    return table


def decisions_table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    """The prune decisions: run_id, size, action, reason. At most 80 characters wide for MNIST's run_ids."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("action", no_wrap=True)
    table.add_column("because", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def size(size_bytes: int) -> str:
    """A human-readable number of bytes: `1.3 MB`."""
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:,.1f} kB"


def digit_blocks(image: NDArray[np.uint8]) -> Text:
    """Draw one image `[28, 28]` uint8 as 14 lines of half blocks, two pixels a character, in the terminal's colours."""
    ink = image >= INK
    rows = zip(ink[0::2], ink[1::2], strict=True)
    return Text("\n".join("".join(BLOCKS[2 * top + bottom] for top, bottom in zip(*row, strict=True)) for row in rows))


def columns_that_fit(width: int) -> int:
    """The number of drawn digits that fit side by side into `width` characters; at least 1."""
    return max(1, width // (SIDE + CELL_GAP))


def digits_grid(images: Sequence[NDArray[np.uint8]], captions: Sequence[str], columns: int) -> Table:
    """A grid of images `[28, 28]` uint8 with their captions, `columns` per row."""
    grid = Table.grid(padding=(0, CELL_GAP))
    cells = [Group(Text(caption), digit_blocks(image)) for image, caption in zip(images, captions, strict=True)]
    for start in range(0, len(cells), columns):
        grid.add_row(*cells[start : start + columns])
    return grid


def images_table(pictures: Sequence[Picture]) -> Table:
    """One line for each image: image_id, label, prediction; of changed ones also the prediction before.

    At most 60 characters wide up to image 9,999,999.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    changed = any(picture.before is not None for picture in pictures)
    for heading in ("image_id", "label", "prediction", *(("before", "direction") if changed else ())):
        table.add_column(heading, justify="left" if heading == "direction" else "right", no_wrap=True)
    for picture in pictures:
        before, sure_before = picture.before, picture.confidence_before
        cells = [
            str(picture.image_id),
            "-" if picture.label is None else str(picture.label),
            f"{picture.prediction} ({sure(picture.confidence)})",
            "-" if before is None or sure_before is None else f"{before} ({sure(sure_before)})",
            picture.direction or "",
        ]
        table.add_row(*cells[: len(table.columns)])
    return table


def path_line(path: PurePath) -> str:
    """A path to display: relative if it is below the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # another folder, or the current one was deleted
        return str(path)


def verdict_lines(
    outcome: Outcome, results: Sequence[GateResult], references: Sequence[Reference], notes: Sequence[str]
) -> list[Text]:
    """The lines of a verdict: outcome, each gate that did not pass with its reason, references, notes."""
    passed = sum(result.outcome == "pass" for result in results)
    judged = f"{passed} of {len(results)} gates passed" if results else "nothing was judged"
    lines = [Text(f"verdict: {outcome}", OUTCOME_STYLES[outcome]).append(f" ({judged})", "")]
    for result in sorted(results, key=lambda result: WORST_FIRST.index(result.outcome)):
        if result.outcome != "pass":
            lines.append(Text(f"  {result.outcome}  {result.gate}: {result.reason}", OUTCOME_STYLES[result.outcome]))
    lines += [Text(f"  {reference.against}: {reference.run_id}") for reference in references]
    return [*lines, *(Text(f"  {note}") for note in notes)]


def changes_line(reference: Reference) -> str:
    """One line: whether two runs share images and weights, and how many predictions changed."""
    weights = "the same weights" if reference.same_weights else "different weights"
    if reference.changed is None:
        return f"different images, {weights}"
    return f"the same images, {weights}; predictions changed: {reference.changed:,}"


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The comparison table, from its rows: all digits together, then each digit."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for heading in ("digit", "images", "lost", "gained", "points", "95 % interval", "p", "(Holm)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        low, high, p_holm = row["low"], row["high"], row["p_holm"]
        table.add_row(
            "all" if row["digit"] is None else str(row["digit"]),
            f"{row['images']:,}",
            "-" if row["lost"] is None else f"{row['lost']:,}",
            "-" if row["gained"] is None else f"{row['gained']:,}",
            "-" if row["difference"] is None else f"{100 * row['difference']:+.2f}",
            "-" if low is None else f"{100 * low:+.2f} to {100 * high:+.2f}",
            _p_value(row["p"]),
            "" if p_holm is None else f"({_p_value(p_holm)})",
        )
    return table


def _p_value(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
