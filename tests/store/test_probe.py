import os
from pathlib import Path

import pytest

from mnist_pipeline.errors import StoreError
from mnist_pipeline.store.base import Address
from mnist_pipeline.store.probe import dead_end, require_usable
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server


def test_a_folder_that_is_there_or_can_be_created_is_usable_and_not_created(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not" / "yet"):
        require_usable(folder)
        assert dead_end(folder) is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("file", "gone"):
        for folder in (tmp_path / name, tmp_path / name / "outputs"):
            with pytest.raises(
                StoreError, match=f"^{folder}: expected a folder .* got {tmp_path / name}, which is none"
            ):
                require_usable(folder)


def test_a_folder_that_cannot_be_written_or_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StoreError, match=r"cannot look through .*/loop: Too many levels of symbolic links; its links"):
        require_usable(tmp_path / "loop")
    with pytest.raises(StoreError, match="File name too long; choose a shorter name"):
        require_usable(tmp_path / ("n" * 300))
    monkeypatch.setattr(os, "access", lambda *_: False)  # as on a disk that is mounted read-only
    with pytest.raises(StoreError, match=f"^{tmp_path}/new: expected a folder .* got {tmp_path}, which is none; give"):
        require_usable(tmp_path / "new")


def test_a_bucket_is_usable_if_it_answers(bucket: Address) -> None:
    require_usable(bucket)
    with pytest.raises(StoreError, match="got 404 NoSuchBucket"):
        require_usable(Address(f"{bucket.bucket}-none/outputs"))
