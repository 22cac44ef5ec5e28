"""Sums: of an array, of what broadcasting added, of products; exact to a few roundings however long, and in blocks.

The library adds in pairs along the last axis of memory, but row by row along others, where the error grows with the
number of rows. Here no more than `LINE` numbers in lanes, or `ROWS` one after the other, are added in single
precision. Large arrays are summed block by block (`parallel`), and what is summed may be computed within the block.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from minigrad import parallel
from minigrad.backend import Array, host_array, kernel, xp

SHORT = 2048
"""Elements up to which an array is summed as the library does it."""


# ---- the rows' sums --------------------------------------------------------------------------------
def total(x: Array, axis: Any, keepdims: bool) -> Array:
    """The sum; half precision is added up in single precision, as the mean of it is."""
    if parallel.large(x) and x.dtype.char in "fd" and _has(x, axis):
        return _total_in_blocks(x, axis, keepdims)
    if (sums := _on_device(x, axis, keepdims, False)) is not None:
        return sums
    if x.dtype.char == "e":
        return x.sum(axis=axis, keepdims=keepdims, dtype=xp.float32).astype(x.dtype)
    return _total_at_once(x, axis, keepdims)


def _total_at_once(x: Array, axis: Any, keepdims: bool) -> Array:
    if x.size > SHORT and axis is not None and x.__class__ is host_array and x.dtype.char in "fd" and _has(x, axis):
        return pairwise_sum(x, tuple(a % x.ndim for a in _axes(x, axis)), keepdims)
    return x.sum(axis=axis, keepdims=keepdims)


def mean(x: Array, axis: Any, keepdims: bool) -> Array:
    """The mean."""
    if parallel.large(x) and x.dtype.char in "fd" and _has(x, axis):
        sums = _total_in_blocks(x, axis, keepdims)
        sums /= x.size // sums.size
        return sums
    if (means := _on_device(x, axis, keepdims, True)) is not None:
        return means
    if x.dtype.char in "fd" and x.size:
        sums = _total_at_once(x, axis, keepdims)
        return sums / (x.size // sums.size)
    return x.mean(axis=axis, keepdims=keepdims)


def _axes(x: Array, axis: Any) -> tuple[int, ...]:
    return tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)


def _has(x: Array, axis: Any) -> bool:
    """Whether x has these axes, each once; where it has not, the library says so."""
    axes = _axes(x, axis)
    return all(-x.ndim <= a < x.ndim for a in axes) and len({a % x.ndim for a in axes}) == len(axes)


def _on_device(x: Array, axis: Any, keepdims: bool, mean: bool) -> Array | None:
    """The sum or the mean by the device's own kernel, where it has one for it."""
    own = None if x.__class__ is host_array else kernel("sums")
    return None if own is None else own(x, axis, keepdims, mean)


def _total_in_blocks(x: Array, axis: Any, keepdims: bool) -> Array:
    axes = tuple(a % x.ndim for a in _axes(x, axis))
    sums = summed(lambda x: x, (x,), x.shape, axes)
    return sums if keepdims else sums.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sums over the axes along which an array of `shape` was broadcast to x.shape."""
    lead = x.ndim - len(shape)
    stretched = tuple(i + lead for i, n in enumerate(shape) if n == 1 and x.shape[i + lead] != 1)
    return total(x, tuple(range(lead)) + stretched, False).reshape(shape)


def cumulate(x: Array, axis: int) -> Array:
    """Running sums along an axis; half and single precision are added up in double precision."""
    if x.dtype.char in "ef" and x.ndim:
        return xp.cumsum(x, axis=axis, dtype=xp.float64).astype(x.dtype)
    y = xp.cumsum(x, axis=axis)
    return y if x.ndim else y.reshape(())  # NumPy makes a line of a number


# ---- in blocks -------------------------------------------------------------------------------------
def summed(f: Callable[..., Any], arrays: Sequence[Any], shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
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
    _, order = parallel.memory_order(arrays, shape)
    if order is not None:
        arrays, shape = parallel.in_order(arrays, order), tuple(shape[i] for i in order)
        axes = tuple(map(order.index, axes))
    axis, blocks, places = parallel.split(arrays, shape)
    sums: list[Any] = [None] * len(blocks)

    def work(number: int) -> None:
        sums[number] = sum_of(parallel.piece_of(arrays, places, blocks[number]), axes)

    parallel.each(len(blocks), work)
    if axis not in axes:
        total = xp.concatenate(sums, axis)
    else:
        dtype = sums[0].dtype
        total = xp.stack(sums).sum(0, dtype=xp.float64 if dtype.kind == "f" else dtype).astype(dtype, copy=False)
    return total if order is None else total.transpose([order.index(i) for i in range(len(order))])


# ---- within a block --------------------------------------------------------------------------------
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
