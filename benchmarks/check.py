"""How long a check takes: `python -m benchmarks.check [--repeats 5]`.

A right backward pass with its mutation score (the ordinary case), and a wrong one with its explanation,
for BatchNorm on (64, 32), on (16, 8, 8, 8) and on a million elements; and `gradcheck`.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from examples.flags import whole


def batchnorm(x: Any, gamma: Any, beta: Any) -> Any:
    axes = (0,) if x.ndim == 2 else (0, 2, 3)
    mu = np.mean(x, axis=axes, keepdims=True)
    xmu = x - mu
    var = np.mean(xmu**2, axis=axes, keepdims=True)
    std = np.sqrt(var + 1e-5)
    xhat = xmu / std
    return gamma * xhat + beta, (xhat, std, gamma, axes)


def right(g: Any, cache: Any) -> Any:
    xhat, std, gamma, axes = cache
    d = g * gamma
    dx = (d - d.mean(axes, keepdims=True) - xhat * (d * xhat).mean(axes, keepdims=True)) / std
    return dx, (g * xhat).sum(axes, keepdims=True), g.sum(axes, keepdims=True)


def wrong(g: Any, cache: Any) -> Any:
    """The variance path and gamma are missing: the longest search."""
    xhat, std, _, axes = cache
    dx = (g - g.mean(axes, keepdims=True)) / std
    return dx, (g * xhat).sum(axes, keepdims=True), g.sum(axes, keepdims=True)


def own(x: Any, gamma: Any) -> Any:
    return mg.functional.batch_norm(x, gamma, gamma, axis=0)[0]


def inputs(shape: tuple[int, ...]) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    small = tuple(n if axis == 1 else 1 for axis, n in enumerate(shape))
    return 3 * rng.normal(size=shape) + 1, rng.normal(size=small), rng.normal(size=small)


def seconds(run: Callable[[], Any], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=whole, default=5)
    repeats = parser.parse_args().repeats
    rows: list[tuple[str, Callable[[], Any]]] = []
    for shape in ((64, 32), (16, 8, 8, 8), (64, 64, 16, 16)):
        arrays = inputs(shape)
        for words, hand in (("right, with mutation score", right), ("wrong, explained", wrong)):
            run = functools.partial(mg.check_hand_gradient, batchnorm, arrays, hand)
            rows.append((f"BatchNorm {shape}, {words}", run))
    for shape, order in (((64, 32), 1), ((4, 3), 2)):
        run = functools.partial(mg.gradcheck, own, inputs(shape)[:2], order)
        rows.append((f"gradcheck of batch_norm {shape} to order {order}", run))
    for name, run in rows:
        print(f"{seconds(run, repeats):8.3f} s  {name}", flush=True)


if __name__ == "__main__":
    main()
