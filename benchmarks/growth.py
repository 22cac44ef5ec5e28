"""How the cost of a training step grows, and how far from the machine's limits it is: `python -m benchmarks growth`.

Blocks of 3x3 convolution, BatchNorm and ReLU, one pooling and one linear map, trained by SGD: with more
images in a batch, more channels, more blocks; by one thread and by two; by minigrad (composed and fused)
and PyTorch. Each network runs in a fork of a process that has only imported its framework, so that its
peak memory is its own. Then `benchmarks.roofline`. `--only batch,channels,depth,roofline` chooses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks import machine, roofline
from benchmarks.contestant import Contestant
from benchmarks.options import among, listed
from benchmarks.peers import installed
from examples.flags import whole

SWEEPS: dict[str, tuple[dict[str, int], tuple[int, ...]]] = {
    "batch": ({"channels": 16, "depth": 2, "side": 28}, (1, 4, 16, 64, 256, 1024, 4096)),
    "channels": ({"batch": 32, "depth": 2, "side": 14}, (8, 16, 32, 64, 128, 256)),
    "depth": ({"batch": 32, "channels": 16, "side": 14}, (2, 5, 10, 20, 50)),
}
"""What grows, what stays, and through which values."""

CONTESTANTS = {"minigrad": "minigrad, composed", "fused": "minigrad, fused", "pytorch": "PyTorch"}


def sweep(name: str, growers: list[Contestant], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each value and contestant: median seconds a step, and peak bytes; they take turns."""
    fixed, values = SWEEPS[name]
    rows = []
    for value in values:
        found: dict[tuple[str, int], list[Any]] = {}
        for _ in range(rounds):
            for grower in growers:
                answer = grower.ask({**fixed, name: value, "seconds": seconds})
                if answer is not None:
                    found.setdefault((grower.name, grower.threads), []).append(answer)
        for (who, threads), answers in found.items():
            step = statistics.median(statistics.median(answer["seconds"]) for answer in answers)
            peak = max(answer["peak"] for answer in answers)
            rows.append({"grows": name, "value": value, "who": who, "threads": threads, "seconds": step, "peak": peak})
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Milliseconds a step and peak megabytes, in Markdown: a line for each value and number of threads."""
    lines = []
    for name in dict.fromkeys(row["grows"] for row in rows):
        some = [row for row in rows if row["grows"] == name]
        people = [who for who in CONTESTANTS if any(row["who"] == who for row in some)]
        fixed = ", ".join(f"{key} {value}" for key, value in SWEEPS[name][0].items())
        heads = [f"{CONTESTANTS[who]} (ms)" for who in people] + [f"{CONTESTANTS[who]} (MB)" for who in people]
        lines += [f"| {name} ({fixed}) | threads | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
        for threads in sorted({row["threads"] for row in some}):
            for value in dict.fromkeys(row["value"] for row in some):
                at = {r["who"]: r for r in some if r["threads"] == threads and r["value"] == value}
                cells = [f"{at[who]['seconds'] * 1e3:.2f}" if who in at else "-" for who in people]
                cells += [f"{at[who]['peak'] / 1e6:.0f}" if who in at else "-" for who in people]
                lines.append(f"| {value} | {threads} | {' | '.join(cells)} |")
        lines.append("")
    return lines


COLOURS = {"minigrad": "#2f6fb7", "fused": "#c8562f", "pytorch": "#5b6068"}


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Time above, memory below; a column for each of the three that grow."""
    plt = roofline.pyplot()
    if plt is None:
        return
    names = list(dict.fromkeys(row["grows"] for row in rows))
    figure, grid = plt.subplots(2, len(names), figsize=(4.2 * len(names), 6.6), layout="constrained", squeeze=False)
    per = {"batch": "µs an image", "channels": "ms a step", "depth": "ms a step"}
    for column, name in enumerate(names):
        some = [row for row in rows if row["grows"] == name]
        top, bottom = grid[0][column], grid[1][column]
        for who in CONTESTANTS:
            for threads in sorted({row["threads"] for row in some}):
                line = [row for row in some if row["who"] == who and row["threads"] == threads]
                if not line:
                    continue
                x = [row["value"] for row in line]
                scale = [1e6 / row["value"] if name == "batch" else 1e3 for row in line]
                style = {"color": COLOURS[who], "marker": "o", "ms": 3.5, "lw": 1.4}
                words = f"{CONTESTANTS[who]}, {threads} thread{'s' if threads > 1 else ''}"
                top.plot(
                    x, [row["seconds"] * s for row, s in zip(line, scale, strict=True)],
                    ls="--" if threads == 1 else "-", label=words, **style,
                )  # fmt: skip
                if threads == max(row["threads"] for row in some):
                    bottom.plot(x, [row["peak"] / 1e6 for row in line], label=CONTESTANTS[who], **style)
        for axes, words in ((top, per[name]), (bottom, "peak memory above the import's, MB")):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(SWEEPS[name][1], [f"{v:,}" for v in SWEEPS[name][1]])
            axes.minorticks_off()
            axes.yaxis.set_major_locator(roofline.decades(axes))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_ylabel(words, fontsize=8)
            axes.grid(True, color="#e4e6ea")
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        bottom.set_xlabel(f"{name}  ({', '.join(f'{k} {v}' for k, v in SWEEPS[name][0].items())})", fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    parts = [*SWEEPS, "roofline"]
    parser.add_argument(
        "--only", type=among(parts), default=parts, help=f"of {', '.join(parts)}, separated by commas (all)"
    )
    parser.add_argument("--threads", type=listed(whole), default=[1, 2], help="numbers of threads (1,2)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where JSON and pictures go")
    flags = parser.parse_args(argv)
    if not hasattr(os, "fork"):
        parser.error("peak memory is measured in forks, which this system does not have")
    wanted, names = flags.only, installed(CONTESTANTS)
    flags.out.mkdir(parents=True, exist_ok=True)
    began, caption = time.perf_counter(), machine.caption()
    report: dict[str, Any] = {**machine.description(), "quick": flags.quick}
    threads_of = flags.threads
    rounds, seconds = (1, 0.1) if flags.quick else (3, 0.15)
    if set(wanted) & set(SWEEPS):
        growers = [Contestant("benchmarks.growth_worker", name, threads) for threads in threads_of for name in names]
        rows: list[dict[str, Any]] = []
        try:
            for name in SWEEPS:
                if name in wanted:
                    rows += sweep(name, growers, rounds, seconds)
                    print(*table([row for row in rows if row["grows"] == name]), sep="\n", flush=True)
        finally:
            for grower in growers:
                grower.close()
        report["rows"] = rows
        picture(rows, flags.out / "growth.png")
    if "roofline" in wanted:
        report["roofline"] = roofline.measure(names, max(threads_of), rounds, seconds)
        print(*roofline.table(report["roofline"]), sep="\n")
        roofline.picture(report["roofline"], flags.out / "roofline.png")
    (flags.out / "growth.json").write_text(json.dumps(report, indent=1))
    print(f"{caption}; took {(time.perf_counter() - began) / 60:.1f} min")
