"""NumPy's functions that no single op says: each composed of ops, under NumPy's own arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.backend import numpy as host
from minigrad.backend import xp
from minigrad.ops import Axis
from minigrad.tensor import Tensor

Function = Callable[..., Any]


def reduction(op: Function) -> Function:
    def reduce(a: Any, axis: Axis = None, keepdims: bool = False) -> Any:
        return op(a, axis, keepdims=bool(keepdims))

    return reduce


def moment(op: Function) -> Function:
    def spread(a: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False, correction: int = 0) -> Any:
        return op(a, axis, ddof or correction, bool(keepdims))

    return spread


def like(fill: Any) -> Function:
    def like(a: Any, fill_value: Any = fill, dtype: Any = None, shape: Any = None) -> Tensor:
        value = fill_value.item() if isinstance(fill_value, Tensor) else fill_value
        return Tensor(xp.full(a.shape if shape is None else shape, value, dtype or a.dtype))

    return like


def average(a: Any, axis: Axis = None, weights: Any = None) -> Any:
    """The mean, or the weighted mean for weights of a's shape."""
    if weights is None:
        return ops.mean(a, axis)
    return ops.sum(a * weights, axis) / ops.sum(weights, axis)


def clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    """Also for bounds that are arrays."""
    low, high = (min if a_min is None else a_min), (max if a_max is None else a_max)
    if any(getattr(bound, "ndim", 0) or isinstance(bound, Tensor) for bound in (low, high)):
        a = a if low is None else ops.maximum(a, low)
        return a if high is None else ops.minimum(a, high)
    return ops.clip(a, low, high)


def dot(a: Any, b: Any) -> Any:
    """NumPy's: numbers multiply, matrices matmul, and N-d sums over a's last and b's last axis but one."""
    a_ndim, b_ndim = getattr(a, "ndim", 0), getattr(b, "ndim", 0)
    if not a_ndim or not b_ndim:
        return ops.multiply(a, b)
    if b_ndim > 2:
        return ops.tensordot(a, b, ([a_ndim - 1], [b_ndim - 2]))
    return ops.matmul(a, b)


def inner(a: Any, b: Any) -> Any:
    return ops.tensordot(a, b, ([a.ndim - 1], [b.ndim - 1])) if a.ndim and b.ndim else ops.multiply(a, b)


def diag(v: Any, k: int = 0) -> Any:
    """The diagonal of a matrix, or a matrix with a given diagonal."""
    if v.ndim == 2:
        return ops.diagonal(v, k)
    n = v.shape[0] + abs(k)
    rows = xp.arange(v.shape[0]) + max(-k, 0)
    return ops.scatter(v, (n, n), (rows, rows + k))


def linalg_norm(x: Any, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Any:
    """Vector norms, and the Frobenius norm of matrices."""
    matrix = (axis is None and x.ndim == 2) or (isinstance(axis, tuple) and len(axis) == 2)
    if ord in (None, "fro") or (ord == 2 and not matrix):
        return ops.norm(x, 2, axis, keepdims)
    if matrix:
        raise TypeError(f"np.linalg.norm: the tape knows no {ord!r} norm of a matrix; only the Frobenius norm")
    return ops.norm(x, ord, axis, keepdims)


def moveaxis(a: Any, source: Any, destination: Any) -> Any:
    sources = [s % a.ndim for s in ((source,) if isinstance(source, int) else source)]
    places = [d % a.ndim for d in ((destination,) if isinstance(destination, int) else destination)]
    order = [axis for axis in range(a.ndim) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return ops.transpose(a, tuple(order))


def pad(array: Any, pad_width: Any, mode: str = "constant", constant_values: float = 0) -> Any:
    if mode != "constant":
        raise TypeError(f"np.pad: the tape sees mode='constant' only, not {mode!r}")
    if not isinstance(pad_width, int) and len(pad_width) == 1 and not isinstance(pad_width[0], int):
        pad_width = tuple(pad_width[0])
    return ops.pad(array, pad_width, constant_values)


def reshape(a: Any, shape: Any = None, newshape: Any = None) -> Any:
    return ops.reshape(a, newshape if shape is None else shape)


def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    sections = indices_or_sections
    return list(ops.split(ary, sections if isinstance(sections, int) else [int(s) for s in sections], axis))


def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    if isinstance(indices_or_sections, int):
        n, k = ary.shape[axis], indices_or_sections
        indices_or_sections = [i * (n // k) + min(i, n % k) for i in range(1, k)]
    return split(ary, indices_or_sections, axis)


def take(a: Any, indices: Any, axis: int | None = None) -> Any:
    if axis is None:
        return ops.getitem(ops.reshape(a, -1), indices)
    return ops.getitem(a, (slice(None),) * (axis % a.ndim) + (indices,))


def where(condition: Any, *choices: Any) -> Any:
    """np.where(c, a, b); np.where(c) gives indices, which are constants."""
    if not choices:
        return host.where(condition.numpy() if isinstance(condition, Tensor) else condition)
    if condition.dtype != bool:
        condition = ops.not_equal(condition, 0)
    return ops.where(condition, *choices)


def at_least(ndim: int) -> Function:
    def raised(x: Any) -> Any:
        return x if x.ndim >= ndim else ops.reshape(x, (1,) * (ndim - x.ndim) + x.shape)

    return raised


def constant(name: str) -> Function:
    """A NumPy function whose result is no part of any gradient: run on the values."""

    def run(*args: Any, **kwargs: Any) -> Any:
        function = getattr(host, name)
        values = [a.numpy() if isinstance(a, Tensor) else a for a in args]
        return function(*values, **{k: v.numpy() if isinstance(v, Tensor) else v for k, v in kwargs.items()})

    return run
