"""The reverse pass and the derivatives made from it: orders, nesting, memory, and who may write where."""

from __future__ import annotations

import functools
import gc
import itertools
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import autodiff, ops
from minigrad.primitive import fused
from minigrad.tape import Node, history, recording
from minigrad.tensor import Tensor
from tests.threads import at_once

BIG = autodiff.IN_PLACE + 1


def f64(values: Any, requires_grad: bool = False) -> Tensor:
    values = values.numpy() if isinstance(values, Tensor) else values
    return mg.tensor(np.asarray(values, float), requires_grad=requires_grad)


# ---- nesting ---------------------------------------------------------------------------------------
def by_grad(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: mg.value_and_grad(f)(x)[1]


def by_vjp(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def derivative(x: Tensor) -> Tensor:
        y, pullback = mg.vjp(f, x)
        return pullback(mg.ones_like(y))

    return derivative


def by_jvp(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: mg.jvp(f, x, mg.ones_like(x))[1]


def by_hand(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """mg.grad on a leaf, or on an input that is on an outer tape already."""

    def derivative(x: Tensor) -> Tensor:
        x = x if x.requires_grad else Tensor(x.data, f64(x, True).node)
        with mg.enable_grad():
            return mg.grad(f(x), x, create_graph=True)

    return derivative


def by_jacobian(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: mg.jacobian(f, x)


WAYS = [by_grad, by_vjp, by_jvp, by_hand, by_jacobian]


@pytest.mark.parametrize(
    "ways", list(itertools.product(WAYS, repeat=3)), ids=lambda w: "-".join(f.__name__[3:] for f in w)
)
def test_three_derivatives_nest_in_every_combination(ways: Any) -> None:
    """f = 2 x^5 - 3 x^3 exp(x): every derivative from its formula."""
    x = 0.7
    first, second, third = ways

    def f(x: Tensor) -> Tensor:
        return 2 * x**5 - 3 * x**3 * mg.exp(x)

    e = np.exp(x)
    assert first(f)(f64(x)).item() == pytest.approx(10 * x**4 - 3 * e * (x**3 + 3 * x**2), rel=1e-12)
    assert second(first(f))(f64(x)).item() == pytest.approx(40 * x**3 - 3 * e * (x**3 + 6 * x**2 + 6 * x), rel=1e-12)
    assert third(second(first(f)))(f64(x)).item() == pytest.approx(
        120 * x**2 - 3 * e * (x**3 + 9 * x**2 + 18 * x + 6), rel=1e-12
    )


@pytest.mark.parametrize("outer", WAYS)
@pytest.mark.parametrize("inner", WAYS)
def test_perturbations_are_not_confused(outer: Any, inner: Any) -> None:
    """d/dx (x * d/dy (x + y)) = 1, and d/dx (x d/dy (x y^2) at y = 2) = 8 x: Siskind and Pearlmutter 2005."""
    assert outer(lambda x: x * inner(lambda y: x + y)(f64(1.0)))(f64(1.0)).item() == 1.0
    assert outer(lambda x: x * inner(lambda y: x * y * y)(f64(2.0)))(f64(3.0)).item() == 24.0


def test_nesting_at_one_point() -> None:
    """The inner derivative is taken at the outer's own variable, which both must tell apart."""
    assert by_grad(lambda x: by_grad(lambda y: x * y * y)(x))(f64(3.0)).item() == 12.0
    assert by_jvp(lambda x: by_jvp(lambda y: x * y * y)(x))(f64(3.0)).item() == 12.0


def test_a_fourth_order() -> None:
    f: Callable[[Tensor], Tensor] = mg.sin
    for way in (by_grad, by_jvp, by_vjp, by_jvp):
        f = way(f)
    assert f(f64(0.4)).item() == pytest.approx(np.sin(0.4), rel=1e-12)


def test_transforms_under_no_grad_give_constants() -> None:
    with mg.no_grad():
        x = f64(2.0, True)
        for way in WAYS:
            d = way(lambda z: z * z * z)(x)
            assert d.item() == 12.0
        assert by_grad(by_grad(lambda z: z * z * z))(x).item() == 12.0
        value, g = mg.value_and_grad(lambda z: z * z)(x)
        assert not value.requires_grad and not g.requires_grad


def test_results_are_constants_unless_an_outer_derivative_can_follow_them() -> None:
    w = f64(3.0, True)
    for way in WAYS[:3]:
        assert way(lambda z: z * z)(f64(2.0)).node is None
        d = way(lambda z: w * z * z)(f64(2.0))
        assert mg.grad(d, w).item() == 4.0
    value, tangent = mg.jvp(lambda z: z * z, f64(2.0), w)
    assert value.item() == 4.0 and mg.grad(tangent, w).item() == 4.0
    y, pullback = mg.vjp(lambda z: z * z, f64(2.0))
    assert y.node is None and mg.grad(pullback(w), w).item() == 4.0
    assert mg.hvp(lambda z: z**3, f64(2.0), w).requires_grad


# ---- jacobian, hessian, hvp ------------------------------------------------------------------------
A = np.random.default_rng(3).normal(size=(3, 3))


def quartic(x: Tensor) -> Tensor:
    return (mg.matmul(x, f64(A)) * x * mg.exp(0.3 * x)).sum()


def fd_hessian(f: Callable[[Tensor], Tensor], x: np.ndarray) -> np.ndarray:
    h = 1e-4
    rows = []
    for e in np.eye(len(x)):
        rows.append([(mg.value_and_grad(f)(f64(x + s * h * e))[1]).numpy() * s / (2 * h) for s in (1, -1)])
    return np.array([a + b for a, b in rows])


def test_hessian_and_hvp_against_differences_and_each_other() -> None:
    x = np.array([0.3, -0.8, 1.1])
    hessian = mg.hessian(quartic, f64(x)).numpy()
    np.testing.assert_allclose(hessian, fd_hessian(quartic, x), rtol=1e-6)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-12)
    v = np.array([0.5, 2.0, -1.3])
    np.testing.assert_allclose(mg.hvp(quartic, f64(x), f64(v)).numpy(), hessian @ v, rtol=1e-12)
    forward_over_reverse = mg.jvp(by_grad(quartic), f64(x), f64(v))[1]
    np.testing.assert_allclose(forward_over_reverse.numpy(), hessian @ v, rtol=1e-12)


def test_hvp_of_several_inputs() -> None:
    a, b = f64([0.5, 1.5]), f64([2.0, -1.0])
    ha, hb = mg.hvp(lambda a, b: (a * a * b).sum(), (a, b), (f64([1.0, 2.0]), f64([3.0, 4.0])))
    np.testing.assert_allclose(ha.numpy(), 2 * b.numpy() * [1, 2] + 2 * a.numpy() * [3, 4])
    np.testing.assert_allclose(hb.numpy(), 2 * a.numpy() * [1, 2])


def test_jacobian_shapes_and_values() -> None:
    x, w = f64([[0.3, 0.5, 0.7], [1.1, 1.3, 1.7]]), f64([2.0, 3.0, 5.0])
    jx, jw = mg.jacobian(lambda x, w: x @ w, (x, w))
    assert jx.shape == (2, 2, 3) and jw.shape == (2, 3)
    np.testing.assert_array_equal(jw.numpy(), x.numpy())
    np.testing.assert_array_equal(jx.numpy(), np.einsum("ij,k->ijk", np.eye(2), w.numpy()))
    assert mg.jacobian(lambda x: x[:0], w).shape == (0, 3)
    assert mg.jacobian(lambda x: mg.ones(2, dtype=mg.float64), w).numpy().tolist() == [[0, 0, 0]] * 2


def test_the_hessian_of_several_inputs_has_a_block_for_each_pair() -> None:
    x, w = f64([0.5, -1.0]), f64([[1.0, 2.0], [3.0, 4.0], [-1.0, 0.5]])
    f = lambda x, w: mg.tanh(w @ x).sum()
    blocks = mg.hessian(f, (x, w))
    assert [[b.shape for b in row] for row in blocks] == [[(2, 2), (2, 3, 2)], [(3, 2, 2), (3, 2, 3, 2)]]
    whole = mg.hessian(lambda z: f(z[:2], z[2:].reshape(3, 2)), mg.concatenate([x, w.flatten()])).numpy()
    joined = np.block([[b.numpy().reshape(m, n) for b, n in zip(row, (2, 6))] for row, m in zip(blocks, (2, 6))])
    np.testing.assert_allclose(joined, whole, rtol=1e-12)
    assert mg.hessian(lambda x: (x * x).sum(), [x])[0][0].tolist() == [[2, 0], [0, 2]]


def test_keyword_arguments_are_handed_on() -> None:
    value, slope = mg.value_and_grad(lambda x, power: (x**power).sum())(f64([2.0]), power=3)
    assert value.item() == 8 and slope.tolist() == [12]



def test_functions_that_depend_on_nothing_have_zero_derivatives() -> None:
    x, one = f64([1.0, 2.0]), f64(1.0)
    constant = lambda x: one * 3
    assert mg.value_and_grad(constant)(x)[1].numpy().tolist() == [0, 0]
    assert mg.vjp(constant, x)[1](one).numpy().tolist() == [0, 0]
    assert mg.jvp(constant, x, x)[1].item() == 0
    assert mg.hvp(constant, x, x).numpy().tolist() == [0, 0]
    assert mg.hessian(constant, x).numpy().tolist() == [[0, 0], [0, 0]]
    assert mg.hessian(lambda x: x.sum(), x).numpy().tolist() == [[0, 0], [0, 0]]
    assert mg.hvp(lambda x: x.sum(), x, x).numpy().tolist() == [0, 0]


def test_the_identity_and_an_input_used_as_the_output() -> None:
    x, t = f64([1.0, 2.0]), f64([3.0, 5.0])
    assert mg.jvp(lambda x: x, x, t)[1].numpy().tolist() == [3, 5]
    assert mg.vjp(lambda x: x, x)[1](t).numpy().tolist() == [3, 5]
    tangent = mg.jvp(lambda a, b: a + a * b, (x, x), (t, t))[1]
    np.testing.assert_allclose(tangent.numpy(), t.numpy() * (1 + 2 * x.numpy()))


def test_transforms_take_arrays_and_lists() -> None:
    x = np.array([1.0, 2.0])
    assert mg.jvp(lambda x: x * x, x, [[1.0, 1.0]])[1].numpy().tolist() == [2, 4]
    assert mg.value_and_grad(lambda x: (x * x).sum())(x)[1].numpy().tolist() == [2, 4]


def test_numbers_and_arrays_are_inputs_like_tensors() -> None:
    """Python's floats are float32, as mg.tensor has them; one input has one derivative, not a tuple of one."""
    square = lambda x: (x * x).sum()
    assert mg.jvp(square, 3.0, 1.0)[1].item() == 6 and mg.hvp(square, 3.0, 1.0).item() == 2
    for x in (3.0, np.float32(3), mg.tensor(3.0), np.array(3.0, "float32")):
        slopes = mg.vjp(square, x)[1](1.0), mg.jacobian(square, x), mg.hessian(square, x)
        results = *mg.value_and_grad(square)(x), *slopes
        assert [r.dtype for r in results] == [np.float32] * 5
        assert [r.item() for r in results] == [9, 6, 6, 6, 2]
    value, slope = mg.value_and_grad(square)([1.0, 2.0])
    assert value.dtype == slope.dtype == np.float32 and slope.tolist() == [2, 4]
    x = np.array([1.0, 2.0])
    assert mg.jacobian(square, x).tolist() == [2, 4] and mg.hvp(square, x, x).tolist() == [2, 4]
    assert mg.hessian(square, x).tolist() == [[2, 0], [0, 2]] and mg.hessian(square, x).dtype == np.float64
    assert isinstance(mg.jacobian(square, (x,)), tuple) and isinstance(mg.hvp(square, [x], [x]), tuple)
    with pytest.raises(TypeError, match="vjp: cannot make numbers of NoneType data"):
        mg.vjp(square, None)
    with pytest.raises(TypeError, match="grad: input 0: needs a Tensor, not NoneType"):
        mg.grad(f64(1.0, True) * 2, None)


# ---- grad ------------------------------------------------------------------------------------------
def test_gradients_of_intermediates_unused_inputs_and_several_inputs() -> None:
    x, unused = f64([0.5, 1.5], True), f64([1.0], True)
    h = x * x
    y = (h * h + x).sum()
    gh, gx, gu, gy = mg.grad(y, [h, x, unused, y], retain_graph=True)
    np.testing.assert_allclose(gh.numpy(), 2 * h.numpy())
    np.testing.assert_allclose(gx.numpy(), 4 * x.numpy() ** 3 + 1)
    assert gu.numpy().tolist() == [0] and gu.dtype == np.float64 and gy.item() == 1
    assert isinstance(mg.grad(y, (x,)), tuple)
    assert x.grad is None


def test_a_pass_that_ends_at_an_intermediate_leaves_what_made_it() -> None:
    """A gradient by hand in two steps: by h, and from there on to x."""
    x = f64([1.0, 2.0], True)
    for shape in ([2], [2, 1]):  # of a product, and of a row that keeps no array
        h = (x * x).reshape(shape)
        g = mg.grad((h * h).sum(), h)
        x.grad = None
        h.backward(g)
        assert x.grad.tolist() == [4.0, 32.0]
    h = x * x
    assert mg.grad(h, h, [1.0, 1.0]).tolist() == [1, 1] and mg.grad(h.sum(), x).tolist() == [2, 4]


def test_backward_adds_up_over_passes_and_uses() -> None:
    x = f64([1.0, 2.0, 3.0], True)
    for _ in range(3):
        (x * x + x).sum().backward()
    assert x.grad.numpy().tolist() == [9, 15, 21]
    x.grad = None
    assert x.grad is None


def test_a_freed_tape_says_which_argument_keeps_it() -> None:
    x = f64([1.0, 2.0], True)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    mg.grad(y, x)
    for again in (y.backward, lambda: mg.grad(y, x), lambda: mg.grad(y, x, create_graph=True)):
        with pytest.raises(RuntimeError, match=r"freed by an earlier backward pass.*retain_graph=True"):
            again()
    assert x.grad.numpy().tolist() == [2, 4]


def test_a_result_that_is_no_number_needs_a_cotangent() -> None:
    x = f64([1.0, 2.0], True)
    with pytest.raises(ValueError, match=r"backward: the result has shape \[2\].*y\.sum\(\)"):
        (x * x).backward()
    with pytest.raises(ValueError, match=r"grad: the cotangent has shape \[3\], the result \[2\]"):
        mg.grad(x * x, x, np.ones(3))
    (x * x).backward([1.0, 10.0])
    assert x.grad.numpy().tolist() == [2, 40]
    y = x[:1] * 2  # one number in an array is a number
    y.backward()


@pytest.mark.parametrize("make", [lambda x: x.detach() * 2, lambda x: x > 1, lambda x: mg.tensor([1.0])])
def test_a_result_that_is_not_on_the_tape_raises(make: Any) -> None:
    x = f64([1.0, 2.0], True)
    with pytest.raises(RuntimeError, match=r"not on the tape"):
        make(x).backward()
    with pytest.raises(RuntimeError, match=r"grad: input 1: this float32 \[1\] Tensor is not on the tape: neither it"):
        mg.grad((x * x).sum(), [x, mg.tensor([1.0])])
    with pytest.raises(RuntimeError, match=r"grad: input 0: this float32 \[1\] Buffer .*remembered, not learnt"):
        mg.grad((x * x).sum(), mg.Buffer([1.0]))
    with pytest.raises(TypeError, match=r"grad: input 0: needs a Tensor, not float"):
        mg.grad((x * x).sum(), [1.0])
    with pytest.raises(TypeError, match=r"grad: needs a Tensor, not float"):
        mg.grad(3.0, x)


@pytest.mark.parametrize("size", [3, 1 << 18])
def test_data_that_was_replaced_behind_a_leaf_s_back_is_named_as_the_cause(size) -> None:
    x = mg.ones(2, requires_grad=True)
    x.data = mg.ones(size).data
    with pytest.raises(ValueError, match=r"of shape \[2\] has that shape; was the data of this leaf replaced"):
        (x * x).sum().backward()
    x.data = mg.ones(2)
    with pytest.raises(TypeError, match=r"exp: an operand's `data` is a Tensor: where it was assigned, a raw array"):
        mg.exp(x)


def test_a_function_must_return_a_tensor_and_tangents_must_fit() -> None:
    x = f64([1.0, 2.0])
    with pytest.raises(TypeError, match=r"vjp: the function must return one Tensor, not tuple"):
        mg.vjp(lambda x: (x, x), x)
    with pytest.raises(ValueError, match=r"value_and_grad: the result has shape"):
        mg.value_and_grad(lambda x: x)(x)
    with pytest.raises(ValueError, match=r"hessian: the result has shape"):
        mg.hessian(lambda x: x, x)
    with pytest.raises(TypeError, match=r"jvp: tangent 0: cannot make numbers of str data"):
        mg.jvp(lambda x: x, x, "a")
    with pytest.raises(ValueError, match=r"jvp: 1 inputs and 2 tangents"):
        mg.jvp(lambda x: x, x, (x, x))
    with pytest.raises(ValueError, match=r"jvp: tangent 0 has shape \[3\], its input \[2\]"):
        mg.jvp(lambda x: x, x, np.ones(3))
    with pytest.raises(ValueError, match=r"hvp: tangent 0 has shape \[\], its input \[2\]"):
        mg.hvp(lambda x: x.sum(), x, f64(1.0))


def test_create_graph_keeps_the_tape_and_leaves_grad_alone() -> None:
    x = f64([0.5, 1.5], True)
    y = (x**3).sum()
    g = mg.grad(y, x, create_graph=True)
    assert g.requires_grad and x.grad is None
    (gg,) = mg.grad(g.sum(), [x])
    np.testing.assert_allclose(gg.numpy(), 6 * x.numpy())
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 3 * x.numpy() ** 2)


def test_a_cotangent_on_the_tape_is_differentiated_too() -> None:
    x, c = f64([0.5, 1.5], True), f64([2.0, 3.0], True)
    g = mg.grad(x * x, x, c, create_graph=True)
    gx, gc = mg.grad(g.sum(), [x, c])
    assert gx.numpy().tolist() == [4, 6] and gc.numpy().tolist() == [1, 3]


# ---- labels ----------------------------------------------------------------------------------------
def test_the_cotangent_of_a_labelled_intermediate_is_kept() -> None:
    x = f64([0.5, 1.5], True)
    square = mg.label(x * x, "square")
    y = (square * square).sum()
    with pytest.raises(RuntimeError, match=r"call backward"):
        mg.cotangent(y, "square")
    y.backward()
    np.testing.assert_allclose(mg.cotangent(y, "square").numpy(), 2 * square.numpy())
    np.testing.assert_allclose(square.grad.numpy(), 2 * square.numpy())
    with pytest.raises(KeyError, match=r"nothing is labelled 'cube'.*\['square'\]"):
        mg.cotangent(y, "cube")
    with pytest.raises(RuntimeError, match=r"not on the tape"):
        mg.cotangent(y.detach(), "square")
    assert mg.label(mg.tensor(1.0), "constant").label is None


def test_a_label_is_the_name_of_a_parameter_or_buffer() -> None:
    gamma = mg.label(mg.Parameter([1.0, 2.0]), "gamma")
    assert gamma.label == "gamma" and list(mg.optim.SGD([gamma]).state) == ["gamma"]
    (gamma * gamma).sum().backward(retain_graph=True)
    assert mg.cotangent((gamma * 2).sum(), "gamma").tolist() == [2, 4]
    with pytest.raises(TypeError, match="SGD: 'mean' is a Buffer"):
        mg.optim.SGD([mg.label(mg.Buffer([1.0]), "mean")])


def test_an_intermediate_without_a_label_keeps_no_cotangent() -> None:
    """It would be an array for every line of the tape."""
    x = f64([1.0, 2.0], True)
    h, named = x * 2.0, mg.label(x * 3.0, "named")
    (h * named).sum().backward()
    assert h.node.grad is None and h.grad is None and named.grad is not None and x.grad is not None


def test_a_label_on_two_nodes_is_not_guessed() -> None:
    x = f64(1.0, True)
    y = mg.label(x * 2, "h") * mg.label(x * 3, "h")
    y.backward()
    with pytest.raises(KeyError, match=r"2 nodes are labelled 'h'"):
        mg.cotangent(y, "h")


# ---- who may write where ---------------------------------------------------------------------------
def shares_nothing(arrays: list[np.ndarray]) -> bool:
    return not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))


@pytest.mark.parametrize("size", [4, BIG, 1 << 18])
def test_gradients_have_memory_of_their_own(size: int) -> None:
    """add hands one array to both of its inputs, reshape and broadcast hand on views of it."""
    rng = np.random.default_rng(0)
    leaves = [f64(rng.normal(size=size), True) for _ in range(4)]
    a, b, c, d = leaves
    cotangent = rng.normal(size=size)
    seed = f64(cotangent)
    y = mg.label(a + b, "s") + c.reshape(-1, 1).reshape(size) + d[::-1][::-1]
    gradients = mg.grad(y, [*leaves, y], seed, retain_graph=True)
    assert shares_nothing([seed.data, *(g.data for g in gradients)])
    y.backward(seed)
    held = [x.grad.data for x in leaves] + [mg.cotangent(y, "s").data, seed.data]
    assert shares_nothing(held)
    np.testing.assert_array_equal(seed.data, cotangent)
    for h in held:
        np.testing.assert_array_equal(h, cotangent)
    first = a.grad.numpy()
    before = first.copy()
    (a * 2).backward(seed)
    np.testing.assert_array_equal(first, before)  # what was read as .grad does not change underneath
    np.testing.assert_array_equal(a.grad.numpy(), 3 * cotangent)


def test_leaves_that_were_handed_one_fresh_array_do_not_share_it() -> None:
    """The array that the product makes is the cotangent of both leaves, and of nobody else."""
    a, b = f64(np.ones(3), True), f64(np.ones(3), True)
    ((a + b) * 2.0).backward(np.ones(3))
    assert not np.shares_memory(a.grad.data, b.grad.data)
    middle = mg.label(a + b, "middle")
    (middle * 2.0).backward(np.ones(3))
    assert shares_nothing([a.grad.data, b.grad.data, middle.grad.data])


def test_constant_gradients_on_the_tape_have_memory_of_their_own() -> None:
    """Gradients that are constants may be assigned into, unlike those with a history."""
    a, b, c = f64([1.0], True), f64([2.0], True), f64([3.0])
    ga, gb = mg.grad(a + b, [a, b], c, create_graph=True)
    ga[0] = 7.0
    assert (ga.item(), gb.item(), c.item()) == (7.0, 3.0, 3.0)


def test_the_gradient_of_a_leaf_that_is_the_result() -> None:
    x, g = f64(np.ones(BIG), True), np.full(BIG, 2.0)
    x.backward(g)
    x.backward(g)
    assert (g == 2).all() and (x.grad.numpy() == 4).all() and not np.shares_memory(x.grad.data, g)
    (same,) = mg.grad(x, [x], g)
    assert not np.shares_memory(same.data, g)


PROGRAMS: dict[str, Callable[..., Tensor]] = {
    "one input many times": lambda a, b: a + a + a * b + a + b * a + a,
    "one cotangent to both inputs": lambda a, b: (a + b) + (a - b) + (b + a),
    "a chain of passes": lambda a, b: ((a + b) + a) + ((a + b) + b) + a,
    "views": lambda a, b: a[::-1] + a + a.reshape(1, -1).reshape(-1) + b.reshape(-1)[::-1] + a,
    "broadcasts": lambda a, b: a + a.sum() + a.mean() + b.broadcast_to((2, *b.shape)).sum(0) + a,
    "the same product": lambda a, b: (lambda s: s + s * s + s)(a + b),
    "a labelled middle": lambda a, b: (lambda s: s + s * 2 + s)(mg.label(a + b, "middle")),
    "axes of length one": lambda a, b: (lambda s: s * s + s.mean(0, True) ** 2 + s.sum(0))((a + b).reshape(1, -1))[0],
    "slices": lambda a, b: a + mg.concatenate([a[: a.size // 2], b[a.size // 2 :]]) + a,
    "a condition": lambda a, b: mg.where(a > b, a, b) + a.relu() + b.maximum(a) + a,
    "powers": lambda a, b: a**2 + a**3 + a * a * a + b**2 / (1 + b * b),
}


@pytest.mark.parametrize("size", [6, BIG, (1 << 17) + 2], ids=["small", "in place", "in blocks"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_accumulation_is_right_at_every_size_and_writes_to_nothing_else(name: str, size: int) -> None:
    """A program of the size that is added in place against itself on slices of six, and every array it saw."""
    program = PROGRAMS[name]
    rng = np.random.default_rng(1)
    a, b = (f64(np.sin(np.arange(size) + k) + 0.05, True) for k in (1, 2))
    cotangent = rng.normal(size=size)
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def watch(node: Node, arguments: Any, y: np.ndarray) -> None:
        seen.extend((x, x.copy()) for x in (*arguments, y) if isinstance(x, np.ndarray) and x.size)

    recording.observer = watch
    try:
        y = program(a, b)
    finally:
        recording.observer = None
    seen.append((cotangent, cotangent.copy()))
    in_place = mg.grad(y, [a, b], cotangent, retain_graph=True)
    with_tape = mg.grad(y, [a, b], cotangent, create_graph=True)  # Tensors are never written to
    y.backward(cotangent)
    for x, now, then in zip((a, b), in_place, with_tape, strict=True):
        np.testing.assert_allclose(now.numpy(), then.numpy(), rtol=1e-11, atol=1e-11)
        np.testing.assert_array_equal(now.numpy(), x.grad.numpy())
    for now_array, then_array in seen:
        np.testing.assert_array_equal(now_array, then_array)


def test_a_pullback_that_hands_out_a_kept_array_is_not_written_to() -> None:
    kept = np.ones(BIG)
    row = mg.primitive(lambda x: x * 1.0, lambda g: kept)
    x = f64(np.zeros(BIG), True)
    (row(x) + row(x) + x).backward(np.ones(BIG))
    assert (kept == 1).all() and (x.grad.numpy() == 3).all()


@pytest.mark.host("arrays of a device can always be written to")
def test_gradients_can_be_written_to() -> None:
    """Also where the pass ended with a broadcast, which shows memory that is read-only."""
    x = f64(np.ones((1, BIG)), True)
    for y in (x.mean(0, keepdims=True), x.sum(0), mg.einsum("ij->j", x)):
        g = mg.grad(y, x, mg.ones(*y.shape, dtype=mg.float64))
        g[0, 0] = 5.0
        assert g[0, :2].tolist() == [5.0, 1.0]


def test_what_owning_an_array_means() -> None:
    """Exactly: one holder that is not known of is noticed, whatever the interpreter counts besides."""
    array = np.zeros(3)
    assert autodiff._owned(array)
    cotangents = {0: array}
    assert autodiff._owned(array, 1) and not autodiff._owned(array)
    del array
    held = cotangents.get(0)
    assert autodiff._owned(held, 1) and not autodiff._owned(held)
    another = held
    assert not autodiff._owned(held, 1)
    del another
    view = held[:1]
    assert not autodiff._owned(held, 1) and not autodiff._owned(view)
    del held, view, cotangents
    whole = np.zeros((2, 3)).T
    assert autodiff._owned(whole)
    base = whole.base
    assert not autodiff._owned(whole) and base.shape == (2, 3)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
def test_a_gradient_lies_where_its_pullback_made_it(axes: tuple[int, int]) -> None:
    """A leaf's and a labelled value's: copying a large array takes as long as a pass of BatchNorm."""
    made: list[int] = []

    def pullback(g: Any) -> Any:
        c = (g * 2).transpose(axes).transpose(axes)
        made.append(address(c))
        return c

    def address(array: Any) -> int:
        return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr

    double = mg.primitive(lambda x: x * 2, pullback)
    x = f64(np.ones((2, BIG)), True)
    inner = mg.label(double(x), "inner")
    double(inner).sum().backward()
    assert [address(t.grad.data) for t in (inner, x)] == made
    assert (inner.grad.numpy() == 2).all() and (x.grad.numpy() == 4).all()


# ---- memory ----------------------------------------------------------------------------------------
def chain(x: Tensor, length: int) -> Tensor:
    y = x
    for _ in range(length):
        y = y + x
    return y


def test_a_tape_of_200_000_ops() -> None:
    x = f64([1.0, 2.0], True)
    y = chain(x, 200_000)
    y.sum().backward()
    assert x.grad.numpy().tolist() == [200_001] * 2


def test_a_tape_of_a_million_ops_is_freed_without_recursion() -> None:
    """In a thread with a small stack, which any recursion over the tape would overflow.

    (CPython 3.13 frees some thousand objects within each other before it puts one aside, whatever the stack.)
    """
    done: list[bool] = []

    def work() -> None:
        x = f64(1.0, True)
        y = chain(x, 1_000_000)
        leaf = weakref.ref(x)
        del x, y
        done.append(leaf() is None)

    before = threading.stack_size(1 << (20 if sys.version_info[:2] == (3, 13) else 18))
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert done == [True]


@pytest.fixture
def without_collector() -> Any:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def live_nodes() -> int:
    return sum(type(o) is Node for o in gc.get_objects())


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("create_graph", [False, True])
def test_dropping_the_loss_frees_everything_without_the_collector(create_graph: bool) -> None:
    w = f64(np.ones((3, 3)), True)

    def step() -> None:
        h = mg.label(mg.tanh(f64(np.ones((2, 3))) @ w), "h")
        loss = (h * h + h.softplus()).sum()
        g = mg.grad(loss, w, create_graph=create_graph, retain_graph=True)
        if create_graph:
            (g * g).sum().backward(retain_graph=True)
        loss.backward()

    step()
    before = live_nodes()
    step()
    assert live_nodes() == before


@pytest.mark.usefixtures("without_collector")
def test_transforms_leave_nothing_behind() -> None:
    x = f64([0.5, 1.5])

    def step() -> None:
        mg.hessian(quartic3, x)
        mg.hvp(quartic3, x, x)
        mg.jvp(quartic3, x, x)
        mg.vjp(quartic3, x)[1](f64(1.0))
        mg.value_and_grad(quartic3)(x)

    step()
    before = live_nodes()
    step()
    assert live_nodes() == before


def quartic3(x: Tensor) -> Tensor:
    return (x**4 * mg.exp(x)).sum()


@pytest.mark.usefixtures("without_collector")
def test_training_steps_do_not_grow() -> None:
    w = mg.Parameter(np.ones((20, 20)))
    x = f64(np.ones((4, 20)))

    def step() -> None:
        loss = mg.tanh(x @ w).sum()
        loss.backward()
        w.update(w.data - 0.01 * w.grad.data)
        w.grad = None

    tracemalloc.start()
    try:
        for _ in range(6000):  # CPython keeps up to 2,000 freed tuples of a length
            step()
        grown = []
        for _ in range(3):  # what grows in every step grows each time; pools of the interpreter's fill up once
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(1000):
                step()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert min(grown) < 1000 * 16  # less than the smallest object in every step


@pytest.mark.usefixtures("without_collector")
def test_a_backward_pass_frees_residuals_as_it_goes() -> None:
    x = f64(np.ones(1000), True)
    h = mg.exp(x)
    y = (h * h).sum()
    array = weakref.ref(h.data)
    del h
    assert array() is not None
    y.backward()
    assert array() is None


# ---- recording -------------------------------------------------------------------------------------
def test_no_grad_records_nothing_and_is_left_on_an_error() -> None:
    x = f64(1.0, True)
    with pytest.raises(ZeroDivisionError), mg.no_grad():
        assert not (x * 2).requires_grad
        with mg.enable_grad():
            assert (x * 2).requires_grad
        raise ZeroDivisionError
    assert (x * 2).requires_grad

    @mg.no_grad()
    def double(x: Tensor) -> Tensor:
        return x * 2

    assert not double(x).requires_grad and (x * 2).requires_grad


def test_no_grad_is_per_thread_and_tapes_in_parallel_do_not_meet() -> None:
    x = f64(np.ones(3), True)
    inside, outside = threading.Event(), threading.Event()
    seen: list[bool] = []

    def other() -> None:
        inside.wait(10)
        y = x * 2
        seen.append(y.requires_grad)
        seen.append(mg.grad(y.sum(), x).numpy().tolist() == [2, 2, 2])
        outside.set()

    thread = threading.Thread(target=other)
    thread.start()
    with mg.no_grad():
        inside.set()
        outside.wait(10)
    thread.join()
    assert seen == [True, True]


def test_passes_of_many_threads_that_end_at_one_leaf_are_all_counted() -> None:
    w = f64(np.ones(20_000), True)
    at_once(lambda: [(w * 1.0).sum().backward() for _ in range(50)], interval=1e-6)
    assert w.grad is not None and (w.grad.numpy() == 200.0).all()


def test_many_threads_record_side_by_side() -> None:
    results: list[float] = []

    def work(k: int) -> None:
        x = f64(float(k), True)
        y = chain(x, 500)
        results.append(mg.grad(y, x).item())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [501.0] * 8


def test_history_is_in_the_order_of_recording() -> None:
    x = f64(1.0, True)
    y = mg.exp(x) + mg.sin(x) * x
    nodes = history(y.node)
    assert [n.serial for n in nodes] == sorted(n.serial for n in nodes)
    assert [n.primitive and n.primitive.name for n in nodes] == [None, "exp", "sin", "multiply", "add"]
    assert all(source is None or source.serial < n.serial for n in nodes for source in n.inputs)


# ---- primitives of one's own -----------------------------------------------------------------------
def test_a_primitive_in_one_declaration_is_exact_at_every_order() -> None:
    cube = mg.primitive(lambda x: x**3, lambda g, x: 3 * g * x**2, name="cube")
    x = f64(0.7, True)
    y = cube(x)
    assert y.node.primitive.name == "cube" and cube(np.array(2.0)) == 8
    g = mg.grad(y, x, create_graph=True)
    gg = mg.grad(g, x, create_graph=True)
    assert (g.item(), gg.item(), mg.grad(gg, x).item()) == pytest.approx((3 * 0.49, 4.2, 6.0))
    assert mg.jvp(cube, f64(0.7), f64(2.0))[1].item() == pytest.approx(6 * 0.49)


def test_a_primitive_with_parameters_and_without_a_derivative_for_one_argument() -> None:
    scaled = mg.primitive(lambda x, mask, k: x * mask * k, lambda g, mask, k: g * mask * k, None, k=2.0)
    x, mask = f64([1.0, 2.0], True), mg.tensor([True, False])
    assert mg.grad(scaled(x, mask).sum(), x).numpy().tolist() == [2, 0]
    assert mg.grad(scaled(x, mask, k=np.float64(3)).sum(), x).numpy().tolist() == [3, 0]
    assert scaled(x, mask).node.inputs == (x.node, None)


NAMES = ["lifted", "xp", "new", "forward", "primitive", "Tensor", "recording", "node", "result", "write", "call",
         "isinstance", "align", "x_node", "x_shape", "WEAK", "error", "extra", "i"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_argument_may_have_any_name(name: str) -> None:
    """The function that is written out for a row has names of its own, which are none of the row's."""
    scope = {"mg": mg}
    rules = f"lambda g, {name}, k: g * {name} * k, lambda g, x, k: g * x * k"
    row = eval(f"mg.primitive(lambda x, {name}, k: x * {name} * k, {rules}, k=2.0)", scope)
    static = eval(f"mg.primitive(lambda x, {name}: x * {name}, lambda g, {name}: g * {name}, {name}=3)", scope)
    a, b = f64([2.0], True), f64([5.0], True)
    assert [g.item() for g in mg.grad(row(a, b).sum(), (a, b))] == [10, 4]
    assert static(a).item() == 6 and mg.grad(static(a, **{name: 4.0}), a, np.ones(1)).item() == 4


def test_a_row_keeps_only_what_its_pullbacks_ask_for() -> None:
    a, b, c = f64([1.0], True), f64([2.0], True), f64([3.0])
    assert (a + b).node.residuals == ()
    assert ops.sum(a).node.residuals == ((1,), None, False)
    x, y = (a * c).node.residuals  # g * b for a; nothing for c
    assert x is c.data and y is None
    kept = (a / c).node.residuals
    assert kept == (c.data, None)
    (y,) = mg.exp(a).node.residuals
    assert y is not None and ops.multiply.primitive.kept == ("b", "a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: x, lambda g, z: g), "asks for 'z'; it can have"),
        ((lambda x: x, lambda x: x), "first argument is g"),
        ((lambda a, b: a, lambda g: g), "2 array arguments .* need as many pullbacks"),
        ((lambda x: x,), "1 array arguments"),
        ((lambda x, y: x * y, lambda g, y: g * y, lambda g, x: g * x), "asks for 'y', .* and the output"),
        ((lambda g: g * 1, lambda g: g), "asks for 'g', which is an argument and the cotangent"),
        ((lambda _x: _x, lambda g: g), "begins with a letter, unlike '_x'"),
    ],
)
def test_a_wrong_declaration_raises_at_once(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        mg.primitive(*arguments)
    with pytest.raises(TypeError, match=r"not arguments of the forward"):
        mg.primitive(lambda x: x, lambda g: g, axis=0)
    with pytest.raises(TypeError, match=r"arrays come first, then static .* default last: x, w, k, not x, k, w"):
        mg.primitive(lambda x, k, w: x * k + w, lambda g, k: g * k, lambda g: g, k=2)
    with pytest.raises(TypeError, match=r"arrays come first, then static .* default last: x, n, k, not x, k, n"):
        mg.primitive(lambda x, k, n: x * k**n, lambda g, k, n: g * k**n, k=2, n=...)
    with pytest.raises(TypeError, match=r"label: the name is a string, not Tensor"):
        mg.label("h", mg.ones(2))
    with pytest.raises(TypeError, match=r"static parameters \['k'\] stand behind a \*; declare them without it"):
        mg.primitive(lambda x, *, k: x * k, lambda g: g, k=2.0)
    for forward, rule in ((np.tanh, lambda g, y: g * (1 - y * y)), (lambda x: x, functools.partial(np.multiply, 2))):
        with pytest.raises(TypeError, match=r"is a Python function, not .*; write lambda x: f\(x\)"):
            mg.primitive(forward, rule)


def nothing(g: Any) -> Any:
    """A pullback whose return was forgotten."""
    g * 2


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (nothing, TypeError, "returned NoneType None, not an array"),
        (lambda g: 2.0, TypeError, "returned float 2.0, not an array"),
        (lambda g: [1.0, 2.0, 3.0], TypeError, "returned list .*, not an array"),
        (lambda g, x: ops.outer(g, x), ValueError, r"returned shape \[3, 3\]; .* of shape \[3\] has that shape"),
        (lambda g: g[:2], ValueError, r"returned shape \[2\]; .* of shape \[3\] has that shape"),
        (lambda g: g.sum(), ValueError, r"returned shape \[\]; .* of shape \[3\] has that shape"),
    ],
)
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_pullback_that_returns_no_cotangent_raises(rule: Any, error: Any, message: str, create_graph: bool) -> None:
    x = f64([1.0, 2.0, 3.0], True)
    row = mg.primitive(lambda x: x * 2, rule, name="double")
    with pytest.raises(error, match=f"backward: double: the pullback of 'x' {message}"):
        mg.grad(row(x).sum(), x, create_graph=create_graph)


def test_a_primitive_of_ones_own_may_broadcast() -> None:
    """What its pullback returns in the output's shape is summed back, as that of any row."""
    product = mg.primitive(lambda a, b: a * b, lambda g, b: g * b, lambda g, a: g * a)
    a, b = f64(np.ones((2, 3)), True), f64([1.0, 2.0, 3.0], True)
    assert mg.grad(product(a, b).sum(), b).tolist() == [2, 2, 2]


@pytest.mark.parametrize("result", [None, (1.0, 2.0), [1.0], "a"])
def test_a_forward_function_returns_one_array(result: Any) -> None:
    row = mg.primitive(lambda x: result, lambda g: g, name="row")
    with pytest.raises(TypeError, match=rf"row: the forward function returned {type(result).__name__} "):
        row(f64([1.0], True))


# ---- fused rows ------------------------------------------------------------------------------------
CALLS: list[str] = []


def _forward(x: Any, w: Any, power: Any) -> Any:
    squares = x * x
    return squares * w**power, squares


def _pullback(g: Any, y: Any, extra: Any, needed: Any, x: Any, w: Any, power: Any) -> Any:
    CALLS.append("kernel")
    gx = 2 * g * x * w**power if needed[0] else None
    gw = (g * extra * power * w ** (power - 1)).sum() if needed[1] else None
    return gx, gw


def _reference(x: Any, w: Any, power: Any) -> Any:
    CALLS.append("reference")
    return x * x * w**power


kernel = fused(_forward, _pullback, _reference, name="kernel", power=2)


def test_a_fused_row_pulls_by_hand_first_and_by_its_reference_above() -> None:
    x, w = f64([0.5, 1.5], True), f64(3.0, True)
    CALLS.clear()
    y = kernel(x, w)
    assert y.node.primitive.kind == "fused" and y.node.primitive.name == "kernel"
    ours = mg.grad(y, [x, w], np.array([1.0, 2.0]), retain_graph=True)
    assert CALLS == ["kernel"]
    theirs = mg.grad(_reference(x, w, 2), [x, w], np.array([1.0, 2.0]))
    CALLS.clear()
    above = mg.grad(y, [x, w], np.array([1.0, 2.0]), create_graph=True)
    assert CALLS == ["reference"]
    for a, b, c in zip(ours, theirs, above, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy())
        np.testing.assert_allclose(c.numpy(), b.numpy())
    third = by_grad(by_grad(by_grad(lambda x: kernel(x, x.sum()).sum())))(f64(0.7))
    assert third.item() == pytest.approx(24 * 0.7)
    assert kernel(x.data, 3.0).tolist() == [2.25, 20.25] and kernel(x, 2.0, power=1).numpy().tolist() == [0.5, 4.5]
    only_w = mg.grad(kernel(x, w).sum(), w)
    assert only_w.shape == ()


def test_a_fused_row_is_freed_and_complains_like_any_other() -> None:
    x = f64([0.5, 1.5], True)
    y = kernel(x, 3.0)
    y.backward(np.ones(2))
    with pytest.raises(RuntimeError, match=r"'kernel'.*retain_graph"):
        y.backward(np.ones(2))
    with pytest.raises(ValueError, match=r"kernel: .*operands: float64 \[2\], float64 \[3\]"):
        kernel(x, np.ones(3))
