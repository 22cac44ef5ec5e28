"""A user's code as it is recorded: arrays that it makes and fills are Tensors, assignments are ops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from minigrad import ops
from minigrad.backend import xp
from minigrad.numpy_protocol.namespace import shown
from minigrad.numpy_protocol.promotion import Function, promoted
from minigrad.tensor import Tensor, raw_index


def assigned(t: Any, index: Any, value: Any) -> Any:
    """t with `value` at `index`: what `t[index] = value` leaves in t, as an op. Repeated places: the last wins."""
    index = raw_index(index)
    places = xp.arange(t.size).reshape(t.shape)[index]
    source = xp.full((t.size,), -1)
    source[places.reshape(-1)] = xp.arange(places.size)
    source = source.reshape(t.shape)
    if not isinstance(value, Tensor):
        value = Tensor(xp.asarray(value, t.dtype))
    elif value.dtype != t.dtype:
        value = ops.astype(value, t.dtype)
    extra = value.ndim - places.ndim
    value = ops.reshape(value, value.shape[extra:]) if extra > 0 else value
    values = ops.reshape(ops.broadcast_to(value, places.shape), -1)
    return ops.where(source >= 0, ops.getitem(values, xp.maximum(source, 0)), t) if places.size else ops.alias(t)


def _assign(self: Tensor, index: Any, value: Any) -> None:
    written = assigned(Tensor(self.data, self.node), index, value)
    self.data, self.node = written.data, written.node


def _promoting(operator: Function) -> Function:
    """An operator of Tensors that widens floating dtypes as NumPy's does."""
    return lambda a, b: operator(*promoted((a, b)))


OPERATORS = [f"__{r}{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "matmul") for r in ("", "r")] + [
    f"__{name}__" for name in ("lt", "le", "gt", "ge", "eq", "ne")
]


@contextlib.contextmanager
def writable(is_theirs: Callable[[str], bool], *functions: Any) -> Iterator[None]:
    """Inside this block assignments into Tensors are recorded, and np.zeros and its like make Tensors.

    Operators widen floating dtypes as NumPy's do (outside, minigrad refuses to mix them).

    is_theirs: of a file's name, whether it is the studied code, and functions: of that code, in case no file
    holds it. For all other code NumPy stays as it is. Meant for one thread.
    """
    methods = {name: getattr(Tensor, name) for name in (*OPERATORS, "__setitem__")}
    try:
        for name in OPERATORS:
            setattr(Tensor, name, _promoting(methods[name]))
        Tensor.__setitem__ = _assign  # type: ignore[method-assign]
        with shown(is_theirs, *functions):
            yield
    finally:
        for name, original in methods.items():
            setattr(Tensor, name, original)
