"""NumPy's functions that join, split and move elements, and those that write into an array."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from minigrad import ops
from minigrad.backend import is_array, xp
from minigrad.backend import numpy as host
from minigrad.numpy_protocol.promotion import (
    Function,
    arrays,
    as_array,
    as_values,
    holds_tensor,
    on_tape,
    operands,
    widened,
)
from minigrad.tensor import Tensor


# ---- moved as NumPy moves an array of positions --------------------------------------------------------------
def moves(function: str | Function, *sources: int) -> Function:
    """A function of NumPy's that only moves elements: it is asked where each goes, on their positions.

    sources: the places of the arguments that are arrays, or lists of them; all of them, where none is given.
    So every argument means what it means to NumPy.
    """
    run: Function = attrgetter(function)(host) if isinstance(function, str) else function

    def move(*args: Any, **kwargs: Any) -> Any:
        others = [a for i, a in enumerate(args) if sources and i not in sources]
        if on_tape((others, kwargs)):
            raise TypeError(
                f"on Tensors this form of the call is not known: give arrays by position, in {run.__name__}"
            )
        pool: list[Any] = []

        def positions(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)([positions(part) for part in value])
            pool.append(as_array(value))
            start = sum(a.size for a in pool[:-1])
            return host.arange(start, start + pool[-1].size).reshape(pool[-1].shape)

        moved = [positions(a) if i in sources or not sources else as_values(a) for i, a in enumerate(args)]
        places = run(*moved, **{k: as_values(v) for k, v in kwargs.items()})
        line = ops.concatenate([ops.reshape(a, -1) for a in widened(pool)])
        if isinstance(places, (list, tuple)):
            return type(places)([ops.getitem(line, xp.asarray(part)) for part in places])
        return ops.getitem(line, xp.asarray(places))

    return move


def reshape(a: Any, *lengths: Any, shape: Any = None, newshape: Any = None, order: str = "C", copy: Any = None) -> Any:
    lengths = lengths or (newshape if shape is None else shape,)
    if order in ("C", "A"):
        return ops.reshape(a, *lengths)
    return moves(lambda places: places.reshape(*lengths, order=order))(a)


def ravel(a: Any, order: str = "C") -> Any:
    return reshape(a, -1, order="C" if order == "K" else order)


def joined_in_brackets(brackets: Any) -> Any:
    """np.c_ and np.r_."""

    class Brackets:
        def __getitem__(self, key: Any) -> Any:
            parts = key if isinstance(key, tuple) else (key,)
            if not any(map(holds_tensor, parts)):
                return brackets[key]
            if any(isinstance(part, str) for part in parts):
                raise TypeError("np.r_, np.c_: with Tensors no string is known here; use np.concatenate")
            parts = tuple(brackets[part] if isinstance(part, slice) else as_array(part) for part in parts)
            return moves(lambda *places: brackets[places])(*parts)

    return Brackets()


def pad(array: Any, pad_width: Any, mode: str = "constant", *, constant_values: float = 0) -> Any:
    """In a frame of a value, or of the array's own elements."""
    if mode in ("edge", "reflect", "symmetric", "wrap"):
        return moves("pad", 0)(array, pad_width, mode)
    if mode != "constant":
        raise TypeError(f"np.pad: the tape knows mode='constant', 'edge', 'reflect', 'symmetric', 'wrap', not {mode!r}")
    return ops.pad(array, host.broadcast_to(host.asarray(pad_width), (array.ndim, 2)).tolist(), constant_values)


def repeat(a: Any, repeats: Any, axis: int | None = None) -> Any:
    return ops.repeat(a, repeats, axis) if ops.is_integer(repeats) else moves("repeat", 0)(a, repeats, axis)


# ---- joined and split ------------------------------------------------------------------------------------------
def concatenate(xs: Any, axis: int | None = 0) -> Any:
    parts = arrays(xs)
    return ops.concatenate([ops.reshape(a, -1) for a in parts] if axis is None else parts, axis or 0)


def stack(xs: Any, axis: int = 0) -> Any:
    return ops.stack(arrays(xs), axis)


def at_least(ndim: int) -> Function:
    def one(x: Any) -> Any:
        return x if x.ndim >= ndim else ops.reshape(x, (1,) * (ndim - x.ndim) + tuple(x.shape))

    def raised(*xs: Any) -> Any:
        parts = [one(as_array(x)) for x in xs]
        return parts[0] if len(parts) == 1 else tuple(parts)

    return raised


def column_stack(xs: Any) -> Any:
    return ops.concatenate([x if x.ndim > 1 else ops.reshape(x, (-1, 1)) for x in arrays(xs)], 1)


def hstack(xs: Any) -> Any:
    parts = [at_least(1)(x) for x in arrays(xs)]
    return ops.concatenate(parts, 1 if parts[0].ndim > 1 else 0)


def vstack(xs: Any) -> Any:
    return ops.concatenate([at_least(2)(x) for x in arrays(xs)], 0)


def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    sections = indices_or_sections
    return list(ops.split(ary, sections if isinstance(sections, int) else [int(s) for s in sections], axis))


