"""The table of primitives: every derivative that minigrad knows, one row each.

A row is a forward function on raw arrays and, for each array argument, a pullback: `g` is the
cotangent of the output `y`, and the pullback returns the argument's. Pullbacks are written in these
same ops, so they run on raw arrays at first order and record themselves at every higher one.
Broadcasting is summed back by the engine. Below the table stand the compositions that need no
derivative of their own, then Python's operators and the methods of Tensor.
"""

# mypy: disable-error-code=has-type
# (A pullback may ask for a row that stands further down.)
from __future__ import annotations

import builtins
import itertools
import math
from collections.abc import Callable, Sequence
from operator import index as index_of
from typing import Any

from minigrad import convolution, kernels, meanings, pooling, pytorch_names, sums
from minigrad.backend import is_scalar, or_kernel, xp
from minigrad.given import integers
from minigrad.primitive import bilinear, describe, discrete, elementwise, linear, name_rows, primitive
from minigrad.tensor import Tensor, Versioned, as_array, fitting, overwriting, plain, raw_index

Axis = int | Sequence[int] | None
any_, all_, sum_, abs_, max_, min_, slice_ = (
    builtins.any, builtins.all, builtins.sum, builtins.abs, builtins.max, builtins.min, builtins.slice,
)  # fmt: skip

# What a device has kernels of its own for (`minigrad.device`).
product = or_kernel("matmul", kernels.matmul)
contracted = or_kernel("einsum", kernels.einsum)
conv2d = or_kernel("conv2d", convolution.conv2d)
conv2d_input, conv2d_weight = (
    or_kernel("conv2d_input", convolution.conv2d_input), or_kernel("conv2d_weight", convolution.conv2d_weight),
)  # fmt: skip
tops, which, placed = (
    or_kernel("maximum", pooling.maximum), or_kernel("which", pooling.which), or_kernel("place", pooling.place),
)  # fmt: skip

# fmt: off
# ---- arithmetic ----------------------------------------------------------------------------------
add         = elementwise(lambda a, b: a + b,              lambda g: g,                  lambda g: g)
subtract    = elementwise(lambda a, b: a - b,              lambda g: g,                  lambda g: -g)
multiply    = elementwise(lambda a, b: a * b,              lambda g, b: g * b,           lambda g, a: g * a)
divide      = elementwise(lambda a, b: a / b,              lambda g, b: g / b,           lambda g, b, y: g * y / -b)
negative    = elementwise(lambda x: -x,                    lambda g: -g)
power_      = elementwise(lambda a, b: a ** b,             lambda g, a, b: g * slope_of_power(a, b),
                                                           lambda g, a, y: g * y * safe_log(a))
power_of    = elementwise(lambda x, n: x ** n,             lambda g, x, n: g * (n * power_of(x, n - 1)) if n else zeros_of(g), n=...)
square      = elementwise(lambda x: x * x,                 lambda g, x: g * (2 * x))
reciprocal  = elementwise(lambda x: 1 / x,                 lambda g, y: -g * (y * y))
maximum     = elementwise(lambda a, b: xp.maximum(a, b),   lambda g, a, b: larger(g, a, b),  lambda g, a, b: larger(g, b, a))
minimum     = elementwise(lambda a, b: xp.minimum(a, b),   lambda g, a, b: larger(g, b, a),  lambda g, a, b: larger(g, a, b))
remainder   = elementwise(lambda a, b: a % b,              lambda g: g,                  lambda g, a, b: -g * floor_divide(a, b))
where_      = elementwise(lambda c, a, b: xp.where(c, a, b), None,
                                                           lambda g, c: where_(c, g, 0),  lambda g, c: where_(c, 0, g))
clip_       = elementwise(lambda x, low, high: xp.clip(x, low, high), lambda g, x, low, high: where_(inside(x, low, high), g, 0), low=None, high=None)
astype      = linear(lambda x, dtype: x.astype(dtype),     lambda g: g, dtype=...)
alias       = linear(lambda x: x.view(),                   lambda g: g)

# ---- elementary functions ------------------------------------------------------------------------
exp         = elementwise(lambda x: xp.exp(x),             lambda g, y: g * y)
exp2        = elementwise(lambda x: kernels.exp2(x),       lambda g, y: g * (y * math.log(2)))
expm1       = elementwise(lambda x: xp.expm1(x),           lambda g, y: g * (y + 1))
log         = elementwise(lambda x: xp.log(x),             lambda g, x: g / x)
log2        = elementwise(lambda x: xp.log2(x),            lambda g, x: g / (x * math.log(2)))
log10       = elementwise(lambda x: xp.log10(x),           lambda g, x: g / (x * math.log(10)))
log1p       = elementwise(lambda x: xp.log1p(x),           lambda g, x: g / (1 + x))
sqrt        = elementwise(lambda x: xp.sqrt(x),            lambda g, y: g / (2 * y))
abs         = elementwise(lambda x: kernels.magnitude(x),  lambda g, x: g * sign(x))
sin         = elementwise(lambda x: xp.sin(x),             lambda g, x: g * cos(x))
cos         = elementwise(lambda x: xp.cos(x),             lambda g, x: -g * sin(x))
tan         = elementwise(lambda x: xp.tan(x),             lambda g, y: g * (1 + y * y))
arcsin      = elementwise(lambda x: xp.arcsin(x),          lambda g, x: g / sqrt((1 - x) * (1 + x)))
arccos      = elementwise(lambda x: xp.arccos(x),          lambda g, x: -g / sqrt((1 - x) * (1 + x)))
arctan      = elementwise(lambda x: xp.arctan(x),          lambda g, x: g / (1 + x * x))
arctan2     = elementwise(lambda a, b: kernels.arctan2(a, b), lambda g, a, b: g * b / from_origin(a, b),  lambda g, a, b: -g * a / from_origin(a, b))
sinh        = elementwise(lambda x: xp.sinh(x),            lambda g, x: g * cosh(x))
cosh        = elementwise(lambda x: xp.cosh(x),            lambda g, x: g * sinh(x))
tanh        = elementwise(lambda x: xp.tanh(x),            lambda g, y: g * (1 - y * y))
arcsinh     = elementwise(lambda x: xp.arcsinh(x),         lambda g, x: g / sqrt(1 + x * x))
arccosh     = elementwise(lambda x: xp.arccosh(x),         lambda g, x: g / sqrt((x - 1) * (x + 1)))
arctanh     = elementwise(lambda x: xp.arctanh(x),         lambda g, x: g / ((1 - x) * (1 + x)))
erf         = elementwise(lambda x: kernels.erf(x),        lambda g, x: g * (2 / math.sqrt(math.pi) * exp(-(x * x))))
erfc        = elementwise(lambda x: kernels.erfc(x),       lambda g, x: g * (-2 / math.sqrt(math.pi) * exp(-(x * x))))

