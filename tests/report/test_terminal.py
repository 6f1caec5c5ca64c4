import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from mnist_pipeline.core.comparison import Comparison, Paired, Unpaired
from mnist_pipeline.core.gates import GateOutcome, GateResult, Outcome, Reference
from mnist_pipeline.core.intervals import wilson
from mnist_pipeline.core.tally import DigitScore, Tally
from mnist_pipeline.report import terminal
from mnist_pipeline.report.picture import Picture
from mnist_pipeline.verdicts.reading import comparison_rows


def printed(what: RenderableType, width: int = 200) -> str:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(what)
    return file.getvalue()


def scores_of(confusion: list[list[int]]) -> tuple[DigitScore, ...]:
    matrix = np.array(confusion, np.int64)
    return Tally(matrix, np.zeros(10, np.int64), 0.999 * matrix.sum(axis=1)).scores()


# The table of digits


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 99_999), st.floats(0, 1))
def test_the_table_of_digits_is_at_most_80_wide(seed: int, most: int, share: float) -> None:
    # Up to 999,999 images of a digit, some of the hundred cells empty.
    random = np.random.default_rng(seed)
    confusion = random.integers(0, most, (10, 10), endpoint=True) * (random.random((10, 10)) < share)
    lines = printed(terminal.digits_table(scores_of(confusion.tolist()))).splitlines()
    assert max(map(len, lines)) <= 80


def test_the_widest_table_fits_80_columns_and_nothing_is_cut() -> None:
    # Six-digit counts everywhere, every digit all right or all wrong.
    right = [[999_999 if row == column else 0 for column in range(10)] for row in range(10)]
    wrong = [[999_999 if column == (row + 1) % 10 else 0 for column in range(10)] for row in range(10)]
    for confusion in (right, wrong):
        table = terminal.digits_table(scores_of(confusion))
        wide, fitting = printed(table), printed(table, 80)
        assert [line.rstrip() for line in fitting.splitlines()] == [line.rstrip() for line in wide.splitlines()]
        assert "…" not in fitting
        assert "999,999" in fitting
    assert "(999,999x)" in printed(terminal.digits_table(scores_of(wrong)), 80)


def test_the_table_has_a_line_for_each_digit_in_order() -> None:
    lines = printed(terminal.digits_table(scores_of([[1] * 10] * 10))).splitlines()
    assert [int(line.split()[0]) for line in lines[-10:]] == list(range(10))


def test_every_cell_of_a_digit() -> None:
    score = DigitScore(3, 1010, 998, 980, 0.97029, 0.958, 0.9791, 0.98196, 0.97610, 0.9444, 8, 12)
    line = printed(terminal.digits_table([score])).splitlines()[-1].split()
    assert line == [
        *("3", "1,010", "980"),
        *("97.03", "%"),
        "95.80-97.91",
        *("98.20", "%"),
        *("0.976", "0.944"),
        *("8", "(12x)"),
    ]


def test_what_cannot_be_known_is_a_dash_and_never_none_or_nan() -> None:
    seven = Tally.count(np.array([7], np.int8), np.array([7], np.int8), np.array([0.5], np.float32))
    unknown, *_, known, _, _ = seven.scores()
    text = printed(terminal.digits_table([known, unknown]))
    assert text.splitlines()[-1].split() == ["0", "0", "0", "-", "-", "-", "-", "-", "-"]
    assert "None" not in text
    assert "nan" not in text


# Single lines


@pytest.mark.parametrize(
    ("share", "text"), [(None, "-"), (0.0, "0.00 %"), (1.0, "100.00 %"), (0.98186, "98.19 %"), (0.5, "50.00 %")]
)
def test_a_share_is_a_percentage_with_two_decimals(share: float | None, text: str) -> None:
    assert terminal.percent(share) == text


def test_the_line_of_accuracy_has_its_interval() -> None:
    interval = wilson(9818, 10_000)
    assert interval is not None
    assert terminal.accuracy_line(9818, 10_000, 10_000) == (
        f"accuracy 98.18 % (9,818 of 10,000), 95 % interval {100 * interval.low:.2f} % to {100 * interval.high:.2f} %"
    )


def test_an_accuracy_of_some_images_says_how_many_have_no_label() -> None:
    assert terminal.accuracy_line(1, 1, 6).startswith("accuracy 100.00 % (1 of 1; 5 more without a label), 95 %")
    cells = [terminal.accuracy_cell(0.5, labelled, 4000) for labelled in (2000, 4000)]
    assert [*cells, terminal.accuracy_cell(None, 0, 4000)] == ["50.00 % of 2,000", "50.00 %", "-"]


def test_without_labels_there_is_no_accuracy_to_tell() -> None:
    assert terminal.accuracy_line(0, 0, 5) == "no labels: predictions without accuracy"


def test_a_path_below_the_current_folder_is_shown_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert terminal.path_line(tmp_path / "outputs" / "x") == "outputs/x"
    assert terminal.path_line(tmp_path.parent / "x") == str(tmp_path.parent / "x")


