"""`gradcheck`: derivatives by autodiff against derivatives by numbers.

Reverse and forward mode are both compared with a numerical oracle (see `oracles`): every element of
the Jacobian where the inputs are small, a few random directions where they are large. Higher orders
are checked by checking the derivative's own derivative, in every nesting of the two modes. Nothing is
called wrong before Richardson has confirmed a complex step, and the oracle has said the same a unit in
the last place away. Where there is no derivative to compare with (a kink, an infinite slope) that is
said, and where nothing is left to compare, the check proves nothing.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.culprits import culprits
from minigrad.check.forward import input_names
from minigrad.check.level import Level
from minigrad.check.oracles import Slope, smooth
from minigrad.check.report import NOTE, VACUOUS, Finding, Report
from minigrad.check.run import CannotRun, computed_in, name_of
from minigrad.check.trial import Point, Settings, Trial
from minigrad.check.watching import complaint

Array = Any

SMALL = 64
"""Up to so many input elements the whole Jacobian is compared."""


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
    values, narrow = computed_in(inputs if isinstance(inputs, (tuple, list)) else [inputs], keep_dtype)
    level = Level(f, values)
    names = input_names(f, len(values))
    report = Report(f"gradient of {name_of(f)}" + (f" to order {order}" if order > 1 else ""))
    report.details["computed in"] = level.dtype + (
        f" (inputs: {', '.join(narrow)})" if narrow and not keep_dtype else ""
    )
    with host.errstate(all="ignore"):
        try:
            used = _every_level(report, level, [names[i] for i in level.places], settings)
        except CannotRun as error:
            if "different floating dtypes" not in str(error):
                raise
            kept = ", or keep_dtype=True" * bool(narrow and not keep_dtype)
            fix = f"convert a layer with to_dtype(mg.{level.dtype}){kept}"
            raise CannotRun(f"{error} (the check computes in {level.dtype}: {fix})") from error
        except Exception as error:
            report.findings += [finding for finding in culprits(f, values) if finding.kind == "raised"]
            if not report.mistakes:
                raise CannotRun(complaint("the backward pass of", f, error)) from error
            return report
        if report.mistakes:
            report.findings[:0] = culprits(f, values)
    report.details["oracle"] = ", ".join(_in_words(slopes) for slopes in used.values()) or "none"
    return report


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"gradcheck: {name} is a whole number from {least} on, not {value!r}")
    return number


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
        if x.size == 0:
            continue
        units = host.eye(x.size) if whole else generator.normal(size=(settings.directions, x.size))
        for unit in units:
            trial = Trial(point, number, unit, settings)
            if trial.nothing and not whole:
                singular |= ~trial.known
                reasons.setdefault(number, []).extend(trial.reasons)
                fewer = smooth(level.numbers, level.xs, trial.u, level.grain)[number].reshape(-1)
                trial = Trial(point, number, fewer, settings)
            singular |= ~trial.known
            reasons.setdefault(number, []).extend(trial.reasons)
            tried.setdefault(number, []).append(trial)
    for number, trials in tried.items():
        for trial in trials:
            trial.excuse(singular)
        _not_compared(report, names[number], title, trials, list(dict.fromkeys(reasons[number])))
        _judge(report, names[number], title, trials, settings, level.xs[number].shape if whole else None)
    return [trial.slope for trials in tried.values() for trial in trials if not trial.nothing]


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
