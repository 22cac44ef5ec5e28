"""The datasets, the reading of their files whatever is in them, the cache, the augmentation, the batches."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import importlib
import json
import os
import random
import socket
import struct
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest

from minigrad import data
from minigrad.data import Augment, Batches, DataError, DataNotFoundError, Dataset, loading, published
from minigrad.data import idx as idx_files
from minigrad.tensor import Tensor

Files = dict[str, bytes]


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def small_files(train: int = 12, test: int = 5) -> Files:
    generator = np.random.default_rng(3)
    contents = []
    for n in (train, test):
        contents.append(idx(generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)))
        contents.append(idx(generator.integers(0, 10, n, dtype=np.uint8)))
    return dict(zip(data.FILES, contents, strict=True))


def put(folder: Path, files: Files, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(contents) if packed else contents)
    return folder


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data folder, an empty cache folder, and no network, unless a test says otherwise."""
    for variable in list(os.environ):
        if variable == "MINIGRAD_DATA" or variable.lower().endswith("_proxy"):
            monkeypatch.delenv(variable)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)

    def no_name(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)


def publish(monkeypatch: pytest.MonkeyPatch, files: Files, mirrors: tuple[str, ...] = ()) -> None:
    """Makes `files` (packed as `put` packs them) the published MNIST."""
    known = dataclasses.replace(
        data.PUBLISHED["mnist"],
        mirrors=mirrors,
        md5=tuple(hashlib.md5(gzip.compress(files[name], mtime=0)).hexdigest() for name in data.FILES),
        sha256=tuple(hashlib.sha256(files[name]).hexdigest() for name in data.FILES),
    )
    monkeypatch.setitem(data.PUBLISHED, "mnist", known)


quiet = pytest.mark.filterwarnings("ignore:.*cannot be recognised as published")


# --- where the files are looked for -------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("subfolder", [".", "mnist", "MNIST/raw"])
def test_reads_a_folder(tmp_path: Path, subfolder: str, packed: bool) -> None:
    files = small_files()
    put(tmp_path / "d" / subfolder, files, packed)
    found = data.mnist(tmp_path / "d")
    assert found.train_images.shape == (12, 1, 28, 28) and found.train_images.dtype == np.uint8
    assert found.test_images.shape == (5, 1, 28, 28)
    assert found.train_labels.shape == (12,) and found.train_labels.dtype == np.int64
    assert found.train_images.tobytes() == files[data.FILES[0]][16:]
    assert bytes(found.test_labels.astype(np.uint8)) == files[data.FILES[3]][8:]
    assert found.class_names == tuple("0123456789")
    assert str(tmp_path / "d") in found.source and "12 training and 5 test" in repr(found)


@quiet
def test_reads_minigrad_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "d" / "fashion", small_files())
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path / "d"))
    assert data.load("fashion").class_names[9] == "Ankle boot"
    assert data.fashion_mnist().name == "fashion"
    with pytest.raises(DataNotFoundError, match=r"MINIGRAD_DATA=.* does not hold it"):
        data.load("mnist")


@quiet
def test_an_explicit_folder_goes_before_minigrad_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIGRAD_DATA", str(put(tmp_path / "a", small_files(3, 2))))
    assert len(data.load("mnist", put(tmp_path / "b", small_files(4, 2))).train_images) == 4
    assert len(data.load("auto").train_images) == 3


@pytest.mark.parametrize("dataset", ["mnist", "fashion", "auto"])
def test_an_explicit_folder_without_the_files_is_an_error(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(DataError, match="train-images-idx3-ubyte") as raised:
        data.load(dataset, tmp_path)
    assert str(tmp_path) in str(raised.value) and not isinstance(raised.value, DataNotFoundError)
    with pytest.raises(DataError, match="no such folder"):
        data.load(dataset, tmp_path / "absent")


def test_minigrad_data_that_is_no_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIGRAD_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"absent: no such folder.*MINIGRAD_DATA"):
        data.load("auto")


@pytest.mark.parametrize("name", data.FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    put(tmp_path, small_files())
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name} .* is missing"):
        data.mnist(tmp_path)


def test_an_unknown_dataset_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'cifar'.*'fashion'"):
        data.load("cifar")


# --- checksums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_published_files_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    files = small_files()
    publish(monkeypatch, files)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.mnist(put(tmp_path, files, packed)).source == str(tmp_path)


def test_a_folder_of_other_files_is_used_with_a_warning(tmp_path: Path) -> None:
    folder = put(tmp_path, small_files())
    for load in (functools.partial(data.load, "mnist"), data.mnist, functools.partial(data.load, "auto")):
        with pytest.warns(UserWarning, match="cannot be recognised") as caught:
            found = load(folder)
        assert caught[0].filename == __file__
        assert "not recognised" in found.source


def test_published_files_under_wrong_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = small_files()
    publish(monkeypatch, files)
    with pytest.raises(DataError, match=r"is train-images-idx3-ubyte of MNIST, found where .* of Fashion-MNIST"):
        data.fashion_mnist(put(tmp_path / "a", files))
    train_images, train_labels, test_images, test_labels = files.values()
    swapped = dict(zip(data.FILES, (test_images, test_labels, train_images, train_labels), strict=True))
    with pytest.raises(DataError, match="is t10k-images-idx3-ubyte of MNIST, found where train-images"):
        data.mnist(put(tmp_path / "b", swapped))


# --- damaged files ------------------------------------------------------------------------------------

IMAGES = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28)
LABELS = np.array([3, 0, 9], np.uint8)


def header(*words: int) -> bytes:
    return struct.pack(f">{len(words)}I", *words)


