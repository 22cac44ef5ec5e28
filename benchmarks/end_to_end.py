"""From nothing to 99 % on MNIST: `python -m benchmarks end-to-end [--seeds 0,1,2] [--markdown]`.

Seconds from the start of the process, with import, data and test, by minigrad (composed and fused) and
PyTorch. Each run is a process of its own (`benchmarks.train_mnist`), and the contestants take turns. The
files lie in the system's page cache, as they do the second time that anybody trains.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.options import among, listed, mnist
from benchmarks.peers import installed
from examples.flags import from_zero, whole

CONTESTANTS = {"fused": "minigrad, fused", "minigrad": "minigrad, composed", "pytorch": "PyTorch"}
STAGES = ("imported", "data", "trained", "tested", "ended")
TARGET = 99.0


def run(contestant: str, seed: int, threads: int, data: Path, held_out: int) -> dict[str, Any]:
    """One run, from the start of its process to its end."""
    few = {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    began = time.time()
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.train_mnist", contestant, "--seed", str(seed), "--threads", str(threads),
            "--data", str(data), "--held-out", str(held_out), "--began", repr(began),
        ],
        env={**os.environ, **few, "MINIGRAD_BACKEND": "numpy"}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    found["stages"]["ended"] = time.time() - began
    return found


def table(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Medians over the runs, in Markdown; the seconds count from the start of the process."""
    lines = [
        "| | imported | data ready | trained | **tested** | process ended | epochs (steps) | test accuracy, by seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in runs.items():
        seconds = [statistics.median(one["stages"][stage] for one in found) for stage in STAGES]
        cells = [f"{s:.2f} s" for s in seconds]
        cells[3] = f"**{cells[3]}**"
        accuracies = ", ".join(f"{one['accuracy']:.2f}" for one in found)
        epochs = f"{found[0]['epochs']:.3g} ({found[0]['steps']})"
        lines.append(f"| {CONTESTANTS[name]} | {' | '.join(cells)} | {epochs} | {accuracies} |")
    return lines


def verdict(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """In words: who got there, how fast, and whether all began from the same losses."""
    lines = []
    for name, found in runs.items():
        reached = sum(one["accuracy"] >= TARGET for one in found)
        seconds = sorted(one["stages"]["tested"] for one in found)
        lines.append(
            f"{CONTESTANTS[name]}: {TARGET:g} % in {reached} of {len(found)} runs, after "
            f"{statistics.median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})"
        )
    first = {name: found[0]["losses"][:3] for name, found in runs.items()}
    truth = first.get("pytorch")
    for name, losses in first.items():
        if truth is not None and any(abs(a - b) > 1e-4 for a, b in zip(losses, truth, strict=True)):
            lines.append(f"DISAGREES: the first losses of {name} are {losses}, PyTorch's {truth}")
    return lines


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks end-to-end", description=__doc__)
    parser.add_argument(
        "--seeds",
        type=listed(from_zero),
        default=[0, 1, 2, 3, 4],
        help="separated by commas (0,1,2,3,4)",
    )
    parser.add_argument("--threads", type=whole, default=machine.cores())
    parser.add_argument(
        "--peers", type=among(CONTESTANTS), default=list(CONTESTANTS), help=f"of {', '.join(CONTESTANTS)} (all)"
    )
    mnist(parser)
    parser.add_argument("--markdown", action="store_true", help="print what belongs into docs/speed.md")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where the JSON goes")
    flags = parser.parse_args(argv)
    names = installed(flags.peers)
    caption = machine.caption()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number, seed in enumerate(flags.seeds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found = run(name, seed, flags.threads, flags.data, flags.held_out)
            runs[name].append(found)
            if not flags.markdown:
                print(
                    f"seed {seed}  {CONTESTANTS[name]:20} {found['stages']['tested']:7.2f} s  "
                    f"{found['accuracy']:.2f} %",
                    flush=True,
                )
    flags.out.mkdir(parents=True, exist_ok=True)
    report = {**machine.description(), "threads": flags.threads, "held_out": flags.held_out, "runs": runs}
    (flags.out / "end_to_end.json").write_text(json.dumps(report, indent=1))
    print(f"{caption}; {flags.threads} threads, medians of {len(flags.seeds)} seeds.", end="\n\n")
    print(*table(runs), "", *verdict(runs), sep="\n")
