"""NumPy's rule where dtypes or kinds of operands meet: the widest float, and lists are arrays.

The widest float only while a user's code is studied (`rule.widens`). Else minigrad's rule holds for `array * t` as
for `t * array`: where two floating dtypes meet, the op raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrad import ops
from minigrad.backend import is_array, xp
from minigrad.tensor import Tensor

Function = Callable[..., Any]


class Rule:
    """Whether operands of several floating dtypes take the widest of them, and integers are NumPy's."""

    widens = False


rule = Rule()


def holds_tensor(value: Any) -> bool:
    """Whether a value is a Tensor, or a list or tuple with one somewhere in it."""
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and any(map(holds_tensor, value)))


def on_tape(value: Any) -> bool:
    """Whether a value is a Tensor on the tape, or a list, tuple or dict with one somewhere in it."""
    if isinstance(value, Tensor):
        return value.node is not None
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, (list, tuple)) and any(map(on_tape, value))


def as_values(value: Any) -> Any:
    """The same with NumPy's arrays where Tensors stood, for what no gradient flows through."""
    return untaped(value, lambda t: t.numpy())


def as_raw(value: Any) -> Any:
    """The same with the arrays of Tensors in their places."""
    return untaped(value, lambda t: t.data)


def untaped(value: Any, of: Function) -> Any:
    if isinstance(value, Tensor):
        return of(value)
    if isinstance(value, (list, tuple)) and holds_tensor(value):
        return type(value)([untaped(part, of) for part in value])
    return value


def plain(result: Any) -> Any:
    """A result; while a user's code is studied, integers and truth values as NumPy's: what is made of them is, too."""
    return result.data[()] if rule.widens and isinstance(result, Tensor) and result.dtype.kind in "biu" else result


def is_discrete(values: Any) -> bool:
    """Whether the Tensors and arrays among some values, at any depth, hold integers and truth values alone."""
    if isinstance(values, (list, tuple)):
        return all(map(is_discrete, values))
    return not (isinstance(values, Tensor) or is_array(values)) or values.dtype.kind in "biu"


def as_array(value: Any) -> Any:
    """A Tensor or an array as it is; of nested lists with Tensors in them the Tensor that np.array would be."""
    if isinstance(value, Tensor) or is_array(value):
        return value
    if holds_tensor(value):
        return ops.stack(arrays(value))
    return xp.asarray(value)


def arrays(values: Sequence[Any]) -> list[Any]:
    """Several operands that become parts of one array."""
    return widened([as_array(value) for value in values])


def widened(operands: Sequence[Any]) -> list[Any]:
    """The floating ones among some Tensors and arrays in the widest of their dtypes."""
    floats = {a.dtype for a in operands if a.dtype.kind == "f"}
    if len(floats) < 2 or not rule.widens:
        return list(operands)
    widest = max(floats, key=lambda dtype: dtype.itemsize)
    return [ops.astype(a, widest) if a.dtype in floats - {widest} else a for a in operands]


def operands(values: Sequence[Any]) -> tuple[Any, ...]:
    """The operands of an elementwise op, lists among them as arrays."""
    return promoted(tuple(as_array(a) if isinstance(a, (list, tuple)) else a for a in values))


def promoted(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands of an op, of which numbers and 0-d arrays take the dtype of the others."""
    places = [i for i, a in enumerate(operands) if (isinstance(a, Tensor) or is_array(a)) and a.ndim]
    if len(places) < 2:
        return operands
    wide = dict(zip(places, widened([operands[i] for i in places]), strict=True))
    return tuple(wide.get(i, a) for i, a in enumerate(operands))