DAMAGED_IMAGES = {
    "empty": (b"", "the file is empty"),
    "one byte": (b"\0", "begins with the bytes 00,"),
    "a web page": (b"<!DOCTYPE html><html>Please log in</html>", "begins with the bytes 3c 21 44 4f"),
    "labels": (
        idx(LABELS),
        "begins with the bytes 00 00 08 01, where an idx file of images begins with 00 00 08 03",
    ),
    "floats": (header(0x0D03, 3, 28, 28) + bytes(4 * 2352), "begins with the bytes 00 00 0d 03"),
    "little-endian": (
        struct.pack("<4I", 0x803, 3, 28, 28) + bytes(2352),
        "begins with the bytes 03 08 00 00",
    ),
    "half a header": (idx(IMAGES)[:10], "ends within its header"),
    "other sides": (idx(np.zeros((3, 32, 32), np.uint8)), "images of 32x32, not 28x28"),
    "none": (header(0x803, 0, 28, 28), "claims 0 images"),
    "too many": (header(0x803, 2**32 - 1, 28, 28) + bytes(784), "claims 4,294,967,295 images"),
    "short by one": (idx(IMAGES)[:-1], "claims 3 images .2,352 bytes., but only 2,351 follow"),
    "no pixels": (idx(IMAGES)[:16], "but only 0 follow"),
    "trailing byte": (idx(IMAGES) + b"\0", "but more follow"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", DAMAGED_IMAGES)
def test_damaged_images_are_refused(tmp_path: Path, case: str, packed: bool) -> None:
    contents, message = DAMAGED_IMAGES[case]
    path = tmp_path / "some-images"
    path.write_bytes(gzip.compress(contents) if packed else contents)
    with pytest.raises(DataError, match=message) as raised:
        data.read_images(path)
    assert str(path) in str(raised.value) and "Replace the file" in str(raised.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (idx(np.array([1, 2, 10, 11], np.uint8)), "label 10 at position 2"),
        (idx(np.array([9, 10], np.uint8)), "label 10 at position 1"),
        (idx(np.array([255], np.uint8)), "label 255 at position 0"),
        (idx(IMAGES), "begins with the bytes 00 00 08 03"),
        (header(0x801, 4) + b"\1\2\3", "only 3 follow"),
        (header(0x801, 2) + b"\1\2\3", "more follow"),
    ],
)
def test_damaged_labels_are_refused(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "labels").write_bytes(contents)
    with pytest.raises(DataError, match=message):
        data.read_labels(tmp_path / "labels")


@pytest.mark.parametrize("packed", [False, True])
def test_files_longer_than_one_reading_are_read_whole(tmp_path: Path, packed: bool) -> None:
    many = np.random.default_rng(0).integers(0, 9, (3000, 28, 28), dtype=np.uint8)
    contents = idx(many)
    (tmp_path / "many").write_bytes(gzip.compress(contents, 1) if packed else contents)
    assert np.array_equal(data.read_images(tmp_path / "many")[:, 0], many)


PACKED = gzip.compress(idx(IMAGES), mtime=0)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (PACKED[:2], "truncated"),
        (PACKED[: len(PACKED) // 2], "truncated"),
        (PACKED[:-1], "truncated"),
        (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], "not intact gzip data .*CRC"),
        (PACKED[:-4] + b"\0\0\0\0", "not intact gzip data"),
        (PACKED[:10] + b"\xff" * 20 + PACKED[30:], "gzip data are damaged"),
        (PACKED + b"rubbish", "not intact gzip data"),
        (PACKED + gzip.compress(b"more", mtime=0), "but more follow"),
    ],
)
def test_damaged_gzip_is_refused(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "x.gz").write_bytes(contents)
    with pytest.raises(DataError, match=message):
        data.read_images(tmp_path / "x.gz")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: cannot be read"):
        data.read_images(tmp_path)
    with pytest.raises(DataError, match="absent: cannot be read"):
        data.read_labels(tmp_path / "absent")


@pytest.mark.parametrize("claimed", [1, idx_files.LARGEST])
def test_what_a_file_claims_or_unpacks_to_does_not_fill_the_memory(tmp_path: Path, claimed: int) -> None:
    bomb = header(0x803, claimed, 28, 28) + (bytes(64 << 20) if claimed == 1 else bytes(10))
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bomb))
    del bomb
    tracemalloc.start()
    with pytest.raises(DataError, match="follow"):
        data.read_images(tmp_path / "bomb.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("part", [0, 2])
def test_labels_that_do_not_fit_their_images_are_refused(tmp_path: Path, part: int) -> None:
    files = small_files()
    files[data.FILES[part + 1]] = idx(np.zeros(7, np.uint8))
    with pytest.raises(DataError, match=f"{data.FILES[part + 1]}: 7 labels, but .*{data.FILES[part]} has"):
        data.mnist(put(tmp_path, files))


def mutations(contents: bytes, count: int, seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(contents)
        for _ in range(dice.choice((1, 1, 1, 3))):
            if not mutant:
                break
            # Most damage goes to the first and the last bytes, where the structure is.
            at = dice.choice((dice.randrange(20), -1 - dice.randrange(9), dice.randrange(len(mutant))))
            at %= len(mutant)
            kind = dice.randrange(6)
            if kind == 0:
                mutant[at] ^= 1 << dice.randrange(8)
            elif kind == 1:
                mutant[at] = dice.choice((0, 1, 127, 128, 255))
            elif kind == 2:
                del mutant[at:]
            elif kind == 3:
                del mutant[at : at + dice.randrange(1, 9)]
            elif kind == 4:
                mutant[at:at] = dice.randbytes(dice.randrange(1, 9))
            else:
                mutant += mutant[at : at + dice.randrange(1, 900)]
        yield bytes(mutant)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("read", "original"),
    [(data.read_images, idx(IMAGES)), (data.read_labels, idx(np.tile(LABELS, 20)))],
    ids=["images", "labels"],
)
def test_mutated_files_are_refused_or_read_for_what_they_are(
    tmp_path: Path, read: Callable[[Path], np.ndarray], original: bytes, packed: bool
) -> None:
    path = tmp_path / "file"
    refused = 0
    for mutant in mutations(gzip.compress(original, mtime=0) if packed else original, 500, seed=len(original)):
        path.write_bytes(mutant)
        try:
            array = read(path)
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            again = idx(array.astype(np.uint8).reshape(array.shape[:1] + array.shape[2:]))
            assert again == (original if packed else mutant)  # gzip's own checksum covers the contents
    assert refused > 250


def test_mutated_published_files_never_pass_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = small_files(3, 2)
    publish(monkeypatch, files)
    put(tmp_path, files)
    for index, name in enumerate(data.FILES):
        for mutant in mutations(files[name], 100, seed=index):
            (tmp_path / name).write_bytes(mutant)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    found = data.mnist(tmp_path)
                except DataError:
                    continue
            assert (found.source == str(tmp_path)) == (not caught) == (mutant == files[name])
        put(tmp_path, files)


# --- the cache and the network ------------------------------------------------------------------------


CUT_OFF = 203  # a status with which a Mirror stops half-way
DRIP = 299  # and one with which it sends a hundred bytes a second


class Mirror:
    """A web server on this machine; `answer` maps a path to what is sent for it."""

    def __init__(self, answer: Callable[[str], tuple[int, bytes]]) -> None:
        self.asked: list[str] = []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                status, contents = answer(self.path)
                with contextlib.suppress(ConnectionError):  # the client may have given up
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(contents)))
                    self.end_headers()
                    size = len(contents) // 2 if status == CUT_OFF else len(contents)
                    step = 1 if status == DRIP else size
                    for start in range(0, size, step or 1):
                        self.wfile.write(contents[start : start + step])
                        time.sleep(0.01 * (status == DRIP))

            def log_message(self, *arguments: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=functools.partial(self.server.serve_forever, 0.01), daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mirror]]:
    """serve(answer) starts a Mirror; names are looked up again."""
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, *rest, **options: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port)))],
    )
    mirrors = []

    def start(answer: Callable[[str], tuple[int, bytes]]) -> Mirror:
        mirrors.append(Mirror(answer))
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.server.shutdown()
        mirror.server.server_close()


