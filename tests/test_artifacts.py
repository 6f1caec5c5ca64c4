from mnist_pipeline.orchestration.artifacts import _code, _text


def test_a_text_from_outside_is_a_line_of_which_no_character_means_anything_in_markdown() -> None:
    text = "**bold** `code` | <b>\n# head\n- \x1b[2J [a](b)"
    assert _text(text) == r"\*\*bold\*\* \`code\` \| \<b\>\\n\# head\\n- \\x1b\[2J \[a\]\(b\)"


def test_code_ends_where_it_is_meant_to() -> None:
    assert _code("a`b|c\n") == r"`abc\n`"
