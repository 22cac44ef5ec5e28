"""Mistakes in what is added up: paths cut, of the wrong sign, scaled, overwritten; the upstream gradient misused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.case import COMPOUND, LAST, LOCAL, PLAIN, SIMPLE, Case, Explanation
from minigrad.check.clues import NEAR
from minigrad.check.numbers import STATISTICS, Factor, digits, together
from minigrad.check.rearranged import fitted, rearrangements
from minigrad.check.run import op_of
from minigrad.check.sweep import DIRECTIONS, Array, Edge
from minigrad.check.terms import groups
from minigrad.ops import sum_to
from minigrad.tape import Node

UPSTREAM: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "ignored": ("<d> <ignores> the upstream gradient (a cotangent of ones gives the same)", host.ones_like),
    "twice": ("<d> <has> the upstream gradient applied twice", lambda g: g * g),
    "summed": (
        "<d> <is> as if every output had the sum of the upstream gradient", lambda g: host.full_like(g, g.sum())
    ),
    "averaged": (
        "<d> <is> as if every output had the mean of the upstream gradient", lambda g: host.full_like(g, g.mean())
    ),
}  # fmt: skip
"""What may stand for the upstream gradient, in words."""


def whole(case: Case) -> Iterator[Explanation]:
    """The gradient as a whole: zero, the other sign, scaled, rearranged, another argument's."""
    a, h = case.a, case.h
    if not host.any(h):
        yield Explanation(("zero",), SIMPLE, "zero", "<d> <is> zero everywhere, and autodiff's <is> not")
        return
    if case.fits(-a):
        yield Explanation(("sign",), SIMPLE, "wrong sign", "<d> <has> the wrong sign", factor="-1")
    size = float((a * a).sum())
    w = float((a * h).sum()) / size if size else 0.0
    if case.fits(w * a) and abs(w + 1) > 1e-6:
        if (places := _places(case)) > 1 and abs(w * places - 1) < 1e-6:
            message = f"<d> <is> averaged over the places where `{case.run.leaf_name(case.k)}` is used, and "
            yield Explanation(("averaged",), SIMPLE, "factor", message + "should be summed", factor=f"{w:.6g}")
        named = case.clues.name_weight(w, [n for n, words in case.clues.counts.items() if words[0] == "m"])
        sign = " and the wrong sign" if w < 0 else ""
        if named is not None:
            rank, message = PLAIN + 0.2 if "²" in named.text else SIMPLE + 0.1, named.sentence("<d>") + sign
            yield Explanation(("whole", named.short, w < 0), rank, "factor", message, factor=named.short)
        elif a.size >= 3 or abs(w - 1) < 1e-5:
            what, rank = "a number that stands for nothing on the tape", LAST
            if abs(w - 1) < 1e-5:
                what, rank = "is a constant rounded to few digits, or to float32?", LOCAL
            message = f"<d> <is> {digits(w)} times autodiff's, everywhere: {what}"
            yield Explanation(("whole", float(f"{w:.6g}")), rank, "factor", message, factor=digits(w))
    for j, other in enumerate(case.sweep.gradients):
        if j != case.k and other.shape == a.shape and case.fits(other):
            name = case.run.leaf_name(j)
            yield Explanation(("swapped",), SIMPLE, "swapped", f"<d> holds autodiff's d{name}", (name,))
    for words, moved in rearrangements(a):
        if moved.shape == a.shape and case.fits(moved):
            yield Explanation(("moved", words), SIMPLE + 0.05, "permuted", f"<d> <is> autodiff's {words}")


def _places(case: Case) -> float:
    """To how many places each element of this leaf is copied and broadcast, where that is the same for all; else 1."""
    carriers = case.clues.carried([case.run.leaves[case.k].node])  # type: ignore[list-item]
    used: dict[Node, Array] = {}
    for node in case.sweep.cotangents.keys() - carriers:
        for carrier in carriers.intersection(node.inputs):  # type: ignore[arg-type]
            ones = host.ones(node.shape if node.primitive.kind == "elementwise" else carrier.shape)  # type: ignore[union-attr]
            used[carrier] = used.get(carrier, 0) + sum_to(ones, carrier.shape)
    places = case.sweep.at_leaf(case.sweep.down(used), case.k)
    return float(places.flat[0]) if places.size and (places == places.flat[0]).all() else 1.0