def honest(files: Files) -> Callable[[str], tuple[int, bytes]]:
    return lambda path: (200, gzip.compress(files[path[1:].removesuffix(".gz")], mtime=0))


def in_cache(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_downloads_once_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]
) -> None:
    files = small_files()
    mirror = serve(honest(files))
    publish(monkeypatch, files, (mirror.url,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = data.load("auto")
    assert first.name == "mnist" and first.train_images.tobytes() == files[data.FILES[0]][16:]
    assert in_cache(tmp_path) == sorted(f"{name}.gz" for name in data.FILES)
    assert data.mnist().test_labels.tolist() == first.test_labels.tolist()
    assert len(mirror.asked) == 4


@pytest.mark.parametrize(
    "answer",
    [
        lambda path: (200, b"<html>Please log in</html>"),
        lambda path: (404, b"not here"),
        lambda path: (500, b""),
        lambda path: (CUT_OFF, honest(small_files())(path)[1]),
        lambda path: (200, honest(small_files())(path)[1][:-1] + b"x"),
    ],
    ids=["a web page", "404", "500", "cut off", "one byte wrong"],
)
def test_a_bad_mirror_gives_way_to_the_next(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[..., Mirror],
    answer: Callable[[str], tuple[int, bytes]],
) -> None:
    files = small_files()
    bad, good = serve(answer), serve(honest(files))
    publish(monkeypatch, files, (bad.url,))
    with pytest.raises(DataNotFoundError, match=f"{bad.url} failed") as raised:
        data.mnist()
    assert "name that folder as MINIGRAD_DATA, or as the one to load from" in str(raised.value)
    assert in_cache(tmp_path) == []
    publish(monkeypatch, files, (bad.url, good.url))
    assert len(data.mnist().train_images) == 12
    assert len(in_cache(tmp_path)) == 4


def test_a_damaged_cached_file_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]
) -> None:
    files = small_files()
    mirror = serve(honest(files))
    publish(monkeypatch, files, (mirror.url,))
    data.mnist()
    cached = tmp_path / "cache" / "minigrad" / "mnist" / f"{data.FILES[1]}.gz"
    cached.write_bytes(cached.read_bytes()[:-1])
    assert len(data.mnist().train_labels) == 12
    assert mirror.asked[4:] == [f"/{data.FILES[1]}.gz"]
    cached.write_bytes(b"")
    publish(monkeypatch, files, (serve(lambda path: (404, b"")).url,))
    for name in ("mnist", "auto"):  # which does not fall back on the digits
        with pytest.raises(DataError, match=f"(?s){cached}: damaged .*404.*Replace the file") as raised:
            data.load(name)
        assert not isinstance(raised.value, DataNotFoundError)


def test_a_file_that_was_replaced_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]
) -> None:
    files = small_files()
    folder = put(tmp_path / "cache" / "minigrad" / "mnist", files)
    (folder / data.FILES[0]).write_bytes(b"damaged")
    (folder / data.FILES[1]).unlink()
    one = data.FILES[0]
    publish(monkeypatch, files, (serve(lambda path: honest(files)(path) if one in path else (404, b"")).url,))
    with pytest.raises(DataNotFoundError, match=f"404.*{data.FILES[1]}"):
        data.mnist()


def test_a_folder_in_the_place_of_a_cached_file_is_named(tmp_path: Path) -> None:
    place = tmp_path / "cache" / "minigrad" / "mnist" / f"{data.FILES[2]}.gz"
    place.mkdir(parents=True)
    with pytest.raises(DataError, match=f"{place}: a folder where a file belongs. Remove it"):
        data.mnist()


