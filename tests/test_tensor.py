"""Tensor, Parameter, Buffer, creation and random numbers: what they hold, show, copy and refuse."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend
from minigrad.tensor import Tensor


# ---- mg.tensor -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, "float32"),
        (2, "int64"),
        (True, "bool"),
        ([1.5, 2], "float32"),
        ([[1, 2], [3, 4]], "int64"),
        ([True, False], "bool"),
        (np.float64(1.5), "float64"),
        (np.ones(2), "float64"),
        (np.ones(2, "float16"), "float16"),
        (np.ones(2, "uint8"), "uint8"),
        ([np.ones(2), np.ones(2)], "float64"),
        ([np.float32(1), np.float32(2)], "float32"),
        ([], "float32"),
        (range(3), "int64"),
    ],
)
def test_python_floats_are_float32_and_arrays_keep_their_dtype(data: Any, dtype: str) -> None:
    t = mg.tensor(data)
    assert t.dtype == dtype and isinstance(t.data, backend.xp.ndarray)
    np.testing.assert_array_equal(t.numpy(), np.asarray(data, dtype))
    assert mg.tensor(data, dtype=mg.float64).dtype == np.float64


def test_a_tensor_is_a_copy() -> None:
    a = np.ones(2)
    t = mg.tensor(a)
    a[0] = 5
    assert t.tolist() == [1, 1]
    same = mg.tensor(t)
    t[0] = 7
    assert same.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("abc", TypeError, "tensor: cannot make numbers of str data"),
        (None, TypeError, "tensor: cannot make numbers of NoneType data"),
        ([1.0, "a"], TypeError, "tensor: cannot make numbers of list data"),
        ({"a": 1}, TypeError, "tensor: cannot make numbers of dict data"),
        (object(), TypeError, "tensor: cannot make numbers of object data"),
        ([[1, 2], [3]], ValueError, "tensor: .*inhomogeneous"),
        ([mg.tensor(1.0), mg.tensor(2.0)], TypeError, "tensor: a list of Tensors; join them with mg.stack"),
        (10**30, TypeError, "tensor: cannot make numbers of int data"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mg.tensor(data)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None, 1]), np.array(["2020-01-01"], "datetime64[D]")])
def test_arrays_of_no_numbers_are_refused(array: Any) -> None:
    with pytest.raises(TypeError, match="tensor: cannot make numbers of ndarray data"):
        mg.tensor(array)


@pytest.mark.parametrize(
    ("data", "dtype", "message"),
    [
        ([300], "uint8", "tensor: .*300 out of bounds for uint8"),
        (-1, "uint8", "tensor: .*-1 out of bounds for uint8"),
        ([1, 2**40], "int32", "tensor: .* the dtype asked for is int32"),
        ([float("nan")], "int32", "tensor: cannot convert float NaN to integer; the dtype asked for is int32"),
    ],
)
def test_numbers_that_a_dtype_cannot_hold_are_refused(data: Any, dtype: str, message: str) -> None:
    with pytest.raises((OverflowError, ValueError), match=message):
        mg.tensor(data, dtype=dtype)
    assert mg.tensor([1, 255], dtype="uint8").tolist() == [1, 255]


@pytest.mark.parametrize("order", "<>")
def test_bytes_are_in_this_machines_order(order: str) -> None:
    t = mg.tensor(np.arange(3, dtype=f"{order}f4"))
    assert t.dtype is np.dtype("float32") and (t * mg.ones(3)).tolist() == [0.0, 1.0, 2.0]


def test_attributes_and_conversions() -> None:
    t = mg.tensor([[1.5, 2.5, 3.5]])
    assert (t.shape, t.ndim, t.size, len(t), t.requires_grad, t.is_leaf) == ((1, 3), 2, 3, 1, False, True)
    assert t.tolist() == [[1.5, 2.5, 3.5]] and [row.shape for row in t] == [(3,)]
    one = mg.tensor([2.5])
    assert float(one) == 2.5 and int(one) == 2 and one.item() == 2.5 and bool(one)
    assert [10, 20, 30][mg.tensor(1)] == 20
    with pytest.raises(TypeError, match=r"index: a float32 Tensor is not an integer"):
        [10, 20][one]  # type: ignore[call-overload]
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    assert y.requires_grad and not y.is_leaf and y.detach().node is None
    assert np.shares_memory(y.detach().numpy(), y.numpy())
    assert x in {x} and hash(x) != hash(mg.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: mg.tensor([1.5, 2.0]), "tensor([1.5, 2. ], dtype=float32, shape=[2])"),
        (lambda: mg.tensor(3), "tensor(3, dtype=int64, shape=[])"),
        (lambda: mg.tensor([1.5], requires_grad=True), "tensor([1.5], dtype=float32, shape=[1], requires_grad=True)"),
        (lambda: mg.tensor([1.5], requires_grad=True) * 2, "tensor([3.], dtype=float32, shape=[1], on_tape=multiply)"),
        (lambda: mg.Buffer(np.array([1.5], "float32")), "buffer([1.5], dtype=float32, shape=[1])"),
        (
            lambda: mg.label(mg.exp(mg.tensor(0.0, requires_grad=True)), "e"),
            "tensor(1., dtype=float32, shape=[], on_tape=exp, label='e')",
        ),
    ],
)  # fmt: skip
def test_repr_shows_values_dtype_shape_and_the_tape(make: Any, shown: str) -> None:
    assert repr(make()) == shown


def test_one_number_is_formatted_and_rounded_as_pythons() -> None:
    loss = mg.tensor([[0.123456]])
    assert f"{loss:.3f}" == "0.123" and f"{mg.tensor(42):>5d}" == "   42" and f"{loss}" == str(loss)
    assert round(mg.tensor([1.26, 2.0]), 1).tolist() == mg.tensor([1.3, 2.0]).tolist()


def test_repr_of_a_large_tensor_is_short_and_of_a_matrix_aligned() -> None:
    assert len(repr(mg.zeros(1000, 1000))) < 1000
    lines = repr(mg.Parameter(np.eye(2, dtype="float32"))).splitlines()
    assert lines[0].index("[1.") == lines[1].index("[0.")


def test_requires_grad_can_be_switched_on_leaves() -> None:
    t = mg.tensor([1.0, 2.0])
    t.requires_grad = True
    (t * t).sum().backward()
    assert t.grad.tolist() == [2, 4]
    t.requires_grad = False
    assert t.grad is None and not (t * t).requires_grad


# ---- Parameter and Buffer --------------------------------------------------------------------------
def test_parameters_learn_and_buffers_remember() -> None:
    p, b = mg.Parameter(np.ones(2, "float32")), mg.Buffer(mg.ones(2))
    assert p.requires_grad and not b.requires_grad and isinstance(p, Tensor)
    ((p * b).sum()).backward()
    assert p.grad.tolist() == [1, 1] and b.grad is None
    p.requires_grad = False
    assert not (p * b).requires_grad
    p.rename("weight")
    p.requires_grad = True
    assert p.label == "weight" and p.node.label == "weight"
    assert mg.Parameter(np.ones(2), requires_grad=False).node is None


def test_a_parameter_owns_its_memory() -> None:
    a = np.ones(2)
    p, b = mg.Parameter(a), mg.Buffer(a)
    a[0] = 5
    assert p.tolist() == b.tolist() == [1, 1]


def test_every_overwriting_is_counted() -> None:
    b = mg.Buffer(np.zeros(2))
    versions = [b.version]
    b.update(np.ones(2))
    versions.append(b.version)
    b.bump()
    versions.append(b.version)
    b[0] = 5
    versions.append(b.version)
    assert versions == [0, 1, 2, 3] and b.tolist() == [5, 1]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t)), copy.copy])
def test_copies_are_leaves_of_their_own(copied: Any) -> None:
    p = mg.Parameter(np.array([1.0, 2.0], "float32"))
    p.rename("w")
    (p * p).sum().backward()
    other = copied(p)
    assert type(other) is mg.Parameter and other.label == "w" and other.grad.tolist() == [2, 4]
    assert other.node is not p.node and not np.shares_memory(other.data, p.data)
    x = mg.tensor([1.0], requires_grad=True)
    assert copied(x).requires_grad and not copied(x.detach()).requires_grad
    with pytest.raises(RuntimeError, match=r"copy: .*t\.detach\(\)"):
        copied(x * 2)


# ---- creation --------------------------------------------------------------------------------------
def test_creation() -> None:
    assert mg.zeros(2, 3).shape == mg.ones((2, 3)).shape == mg.full([2, 3], 1.5).shape == (2, 3)
    assert mg.zeros(2).dtype == mg.ones(2).dtype == mg.eye(2).dtype == mg.linspace(0, 1, 3).dtype == np.float32
    assert mg.full(2, 1.5).dtype == np.float32 and mg.full(2, 1).dtype == np.int64 and mg.full(2, True).dtype == bool
    assert mg.full((), np.float64(2)).dtype == np.float32 and mg.full(2, 1, dtype=mg.float64).dtype == np.float64
    assert mg.arange(3).tolist() == [0, 1, 2] and mg.arange(3).dtype == np.int64
    assert mg.arange(1, 2, 0.25).tolist() == [1, 1.25, 1.5, 1.75] and mg.arange(1, 2, 0.25).dtype == np.float32
    assert mg.arange(5, 0, -2).tolist() == [5, 3, 1]
    assert mg.linspace(-1, 1, 5).tolist() == [-1, -0.5, 0, 0.5, 1]
    assert mg.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    t = mg.tensor(np.ones((2, 2), "float16"))
    assert mg.zeros_like(t).dtype == mg.ones_like(t).dtype == mg.full_like(t, 2.5).dtype == np.float16
    assert mg.zeros_like(t, dtype=mg.int64).dtype == np.int64 and mg.full_like(t, 2.5).tolist() == [[2.5, 2.5]] * 2
    assert mg.ones(2, requires_grad=True).requires_grad and mg.zeros_like(t, requires_grad=True).requires_grad
    assert mg.zeros().shape == () and mg.zeros(0, 3).shape == (0, 3)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_dtype_of_a_scalar_does_not_count(kind: Any) -> None:
    """Numbers are weak: a NumPy scalar, such as a computed mean, makes what Python's number makes."""
    assert mg.full((2,), kind(1)).dtype == mg.arange(kind(2.5)).dtype == np.float32
    assert mg.arange(kind(0), kind(1), kind(0.5)).tolist() == [0, 0.5]
    assert mg.full(2, np.uint8(1)).dtype == mg.arange(np.uint8(3)).dtype == np.int64
    assert mg.full(2, np.bool_(True)).dtype == bool


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: mg.zeros(-1), ValueError, r"zeros: a length is at least 0, not one of \[-1\]"),
        (lambda: mg.ones(2, 2.5), TypeError, r"ones: a length is a whole number, not \(2, 2.5\)"),
        (lambda: mg.random.normal((2, "a")), TypeError, "normal: a length is a whole number"),
        (lambda: mg.random.permutation(-1), ValueError, "permutation: n must be at least 0, not -1"),
        (lambda: mg.eye(-1), ValueError, "eye: a length"),
        (lambda: mg.full((2,), [1.0, 2.0]), TypeError, r"full: needs a real number, not list \[1.0, 2.0\]"),
        (lambda: mg.full((2,), "a"), TypeError, "full: needs a real number, not str 'a'"),
        (lambda: mg.full((2,), mg.ones(1)), TypeError, "full: needs a real number, not Tensor"),
        (lambda: mg.full((2,), mg.ones((), requires_grad=True)), TypeError, "full: .* on the tape, .*; detach it"),
        (lambda: mg.full_like(mg.tensor([1]), 2.5), TypeError, "full_like: float32 values do not fit into a int64"),
        (lambda: mg.full_like(mg.tensor([1], dtype=mg.uint8), 300), OverflowError, "full_like: .* 300 out of bounds"),
        (lambda: mg.zeros_like([1.0]), TypeError, r"zeros_like: needs a Tensor, not list \[1.0\]; make it one"),
        (lambda: mg.arange(1, 10, 0), ValueError, "arange: with a step of 0 there is no way from 1 to 10"),
        (lambda: mg.random.seed(-1), ValueError, "seed: an integer >= 0 starts the generator, not -1"),
        (lambda: mg.random.normal(2, std=-1), ValueError, "normal: std must be finite and not negative, not -1"),
        (lambda: mg.random.normal(2, std=float("nan")), ValueError, "normal: std must be finite .*, not nan"),
    ],
)
def test_what_cannot_be_made(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_float_ranges_are_counted_in_double_precision() -> None:
    values = mg.arange(0.0, 1e4, 0.1).numpy()
    np.testing.assert_array_equal(values, np.arange(0.0, 1e4, 0.1).astype("float32"))


# ---- random ----------------------------------------------------------------------------------------
def test_one_seed_one_sequence() -> None:
    def draw() -> list[Any]:
        r = mg.random
        return [r.normal(3).tolist(), r.uniform(3).tolist(), r.permutation(5).tolist(), r.bernoulli(0.5, 4).tolist()]

    mg.random.seed(7)
    first = draw()
    between = draw()
    mg.random.seed(7)
    assert draw() == first and between != first
    state = mg.random.state()
    after = draw()
    mg.random.set_state(state)
    assert draw() == after


def test_random_shapes_dtypes_and_moments() -> None:
    mg.random.seed(0)
    n = mg.random.normal(200, 100, mean=3.0, std=2.0)
    assert n.shape == (200, 100) and n.dtype == np.float32
    assert abs(n.mean().item() - 3) < 0.1 and abs(n.std().item() - 2) < 0.1
    u = mg.random.uniform((200, 100), low=-1.0, high=3.0, dtype=mg.float64, requires_grad=True)
    assert u.dtype == np.float64 and u.requires_grad and u.min().item() >= -1 and u.max().item() < 3
    b = mg.random.bernoulli(0.25, 200, 100)
    assert set(np.unique(b.numpy())) == {0, 1} and abs(b.mean().item() - 0.25) < 0.02
    assert sorted(mg.random.permutation(10).tolist()) == list(range(10))
    assert mg.random.normal().shape == () and mg.random.normal(0, 3).shape == (0, 3)
    for draw, says in [
        (lambda: mg.random.normal(2, std=float("nan")), "normal: std must be finite .*, not nan"),
        (lambda: mg.random.normal(2, std=-1.0), "normal: std must be finite and not negative, not -1"),
        (lambda: mg.random.uniform(2, low=1.0, high=0.0), "uniform: low must not be above high"),
        (lambda: mg.random.permutation(-1), "permutation: n must be at least 0, not -1"),
    ]:
        with pytest.raises(ValueError, match=says):
            draw()
    with pytest.raises(ValueError, match=r"bernoulli: p must be in \[0, 1\], not 1.5"):
        mg.random.bernoulli(1.5, 3)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_uniform_never_reaches_its_upper_bound(dtype: str) -> None:
    """A double just below 1 rounds to 1 in a narrower dtype."""
    mg.random.seed(1)
    values = mg.random.uniform(100_000, low=0.0, high=1.0, dtype=dtype)
    assert values.max().item() < 1.0 and values.min().item() >= 0.0


# ---- operators ---------------------------------------------------------------------------------------
def test_operators_with_tensors_numbers_and_arrays_on_either_side() -> None:
    a, b = np.array([5, 7, 9]), np.array([2, 3, 4])
    x, y = mg.tensor(a), mg.tensor(b)
    for expression in (
        "a + b", "a - b", "a * b", "a / b", "a // b", "a % b", "a ** b", "a @ b", "a & b", "a | b", "a ^ b", "-a", "+a",
        "abs(-a)", "~a", "a < b", "a <= b", "a > b", "a >= b", "a == b", "a != b", "a + 2", "2 + a", "2 - a", "10 / a",
        "100 // a", "100 % a", "2 ** b", "a ** 2", "a & 3", "3 | a", "3 ^ a", "a[1]", "a[::-1]", "a[[0, 2]]", "3 < a",
    ):  # fmt: skip
        expected = eval(expression, {"a": a, "b": b})
        ours = eval(expression, {"a": x, "b": y})
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6)
        if expression.startswith("a ") and expression.endswith(" b"):
            np.testing.assert_allclose(eval(expression, {"a": x, "b": b}).numpy(), expected, rtol=1e-6)
            np.testing.assert_allclose(eval(expression, {"a": a, "b": y}).numpy(), expected, rtol=1e-6)


