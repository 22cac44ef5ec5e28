"""The workloads: what is computed, from which arrays. How is each framework's affair (`benchmarks.peers`).

A peer's module has a function for each workload that it takes part in: `w1(arrays)` and so on returns
`step`, a function without arguments that does the work once and returns a number to be checked (a loss,
a sum), or None. The arrays are float32 and the same for all.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Workload(NamedTuple):
    """name: of the peers' function.  repeat: steps in one timing.  unit: of the report, in s.  flops: a step's.

    checks: how many steps are compared.
    """

    name: str
    title: str
    repeat: int = 1
    unit: float = 1e-3
    flops: float = 0.0
    checks: int = 3


CONV = 2.0 * 128 * 32 * 28 * 28 * 16 * 9
WORKLOADS = [
    Workload("w1", "W1 small CNN, train step, batch 128 (ms)"),
    Workload("w1_fused", "W1 fused (ms)"),
    Workload("w2", "W2 LeNet-5, train step, batch 64 (ms)"),
    Workload("w2_fused", "W2 fused (ms)"),
    Workload("w3", "W3 MLP 784-100-100-100-10, train step, batch 60 (ms)", repeat=5),
    Workload("w3_fused", "W3 fused (ms)", repeat=5),
    Workload("w4", "W4 BatchNorm2d (128, 32, 28, 28), forward and backward (ms)"),
    Workload("w4_fused", "W4 fused (ms)"),
    Workload("w4_primitives", "W4 written from primitive ops (ms)"),
    Workload("w5_expression", "W5 ((a*b)+c).sum() on (4,), with backward (µs)", repeat=300, unit=1e-6),
    Workload("w5_chain", "W5 chained add, with backward (µs per add)", unit=1e-3),
    Workload("w6_forward", "W6 conv2d (128, 16, 28, 28) -> 32, 3x3: forward (ms)", flops=CONV),
    Workload("w6_both", "W6 conv2d: forward and backward (ms)", flops=3 * CONV),
    Workload("w7", "W7 evaluation of 10,000 images (ms)", checks=1),
    Workload("w7_fused", "W7 fused (ms)", checks=1),
]
FUSED_OF = {"w1_fused": "w1", "w2_fused": "w2", "w3_fused": "w3", "w4_fused": "w4", "w7_fused": "w7"}
"""Workloads that only minigrad runs twice: its peers are timed on the plain one."""


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
    return {"x": normal(128, 16, 28, 28), "g": normal(128, 32, 28, 28), **weights(conv=(32, 16, 3, 3))}


def state(arrays: Arrays, names: dict[str, str]) -> dict[str, Any]:
    """The weights under the names that a model has for them."""
    return {
        f"{theirs}.{kind}": arrays[f"{ours}.{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")
    }
