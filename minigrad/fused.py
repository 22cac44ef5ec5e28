"""Fused kernels: what several layers compute one after the other, done block by block while it is in cache.

`fuse(model)` is the one call: where a Sequential has a convolution, BatchNorm, ReLU and max pooling in a
row (or a part of that), they run as one row of the tape with a hand-derived pullback. Each such row
names its `reference`, the same thing composed of ordinary ops: that is the definition, the checker
compares the two, and every order above the first differentiates it. Nothing depends on this file.

What is saved is memory traffic. Statistics are taken of each block of the convolution's output as it
is made, and joined. Normalising and ReLU keep the order of values (or turn it round, where gamma is
negative), so pooling comes first and they see only the maxima; BatchNorm takes away its own mean, so
the convolution's bias only moves the running mean; and the cotangent of the convolution's output,
an affine function of that output plus the cotangents of the maxima, is made where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minigrad import functional as F
from minigrad import nn, ops, parallel, pooling
from minigrad.backend import Array, host_array, xp
from minigrad.convolution import Geometry, Pair, conv_size
from minigrad.functional import pair
from minigrad.nn.normalisation import BatchNorm
from minigrad.pooling import Windows
from minigrad.primitive import fused
from minigrad.tape import recording
from minigrad.tensor import Tensor

__all__ = ["Fused", "block", "fuse"]

Note = Callable[[Array, Array], None]


class Plan(NamedTuple):
    """What a block does, in this order; None or False leaves a part out.

    conv: (stride, padding, dilation, groups).  eps: of the normalisation.  pool: disjoint windows that
    cover their input.  note: is told the mean and the biased variance of each channel.
    """

    conv: tuple[Pair, Pair, Pair, int] | None
    eps: float | None
    relu: bool
    pool: Windows | None
    note: Note | None = None


def composed(x: Any, w: Any, b: Any, gamma: Any, beta: Any, plan: Plan) -> Any:
    """The reference: convolution with bias, BatchNorm, ReLU, max pooling."""
    if plan.conv is not None:
        stride, padding, dilation, groups = plan.conv
        x = ops.conv(x, w, stride, padding, dilation, groups) + ops.reshape(b, (1, -1, 1, 1))
    if plan.eps is not None:
        x = F.batch_norm(x, gamma, beta, (0, 2, 3), plan.eps)[0]
    if plan.relu:
        x = ops.relu(x)
    return x if plan.pool is None else ops.max_pool(x, plan.pool)


class Kept(NamedTuple):
    """What the pullback needs besides arguments and output.

    y: the convolution's output, where its every value is needed.  chosen, cells: the maxima of y's windows, and
    the numbers of their cells.  mean, inverse: of the channels, (1, c, 1, 1); inverse is 1/sqrt(var + eps).
    left: what rounding the mean to its dtype left out.
    """

    y: Array | None
    chosen: Array | None
    cells: Array | None
    mean: Array | None
    inverse: Array | None
    left: Array | None


def _geometry(x: Array, w: Array, plan: Plan) -> Geometry:
    assert plan.conv is not None
    stride, padding, dilation, groups = plan.conv
    n, c, h, width = x.shape
    o, _, kh, kw = w.shape
    oh = conv_size(h, kh, stride[0], padding[0], dilation[0])
    ow = conv_size(width, kw, stride[1], padding[1], dilation[1])
    return Geometry(n, c, h, width, o, (kh, kw), stride, padding, dilation, groups, (oh, ow))


def _each_block(x: Array, at: Geometry | None, work: Callable[[int, slice], None]) -> int:
    """work(number, slice of images) for each block; returns how many there are."""
    blocks = parallel.cuts(len(x), 2 * x.size) if at is None else at.blocks(x)
    parallel.each(len(blocks), lambda number: work(number, blocks[number]))
    return len(blocks)


def _moments(y: Array) -> tuple[int, Array, Array]:
    """Of a block (m, c, h, w): how many values a channel has, their mean, and their squared distances from it."""
    count = y.size // y.shape[1]
    mean = parallel.block_sum(y, (0, 2, 3)) / count
    centred = y - mean
    left = parallel.block_sum(centred, (0, 2, 3)).astype(xp.float64) / count
    images = centred.reshape(*y.shape[:2], -1)
    squares = xp.vecdot(images, images).sum(0).reshape(mean.shape)
    return count, mean + left, squares - count * left * left


def _joined(moments: Sequence[tuple[int, Array, Array]]) -> tuple[Array, Array]:
    """Mean and biased variance of all blocks, in double precision (Chan, Golub and LeVeque 1983)."""
    count = sum(n for n, _, _ in moments)
    mean = sum(n * m for n, m, _ in moments) / count
    squares = sum(s + n * (m - mean) ** 2 for n, m, s in moments)
    return mean, squares / count


def _choose(y: Array, sign: Array | None, pool: Windows, chosen: Array, cells: Array) -> None:
    """The maximum (where sign is -1 the minimum) of each window, and the number of its first cell."""
    y = y if sign is None else y * sign
    pooling.tile_maximum(y, pool.kernel, chosen)
    pooling.tile_which(y, chosen, pool.kernel, cells)
    if sign is not None:
        chosen *= sign


def _forward(x: Array, w: Array, b: Array, gamma: Array, beta: Array, plan: Plan) -> tuple[Array, Kept]:
    at = None if plan.conv is None else _geometry(x, w, plan)
    n, c, size = len(x), x.shape[1] if at is None else at.o, x.shape[2:] if at is None else at.out
    pool, normalised = plan.pool, plan.eps is not None
    y = x if at is None else xp.empty((n, c, *size), x.dtype) if normalised or pool is None else None
    chosen = cells = sign = None
    if pool is not None:
        chosen = xp.empty((n, c, *pool.out), x.dtype)
        cells = xp.empty(chosen.shape, xp.uint8)
        if normalised and bool((gamma < 0).any()):
            sign = xp.where(gamma < 0, -1, 1).astype(x.dtype).reshape(1, -1, 1, 1)
    moments: list[Any] = [None] * n
    kernel = None if at is None else w.reshape(at.groups, at.o // at.groups, at.depth)

    def work(number: int, images: slice) -> None:
        if at is None:
            values = x[images]
        else:
            values = at.narrow(xp.matmul(kernel, at.columns(x[images])), images.stop - images.start)
            if y is not None:
                y[images] = values
                values = y[images]
        if normalised:
            moments[number] = _moments(values)
        if pool is not None:
            _choose(values, sign, pool, chosen[images], cells[images])  # type: ignore[index]

    count = _each_block(x, at, work)
    values = chosen if pool is not None else y
    assert values is not None
    if not normalised:
        shift = b.reshape(1, -1, 1, 1)
        scale = mean = inverse = left = None
    else:
        exact_mean, var = _joined(moments[:count])
        if plan.note is not None:
            offset = 0 if at is None else b
            plan.note((exact_mean.reshape(-1) + offset).astype(x.dtype), var.reshape(-1).astype(x.dtype))
        mean = exact_mean.astype(x.dtype)
        left = (exact_mean - mean).astype(x.dtype)
        inverse = (1 / xp.sqrt(var + plan.eps)).astype(x.dtype)
        scale = gamma.reshape(1, -1, 1, 1) * inverse
        shift = beta.reshape(1, -1, 1, 1) - left * scale
    out = xp.empty_like(values)

    def finish(number: int, images: slice) -> None:
        z = out[images]
        if scale is None:
            xp.add(values[images], shift, out=z)
        else:
            xp.subtract(values[images], mean, out=z)
            z *= scale
            z += shift
        if plan.relu:
            xp.maximum(z, 0, out=z)

    _each_block(values, None, finish)
    return out, Kept(y if normalised else None, chosen if normalised else None, cells, mean, inverse, left)


def _backward(
    g: Array, out: Array, kept: Kept, needed: Sequence[bool], x: Array, w: Array, b: Array, gamma: Array, beta: Array,
    plan: Plan,
) -> list[Array | None]:  # fmt: skip
    y, chosen, cells, mean, inverse, left = kept
    at = None if plan.conv is None else _geometry(x, w, plan)
    size = x.shape[2:] if at is None else at.out
    pool, axes = plan.pool, (0, 2, 3)
    through = (lambda g, out: g * (out > 0)) if plan.relu else (lambda g, out: g)
    values = chosen if pool is not None else y
    sums: list[Any] = [None] * len(x)

    def sum_up(number: int, images: slice) -> None:
        """Of a block, the sums of g and of g (value - mean) in each channel."""
        some = through(g[images], out[images])
        total = parallel.block_sum(some, axes).astype(xp.float64)
        if mean is None or values is None:
            sums[number] = total, 0.0
            return
        along = xp.vecdot(*((a.reshape(*a.shape[:2], -1)) for a in (some, values[images] - mean))).sum(0)
        sums[number] = total, along.reshape(mean.shape) - left * total

    number_of_blocks = _each_block(g, None, sum_up)
    total = sum(t for t, _ in sums[:number_of_blocks]).astype(x.dtype)
    slope = offset = scale = dgamma = None
    if mean is not None:
        along = sum(a for _, a in sums[:number_of_blocks]).astype(x.dtype)
        count = len(x) * math.prod(size)
        scale = gamma.reshape(1, -1, 1, 1) * inverse
        dgamma = (along * inverse).reshape(gamma.shape)
        slope = -scale * inverse * inverse * along / count
        offset = -scale * total / count - left * slope
    dx = xp.empty(x.shape, x.dtype) if needed[0] else None
    parts: list[Any] = [None] * len(x)
    kernel = None
    if at is not None and dx is not None:
        kernel = xp.ascontiguousarray(w.reshape(at.groups, at.o // at.groups, at.depth).transpose(0, 2, 1))

    def work(number: int, images: slice) -> None:
        """The cotangent t of the convolution's output, y slope + offset + scale g, for a block, and what follows."""
        some = through(g[images], out[images])
        some = some if scale is None else some * scale
        if y is not None:
            t = xp.subtract(y[images], mean, out=dx[images]) if at is None and dx is not None else y[images] - mean
            t *= slope
            t += offset
            if pool is None:
                t += some
            else:
                pooling.tile_place(some, cells[images], pool.kernel, t, add=True)  # type: ignore[index]
        elif pool is not None:
            t = xp.empty((len(some), some.shape[1], *size), some.dtype)
            pooling.tile_place(some, cells[images], pool.kernel, t)  # type: ignore[index]
        else:
            t = some
        if at is None:
            return
        wide = at.widen(t)
        if needed[1]:
            parts[number] = at.weight(at.columns(x[images]), wide)
        if dx is not None:
            dx[images] = at.fold(xp.matmul(kernel, wide), images.stop - images.start).transpose(1, 0, 2, 3)

    if needed[1] or dx is not None:
        count_of = _each_block(x, at, work)
        dw = at.joined(parts[:count_of]) if at is not None and needed[1] else None
    else:
        dw = None
    if mean is None:
        return [dx, dw, total.reshape(b.shape), None, None]
    return [dx, dw, xp.zeros_like(b), dgamma, total.reshape(beta.shape)]


