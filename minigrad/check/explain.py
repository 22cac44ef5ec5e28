"""Which mistake turns the right gradient into the one that was handed in?

The reverse pass of the recorded forward is made to err in every way that people err in (a path cut, a
term scaled, a value mistaken for another, eps left out of the root, ...), and what comes out is
compared with the hand-derived gradient. A *suspicion* is one such error with the gradient that it
would give. Suspicions are first tested by one inner product (see `sweep`), then by their full
prediction: only one that reproduces every element becomes an explanation. Where several do, the
simplest is told and the others are kept as evidence. Where none does, nothing is claimed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from minigrad import kernels
from minigrad.backend import numpy as host
from minigrad.check.forward import Forward
from minigrad.check.sweep import DIRECTIONS, Array, Edge, Sweep
from minigrad.ops import sum_to
from minigrad.paths import pull
from minigrad.tape import Node

REDUCTIONS = frozenset(("amax", "logsumexp", "mean", "norm", "sum", "sum_to", "take"))
STATISTICS = frozenset(("amax", "logsumexp", "mean", "norm", "sum"))

MOVES = frozenset(("alias", "broadcast_to", "flip", "pad", "reshape", "roll", "take", "transpose"))
"""Rows that carry values along without computing."""

SIMPLE, PLAIN, LOCAL, INVOLVED, COMPOUND = 1.0, 2.0, 3.0, 4.0, 6.0
"""How readily a kind of mistake is believed, where several reproduce the numbers."""


@dataclass(frozen=True)
class Explanation:
    """A mistake that reproduces a hand-derived gradient to rounding.

    key:     the same for one mistake that shows in several gradients
    rank:    lower is simpler
    message: with {d} where the gradients' names go, {s} for the third person's s of one gradient
    """

    key: Any
    rank: float
    kind: str
    message: str
    paths: tuple[str, ...] = ()
    factor: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Factor:
    """A named number or array by which a term may be off."""

    text: str
    value: Any
    inverse: bool = False

    def sentence(self, subject: str) -> str:
        """What is wrong with a term that was multiplied by this factor."""
        return f"{subject} lacks a factor {self.text}" if self.inverse else f"{subject} has a factor {self.text} too many"

    @property
    def short(self) -> str:
        return f"1/({self.text})" if self.inverse and "(" not in self.text and " " in self.text else (
            f"1/{self.text}" if self.inverse else self.text
        )  # fmt: skip


class Explainer:
    """Looks for the mistake behind wrong gradients of one recorded run.

    hand: for each leaf its hand-derived gradient (of the leaf's shape) or None.  tolerances: of each
    leaf's elements.  upstream: the name under which the cotangent is spoken of.
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
        self.counts = self._counts()
        self.values = self._values()
        self.found: dict[int, list[Explanation]] = {}
        self._forms: list[tuple[Factor, Array]] | None = None
        self._fitting: dict[tuple[int, ...], tuple[list[tuple[Factor, Array]], Array]] = {}

    # ---- vocabulary ------------------------------------------------------------------------------
    def _counts(self) -> dict[int, str]:
        """Numbers of elements that the run adds up or averages, and lengths of axes, with their words."""
        counts: dict[int, str] = {}
        for node in self.run.order:
            if node.primitive is not None and node.primitive.name in STATISTICS and node.inputs[0] is not None:
                size = math.prod(node.inputs[0].shape)
                many = size // max(1, math.prod(node.shape))
                if many > 1:
                    counts.setdefault(many, f"m = {many} (the elements that {self.run.describe(node)} takes together)")
        for k, x in enumerate(self.run.leaves):
            for axis, n in enumerate(x.shape):
                if n > 1:
                    counts.setdefault(n, f"{n} ({self.run.leaf_name(k)}.shape[{axis}])")
            if x.size > 1:
                counts.setdefault(x.size, f"{x.size} ({self.run.leaf_name(k)}.size)")
        for node in self.run.order:
            for n in node.shape:
                if n > 1:
                    counts.setdefault(n, f"{n} (an axis of {self.run.describe(node)})")
        return counts

    def _values(self) -> list[tuple[str, Array, Node | None]]:
        """Every array that a hand could have used, the named ones first."""
        named, unnamed = [], []
        for node in self.run.order:
            if node not in self.run.values:
                continue
            entry = (self.run.describe(node), self.run.values[node], node)
            (named if node in self.run.names else unnamed).append(entry)
        for node, g in self.sweep.seeds.items():
            named.append(("the upstream gradient", g, None))
        for number, value in enumerate(self.run.inputs):
            if number not in self.run.differentiable and isinstance(value, host.ndarray) and value.dtype.kind in "fiub":
                named.append((f"`{self.run.input_names[number]}`", value.astype(float), None))
        return named + unnamed

    def scalars(self) -> list[Factor]:
        """Numbers by which terms are off: counts, 2, and constants of the forward."""
        plain: list[Factor] = []
        factors: list[Factor] = []
        for n, words in sorted(self.counts.items()):
            plain += [Factor(words, float(n)), Factor(words, 1 / n, True)]
            if n > 1:
                m = words.split(" (")[0]
                m = m if "=" in m else f"m = {m}"
                factors.append(Factor(f"m/(m-1) ({m})", n / (n - 1)))
                factors.append(Factor(f"m/(m-1) ({m})", (n - 1) / n, True))
                factors += [Factor(f"sqrt(m) ({m})", math.sqrt(n)), Factor(f"sqrt(m) ({m})", 1 / math.sqrt(n), True)]
                factors += [Factor(f"m² ({m})", float(n * n)), Factor(f"m² ({m})", 1 / (n * n), True)]
        two = [Factor("2", 2.0), Factor("2", 0.5, True)]
        if 2 in self.counts:
            two = [Factor(f"2 (which is also {self.counts[2]})", 2.0), Factor(f"2 (which is also {self.counts[2]})", 0.5, True)]
        constants: list[Factor] = []
        for node in self.run.order:
            for value in (*self.run.arguments.get(node, ()), *node.params):
                if isinstance(value, host.ndarray) and not value.ndim and value.dtype.kind in "fi":
                    value = value.item()
                if isinstance(value, (int, float)) and not isinstance(value, bool) and value not in (0, 1, -1, 2, 0.5):
                    text = f"{value:.6g} of {self.run.describe(node)}{self.run.where(node) if node in self.run.names else ''}"
                    constants += [Factor(text, float(value)), Factor(text, 1 / value, True)]
        return [*two, *plain, *constants, *factors, Factor("4", 4.0), Factor("4", 0.25, True), Factor("3", 3.0)]

    def name_weight(self, w: float) -> Factor | None:
        """The first known number that a weight equals, up to sign."""
        for factor in self._scalars:
            if abs(abs(w) - abs(factor.value)) <= 2e-6 * abs(factor.value):
                return factor
        return None

    @property
    def _scalars(self) -> list[Factor]:
        if not hasattr(self, "_scalar_cache"):
            self._scalar_cache = self.scalars()
        return self._scalar_cache

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
                    for words, value in powers:
                        if host.isfinite(value).all() and host.ptp(value) + abs(float(value.flat[0]) - 1) > 1e-12:
                            self._forms.append((Factor(words, value), value))
                            inverse = 1 / value
                            if host.isfinite(inverse).all():
                                self._forms.append((Factor(words, inverse, True), inverse))
        return self._forms

    # ---- the two tests ---------------------------------------------------------------------------
    def _prepare(self, k: int) -> None:
        self.k = k
        self.a, self.h = self.sweep.gradients[k], self.hand[k]
        self.d = self.h - self.a
        self.tol = host.broadcast_to(self.tolerances[k], self.a.shape)
        self.u = self.sweep.directions(k)[0]
        self.q = self.u.reshape(DIRECTIONS, -1) @ self.d.reshape(-1)
        self.q_tol = 1e-5 * float(host.abs(self.q).max()) + 5 * math.sqrt(float((self.tol**2).sum()))

    def fits(self, predicted: Array) -> bool:
        """Whether a prediction reproduces the hand-derived gradient in every element."""
        if not host.isfinite(predicted).all():
            return False
        reach = 1e-6 * float(host.abs(self.d).max())
        return bool((host.abs(self.h - predicted) <= reach + 3 * self.tol).all())

    def suspected(self, node: Node, delta: Array) -> bool:
        """The cheap test of an error `delta` in the cotangent of a node."""
        with host.errstate(all="ignore"):
            return bool((host.abs(self.sweep.seen(self.k, node, delta) - self.q) <= self.q_tol).all())

    def confirmed(self, node: Node, delta: Array) -> bool:
        """Both tests: the cheap one, then the partial reverse pass."""
        if not self.suspected(node, delta):
            return False
        return self.fits(self.a + self.sweep.at_leaf(self.sweep.down({node: delta}), self.k))

    # ---- the search ------------------------------------------------------------------------------
    def explain(self, k: int) -> list[Explanation]:
        """Every mistake known here that reproduces the k-th gradient, the simplest first."""
        self._prepare(k)
        found: list[Explanation] = []
        for search in (
            self.whole, self.upstream, self.sites, self.constants, self.factors, self.local, self.mistaken,
            self.overwritten, self.passed_over, self.replaced, self.exchanged, self.everywhere, self.replays, self.pairs,
            self.combinations,
        ):  # fmt: skip
            if found and search in (self.everywhere, self.replays, self.pairs, self.combinations):
                break
            with host.errstate(all="ignore"):
                found += search()
        if not found and (pruned := self.without_zeros()) is not None:
            return pruned.explain(k)
        return sorted(found, key=lambda e: e.rank)

    def without_zeros(self) -> Explainer | None:
        """The same search with what contributes nothing in all taken as constant, as hands rightly do.

        The maximum that a softmax subtracts has a zero cotangent only because its paths cancel. Who
        leaves it out is right, and one who then cuts another path has not cut what a cut tape has.
        """
        if self.sweep.constants:
            return None
        zeros = set()
        for node, edges in self.consumers.items():
            if node in self.leaf_nodes or len(edges) + len(self.sweep.edges[edges[0]].shape) < 1:
                continue
            terms = max(float(host.abs(self.sweep.cotangents[n]).max(initial=0.0)) for n, _ in edges)
            if terms > 0 and float(host.abs(self.sweep.cotangents[node]).max(initial=0.0)) <= 1e-12 * terms:
                zeros.add(node)
        if not zeros:
            return None
        return Explainer(Sweep(self.run, self.sweep.seeds, frozenset(zeros)), self.hand, self.tolerances)

    def whole(self) -> Iterator[Explanation]:
        """The gradient as a whole: zero, the other sign, scaled, rearranged, another argument's."""
        a, h, d = self.a, self.h, "{d}"
        if not host.any(h):
            yield Explanation(("zero",), SIMPLE, "zero", "{d} {is} zero everywhere, and autodiff's {is} not")
            return
        if self.fits(-a):
            yield Explanation(("sign",), SIMPLE, "wrong sign", "{d} {has} the wrong sign: {is} -1 times autodiff's", factor="-1")
        size = float((a * a).sum())
        w = float((a * h).sum()) / size if size else 0.0
        if self.fits(w * a) and abs(w + 1) > 1e-6:
            named = self.name_weight(w)
            sign = " and the wrong sign" if w < 0 else ""
            if named is not None:
                message = named.sentence(d).replace("lacks", "{lacks}").replace("has", "{has}") + sign
                yield Explanation(("whole", named.short, w < 0), SIMPLE + 0.1, "factor", message, factor=named.short)
            elif a.size >= 3:
                message = "{d} {is} " + f"{w:.6g} times autodiff's, everywhere, a number that stands for nothing on the tape"
                yield Explanation(("whole", round(w, 6)), INVOLVED, "factor", message, factor=f"{w:.6g}")
        for j, other in enumerate(self.sweep.gradients):
            if j != self.k and other.shape == a.shape and self.fits(other):
                yield Explanation(
                    ("swapped",), SIMPLE, "swapped", "{d} holds " + f"autodiff's d{self.run.leaf_name(j)}", (self.run.leaf_name(j),)
                )  # fmt: skip
        for words, moved in rearrangements(a):
            if moved.shape == a.shape and self.fits(moved):
                yield Explanation(("moved", words), SIMPLE + 0.05, "permuted", "{d} {is} autodiff's " + words)

    def upstream(self) -> Iterator[Explanation]:
        """The cotangent ignored, applied twice, or only its mean used."""
        ways: dict[str, Callable[[Array], Array]] = {
            "ignored": host.ones_like,
            "twice": lambda g: g * g,
            "summed": lambda g: host.full_like(g, g.sum()),
            "averaged": lambda g: host.full_like(g, g.mean()),
        }
        words = {
            "ignored": "{d} {ignores} the upstream gradient: {is} what a cotangent of ones would give",
            "twice": "{d} {has} the upstream gradient applied twice",
            "summed": "{d} {is} as if every output had the sum of the upstream gradient",
            "averaged": "{d} {is} as if every output had the mean of the upstream gradient",
        }
        for name, way in ways.items():
            seeds = {node: way(g) for node, g in self.sweep.seeds.items()}
            predicted = self.sweep.at_leaf(self.sweep.down(seeds), self.k)
            if self.fits(predicted):
                yield Explanation(("upstream", name), SIMPLE, f"upstream {name}", words[name])

        if len(self.sweep.seeds) > 1:
            for node in self.sweep.seeds:
                left = {other: g for other, g in self.sweep.seeds.items() if other is not node}
                if self.fits(self.sweep.at_leaf(self.sweep.down(left), self.k)):
                    message = "{d} {ignores} the upstream gradient of the output " + self.run.describe(node)
                    yield Explanation(("output", node), SIMPLE, "missing path", message, self.names_of(node))

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
            if len(inputs) == 1 and x in inputs and len(self.consumers.get(x, ())) > 1:  # type: ignore[arg-type]
                pass
        return places

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

    def _weights(self) -> list[tuple[Node | Edge, Array]]:
        """For every site what passes through it, as the random directions see it."""
        key = ("weights", self.k)
        if getattr(self, "_weights_key", None) != key:
            self._weights_key = key
            self._weights_kept = []
            for site in self._sites():
                p = self.sweep.seen(self.k, *self.sweep.landing(site))
                if host.abs(p).max() > 0:
                    self._weights_kept.append((site, p))
        return self._weights_kept

    def sites(self) -> Iterator[Explanation]:
        """One path missing, of the wrong sign, or scaled by a number."""
        whole = self.u.reshape(DIRECTIONS, -1) @ self.a.reshape(-1)
        for site, p in self._weights():
            w = 1 + float(p @ self.q) / float(p @ p)
            if not (host.abs((w - 1) * p - self.q) <= self.q_tol).all():
                continue
            everything = bool((host.abs(p - whole) <= 1e-9 * host.abs(whole).max()).all())
            effect = self.sweep.at_leaf(self.sweep.effect(site), self.k)
            yield from self._weighted(site, w, effect, everything)

    def _weighted(self, site: Node | Edge, w: float, effect: Array, everything: bool) -> Iterator[Explanation]:
        words, names = self.path_words(site), self.names_of(site)
        rank = PLAIN + self.believed(site) + (0.8 if everything else 0.0)
        if abs(w) < 1e-5 and self.fits(self.a - effect):
            if not everything:
                message = "{d} {equals} autodiff with " + words + " cut: it is missing"
                yield Explanation(("cut", site), rank, "missing path", message, names, "0", self._where(site))
            return
        if not self.fits(self.a + (w - 1) * effect):
            return
        hint = self._hint(site, w)
        if abs(w + 1) < 2e-6:
            message = "in {d} " + words + f" has the wrong sign{hint}"
            yield Explanation(("sign", site), rank, "wrong sign", message, names, "-1", self._where(site))
            return
        named = self.name_weight(w)
        if named is not None:
            sign = " and the wrong sign" if w < 0 else ""
            message = "in {d} " + named.sentence(words) + sign + hint
            rank += 0.0 if hint else 0.05
            yield Explanation(("weight", site, named.short), rank, "factor", message, names, named.short, self._where(site))
        elif self.a.size >= 6:
            message = "in {d} " + f"{words} counts {w:.6g} times"
            yield Explanation(("weight", site), rank + 2, "factor", message, names, f"{w:.6g}", self._where(site))

    def _where(self, site: Node | Edge) -> dict[str, Any]:
        node = site if isinstance(site, Node) else site[0]
        return {"line": f"{self.run.lines[node][0]}: {self.run.lines[node][1]}"} if node in self.run.lines else {}

    def _segment(self, site: Node | Edge) -> list[Edge]:
        """The edges that carry the same thing as a site: the chain without forks that it stands on."""
        chain: list[Edge] = [] if isinstance(site, Node) else [site]
        node = site if isinstance(site, Node) else site[0].inputs[site[1]]
        top = node
        while top is not None and len(self.consumers.get(top, ())) == 1:
            edge = self.consumers[top][0]
            chain.append(edge)
            top = edge[0] if sum(s in self.sweep.needed for s in edge[0].inputs if s is not None) == 1 else None
        while node is not None and node.primitive is not None:
            inputs = [(node, i) for i, s in enumerate(node.inputs) if s is not None and s in self.sweep.needed]
            if len({e[0].inputs[e[1]] for e in inputs}) != 1:
                break
            chain += inputs
            node = node.inputs[inputs[0][1]]
            if len(self.consumers.get(node, ())) != len(inputs):  # type: ignore[arg-type]
                break
        return chain

    def _hint(self, site: Node | Edge, w: float) -> str:
        """Where on a chain a factor like this one is easily lost."""
        for node, i in self._segment(site):
            assert node.primitive is not None
            row, same = node.primitive.name, len(set(node.inputs)) < len(node.inputs)
            where = self.run.where(node)
            if abs(w + 1) < 1e-6 and ((row in ("subtract", "divide") and i == 1) or row in ("negative", "reciprocal")):
                return f" (the minus that the derivative of the {row} brings{where})"
            if abs(w - 2) < 1e-6 and row == "sqrt":
                return f" (the 1/2 of the derivative of the root{where} is left out)"
            if abs(w - 0.5) < 1e-6 and (row == "square" or (row == "multiply" and same)):
                return f" (the 2 of the derivative of the square{where} is left out)"
            if row == "mean" and abs(w - math.prod(node.inputs[0].shape) / math.prod(node.shape)) < 1e-6 * abs(w):  # type: ignore[union-attr]
                return f" (the 1/m of the mean{where} is left out)"
        return ""

    def constants(self) -> Iterator[Explanation]:
        """Several statistics treated as constants at once."""
        below = self.sweep.directions(self.k)[1]
        statistics = [
            n for n in self.run.order
            if n in below and n in self.sweep.cotangents and n.primitive is not None and n not in self.seed_nodes
            and (n in self.run.names or n.primitive.name in STATISTICS)
        ]  # fmt: skip
        statistics = statistics[:12]
        for many in (2, 3):
            for chosen in itertools.combinations(statistics, many):
                predicted = self.sweep.at_leaf(self.sweep.down(self.sweep.seeds, drop=frozenset(chosen)), self.k)
                if self.fits(predicted):
                    singly = [self.sweep.down(self.sweep.seeds, drop=frozenset({n})) for n in chosen]
                    if any(self.fits(self.sweep.at_leaf(one, self.k)) for one in singly):
                        continue
                    words = " and ".join(self.run.describe(n) for n in chosen)
                    quantity = "both" if many == 2 else "all three"
                    message = "{d} {equals} autodiff with " + f"{words} {quantity} treated as constants: their paths are missing"
                    rank = PLAIN + 0.5 + 0.3 * (many - 2) + sum(self.believed(n) for n in chosen)
                    names = tuple(self.run.names.get(n, self.run.describe(n)) for n in chosen)
                    yield Explanation(("constants", chosen), rank, "missing path", message, names, "0")

    def factors(self) -> Iterator[Explanation]:
        """Off by a named array: the whole gradient, or what passes one site."""
        for factor, value in self.forms():
            value = fitted(value, self.a.shape)
            if value is not None and self.fits(self.a * value):
                message = factor.sentence("{d}").replace("lacks", "{lacks}").replace("has", "{has}")
                yield Explanation(("whole", factor.short), PLAIN + 0.1, "factor", message, factor=factor.short)
            for sign in (-1.0,):
                if value is not None and self.fits(sign * self.a * value):
                    message = factor.sentence("{d}").replace("lacks", "{lacks}").replace("has", "{has}")
                    yield Explanation(
                        ("whole", "-" + factor.short), PLAIN + 0.4, "factor", message + " and has the wrong sign", factor=factor.short
                    )
        for site, _ in self._weights():
            source, c = self.sweep.landing(site)
            for factor, value in self.likely(source, c):
                if self.confirmed(source, c * value - c):
                    message = "in {d} " + factor.sentence(self.path_words(site))
                    yield Explanation(
                        ("factor", site, factor.short), LOCAL + 0.2 + self.believed(site), "factor", message,
                        self.names_of(site), factor.short, self._where(site),
                    )  # fmt: skip

    def fitting(self, shape: tuple[int, ...]) -> tuple[list[tuple[Factor, Array]], Array]:
        """The factors that fit a shape, and all of them as the rows of one matrix."""
        if shape not in self._fitting:
            fit = [(factor, host.broadcast_to(v, shape)) for factor, value in self.forms() if (v := fitted(value, shape)) is not None]
            rows = host.stack([v.reshape(-1) for _, v in fit]) if fit else host.zeros((0, math.prod(shape)))
            self._fitting[shape] = (fit, rows)
        return self._fitting[shape]

    def likely(self, node: Node, c: Array) -> list[tuple[Factor, Array]]:
        """The factors on a contribution `c` to a node that pass the test of the first direction, all tried at once."""
        tangents = self.sweep.directions(self.k)[1].get(node)
        if tangents is None or not c.size:
            return []
        fit, rows = self.fitting(c.shape)
        weights = (c * tangents[0]).reshape(-1)
        passed = host.abs(rows @ weights - weights.sum() - self.q[0]) <= self.q_tol
        return [fit[i] for i in host.flatnonzero(passed)]

    def local(self) -> Iterator[Explanation]:
        """The derivative of one op left out: its cotangent passed on as it came."""
        for node in self.run.order:
            row = node.primitive
            if row is None or row.kind not in ("elementwise", "bilinear") or node not in self.sweep.cotangents:
                continue
            g = self.sweep.cotangents[node]
            for i, source in enumerate(node.inputs):
                if (node, i) not in self.sweep.edges or row.kind != "elementwise":
                    continue
                assert source is not None
                c = self.sweep.edges[node, i]
                passed = g if g.shape == source.shape else sum_to(g, source.shape)
                for sign, words in ((1.0, ""), (-1.0, " (and a minus)")):
                    if self.confirmed(source, sign * passed - c):
                        yield Explanation(
                            ("local", node, i), LOCAL + (0.0 if sign > 0 else 0.4), "derivative left out",
                            "{d} {lacks} " + self._derivative(node, i) + words, self.names_of(node), None, self._where(node),
                        )  # fmt: skip
                once = self._again(node, i, g, c)
                if once is not None and self.confirmed(source, once - c):
                    yield Explanation(
                        ("again", node, i), LOCAL + 0.3, "derivative twice",
                        "{d} {has} " + self._derivative(node, i) + " twice", self.names_of(node), None, self._where(node),
                    )  # fmt: skip

    def _again(self, node: Node, i: int, g: Array, c: Array) -> Array | None:
        """The contribution with the local derivative applied twice."""
        if c.shape != g.shape:
            return None
        for j, _, again in pull(node, c, False, self.sweep.needed):
            if j == i and again.shape == c.shape:
                return again
        return None

    def _derivative(self, node: Node, i: int) -> str:
        """The local derivative of an op in words."""
        assert node.primitive is not None
        name = node.primitive.name.rstrip("_")
        if name in ("multiply", "divide") and len(node.inputs) == 2:
            other = node.inputs[1 - i]
            if name == "multiply" and other is not None:
                return f"the factor {self.run.describe(other)} of {self.run.describe(node)}{self.run.where(node)}"
            if name == "divide" and i == 0 and other is not None:
                return f"the factor 1/{self.run.describe(other)} of {self.run.describe(node)}{self.run.where(node)}"
        return f"the derivative of {name} at {self.run.describe(node)}{self.run.where(node)}"

    def mistaken(self) -> Iterator[Explanation]:
        """A value used where another was meant, and a value transposed, flipped or negated."""
        for node in self.run.order:
            row = node.primitive
            if row is None or row.joint is not None or node not in self.sweep.cotangents or not row.lifts:
                continue
            g = self.sweep.cotangents[node]
            for place, held in enumerate(node.residuals):
                if not isinstance(held, host.ndarray) or held.dtype.kind != "f":
                    continue
                meant = self._meant(node, row.lifts[place])
                for text, other, source in self._candidates(held, g):
                    if source is not None and meant == self.run.describe(source):
                        continue
                    values = list(node.residuals)
                    values[place] = other
                    try:
                        wrong = {i: c for i, _, c in pull(node, g, False, self.sweep.needed, values)}
                    except (ValueError, TypeError, IndexError):
                        continue
                    for i, c in wrong.items():
                        right = self.sweep.edges[node, i]
                        target = node.inputs[i]
                        assert target is not None
                        if c.shape == right.shape and self.confirmed(target, c - right):
                            at = self.run.describe(node)
                            message = "{d} {uses} " + f"{text} where {meant} is meant, in the derivative of {at}{self.run.where(node)}"
                            rank = LOCAL + 0.1 + (0.0 if "`" in text[:1] or "of `" in text else 0.4) + (0.0 if meant[:1] == "`" else 0.3)
                            names = tuple(w.strip("`") for w in (text, meant))
                            yield Explanation(("mistaken", node, place, text), rank, "mistaken value", message, names, None, self._where(node))

    def _meant(self, node: Node, origin: int | None) -> str:
        if origin == -1:
            return self.run.describe(node)
        if origin is not None and origin >= 0:
            source = node.inputs[origin]
            if source is not None:
                return self.run.describe(source)
            for text, value, _ in self.values:
                if value is self.run.arguments[node][origin]:
                    return text
        return "another value"

    def _candidates(self, held: Array, upstream: Array | None = None) -> Iterator[tuple[str, Array, Node | None]]:
        """What could have been used in place of a value: others of its shape, and itself rearranged."""
        for text, value, source in self.values:
            if value.dtype.kind == "f" and value is not held:
                shaped = fitted(value, held.shape)
                if shaped is not None:
                    yield text, host.broadcast_to(shaped, held.shape), source
        itself = next((text for text, value, _ in self.values if value is held), "a value")
        for words, moved in rearrangements(held):
            if moved.shape == held.shape:
                yield f"{itself} {words}", moved, None
        yield f"minus {itself}", -held, None
        if upstream is not None and upstream.shape == held.shape:
            yield "the cotangent that arrives", upstream, None
        if (held > 0).all():
            yield f"the square of {itself}", held * held, None
            yield f"the root of {itself}", host.sqrt(held), None

    def overwritten(self) -> Iterator[Explanation]:
        """Contributions that were assigned where they should have been added up."""
        for source, edges in self.consumers.items():
            if len(edges) > 2:
                for edge in edges:
                    if self.confirmed(source, self.sweep.edges[edge] - self.sweep.cotangents[source]):
                        at = self.run.describe(source)
                        message = f"of the {len(edges)} contributions to {at} " + "only one is left in {d}, the one from "
                        message += f"{self.run.describe(edge[0])}: the others are overwritten instead of added up"
                        yield Explanation(("only", source), LOCAL, "overwritten", message, self.names_of(source))
            takes = [node for node, _ in edges if node.primitive is not None and node.primitive.name == "take"]
            if not takes or source not in self.sweep.cotangents or len(takes) != len(edges):
                continue
            written = host.zeros(source.shape, source.dtype)
            for node in takes:
                written[node.params[0]] = self.sweep.cotangents[node]
            if self.confirmed(source, written - self.sweep.cotangents[source]):
                at = self.run.describe(source)
                message = "in {d} contributions to " + f"{at} that meet in one element overwrite each other, and should be added up"
                yield Explanation(("overwritten", source), LOCAL, "overwritten", message, self.names_of(source))

    def passed_over(self) -> Iterator[Explanation]:
        """The derivative of everything between two intermediates left out: the cotangent handed straight down."""
        below = self.sweep.directions(self.k)[1]
        named = [n for n in self.run.order if n in below and n in self.sweep.cotangents and n in self.run.names]
        for low, high in itertools.combinations(named, 2):
            if low.shape == high.shape and self.confirmed(low, self.sweep.cotangents[high] - self.sweep.cotangents[low]):
                between = f"from {self.run.describe(low)} to {self.run.describe(high)}"
                message = "{d} {lacks} the derivative of the way " + f"{between}: the cotangent of {self.run.describe(high)} is "
                message += f"used as that of {self.run.describe(low)}"
                names = (self.run.names[low], self.run.names[high])
                yield Explanation(("over", low, high), LOCAL + 0.4, "derivative left out", message, names, None, self._where(high))

    def replaced(self) -> Iterator[Explanation]:
        """A local derivative replaced by a simple function of some value, or a maximum's by a mean's or a sum's."""
        for node in self.run.order:
            row = node.primitive
            if row is None or node not in self.sweep.cotangents:
                continue
            g = self.sweep.cotangents[node]
            for i, source in enumerate(node.inputs):
                if source is None or (node, i) not in self.sweep.edges:
                    continue
                c = self.sweep.edges[node, i]
                at = f"{self.run.describe(node)}{self.run.where(node)}"
                function = len(row.arguments) == 1 or row.name in ("maximum", "minimum")
                if row.kind == "elementwise" and function and g.shape == c.shape:
                    tangents = self.sweep.directions(self.k)[1].get(source)
                    if tangents is None:
                        continue
                    fit, rows = self.fitting(g.shape)
                    hits = host.abs(rows @ (g * tangents[0]).reshape(-1) - (c * tangents[0]).sum() - self.q[0]) <= self.q_tol
                    for number in host.flatnonzero(hits):
                        factor, value = fit[number]
                        if self.confirmed(source, g * value - c):
                            message = "{d} {uses} " + f"{factor.short} for the derivative of {row.name.rstrip('_')} at {at}"
                            yield Explanation(
                                ("replaced", node, factor.short), LOCAL + 0.35, "wrong derivative", message,
                                self.names_of(node), factor.short, self._where(node),
                            )  # fmt: skip
                elif row.name == "amax":
                    axis, keepdims = node.params
                    wide = g if keepdims or axis is None else host.expand_dims(g, axis)
                    wide = host.broadcast_to(wide, source.shape)
                    for many, words in ((source_size(source) / max(1, g.size), "spread evenly over"), (1.0, "copied to")):
                        if self.confirmed(source, wide / many - c):
                            message = "in {d} the cotangent of the maximum at " + f"{at} is {words} all elements; only the largest has it"
                            yield Explanation(("spread", node), LOCAL, "wrong derivative", message, self.names_of(node), None, self._where(node))

    def exchanged(self) -> Iterator[Explanation]:
        """The two factors of a product exchanged, parts written into one another's place, a factor applied too late."""
        for node in self.run.order:
            row = node.primitive
            if row is None or node not in self.sweep.cotangents:
                continue
            g = self.sweep.cotangents[node]
            if row.name == "multiply" and all((node, i) in self.sweep.edges for i in (0, 1)):
                a, b = node.inputs
                assert a is not None and b is not None
                if a is not b and a.shape == b.shape == node.shape:
                    va, vb = self.run.values[a], self.run.values[b]
                    two = {a: g * va - self.sweep.edges[node, 0], b: g * vb - self.sweep.edges[node, 1]}
                    if self._both(two):
                        words = f"{self.run.describe(a)} and {self.run.describe(b)}"
                        message = "in {d} the factors " + f"{words} of {self.run.describe(node)} are exchanged{self.run.where(node)}"
                        yield Explanation(("exchanged", node), LOCAL, "mistaken value", message, self.names_of(node), None, self._where(node))
            if row.name == "multiply":
                yield from self._too_late(node, g)
        for source, edges in self.consumers.items():
            takes = [n for n, _ in edges if n.primitive is not None and n.primitive.name == "take"]
            for first, second in itertools.combinations(takes[:8], 2):
                if first.shape != second.shape or source not in self.sweep.cotangents:
                    continue
                moved = host.zeros(source.shape)
                moved[first.params[0]] += self.sweep.cotangents[second] - self.sweep.cotangents[first]
                moved[second.params[0]] += self.sweep.cotangents[first] - self.sweep.cotangents[second]
                if self.confirmed(source, moved):
                    parts = " and ".join(self._part(n) for n in (first, second))
                    message = "in {d} the parts that belong to " + f"{parts} are written into one another's place"
                    yield Explanation(("places", source, first, second), LOCAL, "permuted", message, (self._part(first).strip("`"), self._part(second).strip("`")))

    def _part(self, node: Node) -> str:
        """What became of a slice, under the nearest name."""
        seen = node
        while seen not in self.run.names or "." in self.run.names[seen]:
            edges = self.consumers.get(seen, ())
            if len(edges) != 1:
                break
            seen = edges[0][0]
        return self.run.describe(seen if seen in self.run.names else node)

    def _both(self, deltas: Mapping[Node, Array]) -> bool:
        seen = sum(self.sweep.seen(self.k, node, delta) for node, delta in deltas.items())
        if not (host.abs(seen - self.q) <= self.q_tol).all():
            return False
        return self.fits(self.a + self.sweep.at_leaf(self.sweep.down(deltas), self.k))

    def _too_late(self, node: Node, g: Array) -> Iterator[Explanation]:
        """A factor of a product that multiplies the finished gradient instead of the cotangent it belongs to."""
        for i, source in enumerate(node.inputs):
            if source is None or (node, i) not in self.sweep.edges:
                continue
            other = self.run.arguments[node][1 - i]
            value = fitted(host.asarray(other), self.a.shape)
            if value is None:
                continue
            passed = g if g.shape == source.shape else sum_to(g, source.shape)
            without = self.a + self.sweep.at_leaf(self.sweep.down({source: passed - self.sweep.edges[node, i]}), self.k)
            if self.fits(without * value):
                factor = node.inputs[1 - i]
                words = self.run.describe(factor) if factor is not None else "a constant"
                message = "{d} {has} the factor " + f"{words} applied too late: it belongs to the cotangent that enters "
                message += f"{self.run.describe(node)}, before the sums{self.run.where(node)}"
                yield Explanation(("late", node, i), LOCAL + 0.3, "factor too late", message, self.names_of(node), words, self._where(node))

    def everywhere(self) -> Iterator[Explanation]:
        """The same slip at every step of a loop: all nodes that one line made, or all uses of one value."""
        groups: dict[tuple[int, str, int], list[Edge]] = {}
        uses: dict[int, list[tuple[Node, int]]] = {}
        for node in self.run.order:
            if node not in self.sweep.cotangents or node.primitive is None or node.primitive.joint is not None:
                continue
            for i in range(len(node.inputs)):
                if (node, i) in self.sweep.edges and node in self.run.lines:
                    groups.setdefault((self.run.lines[node][0], node.primitive.name, i), []).append((node, i))
            for place, value in enumerate(node.residuals):
                if isinstance(value, host.ndarray) and value.dtype.kind == "f" and value.ndim > 1:
                    uses.setdefault(id(value), []).append((node, place))
        for (_, name, i), edges in list(groups.items())[:40]:
            if len(edges) < 2:
                continue
            where, many = self.run.where(edges[0][0]), len(edges)
            cut = self.sweep.down(self.sweep.seeds, edit={edge: (lambda g, c: c * 0) for edge in edges})
            if self.fits(self.sweep.at_leaf(cut, self.k)):
                source = self.run.describe(edges[-1][0].inputs[i])  # type: ignore[arg-type]
                message = "{d} {equals} autodiff with " + f"all {many} paths into {source.split(' #')[0].rstrip('`')}` through the {name.rstrip('_')} cut{where}"
                yield Explanation(("all cut", where, i), LOCAL + 0.2, "missing path", message, self.names_of(edges[0]), "0", self._where(edges[0]))
            if all(node.primitive is not None and node.primitive.kind == "elementwise" for node, _ in edges):
                same = [edge for edge in edges if edge[0].shape == edge[0].inputs[i].shape]  # type: ignore[union-attr]
                left = self.sweep.down(self.sweep.seeds, edit={edge: (lambda g, c: g) for edge in same})
                if same and self.fits(self.sweep.at_leaf(left, self.k)):
                    message = "{d} {lacks} " + f"the derivative of {name.rstrip('_')} at each of {many} steps{where}"
                    yield Explanation(("all left", where, i), LOCAL, "derivative left out", message, self.names_of(edges[0]), None, self._where(edges[0]))
        for places in list(uses.values())[:24]:
            if len(places) < 2:
                continue
            held = places[0][0].residuals[places[0][1]]
            text = next((words for words, value, _ in self.values if value is held), None)
            for words, moved in rearrangements(held) if text else ():
                if moved.shape != held.shape:
                    continue
                values = {node: list(node.residuals) for node, _ in places}
                for node, place in places:
                    values[node][place] = moved
                try:
                    found = self.sweep.down(self.sweep.seeds, residuals=values)
                except (ValueError, TypeError):
                    continue
                if self.fits(self.sweep.at_leaf(found, self.k)):
                    message = "{d} {uses} " + f"{text} {words} where {text} itself is meant, at each of {len(places)} steps"
                    yield Explanation(("all moved", text, words), LOCAL, "mistaken value", message, (str(text).strip("`"),))

        yield from self._rearranged_inputs()

    def _rearranged_inputs(self) -> Iterator[Explanation]:
        """An input used flipped or transposed throughout the backward pass, as a kernel in a convolution."""
        for j, x in enumerate(self.run.leaves):
            if x.ndim < 2 or x.size > 1e5:
                continue
            carriers: set[Node] = {x.node}  # type: ignore[arg-type]
            for node in self.run.order:
                if node.primitive is not None and node.primitive.name in MOVES and not carriers.isdisjoint(node.inputs):
                    carriers.add(node)
            users = [n for n in self.run.order if n.primitive is not None and not carriers.isdisjoint(n.inputs)]
            for words, moved in rearrangements(x.data):
                if moved.shape != x.shape or host.array_equal(moved, x.data):
                    continue
                changed = {n: v for n, (v, _) in self.sweep.replayed({x.node: moved}, carriers).items()}  # type: ignore[dict-item]
                mixed = {n: self._mixed(n, changed) for n in users if n.primitive.joint is None}  # type: ignore[union-attr]
                try:
                    found = self.sweep.down(self.sweep.seeds, residuals=mixed)
                except (ValueError, TypeError):
                    continue
                if self.fits(self.sweep.at_leaf(found, self.k)):
                    name = self.run.leaf_name(j)
                    message = "{d} {uses} " + f"`{name}` {words} where `{name}` itself is meant"
                    yield Explanation(("input moved", j, words), LOCAL, "mistaken value", message, (name,))

    def replays(self) -> Iterator[Explanation]:
        """A constant left out of the values that the backward pass used (eps), or m - 1 for m in them."""
        for node in self.run.order:
            row = node.primitive
            if row is None or node not in self.sweep.cotangents:
                continue
            if row.name == "add":
                constant = next((a for a in self.run.arguments[node] if not getattr(a, "ndim", 0) and not _is_node(a)), None)
                source = next((s for s in node.inputs if s is not None), None)
                if constant is None or source is None or sum(s is not None for s in node.inputs) != 1 or not float(constant):
                    continue
                value = host.broadcast_to(self.run.values[source], node.shape)
                text = f"{float(constant):.6g}"
                words = "{d} {leaves} out " + f"{text} (eps) that is added in {self.run.describe(node)}{self.run.where(node)}"
                yield from self._replayed(node, value, words, "eps left out", text)
            elif row.name in ("mean", "divide") and (node in self.run.names or row.name == "mean"):
                source = next((s for s in node.inputs if s is not None), None)
                if source is None:
                    continue
                for m in self.counts:
                    if row.name == "mean" and m != math.prod(source.shape) // max(1, math.prod(node.shape)):
                        continue
                    if m < 2:
                        continue
                    value = self.run.values[node] * (m / (m - 1))
                    words = "{d} {uses} " + f"{self.run.describe(node)} divided by m - 1 instead of m = {m}{self.run.where(node)}"
                    yield from self._replayed(node, value, words, "factor", "m/(m-1)")

    def _replayed(self, node: Node, value: Array, words: str, kind: str, factor: str) -> Iterator[Explanation]:
        """Backward passes in which some of the values below a changed one follow the change."""
        fresh = self.sweep.replayed({node: value})
        if any(not host.isfinite(v).all() for v, _ in fresh.values()):
            return
        for n, (v, _) in fresh.items():
            if n is node or v.shape != self.run.values[n].shape:
                continue
            ratio = fitted(self.run.values[n] / v, self.a.shape)
            for power in (1, -1, 2, -2, 3):
                if ratio is not None and self.fits(self.a * ratio**power):
                    yield Explanation((kind, node), INVOLVED - 0.5, kind, words, self.names_of(node), factor, self._where(node))
                    return
        chosen = [n for n in fresh if n is not node and n in self.sweep.cotangents][:7]
        for many in range(len(chosen), 0, -1):
            for subset in itertools.combinations(chosen, many):
                mixed: dict[Node, Any] = {}
                for n in self.run.order:
                    if n.primitive is None or n.primitive.joint is not None or n not in self.sweep.cotangents:
                        continue
                    mixed[n] = self._mixed(n, {s: fresh[s][0] for s in subset} | ({node: value}))
                predicted = self.sweep.at_leaf(self.sweep.down(self.sweep.seeds, residuals=mixed), self.k)
                if self.fits(predicted):
                    yield Explanation((kind, node), INVOLVED - 0.5, kind, words, self.names_of(node), factor, self._where(node))
                    return

    def _mixed(self, node: Node, changed: Mapping[Node, Array]) -> list[Any]:
        """A node's residuals with the changed values of its inputs and output in them."""
        values = list(node.residuals)
        assert node.primitive is not None
        for place, origin in enumerate(node.primitive.lifts):
            if origin == -1 and node in changed:
                values[place] = changed[node]
            elif origin is not None and origin >= 0 and values[place] is not None and node.inputs[origin] in changed:
                values[place] = changed[node.inputs[origin]]  # type: ignore[index]
        return values

    def pairs(self) -> Iterator[Explanation]:
        """Two paths off by known numbers, or a factor on everything and one path besides."""
        weights = [(s, p) for s, p in self._weights() if isinstance(s, Node) and s in self.run.names]
        weights = weights or self._weights()
        whole = self.u.reshape(DIRECTIONS, -1) @ self.a.reshape(-1)
        for (s1, p1), (s2, p2) in itertools.combinations(weights[:24], 2):
            both = host.stack([p1, p2], 1)
            w, *_ = host.linalg.lstsq(both, self.q, rcond=1e-9)
            if not (host.abs(both @ w - self.q) <= self.q_tol).all():
                continue
            first, second = self._known(1 + w[0]), self._known(1 + w[1])
            if first is None or second is None:
                continue
            effects = [self.sweep.at_leaf(self.sweep.effect(s), self.k) for s in (s1, s2)]
            if self.fits(self.a + w[0] * effects[0] + w[1] * effects[1]):
                message = "two things in {d}: " + f"{self.path_words(s1)} {first}, and {self.path_words(s2)} {second}"
                rank = COMPOUND + self.believed(s1) + self.believed(s2)
                kind = "missing path" if {first, second} == {"is missing"} else "combination"
                yield Explanation(("pair", s1, s2), rank, kind, message, self.names_of(s1) + self.names_of(s2))
        off = [(f, fitted(v, self.a.shape)) for f, v in self.forms()]
        off += [(f, host.asarray(f.value)) for f in self._scalars] + [(Factor("-1", -1.0), host.asarray(-1.0))]
        for factor, value in off:
            if value is None or not host.all(value):
                continue
            q = self.u.reshape(DIRECTIONS, -1) @ (self.h / value - self.a).reshape(-1)
            tol = 1e-5 * float(host.abs(whole).max()) * 1e-2
            for site, p in weights:
                w1 = 1 + float(p @ q) / float(p @ p)
                if not (host.abs((w1 - 1) * p - q) <= tol).all():
                    continue
                known = self._known(w1)
                effect = self.sweep.at_leaf(self.sweep.effect(site), self.k)
                if known is not None and self.fits((self.a + (w1 - 1) * effect) * value):
                    message = "two things: " + factor.sentence("{d}").replace("lacks", "{lacks}").replace("has", "{has}")
                    message += f", and {self.path_words(site)} {known}"
                    rank = COMPOUND + 0.5 + self.believed(site)
                    yield Explanation(
                        ("both", factor.short, site), rank, "combination", message, self.names_of(site), factor.short
                    )

    def _known(self, w: float) -> str | None:
        """What a weight does to a path, where it is a known number."""
        if abs(w) < 1e-5:
            return "is missing"
        if abs(w + 1) < 1e-5:
            return "has the wrong sign"
        named = self.name_weight(w)
        return None if named is None or w < 0 else named.sentence("it")[3:]

    def combinations(self) -> Iterator[Explanation]:
        """The gradient as a weighted sum of all its paths, apart by the named intermediates."""
        groups = self.groups(self.k)
        if not 2 <= len(groups) <= DIRECTIONS - 1 or self.a.size <= len(groups):
            return
        columns = host.stack([c.reshape(-1) for c in groups.values()], 1)
        if host.linalg.matrix_rank(columns, tol=1e-8 * host.abs(columns).max()) < len(groups):
            return
        w, *_ = host.linalg.lstsq(columns, self.h.reshape(-1), rcond=None)
        if not self.fits((columns @ w).reshape(self.a.shape)):
            return
        changed = [(labels, x) for labels, x in zip(groups, w, strict=True) if abs(x - 1) > 1e-5]
        told = [(labels, self._known(x) or f"counts {x:.4g} times") for labels, x in changed]
        words = "; ".join(f"the path x -> {' -> '.join(labels) or 'y'} {what}" for labels, what in told)
        yield Explanation(("weights",), COMPOUND + 1, "combination", "in {d} " + words, tuple({n for ls, _ in told for n in ls}))

    def absolute(self, k: int) -> Array:
        """The sizes of the terms that the k-th gradient adds up: what its rounding is to be judged by."""
        x = self.run.leaves[k].node
        total = host.abs(self.sweep.gradients[k]) + sum(host.abs(c) for c in self.groups(k).values())
        for node, i in self.consumers.get(x, ()):  # type: ignore[arg-type]
            row = node.primitive
            assert row is not None
            if row.joint is not None:
                continue
            rule, places = row.pullbacks[0 if row.variadic else i]  # type: ignore[misc]
            values = [node.residuals[place] if place >= 0 else i for place in places]
            sizes = [host.abs(v) if isinstance(v, host.ndarray) and v.dtype.kind == "f" else v for v in values]
            with host.errstate(all="ignore"):
                term = sum_to(host.abs(rule(host.abs(self.sweep.cotangents[node]), *sizes)), total.shape)
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


def source_size(node: Node) -> int:
    return math.prod(node.shape)


def _is_node(value: Any) -> bool:
    return isinstance(value, (tuple, list, str)) or value is None


def fitted(value: Array, shape: tuple[int, ...]) -> Array | None:
    """A value in a form that broadcasts to a shape without changing it, or None."""
    if value.ndim <= len(shape):
        try:
            if host.broadcast_shapes(value.shape, shape) == shape:
                return value
        except ValueError:
            pass
    squeezed = value.squeeze()
    if squeezed.shape == tuple(n for n in shape if n != 1):
        return squeezed.reshape(shape)
    return None


def rearrangements(array: Array) -> Iterator[tuple[str, Array]]:
    """Transposed, permuted and flipped copies, with the words for them (shapes may differ)."""
    if array.ndim == 2:
        yield "transposed", array.T
    elif 2 < array.ndim <= 4:
        for order in itertools.permutations(range(array.ndim)):
            if order != tuple(range(array.ndim)):
                yield f"permuted to axes {list(order)}", array.transpose(order)
    for many in range(1, min(array.ndim, 3) + 1):
        for axes in itertools.combinations(range(array.ndim), many):
            if all(array.shape[axis] > 1 for axis in axes):
                yield f"flipped along {'axis' if many == 1 else 'axes'} {', '.join(map(str, axes))}", host.flip(array, axes)
    if array.ndim >= 1 and array.shape[0] > 2:
        for shift in (1, -1):
            yield f"rolled by {shift} along axis 0", host.roll(array, shift, 0)


def reshaped(hand: Array, reference: Array, close: Callable[[Array], bool]) -> tuple[str, str] | None:
    """Why a gradient of the wrong shape is nearly right: (kind, what to do), or None."""
    shape = reference.shape
    if hand.size == reference.size:
        for words, moved in rearrangements(hand):
            if moved.shape == shape and words.startswith(("transposed", "permuted")) and close(moved):
                return "transposed", f"it is autodiff's gradient {words}"
        if close(hand.reshape(shape)):
            return "shape", f"the values are right; reshape it to {list(shape)}"
        return None
    if hand.size > reference.size:
        lead = hand.ndim - len(shape)
        if lead >= 0 and all(n in (1, hand.shape[i + lead]) for i, n in enumerate(shape)):
            try:
                total = kernels.sum_to(hand, shape)
            except ValueError:
                return None
            axes = [i for i in range(hand.ndim) if i < lead or (shape[i - lead] == 1 and hand.shape[i] > 1)]
            if close(total):
                return "broadcast not summed", f"the broadcast is not summed back: sum it over axes {axes}"
            m = hand.size // reference.size
            if close(total / m):
                return "broadcast not summed", f"the broadcast is not summed back: average it over axes {axes}"
        for many in range(1, hand.ndim + 1):
            for chosen in itertools.combinations(range(hand.ndim), many):
                total = hand.sum(axis=chosen)
                if total.size == reference.size and close(total.reshape(shape)):
                    return "broadcast not summed", f"the broadcast is not summed back: sum it over axes {list(chosen)}"
    if hand.size < reference.size:
        try:
            wide = host.broadcast_to(hand, shape)
        except ValueError:
            return None
        if close(wide):
            return "shape", f"the values are right; broadcast it to {list(shape)}"
    return None


__all__ = ["Explainer", "Explanation", "Factor", "fitted", "rearrangements", "replace", "reshaped"]
