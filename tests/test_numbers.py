"""How many digits the rows have: bounds in ulps, over ordinary and hard inputs.

An ulp is the distance between the true result and the next number of the dtype. float32 is judged by
NumPy's float64, float64 by mpmath with 50 digits, both on exactly the inputs that the row was given. A
bound is stated for each row. NumPy's own functions are allowed the 4 ulps that NumPy allows its vector
code, which differs between processors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

import minigrad as mg
from minigrad import backend, ops

mpmath.mp.dps = 50
RNG = np.random.default_rng(11)


def spread(low: float, high: float, n: int = 400) -> np.ndarray:
    """Values between two bounds: uniform ones, the bounds themselves, and tiny ones where 0 lies between."""
    x = np.concatenate([RNG.uniform(low, high, n), [low, high]])
    if low < 0 < high:
        x = np.concatenate(
            [x, np.geomspace(1e-30, min(-low, high), 60), -np.geomspace(1e-30, min(-low, high), 60), [0.0]]
        )
    return x


def magnitudes(low: float = 1e-30, high: float = 1e30, n: int = 400) -> np.ndarray:
    return np.geomspace(low, high, n)


mp = mpmath.mp
ROWS: dict[str, tuple[Callable[[Any], Any], np.ndarray, float, float]] = {
    # row: (the true function of an mpmath number, inputs, bound for float32, bound for float64)
    "exp": (mp.exp, spread(-80, 80), 4.0, 4.0),
    "exp2": (lambda x: mp.power(2, x), spread(-100, 100), 4.0, 4.0),
    "expm1": (mp.expm1, spread(-80, 80), 4.0, 4.0),
    "log": (mp.log, magnitudes(), 4.0, 4.0),
    "log2": (lambda x: mp.log(x, 2), magnitudes(), 4.0, 4.0),
    "log10": (lambda x: mp.log(x, 10), magnitudes(), 4.0, 4.0),
    "log1p": (mp.log1p, np.concatenate([magnitudes(), spread(-0.99, 5)]), 4.0, 4.0),
    "sqrt": (mp.sqrt, magnitudes(), 0.5, 0.5),
    "reciprocal": (lambda x: 1 / x, magnitudes(), 0.5, 0.5),
    "square": (lambda x: x * x, magnitudes(1e-15, 1e15), 0.5, 0.5),
    "sin": (mp.sin, spread(-30, 30), 4.0, 4.0),
    "cos": (mp.cos, spread(-30, 30), 4.0, 4.0),
    "tan": (mp.tan, spread(-30, 30), 4.0, 4.0),
    "arcsin": (mp.asin, spread(-1, 1), 4.0, 4.0),
    "arccos": (mp.acos, spread(-1, 1), 4.0, 4.0),
    "arctan": (mp.atan, spread(-50, 50), 4.0, 4.0),
    "sinh": (mp.sinh, spread(-80, 80), 4.0, 4.0),
    "cosh": (mp.cosh, spread(-80, 80), 4.0, 4.0),
    "tanh": (mp.tanh, spread(-20, 20), 4.0, 4.0),
    "arcsinh": (mp.asinh, spread(-1e6, 1e6), 4.0, 4.0),
    "arccosh": (mp.acosh, spread(1, 1e6), 4.0, 4.0),
    "arctanh": (mp.atanh, spread(-0.999, 0.999), 4.0, 4.0),
    "erf": (mp.erf, spread(-6, 6), 1.0, 3.0),
    "erfc": (mp.erfc, spread(-6, 9), 1.0, 4.0),
    "sigmoid": (lambda x: 1 / (1 + mp.exp(-x)), spread(-80, 80), 3.0, 3.0),
    "softplus": (lambda x: mp.log1p(mp.exp(x)), spread(-80, 80), 4.0, 4.0),
    "silu": (lambda x: x / (1 + mp.exp(-x)), spread(-80, 80), 4.0, 4.0),
    # The rounding of x / sqrt(2) is multiplied by x^2: 81 at the ends of the range.
    "gelu": (lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2, spread(-9, 9), 100.0, 100.0),
    "elu": (lambda x: x if x > 0 else mp.expm1(x), spread(-80, 80), 4.0, 4.0),
}


def ulps(ours: np.ndarray, truth: list[Any]) -> np.ndarray:
    """The distance from the truth, in units of the last place of the dtype there."""
    errors = []
    for y, t in zip(ours, truth, strict=True):
        nearest = ours.dtype.type(float(t))
        unit = max(float(np.spacing(np.abs(nearest))), float(np.finfo(ours.dtype).tiny * np.finfo(ours.dtype).eps))
        errors.append(float(abs(mpmath.mpf(float(y)) - t) / unit))
    return np.array(errors)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ROWS)
def test_ulps(name: str, dtype: str) -> None:
    true, x, *bounds = ROWS[name]
    x = x.astype(dtype)
    ours = getattr(ops, name)(mg.tensor(x)).numpy()
    errors = ulps(ours, [true(mpmath.mpf(float(v))) for v in x])
    worst = int(np.argmax(errors))
    assert errors[worst] <= bounds[dtype == "float64"], f"{errors[worst]:.3g} ulps at {x[worst]!r}"


HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
HALVES = HALVES[np.isfinite(HALVES)]
OF_HALVES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "exp": (np.exp, 1.0),
    "tanh": (np.tanh, 1.0),
    "sin": (np.sin, 1.0),
    "arctan": (np.arctan, 1.0),
    "sigmoid": (lambda x: np.exp(-np.logaddexp(0, -x)), 2.0),
    "softplus": (lambda x: np.logaddexp(x, 0), 2.0),
    # far to the left sigmoid is subnormal, and has few digits
    "silu": (lambda x: x * np.exp(-np.logaddexp(0, -x)), 9.0),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), 1.0),
    "erf": (np.vectorize(math.erf), 0.6),
    "erfc": (np.vectorize(math.erfc), 0.6),
}


@pytest.mark.parametrize("name", OF_HALVES)
def test_ulps_of_every_half(name: str) -> None:
    """All 63,488 finite numbers of float16, judged by float64; results below the smallest normal absolutely."""
    true, bound = OF_HALVES[name]
    with np.errstate(over="ignore"):
        ours, truth = getattr(ops, name)(mg.tensor(HALVES)).numpy(), true(HALVES.astype(float))
        nearest = truth.astype(np.float16)
    finite = np.isfinite(nearest) & np.isfinite(ours)
    assert (np.isfinite(ours) | (np.abs(truth) > 65000)).all()
    error = np.abs(ours[finite].astype(float) - truth[finite]) / np.spacing(np.abs(nearest[finite])).astype(float)
    assert error.max() <= bound, f"{error.max():.3g} ulps at {HALVES[finite][np.argmax(error)]!r}"


# ---- hard inputs -------------------------------------------------------------------------------------
FAR = np.array([-np.inf, -1e30, -800.0, 800.0, 1e30, np.inf, np.nan], "float32")


@pytest.mark.parametrize(
    ("name", "value", "slope"),
    [
        ("sigmoid", [0, 0, 0, 1, 1, 1, np.nan], [0, 0, 0, 0, 0, 0, np.nan]),
        ("softplus", [0, 0, 0, 800, 1e30, np.inf, np.nan], [0, 0, 0, 1, 1, 1, np.nan]),
        ("tanh", [-1, -1, -1, 1, 1, 1, np.nan], [0, 0, 0, 0, 0, 0, np.nan]),
        ("erf", [-1, -1, -1, 1, 1, 1, np.nan], [0, 0, 0, 0, 0, 0, np.nan]),
        ("relu", [0, 0, 0, 800, 1e30, np.inf, np.nan], [0, 0, 0, 1, 1, 1, 0]),
        ("elu", [-1, -1, -1, 800, 1e30, np.inf, np.nan], [0, 0, 0, 1, 1, 1, np.nan]),
    ],
)
def test_far_out_and_beyond(name: str, value: Any, slope: Any) -> None:
    """No overflow on the way, neither in the value nor in the gradient; NaN stays NaN."""
    x = mg.tensor(FAR, requires_grad=True)
    with np.errstate(invalid="raise", divide="raise"):
        y = getattr(ops, name)(x)
    with np.errstate(over="ignore"):
        y.backward(np.ones(len(FAR)))
    np.testing.assert_array_equal(y.numpy(), np.array(value, "float32"))
    np.testing.assert_array_equal(x.grad.numpy(), np.array(slope, "float32"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sigmoid_and_softplus_never_overflow(dtype: str) -> None:
    x = mg.tensor(np.array([-60000.0, -1000, -20, 0, 20, 1000, 60000], dtype))
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert (np.diff(x.sigmoid().numpy()) >= 0).all()
        assert np.isfinite(x.softplus().numpy()).all() and np.isfinite(x.silu().numpy()).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", ["largest", "smallest normal", "subnormal"])
def test_the_norm_of_the_largest_and_the_smallest_numbers(size: str, dtype: str) -> None:
    if (size, dtype, backend.current()) == ("subnormal", "float32", "cupy"):
        pytest.skip("CuPy compiles its kernels to flush subnormal float32 to zero")
    info = np.finfo(dtype)
    unit = {"largest": info.max / 8, "smallest normal": info.tiny, "subnormal": info.smallest_subnormal * 1000}[size]
    x = mg.tensor(np.array([3, -4, 0], dtype) * unit, requires_grad=True)
    with np.errstate(over="raise"):
        y = x.norm()
    np.testing.assert_allclose(float(y.item()), float(np.array(5, dtype) * unit), rtol=2 * info.eps)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), [0.6, -0.8, 0], rtol=4 * info.eps)


def test_the_norm_of_infinities_and_nan() -> None:
    assert mg.tensor([np.inf, 1.0]).norm().item() == math.inf
    assert math.isnan(mg.tensor([np.nan, 1.0]).norm().item())


@pytest.mark.parametrize("offset", [-1e4, 0.0, 1e4])
def test_logsumexp_at_any_offset(offset: float) -> None:
    x = np.array([0.25, 1.5, -2.0, 0.0], "float32") + np.float32(offset)
    x = mg.tensor(x, requires_grad=True)
    y = x.logsumexp(0)
    true = np.logaddexp.reduce(x.numpy().astype(float))
    assert abs(float(y.item()) - true) <= np.spacing(np.float32(abs(true)))
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), np.exp(x.numpy().astype(float) - true), rtol=2e-3 if offset else 1e-6)


def test_moments_of_a_large_mean_with_a_small_spread() -> None:
    """Mean 1e4, standard deviation 1e-2 in float32, where E[x^2] - E[x]^2 has no digit right."""
    x = (1e4 + 1e-2 * RNG.normal(size=(1000, 3))).astype("float32")
    wide = x.astype(float)
    t = mg.tensor(x)
    np.testing.assert_allclose(t.mean(0).numpy(), wide.mean(0), rtol=2e-7)
    np.testing.assert_allclose(t.var(0).numpy(), wide.var(0), rtol=2e-6)
    np.testing.assert_allclose(t.std(0).numpy(), wide.std(0), rtol=1e-6)


def test_statistics_of_halves_do_not_overflow_on_the_way() -> None:
    x = mg.tensor(np.array([300.0] + [0.0] * 99, np.float16).repeat(20), requires_grad=True)
    for f, exact in ((mg.var, 891.0), (mg.std, 891.0**0.5)):
        y = f(x)
        y.backward()
        np.testing.assert_allclose(y.item(), exact, rtol=1e-3)
        assert y.dtype == x.grad.dtype == mg.float16 and np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("f", [mg.silu, mg.gelu, lambda x: mg.gelu(x, "tanh")])
def test_slopes_of_activations_of_halves_take_any_cotangent(f: Callable[[mg.Tensor], mg.Tensor]) -> None:
    x = mg.tensor([-300.0, -100.0, 0.0, 100.0, 300.0], dtype=mg.float16, requires_grad=True)
    assert mg.grad(f(x), x, mg.full_like(x, 1000.0)).tolist() == [0, 0, 500, 1000, 1000]



def test_halves_are_added_up_in_single_precision() -> None:
    """4096 halves of one: in half precision the sum would stop at 2048."""
    x = mg.ones(4096, 2, dtype=mg.float16, requires_grad=True)
    assert x.sum(0).tolist() == [4096, 4096] and x.cumsum(0)[-1].tolist() == [4096, 4096]
    assert x.mean().item() == 1 and (x * 16).mean(0).tolist() == [16, 16]
    bias = mg.zeros(2, dtype=mg.float16, requires_grad=True)
    (x.detach() + bias).backward(np.ones((4096, 2)))
    assert bias.grad.tolist() == [4096, 4096]
    table = mg.zeros(1, 2, dtype=mg.float16, requires_grad=True)
    table[np.zeros(4096, int)].backward(np.ones((4096, 2)))
    assert table.grad.tolist() == [[4096, 4096]]


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((1 << 20,), None), ((1 << 20, 3), 0), ((5, 100_003, 3), 1), ((64, 28, 28, 4), (0, 1, 2)), ((4099, 7), 0),
        ((7, 2048), 1),
    ],
)  # fmt: skip
def test_sums_in_single_precision_are_within_sixteen_roundings_at_any_length(shape: Any, axis: Any) -> None:
    """Of positive numbers; added row by row, a million of 0.1 would be 5,000 roundings off."""
    for x in (np.full(shape, 0.1, "float32"), RNG.uniform(0.5, 1.5, shape).astype("float32")):
        true, eps = x.astype(float).sum(axis), np.finfo("float32").eps
        count = x.size // np.size(true)
        assert np.abs(mg.tensor(x).sum(axis).numpy() / true - 1).max() <= 16 * eps
        assert np.abs(mg.tensor(x).mean(axis).numpy() / (true / count) - 1).max() <= 16 * eps
        t = mg.tensor(x.sum(axis), requires_grad=True)  # and where a gradient is summed over what was broadcast
        back = mg.ops.broadcast_to(t if axis in (None, 0) else mg.expand_dims(t, 1) if axis == 1 else t, shape)
        (g,) = mg.grad((back * mg.tensor(x)).sum(), (t,))
        assert np.abs(g.numpy() / true - 1).max() <= 16 * eps


def test_running_sums_in_single_precision() -> None:
    x = np.full(1_000_000, 0.1, "float32")
    y = mg.tensor(x).cumsum(0).numpy()
    assert np.abs(y / (x[0].astype(float) * np.arange(1, 1_000_001)) - 1).max() <= np.finfo("float32").eps


def test_gelu_and_silu_keep_their_digits_for_negative_numbers() -> None:
    """x (1 + erf(x / sqrt 2)) / 2 would be 0 from -6 on in float32."""
    x = mg.tensor([-5.0, -7.0, -12.0])
    true = [
        -5 * math.erfc(5 / math.sqrt(2)) / 2,
        -7 * math.erfc(7 / math.sqrt(2)) / 2,
        -12 * math.erfc(12 / math.sqrt(2)) / 2,
    ]
    np.testing.assert_allclose(x.gelu().numpy(), true, rtol=2e-5)
    np.testing.assert_allclose(x.silu().numpy(), [v / (1 + math.exp(-v)) for v in x.tolist()], rtol=1e-6)


def test_erfc_reaches_zero() -> None:
    x = np.array([26.0, 26.5, 27.5, 30.0, 1e300, np.inf])
    tail = mg.tensor(x).erfc().numpy()
    np.testing.assert_allclose(tail, [math.erfc(v) for v in x], rtol=1e-12)
    assert (tail[2:] == 0).all() and mg.tensor(np.array(-1e300)).gelu().item() == 0


def test_the_softmax_of_nothing() -> None:
    x = mg.zeros(0, 3, requires_grad=True)
    with np.errstate(divide="ignore"):
        y = x.logsumexp(0)
    assert y.tolist() == [-np.inf] * 3 and x.logsumexp(1).shape == (0,)
    assert mg.grad(y, x, np.ones(3)).shape == ops.log_softmax(x, 0).shape == ops.log_softmax(x, 1).shape == (0, 3)


def test_the_norm_of_order_zero_counts_what_is_not_zero() -> None:
    assert mg.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0]]).norm(0, axis=1).tolist() == [2.0, 1.0]
