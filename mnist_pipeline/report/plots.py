"""Draws the plots of the HTML report: reliability and trend as inline SVG, digits as PNG data URIs.

It writes no files. Colours are CSS variables of the page, so that one drawing serves light, dark and print styles.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from io import BytesIO, StringIO
from math import ceil, log10
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist_pipeline.core.calibration import ReliabilityBin
from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.report.drawing import matplotlib, new_figure
from mnist_pipeline.report.scale import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Unique placeholder colours; each is replaced in the SVG by a variable of the page's style sheet.
INK, SOFT, FAINT, MARK = "#010203", "#020304", "#030405", "#040506"
PASS, FAIL, INCONCLUSIVE, PAPER = "#050607", "#060708", "#070809", "#08090a"
VARIABLES = {
    INK: "ink", SOFT: "soft", FAINT: "line", MARK: "mark",
    PASS: "pass", FAIL: "fail", INCONCLUSIVE: "inconclusive", PAPER: "paper",
}  # fmt: skip

# Outcome, colour, marker, legend: the markers differ for readers who cannot tell the colours apart.
OUTCOMES: tuple[tuple[Outcome | None, str, str, str], ...] = (
    ("pass", PASS, "o", "pass"),
    ("inconclusive", INCONCLUSIVE, "^", "inconclusive"),
    ("fail", FAIL, "s", "fail"),
    ("none", SOFT, "D", "none"),
    (None, SOFT, "o", "no verdict"),
)

WIDE, NARROW = (960, 280), (360, 260)  # of the trend, in CSS pixels: on a desktop, and on a phone
FONT = "DejaVu Sans"  # ships with matplotlib, and is wider than most fonts that a browser uses instead
_style_guard = Lock()  # matplotlib keeps its style in one dictionary per process


@dataclass(frozen=True)
class TrendPoint:
    """One run of the trend: accuracy and its 95 % interval in 0..1; `outcome` is None without a verdict.

    `labelled` is the number of images with a label if others have none, else None.
    """

    run_date: date
    run_id: str
    accuracy: float
    low: float
    high: float
    outcome: Outcome | None
    labelled: int | None = None


def digit_png(pixels: NDArray[np.uint8]) -> str:
    """One image `[28, 28]` uint8 as a PNG data URI, dark ink on white: a pixel of 255 is black."""
    file = BytesIO()
    Image.fromarray(255 - pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode("ascii")


def reliability_svg(bins: Sequence[ReliabilityBin]) -> str:
    """Accuracy against confidence by bin, with 95 % intervals, above the number of images in each bin."""
    with _plain_style():
        return _reliability(bins)


def _reliability(bins: Sequence[ReliabilityBin]) -> str:
    figure = _figure(360, 410)
    upper = _axes(figure, (44, 26, 294, 260))
    lower = _axes(figure, (44, 312, 294, 62))
    upper.plot([0, 1], [0, 1], color=SOFT, linewidth=1, dashes=(4, 3))
    # Bars of logarithmic height: the most confident bin holds nearly all images and would hide the rest.
    tallest = log10(1 + max(item.images for item in bins))
    for item in bins:
        at, accuracy, low, high = item.mean_confidence, item.accuracy, item.accuracy_low, item.accuracy_high
        if at is None or accuracy is None or low is None or high is None:
            continue
        upper.plot([at, at], [low, high], color=MARK, linewidth=1.6, clip_on=False)
        upper.plot([at], [accuracy], "o", color=MARK, markersize=6, clip_on=False)
        middle, height = (item.low + item.high) / 2, log10(1 + item.images) / tallest
        lower.bar(middle, height, (item.high - item.low) * 0.8, color=FAINT)
        lower.text(middle, height + 0.08, f"{item.images:,}", rotation=90, size=9, color=INK, ha="center", va="bottom")
    upper.set(xlim=(0, 1), ylim=(0, 1))
    lower.set(xlim=(0, 1), ylim=(0, 1.9), xlabel="confidence")
    for axes, title in ((upper, "accuracy"), (lower, "images (bars: log scale)")):
        axes.text(0, 1.03, title, transform=axes.transAxes, size=11, color=SOFT, ha="left", va="bottom")
    shares = [tick / 5 for tick in range(6)]
    upper.set_yticks(shares, [_percent(share) for share in shares])
    upper.set_xticks(shares, [""] * len(shares))
    lower.set_xticks(shares, [_percent(share) for share in shares])
    lower.set_yticks([])
    upper.grid(color=FAINT, linewidth=0.7)
    known = [(item.accuracy, item.mean_confidence) for item in bins if item.images]
    below = sum(accuracy < mean for accuracy, mean in known if accuracy is not None and mean is not None)
    what = f"Accuracy against confidence: in {below} of {len(known)} bins accuracy is below confidence"
    return _svg(figure, "reliability", f"{what}; the numbers are in the table")


def trend_svg(points: Sequence[TrendPoint], run_id: str, size: tuple[int, int] = WIDE) -> str:
    """Accuracy with its interval over the run dates, oldest first; a vertical line marks the run `run_id`.

    Args:
        points: at least one.
        run_id: the run that the page reports.
        size: width and height in CSS pixels.
    """
    with _plain_style():
        return _trend(points, run_id, size)


def _trend(points: Sequence[TrendPoint], run_id: str, size: tuple[int, int]) -> str:
    width, height = size
    figure = _figure(width, height)
    axes = _axes(figure, (58, 30, width - 58 - 16, height - 30 - 34))
    positions = _positions([point.run_date for point in points])
    mark_size = max(3.2, min(7.0, 0.6 * (width - 74) / len(points)))
    axes.plot(positions, [point.accuracy for point in points], color=FAINT, linewidth=1.2)
    for outcome, colour, marker, word in OUTCOMES:
        of_it = [(at, point) for at, point in zip(positions, points, strict=True) if point.outcome == outcome]
        if of_it:
            at, lows, highs = [a for a, _ in of_it], [n.low for _, n in of_it], [n.high for _, n in of_it]
            axes.vlines(at, lows, highs, colors=colour, linewidth=0.1 + mark_size / 6)
            axes.plot(
                at, [n.accuracy for _, n in of_it], marker, color=colour, label=word,
                markerfacecolor=colour if outcome else PAPER, markeredgewidth=1.1,
                markersize=mark_size * (1.0 if outcome == "pass" else 1.25),
            )  # fmt: skip
    for position, point in zip(positions, points, strict=True):
        if point.run_id == run_id:
            axes.axvline(position, color=SOFT, linewidth=0.8, dashes=(2, 2), zorder=0)
    _mark_axes(axes, points, positions, max_days=width // 90)
    figure.legend(
        loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=len(OUTCOMES), frameon=False,
        fontsize=11, labelcolor=INK, handletextpad=0.1, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
    lowest, highest = min(point.accuracy for point in points), max(point.accuracy for point in points)
    what = (
        f"Accuracy with 95 % intervals of {len(points)} runs from {points[0].run_date} to {points[-1].run_date}: "
        f"{100 * lowest:.2f} % to {100 * highest:.2f} %, the last {100 * points[-1].accuracy:.2f} %; "
        "the numbers are in the table"
    )
    return _svg(figure, f"trend-{width}", what)


def _mark_axes(axes: "Axes", points: Sequence[TrendPoint], positions: Sequence[float], max_days: int) -> None:
    """Set round accuracy ticks that cover every interval, and date ticks."""
    scale = Scale.around([end for point in points for end in (point.low, point.high)], lower=0.0)
    axes.set_ylim(scale.low, scale.high)
    axes.set_yticks(scale.ticks, [_percent(tick) for tick in scale.ticks])
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    margin = max(0.75, 0.03 * (positions[-1] - positions[0]))
    axes.set_xlim(positions[0] - margin, positions[-1] + margin)
    days = _days(points[0].run_date, points[-1].run_date, max_days)
    axes.set_xticks([day.toordinal() for day in days], _day_labels(days))


@contextmanager
def _plain_style() -> Iterator[None]:
    """Use matplotlib's defaults and our settings inside the block, whatever the style of the machine or process."""
    with _style_guard, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("svg", hashsalt="mnist-pipeline", fonttype="none")  # stable ids; text stays text
        matplotlib.rc("font", family=FONT)
        yield


