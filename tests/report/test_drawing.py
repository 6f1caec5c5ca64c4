"""matplotlib as it is imported where its settings are wrong; in processes of their own, as it is imported once."""

import os
import subprocess
import sys
from pathlib import Path

DRAW = """
import os
from mnist_pipeline.report.plots import TrendPoint, trend_svg
from datetime import date
assert trend_svg([TrendPoint(date(2026, 1, 31), "a", 0.5, 0.4, 0.6, None)], "a").startswith("<svg")
from mnist_pipeline.report.grid import save_grid
from pathlib import Path
import numpy as np
save_grid(Path("grid.png"), "title", [np.zeros((28, 28), np.uint8)], ["#0 3"], 1)
print({name: os.environ.get(name) for name in ("MPLBACKEND", "MATPLOTLIBRC")})
"""


def draw(folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", DRAW],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(Path.cwd())} | variables, capture_output=True, text=True,
    )  # fmt: skip


def test_no_backend_that_somebody_names_keeps_a_picture_from_being_drawn(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"backend: nonsense\n\xff\xfe")
    variables = {"MPLBACKEND": "module://no_such_package.backend_inline", "MATPLOTLIBRC": str(broken)}
    done = draw(tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{variables}\n"
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_a_broken_file_of_settings_in_this_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"font.size: 9\n\xff\xfe")
    done = draw(tmp_path)
    assert done.returncode == 1
    assert "SettingsError: matplotlib: expected settings that it can read, got 'utf-8' codec" in done.stderr
    assert "remove matplotlibrc from this folder" in done.stderr
