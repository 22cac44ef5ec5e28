"""Mistakes in a closed formula, such as BatchNorm's dx in one line, which no single step of a tape has.

Who simplifies a backward pass by hand writes each path through a statistic as one term, a factor times a sum:
`-xhat / std * mean(gamma * g * xhat, axis=0)`. A slip in such a term is found by reading the term off the numbers: what
is left of the hand-derived gradient when autodiff's other paths are taken away, divided by a sum of products over some
axes, has to be a product of powers of known values (see `alphabet`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator

from minigrad.backend import numpy as host
from minigrad.check.alphabet import Alphabet, Axes, Formula
from minigrad.check.case import INVOLVED, Case, Explanation
from minigrad.check.numbers import STATISTICS, is_name
from minigrad.check.rearranged import aligned
from minigrad.check.run import op_of
from minigrad.check.sweep import Array
from minigrad.tape import Node

LARGEST = 50_000
"""Of how many elements a gradient may be that formulas are sought for."""


def formulas(case: Case) -> Iterator[Explanation]:
    """A term that is another formula, the same slip in several terms, or a factor of several powers."""
    shape = _shape_of_formulas(case)
    if not 4 <= math.prod(shape) <= LARGEST:
        return
    alphabet = Alphabet(shape, list(_letters(case, shape)), case.clues.unit)
    terms = _terms(case)
    through = " and ".join(case.run.describe(node) for node in terms)
    total = sum(terms.values(), host.zeros_like(case.a))
    yield from _factor_of(case, alphabet, case.a, "<d>", "<has>", "<lacks>")
    if len(terms) > 1:
        yield from _factor_of(case, alphabet, total, "in <d> the terms through " + through, "have", "lack")
    right: dict[Node, Formula] = {}
    for node, c in terms.items():
        words = f"the term through {case.run.describe(node)}"
        formula = yield from _another(case, alphabet, c, node, words)
        if formula is not None:
            right[node] = formula
    if host.abs(case.a - total).max() > 1e-9 * float(host.abs(case.a).max()):
        yield from _another(case, alphabet, case.a - total, None, "the term that passes no sum" if terms else "<d>")
    if len(right) == len(terms) > 1:
        yield from _over_other_axes(case, alphabet, terms, right)


def _terms(case: Case) -> dict[Node, Array]:
    """What passes each statistic."""
    below = case.sweep.directions(case.k)[1]
    statistics = (node for node in case.sweep.steps(*STATISTICS) if node in below)
    terms = {node: case.sweep.at_leaf(case.sweep.effect(node), case.k) for node in statistics}
    scale = 1e-9 * float(host.abs(case.a).max(initial=0.0))
    apart = {node: c for node, c in terms.items() if host.abs(c).max(initial=0.0) > scale}
    return {n: c for n, c in apart.items() if not (host.abs(case.a - c) <= scale).all()}


def _shape_of_formulas(case: Case) -> tuple[int, ...]:
    """The leaf's shape, or what the forward reshapes it to at once."""
    node = case.run.leaves[case.k].node
    edges = case.sweep.consumers.get(node, ())  # type: ignore[arg-type]
    while len(edges) == 1 and op_of(edges[0][0]) == "reshape":
        node = edges[0][0]
        edges = case.sweep.consumers.get(node, ())
    return node.shape  # type: ignore[union-attr]


def _letters(case: Case, shape: tuple[int, ...]) -> Iterator[tuple[str, Array, bool]]:
    """The values of a shape: the upstream gradient, then what rows kept, named ones first."""
    size = math.prod(shape)
    for g in case.sweep.seeds.values():
        upstream = g.reshape(shape) if g.size == size else aligned(g, shape)
        if upstream is not None and g.size > 1:
            yield "g", upstream, True
    kept = {id(value) for node in case.run.order for value in node.residuals}

    def order(entry: tuple[str, Array, Node | None]) -> tuple[bool, bool, int]:
        text, value, node = entry
        computed = -node.serial if node is not None and node.primitive is not None else 0
        return id(value) not in kept, not is_name(text), computed  # the later ones are nearer to a closed formula

    leaf = case.run.leaves[case.k].shape
    more: list[tuple[str, Array]] = []
    for text, value, _ in sorted(case.clues.values, key=order):
        if value.dtype.kind != "f" or value.size < 2 or text == "the upstream gradient":
            continue
        letter = aligned(value, shape)
        if letter is None and leaf != shape and (wide := aligned(value, leaf)) is not None:
            letter = host.broadcast_to(wide, leaf).reshape(shape)
        if letter is not None:
            yield text, letter, id(value) in kept
            if is_name(text) and (host.abs(value) < 1).all():
                more += [(f"(1 - {text[1:-1]})", 1 - letter), (f"(1 - {text[1:-1]}²)", 1 - letter * letter)]
    for text, letter in more:
        yield text, letter, False


