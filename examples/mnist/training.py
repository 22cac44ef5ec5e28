"""The training loop: epochs of steps, a test after each epoch, and a run that may stop between any two steps.

All that the loop knows stands in `run.progress`, and so in every checkpoint: how many epochs are done
(the length of `history`), and the sums of the epoch under way. A run that was stopped, in any way, goes
on from its last checkpoint as if it had never been stopped.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

import minigrad as mg
from minigrad import data, nn, optim, runs
from minigrad.capturing import NOT_YET
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


LOOK = 50
"""On a device, the loss is looked at after so many steps: looking waits for all that is under way."""


LINE = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
"""What each line of the history tells at least: numbers."""


Step = Callable[[mg.Tensor, mg.Tensor], tuple[mg.Tensor, mg.Tensor]]


class Diverged(Exception):
    """The loss is no longer a number."""


class Display(Protocol):
    """Where the loop says how far it has come."""

    def step(self, epoch: int, seen: int, total: int, loss: float, accuracy: float) -> None:
        """After each step (on a device, some): `seen` of `total` images of the epoch, their mean loss and accuracy."""

    def tested(self, line: dict[str, Any]) -> None:
        """After each epoch: its line of metrics."""


def make_run(arguments: dict[str, Any], dataset: data.Dataset) -> runs.Run:
    """A run at its beginning: everything in it follows from the arguments, the seed among them."""
    mg.random.seed(arguments["seed"])
    model = MODELS[arguments["model"]]()
    if arguments["fuse"]:  # faster, to the same numbers but for rounding
        model = importlib.import_module("minigrad.fused").fuse(model)
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


def check(progress: dict[str, Any]) -> None:
    """Raises ValueError where the progress in a checkpoint is not what `train` keeps there."""
    try:
        history, trace = progress["history"], progress["trace"]
        numbers = [progress[name] for name in nothing_seen()]
        numbers += [line[name] for line in history for name in LINE]
        numbers += [number for where, loss in trace for number in (where, loss)]
        fits = type(history) is type(trace) is list and all(isinstance(number, (int, float)) for number in numbers)
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"the checkpoint holds another program's progress: {progress!s:.60}")


def train(
    run: runs.Run,
    tests: data.Batches,
    display: Display,
    save: Callable[[], None],
    stop: Callable[[], bool],
    take: Step | None = None,
) -> bool:
    """Trains until the last epoch is done (True), or until `stop()` (False); `stop` is asked after each step.

    `save` is called every `save_every` steps, after each epoch, and before stopping. take: one step (default: a
    `Stepper` of the run).
    """
    assert run.batches is not None
    progress = run.progress
    history = progress["history"]
    take = take or Stepper(run)
    while len(history) < run.arguments["epochs"]:
        # Batches of a later epoch: this one was trained before the run stopped, but not tested.
        if run.batches.epoch == len(history) and not epoch(run, take, display, save, stop):
            return False
        history.append({"epoch": len(history) + 1, **summary(run), **test(run.model, tests)})
        progress.update(nothing_seen())
        save()
        display.tested(history[-1])
        if stop():
            return len(history) == run.arguments["epochs"]
    return True


def epoch(
    run: runs.Run, take: Step, display: Display, save: Callable[[], None], stop: Callable[[], bool]
) -> bool:
    """The steps of one epoch, or of what is left of it; False where it was stopped."""
    assert run.batches is not None and run.schedule is not None
    batches, progress = run.batches, run.progress
    total = len(batches) * batches.batch_size
    point = max(1, len(batches) // 20)
    run.model.train()
    begun = time.perf_counter() - progress["seconds"]
    sums = Sums(1 if mg.current() == "numpy" else LOOK)
    for x, y in batches:
        sums.add(*take(x, y), len(y))
        progress["since"] += 1
        at_point, save_now = progress["since"] == point, batches.batch % run.arguments["save_every"] == 0
        stopped = stop()
        if not (sums.due() or at_point or save_now or stopped or batches.batch == len(batches)):
            continue
        sums.read(run)
        progress["seconds"] = time.perf_counter() - begun
        if at_point:
            where = len(progress["history"]) + progress["seen"] / total
            progress["trace"].append([where, progress["loss_since"] / point])
            progress.update(since=0, loss_since=0.0)
        seen = progress["seen"]
        display.step(len(progress["history"]), seen, total, progress["loss"] / seen, progress["right"] / seen)
        if stopped:
            save()
            return False
        if save_now:
            save()
    return True


class Sums:
    """Of the steps since they were last read, kept where the batches are: a device is not waited for at every step.

    every: after how many steps a reader is due.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.forget()

    def forget(self) -> None:
        """Begins anew."""
        self.steps = self.seen = 0
        self.loss = self.loss_of_images = self.right = mg.zeros((), dtype=mg.float64)

    def add(self, loss: mg.Tensor, right: mg.Tensor, images: int) -> None:
        """A step's mean loss and how many of its images it got right."""
        loss = loss.astype(mg.float64)
        self.loss, self.loss_of_images = self.loss + loss, self.loss_of_images + loss * images
        self.right = self.right + right
        self.steps, self.seen = self.steps + 1, self.seen + images

    def due(self) -> bool:
        """Whether it is time to look."""
        return self.steps >= self.every

    def read(self, run: runs.Run) -> None:
        """Brings the sums to the host, into the run's progress."""
        loss, loss_of_images, right = mg.stack([self.loss, self.loss_of_images, self.right]).tolist()
        if not math.isfinite(loss):
            assert run.schedule is not None
            which = "the loss is" if self.steps == 1 else f"in the last {self.steps} steps the loss became"
            raise Diverged(f"{which} {loss} after {run.schedule.steps_taken - 1} steps; try a smaller --lr")
        progress = run.progress
        progress["seen"] += self.seen
        progress["loss"] += loss_of_images
        progress["loss_since"] += loss
        progress["right"] += round(right)
        self.forget()


class Stepper:
    """One step of the optimizer and of its schedule: the loss of the batch, and how many it got right.

    captured: as one CUDA graph (`mg.capture`), where that is possible; `uncaptured` then says why it was not.
    """

    def __init__(self, run: runs.Run, captured: bool = False) -> None:
        self.run = run
        self.take: Any = mg.capture(self.learn, run.optimizer) if captured else self.learn

    def learn(self, x: mg.Tensor, y: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        """The step that a graph can hold: all but the schedule, which is Python's."""
        self.run.optimizer.zero_grad()
        scores = self.run.model(x)
        loss = cross_entropy(scores, y)
        loss.backward()
        self.run.optimizer.step()
        return loss.detach(), (scores.detach().argmax(1) == y).sum()

    def __call__(self, x: mg.Tensor, y: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        assert self.run.schedule is not None
        found: tuple[mg.Tensor, mg.Tensor] = self.take(x, y)
        self.run.schedule.step()
        return found

    @property
    def uncaptured(self) -> str | None:
        """Why the last step, which was to be captured, ran by itself; None where there is nothing to tell."""
        reason: str | None = getattr(self.take, "reason", None)
        return None if reason == NOT_YET else reason


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
