"""What a check finds, as `Finding`s: sentences about one gradient or several, with their evidence.

A wrong gradient is explained by `explain`, or told as unexplained with the places where it differs; a mistake that
explains several gradients is told once.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.explain import Explainer
from minigrad.check.forward import CannotRun, Forward, name_of, record
from minigrad.check.numbers import STATISTICS, together
from minigrad.check.rearranged import reshaped
from minigrad.check.report import NOTE, VACUOUS, Finding, told_apart
from minigrad.check.suspicion import Explanation
from minigrad.check.sweep import Sweep

Array = Any


def structural_zero(a: Array, sizes: Array) -> bool:
    """Whether a gradient is nothing but what rounding leaves of terms that cancel."""
    scale = float(host.sqrt((sizes**2).sum()))
    return a.size > 0 and 0 < scale < host.inf and float(host.sqrt((a * a).sum())) <= 1e-11 * scale


def of_a_zero(name: str, a: Array, sizes: Array) -> Finding:
    """A note on a gradient that is a `structural_zero`."""
    norm, scale = float(host.sqrt((a * a).sum())), float(host.sqrt((sizes**2).sum()))
    cancellation = scale / norm if norm else float("inf")
    message = (
        f"d{name} must be zero: its path terms (of size {scale:.3g}) cancel, and what is left ({norm:.1e}) is "
        f"rounding. Cancellation factor {cancellation:.1e}"
    )
    evidence = {"absolute contributions": scale, "gradient": norm, "cancellation": cancellation}
    return Finding(name, "structural zero", message, evidence=evidence, severity=NOTE)


def of_one_element(run: Forward, sweep: Sweep) -> list[Finding]:
    """A note on statistics that are taken over one element each, where a batch or a layer has only one."""
    alone = [
        run.describe(node) for node in run.order
        if node in sweep.cotangents and node.primitive is not None and node.primitive.name in STATISTICS
        and node.inputs[0] is not None and together(node) == 1
    ]  # fmt: skip
    if not alone:
        return []
    words = ", ".join(dict.fromkeys(alone[:3])) + (" and others" if len(set(alone)) > 3 else "")
    message = (
        f"{words}: taken over one element each, as an axis has length 1. Mistakes in what is summed or averaged there "
        "do not show, or cannot be told from others: check with two or more too"
    )
    return [Finding("", "one element", message, severity=NOTE)]


def of_a_shape(run: Forward, sweep: Sweep, k: int, h: Array, tol: Array) -> Finding:
    """A gradient of another shape than its input: what it is, or how to sum or rearrange it, where that is known."""
    name, a = run.leaf_name(k), sweep.gradients[k]
    size = max(float(host.abs(g).max(initial=0.0)) for g in sweep.gradients)
    reach = float(host.max(tol, initial=0.0)) * 3 + 1e-9 * size

    def close(one: Array, other: Array) -> bool:
        return one.shape == other.shape and bool((host.abs(one - other) <= reach).all())

    head = f"d{name} has shape {list(h.shape)}, and {name} {list(a.shape)}"
    evidence = {"shape": h.shape, "needed": a.shape}
    for j, other in enumerate(sweep.gradients):
        if j != k and close(h, other):
            message = f"{head}: it holds autodiff's d{run.leaf_name(j)}; are the gradients returned in another order?"
            return Finding(name, "swapped", message, (run.leaf_name(j),), evidence=evidence)
    why = reshaped(h, a, lambda candidate: bool((host.abs(candidate - a) <= reach).all()))
    if why is None:
        why = next(_what_else(run, sweep, a, h, close), None)
    kind, words = why or ("shape", "summed or rearranged, it does not become autodiff's gradient either")
    return Finding(name, kind, f"{head}: {words}", evidence=evidence)


def _what_else(
    run: Forward, sweep: Sweep, a: Array, h: Array, close: Callable[[Array, Array], bool]
) -> Iterator[tuple[str, str]]:
    """What a gradient of a wrong shape may be, as `reshaped` tells it: another cotangent, or a sum over other axes."""
    for node, g in sorted(sweep.cotangents.items(), key=lambda item: item[1] is not a):
        upstream = node in sweep.seeds
        what = "the upstream gradient" if upstream else f"the cotangent of {run.describe(node)}{run.where(node)}"
        if close(h, g) and not upstream:
            yield "derivative left out", f"it is {what}"
        chosen = [c for many in range(1, g.ndim + 1) for c in itertools.combinations(range(g.ndim), many)]
        by_hand, right = (
            [list(axes) for axes in chosen if close(x.squeeze(), g.sum(axes).squeeze())] for x in (h, a)
        )  # fmt: skip
        if by_hand and g is a:
            yield "shape", f"it is autodiff's gradient summed over axes {by_hand[0]}, which are axes of its own"
        elif by_hand and right:
            yield "wrong axes", f"it is {what} summed over axes {by_hand[0]}, and has to be summed over {right[0]}"


def of_nan(name: str, h: Array, bad: Array) -> Finding:
    """A gradient that is not finite (at the elements `bad`) where autodiff's is."""
    first = tuple(int(i) for i in host.argwhere(bad)[0])
    message = (
        f"d{name} holds {int(bad.sum())} values that are NaN or infinite, the first at {list(first)}; "
        f"autodiff's are finite"
    )
    return Finding(name, "not finite", message, evidence={"index": first})


