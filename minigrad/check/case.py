"""The case of one wrong gradient: the two tests that a suspected mistake has to pass, and what is told of one.

A suspicion is a change of the right reverse pass, `delta` at some node. It is first tested by inner
products with a few random directions (see `sweep`), thousands at a time, and then by its full
prediction, which has to reproduce every element of the hand-derived gradient.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.clues import MATRIX, NEAR, Clues
from minigrad.check.numbers import STATISTICS, Factor
from minigrad.check.run import op_of
from minigrad.check.sweep import DIRECTIONS, Array, Edge
from minigrad.ops import sum_to
from minigrad.tape import Node

SIMPLE, PLAIN, LOCAL, INVOLVED, COMPOUND, LAST = 1.0, 2.0, 3.0, 4.0, 6.0, 9.0
"""How readily a kind of mistake is believed, where several reproduce the numbers; LAST explains nothing."""


class OutOfTime(Exception):
    """A search has taken as long as it may."""


@dataclass(frozen=True)
class Explanation:
    """A mistake that reproduces a hand-derived gradient to rounding.

    key:     the same for one mistake that shows in several gradients
    rank:    lower is simpler
    message: with <d> where the gradients' names go, and verbs such as <is> that follow their number
    """

    key: Any
    rank: float
    kind: str
    message: str
    paths: tuple[str, ...] = ()
    factor: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


class Case:
    """The k-th gradient of a recorded run: `a` by autodiff, and `h`, which its author has derived by hand.

    tolerance: of its elements.  until: the time (of this thread) when a search is to end; late: whether one did.
    q: the difference as the random directions see it
    """

    def __init__(self, clues: Clues, k: int, hand: Array, tolerance: Array, until: float) -> None:
        self.clues, self.sweep, self.run = clues, clues.sweep, clues.run
        self.until, self.late = until, False
        self.k, self.a, self.h = k, self.sweep.gradients[k], hand
        self.tol = host.broadcast_to(tolerance, self.a.shape)
        most = float(host.abs(self.h - self.a).max())
        self.bound = 1e-6 * most + host.minimum(3 * self.tol, 0.1 * most)  # no mistake at all explains nothing
        step = max(1, self.a.size // 64)
        self._few = (self.h.reshape(-1)[::step], self.bound.reshape(-1)[::step])
        self.q = self.along(self.h - self.a)
        self.q_tol = 1e-5 * float(host.abs(self.q).max()) + 5 * math.sqrt(float((self.tol**2).sum()))

    def along(self, gradient: Array) -> Array:
        """A gradient as the random directions see it."""
        return self.sweep.directions(self.k)[0].reshape(DIRECTIONS, -1) @ gradient.reshape(-1)

    def in_time(self) -> None:
        """Ends a search that has taken as long as it may."""
        if time.thread_time() > self.until:
            raise OutOfTime

    def fits(self, predicted: Array) -> bool:
        """Whether a prediction reproduces the hand-derived gradient in every element."""
        self.in_time()
        if predicted.size > MATRIX and not self._fits(predicted.reshape(-1)[:: predicted.size // 64], self._few):
            return False
        return self._fits(predicted, (self.h, self.bound))

    def _fits(self, predicted: Array, wanted: tuple[Array, Array]) -> bool:
        hand, bound = wanted
        return bool((host.abs(hand - predicted) <= bound).all())

    def suspected(self, node: Node, delta: Array) -> bool:
        """The cheap test of an error `delta` in the cotangent of a node."""
        self.in_time()
        with host.errstate(all="ignore"):
            return bool((host.abs(self.sweep.seen(self.k, node, delta) - self.q) <= self.q_tol).all())

    def confirmed(self, node: Node, delta: Array) -> bool:
        """Both tests: the cheap one, then the partial reverse pass."""
        if not self.suspected(node, delta):
            return False
        return self.fits(self.a + self.sweep.at_leaf(self.sweep.down({node: delta}), self.k))

    def acted(self, key: Any, act: Callable[[], Mapping[Node, Array]]) -> bool:
        """Whether a mistaken reverse pass, which is acted out once for all gradients, leads to the hand-derived one."""
        return self.fits(self.clues.acted(key, act)[self.k])

    def _sites(self) -> list[Node | Edge]:
        """The places where something can go wrong on the way to this leaf, without those that come to the same."""
        x = self.run.leaves[self.k].node
        below = self.sweep.directions(self.k)[1]
        places: list[Node | Edge] = []
        for node in reversed(self.run.order):
            if node not in self.sweep.cotangents or node not in below or node is x:
                continue
            if node not in self.sweep.seeds or len(self.sweep.seeds) > 1:
                places.append(node)
            inputs = [s for s in node.inputs if s is not None and s in below]
            for i, source in enumerate(node.inputs):
                if source in inputs and len(inputs) > 1 and len(self.sweep.consumers.get(source, ())) > 1:  # type: ignore[arg-type]
                    places.append((node, i))
        return places

    @functools.cached_property
    def weights(self) -> list[tuple[Node | Edge, Array]]:
        """For every site what passes through it, as the random directions see it."""
        seen = [(site, self.sweep.seen(self.k, *self.sweep.landing(site))) for site in self._sites()]
        return [(site, p) for site, p in seen if float(p @ p) > 0]

    def likely(self, node: Node, c: Array, instead: Array | None = None) -> list[tuple[Factor, Array]]:
        """The factors that pass the test of the first direction: `c`, the contribution to a node, times the factor.

        instead: is multiplied by the factor in place of `c`, which stays what the right pass contributes; then a half,
        twice and minus the factor are tried too.
        """
        tangents = self.sweep.directions(self.k)[1].get(node)
        if tangents is None or not c.size:
            return []
        fit, rows = self.clues.fitting(c.shape)
        weights = (c if instead is None else instead) * tangents[0]
        goal = self.q[0] + float((c * tangents[0]).sum())
        if rows is not None:
            sums = rows @ weights.reshape(-1)
        else:
            partial: dict[tuple[int, ...], Array] = {}
            sums = host.zeros(len(fit))
            for number, (_, value) in enumerate(fit):
                lead = (1,) * (weights.ndim - value.ndim) + value.shape
                if lead not in partial:
                    partial[lead] = sum_to(weights, lead)
                sums[number] = float((partial[lead] * value.reshape(lead)).sum())
        scales = (1.0,) if instead is None else (1.0, -1.0, 0.5, -0.5, 2.0, -2.0)
        return [
            (_scaled(fit[i][0], scale), fit[i][1] * scale)
            for scale in scales for i in host.flatnonzero(host.abs(scale * sums - goal) <= self.q_tol)
            if scale == 1 or not fit[i][0].inverse or fit[i][0].plain
        ]  # fmt: skip

    def path_words(self, site: Node | Edge) -> str:
        """A site as a path: "the path through `var`"."""
        if isinstance(site, Node):
            return f"the path through {self.run.describe(site)}"
        node, i = site
        return f"the path from {self.run.describe(node.inputs[i])} into {self.run.describe(node)}"  # type: ignore[arg-type]

    def believed(self, site: Node | Edge) -> float:
        """Readiness to believe in a site: named intermediates before unnamed, statistics first, edges last."""
        node = site if isinstance(site, Node) else site[0]
        alone = 1.2 if len(self.clues.turns[self.clues.made_by(node)]) > NEAR else 0.0  # one turn of a loop
        if not isinstance(site, Node):
            named = sum(end in self.run.names for end in (node, node.inputs[site[1]]))
            return 0.6 - 0.1 * named + alone
        rank = alone + (0.5 if site not in self.run.names else 0.3 if "." in self.run.names[site] else 0.0)
        rank -= 0.1 if op_of(site) in STATISTICS else 0.0
        return rank + 1e-4 * self.run.order.index(site) / len(self.run.order)

    def at(
        self, site: Node | Edge, key: Any, rank: float, kind: str, message: str, factor: str | None = None,
        evidence: Mapping[str, Any] = {},
    ) -> Explanation:  # fmt: skip
        """A mistake at a site, with the names that it has there, and its line."""
        node = site if isinstance(site, Node) else site[0]
        line = {"line": "{}: {}".format(*self.run.lines[node])} if node in self.run.lines else {}
        return Explanation(key, rank, kind, message, self.names_of(site), factor, {**evidence, **line})

    def names_of(self, *sites: Node | Edge) -> tuple[str, ...]:
        """The names at some sites: a node's, or those of an edge's both ends."""
        nodes = [n for s in sites for n in ((s,) if isinstance(s, Node) else (s[0].inputs[s[1]], s[0]))]
        return tuple(self.run.names[node] for node in nodes if node in self.run.names)


def _scaled(factor: Factor, scale: float) -> Factor:
    """A factor times a number: `0.5/std`."""
    if scale == 1:
        return factor
    text = f"{scale:g}/{factor.text}" if factor.inverse else f"{'minus' if scale == -1 else f'{scale:g}'} {factor.text}"
    return replace(factor, text=text, value=factor.value * scale, inverse=False)
