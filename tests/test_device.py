"""The device's own kernels, executed without a GPU: their CUDA C++ is compiled by g++ and run thread by thread.

Each is compared with the composed ops that it stands for, in single and double precision, at odd shapes with all
options, and runs twice, with the threads of a block in either order between barriers: other bits would show a
barrier that is missing. A planted mistake in a source is caught. What this cannot show is speed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from examples.mnist import command, pictures, training
from minigrad import backend, convolution, data, fused, nn, ops, optim, pooling
from minigrad import functional as F
from minigrad.backend import xp
from minigrad.device import blocks, contractions, launch, loss, products, sums
from minigrad.device import convolution as convolving
from minigrad.device import pooling as kernels
from minigrad.fused import Plan
from minigrad.pooling import Windows
from tests.samples import SAMPLES
from tests.standin import Cuda, Graph, emulator, transfers
from tests.test_fused import layers

pytestmark = pytest.mark.skipif(emulator.COMPILER is None, reason="no g++ here to compile kernels with")
RNG = np.random.default_rng(11)
BEGINNING = RNG.bit_generator.state
DTYPES = ["float32", "float64"]


def unusable(name: str, error: Exception) -> None:
    raise AssertionError(f"{name} cannot be used") from error


GIVE_UP = launch.give_up


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in with CUDA, on which a kernel that cannot be used is an error, not a warning."""
    with mg.using("emulated"):
        backend.kernel("conv2d")
        monkeypatch.setattr("minigrad.device.launch.give_up", unusable)
        transfers.reset()
        RNG.bit_generator.state = BEGINNING  # whichever tests ran before
        yield
        backend.pending.clear()


def there(array: np.ndarray) -> Any:
    return xp.asarray(array)