RUN_LINE = terminal.RunLine(
    "2026-01-31-mnist-test-0123456789ab", "10,000", "98.18 %", "pass", "a879db9f", "784-200-10 relu", "2026-02-01 02:30"
)


@pytest.mark.parametrize(("width", "seen"), [(200, 6), (90, 6), (89, 5), (80, 5), (79, 4), (62, 4), (61, 3), (9, 3)])
def test_the_list_of_runs_loses_columns_and_no_digits_on_a_narrow_terminal(width: int, seen: int) -> None:
    heading, _, shown, *rest = printed(terminal.runs_table([RUN_LINE], width), terminal.UNBROKEN).splitlines()
    assert len(shown.rstrip()) <= max(width, 52)  # a terminal breaks what is wider than it, and loses nothing
    assert [RUN_LINE.run_id in shown, "98.18 %" in shown, "pass" in shown] == [True] * 3
    assert len(re.findall(r"run|images|accuracy|verdict|weights|published", heading)) == seen
    assert [re.match(rf"columns left out: {6 - seen} \(.*\); .* --json shows them", line) is None for line in rest] == (
        [False] if seen < 6 else []
    )


def test_the_list_of_runs_names_architectures_if_there_are_several() -> None:
    unread = replace(RUN_LINE, architecture="-")
    assert "relu" not in printed(terminal.runs_table([RUN_LINE, unread]), terminal.UNBROKEN)
    table = terminal.runs_table([RUN_LINE, replace(RUN_LINE, architecture="784-10")])
    heading, _, *lines = printed(table, terminal.UNBROKEN).splitlines()
    assert ["architecture" in heading, *("784-200-10 relu" in line for line in lines)] == [True, True, False]


@pytest.mark.parametrize("width", [80, 60, 40, 5])
def test_no_table_cuts_a_number(width: int) -> None:
    paired: list[Comparison] = [Paired(digit, 1_234_567, 0, 1_234_567, 0) for digit in (None, *range(10))]
    scores = scores_of([[1_111_111] * 10] * 10)
    decision = ("2026-01-31-mnist-test-0123456789ab", "1,234.5 MB", "delete", "of 2026-01-31\x1b[2J")
    for table, wanted in (
        (terminal.digits_table(scores, width), "10.00 %"),
        (terminal.comparison_table(comparison_rows(paired), width), "-100.00"),
        (terminal.decisions_table([decision], width), decision[0]),
    ):
        text = printed(table, terminal.UNBROKEN)
        assert wanted in text
        assert "…" not in text
        assert "\x1b" not in text


# Digits


def test_a_digit_is_drawn_in_half_blocks_two_rows_to_a_line() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[0, 0] = image[1, 1] = image[2, 2] = image[3, 2] = 255
    image[27, 27] = terminal.INK
    image[26, 27] = terminal.INK - 1
    lines = terminal.digit_blocks(image).plain.split("\n")
    assert [len(line) for line in lines] == [28] * 14
    assert lines[0].rstrip() == "▀▄"
    assert lines[1].rstrip() == "  █"
    assert lines[13] == " " * 27 + "▄"


@given(st.integers(0, 400))
def test_as_many_digits_stand_side_by_side_as_fit(width: int) -> None:
    columns = terminal.columns_that_fit(width)
    assert columns >= 1
    assert columns * 30 <= max(width, 30) < (columns + 1) * 30


