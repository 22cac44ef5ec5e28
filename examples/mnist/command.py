"""The command: its flags, what it prints, and what becomes of a run that is stopped or goes wrong."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import itertools
import json
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import minigrad as mg
from examples.flags import from_zero, positive, whole
from examples.mnist import pictures, training
from minigrad import data, runs
from models import MODELS

INSTALL = "pip install -e '.[examples]'"

SHAPING = {
    "model": "cnn",
    "epochs": 8,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": None,
    "augment": True,
    "fuse": None,
    "seed": 0,
    "dataset": "auto",
    "limit_train": None,
    "limit_test": None,
    "held_out": 0,
    "save_every": 200,
}
"""The arguments that decide what is computed, and their defaults. Checkpoints hold them; resumed runs keep them."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags. Those that were not given are None."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.mnist",
        description="Train a small network to read handwritten digits, and draw what it learnt.",
    )
    add = parser.add_argument
    add("--model", choices=MODELS, help="what to train (default cnn)")
    add("--epochs", type=whole, help="passes over the training images (default 8)")
    add("--batch-size", type=whole, metavar="N", help="images a step (default 128)")
    add("--optimizer", choices=training.OPTIMIZERS, help="default adamw")
    add("--lr", type=positive, help="highest learning rate (default: what suits the optimizer)")
    add("--augment", action=argparse.BooleanOptionalAction, help="shift, turn, scale the images a little (default yes)")
    add("--fuse", action=argparse.BooleanOptionalAction, help="layers that follow each other as one (default: on cupy)")
    add("--seed", type=from_zero, help="of weights, order and distortions (default 0)")
    add("--backend", choices=("numpy", "cupy"), help="default numpy, or MINIGRAD_BACKEND")
    add("--capture", action=argparse.BooleanOptionalAction, help="each step as one CUDA graph (default: on cupy)")
    add("--data", type=Path, metavar="DIR", help="where the data lie (default: MINIGRAD_DATA, a cache, a download)")
    add("--dataset", choices=("auto", "mnist", "fashion", "digits"), help="default auto: mnist, or else digits")
    add("--checkpoint", type=Path, metavar="FILE", help="where to save the run (default OUT/checkpoint.safetensors)")
    add("--save-every", type=whole, metavar="STEPS", help="how often to save, besides after each epoch (default 200)")
    add("--resume", action="store_true", help="go on from the checkpoint, with the arguments of then")
    add("--out", type=Path, metavar="DIR", default=Path("runs/mnist"), help="for results (default runs/mnist)")
    add("--limit-train", type=whole, metavar="N", help="train on the first N images only")
    add("--limit-test", type=whole, metavar="N", help="test on the first N images only")
    add("--held-out", type=from_zero, metavar="N", help="test on N training images, held out: to choose settings by")
    return parser.parse_args(arguments)


