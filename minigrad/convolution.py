"""Convolution on raw arrays: the product itself and its two adjoints, with the batch innermost in memory.

x (n, c, h, w), weight (o, c/groups, kh, kw), y (n, o, oh, ow); cross-correlation, as everywhere in deep
learning. That is the order of the axes; in memory a result lies *batch last*, as (o, oh, ow, n), and x is
brought into that order if it is not in it. A pixel of all images is then one run of cells, and a row of
pixels too: windows and columns are made of long copies whatever the size of the kernel, a channel is
contiguous, and a matrix product writes where its result belongs.

The product is made for a block of some rows of the output (and of some images, where they are many) with
the *columns* of the input: for every output cell the kh kw cells of each channel that it reads. Columns
are made anew in the backward pass rather than kept, in memory that stays in cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from minigrad import parallel
from minigrad.backend import Array, host_array, xp

Pair = tuple[int, int]

COLUMN_BYTES = 1 << 20
"""The size of the columns of one block: about a second-level cache."""


def conv_size(n: int, k: int, stride: int, padding: int, dilation: int) -> int:
    """The output's length along one axis."""
    return (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1


def windows(x: Array, kernel: Pair, stride: Pair, dilation: Pair) -> Array:
    """Sliding windows over the last two axes, a view: (..., h, w) -> (..., kh, kw, oh, ow)."""
    kh, kw = kernel
    oh = conv_size(x.shape[-2], kh, stride[0], 0, dilation[0])
    ow = conv_size(x.shape[-1], kw, stride[1], 0, dilation[1])
    if oh < 1 or ow < 1:
        size = list(x.shape[-2:])
        raise ValueError(f"a window of {list(kernel)} (dilation {list(dilation)}) does not fit into {size}")
    sh, sw = x.strides[-2:]
    overlapping = xp.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:-2], kh, kw, oh, ow),
        (*x.strides[:-2], sh * dilation[0], sw * dilation[1], sh * stride[0], sw * stride[1]),
    )
    return overlapping.view()  # CuPy's as_strided has no base, and would pass for the owner of its memory


def fold(g: Array, size: Pair, stride: Pair, dilation: Pair) -> Array:
    """The adjoint of `windows`: (..., kh, kw, oh, ow) -> (..., h, w), overlapping windows added up."""
    *lead, kh, kw, oh, ow = g.shape
    out = xp.zeros((*lead, *size), g.dtype)
    for i in range(kh):
        for j in range(kw):
            top, left = i * dilation[0], j * dilation[1]
            rows = slice(top, top + stride[0] * (oh - 1) + 1, stride[0])
            columns = slice(left, left + stride[1] * (ow - 1) + 1, stride[1])
            out[..., rows, columns] += g[..., i, j, :, :]
    return out


