import pickle

import pytest

from mnist_pipeline import errors
from mnist_pipeline.errors import DamagedError, PipelineError, SourceError, listed, printable, shown

EVERY = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, PipelineError)]


@pytest.mark.parametrize("error", EVERY)
def test_a_message_is_one_line_without_control_characters(error: type[PipelineError]) -> None:
    raised = error("x\x1b[2J\nERROR forged\r\u2028\udcff.parquet")
    assert str(raised) == r"x\x1b[2J\nERROR forged\r\u2028\udcff.parquet"
    assert str(pickle.loads(pickle.dumps(raised))) == str(raised)  # as a worker of another process sends it


def test_what_can_be_printed_stays_as_it_is() -> None:
    text = "C:\\new folder/Zürich 京.parquet: expected 'a', got \"b\""
    assert printable(text) == text == str(DamagedError(text))


def test_names_from_outside_are_quoted_and_cut() -> None:
    assert shown("label\n\x1b[2J") == r"'label\n\x1b[2J'"
    assert shown("x" * 60) == f"'{'x' * 60}'"
    assert shown("x" * 61) == f"'{'x' * 60}'..."


def test_of_many_names_the_first_are_listed() -> None:
    assert listed([]) == "none"
    assert listed("abcde") == "'a', 'b', 'c', 'd', 'e'"
    assert listed(f"pixel{number}" for number in range(784)).endswith("'pixel4' and 779 more")


def test_an_error_with_an_errno_stays_an_oserror() -> None:
    with pytest.raises(OSError, match="no\\\\nline"):
        raise SourceError("no\nline")
