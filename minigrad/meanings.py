"""What the public rows of the table say in words: their docstrings, for `help(mg.tanh)`.

Of an elementwise row a line holds the value and the derivative of y in each argument, as an expression that the
tests compute. Of the others it says where the cotangent goes. `ALONG`: which axes, of a reduction.
"""

from __future__ import annotations

from typing import Any

ALONG = "along `axis` (a number, a tuple of them, or None for all; `keepdims` leaves them with length 1)"

DERIVATIVES: dict[str, tuple[str, ...]] = {
    "abs": ("|x|", "sign(x)"),
    "add": ("a + b", "1", "1"),
    "arccos": ("The angle in [0, pi] whose cosine is x", "-1 / sqrt(1 - x**2)"),
    "arccosh": ("The number >= 0 whose hyperbolic cosine is x", "1 / sqrt(x**2 - 1)"),
    "arcsin": ("The angle in [-pi/2, pi/2] whose sine is x", "1 / sqrt(1 - x**2)"),
    "arcsinh": ("The number whose hyperbolic sine is x", "1 / sqrt(1 + x**2)"),
    "arctan": ("The angle in (-pi/2, pi/2) whose tangent is x", "1 / (1 + x**2)"),
    "arctan2": ("The angle in [-pi, pi] of the point (b, a)", "b / (a**2 + b**2)", "-a / (a**2 + b**2)"),
    "arctanh": ("The number whose hyperbolic tangent is x", "1 / (1 - x**2)"),
    "cos": ("The cosine of x", "-sin(x)"),
    "cosh": ("The hyperbolic cosine of x", "sinh(x)"),
    "divide": ("a / b", "1 / b", "-y / b"),
    "elu": ("x where x > 0, else alpha (e**x - 1)", "where(x > 0, 1, y + alpha)"),
    "erf": ("2 / sqrt(pi) times the integral of e**-t**2 from 0 to x", "2 / sqrt(pi) * exp(-(x**2))"),
    "erfc": ("1 - erf(x), to all digits where x is large", "-2 / sqrt(pi) * exp(-(x**2))"),
    "exp": ("e**x", "y"),
    "exp2": ("2**x", "y * log(2)"),
    "expm1": ("e**x - 1, to all digits where x is small", "y + 1"),
    "leaky_relu": ("x where x > 0, else slope x", "where(x > 0, 1, slope)"),
    "log": ("The natural logarithm of x", "1 / x"),
    "log10": ("The logarithm of x to base 10", "1 / (x * log(10))"),
    "log1p": ("log(1 + x), to all digits where x is small", "1 / (1 + x)"),
    "log2": ("The logarithm of x to base 2", "1 / (x * log(2))"),
    "maximum": ("The larger of a and b", "(a > b) + (a == b) / 2", "(b > a) + (a == b) / 2"),
    "minimum": ("The smaller of a and b", "(a < b) + (a == b) / 2", "(b < a) + (a == b) / 2"),
    "multiply": ("a * b", "b", "a"),
    "negative": ("-x", "-1"),
    "reciprocal": ("1 / x", "-y**2"),
    "relu": ("max(x, 0)", "where(x > 0, 1, 0)"),
    "remainder": ("a less the multiple of b below it, of b's sign", "1", "-floor(a / b)"),
    "sigmoid": ("1 / (1 + e**-x)", "y * (1 - y)"),
    "sin": ("The sine of x", "cos(x)"),
    "sinh": ("The hyperbolic sine of x", "cosh(x)"),
    "softplus": ("log(1 + e**x)", "sigmoid(x)"),
    "sqrt": ("The square root of x", "1 / (2 * y)"),
    "square": ("x * x", "2 * x"),
    "subtract": ("a - b", "1", "-1"),
    "tan": ("The tangent of x", "1 + y**2"),
    "tanh": ("The hyperbolic tangent of x", "1 - y**2"),
}

