"""Saving and loading arrays by name, in the safetensors format: no code in the file, none run by loading it.

A file is written beside its place, synced to the disk and renamed, so that at every moment there is
either the old file or the new one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from minigrad.backend import from_numpy, is_array, to_numpy
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


def save(source: Module | dict[str, Any], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a Module's state dict, or a dict of Tensors or arrays, to a safetensors file.

    metadata: text by name, kept in the file's header. Raises TypeError for entries that are not
    arrays, or text, by name, OSError where the disk refuses; an older file at `path` then stays as it was.
    """
    state = source.state_dict() if isinstance(source, Module) else source
    if not isinstance(state, Mapping):
        raise TypeError(f"save: needs a Module or a dict of arrays, not a {type(source).__name__}")
    for where, names in (("names", state), ("metadata", [*(metadata or {}), *(metadata or {}).values()])):
        if other := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f"save: the {where} are text, not {type(other[0]).__name__} {other[0]!r:.60}")
    arrays = {}
    for name, value in state.items():
        array = value.data if isinstance(value, Tensor) else value
        if not is_array(array) or array.dtype.kind not in "biuf":
            raise TypeError(f"save: {name!r} is a {type(value).__name__}, not an array of numbers")
        arrays[name] = to_numpy(array).copy(order="C")
    write_atomically(Path(path), safetensors.numpy.save(arrays, metadata))


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path`, syncs, and renames: a crash leaves the old file or the new one, never half of one.

    A process killed while it writes leaves, at worst, a file `.name.*.part` that nothing reads.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save: there is no folder {path.parent} to write {path.name} into")
    if path.is_dir():
        raise IsADirectoryError(f"save: {path} is a folder; give the name of a file in it")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the renames in a folder survive a loss of power, where the system lets a folder be synced."""
    if hasattr(os, "O_DIRECTORY"):
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


DTYPES = frozenset(("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64", "C64"))
"""What the format calls the dtypes that NumPy has too; bfloat16 and the 8-bit floats are not among them."""


def load(path: str | Path) -> dict[str, Tensor]:
    """The arrays of a safetensors file by name, as constant Tensors of the current backend.

    Raises FileNotFoundError, or ValueError for a file that is damaged or of another format, before
    anything of the size that the file claims is allocated.
    """
    return read(path)[0]


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The arrays of a safetensors file and its metadata."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load: there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            foreign = [(name, dtype) for name in names if (dtype := file.get_slice(name).get_dtype()) not in DTYPES]
            arrays = {} if foreign else {name: Tensor(from_numpy(file.get_tensor(name))) for name in names}
            metadata = dict(file.metadata() or {})
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(
            f"load: {path} is damaged or not a safetensors file: {error}. (What torch.save wrote is none: there, "
            "safetensors.torch.save_file(model.state_dict(), path) writes one)"
        ) from error
    if foreign:
        name, dtype = foreign[0]
        raise ValueError(
            f"load: {path}: {name!r} is of dtype {dtype}, which NumPy lacks; save it as float32 where it was made"
        )
    return arrays, metadata
