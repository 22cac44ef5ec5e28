"""Sums and means on the device, near the speed of its memory.

The library's own reduction has one block for each result, which leaves most of the card idle where there are few: the
sixteen sums of a BatchNorm's channels. Here the elements of a result are split over blocks, and a second launch adds
up the parts, always in one order.
"""

from __future__ import annotations

import functools
import math
from itertools import groupby
from typing import Any, NamedTuple

from minigrad.backend import Array, by_value, xp
from minigrad.device.launch import FILL, THREADS, dense, launch, module, offer, usable

AT_ONCE = 8
"""Elements that a thread asks for together (`sums.cu`)."""

ROUNDS = 4
"""How often a thread does that, at least, before its work is split: a second launch costs about as much."""

SHORT = 16
"""The fewest neighbours that are read together without waste: 64 bytes of float32."""


class View(NamedTuple):
    """The lengths of an array's axes as the kernel sees them; it sums over outer and inner."""

    batch: int
    outer: int
    kept: int
    inner: int


@functools.lru_cache(maxsize=4096)
def seen(shape: tuple[int, ...], axis: Any, keepdims: bool) -> tuple[View, tuple[int, ...]] | None:
    """The four axes into which those of a dense array join, and the shape of its sum over `axis`.

    None where they are more than four, or `axis` is none of the array's.
    """
    ndim, given = len(shape), axis if isinstance(axis, tuple) else (axis,)
    if axis is not None and not all(-ndim <= a < ndim for a in given):
        return None
    axes = set(range(ndim)) if axis is None else {a % ndim for a in given}
    if axis is not None and len(axes) < len(given):
        return None
    longer = [(i in axes, n) for i, n in enumerate(shape) if n != 1]
    runs = [(summed, math.prod(n for _, n in run)) for summed, run in groupby(longer, lambda one: one[0])]
    batch = runs.pop(0)[1] if len(runs) > 2 and not runs[0][0] else 1
    outer = runs.pop(0)[1] if len(runs) > 1 and runs[0][0] else 1
    kept = runs.pop(0)[1] if runs and not runs[0][0] else 1
    inner = runs.pop(0)[1] if runs and runs[0][0] else 1
    left = tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)
    return None if runs else (View(batch, outer, kept, inner), left)


class Launch(NamedTuple):
    """The grid, (blocks of results, splits), and the kernel's struct."""

    grid: tuple[int, int]
    struct: Any


def up_to_power(n: int) -> int:
    """The next power of two."""
    return 1 << max(0, n - 1).bit_length()


@functools.lru_cache(maxsize=4096)
def planned(view: View, split: bool) -> Launch:
    """How the threads share the work; split: whether the elements of a result may go to several blocks."""
    batch, outer, kept, inner = view
    results, length, along = batch * kept, outer * inner, inner > 1
    useful = min(THREADS, up_to_power(-(-length // AT_ONCE)))  # partners, each with elements for one round
    partners = useful if along else min(useful, THREADS // min(up_to_power(results), 32))
    blocks = -(-results * partners // THREADS)
    splits = max(1, min(4 * FILL // blocks, length // (partners * AT_ONCE * ROUNDS))) if split else 1
    while splits == 1 and not along and partners < min(useful, 32) and blocks < FILL:  # 8 neighbours are enough
        partners, blocks = 2 * partners, -(-results * 2 * partners // THREADS)
    shift = (inner - 1).bit_length()
    factor = ((1 << shift) - inner) * (1 << 32) // inner + 1  # x / inner is (factor x / 2^32 + x) / 2^shift
    struct = by_value([kept, inner, length, results, partners, int(along), factor, shift])
    return Launch((blocks, splits), struct)


def summed(x: Array, view: View, divisor: float = 1.0, factor: Array | None = None) -> Array:
    """The sums (batch kept,) of a dense array, divided by a number; or of its products with another one."""
    of = module("sums", dtype=x.dtype)
    name, given = ("sums", (x,)) if factor is None else ("sums_of_products", (x, factor))
    y = xp.empty(view.batch * view.kept, x.dtype)
    first = view
    if 1 < view.inner < SHORT and view.outer > 1 and x.size > FILL * THREADS:
        first = View(view.batch, view.outer, view.kept * view.inner, 1)  # inner is added up with the parts
    grid, struct = planned(first, True)
    splits = grid[1]
    if splits == 1 and first is view:
        launch(of, name, grid, *given, y, struct, *[divisor] * (factor is None))
        return y
    parts = xp.empty(splits * first.batch * first.kept, xp.float64)
    launch(of, f"part_{name}", grid, *given, parts, struct)
    inner = view.inner if first is not view else 1
    grid, struct = planned(View(1, splits, y.size, inner), False)
    launch(of, "sums_of_parts", grid, parts, y, struct, divisor)
    return y


def in_rows(x: Array) -> Array | None:
    """The array, or a dense copy of it; None for a broadcast one, whose copy may be far larger than memory."""
    if x.flags.c_contiguous:
        return x
    return None if any(s == 0 and n > 1 for s, n in zip(x.strides, x.shape, strict=True)) else dense(x)


@offer("sums")
def sums(x: Array, axis: Any, keepdims: bool, mean: bool) -> Array | None:
    """The sum or the mean, as `total` and `mean` of `minigrad.sums`."""
    found = seen(x.shape, axis, keepdims) if usable(x) else None
    if found is None or (x := in_rows(x)) is None:
        return None
    view, shape = found
    return summed(x, view, float(view.outer * view.inner) if mean else 1.0).reshape(shape)


@offer("sums of products")
def sums_of_products(a: Array, b: Array, axes: tuple[int, ...]) -> Array | None:
    """The sums over axes, which stay as lengths of 1, of the products of two arrays of one shape; or None."""
    found = seen(a.shape, axes, True) if a.shape == b.shape and usable(a, b) else None
    if found is None or (a := in_rows(a)) is None or (b := in_rows(b)) is None:
        return None
    view, shape = found
    return summed(a, view, factor=b).reshape(shape)


def add_up(parts: Array) -> Array:
    """(splits, ...) to (...): the parts of a product whose inner axis was split, in one launch."""
    if not usable(parts) or not parts.flags.c_contiguous:
        return parts.sum(0)
    y = xp.empty(parts.shape[1:], parts.dtype)
    grid, struct = planned(View(1, len(parts), y.size, 1), False)
    launch(module("sums", dtype=parts.dtype), "sums", grid, parts, y, struct, 1.0)
    return y
