"""Mistakes in the derivative of a step, or of several at once: left out, applied twice, another in its place."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from minigrad.backend import numpy as host
from minigrad.check.case import LOCAL, Case, Explanation
from minigrad.check.run import is_elementwise, op_of
from minigrad.check.sweep import Array
from minigrad.ops import sum_to
from minigrad.paths import pull
from minigrad.tape import Node


class Stretch(NamedTuple):
    """A part of the tape whose derivative people write down at once.

    c: what `high` contributes to `low`.  words: for the derivative.  doubt: added to the rank of a mistake in it.
    step: the number of the argument, where the stretch is one step.
    """

    high: Node
    low: Node
    c: Array
    words: str
    doubt: float
    step: int | None = None


def derivatives(case: Case) -> Iterator[Explanation]:
    """The derivative of a stretch left out: the cotangent passed on as it came; or twice, or another one."""
    for stretch in _stretches(case):
        high, low, c, words, doubt, step = stretch
        g = case.sweep.cotangents[high]
        passed = g if g.shape == low.shape else sum_to(g, low.shape)
        for sign, minus in ((1.0, ""), (-1.0, " (and a minus)")):
            if case.confirmed(low, sign * passed - c):
                rank, message = LOCAL + doubt + (0.0 if sign > 0 else 0.4), f"<d> <lacks> {words}{minus}"
                yield case.at(high, ("local", high, low, step), rank, "derivative left out", message)
        if c.shape != g.shape:
            continue
        if step is not None:
            twice = next(again for i, _, again in pull(high, c, False, case.sweep.needed) if i == step)
            if case.confirmed(low, twice - c):
                message = f"<d> <has> {words} twice"
                yield case.at(high, ("again", high, step), LOCAL + 0.3, "derivative twice", message)
            if not _is_function(high):
                continue
            if ((c == 0) | (c == g)).all() and case.confirmed(low, g - 2 * c):
                message = f"<d> <uses> the condition of {op_of(high)} inverted, at {case.run.place(high)}"
                yield case.at(high, ("inverted", high, step), LOCAL, "wrong derivative", message)
        if doubt > 0.3 or _is_inside(case, high):
            continue
        for factor, value in case.likely(low, c, instead=g):
            if not factor.doubt and case.confirmed(low, g * value - c):
                rank, message = LOCAL + 0.35 + doubt, f"<d> <uses> {factor.short} for {words}"
                key = ("replaced", high, factor.short)
                yield case.at(high, key, rank, "wrong derivative", message, factor.short)


def _stretches(case: Case) -> Iterator[Stretch]:
    """Every elementwise step, the chains of them, and the ways between named values of one shape."""
    run, sweep = case.run, case.sweep
    for node in sweep.steps():
        if not is_elementwise(node):
            continue
        for i, source, c in sweep.terms(node):
            yield Stretch(node, source, c, _derivative(case, node, i), 0.0, i)
        edges = _chain(case, node)
        if len(edges) > 1:
            last, i = edges[-1]
            yield _between(case, node, last.inputs[i], sweep.edges[last, i], 0.1)  # type: ignore[arg-type]
    below = sweep.directions(case.k)[1]
    named = [n for n in run.order if n in below and n in sweep.cotangents and n in run.names]
    for low, high in itertools.combinations(named, 2):
        if low.shape == high.shape and low in sweep.effect(high):
            yield _between(case, high, low, sweep.effect(high)[low], 0.4)


def _between(case: Case, high: Node, low: Node, c: Array, doubt: float) -> Stretch:
    run = case.run
    words = f"the derivative of {run.describe(high)} by {run.describe(low)}{run.where(high)}"
    return Stretch(high, low, c, words, doubt)


def _chain(case: Case, node: Node) -> list[tuple[Node, int]]:
    """The edges of a chain of elementwise steps without forks, such as a sigmoid written out."""
    edges: list[tuple[Node, int]] = []
    while is_elementwise(node):
        inputs = [(i, source) for i, source, _ in case.sweep.terms(node)]
        if len(inputs) != 1:
            break
        edges.append((node, inputs[0][0]))
        node = inputs[0][1]
        if len(case.sweep.consumers.get(node, ())) != 1:
            break
    return edges


def _is_inside(case: Case, node: Node) -> bool:
    """Whether a step has no name and is one of a chain, so that nobody thinks of its derivative alone."""
    users = case.sweep.consumers.get(node, ())
    return node not in case.run.names and len(users) == 1 and len(_chain(case, users[0][0])) > 1


def _is_function(node: Node) -> bool:
    """Whether a row is a function of one value, whose derivative is known by heart."""
    row = node.primitive
    return row is not None and (len(row.arguments) == 1 or row.name in ("maximum", "minimum"))


def _derivative(case: Case, node: Node, i: int) -> str:
    """The local derivative of an op in words."""
    name = op_of(node)
    product = name == "multiply" or (name == "divide" and i == 0)
    factor = case.run.argument(node, 1 - i) if product else ""
    words = f"the factor {'1/' * (name == 'divide')}{factor} of" if factor else f"the derivative of {name} at"
    return f"{words} {case.run.place(node)}"


def spread(case: Case) -> Iterator[Explanation]:
    """The cotangent of a maximum given to all elements, or to the smallest, at each turn of a loop alike."""

    def given(node: Node, share: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
        x, (axis, keepdims) = case.run.arguments[node][0], node.params
        shares = share(x, x.min(axis, keepdims=True))
        return lambda g, c: (g if keepdims or axis is None else host.expand_dims(g, axis)) * shares

    ways: dict[str, Callable[[Array, Array], Array]] = {
        "spread evenly over all elements": lambda x, least: host.full(x.shape, least.size / x.size),
        "copied to all elements": lambda x, least: host.ones(x.shape),
        "given to the smallest element": lambda x, least: x == least,
    }
    for (row, *_), nodes in case.clues.repeated().items():
        for words, share in ways.items() if row == "amax" else ():
            edit = {(node, 0): given(node, share) for node in nodes}
            if case.acted(("spread", nodes[0], words), functools.partial(case.sweep.down, case.sweep.seeds, edit=edit)):
                turns = f", at each of {len(nodes)} steps" if len(nodes) > 1 else ""
                message = f"in <d> the cotangent of the maximum at {case.run.place(nodes[0])} is {words}{turns}; only "
                message += "the largest has it"
                yield case.at(nodes[0], ("spread", nodes[0], words), LOCAL, "wrong derivative", message)
