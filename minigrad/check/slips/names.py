"""One name in another's place throughout a backward pass: mistaken, exchanged, rearranged; or its value without a step.

Who computes values anew in a backward pass, or unpacks a cache in another order, has one wrong value wherever it is
used. What a loop gives a name at each of its steps is taken for one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence

from minigrad.check.case import INVOLVED, LOCAL, Case, Explanation
from minigrad.check.numbers import MOVES
from minigrad.check.rearranged import rearrangements
from minigrad.check.sweep import Array
from minigrad.primitive import OUTPUT
from minigrad.tape import Node

MOST, LARGEST = 24, 100_000
"""How many names, and of how many elements, are tried in one another's place."""


def names(case: Case) -> Iterator[Explanation]:
    """A named value rearranged, two exchanged, or one used for another, in all places."""
    held = _held(case)
    for name, nodes in held.items():
        steps = f", at each of {len(nodes)} steps" if len(nodes) > 1 else ""
        for ways in zip(*(rearrangements(case.run.values[node]) for node in nodes), strict=True):
            words, moved = ways[0][0], [value for _, value in ways]
            if moved[0].shape == nodes[0].shape and _found(case, words, nodes, moved):
                message = f"<d> <uses> `{name}` {words} where `{name}` itself is meant{steps}"
                yield Explanation(("all moved", name, words), LOCAL, "mistaken value", message, (name,))
    for (one, first), (other, second) in itertools.permutations(held.items(), 2):
        if [n.shape for n in first] != [n.shape for n in second]:
            continue
        ones, others = ([case.run.values[node] for node in nodes] for nodes in (first, second))
        if _found(case, other, first, others):
            message = f"<d> <uses> `{other}` where `{one}` is meant, wherever it is used"
            yield Explanation(("all mistaken", other, one), LOCAL, "mistaken value", message, (other, one))
        if one < other and _found(case, "exchanged", [*first, *second], others + ones):
            message = f"in <d> `{one}` and `{other}` are exchanged"
            yield Explanation(("exchanged", one, other), LOCAL + 0.1, "mistaken value", message, (one, other))


def _held(case: Case) -> dict[str, list[Node]]:
    """Names with the nodes that they stood for: several where a line of a loop gives one name again and again."""
    held: dict[tuple[str, int], list[Node]] = {}
    for node in case.run.order:
        if node in case.run.names and node in case.run.values and node.shape:
            line = case.run.lines[node][0] if node in case.run.lines else 0
            held.setdefault((case.run.names[node].split(" #")[0], line), []).append(node)
    same = [nodes for nodes in held.values() if len({n.shape for n in nodes}) == 1]
    small = [nodes for nodes in same if case.run.values[nodes[0]].size <= LARGEST][:MOST]
    return {case.run.names[nodes[0]].split(" #" if len(nodes) > 1 else None)[0]: nodes for nodes in small}


def _found(case: Case, key: str, nodes: Sequence[Node], values: Sequence[Array]) -> bool:
    """Whether a reverse pass that has other values of some nodes, and all that only moves those, is the hand's."""
    carriers = case.clues.carried(nodes)
    changed = dict(zip(nodes, values, strict=True))

    def act(own: bool) -> Mapping[Node, Array]:
        return case.sweep.otherwise(case.sweep.replayed(changed, carriers), own)

    kept = any(OUTPUT in node.primitive.lifts for node in nodes if node.primitive is not None)
    return case.acted((key, *nodes), lambda: act(True)) or (
        kept and case.acted((key, "others", *nodes), lambda: act(False))
    )


def left_out(case: Case) -> Iterator[Explanation]:
    """Values that were computed anew without one step of the forward, at each turn of a loop."""
    for (name, *_), nodes in case.clues.repeated().items():
        node = nodes[0]
        if name in MOVES or node.primitive.joint is not None:  # type: ignore[union-attr]
            continue
        for i, argument in enumerate(case.run.arguments[node]):
            if getattr(argument, "shape", None) != node.shape:
                continue
            if _without(case, nodes, i):
                at = f" at {case.run.place(node)}"
                message = f"<d> <is> computed without the {name}{_other(case, node, i)}{at}"
                yield case.at(node, ("left out", node, i), INVOLVED, "step left out", message)


def _without(case: Case, nodes: Sequence[Node], i: int) -> bool:
    """Whether the hand goes on with the i-th arguments of some nodes in their place.

    With the values alone, with the derivatives alone, or with both.
    """
    edges = [(node, j) for node in nodes for j in range(len(node.inputs)) if (node, j) in case.sweep.edges]
    passed = {edge: (lambda g, c: g) if edge[1] == i else (lambda g, c: c * 0) for edge in edges}

    changed = {node: (lambda *arguments: arguments[i]) for node in nodes}

    def act(values: bool, path: bool) -> Mapping[Node, Array]:
        fresh = case.sweep.replayed(changed) if values else {}
        return case.sweep.otherwise(fresh, edit=passed if path else {})

    return any(
        case.acted(("without", nodes[0], i, values, path), functools.partial(act, values, path))
        for values, path in ((True, False), (False, True), (True, True))
    )


def _other(case: Case, node: Node, i: int) -> str:
    """What a step with two arguments does to its i-th: " of `P`", " of 3"; else nothing."""
    if len(node.inputs) != 2:
        return ""
    other = case.run.argument(node, 1 - i)
    return f" of {other}" * bool(other)
