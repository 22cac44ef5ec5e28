"""How far rounding alone may take a right gradient from another right one.

Measured: what moving every input by one unit in its last place changes. Estimated, for what that does not
show: the sizes of all terms, carried down the tape times random numbers, so that nothing cancels. Where a
softmax or a sigmoid is saturated, two right formulas cancel differently, and no rounding of the inputs
moves them.
"""

from __future__ import annotations

import heapq
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.calling import Answer, ask
from minigrad.check.forward import CannotRun, Forward, record
from minigrad.check.sweep import Sweep
from minigrad.paths import pull
from minigrad.tape import Node

Array = Any

SATURATED = 32
"""From here on a sigmoid and a tanh are 1 to double precision."""


def measured(run: Forward, values: list[Any], sweep: Sweep, hand: Any, answer: Answer, names: list[str]) -> list[float]:
    """For each leaf what one unit in the last place of the inputs changes in hand-derived minus autodiff, at most."""
    generator = host.random.default_rng(11)
    noise = [0.0] * len(run.leaves)
    for _ in range(2):
        moved = [
            host.asarray(x * (1 + host.finfo(x.dtype).eps * generator.choice([-1.0, 1.0], x.shape)), x.dtype)
            if isinstance(x, host.ndarray) and x.dtype.kind == "f" else x
            for x in values
        ]  # fmt: skip
        try:
            again = record(run.f, moved, len(run.outputs))
            seeds = {
                y.node: sweep.seeds[z.node]  # type: ignore[index]
                for y, z in zip(again.outputs, run.outputs, strict=True) if y.node is not None
            }  # fmt: skip
            other = Sweep(again, seeds)  # type: ignore[arg-type]
            answered = ask(hand, again, list(seeds.values()), names) if callable(hand) else answer
        except (CannotRun, KeyError, ValueError):
            return noise
        for k, (a, h) in enumerate(zip(sweep.gradients, answer.gradients, strict=True)):
            b, i = other.gradients[k], answered.gradients[k]
            shift = a - b
            if callable(hand) and h is not None and i is not None and h.shape == i.shape == a.shape:
                shift = (h - a) - (i - b)
            elif callable(hand):
                continue
            noise[k] = max(noise[k], float(host.abs(shift[host.isfinite(shift)]).max(initial=0.0)))
    return noise


def without_cancellation(run: Forward, sweep: Sweep) -> list[Array]:
    """For each leaf how large the terms that reach it are where none cancel: times random numbers, the largest of four.

    Worst cases of all signs would grow with every product of matrices on the way, as no rounding does. A function's
    derivative counts for at least the function's value (over a large argument): one who writes 1 - s in a sigmoid's
    gets it no better than that where s is near 1.
    """
    generator = host.random.default_rng(13)
    draws = [_times_random_numbers(run, sweep, generator) for _ in range(4)]
    return [host.max([host.abs(sizes[k]) for sizes in draws], 0) for k in range(len(run.leaves))]


def _times_random_numbers(run: Forward, sweep: Sweep, generator: Any) -> list[Array]:
    held: dict[Node, Array] = {}
    heap: list[tuple[int, Node]] = []
    users: dict[Node | None, int] = {}
    for node, i in sweep.edges:
        users[node.inputs[i]] = users.get(node.inputs[i], 0) + 1

    def add(node: Node, c: Array) -> None:
        c = host.asarray(c * generator.normal(size=c.shape), c.dtype)
        if node in held:
            held[node] = held[node] + c
        else:
            held[node] = c
            heapq.heappush(heap, (-node.serial, node))

    for node, g in sweep.seeds.items():
        add(node, g)
    while heap:
        node = heapq.heappop(heap)[1]
        g = held[node]
        if node.primitive is None:
            continue
        for _, source, c in pull(node, g, False, sweep.needed):
            add(source, c)
        below = _argument(node, sweep)
        while below is not None and below.shape == node.shape:
            add(below, g * run.values[node] / host.maximum(host.abs(run.values[below]) / SATURATED, 1))
            below = _argument(below, sweep) if users[below] == 1 else None
    return [sweep.at_leaf(held, k) for k in range(len(run.leaves))]


def _argument(node: Node, sweep: Sweep) -> Node | None:
    """The one value that an elementwise step is a function of; None where there are several."""
    if node.primitive is None or node.primitive.kind != "elementwise":
        return None
    inputs = {source for source in node.inputs if source is not None and source in sweep.needed}
    return inputs.pop() if len(inputs) == 1 else None

