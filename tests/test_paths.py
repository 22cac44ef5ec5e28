"""A gradient's contributions, path by path: they add up, are named, and can be differentiated themselves."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.backend import to_numpy
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


def test_nodes_of_one_label_are_told_apart():
    x = mg.tensor([1.0, 2.0], dtype=mg.float64, requires_grad=True)
    a, b = mg.label(mg.tanh(x), "h"), mg.label(mg.exp(x), "h")
    y = (a * 3).sum() + (b * 5).sum()
    found = {path.labels: path.contribution for path in paths(y, x)}
    assert set(found) == {("h#1",), ("h#2",)}
    assert np.allclose(to_numpy(found["h#2",]), 5 * np.exp(x.numpy()), rtol=1e-15)
    assert {path.labels for path in paths(y, x, through=["h"])} == set(found)
    assert {path.labels for path in paths(y, x, through=["h#1"])} == {(), ("h#1",)}


def test_a_number_never_makes_two_names_alike():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    steps = [mg.label(x * k, name) for k, name in enumerate(("h", "h#1", "h"), 1)]
    assert sorted(path.labels for path in paths(sum(steps).sum(), x)) == [("h#1",), ("h#2",), ("h#3",)]


def test_a_path_is_written_with_the_names_of_its_ends():
    x = mg.label(mg.tensor([1.0, 2.0], requires_grad=True), "w")
    h = mg.label(x * 2, "y")
    assert str(paths(h.sum(), x)[0]).startswith("w -> y -> y: norm")  # without a name the ends are x and y
    assert str(paths(mg.label(h.sum(), "loss"), x)[0]).startswith("w -> y -> loss: norm")


def test_what_lies_on_no_way_is_refused():
    x, gamma, g = sample()
    y = batchnorm(x, gamma)
    with pytest.raises(ValueError, match="lies on no way from y back to x; on the ways are mean, centred,"):
        paths(y, x, g, through=[gamma])
    with pytest.raises(ValueError, match="a constant, which through= asks for"):
        paths(y, x, g, through=[mg.ones(3)])


@pytest.mark.parametrize(
    ("dtype", "size"), [("float16", 1e-4), ("float16", 1e3), ("float32", 1e21), ("float64", 1e200)]
)
def test_norms_and_shares_hold_in_every_dtype(dtype, size):
    x = mg.tensor(np.ones(4), dtype=dtype, requires_grad=True)
    y = mg.label(x * 3, "h") + x * 4
    found = paths(y, x, np.full(4, size, dtype), through=["h"])
    assert [path.norm for path in found] == pytest.approx([8 * size, 6 * size], rel=1e-2)
    assert [path.share for path in found] == pytest.approx([4 / 7, 3 / 7], rel=1e-2)


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