block = fused(
    lambda x, w, b, gamma, beta, plan: _forward(x, w, b, gamma, beta, plan), _backward, composed, name="block", plan=...
)
"""block(x, weight, bias, gamma, beta, plan): the layers of a plan as one row. Raw ones stand for what a plan lacks."""


# ---- evaluation -----------------------------------------------------------------------------------
def _evaluate(x: Array, w: Array, b: Array, plan: Plan) -> Array:
    """Convolution, bias, ReLU and pooling with nothing kept: what stays is one array of the result's size."""
    at = _geometry(x, w, plan)
    pool = plan.pool
    out = xp.empty((len(x), at.o, *(at.out if pool is None else pool.out)), x.dtype)
    kernel, bias = w.reshape(at.groups, at.o // at.groups, at.depth), b.reshape(1, -1, 1, 1)

    def work(number: int, images: slice) -> None:
        values = at.narrow(xp.matmul(kernel, at.columns(x[images])), images.stop - images.start)
        some = out[images]
        if pool is not None:
            pooling.tile_maximum(values, pool.kernel, some)
            some += bias
        else:
            xp.add(values, bias, out=some)
        if plan.relu:
            xp.maximum(some, 0, out=some)

    _each_block(x, at, work)
    return out


# ---- models ---------------------------------------------------------------------------------------
class Fused(nn.Sequential):
    """A Sequential whose layers run together where they can; paths, parameters and state are the same.

    Layers run one by one, as written, where something looks on (`nn.summary`, the study tools), on other
    backends, for other dtypes than float32 and float64, and where a gamma is exactly zero.
    """

    def forward(self, x: Any) -> Any:
        place = 0
        while place < len(self.layers):
            count = 0
            if recording.watch is None and isinstance(x, Tensor) and x.ndim == 4 and x.data.__class__ is host_array:
                count, y = self._together(x, self.layers[place : place + 4])
            if count:
                x = y
            else:
                x = self.layers[place](x)
                count = 1
            place += count
        return x

    def _together(self, x: Tensor, layers: Sequence[nn.Module]) -> tuple[int, Any]:
        """How many of the layers (convolution, BatchNorm, ReLU, pooling) go together, and what they make of x."""
        rest = list(layers)

        def next_is(kind: type[nn.Module]) -> Any:
            return rest.pop(0) if rest and type(rest[0]) is kind else None

        conv, norm, relu = next_is(nn.Conv2d), next_is(nn.BatchNorm2d), next_is(nn.ReLU)
        channels, size = x.shape[1], (x.shape[2], x.shape[3])
        if not x.size or x.dtype.char not in "fd" or (conv is None and norm is None):
            return 0, None
        settings = None
        if conv is not None:
            if conv.weight.dtype != x.dtype or channels != conv.in_channels or isinstance(conv.padding, str):
                return 0, None
            strides = pair(conv.stride, "stride"), pair(conv.padding, "padding", 0), pair(conv.dilation, "dilation")
            size = tuple(map(conv_size, size, conv.kernel_size, *strides))  # type: ignore[assignment]
            settings = (*strides, conv.groups)
            channels = conv.out_channels
            if min(size) < 1:
                return 0, None
        pool = self._windows(next_is(nn.MaxPool2d), size)
        count = sum(layer is not None for layer in (conv, norm, relu)) + (pool is not None)
        if norm is not None and not self._plain(norm, x, channels):
            return 0, None
        learning = recording.on and (
            x.node is not None
            or any(p.node is not None for layer in (conv, norm) if layer is not None for p in layer.parameters())
        )
        w = conv.weight if conv is not None else xp.ones(0, x.dtype)
        b = conv.bias if conv is not None and conv.bias is not None else xp.zeros(channels, x.dtype)
        if norm is not None and not norm.training and norm.running_mean is not None:
            if learning or conv is None:
                return 0, None
            mean, var = norm.running_mean.data, norm.running_var.data
            scale = 1 / xp.sqrt(var + norm.eps)
            scale = scale if norm.weight is None else norm.weight.data * scale
            folded = w.data * scale.reshape(-1, 1, 1, 1)
            bias = ((b.data if isinstance(b, Tensor) else b) - mean) * scale
            bias = bias if norm.bias is None else bias + norm.bias.data
            return count, Tensor(_evaluate(x.data, folded, bias, Plan(settings, None, relu is not None, pool)))
        if norm is None and not learning:
            array = b.data if isinstance(b, Tensor) else b
            return count, Tensor(_evaluate(x.data, w.data, array, Plan(settings, None, relu is not None, pool)))
        if norm is None and relu is None and pool is None:
            return 0, None
        gamma = norm.weight if norm is not None and norm.weight is not None else xp.ones(channels, x.dtype)
        beta = norm.bias if norm is not None and norm.bias is not None else xp.zeros(channels, x.dtype)
        if norm is not None and pool is not None and not bool(ops.all(gamma != 0)):
            return 0, None
        m = x.shape[0] * math.prod(size)

        def note(mean: Array, var: Array) -> None:
            if norm.training:
                norm._remember(Tensor(mean), Tensor(var * (m / (m - 1))))

        eps = None if norm is None else norm.eps
        plan = Plan(settings, eps, relu is not None, pool, None if norm is None else note)
        return count, block(x, w, b, gamma, beta, plan)

    @staticmethod
    def _plain(norm: BatchNorm, x: Tensor, channels: int) -> bool:
        """Whether the layer and its input are of the usual kind; all else is left to the layer and its errors."""
        same = norm.weight is None or norm.weight.dtype == x.dtype
        return same and norm.num_features == channels and x.size > channels

    @staticmethod
    def _windows(layer: Any, size: Pair) -> Windows | None:
        """The windows of a pooling layer, where they are disjoint and cover their input."""
        if layer is None:
            return None
        kernel, stride = pair(layer.kernel_size, "kernel_size"), pair(layer.stride, "stride")
        out = size[0] // kernel[0], size[1] // kernel[1]
        at = Windows(kernel, stride, pair(layer.padding, "padding", 0), pair(layer.dilation, "dilation"), out)
        return at if at.tile(size) and kernel[0] * kernel[1] < 256 else None


def fuse(model: nn.Module) -> Any:
    """The model with every Sequential in it replaced by one that fuses its layers; use what is returned.

    Parameters, Buffers and layers are shared with the model given, whose other modules are changed in
    place. Names, state dicts and results (to rounding) stay. `fuse` knows nothing that a layer's own
    class does not say: a subclass of a layer runs as written.
    """
    if isinstance(model, nn.Sequential):
        layers = [fuse(layer) for layer in model]
        if type(model) is not nn.Sequential:
            return model
        fused = Fused(*layers)
        fused.training, fused.frozen, fused.path = model.training, model.frozen, model.path
        return fused
    for name, value in vars(model).items():
        setattr(model, name, _fuse_within(value))
    return model


def _fuse_within(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return fuse(value)
    if isinstance(value, list):
        return [_fuse_within(item) for item in value]
    if isinstance(value, dict):
        return {key: _fuse_within(item) for key, item in value.items()}
    return tuple(_fuse_within(item) for item in value) if type(value) is tuple else value
