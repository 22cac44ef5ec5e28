"""Matrix products on the device.

cuBLAS multiplies large matrices faster than `matmul` here, so that one is used only where a graph is captured,
which CuPy refuses cuBLAS calls in. A product with few rows and columns but a long inner axis (a weight's cotangent)
would keep few multiprocessors busy: the inner axis is split, and the parts are added up.
"""

from __future__ import annotations

from minigrad.backend import Array, capturing, xp
from minigrad.device.launch import FILL, dense, launch, module, offer, small, usable
from minigrad.device.sums import add_up

SIDE = 16
"""Threads along each side of a block, and the depth of a tile (`product.cu`)."""


def ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def splits_of(blocks: int, length: int) -> int:
    """Into how many parts an inner axis is split: enough blocks for the card, and four tiles at least in each."""
    return max(1, min(4 * FILL // blocks, length // (4 * SIDE)))


@offer("matmul")
def matmul(a: Array, b: Array) -> Array | None:
    """(..., m, k) and (..., k, n) to (..., m, n), where a graph is captured; batches broadcast, 1-D is a vector."""
    return product(a, b) if capturing.on else None


def product(a: Array, b: Array) -> Array | None:
    """`matmul`, captured or not."""
    if not (usable(a, b) and a.ndim and b.ndim):
        return None
    if a.ndim == 1 or b.ndim == 1:  # a row, a column
        y = product(a if a.ndim > 1 else a[None], b if b.ndim > 1 else b[:, None])
        return None if y is None else y.squeeze(tuple(axis for axis, x in ((-2, a), (-1, b)) if x.ndim == 1))
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
    return (y[0] if splits == 1 else add_up(y)).reshape(*lead, m, n)
