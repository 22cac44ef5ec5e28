"""Forward functions on raw arrays that do not fit on a line of the table: products, softmax, erf, scatter.

They know nothing of the tape; each is the forward function (or part of it) of a row in `ops`, and
what they have in common is that they talk to `xp` alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minigrad import parallel
from minigrad.backend import Array, host_array, xp
from minigrad.sums import line_of, total

Pair = tuple[int, int]


FEW = 2048
"""Elements up to which the library's way to a view takes longer than making an array."""


def spread(x: Array, shape: tuple[int, ...]) -> Array:
    """x broadcast to a shape; where no axis is stretched, a view that can be written to."""
    size = math.prod(shape)
    if size > FEW or x.ndim > len(shape):
        y = xp.broadcast_to(x, shape)
        return x.reshape(shape) if x.size == size else y
    y = xp.empty(shape, x.dtype)
    y[...] = x
    return y


def norm(x: Array, axis: Any, keepdims: bool) -> Array:
    """sqrt(sum(x * x)), scaled by a power of two, which costs no digits, so that no square overflows."""
    if x.dtype.kind != "f" or not x.size:
        return xp.sqrt((x * x).sum(axis=axis, keepdims=keepdims))
    top = xp.max(xp.abs(x), axis=axis, keepdims=True)
    exponent = xp.frexp(xp.where(xp.isfinite(top), top, xp.ones((), x.dtype)))[1]
    y = xp.ldexp(x, -exponent)
    y = xp.ldexp(xp.sqrt(total(y * y, axis, True)), exponent)
    return y if keepdims else y.reshape(()) if axis is None else xp.squeeze(y, axis=axis)


PRODUCT = 1 << 18
"""Multiplications from which on BLAS would use threads of its own."""

PRODUCT_BLOCK = 1 << 23
"""Multiplications of one block of a large product: some tenths of a millisecond."""

ROWS = 6
"""The fewest rows of a product that are worth a call of BLAS."""


