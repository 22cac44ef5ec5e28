"""One table of sample inputs for everything that `ops` declares: rows, and compositions of rows.

A *sample* is a call, the arrays to call it with, and an independent formula in NumPy (loops, where
NumPy has no such function). The values are odd and asymmetric, since zeros and ones hide mistakes.
Floating arrays are the arguments to differentiate; integers and truth values are constants. A row or
a public composition without a sample fails `test_table`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.backend import xp
from minigrad.pooling import Windows
from minigrad.tensor import raw_index

RNG = np.random.default_rng(20261121)


@dataclass(frozen=True)
class Sample:
    """One call of `ops.<name>`; `claim` is whether the row's kind is to be tested on it."""

    name: str
    arrays: tuple[Any, ...]
    reference: Callable[..., Any]
    call: Callable[..., Any]
    claim: bool = True

    def __str__(self) -> str:
        shapes = " ".join("x".join(map(str, a.shape)) or "0d" for a in self.arrays)
        return f"{self.name}-{shapes}"


def normal(*shape: int) -> np.ndarray:
    """Odd values of both signs, none near 0 or an integer's half, no two alike."""
    x = np.asarray(RNG.normal(size=shape))
    return np.asarray(x + 0.07 * np.sign(x))


def positive(*shape: int) -> np.ndarray:
    return np.asarray(RNG.uniform(0.3, 2.7, size=shape))


def unit(*shape: int) -> np.ndarray:
    """Within (-0.9, 0.9)."""
    return np.asarray(RNG.uniform(-0.9, 0.9, size=shape))


def distinct(*shape: int) -> np.ndarray:
    """Values at least 0.1 apart, so that no finite difference crosses a tie."""
    count = math.prod(shape)
    return np.asarray((RNG.permutation(count) - count / 2 + 0.3) * 0.11).reshape(shape)


def integers(high: int, *shape: int) -> np.ndarray:
    return np.asarray(RNG.integers(0, high, size=shape))


SAMPLES: list[Sample] = []


def sample(
    name: str, arrays: Any, reference: Callable[..., Any], call: Callable[..., Any] | None = None, claim: bool = True
) -> None:
    arrays = arrays if isinstance(arrays, tuple) else (arrays,)
    SAMPLES.append(Sample(name, arrays, reference, call or getattr(ops, name), claim))


erf = np.vectorize(math.erf, otypes=[float])
erfc = np.vectorize(math.erfc, otypes=[float])


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


# ---- elementwise ---------------------------------------------------------------------------------
for name, f in {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
}.items():  # fmt: skip
    sample(name, (normal(3, 4), normal(3, 4)), f)
    sample(name, (normal(2, 3, 4), normal(3, 1)), f)
    sample(name, (normal(4), normal(2, 1, 1)), f)
    sample(name, (normal(3), normal()), f)
for name, f in {"divide": np.divide, "power_": np.power, "power": np.power}.items():
    sample(name, (positive(3, 4), positive(3, 4)), f)
    sample(name, (positive(2, 3, 4), positive(3, 1)), f)
sample("divide", (normal(4), -positive(3, 1)), np.divide)
sample("arctan2", (normal(3, 4), normal(4)), np.arctan2)
sample("remainder", (normal(3, 4), positive(4)), np.remainder)
for n in (3, 2, 1, 0, -1):
    sample("power_of", normal(3, 4), lambda x, n=n: x ** float(n), lambda x, n=n: ops.power_of(x, n))
    sample("power", normal(3, 4), lambda x, n=n: x ** float(n), lambda x, n=n: ops.power(x, n))
