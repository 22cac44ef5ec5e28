"""Forward functions on raw arrays that do not fit on a line of the table: convolution, scatter, erf.

They know nothing of the tape; each is the forward function (or part of it) of a row in `ops`, and
what they have in common is that they talk to `xp` alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minigrad.backend import Array, xp

Pair = tuple[int, int]


def total(x: Array, axis: Any, keepdims: bool) -> Array:
    """The sum; half precision is added up in single precision, as the mean of it is."""
    if x.dtype.char == "e":
        return x.sum(axis=axis, keepdims=keepdims, dtype=xp.float32).astype(x.dtype)
    return x.sum(axis=axis, keepdims=keepdims)


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sums over the axes along which an array of `shape` was broadcast to x.shape."""
    lead = x.ndim - len(shape)
    stretched = tuple(i + lead for i, n in enumerate(shape) if n == 1 and x.shape[i + lead] != 1)
    return total(x, tuple(range(lead)) + stretched, False).reshape(shape)


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) without overflow."""
    return xp.logaddexp(x, xp.zeros((), x.dtype)) if x.dtype.kind != "c" else xp.log1p(xp.exp(x))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, which does not overflow."""
    y = xp.tanh(x * 0.5)
    y *= 0.5
    y += 0.5
    return y


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
_LARGE_P = (3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4)
_LARGE_LEAD = 1.63153871373020978e-2
_LARGE_Q = (2.56852019228982242e00, 1.87295284992346047e00, 5.27905102951428412e-1, 6.05183413124413191e-2, 2.33520497626869185e-3)


def _ratio(z: Array, lead: float, p: Sequence[float], q: Sequence[float]) -> Array:
    above, below = lead * z, z
    for a, b in zip(p[:-1], q[:-1], strict=True):
        above, below = (above + a) * z, (below + b) * z
    return (above + p[-1]) / (below + q[-1])


def erf(x: Array) -> Array:
    """The error function, to rounding in float64 (Cody 1969, in three ranges)."""
    if x.dtype.kind == "c":  # the first-order continuation: exact for the tiny imaginary parts of a complex step
        re = x.real
        return erf(re) + 1j * x.imag * (2 / math.sqrt(math.pi)) * xp.exp(-re * re)
    dtype = x.dtype
    if dtype.kind != "f":
        dtype = xp.float32
    x = x.astype(xp.float64)
    size = xp.abs(x)
    small = xp.minimum(size, 0.46875)
    near = x * _ratio(small * small, _SMALL_LEAD, _SMALL_P, _SMALL_Q)
    middle = xp.clip(size, 0.46875, 4.0)
    tail = xp.exp(-middle * middle) * _ratio(middle, _MIDDLE_LEAD, _MIDDLE_P, _MIDDLE_Q)
    large = xp.clip(size, 4.0, 6.0)
    inverse = 1.0 / (large * large)
    far = inverse * _ratio(inverse, _LARGE_LEAD, _LARGE_P, _LARGE_Q)
    far = xp.exp(-large * large) * (1 / math.sqrt(math.pi) - far) / large
    complement = xp.where(size <= 4.0, tail, far)
    y = xp.where(size <= 0.46875, near, xp.copysign(1.0 - complement, x))
    return xp.where(xp.isnan(x), x, y).astype(dtype)


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
    else:
        xp.add.at(out, index, g)
    return out


def along(index: Array, shape: tuple[int, ...], axis: int) -> tuple[Any, ...]:
    """The advanced index under which x[...] is take_along_axis(x, index, axis), for x of `shape`."""
    parts: list[Any] = []
    for d, n in enumerate(shape):
        length = index.shape[d]
        steps = xp.arange(length) if length == n or length != 1 else xp.zeros(1, int)
        steps = steps if length == n or d == axis or length < n else xp.arange(length)
        parts.append(index if d == axis else steps.reshape([-1 if i == d else 1 for i in range(len(shape))]))
    return tuple(parts)