# ---- activations ---------------------------------------------------------------------------------
sigmoid     = elementwise(lambda x: kernels.sigmoid(x),    lambda g, y: g * (y * (1 - y)))
softplus    = elementwise(lambda x: kernels.softplus(x),   lambda g, x: g * sigmoid(x))
relu        = elementwise(lambda x: kernels.relu(x),       lambda g, y: g * greater(y, 0))
leaky_relu  = elementwise(lambda x, slope: xp.where(x > 0, x, x * slope), lambda g, x, slope: where_(greater(x, 0), g, g * slope), slope=0.01)
elu         = elementwise(lambda x, alpha: xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0))),
                          lambda g, x, alpha: where_(greater(x, 0), g, g * (alpha * exp(where_(greater(x, 0), 0, x)))), alpha=1.0)

# ---- sums and broadcasts: each other's adjoints --------------------------------------------------
sum         = linear(lambda x, axis, keepdims: sums.total(x, axis, keepdims),
                     lambda g, x_shape, axis, keepdims: spread(g, x_shape, axis, keepdims), axis=None, keepdims=False)
mean        = linear(lambda x, axis, keepdims: sums.mean(x, axis, keepdims),
                     lambda g, x_shape, axis, keepdims: spread(g / count(x_shape, axis), x_shape, axis, keepdims), axis=None, keepdims=False)
broadcast_to = linear(lambda x, shape: kernels.spread(x, shape), lambda g, x_shape: sum_to(g, x_shape), shape=...)
sum_to      = linear(lambda x, shape: sums.sum_to(x, shape),   lambda g, x_shape: broadcast_to(g, x_shape), shape=...)
cumsum      = linear(lambda x, axis: sums.cumulate(x, axis), lambda g, axis: from_the_end(g, axis), axis=...)
amax        = primitive(lambda x, axis, keepdims: x.max(axis=axis, keepdims=keepdims),
                        lambda g, x, axis, keepdims: spread(g, shape_of(x), axis, keepdims) * ties(x, axis), axis=None, keepdims=False)
logsumexp   = primitive(lambda x, axis, keepdims: kernels.logsumexp(x, axis, keepdims),
                        lambda g, x, y, axis, keepdims: spread(g, shape_of(x), axis, keepdims)
                            * exp(x - spread(where_(equal(y, -math.inf), 0, y), shape_of(x), axis, keepdims)), axis=None, keepdims=False)
log_softmax = primitive(lambda x, axis: kernels.log_softmax(x, axis), lambda g, y, axis: g - exp(y) * sum(g, axis, True), axis=-1)
norm_       = primitive(lambda x, axis, keepdims: kernels.norm(x, axis, keepdims),
                        lambda g, x, y, axis, keepdims: spread(g, shape_of(x), axis, keepdims)
                            * (x / spread(where_(equal(y, 0), math.inf, y), shape_of(x), axis, keepdims)), axis=None, keepdims=False)

# ---- moves: the adjoint moves back ---------------------------------------------------------------
reshape_    = linear(lambda x, shape: x.reshape(shape),    lambda g, x_shape: reshape_(g, x_shape), shape=...)
transpose_  = linear(lambda x, axes: x.transpose(axes),    lambda g, axes: transpose_(g, inverse(axes)), axes=...)
flip        = linear(lambda x, axis: xp.flip(x, axis),     lambda g, axis: flip(g, axis), axis=None)
roll        = linear(lambda x, shift, axis: xp.roll(x, whole(shift), axis), lambda g, shift, axis: roll(g, opposite(shift), axis), shift=..., axis=None)
pad_        = linear(lambda x, width, value: kernels.framed(x, width, value),
                     lambda g, width, x_shape: take(g, unpad(width, x_shape)), width=..., value=0)
take        = linear(lambda x, index: x[index],            lambda g, x_shape, index: scatter(g, x_shape, index), index=...)
scatter     = linear(lambda x, shape, index: kernels.scatter(x, shape, index), lambda g, index: take(g, index), shape=..., index=...)
windows     = linear(lambda x, kernel, stride, dilation: convolution.windows(x, kernel, stride, dilation),
                     lambda g, x_shape, stride, dilation: fold(g, x_shape[-2:], stride, dilation), kernel=..., stride=(1, 1), dilation=(1, 1))
fold        = linear(lambda x, size, stride, dilation: convolution.fold(x, size, stride, dilation),
                     lambda g, x_shape, stride, dilation: windows(g, x_shape[-4:-2], stride, dilation), size=..., stride=(1, 1), dilation=(1, 1))
pick        = linear(lambda x, cells, at: pooling.pick(x, cells, at), lambda g, x_shape, cells, at: place(g, cells, at, x_shape[2:]), cells=..., at=...)
place       = linear(lambda x, cells, at, size: placed(x, cells, at, size), lambda g, cells, at: pick(g, cells, at), cells=..., at=..., size=...)
max_pool    = primitive(lambda x, at: tops(x, at), lambda g, x, y, at: place(g, raw_index(which_cell(x, y, at)), at, shape_of(x)[2:]), at=...)
concatenate_ = linear(lambda *xs, axis: xp.concatenate(xs, axis=axis), lambda g, xs_shape, axis, i: take(g, section(xs_shape, axis, i)), axis=0)

