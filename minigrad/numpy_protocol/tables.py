"""The tables: the name of a NumPy function, and the function of minigrad's that means the same."""

from __future__ import annotations

from minigrad import ops
from minigrad.numpy_protocol.functions import (
    Function,
    array_split,
    at_least,
    average,
    clip,
    constant,
    diag,
    dot,
    inner,
    like,
    linalg_norm,
    moment,
    moveaxis,
    pad,
    reduction,
    reshape,
    split,
    take,
    where,
)

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

FUNCTIONS: dict[str, Function] = {
    name: getattr(ops, name)
    for name in [
        "broadcast_to", "cumsum", "diagonal", "einsum", "expand_dims", "flip", "outer", "repeat", "roll", "round",
        "sort", "squeeze", "swapaxes", "take_along_axis", "tensordot", "tile", "trace", "tril", "triu", "argmax",
        "argmin", "argsort", "all", "any",
    ]
} | {
    "amax": reduction(ops.max),
    "amin": reduction(ops.min),
    "around": ops.round,
    "array_split": array_split,
    "atleast_1d": at_least(1),
    "atleast_2d": at_least(2),
    "average": average,
    "clip": clip,
    "column_stack": lambda xs: ops.concatenate([x if x.ndim > 1 else ops.reshape(x, (-1, 1)) for x in xs], 1),
    "concatenate": lambda arrays, axis=0: ops.concatenate(arrays, axis),
    "copy": lambda a, order="K": ops.alias(a),
    "diag": diag,
    "dot": dot,
    "empty_like": like(0),
    "fliplr": lambda m: ops.flip(m, 1),
    "flipud": lambda m: ops.flip(m, 0),
    "full_like": like(0),
    "hsplit": lambda a, sections: split(a, sections, 1 if a.ndim > 1 else 0),
    "hstack": lambda xs: ops.concatenate(list(xs), 1 if xs[0].ndim > 1 else 0),
    "inner": inner,
    "linalg.norm": linalg_norm,
    "matrix_transpose": ops.mT,
    "max": reduction(ops.max),
    "mean": reduction(ops.mean),
    "min": reduction(ops.min),
    "moveaxis": moveaxis,
    "ndim": lambda a: a.ndim,
    "ones_like": like(1),
    "pad": pad,
    "prod": reduction(ops.prod),
    "ravel": lambda a, order="C": ops.reshape(a, -1),
    "reshape": reshape,
    "shape": lambda a: a.shape,
    "size": lambda a, axis=None: a.size if axis is None else a.shape[axis],
    "split": split,
    "stack": lambda arrays, axis=0: ops.stack(list(arrays), axis),
    "std": moment(ops.std),
    "sum": reduction(ops.sum),
    "take": take,
    "transpose": lambda a, axes=None: ops.transpose(a, *(() if axes is None else (tuple(axes),))),
    "var": moment(ops.var),
    "vdot": lambda a, b: ops.sum(ops.reshape(a, -1) * ops.reshape(b, -1)),
    "vsplit": lambda a, sections: split(a, sections, 0),
    "vstack": lambda xs: ops.concatenate([at_least(2)(x) for x in xs], 0),
    "where": where,
    "zeros_like": like(0),
} | {
    name: constant(name)
    for name in [
        "allclose", "array_equal", "array_repr", "array_str", "count_nonzero", "isclose", "nonzero", "result_type",
        "unique",
    ]
}  # fmt: skip
"""NumPy's other functions by name, `linalg.` before those of numpy.linalg."""
