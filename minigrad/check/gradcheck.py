"""`gradcheck`: derivatives by autodiff against derivatives by numbers.

Reverse and forward mode are both compared with a numerical oracle (see `oracles`): every element of
the Jacobian where the inputs are small, a few random directions where they are large. Higher orders
are checked by checking the derivative's own derivative, in every nesting of the two modes. Nothing is
called wrong before Richardson has confirmed a complex step, and the oracle has said the same a unit in
the last place away. Where there is no derivative to compare with (a kink, an infinite slope) that is
said, and where nothing is left to compare, the check proves nothing.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from minigrad import backend
from minigrad.backend import numpy as host
from minigrad.backend import to_numpy
from minigrad.check.culprits import culprits
from minigrad.check.forward import CannotRun, complaint, input_names, name_of
from minigrad.check.kinks import kink
from minigrad.check.level import Level, floating
from minigrad.check.oracles import ORACLES, SHORTER, Slope, apart, confirmed, largest, length, smooth, told
from minigrad.check.report import NOTE, VACUOUS, Finding, Report
from minigrad.tensor import Tensor

Array = Any

SMALL = 64
"""Up to so many input elements the whole Jacobian is compared."""

RTOL = {"float64": 1e-9, "float32": 1e-5, "float16": 1e-2}
"""Relative tolerances, by the dtype of the computation; the oracle's own error is added, and measured rounding."""

TOLD = 1e-3
"""An oracle whose error is a larger part of its slope than this (or than the tolerance) tells nothing."""

NOISE = 32
"""By how much rounding may be larger than what a unit in the last place of the inputs was seen to change."""

NONE_TOLD = ("no slope", "numbers find no derivative (an infinite slope, the edge of a domain, or too much rounding)")
"""The kind and the sentence where an output is not compared, unless it is for a kink."""


def gradcheck(
    f: Callable[..., Any],
    inputs: Sequence[Any],
    order: int = 1,
    *,
    oracle: str = "auto",
    modes: str = "both",
    directions: int = 4,
    keep_dtype: bool = False,
    rtol: float | None = None,
    seed: int = 0,
) -> Report:
    """Checks the derivatives of f, a function of Tensors, at `inputs` (arrays or Tensors).

    order:  up to which order; each order is checked in every nesting of jvp and vjp
    oracle: "complex", "richardson", "central", or "auto": the complex step where f continues
            analytically, else Richardson. A disagreement is confirmed by Richardson before it counts
    modes:  "reverse", "forward" or "both".  directions: how many random ones, for large inputs
    keep_dtype: check in the inputs' dtype instead of float64.  rtol: relative tolerance, by default by dtype

    The report is true where all agree; a mistake names the input, the worst elements with both values
    and their ratio, the oracle and the step. An input for which nothing could be compared (at kinks, where
    the function or its slope is not finite) makes the report vacuous: it is false, and accuses nobody.
    Raises CannotRun where f fails or is not differentiable, ValueError for settings that make no sense.
    """
    settings = Settings(_whole("order", order, 1), oracle, modes, _whole("directions", directions, 1), rtol,
                        _whole("seed", seed, 0))  # fmt: skip
    given = [to_numpy(x.data) if isinstance(x, Tensor) else x for x in _several(inputs)]
    given = [to_numpy(x) if backend.is_array(x) else x for x in given]
    narrow = sorted({str(x.dtype) for x in given if floating(x) and x.dtype != host.float64})
    values = given if keep_dtype else [x.astype(host.float64) if floating(x) else x for x in given]
    level = Level(f, values)
    names = input_names(f, len(values))
    report = Report(f"gradient of {name_of(f)}" + (f" to order {order}" if order > 1 else ""))
    report.details["computed in"] = level.dtype + (
        f" (inputs: {', '.join(narrow)})" if narrow and not keep_dtype else ""
    )
    with host.errstate(all="ignore"):
        try:
            used = _every_level(report, level, [names[i] for i in level.places], settings)
        except CannotRun:
            raise
        except Exception as error:
            report.findings += [finding for finding in culprits(f, values) if finding.kind == "raised"]
            if not report.mistakes:
                raise CannotRun(complaint("the backward pass of", f, error)) from error
            return report
        if report.mistakes:
            report.findings[:0] = culprits(f, values)
    report.details["oracle"] = ", ".join(_in_words(slopes) for slopes in used.values()) or "none"
    return report


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


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"gradcheck: {name} is a whole number from {least} on, not {value!r}")
    return number


def _several(inputs: Any) -> list[Any]:
    return list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]


def _in_words(slopes: list[Slope]) -> str:
    """An oracle, how often it was asked, and what it found the best step to be."""
    name, steps = slopes[0].oracle, [slope.step for slope in slopes]
    words = f"{name} ({len(slopes)} directions"
    if slopes[0].regime != "exact":
        low, high = f"{min(steps):.1g}", f"{max(steps):.1g}"
        regimes = sorted({slope.regime for slope in slopes})
        words += f", best step {low if low == high else f'{low} to {high}'}, limited by {' or '.join(regimes)}"
    return words + ")"


def _every_level(report: Report, level: Level, names: list[str], settings: Settings) -> dict[str, list[Slope]]:
    """Compares the derivatives of every order in every nesting; returns the slopes used, by oracle."""
    used: dict[str, list[Slope]] = {}
    for depth in range(settings.order):
        for nesting in itertools.product(*[("reverse", "forward")] * depth):
            derived = level
            for step, mode in enumerate(nesting):
                derived = derived.derivative(mode, settings.seed + step)
            title = " of the ".join(f"{mode}-mode derivative" for mode in reversed(nesting))
            for slope in _compare(report, derived, title, names, settings):
                used.setdefault(slope.oracle, []).append(slope)
    return used


