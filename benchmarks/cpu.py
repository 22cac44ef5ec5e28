"""W1 to W8 by minigrad and its peers: `python -m benchmarks cpu [--quick] [--only w1,w4] [--threads 1,2]`.

The contestants' processes are started once for each number of threads and kept; in a row they take turns,
round by round, and a ratio is that of two medians of the same round. `minigrad` is the product as it comes,
`fused` the same models after `fuse(model)`. A peer that is far slower than the others sits out the later
rounds of a row, so that it does not take their time. What a compiler does before the first step is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine
from benchmarks.contestant import Contestant
from benchmarks.options import among, listed
from benchmarks.peers import PEERS, installed
from benchmarks.workloads import WORKLOADS, Workload
from examples.flags import whole

ALWAYS = ("minigrad", "fused", "pytorch")
"""Who takes part in every round: the ratios are between these."""

Times = dict[str, list[float]]


class Effort(NamedTuple):
    """rounds: of a row, at least and at most.  seconds: of one turn.  row: seconds after which a row has no new round.

    peer: seconds after which one that is not in `ALWAYS` sits out.
    """

    least: int
    most: int
    seconds: float
    row: float
    peer: float


FULL = Effort(least=5, most=11, seconds=0.25, row=30.0, peer=3.0)
QUICK = Effort(least=3, most=5, seconds=0.1, row=3.0, peer=1.0)


class Peer(Contestant):
    """A library in its process, and what it spent of the time for a row."""

    def __init__(self, name: str, threads: int) -> None:
        super().__init__("benchmarks.worker", name, threads)
        self.version, self.spent = self.greeting["version"], 0.0

    def measure(self, name: str, seconds: float) -> Any:
        """Times a workload for about so many seconds; None where the peer has no such workload."""
        start = time.perf_counter()
        answer = self.ask([name, seconds])
        self.spent += time.perf_counter() - start
        return answer


def interleaved(
    workload: Workload, peers: list[Peer], effort: Effort, clock: str
) -> tuple[Times, dict[str, list[Any]]]:
    """Seconds a step, for each round the median of each peer, and the checks; the peers take turns."""
    times: Times = {}
    checks = {}
    for peer in peers:
        peer.spent = 0.0
    began = time.perf_counter()
    for number in range(effort.most):
        if number >= effort.least and time.perf_counter() - began > effort.row:
            break
        for peer in list(peers):
            if number and (peer.name not in times or (peer.name not in ALWAYS and peer.spent > effort.peer)):
                continue
            try:
                found = peer.measure(workload.name, effort.seconds)
            except (RuntimeError, OSError) as error:  # one that fails must not take the others along
                print(f"{peer.name}: {error}; it takes no further part", file=sys.stderr)
                times.pop(peer.name, None)
                peers.remove(peer)
                continue
            if found is not None:
                times.setdefault(peer.name, []).append(statistics.median(found[clock]))
                if number == 0:
                    checks[peer.name] = found["checks"]
    return times, checks


def agree(checks: dict[str, list[Any]]) -> dict[str, bool]:
    """Whether each peer's values are PyTorch's to 1e-4 of the scale that stands beside each (`worker.checks_of`)."""
    truth = checks.get("pytorch")
    if truth is None:
        return {}
    return {
        name: len(values) == len(truth) > 0
        and all(abs(a - b) <= 1e-4 * scale for (a, _), (b, scale) in zip(values, truth, strict=True))
        for name, values in checks.items()
    }


def row_of(workload: Workload, threads: int, times: Times, checks: dict[str, list[Any]]) -> dict[str, Any]:
    """What a report keeps of a row: seconds by round, and medians and quartiles of the ratios to PyTorch."""
    agreement = agree(checks)
    ratios, quartiles = {}, {}
    for name, values in times.items():
        if "pytorch" in times and agreement[name]:
            each = sorted(a / b for a, b in zip(values, times["pytorch"]))  # one who sat out has fewer
            ratios[name] = statistics.median(each)
            quartiles[name] = each[len(each) // 4], each[-1 - len(each) // 4]
    return {
        "name": workload.name, "title": workload.title, "threads": threads, "seconds": times, "ratios": ratios,
        "quartiles": quartiles, "disagree": [name for name, right in agreement.items() if not right],
    }  # fmt: skip


# ---- W8 -------------------------------------------------------------------------------------------
START = "import time; t = time.perf_counter(); import {package}; print(time.perf_counter() - t)"
MEMORY = """
import resource
from benchmarks.peers.{peer} import threads, w1
from benchmarks.workloads import arrays_of
threads({threads}); step = w1(arrays_of("w1")); [step() for _ in range(20)]
print(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6)
"""


def start_and_memory(names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """W8: seconds of an import, and resident megabytes after 20 steps of W1."""
    rows: dict[str, dict[str, float]] = {"import (s)": {}, "resident after 20 W1 steps (MB)": {}}

    def run(code: str) -> float:
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    for peer in names:
        if peer != "fused":
            rows["import (s)"][peer] = min(run(START.format(package=PEERS[peer])) for _ in range(rounds))
        if peer in (*ALWAYS, "jax"):
            code = MEMORY.format(peer=peer, threads=machine.cores())
            rows["resident after 20 W1 steps (MB)"][peer] = run(code)
    return rows


# ---- reports --------------------------------------------------------------------------------------
def spread(row: dict[str, Any], name: str) -> str:
    """A ratio with its quartiles, or a dash."""
    if name in row["disagree"]:
        return "DISAGREES"
    if name not in row["ratios"]:
        return "-"
    low, high = row["quartiles"][name]
    return f"{row['ratios'][name]:.2f} ({low:.2f}-{high:.2f})"


def cells(row: dict[str, Any], names: list[str]) -> list[str]:
    """A row of the table: title, threads, everyone's median, and the two ratios that the targets speak of."""
    unit = next(w.unit for w in WORKLOADS if w.name == row["name"])
    medians = {name: statistics.median(values) / unit for name, values in row["seconds"].items()}
    numbers = [f"{medians[name]:.3f}" if name in medians else "-" for name in names]
    return [row["title"], str(row["threads"]), *numbers, spread(row, "minigrad"), spread(row, "fused")]


