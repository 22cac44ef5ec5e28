"""The same slip at every step of a loop, and an input that is used rearranged throughout."""

from __future__ import annotations

from collections.abc import Iterator

from minigrad.backend import numpy as host
from minigrad.check.rearranged import rearrangements
from minigrad.check.suspicion import LOCAL, Explanation, Suspicion
from minigrad.check.sweep import Array, Edge
from minigrad.tape import Node

MOVES = frozenset(("alias", "broadcast_to", "flip", "pad", "reshape", "roll", "take", "transpose"))
"""Rows that carry values along without computing."""


class SlipsOfLoops(Suspicion):
    """Searches for slips that one line of a backward pass makes many times."""

    def everywhere(self) -> Iterator[Explanation]:
        """The same slip at every step of a loop: all nodes that one line made, or all uses of one value."""
        groups: dict[tuple[int, str, int, int], list[Edge]] = {}
        turns = self._turns()
        uses: dict[int, list[tuple[Node, int]]] = {}
        for node in self.run.order:
            if node not in self.sweep.cotangents or node.primitive is None or node.primitive.joint is not None:
                continue
            for i in range(len(node.inputs)):
                if (node, i) in self.sweep.edges and node in self.run.lines:
                    key = (self.run.lines[node][0], node.primitive.name, i, turns.get(node, 0))
                    groups.setdefault(key, []).append((node, i))
            for place, value in enumerate(node.residuals):
                if isinstance(value, host.ndarray) and value.dtype.kind == "f" and value.ndim > 1:
                    uses.setdefault(id(value), []).append((node, place))
        for (_, name, i, _), edges in list(groups.items())[:40]:
            if len(edges) < 2:
                continue
            where, many = self.run.where(edges[0][0]), len(edges)
            cut = self.sweep.down(self.sweep.seeds, edit={edge: (lambda g, c: c * 0) for edge in edges})
            if self.fits(self.sweep.at_leaf(cut, self.k)):
                source = self.run.describe(edges[-1][0].inputs[i])  # type: ignore[arg-type]
                message = (
                    "{d} {equals} autodiff with "
                    + f"all {many} paths into {source.split(' #')[0].rstrip('`')}` through the {name.rstrip('_')} "
                    f"cut{where}"
                )
                yield Explanation(
                    ("all cut", where, i),
                    LOCAL + 0.2,
                    "missing path",
                    message,
                    self.names_of(edges[0]),
                    "0",
                    self._where(edges[0]),
                )
            if all(node.primitive is not None and node.primitive.kind == "elementwise" for node, _ in edges):
                same = [edge for edge in edges if edge[0].shape == edge[0].inputs[i].shape]  # type: ignore[union-attr]
                left = self.sweep.down(self.sweep.seeds, edit={edge: (lambda g, c: g) for edge in same})
                if same and self.fits(self.sweep.at_leaf(left, self.k)):
                    message = "{d} {lacks} " + f"the derivative of {name.rstrip('_')} at each of {many} steps{where}"
                    yield Explanation(
                        ("all left", where, i),
                        LOCAL,
                        "derivative left out",
                        message,
                        self.names_of(edges[0]),
                        None,
                        self._where(edges[0]),
                    )
        for places in list(uses.values())[:24]:
            if len(places) < 2:
                continue
            held = places[0][0].residuals[places[0][1]]
            text = next((words for words, value, _ in self.values if value is held), None)
            for words, moved in rearrangements(held) if text else ():
                if moved.shape != held.shape:
                    continue
                values = {node: list(node.residuals) for node, _ in places}
                for node, place in places:
                    values[node][place] = moved
                try:
                    found = self.sweep.down(self.sweep.seeds, residuals=values)
                except (ValueError, TypeError):
                    continue
                if self.fits(self.sweep.at_leaf(found, self.k)):
                    message = (
                        "{d} {uses} " + f"{text} {words} where {text} itself is meant, at each of {len(places)} steps"
                    )
                    yield Explanation(
                        ("all moved", text, words), LOCAL, "mistaken value", message, (str(text).strip("`"),)
                    )

        yield from self._a_step_off()
        yield from self._rearranged_inputs()

    def _turns(self) -> dict[Node, int]:
        """Which of the equal operations of a line a node is: the first or the second `@` of `x[t] @ Wx + h @ Wh`."""
        made: dict[tuple[int, str], list[Node]] = {}
        times: dict[int, int] = {}
        for node in self.run.order:
            if node in self.run.lines and node.primitive is not None:
                line = self.run.lines[node][0]
                made.setdefault((line, node.primitive.name), []).append(node)
                times[line] = times.get(line, 0) + (node in self.run.names)
        turns: dict[Node, int] = {}
        for (line, _), nodes in made.items():
            each = len(nodes) // times[line] if times[line] and len(nodes) % times[line] == 0 else 1
            turns |= {node: place % each for place, node in enumerate(nodes)}
        return turns

    def _a_step_off(self) -> Iterator[Explanation]:
        """The value of the step before, or after, where that of a step is meant."""
        for name, nodes in self._series().items():
            values = [self._before(nodes), *(self.run.values[n] for n in nodes)]
            place_of = {id(v): t for t, v in enumerate(values) if v is not None}
            uses: dict[tuple[str, int], list[tuple[Node, int, int]]] = {}
            for node in self.run.order:
                if node in self.sweep.cotangents and node.primitive is not None and node.primitive.joint is None:
                    for place, held in enumerate(node.residuals):
                        if id(held) in place_of:
                            uses.setdefault((node.primitive.name, place), []).append((node, place, place_of[id(held)]))
            for (row, _), places in uses.items():
                for shift, which in ((-1, "before"), (1, "after")):
                    moved = {
                        node: [*node.residuals[:place], values[t + shift], *node.residuals[place + 1 :]]
                        for node, place, t in places
                        if 0 <= t + shift < len(values) and values[t + shift] is not None
                    }  # fmt: skip
                    if len(moved) < 2:
                        continue
                    found = self.sweep.down(self.sweep.seeds, residuals=moved)
                    if self.fits(self.sweep.at_leaf(found, self.k)):
                        message = "{d} {uses} `" + f"{name}` of the step {which} where the step itself is meant, "
                        message += f"in the derivative of {row.rstrip('_')}{self.run.where(places[0][0])}"
                        yield Explanation(("step off", name, row, shift), LOCAL, "mistaken value", message, (name,))

    def _series(self) -> dict[str, list[Node]]:
        """The nodes that a loop gives one name, in their order."""
        series: dict[str, list[Node]] = {}
        for node in self.run.order:
            if node in self.run.names and node.primitive is not None:
                series.setdefault(self.run.names[node].split(" #")[0], []).append(node)
        return {name: nodes for name, nodes in series.items() if len({n.shape for n in nodes}) == 1 < len(nodes)}

    def _before(self, nodes: list[Node]) -> Array | None:
        """What the first of a series was made of that has its shape and is an input: where the loop began."""
        waiting, seen = [nodes[0]], set()
        while waiting:
            node = waiting.pop()
            for source, argument in zip(node.inputs, self.run.arguments.get(node, ()), strict=False):
                begins = source is None or source.primitive is None
                if begins and getattr(argument, "shape", None) == nodes[0].shape:
                    return argument
                if source is not None and source not in seen:
                    seen.add(source)
                    waiting.append(source)
        return None

    def _rearranged_inputs(self) -> Iterator[Explanation]:
        """An input used flipped or transposed throughout the backward pass, as a kernel in a convolution."""
        for j, x in enumerate(self.run.leaves):
            if x.ndim < 2 or x.size > 1e5:
                continue
            carriers: set[Node] = {x.node}  # type: ignore[arg-type]
            for node in self.run.order:
                if node.primitive is not None and node.primitive.name in MOVES and not carriers.isdisjoint(node.inputs):
                    carriers.add(node)
            users = [n for n in self.run.order if n.primitive is not None and not carriers.isdisjoint(n.inputs)]
            for words, moved in rearrangements(x.data):
                if moved.shape != x.shape or host.array_equal(moved, x.data):
                    continue
                changed = {n: v for n, (v, _) in self.sweep.replayed({x.node: moved}, carriers).items()}  # type: ignore[dict-item]
                mixed = {n: self._mixed(n, changed) for n in users if n.primitive.joint is None}  # type: ignore[union-attr]
                try:
                    found = self.sweep.down(self.sweep.seeds, residuals=mixed)
                except (ValueError, TypeError):
                    continue
                if self.fits(self.sweep.at_leaf(found, self.k)):
                    name = self.run.leaf_name(j)
                    message = "{d} {uses} " + f"`{name}` {words} where `{name}` itself is meant"
                    yield Explanation(("input moved", j, words), LOCAL, "mistaken value", message, (name,))
