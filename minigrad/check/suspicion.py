"""What every search for a mistake needs: names for factors and places, and the two tests of a suspicion.

A *suspicion* is a change of the right reverse pass, `delta` at some node. It is first tested by inner
products with a few random directions (see `sweep`), thousands at a time, and then by its full
prediction, which has to reproduce every element of the hand-derived gradient.
"""

from __future__ import annotations

import bisect
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.forward import Forward
from minigrad.check.numbers import STATISTICS, Factor, counts_of, known_numbers, ratio_of
from minigrad.check.rearranged import fitted
from minigrad.check.sweep import DIRECTIONS, Array, Edge, Sweep
from minigrad.ops import sum_to
from minigrad.paths import pull
from minigrad.tape import Node

MATRIX = 4096
"""Up to so many elements factors are tried as the rows of one matrix."""

SIMPLE, PLAIN, LOCAL, INVOLVED, COMPOUND, LAST = 1.0, 2.0, 3.0, 4.0, 6.0, 9.0
"""How readily a kind of mistake is believed, where several reproduce the numbers; LAST explains nothing."""


NEAR = 4
"""Of the values that a line makes again and again in a loop, so many before and after a place are tried there."""


class OutOfTime(Exception):
    """A search has taken as long as it may."""


@dataclass(frozen=True)
class Explanation:
    """A mistake that reproduces a hand-derived gradient to rounding.

    key:     the same for one mistake that shows in several gradients
    rank:    lower is simpler
    message: with {d} where the gradients' names go, and verbs such as {is} that follow their number
    """

    key: Any
    rank: float
    kind: str
    message: str
    paths: tuple[str, ...] = ()
    factor: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


