import base64
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.comparison import Paired, Pairs, holm, unpaired
from mnist_pipeline.core.gates import GateOutcome, GateResult, Outcome, Reference
from mnist_pipeline.core.intervals import wilson
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.pipeline.reporting import MAX_EXAMPLES
from mnist_pipeline.report.page import MAX_RUNS, Page, p_text, render_page, sensitivity, sentence
from mnist_pipeline.report.picture import Picture, sure
from mnist_pipeline.report.plots import TrendPoint
from tests.builders import random_images
from tests.report.test_statistics import LIKE

RUN_ID = "2026-01-31-toy-test-0123456789ab"
EARLIER = "2026-01-30-toy-test-0123456789ab"
IMAGES = 3000
SECTIONS = ["digits", "confusion", "confidence", "images", "nights", "flips", "mistakes", "provenance"]


def made_up(images: int, seed: int) -> tuple[Any, Any, Any, Any]:
    """Labels, predictions, confidence and probabilities; the labels are the same for every seed."""
    labels = np.random.default_rng(0).integers(0, 10, images).astype(np.int8)
    random = np.random.default_rng([1, seed])
    probabilities = random.dirichlet([0.05] * 10, images).T
    probabilities[labels, np.arange(images)] += 1.5
    probabilities = (probabilities / probabilities.sum(axis=0)).astype(np.float32)
    swapped = random.random(images) < 0.03
    probabilities[:, swapped] = np.roll(probabilities[:, swapped], 1, axis=0)
    return labels, probabilities.argmax(axis=0).astype(np.int8), probabilities.max(axis=0), probabilities


LABELS, NOW, CONFIDENCE, PROBABILITIES = made_up(IMAGES, seed=1)
_, BEFORE, _, _ = made_up(IMAGES, seed=2)
TALLY = Tally.count(LABELS, NOW, CONFIDENCE)
CALIBRATION = Calibration.count(LABELS, NOW, CONFIDENCE, PROBABILITIES)
PAIRS = Pairs.count(LABELS, BEFORE, NOW)
PIXELS = random_images(40)

LAST = Reference("last passed", EARLIER, None, True, False, int(PAIRS.changed), PAIRS.comparisons())
FRESH = unpaired(Tally.count(LABELS[:900], BEFORE[:900], CONFIDENCE[:900]), TALLY)
BASELINE = Reference("baseline", "2026-01-01-toy-test-aaaaaaaaaaaa", None, False, True, None, FRESH)
LOST_LABELS = Reference("baseline", "2026-01-01-toy-test-aaaaaaaaaaaa", "it has no labels")


def result(gate: str, outcome: GateOutcome, reason: str, **more: Any) -> GateResult:
    given: dict[str, Any] = {
        "against": None, "digit": None, "bound": 0.9, "value": 0.9, "low": 0.8, "high": 1.0, "p": None,
        "detectable": None,
    }  # fmt: skip
    return GateResult(gate=gate, outcome=outcome, reason=reason, **(given | more))


RESULTS = (
    result("min_images", "pass", "3,000 images, at least 10 wanted"),
    result("min_digit_accuracy", "inconclusive", "digit 4 may be worse", digit=4, p=0.25, detectable=0.0123),
    result("min_accuracy", "fail", "accuracy is too low", p=0.00031, detectable=0.004),
    result("max_nll", "pass", "NLL 0.1234, at most 0.2 allowed", detectable=0.0567),
)


def nights(number: int) -> tuple[TrendPoint, ...]:
    found = []
    outcomes: Sequence[Outcome | None] = ("pass", "inconclusive", "fail", None)
    for place in range(number):
        day = date(2026, 1, 31) - timedelta(number - 1 - place)
        bounds = wilson(2900 - place % 7, 3000)
        assert bounds is not None
        accuracy, outcome = (2900 - place % 7) / 3000, outcomes[place % 4]
        found.append(TrendPoint(day, f"{day}-toy-test-0123456789ab", accuracy, bounds.low, bounds.high, outcome))
    return tuple(found)


def flip(place: int, direction: str | None = "lost", label: int | None = 4) -> Picture:
    return Picture(1000 + place, PIXELS[place % 40], label, 6, 0.81, 4, 0.93, direction)