def upstream(case: Case) -> Iterator[Explanation]:
    """The cotangent ignored, applied twice, or only its mean used."""
    for name, (message, way) in UPSTREAM.items():
        if _seeded(case, name, {node: way(g) for node, g in case.sweep.seeds.items()}):
            yield Explanation(("upstream", name), SIMPLE, f"upstream {name}", message)
    for node, g in case.sweep.seeds.items():
        for turn, moved in rearrangements(g):
            if moved.shape == g.shape and _seeded(case, turn, {**case.sweep.seeds, node: moved}):
                message = f"<d> <uses> the upstream gradient {turn}"
                yield Explanation(("upstream", turn), LOCAL + 0.5, "permuted", message)
        for axis in range(g.ndim if g.size > 1 else 0):
            for place, which in ((-1, "last"), (0, "first")):
                alone = host.zeros_like(g)
                host.swapaxes(alone, 0, axis)[place] = host.swapaxes(g, 0, axis)[place]
                seeds = {**case.sweep.seeds, node: alone}
                if g.shape[axis] > 1 and _seeded(case, (node, axis, place), seeds):
                    message = f"<d> <uses> only the {which} of the {g.shape[axis]} parts of the upstream "
                    message += f"gradient along axis {axis}"
                    yield Explanation(("part", axis, place), LOCAL + 0.5, "upstream ignored", message)
    if len(case.sweep.seeds) > 1:
        for node in case.sweep.seeds:
            left = {other: g for other, g in case.sweep.seeds.items() if other is not node}
            if _seeded(case, node, left):
                message = f"<d> <ignores> the upstream gradient of the output {case.run.describe(node)}"
                yield case.at(node, ("output", node), SIMPLE, "missing path", message)


def _seeded(case: Case, key: Any, seeds: Mapping[Node, Array]) -> bool:
    """Whether other upstream gradients lead to the hand-derived gradient."""
    return case.acted(("upstream", key), lambda: case.sweep.down(seeds))


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
        top = edge[0] if sum(s in case.sweep.needed for s in edge[0].inputs if s is not None) == 1 else None
    while node is not None and node.primitive is not None:
        inputs = [(node, i) for i, s in enumerate(node.inputs) if s is not None and s in case.sweep.needed]
        if len({e[0].inputs[e[1]] for e in inputs}) != 1:
            break
        chain += inputs
        node = node.inputs[inputs[0][1]]
        if len(case.sweep.consumers.get(node, ())) != len(inputs):  # type: ignore[arg-type]
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
        if not takes or source not in case.sweep.cotangents or len(takes) != len(edges):
            continue
        written = host.zeros(source.shape, source.dtype)
        for node in takes:
            written[node.params[0]] = case.sweep.cotangents[node]
        if case.confirmed(source, written - case.sweep.cotangents[source]):
            message = f"in <d> contributions to {case.run.describe(source)} that meet in one element overwrite each "
            message += "other, and should be added up"
            yield case.at(source, ("overwritten", source), LOCAL, "overwritten", message)


