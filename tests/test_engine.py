"""What must not pass silently: wrong shapes, axes, indices, dtypes and operands, and lost histories.

Each raises at once, and the message names the op, the shapes or values, and where there is one the fix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import ops
from minigrad.backend import xp
from minigrad.tensor import Tensor

X = mg.tensor(np.arange(6.0, dtype="float32").reshape(2, 3))
V = mg.tensor([1.0, 2.0, 3.0, 4.0])
WIDE = mg.tensor(np.ones((2, 3)))

SHAPES: dict[str, tuple[Callable[[], Any], str]] = {
    "add": (lambda: X + V, r"add: .*\[2, 3\], float32 \[4\]"),
    "maximum": (lambda: mg.maximum(X, V), r"maximum: .*\[2, 3\], float32 \[4\]"),
    "where": (lambda: mg.where(X > 0, X, V), r"where: .*\[2, 3\], float32 \[4\]"),
    "less": (lambda: X < V, r"less: .*\[2, 3\], float32 \[4\]"),
    "matmul": (lambda: X @ V, r"matmul: \[2, 3\] @ \[4\].* not 3 and 4; \.mT exchanges"),
    "matmul of columns": (lambda: X @ X, r"matmul: \[2, 3\] @ \[2, 3\].* not 3 and 2"),
    "matmul with a number": (lambda: X @ mg.tensor(2.0), r"matmul: .*\[2, 3\] and \[\]; multiply by a number with \*"),
    "batches": (lambda: mg.ones(2, 3, 4) @ mg.ones(3, 4, 5), r"matmul: .*float32 \[2, 3, 4\], float32 \[3, 4, 5\]"),
    "tensordot of three": (lambda: mg.tensordot(X, X, ([0], [0], [1])), r"tensordot: axes is a number or a pair"),
    "tensordot": (lambda: mg.tensordot(X, V, 1), r"tensordot: axes \(1,\) of \[2, 3\] and \(0,\) of \[4\] differ"),
    "einsum": (lambda: mg.einsum("ij,j", X, V), r"einsum: 'ij,j': 'j' has different lengths in \[\[2, 3\], \[4\]\]"),
    "einsum terms": (lambda: mg.einsum("ij", X, V), "einsum: 'ij' has 1 terms for 2 operands"),
    "einsum axes": (lambda: mg.einsum("ijk->i", X), "einsum: 'ijk->i': the term 'ijk' does not fit .* 2 axes"),
    "einsum output": (lambda: mg.einsum("ij->ik", X), "einsum: 'ij->ik': the output's 'k'"),
    "einsum twice": (lambda: mg.einsum("ij->ii", X), "einsum: 'ij->ii': the output's 'i'"),
    "einsum letters": (lambda: mg.einsum("i3->i", X), "einsum: 'i3->i' holds '3'"),
    "einsum dots": (lambda: mg.einsum("...i->i", X), r"einsum: .*the axes under '\.\.\.'"),
    "einsum diagonal": (lambda: mg.einsum("ii->i", X), r"einsum: 'ii->i': 'i' has different lengths"),
    "einsum equation": (lambda: mg.einsum(X, "ij"), "einsum: the equation comes first"),
    "einsum numbers": (lambda: mg.einsum(X, [0, 1], V), "einsum: after operands stand lists of numbers"),
    "einsum negative": (lambda: mg.einsum(X, [0, -1]), r"einsum: .* 0\.\.51 or `\.\.\.`, not \[\[0, -1\]\]"),
    "reshape": (lambda: X.reshape(4, 2), r"reshape: .*float32 \[2, 3\].*shape=\(4, 2\)"),
    "reshape by floats": (lambda: X.reshape(2.0, 3.0), r"reshape: a length is a whole number, not \(2.0, 3.0\)"),
    "tile by floats": (lambda: X.tile(1.5), "tile: a number of repetitions is a whole number, not 1.5"),
    "split by floats": (lambda: X.split([1.5], 1), r"split: .* whole number, not \[1.5\]"),
    "broadcast_to": (lambda: X.broadcast_to((2, 4)), r"broadcast_to: .*\[2, 3\].*shape=\(2, 4\)"),
    "sum_to": (lambda: X.sum_to((4, 3)), r"sum_to: .*\[2, 3\].*shape=\(4, 3\)"),
    "concatenate": (lambda: mg.concatenate([X, V]), r"concatenate: .*\[2, 3\], float32 \[4\]"),
    "concatenate nothing": (lambda: mg.concatenate([]), "concatenate: needs a list of at least one"),
    "concatenate one": (lambda: mg.concatenate(X), "concatenate: needs a list"),
    "stack": (lambda: mg.stack([X, V]), r"stack: the shapes differ: \[\[2, 3\], \[4\]\]"),
    "stack nothing": (lambda: mg.stack([]), "stack: needs a list of at least one"),
    "split": (lambda: X.split(2, 1), r"split: axis 1 of shape \[2, 3\] does not divide into 2 equal parts"),
    "squeeze": (lambda: X.squeeze(0), r"squeeze: axes \[0\] of shape \[2, 3\] are not all of length 1"),
    "transpose": (lambda: X.transpose(0, 0), r"transpose: \[0, 0\] is not an order of the 2 axes of shape \[2, 3\]"),
    "pad": (lambda: X.pad([(1, 1)]), r"pad: needs a pair of widths >= 0 for each axis of shape \[2, 3\]"),
    "pad less than 0": (lambda: X.pad(-1), r"pad: needs a pair of widths >= 0"),
    "repeat": (lambda: X.repeat(-1), "repeat: repeats is a number >= 0, not -1"),
    "tril": (lambda: V.tril(), r"tril: needs an array of at least 2 axes, not shape \[4\]"),
    "trace": (lambda: V.trace(), r"diagonal: needs an array of at least 2 axes"),
    "windows": (lambda: X.windows((3, 3)), r"windows: .*\[2, 3\]"),
    "windows of stride 0": (lambda: X.windows((1, 1), (0, 1)), "windows: .*stride"),
    "conv channels": (
        lambda: mg.conv(mg.ones(1, 2, 5, 5), mg.ones(3, 4, 3, 3)),
        r"conv: .*\[3, 4, 3, 3\].*\[1, 2, 5, 5\]",
    ),
    "conv axes": (lambda: mg.conv(mg.ones(2, 5, 5), mg.ones(3, 2, 3, 3)), r"conv: .*\[2, 5, 5\]"),
    "take_along_axis": (
        lambda: X.take_along_axis(mg.tensor([0, 1]), 1),
        r"take_along_axis: the index \[2\] needs as many",
    ),
    "scatter_add": (lambda: X.scatter_add(mg.tensor([[0, 1]]), X), r"scatter_add: source \[2, 3\] and index \[1, 2\]"),
    "scatter_add too long": (
        lambda: X.scatter_add(mg.zeros(2, 9, dtype=int), mg.ones(2, 9)),
        r"scatter_add: .* longer than x \[2, 3\] along axis 0 alone",
    ),
    "norm": (lambda: X.norm("fro"), "norm: ord is a number, not 'fro'; of a matrix 2 gives the Frobenius norm"),
    "var": (lambda: X.var(0, ddof=2), r"var: 2 values along axis 0 of shape \[2, 3\] less ddof=2 leave none"),
    "len": (lambda: len(mg.tensor(1.0)), "len: a 0-d Tensor"),
    "iteration": (lambda: list(mg.tensor(1.0)), "a 0-d Tensor has no length"),
    "item": (lambda: X.item(), r"item: needs a Tensor with one value, not 6 \(shape \[2, 3\]\)"),
    "truth": (lambda: bool(X > 1), r"bool: the truth of a Tensor of shape \[2, 3\] is ambiguous"),
    "max of nothing": (lambda: mg.ones(0).max(), "amax: zero-size array"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_wrong_shapes(case: str) -> None:
    call, message = SHAPES[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


AXES: dict[str, Callable[[int], Any]] = {
    "sum": lambda a: X.sum(a),
    "mean": lambda a: X.mean(a),
    "amax": lambda a: X.amax(a),
    "max": lambda a: X.max(a),
    "argmax": lambda a: X.argmax(a),
    "logsumexp": lambda a: X.logsumexp(a),
    "var": lambda a: X.var(a),
    "std": lambda a: X.std(a),
    "prod": lambda a: X.prod(a),
    "norm": lambda a: X.norm(axis=a),
    "cumsum": lambda a: X.cumsum(a),
    "sort": lambda a: X.sort(a),
    "squeeze": lambda a: X.squeeze(a),
    "expand_dims": lambda a: X.expand_dims(a + 1 if a > 0 else a - 1),
    "swapaxes": lambda a: X.swapaxes(0, a),
    "transpose": lambda a: X.transpose(0, a),
    "flip": lambda a: X.flip(a),
    "roll": lambda a: X.roll(1, a),
    "concatenate": lambda a: mg.concatenate([X, X], a),
    "stack": lambda a: mg.stack([X, X], a + 1 if a > 0 else a - 1),
    "split": lambda a: X.split(1, a),
    "repeat": lambda a: X.repeat(2, a),
    "tensordot": lambda a: mg.tensordot(X, X, ([a], [0])),
    "take_along_axis": lambda a: X.take_along_axis(mg.zeros(2, 3, dtype=int), a),
    "scatter_add": lambda a: X.scatter_add(mg.zeros(2, 3, dtype=int), X, a),
}


@pytest.mark.parametrize("axis", [2, 5, -3])
@pytest.mark.parametrize("op", AXES)
def test_axes_that_are_not_there(op: str, axis: int) -> None:
    named = {"stack": "expand_dims|stack", "max": "argmax"}.get(op, op)
    with pytest.raises((IndexError, ValueError), match=rf"^({named}): .*axis.*"):
        AXES[op](axis)


@pytest.mark.parametrize("op", ["var", "std", "squeeze"])
def test_axes_that_are_no_numbers(op: str) -> None:
    for axis in (1.0, "a", [0, None]):
        with pytest.raises(TypeError, match=rf"^{op}: an axis is a whole number, not "):
            AXES[op](axis)


@pytest.mark.parametrize("op", ["sum", "mean", "var", "std", "amax", "max", "min", "logsumexp", "norm", "squeeze"])
@pytest.mark.parametrize("axes", [[0, 2], [], [-1]])
def test_a_list_of_axes_is_a_tuple_of_them(op: str, axes: list[int]) -> None:
    x = mg.random.normal(1, 3, 1, requires_grad=True)
    results = [getattr(ops, op)(x, axis=axis) for axis in (axes, tuple(axes))]
    if results[0].requires_grad:
        results += [mg.grad(y, x, mg.ones(*y.shape)) for y in results]
    for listed, given in zip(results[::2], results[1::2], strict=True):
        np.testing.assert_array_equal(listed.numpy(), given.numpy(), strict=True)


NUMBER: dict[str, Callable[[Tensor, int], Any]] = {
    "max": lambda x, a: x.max(a), "min": lambda x, a: x.min(a), "prod": lambda x, a: x.prod(a),
    "sort": lambda x, a: x.sort(a), "cumsum": lambda x, a: x.cumsum(a), "sum": lambda x, a: x.sum(a),
    "amax": lambda x, a: x.amax(a), "logsumexp": lambda x, a: x.logsumexp(a),
}  # fmt: skip


@pytest.mark.parametrize("op", NUMBER)
def test_a_number_is_its_own_line(op: str) -> None:
    """What goes along an axis takes a 0-d Tensor along axis 0, as PyTorch does."""
    x = mg.tensor(3.0, requires_grad=True)
    for axis in (0, -1):
        y = NUMBER[op](x, axis)
        assert y.shape == () and y.item() == 3 and mg.grad(y, x).item() == 1
    with pytest.raises((IndexError, ValueError), match="axis 1 "):
        NUMBER[op](x, 1)


@pytest.mark.parametrize("op", [lambda x: x.split(1), lambda x: x.swapaxes(0, 0), lambda x: x.repeat(2, 0)])
def test_a_number_has_no_axes(op: Callable[[Tensor], Any]) -> None:
    with pytest.raises(IndexError, match="axis 0 is out of range for an array of 0 axes"):
        op(mg.tensor(3.0))


@pytest.mark.parametrize("index", [2, -3, (0, 3), np.array([0, 2]), ([0], [3]), (0, 0, 0), np.ones((3, 3), bool)])
def test_indices_out_of_range(index: Any) -> None:
    with pytest.raises(IndexError, match=r"^take: .*float32 \[2, 3\]"):
        X[index]


def test_indices_out_of_range_along_an_axis() -> None:
    with pytest.raises(IndexError, match=r"take: index 3 is out of bounds"):
        X.take_along_axis(mg.tensor([[3], [0]]), 1)
    with pytest.raises(IndexError, match=r"scatter: index 2 is out of bounds"):
        X.scatter_add(mg.tensor([[2, 0, 0]]), mg.ones(1, 3))


@pytest.mark.parametrize("index", [1.0, "a", mg.tensor([0.5]), X])
def test_indices_that_are_not_integers(index: Any) -> None:
    with pytest.raises((IndexError, TypeError), match=r"^take: "):
        X[index]
    with pytest.raises(TypeError, match=r"take_along_axis: the index holds integers, not float32"):
        X.take_along_axis(X, 1)


BINARY = {
    "add": mg.add, "subtract": mg.subtract, "multiply": mg.multiply, "divide": mg.divide, "power": mg.power,
    "maximum": mg.maximum, "minimum": mg.minimum, "arctan2": mg.arctan2, "matmul": mg.matmul, "less": mg.less,
    "equal": mg.equal, "floor_divide": mg.floor_divide, "remainder": mg.remainder,
}  # fmt: skip


@pytest.mark.parametrize("wrong", [None, "a", {"a": 1}, object()], ids=["None", "str", "dict", "object"])
@pytest.mark.parametrize("op", BINARY)
def test_operands_that_are_no_numbers(op: str, wrong: Any) -> None:
    for operands in ((V, wrong), (wrong, V)):
        with pytest.raises(TypeError, match=rf"^{op}: an operand is {type(wrong).__name__} "):
            BINARY[op](*operands)


@pytest.mark.parametrize("op", [name for name in BINARY if name != "matmul"])
def test_two_floating_dtypes_do_not_mix(op: str) -> None:
    for operands in ((X, WIDE), (WIDE, X), (X, WIDE.data), (X.astype(mg.float16), X)):
        with pytest.raises(
            TypeError, match=rf"^{op}: operands of different floating dtypes: .*; convert one with \.astype"
        ):
            BINARY[op](*operands)


def test_two_floating_dtypes_do_not_mix_in_products_and_joins() -> None:
    for call in (
        lambda: X @ WIDE.T, lambda: mg.einsum("ij,ij", X, WIDE), lambda: mg.concatenate([X, WIDE]),
        lambda: mg.where(X > 1, X, WIDE), lambda: mg.conv(mg.ones(1, 1, 3, 3), WIDE.reshape(1, 1, 2, 3)),
        lambda: mg.outer(X, WIDE), lambda: mg.tensordot(X, WIDE), lambda: mg.stack([X, WIDE]),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=r"operands of different floating dtypes: float32 .*float64"):
            call()


def test_other_wrong_parameters() -> None:
    for call, message in [
        (lambda: mg.where(X, X, X), "where: the condition holds truth values, not float32; compare first"),
        (lambda: X.clip(), "clip: give low, high, or both"),
        (lambda: X.clip(V, 1.0), r"clip: bounds are numbers, not arrays of shape \[4\]; use mg.maximum"),
        (lambda: X.clip(0.0, mg.tensor(1.0, requires_grad=True)), "clip: a bound is on the tape.*use mg.maximum"),
        (lambda: X.gelu("fast"), "gelu: approximate is 'none' or 'tanh', not 'fast'"),
        (lambda: X.leaky_relu("a"), "leaky_relu: slope is a number, not str 'a'"),
        (lambda: X.expand_dims((0, 1)), r"expand_dims: the axis is one number, not \(0, 1\)"),
        (lambda: V.mT, r"mT: needs an array of at least 2 axes, not shape \[4\]"),
        (lambda: mg.tensordot(X, X, -1), "tensordot: a number of axes is >= 0, not -1"),
        (lambda: mg.tensor([1, 2]).pad(1, value=0.5), "pad: float32 values do not fit into a int64"),
        (lambda: V.roll(1.5), "roll: .*shift=1.5"),
        (lambda: f"{V:.2f}", r"format: '.2f' is for one number, not for a Tensor of shape \[4\]"),
        (lambda: mg.sigmoid(3), "sigmoid: an operand is int 3; make it a Tensor with mg.tensor"),
        (lambda: mg.sum([1.0, 2.0]), r"sum: an operand is list \[1.0, 2.0\]; make it a Tensor"),
        (lambda: Tensor([1.0, 2.0]), r"Tensor: data is a raw array, not list \[1.0, 2.0\]; use mg.tensor"),
        (lambda: ~X, "bitwise_not: "),
        (lambda: X & X, "bitwise_and: "),
        (lambda: X.astype("no such dtype"), "astype: "),
        (lambda: mg.tensor([1, 2]) ** -1, "power_of: Integers to negative integer powers"),
        (lambda: mg.tensor(np.array([1], "uint8")) + 300, "add: Python integer 300 out of bounds for uint8"),
        (lambda: mg.concatenate([X, 3]), "concatenate: an operand is int 3; make it a Tensor"),
        (lambda: mg.matmul(X, [1.0, 2.0, 3.0]), "matmul: an operand is list"),
        (lambda: mg.exp("a"), "exp: "),
        (lambda: mg.sum(None), "sum: "),
    ]:
        with pytest.raises((TypeError, ValueError, OverflowError), match=message):
            call()


# ---- on the tape -----------------------------------------------------------------------------------
def test_assigning_into_a_tensor_on_the_tape_raises() -> None:
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    for t in (x, x * 2, mg.Parameter(np.ones(2, "float32"))):
        with pytest.raises(
            RuntimeError, match=r"setitem: assigning into a float32 \[2\] Tensor that is on the tape.*mg.where"
        ):
            t[0] = 1.0
    c = mg.tensor([1.0, 2.0])
    with pytest.raises(RuntimeError, match=r"setitem: the value is on the tape.*detach"):
        c[0] = x[0]
    c[0] = 5
    c[mg.tensor([1])] = mg.tensor([7.0])
    assert c.tolist() == [5, 7]


def test_assigning_what_does_not_fit_raises() -> None:
    n = mg.tensor([1, 2])
    with pytest.raises(TypeError, match=r"setitem: float32 values do not fit into a int64 Tensor; use \.astype"):
        n[0] = 1.5
    for dtype, value in (("uint8", 300), ("uint8", -1), ("int8", [1, 300]), ("int64", 2**63)):
        with pytest.raises(OverflowError, match=rf"setitem: .* the dtype asked for is {dtype}"):
            mg.zeros(2, dtype=dtype)[:] = value
    wrong = [("int8", np.array([1, 200])), ("bool", 2), ("float32", 1j)]
    if mg.current() == "numpy":  # a device is not asked for the largest value: the program would wait for it
        wrong.append(("float32", WIDE[0, :2] * 1e99))
    for dtype, value in wrong:
        with pytest.raises(TypeError, match=rf"setitem: .* values do not fit into a {dtype} Tensor; use \.astype"):
            mg.zeros(3, dtype=dtype)[:2] = value
    with pytest.raises(ValueError, match=r"setitem: .*\(a int64 \[2\] Tensor\)"):
        n[:] = [1, 2, 3]
    with pytest.raises(IndexError, match=r"setitem: [iI]ndex 5"):
        n[5] = 1


def test_leading_axes_of_length_one_do_not_hinder_an_assignment() -> None:
    for value in (np.array([1.5]), mg.tensor([[1.5]]), [1.5]):
        t = mg.zeros(3)
        t[1] = value
        assert t.tolist() == [0, 1.5, 0]
    t = mg.zeros(2, 2)
    t[:, 1] = mg.ones(1, 1, 2)
    assert t.tolist() == [[0, 1], [0, 1]]
    with pytest.raises(ValueError, match=r"setitem: .*\(a float32 \[2, 2\] Tensor\)"):
        t[0] = mg.ones(2, 1)


def test_assigned_numbers_take_the_dtype_of_the_tensor() -> None:
    for dtype, value in (
        ("uint8", 3), ("int8", [1, 2]), ("bool", 1), ("bool", False), ("int32", np.int64(7)), ("float64", 0.1),
        ("float64", [0.1, 0.2]), ("float64", X[0, 0]), ("float32", np.float64(0.1)), ("float32", WIDE[0, 0]),
        ("float32", np.array([1, 2])), ("int64", True), ("float16", 2),
    ):  # fmt: skip
        t = mg.zeros(2, dtype=dtype)
        t[:] = value
        expected = value.item() if isinstance(value, Tensor) else value
        np.testing.assert_array_equal(t.numpy(), np.broadcast_to(np.array(expected).astype(dtype), 2))
    u = mg.tensor(np.array([1, 5], "uint8"))
    u[u > 1] = 0
    assert u.tolist() == [1, 0]


def test_gradients_of_integers() -> None:
    for make in (
        lambda: mg.tensor([1, 2], requires_grad=True),
        lambda: mg.Parameter(np.array([1, 2])),
        lambda: mg.jvp(lambda x: x, mg.tensor([1]), mg.tensor([1])),
        lambda: mg.vjp(lambda x: x, mg.tensor([True])),
        lambda: setattr(mg.tensor([1]), "requires_grad", True),
        lambda: mg.ones(2, dtype=mg.int64, requires_grad=True),
    ):
        with pytest.raises(
            TypeError, match=r"^\w+: only floating dtypes have gradients, not .*dtype=mg.float32"
        ):
            make()


def test_a_result_cannot_become_a_leaf() -> None:
    y = mg.tensor([1.0], requires_grad=True) * 2
    for value in (True, False):
        with pytest.raises(RuntimeError, match=r"requires_grad: this Tensor is the result of 'multiply'.*detach"):
            y.requires_grad = value


def test_setting_grad() -> None:
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    x.grad = mg.tensor([3.0, 4.0])
    assert x.grad.tolist() == [3, 4]
    for wrong in (mg.tensor([1.0]), WIDE):
        with pytest.raises(ValueError, match=r"grad: a gradient of float32 \[2\] is needed, not"):
            x.grad = wrong
    with pytest.raises(TypeError, match=r"grad: a gradient is a Tensor or an array, not int 3"):
        x.grad = 3
    with pytest.raises(RuntimeError, match=r"grad: this float32 \[1\] Tensor is not on the tape: neither it nor"):
        mg.tensor([1.0]).grad = mg.tensor([1.0])


def test_parameters_and_buffers_refuse_histories() -> None:
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    p, b = mg.Parameter(np.ones(2, "float32")), mg.Buffer(np.ones(2, "float32"))
    for t in (p, b):
        with pytest.raises(RuntimeError, match=r"update: the new value .* is on the tape; pass value.detach"):
            t.update(x * 2)
        with pytest.raises(ValueError, match=r"update: a .* of shape \[2\] was given values of shape \[3\]"):
            t.update(np.ones(3))
        version = t.version
        t.update([3.0, 4.0])
        assert t.tolist() == [3, 4] and t.dtype == np.float32 and t.version == version + 1
    with pytest.raises(RuntimeError, match=r"Buffer: the value given is on the tape"):
        mg.Buffer(x)
    with pytest.raises(RuntimeError, match=r"Buffer: a Buffer never has a node"):
        b.requires_grad = True
    with pytest.raises(RuntimeError, match=r"Buffer: a Buffer never has a node"):
        b.node = x.node
    assert not (b * 2).requires_grad and (b * p).requires_grad


# ---- two array libraries -----------------------------------------------------------------------------
@pytest.mark.host("the other library is NumPy itself there")
def test_arrays_of_two_libraries_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        """Another library's array, while that library's backend is in use."""

        def __init__(self, array: np.ndarray) -> None:
            self.array, self.dtype, self.shape, self.ndim = array, array.dtype, array.shape, array.ndim

    on_host = np.ones(2, "float32")
    monkeypatch.setattr(xp, "ndarray", Device)
    with pytest.raises(
        TypeError, match=r"add: operands of two array libraries meet: .*numpy.float32.*the backend in use is 'numpy'"
    ):
        Tensor(Device(on_host)) + on_host


def test_an_axis_without_elements_splits_into_empty_parts() -> None:
    assert [part.shape for part in mg.zeros(0, 3).split(2)] == [(0, 3), (0, 3)]


# ---- defaults and edges -----------------------------------------------------------------------------
@pytest.mark.parametrize("axis", [0, -1])
def test_a_number_is_reduced_over_its_axis_0_as_numpy_does(axis: int) -> None:
    number = mg.tensor(2.0, requires_grad=True)
    for op in (mg.sum, mg.mean, mg.amax, mg.norm, mg.logsumexp):
        y = op(number, axis=axis)
        assert y.item() == 2.0 and mg.grad(y, number).item() == 1.0
    for wrong in (1, -2, (0, 1)):
        with pytest.raises(IndexError, match=r"^sum: axis .* is out of (range|bounds)"):
            mg.sum(number, wrong)


@pytest.mark.parametrize(("length", "parts"), [(3, 3), (4, 2), (5, 1), (0, 1), (0, 3)])
def test_split_gives_as_many_parts_as_were_asked_for(length: int, parts: int) -> None:
    found = mg.split(mg.arange(length), parts)
    assert len(found) == parts and [n for part in found for n in part.tolist()] == list(range(length))


def test_what_is_not_said_is_pytorchs_default() -> None:
    x, w = mg.random.normal(2, 3, 5, 4), mg.random.normal(2, 3, 2, 2)
    assert mg.log_softmax(x).tolist() == mg.log_softmax(x, 3).tolist()
    one = {"stride": (1, 1), "dilation": (1, 1)}
    assert ops.windows(x, (2, 2)).tolist() == ops.windows(x, (2, 2), **one).tolist()
    assert ops.conv(x, w).tolist() == ops.conv(x, w, padding=(0, 0), groups=1, **one).tolist()
