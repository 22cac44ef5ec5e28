"""What is published, where, and how it comes into the user's cache folder.

A file is known by the checksums that its authors gave, of itself or of what it holds. A download takes its place in the
cache whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import queue
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from minigrad.data.dataset import DataError, DataNotFoundError
from minigrad.data.idx import read_images, read_labels

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
SLOW_SECONDS, SLOW_BYTES = 15.0, 1 << 16
"""A download that brings fewer bytes in so many seconds is given up: a server that drips is no better than none."""

PART = "part-"
"""How the folders begin in which downloads lie until they are whole."""


def read(path: Path, index: int) -> NDArray[Any]:
    """The contents of a file in the place of FILES[index]: images or labels. DataError where it has none."""
    return (read_images, read_labels)[index % 2](path)


def identify(path: Path, contents: NDArray[Any]) -> tuple[str, int] | None:
    """Which published file this is, as (dataset, index into FILES); None where it is none that is known."""
    shape = contents.shape[:1] + contents.shape[2:]
    whole = hashlib.sha256(struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape))
    whole.update(np.ascontiguousarray(contents, np.uint8).data)
    inside, outside = whole.hexdigest(), _md5(path)
    for name, published in PUBLISHED.items():
        for digest, known in ((inside, published.sha256), (outside, published.md5)):
            if digest in known:
                return name, known.index(digest)
    return None


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def fetch(name: str) -> tuple[Path, ...]:
    """The four files in the user's cache folder, packed or not, downloaded where they are missing or damaged.

    A file there counts if it is the published one, or holds what that holds (where `Published.sha256` is known).
    Raises DataNotFoundError with one reason for each mirror; DataError where a file is there, but damaged, and no
    mirror could replace it.
    """
    try:
        pooch: Any = importlib.import_module("pooch")
    except ImportError as error:
        raise DataNotFoundError("pooch, which keeps the cache and downloads, is missing: pip install pooch") from error
    folder = pooch.os_cache("minigrad") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        paths = [_held(folder, name, index) for index in range(len(FILES))]
    except OSError as error:
        raise DataNotFoundError(f"the cache folder {folder} cannot be used ({error})") from error
    failures = []
    for mirror in PUBLISHED[name].mirrors:
        missing = [index for index, path in enumerate(paths) if path is None]
        try:
            if missing:
                _reach(mirror)
            for index in missing:
                paths[index] = _download(pooch, mirror, folder, name, index)
        except (OSError, ValueError) as error:  # the network, the disk, an HTTP status; a checksum
            failures.append(f"{mirror} failed: {error}")
    if None not in paths:
        return tuple(path for path in paths if path is not None)
    reasons = "\n  ".join(failures)
    left = [index for index, path in enumerate(paths) if path is None]
    damaged = [str(path) for index in left for path in _places(folder, index) if path.exists()]
    if damaged:
        raise DataError(
            f"{', '.join(damaged)}: damaged (the checksum is not that of the published {PUBLISHED[name].title}), and "
            f"could not be downloaded anew:\n  {reasons}\nReplace the file with an intact copy, or delete it"
        )
    raise DataNotFoundError(f"the cache folder {folder} does not hold it\n  {reasons}")


def _places(folder: Path, index: int) -> tuple[Path, Path]:
    """Where a published file may lie in the cache folder: as it is downloaded, and unpacked."""
    return folder / f"{FILES[index]}.gz", folder / FILES[index]


def _held(folder: Path, name: str, index: int) -> Path | None:
    """The file of the cache folder that is a published one, or holds what that holds; None where there is none."""
    for path in _places(folder, index):
        if path.is_dir():
            raise DataError(f"{path}: a folder where a file belongs. Remove it")
        with contextlib.suppress(DataError):
            if path.is_file() and (
                _md5(path) == PUBLISHED[name].md5[index] or identify(path, read(path, index)) == (name, index)
            ):
                return path
    return None


def _clear(folder: Path) -> None:
    """Removes what downloads left whose process was killed, once none of them can still be under way."""
    for left in folder.glob(f"{PART}*"):
        with contextlib.suppress(FileNotFoundError):  # another process's, and it has just ended
            if time.time() - left.stat().st_mtime > 86400:
                shutil.rmtree(left, ignore_errors=True)


def _download(pooch: Any, mirror: str, folder: Path, name: str, index: int) -> Path:
    """Brings a published file into the cache folder, whole or not at all, and returns where it lies.

    Raises ValueError for a wrong checksum, OSError for what else goes wrong: TimeoutError where fewer than
    SLOW_BYTES arrive in SLOW_SECONDS.
    """
    place = _places(folder, index)[0]
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None,
        chunk_size=1 << 14,
        timeout=(CONNECT_SECONDS, READ_SECONDS),
    )
    with tempfile.TemporaryDirectory(prefix=PART, dir=folder, ignore_cleanup_errors=True) as part:
        size = 0

        def retrieve() -> None:
            known = f"md5:{PUBLISHED[name].md5[index]}"
            pooch.retrieve(mirror + place.name, known, place.name, part, downloader=downloader)

        def arrives() -> bool:
            nonlocal size
            try:
                before, size = size, sum(file.stat().st_size for file in Path(part).iterdir())
            except FileNotFoundError:  # it has just been renamed: it is whole
                return True
            return size - before >= SLOW_BYTES

        _watched(retrieve, SLOW_SECONDS, arrives)
        return (Path(part) / place.name).replace(place)


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
    try:
        _watched(lambda: socket.create_connection((host, port), CONNECT_SECONDS).close(), CONNECT_SECONDS)
    except OSError as error:
        raise OSError(f"{host} cannot be reached: {error}") from error


def _watched(work: Callable[[], object], seconds: float, arrives: Callable[[], bool] = lambda: False) -> None:
    """Waits for work(), in a thread of its own, as long as `arrives` is true each time that `seconds` have passed.

    Then raises TimeoutError and leaves the thread to itself: what a thread waits for in the system nobody can end.
    """
    outcome: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            work()
            outcome.put(None)
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=run, daemon=True).start()
    while True:
        try:
            error = outcome.get(timeout=seconds)
        except queue.Empty:
            if not arrives():
                raise TimeoutError(f"little or no answer within {seconds:g} s") from None
        else:
            if error is not None:
                raise error
            return
