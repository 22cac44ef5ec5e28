"""The methods and attributes of NumPy's arrays, on Tensors, while a user's code is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.backend import numpy as host
from minigrad.backend import to_numpy
from minigrad.numpy_protocol import arrangements as arranged
from minigrad.numpy_protocol.dispatch import call
from minigrad.numpy_protocol.promotion import Function, plain
from minigrad.numpy_protocol.tables import FUNCTIONS, UFUNCS
from minigrad.tensor import Tensor, Versioned

NUMPYS = {
    "a_max", "a_min", "casting", "copy", "correction", "dtype", "initial", "max", "mean", "min", "mode", "order", "out",
    "subok", "where",
}  # fmt: skip
"""Keywords of NumPy's methods that those of Tensors do not have."""


def either(name: str, method: Function) -> Function:
    """A method of Tensors that takes NumPy's arguments too: those that only an array's method has tell which."""
    numpys: Function = FUNCTIONS["ravel" if name == "flatten" else name]

    def run(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.keys() & NUMPYS or any(isinstance(a, (str, type, host.dtype, list)) or a is None for a in args):
            return call(name, numpys, (self, *args), kwargs)
        return plain(method(self, *args, **kwargs))

    return run


def as_method(name: str) -> Function:
    """A function of NumPy's that arrays have as a method."""
    function = FUNCTIONS.get(name) or UFUNCS[name]
    return lambda self, *args, **kwargs: call(name, function, (self, *args), kwargs)


def _fill(self: Tensor, value: Any) -> None:
    self[...] = value


def _item(item: Function) -> Function:
    def read(self: Tensor, *at: Any) -> Any:
        place = at[0] if len(at) == 1 and isinstance(at[0], tuple) else at
        return item(self if not at else ops.getitem(self if len(place) > 1 else ops.reshape(self, -1), place))

    return read


def _copied(self: Tensor, memo: Any = None) -> Tensor:
    """Python's copy of an array keeps the history; a Parameter's is another Parameter."""
    make, arguments = self.__reduce__() if isinstance(self, Versioned) else (ops.alias, (self,))
    return make(*arguments)


def _format(self: Tensor, how: str) -> str:
    return format(to_numpy(self.data)[()], how)


BOTH = (
    "all", "any", "argmax", "argmin", "argsort", "astype", "clip", "cumsum", "diagonal", "flatten", "max", "mean",
    "min", "prod", "ravel", "repeat", "reshape", "round", "squeeze", "std", "sum", "trace", "transpose", "var",
)  # fmt: skip
"""What Tensors and arrays have in common."""

ADDED: dict[str, Any] = {name: as_method(name) for name in ("cumprod", "dot", "take")} | {
    "__copy__": _copied,
    "__deepcopy__": _copied,
    "__divmod__": lambda a, b: UFUNCS["divmod"](a, b),
    "__format__": _format,
    "__rdivmod__": lambda a, b: UFUNCS["divmod"](b, a),
    "__round__": lambda self, decimals=0: ops.round(self, decimals),
    "conj": ops.alias,
    "conjugate": ops.alias,
    "copy": arranged.copied,
    "fill": _fill,
    "flat": property(lambda self: self.reshape(-1)),
    "imag": property(lambda self: self * 0),
    "itemsize": property(lambda self: self.data.itemsize),
    "nbytes": property(lambda self: self.data.nbytes),
    "real": property(lambda self: self),
}
"""What arrays have and Tensors have not, or mean otherwise."""


def of_arrays(before: Callable[[str], Any]) -> dict[str, Any]:
    """The methods by name. before: of a name, the method that Tensors have."""
    return ADDED | {name: either(name, before(name)) for name in BOTH} | {"item": _item(before("item"))}
