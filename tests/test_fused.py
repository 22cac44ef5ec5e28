"""Fused blocks equal the composition that they name: values, first and second order, statistics, evaluation."""

import itertools

import numpy as np
import pytest

import minigrad as mg
from minigrad import functional as F
from minigrad import fused, nn, parallel
from minigrad.fused import Fused, Plan, fuse
from minigrad.pooling import Windows

RNG = np.random.default_rng(23)
CONV = ((1, 1), (1, 1), (1, 1), 1)
POOL = Windows((2, 2), (2, 2), (0, 0), (1, 1), (4, 3))


def normal(*shape):
    return RNG.normal(size=shape)


def operands(plan, n=5):
    """Odd values: a negative gamma, offsets that dead ReLUs follow from, no two maxima alike."""
    inputs, channels = 3, 4 if plan.conv is not None else 3
    w = normal(4, inputs // plan.conv[3], 3, 3) if plan.conv is not None else np.ones(0)
    gamma = normal(channels) + 0.3
    gamma[1] = -abs(gamma[1])
    return normal(n, inputs, 8, 6) + 0.5, w, normal(channels), gamma, normal(channels)


PLANS = [
    Plan(conv, eps, relu, pool)
    for conv, eps, relu, pool in itertools.product((None, CONV), (None, 1e-3), (False, True), (None, POOL))
    if conv or eps
]


def name_of(plan):
    parts = {"conv": plan.conv, "norm": plan.eps, "relu": plan.relu, "pool": plan.pool}
    return "-".join(part for part, value in parts.items() if value)


def learnt(plan):
    """Which of x, w, b, gamma, beta a plan uses."""
    return [True, plan.conv is not None, plan.conv is not None, plan.eps is not None, plan.eps is not None]


def as_tensors(arrays, plan):
    return [mg.tensor(a, requires_grad=used) for a, used in zip(arrays, learnt(plan), strict=True)]


@pytest.mark.parametrize("blocks", ["one block", "many blocks"])
@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_a_block_equals_its_reference_at_first_order(plan, blocks, monkeypatch):
    if blocks == "many blocks":
        monkeypatch.setattr(fused.parallel, "BLOCK", 256)
        monkeypatch.setattr("minigrad.convolution.COLUMN_BYTES", 1 << 14)
    arrays = operands(plan)
    one, two = as_tensors(arrays, plan), as_tensors(arrays, plan)
    y, expected = fused.block(*one, plan), fused.composed(*two, plan)
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-9, atol=1e-11)
    g = mg.tensor(normal(*y.shape))
    y.backward(g)
    expected.backward(g)
    for a, b, used in zip(one, two, learnt(plan), strict=True):
        if used:
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_a_block_equals_its_reference_at_second_order(plan):
    arrays = operands(plan, n=3)
    g, v = None, normal(*arrays[0].shape)
    results = []
    for f in (fused.block, fused.composed):
        tensors = as_tensors(arrays, plan)
        used = [t for t, u in zip(tensors, learnt(plan), strict=True) if u]
        y = f(*tensors, plan)
        g = normal(*y.shape) if g is None else g
        first = mg.grad((y * y * mg.tensor(g)).sum(), used[0], create_graph=True)
        along = (first * mg.tensor(v)).sum()
        results.append([d.numpy() for d in mg.grad(along, used)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


def test_only_the_cotangents_asked_for_are_computed():
    plan = Plan(CONV, 1e-3, True, POOL)
    x, w, b, gamma, beta = as_tensors(operands(plan), plan)
    x = x.detach()
    y = fused.block(x, w, b, gamma, beta, plan)
    (dw,) = mg.grad(y.sum(), [w])
    assert dw.shape == w.shape and np.isfinite(dw.numpy()).all()


@pytest.mark.parametrize("activation", [None, mg.relu, mg.sigmoid, mg.tanh])
def test_a_linear_layer_and_its_activation_equal_their_reference_at_first_and_second_order(activation):
    arrays, g = [normal(6, 5), normal(4, 5), normal(4)], mg.tensor(normal(6, 4))
    results = []
    for f in (fused.dense, fused._dense_composed):
        leaves = [mg.tensor(a, requires_grad=True) for a in arrays]
        y = f(*leaves, activation)
        first = mg.grad((y * y * g).sum(), leaves, create_graph=True)
        second = mg.grad(sum((d * d).sum() for d in first), leaves)
        results.append([y.numpy(), *(d.numpy() for d in (*first, *second))])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_of_a_fused_model_are_one_line_each_and_learn_the_same(bias):
    def made():
        mg.random.seed(1)
        return nn.Sequential(nn.Linear(5, 4, bias=bias), nn.Tanh(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3))

    x, y = mg.tensor(normal(7, 5).astype("float32")), mg.tensor(RNG.integers(0, 3, 7))
    plain, together = made(), fuse(made())
    for model in (plain, together):
        F.cross_entropy(model(x), y).backward()
    rows = [line.op for line in mg.Tape(together(x)).lines]
    assert rows.count("dense") == 2 + bias
    for a, b in zip(plain.parameters(), together.parameters(), strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-5, atol=1e-7)


def layers(features):
    """Layers that go together in every way there is, and some that do not; features: of what arrives at the last."""
    mg.random.seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.MaxPool2d(2)),
        nn.BatchNorm2d(5, momentum=None), nn.ReLU(),
        nn.Conv2d(5, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 1, padding="same"), nn.BatchNorm2d(4, affine=False),
        nn.Flatten(), nn.Linear(features, 3),
    )  # fmt: skip


