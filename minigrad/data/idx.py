"""idx files, the format of MNIST: read whole and checked, or a `DataError` says what is wrong.

An idx file is a big-endian header of 32-bit words (magic number 0x0800 + number of dimensions, then each dimension),
then the bytes of the array in row-major order, and nothing else.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from minigrad.data.dataset import Bytes, DataError, Integers

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
