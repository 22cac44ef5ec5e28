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

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from minigrad import ops
from minigrad.backend import is_array, xp
from minigrad.backend import numpy as host
from minigrad.ops import Axis
from minigrad.tensor import Tensor, raw_index

Function = Callable[..., Any]

UFUNCS: dict[str, Function] = {
    name: getattr(ops, name)
    for name in [
        "abs", "add", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "ceil", "cos",
        "cosh", "divide", "equal", "exp", "exp2", "expm1", "floor", "floor_divide", "greater", "greater_equal",
        "isfinite", "isinf", "isnan", "less", "less_equal", "log", "log10", "log1p", "log2", "logical_and",
        "logical_not", "logical_or", "logical_xor", "matmul", "maximum", "minimum", "multiply", "negative", "not_equal",
        "power", "reciprocal", "remainder", "sign", "sin", "sinh", "sqrt", "square", "subtract", "tan", "tanh",
    ]
} | {
    "absolute": ops.abs,
    "bitwise_and": ops.bitwise_and,
    "bitwise_or": ops.bitwise_or,
    "bitwise_xor": ops.bitwise_xor,
    "conjugate": ops.alias,
    "fabs": ops.abs,
    "float_power": ops.power,
    "fmax": ops.maximum,
    "fmin": ops.minimum,
    "hypot": lambda a, b: ops.sqrt(a * a + b * b),
    "invert": ops.bitwise_not,
    "logaddexp": lambda a, b: ops.maximum(a, b) + ops.log1p(ops.exp(-ops.abs(a - b))),
    "positive": ops.alias,
    "rint": ops.round,
    "true_divide": ops.divide,
}  # fmt: skip
"""NumPy's elementwise functions by name."""

REDUCTIONS: dict[str, Function] = {"add": ops.sum, "multiply": ops.prod, "maximum": ops.amax, "minimum": ops.amin}
"""What `np.add.reduce` and its like are called here."""


def _reduction(op: Function) -> Function:
    def reduce(a: Any, axis: Axis = None, keepdims: bool = False) -> Any:
        return op(a, axis, keepdims=bool(keepdims))

    return reduce


def _spread(op: Function) -> Function:
    def moment(a: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False, correction: int = 0) -> Any:
        return op(a, axis, ddof or correction, bool(keepdims))

    return moment


def _like(fill: Any) -> Function:
    def like(a: Any, fill_value: Any = fill, dtype: Any = None, shape: Any = None) -> Tensor:
        value = fill_value.item() if isinstance(fill_value, Tensor) else fill_value
        return Tensor(xp.full(a.shape if shape is None else shape, value, dtype or a.dtype))

    return like


def average(a: Any, axis: Axis = None, weights: Any = None) -> Any:
    """The mean, or the weighted mean for weights of a's shape."""
    if weights is None:
        return ops.mean(a, axis)
    return ops.sum(a * weights, axis) / ops.sum(weights, axis)


def clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    """Also for bounds that are arrays."""
    low, high = (min if a_min is None else a_min), (max if a_max is None else a_max)
    if any(getattr(bound, "ndim", 0) or isinstance(bound, Tensor) for bound in (low, high)):
        a = a if low is None else ops.maximum(a, low)
        return a if high is None else ops.minimum(a, high)
    return ops.clip(a, low, high)


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


def diag(v: Any, k: int = 0) -> Any:
    """The diagonal of a matrix, or a matrix with a given diagonal."""
    if v.ndim == 2:
        return ops.diagonal(v, k)
    n = v.shape[0] + abs(k)
    rows = xp.arange(v.shape[0]) + max(-k, 0)
    return ops.scatter(v, (n, n), (rows, rows + k))


