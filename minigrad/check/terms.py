"""The terms that a gradient adds up: what passes which intermediates, and how large they are before they cancel."""

from __future__ import annotations

from minigrad.backend import numpy as host
from minigrad.check.numbers import STATISTICS
from minigrad.check.run import op_of
from minigrad.check.sweep import Array, Sweep
from minigrad.ops import sum_to
from minigrad.paths import apart


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
        node: run.names.get(node, run.describe(node)) for node in sweep.steps()
        if node not in sweep.seeds and (node in run.names or op_of(node) in STATISTICS)
    }  # fmt: skip
    found: dict[tuple[str, ...], Array] = {}
    for way, c in apart(run.order, sweep.needed, sweep.seeds, x, marks, limit).items():  # type: ignore[arg-type]
        labels = tuple(marks[node] for node in way if node is not None)
        found[labels] = found[labels] + c if labels in found else c
    return found
