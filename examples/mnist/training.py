"""The training loop: epochs of steps, a test after each epoch, and a run that may stop between any two steps.

All that the loop knows stands in `run.progress`, and so in every checkpoint: how many epochs are done
(the length of `history`), and the sums of the epoch under way. A run that was stopped, in any way, goes
on from its last checkpoint as if it had never been stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

import minigrad as mg
from minigrad import data, nn, optim, runs
from minigrad.functional import cross_entropy, softmax
from models import MODELS

OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], dict[str, Any]]] = {
    "adamw": (optim.AdamW, {"lr": 4e-3, "weight_decay": 1e-2}),
    "adam": (optim.Adam, {"lr": 4e-3, "weight_decay": 0.0}),
    "sgd": (optim.SGD, {"lr": 0.1, "weight_decay": 5e-4, "momentum": 0.9, "nesterov": True}),
    "rmsprop": (optim.RMSprop, {"lr": 1e-3, "weight_decay": 0.0}),
    "adagrad": (optim.Adagrad, {"lr": 2e-2, "weight_decay": 0.0}),
}
"""Each optimizer with the settings that suit it here."""

DISTORTIONS = data.Augment(shift=1, rotate=6.0, scale=0.05, shear=0.05)
"""What `--augment` does to a training image, anew in each epoch: still the same digit to a reader."""

WARM_UP = 0.2
"""The part of the first epoch in which the learning rate rises; afterwards it falls along a cosine wave."""


class Diverged(Exception):
    """The loss is no longer a number."""


class Display(Protocol):
    """Where the loop says how far it has come."""

    def step(self, epoch: int, seen: int, total: int, loss: float, accuracy: float) -> None:
        """After each step: `seen` of `total` images of the epoch, and their mean loss and accuracy."""

    def tested(self, line: dict[str, Any]) -> None:
        """After each epoch: its line of metrics."""


def make_run(arguments: dict[str, Any], dataset: data.Dataset) -> runs.Run:
    """A run at its beginning: everything in it follows from the arguments, the seed among them."""
    mg.random.seed(arguments["seed"])
    model = MODELS[arguments["model"]]()
    batches = data.Batches(
        dataset.train_images,
        dataset.train_labels,
        min(arguments["batch_size"], len(dataset.train_images)),
        seed=arguments["seed"],
        drop_last=True,  # BatchNorm would normalise a last batch of one image by itself
        augment=DISTORTIONS if arguments["augment"] else None,
        normalise=data.normalisation(dataset.train_images),
    )
    kind, settings = OPTIMIZERS[arguments["optimizer"]]
    settings = {**settings, "lr": arguments["lr"]}
    optimizer = kind(optim.decay_groups(model, settings.pop("weight_decay")), **settings)
    steps = arguments["epochs"] * len(batches)
    warm_up = max(1, min(round(WARM_UP * len(batches)), steps // 2))
    schedule = optim.WarmupLR(optimizer, warm_up, then=optim.CosineLR(optimizer, max(steps - warm_up, 1)))
    progress = {"history": [], "trace": [], **nothing_seen()}
    return runs.Run(model, optimizer, schedule, batches, arguments, progress)


def nothing_seen() -> dict[str, Any]:
    """The sums of an epoch at its beginning: over images, and since the last point of the trace."""
    return {"seen": 0, "loss": 0.0, "right": 0, "seconds": 0.0, "since": 0, "loss_since": 0.0}


def train(
    run: runs.Run,
    tests: data.Batches,
    display: Display,
    save: Callable[[], None],
    stop: Callable[[], bool],
) -> bool:
    """Trains until the last epoch is done (True), or until `stop()` (False); `stop` is asked after each step.

    `save` is called every `save_every` steps, after each epoch, and before stopping.
    """
    assert run.batches is not None
    progress = run.progress
    history = progress["history"]
    while len(history) < run.arguments["epochs"]:
        # Batches of a later epoch: this one was trained before the run stopped, but not tested.
        if run.batches.epoch == len(history) and not epoch(run, display, save, stop):
            return False
        history.append({"epoch": len(history) + 1, **summary(run), **test(run.model, tests)})
        progress.update(nothing_seen())
        save()
        display.tested(history[-1])
        if stop():
            return len(history) == run.arguments["epochs"]
    return True


def epoch(
    run: runs.Run, display: Display, save: Callable[[], None], stop: Callable[[], bool]
) -> bool:
    """The steps of one epoch, or of what is left of it; False where it was stopped."""
    assert run.batches is not None and run.schedule is not None
    batches, progress = run.batches, run.progress
    total = len(batches) * batches.batch_size
    point = max(1, len(batches) // 20)
    run.model.train()
    begun = time.perf_counter() - progress["seconds"]
    for x, y in batches:
        loss, right = step(run, x, y)
        progress["seen"] += len(y)
        progress["loss"] += loss * len(y)
        progress["right"] += right
        progress["seconds"] = time.perf_counter() - begun
        progress["since"] += 1
        progress["loss_since"] += loss
        if progress["since"] == point:
            where = len(progress["history"]) + progress["seen"] / total
            progress["trace"].append([where, progress["loss_since"] / point])
            progress.update(since=0, loss_since=0.0)
        seen = progress["seen"]
        display.step(len(progress["history"]), seen, total, progress["loss"] / seen, progress["right"] / seen)
        if stop():
            save()
            return False
        if batches.batch % run.arguments["save_every"] == 0:
            save()
    return True


def step(run: runs.Run, x: mg.Tensor, y: mg.Tensor) -> tuple[float, int]:
    """One step of the optimizer and of its schedule; the loss of the batch, and how many it got right."""
    assert run.schedule is not None
    run.optimizer.zero_grad()
    scores = run.model(x)
    loss = cross_entropy(scores, y)
    value = float(loss.item())
    if not math.isfinite(value):
        raise Diverged(f"the loss is {value} after {run.schedule.steps_taken} steps; try a smaller --lr")
    loss.backward()
    run.optimizer.step()
    run.schedule.step()
    return value, int((scores.detach().argmax(1) == y).sum().item())


def summary(run: runs.Run) -> dict[str, Any]:
    """What the epoch's training amounted to."""
    p = run.progress
    return {
        "train_loss": p["loss"] / p["seen"],
        "train_accuracy": 100 * p["right"] / p["seen"],
        "seconds": round(p["seconds"], 3),
        "images_per_second": round(p["seen"] / p["seconds"], 1),
    }


def test(model: nn.Module, tests: data.Batches) -> dict[str, float]:
    """The mean loss and the accuracy in per cent on the test images."""
    probabilities = predict(model, tests)
    of_truth = probabilities[np.arange(len(probabilities)), tests.labels]
    return {
        "test_loss": float(-np.log(np.maximum(of_truth, 1e-12)).mean()),
        "test_accuracy": accuracy(probabilities, tests.labels),
    }


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """How many of the labels are the most probable class, in per cent."""
    return 100 * float((probabilities.argmax(1) == labels).mean())


def predict(model: nn.Module, tests: data.Batches) -> np.ndarray:
    """The probability of each class for each image, (n, classes) on the host; the model is left in evaluation."""
    model.eval()
    with mg.no_grad():
        return np.concatenate([softmax(model(x)).numpy() for x, _ in tests])
