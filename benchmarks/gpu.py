"""What a training step costs on a GPU, beside PyTorch on the same card: `python -m benchmarks.gpu`.

Under ten minutes in three parts, which `--parts` takes one by one: "check", the tests that need a GPU (correctness
first: where they fail the numbers say nothing); "step", training steps; "train", the main job to its accuracy.

The network is the small BN-CNN on images of MNIST's size (random ones: speed does not depend on what they show), in
batches of 128 and 4,096, SGD with momentum, float32 with TF32 off on both sides. A *step* is forward, backward and
update on a batch that lies on the card. The contestants take turns, round by round, so that a card that
warms up does so for all; a round is timed by events on the device, and its end is waited for. The table
has medians over rounds. What cannot be measured here is listed as not measured, with the reason. All of it goes
into OUT/gpu.json and, ready for docs/gpu.md, OUT/gpu.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import minigrad as mg
from minigrad import functional as F
from minigrad import nn, optim

WARMUP = 10
ROUNDS = 7
LEAST = 5  # steps in a round


@dataclass
class Contestant:
    """A way to run the step: `run(n)` takes n steps and returns milliseconds, all kernels waited for."""

    name: str
    run: Callable[[int], float]
    note: Callable[[], str] = lambda: ""
    keeps: Any = None  # what a graph replays on: it keeps none of its memory alive
    times: list[float] = field(default_factory=list)


def bn_cnn(layers: Any) -> Any:
    """The network, from `minigrad.nn` or `torch.nn`: the two share their names."""
    return layers.Sequential(
        layers.Conv2d(1, 16, 3, padding=1), layers.BatchNorm2d(16), layers.ReLU(), layers.MaxPool2d(2),
        layers.Conv2d(16, 32, 3, padding=1), layers.BatchNorm2d(32), layers.ReLU(), layers.MaxPool2d(2),
        layers.Flatten(), layers.Linear(32 * 7 * 7, 10),
    )  # fmt: skip


def minigrads(batch: int, fused: bool, captured: bool) -> Contestant:
    """minigrad on CuPy: layer by layer or fused, step by step or through `mg.capture`."""
    xp = mg.backend.xp
    mg.random.seed(0)
    model = mg.fused.fuse(bn_cnn(nn)) if fused else bn_cnn(nn)
    optimizer = optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x = mg.random.normal(batch, 1, 28, 28)
    y = mg.tensor([i % 10 for i in range(batch)])

    def step(x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    fast = mg.capture(step, optimizer) if captured else step

    def run(steps: int) -> float:
        start, end = xp.cuda.Event(), xp.cuda.Event()
        start.record()
        for _ in range(steps):
            fast(x, y)
        end.record()
        end.synchronize()
        return float(xp.cuda.get_elapsed_time(start, end))

    note = lambda: f"ran uncaptured: {fast.reason}" if captured and fast.reason else ""
    return Contestant("minigrad" + ", fused" * fused + ", mg.capture" * captured, run, note)


def torches(torch: Any, batch: int, mode: str) -> Contestant:
    """PyTorch: "eager", "graph" (the whole step as one CUDA graph), "compile" (reduce-overhead), or "both".

    "both" is a compiled model in a graph of the whole step: more than one call of PyTorch's, and its fastest.
    """
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    model = bn_cnn(torch.nn).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x = torch.randn(batch, 1, 28, 28, device="cuda")
    y = torch.arange(batch, device="cuda") % 10
    compiled = {"compile": {"mode": "reduce-overhead"}, "both": {}}.get(mode)
    forward = model if compiled is None else torch.compile(model, **compiled)

    def step() -> None:
        optimizer.zero_grad(set_to_none=mode not in ("graph", "both"))
        torch.nn.functional.cross_entropy(forward(x), y).backward()
        optimizer.step()

    call = step
    if mode in ("graph", "both"):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        call = graph.replay

    def run(steps: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    names = {"eager": "PyTorch eager", "graph": "PyTorch, CUDA graph", "compile": "PyTorch, reduce-overhead"}
    return Contestant(names.get(mode, "PyTorch, compiled, CUDA graph"), run, keeps=(model, optimizer, x, y))


def contestants(batch: int, unmeasured: list[str]) -> list[Contestant]:
    """Everyone who can start here; the others go to `unmeasured` with their reasons."""
    makers: dict[str, Callable[[], Contestant]] = {
        f"minigrad{', fused' * fused}{', mg.capture' * captured}, batch {batch}": (
            lambda fused=fused, captured=captured: minigrads(batch, fused, captured)
        )
        for captured in (False, True)
        for fused in (False, True)
    }
    try:
        import torch  # an optional dependency: what minigrad is measured against
    except ImportError as error:
        unmeasured.append(f"PyTorch, batch {batch}: it does not import here ({error})")
    else:
        if torch.cuda.is_available():
            for mode in ("eager", "graph", "compile", "both"):
                makers[f"PyTorch {mode}, batch {batch}"] = lambda mode=mode: torches(torch, batch, mode)
        else:
            unmeasured.append(f"PyTorch, batch {batch}: this build ({torch.__version__}) finds no GPU")
    ready = []
    for name, make in makers.items():
        try:
            one = make()
            one.run(WARMUP)  # compiles kernels, fills pools, captures
            ready.append(one)
        except Exception as error:  # one that fails must not take the others along
            unmeasured.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return ready


def measure(batch: int, seconds: float, unmeasured: list[str]) -> list[dict[str, Any]]:
    """A line for each contestant at one batch size, from about `seconds` of measuring."""
    ready = contestants(batch, unmeasured)
    began = time.perf_counter()
    for _ in range(ROUNDS):
        for one in list(ready):
            try:
                steps = max(LEAST, int(seconds * 1000 / (ROUNDS * len(ready)) / max(one.run(1), 0.01)))
                steps = min(steps, 500)
                one.times.append(one.run(steps) / steps)
            except Exception as error:
                unmeasured.append(f"{one.name}, batch {batch}: {type(error).__name__}: {str(error).splitlines()[0]}")
                ready.remove(one)
        if time.perf_counter() - began > 2 * seconds:
            break
    eager = next((statistics.median(one.times) for one in ready if one.name == "PyTorch eager"), None)
    return [
        {"batch": batch, "contestant": one.name, "ms": statistics.median(one.times), "rounds": one.times,
         "against eager": eager and eager / statistics.median(one.times), "note": one.note()}
        for one in ready
    ]  # fmt: skip


def row(line: dict[str, Any]) -> str:
    """A line as one of the table's."""
    against = f"{line['against eager']:.2f}x" if line["against eager"] else "not measured"
    spread = f"{min(line['rounds']):.3f} to {max(line['rounds']):.3f}"
    return f"| {line['batch']} | {line['contestant']} | {line['ms']:.3f} | {spread} | {against} | {line['note']} |"