# ---- products ------------------------------------------------------------------------------------
matmul_     = bilinear(lambda a, b: product(a, b),         lambda g, b: matmul_(g, mT(b)),  lambda g, a: matmul_(mT(a), g))
einsum_     = primitive(lambda *xs, equation: contracted(*xs, equation),
                        lambda g, xs, equation, i: einsum_(g, *others(xs, i), equation=transposed(equation, i)), equation=...)
conv        = bilinear(lambda x, w, stride, padding, dilation, groups: conv2d(x, w, stride, padding, dilation, groups),
                       lambda g, w, x_shape, stride, padding, dilation, groups: conv_input(g, w, stride, padding, dilation, groups, x_shape[2:]),
                       lambda g, x, w_shape, stride, padding, dilation, groups: conv_weight(x, g, stride, padding, dilation, groups, w_shape[2:]),
                       stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
conv_input  = bilinear(lambda a, w, stride, padding, dilation, groups, size: conv2d_input(a, w, stride, padding, dilation, groups, size),
                       lambda g, w, a_shape, stride, padding, dilation, groups: cut(conv(g, w, stride, padding, dilation, groups), a_shape),
                       lambda g, a, w_shape, stride, padding, dilation, groups: conv_weight(g, a, stride, padding, dilation, groups, w_shape[2:]),
                       stride=..., padding=..., dilation=..., groups=..., size=...)
conv_weight = bilinear(lambda x, a, stride, padding, dilation, groups, kernel: conv2d_weight(x, a, stride, padding, dilation, groups, kernel),
                       lambda g, a, x_shape, stride, padding, dilation, groups: conv_input(a, g, stride, padding, dilation, groups, x_shape[2:]),
                       lambda g, x, a_shape, stride, padding, dilation, groups: cut(conv(x, g, stride, padding, dilation, groups), a_shape),
                       stride=..., padding=..., dilation=..., groups=..., kernel=...)

# ---- constant almost everywhere: never on the tape -----------------------------------------------
greater       = discrete(lambda a, b: a > b)
greater_equal = discrete(lambda a, b: a >= b)
less          = discrete(lambda a, b: a < b)
less_equal    = discrete(lambda a, b: a <= b)
equal         = discrete(lambda a, b: a == b)
not_equal     = discrete(lambda a, b: a != b)
sign          = discrete(lambda x: xp.sign(x.real))
floor         = discrete(lambda x: xp.floor(x.real))
ceil          = discrete(lambda x: xp.ceil(x.real))
round         = discrete(lambda x, decimals: xp.round(x, decimals), decimals=0)
isnan         = discrete(lambda x: xp.isnan(x))
isinf         = discrete(lambda x: xp.isinf(x))
isfinite      = discrete(lambda x: xp.isfinite(x))
logical_not   = discrete(lambda x: xp.logical_not(x))
logical_and   = discrete(lambda a, b: xp.logical_and(a, b))
logical_or    = discrete(lambda a, b: xp.logical_or(a, b))
logical_xor   = discrete(lambda a, b: xp.logical_xor(a, b))
bitwise_not   = discrete(lambda x: xp.invert(x))
bitwise_and   = discrete(lambda a, b: a & b)
bitwise_or    = discrete(lambda a, b: a | b)
bitwise_xor   = discrete(lambda a, b: a ^ b)
floor_divide  = discrete(lambda a, b: a // b)
argmax        = discrete(lambda x, axis, keepdims: xp.argmax(x, axis=axis, keepdims=keepdims), axis=None, keepdims=False)
argmin        = discrete(lambda x, axis, keepdims: xp.argmin(x, axis=axis, keepdims=keepdims), axis=None, keepdims=False)
argsort       = discrete(lambda x, axis: xp.argsort(x, axis=axis, kind="stable"), axis=-1)
all           = discrete(lambda x, axis, keepdims: xp.all(x, axis=axis, keepdims=keepdims), axis=None, keepdims=False)
any           = discrete(lambda x, axis, keepdims: xp.any(x, axis=axis, keepdims=keepdims), axis=None, keepdims=False)
which_cell    = discrete(lambda x, y, at: which(x, y, at), at=...)
inside        = discrete(lambda x, low, high: kernels.inside(x, low, high), low=..., high=...)
ties          = discrete(lambda x, axis: kernels.ties(x, axis), axis=...)
# fmt: on


# ---- what the rows above are written with: ordinary functions of ops, shapes and parameters -------
def shape_of(x: Any) -> tuple[int, ...]:
    return x.shape


def zeros_of(g: Any) -> Any:
    return g * 0


def axes_of(axis: Axis, ndim: int, op: str = "axis") -> tuple[int, ...]:
    """The axes as a tuple of numbers from 0 on. Raises TypeError, or IndexError for one that is not there, naming the op."""
    if axis is None:
        return tuple(range(ndim))
    axes = integers(op, "an axis", axis)
    if axes and (min_(axes) < -ndim or max_(axes) >= ndim):
        if ndim == 0 and all_(a in (0, -1) for a in axes):  # NumPy reduces a number over its axis 0, too
            return ()
        raise IndexError(f"{op}: axis {axis} is out of range for an array of {ndim} axes")
    return tuple(a % ndim for a in axes)


def axis_of(axis: int, ndim: int, op: str) -> int:
    """One axis as a number from 0 on. Raises TypeError or IndexError, naming the op."""
    if not is_integer(axis):
        raise TypeError(f"{op}: the axis is one number, not {axis!r:.60}")
    if not -ndim <= axis < ndim:
        raise IndexError(f"{op}: axis {axis} is out of range for an array of {ndim} axes")
    return axis % ndim


def count(shape: tuple[int, ...], axis: Axis, op: str = "axis") -> int:
    """How many elements a reduction over `axis` takes together."""
    return math.prod(shape[a] for a in axes_of(axis, len(shape), op))


def from_the_end(g: Any, axis: int) -> Any:
    """Running sums from the last element to the first."""
    return flip(cumsum(flip(g, axis), axis), axis) if g.ndim else g


def spread(g: Any, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    """A reduced array back over the axes that it was reduced along."""
    if not keepdims and axis is not None:
        axes = axes_of(axis, len(shape))
        g = reshape_(g, tuple(1 if i in axes else n for i, n in enumerate(shape)))
    return broadcast_to(g, shape)


def slope_of_power(a: Any, b: Any) -> Any:
    """The derivative b a^(b-1) in a, zero for b = 0 also where a = 0."""
    return b * power_(a, where_(logical_and(equal(a, 0), equal(b, 0)), 1, b - 1))


def safe_log(a: Any) -> Any:
    """log a in the derivative of a^b in b; at a = 0 the derivative is 0 for every b >= 0."""
    if isinstance(a, (int, float)):
        return math.log(a) if a > 0 else 0.0 if a == 0 else math.nan
    return log(where_(equal(a, 0), 1, a))


def from_origin(a: Any, b: Any) -> Any:
    """a^2 + b^2, by which is divided: infinite at the origin, where the angle's derivative is taken as 0."""
    squares = a * a + b * b
    return where_(equal(squares, 0), math.inf, squares)


def larger(g: Any, a: Any, b: Any) -> Any:
    """The part of g that goes to a where a is the larger of the two: half where they tie."""
    return where_(less(a, b), 0, where_(equal(a, b), 0.5 * g, g))


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes `axes`."""
    back = [0] * len(axes)
    for place, axis in enumerate(axes):
        back[axis] = place
    return tuple(back)


def whole(shift: Any) -> Any:
    """Integers, and no floats, which NumPy would cut off."""
    return tuple(map(index_of, shift)) if isinstance(shift, (tuple, list)) else index_of(shift)


def opposite(shift: Any) -> Any:
    return tuple(-s for s in shift) if isinstance(shift, (tuple, list)) else -shift


def mT(x: Any) -> Any:
    """The last two axes exchanged."""
    return transpose_(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def unpad(width: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Where the original stands in its padded copy."""
    return tuple(slice_(before, before + n) for (before, _), n in zip(width, shape, strict=True))


def section(shapes: Sequence[tuple[int, ...]], axis: int, i: int) -> tuple[slice, ...]:
    """Where the i-th of several arrays stands in their concatenation."""
    axis = axis % len(shapes[0])
    start = sum_(shape[axis] for shape in shapes[:i])
    return (slice_(None),) * axis + (slice_(start, start + shapes[i][axis]),)


def cut(y: Any, shape: tuple[int, ...]) -> Any:
    """The first rows and columns of a convolution, where its input has room for windows that nothing was made of."""
    return y if y.shape == shape else take(y, tuple(map(slice_, shape)))


def others(xs: Sequence[Any], i: int) -> list[Any]:
    return [x for number, x in enumerate(xs) if number != i]


def transposed(equation: str, i: int) -> str:
    """The equation of the pullback of the i-th operand: it changes places with the output."""
    inputs, output = equation.split("->")
    terms = inputs.split(",")
    return ",".join([output, *others(terms, i)]) + "->" + terms[i]


# ---- compositions: exact at every order because their parts are ------------------------------------
def is_integer(value: Any) -> bool:
    """Whether a parameter is one whole number (Python's or NumPy's), and not a truth value."""
    return hasattr(value, "__index__") and not isinstance(value, (bool, xp.ndarray))


def power(a: Any, b: Any) -> Any:
    """a ** b, elementwise. A number as exponent is a constant of the op, and exact at a = 0."""
    if isinstance(b, Tensor):
        return power_(a, b)
    b = plain(b, "power")
    if not isinstance(b, (int, float)) or isinstance(a, (int, float)):
        return power_(a, b)
    if isinstance(b, int) and b < 0 and a.dtype.kind in "iub":  # CuPy would answer 0
        raise ValueError("power_of: Integers to negative integer powers are not allowed; use .astype first")
    return square(a) if b == 2 else power_of(a, b)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b."""
    if isinstance(condition, (Tensor, xp.ndarray)) and condition.dtype != xp.bool_:
        raise TypeError(f"where: the condition holds truth values, not {condition.dtype}; compare first, e.g. x > 0")
    return where_(condition, a, b)


def clip(x: Any, low: Any = None, high: Any = None) -> Any:
    """x held between two numbers; the gradient passes at the bounds themselves."""
    if low is None and high is None:
        raise ValueError("clip: give low, high, or both")
    return clip_(x, None if low is None else float_of(low, "clip"), None if high is None else float_of(high, "clip"))


def float_of(value: Any, op: str) -> Any:
    """A number at the door of an op: NumPy scalars would widen float32."""
    if isinstance(value, (Tensor, xp.ndarray)) and value.ndim:
        raise TypeError(f"{op}: bounds are numbers, not arrays of shape {list(value.shape)}; use mg.maximum and mg.minimum")
    if isinstance(value, Tensor) and value.node is not None:
        raise TypeError(f"{op}: a bound is on the tape, and would get no gradient; use mg.maximum and mg.minimum, or detach it")
    return plain(value, op)


def in_single(f: Callable[[Any], Any], x: Any) -> Any:
    """f(x), in single precision on the way where x is of half: its sums, squares and cotangents soon overflow."""
    half = getattr(x, "dtype", None) == xp.float16
    return astype(f(astype(x, xp.float32)), xp.float16) if half else f(x)


def silu(x: Any) -> Any:
    """x sigmoid(x)."""
    return in_single(lambda x: x * sigmoid(x), x)


def gelu(x: Any, approximate: str = "none") -> Any:
    """x Phi(x) with the normal distribution's Phi, or its tanh approximation (Hendrycks and Gimpel 2016)."""
    if approximate == "tanh":
        return in_single(lambda x: 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x * (1 + 0.044715 * square(x))))), x)
    if approximate != "none":
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return in_single(lambda x: x * (0.5 * erfc(x * -math.sqrt(0.5))), x)  # 1 + erf would cancel for negative x


