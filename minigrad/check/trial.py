"""One direction of a check: autodiff against an oracle, and the doubts that come before an accusation.

What looks wrong may be a kink, an oracle that cannot tell, or rounding; only what is none of them stays.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.kinks import kink
from minigrad.check.level import Level
from minigrad.check.oracles import ORACLES, SHORTER, Slope, apart, confirmed, largest, length, told
from minigrad.check.run import CannotRun, by_an_ulp, name_of

Array = Any

RTOL = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-2}
"""Relative tolerances, by the dtype of the computation; the oracle's own error is added, and measured rounding."""

TOLD = 1e-3
"""An oracle whose error is a larger part of its slope than this (or than the tolerance) tells nothing."""

NOISE = 32
"""By how much rounding may be larger than what a unit in the last place of the inputs was seen to change."""

NONE_TOLD = ("no slope", "numbers find no derivative (an infinite slope, the edge of a domain, or too much rounding)")
"""The kind and the sentence where an output is not compared, unless it is for a kink."""


@dataclass(frozen=True)
class Settings:
    """What `gradcheck` was asked for."""

    order: int
    oracle: str
    modes: str
    directions: int
    rtol: float | None
    seed: int

    def __post_init__(self) -> None:
        if self.modes not in ("both", "reverse", "forward"):
            raise ValueError(f"gradcheck: modes is 'both', 'reverse' or 'forward', not {self.modes!r}")
        if self.oracle != "auto" and self.oracle not in ORACLES:
            raise ValueError(f"gradcheck: oracle is 'auto' or one of {sorted(ORACLES)}, not {self.oracle!r}")
        if self.rtol is not None and not (isinstance(self.rtol, (int, float)) and 0 <= self.rtol < 1):
            raise ValueError(f"gradcheck: rtol is a number from 0 to below 1, where all would pass, not {self.rtol!r}")

    @property
    def sides(self) -> list[str]:
        return [side for side in ("forward", "reverse") if self.modes in ("both", side)]


class Point:
    """A level with the cotangents that are pulled back there, each set of them once.

    gs: the cotangents, as rows
    """

    def __init__(self, level: Level, gs: Array) -> None:
        self.level, self.gs = level, gs
        self._rows: dict[bytes, list[Array]] = {}

    def pulled(self, known: Array) -> list[Array]:
        """For each input the pullbacks of the cotangents of the outputs that are known, as rows."""
        key = known.tobytes()
        if key not in self._rows:
            self._rows[key] = self.level.pulled(host.where(known, self.gs, 0.0))
        return self._rows[key]

    @functools.cached_property
    def here(self) -> Array:
        """The level's values."""
        return self.level.numbers(self.level.xs)

    @functools.cached_property
    def beside(self) -> list[Point]:
        """Points a unit in the last place away."""
        move = by_an_ulp()
        return [Point(self.level.at([move(x) for x in self.level.xs]), self.gs) for _ in range(4)]


@dataclass
class Side:
    """One mode's numbers in one direction: for each output (forward) or each cotangent (reverse).

    size: of the terms that `expected` adds up.  noise: what rounding was seen to change
    """

    computed: Array
    expected: Array
    error: Array
    size: Array
    noise: Array

    @property
    def gap(self) -> Array:
        return self.computed - self.expected


