"""NumPy's own functions, called on Tensors: the tape records them as minigrad's.

NumPy asks an argument that is no array of its own, through `__array_ufunc__` and `__array_function__`,
what a function should do with it. The tables below answer: the name of a NumPy function, and the
minigrad op of the same meaning. So a forward function full of `np.mean` and `np.sqrt` runs on Tensors
unchanged, also where an array stands on the left of an operator. What the tape could not see (a
function that is not in the tables, `np.asarray`, `out=`) raises and names the call: nothing is
silently left out of a gradient.

`writable` goes further, for code that is to be studied rather than written: inside it, arrays that
the code makes and fills (`out = np.zeros(...)`, `out[i] = ...`) are Tensors, and each assignment is
recorded as the selection that it is.
"""

from __future__ import annotations

from minigrad import ops
from minigrad.numpy_protocol.dispatch import array, array_function, array_ufunc
from minigrad.numpy_protocol.products import dot
from minigrad.numpy_protocol.writing import assigned, writable
from minigrad.tensor import Tensor


def _attach() -> None:
    """Gives Tensor NumPy's protocols, and the methods of arrays that ops do not bring along."""
    Tensor.__array_ufunc__ = array_ufunc  # type: ignore[attr-defined]
    Tensor.__array_function__ = array_function  # type: ignore[attr-defined]
    Tensor.__array__ = array  # type: ignore[attr-defined]
    Tensor.__pos__ = ops.alias  # type: ignore[attr-defined, operator]
    Tensor.copy = ops.alias  # type: ignore[attr-defined]
    Tensor.dot = dot  # type: ignore[attr-defined]
    Tensor.ravel = lambda self, order="C": ops.reshape(self, -1)  # type: ignore[attr-defined]


_attach()

__all__ = ["assigned", "writable"]
