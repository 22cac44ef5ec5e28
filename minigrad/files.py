"""Saving and loading arrays by name, in the safetensors format: no code in the file, none run by loading it.

A file is written beside its place, synced to the disk and renamed, so that at every moment there is
either the old file or the new one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from minigrad.backend import from_numpy, to_numpy
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


def save(source: Module | dict[str, Any], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a Module's state dict, or a dict of Tensors or arrays, to a safetensors file.

    metadata: text by name, kept in the file's header. Raises TypeError for entries that are not
    arrays, OSError where the disk refuses; an older file at `path` then stays as it was.
    """
    state = source.state_dict() if isinstance(source, Module) else source
    arrays = {}
    for name, value in state.items():
        array = to_numpy(value.data if isinstance(value, Tensor) else value)
        if not hasattr(array, "dtype") or array.dtype.kind not in "biuf":
            raise TypeError(f"save: {name!r} is a {type(value).__name__}, not an array of numbers")
        arrays[name] = array.copy(order="C")
    write_atomically(Path(path), safetensors.numpy.save(arrays, metadata))


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path`, syncs, and renames: a crash leaves the old file or the new one, never half of one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def load(path: str | Path) -> dict[str, Tensor]:
    """The arrays of a safetensors file by name, as constant Tensors of the current backend.

    Raises FileNotFoundError, or ValueError for a file that is damaged or of another format.
    """
    return read(path)[0]


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The arrays of a safetensors file and its metadata."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load: there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: Tensor(from_numpy(file.get_tensor(name))) for name in file.keys()}  # noqa: SIM118
            return arrays, dict(file.metadata() or {})
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"load: {path} is damaged or not a safetensors file: {error}") from error
