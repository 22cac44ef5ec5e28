"""One contestant in a process of its own: `python -m benchmarks.worker PEER THREADS`, driven line by line in JSON.

A line `[workload, seconds]` is answered with `{"seconds": [per step], "cpu": [...], "checks": []}`, or with
null where the peer has no such workload. The first request for a workload sets it up and takes a few
steps, whose results are the checks; what was set up before is forgotten.
"""

from __future__ import annotations

import importlib
import json
import sys
import time

from benchmarks.workloads import OPS, WORKLOADS, arrays_of


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
        checks = []
        if name != current:
            step = None  # its memory goes before the next is made
            step, current = make(arrays_of(name)), name
            checks = [step() for _ in range(known[name].checks)]
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
    main(sys.argv[1], int(sys.argv[2]))
