"""A hand-derived gradient beside autodiff's: the same cotangents for both, and a tolerance that is measured.

Where autodiff's gradient is not finite there is nothing to compare with: no derivative exists there.
"""

from __future__ import annotations

from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.asked import Asked
from minigrad.check.calling import ask, may_take_cotangents, takes_cotangents_by_name, way_to_call
from minigrad.check.findings import of_a_shape, of_nan, of_no_derivative
from minigrad.check.forward import record
from minigrad.check.rounding import Rounding
from minigrad.check.run import CannotRun, Run, arrays_of, floating, name_of, on_host
from minigrad.check.sweep import Sweep
from minigrad.check.terms import absolute
from minigrad.tape import Node
from minigrad.tensor import Tensor

Array = Any

class Comparison:
    """One recorded run, what `hand` answers to it, and where the two differ.

    sizes, tolerances: of each differentiable input's elements.  wrong: the numbers of those whose
    gradients differ.  findings: what is wrong with the answer before any cause is looked for.
    left: names of gradients that the hand left in attributes, of arrays that are not found.
    rounded: for a narrower dtype the gradients by hand that have only its digits.
    """

    def __init__(self, run: Run, values: list[Any], asked: Asked) -> None:
        hand, rtol = asked.hand, asked.rtol
        self.run, self.values = run, values
        self.names = [run.leaf_name(k) for k in range(len(run.leaves))]
        self.sweep = sweep = Sweep(run, cotangents_of(run, hand, asked.cotangent, asked.seed))
        self.answer = ask(hand, run, [sweep.seeds[y.node] for y in run.outputs if y.node is not None])
        self.findings = list(self.answer.findings)
        steps = {f"{prefix}{name}" for name in run.names.values() for prefix in ("d", "d_", "grad_")}
        self.left = [name for name in run.f.unidentified(self.hands) if name not in steps]
        sizes = [absolute(sweep, k) for k in range(len(self.names))]
        self.sizes = [host.where(host.isfinite(s), s, 0.0) for s in sizes]
        self.rounding = Rounding(run, values, sweep, hand, self.answer, self.sizes, rtol)
        self.tolerances = [self.rounding.tolerance(k) for k in range(len(self.names))]
        self.rounded: dict[str, list[str]] = {}
        if rtol is None:
            self._allow_for_narrow_numbers()
        self.wrong: list[int] = []
        for k, (a, h) in enumerate(zip(sweep.gradients, self.hands, strict=True)):
            if h is not None:
                self._compare(k, a, h)

    def _allow_for_narrow_numbers(self) -> None:
        """Where the hand computed in a narrower dtype than the run, only its digits are compared."""
        for k, name in enumerate(self.names):
            dtype = self.rounding.narrower(k, self.gap(k)) if self.comparable(k) else None
            if dtype is not None:
                self.tolerances[k] = self.rounding.tolerance(k, dtype)
                self.rounded.setdefault(dtype, []).append(f"d{name}")

    @property
    def hands(self) -> list[Array | None]:
        return self.answer.gradients

    @property
    def finite(self) -> bool:
        """Whether every number of autodiff's pass is finite, so that a cause can be looked for."""
        return all(bool(host.isfinite(c).all()) for c in (*self.sweep.cotangents.values(), *self.sweep.edges.values()))

    @property
    def right(self) -> bool:
        return not self.wrong and not any(finding.severity == "mistake" for finding in self.findings)

    def comparable(self, k: int) -> bool:
        """Whether there is a hand-derived gradient of the k-th input, of its shape."""
        h = self.hands[k]
        return h is not None and h.shape == self.sweep.gradients[k].shape

    def gap(self, k: int) -> Array:
        """The differences of the k-th gradient's elements; none where no derivative exists."""
        h, a = self.hands[k], self.sweep.gradients[k]
        return host.where(host.isfinite(a), host.abs(h - a), 0.0)

    def _compare(self, k: int, a: Array, h: Array) -> None:
        if h.shape != a.shape:
            self.findings.append(of_a_shape(self.run, self.sweep, k, h, self.tolerances[k]))
            return
        exists = host.isfinite(a)
        if (exists & ~host.isfinite(h)).any():
            self.findings.append(of_nan(self.names[k], h, exists & ~host.isfinite(h)))
            return
        if not exists.all():
            self.findings.append(of_no_derivative(self.names[k], h, a))
        if not (self.gap(k) <= self.tolerances[k]).all():
            self.wrong.append(k)


