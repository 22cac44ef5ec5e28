"""Checkpoints: everything that the rest of a training run depends on, so that it can stop and go on.

A *run* is a model, its optimizer, and where there are any its schedule and its batches, together with
the host's random generator and two dicts of plain values: the *arguments* that it was started with, and
its *progress*. All of it goes into one safetensors file, with a version and a checksum. Two files are
kept, the newest and the one before. At every moment there is a whole file on the disk, whatever is
killed, filled up or cut in half; and what a run does after `load` is, bit for bit, what it would have
done without the interruption. A load that raises has changed nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigrad import files, random
from minigrad.backend import xp
from minigrad.data import Batches
from minigrad.nn.module import Module
from minigrad.optim import Optimizer, Schedule
from minigrad.tensor import Tensor

VERSION = 1

KINDS: dict[str, Any] = {
    "version": int, "optimizer": dict, "schedule": (dict, type(None)), "batches": (dict, type(None)), "random": dict,
    "arguments": dict, "progress": dict,
}  # fmt: skip
"""The plain values in a checkpoint, and what JSON makes of each."""


class DamagedError(ValueError):
    """A checkpoint's file is not what was written: cut short, changed, or another kind of file."""


@dataclass
class Run:
    """What a checkpoint holds. (The host's random generator, which there is one of, goes with it.)

    arguments, progress: the caller's own, plain values that JSON can hold.
    """

    model: Module
    optimizer: Optimizer
    schedule: Schedule | None = None
    batches: Batches | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)


def before(path: str | os.PathLike[str]) -> Path:
    """Where the checkpoint before the newest is kept: run.safetensors has run.previous.safetensors."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def following(path: str | os.PathLike[str]) -> Path:
    """Where a checkpoint is written before it takes its place; it stays there if the process is killed in between."""
    path = Path(path)
    return path.with_name(f"{path.name}.next")


def save(run: Run, path: str | os.PathLike[str], first: bool = False) -> None:
    """Writes a checkpoint; what was at `path` becomes the one before.

    first: this run begins here: no checkpoint of an earlier run stays behind to be mistaken for its own.
    Raises OSError where the disk refuses, ValueError for NaN or infinite weights, and TypeError for
    arguments or progress that JSON cannot hold; the checkpoints then stay as they were.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"checkpoint.save: {path} is a folder; name a file, such as {path / 'run.safetensors'}")
    optimizer = run.optimizer.state_dict()
    arrays = {f"model/{name}": value for name, value in run.model.state_dict().items()}
    arrays |= {f"optimizer/{name}": Tensor(value) for name, value in optimizer.pop("state").items()}
    if bad := not_finite(arrays):
        raise ValueError(f"checkpoint.save: {bad} holds NaN or infinity; nothing was saved")
    plain = json.dumps(
        {
            "version": VERSION,
            "optimizer": optimizer,
            "schedule": None if run.schedule is None else run.schedule.state_dict(),
            "batches": None if run.batches is None else run.batches.state(),
            "random": random.state(),
            "arguments": run.arguments,
            "progress": run.progress,
        },
        default=_not_plain,
    )
    for leftover in path.parent.glob(f".{path.name}.next.*.part"):  # of a process killed while it wrote
        leftover.unlink(missing_ok=True)
    written = following(path)
    files.save(arrays, written, {"checkpoint": plain, "sha256": checksum(arrays, plain)})
    if first:
        before(path).unlink(missing_ok=True)
    elif path.exists():
        os.replace(path, before(path))
    os.replace(written, path)
    files.sync_folder(path.parent)


def _not_plain(value: Any) -> Any:
    raise TypeError(
        f"checkpoint.save: arguments and progress hold numbers, text, lists and dicts, not {type(value).__name__} "
        f"{value!r:.60}; .item() makes a number of it, .tolist() a list"
    )


