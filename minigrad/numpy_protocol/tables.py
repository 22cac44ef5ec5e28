"""The tables: the name of a NumPy function, and the function of minigrad's that means the same."""

from __future__ import annotations

import math
from typing import Any

from minigrad import ops
from minigrad.backend import numpy as host
from minigrad.backend import xp
from minigrad.numpy_protocol import arrangements as arranged
from minigrad.numpy_protocol import products, reductions
from minigrad.numpy_protocol.promotion import Function, as_values

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
    "cbrt": lambda x: ops.sign(x) * ops.power(ops.abs(x), 1 / 3),
    "conjugate": ops.alias,
    "copysign": lambda a, b: ops.abs(a) * signs(b),
    "deg2rad": lambda x: x * (math.pi / 180),
    "degrees": lambda x: x * (180 / math.pi),
    "divmod": lambda a, b: (ops.floor_divide(a, b), ops.remainder(a, b)),
    "erf": ops.erf,
    "erfc": ops.erfc,
    "expit": ops.sigmoid,
    "fabs": ops.abs,
    "float_power": ops.power,
    "fmax": lambda a, b: beside_nan(ops.maximum, a, b),
    "fmin": lambda a, b: beside_nan(ops.minimum, a, b),
    "fmod": lambda a, b: signs(a) * ops.remainder(signs(a) * a, ops.abs(b)),
    "heaviside": lambda x, h: ops.where(ops.equal(x, 0), h, ops.astype(ops.greater(x, 0), x.dtype)),
    "hypot": lambda a, b: ops.sqrt(a * a + b * b),
    "invert": ops.bitwise_not,
    "logaddexp": lambda a, b: ops.maximum(a, b) + ops.log1p(ops.exp(-gap(a, b))),
    "logaddexp2": lambda a, b: ops.maximum(a, b) + ops.log1p(ops.exp2(-gap(a, b))) / math.log(2),
    "modf": lambda x: (x - truncated(x), truncated(x)),
    "positive": ops.alias,
    "rad2deg": lambda x: x * (180 / math.pi),
    "radians": lambda x: x * (math.pi / 180),
    "rint": ops.round,
    "signbit": lambda x: host.signbit(as_values(x)),
    "true_divide": ops.divide,
    "trunc": lambda x: truncated(x),
    "vecdot": lambda a, b, axis=-1: ops.sum(a * b, axis),
}  # fmt: skip
"""NumPy's elementwise functions by name, and three of SciPy's."""


def truncated(x: Any) -> Any:
    return ops.sign(x) * ops.floor(ops.abs(x))


def signs(x: Any) -> Any:
    """1 and -1, the latter also for -0.0: constants."""
    return ops.where(xp.asarray(host.signbit(as_values(x))), -1.0, 1.0)


def gap(a: Any, b: Any) -> Any:
    """|a - b|, and 0 between equal infinities."""
    equal = ops.equal(a, b)
    return ops.where(equal, 0.0, ops.maximum(a, b)) - ops.where(equal, 0.0, ops.minimum(a, b))


def beside_nan(op: Function, a: Any, b: Any) -> Any:
    """op of two elements, and the other one where one of them is NaN."""
    return ops.where(ops.isnan(a), b, op(a, ops.where(ops.isnan(b), a, b)))


REDUCED = {
    "add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min", "logical_and": "all", "logical_or": "any",
    "logaddexp": "logsumexp",
}  # fmt: skip
"""What np.add.reduce and its like are called otherwise."""

MOST = float(host.finfo(host.float64).max)

