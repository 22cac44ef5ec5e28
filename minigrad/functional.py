"""Layers and losses as functions: compositions of ops, whose derivatives arise by themselves.

Images are (n, channels, height, width), and a weight is (out, in / groups, kernel height, kernel
width). Nothing here knows a derivative, and nothing here talks to the array library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index as integer
from typing import Any, NoReturn

from minigrad import creation, ops, pytorch_names, random
from minigrad.autodiff import label
from minigrad.backend import kernel, on_host, require
from minigrad.given import fraction, non_negative, positive, whole
from minigrad.ops import Axis
from minigrad.pooling import Windows
from minigrad.tensor import Tensor, as_tensor

Pair = int | tuple[int, int]
Single = int | tuple[int]
Padding = int | tuple[int, int] | str


def pair(value: Any, what: str, least: int = 1) -> tuple[int, int]:
    """An integer for both axes, or one for each, checked."""
    try:
        first, second = map(integer, value if isinstance(value, (tuple, list)) else (value, value))
    except (TypeError, ValueError):
        first = second = least - 1
    if min(first, second) < least:
        raise ValueError(f"{what}: needs one integer >= {least} or two, not {value!r}")
    return first, second


def single(value: Any, what: str, least: int = 1) -> int:
    """An integer, alone or in a tuple of one, checked."""
    alone = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
    if isinstance(alone, (tuple, list)):
        raise ValueError(f"{what}: needs one integer >= {least}, not {value!r}")
    return pair(alone, what, least)[0]


def check_word(op: str, padding: str, stride: Sequence[int]) -> None:
    """Raises ValueError for a padding that is no word that a convolution knows, or does not go with the stride."""
    if padding not in ("same", "valid"):
        raise ValueError(f"{op}: padding is a number, a tuple, 'same' or 'valid', not {padding!r}")
    if padding == "same" and max(stride) > 1:
        raise ValueError(f"{op}: padding='same' needs stride 1, not {stride}")


def _need(x: Any, ndim: int, op: str, axes: str) -> Tensor:
    x = as_tensor(x, op)
    if x.ndim != ndim:
        raise ValueError(f"{op}: needs {ndim} axes ({axes}), not shape {list(x.shape)}")
    return x


def _fits(value: Any, shape: Sequence[int], op: str, name: str) -> Any:
    """A bias or weight as a Tensor, or None. Refuses one that would broadcast, or fail to, instead of fitting."""
    if value is None:
        return None
    value = as_tensor(value, f"{op} {name}")
    if value.shape != tuple(shape):
        raise ValueError(f"{op}: the {name} needs shape {list(shape)}, not {list(value.shape)}")
    return value


def _broadcasts(value: Any, x: Tensor, op: str, name: str) -> Any:
    """A factor, as a Tensor if it is no number. Refuses one that x would broadcast to: x has the result's shape."""
    if value is None or isinstance(value, (int, float)):
        return value
    value = as_tensor(value, f"{op} {name}")
    _one_float(op, x, name, value)
    given = (1,) * (x.ndim - value.ndim) + value.shape
    if value.ndim > x.ndim or any(a not in (1, b) for a, b in zip(given, x.shape, strict=True)):
        raise ValueError(f"{op}: the {name} {list(value.shape)} does not broadcast to the input {list(x.shape)}")
    return value


def per_channel(value: Tensor, x: Tensor) -> Tensor:
    """One value for each channel, in the shape that broadcasts against x (n, channels, ...)."""
    return value.reshape((1, -1, *[1] * (x.ndim - 2)))


# ---- activations that work along an axis ----------------------------------------------------------
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """x - log(sum(exp(x))) along an axis, in a form that does not overflow."""
    return ops.log_softmax(x, ops.axis_of(axis, max(x.ndim, 1), "log_softmax"))


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis, in a form that does not overflow."""
    return ops.exp(log_softmax(x, axis))


# ---- linear maps ----------------------------------------------------------------------------------
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b: (..., in) with a weight (out, in) and a bias (out,) to (..., out)."""
    x, weight = as_tensor(x, "linear"), _need(weight, 2, "linear weight", "out, in")
    if x.shape[-1:] != weight.shape[1:]:
        raise ValueError(
            f"linear: the weight {list(weight.shape)} needs {weight.shape[1]} features, but the input is "
            f"{list(x.shape)}; nn.Flatten() makes features of an image"
        )
    bias = _fits(bias, weight.shape[:1], "linear", "bias")
    y = ops.matmul(x, ops.transpose_(weight, (1, 0)))
    return y if bias is None else y + bias


