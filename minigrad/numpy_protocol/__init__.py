"""NumPy's own functions, called on Tensors: the tape records them as minigrad's.

NumPy asks an argument that is no array of its own, through `__array_ufunc__` and `__array_function__`,
what a function should do with it. `tables` answers: the name of a NumPy function, and what means the same
here (an op, or a composition of ops in `reductions`, `products`, `arrangements`). So a forward function full
of `np.mean` and `np.sqrt` runs on Tensors unchanged, also where an array stands on the left of an operator.
What the tape could not see (a function that is not in the tables, `np.asarray`) raises in `dispatch` and
names the call: nothing is silently left out of a gradient. What NumPy does not ask about is one number, which
it reads as `float(t)` does: `a[i] = t`, for one element of an array, and `a.fill(t)`.

`writable` goes further, for code that is to be studied rather than written: inside it the code sees a copy of
NumPy in which the arrays that it makes are Tensors (`namespace`), and they have the methods of arrays
(`methods`) and are written into as arrays are (`writing`).

All this is imported when NumPy asks for the first time: a program of minigrad's own functions does without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from minigrad import ops
from minigrad.tensor import Tensor

if TYPE_CHECKING:
    from minigrad.numpy_protocol.writing import assigned, writable

METHODS = {
    "__array__": ("dispatch", "array"), "__array_function__": ("dispatch", "array_function"),
    "__array_ufunc__": ("dispatch", "array_ufunc"), "copy": ("arrangements", "copied"), "dot": ("products", "dot"),
    "ravel": ("arrangements", "ravel"),
}  # fmt: skip
"""NumPy's protocols, and the methods of arrays that ops do not bring along: where they are found."""

__all__ = ["assigned", "writable"]


def _attach(method: str, module: str, name: str) -> None:
    """Gives Tensor a method that puts the real one into its place when it is called for the first time."""

    def first(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        found = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        if vars(Tensor).get(method) is first:
            setattr(Tensor, method, found)
        return found(self, *args, **kwargs)

    first.__name__, first.__doc__ = method, f"As NumPy's {method}."
    setattr(Tensor, method, first)


for _method, (_module, _name) in METHODS.items():
    _attach(_method, _module, _name)
Tensor.__pos__ = ops.alias  # type: ignore[attr-defined, operator]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.writing"), name)
