"""MNIST from a cold start to a test accuracy: `python -m benchmarks.train_mnist {minigrad,fused,pytorch} [--seed 0]`.

One script for all contestants: the layers, optimizers and schedules of both frameworks have the same
names, arguments and meanings, so that what differs is which of them is imported and how an array becomes
a tensor. Files, order of images, initial weights and schedule are the same; a thread unpacks the images
while the framework is being imported. The training is as long as `STEPS` says, whatever comes of it,
and the test images are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

BEGAN = time.time()

import numpy as np  # noqa: E402  (its import is part of what is timed)

from benchmarks import options  # noqa: E402
from examples.flags import from_zero, whole  # noqa: E402

STEPS, BATCH = 585, 128
RATE, WEIGHT_DECAY, SMOOTHING = 0.5, 5e-4, 0.05
"""Chosen on training images that were held out: see docs/speed.md."""


def layers(nn: Any) -> list[Any]:
    """28 -> 12 -> 12 -> 6 -> 4 -> 2 pixels a side. The stride comes first: large images are what costs time.

    BatchNorm follows every convolution, which so needs no bias.
    """
    return [
        nn.Conv2d(1, 8, 5, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    ]  # fmt: skip


def initial(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """What a model of these names and shapes begins with: weights uniform, up to 1/sqrt(fan-in) each way, as is both
    frameworks' default, and biases of zero. BatchNorm's gammas, which have one axis, stay ones."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            bound = 1 / math.sqrt(math.prod(shape[1:]))
            made[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        elif name.endswith("bias"):
            made[name] = np.zeros(shape, np.float32)
    return made


class Reading:
    """The four files, unpacked in a thread of their own (zlib works without the interpreter's lock)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: list[np.ndarray] = []
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self) -> None:
        try:
            for name in options.FILES:
                path = options.file(self.folder, name)
                assert path is not None  # `options.mnist` has seen it
                content = path.read_bytes()
                content = gzip.decompress(content) if path.suffix == ".gz" else content
                axes = content[3]
                shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
                self.arrays.append(np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape))
        except Exception as error:  # it is raised where the arrays are asked for
            self.error = error

    def result(self) -> list[np.ndarray]:
        """Images and labels to train on, images and labels to test on: bytes, (n, 28, 28) and (n,)."""
        self.thread.join()
        if self.error is not None:
            raise SystemExit(f"train_mnist: MNIST's files in {self.folder} cannot be read ({self.error!r})")
        return self.arrays


class Values:
    """Pixels as the network sees them: (byte / 255 - mean) / std, the two of the training images."""

    mean, std = 0.1307, 0.3081

    def __init__(self) -> None:
        self.of = ((np.arange(256) / 255 - self.mean) / self.std).astype(np.float32)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, 28, 28) to float32 (n, 1, 28, 28)."""
        return np.take(self.of, images[:, None], mode="clip")


def shifted(images: np.ndarray) -> np.ndarray:
    """(n, 3, 3, 28, 28): each image moved by up to one pixel up, down, left and right, as a view."""
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return np.lib.stride_tricks.sliding_window_view(framed, (28, 28), axis=(1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_mnist", description=__doc__)
    parser.add_argument("contestant", choices=["minigrad", "fused", "pytorch"])
    parser.add_argument("--seed", type=from_zero, default=0)
    options.mnist(parser)
    parser.add_argument("--threads", type=whole, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--began", type=float, default=BEGAN, help="when the process was started (seconds of the epoch)"
    )
    flags = parser.parse_args()
    stages: dict[str, float] = {}

    def done(stage: str) -> None:
        stages[stage] = time.time() - flags.began

    reading = Reading(flags.data)
    if options.contestant == "pytorch":
        import torch
        from torch import nn, optim
        from torch.nn import functional as F

        torch.set_num_threads(flags.threads)
        tensor, no_grad, schedule = torch.from_numpy, torch.no_grad, optim.lr_scheduler.OneCycleLR
    else:
        import minigrad as mg
        from minigrad import functional as F
        from minigrad import nn, optim

        mg.set_threads(flags.threads)
        tensor, no_grad, schedule = mg.tensor, mg.no_grad, optim.OneCycleLR
    done("imported")

    images, labels, test_images, test_labels = reading.result()
    if flags.held_out:
        test_images, test_labels = images[-flags.held_out :], labels[-flags.held_out :]
        images, labels = images[: -flags.held_out], labels[: -flags.held_out]
    views, values = shifted(images), Values()
    done("data")

    model: Any = nn.Sequential(*layers(nn))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({k: tensor(v) for k, v in initial(shapes, flags.seed).items()}, strict=False)
    if options.contestant == "fused":
        from minigrad.fused import fuse

        model = fuse(model)
    optimizer = optim.SGD(model.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    rates = schedule(optimizer, RATE, STEPS, pct_start=0.2, cycle_momentum=False)
    rng = np.random.default_rng(flags.seed)
    losses: list[float] = []
    while len(losses) < STEPS:
        order = rng.permutation(len(images))[: (STEPS - len(losses)) * BATCH]
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            x = values(views[chosen, *rng.integers(0, 3, (2, BATCH))])
            y = labels[chosen].astype(np.int64)
            loss = F.cross_entropy(model(tensor(x)), tensor(y), label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
            losses.append(loss.item())
    done("trained")

    model.eval()
    right = 0
    with no_grad():
        for start in range(0, len(test_images), 1000):
            scores = model(tensor(values(test_images[start : start + 1000])))
            right += int((np.asarray(scores.argmax(1)) == test_labels[start : start + 1000]).sum())
    done("tested")
    report = {
        "accuracy": 100 * right / len(test_labels), "steps": STEPS, "epochs": STEPS * BATCH / len(images),
        "losses": losses, "stages": stages,
    }  # fmt: skip
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