def mistake(place: int) -> Picture:
    return Picture(2000 + place, PIXELS[place % 40], 4, 6, 0.99985)


PAGE = Page(
    run_id=RUN_ID,
    run_date=date(2026, 1, 31),
    dataset="toy",
    split="test",
    outcome="fail",
    results=RESULTS,
    notes=("the baseline is old",),
    tally=TALLY,
    calibration=CALIBRATION,
    references=(LAST, BASELINE),
    trend=nights(30),
    flips=(flip(0), flip(1, "gained", 6), flip(2, "still wrong", 8)),
    flips_total=123,
    mistakes=(mistake(3), mistake(4)),
    mistakes_total=77,
    provenance={"weights sha256": "e6fff37c" * 8, "numpy": "2.4.6", "batch_rows": "2048"},
    inputs={"this run": LIKE, "last passed run": replace(LIKE, blank=0), "baseline run": None},
)
UNLABELLED = replace(
    PAGE,
    outcome="inconclusive",
    tally=Tally.count(None, NOW, CONFIDENCE),
    calibration=Calibration.empty(),
    references=(replace(LAST, comparisons=()),),
    trend=(),
    flips=(flip(0, "changed", None),),
    flips_total=1,
    mistakes=(),
    mistakes_total=0,
)
ALONE = replace(PAGE, references=(), flips=(), flips_total=0, trend=nights(1))
WITHOUT_FOURS = Tally.count(LABELS[LABELS != 4], NOW[LABELS != 4], CONFIDENCE[LABELS != 4])
NO_FOURS_BEFORE = replace(LAST, comparisons=unpaired(WITHOUT_FOURS, WITHOUT_FOURS))
ALL_RIGHT = replace(
    PAGE,
    outcome="pass",
    results=RESULTS[:1],
    tally=Tally.count(LABELS, LABELS, CONFIDENCE),
    references=(replace(LAST, changed=0, comparisons=Pairs.count(LABELS, LABELS, LABELS).comparisons()),),
    flips=(),
    flips_total=0,
    mistakes=(),
    mistakes_total=0,
)
ALL_WRONG = replace(PAGE, tally=Tally.count(LABELS, (LABELS + 1) % 10, CONFIDENCE))
FOURFOLD = Tally(TALLY.confusion * 4, TALLY.unlabelled, TALLY.confidence_sum * 4)
LIKE_MNIST = replace(PAGE, tally=FOURFOLD)  # counts of four digits
NOTHING = replace(UNLABELLED, tally=Tally.empty(), references=(), flips=(), flips_total=0, results=(), notes=())
ODD = {
    "unlabelled": UNLABELLED,
    "no references": ALONE,
    "no verdict": replace(ALONE, outcome=None, results=(), notes=()),
    "a reference that cannot be compared": replace(PAGE, references=(LOST_LABELS,), flips=(), flips_total=0),
    "different images": replace(PAGE, references=(BASELINE,), flips=(), flips_total=0),
    "a digit without images": replace(PAGE, tally=WITHOUT_FOURS, references=(NO_FOURS_BEFORE,)),
    "all right": ALL_RIGHT,
    "all wrong": ALL_WRONG,
    "no images": NOTHING,
    "no provenance": replace(PAGE, provenance={}),
    "images not known": replace(PAGE, inputs={"this run": None, "last passed run": None}),
}  # fmt: skip


class Reader(HTMLParser):
    """What a page says: its words by section, its attributes, and whether every element is closed in order."""

    VOID = ("meta", "img", "br")
    BLOCKS = (
        "p",
        "td",
        "th",
        "li",
        "dt",
        "dd",
        "small",
        "h1",
        "h2",
        "h3",
        "text",
        "figcaption",
        "summary",
        "br",
        "div",
    )

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.opened: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.section = "top"
        self.words: dict[str, list[str]] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        if tag in self.BLOCKS:
            self.words.setdefault(self.section, []).append("\n")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.words.setdefault(self.section, []).append(data.replace("\n", " "))

    def text(self, section: str | None = None) -> str:
        """Words with one space between them, one line for each block; of all sections, or one."""
        parts = self.words[section] if section else [part for words in self.words.values() for part in words]
        lines = (" ".join(line.split()) for line in "".join(parts).split("\n"))
        return "\n".join(line for line in lines if line)

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]


