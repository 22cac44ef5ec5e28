"""The terms that a gradient adds up: what passes which intermediates, and how large they are before they cancel."""

from __future__ import annotations

from minigrad.backend import numpy as host
from minigrad.check.numbers import STATISTICS
from minigrad.check.run import op_of
from minigrad.check.sweep import Array, Sweep
from minigrad.ops import sum_to
from minigrad.paths import pull
from minigrad.tape import Node


def absolute(sweep: Sweep, k: int) -> Array:
    """The sizes of the terms that the k-th gradient adds up: what its rounding is to be judged by.

    It is split by its paths, and by what its nearest ops add up: each shows cancellations that the other hides.
    """
    by_path = sum(host.abs(c) for c in groups(sweep, k).values())
    return host.maximum(host.maximum(by_path, _nearest(sweep, k)), host.abs(sweep.gradients[k]))


def _nearest(sweep: Sweep, k: int) -> Array:
    """The sizes of the terms that reach the k-th leaf from the ops that use it, sums taken apart."""
    x = sweep.run.leaves[k]
    total = host.zeros(x.shape, x.dtype)
    for node, i in sweep.consumers.get(x.node, ()):  # type: ignore[arg-type]
        row = node.primitive
        assert row is not None
        if row.joint is not None:
            continue
        rule, places = row.pullbacks[0 if row.variadic else i]  # type: ignore[misc]
        values = [node.residuals[place] if place >= 0 else i for place in places]
        sizes = [host.abs(v) if isinstance(v, host.ndarray) and v.dtype.kind == "f" else v for v in values]
        with host.errstate(all="ignore"):
            term = sum_to(host.abs(rule(host.abs(sweep.cotangents[node]), *sizes)), x.shape)
        total = total + host.where(host.isfinite(term), term, 0)
    return total


def groups(sweep: Sweep, k: int, limit: int = 24) -> dict[tuple[str, ...], Array]:
    """The k-th gradient split by the named intermediates (and statistics) that each path passes."""
    run, x = sweep.run, sweep.run.leaves[k].node
    marks = {
        n: run.names.get(n, run.describe(n)) for n in run.order
        if n not in sweep.leaf_nodes and n not in sweep.seeds and n.primitive is not None
        and (n in run.names or op_of(n) in STATISTICS)
    }  # fmt: skip
    held: dict[Node, dict[tuple[str, ...], Array]] = {n: {(): g} for n, g in sweep.seeds.items()}
    for node in reversed(run.order):
        groups = held.get(node)
        if groups is None or node is x:
            continue
        if node in marks:
            groups = {(marks[node], *labels): c for labels, c in groups.items()}
        while len(groups) > limit:
            longest = max(map(len, groups))
            shorter: dict[tuple[str, ...], Array] = {}
            for labels, c in groups.items():
                key = labels[: longest - 1]
                shorter[key] = shorter[key] + c if key in shorter else c
            groups = shorter
        for labels, c in groups.items():
            for _, source, part in pull(node, c, False, sweep.needed):
                place = held.setdefault(source, {})
                place[labels] = place[labels] + part if labels in place else part
        held[node] = {}
    return held.get(x, {})  # type: ignore[arg-type]
