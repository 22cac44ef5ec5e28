"""Images to learn from: MNIST, Fashion-MNIST, scikit-learn's digits, and mini-batches of them.

A *dataset* is four arrays: training and test images (bytes, N x 1 x 28 x 28) and their labels. It is
looked for in the folder that the caller names, in `MINIGRAD_DATA`, in the user's cache folder, and is
then downloaded into that cache. A file is used whole and checked, or a `DataError` says what is wrong
with it and what to do. *Batches* hands out mini-batches: which images, in which order and how distorted
is a function of (seed, epoch, batch number) alone, so that a run which stops and resumes sees exactly
the batches that it would have seen. All of it is drawn on the host, with one order for every backend; on a device
that has the kernel for it the images lie there and are chosen and distorted there (to one grey level in rounding).
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import importlib
import importlib.util
import itertools
import math
import os
import queue
import socket
import struct
import sys
import threading
import urllib.request
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from minigrad.backend import from_numpy, kernel, xp
from minigrad.tensor import Tensor

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
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
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


# --- what is published, and where ---------------------------------------------------------------------

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The names of a dataset's four files, in the order of Dataset's fields; each may end in .gz."""


@dataclass(frozen=True)
class Published:
    """A dataset as its authors published it.

    md5: of the four .gz files.  sha256: of their unpacked contents, where known.  subfolders: where the
    files may lie within a folder of datasets (the last is torchvision's layout).
    """

    title: str
    class_names: tuple[str, ...]
    subfolders: tuple[str, ...]
    mirrors: tuple[str, ...]
    md5: tuple[str, ...]
    sha256: tuple[str, ...] = ()


DIGIT_NAMES = tuple("0123456789")