def of_no_derivative(name: str, h: Array, a: Array) -> Finding:
    """Where autodiff's gradient is not finite: a note, if the hand-derived one is not either and something is left."""
    none = ~host.isfinite(a)
    first = tuple(int(i) for i in host.argwhere(none)[0])
    head = (
        f"autodiff's d{name} holds {int(none.sum())} values that are NaN or infinite, the first at {list(first)}: no "
        f"derivative exists there (a root, a logarithm or a quotient at 0?)"
    )
    alike = not host.isfinite(h[none]).any()
    if alike and not none.all():
        return Finding(name, "no derivative", f"{head}, and by hand they are not finite either", severity=NOTE)
    message = f"{head}, and there is nothing to compare with. Choose other inputs"
    return Finding(name, "no derivative", message, evidence={"index": first}, severity=VACUOUS)


def not_on_tape(run: Forward, sweep: Sweep, values: list[Any], outputs: int) -> list[Finding]:
    """Where values left the tape: does the forward's own slope show that something is missing?"""
    if not run.escapes:
        return []
    generator = host.random.default_rng(5)
    u = [generator.normal(size=x.shape) for x in run.leaves]
    scale = max(float(host.abs(x.data).max(initial=0.0)) for x in run.leaves) or 1.0
    h = 1e-6 * scale
    slopes = []
    for sign in (1, -1):
        moved = list(values)
        for k, i in enumerate(run.differentiable):
            moved[i] = values[i] + sign * h * u[k]
        try:
            again = record(run.f, moved, outputs)
        except CannotRun:
            return []
        slopes.append(
            sum(
                float((sweep.seeds[y.node] * z.data).sum())
                for y, z in zip(run.outputs, again.outputs, strict=True)
                if y.node in sweep.seeds
            )
        )
    slope = (slopes[0] - slopes[1]) / (2 * h)
    tape = sum(float((a * d).sum()) for a, d in zip(sweep.gradients, u, strict=True))
    size = sum(float(host.abs(a * d).sum()) for a, d in zip(sweep.gradients, u, strict=True))
    where = "; ".join(dict.fromkeys(run.escapes))
    if abs(slope - tape) > 1e-4 * (size + abs(slope)):
        message = (
            f"the tape does not see all of {name_of(run.f)}: {where}. Autodiff takes it for a constant, and "
            f"its gradient is not the function's"
        )
        return [Finding("", "left the tape", message, evidence={"slope": slope, "by the tape": tape})]
    return [Finding("", "left the tape", f"{where}. It makes no difference to the gradient here", severity=NOTE)]


