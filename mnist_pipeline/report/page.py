"""Renders the HTML report of a run: one self-contained file that loads nothing and runs no script.

The same run gives the same text. It judges nothing and reads no file except its template: callers pass the verdict,
references and galleries.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from itertools import groupby

from jinja2 import Template

from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.comparison import Comparison, Paired, holm_over_digits
from mnist_pipeline.core.gates import GateOutcome, GateResult, Outcome, Reference
from mnist_pipeline.core.intervals import wilson
from mnist_pipeline.core.tally import DigitScore, Tally
from mnist_pipeline.report.links import Links, line_of
from mnist_pipeline.report.picture import Picture, sure
from mnist_pipeline.report.plots import NARROW, WIDE, TrendPoint, digit_png, reliability_svg, trend_svg
from mnist_pipeline.report.scale import Scale
from mnist_pipeline.report.statistics import NOT_KNOWN, InputStatistics
from mnist_pipeline.report.templates import environment, template

TEMPLATE = "page.html.jinja"
MAX_RUNS = 366  # in the trend: a year
MAX_UNFOLDED = 40  # pictures of a gallery; as many are not divided by label
MAX_CONFUSIONS = 10  # listed beside the matrix

VERDICTS: Mapping[Outcome | None, str] = {
    "pass": "Pass",
    "fail": "Fail",
    "inconclusive": "Inconclusive",
    "none": "None",
    None: "No verdict",
}
# What fails a gate: shares of images, except for the means, which have their own unit.
SHORT_OF = {
    "min_accuracy": "a shortfall", "min_digit_accuracy": "a shortfall",
    "max_loss": "a loss", "max_digit_loss": "a loss", "no_certain_loss": "a loss",
    "max_nll": "an excess", "max_brier": "an excess",
}  # fmt: skip
MEANS = {"max_nll", "max_brier"}


@dataclass(frozen=True, eq=False)
class Page:
    """The content of the page.

    Attributes:
        outcome: of the verdict; None if the run was not judged.
        results: the result of every gate.
        notes: sentences shown below the verdict, such as "not compared: no earlier run passed".
        references: the runs it is compared with; the digits are compared with the first one with comparisons.
        trend: runs of the trend including this one, oldest first.
        flips: example images, out of `flips_total`, whose prediction changed against the first reference over the same
            images.
        mistakes: example images, out of `mistakes_total`, with a wrong prediction, the most confident first.
        provenance: name -> value, in the order shown.
        decision: what a person decided of the run, in a line; None if nothing.
        links: to the index and to the neighbours; None for a page that stands alone.
        inputs: what the images of this run and of each reference are like, by what the run is called here; None where
            it is not known.
        architectures: those of both networks, by what a reference is called, if it has another one than this run.
    """

    run_id: str
    run_date: date
    dataset: str
    split: str
    outcome: Outcome | None
    results: tuple[GateResult, ...]
    notes: tuple[str, ...]
    tally: Tally
    calibration: Calibration
    references: tuple[Reference, ...]
    trend: tuple[TrendPoint, ...]
    flips: tuple[Picture, ...]
    flips_total: int
    mistakes: tuple[Picture, ...]
    mistakes_total: int
    provenance: Mapping[str, str]
    decision: str | None = None
    links: Links | None = None
    inputs: Mapping[str, InputStatistics | None] = field(default_factory=dict)
    architectures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of the table of digits: one digit, or all digits together (`score` is None)."""

    name: str
    images: int
    correct: int
    accuracy: float | None
    low: float | None
    high: float | None
    score: DigitScore | None
    change: Comparison | None
    p: float | None  # of the change; Holm-corrected for a digit


@dataclass(frozen=True)
class Confusion:
    """Images of one label with one prediction; `share` is their share of the label's errors, 0..1."""

    label: int
    prediction: int
    images: int
    share: float


