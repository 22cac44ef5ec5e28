"""Steps of growing networks in one framework: `python -m benchmarks.growth_worker {minigrad,fused,pytorch} THREADS`.

A line `{"batch": ..., "channels": ..., "depth": ..., "side": ..., "seconds": ...}` in JSON is answered with
`{"seconds": [per step], "peak": bytes}`. Each is answered by a fork of this process, which has imported the
framework and nothing more: so peak memory is that of the one network, whatever was measured before.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import options
from benchmarks.peers.alike import training_step


def layers(nn: Any, channels: int, depth: int, side: int) -> list[Any]:
    """`depth` blocks of convolution, BatchNorm and ReLU at full size, one pooling, one linear map."""
    made = []
    for number in range(depth):
        conv = nn.Conv2d(channels if number else 1, channels, 3, padding=1, bias=False)
        made += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
    return [*made, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(channels * (side // 2) ** 2, 10)]


def memory(key: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def main(contestant: str, threads: int) -> None:
    if contestant == "pytorch":
        import torch
        from torch import nn, optim
        from torch.nn import functional as F

        tensor: Callable[[np.ndarray], Any] = torch.from_numpy
    else:
        import minigrad as mg
        from minigrad import functional as F
        from minigrad import nn, optim
        from minigrad.fused import fuse

        tensor = mg.tensor

    def measure(batch: int, channels: int, depth: int, side: int, seconds: float) -> dict[str, Any]:
        if contestant == "pytorch":
            torch.set_num_threads(threads)
        else:
            mg.set_threads(threads)
        before = memory("VmRSS")
        model: Any = nn.Sequential(*layers(nn, channels, depth, side))
        if contestant == "fused":
            model = fuse(model)
        rng = np.random.default_rng(0)
        x = tensor(rng.standard_normal((batch, 1, side, side), dtype=np.float32))
        y = tensor(rng.integers(0, 10, batch))
        step = training_step(F, optim, model, x, y)
        step()  # fills pools, chooses kernels
        step()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < 2 or time.perf_counter() < end:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return {"seconds": times, "peak": memory("VmHWM") - before}

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                print(json.dumps(measure(**json.loads(line))), flush=True)
                status = 0
            finally:
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            print("null", flush=True)


if __name__ == "__main__":
    main(*options.contestant("benchmarks.growth_worker", __doc__, ("minigrad", "fused", "pytorch")))
