"""Threads, blocks and memory: how large arrays are computed on the CPU, and what that asks of the process.

NumPy computes element by element on one core, through memory that is fresh at every step. Here a large
array is cut into *blocks* that stay in cache, and a small pool of threads works through them. Where the
cuts lie follows from shapes alone, and partial sums are added in the order of the blocks: no result
depends on the number of threads. Arrays below `LARGE` elements never come here.

Three settings of the process change, each only where it is known how:
`MINIGRAD_THREADS=n` sets the number of threads (all cores by default, 8 at most); with 1 nothing is
started. While blocks are computed NumPy's BLAS is held to one thread, since the blocks are what runs
side by side. `MINIGRAD_MALLOPT=0` leaves glibc's allocator alone; otherwise it keeps freed memory for
the next step instead of returning it to the system, page by page, and asking for it again.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import glob
import importlib.util
import itertools
import math
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from minigrad.backend import Array, host_array, xp

T = TypeVar("T")

LARGE = int(os.environ.get("MINIGRAD_LARGE") or 1 << 17)
"""Elements from which on an array is computed in blocks."""

BLOCK = int(os.environ.get("MINIGRAD_BLOCK") or 1 << 19)
"""Elements of one block. Smaller ones would stay in a core's own cache, but every call of the library hands the
interpreter from one thread to the other, and a thread that slept takes tens of microseconds to wake."""


# ---- memory ---------------------------------------------------------------------------------------
def keep_memory() -> bool:
    """Tells glibc to keep freed memory. Returns whether it was told: False on other systems.

    A training step allocates and frees the same arrays again and again; by default each large one is
    mapped anew, and the system clears every page of it. The price is that memory once used stays with
    the process, as in any pooling allocator.
    """
    if os.environ.get("MINIGRAD_MALLOPT") == "0" or not sys.platform.startswith("linux"):
        return False
    trim_threshold, mmap_threshold = -1, -3
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018  (musl has no such name, and other meanings)
        return bool(libc.mallopt(trim_threshold, (1 << 31) - 1)) and any(
            libc.mallopt(mmap_threshold, size) for size in (1 << 30, 1 << 25)
        )
    except (OSError, AttributeError):
        return False


# ---- BLAS -----------------------------------------------------------------------------------------
def _blas_controls() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """The functions that get and set the threads of the OpenBLAS that NumPy's wheel brings, if it does."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        return None
    root = os.path.dirname(os.path.dirname(spec.origin))
    for path in glob.glob(os.path.join(root, "numpy.libs", "*openblas*")):
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(path)
            for name in ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}"):
                if hasattr(library, name.format("set_num_threads")):
                    return (
                        getattr(library, name.format("get_num_threads")),
                        getattr(library, name.format("set_num_threads")),
                    )
    return None


_blas = _blas_controls()
_lock = threading.Lock()
_holders = 0
_blas_before = 1


class OneBlasThread:
    """`with one_blas_thread:` holds BLAS to one thread; what was set before returns with the last to leave."""

    def __enter__(self) -> None:
        global _holders, _blas_before
        if _blas is None:
            return
        with _lock:
            _holders += 1
            if _holders == 1:
                _blas_before = _blas[0]()
                if _blas_before != 1:
                    _blas[1](1)

    def __exit__(self, *_: object) -> None:
        global _holders
        if _blas is None:
            return
        with _lock:
            _holders -= 1
            if _holders == 0 and _blas_before != 1:
                _blas[1](_blas_before)


one_blas_thread = OneBlasThread()


SMALL = 600_000
"""Multiplications up to which OpenBLAS multiplies where the factors lie; beyond, it copies them first."""


