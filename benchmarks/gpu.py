"""What a training step costs on a GPU, beside PyTorch on the same card: `python -m benchmarks.gpu`.

The small BN-CNN on images of MNIST's size (random ones: speed does not depend on what they show), batches
of 128 and 4,096, SGD with momentum, float32 with TF32 off on both sides. A *step* is forward, backward and
update on a batch that lies on the card. The contestants take turns, round by round, so that a card that
warms up does so for all; a round is timed by events on the device, and its end is waited for. The table
has medians over rounds. What cannot be measured here is listed as not measured, with the reason.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import minigrad as mg
from minigrad import functional as F
from minigrad import nn, optim

WARMUP = 10
ROUNDS = 7


@dataclass
class Contestant:
    """A way to run the step: `run(n)` takes n steps and returns milliseconds, all kernels waited for."""

    name: str
    run: Callable[[int], float]
    note: Callable[[], str] = lambda: ""
    times: list[float] = field(default_factory=list)


def bn_cnn(layers: Any) -> Any:
    """The network, from `minigrad.nn` or `torch.nn`: the two share their names."""
    return layers.Sequential(
        layers.Conv2d(1, 16, 3, padding=1), layers.BatchNorm2d(16), layers.ReLU(), layers.MaxPool2d(2),
        layers.Conv2d(16, 32, 3, padding=1), layers.BatchNorm2d(32), layers.ReLU(), layers.MaxPool2d(2),
        layers.Flatten(), layers.Linear(32 * 7 * 7, 10),
    )  # fmt: skip


def minigrads(batch: int, captured: bool) -> Contestant:
    """minigrad on CuPy, step by step or through `mg.capture`."""
    xp = mg.backend.xp
    mg.random.seed(0)
    model = bn_cnn(nn)
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
    return Contestant("minigrad, mg.capture" if captured else "minigrad", run, note)


def torches(torch: Any, batch: int, mode: str) -> Contestant:
    """PyTorch: "eager", "graph" (the whole step as one CUDA graph) or "compile" (reduce-overhead)."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    model = bn_cnn(torch.nn).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    x = torch.randn(batch, 1, 28, 28, device="cuda")
    y = torch.arange(batch, device="cuda") % 10
    forward = torch.compile(model, mode="reduce-overhead") if mode == "compile" else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=mode != "graph")
        torch.nn.functional.cross_entropy(forward(x), y).backward()
        optimizer.step()

    call = step
    if mode == "graph":
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
    return Contestant(names[mode], run)


def contestants(batch: int, unmeasured: list[str]) -> list[Contestant]:
    """Everyone who can start here; the others go to `unmeasured` with their reasons."""
    makers: dict[str, Callable[[], Contestant]] = {
        f"minigrad, batch {batch}": lambda: minigrads(batch, False),
        f"minigrad with mg.capture, batch {batch}": lambda: minigrads(batch, True),
    }
    try:
        import torch  # an optional dependency: what minigrad is measured against
    except ImportError as error:
        unmeasured.append(f"PyTorch, batch {batch}: it does not import here ({error})")
    else:
        if torch.cuda.is_available():
            for mode in ("eager", "graph", "compile"):
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


def measure(batch: int, seconds: float, unmeasured: list[str]) -> list[str]:
    """The lines of the table for one batch size, from about `seconds` of measuring."""
    ready = contestants(batch, unmeasured)
    if not ready:
        return []
    began = time.perf_counter()
    for _ in range(ROUNDS):
        for one in ready:
            steps = max(5, int(seconds * 1000 / (ROUNDS * len(ready)) / max(one.run(1), 0.01)))
            steps = min(steps, 500)
            one.times.append(one.run(steps) / steps)
        if time.perf_counter() - began > 2 * seconds:
            break
    eager = next((statistics.median(one.times) for one in ready if one.name == "PyTorch eager"), None)
    lines = []
    for one in ready:
        middle = statistics.median(one.times)
        against = f"{eager / middle:.2f}x" if eager else "not measured"
        spread = f"{min(one.times):.3f} to {max(one.times):.3f}"
        lines.append(f"| {batch} | {one.name} | {middle:.3f} | {spread} | {against} | {one.note()} |")
    return lines


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
    """Prints the table; the exit status is 0 also where nothing could be measured, which it then says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 4096])
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring, for each batch size")
    flags = parser.parse_args(argv)
    unmeasured: list[str] = []
    lines: list[str] = []
    try:
        mg.use("cupy")
    except (ImportError, RuntimeError) as error:
        unmeasured.append(f"everything: {error}")
    else:
        print(versions(), end="\n\n")
        for batch in flags.batches:
            lines += measure(batch, flags.seconds, unmeasured)
    if lines:
        print("| batch | contestant | ms a step, median | rounds | against PyTorch eager | note |")
        print("|---|---|---|---|---|---|", *lines, sep="\n")
    unmeasured.append("training to 99 % test accuracy: that is `time python -m examples.mnist --backend cupy`")
    print("\nNot measured:", *(f"- {reason}" for reason in unmeasured), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
