"""BatchNorm's state in other frameworks' words: exact where it can be, refused where it cannot."""

import warnings

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.nn.conventions import CONVENTIONS, batchnorm_from, batchnorm_to


def numbers():
    rng = np.random.default_rng(0)
    return {
        "gamma": rng.normal(size=3), "beta": rng.normal(size=3), "mean": rng.normal(size=3),
        "var": rng.uniform(0.5, 2, 3), "x": rng.normal(size=(7, 3)),
    }  # fmt: skip


def state_of(name, eps):
    """The same statistics as each framework stores them."""
    n = numbers()
    gamma, beta, mean, var = n["gamma"], n["beta"], n["mean"], n["var"]
    sigma = np.sqrt(var + eps)
    return {
        "pytorch": {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var},
        "keras": [gamma, beta, mean, var],
        "flax": {"params": {"scale": gamma, "bias": beta}, "batch_stats": {"mean": mean, "var": var}},
        "chainer": {"gamma": gamma, "beta": beta, "avg_mean": mean, "avg_var": var, "N": 5},
        "caffe": [gamma, beta, 7.5 * mean, 7.5 * var, np.array([7.5])],
        "matconvnet": {"gamma": gamma, "beta": beta, "moments": np.stack([mean, sigma], 1)},
        "lasagne": {"gamma": gamma, "beta": beta, "mean": mean, "inv_std": 1 / sigma},
    }[name]


@pytest.mark.parametrize("name", CONVENTIONS)
def test_evaluation_is_exact_and_comes_back(name):
    eps, n = CONVENTIONS[name].eps, numbers()
    layer = batchnorm_from(name, state_of(name, eps), dims=1).eval()
    expected = (n["x"] - n["mean"]) / np.sqrt(n["var"] + eps) * n["gamma"] + n["beta"]
    np.testing.assert_allclose(layer(mg.tensor(n["x"])).numpy(), expected, rtol=1e-12)
    back = batchnorm_from(name, batchnorm_to(name, layer), eps=layer.eps, dims=1).eval()
    np.testing.assert_allclose(back.running_var.numpy(), n["var"], rtol=1e-12)
    np.testing.assert_allclose(back(mg.tensor(n["x"])).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "momentum"),
    [("pytorch", 0.1), ("keras", 0.01), ("flax", 0.01), ("chainer", 0.1), ("caffe", 0.001), ("matconvnet", 0.05),
     ("lasagne", 0.1)],
)  # fmt: skip
def test_rates_become_the_weight_of_the_new_value(name, momentum):
    layer = batchnorm_from(name, state_of(name, CONVENTIONS[name].eps))
    assert isinstance(layer, nn.BatchNorm2d) and layer.momentum == pytest.approx(momentum)
    back = batchnorm_to(name, layer)
    assert back[CONVENTIONS[name].rate[0]] == pytest.approx(CONVENTIONS[name].rate[1])


@pytest.mark.parametrize("name", ["keras", "flax", "caffe", "matconvnet", "lasagne"])
def test_training_on_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match="cannot be continued exactly: it"):
        batchnorm_from(name, state_of(name, 1e-3), eps=1e-3, exact="training")
    with pytest.raises(ValueError, match="cannot continue exactly: it"):
        batchnorm_to(name, nn.BatchNorm1d(3), exact="training")
    assert "not exact" in str(CONVENTIONS[name])


@pytest.mark.parametrize("name", ["pytorch", "chainer"])
def test_training_on_is_exact(name):
    layer = batchnorm_from(name, state_of(name, 1e-5), eps=1e-5, dims=1, exact="training")
    n = numbers()
    layer(mg.tensor(n["x"]))
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.9 * n["mean"] + 0.1 * n["x"].mean(0), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.9 * n["var"] + 0.1 * n["x"].var(0, ddof=1), rtol=1e-12)


def test_caffes_cumulative_average_goes_on_exactly():
    n = numbers()
    state = {"mean": 4 * n["mean"], "variance": 4 * n["var"], "scale_factor": np.array(4.0)}
    layer = batchnorm_from("caffe", state, rate=1.0, dims=1, exact="training")
    assert layer.momentum is None and layer.num_batches_tracked.item() == 4 and not layer.affine
    layer(mg.tensor(n["x"]))
    np.testing.assert_allclose(layer.running_mean.numpy(), (4 * n["mean"] + n["x"].mean(0)) / 5, rtol=1e-12)
    assert batchnorm_to("caffe", layer)["scale_factor"].item() == 5


def test_a_cumulative_average_of_pytorch_goes_there_and_back():
    layer = nn.BatchNorm1d(3, momentum=None)
    layer(mg.random.normal(5, 3))
    back = batchnorm_from("pytorch", batchnorm_to("pytorch", layer), dims=1, exact="training")
    assert back.momentum is None and back.num_batches_tracked.item() == 1


