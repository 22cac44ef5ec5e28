"""The tape in words: the expression of a line, the rule of a step, and arrays as short text.

Expressions are written from the row's name and its operands. An elementwise rule is said by its derivative,
others have a sentence, and every rule can show its formula, read from the table's own source.
"""

from __future__ import annotations

import linecache
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from minigrad.backend import is_array, is_scalar, to_numpy
from minigrad.meanings import DERIVATIVES
from minigrad.tape import HERE

INFIX = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "matmul": "@", "power": "**"}

SAME = "hands the cotangent on unchanged"
RULES: dict[str, tuple[str, ...]] = {
    "power": ("times {b} * {a}**({b} - 1)", "times {y} * log({a})"),
    "power_of": ("times {n} * {x}**({n} - 1)",),
    "maximum": ("passes where {a} > {b}, half where they tie", "passes where {b} > {a}, half where they tie"),
    "minimum": ("passes where {a} < {b}, half where they tie", "passes where {b} < {a}, half where they tie"),
    "where": ("", "passes where the condition holds", "passes where the condition fails"),
    "clip": ("passes where {x} was left as it is, is 0 where it was clipped",),
    "astype": ("converted back",),
    "alias": (SAME,),
    "sum": ("copied to every element that was summed",),
    "mean": ("1/{m} of it to each of the {m} elements averaged",),
    "broadcast_to": ("summed over the copies",),
    "sum_to": ("copied to every element that was summed",),
    "cumsum": ("summed along axis {axis} from each element to the last",),
    "amax": ("goes to the largest of {x}, in equal shares where there are several",),
    "logsumexp": ("times the softmax of {x}",),
    "log_softmax": ("less exp({y}) times its sum",),
    "norm": ("times {x} / {y}",),
    "reshape": ("put back into its former shape",),
    "transpose": ("axes put back in their former order",),
    "flip": ("turned back",),
    "roll": ("rolled back",),
    "pad": ("the part within the frame",),
    "take": ("added up where it was taken from, 0 elsewhere",),
    "scatter": ("taken from where it was written",),
    "windows": ("written back to where each window was taken, added up where they overlap",),
    "fold": ("taken in windows",),
    "pick": ("written back to the cell of each window that was picked, 0 elsewhere",),
    "place": ("taken from the cell of each window where it was put",),
    "max_pool": ("goes to the first largest of each window, 0 elsewhere",),
    "concatenate": ("its own part of it",),
    "matmul": ("times {b} transposed, from the right", "times {a} transposed, from the left"),
    "einsum": ("multiplied and summed with the other operands",),
    "conv": ("the adjoint of the convolution in its input", "the adjoint of the convolution in its weight"),
    "conv_input": ("convolved with {w}", "the adjoint in the weight of convolving it to {a}"),
    "conv_weight": ("the adjoint in the input of convolving with it to {a}", "{x} convolved with it"),
}
"""What the pullback of each argument does to the cotangent ("it"), in the names of the line's operands; of the other
elementwise rows `meanings.DERIVATIVES` says it."""

LATEX = {
    "add": "{a} + {b}", "subtract": "{a} - {b}", "multiply": r"{a} \odot {b}", "divide": r"\frac{{{a}}}{{{b}}}",
    "matmul": r"{a}\,{b}", "negative": "-{a}", "square": "{a}^2", "power_of": "{a}^{{{n}}}", "power": "{a}^{{{b}}}",
    "sqrt": r"\sqrt{{{a}}}", "exp": "e^{{{a}}}", "sum": r"\textstyle\sum{over} {a}", "mean": r"\overline{{{a}}}{over}",
}  # fmt: skip
"""Lines that mathematics has a sign for; the operands are a and b."""

GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "lambda", "mu", "nu", "xi", "pi", "rho", "sigma",
    "tau", "phi", "chi", "psi", "omega",
}  # fmt: skip


def op_name(row: Any) -> str:
    """A row's name without the underscore that keeps it apart from its public composition."""
    return row.name.rstrip("_")


