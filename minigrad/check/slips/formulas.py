"""Mistakes in a closed formula, such as BatchNorm's dx in one line, which no single step of a tape has.

Who simplifies a backward pass by hand writes each path through a statistic as one term, a factor times a sum:
`-xhat / std * mean(gamma * g * xhat, axis=0)`. A slip in such a term is found by reading the term off the numbers: what
is left of the hand-derived gradient when autodiff's other paths are taken away, divided by a sum of products over some
axes, has to be a product of powers of known values. Its exponents come of one linear regression of logarithms.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

from minigrad.backend import numpy as host
from minigrad.check.case import INVOLVED, Case, Explanation
from minigrad.check.numbers import STATISTICS, fraction, is_name
from minigrad.check.rearranged import aligned
from minigrad.check.run import op_of
from minigrad.check.sweep import Array
from minigrad.tape import Node

VALUES, ELEMENTS, LARGEST, MOST = 10, 400, 50_000, 60
"""How many values a formula may be made of, how many elements are read, of how large a gradient, and how many formulas
are tried on all of it."""

Axes = tuple[int, ...]
Powers = tuple[int, ...]


class Formula(NamedTuple):
    """number * outside * sum(inside, axes), with products of powers of the values of an alphabet."""

    number: float
    outside: Powers
    axes: Axes
    inside: Powers

    @property
    def powers(self) -> Powers:
        """Of the whole formula, the sum forgotten."""
        return tuple(a + b for a, b in zip(self.outside, self.inside, strict=True))


class Alphabet:
    """Values of one shape, of which no one is a product of the others' powers.

    entries: (words, value, whether a row kept it), the likeliest first.  unit: an upstream gradient that is one number.
    names:   what stands in formulas.  legend: what those stand for that the forward has no name for.
    """

    def __init__(self, shape: tuple[int, ...], entries: Sequence[tuple[str, Array, bool]], unit: float) -> None:
        self.unit = unit
        self.shape, self.size, self.kept = shape, math.prod(shape), 0
        self.names: list[str] = []
        self.legend: dict[str, str] = {}
        self.values: list[Array] = []
        self.sizes: list[int] = []
        self.some = host.random.default_rng(3).permutation(self.size)[:ELEMENTS]
        columns = [host.ones(len(self.some))]
        for text, value, kept in entries:
            wide = host.broadcast_to(value, shape)
            if len(self.names) == VALUES or not (host.isfinite(wide) & (wide != 0)).all():
                continue
            column = host.log(host.abs(wide.reshape(-1)[self.some]))
            basis, _ = host.linalg.qr(host.stack(columns, 1))
            rest = column - basis @ (basis.T @ column)
            if float(host.abs(rest).max()) <= 1e-7 * (1 + float(host.abs(column).max())):
                continue
            columns.append(column)
            self.values.append(wide)
            self.sizes.append(value.size if self.values[1:] else 0)
            plain = text.strip("`")
            name = plain if plain.isidentifier() or text[:1] == "(" else f"v{len(self.legend) + 1}"
            if name != plain:
                self.legend[name] = text
            self.names.append(name)
            self.kept += kept
        self.solve = host.linalg.pinv(host.stack(columns, 1))
        self.few = len(self.some) < len(columns) + 2

    @functools.cached_property
    def insides(self) -> list[Powers]:
        """Products that may stand in a sum: of up to three values, the upstream gradient squared too."""
        n, found = len(self.names), []
        for first in (1, 0, 2):
            for many in (0, 1, 2):
                for chosen in itertools.combinations(range(1, n), many):
                    for powers in itertools.product((1, -1, 2) if many == 1 else (1, -1), repeat=many):
                        if many or first:
                            found.append(tuple(
                                first if i == 0 else dict(zip(chosen, powers, strict=True)).get(i, 0) for i in range(n)
                            ))  # fmt: skip
        return found

    @functools.cached_property
    def sums(self) -> dict[Axes, Array]:
        """Logarithms of the sums of every inside over every choice of axes, at the elements that are read."""
        axes = [i for i, n in enumerate(self.shape) if n > 1]
        chosen = [c for many in range(1, len(axes) + 1) for c in itertools.combinations(axes, many)]
        sums: dict[Axes, list[Array]] = {c: [] for c in chosen}
        for inside in self.insides:
            product = self.product(inside)
            for c in chosen:
                total = host.broadcast_to(product.sum(c, keepdims=True), self.shape)
                sums[c].append(host.log(host.abs(total.reshape(-1)[self.some])))
        return {c: host.stack(rows) for c, rows in sums.items()}

    def product(self, powers: Powers) -> Array:
        """The product of the values' powers."""
        total = host.ones(self.shape)
        for value, power in zip(self.values, powers, strict=True):
            if power:
                total = total * value**power
        return total

    def value(self, formula: Formula) -> Array:
        """What a formula comes to."""
        factor = formula.number * self.product(formula.outside)
        if not formula.axes:
            return factor
        return factor * self.product(formula.inside).sum(formula.axes, keepdims=True)

    def read(self, target: Array) -> Iterator[Formula]:
        """Formulas that may give an array, the shorter ones first; each is to be tried on all elements."""
        flat = target.reshape(-1)[self.some]
        if self.few or not flat.all():
            return
        logs, nothing = host.log(host.abs(flat)), (0,) * len(self.names)
        found = []
        for axes, inside, rows in [((), [nothing], host.zeros((1, len(flat)))), *(
            (axes, self.insides, rows) for axes, rows in self.sums.items()
        )]:  # fmt: skip
            solved = (logs - rows) @ self.solve.T
            near = host.abs(solved[:, 1:] - host.rint(solved[:, 1:])).max(1, initial=0.0) < 0.02
            for row in host.flatnonzero(near):
                outside = tuple(int(p) for p in host.rint(solved[row, 1:]))
                if sum(map(abs, outside)) <= 8:
                    found.append(Formula(1.0, outside, axes, inside[row]))
        found.sort(key=self.length)
        numbered = []
        for formula in found[:MOST]:
            some = host.broadcast_to(self.value(formula), self.shape).reshape(-1)[self.some]
            numbered.append(formula._replace(number=float(host.median(flat / some))))
        yield from sorted((f for f in numbered if math.isfinite(f.number) and f.number), key=self.length)

    def length(self, formula: Formula) -> int:
        """How much there is to read in a formula; a number that is neither a count nor a small one counts as much."""
        powers = sum(
            abs(p) * (1 if i < self.kept else 3) for f in (formula.outside, formula.inside) for i, p in enumerate(f)
        )
        return powers + (0 if self.readable(formula) else 6)

    def readable(self, formula: Formula) -> bool:
        """Whether the number of a formula is a count, or one over a count."""
        return fraction(formula.number / self.unit) is not None

    def constant_along(self, axes: Axes) -> list[int]:
        """The values that do not change along axes, which may stand before a sum over them or in it."""
        return [
            i for i, v in enumerate(self.values) if (v == host.take(v, [0], axes[0])).all() and all(
                (v == host.take(v, [0], axis)).all() for axis in axes[1:]
            )
        ]  # fmt: skip

    def forms(self, formula: Formula) -> Iterator[Formula]:
        """The same formula with powers of constant factors before its sum or in it."""
        loose = self.constant_along(formula.axes) if formula.axes else []
        powers = {i: formula.powers[i] for i in loose if formula.powers[i]}
        for within in itertools.product(*(range(min(p, 0), max(p, 0) + 1) for p in powers.values())):
            outside, inside = list(formula.outside), list(formula.inside)
            for (i, p), q in zip(powers.items(), within, strict=True):
                outside[i], inside[i] = p - q, q
            yield formula._replace(outside=tuple(outside), inside=tuple(inside))

    def words(self, formula: Formula, upstream: bool = True) -> str:
        """A formula as NumPy would have it. upstream: whether a cotangent that is one number is a factor of it."""
        number, parts = formula.number / self.unit, []
        if formula.axes:
            count = math.prod(self.shape[axis] for axis in formula.axes)
            mean = abs(abs(number * count) - 1) < 1e-6 or (not _plain(number) and _plain(number * count))
            number *= count if mean else 1
            axis = formula.axes[0] if len(formula.axes) == 1 else formula.axes
            parts = [f"{'mean' if mean else 'sum'}({self.factors(formula.inside)}, axis={axis})"]
        sign = "-" if number < 0 else ""
        head = self.factors(formula.outside, "" if parts else "1")
        number = abs(number)
        shown = [] if abs(number - 1) < 1e-7 else [fraction(number) or f"{number:.6g}"]
        if head.startswith("1 / ") and shown:
            head = shown.pop() + head[1:]
        unit = ["g"] if upstream and self.unit != 1 else []
        return sign + " * ".join([*unit, *shown, *([head] if head else []), *parts])

    def factors(self, powers: Powers, nothing: str = "1") -> str:
        """A product of powers: `gamma * g / std²`."""
        marks = {1: "", 2: "²", 3: "³"}
        def of(sign: int) -> list[str]:
            letters = zip(self.sizes, self.names, powers, strict=True)
            chosen = [(size, name, abs(p)) for size, name, p in letters if p * sign > 0]
            return [n + marks.get(p, f"^{p}") for _, n, p in sorted(chosen)]

        above, below = " * ".join(of(1)), of(-1)
        if not below:
            return above or nothing
        return f"{above or '1'} / {below[0] if len(below) == 1 else '(' + ' * '.join(below) + ')'}"


def _plain(number: float) -> bool:
    """Whether a number is a small whole one, or a half."""
    return any(abs(abs(number) - n) < 1e-6 * n for n in (0.5, 1, 2, 3, 4))


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