sample("power", positive(3, 4), lambda x: np.sqrt(x) * x, lambda x: x**1.5)
sample("power", normal(3, 4), lambda x: np.exp(x * np.log(2.5)), lambda x: ops.power(2.5, x))
sample("where_", (normal(3, 4) > 0, normal(3, 4), normal(4)), np.where)
sample("where", (normal(3, 4) > 0, normal(3, 1), normal(3, 4)), np.where)
sample("where", (normal(3, 4) > 0, normal(3, 4)), lambda c, x: np.where(c, x, 0.5), lambda c, x: ops.where(c, x, 0.5))
sample("clip_", normal(3, 4), lambda x: np.clip(x, -0.55, 0.65), lambda x: ops.clip_(x, -0.55, 0.65))
sample("clip", normal(3, 4), lambda x: np.maximum(x, -0.55), lambda x: ops.clip(x, -0.55))
sample("clip", normal(3, 4), lambda x: np.minimum(x, 0.65), lambda x: ops.clip(x, high=0.65))
for name in ("exp", "exp2", "expm1", "sin", "cos", "tan", "sinh", "cosh", "tanh", "arctan", "arcsinh", "square"):
    sample(name, normal(3, 4), getattr(np, name))
for name in ("log", "log2", "log10", "log1p", "sqrt", "reciprocal"):
    sample(name, positive(3, 4), getattr(np, name))
for name in ("arcsin", "arccos", "arctanh"):
    sample(name, unit(3, 4), getattr(np, name))
sample("arccosh", 1.1 + positive(3, 4), np.arccosh)
sample("negative", normal(3, 4), np.negative)
sample("abs", normal(3, 4), np.abs)
sample("alias", normal(3, 4), lambda x: x)
sample("astype", normal(3, 4), lambda x: x, lambda x: ops.astype(x, x.dtype))
sample("erf", 1.7 * normal(5, 6), erf)
sample("erfc", 1.7 * normal(5, 6), erfc)
sample("sigmoid", 3 * normal(3, 4), sigmoid)
sample("softplus", 3 * normal(3, 4), lambda x: np.logaddexp(x, 0))
sample("relu", normal(3, 4), lambda x: x * (x > 0))
sample("leaky_relu", normal(3, 4), lambda x: np.where(x > 0, x, 0.01 * x))
sample("leaky_relu", normal(3, 4), lambda x: np.where(x > 0, x, 0.3 * x), lambda x: ops.leaky_relu(x, 0.3))
sample("elu", normal(3, 4), lambda x: np.where(x > 0, x, np.exp(x) - 1))
sample("elu", normal(3, 4), lambda x: np.where(x > 0, x, 1.7 * (np.exp(x) - 1)), lambda x: ops.elu(x, 1.7))
sample("silu", normal(3, 4), lambda x: x * sigmoid(x))
sample("gelu", normal(3, 4), lambda x: x * 0.5 * erfc(-x / math.sqrt(2)))
sample(
    "gelu",
    normal(3, 4),
    lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    lambda x: ops.gelu(x, "tanh"),
)

# ---- reductions ----------------------------------------------------------------------------------
REDUCED: dict[str, Callable[..., Any]] = {
    "sum": np.sum, "mean": np.mean, "amax": np.amax, "amin": np.amin, "var": np.var, "std": np.std, "prod": np.prod,
    "max": np.max, "min": np.min,
    "logsumexp": lambda x, axis, keepdims: np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims)),
    "norm_": lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)),
}  # fmt: skip
for name, f in REDUCED.items():
    op = getattr(ops, name)
    for axis, keepdims in [(None, False), (None, True), (1, False), (-1, True), ((0, 2), False), ((-1, 0), True)]:
        if name == "prod" and isinstance(axis, tuple):
            continue
        sample(
            name,
            distinct(2, 3, 4),
            lambda x, f=f, axis=axis, keepdims=keepdims: f(x, axis=axis, keepdims=keepdims),
            lambda x, op=op, axis=axis, keepdims=keepdims: op(x, axis=axis, keepdims=keepdims),
        )