def test_an_augmented_assignment_makes_a_new_tensor() -> None:
    x = y = mg.tensor([1.0, 2.0], requires_grad=True)
    y += 1
    y *= x
    assert x.tolist() == [1, 2] and y.tolist() == [2, 6]
    y.sum().backward()
    assert x.grad.tolist() == [3, 5]


def test_transposes() -> None:
    x = mg.zeros(2, 3, 4)
    assert x.T.shape == (4, 3, 2) and x.mT.shape == (2, 4, 3) and x.transpose().shape == (4, 3, 2)


def test_floats_of_another_width_are_rounded_where_they_are_assigned() -> None:
    for t, write in (
        (mg.zeros(3), lambda t, v: t.__setitem__(..., v)),
        (mg.Parameter(mg.zeros(3)), lambda t, v: t.update(v)),
        (mg.Buffer(mg.zeros(3)), lambda t, v: t.update(mg.tensor(v))),
        (mg.Buffer(mg.zeros(3, dtype=mg.float16)), lambda t, v: t.__setitem__(slice(None), mg.tensor(v))),
    ):  # fmt: skip
        values = np.array([0.1, np.inf, -np.inf])
        write(t, values)
        np.testing.assert_array_equal(t.numpy(), values.astype(t.dtype))
        if mg.current() == "numpy":  # values are looked at on the host alone
            with pytest.raises(TypeError, match=f"float64 values do not fit into a {t.dtype} {type(t).__name__}; use"):
                write(t, np.array([0.0, -1e39, 0.0]))
            assert np.isinf(t.numpy()[1])
        with pytest.raises(ValueError):
            write(t, np.zeros(2))


