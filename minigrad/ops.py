"""The table of primitives: every derivative that minigrad knows, one row each.

A row is a forward function on raw arrays and, for each array argument, a pullback: `g` is the
cotangent of the output `y`, and the pullback returns the argument's. Pullbacks are written in these
same ops, so they run on raw arrays at first order and record themselves at every higher one.
Broadcasting is summed back by the engine. Below the table stand the compositions that need no
derivative of their own, then Python's operators and the methods of Tensor.
"""

# The names of the rows are NumPy's, some of which are Python's too.
from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any

from minigrad import kernels
from minigrad.backend import Array, is_array, xp
from minigrad.primitive import bilinear, discrete, elementwise, linear, name_rows, primitive
from minigrad.tensor import Tensor, raw_index

Axis = int | tuple[int, ...] | None
any_, all_, sum_, abs_, max_, min_, slice_ = (
    builtins.any, builtins.all, builtins.sum, builtins.abs, builtins.max, builtins.min, builtins.slice,
)  # fmt: skip

# fmt: off
# ---- arithmetic ----------------------------------------------------------------------------------
add         = elementwise(lambda a, b: a + b,              lambda g: g,                  lambda g: g)
subtract    = elementwise(lambda a, b: a - b,              lambda g: g,                  lambda g: -g)
multiply    = elementwise(lambda a, b: a * b,              lambda g, b: g * b,           lambda g, a: g * a)
divide      = elementwise(lambda a, b: a / b,              lambda g, b: g / b,           lambda g, b, y: -g * y / b)
negative    = elementwise(lambda x: -x,                    lambda g: -g)
power_      = elementwise(lambda a, b: a ** b,             lambda g, a, b: g * slope_of_power(a, b),
                                                           lambda g, a, b, y: g * y * safe_log(a, b))
power_of    = elementwise(lambda x, n: x ** n,             lambda g, x, n: g * (n * power_of(x, n - 1)) if n else zeros_of(g), n=...)
square      = elementwise(lambda x: x * x,                 lambda g, x: g * (2 * x))
reciprocal  = elementwise(lambda x: 1 / x,                 lambda g, y: -g * (y * y))
maximum     = elementwise(lambda a, b: xp.maximum(a, b),   lambda g, a, b: g * share(a, b),    lambda g, a, b: g * share(b, a))
minimum     = elementwise(lambda a, b: xp.minimum(a, b),   lambda g, a, b: g * share(-a, -b),  lambda g, a, b: g * share(-b, -a))
where_      = elementwise(lambda c, a, b: xp.where(c, a, b), None,
                                                           lambda g, c: where_(c, g, 0),  lambda g, c: where_(c, 0, g))
clip_       = elementwise(lambda x, low, high: xp.clip(x, low, high), lambda g, x, low, high: where_(inside(x, low, high), g, 0), low=None, high=None)
astype      = linear(lambda x, dtype: x.astype(dtype),     lambda g: g, dtype=...)
alias       = linear(lambda x: x.view(),                   lambda g: g)

