"""Reverse passes that can be made to err, and the cheap test that tells which error was made.

A *site* is a place where a mistaken backward pass can differ: a node (its whole cotangent) or an edge
(one term of it). A mistake there adds some `delta` to the cotangent at that site, and what it does to
the gradient of a leaf is J^T delta: one partial reverse pass. Before paying for that, the identity

    <J^T delta, u> = <delta, J u>

tests it against a few random directions u of the leaf: `J u`, the tangent at every node, is computed
once, and then each of thousands of suspected mistakes costs one inner product.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from minigrad import autodiff
from minigrad.backend import numpy as host
from minigrad.check.run import Run
from minigrad.paths import pull
from minigrad.primitive import ALL, OUTPUT
from minigrad.tape import Node, enable_grad, leaf
from minigrad.tensor import Tensor

Array = Any
Edge = tuple[Node, int]
"""A node and the number of one of its arguments."""

DIRECTIONS = 6


class Sweep:
    """The reverse pass of a recorded run, for given cotangents of its outputs.

    cotangents: of every node.  edges: for every edge what it contributes to its source.
    gradients:  of the leaves, in their order.  constants: nodes that nothing is passed to.
    consumers:  for every node the edges through which its cotangent comes.
    """

    def __init__(self, run: Run, seeds: Mapping[Node, Array], constants: frozenset[Node] = frozenset()) -> None:
        self.run = run
        self.seeds = dict(seeds)
        self.constants = constants
        self.leaf_nodes: set[Node] = {x.node for x in run.leaves}  # type: ignore[misc]
        leading = set(self.leaf_nodes)
        for node in run.order:
            if node not in leading and node not in constants and not leading.isdisjoint(node.inputs):
                leading.add(node)
        leading.discard(None)  # type: ignore[arg-type]
        self.needed = leading
        self.edges: dict[Edge, Array] = {}
        self.cotangents = self.down(self.seeds, note=self.edges)
        self.gradients = [self.at_leaf(self.cotangents, k) for k in range(len(run.leaves))]
        self.consumers: dict[Node, list[Edge]] = {}
        for node in run.order:
            for i, source in enumerate(node.inputs):
                if source is not None and source in self.needed and node in self.cotangents:
                    self.consumers.setdefault(source, []).append((node, i))
        self._effects: dict[Node | Edge, dict[Node, Array]] = {}
        self._tangents: dict[int, tuple[Array, dict[Node, Array]]] = {}

    def down(
        self,
        seeds: Mapping[Node, Array],
        drop: frozenset[Node] = frozenset(),
        residuals: Mapping[Node, Any] | None = None,
        note: dict[Edge, Array] | None = None,
        given: Mapping[Node, Array] | None = None,
        edit: Mapping[Edge, Callable[[Array, Array], Array]] | None = None,
    ) -> dict[Node, Array]:
        """Cotangents carried down from `seeds`.

        drop: nodes that pass nothing on.  residuals: stand in for nodes' own.  note: receives what each
        edge contributed.  given: cotangents that replace the complete ones, once they are complete.
        edit: changes what edges contribute, a function of the cotangent above and the contribution.
        """
        held = dict(seeds)
        heap = [(-node.serial, node) for node in held]
        heapq.heapify(heap)
        residuals = residuals or {}
        while heap:
            node = heapq.heappop(heap)[1]
            g = held[node]
            if node in drop:
                continue
            if given is not None and node in given:
                g = given[node]
            for i, source, c in pull(node, g, False, self.needed, residuals.get(node)):
                if edit is not None and (node, i) in edit:
                    c = edit[node, i](g, c)
                if note is not None:
                    note[node, i] = c
                if source in held:
                    held[source] = held[source] + c
                else:
                    held[source] = c
                    heapq.heappush(heap, (-source.serial, source))
        return held

    def at_leaf(self, held: Mapping[Node, Array], k: int) -> Array:
        """The k-th leaf's part of what `down` returned."""
        x = self.run.leaves[k]
        found = held.get(x.node)  # type: ignore[arg-type]
        return host.zeros(x.shape, x.dtype) if found is None else found

    def steps(self, *ops: str) -> Iterator[Node]:
        """The steps of the forward that a cotangent reaches, in their order; where ops are named, only theirs."""
        for node in self.run.order:
            if node in self.cotangents and node.primitive is not None and (not ops or node.primitive.name in ops):
                yield node

    def terms(self, node: Node) -> Iterator[tuple[int, Node, Array]]:
        """What a node contributes to its inputs' cotangents: (argument number, input, contribution)."""
        for i, source in enumerate(node.inputs):
            if source is not None and (node, i) in self.edges:
                yield i, source, self.edges[node, i]

    def landing(self, site: Node | Edge) -> tuple[Node, Array]:
        """Where a site's contribution is to be found, and the contribution."""
        if isinstance(site, Node):
            return site, self.cotangents[site]
        node, i = site
        source = node.inputs[i]
        assert source is not None
        return source, self.edges[site]

    def effect(self, site: Node | Edge) -> dict[Node, Array]:
        """What passes through a site, at every node below it: the gradient's part that a cut there loses."""
        if site not in self._effects:
            source, c = self.landing(site)
            self._effects[site] = self.down({source: c})
        return self._effects[site]

    def directions(self, k: int) -> tuple[Array, dict[Node, Array]]:
        """Random directions u of the k-th leaf, and their tangents J u at every node (both stacked)."""
        if k not in self._tangents:
            generator = host.random.default_rng(7 + k)
            x = self.run.leaves[k]
            u = generator.normal(size=(DIRECTIONS, *x.shape))
            self._tangents[k] = (u, self._forward({x.node: u}))  # type: ignore[dict-item]
        return self._tangents[k]

    def _forward(self, start: Mapping[Node, Array]) -> dict[Node, Array]:
        """Run mode along the recorded tape, several tangents at a time."""
        tangents = dict(start)
        for node in self.run.order:
            if node.primitive is None or node not in self.needed or not any(s in tangents for s in node.inputs):
                continue
            total = host.zeros((DIRECTIONS, *node.shape))
            with enable_grad():
                dummy = Tensor(host.zeros(node.shape, node.dtype), leaf(node.shape, node.dtype))
                for _, source, c in pull(node, dummy, node.primitive.joint is not None, None):
                    if source in tangents and isinstance(c, Tensor) and c.node is not None:
                        for number, t in enumerate(tangents[source]):
                            found = autodiff.reverse({c.node: t}, [dummy.node], False, True)  # type: ignore[list-item]
                            if dummy.node in found:
                                total[number] += found[dummy.node]
            tangents[node] = total
        return tangents

    def seen(self, k: int, node: Node, delta: Array) -> Array:
        """<J^T delta, u> for each direction u of the k-th leaf, by way of <delta, J u>."""
        tangents = self.directions(k)[1].get(node)
        if tangents is None:
            return host.zeros(DIRECTIONS)
        return tangents.reshape(DIRECTIONS, -1) @ host.broadcast_to(delta, node.shape).reshape(-1)

    def replayed(
        self, changed: Mapping[Node, Array | Callable[..., Array]], only: set[Node] | None = None
    ) -> dict[Node, Array]:
        """The values of all nodes (or of some only) that depend on changed ones.

        changed: nodes with their values, or with functions of their arguments, which may have changed too.
        """
        fresh: dict[Node, Array] = {node: value for node, value in changed.items() if not callable(value)}
        for node in self.run.order:
            row, other = node.primitive, changed.get(node)
            if node in fresh or row is None or not (callable(other) or any(source in fresh for source in node.inputs)):
                continue
            if only is not None and node not in only:
                continue
            arguments = [
                fresh.get(source, argument)  # type: ignore[arg-type]
                for source, argument in zip(node.inputs, self.run.arguments[node], strict=True)
            ]
            if callable(other):
                fresh[node] = other(*arguments)
            else:
                fresh[node] = host.asarray(row.call(*arguments, **dict(zip(row.statics, node.params, strict=True))))
        return fresh

    def otherwise(
        self, changed: Mapping[Node, Array], own: bool = True, edit: Mapping[Edge, Callable[[Array, Array], Array]] = {}
    ) -> dict[Node, Array]:
        """Cotangents by a reverse pass that finds some nodes' values changed, wherever rows have kept them.

        own: also where a node's derivative is computed of its own output, as a sigmoid's.  edit: as in `down`
        """
        kept = {
            node: _with(changed, node, own) for node in self.run.order
            if node.primitive is not None and node.primitive.joint is None and node in self.cotangents
            and (node in changed or not changed.keys().isdisjoint(node.inputs))
        }  # fmt: skip
        return self.down(self.seeds, residuals=kept, edit=edit)


def _with(changed: Mapping[Node, Array], node: Node, own: bool) -> list[Any]:
    """A node's residuals with the changed values of its inputs and its output in them."""
    values = list(node.residuals)
    assert node.primitive is not None
    for place, origin in enumerate(node.primitive.lifts):
        if origin is None or values[place] is None or (origin == OUTPUT and not own):
            continue
        if origin == ALL:
            values[place] = [changed.get(s, v) for s, v in zip(node.inputs, values[place], strict=True)]  # type: ignore[arg-type]
        else:
            values[place] = changed.get(node if origin == OUTPUT else node.inputs[origin], values[place])  # type: ignore[arg-type]
    return values
