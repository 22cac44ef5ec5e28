"""Three ways to differentiate a function by numbers alone, in one direction at a time.

*Central differences* are off by truncation (h²) and by rounding (u/h); the step is swept, and the place
where neighbouring steps agree best tells both the value and its error. *Richardson* extrapolates the
truncation away. The *complex step* (Squire and Trapp 1998), Im f(x + ih u) / h, subtracts nothing
and is right to rounding, where f is built from ops that continue analytically to complex arguments.
Every output has steps and an error of its own: a sum of large terms does not hide a small one. Where
an oracle cannot tell (f is not finite to one side, or no two steps agree), the error is infinite.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minigrad.backend import numpy as host
from minigrad.backend import on_host

Array = Any
Function = Callable[[Sequence[Array]], Array]
"""From a list of arrays to one flat array."""

STEPS = tuple(10.0 ** (-e / 2) for e in range(2, 23))
"""Relative steps of the sweep of central differences: 1e-1 to 1e-11."""

HALVINGS = 36
"""Richardson's steps go from 1e-1 to 1e-12, unless all outputs have converged before."""

CONVERGED = 1e-10
"""The relative error at which Richardson is content; so it is with ten times what rounding makes inevitable."""

SHORTER = 0.73
"""By what the steps of a second run are shorter: numbers that agreed by chance do not agree again."""

TINY = 1e-30
"""The complex step: nothing is subtracted, so it can be as small as it likes."""


@dataclass(frozen=True)
class Slope:
    """A directional derivative: its values, the error that the oracle claims for each, and how it came about.

    error: infinite where the oracle cannot tell.  step: the (longest) step used.
    regime: what bounds the error: "truncation", "rounding", "exact" or "kink"
    """

    value: Array
    error: Array
    oracle: str
    step: float
    regime: str


@dataclass(frozen=True)
class Grain:
    """How coarse a function's values are, where they do not show it themselves.

    eps: of the narrowest dtype that it computes in.  size: of the values that it computes them from
    """

    eps: float = 0.0
    size: float = 0.0


FINE = Grain()


def moved(xs: Sequence[Array], u: Sequence[Array], h: float | complex) -> list[Array]:
    """The inputs, moved by h u."""
    return [x + h * d for x, d in zip(xs, u, strict=True)]


def largest(xs: Sequence[Array]) -> float:
    """The largest absolute value in several arrays."""
    return max((float(host.abs(x).max(initial=0.0)) for x in xs), default=0.0)


def _touched(xs: Sequence[Array], u: Sequence[Array]) -> float:
    """The size of the inputs where the direction moves them."""
    return largest([x[host.nonzero(d)] if x.ndim else x for x, d in zip(xs, u, strict=True) if d.any()])


def length(xs: Sequence[Array], u: Sequence[Array]) -> float:
    """A length for the steps: the size of the inputs where the direction moves them, within reason."""
    return max(1e-3, min(1.0, _touched(xs, u) or 1.0)) / (largest(u) or 1.0)


def _wide(xs: Sequence[Array]) -> list[Array]:
    return [x.astype(host.float64) for x in xs]


class _Point:
    """f at a point and beside it, and what rounding does to a difference quotient there."""

    def __init__(self, f: Function, xs: Sequence[Array], u: Sequence[Array], grain: Grain) -> None:
        self.f, self.xs, self.u = f, _wide(xs), u
        here = f(self.xs)
        self.eps = max(grain.eps, float(host.finfo(here.dtype).eps))
        self.size = host.maximum(host.abs(here).astype(host.float64), grain.size)
        self.touched = _touched(xs, u) / (largest(u) or 1.0)
        self.shortest = 8 * self.eps * self.touched

    def difference(self, h: float) -> Array:
        """(f(x + hu) - f(x - hu)) / 2h."""
        right, left = self.f(moved(self.xs, self.u, h)), self.f(moved(self.xs, self.u, -h))
        return (right.astype(host.float64) - left) / (2 * h)

    def rounding(self, value: Array, h: float) -> Array:
        """The error of that quotient by the rounding of f's values and of x + hu."""
        return self.eps * (self.size + host.abs(value) * self.touched) / h


class _Best:
    """For each output the best estimate so far, with its error and its step."""

    def __init__(self, size: int) -> None:
        self.value, self.error = host.full(size, host.nan), host.full(size, host.inf)
        self.step, self.rounding = host.zeros(size), host.zeros(size)

    def offer(self, value: Array, gap: Array, rounding: Array, h: float) -> None:
        error = 2 * gap + rounding
        better = error < self.error  # never, where it is not a number
        for kept, new in ((self.value, value), (self.error, error), (self.rounding, rounding), (self.step, h)):
            kept[better] = new if isinstance(new, float) else new[better]

    def slope(self, oracle: str) -> Slope:
        told = host.isfinite(self.error)
        worst = int(host.argmax(host.where(told, self.error, -1))) if told.any() else None
        regime = "truncation"
        if worst is not None and self.error[worst] <= 10 * self.rounding[worst]:
            regime = "rounding"
        return Slope(self.value, self.error, oracle, float(self.step.max(initial=0.0)), regime)


