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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigrad.backend import Array, host_array, xp

Function = Callable[..., Any]

LARGE = 1 << 17
"""Elements from which on an array is computed in blocks."""

BLOCK = 1 << 17
"""Elements of one block: a few of them fit into a core's second-level cache."""


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


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Holds BLAS to one thread for a block of code; what was set before returns with the last to leave."""
    global _holders, _blas_before
    if _blas is None:
        yield
        return
    get, set_ = _blas
    with _lock:
        _holders += 1
        if _holders == 1:
            _blas_before = get()
            if _blas_before != 1:
                set_(1)
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0 and _blas_before != 1:
                set_(_blas_before)


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
    helpers = min(_threads, count) - 1
    with one_blas_thread():
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
            for _ in range(helpers):
                _jobs.put(batch)
            batch.run()
            batch.over.acquire()
            if batch.error is not None:
                raise batch.error
        finally:
            _inside.value = False


# ---- blocks ---------------------------------------------------------------------------------------
def cuts(n: int, size: int) -> list[slice]:
    """Where an axis of length n is cut, in an array of `size` elements, into blocks of about `BLOCK`."""
    step = max(1, n * BLOCK // max(size, 1))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def large(array: Any) -> bool:
    """Whether an array is on the host, and large enough to be computed in blocks."""
    return array.__class__ is host_array and array.size >= LARGE


def _split(arrays: Sequence[Any], shape: tuple[int, ...]) -> tuple[int, list[slice], list[int | None]]:
    """Where arrays that broadcast to `shape` are cut: the axis, the cuts, and for each array how many axes it has
    before that one, or None where it is broadcast along it (or is a number) and belongs to every block whole."""
    axis = next((i for i, n in enumerate(shape) if n > 1), 0)
    from_end = axis - len(shape)
    places: list[int | None] = [
        a.ndim + from_end if a.__class__ is host_array and a.ndim >= -from_end and a.shape[from_end] != 1 else None
        for a in arrays
    ]
    return axis, cuts(shape[axis], math.prod(shape)), places


def _parts(arrays: Sequence[Any], places: Sequence[int | None], cut: slice) -> list[Any]:
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


def elementwise(f: Function, arrays: Sequence[Any], shape: tuple[int, ...], onto: Array | None = None) -> Array:
    """f(*arrays), of the given shape, block by block: f works element by element, and operands broadcast.

    onto: an array of that shape to which the result is added; it is then what is returned.
    A universal function of the library writes into the result; of any other the blocks are copied there.
    """
    if _flat(arrays if onto is None else (*arrays, onto), shape):
        flat = (math.prod(shape),)
        arrays = [a.reshape(flat) if a.__class__ is host_array and a.ndim else a for a in arrays]
        return _elementwise(f, arrays, flat, None if onto is None else onto.reshape(flat)).reshape(shape)
    return _elementwise(f, arrays, shape, onto)


def _elementwise(f: Function, arrays: Sequence[Any], shape: tuple[int, ...], onto: Array | None) -> Array:
    if onto is not None:
        _, blocks, places = _split([onto, *arrays], shape)

        def add(number: int) -> None:
            here, *parts = _parts([onto, *arrays], places, blocks[number])
            xp.add(here, f(*parts), out=here)

        each(len(blocks), add)
        return onto
    _, blocks, places = _split(arrays, shape)
    first = f(*_parts(arrays, places, blocks[0]))
    like = next((a for a in arrays if a.__class__ is host_array and a.shape == shape and 0 not in a.strides), None)
    y = xp.empty(shape, first.dtype) if like is None else xp.empty_like(like, first.dtype)
    _, blocks, (place,) = _split([y], shape)
    head = (slice(None),) * (place or 0)
    y[(*head, blocks[0])] = first

    writes = isinstance(f, xp.ufunc)

    def fill(number: int) -> None:
        block = blocks[number + 1]
        parts = _parts(arrays, places, block)
        if writes:
            f(*parts, out=y[(*head, block)])
        else:
            y[(*head, block)] = f(*parts)

    each(len(blocks) - 1, fill)
    return y


def summed(f: Function, arrays: Sequence[Any], shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """f(*arrays), of the given shape, summed over axes that stay as lengths of 1; f works element by element.

    The whole of f's result is never in memory. The sums of blocks are added in double precision.
    """
    axis, blocks, places = _split(arrays, shape)
    sums: list[Any] = [None] * len(blocks)

    def work(number: int) -> None:
        sums[number] = block_sum(f(*_parts(arrays, places, blocks[number])), axes)

    each(len(blocks), work)
    if axis not in axes:
        return xp.concatenate(sums, axis)
    dtype = sums[0].dtype
    return xp.stack(sums).sum(0, dtype=xp.float64 if dtype.kind == "f" else dtype).astype(dtype, copy=False)


@functools.lru_cache(maxsize=16)
def _ones(n: int, dtype: Any) -> Array:
    return xp.ones(n, dtype)


def block_sum(x: Array, axes: tuple[int, ...]) -> Array:
    """The sum over axes that stay as lengths of 1: a product with ones, which BLAS adds in lanes, where it can be."""
    shape = x.shape
    lead = next((i for i, n in enumerate(shape) if i not in axes), 0)
    tail = len(shape)
    while tail - 1 in axes and tail > lead:
        tail -= 1
    if (not lead and tail == len(shape)) or not x.flags.c_contiguous or x.dtype.char not in "fd" or not x.size:
        return x.sum(axis=axes, keepdims=True)
    if any(i in axes for i in range(lead, tail)):
        return x.sum(axis=axes, keepdims=True)
    before, after = math.prod(shape[:lead]), math.prod(shape[tail:])
    rows = x.reshape(-1, after) @ _ones(after, x.dtype) if after > 1 else x
    rows = rows.reshape(before, -1)
    total = _ones(before, x.dtype) @ rows if before > 1 else rows
    return total.reshape([1 if i in axes else n for i, n in enumerate(shape)])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
kept = keep_memory()
_requested = os.environ.get("MINIGRAD_THREADS")
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
set_threads(int(_requested) if _requested else min(_cores, 8))
