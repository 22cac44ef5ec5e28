"""The NumPy that a user's code sees while it is recorded: a copy of the namespace, with a few names changed.

The copy stands in the user's modules, wherever NumPy stood, and is taken out again. NumPy's own namespace
stays as it is: compiled code (all of np.random) looks its functions up there, without a line of Python in
between, and writes to the memory of what it gets as to an array's.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from minigrad import ops
from minigrad.backend import numpy as host
from minigrad.backend import xp
from minigrad.numpy_protocol.arrangements import joined_in_brackets
from minigrad.numpy_protocol.dispatch import call, unknown
from minigrad.numpy_protocol.promotion import Function, as_array, holds_tensor
from minigrad.numpy_protocol.tables import FUNCTIONS
from minigrad.tensor import Tensor

MAKERS = (
    "arange", "copy", "empty", "empty_like", "eye", "full", "full_like", "identity", "linspace", "ones", "ones_like",
    "zeros", "zeros_like",
)  # fmt: skip
"""What makes an array that may be filled afterwards."""


def _tracked(maker: Function) -> Function:
    """The NumPy function, its floating arrays as Tensors: what is written into them can be recorded."""

    def make(*args: Any, **kwargs: Any) -> Any:
        made = maker(*args, **kwargs)
        return Tensor(xp.asarray(made)) if isinstance(made, host.ndarray) and made.dtype.kind == "f" else made

    return make


def _array(maker: Function, copies: bool) -> Function:
    """np.array (which copies) or np.asarray, also of a Tensor, and of lists with Tensors in them."""
    tracked = _tracked(maker)

    def make(a: Any, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not holds_tensor(a):
            return (tracked if copies or isinstance(a, list) else maker)(a, dtype, *args, **kwargs)
        t = as_array(a)
        if dtype is not None and t.dtype != dtype:
            return ops.astype(t, host.dtype(dtype))
        return ops.alias(t) if copies and t is a else t

    return make


def _of_lists(name: str) -> Function:
    """A function of the tables that also takes, where it asks for an array, a list with Tensors in it."""
    original = getattr(host, name)

    @functools.wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], (list, tuple)) and holds_tensor(args[0]):
            return call(name, FUNCTIONS[name], (as_array(args[0]), *args[1:]), kwargs)
        return original(*args, **kwargs)

    return run


def _refusing(name: str, function: Function) -> Function:
    """A function that would take a Tensor apart."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if holds_tensor(args):
            raise TypeError(unknown(name))
        return function(*args, **kwargs)

    return run


class _Arrays(type):
    """The class of np.ndarray in the copy: to a user's isinstance(x, np.ndarray) a Tensor is an array."""

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, (host.ndarray, Tensor))

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, (host.ndarray, Tensor))


OF_ARRAYS = (
    "all", "any", "argmax", "argmin", "argsort", "average", "clip", "cumsum", "diff", "dot", "max", "mean", "median",
    "min", "outer", "prod", "reshape", "sort", "std", "sum", "transpose", "var",
)  # fmt: skip


@functools.cache
def changed() -> dict[str, Any]:
    """The names of NumPy's that mean something else in the copy."""
    made = {name: _tracked(getattr(host, name)) for name in MAKERS}
    made |= {name: _of_lists(name) for name in OF_ARRAYS}
    made |= {name: _array(getattr(host, name), False) for name in ("asarray", "asanyarray", "ascontiguousarray")}
    return made | {
        "array": _array(host.array, True),
        "c_": joined_in_brackets(host.c_),
        "ndarray": _Arrays("ndarray", (host.ndarray,), {}),
        "nditer": _refusing("nditer", host.nditer),
        "r_": joined_in_brackets(host.r_),
        "vectorize": lambda *args, **kwargs: _refusing("vectorize", host.vectorize(*args, **kwargs)),
    }


@contextlib.contextmanager
def shown(is_theirs: Callable[[str], bool], *functions: Any) -> Iterator[None]:
    """Inside this block the user's modules, and those of the given functions, find the copy where NumPy was.

    Also what they took from it by name (`from numpy import zeros`), and what they import in the meantime.
    """
    copy, new = ModuleType(host.__name__), changed()
    copy.__dict__.update(vars(host) | new)
    pairs = [(host, copy), *((getattr(host, name), value) for name, value in new.items())]
    plain_import = builtins.__import__

    def imported(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        module = plain_import(name, globals, locals, fromlist, level)
        ours = module is host and globals is not None and _holds_theirs(is_theirs, globals)
        return copy if ours else module

    try:
        builtins.__import__ = imported
        _replace({id(theirs): ours for theirs, ours in pairs}, is_theirs, functions)
        yield
    finally:
        builtins.__import__ = plain_import
        _replace({id(ours): theirs for theirs, ours in pairs}, is_theirs, functions)
        copy.__dict__.update(vars(host))  # for who kept it


def _replace(values: dict[int, Any], is_theirs: Callable[[str], bool], functions: tuple[Any, ...]) -> None:
    """Puts other values, by the id of those that stand there, into the global names of the user's modules."""
    for names in [*_spaces(is_theirs, len(sys.modules)), *map(_globals, functions)]:
        for name, value in list(names.items()):
            if id(value) in values:
                names[name] = values[id(value)]


@functools.lru_cache(maxsize=4)
def _spaces(is_theirs: Callable[[str], bool], modules: int) -> list[dict[str, Any]]:
    """The global names of the user's modules, looked through again whenever their number is another."""
    spaces = [(name, getattr(module, "__dict__", {})) for name, module in list(sys.modules.items())]
    return [
        names
        for name, names in spaces
        if (name == "__main__" or "__file__" in names) and _holds_theirs(is_theirs, names)
    ]


def _holds_theirs(is_theirs: Callable[[str], bool], names: dict[str, Any]) -> bool:
    return is_theirs(names.get("__file__") or "")


def _globals(function: Any) -> dict[str, Any]:
    """The global names of a function, a method, a partial function or an object that can be called."""
    while hasattr(function, "func"):
        function = function.func
    if not hasattr(function, "__globals__"):
        function = type(function).__call__
    return getattr(function, "__globals__", {})