class Trial:
    """Autodiff against the oracle in one direction.

    slope: the oracle's.  known: which outputs have one to compare with.  sides: the numbers compared, by mode
    reasons: (kind, sentence) of why something was not compared
    """

    def __init__(self, point: Point, number: int, unit: Array, settings: Settings) -> None:
        level = point.level
        self.point, self.number, self.unit, self.settings = point, number, unit, settings
        self.u = [host.zeros(x.shape) for x in level.xs]
        self.u[number] = unit.reshape(level.xs[number].shape)
        narrowest = level.narrowest
        self.eps, self.tiny = float(host.finfo(narrowest).eps), float(host.finfo(narrowest).tiny)
        self.rtol = RTOL.get(str(narrowest), RTOL["float64"]) if settings.rtol is None else settings.rtol
        self.length = length(level.xs, self.u)
        self.natural = max(largest([point.here]), level.size) / self.length
        self.reasons: list[tuple[str, str]] = []
        self.oracle = "complex" if settings.oracle == "auto" else settings.oracle
        slope = self._asked()
        if slope is None and settings.oracle == "auto":
            self.oracle = "richardson"
            slope = self._asked()
        if slope is None:
            raise CannotRun(
                f"{name_of(level.f)} has no complex continuation (it uses an op that takes real numbers only)"
            )
        self.known = host.ones(slope.value.shape, bool)
        self._settle(slope)
        if self.agrees:
            if self.slope.regime != "exact":
                self._leave_out_kinks(1e-9)
        else:
            self._doubt()

    def _asked(self, oracle: str = "", point: Point | None = None, shorter: float = 1.0) -> Slope | None:
        level = (point or self.point).level
        return ORACLES[oracle or self.oracle](level.numbers, level.xs, self.u, level.grain, shorter)

    def _told(self, slope: Slope) -> Array:
        """The outputs of which a slope tells something."""
        part = max(TOLD, self.rtol)
        return told(slope, part, min(part, 1e4 * self.eps) * self.natural)

    def _settle(self, slope: Slope) -> None:
        """Takes a slope to compare with, as far as it can be relied on."""
        self.slope = slope
        self._keep(self._told(slope), NONE_TOLD)

    def _keep(self, outputs: Array, reason: tuple[str, str]) -> None:
        if (self.known & ~outputs).any():
            self.reasons.append(reason)
        self.known = self.known & outputs
        self.sides = self._sides(self.point, self.slope)

    def _sides(self, point: Point, slope: Slope) -> dict[str, Side]:
        """What autodiff and the oracle say of the outputs that are known; the others are 0 on both sides."""
        rounding = self.eps * host.maximum(host.abs(self.point.here), self.point.level.size) / self.length
        value = host.where(self.known, slope.value, 0.0)
        error = host.where(self.known, slope.error + rounding, 0.0)  # autodiff computes with f's values, too
        sides = {}
        if "forward" in self.settings.sides:
            tangent = host.where(self.known, point.level.pushed(self.u), 0.0)
            sides["forward"] = Side(tangent, value, error, host.abs(value), host.zeros(value.shape))
        if "reverse" in self.settings.sides:
            gs = host.where(self.known, point.gs, 0.0)
            pulled = host.where(self.unit != 0, point.pulled(self.known)[self.number] * self.unit, 0.0).sum(axis=1)
            counted = host.isfinite(pulled) | self.known.all()  # not 0 times the infinite slope of another output
            pulled, expected = host.where(counted, pulled, 0.0), host.where(counted, gs @ value, 0.0)
            size, error = host.abs(gs) @ host.abs(value), host.abs(gs) @ error
            sides["reverse"] = Side(pulled, expected, error, size, host.zeros(len(gs)))
        return sides

    def excuse(self, singular: Array) -> None:
        """Where an output has an infinite slope in another direction, autodiff has 0 times infinity in this one."""
        for mode, side in self.sides.items():
            among = singular if mode == "forward" else (host.where(singular, self.point.gs, 0.0) != 0).any(axis=1)
            excused = among & ~host.isfinite(side.computed)
            side.computed, side.expected = (host.where(excused, 0.0, part) for part in (side.computed, side.expected))

    def bound(self, side: Side) -> Array:
        scale = host.abs(self.slope.value[self.known]).max(initial=0.0)
        floor = 1e-14 * min(1.0, self.natural) + self.tiny  # below it numbers lose digits
        return self.rtol * (side.size + scale) + 10 * side.error + NOISE * side.noise + floor

    @property
    def agrees(self) -> bool:
        return all(bool((host.abs(side.gap) <= self.bound(side)).all()) for side in self.sides.values())

    @property
    def moves(self) -> bool:
        """Whether something that is not zero was compared."""
        return any(bool(side.expected.any() or side.computed.any()) for side in self.sides.values())

    @property
    def nothing(self) -> bool:
        """Whether all that moves in this direction had to be left out."""
        return (bool(self.reasons) or not self.unit.any()) and not self.moves

    def _leave_out_kinks(self, step: float) -> None:
        """Where an op switches: outputs whose slopes to both sides differ, or all that disagree where none do.

        Of x = relu(x) - relu(-x) at 0 autodiff says 0: a convention for each op, and no derivative of the whole.
        """
        level, h = self.point.level, step * self.length
        outputs = apart(level.numbers, level.xs, self.u, h, level.grain) & self.known
        name = kink(level, self.u, h) if outputs.any() or not self.agrees else None
        if name is None:
            return
        sentence = f"a kink in {name} lies within the step, where no derivative exists"
        if not outputs.any():
            side = self.sides.get("forward")
            outputs = self.known if side is None else ~(host.abs(side.gap) <= self.bound(side))
            sentence = f"{name} stands at a kink, where autodiff takes a convention and has no derivative"
        self._keep(~outputs, ("kink", sentence))

    def _doubt(self) -> None:
        """What looks wrong may be a kink, the oracle or rounding: only what is none of them stays."""
        exact = self.slope.regime == "exact"
        for step in (1e-7,) if exact else (1e-7, 1e-5, self.slope.step / self.length):
            if not self.agrees:
                self._leave_out_kinks(step)
        if exact and not self.agrees:
            other = self._asked("richardson")
            assert other is not None
            slope = confirmed(self.slope, other, self._told(other))
            self.oracle = "complex" if slope.oracle == self.slope.oracle else "richardson"
            self._settle(slope)
        if not self.agrees:
            self._measure_rounding()

    def _measure_rounding(self) -> None:
        """What a unit in the last place of the inputs changes in the difference is no mistake, but rounding.

        With other steps, too: what two runs of an oracle do not agree on is not told.
        """
        noise = {mode: host.zeros(side.gap.shape) for mode, side in self.sides.items()}
        for point in self.point.beside:
            slope = self._asked(point=point, shorter=SHORTER)
            if slope is None:
                continue
            for mode, side in self._sides(point, slope).items():
                shift = host.abs(side.gap - self.sides[mode].gap)
                noise[mode] = host.maximum(noise[mode], host.where(host.isnan(shift), host.inf, shift))
        for mode, side in self.sides.items():
            lost = host.isfinite(side.gap) & (noise[mode] > max(TOLD, self.rtol) * side.size.max(initial=0.0))
            side.noise = host.where(lost | ~host.isfinite(side.gap), 0.0, noise[mode])
            side.computed, side.expected = (host.where(lost, 0.0, part) for part in (side.computed, side.expected))
            if lost.any():
                self.reasons.append(NONE_TOLD)
