"""`gradcheck`: derivatives by autodiff against derivatives by numbers.

Reverse and forward mode are both compared with a numerical oracle (see `oracles`): every element of
the Jacobian where the inputs are small, a few random directions where they are large. Higher orders
are checked by checking the derivative's own derivative, in every nesting of the two modes. A kink
inside the step (relu at 0, a tie of a maximum) is named rather than reported as an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from minigrad import backend
from minigrad.backend import numpy as host
from minigrad.backend import to_numpy
from minigrad.check.culprits import culprits
from minigrad.check.forward import CannotRun, input_names, name_of
from minigrad.check.kinks import kink
from minigrad.check.level import Level, floating, pulled, pushed
from minigrad.check.oracles import ORACLES, Slope
from minigrad.check.report import NOTE, Finding, Report
from minigrad.tensor import Tensor

Array = Any

SMALL = 64
"""Up to so many input elements the whole Jacobian is compared."""

EXACT_RTOL = 1e-9
"""The relative tolerance beside an oracle that is right to rounding, in float64."""

RTOL = {"float64": 1e-7, "float32": 2e-3, "float16": 5e-2}
"""Relative tolerances, by the dtype of the computation; the oracle's own error is added."""


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
    and their ratio, the oracle and the step. Raises CannotRun where f fails or is not differentiable.
    """
    if order < 1:
        raise ValueError(f"gradcheck: the order is 1 or more, not {order}")
    if modes not in ("both", "reverse", "forward"):
        raise ValueError(f"gradcheck: modes is 'both', 'reverse' or 'forward', not {modes!r}")
    if oracle != "auto" and oracle not in ORACLES:
        raise ValueError(f"gradcheck: oracle is 'auto' or one of {sorted(ORACLES)}, not {oracle!r}")
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
    oracles: dict[str, int] = {}
    for depth in range(order):
        for nesting in itertools.product(*[("reverse", "forward")] * depth):
            derived = level
            for step, mode in enumerate(nesting):
                derived = derived.derivative(mode, seed + step)
            _compare(
                report,
                derived,
                nesting,
                [names[i] for i in level.places],
                oracle,
                modes,
                directions,
                rtol,
                seed,
                oracles,
            )
    if report.mistakes:
        report.findings[:0] = culprits(f, values)
    report.details["oracle"] = ", ".join(f"{name} ({n} directions)" for name, n in oracles.items())
    return report


def _several(inputs: Any) -> list[Any]:
    return list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]


def _compare(
    report: Report, level: Level, nesting: tuple[str, ...], names: list[str], oracle: str, modes: str, directions: int,
    rtol: float | None, seed: int, oracles: dict[str, int],
) -> None:  # fmt: skip
    """One level's first derivatives, in both modes, input by input."""
    generator = host.random.default_rng(seed)
    title = " of the ".join([*(f"{m}-mode derivative" for m in reversed(nesting))]) if nesting else ""
    y = level.numbers(level.xs)
    if y.size == 0 or all(x.size == 0 for x in level.xs):
        return
    if not host.isfinite(y).all():
        report.findings.append(
            Finding("", "not finite", f"the function's own value is not finite{' in the ' + title if title else ''}")
        )
        return
    whole = sum(x.size for x in level.xs) <= SMALL
    gs = host.eye(y.size) if whole and y.size <= SMALL else generator.normal(size=(directions, y.size))
    reverse = None if modes == "forward" else pulled(level, gs)
    for number, x in enumerate(level.xs):
        if x.size == 0:
            continue
        reach = RTOL[str(x.dtype)] if rtol is None else rtol
        units = host.eye(x.size) if whole else generator.normal(size=(directions, x.size))
        slopes: list[Slope] = []
        analytic: list[Array] = []
        kinks: list[int] = []
        for unit in units:
            u = [host.zeros(z.shape) for z in level.xs]
            u[number] = unit.reshape(x.shape)
            tangent = None if modes == "reverse" else pushed(level, u)
            back = None if reverse is None else reverse[number] @ unit
            slope = _slope(level, u, oracle, (tangent, back), gs, reach)
            if isinstance(slope, str):
                kinks.append(len(slopes))
                message = (
                    f"a kink in {slope} lies within the step, where no derivative exists to compare with "
                    f"({names[number]})"
                )
                if not any(f.message == message for f in report.findings):
                    report.findings.append(Finding(names[number], "kink", message, severity=NOTE))
                continue
            oracles[slope.oracle] = oracles.get(slope.oracle, 0) + 1
            slopes.append(slope)
            analytic.append(host.concatenate([p for p in (tangent, back) if p is not None]))
        if slopes:
            _judge(
                report,
                names[number],
                title,
                slopes,
                analytic,
                gs,
                modes,
                x.shape if whole else None,
                reach,
                y.size,
                kinks,
            )