def network(dtype="float32"):
    model = layers(4 * 3 * 3)
    rng = np.random.default_rng(1)
    for p in model.parameters():
        p.update(rng.normal(size=p.shape).astype("float32"))
    return model.to_dtype(dtype)


def test_one_value_for_each_channel_has_the_layers_own_error():
    model = fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(ValueError, match="one value for each channel"):
        model(mg.random.normal(1, 3, 3, 3))
    assert model.eval()(mg.random.normal(1, 3, 3, 3)).shape == (1, 4, 1, 1)


def losses(model, x, y, steps=3):
    found = []
    for _ in range(steps):
        model.zero_grad()
        loss = F.cross_entropy(model(mg.tensor(x)), mg.tensor(y))
        loss.backward()
        for p in model.parameters():
            p.update(p.data - 0.01 * p.grad.data)
        found.append(loss.item())
    return found


def test_a_fused_model_trains_to_the_same_losses_parameters_and_statistics():
    plain, together = network("float64"), fuse(network("float64"))
    x, y = normal(7, 1, 28, 28), RNG.integers(0, 3, 7)
    np.testing.assert_allclose(losses(plain, x, y), losses(together, x, y), rtol=1e-9)
    assert plain.state_dict().keys() == together.state_dict().keys()
    for (name, a), b in zip(plain.state_dict().items(), together.state_dict().values(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-8, atol=1e-9, err_msg=name)


def test_evaluation_folds_batchnorm_into_the_convolution():
    plain, x = network("float64"), normal(7, 1, 28, 28)
    losses(plain, x, RNG.integers(0, 3, 7))
    plain.eval()
    together = fuse(plain)
    with mg.no_grad():
        np.testing.assert_allclose(together(mg.tensor(x)).numpy(), plain(mg.tensor(x)).numpy(), rtol=1e-9, atol=1e-11)
    tx = mg.tensor(x, requires_grad=True)
    with_history = together(tx)
    np.testing.assert_allclose(with_history.numpy(), plain(mg.tensor(x)).numpy(), rtol=1e-9, atol=1e-11)
    with_history.sum().backward()
    assert tx.grad is not None


def test_running_statistics_move_once_a_forward_and_hold_the_bias():
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)]
    layers[0].bias.update(np.array([5.0, -2.0, 0.5], "float32"))
    model, x = fuse(nn.Sequential(*layers)), mg.tensor(normal(8, 1, 6, 6).astype("float32"))
    y = model(x)
    first = layers[1].running_mean.numpy().copy()
    means = F.conv2d(x, layers[0].weight, layers[0].bias).numpy().mean((0, 2, 3))
    np.testing.assert_allclose(first, 0.1 * means, rtol=1e-5)
    mg.grad(y.sum(), layers[0].weight, create_graph=True)
    np.testing.assert_array_equal(layers[1].running_mean.numpy(), first)
    assert layers[1].num_batches_tracked.item() == 1


def test_a_channel_far_from_zero_with_a_small_spread_comes_out_right_in_float32():
    x = (1e4 + 1e-2 * RNG.normal(size=(32, 2, 20, 20))).astype("float32")
    exact = x.astype("float64") - x.astype("float64").mean((0, 2, 3), keepdims=True)
    exact /= np.sqrt((exact**2).mean((0, 2, 3), keepdims=True) + 1e-5)
    y = fuse(nn.Sequential(nn.BatchNorm2d(2)))(mg.tensor(x)).numpy()
    np.testing.assert_allclose(y, exact, atol=2e-4)


def test_a_gamma_of_exactly_zero_gives_the_composed_gradients():
    x, y = normal(4, 1, 8, 8), np.array([0, 1, 0, 1])
    grads = []
    for make in (fuse, lambda model: model):
        mg.random.seed(2)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 2)
        ).to_dtype("float64")
        model[1].weight.update(np.array([0.0, 1.0, -1.0]))
        model[1].bias.update(np.array([0.5, 0.1, 0.2]))
        losses(make(model), x, y, steps=1)
        grads.append([p.grad.numpy() for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_where_something_looks_on_the_layers_run_one_by_one():
    model = fuse(network())
    assert isinstance(model, Fused)
    written = str(nn.summary(network(), (2, 1, 28, 28)))
    assert str(nn.summary(model, (2, 1, 28, 28))) == written.replace("Sequential", "Fused")


def test_errors_are_the_layers_own():
    model = fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(ValueError, match=r"reads 3 channels .* has 1"):
        model(mg.tensor(np.ones((2, 1, 8, 8), "float32")))
    with pytest.raises(ValueError, match="one value for each channel"):
        fuse(nn.Sequential(nn.BatchNorm2d(3)))(mg.tensor(np.ones((1, 3, 1, 1), "float32")))


def test_modules_inside_modules_are_fused_in_place_and_subclasses_left_alone():
    class Mine(nn.Sequential):
        pass

    class Model(nn.Module):
        def __init__(self):
            self.features = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
            self.several = [nn.Sequential(nn.ReLU()), Mine(nn.ReLU())]

        def forward(self, x):
            return self.features(x)

    model = Model()
    norm = model.features[0]
    assert fuse(model) is model
    assert type(model.features) is Fused and model.features[0] is norm
    assert type(model.several[0]) is Fused and type(model.several[1]) is Mine


def test_results_do_not_depend_on_the_number_of_threads():
    before, results = parallel.threads(), []
    x, y = normal(64, 1, 28, 28).astype("float32"), RNG.integers(0, 3, 64)
    for n in (1, 2, 3):
        parallel.set_threads(n)
        model = fuse(network())
        results.append([losses(model, x, y), *[p.numpy().copy() for p in model.parameters()]])
    parallel.set_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