sample("var", normal(3, 4), lambda x: np.var(x, 0, ddof=1), lambda x: ops.var(x, 0, ddof=1))
sample("std", normal(3, 4), lambda x: np.std(x, ddof=1), lambda x: ops.std(x, ddof=1))
sample("prod", np.array([[1.3, 0.0, -0.7], [0.0, 0.0, 2.1]]), lambda x: np.prod(x, 1), lambda x: ops.prod(x, 1))
for axis in (0, 1, -1):
    sample(
        "log_softmax",
        normal(3, 4),
        lambda x, axis=axis: x - np.log(np.sum(np.exp(x), axis=axis, keepdims=True)),
        lambda x, axis=axis: ops.log_softmax(x, axis),
    )
sample("norm", normal(3, 4), np.linalg.norm)
for order in (1, 2, 3, 2.5, math.inf, -math.inf):
    sample("norm", distinct(3, 4), lambda x, p=order: np.linalg.norm(x, p, 1), lambda x, p=order: ops.norm(x, p, 1))
sample(
    "norm",
    distinct(3, 4),
    lambda x: np.linalg.norm(x, axis=0, keepdims=True),
    lambda x: ops.norm(x, axis=0, keepdims=True),
)
sample("cumsum", normal(3, 4), lambda x: np.cumsum(x, 1), lambda x: ops.cumsum(x, 1))
sample("cumsum", normal(3, 4), lambda x: np.cumsum(x, 0), lambda x: ops.cumsum(x, -2))
sample("broadcast_to", normal(3, 1), lambda x: np.broadcast_to(x, (2, 3, 4)), lambda x: ops.broadcast_to(x, (2, 3, 4)))
sample("sum_to", normal(2, 3, 4), lambda x: x.sum(0).sum(1, keepdims=True), lambda x: ops.sum_to(x, (3, 1)))
sample("sum_to", normal(2, 1, 4), lambda x: x.sum(), lambda x: ops.sum_to(x, ()))
sample("sort", distinct(3, 5), np.sort)
sample("sort", distinct(3, 5), lambda x: np.sort(x, 0), lambda x: ops.sort(x, 0))

