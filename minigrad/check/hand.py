"""`check_hand_gradient`: a forward function, a backward pass derived by hand, and what is wrong with it.

The forward is recorded and differentiated; the hand-derived gradient is compared with the result in
float64, within a tolerance that is measured: each input is moved by one unit in the last place, and
what that changes is rounding. Where they differ, `explain` looks for the mistake; where they agree,
the mutation score (`mutants`) tells whether the check could have failed at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minigrad import backend
from minigrad.backend import numpy as host
from minigrad.backend import to_numpy
from minigrad.check.calling import Answer, ask, without_upstream
from minigrad.check.explain import Explainer
from minigrad.check.findings import explained, not_on_tape, of_a_shape, of_a_zero, of_nan, structural_zero
from minigrad.check.forward import CannotRun, Forward, name_of, record
from minigrad.check.mutants import Score, mutation_score, score_sentence
from minigrad.check.repeated import Repeated, require_the_same_twice
from minigrad.check.report import NOTE, VACUOUS, Finding, Report
from minigrad.check.steps import walk
from minigrad.check.sweep import Sweep
from minigrad.tape import Node
from minigrad.tensor import Tensor

Array = Any

RTOL = {"float64": 1e-9, "float32": 2e-4, "float16": 2e-2}
"""Relative tolerances, of the sum of the sizes of a gradient's path terms, by the dtype of the computation."""


def check_hand_gradient(
    f: Callable[..., Any],
    inputs: Sequence[Any],
    hand: Any,
    cotangent: Any = None,
    *,
    outputs: int = 1,
    steps: Mapping[str, Any] | None = None,
    rtol: float | None = None,
    keep_dtype: bool = False,
    seed: int = 0,
    score: bool = True,
    progress: bool | None = None,
) -> Report:
    """Compares a hand-derived backward pass with autodiff, and says which path or factor is wrong.

    f:         the forward function, of minigrad ops or of plain NumPy. It may return (out, cache, ...).
    inputs:    its arguments: arrays or Tensors; floating ones are differentiable, anything else is passed on
    hand:      their backward: `hand(g, *inputs)`, or `hand(g, cache)` where f returns a cache; or the
               gradients themselves (an array, a tuple in the order of the inputs, or a dict by name)
    cotangent: the upstream gradient (a tuple for several outputs). By default random, so that nothing
               hides; needed with plain gradients unless f returns one number
    outputs:   how many leading values that f returns have cotangents, `hand(g1, g2, cache)`
    steps:     hand-derived cotangents of intermediates, by label or by the name of f's local variable.
               `hand` may return them too, in a dict. The first wrong step is then named.
    rtol:      relative tolerance; by default 1e-9 in float64. keep_dtype: compute in the inputs' dtype
               instead of float64. score: measure what the check could have caught. progress: show a bar
               (by default where the search takes long and the terminal is one).

    Raises CannotRun (a ValueError) where f itself fails or cannot be differentiated. Everything that
    `hand` does wrong is a finding.
    """
    with backend.using("numpy"):
        return _check(Repeated(f, hand), inputs, hand, cotangent, outputs, steps, rtol, keep_dtype, seed, score, progress)


