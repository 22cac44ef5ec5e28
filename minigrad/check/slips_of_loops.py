"""The same slip at every step of a loop, and an input that is used rearranged throughout."""

from __future__ import annotations

from collections.abc import Iterator

from minigrad.backend import numpy as host
from minigrad.check.rearranged import rearrangements
from minigrad.check.suspicion import LOCAL, Explanation, Suspicion
from minigrad.check.sweep import Edge
from minigrad.tape import Node

MOVES = frozenset(("alias", "broadcast_to", "flip", "pad", "reshape", "roll", "take", "transpose"))
"""Rows that carry values along without computing."""


class SlipsOfLoops(Suspicion):
    """Searches for slips that one line of a backward pass makes many times."""

    def everywhere(self) -> Iterator[Explanation]:
        """The same slip at every step of a loop: all nodes that one line made, or all uses of one value."""
        groups: dict[tuple[int, str, int], list[Edge]] = {}
        uses: dict[int, list[tuple[Node, int]]] = {}
        for node in self.run.order:
            if node not in self.sweep.cotangents or node.primitive is None or node.primitive.joint is not None:
                continue
            for i in range(len(node.inputs)):
                if (node, i) in self.sweep.edges and node in self.run.lines:
                    groups.setdefault((self.run.lines[node][0], node.primitive.name, i), []).append((node, i))
            for place, value in enumerate(node.residuals):
                if isinstance(value, host.ndarray) and value.dtype.kind == "f" and value.ndim > 1:
                    uses.setdefault(id(value), []).append((node, place))
        for (_, name, i), edges in list(groups.items())[:40]:
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

        yield from self._rearranged_inputs()

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
