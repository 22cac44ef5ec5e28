"""What a Tensor answers when NumPy asks it: the functions in the tables, and words for all others."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.backend import is_array, is_scalar, xp
from minigrad.backend import numpy as host
from minigrad.numpy_protocol.arrangements import at, where, written
from minigrad.numpy_protocol.promotion import (
    Function,
    as_array,
    as_raw,
    as_values,
    is_discrete,
    on_tape,
    operands,
    plain,
    promoted,
)
from minigrad.numpy_protocol.reductions import accumulated
from minigrad.numpy_protocol.tables import CONSTANT, FUNCTIONS, INSTEAD, REDUCED, UFUNCS
from minigrad.tensor import Tensor

IGNORED = {"casting", "device", "kind", "optimize", "stable", "subok"}
"""Keywords that change how NumPy computes and not what."""
UNSET = {"dtype", "out"}
"""Keywords for which None stands for "not given"; an axis of None is an axis."""
MAKE = {"astype", "zeros_like", "ones_like", "empty_like", "full_like"}
"""Functions that look at their dtype themselves."""
WRITERS = {"copyto", "fill_diagonal", "putmask", "add.at", "subtract.at"}
"""Functions that write into their first argument."""


def call(name: str, op: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs the op with NumPy's arguments, the float arrays among them in one dtype, as NumPy would."""
    given = {
        k: v
        for k, v in kwargs.items()
        if k not in IGNORED and v is not host._NoValue and not (v is None and k in UNSET)
    }
    out = given.pop("out", None)
    if isinstance(out, tuple):
        (out,) = out
    dtype = given.pop("dtype", None) if name not in MAKE else None
    try:
        result = op(*promoted(args), **given)
        if dtype is not None and isinstance(result, Tensor):
            result = ops.astype(result, host.dtype(dtype))
        if out is not None:
            if isinstance(out, Tensor) or on_tape(result):
                written(out)[...] = result
            else:
                xp.copyto(out, as_raw(result))
            return out
    except (TypeError, ValueError) as error:
        unknown_form = "unexpected keyword" in str(error) or "positional argument" in str(error)
        words = f"on Tensors this form of the call is not known: {error}" if unknown_form else str(error)
        raise error if words.startswith("np.") else type(error)(f"np.{name}: {words}") from error
    return plain(result)


def array_ufunc(self: Tensor, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """`Tensor.__array_ufunc__`."""
    name = ufunc.__name__.removeprefix("cupy_")
    full = name if method == "__call__" else f"{name}.{method}"
    kwargs.pop("order", None)
    if ufunc.nin == 1 and of_integers(full, args, kwargs):  # what has two operands is an operator, and as minigrad's
        return own(ufunc, args, kwargs)
    if method == "reduce" and name in REDUCED:
        kwargs.setdefault("axis", 0)
        return call(full, FUNCTIONS[REDUCED[name]], args, kwargs)
    if method == "accumulate" and name in UFUNCS:
        along = ops.cumsum if name == "add" else accumulated(UFUNCS[name])
        return call(full, along, (*args, kwargs.pop("axis", 0)), kwargs)
    if method == "outer" and name in UFUNCS:
        a, b = map(as_array, args)
        return call(full, UFUNCS[name], (ops.reshape(a, (*a.shape, *(1,) * b.ndim)), b), kwargs)
    if method == "at" and name in ("add", "subtract"):
        return call(full, at(name), args, kwargs)
    if method == "__call__" and name in UFUNCS:
        mask = kwargs.pop("where", True)
        if mask is True:
            return call(full, UFUNCS[name], operands(args), kwargs)
        return call(full, _masked(name, mask, kwargs.get("out")), args, kwargs)
    return otherwise(full, getattr(ufunc, method), args, kwargs)


def _masked(name: str, mask: Any, out: Any) -> Function:
    """An elementwise function with `where`: what it leaves out is what was in `out`."""
    if out is None:
        raise TypeError(
            f"np.{name}: where= leaves the rest undefined without out=; use np.where(mask, np.{name}(...), rest)"
        )
    return lambda *args: where(mask, UFUNCS[name](*args), *out)


def array_function(self: Tensor, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`Tensor.__array_function__`."""
    module = function.__module__.removeprefix("numpy").lstrip(".")
    name = f"{module}.{function.__name__}" if module and not module.startswith("_") else function.__name__
    if of_integers(name, args, kwargs):
        return own(function, args, kwargs)
    if name in FUNCTIONS:
        return call(name, FUNCTIONS[name], args, kwargs)
    return otherwise(name, function, args, kwargs)


def otherwise(name: str, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function that is not in the tables: NumPy's own, of values through which no gradient flows."""
    if name not in CONSTANT and on_tape((args, kwargs)):
        raise TypeError(unknown(name))
    result = function(*as_values(args), **{key: as_values(value) for key, value in kwargs.items()})
    return Tensor(xp.asarray(result)) if isinstance(result, host.ndarray) and result.dtype.kind == "f" else result


def of_integers(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function is given integers and truth values alone, of which no gradient is: then it is NumPy's own."""
    return name not in WRITERS and kwargs.get("out") is None and is_discrete((args, *kwargs.values()))


def own(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """NumPy's own function of the arrays of Tensors."""
    result = function(*as_raw(args), **{key: as_raw(value) for key, value in kwargs.items()})
    return plain(Tensor(xp.asarray(result))) if is_array(result) or is_scalar(result) else result


def unknown(name: str) -> str:
    """The message for a function that the tape cannot see through."""
    instead = INSTEAD.get(name) or INSTEAD.get(name.split(".")[0])
    return (
        f"np.{name}: the tape cannot see through this NumPy function. "
        + (f"Instead, {instead}; or" if instead else "Write it with functions that have a derivative here,")
        + " give it one with mg.primitive, or pass t.numpy() where no gradient is meant to flow"
    )


def array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Any:
    """`Tensor.__array__`: constants are arrays; a Tensor on the tape would lose its history silently, and raises."""
    if self.node is not None:
        raise TypeError(
            "np.asarray (or np.array, an assignment into a NumPy array, a.dot(t), a list of Tensors): "
            f"the {self.dtype} {list(self.shape)} Tensor{f' {self.label!r}' if self.label else ''} is on the tape, and "
            "as an array it would leave it unseen. Join Tensors with np.stack or np.concatenate; write a @ t for "
            "a.dot(t); make the array that is written into with np.zeros or np.array in the function that is checked; "
            "keep to NumPy functions of the Tensor, or say t.numpy() where no gradient is meant to flow"
        )
    values = self.numpy()
    return values if dtype is None else values.astype(dtype)
