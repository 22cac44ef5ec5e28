"""NumPy's products and its linear algebra. Inverse, solution and determinant are rows: exact at every order."""

# mypy: disable-error-code=has-type
# (A pullback may ask for a row that stands further down.)

from __future__ import annotations

from collections import namedtuple
from typing import Any

from minigrad import ops
from minigrad.backend import xp
from minigrad.numpy_protocol.promotion import as_array
from minigrad.ops import Axis
from minigrad.primitive import discrete, name_rows, primitive

# fmt: off
inv       = primitive(lambda x: xp.linalg.inv(x),         lambda g, y: -ops.matmul(ops.mT(y), ops.matmul(g, ops.mT(y))))
solve_    = primitive(lambda a, b: xp.linalg.solve(a, b), lambda g, a, y: -ops.matmul(solve_(ops.mT(a), g), ops.mT(y)),
                                                          lambda g, a: solve_(ops.mT(a), g))
det       = primitive(lambda x: xp.linalg.det(x),         lambda g, x, y: scaled(g * y, ops.mT(inv(x))))
logabsdet = primitive(lambda x: xp.linalg.slogdet(x)[1],  lambda g, x: scaled(g, ops.mT(inv(x))))
signdet   = discrete(lambda x: xp.linalg.slogdet(x)[0])
# fmt: on


def scaled(g: Any, matrices: Any) -> Any:
    """Each matrix of a stack times its number."""
    return ops.reshape(g, (*g.shape, 1, 1)) * matrices


name_rows(globals())

Slogdet = namedtuple("Slogdet", ["sign", "logabsdet"])


def solve(a: Any, b: Any) -> Any:
    """The x of a x = b, for a vector or for matrices; stacks broadcast."""
    a, b = as_array(a), as_array(b)
    if b.ndim == 1:
        return ops.reshape(solve(a, ops.reshape(b, (-1, 1))), (*a.shape[:-2], -1))
    lead = xp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return solve_(ops.broadcast_to(a, lead + a.shape[-2:]), ops.broadcast_to(b, lead + b.shape[-2:]))


def slogdet(a: Any) -> Any:
    """Sign, which is a constant, and the logarithm of the determinant's size."""
    return Slogdet(signdet(a), logabsdet(a))


def matrix_power(a: Any, n: int) -> Any:
    if n <= 0:
        raise TypeError(f"np.linalg.matrix_power: the tape knows powers from 1 on, not {n}; use np.linalg.inv")
    return a if n == 1 else ops.matmul(a, matrix_power(a, n - 1))


def multi_dot(arrays: Any) -> Any:
    first, *rest = arrays
    for other in rest:
        first = dot(first, other)
    return first


def dot(a: Any, b: Any) -> Any:
    """NumPy's: numbers multiply, matrices matmul, and N-d sums over a's last and b's last axis but one."""
    a_ndim, b_ndim = getattr(a, "ndim", 0), getattr(b, "ndim", 0)
    if not a_ndim or not b_ndim:
        return ops.multiply(a, b)
    if b_ndim > 2:
        return ops.tensordot(a, b, ([a_ndim - 1], [b_ndim - 2]))
    return ops.matmul(a, b)


def inner(a: Any, b: Any) -> Any:
    return ops.tensordot(a, b, ([a.ndim - 1], [b.ndim - 1])) if a.ndim and b.ndim else ops.multiply(a, b)


def vdot(a: Any, b: Any) -> Any:
    return ops.sum(ops.reshape(a, -1) * ops.reshape(b, -1))


def kron(a: Any, b: Any) -> Any:
    """b in the place of each element of a, times it."""
    ndim = max(a.ndim, b.ndim)
    rows, columns = ((1,) * (ndim - x.ndim) + tuple(x.shape) for x in (a, b))
    apart = [
        ops.reshape(a, tuple(k for n in rows for k in (n, 1))),
        ops.reshape(b, tuple(k for n in columns for k in (1, n))),
    ]
    return ops.reshape(apart[0] * apart[1], tuple(n * m for n, m in zip(rows, columns, strict=True)))


def cross(a: Any, b: Any, *, axis: int = -1) -> Any:
    """Of vectors of three components."""
    if a.shape[axis] != 3 or b.shape[axis] != 3:
        raise TypeError(f"np.cross: the tape knows vectors of 3 components, not {list(a.shape)} and {list(b.shape)}")
    ahead, behind = (lambda x: ops.roll(x, -1, axis)), (lambda x: ops.roll(x, 1, axis))
    return ahead(a) * behind(b) - behind(a) * ahead(b)


def convolve(a: Any, v: Any, mode: str = "full") -> Any:
    """Of two vectors: the products that have the same sum of places, added up."""
    a, v = as_array(a), as_array(v)
    a, v = (a, v) if a.shape[0] >= v.shape[0] else (v, a)
    n, m = a.shape[0], v.shape[0]
    framed = ops.pad(a, (m - 1, m - 1))
    full = ops.matmul(ops.getitem(framed, xp.arange(n + m - 1)[:, None] + xp.arange(m)), ops.flip(v, 0))
    start, length = {"full": (0, n + m - 1), "same": ((m - 1) // 2, n), "valid": (m - 1, n - m + 1)}[mode]
    return ops.getitem(full, slice(start, start + length))


def correlate(a: Any, v: Any, mode: str = "valid") -> Any:
    a, v = as_array(a), as_array(v)
    if a.shape[0] < v.shape[0]:
        raise TypeError("np.correlate: the tape knows a first vector that is no shorter than the second")
    return convolve(a, ops.flip(v, 0), mode)


def polyval(p: Any, x: Any) -> Any:
    y = ops.multiply(x, 0)
    for coefficient in p:
        y = y * x + coefficient
    return y


def norm(x: Any, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Any:
    """Vector norms, and the Frobenius norm of matrices."""
    matrix = (axis is None and x.ndim == 2) or (isinstance(axis, tuple) and len(axis) == 2)
    if ord in (None, "fro") or (ord == 2 and not matrix):
        return ops.norm(x, 2, axis, keepdims)
    if matrix:
        raise TypeError(f"np.linalg.norm: the tape knows no {ord!r} norm of a matrix; only the Frobenius norm")
    return ops.norm(x, ord, axis, keepdims)


def vector_norm(x: Any, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Any:
    return ops.norm(x, ord, axis, keepdims)
