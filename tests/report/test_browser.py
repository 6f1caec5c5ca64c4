"""The report in a real browser: what it looks like at three widths and in print, and whether everybody can use it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnist_pipeline.core.comparison import unpaired
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.report.page import Page
from tests.report.browser import checked, measured
from tests.report.test_page import ALONE, LAST, LIKE_MNIST, PAGE, TALLY, UNLABELLED, flip, nights, rendered

pytestmark = pytest.mark.slow

DARK, LIGHT = "screen and (prefers-color-scheme: dark)", "screen and (max-width: 0)"
LONG = "x" * 300
LONG_NAMES = replace(
    PAGE,
    run_id=LONG,
    dataset=LONG,
    notes=(LONG,),
    provenance={LONG: LONG},
    references=(replace(LAST, run_id=LONG),),
    trend=tuple(replace(point, run_id=LONG) for point in nights(3)),
)
# Few mistakes: ticks of five characters and certain captions; a year of nights.
GOOD = Tally(np.eye(10, dtype=np.int64) * 8990 + 1, TALLY.unlabelled, TALLY.confidence_sum)
CROWDED = replace(
    PAGE,
    tally=GOOD,
    references=(replace(LAST, comparisons=unpaired(GOOD, GOOD)),),
    flips=tuple(
        replace(flip(place), image_id=10_000 + place, confidence=0.9972, confidence_before=0.9972) for place in range(9)
    ),
    trend=nights(366),
)


@pytest.mark.parametrize(
    "page",
    [PAGE, UNLABELLED, ALONE, LIKE_MNIST, CROWDED],
    ids=["full", "unlabelled", "alone", "mnist", "crowded"],
)
def test_nothing_is_wider_than_the_screen_or_runs_into_another(page: Page, tmp_path: Path) -> None:
    widths = (1280, 1024, 768, 390)
    unfolded = rendered(page).replace("<details>", "<details open>")
    for width, found in zip(widths, measured(unfolded, tmp_path, *widths), strict=True):
        assert (found["width"], found["content"]) == (width, width)
        assert (found["beyond"], found["scrolling"], found["cut"], found["collisions"]) == ([], [], [], 0), width
        assert found["broken"] == 0
        assert found["height"] > 900


def test_large_counts_stay_apart_and_scroll_within_their_table(tmp_path: Path) -> None:
    many = Tally(TALLY.confusion * 30_000, TALLY.unlabelled, TALLY.confidence_sum * 30_000)
    (found,) = measured(rendered(replace(PAGE, tally=many, references=())), tmp_path, 390)
    assert (found["content"], found["cut"]) == (390, [])
    assert "DIV.scroll" in found["scrolling"]


def test_names_without_an_end_do_not_widen_a_phone(tmp_path: Path) -> None:
    (found,) = measured(rendered(LONG_NAMES).replace("<details>", "<details open>"), tmp_path, 390)
    assert (found["content"], found["beyond"]) == (390, [])


def test_what_is_folded_away_on_the_screen_is_printed(tmp_path: Path) -> None:
    (found,) = measured(rendered(PAGE), tmp_path, 800)
    (printed,) = measured(rendered(PAGE).replace("@media print", "@media all"), tmp_path, 800)
    assert found["folded"] > 0
    assert printed["folded"] == 0


@pytest.mark.parametrize("page", [PAGE, LIKE_MNIST], ids=["full", "mnist"])
def test_nothing_printed_runs_over_the_margin_of_an_a4_page(page: Page, tmp_path: Path) -> None:
    (printed,) = measured(rendered(page).replace("@media print", "@media all"), tmp_path, 688)
    assert (printed["beyond"], printed["scrolling"], printed["cut"]) == ([], [], [])


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", [PAGE, UNLABELLED, ALONE, LONG_NAMES], ids=["full", "unlabelled", "alone", "long"])
def test_axe_finds_nothing_that_keeps_anybody_out(page: Page, dark: bool, tmp_path: Path) -> None:
    text = rendered(page).replace("<details>", "<details open>").replace(DARK, "screen" if dark else LIGHT)
    for found in checked(text, tmp_path, 1280, 390):
        assert found["violations"] == []
        assert {"color-contrast", "image-alt", "heading-order", "landmark-unique"} <= {*found["rules"]}


def test_axe_finds_what_is_wrong(tmp_path: Path) -> None:
    faded = rendered(PAGE).replace("--soft: #59636e", "--soft: #c0c0c0").replace(' alt="', ' data-alt="')
    (found,) = checked(faded.replace(DARK, LIGHT), tmp_path, 1280)
    assert {line.partition(":")[0] for line in found["violations"]} >= {"color-contrast", "image-alt"}