def _factor_of(
    case: Case, alphabet: Alphabet, part: Array, subject: str, has: str, lacks: str
) -> Iterator[Explanation]:
    """A part of the gradient times a product of powers."""
    rest = case.a - part
    ratio = ((case.h - rest) / part).reshape(alphabet.shape)
    if not host.isfinite(ratio).all():
        return
    for formula in (f for f in alphabet.read(ratio) if not f.axes and any(f.outside)):
        formula = formula._replace(number=formula.number * alphabet.unit)
        if not alphabet.readable(formula) or not case.fits(
            rest + part * alphabet.value(formula).reshape(part.shape) / alphabet.unit
        ):
            continue
        lacking = all(p <= 0 for p in formula.outside)
        inverse = formula._replace(number=1 / formula.number, outside=tuple(-p for p in formula.outside))
        text = alphabet.words(inverse if lacking else formula, upstream=False)
        message = f"{subject} {lacks} a factor {text}" if lacking else f"{subject} {has} a factor {text} too many"
        yield Explanation(
            ("powers", text, lacking), INVOLVED, "factor", message + _legend(alphabet, text), factor=text
        )
        return


def _another(
    case: Case, alphabet: Alphabet, part: Array, node: Node | None, words: str
) -> Generator[Explanation, None, Formula | None]:
    """A part of the gradient that is another formula by hand; returns the right one, if there is one."""
    rest, reach = case.a - part, 1e-9 * host.abs(part).max()
    read = alphabet.read(part.reshape(alphabet.shape))
    right = next((f for f in read if (host.abs(alphabet.value(f).reshape(part.shape) - part) <= reach).all()), None)
    if right is None:
        return None
    for hand in alphabet.read((case.h - rest).reshape(alphabet.shape)):
        predicted = rest + host.broadcast_to(alphabet.value(hand), alphabet.shape).reshape(rest.shape)
        if alphabet.readable(hand) and case.fits(predicted):
            yield _told(case, alphabet, node, words, hand, right)
            break
    return right


def _told(case: Case, alphabet: Alphabet, node: Node | None, words: str, hand: Formula, right: Formula) -> Explanation:
    """The sentence for a term that is another formula than the right one."""

    def distance(pair: tuple[Formula, Formula]) -> tuple[int, int]:
        one, other = ((*f.outside, *f.inside) for f in pair)
        apart = sum(abs(a - b) for a, b in zip(one, other, strict=True))
        return apart, sum(abs(p) for f in pair for p in f.inside)

    hand, right = min(itertools.product(alphabet.forms(hand), alphabet.forms(right)), key=distance)
    mine, meant = alphabet.words(hand), alphabet.words(right)
    axes = bool(hand.axes) and hand.axes != right.axes and hand.powers == right.powers
    subject = "<d> <is>" if words == "<d>" else f"in <d> {words} is"
    message = f"{subject} `{mine}` by hand, and `{meant}` is right"
    if axes:
        message += f": the sum is over {_axes(hand.axes)}, not over {_axes(right.axes)}"
    message += _legend(alphabet, mine + meant)
    kind, evidence = "wrong axes" if axes else "wrong term", {"by hand": mine, "right": meant}
    if node is None:
        return Explanation(("formula", None, mine), INVOLVED + 0.2, kind, message, evidence=evidence)
    message += case.run.where(node)
    return case.at(node, ("formula", node, mine), INVOLVED, kind, message, evidence=evidence)


def _over_other_axes(
    case: Case, alphabet: Alphabet, terms: dict[Node, Array], right: dict[Node, Formula]
) -> Iterator[Explanation]:
    """All the sums over the same wrong axes, with their counts or without."""
    rest = case.a - sum(terms.values())
    forms = [list(alphabet.forms(right[node])) for node in terms]
    for axes in alphabet.sums:
        for chosen in itertools.product(*forms):
            if all(f.axes == axes for f in chosen):
                continue
            for counted in (True, False):
                moved = [_moved(alphabet, f, axes, counted) for f in chosen]
                predicted = sum(alphabet.value(f) for f in moved)
                if case.fits(rest + host.broadcast_to(predicted, alphabet.shape).reshape(rest.shape)):
                    through = " and ".join(case.run.describe(n) for n in terms)
                    mine = " and ".join(f"`{alphabet.words(f)}`" for f in moved)
                    message = f"in <d> the terms through {through} sum over {_axes(axes)}, not over "
                    message += f"{_axes(chosen[0].axes)}: by hand they are {mine}{_legend(alphabet, mine)}"
                    yield Explanation(("axes", axes), INVOLVED, "wrong axes", message, case.names_of(*terms))
                    return


def _moved(alphabet: Alphabet, formula: Formula, axes: Axes, counted: bool) -> Formula:
    """A formula with its sum over other axes; counted: divided by their number of elements, where it is a mean."""
    before, now = (math.prod(alphabet.shape[axis] for axis in a) for a in (formula.axes, axes))
    return formula._replace(axes=axes, number=formula.number * (before / now if counted else 1.0))


def _legend(alphabet: Alphabet, text: str) -> str:
    """What the letters of a formula stand for that are not the user's own names."""
    said = [f"{letter} is {words}" for letter, words in alphabet.legend.items() if letter in text]
    return f", where {', '.join(said)}" if said else ""


def _axes(axes: Axes) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {list(axes)}"
