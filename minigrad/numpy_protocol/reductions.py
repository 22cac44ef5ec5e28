"""NumPy's sums, extremes, moments and quantiles, under NumPy's own arguments, composed of ops.

Arguments that stand elsewhere by position there (dtype, out) are taken by name alone.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from minigrad import ops
from minigrad.backend import xp
from minigrad.numpy_protocol.promotion import Function, arrays, as_array, widened
from minigrad.ops import Axis
from minigrad.tensor import Tensor

ABSENT: Any = object()
"""In the place of an argument that was not given, where None is an argument too."""


def reduction(op: Function, join: Function, neutral: float | None) -> Function:
    """A reduction with NumPy's `where` (elements left out are `neutral`) and `initial` (joined to the result).

    neutral: None where there is none, and NumPy asks for an initial value
    """

    def reduce(a: Any, axis: Axis = None, *, keepdims: bool = False, initial: Any = None, where: Any = None) -> Any:
        if where is not None and where is not True:
            rest = initial if neutral is None else neutral
            if rest is None:
                raise ValueError("where= needs initial=, the value where no element is left")
            a = ops.where(ops.broadcast_to(as_array(where), a.shape), a, rest)
        y = op(a, axis, keepdims=bool(keepdims))
        return y if initial is None else join(y, initial)

    return reduce


total, product = reduction(ops.sum, ops.add, 0), reduction(ops.prod, ops.multiply, 1)


def size(a: Any, axis: Axis, where: Any, keepdims: bool) -> Any:
    """How many elements a mean is taken of, those that `where` leaves out not counted."""
    if where is None or where is True:
        return ops.count(a.shape, axis)
    mask = xp.broadcast_to(where.data if isinstance(where, Tensor) else xp.asarray(where), a.shape)
    return Tensor(mask.astype(a.dtype).sum(axis=axis, keepdims=bool(keepdims)))


def mean_over(a: Any, axis: Axis = None, *, keepdims: bool = False, where: Any = None) -> Any:
    if where is None:
        return ops.mean(a, axis, bool(keepdims))
    return total(a, axis, keepdims=keepdims, where=where) / size(a, axis, where, keepdims)


def var(
    a: Any, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False, where: Any = None, mean: Any = None,
    correction: int = 0,
) -> Any:  # fmt: skip
    """Also with the mean given (its axes kept), through which the gradient then flows."""
    ddof = ddof or correction
    if where is None and mean is None:
        return ops.var(a, axis, ddof, bool(keepdims))
    centre = mean_over(a, axis, keepdims=True, where=where) if mean is None else mean
    return total(ops.square(a - centre), axis, keepdims=keepdims, where=where) / (size(a, axis, where, keepdims) - ddof)


def std(a: Any, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False, **given: Any) -> Any:
    if given.get("where") is None and given.get("mean") is None:
        return ops.std(a, axis, ddof or given.get("correction", 0), bool(keepdims))
    return ops.sqrt(var(a, axis, ddof=ddof, keepdims=keepdims, **given))


def without_nan(function: Function) -> Function:
    """np.nansum and its like: over the elements that are numbers."""

    def reduce(a: Any, axis: Axis = None, *, keepdims: bool = False, **given: Any) -> Any:
        return function(a, axis=axis, keepdims=keepdims, where=ops.logical_not(ops.isnan(a)), **given)

    return reduce


def average(a: Any, axis: Axis = None, weights: Any = None, *, keepdims: bool = False) -> Any:
    """The mean, or the weighted mean for weights of a's shape, or of its length along the axis."""
    if weights is None:
        return ops.mean(a, axis, bool(keepdims))
    a, w = widened([as_array(a), as_array(weights)])
    if w.shape != a.shape:
        (at,) = ops.axes_of(0 if axis is None and a.ndim == 1 else axis, a.ndim, "average")
        w = ops.broadcast_to(ops.reshape(w, tuple(-1 if i == at else 1 for i in range(a.ndim))), a.shape)
    return ops.sum(a * w, axis, bool(keepdims)) / ops.sum(w, axis, bool(keepdims))


def choice(op: Function) -> Function:
    """An op along an axis whose result is a place or a truth value."""
    return lambda a, axis=None, *, keepdims=False: op(a, axis, bool(keepdims))


