"""`python -m benchmarks cpu [--quick] [--only w1,w4] [--threads 1,2] [--out benchmarks/results]`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.workloads import FUSED_OF, WORKLOADS, Workload

PEERS = {"minigrad": "minigrad", "pytorch": "torch", "autograd": "autograd", "mygrad": "mygrad"}
"""The peers' files and the packages that they need."""

Times = dict[str, list[float]]


class Peer:
    """A framework's process, and what it answers."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "MINIGRAD_BACKEND": "numpy", "OPENBLAS_NUM_THREADS": str(threads)},
        )  # fmt: skip
        self.version = self.read()["version"]

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, name: str, threads: int, seconds: float) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, threads, seconds]) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def interleaved(
    workload: Workload, names: list[str], threads: int, rounds: int, seconds: float, clock: str
) -> tuple[Times, dict[str, list[Any]]]:
    """Seconds a step, for each round the median of each peer, and the checks; the peers take turns."""
    peers = [Peer(name, threads) for name in names]
    times: Times = {}
    checks = {}
    try:
        for number in range(rounds):
            for peer in peers:
                name = workload.name if peer.name == "minigrad" else FUSED_OF.get(workload.name, workload.name)
                found = peer.ask(name, threads, seconds)
                if found is not None:
                    times.setdefault(peer.name, []).append(statistics.median(found[clock]))
                    if number == 0:
                        checks[peer.name] = found["checks"]
    finally:
        for peer in peers:
            peer.close()
    return times, checks


def agree(checks: dict[str, list[Any]]) -> dict[str, bool]:
    """Whether each peer's numbers are PyTorch's to 1e-4 (of the number, where it is above 1)."""
    truth = checks.get("pytorch")
    if truth is None or None in truth:
        return {}
    return {
        name: all(abs(a - b) <= 1e-4 * max(1.0, abs(b)) for a, b in zip(values, truth, strict=True))
        for name, values in checks.items()
        if None not in values
    }


START = "import time; t = time.perf_counter(); import {package}; print(time.perf_counter() - t)"
MEMORY = """
import resource
from benchmarks.peers.{peer} import threads, w1
from benchmarks.workloads import arrays_of
step = w1(arrays_of("w1")); [step() for _ in range(20)]
print(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6)
"""


def start_and_memory(rounds: int) -> dict[str, dict[str, float]]:
    """W8: seconds of an import, and resident megabytes after 20 steps of W1."""
    rows: dict[str, dict[str, float]] = {"import (s)": {}, "resident after 20 W1 steps (MB)": {}}

    def run(code: str) -> float:
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    for peer, package in PEERS.items():
        if peer in ("minigrad", "pytorch"):
            rows["import (s)"][peer] = min(run(START.format(package=package)) for _ in range(rounds))
            rows["resident after 20 W1 steps (MB)"][peer] = run(MEMORY.format(peer=peer))
    return rows


def advice() -> list[str]:
    """What would make this machine faster, if anything is known."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    if "avx512bw" not in flags or "openblas" not in maps or os.environ.get("OPENBLAS_CORETYPE"):
        return []
    import ctypes

    path = next(line.split()[-1] for line in maps.splitlines() if "openblas" in line)
    name = getattr(ctypes.CDLL(path), "scipy_openblas_get_corename64_", None)
    if name is None:
        return []
    name.restype = ctypes.c_char_p
    if name() in (b"Haswell", b"Zen"):
        return ["OpenBLAS uses AVX2 on this CPU with AVX-512: OPENBLAS_CORETYPE=SkylakeX in the environment is faster."]
    return []


