"""Arrays in other orders and shapes: what a gradient or a value may have been mistaken for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigrad import sums
from minigrad.backend import numpy as host

Array = Any


def choices(axes: Sequence[int], least: int = 1, most: int | None = None) -> Iterator[tuple[int, ...]]:
    """Every choice of so many axes, the fewer first."""
    for many in range(least, min(len(axes), len(axes) if most is None else most) + 1):
        yield from itertools.combinations(axes, many)


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of a shape broadcasts to another shape."""
    try:
        return bool(host.broadcast_shapes(shape, to) == to)
    except ValueError:
        return False


def fitted(value: Array, shape: tuple[int, ...]) -> Array | None:
    """A value in a form that broadcasts to a shape without changing it, or None."""
    if broadcasts(value.shape, shape):
        return value
    squeezed = value.squeeze()
    if squeezed.shape == tuple(n for n in shape if n != 1):
        return squeezed.reshape(shape)
    return None


def aligned(value: Array, shape: tuple[int, ...]) -> Array | None:
    """The same, also where a reduction over the last axes left the first ones, as a norm of every row does."""
    value_fits = fitted(value, shape)
    if value_fits is None and value.ndim and value.shape == shape[: value.ndim]:
        return value.reshape(value.shape + (1,) * (len(shape) - value.ndim))
    return value_fits


def rearrangements(array: Array) -> Iterator[tuple[str, Array]]:
    """Transposed, permuted and flipped copies, with the words for them (shapes may differ)."""
    if array.ndim == 2:
        yield "transposed", array.T
    elif 2 < array.ndim <= 4:
        for order in itertools.permutations(range(array.ndim)):
            if order != tuple(range(array.ndim)):
                yield f"permuted to axes {list(order)}", array.transpose(order)
    for axes in choices(range(array.ndim), most=3):
        if all(array.shape[axis] > 1 for axis in axes):
            words = f"flipped along {'axis' if len(axes) == 1 else 'axes'} {', '.join(map(str, axes))}"
            yield words, host.flip(array, axes)
    if array.ndim >= 1 and array.shape[0] > 2:
        for shift in (1, -1):
            yield f"rolled by {shift} along axis 0", host.roll(array, shift, 0)


def reshaped(hand: Array, reference: Array, close: Callable[[Array], bool]) -> tuple[str, str] | None:
    """Why a gradient of the wrong shape is nearly right: (kind, what to do), or None."""
    shape = reference.shape
    if hand.size == reference.size:
        for words, moved in rearrangements(hand):
            if moved.shape == shape and words.startswith(("transposed", "permuted")) and close(moved):
                return "transposed", f"it is autodiff's gradient {words}"
        if close(hand.reshape(shape)):
            return "shape", f"the values are right; reshape it to {list(shape)}"
        return None
    if hand.size > reference.size:
        lead = hand.ndim - len(shape)
        if lead >= 0 and all(n in (1, hand.shape[i + lead]) for i, n in enumerate(shape)):
            try:
                total = sums.sum_to(hand, shape)
            except ValueError:
                return None
            axes = [i for i in range(hand.ndim) if i < lead or (shape[i - lead] == 1 and hand.shape[i] > 1)]
            if close(total):
                return "broadcast not summed", f"the broadcast is not summed back: sum it over axes {axes}"
            m = hand.size // reference.size
            if close(total / m):
                return "broadcast not summed", f"the broadcast is not summed back: average it over axes {axes}"
        for chosen in choices(range(hand.ndim)):
            total = hand.sum(axis=chosen)
            if total.size == reference.size and close(total.reshape(shape)):
                return "broadcast not summed", f"the broadcast is not summed back: sum it over axes {list(chosen)}"
    if hand.size < reference.size:
        try:
            wide = host.broadcast_to(hand, shape)
        except ValueError:
            return None
        if close(wide):
            return "shape", f"the values are right; broadcast it to {list(shape)}"
    return None
