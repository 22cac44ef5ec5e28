"""How far rounding alone may take a right gradient from another right one.

Measured: what moving every input by one unit in its last place changes. Estimated, for what that does not
show: the sizes of all terms, carried down the tape times random numbers, so that nothing cancels. Where a
softmax or a sigmoid is saturated, two right formulas cancel differently, and no rounding of the inputs
moves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.calling import Answer, ask, way_to_call
from minigrad.check.forward import record
from minigrad.check.run import CannotRun, Run, by_an_ulp, is_elementwise
from minigrad.check.sweep import Sweep
from minigrad.paths import pull
from minigrad.tape import Node

Array = Any

SATURATED = 32
"""From here on a sigmoid and a tanh are 1 to double precision."""

RTOL = 1e-9
"""Relative tolerance, of the sum of the sizes of a gradient's path terms."""

UNMEASURED = {"float32": 2e-4, "float16": 2e-2}
"""The same where a hand computes in a narrow dtype, and its rounding cannot be told from its mistakes."""


def of_steps(rtol: float | None, *dtypes: Any) -> float:
    """Relative tolerance of the cotangents of intermediates, whose rounding is not measured."""
    narrow = [5 * UNMEASURED[dtype.name] for dtype in dtypes if dtype.name in UNMEASURED]
    return 100 * rtol if rtol else max(100 * RTOL, *narrow, 0.0)


class Rounding:
    """Tolerances for the gradients of one recorded run, in its dtype or in the narrower one that a hand computes in.

    sizes: of each gradient's path terms.  rtol: of them, where the user gave one
    """

    def __init__(
        self, run: Run, values: list[Any], sweep: Sweep, hand: Any, answer: Answer, sizes: list[Array],
        rtol: float | None,
    ) -> None:  # fmt: skip
        self.run, self.values, self.sweep, self.hand, self.answer = run, values, sweep, hand, answer
        self.sizes, self.rtol = sizes, rtol
        self.own = run.leaves[0].dtype
        self.terms = [host.where(host.isfinite(t), t, 0.0) for t in without_cancellation(run, sweep)]
        self._noise: dict[tuple[str, str], list[float]] = {}

    def tolerance(self, k: int, dtype: Any = None) -> Array:
        """Of the k-th gradient's elements.  dtype: that the hand computed in, where it is not the run's own."""
        dtype = self.own if dtype is None else host.dtype(dtype)
        noise = max(self._once(measure, dtype)[k] for measure in (self.moved, self.handed))
        return self.of_dtype(k, dtype) + 32 * noise

    def of_dtype(self, k: int, dtype: Any = None) -> Array:
        """The part of a tolerance that does not depend on how much the inputs' rounding is magnified."""
        dtype = self.own if dtype is None else dtype
        measured = callable(self.hand) and self.own.name not in UNMEASURED
        rtol = self.rtol or (RTOL if measured else UNMEASURED.get(dtype.name, RTOL))
        part = rtol * (self.sizes[k] + 1e-3 * float(self.sizes[k].max(initial=0.0)))
        return part + 16 * float(host.finfo(dtype).eps) * self.terms[k]

    def narrower(self, k: int, gap: Array) -> str | None:
        """The narrower dtype that the hand computed in: its k-th gradient's own, or float32 by its digits.

        What comes of rounding is otherwise at inputs a unit in float32's last place away, and a mistake the same.
        """
        h, eps = self.answer.gradients[k], float(host.finfo(host.float32).eps)
        assert h is not None
        if host.finfo(h.dtype).eps > host.finfo(self.own).eps:
            return h.dtype.name
        bound = self.tolerance(k)
        single = bound + 16 * eps * host.maximum(self.terms[k], self.sizes[k])
        if self.own.name in UNMEASURED or (gap <= bound).all() or not (gap <= single).all():
            return None
        if callable(self.hand):
            rounded = float(gap.max()) <= 4 * self._once(self.moved, host.dtype(host.float32))[k]
        else:
            rounded = bool((h.astype(host.float32) == h).all())
        return "float32" if rounded else None

    def moved(self, dtype: Any) -> list[float]:
        """For each leaf how far hand-derived minus autodiff changes with the inputs' last place, at most."""
        move, noise = by_an_ulp(dtype), [0.0] * len(self.run.leaves)
        for _ in range(2):
            noise = list(map(max, noise, self._changed(move) or noise))
        return noise

    def handed(self, dtype: Any) -> list[float]:
        """For each leaf how far the hand's gradient changes with the last place of what it is given, a cache too.

        What changes by more than rounding can is a condition that came out otherwise, and is left out.
        """
        noise = [0.0] * len(self.run.leaves)
        if not callable(self.hand):
            return noise
        again = ask(self.hand, self.run, list(self.sweep.seeds.values()), by_an_ulp(dtype))
        largest = _largest(self.sweep.cotangents.values()) * max(1.0, _largest(self.run.values.values()))
        for k, (h, i) in enumerate(zip(self.answer.gradients, again.gradients, strict=True)):
            if h is not None and i is not None and h.shape == i.shape:
                shift = host.abs(h - i)
                noise[k] = float(shift[shift <= 1e3 * host.finfo(dtype).eps * largest].max(initial=0.0))
        return noise

    def _once(self, measure: Callable[[Any], list[float]], dtype: Any) -> list[float]:
        """What a measurement gives, which is made once."""
        key = measure.__name__, dtype.name
        if key not in self._noise:
            self._noise[key] = measure(dtype)
        return self._noise[key]

    def _changed(self, move: Callable[[Array], Array]) -> list[float] | None:
        """How far hand-derived minus autodiff changes with all numbers, at most; None where they cannot be run."""
        values = [move(x) for x in self.values]
        try:
            again = record(self.run.f, values, len(self.run.outputs))
            pairs = zip(again.outputs, self.run.outputs, strict=True)
            seeds = {y.node: self.sweep.seeds[z.node] for y, z in pairs if y.node is not None}  # type: ignore[index]
            if "g" in way_to_call(self.hand, again)[0]:
                seeds = {node: move(g) for node, g in seeds.items()}
            sweep = Sweep(again, seeds)  # type: ignore[arg-type]
            answer = ask(self.hand, again, list(seeds.values())) if callable(self.hand) else self.answer
        except (CannotRun, KeyError, ValueError):
            return None
        noise = [0.0] * len(self.run.leaves)
        for k, (a, h) in enumerate(zip(self.sweep.gradients, self.answer.gradients, strict=True)):
            b, i = sweep.gradients[k], answer.gradients[k]
            shift = a - b
            if callable(self.hand) and h is not None and i is not None and h.shape == i.shape == a.shape:
                shift = (h - a) - (i - b)
            elif callable(self.hand):
                continue
            noise[k] = float(host.abs(shift[host.isfinite(shift)]).max(initial=0.0))
        return noise