@pytest.mark.parametrize("packed", [False, True])
def test_the_cache_may_hold_what_is_published_packed_in_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    files = small_files()
    publish(monkeypatch, files)
    folder = put(tmp_path / "cache" / "minigrad" / "mnist", files)
    if packed:
        for name in data.FILES:
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes(), 1, mtime=77))
            (folder / name).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data.load("auto").train_images) == 12
    put(folder, small_files(3, 2), packed)  # well-formed, and not the published ones
    with pytest.raises(DataError, match="damaged"):
        data.mnist()


def test_no_network_is_an_error_that_names_both_mirrors(tmp_path: Path) -> None:
    for load, name in ((data.mnist, "mnist"), (data.fashion_mnist, "fashion")):
        with pytest.raises(DataNotFoundError, match="MINIGRAD_DATA is not set") as raised:
            load()
        for mirror in data.PUBLISHED[name].mirrors:
            assert f"{mirror} failed" in str(raised.value)
        assert "Name or service not known" in str(raised.value)
    assert in_cache(tmp_path) == []


def test_a_name_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang(*arguments: Any, **options: Any) -> Any:
        over.wait(20)
        raise socket.gaierror(-2, "over")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(published, "CONNECT_SECONDS", 0.05)
    before = set(threading.enumerate())
    with pytest.raises(DataNotFoundError, match=r"(?s)no answer within 0.05 s.*no answer within 0.05 s"):
        data.mnist()
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)  # no program waits for them at its end
    over.set()
    assert in_cache(tmp_path) == []


def test_a_server_that_falls_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]
) -> None:
    over = threading.Event()

    def silent(path: str) -> tuple[int, bytes]:
        over.wait(20)
        return 200, b""

    monkeypatch.setattr(published, "READ_SECONDS", 0.05)
    publish(monkeypatch, small_files(), (serve(silent).url,))
    with pytest.raises(DataNotFoundError, match="timed out"):
        data.mnist()
    over.set()
    assert in_cache(tmp_path) == []


def test_a_server_that_drips_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]
) -> None:
    files = small_files()
    dripping, good = serve(lambda path: (DRIP, bytes(500))), serve(honest(files))
    monkeypatch.setattr(published, "SLOW_SECONDS", 0.2)
    publish(monkeypatch, files, (dripping.url, good.url))
    assert len(data.mnist().train_images) == 12
    assert dripping.asked == [f"/{data.FILES[0]}.gz"] and len(good.asked) == 4
    assert in_cache(tmp_path) == sorted(f"{name}.gz" for name in data.FILES)


def test_what_a_killed_download_left_is_cleared_a_day_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]
) -> None:
    files = small_files()
    publish(monkeypatch, files, (serve(honest(files)).url,))
    folder = tmp_path / "cache" / "minigrad" / "mnist"
    for name in ("part-old", "part-new"):
        (folder / name).mkdir(parents=True)
        (folder / name / "half").write_bytes(b"half")
    os.utime(folder / "part-old", (0, 0))
    data.mnist()
    assert in_cache(tmp_path) == sorted([f"{name}.gz" for name in data.FILES] + ["half"])
    assert (folder / "part-new").exists() and not (folder / "part-old").exists()


def test_a_proxy_is_the_host_to_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    with pytest.raises(DataNotFoundError, match=r"proxy\.invalid cannot be reached"):
        data.mnist()


def test_a_cache_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(DataNotFoundError, match=r"cache folder .* cannot be used"):
        data.mnist()


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    real = importlib.import_module

    def import_module(name: str) -> Any:
        if name.split(".")[0] in packages:
            raise ImportError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_missing_packages_are_named_with_the_line_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pooch", "sklearn")
    with pytest.raises(DataNotFoundError, match=r"pooch.*is missing: pip install pooch"):
        data.mnist()
    with pytest.raises(DataNotFoundError, match=r"scikit-learn.*pip install scikit-learn"):
        data.digits()
    with pytest.raises(DataNotFoundError, match=r"(?s)pooch.*substitute is missing too.*scikit-learn"):
        data.load("auto")


# --- digits, auto, split ------------------------------------------------------------------------------


def test_auto_says_why_it_falls_back_on_the_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert data.load("auto").name == "digits"
    said = capsys.readouterr().err
    assert "MNIST was not found" in said and "digits instead" in said


@quiet
def test_auto_does_not_hide_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = small_files()
    files[data.FILES[2]] = files[data.FILES[2]][:-5]
    monkeypatch.setenv("MINIGRAD_DATA", str(put(tmp_path / "d", files)))
    with pytest.raises(DataError, match=data.FILES[2]):
        data.load("auto")


def test_digits_look_like_mnist() -> None:
    first, again = data.digits(), data.load("digits")
    assert first.train_images.shape == (1437, 1, 28, 28) and first.test_images.shape == (360, 1, 28, 28)
    assert first.train_images.dtype == np.uint8 and first.train_images.max() == 255
    assert not first.train_images[:, :, :4].any() and not first.train_images[..., -4:].any()
    assert first.train_images[:, :, 4:-4, 4:-4].mean() / 255 == pytest.approx(4.884165 / 16, abs=0.01)
    counts = np.bincount(first.train_labels) + np.bincount(first.test_labels)
    assert counts.sum() == 1797
    assert np.abs(np.bincount(first.test_labels) - counts * 360 / 1797).max() <= 1
    assert np.array_equal(first.test_images, again.test_images)


def test_digits_are_scaled_bilinearly_between_the_centres_of_their_pixels() -> None:
    """As scipy zooms them: pixels are areas, and the outermost reach to the edge."""
    ndimage = pytest.importorskip("scipy.ndimage")
    small = importlib.import_module("sklearn.datasets").load_digits().images
    zoomed = ndimage.zoom(small, (1, 2.5, 2.5), order=1, mode="nearest", grid_mode=True) * (255 / 16)
    whole = data.digits()
    found = np.concatenate([whole.train_images, whole.test_images])[:, 0, 4:-4, 4:-4]
    assert np.abs(np.sort(zoomed.sum((1, 2))) - np.sort(found.sum((1, 2)))).max() < 100  # of 400 pixels, each rounded
    place = {label: np.flatnonzero((np.abs(zoomed - found[label]) <= 0.51).all((1, 2))) for label in (0, 700, 1796)}
    assert all(len(where) == 1 for where in place.values())
    assert len({int(where[0]) for where in place.values()}) == 3