# ---- elementary functions ------------------------------------------------------------------------
exp         = elementwise(lambda x: xp.exp(x),             lambda g, y: g * y)
exp2        = elementwise(lambda x: xp.exp2(x),            lambda g, y: g * (y * math.log(2)))
expm1       = elementwise(lambda x: xp.expm1(x),           lambda g, y: g * (y + 1))
log         = elementwise(lambda x: xp.log(x),             lambda g, x: g / x)
log2        = elementwise(lambda x: xp.log2(x),            lambda g, x: g / (x * math.log(2)))
log10       = elementwise(lambda x: xp.log10(x),           lambda g, x: g / (x * math.log(10)))
log1p       = elementwise(lambda x: xp.log1p(x),           lambda g, x: g / (1 + x))
sqrt        = elementwise(lambda x: xp.sqrt(x),            lambda g, y: g / (2 * y))
abs         = elementwise(lambda x: xp.abs(x),             lambda g, x: g * sign(x))
sin         = elementwise(lambda x: xp.sin(x),             lambda g, x: g * cos(x))
cos         = elementwise(lambda x: xp.cos(x),             lambda g, x: -g * sin(x))
tan         = elementwise(lambda x: xp.tan(x),             lambda g, y: g * (1 + y * y))
arcsin      = elementwise(lambda x: xp.arcsin(x),          lambda g, x: g / sqrt((1 - x) * (1 + x)))
arccos      = elementwise(lambda x: xp.arccos(x),          lambda g, x: -g / sqrt((1 - x) * (1 + x)))
arctan      = elementwise(lambda x: xp.arctan(x),          lambda g, x: g / (1 + x * x))
arctan2     = elementwise(lambda a, b: xp.arctan2(a, b),   lambda g, a, b: g * b / (a * a + b * b),  lambda g, a, b: -g * a / (a * a + b * b))
sinh        = elementwise(lambda x: xp.sinh(x),            lambda g, x: g * cosh(x))
cosh        = elementwise(lambda x: xp.cosh(x),            lambda g, x: g * sinh(x))
tanh        = elementwise(lambda x: xp.tanh(x),            lambda g, y: g * (1 - y * y))
arcsinh     = elementwise(lambda x: xp.arcsinh(x),         lambda g, x: g / sqrt(1 + x * x))
arccosh     = elementwise(lambda x: xp.arccosh(x),         lambda g, x: g / sqrt((x - 1) * (x + 1)))
arctanh     = elementwise(lambda x: xp.arctanh(x),         lambda g, x: g / ((1 - x) * (1 + x)))
erf         = elementwise(lambda x: kernels.erf(x),        lambda g, x: g * (2 / math.sqrt(math.pi) * exp(-(x * x))))

# ---- activations ---------------------------------------------------------------------------------
sigmoid     = elementwise(lambda x: kernels.sigmoid(x),    lambda g, y: g * (y * (1 - y)))
softplus    = elementwise(lambda x: kernels.softplus(x),   lambda g, x: g * sigmoid(x))
relu        = elementwise(lambda x: xp.maximum(x, 0),      lambda g, y: g * greater(y, 0))
leaky_relu  = elementwise(lambda x, slope: xp.where(x > 0, x, x * slope), lambda g, x, slope: where_(greater(x, 0), g, g * slope), slope=0.01)
elu         = elementwise(lambda x, alpha: xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0))),
                          lambda g, x, alpha: where_(greater(x, 0), g, g * (alpha * exp(minimum(x, 0)))), alpha=1.0)

# ---- sums and broadcasts: each other's adjoints --------------------------------------------------
sum         = linear(lambda x, axis, keepdims: kernels.total(x, axis, keepdims),
                     lambda g, x_shape, axis, keepdims: spread(g, x_shape, axis, keepdims), axis=None, keepdims=False)
mean        = linear(lambda x, axis, keepdims: x.mean(axis=axis, keepdims=keepdims),
                     lambda g, x_shape, axis, keepdims: spread(g / count(x_shape, axis), x_shape, axis, keepdims), axis=None, keepdims=False)
broadcast_to = linear(lambda x, shape: xp.broadcast_to(x, shape), lambda g, x_shape: sum_to(g, x_shape), shape=...)
sum_to      = linear(lambda x, shape: kernels.sum_to(x, shape),   lambda g, x_shape: broadcast_to(g, x_shape), shape=...)
cumsum      = linear(lambda x, axis: xp.cumsum(x, axis=axis, dtype=x.dtype), lambda g, axis: flip(cumsum(flip(g, axis), axis), axis), axis=...)
amax        = primitive(lambda x, axis, keepdims: x.max(axis=axis, keepdims=keepdims),
                        lambda g, x, axis, keepdims: spread(g, shape_of(x), axis, keepdims) * ties(x, axis), axis=None, keepdims=False)
logsumexp   = primitive(lambda x, axis, keepdims: kernels.logsumexp(x, axis, keepdims),
                        lambda g, x, y, axis, keepdims: spread(g, shape_of(x), axis, keepdims)
                            * exp(x - spread(y, shape_of(x), axis, keepdims)), axis=None, keepdims=False)
