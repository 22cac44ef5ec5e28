"""The roofline picture: what the workloads reach, beside what the processor and the memory allow.

The roofs are measured: sgemm of 1,024 x 1,024 for arithmetic, and for memory a[:] = b + c in blocks that
stay in cache and in arrays that do not (three arrays counted; what the cache fetches before it overwrites
is not). Intensities come from `benchmarks.costs`. Williams, Waterman and Patterson, "Roofline: an
insightful visual performance model" (2009).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.costs import COSTS
from benchmarks.cpu import Effort, Peer, interleaved
from benchmarks.workloads import OPS, WORKLOADS
from examples.flags import whole

LABELS = {
    "w1": "W1 CNN step", "w2": "W2 LeNet step", "w3": "W3 MLP step", "w4": "W4 BatchNorm",
    "w4_primitives": "W4 primitives", "w5_expression": "W5 expression", "w5_chain": "W5 chain",
    "w6_forward": "W6 conv forward", "w6_both": "W6 conv both", "w7": "W7 evaluation",
    "w7_batches": "W7 in batches", "op_relu": "ReLU",
    "op_max_pool": "max pooling", "op_conv_first": "conv of the image", "op_linear": "linear",
}  # fmt: skip
WHO = {"minigrad": "minigrad, composed", "fused": "minigrad, fused", "pytorch": "PyTorch"}


def best(run: Callable[[], Any], seconds: float) -> float:
    """The shortest of the runs in so many seconds: a limit is what the machine can, not what it usually does."""
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def together(work: Callable[[int], Any], threads: int) -> None:
    """work(0) ... work(threads - 1), each in a thread."""
    others = [threading.Thread(target=work, args=(number,)) for number in range(1, threads)]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()


def limits(threads: int, seconds: float = 1.0) -> dict[str, float]:
    """The roofs: flops (sgemm), cache and memory (bytes of a[:] = b + c), each a second, by so many threads.

    BLAS is to have one thread in this process.
    """
    n, repeats = 1024, 200
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((threads, n, n), dtype=np.float32) for _ in range(2))
    out = np.empty_like(left)
    small = [[np.ones(1 << 15, np.float32) for _ in range(3)] for _ in range(threads)]  # 384 KB
    large = [[np.ones(1 << 24, np.float32) for _ in range(3)] for _ in range(threads)]  # 200 MB

    def multiply(number: int) -> None:
        np.matmul(left[number], right[number], out=out[number])

    def in_cache(number: int) -> None:
        a, b, c = small[number]
        for _ in range(repeats):
            np.add(b, c, out=a)

    def in_memory(number: int) -> None:
        a, b, c = large[number]
        np.add(b, c, out=a)

    flops = threads * 2.0 * n**3 / best(lambda: together(multiply, threads), seconds)
    cache = threads * repeats * 3.0 * small[0][0].nbytes / best(lambda: together(in_cache, threads), seconds)
    memory = threads * 3.0 * large[0][0].nbytes / best(lambda: together(in_memory, threads), seconds)
    return {"flops": flops, "cache": cache, "memory": memory}


def measure(names: list[str], threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The roofs, and for each workload and contestant the seconds of a step."""
    roofs = json.loads(
        subprocess.run(
            [sys.executable, "-m", "benchmarks.roofline", str(threads)], stdout=subprocess.PIPE, check=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        ).stdout
    )  # fmt: skip
    effort = Effort(least=min(rounds, 2), most=rounds, seconds=seconds, row=5.0, peer=5.0)
    rows = []
    peers = [Peer(name, threads) for name in names]
    try:
        for workload in (*WORKLOADS, *OPS):
            times, _ = interleaved(workload, peers, effort, "seconds")
            for name, values in times.items():
                cost = COSTS[workload.name]
                rows.append(
                    {"name": workload.name, "who": name, "seconds": statistics.median(values), "flops": cost.flops,
                     "bytes": cost.bytes}
                )  # fmt: skip
    finally:
        for peer in peers:
            peer.close()
    return {"threads": threads, "roofs": roofs, "rows": rows}


def bound(row: dict[str, Any], roofs: dict[str, float]) -> float:
    """The seconds that arithmetic or memory needs for a row at least."""
    return max(row["flops"] / roofs["flops"], row["bytes"] / roofs["memory"])


