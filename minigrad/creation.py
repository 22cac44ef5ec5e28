"""Tensors made from nothing but a shape: constants to autodiff, float32 unless told otherwise."""

from __future__ import annotations

from typing import Any

from minigrad.backend import is_scalar, naming_memory, xp
from minigrad.tensor import Tensor, differentiable

Shape = int | tuple[int, ...] | list[int]

float16, float32, float64 = xp.float16, xp.float32, xp.float64
int8, int16, int32, int64, uint8, bool_ = xp.int8, xp.int16, xp.int32, xp.int64, xp.uint8, xp.bool_


__all__ = [
    "arange", "bool_", "eye", "float16", "float32", "float64", "full", "full_like", "int8", "int16", "int32", "int64",
    "linspace", "ones", "ones_like", "uint8", "zeros", "zeros_like",
]  # fmt: skip


def _finish(array: Any, requires_grad: bool) -> Tensor:
    return Tensor(array, differentiable(array) if requires_grad else None)


def _shape(shape: tuple[Any, ...]) -> tuple[int, ...]:
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        return tuple(shape[0])
    return tuple(shape)


@naming_memory("zeros")
def zeros(*shape: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """Zeros: `zeros(2, 3)` or `zeros((2, 3))`."""
    return _finish(xp.zeros(_shape(shape), dtype), requires_grad)


@naming_memory("ones")
def ones(*shape: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """Ones: `ones(2, 3)` or `ones((2, 3))`."""
    return _finish(xp.ones(_shape(shape), dtype), requires_grad)


@naming_memory("full")
def full(shape: Shape, value: float, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """One value everywhere; a Python float makes float32, an integer int64, a truth value bool."""
    dtype = _natural(dtype, value)
    return _finish(xp.full(shape, _number(value), dtype), requires_grad)


def _number(value: Any) -> Any:
    """A scalar of the library as Python's number, which CuPy wants; anything else as it is."""
    return value.item() if is_scalar(value) else value


def _natural(dtype: Any, *values: Any) -> Any:
    """float32 where the values hold a float and no dtype is asked for."""
    if dtype is not None:
        return dtype
    return float32 if any(isinstance(v, float) for v in values) else None


def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = None) -> Tensor:
    """start, start + step, ... before stop; `arange(n)` starts at 0. Integers stay integers."""
    if stop is None:
        start, stop = 0, start
    return Tensor(xp.arange(start, stop, step).astype(_natural(dtype, start, stop, step) or int64))


def linspace(start: float, stop: float, number: int = 50, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """`number` evenly spaced values from start to stop, both included."""
    return _finish(xp.linspace(start, stop, number).astype(dtype), requires_grad)


def eye(rows: int, columns: int | None = None, dtype: Any = float32) -> Tensor:
    """Ones on the diagonal, zeros elsewhere."""
    return Tensor(xp.eye(rows, columns, dtype=dtype))


def zeros_like(t: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the shape and, unless told otherwise, the dtype of `t`."""
    return _finish(xp.zeros(t.shape, dtype or t.dtype), requires_grad)


def ones_like(t: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the shape and, unless told otherwise, the dtype of `t`."""
    return _finish(xp.ones(t.shape, dtype or t.dtype), requires_grad)


def full_like(t: Tensor, value: float, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """One value, in the shape and, unless told otherwise, the dtype of `t`."""
    return _finish(xp.full(t.shape, _number(value), dtype or t.dtype), requires_grad)
