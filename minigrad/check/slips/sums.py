"""A gradient that is a plain sum of values, such as `(p - onehot(y)) / n`, with other weights by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

from minigrad.backend import numpy as host
from minigrad.check.case import INVOLVED, Case, Explanation
from minigrad.check.numbers import fraction, is_name
from minigrad.check.rearranged import aligned
from minigrad.check.sweep import Array

MOST = 8
"""Of how many values a sum is sought."""


def sums_of_values(case: Case) -> Iterator[Explanation]:
    """Both gradients as weighted sums of the same values, by least squares."""
    names, columns = ["1"], [host.ones(case.a.size)]
    for text, value in _summands(case):
        column = host.broadcast_to(value, case.a.shape).reshape(-1)
        left = column - host.stack(columns, 1) @ host.linalg.lstsq(host.stack(columns, 1), column, rcond=None)[0]
        if len(names) < MOST and float(host.abs(left).max()) > 1e-6 * float(host.abs(column).max()):
            names.append(text)
            columns.append(column)
    matrix = host.stack(columns, 1)
    if len(names) < 2 or case.a.size < 2 * len(names):
        return
    (right, *_), (hand, *_) = (host.linalg.lstsq(matrix, g.reshape(-1), rcond=None) for g in (case.a, case.h))
    reach = 1e-9 * float(host.abs(case.a).max())
    if (host.abs(matrix @ right - case.a.reshape(-1)) <= reach).all() and case.fits(
        (matrix @ hand).reshape(case.a.shape)
    ):
        mine, meant = (_sum(w / case.clues.unit, names) for w in (hand, right))
        if meant is None or mine in (None, meant):
            return
        of = "the upstream gradient times " if case.clues.unit != 1 else ""
        message = f"<d> <is> {of}`{mine}` by hand, and `{meant}` is right"
        evidence = {"by hand": mine, "right": meant}
        yield Explanation(("sum", mine), INVOLVED, "wrong term", message, evidence=evidence)


def _summands(case: Case) -> Iterator[tuple[str, Array]]:
    """The named values that broadcast to the gradient, integers as one-hot rows, and the input as probabilities."""
    for text, value, _ in case.clues.values:
        if is_name(text) and value.size > 1 and host.isfinite(value).all():
            shaped = aligned(value, case.a.shape)
            if shaped is not None:
                yield text[1:-1], shaped
    x, name, shape = case.run.leaves[case.k].data, case.run.leaf_name(case.k), case.a.shape
    for number, value in enumerate(case.run.inputs):
        if isinstance(value, host.ndarray) and value.dtype.kind in "iu" and value.shape == shape[:-1]:
            classes, words = host.arange(shape[-1]), case.run.input_names[number]
            yield f"onehot({words})", value[..., None] == classes
            yield f"isin(arange({len(classes)}), {words})", host.isin(classes, value)
    for axis in reversed(range(x.ndim)):
        e = host.exp(x - x.max())
        yield f"softmax({name}, axis={axis})", e / e.sum(axis, keepdims=True)
    yield f"sigmoid({name})", 1 / (1 + host.exp(-x))


def _sum(weights: Array, names: list[str]) -> str | None:
    """A weighted sum in words, with a common divisor taken out; None for nothing, and for weights with many digits."""
    some = [(float(w), name) for w, name in zip(weights, names, strict=True) if abs(w) > 1e-7 * host.abs(weights).max()]
    if not some:
        return None
    some.sort(key=lambda pair: (pair[1] == "1", pair[0] < 0))
    size = max(abs(w) for w, _ in some)
    divisor = round(1 / size) if size < 0.75 and math.isclose(1 / size, round(1 / size), rel_tol=1e-7) else 1
    text = ""
    if any(abs(w * divisor * 1000 - round(w * divisor * 1000)) > 1e-4 and not fraction(w * divisor) for w, _ in some):
        return None
    for w, name in some:
        number = fraction(w * divisor) or f"{abs(w * divisor):.6g}"
        part = number if name == "1" else name if number == "1" else f"{number} * {name}"
        text += f"{' - ' if w < 0 else ' + '}{part}" if text else f"{'-' * (w < 0)}{part}"
    if divisor == 1:
        return text
    return f"({text}) / {divisor}" if len(some) > 1 else f"{text} / {divisor}"