def best(run: Run, values: list[Any], asked: Asked) -> tuple[Comparison, bool]:
    """The comparison for the way of calling `hand` that is meant, and whether there was only one way.

    `hand(dh, dc, cache)` and `hand(g, c, cache)` have the same signature. Where the likelier way comes out
    wrong and another one right, the other was meant.
    """
    runs = _readings(run, values, asked)
    tried: list[Comparison] = []
    for one in runs:
        tried.append(Comparison(one, values, asked))
        if tried[-1].right:
            more = [other for other in runs if len(other.outputs) > len(one.outputs)]
            return tried[-1], not any(may_take_cotangents(asked.hand, other) for other in more)
    return tried[0], len(runs) == 1


def _readings(run: Run, values: list[Any], asked: Asked) -> list[Run]:
    """The runs with as many cotangents as the signature of `hand` allows, the likeliest first.

    Where it names several cotangents after the outputs (`dh, dc`), that is the one.
    """
    if asked.outputs is not None or asked.cotangent is not None or not callable(asked.hand):
        return [run]
    runs = [run]
    for value in run.rest:
        if not floating(on_host(value)):
            break
        try:
            runs.append(record(asked.f, values, len(runs) + 1))
        except CannotRun:
            break
    fitting = [
        one for one in runs
        if way_to_call(asked.hand, one)[1] and all(y.node is not None for y in one.outputs[1:])
    ]  # fmt: skip
    named = [one for one in fitting[::-1] if len(one.outputs) > 1 and takes_cotangents_by_name(asked.hand, one)]
    return named[:1] or fitting or [run]


def cotangents_of(run: Run, hand: Any, cotangent: Any, seed: int) -> dict[Node, Array]:
    """The cotangents of the outputs: the user's, or random ones; ones for a loss whose backward takes none."""
    tensors = [y for y in run.outputs if y.node is not None]
    if cotangent is None:
        numbers = all(y.size == 1 for y in run.outputs)
        if not callable(hand) and not numbers:
            raise CannotRun(
                f"gradients were given as {type(hand).__name__}, not as a function, and the output of {name_of(run.f)} "
                f"has shape {list(run.outputs[0].shape)}: "
                "pass cotangent=, the upstream gradient that they were computed with (or pass the backward function)"
            )
        if not callable(hand) or (numbers and "g" not in way_to_call(hand, run)[0]):
            return {y.node: host.ones(y.shape, y.dtype) for y in tensors}  # type: ignore[misc]
        generator = host.random.default_rng(seed)
        return {y.node: _odd(generator, y) for y in tensors}  # type: ignore[misc]
    several = cotangent if isinstance(cotangent, (tuple, list)) and len(run.outputs) > 1 else (cotangent,)
    if isinstance(cotangent, tuple) and len(cotangent) == 1:
        several = cotangent
    if len(several) != len(run.outputs):
        raise CannotRun(f"{len(several)} cotangents were given for {len(run.outputs)} outputs")
    seeds = {}
    for y, given in zip(run.outputs, several, strict=True):
        try:
            g = host.asarray(arrays_of(on_host(given)), dtype=y.dtype)
        except (TypeError, ValueError) as error:
            raise CannotRun(f"the cotangent is a {type(given).__name__} and no array of numbers: {error}") from error
        if g.shape != y.shape:
            raise CannotRun(
                f"the cotangent has shape {list(g.shape)}, and the output of {name_of(run.f)} {list(y.shape)}"
            )
        if not host.isfinite(g).all():
            raise CannotRun("the cotangent holds NaN or infinity: no gradient could be compared")
        if y.node is not None:
            seeds[y.node] = g
    return seeds


def _odd(generator: Any, y: Tensor) -> Array:
    """A random cotangent without values near zero or one another's negatives."""
    g = generator.normal(size=y.shape)
    return host.asarray(g + 0.1 * host.sign(g), dtype=y.dtype)