def ties(x: Array, axis: Any) -> Array:
    """For each element its share of the maximum along `axis`: 1, or 1/k where k elements tie. NaN wins."""
    top = x.max(axis=axis, keepdims=True)
    at_top = (x == top) | ((x != x) & (top != top))
    return at_top.astype(x.dtype) / at_top.sum(axis=axis, keepdims=True).astype(x.dtype)


def inside(x: Array, low: float | None, high: float | None) -> Array:
    """Where low <= x <= high."""
    above = x >= low if low is not None else xp.ones(x.shape, bool)
    return above & (x <= high) if high is not None else above


def logsumexp(x: Array, axis: Any, keepdims: bool) -> Array:
    """log(sum(exp(x))), with the maximum taken out so that nothing overflows."""
    top = x.max(axis=axis, keepdims=True)
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
    if arrow:
        output = output.replace("...", dots)
    else:
        letters = "".join(terms).replace(".", "")
        output = dots + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if bad := [c for c in "".join(written) + output if not c.isalpha()]:
        raise ValueError(f"einsum: {equation!r} holds {bad[0]!r}; terms are letters and '...'")
    if lost := [c for c in output if not any(c in term for term in written)] or [c for c in output if output.count(c) > 1]:
        raise ValueError(f"einsum: {equation!r}: the output's {lost[0]!r} must stand in an input, and once in the output")
    return written, output


# Convolution. x (n, c, h, w), weight (o, c/groups, kh, kw), y (n, o, oh, ow); cross-correlation.
# Columns of a few images at a time go through one reused buffer that stays in cache.

COLUMN_BYTES = 1 << 21


def conv_size(n: int, k: int, stride: int, padding: int, dilation: int) -> int:
    """The output's length along one axis."""
    return (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1


def _pad(x: Array, padding: Pair) -> Array:
    ph, pw = padding
    if not ph and not pw:
        return x
    n, c, h, w = x.shape
    out = xp.zeros((n, c, h + 2 * ph, w + 2 * pw), x.dtype)
    out[:, :, ph : ph + h, pw : pw + w] = x
    return out


def windows(x: Array, kernel: Pair, stride: Pair, dilation: Pair) -> Array:
    """Sliding windows over the last two axes, a view: (..., h, w) -> (..., kh, kw, oh, ow)."""
    kh, kw = kernel
    oh = conv_size(x.shape[-2], kh, stride[0], 0, dilation[0])
    ow = conv_size(x.shape[-1], kw, stride[1], 0, dilation[1])
    if oh < 1 or ow < 1:
        raise ValueError(f"a window of {list(kernel)} (dilation {list(dilation)}) does not fit into {list(x.shape[-2:])}")
    sh, sw = x.strides[-2:]
    return xp.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:-2], kh, kw, oh, ow),
        (*x.strides[:-2], sh * dilation[0], sw * dilation[1], sh * stride[0], sw * stride[1]),
    )


def fold(g: Array, size: Pair, stride: Pair, dilation: Pair) -> Array:
    """The adjoint of `windows`: (..., kh, kw, oh, ow) -> (..., h, w), overlapping windows added up."""
    *lead, kh, kw, oh, ow = g.shape
    out = xp.zeros((*lead, *size), g.dtype)
    for i in range(kh):
        for j in range(kw):
            top, left = i * dilation[0], j * dilation[1]
            out[
                ..., top : top + stride[0] * (oh - 1) + 1 : stride[0], left : left + stride[1] * (ow - 1) + 1 : stride[1]
            ] += g[..., i, j, :, :]
    return out