def sample(n: int = 40, seed: int = 0) -> Dataset:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (n + 8, 1, 28, 28), dtype=np.uint8)
    labels = np.arange(n + 8) % 4
    return Dataset("own", images[:n], labels[:n], images[n:], labels[n:], tuple("abcd"), "a generator")


def test_split_holds_out_training_images_in_proportion() -> None:
    whole = sample()
    part = data.split(whole, 12)
    assert len(part.train_images) == 28 and len(part.test_images) == 12
    assert np.bincount(part.test_labels).tolist() == [3, 3, 3, 3]
    both = {image.tobytes() for image in (*part.train_images, *part.test_images)}
    assert both == {image.tobytes() for image in whole.train_images}
    for images, labels in ((part.train_images, part.train_labels), (part.test_images, part.test_labels)):
        for image, label in zip(images, labels, strict=True):
            assert label == whole.train_labels[(whole.train_images == image).all((1, 2, 3))].item()
    assert np.array_equal(part.test_images, data.split(whole, 12).test_images)
    assert not np.array_equal(part.test_images, data.split(whole, 12, seed=1).test_images)


@pytest.mark.parametrize("held_out", [-1, 0, 40, 5000])
def test_split_refuses_to_hold_out_nothing_or_everything(held_out: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 39 of 40 images, not {held_out}"):
        data.split(sample(), held_out)


@pytest.mark.parametrize("wrong", [2.5, None, True, "3"])
def test_split_refuses_what_is_no_whole_number(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"split: held_out must be a whole number, not {wrong!r}"):
        data.split(sample(), wrong)
    with pytest.raises(TypeError, match=f"split: seed must be a whole number, not {wrong!r}"):
        data.split(sample(), 3, wrong)
    with pytest.raises(ValueError, match="split: seed must be at least 0, not -1"):
        data.split(sample(), 3, -1)


def test_a_dataset_refuses_arrays_that_do_not_fit() -> None:
    good = sample()
    for change, message in (
        ({"train_images": good.train_images / 255}, "train_images must be uint8"),
        ({"test_images": good.test_images[:0]}, "test_images must be uint8"),
        ({"train_labels": good.train_labels[:-1]}, "train_labels must be one integer an image"),
        ({"train_labels": good.train_labels[:, None]}, "train_labels must be one integer an image"),
        ({"test_labels": good.test_labels * 1.0}, "test_labels must be one integer an image"),
        ({"test_labels": good.test_labels - 1}, "run from -1 to 2"),
        ({"class_names": ("a", "b")}, "0 to 1"),
        ({"test_images": None}, "test_images must be uint8"),
        ({"test_labels": ["a"] * len(good.test_labels)}, "test_labels must be one integer an image"),
    ):
        with pytest.raises(DataError, match=message):
            dataclasses.replace(good, **change)
    with pytest.raises(ValueError, match="read-only"):
        good.train_images[0] = 0


# --- augmentation -------------------------------------------------------------------------------------


def blob(n: int = 6, channels: int = 1) -> np.ndarray:
    """Smooth spots that stay well inside 28x28."""
    generator = np.random.default_rng(1)
    y, x = np.indices((28, 28))
    cy, cx = generator.uniform(10, 17, (2, n, channels, 1, 1))
    spots: np.ndarray = np.rint(250 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2 / 3) / 6)).astype(np.uint8)
    return spots


IDENTITY = np.tile(np.eye(2), (6, 1, 1))


@pytest.mark.parametrize("augment", [Augment(), Augment(0, 0, 0, 0), Augment(shift=0)])
def test_no_distortion_is_the_identity(augment: Augment) -> None:
    images = blob()
    assert np.array_equal(augment(images, np.random.default_rng(0)), images)


def test_the_identity_map_is_exact() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 2, 28, 28), dtype=np.uint8)
    assert np.array_equal(data.affine(noise, IDENTITY, np.zeros((6, 2))), noise)
    assert np.array_equal(data.shifted(noise, np.zeros((6, 2), int)), noise)


@pytest.mark.parametrize("offset", [(0, 0), (1, 0), (0, -2), (-3, 5), (27, -27)])
def test_shifts_move_whole_pixels_and_fill_with_zeros(offset: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(1, 256, (6, 2, 28, 28), dtype=np.uint8)
    down, right = offset
    expected = np.zeros_like(noise)
    expected[..., max(down, 0) : 28 + min(down, 0), max(right, 0) : 28 + min(right, 0)] = noise[
        ..., max(-down, 0) : 28 - max(down, 0), max(-right, 0) : 28 - max(right, 0)
    ]
    offsets = np.tile(offset, (6, 1))
    assert np.array_equal(data.shifted(noise, offsets), expected)
    assert np.array_equal(data.affine(noise, IDENTITY, offsets), expected)


def test_each_image_has_its_own_shift() -> None:
    images, offsets = blob(), np.array([[0, 1], [2, 0], [-1, -1], [0, 0], [3, -3], [-2, 2]])
    for image, offset, moved in zip(images, offsets, data.shifted(images, offsets), strict=True):
        assert np.array_equal(moved, np.roll(image, offset, (1, 2)))


def test_quarter_turns_are_exact() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 1, 28, 28), dtype=np.uint8)
    turn = np.tile([[0.0, -1.0], [1.0, 0.0]], (6, 1, 1))  # (y, x) goes to (-x, y): right goes to up
    assert np.array_equal(data.affine(noise, turn, np.zeros((6, 2))), np.rot90(noise, 1, (2, 3)))


