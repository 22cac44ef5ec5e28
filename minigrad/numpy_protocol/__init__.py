"""NumPy's own functions, called on Tensors: the tape records them as minigrad's.

NumPy asks an argument that is no array of its own, through `__array_ufunc__` and `__array_function__`,
what a function should do with it. `tables` answers: the name of a NumPy function, and what means the same
here (an op, or a composition of ops in `reductions`, `products`, `arrangements`). So a forward function full
of `np.mean` and `np.sqrt` runs on Tensors unchanged, also where an array stands on the left of an operator.
What the tape could not see (a function that is not in the tables, `np.asarray`) raises in `dispatch` and
names the call: nothing is silently left out of a gradient.

`writable` goes further, for code that is to be studied rather than written: inside it the code sees a copy of
NumPy in which the arrays that it makes are Tensors (`namespace`), and they have the methods of arrays
(`methods`) and are written into as arrays are (`writing`).
"""

from __future__ import annotations

from minigrad import ops
from minigrad.numpy_protocol.arrangements import copied, ravel
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
    Tensor.copy = copied  # type: ignore[attr-defined]
    Tensor.dot = dot  # type: ignore[attr-defined]
    Tensor.ravel = ravel  # type: ignore[attr-defined]


_attach()

__all__ = ["assigned", "writable"]