@dataclass(frozen=True)
class Group:
    """Pictures of a gallery that are folded away together.

    Attributes:
        title: what they have in common.
        direction: of all of them; None in a gallery of wrong predictions.
        pictures: by label, then by prediction, the most common first, then the most confident first.
        total: the number of such images; not all of them need be shown.
        predicted: how many of them have which prediction.
        anchors: image_id -> the id in the page, of the first picture of each label and wrong prediction.
        unfolded: whether it is unfolded at first.
    """

    title: str
    direction: str | None
    pictures: Sequence[Picture]
    total: int
    predicted: str
    anchors: Mapping[int, str]
    unfolded: bool


def render_page(page: Page) -> str:
    """Render the page as HTML, to be written as UTF-8."""
    tally, trend = page.tally, page.trend[-MAX_RUNS:]
    compared = next((reference for reference in page.references if reference.comparisons), None)
    rows = _rows(tally, compared)
    cells = _confusions(tally)
    mistakes = _groups(page.mistakes, {score.digit: score.images - score.correct for score in tally.scores()})
    return _template().render(
        page=page,
        links=page.links,
        verdict=VERDICTS[page.outcome],
        summary=_summary(page),
        not_passed=[*_grouped(page.results, "fail"), *_grouped(page.results, "inconclusive")],
        passed=_grouped(page.results, "pass"),
        overall=rows[-1],
        rows=rows,
        compared=compared,
        accuracy_scale=Scale.around(_known(row.low for row in rows) + _known(row.high for row in rows), 0.0, 1.0),
        change_scale=_change_scale(rows),
        cells=cells,
        digits_of_count=len(str(tally.confusion.sum(axis=0).max())),
        predicted=tally.confusion.sum(axis=0).tolist(),
        most_confused=sorted((c for line in cells for c in line if c.share), key=lambda c: -c.images)[:MAX_CONFUSIONS],
        scores=page.calibration.scores(),
        bins=[item for item in page.calibration.bins() if item.images],
        reliability=reliability_svg(page.calibration.bins()) if page.calibration.images else "",
        trend=trend,
        trends={
            name: trend_svg(trend, page.run_id, size) for name, size in (("wide", WIDE), ("narrow", NARROW)) if trend
        },
        images_like=next((found for found in page.inputs.values() if found), None),
        not_known=NOT_KNOWN,
        flips=_groups(page.flips),
        mistakes=mistakes,
        anchors={anchor for group in mistakes for anchor in group.anchors.values()},
        flipped=next((reference for reference in page.references if reference.changed is not None), None),
    )


@cache
def _template() -> Template:
    filters: Mapping[str, Callable[..., str]] = {
        "points": "{:+.2f}".format,
        "p": p_text,
        "sure": sure,
        "sentence": sentence,
        "sensitivity": sensitivity,
        "png": digit_png,
        "line_of": line_of,
        "alt": alternative,
    }
    environment().filters.update(filters)
    environment().tests["paired"] = lambda line: isinstance(line, Paired)
    return template(TEMPLATE)


