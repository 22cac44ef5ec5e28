"""Which op stands at a kink: its forward is on another side to the right of the point than to the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import backend
from minigrad.backend import numpy as host
from minigrad.check.forward import record
from minigrad.check.level import Level, one_output
from minigrad.check.run import CannotRun, Run, op_of

Array = Any

KINKED = frozenset(
    ("abs", "amax", "argmax", "clip", "elu", "leaky_relu", "maximum", "max_pool", "minimum", "relu", "take", "where")
)


def kink(level: Level, u: Sequence[Array], h: float) -> str | None:
    """The op that is on one side at x - hu and on the other at x + hu."""
    sides = []
    for sign in (1, -1):
        values = list(level.values)
        for place, x, d in zip(level.places, level.xs, u, strict=True):
            values[place] = (x + sign * h * d).astype(x.dtype)
        try:
            with backend.using("numpy"):
                sides.append(_switches(record(one_output(level.f), values)))
        except CannotRun:
            return None
    for (words, a), (_, b) in zip(*sides, strict=False):
        if a.shape != b.shape or not host.array_equal(a, b):
            return words
    return None


def _switches(run: Run) -> list[tuple[str, Array]]:
    """Which side every op with a kink is on."""
    switches = []
    for node in run.order:
        if (name := op_of(node)) not in KINKED:
            continue
        arrays = [a for a in run.arguments[node] if isinstance(a, host.ndarray)]
        words = name + (f" ({run.describe(node)})" if node in run.names else "")
        if name in ("maximum", "minimum"):
            a, b = run.arguments[node]
            state = host.sign(host.asarray(a) - host.asarray(b))
        elif name == "clip":
            low, high = node.params
            x = arrays[0]
            state = host.where(x < (-host.inf if low is None else low), -1, 0) + host.where(
                x > (host.inf if high is None else high), 1, 0
            )
        elif name in ("amax", "max_pool"):
            state = arrays[0] == _spread(run.values[node], arrays[0])
        elif name == "where":
            state = arrays[0]
        elif name == "take":
            index = node.params[0]
            parts = [p for p in (index if isinstance(index, tuple) else (index,)) if isinstance(p, host.ndarray)]
            state = host.concatenate([host.ravel(p) for p in parts]) if parts else host.zeros(0)
            of = f" for {run.describe(node)}" if node in run.names else ""
            words = f"the choice of elements{of} (max, sort or an index)"
        else:
            state = host.sign(arrays[0])
        switches.append((words, host.asarray(state)))
    return switches


def _spread(top: Array, x: Array) -> Array:
    """A maximum over some axes, against the array it was taken of."""
    if top.ndim == x.ndim:
        return top
    return host.isin(x, top) * x
