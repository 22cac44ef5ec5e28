"""Mini-batches: which images, in which order and how distorted is a function of (seed, epoch, batch number) alone.

So a run that stops and resumes sees exactly the batches that it would have seen. All of it is drawn on the host, with
one order for every backend; on a device that has the kernel for it the images lie there and are chosen and distorted
there (to one grey level in rounding).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from minigrad.backend import from_numpy, kernel, xp
from minigrad.data.augmentation import Augment
from minigrad.data.dataset import Bytes, Integers
from minigrad.given import finite, positive, whole
from minigrad.tensor import Tensor


def normalisation(images: Bytes) -> tuple[float, float]:
    """The mean and the standard deviation of all pixels of uint8 images, on the scale of 0 to 1.

    Exact (from the histogram). Raises ValueError where all pixels are alike.
    """
    images = _checked_images("normalisation", images)
    histogram = sum(np.bincount(part.ravel(), minlength=256) for part in np.array_split(images, -(-len(images) // 256)))
    levels = np.arange(256) / 255
    mean = float(np.average(levels, weights=histogram))
    std = math.sqrt(np.average((levels - mean) ** 2, weights=histogram))
    if not np.count_nonzero(histogram) > 1:
        raise ValueError(f"normalisation: all pixels are {round(mean * 255)}; there is no spread to divide by")
    return mean, std


class Batches:
    """An epoch of mini-batches each time it is looped over: `for x, y in batches`.

    x: float32 Tensor (batch, *image), (pixel / 255 - mean) / std with normalise=(mean, std), pixel / 255
    without.  y: int64 Tensor (batch,).  Both are on the current backend.

    images, labels: uint8 (N, ...) and integers (N,).  shuffle: a new order each epoch.  drop_last: leaves
    out a last batch that is short.  augment: an `Augment`, or any function (images, generator) -> images of
    uint8; called for each batch, in a thread that works one batch ahead.

    On a device with kernels the images and labels are copied there at the first loop and stay: what is written into
    them afterwards is seen on the host alone. Make new Batches of data that change.

    epoch: the epoch under way or next, from 0.  batch: how many of its batches were handed out. Order
    and distortions depend on (seed, epoch, batch) alone. A loop that was left early is not taken up
    again: the next one begins the next epoch, except after `load_state`.
    """

    def __init__(
        self,
        images: Bytes,
        labels: NDArray[Any],
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        augment: Callable[[Bytes, np.random.Generator], Bytes] | None = None,
        normalise: tuple[float, float] | None = None,
    ) -> None:
        self.images = _checked_images("Batches", images)
        if augment is not None and self.images.ndim != 4:
            raise ValueError(f"Batches: augment needs images (N, channels, height, width), not {self.images.shape}")
        self.labels = np.asarray(labels)
        if self.labels.dtype.kind not in "iu" or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"Batches: labels must be one integer an image, ({len(self.images)},), "
                f"not {self.labels.dtype} {self.labels.shape}"
            )
        if self.labels.dtype == np.uint64 and self.labels.max() > np.iinfo(np.int64).max:
            raise ValueError(f"Batches: label {self.labels.max()} is beyond int64, which labels are handed out in")
        self.batch_size, self.seed = whole("Batches: batch_size", batch_size), whole("Batches: seed", seed, least=0)
        if augment is not None and (not callable(augment) or isinstance(augment, type)):
            raise TypeError(
                f"Batches: augment must be an Augment or a function of images and generator, not {augment!r}"
            )
        if drop_last and self.batch_size > len(self.images):
            raise ValueError(
                f"Batches: {len(self.images)} images make no batch of {batch_size}, and drop_last leaves out "
                "the short one; use a smaller batch_size"
            )
        mean, std = _two(normalise)
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.augment = augment
        self.normalise = (mean, std)
        self.epoch = 0
        self.batch = 0
        self._table = ((np.arange(256) / 255 - mean) / std).astype(np.float32)  # of each byte, its float
        self._resident: tuple[Any, ...] | None = None  # images, labels and table on the device
        self._loop: object = None  # the loop under way or left early

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        whole, left = divmod(len(self.images), self.batch_size)
        return whole + bool(left and not self.drop_last)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self._settings().items())
        return f"Batches({settings}; at epoch {self.epoch}, batch {self.batch} of {len(self)})"

    def order(self, epoch: int) -> Integers:
        """The indices of the images in the order of an epoch."""
        epoch = whole("Batches: epoch", epoch, least=0)
        if not self.shuffle:
            return np.arange(len(self.images))
        return self._generator(epoch, 0).permutation(len(self.images))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._loop is not None:
            self.epoch, self.batch = self.epoch + 1, 0
        self._loop = loop = object()
        epoch, order = self.epoch, self.order(self.epoch)
        numbers = range(self.batch, len(self))
        batches: Iterator[tuple[Tensor, Tensor]]
        if (gather := kernel("batch")) is not None and (self.augment is None or type(self.augment) is Augment):
            batches = self._on_device(gather, epoch, order, numbers)
        else:
            make = functools.partial(self._make, epoch, order)
            made = map(make, numbers) if self.augment is None else _ahead(make, numbers)
            batches = itertools.starmap(_crossed, made)
        for images, labels in batches:
            self.batch += 1
            yield images, labels
            if self._loop is not loop:
                raise RuntimeError("Batches: a second loop or load_state began within this loop; make two Batches")
        self.epoch, self.batch = epoch + 1, 0
        self._loop = None

    def state(self) -> dict[str, Any]:
        """Where the batches stand, and the settings, as plain values (JSON will do).

        Taken inside the loop, it counts the batch in hand as done.
        """
        done = self.batch == len(self)
        return {"epoch": self.epoch + done, "batch": 0 if done else self.batch, **self._settings()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes to where `state` was taken: the next loop yields exactly the batches that followed.

        Raises ValueError where the settings differ: the batches would not be the same ones.
        """
        if not isinstance(state, dict):
            raise TypeError(f"Batches.load_state: needs what state() returned, not a {type(state).__name__}")
        settings = self._settings()
        if set(state) != {"epoch", "batch", *settings}:
            raise ValueError(f"Batches.load_state: not a state of Batches, which has other keys: {sorted(state)}")
        differ = [
            f"{name} {state[name]!r} there, {value!r} here" for name, value in settings.items() if state[name] != value
        ]
        if differ:
            raise ValueError(
                f"Batches.load_state: other settings than when the state was saved ({'; '.join(differ)}); "
                "use the same, or set batches.epoch to start an epoch afresh"
            )
        epoch, batch = state["epoch"], state["batch"]
        if not (type(epoch) is type(batch) is int and epoch >= 0 and 0 <= batch < len(self)):
            raise ValueError(
                f"Batches.load_state: there is no batch {batch!r} of epoch {epoch!r}; {len(self)} an epoch"
            )
        self.epoch, self.batch, self._loop = epoch, batch, None

    def _settings(self) -> dict[str, Any]:
        return {
            "images": len(self.images),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "augment": None if self.augment is None else _described(self.augment),
            "normalise": list(self.normalise),
        }

    def _generator(self, epoch: int, stream: int) -> np.random.Generator:
        """Stream 0 gives an epoch's order, stream 1 + i the distortions of its batch i."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, stream)))

    def _on_device(
        self, gather: Callable[..., Any], epoch: int, order: Integers, numbers: Iterable[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from images that lie on the device, where they stay for the epochs to come."""
        if self._resident is None or not isinstance(self._resident[0], xp.ndarray):
            arrays = np.ascontiguousarray(self.images), self.labels.astype(np.int64), self._table
            self._resident = tuple(map(from_numpy, arrays))
        indices = from_numpy(order.astype(np.int64))
        for number in numbers:
            chosen = indices[number * self.batch_size : (number + 1) * self.batch_size]
            maps = None
            if isinstance(self.augment, Augment):
                shape = (len(chosen), *self.images.shape[1:])
                maps = from_numpy(self.augment.maps(shape, self._generator(epoch, 1 + number)))
            batch = gather(*self._resident, chosen, maps)
            yield batch if batch is not None else _crossed(*self._make(epoch, order, number))

    def _make(self, epoch: int, order: Integers, number: int) -> tuple[NDArray[np.float32], Integers]:
        chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
        images = self.images[chosen]
        if self.augment is not None:
            plain, images = images, self.augment(images, self._generator(epoch, 1 + number))
            if not isinstance(images, np.ndarray):
                raise TypeError(
                    f"Batches: augment returned a {type(images).__name__}; it must return the images, as uint8"
                )
            if images.dtype != np.uint8 or len(images) != len(plain):
                raise ValueError(
                    f"Batches: augment made {images.dtype} {images.shape} of uint8 {plain.shape}; it must return as "
                    "many images, as uint8"
                )
        # Every byte is in the table: "clip" only spares the look-up its bounds check.
        return np.take(self._table, images, mode="clip"), self.labels[chosen].astype(np.int64)


