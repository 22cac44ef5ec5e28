"""Which row of the table is to blame: every op on the tape checked alone, where it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrad import backend
from minigrad.backend import numpy as host
from minigrad.check.forward import record
from minigrad.check.level import one_output
from minigrad.check.oracles import Grain, complex_step, confirmed, largest, length, richardson, smooth, told
from minigrad.check.report import Finding
from minigrad.check.run import CannotRun, Run
from minigrad.check.watching import complaint
from minigrad.paths import pull
from minigrad.tensor import Tensor

Array = Any


def culprits(f: Callable[..., Any], values: Sequence[Any]) -> list[Finding]:
    """The rows whose own pullback disagrees with their own forward, or raises, each checked where it stands."""
    try:
        with backend.using("numpy"):
            run = record(one_output(f), values)
            return [finding for node in run.order for finding in _alone(run, node)]
    except CannotRun:
        return []


def _alone(run: Run, node: Any) -> list[Finding]:
    row = node.primitive
    if row is None or not all(map(_finite, (run.values[node], *run.arguments[node]))):
        return []
    generator = host.random.default_rng(0)
    g = generator.normal(size=node.shape).astype(node.dtype)
    if row.joint is not None:
        return _beside_its_reference(row, node, g)
    pairs = ((i, source) for i, source in enumerate(node.inputs) if source is not None)
    return [finding for i, source in pairs for finding in _argument(run, node, i, source, g, generator)]


def _finite(x: Any) -> bool:
    x = host.asarray(x)
    return x.dtype.kind != "f" or bool(host.isfinite(x).all())


def _argument(run: Run, node: Any, i: int, source: Any, g: Array, generator: Any) -> list[Finding]:
    """One argument's pullback, along a random direction in which the row's forward has no kink."""
    row, arguments = node.primitive, list(run.arguments[node])
    statics = dict(zip(row.statics, node.params, strict=True))
    where = f"the pullback of {row.name} in its argument {row.arguments[0 if row.variadic else i]!r}"

    def forward(xs: Sequence[Array]) -> Array:
        return host.asarray(row.call(*arguments[:i], xs[0], *arguments[i + 1 :], **statics)).reshape(-1)

    def finding(kind: str, message: str, **evidence: Any) -> list[Finding]:
        return [Finding(row.name, kind, message, (row.name,), evidence=evidence)]

    try:
        (c,) = (c for k, _, c in pull(node, g, needed={source}) if k == i)
    except Exception as error:
        return finding("raised", complaint(where + run.where(node) + ", called by", run.f, error))
    x = host.asarray(arguments[i], dtype=float)
    info = host.finfo(min(source.dtype, node.dtype, key=lambda dtype: dtype.itemsize))
    eps = float(info.eps)
    grain = Grain(eps)
    u = smooth(forward, [x], [generator.normal(size=x.shape)], grain)
    slope, other = complex_step(forward, [x], u), richardson(forward, [x], u, grain)
    known = told(other, 1e-3, min(1e-3, 1e4 * eps) * largest([forward([x])]))
    if not known.all():
        return []
    slope = other if slope is None else confirmed(slope, other, known)
    terms, cotangent = host.where(u[0] != 0, c * u[0], 0.0), g.reshape(-1).astype(float)
    expected, found = float(cotangent @ slope.value), float(terms.sum())
    size = float(host.abs(cotangent) @ host.abs(slope.value)) + float(host.abs(terms).sum())
    rounding = slope.error + eps * host.abs(forward([x])) / length([x], u)
    bound = 10 * float(host.abs(cotangent) @ rounding) + max(1e-9, 10 * eps) * size + float(info.tiny)
    if abs(found - expected) <= bound:
        return []
    message = (
        f"{where} is wrong{run.where(node)}: along a random direction it gives {found:.6g}, and its forward changes "
        f"by {expected:.6g} (ratio {found / expected if expected else float('inf'):.6g})"
    )
    return finding("wrong pullback", message, oracle=slope.oracle)


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
