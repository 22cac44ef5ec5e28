"""Max pooling on raw arrays: the maximum of each window, which cell it is, and the two moves by that choice.

x (n, c, h, w), y (n, c, oh, ow). `which` numbers the cells of a window in row-major order; cells in the
padding take no part. `pick` reads the chosen cell of each window, `place` is its adjoint. Each is a
loop over the cells of a window, for all windows at once, and runs by blocks of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from minigrad import parallel
from minigrad.backend import Array, host_array, xp

Pair = tuple[int, int]
Index = tuple[Any, ...]


class Windows(NamedTuple):
    """How windows lie on an image."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    out: Pair

    def cells(self, size: Pair) -> Iterator[tuple[int, Index, Index]]:
        """For each cell of a window: its number, the windows in which it is not padding, and where it lies in x."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                rows, columns = self._span(0, i, size[0]), self._span(1, j, size[1])
                if rows is not None and columns is not None:
                    (of_y, of_x), (along_y, along_x) = rows, columns
                    yield i * self.kernel[1] + j, (..., of_y, along_y), (..., of_x, along_x)

    def _span(self, axis: int, i: int, n: int) -> tuple[slice, slice] | None:
        step, offset = self.stride[axis], i * self.dilation[axis] - self.padding[axis]
        first, last = max(0, -(offset // step)), min(self.out[axis] - 1, (n - 1 - offset) // step)
        if first > last:
            return None
        return slice(first, last + 1), slice(first * step + offset, last * step + offset + 1, step)

    def tile(self, size: Pair) -> bool:
        """Whether every cell of x lies in exactly one window."""
        tiled = self.stride == self.kernel and self.padding == (0, 0) and self.dilation == (1, 1)
        return tiled and tuple(o * k for o, k in zip(self.out, self.kernel, strict=True)) == size


# ---- windows that tile the image -------------------------------------------------------------------
# Rows of an image are read and written whole; along a row, the j-th cells of all windows are one slice of
# the flat array. y, cells and g are dense; only x may be a view.


def tile_maximum(x: Array, kernel: Pair, out: Array) -> None:
    """The maximum of each window, into `out`."""
    kh, kw = kernel
    rows = x[:, :, 0::kh]
    for i in range(1, kh):
        rows = xp.maximum(rows, x[:, :, i::kh], out=None if i == 1 else rows)
    line, y = rows.reshape(-1), out.reshape(-1)
    if kw == 1:
        y[...] = line
        return
    xp.maximum(line[0::kw], line[1::kw], out=y)
    for j in range(2, kw):
        xp.maximum(y, line[j::kw], out=y)


def tile_which(x: Array, y: Array, kernel: Pair, out: Array) -> None:
    """The number of the first cell of each window that holds its maximum y, or NaN where y is NaN, into `out`."""
    kh, kw = kernel
    wide = xp.empty((*y.shape[:-1], y.shape[-1] * kw), y.dtype)
    some_nan = y.__class__ is not host_array or bool((y != y).any())  # a device is not asked: it would be waited for
    for j in range(kw):
        wide.reshape(-1)[j::kw] = y.reshape(-1)
    first = out.reshape(-1)
    first[...] = 0
    for i in range(kh):
        found = x[:, :, i::kh] == wide
        if some_nan:
            found |= (x[:, :, i::kh] != x[:, :, i::kh]) & (wide != wide)
        line = found.reshape(-1).view(xp.uint8)
        for j in range(kw):  # the largest of count - number among the cells that hold y: the first cell
            xp.maximum(first, xp.multiply(line[j::kw], kh * kw - i * kw - j, dtype=out.dtype), out=first)
    xp.subtract(kh * kw, first, out=first)


def tile_place(g: Array, cells: Array, kernel: Pair, out: Array, add: bool = False) -> None:
    """g at the chosen cells, zeros elsewhere, into `out` or added to it."""
    kh, kw = kernel
    row = xp.empty((*g.shape[:-1], g.shape[-1] * kw), g.dtype)
    line, g, cells = row.reshape(-1), g.reshape(-1), cells.reshape(-1)
    for i in range(kh):
        for j in range(kw):
            xp.multiply(g, cells == i * kw + j, out=line[j::kw])
        if add:
            out[:, :, i::kh] += row
        else:
            out[:, :, i::kh] = row


# ---- windows of any kind ---------------------------------------------------------------------------
def each_block(x: Array, work: Callable[[slice], None]) -> None:
    """work(slice of images), block by block where x is large."""
    if not parallel.large(x):
        work(slice(None))
        return
    blocks = parallel.cuts(len(x), x.size)
    parallel.each(len(blocks), lambda number: work(blocks[number]))


def maximum(x: Array, at: Windows) -> Array:
    """The maximum of each window; NaN wins."""
    y = xp.empty((*x.shape[:2], *at.out), x.dtype)
    padded, cells = at.padding != (0, 0), list(at.cells(x.shape[2:]))
    tiled = at.tile(x.shape[2:])

    def work(block: slice) -> None:
        some, largest = x[block], y[block]
        if tiled:
            tile_maximum(some, at.kernel, largest)
            return
        if padded:
            largest[...] = -xp.inf if x.dtype.kind == "f" else xp.iinfo(x.dtype).min
        for number, here, there in cells:
            if number == 0 and not padded:
                largest[...] = some[there]
            else:
                xp.maximum(largest[here], some[there], out=largest[here])

    each_block(x, work)
    return y


def which(x: Array, y: Array, at: Windows) -> Array:
    """The number of the first cell of each window that holds its maximum y, or NaN where y is NaN."""
    count, cells = at.kernel[0] * at.kernel[1], list(at.cells(x.shape[2:]))
    chosen = xp.empty(y.shape, xp.uint8 if count < 256 else xp.int64)
    # A device is not asked whether there are any: the program would wait for it.
    some_nan = y.dtype.kind == "f" and (y.__class__ is not host_array or bool((y != y).any()))

    tiled = at.tile(x.shape[2:]) and count < 256 and y.flags.c_contiguous

    def work(block: slice) -> None:
        some, largest, first = x[block], y[block], chosen[block]
        if tiled:
            tile_which(some, largest, at.kernel, first)
            return
        first[...] = 0
        for number, here, there in cells:  # the largest of count - number among the cells that hold y: the first cell
            found = some[there] == largest[here]
            if some_nan:
                found |= (some[there] != some[there]) & (largest[here] != largest[here])
            xp.maximum(first[here], xp.multiply(found, count - number, dtype=chosen.dtype), out=first[here])
        xp.subtract(count, first, out=first)

    each_block(x, work)
    return chosen


def pick(x: Array, chosen: Array, at: Windows) -> Array:
    """The chosen cell of each window."""
    y, cells = xp.empty(chosen.shape, x.dtype), list(at.cells(x.shape[2:]))

    def work(block: slice) -> None:
        for number, here, there in cells:
            xp.copyto(y[block][here], x[block][there], where=chosen[block][here] == number)

    each_block(x, work)
    return y


def place(g: Array, chosen: Array, at: Windows, size: Pair) -> Array:
    """The adjoint of `pick`: g at the chosen cells of an image of height and width `size`, zeros elsewhere."""
    x = xp.empty((*g.shape[:2], *size), g.dtype)
    tiled, cells = at.tile(size), list(at.cells(size))

    def work(block: slice) -> None:
        some, out, number_of = g[block], x[block], chosen[block]
        if tiled:
            tile_place(some, number_of, at.kernel, out)
            return
        out[...] = 0
        for number, here, there in cells:
            out[there] += some[here] * (number_of[here] == number)

    each_block(x, work)
    return x