@functools.lru_cache(maxsize=1024)
def pieces_of(taps: int, length: int, least: int) -> int:
    """Into how many equal pieces a length is cut, so that BLAS makes `SMALL` multiplications at most for each.

    taps: multiplications for each element of the length. 1 where the pieces would be shorter than `least`.
    """
    count = max(1, -(-taps * length // SMALL))
    while count <= length // least and length % count:
        count += 1
    return count if 1 < count <= length // least else 1


# ---- threads --------------------------------------------------------------------------------------
class Batch:
    """Numbered pieces of one piece of work, which threads draw until there are none left."""

    def __init__(self, work: Callable[[int], None], count: int) -> None:
        self.work, self.count = work, count
        self.draw = itertools.count().__next__  # drawing is atomic, as every call into C is
        self.finished = itertools.count(1).__next__
        self.over = threading.Lock()
        self.over.acquire()
        self.context = contextvars.copy_context()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Draws and works. Who finishes the last piece ends the batch: nobody waits for a thread that slept."""
        while (number := self.draw()) < self.count:
            try:
                if self.error is None:
                    self.work(number)
            except BaseException as error:
                self.error = error
            if self.finished() == self.count:
                self.over.release()

    def help(self) -> None:
        """`run` in another thread, under NumPy's error settings of the first."""
        self.context.copy().run(self.run)


class Inside(threading.local):
    """Whether this thread is inside a block already: then it works alone."""

    value: bool = False


_inside = Inside()
_jobs: queue.SimpleQueue[Batch] = queue.SimpleQueue()
_workers: list[threading.Thread] = []
_threads = 1


def set_threads(n: int) -> None:
    """The number of threads that compute large arrays; the results do not depend on it."""
    global _threads
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"set_threads: needs an integer >= 1, not {n!r}")
    _threads = n


def threads() -> int:
    """The number of threads that compute large arrays."""
    return _threads


def _serve() -> None:
    _inside.value = True
    while True:
        _jobs.get().help()


def _forget_workers() -> None:
    """In a forked child only the thread that forked lives on."""
    global _jobs, _lock, _holders
    _workers.clear()
    _jobs = queue.SimpleQueue()
    _lock = threading.Lock()
    _holders = 0


def each(count: int, work: Callable[[int], None]) -> None:
    """Calls work(0) ... work(count - 1), side by side where there are threads; what is raised is raised here."""
    if _inside.value:
        for number in range(count):
            work(number)
        return
    helpers = min(_threads, count) - 1 if xp.ndarray is host_array else 0
    with one_blas_thread:
        _inside.value = True
        try:
            if helpers < 1:
                for number in range(count):
                    work(number)
                return
            while len(_workers) < helpers:
                worker = threading.Thread(target=_serve, name=f"minigrad-{len(_workers) + 1}", daemon=True)
                worker.start()
                _workers.append(worker)
            batch = Batch(work, count)
            if _jobs.qsize() < 2 * helpers:  # else threads are late by whole batches, which would pile up
                for _ in range(helpers):
                    _jobs.put(batch)
            batch.run()
            batch.over.acquire()
            del batch.work  # and its arrays: a thread that wakes late would keep them, and who owns one be chance
            if batch.error is not None:
                raise batch.error
        finally:
            _inside.value = False


# ---- blocks ---------------------------------------------------------------------------------------
def evenly(n: int, count: int) -> list[slice]:
    """An axis of length n in about `count` pieces of even length; an even number of them, where it is not one."""
    count = max(1, min(count + count % 2 if count > 1 else 1, n))
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


def cuts(n: int, size: int) -> list[slice]:
    """Where an axis of length n is cut, in an array of `size` elements, into blocks of about `BLOCK`."""
    return evenly(n, max(-(-size // BLOCK), 2 if size >= LARGE else 1))


def over(pieces: Sequence[T], work: Callable[[T], None]) -> None:
    """work(piece) for each piece, side by side where there are several."""
    if len(pieces) == 1:
        with one_blas_thread:  # threads of BLAS's own spin on for a while, in the way of ours
            work(pieces[0])
    else:
        each(len(pieces), lambda number: work(pieces[number]))


def pieces(array: Array, work: Callable[[slice], None]) -> None:
    """work(slice of the first axis), in blocks where the array is large."""
    over(cuts(len(array), array.size), work)


def large(array: Any) -> bool:
    """Whether an array is on the host, and large enough to be computed in blocks."""
    return array.__class__ is host_array and array.size >= LARGE


def split(arrays: Sequence[Any], shape: tuple[int, ...]) -> tuple[int, list[slice], list[int | None]]:
    """Where arrays that broadcast to `shape` are cut: the axis, the cuts, and for each array how many axes it has
    before that one, or None where it is broadcast along it (or is a number) and belongs to every block whole."""
    axis = next((i for i, n in enumerate(shape) if n > 1), 0)
    from_end = axis - len(shape)
    places: list[int | None] = [
        a.ndim + from_end if a.__class__ is host_array and a.ndim >= -from_end and a.shape[from_end] != 1 else None
        for a in arrays
    ]
    return axis, cuts(shape[axis], math.prod(shape)), places


def piece_of(arrays: Sequence[Any], places: Sequence[int | None], cut: slice) -> list[Any]:
    """What of each array belongs to a block."""
    return [
        a if place is None else a[cut] if not place else a[(slice(None),) * place + (cut,)]
        for a, place in zip(arrays, places, strict=True)
    ]


def _flat(arrays: Sequence[Any], shape: tuple[int, ...]) -> bool:
    """Whether the arrays are dense and alike, so that their shape does not matter."""
    return all(
        array.shape == shape and array.flags.c_contiguous
        for array in arrays
        if array.__class__ is host_array and array.ndim
    )


def memory_order(arrays: Sequence[Any], shape: tuple[int, ...]) -> tuple[Array | None, list[int] | None]:
    """An array of that shape that lies as a result should, and its axes in the order in which memory is walked.

    None for an order that the axes have already. Of several the first that has another one: images that came from
    outside meet those that lie batch last, and these go on.
    """
    whole = [a for a in arrays if a.__class__ is host_array and a.shape == shape and 0 not in a.strides]
    for a in whole:
        if not a.flags.c_contiguous:
            order = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
            if order != list(range(a.ndim)):
                return a, order
    return (whole[0] if whole else None), None


def in_order(arrays: Sequence[Any], order: list[int]) -> list[Any]:
    """Arrays that broadcast to a shape, with that shape's axes in another order."""
    return [
        a.reshape((1,) * (len(order) - a.ndim) + a.shape).transpose(order)
        if a.__class__ is host_array and a.ndim
        else a
        for a in arrays
    ]


def elementwise(
    f: Callable[..., Any], arrays: Sequence[Any], shape: tuple[int, ...],
    onto: Array | None = None, into: Array | None = None
) -> Array:  # fmt: skip
    """f(*arrays), of the given shape, block by block: f works element by element, and operands broadcast.

    onto: an array of that shape to which the result is added; it is then what is returned. into: one of the arrays,
    of the result's shape and dtype, whose place in memory the result takes.
    A universal function of the library writes into the result; of any other the blocks are copied there.
    """
    y = into if onto is None else onto
    like, order = memory_order(arrays if y is None else (y, *arrays), shape)
    if y is None:
        one = [a[(slice(1),) * a.ndim] if a.__class__ is host_array else a for a in arrays]
        dtype = f(*one).dtype
        y = xp.empty(shape, dtype) if like is None else xp.empty_like(like, dtype)
    operands = [y, *arrays]
    if order is not None:
        operands, shape = in_order(operands, order), tuple(shape[axis] for axis in order)
    if _flat(operands, shape):
        shape = (math.prod(shape),)
        operands = [a.reshape(shape) if a.__class__ is host_array and a.ndim else a for a in operands]
    _, blocks, places = split(operands, shape)
    writes = isinstance(f, xp.ufunc)

    def work(block: slice) -> None:
        here, *parts = piece_of(operands, places, block)
        if onto is not None:
            xp.add(here, f(*parts), out=here)
        elif writes:
            f(*parts, out=here)
        else:
            here[...] = f(*parts)

    over(blocks, work)
    return y


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
kept = keep_memory()
_requested = os.environ.get("MINIGRAD_THREADS")
if _requested and not _requested.isdecimal():
    raise ValueError(f"MINIGRAD_THREADS: needs an integer >= 1, not {_requested!r}")
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
set_threads(int(_requested) if _requested else min(_cores, 8))
