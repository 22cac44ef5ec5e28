"""Batches from a data set that lies on the device: chosen, distorted and normalised there, in one launch.

What crosses is an epoch's order, once, and six numbers for each image that is distorted, drawn by the host's
generator: the same images in the same order on every backend.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad.backend import Array, xp
from minigrad.device.launch import dense, launch, module, offer, per_thread, small
from minigrad.tensor import Tensor


@offer("batch")
def batch(images: Array, labels: Array, table: Array, order: Array, maps: Array | None) -> tuple[Tensor, Tensor] | None:
    """The images and labels at the indices `order` (n,): float32 (n, ...) and int64 (n,).

    images: bytes (N, channels, height, width), or (N, ...) where there are no maps.  table: 256 floats.
    maps: float32 (n, 6), for each image the inverse of its map and the offset (`data.Augment.maps`).
    """
    n, rest = len(order), images.shape[1:]
    channels, h, w = rest if len(rest) == 3 else (1, 1, math.prod(rest))
    x, y = xp.empty((n, *rest), xp.float32), xp.empty(n, xp.int64)
    if not small(x):
        return None
    of: Any = module("images", dtype=x.dtype, C=channels, H=h, W=w)
    launch(of, "batch", per_thread(x.size), images, labels, dense(order), table, maps, x, y, x.size)
    return Tensor(x), Tensor(y)