def ptp(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Any:
    return ops.max(a, axis, bool(keepdims)) - ops.min(a, axis, bool(keepdims))


def flat(op: Function) -> Function:
    """An op along an axis, for which None makes one axis of all."""

    def along(a: Any, axis: int | None = ABSENT, **given: Any) -> Any:
        axis = DEFAULT_AXES[op] if axis is ABSENT else axis
        return op(ops.reshape(a, -1), 0, **given) if axis is None else op(a, axis, **given)

    return along


def accumulated(op: Function) -> Function:
    """What op makes of the elements so far, one after the other: of products exact also where a factor is zero."""

    def along(a: Any, axis: int = 0) -> Any:
        if not a.shape[axis]:
            return ops.alias(a)
        return ops.concatenate(list(itertools.accumulate(ops.split(a, a.shape[axis], axis), op)), axis)

    return along


cumprod = accumulated(ops.multiply)


DEFAULT_AXES: dict[Function, int | None] = {ops.sort: -1, ops.argsort: -1, ops.cumsum: None, cumprod: None}


def quantile(a: Any, q: Any, axis: Axis = None, *, keepdims: bool = False, method: str = "linear") -> Any:
    """Between the two neighbours in ascending order, linearly."""
    if method != "linear":
        raise TypeError(f"np.quantile: the tape knows method='linear' only, not {method!r}")
    if getattr(q, "ndim", 0) or isinstance(q, (list, tuple)):
        return ops.stack([quantile(a, float(one), axis, keepdims=keepdims) for one in q])
    axes = ops.axes_of(axis, a.ndim, "np.quantile")
    if len(axes) != 1:
        others = [i for i in range(a.ndim) if i not in axes]
        shape = (*(a.shape[i] for i in others), ops.count(a.shape, axes))
        y = quantile(ops.reshape(ops.transpose(a, (*others, *axes)), shape), q, -1)
        return ops.reshape(y, [1 if i in axes else n for i, n in enumerate(a.shape)]) if keepdims else y
    (axis,) = axes
    ordered, n = ops.sort(a, axis), a.shape[axis]
    place = float(q) * (n - 1)
    low = min(int(place), n - 1)
    at = [xp.asarray([min(i, n - 1)]) for i in (low, low + 1)]
    head = (slice(None),) * axis
    below, above = (ops.getitem(ordered, (*head, i)) for i in at)
    y = below + (above - below) * (place - low)
    return y if keepdims else ops.squeeze(y, axis)


def median(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Any:
    return quantile(a, 0.5, axis, keepdims=keepdims)


def percentile(a: Any, q: Any, axis: Axis = None, *, keepdims: bool = False) -> Any:
    return quantile(a, xp.asarray(q) / 100, axis, keepdims=keepdims)


def variables(m: Any, rowvar: bool) -> Any:
    """A row for each variable."""
    return ops.reshape(m, (1, -1)) if m.ndim == 1 else m if rowvar else ops.transpose(m)


def cov(m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: int | None = None) -> Any:
    """Of variables that are rows (columns, where rowvar is false); those of y come after those of m."""
    x = variables(m, rowvar)
    if y is not None:
        x = ops.concatenate(arrays([x, variables(as_array(y), rowvar)]))
    x = x - ops.mean(x, 1, True)
    return ops.squeeze(ops.matmul(x, ops.transpose(x)) / (x.shape[1] - (int(not bias) if ddof is None else ddof)))


def corrcoef(x: Any, y: Any = None, rowvar: bool = True) -> Any:
    c = cov(x, y, rowvar)
    if not c.ndim:
        return c / c
    d = ops.sqrt(ops.diagonal(c))
    return c / ops.outer(d, d)


def diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """The differences of neighbours along an axis, n times, with what comes before and after them."""
    head = (slice(None),) * (axis % a.ndim)
    if prepend is not None or append is not None:
        one = (*a.shape[: axis % a.ndim], 1, *a.shape[axis % a.ndim + 1 :])
        ends = [end if end is None else as_array(end) for end in (prepend, append)]
        before, after = ([] if e is None else [e if e.ndim else ops.broadcast_to(e, one)] for e in ends)
        a = ops.concatenate(widened([*before, a, *after]), axis)
    for _ in range(n):
        a = ops.getitem(a, (*head, slice(1, None))) - ops.getitem(a, (*head, slice(None, -1)))
    return a


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    """The area under straight lines from value to value; x: where they stand, else dx apart."""
    y = as_array(y)
    if x is not None:
        x = as_array(x)
        dx = diff(x, axis=axis if x.ndim > 1 else -1)
        dx = ops.reshape(dx, tuple(-1 if i == axis % y.ndim else 1 for i in range(y.ndim))) if x.ndim == 1 else dx
    head = (slice(None),) * (axis % y.ndim)
    pairs = ops.getitem(y, (*head, slice(1, None))) + ops.getitem(y, (*head, slice(None, -1)))
    return ops.sum(pairs * (dx / 2), axis)


extreme = {"max": reduction(ops.max, ops.maximum, None), "min": reduction(ops.min, ops.minimum, None)}
nan_extreme = {
    "nanmax": without_nan(reduction(ops.max, ops.maximum, -math.inf)),
    "nanmin": without_nan(reduction(ops.min, ops.minimum, math.inf)),
}
