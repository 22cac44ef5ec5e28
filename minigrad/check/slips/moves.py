"""Mistakes in how the cotangent of what was moved comes back: axes in another order, parts in another place."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from minigrad.backend import numpy as host
from minigrad.check.case import LOCAL, Case, Explanation
from minigrad.check.run import op_of
from minigrad.check.sweep import Array
from minigrad.tape import Node

PLACES = 500
"""At so many places a part of a gradient is looked for."""


def turned(case: Case) -> Iterator[Explanation]:
    """A transposition that is undone by a reshape, or by another permutation; a reshape with its axes permuted."""
    for node in case.sweep.steps("transpose", "reshape"):
        transposed = op_of(node) == "transpose"
        for _, source, right in case.sweep.terms(node):
            for words, c in _rearranged(case.sweep.cotangents[node], source.shape):
                if c.shape == source.shape and case.confirmed(source, c - right):
                    needed = f"it has to be reshaped to {list(source.shape)} alone"
                    if transposed:
                        back = ", ".join(str(i) for i in host.argsort(node.params[0]))
                        needed = f"its axes have to be permuted back, by transpose({back})"
                    message = f"in <d> the cotangent of {case.run.place(node)} is {words}, where {needed}"
                    rank = LOCAL + (0.1 if transposed else 0.3)
                    yield case.at(node, ("turned", node, words), rank, "permuted", message)


def _rearranged(g: Array, shape: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    """A cotangent permuted, reshaped to a shape, and both in either order; of many axes the first stays."""
    yield "only reshaped", g.reshape(shape)
    for order in _orders(g.ndim):
        moved = g.transpose(order)
        yield f"permuted to axes {list(order)}", moved
        yield f"permuted to axes {list(order)}, and then reshaped", moved.reshape(shape)
    for order in _orders(len(shape)):
        apart, onwards = g.reshape([shape[axis] for axis in order]), host.argsort(order)
        yield f"reshaped to {list(apart.shape)}, and then permuted to axes {onwards.tolist()}", apart.transpose(onwards)


def _orders(dimensions: int) -> Iterator[tuple[int, ...]]:
    """The orders of so many axes but for their own; of many axes those in which the first stays, of more none."""
    first = (0,) if dimensions > 4 else ()
    for order in itertools.permutations(range(len(first), dimensions)) if dimensions < 7 else ():
        if (*first, *order) != tuple(range(dimensions)):
            yield (*first, *order)


def cut_out(case: Case) -> Iterator[Explanation]:
    """A part of what was padded or joined, cut out at another place."""
    for node in case.sweep.steps("pad", "concatenate"):
        g = case.sweep.cotangents[node]
        for i, source, right in case.sweep.terms(node):
            starts = [range(n - m + 1) for n, m in zip(g.shape, source.shape, strict=True)]
            for start in itertools.islice(itertools.product(*starts), PLACES):
                place = tuple(slice(at, at + m) for at, m in zip(start, source.shape, strict=True))
                if case.confirmed(source, g[place] - right):
                    message = f"in <d> the part of the cotangent of {case.run.place(node)} that belongs to "
                    message += f"{case.run.describe(source)} is cut out from {list(start)} on, which is another place"
                    yield case.at(node, ("cut out", node, i, start), LOCAL + 0.1, "permuted", message)


def misplaced(case: Case) -> Iterator[Explanation]:
    """Parts of an array written into one another's place."""
    for source, edges in case.sweep.consumers.items():
        takes = [n for n, _ in edges if op_of(n) == "take"]
        for first, second in itertools.combinations(takes[:8], 2):
            if first.shape != second.shape or source not in case.sweep.cotangents:
                continue
            moved = host.zeros(source.shape)
            moved[first.params[0]] += case.sweep.cotangents[second] - case.sweep.cotangents[first]
            moved[second.params[0]] += case.sweep.cotangents[first] - case.sweep.cotangents[second]
            if case.confirmed(source, moved):
                parts = [_part(case, n) for n in (first, second)]
                message = f"in <d> the parts that belong to {' and '.join(parts)} are written into one another's place"
                names = tuple(part.strip("`") for part in parts)
                yield Explanation(("places", source, first, second), LOCAL, "permuted", message, names)


def _part(case: Case, node: Node) -> str:
    """What became of a slice, under the nearest name."""
    seen = node
    while seen not in case.run.names or "." in case.run.names[seen]:
        edges = case.sweep.consumers.get(seen, ())
        if len(edges) != 1:
            break
        seen = edges[0][0]
    return case.run.describe(seen if seen in case.run.names else node)
