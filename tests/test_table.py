"""Every row of the table, and every composition of rows, on the samples of `samples.py`.

Derivatives are judged by finite differences of fourth order in float64, along random directions and
under random cotangents: of the forward for the first order, of the first order's gradient (on raw
arrays, as training computes it) for the second, of the second for the third.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import autodiff, meanings, ops
from minigrad.backend import xp
from minigrad.primitive import Primitive, discrete, elementwise, linear, primitive
from minigrad.tape import history
from minigrad.tensor import Tensor
from tests.samples import INDICES, SAMPLES, Sample, normal

ROWS: dict[str, Primitive] = {
    name: value.primitive
    for name, value in vars(ops).items()
    if isinstance(getattr(value, "primitive", None), Primitive)
}
each = pytest.mark.parametrize("sample", SAMPLES, ids=[f"{i}-{s}" for i, s in enumerate(SAMPLES)])
SMOOTH = [s for s in SAMPLES if s.name not in ROWS or ROWS[s.name].kind != "discrete"]
each_smooth = pytest.mark.parametrize("sample", SMOOTH, ids=[f"{i}-{s}" for i, s in enumerate(SMOOTH)])


def kind_of(sample: Sample) -> str | None:
    return ROWS[sample.name].kind if sample.name in ROWS else None


# ---- the judges ------------------------------------------------------------------------------------
def is_float(a: np.ndarray) -> bool:
    return a.dtype.kind == "f"


def tensors(arrays: Any) -> list[Tensor]:
    """Leaves for the floating arrays, constants for the others."""
    return [mg.tensor(a, requires_grad=is_float(a)) for a in arrays]


def directions(arrays: Any, seed: int) -> list[Any]:
    """A random direction for each floating array, None for the others."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=a.shape)) if is_float(a) else None for a in arrays]


def slope(f: Callable[..., np.ndarray], arrays: Any, towards: Any, h: float = 1e-4) -> np.ndarray:
    """The derivative of f(*arrays) along a direction, by a central difference of fourth order."""

    def at(step: float) -> np.ndarray:
        return f(*[a if t is None else a + step * t for a, t in zip(arrays, towards, strict=True)])

    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def pulled(call: Callable[..., Any], arrays: Any, cotangent: np.ndarray) -> list[np.ndarray]:
    """The gradients of <call(*arrays), cotangent>, as training computes them: on raw arrays."""
    xs = tensors(arrays)
    leaves = [x for x in xs if x.requires_grad]
    y = call(*xs)
    if not y.requires_grad:
        return [np.zeros(x.shape) for x in leaves]
    return [g.numpy() for g in mg.grad(y, leaves, cotangent)]


def inner(us: Any, vs: Any) -> float:
    return float(sum(np.sum(u * v) for u, v in zip(us, vs, strict=True) if v is not None))


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def derivatives_agree(call: Callable[..., Any], arrays: Any) -> None:
    """First, second and third order against finite differences; jvp against the pullback."""
    y = call(*tensors(arrays))
    g = np.asarray(np.random.default_rng(1).normal(size=y.shape))
    t, u, v = (directions(arrays, seed) for seed in (2, 3, 4))
    kept = [a for a in arrays if is_float(a)]

    def forward(*values: np.ndarray) -> np.ndarray:
        return call(*tensors(values)).numpy()

    def first(*values: np.ndarray) -> np.ndarray:
        return np.asarray(inner(pulled(call, values, g), [d for d in t if d is not None]))

    def differentiable(*xs: Tensor) -> Tensor:
        """<grad, t>, on the tape."""
        leaves = [x for x in xs if x.requires_grad]
        gradients = mg.grad(call(*xs), leaves, g, create_graph=True)
        return sum_of(
            [(a * mg.tensor(d)).sum() for a, d in zip(gradients, [d for d in t if d is not None], strict=True)]
        )

    def second(*values: np.ndarray) -> np.ndarray:
        xs = tensors(values)
        z = differentiable(*xs)
        if not z.requires_grad:
            return np.zeros(())
        return np.asarray(
            inner([a.numpy() for a in mg.grad(z, [x for x in xs if x.requires_grad])], [d for d in u if d is not None])
        )

    first_order = pulled(call, arrays, g)
    assert [a.shape for a in first_order] == [a.shape for a in kept]
    close(inner(first_order, [d for d in t if d is not None]), np.sum(g * slope(forward, arrays, t)), 1e-8)
    close(second(*arrays), slope(first, arrays, u), 1e-8)
    close(differentiable(*tensors(arrays)).numpy(), first(*arrays), 1e-12)

    xs = tensors(arrays)
    z = differentiable(*xs)
    if z.requires_grad:
        leaves = [x for x in xs if x.requires_grad]
        along_u = sum_of(
            [
                (a * mg.tensor(d)).sum()
                for a, d in zip(mg.grad(z, leaves, create_graph=True), [d for d in u if d is not None], strict=True)
            ]
        )
        if along_u.requires_grad:
            third = inner([a.numpy() for a in mg.grad(along_u, leaves)], [d for d in v if d is not None])
            close(third, slope(second, arrays, v), 1e-7)

    def of_floats(*leaves: Tensor) -> Tensor:
        rest = iter(leaves)
        return call(*[next(rest) if is_float(a) else mg.tensor(a) for a in arrays])

    tangents = [d for d in t if d is not None]
    same, pushed = mg.jvp(of_floats, [mg.tensor(a) for a in kept], [mg.tensor(d) for d in tangents])
    close(same.numpy(), y.numpy(), 0)
    close(np.sum(pushed.numpy() * g), inner(first_order, tangents), 1e-10)


