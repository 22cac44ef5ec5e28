"""One framework in a process of its own: `python -m benchmarks.worker PEER`, driven line by line in JSON.

A line `[workload, threads, seconds]` is answered with `{"seconds": [per step], "cpu": [...], "checks": []}`.
The first request for a workload sets it up and takes a few steps, whose results are the checks.
"""

from __future__ import annotations

import importlib
import json
import sys
import time

from benchmarks.workloads import WORKLOADS, arrays_of


def main(peer: str) -> None:
    module = importlib.import_module(f"benchmarks.peers.{peer}")
    known = {w.name: w for w in WORKLOADS}
    ready = {}
    answer = sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps({"version": module.VERSION}), file=answer, flush=True)
    for line in sys.stdin:
        name, threads, seconds = json.loads(line)
        make = getattr(module, name, None)
        if make is None:
            print("null", file=answer, flush=True)
            continue
        module.threads(threads)
        checks = []
        if name not in ready:
            ready[name] = make(arrays_of(name))
            checks = [ready[name]() for _ in range(known[name].checks)]
        elif known[name].checks > 1:
            ready[name]()  # what others left in the caches is not this framework's affair
        step, repeat = ready[name], known[name].repeat
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
    main(sys.argv[1])