def not_compared(names: list[str]) -> Finding:
    """A note on gradients that a backward left in attributes of arrays that are not found."""
    message = (
        f"the backward also leaves {', '.join(names)}, not compared: no array of that name (W for dW) is kept there. "
        "To have it compared, make the array an argument of the forward and return its gradient"
    )
    return Finding("", "not compared", message, severity=NOTE)


def explained(
    explainer: Explainer, wrong: list[int], names: list[str], progress: bool | None, budget: float
) -> list[Finding]:
    """For each wrong gradient its explanation; one that explains several is told once.

    budget: seconds of computing for all of them
    """
    bar = _bar(progress, len(wrong), explainer.case.run)
    found: dict[int, list[Explanation]] = {}
    until = time.thread_time() + budget
    for number, k in enumerate(wrong):
        found[k] = explainer.explain(k, (until - time.thread_time()) / (len(wrong) - number))
        bar()
    if explainer.needed and len(wrong) > 1:
        for k in wrong:
            known = {explanation.key for explanation in found[k]}
            found[k] += [e for e in explainer.beside(k, until - time.thread_time()) if e.key not in known]
    findings: list[Finding] = []
    left = list(wrong)
    while left:
        options: dict[Any, list[int]] = {}
        for k in left:
            for explanation in found[k]:
                options.setdefault(explanation.key, []).append(k)
        options = {key: list(dict.fromkeys(ks)) for key, ks in options.items()}

        def cost(key: Any, options: dict[Any, list[int]] = options) -> float:
            ranks = [min(e.rank for e in found[k] if e.key == key) for k in options[key]]
            best = [found[k][0].rank for k in options[key]]
            return sum(r - b for r, b in zip(ranks, best, strict=True)) / len(ranks) - 1.5 * (len(ranks) - 1)

        if options:
            key = min(options, key=cost)
            chosen = options[key]
            explanation = min((e for k in chosen for e in found[k] if e.key == key), key=lambda e: e.rank)
            others = [e for e in found[chosen[0]] if e.key != key][:4]
            findings.append(_told(explanation, [names[k] for k in chosen], others, explainer, chosen, found))
            left = [k for k in left if k not in chosen]
        else:
            k = left.pop(0)
            because = "none of the mistakes known here explains it"
            if k in explainer.ended:
                because = f"none of the mistakes tried in {budget:g} s explains it (budget= sets how long is searched)"
            findings.append(differs(explainer, k, names[k], because))
    return findings


def in_words(message: str, names: list[str]) -> str:
    """The sentence about one gradient or several."""
    many = len(names) > 1
    d = ", ".join(f"d{n}" for n in names[:-1]) + f" and d{names[-1]}" if many else f"d{names[0]}"
    verbs = {
        "is": ("is", "are"), "has": ("has", "have"), "lacks": ("lacks", "lack"), "equals": ("equals", "equal"),
        "ignores": ("ignores", "ignore"), "uses": ("uses", "use"), "leaves": ("leaves", "leave"),
    }  # fmt: skip
    for verb, forms in verbs.items():
        message = message.replace("{" + verb + "}", forms[many])
    return message.replace("{d}", d)


def _told(
    e: Explanation, names: list[str], others: list[Explanation], explainer: Explainer, ks: list[int],
    found: dict[int, list[Explanation]],
) -> Finding:  # fmt: skip
    evidence: dict[str, Any] = dict(e.evidence)
    evidence["worst"] = [row for k in ks for row in _worst(explainer, k, 3 if len(ks) == 1 else 1)]
    if others:
        evidence["the same numbers would come of"] = [in_words(o.message, names) for o in others]
    message = in_words(e.message, names) + (_indistinct(explainer, ks) if others else "")
    if e.key == ("swapped",):
        held = [next(other.paths[0] for other in found[k] if other.key == e.key) for k in ks]
        each = ", ".join(f"d{name} holds autodiff's d{other}" for name, other in zip(names, held, strict=True))
        message = f"the gradients are returned in another order: {each}" if set(held) == set(names) else each
    return Finding(", ".join(names), e.kind, message, e.paths, e.factor, evidence)