def command(arguments: list[str], seconds: float, what: str, unmeasured: list[str]) -> list[str]:
    """The last lines that a command prints, and how long it took; or why it is not measured."""
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        unmeasured.append(f"{what}: it took more than {seconds:.0f} s")
        return []
    lines = done.stdout.splitlines()[-12:] or done.stderr.splitlines()[-12:]
    if done.returncode:
        unmeasured.append(f"{what}: `python -m {' '.join(arguments)}` ended with status {done.returncode}")
    return [*lines, f"({time.perf_counter() - began:.1f} s, status {done.returncode})"]


CHECK = ["pytest", "--backend", "cupy", "-n", "8", "tests/test_gpu.py"]
TRAIN = ["examples.mnist", "--backend", "cupy", "--dataset", "mnist", "--capture", "--fuse", "--epochs", "2"]


def versions() -> str:
    """Date, card and versions, as the table's caption."""
    xp = mg.backend.xp
    card = xp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    try:
        import torch  # as above

        other = f"PyTorch {torch.__version__}"
    except ImportError:
        other = "no PyTorch"
    return (
        f"{datetime.date.today()}, {card}, CUDA {xp.cuda.runtime.runtimeGetVersion()}, CuPy {xp.__version__}, {other}, "
        f"Python {platform.python_version()}"
    )


def main(argv: list[str] | None = None) -> int:
    """Prints and writes what was measured; the exit status is 0 also where nothing could be, which it then says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=("check", "step", "train"), default=["check", "step", "train"])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 4096])
    parser.add_argument("--seconds", type=float, default=40.0, help="of measuring, for each batch size")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where gpu.json and gpu.md go")
    flags = parser.parse_args(argv)
    unmeasured: list[str] = []
    found: dict[str, Any] = {}
    text: list[str] = []

    def say(*lines: str) -> None:
        print(*lines, sep="\n", flush=True)
        text.extend(lines)

    try:
        mg.use("cupy")
    except (ImportError, RuntimeError) as error:
        unmeasured.append(f"everything: {error}")
    else:
        found["versions"] = versions()
        say(found["versions"], "")
        if "check" in flags.parts:
            found["check"] = command(CHECK, 200, "agreement with NumPy on the device", unmeasured)
            say("```", *found["check"], "```", "")
        if "step" in flags.parts:
            found["steps"] = [line for batch in flags.batches for line in measure(batch, flags.seconds, unmeasured)]
            if found["steps"]:
                say("| batch | contestant | ms a step, median | rounds | against PyTorch eager | note |")
                say("|---|---|---|---|---|---|", *map(row, found["steps"]), "")
        if "train" in flags.parts:
            for time_, key in (("the first time", "train"), ("again, with every kernel compiled", "train again")):
                found[key] = command(TRAIN, 120, f"training to 99 % test accuracy, {time_}", unmeasured)
                say(f"`python -m {' '.join(TRAIN)}`, {time_}:", "", "```", *found[key], "```", "")
    parts = {"check": "agreement with NumPy", "step": "a step's time", "train": "training to 99 % test accuracy"}
    unmeasured += [f"{what}: --parts left it out" for part, what in parts.items() if part not in flags.parts]
    found["not measured"] = unmeasured
    say("Not measured:", *(f"- {reason}" for reason in unmeasured or ["nothing: all of it was"]))
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "gpu.json").write_text(json.dumps(found, indent=1))
    (flags.out / "gpu.md").write_text("\n".join(text) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
