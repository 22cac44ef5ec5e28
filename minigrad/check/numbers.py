"""The numbers by which a term of a gradient is off, and what each stands for: constants, counts, their ratios."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.run import Run, op_of
from minigrad.tape import Node

STATISTICS = frozenset(("amax", "logsumexp", "mean", "norm", "sum"))
"""Rows that take many values together: what a derivation is most likely to treat as constant."""

MOVES = frozenset(("alias", "broadcast_to", "flip", "pad", "reshape", "roll", "take", "transpose"))
"""Rows that carry values along without computing."""

SCALING = frozenset(("divide", "multiply", "power", "power_of"))
"""Rows whose constant arguments are factors of a derivative."""


@dataclass(frozen=True)
class Factor:
    """A named number or array by which a term may be off. doubt: how much less it is believed, if nobody named it."""

    text: str
    value: Any
    inverse: bool = False
    doubt: float = 0.0

    def sentence(self, subject: str) -> str:
        """What is wrong with a term that was multiplied by this factor. (Of a gradient itself, verbs have marks.)"""
        verb = "lacks" if self.inverse else "has"
        verb = f"<{verb}>" if subject == "<d>" else verb
        return f"{subject} {verb} a factor {self.text}{'' if self.inverse else ' too many'}"

    @property
    def plain(self) -> bool:
        """Whether the factor is a value that has a name, and no function of one."""
        return is_name(self.text) and self.text[-1:] == "`"

    @property
    def short(self) -> str:
        """The factor alone: "m = 6 (...)", "1/`gamma`"."""
        return f"1/{self.text}" if self.inverse else self.text


def is_name(words: str) -> bool:
    """Whether words for a value begin with its name, and not with an expression."""
    return re.match(r"`[\w.]+(?: #\d+)?`", words) is not None


def counts_of(run: Run) -> dict[int, str]:
    """Numbers of elements that the run adds up or averages, and lengths of axes, with their words."""
    counts: dict[int, str] = {}
    for node in run.order:
        statistic = op_of(node) in STATISTICS and node.inputs[0] is not None
        if statistic and (many := together(node)) > 1:
            counts.setdefault(many, f"m = {many} (the elements that {run.describe(node)} takes together)")
    axes: dict[int, list[str]] = {}
    for k, x in enumerate(run.leaves):
        for axis, n in enumerate(x.shape):
            axes.setdefault(n, []).append(f"{run.leaf_name(k)}.shape[{axis}]")
    for n, words in axes.items():
        if n > 1:
            counts.setdefault(n, f"{n} ({' or '.join(words[:3])})")
    for k, x in enumerate(run.leaves):
        if x.size > 1:
            counts.setdefault(x.size, f"{x.size} ({run.leaf_name(k)}.size)")
    for node in run.order:
        for n in node.shape:
            if n > 1:
                counts.setdefault(n, f"{n} (an axis of {run.describe(node)})")
    return counts


def together(reduction: Node) -> int:
    """How many elements a reduction takes together."""
    assert reduction.inputs[0] is not None
    return math.prod(reduction.inputs[0].shape) // max(1, math.prod(reduction.shape))


def variances(run: Run) -> Iterator[Node]:
    """The reductions of squares: only there anyone divides by m - 1."""
    for node in run.order:
        if op_of(node) in ("mean", "sum") and node.inputs[0] is not None:
            below = node.inputs[0]
            while op_of(below) in ("alias", "reshape") and below.inputs[0]:
                below = below.inputs[0]
            twice = op_of(below) == "multiply" and below.inputs[0] is below.inputs[1]
            if op_of(below) == "square" or twice or (op_of(below) == "power" and 2 in _constants(run, below)):
                yield node


def known_numbers(run: Run, counts: dict[int, str]) -> list[Factor]:
    """Numbers that a term may have too many or lack, the likeliest reading of a value first."""
    found: list[Factor] = []

    def add(text: str, value: float) -> None:
        if value and math.isfinite(value) and math.isfinite(1 / value):
            found.extend((Factor(text, value), Factor(text, 1 / value, True)))

    add(f"2{_also(2, counts)}", 2.0)
    constants = _scales(run, counts)
    for value, of in constants.items():
        add(f"{value:.6g} {of}{_also(value, counts)}", value)
    for n, words in sorted(counts.items(), key=lambda item: (item[1][0] != "m", item[0])):
        add(words, float(n))
    for words, value in _settings(run):
        if value not in constants:
            add(f"{value:.6g} ({words})", value)
    for k, x in enumerate(run.leaves):
        for first, last in itertools.combinations(range(x.ndim + 1), 2):
            n = math.prod(x.shape[first:last])
            if last - first > 1 and n not in counts and n:
                add(f"{n} ({run.leaf_name(k)}.shape[{first}] to [{last - 1}])", float(n))
    for m in dict.fromkeys(together(node) for node in variances(run)):
        if m > 1:
            add(f"m/(m-1) (m = {m})", m / (m - 1))
            add(f"(m/(m-1))² (m = {m})", (m / (m - 1)) ** 2)
    for n, words in sorted(counts.items()):
        name = words.split(" (")[0] if words[0] == "m" else f"m = {words}"
        add(f"sqrt(m) ({name})", math.sqrt(n))
        add(f"m² ({name})", float(n * n))
    for value, of in constants.items():
        add(f"{value:.6g}² {of}", value * value)
    return [*found, Factor("4", 4.0), Factor("4", 0.25, True), Factor("3", 3.0), Factor("3", 1 / 3, True)]


def _also(value: float, counts: dict[int, str]) -> str:
    """What a number of elements is besides: " (which is also x.shape[0])"."""
    words = counts.get(round(value)) if value == round(value) else None
    if words is None:
        return ""
    return f" (which is also {words if words[0] == 'm' else words.partition(' (')[2][:-1].partition(' or ')[0]})"


def ratio_of(w: float, ms: Iterable[int], counts: dict[int, str]) -> Factor | None:
    """A weight as m over another count: a mean over m elements that was divided by the other."""
    for m, other in itertools.product(ms, counts):
        if m != other and abs(abs(w) * other - m) < 1e-6 * m:
            return Factor(f"{m}/{other} (m = {m} elements, divided by {counts[other]})", m / other)
    return None


def simple(number: float) -> Fraction | None:
    """A number as a fraction of small ones, where it is one."""
    near = Fraction(number).limit_denominator(99)
    return near if abs(near - number) < 1e-6 * abs(number) and abs(near.numerator) < 100 else None


def digits(number: float) -> str:
    """A factor in words: one that would round to 1 by what it is apart from it, "1 + 1.5e-08"."""
    if f"{abs(number):.6g}" != "1" or abs(number) == 1:
        return str(simple(number) or f"{number:.6g}")
    apart = abs(number) - 1
    text = f"1 {'+' if apart > 0 else '-'} {abs(apart):.2g}"
    return f"-({text})" if number < 0 else text


def fraction(number: float) -> str | None:
    """A number as n or 1/n, for a whole n."""
    for value, text in ((abs(number), "{}"), (1 / abs(number), "1/{}")):
        if 0.5 < value < 1e7 and abs(value - round(value)) < 1e-7 * value:
            return text.format(round(value))
    return None


def _settings(run: Run) -> Iterator[tuple[str, float]]:
    """Numbers among the inputs, also in a dict of settings, that may be factors."""
    for name, value in zip(run.input_names, run.inputs, strict=True):
        held = {f"{name}[{key!r}]": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        for words, one in held.items():
            number = isinstance(one, (int, float)) and not isinstance(one, bool)
            if number and math.isfinite(one) and abs(one) not in (0, 1):
                yield words, float(one)


def _scales(run: Run, counts: dict[int, str]) -> dict[float, str]:
    """Constants by which the run multiplies and divides, with where; but for those that make a mean of a sum."""
    scales: dict[float, str] = {}
    for node in run.order:
        if op_of(node) not in SCALING:
            continue
        taken = {
            together(source) for source in node.inputs
            if source is not None and op_of(source) in STATISTICS
        }  # fmt: skip
        for value in _constants(run, node):
            if value not in taken and not (0 < value < 1 and round(1 / value, 9) in counts):
                where = run.where(node) if node in run.names else ""
                scales.setdefault(abs(value), f"of {run.describe(node)}{where}")
    return scales


def _constants(run: Run, node: Node) -> list[float]:
    """The numbers among a node's arguments that may be a factor of its derivative."""
    numbers = []
    plain = (a for a, source in zip(run.arguments.get(node, ()), node.inputs, strict=False) if source is None)
    for value in (*plain, *node.params):
        if isinstance(value, host.ndarray) and not value.ndim and value.dtype.kind in "fi":
            value = value.item()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) not in (0, 1):
            numbers.append(float(value))
    return numbers
