import subprocess
import sys
from typing import Any

import pytest

from mnist_pipeline import runtime


def test_what_computed_is_recorded_down_to_the_blas_kernel() -> None:
    versions = runtime.versions()
    assert {"mnist-pipeline", "python", "numpy", "pyarrow", "blas", "machine"} == versions.keys()
    assert all(versions.values())


@pytest.mark.parametrize(
    ("libraries", "rows"),
    [
        ([{"internal_api": "openblas", "architecture": "SkylakeX"}], 24),
        ([{"internal_api": "openblas", "architecture": "Haswell"}], None),
        ([{"internal_api": "mkl"}], None),
        ([{"internal_api": "openblas"}], None),
        ([], None),
        ([{"internal_api": "openblas", "architecture": kind} for kind in ("SkylakeX", "Haswell")], None),
    ],
)
def test_small_products_are_left_to_kernels_made_for_them(
    monkeypatch: pytest.MonkeyPatch, libraries: list[dict[str, Any]], rows: int | None
) -> None:
    monkeypatch.setattr(runtime, "threadpool_info", lambda: libraries)
    assert runtime.tile_rows.__wrapped__() == rows


def test_what_else_is_loaded_does_not_change_the_versions() -> None:
    code = "from mnist_pipeline.runtime import versions; print(versions())"
    alone, beside = (
        subprocess.run([sys.executable, "-c", f"{first}{code}"], capture_output=True, text=True, check=True).stdout
        for first in ("", "import scipy.linalg;")
    )
    assert "openblas" in alone
    assert alone == beside