PUBLISHED = {
    "mnist": Published(
        title="MNIST",
        class_names=DIGIT_NAMES,
        subfolders=("mnist", "MNIST/raw"),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        md5=(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion": Published(
        title="Fashion-MNIST",
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        subfolders=("fashion", "FashionMNIST/raw"),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        md5=(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
}

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
INSTALL = "pip install 'minigrad[examples]'"


# --- loading ------------------------------------------------------------------------------------------


def load(dataset: str = "auto", folder: str | os.PathLike[str] | None = None) -> Dataset:
    """The dataset "mnist", "fashion" or "digits"; "auto" is MNIST, or the digits where MNIST cannot be had.

    MNIST and Fashion-MNIST are looked for in `folder`, or else in the folder that the environment variable
    MINIGRAD_DATA names, then in the user's cache folder, and are then downloaded. A folder holds the four
    `FILES` (unpacked or .gz) itself or in its subfolder mnist/ or fashion/. A `folder` without them is an
    error, never a reason to look elsewhere; a MINIGRAD_DATA folder without them is passed over.

    Files in the cache and downloads must match the published checksums. Files in the caller's folders need
    not: any idx files of 28x28 images in ten classes will do, but a warning says that they are not the
    published ones, and published files in the wrong place (Fashion-MNIST's where MNIST is asked for, the
    test set's where the training set belongs) are an error.

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
        return mnist(folder)
    except DataNotFoundError as reason:
        try:
            substitute = digits()
        except DataNotFoundError as also:
            raise DataNotFoundError(f"{reason}\nThe substitute is missing too. {also}") from reason
        print(f"{reason}\nUsing scikit-learn's 8x8 digits instead of MNIST.", file=sys.stderr)
        return substitute


def mnist(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """MNIST (LeCun, Cortes, Burges): 60,000 training and 10,000 test digits, 28x28. See `load`."""
    return load("mnist", folder)


def fashion_mnist(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): articles of clothing in the format of MNIST. See `load`."""
    return load("fashion", folder)


def digits() -> Dataset:
    """scikit-learn's bundled digits: 1,797 real handwritten digits of 8x8, 1,437 to train on, 360 to test.

    They are scaled bilinearly to 20x20 and centred in 28x28 as MNIST's are, so that the same models run.
    The split is fixed and keeps the proportions of the classes. (The file does not say who wrote which
    digit, so the same hands may occur in both parts: accuracies are not comparable with MNIST's.)
    """
    try:
        bundled: Any = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise DataNotFoundError(f"digits: scikit-learn, which brings them, is missing: {INSTALL}") from error
    small, labels = bundled.load_digits(return_X_y=True)
    centres = np.clip((np.arange(20) + 0.5) * 8 / 20 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(8)))  # (20, 8), the hat functions
    large = weights @ small.reshape(-1, 8, 8) @ weights.T
    images = np.pad(np.rint(large * (255 / 16)).astype(np.uint8), ((0, 0), (4, 4), (4, 4)))[:, None]
    rest, chosen = _stratified(labels, 360, np.random.default_rng(0))
    source = "scikit-learn's load_digits"
    return Dataset("digits", images[rest], labels[rest], images[chosen], labels[chosen], DIGIT_NAMES, source)


def split(dataset: Dataset, held_out: int = 5000, seed: int = 0) -> Dataset:
    """`dataset` with `held_out` of its training images in place of the test images, to choose settings by.

    The classes keep their proportions. The real test images are not in the result, so nothing can be
    tuned on them by accident. Raises ValueError unless 0 < held_out < the number of training images.
    """
    total = len(dataset.train_images)
    if not 0 < held_out < total:
        raise ValueError(f"split: held_out must be between 1 and {total - 1} of {total} images, not {held_out}")
    rest, chosen = _stratified(dataset.train_labels, held_out, np.random.default_rng(seed))
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[rest],
        train_labels=dataset.train_labels[rest],
        test_images=dataset.train_images[chosen],
        test_labels=dataset.train_labels[chosen],
        source=f"{dataset.source}; tested on {held_out:,} held-out training images (seed {seed})",
    )


def _stratified(labels: NDArray[Any], count: int, generator: np.random.Generator) -> tuple[Integers, Integers]:
    """Indices of the rest and of `count` chosen at random, so that each class gives its share."""
    order = generator.permutation(len(labels))
    place = np.empty(len(labels))  # of each in the queue of its class, from 0 to 1
    for value in np.unique(labels):
        where = np.flatnonzero(labels[order] == value)
        place[where] = (np.arange(len(where)) + 0.5) / len(where)
    queued = order[np.argsort(place, kind="stable")]
    return np.sort(queued[count:]), np.sort(queued[:count])


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
        return _read_dataset(name, _fetch(name))
    except DataNotFoundError as error:
        passed = f"MINIGRAD_DATA={setting} does not hold it" if setting else "MINIGRAD_DATA is not set"
        raise DataNotFoundError(
            f"{title} was not found and could not be downloaded:\n  {passed}\n  {error}\n"
            f"Put {four} into a folder, and name it with folder=... or MINIGRAD_DATA"
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
        contents = (read_images, read_labels)[index % 2](path)
        identity = _identify(path, contents)
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
            stacklevel=4,  # the caller of load
        )
        source += " (not recognised as the published files)"
    train_images, train_labels, test_images, test_labels = arrays
    return Dataset(name, train_images, train_labels, test_images, test_labels, published.class_names, source)


# --- idx files ----------------------------------------------------------------------------------------
# An idx file is a big-endian header of 32-bit words (magic number 0x0800 + number of dimensions, then
# each dimension), then the bytes of the array in row-major order, and nothing else.

LARGEST = 1_000_000
"""The most images or labels that a file may claim; it bounds what a malicious .gz can unpack to."""


def read_images(path: str | os.PathLike[str]) -> Bytes:
    """The images of an idx file, plain or gzip (told by its contents): uint8 (N, 1, 28, 28).

    Raises DataError for a file that is anything but a whole and well-formed idx file of 28x28 images.
    """
    return _read_idx(Path(path), "images", (28, 28))[:, None]


def read_labels(path: str | os.PathLike[str]) -> Integers:
    """The labels of an idx file, plain or gzip: int64 (N,), each 0 to 9. Raises as `read_images`."""
    labels = _read_idx(Path(path), "labels", ())
    if labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise DataError(
            f"{path}: label {labels[first]} at position {first}, where labels go from 0 to 9. "
            "The file is damaged or of another dataset: replace it"
        )
    return labels.astype(np.int64)


def _read_idx(path: Path, kind: str, item: tuple[int, ...]) -> Bytes:
    """The array (N, *item) of bytes in an idx file of `kind`."""

    def refuse(found: str) -> DataError:
        return DataError(f"{path}: {found}. Replace the file with an intact copy of the idx file of {kind}")

    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            with gzip.GzipFile(fileobj=file) if packed else file as stream:
                header = stream.read(4 * (2 + len(item)))
                magic, wanted = header[:4], bytes((0, 0, 8, 1 + len(item)))
                if magic != wanted:
                    what = "the file is empty" if not magic else f"it begins with the bytes {magic.hex(' ')}"
                    raise refuse(f"{what}, where an idx file of {kind} begins with {wanted.hex(' ')}")
                if len(header) < 4 * (2 + len(item)):
                    raise refuse("it ends within its header")
                count, *sides = struct.unpack_from(f">{1 + len(item)}I", header, 4)
                if tuple(sides) != item:
                    raise refuse(f"{kind} of {sides[0]}x{sides[1]}, not {item[0]}x{item[1]}")
                if not 0 < count <= LARGEST:
                    raise refuse(f"its header claims {count:,} {kind}, which must be 1 to {LARGEST:,}")
                claimed = count * math.prod(item)
                body = bytearray()
                # One byte more than is claimed: a longer file shows, and gzip checks its sum at the end.
                while chunk := stream.read(min(1 << 20, claimed + 1 - len(body))):
                    body += chunk
    except EOFError as error:
        raise refuse("the gzip data end too early: the file is truncated") from error
    except zlib.error as error:
        raise refuse(f"the gzip data are damaged ({error})") from error
    except gzip.BadGzipFile as error:
        raise refuse(f"not intact gzip data ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}). Check its name and permissions") from error
    if len(body) != claimed:
        much = "more" if len(body) > claimed else f"only {len(body):,}"
        raise refuse(f"its header claims {count:,} {kind} ({claimed:,} bytes), but {much} follow")
    return np.frombuffer(body, np.uint8).reshape(count, *item)


def _identify(path: Path, contents: NDArray[Any]) -> tuple[str, int] | None:
    """Which published file this is, as (dataset, index into FILES); None where it is none that is known."""
    shape = contents.shape[:1] + contents.shape[2:]
    whole = hashlib.sha256(struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape))
    whole.update(np.ascontiguousarray(contents, np.uint8).data)
    inside = whole.hexdigest()
    outside = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    for name, published in PUBLISHED.items():
        for digest, known in ((inside, published.sha256), (outside, published.md5)):
            if digest in known:
                return name, known.index(digest)
    return None


