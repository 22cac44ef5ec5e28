"""What the benchmarks are told on their command lines: checked before anything is measured."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from examples.flags import from_zero, whole

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def listed(one: Callable[[str], int]) -> Callable[[str], list[int]]:
    """Numbers separated by commas, each as `one` reads it."""
    return lambda text: [one(part) for part in text.split(",")]


def among(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Names separated by commas: those of `known`, in its order, that are named or begin so."""
    names = list(known)

    def choose(text: str) -> list[str]:
        starts = text.lower().split(",")
        strange = [start for start in starts if not start or not any(name.startswith(start) for name in names)]
        if strange:
            there = ", ".join(names)
            raise argparse.ArgumentTypeError(f"there is no {', '.join(map(repr, strange))}; there are {there}")
        return [name for name in names if name.startswith(tuple(starts))]

    return choose


def mnist(parser: argparse.ArgumentParser) -> None:
    """Adds --data, the folder of MNIST's files, which must be there, and --held-out."""
    folder = os.environ.get("MINIGRAD_DATA")
    parser.add_argument(
        "--data", type=_folder, default=folder, required=not folder,
        help="the folder of MNIST's four files, packed or not (MINIGRAD_DATA)",
    )  # fmt: skip
    parser.add_argument(
        "--held-out", type=from_zero, default=0, metavar="N", help="test on the last N training images instead"
    )


def file(folder: Path, name: str) -> Path | None:
    """One of MNIST's files in a folder, packed or not; None where there is neither."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _folder(text: str) -> Path:
    folder = Path(text)
    missing = [name for name in FILES if file(folder, name) is None]
    if missing:
        raise argparse.ArgumentTypeError(f"{text} has no {', '.join(missing)} (or .gz)")
    return folder


def contestant(module: str, about: str | None, names: Iterable[str]) -> tuple[str, int]:
    """Who is to work, with how many threads: the command line of a contestant's process."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("name", choices=list(names))
    parser.add_argument("threads", type=whole)
    found = parser.parse_args()
    return found.name, found.threads