def _two(normalise: Any) -> tuple[float, float]:
    """The mean and the standard deviation of `normalise`; those that change nothing for None."""
    if normalise is None:
        return 0.0, 1.0
    try:
        mean, std = normalise
    except (TypeError, ValueError):
        raise TypeError(f"Batches: normalise must be two numbers, (mean, std), not {normalise!r}") from None
    return finite("Batches: normalise's mean", mean), positive("Batches: normalise's std", std)


def _checked_images(where: str, given: Any) -> Bytes:
    images: Bytes = np.asarray(given)
    if images.dtype != np.uint8 or images.ndim < 2 or not images.size:
        raise ValueError(
            f"{where}: images must be uint8 (N, ...) with pixels from 0 to 255 and N > 0, "
            f"not {images.dtype} {images.shape}; pixels from 0 to 1 become such by "
            "(255 * images).round().astype(np.uint8)"
        )
    return images


def _described(function: Any) -> str:
    """A function by its name, an object by its settings or else its class: in each process the same."""
    if isinstance(function, functools.partial):
        given = [_described(value) for value in (function.func, *function.args)]
        given += [f"{name}={_described(value)}" for name, value in function.keywords.items()]
        return f"partial({', '.join(given)})"
    if hasattr(function, "__qualname__"):
        return str(function.__qualname__)
    kind = type(function)
    return kind.__qualname__ if kind.__repr__ is object.__repr__ else repr(function)


_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


def _crossed(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """A batch that was made on the host, where the backend in use has its arrays."""
    return Tensor(from_numpy(images)), Tensor(from_numpy(labels))


def _ahead(function: Callable[[_Argument], _Result], arguments: Iterable[_Argument]) -> Iterator[_Result]:
    """map(function, arguments), with the next result under way in a thread while one is in use."""
    with ThreadPoolExecutor(1, "minigrad-batches") as worker:
        pending = None
        for argument in arguments:
            following = worker.submit(function, argument)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