def _positions(dates: Sequence[date]) -> list[float]:
    """Positions of the runs on an axis of days; runs of one day are side by side."""
    total = {day: dates.count(day) for day in set(dates)}
    seen: dict[date, int] = dict.fromkeys(total, 0)
    positions = []
    for day in dates:
        positions.append(day.toordinal() + (seen[day] - (total[day] - 1) / 2) * 0.7 / total[day])
        seen[day] += 1
    return positions


def _days(first: date, last: date, at_most: int) -> list[date]:
    """Evenly spaced days, including the last."""
    step = max(1, ceil(((last - first).days + 1) / at_most))
    return [date.fromordinal(day) for day in range(last.toordinal(), first.toordinal() - 1, -step)][::-1]


def _day_labels(days: Sequence[date]) -> list[str]:
    """ISO dates, with the year only where it changes."""
    years = [None, *(day.year for day in days)]
    return [day.isoformat() if day.year != before else f"{day:%m-%d}" for day, before in zip(days, years, strict=False)]


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %"


def _figure(width: int, height: int) -> "Figure":
    return new_figure(figsize=(width / 72, height / 72), dpi=72)  # matplotlib writes 72 user units to the inch


def _axes(figure: "Figure", box: tuple[float, float, float, float]) -> "Axes":
    """Axes at left, top, width and height in CSS pixels, without a frame."""
    width, height = figure.get_size_inches() * 72
    left, top, across, down = box
    axes = figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, labelcolor=INK, labelsize=11, length=3)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.label.set(color=INK, size=11)
    axes.yaxis.label.set(color=INK, size=11)
    return axes


def _svg(figure: "Figure", name: str, description: str) -> str:
    """The figure as an SVG element for HTML; the same figure gives the same text.

    Args:
        figure: the finished figure.
        name: prefix of every id, so that drawings can share a page.
        description: alternative text; plain text without markup.
    """
    figure.patch.set_visible(False)
    file = StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    svg = re.sub(rf"'{FONT}'[^;\"]*", "var(--font)", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"\s*\n\s*", " ", svg).replace(' transform="rotate(-0', ' data-r="(').strip()
    view_box = re.search(r'viewBox="[^"]+"', svg)
    assert view_box, "matplotlib wrote no viewBox"
    head = f'<svg {view_box[0]} role="img" aria-label="{description}">'
    return re.sub(r"^<svg[^>]*>", lambda _: head, svg)
