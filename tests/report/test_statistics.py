import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mnist_pipeline.datasets.image_bins import BOUNDS, ImageBins
from mnist_pipeline.report import terminal
from mnist_pipeline.report.statistics import InputStatistics, input_statistics


def statistics_of(bins: ImageBins) -> InputStatistics:
    return input_statistics({name: (*BOUNDS[name], found) for name, found in bins.arrays()})


def with_counts(**counts: dict[int, int]) -> ImageBins:
    bins = ImageBins.empty()
    for name, found in counts.items():
        getattr(bins, name)[[*found]] = [*found.values()]
    return bins


def table_of(
    before: InputStatistics | None, now: InputStatistics | None, width: int = terminal.UNBROKEN
) -> list[list[str]]:
    """The cells of each line of the table of two runs."""
    console = Console(width=terminal.UNBROKEN)
    with console.capture() as capture:
        console.print(terminal.inputs_table(before, now, width))
    return [re.split(r" {2,}", line.strip()) for line in capture.get().splitlines()]


LIKE = statistics_of(
    with_counts(
        mean={0: 5, 33: 90, 255: 5},
        largest={0: 3, 255: 97},
        centre_x={27: 97},
        centre_y={0: 4, 20: 1, 54: 92},
        width={0: 4, 9: 46, 10: 49, 28: 1},
        height={20: 100},
    )
)


def test_mean_and_percentiles_are_those_of_the_middles_of_the_bins() -> None:
    found: dict[str, tuple[Any, ...]]
    found = {each.statistic: (each.images, each.mean, each.low, each.median, each.high) for each in LIKE.spreads}
    level = 33.5 / 255
    assert found["mean"] == (100, pytest.approx((5 * 0.5 / 255 + 90 * level + 5) / 100), 0.5 / 255, level, level)
    assert found["largest"] == (100, 0.97, 1, 1, 1)
    assert found["centre_x"] == (97, 13.5, 13.5, 13.5, 13.5)
    assert found["centre_y"] == (97, pytest.approx((10 + 92 * 27) / 97), 10, 27, 27)  # 5 % of 97 are more than 4
    assert found["width"] == (100, (46 * 9 + 490 + 28) / 100, 9, 9, 10)
    assert found["height"] == (100, 20, 20, 20, 20)
    assert (LIKE.images, LIKE.blank, LIKE.blank_share, LIKE.blank_text) == (100, 3, 0.03, "3 of 100 (3.00 %)")


@pytest.mark.parametrize("rows", [1, 2, 19, 20, 21, 1000])
def test_percentiles_are_those_of_numpy_where_a_bin_is_one_value(rows: int) -> None:
    widths = np.random.default_rng(rows).integers(0, 29, rows)
    bins = with_counts(width=dict(zip(*np.unique(widths, return_counts=True), strict=True)))
    found = statistics_of(bins).spreads[4]
    assert found.mean == pytest.approx(widths.mean())
    expected = np.percentile(widths, [5, 50, 95], method="inverted_cdf")
    assert [found.low, found.median, found.high] == expected.tolist()


def test_of_blank_images_there_is_no_centre_and_of_none_nothing() -> None:
    blank = statistics_of(ImageBins.count(np.zeros((2, 784), np.float32)))
    texts: dict[str, Any] = {each.title: (each.mean_text, each.percentiles_text) for each in blank.spreads}
    assert texts["centre, row"] == ("-", "-")
    assert texts["width of ink"] == ("0.00", "0, 0, 0")
    assert blank.blank_text == "2 of 2 (100.00 %)"
    nothing = statistics_of(ImageBins.empty())
    assert {each.mean_text for each in nothing.spreads} == {"-"}
    assert (nothing.blank_text, nothing.blank_share) == ("0 of 0", None)


def test_two_runs_stand_side_by_side_and_once_if_they_do_not_differ() -> None:
    other = statistics_of(with_counts(largest={255: 1}, centre_x={20: 1}))
    assert ["centre, column", "13.50", "10.00", "13.5, 13.5, 13.5", "10, 10, 10"] in table_of(LIKE, other)
    assert terminal.blank_line(LIKE, other) == "blank images: 3 of 100 (3.00 %) before, 0 of 1 now"
    assert ["height of ink", "20.00", "20, 20, 20"] in table_of(LIKE, LIKE)
    assert terminal.blank_line(LIKE, LIKE) == "blank images: 3 of 100 (3.00 %)"


def test_a_run_of_an_earlier_version_is_said_to_be_not_known() -> None:
    assert ["height of ink", "not known", "20.00", "20, 20, 20"] in table_of(None, LIKE)
    assert ["height of ink", "20.00", "not known", "20, 20, 20"] in table_of(LIKE, None)
    assert terminal.blank_line(None, LIKE) == "blank images: not known before, 3 of 100 (3.00 %) now"
    assert terminal.blank_line(None, None) == "input statistics: not known, earlier versions published both runs"


def test_a_narrow_terminal_leaves_out_percentiles_and_says_so() -> None:
    other = statistics_of(with_counts(largest={255: 1}))
    lines = table_of(LIKE, other, width=50)
    assert ["height of ink", "20.00", "-"] in lines
    assert lines[-1][0].startswith("columns left out: 2 (5, 50, 95 % before, 5, 50, 95 % now)")
