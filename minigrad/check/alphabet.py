"""Formulas read off numbers: a factor times a sum of products, where both are products of powers of known values.

The exponents come of one linear regression of logarithms.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from minigrad.backend import numpy as host
from minigrad.check.numbers import fraction
from minigrad.check.rearranged import choices
from minigrad.check.sweep import Array

VALUES, ELEMENTS, MOST = 10, 400, 60
"""How many values a formula may be made of, how many elements are read, and how many formulas are tried on them."""

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
        sums: dict[Axes, list[Array]] = {chosen: [] for chosen in choices(axes)}
        for inside in self.insides:
            product = self.product(inside)
            for chosen, rows in sums.items():
                total = host.broadcast_to(product.sum(chosen, keepdims=True), self.shape)
                rows.append(host.log(host.abs(total.reshape(-1)[self.some])))
        return {chosen: host.stack(rows) for chosen, rows in sums.items()}

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