def settle(flags: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the run: the checkpoint's where it is resumed, else the flags' and the defaults."""
    given = {name: getattr(flags, name) for name in SHAPING if getattr(flags, name) is not None}
    if flags.resume:
        arguments = {**SHAPING, **saved(flags.checkpoint)}
        if given.get("dataset") == "auto":  # which one that was is in the checkpoint
            del given["dataset"]
        changed = {name: value for name, value in given.items() if value != arguments.get(name)}
        if changed:
            listed = ", ".join(f"{flag(name)} {new} (it has {arguments.get(name)})" for name, new in changed.items())
            raise ValueError(
                f"the run in {flags.checkpoint} was begun with other arguments than {listed}. Leave them out to "
                "go on with it, or leave --resume out to begin a new run"
            )
    else:
        arguments = {**SHAPING, **given}
    if arguments["lr"] is None:
        arguments["lr"] = training.OPTIMIZERS[arguments["optimizer"]][1]["lr"]
    if arguments["fuse"] is None:  # what a GPU is bound by is how many kernels it is asked for
        arguments["fuse"] = mg.current() != "numpy" and importlib.util.find_spec("minigrad.fused") is not None
    return arguments


def saved(checkpoint: Path) -> dict[str, Any]:
    """The arguments in a checkpoint, read as if they stood on the command line: what this refuses is refused."""
    arguments = runs.arguments(checkpoint)
    line = []
    for name, value in arguments.items():
        if isinstance(value, bool):
            line.append(flag(name if value else f"no-{name}"))
        elif value is not None:
            line.append(f"{flag(name)}={value}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            flags = parse(line)
    except SystemExit:
        unfit = complaint.getvalue().strip().rpartition("error: ")[2]
    else:
        unfit = ", ".join(arguments.keys() - SHAPING.keys())
    if unfit:
        raise ValueError(f"{checkpoint} holds arguments that this command does not take: {unfit}")
    return {name: getattr(flags, name) for name in arguments}


def flag(name: str) -> str:
    """The flag that sets an argument."""
    return "--" + name.replace("_", "-")


def load(arguments: dict[str, Any], folder: Path | None) -> data.Dataset:
    """The images to train and to test on."""
    dataset = data.load(arguments["dataset"], folder)
    if arguments["held_out"]:
        dataset = data.split(dataset, arguments["held_out"])
    train, test = arguments["limit_train"], arguments["limit_test"]
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[:train],
        train_labels=dataset.train_labels[:train],
        test_images=dataset.test_images[:test],
        test_labels=dataset.test_labels[:test],
    )


def say(text: object) -> None:
    """Prints. Where that is no longer possible (a closed pipe, a full disk) the run goes on without a word."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed goes there, too
        complain(f"nothing more can be printed ({error}); the run goes on")


def complain(text: object) -> None:
    """Says on stderr what went wrong, in the name of the command."""
    with contextlib.suppress(OSError):
        print(f"examples.mnist: {text}", file=sys.stderr, flush=True)


class Bar:
    """Progress in a terminal: one bar an epoch."""

    form = "{desc}: {percentage:3.0f}%|{bar}| {remaining}{postfix}, {rate_fmt}"  # in 80 columns a bar of about ten

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.bar: Any = None

    def step(self, epoch: int, seen: int, total: int, loss: float, accuracy: float) -> None:
        """Moves the bar."""
        if self.bar is None:
            tqdm = importlib.import_module("tqdm").tqdm
            self.bar = tqdm(
                desc=f"epoch {epoch + 1:2}/{self.epochs}", total=total, initial=seen, unit=" images", unit_scale=True,
                file=sys.stdout, dynamic_ncols=True, bar_format=self.form,
            )  # fmt: skip
        self.bar.set_postfix_str(f"loss {loss:.4f}, accuracy {100 * accuracy:5.2f} %", refresh=False)
        self.bar.update(seen - self.bar.n)

    def tested(self, line: dict[str, Any]) -> None:
        """Ends the bar with the test."""
        self.close()
        say(f"          loss {line['train_loss']:.4f}, accuracy {line['train_accuracy']:.2f} %;  {of_test(line)}")

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class Lines:
    """Progress where there is no terminal: a line now and then, and one after each epoch."""

    every = 10.0  # seconds

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.last = time.perf_counter()

    def step(self, epoch: int, seen: int, total: int, loss: float, accuracy: float) -> None:
        """Prints a line where the last one is some time ago."""
        if time.perf_counter() - self.last > self.every:
            self.last = time.perf_counter()
            say(
                f"epoch {epoch + 1:2}/{self.epochs}  {100 * seen / total:3.0f} %  loss {loss:.4f}, "
                f"accuracy {100 * accuracy:.2f} %"
            )

    def tested(self, line: dict[str, Any]) -> None:
        """Prints the line of an epoch."""
        self.last = time.perf_counter()
        say(
            f"epoch {line['epoch']:2}/{self.epochs}  done   loss {line['train_loss']:.4f}, "
            f"accuracy {line['train_accuracy']:.2f} %, {line['images_per_second']:,.0f} images/s;  {of_test(line)}"
        )

    def close(self) -> None:
        """Nothing is left open."""


def of_test(line: dict[str, Any]) -> str:
    """What an epoch's test found."""
    return f"test loss {line['test_loss']:.4f}, accuracy {line['test_accuracy']:.2f} %"


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C (or SIGTERM) tears no step: it makes the yielded function true. A second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: list[str] | None = None) -> int:
    """Trains, tests and draws; returns the exit status."""
    flags = parse(argv)
    if flags.checkpoint is None:
        flags.checkpoint = flags.out / "checkpoint.safetensors"
    missing = [name for name in ("matplotlib", "tqdm") if importlib.util.find_spec(name) is None]
    if missing:
        without = {"matplotlib": "there will be no pictures", "tqdm": "there will be no progress bar"}
        wanting = " and ".join(without[name] for name in missing)
        print(f"{' and '.join(missing)} not installed: {wanting}. To have them: {INSTALL}", file=sys.stderr)
    try:
        run, dataset = begin(flags)
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        complain(error)
        return 1
    say(dataset)
    size = sum(p.size for p in run.model.parameters())
    how = f"{mg.current()}{', fused' * run.arguments['fuse']}, seed {run.arguments['seed']}"
    say(f"{run.arguments['model']} of {size:,} parameters, {how}")
    kept = "saved"
    try:
        done = finish(run, dataset, flags, with_bar="tqdm" not in missing, with_pictures="matplotlib" not in missing)
    except KeyboardInterrupt:  # a second time, or while the pictures were drawn
        done, kept = False, "as last saved it is"
    except (training.Diverged, ValueError, MemoryError, OSError) as error:
        complain("\n".join([str(error), *getattr(error, "__notes__", [])]))
        return 1
    if not done:
        say(f"\nStopped; {kept} in {flags.checkpoint}. To go on:\n  {resuming(flags, flags.checkpoint)}")
        return 130
    return 0