def embedding(index: Tensor, weight: Tensor) -> Tensor:
    """Rows of a table: integers of any shape and a weight (number, dim) to shape + (dim,)."""
    index, weight = as_tensor(index, "embedding"), _need(weight, 2, "embedding weight", "number, dim")
    if index.dtype.kind not in "iu":
        raise TypeError(f"embedding: indices are integers, not {index.dtype}")
    number = weight.shape[0]
    require(
        ops.all((index >= 0) & (index < number)).data,
        lambda: IndexError(f"embedding: an index lies outside 0..{number - 1}"),
    )
    return ops.getitem(weight, index)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Padding = 0, dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation: (n, in, h, w) and (out, in/groups, kh, kw) to (n, out, oh, ow).

    oh = floor((h + 2 padding - dilation (kh - 1) - 1) / stride) + 1. padding="same" keeps h and w
    (stride 1 only; where the padding is odd the extra one is at the end), "valid" pads nothing.
    """
    x = _need(x, 4, "conv2d", "n, channels, height, width")
    weight = _need(weight, 4, "conv2d weight", "out, in / groups, height, width")
    bias, groups = _fits(bias, weight.shape[:1], "conv2d", "bias"), whole("conv2d: groups", groups)
    stride, dilation = pair(stride, "conv2d stride"), pair(dilation, "conv2d dilation")
    if isinstance(padding, str):
        check_word("conv2d", padding, stride)
        both = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(total % 2 for total in both):
            x = ops.pad(x, [(0, 0), (0, 0)] + [(total // 2, total - total // 2) for total in both])
            both = [0, 0]
        padding = (both[0] // 2, both[1] // 2)
    y = ops.conv(x, weight, stride, pair(padding, "conv2d padding", 0), dilation, groups)
    return y if bias is None else y + per_channel(bias, y)


def conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Single = 1, padding: Single | str = 0,
    dilation: Single = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation over one axis: (n, in, l) and (out, in/groups, k) to (n, out, ol); see `conv2d`."""
    x = _need(x, 3, "conv1d", "n, channels, length")
    weight = _need(weight, 3, "conv1d weight", "out, in / groups, length")
    flat = padding if isinstance(padding, str) else (0, single(padding, "conv1d padding", 0))
    s, d = single(stride, "conv1d stride"), single(dilation, "conv1d dilation")
    y = conv2d(ops.expand_dims(x, 2), ops.expand_dims(weight, 2), bias, (1, s), flat, (1, d), groups)
    return ops.squeeze(y, 2)


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair = 0,
    output_padding: Pair = 0, groups: int = 1, dilation: Pair = 1,
) -> Tensor:  # fmt: skip
    """The adjoint of `conv2d` in its input: (n, in, h, w) and (in, out/groups, kh, kw) to (n, out, oh, ow).

    oh = (h - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1.
    """
    x = _need(x, 4, "conv_transpose2d", "n, channels, height, width")
    weight = _need(weight, 4, "conv_transpose2d weight", "in, out / groups, height, width")
    groups = whole("conv_transpose2d: groups", groups)
    if x.shape[1] != weight.shape[0] or weight.shape[0] % groups:
        raise ValueError(
            f"conv_transpose2d: the weight {list(weight.shape)} in {groups} groups needs {weight.shape[0]} channels in "
            f"equal groups, but the input is {list(x.shape)}"
        )
    bias = _fits(bias, (weight.shape[1] * groups,), "conv_transpose2d", "bias")
    s, d = pair(stride, "conv_transpose2d stride"), pair(dilation, "conv_transpose2d dilation")
    p, extra = pair(padding, "conv_transpose2d padding", 0), pair(output_padding, "conv_transpose2d output_padding", 0)
    if any(e >= max(a, b) for e, a, b in zip(extra, s, d, strict=True)):
        raise ValueError(f"conv_transpose2d: output_padding {extra} must be smaller than stride {s} or dilation {d}")
    size = tuple(
        (n - 1) * s[i] - 2 * p[i] + d[i] * (k - 1) + extra[i] + 1
        for i, (n, k) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True))
    )
    if min(size) < 1:
        raise ValueError(
            f"conv_transpose2d: padding {p} leaves an output of {size} of the input {list(x.shape)} and the weight "
            f"{list(weight.shape)}"
        )
    y = ops.conv_input(x, weight, s, p, d, groups, size)
    return y if bias is None else y + per_channel(bias, y)


