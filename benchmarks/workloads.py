"""The workloads: what is computed, from which arrays. How is each framework's affair (`benchmarks.peers`).

A peer's module has a function for each workload that it takes part in: `w1(arrays)` and so on returns
`step`, a function without arguments that does the work once and returns all that it made: a number (a loss)
or a tuple of numbers and arrays (gradients, outputs), which are compared outside of the timed part, where they are
taken by `numpy.asarray`. The arrays are float32 and the same for all.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Workload(NamedTuple):
    """What is timed, in what unit it is told, and what was aimed at.

    name: of the peers' function.  repeat: steps in one timing.  unit: of the report, in s.  flops: a step's.
    checks: how many steps are compared.  composed, fused: the greatest ratios to PyTorch that meet the target.
    """

    name: str
    title: str
    composed: float
    fused: float | None = None
    repeat: int = 1
    unit: float = 1e-3
    flops: float = 0.0
    checks: int = 3


CONV = 2.0 * 128 * 32 * 28 * 28 * 16 * 9
WORKLOADS = [
    Workload("w1", "W1 small CNN, train step, batch 128 (ms)", 2.0, 1.0),
    Workload("w2", "W2 LeNet-5, train step, batch 64 (ms)", 1.5, 1.2),
    Workload("w3", "W3 MLP 784-100-100-100-10, train step, batch 60 (ms)", 1.5, 0.8, repeat=5),
    Workload("w4", "W4 BatchNorm2d (128, 32, 28, 28), forward and backward (ms)", 3.0, 1.0),
    Workload("w4_primitives", "W4 written from primitive ops (ms)", 0.4),
    Workload("w5_expression", "W5 ((a*b)+c).sum() on (4,), with backward (µs)", 0.8, repeat=300, unit=1e-6),
    Workload("w5_chain", "W5 chained add, with backward (µs per add)", 1.0, unit=1e-3),
    Workload("w6_forward", "W6 conv2d (128, 16, 28, 28) -> 32, 3x3: forward (ms)", 2.5, flops=CONV),
    Workload("w6_both", "W6 conv2d: forward and backward (ms)", 2.5, flops=3 * CONV),
    Workload("w7", "W7 evaluation of 10,000 images (ms)", 0.5, 0.3, checks=1),
    Workload("w7_batches", "W7 the same in batches of 500 (ms)", 0.5, 0.3, checks=1),
]
OPS = [
    Workload("op_relu", "ReLU of (128, 32, 28, 28), forward and backward (ms)", math.inf),
    Workload("op_max_pool", "max pooling 2 of (128, 32, 28, 28), forward and backward (ms)", math.inf),
    Workload("op_conv_first", "conv2d (128, 1, 28, 28) -> 16, 3x3, of an input without gradient (ms)", math.inf),
    Workload("op_linear", "linear (128, 1568) -> 10, forward and backward (ms)", math.inf),
]
"""What the workloads are made of, for the roofline picture alone."""


def arrays_of(name: str) -> Arrays:
    """The arrays of a workload: inputs, labels and initial weights (uniform, 1/sqrt(fan_in), as in PyTorch)."""
    rng = np.random.default_rng(5)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    def weights(**shapes: tuple[int, ...]) -> Arrays:
        made = {}
        for key, shape in shapes.items():
            bound = 1 / math.sqrt(math.prod(shape[1:]))
            made[key + ".weight"] = rng.uniform(-bound, bound, shape).astype(np.float32)
            made[key + ".bias"] = rng.uniform(-bound, bound, shape[:1]).astype(np.float32)
        return made

    kind = name.partition("_")[0]
    if kind in ("w1", "w7"):
        n = 128 if kind == "w1" else 10_000
        layers = weights(conv1=(16, 1, 3, 3), conv2=(32, 16, 3, 3), linear=(10, 1568))
        return {"x": normal(n, 1, 28, 28), "y": rng.integers(0, 10, n), **layers}
    if kind == "w2":
        layers = weights(
            conv1=(6, 1, 5, 5), conv2=(16, 6, 5, 5), linear1=(120, 400), linear2=(84, 120), linear3=(10, 84)
        )
        return {"x": normal(64, 1, 28, 28), "y": rng.integers(0, 10, 64), **layers}
    if kind == "w3":
        layers = weights(linear1=(100, 784), linear2=(100, 100), linear3=(100, 100), linear4=(10, 100))
        return {"x": normal(60, 784), "y": rng.integers(0, 10, 60), **layers}
    if kind == "w4":
        return {"x": normal(128, 32, 28, 28), "g": normal(128, 32, 28, 28), "gamma": normal(32), "beta": normal(32)}
    if kind == "w5":
        return {"a": normal(4), "b": normal(4), "c": normal(4)}
    if kind == "op":
        weight = weights(first=(16, 1, 3, 3), linear=(10, 1568))
        return {"x": normal(128, 32, 28, 28), "images": normal(128, 1, 28, 28), "rows": normal(128, 1568), **weight}
    return {"x": normal(128, 16, 28, 28), "g": normal(128, 32, 28, 28), **weights(conv=(32, 16, 3, 3))}


def in_batches(x: np.ndarray, batch: int) -> list[np.ndarray]:
    """x cut along its first axis."""
    return [x[start : start + batch] for start in range(0, len(x), batch)]


def state(arrays: Arrays, names: dict[str, str]) -> dict[str, Any]:
    """The weights under the names that a model has for them."""
    return {
        f"{theirs}.{kind}": arrays[f"{ours}.{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")
    }
