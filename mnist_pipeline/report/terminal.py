"""Terminal output of the commands: rich tables, and digits drawn in half blocks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mnist_pipeline.core.gates import WORST_FIRST, GateResult, Outcome, Reference
from mnist_pipeline.core.images import SIDE
from mnist_pipeline.core.intervals import chance_note, wilson
from mnist_pipeline.core.tally import DigitScore
from mnist_pipeline.errors import printable
from mnist_pipeline.report.picture import Picture, sure
from mnist_pipeline.report.statistics import NOT_KNOWN, InputStatistics

# Columns of the per-digit table on a terminal that is too narrow for all of them.
LEFT_OUT_FIRST = ("mean conf.", "f1", "precision", "taken for", "95 % interval", "correct", "images")
CELL_GAP = 2
INK = 96  # pixels at least this bright are drawn
BLOCKS = " ▄▀█"
OUTCOME_STYLES: dict[Outcome, str] = {"fail": "bold red", "inconclusive": "yellow", "pass": "green", "none": "dim"}


UNBROKEN = 1000  # characters; the width where there is no terminal, so that who reads a pipe gets unbroken lines


@dataclass(frozen=True)
class RunLine:
    """One line of the list of published runs, as text; `weights` is the start of their sha256."""

    run_id: str
    images: str
    accuracy: str
    verdict: str
    weights: str
    architecture: str
    published_at: str


def percent(share: float | None) -> str:
    """A share 0..1 as a percentage with two decimals; a dash for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


def accuracy_cell(accuracy: float | None, labelled: int, images: int) -> str:
    """An accuracy 0..1 as a percentage, and of how many images it is if others have no label: `97.50 % of 5,000`."""
    return percent(accuracy) + (f" of {labelled:,}" if 0 < labelled < images else "")