class Suspicion:
    """The vocabulary and the tests, for one recorded run and the gradients that a hand derived for it.

    hand: for each leaf its hand-derived gradient (of the leaf's shape) or None.  tolerances: of each
    leaf's elements.  until: the time (of this thread) when a search is to end; late: whether one did
    """

    def __init__(self, sweep: Sweep, hand: Sequence[Array | None], tolerances: Sequence[Array]) -> None:
        self.sweep = sweep
        self.run: Forward = sweep.run
        self.hand = hand
        self.tolerances = tolerances
        self.consumers: dict[Node, list[Edge]] = {}
        for node in self.run.order:
            for i, source in enumerate(node.inputs):
                if source is not None and source in sweep.needed and node in sweep.cotangents:
                    self.consumers.setdefault(source, []).append((node, i))
        self.leaf_nodes = {x.node for x in self.run.leaves}
        self.seed_nodes = set(sweep.seeds)
        self.counts = counts_of(self.run)
        self.values = self._values()
        self.until, self.late = math.inf, False
        self._forms: list[tuple[Factor, Array]] | None = None
        self._weighed: dict[int, list[tuple[Node | Edge, Array]]] = {}
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
            (named if entry[0][:1] == "`" else unnamed).append(entry)
        named += [("the upstream gradient", g, None) for g in self.sweep.seeds.values()]
        for number, value in enumerate(self.run.inputs):
            if number not in self.run.differentiable and isinstance(value, host.ndarray) and value.dtype.kind in "fiub":
                named.append((f"`{self.run.input_names[number]}`", value.astype(float), None))
        return named + unnamed

    def made_by(self, node: Node | None) -> tuple[Any, ...]:
        """What all turns of a loop have in common: the line and the row."""
        if node is None or node not in self.run.lines or node.primitive is None:
            return (node,)
        return self.run.lines[node][0], node.primitive.name, node in self.run.names

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

    def known(self, w: float) -> tuple[str, float] | None:
        """What a weight does to a path, where it is a known number, and that number."""
        if abs(w) < 1e-5:
            return "is missing", 0.0
        if abs(w + 1) < 1e-5:
            return "has the wrong sign", -1.0
        named = self.name_weight(w)
        return None if named is None or w < 0 else (named.sentence("it")[3:], float(named.value))

    def forms(self) -> list[tuple[Factor, Array]]:
        """Named arrays and their simple functions, as factors."""
        if self._forms is None:
            self._forms = []
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
                    powers = [(text, v), (f"{text}²", v * v)]
                    if text.startswith("`"):
                        powers += [(f"(1 - {text})", 1 - v), (f"(1 - {text}²)", 1 - v * v), (f"(1 + {text})", 1 + v)]
                        powers += [(f"{text}(1 - {text})", v * (1 - v)), (f"{text}³", v**3)]
                        if (v > 0).all():
                            powers.append((f"sqrt({text})", host.sqrt(v)))
                    elif ((v > 0) & (v < 1)).all():  # a probability
                        powers += [(f"(1 - p), with p {text},", 1 - v), (f"p(1 - p), with p {text},", v * (1 - v))]
                    for words, value in powers:
                        if host.isfinite(value).all() and host.ptp(value) + abs(float(value.flat[0]) - 1) > 1e-12:
                            self._forms.append((Factor(words, value), value))
                            inverse = 1 / value
                            if host.isfinite(inverse).all():
                                self._forms.append((Factor(words, inverse, True), inverse))
        return self._forms

    def prepare(self, k: int) -> None:
        hand = self.hand[k]
        assert hand is not None
        self.k, self.a, self.h, self.late = k, self.sweep.gradients[k], hand, False
        self.d = self.h - self.a
        self.tol = host.broadcast_to(self.tolerances[k], self.a.shape)
        most = float(host.abs(self.d).max())
        self.bound = 1e-6 * most + host.minimum(3 * self.tol, 0.1 * most)  # no mistake at all explains nothing
        step = max(1, self.a.size // 64)
        self._few = (self.h.reshape(-1)[::step], self.bound.reshape(-1)[::step])
        self.u = self.sweep.directions(k)[0]
        self.q = self.u.reshape(DIRECTIONS, -1) @ self.d.reshape(-1)
        self.q_tol = 1e-5 * float(host.abs(self.q).max()) + 5 * math.sqrt(float((self.tol**2).sum()))

    def in_time(self) -> None:
        """Ends a search that has taken as long as it may."""
        if time.thread_time() > self.until:
            raise OutOfTime

    def fits(self, predicted: Array) -> bool:
        """Whether a prediction reproduces the hand-derived gradient in every element."""
        self.in_time()
        if predicted.size > MATRIX and not self._fits(predicted.reshape(-1)[:: predicted.size // 64], self._few):
            return False
        return self._fits(predicted, (self.h, self.bound))

    def _fits(self, predicted: Array, wanted: tuple[Array, Array]) -> bool:
        hand, bound = wanted
        return bool((host.abs(hand - predicted) <= bound).all())

    def suspected(self, node: Node, delta: Array) -> bool:
        """The cheap test of an error `delta` in the cotangent of a node."""
        self.in_time()
        with host.errstate(all="ignore"):
            return bool((host.abs(self.sweep.seen(self.k, node, delta) - self.q) <= self.q_tol).all())

    def confirmed(self, node: Node, delta: Array) -> bool:
        """Both tests: the cheap one, then the partial reverse pass."""
        if not self.suspected(node, delta):
            return False
        return self.fits(self.a + self.sweep.at_leaf(self.sweep.down({node: delta}), self.k))

    def repeated(self) -> dict[tuple[int, str, int], list[Node]]:
        """The nodes that are the same step at each turn of a loop: line, row, and which of the line's equal operations.

        The first and the second `@` of `x[t] @ Wx + h @ Wh` are told apart by how often the line gives a name.
        """
        made: dict[tuple[int, str], list[Node]] = {}
        times: dict[int, int] = {}
        for node in self.run.order:
            if node in self.run.lines and node.primitive is not None and node in self.sweep.cotangents:
                line = self.run.lines[node][0]
                made.setdefault((line, node.primitive.name), []).append(node)
                times[line] = times.get(line, 0) + (node in self.run.names)
        groups: dict[tuple[int, str, int], list[Node]] = {}
        for (line, row), nodes in made.items():
            each = len(nodes) // times[line] if times[line] and len(nodes) % times[line] == 0 else 1
            for place, node in enumerate(nodes):
                groups.setdefault((line, row, place % each), []).append(node)
        return groups

    def acted(self, key: Any, act: Callable[[], Mapping[Node, Array]]) -> bool:
        """Whether a mistaken reverse pass leads to the hand-derived gradient. It is acted out once for all gradients.

        False where it cannot be acted out, as where shapes do not meet.
        """
        if key in self._acted:
            return self.fits(self._acted[key][self.k])
        try:
            held = act()
            gradients = [self.sweep.at_leaf(held, k) for k in range(len(self.run.leaves))]
        except (ValueError, TypeError, IndexError):
            gradients = [host.full_like(g, host.nan) for g in self.sweep.gradients]
        if sum(g.size for g in gradients) <= MATRIX:
            self._acted[key] = gradients
        return self.fits(gradients[self.k])

    def _sites(self) -> list[Node | Edge]:
        """The places where something can go wrong on the way to this leaf, without those that come to the same."""
        x = self.run.leaves[self.k].node
        below = self.sweep.directions(self.k)[1]
        places: list[Node | Edge] = []
        for node in reversed(self.run.order):
            if node not in self.sweep.cotangents or node not in below or node is x:
                continue
            if node not in self.seed_nodes or len(self.seed_nodes) > 1:
                places.append(node)
            inputs = [s for s in node.inputs if s is not None and s in below]
            for i, source in enumerate(node.inputs):
                if source in inputs and len(inputs) > 1 and len(self.consumers.get(source, ())) > 1:  # type: ignore[arg-type]
                    places.append((node, i))
        return places

    def weights(self) -> list[tuple[Node | Edge, Array]]:
        """For every site what passes through it, as the random directions see it."""
        if self.k not in self._weighed:
            seen = [(site, self.sweep.seen(self.k, *self.sweep.landing(site))) for site in self._sites()]
            self._weighed[self.k] = [(site, p) for site, p in seen if float(p @ p) > 0]
        return self._weighed[self.k]

    def path_words(self, site: Node | Edge) -> str:
        """A site as a path: "the path through `var`"."""
        if isinstance(site, Node):
            return f"the path through {self.run.describe(site)}"
        node, i = site
        return f"the path from {self.run.describe(node.inputs[i])} into {self.run.describe(node)}"  # type: ignore[arg-type]

    def believed(self, site: Node | Edge) -> float:
        """Readiness to believe in a site: named intermediates before unnamed, statistics first, edges last."""
        if not isinstance(site, Node):
            named = sum(node in self.run.names for node in (site[0], site[0].inputs[site[1]]))
            return 0.6 - 0.1 * named
        rank = 0.5 if site not in self.run.names else 0.3 if "." in self.run.names[site] else 0.0
        assert site.primitive is not None
        rank -= 0.1 if site.primitive.name in STATISTICS else 0.0
        return rank + 1e-4 * self.run.order.index(site) / len(self.run.order)

    def names_of(self, site: Node | Edge) -> tuple[str, ...]:
        nodes = (site,) if isinstance(site, Node) else (site[0].inputs[site[1]], site[0])
        return tuple(self.run.names[n] for n in nodes if n in self.run.names)

    def line_of(self, site: Node | Edge) -> dict[str, Any]:
        node = site if isinstance(site, Node) else site[0]
        return {"line": f"{self.run.lines[node][0]}: {self.run.lines[node][1]}"} if node in self.run.lines else {}

    def fitting(self, shape: tuple[int, ...]) -> tuple[list[tuple[Factor, Array]], Array | None]:
        """The factors that fit a shape; for small shapes all of them also as the rows of one matrix."""
        if shape not in self._fitting:
            fit = [(factor, v) for factor, value in self.forms() if (v := fitted(value, shape)) is not None]
            rows = None
            if fit and math.prod(shape) <= MATRIX:
                rows = host.stack([host.broadcast_to(v, shape).reshape(-1) for _, v in fit])
            self._fitting[shape] = (fit, rows)
        return self._fitting[shape]

    def likely(self, node: Node, c: Array, instead: Array | None = None) -> list[tuple[Factor, Array]]:
        """The factors that pass the test of the first direction: `c`, the contribution to a node, times the factor.

        instead: is multiplied by the factor in place of `c`, which stays what the right pass contributes; then a half,
        twice and minus the factor are tried too.
        """
        tangents = self.sweep.directions(self.k)[1].get(node)
        if tangents is None or not c.size:
            return []
        fit, rows = self.fitting(c.shape)
        weights = (c if instead is None else instead) * tangents[0]
        goal = self.q[0] + float((c * tangents[0]).sum())
        if rows is not None:
            sums = rows @ weights.reshape(-1)
        else:
            partial: dict[tuple[int, ...], Array] = {}
            sums = host.zeros(len(fit))
            for number, (_, value) in enumerate(fit):
                lead = (1,) * (weights.ndim - value.ndim) + value.shape
                if lead not in partial:
                    partial[lead] = sum_to(weights, lead)
                sums[number] = float((partial[lead] * value.reshape(lead)).sum())
        scales = (1.0,) if instead is None else (1.0, -1.0, 0.5, -0.5, 2.0, -2.0)
        return [
            (_scaled(fit[i][0], scale), fit[i][1] * scale)
            for scale in scales for i in host.flatnonzero(host.abs(scale * sums - goal) <= self.q_tol)
            if scale == 1 or not fit[i][0].inverse or fit[i][0].plain
        ]  # fmt: skip

    def absolute(self, k: int) -> Array:
        """The sizes of the terms that the k-th gradient adds up: what its rounding is to be judged by.

        It is split by its paths, and by what its nearest ops add up: each shows cancellations that the other hides.
        """
        by_path = sum(host.abs(c) for c in self.groups(k).values())
        return host.maximum(host.maximum(by_path, self._nearest(k)), host.abs(self.sweep.gradients[k]))

    def _nearest(self, k: int) -> Array:
        """The sizes of the terms that reach the k-th leaf from the ops that use it, sums taken apart."""
        x = self.run.leaves[k]
        total = host.zeros(x.shape, x.dtype)
        for node, i in self.consumers.get(x.node, ()):  # type: ignore[arg-type]
            row = node.primitive
            assert row is not None
            if row.joint is not None:
                continue
            rule, places = row.pullbacks[0 if row.variadic else i]  # type: ignore[misc]
            values = [node.residuals[place] if place >= 0 else i for place in places]
            sizes = [host.abs(v) if isinstance(v, host.ndarray) and v.dtype.kind == "f" else v for v in values]
            with host.errstate(all="ignore"):
                term = sum_to(host.abs(rule(host.abs(self.sweep.cotangents[node]), *sizes)), x.shape)
            total = total + host.where(host.isfinite(term), term, 0)
        return total

    def groups(self, k: int, limit: int = 24) -> dict[tuple[str, ...], Array]:
        """The k-th gradient split by the named intermediates (and statistics) that each path passes."""
        run, x = self.run, self.run.leaves[k].node
        marks = {
            n: run.names.get(n, run.describe(n)) for n in run.order
            if n not in self.leaf_nodes and n not in self.seed_nodes and n.primitive is not None
            and (n in run.names or n.primitive.name in STATISTICS)
        }  # fmt: skip
        held: dict[Node, dict[tuple[str, ...], Array]] = {n: {(): g} for n, g in self.sweep.seeds.items()}
        for node in reversed(run.order):
            groups = held.get(node)
            if groups is None or node is x:
                continue
            if node in marks:
                groups = {(marks[node], *labels): c for labels, c in groups.items()}
            while len(groups) > limit:
                longest = max(map(len, groups))
                shorter: dict[tuple[str, ...], Array] = {}
                for labels, c in groups.items():
                    key = labels[: longest - 1]
                    shorter[key] = shorter[key] + c if key in shorter else c
                groups = shorter
            for labels, c in groups.items():
                for _, source, part in pull(node, c, False, self.sweep.needed):
                    place = held.setdefault(source, {})
                    place[labels] = place[labels] + part if labels in place else part
            held[node] = {}
        return held.get(x, {})  # type: ignore[arg-type]


def _scaled(factor: Factor, scale: float) -> Factor:
    """A factor times a number: `0.5/std`."""
    if scale == 1:
        return factor
    if factor.inverse:
        return Factor(f"{scale:g}/{factor.text}", factor.value * scale)
    return Factor(f"minus {factor.text}" if scale == -1 else f"{scale:g} {factor.text}", factor.value * scale)
