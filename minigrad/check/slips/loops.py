"""The same slip at every step of a loop."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from minigrad.check.case import LOCAL, Case, Explanation
from minigrad.check.run import is_elementwise, op_of
from minigrad.check.sweep import Array, Edge
from minigrad.tape import Node

Slip = Callable[[Array, Array, Array], Array]
"""What an edge contributes by mistake, of the cotangent above it, its right contribution and the value above it."""

PATHS: dict[str, tuple[str, str, Slip]] = {
    "cut": ("missing path", "<equals> autodiff with {path} cut{where}", lambda g, c, y: c * 0),
    "sign": ("wrong sign", "<has> the wrong sign on {path}{where}", lambda g, c, y: -c),
    "twice": ("factor", "<has> a factor 2 too many on {path}{where}", lambda g, c, y: 2 * c),
}
"""Slips that any edge may have: kind, words, and what is contributed."""

DERIVATIVES: dict[str, tuple[str, str, Slip]] = {
    "left out": ("derivative left out", "<lacks> {derivative}{where}", lambda g, c, y: g),
    "1 - y": ("wrong derivative", "<uses> (1 - y) for {derivative}{where}", lambda g, c, y: g * (1 - y)),
    "1 + y²": ("wrong derivative", "<uses> (1 + y²) for {derivative}{where}", lambda g, c, y: g * (1 + y * y)),
    "1 - y²": ("wrong derivative", "<uses> (1 - y²) for {derivative}{where}", lambda g, c, y: g * (1 - y * y)),
    "y(1 - y)": ("wrong derivative", "<uses> y(1 - y) for {derivative}{where}", lambda g, c, y: g * y * (1 - y)),
    "y": ("wrong derivative", "<uses> y for {derivative}{where}", lambda g, c, y: g * y),
}
"""Slips in elementwise rows: what stands for the derivative."""


def everywhere(case: Case) -> Iterator[Explanation]:
    """The same slip at every node that one line made, in one of its arguments."""
    for (row, *_), nodes in case.clues.repeated().items():
        for i in range(len(nodes[0].inputs)):
            edges = [(node, i) for node in nodes if (node, i) in case.sweep.edges]
            if len(edges) > 1:
                yield from _at_all(case, edges, row)
    yield from _only_one_left(case)
    yield from _a_step_off(case)


def _at_all(case: Case, edges: list[Edge], row: str) -> Iterator[Explanation]:
    (node, i), many = edges[0], len(edges)
    source = _at_any_step(case.run.describe(edges[-1][0].inputs[i]))  # type: ignore[arg-type]
    words = {
        "path": f"all {many} paths into {source} through the {row}",
        "derivative": f"the derivative of {row} at each of {many} steps",
        "where": case.run.where(node),
    }
    same = all(is_elementwise(n) and n.shape == n.inputs[j].shape for n, j in edges)  # type: ignore[union-attr]
    for name, (kind, message, slip) in (PATHS | DERIVATIVES if same else PATHS).items():
        if case.acted(("all", *edges[0], name), functools.partial(_with_slip, case, edges, slip)):
            for part, text in words.items():
                message = message.replace("{" + part + "}", text)
            rank = LOCAL + (0.2 if name in PATHS else 0.0)
            yield case.at(node, ("all", name, *edges[0]), rank, kind, f"<d> {message}")


def _with_slip(case: Case, edges: list[Edge], slip: Slip) -> Mapping[Node, Array]:
    def of(y: Array) -> Callable[[Array, Array], Array]:
        return lambda g, c: slip(g, c, y)

    return case.sweep.down(case.sweep.seeds, edit={edge: of(case.run.values[edge[0]]) for edge in edges})


def _only_one_left(case: Case) -> Iterator[Explanation]:
    """What a loop carries on assigned where it should be added to: of all uses only one contributes."""
    kind = {node: key for key, nodes in case.clues.repeated().items() for node in nodes}
    for words, nodes in _series(case):
        uses: dict[Any, list[Edge]] = {}
        for node, i in (edge for source in nodes for edge in case.sweep.consumers.get(source, ())):
            uses.setdefault((kind.get(node), i), []).append((node, i))
        for key, left in uses.items() if len(uses) > 2 else ():
            others = [edge for other, edges in uses.items() if other != key for edge in edges]
            if case.acted(("only", *left), functools.partial(_with_slip, case, others, PATHS["cut"][2])):
                message = f"of the {len(uses)} contributions to {words} only one is left in <d>, at every step, "
                message += f"from {_at_any_step(case.run.describe(left[0][0]))}: the others are overwritten"
                yield Explanation(("only", words), LOCAL, "overwritten", message, _named(case, nodes))


def _a_step_off(case: Case) -> Iterator[Explanation]:
    """The value of the step before, or after, where that of a step is meant."""
    for words, nodes in _series(case):
        values = [_before(case, nodes), *(case.run.values[n] for n in nodes)]
        place_of = {id(v): t for t, v in enumerate(values) if v is not None}
        uses: dict[tuple[str, int], list[tuple[Node, int, int]]] = {}
        for node in case.sweep.steps():
            if node.primitive.joint is None:  # type: ignore[union-attr]
                for place, held in enumerate(node.residuals):
                    if id(held) in place_of:
                        uses.setdefault((op_of(node), place), []).append((node, place, place_of[id(held)]))
        for (row, _), places in uses.items():
            for shift, which in ((-1, "before"), (1, "after")):
                moved = {
                    node: [*node.residuals[:place], values[t + shift], *node.residuals[place + 1 :]]
                    for node, place, t in places
                    if 0 <= t + shift < len(values) and values[t + shift] is not None
                }  # fmt: skip
                if len(moved) < 2:
                    continue
                found = case.sweep.down(case.sweep.seeds, residuals=moved)
                if case.fits(case.sweep.at_leaf(found, case.k)):
                    message = f"<d> <uses> {words} of the step {which} where the step itself is meant, "
                    message += f"in the derivative of {row}{case.run.where(places[0][0])}"
                    key = ("step off", words, row, shift)
                    yield Explanation(key, LOCAL, "mistaken value", message, _named(case, nodes))


def _series(case: Case) -> list[tuple[str, list[Node]]]:
    """What a loop makes at each step, in words, and its nodes in their order: they have one name, or one line."""
    named: dict[str, list[Node]] = {}
    for node in case.run.order:
        if node in case.run.names and node.primitive is not None:
            named.setdefault(f"`{case.run.names[node].split(' #')[0]}`", []).append(node)
    unnamed = [
        (_at_any_step(case.run.describe(nodes[0])), nodes)
        for nodes in case.clues.repeated().values() if len(nodes) > 2 and case.run.names.keys().isdisjoint(nodes)
    ]  # fmt: skip
    series = [*named.items(), *unnamed]
    return [(words, nodes) for words, nodes in series if len({n.shape for n in nodes}) == 1 < len(nodes)]


def _named(case: Case, nodes: list[Node]) -> tuple[str, ...]:
    return tuple({case.run.names[node].split(" #")[0]: None for node in nodes if node in case.run.names})


def _before(case: Case, nodes: list[Node]) -> Array | None:
    """Where a loop began: what a step takes at the first turn, where it takes one of a series at the others."""
    series = {id(case.run.values[node]) for node in nodes}
    for users in case.clues.repeated().values():
        for first, *others in zip(*(node.residuals for node in users), strict=True):
            begins = id(first) not in series and getattr(first, "shape", None) == nodes[0].shape
            if begins and any(id(held) in series for held in others):
                return first  # type: ignore[no-any-return]
    return None


def _at_any_step(words: str) -> str:
    """The words for a node without the number that tells its step."""
    return re.sub(r" #\d+", "", words)
