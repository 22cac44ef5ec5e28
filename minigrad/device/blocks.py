"""Fused rows for the device: convolution with bias, BatchNorm, ReLU and max pooling, or a part of that, as one row.

The plan and the reference are `fused.py`'s: `fuse(model)` is the call on every backend. Forward: the
convolution with bias and ReLU in one launch where there is no BatchNorm; else the convolution, sums
for the statistics, and one launch that moves the running statistics, normalises, cuts off
and pools. Backward: the same in turn. Windows are pooled as they are normalised, so a gamma of either sign, or zero,
chooses the cells that the layers one by one would choose, and nobody has to ask for its sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from minigrad import nn
from minigrad.backend import Array, xp
from minigrad.convolution import Pair, conv_size
from minigrad.device import convolution, pooling, running
from minigrad.device.launch import FILL, THREADS, Unusable, aligned, dense, launch, module, offer, small
from minigrad.fused import Plan, composed
from minigrad.fused import together as fused_together
from minigrad.nn.normalisation import BatchNorm
from minigrad.ops import conv2d_input, conv2d_weight, placed
from minigrad.primitive import fused
from minigrad.sums import total
from minigrad.tensor import Tensor


class Remembering:
    """A plan's `note` on the device: the BatchNorm whose running statistics the kernel moves with the batch's."""

    def __init__(self, norm: BatchNorm) -> None:
        self.norm = norm

    def __call__(self, mean: Array, var: Array) -> None:
        """What a note does on the host; here the kernel has done it."""


class Kept(NamedTuple):
    """y: what is normalised.  chosen: the number of each window's cell.  mean, inverse: in double precision."""

    y: Array | None
    chosen: Array | None
    mean: Array | None
    inverse: Array | None


def _module(y: Array, plan: Plan) -> Any:
    kh, kw = (1, 1) if plan.pool is None else plan.pool.kernel
    return module(
        "normalisation", dtype=y.dtype, C=y.shape[1], H=y.shape[2], W=y.shape[3], KH=kh, KW=kw, RELU=int(plan.relu)
    )


def _grid(y: Array, things: int, most: int) -> tuple[int, int]:
    """Blocks for each channel of y, and parts into which so many things of each channel are cut."""
    return y.shape[1], max(1, min(things // (4 * THREADS), most * FILL // y.shape[1]))


def _needed(array: Array | None) -> Array:
    """The result of a kernel that this row cannot do without."""
    if array is None:
        raise Unusable("a part of the fused row has no kernel")
    return array


def _forward(x: Array, w: Array, b: Array, gamma: Array, beta: Array, plan: Plan) -> tuple[Array, Kept]:
    pool = plan.pool
    if plan.eps is None:
        assert plan.conv is not None
        y = _needed(convolution.conv2d(x, w, *plan.conv, b, plan.relu))
        if pool is None:
            return y, Kept(None, None, None, None)
        out = _needed(pooling.maximum(y, pool))
        return out, Kept(None, _needed(pooling.which(y, out, pool)), None, None)
    y = aligned(x) if plan.conv is None else _needed(convolution.conv2d(x, w, *plan.conv))
    n, c, of = len(y), y.shape[1], _module(y, plan)
    norm = plan.note.norm if isinstance(plan.note, Remembering) else None
    remembered = (None, None, None) if norm is None else running.written(norm)
    momentum = 0.0 if norm is None else running.momentum(norm)
    grid = _grid(y, y.size // c, 4)
    sums = xp.empty((grid[1], c, 2), xp.float64)
    launch(of, "moments", grid, y, sums, remembered[2], n)
    mean, inverse = xp.empty(c, xp.float64), xp.empty(c, xp.float64)
    out = xp.empty((n, c, *(y.shape[2:] if pool is None else pool.out)), y.dtype)
    chosen = None if pool is None else xp.empty(out.shape, xp.uint8)
    launch(
        of, "normalise", _grid(y, out.size // c, 16), y, sums, mean, inverse, dense(gamma), dense(beta),
        None if plan.conv is None else dense(b), *remembered, out, chosen, n, grid[1], float(plan.eps), momentum,
    )  # fmt: skip
    return out, Kept(y, chosen, mean, inverse)


def _backward(
    g: Array, out: Array, kept: Kept, needed: Sequence[bool], x: Array, w: Array, b: Array, gamma: Array, beta: Array,
    plan: Plan,
) -> list[Array | None]:  # fmt: skip
    y, chosen, mean, inverse = kept
    g = dense(g)
    db = dgamma = dbeta = None
    if y is None:
        t = g * (out > 0) if plan.relu else g
        db = total(t, (0, 2, 3), False) if needed[2] else None
        if plan.pool is not None:
            assert plan.conv is not None and chosen is not None
            t = placed(t, chosen, plan.pool, _size_of(x, w, plan))
    else:
        of, n, c, gamma = _module(y, plan), len(y), y.shape[1], dense(gamma)
        grid = _grid(y, out.size // c, 4)
        sums = xp.empty((grid[1], c, 2), xp.float64)
        launch(of, "cotangent_sums", grid, g, out, chosen, y, mean, sums, n)
        t, (dgamma, dbeta) = xp.empty(y.shape, y.dtype), (xp.empty(c, y.dtype) for _ in range(2))
        db = xp.empty(c, y.dtype) if needed[2] else None
        launch(
            of, "cotangent", _grid(y, out.size // c, 16), g, out, chosen, y, sums, mean, inverse, gamma, dgamma, dbeta,
            db, t, n, grid[1],
        )  # fmt: skip
    if plan.conv is None:
        return [t, None, None, dgamma, dbeta]
    dx = conv2d_input(t, w, *plan.conv, x.shape[2:]) if needed[0] else None
    dw = conv2d_weight(x, t, *plan.conv, w.shape[2:]) if needed[1] else None
    return [dx, dw, db, dgamma, dbeta]


def _size_of(x: Array, w: Array, plan: Plan) -> Pair:
    """Height and width of the convolution's result."""
    assert plan.conv is not None
    stride, padding, dilation, _ = plan.conv
    h, width = (conv_size(x.shape[i + 2], w.shape[i + 2], stride[i], padding[i], dilation[i]) for i in range(2))
    return h, width


block = fused(
    lambda x, w, b, gamma, beta, plan: _forward(x, w, b, gamma, beta, plan), _backward, composed, name="block", plan=...
)
"""block(x, weight, bias, gamma, beta, plan): the layers of a plan as one row. Raw ones stand for what a plan lacks."""


# ---- models ---------------------------------------------------------------------------------------
@offer("together")
def together(x: Tensor, layers: Sequence[nn.Module]) -> tuple[int, Any] | None:
    """How many of some layers (convolution, BatchNorm, ReLU, pooling) go together, and what they make of x.

    None where the layers have to run one by one: which is also how wrong shapes get the layers' own errors.
    """
    found = fused_together(x, layers) if small(x.data) else None
    if found is None or not (found.norm is None or running.fits(found.norm)):
        return None
    w, b, gamma, beta = found.arrays(x.dtype)
    plan = Plan(found.settings, None, found.relu, found.pool)
    if found.folds:
        w, b = found.folded()
    elif found.norm is not None:
        plan = plan._replace(eps=found.norm.eps, note=Remembering(found.norm))
    return found.taken, block(x, w, b, gamma, beta, plan)