def static_text(row: Any, params: Sequence[Any]) -> list[str]:
    """The static parameters that say something, as `axis=0`; those that stand together with names by these."""
    given: dict[str, Any] = {}
    for name, value in zip(row.statics, params, strict=False):
        given |= value._asdict() if hasattr(value, "_asdict") else {name: value}
    return [f"{name}={short_static(v)}" for name, v in given.items() if v is not None and v is not False]


def short_static(value: Any) -> str:
    """A static parameter in a few characters; index arrays by their shape."""
    if is_array(value):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple):
        inner = ", ".join(short_static(part) for part in value)
        inner = inner if len(inner) <= 48 else inner[:45] + "..."
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, slice):
        parts = ["" if part is None else str(part) for part in (value.start, value.stop)]
        return ":".join(parts + ([str(value.step)] if value.step is not None else []))
    text = "..." if value is Ellipsis else value.__name__ if isinstance(value, type) else str(value)
    return text if len(text) <= 32 else text[:29] + "..."


def expression(row: Any, operands: Sequence[str], params: Sequence[Any]) -> str:
    """A line as Python would write it: `x - mean`, `mean(x, axis=0, keepdims=True)`."""
    name = op_name(row)
    if name in INFIX and len(operands) == 2:
        return f"{operands[0]} {INFIX[name]} {operands[1]}"
    if name == "negative":
        return f"-{operands[0]}"
    if name == "square":
        return f"{operands[0]} ** 2"
    if name == "power_of":
        return f"{operands[0]} ** {short_static(params[0])}"
    if name == "take":
        index = params[0] if isinstance(params[0], tuple) else (params[0],)
        return f"{operands[0]}[{', '.join(map(short_static, index))}]"
    return f"{name}({', '.join([*operands, *static_text(row, params)])})"


def latex_name(name: str) -> str:
    r"""A name in LaTeX's mathematics: Greek letters as themselves, v4 as v_{4}, words upright."""
    stem = name.rstrip("0123456789") or name
    digits = name[len(stem) :]
    if stem in GREEK:
        body = "\\" + stem
    elif len(stem) == 1 and stem.isalpha():
        body = stem
    else:
        body = "\\text{" + latex_text(stem) + "}"
    return f"{body}_{{{digits}}}" if digits else body


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters made harmless."""
    table = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    table |= {c: "\\" + c for c in "&%$#_{}"}
    return "".join(table.get(c, c) for c in text)


def latex_expression(row: Any, operands: Sequence[str], params: Sequence[Any]) -> str:
    """A line in LaTeX's mathematics; operands are LaTeX already."""
    name, statics = op_name(row), dict(zip(row.statics, params, strict=False))
    known = dict(zip("ab", operands, strict=False)) | {s: latex_text(short_static(p)) for s, p in statics.items()}
    if name in LATEX:
        known["over"] = "" if statics.get("axis") is None else f"_{{\\text{{axis}}={known['axis']}}}"
        return LATEX[name].format(**known)
    given = [f"\\text{{{latex_text(text)}}}" for text in static_text(row, params)]
    return f"\\operatorname{{{latex_text(name)}}}\\left({', '.join([*operands, *given])}\\right)"


def rule_words(row: Any, i: int, names: dict[str, str], params: Sequence[Any], m: int) -> str:
    """What the pullback of argument i does to the cotangent, with the operands' own names."""
    if row.joint is not None:
        return "its hand-derived pullback" if row.reference is not None else "through a new recording of the function"
    plan = row.pullbacks[0 if row.variadic else i]
    if plan is None:
        return ""
    known = {**names, **{s: short_static(p) for s, p in zip(row.statics, params, strict=False)}, "m": str(m)}
    own = plan[0].__code__.co_filename.startswith(HERE)  # another's row may have the name of one of the table's
    if own and op_name(row) in RULES:
        return RULES[op_name(row)][0 if row.variadic else i].format(**known)
    text = times(DERIVATIVES[row.name][1 + i]) if own and row.name in DERIVATIVES else f"becomes {formula(plan[0])}"
    return re.sub(r"[A-Za-z_]\w*", lambda word: known.get(word.group(), word.group()), text)


