"""Max pooling on raw arrays: the maximum of each window, which cell it is, and the two moves by that choice.

x (n, c, h, w), y (n, c, oh, ow), in memory batch last as in `convolution`. `which` numbers the cells of a
window in row-major order; cells in the padding take no part. `pick` reads the chosen cell of each window,
`place` is its adjoint. Each is a loop over the cells of a window, for all windows at once, and runs by
blocks of channels.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from minigrad import parallel
from minigrad.backend import Array, host_array, xp
from minigrad.convolution import batch_first, batch_last, reach

Pair = tuple[int, int]
Index = tuple[Any, ...]


class Windows(NamedTuple):
    """How windows lie on an image."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    out: Pair

    @functools.lru_cache(maxsize=256)  # noqa: B019  (windows are small)
    def cells(self, size: Pair) -> list[tuple[int, Index, Index]]:
        """For each cell of a window: its number, the windows in which it is not padding, and where it lies in x.

        Both places are those of rows and columns, after the axis of channels.
        """
        found, every = [], slice(None)
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                rows, columns = self._span(0, i, size[0]), self._span(1, j, size[1])
                if rows is not None and columns is not None:
                    (of_y, of_x), (along_y, along_x) = rows, columns
                    found.append((i * self.kernel[1] + j, (every, of_y, along_y), (every, of_x, along_x)))
        return found

    def _span(self, axis: int, i: int, n: int) -> tuple[slice, slice] | None:
        offset = i * self.dilation[axis] - self.padding[axis]
        return reach(slice(0, self.out[axis]), self.stride[axis], offset, n)

    @property
    def size(self) -> int:
        """The cells of a window."""
        return self.kernel[0] * self.kernel[1]

    def tile(self, size: Pair) -> bool:
        """Whether every cell of x lies in exactly one window."""
        tiled = self.stride == self.kernel and self.padding == (0, 0) and self.dilation == (1, 1)
        return tiled and tuple(o * k for o, k in zip(self.out, self.kernel, strict=True)) == size

    def whole(self, size: Pair) -> bool:
        """Whether all cells of all windows lie on x: none in the padding, none beyond the end (`ceil_mode`)."""
        last = (
            (o - 1) * s + (k - 1) * d
            for o, s, k, d in zip(self.out, self.stride, self.kernel, self.dilation, strict=True)
        )
        return self.padding == (0, 0) and all(at < n for at, n in zip(last, size, strict=True))


# ---- some channels, batch last --------------------------------------------------------------------
def largest_of(x: Array, at: Windows, out: Array) -> None:
    """The maximum of each window, into `out`; NaN wins."""
    size = x.shape[1:3]
    whole = at.whole(size)
    if not whole:
        out[...] = -xp.inf if x.dtype.kind == "f" else xp.iinfo(x.dtype).min
    for number, here, there in at.cells(size):
        if whole and number == 0:
            first = x[there]  # the windows of the first two cells are all windows
        elif whole and number == 1:
            xp.maximum(first, x[there], out=out)
        else:
            xp.maximum(out[here], x[there], out=out[here])
    if whole and at.size == 1:
        out[...] = first


def first_of(x: Array, y: Array, at: Windows, out: Array) -> None:
    """The number of the first cell of each window that holds its maximum y, or NaN where y is NaN, into `out`."""
    some_nan = y.dtype.kind == "f" and (y.__class__ is not host_array or bool(xp.isnan(y).any()))
    out[...] = 0
    places = {number: (here, there) for number, here, there in at.cells(x.shape[1:3])}
    for number in reversed(range(at.size)):  # out: how many cells from this one on come before the maximum
        out += 1
        if number in places:
            here, there = places[number]
            other = x[there] != y[here]
            if some_nan:  # a device is not asked whether there are any: the program would wait for it
                other &= (x[there] == x[there]) | (y[here] == y[here])
            out[here] *= other.view(xp.uint8)


def place_of(g: Array, chosen: Array, at: Windows, out: Array) -> None:
    """g at the chosen cells, zeros elsewhere, into `out`."""
    if not at.tile(out.shape[1:3]):
        out[...] = 0
        spread_of(g, chosen, at, out)
        return
    for number, here, there in at.cells(out.shape[1:3]):
        xp.multiply(g[here], chosen[here] == number, out=out[there])


def spread_of(g: Array, chosen: Array, at: Windows, out: Array) -> None:
    """g at the chosen cells, zeros elsewhere, added to `out`."""
    for number, here, there in at.cells(out.shape[1:3]):
        out[there] += g[here] * (chosen[here] == number)


def numbers(count: int) -> Any:
    """The dtype for the number of a window's cell."""
    return xp.uint8 if count < 256 else xp.int64


# ---- forward functions of the rows -----------------------------------------------------------------
def maximum(x: Array, at: Windows) -> Array:
    """The maximum of each window; NaN wins."""
    x = batch_last(x)
    y = xp.empty((len(x), *at.out, x.shape[3]), x.dtype)
    parallel.pieces(x, lambda c: largest_of(x[c], at, y[c]))
    return batch_first(y)


def which(x: Array, y: Array, at: Windows) -> Array:
    """The number of the first cell of each window that holds its maximum y, or NaN where y is NaN."""
    x, y = batch_last(x), batch_last(y)
    chosen = xp.empty(y.shape, numbers(at.size))
    parallel.pieces(x, lambda c: first_of(x[c], y[c], at, chosen[c]))
    return batch_first(chosen)


def pick(x: Array, chosen: Array, at: Windows) -> Array:
    """The chosen cell of each window."""
    x, chosen = batch_last(x), batch_last(chosen)
    y = xp.empty(chosen.shape, x.dtype)

    def work(c: slice) -> None:
        for number, here, there in at.cells(x.shape[1:3]):
            xp.copyto(y[c][here], x[c][there], where=chosen[c][here] == number)

    parallel.pieces(x, work)
    return batch_first(y)


def place(g: Array, chosen: Array, at: Windows, size: Pair) -> Array:
    """The adjoint of `pick`: g at the chosen cells of an image of height and width `size`, zeros elsewhere."""
    g, chosen = batch_last(g), batch_last(chosen)
    x = xp.empty((len(g), *size, g.shape[3]), g.dtype)
    parallel.pieces(x, lambda c: place_of(g[c], chosen[c], at, x[c]))
    return batch_first(x)