def linalg_norm(x: Any, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Any:
    """Vector norms, and the Frobenius norm of matrices."""
    matrix = (axis is None and x.ndim == 2) or (isinstance(axis, tuple) and len(axis) == 2)
    if ord in (None, "fro") or (ord == 2 and not matrix):
        return ops.norm(x, 2, axis, keepdims)
    if matrix:
        raise TypeError(f"np.linalg.norm: the tape knows no {ord!r} norm of a matrix; only the Frobenius norm")
    return ops.norm(x, ord, axis, keepdims)


def moveaxis(a: Any, source: Any, destination: Any) -> Any:
    sources = [s % a.ndim for s in ((source,) if isinstance(source, int) else source)]
    places = [d % a.ndim for d in ((destination,) if isinstance(destination, int) else destination)]
    order = [axis for axis in range(a.ndim) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return ops.transpose(a, tuple(order))


def pad(array: Any, pad_width: Any, mode: str = "constant", constant_values: float = 0) -> Any:
    if mode != "constant":
        raise TypeError(f"np.pad: the tape sees mode='constant' only, not {mode!r}")
    if not isinstance(pad_width, int) and len(pad_width) == 1 and not isinstance(pad_width[0], int):
        pad_width = tuple(pad_width[0])
    return ops.pad(array, pad_width, constant_values)


def reshape(a: Any, shape: Any = None, newshape: Any = None) -> Any:
    return ops.reshape(a, newshape if shape is None else shape)


def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    sections = indices_or_sections
    return list(ops.split(ary, sections if isinstance(sections, int) else [int(s) for s in sections], axis))


def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    if isinstance(indices_or_sections, int):
        n, k = ary.shape[axis], indices_or_sections
        indices_or_sections = [i * (n // k) + min(i, n % k) for i in range(1, k)]
    return split(ary, indices_or_sections, axis)


def take(a: Any, indices: Any, axis: int | None = None) -> Any:
    if axis is None:
        return ops.getitem(ops.reshape(a, -1), indices)
    return ops.getitem(a, (slice(None),) * (axis % a.ndim) + (indices,))


def where(condition: Any, *choices: Any) -> Any:
    """np.where(c, a, b); np.where(c) gives indices, which are constants."""
    if not choices:
        return host.where(condition.numpy() if isinstance(condition, Tensor) else condition)
    if condition.dtype != bool:
        condition = ops.not_equal(condition, 0)
    return ops.where(condition, *choices)


def _at_least(ndim: int) -> Function:
    def at_least(x: Any) -> Any:
        return x if x.ndim >= ndim else ops.reshape(x, (1,) * (ndim - x.ndim) + x.shape)

    return at_least


def _constant(name: str) -> Function:
    """A NumPy function whose result is no part of any gradient: run on the values."""

    def run(*args: Any, **kwargs: Any) -> Any:
        function = getattr(host, name)
        values = [a.numpy() if isinstance(a, Tensor) else a for a in args]
        return function(*values, **{k: v.numpy() if isinstance(v, Tensor) else v for k, v in kwargs.items()})

    return run


FUNCTIONS: dict[str, Function] = {
    name: getattr(ops, name)
    for name in [
        "broadcast_to", "cumsum", "diagonal", "einsum", "expand_dims", "flip", "outer", "repeat", "roll", "round",
        "sort", "squeeze", "swapaxes", "take_along_axis", "tensordot", "tile", "trace", "tril", "triu", "argmax",
        "argmin", "argsort", "all", "any",
    ]
} | {
    "amax": _reduction(ops.max),
    "amin": _reduction(ops.min),
    "around": ops.round,
    "array_split": array_split,
    "atleast_1d": _at_least(1),
    "atleast_2d": _at_least(2),
    "average": average,
    "clip": clip,
    "column_stack": lambda xs: ops.concatenate([x if x.ndim > 1 else ops.reshape(x, (-1, 1)) for x in xs], 1),
    "concatenate": lambda arrays, axis=0: ops.concatenate(arrays, axis),
    "copy": lambda a, order="K": ops.alias(a),
    "diag": diag,
    "dot": dot,
    "empty_like": _like(0),
    "fliplr": lambda m: ops.flip(m, 1),
    "flipud": lambda m: ops.flip(m, 0),
    "full_like": _like(0),
    "hsplit": lambda a, sections: split(a, sections, 1 if a.ndim > 1 else 0),
    "hstack": lambda xs: ops.concatenate(list(xs), 1 if xs[0].ndim > 1 else 0),
    "inner": inner,
    "linalg.norm": linalg_norm,
    "matrix_transpose": ops.mT,
    "max": _reduction(ops.max),
    "mean": _reduction(ops.mean),
    "min": _reduction(ops.min),
    "moveaxis": moveaxis,
    "ndim": lambda a: a.ndim,
    "ones_like": _like(1),
    "pad": pad,
    "prod": _reduction(ops.prod),
    "ravel": lambda a, order="C": ops.reshape(a, -1),
    "reshape": reshape,
    "shape": lambda a: a.shape,
    "size": lambda a, axis=None: a.size if axis is None else a.shape[axis],
    "split": split,
    "stack": lambda arrays, axis=0: ops.stack(list(arrays), axis),
    "std": _spread(ops.std),
    "sum": _reduction(ops.sum),
    "take": take,
    "transpose": lambda a, axes=None: ops.transpose(a, *(() if axes is None else (tuple(axes),))),
    "var": _spread(ops.var),
    "vdot": lambda a, b: ops.sum(ops.reshape(a, -1) * ops.reshape(b, -1)),
    "vsplit": lambda a, sections: split(a, sections, 0),
    "vstack": lambda xs: ops.concatenate([_at_least(2)(x) for x in xs], 0),
    "where": where,
    "zeros_like": _like(0),
} | {
    name: _constant(name)
    for name in [
        "allclose", "array_equal", "array_repr", "array_str", "count_nonzero", "isclose", "nonzero", "result_type",
        "unique",
    ]
}  # fmt: skip
"""NumPy's other functions by name, `linalg.` before those of numpy.linalg."""

IGNORED = {"casting", "optimize", "order", "subok", "copy"}
"""Keywords that change how NumPy computes and not what; None stands for "not given" in all others."""


def _call(name: str, op: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs the op with NumPy's arguments, the float arrays among them in one dtype, as NumPy would."""
    given = {k: v for k, v in kwargs.items() if k not in IGNORED and v is not None and v is not host._NoValue}
    for refused in ("out", "where", "initial"):
        if refused in given:
            raise TypeError(
                f"np.{name}: {refused}= writes or selects where the tape cannot see it; assign the result instead "
                f"(a = np.{name}(...), a = a + t for a += t)"
            )
    dtype = given.pop("dtype", None) if name not in LIKES else None
    try:
        result = op(*_promoted(args), **given)
    except TypeError as error:
        if "unexpected keyword" in str(error) or "positional argument" in str(error):
            raise TypeError(f"np.{name}: on Tensors this form of the call is not known: {error}") from error
        raise
    return ops.astype(result, dtype) if dtype is not None and isinstance(result, Tensor) else result


LIKES = {"zeros_like", "ones_like", "empty_like", "full_like"}


def _promoted(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Operands of several floating dtypes in the widest, which is NumPy's rule (minigrad's own ops raise)."""
    arrays = [a for a in args if (isinstance(a, Tensor) or is_array(a)) and a.ndim]
    floats = {a.dtype for a in arrays if a.dtype.kind == "f"}
    if len(floats) < 2:
        return args
    widest = max(floats, key=lambda dtype: dtype.itemsize)
    return tuple(
        ops.astype(a, widest) if (isinstance(a, Tensor) or is_array(a)) and a.ndim and a.dtype in floats else a
        for a in args
    )


def array_ufunc(self: Tensor, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """`Tensor.__array_ufunc__`."""
    name = ufunc.__name__.removeprefix("cupy_")
    if method == "reduce" and name in REDUCTIONS:
        kwargs.setdefault("axis", args[1] if len(args) > 1 else 0)
        return REDUCTIONS[name](args[0], kwargs["axis"], keepdims=bool(kwargs.get("keepdims")))
    if method != "__call__" or name not in UFUNCS:
        raise TypeError(unknown(name if method == "__call__" else f"{name}.{method}"))
    return _call(name, UFUNCS[name], args, kwargs)


def array_function(self: Tensor, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`Tensor.__array_function__`."""
    module = function.__module__.removeprefix("numpy").lstrip(".")
    name = f"{module}.{function.__name__}" if module and not module.startswith("_") else function.__name__
    if name not in FUNCTIONS:
        raise TypeError(unknown(name))
    return _call(name, FUNCTIONS[name], args, kwargs)


def unknown(name: str) -> str:
    """The message for a function that the tape cannot see through."""
    return (
        f"np.{name}: the tape cannot see through this NumPy function. Write it with functions that have a derivative "
        "here, give it one with mg.primitive, or pass t.numpy() where no gradient is meant to flow"
    )


def array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Any:
    """`Tensor.__array__`: constants are arrays; a Tensor on the tape would lose its history silently, and raises."""
    if self.node is not None:
        raise TypeError(
            f"np.asarray (or an assignment into a NumPy array): the {self.dtype} {list(self.shape)} Tensor"
            f"{f' {self.label!r}' if self.label else ''} is on the tape, and as an array it would leave it unseen; "
            "keep to NumPy functions of the Tensor, or say t.numpy() where no gradient is meant to flow"
        )
    values = self.numpy()
    return values if dtype is None else values.astype(dtype)


def assigned(t: Any, index: Any, value: Any) -> Any:
    """t with `value` at `index`: what `t[index] = value` leaves in t, as an op. Repeated places: the last wins."""
    index = raw_index(index)
    places = xp.arange(t.size).reshape(t.shape)[index]
    source = xp.full((t.size,), -1)
    source[places.reshape(-1)] = xp.arange(places.size)
    source = source.reshape(t.shape)
    if not isinstance(value, Tensor):
        value = Tensor(xp.asarray(value, t.dtype))
    elif value.dtype != t.dtype:
        value = ops.astype(value, t.dtype)
    extra = value.ndim - places.ndim
    value = ops.reshape(value, value.shape[extra:]) if extra > 0 else value
    values = ops.reshape(ops.broadcast_to(value, places.shape), -1)
    return ops.where(source >= 0, ops.getitem(values, xp.maximum(source, 0)), t) if places.size else ops.alias(t)


def _assign(self: Tensor, index: Any, value: Any) -> None:
    written = assigned(Tensor(self.data, self.node), index, value)
    self.data, self.node = written.data, written.node


def _promoting(operator: Function) -> Function:
    """An operator of Tensors that widens floating dtypes as NumPy's does."""
    return lambda a, b: operator(*_promoted((a, b)))


MAKERS = ("zeros", "ones", "empty", "full")
OPERATORS = [f"__{r}{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "matmul") for r in ("", "r")] + [
    f"__{name}__" for name in ("lt", "le", "gt", "ge", "eq", "ne")
]


@contextlib.contextmanager
def writable(is_theirs: Callable[[str], bool]) -> Iterator[None]:
    """Inside this block assignments into Tensors are recorded, and np.zeros and its like make Tensors.

    Operators widen floating dtypes as NumPy's do (outside, minigrad refuses to mix them).

    is_theirs: of a file's name, whether it is the studied code; NumPy's functions stay as they are for
    all other code. Meant for one thread: NumPy's namespace is changed for the length of the block.
    """
    before = {name: getattr(host, name) for name in MAKERS}
    methods = {name: getattr(Tensor, name) for name in (*OPERATORS, "__setitem__")}

    def made(original: Function) -> Function:
        def make(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            tracked = result.dtype.kind == "f" and "like" not in kwargs and is_theirs(_calling_file())
            return Tensor(xp.asarray(result)) if tracked else result

        return make

    try:
        for name, original in before.items():
            setattr(host, name, made(original))
        for name in OPERATORS:
            setattr(Tensor, name, _promoting(methods[name]))
        Tensor.__setitem__ = _assign  # type: ignore[method-assign]
        yield
    finally:
        for name, original in methods.items():
            setattr(Tensor, name, original)
        for name, original in before.items():
            setattr(host, name, original)


def _calling_file() -> str:
    """The file of the code that called a replaced NumPy function."""
    return sys._getframe(2).f_code.co_filename


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