# ---- moves ---------------------------------------------------------------------------------------
sample("reshape_", normal(3, 4), lambda x: x.reshape(2, 6), lambda x: ops.reshape_(x, (2, 6)))
sample("reshape", normal(3, 4), lambda x: x.reshape(2, -1), lambda x: ops.reshape(x, 2, -1))
sample("reshape", normal(1, 1), lambda x: x.reshape(()), lambda x: ops.reshape(x, ()))
sample("flatten", normal(2, 3, 4), lambda x: x.reshape(24))
sample("flatten", normal(2, 3, 4), lambda x: x.reshape(2, 12), lambda x: ops.flatten(x, 1))
sample("transpose_", normal(2, 3, 4), lambda x: x.transpose(2, 0, 1), lambda x: ops.transpose_(x, (2, 0, 1)))
sample("transpose", normal(2, 3, 4), np.transpose)
sample("transpose", normal(2, 3, 4), lambda x: np.transpose(x, (1, 2, 0)), lambda x: ops.transpose(x, 1, -1, 0))
sample("permute", normal(2, 3, 4), lambda x: np.transpose(x, (1, 2, 0)), lambda x: ops.permute(x, (1, 2, 0)))
sample("swapaxes", normal(2, 3, 4), lambda x: np.swapaxes(x, 0, -1), lambda x: ops.swapaxes(x, 0, -1))
sample("mT", normal(2, 3, 4), lambda x: np.swapaxes(x, -1, -2))
sample("expand_dims", normal(3, 4), lambda x: np.expand_dims(x, 1), lambda x: ops.expand_dims(x, 1))
sample("expand_dims", normal(3, 4), lambda x: np.expand_dims(x, -1), lambda x: ops.expand_dims(x, -1))
sample("squeeze", normal(1, 3, 1), np.squeeze)
sample("squeeze", normal(1, 3, 1), lambda x: np.squeeze(x, -1), lambda x: ops.squeeze(x, -1))
sample("flip", normal(3, 4), np.flip)
sample("flip", normal(3, 4), lambda x: np.flip(x, 1), lambda x: ops.flip(x, -1))
sample("roll", normal(3, 4), lambda x: np.roll(x, 5), lambda x: ops.roll(x, 5))
sample("roll", normal(3, 4), lambda x: np.roll(x, (1, -2), (0, 1)), lambda x: ops.roll(x, (1, -2), (0, 1)))
sample("roll", normal(3, 4), lambda x: np.roll(x, (1, -2), (0, 1)), lambda x: ops.roll(x, [1, -2], [0, 1]))
sample("pad_", normal(2, 3), lambda x: np.pad(x, ((0, 1), (2, 0))), lambda x: ops.pad_(x, ((0, 1), (2, 0))))
sample("pad", normal(2, 3), lambda x: np.pad(x, 2), lambda x: ops.pad(x, 2))
sample("pad", normal(2, 3), lambda x: np.pad(x, (1, 2), constant_values=0.7), lambda x: ops.pad(x, (1, 2), 0.7))
sample("pad", normal(2, 3), lambda x: np.pad(x, ((0, 1), (2, 0))), lambda x: ops.pad(x, [(0, 1), (2, 0)]))
sample("tile", normal(2, 3), lambda x: np.tile(x, 2), lambda x: ops.tile(x, 2))
sample("tile", normal(2, 3), lambda x: np.tile(x, (4, 1, 2)), lambda x: ops.tile(x, (4, 1, 2)))
sample("repeat", normal(2, 3), lambda x: np.repeat(x, 2), lambda x: ops.repeat(x, 2))
sample("repeat", normal(2, 3), lambda x: np.repeat(x, 3, 1), lambda x: ops.repeat(x, 3, -1))
sample("tril", normal(2, 3, 4), np.tril)
sample("tril", normal(3, 4), lambda x: np.tril(x, -1), lambda x: ops.tril(x, -1))
sample("triu", normal(2, 3, 4), np.triu)
sample("triu", normal(3, 4), lambda x: np.triu(x, 1), lambda x: ops.triu(x, 1))
sample(
    "concatenate_",
    (normal(2, 3), normal(2, 1)),
    lambda a, b: np.concatenate([a, b], 1),
    lambda a, b: ops.concatenate_(a, b, axis=1),
)
sample(
    "concatenate",
    (normal(2, 3), normal(1, 3), normal(0, 3)),
    lambda *xs: np.concatenate(xs),
    lambda *xs: ops.concatenate(xs),
)
sample(
    "concatenate", (normal(2, 3), normal(2, 1)), lambda *xs: np.concatenate(xs, 1), lambda *xs: ops.concatenate(xs, -1)
)
sample("stack", (normal(2, 3), normal(2, 3)), lambda *xs: np.stack(xs), lambda *xs: ops.stack(xs))
sample("stack", (normal(2, 3), normal(2, 3)), lambda *xs: np.stack(xs, -1), lambda *xs: ops.stack(xs, -1))
sample("split", normal(6, 2), lambda x: np.split(x, 3)[1], lambda x: ops.split(x, 3)[1])
sample("split", normal(2, 6), lambda x: np.split(x, [1, 4], 1)[1], lambda x: ops.split(x, [1, 4], -1)[1])
INDICES: list[Any] = [
    1, -1, slice(None, None, -2), Ellipsis, None, (slice(1), None, 2), (Ellipsis, slice(1, 3)), (0, 1), np.int64(1),
    np.array([2, 0, 2, 2]), np.array([[1, -1], [1, 1]]), (np.array([0, 2, 0]), np.array([1, 1, 1])),
    (np.array([[0], [2]]), np.array([3, 3, 1])), (slice(None), np.array([3, 3])), (np.array([1, 1]), Ellipsis, None),
    normal(3, 4) > 0, np.array([True, False, True]), (slice(None), np.array([True, False, True, True])),
    (np.array([True, False, True]), np.array([1, 1])), [0, 0, 1], ([0, 0], [1, 1]), [],
]  # fmt: skip
for index in INDICES:
    sample("getitem", normal(3, 4), lambda x, i=index: x[i], lambda x, i=index: x[i])
