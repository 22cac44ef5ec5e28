"""What a recorded run holds that a mistake may be made of: values, factors and numbers, with the words for them."""

from __future__ import annotations

import bisect
import collections
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.numbers import MOVES, Factor, counts_of, is_name, known_numbers, ratio_of, simple
from minigrad.check.rearranged import fitted
from minigrad.check.run import op_of
from minigrad.check.sweep import Array, Sweep
from minigrad.tape import Node

MATRIX = 4096
"""Up to so many elements factors are tried as the rows of one matrix."""

NEAR = 4
"""Of the values that a line makes again and again in a loop, so many before and after a place are tried there."""


class Clues:
    """The clues of one recorded run and its right reverse pass, the same for all of its gradients.

    counts: numbers of elements, with their words.  values: see `_values`
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.run = sweep, sweep.run
        self.counts = counts_of(self.run)
        self.values = self._values()
        self._acted: dict[Any, list[Array]] = {}
        self._fitting: dict[tuple[int, ...], tuple[list[tuple[Factor, Array]], Array | None]] = {}

    def _values(self) -> list[tuple[str, Array, Node | None]]:
        """Every array that a hand could have used, the named ones first."""
        named: list[tuple[str, Array, Node | None]] = []
        unnamed: list[tuple[str, Array, Node | None]] = []
        for node in self.run.order:
            if node not in self.run.values:  # a Parameter that is no argument: it was on the tape before
                continue
            entry = (self.run.describe(node), self.run.values[node], node)
            (named if is_name(entry[0]) else unnamed).append(entry)
        named += [("the upstream gradient", g, None) for g in self.sweep.seeds.values()]
        named += [(f"`{name}`", value.astype(float), None) for name, value in self.run.constants.items()]
        return named + unnamed

    def carried(self, nodes: Iterable[Node]) -> set[Node]:
        """Some nodes, and all that only move what they hold."""
        carriers = set(nodes)
        for node in self.run.order:
            if op_of(node) in MOVES and not carriers.isdisjoint(node.inputs):
                carriers.add(node)
        return carriers

    def made_by(self, node: Node | None) -> tuple[Any, ...]:
        """What all turns of a loop have in common: the line and the row."""
        if node is None or node not in self.run.lines or node.primitive is None:
            return (node,)
        return self.run.lines[node][0], op_of(node), node in self.run.names

    @functools.cached_property
    def turns(self) -> dict[tuple[Any, ...], list[int]]:
        """For what makes values the places among all values of those that it makes, in their order."""
        found: dict[tuple[Any, ...], list[int]] = {}
        for place, (_, _, node) in enumerate(self.values):
            found.setdefault(self.made_by(node), []).append(place)
        return found

    def near(self, node: Node) -> list[tuple[str, Array, Node | None]]:
        """The values that a hand could have used at a node: all, but of a long loop's those of the turns near by."""
        chosen: list[int] = []
        for made, places in self.turns.items():
            if len(places) > 2 * NEAR and len(made) > 1:
                at = bisect.bisect(places, node.serial, key=lambda place: self.values[place][2].serial)  # type: ignore[union-attr]
                places = places[max(0, at - NEAR) : at + NEAR]
            chosen += places
        return [self.values[place] for place in sorted(chosen)]

    @functools.cached_property
    def scalars(self) -> list[Factor]:
        """Numbers by which terms are off."""
        return known_numbers(self.run, self.counts)

    @property
    def unit(self) -> float:
        """The upstream gradient of a loss, which is one number and a factor of everything; 1 where it is an array."""
        seeds = list(self.sweep.seeds.values())
        return float(seeds[0].reshape(-1)[0]) or 1.0 if len(seeds) == 1 and seeds[0].size == 1 else 1.0

    def name_weight(self, w: float, taken: Iterable[int] = ()) -> Factor | None:
        """The first known number that a weight equals, up to sign; taken: numbers of elements of means on the way."""
        for factor in self.scalars:
            if abs(abs(w) - abs(factor.value)) <= 2e-6 * abs(factor.value):
                return factor
        return ratio_of(w, taken, self.counts)

    def known(self, w: float, fractions: bool = False) -> tuple[str, float] | None:
        """What a weight does to a path, where it is a known number, and that number."""
        if abs(w) < 1e-5:
            return "is missing", 0.0
        if abs(w + 1) < 1e-5:
            return "has the wrong sign", -1.0
        named, fraction = self.name_weight(w), simple(w) if fractions else None
        if named is not None and w > 0:
            return named.sentence("it")[3:], float(named.value)
        return None if fraction is None else (f"counts {fraction} times", float(fraction))

    @functools.cached_property
    def forms(self) -> list[tuple[Factor, Array]]:
        """Named arrays and their simple functions, as factors."""
        forms: list[tuple[Factor, Array]] = []
        seen: list[Array] = []
        for text, v, _ in self.values:
            if v.dtype.kind not in "fiu" or v.size == 0:
                continue
            if any(v.shape == other.shape and host.array_equal(v, other) for other in seen):
                continue
            seen.append(v)
            if not v.ndim and text != "the upstream gradient" and v.size == 1 and float(v) in (0.0, 1.0, -1.0):
                continue
            with host.errstate(all="ignore"):
                doubt = 0.4 if "`" in text and not is_name(text) else 0.0
                for words, value in _simple_functions(text, v):
                    if host.isfinite(value).all() and host.ptp(value) + abs(float(value.flat[0]) - 1) > 1e-12:
                        forms.append((Factor(words, value, False, doubt), value))
                        inverse = 1 / value
                        if host.isfinite(inverse).all():
                            forms.append((Factor(words, inverse, True, doubt), inverse))
        return forms

    def fitting(self, shape: tuple[int, ...]) -> tuple[list[tuple[Factor, Array]], Array | None]:
        """The factors that fit a shape; for small shapes all of them also as the rows of one matrix."""
        if shape not in self._fitting:
            fit = [(factor, v) for factor, value in self.forms if (v := fitted(value, shape)) is not None]
            rows = None
            if fit and math.prod(shape) <= MATRIX:
                rows = host.stack([host.broadcast_to(v, shape).reshape(-1) for _, v in fit])
            self._fitting[shape] = (fit, rows)
        return self._fitting[shape]

    def repeated(self) -> dict[tuple[str, int, str, int], list[Node]]:
        """The nodes that are one step at each turn of a loop: by row, line, expression, and place among its rows."""
        groups: dict[tuple[str, int, str, int], list[Node]] = {}
        times: collections.Counter[tuple[int, str]] = collections.Counter()
        for node in self.run.order:
            row, visit = op_of(node), self.run.visits.get(node, -node.serial)
            if row and node in self.sweep.cotangents:
                line = self.run.lines[node][0] if node in self.run.lines else visit
                groups.setdefault((row, line, self.run.expressions.get(node, ""), times[visit, row]), []).append(node)
                times[visit, row] += 1
        return groups

    def acted(self, key: Any, act: Callable[[], Mapping[Node, Array]]) -> list[Array]:
        """The gradients that a mistaken reverse pass leads to, which is acted out once where they are small.

        NaN where it cannot be acted out, as where shapes do not meet.
        """
        if key in self._acted:
            return self._acted[key]
        try:
            held = act()
            gradients = [self.sweep.at_leaf(held, k) for k in range(len(self.run.leaves))]
        except (ValueError, TypeError, IndexError):
            gradients = [host.full_like(g, host.nan) for g in self.sweep.gradients]
        if sum(g.size for g in gradients) <= MATRIX:
            self._acted[key] = gradients
        return gradients


def _simple_functions(text: str, v: Array) -> Iterator[tuple[str, Array]]:
    """What a derivative may have of a value as a factor, with the words."""
    yield text, v
    yield f"{text}²", v * v
    if is_name(text):
        yield f"(1 - {text})", 1 - v
        yield f"(1 - {text}²)", 1 - v * v
        yield f"(1 + {text})", 1 + v
        yield f"{text}(1 - {text})", v * (1 - v)
        yield f"{text}³", v**3
        if (v > 0).all():
            yield f"sqrt({text})", host.sqrt(v)
    elif ((v > 0) & (v < 1)).all():  # a probability
        yield f"(1 - p), with p {text},", 1 - v
        yield f"p(1 - p), with p {text},", v * (1 - v)
