"""BatchNorm under the microscope: small functions that take it apart.

Everything here is ordinary code on Tensors: BatchNorm with chosen paths cut, the affine map that it
equals on one batch, the recursions of running statistics, how much cancels in a gradient, and a
series arithmetic that gives derivatives of every order without any autodiff. `x` is (m, channels)
throughout and statistics are over the batch axis 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from minigrad import functional as F
from minigrad import nn, ops
from minigrad.autodiff import jvp, label, no_grad, vjp
from minigrad.creation import ones_like
from minigrad.nn.normalisation import BatchNorm
from minigrad.tensor import Tensor
from minigrad.view import Tape

PATHS = {
    ("centred",): "direct",
    ("mean", "centred"): "through mean",
    ("centred", "var", "scale"): "through var",
    ("mean", "centred", "var", "scale"): "through mean inside var",
}
"""The four ways from y back to x, by the labels of `functional.batch_norm`."""


def batch_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5, through_mean: bool = True, through_var: bool = True,
    through_inner: bool = True,
) -> Tensor:  # fmt: skip
    """BatchNorm in training mode, where a path can be cut: its statistic is then a constant to autodiff.

    through_mean: the mean, in the output and inside the variance. through_inner: the mean inside the
    variance alone. through_var: the variance. The values are the same in every case.
    """
    mean = label(x.mean(0, keepdims=True), "mean")
    mean = mean if through_mean else mean.detach()
    centred = label(x - mean, "centred")
    inside = centred if through_inner else x - mean.detach()
    var = label((inside * inside).mean(0, keepdims=True), "var")
    var = var if through_var else var.detach()
    return centred * label(gamma / ops.sqrt(var + eps), "scale") + beta


def affine_equivalent(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """gamma' and beta' with which gamma' x + beta' equals BatchNorm on this one batch; constants to autodiff."""
    with no_grad():
        _, mean, var = F.batch_norm(x, axis=0, eps=eps)
        slope = gamma.detach() / ops.sqrt(var + eps)
        return slope, beta.detach() - slope * mean


def paper_gradients(x: Tensor, gamma: Tensor, g: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dgamma, dbeta by the formulas of Ioffe and Szegedy (2015), section 3, from the cotangent g of y."""
    x, gamma, g = x.detach(), gamma.detach(), g.detach()
    m = x.shape[0]
    mean = x.mean(0)
    var = ((x - mean) ** 2).mean(0)
    sigma = ops.sqrt(var + eps)
    xhat = (x - mean) / sigma
    dxhat = g * gamma
    dvar = (dxhat * (x - mean)).sum(0) * -0.5 / sigma**3
    dmean = (-dxhat / sigma).sum(0) + dvar * (-2 * (x - mean)).mean(0)
    dx = dxhat / sigma + dvar * 2 * (x - mean) / m + dmean / m
    return dx, (g * xhat).sum(0), g.sum(0)


@dataclass(frozen=True)
class Statistics:
    """A mean and a variance for each channel, after one step of a recursion or over a data set."""

    mean: Tensor
    var: Tensor


def exponential(before: Statistics, batch: Statistics, momentum: float) -> Statistics:
    """PyTorch's recursion, with momentum as the weight of the NEW value: (1 - f) old + f new."""
    f = momentum
    return Statistics((1 - f) * before.mean + f * batch.mean, (1 - f) * before.var + f * batch.var)


def tensorflow_average(variable: Tensor, value: Tensor, decay: float) -> Tensor:
    """TensorFlow's recursion, with decay as the weight of the OLD value: variable decay + value (1 - decay)."""
    return variable * decay + value * (1 - decay)


def batch_statistics(x: Tensor, unbiased: bool = True) -> Statistics:
    """The mean and the variance of one batch, unbiased (m - 1) or biased (m)."""
    return Statistics(x.detach().mean(0), x.detach().var(0, ddof=int(unbiased)))


def population_statistics(batches: Iterable[Tensor]) -> Statistics:
    """The mean and the variance of a whole data set, in one pass over batches (Chan, Golub and LeVeque 1979)."""
    count, mean, squares = 0, None, None
    for x in batches:
        x = x.detach()
        m, own = x.shape[0], x.mean(0)
        apart = ((x - own) ** 2).sum(0)
        if mean is None or squares is None:
            count, mean, squares = m, own, apart
            continue
        gap = own - mean
        total = count + m
        squares = squares + apart + gap * gap * (count * m / total)
        mean, count = mean + gap * (m / total), total
    if mean is None or squares is None:
        raise ValueError("population_statistics: no batches were given")
    return Statistics(mean, squares / count)


def running_against_batch(model: nn.Module, trace: Any) -> list[dict[str, Any]]:
    """For each BatchNorm of a traced model: its path, the batch's mean and unbiased variance, and the running ones.

    trace: from `with mg.trace(model) as t:` around passes in training mode; a layer has a row for each of them, in
    order, all with the running statistics that it has now. Warns of layers that left no statistics on the tape.
    """
    rows, missing = [], []
    for path, layer in model.named_modules():
        if not isinstance(layer, BatchNorm) or layer.running_mean is None or layer.running_var is None:
            continue
        prefix = f"{path}/" if path else ""
        if f"{prefix}var" not in trace:
            missing.append(path or type(layer).__name__)
            continue
        means, centred, variances = (trace.all(prefix + name) for name in ("mean", "centred", "var"))
        for mean, values, var in zip(means, centred, variances, strict=True):
            m = values.value.size // layer.num_features
            rows.append({
                "layer": path,
                "batch_mean": mean.value.reshape(-1),
                "running_mean": layer.running_mean.detach(),
                "batch_var": var.value.reshape(-1) * (m / (m - 1)),
                "running_var": layer.running_var.detach(),
            })  # fmt: skip
    if missing:
        warnings.warn(
            f"running_against_batch: the trace has no statistics of {', '.join(missing)}: not called in training mode, "
            "or nothing below has requires_grad=True (give the model's input that)",
            stacklevel=2,
        )
    return rows