def sum_of(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


# ---- coverage --------------------------------------------------------------------------------------
def test_every_row_and_every_public_op_has_a_sample() -> None:
    sampled = {s.name for s in SAMPLES}
    assert set(ROWS) - sampled == set()
    assert set(ops.__all__) - sampled == set()


def test_rows_are_named_after_their_variables() -> None:
    assert {name: row.name for name, row in ROWS.items() if row.name != name.rstrip("_")} == {}


@pytest.mark.parametrize("name", ops._METHODS)
def test_a_method_is_the_function(name: str) -> None:
    assert getattr(Tensor, name) is getattr(ops, name)
    if name != "trace":  # mg.trace records a tape; a matrix's is t.trace()
        assert getattr(mg, name) is getattr(ops, name)


# ---- values ----------------------------------------------------------------------------------------
@each
def test_forward_is_numpys(sample: Sample) -> None:
    expected = np.asarray(sample.reference(*sample.arrays))
    ours = sample.call(*tensors(sample.arrays))
    assert isinstance(ours, Tensor) and isinstance(ours.data, xp.ndarray)
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype or {ours.dtype.kind, expected.dtype.kind} <= {"i", "u"}
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12, atol=1e-14)
    assert ours.requires_grad == (kind_of(sample) != "discrete")


@each
def test_raw_arrays_in_raw_array_out(sample: Sample) -> None:
    ours = sample.call(*sample.arrays)
    assert not isinstance(ours, Tensor)
    np.testing.assert_allclose(ours, sample.reference(*sample.arrays), rtol=1e-12, atol=1e-14)


@each
def test_operands_are_not_written_to(sample: Sample) -> None:
    arrays = [a.copy() for a in sample.arrays]
    xs = [Tensor(a) for a in arrays]
    for a, x in zip(arrays, xs, strict=True):
        x.requires_grad = is_float(a)
        a.flags.writeable = False
    y = sample.call(*xs)
    if y.requires_grad:
        y.backward(np.ones(y.shape))
        assert all(x.grad is None or x.grad.data is not a for x, a in zip(xs, arrays, strict=True))


# ---- derivatives -----------------------------------------------------------------------------------
@each_smooth
def test_three_orders_against_finite_differences(sample: Sample) -> None:
    derivatives_agree(sample.call, sample.arrays)


SHAPES = [((3, 1), (1, 4)), ((4,), ()), ((), (2, 3)), ((2, 3, 1), (3, 4)), ((1,), (3,))]
PAIRS = {s.name: s for s in SAMPLES if kind_of(s) == "elementwise" and sum(map(is_float, s.arrays)) == 2}


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", PAIRS)
def test_broadcasting(name: str, shapes: Any) -> None:
    sample = PAIRS[name]
    *conditions, a, b = sample.arrays
    a, b = (np.resize(x.ravel(), shape) * 1.01**i for i, (x, shape) in enumerate(zip((a, b), shapes, strict=True)))
    conditions = [np.resize(c.ravel(), np.broadcast_shapes(*shapes)) for c in conditions]
    arrays = (*conditions, np.asarray(a), np.asarray(b))
    np.testing.assert_allclose(sample.call(*tensors(arrays)).numpy(), sample.reference(*arrays), rtol=1e-12)
    derivatives_agree(sample.call, arrays)


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), (), (1,), (1, 1)])
@pytest.mark.parametrize("sample", [s for s in SAMPLES if kind_of(s) == "elementwise"], ids=str)
def test_elementwise_rows_on_empty_and_0d_arrays(sample: Sample, shape: tuple[int, ...]) -> None:
    arrays = [np.array(np.resize(a.ravel(), shape)) for a in sample.arrays]
    xs = tensors(arrays)
    y = sample.call(*xs)
    assert y.shape == shape and isinstance(y.data, xp.ndarray)
    np.testing.assert_allclose(y.numpy(), sample.reference(*arrays), rtol=1e-12, atol=1e-14)
    y.backward(mg.ones(shape, dtype=mg.float64))
    for x in xs:
        if x.requires_grad:
            assert x.grad.shape == shape and isinstance(x.grad.data, xp.ndarray)
    if y.size:
        derivatives_agree(sample.call, arrays)