norm_       = primitive(lambda x, axis, keepdims: xp.sqrt((x * x).sum(axis=axis, keepdims=keepdims)),
                        lambda g, x, y, axis, keepdims: x * spread(g / nonzero(y), shape_of(x), axis, keepdims), axis=None, keepdims=False)

# ---- moves: the adjoint moves back ---------------------------------------------------------------
reshape_    = linear(lambda x, shape: x.reshape(shape),    lambda g, x_shape: reshape_(g, x_shape), shape=...)
transpose_  = linear(lambda x, axes: x.transpose(axes),    lambda g, axes: transpose_(g, inverse(axes)), axes=...)
flip        = linear(lambda x, axis: xp.flip(x, axis),     lambda g, axis: flip(g, axis), axis=None)
roll        = linear(lambda x, shift, axis: xp.roll(x, shift, axis), lambda g, shift, axis: roll(g, opposite(shift), axis), shift=..., axis=None)
pad_        = linear(lambda x, width, value: xp.pad(x, width, constant_values=value),
                     lambda g, width, x_shape: take(g, unpad(width, x_shape)), width=..., value=0)
take        = linear(lambda x, index: x[index],            lambda g, x_shape, index: scatter(g, x_shape, index), index=...)
scatter     = linear(lambda x, shape, index: kernels.scatter(x, shape, index), lambda g, index: take(g, index), shape=..., index=...)
windows     = linear(lambda x, kernel, stride, dilation: kernels.windows(x, kernel, stride, dilation),
                     lambda g, x_shape, stride, dilation: fold(g, x_shape[-2:], stride, dilation), kernel=..., stride=(1, 1), dilation=(1, 1))
fold        = linear(lambda x, size, stride, dilation: kernels.fold(x, size, stride, dilation),
                     lambda g, x_shape, stride, dilation: windows(g, x_shape[-4:-2], stride, dilation), size=..., stride=(1, 1), dilation=(1, 1))
concatenate_ = linear(lambda *xs, axis: xp.concatenate(xs, axis=axis), lambda g, xs_shape, axis, i: take(g, section(xs_shape, axis, i)), axis=0)

# ---- products ------------------------------------------------------------------------------------
matmul_     = bilinear(lambda a, b: xp.matmul(a, b),       lambda g, b: matmul_(g, mT(b)),  lambda g, a: matmul_(mT(a), g))
einsum_     = primitive(lambda *xs, equation: xp.einsum(equation, *xs, optimize=len(xs) > 1),
                        lambda g, xs, equation, i: einsum_(g, *others(xs, i), equation=transposed(equation, i)), equation=...)
