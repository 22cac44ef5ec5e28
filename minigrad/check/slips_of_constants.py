"""Constants of the forward that the backward pass has otherwise: eps left out or another, m - 1 for m."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from minigrad.backend import numpy as host
from minigrad.check.numbers import together, variances
from minigrad.check.rearranged import fitted
from minigrad.check.suspicion import INVOLVED, Explanation, Suspicion
from minigrad.check.sweep import Array
from minigrad.tape import Node

REDUCTIONS = {"amax": "max", "mean": "mean", "sum": "sum"}
"""Rows that may have been taken over other axes, and the methods of arrays that do what they do."""

SMALL = 0.2
"""What is added for the sake of a root or a quotient, and not as a term of its own."""

LARGE = 50_000
"""From so many elements on not every mixture of changed values is acted out."""


class SlipsOfConstants(Suspicion):
    """Searches for backward passes that were computed with other constants."""

    def replays(self) -> Iterator[Explanation]:
        """A backward pass of values with another eps, with none, or with m - 1 for m."""
        spreads = self._spreads()
        for node in self.run.order:
            if node.primitive is None or node not in self.sweep.cotangents:
                continue
            if node.primitive.name == "add":
                yield from self._eps(node)
            elif node in spreads:
                m = spreads[node]
                value = self.run.values[node] * (m / (m - 1))
                words = "{d} {uses} " + f"{self.run.describe(node)} divided by m - 1 instead of m = {m}"
                if self._replayed({node: value}):
                    yield self._otherwise(node, words, "factor", "m/(m-1)")

    def _eps(self, node: Node) -> Iterator[Explanation]:
        """A constant that is added to one value: left out, added after the root, or another one."""
        eps = next((a for a in self.run.arguments[node] if not getattr(a, "ndim", 0)), None)
        sources = [s for s in node.inputs if s is not None]
        if eps is None or len(sources) != 1 or not 0 < abs(float(eps)) < SMALL:
            return
        value, eps = host.broadcast_to(self.run.values[sources[0]], node.shape), float(eps)
        text, at = f"{eps:.6g}", self.run.describe(node)
        if self._replayed({node: value}):
            smaller = self._replayed({node: value + 1e-3 * eps})
            words = "{d} {leaves} out " + f"{text} (eps) that is added in {at}"
            words += ", or {uses} one so small that it makes no difference" if smaller else ""
            yield self._otherwise(node, words, "eps left out", text)
            return
        for root, _ in self.consumers.get(node, ()):
            if root.primitive is not None and root.primitive.name == "sqrt":
                after = {node: value, root: host.sqrt(value) + eps}
                if self._replayed(after):
                    words = "{d} {uses} " + f"{text} (eps) added to the root, where it is added under the root in {at}"
                    yield self._otherwise(node, words, "eps outside", text)
                    return
        if host.unique(value).size < 3:  # one number explains one number, or two, whatever they come of
            return
        other = self._solved(node, value, eps)
        if other is not None:
            words = "{d} {uses} " + f"{other:.4g} where {text} (eps) is added in {at}"
            yield self._otherwise(node, words, "another eps", f"{other:.4g}")

    def other_axes(self) -> Iterator[Explanation]:
        """Values that were computed anew with a statistic over other axes."""
        for node in self.run.order:
            if node in self.sweep.cotangents and node.primitive is not None and node.primitive.name in REDUCTIONS:
                yield from self._over_others(node)

    def _over_others(self, node: Node) -> Iterator[Explanation]:
        assert node.primitive is not None and node.inputs[0] is not None
        elements = self.run.values[node.inputs[0]]
        kept = dict(zip(node.primitive.statics, node.params, strict=True)).get("keepdims", False)
        long = [axis for axis in range(elements.ndim) if elements.shape[axis] > 1]
        for many in range(1, len(long) + 1):
            for axes in itertools.combinations(long, many):
                value = getattr(elements, REDUCTIONS[node.primitive.name])(axes, keepdims=kept)
                if host.array_equal(value, self.run.values[node]):
                    continue
                count = math.prod(elements.shape[axis] for axis in axes) / together(node)
                try:
                    changed = self._replayed({node: value}) or (
                        node.primitive.name == "mean" and self._replayed({node: value * count})
                    )
                except (ValueError, TypeError, IndexError):  # the shapes do not meet further on
                    continue
                if changed and not self._replayed({}):
                    at = self.run.describe(node)
                    words = "{d} {uses} values for which " + f"{at} was taken over axes {list(axes)}"
                    yield self._otherwise(node, words, "wrong axes", "")

    def _solved(self, node: Node, value: Array, eps: float) -> float | None:
        """The constant with which the backward pass reproduces the hand-derived gradient, found by secants."""

        def predicted(e: float) -> Array:
            return self._mixture(self.sweep.replayed({node: value + e}))

        at, found = eps, self.a
        for _ in range(12):
            step = 1e-3 * at
            slope = (predicted(at + step) - found) / step
            size = float((slope * slope).sum())
            if not size:
                return None
            at += float((slope * (self.h - found)).sum()) / size
            if not 0 < at < 1e6 * eps:
                return None
            found = predicted(at)
            if self.fits(found):
                rounded = (float(f"{at:.{digits}e}") for digits in range(5))
                shortest = next((e for e in rounded if self.fits(predicted(e))), at)
                return shortest if abs(shortest - eps) > 1e-3 * eps else None
        return None

    def _otherwise(self, node: Node, words: str, kind: str, factor: str) -> Explanation:
        words += self.run.where(node)
        return Explanation((kind, node), INVOLVED - 0.5, kind, words, self.names_of(node), factor, self._where(node))

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
                    divided = i == 0 and user.primitive is not None and user.primitive.name == "divide"
                    if divided and host.array_equal(self.run.arguments[user][1], m):
                        found[user] = m
        return {node: m for node, m in found.items() if m > 1}

    def _replayed(self, changed: dict[Node, Array]) -> bool:
        """Whether a backward pass in which some of the values below changed ones follow the change is the hand's."""
        fresh = self.sweep.replayed(changed)
        if any(not host.isfinite(v).all() for v in fresh.values()):
            return False
        below = [n for n in fresh if n not in changed]
        for n in below:
            if fresh[n].shape == self.run.values[n].shape:
                ratio = fitted(self.run.values[n] / fresh[n], self.a.shape)
                if ratio is not None and any(self.fits(self.a * ratio**power) for power in (1, -1, 2, -2, 3)):
                    return True
        chosen = [n for n in below if n in self.sweep.cotangents][:7]
        large = max((self.run.values[n].size for n in chosen), default=0) > LARGE
        for many in (len(chosen), 1) if large else range(len(chosen), -1, -1):
            for subset in itertools.combinations(chosen, many):
                if self.fits(self._mixture({n: fresh[n] for n in subset} | changed)):
                    return True
        return False

    def _mixture(self, changed: Mapping[Node, Array]) -> Array:
        """The gradient by a backward pass that finds some values changed."""
        return self.sweep.at_leaf(self.sweep.otherwise(changed), self.k)
