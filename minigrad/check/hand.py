"""`check_hand_gradient`: a forward function, a backward pass derived by hand, and what is wrong with it.

The forward is recorded and differentiated; the hand-derived gradient is compared with the result in
float64, within a tolerance that is measured: each input is moved by one unit in the last place, and
what that changes is rounding. Where they differ, `explain` looks for the mistake; where they agree,
the mutation score (`mutants`) tells whether the check could have failed at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minigrad import backend
from minigrad.backend import numpy as host
from minigrad.check.asked import Asked
from minigrad.check.calling import steps_of
from minigrad.check.causes import differs, explained, imprecise
from minigrad.check.comparison import Comparison, best
from minigrad.check.findings import not_compared, not_on_tape, of_a_zero, of_one_element, structural_zero
from minigrad.check.forward import record
from minigrad.check.layers import Layer
from minigrad.check.mutants import Mutant, Score, mutation_score, score_sentence
from minigrad.check.repeated import Repeated, require_the_same_twice
from minigrad.check.report import MISTAKE, NOTE, VACUOUS, Finding, Report
from minigrad.check.rounding import of_steps
from minigrad.check.run import CannotRun, computed_in, floating, holding_arrays, name_of, on_host
from minigrad.check.steps import walk

Array = Any


def check_hand_gradient(
    f: Callable[..., Any],
    inputs: Sequence[Any],
    hand: Any,
    cotangent: Any = None,
    *,
    outputs: int | None = None,
    wrt: Sequence[str] | None = None,
    steps: Mapping[str, Any] | None = None,
    rtol: float | None = None,
    keep_dtype: bool = False,
    seed: int = 0,
    score: bool = True,
    budget: float = 10.0,
    progress: bool | None = None,
) -> Report:
    """Compares a hand-derived backward pass with autodiff, and says which path or factor is wrong.

    f:         the forward function, of minigrad ops or of plain NumPy. It may return (out, cache, ...).
    inputs:    its arguments: arrays or Tensors; floating ones are differentiable, anything else is passed on
    hand:      their backward: `hand(g, *inputs)`, or `hand(g, cache)` where f returns a cache; or the
               gradients themselves (an array, a tuple in the order of the inputs, or a dict by name)
    cotangent: the upstream gradient (a tuple for several outputs). By default random, so that nothing
               hides; needed with plain gradients unless f returns one number
    outputs:   how many leading values that f returns have cotangents, `hand(g1, g2, cache)`. By default one,
               or as many as `cotangent` has parts or as hand's signature asks for
    wrt:       the names of the inputs whose gradients `hand` returns. By default of all floating ones
    steps:     hand-derived cotangents of intermediates, by label or by the name of f's local variable.
               `hand` may return them too, in a dict. The first wrong step is then named.
    rtol:      relative tolerance; by default 1e-9 in float64. keep_dtype: compute in the inputs' dtype
               instead of float64. score: measure what the check could have caught
    budget:    seconds of computing that the search for the causes may take, for all gradients together. It goes
               from the likely mistakes to the far-fetched; where it ends early, the report says so.
    progress:  show a bar (by default where the search takes long and the terminal is one)

    Raises CannotRun (a ValueError) where f itself fails or cannot be differentiated. Everything that
    `hand` does wrong is a finding.
    """
    asked = Asked(Repeated(f, hand, wrt), hand, cotangent, outputs, steps, rtol, keep_dtype, seed, budget, progress)
    asked.require_sense()
    with backend.using("numpy"), host.errstate(all="ignore"), asked.f.restored():
        report, comparison = _compared(asked, inputs if isinstance(inputs, (tuple, list)) else (inputs,))
        if score and report.facts:
            _score(report, comparison, asked)
    report.findings.sort(key=lambda finding: (MISTAKE, VACUOUS, NOTE).index(finding.severity))
    return report


def _compared(asked: Asked, inputs: Sequence[Any]) -> tuple[Report, Comparison]:
    """The report but for its mutation score, and the comparison that it is about."""
    own, sure, dtypes = _comparison(asked, inputs)
    wide = _in_float64(asked, own) if asked.keep_dtype else None
    comparison = wide or own
    run, answer, names = comparison.run, comparison.answer, comparison.names
    report = Report(f"hand-derived gradient of {name_of(asked.f)}", list(comparison.findings))
    report.details["computed in"] = dtypes
    if wide is not None:
        report.details["computed in"] += ", and in float64 to tell mistakes from rounding"
        report.findings += _of_the_dtype(own, wide, dtypes)
    if len(run.outputs) > 1 and asked.outputs is None:
        report.details["cotangents"] = f"for the first {len(run.outputs)} values that {name_of(asked.f)} returns"
    for dtype, rounded in comparison.rounded.items():
        said = f"{', '.join(rounded)} by hand computed in {dtype}, so only {dtype}'s digits are compared"
        report.details["precision"] = said
    report.findings += not_on_tape(run, comparison.sweep, own.values, len(run.outputs))
    for name in holding_arrays(run):
        report.details[f"in {name}"] = "arrays, for which no gradients are compared"
    if own.left:
        report.findings.append(not_compared(own.left))
    beside = steps_of(asked.steps)
    steps = answer.steps | beside.steps
    report.findings += beside.findings
    if comparison.findings and all(h is None for h in comparison.hands) and not steps:
        return report, comparison
    _facts(report, own)
    report.findings += of_one_element(run, comparison.sweep)
    if steps:
        rtol = of_steps(asked.rtol, run.leaves[0].dtype, *(step.dtype for step in steps.values()))
        report.findings += walk(run, comparison.sweep, steps, rtol)
    if comparison.wrong and comparison.finite:
        causes, ended = explained(comparison, asked.progress, asked.budget)
        report.findings += causes
        if ended:
            late = ", ".join(f"d{names[k]}" for k in ended)
            report.details["search"] = f"ended early for {late}, after {asked.budget:g} s in all (budget=)"
    else:
        because = "no cause is looked for where numbers of the reverse pass are not finite"
        report.findings += [differs(comparison, k, because) for k in comparison.wrong]
    if not sure and (comparison.right or any(f.kind in ("unexplained", "raised") for f in report.findings)):
        message = (
            f"{name_of(asked.hand)} was called with the cotangents of {len(run.outputs)} of the values that "
            f"{name_of(asked.f)} returns; where it takes more or fewer, pass outputs="
        )
        report.findings.append(Finding("", "way of calling", message, severity=NOTE))
    return report, comparison


def _comparison(asked: Asked, inputs: Sequence[Any]) -> tuple[Comparison, bool, str]:
    """The comparison at some inputs, whether `hand` could be called in one way only, and the dtype in words.

    It is made again where the answer shows gradients of more than was taken for inputs: of numbers, or of what a layer
    keeps.
    """
    given = [on_host(x) for x in inputs]
    if not any(map(floating, given)):
        given = [host.asarray(x) if isinstance(x, float) else x for x in given]
    values, narrow = computed_in(given, asked.keep_dtype)
    kept = asked.keep_dtype
    try:
        run = record(asked.f, values, asked.parts)
    except CannotRun as error:
        if not narrow or kept or "different floating dtypes" not in str(error):
            raise
        run, values, kept = record(asked.f, given, asked.parts), given, True
    for k, leaf in enumerate(run.leaves):
        if host.isnan(leaf.data).any():
            raise CannotRun(f"the input {run.leaf_name(k)} holds NaN: no gradient could be compared")
    require_the_same_twice(run, len(run.outputs))
    comparison, sure = best(run, values, asked)
    if numbers := comparison.answer.numbers:  # they are not settings: the hand has gradients for them
        with contextlib.suppress(CannotRun):
            arrays = [host.asarray(x, host.float64) if i in numbers else x for i, x in enumerate(given)]
            return _comparison(asked, arrays)
    if not run.kept and callable(asked.hand) and (parameters := asked.f.parameters(run.input_names)):
        asked.f.layer = Layer(parameters)
        return _comparison(asked, [*given, *asked.f.layer.values])
    dtypes = str(run.leaves[0].dtype) + (f" (inputs: {', '.join(narrow)})" if narrow and not kept else "")
    return comparison, sure, dtypes


def _in_float64(asked: Asked, narrow: Comparison) -> Comparison | None:
    """The same comparison in float64; None where it is in it, or where f or the hand cannot compute in it."""
    if not callable(asked.hand) or all(x.dtype == host.float64 for x in narrow.values if floating(x)):
        return None
    values = [x.astype(host.float64) if floating(x) else x for x in narrow.values]
    try:
        run = record(asked.f, values, len(narrow.run.outputs))
        wide = Comparison(run, values, asked)
    except CannotRun:
        return None
    return wide if all(wide.comparable(k) for k in range(len(wide.names)) if narrow.comparable(k)) else None


def _of_the_dtype(narrow: Comparison, wide: Comparison, dtype: str) -> list[Finding]:
    """What is wrong in a narrow dtype and right in float64: no mistake in the derivation, and no proof either."""
    seen = {(finding.kind, finding.argument) for finding in wide.findings}
    new = [finding for finding in narrow.findings if (finding.kind, finding.argument) not in seen]
    text = f". In float64 it is not so: {dtype} is too narrow here"
    found = [replace(finding, message=finding.message + text, severity=VACUOUS) for finding in new]
    for k, name in enumerate(narrow.names):
        if k in wide.wrong or not narrow.comparable(k) or any(finding.argument == name for finding in new):
            continue
        off = narrow.gap(k) > narrow.rounding.of_dtype(k)
        if k in narrow.wrong or off.any():
            found.append(imprecise(narrow, k, dtype, off, VACUOUS if k in narrow.wrong else NOTE))
    return found


def _facts(report: Report, comparison: Comparison) -> None:
    """The numbers about each gradient, and a note on one that must be zero."""
    for k, (name, a, sizes) in enumerate(
        zip(comparison.names, comparison.sweep.gradients, comparison.sizes, strict=True)
    ):
        size, norm = float(host.sqrt((sizes**2).sum())), float(host.sqrt((a * a).sum()))
        fact = {"|gradient|": norm, "|path terms|": size}
        if size:
            fact["cancellation"] = size / norm if norm else float("inf")
        report.absolute[name] = sizes
        if structural_zero(a, sizes):
            report.findings.append(of_a_zero(name, a, sizes))
        if comparison.comparable(k):
            report.maps[name] = (comparison.hands[k], a)
            fact["largest difference"] = float(comparison.gap(k).max(initial=0.0))
            fact["tolerance"] = float(host.max(comparison.tolerances[k], initial=0.0))
        report.facts[name] = fact


# ---- what the check could have caught --------------------------------------------------------------------
def _score(report: Report, comparison: Comparison, asked: Asked) -> None:
    """Puts the mutation score into the report, and a finding where it says that the check proves little."""
    run, sweep = comparison.run, comparison.sweep
    if not any(g.any() for g in sweep.gradients):
        message = "every gradient is zero here, and no mistake could show: choose other inputs or another cotangent"
        if not any(y.size for y in run.outputs):
            message = f"the output has no elements (its shape is {list(run.outputs[0].shape)}), so nothing was compared"
        report.findings.append(Finding("", "vacuous", message, severity=VACUOUS))
        return
    if not comparison.finite:
        return
    result = mutation_score(run, sweep, comparison.tolerances, comparison.values, len(run.outputs))
    if not result.visible:
        return
    report.details["mutation score"] = f"{result.caught} of {result.visible} planted mistakes would have been caught"
    missed: dict[str, list[Mutant]] = {}
    for mutant in result.missed:
        missed.setdefault(mutant.cause, []).append(mutant)
    for cause in ("tolerance", "cotangent", "reduction"):
        if cause in missed:
            message = score_sentence(result, missed[cause], asked.cotangent is not None, asked.rtol is not None)
            report.findings.append(_vacuous(message, result, missed[cause], VACUOUS))
    if "inputs" in missed and result.dull:
        message = score_sentence(result, missed["inputs"])
        if not callable(asked.hand) or not report.ok:
            severity = NOTE if callable(asked.hand) else VACUOUS
            report.findings.append(_vacuous(message, result, missed["inputs"], severity))
            return
        elsewhere = replace(asked, outputs=len(run.outputs), steps=None, keep_dtype=True, progress=False)
        again = _compared(elsewhere, result.moved)[0]
        for finding in again.mistakes:
            said = f"{finding.message} (seen with other values of the inputs than yours: {message})"
            report.findings.append(replace(finding, message=said))
        if again.ok:
            said = f"{message} The check was repeated at other values, and the gradient is right there too"
            report.findings.append(_vacuous(said, result, missed["inputs"], NOTE))


def _vacuous(message: str, result: Score, missed: list[Mutant], severity: str) -> Finding:
    evidence = {"caught": result.caught, "visible": result.visible, "missed": [m.words for m in missed][:20]}
    return Finding("", "vacuous", message, evidence=evidence, severity=severity)
