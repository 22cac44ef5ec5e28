"""Mistakes in a gradient as a whole: of another sign, scaled, rearranged, another's; the upstream gradient misused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.case import LAST, LOCAL, PLAIN, SIMPLE, Case, Explanation
from minigrad.check.numbers import digits
from minigrad.check.rearranged import rearrangements
from minigrad.check.run import is_elementwise
from minigrad.check.sweep import Array
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
            yield Explanation(("averaged", case.k), SIMPLE, "factor", message + "should be summed", factor=f"{w:.6g}")
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
    """To how many places each step of f broadcasts or copies each element of this leaf, where they agree; else 1."""
    carriers = case.clues.carried([case.run.leaves[case.k].node])  # type: ignore[list-item]
    counts: set[float] = set()
    for nodes in case.clues.repeated().values():
        used: dict[Node, Array] = {}
        for node in nodes if carriers.isdisjoint(nodes) else ():
            for carrier in carriers.intersection(node.inputs):  # type: ignore[arg-type]
                ones = host.ones(node.shape if is_elementwise(node) else carrier.shape)
                used[carrier] = used.get(carrier, 0) + sum_to(ones, carrier.shape)
        if used:
            counts |= set(case.sweep.at_leaf(case.sweep.down(used), case.k).reshape(-1).tolist())
    return counts.pop() if len(counts) == 1 else 1.0


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
            for place, which in itertools.product((-1, 0), ("only", "all but")[: g.shape[axis] - 1]):
                alone = host.zeros_like(g)
                host.swapaxes(alone, 0, axis)[place] = host.swapaxes(g, 0, axis)[place]
                part = alone if which == "only" else g - alone
                if _seeded(case, (node, axis, place, which), {**case.sweep.seeds, node: part}):
                    message = f"<d> <uses> {which} the {'last' if place else 'first'} of the {g.shape[axis]} parts of "
                    message += f"the upstream gradient along axis {axis}"
                    yield Explanation(("part", axis, place, which), LOCAL + 0.5, "upstream ignored", message)
    if len(case.sweep.seeds) > 1:
        for node in case.sweep.seeds:
            left = {other: g for other, g in case.sweep.seeds.items() if other is not node}
            if _seeded(case, node, left):
                message = f"<d> <ignores> the upstream gradient of the output {case.run.describe(node)}"
                yield case.at(node, ("output", node), SIMPLE, "missing path", message)


def _seeded(case: Case, key: Any, seeds: Mapping[Node, Array]) -> bool:
    """Whether other upstream gradients lead to the hand-derived gradient."""
    return case.acted(("upstream", key), lambda: case.sweep.down(seeds))
