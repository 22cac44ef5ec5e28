"""Tensors made from nothing but a shape: constants to autodiff, float32 unless told otherwise.

A number is a number: that NumPy's scalars have a dtype of their own does not count.
"""

from __future__ import annotations

from typing import Any

from minigrad.backend import is_array, naming_memory, xp
from minigrad.given import integers
from minigrad.tensor import Tensor, created, fitting, plain

Shape = int | tuple[int, ...] | list[int]

float16, float32, float64 = xp.float16, xp.float32, xp.float64
int8, int16, int32, int64, uint8, bool_ = xp.int8, xp.int16, xp.int32, xp.int64, xp.uint8, xp.bool_


__all__ = [
    "arange", "bool_", "eye", "float16", "float32", "float64", "full", "full_like", "int8", "int16", "int32", "int64",
    "linspace", "ones", "ones_like", "uint8", "zeros", "zeros_like",
]  # fmt: skip


def shape_of(op: str, shape: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape given as numbers or as one sequence. Raises TypeError or ValueError for what is not integers >= 0."""
    lengths = integers(op, "a length", shape[0] if len(shape) == 1 else shape)
    if any(n < 0 for n in lengths):
        raise ValueError(f"{op}: a length is at least 0, not one of {list(lengths)}")
    return lengths


def _number(op: str, value: Any) -> Any:
    """A number of Python's, also where a scalar or a 0-d array was given: what dtype it has does not count."""
    value = plain(value, op)
    if not isinstance(value, (int, float)):
        raise TypeError(f"{op}: needs a real number, not {type(value).__name__} {value!r:.60}")
    return value


def _array_of(op: str, t: Any) -> Any:
    """The array whose shape and dtype are taken."""
    if not isinstance(t, Tensor) and not is_array(t):
        raise TypeError(f"{op}: needs a Tensor, not {type(t).__name__} {t!r:.60}; make it one with mg.tensor")
    return t


@naming_memory("zeros")
def zeros(*shape: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """Zeros: `zeros(2, 3)` or `zeros((2, 3))`."""
    return created(xp.zeros(shape_of("zeros", shape), dtype), requires_grad)


@naming_memory("ones")
def ones(*shape: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """Ones: `ones(2, 3)` or `ones((2, 3))`."""
    return created(xp.ones(shape_of("ones", shape), dtype), requires_grad)


@naming_memory("full")
def full(shape: Shape, value: float, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """One value everywhere; a float makes float32, an integer int64, a truth value bool.

    Raises TypeError for what is no number or does not fit into the dtype.
    """
    return created(_filled("full", shape_of("full", (shape,)), value, dtype), requires_grad)


def _filled(op: str, shape: tuple[int, ...], value: Any, dtype: Any) -> Any:
    value = _number(op, value)
    if dtype is None:
        dtype = _natural(value)
    else:
        fitting(value, dtype, op)
    return xp.full(shape, value, dtype)


def _natural(*numbers: Any) -> Any:
    """The dtype of Python's numbers: float32, int64 or bool."""
    if any(isinstance(n, float) for n in numbers):
        return float32
    return bool_ if all(isinstance(n, bool) for n in numbers) else int64


def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None) -> Tensor:
    """start, start + step, ... before stop; `arange(n)` starts at 0. Integers stay integers."""
    start, stop = (0, start) if stop is None else (start, stop)
    numbers = [_number("arange", n) for n in (start, stop, step)]
    if not numbers[2]:
        raise ValueError(f"arange: with a step of 0 there is no way from {numbers[0]} to {numbers[1]}")
    return Tensor(xp.arange(*numbers).astype(dtype or _natural(*numbers)))


def linspace(start: float, stop: float, number: int = 50, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """`number` evenly spaced values from start to stop, both included."""
    ends = [_number("linspace", n) for n in (start, stop)]
    (number,) = shape_of("linspace", (number,))
    return created(xp.linspace(*ends, number).astype(dtype), requires_grad)


def eye(rows: int, columns: int | None = None, dtype: Any = float32) -> Tensor:
    """Ones on the diagonal, zeros elsewhere."""
    return Tensor(xp.eye(*shape_of("eye", (rows, rows if columns is None else columns)), dtype=dtype))


def zeros_like(t: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the shape and, unless told otherwise, the dtype of `t`."""
    return created(xp.zeros(_array_of("zeros_like", t).shape, dtype or t.dtype), requires_grad)


def ones_like(t: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the shape and, unless told otherwise, the dtype of `t`."""
    return created(xp.ones(_array_of("ones_like", t).shape, dtype or t.dtype), requires_grad)


def full_like(t: Tensor, value: float, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """One value, in the shape and, unless told otherwise, the dtype of `t`. Raises TypeError where it does not fit."""
    return created(_filled("full_like", _array_of("full_like", t).shape, value, dtype or t.dtype), requires_grad)