def accuracy_line(correct: int, labelled: int, images: int) -> str:
    """Overall accuracy with its 95 % Wilson interval, in one line."""
    interval = wilson(correct, labelled)
    if interval is None:
        return "no labels: predictions without accuracy"
    others = f"; {images - labelled:,} more without a label" if images > labelled else ""
    found = (
        f"accuracy {percent(correct / labelled)} ({correct:,} of {labelled:,}{others}), "
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
    return f"not counted, with {what} given by hand; `mnist-pipeline accept {run_id} --reason TEXT` counts it"


def fitted_table(
    columns: Mapping[str, Sequence[str]],
    width: int,
    left_out_first: Sequence[str] = (),
    left_aligned: Collection[str] = (),
) -> RenderableType:
    """A table of the columns that fit into `width` characters, with a line that names those that do not.

    No cell is cut or broken: a table that is too wide without them is as wide as it is, for the terminal to break.

    Args:
        columns: the cells of each column by its heading, which may have two lines.
        width: of the terminal, in characters.
        left_out_first: headings of the columns that may be left out, the first to go first.
        left_aligned: headings of the columns of words; numbers are aligned to the right.
    """
    kept, left_out = dict(columns), list[str]()
    while _width(table := _table(kept, left_aligned)) > width and len(left_out) < len(left_out_first):
        left_out.append(left_out_first[len(left_out)])
        del kept[left_out[-1]]
    if not left_out:
        return table
    names = ", ".join(name.replace("\n", " ") for name in columns if name in left_out)
    return Group(table, Text(f"columns left out: {len(left_out)} ({names}); a wider terminal or --json shows them"))


def _table(columns: Mapping[str, Sequence[str]], left_aligned: Collection[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0) if left_aligned else 0)
    for heading in columns:
        table.add_column(heading, justify="left" if heading in left_aligned else "right", no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _width(table: Table) -> int:
    console = Console(width=UNBROKEN, emoji=False)
    return Measurement.get(console, console.options, table).maximum


def digits_table(scores: Sequence[DigitScore], width: int = UNBROKEN) -> RenderableType:
    """The per-digit table: scores, or without labels how often each digit was predicted.

    At most 80 characters wide up to 999,999 images of a digit.
    """
    if not any(score.images for score in scores):
        digits, predicted = [str(score.digit) for score in scores], [f"{score.predicted:,}" for score in scores]
        return fitted_table({"digit": digits, "predicted": predicted}, width)
    rows = [score_cells(score) for score in scores]
    # Headings are broken into two lines: the last two columns are narrower than theirs.
    columns = {_heading(name): [row[name] for row in rows] for name in rows[0]}
    return fitted_table(columns, width, [_heading(name) for name in LEFT_OUT_FIRST])


def _heading(name: str) -> str:
    return name if "%" in name else name.replace(" ", "\n")


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


def runs_table(rows: Sequence[RunLine], width: int = UNBROKEN) -> RenderableType:
    """The table of published runs; it names the architectures of their networks if there are several."""
    headings = {"run_id": "run", "published_at": "published (UTC)"}
    columns = {
        headings.get(field.name, field.name): [getattr(row, field.name) for row in rows] for field in fields(RunLine)
    }
    if len({*columns["architecture"]} - {"-"}) < 2:
        del columns["architecture"]
    words = set(columns) - {"images", "accuracy"}
    narrow = [name for name in ("architecture", "weights", "published (UTC)", "images") if name in columns]
    return fitted_table(columns, width, narrow, left_aligned=words)


def decisions_table(rows: Sequence[tuple[str, str, str, str]], width: int = UNBROKEN) -> RenderableType:
    """The prune decisions: run_id, size, action, reason."""
    names = ("run", "size", "action", "because")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    return fitted_table(columns, width, ("size", "because"), left_aligned={"run", "action", "because"})


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
    """One line for each image: image_id, label, prediction; of changed ones also the prediction before; its key.

    At most 60 characters wide up to image 9,999,999, without keys.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    changed = any(picture.before is not None for picture in pictures)
    for heading in ("image_id", "label", "prediction", *(("before", "direction") if changed else ())):
        table.add_column(heading, justify="left" if heading == "direction" else "right", no_wrap=True)
    if keyed := any(picture.image_key for picture in pictures):
        table.add_column("image_key", justify="left", no_wrap=True)
    for picture in pictures:
        before, sure_before = picture.before, picture.confidence_before
        cells = [
            str(picture.image_id),
            "-" if picture.label is None else str(picture.label),
            f"{picture.prediction} ({sure(picture.confidence)})",
            "-" if before is None or sure_before is None else f"{before} ({sure(sure_before)})",
            picture.direction or "",
        ]
        table.add_row(
            *cells[: len(table.columns) - keyed], *([Text(printable(picture.image_key or ""))] if keyed else [])
        )
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


def changes_line(reference: Reference, before: str, now: str) -> str:
    """One line: whether two runs share images, labels and weights, and how many predictions changed.

    It names the architectures of their networks, `before` and `now`, if they are two.
    """
    weights = "the same weights" if reference.same_weights else "different weights"
    if before != now:
        weights += f": {before} -> {now}"
    if reference.changed is None:
        return f"different images, {weights}"
    labels = "" if reference.same_labels else "different labels, "
    return f"the same images, {labels}{weights}; predictions changed: {reference.changed:,}"


def comparison_table(rows: Sequence[Mapping[str, Any]], width: int = UNBROKEN) -> RenderableType:
    """The comparison table, from its rows: all digits together, then each digit."""
    cells = [_comparison_cells(row) for row in rows]
    columns = {name: [row[name] for row in cells] for name in cells[0]}
    return fitted_table(columns, width, ("(Holm)", "images", "95 % interval", "p"))


def inputs_table(before: InputStatistics | None, now: InputStatistics | None, width: int = UNBROKEN) -> RenderableType:
    """What the images of two runs are like, side by side; once if it is the same. One of them has to be known."""
    known = now or before
    assert known is not None, "there is nothing to show"
    runs = {"": now} if before == now else {"\nbefore": before, "\nnow": now}
    means, percentiles = {}, {}
    for name, found in runs.items():
        cells = [(each.mean_text, each.percentiles_text) for each in found.spreads] if found else []
        cells = cells or [(NOT_KNOWN, "")] * len(known.spreads)
        means[f"mean{name}"], percentiles[f"5, 50, 95 %{name}"] = ([*each] for each in zip(*cells, strict=True))
    titles = {"images": [each.title for each in known.spreads]}
    return fitted_table(titles | means | percentiles, width, [*percentiles], left_aligned={"images"})


def blank_line(before: InputStatistics | None, now: InputStatistics | None) -> str:
    """One line: how many images of two runs are blank."""
    if before is now is None:
        return f"input statistics: {NOT_KNOWN}, earlier versions published both runs"
    old, new = (found.blank_text if found else NOT_KNOWN for found in (before, now))
    return f"blank images: {new}" if old == new else f"blank images: {old} before, {new} now"


def _comparison_cells(row: Mapping[str, Any]) -> dict[str, str]:
    low, high, p_holm = row["low"], row["high"], row["p_holm"]
    return {
        "digit": "all" if row["digit"] is None else str(row["digit"]),
        "images": f"{row['images']:,}",
        "lost": "-" if row["lost"] is None else f"{row['lost']:,}",
        "gained": "-" if row["gained"] is None else f"{row['gained']:,}",
        "points": "-" if row["difference"] is None else f"{100 * row['difference']:+.2f}",
        "95 % interval": "-" if low is None else f"{100 * low:+.2f} to {100 * high:+.2f}",
        "p": _p_value(row["p"]),
        "(Holm)": "" if p_holm is None else f"({_p_value(p_holm)})",
    }


def _p_value(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
