"""Three ways to differentiate a function by numbers alone, in one direction at a time.

*Central differences* are off by truncation (h²) and by rounding (u/h); the step is swept, and the place
where two neighbouring steps agree best tells both the value and its error. *Richardson* extrapolates
the truncation away. The *complex step* (Squire and Trapp 1998), Im f(x + ih u) / h, subtracts nothing
and is right to rounding, where f is built from ops that continue analytically to complex arguments.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from minigrad.backend import numpy as host
from minigrad.backend import on_host

Array = Any
Function = Callable[[Sequence[Array]], Array]
"""From a list of arrays to one flat array."""

STEPS = tuple(10.0 ** (-e / 2) for e in range(2, 17))
"""Relative steps of the sweep: 1e-1 to 1e-8."""

TINY = 1e-30
"""The complex step: nothing is subtracted, so it can be as small as it likes."""


@dataclass(frozen=True)
class Slope:
    """A directional derivative: its values, the error that the oracle claims for each, and how it came about.

    step: the step used.  regime: what bounds the error: "truncation", "rounding", "exact" or "kink".
    """

    value: Array
    error: Array
    oracle: str
    step: float
    regime: str


def moved(xs: Sequence[Array], u: Sequence[Array], h: float | complex) -> list[Array]:
    """The inputs, moved by h u."""
    return [x + h * d for x, d in zip(xs, u, strict=True)]


def _scale(xs: Sequence[Array], u: Sequence[Array]) -> float:
    """A length for the steps: the size of the inputs where the direction moves them."""
    sizes = [
        host.abs(x[host.nonzero(d)]).max(initial=0.0) if x.ndim else abs(float(x))
        for x, d in zip(xs, u, strict=True)
        if d.any()
    ]
    reach = max((float(host.abs(d).max(initial=0.0)) for d in u), default=1.0) or 1.0
    return max(1e-3, min(1.0, max(map(float, sizes), default=1.0))) / reach


def central(f: Function, xs: Sequence[Array], u: Sequence[Array]) -> Slope:
    """Central differences over a sweep of steps; the best step is where neighbours agree best."""
    scale = _scale(xs, u)
    with host.errstate(all="ignore"):
        table = host.stack(
            [(f(moved(xs, u, h * scale)) - f(moved(xs, u, -h * scale))) / (2 * h * scale) for h in STEPS]
        )
    gaps = host.abs(host.diff(table, axis=0))
    overall = gaps.max(axis=1) if gaps.shape[1] else host.zeros(len(gaps))
    overall = host.where(host.isfinite(overall), overall, host.inf)
    best = int(host.argmin(overall))
    here = f(list(xs))
    u_roundoff = host.finfo(here.dtype).eps * host.abs(here).max(initial=0.0) / (STEPS[best + 1] * scale)
    regime = "rounding" if overall[best] <= 10 * u_roundoff else "truncation"
    falling = overall[: best + 1]
    if best == 0 or (regime == "truncation" and (len(falling) < 2 or falling[0] < 2 * falling[-1])):
        regime = "kink" if overall[best] > 1e-4 * (host.abs(table[best]).max(initial=0.0) + 1e-300) else regime
    return Slope(table[best + 1], 2 * gaps[best] + u_roundoff, "central differences", STEPS[best + 1] * scale, regime)


def richardson(f: Function, xs: Sequence[Array], u: Sequence[Array]) -> Slope:
    """Romberg's triangle over halved steps; its last two diagonal entries tell the error."""
    start = 0.1 * _scale(xs, u)
    with host.errstate(all="ignore"):
        slope = [
            (f(moved(xs, u, start / 2**k)) - f(moved(xs, u, -start / 2**k))) / (2 * start / 2**k) for k in range(11)
        ]
    best: tuple[float, Array, Array, int] | None = None
    row = [slope[0]]
    for k in range(1, len(slope)):
        fresh = [slope[k]]
        for order in range(1, min(k, 5) + 1):
            fresh.append(fresh[-1] + (fresh[-1] - row[order - 1]) / (4**order - 1))
        for order in range(1, len(fresh)):
            gap = host.maximum(host.abs(fresh[order] - fresh[order - 1]), host.abs(fresh[order] - row[order - 1]))
            size = float(gap.max(initial=0.0))
            if best is None or size < best[0]:
                best = (size, fresh[order], gap, k)
        row = fresh
    assert best is not None
    here = f(list(xs))
    step = start / 2 ** best[3]
    rounding = host.finfo(here.dtype).eps * host.abs(here).max(initial=0.0) / step
    return Slope(
        best[1], 2 * best[2] + rounding, "Richardson", step, "truncation" if best[0] > rounding else "rounding"
    )


def complex_step(f: Function, xs: Sequence[Array], u: Sequence[Array]) -> Slope | None:
    """The complex step, or None where f has no complex continuation, or one with noise in its imaginary part.

    CuPy computes the power of a negative number by its angle: 1e-16 remain where nothing imaginary went in.
    """
    lifted = [x.astype(host.complex128) + 1j * TINY * d for x, d in zip(xs, u, strict=True)]
    try:
        with host.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter(
                "error", host.exceptions.ComplexWarning
            )  # imaginary parts must not be lost on the way
            y = f(lifted)
            if not on_host() and f([x.astype(host.complex128) for x in xs]).imag.any():
                return None
    except (TypeError, ValueError, host.exceptions.ComplexWarning):
        return None
    if y.dtype.kind != "c" or not host.isfinite(y.imag).all():
        return None
    value = y.imag / TINY
    return Slope(value, 1e-14 * (host.abs(value) + host.abs(value).max(initial=0.0)), "complex step", TINY, "exact")


ORACLES: dict[str, Callable[[Function, Sequence[Array], Sequence[Array]], Slope | None]] = {
    "complex": complex_step, "richardson": richardson, "central": central,
}  # fmt: skip


def one_sided(f: Function, xs: Sequence[Array], u: Sequence[Array], h: float) -> tuple[Array, Array]:
    """The slopes to the right and to the left: at a kink they stay apart however small the step."""
    here = f(list(xs))
    with host.errstate(all="ignore"):
        return (f(moved(xs, u, h)) - here) / h, (here - f(moved(xs, u, -h))) / h
