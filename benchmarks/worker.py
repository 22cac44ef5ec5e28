"""One contestant in a process of its own: `python -m benchmarks.worker PEER THREADS`, driven line by line in JSON.

A line `[workload, seconds]` is answered with `{"seconds": [per step], "cpu": [...], "checks": []}`, or with
null where the peer has no such workload. The first request for a workload sets it up and takes a few
steps, of whose results the checks are made; what was set up before is forgotten.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

import numpy as np

from benchmarks import options
from benchmarks.peers import PEERS
from benchmarks.workloads import OPS, WORKLOADS, arrays_of


def checks_of(result: Any) -> list[tuple[float, float]]:
    """What is compared of a step's result, a number or a tuple of numbers and arrays: of each, (value, scale).

    Of an array that is its product with random numbers, the same for all contestants, and its norm: two arrays that
    differ by a hundredth of their norm, wherever, differ in this product by about a hundredth of it.
    """
    found = []
    for part in result if isinstance(result, tuple) else (result,):
        values = np.asarray(part, np.float64).ravel()
        if values.size == 1:
            found.append((float(values[0]), max(1.0, abs(float(values[0])))))
        else:
            weights = np.random.default_rng(values.size).standard_normal(values.size, np.float32)
            found.append((float(values @ weights), float(np.linalg.norm(values))))
    return found


def main(peer: str, threads: int) -> None:
    module = importlib.import_module(f"benchmarks.peers.{peer}")
    module.threads(threads)
    known = {w.name: w for w in (*WORKLOADS, *OPS)}
    current, step = "", None
    answer = sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps({"version": module.VERSION}), file=answer, flush=True)
    for line in sys.stdin:
        name, seconds = json.loads(line)
        make = getattr(module, name, None)
        if make is None:
            print("null", file=answer, flush=True)
            continue
        checks: list[tuple[float, float]] = []
        if name != current:
            step = None  # its memory goes before the next is made
            step, current = make(arrays_of(name)), name
            for _ in range(known[name].checks):
                checks += checks_of(step())
        elif known[name].checks > 1:
            step()  # what others left in the caches is not this framework's affair
        repeat = known[name].repeat
        times: list[float] = []
        cpu: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            start, start_cpu = time.perf_counter(), time.process_time()
            for _ in range(repeat):
                step()
            times.append((time.perf_counter() - start) / repeat)
            cpu.append((time.process_time() - start_cpu) / repeat)
        print(json.dumps({"seconds": times, "cpu": cpu, "checks": checks}), file=answer, flush=True)


if __name__ == "__main__":
    main(*options.contestant("benchmarks.worker", __doc__, PEERS))