def chart(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of the ratios to PyTorch, one for each workload and number of threads."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [row for row in rows if "minigrad" in row["ratios"]]
    titles = list(dict.fromkeys(row["title"] for row in shown))
    counts = sorted({row["threads"] for row in shown})
    figure, axes = plt.subplots(figsize=(9, 0.46 * len(titles) + 1.2), layout="constrained")
    height = 0.8 / len(counts)
    for place, threads in enumerate(counts):
        for y, title in enumerate(titles):
            row = next((r for r in shown if r["title"] == title and r["threads"] == threads), None)
            if row is None:
                continue
            ratio = row["ratios"]["minigrad"]
            low, high = row["quartiles"]["minigrad"]
            color = ("#7fb3d5", "#1f618d")[place % 2]
            label = f"{threads} thread{'s' if threads > 1 else ''}" if y == 0 else None
            at = y + (place - (len(counts) - 1) / 2) * height
            axes.barh(at, ratio, height, color=color, label=label)
            axes.plot([low, high], [at, at], color="black", lw=1)
            axes.text(max(ratio, high) + 0.02, at, f"{ratio:.2f}", va="center", fontsize=7)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xlim(0, 1.15 * max(1.0, *(row["quartiles"]["minigrad"][1] for row in shown)))
    axes.set_yticks(range(len(titles)), [title.rsplit(" (", 1)[0] for title in titles], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time of minigrad / time of PyTorch eager (less is faster; lines: quartiles)")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def table_row(numbers: dict[str, float], names: list[str]) -> str:
    """One number for each peer, or a dash."""
    return "".join(f"{numbers[name]:>12.3f}" if name in numbers else f"{'-':>12}" for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("device", choices=["cpu"])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, PyTorch alone: under two minutes")
    parser.add_argument("--only", help="names of workloads, separated by commas")
    parser.add_argument("--threads", default="1,2", help="numbers of threads (1,2)")
    parser.add_argument("--peers", help="names of peers, separated by commas (all that are installed)")
    parser.add_argument(
        "--cpu-time", action="store_true",
        help="count the processor's time of all threads instead of the clock's: for a machine that others use too",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where JSON and picture go")
    arguments = parser.parse_args()
    wanted = arguments.peers.split(",") if arguments.peers else list(PEERS)
    if arguments.quick and not arguments.peers:
        wanted = ["minigrad", "pytorch"]
    names = []
    for name in wanted:
        if importlib.util.find_spec(PEERS[name]) is None:
            print(f"skipped: {name} ({PEERS[name]} is not installed)")
        else:
            names.append(name)
    clock = "cpu" if arguments.cpu_time else "seconds"
    rounds, seconds = (5, 0.1) if arguments.quick else (11, 0.25)
    for line in advice():
        print(line)
    rows: list[dict[str, Any]] = []
    print(f"{'':62} threads " + "".join(f"{name:>12}" for name in names) + "   ratio to PyTorch (quartiles)")
    for workload in WORKLOADS:
        if arguments.only and workload.name not in arguments.only.split(","):
            continue
        for threads in map(int, arguments.threads.split(",")):
            if workload.name.startswith("w5") and threads != 1:
                continue
            times, checks = interleaved(workload, names, threads, rounds, seconds, clock)
            agreement = agree(checks)
            ratios, quartiles = {}, {}
            for name, values in times.items():
                if "pytorch" in times and agreement.get(name, True):
                    each = sorted(a / b for a, b in zip(values, times["pytorch"], strict=True))
                    ratios[name] = statistics.median(each)
                    quartiles[name] = (each[len(each) // 4], each[-1 - len(each) // 4])
            medians = {name: statistics.median(values) / workload.unit for name, values in times.items()}
            cells = table_row(medians, names)
            wrong = [name for name, right in agreement.items() if not right]
            low, high = quartiles.get("minigrad", (float("nan"),) * 2)
            note = f"{ratios.get('minigrad', float('nan')):8.2f} ({low:.2f}-{high:.2f})"
            if workload.flops:
                note += f"  {workload.flops / statistics.median(times['minigrad']) / 1e9:.0f} GFLOP/s"
            note += f"  DISAGREES: {', '.join(wrong)}" if wrong else ""
            print(f"{workload.title:62} {threads:>7} {cells} {note}", flush=True)
            rows.append(
                {"name": workload.name, "title": workload.title, "threads": threads, "seconds": times,
                 "ratios": ratios, "quartiles": quartiles, "disagree": wrong}
            )  # fmt: skip
    start = {} if arguments.only else start_and_memory(2 if arguments.quick else 5)
    for title, row in start.items():
        print(f"W8 {title:59} {'':>7} {table_row(row, names)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {
        "made": time.strftime("%Y-%m-%d %H:%M"), "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(), "python": platform.python_version(), "quick": arguments.quick, "clock": clock,
        "rows": rows, "w8": start,
    }  # fmt: skip
    (arguments.out / "cpu.json").write_text(json.dumps(report, indent=1))
    chart(rows, arguments.out / "cpu.png")


if __name__ == "__main__":
    main()
