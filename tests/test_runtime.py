import subprocess
import sys
from typing import Any

import pytest
from numpy.lib import introspect

from mnist_pipeline import runtime


def test_what_computed_is_recorded_down_to_the_blas_kernel() -> None:
    versions = runtime.versions()
    assert {"mnist-pipeline", "python", "numpy", "pyarrow", "blas", "sigmoid", "machine"} == versions.keys()
    assert all(versions.values())


@pytest.mark.parametrize(
    ("libraries", "small_product"),
    [
        ([{"internal_api": "openblas", "architecture": "SkylakeX"}], 1_000_000),
        ([{"internal_api": "openblas", "architecture": "Haswell"}], None),
        ([{"internal_api": "mkl"}], None),
        ([{"internal_api": "openblas"}], None),
        ([], None),
        ([{"internal_api": "openblas", "architecture": kind} for kind in ("SkylakeX", "Haswell")], None),
    ],
)
def test_small_products_are_left_to_kernels_made_for_them(
    monkeypatch: pytest.MonkeyPatch, libraries: list[dict[str, Any]], small_product: int | None
) -> None:
    monkeypatch.setattr(runtime, "threadpool_info", lambda: libraries)
    assert runtime.kernels.__wrapped__().small_product == small_product


@pytest.mark.parametrize(
    ("instructions", "sigmoid"),
    [
        ("X86_V3", "exp"),
        ("FMA3__AVX2", "exp"),
        ("X86_V4", "tanh"),
        ("AVX512_SKX", "tanh"),
        ("NEON_VFPV4", "tanh"),
        ("baseline(X86_V2)", "tanh"),
    ],
)
def test_sigmoid_is_computed_by_the_kind_of_processor(
    monkeypatch: pytest.MonkeyPatch, instructions: str, sigmoid: str
) -> None:
    known = {function: {"ff": {"current": instructions}} for function in ("exp", "tanh")}
    monkeypatch.setattr(introspect, "opt_func_info", lambda **_: known)
    assert runtime.kernels.__wrapped__().sigmoid == sigmoid
    monkeypatch.setattr(runtime, "kernels", runtime.kernels.__wrapped__)
    assert runtime.versions.__wrapped__()["sigmoid"] == f"{sigmoid} {instructions}"


def test_what_else_is_loaded_does_not_change_the_versions() -> None:
    code = "from mnist_pipeline.runtime import versions; print(versions())"
    alone, beside = (
        subprocess.run([sys.executable, "-c", f"{first}{code}"], capture_output=True, text=True, check=True).stdout
        for first in ("", "import scipy.linalg;")
    )
    assert "openblas" in alone
    assert alone == beside