def test_torch_agrees():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm1d(3).double()
    x = numbers()["x"]
    theirs(torch.tensor(x))
    state = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
    layer = batchnorm_from("torch", state, dims=1).eval()
    np.testing.assert_allclose(layer(mg.tensor(x)).numpy(), theirs.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-12)


def test_a_missing_gamma_stays_at_one():
    n = numbers()
    layer = batchnorm_from("keras", {"beta": n["beta"], "moving_mean": n["mean"], "moving_variance": n["var"]})
    assert not layer.weight.requires_grad and layer.bias.requires_grad and layer.weight.tolist() == [1.0, 1.0, 1.0]


def test_the_other_convention_warns():
    with pytest.warns(UserWarning, match="weight of the NEW value"):
        batchnorm_from("pytorch", state_of("pytorch", 1e-5), rate=0.9)
    with pytest.warns(UserWarning, match=r"keras's momentum=0.1 is the weight of the OLD value, so that .* is 0.9"):
        batchnorm_from("keras", state_of("keras", 1e-3), rate=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batchnorm_from("keras", state_of("keras", 1e-3))


def test_pytorchs_count_of_batches_goes_there_and_back():
    layer = nn.BatchNorm1d(3)
    layer(mg.random.normal(5, 3))
    assert batchnorm_from("pytorch", batchnorm_to("pytorch", layer), dims=1).num_batches_tracked.item() == 1


def test_a_rate_of_none_is_pytorchs_average_of_all_batches_and_nobody_elses():
    state = {**state_of("pytorch", 1e-5), "num_batches_tracked": np.array(2)}
    layer = batchnorm_from("pytorch", state, rate=None, dims=1)
    assert layer.momentum is None and layer.num_batches_tracked.item() == 2
    with pytest.raises(ValueError, match="keras's momentum is a number; only PyTorch's may be None"):
        batchnorm_from("keras", state_of("keras", 1e-3), rate=None)


def test_lists_of_integers_are_floating_statistics():
    layer = batchnorm_from("keras", [[1, 2], [0, 0], [0, 0], [1, 1]], dims=1)
    assert layer.running_var.dtype == layer.weight.dtype == np.float32 and layer.weight.tolist() == [1, 2]


@pytest.mark.parametrize("value", [-1.0, 0.0, np.nan, np.inf])
@pytest.mark.parametrize(("name", "what"), [("lasagne", "inv_std"), ("matconvnet", "sigma"), ("keras", "moving_var")])
def test_a_spread_that_cannot_be_one_is_refused(name, what, value):
    if name == "keras" and value == 0:
        return  # a variance may be
    one, n = np.ones(3), np.array([1.0, value, 1.0])
    state = {"lasagne": [one, one, one, n], "keras": [one, one, one, n]}
    state["matconvnet"] = [one, one, np.stack([one, n], 1)]
    with pytest.raises(ValueError, match=f"{name}'s {what}.* must be finite and .*, not"):
        batchnorm_from(name, state[name], eps=0.0)


def test_the_table_of_conventions_is_part_of_nn():
    assert mg.nn.CONVENTIONS["keras"].eps == 1e-3


def test_refusals():
    with pytest.raises(TypeError, match="a convention is a name, such as 'pytorch', not None"):
        batchnorm_from(None, {})
    with pytest.raises(TypeError, match="the state is a dict or list of arrays, not NoneType"):
        batchnorm_from("keras", None)
    with pytest.raises(TypeError, match="batchnorm_to: needs a BatchNorm layer, not a Linear"):
        batchnorm_to("keras", nn.Linear(3, 3))
    with pytest.raises(ValueError, match="no convention is called 'mxnet'"):
        batchnorm_from("mxnet", {})
    with pytest.raises(ValueError, match=r"missing are \['moving_variance'\] and unknown are \['var'\]"):
        batchnorm_from("tf", {"moving_mean": np.zeros(3), "var": np.ones(3)})
    with pytest.raises(ValueError, match=r"needs shape \[3\], not \[2\]"):
        batchnorm_from("keras", {"moving_mean": np.zeros(3), "moving_variance": np.ones(2)})
    with pytest.raises(ValueError, match="give the eps that its layer had"):
        batchnorm_from("lasagne", {"mean": np.zeros(1), "inv_std": np.array([1000.0])})
    with pytest.raises(TypeError, match="batchnorm_from: eps must be a number, not 'a'"):
        batchnorm_from("lasagne", {"mean": np.zeros(1), "inv_std": np.ones(1)}, eps="a")
    with pytest.raises(ValueError, match="must be finite and not negative, not -1"):
        batchnorm_from("keras", {"moving_mean": np.zeros(1), "moving_variance": np.array([-1.0])})
    with pytest.raises(ValueError, match="averages all batches alike, which keras cannot"):
        batchnorm_to("keras", nn.BatchNorm1d(3, momentum=None))
    with pytest.raises(ValueError, match="needs running statistics"):
        batchnorm_to("keras", nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="exact is 'evaluation' or 'training'"):
        batchnorm_from("keras", {}, exact="always")
