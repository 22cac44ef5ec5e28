"""How a kernel's source becomes a function: `launch(kernel("matmul", "float32"), "matmul", grid, block, ...)`.

The sources are the .cu files beside this one, CUDA C++ that also a C++ compiler understands, which is how they
are tested where there is no GPU. A *kernel* is some files joined after the sizes that they are written for, so
that divisions are by constants; CuPy compiles each once and remembers it on disk.

A kernel that does not compile or cannot be launched is never worth a broken program: `Unusable` is raised once,
with a warning, and whoever asked goes on with the composition of ordinary ops that the kernel stands for.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from minigrad.backend import Array, current, kernels, xp

F = TypeVar("F", bound=Callable[..., Any])

THREADS = 256
"""In a block: enough to hide the wait for memory, few enough for two blocks a multiprocessor."""

FILL = 264
"""Blocks that keep a large card busy: two for each of its 132 multiprocessors."""

REALS = {"f": "float", "d": "double"}
"""What the dtypes that kernels are written for are called in C."""

_unusable: set[str] = set()


class Unusable(Exception):
    """A kernel does not compile, or its launch fails."""


@functools.cache
def source(name: str) -> str:
    """The text of a .cu file."""
    return (Path(__file__).parent / f"{name}.cu").read_text()


@functools.cache
def _module(backend: str, names: tuple[str, ...], heading: tuple[tuple[str, Any], ...], module: Any) -> Any:
    text = "".join(f"#define {key} {value}\n" for key, value in heading)
    return module(code=text + "\n".join(map(source, names)), options=("--std=c++17",))


def module(*names: str, dtype: Any, **sizes: Any) -> Any:
    """The kernels of some files, for a dtype and for sizes that the files ask for."""
    heading = (("real", REALS[dtype.char]), *sizes.items())
    try:
        return _module(current(), names, heading, xp.RawModule)
    except Exception as error:  # whatever a compiler or a driver may raise
        raise Unusable(f"{', '.join(names)}: {type(error).__name__}: {error}") from error


@functools.cache
def function(of: Any, name: str) -> Any:
    """A module's function, loaded."""
    return of.get_function(name)


def launch(of: Any, name: str, grid: tuple[int, ...], *arguments: Any, threads: int = THREADS) -> None:
    """Launches a module's function on the current stream. Arrays are dense unless the kernel takes strides."""
    try:
        function(of, name)(grid, (threads,), arguments)
    except MemoryError:
        raise
    except Exception as error:
        raise Unusable(f"{name}: {type(error).__name__}: {error}") from error


def per_thread(size: int, most: int = 2**31 - 1) -> tuple[int]:
    """The grid in which each thread has one of `size` elements, or several where that is more than `most` blocks."""
    return (max(1, min(-(-size // THREADS), most)),)


def offer(name: str) -> Callable[[F], F]:
    """Makes a function the device's own of that name; None is what it returns where the composed one is to run."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if name in _unusable:
                return None
            try:
                return function(*args, **kwargs)
            except Unusable as error:
                give_up(name, error)
                return None

        kernels[name] = call
        return call  # type: ignore[return-value]

    return decorate


def give_up(name: str, error: Exception) -> None:
    """From here on `name` runs as composed ops, which a warning says once."""
    _unusable.add(name)
    warnings.warn(
        f"the device's kernel for {name} cannot be used, and ordinary ops take its place: {error}; "
        "MINIGRAD_DEVICE_KERNELS=0 switches all kernels off",
        RuntimeWarning,
        stacklevel=3,
    )


def usable(*arrays: Array) -> bool:
    """Whether kernels are written for these arrays: of one dtype, float32 or float64, on the device, and `small`."""
    dtype, kind = arrays[0].dtype, xp.ndarray
    return dtype.char in REALS and all(a.__class__ is kind and a.dtype == dtype and 0 < a.size < 2**31 for a in arrays)


def small(*arrays: Array) -> bool:
    """Whether 32-bit integers count the elements."""
    return all(0 < a.size < 2**31 for a in arrays)


def dense(array: Array) -> Array:
    """The array, or a copy of it, in the order of rows."""
    return xp.ascontiguousarray(array)


def aligned(array: Array) -> Array:
    """The array in the order of rows, at an address from which several elements can be read at once."""
    array = dense(array)
    return array if array.data.ptr % 16 == 0 else array.copy()
