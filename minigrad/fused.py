"""Fused kernels: what several layers compute one after the other, done piece by piece in one go.

`fuse(model)` is the one call: where a Sequential has a convolution, BatchNorm, ReLU and max pooling in a
row (or a part of that), or a linear layer and its activation, they run as one row of the tape with a
hand-derived pullback. Each such row names its `reference`, the same thing composed of ordinary ops: that
is the definition, the checker compares the two, and every order above the first differentiates it.
Nothing depends on this file.

What is saved is memory traffic. After the convolution everything happens channel by channel, in memory
where a channel is contiguous. Normalising and ReLU keep the order of values, so pooling comes first and
they see only the maxima (a negative gamma would turn the order round: such a channel's weights change
their sign, and gamma its). BatchNorm takes away its own mean, so the convolution's bias only moves the
running mean. The cotangent of the convolution's output is an affine function of that output plus the
cotangents of the maxima.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minigrad import functional as F
from minigrad import kernels, nn, ops, parallel, pooling, sums
from minigrad.backend import Array, host_array, kernel, xp
from minigrad.convolution import Geometry, Pair, batch_first, batch_last, conv_size, geometry
from minigrad.functional import pair
from minigrad.pooling import Windows
from minigrad.primitive import fused
from minigrad.tape import recording
from minigrad.tensor import Tensor

__all__ = ["Fused", "block", "dense", "fuse"]

Note = Callable[[Array, Array], None]
Order = tuple[int, int, int, int]


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
    """What the pullback needs besides arguments and output; the axis of the channels comes first.

    y: what is normalised (the convolution's output), less about its mean; None without normalisation.
    chosen, cells: the maxima of y's windows, and the numbers of their cells.
    mean, inverse, sign: of the channels, (c, 1, 1, 1); the mean of `y`; 1/sqrt(var + eps); both in double precision;
    and -1 where a channel was turned round, so that its gamma is positive (None where there is no such channel).
    order: of the axes, `BATCH_LAST` or `CHANNELS_FIRST`.
    """

    y: Array
    chosen: Array
    cells: Array
    mean: Array
    inverse: Array
    sign: Array
    order: Order


def _geometry(x: Array, w: Array, plan: Plan) -> Geometry:
    assert plan.conv is not None
    return geometry(x.shape, w.shape, *plan.conv)


# ---- channels: (c, ...) arrays, a few channels at a time -------------------------------------------
BATCH_LAST: Order = (1, 2, 3, 0)
CHANNELS_FIRST: Order = (1, 0, 2, 3)


def _channels(x: Array, plan: Plan) -> tuple[Array, Order]:
    """x with the axis of its channels first, and the order of axes that this is.

    Batch last where convolution and pooling want it; otherwise images may stay as they lie in memory.
    """
    if plan.conv is None and plan.pool is None and not x.transpose(BATCH_LAST).flags.c_contiguous:
        return x.transpose(CHANNELS_FIRST), CHANNELS_FIRST
    return batch_last(x), BATCH_LAST


def _images(y: Array, order: Order) -> Array:
    """The inverse of `_channels`, a view."""
    return batch_first(y) if order == BATCH_LAST else y.transpose(CHANNELS_FIRST)


def _each(a: Array) -> tuple[int, ...]:
    """The shape of one value for each channel of `a`."""
    return len(a), *(1,) * (a.ndim - 1)


def _lines(a: Array) -> tuple[Array, Array]:
    """Each channel as lines, (c, lines, length), and what is left over, (c, rest): views.

    Lines are of `LINE` cells, or images where the channel is not contiguous.
    """
    if not a.flags.c_contiguous:
        return a.reshape(*a.shape[:2], -1), a[:, :0].reshape(len(a), -1)
    flat = a.reshape(len(a), -1)
    whole = flat.shape[1] - flat.shape[1] % sums.LINE
    return flat[:, :whole].reshape(len(a), -1, sums.LINE), flat[:, whole:]


def _sums(a: Array) -> Array:
    """The sum of each channel: lines by BLAS, and these in double precision."""
    lines, rest = _lines(a)
    total = (lines @ sums.line_of(1, lines.shape[2], a.dtype)).sum(1, dtype=xp.float64)
    return (total + rest.sum(1, dtype=xp.float64)).reshape(_each(a))


def _dots(a: Array, b: Array) -> Array:
    """The sum of products of each channel."""
    if not a.flags.c_contiguous or not b.flags.c_contiguous:
        a, b = a.reshape(*a.shape[:2], -1), b.reshape(*b.shape[:2], -1)
        return xp.vecdot(a, b).sum(1, dtype=xp.float64).reshape(len(a), 1, 1, 1)
    (lines, rest), (other, other_rest) = _lines(a), _lines(b)
    total = xp.vecdot(lines, other).sum(1, dtype=xp.float64)
    return (total + xp.vecdot(rest, other_rest)).reshape(_each(a))


def _centre(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Into y, each channel of x less about its mean. Returns what was taken, the mean that is left in y and the
    biased variance, a value for each channel and in double precision.

    The variance is that of shifted data (Chan, Golub and LeVeque 1983): as exact as two passes where the shift is
    near the mean. The first cells of a channel give one; where it was too far, the mean itself is taken.
    """
    count = y[0].size
    head = x[:, : max(1, sums.LINE * x.shape[1] // count)]
    taken = (head.sum((1, 2, 3), dtype=xp.float64, keepdims=True) / head[0].size).astype(y.dtype)
    xp.subtract(x, taken, out=y)
    taken = taken.astype(xp.float64)
    while True:
        mean = _sums(y) / count
        var = _dots(y, y) / count - mean * mean
        step = mean.astype(y.dtype)
        if not ((mean * mean > 0.25 * var) & (step != 0)).any():
            return taken, mean, xp.maximum(var, 0)
        y -= step
        taken += step


def _affine(a: Array, scale: Array, shift: Array, out: Array) -> None:
    """a scale + shift, for channels, into `out`."""
    xp.multiply(a, scale.astype(a.dtype), out=out)
    out += shift.astype(a.dtype)


def _clamp(z: Array) -> None:
    """max(z, 0), in place."""
    xp.maximum(z, kernels.limit(z, 0), out=z)


def _forward(x: Array, w: Array, b: Array, gamma: Array, beta: Array, plan: Plan) -> tuple[Array, Kept]:
    at = None if plan.conv is None else _geometry(x, w, plan)
    pool, normalised, dtype, order = plan.pool, plan.eps is not None, x.dtype, BATCH_LAST
    sign = None
    if normalised and pool is not None and bool((gamma < 0).any()):
        sign = xp.where(gamma < 0, -1, 1).astype(dtype).reshape(-1, 1, 1, 1)
        gamma = abs(gamma)
    if at is not None:
        values = y = at.product(batch_last(x), w if sign is None else w * sign)
    else:
        values, order = _channels(x, plan)
        values = values if sign is None else values * sign
        y = xp.empty(values.shape, dtype)
    c = len(y)
    chosen: Array = None
    cells: Array = None
    if pool is not None:
        chosen = xp.empty((c, *pool.out, y.shape[3]), dtype)
        cells = xp.empty(chosen.shape, pooling.numbers(pool.size))
    out = xp.empty(y.shape if chosen is None else chosen.shape, dtype)
    taken, mean, var, inverse = xp.empty((4, *_each(y)), xp.float64)
    shift = (beta if normalised else b).reshape(_each(y))
    scale = gamma.reshape(_each(y))

    def work(some: slice) -> None:
        z, normal = y[some], out[some]
        if normalised:
            taken[some], mean[some], var[some] = _centre(values[some], z)
        if pool is not None:
            pooling.largest_of(z, pool, chosen[some])
            pooling.first_of(z, chosen[some], pool, cells[some])
            z = chosen[some]
        if normalised:
            inverse[some] = 1 / xp.sqrt(var[some] + plan.eps)
            factor = scale[some] * inverse[some]
            _affine(z, factor, shift[some] - mean[some] * factor, normal)
        else:
            xp.add(z, shift[some], out=normal)
        if plan.relu:
            _clamp(normal)

    parallel.pieces(y, work)
    if not normalised:
        return _images(out, order), Kept(None, None, cells, None, None, None, order)
    if plan.note is not None:
        average = taken + mean if sign is None else (taken + mean) * sign
        average = average.reshape(-1) + (0 if at is None else b)
        plan.note(average.astype(dtype), var.reshape(-1).astype(dtype))
    return _images(out, order), Kept(y, chosen, cells, mean, inverse, sign, order)


def _backward(
    g: Array, out: Array, kept: Kept, needed: Sequence[bool], x: Array, w: Array, b: Array, gamma: Array, beta: Array,
    plan: Plan,
) -> list[Array | None]:  # fmt: skip
    y, chosen, cells, mean, inverse, sign, order = kept
    at = None if plan.conv is None else _geometry(x, w, plan)
    pool, normalised, dtype = plan.pool, plan.eps is not None, x.dtype
    g, out = (a.transpose(order) if order == CHANNELS_FIRST else batch_last(a) for a in (g, out))
    size = x.shape[2:] if at is None else at.out
    t = xp.empty(out.shape if pool is None else (len(g), *size, g.shape[3]), dtype)  # of the convolution's output
    total, along = xp.zeros((2, *_each(t)), xp.float64)
    scale: Array = (gamma if sign is None else abs(gamma)).reshape(_each(t)) * inverse if normalised else None

    def work(some: slice) -> None:
        through, into = g[some], t[some]
        if plan.relu:
            through = xp.multiply(through, out[some] > 0, out=xp.empty(through.shape, dtype))
        total[some] = _sums(through)
        if not normalised:
            if pool is None:
                into[...] = through
            else:
                pooling.place_of(through, cells[some], pool, into)
            return
        along[some] = _dots(through, y[some] if pool is None else chosen[some]) - mean[some] * total[some]
        count = t[0].size
        factor, slope = scale[some], -(inverse[some] ** 2) * along[some] / count
        offset = -total[some] / count - mean[some] * slope
        if pool is None:  # (y slope + g + offset) factor
            xp.multiply(y[some], slope.astype(dtype), out=into)
            into += through
            _affine(into, factor, offset * factor, into)
        else:
            _affine(y[some], slope * factor, offset * factor, into)
            pooling.spread_of(through * factor.astype(dtype), cells[some], pool, into)

    parallel.pieces(t, work)
    dx = dw = None
    if at is None:
        dx = _images(t if sign is None else t * sign, order)
    else:
        if needed[1]:
            dw = at.adjoint_in_weight(batch_last(x), t)
            dw = dw if sign is None else dw * sign
        if needed[0]:
            dx = batch_first(at.adjoint_in_input(t, w if sign is None else w * sign))
    total = total.reshape(-1).astype(dtype)
    if not normalised:
        return [dx, dw, total, None, None]
    dgamma = along * inverse if sign is None else along * inverse * sign
    return [dx, dw, xp.zeros_like(b), dgamma.reshape(-1).astype(dtype), total]


block = fused(
    lambda x, w, b, gamma, beta, plan: _forward(x, w, b, gamma, beta, plan), _backward, composed, name="block", plan=...
)
"""block(x, weight, bias, gamma, beta, plan): the layers of a plan as one row. Raw ones stand for what a plan lacks."""


# ---- linear layers ---------------------------------------------------------------------------------
def _dense_forward(x: Array, w: Array, b: Array, activation: Callable[..., Any] | None) -> tuple[Array, None]:
    y = kernels.matmul(x, w.T)
    y += b
    return (y if activation is None else activation(y)), None


def _dense_backward(
    g: Array, y: Array, extra: None, needed: Sequence[bool], x: Array, w: Array, b: Array,
    activation: Callable[..., Any] | None,
) -> list[Array | None]:  # fmt: skip
    if activation is not None:
        rule, _ = activation.primitive.pullbacks[0]  # type: ignore[attr-defined]
        g = rule(g, y)
    with parallel.one_blas_thread:
        dx = kernels.matmul(g, w) if needed[0] else None
        dw = kernels.matmul(g.T, x) if needed[1] else None
        return [dx, dw, sums.line_of(1, len(g), g.dtype) @ g if needed[2] else None]


def _dense_composed(x: Any, w: Any, b: Any, activation: Callable[..., Any] | None) -> Any:
    y = F.linear(x, w, b)
    return y if activation is None else activation(y)


dense = fused(
    lambda x, w, b, activation: _dense_forward(x, w, b, activation), _dense_backward, _dense_composed, name="dense",
    activation=...,
)  # fmt: skip
"""dense(x, weight, bias, activation): a linear layer and a row of the table whose pullback asks for `y` alone."""

ACTIVATIONS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.ReLU: ops.relu, nn.Sigmoid: ops.sigmoid, nn.Tanh: ops.tanh,
}  # fmt: skip


# ---- evaluation -----------------------------------------------------------------------------------
IMAGES = 128
"""How many images are evaluated at a time."""


def _evaluate(x: Array, w: Array, b: Array, plan: Plan) -> Array:
    """Convolution, bias, ReLU and pooling with nothing kept, some images after the other."""
    pool, n = plan.pool, len(x)
    whole = _geometry(x, w, plan)
    out = xp.empty((whole.o, *(whole.out if pool is None else pool.out), n), x.dtype)
    bias = b.reshape(-1, 1, 1, 1)

    def work(images: slice) -> None:
        some = x[images]
        values = _geometry(some, w, plan).product(batch_last(some), w)
        z = values
        if pool is not None:
            z = xp.empty((*out.shape[:3], len(some)), x.dtype)
            pooling.largest_of(values, pool, z)
        z += bias
        if plan.relu:
            _clamp(z)
        out[..., images] = z

    parallel.over(parallel.evenly(n, -(-n // IMAGES)), work)
    return batch_first(out)


# ---- models ---------------------------------------------------------------------------------------
class Together(NamedTuple):
    """Layers of a Sequential that go together: a convolution, BatchNorm, ReLU, pooling, or a part of that.

    settings: of the convolution, as in a plan.  channels: of what is normalised.  cells: values of each channel.
    taken: how many layers.  learning: whether gradients are recorded.  folds: whether BatchNorm uses its running
    statistics, and so is part of the convolution.
    """

    conv: Any
    norm: Any
    relu: bool
    pool: Windows | None
    settings: tuple[Pair, Pair, Pair, int] | None
    channels: int
    cells: int
    taken: int
    learning: bool
    folds: bool

    def arrays(self, dtype: Any) -> tuple[Any, Any, Any, Any]:
        """Weight, bias, gamma and beta: those of the layers, and ones or zeros for what they lack."""
        w, b = (xp.ones(0, dtype), None) if self.conv is None else (self.conv.weight, self.conv.bias)
        gamma, beta = (None, None) if self.norm is None else (self.norm.weight, self.norm.bias)
        given = ((b, 0), (gamma, 1), (beta, 0))
        return (w, *(xp.full(self.channels, value, dtype) if own is None else own for own, value in given))

    def folded(self) -> tuple[Array, Array]:
        """Weight and bias of the convolution with what BatchNorm does afterwards in them."""
        norm, scale = self.norm, 1 / xp.sqrt(self.norm.running_var.data + self.norm.eps)
        scale = scale if norm.weight is None else norm.weight.data * scale
        bias = -norm.running_mean.data if self.conv.bias is None else self.conv.bias.data - norm.running_mean.data
        bias = bias * scale if norm.bias is None else bias * scale + norm.bias.data
        return self.conv.weight.data * scale.reshape(-1, 1, 1, 1), bias


def together(x: Tensor, layers: Sequence[nn.Module]) -> Together | None:
    """Which of some layers go together for an input x.

    None where they have to run one by one: which is also how what does not fit gets the layers' own errors.
    """
    rest = list(layers)

    def next_is(kind: type[nn.Module]) -> Any:
        return rest.pop(0) if rest and type(rest[0]) is kind else None

    conv, norm, relu = next_is(nn.Conv2d), next_is(nn.BatchNorm2d), next_is(nn.ReLU)
    channels, size, settings = x.shape[1], (x.shape[2], x.shape[3]), None
    if not x.size or x.dtype.char not in "fd" or (conv is None and norm is None):
        return None
    if conv is not None:
        if conv.weight.dtype != x.dtype or channels != conv.in_channels or isinstance(conv.padding, str):
            return None
        strides = pair(conv.stride, "stride"), pair(conv.padding, "padding", 0), pair(conv.dilation, "dilation")
        rows, columns = map(conv_size, size, conv.kernel_size, *strides)
        size, settings, channels = (rows, columns), (*strides, conv.groups), conv.out_channels
        if min(size) < 1:
            return None
    pool = _windows(next_is(nn.MaxPool2d), size)
    count = sum(layer is not None for layer in (conv, norm, relu)) + (pool is not None)
    cells = len(x) * math.prod(size)
    learnt = [p for layer in (conv, norm) if layer is not None for p in (layer.weight, layer.bias) if p is not None]
    learning = recording.on and (x.node is not None or any(p.node is not None for p in learnt))
    folds = norm is not None and not norm.training and norm.running_mean is not None
    if norm is not None:
        held = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        if norm.num_features != channels or any(a is not None and a.dtype != x.dtype for a in held):
            return None
        if (learning or conv is None) if folds else cells < 2:
            return None
    return Together(conv, norm, relu is not None, pool, settings, channels, cells, count, learning, folds)


def _windows(layer: Any, size: Pair) -> Windows | None:
    """The windows of a pooling layer, where they are disjoint and cover their input."""
    if layer is None:
        return None
    kernel, stride = pair(layer.kernel_size, "kernel_size"), pair(layer.stride, "stride")
    out = size[0] // kernel[0], size[1] // kernel[1]
    at = Windows(kernel, stride, pair(layer.padding, "padding", 0), pair(layer.dilation, "dilation"), out)
    return at if at.tile(size) and at.size < 256 else None


class Fused(nn.Sequential):
    """A Sequential whose layers run together where they can; paths, parameters and state are the same.

    Layers run one by one, as written, where something looks on (`nn.summary`, the study tools), for other
    dtypes than float32 and float64, on the host where a gamma is exactly zero, and on a device without kernels.
    """

    def forward(self, x: Any) -> Any:
        place = 0
        while place < len(self.layers):
            count = 0
            if recording.watch is None and isinstance(x, Tensor):
                on_device = x.data.__class__ is not host_array
                if x.ndim == 4 and on_device and (own := kernel("together")) is not None:
                    count, y = own(x, self.layers[place : place + 4]) or (0, None)
                elif x.ndim == 4 and not on_device:
                    count, y = self._together(x, self.layers[place : place + 4])
                elif x.ndim == 2 and not on_device:
                    count, y = self._dense(x, self.layers[place : place + 2])
            if count:
                x = y
            else:
                x = self.layers[place](x)
                count = 1
            place += count
        return x

    def _dense(self, x: Tensor, layers: Sequence[nn.Module]) -> tuple[int, Any]:
        """How many of the layers (linear, activation) go together, and what they make of x."""
        first, activation = layers[0], None if len(layers) == 1 else ACTIVATIONS.get(type(layers[1]))
        if type(first) is not nn.Linear or first.bias is None or x.shape[1] != first.in_features:
            return 0, None
        if x.dtype.char not in "fd" or first.weight.dtype != x.dtype or first.bias.dtype != x.dtype:
            return 0, None
        return 1 if activation is None else 2, dense(x, first.weight, first.bias, activation)

    def _together(self, x: Tensor, layers: Sequence[nn.Module]) -> tuple[int, Any]:
        """How many of the layers (convolution, BatchNorm, ReLU, pooling) go together, and what they make of x."""
        found = together(x, layers)
        if found is None:
            return 0, None
        norm, alone = found.norm, Plan(found.settings, None, found.relu, found.pool)
        if found.folds:
            return found.taken, Tensor(_evaluate(x.data, *found.folded(), alone))
        w, b, gamma, beta = found.arrays(x.dtype)
        if norm is None:
            if not found.learning:
                return found.taken, Tensor(_evaluate(x.data, w.data, b.data if isinstance(b, Tensor) else b, alone))
            return (0, None) if found.taken == 1 else (found.taken, block(x, w, b, gamma, beta, alone))
        if found.pool is not None and not bool(ops.all(gamma != 0)):
            return 0, None

        def note(mean: Array, var: Array) -> None:
            if norm.training:
                norm._remember(Tensor(mean), Tensor(var), found.cells)

        return found.taken, block(x, w, b, gamma, beta, alone._replace(eps=norm.eps, note=note))


def fuse(model: nn.Module) -> Any:
    """The model with every Sequential in it replaced by one that fuses its layers; use what is returned.

    Parameters, Buffers and layers are shared with the model given, whose other modules are changed in
    place. Names, state dicts and results (to rounding) stay. `fuse` knows nothing that a layer's own
    class does not say: a subclass of a layer runs as written.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fuse: needs a Module, not a {type(model).__name__}")
    if isinstance(model, nn.Sequential):
        layers = [fuse(layer) for layer in model]
        if type(model) is not nn.Sequential:
            return model
        fused = Fused(*layers)
        vars(fused).update({name: value for name, value in vars(model).items() if name != "layers"})
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