conv        = bilinear(lambda x, w, stride, padding, dilation, groups: kernels.conv2d(x, w, stride, padding, dilation, groups),
                       lambda g, w, x_shape, stride, padding, dilation, groups: conv_input(g, w, stride, padding, dilation, groups, x_shape[2:]),
                       lambda g, x, w_shape, stride, padding, dilation, groups: conv_weight(x, g, stride, padding, dilation, groups, w_shape[2:]),
                       stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
conv_input  = bilinear(lambda a, w, stride, padding, dilation, groups, size: kernels.conv2d_input(a, w, stride, padding, dilation, groups, size),
                       lambda g, w, stride, padding, dilation, groups: conv(g, w, stride, padding, dilation, groups),
                       lambda g, a, w_shape, stride, padding, dilation, groups: conv_weight(g, a, stride, padding, dilation, groups, w_shape[2:]),
                       stride=..., padding=..., dilation=..., groups=..., size=...)
conv_weight = bilinear(lambda x, a, stride, padding, dilation, groups, kernel: kernels.conv2d_weight(x, a, stride, padding, dilation, groups, kernel),
                       lambda g, a, x_shape, stride, padding, dilation, groups: conv_input(a, g, stride, padding, dilation, groups, x_shape[2:]),
                       lambda g, x, stride, padding, dilation, groups: conv(x, g, stride, padding, dilation, groups),
                       stride=..., padding=..., dilation=..., groups=..., kernel=...)

# ---- constant almost everywhere: never on the tape -----------------------------------------------
greater       = discrete(lambda a, b: a > b)
greater_equal = discrete(lambda a, b: a >= b)
less          = discrete(lambda a, b: a < b)
less_equal    = discrete(lambda a, b: a <= b)
equal         = discrete(lambda a, b: a == b)
not_equal     = discrete(lambda a, b: a != b)
sign          = discrete(lambda x: xp.sign(x))
floor         = discrete(lambda x: xp.floor(x))
ceil          = discrete(lambda x: xp.ceil(x))
round         = discrete(lambda x, decimals: xp.round(x, decimals), decimals=0)
isnan         = discrete(lambda x: xp.isnan(x))
isfinite      = discrete(lambda x: xp.isfinite(x))
logical_not   = discrete(lambda x: xp.logical_not(x))
logical_and   = discrete(lambda a, b: xp.logical_and(a, b))
logical_or    = discrete(lambda a, b: xp.logical_or(a, b))
logical_xor   = discrete(lambda a, b: xp.logical_xor(a, b))
floor_divide  = discrete(lambda a, b: a // b)
argmax        = discrete(lambda x, axis, keepdims: xp.argmax(x, axis=axis, keepdims=keepdims), axis=None, keepdims=False)
argmin        = discrete(lambda x, axis, keepdims: xp.argmin(x, axis=axis, keepdims=keepdims), axis=None, keepdims=False)
argsort       = discrete(lambda x, axis: xp.argsort(x, axis=axis, kind="stable"), axis=-1)
all           = discrete(lambda x, axis, keepdims: xp.all(x, axis=axis, keepdims=keepdims), axis=None, keepdims=False)
any           = discrete(lambda x, axis, keepdims: xp.any(x, axis=axis, keepdims=keepdims), axis=None, keepdims=False)
pool_index    = discrete(lambda x, kernel, stride, padding, dilation, out: kernels.pool_index(x, kernel, stride, padding, dilation, out),
                         kernel=..., stride=..., padding=..., dilation=..., out=...)
share         = discrete(lambda a, b: (a > b) + (0.5 * (a == b)).astype(a.dtype))
inside        = discrete(lambda x, low, high: kernels.inside(x, low, high), low=..., high=...)
ties          = discrete(lambda x, axis: kernels.ties(x, axis), axis=...)
nonzero       = discrete(lambda x: xp.where(x == 0, xp.ones((), x.dtype), x))
# fmt: on


# ---- what the rows above are written with: ordinary functions of ops, shapes and parameters -------
def shape_of(x: Any) -> tuple[int, ...]:
    return x.shape


def zeros_of(g: Any) -> Any:
    return g * 0


def axes_of(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes as a tuple of numbers from 0 on."""
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % ndim if ndim else a for a in (axis if isinstance(axis, tuple) else (axis,)))


def count(shape: tuple[int, ...], axis: Axis) -> int:
    """How many elements a reduction over `axis` takes together."""
    return math.prod(shape[a] for a in axes_of(axis, len(shape)))


def spread(g: Any, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    """A reduced array back over the axes that it was reduced along."""
    if not keepdims and axis is not None:
        axes = axes_of(axis, len(shape))
        g = reshape_(g, tuple(1 if i in axes else n for i, n in enumerate(shape)))
    return broadcast_to(g, shape)


def slope_of_power(a: Any, b: Any) -> Any:
    """The derivative b a^(b-1) in a, zero for b = 0 also where a = 0."""
    return b * power_(a, where_(equal(b, 0), 1, b - 1))


def safe_log(a: Any, b: Any) -> Any:
    """log a in the derivative of a^b in b; at a = 0 the derivative is 0 for every b >= 0."""
    return log(where_(equal(a, 0), 1, a))


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes `axes`."""
    back = [0] * len(axes)
    for place, axis in enumerate(axes):
        back[axis] = place
    return tuple(back)


def opposite(shift: Any) -> Any:
    return tuple(-s for s in shift) if isinstance(shift, tuple) else -shift


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


def others(xs: Sequence[Any], i: int) -> list[Any]:
    return [x for number, x in enumerate(xs) if number != i]


def transposed(equation: str, i: int) -> str:
    """The equation of the pullback of the i-th operand: it changes places with the output."""
    inputs, output = equation.split("->")
    terms = inputs.split(",")
    return ",".join([output, *others(terms, i)]) + "->" + terms[i]


# ---- compositions: exact at every order because their parts are ------------------------------------
def _shape(shape: Any) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)


def _axis(axis: Any) -> Axis:
    return tuple(axis) if isinstance(axis, list) else axis


def power(a: Any, b: Any) -> Any:
    """a ** b, elementwise. A Python number as exponent is a constant of the op, and exact at a = 0."""
    if isinstance(b, (int, float)) and not isinstance(a, (int, float)):
        return square(a) if b == 2 else power_of(a, b)
    return power_(a, b)


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
    return value.item() if hasattr(value, "item") else value


def silu(x: Any) -> Any:
    """x sigmoid(x)."""
    return x * sigmoid(x)


def gelu(x: Any, approximate: str = "none") -> Any:
    """x Phi(x) with the normal distribution's Phi, or its tanh approximation (Hendrycks and Gimpel 2016)."""
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * power(x, 3))))
    if approximate != "none":
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def var(x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The mean squared distance from the mean (two passes); divided by the count less `ddof`."""
    centred = x - mean(x, _axis(axis), True)
    squares = sum(centred * centred, _axis(axis), keepdims)
    return squares / (count(x.shape, _axis(axis)) - ddof)


def std(x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The square root of `var`."""
    return sqrt(var(x, axis, ddof, keepdims))


def prod(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """The product along an axis, by halves: exact at every order also where factors are zero."""
    if axis is None:
        shape = (1,) * x.ndim if keepdims else ()
        return reshape(prod(reshape(x, (-1,)), 0), shape)
    axis = axes_of(axis, x.ndim)[0]
    head = (slice_(None),) * axis
    while (n := x.shape[axis]) > 1:
        half = n // 2
        pairs = take(x, (*head, slice_(0, half))) * take(x, (*head, slice_(half, 2 * half)))
        x = concatenate((pairs, take(x, (*head, slice_(2 * half, n)))), axis) if n % 2 else pairs
    if n == 0:
        ones = xp.ones((*x.shape[:axis], 1, *x.shape[axis + 1 :]), x.dtype)
        x = Tensor(ones) if isinstance(x, Tensor) else ones
    return x if keepdims else take(x, (*head, 0))


def amin(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The minimum; ties share the gradient evenly."""
    return -amax(-x, _axis(axis), keepdims)


def max(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """The maximum. Along an axis all of the gradient goes to the first one; over everything ties share it."""
    return amax(x, None, keepdims) if axis is None else _select(argmax, x, axis, keepdims)


def min(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """The minimum. Along an axis all of the gradient goes to the first one; over everything ties share it."""
    return amin(x, None, keepdims) if axis is None else _select(argmin, x, axis, keepdims)


def _select(choose: Callable[..., Any], x: Any, axis: int, keepdims: bool) -> Any:
    if not isinstance(axis, int):
        return amax(x, axis, keepdims) if choose is argmax else amin(x, axis, keepdims)
    chosen = take_along_axis(x, choose(x, axis, True), axis)
    return chosen if keepdims else squeeze(chosen, axis)


def sort(x: Any, axis: int = -1) -> Any:
    """The values in ascending order along an axis (stable)."""
    return take_along_axis(x, argsort(x, axis), axis)


def norm(x: Any, ord: float = 2, axis: Axis = None, keepdims: bool = False) -> Any:
    """(sum |x|^ord)^(1/ord) of the elements along `axis` (all of them by default); ord may be infinite.

    The derivative of the 2-norm at 0 is taken as 0.
    """
    axis = _axis(axis)
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
    return power(sum(power(abs(x), ord), axis, keepdims), 1 / ord)


def reshape(x: Any, *shape: Any) -> Any:
    """The same values in another shape; one length may be -1."""
    return reshape_(x, _shape(shape[0]) if len(shape) == 1 else _shape(shape))


def flatten(x: Any, start_axis: int = 0) -> Any:
    """All axes from `start_axis` on as one."""
    lead = x.shape[:start_axis]
    return reshape_(x, (*lead, math.prod(x.shape[start_axis:])))


def transpose(x: Any, *axes: Any) -> Any:
    """The axes in another order; reversed where none is given."""
    order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
    order = tuple(order) if order else tuple(reversed(range(x.ndim)))
    if sorted(a % x.ndim for a in order) != list(range(x.ndim)):
        raise ValueError(f"transpose: {list(order)} is not an order of the {x.ndim} axes of shape {list(x.shape)}")
    return transpose_(x, tuple(a % x.ndim for a in order))


permute = transpose


def swapaxes(x: Any, a: int, b: int) -> Any:
    """Two axes exchanged."""
    order = list(range(x.ndim))
    order[a], order[b] = order[b], order[a]
    return transpose_(x, tuple(order))


def expand_dims(x: Any, axis: int) -> Any:
    """A new axis of length 1, which stands at `axis` in the result."""
    axis = axis % (x.ndim + 1)
    return reshape_(x, (*x.shape[:axis], 1, *x.shape[axis:]))


def squeeze(x: Any, axis: Axis = None) -> Any:
    """Without the given axes (all, by default) of length 1."""
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else axes_of(_axis(axis), x.ndim)
    if any_(x.shape[a] != 1 for a in axes):
        raise ValueError(f"squeeze: axes {list(axes)} of shape {list(x.shape)} are not all of length 1")
    return reshape_(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def concatenate(xs: Sequence[Any], axis: int = 0) -> Any:
    """Several arrays one after the other along an axis that they have."""
    if not xs:
        raise ValueError("concatenate: needs at least one array")
    return concatenate_(*xs, axis=axis)


def stack(xs: Sequence[Any], axis: int = 0) -> Any:
    """Several arrays of one shape along a new axis."""
    if len({x.shape for x in xs}) > 1:
        raise ValueError(f"stack: the shapes differ: {[list(x.shape) for x in xs]}")
    return concatenate([expand_dims(x, axis) for x in xs], axis)


def split(x: Any, sections: int | Sequence[int], axis: int = 0) -> tuple[Any, ...]:
    """A tuple of parts along an axis: so many equal ones, or cut before the given positions."""
    axis = axes_of(axis, x.ndim)[0]
    n = x.shape[axis]
    if isinstance(sections, int):
        if sections < 1 or n % sections:
            raise ValueError(f"split: axis {axis} of shape {list(x.shape)} does not divide into {sections} equal parts")
        cuts = list(range(0, n + 1, n // sections)) if n else [0] * (sections + 1)
    else:
        cuts = [0, *sections, n]
    head = (slice_(None),) * axis
    return tuple(take(x, (*head, slice_(a, b))) for a, b in zip(cuts[:-1], cuts[1:], strict=True))


def pad(x: Any, width: Any, value: float = 0) -> Any:
    """x in a frame of `value`: one width for all sides, (before, after), or a pair for each axis."""
    if isinstance(width, int):
        width = (width, width)
    if isinstance(width[0], int):
        width = [tuple(width)] * x.ndim
    pairs = tuple((int(a), int(b)) for a, b in width)
    if len(pairs) != x.ndim or any_(a < 0 or b < 0 for a, b in pairs):
        raise ValueError(f"pad: needs a pair of widths >= 0 for each axis of shape {list(x.shape)}, not {list(pairs)}")
    return pad_(x, pairs, value)


def tile(x: Any, reps: Any) -> Any:
    """x repeated as a whole, so many times along each axis."""
    reps = _shape(reps)
    ndim = max_(len(reps), x.ndim)
    reps = (1,) * (ndim - len(reps)) + reps
    shape = (1,) * (ndim - x.ndim) + x.shape
    apart = reshape_(x, tuple(n for s in shape for n in (1, s)))
    wide = broadcast_to(apart, tuple(n for r, s in zip(reps, shape, strict=True) for n in (r, s)))
    return reshape_(wide, tuple(r * s for r, s in zip(reps, shape, strict=True)))


def repeat(x: Any, repeats: int, axis: int | None = None) -> Any:
    """Each element repeated so many times along an axis (of the flat array, where none is given)."""
    if axis is None:
        x, axis = reshape(x, -1), 0
    axis = axes_of(axis, x.ndim)[0]
    head, tail = x.shape[: axis + 1], x.shape[axis + 1 :]
    wide = broadcast_to(reshape_(x, (*head, 1, *tail)), (*head, repeats, *tail))
    return reshape_(wide, (*x.shape[:axis], x.shape[axis] * repeats, *tail))


def tril(x: Any, k: int = 0) -> Any:
    """The last two axes' lower triangle, from the k-th diagonal down; zeros above."""
    return where_(xp.tri(*x.shape[-2:], k, dtype=bool), x, 0)


def triu(x: Any, k: int = 0) -> Any:
    """The last two axes' upper triangle, from the k-th diagonal up; zeros below."""
    return where_(~xp.tri(*x.shape[-2:], k - 1, dtype=bool), x, 0)


def getitem(x: Any, index: Any) -> Any:
    """x[index], basic and advanced; where an index repeats, its cotangents add up."""
    index = raw_index(index)
    if isinstance(index, list):
        index = xp.asarray(index)
    elif isinstance(index, tuple):
        index = tuple(xp.asarray(part) if isinstance(part, list) else part for part in index)
    return take(x, index)


def take_along_axis(x: Any, index: Any, axis: int) -> Any:
    """x at an integer array of x's number of axes: out[i, j] = x[index[i, j], j] for axis 0."""
    index = index.data if isinstance(index, Tensor) else index
    axis = axes_of(axis, x.ndim)[0]
    _check_along("take_along_axis", x, index, axis)
    return take(x, kernels.along(index, x.shape, axis))


def scatter_add(x: Any, index: Any, source: Any, axis: int = 0) -> Any:
    """x with source added at an integer array: out[index[i, j], j] += source[i, j] for axis 0."""
    index = index.data if isinstance(index, Tensor) else index
    axis = axes_of(axis, x.ndim)[0]
    _check_along("scatter_add", x, index, axis)
    if source.shape != index.shape:
        raise ValueError(f"scatter_add: index {list(index.shape)} and source {list(source.shape)} must agree in shape")
    return x + scatter(source, x.shape, kernels.along(index, x.shape, axis))


def _check_along(op: str, x: Any, index: Any, axis: int) -> None:
    if index.dtype.kind not in "iu":
        raise TypeError(f"{op}: the index holds integers, not {index.dtype}")
    if index.ndim != x.ndim:
        raise ValueError(f"{op}: the index {list(index.shape)} needs as many axes as the array {list(x.shape)}")


def matmul(a: Any, b: Any) -> Any:
    """The matrix product over the last two axes; others broadcast; 1-d operands are rows or columns."""
    if not a.ndim or not b.ndim:
        raise ValueError(f"matmul: operands of shapes {list(a.shape)} and {list(b.shape)}; multiply by a number with *")
    if a.ndim == 1 or b.ndim == 1:
        shape = (a.shape[:-1] if a.ndim > 1 else ()) + ((*b.shape[:-2], b.shape[-1]) if b.ndim > 1 else ())
        shape = (*b.shape[:-2], b.shape[-1]) if a.ndim == 1 and b.ndim > 1 else shape
        row = reshape_(a, (1, a.shape[0])) if a.ndim == 1 else a
        column = reshape_(b, (b.shape[0], 1)) if b.ndim == 1 else b
        return reshape_(matmul_(row, column), shape)
    if b.ndim == 2 and a.ndim > 2:
        rows = matmul_(reshape_(a, (math.prod(a.shape[:-1]), a.shape[-1])), b)
        return reshape_(rows, (*a.shape[:-1], b.shape[-1]))
    return matmul_(a, b)


def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    """The sum of products over the last `axes` of a and the first of b, or over two lists of axes."""
    if isinstance(axes, int):
        axes = (list(range(a.ndim - axes, a.ndim)), list(range(axes)))
    of_a, of_b = ([ax] if isinstance(ax, int) else list(ax) for ax in axes)
    of_a, of_b = [ax % a.ndim for ax in of_a], [ax % b.ndim for ax in of_b]
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
    rows, columns = x.shape[-2:]
    n = max_(0, min_(rows + min_(offset, 0), columns - max_(offset, 0)))
    steps = xp.arange(n)
    return take(x, (Ellipsis, steps - min_(offset, 0), steps + max_(offset, 0)))


def trace(x: Any, offset: int = 0) -> Any:
    """The sum of the diagonal of the last two axes."""
    return sum(diagonal(x, offset), -1)


def einsum(equation: str, *operands: Any) -> Any:
    """Einstein's summation, for any equation that NumPy takes and any number of operands.

    Ellipses are written out, repeated letters in one term become diagonals, letters that stand in one
    term alone are summed first. What is left is a row whose pullbacks are einsums of the same form.
    """
    terms, output = kernels.explicit(equation, [x.ndim for x in operands])
    sizes: dict[str, int] = {}
    for term, x in zip(terms, operands, strict=True):
        for letter, n in zip(term, x.shape, strict=True):
            if sizes.setdefault(letter, n) == 1:
                sizes[letter] = n
            elif n not in (1, sizes[letter]):
                raise ValueError(f"einsum: {equation!r}: {letter!r} is {sizes[letter]} and {n} long")
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


def moved_diagonal(x: Any, i: int, j: int) -> Any:
    """The diagonal of axes i and j, as the last axis."""
    rest = [axis for axis in range(x.ndim) if axis not in (i, j)]
    return diagonal(transpose_(x, (*rest, i, j)))


name_rows(globals())

# ---- operators and methods -------------------------------------------------------------------------
_OPERATORS = {
    "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul,
    "floordiv": floor_divide, "and": logical_and, "or": logical_or, "xor": logical_xor,
}  # fmt: skip
_COMPARISONS = {"lt": less, "le": less_equal, "gt": greater, "ge": greater_equal, "eq": equal, "ne": not_equal}
_METHODS = (
    "abs all alias amax amin any argmax argmin argsort arccos arcsin arctan astype broadcast_to ceil clip cos cosh "
    "cumsum diagonal elu erf exp expand_dims expm1 flatten flip floor gelu isfinite isnan leaky_relu log log10 log1p log2 "
    "logsumexp matmul max mean min norm pad permute power prod reciprocal relu repeat reshape roll round scatter_add "
    "sigmoid sign silu sin sinh softplus sort split sqrt square squeeze std sum swapaxes take_along_axis tan tanh "
    "tensordot tile trace transpose tril triu var windows"
).split()


def _attach() -> None:
    """Gives Tensor Python's operators and, as methods, the ops whose first argument is the Tensor."""
    for name, op in _OPERATORS.items():
        setattr(Tensor, f"__{name}__", op)
        setattr(Tensor, f"__r{name}__", _swapped(op))
    for name, op in _COMPARISONS.items():
        setattr(Tensor, f"__{name}__", op)
    for name in _METHODS:
        setattr(Tensor, name, globals()[name])
    Tensor.__hash__ = object.__hash__  # type: ignore[method-assign]
    Tensor.__neg__ = negative  # type: ignore[attr-defined]
    Tensor.__abs__ = abs  # type: ignore[attr-defined]
    Tensor.__invert__ = logical_not  # type: ignore[attr-defined]
    Tensor.__getitem__ = getitem  # type: ignore[attr-defined]
    Tensor.T = property(transpose)  # type: ignore[attr-defined]
    Tensor.mT = property(mT)  # type: ignore[attr-defined]


def _swapped(op: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def reflected(b: Any, a: Any) -> Any:
        return op(a, b)

    return reflected


_attach()

__all__ = [
    *_METHODS, "add", "arccosh", "arcsinh", "arctan2", "arctanh", "concatenate", "conv", "conv_input", "conv_weight",
    "divide", "einsum", "equal", "exp2", "floor_divide", "fold", "greater", "greater_equal", "less", "less_equal",
    "logical_and", "logical_not", "logical_or", "logical_xor", "maximum", "minimum", "multiply", "negative", "not_equal",
    "outer", "scatter", "stack", "subtract", "sum_to", "where",
]  # fmt: skip
