"""Library versions that can change results bitwise, and the BLAS set-up of this machine."""

import functools
import platform
from importlib.metadata import version

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_info, threadpool_limits

# OpenBLAS has kernels for small products on processors with AVX-512 (kernel/x86_64/KERNEL.SKYLAKEX and those that
# include it). They skip packing the operands, which here costs half as much as the multiplication.
SMALL_PRODUCT_ARCHITECTURES = {"SkylakeX", "Cooperlake", "SapphireRapids"}
# OpenBLAS uses them up to a million multiply-adds, twelve rows at a time: 24 x 784 x 50 = 940,800. The last layer,
# 100 x 10, is that small for a whole batch of 1000.
SMALL_PRODUCT_ROWS = 24


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the code, libraries and BLAS kernels that can change predictions or their files bitwise."""
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    # SciPy bundles its own BLAS, which is unused here: whether it is loaded must not change the recorded versions.
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

    Chosen by the processor type, never by a measurement, so that a machine always gives the same bits.
    """
    architectures = {
        library.get("architecture") for library in threadpool_info() if library["internal_api"] == "openblas"
    }
    return SMALL_PRODUCT_ROWS if architectures and architectures <= SMALL_PRODUCT_ARCHITECTURES else None


@functools.cache
def one_blas_thread() -> None:
    """Limit BLAS to one thread for the rest of the process.

    Shards are the unit of parallelism: BLAS threads would compete for the cores, and the last bits of results would
    depend on their number. Never restored, because restoring it in one thread would undo it for another.
    """
    threadpool_limits(1, user_api="blas")
