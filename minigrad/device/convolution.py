"""Convolution and its two adjoints on the device.

The columns of the images, nine times the images' size for a 3 x 3 kernel, are never written to memory: a block computes
a tile of the result from a part of the images in shared memory. Which tile is decided here, from the shapes.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from minigrad.backend import Array, xp
from minigrad.convolution import Pair, conv_size
from minigrad.device.launch import FILL, dense, launch, module, offer, small, usable
from minigrad.device.products import SIDE, ceil
from minigrad.device.sums import add_up

SHARED = 40 << 10
"""Bytes of shared memory for a block's tile: below the 48 KB that every card gives."""

STRIP = 4
"""Neighbouring cells that a thread of `conv_weight` takes together."""


class Shape(NamedTuple):
    """What a convolution's kernels are written for, in the terms of their sources."""

    c: int
    h: int
    w: int
    o: int
    oh: int
    ow: int
    groups: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def defined(self) -> dict[str, Any]:
        """The sizes by the names that the sources give them."""
        (kh, kw), (sh, sw), (ph, pw), (dh, dw) = self.kernel, self.stride, self.padding, self.dilation
        return {
            "C": self.c, "H": self.h, "W": self.w, "O": self.o, "OH": self.oh, "OW": self.ow, "GROUPS": self.groups,
            "KH": kh, "KW": kw, "SH": sh, "SW": sw, "PH": ph, "PW": pw, "DH": dh, "DW": dw,
        }  # fmt: skip

    def under(self, rows: int, columns: int) -> tuple[int, int]:
        """How many rows and columns of x so many rows and columns of y are computed from."""
        covered = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return (rows - 1) * self.stride[0] + covered[0], (columns - 1) * self.stride[1] + covered[1]


def cut(length: int, most: int) -> int:
    """The largest part when `length` is cut into equal parts of `most` at most."""
    return ceil(length, ceil(length, most))