# --- the cache and the network ------------------------------------------------------------------------


def _fetch(name: str) -> tuple[Path, ...]:
    """The four files in the user's cache folder, downloaded where they are missing or damaged.

    Each is downloaded to a temporary name, compared with its checksum and only then renamed, so the cache
    never holds part of a file. Raises DataNotFoundError with one reason for each mirror.
    """
    try:
        pooch: Any = importlib.import_module("pooch")
    except ImportError as error:
        raise DataNotFoundError(f"pooch, which keeps the cache and downloads, is not installed: {INSTALL}") from error
    folder = pooch.os_cache("minigrad") / name
    published = PUBLISHED[name]
    paths = tuple(folder / f"{file}.gz" for file in FILES)
    known = dict(zip(paths, (f"md5:{md5}" for md5 in published.md5), strict=True))
    try:
        if all(path.is_file() and pooch.hashes.hash_matches(path, known[path]) for path in paths):
            return paths
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataNotFoundError(f"the cache folder {folder} cannot be used ({error})") from error
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None,
        chunk_size=1 << 16,
        timeout=(CONNECT_SECONDS, READ_SECONDS),
    )
    failures = [f"the cache folder {folder} does not hold it"]
    for mirror in published.mirrors:
        try:
            _reach(mirror)
            for path in paths:
                pooch.retrieve(mirror + path.name, known[path], path.name, folder, downloader=downloader)
            return paths
        except (OSError, ValueError) as error:  # the network, the disk, an HTTP status; a checksum
            failures.append(f"{mirror} failed: {error}")
    raise DataNotFoundError("\n  ".join(failures))


