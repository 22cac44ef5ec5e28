"""What a training step costs on a GPU, beside PyTorch on the same card: `python -m benchmarks.gpu`.

Under ten minutes in three parts, which `--parts` takes one by one: "check", the tests that need a GPU (correctness
first: where they fail the numbers say nothing); "step", training steps; "train", the main job to its accuracy.

The network is the small BN-CNN on images of MNIST's size (random ones: speed does not depend on what they show), in
batches of 128 and 4,096, SGD with momentum, float32 with TF32 off on both sides. A *step* is forward, backward and
update on a batch that lies on the card. The contestants, each in a process of its own, take turns, round by round, so
that a card that warms up does so for all; a round is timed by events on the device, and its end is waited for. The
table has medians over rounds. What cannot be measured here is listed as not measured, with the reason: a contestant
that ends, hangs or answers nonsense too, and what the ten minutes had no room for. All of it goes, part by part, into
OUT/gpu.json and, ready for docs/gpu.md, OUT/gpu.md.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import minigrad as mg
from benchmarks.contestant import Contestant
from benchmarks.gpu_worker import WAYS
from examples.flags import whole

WORKER = "benchmarks.gpu_worker"
WARMUP = 10
ROUNDS = 7
LEAST = 5  # steps in a round
PATIENCE = 100.0  # seconds for an answer: compiling everything takes tens
LIMIT = 560.0  # seconds for everything: ten minutes, less what processes take to end
TRAINING = 90.0  # of them, kept for the main job


class Clock:
    """The time that is left of so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.ends = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left."""
        return self.ends - time.monotonic()


class Rival(Contestant):
    """A contestant in a process of its own, which an error of another's cannot reach."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.clock = clock
        super().__init__(WORKER, name, os.cpu_count() or 1, self.longest())
        self.note = ""
        self.times: list[float] = []

    def longest(self) -> float:
        """Seconds that an answer may take."""
        return max(1.0, min(PATIENCE, self.clock.left()))

    def answer(self, question: list[Any]) -> dict[str, Any]:
        """The answer; RuntimeError where it is an error, or none."""
        self.patience = self.longest()
        answer = self.ask(question)
        if not isinstance(answer, dict):
            raise RuntimeError(f"it answered {answer!r:.80}")
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def make(self, batch: int) -> None:
        """Makes the network for a batch size, compiles kernels, fills pools, captures."""
        self.answer(["make", batch])
        self.run(WARMUP)

    def run(self, steps: int) -> float:
        """Milliseconds that so many steps take."""
        answer = self.answer(["run", steps])
        self.note, ms = answer.get("note", ""), answer.get("ms")
        if not (isinstance(ms, float) and 0 < ms < math.inf):
            raise RuntimeError(f"it measured {ms!r} ms for {steps} steps")
        return ms


def rivals(names: Iterable[str], unmeasured: list[str], clock: Clock) -> list[Rival]:
    """Those who can start here; the others go to `unmeasured` with their reasons."""
    ready = []
    for name in names:
        try:
            ready.append(Rival(name, clock))
        except (RuntimeError, OSError) as error:
            unmeasured.append(f"{name}: {error}")
    return ready


def measure(
    batch: int, everyone: list[Rival], seconds: float, unmeasured: list[str], clock: Clock
) -> list[dict[str, Any]]:
    """A line for each contestant at one batch size, from about `seconds` of measuring.

    One that fails is left out and replaced in `everyone`: an error on a card stays in its process. One that gave no
    answer in time is not asked again.
    """
    ready = list(everyone)

    def attempt(one: Rival, work: Callable[[], None]) -> None:
        if clock.left() <= 0:
            return
        try:
            work()
        except (RuntimeError, OSError) as error:
            unmeasured.append(f"{one.name}, batch {batch}: {error}{', and was not asked again' * one.late}")
            ready.remove(one)
            one.close()
            place = everyone.index(one)
            everyone[place : place + 1] = [] if one.late else rivals([one.name], unmeasured, clock)

    def take_a_turn(one: Rival) -> None:
        steps = int(seconds * 1000 / (ROUNDS * len(ready)) / max(one.run(1), 0.01))
        steps = min(max(LEAST, steps), 500)
        one.times.append(one.run(steps) / steps)

    for one in list(ready):
        one.times = []
        attempt(one, functools.partial(one.make, batch))
    began = time.perf_counter()
    for _ in range(ROUNDS):
        for one in list(ready):
            attempt(one, functools.partial(take_a_turn, one))
        if time.perf_counter() - began > 2 * seconds:
            break
    unmeasured += [f"{one.name}, batch {batch}: the ten minutes were over" for one in ready if not one.times]
    ready = [one for one in ready if one.times]
    eager = next((statistics.median(one.times) for one in ready if one.name == "PyTorch eager"), None)
    return [
        {"batch": batch, "contestant": one.name, "ms": statistics.median(one.times), "rounds": one.times,
         "against eager": eager and eager / statistics.median(one.times), "note": one.note}
        for one in ready
    ]  # fmt: skip