_RENDERED: dict[int, tuple[Page, str]] = {}


def rendered(page: Page) -> str:
    """As `render_page`, once for each page: the plots take their time."""
    if id(page) not in _RENDERED:
        _RENDERED[id(page)] = page, render_page(page)  # with the page, so that no other one gets its id
    return _RENDERED[id(page)][1]


def read(page: Page) -> Reader:
    return Reader(rendered(page))


@pytest.fixture(scope="module")
def full() -> Reader:
    return read(PAGE)


# The whole


def test_the_verdict_comes_first_and_the_sections_in_order(full: Reader) -> None:
    assert list(full.words)[-len(SECTIONS) :] == SECTIONS
    assert [value for tag, name, value in full.attributes if (tag, name) == ("section", "id")] == SECTIONS
    assert full.opened.index("h1") < full.opened.index("h2")
    assert full.text("top").startswith(
        f"toy/test, night of 2026-01-31\nFail\n4 gates: 1 failed, 1 inconclusive, 2 passed.\n{RUN_ID}"
    )


@pytest.mark.parametrize("name", ODD)
def test_every_page_is_well_formed_and_says_nothing_senseless(name: str) -> None:
    page = rendered(ODD[name])
    reader = Reader(page)
    assert reader.open == []
    assert page.startswith("<!doctype html>")
    assert not re.search(r"\b(None|nan|inf|Undefined)\b", reader.text())
    assert "nan" not in " ".join(value for _, found, value in reader.attributes if found in {"x1", "x2", "cx", "style"})
    assert list(reader.words)[-len(SECTIONS) :] == SECTIONS or not ODD[name].provenance


@pytest.mark.parametrize("page", [PAGE, UNLABELLED])
def test_a_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    text = rendered(page)
    reader = Reader(text)
    assert not {"script", "link", "iframe", "object", "base"} & set(reader.opened)
    assert all(value.startswith("data:image/png;base64,") for value in reader.values("src"))
    assert all(value.startswith("#") for value in reader.values("href"))
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "@import" not in text
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in reader.values("content")
    assert "://" not in text


