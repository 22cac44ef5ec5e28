"""A dataset: training and test images with their labels, checked when it is made.

Images are bytes, (N, channels, height, width), and labels indices into the names of the classes; neither can be
written to. What is wrong with a dataset or with one of its files is a `DataError`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad.given import whole

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]


class DataError(ValueError):
    """A dataset or one of its files cannot be used; the message names it, what was found, and the fix."""


class DataNotFoundError(DataError):
    """The dataset is in none of the places where it is looked for, and could not be downloaded."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Training and test images with their labels.

    train_images, test_images: uint8 (N, channels, height, width), read-only, 0 = background.
    train_labels, test_labels: int64 (N,), indices into class_names.
    name: "mnist", "fashion", "digits" or the caller's own.  source: where the data came from, in words.
    Raises DataError where the arrays do not fit each other.
    """

    name: str
    train_images: Bytes
    train_labels: Integers
    test_images: Bytes
    test_labels: Integers
    class_names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = (np.asarray(getattr(self, f"{part}_{what}")) for what in ("images", "labels"))
            if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
                raise DataError(
                    f"Dataset {self.name!r}: {part}_images must be uint8 (N, channels, height, width) with "
                    f"N > 0, not {images.dtype} {images.shape}"
                )
            if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
                raise DataError(
                    f"Dataset {self.name!r}: {part}_labels must be one integer an image, ({len(images)},), "
                    f"not {labels.dtype} {labels.shape}"
                )
            if labels.min() < 0 or labels.max() >= len(self.class_names):
                raise DataError(
                    f"Dataset {self.name!r}: {part}_labels run from {labels.min()} to {labels.max()}, but "
                    f"the {len(self.class_names)} class_names allow 0 to {len(self.class_names) - 1}"
                )
            for kind, array in (("images", images), ("labels", labels.astype(np.int64))):
                view = array.view()
                view.flags.writeable = False
                object.__setattr__(self, f"{part}_{kind}", view)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.train_images.shape[1:]))
        return (
            f"Dataset({self.name!r}: {len(self.train_images):,} training and {len(self.test_images):,} test "
            f"images of {size}, {len(self.class_names)} classes, from {self.source})"
        )


def split(dataset: Dataset, held_out: int = 5000, seed: int = 0) -> Dataset:
    """`dataset` with `held_out` of its training images in place of the test images, to choose settings by.

    The classes keep their proportions. The real test images are not in the result, so nothing can be
    tuned on them by accident. Raises ValueError unless 0 < held_out < the number of training images, TypeError for
    what is no whole number.
    """
    total = len(dataset.train_images)
    held_out, seed = whole("split: held_out", held_out, None), whole("split: seed", seed, least=0)
    if not 0 < held_out < total:
        raise ValueError(f"split: held_out must be between 1 and {total - 1} of {total} images, not {held_out}")
    rest, chosen = stratified(dataset.train_labels, held_out, np.random.default_rng(seed))
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[rest],
        train_labels=dataset.train_labels[rest],
        test_images=dataset.train_images[chosen],
        test_labels=dataset.train_labels[chosen],
        source=f"{dataset.source}; tested on {held_out:,} held-out training images (seed {seed})",
    )


def stratified(labels: NDArray[Any], count: int, generator: np.random.Generator) -> tuple[Integers, Integers]:
    """Indices of the rest and of `count` chosen at random, so that each class gives its share."""
    order = generator.permutation(len(labels))
    place = np.empty(len(labels))  # of each in the queue of its class, from 0 to 1
    for value in np.unique(labels):
        where = np.flatnonzero(labels[order] == value)
        place[where] = (np.arange(len(where)) + 0.5) / len(where)
    queued = order[np.argsort(place, kind="stable")]
    return np.sort(queued[count:]), np.sort(queued[:count])
