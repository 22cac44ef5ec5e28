"""Runs that are long: nothing grows without the garbage collector, and float32 does not drift away from float64.

The short versions run always; `pytest --slow tests/test_long.py` runs the long ones.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.functional import cross_entropy, mse_loss


def lengths(short: int, long: int) -> Any:
    return pytest.mark.parametrize("steps", [short, pytest.param(long, marks=pytest.mark.slow)])


# ---- memory ----------------------------------------------------------------------------------------
class Training:
    """A step of everything: convolution, BatchNorm, dropout, pooling, clipping, a schedule, sometimes recomputed."""

    def __init__(self) -> None:
        mg.random.seed(0)
        head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), head)
        self.optimizer = optim.AdamW(self.model.named_parameters(), lr=1e-3)
        self.schedule = optim.CosineLR(self.optimizer, 20_000)
        self.x, self.y = mg.random.normal(4, 1, 6, 6), mg.tensor([0, 1, 2, 0])

    def step(self, number: int) -> None:
        self.optimizer.zero_grad()
        forward = self.model if number % 4 else lambda x: mg.checkpoint(self.model, x)
        loss = cross_entropy(forward(self.x), self.y)
        if number % 4 == 1:
            g = mg.grad(loss, self.model[0].weight, create_graph=True)
            loss = loss + 0.01 * (g * g).sum()
        loss.backward()
        optim.clip_grad_norm(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        with mg.no_grad():
            self.model.eval()(self.x)
            self.model.train()


@lengths(300, 10_000)
def test_training_steps_with_the_collector_off_grow_by_nothing(steps: int) -> None:
    training = Training()
    for number in range(40):
        training.step(number)
    tracemalloc.start()
    for number in range(40):
        training.step(number)
    gc.collect()
    gc.disable()
    try:
        look()
        (blocks, size), alive = held(), len(gc.get_objects())
        for number in range(steps):
            training.step(number)
        look()
        born = len(gc.get_objects()) - alive
        cycles = gc.collect()  # which also empties the free lists that CPython keeps of tuples and the like
        more, larger = (now - before for now, before in zip(held(), (blocks, size), strict=True))
    finally:
        tracemalloc.stop()
        gc.enable()
    print(f"\n{steps} steps: {born} objects, {more} blocks and {larger} bytes more; {cycles} objects in cycles")
    assert born < 30 and cycles == 0
    assert more < 150, "NumPy's pool of small blocks fills up slowly"
    assert larger < 1 << 22, "once in a long run a table of the interpreter's own doubles"


def look() -> None:
    """Brings a value to the host: on a device up to 64 conditions wait for that (`backend.require`)."""
    mg.zeros(()).item()


def held() -> tuple[int, int]:
    """How many blocks of memory Python and NumPy hold, and how many bytes, without the names that CPython looked up."""
    (sys._clear_internal_caches if sys.version_info >= (3, 13) else sys._clear_type_cache)()
    traces = tracemalloc.take_snapshot().traces
    return len(traces), sum(trace.size for trace in traces)


# ---- drift -----------------------------------------------------------------------------------------
class Twin:
    """A small net with BatchNorm that fits noisy targets, in one dtype; twins get the same weights and batches.

    (A bias before BatchNorm would have no gradient but rounding errors, and AdamW divides by their size.)
    """

    def __init__(self, dtype: Any, make: Any) -> None:
        mg.random.seed(0)
        layers = nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)
        self.model = nn.Sequential(*layers).to_dtype(dtype)
        self.dtype, self.optimizer = dtype, make(self.model.named_parameters())
        self.losses = 0.0

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        self.optimizer.zero_grad()
        loss = mse_loss(self.model(mg.tensor(x, dtype=self.dtype)), mg.tensor(y, dtype=self.dtype))
        loss.backward()
        self.optimizer.step()
        self.losses += loss.item()

    def state(self) -> dict[str, np.ndarray]:
        carried = self.optimizer.state_dict()["state"] | self.model.state_dict()
        return {name: mg.tensor(a).numpy().astype("float64") for name, a in carried.items()}


OPTIMIZERS = {
    "SGD": lambda named: optim.SGD(named, lr=0.02, momentum=0.9, weight_decay=1e-3),
    "AdamW": lambda named: optim.AdamW(named, lr=1e-3, weight_decay=1e-2),
}


@lengths(1000, 100_000)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_does_not_drift_away_from_its_float64_twin(name: str, steps: int) -> None:
    """Every array that is carried from step to step stays as close after many steps as after few."""
    single, double = (Twin(dtype, OPTIMIZERS[name]) for dtype in (mg.float32, mg.float64))
    rng = np.random.default_rng(1)
    worst = 0.0
    for step in range(1, steps + 1):
        x = rng.normal(size=(16, 3)).astype(np.float32)
        y = (np.sin(x.sum(1, keepdims=True)) + 0.3 * rng.normal(size=(16, 1))).astype(np.float32)
        single.step(x, y)
        double.step(x, y)
        if step % (steps // 10) == 0:
            theirs = double.state()
            off = {key: np.abs(a - theirs[key]).max() / np.abs(theirs[key]).max() for key, a in single.state().items()}
            worst = max(worst, *off.values())
            print(f"{step} steps: worst {max(off.values()):.1e} in {max(off, key=off.get)}", end="; ")
            print(f"mean losses apart by {abs(single.losses / double.losses - 1):.1e}")
    assert worst < 1e-3
    assert abs(single.losses / double.losses - 1) < 1e-5
