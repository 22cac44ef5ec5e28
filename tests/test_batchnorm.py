"""BatchNorm: its numbers, its derivatives to the third order, its memory, and its edges."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import functional as F
from minigrad import nn
from tests import references as ref
from tests.against import agrees_with_reference, agrees_with_torch, floats

SHAPES = [(6, 3), (4, 3, 5), (2, 3, 3, 2)]


def over(shape):
    return tuple(i for i in range(len(shape)) if i != 1)


# ---- values and first derivatives -------------------------------------------------------------------
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_training_agrees_with_the_definition_and_with_pytorch(shape, affine):
    arrays = floats(shape, *([(3,), (3,)] if affine else []))
    ours = lambda x, g=None, b=None: F.batch_norm(x, g, b, over(shape))[0]
    agrees_with_reference(ours, ref.batch_norm, *arrays)
    torch = pytest.importorskip("torch")
    theirs = lambda x, g=None, b=None: torch.nn.functional.batch_norm(x, None, None, g, b, training=True)
    agrees_with_torch(ours, theirs, *arrays)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
def test_ten_batches_then_evaluation_leave_the_same_numbers_as_in_pytorch(shape, affine, track, momentum):
    torch = pytest.importorskip("torch")
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    theirs = getattr(torch.nn, kind.__name__)(3, 1e-3, momentum, affine, track).double()
    ours = kind(3, 1e-3, momentum, affine, track).to_dtype(np.float64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for step in range(10):
        (x,) = floats(shape, seed=step)
        np.testing.assert_allclose(
            ours(mg.tensor(x)).numpy(), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-11, atol=1e-12
        )
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name].numpy(), value.numpy(), rtol=1e-12, err_msg=name)
    ours.eval(), theirs.eval()
    (x,) = floats(shape, seed=11)
    agrees_with_torch(ours, theirs, x)


def test_running_statistics_by_hand():
    layer = nn.BatchNorm1d(1, momentum=0.25).to_dtype(np.float64)
    layer(mg.tensor(np.array([[1.0], [2.0], [6.0]])))
    assert layer.running_mean.tolist() == [0.75 * 0 + 0.25 * 3]
    assert layer.running_var.tolist() == [0.75 * 1 + 0.25 * 7]  # (4 + 1 + 9) / 2: unbiased
    assert layer.num_batches_tracked.item() == 1


def test_momentum_none_averages_all_batches_alike():
    layer = nn.BatchNorm1d(2, momentum=None).to_dtype(np.float64)
    batches = [floats((5, 2), seed=i)[0] for i in range(4)]
    for x in batches:
        layer(mg.tensor(x))
    np.testing.assert_allclose(layer.running_mean.numpy(), np.mean([x.mean(0) for x in batches], 0), rtol=1e-13)
    np.testing.assert_allclose(layer.running_var.numpy(), np.mean([x.var(0, ddof=1) for x in batches], 0), rtol=1e-13)


# ---- higher derivatives -----------------------------------------------------------------------------
def directional(order, x, gamma, beta, cotangent, directions):
    """<cotangent, BN(x)> derived `order` times, each time along one of the directions."""

    def f(x):
        return (F.batch_norm(x, gamma, beta, 0)[0] * cotangent).sum()

    for direction in directions[:order]:
        f = lambda x, f=f, d=direction: (mg.value_and_grad(f)(x)[1] * d).sum()
    return f(x)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_in_the_input_are_exact(order):
    x, gamma, beta, cotangent, *directions = (
        mg.tensor(a) for a in floats((5, 2), (2,), (2,), (5, 2), *[(5, 2)] * 3, seed=4)
    )
    exact = directional(order, x, gamma, beta, cotangent, directions).item()
    h = 1e-4
    last = directions[order - 1]
    ahead = directional(order - 1, x + h * last, gamma, beta, cotangent, directions).item()
    behind = directional(order - 1, x - h * last, gamma, beta, cotangent, directions).item()
    further = directional(order - 1, x + 2 * h * last, gamma, beta, cotangent, directions).item()
    before = directional(order - 1, x - 2 * h * last, gamma, beta, cotangent, directions).item()
    np.testing.assert_allclose(exact, (8 * (ahead - behind) - (further - before)) / (12 * h), rtol=1e-8)


def test_the_second_and_third_derivative_of_a_normalised_batch_are_the_formulas():
    # For m = 2 and eps = 0, y = (sign(x0 - x1), -sign): every derivative is zero. A missing path would show.
    x = mg.tensor(np.array([[1.0], [3.0]]))
    y = lambda x: F.batch_norm(x, axis=0, eps=0.0)[0].sum() + F.batch_norm(x, axis=0, eps=0.0)[0][0, 0] * 2.0
    first = lambda x: mg.value_and_grad(y)(x)[1]
    np.testing.assert_allclose(first(x).numpy(), 0, atol=1e-12)
    np.testing.assert_allclose(mg.jacobian(first, x).numpy(), 0, atol=1e-12)
    np.testing.assert_allclose(mg.jacobian(lambda x: mg.jacobian(first, x), x).numpy(), 0, atol=1e-12)


def test_mixed_derivatives_in_input_and_gamma_are_exact():
    x, gamma, beta, cotangent, d = (mg.tensor(a) for a in floats((5, 2), (2,), (2,), (5, 2), (5, 2), seed=6))
    slope = lambda gamma: (
        mg.value_and_grad(lambda x: (F.batch_norm(x, gamma, beta, 0)[0] * cotangent).sum())(x)[1] * d
    ).sum()
    mixed = mg.value_and_grad(slope)(gamma)[1].numpy()
    unit = np.eye(2)
    expected = [slope(mg.tensor(e)).item() for e in unit]  # linear in gamma
    np.testing.assert_allclose(mixed, expected, rtol=1e-12)


def test_the_gradient_is_orthogonal_to_shifts_and_scalings_of_the_batch():
    x = mg.tensor(floats((50, 3))[0], requires_grad=True)
    y, _, _ = F.batch_norm(x, axis=0, eps=0.0)
    y.backward(mg.tensor(floats((50, 3), seed=2)[0]))
    np.testing.assert_allclose(x.grad.numpy().sum(0), 0, atol=1e-12)
    np.testing.assert_allclose((x.grad.numpy() * y.numpy()).sum(0), 0, atol=1e-12)


# ---- hard numbers -----------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(128, 4), (4096, 2), (16, 3, 14, 14)])
def test_a_large_mean_with_a_small_spread_comes_out_right_in_single_precision(shape):
    (x,) = floats(shape)
    x = (1e4 + 1e-2 * x).astype(np.float32)
    layer = nn.BatchNorm2d(shape[1]) if len(shape) == 4 else nn.BatchNorm1d(shape[1])
    t = mg.tensor(x, requires_grad=True)
    y = layer(t)
    np.testing.assert_allclose(y.numpy(), ref.batch_norm(x.astype(np.float64)), rtol=2e-5, atol=2e-5)
    exact = mg.tensor(x.astype(np.float64), requires_grad=True)
    (g,) = floats(shape, seed=3)
    F.batch_norm(exact, axis=over(shape))[0].backward(mg.tensor(g))
    y.backward(mg.tensor(g.astype(np.float32)))
    scale = np.abs(exact.grad.numpy()).max()
    np.testing.assert_allclose(t.grad.numpy() / scale, exact.grad.numpy() / scale, atol=2e-5)
    variance = x.astype(np.float64).var(over(shape), ddof=1)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * variance, rtol=1e-6)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * x.astype(np.float64).mean(over(shape)), rtol=2e-7)


@pytest.mark.parametrize("converted", [True, False])
def test_half_precision_is_normalised_and_remembered_in_single_precision(converted):
    (x,) = floats((64, 3, 4, 4))
    x = (300 * x + 1000).astype(np.float16)
    layer = nn.BatchNorm2d(3)
    layer = layer.to_dtype(mg.float16) if converted else layer
    t = mg.tensor(x, requires_grad=True)
    y = layer(t)
    assert y.dtype == np.float16 and layer.running_var.dtype == np.float32
    np.testing.assert_allclose(y.numpy().astype(float), ref.batch_norm(x.astype(float)), atol=4e-3)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * x.astype(float).var((0, 2, 3), ddof=1), rtol=1e-4)
    y.sum().backward()
    assert t.grad.dtype == np.float16 and layer.weight.grad.dtype == layer.weight.dtype
    assert layer.eval()(t).dtype == np.float16


def test_a_constant_channel_is_normalised_to_zero():
    x = mg.tensor(np.full((8, 1), 3.0), requires_grad=True)
    y, mean, var = F.batch_norm(x, axis=0)
    y.backward(mg.tensor(floats((8, 1))[0]))
    assert y.tolist() == [[0.0]] * 8 and var.item() == 0.0 and mean.item() == 3.0
    assert np.isfinite(x.grad.numpy()).all()


# ---- memory -----------------------------------------------------------------------------------------
def test_running_statistics_never_hold_a_history_and_evaluation_leaves_them_alone():
    layer = nn.BatchNorm1d(3)
    layer(mg.tensor(floats((5, 3))[0].astype(np.float32), requires_grad=True))
    assert all(buffer.node is None for buffer in layer.buffers())
    before = {n: v.tolist() for n, v in layer.state_dict().items()}
    layer.eval()(mg.ones(5, 3))
    assert before == {n: v.tolist() for n, v in layer.state_dict().items()}


def test_statistics_are_remembered_also_where_nothing_is_recorded():
    layer = nn.BatchNorm1d(3)
    with mg.no_grad():
        layer(mg.ones(5, 3))
    assert layer.num_batches_tracked.item() == 1
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1, rtol=1e-6)


# ---- edges ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kind, shape", [(nn.BatchNorm1d, (1, 3)), (nn.BatchNorm1d, (1, 3, 1)), (nn.BatchNorm2d, (1, 3, 1, 1))]
)
def test_one_value_for_each_channel_cannot_be_normalised(kind, shape):
    layer = kind(3)
    with pytest.raises(
        ValueError, match=rf"{kind.__name__}.*\[{', '.join(map(str, shape))}\].*one value .*larger batch"
    ):
        layer(mg.ones(shape))
    assert layer.num_batches_tracked.item() == 0
    assert layer.eval()(mg.ones(shape)).shape == shape
    with pytest.raises(ValueError, match="one value"):
        kind(3, track_running_stats=False).eval()(mg.ones(shape))


@pytest.mark.parametrize("affine", [True, False])
def test_an_empty_batch_passes_through_empty_and_teaches_nothing(affine):
    layer = nn.BatchNorm2d(3, affine=affine)
    y = layer(mg.zeros(0, 3, 2, 2, requires_grad=True))
    y.sum().backward()
    assert y.shape == (0, 3, 2, 2) and layer.num_batches_tracked.item() == 0
    assert layer.running_var.tolist() == [1.0] * 3
    assert not affine or layer.weight.grad.tolist() == [0.0] * 3