def _agree(slope: Slope, found: tuple[Array | None, Array | None], gs: Array, rtol: float) -> bool:
    tangent, pulled = found
    scale = float(host.abs(slope.value).max(initial=0.0))
    rtol = min(rtol, EXACT_RTOL) if slope.regime == "exact" else rtol
    ok = True
    if tangent is not None:
        ok &= bool(
            (host.abs(tangent - slope.value) <= rtol * (host.abs(slope.value) + scale) + 10 * slope.error + 1e-14).all()
        )
    if pulled is not None:
        expected, error = gs @ slope.value, host.abs(gs) @ slope.error
        size = host.abs(gs) @ host.abs(slope.value)
        ok &= bool((host.abs(pulled - expected) <= rtol * (size + scale) + 10 * error + 1e-14).all())
    return ok


def _slope(
    level: Level, u: Sequence[Array], oracle: str, found: tuple[Array | None, Array | None], gs: Array, rtol: float
) -> Slope | str:
    """The numerical slope in a direction, or the name of the kink that forbids one."""
    f = level.numbers
    first: Slope | None = None
    if oracle == "auto":
        first = None if level.lifted or level.dtype != "float64" else ORACLES["complex"](f, level.xs, u)
        first = first if first is not None else ORACLES["richardson"](f, level.xs, u)
    else:
        first = ORACLES[oracle](f, level.xs, u)
        if first is None:
            raise CannotRun(
                f"{name_of(level.f)} has no complex continuation (it uses an op that takes real numbers only)"
            )
    assert first is not None
    if _agree(first, found, gs, rtol):
        at = kink(level, u, 1e-9) if first.oracle != "complex step" else None
        return first if at is None else at
    for step in (1e-7, 1e-5, first.step if first.oracle != "complex step" else 1e-5):
        at = kink(level, u, step)
        if at is not None:
            return at
    if first.oracle == "complex step":  # a function may continue otherwise than expected: ask another oracle
        second = ORACLES["richardson"](f, level.xs, u)
        assert second is not None
        return second if _agree(second, found, gs, rtol) else first
    return first


def _judge(
    report: Report, name: str, title: str, slopes: list[Slope], analytic: list[Array], gs: Array, modes: str,
    shape: tuple[int, ...] | None, rtol: float, outputs: int, kinks: list[int],
) -> None:  # fmt: skip
    """Compares all directions of one input and reports the worst."""
    sides = [m for m in ("forward", "reverse") if modes in ("both", m)]
    start = 0
    rtol = min(rtol, EXACT_RTOL) if all(s.regime == "exact" for s in slopes) else rtol
    for side in sides:
        width = outputs if side == "forward" else len(gs)
        computed = host.stack([a[start : start + width] for a in analytic], 1)
        start += width
        expected = host.stack([s.value for s in slopes], 1)
        error = host.stack([s.error for s in slopes], 1)
        size = host.abs(expected)
        if side == "reverse":
            expected, error, size = gs @ expected, host.abs(gs) @ error, host.abs(gs) @ size
        bound = rtol * (size + size.max(initial=0.0)) + 10 * error + 1e-14
        key = f"{name} ({side}{', ' + title if title else ''})"
        gap = host.abs(computed - expected)
        report.facts[key] = {
            "largest difference": float(gap.max(initial=0.0)),
            "tolerance": float(bound.max(initial=0.0)),
        }
        if not title:
            report.maps[f"{name} ({side})"] = (computed, expected)
        bad = ~(gap <= bound)
        if not bad.any():
            continue
        worst = []
        for flat in host.argsort(-host.where(host.isnan(gap), host.inf, gap).reshape(-1))[:3]:
            i, j = (int(n) for n in host.unravel_index(int(flat), gap.shape))
            place = tuple(int(n) for n in host.unravel_index(j, shape)) if shape is not None and not kinks else j
            mine, right = float(computed[i, j]), float(expected[i, j])
            worst.append(
                {
                    "output": i,
                    "input": place,
                    "autodiff": mine,
                    "oracle": right,
                    "ratio": mine / right if right else float("inf"),
                }
            )
        slope = slopes[int(host.argmax(bad.any(axis=0)))]
        first = worst[0]
        where = "element" if shape is not None else "direction"
        message = (
            f"the gradient with respect to {name} is wrong ({side} mode{', in the ' + title if title else ''}): "
            f"at output "
            f"{first['output']}, {where} {first['input']}, autodiff says {first['autodiff']:.6g} and the "
            f"{slope.oracle} "
            f"{first['oracle']:.6g} (ratio {first['ratio']:.6g}); {int(bad.sum())} of {bad.size} differ. Step "
            f"{slope.step:.1g}, "
            f"limited by {slope.regime}"
        )
        evidence = {"worst": worst, "oracle": slope.oracle, "step": slope.step, "regime": slope.regime, "mode": side}
        report.findings.append(Finding(name, "wrong gradient", message, evidence=evidence))