def head(names: list[str]) -> list[str]:
    return ["", "threads", *names, "minigrad / PyTorch (quartiles)", "fused / PyTorch (quartiles)"]


def aligned(cells: list[str], names: list[str]) -> str:
    """A row for the terminal."""
    widths = [62, 8, *(11 for _ in names), 32, 29]
    return cells[0].ljust(widths[0]) + "".join(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))


def markdown(report: dict[str, Any]) -> list[str]:
    """The table, and what it says of the targets, as they stand in docs/speed.md."""
    names, w8 = report["peers"], report["w8"]
    lines = [f"| {' | '.join(head(names))} |", "|---" * (len(names) + 4) + "|"]
    lines += [f"| {' | '.join(cells(row, names))} |" for row in report["rows"]]
    for title, row in w8.items():
        numbers = [f"{row[name]:.2f}" if name in row else "-" for name in names]
        lines.append(f"| W8 {title} | | {' | '.join(numbers)} | | |")
    lines += ["", "| against the targets | composed | fused |", "|---|---|---|"]
    for workload in WORKLOADS:
        rows = [row for row in report["rows"] if row["name"] == workload.name]
        if not rows:
            continue
        texts = [workload.title.rsplit(" (", 1)[0]]
        for name, target in (("minigrad", workload.composed), ("fused", workload.fused)):
            found = {row["threads"]: row["ratios"][name] for row in rows if name in row["ratios"]}
            if target is None or not found:
                texts.append("")
                continue
            missed = [threads for threads, ratio in found.items() if ratio > target]
            text = f"{target:g}: {', '.join(f'{ratio:.2f}' for ratio in found.values())}"
            if missed:
                text += " (missed" + ("" if len(missed) == len(found) else f" with {missed[0]}") + ")"
            texts.append(text)
        lines.append(f"| {' | '.join(texts)} |")
    for title, target, key in (
        ("W8 import", 0.15, "import (s)"),
        ("W8 memory", 130.0, "resident after 20 W1 steps (MB)"),
    ):
        texts = []
        for name in ("minigrad", "fused"):
            number = w8.get(key, {}).get(name)
            missed = " (missed)" if number is not None and number > target else ""
            texts.append("" if number is None else f"{target:g}: {number:.3g}{missed}")
        if any(texts):
            lines.append(f"| {title} {key[key.index('(') :]} | {' | '.join(texts)} |")
    return lines


COLOURS = {("minigrad", 0): "#9cc3e0", ("minigrad", 1): "#2f6fb7", ("fused", 0): "#f0b48a", ("fused", 1): "#c8562f"}


