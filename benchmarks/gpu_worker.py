"""A contestant of `benchmarks.gpu` in its own process: `python -m benchmarks.gpu_worker WAY`.

It reads questions as lines of JSON, ["make", batch] and ["run", steps], and answers with milliseconds, all kernels
waited for, or with an error. A process each, because an error on a card ends everything that its process has there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import minigrad as mg
from benchmarks.peers.alike import bn_cnn
from minigrad import functional as F
from minigrad import nn, optim


@dataclass
class Way:
    """A way to run the step: `run(n)` takes n steps and returns milliseconds."""

    run: Callable[[int], float]
    note: Callable[[], str] = lambda: ""
    keeps: Any = None  # what a graph replays on: it keeps none of its memory alive


def minigrad(batch: int, fused: bool, captured: bool) -> Way:
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
    return Way(run, note)


def pytorch(batch: int, mode: str) -> Way:
    """PyTorch: "eager", "graph" (the whole step as one CUDA graph), "compile" (reduce-overhead), or "both".

    "both" is a compiled model in a graph of the whole step: more than one call of PyTorch's, and its fastest.
    """
    import torch  # an optional dependency: what minigrad is measured against

    if not torch.cuda.is_available():
        raise RuntimeError(f"this build ({torch.__version__}) finds no GPU")
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
        optimizer.zero_grad(set_to_none=True)
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
        optimizer.zero_grad(set_to_none=True)  # the graph's backward pass makes gradients, and adds to none
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

    return Way(run, keeps=(model, optimizer, x, y))


WAYS: dict[str, Callable[[int], Way]] = {
    "minigrad": lambda batch: minigrad(batch, False, False),
    "minigrad, fused": lambda batch: minigrad(batch, True, False),
    "minigrad, mg.capture": lambda batch: minigrad(batch, False, True),
    "minigrad, fused, mg.capture": lambda batch: minigrad(batch, True, True),
    "PyTorch eager": lambda batch: pytorch(batch, "eager"),
    "PyTorch, CUDA graph": lambda batch: pytorch(batch, "graph"),
    "PyTorch, reduce-overhead": lambda batch: pytorch(batch, "compile"),
    "PyTorch, compiled, CUDA graph": lambda batch: pytorch(batch, "both"),
}
"""The contestants by the names that the table has."""


class Worker:
    """Answers questions for one way to run the step."""

    def __init__(self, name: str) -> None:
        self.make, self.way = WAYS[name], Way(lambda steps: 0.0)

    def answer(self, question: list[Any]) -> dict[str, Any]:
        """What a question is answered with: nothing, milliseconds and a note, or an error."""
        what, number = question
        try:
            if what == "make":
                self.way = self.make(number)
                return {}
            return {"ms": self.way.run(number), "note": self.way.note()}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}


def main() -> None:
    """Greets, then answers until the questions end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    worker = Worker(sys.argv[1])
    if sys.argv[1].startswith("minigrad"):
        mg.use("cupy")
    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