@functools.cache
def conv_tile(at: Shape, images: int, itemsize: int) -> dict[str, int] | None:
    """How `conv` divides its work: the sizes of a block's tile. None where no tile fits into shared memory."""
    cg, og, taps = at.c // at.groups, at.o // at.groups, math.prod(at.kernel)
    many = min(8, 1 << (og - 1).bit_length())
    ot = many * cut(ceil(og, many), 32 // many)
    # Of the sizes that were timed the best: few channels leave little to share, and smaller blocks wait less.
    threads, each = 256 if cg * taps > 64 else 128, 4 if ot >= 4 * many else 2
    cells = threads * each // (ot // many)
    rows, together = cut(at.oh, max(1, cells // at.ow)), 1
    if rows == at.oh:
        fair = images * at.groups * ceil(og, ot) // (FILL // 2)  # as many as leave a block for each multiprocessor
        together = max(1, min(fair, cells // (rows * at.ow)))
    lanes = ceil(together * rows * at.ow, each)
    for parts in range(1, cg + 1):  # of the channels of x: as many at a time as fit
        ct = ceil(cg, parts)
        if (ct * together * math.prod(at.under(rows, at.ow)) + ct * taps * ot) * itemsize <= SHARED:
            break
    else:
        return None
    if lanes * (ot // many) > 1024:
        return None
    return {"IMAGES": together, "ROWS": rows, "OT": ot, "CT": ct, "MANY": many, "EACH": each, "LANES": lanes}


@functools.cache
def weight_tile(at: Shape, itemsize: int) -> dict[str, int] | None:
    """How `conv_weight` divides its work; None where no tile fits into shared memory or its sums into registers."""
    cg, og, taps = at.c // at.groups, at.o // at.groups, math.prod(at.kernel)
    many = min(4, 1 << (og - 1).bit_length(), 1 << max(0, (72 // taps).bit_length() - 1))
    if cg == 1:
        many = min(many, 2)  # timed: more threads beside each other help more than more sums in each
    if taps > 128:
        return None
    ct, across = cut(cg, 16), ceil(at.ow, STRIP)
    fits = (
        (ot, rows)
        for ot in (many * cut(ceil(og, many), max(1, most // many)) for most in (32, 16, 8, 4))
        for rows in (ceil(at.oh, bands) for bands in range(1, at.oh + 1))
        if (rows * across * (ot + 1) * STRIP + ct * (math.prod(at.under(rows, across * STRIP)) | 1)) * itemsize
        <= SHARED * 3 // 4
    )
    ot, rows = next(fits, (0, 0))
    if not rows:
        return None
    owners, strips = ct * (ot // many), rows * across
    room = SHARED // (many * taps * owners * itemsize)  # for the sums of half the parts
    if not room:
        return None
    parts = ceil(strips, ceil(strips, max(1, min(256 // owners, 2 * room))))
    return {"ROWS": rows, "CT": ct, "OT": ot, "MANY": many, "PARTS": parts}


def conv(
    x: Array, w: Array, at: Shape, bias: Array | None = None, relu: bool = False, turned: bool = False
) -> Array | None:
    """The convolution of a shape; turned: the adjoint of the one with stride 1 that w belongs to."""
    n, y = len(x), xp.empty((len(x), at.o, at.oh, at.ow), x.dtype)
    tile = conv_tile(at, n, x.itemsize) if small(y) and at.groups <= 65535 else None
    if tile is None:
        return None
    of = module("convolution", dtype=x.dtype, **at.defined(), **tile, TURNED=int(turned))
    bands, og = ceil(n, tile["IMAGES"]) * ceil(at.oh, tile["ROWS"]), at.o // at.groups
    grid, threads = (bands, ceil(og, tile["OT"]), at.groups), tile["LANES"] * (tile["OT"] // tile["MANY"])
    launch(
        of, "conv", grid, dense(x), dense(w), None if bias is None else dense(bias), y, n, int(relu), threads=threads
    )
    return y


@offer("conv2d")
def conv2d(
    x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, bias: Array | None = None,
    relu: bool = False,
) -> Array | None:  # fmt: skip
    """`convolution.conv2d`, with a bias (o,) and ReLU where they are asked for."""
    (_, c, h, width), (o, cg, kh, kw) = x.shape, w.shape
    oh = conv_size(h, kh, stride[0], padding[0], dilation[0])
    ow = conv_size(width, kw, stride[1], padding[1], dilation[1])
    if not usable(x, w) or c != cg * groups or o % groups or min(oh, ow) < 1:
        return None  # the composed one has the errors
    return conv(x, w, Shape(c, h, width, o, oh, ow, groups, (kh, kw), stride, padding, dilation), bias, relu)


@offer("conv2d_input")
def conv2d_input(
    g: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, size: Pair
) -> Array | None:  # fmt: skip
    """`convolution.conv2d_input`."""
    (n, o, oh, ow), (_, cg, kh, kw) = g.shape, w.shape
    c = cg * groups
    if not usable(g, w) or o != w.shape[0]:
        return None
    if stride == (1, 1):
        turned = (kh - 1) * dilation[0] - padding[0], (kw - 1) * dilation[1] - padding[1]
        return conv(g, w, Shape(o, oh, ow, c, *size, groups, (kh, kw), stride, turned, dilation), turned=True)
    x = xp.empty((n, c, *size), g.dtype)
    if not small(x) or groups > 65535:
        return None
    at = Shape(c, *size, o, oh, ow, groups, (kh, kw), stride, padding, dilation)
    rows = 1 if cg <= SIDE else 2 if cg <= 2 * SIDE else 4
    of = module("product", "convolution_input", dtype=g.dtype, **at.defined(), TILE=rows)
    grid = ceil(n * math.prod(size), 4 * SIDE), ceil(cg, rows * SIDE), groups
    launch(of, "conv_input", grid, dense(g), dense(w), x, n)
    return x


@offer("conv2d_weight")
def conv2d_weight(
    x: Array, g: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, kernel: Pair
) -> Array | None:  # fmt: skip
    """`convolution.conv2d_weight`."""
    (n, c, h, width), (_, o, oh, ow) = x.shape, g.shape
    at = Shape(c, h, width, o, oh, ow, groups, kernel, stride, padding, dilation)
    tile = weight_tile(at, x.itemsize) if usable(x, g) and groups <= 65535 else None
    if tile is None:
        return None
    cg, og = c // groups, o // groups
    tiles = ceil(cg, tile["CT"]) * ceil(og, tile["OT"])
    splits = max(1, min(n * ceil(oh, tile["ROWS"]), 2 * FILL // (tiles * groups)))
    w = xp.empty((splits, o, cg, *kernel), x.dtype)
    if not small(w) or tiles > 65535:
        return None
    of = module("convolution_weight", dtype=x.dtype, **at.defined(), **tile)
    threads = tile["CT"] * (tile["OT"] // tile["MANY"]) * tile["PARTS"]
    launch(of, "conv_weight", (splits, tiles, groups), dense(x), dense(g), w, n, splits, threads=threads)
    return w[0] if splits == 1 else add_up(w)
