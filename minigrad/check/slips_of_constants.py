"""Constants of the forward that the backward pass has otherwise: eps left out or another, m - 1 for m."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.numbers import together, variances
from minigrad.check.rearranged import fitted
from minigrad.check.suspicion import INVOLVED, Explanation, Suspicion
from minigrad.check.sweep import Array
from minigrad.tape import Node

LARGE = 50_000
"""From so many elements on not every mixture of changed values is acted out."""


class SlipsOfConstants(Suspicion):
    """Searches for backward passes that were computed with other constants."""

    def replays(self) -> Iterator[Explanation]:
        """A constant left out of the values that the backward pass used (eps), or m - 1 for m in them."""
        spreads = self._spreads()
        for node in self.run.order:
            row = node.primitive
            if row is None or node not in self.sweep.cotangents:
                continue
            if row.name == "add":
                constant = next((a for a in self.run.arguments[node] if not getattr(a, "ndim", 0)), None)
                source = next((s for s in node.inputs if s is not None), None)
                if (
                    constant is None
                    or source is None
                    or sum(s is not None for s in node.inputs) != 1
                    or not float(constant)
                ):
                    continue
                value = host.broadcast_to(self.run.values[source], node.shape)
                text = f"{float(constant):.6g}"
                words = (
                    "{d} {leaves} out "
                    + f"{text} (eps) that is added in {self.run.describe(node)}{self.run.where(node)}"
                )
                yield from self._replayed(node, value, words, "eps left out", text)
            elif node in spreads:
                m = spreads[node]
                value = self.run.values[node] * (m / (m - 1))
                words = "{d} {uses} " + f"{self.run.describe(node)} divided by m - 1 instead of m = {m}"
                yield from self._replayed(node, value, words + self.run.where(node), "factor", "m/(m-1)")

    def _spreads(self) -> dict[Node, int]:
        """The variances: means of squares, and sums of squares divided by their number, with that number."""
        found = {}
        for node in variances(self.run):
            assert node.primitive is not None
            m = together(node)
            if node.primitive.name == "mean":
                found[node] = m
            else:
                for user, i in self.consumers.get(node, ()):
                    by = self.run.arguments[user][1 - i] if user.primitive.name == "divide" and i == 0 else None  # type: ignore[union-attr]
                    if host.size(by) == 1 and by == m:
                        found[user] = m
        return {node: m for node, m in found.items() if m > 1}

    def _replayed(self, node: Node, value: Array, words: str, kind: str, factor: str) -> Iterator[Explanation]:
        """Backward passes in which some of the values below a changed one follow the change."""
        fresh = self.sweep.replayed({node: value})
        if any(not host.isfinite(v).all() for v, _ in fresh.values()):
            return
        for n, (v, _) in fresh.items():
            if n is node or v.shape != self.run.values[n].shape:
                continue
            ratio = fitted(self.run.values[n] / v, self.a.shape)
            for power in (1, -1, 2, -2, 3):
                if ratio is not None and self.fits(self.a * ratio**power):
                    yield Explanation(
                        (kind, node), INVOLVED - 0.5, kind, words, self.names_of(node), factor, self._where(node)
                    )
                    return
        chosen = [n for n in fresh if n is not node and n in self.sweep.cotangents][:7]
        large = max(self.run.values[n].size for n in chosen) > LARGE if chosen else False
        for many in (len(chosen), 1) if large else range(len(chosen), 0, -1):
            for subset in itertools.combinations(chosen, many):
                mixed: dict[Node, Any] = {}
                for n in self.run.order:
                    if n.primitive is None or n.primitive.joint is not None or n not in self.sweep.cotangents:
                        continue
                    mixed[n] = self._mixed(n, {s: fresh[s][0] for s in subset} | ({node: value}))
                predicted = self.sweep.at_leaf(self.sweep.down(self.sweep.seeds, residuals=mixed), self.k)
                if self.fits(predicted):
                    yield Explanation(
                        (kind, node), INVOLVED - 0.5, kind, words, self.names_of(node), factor, self._where(node)
                    )
                    return