def test_affine_maps_agree_with_the_definition() -> None:
    generator = np.random.default_rng(5)
    images = generator.integers(0, 256, (3, 2, 9, 7), dtype=np.uint8)
    matrices = np.eye(2) + generator.uniform(-0.4, 0.4, (3, 2, 2))
    offsets = generator.uniform(-2, 2, (3, 2))
    centre = np.array([4.0, 3.0])

    def pixel(image: np.ndarray, y: int, x: int) -> float:
        return float(image[y, x]) if 0 <= y < 9 and 0 <= x < 7 else 0.0

    result = data.affine(images, matrices, offsets)
    for i, c, y, x in np.ndindex(*images.shape):
        sy, sx = np.linalg.solve(matrices[i], np.array([y, x]) - centre - offsets[i]) + centre
        y0, x0 = int(np.floor(sy)), int(np.floor(sx))
        expected = sum(
            pixel(images[i, c], y0 + dy, x0 + dx) * (1 - abs(sy - y0 - dy)) * (1 - abs(sx - x0 - dx))
            for dy in (0, 1)
            for dx in (0, 1)
        )
        assert abs(float(result[i, c, y, x]) - expected) <= 0.501


def test_distortions_keep_the_ink_roughly() -> None:
    images = blob(200)
    ink = images.sum((1, 2, 3), dtype=float)
    for augment in (Augment(shift=2), Augment(rotate=15), Augment(shear=0.2), Augment(3, 10, 0, 0.1)):
        after = augment(images, np.random.default_rng(0))
        assert after.shape == images.shape and after.dtype == np.uint8
        assert not np.array_equal(after, images)
        assert np.abs(after.sum((1, 2, 3)) / ink - 1).max() < 0.03
    after = Augment(scale=0.2)(images, np.random.default_rng(0)).sum((1, 2, 3)) / ink
    assert 0.8**2 - 0.03 < after.min() < 0.7 and 1.38 < after.max() < 1.2**2 + 0.03


def test_distortions_come_from_the_given_generator_alone() -> None:
    augment, images = Augment(2, 10, 0.1, 0.1), blob(50, channels=3)
    np.random.seed(0)
    first = augment(images, np.random.default_rng(7))
    np.random.seed(1)
    assert np.array_equal(first, augment(images, np.random.default_rng(7)))
    assert not np.array_equal(first, augment(images, np.random.default_rng(8)))
    assert len({image.tobytes() for image in augment(np.repeat(images[:1], 50, 0), np.random.default_rng(7))}) == 50


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"shift": -1}, ValueError, "shift must be at least 0, not -1"),
        ({"shift": 1.5}, TypeError, "shift must be a whole number, not 1.5"),
        ({"shift": True}, TypeError, "shift must be a whole number, not True"),
        ({"rotate": -1}, ValueError, "rotate must be between 0 and 180, not -1"),
        ({"rotate": float("nan")}, ValueError, "rotate must be"),
        ({"rotate": "5"}, TypeError, "rotate must be a number, not '5'"),
        ({"scale": 1}, ValueError, "scale must be"),
        ({"shear": float("inf")}, ValueError, "shear must be"),
    ],
)
def test_augment_refuses_settings_out_of_range(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Augment(**settings)


def test_augment_takes_the_numbers_of_an_array_library() -> None:
    assert repr(Augment(np.int64(2), np.float32(5))) == repr(Augment(2, 5)) == repr(Augment(2, 5.0))


@pytest.mark.parametrize("images", [blob() / 255, blob().astype(np.int16), blob()[0], blob().tolist()[0]])
def test_only_bytes_are_distorted(images: Any) -> None:
    """Others would come back cast to bytes: a picture from 0 to 1 as nothing but 0 and 1."""
    n = len(images)
    for distort in (
        lambda: data.shifted(images, np.zeros((n, 2), int)),
        lambda: data.affine(images, IDENTITY[:n], np.zeros((n, 2))),
        lambda: Augment()(images, np.random.default_rng(0)),
        lambda: Augment(shift=2)(images, np.random.default_rng(0)),
        lambda: Augment(rotate=5)(images, np.random.default_rng(0)),
    ):
        with pytest.raises(ValueError, match=r"images must be uint8 \(n, channels, height, width\)"):
            distort()


def test_each_image_needs_its_own_map() -> None:
    for offsets in (np.zeros((3, 2), int), np.zeros((6, 3), int), np.zeros((6, 2))):
        with pytest.raises(ValueError, match=r"shifted: offsets must be integers \(6, 2\)"):
            data.shifted(blob(), offsets)
    for matrices, offsets in ((IDENTITY[:1], np.zeros((6, 2))), (IDENTITY, np.zeros((1, 2)))):
        with pytest.raises(ValueError, match=r"affine: \w+ must be numbers \(6, 2"):
            data.affine(blob(), matrices, offsets)
    narrow = np.array([[-128, 127]] * 6, np.int8)
    wide = np.random.default_rng(0).integers(0, 256, (6, 1, 150, 140), dtype=np.uint8)
    assert np.array_equal(data.shifted(wide, narrow), data.shifted(wide, narrow.astype(int)))


def test_impossible_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="out of sight"):
        data.shifted(blob(), np.full((6, 2), 28))
    with pytest.raises(ValueError, match="out of sight"):
        Augment(shift=28, rotate=1)(blob(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="finite"):
        data.affine(blob(), IDENTITY * float("nan"), np.zeros((6, 2)))
    with pytest.raises(ValueError, match=r"[Ss]ingular"):
        data.affine(blob(), IDENTITY * 0, np.zeros((6, 2)))
    with pytest.raises(ValueError, match="matrices must be invertible in single precision"):
        data.affine(blob(), IDENTITY * 1e-310, np.zeros((6, 2)))
    for far in (np.iinfo(np.int64).min, 2**64 - 1):
        with pytest.raises(ValueError, match=f"an offset of {abs(far)} pixels"):
            data.shifted(blob(), np.full((6, 2), far))


@pytest.mark.parametrize("far", [1e9, -1e40, 1e300])
def test_an_image_that_is_moved_far_away_leaves_nothing(far: float) -> None:
    assert not data.affine(blob(), IDENTITY, np.full((6, 2), far)).any()


# --- batches ------------------------------------------------------------------------------------------

N = 23
PIXELS = np.random.default_rng(2).integers(0, 256, (N, 1, 28, 28), dtype=np.uint8)
CLASSES = np.arange(N, dtype=np.uint8)  # each image's label is its index


def batches(batch_size: int = 5, **options: Any) -> Batches:
    return Batches(PIXELS, CLASSES, batch_size, **options)


def labels_of(batches: Iterable[tuple[bytes, list[int]]]) -> list[int]:
    return [label for _, labels in batches for label in labels]


def run(source: Batches) -> list[tuple[bytes, list[int]]]:
    return [(x.numpy().tobytes(), y.numpy().tolist()) for x, y in source]


AUGMENTS = [None, Augment(shift=2), Augment(2, 10, 0.1, 0.1)]


def test_batches_are_float32_images_and_int64_labels() -> None:
    for x, y in batches():
        assert isinstance(x, Tensor) and isinstance(y, Tensor) and not x.requires_grad
        assert x.dtype == np.float32 and x.shape[1:] == (1, 28, 28)
        assert y.dtype == np.int64 and y.shape == x.shape[:1]
        assert np.array_equal(x.numpy(), (PIXELS[y.numpy()] / 255).astype(np.float32))


def test_batches_are_normalised() -> None:
    mean, std = data.normalisation(PIXELS)
    assert mean == pytest.approx(float((PIXELS / 255).mean()), rel=1e-12)
    assert std == pytest.approx(float((PIXELS / 255).std()), rel=1e-12)
    x, y = next(iter(batches(N, normalise=(mean, std))))
    assert np.array_equal(x.numpy(), ((PIXELS[y.numpy()] / 255 - mean) / std).astype(np.float32))
    assert abs(float(x.numpy().mean(dtype=float))) < 1e-6


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [5, 5, 5, 5, 3]), (True, [5, 5, 5, 5])])
def test_an_epoch_has_every_image_once(drop_last: bool, sizes: list[int]) -> None:
    source = batches(drop_last=drop_last)
    assert len(source) == len(sizes)
    epoch = run(source)
    assert [len(labels) for _, labels in epoch] == sizes
    assert len(set(labels_of(epoch))) == sum(sizes)
    assert labels_of(run(batches(shuffle=False))) == list(range(N))