def _compare(report: Report, level: Level, title: str, names: list[str], settings: Settings) -> list[Slope]:
    """One level's first derivatives, in both modes, input by input; returns the slopes used."""
    generator = host.random.default_rng(settings.seed)
    y = level.numbers(level.xs)
    if y.size == 0 or all(x.size == 0 for x in level.xs):
        return []
    if not host.isfinite(y).all():
        message = (
            f"the function's own value is not finite{f' in the {title}' if title else ''}: nothing can be compared"
        )
        report.findings.append(Finding("", "not finite", message, severity=VACUOUS))
        return []
    whole = sum(x.size for x in level.xs) <= SMALL
    gs = host.eye(y.size) if whole and y.size <= SMALL else generator.normal(size=(settings.directions, y.size))
    point = Point(level, gs)
    tried: dict[int, list[Trial]] = {}
    reasons: dict[int, list[tuple[str, str]]] = {}
    singular = host.zeros(y.shape, bool)
    for number, x in enumerate(level.xs):
        units = host.eye(x.size) if whole else generator.normal(size=(settings.directions, x.size))
        for unit in units:
            trial = Trial(point, number, unit, settings)
            if trial.nothing and not whole:
                singular |= ~trial.known
                reasons.setdefault(number, []).extend(trial.reasons)
                trial = Trial(
                    point, number, smooth(level.numbers, level.xs, trial.u, level.grain)[number].reshape(-1), settings
                )
            singular |= ~trial.known
            reasons.setdefault(number, []).extend(trial.reasons)
            tried.setdefault(number, []).append(trial)
    for number, trials in tried.items():
        for trial in trials:
            trial.excuse(singular)
        _not_compared(report, names[number], title, trials, list(dict.fromkeys(reasons[number])))
        _judge(report, names[number], title, trials, settings, level.xs[number].shape if whole else None)
    return [trial.slope for trials in tried.values() for trial in trials if not trial.nothing]


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
        generator = host.random.default_rng(11)
        return [
            Point(self.level.at([
                host.asarray(x * (1 + host.finfo(x.dtype).eps * generator.choice([-1.0, 1.0], x.shape)), x.dtype)
                for x in self.level.xs
            ]), self.gs)
            for _ in range(4)
        ]  # fmt: skip


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


def _not_compared(report: Report, name: str, title: str, trials: list[Trial], reasons: list[tuple[str, str]]) -> None:
    """Says what was not compared, and where that was all."""
    if all(trial.nothing for trial in trials):
        why = "; ".join(sentence for _, sentence in reasons)
        where = f" in the {title}" if title else ""
        message = f"nothing could be compared with respect to {name}{where}: {why}; check at other values"
        report.findings.append(Finding(name, "vacuous", message, severity=VACUOUS))
        return
    for kind, sentence in reasons:
        finding = Finding(name, kind, f"{sentence} to compare with ({name})", severity=NOTE)
        if finding not in report.findings:
            report.findings.append(finding)


def _judge(
    report: Report, name: str, title: str, trials: list[Trial], settings: Settings, shape: tuple[int, ...] | None
) -> None:
    """Compares all directions of one input and reports the worst."""
    for mode in settings.sides:
        sides = [trial.sides[mode] for trial in trials]
        computed, expected = (host.stack([getattr(s, part) for s in sides], 1) for part in ("computed", "expected"))
        bound = host.stack([trial.bound(trial.sides[mode]) for trial in trials], 1)
        gap = host.abs(computed - expected)
        report.facts[f"{name} ({mode}{', ' + title if title else ''})"] = {
            "largest difference": float(gap.max(initial=0.0)),
            "tolerance": float(bound.max(initial=0.0)),
        }
        if not title:
            report.maps[f"{name} ({mode})"] = (computed, expected)
        bad = ~(gap <= bound)
        if not bad.any():
            continue
        worst = []
        order = host.argsort(-host.where(bad, host.where(host.isnan(gap), host.inf, gap), -1.0).reshape(-1))
        for flat in order[: min(3, int(bad.sum()))]:
            i, j = (int(n) for n in host.unravel_index(int(flat), gap.shape))
            place = tuple(int(n) for n in host.unravel_index(j, shape)) if shape is not None else j
            mine, right = float(computed[i, j]), float(expected[i, j])
            ratio = mine / right if right else float("inf")
            worst.append({"output": i, "input": place, "autodiff": mine, "oracle": right, "ratio": ratio})
        slope = trials[int(host.argmax(bad.any(axis=0)))].slope
        first = worst[0]
        where = "element" if shape is not None else "direction"
        message = (
            f"the gradient with respect to {name} is wrong ({mode} mode{', in the ' + title if title else ''}): "
            f"at output {first['output']}, {where} {first['input']}, autodiff says {first['autodiff']:.6g} and the "
            f"{slope.oracle} {first['oracle']:.6g} (ratio {first['ratio']:.6g}); {int(bad.sum())} of {bad.size} "
            f"differ. Step {slope.step:.1g}, limited by {slope.regime}"
        )
        evidence = {"worst": worst, "oracle": slope.oracle, "step": slope.step, "regime": slope.regime, "mode": mode}
        report.findings.append(Finding(name, "wrong gradient", message, evidence=evidence))