def p_text(p: float) -> str:
    """A p-value with two significant digits."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.2g}"


def alternative(picture: Picture) -> str:
    """What a picture shows, for those who do not see it."""
    what = "a handwritten digit" if picture.label is None else f"a handwritten {picture.label}"
    before = "" if picture.before is None else f", {picture.before} before"
    return f"{what}, taken for {picture.prediction}{before}"


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def sensitivity(result: GateResult) -> str:
    """The smallest change that would have failed the gate, in words; empty if it failed, or if none would."""
    if result.detectable is None or result.outcome == "fail" or result.gate not in SHORT_OF:
        return ""
    by = f"{result.detectable:.4f}" if result.gate in MEANS else f"{100 * result.detectable:.2f} points"
    return f"{SHORT_OF[result.gate]} of {by} would have failed it"


def _summary(page: Page) -> str:
    """The second line of the verdict: the number of gates per outcome."""
    if page.outcome is None:
        return "This run has not been judged."
    if not page.results:
        return "Nothing was judged."
    words: Sequence[tuple[GateOutcome, str]] = (
        ("fail", "failed"),
        ("inconclusive", "inconclusive"),
        ("pass", "passed"),
    )
    counted = [(sum(result.outcome == outcome for result in page.results), word) for outcome, word in words]
    judged = f"{len(page.results)} {'gate' if len(page.results) == 1 else 'gates'}"
    return f"{judged}: " + ", ".join(f"{number} {word}" for number, word in counted if number) + "."


def _grouped(results: Sequence[GateResult], outcome: GateOutcome) -> list[list[GateResult]]:
    """The results with this outcome, in order; adjacent ones of the same gate and reference are grouped."""
    found = [result for result in results if result.outcome == outcome]
    return [list(group) for _, group in groupby(found, key=lambda result: (result.gate, result.against))]


def _rows(tally: Tally, compared: Reference | None) -> list[Row]:
    """The rows of the ten digits, then of all digits together."""
    changes = compared.comparisons if compared else ()
    of_digit = {change.digit: change for change in changes}
    corrected = dict(zip(of_digit, holm_over_digits(changes), strict=True))
    rows = [
        Row(
            str(score.digit), score.images, score.correct, score.accuracy, score.accuracy_low, score.accuracy_high,
            score, of_digit.get(score.digit), corrected.get(score.digit),
        )
        for score in tally.scores()
    ]  # fmt: skip
    whole, bounds = of_digit.get(None), wilson(tally.correct, tally.labelled)
    low, high = (bounds.low, bounds.high) if bounds else (None, None)
    last = Row("all", tally.labelled, tally.correct, tally.accuracy, low, high, None, whole, whole.p if whole else None)
    return [*rows, last]


def _groups(pictures: Sequence[Picture], totals: Mapping[int, int] | None = None) -> list[Group]:
    """The pictures by direction, in their order; where there are many of one, by label, the most pictures first.

    Args:
        pictures: of a gallery.
        totals: the number of such images of each label; only these if None.
    """
    groups, unfolded = [], 0
    for direction in dict.fromkeys(picture.direction for picture in pictures):
        of_it = [picture for picture in pictures if picture.direction == direction]
        by_title: dict[str, list[Picture]] = {}
        for picture in of_it:
            title = f"{picture.before} before" if picture.label is None else f"label {picture.label}"
            by_title.setdefault("all digits" if len(of_it) <= MAX_UNFOLDED else title, []).append(picture)
        for title, members in sorted(by_title.items(), key=lambda item: (-len(item[1]), item[0])):
            unfolded += len(members)
            labels = {picture.label for picture in members}
            total = sum(totals[label] for label in labels if label is not None) if totals else len(members)
            groups.append(_group(title, direction, members, total, unfolded <= MAX_UNFOLDED))
    return groups


def _group(title: str, direction: str | None, pictures: Sequence[Picture], total: int, unfolded: bool) -> Group:
    pairs = Counter((picture.label, picture.prediction) for picture in pictures)
    predicted = Counter(picture.prediction for picture in pictures)
    firsts = {(picture.label, picture.prediction): picture.image_id for picture in reversed(pictures)}

    def order(picture: Picture) -> tuple[int, int, int]:
        label = -1 if picture.label is None else picture.label
        return label, -pairs[picture.label, picture.prediction], picture.prediction

    return Group(
        title=title,
        direction=direction,
        pictures=sorted(pictures, key=order),
        total=total,
        predicted=", ".join(f"{digit} ({n:,})" for digit, n in sorted(predicted.items(), key=lambda i: (-i[1], i[0]))),
        anchors={} if direction else {firsts[pair]: f"wrong-{pair[0]}-{pair[1]}" for pair in pairs},
        unfolded=unfolded,
    )


def _change_scale(rows: Sequence[Row]) -> Scale:
    """A scale that covers the intervals of the changes, and 0."""
    intervals = [interval for row in rows if row.change and (interval := row.change.interval())]
    return Scale.around([0.0, *(end for interval in intervals for end in (interval.low, interval.high))])


def _confusions(tally: Tally) -> list[list[Confusion]]:
    """The confusion matrix by label and prediction; `share` is 0 for correct predictions."""
    lines = []
    for label, counts in enumerate(tally.confusion.tolist()):
        errors = sum(counts) - counts[label]
        shares = [0.0 if prediction == label or not errors else n / errors for prediction, n in enumerate(counts)]
        lines.append([Confusion(label, p, n, share) for p, (n, share) in enumerate(zip(counts, shares, strict=True))])
    return lines


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