# ---- pooling --------------------------------------------------------------------------------------
Pairs = tuple[tuple[int, int], ...]


def _pooling(
    op: str, x: Tensor, kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair, ceil_mode: bool
) -> Pairs:
    """The checked kernel, stride, padding and dilation, and how many windows there are along both axes.

    floor((n + 2 p - d (k - 1) - 1) / s) + 1; ceil_mode rounds up, which also gives one window where an input
    is less than a stride too small for it, but drops a window that would start beyond the input and its left padding.
    """
    k = pair(kernel_size, f"{op} kernel_size")
    s = k if stride is None else pair(stride, f"{op} stride")
    p, d = pair(padding, f"{op} padding", 0), pair(dilation, f"{op} dilation")
    if any(2 * a > b for a, b in zip(p, k, strict=True)):
        raise ValueError(f"{op}: padding {p} is at most half of the kernel {k}")
    counts = []
    for i, n in enumerate(x.shape[2:]):
        span = n + 2 * p[i] - d[i] * (k[i] - 1) - 1
        count = (-(-span // s[i]) if ceil_mode else span // s[i]) + 1
        count -= (count - 1) * s[i] >= n + p[i]
        if count < 1 or not n:
            raise ValueError(f"{op}: a window of {k} does not fit into an input of shape {list(x.shape)}")
        counts.append(count)
    return k, s, p, d, (counts[0], counts[1])


def max_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The maximum of each window of (n, c, h, w). Of equal maxima the first in row-major order gets the gradient."""
    x = _need(x, 4, "max_pool2d", "n, channels, height, width")
    return ops.max_pool(x, Windows(*_pooling("max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode)))


def avg_pool2d(
    x: Tensor, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """The mean of each window of (n, c, h, w); padding counts as zeros unless count_include_pad is False.

    What ceil_mode lets a window see beyond the padding never counts.
    """
    x = _need(x, 4, "avg_pool2d", "n, channels, height, width")
    k, s, p, _, out = _pooling("avg_pool2d", x, kernel_size, stride, padding, 1, ceil_mode)
    return ops.in_single(lambda x: _averages(x, k, s, p, out, count_include_pad), x)


def _averages(
    x: Tensor, k: tuple[int, int], s: tuple[int, int], p: tuple[int, int], out: tuple[int, int], count_include_pad: bool
) -> Tensor:
    """`avg_pool2d` with what `_pooling` made of its settings."""
    size = x.shape[2:]
    reach = [(out[i] - 1) * s[i] + k[i] for i in range(2)]
    frame = [(0, 0), (0, 0), *[(p[i], max(reach[i] - size[i] - p[i], 0)) for i in range(2)]]
    if not any(a or b for a, b in frame):
        return ops.sum(ops.windows(x, k, s), (-4, -3)) / (k[0] * k[1])
    total = ops.sum(ops.windows(ops.pad(x, frame), k, s), (-4, -3))
    inside = creation.ones(size, dtype=x.dtype)
    if count_include_pad:
        inside = ops.pad(inside, [(p[0], p[0]), (p[1], p[1])], 1)
        frame = [(0, max(reach[i] - size[i] - 2 * p[i], 0)) for i in range(2)]
    return total / ops.sum(ops.windows(ops.pad(inside, frame[-2:]), k, s), (-4, -3))


def adaptive_avg_pool2d(x: Tensor, output_size: Pair) -> Tensor:
    """Means over as many windows as the output is to have cells: cell i covers floor(i n/o) .. ceil((i+1) n/o)."""
    x = _need(x, 4, "adaptive_avg_pool2d", "n, channels, height, width")
    out = pair(output_size, "adaptive_avg_pool2d output_size")
    if not all(x.shape[2:]):
        raise ValueError(f"adaptive_avg_pool2d: there is nothing to average in an input of shape {list(x.shape)}")
    if out == (1, 1):
        return ops.mean(x, (2, 3), True)
    if all(n % o == 0 for n, o in zip(x.shape[2:], out, strict=True)):
        return avg_pool2d(x, (x.shape[2] // out[0], x.shape[3] // out[1]))
    for axis, o in zip((2, 3), out, strict=True):  # a mean over a rectangle is a mean of means
        n = x.shape[axis]
        cells = [x[(slice(None),) * axis + (slice(i * n // o, -(-(i + 1) * n // o)),)] for i in range(o)]
        x = ops.concatenate([cell.mean(axis, keepdims=True) for cell in cells], axis)
    return x


# ---- normalisation --------------------------------------------------------------------------------
def batch_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, axis: Axis = 0, eps: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises over `axis` with the batch's own statistics (Ioffe and Szegedy 2015, algorithm 1).

    gamma and beta have one element for each mean. Returns y, and the mean and the biased variance
    with their axes kept. There is no derivative here: the paths through mean and var arise from these
    lines. Scaling the small array first keeps one full-size residual less. The mean of large numbers is
    rounded, so x is centred twice; what that takes away is a constant, which a replay of the tape computes `again`.
    """
    eps = non_negative("batch_norm: eps", eps)
    mean = label(x.mean(axis, keepdims=True), "mean")
    centred = x - mean
    left = centred.mean(axis, keepdims=True)  # zero but for rounding
    rest = left.detach()
    centred = label(again(centred - rest, None, left), "centred")
    var = label((centred * centred).mean(axis, keepdims=True), "var")
    scale = label((1 if gamma is None else gamma.reshape(mean.shape)) / ops.sqrt(var + eps), "scale")
    y = centred * scale
    return y if beta is None else y + beta.reshape(mean.shape), mean + rest, var


def again(y: Tensor, *computed: Tensor | None) -> Tensor:
    """y, of whose operands some are constants to autodiff that were computed: `Tape.replay` computes them again."""
    if y.node is not None:
        y.node.again = tuple(None if t is None else t.node for t in computed)
    return y


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalises each sample over its last axes, of the given shape (Ba, Kiros and Hinton 2016)."""
    x, shape = as_tensor(x, "layer_norm"), tuple(shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"layer_norm: the last axes of {list(x.shape)} are not {list(shape)}")
    weight, bias = _fits(weight, shape, "layer_norm", "weight"), _fits(bias, shape, "layer_norm", "bias")
    y = _normalised(x, tuple(range(x.ndim - len(shape), x.ndim)), non_negative("layer_norm: eps", eps))
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalises each sample over groups of its channels (Wu and He 2018): (n, c, ...) in `groups` groups."""
    x, eps = as_tensor(x, "group_norm"), non_negative("group_norm: eps", eps)
    groups = whole("group_norm: groups", groups)
    if x.ndim < 2 or x.shape[1] % groups:
        raise ValueError(f"group_norm: the channels of {list(x.shape)}, axis 1, do not divide into {groups} groups")
    n, c, *rest = x.shape
    weight, bias = _fits(weight, (c,), "group_norm", "weight"), _fits(bias, (c,), "group_norm", "bias")
    y = _normalised(x.reshape((n, groups, c // groups * math.prod(rest))), 2, eps).reshape(x.shape)
    y = y if weight is None else y * per_channel(weight, x)
    return y if bias is None else y + per_channel(bias, x)


def _normalised(x: Tensor, axis: Axis, eps: float) -> Tensor:
    """`batch_norm` without gamma and beta."""
    return ops.in_single(lambda x: batch_norm(x, axis=axis, eps=eps)[0], x)


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zeros each element with probability p and scales the others by 1 / (1 - p), in training only."""
    x, p = as_tensor(x, "dropout"), fraction("dropout: p", p)
    if not training or p == 0.0:
        return x
    if p == 1.0:
        return ops.where(creation.zeros(x.shape, dtype=bool), x, 0)
    return x * (random.bernoulli(1.0 - p, *x.shape, dtype=x.dtype) / (1.0 - p))


# ---- losses ---------------------------------------------------------------------------------------
def _reduced(values: Tensor, reduction: str, op: str) -> Tensor:
    if reduction == "mean":
        return values.mean()
    if reduction == "sum":
        return values.sum()
    if reduction == "none":
        return values
    raise ValueError(f"{op}: reduction is 'mean', 'sum' or 'none', not {reduction!r}")


def _floating(op: str, x: Any) -> Tensor:
    """The input of a loss as a Tensor: differences of unsigned integers would wrap around."""
    x = as_tensor(x, op)
    if x.dtype.kind != "f":
        raise TypeError(
            f"{op}: the input is floating, not {x.dtype}; use .astype(mg.float32) first (and give the input before "
            "the target)"
        )
    return x


def _alike(op: str, x: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Input and target as Tensors; broadcasting (n,) against (n, 1) would train happily towards the wrong answer."""
    x, target = _floating(op, x), as_tensor(target, op)
    _one_float(op, x, "target", target)
    if x.shape != target.shape:
        raise ValueError(
            f"{op}: the input has shape {list(x.shape)} and the target {list(target.shape)}; they must be equal "
            "(reshape or squeeze one of them)"
        )
    return x, target if target.dtype.kind == "f" else target.astype(x.dtype)


def _one_float(op: str, x: Tensor, name: str, value: Tensor | None) -> None:
    """Refuses a floating target or weight of another dtype than the input's: one of the two would be cast."""
    if value is not None and value.dtype != x.dtype and value.dtype.kind == "f" and value.ndim:
        raise TypeError(
            f"{op}: the input is {x.dtype} and the {name} {value.dtype}; convert the {name} with .astype(mg.{x.dtype})"
        )


def _scores(op: str, x: Any) -> Tensor:
    """The input of a loss of classes as a Tensor."""
    x = _floating(op, x)
    if x.ndim < 2:
        raise ValueError(f"{op}: needs an input (n, classes, ...), not {list(x.shape)}; x[None] is a batch of one")
    return x


def _class_weights(op: str, x: Tensor, weight: Any) -> Tensor | None:
    """A weight for each class as a Tensor, or None."""
    weight = _fits(weight, (x.shape[1],), op, "weight")
    _one_float(op, x, "weight", weight)
    return weight


def _class_index(op: str, x: Tensor, target: Tensor, ignore_index: int) -> bool:
    """Checks the targets; whether all are known to be classes that are not ignored."""
    if target.shape != x.shape[:1] + x.shape[2:]:
        raise ValueError(
            f"{op}: an input (n, classes, ...) of shape {list(x.shape)} needs class indices of shape "
            f"{list(x.shape[:1] + x.shape[2:])}, not {list(target.shape)}"
        )
    looked_at = on_host() or not target.size
    if looked_at and (not target.size or (ops.amin(target).item() >= 0 and ops.amax(target).item() < x.shape[1])):
        return not 0 <= ignore_index < x.shape[1] or not bool(ops.any(target == ignore_index))
    classes = x.shape[1]  # the condition is kept until somebody looks, and x would keep the tape of its step
    outside = ((target < 0) | (target >= classes)) & (target != ignore_index)

    def error() -> Exception:
        worst = target.numpy()[outside.numpy()][0]
        return ValueError(f"{op}: a target is {worst}, but the {classes} classes are 0..{classes - 1}")

    require(ops.logical_not(ops.any(outside)).data, error)
    return False


def nll_loss(
    x: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-x[target] for log-probabilities (n, classes, ...) and class indices (n, ...).

    The mean is weighted: sum(w_t nll) / sum(w_t) over the targets that are not ignored; NaN where all are.
    """
    x, target = _scores("nll_loss", x), as_tensor(target, "nll_loss")
    return _nll(x, target, weight, ignore_index, reduction, 0.0, "nll_loss")


def cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """The negative log-likelihood of scores (n, classes, ...) under softmax.

    target: class indices (n, ...) or probabilities of the scores' shape. Label smoothing s mixes each
    target with the uniform distribution: (1 - s) nll + s/C sum_c w_c (-logp_c). With indices the mean
    divides by the sum of the targets' weights, with probabilities by the number of targets.
    """
    x, target = _scores("cross_entropy", x), as_tensor(target, "cross_entropy")
    label_smoothing = fraction("cross_entropy: label_smoothing", label_smoothing)
    if weight is None and not label_smoothing and reduction == "mean" and (own := kernel("cross_entropy")) is not None:
        loss = own(x, target, ignore_index)
        if loss is not None:
            return loss
    logp = log_softmax(x, 1)
    if target.dtype.kind != "f" or target.ndim < x.ndim:
        return _nll(logp, target, weight, ignore_index, reduction, label_smoothing, "cross_entropy")
    _alike("cross_entropy with probabilities", x, target)
    classes = x.shape[1]
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    terms = -(target * logp)
    weight = _class_weights("cross_entropy", x, weight)
    if weight is not None:
        terms = terms * per_channel(weight, x)
    losses = terms.sum(1)
    return losses.sum() / losses.size if reduction == "mean" else _reduced(losses, reduction, "cross_entropy")


def _nll(
    logp: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float, op: str
) -> Tensor:
    if target.dtype.kind not in "iu":
        raise TypeError(f"{op}: class indices are integers, not {target.dtype}; use .astype(mg.int64) first")
    if ignore_index.__class__ is not int:
        ignore_index = whole(f"{op}: ignore_index", ignore_index, least=None)
    all_kept = _class_index(op, logp, target, ignore_index)
    classes = logp.shape[1]
    kept = None if all_kept else target != ignore_index
    safe = target if all_kept else ops.where(kept, target, 0)
    picked = -ops.take_one(logp, safe, 1)
    weight = _class_weights(op, logp, weight)
    if weight is not None:
        weights = ops.getitem(weight, safe)
        losses = picked * weights
    else:
        losses = picked
    if smoothing:
        spread = -(logp if weight is None else logp * per_channel(weight, logp)).sum(1)
        losses = (1 - smoothing) * losses + (smoothing / classes) * spread
    if all_kept and weight is None:
        return _reduced(losses, reduction, op)
    if kept is not None:
        losses = ops.where(kept, losses, 0)
    if reduction != "mean":
        return _reduced(losses, reduction, op)
    if kept is None:
        return losses.sum() / weights.sum()
    counted = kept.astype(logp.dtype) if weight is None else ops.where(kept, weights, 0)
    return losses.sum() / counted.sum()


def bce_with_logits(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Binary cross entropy of scores: t softplus(-x) + (1 - t) softplus(x), which neither overflows nor cancels.

    weight multiplies each loss, pos_weight the term of the positive targets; both may broadcast.
    """
    x, target = _alike("bce_with_logits", x, target)
    weight = _broadcasts(weight, x, "bce_with_logits", "weight")
    pos_weight = _broadcasts(pos_weight, x, "bce_with_logits", "pos_weight")
    positives = target if pos_weight is None else pos_weight * target
    losses = positives * ops.softplus(-x) + (1 - target) * ops.softplus(x)
    losses = losses if weight is None else losses * weight
    return _reduced(losses, reduction, "bce_with_logits")


def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - t)², shapes equal."""
    x, target = _alike("mse_loss", x, target)
    return _reduced(ops.square(x - target), reduction, "mse_loss")


def l1_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|x - t|, shapes equal."""
    x, target = _alike("l1_loss", x, target)
    return _reduced(ops.abs(x - target), reduction, "l1_loss")


def huber_loss(x: Tensor, target: Tensor, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """d²/2 for |d| <= delta, else delta (|d| - delta/2), where d = x - t (Huber 1964)."""
    delta = positive("huber_loss: delta", delta)
    x, target = _alike("huber_loss", x, target)
    d = x - target
    slope = ops.clip(d, -delta, delta)
    return _reduced(slope * (d - 0.5 * slope), reduction, "huber_loss")


relu, leaky_relu, elu, silu, gelu = ops.relu, ops.leaky_relu, ops.elu, ops.silu, ops.gelu
sigmoid, tanh, softplus, flatten = ops.sigmoid, ops.tanh, ops.softplus, ops.flatten


def __getattr__(name: str) -> NoReturn:
    """What PyTorch calls otherwise is told by the error."""
    raise pytorch_names.of_package(__name__, name)
