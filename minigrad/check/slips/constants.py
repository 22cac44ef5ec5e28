"""Constants of the forward that the backward pass has otherwise: eps left out or another, m - 1 for m."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from minigrad.backend import numpy as host
from minigrad.check.case import INVOLVED, Case, Explanation
from minigrad.check.numbers import together, variances
from minigrad.check.rearranged import choices, fitted
from minigrad.check.run import op_of
from minigrad.check.sweep import Array
from minigrad.tape import Node

REDUCTIONS = {"amax": "max", "mean": "mean", "sum": "sum"}
"""Rows that may have been taken over other axes, and the methods of arrays that do what they do."""

SMALL = 0.2
"""What is added for the sake of a root or a quotient, and not as a term of its own."""

LARGE = 50_000
"""From so many elements on not every mixture of changed values is acted out."""


def replays(case: Case) -> Iterator[Explanation]:
    """A backward pass of values with another eps, with none, or with m - 1 for m."""
    spreads = _spreads(case)
    for node in case.sweep.steps():
        if op_of(node) == "add":
            yield from _eps(case, node)
        elif node in spreads:
            m = spreads[node]
            value = case.run.values[node] * (m / (m - 1))
            words = f"<d> <uses> {case.run.describe(node)} divided by m - 1 instead of m = {m}"
            if _replayed(case, {node: value}):
                yield _otherwise(case, node, words, "factor", "m/(m-1)")


def eps_once(case: Case) -> Iterator[Explanation]:
    """Eps left out in one place alone, as of 1 / (var + eps) where sqrt(var + eps) has it."""
    for node in case.sweep.steps("add"):
        eps, value = _added(case, node)
        for site, _ in case.weights if eps else ():
            source, c = case.sweep.landing(site)
            ratio = fitted(case.run.values[node] / value, c.shape)
            for power in (0.5, 1.0, 1.5, 2.0, -0.5, -1.0, -1.5, -2.0):
                if ratio is not None and case.confirmed(source, c * ratio**power - c):
                    verb = "leaves out" if power > 0 else "has once more the"
                    message = f"in <d> {case.path_words(site)} {verb} {eps:.6g} (eps) that is added in "
                    message += case.run.place(node)
                    rank = INVOLVED + case.believed(site)
                    yield case.at(node, ("eps once", node, site), rank, "eps left out", message, f"{eps:.6g}")


def _added(case: Case, node: Node) -> tuple[float, Array]:
    """The small constant that is added to one value, or 0, and the value."""
    eps = next((a for a in case.run.arguments[node] if not getattr(a, "ndim", 0)), None)
    sources = [s for s in node.inputs if s is not None]
    if eps is None or len(sources) != 1 or not abs(float(eps)) < SMALL:
        return 0.0, host.zeros(node.shape)
    return float(eps), host.broadcast_to(case.run.values[sources[0]], node.shape)


def _eps(case: Case, node: Node) -> Iterator[Explanation]:
    """A constant that is added to one value: left out, added after the root, or another one."""
    eps, value = _added(case, node)
    if not eps:
        return
    text, at = f"{eps:.6g}", case.run.describe(node)
    if _replayed(case, {node: value}):
        smaller = _replayed(case, {node: value + 1e-3 * eps})
        words = f"<d> <leaves> out {text} (eps) that is added in {at}"
        words += ", or <uses> one so small that it makes no difference" if smaller else ""
        yield _otherwise(case, node, words, "eps left out", text)
        return
    for root, _ in case.sweep.consumers.get(node, ()):
        if op_of(root) == "sqrt":
            after = {node: value, root: host.sqrt(value) + eps}
            if _replayed(case, after):
                words = f"<d> <uses> {text} (eps) added to the root, where it is added under the root in {at}"
                yield _otherwise(case, node, words, "eps outside", text)
                return
    if host.unique(value).size < 3:  # one number explains one number, or two, whatever they come of
        return
    other = _solved(case, node, value, eps)
    if other is not None:
        words = f"<d> <uses> {other:.4g} where {text} (eps) is added in {at}"
        yield _otherwise(case, node, words, "another eps", f"{other:.4g}")


def other_axes(case: Case) -> Iterator[Explanation]:
    """Values that were computed anew with a statistic over other axes."""
    for node in case.sweep.steps(*REDUCTIONS):
        yield from _over_others(case, node)


def _over_others(case: Case, node: Node) -> Iterator[Explanation]:
    assert node.primitive is not None and node.inputs[0] is not None
    elements = case.run.values[node.inputs[0]]
    kept = dict(zip(node.primitive.statics, node.params, strict=True)).get("keepdims", False)
    long = [axis for axis in range(elements.ndim) if elements.shape[axis] > 1]
    for axes in choices(long):
        value = getattr(elements, REDUCTIONS[op_of(node)])(axes, keepdims=kept)
        if host.array_equal(value, case.run.values[node]):
            continue
        count = math.prod(elements.shape[axis] for axis in axes) / together(node)
        counted = [value, value * count] if op_of(node) == "mean" else [value]
        try:
            changed = any(_replayed(case, {node: one}, few=True) for one in counted)
        except (ValueError, TypeError, IndexError):  # the shapes do not meet further on
            continue
        if changed and not _replayed(case, {}):
            words = f"<d> <uses> values for which {case.run.describe(node)} was taken over axes {list(axes)}"
            yield _otherwise(case, node, words, "wrong axes", "")


def _solved(case: Case, node: Node, value: Array, eps: float) -> float | None:
    """The constant with which the backward pass reproduces the hand-derived gradient, found by secants."""

    def predicted(e: float) -> Array:
        return _mixture(case, case.sweep.replayed({node: value + e}))

    at, found = eps, case.a
    for _ in range(12):
        step = 1e-3 * at
        slope = (predicted(at + step) - found) / step
        size = float((slope * slope).sum())
        if not size:
            return None
        at += float((slope * (case.h - found)).sum()) / size
        if not 0 < at < 1e6 * eps:
            return None
        found = predicted(at)
        if case.fits(found):
            rounded = (float(f"{at:.{digits}e}") for digits in range(5))
            shortest = next((e for e in rounded if case.fits(predicted(e))), at)
            return shortest if abs(shortest - eps) > 1e-3 * eps else None
    return None


def _otherwise(case: Case, node: Node, words: str, kind: str, factor: str) -> Explanation:
    return case.at(node, (kind, node), INVOLVED - 0.5, kind, words + case.run.where(node), factor)


def _spreads(case: Case) -> dict[Node, int]:
    """The variances: means of squares, and sums of squares divided by their number, with that number."""
    found = {}
    for node in variances(case.run):
        m = together(node)
        if op_of(node) == "mean":
            found[node] = m
        else:
            for user, i in case.sweep.consumers.get(node, ()):
                if i == 0 and op_of(user) == "divide" and host.array_equal(case.run.arguments[user][1], m):
                    found[user] = m
    return {node: m for node, m in found.items() if m > 1}


def _replayed(case: Case, changed: dict[Node, Array], few: bool = False) -> bool:
    """Whether a backward pass in which some of the values below changed ones follow the change is the hand's.

    few: only all of them or one.
    """
    fresh = case.sweep.replayed(changed)
    if any(not host.isfinite(v).all() for v in fresh.values()):
        return False
    below = [n for n in fresh if n not in changed]
    for n in below:
        if fresh[n].shape == case.run.values[n].shape:
            ratio = fitted(case.run.values[n] / fresh[n], case.a.shape)
            if ratio is not None and any(case.fits(case.a * ratio**power) for power in (1, -1, 2, -2, 3)):
                return True
    chosen = [n for n in below if n in case.sweep.cotangents][:7]
    few |= max((case.run.values[n].size for n in chosen), default=0) > LARGE
    for many in (len(chosen), 1) if few else range(len(chosen), -1, -1):
        for subset in itertools.combinations(chosen, many):
            if case.fits(_mixture(case, {n: fresh[n] for n in subset} | changed)):
                return True
    return False


def _mixture(case: Case, changed: Mapping[Node, Array]) -> Array:
    """The gradient by a backward pass that finds some values changed."""
    return case.sweep.at_leaf(case.sweep.otherwise(changed), case.k)