@pytest.mark.parametrize("augment", AUGMENTS)
def test_batches_depend_on_the_seed_alone(augment: Augment | None) -> None:
    first, again = batches(augment=augment, seed=4), batches(augment=augment, seed=4)
    one, two = run(first), run(first)
    np.random.seed(1)
    assert (one, two) == (run(again), run(again))
    assert one != two and (first.epoch, first.batch) == (2, 0)
    assert one != run(batches(augment=augment, seed=5))
    assert labels_of(one) == first.order(0).tolist()


def test_each_batch_of_each_epoch_is_distorted_anew() -> None:
    draws = []

    def draw(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        draws.append(generator.permutation(N).tolist())
        return images

    source = batches(augment=draw)
    run(source), run(source)
    draws += [source.order(0).tolist(), source.order(1).tolist()]
    assert len(set(map(tuple, draws))) == 12


def test_augmentation_leaves_order_and_labels_alone() -> None:
    plain, distorted = run(batches()), run(batches(augment=AUGMENTS[2]))
    assert [labels for _, labels in plain] == [labels for _, labels in distorted]
    assert all(a != b for (a, _), (b, _) in zip(plain, distorted, strict=True))


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("done", range(11))
def test_a_resumed_run_sees_the_same_batches(done: int, augment: Augment | None) -> None:
    whole = batches(augment=augment, normalise=(0.1, 0.3))
    expected = run(whole) + run(whole) + run(whole) + run(whole)
    stopped = batches(augment=augment, normalise=(0.1, 0.3))
    state = stopped.state()
    for number, _ in enumerate(batch for _ in range(3) for batch in stopped):
        if number == done:
            break
        state = stopped.state()  # as a checkpoint inside the loop would take it
    resumed = batches(augment=augment, normalise=(0.1, 0.3))
    resumed.load_state(json.loads(json.dumps(state)))
    assert (resumed.epoch, resumed.batch) == divmod(done, 5)
    assert run(resumed) + run(resumed) == expected[done : done + 10 - done % 5]


def unchanged(images: Any, generator: Any, strength: float = 1.0) -> Any:
    return images


class Unchanged:
    """An object that can be called, without a repr of its own."""

    def __call__(self, images: Any, generator: Any) -> Any:
        return images


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: unchanged, functools.partial(unchanged)),
        (Unchanged, unchanged),
        (lambda: Unchanged().__call__, unchanged),
        (lambda: functools.partial(unchanged, strength=2.0), functools.partial(unchanged, strength=3.0)),
        (lambda: functools.partial(unchanged, strength=unchanged), functools.partial(unchanged, strength=run)),
        (lambda: Augment(shift=2), Augment(shift=1)),
    ],
)
def test_batches_know_their_augmentation_in_another_process(make: Callable[[], Any], other: Any) -> None:
    """By its name, settings or class: an address in memory would be another one there."""
    state = json.loads(json.dumps(batches(augment=make()).state()))
    assert " at 0x" not in state["augment"]
    batches(augment=make()).load_state(state)
    with pytest.raises(ValueError, match="augment"):
        batches(augment=other).load_state(state)