def begin(flags: argparse.Namespace) -> tuple[runs.Run, data.Dataset]:
    """The run at its beginning or where its checkpoint left it, saved; and its images."""
    if flags.backend:
        mg.use(flags.backend)
    arguments = settle(flags)
    if flags.checkpoint.is_dir():
        raise ValueError(f"--checkpoint {flags.checkpoint} is a folder; name a file")
    for name, folder in (("--out", flags.out), ("--checkpoint", flags.checkpoint.parent)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{name}: {folder} cannot be made a folder: {error.strerror}") from error
    dataset = load(arguments, flags.data)
    if arguments["dataset"] == "auto" and not flags.resume:  # so that a resumed run finds the same images
        arguments["dataset"] = dataset.name
    run = training.make_run(arguments, dataset)
    if flags.resume:
        runs.load(run, flags.checkpoint)
        run.arguments = arguments
        training.check(run.progress)
    else:
        set_aside(flags)
        runs.save(run, flags.checkpoint, first=True)
    return run, dataset


def set_aside(flags: argparse.Namespace) -> None:
    """Gives the checkpoint of an unfinished run another name: a new run is not to cost what an older one has learnt."""
    path = flags.checkpoint
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            source, _, plain = runs.newest(path)
        progress = plain["progress"]
        done, epochs, seen = len(progress["history"]), plain["arguments"]["epochs"], progress["seen"]
        if done >= epochs or (not done and not seen):
            return
    except (ValueError, TypeError, KeyError, OSError):  # nothing that could go on
        return
    names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    os.replace(source, aside)
    complain(
        f"in {path} was an unfinished run ({done} of {epochs} epochs done). It is now {aside}; to go on with it:\n"
        f"  {resuming(flags, aside)}"
    )


def resuming(flags: argparse.Namespace, checkpoint: Path) -> str:
    """The command that goes on with the run in a checkpoint."""
    again = ["python", "-m", "examples.mnist", "--resume"]
    given = {**vars(flags), "checkpoint": checkpoint}
    for name, usual in (
        ("out", Path("runs/mnist")),
        ("checkpoint", flags.out / "checkpoint.safetensors"),
        ("data", None),
        ("backend", None),
    ):
        if given[name] != usual:
            again += [flag(name), str(given[name])]
    if flags.capture is not None:
        again.append("--capture" if flags.capture else "--no-capture")
    return shlex.join(again)


def finish(
    run: runs.Run, dataset: data.Dataset, flags: argparse.Namespace, with_bar: bool, with_pictures: bool
) -> bool:
    """Trains what is left of the run and writes the results; False where it was stopped."""
    assert run.batches is not None
    tests = data.Batches(
        dataset.test_images, dataset.test_labels, 500, shuffle=False, normalise=run.batches.normalise
    )
    epochs = run.arguments["epochs"]
    display = Bar(epochs) if sys.stdout is not None and sys.stdout.isatty() and with_bar else Lines(epochs)

    def write_metrics() -> None:
        lines = "".join(json.dumps(line) + "\n" for line in run.progress["history"])
        (flags.out / "metrics.jsonl").write_text(lines)

    def save() -> None:
        try:
            runs.save(run, flags.checkpoint)
            write_metrics()
        except ValueError as error:  # NaN in a running statistic, which the loss of training does not show
            raise training.Diverged(f"{error}; try a smaller --lr") from error
        except OSError as error:  # a full disk must not end the training
            display.close()
            complain(f"not saved, training goes on: {error}")

    take = training.Stepper(run, mg.current() != "numpy" if flags.capture is None else flags.capture)
    try:
        with interruptible() as stop, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what overflows is told by the loss
            if not training.train(run, tests, display, save, stop, take):
                return False
    finally:
        display.close()
    if take.uncaptured:
        complain(f"steps ran without a CUDA graph: {take.uncaptured}")
    probabilities = training.predict(run.model, tests)
    write_metrics()
    mg.save(run.model, flags.out / "weights.safetensors", {"model": run.arguments["model"]})
    if with_pictures:
        pictures.draw(run, dataset, probabilities, flags.out)
    say(f"{'pictures, ' if with_pictures else ''}metrics and weights are in {flags.out}/")
    say(f"test accuracy: {training.accuracy(probabilities, dataset.test_labels):.2f} %")
    return True
