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

Function = Callable[..., Any]
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


def _order(arrays: Sequence[Any], shape: tuple[int, ...]) -> tuple[Array | None, list[int] | None]:
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


def _turned(arrays: Sequence[Any], order: list[int]) -> list[Any]:
    """Arrays that broadcast to a shape, with that shape's axes in another order."""
    return [
        a.reshape((1,) * (len(order) - a.ndim) + a.shape).transpose(order)
        if a.__class__ is host_array and a.ndim
        else a
        for a in arrays
    ]


def elementwise(
    f: Function, arrays: Sequence[Any], shape: tuple[int, ...], onto: Array | None = None, into: Array | None = None
) -> Array:  # fmt: skip
    """f(*arrays), of the given shape, block by block: f works element by element, and operands broadcast.

    onto: an array of that shape to which the result is added; it is then what is returned. into: one of the arrays,
    of the result's shape and dtype, whose place in memory the result takes.
    A universal function of the library writes into the result; of any other the blocks are copied there.
    """
    y = into if onto is None else onto
    like, order = _order(arrays if y is None else (y, *arrays), shape)
    if y is None:
        one = [a[(slice(1),) * a.ndim] if a.__class__ is host_array else a for a in arrays]
        dtype = f(*one).dtype
        y = xp.empty(shape, dtype) if like is None else xp.empty_like(like, dtype)
    operands = [y, *arrays]
    if order is not None:
        operands, shape = _turned(operands, order), tuple(shape[axis] for axis in order)
    if _flat(operands, shape):
        shape = (math.prod(shape),)
        operands = [a.reshape(shape) if a.__class__ is host_array and a.ndim else a for a in operands]
    _, blocks, places = _split(operands, shape)
    writes = isinstance(f, xp.ufunc)

    def work(block: slice) -> None:
        here, *parts = _parts(operands, places, block)
        if onto is not None:
            xp.add(here, f(*parts), out=here)
        elif writes:
            f(*parts, out=here)
        else:
            here[...] = f(*parts)

    over(blocks, work)
    return y


