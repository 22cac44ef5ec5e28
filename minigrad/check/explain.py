"""Which mistake turns the right gradient into the one that was handed in?

The reverse pass of the recorded forward is made to err in every way that people err in (a path cut, a
term scaled, a value mistaken for another, eps left out of the root, ...), and what comes out is
compared with the hand-derived gradient. Only a mistake that reproduces every element becomes an
explanation. Where several do, the simplest is told and the others are kept as evidence. Where none
does, nothing is claimed.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.slips_of_constants import SlipsOfConstants
from minigrad.check.slips_of_derivatives import SlipsOfDerivatives
from minigrad.check.slips_of_formulas import SlipsOfFormulas
from minigrad.check.slips_of_loops import SlipsOfLoops
from minigrad.check.slips_of_names import SlipsOfNames
from minigrad.check.slips_of_paths import SlipsOfPaths
from minigrad.check.slips_of_shapes import SlipsOfShapes
from minigrad.check.slips_of_sums import SlipsOfSums
from minigrad.check.slips_of_values import SlipsOfValues
from minigrad.check.suspicion import LAST, Explanation, OutOfTime
from minigrad.check.sweep import Array, Sweep

Search = Callable[[], Iterator[Explanation]]


class Explainer(
    SlipsOfPaths, SlipsOfDerivatives, SlipsOfValues, SlipsOfShapes, SlipsOfLoops, SlipsOfNames, SlipsOfConstants,
    SlipsOfFormulas, SlipsOfSums,
):  # fmt: skip
    """Looks for the mistake behind each wrong gradient of one recorded run."""

    def __init__(self, sweep: Sweep, hand: Sequence[Array | None], tolerances: Sequence[Array]) -> None:
        super().__init__(sweep, hand, tolerances)
        self.needed: dict[str, None] = {}

    def explain(self, k: int, budget: float = math.inf) -> list[Explanation]:
        """Mistakes known here that reproduce the k-th gradient, the simplest first.

        budget: seconds of computing that the search may take. Half of them are for single slips, and the rest for what
        is less likely; where they do not suffice, k is in `ended`.
        """
        with host.errstate(all="ignore"):
            searching = self._searching(k, budget / 2)
            found = [e for explainer in searching for search in explainer._plain() for e in explainer._in_time(search)]
            if all(explanation.rank >= LAST for explanation in found):
                for explainer in searching:
                    explainer.until += budget / 2
                found = self._far_fetched(searching) or found
        if any(explainer.late for explainer in searching):
            self.ended.append(k)
        return _simplest_first(found)

    def beside(self, k: int, budget: float = math.inf) -> list[Explanation]:
        """What of the k-th gradient's mistakes the searches find that another gradient needed."""
        with host.errstate(all="ignore"):
            searching = self._searching(k, budget)
            return _simplest_first(
                [e for x in searching for name in self.needed for e in x._in_time(getattr(x, name))]
            )

    def _searching(self, k: int, budget: float) -> list[Explainer]:
        """Who looks for the mistakes of the k-th gradient, for so many seconds."""
        searching = [self] if self.without_zeros is None else [self, self.without_zeros]
        begun = time.thread_time()
        for explainer in searching:
            explainer._prepare(k)
            explainer.until = begun + budget
        return searching

    def _plain(self) -> tuple[Search, ...]:
        """The searches for single slips."""
        return (
            self.whole, self.upstream, self.sites, self.constants, self.factors, self.derivatives, self.mistaken,
            self.sums, self.products, self.turned, self.added_up, self.overwritten, self.spread, self.too_late,
        )  # fmt: skip

    def _far_fetched(self, searching: list[Explainer]) -> list[Explanation]:
        """What the first of the other searches finds that finds something: they take longer."""
        for name in (
            "everywhere", "names", "misplaced", "nothing_summed", "replays", "left_out", "other_axes", "pairs",
            "formulas", "sums_of_values", "combinations",
        ):  # fmt: skip
            for explainer in searching:
                if found := list(explainer._in_time(getattr(explainer, name))):
                    self.needed[name] = None
                    return found
        return []

    def _in_time(self, search: Search) -> Iterator[Explanation]:
        """What a search finds before its time is up."""
        try:
            self.in_time()
            yield from search()
        except OutOfTime:
            self.late = True

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
            parts = (self.sweep.cotangents[n] if n.shape != node.shape else self.sweep.edges[n, i] for n, i in edges)
            terms = max(float(host.abs(part).max(initial=0.0)) for part in parts)
            if terms > 0 and float(host.abs(self.sweep.cotangents[node]).max(initial=0.0)) <= 1e-12 * terms:
                zeros.add(node)
        if not zeros:
            return None
        return Explainer(Sweep(self.run, self.sweep.seeds, frozenset(zeros)), self.hand, self.tolerances)


def _simplest_first(found: list[Explanation]) -> list[Explanation]:
    """One explanation of each key, the simplest first."""
    simplest: dict[Any, Explanation] = {}
    for explanation in sorted(found, key=lambda e: e.rank):
        simplest.setdefault(explanation.key, explanation)
    return list(simplest.values())