sample("take", normal(3, 4), lambda x: x[np.array([0, 0])], lambda x: ops.take(x, xp.asarray([0, 0])))


def scattered(g: Any, shape: Any, index: Any) -> Any:
    out = np.zeros(shape)
    np.add.at(out, index, g)
    return out


for index, shape in [
    (np.array([0, 2, 0]), (3, 2)),
    ((np.array([1, 1]), slice(None)), (2, 3)),
    ((slice(1, 3),), (4, 5)),
]:
    g = normal(*np.zeros(shape)[index].shape)
    sample(
        "scatter",
        g,
        lambda g, s=shape, i=index: scattered(g, s, i),
        lambda g, s=shape, i=index: ops.scatter(g, s, raw_index(i)),
    )
for index, axis in [(integers(3, 2, 4), 0), (integers(4, 3, 6), -1), (integers(3, 5, 1), 0)]:
    sample(
        "take_along_axis",
        normal(3, 4),
        lambda x, i=index, a=axis: np.take_along_axis(x, i, a),
        lambda x, i=index, a=axis: ops.take_along_axis(x, i, a),
    )


def scatter_added(x: Any, index: Any, source: Any, axis: int) -> Any:
    out = np.array(x)
    for place in np.ndindex(index.shape):
        target = list(place)
        target[axis] = index[place]
        out[tuple(target)] += source[place]
    return out


for index, axis in [(integers(3, 5, 4), 0), (integers(4, 2, 5), 1)]:
    sample(
        "scatter_add",
        (normal(3, 4), normal(*index.shape)),
        lambda x, s, i=index, a=axis: scatter_added(x, i, s, a),
        lambda x, s, i=index, a=axis: ops.scatter_add(x, i, s, a),
    )
sample("diagonal", normal(2, 3, 4), lambda x: np.diagonal(x, 0, 1, 2))
sample("diagonal", normal(3, 4), lambda x: np.diagonal(x, 2), lambda x: ops.diagonal(x, 2))
sample("diagonal", normal(3, 4), lambda x: np.diagonal(x, -1), lambda x: ops.diagonal(x, -1))
sample("trace", normal(3, 4), np.trace)
sample("trace", normal(2, 3, 3), lambda x: np.trace(x, 1, -2, -1), lambda x: ops.trace(x, 1))


def windowed(x: Any, kernel: Any, stride: Any, dilation: Any) -> Any:
    oh, ow = ((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[-2:], kernel, stride, dilation))
    out = np.zeros((*x.shape[:-2], *kernel, oh, ow))
    for i, j, p, q in np.ndindex(*kernel, oh, ow):
        out[..., i, j, p, q] = x[..., p * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1]]
    return out


def folded(g: Any, size: Any, stride: Any, dilation: Any) -> Any:
    out = np.zeros((*g.shape[:-4], *size))
    for i, j, p, q in np.ndindex(*g.shape[-4:]):
        out[..., p * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1]] += g[..., i, j, p, q]
    return out


for kernel, stride, dilation in [((2, 3), (1, 1), (1, 1)), ((2, 2), (2, 3), (2, 1))]:
    how = {"kernel": kernel, "stride": stride, "dilation": dilation}
    back = {"size": (5, 6), "stride": stride, "dilation": dilation}
    sample("windows", normal(2, 5, 6), lambda x, how=how: windowed(x, **how), lambda x, how=how: ops.windows(x, **how))
    shape = windowed(np.zeros((2, 5, 6)), **how).shape
    sample("fold", normal(*shape), lambda g, back=back: folded(g, **back), lambda g, back=back: ops.fold(g, **back))