def load(run: Run, path: str | os.PathLike[str]) -> Path:
    """Puts the run where the newest whole checkpoint was taken; returns that checkpoint's path.

    Where the newest is damaged or missing, one that was just being put in its place, or else the one before
    is taken, and stderr says so. `run.arguments`
    and `run.progress` are replaced by the saved ones. Raises FileNotFoundError where there is none,
    DamagedError where none is whole, ValueError where the checkpoint does not fit this run.
    """
    source, arrays, plain = newest(path)
    where = f"checkpoint.load: {source}"
    for part in ("schedule", "batches"):
        if (plain[part] is None) != (getattr(run, part) is None):
            has, lacks = ("this run", "the checkpoint") if plain[part] is None else ("the checkpoint", "this run")
            raise ValueError(f"{where}: {has} has a {part}, {lacks} has none")
    states: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    for name, value in arrays.items():
        owner, _, rest = name.partition("/")
        states[owner][rest] = value

    # Each of these changes all or nothing, so undoing those already done leaves everything as it was.
    model, optimizer, generator = run.model.state_dict(), run.optimizer.state_dict(), random.state()
    schedule = None if run.schedule is None else run.schedule.state_dict()
    try:
        run.model.load_state_dict(states["model"])
        run.optimizer.load_state_dict({**plain["optimizer"], "state": states["optimizer"]})
        if run.schedule is not None:
            run.schedule.load_state_dict(plain["schedule"])
        random.set_state(plain["random"])
        if run.batches is not None:
            run.batches.load_state(plain["batches"])
    except BaseException as error:
        run.model.load_state_dict(model, allow_nonfinite=True)
        if run.schedule is not None and schedule is not None:
            run.schedule.load_state_dict(schedule)
        run.optimizer.load_state_dict(optimizer, allow_nonfinite=True)
        random.set_state(generator)
        if isinstance(error, Exception) and not isinstance(error, MemoryError):
            raise ValueError(f"{where} does not fit this run: {error}") from error
        raise
    run.arguments, run.progress = plain["arguments"], plain["progress"]
    return source


def arguments(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of the run whose newest whole checkpoint is at `path`. Raises as `load` does."""
    _, _, plain = newest(path)
    return dict(plain["arguments"])


def newest(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """The newest whole checkpoint: its path, its arrays and its plain values."""
    path = Path(path)
    faults = []
    for candidate in (path, following(path), before(path)):
        if candidate == following(path) and not candidate.exists():
            continue
        try:
            arrays, plain = read(candidate)
        except (FileNotFoundError, DamagedError) as error:
            faults.append(error)
            continue
        if faults:
            print(f"{faults[0]}\nGoing on from {candidate} instead.", file=sys.stderr)
        return candidate, arrays, plain
    if all(isinstance(fault, FileNotFoundError) for fault in faults):
        raise FileNotFoundError(f"checkpoint: there is no checkpoint {path}, nor {before(path)}")
    raise DamagedError("checkpoint: nothing to go on from.\n" + "\n".join(map(str, faults)))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The arrays and the plain values in one file, which must be exactly what `save` wrote."""
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: there is no file {path}")
    try:
        arrays, metadata = files.read(path)
    except ValueError as error:
        raise DamagedError(f"checkpoint: {error}") from error
    if metadata.keys() != {"checkpoint", "sha256"}:
        raise DamagedError(f"checkpoint: {path} is a safetensors file, but no checkpoint")
    text = metadata["checkpoint"]
    if checksum(arrays, text) != metadata["sha256"]:
        raise DamagedError(f"checkpoint: {path} is damaged: its checksum is not that of its contents")
    try:
        plain = json.loads(text)
        version = plain["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"checkpoint: {path} is no checkpoint: {error}") from error
    if version != VERSION:
        raise ValueError(f"checkpoint: {path} is of version {version!r}, and this minigrad reads version {VERSION}")
    if plain.keys() != KINDS.keys() or any(name.partition("/")[0] not in ("model", "optimizer") for name in arrays):
        raise DamagedError(f"checkpoint: {path} is no checkpoint: its entries are {sorted(plain)}, {sorted(arrays)}")
    for name, kinds in KINDS.items():
        if not isinstance(plain[name], kinds):
            raise DamagedError(f"checkpoint: {path} is no checkpoint: its {name} is {plain[name]!r:.60}")
    if bad := not_finite(arrays):
        raise DamagedError(f"checkpoint: {path}: {bad} holds NaN or infinity")
    return arrays, plain


def checksum(arrays: dict[str, Tensor], plain: str) -> str:
    """SHA-256 of everything in a checkpoint, as hexadecimal digits."""
    digest = hashlib.sha256(plain.encode())
    for name in sorted(arrays):
        array = arrays[name].numpy()
        digest.update(f"\n{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def not_finite(arrays: dict[str, Tensor]) -> str | None:
    """The name of the first array that holds NaN or infinity, if any."""
    return next((name for name, value in arrays.items() if not bool(xp.isfinite(value.data).all())), None)