def central(f: Function, xs: Sequence[Array], u: Sequence[Array], grain: Grain = FINE, shorter: float = 1.0) -> Slope:
    """Central differences over a sweep of steps; the best step is where three neighbours agree best."""
    scale = length(xs, u) * shorter
    with host.errstate(all="ignore"):
        point = _Point(f, xs, u, grain)
        steps = [h * scale for h in STEPS if h * scale >= point.shortest]
        table = [point.difference(h) for h in steps]
        best = _Best(point.size.size)
        for a, b, c, h in zip(table, table[1:], table[2:], steps[2:], strict=False):
            best.offer(c, host.maximum(host.abs(c - b), host.abs(b - a) / 10), point.rounding(c, h), h)
        slope = best.slope("central differences")
        if slope.regime == "truncation" and len(table) > 1:  # which falls with the square of the step
            first = host.abs(table[1] - table[0])
            if (first < best.error)[host.isfinite(best.error) & (best.error > 10 * best.rounding)].any():
                return replace(slope, regime="kink")
    return slope


def richardson(
    f: Function, xs: Sequence[Array], u: Sequence[Array], grain: Grain = FINE, shorter: float = 1.0
) -> Slope:
    """Romberg's triangle over halved steps: an estimate must agree with the row before in two columns."""
    h = 0.1 * length(xs, u) * shorter
    with host.errstate(all="ignore"):
        point = _Point(f, xs, u, grain)
        best = _Best(point.size.size)
        before: list[Array] = []
        for _ in range(HALVINGS):
            if h < point.shortest:
                break
            row = [point.difference(h)]
            for order in range(1, min(len(before), 5) + 1):
                row.append(row[-1] + (row[-1] - before[order - 1]) / (4**order - 1))
            for order in range(1, min(len(row), len(before))):
                gap = host.maximum(host.abs(row[order - 1] - before[order - 1]), host.abs(row[order] - before[order]))
                best.offer(row[order], gap, point.rounding(row[order], h), h)
            size = host.where(host.isfinite(best.error), host.abs(best.value), 0.0)
            content = host.maximum(CONVERGED * (size + size.max(initial=0.0)), 10 * best.rounding)
            if (best.error <= content).all():
                break
            before = row
            h /= 2
    return best.slope("Richardson")


def complex_step(
    f: Function, xs: Sequence[Array], u: Sequence[Array], grain: Grain = FINE, shorter: float = 1.0
) -> Slope | None:
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
    return Slope(value, 1e-14 * host.abs(value), "complex step", TINY, "exact")


ORACLES: dict[str, Callable[..., Slope | None]] = {
    "complex": complex_step, "richardson": richardson, "central": central,
}  # fmt: skip


def told(slope: Slope, part: float, least: float) -> Array:
    """Which outputs have a slope that is more than its error: an error of at most a part of the largest, or `least`."""
    size = host.abs(slope.value[host.isfinite(slope.error)]).max(initial=0.0)
    return slope.error <= part * size + least


def confirmed(first: Slope, second: Slope, known: Array) -> Slope:
    """The complex step where Richardson bears it out; Richardson where f continues otherwise than expected.

    A function that is written with abs or conj has a complex step that is no derivative. known: what
    Richardson has told; of the rest the two together tell nothing.
    """
    reach = 10 * (second.error + first.error) + 1e-9 * (host.abs(first.value) + host.abs(second.value))
    if (host.abs(first.value - second.value) > reach)[known].any():
        return second
    return replace(first, error=host.where(known, first.error, host.inf))


def apart(f: Function, xs: Sequence[Array], u: Sequence[Array], h: float, grain: Grain = FINE) -> Array:
    """Which outputs have no common slope to both sides of x: at a kink they differ however small the step."""
    with host.errstate(all="ignore"):
        point = _Point(f, xs, u, grain)
        here = f(point.xs).astype(host.float64)
        right, left = (f(moved(point.xs, u, h)) - here) / h, (here - f(moved(point.xs, u, -h))) / h
        size = host.maximum(host.abs(right), host.abs(left))
        return ~(host.abs(right - left) <= 1e-3 * size + 100 * point.rounding(size, h))


def smooth(f: Function, xs: Sequence[Array], u: Sequence[Array], grain: Grain = FINE, tries: int = 256) -> list[Array]:
    """The direction without the elements along which an output has a kink or is not finite.

    They are found by halving; what could not be tried goes too.
    """
    sizes = [d.size for d in u]
    whole = host.concatenate([d.reshape(-1) for d in u])
    kept = host.zeros(whole.shape)

    def direction(flat: Array) -> list[Array]:
        return [part.reshape(d.shape) for part, d in zip(host.split(flat, host.cumsum(sizes)[:-1]), u, strict=True)]

    groups = [host.flatnonzero(whole)]
    while groups and tries:
        group = groups.pop(0)
        part = host.zeros(whole.shape)
        part[group] = whole[group]
        d = direction(part)
        tries -= 1
        if not apart(f, xs, d, 1e-7 * length(xs, d), grain).any():
            kept += part
        elif len(group) > 1:
            groups += [group[: len(group) // 2], group[len(group) // 2 :]]
    return direction(kept)
