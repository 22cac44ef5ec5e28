"""What is told of wrong gradients, as `Finding`s: the mistakes behind them, or where they differ.

A mistake that explains several gradients is told once; a gradient that none explains is told as unexplained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.case import Explanation
from minigrad.check.comparison import Comparison
from minigrad.check.explain import explain
from minigrad.check.report import Finding, told_apart
from minigrad.check.run import Run

Array = Any


def explained(comparison: Comparison, progress: bool | None, budget: float) -> tuple[list[Finding], list[int]]:
    """The explanations of all wrong gradients, and the numbers of those whose search ended early.

    budget: seconds of computing for all of them
    """
    names, wrong = comparison.names, comparison.wrong
    bar = _bar(progress, len(wrong), comparison.run)
    found, ended = explain(comparison.sweep, comparison.hands, comparison.tolerances, wrong, budget, bar)
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
            findings.append(_told(explanation, [names[k] for k in chosen], others, comparison, found, chosen))
            left = [k for k in left if k not in chosen]
        else:
            k = left.pop(0)
            because = "none of the mistakes known here explains it"
            if k in ended:
                because = f"none of the mistakes tried in {budget:g} s explains it (budget= sets how long is searched)"
            findings.append(differs(comparison, k, because))
    return findings, ended


def in_words(message: str, names: list[str]) -> str:
    """The sentence about one gradient or several."""
    many = len(names) > 1
    d = ", ".join(f"d{n}" for n in names[:-1]) + f" and d{names[-1]}" if many else f"d{names[0]}"
    verbs = {
        "is": ("is", "are"), "has": ("has", "have"), "lacks": ("lacks", "lack"), "equals": ("equals", "equal"),
        "ignores": ("ignores", "ignore"), "uses": ("uses", "use"), "leaves": ("leaves", "leave"),
    }  # fmt: skip
    for verb, forms in verbs.items():
        message = message.replace(f"<{verb}>", forms[many])
    return message.replace("<d>", d)


def _told(
    e: Explanation, names: list[str], others: list[Explanation], comparison: Comparison,
    found: dict[int, list[Explanation]], ks: list[int],
) -> Finding:  # fmt: skip
    evidence: dict[str, Any] = dict(e.evidence)
    evidence["worst"] = [row for k in ks for row in _worst(comparison, k, 3 if len(ks) == 1 else 1)]
    if others:
        evidence["the same numbers would come of"] = [in_words(o.message, names) for o in others]
    message = in_words(e.message, names) + (_indistinct(comparison, ks) if others else "")
    if e.key == ("swapped",):
        held = [next(other.paths[0] for other in found[k] if other.key == e.key) for k in ks]
        each = ", ".join(f"d{name} holds autodiff's d{other}" for name, other in zip(names, held, strict=True))
        message = f"the gradients are returned in another order: {each}" if set(held) == set(names) else each
    return Finding(", ".join(names), e.kind, message, e.paths, e.factor, evidence)


def _indistinct(comparison: Comparison, ks: list[int]) -> str:
    """What to choose larger, where axes of length 1 make several mistakes come to the same."""
    shapes = {comparison.names[k]: comparison.run.leaves[k].shape for k in ks}
    if any(shape and 1 not in shape for shape in shapes.values()):
        return ""
    name, shape = next(iter(shapes.items()))
    if math.prod(shape) == 1:
        return f" (or something else of this one number: more elements of {name} would tell)"
    return f" (or something else of the same numbers: {name}.shape[{shape.index(1)}] above 1 may tell)"


def _worst(comparison: Comparison, k: int, many: int = 3) -> list[dict[str, Any]]:
    """The elements that differ most."""
    h, a, gap = comparison.hands[k], comparison.sweep.gradients[k], comparison.gap(k).reshape(-1)
    assert h is not None
    rows = []
    for flat in host.argsort(-gap)[:many]:
        if not gap[flat]:
            break
        index = tuple(int(i) for i in host.unravel_index(int(flat), a.shape)) if a.ndim else ()
        mine, right = float(h[index]), float(a[index])
        ratio = mine / right if right else float("inf")
        rows.append(
            {"gradient": f"d{comparison.names[k]}", "index": index, "hand": mine, "autodiff": right, "ratio": ratio}
        )
    return rows


def differs(comparison: Comparison, k: int, because: str) -> Finding:
    """Where the difference is, and no guess at its cause."""
    h, a, name = comparison.hands[k], comparison.sweep.gradients[k], comparison.names[k]
    assert h is not None
    off = comparison.gap(k) > comparison.tolerances[k]
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
    evidence = {"worst": _worst(comparison, k), "different": int(off.sum())}
    return Finding(name, "unexplained", message, evidence=evidence)


def imprecise(comparison: Comparison, k: int, dtype: str, off: Array, severity: str) -> Finding:
    """A gradient that is right in float64, and in a narrow dtype (at the elements `off`) further off than it rounds."""
    name = comparison.names[k]
    message = (
        f"d{name} is right in float64; in {dtype} it differs from autodiff in {int(off.sum())} of {off.size} elements "
        f"by more than {dtype} rounds: numbers overflow, vanish or cancel on the way"
    )
    return Finding(name, "precision", message, evidence={"worst": _worst(comparison, k)}, severity=severity)


def _bar(progress: bool | None, total: int, run: Run) -> Callable[[], None]:
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