def test_ids_are_unique_and_every_link_leads_somewhere(full: Reader) -> None:
    ids = full.values("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in full.values("href")} <= set(ids)


def test_the_same_night_is_the_same_text() -> None:
    assert render_page(PAGE) == rendered(PAGE)


def test_a_page_with_full_galleries_and_a_year_of_nights_is_small() -> None:
    flips = tuple(flip(place, label=place % 10) for place in range(MAX_EXAMPLES))
    mistakes = tuple(replace(mistake(place), label=place % 10) for place in range(MAX_EXAMPLES))
    page = render_page(replace(PAGE, flips=flips, mistakes=mistakes, trend=nights(2 * MAX_RUNS)))
    assert page.count("<img ") == 2 * MAX_EXAMPLES
    assert len(page.encode()) < 1_300_000  # of random pixels: those of digits take a fifth
    assert f"The latest {MAX_RUNS} of {2 * MAX_RUNS} runs." in page


MARKUP = "<script>alert('1')</script>&\"<b>"


def test_markup_from_outside_is_shown_and_not_obeyed() -> None:
    page = render_page(
        replace(
            PAGE,
            run_id=MARKUP,
            dataset=MARKUP,
            split=MARKUP,
            notes=(MARKUP,),
            results=(result(MARKUP, "fail", MARKUP, against=MARKUP), result(MARKUP, "pass", MARKUP)),
            references=(replace(LAST, against=MARKUP, run_id=MARKUP), replace(LOST_LABELS, problem=MARKUP)),
            trend=(replace(PAGE.trend[0], run_id=MARKUP),),
            flips=(flip(0, MARKUP),),
            provenance={MARKUP: MARKUP},
        )
    )
    reader = Reader(page)
    assert not {"script"} & set(reader.opened)
    assert reader.open == []
    assert page.count("<b>") == PAGE.mistakes.__len__() + 1  # the numbers of the images
    assert reader.text().count("alert('1')") >= 14


# The verdict


@pytest.mark.parametrize(
    ("outcome", "word", "shape"),
    [
        ("pass", "Pass", "circle"),
        ("fail", "Fail", "rect"),
        ("inconclusive", "Inconclusive", "polygon"),
        (None, "No verdict", "circle"),
    ],
)
def test_the_verdict_is_a_word_and_a_shape(outcome: Outcome | None, word: str, shape: str) -> None:
    page = render_page(replace(PAGE, outcome=outcome))
    heading = page[page.index("<h1>") : page.index("</h1>")]
    assert heading.endswith(word)
    assert re.findall(r"<(circle|rect|polygon) (class=\"hollow\")?", heading) == [
        (shape, "" if outcome else 'class="hollow"')
    ]
    assert f"<title>{word}: toy/test, night of 2026-01-31</title>" in page


def test_gates_that_did_not_pass_are_in_sight_the_worst_first_and_the_others_are_folded(full: Reader) -> None:
    page = rendered(PAGE)
    assert (
        page.index("min_accuracy")
        < page.index("min_digit_accuracy")
        < page.index("<details")
        < page.index("min_images")
    )
    text = full.text("top")
    assert "fail min_accuracy\nAccuracy is too low. (p 0.00031)\n" in text
    assert "Digit 4 may be worse. (p 0.25; a shortfall of 1.23 points would have failed it" in text
    assert "2 passed\n" in text
    assert "NLL 0.1234, at most 0.2 allowed. (an excess of 0.0567 would have failed it)" in text
    assert "The baseline is old." in text


@pytest.mark.parametrize(
    ("page", "line"),
    [
        (replace(PAGE, outcome=None, results=()), "This run has not been judged."),
        (replace(PAGE, outcome="pass", results=()), "Nothing was judged."),
        (replace(PAGE, outcome="pass", results=RESULTS[:1]), "1 gate: 1 passed."),
    ],
)
def test_the_gates_are_counted_in_words(page: Page, line: str) -> None:
    assert line in read(page).text("top")


def test_accuracy_and_differences_stand_with_their_intervals(full: Reader) -> None:
    bounds, text = wilson(TALLY.correct, TALLY.labelled), full.text("top")
    assert bounds is not None
    assert f"{100 * TALLY.correct / IMAGES:.2f} %\n{TALLY.correct:,} of 3,000 images" in text
    assert f"95 % interval {100 * bounds.low:.2f} % to {100 * bounds.high:.2f} %" in text
    for reference in (LAST, BASELINE):
        whole = reference.comparisons[0]
        interval = whole.interval()
        assert interval is not None
        assert whole.difference is not None
        assert f"Against the {reference.against} run\n{100 * whole.difference:+.2f} points\n" in text
        assert f"95 % interval {100 * interval.low:+.2f} to {100 * interval.high:+.2f}, p {p_text(whole.p)}\n" in text
        assert reference.run_id in text
    paired = LAST.comparisons[0]
    assert isinstance(paired, Paired)
    assert f"{paired.lost} images lost, {paired.gained} gained" in text
    assert f"the same images, different weights; {LAST.changed} predictions changed; McNemar exact, Tango" in text
    assert "different images, the same weights; Fisher exact, Newcombe" in text


# The sections


def test_the_architectures_of_a_reference_stand_there_if_they_differ() -> None:
    text = read(replace(PAGE, architectures={"baseline": "784-10 -> 784-200-10 relu"})).text()
    assert "different images, the same weights: 784-10 -> 784-200-10 relu; Fisher" in text
    assert f"different weights; {LAST.changed}" in text


def test_every_figure_of_every_digit_is_in_the_table(full: Reader) -> None:
    text = full.text("digits")
    corrected = holm([line.p for line in LAST.comparisons[1:]])
    for score, line, p in zip(TALLY.scores(), LAST.comparisons[1:], corrected, strict=True):
        interval = line.interval()
        assert interval is not None
        assert score.accuracy is not None
        assert score.accuracy_low is not None
        assert score.accuracy_high is not None
        assert score.precision is not None
        assert line.difference is not None
        expected = [
            *(str(score.digit), f"{score.correct:,}", f"of {score.images:,}", f"{100 * score.accuracy:.2f} %"),
            f"{100 * score.accuracy_low:.2f} to {100 * score.accuracy_high:.2f}",
            f"{score.correct:,} of {score.images:,}",
            *(f"{100 * score.precision:.2f} %", f"{score.f1:.4f}", f"{score.mean_confidence:.3f}"),
            f"{score.top_wrong_prediction} ({score.top_wrong_count}x)",
            *(f"{100 * line.difference:+.2f}", f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"),
            *(f"p {p_text(p)}", p_text(p)),
        ]  # fmt: skip
        assert "\n".join(expected) in text


def test_the_bars_lie_where_the_numbers_are(full: Reader) -> None:
    points = [
        float(value[:-1])
        for tag, name, value in full.attributes
        if (tag, name) == ("circle", "cx") and value.endswith("%")
    ]
    drawn, accuracies = points[0::2], [score.accuracy or 0.0 for score in TALLY.scores()]
    assert len(points) == 22
    assert all(0 < point < 100 for point in points)
    assert np.corrcoef(drawn[:10], accuracies)[0, 1] == pytest.approx(1, abs=1e-3)


def test_digits_are_compared_with_the_first_reference_that_can_be() -> None:
    text = read(replace(PAGE, references=(LOST_LABELS, LAST))).text("digits")
    assert "against the last passed run" in text
    assert "Difference" not in read(replace(PAGE, references=(LOST_LABELS,))).text("digits")


def test_every_count_is_in_the_matrix_and_errors_are_coloured_by_their_share() -> None:
    page = rendered(PAGE)
    matrix = page[page.index('<table class="confusion') :]
    cells = re.findall(r'<td class="(right|wrong|zero)"(?: style="--heat:([\d.]+)")?>(\d+)</td>', matrix)
    assert [int(count) for _, _, count in cells] == TALLY.confusion.ravel().tolist()
    for place, (kind, heat, count) in enumerate(cells):
        label, prediction = divmod(place, 10)
        assert kind == ("right" if label == prediction else "wrong" if int(count) else "zero")
        assert bool(heat) == (kind == "wrong")
        if heat:
            errors = int(TALLY.confusion[label].sum() - TALLY.confusion[label, label])
            assert float(heat) == pytest.approx(0.08 + 0.62 * int(count) / errors, abs=0.006)


def test_the_calibration_scores_are_shown(full: Reader) -> None:
    text, scores = full.text("confidence"), CALIBRATION.scores()
    assert scores is not None
    for value in (scores.ece, scores.ece_noise, scores.nll, scores.nll_error, scores.brier, scores.brier_error):
        assert f"{value:.4f}" in text
    assert f"{100 * scores.top2_accuracy:.2f} %" in text
    assert "of the images predicted with 80 % confidence 80 % are right" in text
    for item in CALIBRATION.bins():
        if item.images:
            assert (
                f"{item.images:,}\n{100 * (item.mean_confidence or 0):.2f} %\n{100 * (item.accuracy or 0):.2f} %"
                in text
            )


def test_the_nights_are_listed_latest_first(full: Reader) -> None:
    text = full.text("nights")
    expected = [night.run_id for night in reversed(PAGE.trend)]
    assert [line for line in text.split("\n") if "-toy-test-" in line] == expected
    for night in PAGE.trend:
        assert f"{night.run_date}\n{night.outcome or 'no verdict'}\n{100 * night.accuracy:.2f} %" in text


def test_galleries_show_the_very_images_with_their_captions(full: Reader) -> None:
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2])))) for value in full.values("src")
    ]
    assert [bool((255 - image == PIXELS[place % 40]).all()) for place, image in enumerate(shown)] == [True] * 5
    flips, mistakes = full.text("flips"), full.text("mistakes")
    changed = f"mnist-pipeline images {RUN_ID} --changed --count 123"
    wrong = f"mnist-pipeline images {RUN_ID} --wrong --count 77"
    assert "123 images are predicted as another digit than in the last passed run." in flips
    assert f"other way round. 3 are shown, the lost ones first, the most confident first; {changed} lists all." in flips
    assert "lost, all digits: 1 image, taken for 6 (1)\n#1000 label 4\nwas 4 (93 %)\nnow 6 (81 %)\n" in flips
    assert "still wrong, all digits: 1 image, taken for 6 (1)\n#1002 label 8\nwas 4 (93 %)\nnow 6 (81 %)" in flips
    assert "77 images are predicted wrongly." in mistakes
    assert f"of each pair first. The 2 most confident are shown; {wrong} lists all, and --label 9" in mistakes
    assert "#2003\n4 → 6 (99.98 %)" in mistakes
    assert rendered(PAGE).count("image-rendering: pixelated") == 1