def _check(
    f: Callable[..., Any], inputs: Any, hand: Any, cotangent: Any, outputs: int, steps: Mapping[str, Any] | None,
    rtol: float | None, keep_dtype: bool, seed: int, score: bool, progress: bool | None,
) -> Report:  # fmt: skip
    given = [_host(x) for x in (inputs if isinstance(inputs, (tuple, list)) else (inputs,))]
    narrow = sorted({str(x.dtype) for x in given if _floating(x) and x.dtype != host.float64})
    values = given if keep_dtype else [x.astype(host.float64) if _floating(x) else x for x in given]
    try:
        run = record(f, values, outputs)
    except CannotRun as error:
        if not narrow or keep_dtype or "different floating dtypes" not in str(error):
            raise
        run, values, keep_dtype = record(f, given, outputs), given, True
    require_the_same_twice(run, outputs)
    names = [run.leaf_name(k) for k in range(len(run.leaves))]
    report = Report(f"hand-derived gradient of {name_of(f)}")
    dtype = str(run.leaves[0].dtype)
    report.details["computed in"] = dtype + (f" (inputs: {', '.join(narrow)})" if narrow and not keep_dtype else "")
    seeds = _seeds(run, hand, cotangent, seed)
    sweep = Sweep(run, seeds)
    answer = ask(hand, run, [seeds[y.node] for y in run.outputs if y.node is not None], names)
    report.findings += answer.findings
    report.findings += not_on_tape(run, sweep, values, outputs)
    answer.steps |= {name: host.asarray(to_numpy(_host(value))) for name, value in (steps or {}).items()}
    if answer.findings and all(h is None for h in answer.gradients) and not answer.steps:
        return report
    if any(h is not None and h.dtype == host.float32 for h in answer.gradients) and dtype == "float64":
        rtol = RTOL["float32"] if rtol is None else rtol
        report.details["precision"] = "the hand-derived gradient came in float32, so only float32's digits are compared"
    rtol = RTOL[dtype] if rtol is None else rtol
    explainer = Explainer(sweep, answer.gradients, [])
    sizes = [explainer.absolute(k) for k in range(len(names))]
    noise = _noise(run, sweep, hand, answer, values, outputs, keep_dtype)
    tolerances = [
        rtol * s + 1e-3 * rtol * float(s.max(initial=0.0)) + 32 * n for s, n in zip(sizes, noise, strict=True)
    ]  # fmt: skip
    explainer.tolerances = tolerances
    wrong: list[int] = []
    for k, (a, h, tol) in enumerate(zip(sweep.gradients, answer.gradients, tolerances, strict=True)):
        size = float(host.sqrt((sizes[k] ** 2).sum()))
        norm = float(host.sqrt((a * a).sum()))
        cancellation = size / norm if norm else float("inf")
        report.facts[names[k]] = {"|gradient|": norm, "|path terms|": size, "cancellation": cancellation}
        report.absolute[names[k]] = sizes[k]
        if structural_zero(a, sizes[k]):
            report.findings.append(of_a_zero(names[k], a, sizes[k]))
        if h is None:
            continue
        if h.shape != a.shape:
            report.findings.append(of_a_shape(names[k], h, a, tol))
            continue
        if not host.isfinite(h).all() and host.isfinite(a).all():
            report.findings.append(of_nan(names[k], h))
            continue
        report.maps[names[k]] = (h, a)
        gap = host.abs(h - a)
        report.facts[names[k]] |= {
            "largest difference": float(gap.max(initial=0.0)),
            "tolerance": float(host.max(tol, initial=0.0)),
        }
        if not (gap <= tol).all():
            wrong.append(k)
    if answer.steps:
        report.findings += walk(run, sweep, answer.steps, rtol)
    if wrong:
        report.findings += explained(explainer, wrong, names, progress)
    if score:
        _score(report, run, sweep, tolerances, f, values, hand, cotangent, outputs, rtol, keep_dtype, seed)
    report.findings.sort(key=lambda finding: ("mistake", "vacuous", "note").index(finding.severity))
    return report


def _host(x: Any) -> Any:
    """Tensors and device arrays as arrays on the host; Python lists of floats as arrays."""
    if isinstance(x, Tensor):
        return to_numpy(x.data)
    if isinstance(x, host.generic):
        return host.asarray(x)
    return to_numpy(x) if backend.is_array(x) else x


def _floating(x: Any) -> bool:
    return isinstance(x, host.ndarray) and x.dtype.kind == "f"


def _seeds(run: Forward, hand: Any, cotangent: Any, seed: int) -> dict[Node, Array]:
    """The cotangents of the outputs: the user's, or random ones."""
    generator = host.random.default_rng(seed)
    tensors = [y for y in run.outputs if y.node is not None]
    if cotangent is None and not callable(hand):
        if any(y.size != 1 for y in run.outputs):
            raise CannotRun(
                f"gradients were given as arrays, and the output of {name_of(run.f)} has shape "
                f"{list(run.outputs[0].shape)}: "
                "pass cotangent=, the upstream gradient that they were computed with (or pass the backward function)"
            )
        return {y.node: host.ones(y.shape, y.dtype) for y in tensors}  # type: ignore[misc]
    if cotangent is None and run.outputs[0].size == 1 and without_upstream(hand, run):
        return {y.node: host.ones(y.shape, y.dtype) for y in tensors}  # type: ignore[misc]
    if cotangent is None:
        return {y.node: _odd(generator, y) for y in tensors}  # type: ignore[misc]
    several = cotangent if isinstance(cotangent, (tuple, list)) else (cotangent,)
    if len(several) != len(run.outputs):
        raise CannotRun(f"{len(several)} cotangents were given for {len(run.outputs)} outputs")
    seeds = {}
    for y, g in zip(run.outputs, several, strict=True):
        g = host.asarray(_host(g), dtype=y.dtype)
        if g.shape != y.shape:
            raise CannotRun(
                f"the cotangent has shape {list(g.shape)}, and the output of {name_of(run.f)} {list(y.shape)}"
            )
        if y.node is not None:
            seeds[y.node] = g
    return seeds


