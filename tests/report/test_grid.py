from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.errors import OutputsError, SettingsError
from mnist_pipeline.report.grid import save_grid

MAGIC = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


def pictures(number: int) -> tuple[list[NDArray[np.uint8]], list[str]]:
    images = [np.full((28, 28), 255, np.uint8) for _ in range(number)]
    return images, [f"#{index} 4 -> 6 (81 %)" for index in range(number)]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_a_grid_is_saved_in_the_format_of_its_suffix(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / f"grid{suffix}"
    save_grid(path, "title", *pictures(3), columns=2)
    assert path.read_bytes().startswith(MAGIC[suffix.lower()])


@pytest.mark.parametrize(
    ("number", "columns", "across", "down"), [(1, 1, 1, 1), (3, 3, 3, 1), (4, 3, 3, 2), (7, 2, 2, 4), (2, 5, 5, 1)]
)
def test_images_are_placed_row_by_row(number: int, columns: int, across: int, down: int, tmp_path: Path) -> None:
    save_grid(tmp_path / "grid.png", "title", *pictures(number), columns=columns)
    picture = matplotlib.image.imread(tmp_path / "grid.png")[:, :, :3].mean(axis=2)
    height, width = (size // checkpoints for size, checkpoints in zip(picture.shape, (down, across), strict=True))
    black = [
        bool((picture[height * r : height * (r + 1), width * c : width * (c + 1)] < 0.1).mean() > 0.3)
        for r in range(down)
        for c in range(across)
    ]
    assert black == [True] * number + [False] * (down * across - number)


def test_captions_are_beside_their_images(tmp_path: Path) -> None:
    save_grid(tmp_path / "grid.svg", "title", *pictures(2), columns=2)
    text = (tmp_path / "grid.svg").read_text()
    assert "<!-- #0 -->" in text
    assert "<!-- 4 -&gt; 6 (81 %) -->" in text


def test_a_title_longer_than_the_images_are_wide_is_whole(tmp_path: Path) -> None:
    save_grid(tmp_path / "grid.png", "2026-01-31-toy-test-0123456789ab: " + "M" * 40, *pictures(1), columns=1)
    ink = matplotlib.image.imread(tmp_path / "grid.png")[:, :, :3].mean(axis=2) < 0.5
    assert ink[:60].any()
    assert not ink[:60, [0, -1]].any()


@pytest.mark.parametrize("name", ["grid", "grid.doc", "grid.png.txt"])
def test_a_suffix_that_names_no_format_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"{name}: expected a suffix among .*pdf.*png.*svg.*; choose another name"):
        save_grid(tmp_path / name, "title", *pictures(1), columns=1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_an_outputs_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputsError, match=r"grid\.png: cannot be written \(.*\); choose another file"):
        save_grid(tmp_path / "file" / "grid.png", "title", *pictures(1), columns=1)
    (tmp_path / "grid.png").mkdir()
    with pytest.raises(OutputsError, match=r"grid\.png: cannot be written \(Is a directory\)"):
        save_grid(tmp_path / "grid.png", "title", *pictures(1), columns=1)