def test_galleries_of_many_images_are_folded_by_label_and_the_first_ones_are_open() -> None:
    wrong = tuple(
        replace(mistake(place), label=label, prediction=prediction)
        for place, (label, prediction) in enumerate([(9, 4), (8, 3), (9, 4), (9, 7), *[(8, 2)] * 12, *[(5, 3)] * 30])
    )
    page = rendered(replace(PAGE, mistakes=wrong, tally=ALL_WRONG.tally))
    section = Reader(page[page.index('<section id="mistakes"') : page.index('<section id="provenance"')])
    totals = [score.images for score in ALL_WRONG.tally.scores()]
    titles = [line for line in section.text().split("\n") if line.startswith("label")]
    assert titles == [
        f"label 5: 30 of {totals[5]} images, taken for 3 (30)",
        f"label 8: 13 of {totals[8]} images, taken for 2 (12), 3 (1)",
        f"label 9: 3 of {totals[9]} images, taken for 4 (2), 7 (1)",
    ]
    assert re.findall(r"#(\d+)", section.text())[-3:] == ["2000", "2002", "2003"]
    assert [name for tag, name, _ in section.attributes if (tag, name) == ("details", "open")] == ["open"]


def test_the_most_common_mistakes_lead_to_their_images() -> None:
    label, prediction = divmod(int((TALLY.confusion * (1 - np.eye(10, dtype=int))).argmax()), 10)
    reader = read(replace(PAGE, mistakes=(replace(mistake(1), label=label, prediction=prediction),)))
    assert f"#wrong-{label}-{prediction}" in reader.values("href")
    assert f"wrong-{label}-{prediction}" in reader.values("id")
    assert f"images of {label} taken for {prediction}" in reader.text("confusion")