@pytest.mark.parametrize("three", [np.array(3.0), np.float64(3.0), mg.tensor(3.0)], ids=["0-d", "scalar", "Tensor"])
def test_an_array_of_one_number_is_a_number(three) -> None:
    for make, like in (
        (lambda n: mg.full((2,), n), np.full(2, 3.0)), (lambda n: mg.arange(n), np.arange(3.0)),
        (lambda n: mg.arange(1, 9, n), np.arange(1, 9, 3.0)), (lambda n: mg.linspace(0, n, 4), np.linspace(0, 3, 4)),
        (lambda n: mg.full_like(mg.zeros(1, dtype=mg.int32), n), np.full(1, 3)),
        (lambda n: mg.leaky_relu(mg.tensor([-1.0]), n), np.array([-3.0])),
    ):  # fmt: skip
        made = make(three)
        np.testing.assert_array_equal(made.numpy(), like)
        assert made.dtype in (mg.float32, mg.int32)


def test_integers_whose_values_fit_may_be_assigned_across_widths() -> None:
    if mg.current() != "numpy":
        pytest.skip("values are looked at on the host alone")
    t = mg.zeros(3, dtype=mg.int32)
    t[0] = mg.tensor([1, 5]).argmax()
    t[1:] = np.arange(2)
    t[2] = np.array(7)
    assert t.tolist() == [1, 0, 7] and t.dtype == mg.int32
    with pytest.raises(TypeError, match="int64 values do not fit into a int32"):
        t[0] = np.array([2**40])
    assert mg.full_like(t, 2.0).tolist() == [2, 2, 2]
    with pytest.raises(TypeError, match="do not fit"):
        mg.full_like(t, 2.5)