def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    if isinstance(indices_or_sections, int):
        n, k = ary.shape[axis], indices_or_sections
        indices_or_sections = [i * (n // k) + min(i, n % k) for i in range(1, k)]
    return split(ary, indices_or_sections, axis)


def cut_along(axis: int) -> Function:
    """np.vsplit and np.hsplit, of which the latter cuts a vector along its only axis."""
    return lambda ary, indices_or_sections: split(ary, indices_or_sections, min(axis, ary.ndim - 1))


def swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    return ops.swapaxes(a, axis1, axis2)


def take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Any:
    if axis is None:
        return ops.take_along_axis(ops.reshape(arr, -1), indices, 0)
    return ops.take_along_axis(arr, indices, axis)


def expand_dims(a: Any, axis: int | tuple[int, ...]) -> Any:
    axes = ops.axes_of(axis, a.ndim + (len(axis) if isinstance(axis, tuple) else 1), "expand_dims")
    lengths = iter(a.shape)
    return ops.reshape(a, tuple(1 if i in axes else next(lengths) for i in range(a.ndim + len(axes))))


def moveaxis(a: Any, source: Any, destination: Any) -> Any:
    sources = [s % a.ndim for s in ((source,) if isinstance(source, int) else source)]
    places = [d % a.ndim for d in ((destination,) if isinstance(destination, int) else destination)]
    order = [axis for axis in range(a.ndim) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return ops.transpose(a, tuple(order))


def transpose(a: Any, axes: Any = None) -> Any:
    return ops.transpose(a, *(() if axes is None else (tuple(axes),)))


def diag(v: Any, k: int = 0) -> Any:
    """The diagonal of a matrix, or a matrix with a given diagonal."""
    if v.ndim == 2:
        return ops.diagonal(v, k)
    n = v.shape[0] + abs(k)
    rows = xp.arange(v.shape[0]) + max(-k, 0)
    return ops.scatter(v, (n, n), (rows, rows + k))


def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return ops.diagonal(moveaxis(a, (axis1, axis2), (-2, -1)), offset)


def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return ops.sum(diagonal(a, offset, axis1, axis2), -1)


# ---- chosen -----------------------------------------------------------------------------------------------------
def take(a: Any, indices: Any, axis: int | None = None) -> Any:
    if axis is None:
        return ops.getitem(ops.reshape(a, -1), indices)
    return ops.getitem(a, (slice(None),) * (axis % a.ndim) + (indices,))


def where(condition: Any, *choices: Any) -> Any:
    """np.where(c, a, b); np.where(c) gives indices, which are constants."""
    if not choices:
        return host.where(as_values(condition))
    condition = as_array(condition)
    if condition.dtype != bool:
        condition = ops.not_equal(condition, 0)
    return ops.where(condition, *operands(choices))


def select(condlist: Any, choicelist: Any, default: Any = 0) -> Any:
    """Of the choices the first whose condition holds."""
    chosen = default
    for condition, choice in reversed(list(zip(condlist, choicelist, strict=True))):
        chosen = where(condition, choice, chosen)
    return chosen


def clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    """Also for bounds that are arrays."""
    low, high = (min if a_min is None else a_min), (max if a_max is None else a_max)
    if any(getattr(bound, "ndim", 0) or isinstance(bound, Tensor) for bound in (low, high)):
        a = a if low is None else ops.maximum(a, low)
        return a if high is None else ops.minimum(a, high)
    return ops.clip(a, low, high)


def bincount(x: Any, weights: Any = None, minlength: int = 0) -> Any:
    """The sums of the weights with the same number."""
    places = as_values(x)
    if weights is None:
        return host.bincount(places, None, minlength)
    return ops.scatter(weights, (max(int(host.max(places)) + 1, minlength),), xp.asarray(places))


# ---- made, and written into ----------------------------------------------------------------------------------------
def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None
) -> Any:  # fmt: skip
    """An array of another one's shape and dtype, full of a value."""
    shape, dtype = a.shape if shape is None else shape, dtype or a.dtype
    if isinstance(fill_value, Tensor):
        return ops.alias(ops.broadcast_to(ops.astype(fill_value, host.dtype(dtype)), shape))
    return Tensor(xp.full(shape, fill_value, dtype))


def like(fill: float) -> Function:
    """np.zeros_like and its like."""
    return lambda a, *args, **kwargs: full_like(a, fill, *args, **kwargs)


def written(target: Any) -> Tensor:
    """What is to be written into, if the writing can be recorded. Raises TypeError, with the fix."""
    if isinstance(target, Tensor):
        return target
    raise TypeError(
        "it would write a value that is on the tape into a NumPy array, which cannot keep its history. Write a = a + t "
        "for a += t, or (in a function that is checked) make the array there with np.zeros or np.array"
    )


def copyto(dst: Any, src: Any, *, where: Any = True) -> None:
    written(dst)[...] = src if where is True else ops.where(as_array(where), src, dst)


def fill_diagonal(a: Any, val: Any) -> None:
    steps = xp.arange(min(a.shape))
    written(a)[(steps,) * a.ndim] = val


def putmask(a: Any, mask: Any, values: Any) -> None:
    mask = as_array(mask)
    values = as_array(values)
    written(a)[mask] = ops.getitem(values, mask) if values.shape == a.shape else values


def at(name: str) -> Function:
    """np.add.at and np.subtract.at: where a place repeats, all of its values are added."""

    def add(a: Any, indices: Any, b: Any) -> None:
        places = host.arange(a.size).reshape(a.shape)[as_values(indices)]
        b = ops.broadcast_to(as_array(b), places.shape)
        sums = ops.reshape(ops.scatter(b, (a.size,), xp.asarray(places)), a.shape)
        written(a)[...] = a + sums if name == "add" else a - sums

    return add


def copied(a: Any, order: str = "K") -> Any:
    """The same values in memory of their own."""
    made = ops.alias(a)
    made.data = made.data.copy()
    return made


def cast(x: Any, dtype: Any, *, order: str = "K", copy: bool = True) -> Any:
    return ops.astype(x, host.dtype(dtype))


def same(x: Any) -> Any:
    return x if isinstance(x, Tensor) or is_array(x) else as_array(x)
