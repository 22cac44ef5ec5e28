"""Max pooling on the device: one launch for the maxima, one for the chosen cells, one for their cotangents."""

from __future__ import annotations

from typing import Any

from minigrad.backend import Array, xp
from minigrad.device.launch import dense, launch, module, offer, per_thread, small, usable
from minigrad.pooling import Pair, Windows


def _numbers(at: Windows) -> tuple[Any, str]:
    """The type that holds a cell's number, and its name in C: of 256 values one says that there is no cell."""
    return (xp.uint8, "unsigned char") if at.kernel[0] * at.kernel[1] < 256 else (xp.int64, "long long")


def _module(size: Pair, at: Windows, dtype: Any) -> Any:
    (h, w), (kh, kw), (oh, ow) = size, at.kernel, at.out
    return module(
        "pooling", dtype=dtype, H=h, W=w, OH=oh, OW=ow, KH=kh, KW=kw, SH=at.stride[0], SW=at.stride[1],
        PH=at.padding[0], PW=at.padding[1], DH=at.dilation[0], DW=at.dilation[1],
        NUMBER=_numbers(at)[1],
    )  # fmt: skip


@offer("maximum")
def maximum(x: Array, at: Windows) -> Array | None:
    """`pooling.maximum`."""
    y = xp.empty((*x.shape[:2], *at.out), x.dtype)
    if not usable(x) or not small(y):
        return None
    launch(_module(x.shape[2:], at, x.dtype), "max_pool", per_thread(y.size), dense(x), y, None, y.size, -xp.inf)
    return y


@offer("which")
def which(x: Array, y: Array, at: Windows) -> Array | None:
    """`pooling.which`."""
    chosen = xp.empty(y.shape, _numbers(at)[0])
    if not usable(x) or not small(y):
        return None
    launch(_module(x.shape[2:], at, x.dtype), "max_pool", per_thread(y.size), dense(x), None, chosen, y.size, -xp.inf)
    return chosen


@offer("place")
def place(g: Array, chosen: Array, at: Windows, size: Pair) -> Array | None:
    """`pooling.place`."""
    x = xp.empty((*g.shape[:2], *size), g.dtype)
    if not usable(g) or not small(x):
        return None
    chosen = dense(chosen.astype(_numbers(at)[0], copy=False))
    launch(_module(size, at, g.dtype), "max_pool_place", per_thread(x.size), dense(g), chosen, x, x.size)
    return x
