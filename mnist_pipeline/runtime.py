"""What this machine computes with: the versions that may change a bit, and how its BLAS is to be used."""

import functools
import platform
from importlib.metadata import version

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_info, threadpool_limits

# OpenBLAS has kernels for small products on processors with AVX-512 (kernel/x86_64/KERNEL.SKYLAKEX and those that
# include it). They skip the packing of the operands, which here takes as long as half of the multiplication.
SMALL_PRODUCT_ARCHITECTURES = {"SkylakeX", "Cooperlake", "SapphireRapids"}
# They serve up to a million multiply-adds: 24 x 784 x 50 = 940,800, and they work on twelve rows at a time. The last
# layer, 100 x 10, is that small for a whole batch of 1000.
SMALL_PRODUCT_ROWS = 24


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what may change a bit of the predictions or of their files: code, libraries, BLAS kernels."""
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    # SciPy brings a BLAS of its own, which computes nothing here: whether it is loaded must not tell machines apart.
    numpys = [library for library in libraries if "numpy" in library["filepath"]] or libraries
    blas = "; ".join(
        f"{library['internal_api']} {library['version']} {library.get('architecture', '')}".strip()
        for library in numpys
    )
    return {
        "mnist-pipeline": version("mnist-pipeline"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "blas": blas,
        "machine": platform.machine(),
    }


@functools.cache
def tile_rows() -> int | None:
    """How many images the first layer multiplies at once, for a `Workspace`; None for a whole batch.

    Decided by the kind of processor alone, never by a measurement, so that a machine always gives the same bits.
    """
    architectures = {
        library.get("architecture") for library in threadpool_info() if library["internal_api"] == "openblas"
    }
    return SMALL_PRODUCT_ROWS if architectures and architectures <= SMALL_PRODUCT_ARCHITECTURES else None


@functools.cache
def one_blas_thread() -> None:
    """Keep BLAS from starting threads of its own, for the rest of the process.

    Shards are the unit of parallelism: a BLAS with threads would fight over the cores, and its last bits would
    depend on how many it found. Set for good, because restoring it in one thread would undo another's.
    """
    threadpool_limits(1, user_api="blas")