def times(slope: str) -> str:
    """What a multiplication by a derivative does to the cotangent, in words where there are any."""
    if slope in ("0", "1", "-1"):
        return {"0": "is 0", "1": SAME, "-1": "hands on its negative"}[slope]
    if cases := re.fullmatch(r"where\((.*), 1, (.*)\)", slope):
        return f"passes where {cases[1]}, {times(cases[2])} elsewhere"
    if slope.startswith("1 / "):
        return f"divided by {slope[4:]}"
    return f"times ({slope})" if re.match(r"[^(]* [+-] ", slope) else f"times {slope}"


def formula(rule: Callable[..., Any]) -> str:
    """The body of a pullback as the table writes it, e.g. `g * (1 - y * y)`; its name where it has no text."""
    code = rule.__code__
    spans = [(a, c, b, d) for a, b, c, d in code.co_positions() if a and b and c is not None and d is not None]
    spans = [s for s in spans if s[1] < s[3] or s[0] < s[2]]
    if code.co_name != "<lambda>" or not spans:
        return f"{code.co_name}({', '.join(code.co_varnames[: code.co_argcount])})"
    (first, start), (last, end) = min(s[:2] for s in spans), max(s[2:] for s in spans)
    lines = [linecache.getline(code.co_filename, n).rstrip("\n") for n in range(first, last + 1)]
    if not any(lines):
        return f"pullback({', '.join(code.co_varnames[: code.co_argcount])})"
    lines[-1] = lines[-1].encode()[:end].decode()
    lines[0] = lines[0].encode()[start:].decode()
    return " ".join(" ".join(lines).split())


def printable(text: str) -> str:
    """Text with a space in place of what a page, a table's row or an SVG file cannot hold: control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def number(value: float) -> str:
    """Four significant digits, without a needless tail."""
    text = f"{value:.4g}"
    return text.replace("e-0", "e-").replace("e+0", "e+")


def short(array: Any, elements: int = 6) -> str:
    """An array in a cell: all of its numbers where they are few, else their statistics."""
    if array is None:
        return "not kept"
    values = to_numpy(array)
    if values.ndim == 0:
        return number(values.item())
    if values.size == 0:
        return f"empty {list(values.shape)}"
    if values.size <= elements:
        return nested(values.tolist())
    finite = values[abs(values) < math.inf]  # NaN is not less than anything
    lost = f"{values.size - finite.size} of {values.size} not finite" if finite.size < values.size else ""
    if not finite.size:
        return lost
    low, high, mean, std = statistics(finite)
    text = f"mean {number(mean)}, std {number(std)}, {number(low)} to {number(high)}"
    text = text if low < high else f"all {number(low)}" if not lost else f"else {number(low)}"
    return f"{lost}, {text}" if lost else text


def statistics(values: Any) -> tuple[float, float, float, float]:
    """Least, largest, mean and standard deviation of a host array, in float64 and so that nothing overflows."""
    if not values.size:
        return 0.0, 0.0, 0.0, 0.0
    values = values.astype("float64")
    low, high = float(values.min()), float(values.max())
    scale = max(-low, high)
    scale = scale if 0 < scale < math.inf else 1.0
    return low, high, float((values / scale).mean()) * scale, float((values / scale).std()) * scale


def literal(value: Any) -> str:
    """A constant as Python would write it, with all of its digits and no needless tail: `2`, `0.1`, `1e-5`."""
    if is_array(value):
        value = to_numpy(value)[()]
    text = str(value) if is_array(value) or is_scalar(value) else repr(value)
    return text.removesuffix(".0").replace("e-0", "e-").replace("e+0", "e+")


def nested(values: Any) -> str:
    """Nested lists of numbers with four digits each."""
    if isinstance(values, list):
        return "[" + ", ".join(nested(v) for v in values) + "]"
    return number(values)


def size_text(nbytes: int) -> str:
    """Bytes as 96 B, 1.2 kB, 3.4 MB."""
    if nbytes < 1000:
        return f"{nbytes} B"
    for unit, scale in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if nbytes < 1000 * scale:
            return f"{nbytes / scale:.1f} {unit}"
    return f"{nbytes / 1e12:.1f} TB"