def test_images_without_pixels_are_listed_all_the_same() -> None:
    reader = read(replace(PAGE, flips=(replace(flip(0), pixels=None),), mistakes=()))
    assert "img" not in [tag for tag, _, _ in reader.attributes]
    assert "#1000 label 4\nwas 4 (93 %)\nnow 6 (81 %)" in reader.text("flips")


# What those need who do not see it, or have no mouse


@pytest.mark.parametrize("page", [PAGE, UNLABELLED], ids=["full", "unlabelled"])
def test_tables_pictures_and_scrolling_parts_have_names_and_the_keyboard_reaches_them(page: Page) -> None:
    text = rendered(page)
    reader = Reader(text)
    assert reader.opened.count("main") == 1
    assert len(re.findall(r"<table[^>]*>\s*<caption[^>]*>\w", text)) == reader.opened.count("table") > 0
    scrolling = re.findall(r'<div class="scroll"([^>]*)>', text)
    assert all(re.fullmatch(r' role="region" aria-label="\w[^"]+" tabindex="0"', found) for found in scrolling)
    assert len({*scrolling}) == len(scrolling) > 0
    alternatives = [value for tag, name, value in reader.attributes if (tag, name) == ("img", "alt")]
    assert alternatives
    assert all("handwritten" in each and "taken for 6" in each for each in alternatives)
    drawings = [value for tag, name, value in reader.attributes if (tag, name) == ("svg", "aria-label")]
    assert all(re.search(r"\d", each) for each in drawings)
    levels = [int(tag[1]) for tag in reader.opened if re.fullmatch(r"h\d", tag)]
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_provenance_is_shown_in_order(full: Reader) -> None:
    expected = [part for item in PAGE.provenance.items() for part in item]
    assert full.text("provenance").split("\n")[1:] == expected


# What may be missing