@pytest.mark.parametrize(("number", "columns"), [(1, 1), (2, 2), (5, 2), (4, 6)])
def test_a_grid_shows_every_image_under_its_caption(number: int, columns: int) -> None:
    images = [np.full((28, 28), 255 if index % 2 else 0, np.uint8) for index in range(number)]
    captions = [f"#{index}" for index in range(number)]
    lines = printed(terminal.digits_grid(images, captions, columns), 30 * columns).splitlines()
    found = [line.split() for line in lines if "#" in line]
    assert found == [captions[start : start + columns] for start in range(0, number, columns)]
    assert sum(line.count("█") for line in lines) == 28 * 14 * (number // 2)
    assert max(map(len, lines)) <= 30 * columns


# Verdicts


def result(gate: str, outcome: GateOutcome, reason: str = "because", digit: int | None = None) -> GateResult:
    return GateResult(gate, None, digit, outcome, 0.5, 0.25, None, None, None, None, reason)


def lines_of(results: list[GateResult], outcome: Outcome = "fail", **more: Any) -> list[str]:
    given: dict[str, Any] = {"references": (), "notes": ()} | more
    return [line.plain for line in terminal.verdict_lines(outcome, results, **given)]


def test_a_verdict_is_its_outcome_and_how_many_gates_passed() -> None:
    results = [result("min_images", "pass"), result("max_nll", "pass")]
    assert lines_of(results, "pass") == ["verdict: pass (2 of 2 gates passed)"]
    assert lines_of([], "none") == ["verdict: none (nothing was judged)"]


def test_gates_that_did_not_pass_are_listed_worst_first_and_in_order() -> None:
    results = [
        result("a", "inconclusive", "one"),
        result("b", "fail", "two"),
        result("c", "pass", "three"),
        result("d", "inconclusive", "four"),
        result("e", "fail", "five"),
    ]
    assert lines_of(results) == [
        "verdict: fail (1 of 5 gates passed)",
        "  fail  b: two",
        "  fail  e: five",
        "  inconclusive  a: one",
        "  inconclusive  d: four",
    ]


def test_references_and_notes_come_last() -> None:
    references = (Reference("last passed", "run-1"), Reference("baseline", "run-2", problem="gone"))
    found = lines_of([result("a", "fail")], references=references, notes=("no labels",))
    assert found[2:] == ["  last passed: run-1", "  baseline: run-2", "  no labels"]


@pytest.mark.parametrize(
    ("outcome", "style"), [("pass", "green"), ("inconclusive", "yellow"), ("fail", "bold red"), ("none", "dim")]
)
def test_the_outcome_has_its_colour(outcome: Outcome, style: str) -> None:
    (first, *_) = terminal.verdict_lines(outcome, [result("a", outcome)] if outcome != "none" else [], (), ())
    assert first.style == style


def test_markup_in_a_reason_is_printed_as_it_is() -> None:
    (line,) = terminal.verdict_lines("fail", [result("a", "fail", "[b]part[/b]")], (), ())[1:]
    assert printed(line) == "  fail  a: [b]part[/b]\n"


# Comparisons


@pytest.mark.parametrize(
    ("reference", "line"),
    [
        (
            Reference("x", "y", same_images=True, changed=1234),
            "the same images, different weights; predictions changed: 1,234",
        ),
        (
            Reference("x", "y", same_images=True, same_weights=True, changed=0),
            "the same images, the same weights; predictions changed: 0",
        ),
        (
            Reference("x", "y", same_images=True, same_labels=False, same_weights=True, changed=0),
            "the same images, different labels, the same weights; predictions changed: 0",
        ),
        (Reference("x", "y", same_weights=True), "different images, the same weights"),
        (Reference("x", "y"), "different images, different weights"),
    ],
)
def test_a_line_says_what_two_runs_share(reference: Reference, line: str) -> None:
    assert terminal.changes_line(reference, "784-10", "784-10") == line


def test_a_line_names_the_architectures_of_two_runs_if_they_differ() -> None:
    line = terminal.changes_line(Reference("x", "y", same_images=True, changed=3), "784-10", "784-200-10 relu")
    assert line == "the same images, different weights: 784-10 -> 784-200-10 relu; predictions changed: 3"


def table_of(lines: list[Comparison], width: int = 80) -> list[list[str]]:
    text = printed(terminal.comparison_table(comparison_rows(lines)), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    return [line.split() for line in text.splitlines()[2:]]


def test_a_comparison_has_a_line_for_all_and_for_each_digit() -> None:
    lines: list[Comparison] = [Paired(None, 1000, 900, 30, 10), *(Paired(d, 100, 90, 3, 1) for d in range(10))]
    rows = table_of(lines)
    assert [row[0] for row in rows] == ["all", *"0123456789"]
    assert rows[0][1:5] == ["1,000", "30", "10", "-2.00"]
    assert rows[0][-1] == f"{lines[0].p:.4f}"  # of all together there is nothing to correct
    assert rows[1][-2:] == ["0.6250", "(1.0000)"]


def test_the_widest_comparison_fits_80_columns_and_nothing_is_cut() -> None:
    million = 9_999_999
    paired: list[Comparison] = [Paired(digit, million, 0, million, 0) for digit in (None, *range(10))]
    rows = table_of(paired)
    assert rows[1][1:5] == ["9,999,999", "9,999,999", "0", "-100.00"]
    assert rows[1][-2:] == ["<0.0001", "(<0.0001)"]
    fresh: list[Comparison] = [Unpaired(digit, million, 0, million, million) for digit in (None, *range(10))]
    assert table_of(fresh)[1][1:5] == ["9,999,999", "-", "-", "-100.00"]


def test_a_digit_that_cannot_be_compared_has_dashes() -> None:
    lines: list[Comparison] = [Paired(None, 0, 0, 0, 0), *(Paired(digit, 0, 0, 0, 0) for digit in range(10))]
    assert table_of(lines)[1] == ["0", "0", "0", "0", "-", "-", "1.0000", "(1.0000)"]


def test_images_that_have_keys_are_listed_with_them() -> None:
    pictures = [Picture(1, None, None, 7, 0.5, image_key="[b]a\x1b.png"), Picture(2, None, 3, 3, 1.0)]
    heading, _, first, second = printed(terminal.images_table(pictures), 80).splitlines()
    assert heading.split() == ["image_id", "label", "prediction", "image_key"]
    assert first.split() == ["1", "-", "7", "(50", "%)", r"[b]a\x1b.png"]
    assert second.split() == ["2", "3", "3", "(100", "%)"]