# ---- products ------------------------------------------------------------------------------------
sample("matmul_", (normal(3, 4), normal(4, 2)), np.matmul)
sample("matmul_", (normal(5, 1, 3, 4), normal(2, 4, 2)), np.matmul)
for shape_a, shape_b in [
    ((3, 4), (4, 2)), ((4,), (4,)), ((4,), (4, 2)), ((3, 4), (4,)), ((5, 3, 4), (4,)), ((4,), (5, 4, 2)),
    ((5, 3, 4), (4, 2)), ((5, 3, 4), (5, 4, 2)), ((3, 4), (5, 4, 2)), ((2, 1, 3, 4), (5, 4, 2)),
]:  # fmt: skip
    sample("matmul", (normal(*shape_a), normal(*shape_b)), np.matmul)
sample("tensordot", (normal(2, 3, 4), normal(3, 4, 5)), np.tensordot)
for axes, shape_a, shape_b in [
    (0, (2,), (3, 2)), (1, (2, 3), (3, 4)), (([0], [2]), (4, 3, 2), (2, 3, 4)), ((2, 0), (4, 3, 2), (2, 3, 4)),
    (([-1, 1], [0, 1]), (4, 3, 2), (2, 3, 4)),
]:  # fmt: skip
    sample(
        "tensordot",
        (normal(*shape_a), normal(*shape_b)),
        lambda a, b, axes=axes: np.tensordot(a, b, axes),
        lambda a, b, axes=axes: ops.tensordot(a, b, axes),
    )
