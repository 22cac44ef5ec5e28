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

from minigrad.backend import numpy as host
from minigrad.backend import xp
from minigrad.numpy_protocol.promotion import Function
from minigrad.tensor import Tensor

MAKERS = ("zeros", "ones", "empty", "full")
"""What makes an array that is filled afterwards."""


def _tracked(maker: Function) -> Function:
    """The NumPy function, its floating arrays as Tensors: what is written into them can be recorded."""

    def make(*args: Any, **kwargs: Any) -> Any:
        made = maker(*args, **kwargs)
        return Tensor(xp.asarray(made)) if isinstance(made, host.ndarray) and made.dtype.kind == "f" else made

    return make


def changed() -> dict[str, Any]:
    """The names of NumPy's that mean something else in the copy."""
    return {name: _tracked(getattr(host, name)) for name in MAKERS}


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