LARGE = 1 << 16
FIRST = {s.name: s for s in reversed(SAMPLES) if kind_of(s) == "elementwise"}


@pytest.mark.parametrize("name", FIRST)
def test_a_large_array_is_small_ones_side_by_side(name: str) -> None:
    """Three rows at once are computed in blocks; one at a time they are not. The last operand is broadcast."""
    sample = FIRST[name]
    *rows, last = (np.resize(a.ravel(), (3, LARGE)) for a in sample.arrays)
    arrays = [*rows, last[0]] if rows else [last]
    g = np.random.default_rng(7).normal(size=(3, LARGE))
    y, gradients = sample.call(*tensors(arrays)).numpy(), pulled(sample.call, arrays, g)
    pieces = [[*(a[i] for a in arrays[: len(rows) or 1]), *arrays[len(rows) or 1 :]] for i in range(3)]
    close(y, np.stack([sample.call(*tensors(piece)).numpy() for piece in pieces]), 1e-14)
    apart = [
        np.stack(parts) for parts in zip(*[pulled(sample.call, p, g[i]) for i, p in enumerate(pieces)], strict=True)
    ]
    for whole, parts in zip(gradients, apart, strict=True):
        close(whole, parts if whole.shape == parts.shape else parts.sum(0), 1e-13)


EMPTY: list[tuple[Callable[..., Any], Callable[..., Any], tuple[int, ...]]] = [
    (lambda x: x.sum(), np.sum, (0, 3)),
    (lambda x: x.sum(0), lambda x: x.sum(0), (0, 3)),
    (lambda x: x.prod(), np.prod, (0,)),
    (lambda x: x.prod(1), lambda x: x.prod(1), (2, 0)),
    (lambda x: x.cumsum(0), lambda x: x.cumsum(0), (0, 3)),
    (lambda x: x.norm(), lambda x: np.sqrt(np.sum(x * x)), (0,)),
    (lambda x: x.mean(1), lambda x: x.mean(1), (0, 3)),
    (lambda x: x.var(1), lambda x: x.var(1), (0, 3)),
    (lambda x: x.amax(1), lambda x: x.max(1), (0, 3)),
    (lambda x: x.max(1), lambda x: x.max(1), (0, 3)),
    (lambda x: x.logsumexp(1), lambda x: x.sum(1), (0, 3)),
    (lambda x: x.sort(), np.sort, (0, 3)),
    (lambda x: x[1:1], lambda x: x[1:1], (3, 2)),
    (lambda x: x[[]], lambda x: x[:0], (3, 2)),
    (lambda x: x.reshape(3, 0), lambda x: x.reshape(3, 0), (0, 2)),
    (lambda x: x.T, np.transpose, (0, 2)),
    (lambda x: x @ x.T, lambda x: x @ x.T, (3, 0)),
    (lambda x: x.T @ x, lambda x: x.T @ x, (0, 3)),
    (lambda x: mg.concatenate([x, x]), lambda x: np.concatenate([x, x]), (0, 2)),
    (lambda x: x.tile((2, 0)), lambda x: np.tile(x, (2, 0)), (2, 2)),
    (lambda x: x.repeat(0, 1), lambda x: np.repeat(x, 0, 1), (2, 3)),
    (lambda x: x.pad(1), lambda x: np.pad(x, 1), (0, 2)),
    (lambda x: x.tril(), np.tril, (0, 3)),
    (lambda x: x.trace(), np.trace, (0, 3)),
    (lambda x: x.flip(), np.flip, (0, 3)),
    (lambda x: x.roll(1, 0), lambda x: np.roll(x, 1, 0), (0, 3)),
    (lambda x: x.broadcast_to((3, 0)), lambda x: np.broadcast_to(x, (3, 0)), (1, 0)),
]


@pytest.mark.parametrize("number", range(len(EMPTY)))
def test_empty_arrays(number: int) -> None:
    call, reference, shape = EMPTY[number]
    x = mg.tensor(normal(*shape), requires_grad=True)
    y = call(x)
    np.testing.assert_array_equal(y.numpy(), reference(x.numpy()))
    y.backward(np.ones(y.shape))
    assert x.grad is not None and x.grad.shape == shape


@each_smooth
def test_a_layout_in_memory_changes_nothing(sample: Sample) -> None:
    """Every other element backwards, axes in Fortran's order."""

    def scattered_in_memory(a: np.ndarray) -> np.ndarray:
        if not a.ndim:
            return a
        wide = np.zeros([2 * n for n in a.shape], a.dtype, order="F")
        view = wide[(slice(None, None, -2),) * a.ndim]
        view[...] = a
        return view

    def leaves(arrays: Any) -> list[Tensor]:
        xs = [Tensor(a) for a in arrays]
        for x in xs:
            x.requires_grad = is_float(x.data)
        return xs

    ours, theirs = leaves([scattered_in_memory(a) for a in sample.arrays]), leaves(sample.arrays)
    y, expected = sample.call(*ours), sample.call(*theirs)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-13, atol=1e-14)
    g = np.random.default_rng(5).normal(size=(*y.shape, 2))[..., 0]  # strided, too
    y.backward(g)
    expected.backward(np.array(g))
    for a, b in zip(ours, theirs, strict=True):
        if b.grad is not None:
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12, atol=1e-13)


