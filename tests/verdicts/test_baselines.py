import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mnist_pipeline.cli import app
from mnist_pipeline.errors import DamagedError, OutputsError
from mnist_pipeline.runs.layout import BASELINES
from mnist_pipeline.verdicts.baselines import read_baselines, set_baseline
from tests.published import left_over, opened

ONE, OTHER = "2026-01-30-toy-test-0123456789ab", "2026-01-31-toy-test-ba9876543210"


def test_without_a_choice_there_are_no_baselines_and_looking_makes_no_file(tmp_path: Path) -> None:
    assert read_baselines(opened(tmp_path)) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_last_choice_for_each_data_set_and_split_counts(tmp_path: Path) -> None:
    set_baseline(opened(tmp_path), "toy", "test", ONE)
    set_baseline(opened(tmp_path), "toy", "train", ONE)
    set_baseline(opened(tmp_path), "a", "test", ONE)
    set_baseline(opened(tmp_path), "toy", "test", OTHER)
    assert read_baselines(opened(tmp_path)) == {"a/test": ONE, "toy/test": OTHER, "toy/train": ONE}
    assert left_over(tmp_path) == []


def test_the_file_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    set_baseline(opened(tmp_path), "toy", "test", ONE)
    set_baseline(opened(tmp_path), "a", "test", OTHER)
    assert (tmp_path / BASELINES).read_text() == f'{{\n  "a/test": "{OTHER}",\n  "toy/test": "{ONE}"\n}}\n'


def test_none_takes_a_choice_back_and_leaves_the_others(tmp_path: Path) -> None:
    set_baseline(opened(tmp_path), "toy", "test", ONE)
    set_baseline(opened(tmp_path), "toy", "train", OTHER)
    set_baseline(opened(tmp_path), "toy", "test", None)
    set_baseline(opened(tmp_path), "never", "set", None)
    assert read_baselines(opened(tmp_path)) == {"toy/train": OTHER}
    set_baseline(opened(tmp_path), "toy", "train", None)
    assert read_baselines(opened(tmp_path)) == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"null", b"[]", b'"x"', b'["toy/test"]', b'{"toy/test": null}', b'{"a": "x", "b": 1}'],
)
def test_a_file_that_is_none_of_ours_is_refused_and_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / BASELINES
    path.write_bytes(content)
    message = f"^{path}: expected run_ids by data set, got .*; delete it and set them again$"
    with pytest.raises(DamagedError, match=message):
        read_baselines(opened(tmp_path))
    for run_id in (ONE, None):
        with pytest.raises(DamagedError, match=message):
            set_baseline(opened(tmp_path), "toy", "test", run_id)
    assert path.read_bytes() == content
    assert left_over(tmp_path) == []


def test_a_folder_in_its_place_is_no_choice_and_none_can_be_made(tmp_path: Path) -> None:
    (path := tmp_path / BASELINES).mkdir()
    assert read_baselines(opened(tmp_path)) == {}
    with pytest.raises(OutputsError, match=rf"^cannot write {path}: Is a directory; a folder is where a file is"):
        set_baseline(opened(tmp_path), "toy", "test", ONE)
    assert left_over(tmp_path) == []


def test_a_place_where_no_folder_can_be_is_an_outputs_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OutputsError, match=r"^cannot lock .*file/.*baselines\.json\.lock: .*a file is where a folder is expected"
    ):
        set_baseline(opened(tmp_path / "file"), "toy", "test", ONE)


def test_choices_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: set_baseline(opened(tmp_path), f"toy-{number}", "test", ONE), range(40)))
    assert read_baselines(opened(tmp_path)) == {f"toy-{number}/test": ONE for number in range(40)}


def test_a_choice_waits_for_the_one_before_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with opened(tmp_path).store.lock("baselines.json"):
            waiting = pool.submit(set_baseline, opened(tmp_path), "toy", "test", ONE)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.1)
            (tmp_path / BASELINES).write_text(json.dumps({"other/test": OTHER}))
        waiting.result(timeout=60)
    assert read_baselines(opened(tmp_path)) == {"other/test": OTHER, "toy/test": ONE}


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"toy/test": NaN}', b'{"toy/test": ' + b"1" * 5000 + b"}"])
def test_a_file_of_any_content_is_damage(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "baselines.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"baselines\.json: expected run_ids by data set, got .*; delete it"):
        read_baselines(opened(tmp_path))


def test_what_is_pinned_is_a_run_id(tmp_path: Path) -> None:
    for pinned in ("\x1b[2J\nforged", "\ud800", "https://user:hunter@host/"):
        (tmp_path / "baselines.json").write_text(json.dumps({"toy/test": pinned}))
        found = CliRunner().invoke(app, ["baseline", "show", "--outputs", str(tmp_path)])
        assert (found.exit_code, found.stdout) == (5, "")
        assert "baselines.json: expected run_ids by data set, got " in found.stderr
        assert not {"\x1b", "hunter"} & set(re.split(r"\W", found.stderr))
