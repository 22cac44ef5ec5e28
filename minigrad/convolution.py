"""Convolution on raw arrays: the product itself and its two adjoints, in blocks of images.

x (n, c, h, w), weight (o, c/groups, kh, kw), y (n, o, oh, ow); cross-correlation, as everywhere in deep
learning. Each is one matrix product for a block of a few images, with the *columns* of the images: for
every output cell the kh kw cells of each channel that it reads. Columns are made anew in the backward
pass rather than kept, in memory that stays in cache.

With stride 1 the columns are whole rows: of an image in its frame of zeros, written as one line with
`pitch` cells a row, column (i, j) is the same line from cell i pitch + j on. The few cells in which a
row runs over into the next are computed and thrown away, which costs less than a copy row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minigrad import parallel
from minigrad.backend import Array, host_array, xp

Pair = tuple[int, int]

COLUMN_BYTES = 1 << 19
"""The size of the columns of one block: half of a usual second-level cache."""


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


@dataclass(frozen=True)
class Geometry:
    """The sizes of one convolution, and the moves between images and columns."""

    n: int
    c: int
    h: int
    w: int
    o: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    out: Pair

    @property
    def lines(self) -> bool:
        """Whether columns are lines of the framed image."""
        return self.stride == (1, 1)

    @property
    def frame(self) -> Pair:
        """The height and width of an image with its padding."""
        return self.h + 2 * self.padding[0], self.w + 2 * self.padding[1]

    @property
    def pitch(self) -> int:
        """Cells in a row of the columns."""
        return self.frame[1] if self.lines else self.out[1]

    @property
    def depth(self) -> int:
        """The length of a column: the inner length of the product."""
        return self.c // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def slack(self) -> int:
        """Cells beyond the frame that the last column's line reaches."""
        return self.dilation[1] * (self.kernel[1] - 1) if self.lines else 0

    def each_block(self, like: Array, work: Callable[[int, slice], None]) -> None:
        """work(number, slice of images), side by side on the host, block by block."""
        blocks = self.blocks(like)
        if like.__class__ is host_array and len(blocks) > 1:
            parallel.each(len(blocks), lambda number: work(number, blocks[number]))
        else:
            for number, block in enumerate(blocks):
                work(number, block)

    def blocks(self, like: Array) -> list[slice]:
        """The images, cut where the columns of a block fill `COLUMN_BYTES` (far more on a GPU)."""
        image = like.itemsize * self.groups * self.depth * self.out[0] * self.pitch
        limit = COLUMN_BYTES if like.__class__ is host_array else 1 << 28
        step = max(1, limit // max(image, 1))
        return [slice(i, min(i + step, self.n)) for i in range(0, self.n, step)]

    def columns(self, x: Array) -> Array:
        """Some images (m, c, h, w) as columns (groups, depth, m oh pitch)."""
        m, (top, left), (tall, wide), (oh, ow) = len(x), self.padding, self.frame, self.out
        if not self.lines and not top and not left:
            view = windows(x, self.kernel, self.stride, self.dilation).transpose(1, 2, 3, 0, 4, 5)
            return xp.ascontiguousarray(view[..., :oh, :ow]).reshape(self.groups, self.depth, -1)
        line = xp.zeros((self.c, m, tall * wide + self.slack), x.dtype)
        framed = line[:, :, : tall * wide].reshape(self.c, m, tall, wide)
        framed[:, :, top : top + self.h, left : left + self.w] = x.transpose(1, 0, 2, 3)
        if not self.lines:
            view = windows(framed, self.kernel, self.stride, self.dilation).transpose(0, 2, 3, 1, 4, 5)
            return xp.ascontiguousarray(view[..., :oh, :ow]).reshape(self.groups, self.depth, -1)
        sc, sm, s1 = line.strides
        view = xp.lib.stride_tricks.as_strided(
            line,
            (self.c, *self.kernel, m, oh * wide),
            (sc, s1 * wide * self.dilation[0], s1 * self.dilation[1], sm, s1),
        )
        return xp.ascontiguousarray(view).reshape(self.groups, self.depth, -1)

    def fold(self, columns: Array, m: int) -> Array:
        """The adjoint of `columns`: back to m images, as (c, m, h, w); what lies in the padding is dropped."""
        (top, left), (tall, wide), (kh, kw), (oh, ow) = self.padding, self.frame, self.kernel, self.out
        if self.lines:
            parts = columns.reshape(self.c, kh, kw, m, oh * wide)
            line = xp.zeros((self.c, m, tall * wide + self.slack), columns.dtype)
            for i in range(kh):
                for j in range(kw):
                    start = i * self.dilation[0] * wide + j * self.dilation[1]
                    line[:, :, start : start + oh * wide] += parts[:, i, j]
            framed = line[:, :, : tall * wide].reshape(self.c, m, tall, wide)
        else:
            parts = columns.reshape(self.c, kh, kw, m, oh, ow).transpose(0, 3, 1, 2, 4, 5)
            framed = fold(parts, self.frame, self.stride, self.dilation)
        return framed[:, :, top : top + self.h, left : left + self.w]

    def narrow(self, product: Array, m: int) -> Array:
        """(groups, o/groups, m oh pitch) as images (m, o, oh, ow), a view."""
        return product.reshape(self.o, m, self.out[0], self.pitch)[..., : self.out[1]].transpose(1, 0, 2, 3)

    def widen(self, g: Array) -> Array:
        """The adjoint of `narrow`: images (m, o, oh, ow) as (groups, o/groups, m oh pitch), zeros between rows."""
        product = xp.zeros((self.o, len(g), self.out[0], self.pitch), g.dtype)
        product[..., : self.out[1]] = g.transpose(1, 0, 2, 3)
        return product.reshape(self.groups, self.o // self.groups, -1)

    def weight(self, columns: Array, product: Array) -> Array:
        """What some images contribute to the adjoint in the weight, transposed: BLAS likes the longer factor first."""
        return xp.matmul(columns, product.swapaxes(1, 2))

    def joined(self, parts: Sequence[Array]) -> Array:
        """The sum of `weight`s in the shape of the weight."""
        total = parts[0] if len(parts) == 1 else xp.stack(parts).sum(0)
        return xp.ascontiguousarray(total.swapaxes(1, 2)).reshape(self.o, self.c // self.groups, *self.kernel)


def conv2d(x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """(n, c, h, w) and (o, c/groups, kh, kw) to (n, o, oh, ow)."""
    n, c, h, width = x.shape
    o, cg, kh, kw = w.shape
    if c != cg * groups or o % groups:
        raise ValueError(
            f"the weight {list(w.shape)} in {groups} groups reads {cg * groups} channels and writes {o}, "
            f"but the input {list(x.shape)} has {c}"
        )
    oh = conv_size(h, kh, stride[0], padding[0], dilation[0])
    ow = conv_size(width, kw, stride[1], padding[1], dilation[1])
    if oh < 1 or ow < 1:
        size = [h + 2 * padding[0], width + 2 * padding[1]]
        raise ValueError(f"a window of {[kh, kw]} (dilation {list(dilation)}) does not fit into {size}")
    at = Geometry(n, c, h, width, o, (kh, kw), stride, padding, dilation, groups, (oh, ow))
    kernel = w.reshape(groups, o // groups, at.depth)
    y = xp.empty((n, o, oh, ow), xp.result_type(x, w))

    def work(number: int, block: slice) -> None:
        y[block] = at.narrow(xp.matmul(kernel, at.columns(x[block])), block.stop - block.start)

    at.each_block(x, work)
    return y


def conv2d_input(
    g: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, size: Pair
) -> Array:  # fmt: skip
    """The adjoint in the input, of height and width `size`: (n, o, oh, ow) to (n, c, h, w)."""
    n, o, *out = g.shape
    if o != w.shape[0]:
        raise ValueError(f"the weight {list(w.shape)} needs {w.shape[0]} channels, but {list(g.shape)} has {o}")
    c = w.shape[1] * groups
    at = Geometry(n, c, *size, o, w.shape[2:], stride, padding, dilation, groups, tuple(out))
    kernel = xp.ascontiguousarray(w.reshape(groups, o // groups, at.depth).transpose(0, 2, 1))
    x = xp.empty((n, c, *size), xp.result_type(g, w))

    def work(number: int, block: slice) -> None:
        columns = xp.matmul(kernel, at.widen(g[block]))
        x[block] = at.fold(columns, block.stop - block.start).transpose(1, 0, 2, 3)

    at.each_block(g, work)
    return x


def conv2d_weight(
    x: Array, g: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, kernel: Pair
) -> Array:  # fmt: skip
    """The adjoint in the weight, of size `kernel`: (n, c, h, w) and (n, o, oh, ow) to (o, c/groups, kh, kw)."""
    n, c, h, w = x.shape
    _, o, *out = g.shape
    at = Geometry(n, c, h, w, o, kernel, stride, padding, dilation, groups, (out[0], out[1]))
    parts: list[Array] = [None] * len(at.blocks(x))

    def work(number: int, block: slice) -> None:
        parts[number] = at.weight(at.columns(x[block]), at.widen(g[block]))

    at.each_block(x, work)
    return at.joined(parts) if parts else xp.zeros((o, c // groups, *kernel), x.dtype)
