"""What a Tensor answers when NumPy asks it: the functions in the tables, and words for all others."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.backend import is_array
from minigrad.backend import numpy as host
from minigrad.numpy_protocol.functions import Function
from minigrad.numpy_protocol.tables import FUNCTIONS, REDUCTIONS, UFUNCS
from minigrad.tensor import Tensor

IGNORED = {"casting", "optimize", "order", "subok", "copy"}
"""Keywords that change how NumPy computes and not what; None stands for "not given" in all others."""


def _call(name: str, op: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs the op with NumPy's arguments, the float arrays among them in one dtype, as NumPy would."""
    given = {k: v for k, v in kwargs.items() if k not in IGNORED and v is not None and v is not host._NoValue}
    for refused in ("out", "where", "initial"):
        if refused in given:
            raise TypeError(
                f"np.{name}: {refused}= writes or selects where the tape cannot see it; assign the result instead "
                f"(a = np.{name}(...), a = a + t for a += t)"
            )
    dtype = given.pop("dtype", None) if name not in LIKES else None
    try:
        result = op(*promoted(args), **given)
    except TypeError as error:
        if "unexpected keyword" in str(error) or "positional argument" in str(error):
            raise TypeError(f"np.{name}: on Tensors this form of the call is not known: {error}") from error
        raise
    return ops.astype(result, dtype) if dtype is not None and isinstance(result, Tensor) else result


LIKES = {"zeros_like", "ones_like", "empty_like", "full_like"}


def promoted(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Operands of several floating dtypes in the widest, which is NumPy's rule (minigrad's own ops raise)."""
    arrays = [a for a in args if (isinstance(a, Tensor) or is_array(a)) and a.ndim]
    floats = {a.dtype for a in arrays if a.dtype.kind == "f"}
    if len(floats) < 2:
        return args
    widest = max(floats, key=lambda dtype: dtype.itemsize)
    return tuple(
        ops.astype(a, widest) if (isinstance(a, Tensor) or is_array(a)) and a.ndim and a.dtype in floats else a
        for a in args
    )


def array_ufunc(self: Tensor, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """`Tensor.__array_ufunc__`."""
    name = ufunc.__name__.removeprefix("cupy_")
    if method == "reduce" and name in REDUCTIONS:
        kwargs.setdefault("axis", args[1] if len(args) > 1 else 0)
        return REDUCTIONS[name](args[0], kwargs["axis"], keepdims=bool(kwargs.get("keepdims")))
    if method != "__call__" or name not in UFUNCS:
        raise TypeError(unknown(name if method == "__call__" else f"{name}.{method}"))
    return _call(name, UFUNCS[name], args, kwargs)


def array_function(self: Tensor, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`Tensor.__array_function__`."""
    module = function.__module__.removeprefix("numpy").lstrip(".")
    name = f"{module}.{function.__name__}" if module and not module.startswith("_") else function.__name__
    if name not in FUNCTIONS:
        raise TypeError(unknown(name))
    return _call(name, FUNCTIONS[name], args, kwargs)


def unknown(name: str) -> str:
    """The message for a function that the tape cannot see through."""
    return (
        f"np.{name}: the tape cannot see through this NumPy function. Write it with functions that have a derivative "
        "here, give it one with mg.primitive, or pass t.numpy() where no gradient is meant to flow"
    )


def array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Any:
    """`Tensor.__array__`: constants are arrays; a Tensor on the tape would lose its history silently, and raises."""
    if self.node is not None:
        raise TypeError(
            f"np.asarray (or an assignment into a NumPy array): the {self.dtype} {list(self.shape)} Tensor"
            f"{f' {self.label!r}' if self.label else ''} is on the tape, and as an array it would leave it unseen; "
            "keep to NumPy functions of the Tensor, or say t.numpy() where no gradient is meant to flow"
        )
    values = self.numpy()
    return values if dtype is None else values.astype(dtype)