def _indistinct(explainer: Explainer, ks: list[int]) -> str:
    """What to choose larger, where axes of length 1 make several mistakes come to the same."""
    for k in ks:
        name, shape = explainer.case.run.leaf_name(k), explainer.case.run.leaves[k].shape
        if math.prod(shape) == 1:
            return f" (or something else of this one number: more elements of {name} would tell)"
        if 1 in shape:
            return f" (or something else of the same numbers: {name}.shape[{shape.index(1)}] above 1 may tell)"
    return ""


def _worst(explainer: Explainer, k: int, many: int = 3) -> list[dict[str, Any]]:
    """The elements that differ most."""
    h, a = explainer.case.hand[k], explainer.case.sweep.gradients[k]
    assert h is not None
    gap = host.where(host.isfinite(a), host.abs(h - a), 0.0).reshape(-1)
    rows = []
    for flat in host.argsort(-gap)[:many]:
        if not gap[flat]:
            break
        index = tuple(int(i) for i in host.unravel_index(int(flat), a.shape)) if a.ndim else ()
        mine, right = float(h[index]), float(a[index])
        rows.append(
            {
                "gradient": f"d{explainer.case.run.leaf_name(k)}",
                "index": index,
                "hand": mine,
                "autodiff": right,
                "ratio": mine / right if right else float("inf"),
            }
        )
    return rows


def differs(explainer: Explainer, k: int, name: str, because: str) -> Finding:
    """Where the difference is, and no guess at its cause."""
    h, a, tol = explainer.case.hand[k], explainer.case.sweep.gradients[k], explainer.case.tolerances[k]
    assert h is not None
    off = (host.abs(h - a) > tol) & host.isfinite(a)
    worst = _worst(explainer, k)
    first = tuple(int(i) for i in host.argwhere(off)[0]) if a.ndim else ()
    places = []
    for axis in range(a.ndim):
        hit = host.flatnonzero(off.any(axis=tuple(i for i in range(a.ndim) if i != axis)))
        if len(hit) < a.shape[axis] and len(hit) <= 6:
            places.append(f"only at {[int(i) for i in hit]} of axis {axis}")
    mine, right = told_apart(float(h[first]), float(a[first]))
    message = (
        f"d{name} differs from autodiff in {int(off.sum())} of {a.size} "
        f"elements{' (' + ', '.join(places) + ')' if places else ''}, "
        f"and {because}. The first is at {list(first)}: {mine} by hand, {right} by autodiff. "
        "To find the step, return the intermediates' cotangents in a dict too"
    )
    return Finding(name, "unexplained", message, evidence={"worst": worst, "different": int(off.sum())})


def imprecise(explainer: Explainer, k: int, name: str, dtype: str, off: Array, severity: str) -> Finding:
    """A gradient that is right in float64, and in a narrow dtype (at the elements `off`) further off than it rounds."""
    message = (
        f"d{name} is right in float64; in {dtype} it differs from autodiff in {int(off.sum())} of {off.size} elements "
        f"by more than {dtype} rounds: numbers overflow, vanish or cancel on the way"
    )
    return Finding(name, "precision", message, evidence={"worst": _worst(explainer, k)}, severity=severity)


def _bar(progress: bool | None, total: int, run: Forward) -> Callable[[], None]:
    """Shows progress where it is wanted, or where it will take long on a terminal."""
    long = sum(node.primitive is not None for node in run.order) * max(v.size for v in run.values.values()) > 5e6
    if progress is False or (progress is None and not long):
        return lambda: None
    try:
        from tqdm import tqdm
    except ImportError:
        return lambda: None
    bar = tqdm(total=total, desc="explaining", leave=False, disable=None if progress is None else False)

    def step() -> None:
        bar.update()
        if bar.n >= total:
            bar.close()

    return step
