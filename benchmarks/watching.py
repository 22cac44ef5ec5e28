"""What noticing overwritten values costs: `python -m benchmarks.watching`, a training step with and without it.

Without: writes are neither counted, noted nor checked for. Each figure is the median over rounds, in which
both take turns, of the processor time of a step; the spread is that of the middle half of the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import minigrad as mg
from minigrad import nn, optim
from minigrad.functional import cross_entropy
from minigrad.tape import Writes
from minigrad.tensor import Buffer, Tensor, Versioned
from models.lenet import LeNet5

ROUNDS = 60


@contextlib.contextmanager
def blind() -> Iterator[None]:
    """Nothing is noticed here."""
    kept = {
        (Writes, "note"): lambda self, array, kind, name, own=0: None,
        (Versioned, "__setattr__"): Tensor.__setattr__,
        (Buffer, "__setattr__"): Tensor.__setattr__,
        (Versioned, "unlock"): lambda self: self.data,
        (Versioned, "bump"): lambda self: None,
    }
    before = {(owner, name): vars(owner)[name] for owner, name in kept}
    for (owner, name), value in kept.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name), value in before.items():
            setattr(owner, name, value)


def perceptron() -> nn.Module:
    """784-128-128-10 with BatchNorm."""
    hidden = [layer for n in (784, 128) for layer in (nn.Linear(n, 128), nn.BatchNorm1d(128), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))


def tiny() -> nn.Module:
    """784-8-10 with BatchNorm: where the arrays cost least, and the noticing most."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


def stepping(model: nn.Module, batch: int) -> Callable[[], None]:
    """A training step with Adam."""
    optimizer = optim.Adam(model.named_parameters(), lr=1e-3)
    x, y = mg.random.normal(batch, 1, 28, 28), mg.tensor([i % 10 for i in range(batch)])

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], steps: int) -> float:
    """The processor time of a step."""
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps


def main() -> None:
    """Prints the time of a step without noticing, and what noticing adds in per cent."""
    mg.random.seed(0)
    tried = [
        ("tiny, batch 8", tiny(), 8, 60),
        ("perceptron, batch 64", perceptron(), 64, 10),
        ("LeNet, batch 64", LeNet5(), 64, 2),
    ]
    for name, model, batch, steps in tried:
        step = stepping(model, batch)
        seconds(step, 3)
        plain, ratios = [], []
        for _ in range(ROUNDS):
            with blind():
                plain.append(seconds(step, steps))
            ratios.append(seconds(step, steps) / plain[-1])
        low, middle, high = (100 * (q - 1) for q in statistics.quantiles(ratios, n=4))
        print(f"{name:22} {statistics.median(plain) * 1e3:8.3f} ms", end="   ")
        print(f"noticing adds {middle:+5.1f} % ({low:+.1f} .. {high:+.1f})")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.watching", description=__doc__).parse_args()
    main()