# ---- dtypes ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", meanings.DERIVATIVES)
def test_a_docstring_s_derivatives_are_those_that_are_computed(name: str) -> None:
    row, call, slopes = ROWS[name], getattr(mg, name), meanings.DERIVATIVES[name][1:]
    for values in ((0.3, 0.7), (-0.6, 0.2), (2.5, -1.5), (1.5, 1.5)):
        xs = [mg.tensor(v, dtype=mg.float64, requires_grad=True) for v in values[: len(row.arguments)]]
        with np.errstate(all="ignore"):
            y = call(*xs)
            if not np.isfinite(y.numpy()):
                continue  # outside of its domain
            scope = dict(zip(row.arguments, [x.numpy() for x in xs], strict=True))
            scope |= {"y": y.numpy(), "slope": 0.01, "alpha": 1.0, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}
            expected = [eval(slope, vars(np) | scope) for slope in slopes]
        np.testing.assert_allclose([g.item() for g in mg.grad(y, xs)], expected, rtol=1e-12)
        assert all(f"dy/d{x} = {slope}" in call.__doc__ for x, slope in zip(row.arguments, slopes, strict=True))


def test_a_row_s_signature_is_that_of_its_function_before_and_after_its_first_call() -> None:
    fresh = primitive(lambda x, axis, slope: x * slope, lambda g, slope: g * slope, axis=..., slope=0.5)
    for _ in range(2):
        assert str(inspect.signature(fresh)) == "(x, axis, slope=0.5)"
        fresh(1.0, None)
    assert str(inspect.signature(mg.sum)) == "(x, axis=None, keepdims=False)"
    assert str(inspect.signature(mg.divide)) == "(a, b)"


DTYPES = ["float16", "float32", "float64"]
IN_SINGLE = {"silu", "gelu", "var", "std"}  # computed in single precision on the way, where the input is of half
TOLERANCE = {"float16": 2e-2, "float32": 2e-5, "float64": 1e-12}