def normal(dtype: str, *shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(dtype)


def in_both_orders(compute: Callable[[], list[Any]]) -> list[np.ndarray]:
    """What kernels compute, with the threads of a block forwards and backwards: the same bits."""
    found = []
    for emulator.order in ("backwards", "forwards"):
        found.append([a.get() for a in compute()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    return found[0]


def assert_close(found: Any, expected: Any, scale: float = 1.0) -> None:
    """Equal to rounding: sums of a few hundred terms, relative to the largest value."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=1e-30)
    digits = {"float32": 3e-6, "float64": 1e-13}.get(str(found.dtype), 0.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=digits * largest * scale)


# ---- every op ------------------------------------------------------------------------------------------
def values_and_gradients(sample: Any) -> list[mg.Tensor]:
    """What an op makes of its sample, and the gradients for cotangents drawn at random."""
    xs = [mg.tensor(a, requires_grad=a.dtype.kind == "f") for a in sample.arrays]
    y = sample.call(*xs)
    found = [out for out in (y if isinstance(y, (tuple, list)) else [y]) if isinstance(out, mg.Tensor)]
    leaves = [x for x in xs if x.requires_grad]
    for out in [out for out in found if out.requires_grad]:
        found += mg.grad(out, leaves, mg.random.normal(out.shape, dtype=out.dtype), retain_graph=True)
    return [t for t in found if t is not None]


@pytest.mark.parametrize("part", range(4))
def test_every_op_and_its_gradient(part: int) -> None:
    """With kernels, where an op has one: what the ops hand to kernels is what those read."""
    for sample in SAMPLES[part::4]:
        results = []
        for name in ("numpy", "emulated"):
            with mg.using(name):
                mg.random.seed(7)
                results.append([t.numpy() for t in values_and_gradients(sample)])
        for a, b in zip(*results, strict=True):
            largest = np.abs(a[np.isfinite(a)]).max(initial=1.0)
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-12 * largest, err_msg=str(sample))


# ---- products ------------------------------------------------------------------------------------------
CONVOLUTIONS: dict[str, tuple[Any, ...]] = {  # n, c, h, w, o, kernel, stride, padding, dilation, groups
    "3 x 3": (2, 3, 7, 6, 5, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "everything": (3, 4, 9, 8, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2),
    "stride beyond the kernel": (2, 2, 8, 9, 3, (1, 2), (3, 3), (0, 0), (1, 1), 1),
    "depthwise": (2, 5, 6, 5, 5, (3, 3), (1, 2), (2, 0), (2, 1), 5),
    "two tiles of channels": (1, 18, 5, 5, 70, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "many cells": (5, 1, 20, 21, 2, (5, 5), (1, 1), (2, 2), (1, 1), 1),
    "more channels than fit at a time": (1, 70, 6, 7, 34, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "a kernel of many cells": (1, 2, 24, 24, 2, (9, 9), (1, 1), (4, 4), (1, 1), 1),
    "more rows than fit at a time": (1, 16, 12, 60, 8, (3, 3), (1, 1), (1, 1), (1, 1), 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_and_its_adjoints(name: str, dtype: str) -> None:
    n, c, h, w, o, kernel, *options = CONVOLUTIONS[name]
    x, weight = there(normal(dtype, n, c, h, w)), there(normal(dtype, o, c // options[-1], *kernel))
    expected = convolution.conv2d(x, weight, *options)
    g = there(normal(dtype, *expected.shape))
    y, dx, dw = in_both_orders(
        lambda: [
            convolving.conv2d(x, weight, *options),
            convolving.conv2d_input(g, weight, *options, (h, w)),
            convolving.conv2d_weight(x, g, *options, kernel),
        ]
    )
    assert_close(y, expected.get())
    assert_close(dx, convolution.conv2d_input(g, weight, *options, (h, w)).get())
    assert_close(dw, convolution.conv2d_weight(x, g, *options, kernel).get(), scale=4)


def test_a_transposed_convolution_whose_result_has_room_for_more_windows() -> None:
    arrays = normal("float64", 2, 2, 3, 1), normal("float64", 2, 3, 2, 4)
    found = []
    for name in ("numpy", "emulated"):
        with mg.using(name):
            x, w = (mg.tensor(a, requires_grad=True) for a in arrays)
            y = F.conv_transpose2d(x, w, None, (2, 1), 0, (2, 1), 1, (3, 2))
            found.append([t.numpy() for t in (y, *mg.grad((y * y).sum(), (x, w)))])
    for a, b in zip(*found, strict=True):
        assert_close(b, a)


def test_a_convolution_with_bias_and_relu_in_its_launch() -> None:
    x, w, b = (there(normal("float64", *shape)) for shape in ((2, 2, 5, 4), (3, 2, 2, 2), (3,)))
    x[0, 0, 0, 0] = np.nan
    options = (1, 1), (0, 0), (1, 1), 1
    y = convolving.conv2d(x, w, *options, b, True).get()
    np.testing.assert_allclose(y, xp.maximum(convolution.conv2d(x, w, *options) + b.reshape(1, 3, 1, 1), 0).get())
    assert np.isnan(y[0, :, 0, 0]).all() and np.isfinite(y[1]).all()


def test_images_too_wide_for_a_tile_and_kernels_too_large_are_left_to_ordinary_ops() -> None:
    x, w = there(normal("float32", 1, 1, 3, 9000)), there(normal("float32", 2, 1, 2, 2))
    options = (1, 1), (0, 0), (1, 1), 1
    assert convolving.conv2d(x, w, *options) is None
    y = F.conv2d(mg.Tensor(x), mg.Tensor(w))
    assert_close(y.numpy(), convolution.conv2d(x, w, *options).get())
    g = there(normal("float32", 2, 1, 4, 4))
    assert convolving.conv2d_weight(there(normal("float32", 2, 1, 15, 15)), g, *options, (12, 12)) is None


UNREAD: dict[str, tuple[Any, ...]] = {  # cells of x that no cell of y reads: a tail, and between the taps
    "a tail": (1, 1, 4, 4, 1, (2, 2), (3, 3), (0, 0), (1, 1), 1),
    "a tail of several bands": (1, 16, 21, 28, 8, (2, 2), (4, 4), (0, 0), (1, 1), 1),
    "one cell, dilated": (1, 2, 5, 4, 2, (2, 2), (1, 1), (0, 0), (4, 3), 1),
    "few cells, dilated": (2, 2, 9, 8, 4, (2, 2), (1, 1), (0, 1), (5, 7), 2),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_a_convolution_does_not_read_is_in_no_result(name: str) -> None:
    n, c, h, w, o, kernel, *options = UNREAD[name]
    x, weight = there(normal("float64", n, c, h, w)), there(normal("float64", o, c // options[-1], *kernel))
    expected = convolution.conv2d(x, weight, *options)
    g = there(normal("float64", *expected.shape))
    unread = convolution.conv2d_input(xp.ones_like(g), xp.ones_like(weight), *options, (h, w)) == 0
    spoilt = xp.where(unread, np.nan, x)
    assert np.isnan(spoilt.get()).any()
    assert_close(convolving.conv2d(spoilt, weight, *options).get(), expected.get())
    dw = convolving.conv2d_weight(spoilt, g, *options, kernel)
    assert_close(dw.get(), convolution.conv2d_weight(x, g, *options, kernel).get(), scale=4)


PRODUCTS = [
    ((5, 7), (7, 3)), ((33, 200), (200, 35)), ((4, 2, 3), (3, 5)), ((2, 1, 3, 4), (3, 4, 2)), ((1, 900), (900, 1)),
    ((7,), (7, 3)), ((5, 7), (7,)), ((7,), (7,)), ((2, 5, 7), (7,)), ((7,), (2, 7, 3)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", ["", "a", "b", "ab"])
@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
def test_matrix_products_of_any_strides(shapes: Any, turned: str, dtype: str) -> None:
    a, b = (normal(dtype, *shape) for shape in shapes)
    on_device = [
        there(np.ascontiguousarray(m.swapaxes(-1, -2))).swapaxes(-1, -2) if name in turned and m.ndim > 1 else there(m)
        for name, m in (("a", a), ("b", b))
    ]
    (y,) = in_both_orders(lambda: [products.product(*on_device)])
    assert_close(y, np.asarray(a @ b), scale=4)


EQUATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "ij,jk->ik": ((5, 40), (40, 3)), "ij,kj->ki": ((5, 7), (3, 7)), "bhqd,bhkd->bhqk": ((2, 3, 4, 5), (2, 3, 6, 5)),
    "ijk,kjl->lji": ((2, 3, 4), (4, 3, 5)), "ij,jkl->kil": ((2, 3), (3, 4, 5)), "ij,ij->j": ((6, 4), (6, 4)),
    "i,i->": ((9,), (9,)), "i,j->ji": ((3,), (4,)), "ij,ij->ij": ((3, 4), (3, 4)), ",i->i": ((), (3,)), ",->": ((), ()),
    "ij,jk,kl->li": ((2, 3), (3, 4), (4, 5)), "i,ij,j->": ((3,), (3, 4), (4,)), "ijk->kij": ((2, 3, 4),),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("equation", EQUATIONS)
def test_a_contraction_is_einsums(equation: str, dtype: str) -> None:
    xs = [normal(dtype, *shape) for shape in EQUATIONS[equation]]
    (y,) = in_both_orders(lambda: [contractions.contracted(*map(there, xs), equation)])
    assert_close(y, np.asarray(np.einsum(equation, *xs)), scale=4)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_and_its_gradients_in_a_graph(equation: str) -> None:
    weights = [mg.Parameter(normal("float64", *shape)) for shape in EQUATIONS[equation]]
    cotangent = mg.tensor(normal("float64", *np.einsum(equation, *[w.numpy() for w in weights]).shape))

    def step(scale: mg.Tensor) -> tuple[mg.Tensor, ...]:
        y = mg.einsum(equation, weights[0] * scale, *weights[1:])
        return y.detach(), *mg.grad(y, weights, cotangent)

    fast = mg.capture(step, warmup=1)
    found = [[t.numpy().copy() for t in fast(mg.tensor(scale, dtype="float64"))] for scale in (2.0, 3.0)]
    assert fast.replays == 1, fast.reason
    with mg.using("numpy"):
        for scale, on_device in zip((2.0, 3.0), found, strict=True):
            expected, sizes = [], []
            for results, of in ((expected, np.asarray), (sizes, np.abs)):  # the sizes of all terms, added up
                given = [mg.Parameter(of(w.numpy())) for w in weights]
                y = mg.einsum(equation, given[0] * scale, *given[1:])
                results += [y, *mg.grad(y, given, mg.tensor(of(cotangent.numpy())))]
            for a, b, size in zip(expected, on_device, sizes, strict=True):
                assert b.shape == a.shape and (abs(b - a.numpy()) <= 1e-13 * size.numpy()).all()


# ---- sums ----------------------------------------------------------------------------------------------
SUMS: dict[str, tuple[tuple[int, ...], Any]] = {  # shape, axes
    "all": ((3, 5, 7), None),
    "all, in two launches": ((41, 1000), None),
    "one element": ((1, 1), None),
    "0-d": ((), None),
    "no axis": ((3, 4), ()),
    "axes of length 1": ((3, 1, 4), 1),
    "last": ((5, 13), -1),
    "last, of ten": ((300, 10), 1),
    "last, in two launches": ((3, 20_001), 1),
    "first": ((17, 5), 0),
    "first, one neighbour in a block too many": ((9, 257), 0),
    "first, in two launches": ((2100, 33), 0),
    "first, of few": ((4001, 3), 0),
    "middle": ((6, 50, 5), 1),
    "two in the middle": ((3, 2, 4, 1, 6), (1, 2, 3)),
    "channels": ((70, 3, 7, 5), (0, 2, 3)),
    "channels, in two launches": ((600, 2, 4, 9), (0, 2, 3)),
    "every other": ((2, 70, 3, 19), (1, 3)),
}


def assert_launched(names: list[str]) -> None:
    """The kernels that ran since `emulator.launched` was cleared; on a GPU nobody knows."""
    assert backend.current() != "emulated" or emulator.launched == names


def assert_sums(y: np.ndarray, exact: np.ndarray, sizes: np.ndarray) -> None:
    """Trees of eight and the result are rounded to float32, and nothing else: that is 4 roundings of what is added."""
    rounding = {"float32": 4 * 2**-24, "float64": 64 * 2**-53}[str(y.dtype)]
    assert (abs(y - exact) <= rounding * sizes).all(), abs(y - exact).max()


@pytest.mark.parametrize("mean", [False, True], ids=["sum", "mean"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SUMS)
def test_sums_and_means_over_axes(name: str, dtype: str, mean: bool) -> None:
    shape, axis = SUMS[name]
    x = normal("float64", *shape).astype(dtype) + 1
    emulator.launched.clear()
    (y,) = in_both_orders(lambda: [(ops.mean if mean else ops.sum)(there(x), axis, True)])
    expected = (x.mean if mean else x.sum)(axis=axis, keepdims=True, dtype="float64")
    assert y.dtype == dtype and y.shape == expected.shape
    assert_sums(y, expected, abs(x).mean(axis=axis, keepdims=True) if mean else abs(x).sum(axis=axis, keepdims=True))
    once = ["part_sums", "sums_of_parts"] if name.endswith("two launches") else ["sums"]
    assert_launched(once * 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in SUMS if name not in ("0-d", "no axis")])
def test_a_factors_gradient_is_a_sum_of_products_that_are_not_written_down(name: str, dtype: str) -> None:
    shape, axis = SUMS[name]
    x, g = normal(dtype, *shape), normal(dtype, *shape)
    exact = (x.astype("float64") * g).sum(axis, keepdims=True)
    scale = mg.ones(*exact.shape, dtype=dtype, requires_grad=True)
    y, cotangent = mg.tensor(x) * scale, mg.tensor(g)
    emulator.launched.clear()
    (found,) = in_both_orders(lambda: [mg.grad(y, scale, cotangent, retain_graph=True).data])
    assert_sums(found, exact, 2 * abs(x * g).sum(axis, keepdims=True))
    if exact.shape != shape:
        two = name.endswith("two launches")
        assert_launched((["part_sums_of_products", "sums_of_parts"] if two else ["sums_of_products"]) * 2)


def test_a_choice_for_each_channel_among_images_and_numbers() -> None:
    """The choice does not change along the sum back to the numbers, and has as many axes as the images."""
    chosen, numbers = there(RNG.normal(size=(1, 3, 1, 1)) > 0), normal("float64", 1, 3, 1, 1)
    images, g = normal("float64", 2, 3, 4, 4), normal("float64", 2, 3, 4, 4)
    a, b = (mg.tensor(t, requires_grad=True) for t in (numbers, images))
    da, db = mg.grad(mg.where(mg.Tensor(chosen), a, b), [a, b], mg.tensor(g))
    np.testing.assert_allclose(da.numpy(), np.where(chosen.get(), g, 0).sum((0, 2, 3), keepdims=True))
    np.testing.assert_array_equal(db.numpy(), np.where(chosen.get(), 0, g))


def test_a_cotangent_is_summed_before_what_does_not_change_along_the_sum() -> None:
    x, b = mg.ones(50, 7, requires_grad=True), mg.random.normal(7, requires_grad=True)
    scale = mg.random.normal(7)
    y = (x - b * scale) * 3.0
    cotangent = mg.ones(50, 7)
    mg.grad(y, b, cotangent, retain_graph=True)  # loads the kernel
    Graph.capturing = recorded = Graph()
    found = mg.grad(y, b, cotangent)
    Graph.capturing = None
    recorded.end()
    recorded.launch()
    np.testing.assert_allclose(found.numpy(), -150 * scale.numpy(), rtol=1e-6)
    full = {id(result) for _, results in recorded.calls for result in results if result.size == 350}
    assert len(full) == 1  # times 3, but not times -1


def test_a_short_inner_axis_is_added_up_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads beside each other read columns first, since a run of three elements is not worth a line of memory."""
    monkeypatch.setattr(sums, "FILL", 1)
    x = normal("float32", 90, 20, 3)
    emulator.launched.clear()
    (y,) = in_both_orders(lambda: [ops.sum(there(x), (0, 2))])
    assert_sums(y, x.sum((0, 2), dtype="float64"), abs(x).sum((0, 2)))
    assert_launched(["part_sums", "sums_of_parts"] * 2)


def test_a_long_sum_in_single_precision_keeps_its_digits() -> None:
    x = np.full((3, 200_001), 0.1, "float32")
    (y,) = in_both_orders(lambda: [ops.sum(there(x), 1)])
    np.testing.assert_allclose(y, 200_001 * float(np.float32(0.1)), rtol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sum_of_what_is_not_finite_is_not(value: float) -> None:
    x = normal("float32", 40, 7)
    x[33, 2] = value
    (y, row) = in_both_orders(lambda: [ops.sum(there(x)), ops.sum(there(x), 0)])
    np.testing.assert_array_equal(y, np.float32(value))
    assert np.isfinite(np.delete(row, 2)).all()
    np.testing.assert_array_equal(row[2], np.float32(value))


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "backwards": lambda x: x[::-1, :, ::-1], "strided": lambda x: x[:, ::2], "empty": lambda x: x[:, :0],
    "transposed": lambda x: x.transpose(2, 0, 1), "broadcast": lambda x: xp.broadcast_to(x[:, :1], x.shape),
    "bytes": lambda x: x.astype("uint8"), "half": lambda x: x.astype("float16"),
    "too many runs": lambda x: x.reshape(3, 5, 2, 2, 3),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sum_of_any_layout_and_dtype_is_numpys(layout: str) -> None:
    x = np.abs(normal("float32", 3, 10, 6)) * 9
    axes = (0, 2, 4) if layout == "too many runs" else (0, 2)
    y = ops.sum(LAYOUTS[layout](there(x)), axes)
    with mg.using("numpy"):
        given = LAYOUTS[layout](x)
        expected = given.sum(axes, dtype="float32" if given.dtype.char == "e" else None)
    assert_close(y.get(), expected.astype(y.dtype))


def test_a_sums_errors_are_the_librarys() -> None:
    x = mg.ones(2, 3)
    for axis, kind in ((2, IndexError), ((0, 0), ValueError), (-3, IndexError)):
        with pytest.raises(kind, match=r"sum: .*axis"):
            x.sum(axis)


def test_the_parts_of_a_product_are_added_up_in_one_launch() -> None:
    for splits, *shape in ((1, 5), (2, 300), (9, 4, 3), (264, 10, 10), (300, 2, 33), (3, 5000)):
        parts = normal("float32", splits, *shape)
        emulator.launched.clear()
        (y,) = in_both_orders(lambda parts=parts: [sums.add_up(there(parts))])
        assert_sums(y, parts.sum(0, dtype="float64"), abs(parts).sum(0))
        assert y.dtype == "float32"
        assert_launched(["sums"] * 2)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 784, 1000, 65535, 65536, 65537, 2**31 - 1])
def test_a_division_by_the_inner_axis_is_exact(n: int) -> None:
    """In 32 bits: (factor x / 2^32 + x) / 2^shift, as in the kernel."""
    *_, factor, shift = map(int, sums.planned(sums.View(1, 1, 1, n), False).struct["numbers"])
    x = np.unique(np.concatenate([np.arange(3000), RNG.integers(0, 2**31, 3000), [2**31 - 1], n * np.arange(1, 3) - 1]))
    x = x[x < 2**31].astype(np.uint64)
    assert factor < 2**32 and ((x * np.uint64(factor) >> np.uint64(32)) + x).max() < 2**32
    np.testing.assert_array_equal(((x * np.uint64(factor) >> np.uint64(32)) + x) >> np.uint64(shift), x // np.uint64(n))


# ---- pooling -------------------------------------------------------------------------------------------
POOLS = {
    "tiles": Windows((2, 2), (2, 2), (0, 0), (1, 1), (3, 4)),
    "overlapping and padded": Windows((3, 2), (2, 1), (1, 1), (1, 1), (3, 9)),
    "dilated": Windows((2, 3), (1, 2), (0, 1), (3, 2), (3, 3)),
    "some end beyond the image": Windows((4, 3), (4, 3), (0, 0), (1, 1), (2, 3)),
    "the only one does": Windows((7, 9), (4, 4), (0, 0), (1, 1), (1, 1)),
    "one of many cells": Windows((6, 8), (6, 8), (0, 0), (1, 1), (1, 1)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POOLS)
def test_max_pooling_chooses_the_first_of_equals_and_nan_wins(name: str, dtype: str) -> None:
    at = POOLS[name]
    x = RNG.integers(0, 3, (2, 3, 6, 8)).astype(dtype)  # many ties
    x[0, 0, 1, 1] = x[0, 0, 1, 2] = np.nan
    x = there(x)
    y, chosen = in_both_orders(lambda: [(y := kernels.maximum(x, at)), kernels.which(x, y, at)])
    np.testing.assert_array_equal(y, pooling.maximum(x, at).get())
    np.testing.assert_array_equal(chosen, pooling.which(x, there(y), at).get())
    g = there(normal(dtype, *y.shape))
    for cells in (chosen, chosen.astype("int64")):  # the row takes integers of any kind
        (dx,) = in_both_orders(lambda cells=cells: [kernels.place(g, there(cells), at, (6, 8))])
        assert_close(dx, pooling.place(g, there(chosen), at, (6, 8)).get())


def test_windows_of_more_cells_than_a_byte_counts() -> None:
    x = mg.tensor(normal("float64", 2, 1, 18, 17), requires_grad=True)
    with mg.using("numpy"):
        twin = mg.tensor(x.numpy(), requires_grad=True)
        twin.data[:, :, 15:, 14:] += 9.0  # the largest are among the last of 16 x 17 cells
    x.data[:, :, 15:, 14:] += 9.0
    found = [F.max_pool2d(x, (16, 17), 1), mg.grad(F.max_pool2d(x, (16, 17), 1).sum(), x)]
    with mg.using("numpy"):
        expected = [F.max_pool2d(twin, (16, 17), 1), mg.grad(F.max_pool2d(twin, (16, 17), 1).sum(), twin)]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


# ---- what has no kernel -----------------------------------------------------------------------------------
ELSEWHERE: dict[str, Callable[[Any], Any]] = {
    "conv2d": lambda x: F.conv2d(x, mg.ones(3, 2, 3, 3, dtype=x.dtype) / 8),
    "conv2d with strides": lambda x: F.conv2d(x, mg.ones(3, 2, 3, 3, dtype=x.dtype) / 8, stride=2, padding=1),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "sum": lambda x: x.sum((0, 2)),
    "mean": lambda x: x.mean(1),
    "a product summed": lambda x: (x * mg.ones(2, 1, 1, dtype=x.dtype)).sum(),
    "matmul": lambda x: x @ x,
    "cross_entropy": lambda x: F.cross_entropy(x.reshape(3, -1), mg.tensor([0, 5, 2])),
    "BatchNorm2d": lambda x: nn.BatchNorm2d(2).train()(x),
    "fused": lambda x: mg.fused.fuse(nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)))(x),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_half_precision_runs_as_composed_ops(name: str) -> None:
    values = RNG.integers(-8, 8, (3, 2, 4, 4)).astype("float16") / 4

    def results() -> list[np.ndarray]:
        x = mg.tensor(values, requires_grad=True)
        y = ELSEWHERE[name](x)
        return [y.numpy(), mg.grad((y * y).sum(), x).numpy()]

    found = results()
    with mg.using("numpy"):
        expected = results()
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float16
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("size", [(1, 7000), (7000, 1)], ids=["wide", "tall"])
def test_an_image_too_large_for_shared_memory_is_convolved_by_composed_ops_where_no_part_fits(size: Any) -> None:
    values, kernel = normal("float64", 1, 2, *size), normal("float64", 3, 2, 1, 3) if size[0] == 1 else None
    kernel = normal("float64", 3, 2, 3, 1) if kernel is None else kernel

    def results() -> list[np.ndarray]:
        x, w = (mg.tensor(a, requires_grad=True) for a in (values, kernel))
        y = F.conv2d(x, w, padding="same")
        return [t.numpy() for t in (y, *mg.grad((y * y).sum(), (x, w)))]

    emulator.launched.clear()
    found = results()
    assert ("conv" in emulator.launched) == ("conv_weight" in emulator.launched) == (size[1] == 1)
    with mg.using("numpy"):
        expected = results()
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("captured", [False, True])
def test_dropouts_masks_are_the_hosts_where_nothing_is_captured(captured: bool) -> None:
    masks = []
    for name in ("emulated", "numpy"):
        with mg.using(name):
            mg.random.seed(3)
            drop: Any = lambda x: F.dropout(x, 0.4)
            drop = mg.capture(drop, warmup=2) if captured else drop
            masks.append([drop(mg.ones(5, 40)).numpy() for _ in range(2)])
    np.testing.assert_array_equal(*masks)


# ---- fused rows ----------------------------------------------------------------------------------------
CONV = ((1, 1), (1, 1), (1, 1), 1)
POOL = Windows((2, 2), (2, 2), (0, 0), (1, 1), (4, 3))
PLANS = [
    Plan(conv, eps, relu, pool)
    for conv, eps, relu, pool in itertools.product((None, CONV), (None, 1e-3), (False, True), (None, POOL))
    if conv or eps
]


def name_of(plan: Plan) -> str:
    parts = {"conv": plan.conv, "norm": plan.eps, "relu": plan.relu, "pool": plan.pool}
    return "-".join(part for part, value in parts.items() if value)


def operands(plan: Plan, n: int = 5) -> list[mg.Tensor]:
    """Values with a negative and a zero gamma and offsets that dead ReLUs follow from."""
    channels = 4 if plan.conv is not None else 3
    gamma = normal("float64", channels) + 0.3
    gamma[0], gamma[1] = -abs(gamma[0]) - 0.1, 0.0
    w = normal("float64", 4, 3, 3, 3) if plan.conv is not None else np.ones(0)
    b, beta = normal("float64", channels), normal("float64", channels)
    used = [True, bool(plan.conv), bool(plan.conv), bool(plan.eps), bool(plan.eps)]
    arrays = [normal("float64", n, 3, 8, 6) + 0.5, w, b, gamma, beta]
    return [mg.tensor(a, requires_grad=u) for a, u in zip(arrays, used, strict=True)]


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_a_block_equals_its_reference_at_first_and_second_order(plan: Plan) -> None:
    given = operands(plan)
    used = [t for t in given if t.requires_grad]
    g, v = None, mg.tensor(normal("float64", *given[0].shape))
    results = []
    for f in (fused.composed, blocks.block):
        y = f(*given, plan)
        g = mg.tensor(normal("float64", *y.shape)) if g is None else g
        first = mg.grad(y, used, g, retain_graph=True)
        twice = mg.grad((y * y * g).sum(), used[0], create_graph=True)
        results.append([y, *first, *mg.grad((twice * v).sum(), used)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-8, atol=1e-8)


def test_a_block_of_many_images_whose_sums_are_taken_in_parts() -> None:
    given, results = operands(PLANS[-1], n=200), []
    g = mg.tensor(normal("float64", 200, 4, 4, 3))
    for f in (fused.composed, blocks.block):
        y = f(*given, PLANS[-1])
        results.append([y, *mg.grad(y, given, g)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-8, atol=1e-8)


def test_an_input_that_begins_anywhere_in_memory() -> None:
    x = normal("float32", 2 * 3 * 4 * 6 + 1)
    layers = mg.fused.fuse(nn.Sequential(nn.BatchNorm2d(3), nn.MaxPool2d(2)))
    odd = mg.Tensor(there(x)[1:].reshape(2, 3, 4, 6))
    even = mg.Tensor(odd.data.copy())
    assert odd.data.data.ptr % 16
    np.testing.assert_array_equal(layers(odd).numpy(), layers(even).numpy())


@pytest.mark.parametrize("plan", [PLANS[3], PLANS[-1]], ids=name_of)
def test_a_block_computes_the_same_bits_whichever_thread_comes_first(plan: Plan) -> None:
    given = operands(plan)
    used = [t for t in given if t.requires_grad]
    in_both_orders(lambda: [(y := blocks.block(*given, plan)).data, *(d.data for d in mg.grad(y.sum(), used))])


def network(dtype: str) -> nn.Sequential:
    return layers(4).to_dtype(dtype)


IMAGES, LABELS = RNG.normal(size=(7, 1, 16, 16)), RNG.integers(0, 3, 7)


def trained(make: Callable[[Any], Any], steps: int = 3) -> list[np.ndarray]:
    model = make(network("float64"))
    optimizer = optim.Adam(model.parameters(), 0.01)
    losses = []
    x, y = mg.tensor(IMAGES), mg.tensor(LABELS)
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    model.eval()
    with mg.no_grad():
        scores = model(x)
    return [t.numpy() for t in (mg.stack(losses), scores, *model.state_dict().values())]


@pytest.mark.parametrize("make", [mg.fused.fuse, lambda model: model], ids=["fused", "layer by layer"])
def test_a_model_trains_and_evaluates_to_the_composed_numbers(make: Any) -> None:
    found = trained(make)
    assert transfers.count == len(found) + 3  # what was asked for, and whether the labels of each step were fine
    with mg.using("numpy"):
        expected = trained(lambda model: model)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)


def test_a_fused_models_step_is_a_few_launches_and_its_errors_are_the_layers_own() -> None:
    emulator.launched.clear()
    model = mg.fused.fuse(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)))
    model(mg.tensor(IMAGES.astype("float32"))).sum().backward()
    forward, backward = ["conv", "moments", "normalise", "sums"], ["cotangent_sums", "cotangent", "conv_weight", "sums"]
    assert emulator.launched == [*forward, *backward]
    with pytest.raises(ValueError, match=r"reads 1 channels .* has 2"):
        model(mg.ones(2, 2, 8, 8))
    with pytest.raises(ValueError, match="one value for each channel"):
        mg.fused.fuse(nn.Sequential(nn.BatchNorm2d(3)))(mg.ones(1, 3, 1, 1))


def test_a_channel_far_from_zero_with_a_small_spread_comes_out_right_in_float32() -> None:
    x = (1e4 + 1e-2 * RNG.normal(size=(32, 2, 10, 10))).astype("float32")
    exact = x.astype("float64") - x.astype("float64").mean((0, 2, 3), keepdims=True)
    var = (exact**2).mean((0, 2, 3), keepdims=True)
    layer = nn.BatchNorm2d(2)
    y = mg.fused.fuse(nn.Sequential(layer))(mg.tensor(x))
    np.testing.assert_allclose(y.numpy(), exact / np.sqrt(var + 1e-5), atol=2e-4)
    unbiased = var.reshape(-1) * x.size / (x.size - 2)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * unbiased, rtol=1e-6)


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_remembers_in_one_launch_what_it_remembers_on_the_host(dtype: str, momentum: float | None) -> None:
    channels = 2 * launch.THREADS + 3
    batches = [normal(dtype, 4, channels) * 3 + 1 for _ in range(3)]
    batches.append(normal(dtype, 4, channels)[:, ::-1])

    def remembered() -> list[np.ndarray]:
        layer = nn.BatchNorm1d(channels, momentum=momentum).to_dtype(dtype)
        for batch in batches:
            layer(mg.tensor(batch))
        layer.eval()(mg.tensor(batches[0]))
        return [buffer.data for buffer in layer.buffers()]

    emulator.launched.clear()
    found = in_both_orders(remembered)
    assert emulator.launched.count("remember") == 2 * len(batches)
    with mg.using("numpy"):
        expected = remembered()
    assert found[-1] == expected[-1] == len(batches)
    for a, b in zip(found[:-1], expected[:-1], strict=True):
        np.testing.assert_allclose(a, b, rtol={"float32": 1e-5, "float64": 1e-13}[dtype], atol=1e-6)


MEMORIES: dict[str, Callable[[nn.BatchNorm2d], None]] = {  # of a BatchNorm, of a kind that kernels do not write
    "a view": lambda norm: setattr(norm.running_mean, "data", xp.zeros(6, np.float32)[::2]),
    "a count of 32 bits": lambda norm: setattr(norm.num_batches_tracked, "data", xp.zeros((), np.int32)),
    "two dtypes": lambda norm: setattr(norm.running_var, "data", xp.ones(3)),
}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("make", [mg.fused.fuse, lambda model: model], ids=["fused", "layer by layer"])
def test_what_a_batch_norm_keeps_in_another_form_is_remembered_by_ordinary_ops(make: Any, memory: str) -> None:
    x, found = normal("float32", 4, 3, 2, 2), []
    for name in ("emulated", "numpy"):
        with mg.using(name):
            norm = nn.BatchNorm2d(3)
            MEMORIES[memory](norm)
            emulator.launched.clear()
            make(nn.Sequential(norm, nn.ReLU()))(mg.tensor(x))
            assert not {"remember", "moments"} & set(emulator.launched)
            found.append([buffer.numpy().copy() for buffer in norm.buffers()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_recomputed_activations_are_not_remembered_twice() -> None:
    layer, x = nn.BatchNorm2d(3), mg.random.normal(4, 3, 2, 2, requires_grad=True)
    mg.checkpoint(layer, x).sum().backward()
    assert layer.num_batches_tracked.item() == 1
    once = layer.running_mean.numpy().copy()
    np.testing.assert_allclose(once, 0.1 * x.numpy().mean((0, 2, 3)), rtol=1e-4, atol=1e-7)


# ---- cross entropy ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [201, 300, 1500])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_and_its_gradient(dtype: str, rows: int) -> None:
    x = mg.tensor(normal(dtype, rows, 7) * 30, requires_grad=True)
    labels = RNG.integers(0, 7, rows)
    labels[3] = labels[200] = -100
    y = mg.tensor(labels)
    expected = loss.composed(x, y, -100)
    found, dx = in_both_orders(lambda: [(one := F.cross_entropy(x, y)).data, mg.grad(one, x).data])
    np.testing.assert_allclose(found, expected.numpy(), rtol={"float32": 1e-6, "float64": 1e-13}[dtype])
    assert_close(dx, mg.grad(expected, x).numpy())


def test_cross_entropy_at_second_order() -> None:
    y = mg.tensor([2, -100, 0, 6, 2])
    assert mg.gradcheck(lambda t: F.cross_entropy(t, y), [normal("float64", 5, 7)], order=2)


def test_cross_entropy_of_ignored_labels_alone_is_nan_and_wrong_labels_are_named() -> None:
    x = mg.random.normal(2, 3, requires_grad=True)
    assert np.isnan(F.cross_entropy(x, mg.tensor([-100, -100])).item())
    for label in (3, -1):
        wrong = F.cross_entropy(x, mg.tensor([0, label]))
        with pytest.raises(ValueError, match=rf"cross_entropy: a target is {label}, .*0\.\.2"):
            wrong.item()


# ---- optimizers ------------------------------------------------------------------------------------------
RULES: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda ps: optim.SGD(ps, 0.1),
    "SGD, everything": lambda ps: optim.SGD(ps, 0.1, 0.9, weight_decay=0.1, nesterov=True, maximize=True),
    "SGD with momentum": lambda ps: optim.SGD(ps, 0.1, momentum=0.5),
    "SGD, dampened": lambda ps: optim.SGD(ps, 0.1, momentum=0.5, dampening=0.5),
    "Adam": lambda ps: optim.Adam(ps, 0.1),
    "Adam, everything": lambda ps: optim.Adam(ps, 0.1, (0.8, 0.9), 1e-4, 0.1, True, maximize=True),
    "AdamW": lambda ps: optim.AdamW(ps, 0.1, weight_decay=0.2),
    "two groups": lambda ps: optim.AdamW([{"params": ps[:3], "lr": 0.01}, {"params": ps[3:], "weight_decay": 0.0}]),
    "RMSprop": lambda ps: optim.RMSprop(ps, 0.1),
    "RMSprop, everything": lambda ps: optim.RMSprop(ps, 0.1, 0.8, 1e-3, 0.1, 0.9, True, maximize=True),
    "Adagrad": lambda ps: optim.Adagrad(ps, 0.1),
    "Adagrad, everything": lambda ps: optim.Adagrad(ps, 0.1, 0.3, 0.1, 0.5, 1e-3, maximize=True),
}


def steps_of(rule: str, dtype: str, count: int = 70) -> list[np.ndarray]:
    """Parameters and state after some steps, of which one passes a Parameter over and one changes the rate."""
    rng = np.random.default_rng(1)
    draw = lambda i: rng.normal(size=(1100,) if i == 5 else (i % 3 + 1, 2)).astype(dtype)
    parameters = [mg.Parameter(draw(i)) for i in range(count)]
    optimizer = RULES[rule](parameters)
    for step in range(4):
        for i, p in enumerate(parameters):
            p.grad = None if (step, i) == (1, 2) else mg.tensor(draw(i))
        if step == 2:
            optimizer.param_groups[0]["lr"] = 0.05
        if step == 3:
            optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
    state = optimizer.state_dict()
    assert [memory.step for memory in optimizer.state.values()][1:4] == [4, 3, 4]
    return [backend.to_numpy(a) for a in (*(p.data for p in parameters), *state["state"].values())]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_a_step_for_all_parameters_is_the_rules(rule: str, dtype: str) -> None:
    emulator.launched.clear()
    found = steps_of(rule, dtype)
    launches = 0 if rule == "SGD, dampened" else 2 * 3 + 3  # 64 at most; and a gap makes it one more
    assert len(emulator.launched) == launches
    with mg.using("numpy"):
        expected = steps_of(rule, dtype)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_adamws_decay_does_not_round_one_way() -> None:
    """1 - 1e-5 is no float32: multiplied by it, weights shrink by 1.4e-8 of themselves too much at every step."""
    p = mg.Parameter(mg.tensor(RNG.uniform(0.5, 1.0, 300).astype("float32")))
    begun, steps = p.numpy().astype(float), 3000
    optimizer = optim.AdamW([p], lr=1e-3, weight_decay=1e-2)
    for _ in range(steps):
        p.grad = mg.zeros(300)
        optimizer.step()
    off = p.numpy() / (begun * (1 - 1e-5) ** steps) - 1
    assert abs(off.mean()) < 2e-6


# ---- a step as a graph -----------------------------------------------------------------------------------
def trainer(optimizer_of: Callable[[Any], optim.Optimizer], fuse: bool) -> tuple[Any, ...]:
    """A model, its optimizer and a step. No bias before BatchNorm: Adam would follow its gradient's rounding."""
    mg.random.seed(5)
    layers = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(3 * 4 * 4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3),
    )  # fmt: skip
    model = (mg.fused.fuse(layers) if fuse else layers).to_dtype("float64")
    optimizer = optimizer_of(model.parameters())

    def step(x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm(model.parameters(), 5.0)
        optimizer.step()
        return loss.detach()

    return model, optimizer, step


def run(
    capture: bool, optimizer_of: Callable[[Any], optim.Optimizer], fuse: bool, warmup: int = 2
) -> tuple[list[np.ndarray], Any]:
    """Losses, parameters, running statistics and the optimizer's state after some steps with a schedule."""
    model, optimizer, step = trainer(optimizer_of, fuse)
    cycled = {"momentum", "betas"} & optimizer.param_groups[0].hyper.keys()
    schedule = optim.OneCycleLR(optimizer, 0.05, 12, cycle_momentum=bool(cycled))
    fast = mg.capture(step, optimizer, warmup=warmup) if capture else step
    rng, losses = np.random.default_rng(2), []
    for i in range(8):
        x, y = mg.tensor(rng.normal(size=(5, 1, 8, 8))), mg.tensor(rng.integers(0, 3, 5))
        before = transfers.count
        with mg.transfers(limit=0):
            losses.append(mg.tensor(fast(x, y)))
        schedule.step()
        assert transfers.count == before
        assert not capture or (fast.replays, fast.reason is None) == (max(0, i + 1 - warmup), i >= warmup)
    state = optimizer.state_dict()
    assert {memory.step for memory in optimizer.state.values()} == {8}
    return [backend.to_numpy(t.data) for t in (*losses, *model.state_dict().values())] + [
        backend.to_numpy(a) for a in state["state"].values()
    ], fast


GRAPHED: dict[str, Callable[[Any], optim.Optimizer]] = {  # an eps to which the rounding of s - m^2 is small
    "SGD": lambda ps: optim.SGD(ps, 0.01, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda ps: optim.Adam(ps, 0.01, amsgrad=True),
    "AdamW": lambda ps: optim.AdamW(ps, 0.01),
    "RMSprop": lambda ps: optim.RMSprop(ps, 0.01, eps=1e-3, momentum=0.9, centered=True),
    "Adagrad": lambda ps: optim.Adagrad(ps, 0.05, lr_decay=0.1, initial_accumulator_value=0.1),
}


@pytest.mark.parametrize("fuse", [False, True], ids=["layer by layer", "fused"])
@pytest.mark.parametrize("rule", GRAPHED)
def test_a_replayed_step_trains_as_the_step_itself(rule: str, fuse: bool) -> None:
    found, fast = run(True, GRAPHED[rule], fuse)
    expected, _ = run(False, GRAPHED[rule], fuse)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    assert fast.replays == 6


@pytest.mark.parametrize("rule", GRAPHED)
def test_a_step_that_is_captured_before_the_first_one_begins_its_memory_once(rule: str) -> None:
    expected, _ = run(False, GRAPHED[rule], True)  # loads the kernels
    found, _ = run(True, GRAPHED[rule], True, warmup=0)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_a_first_step_that_differs_from_the_others_is_not_what_is_replayed() -> None:
    """Dampening sets in at the second step, and has no kernel that would know which step it is."""
    weights = []
    for captured in (False, True):
        _, optimizer, step = trainer(lambda ps: optim.SGD(ps, 0.05, momentum=0.5, dampening=0.5), True)
        fast = mg.capture(step, optimizer, warmup=0) if captured else step
        for _ in range(4):
            fast(mg.tensor(IMAGES[:5, :, :8, :8]), mg.tensor(LABELS[:5]))
        weights.append([p.numpy() for group in optimizer.param_groups for p in group["params"]])
    assert fast.replays == 3
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


FROM_THE_HOST = "a copy from the host's memory would not be made again by a graph"
"""Why an index that is a list or NumPy's array keeps a step from being captured."""

INDEXED = ("getitem", "pick", "place", "scatter", "scatter_add", "take", "take_along_axis")
"""The ops whose samples have such an index."""


@pytest.mark.parametrize("part", range(4))
def test_every_op_and_its_gradient_in_a_graph(part: int) -> None:
    for sample in SAMPLES[part::4]:
        mg.random.seed(7)
        given = [mg.Parameter(a) if a.dtype.kind == "f" else mg.tensor(a) for a in sample.arrays]
        leaves = [x for x in given if x.requires_grad]
        cotangents: list[Any] = []

        def step(sample: Any = sample, given: Any = given, leaves: Any = leaves, cotangents: Any = cotangents) -> Any:
            y = sample.call(*given)
            outs = [out for out in (y if isinstance(y, (tuple, list)) else [y]) if isinstance(out, mg.Tensor)]
            cotangents += [mg.random.normal(out.shape, dtype=out.dtype) for out in outs if not cotangents]
            found = [out.detach() for out in outs]
            for out, g in zip(outs, cotangents, strict=True):
                if out.requires_grad:
                    found += mg.grad(out, leaves, g, retain_graph=True)
            return [t for t in found if t is not None]

        expected = [t.numpy().copy() for t in step()]
        fast = mg.capture(step, warmup=1)
        for _ in range(2):
            found = fast()
        if fast.reason is not None:
            indexed = sample.name in INDEXED and FROM_THE_HOST in fast.reason
            empty = min(a.size for a in sample.arrays) == 0 and "cuBLAS" in fast.reason
            assert indexed or empty, f"{sample}: {fast.reason}"
        for a, b in zip(expected, found, strict=True):
            largest = np.abs(a[np.isfinite(a)]).max(initial=1.0)
            np.testing.assert_allclose(b.numpy(), a, rtol=0, atol=1e-12 * largest, err_msg=str(sample))


def test_a_graph_has_fewer_launches_of_a_fused_step() -> None:
    kernels_of = {}
    for fuse in (False, True):
        _, optimizer, step = trainer(GRAPHED["SGD"], fuse)
        fast = mg.capture(step, optimizer, warmup=1)
        for _ in range(3):
            fast(mg.ones(5, 1, 8, 8, dtype="float64"), mg.tensor([0, 1, 2, 0, 1]))
        assert fast.reason is None
        kernels_of[fuse] = len(fast._recorded.graph.calls)
    assert kernels_of[True] < kernels_of[False]


@pytest.mark.parametrize("warmup", [0, 1])
def test_capturing_computes_nothing_and_is_undone_where_it_fails(warmup: int) -> None:
    _, optimizer, step = trainer(GRAPHED["Adam"], True)
    asked: list[str] = []

    def asking(x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        loss = step(x, y)
        if backend.capturing.afterwards is not None:
            asked.append(f"{loss.item():.3f}")
        return loss

    given = mg.ones(5, 1, 8, 8, dtype="float64"), mg.tensor([0, 1, 2, 0, 1])
    trainer(GRAPHED["Adam"], True)[2](*given)  # loads the kernels
    fast = mg.capture(asking, optimizer, warmup=warmup)
    losses = [fast(*given).item() for _ in range(3)]
    assert fast.replays == 0 and "operation not permitted when stream is capturing" in fast.reason and asked == []
    _, _, step = trainer(GRAPHED["Adam"], True)
    np.testing.assert_allclose(losses, [step(*given).item() for _ in range(3)], rtol=1e-12)
    assert {memory.step for memory in optimizer.state.values()} == {3}


def test_gradients_that_add_up_over_calls_do_so_where_capturing_fails() -> None:
    gradients = []
    for captured in (False, True):
        model, optimizer, _ = trainer(GRAPHED["SGD"], True)

        def adding(x: mg.Tensor, y: mg.Tensor, model: Any = model, optimizer: Any = optimizer) -> None:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()

        fast = mg.capture(adding, optimizer, warmup=1) if captured else adding
        for _ in range(3):
            fast(mg.tensor(IMAGES[:5, :, :8, :8]), mg.tensor(LABELS[:5]))
        gradients.append([p.grad.numpy() for p in model.parameters()])
    assert "not permitted when stream is capturing" in fast.reason
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("also", [False, True])
def test_of_two_errors_in_a_capture_the_first_is_the_reason(also: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    end = Cuda.Stream.end_capture

    def invalidated(stream: Any) -> Any:
        end(stream)
        raise RuntimeError("the capture was invalidated")

    monkeypatch.setattr(Cuda.Stream, "end_capture", invalidated)
    fast = mg.capture(lambda x: x.sum().item() if also else x * 2, warmup=1)
    for _ in range(2):
        fast(mg.ones(3))
    first = "not permitted when stream is capturing" if also else "RuntimeError: the capture was invalidated"
    assert first in fast.reason and fast.replays == 0


def test_a_tape_from_before_a_replay_is_stale_after_it() -> None:
    model, optimizer, step = trainer(GRAPHED["SGD"], False)
    given = mg.tensor(IMAGES[:5, :, :8, :8]), mg.tensor(LABELS[:5])
    fast = mg.capture(step, optimizer, warmup=1)
    for _ in range(2):
        fast(*given)
    kept = F.cross_entropy(model(given[0]), given[1])
    fast(*given)
    assert fast.replays == 2
    with pytest.raises(RuntimeError, match="overwritten"):
        kept.backward()


def test_a_replay_writes_an_optimizers_numbers_only_where_they_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, optimizer, step = trainer(GRAPHED["Adam"], True)
    given = mg.ones(5, 1, 8, 8, dtype="float64"), mg.tensor([0, 1, 2, 0, 1])
    fast = mg.capture(step, optimizer, warmup=1)
    for _ in range(2):
        fast(*given)
    asarray, uploads = xp.asarray, []
    monkeypatch.setattr(xp, "asarray", lambda *arguments: uploads.append(arguments[0]) or asarray(*arguments))
    for _ in range(2):
        fast(*given)
    assert uploads == [] and fast.replays == 3
    optimizer.param_groups[0]["lr"] = 0.5
    fast(*given)
    assert len(uploads) == 1 and uploads[0][0][0] == 0.5


def test_without_kernels_cublas_is_refused_and_the_reason_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "kernels_on", False)
    _, optimizer, step = trainer(GRAPHED["SGD"], False)
    fast = mg.capture(step, optimizer, warmup=1)
    for _ in range(2):
        fast(mg.ones(5, 1, 8, 8, dtype="float64"), mg.tensor([0, 1, 2, 0, 1]))
    assert fast.replays == 0 and "cuBLAS API during stream capture" in fast.reason


@pytest.mark.parametrize("rows", [1, 64], ids=["one block", "many blocks"])
def test_every_replay_draws_another_mask_with_its_probability(rows: int) -> None:
    mg.random.seed(1)
    fast = mg.capture(lambda x: F.dropout(x, 0.3), warmup=1)
    x = mg.ones(rows, 200)
    masks = [fast(x).numpy().copy() for _ in range(4)][1:]
    assert fast.replays == 3
    for mask in masks:
        np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.7], rtol=1e-6)
        kept = (mask > 0).mean()
        assert abs(kept - 0.7) < 5 * np.sqrt(0.21 / mask.size)
    both = [np.mean((a > 0) == (b > 0)) for a, b in itertools.combinations(masks, 2)]
    np.testing.assert_allclose(both, 0.7**2 + 0.3**2, atol=5 * 0.5 / np.sqrt(x.size))  # as of independent draws
    neighbours = [np.corrcoef(mask.ravel()[1:], mask.ravel()[:-1])[0, 1] for mask in masks]
    np.testing.assert_allclose(neighbours, 0, atol=5 / np.sqrt(x.size))


def test_capturing_finds_every_kernel_loaded() -> None:
    launch._module.cache_clear()
    launch.function.cache_clear()
    _, optimizer, step = trainer(GRAPHED["AdamW"], True)
    fast = mg.capture(lambda x, y: step(F.dropout(x, 0.5), y), optimizer, warmup=1)
    for _ in range(2):
        fast(mg.ones(5, 1, 8, 8, dtype="float64"), mg.tensor([0, 1, 2, 0, 1]))
    assert (fast.replays, fast.reason) == (1, None)


def test_a_wrong_label_in_a_replay_is_told() -> None:
    fast = mg.capture(lambda x, y: F.cross_entropy(x, y), warmup=1)
    x = mg.random.normal(2, 3)
    for labels in ([0, 1], [2, 2]):
        assert np.isfinite(fast(x, mg.tensor(labels)).item())
    loss = fast(x, mg.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"a target is 5, but the 3 classes are 0\.\.2"):
        loss.item()


class Twins:
    """A small net with a layer of each kind that has a mode or a memory, trained as it is and through `capture`."""

    def __init__(self, optimizer_of: Callable[[Any], optim.Optimizer] | None = None) -> None:
        mg.random.seed(3)
        self.net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3)).to_dtype("float64")
        self.optimizer = (optimizer_of or GRAPHED["Adam"])(self.net.named_parameters())

    def forward(self, x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        """The loss, and its gradient added to those there are."""
        loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        return loss.detach()

    def step(self, x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
        self.optimizer.zero_grad()
        loss = self.forward(x, y)
        self.optimizer.step()
        return loss

    def values(self) -> list[np.ndarray]:
        """Everything that training leaves."""
        kept = [a for memory in self.optimizer.state.values() for _, a in sorted(memory.items())]
        steps = [memory.step for memory in self.optimizer.state.values()]
        gradients = [np.array(0.0) if p.grad is None else p.grad.numpy() for p in self.net.parameters()]
        values = [t.numpy().copy() for t in self.net.state_dict().values()]
        return [np.array(steps), *gradients, *values, *[a.get() for a in kept]]


def drawn(i: int) -> tuple[mg.Tensor, mg.Tensor]:
    rng = np.random.default_rng(i)
    return mg.tensor(rng.normal(size=(5, 4))), mg.tensor(rng.integers(0, 3, 5))


def assert_twins(plain: Twins, other: Twins) -> None:
    for a, b in zip(plain.values(), other.values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-11)


def reload(twin: Twins) -> None:
    state = twin.optimizer.state_dict()
    twin.optimizer.load_state_dict(state | {"state": {key: a * 0.5 for key, a in state["state"].items()}})


def begin_again(twin: Twins) -> None:
    twin.optimizer.load_state_dict(GRAPHED["Adam"](twin.net.named_parameters()).state_dict())


def replace(twin: Twins) -> None:
    twin.net[0].weight.data = twin.net[0].weight.data * 2.0


def replace_statistics(twin: Twins) -> None:
    twin.net[1].running_mean.data = twin.net[1].running_mean.data + 1.0


def exchange(twin: Twins) -> None:
    twin.net[1].running_mean = mg.Buffer(twin.net[1].running_mean + 1.0)


CHANGES: dict[str, tuple[Callable[[Twins], Any], str]] = {  # what a graph holds fixed, and how the reason names it
    "an optimizer's state": (reload, "Adam.load_state_dict gave the optimizer other arrays"),
    "an optimizer without a state": (begin_again, "Adam.load_state_dict gave the optimizer other arrays"),
    "a Parameter's array": (replace, "'0.weight' was given another array"),
    "a Buffer's array": (replace_statistics, "'1.running_mean' was given another array"),
    "a Buffer": (exchange, "running_mean of '1' is another Buffer"),
    "the mode": (lambda twin: twin.net.eval(), "training of '3' was set to False"),
    "the mode of a layer": (lambda twin: setattr(twin.net[1], "training", False), "training of '1' was set to False"),
    "a setting of a layer": (lambda twin: setattr(twin.net[1], "momentum", 0.5), "momentum of '1' was set to 0.5"),
    "what learns": (lambda twin: twin.net[3].freeze(), "requires_grad of '3.bias' was switched"),
    "what learns, and back": (lambda twin: twin.net[3].freeze().unfreeze(), "requires_grad of '3.bias' was switched"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_graph_holds_fixed_can_be_changed_and_is_captured_anew(change: str) -> None:
    of, why = CHANGES[change]
    plain, other = Twins(), Twins()
    fast = mg.capture(other.step, other.optimizer, warmup=1)
    for i in range(3):
        plain.step(*drawn(i)), fast(*drawn(i))
    assert (fast.replays, fast.reason) == (2, None)
    of(plain), of(other)
    for i in range(3, 6):
        plain.step(*drawn(i)), fast(*drawn(i))
        assert i > 3 or fast.reason == f"captured anew at the next call, since {why}"
    assert (fast.replays, fast.reason) == (4, None)
    assert_twins(plain, other)


def test_a_mode_that_was_switched_and_switched_back_leaves_the_graph() -> None:
    twin = Twins()
    fast = mg.capture(twin.step, twin.optimizer, warmup=1)
    for i in range(4):
        fast(*drawn(i))
        twin.net.eval()
        twin.net(drawn(i)[0])
        twin.net.train()
    assert (fast.replays, fast.reason) == (3, None)


def stepping_a_schedule(twin: Twins) -> Callable[..., mg.Tensor]:
    schedule = optim.StepLR(twin.optimizer, 3, 0.5)

    def step(*given: mg.Tensor) -> mg.Tensor:
        loss = twin.step(*given)
        schedule.step()
        return loss

    return step


def setting_a_rate(twin: Twins) -> Callable[..., mg.Tensor]:
    def step(*given: mg.Tensor) -> mg.Tensor:
        twin.optimizer.param_groups[0]["lr"] *= 0.5
        return twin.step(*given)

    return step


def setting_a_layer(twin: Twins) -> Callable[..., mg.Tensor]:
    def step(*given: mg.Tensor) -> mg.Tensor:
        twin.net[1].momentum *= 0.5
        return twin.step(*given)

    return step


IN_PYTHON: dict[str, tuple[Callable[[Twins], Callable[..., mg.Tensor]], str]] = {  # what only Python would do again
    "a schedule": (stepping_a_schedule, "the step sets hyper-parameters, and a replay would not; step a schedule out"),
    "a rate": (setting_a_rate, "the step sets hyper-parameters, and a replay would not"),
    "a layer": (setting_a_layer, "a replay would not repeat what the step does: momentum of '1' was set to 0.0"),
}


@pytest.mark.parametrize("rule", ["SGD", "Adam"])
@pytest.mark.parametrize("what", IN_PYTHON)
def test_a_step_that_sets_numbers_in_python_is_not_captured(what: str, rule: str) -> None:
    of, why = IN_PYTHON[what]
    plain, other = Twins(GRAPHED[rule]), Twins(GRAPHED[rule])
    step, fast = of(plain), mg.capture(of(other), other.optimizer, warmup=2)
    for i in range(6):
        step(*drawn(i)), fast(*drawn(i))
    assert fast.replays == 0 and fast.reason.startswith(why)
    assert_twins(plain, other)
    assert plain.optimizer.param_groups[0]["lr"] == other.optimizer.param_groups[0]["lr"]
    assert plain.net[1].momentum == other.net[1].momentum


@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_several_steps_of_the_optimizer_in_one_graph_are_counted(rule: str) -> None:
    plain, other = Twins(GRAPHED[rule]), Twins(GRAPHED[rule])
    several = lambda twin: lambda x, y: [twin.step(x, y) for _ in range(3)][-1]
    step, fast = several(plain), mg.capture(several(other), other.optimizer, warmup=1)
    for i in range(4):
        step(*drawn(i)), fast(*drawn(i))
    assert (fast.replays, fast.reason) == (3, None)
    assert {memory.step for memory in other.optimizer.state.values()} == {12}
    assert_twins(plain, other)


WAYS: dict[str, Callable[[mg.Parameter, mg.Tensor], None]] = {  # to overwrite a Parameter without an optimizer
    "update": lambda p, x: p.update(p.detach() - x),
    "an operator": lambda p, x: setattr(p, "data", p.data.__isub__(x.data)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_tape_from_before_a_replay_that_writes_by_hand_is_stale(way: str) -> None:
    w = mg.Parameter(mg.ones(3))
    fast = mg.capture(lambda x: WAYS[way](w, x), warmup=1)
    for _ in range(2):
        fast(mg.ones(3))
    kept, version = (w * w).sum(), w.version
    fast(mg.ones(3))
    assert fast.replays == 2 and w.version == version + 1
    with pytest.raises(RuntimeError, match="overwritten"):
        kept.backward()


def test_an_input_of_another_library_is_named_by_the_op_that_it_reaches() -> None:
    with mg.using("numpy"):
        given = mg.ones(2, 2)
    fast = mg.capture(lambda x: x @ mg.ones(2, 2), warmup=1)
    fast(mg.ones(2, 2)), fast(mg.ones(2, 2))
    with pytest.raises(TypeError, match=r"matmul: operands of two array libraries meet: numpy\.float32"):
        fast(given)
    assert fast.replays == 1 and "of the backend in use" in fast.reason


def test_a_step_that_gives_a_parameter_another_array_is_not_captured() -> None:
    w = mg.Parameter(mg.ones(3))

    def step(x: mg.Tensor) -> None:
        (w * x).sum().backward()
        w.data = w.data - 0.1 * w.grad.data
        w.grad = None

    fast = mg.capture(step, warmup=2)
    for _ in range(5):
        fast(mg.ones(3))
    assert fast.replays == 0 and "a Parameter of shape [3] was given another array" in fast.reason
    np.testing.assert_allclose(w.numpy(), 0.5, rtol=1e-6)


def zeroed_before(twin: Twins, forward: Any, i: int) -> None:
    twin.optimizer.zero_grad()
    forward(*drawn(i))
    twin.optimizer.step()


def zeroed_after(twin: Twins, forward: Any, i: int) -> None:
    forward(*drawn(i))
    twin.optimizer.step()
    twin.net.zero_grad()


def added_up(twin: Twins, forward: Any, i: int) -> None:
    twin.optimizer.zero_grad()
    forward(*drawn(i))
    forward(*drawn(i + 50))
    twin.optimizer.step()


def never_zeroed(twin: Twins, forward: Any, i: int) -> None:
    forward(*drawn(i))
    twin.optimizer.step()


LOOPS: dict[str, tuple[Callable[[Twins, Any, int], None], int]] = {  # around a captured backward pass: its replays
    "zero_grad before": (zeroed_before, 4),
    "zero_grad after": (zeroed_after, 4),
    "two that add up": (added_up, 5),
    "never zero_grad": (never_zeroed, 0),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_gradients_of_a_captured_backward_pass_are_there_after_every_replay(loop: str) -> None:
    take, replays = LOOPS[loop]
    plain, other = Twins(), Twins()
    fast = mg.capture(other.forward, warmup=2)
    for i in range(6):
        take(plain, plain.forward, i), take(other, fast, i)
    assert_twins(plain, other)
    assert fast.replays == replays
    assert replays == 4 or "'3.bias' is there before the step, which uses it or adds to it" in fast.reason


def test_a_gradient_that_was_lost_with_its_node_is_in_no_ones_way() -> None:
    plain, other = Twins(), Twins()
    fast = mg.capture(other.forward, warmup=1)
    for i in range(6):
        zeroed_before(plain, plain.forward, i), zeroed_before(other, fast, i)
        if i == 2:
            plain.net[3].freeze().unfreeze(), other.net[3].freeze().unfreeze()
    assert_twins(plain, other)
    assert (fast.replays, fast.reason) == (4, None)


@pytest.mark.parametrize("how", ["as they are", "clipped", "by hand"])
def test_a_step_from_gradients_that_were_made_outside_of_it_is_not_captured(how: str) -> None:
    plain, other = Twins(), Twins()

    def update(twin: Twins) -> None:
        if how == "clipped":
            optim.clip_grad_norm(twin.net.named_parameters(), 0.1)
        if how != "by hand":
            twin.optimizer.step()
            return
        for p in twin.net.parameters():
            p.data -= 0.1 * p.grad.data

    fast = mg.capture(lambda: update(other), None if how == "by hand" else other.optimizer, warmup=1)
    for i in range(4):
        for twin, last in ((plain, lambda: update(plain)), (other, fast)):
            twin.optimizer.zero_grad()
            twin.forward(*drawn(i))
            last()
    assert_twins(plain, other)
    assert fast.replays == 0 and "is there before the step" in fast.reason


@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_a_step_whose_optimizer_capture_does_not_know_is_not_captured(rule: str) -> None:
    plain, other = Twins(GRAPHED[rule]), Twins(GRAPHED[rule])
    stranger = optim.Adam([mg.Parameter(mg.ones(2))])
    for number, told in enumerate((None, stranger)):
        fast = mg.capture(other.step, told, warmup=number)
        for i in range(3):
            plain.step(*drawn(i)), fast(*drawn(i))
        assert fast.replays == 0 and f"{rule}.step runs in the step" in fast.reason
        assert "mg.capture(step, optimizer)" in fast.reason
    assert_twins(plain, other)


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("why", ["half precision", "two dtypes", "a kernel given up"])
@pytest.mark.parametrize("rule", ["SGD", "Adam", "RMSprop"])
def test_a_step_that_is_no_kernels_sees_every_count_and_rate(
    rule: str, why: str, warmup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_unusable", {"optimizer step"} if why == "a kernel given up" else set())
    dtypes = {"half precision": ("float16",) * 2, "two dtypes": ("float32", "float64")}.get(why, ("float32",) * 2)
    trained = []
    for captured in (False, True):
        weights = [mg.Parameter(mg.ones(3, dtype=dtype)) for dtype in dtypes]
        optimizer = GRAPHED[rule](weights) if why != "half precision" else type(GRAPHED[rule](weights))(weights, 0.01)
        if "eps" in optimizer.param_groups[0]:
            optimizer.param_groups[0]["eps"] = 1e-3

        def step(x: mg.Tensor, weights: Any = weights, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            sum((w.astype("float64") * x).sum() for w in weights).backward()
            optimizer.step()

        fast = mg.capture(step, optimizer, warmup=warmup) if captured else step
        for i in range(7):
            optimizer.param_groups[0]["lr"] = 0.01 if i < 5 else 0.001
            fast(mg.ones(3, dtype="float64"))
        trained.append([w.numpy() for w in weights])
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6)
    assert "hyper-parameters" in fast.reason if rule == "SGD" else f"{rule} counts its steps on the host" in fast.reason
    assert (fast.replays > 0) == (rule == "SGD")


@pytest.mark.parametrize("warmup", [0, 1])
def test_ctrl_c_in_a_capture_leaves_everything_as_it_was_before_the_step(warmup: int) -> None:
    ready = Twins()  # what a capture launches is compiled before it
    first = mg.capture(ready.step, ready.optimizer, warmup=1)
    first(*drawn(0)), first(*drawn(0))
    plain, other = Twins(), Twins()

    def step(*given: mg.Tensor) -> mg.Tensor:
        loss = other.step(*given)
        if backend.capturing.afterwards is not None and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return loss

    interrupted: list[bool] = []
    fast = mg.capture(step, other.optimizer, warmup=warmup)
    for i in range(warmup):
        plain.step(*drawn(i)), fast(*drawn(i))
    before = [p.grad for p in other.net.parameters()]
    with pytest.raises(KeyboardInterrupt):
        fast(*drawn(1))
    assert_twins(plain, other)
    for p, grad in zip(other.net.parameters(), before, strict=True):
        assert (p.grad is None and grad is None) or p.grad.data is grad.data
    assert backend.capturing.afterwards is None and not backend.pending
    for i in range(2):
        plain.step(*drawn(i)), fast(*drawn(i))
    assert (fast.replays, fast.reason) == (2, None)
    assert_twins(plain, other)


def test_what_follows_a_step_that_fails_waits_for_what_it_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Any] = []
    monkeypatch.setattr(Cuda.Stream, "wait_event", lambda stream, event: waits.append(stream))
    fast = mg.capture(lambda x: x.reshape(7), warmup=1)
    for count in (2, 4):
        with pytest.raises(ValueError, match="reshape"):
            fast(mg.ones(3))
        assert len(waits) == count  # the graph's stream for the caller's, and the caller's for the graph's


def test_a_captured_step_within_another_is_a_part_of_it() -> None:
    inner = mg.capture(lambda x: x * 2, warmup=1)
    outer = mg.capture(lambda x: inner(x) + 1, warmup=1)
    assert [outer(mg.full(1, float(i))).item() for i in range(4)] == [1.0, 3.0, 5.0, 7.0]
    assert outer.replays == 3 and inner.reason == "it runs within a step that is captured itself"


CHECKED: dict[str, tuple[Callable[[mg.Tensor], mg.Tensor], Any]] = {  # what looks at labels or indices, and its error
    "a kernel": (lambda y: F.cross_entropy(mg.ones(2, 3), y), ValueError),
    "ordinary ops": (lambda y: F.cross_entropy(mg.ones(2, 3), y, label_smoothing=0.1), ValueError),
    "an embedding": (lambda y: F.embedding(y, mg.ones(3, 2)).sum(), IndexError),
}


@pytest.mark.parametrize("what", CHECKED)
def test_a_wrong_label_before_the_last_replay_is_told_too(what: str) -> None:
    step, kind = CHECKED[what]
    fast = mg.capture(step, warmup=1)
    good, wrong = mg.tensor([0, 2]), mg.tensor([0, 7])
    for _ in range(2):  # the look in between starts afresh
        for labels in (good, good, wrong, good):
            loss = fast(labels)
        with pytest.raises(ValueError, match="a label or an index was out of range in a replay before the last"):
            loss.item()
        assert np.isfinite(fast(good).item())
    loss = fast(wrong)
    with pytest.raises(kind, match=r"0\.\.2"):
        loss.item()
    assert fast.reason is None


REFUSED: dict[str, Callable[[Any], Any]] = {
    "a product": lambda x: x @ x, "dot": lambda x: xp.dot(x, x), "einsum": lambda x: xp.einsum("ij,jk", x, x),
    "tensordot": lambda x: xp.tensordot(x, x), "a method": lambda x: x.dot(x), "get": lambda x: x.get(),
    "an if": lambda x: bool(x[0, 0]), "a mask": lambda x: x[x > 0], "an upload": lambda x: xp.asarray([1.0]),
    "waiting": lambda x: xp.cuda.get_current_stream().synchronize(),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_the_standin_refuses_in_a_capture(what: str) -> None:
    x = xp.ones((2, 2))
    stream = xp.cuda.Stream()
    stream.begin_capture()
    try:
        with pytest.raises((RuntimeError, NotImplementedError), match=r"captur|copy from the host"):
            REFUSED[what](x)
    finally:
        stream.end_capture()


def test_the_standins_graph_computes_at_launch_what_was_captured() -> None:
    x = xp.ones(3)
    stream = xp.cuda.Stream()
    stream.begin_capture()
    y = x * 2
    x += y
    x[1:] *= 10.0
    graph = stream.end_capture()
    assert x.get().tolist() == [1.0] * 3 and np.isnan(y.get()).all()
    graph.launch(stream)
    graph.launch(stream)
    assert x.get().tolist() == [9.0, 900.0, 900.0] and y.get().tolist() == [6.0, 60.0, 60.0]


# ---- batches and the main job ------------------------------------------------------------------------------
@pytest.mark.parametrize("augment", [None, data.Augment(shift=3), data.Augment(2, 20.0, 0.3, 0.2)], ids=str)
def test_batches_made_on_the_device_are_the_hosts(augment: Any) -> None:
    images = RNG.integers(0, 256, (50, 2, 9, 7)).astype(np.uint8)
    labels = RNG.integers(0, 10, 50)
    found: list[list[np.ndarray]] = []
    for name in ("emulated", "numpy"):
        with mg.using(name), mg.transfers() as crossed:
            batches = data.Batches(images, labels, 16, seed=4, augment=augment, normalise=(0.3, 0.5))
            found.append([t.numpy() for _ in range(2) for batch in batches for t in batch])
        if name == "emulated":  # images, labels, levels; two orders; and what the distortions are
            assert crossed.to_device == 3 + 2 + (8 if augment else 0)
    grey = 1 / 255 / 0.5
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        off = np.abs(a - b)
        assert off.max() <= grey * 1.01 and (off > grey / 2).mean() < 1e-3  # a rounding that falls on the other side


@pytest.mark.parametrize("plainly", [False, True])
def test_the_main_job_reads_the_loss_now_and_then(
    plainly: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    images, labels = RNG.integers(0, 256, (160, 1, 28, 28)).astype(np.uint8), RNG.integers(0, 10, 160)
    few = data.Dataset("few", images, labels, images[:20], labels[:20], tuple("0123456789"), "random numbers")
    monkeypatch.setattr(command, "load", lambda *arguments: few)
    monkeypatch.setattr(pictures, "draw", lambda *arguments: None)
    losses, loops = [], []
    epoch = training.epoch

    def watched(*arguments: Any) -> bool:
        before = transfers.count
        done = epoch(*arguments)
        loops.append(transfers.count - before)
        return done

    monkeypatch.setattr(training, "epoch", watched)
    for name in ("emulated", "numpy"):
        with mg.using(name):
            out = tmp_path / name
            flags = ["--model", "mlp-bn", "--epochs", "2", "--batch-size", "8", "--out", str(out), "--no-augment"]
            assert command.main(flags + ["--no-capture", "--no-fuse"] * plainly) == 0, capsys.readouterr()
        printed = capsys.readouterr()
        assert "CUDA graph" not in printed.err  # each step was one, or was not meant to be
        assert (", fused" in printed.out) == (name == "emulated" and not plainly)
        losses.append([json.loads(line)["train_loss"] for line in (out / "metrics.jsonl").read_text().splitlines()])
    np.testing.assert_allclose(*losses, rtol=1e-3)
    # Of 20 steps: the loss for the points of the trace, and with a look whether the labels since were fine.
    assert max(loops) <= 20 + 20


def test_a_run_of_captured_steps_that_was_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = RNG.integers(0, 256, (96, 1, 28, 28)).astype(np.uint8), RNG.integers(0, 10, 96)
    few = data.Dataset("digits", images, labels, images[:20], labels[:20], tuple("0123456789"), "random numbers")
    monkeypatch.setattr(command, "load", lambda *arguments: few)
    monkeypatch.setattr(pictures, "draw", lambda *arguments: None)
    step, steps = training.Stepper.__call__, itertools.count()

    def stopped(*arguments: Any) -> Any:
        if next(steps) == 16:
            raise KeyboardInterrupt
        return step(*arguments)

    flags = ["--model", "mlp-bn", "--epochs", "2", "--batch-size", "8", "--save-every", "5"]
    assert command.main([*flags, "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr(training.Stepper, "__call__", stopped)
    assert command.main([*flags, "--out", str(tmp_path / "parts")]) == 130
    monkeypatch.setattr(training.Stepper, "__call__", step)
    assert command.main(["--resume", "--out", str(tmp_path / "parts")]) == 0
    whole, parts = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


# ---- what goes wrong -------------------------------------------------------------------------------------
MISTAKES = {  # source, what stands there, the mistake, and what it breaks
    "an offset": ("convolution", "j = e % XCOLUMNS - PW", "j = e % XCOLUMNS", "conv"),
    "a barrier": ("convolution", "        __syncthreads();\n#pragma", "#pragma", "conv"),
    "another barrier": ("product", "        __syncthreads();\n    }", "    }", "product"),
    "a part": ("convolution_weight", "part < parts - half", "part < parts - half - 1", "conv"),
    "a tie": ("pooling", "return a > b ||", "return a >= b ||", "pool"),
    "a step": ("optimizers", "*count += 1;", "", "adam"),
    "a count from one": ("optimizers", "counts[array] * of[3]", "(counts[array] + 1) * of[3]", "adagrad"),
    "a square": ("optimizers", "square -= mean * mean;", "", "rmsprop"),
    "the last elements": ("sums", "at < end ?", "at + partners < end ?", "sums"),
    "a barrier among partners": ("sums", "        __syncthreads();\n", "", "sums"),
    "a row's block": ("loss", "row += blockDim.x", "row += 256", "loss"),
    "a batch that is counted": ("running", "*tracked += 1;", "", "remember"),
    "the value that has the weight": ("running", "(1 - f) * running_var", "f * running_var", "remember"),
    "a skipped line": ("sums", "line * skipped", "(line + 1) * skipped", "sums"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_in_a_kernel_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, right, wrong, check = MISTAKES[name]
    source = launch.source
    assert right in source(file)
    launch._module.cache_clear()
    planted = {file: source(file).replace(right, wrong)}
    monkeypatch.setattr(launch, "source", lambda name: planted.get(name) or source(name))
    checks: dict[str, Callable[[], None]] = {
        "conv": lambda: test_convolution_and_its_adjoints("many cells", "float32"),
        "product": lambda: test_convolution_and_its_adjoints("everything", "float32"),
        "pool": lambda: test_max_pooling_chooses_the_first_of_equals_and_nan_wins("tiles", "float32"),
        "adam": lambda: test_a_step_for_all_parameters_is_the_rules("Adam", "float32"),
        "adagrad": lambda: test_a_step_for_all_parameters_is_the_rules("Adagrad, everything", "float32"),
        "rmsprop": lambda: test_a_step_for_all_parameters_is_the_rules("RMSprop, everything", "float32"),
        "loss": lambda: test_cross_entropy_and_its_gradient("float32", 300),
        "sums": lambda: test_sums_and_means_over_axes("channels", "float32", False),
        "remember": lambda: test_batch_norm_remembers_in_one_launch_what_it_remembers_on_the_host("float32", 0.1),
    }
    try:
        with pytest.raises(AssertionError):
            checks[check]()
    finally:
        launch._module.cache_clear()


def test_a_barrier_that_only_some_threads_reach_is_an_error() -> None:
    code = 'extern "C" __global__ void f(long long n) { if (threadIdx.x < n) __syncthreads(); }'
    f = xp.RawModule(code=code).get_function("f")
    f((2,), (4,), (4,))
    with pytest.raises(RuntimeError, match="a barrier that only some threads"):
        f((2,), (4,), (3,))
    f((2,), (4,), (0,))


def test_more_shared_memory_than_a_block_has_is_an_error() -> None:
    code = 'extern "C" __global__ void f(float *x) { __shared__ float a[SIZE]; a[int(x[0])] = 1; x[1] = a[int(x[2])]; }'
    xp.RawModule(code=f"#define SIZE {48 * 256}\n" + code).get_function("f")
    with pytest.raises(RuntimeError, match="f uses too much shared data"):
        xp.RawModule(code=f"#define SIZE {48 * 256 + 1}\n" + code).get_function("f")


def test_arguments_that_a_device_would_misread_are_refused() -> None:
    code = 'extern "C" __global__ void f(const float *x, long long n, double p) { }'
    f = xp.RawModule(code=code).get_function("f")
    f((1,), (1,), (xp.ones(2, np.float32), 2, 1.0))
    for wrong in ((xp.ones(2), 2, 1.0), (xp.ones(2, np.float32), 2.0, 1.0), (None, 2, 1), (None, 2)):
        with pytest.raises(TypeError):
            f((1,), (1,), wrong)
    with pytest.raises(RuntimeError, match="INVALID_VALUE"):
        f((0,), (1,), (None, 2, 1.0))


def test_a_kernel_that_does_not_compile_leaves_its_place_to_ordinary_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "give_up", GIVE_UP)
    monkeypatch.setattr(launch, "_unusable", set())
    monkeypatch.setattr(launch, "source", lambda name: "this is no C++")
    launch._module.cache_clear()
    x, w = mg.ones(1, 1, 3, 3), mg.ones(1, 1, 2, 2)
    try:
        with pytest.warns(RuntimeWarning, match=r"the device's kernel for conv2d cannot be used.*CompileException"):
            assert F.conv2d(x, w).numpy().tolist() == [[[[4.0, 4.0], [4.0, 4.0]]]]
        assert F.conv2d(x, w).shape == (1, 1, 2, 2)  # warned once
    finally:
        launch._module.cache_clear()


def test_out_of_memory_in_a_kernels_launch_names_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> Any:
        raise MemoryError("Out of memory allocating 1,000 bytes (allocated so far: 200 bytes).")

    x, w = mg.ones(1, 1, 3, 3), mg.ones(1, 1, 2, 2)
    monkeypatch.setattr(xp, "empty", full)
    with pytest.raises(mg.OutOfMemory, match=r"conv of float32 \[1, 1, 3, 3\].*allocating 1,000 bytes.*batch size"):
        F.conv2d(x, w)


def test_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "kernels_on", False)
    emulator.launched.clear()
    F.conv2d(mg.ones(1, 1, 3, 3), mg.ones(1, 1, 2, 2))
    assert emulator.launched == []
    monkeypatch.setattr(backend, "kernels_on", True)
    F.conv2d(mg.ones(1, 1, 3, 3), mg.ones(1, 1, 2, 2))
    assert emulator.launched == ["conv"]


SECOND = convolving.Shape(16, 14, 14, 32, 14, 14, 1, (3, 3), (1, 1), (1, 1), (1, 1))
WINDOWS = {"H": 28, "W": 28, "OH": 14, "OW": 14, "KH": 2, "KW": 2, "SH": 2, "SW": 2, "PH": 0, "PW": 0, "DH": 1, "DW": 1}


def sources(itemsize: int) -> dict[str, dict[str, Any]]:
    """The kernels' files with the sizes of a small network."""
    return {
        "product matmul": {},
        "convolution": {**SECOND.defined(), **(convolving.conv_tile(SECOND, 128, itemsize) or {}), "TURNED": 0},
        "convolution_weight": {**SECOND.defined(), **(convolving.weight_tile(SECOND, itemsize) or {})},
        "product convolution_input": {**SECOND.defined(), "TILE": 2},
        "pooling": {**WINDOWS, "NUMBER": "unsigned char"},
        "normalisation": {"C": 16, "H": 28, "W": 28, "KH": 2, "KW": 2, "RELU": 1},
        "loss": {"LABEL": "long long"},
        "images": {"C": 1, "H": 28, "W": 28},
        "optimizers": {},
        "masks": {},
        "running": {},
        "sums": {},
    }


def test_every_file_of_kernels_is_compiled_below() -> None:
    files = {path.stem for path in Path(launch.__file__).parent.glob("*.cu")}
    assert files == {name for names in sources(4) for name in names.split()}


# The oldest cards that CUDA 13 knows (Turing), and those that speed was measured on.
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here; g++ compiles the kernels in the other tests")
@pytest.mark.parametrize("card, dtype", [("sm_75", "float32"), ("sm_90", "float32"), ("sm_90", "float64")])
@pytest.mark.parametrize("names", sources(4))
def test_every_kernel_compiles_with_nvcc_without_a_warning_or_a_spill(
    names: str, card: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xp, "RawModule", lambda code, options: code)
    sizes = sources(np.dtype(dtype).itemsize)[names]
    (tmp_path / "kernel.cu").write_text(launch.module(*names.split(), dtype=np.dtype(dtype), **sizes))
    command = ["nvcc", "-cubin", f"-arch={card}", "-std=c++17", "-Xptxas=-v", "-Werror=all-warnings", "-o", os.devnull]
    done = subprocess.run([*command, tmp_path / "kernel.cu"], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert spills and set(spills) == {("0", "0")}
