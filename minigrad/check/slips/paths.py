"""Mistakes in what is added up: paths cut, of the wrong sign, scaled, overwritten."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from minigrad.backend import numpy as host
from minigrad.check.case import LAST, LOCAL, PLAIN, Case, Explanation
from minigrad.check.clues import NEAR
from minigrad.check.numbers import STATISTICS, digits, together
from minigrad.check.run import op_of
from minigrad.check.sweep import Array, Edge
from minigrad.tape import Node


def sites(case: Case) -> Iterator[Explanation]:
    """One path missing, of the wrong sign, or scaled by a number."""
    whole = case.along(case.a)
    for site, p in case.weights:
        w = 1 + float(p @ case.q) / float(p @ p)
        if not (host.abs((w - 1) * p - case.q) <= case.q_tol).all():
            continue
        everything = bool((host.abs(p - whole) <= 1e-9 * host.abs(whole).max()).all())
        effect = case.sweep.at_leaf(case.sweep.effect(site), case.k)
        yield from _weighted(case, site, w, effect, everything)


def _weighted(case: Case, site: Node | Edge, w: float, effect: Array, everything: bool) -> Iterator[Explanation]:
    words = case.path_words(site)
    rank = PLAIN + case.believed(site) + (0.8 if everything else 0.0)
    if abs(w) < 1e-5 and case.fits(case.a - effect):
        if not everything:
            message = f"<d> <equals> autodiff with {words} cut: it is missing"
            yield case.at(site, ("cut", site), rank, "missing path", message, "0")
        return
    if not case.fits(case.a + (w - 1) * effect):
        return
    hint = _hint(case, site, w)
    if abs(w + 1) < 2e-6:
        yield case.at(site, ("sign", site), rank, "wrong sign", f"in <d> {words} has the wrong sign{hint}", "-1")
        return
    means = [n for n, _ in _segment(case, site) if op_of(n) in STATISTICS]
    named = case.clues.name_weight(w, map(together, means))
    if named is not None:
        sign = " and the wrong sign" if w < 0 else ""
        message = f"in <d> {named.sentence(words)}{sign}{hint}"
        rank += 0.0 if hint else 0.7  # a path that is missing is believed before another that counts twice
        yield case.at(site, ("weight", site, named.short), rank, "factor", message, named.short)
    elif case.a.size >= 6:
        message = f"in <d> {words} counts {digits(w)} times"
        yield case.at(site, ("weight", site), rank + LAST, "factor", message, digits(w))


def _segment(case: Case, site: Node | Edge) -> list[Edge]:
    """The edges that carry the same thing as a site: the chain without forks that it stands on."""
    chain: list[Edge] = [] if isinstance(site, Node) else [site]
    node = site if isinstance(site, Node) else site[0].inputs[site[1]]
    top = node
    while top is not None and len(case.sweep.consumers.get(top, ())) == 1:
        edge = case.sweep.consumers[top][0]
        chain.append(edge)
        top = edge[0] if len(list(case.sweep.terms(edge[0]))) == 1 else None
    while node is not None:
        inputs = [(i, source) for i, source, _ in case.sweep.terms(node)]
        if len({source for _, source in inputs}) != 1:
            break
        chain += [(node, i) for i, _ in inputs]
        node = inputs[0][1]
        if len(case.sweep.consumers.get(node, ())) != len(inputs):
            break
    return chain


def _hint(case: Case, site: Node | Edge, w: float) -> str:
    """Where on a chain a factor like this one is easily lost."""
    for node, i in _segment(case, site):
        assert node.primitive is not None
        row, same = op_of(node), len(set(node.inputs)) < len(node.inputs)
        where = case.run.where(node)
        if abs(w + 1) < 1e-6 and ((row in ("subtract", "divide") and i == 1) or row in ("negative", "reciprocal")):
            return f" (the minus that the derivative of the {row} brings{where})"
        if abs(w - 2) < 1e-6 and row == "sqrt":
            return f" (the 1/2 of the derivative of the root{where} is left out)"
        if abs(w - 0.5) < 1e-6 and (row == "square" or (row == "multiply" and same)):
            return f" (the 2 of the derivative of the square{where} is left out)"
        if row == "mean" and abs(w - math.prod(node.inputs[0].shape) / math.prod(node.shape)) < 1e-6 * abs(w):  # type: ignore[union-attr]
            return f" (the 1/m of the mean{where} is left out)"
    return ""


def constants(case: Case) -> Iterator[Explanation]:
    """Several statistics treated as constants at once."""
    below = case.sweep.directions(case.k)[1]
    statistics = [
        n for n in case.sweep.steps()
        if n in below and n not in case.sweep.seeds and (n in case.run.names or op_of(n) in STATISTICS)
        and len(case.clues.turns[case.clues.made_by(n)]) <= NEAR
    ]  # fmt: skip
    for many in (2, 3):
        for chosen in itertools.combinations(statistics[:12], many):
            if _dropped(case, *chosen) and not any(_dropped(case, n) for n in chosen):
                words = " and ".join(case.run.describe(n) for n in chosen)
                quantity = "both" if many == 2 else "all three"
                message = f"<d> <equals> autodiff with {words} {quantity} treated as constants: their paths are missing"
                rank = PLAIN + 0.5 + 0.3 * (many - 2) + sum(case.believed(n) for n in chosen)
                names = tuple(case.run.names.get(n, case.run.describe(n)) for n in chosen)
                yield Explanation(("constants", chosen), rank, "missing path", message, names, "0")


def _dropped(case: Case, *nodes: Node) -> bool:
    """Whether some nodes taken as constants lead to the hand-derived gradient."""
    return case.acted(("drop", *nodes), lambda: case.sweep.down(case.sweep.seeds, drop=frozenset(nodes)))


def overwritten(case: Case) -> Iterator[Explanation]:
    """Contributions that were assigned where they should have been added up."""
    for source, edges in case.sweep.consumers.items():
        if len(edges) > 2:
            for edge in edges:
                if case.confirmed(source, case.sweep.edges[edge] - case.sweep.cotangents[source]):
                    message = f"of the {len(edges)} contributions to {case.run.describe(source)} only one is left in "
                    message += f"<d>, the one from {case.run.describe(edge[0])}: the others are overwritten instead of "
                    message += "added up"
                    turns = {node for node, _ in edges}
                    loop = len(turns) > 2 and len({case.clues.made_by(node)[:2] for node in turns}) == 1
                    rank = PLAIN - 0.2 if loop else LOCAL
                    yield case.at(source, ("only", source), rank, "overwritten", message)
        takes = [node for node, _ in edges if op_of(node) == "take"]
        if not takes:
            continue
        right = sum(case.sweep.edges[node, 0] for node in takes)
        written, masked = host.zeros((2, *source.shape), source.dtype)
        for node in takes:
            g = case.sweep.cotangents[node]
            written[node.params[0]] = g
            masked[node.params[0]] = host.where(g != 0, g, masked[node.params[0]])  # where a condition holds alone
        if any(case.confirmed(source, one - right) for one in (written, masked)):
            message = f"in <d> contributions to {case.run.describe(source)} that meet in one element overwrite each "
            message += "other, and should be added up"
            yield case.at(source, ("overwritten", source), LOCAL, "overwritten", message)
