"""Versions and kernels that can change results bitwise, and the BLAS set-up of this machine."""

import functools
import platform
from importlib.metadata import version

import numpy as np
import pyarrow as pa
from numpy.lib import introspect
from threadpoolctl import threadpool_info, threadpool_limits

from mnist_pipeline.core.network import Kernels

# OpenBLAS has kernels for small products on processors with AVX-512 (kernel/x86_64/KERNEL.SKYLAKEX and those that
# include it). They skip packing the operands, which here costs half as much as the multiplication.
SMALL_PRODUCT_ARCHITECTURES = {"SkylakeX", "Cooperlake", "SapphireRapids"}
SMALL_PRODUCT = 1_000_000  # multiply-adds; 24 images of the book's first layer are 24 x 784 x 50 = 940,800
# NumPy's names for instructions of AVX2. With them its exp is twice as fast as its tanh; with those of AVX-512 tanh is
# the fast one, and without either neither is.
AVX2 = ("X86_V3", "AVX2")


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
        "sigmoid": f"{(sigmoid := kernels().sigmoid)} {_instructions(sigmoid)}",
        "machine": platform.machine(),
    }


@functools.cache
def kernels() -> Kernels:
    """What is fastest here, for a `Workspace`.

    Chosen by the processor type, never by a measurement, so that a machine always gives the same bits.
    """
    architectures = {
        library.get("architecture") for library in threadpool_info() if library["internal_api"] == "openblas"
    }
    small = architectures and architectures <= SMALL_PRODUCT_ARCHITECTURES
    by_exp = any(name in _instructions("exp") for name in AVX2)
    return Kernels("exp" if by_exp else "tanh", SMALL_PRODUCT if small else None)


def _instructions(function: str) -> str:
    """What NumPy computes a function of float32 with on this processor: X86_V3, X86_V4 and the like."""
    found = introspect.opt_func_info(func_name=f"^{function}$", signature="float32")
    return " ".join(signature["current"] for signature in found.get(function, {}).values()) or "baseline"


@functools.cache
def one_blas_thread() -> None:
    """Limit BLAS to one thread for the rest of the process.

    Shards are the unit of parallelism: BLAS threads would compete for the cores, and the last bits of results would
    depend on their number. Never restored, because restoring it in one thread would undo it for another.
    """
    threadpool_limits(1, user_api="blas")
