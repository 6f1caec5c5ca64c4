import base64
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.core.intervals import wilson
from mnist_pipeline.report.plots import NARROW, WIDE, TrendPoint, digit_png, reliability_svg, trend_svg
from mnist_pipeline.report.scale import Scale

FIRST = date(2026, 1, 1)


def night(day: int, correct: int = 9800, outcome: Outcome | None = "pass", run: str = "") -> TrendPoint:
    bounds = wilson(correct, 10_000)
    assert bounds is not None
    return TrendPoint(FIRST + timedelta(day), f"run-{day}{run}", correct / 10_000, bounds.low, bounds.high, outcome)


def calibration(images: int = 500) -> Calibration:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([0.2] * 10, images).astype(np.float32).T
    predictions = probabilities.argmax(axis=0).astype(np.int8)
    labels = np.where(random.random(images) < probabilities.max(axis=0), predictions, (predictions + 1) % 10)
    return Calibration.count(labels.astype(np.int8), predictions, probabilities.max(axis=0), probabilities)


def drawings() -> list[str]:
    nights = [night(0), night(1, 9700, "fail"), night(3, 9790, "inconclusive"), night(4, 9810, None)]
    return [reliability_svg(calibration().bins()), trend_svg(nights, "run-4"), trend_svg(nights, "run-4", NARROW)]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def marks(svg: str) -> dict[str, list[float]]:
    """Outline of each shape that marks a run -> where it stands, in the order drawn; the last is in the legend."""
    root = ElementTree.fromstring(svg)
    shapes = {f"#{path.get('id')}": path.get("d", "") for path in root.iter("path") if path.get("id")}
    found: dict[str, list[float]] = {}
    for use in root.iter("use"):
        outline = shapes[use.get("href", "")].strip()
        if outline.endswith("z"):  # the others are ticks
            found.setdefault(outline, []).append(float(use.get("x", "nan")))
    return found


# Scales


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_a_scale_holds_its_values_between_round_ticks(values: list[float]) -> None:
    scale = Scale.around(values)
    assert scale.low < scale.high
    assert all(-1e-6 <= scale.at(value) <= 1 + 1e-6 for value in values)
    assert 2 <= len(scale.ticks) <= 7
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
    (step,) = {round(after - before, 7) for before, after in pairwise(scale.ticks)}
    assert step > 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_a_scale_stays_within_what_is_possible(values: list[float]) -> None:
    scale = Scale.around(values, lower=0.0, upper=1.0)
    assert 0 <= scale.low < scale.high <= 1


def test_a_scale_of_the_most_that_is_possible_has_room_below() -> None:
    scale = Scale.around([1.0], 0.0, 1.0)
    assert scale.low < scale.high == 1.0


def test_a_scale_of_nothing_is_all_that_is_possible() -> None:
    assert (Scale.around([], 0.0, 1.0).low, Scale.around([], 0.0, 1.0).high) == (0.0, 1.0)


def test_ticks_are_as_people_write_them() -> None:
    assert Scale.around([0.9649, 0.9991], 0.0, 1.0).ticks == (0.96, 0.97, 0.98, 0.99, 1.0)
    assert Scale.around([-0.004, 0.011]).ticks == (-0.005, 0.0, 0.005, 0.01, 0.015)


# Digits


@given(st.integers(0, 2**32))
def test_a_digit_keeps_every_pixel_as_dark_ink_on_white(seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 28), np.uint8)
    head, _, body = digit_png(pixels).partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(255 - np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), pixels)


# What all drawings share


def test_drawings_share_a_page_without_sharing_an_id() -> None:
    ids = [name for svg in drawings() for name in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) > 3
    assert len(ids) == len(set(ids))


def test_every_reference_within_a_drawing_leads_somewhere() -> None:
    for svg in drawings():
        ids = set(re.findall(r' id="([^"]+)"', svg))
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
        assert {one or other for one, other in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)} == ids


def test_drawings_load_nothing_and_style_nothing_outside_themselves() -> None:
    for svg in drawings():
        assert svg.startswith('<svg viewBox="0 0 ')
        assert not re.search(r"http|<style|<script|<metadata|<!|<\?", svg)


def test_all_colours_are_those_of_the_page() -> None:
    for svg in drawings():
        assert "var(--ink)" in svg
        assert re.findall(r"#[0-9a-f]{6}\b", svg) == []


def test_text_is_text_in_the_font_of_the_page() -> None:
    for svg in drawings():
        assert set(re.findall(r"font-family: ([^;\"]+)", svg)) <= {"var(--font)"}
        assert "DejaVu" not in svg
    assert "confidence" in texts(drawings()[0])