def chart(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of the ratios to PyTorch, composed and fused, for each workload and number of threads."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    counts = sorted({row["threads"] for row in rows})
    titles = list(dict.fromkeys(row["title"] for row in rows if row["ratios"]))
    bars = []  # (title, contestant, place of the number of threads, row)
    for title in titles:
        for name in ("minigrad", "fused"):
            for place, threads in enumerate(counts):
                row = next((r for r in rows if r["title"] == title and r["threads"] == threads), None)
                if row is not None and name in row["ratios"]:
                    bars.append((title, name, place, row))
    if not bars:
        return
    figure, axes = plt.subplots(figsize=(9, 0.19 * len(bars) + 0.16 * len(titles) + 1.3), layout="constrained")
    longest = max(1.0, *(row["quartiles"][name][1] for _, name, _, row in bars))
    ticks, at, labelled = [], 0.0, set()
    for title in titles:
        group = [bar for bar in bars if bar[0] == title]
        ticks.append(at + (len(group) - 1) / 2)
        for _, name, place, row in group:
            ratio, (low, high) = row["ratios"][name], row["quartiles"][name]
            key = (name, place % 2)
            words = f"{'composed' if name == 'minigrad' else 'fused'}, {counts[place]} thread"
            label = None if key in labelled else words + ("s" if counts[place] > 1 else "")
            labelled.add(key)
            axes.barh(at, ratio, 0.9, color=COLOURS[key], label=label)
            axes.plot([low, high], [at, at], color="#22252b", lw=0.8)
            axes.text(max(ratio, high) + 0.01 * longest, at, f"{ratio:.2f}", va="center", fontsize=7)
            at += 1
        at += 0.8
    axes.axvline(1, color="#22252b", lw=0.9)
    axes.text(1, -1.1, "PyTorch", ha="center", va="bottom", fontsize=8)
    axes.set_xlim(0, 1.1 * longest)
    axes.set_ylim(at - 0.8, -1.0)
    axes.set_yticks(ticks, [title.rsplit(" (", 1)[0] for title in titles], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("time of minigrad / time of PyTorch eager (less is faster; lines: quartiles)", fontsize=8)
    axes.legend(fontsize=8, loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def started(names: list[str], threads: int) -> list[Peer]:
    """The contestants' processes; one that cannot start is left out with a line."""
    peers = []
    for name in names:
        try:
            peers.append(Peer(name, threads))
        except RuntimeError as error:
            print(f"skipped: {name} ({error})")
    return peers


def measure(names: list[str], flags: argparse.Namespace, effort: Effort) -> list[dict[str, Any]]:
    """All rows, printed as they are made."""
    rows = []
    clock = "cpu" if flags.cpu_time else "seconds"
    threads_of = flags.threads
    peers = {threads: started(names, threads) for threads in threads_of}
    print(aligned(head(names), names))
    try:
        for workload in WORKLOADS:
            if workload.name not in flags.only:
                continue
            for threads in threads_of[:1] if workload.name.startswith("w5") else threads_of:
                row = row_of(workload, threads, *interleaved(workload, peers[threads], effort, clock))
                rows.append(row)
                note = ""
                if workload.flops and "minigrad" in row["seconds"]:
                    note = f"  {workload.flops / statistics.median(row['seconds']['minigrad']) / 1e9:.0f} GFLOP/s"
                others = [name for name in row["disagree"] if name not in ("minigrad", "fused")]
                note += f"  DISAGREES: {', '.join(others)}" if others else ""
                print(aligned(cells(row, names), names) + note, flush=True)
    finally:
        for peer in (peer for some in peers.values() for peer in some):
            peer.close()
    return rows


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, PyTorch alone: under two minutes")
    workloads = [workload.name for workload in WORKLOADS]
    parser.add_argument(
        "--only", type=among(workloads), default=workloads,
        help=f"of {', '.join(workloads)}, or how some of them begin, separated by commas (all, and W8)",
    )  # fmt: skip
    parser.add_argument("--threads", type=listed(whole), default=[1, 2], help="numbers of threads (1,2)")
    parser.add_argument("--peers", type=among(PEERS), help=f"of {', '.join(PEERS)} (all that are installed)")
    parser.add_argument(
        "--cpu-time", action="store_true",
        help="count the processor's time of all threads instead of the clock's: for a machine that others use too",
    )  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/speed.md at the end")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="where JSON and picture go")
    flags = parser.parse_args(argv)
    names = installed(flags.peers or (ALWAYS if flags.quick else PEERS))
    for line in machine.advice():
        print(line)
    began, caption, about = time.perf_counter(), machine.caption(), machine.description()
    rows = measure(names, flags, QUICK if flags.quick else FULL)
    if not any(row["seconds"] for row in rows):
        raise SystemExit("nothing was measured")
    w8 = {} if flags.only != workloads else start_and_memory(names, 2 if flags.quick else 5)
    for title, row in w8.items():
        print(f"W8 {title:59}" + " " * 8 + "".join(f"{row[n]:.3f}".rjust(11) if n in row else " " * 11 for n in names))
    took = time.perf_counter() - began
    report = {
        **about, "quick": flags.quick, "clock": "processor" if flags.cpu_time else "wall", "took": took,
        "peers": names, "rows": rows, "w8": w8,
    }  # fmt: skip
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "cpu.json").write_text(json.dumps(report, indent=1))
    chart(rows, flags.out / "cpu.png")
    if flags.markdown:
        print("", f"{caption}; took {took / 60:.1f} min.", "", *markdown(report), sep="\n")
    else:
        print(f"{caption}; took {took / 60:.1f} min")