# ---- the order in memory --------------------------------------------------------------------------
def batch_last(x: Array) -> Array:
    """(n, c, h, w) as a dense (c, h, w, n): the same memory where it lies in that order, else a copy."""
    turned = x.transpose(1, 2, 3, 0)
    if turned.flags.c_contiguous or not parallel.large(x):
        return xp.ascontiguousarray(turned)
    y = xp.empty(turned.shape, x.dtype)
    step = max(1, 4096 // (x.shape[2] * x.shape[3]))

    def work(number: int) -> None:
        """Some channels of some images at a time: turned as a whole, each cell would lie in a page of its own."""
        channels = slice(number * step, (number + 1) * step)
        for first in range(0, len(x), 64):
            images = slice(first, first + 64)
            y[channels, :, :, images] = xp.ascontiguousarray(x[images, channels]).transpose(1, 2, 3, 0)

    parallel.each(-(-x.shape[1] // step), work)
    return y


def batch_first(y: Array) -> Array:
    """(c, h, w, n) as (n, c, h, w), a view."""
    return y.transpose(3, 0, 1, 2)


# ---- products of a few long rows -------------------------------------------------------------------
def _cut(rows: Array, count: int) -> Array:
    """(k, length) as (count, k, length / count), a view."""
    return rows.reshape(len(rows), count, rows.shape[1] // count).transpose(1, 0, 2)


PIECE = 64
"""The shortest rows that are worth a product of their own."""


def times_rows(w: Array, rows: Array, out: Array | None = None) -> Array:
    """(groups, o, k) @ (groups, k, length), where length is by far the largest."""
    count = 1
    if rows.__class__ is host_array and len(w) == 1:
        count = parallel.pieces_of(w.shape[1] * w.shape[2], rows.shape[2], PIECE)
    if count == 1:
        return xp.matmul(w, rows, out=out)
    y = xp.empty((1, w.shape[1], rows.shape[2]), xp.result_type(w, rows)) if out is None else out
    xp.matmul(w[0], _cut(rows[0], count), out=_cut(y[0], count))
    return y


def rows_times_rows(a: Array, b: Array) -> Array:
    """(groups, k, length) @ (groups, o, length) transposed. BLAS likes the longer factor first."""
    taps = a.shape[1] * b.shape[1]
    count = parallel.pieces_of(taps, a.shape[2], 512) if a.__class__ is host_array and len(a) == 1 else 1
    if count == 1:
        return xp.matmul(a, b.swapaxes(1, 2))
    return xp.matmul(_cut(a[0], count), _cut(b[0], count).swapaxes(1, 2)).sum(0, keepdims=True)


# ---- the product and its adjoints ------------------------------------------------------------------
Block = tuple[slice, slice]
Index = tuple[Any, ...]


class Geometry(NamedTuple):
    """The sizes of one convolution, and the moves between images (batch last) and columns."""

    c: int
    h: int
    w: int
    n: int
    o: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    out: Pair

    @property
    def depth(self) -> int:
        """The length of a column: the inner length of the product."""
        return self.c // self.groups * self.kernel[0] * self.kernel[1]

    def blocks(self, like: Array, parts: int = 1) -> list[Block]:
        """Rows and images of the output, cut where the columns of a block fill `COLUMN_BYTES` (far more on a GPU).

        Images are cut only where one row is far too much: without, a block of the output is contiguous. parts: of how
        many parts of the channels one is at work.
        """
        limit = COLUMN_BYTES if like.__class__ is host_array else 1 << 28
        return self._blocks(limit, like.itemsize, parts)

    @functools.lru_cache(maxsize=256)  # noqa: B019  (a geometry is small)
    def _blocks(self, limit: int, itemsize: int, parts: int) -> list[Block]:
        row = max(1, itemsize * self.groups * self.depth * self.out[1] * self.n // parts)
        rows = parallel.evenly(self.out[0], -(-self.out[0] * row // limit))
        images = parallel.evenly(self.n, -(-row // limit) if row > 4 * limit else 1)
        return [(r, i) for r in rows for i in images]

    def framed(self, x: Array) -> Array:
        """x in its frame of zeros."""
        (top, left), (h, w) = self.padding, (self.h, self.w)
        if not top and not left:
            return x
        frame = xp.empty((self.c, h + 2 * top, w + 2 * left, self.n), x.dtype)

        def work(channels: slice) -> None:
            frame[channels] = 0
            frame[channels, top : top + h, left : left + w] = x[channels]

        parallel.pieces(frame, work)
        return frame

    def columns(self, frame: Array, block: Block) -> Array:
        """What a block reads, as (groups, depth, rows ow images); a view where windows are single cells."""
        rows, images = block
        some = frame[:, rows.start * self.stride[0] :, :, images]
        sc, sh, sw, sn = some.strides
        view = xp.lib.stride_tricks.as_strided(
            some,
            (self.c, *self.kernel, rows.stop - rows.start, self.out[1], images.stop - images.start),
            (sc, sh * self.dilation[0], sw * self.dilation[1], sh * self.stride[0], sw * self.stride[1], sn),
        )
        return view.reshape(self.groups, self.depth, math.prod(view.shape[3:]))

    def cells(self, y: Array, block: Block) -> Array | None:
        """A block of y (o, oh, ow, n) as (groups, o/groups, rows ow images), where that is a view."""
        rows, images = block
        if images.stop - images.start < self.n:
            return None
        row = self.out[1] * self.n
        flat = y.reshape(self.groups, self.o // self.groups, self.out[0] * row)
        return flat[:, :, rows.start * row : rows.stop * row]

    def read(self, y: Array, block: Block) -> Array:
        """A block of y as (groups, o/groups, rows ow images)."""
        cells = self.cells(y, block)
        if cells is None:
            some = y[:, block[0], :, block[1]]
            shape = self.groups, self.o // self.groups, math.prod(some.shape[1:])
            cells = xp.ascontiguousarray(some).reshape(shape)
        return cells

    def product(self, x: Array, w: Array) -> Array:
        """The convolution, batch last."""
        frame, kernel = self.framed(x), w.reshape(self.groups, self.o // self.groups, self.depth)
        y = xp.empty((self.o, *self.out, self.n), xp.result_type(x, w))

        def work(block: Block) -> None:
            cells = self.cells(y, block)
            product = times_rows(kernel, self.columns(frame, block), cells)
            if cells is None:
                some = y[:, block[0], :, block[1]]
                some[...] = product.reshape(some.shape)

        parallel.over(self.blocks(x), work)
        return y

    def adjoint_in_weight(self, x: Array, g: Array) -> Array:
        """(o, c/groups, kh, kw): one product for each block, added up in the order of the blocks."""
        frame, blocks = self.framed(x), self.blocks(x)
        parts: list[Array] = [None] * len(blocks)

        def work(number: int) -> None:
            block = blocks[number]
            parts[number] = rows_times_rows(self.columns(frame, block), self.read(g, block))

        parallel.over(range(len(blocks)), work)
        shape = self.o, self.c // self.groups, *self.kernel
        if not parts:
            return xp.zeros(shape, xp.result_type(x, g))
        total = parts[0] if len(parts) == 1 else xp.stack(parts).sum(0)
        return xp.ascontiguousarray(total.swapaxes(1, 2)).reshape(shape)

    def adjoint_in_input(self, g: Array, w: Array) -> Array:
        """(c, h, w, n): by a convolution of g, or by columns that are added up where they came from."""
        if (turned := self.turned()) is None:
            return self.added_columns(g, w)
        kernel = w.reshape(self.groups, self.o // self.groups, self.c // self.groups, *self.kernel)
        kernel = xp.ascontiguousarray(kernel[..., ::-1, ::-1].swapaxes(1, 2))
        return turned.product(g, kernel.reshape(self.c, self.o // self.groups, *self.kernel))

    @functools.lru_cache(maxsize=256)  # noqa: B019
    def turned(self) -> Geometry | None:
        """The convolution with the kernel turned round that is the adjoint in the input where the stride is 1.

        None where columns are quicker: it would read more padding than this one does, or much more in all, or its
        product would not be made in pieces.
        """
        rest = tuple(d * (k - 1) - p for k, d, p in zip(self.kernel, self.dilation, self.padding, strict=True))
        short = all(0 <= r <= p for r, p in zip(rest, self.padding, strict=True))
        if self.stride != (1, 1) or not short or self.o > 2 * self.c or self.o * self.depth * PIECE > parallel.SMALL:
            return None
        height, width = self.out
        return Geometry(
            self.o, height, width, self.n, self.c, self.kernel, (1, 1), (rest[0], rest[1]), self.dilation, self.groups,
            (self.h, self.w),
        )  # fmt: skip

    def added_columns(self, g: Array, w: Array) -> Array:
        """(c, h, w, n), some channels at a time: all that is added to a channel is added by one thread, in order."""
        one, per_group, taps = self.groups == 1, self.c // self.groups, math.prod(self.kernel)
        parts = parallel.evenly(per_group if one else self.groups, 1 if len(self.blocks(g)) == 1 else 4)
        blocks = self.blocks(g, len(parts))
        lands = [self.lands(rows.start, rows.stop) for rows, _ in blocks]
        kernel = w.reshape(self.groups, self.o // self.groups, self.depth).swapaxes(1, 2)
        kernel = xp.ascontiguousarray(kernel).reshape(self.groups, per_group, taps, self.o // self.groups)
        x = xp.empty((self.c, self.h, self.w, self.n), xp.result_type(g, w))

        def work(part: slice) -> None:
            """Channels of the one group, or else groups."""
            some = kernel[:, part] if one else kernel[part]
            some = some.reshape(len(some), some.shape[1] * taps, some.shape[3])
            out = x[part if one else slice(part.start * per_group, part.stop * per_group)]
            out[...] = 0
            for block, cells_of in zip(blocks, lands, strict=True):
                cells = self.read(g, block)
                columns = times_rows(some, cells if one else cells[part])
                rows, images = (s.stop - s.start for s in block)
                columns = columns.reshape(len(out), *self.kernel, rows, self.out[1], images)
                to = out[..., block[1]]
                for of_columns, of_x in cells_of:
                    to[of_x] += columns[of_columns]

        parallel.over(parts, work)
        return x

    @functools.lru_cache(maxsize=256)  # noqa: B019
    def lands(self, start: int, stop: int) -> list[tuple[Index, Index]]:
        """For each cell of the kernel, which columns of some rows of the output lie on the image, and where there."""
        found, every = [], slice(None)
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                offset = [a * d - p for a, d, p in zip((i, j), self.dilation, self.padding, strict=True)]
                down = reach(slice(start, stop), self.stride[0], offset[0], self.h)
                along = reach(slice(0, self.out[1]), self.stride[1], offset[1], self.w)
                if down is not None and along is not None:
                    rows = slice(down[0].start - start, down[0].stop - start)
                    found.append(((every, i, j, rows, along[0]), (every, down[1], along[1])))
        return found


def reach(windows: slice, step: int, offset: int, n: int) -> tuple[slice, slice] | None:
    """Of some windows, those whose cell at `offset` lies on an axis of n cells, and where it lies there.

    Window k reads cell k step + offset. None where there is no such window.
    """
    first, last = max(windows.start, -(offset // step)), min(windows.stop - 1, (n - 1 - offset) // step)
    if first > last:
        return None
    return slice(first, last + 1), slice(first * step + offset, last * step + offset + 1, step)


# ---- forward functions of the rows -----------------------------------------------------------------
def geometry(
    x: Sequence[int], w: Sequence[int], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Geometry:  # fmt: skip
    """The geometry of a convolution of shapes x and w; ValueError where they do not go together."""
    n, c, height, width = x
    o, cg, kh, kw = w
    if c != cg * groups or o % groups:
        raise ValueError(
            f"the weight {list(w)} in {groups} groups reads {cg * groups} channels and writes {o}, "
            f"but the input {list(x)} has {c}"
        )
    oh = conv_size(height, kh, stride[0], padding[0], dilation[0])
    ow = conv_size(width, kw, stride[1], padding[1], dilation[1])
    if oh < 1 or ow < 1:
        size = [height + 2 * padding[0], width + 2 * padding[1]]
        raise ValueError(f"a window of {[kh, kw]} (dilation {list(dilation)}) does not fit into {size}")
    return Geometry(c, height, width, n, o, (kh, kw), stride, padding, dilation, groups, (oh, ow))


def conv2d(x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """(n, c, h, w) and (o, c/groups, kh, kw) to (n, o, oh, ow)."""
    at = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    return batch_first(at.product(batch_last(x), w))


def conv2d_input(
    g: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, size: Pair
) -> Array:  # fmt: skip
    """The adjoint in the input, of height and width `size`: (n, o, oh, ow) to (n, c, h, w)."""
    n, o, *out = g.shape
    if o != w.shape[0]:
        raise ValueError(f"the weight {list(w.shape)} needs {w.shape[0]} channels, but {list(g.shape)} has {o}")
    c = w.shape[1] * groups
    at = Geometry(c, *size, n, o, w.shape[2:], stride, padding, dilation, groups, (out[0], out[1]))
    return batch_first(at.adjoint_in_input(batch_last(g), w))


def conv2d_weight(
    x: Array, g: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, kernel: Pair
) -> Array:  # fmt: skip
    """The adjoint in the weight, of size `kernel`: (n, c, h, w) and (n, o, oh, ow) to (o, c/groups, kh, kw)."""
    n, c, h, w = x.shape
    _, o, *out = g.shape
    at = Geometry(c, h, w, n, o, kernel, stride, padding, dilation, groups, (out[0], out[1]))
    return at.adjoint_in_weight(batch_last(x), batch_last(g))
