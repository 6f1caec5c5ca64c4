from pathlib import Path

from mnist_pipeline.orchestration.artifacts import _code, _confusion, _digits, _text
from mnist_pipeline.pipeline.evaluation import evaluate
from tests.builders import make_split, small_settings


def test_a_text_from_outside_is_a_line_of_which_no_character_means_anything_in_markdown() -> None:
    text = "**bold** `code` | <b>\n# head\n- \x1b[2J [a](b)"
    assert _text(text) == r"\*\*bold\*\* \`code\` \| \<b\>\\n\# head\\n- \\x1b\[2J \[a\]\(b\)"


def test_code_ends_where_it_is_meant_to() -> None:
    assert _code("a`b|c\n") == r"`abc\n`"


def test_without_labels_the_tables_are_of_predictions_alone(tmp_path: Path) -> None:
    make_split(tmp_path / "data", 25, labelled=False)
    published = evaluate(small_settings(tmp_path))
    digits, (confusion,) = _digits(published), _confusion(published)
    assert [list(row) for row in digits] == [["digit", "predicted"]] * 10
    assert confusion == {"label": "none", **{f"-> {row['digit']}": int(row["predicted"]) for row in digits}}