def matmul(a: Array, b: Array) -> Array:
    """The matrix product over the last two axes; a large one in blocks, of the batch or else of rows or columns."""
    if a.__class__ is not host_array or b.__class__ is not host_array or min(a.ndim, b.ndim) < 2:
        return xp.matmul(a, b)
    products = a.size * b.shape[-1] if a.ndim >= b.ndim else b.size * a.shape[-2]
    if products < PRODUCT:
        return xp.matmul(a, b)
    with parallel.one_blas_thread:
        axis = 0 if a.ndim > 2 or a.shape[0] >= b.shape[-1] else 1
        n = b.shape[1] if axis else a.shape[0]
        step = -(-n * PRODUCT_BLOCK // products)
        plain = a.ndim == b.ndim and (a.ndim == 2 or a.shape[0] == b.shape[0]) and a.dtype == b.dtype
        if not plain or a.shape[-1] != b.shape[-2]:
            return xp.matmul(a, b)
        if step >= n:
            count = parallel.pieces_of(a.shape[1] * b.shape[1], len(a), ROWS) if a.ndim == 2 else 1
            if count == 1:
                return xp.matmul(a, b)
            return xp.matmul(a.reshape(count, len(a) // count, -1), b).reshape(len(a), -1)
        y = xp.empty((*xp.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)
        cuts = [slice(i, min(i + step, n)) for i in range(0, n, step)]

        def work(number: int) -> None:
            cut = cuts[number]
            if axis:
                xp.matmul(a, b[:, cut], out=y[:, cut])
            else:
                xp.matmul(a[cut], b if b.ndim == 2 else b[cut], out=y[cut])

        parallel.each(len(cuts), work)
        return y


def einsum(*given: Any) -> Array:
    """Einstein's summation of operands, which the equation follows."""
    *operands, equation = given
    return xp.einsum(equation, *operands, optimize=len(operands) > 1)


def floating(x: Array) -> Array:
    """Integers as float32, for what is computed with differences or signs, which unsigned ones have not."""
    return x.astype(xp.float32) if x.dtype.kind in "biu" else x


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    x = floating(x)
    if x.dtype.kind == "c":
        return xp.log1p(xp.exp(x))
    y = xp.log1p(xp.exp(-xp.abs(x)))
    return y + xp.maximum(x, 0)


def limit(x: Array, bound: float) -> Array:
    """The bound, in a form with which NumPy compares x faster than with a number: a line, unless it would be long."""
    short = x.__class__ is host_array and x.ndim and x.shape[-1] <= 1 << 16
    return line_of(bound, x.shape[-1], x.dtype) if short else bound


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return xp.maximum(x, limit(x, 0))


def sigmoid(x: Array) -> Array:
    """exp(x) / (1 + exp(x)), with x held where exp does not overflow: all digits on either side."""
    if x.dtype.kind != "c":
        x = xp.minimum(x, limit(x, _LOG_OF_LARGEST.get(x.dtype.char, 709.0)))
    y = xp.exp(x)
    return y / (1 + y)


_LOG_OF_LARGEST = {"e": 11.0, "f": 88.0}
"""Where exp comes close to the largest number of float16 and float32 (709 for float64)."""


# Where a function has no complex form in the library, its continuation from the real line stands in: it is
# what the checker's complex step needs.
def _is_complex(x: Array) -> bool:
    return x.__class__ is xp.ndarray and x.dtype.kind == "c"


def magnitude(x: Array) -> Array:
    """|x|; of complex numbers near the real line its continuation, +x or -x."""
    return xp.where(x.real < 0, -x, x) if _is_complex(x) else xp.abs(x)


def exp2(x: Array) -> Array:
    """2^x."""
    return xp.exp(x * math.log(2)) if _is_complex(x) else xp.exp2(x)


def arctan2(a: Array, b: Array) -> Array:
    """The angle of the point (b, a); to first order in imaginary parts."""
    if not _is_complex(a) and not _is_complex(b):
        return xp.arctan2(a, b)
    turn = (b.real * a.imag - a.real * b.imag) / (a.real * a.real + b.real * b.real)
    return xp.arctan2(a.real, b.real) + 1j * turn


# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969).
_SMALL_P = (3.16112374387056560e00, 1.13864154151050156e02, 3.77485237685302021e02, 3.20937758913846947e03)
_SMALL_Q = (2.36012909523441209e01, 2.44024637934444173e02, 1.28261652607737228e03, 2.84423683343917062e03)
_SMALL_LEAD = 1.85777706184603153e-1
_MIDDLE_P = (
    5.64188496988670089e-1, 8.88314979438837594e00, 6.61191906371416295e01, 2.98635138197400131e02,
    8.81952221241769090e02, 1.71204761263407058e03, 2.05107837782607147e03, 1.23033935479799725e03,
)  # fmt: skip
_MIDDLE_LEAD = 2.15311535474403846e-8
_MIDDLE_Q = (
    1.57449261107098347e01, 1.17693950891312499e02, 5.37181101862009858e02, 1.62138957456669019e03,
    3.29079923573345963e03, 4.36261909014324716e03, 3.43936767414372164e03, 1.23033935480374942e03,
)  # fmt: skip
_LARGE_P = (
    3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1, 1.60837851487422766e-2,
    6.58749161529837803e-4,
)  # fmt: skip
_LARGE_LEAD = 1.63153871373020978e-2
_LARGE_Q = (
    2.56852019228982242e00, 1.87295284992346047e00, 5.27905102951428412e-1, 6.05183413124413191e-2,
    2.33520497626869185e-3,
)  # fmt: skip


def _ratio(z: Array, lead: float, p: Sequence[float], q: Sequence[float]) -> Array:
    above, below = lead * z, z
    for a, b in zip(p[:-1], q[:-1], strict=True):
        above, below = (above + a) * z, (below + b) * z
    return (above + p[-1]) / (below + q[-1])


def erf(x: Array) -> Array:
    """The error function (Cody 1969), to rounding in float64."""
    if x.dtype.kind == "c":  # the first-order continuation: exact for the tiny imaginary parts of a complex step
        re = x.real
        return erf(re) + 1j * x.imag * (2 / math.sqrt(math.pi)) * xp.exp(-re * re)
    wide = x.astype(xp.float64)
    y = xp.where(xp.abs(wide) <= 0.46875, _erf_near_zero(wide), xp.copysign(1 - _erfc_of_size(wide), wide))
    return y.astype(x.dtype if x.dtype.kind == "f" else xp.float32)


def erfc(x: Array) -> Array:
    """1 - erf(x), with all its digits where erf is close to 1."""
    if x.dtype.kind == "c":
        return 1 - erf(x)
    wide = x.astype(xp.float64)
    tail = _erfc_of_size(wide)
    y = xp.where(xp.abs(wide) <= 0.46875, 1 - _erf_near_zero(wide), xp.where(wide < 0, 2 - tail, tail))
    return y.astype(x.dtype if x.dtype.kind == "f" else xp.float32)


def _erf_near_zero(x: Array) -> Array:
    """erf(x) for |x| <= 0.46875."""
    small = xp.minimum(xp.abs(x), 0.46875)
    return x * _ratio(small * small, _SMALL_LEAD, _SMALL_P, _SMALL_Q)


def _erfc_of_size(x: Array) -> Array:
    """erfc(|x|) for |x| > 0.46875."""
    size = xp.abs(x)
    middle = xp.clip(size, 0.46875, 4.0)
    large = xp.clip(size, 4.0, 28.0)
    inverse = 1.0 / (large * large)
    far = (1 / math.sqrt(math.pi) - inverse * _ratio(inverse, _LARGE_LEAD, _LARGE_P, _LARGE_Q)) / large
    held = xp.minimum(size, 28.0)  # where exp(-x^2) is 0
    coarse = xp.trunc(held * 16) / 16  # exp(-x^2) in two factors: the square of a number of few bits is exact
    bell = xp.exp(-coarse * coarse) * xp.exp(-(held - coarse) * (held + coarse))
    return bell * xp.where(size <= 4.0, _ratio(middle, _MIDDLE_LEAD, _MIDDLE_P, _MIDDLE_Q), far)


def is_basic(index: Any) -> bool:
    """Whether an index selects every element at most once by its form alone (no integer arrays in it)."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts)


def scatter(g: Array, shape: tuple[int, ...], index: Any) -> Array:
    """Zeros of `shape` with g added at `index`; repeated indices add up."""
    out = xp.zeros(shape, g.dtype)
    if is_basic(index):
        out[index] = g
    elif all(p.dtype == bool for p in (index if isinstance(index, tuple) else (index,)) if isinstance(p, xp.ndarray)):
        out[index] = g  # a mask selects each element once
    elif g.dtype.char == "e":  # many small halves lose digits: add them up in single precision
        return scatter(g.astype(xp.float32), shape, index).astype(g.dtype)
    elif g.dtype.kind in "iu":  # CuPy adds integers of 64 bits as unsigned ones alone: the same bits
        bits = xp.zeros(shape, xp.uint64)
        xp.add.at(bits, index, g.astype(xp.int64).view(xp.uint64))
        return bits.view(xp.int64).astype(g.dtype)
    elif g.dtype.kind == "c":
        return scatter(g.real, shape, index) + 1j * scatter(g.imag, shape, index)
    else:
        xp.add.at(out, index, g)
    return out


def framed(x: Array, width: Sequence[Pair], value: float) -> Array:
    """x in a frame of `value`, `width` = (before, after) for each axis."""
    out = xp.full(tuple(a + n + b for n, (a, b) in zip(x.shape, width, strict=True)), value, x.dtype)
    out[tuple(slice(a, a + n) for n, (a, b) in zip(x.shape, width, strict=True))] = x
    return out


def along(index: Array, lengths: Sequence[int], axis: int) -> tuple[Any, ...]:
    """`index` as an advanced index that counts up to `lengths` along every axis but `axis`."""
    counting = steps(lengths)
    return (*counting[:axis], index, *counting[axis + 1 :])


def steps(lengths: Sequence[int]) -> list[Array]:
    """For each axis its numbers from 0 on, in a shape that broadcasts along the others."""
    ndim = len(lengths)
    return [xp.arange(n).reshape([n if i == d else 1 for i in range(ndim)]) for d, n in enumerate(lengths)]


def ties(x: Array, axis: Any) -> Array:
    """For each element its share of the maximum along `axis`: 1, or 1/k where k elements tie. NaN wins."""
    top = x.max(axis=axis, keepdims=True)
    at_top = (x == top) | ((x != x) & (top != top))
    return at_top.astype(x.dtype) / at_top.sum(axis=axis, keepdims=True).astype(x.dtype)


def inside(x: Array, low: float | None, high: float | None) -> Array:
    """Where low <= x <= high."""
    above = x >= low if low is not None else xp.ones(x.shape, bool)
    return above & (x <= high) if high is not None else above


def log_softmax(x: Array, axis: int) -> Array:
    """x - log(sum(exp(x))). The maximum is taken out of both terms: no digits are lost where scores are large."""
    x = floating(x)
    if not x.size:
        return x.copy()
    shifted = x - x.max(axis=axis, keepdims=True)
    shifted -= xp.log(total(xp.exp(shifted), axis, True))
    return shifted


def logsumexp(x: Array, axis: Any, keepdims: bool) -> Array:
    """log(sum(exp(x))), with the maximum taken out so that nothing overflows."""
    x = floating(x)
    top = x.max(axis=axis, keepdims=True) if x.size else total(x, axis, True)  # nothing has no maximum, and the sum 0
    top = xp.where(xp.isfinite(top), top, xp.zeros((), x.dtype))
    y = xp.log(total(xp.exp(x - top), axis, True)) + top
    return y if keepdims else xp.squeeze(y, axis=axis)


def explicit(equation: str, ndims: Sequence[int]) -> tuple[list[str], str]:
    """An einsum equation with its ellipses as letters and its output written out."""
    equation = equation.replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"einsum: {equation!r} has {len(terms)} terms for {len(ndims)} operands")
    used = set(equation)
    free = [c for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in used]
    longest = 0
    for term, ndim in zip(terms, ndims, strict=True):
        letters = len(term.replace("...", ""))
        if letters > ndim or (letters != ndim and "..." not in term):
            raise ValueError(f"einsum: {equation!r}: the term {term!r} does not fit an operand with {ndim} axes")
        longest = max(longest, ndim - letters)
    dots = "".join(free[:longest])
    written = []
    for term, ndim in zip(terms, ndims, strict=True):
        extra = ndim - len(term.replace("...", ""))
        written.append(term.replace("...", dots[longest - extra :]))
    if arrow and dots and "..." not in output:
        raise ValueError(f"einsum: {equation!r}: the axes under '...' must stand in the output as well: '...'")
    if arrow:
        output = output.replace("...", dots)
    else:
        used_letters = "".join(terms).replace(".", "")
        output = dots + "".join(sorted(c for c in set(used_letters) if used_letters.count(c) == 1))
    if bad := [c for c in "".join(written) + output if not c.isalpha()]:
        raise ValueError(f"einsum: {equation!r} holds {bad[0]!r}; terms are letters and '...'")
    if lost := [c for c in output if not any(c in term for term in written) or output.count(c) > 1]:
        raise ValueError(
            f"einsum: {equation!r}: the output's {lost[0]!r} must stand in an input, and once in the output"
        )
    return written, output
