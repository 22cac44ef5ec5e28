"""Kernels of our own for the device, each in the place of a function or a row that also exists without it.

Each stands in `backend.kernels` under the name of what it stands for. Nothing depends on this package: without
it, with MINIGRAD_DEVICE_KERNELS=0, for other dtypes than float32 and float64, or where a kernel cannot be used
(which a warning says), everything runs as composed ops. There are two reasons to have them. A small network is bound by
launches, and these save most. And CuPy refuses cuBLAS calls while a graph is captured (`mg.capture`).
"""

import contextlib

from minigrad.device import contractions, convolution, images, loss, masks, optimizers, pooling, products, running, sums

with contextlib.suppress(ImportError):  # the fused rows have `minigrad.fused`'s plans and references
    from minigrad.device import blocks

__all__ = [
    "blocks", "contractions", "convolution", "images", "loss", "masks", "optimizers", "pooling", "products",
    "running", "sums",
]  # fmt: skip