def row(line: dict[str, Any]) -> str:
    """A line as one of the table's."""
    against = f"{line['against eager']:.2f}x" if line["against eager"] else "not measured"
    spread = f"{min(line['rounds']):.3f} to {max(line['rounds']):.3f}"
    return f"| {line['batch']} | {line['contestant']} | {line['ms']:.3f} | {spread} | {against} | {line['note']} |"


def command(arguments: list[str], seconds: float, what: str, unmeasured: list[str]) -> list[str]:
    """The last lines that a command prints, and how long it took; and where it failed, why it is not measured."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        printed, errors = process.communicate(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        unmeasured.append(f"{what}: it took more than {seconds:.0f} s")
        os.killpg(process.pid, signal.SIGKILL)  # what it started would go on beside the measurements
        printed, errors = process.communicate()
    else:
        if process.returncode:
            unmeasured.append(f"{what}: `python -m {' '.join(arguments)}` ended with status {process.returncode}")
    lines = printed.splitlines()[-12:] or errors.splitlines()[-12:]
    return [*lines, f"({time.perf_counter() - began:.1f} s, status {process.returncode})"]


CHECK = ["pytest", "--backend", "cupy", "-n", "8", "tests/test_gpu.py"]
TRAIN = ["examples.mnist", "--backend", "cupy", "--dataset", "mnist", "--epochs", "2"]


def versions() -> str:
    """Date, card and versions, as the table's caption."""
    xp = mg.backend.xp
    card = xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    try:
        import torch  # as above

        other = f"PyTorch {torch.__version__}"
    except (ImportError, OSError):  # it is not here, or a library of its own is not
        other = "no PyTorch"
    return (
        f"{datetime.date.today()}, {card}, CUDA {xp.cuda.runtime.runtimeGetVersion()}, CuPy {xp.__version__}, {other}, "
        f"Python {platform.python_version()}"
    )


def main(argv: list[str] | None = None) -> int:
    """Prints and writes what was measured; the exit status is 0 also where nothing could be, which it then says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=("check", "step", "train"), default=["check", "step", "train"])
    parser.add_argument("--batches", type=whole, nargs="+", default=[128, 4096])
    parser.add_argument("--seconds", type=float, default=40.0, help="of measuring, for each batch size")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where gpu.json and gpu.md go")
    flags = parser.parse_args(argv)
    unmeasured: list[str] = []
    found: dict[str, Any] = {}
    text: list[str] = []

    def say(*lines: str) -> None:
        """Prints lines, and writes down all that there is so far: who ends this early finds it."""
        print(*lines, sep="\n", flush=True)
        text.extend(lines)
        flags.out.mkdir(parents=True, exist_ok=True)
        (flags.out / "gpu.json").write_text(json.dumps({**found, "not measured": unmeasured}, indent=1))
        (flags.out / "gpu.md").write_text("\n".join(text) + "\n")

    clock, of_steps = Clock(LIMIT), Clock(LIMIT - TRAINING * ("train" in flags.parts))
    try:
        mg.use("cupy")
    except (ImportError, RuntimeError) as error:
        unmeasured.append(f"everything: {error}")
    else:
        found["versions"] = versions()
        say(found["versions"], "")
        if "check" in flags.parts:
            found["check"] = command(CHECK, min(200, clock.left()), "agreement with NumPy on the device", unmeasured)
            say("```", *found["check"], "```", "")
        if "step" in flags.parts:
            everyone, found["steps"] = rivals(WAYS, unmeasured, of_steps), []
            for batch in flags.batches:
                lines = measure(batch, everyone, flags.seconds, unmeasured, of_steps)
                found["steps"] += lines
                if lines:
                    say("| batch | contestant | ms a step, median | rounds | against PyTorch eager | note |")
                    say("|---|---|---|---|---|---|", *map(row, lines), "")
            for one in everyone:
                one.close()
        if "train" in flags.parts:
            for time_, key in (("the first time", "train"), ("again, with every kernel compiled", "train again")):
                what = f"training to 99 % test accuracy, {time_}"
                found[key] = command(TRAIN, min(120, clock.left()), what, unmeasured)
                say(f"`python -m {' '.join(TRAIN)}`, {time_}:", "", "```", *found[key], "```", "")
    parts = {"check": "agreement with NumPy", "step": "a step's time", "train": "training to 99 % test accuracy"}
    unmeasured += [f"{what}: --parts left it out" for part, what in parts.items() if part not in flags.parts]
    say("Not measured:", *(f"- {reason}" for reason in unmeasured or ["nothing: all of it was"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