def var(x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The mean squared distance from the mean (two passes); divided by the count less `ddof`."""
    freedom = degrees_of_freedom("var", x, axis, ddof)
    return in_single(lambda x: sum(square(centred(x, axis)), axis, keepdims) / freedom, x)


def std(x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The square root of `var`. Its derivative is taken as 0 where all values are equal, as PyTorch does."""
    freedom = degrees_of_freedom("std", x, axis, ddof)
    return in_single(lambda x: norm_(centred(x, axis), axis, keepdims) / math.sqrt(freedom), x)


def centred(x: Any, axis: Axis) -> Any:
    """x less its mean, twice: the mean of large numbers is rounded, and what that left is a mean of small ones."""
    x = x - mean(x, axis, True)
    return x - mean(x, axis, True)


def degrees_of_freedom(op: str, x: Any, axis: Axis, ddof: int) -> int:
    number = count(x.shape, axis, op)
    if ddof and number <= ddof:
        raise ValueError(f"{op}: {number} values along axis {axis} of shape {list(x.shape)} less ddof={ddof} leave none")
    return number - ddof


def prod(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The product along axes, by halves: exact at every order also where factors are zero."""
    if x.dtype.kind in "biu":
        x = astype(x, xp.uint64 if x.dtype.kind == "u" else xp.int64)  # as wide as NumPy's, and as sum's
    axes = axes_of(axis, x.ndim, "prod")
    if len(axes) != 1:
        for one in axes:
            x = prod(x, one, True)
        return x if keepdims else squeeze(x, axes)
    (axis,) = axes
    head = (slice_(None),) * axis
    while (n := x.shape[axis]) > 1:
        half = n // 2
        pairs = take(x, (*head, slice_(0, half))) * take(x, (*head, slice_(half, 2 * half)))
        x = concatenate((pairs, take(x, (*head, slice_(2 * half, n)))), axis) if n % 2 else pairs
    if n == 0:
        x = sum(x, axis, True) + 1  # the empty product is 1, and the empty sum 0
    return x if keepdims else take(x, (*head, 0))


def amin(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The minimum; ties share the gradient evenly."""
    mirrored = negative if x.dtype.kind in "fc" else bitwise_not  # -x of an unsigned or of the least integer overflows
    return mirrored(amax(mirrored(x), axis, keepdims))


def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The maximum. Along one axis all of the gradient goes to the first one; over several, ties share it."""
    return _chosen(argmax, x, axis, keepdims) if is_integer(axis) and x.ndim else amax(x, axis, keepdims)


def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The minimum. Along one axis all of the gradient goes to the first one; over several, ties share it."""
    return _chosen(argmin, x, axis, keepdims) if is_integer(axis) and x.ndim else amin(x, axis, keepdims)


def _chosen(choose: Callable[..., Any], x: Any, axis: Any, keepdims: bool) -> Any:
    chosen = take_along_axis(x, choose(x, axis, True), axis)
    return chosen if keepdims else squeeze(chosen, axis)


def sort(x: Any, axis: int = -1) -> Any:
    """The values in ascending order along an axis (stable)."""
    axis = axis_of(axis, max_(x.ndim, 1), "sort")
    return take_along_axis(x, argsort(x, axis), axis) if x.ndim else alias(x)


def norm(x: Any, ord: float = 2, axis: Axis = None, keepdims: bool = False) -> Any:
    """(sum |x|^ord)^(1/ord) of the elements along `axis` (all of them by default); ord may be infinite.

    The 2-norm neither overflows nor underflows on the way. The derivative at 0 is taken as 0, to every order.
    """
    if not hasattr(ord, "__float__"):
        raise TypeError(f"norm: ord is a number, not {ord!r:.60}; of a matrix 2 gives the Frobenius norm")
    if x.dtype.kind in "biu":
        x = astype(x, xp.float32)
    if ord == 2:
        return norm_(x, axis, keepdims)
    if ord == math.inf:
        return amax(abs(x), axis, keepdims)
    if ord == -math.inf:
        return amin(abs(x), axis, keepdims)
    if ord == 1:
        return sum(abs(x), axis, keepdims)
    if ord == 0:
        return sum(astype(not_equal(x, 0), x.dtype), axis, keepdims)
    return power_from_zero(sum(power_from_zero(abs(x), ord), axis, keepdims), 1 / ord)


def power_from_zero(a: Any, n: float) -> Any:
    """a^n of numbers >= 0, with the derivative at 0 taken as 0."""
    zero = equal(a, 0)
    return where_(zero, 0.0 if n > 0 else math.inf, power(where_(zero, 1, a), n))


def reshape(x: Any, *shape: Any) -> Any:
    """The same values in another shape; one length may be -1."""
    return reshape_(x, integers("reshape", "a length", shape[0] if len(shape) == 1 else shape))


def flatten(x: Any, start_axis: int = 0) -> Any:
    """All axes from `start_axis` on as one."""
    if not is_integer(start_axis):
        raise TypeError(f"flatten: the axis is one number, not {start_axis!r}")
    axes_of(start_axis, x.ndim, "flatten")
    return reshape_(x, (*x.shape[:start_axis], math.prod(x.shape[start_axis:])))


def transpose(x: Any, *axes: Any) -> Any:
    """The axes in another order; reversed where none is given."""
    order = tuple(axes[0] if len(axes) == 1 and not is_integer(axes[0]) else axes) or tuple(reversed(range(x.ndim)))
    settled = axes_of(order, x.ndim, "transpose")
    if sorted(settled) != list(range(x.ndim)):
        raise ValueError(
            f"transpose: {list(order)} is not an order of the {x.ndim} axes of shape {list(x.shape)}; swapaxes(a, b) "
            "exchanges two"
        )
    return transpose_(x, settled)


permute = transpose


def swapaxes(x: Any, a: int, b: int) -> Any:
    """Two axes exchanged."""
    a, b = (axis_of(axis, x.ndim, "swapaxes") for axis in (a, b))
    order = list(range(x.ndim))
    order[a], order[b] = order[b], order[a]
    return transpose_(x, tuple(order))


def expand_dims(x: Any, axis: int) -> Any:
    """A new axis of length 1, which stands at `axis` in the result."""
    axis = axis_of(axis, x.ndim + 1, "expand_dims")
    return reshape_(x, (*x.shape[:axis], 1, *x.shape[axis:]))


def squeeze(x: Any, axis: Axis = None) -> Any:
    """Without the given axes (all, by default) of length 1."""
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else axes_of(axis, x.ndim, "squeeze")
    if any_(x.shape[a] != 1 for a in axes):
        raise ValueError(f"squeeze: axes {list(axes)} of shape {list(x.shape)} are not all of length 1")
    return reshape_(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def concatenate(xs: Sequence[Any], axis: int = 0) -> Any:
    """Several arrays one after the other along an axis that they have."""
    if isinstance(xs, Tensor) or not len(xs):
        raise ValueError(f"concatenate: needs a list of at least one Tensor or array, not {describe([xs])}")
    return concatenate_(*arrays_of("concatenate", xs), axis=axis)


def stack(xs: Sequence[Any], axis: int = 0) -> Any:
    """Several arrays of one shape along a new axis."""
    if isinstance(xs, Tensor) or not len(xs):
        raise ValueError(f"stack: needs a list of at least one Tensor or array, not {describe([xs])}")
    if len({x.shape for x in arrays_of("stack", xs)}) > 1:
        raise ValueError(f"stack: the shapes differ: {[list(x.shape) for x in xs]}")
    return concatenate([expand_dims(x, axis) for x in xs], axis)


def arrays_of(op: str, xs: Sequence[Any]) -> Sequence[Any]:
    """The operands, checked to be Tensors or arrays."""
    for x in xs:
        if not hasattr(x, "ndim"):
            raise TypeError(f"{op}: an operand is {type(x).__name__} {x!r:.60}; make it a Tensor with mg.tensor")
    return xs


def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> tuple[Any, ...]:
    """A tuple of parts along an axis: so many equal ones, or cut before the given positions."""
    axis = axis_of(axis, x.ndim, "split")
    n = x.shape[axis]
    places = integers("split", "a number of parts (or in a list a position)", sections)
    if isinstance(sections, (tuple, list)):
        cuts = [0, *places, n]
    else:
        (parts,) = places
        if parts < 1 or n % parts:
            raise ValueError(f"split: axis {axis} of shape {list(x.shape)} does not divide into {parts} equal parts")
        cuts = [i * (n // parts) for i in range(parts + 1)]
    head = (slice_(None),) * axis
    return tuple(take(x, (*head, slice_(a, b))) for a, b in itertools.pairwise(cuts))


def pad(x: Any, width: Any, value: float = 0) -> Any:
    """x in a frame of `value`: one width for all sides, (before, after), or a pair for each axis."""
    pairs = [(width, width)] * x.ndim if is_integer(width) else list(width)
    pairs = [tuple(pairs)] * x.ndim if all_(is_integer(n) for n in pairs) else pairs
    if len(pairs) != x.ndim or any_(len(pair) != 2 or not all_(is_integer(n) and n >= 0 for n in pair) for pair in pairs):
        raise ValueError(f"pad: needs a pair of widths >= 0 for each axis of shape {list(x.shape)}, not {width!r:.60}")
    if x.dtype.kind != "f":
        fitting(value, x.dtype, "pad")
    return pad_(x, tuple(tuple(pair) for pair in pairs), value)


def tile(x: Any, reps: Any) -> Any:
    """x repeated as a whole, so many times along each axis."""
    reps = integers("tile", "a number of repetitions", reps)
    ndim = max_(len(reps), x.ndim)
    reps = (1,) * (ndim - len(reps)) + reps
    shape = (1,) * (ndim - x.ndim) + x.shape
    apart = reshape_(x, tuple(n for s in shape for n in (1, s)))
    wide = broadcast_to(apart, tuple(n for r, s in zip(reps, shape, strict=True) for n in (r, s)))
    return reshape_(wide, tuple(r * s for r, s in zip(reps, shape, strict=True)))


def repeat(x: Any, repeats: int, axis: int | None = None) -> Any:
    """Each element repeated so many times along an axis (of the flat array, where none is given)."""
    if not is_integer(repeats) or repeats < 0:
        raise ValueError(f"repeat: repeats is a number >= 0, not {repeats!r:.60}")
    if axis is None:
        x, axis = reshape(x, -1), 0
    axis = axis_of(axis, x.ndim, "repeat")
    head, tail = x.shape[: axis + 1], x.shape[axis + 1 :]
    wide = broadcast_to(reshape_(x, (*head, 1, *tail)), (*head, repeats, *tail))
    return reshape_(wide, (*x.shape[:axis], x.shape[axis] * repeats, *tail))


def tril(x: Any, k: int = 0) -> Any:
    """The last two axes' lower triangle, from the k-th diagonal down; zeros above."""
    return where_(xp.tri(*matrix_shape("tril", x), k, dtype=bool), x, False)  # zero in every dtype


def triu(x: Any, k: int = 0) -> Any:
    """The last two axes' upper triangle, from the k-th diagonal up; zeros below."""
    return where_(~xp.tri(*matrix_shape("triu", x), k - 1, dtype=bool), x, False)


def matrix_transpose(x: Any) -> Any:
    """The last two axes exchanged."""
    matrix_shape("mT", x)
    return mT(x)


def matrix_shape(op: str, x: Any) -> tuple[int, int]:
    if x.ndim < 2:
        raise ValueError(f"{op}: needs an array of at least 2 axes, not shape {list(x.shape)}")
    return x.shape[-2:]


def getitem(x: Any, index: Any) -> Any:
    """x[index], basic and advanced; where an index repeats, its cotangents add up."""
    try:
        index = raw_index(index)
    except IndexError as error:
        raise IndexError(f"take: {error} (of {x.dtype} {list(x.shape)})") from None
    return take(x, index)


def take_along_axis(x: Any, index: Any, axis: int) -> Any:
    """x at an integer array of x's number of axes: out[i, j] = x[index[i, j], j] for axis 0."""
    index, axis = _along("take_along_axis", x, index, axis)
    return take(x, kernels.along(index, x.shape, axis))


def take_one(x: Any, index: Any, axis: int) -> Any:
    """Of each line of x along an axis one element: out[i, j] = x[index[i, j], i, j] for axis 0.

    index: integers, of x's shape without that axis.
    """
    index = as_array(index, None, "take_one")
    rest = kernels.steps(index.shape)
    return take(x, (*rest[:axis], index, *rest[axis:]))


def scatter_add(x: Any, index: Any, source: Any, axis: int = 0) -> Any:
    """x with source added at an integer array: out[index[i, j], j] += source[i, j] for axis 0."""
    index, axis = _along("scatter_add", x, index, axis)
    (source,) = arrays_of("scatter_add", [source])
    if source.shape != index.shape or any_(i > n for d, (i, n) in enumerate(zip(index.shape, x.shape)) if d != axis):
        raise ValueError(
            f"scatter_add: source {list(source.shape)} and index {list(index.shape)} must agree in shape, and may be "
            f"longer than x {list(x.shape)} along axis {axis} alone"
        )
    return x + scatter(source, x.shape, kernels.along(index, index.shape, axis))


def _along(op: str, x: Any, index: Any, axis: int) -> tuple[Any, int]:
    index = as_array(index, None, op)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{op}: the index holds integers, not {index.dtype}")
    if index.ndim != x.ndim:
        raise ValueError(f"{op}: the index {list(index.shape)} needs as many axes as the array {list(x.shape)}")
    return index, axis_of(axis, x.ndim, op)


def matmul(a: Any, b: Any) -> Any:
    """The matrix product over the last two axes; others broadcast; 1-d operands are rows or columns."""
    arrays_of("matmul", (a, b))
    left, right = a.shape, b.shape
    if not left or not right:
        raise ValueError(f"matmul: operands of shapes {list(left)} and {list(right)}; multiply by a number with *")
    if left[-1] != right[-2:][0]:
        raise ValueError(
            f"matmul: {list(left)} @ {list(right)}: the left operand's last axis and the right one's last but one "
            f"must agree in length, not {left[-1]} and {right[-2:][0]}; .mT exchanges the last two"
        )
    if len(left) == 1 or len(right) == 1:
        row = reshape_(a, (1, *left)) if len(left) == 1 else a
        column = reshape_(b, (*right, 1)) if len(right) == 1 else b
        return reshape_(matmul(row, column), left[:-1] + right[:-2] + right[-1:] * (len(right) > 1))
    if len(right) == 2 and len(left) > 2:
        rows = matmul_(reshape_(a, (math.prod(left[:-1]), left[-1])), b)
        return reshape_(rows, (*left[:-1], right[-1]))
    return matmul_(a, b)


def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    """The sum of products over the last `axes` of a and the first of b, or over two lists of axes."""
    arrays_of("tensordot", (a, b))
    if is_integer(axes):
        if axes < 0:
            raise ValueError(f"tensordot: a number of axes is >= 0, not {axes}")
        axes = (tuple(range(-axes, 0)), tuple(range(axes)))
    if not isinstance(axes, (tuple, list)) or len(axes) != 2:
        raise ValueError(f"tensordot: axes is a number or a pair, of a's and of b's axes, not {axes!r:.60}")
    of_a, of_b = (axes_of(of, x.ndim, "tensordot") for of, x in zip(axes, (a, b), strict=True))
    if [a.shape[i] for i in of_a] != [b.shape[i] for i in of_b]:
        raise ValueError(f"tensordot: axes {of_a} of {list(a.shape)} and {of_b} of {list(b.shape)} differ in length")
    free_a = [i for i in range(a.ndim) if i not in of_a]
    free_b = [i for i in range(b.ndim) if i not in of_b]
    inner = math.prod(a.shape[i] for i in of_a)
    shape_a, shape_b = [a.shape[i] for i in free_a], [b.shape[i] for i in free_b]
    left = reshape_(transpose_(a, (*free_a, *of_a)), (math.prod(shape_a), inner))
    right = reshape_(transpose_(b, (*of_b, *free_b)), (inner, math.prod(shape_b)))
    return reshape_(matmul_(left, right), (*shape_a, *shape_b))


def outer(a: Any, b: Any) -> Any:
    """All products of the elements of two arrays: a matrix of a.size rows and b.size columns."""
    return reshape(a, (-1, 1)) * reshape(b, (1, -1))


def diagonal(x: Any, offset: int = 0) -> Any:
    """The diagonal of the last two axes, as the last axis."""
    rows, columns = matrix_shape("diagonal", x)
    n = max_(0, min_(rows + min_(offset, 0), columns - max_(offset, 0)))
    steps = xp.arange(n)
    return take(x, (Ellipsis, steps - min_(offset, 0), steps + max_(offset, 0)))


def trace(x: Any, offset: int = 0) -> Any:
    """The sum of the diagonal of the last two axes."""
    return sum(diagonal(x, offset), -1)


def einsum(equation: Any, *operands: Any) -> Any:
    """Einstein's summation, for any equation that NumPy takes and any number of operands.

    In the place of letters numbers may stand: `einsum(a, [0, 1], b, [1, 2], [0, 2])` is `einsum("ab,bc->ac", a, b)`.
    Ellipses are written out, repeated letters in one term become diagonals, letters that stand in one
    term alone are summed first. What is left is a row whose pullbacks are einsums of the same form.
    """
    if operands and isinstance(operands[0], (list, tuple)) and not isinstance(equation, str):
        equation, operands = lettered(equation, *operands)
    if not isinstance(equation, str):
        raise TypeError(f"einsum: the equation comes first and is a string such as 'ij,jk->ik', not {equation!r:.60}")
    operands = tuple(x if hasattr(x, "ndim") and not is_scalar(x) else as_array(x, None, "einsum") for x in operands)
    terms, output = kernels.explicit(equation, [x.ndim for x in operands])
    sizes: dict[str, int] = {}
    for term, x in zip(terms, operands, strict=True):
        for letter, n in zip(term, x.shape, strict=True):
            length = sizes.get(letter, 1)
            sizes[letter] = n if length == 1 else length
            if n not in (1, sizes[letter]) or {x.shape[i] for i, c in enumerate(term) if c == letter} != {n}:
                raise ValueError(
                    f"einsum: {equation!r}: {letter!r} has different lengths in {[list(x.shape) for x in operands]}"
                )
    plain_terms, plain = [], []
    for number, (term, x) in enumerate(zip(terms, operands, strict=True)):
        for letter in dict.fromkeys(term):
            while term.count(letter) > 1:
                i, j = [place for place, other in enumerate(term) if other == letter][:2]
                x = moved_diagonal(x, i, j)
                term = term.replace(letter, "", 2) + letter
        elsewhere = set(output).union(*(t for other, t in enumerate(terms) if other != number))
        if any_(n == 1 and sizes[c] != 1 and c in elsewhere for c, n in zip(term, x.shape, strict=True)):
            # a length of 1 broadcasts, as NumPy lets it: the letter's other terms set its length
            x = broadcast_to(x, tuple(sizes[c] if c in elsewhere else n for c, n in zip(term, x.shape, strict=True)))
        gone = [i for i, c in enumerate(term) if c not in elsewhere]
        x = sum(x, tuple(gone)) if gone else x
        plain_terms.append("".join(c for c in term if c in elsewhere))
        plain.append(x)
    return einsum_(*plain, equation=",".join(plain_terms) + "->" + output)


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def lettered(*given: Any) -> tuple[str, tuple[Any, ...]]:
    """The equation in letters, and the operands, of operands that lists of numbers follow; a last list is the output's."""
    pairs = len(given) // 2
    lists = [*given[1::2], *given[2 * pairs :]]
    letters: dict[Any, str] = dict(enumerate(LETTERS)) | {...: "..."}
    try:
        terms = ["".join(letters[i] for i in numbers) for numbers in lists]
    except (TypeError, KeyError):
        raise TypeError(f"einsum: after operands stand lists of numbers in 0..51 or `...`, not {lists!r:.60}") from None
    return "->".join([",".join(terms[:pairs]), *terms[pairs:]]), given[: 2 * pairs : 2]


def moved_diagonal(x: Any, i: int, j: int) -> Any:
    """The diagonal of axes i and j, as the last axis."""
    rest = [axis for axis in range(x.ndim) if axis not in (i, j)]
    return diagonal(transpose_(x, (*rest, i, j)))


name_rows(globals())
meanings.describe(globals())

# ---- operators and methods -------------------------------------------------------------------------
_OPERATORS = {
    "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "floordiv": floor_divide, "mod": remainder,
    "pow": power, "matmul": matmul, "and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor,
}  # fmt: skip
_UNARY = {"neg": negative, "pos": alias, "abs": abs, "invert": bitwise_not, "round": round, "getitem": getitem}
_COMPARISONS = {"lt": less, "le": less_equal, "gt": greater, "ge": greater_equal, "eq": equal, "ne": not_equal}
_PROPERTIES: dict[str, Callable[[Any], Any]] = {"T": transpose, "mT": matrix_transpose}
_METHODS = [
    "abs", "alias", "all", "amax", "amin", "any", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh",
    "argmax", "argmin", "argsort", "astype", "broadcast_to", "ceil", "clip", "cos", "cosh", "cumsum", "diagonal", "elu",
    "erf", "erfc", "exp", "exp2", "expand_dims", "expm1", "flatten", "flip", "floor", "fold", "gelu", "isfinite",
    "isinf", "isnan", "leaky_relu", "log", "log10", "log1p", "log2", "logical_not", "logsumexp", "matmul", "max",
    "maximum", "mean", "min", "minimum", "norm", "outer", "pad", "permute", "power", "prod", "reciprocal", "relu",
    "repeat", "reshape", "roll", "round", "scatter_add", "sigmoid", "sign", "silu", "sin", "sinh", "softplus", "sort",
    "split", "sqrt", "square", "squeeze", "std", "sum", "sum_to", "swapaxes", "take_along_axis", "tan", "tanh",
    "tensordot", "tile", "trace", "transpose", "tril", "triu", "var", "windows",
]  # fmt: skip


def _attach() -> None:
    """Gives Tensor Python's operators, as methods the ops whose first argument is the Tensor, and what PyTorch's say."""
    for name, op in (_OPERATORS | _UNARY | _COMPARISONS).items():
        setattr(Tensor, f"__{name}__", op)
    for name, op in _OPERATORS.items():
        setattr(Tensor, f"__r{name}__", _swapped(op))
        setattr(Versioned, f"__i{name}__", overwriting(op))
    for name in _METHODS:
        setattr(Tensor, name, globals()[name])
    for name, move in _PROPERTIES.items():
        setattr(Tensor, name, property(move))
    for name, here in pytorch_names.TENSOR.items():
        setattr(Tensor, name, pytorch_names.Elsewhere(name, here))


def _swapped(op: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def reflected(b: Any, a: Any) -> Any:
        return op(a, b)

    return reflected


_attach()

__all__ = [
    *_METHODS, "add", "arctan2", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "concatenate", "conv",
    "conv_input", "conv_weight", "divide", "einsum", "equal", "floor_divide", "greater", "greater_equal", "less",
    "less_equal", "logical_and", "logical_or", "logical_xor", "multiply", "negative", "not_equal", "remainder",
    "scatter", "stack", "subtract", "where",
]  # fmt: skip
