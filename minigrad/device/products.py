"""Matrix products and convolution on the device: tiled products in our own kernels.

cuBLAS multiplies large matrices faster than `matmul` here, so that one is used only where a graph is captured,
which CuPy refuses cuBLAS calls in. Convolution always runs here: the columns of the images, nine times the
images' size for a 3 x 3 kernel, are never written to memory.

A product with few rows and columns but a long inner axis (a weight's cotangent) would keep few multiprocessors
busy: the inner axis is split, and the parts are added up.
"""

from __future__ import annotations

from typing import Any

from minigrad.backend import Array, capturing, xp
from minigrad.convolution import Pair, conv_size
from minigrad.device.launch import FILL, dense, launch, module, offer, small, usable

SIDE = 16
"""Threads along each side of a block, and the depth of a tile (`product.cu`)."""


def ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def splits_of(blocks: int, length: int) -> int:
    """Into how many parts an inner axis is split: enough blocks for the card, and four tiles at least in each."""
    return max(1, min(FILL // blocks, length // (4 * SIDE)))


@offer("matmul")
def matmul(a: Array, b: Array) -> Array | None:
    """(..., m, k) and (..., k, n) to (..., m, n), where a graph is captured; batches broadcast."""
    return product(a, b) if capturing() else None


def product(a: Array, b: Array) -> Array | None:
    """`matmul`, captured or not."""
    if not (usable(a, b) and a.ndim > 1 and b.ndim > 1):
        return None
    if a.ndim > 2 or b.ndim > 2:
        batch = xp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (dense(xp.broadcast_to(x, (*batch, *x.shape[-2:]))) for x in (a, b))
    lead, (m, k), n = a.shape[:-2], a.shape[-2:], b.shape[-1]
    a, b = a.reshape(-1, m, k), b.reshape(-1, k, n)
    count = len(a)
    tiles = ceil(m, 2 * SIDE), ceil(n, 2 * SIDE)
    splits = splits_of(tiles[0] * tiles[1] * count, k)
    y = xp.empty((splits, count, m, n), a.dtype)
    if not small(y) or splits * count > 65535 or tiles[0] > 65535:
        return None
    strides = [s // x.itemsize for x in (a, b) for s in x.strides]
    of = module("product", "matmul", dtype=a.dtype)
    launch(of, "matmul", (tiles[1], tiles[0], splits * count), a, b, y, count, m, k, n, splits, *strides)
    return (y[0] if splits == 1 else y.sum(0)).reshape(*lead, m, n)


def _module(x_shape: Any, w_shape: Any, y_size: Pair, options: tuple[Any, ...], rows: int, dtype: Any) -> Any:
    (stride, padding, dilation, groups), (o, _, kh, kw) = options, w_shape
    return module(
        "product", "convolution", dtype=dtype, C=x_shape[1], H=x_shape[2], W=x_shape[3], O=o, OH=y_size[0],
        OW=y_size[1], GROUPS=groups, KH=kh, KW=kw, SH=stride[0], SW=stride[1], PH=padding[0], PW=padding[1],
        DH=dilation[0], DW=dilation[1], TILE=_tile(rows),
    )  # fmt: skip


def _tile(rows: int) -> int:
    """How many times 16 rows of channels a tile has."""
    return 1 if rows <= SIDE else 2 if rows <= 2 * SIDE else 4


def _grid(rows: int, columns: int, depth: int) -> tuple[int, int, int]:
    return ceil(columns, 4 * SIDE), ceil(rows, _tile(rows) * SIDE), depth


@offer("conv2d")
def conv2d(
    x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, bias: Array | None = None,
    relu: bool = False,
) -> Array | None:  # fmt: skip
    """`convolution.conv2d`, with a bias (o,) and ReLU where they are asked for."""
    (n, c, h, width), (o, cg, kh, kw) = x.shape, w.shape
    oh = conv_size(h, kh, stride[0], padding[0], dilation[0])
    ow = conv_size(width, kw, stride[1], padding[1], dilation[1])
    if not usable(x, w) or c != cg * groups or o % groups or min(oh, ow) < 1:
        return None  # the composed one has the errors
    y = xp.empty((n, o, oh, ow), x.dtype)
    if not small(y) or groups > 65535:
        return None
    of = _module(x.shape, w.shape, (oh, ow), (stride, padding, dilation, groups), o // groups, x.dtype)
    grid = _grid(o // groups, n * oh * ow, groups)
    launch(of, "conv", grid, dense(x), dense(w), None if bias is None else dense(bias), y, n, int(relu))
    return y


@offer("conv2d_input")
def conv2d_input(
    g: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, size: Pair
) -> Array | None:  # fmt: skip
    """`convolution.conv2d_input`."""
    (n, o, *out), c = g.shape, w.shape[1] * groups
    if not usable(g, w) or o != w.shape[0]:
        return None
    x = xp.empty((n, c, *size), g.dtype)
    if not small(x) or groups > 65535:
        return None
    options = (stride, padding, dilation, groups)
    of = _module(x.shape, w.shape, (out[0], out[1]), options, c // groups, g.dtype)
    launch(of, "conv_input", _grid(c // groups, n * size[0] * size[1], groups), dense(g), dense(w), x, n)
    return x


@offer("conv2d_weight")
def conv2d_weight(
    x: Array, g: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, kernel: Pair
) -> Array | None:  # fmt: skip
    """`convolution.conv2d_weight`."""
    (n, c, _, _), (_, o, *out) = x.shape, g.shape
    if not usable(x, g):
        return None
    shape = (o, c // groups, *kernel)
    columns = c // groups * kernel[0] * kernel[1]
    across, down, _ = _grid(o // groups, columns, groups)
    splits = splits_of(across * down * groups, n * out[0] * out[1])
    w = xp.empty((splits, *shape), x.dtype)
    if not small(w) or splits * groups > 65535:
        return None
    options = (stride, padding, dilation, groups)
    of = _module(x.shape, shape, (out[0], out[1]), options, o // groups, x.dtype)
    launch(of, "conv_weight", (across, down, groups * splits), dense(x), dense(g), w, n, splits)
    return w[0] if splits == 1 else w.sum(0)
