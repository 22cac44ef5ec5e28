"""Which mistake turns the right gradient into the one that was handed in?

The reverse pass of the recorded forward is made to err in every way that people err in (a path cut, a
term scaled, a value mistaken for another, eps left out of the root, ...), and what comes out is
compared with the hand-derived gradient. Only a mistake that reproduces every element becomes an
explanation. Where several do, the simplest is told and the others are kept as evidence. Where none
does, nothing is claimed.
"""

from __future__ import annotations

import functools
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.slips_of_constants import SlipsOfConstants
from minigrad.check.slips_of_derivatives import SlipsOfDerivatives
from minigrad.check.slips_of_formulas import SlipsOfFormulas
from minigrad.check.slips_of_loops import SlipsOfLoops
from minigrad.check.slips_of_paths import SlipsOfPaths
from minigrad.check.slips_of_shapes import SlipsOfShapes
from minigrad.check.slips_of_sums import SlipsOfSums
from minigrad.check.slips_of_values import SlipsOfValues
from minigrad.check.suspicion import Explanation
from minigrad.check.sweep import Sweep


class Explainer(
    SlipsOfPaths, SlipsOfDerivatives, SlipsOfValues, SlipsOfShapes, SlipsOfLoops, SlipsOfConstants, SlipsOfFormulas,
    SlipsOfSums,
):  # fmt: skip
    """Looks for the mistake behind each wrong gradient of one recorded run."""

    def explain(self, k: int) -> list[Explanation]:
        """Every mistake known here that reproduces the k-th gradient, the simplest first."""
        searching = [self] if self.without_zeros is None else [self, self.without_zeros]
        for explainer in searching:
            explainer._prepare(k)
        with host.errstate(all="ignore"):
            if plain := [explanation for explainer in searching for explanation in explainer._plain()]:
                simplest: dict[Any, Explanation] = {}
                for explanation in sorted(plain, key=lambda e: e.rank):
                    simplest.setdefault(explanation.key, explanation)
                return list(simplest.values())
            for explainer in searching:
                if found := explainer._far_fetched():
                    return sorted(found, key=lambda e: e.rank)
        return []

    def _plain(self) -> list[Explanation]:
        """What the searches for single slips find."""
        searches = (
            self.whole, self.upstream, self.sites, self.constants, self.factors, self.derivatives, self.mistaken,
            self.sums, self.products, self.turned, self.added_up, self.overwritten, self.spread, self.exchanged,
        )  # fmt: skip
        return [explanation for search in searches for explanation in search()]

    def _far_fetched(self) -> list[Explanation]:
        """What the first of the other searches finds that finds something: they take longer."""
        for search in (
            self.everywhere, self.nothing_summed, self.replays, self.pairs, self.formulas, self.sums_of_values,
            self.other_axes, self.combinations,
        ):  # fmt: skip
            if found := list(search()):
                return found
        return []

    @functools.cached_property
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
