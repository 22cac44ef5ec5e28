"""Several mistakes at once: two paths, a factor on everything and a path besides, a weight on every path."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from minigrad.backend import numpy as host
from minigrad.check.case import COMPOUND, Case, Explanation
from minigrad.check.numbers import Factor, digits
from minigrad.check.rearranged import fitted
from minigrad.check.sweep import DIRECTIONS, Array, Edge
from minigrad.check.terms import groups
from minigrad.tape import Node


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