def _reach(url: str) -> None:
    """Returns once the host of `url`, or the proxy on the way to it, accepts a connection; else OSError.

    A time limit on a request covers neither the look-up of the name nor all of the host's addresses
    together, and takes minutes where packets vanish. This takes CONNECT_SECONDS at most.
    """
    target = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(target.netloc):
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    host = target.hostname or ""
    port = target.port or {"https": 443, "http": 80}.get(target.scheme, 1080)
    outcome: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        error = outcome.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        error = TimeoutError(f"no answer within {CONNECT_SECONDS:g} s")
    if error is not None:
        raise OSError(f"{host} cannot be reached: {error}")


# --- augmentation -------------------------------------------------------------------------------------


def shifted(images: Bytes, offsets: NDArray[np.integer[Any]]) -> Bytes:
    """Each image moved by whole pixels, zeros moving in: uint8 (n, c, h, w) by integer offsets (n, 2).

    offsets: (down, right), each less than the side of the image.
    """
    h, w = images.shape[-2:]
    reach = int(np.abs(offsets).max(initial=0))
    if reach >= min(h, w):
        raise ValueError(f"shifted: an offset of {reach} pixels moves {h}x{w} images out of sight")
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), axis=(2, 3))
    down, right = offsets.T
    return windows[np.arange(len(images)), :, reach - down, reach - right]


def affine(images: Bytes, matrices: NDArray[np.floating[Any]], offsets: NDArray[Any]) -> Bytes:
    """Each image under its own affine map, sampled bilinearly, zeros outside: uint8 (n, c, h, w).

    matrices: (n, 2, 2) act on (y, x), measured from the image's centre: a point at p moves to
    matrix @ p + offset.  offsets: (n, 2) in pixels.
    Raises ValueError (or LinAlgError, which is one) for a map that is not finite and invertible.
    """
    n, c, h, w = images.shape
    if not (np.isfinite(matrices).all() and np.isfinite(offsets).all()):
        raise ValueError("affine: matrices and offsets must be finite")
    tall, wide = h + 3, w + 3  # a border of zeros: one before, two after, for the far corners at the clip
    padded = np.zeros((n, c, tall, wide), np.float32)
    padded[:, :, 1 : h + 1, 1 : w + 1] = images
    values = padded.ravel()
    # What shows at q was at p = M^-1 (q - offset): one product for the coordinates of all pixels.
    centre = np.array([(h - 1) / 2, (w - 1) / 2])
    inverse = np.linalg.inv(matrices)
    start = (centre + 1) - np.einsum("nij,nj->ni", inverse, offsets)
    pixels = np.indices((h, w)).reshape(2, -1) - centre[:, None]
    source = inverse.astype(np.float32) @ pixels.astype(np.float32)
    source += start[:, :, None].astype(np.float32)
    y, x = source[:, :1], source[:, 1:]  # each (n, 1, h * w): all channels of an image alike
    np.clip(y, 0, h + 1, out=y)
    np.clip(x, 0, w + 1, out=x)
    row, column = y.astype(np.int32), x.astype(np.int32)
    y -= row
    x -= column
    corner = (row * wide + column).astype(np.intp)
    corner = corner + (np.arange(n * c) * (tall * wide)).reshape(n, c, 1)
    # top + (bottom - top) y, where top and bottom lie between left and right likewise; "clip" only
    # spares the look-up its bounds check.
    top, right = values.take(corner, mode="clip"), values[1:].take(corner, mode="clip")
    right -= top
    right *= x
    top += right
    bottom, right = values[wide:].take(corner, mode="clip"), values[wide + 1 :].take(corner, mode="clip")
    right -= bottom
    right *= x
    bottom += right
    bottom -= top
    bottom *= y
    top += bottom
    top += np.float32(0.5)  # and cut off below: rounds
    result: Bytes = top.astype(np.uint8).reshape(images.shape)
    return result