def _largest(arrays: Iterable[Array]) -> float:
    """The largest finite size."""
    return max(float(host.abs(a[host.isfinite(a)]).max(initial=0.0)) for a in arrays)


def without_cancellation(run: Run, sweep: Sweep) -> list[Array]:
    """For each leaf how large the terms that reach it are where none cancel: times random numbers, the largest of four.

    Worst cases of all signs would grow with every product of matrices on the way, as no rounding does. A function's
    derivative counts for at least the function's value (over a large argument): one who writes 1 - s in a sigmoid's
    gets it no better than that where s is near 1.
    """
    generator = host.random.default_rng(13)
    draws = [_times_random_numbers(run, sweep, generator) for _ in range(4)]
    return [host.max([host.abs(sizes[k]) for sizes in draws], 0) for k in range(len(run.leaves))]


def _times_random_numbers(run: Run, sweep: Sweep, generator: Any) -> list[Array]:
    held: dict[Node, Array] = {}

    def add(node: Node, c: Array) -> None:
        c = host.asarray(c * generator.normal(size=c.shape), c.dtype)
        held[node] = held[node] + c if node in held else c

    for node, g in sweep.seeds.items():
        add(node, g)
    for node in reversed(run.order):
        g = held.get(node)
        if g is None or node.primitive is None:
            continue
        for _, source, c in pull(node, g, False, sweep.needed):
            add(source, c)
        below = _argument(node, sweep)
        while below is not None and below.shape == node.shape:
            add(below, g * run.values[node] / host.maximum(host.abs(run.values[below]) / SATURATED, 1))
            below = _argument(below, sweep) if len(sweep.consumers[below]) == 1 else None
    return [sweep.at_leaf(held, k) for k in range(len(run.leaves))]


def _argument(node: Node, sweep: Sweep) -> Node | None:
    """The one value that an elementwise step is a function of; None where there are several."""
    inputs = {source for _, source, _ in sweep.terms(node)} if is_elementwise(node) else set()
    return inputs.pop() if len(inputs) == 1 else None

