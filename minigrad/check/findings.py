"""What a check finds before any cause is looked for, as `Finding`s: on the form of a gradient, zeros, the tape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.forward import record
from minigrad.check.numbers import STATISTICS, together
from minigrad.check.rearranged import choices, reshaped
from minigrad.check.report import NOTE, VACUOUS, Finding
from minigrad.check.run import CannotRun, Run, name_of
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


def of_one_element(run: Run, sweep: Sweep) -> list[Finding]:
    """A note on statistics that are taken over one element each, where a batch or a layer has only one."""
    statistics = (node for node in sweep.steps(*STATISTICS) if node.inputs[0] is not None)
    alone = [run.describe(node) for node in statistics if together(node) == 1]
    if not alone:
        return []
    words = ", ".join(dict.fromkeys(alone[:3])) + (" and others" if len(set(alone)) > 3 else "")
    message = (
        f"{words}: taken over one element each, as an axis has length 1. Mistakes in what is summed or averaged there "
        "do not show, or cannot be told from others: check with two or more too"
    )
    return [Finding("", "one element", message, severity=NOTE)]


def of_a_shape(run: Run, sweep: Sweep, k: int, h: Array, tol: Array) -> Finding:
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
    run: Run, sweep: Sweep, a: Array, h: Array, close: Callable[[Array, Array], bool]
) -> Iterator[tuple[str, str]]:
    """What a gradient of a wrong shape may be, as `reshaped` tells it: another cotangent, or a sum over other axes."""
    for node, g in sorted(sweep.cotangents.items(), key=lambda item: item[1] is not a):
        upstream = node in sweep.seeds
        what = "the upstream gradient" if upstream else f"the cotangent of {run.describe(node)}{run.where(node)}"
        if close(h, g) and not upstream:
            yield "derivative left out", f"it is {what}"
        by_hand, right = (
            [list(axes) for axes in choices(range(g.ndim)) if close(x.squeeze(), g.sum(axes).squeeze())]
            for x in (h, a)
        )
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


def not_on_tape(run: Run, sweep: Sweep, values: list[Any], outputs: int) -> list[Finding]:
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
