"""Mistakes in reductions that no shape gives away: sums left out, over other axes, or of another value."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from minigrad.backend import numpy as host
from minigrad.check.case import INVOLVED, LOCAL, PLAIN, Case, Explanation
from minigrad.check.numbers import STATISTICS
from minigrad.check.rearranged import broadcasts, choices, fitted
from minigrad.check.run import is_elementwise, op_of
from minigrad.check.sweep import Array
from minigrad.ops import sum_to
from minigrad.paths import pull
from minigrad.primitive import NUMBER
from minigrad.tape import Node

MOVED = frozenset(("alias", "reshape", "take"))
"""Rows between a sum and what it is broadcast to, such as `s[:, None]`."""

DIAGONAL = "as if the Jacobian were diagonal"


class _Term(NamedTuple):
    """A contribution to a cotangent: each element's own part, and as it should be.

    own has the axes of what the value was broadcast to, if it was; shape is the value's where that happened.
    """

    own: Array
    right: Array
    shape: tuple[int, ...]

    def plus(self, other: _Term) -> _Term:
        return _Term(self.own + other.own, self.right + other.right, self.shape)


def sums(case: Case) -> Iterator[Explanation]:
    """A path through a sum that is not summed, as if a Jacobian were diagonal, or over the wrong axes."""
    for node in case.sweep.steps():
        for i, source, c in case.sweep.terms(node):
            if not is_elementwise(node) or source.shape == node.shape:
                continue
            own = _unsummed(node, i, case.sweep.cotangents[node])
            found = None if own is None else _down_to_a_sum(case, source, own, c)
            if found is None:
                continue
            reduction, elements, inside, each, spread = found
            ways = [(inside, each)]
            slope = _down_to_a_sum(case, source, host.ones(own.shape), host.ones(source.shape))  # type: ignore[union-attr]
            if slope is not None:
                value, outside = case.run.values[source], slope[2] * each
                ways += [(own, outside), (own * value, outside / value)]
            yield from _otherwise_summed(case, node, reduction, elements, ways, spread)


def _otherwise_summed(
    case: Case, node: Node, reduction: Node, elements: Node, ways: list[tuple[Array, Array]], spread: Array
) -> Iterator[Explanation]:
    """The sum over every choice of axes. ways: what may stand in the sum, and what then multiplies it.

    What does not change along the right axes, such as a deviation that divides, may stand in a sum over them or
    before it; over other axes that makes a difference.
    """
    mean = op_of(reduction) == "mean"
    at, together = case.run.describe(reduction), math.prod(elements.shape) / math.prod(reduction.shape)
    dimensions = len(elements.shape)
    for axes in choices(range(dimensions), least=0):
        count = together / math.prod(elements.shape[axis] for axis in axes) if mean and axes else 1.0
        if not any(
            case.confirmed(elements, inside.sum(axes, keepdims=True) * outside * count - spread)
            for inside, outside in ways
        ):
            continue
        kind, how = "wrong axes", f"is summed over axes {list(axes)}, not {_axes_of(reduction, dimensions)}"
        if not axes:
            kind, how = "not summed", f"is not summed: each element has its own term alone, {DIAGONAL}"
        rank = PLAIN + 0.3 + case.believed(reduction)
        message = f"in <d> the path through {at} {how}{case.run.where(reduction)}"
        yield case.at(reduction, ("summed", reduction, node, axes), rank, kind, message)


def added_up(case: Case) -> Iterator[Explanation]:
    """The gradient of something that is broadcast as the upstream gradient times a value, summed: times another."""
    shape = case.run.leaves[case.k].shape
    if len(case.sweep.seeds) > 1:
        return
    (g,) = case.sweep.seeds.values()
    if case.a.size >= g.size or not broadcasts(shape, g.shape):
        return
    sums: dict[str, Array] = {}
    for text, value, _ in case.clues.values:
        factor = fitted(value, g.shape) if value.dtype.kind == "f" else None
        if factor is not None:
            sums.setdefault(text, sum_to(g * factor, shape))
    meant = [text for text, c in sums.items() if (host.abs(c - case.a) <= 3 * case.tol).all()]
    for text, c in sums.items():
        if case.fits(c):
            name = case.run.leaf_name(case.k)
            instead = f", where {meant[0]} is meant" if meant else f", which is not what `{name}` multiplies"
            message = "<d> <is> the sum of the upstream gradient times " + text + instead
            yield Explanation(("added", text), INVOLVED, "mistaken value", message, (text.strip("`"),))


def _unsummed(node: Node, i: int, g: Array, shape: tuple[int, ...] | None = None) -> Array | None:
    """What an edge of an elementwise row contributes before what broadcasting added is summed.

    shape: of the row's values where they were broadcast, where it is not the row's own.
    """
    assert node.primitive is not None
    rule, places = node.primitive.pullbacks[0 if node.primitive.variadic else i]  # type: ignore[misc]
    if NUMBER in places:
        return None
    values = [node.residuals[place] for place in places]
    try:
        if shape is not None:
            values = [v.reshape(shape) if getattr(v, "shape", None) == node.shape else v for v in values]
        c: Array = rule(g, *values)
    except ValueError:  # axes that do not meet where a value was rearranged on its way
        return None
    return c


def _down_to_a_sum(
    case: Case, node: Node, own: Array, summed: Array
) -> tuple[Node, Node, Array, Array, Array] | None:
    """From a value that was broadcast down to the reduction that it comes from, through what changes no size.

    own, summed: the cotangent of the value, element by element of what it was broadcast to, and as it should be.
    Returns the reduction, what it takes together, what `own` has become there, the reduction's derivative by each
    element, and what `summed` has become. None where there is no reduction.
    """
    term: _Term | None = _Term(own, summed, node.shape)
    while term is not None and node.primitive is not None:
        edges = list(pull(node, term.right, False, case.sweep.needed))
        if len({source for _, source, _ in edges}) != 1:
            return None
        source, row = edges[0][1], node.primitive
        if row.name in STATISTICS:
            fits = term.own.shape == source.shape
            return (node, source, term.own, _by_each(case, node), edges[0][2]) if fits else None
        if is_elementwise(node) and source.shape != node.shape:
            return None
        parts = [_own_part(case, node, i, source, term, right) for i, _, right in edges]
        known = [part for part in parts if part is not None]
        term = functools.reduce(_Term.plus, known) if len(known) == len(parts) else None
        node = source
    return None


def _by_each(case: Case, reduction: Node) -> Array:
    """The derivative of a reduction by each element that it takes together: 1 for a sum."""
    ((_, _, each),) = pull(reduction, host.ones(reduction.shape), False, case.sweep.needed)
    return each


def nothing_summed(case: Case) -> Iterator[Explanation]:
    """The same at every sum: what a BatchNorm's backward pass becomes without them.

    Contributions are kept apart by the broadcasts that they passed: who derives by hand leaves out those that
    cancel in their sum, as the variance's do on their way through the mean, and does not get them back by mistake.
    """
    leaf, broadcasts = case.run.leaves[case.k].node, 0
    held: dict[Node, dict[Any, _Term]] = {n: {(): _Term(g, g, n.shape)} for n, g in case.sweep.seeds.items()}
    for node in reversed(case.run.order):
        if node is leaf or node not in held:
            continue
        for passed, term in held.pop(node).items():
            for i, source, right in pull(node, term.right, False, case.sweep.needed):
                below = _own_part(case, node, i, source, term, right)
                if below is None:
                    return
                apart = below.own.shape != source.shape and term.own.shape == node.shape
                if apart and float(host.abs(right).max(initial=0.0)) <= 1e-9 * float(host.abs(below.own).sum()):
                    continue
                broadcasts += apart
                label = (*passed, node) if apart else passed
                there = held.setdefault(source, {})
                there[label] = below if label not in there else there[label].plus(below)
    total = sum(term.own for term in held.get(leaf, {}).values())  # type: ignore[arg-type]
    if broadcasts > 1 and getattr(total, "shape", None) == case.a.shape and case.fits(total):
        message = "in <d> none of the paths through a reduction is summed: each element has its own terms alone, "
        yield Explanation(("nothing summed",), LOCAL, "not summed", message + DIAGONAL)


def _own_part(case: Case, node: Node, i: int, source: Node, term: _Term, right: Array) -> _Term | None:
    """What an edge makes of a term that is never summed; None where it cannot be told."""
    row, lifted = node.primitive, term.own.shape != node.shape
    assert row is not None
    if is_elementwise(node):
        own = _unsummed(node, i, term.own, term.shape if lifted else None)
        return None if own is None else _Term(own, right, term.shape if lifted else source.shape)
    if not lifted:
        own = next(c for j, _, c in pull(node, term.own, False, case.sweep.needed) if j == i)
        return _Term(own, right, source.shape)
    if row.name in STATISTICS:
        fits = term.own.shape == source.shape
        return _Term(term.own * _by_each(case, node), right, source.shape) if fits else None
    moved = row.name in MOVED and math.prod(source.shape) == math.prod(node.shape)
    return _Term(term.own, right, term.shape) if moved else None


def _axes_of(reduction: Node, dimensions: int) -> str:
    """The axes that a reduction takes together, in words."""
    assert reduction.primitive is not None
    axis = dict(zip(reduction.primitive.statics, reduction.params, strict=True)).get("axis")
    axes = range(dimensions) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return f"axes {sorted(a % dimensions for a in axes)}"