def table(found: dict[str, Any]) -> list[str]:
    """What each workload costs by formula, what bounds it, and the time as a multiple of that, in Markdown."""
    roofs, rows = found["roofs"], found["rows"]
    people = list(dict.fromkeys(row["who"] for row in rows))
    heads = " | ".join(f"{WHO[who]}: ms (times the bound)" for who in people)
    lines = [
        f"Roofs with {found['threads']} threads: {roofs['flops'] / 1e9:.0f} GFLOP/s (sgemm), "
        f"{roofs['memory'] / 1e9:.0f} GB/s (memory), {roofs['cache'] / 1e9:.0f} GB/s (cache).",
        "",
        f"| | MFLOP | MB | FLOP a byte | bound (ms), by | {heads} |",
        "|---" * (len(people) + 5) + "|",
    ]
    for name in dict.fromkeys(row["name"] for row in rows):
        some = {row["who"]: row for row in rows if row["name"] == name}
        row = next(iter(some.values()))
        least = bound(row, roofs)
        by = "arithmetic" if row["flops"] / roofs["flops"] == least else "memory"
        cells = [
            f"{some[who]['seconds'] * 1e3:.3g} ({some[who]['seconds'] / least:,.1f})" if who in some else "-"
            for who in people
        ]
        lines.append(
            f"| {LABELS[name]} | {row['flops'] / 1e6:.3g} | {row['bytes'] / 1e6:.3g} | "
            f"{row['flops'] / row['bytes']:.2g} | {least * 1e3:.2g}, {by} | {' | '.join(cells)} |"
        )
    return [*lines, ""]


# ---- the picture ----------------------------------------------------------------------------------
def pyplot() -> Any:
    """matplotlib's pyplot, drawing into files; None, with a line, where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def decades(axes: Any) -> Any:
    """Ticks at 1, 2 and 5 of each decade, or at 1 alone where there are many decades."""
    from matplotlib.ticker import LogLocator

    low, high = axes.get_ylim()
    return LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,), numticks=20)


COLOURS = {"minigrad": "#2f6fb7", "fused": "#c8562f", "pytorch": "#5b6068"}
MARKS = {"minigrad": "o", "fused": "D", "pytorch": "x"}
LEAST = 0.02
"""GFLOP/s below which a point stands at the lower edge, with its number."""


def picture(found: dict[str, Any], path: Path) -> None:
    """Each workload at its intensity: what is reached, between the contestants a line, and the roofs above."""
    plt = pyplot()
    if plt is None:
        return
    roofs, rows = found["roofs"], found["rows"]
    peak = roofs["flops"] / 1e9
    figure, axes = plt.subplots(figsize=(9.6, 6.4), layout="constrained")
    x = np.geomspace(0.05, 200, 400)
    for name, words, color in (("cache", "cache", "#b9c0c9"), ("memory", "memory", "#22252b")):
        bandwidth = roofs[name] / 1e9
        axes.plot(x, np.minimum(peak, bandwidth * x), color=color, lw=1.6, zorder=1)
        at = 0.105
        axes.text(
            at, bandwidth * at * 1.12, f"{words}: {bandwidth:.0f} GB/s", color=color, fontsize=8, rotation=37,
            rotation_mode="anchor",
        )  # fmt: skip
    axes.text(190, peak * 1.06, f"sgemm: {peak:.0f} GFLOP/s", ha="right", fontsize=8, color="#22252b")
    labelled: set[str] = set()
    low: list[str] = []
    places: list[tuple[float, float, str]] = []
    points: list[tuple[float, float]] = []
    for name in dict.fromkeys(row["name"] for row in rows):
        some = {row["who"]: row for row in rows if row["name"] == name}
        rates = {who: row["flops"] / row["seconds"] / 1e9 for who, row in some.items()}
        row = next(iter(some.values()))
        intensity = row["flops"] / row["bytes"]
        if max(rates.values()) < LEAST:
            numbers = ", ".join(f"{WHO[who]} {1e3 * rate:.2g}" for who, rate in rates.items())
            low.append(f"{LABELS[name]}: {numbers} MFLOP/s")
            continue
        axes.plot([intensity] * 2, [min(rates.values()), max(rates.values())], color="#d5d9de", lw=3, zorder=2)
        for who, rate in rates.items():
            label = None if who in labelled else WHO[who]
            labelled.add(who)
            points.append((intensity, rate))
            axes.scatter([intensity], [rate], color=COLOURS[who], marker=MARKS[who], s=30, zorder=3, label=label)
        places.append((intensity, min(rates.values()), LABELS[name]))
    placed: list[tuple[float, float]] = []

    def taken(x: float, y: float) -> bool:
        """Whether a label there would cover a point or another label, which are wider."""
        return any(
            abs(np.log(x / a)) < width and abs(np.log(y / b)) < 0.16
            for some, width in ((points, 0.3), (placed, 0.75))
            for a, b in some
        )

    for intensity, rate, words in sorted(places):
        y = rate * 0.86
        while taken(intensity, y):
            y *= 0.86
        placed.append((intensity, y))
        axes.text(intensity, y, words, ha="center", va="top", fontsize=7.5, color="#3a3f47")
    if low:
        words = "Far below, at the price of a Python call an op:\n" + "\n".join(low)
        axes.text(0.985, 0.02, words, transform=axes.transAxes, ha="right", va="bottom", fontsize=7.5, color="#5b6068")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.05, 200)
    axes.set_ylim(LEAST, 2 * peak)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("operations a byte that must be moved (by formula)")
    axes.set_ylabel(f"GFLOP/s reached, {found['threads']} threads")
    axes.grid(True, color="#eceef1")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description="The roofs, in JSON.")
    asked.add_argument("threads", type=whole)
    print(json.dumps(limits(asked.parse_args().threads)))