def pairs(case: Case) -> Iterator[Explanation]:
    """Two paths off by known numbers, or a factor on everything and one path besides."""
    weights = case.weights
    weights = [(s, p) for s, p in weights if isinstance(s, Node) and s in case.run.names] or weights
    whole = case.along(case.a)
    parts = [(s, p) for s, p in weights if host.abs(p - whole).max() > 1e-9 * host.abs(whole).max()]
    for (s1, p1), (s2, p2) in itertools.combinations(weights[:24], 2):
        if _within(case, s1, p1, s2) or _within(case, s2, p2, s1):
            continue
        both = host.stack([p1, p2], 1)
        w, *_ = host.linalg.lstsq(both, case.q, rcond=1e-9)
        if not (host.abs(both @ w - case.q) <= case.q_tol).all():
            continue
        one, other = (case.clues.known(1 + weight, case.a.size >= 6) for weight in w)
        if one is None or other is None or host.abs(both @ w - w[0] * whole).max() <= 1e-9 * host.abs(case.q).max():
            continue
        (first, w1), (second, w2) = one, other
        effects = [case.sweep.at_leaf(case.sweep.effect(s), case.k) for s in (s1, s2)]
        if case.fits(case.a + (w1 - 1) * effects[0] + (w2 - 1) * effects[1]):
            message = f"two things in <d>: {case.path_words(s1)} {first}, and {case.path_words(s2)} {second}"
            rank = COMPOUND + case.believed(s1) + case.believed(s2)
            kind = "missing path" if {first, second} == {"is missing"} else "combination"
            yield Explanation(("pair", s1, s2), rank, kind, message, case.names_of(s1, s2))
    off = [(f, fitted(v, case.a.shape)) for f, v in case.clues.forms]
    off += [(f, host.asarray(f.value)) for f in case.clues.scalars] + [(Factor("-1", -1.0), host.asarray(-1.0))]
    for factor, value in off:
        if value is None or not host.all(value):
            continue
        q = case.along(case.h / value - case.a)
        tol = 1e-5 * float(host.abs(whole).max()) * 1e-2
        for site, p in parts:
            w1 = 1 + float(p @ q) / float(p @ p)
            if not (host.abs((w1 - 1) * p - q) <= tol).all():
                continue
            told = case.clues.known(w1)
            if told is None:
                continue
            known, w1 = told
            effect = case.sweep.at_leaf(case.sweep.effect(site), case.k)
            if case.fits((case.a + (w1 - 1) * effect) * value):
                message = f"two things: {factor.sentence('<d>')}, and {case.path_words(site)} {known}"
                rank = COMPOUND + 0.5 + case.believed(site)
                yield case.at(site, ("both", factor.short, site), rank, "combination", message, factor.short)


def _within(case: Case, site: Node | Edge, p: Array, other: Node | Edge) -> bool:
    """Whether all that passes a site (p, as the random directions see it) passes another one too."""
    node = case.sweep.landing(other)[0]
    shared = case.sweep.effect(site).get(node)
    if shared is None:
        return False
    return bool((host.abs(case.sweep.seen(case.k, node, shared) - p) <= 1e-9 * host.abs(p).max()).all())


def combinations(case: Case) -> Iterator[Explanation]:
    """The gradient as a weighted sum of all its paths, apart by the named intermediates."""
    parts = groups(case.sweep, case.k)
    if not 2 <= len(parts) <= DIRECTIONS - 1 or case.a.size <= len(parts):
        return
    columns = host.stack([c.reshape(-1) for c in parts.values()], 1)
    if host.linalg.matrix_rank(columns, tol=1e-8 * host.abs(columns).max()) < len(parts):
        return
    w, *_ = host.linalg.lstsq(columns, case.h.reshape(-1), rcond=None)
    if not case.fits((columns @ w).reshape(case.a.shape)):
        return
    weighed: dict[str, list[tuple[str, ...]]] = {}
    for labels, x in zip(parts, w, strict=True):
        if abs(x - 1) > 1e-5:
            what = (case.clues.known(x) or (f"counts {digits(x)} times", x))[0]
            weighed.setdefault(what, []).append(labels)
    if [len(paths) for paths in weighed.values()] == [len(parts)]:  # the gradient as a whole
        return
    words = "; ".join(f"{path} {what}" for what, paths in weighed.items() for path in _in_words(case, paths, parts))
    names = tuple(dict.fromkeys(name for paths in weighed.values() for labels in paths for name in labels))
    yield Explanation(("weights",), COMPOUND + 1, "combination", f"in <d> {words}", names)


def _in_words(case: Case, paths: Sequence[tuple[str, ...]], parts: Iterable[tuple[str, ...]]) -> list[str]:
    """Some of the paths of a gradient: by what they alone pass, a name if there is one, else one by one."""
    others = {label for labels in parts if labels not in paths for label in labels}
    shared = [label for label in paths[0] if label not in others and all(label in labels for labels in paths)]
    if shared:
        label = min(shared, key=lambda label: not label.isidentifier())
        return [f"the path through {label if '`' in label else f'`{label}`'}"]
    return [f"the path {case.run.leaf_name(case.k)} -> {' -> '.join(labels) or 'y'}" for labels in paths]
