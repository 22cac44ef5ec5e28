"""Loading a dataset by its name, from the folder where it lies or through the cache.

It is looked for in the folder that the caller names, in `MINIGRAD_DATA`, in the user's cache folder, and is then
downloaded into that cache.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.data.dataset import DataError, DataNotFoundError, Dataset, stratified
from minigrad.data.published import DIGIT_NAMES, FILES, PUBLISHED, fetch, identify, read


def load(dataset: str = "auto", folder: str | os.PathLike[str] | None = None) -> Dataset:
    """The dataset "mnist", "fashion" or "digits"; "auto" is MNIST, or the digits where MNIST cannot be had.

    MNIST and Fashion-MNIST are looked for in `folder`, or else in the folder that the environment variable
    MINIGRAD_DATA names, then in the user's cache folder, and are then downloaded. A folder holds the four
    `FILES` (unpacked or .gz) itself or in its subfolder mnist/ or fashion/. A `folder` without them is an
    error, never a reason to look elsewhere; a MINIGRAD_DATA folder without them is passed over.

    Downloads and files in the cache must be the published ones, or hold what those hold; a damaged file in the
    cache is replaced by a download. Files in the caller's folders need not: any idx files of 28x28 images in ten
    classes will do, but a warning says that they are not the published ones, and published files in the wrong
    place (Fashion-MNIST's where MNIST is asked for, the test set's where the training set belongs) are an error.

    Raises DataNotFoundError where the data cannot be had, DataError for a file that cannot be used.
    "auto" says on stderr when and why it falls back on the digits, and does so only where MNIST cannot be
    found: a damaged file, or a `folder` without MNIST in it, stays an error.
    """
    if dataset in PUBLISHED:
        return _load_published(dataset, folder)
    if dataset == "digits":
        return digits()
    if dataset != "auto":
        raise ValueError(f"load: no dataset is called {dataset!r}; there are 'mnist', 'fashion', 'digits', 'auto'")
    try:
        return _load_published("mnist", folder)
    except DataNotFoundError as reason:
        try:
            substitute = digits()
        except DataNotFoundError as also:
            raise DataNotFoundError(f"{reason}\nThe substitute is missing too. {also}") from reason
        print(f"{reason}\nUsing scikit-learn's 8x8 digits instead of MNIST.", file=sys.stderr)
        return substitute


def mnist(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """MNIST (LeCun, Cortes, Burges): 60,000 training and 10,000 test digits, 28x28. See `load`."""
    return _load_published("mnist", folder)


def fashion_mnist(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): articles of clothing in the format of MNIST. See `load`."""
    return _load_published("fashion", folder)


def digits() -> Dataset:
    """scikit-learn's bundled digits: 1,797 real handwritten digits of 8x8, 1,437 to train on, 360 to test.

    They are scaled bilinearly to 20x20 and centred in 28x28 as MNIST's are, so that the same models run.
    The split is fixed and keeps the proportions of the classes. (The file does not say who wrote which
    digit, so the same hands may occur in both parts: accuracies are not comparable with MNIST's.)
    """
    try:
        bundled: Any = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise DataNotFoundError("digits: scikit-learn, which has them, is missing: pip install scikit-learn") from error
    small, labels = bundled.load_digits(return_X_y=True)
    centres = np.clip((np.arange(20) + 0.5) * 8 / 20 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(8)))  # (20, 8), the hat functions
    large = weights @ small.reshape(-1, 8, 8) @ weights.T
    images = np.pad(np.rint(large * (255 / 16)).astype(np.uint8), ((0, 0), (4, 4), (4, 4)))[:, None]
    rest, chosen = stratified(labels, 360, np.random.default_rng(0))
    source = "scikit-learn's load_digits"
    return Dataset("digits", images[rest], labels[rest], images[chosen], labels[chosen], DIGIT_NAMES, source)


def _load_published(name: str, folder: str | os.PathLike[str] | None) -> Dataset:
    title = PUBLISHED[name].title
    four = f"the four files {', '.join(FILES)} (unpacked or .gz)"
    if folder is not None:
        paths = _find(Path(folder).expanduser(), name)
        if paths is None:
            raise DataError(
                f"{folder}: no {title} here. Put {four} into it, or leave the folder out to have {title} downloaded"
            )
        return _read_dataset(name, paths)
    setting = os.environ.get("MINIGRAD_DATA")
    if setting:
        paths = _find(Path(setting).expanduser(), name)
        if paths is not None:
            return _read_dataset(name, paths)
    try:
        return _read_dataset(name, fetch(name))
    except DataNotFoundError as error:
        passed = f"MINIGRAD_DATA={setting} does not hold it" if setting else "MINIGRAD_DATA is not set"
        raise DataNotFoundError(
            f"{title} was not found and could not be downloaded:\n  {passed}\n  {error}\n"
            f"Put {four} into a folder, and name that folder as MINIGRAD_DATA, or as the one to load from"
        ) from error


def _find(folder: Path, name: str) -> tuple[Path, ...] | None:
    """The paths of the four files in `folder` or in its subfolders for `name`; None where there are none."""
    try:
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder. Correct the name given as folder or as MINIGRAD_DATA: it is to "
                f"hold the files of {PUBLISHED[name].title}"
            )
        for place in (*(folder / sub for sub in PUBLISHED[name].subfolders), folder):
            found = [next((p for p in (place / f, place / f"{f}.gz") if p.is_file()), None) for f in FILES]
            if any(found):
                missing = [f for f, path in zip(FILES, found, strict=True) if path is None]
                if missing:
                    raise DataError(f"{place}: {', '.join(missing)} (or .gz) is missing. Put it beside the other files")
                return tuple(path for path in found if path is not None)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error}). Check its name and permissions") from error
    return None


def _read_dataset(name: str, paths: tuple[Path, ...]) -> Dataset:
    published = PUBLISHED[name]
    arrays: list[Any] = []
    unknown: list[str] = []
    for index, path in enumerate(paths):
        contents = read(path, index)
        identity = identify(path, contents)
        if identity is None:
            unknown.append(path.name)
        elif identity != (name, index):
            raise DataError(
                f"{path}: this is {FILES[identity[1]]} of {PUBLISHED[identity[0]].title}, found where "
                f"{FILES[index]} of {published.title} belongs. Put the files of each dataset, under their own "
                f"names, into a folder of their own ({' and '.join(f'{name}/' for name in PUBLISHED)})"
            )
        arrays.append(contents)
        if index % 2 and len(arrays[-2]) != len(contents):
            raise DataError(
                f"{path}: {len(contents)} labels, but {paths[index - 1]} has {len(arrays[-2])} images. "
                "The two files are not of one dataset: replace both"
            )
    source = str(paths[0].parent)
    if unknown:
        warnings.warn(
            f"{source}: {', '.join(unknown)} cannot be recognised as published by the authors of "
            f"{published.title} (by checksum); well-formed, and used as they are",
            stacklevel=4,  # the caller of load, mnist or fashion_mnist
        )
        source += " (not recognised as the published files)"
    train_images, train_labels, test_images, test_labels = arrays
    return Dataset(name, train_images, train_labels, test_images, test_labels, published.class_names, source)