def cancellation(tape: Tape) -> dict[str, float]:
    """At every fan-out point the norm of the summed cotangent over the sum of the norms of what came in.

    1 means that all ways agree, 0 that they cancel: digits are lost there in float32.
    """
    parts: dict[int, float] = {}
    for step in tape.steps:
        if step.uses > 1:
            parts[step.to] = parts.get(step.to, 0.0) + ops.norm(Tensor(step.outgoing.astype("float64"))).item()
    ratios = {}
    for number, total in parts.items():
        line = tape[number]
        assert line.cotangent is not None
        ratios[line.name] = ops.norm(line.cotangent.astype("float64")).item() / total if total else 0.0
    return ratios


Scalar = Callable[[Tensor], Tensor]


def forward_derivative(f: Scalar) -> Scalar:
    """The derivative of a function of one number by jvp."""
    return lambda t: jvp(f, t, ones_like(t))[1]


def reverse_derivative(f: Scalar) -> Scalar:
    """The derivative of a function of one number by vjp."""

    def derivative(t: Tensor) -> Tensor:
        y, pullback = vjp(f, t)
        return pullback(ones_like(y))

    return derivative


def nested(f: Scalar, nesting: str) -> Scalar:
    """The derivative of order len(nesting); "jv" takes a jvp of a vjp: the first letter is the outermost."""
    for letter in reversed(nesting):
        f = forward_derivative(f) if letter == "j" else reverse_derivative(f)
    return f


class Series:
    """c0 + c1 t + c2 t^2 + ..., cut after a fixed order, over any numbers that add, multiply and divide.

    Over Decimals or mpmath's numbers it is an oracle for derivatives that shares nothing with autodiff:
    the k-th derivative at t = 0 is k! c_k.
    """

    def __init__(self, coefficients: Sequence[Any]) -> None:
        self.c = list(coefficients)

    def _lift(self, other: Any) -> Series:
        return other if isinstance(other, Series) else Series([other, *[other * 0] * (len(self.c) - 1)])

    def __add__(self, other: Any) -> Series:
        return Series([a + b for a, b in zip(self.c, self._lift(other).c, strict=True)])

    __radd__ = __add__

    def __neg__(self) -> Series:
        return Series([-a for a in self.c])

    def __sub__(self, other: Any) -> Series:
        return self + -self._lift(other)

    def __mul__(self, other: Any) -> Series:
        b = self._lift(other).c
        return Series([sum((self.c[i] * b[k - i] for i in range(1, k + 1)), self.c[0] * b[k]) for k in range(len(b))])

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Series:
        b = self._lift(other).c
        q: list[Any] = []
        for k, a in enumerate(self.c):
            q.append((a - sum((q[i] * b[k - i] for i in range(k)), a * 0)) / b[0])
        return Series(q)

    def sqrt(self, root: Callable[[Any], Any]) -> Series:
        """The square root; `root` takes the square root of a number."""
        r = [root(self.c[0])]
        for k in range(1, len(self.c)):
            inner = sum((r[i] * r[k - i] for i in range(1, k)), r[0] * 0)
            r.append((self.c[k] - inner) / (2 * r[0]))
        return Series(r)


def batch_norm_series(
    x: Sequence[Sequence[Any]], v: Sequence[Sequence[Any]], weights: Sequence[Sequence[Any]], gamma: Sequence[Any],
    beta: Sequence[Any], eps: Any, order: int, root: Callable[[Any], Any], running: tuple[Any, Any] | None = None,
) -> list[Any]:  # fmt: skip
    """Derivatives 0..order at t = 0 of sum(weights * BatchNorm(x + t v)), by series arithmetic.

    All numbers are of one kind, for which `root` takes square roots. running: (mean, var) of each channel
    in evaluation mode; None normalises with the batch's own.
    """
    zero, m = eps * 0, len(x)
    total = Series([zero] * (order + 1))
    for channel in range(len(x[0])):
        column = [Series([x[i][channel], v[i][channel], *[zero] * (order - 1)][: order + 1]) for i in range(m)]
        if running is None:
            mean = sum(column[1:], column[0]) / m
            centred = [entry - mean for entry in column]
            squares = [entry * entry for entry in centred]
            var = sum(squares[1:], squares[0]) / m
        else:
            centred = [entry - running[0][channel] for entry in column]
            var = Series([running[1][channel], *[zero] * order])
        sigma = (var + eps).sqrt(root)
        for i in range(m):
            total = total + (centred[i] / sigma * gamma[channel] + beta[channel]) * weights[i][channel]
    factorial, derivatives = 1, []
    for k, c in enumerate(total.c):
        factorial *= max(k, 1)
        derivatives.append(c * factorial)
    return derivatives
