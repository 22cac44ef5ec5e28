"""The machine that is measured: what it is, what would make it faster, and its limits."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

PACKAGES = ("numpy", "torch", "jax", "autograd", "mygrad")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def description() -> dict[str, object]:
    """When and on what a measurement was made: it belongs into every report."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "made": time.strftime("%Y-%m-%d %H:%M"), "processor": processor(), "cores": cores(),
        "load": os.getloadavg()[0], "python": platform.python_version(), "versions": versions,
        "blas": blas_kernels(),
    }  # fmt: skip


def caption() -> str:
    """The same in a line."""
    d = description()
    versions = ", ".join(f"{name} {number}" for name, number in d["versions"].items())  # type: ignore[attr-defined]
    return (
        f"{d['made']}, {d['cores']} cores of {d['processor']}, load {d['load']:.1f} at the start, "
        f"Python {d['python']}, {versions}, OpenBLAS kernels {d['blas'] or 'unknown'}"
    )


# ---- OpenBLAS -------------------------------------------------------------------------------------
CORENAMES = ("scipy_openblas_get_corename64_", "scipy_openblas_get_corename", "openblas_get_corename64_",
             "openblas_get_corename")  # fmt: skip


def blas_kernels() -> str | None:
    """The family of processors whose kernels NumPy's OpenBLAS has chosen; None where it is another BLAS."""
    np.ones((2, 2)) @ np.ones((2, 2))
    try:
        maps = Path("/proc/self/maps").read_text()
        for path in {line.split()[-1] for line in maps.splitlines() if "openblas" in line}:
            library = ctypes.CDLL(path)
            for name in CORENAMES:
                if hasattr(library, name):
                    function = getattr(library, name)
                    function.restype = ctypes.c_char_p
                    return str(function().decode())
    except OSError:
        pass
    return None


def avx512() -> bool:
    """Whether the processor can run OpenBLAS's SkylakeX kernels: on one that cannot they end the process."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags


def advice() -> list[str]:
    """What would make this machine faster, if anything is known."""
    kernels = blas_kernels()
    if kernels in ("Haswell", "Zen") and avx512() and not os.environ.get("OPENBLAS_CORETYPE"):
        return [
            f"OpenBLAS has chosen its {kernels} kernels (AVX2), but this processor has AVX-512: "
            "OPENBLAS_CORETYPE=SkylakeX in the environment may be faster."
        ]
    return []