@dataclass(frozen=True)
class Augment:
    """Small random distortions, drawn anew for each image; zeros move in at the edges.

    shift: up to so many whole pixels each way.  rotate: up to so many degrees each way.  scale: both sides
    times 1 - scale to 1 + scale.  shear: rows slide sideways by up to `shear` pixels a row, each way.
    The defaults leave images as they are. Raises ValueError for a value out of range.
    """

    shift: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.shift, int) or self.shift < 0:
            raise ValueError(f"Augment: shift must be a whole number of pixels, 0 or more, not {self.shift!r}")
        for name, limit in (("rotate", 180), ("scale", 0.9), ("shear", 2)):
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"Augment: {name} must be between 0 and {limit}, not {getattr(self, name)!r}")

    def __call__(self, images: Bytes, generator: np.random.Generator) -> Bytes:
        """Distorted copies of uint8 images (n, c, h, w), by numbers drawn from `generator` alone."""
        matrices, offsets = self.draw(images.shape, generator)
        if matrices is not None:
            return affine(images, matrices, offsets)
        return shifted(images, offsets) if self.shift else images

    def draw(
        self, shape: tuple[int, ...], generator: np.random.Generator
    ) -> tuple[NDArray[np.floating[Any]] | None, Integers]:
        """The matrices (n, 2, 2) of `affine`, None where there are only shifts, and the offsets (n, 2)."""
        n, _, h, w = shape
        if self.shift >= min(h, w):
            raise ValueError(f"Augment: a shift of {self.shift} pixels moves {h}x{w} images out of sight")
        offsets = generator.integers(-self.shift, self.shift, size=(n, 2), endpoint=True)
        if not (self.rotate or self.scale or self.shear):
            return None, offsets
        limits = np.array([math.radians(self.rotate), self.scale, self.shear])
        angle, scale, shear = generator.uniform(-1, 1, (3, n)) * limits[:, None]
        cos, sin = (1 + scale) * np.cos(angle), (1 + scale) * np.sin(angle)
        # scale [[cos, -sin], [sin, cos]] @ [[1, 0], [shear, 1]], in (y, x)
        return np.stack([cos - sin * shear, -sin, sin + cos * shear, cos], axis=1).reshape(n, 2, 2), offsets

    def maps(self, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
        """What a device needs for images of a shape (n, c, h, w): where each pixel of the results was, float32 (n, 6).

        A pixel at q from the centre was at M q + (down, right): the four of M, then those two, from the corner.
        """
        n, _, h, w = shape
        matrices, offsets = self.draw(shape, generator)
        inverse = np.broadcast_to(np.eye(2), (n, 2, 2)) if matrices is None else np.linalg.inv(matrices)
        start = np.array([(h - 1) / 2, (w - 1) / 2]) - np.einsum("nij,nj->ni", inverse, offsets)
        return np.concatenate([inverse.reshape(n, 4), start], axis=1).astype(np.float32)


# --- mini-batches -------------------------------------------------------------------------------------


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
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"Batches: {name} must be an integer, not {value!r}")
            if value < least:
                raise ValueError(f"Batches: {name} must be at least {least}, not {value}")
        if drop_last and batch_size > len(self.images):
            raise ValueError(
                f"Batches: {len(self.images)} images make no batch of {batch_size}, and drop_last leaves out "
                "the short one; use a smaller batch_size"
            )
        mean, std = (0.0, 1.0) if normalise is None else (float(value) for value in normalise)
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(f"Batches: normalise needs a finite mean and a std > 0, not {(mean, std)}")
        self.batch_size = int(batch_size)
        self.shuffle = bool(shuffle)
        self.seed = int(seed)
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
        if not (isinstance(epoch, int) and isinstance(batch, int) and epoch >= 0 and 0 <= batch < len(self)):
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
            "augment": self.augment and getattr(self.augment, "__qualname__", repr(self.augment)),
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
            if images.dtype != np.uint8 or len(images) != len(plain):
                raise ValueError(
                    f"Batches: augment made {images.dtype} {images.shape} of uint8 {plain.shape}; it must return as "
                    "many images, as uint8"
                )
        # Every byte is in the table: "clip" only spares the look-up its bounds check.
        return np.take(self._table, images, mode="clip"), self.labels[chosen].astype(np.int64)


def _checked_images(where: str, given: Any) -> Bytes:
    images: Bytes = np.asarray(given)
    if images.dtype != np.uint8 or images.ndim < 2 or not images.size:
        raise ValueError(
            f"{where}: images must be uint8 (N, ...) with pixels from 0 to 255 and N > 0, "
            f"not {images.dtype} {images.shape}"
        )
    return images


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