def test_the_same_is_drawn_under_any_style_and_the_style_is_put_back() -> None:
    before = drawings()
    odd = {
        "svg.fonttype": "path",
        "axes.linewidth": 9.0,
        "xtick.direction": "in",
        "axes.facecolor": "red",
        "svg.hashsalt": "other",
    }
    with matplotlib.rc_context(odd):  # type: ignore[arg-type]
        assert drawings() == before
        assert {name: matplotlib.rcParams[name] for name in odd} == odd  # type: ignore[index]


def test_the_same_is_drawn_in_every_process_whatever_the_machine_is_set_up_with(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("axes.linewidth: 9\nxtick.direction: in\nsvg.fonttype: path\n")
    script = f"""
        import importlib.util, sys
        spec = importlib.util.spec_from_file_location("drawn", {str(Path(__file__))!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.stdout.write("".join(module.drawings()))
    """
    changed = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", "\n".join(line.strip() for line in script.splitlines())]
    result = subprocess.run(command, env=os.environ | changed, capture_output=True, text=True, check=True)
    assert result.stdout == "".join(drawings())


# Reliability


def test_every_bin_with_images_stands_with_its_number_and_no_other() -> None:
    bins = calibration().bins()
    written = texts(reliability_svg(bins))
    filled = [f"{item.images:,}" for item in bins if item.images]
    assert 0 < len(filled) < len(bins)
    assert sorted(text for text in written if re.fullmatch(r"[\d,]+", text)) == sorted(filled)


def test_a_single_image_is_enough_for_a_reliability_diagram() -> None:
    one = Calibration.count(
        np.array([3], np.int8),
        np.array([3], np.int8),
        np.array([1.0], np.float32),
        np.eye(10, dtype=np.float32)[:, [3]],
    )
    assert "1" in texts(reliability_svg(one.bins()))


# Trend


OUTCOMES: Sequence[Outcome | None] = ("pass", "fail", "inconclusive", None)


def test_outcomes_differ_by_shape_and_by_word() -> None:
    shapes = {}
    for outcome in ("pass", "fail", "inconclusive"):
        svg = trend_svg([night(0, outcome=outcome)], "run-0")
        assert outcome in texts(svg)
        shapes[outcome] = [outline.count("L") for outline in marks(svg)]
    assert shapes == {"pass": [0], "fail": [3], "inconclusive": [2]}
    hollow = trend_svg([night(0, outcome=None)], "run-0")
    assert "no verdict" in texts(hollow)
    assert "fill: var(--paper)" in hollow


def test_the_legend_names_only_drawn_outcomes() -> None:
    words = texts(trend_svg([night(0), night(1)], "run-1"))
    assert [word for word in words if word in {"pass", "fail", "inconclusive", "no verdict"}] == ["pass"]


def test_nights_without_a_run_leave_a_gap() -> None:
    (at,) = marks(trend_svg([night(0), night(1), night(10)], "")).values()
    assert (at[2] - at[1]) / (at[1] - at[0]) == pytest.approx(9, rel=1e-3)


def test_runs_of_one_night_stand_side_by_side() -> None:
    (at,) = marks(trend_svg([night(0, run="a"), night(0, run="b"), night(1)], "")).values()
    assert at[0] < at[1] < at[2]
    assert at[2] - at[1] > at[1] - at[0]


@pytest.mark.parametrize("size", [WIDE, NARROW])
@pytest.mark.parametrize("days", [1, 2, 7, 366])
def test_days_are_written_with_the_year_where_it_is_news(days: int, size: tuple[int, int]) -> None:
    svg = trend_svg([night(day) for day in range(days)], f"run-{days - 1}", size)
    dates = [text for text in texts(svg) if re.fullmatch(r"(\d{4}-)?\d\d-\d\d", text)]
    assert 1 <= len(dates) <= size[0] // 90
    assert len(dates[0]) == 10
    assert sum(len(text) == 10 for text in dates) == (2 if days == 366 and len(dates) > 1 else 1)
    assert dates[-1].endswith((FIRST + timedelta(days - 1)).strftime("%m-%d"))


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("correct", [0, 1, 9999, 10_000])
def test_a_single_night_of_any_accuracy_is_drawn(correct: int, outcome: Outcome | None) -> None:
    svg = trend_svg([night(0, correct, outcome)], "run-0")
    assert "nan" not in svg
    assert any(text.endswith(" %") for text in texts(svg))


def test_the_run_of_the_page_is_marked() -> None:
    nights = [night(0), night(1)]
    assert "stroke-dasharray" in trend_svg(nights, "run-1")
    assert "stroke-dasharray" not in trend_svg(nights, "run-7")