def test_a_loop_that_was_left_early_gives_way_to_the_next_epoch() -> None:
    whole, source = batches(), batches()
    one, two = run(whole), run(whole)
    x, _ = next(iter(source))
    assert x.numpy().tobytes() == one[0][0] and (source.epoch, source.batch) == (0, 1)
    assert run(source) == two and source.epoch == 2
    for _ in source:
        break
    source.load_state(source.state())
    assert len(run(source)) == 4


def test_two_loops_at_once_are_refused() -> None:
    source = batches()
    with pytest.raises(RuntimeError, match="make two Batches"):
        for _ in source:
            for _ in source:
                pass


@pytest.mark.parametrize("augment", AUGMENTS)
def test_no_thread_outlives_its_loop(augment: Augment | None) -> None:
    source = batches(augment=augment)
    run(source)
    for _ in source:
        break
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("minigrad-batches")]


def test_an_error_in_augment_reaches_the_loop() -> None:
    def broken(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        raise ArithmeticError("from the thread")

    with pytest.raises(ArithmeticError, match="from the thread"):
        run(batches(augment=broken))
    for wrong in (lambda images, _: images / 255, lambda images, _: images[1:]):
        with pytest.raises(ValueError, match="augment made"):
            run(batches(augment=wrong))
    with pytest.raises(TypeError, match="augment returned a NoneType"):
        run(batches(augment=lambda images, _: None))


@pytest.mark.parametrize(
    "other",
    [{"batch_size": 4}, {"seed": 1}, {"shuffle": False}, {"drop_last": True}, {"augment": Augment(1)}],
)
def test_the_state_of_other_settings_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(other))):
        batches(**other).load_state(batches().state())


def test_a_state_that_is_none_is_refused() -> None:
    state = batches().state()
    with pytest.raises(ValueError, match="not a state of Batches"):
        batches().load_state({"epoch": 1})
    with pytest.raises(TypeError, match=r"needs what state\(\) returned, not a NoneType"):
        batches().load_state(None)  # type: ignore[arg-type]
    for change in ({"epoch": -1}, {"batch": 5}, {"batch": 1.0}, {"epoch": None}):
        with pytest.raises(ValueError, match="there is no batch"):
            batches().load_state(state | change)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((PIXELS / 255, CLASSES, 5), ValueError, "images must be uint8"),
        ((PIXELS[:0], CLASSES[:0], 5), ValueError, "N > 0"),
        ((PIXELS, CLASSES[1:], 5), ValueError, "one integer an image"),
        ((PIXELS, CLASSES[:, None], 5), ValueError, "one integer an image"),
        ((PIXELS, CLASSES * 1.0, 5), ValueError, "not float64"),
        ((PIXELS, CLASSES, 0), ValueError, "batch_size must be at least 1"),
        ((PIXELS, CLASSES + np.uint64(1 << 63), 5), ValueError, "label 9223372036854775830 is beyond int64"),
        ((PIXELS, CLASSES, 2.5), TypeError, "batch_size must be a whole number, not 2.5"),
        ((PIXELS, CLASSES, True), TypeError, "batch_size must be a whole number, not True"),
        ((PIXELS, CLASSES, 5, True, -1), ValueError, "seed must be at least 0"),
        ((PIXELS, CLASSES, 5, True, None), TypeError, "seed must be a whole number, not None"),
        ((PIXELS, CLASSES, 24, True, 0, True), ValueError, "23 images make no batch of 24"),
        ((PIXELS, CLASSES, 5, True, 0, False, 3), TypeError, "augment must be an Augment or a function"),
        ((PIXELS, CLASSES, 5, True, 0, False, None, (0.1, 0)), ValueError, "std must be finite and above zero, not 0"),
        ((PIXELS, CLASSES, 5, True, 0, False, None, (float("nan"), 1)), ValueError, "mean must be finite, not nan"),
        ((PIXELS, CLASSES, 5, True, 0, False, None, 0.5), TypeError, r"two numbers, \(mean, std\), not 0.5"),
        ((PIXELS, CLASSES, 5, True, 0, False, None, (0.5,)), TypeError, r"two numbers, \(mean, std\), not \(0.5,\)"),
        ((PIXELS[:, 0], CLASSES, 5, True, 0, False, Augment(1)), ValueError, "augment needs images"),
        ((PIXELS, CLASSES, 5, True, 0, False, Augment), TypeError, "augment must be an Augment or a function"),
    ],
)
def test_batches_refuse_what_makes_no_batches(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Batches(*arguments)


def test_there_is_no_epoch_before_the_first() -> None:
    made = batches()
    made.epoch = -1
    with pytest.raises(ValueError, match="Batches: epoch must be at least 0, not -1"):
        next(iter(made))
    with pytest.raises(TypeError, match=r"Batches: epoch must be a whole number, not 1\.5"):
        made.order(1.5)  # type: ignore[arg-type]


def test_normalisation_refuses_constant_images() -> None:
    with pytest.raises(ValueError, match="all pixels are 7"):
        data.normalisation(np.full((3, 1, 28, 28), 7, np.uint8))


# --- the real thing -----------------------------------------------------------------------------------


def real_folder() -> Path | None:
    places = [Path(os.environ["MINIGRAD_DATA"])] if os.environ.get("MINIGRAD_DATA") else []
    places.append(pooch.os_cache("minigrad") / "mnist")
    return next((place for place in places if place.is_dir() and loading._find(place, "mnist")), None)


REAL = real_folder()


@pytest.mark.skipif(REAL is None, reason="MNIST is neither in MINIGRAD_DATA nor in the cache folder")
def test_real_mnist_is_what_it_should_be() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = data.mnist(REAL)
    assert found.train_images.shape == (60000, 1, 28, 28) and found.test_images.shape == (10000, 1, 28, 28)
    assert found.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(found.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.normalisation(found.train_images) == pytest.approx((0.1307, 0.3081), abs=1e-4)
    with pytest.raises(DataError, match="of MNIST, found where"):
        data.fashion_mnist(REAL)
