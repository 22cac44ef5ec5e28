"""Small distortions of images, drawn on the host: shifts by whole pixels, and affine maps sampled bilinearly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad.data.dataset import Bytes, Integers
from minigrad.given import number, whole

FAR = 1e30
"""Pixels from the image, where nothing shows; products of it are still finite in single precision."""


def _images(where: str, given: Any) -> Bytes:
    """`given`, if it is what can be distorted: bytes, so that the sampled values can be rounded to bytes again."""
    images: Bytes = np.asarray(given)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"{where}: images must be uint8 (n, channels, height, width), as they are before they are scaled, "
            f"not {images.dtype} {images.shape}"
        )
    return images


def _one_each(where: str, name: str, given: Any, shape: tuple[int, ...], kinds: str) -> NDArray[Any]:
    """`given` as an array of numbers of these kinds, of this shape: the first axis is the images'."""
    array = np.asarray(given)
    if array.shape != shape or array.dtype.kind not in kinds:
        what = "integers" if "f" not in kinds else "numbers"
        raise ValueError(f"{where}: {name} must be {what} {shape}, one for each image, not {array.dtype} {array.shape}")
    return array


def shifted(images: Bytes, offsets: NDArray[np.integer[Any]]) -> Bytes:
    """Each image moved by whole pixels, zeros moving in: uint8 (n, c, h, w) by integer offsets (n, 2).

    offsets: (down, right), each less than the side of the image. ValueError for anything else.
    """
    images = _images("shifted", images)
    offsets = _one_each("shifted", "offsets", offsets, (len(images), 2), "iu")
    h, w = images.shape[-2:]
    reach = max(abs(int(offsets.min(initial=0))), abs(int(offsets.max(initial=0))))
    if reach >= min(h, w):
        raise ValueError(f"shifted: an offset of {reach} pixels moves {h}x{w} images out of sight")
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), axis=(2, 3))
    down, right = offsets.astype(np.int64).T
    return windows[np.arange(len(images)), :, reach - down, reach - right]


def affine(images: Bytes, matrices: NDArray[np.floating[Any]], offsets: NDArray[Any]) -> Bytes:
    """Each image under its own affine map, sampled bilinearly, zeros outside: uint8 (n, c, h, w).

    matrices: (n, 2, 2) act on (y, x), measured from the image's centre: a point at p moves to
    matrix @ p + offset.  offsets: (n, 2) in pixels.
    Raises ValueError for other shapes and dtypes, and (LinAlgError, which is one) for a map that is not finite and
    invertible, in single precision.
    """
    images = _images("affine", images)
    n, c, h, w = images.shape
    matrices = _one_each("affine", "matrices", matrices, (n, 2, 2), "iuf")
    offsets = _one_each("affine", "offsets", offsets, (n, 2), "iuf")
    if not (np.isfinite(matrices).all() and np.isfinite(offsets).all()):
        raise ValueError("affine: matrices and offsets must be finite")
    tall, wide = h + 3, w + 3  # a border of zeros: one before, two after, for the far corners at the clip
    padded = np.zeros((n, c, tall, wide), np.float32)
    padded[:, :, 1 : h + 1, 1 : w + 1] = images
    values = padded.ravel()
    # What shows at q was at p = M^-1 (q - offset): one product for the coordinates of all pixels.
    centre = np.array([(h - 1) / 2, (w - 1) / 2])
    inverse = np.linalg.inv(matrices)
    if not (np.abs(inverse) < FAR).all():
        raise ValueError("affine: matrices must be invertible in single precision; one leaves nothing of an image")
    start = np.clip((centre + 1) - np.einsum("nij,nj->ni", inverse, offsets), -FAR, FAR)
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
    The defaults leave images as they are. Raises ValueError for a value out of range, TypeError for no number.
    """

    shift: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", whole("Augment: shift", self.shift, least=0))
        for name, limit in (("rotate", 180), ("scale", 0.9), ("shear", 2)):
            value = number(f"Augment: {name}", getattr(self, name))
            if not 0 <= value <= limit:
                raise ValueError(f"Augment: {name} must be between 0 and {limit}, not {value:g}")
            object.__setattr__(self, name, value)

    def __call__(self, images: Bytes, generator: np.random.Generator) -> Bytes:
        """Distorted copies of uint8 images (n, c, h, w), by numbers drawn from `generator` alone."""
        images = _images("Augment", images)
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
