"""A check that proves nothing says so: how many planted mistakes would this very check have caught?

A *mutant* is the right reverse pass with one mistake in it: a path cut (doubling it is seen exactly
where cutting it is, so both count as one) or a factor left out. It is *caught* where it would move
some gradient beyond the tolerance, and *visible* where it would do so with a random cotangent at odd
values of the inputs; a mutant that nobody could see is not a mistake and does not count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.forward import record
from minigrad.check.numbers import STATISTICS
from minigrad.check.run import CannotRun, Run, op_of
from minigrad.check.sweep import Edge, Sweep
from minigrad.ops import sum_to
from minigrad.tape import Node

Array = Any

MOST = 400
"""Mutants that are tried; of longer tapes a sample that is spread evenly."""


@dataclass(frozen=True)
class Mutant:
    """A mistake by its place, in numbers that hold for every run of the same forward.

    place: (node number, argument or None), kind: "cut" or "factor", cause: why it was missed
    """

    place: tuple[int, int | None]
    kind: str
    words: str
    cause: str = ""


@dataclass
class Score:
    """How many mutants were caught, of how many that a good check sees; those missed, and why.

    dull: sentences on inputs whose values hide something; moved: the inputs at odd values instead.
    """

    caught: int = 0
    visible: int = 0
    missed: list[Mutant] = field(default_factory=list)
    dull: list[str] = field(default_factory=list)
    moved: list[Any] = field(default_factory=list)


def mutation_score(run: Run, sweep: Sweep, tolerances: list[Array], values: list[Any], outputs: int) -> Score:
    """Plants mistakes and counts, and tells of those that are missed what hides them.

    The tolerance hides what moves a gradient, but not beyond it; the cotangent what another one would
    show; the reduction, with which a scalar forward ends, what a cotangent above it would show; and
    what is seen only at other values of the inputs, these hide.
    """
    generator = host.random.default_rng(3)
    score = Score(moved=moved_inputs(values, generator), dull=dull_inputs(run))
    same = Sweep(run, _random_cotangents(run, generator))
    try:
        probe_run = record(run.f, score.moved, outputs)
    except CannotRun:
        probe_run = run
    if [n.primitive for n in probe_run.order] != [n.primitive for n in run.order]:
        probe_run = run
    probe = Sweep(probe_run, _random_cotangents(probe_run, generator))
    inner = Sweep(run, {node: generator.normal(size=node.shape) for node in _before_reductions(run, sweep)})
    annihilated = [_nothing_left(sweep, k) and not _nothing_left(inner, k) for k in range(len(run.leaves))]
    within = [bound if lost else host.inf for bound, lost in zip(_bounds(inner), annihilated, strict=True)]
    number = {node: i for i, node in enumerate(run.order)}
    mutants = _mutants(run, sweep, number)
    for mutant in mutants[:: max(1, len(mutants) // MOST)]:
        if _moves(sweep, run, mutant, tolerances):
            score.caught += 1
            score.visible += 1
            continue
        if _moves(probe, probe_run, mutant, _bounds(probe)):
            in_sight = _moves(sweep, run, mutant, _bounds(sweep))
            cause = "tolerance" if in_sight else "cotangent" if _moves(same, run, mutant, _bounds(same)) else "inputs"
        elif _moves(inner, run, mutant, within):
            cause = "reduction"
        else:
            continue
        score.visible += 1
        score.missed.append(replace(mutant, cause=cause))
    return score


def _before_reductions(run: Run, sweep: Sweep) -> list[Node]:
    """The nodes that a scalar output is a reduction of, or the outputs themselves."""
    found: list[Node] = []
    stack = [y.node for y in run.outputs if y.node is not None]
    while stack:
        node = stack.pop()
        sources = [source for _, source, _ in sweep.terms(node)]
        if math.prod(node.shape) > 1 or not sources or not sweep.leaf_nodes.isdisjoint(sources):
            found.append(node)
        else:
            stack += sources
    return found


def _nothing_left(sweep: Sweep, k: int) -> bool:
    """Whether the k-th gradient is zero to rounding, against what it is made of."""
    return float(host.abs(sweep.gradients[k]).max(initial=0.0)) <= _rounding(sweep)


def _bounds(sweep: Sweep) -> list[Array]:
    """What a change of each gradient must exceed to be more than rounding."""
    relative = max(1e-7, 100 * float(host.finfo(sweep.run.leaves[0].dtype).eps))
    return [relative * host.abs(g).max(initial=0.0) + _rounding(sweep) for g in sweep.gradients]


def _rounding(sweep: Sweep) -> float:
    """What rounding leaves where terms cancel."""
    return max(1e-12, 10 * float(host.finfo(sweep.run.leaves[0].dtype).eps)) * _scale(sweep)


def _scale(sweep: Sweep) -> float:
    return max((float(host.abs(c).max(initial=0.0)) for c in sweep.cotangents.values()), default=0.0)


def _random_cotangents(run: Run, generator: Any) -> dict[Node, Array]:
    return {y.node: generator.normal(size=y.shape) for y in run.outputs if y.node is not None}  # type: ignore[misc]


def moved_inputs(values: list[Any], generator: Any) -> list[Any]:
    """The inputs at odd values near their own."""
    moved = []
    for x in values:
        if isinstance(x, host.ndarray) and x.dtype.kind == "f":
            stretched = x * (1 + 0.3 * generator.uniform(-1, 1, x.shape))
            x = (stretched if host.any(x) else 0.3 * generator.normal(size=x.shape)).astype(x.dtype)
        moved.append(x)
    return moved


def dull_inputs(run: Run) -> list[str]:
    """Inputs with one value throughout, which hides factors and terms."""
    said = []
    for k, leaf in enumerate(run.leaves):
        if leaf.size and host.ptp(leaf.data) == 0 and float(leaf.data.flat[0]) in (0.0, 1.0, -1.0):
            said.append(f"{run.leaf_name(k)} is {float(leaf.data.flat[0]):g} everywhere")
        elif leaf.size > 1 and host.ptp(leaf.data) == 0:
            said.append(f"{run.leaf_name(k)} is constant")
    return said


def _mutants(run: Run, sweep: Sweep, number: Mapping[Node, int]) -> list[Mutant]:
    """Cuts of every node and edge, and the factors that products bring left out."""
    mutants = []
    for node in sweep.steps():
        if node not in sweep.needed:
            continue
        if node in run.names or op_of(node) in STATISTICS:
            mutants.append(Mutant((number[node], None), "cut", f"the path through {run.describe(node)} cut"))
        inputs = list(sweep.terms(node))
        for i, source, _ in inputs:
            if len(inputs) > 1 or source in sweep.leaf_nodes:
                words = f"the path from {run.describe(source)} into {run.describe(node)} cut"
                mutants.append(Mutant((number[node], i), "cut", words))
            if op_of(node) == "multiply" or (op_of(node) == "divide" and i == 0):
                other = node.inputs[1 - i]
                if other is not None:
                    words = f"the factor {run.describe(other)} left out in {run.describe(node)}"
                    mutants.append(Mutant((number[node], i), "factor", words))
    return mutants


def _moves(sweep: Sweep, run: Run, mutant: Mutant, bounds: list[Any]) -> bool:
    """Whether a mutant moves some gradient beyond its bound."""
    place, i = mutant.place
    node = run.order[place]
    site: Node | Edge = node if i is None else (node, i)
    if site not in sweep.cotangents and site not in sweep.edges:
        return False
    source, c = sweep.landing(site)
    if mutant.kind == "cut":
        effect = sweep.effect(site)
    else:
        g = sweep.cotangents[node]
        effect = sweep.down({source: (g if g.shape == source.shape else sum_to(g, source.shape)) - c})
    return any(bool((host.abs(sweep.at_leaf(effect, k)) > bounds[k]).any()) for k in range(len(run.leaves)))


def score_sentence(score: Score, missed: list[Mutant], own_cotangent: bool = False, own_rtol: bool = False) -> str:
    """What a check cannot see, and why; `missed` for one cause.  own_*: whether the user chose it."""
    words = "; ".join(dict.fromkeys(m.words for m in missed[:4]))
    more = f"; and {len(missed) - 4} more" if len(missed) > 4 else ""
    head = f"this check would miss {len(missed)} of {score.visible} planted mistakes ({words}{more})"
    annihilates = "annihilates them (BatchNorm's pullback does this to sum(y) and sum(y**2), for example). "
    cancel = "The gradient's terms cancel to less than that here, or the backward draws random numbers: choose other "
    cancel += "inputs (more of them where a statistic is taken over two), and let it draw none"
    return {
        "inputs": f"{head}, because {' and '.join(score.dull)}.",
        "tolerance": f"{head}: they change the gradient by less than the tolerance. "
        + ("Pass a smaller rtol, or leave it out" if own_rtol else cancel),
        "cotangent": f"{head}: {'your' if own_cotangent else 'the'} cotangent {annihilates}"
        + ("Leave cotangent out to have a random one" if own_cotangent else "Another seed gives another one"),
        "reduction": f"{head}: the sum in which the forward ends {annihilates}"
        "Return what is summed, so that it gets a random cotangent",
    }[missed[0].cause]
