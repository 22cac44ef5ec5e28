"""The models: what they take and give, what they are made of, and that every part of them learns."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.functional import cross_entropy
from models import MLP, MODELS, LeNet5


@pytest.fixture(params=MODELS)
def model(request):
    mg.random.seed(0)
    return MODELS[request.param]()


@pytest.fixture
def images():
    return mg.tensor(np.random.default_rng(0).normal(size=(6, 1, 28, 28)).astype(np.float32))


def test_ten_scores_an_image(model, images):
    y = model(images)
    assert y.shape == (6, 10)
    assert y.dtype == mg.float32


def test_every_parameter_has_a_gradient(model, images):
    cross_entropy(model(images), mg.arange(6)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert np.abs(p.grad.numpy()).max() > 0, name


def test_a_few_steps_learn_six_images_by_heart(model, images):
    optimizer = optim.AdamW(model.named_parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = cross_entropy(model(images), mg.arange(6))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_one_seed_one_model(name):
    states = []
    for _ in range(2):
        mg.random.seed(3)
        states.append(MODELS[name]().state_dict())
    first, second = states
    assert all(np.array_equal(first[path].numpy(), second[path].numpy()) for path in first)


def test_in_evaluation_an_image_is_scored_alone_as_in_a_batch(model, images):
    model.eval()
    with mg.no_grad():
        together = model(images).numpy()
        alone = np.concatenate([model(images[i : i + 1]).numpy() for i in range(6)])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_lenet_has_the_size_that_is_known_of_it():
    assert sum(p.size for p in LeNet5().parameters()) == 61_706


def test_the_papers_network_has_three_hundred_sigmoids_and_small_gaussian_weights():
    network = MLP()
    kinds = [type(layer) for layer in network.hidden]
    assert kinds == [nn.Flatten, *[nn.Linear, nn.BatchNorm1d, nn.Sigmoid] * 3]
    assert [layer.bias for layer in network.hidden if isinstance(layer, nn.Linear)] == [None] * 3
    weight = network.hidden[1].weight.numpy()
    assert weight.shape == (100, 784)
    assert abs(weight.std() - 0.1) < 0.001 and abs(weight.mean()) < 0.001
    plain = MLP(normalise=False)
    assert not list(plain.buffers())
    assert all(layer.bias is not None for layer in plain.hidden if isinstance(layer, nn.Linear))