def test_a_run_without_labels_says_so_and_shows_what_was_predicted() -> None:
    reader = read(UNLABELLED)
    assert "accuracy\nnot known\n3,000 images without labels:\npredictions without accuracy" in reader.text("top")
    for digit, count in enumerate(UNLABELLED.tally.unlabelled.tolist()):
        assert f"\n{digit}\n{count:,}\n{100 * count / IMAGES:.2f} %" in reader.text("digits")
    for section in ("confusion", "confidence", "mistakes"):
        assert "No labels" in reader.text(section)
    assert "changed, all digits: 1 image, taken for 6 (1)\n#1000\nwas 4 (93 %)\nnow 6 (81 %)" in reader.text("flips")
    assert "1 image is predicted as another digit" in reader.text("flips")
    assert "No run with an accuracy" in reader.text("nights")


def test_the_images_of_each_run_stand_side_by_side_and_those_of_earlier_versions_are_not_known(full: Reader) -> None:
    said = full.text("images")
    assert "\nproperty\nthis run\nlast passed run\nbaseline run\n" in said
    assert "\nblank images\n3\nof 100, 3.00 %\n0\nof 100\nnot known\n" in said
    assert "\ncentre, row\n25.71\n10, 27, 27\n25.71\n10, 27, 27\nnot known\n" in said


def test_images_without_label_beside_others_are_counted() -> None:
    some = TALLY + Tally.count(None, NOW[:7], CONFIDENCE[:7])
    reader = read(replace(PAGE, tally=some, trend=(replace(nights(1)[0], labelled=3000),)))
    assert "7 images without label are not among these." in reader.text("digits")
    assert "of 3,000 images; 7 more without a label" in reader.text("top")
    assert "of 3,000 images with a label" in reader.text("nights")


@pytest.mark.parametrize(
    ("name", "section", "words"),
    [
        ("no references", "top", "No run to compare with."),
        ("no references", "flips", "No run to compare with."),
        ("no verdict", "top", "No verdict"),
        ("a reference that cannot be compared", "top", "Cannot be compared: it has no labels"),
        ("a reference that cannot be compared", "flips", "No run over the same images to compare with."),
        ("different images", "flips", "No run over the same images to compare with."),
        ("a digit without images", "digits", "\n4\nno images\n"),
        ("all right", "flips", "No prediction changed against the last passed run."),
        ("all right", "mistakes", "No image is predicted wrongly."),
        ("all right", "confusion", "Most common mistakes\nNo mistakes."),
        ("all wrong", "digits", "0.00 %"),
        ("no images", "digits", "\n0\n0\n-\n"),
        ("images not known", "images", "Not known: an earlier version published this run."),
    ],
)
def test_what_is_missing_is_said(name: str, section: str, words: str) -> None:
    assert words in read(ODD[name]).text(section)


def test_changed_predictions_without_example_images_are_counted() -> None:
    page = replace(PAGE, flips=(), flips_total=0)
    assert f"{LAST.changed} predictions changed against the last passed run; none is shown." in read(page).text("flips")


# Words and numbers


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "1.00"),
        (0.25, "0.25"),
        (0.0994, "0.099"),
        (0.034, "0.034"),
        (0.00031, "0.00031"),
        (0.0001, "0.0001"),
        (0.00009, "< 0.0001"),
        (0.0, "< 0.0001"),
    ],
)
def test_p_values_have_two_digits_that_mean_something(p: float, text: str) -> None:
    assert p_text(p) == text


@pytest.mark.parametrize(
    ("confidence", "text"), [(0.81, "81 %"), (0.994, "99 %"), (0.9998, "99.98 %"), (0.99999, "99.99 %"), (1.0, "100 %")]
)
def test_only_certainty_is_100_percent(confidence: float, text: str) -> None:
    assert sure(confidence) == text


def test_a_sentence_starts_and_ends_as_one() -> None:
    assert [sentence(text) for text in ("not compared", "Done.", "why?", " x ", "")] == [
        "Not compared.", "Done.", "Why?", "X.", ".",
    ]  # fmt: skip


def test_the_detectable_loss_is_shown_unless_the_gate_failed() -> None:
    assert (
        sensitivity(result("max_loss", "pass", "", detectable=0.0042)) == "a loss of 0.42 points would have failed it"
    )
    assert (
        sensitivity(result("max_brier", "inconclusive", "", detectable=0.0042))
        == "an excess of 0.0042 would have failed it"
    )
    assert sensitivity(result("max_loss", "fail", "", detectable=0.0042)) == ""
    assert sensitivity(result("max_loss", "pass", "")) == ""