def _blocks(n: int, bytes_per_image: int) -> list[slice]:
    step = max(1, COLUMN_BYTES // max(bytes_per_image, 1))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def conv2d(x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    n, c, h, width = x.shape
    o, cg, kh, kw = w.shape
    if c != cg * groups or o % groups:
        raise ValueError(
            f"the weight {list(w.shape)} in {groups} groups reads {cg * groups} channels and writes {o}, "
            f"but the input {list(x.shape)} has {c}"
        )
    view = windows(_pad(x, padding), (kh, kw), stride, dilation)
    oh, ow = view.shape[-2:]
    og = o // groups
    kernel = w.reshape(groups, og, cg * kh * kw)
    y = xp.empty((n, groups, og, oh * ow), x.dtype)
    for block in _blocks(n, x.itemsize * c * kh * kw * oh * ow):
        columns = view[block].reshape(-1, groups, cg * kh * kw, oh * ow)
        xp.matmul(kernel, columns, out=y[block])
    return y.reshape(n, o, oh, ow)


def conv2d_input(
    g: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, size: Pair
) -> Array:
    n, o, oh, ow = g.shape
    _, cg, kh, kw = w.shape
    if o != w.shape[0]:
        raise ValueError(f"the weight {list(w.shape)} needs {w.shape[0]} channels, but {list(g.shape)} has {o}")
    (ph, pw), (h, width) = padding, size
    kernel = xp.ascontiguousarray(w.reshape(groups, o // groups, cg * kh * kw).transpose(0, 2, 1))
    out = xp.empty((n, groups * cg, h, width), g.dtype)
    for block in _blocks(n, g.itemsize * groups * cg * kh * kw * oh * ow):
        columns = xp.matmul(kernel, g[block].reshape(-1, groups, o // groups, oh * ow))
        columns = columns.reshape(-1, groups * cg, kh, kw, oh, ow)
        image = fold(columns, (h + 2 * ph, width + 2 * pw), stride, dilation)
        out[block] = image[:, :, ph : ph + h, pw : pw + width]
    return out


def conv2d_weight(
    x: Array, g: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, kernel: Pair
) -> Array:
    n, c, _, _ = x.shape
    _, o, oh, ow = g.shape
    kh, kw = kernel
    cg = c // groups
    padded = _pad(x, padding)
    view = windows(padded, kernel, stride, dilation)[..., :oh, :ow]
    out = xp.zeros((groups, o // groups, cg * kh * kw), x.dtype)
    for block in _blocks(n, x.itemsize * c * kh * kw * oh * ow):
        columns = view[block].reshape(-1, groups, cg * kh * kw, oh * ow)
        out += xp.matmul(g[block].reshape(-1, groups, o // groups, oh * ow), columns.swapaxes(-1, -2)).sum(0)
    return out.reshape(o, cg, kh, kw)


def pool_index(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair) -> Array:
    """Where the maximum of each window lies: flat indices into each (h, w) plane, shape (n, c, oh, ow).

    The first maximum in row-major order is taken, and NaN wins; padding is minus infinity.
    """
    n, c, h, w = x.shape
    (kh, kw), (ph, pw), (oh, ow) = kernel, padding, out
    need_h = (oh - 1) * stride[0] + dilation[0] * (kh - 1) + 1
    need_w = (ow - 1) * stride[1] + dilation[1] * (kw - 1) + 1
    if ph or pw or need_h > h or need_w > w:
        framed = xp.full((n, c, max(need_h, h + ph), max(need_w, w + pw)), -xp.inf, x.dtype)
        framed[:, :, ph : ph + h, pw : pw + w] = x
        x = framed
    best = index = None
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dilation[0], i * dilation[0] + (oh - 1) * stride[0] + 1, stride[0])
            columns = slice(j * dilation[1], j * dilation[1] + (ow - 1) * stride[1] + 1, stride[1])
            candidate = x[:, :, rows, columns]
            offset = i * dilation[0] * w + j * dilation[1]
            if best is None:
                best = candidate.copy()
                index = xp.full(best.shape, offset, xp.int64)
                continue
            better = (candidate > best) | ((candidate != candidate) & (best == best))
            xp.copyto(best, candidate, where=better)
            xp.copyto(index, offset, where=better)
    assert index is not None
    origin = (xp.arange(oh) * stride[0] - ph)[:, None] * w + (xp.arange(ow) * stride[1] - pw)
    index += origin
    if ph or pw:  # a window of minus infinities alone would point into the padding: its first true cell stands in
        valid_row = xp.maximum(xp.arange(oh) * stride[0] - ph, 0)[:, None] * w
        valid = valid_row + xp.maximum(xp.arange(ow) * stride[1] - pw, 0)
        xp.copyto(index, xp.broadcast_to(valid, index.shape), where=best == -xp.inf)
    return index