@pytest.mark.parametrize("dtype", DTYPES)
@each_smooth
def test_the_dtype_is_kept_by_every_value_and_gradient(
    sample: Sample, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = [a.astype(dtype) if is_float(a) else a for a in sample.arrays]
    xs = tensors(arrays)
    leaves = [x for x in xs if x.requires_grad]
    y = sample.call(*xs)
    in_single = dtype == "float16" and sample.name in IN_SINGLE
    dtypes = {dtype, "float32"} if in_single else {dtype}
    assert {str(node.dtype) for node in history(y.node)} == dtypes
    expected = np.asarray(sample.reference(*[a.astype(float) if is_float(a) else a for a in arrays]))
    close(y.numpy().astype(float), expected, TOLERANCE[dtype])
    g = np.asarray(np.random.default_rng(1).normal(size=y.shape), dtype)

    def refuse(*_: Any) -> Any:
        raise AssertionError("a pullback changed the dtype, and the reverse pass had to change it back")

    changes = in_single or sample.name == "astype"
    monkeypatch.setattr(autodiff.ops, "astype", ops.astype if changes else refuse)
    assert {a.dtype for a in mg.grad(y, leaves, g, retain_graph=True)} == {np.dtype(dtype)}
    gradients = mg.grad(y, leaves, g, create_graph=True)
    nodes = [a.node for a in gradients if a.node is not None]
    assert {str(node.dtype) for node in history(*nodes)} <= dtypes
    assert {a.dtype for a in gradients} == {np.dtype(dtype)}


MIXTURES = {
    "a Python float": 1.5, "a Python integer": 3, "a truth value": True, "numpy.float64": np.float64(1.5),
    "numpy.int64": np.int64(3), "a 0-d float64 array": np.array(1.5), "integers": np.array([1, 2, 3]),
    "truth values": np.array([True, False, True]), "a list": [1.5, 2.5, 3.5],
}  # fmt: skip
BINARY = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "power",
    "maximum",
    "minimum",
    "arctan2",
    "remainder",
    "floor_divide",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", MIXTURES)
@pytest.mark.parametrize("name", BINARY)
def test_numbers_and_integers_join_the_tensors_dtype(name: str, other: str, dtype: str) -> None:
    op, value = getattr(ops, name), MIXTURES[other]
    if isinstance(value, list) and dtype != "float32":
        pytest.skip("a list of Python floats is float32, and joins float32 alone")
    x = mg.tensor(np.array([0.7, 1.3, 2.1], dtype), requires_grad=True)
    for y in (op(x, value), op(value, x)):
        assert y.dtype == dtype
        if y.requires_grad:
            (g,) = mg.grad(y.sum(), [x], create_graph=True)
            assert g.dtype == dtype
            if g.requires_grad:
                assert {str(node.dtype) for node in history(g.node)} == {dtype}
            assert mg.grad(op(x, value).sum(), x).dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("integers", ["uint8", "int64", "bool"])
@pytest.mark.parametrize("name", BINARY)
def test_integers_join_a_0d_float(name: str, integers: str, dtype: str) -> None:
    """NumPy would make float64 of int64 and a 0-d float32."""
    x, z = mg.tensor(np.array([1, 1, 1], integers)), mg.tensor(np.array(1.5, dtype), requires_grad=True)
    for operands in ((x, z), (z, x)):
        y = getattr(ops, name)(*operands)
        assert y.dtype == dtype
        if y.requires_grad:
            assert mg.grad(y.sum(), z).dtype == dtype


@pytest.mark.parametrize("name", [s for s in BINARY if s not in ("floor_divide", "remainder", "arctan2")])
def test_a_number_beside_a_tensor_has_the_right_derivative(name: str) -> None:
    op = getattr(ops, name)
    derivatives_agree(lambda x: op(x, 1.7), (np.array([0.7, 1.3, 2.1]),))
    derivatives_agree(lambda x: op(1.7, x), (np.array([0.7, 1.3, 2.1]),))
    derivatives_agree(lambda x, z: op(z, x), (np.array([0.7, 1.3, 2.1]), np.array(1.1)))


def test_static_numbers_do_not_widen() -> None:
    x = mg.tensor([0.5, -1.5], requires_grad=True)
    slope = np.float64(0.3)
    for y in (
        x.leaky_relu(slope),
        x.elu(slope),
        x.clip(-slope, slope),
        x.pad(1, slope),
        x.sum() ** slope,
        x.norm(np.float64(3)),
    ):
        assert y.dtype == np.float32
        assert mg.grad(y.sum(), x).dtype == np.float32


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_integers_become_float32_and_not_half(dtype: str) -> None:
    x = mg.tensor(np.array([0, 1, 1], dtype))
    for y in (x.exp(), x.sqrt(), x / 3, x * 0.5, x.mean(), x.sigmoid(), x.norm(), x + 0.5, mg.where(x > 0, 0.5, 1.5)):
        assert y.dtype == np.float32
    np.testing.assert_allclose(x.exp().numpy(), np.exp([0.0, 1, 1]), rtol=1e-7)
    np.testing.assert_allclose(((x + 3) ** -0.5).numpy(), [3**-0.5, 0.5, 0.5], rtol=1e-7)
    assert (x + x).dtype == x.dtype and x.max().dtype == x.dtype
    assert x.sum().dtype == np.array([0, 1, 1], dtype).sum().dtype
    np.testing.assert_array_equal(x.cumsum(0).numpy(), [0, 1, 2])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64", "bool"])
def test_extremes_of_integers(dtype: str) -> None:
    """No minimum by way of -x, which the least integer and unsigned ones do not have."""
    least, most = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    a = np.array([[most, 1], [least, most]], dtype)
    x = mg.tensor(a)
    for axis in (None, 0, 1, (0, 1)):
        for ours, theirs in ((x.amin, a.min), (x.min, a.min), (x.amax, a.max), (x.max, a.max)):
            assert ours(axis).dtype == a.dtype
            np.testing.assert_array_equal(ours(axis).numpy(), theirs(axis))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int32", "int64", "bool"])
def test_what_integers_cannot_hold_is_computed_with_floats(dtype: str) -> None:
    """No sign, no difference and no square of an integer on the way: -x, x - max(x) and x * x wrap around."""
    largest = 1 if dtype == "bool" else min(np.iinfo(dtype).max, 60_000)
    a = np.array([largest, 0, largest, 1], dtype)
    x, wide = mg.tensor(a), mg.tensor(a.astype("float64"))
    for call in (
        lambda x: x.norm(), lambda x: x.norm(1), lambda x: x.norm(3), lambda x: x.norm(np.inf), lambda x: x.std(),
        lambda x: x.norm(-np.inf), lambda x: x.logsumexp(), lambda x: x.softplus(), lambda x: ops.log_softmax(x, 0),
    ):  # fmt: skip
        assert call(x).dtype == np.float32
        np.testing.assert_allclose(call(x).numpy(), call(wide).numpy(), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64", "bool"])
def test_products_of_integers_are_as_wide_as_sums(dtype: str) -> None:
    a = np.array([[100, 100, 3], [1, 0, 1]]).astype(dtype)
    for axis in (None, 0, 1):
        product, expected = mg.tensor(a).prod(axis), a.prod(axis)
        assert product.dtype == expected.dtype == mg.tensor(a).sum(axis).dtype
        np.testing.assert_array_equal(product.numpy(), expected)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
def test_triangles_keep_their_dtype(dtype: str) -> None:
    a = np.ones((3, 4), dtype)
    for k in (-1, 0, 1):
        for ours, theirs in ((mg.tensor(a).tril(k), np.tril(a, k)), (mg.tensor(a).triu(k), np.triu(a, k))):
            assert ours.dtype == dtype
            np.testing.assert_array_equal(ours.numpy(), theirs)


def test_a_change_of_dtype_is_followed_back() -> None:
    x = mg.tensor([1.5, 2.5], requires_grad=True)
    y = (x.astype(mg.float64) * np.array([3.0, 5.0])).sum()
    assert y.dtype == np.float64
    y.backward()
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.numpy(), [3, 5])
    assert mg.tensor([1, 2]).astype(mg.float64).dtype == np.float64
    assert mg.tensor([1.0]).astype(mg.float16).dtype == np.float16


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_a_change_to_integers_is_constant(dtype: str) -> None:
    x = mg.tensor([1.5, 2.5], requires_grad=True)
    whole = x.astype(dtype)
    assert whole.node is None and whole.dtype == dtype
    for y in (whole / 2, whole.mean(), whole.exp(), whole * 0.5):
        assert y.dtype == np.float32
    y = x * whole.astype(mg.float32)
    np.testing.assert_array_equal(mg.grad(y.sum(), x).numpy(), np.array([1.5, 2.5], "float32").astype(dtype))


# ---- what the kinds claim --------------------------------------------------------------------------
def of_kind(*kinds: str) -> Any:
    chosen = [s for s in SAMPLES if kind_of(s) in kinds]
    return pytest.mark.parametrize("sample", chosen, ids=[f"{i}-{s}" for i, s in enumerate(chosen)])


@of_kind("elementwise")
def test_an_elementwise_row_has_a_diagonal_jacobian(sample: Sample) -> None:
    arrays = [
        np.array(np.broadcast_to(a, np.broadcast_shapes(*[x.shape for x in sample.arrays]))) for a in sample.arrays
    ]
    shape = arrays[0].shape
    for place in list(np.ndindex(shape))[:5]:
        g = np.zeros(shape)
        g[place] = 1.0
        for pulled_back in pulled(sample.call, arrays, g):
            assert set(map(tuple, np.argwhere(pulled_back))) <= {place}


@of_kind("linear", "bilinear")
def test_a_linear_row_is_linear_in_each_argument_and_its_pullback_is_the_adjoint(sample: Sample) -> None:
    if kind_of(sample) == "bilinear":
        a, b = sample.arrays
        linear_with_adjoint(lambda x: sample.call(x, b), a)
        linear_with_adjoint(lambda x: sample.call(a, x), b)
    else:
        linear_with_adjoint(sample.call, *sample.arrays)


def linear_with_adjoint(f: Callable[..., Any], *u: np.ndarray) -> None:
    """f(1.3 u - 0.7 v) = 1.3 f(u) - 0.7 f(v), and <f(v), g> = <v, pullback of g>."""
    v = [normal(*a.shape) for a in u]
    mixed = f(*tensors([1.3 * a - 0.7 * b for a, b in zip(u, v, strict=True)])).numpy()
    of_u, of_v = f(*tensors(u)).numpy(), f(*tensors(v)).numpy()
    close(mixed, 1.3 * of_u - 0.7 * of_v, 1e-12)
    g = np.asarray(np.random.default_rng(6).normal(size=mixed.shape))
    close(np.sum(of_v * g), inner(v, pulled(f, u, g)), 1e-11)


@of_kind("discrete")
def test_a_discrete_row_is_never_on_the_tape(sample: Sample) -> None:
    xs = tensors(sample.arrays)
    assert sample.call(*xs).node is None


# ---- planted mistakes: the judges can fail ---------------------------------------------------------
WRONG: dict[str, Any] = {
    "a factor": primitive(lambda x: x * x, lambda g, x: g * x),
    "a sign": primitive(lambda x: np.cos(x), lambda g, x: g * ops.sin(x)),
    "a small error": primitive(lambda x: np.tanh(x), lambda g, y: g * (1 - y * y) * 1.0001),
    "a missing term": primitive(lambda x: x * np.exp(x), lambda g, x: g * ops.exp(x)),
    "one element of twelve": primitive(lambda x: 2 * x, lambda g: g * np.array([2.0] * 11 + [2.001]).reshape(3, 4)),
    "a cut history": primitive(
        lambda x: np.exp(x),
        lambda g, x: g * mg.tensor(np.exp(getattr(x, "data", x))) if isinstance(x, Tensor) else g * np.exp(x),
    ),
    "a cut cotangent": primitive(lambda x: x * x, lambda g, x: 2 * x * getattr(g, "detach", lambda: g)()),
    "the wrong argument": primitive(lambda a, b: a * b, lambda g, a: g * a, lambda g, b: g * b),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_planted_wrong_derivative_is_caught(mistake: str) -> None:
    row = WRONG[mistake]
    arrays = [normal(3, 4) for _ in row.primitive.arguments]
    with pytest.raises(AssertionError):
        derivatives_agree(lambda *xs: row(*xs), arrays)


PULLBACKS = [
    (name, i) for name, row in ROWS.items() for i, plan in enumerate(row.pullbacks) if plan is not None
]  # fmt: skip


@pytest.mark.parametrize(("name", "argument"), PULLBACKS, ids=[f"{name}-{i}" for name, i in PULLBACKS])
def test_every_pullback_made_wrong_is_caught_by_its_samples(
    name: str, argument: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part in a thousand too much, in one argument of one row."""
    row = ROWS[name]
    rule, places = row.pullbacks[argument]  # type: ignore[misc]
    wrong = (lambda *values: 1.001 * rule(*values), places)
    monkeypatch.setattr(row, "pullbacks", (*row.pullbacks[:argument], wrong, *row.pullbacks[argument + 1 :]))
    sample = next(s for s in SAMPLES if s.name == name)
    with pytest.raises(AssertionError):
        derivatives_agree(sample.call, sample.arrays)


def test_a_wrong_claim_is_caught() -> None:
    not_diagonal = elementwise(lambda x: x + x[::-1], lambda g: g + g[::-1])
    not_linear = linear(lambda x: x * x, lambda g, x: 2 * g * x)
    name = "planted"
    for row, claim in [
        (not_diagonal, test_an_elementwise_row_has_a_diagonal_jacobian),
        (not_linear, test_a_linear_row_is_linear_in_each_argument_and_its_pullback_is_the_adjoint),
    ]:
        with pytest.raises(AssertionError):
            claim(Sample(name, (normal(3),), np.positive, lambda x, row=row: row(x)))
    on_tape = primitive(lambda x: x * 1, lambda g: g)
    with pytest.raises(AssertionError):
        test_a_discrete_row_is_never_on_the_tape(Sample(name, (normal(3),), np.positive, lambda x: on_tape(x)))
    assert discrete(lambda x: x)(mg.tensor(1.0, requires_grad=True)).node is None


# ---- PyTorch's choices at kinks and ties ---------------------------------------------------------------
KINKS: list[tuple[str, Any, Any, list[float]]] = [
    ("relu", lambda x: x.relu(), lambda t, x: t.relu(x), [-1.0, 0.0, -0.0, 2.0]),
    ("abs", lambda x: x.abs(), lambda t, x: t.abs(x), [-1.0, 0.0, 2.0]),
    ("clip", lambda x: x.clip(-1.0, 2.0), lambda t, x: t.clamp(x, -1.0, 2.0), [-1.0, 0.0, 2.0, 3.0, -4.0]),
    ("leaky_relu", lambda x: x.leaky_relu(0.2), lambda t, x: t.nn.functional.leaky_relu(x, 0.2), [-1.0, 0.0, 2.0]),
    ("elu", lambda x: x.elu(1.3), lambda t, x: t.nn.functional.elu(x, 1.3), [-1.0, 0.0, 2.0]),
    ("max", lambda x: x.max(0), lambda t, x: t.max(x, 0).values, [1.0, 3.0, 3.0, 2.0]),
    ("min", lambda x: x.min(0), lambda t, x: t.min(x, 0).values, [1.0, 1.0, 3.0]),
    ("full max", lambda x: x.max(), lambda t, x: t.max(x), [1.0, 3.0, 3.0, 2.0]),
    ("full min", lambda x: x.min(), lambda t, x: t.min(x), [1.0, 1.0, 3.0]),
    ("amax", lambda x: x.amax(0), lambda t, x: t.amax(x, 0), [1.0, 3.0, 3.0, 3.0]),
    ("amin", lambda x: x.amin(0), lambda t, x: t.amin(x, 0), [1.0, 1.0, 3.0]),
    ("maximum", lambda x: mg.maximum(x, x[::-1]), lambda t, x: t.maximum(x, x.flip(0)), [1.0, 2.0, 1.0]),
    ("minimum", lambda x: mg.minimum(x, x[::-1]), lambda t, x: t.minimum(x, x.flip(0)), [1.0, 2.0, 1.0]),
    ("square at 0", lambda x: x**2, lambda t, x: x**2, [0.0, 1.0]),
    ("power 1 at 0", lambda x: x**1, lambda t, x: x**1, [0.0, 1.0]),
    ("power 0 at 0", lambda x: x**0, lambda t, x: x**0, [0.0, 1.0]),
    ("power at 0", lambda x: x ** x.detach(), lambda t, x: x ** x.detach(), [0.0, 1.0]),
    ("exponent at 0", lambda x: x.detach() ** x, lambda t, x: x.detach() ** x, [0.0, 1.0]),
    ("0 to a power", lambda x: 0.0**x, lambda t, x: 0.0**x, [0.0, 1.0]),
    ("norm at 0", lambda x: x.norm(), lambda t, x: t.linalg.vector_norm(x), [0.0, 0.0]),
    ("3-norm at 0", lambda x: x.norm(3), lambda t, x: t.linalg.vector_norm(x, 3), [0.0, 0.0]),
    ("1.5-norm at 0", lambda x: x.norm(1.5), lambda t, x: t.linalg.vector_norm(x, 1.5), [0.0, 0.0]),
    ("arctan2 at the origin", lambda x: mg.arctan2(x, x), lambda t, x: t.atan2(x, x), [0.0, 1.0]),
    ("std at 0", lambda x: x.std(), lambda t, x: t.std(x, correction=0), [1.5, 1.5]),
    ("prod at 0", lambda x: x.prod(), lambda t, x: t.prod(x), [0.0, 2.0, 3.0]),
    ("logsumexp of -inf", lambda x: x.logsumexp(0), lambda t, x: t.logsumexp(x, 0), [-np.inf, 1.0]),
    (
        "sort",
        lambda x: x.sort() * np.arange(4.0),
        lambda t, x: t.sort(x, stable=True).values * t.arange(4.0),
        [2.0, 1.0, 2.0, 1.0],
    ),
    ("sigmoid far out", lambda x: x.sigmoid(), lambda t, x: t.sigmoid(x), [-800.0, 800.0, -np.inf, np.inf]),
    ("softplus far out", lambda x: x.softplus(), lambda t, x: t.logaddexp(x, t.zeros(())), [-800.0, 800.0]),
    ("sqrt at 0", lambda x: x.sqrt(), lambda t, x: t.sqrt(x), [0.0, 4.0]),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", KINKS, ids=[case[0] for case in KINKS])
def test_kinks_and_ties_as_pytorch_has_them(case: Any) -> None:
    torch = pytest.importorskip("torch")
    _, ours, theirs, values = case
    x = mg.tensor(np.array(values), requires_grad=True)
    z = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    y, w = ours(x), theirs(torch, z)
    np.testing.assert_allclose(y.numpy(), w.detach().numpy(), rtol=1e-12)
    y.backward(np.ones(y.shape))
    w.backward(torch.ones(w.shape, dtype=torch.float64))
    np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=1e-12)


def test_the_mixed_derivative_of_a_power_at_exponent_zero() -> None:
    """d/da d/db a^b = a^(b-1) (1 + b log a), which is 1/a at b = 0, in either order."""
    hessian = mg.hessian(lambda z: z[0] ** z[1], mg.tensor([2.0, 0.0], dtype=mg.float64)).numpy()
    np.testing.assert_allclose(hessian, [[0, 0.5], [0.5, np.log(2) ** 2]], rtol=1e-14)


@pytest.mark.parametrize(
    "f",
    [lambda x: x.norm(), lambda x: x.norm(3), lambda x: (x + 1).std(), lambda x: mg.arctan2(x[0], x[1])],
    ids=["norm", "3-norm", "std", "arctan2"],
)
def test_where_a_derivative_is_taken_as_0_so_are_those_above(f: Any) -> None:
    hessian = mg.hessian(f, mg.zeros(2, dtype=mg.float64))
    np.testing.assert_array_equal(hessian.numpy(), np.zeros((2, 2)))


def test_the_half_norm_with_a_zero_in_it() -> None:
    x = mg.tensor([0.0, 4.0, 1.0], dtype=mg.float64, requires_grad=True)
    y = x.norm(0.5)  # (sqrt(4) + sqrt(1))^2, and its slope in x_i is sqrt(y / x_i)
    assert y.item() == pytest.approx(9) and mg.grad(y, x).tolist() == pytest.approx([0, 1.5, 3])


def test_elu_at_its_kink_is_its_left_branch_to_every_order() -> None:
    x = mg.tensor(0.0, dtype=mg.float64, requires_grad=True)
    first = mg.grad(x.elu(1.5), x, create_graph=True)
    second = mg.grad(first, x, create_graph=True)
    assert (first.item(), second.item(), mg.grad(second, x).item()) == (1.5, 1.5, 1.5)


def test_rows_of_minus_infinity_have_no_gradient_but_no_nan_either() -> None:
    x = mg.tensor([[-np.inf, -np.inf], [1.0, -np.inf]], requires_grad=True)
    with np.errstate(divide="ignore"):
        x.logsumexp(1).backward(np.ones(2))
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0], [1, 0]])


def test_an_einsum_with_a_scalar_of_numpys() -> None:
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = mg.einsum("i,->i", x, np.float64(2))
    assert y.dtype == np.float32 and mg.grad(y, x, np.ones(2)).tolist() == [2, 2]


def test_every_index_reads_and_scatters_like_numpy() -> None:
    for index in INDICES:
        x = mg.tensor(np.arange(12.0).reshape(3, 4), requires_grad=True)
        y = x[index]
        expected = np.zeros((3, 4))
        np.add.at(expected, index, np.ones(y.shape))
        y.backward(np.ones(y.shape))
        np.testing.assert_array_equal(x.grad.numpy(), expected)
