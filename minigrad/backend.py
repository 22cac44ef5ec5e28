"""The array library behind every Tensor: the one file that knows NumPy and CuPy by name.

`xp` is the current library's namespace. It is one object for the life of the process, and `use`
refills it: `from minigrad.backend import xp` stays right after a switch, and `xp.exp` costs a plain
attribute look-up. Arrays live on the *host* (NumPy) or on the *device* (CuPy); nothing crosses
between the two except through `to_numpy` and `from_numpy`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numpy

T = TypeVar("T")
Array = Any  # numpy.ndarray or cupy.ndarray: which of the two is known only when the program runs

host_array = numpy.ndarray
"""The class of the arrays that threads of this process can compute with, whatever the backend in use."""

xp: Any = SimpleNamespace()


class Backend(NamedTuple):
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
            "pip install 'cupy-cuda13x[ctk]'   (or 'cupy-cuda12x[ctk]', where the driver is of CUDA 12)"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        fault = "" if count else "finds no GPU on this machine"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        fault = f"{_fault(cupy.cuda.runtime, str(error))} ({error})"
    if not fault and (nvrtc := getattr(cupy.cuda, "nvrtc", None)) is not None:
        try:
            nvrtc.getVersion()
        except Exception as error:  # whatever it is, no kernel could be compiled
            fault = (
                "without CUDA's libraries, which compile its kernels; install them with: pip install "
                f"'cupy-cuda{cupy.cuda.runtime.runtimeGetVersion() // 1000}x[ctk]' ({str(error).strip()})"
            )
    if fault:
        raise RuntimeError(f"CuPy {cupy.__version__} is installed but {fault}; mg.use('numpy') stays on the CPU")
    return Backend("cupy", cupy, cupy.asnumpy, cupy.asarray)


def _fault(runtime: Any, error: str) -> str:
    """What keeps CuPy from the GPU, and what to do about it. Versions are 1000 major + 10 minor; 0 is none."""
    has, needs = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if not has:
        return "finds no NVIDIA driver; install one (nvidia-smi then lists the GPU)"
    if "InsufficientDriver" in error:
        return (
            f"the NVIDIA driver is too old: it knows CUDA {has // 1000}.{has % 1000 // 10} at most, and this CuPy "
            f"needs {needs // 1000}.{needs % 1000 // 10}; update the driver, or install the CuPy for its CUDA "
            f"(pip install 'cupy-cuda{has // 1000}x[ctk]')"
        )
    return "finds no usable GPU; see what nvidia-smi says, and whether CUDA_VISIBLE_DEVICES hides it"


backends: dict[str, Callable[[], Backend]] = {"numpy": _numpy, "cupy": _cupy}
"""Every backend that `use` knows, by name. A test may add its own."""

_current: Backend
_converters: dict[type, Callable[[Array], numpy.ndarray]] = {numpy.ndarray: numpy.asarray}
"""The classes of arrays that were in use so far, each with its way to the host."""


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
    _converters[_current.namespace.ndarray] = _current.to_numpy
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


# ---- what crosses between host and device -----------------------------------------------------------
class Transfers:
    """How many arrays crossed each way while `transfers` watched; limit: how many may come to the host."""

    def __init__(self, limit: int | None = None) -> None:
        self.to_host = self.to_device = 0
        self.limit = limit

    def __repr__(self) -> str:
        return f"Transfers(to_host={self.to_host}, to_device={self.to_device}, limit={self.limit})"


_watching: list[Transfers] = []


@contextlib.contextmanager
def transfers(limit: int | None = None) -> Iterator[Transfers]:
    """Counts the arrays that cross between device and host: `with mg.transfers() as crossed: step()`.

    A training step brings nothing to the host (`crossed.to_host == 0`), and to the device its batch and
    what the host's generator drew. With a limit the array beyond it raises RuntimeError where it
    crosses: `mg.transfers(limit=0)` finds the line that makes every step wait. On the host nothing crosses.
    """
    watch = Transfers(limit=limit)
    _watching.append(watch)
    try:
        yield watch
    finally:
        _watching.remove(watch)


def _count_to_host(array: Array) -> None:
    for watch in _watching:
        watch.to_host += 1
        if watch.limit is not None and watch.to_host > watch.limit:
            raise RuntimeError(
                f"to_numpy: a {array.dtype} {list(array.shape)} array crosses to the host, {watch.to_host} where "
                f"mg.transfers(limit={watch.limit}) allows {watch.limit}; the program waits here for all kernels under "
                "way: keep the value on the device, or look at it less often"
            )


# ---- conditions that are looked at later --------------------------------------------------------------
Condition = tuple[Array, Callable[[], Exception]]

pending: list[Condition] = []
"""The conditions that nobody has looked at yet, each with its error."""

_looking = threading.RLock()
"""Held by the thread that looks at conditions; an error may bring values to the host, and so look again."""

MOST_PENDING = 64
"""Conditions that are kept one by one, each with what its error would show; older ones become one."""


class Capturing(threading.local):
    """What this thread does for `mg.capture`.

    conditions: None, or while a step is captured, or rehearsed to be, those that it requires.
    afterwards: None, or while what is launched is being captured, not run, what to do when that is over.
    """

    conditions: list[Condition] | None = None
    afterwards: list[Callable[[], None]] | None = None

    @property
    def on(self) -> bool:
        """Whether a graph is being captured, in which CuPy refuses calls of cuBLAS, or rehearsed."""
        return self.conditions is not None


capturing = Capturing()


def require(condition: Array, error: Callable[[], Exception]) -> None:
    """Raises `error()` unless a 0-d condition holds.

    On the host at once. On a device asking would make the program wait for every kernel in flight, so
    the answer is looked at when a value next crosses to the host by itself (a loss that is printed, a
    checkpoint, the end of an epoch). Steps made in between were made with the wrong values: the error
    says that there is a fault, not where the program was when it happened.
    """
    if isinstance(condition, (numpy.ndarray, numpy.generic)):
        if not condition:
            raise error()
        return
    if capturing.conditions is not None:
        capturing.conditions.append((condition, error))
    if capturing.afterwards is None:
        pending.append((condition, error))
        if len(pending) > MOST_PENDING:
            _join_oldest()


def _join_oldest() -> None:
    """Makes one condition of the two oldest, so that who never looks does not fill the memory."""

    def error() -> Exception:
        return ValueError(
            f"a label or an index was out of range more than {MOST_PENDING} checks before this look; look more often "
            "(loss.item()), or run with mg.using('numpy'), to be told which"
        )

    with _looking:
        if len(pending) > 1:  # else another thread has looked
            (first, _), (second, _) = pending[:2]
            pending[:2] = [(first & second, error)]


def _settle_pending() -> None:
    with _looking:
        while pending:
            condition, error = pending.pop(0)
            if not _converters[type(condition)](condition):
                pending.clear()
                raise error()


def to_numpy(array: Array) -> numpy.ndarray:
    """A NumPy array with the values of `array`: the one way from the device to the host."""
    if pending and capturing.afterwards is None:
        _settle_pending()
    if isinstance(array, numpy.ndarray):
        return array
    if _watching:
        _count_to_host(array)
    return _converters.get(type(array), _current.to_numpy)(array)


def from_numpy(array: Any) -> Array:
    """An array of the current backend with the values of one of NumPy's, or of a library used before.

    Raises OutOfMemory.
    """
    if is_array(array) and not isinstance(array, numpy.ndarray):
        array = to_numpy(array)
    if _watching and not on_host():
        for watch in _watching:
            watch.to_device += 1
    try:
        return _current.from_numpy(array)
    except MemoryError as error:
        raise out_of_memory("from_numpy", error) from error


# ---- kernels of the device -------------------------------------------------------------------------------
kernels: dict[str, Callable[..., Any]] = {}
"""What `minigrad.device` offers, by the name of the function that it stands for."""

kernels_on = os.environ.get("MINIGRAD_DEVICE_KERNELS") != "0"
"""Whether kernels are used where there are any; MINIGRAD_DEVICE_KERNELS=0 switches them off."""


def kernel(name: str) -> Callable[..., Any] | None:
    """The device's kernel of that name, or None: on the host, where they are switched off, or there is none.

    They are looked for at the first call: the host has no use for them.
    """
    if xp.ndarray is numpy.ndarray or not kernels_on or not hasattr(xp, "RawModule"):
        return None
    if not kernels:
        try:
            importlib.import_module("minigrad.device")
        except ImportError:
            return None
    return kernels.get(name)


def or_kernel(name: str, function: Callable[..., Array]) -> Callable[..., Array]:
    """The function, behind the device's kernel of that name; a kernel that returns None leaves it to the function."""

    def call(*args: Any) -> Array:
        if args[0].__class__ is not host_array and (own := kernel(name)) is not None:
            y = own(*args)
            if y is not None:
                return y
        return function(*args)

    return call