def _odd(generator: Any, y: Tensor) -> Array:
    """A random cotangent without values near zero or one another's negatives."""
    g = generator.normal(size=y.shape)
    return host.asarray(g + 0.1 * host.sign(g), dtype=y.dtype)


def _noise(
    run: Forward, sweep: Sweep, hand: Any, answer: Answer, values: list[Any], outputs: int, keep_dtype: bool
) -> list[float]:
    """What one unit in the last place of the inputs changes in hand-derived minus autodiff: rounding."""
    noise = [0.0] * len(run.leaves)
    generator = host.random.default_rng(11)
    for _ in range(2):
        moved = [
            host.asarray(x * (1 + host.finfo(x.dtype).eps * generator.choice([-1.0, 1.0], x.shape)), x.dtype)
            if _floating(x) else x
            for x in values
        ]  # fmt: skip
        try:
            again = record(run.f, moved, outputs)
            seeds = {
                y.node: sweep.seeds[z.node]  # type: ignore[index]
                for y, z in zip(again.outputs, run.outputs, strict=True) if y.node is not None
            }  # fmt: skip
            other = Sweep(again, seeds)  # type: ignore[arg-type]
            answered = ask(hand, again, list(seeds.values()), [""] * len(noise)) if callable(hand) else answer
        except (CannotRun, KeyError, ValueError):
            return noise
        for k, (a, h) in enumerate(zip(sweep.gradients, answer.gradients, strict=True)):
            b, i = other.gradients[k], answered.gradients[k]
            shift = a - b
            if callable(hand) and h is not None and i is not None and h.shape == i.shape == a.shape:
                shift = (h - a) - (i - b)
            elif callable(hand):
                continue
            with host.errstate(all="ignore"):
                worst = float(host.abs(shift).max(initial=0.0))
            noise[k] = max(noise[k], worst if host.isfinite(worst) else 0.0)
    return noise


# ---- what the check could have caught --------------------------------------------------------------------
def _score(
    report: Report, run: Forward, sweep: Sweep, tolerances: list[Array], f: Any, values: list[Any], hand: Any,
    cotangent: Any, outputs: int, rtol: float, keep_dtype: bool, seed: int,
) -> None:  # fmt: skip
    result: Score | None = mutation_score(run, sweep, tolerances, values, outputs)
    if result is None or not result.visible:
        return
    report.details["mutation score"] = f"{result.caught} of {result.visible} planted mistakes would have been caught"
    if not result.missed:
        return
    by_cotangent = [m for m in result.missed if m.cause == "cotangent"]
    by_inputs = [m for m in result.missed if m.cause == "inputs"]
    if by_cotangent and cotangent is not None:
        message = score_sentence(result, by_cotangent, run, sweep)
        report.findings.append(_vacuous(message, result, by_cotangent, VACUOUS))
    if by_inputs and result.dull:
        again = None
        if callable(hand) and report.ok:
            again = _check(f, result.moved, hand, cotangent, outputs, None, rtol, True, seed, False, False)
        message = score_sentence(result, by_inputs, run, sweep)
        if again is None:
            report.findings.append(_vacuous(message, result, by_inputs, VACUOUS if not callable(hand) else NOTE))
            return
        for finding in again.mistakes:
            said = f"{finding.message} (seen with other values of the inputs than yours: {message})"
            report.findings.append(
                Finding(finding.argument, finding.kind, said, finding.paths, finding.factor, finding.evidence)
            )  # fmt: skip
        if again.ok:
            said = f"{message} The check was repeated at other values, and the gradient is right there too"
            report.findings.append(_vacuous(said, result, by_inputs, NOTE))


def _vacuous(message: str, result: Score, missed: list[Any], severity: str) -> Finding:
    evidence = {"caught": result.caught, "visible": result.visible, "missed": [m.words for m in missed][:20]}
    return Finding("", "vacuous", message, evidence=evidence, severity=severity)