sample("outer", (normal(3), normal(4)), np.outer)
EQUATIONS: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij,jk->ik", [(3, 4), (4, 2)]),
    ("ij,jk", [(3, 4), (4, 2)]),
    ("ij,kj", [(3, 4), (2, 4)]),
    ("ij->ji", [(3, 4)]),
    ("ij", [(3, 4)]),
    ("ba", [(3, 4)]),
    ("ij->", [(3, 4)]),
    ("ij->i", [(3, 4)]),
    ("ii", [(3, 3)]),
    ("ii->i", [(3, 3)]),
    ("iij->ij", [(3, 3, 4)]),
    ("iii->i", [(3, 3, 3)]),
    ("iji->j", [(3, 4, 3)]),
    ("iijj->ij", [(3, 3, 2, 2)]),
    ("iijj", [(3, 3, 2, 2)]),
    ("i,i->i", [(4,), (4,)]),
    ("i,i", [(4,), (4,)]),
    ("i,j->ij", [(3,), (4,)]),
    ("i,j->", [(3,), (4,)]),
    (",->", [(), ()]),
    (",i", [(), (4,)]),
    ("->", [()]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("...ij,...jk->...ik", [(2, 3, 4), (4, 5)]),
    ("...ij,...jk", [(2, 3, 4), (2, 4, 5)]),
    ("...,...", [(3, 4), (4,)]),
    ("...->...", [(3, 4)]),
    ("i...->...i", [(2, 3, 4)]),
    ("i...->...", [(2, 3, 4)]),
    ("...i,i", [(2, 3), (3,)]),
    ("...i,...i->...", [(5, 2, 3), (2, 3)]),
    ("i...i->...", [(3, 2, 3)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ("ij,jk,ki", [(2, 3), (3, 4), (4, 2)]),
    ("i,ij,j->", [(3,), (3, 4), (4,)]),
    ("a,b,c,d->dcba", [(2,), (3,), (2,), (3,)]),
    ("ij,ij,ij->ij", [(3, 4), (3, 4), (3, 4)]),
    ("ij,i...->j...", [(3, 4), (3, 2, 5)]),
    ("ii,ij->j", [(3, 3), (3, 4)]),
    ("ii,jj->", [(3, 3), (4, 4)]),
    ("ij,ik->jk", [(3, 1), (3, 4)]),
    ("ij,ij->j", [(1, 4), (3, 4)]),
    ("ij,jk->ik", [(3, 1), (4, 2)]),
    ("i,i->", [(1,), (4,)]),
    ("...i,...i->...i", [(1, 3), (2, 3)]),
    ("iI,Ij->ij", [(2, 3), (3, 4)]),
    (" ij , jk -> ik ", [(3, 4), (4, 2)]),
    ("ij,k->ik", [(3, 4), (2,)]),
    ("ii->", [(3, 3)]),
    ("i,ii,iii->i", [(3,), (3, 3), (3, 3, 3)]),
    ("abc,cd,def->abef", [(2, 3, 4), (4, 2), (2, 3, 2)]),
    ("ij,jk->ik", [(0, 4), (4, 2)]),
    ("ij,jk->ik", [(3, 0), (0, 2)]),
]
for equation, shapes in EQUATIONS:
    sample(
        "einsum",
        tuple(normal(*shape) for shape in shapes),
        lambda *xs, e=equation: np.einsum(e, *xs),
        lambda *xs, e=equation: ops.einsum(e, *xs),
    )
for equation, shapes in [
    ("ij,jk->ik", [(3, 4), (4, 2)]),
    ("abc,cb,b->ac", [(2, 3, 4), (4, 3), (3,)]),
    ("ij->ji", [(3, 4)]),
]:
    sample(
        "einsum_",
        tuple(normal(*shape) for shape in shapes),
        lambda *xs, e=equation: np.einsum(e, *xs),
        lambda *xs, e=equation: ops.einsum_(*xs, equation=e),
    )


def convolved(x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """Convolution, from its definition."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    (n, _, h, width), (o, cg, kh, kw) = x.shape, w.shape
    oh = (h - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (width - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, o, oh, ow))
    for k, p, q, i, j in np.ndindex(o, oh, ow, kh, kw):
        group = k // (o // groups)
        pixel = x[:, group * cg : (group + 1) * cg, p * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1]]
        y[:, k, p, q] += pixel @ w[k, :, i, j]
    return y


def adjoint(f: Callable[[Any], Any], g: Any, shape: Any) -> Any:
    """The adjoint of a linear map, column by column."""
    columns = [(f(e.reshape(shape)) * g).sum() for e in np.eye(math.prod(shape))]
    return np.array(columns).reshape(shape)


for stride, padding, dilation, groups, size in [
    ((1, 1), (0, 0), (1, 1), 1, (4, 5)),
    ((2, 1), (1, 2), (1, 2), 2, (4, 5)),
    ((2, 2), (1, 0), (1, 1), 1, (4, 6)),  # the last column is never read: stride 2 does not divide
]:
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    image, weight = normal(2, 2, *size), normal(4, 2 // groups, 2, 3)
    g = normal(*convolved(image, weight, **how).shape)
    sample(
        "conv",
        (image, weight),
        lambda x, w, how=how: convolved(x, w, **how),
        lambda x, w, how=how: ops.conv(x, w, **how),
    )
    sample(
        "conv_input",
        (g, weight),
        lambda g, w, how=how, s=image.shape: adjoint(lambda x: convolved(x, w, **how), g, s),
        lambda g, w, how=how, size=size: ops.conv_input(g, w, size=size, **how),
    )
    sample(
        "conv_weight",
        (image, g),
        lambda x, g, how=how, s=weight.shape: adjoint(lambda w: convolved(x, w, **how), g, s),
        lambda x, g, how=how, k=weight.shape[2:]: ops.conv_weight(x, g, kernel=k, **how),
    )

how = {"stride": (2, 1), "padding": (0, 1), "dilation": (3, 2), "groups": 1}
weight, g = normal(3, 2, 2, 2), normal(2, 3, 2, 1)  # 7 x 2 has room for 2 x 2 windows
sample(
    "conv_input",
    (g, weight),
    lambda g, w, how=how: adjoint(lambda x: convolved(x, w, **how)[..., :1], g, (2, 2, 7, 2)),
    lambda g, w, how=how: ops.conv_input(g, w, size=(7, 2), **how),
)
sample(
    "conv_weight",
    (normal(2, 2, 7, 2), g),
    lambda x, g, how=how: adjoint(lambda w: convolved(x, w, **how)[..., :1], g, (3, 2, 2, 2)),
    lambda x, g, how=how: ops.conv_weight(x, g, kernel=(2, 2), **how),
)

# ---- constant almost everywhere ------------------------------------------------------------------
few = np.array([[0.5, -1.5, 2.5], [np.nan, np.inf, -0.0]])
other = np.array([0.5, 1.0, 2.5])
for name in ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"):
    sample(name, (few, other), getattr(np, name))
for name in ("sign", "floor", "ceil", "isnan", "isinf", "isfinite", "round"):
    sample(name, few, getattr(np, name))
sample("round", normal(3, 4), lambda x: np.round(x, 1), lambda x: ops.round(x, 1))
sample("floor_divide", (normal(3, 4), positive(4)), np.floor_divide)
truth, mask = integers(2, 3, 4) == 1, integers(2, 4) == 1
sample("logical_not", truth, np.logical_not)
for name in ("logical_and", "logical_or", "logical_xor"):
    sample(name, (truth, mask), getattr(np, name))
sample("bitwise_not", truth, np.invert)
sample("bitwise_not", integers(9, 3), np.invert)
for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    sample(name, (truth, mask), getattr(np, name))
    sample(name, (integers(9, 3, 4), integers(9, 4)), getattr(np, name))
for name in ("argmax", "argmin"):
    sample(name, distinct(3, 4), getattr(np, name))
    sample(
        name,
        distinct(3, 4),
        lambda x, name=name: getattr(np, name)(x, 1, keepdims=True),
        lambda x, name=name: getattr(ops, name)(x, 1, True),
    )
sample("argsort", distinct(3, 4), np.argsort)
for name in ("all", "any"):
    sample(name, truth, getattr(np, name))
    sample(name, truth, lambda x, name=name: getattr(np, name)(x, 0), lambda x, name=name: getattr(ops, name)(x, 0))


AT = Windows(kernel=(2, 2), stride=(2, 2), padding=(1, 1), dilation=(1, 1), out=(3, 3))


def pooled(x: Any) -> tuple[Any, Any]:
    """The maximum of each 2 x 2 window, stride 2, padding 1, of planes of 4 x 5, and the number of its cell."""
    framed = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    y, cells = np.zeros((*x.shape[:2], 3, 3), x.dtype), np.zeros((*x.shape[:2], 3, 3), int)
    for n, c, p, q in np.ndindex(y.shape):
        window = framed[n, c, 2 * p : 2 * p + 2, 2 * q : 2 * q + 2]
        y[n, c, p, q], cells[n, c, p, q] = window.max(), np.argmax(window)
    return y, cells


def picked(x: Any) -> Any:
    framed = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    i, j = np.divmod(CELLS, 2)
    n, c, p, q = np.ix_(*[range(k) for k in CELLS.shape])
    return framed[n, c, 2 * p + i, 2 * q + j]


def placed(g: Any) -> Any:
    framed = np.zeros((2, 2, 6, 7))
    for n, c, p, q in np.ndindex(g.shape):
        i, j = divmod(CELLS[n, c, p, q], 2)
        framed[n, c, 2 * p + i, 2 * q + j] = g[n, c, p, q]
    return framed[:, :, 1:5, 1:6]


CELLS = pooled(normal(2, 2, 4, 5))[1]
sample("max_pool", distinct(2, 2, 4, 5), lambda x: pooled(x)[0], lambda x: ops.max_pool(x, AT))
sample("pick", normal(2, 2, 4, 5), picked, lambda x: ops.pick(x, xp.asarray(CELLS), AT))
sample("place", normal(2, 2, 3, 3), placed, lambda x: ops.place(x, xp.asarray(CELLS), AT, (4, 5)))
sample("which_cell", distinct(2, 2, 4, 5), lambda x: pooled(x)[1], lambda x: ops.which_cell(x, ops.max_pool(x, AT), AT))
sample("inside", normal(3, 4), lambda x: (x >= -0.5) & (x <= 0.5), lambda x: ops.inside(x, -0.5, 0.5))
sample(
    "ties",
    np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]),
    lambda x: np.array([[0, 0.5, 0.5], [1 / 3] * 3]),
    lambda x: ops.ties(x, 1),
)
