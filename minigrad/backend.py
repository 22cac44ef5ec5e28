"""The array library behind every Tensor: the one file that knows NumPy and CuPy by name.

`xp` is the current library's namespace. It is one object for the life of the process, and `use`
refills it: `from minigrad.backend import xp` stays right after a switch, and `xp.exp` costs a plain
attribute look-up. Arrays live on the *host* (NumPy) or on the *device* (CuPy); nothing crosses
between the two except through `to_numpy` and `from_numpy`. Randomness is always drawn by one host
generator, so that a seed gives the same weights and the same batches on every backend.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy

Array = Any  # numpy.ndarray or cupy.ndarray: which of the two is known only when the program runs

host_array = numpy.ndarray
"""The class of the arrays that threads of this process can compute with, whatever the backend in use."""

xp: Any = SimpleNamespace()


@dataclass(frozen=True)
class Backend:
    """An array library: its namespace and the two crossings between its arrays and NumPy's."""

    name: str
    namespace: Any
    to_numpy: Callable[[Array], numpy.ndarray]
    from_numpy: Callable[[numpy.ndarray], Array]


def _numpy() -> Backend:
    return Backend("numpy", numpy, numpy.asarray, numpy.asarray)


def _cupy() -> Backend:
    try:
        cupy: ModuleType = importlib.import_module("cupy")
    except ImportError as error:
        raise ImportError(
            f"the backend 'cupy' needs CuPy, which does not import here ({error}). Install it with: "
            "pip install 'minigrad[gpu]'   (or cupy-cuda12x, where the driver is of CUDA 12)"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"CuPy {cupy.__version__} is installed but finds no usable GPU ({error}). Install or update the "
            "NVIDIA driver (see nvidia-smi), or stay on the CPU with mg.use('numpy')"
        ) from error
    if count == 0:
        raise RuntimeError("CuPy is installed but this machine has no GPU; stay with mg.use('numpy')")
    return Backend("cupy", cupy, cupy.asnumpy, cupy.asarray)


backends: dict[str, Callable[[], Backend]] = {"numpy": _numpy, "cupy": _cupy}
"""Every backend that `use` knows, by name. A test may add its own."""

_current: Backend


def use(name: str) -> None:
    """Makes `name` ("numpy" or "cupy") the library of every Tensor created from here on.

    Tensors that exist keep their arrays; an op on arrays of two libraries raises.
    Raises ValueError for an unknown name, ImportError where CuPy is missing, RuntimeError where it
    finds no GPU; the backend then stays what it was.
    """
    global _current
    if name not in backends:
        raise ValueError(f"use: no backend is called {name!r}; there are {', '.join(map(repr, backends))}")
    _current = backends[name]()
    xp.__dict__.clear()
    xp.__dict__.update(vars(_current.namespace))


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """`with mg.using("cupy"):` switches the backend for a block, and back at its end."""
    before = _current.name
    use(name)
    try:
        yield
    finally:
        use(before)


def current() -> str:
    """The name of the backend in use."""
    return _current.name


def on_host() -> bool:
    """Whether arrays live on the host, where looking at a value costs nothing."""
    return xp.ndarray is numpy.ndarray


_pending: list[tuple[Array, Callable[[], Exception]]] = []


def require(condition: Array, error: Callable[[], Exception]) -> None:
    """Raises `error()` unless a 0-d condition holds.

    On the host at once. On a device asking would make the program wait for every kernel in flight, so
    the answer is looked at when values next cross to the host by themselves, at the latest there.
    """
    if isinstance(condition, (numpy.ndarray, numpy.generic)):
        if not condition:
            raise error()
    else:
        _pending.append((condition, error))


def _settle_pending() -> None:
    while _pending:
        condition, error = _pending.pop(0)
        if not _current.to_numpy(condition):
            _pending.clear()
            raise error()


def to_numpy(array: Array) -> numpy.ndarray:
    """A NumPy array with the values of `array`: the one way from the device to the host."""
    if _pending:
        _settle_pending()
    return array if isinstance(array, numpy.ndarray) else _current.to_numpy(array)


def from_numpy(array: Any) -> Array:
    """An array of the current backend with the values of a NumPy array."""
    return _current.from_numpy(array)


def is_array(value: object) -> bool:
    """Whether `value` is an array of any known library (the current one's or NumPy's)."""
    return isinstance(value, (xp.ndarray, numpy.ndarray))


def is_scalar(value: object) -> bool:
    """Whether `value` is one of NumPy's scalars (`numpy.float64(2)`), which minigrad treats as a number."""
    return isinstance(value, numpy.generic)


_generator = numpy.random.default_rng()


def generator() -> numpy.random.Generator:
    """The host generator from which the framework draws everything random."""
    return _generator


def seed(value: int) -> None:
    """Restarts the host generator: the same seed gives the same numbers on every backend."""
    _generator.bit_generator.state = numpy.random.default_rng(value).bit_generator.state


use(os.environ.get("MINIGRAD_BACKEND") or "numpy")