def summed(f: Function, arrays: Sequence[Any], shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """f(*arrays), of the given shape, summed over axes that stay as lengths of 1; f works element by element.

    The whole of f's result is never in memory. The sums of blocks are added in double precision.
    """
    return _summed(lambda parts, axes: block_sum(f(*parts), axes), arrays, shape, axes)


def summed_product(a: Array, b: Array, axes: tuple[int, ...]) -> Array:
    """The products of two arrays of one shape, summed over axes that stay as lengths of 1."""
    return _summed(lambda parts, axes: block_dot(parts[0], parts[1], axes), (a, b), a.shape, axes)


def _summed(
    sum_of: Callable[[Sequence[Any], tuple[int, ...]], Array],
    arrays: Sequence[Any], shape: tuple[int, ...], axes: tuple[int, ...],
) -> Array:  # fmt: skip
    _, order = _order(arrays, shape)
    if order is not None:
        arrays, shape, axes = _turned(arrays, order), tuple(shape[i] for i in order), tuple(map(order.index, axes))
    axis, blocks, places = _split(arrays, shape)
    sums: list[Any] = [None] * len(blocks)

    def work(number: int) -> None:
        sums[number] = sum_of(_parts(arrays, places, blocks[number]), axes)

    each(len(blocks), work)
    if axis not in axes:
        total = xp.concatenate(sums, axis)
    else:
        dtype = sums[0].dtype
        total = xp.stack(sums).sum(0, dtype=xp.float64 if dtype.kind == "f" else dtype).astype(dtype, copy=False)
    return total if order is None else total.transpose([order.index(i) for i in range(len(order))])


LINE = 4096
"""The most elements that are added up in single precision, in lanes; sums of lines are added in double precision."""


@functools.lru_cache(maxsize=64)
def line_of(value: float, n: int, dtype: Any) -> Array:
    """A line of one value, to be read only."""
    line = xp.full(n, value, dtype)
    line.flags.writeable = False
    return line


ROWS = 64
"""The most rows that are added up one after the other in single precision."""


def pairwise_sum(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    """x.sum, whose error does not grow with the length of an axis before the last.

    The library adds in pairs along the last axis of memory, and row by row along others: 0.1 a million times is
    100,958 then. Here they are added in groups, and the groups' sums among themselves.
    """
    rows = [a for a in axes if a != x.ndim - 1 and x.shape[a] > 1]
    if math.prod(x.shape[a] for a in rows) <= ROWS:
        return x.sum(axis=axes, keepdims=keepdims)
    axis = max(rows, key=lambda a: x.shape[a])
    n, before = x.shape[axis], (slice(None),) * axis
    if n <= ROWS:
        sums = x.sum(axis=axis, keepdims=True)
    else:
        whole = n // ROWS * ROWS
        groups = x[*before, :whole].reshape(*x.shape[:axis], -1, ROWS, *x.shape[axis + 1 :])
        sums = groups.sum(axis=axis + 1)
        if whole < n:
            sums = xp.concatenate([sums, x[*before, whole:].sum(axis=axis, keepdims=True)], axis)
    return pairwise_sum(sums, axes, keepdims)


def block_sum(x: Array, axes: tuple[int, ...]) -> Array:
    """The sum over axes that stay as lengths of 1: products with ones, which BLAS adds in lanes, where it can be.

    (Line by line: the product of the matrix with ones reads several lines at once, which costs twice the time where
    they come from memory.)
    """
    if not _blas_sums((x,), axes):
        return pairwise_sum(x, axes, True)
    line = _line(x.shape, axes)
    return _joined(xp.vecdot(x.reshape(-1, line), line_of(1, line, x.dtype)) if line > 1 else x, x, axes)


def block_dot(a: Array, b: Array, axes: tuple[int, ...]) -> Array:
    """The sum of products of two arrays of one shape."""
    line = _line(a.shape, axes)
    if line < 32 or not _blas_sums((a, b), axes):
        return block_sum(a * b, axes)
    return _joined(xp.vecdot(a.reshape(-1, line), b.reshape(-1, line)), a, axes)


def _blas_sums(arrays: Sequence[Array], axes: tuple[int, ...]) -> bool:
    """Whether the axes are first or last ones of dense floating arrays."""
    kept = [i for i in range(arrays[0].ndim) if i not in axes]
    together = bool(kept) and kept[-1] - kept[0] == len(kept) - 1
    return together and all(x.flags.c_contiguous and x.dtype.char in "fd" and x.size for x in arrays)


def _line(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """How many elements of the last axes are added up side by side: no more than `LINE` where there is a choice."""
    line, lengths = 1, []
    for axis in reversed(range(len(shape))):
        if axis not in axes:
            break
        lengths.append(shape[axis])
    for n in lengths:
        if line > 1 and line * n > LINE:
            break
        line *= n
    return line


def _joined(lines: Array, x: Array, axes: tuple[int, ...]) -> Array:
    """The sums of lines, of which several may belong to one sum, and then over the first axes."""
    shape = x.shape
    kept = [i for i in range(len(shape)) if i not in axes]
    before, middle = math.prod(shape[: kept[0]]), math.prod(shape[kept[0] : kept[-1] + 1])
    total = lines.reshape(before, middle, -1)
    total = total.sum(2, dtype=xp.float64) if total.shape[2] > 1 else total.reshape(before, middle)
    if before > ROWS:
        total = pairwise_sum(total, (0,), False)
    elif before > 1:
        total = line_of(1, before, total.dtype) @ total
    return total.reshape([1 if i in axes else n for i, n in enumerate(shape)]).astype(x.dtype, copy=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
kept = keep_memory()
_requested = os.environ.get("MINIGRAD_THREADS")
if _requested and not _requested.isdecimal():
    raise ValueError(f"MINIGRAD_THREADS: needs an integer >= 1, not {_requested!r}")
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
set_threads(int(_requested) if _requested else min(_cores, 8))
