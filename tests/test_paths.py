"""A gradient's contributions, path by path: they add up, are named, and can be differentiated themselves."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.paths import paths


def batchnorm(x, gamma, eps=1e-5):
    mean = mg.label(x.mean(0, keepdims=True), "mean")
    centred = mg.label(x - mean, "centred")
    var = mg.label((centred * centred).mean(0, keepdims=True), "var")
    scale = mg.label(gamma / mg.sqrt(var + eps), "scale")
    return centred * scale


def sample(seed=0, shape=(6, 3)):
    rng = np.random.default_rng(seed)
    x = mg.tensor(rng.normal(size=shape), requires_grad=True)
    gamma = mg.tensor(rng.normal(size=shape[1:]), requires_grad=True)
    return x, gamma, rng.normal(size=shape)


def test_contributions_add_up_to_the_gradient_and_the_tape_is_kept():
    x, gamma, g = sample()
    y = batchnorm(x, gamma)
    whole = sum(path.contribution for path in paths(y, x, g))
    assert np.abs(whole - mg.grad(y, x, g).numpy()).max() < 1e-14


def test_batchnorm_has_four_kinds_of_path_and_the_mean_of_the_variance_brings_nothing():
    x, gamma, g = sample()
    by_labels = {path.labels: path for path in paths(batchnorm(x, gamma), x, g)}
    assert set(by_labels) == {
        ("centred",),
        ("mean", "centred"),
        ("centred", "var", "scale"),
        ("mean", "centred", "var", "scale"),
    }
    assert by_labels["mean", "centred", "var", "scale"].norm < 1e-14
    assert sum(path.share for path in by_labels.values()) == pytest.approx(1)


def test_the_path_through_the_mean_is_what_the_formula_says():
    x, gamma, g = sample()
    by_labels = {path.labels: path for path in paths(batchnorm(x, gamma), x, g)}
    scale = gamma.numpy() / np.sqrt(x.numpy().var(0) + 1e-5)
    expected = np.broadcast_to(-(g * scale).mean(0), x.shape)
    assert np.allclose(by_labels["mean", "centred"].contribution, expected, rtol=0, atol=1e-14)


def test_through_chooses_the_waypoints_by_label_or_by_tensor():
    x, gamma, g = sample()
    y = batchnorm(x, gamma)
    assert {path.labels for path in paths(y, x, g, through=["var"])} == {(), ("var",)}
    hidden = mg.exp(x)
    found = paths((hidden + x).sum(), x, through=[hidden])
    assert sorted(len(path.labels) for path in found) == [0, 1]
    with pytest.raises(KeyError, match="'centred', 'mean', 'scale', 'var'"):
        paths(y, x, g, through=["sigma"])


def test_without_labels_reductions_are_the_waypoints():
    x, _, g = sample()
    found = paths(x - x.mean(0, keepdims=True), x, g)
    assert len(found) == 2
    assert any(path.labels and path.labels[0].startswith("mean@") for path in found)


def test_a_contribution_can_be_differentiated():
    x, gamma, g = sample()
    y = batchnorm(x, gamma)
    split = paths(y, x, g, create_graph=True)
    parts = sum(mg.grad(path.contribution.sum(), gamma, retain_graph=True).numpy() for path in split)
    whole = mg.grad(mg.grad(y, x, g, create_graph=True).sum(), gamma)
    assert np.allclose(parts, whole.numpy(), atol=1e-13)


def test_a_long_chain_of_residual_blocks_does_not_explode_and_still_adds_up():
    x, _, _ = sample()
    y = x
    for block in range(30):
        y = y + mg.label(mg.tanh(y) * 0.1, f"block{block}")
    found = paths(y.sum(), x)
    assert len(found) < 500
    whole = sum(path.contribution for path in found)
    assert np.abs(whole - mg.grad(y.sum(), x).numpy()).max() < 1e-13


def test_a_freed_tape_and_a_constant_are_named():
    x, gamma, g = sample()
    y = batchnorm(x, gamma)
    mg.grad(y, x, g)
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        paths(y, x, g)
    with pytest.raises(ValueError, match="x is not on the tape"):
        paths(batchnorm(x, gamma), mg.tensor([1.0]), g)
