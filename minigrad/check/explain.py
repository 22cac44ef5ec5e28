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
from collections.abc import Iterator, Sequence
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.slips import FAR_FETCHED, SINGLE, Search
from minigrad.check.suspicion import LAST, Explanation, OutOfTime, Suspicion
from minigrad.check.sweep import Array, Sweep


class Explainer:
    """Looks for the mistake behind each wrong gradient of one recorded run.

    needed: the far-fetched searches that found something.  ended: the gradients whose search took too long
    """

    def __init__(self, sweep: Sweep, hand: Sequence[Array | None], tolerances: Sequence[Array]) -> None:
        self.case = Suspicion(sweep, hand, tolerances)
        self.needed: dict[Search, None] = {}
        self.ended: list[int] = []

    def explain(self, k: int, budget: float = math.inf) -> list[Explanation]:
        """Mistakes known here that reproduce the k-th gradient, the simplest first.

        budget: seconds of computing that the search may take. Half of them are for single slips, and the rest for what
        is less likely; where they do not suffice, k is in `ended`.
        """
        with host.errstate(all="ignore"):
            cases = self._cases(k, budget / 2)
            found = [e for case in cases for search in SINGLE for e in _in_time(search, case)]
            if all(explanation.rank >= LAST for explanation in found):
                for case in cases:
                    case.until += budget / 2
                found = self._far_fetched(cases) or found
        if any(case.late for case in cases):
            self.ended.append(k)
        return _simplest_first(found)

    def beside(self, k: int, budget: float = math.inf) -> list[Explanation]:
        """What of the k-th gradient's mistakes the searches find that another gradient needed."""
        with host.errstate(all="ignore"):
            cases = self._cases(k, budget)
            return _simplest_first([e for case in cases for search in self.needed for e in _in_time(search, case)])

    def _cases(self, k: int, budget: float) -> list[Suspicion]:
        """The case of the k-th gradient, twice where hands may leave out zeros, with so many seconds for it."""
        cases = [self.case] if self.without_zeros is None else [self.case, self.without_zeros]
        begun = time.thread_time()
        for case in cases:
            case.prepare(k)
            case.until = begun + budget
        return cases

    def _far_fetched(self, cases: list[Suspicion]) -> list[Explanation]:
        for search in FAR_FETCHED:
            for case in cases:
                if found := list(_in_time(search, case)):
                    self.needed[search] = None
                    return found
        return []

    @functools.cached_property
    def without_zeros(self) -> Suspicion | None:
        """The same with what contributes nothing in all taken as constant, as hands rightly do.

        The maximum that a softmax subtracts has a zero cotangent only because its paths cancel. Who
        leaves it out is right, and one who then cuts another path has not cut what a cut tape has.
        """
        case, sweep = self.case, self.case.sweep
        zeros = set()
        for node, edges in case.consumers.items():
            if node in case.leaf_nodes:
                continue
            parts = (sweep.cotangents[n] if n.shape != node.shape else sweep.edges[n, i] for n, i in edges)
            terms = max(float(host.abs(part).max(initial=0.0)) for part in parts)
            if terms > 0 and float(host.abs(sweep.cotangents[node]).max(initial=0.0)) <= 1e-12 * terms:
                zeros.add(node)
        if not zeros:
            return None
        return Suspicion(Sweep(case.run, sweep.seeds, frozenset(zeros)), case.hand, case.tolerances)


def _in_time(search: Search, case: Suspicion) -> Iterator[Explanation]:
    """What a search finds before its time is up."""
    try:
        case.in_time()
        yield from search(case)
    except OutOfTime:
        case.late = True


def _simplest_first(found: list[Explanation]) -> list[Explanation]:
    """One explanation of each key, the simplest first."""
    simplest: dict[Any, Explanation] = {}
    for explanation in sorted(found, key=lambda e: e.rank):
        simplest.setdefault(explanation.key, explanation)
    return list(simplest.values())
