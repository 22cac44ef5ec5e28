"""Which mistake turns the right gradient into the one that was handed in?

The reverse pass of the recorded forward is made to err in every way that people err in (a path cut, a
term scaled, a value mistaken for another, eps left out of the root, ...), and what comes out is
compared with the hand-derived gradient. Only a mistake that reproduces every element becomes an
explanation. Where several do, the simplest is told and the others are kept as evidence. Where none
does, nothing is claimed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.case import LAST, Case, Explanation, OutOfTime
from minigrad.check.clues import Clues
from minigrad.check.slips import FAR_FETCHED, SINGLE, Search
from minigrad.check.sweep import Array, Sweep


def explain(
    sweep: Sweep, hands: Sequence[Array | None], tolerances: Sequence[Array], wrong: Sequence[int],
    budget: float = math.inf, step: Callable[[], None] = lambda: None,
) -> tuple[dict[int, list[Explanation]], list[int]]:  # fmt: skip
    """Mistakes known here that reproduce each wrong gradient, the simplest first; and whose search ended early.

    hands, tolerances: of all gradients, in the order of the leaves; wrong: the numbers of some.  budget: seconds of
    computing that the search may take. Half of a gradient's are for single slips, and the rest for what is less likely.
    step: is called after each gradient
    """
    clues = [Clues(one) for one in (sweep, _without_zeros(sweep)) if one is not None]
    cases: dict[int, list[Case]] = {}
    found: dict[int, list[Explanation]] = {}
    needed: dict[Search, None] = {}
    ended = []
    until = time.thread_time() + budget
    with host.errstate(all="ignore"):
        for number, k in enumerate(wrong):
            begun = time.thread_time()
            share = (until - begun) / (len(wrong) - number)
            cases[k] = [Case(one, k, hands[k], tolerances[k], begun + share / 2) for one in clues]
            found[k] = _simplest_first(e for case in cases[k] for search in SINGLE for e in _in_time(search, case))
            if all(explanation.rank >= LAST for explanation in found[k]):
                for case in cases[k]:
                    case.until = begun + share
                tried = ((search, _in_time(search, case)) for search in FAR_FETCHED for case in cases[k])
                for search, others in tried:
                    if others:
                        found[k] = _simplest_first(others)
                        needed[search] = None
                        break
            if any(case.late for case in cases[k]):
                ended.append(k)
            step()
        for k in wrong if len(wrong) > 1 else ():  # one mistake may show in several gradients
            known = {explanation.key for explanation in found[k]}
            for case in cases[k]:
                case.until = until
            beside = _simplest_first(e for case in cases[k] for search in needed for e in _in_time(search, case))
            found[k] += [explanation for explanation in beside if explanation.key not in known]
    return found, ended


def _in_time(search: Search, case: Case) -> list[Explanation]:
    """What a search finds before its time is up."""
    found: list[Explanation] = []
    try:
        case.in_time()
        found.extend(search(case))
    except OutOfTime:
        case.late = True
    return found


def _simplest_first(found: Iterable[Explanation]) -> list[Explanation]:
    """One explanation of each key, the simplest first."""
    simplest: dict[Any, Explanation] = {}
    for explanation in sorted(found, key=lambda e: e.rank):
        simplest.setdefault(explanation.key, explanation)
    return list(simplest.values())


def _without_zeros(sweep: Sweep) -> Sweep | None:
    """The same with what contributes nothing in all taken as constant, as hands rightly do; None where all counts.

    The maximum that a softmax subtracts has a zero cotangent only because its paths cancel. Who
    leaves it out is right, and one who then cuts another path has not cut what a cut tape has.
    """
    zeros = set()
    for node, edges in sweep.consumers.items():
        if node in sweep.leaf_nodes:
            continue
        parts = (sweep.cotangents[n] if n.shape != node.shape else sweep.edges[n, i] for n, i in edges)
        terms = max(float(host.abs(part).max(initial=0.0)) for part in parts)
        if terms > 0 and float(host.abs(sweep.cotangents[node]).max(initial=0.0)) <= 1e-12 * terms:
            zeros.add(node)
    return Sweep(sweep.run, sweep.seeds, frozenset(zeros)) if zeros else None