@functools.cache
def _struct(size: int) -> numpy.dtype:
    return numpy.dtype([("numbers", numpy.int64, (size,))])


def by_value(numbers: Sequence[int], size: int | None = None) -> numpy.void:
    """64-bit integers as one value, which a kernel takes as a struct; `size` of them, zeros after the given ones."""
    value = numpy.zeros(size or len(numbers), numpy.int64)
    value[: len(numbers)] = numbers
    return value.view(_struct(len(value)))[0]


# ---- memory -------------------------------------------------------------------------------------------
class OutOfMemory(MemoryError):
    """An array could not be allocated; says for what, how much is held, and what to lower."""


def naming_memory(op: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Has a function raise OutOfMemory in the name of `op` where the library runs out of memory within it."""

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> T:
            try:
                return function(*args, **kwargs)
            except MemoryError as error:
                raise out_of_memory(op, error) from error

        return call

    return decorate


def out_of_memory(op: str, error: MemoryError) -> OutOfMemory:
    """The library's error with the op that asked, what is held already, and what to lower."""
    if isinstance(error, OutOfMemory):
        return error
    held = ""
    if hasattr(xp, "get_default_memory_pool"):
        pool = xp.get_default_memory_pool()
        free, total = xp.cuda.runtime.memGetInfo()
        used, reserved = (f"{n / 2**20:,.0f} MiB" for n in (pool.used_bytes(), pool.total_bytes()))
        held = (
            f" Arrays hold {used}, CuPy's pool {reserved} with them; {free / 2**20:,.0f} MiB of the card's "
            f"{total / 2**20:,.0f} MiB are free."
        )
    text = str(error) or "the system has no memory left"
    return OutOfMemory(
        f"{op}: {text.rstrip('.')}.{held} Lower the batch size or the model's width, run what needs no gradient under "
        "mg.no_grad(), and drop every loss that is no longer needed: it holds its whole tape"
    )


def is_array(value: object) -> bool:
    """Whether `value` is an array of any library that was in use, or of NumPy."""
    return isinstance(value, tuple(_converters))


def is_scalar(value: object) -> bool:
    """Whether `value` is one of NumPy's scalars (`numpy.float64(2)`), which minigrad treats as a number."""
    return isinstance(value, numpy.generic)


use(os.environ.get("MINIGRAD_BACKEND") or "numpy")