FUNCTIONS: dict[str, Any] = {
    name: getattr(ops, name)
    for name in [
        "broadcast_to", "einsum", "flip", "logsumexp", "outer", "roll", "round", "squeeze", "tensordot", "tile", "tril",
        "triu",
    ]
} | {
    name: reductions.choice(getattr(ops, name))
    for name in ["all", "any", "argmax", "argmin"]
} | {
    name: getattr(reductions, name)
    for name in [
        "average", "corrcoef", "cov", "diff", "median", "percentile", "ptp", "quantile", "std", "trapezoid", "var",
    ]
} | {
    name: getattr(products, name)
    for name in ["convolve", "correlate", "cross", "dot", "inner", "kron", "polyval", "vdot"]
} | {
    f"linalg.{name}": getattr(products, name)
    for name in ["cross", "det", "inv", "matrix_power", "multi_dot", "norm", "slogdet", "solve", "vector_norm"]
} | {
    name: getattr(arranged, name)
    for name in [
        "array_split", "bincount", "clip", "column_stack", "concatenate", "copyto", "diag", "diagonal", "expand_dims",
        "fill_diagonal", "full_like", "hstack", "moveaxis", "pad", "putmask", "ravel", "repeat", "reshape", "select",
        "split", "stack", "swapaxes", "take", "take_along_axis", "trace", "transpose", "vstack", "where",
    ]
} | reductions.extreme | reductions.nan_extreme | {
    "amax": reductions.extreme["max"],
    "amin": reductions.extreme["min"],
    "append": arranged.moves("append", 0, 1),
    "argsort": reductions.flat(ops.argsort),
    "around": ops.round,
    "astype": arranged.cast,
    "atleast_1d": arranged.at_least(1),
    "atleast_2d": arranged.at_least(2),
    "atleast_3d": arranged.moves("atleast_3d"),
    "block": arranged.moves("block"),
    "broadcast_arrays": arranged.moves("broadcast_arrays"),
    "choose": arranged.moves("choose", 1),
    "compress": arranged.moves("compress", 1),
    "copy": arranged.copied,
    "cumprod": reductions.flat(reductions.cumprod),
    "cumsum": reductions.flat(ops.cumsum),
    "delete": arranged.moves("delete", 0),
    "diagflat": lambda v, k=0: arranged.diag(ops.reshape(v, -1), k),
    "dsplit": arranged.cut_along(2),
    "dstack": arranged.moves("dstack"),
    "empty_like": arranged.like(0),
    "extract": arranged.moves("extract", 1),
    "fliplr": lambda m: ops.flip(m, 1),
    "flipud": lambda m: ops.flip(m, 0),
    "hsplit": arranged.cut_along(1),
    "imag": lambda a: a * 0,
    "insert": arranged.moves("insert", 0, 2),
    "lib.stride_tricks.sliding_window_view": arranged.moves("lib.stride_tricks.sliding_window_view", 0),
    "linalg.diagonal": ops.diagonal,
    "linalg.matmul": ops.matmul,
    "linalg.matrix_transpose": ops.mT,
    "linalg.outer": ops.outer,
    "linalg.tensordot": ops.tensordot,
    "linalg.trace": ops.trace,
    "linalg.vecdot": UFUNCS["vecdot"],
    "matrix_transpose": ops.mT,
    "mean": reductions.mean_over,
    "meshgrid": arranged.moves("meshgrid"),
    "nan_to_num": lambda x, copy=True, nan=0.0: ops.where(ops.isnan(x), nan, ops.clip(x, -MOST, MOST)),
    "nanmean": reductions.without_nan(reductions.mean_over),
    "nanprod": reductions.without_nan(reductions.product),
    "nanstd": reductions.without_nan(reductions.std),
    "nansum": reductions.without_nan(reductions.total),
    "nanvar": reductions.without_nan(reductions.var),
    "ndim": lambda a: a.ndim,
    "ones_like": arranged.like(1),
    "prod": reductions.product,
    "real": arranged.same,
    "resize": arranged.moves("resize", 0),
    "rollaxis": arranged.moves("rollaxis", 0),
    "rot90": arranged.moves("rot90", 0),
    "shape": lambda a: a.shape,
    "size": lambda a, axis=None: a.size if axis is None else a.shape[axis],
    "sort": reductions.flat(ops.sort),
    "sum": reductions.total,
    "unstack": arranged.moves("unstack", 0),
    "vsplit": arranged.cut_along(0),
    "zeros_like": arranged.like(0),
}  # fmt: skip
"""NumPy's other functions by name, `linalg.` before those of numpy.linalg."""

CONSTANT = {
    "allclose", "argwhere", "array_equal", "array_repr", "array_str", "can_cast", "count_nonzero", "digitize",
    "flatnonzero", "isclose", "iscomplexobj", "isrealobj", "min_scalar_type", "nonzero", "result_type", "searchsorted",
}  # fmt: skip
"""NumPy functions whose result is no part of any gradient: they run on the values."""

INSTEAD = {
    "apply_along_axis": "write the function for whole arrays, with axis=",
    "argpartition": "use np.argsort",
    "fft": "write the transform as a product with its matrix",
    "gradient": "use np.diff, or slices",
    "interp": "find the piece with np.searchsorted and write the line through its ends",
    "linalg.cholesky": "no factorisation has a derivative here; np.linalg.inv, solve, det and slogdet have",
    "linalg.lstsq": "solve the normal equations with np.linalg.solve",
    "linalg.pinv": "for full rank, np.linalg.solve(a.T @ a, a.T)",
    "nditer": "use np.ndindex(a.shape)",
    "partition": "use np.sort",
    "piecewise": "use np.where or np.select",
    "sinc": "write np.sin(np.pi * x) / (np.pi * x)",
    "unique": "use np.sort",
    "vectorize": "write the function for whole arrays",
} | dict.fromkeys(
    ["linalg.eig", "linalg.eigh", "linalg.eigvals", "linalg.eigvalsh", "linalg.qr", "linalg.svd", "linalg.svdvals"],
    "no factorisation has a derivative here; np.linalg.inv, solve, det and slogdet have",
)  # fmt: skip
"""What to write in the place of functions that have no derivative here."""
