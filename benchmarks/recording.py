"""What the tape costs beside NumPy: `python -m benchmarks.recording`, microseconds on arrays of four numbers.

Each figure is the median of many rounds, in which the programs take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

import minigrad as mg

ROUNDS, LENGTH = 51, 500


def seconds(program: Callable[[], object]) -> float:
    """The time that one run takes."""
    start = time.perf_counter()
    program()
    return time.perf_counter() - start


def main() -> None:
    """Prints NumPy's time for an add, what recording adds to it, and what an edge of the reverse pass costs."""
    a, b = np.ones(4, np.float32), np.full(4, 0.5, np.float32)
    constant, leaf = mg.tensor(b), mg.tensor(a, requires_grad=True)
    ones = np.ones(4, np.float32)
    recorded: list[mg.Tensor] = []

    def plain() -> None:
        y = a
        for _ in range(LENGTH):
            y = y + b

    def forward() -> None:
        y = leaf
        for _ in range(LENGTH):
            y = y + constant
        recorded[:] = [y]

    def reverse() -> None:
        recorded[0].backward(ones)

    times: dict[str, list[float]] = {"NumPy": [], "recorded": [], "reverse": []}
    for _ in range(ROUNDS):
        for name, program in (("NumPy", plain), ("recorded", forward), ("reverse", reverse)):
            times[name].append(seconds(program) / LENGTH * 1e6)
        leaf.grad = None
    numpy, record, edge = (statistics.median(times[name]) for name in ("NumPy", "recorded", "reverse"))
    print(f"NumPy's own a + b                     {numpy:6.2f} µs")
    print(f"the same on Tensors, recorded         {record:6.2f} µs   recording adds {record - numpy:.2f} µs")
    print(f"one edge of the reverse pass          {edge:6.2f} µs")


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.recording", description=__doc__).parse_args()
    main()