COTANGENTS: dict[str, str] = {
    "alias": "The same values on a line of their own; the cotangent passes as it is.",
    "amax": f"The maximum {ALONG}; elements that tie share the cotangent evenly.",
    "astype": "x in another dtype; the cotangent is converted back, and integers and truth values end the tape.",
    "broadcast_to": "x repeated to `shape` by the rules of broadcasting; the cotangents of the copies add up.",
    "conv": "Cross-correlation of (n, c, h, w) with (o, c / groups, kh, kw); pullbacks: `conv_input`, `conv_weight`.",
    "conv_input": "The adjoint of `conv` in its input, of height and width `size`; pullbacks: `conv`, `conv_weight`.",
    "conv_weight": "The adjoint of `conv` in its weight, of size `kernel`; pullbacks: `conv_input`, `conv`.",
    "cumsum": "Running sums along `axis`; the cotangents are summed from the end.",
    "flip": "The order reversed along `axis` (None for all); the cotangent is turned back.",
    "fold": "Windows (..., kh, kw, oh, ow) added up at their places in (..., h, w): the adjoint of `windows`.",
    "logsumexp": f"log(sum(e**x)) {ALONG}, without overflow; the cotangent is shared out by softmax, e**(x - y).",
    "mean": f"The mean {ALONG}; each of n elements gets 1/n of the cotangent.",
    "roll": "Elements moved on by `shift` along `axis`, around the end; the cotangent is moved back.",
    "scatter": "Zeros of `shape` with x added at `index`, repeated ones too: the adjoint of x[index].",
    "sum": f"The sum {ALONG}; every element gets the cotangent.",
    "sum_to": "x summed to `shape`, which broadcasts to x's: the adjoint of `broadcast_to`.",
    "windows": "Sliding windows over the last two axes, (..., h, w) to (..., kh, kw, oh, ow); the adjoint is `fold`.",
}

CONSTANTS: dict[str, str] = {
    "all": f"Whether all elements are true {ALONG}",
    "any": f"Whether any element is true {ALONG}",
    "argmax": f"Where the first maximum stands {ALONG}",
    "argmin": f"Where the first minimum stands {ALONG}",
    "argsort": "The indices that sort along `axis`, equal elements in their order",
    "bitwise_and": "a & b, bit by bit",
    "bitwise_not": "~x, bit by bit",
    "bitwise_or": "a | b, bit by bit",
    "bitwise_xor": "a ^ b, bit by bit",
    "ceil": "The least whole number that is not below x",
    "equal": "Where a == b",
    "floor": "The largest whole number that is not above x",
    "floor_divide": "a / b, rounded down",
    "greater": "Where a > b",
    "greater_equal": "Where a >= b",
    "isfinite": "Where x is neither infinite nor NaN",
    "isinf": "Where x is infinite",
    "isnan": "Where x is NaN",
    "less": "Where a < b",
    "less_equal": "Where a <= b",
    "logical_and": "Where a and b are both true",
    "logical_not": "Where x is false",
    "logical_or": "Where a or b is true",
    "logical_xor": "Where one of a and b is true",
    "not_equal": "Where a != b",
    "round": "x to so many decimals, halves to the even side",
    "sign": "-1, 0 or 1, as x is below, at or above 0",
}


def describe(rows: dict[str, Any]) -> None:
    """Gives the rows of the table their docstrings."""
    for name, (value, *slopes) in DERIVATIVES.items():
        arguments = rows[name].primitive.arguments
        partial = ", ".join(f"dy/d{x} = {slope}" for x, slope in zip(arguments, slopes, strict=True))
        rows[name].__doc__ = f"{value}, elementwise{' with broadcasting' * (len(slopes) > 1)}; {partial}."
    for name, text in COTANGENTS.items():
        rows[name].__doc__ = text
    for name, value in CONSTANTS.items():
        rows[name].__doc__ = f"{value}. Constant almost everywhere: never on the tape."
