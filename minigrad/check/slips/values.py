"""Mistakes in what is multiplied: factors, one value taken for another, two exchanged."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.case import LOCAL, PLAIN, Case, Explanation
from minigrad.check.numbers import is_name
from minigrad.check.rearranged import fitted, rearrangements
from minigrad.check.run import op_of
from minigrad.check.sweep import Array
from minigrad.ops import sum_to
from minigrad.paths import pull
from minigrad.tape import Node

TURNED = " transposed"


def factors(case: Case) -> Iterator[Explanation]:
    """Off by a named array: the whole gradient, or what passes one site."""
    for factor, value in case.clues.forms:
        value = fitted(value, case.a.shape)
        for sign, also in ((1.0, ""), (-1.0, " and has the wrong sign")):
            if value is not None and case.fits(sign * case.a * value):
                rank, message = PLAIN + 0.1 + 0.15 * (1 - sign) + factor.doubt, factor.sentence("<d>") + also
                yield Explanation(("whole", factor.short, sign), rank, "factor", message, factor=factor.short)
    divisors = {n.inputs[1] for n in case.run.order if op_of(n) == "divide"}
    named = [(text, v, n) for text, v, n in case.clues.values if is_name(text) and v.dtype.kind == "f" and v.all()]
    fit = [(text, v, n in divisors) for text, value, n in named if (v := fitted(value, case.a.shape)) is not None]
    for (one, v1, divides), (other, v2, _) in itertools.permutations(fit, 2):
        if case.fits(case.a * (v1 / v2)):
            used, meant = (other, one) if divides else (one, other)
            message = f"<d> <has> a factor {one}/{other} too many: is {used} used where {meant} is meant?"
            names = (one.strip("`"), other.strip("`"))
            yield Explanation(("ratio", one, other), LOCAL + 0.3, "mistaken value", message, names, f"{one}/{other}")
    for site, _ in case.weights:
        source, c = case.sweep.landing(site)
        for factor, value in case.likely(source, c):
            if case.confirmed(source, c * value - c):
                message = f"in <d> {factor.sentence(case.path_words(site))}"
                rank = LOCAL + 0.2 + case.believed(site) + factor.doubt + 0.2 * (not factor.plain)
                yield case.at(site, ("factor", site, factor.short), rank, "factor", message, factor.short)


def mistaken(case: Case) -> Iterator[Explanation]:
    """A value used where another was meant, and a value transposed, flipped or negated."""
    for node in case.sweep.steps():
        row, g = node.primitive, case.sweep.cotangents[node]
        assert row is not None
        if row.joint is not None or not row.lifts:
            continue
        for place, number, held in _slots(node.residuals):
            if not isinstance(held, host.ndarray) or held.dtype.kind not in "fb":
                continue
            meant = _meant(case, node, row.lifts[place] if number is None else number)
            for text, other, source in _candidates(case, node, held, g):
                if source is not None and text == meant:
                    continue
                values = list(node.residuals)
                if number is None:
                    values[place] = other
                else:
                    values[place] = [*values[place][:number], other, *values[place][number + 1 :]]
                try:
                    wrong = {i: c for i, _, c in pull(node, g, False, case.sweep.needed, values)}
                except (ValueError, TypeError, IndexError):
                    continue
                if held.dtype.kind == "b" and len(wrong) > 1:
                    yield from _all_at_once(case, node, wrong, text)
                for i, target, right in case.sweep.terms(node):
                    if wrong[i].shape == right.shape and case.confirmed(target, wrong[i] - right):
                        yield _told(case, node, (place, number), text, meant, source)


def _told(
    case: Case, node: Node, slot: tuple[int, int | None], text: str, meant: str, source: Node | None
) -> Explanation:
    """The sentence for a value that stands for another in the derivative of a step."""
    turned = text.endswith(TURNED) and meant.endswith(TURNED)
    used, needed = (w.removesuffix(TURNED) if turned else w for w in (text, meant))
    message = f"<d> <uses> {used} where {needed} is meant, in the derivative of {case.run.place(node)}"
    later = source is not None and source.serial > node.serial
    rank = LOCAL + _doubt(text, meant) + 0.3 * later
    told = case.at(node, ("mistaken", node, *slot, text), rank, "mistaken value", message)
    return replace(told, paths=(text.strip("`"), meant.strip("`")))


def _doubt(used: str, meant: str) -> float:
    """How much less one value in place of another is believed than a slip in one letter."""
    if is_name(used) and is_name(meant):
        return 0.15
    if used == f"minus {meant}":
        return 0.1
    if meant.strip("`") in re.findall(r"[\w.]+", used):  # such as `1 - z` for `z`
        return 0.25
    return 0.4 + 0.3 * (not is_name(meant)) + 0.5 * (not is_name(used))


def _all_at_once(case: Case, node: Node, wrong: Mapping[int, Array], text: str) -> Iterator[Explanation]:
    """A condition that is wrong for all branches that it chooses from."""
    deltas: dict[Node, Array] = {}
    for i, c in wrong.items():
        target, delta = node.inputs[i], c - case.sweep.edges[node, i]
        assert target is not None
        deltas[target] = deltas[target] + delta if target in deltas else delta
    if _both(case, deltas):
        message = f"<d> <uses> {text} in {case.run.place(node)}"
        yield case.at(node, ("condition", node), LOCAL, "mistaken value", message)


def _meant(case: Case, node: Node, origin: int | None) -> str:
    """What the backward pass needs there, in words."""
    if origin == -1:
        return case.run.describe(node)
    if origin is not None and origin >= 0:
        source = node.inputs[origin]
        if source is not None:
            below = source.inputs[0] if source not in case.run.names and source.inputs else None
            if below in case.run.names and op_of(source) == "transpose":
                return case.run.describe(below) + TURNED  # type: ignore[arg-type]
            return case.run.describe(source)
        return case.run.argument(node, origin) or "another value"
    return "another value"


def _candidates(case: Case, node: Node, held: Array, upstream: Array) -> Iterator[tuple[str, Array, Node | None]]:
    """What could have been used in place of a value: others of its shape, and itself rearranged."""
    if held.dtype.kind == "b":
        yield "the condition inverted", ~held, None
        return
    for text, value, source in case.clues.near(node):
        if value.dtype.kind == "f" and value is not held:
            shaped = fitted(value, held.shape)
            if shaped is not None:
                yield text, host.broadcast_to(shaped, held.shape), source
            turned = value.swapaxes(-1, -2) if value.ndim == held.ndim > 1 and is_name(text) else None
            if turned is not None and turned.shape == held.shape:
                yield text + TURNED, turned, source
    itself = next((text for text, value, _ in case.clues.values if value is held), case.run.constant(held)) or "a value"
    for words, moved in rearrangements(held):
        if moved.shape == held.shape:
            yield f"{itself} {words}", moved, None
    yield f"minus {itself}", -held, None
    if upstream.shape == held.shape:
        yield "the cotangent that arrives", upstream, None
    if ((held == 0) | (held == held.max(initial=0.0))).all():
        yield f"{itself} with its zeros where it has none", held.max(initial=0.0) - held, None
        same = [(text, value, source) for text, value, source in case.clues.near(node) if value.shape == held.shape]
        yield from ((f"{text} > 0", (value > 0) * held.max(initial=0.0), source) for text, value, source in same)
    if (held > 0).all():
        yield f"the square of {itself}", held * held, None
        yield f"the root of {itself}", host.sqrt(held), None


def too_late(case: Case) -> Iterator[Explanation]:
    """A factor of a product that multiplies the finished gradient instead of the cotangent it belongs to."""
    for node in case.sweep.steps("multiply"):
        g = case.sweep.cotangents[node]
        for i, source, c in case.sweep.terms(node):
            value = fitted(host.asarray(case.run.arguments[node][1 - i]), case.a.shape)
            if value is None:
                continue
            passed = g if g.shape == source.shape else sum_to(g, source.shape)
            without = case.a + case.sweep.at_leaf(case.sweep.down({source: passed - c}), case.k)
            if case.fits(without * value):
                words = case.run.argument(node, 1 - i) or "a constant"
                message = f"<d> <has> the factor {words} applied too late: it belongs to the cotangent that enters "
                message += f"{case.run.describe(node)}, before the sums{case.run.where(node)}"
                yield case.at(node, ("late", node, i), LOCAL + 0.3, "factor too late", message, words)


def _both(case: Case, deltas: Mapping[Node, Array]) -> bool:
    seen = sum(case.sweep.seen(case.k, node, delta) for node, delta in deltas.items())
    if not (host.abs(seen - case.q) <= case.q_tol).all():
        return False
    return case.fits(case.a + case.sweep.at_leaf(case.sweep.down(deltas), case.k))


def _slots(residuals: Sequence[Any]) -> Iterator[tuple[int, int | None, Any]]:
    """The values that a node kept, each with its place, and its number where that holds all of a row's arguments."""
    for place, held in enumerate(residuals):
        if isinstance(held, (list, tuple)):
            yield from ((place, number, one) for number, one in enumerate(held))
        else:
            yield place, None, held
