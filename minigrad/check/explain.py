"""Which mistake turns the right gradient into the one that was handed in?

The reverse pass of the recorded forward is made to err in every way that people err in (a path cut, a
term scaled, a value mistaken for another, eps left out of the root, ...), and what comes out is
compared with the hand-derived gradient. Only a mistake that reproduces every element becomes an
explanation. Where several do, the simplest is told and the others are kept as evidence. Where none
does, nothing is claimed.
"""

from __future__ import annotations

from minigrad.backend import numpy as host
from minigrad.check.slips_of_constants import SlipsOfConstants
from minigrad.check.slips_of_formulas import SlipsOfFormulas
from minigrad.check.slips_of_loops import SlipsOfLoops
from minigrad.check.slips_of_paths import SlipsOfPaths
from minigrad.check.slips_of_shapes import SlipsOfShapes
from minigrad.check.slips_of_values import SlipsOfValues
from minigrad.check.suspicion import Explanation
from minigrad.check.sweep import Sweep


class Explainer(SlipsOfPaths, SlipsOfValues, SlipsOfShapes, SlipsOfLoops, SlipsOfConstants, SlipsOfFormulas):
    """Looks for the mistake behind each wrong gradient of one recorded run."""

    def explain(self, k: int) -> list[Explanation]:
        """Every mistake known here that reproduces the k-th gradient, the simplest first."""
        self._prepare(k)
        found: list[Explanation] = []
        with host.errstate(all="ignore"):
            for search in (
                self.whole, self.upstream, self.sites, self.constants, self.factors, self.local, self.mistaken,
                self.sums, self.products, self.turned, self.added_up, self.overwritten, self.passed_over, self.replaced,
                self.exchanged,
            ):  # fmt: skip
                found += search()
            for search in (
                self.everywhere, self.nothing_summed, self.replays, self.formulas, self.pairs, self.combinations,
            ):  # fmt: skip
                if not found:  # these take longer, and what they find is less plain
                    found += search()
        if not found and (pruned := self.without_zeros()) is not None:
            return pruned.explain(k)
        return sorted(found, key=lambda e: e.rank)

    def without_zeros(self) -> Explainer | None:
        """The same search with what contributes nothing in all taken as constant, as hands rightly do.

        The maximum that a softmax subtracts has a zero cotangent only because its paths cancel. Who
        leaves it out is right, and one who then cuts another path has not cut what a cut tape has.
        """
        if self.sweep.constants:
            return None
        zeros = set()
        for node, edges in self.consumers.items():
            if node in self.leaf_nodes:
                continue
            terms = max(float(host.abs(self.sweep.cotangents[n]).max(initial=0.0)) for n, _ in edges)
            if terms > 0 and float(host.abs(self.sweep.cotangents[node]).max(initial=0.0)) <= 1e-12 * terms:
                zeros.add(node)
        if not zeros:
            return None
        return Explainer(Sweep(self.run, self.sweep.seeds, frozenset(zeros)), self.hand, self.tolerances)
