"""Which row of the table is to blame: every op on the tape checked alone, where it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrad import backend
from minigrad.backend import numpy as host
from minigrad.check.forward import CannotRun, Forward, record
from minigrad.check.level import one_output
from minigrad.check.oracles import ORACLES
from minigrad.check.report import Finding
from minigrad.paths import pull
from minigrad.tensor import Tensor

Array = Any


def culprits(f: Callable[..., Any], values: Sequence[Any]) -> list[Finding]:
    """The rows whose own pullback disagrees with their own forward, each checked alone where it stands on the tape."""
    try:
        with backend.using("numpy"):
            run = record(one_output(f), values)
            return [finding for node in run.order for finding in _alone(run, node)]
    except CannotRun:
        return []


def _alone(run: Forward, node: Any) -> list[Finding]:
    row = node.primitive
    if row is None:
        return []
    generator = host.random.default_rng(0)
    g = generator.normal(size=node.shape)
    if row.joint is not None:
        return _beside_its_reference(row, node, g)
    statics = dict(zip(row.statics, node.params, strict=True))
    findings = []
    for i, _, c in pull(node, g):
        arguments = list(run.arguments[node])

        def forward(xs: Sequence[Array], i: int = i, arguments: list[Any] = arguments) -> Array:
            return host.asarray(row.call(*arguments[:i], xs[0], *arguments[i + 1 :], **statics)).reshape(-1)

        x = host.asarray(arguments[i], dtype=float)
        u = generator.normal(size=x.shape)
        slope = ORACLES["complex"](forward, [x], [u]) or ORACLES["richardson"](forward, [x], [u])
        assert slope is not None
        expected, found = float(g.reshape(-1) @ slope.value), float((c * u).sum())
        size = float(host.abs(g.reshape(-1)) @ host.abs(slope.value)) + float(host.abs(c * u).sum())
        if abs(found - expected) > 1e-6 * size + 10 * float(host.abs(g.reshape(-1)) @ slope.error):
            name = row.arguments[0 if row.variadic else i]
            message = (
                f"the pullback of {row.name} in its argument {name!r} is wrong{run.where(node)}: along a random "
                f"direction it "
                f"gives {found:.6g}, and its forward changes by {expected:.6g} (ratio "
                f"{found / expected if expected else float('inf'):.6g})"
            )
            findings.append(
                Finding(row.name, "wrong pullback", message, (row.name,), evidence={"oracle": slope.oracle})
            )
    return findings


def _beside_its_reference(row: Any, node: Any, g: Array) -> list[Finding]:
    """A fused row's own pullback against the derivative of what it fuses."""
    findings = []
    fused = {i: c for i, _, c in pull(node, g)}
    for i, _, c in pull(node, Tensor(g), create_graph=True):
        apart = float(host.abs(fused[i] - c.data).max(initial=0.0))
        if apart > 1e-6 * float(host.abs(c.data).max(initial=0.0)) + 1e-12:
            message = (
                f"the fused pullback of {row.name} in its argument {row.arguments[i]!r} differs from that "
                f"of its reference by up to {apart:.3g}"
            )
            findings.append(Finding(row.name, "wrong pullback", message, (row.name,)))
    return findings
