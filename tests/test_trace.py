"""mg.trace: named activations and cotangents of a training step, layer by layer."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import functional as F
from minigrad import nn
from minigrad.backend import to_numpy
from minigrad.tape import recording


class Net(nn.Module):
    def __init__(self):
        self.fc1 = nn.Linear(5, 4, bias=False)
        self.bn1 = nn.BatchNorm1d(4)
        self.fc2 = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc2(self.bn1(self.fc1(x)).relu())


@pytest.fixture
def step():
    mg.random.seed(0)
    return Net(), mg.random.normal(8, 5), mg.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def test_names_take_the_layers_path(step):
    model, x, labels = step
    with mg.trace() as t:
        F.cross_entropy(model(x), labels).backward()
    assert {"fc1", "bn1", "fc2", "bn1/mean", "bn1/centred", "bn1/var", "bn1/scale", "bn1.weight"} <= set(t.names)
    z = t["fc1"].value.numpy()
    np.testing.assert_allclose(t["bn1/var"].value.numpy()[0], z.var(0), rtol=1e-5)
    assert t["bn1/var"].layer == "bn1"


def test_cotangents_are_those_of_a_run_without_trace(step):
    model, x, labels = step
    with mg.trace(model) as t:
        F.cross_entropy(model(x), labels).backward()
    traced = model.fc1.weight.grad.numpy().copy()
    assert t["bn1/var"].grad.shape == (1, 4)
    np.testing.assert_array_equal(t["fc1.weight"].grad.numpy(), traced)
    model.zero_grad()
    model.bn1.running_mean.update(mg.zeros(4))
    loss = F.cross_entropy(model(x), labels)
    loss.backward()
    np.testing.assert_array_equal(model.fc1.weight.grad.numpy(), traced)
    np.testing.assert_array_equal(mg.cotangent(loss, "var").numpy(), t["bn1/var"].grad.numpy())


def test_the_hooks_are_gone_afterwards(step):
    model, x, _ = step
    with pytest.raises(ZeroDivisionError), mg.trace(model):
        model(x)
        raise ZeroDivisionError
    assert recording.observer is None and recording.watch is None and recording.scope is None


def test_a_trace_within_a_trace_is_refused(step):
    with mg.trace(), pytest.raises(RuntimeError, match="open already"), mg.trace():
        pass
    assert recording.scope is None


def test_unknown_and_repeated_names(step):
    model, x, _ = step
    with mg.trace(model) as t:
        model(x)
    with pytest.raises(KeyError, match="did you mean 'bn1/var'"):
        t["bn1/vra"]
    with mg.trace(model) as t:
        model(x)
        model(x)
    with pytest.raises(KeyError, match="names 2 nodes"):
        t["bn1/var"]
    assert len(t.all("bn1/var")) == 2


def test_percentiles_are_numpys(step):
    model, x, _ = step
    with mg.trace(model) as t:
        model(x)
    found = t["bn1"].percentiles()
    np.testing.assert_allclose(found, np.percentile(t["bn1"].value.numpy(), [15, 50, 85]), rtol=1e-6)
    assert np.isnan(t["bn1"].gradient_norm)


@pytest.mark.parametrize("share", [150, -10, float("nan")])
def test_percentiles_refuse_what_are_no_shares(step, share):
    model, x, _ = step
    with mg.trace(model) as t:
        model(x)
    with pytest.raises(ValueError, match=f"shares are from 0 to 100, not {share}"):
        t["bn1"].percentiles([50, share])
    with pytest.raises(TypeError, match=r"needs a list of shares, such as \[15, 50, 85\], not 50"):
        t["bn1"].percentiles(50)


def test_a_trace_of_nothing_says_so(step):
    model, x, _ = step
    said = r"layers were called and nothing was recorded: under no_grad\(\)"
    with pytest.warns(UserWarning, match=said), mg.no_grad(), mg.trace(model):
        model(x)


def test_gradient_norms_hold_in_half_precision():
    layer = nn.Linear(2, 2).to_dtype(mg.float16)
    with mg.trace(layer) as t:
        layer(mg.ones(4, 2, dtype=mg.float16)).backward(mg.full((4, 2), 6e4, dtype=mg.float16) / 4)
    assert t["bias"].gradient_norm == pytest.approx(6e4 * 2**0.5, rel=1e-2)


def test_a_traced_tape_is_grouped_by_layer_and_knows_every_value(step):
    model, x, labels = step
    with mg.trace(model) as t:
        loss = F.cross_entropy(model(x), labels)
    tape = t.tape(loss)
    assert set(tape.values) == set(tape.nodes)
    assert {line.layer for line in tape.lines} == {"", "fc1", "bn1", "fc2"}


def test_a_layer_that_is_called_alone():
    with mg.trace() as t:
        nn.BatchNorm1d(3)(mg.random.normal(4, 3, requires_grad=True)).sum().backward()
    assert "var" in t and t["weight"].grad is not None


def test_trace_of_a_matrix_is_its_diagonal_sum():
    assert mg.trace(mg.eye(3)).item() == 3.0
    assert str(mg.trace(nn.Linear(2, 2))) != ""


def test_a_parameter_is_copied_once_for_each_version(step):
    model, x, _ = step
    with mg.trace(model) as t:
        model(x)
        model(x)
        model.fc2.weight.update(mg.zeros(3, 4))
        model(x)
    biases = [node.aside.arguments[1] for node in t._nodes if node.inputs[-1] is model.fc2.bias.node]
    assert biases[0] is biases[1] is biases[2] is not model.fc2.bias.data
    transposed = [node.aside.arguments[0] for node in t._nodes if node.inputs[0] is model.fc2.weight.node]
    assert transposed[0] is transposed[1] and not transposed[2].any() and transposed[1].any()
    assert [bool(w.value.numpy().any()) for w in t.all("fc2.weight")] == [True, False]


def test_running_statistics_are_those_of_the_moment(step):
    model, x, _ = step
    model.eval()
    with mg.trace(model) as t:
        y = model(x)
        model.bn1.running_mean.update(mg.ones(4))
    tape = t.tape(y, mg.ones(8, 3))
    centred = next(line for line in tape.lines if line.layer == "bn1" and line.op == "subtract")
    np.testing.assert_array_equal(to_numpy(tape.recompute(centred)), t["fc1"].value.numpy())


def train_steps(model, x, labels, steps):
    """Plain training steps: of each the weights before it, and the gradient that it was made with."""
    optimizer, seen = mg.optim.SGD(model.named_parameters(), lr=0.5), []
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        seen.append((model.fc2.weight.numpy().copy(), model.fc2.weight.grad.numpy().copy()))
        optimizer.step()
    return seen


def test_the_values_of_each_step_stay_with_its_gradients(step):
    model, x, labels = step
    with mg.trace(model) as t:
        seen = train_steps(model, x, labels, 3)
    with pytest.raises(KeyError, match=r"'fc2.weight' names 3 nodes \(it was computed, or overwritten"):
        t["fc2.weight"]
    found = [(w.value.numpy(), w.grad.numpy()) for w in t.all("fc2.weight")]
    np.testing.assert_array_equal(found, seen)
    assert len(t.all("fc2")) == 3


def test_a_trace_keeps_the_gradients_of_its_own_step(step):
    model, x, labels = step
    with mg.trace(model) as t:
        F.cross_entropy(model(x), labels).backward()
    traced = model.fc2.weight.numpy().copy(), model.fc2.weight.grad.numpy().copy()
    train_steps(model, x, labels, 2)
    np.testing.assert_array_equal((t["fc2.weight"].value.numpy(), t["fc2.weight"].grad.numpy()), traced)


def test_a_backward_pass_after_the_trace_gives_it_gradients(step):
    model, x, labels = step
    F.cross_entropy(model(x), labels).backward()
    with mg.trace(model) as t:
        loss = F.cross_entropy(model(x), labels)
    model.zero_grad()
    loss.backward()
    np.testing.assert_array_equal(t["fc2.weight"].grad.numpy(), model.fc2.weight.grad.numpy())


def test_a_parameter_given_another_array_is_another_thing(step):
    model, x, _ = step
    with mg.trace(model) as t:
        model(x)
        model.fc2.bias.data = mg.ones(3).data
        model(x)
    assert [b.value.tolist() == [1, 1, 1] for b in t.all("fc2.bias")] == [False, True]


@pytest.mark.parametrize("traced", ["all of it", "the backward pass"])
def test_checkpointed_layers_are_traced_once_with_their_cotangents(step, traced):
    model, x, labels = step
    with mg.trace(model) as plain:
        F.cross_entropy(model(x), labels).backward()
    model.zero_grad()
    hidden = lambda z: model.bn1(model.fc1(z)).relu()
    model.forward = lambda x: mg.checkpoint(model.fc2, mg.checkpoint(hidden, x))
    if traced == "all of it":
        with mg.trace(model) as t:
            F.cross_entropy(model(x), labels).backward()
        assert t.names == plain.names
        for name in plain:
            np.testing.assert_array_equal(t[name].value.numpy(), plain[name].value.numpy())
            np.testing.assert_array_equal(t[name].grad.numpy(), plain[name].grad.numpy())
    else:
        loss = F.cross_entropy(model(x), labels)
        with mg.trace(model) as t:
            loss.backward()
        assert t.names == []


def test_a_layer_that_hands_on_what_it_is_given_names_nothing():
    model, x = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)).eval(), mg.random.normal(5, 4, requires_grad=True)
    with mg.trace(model) as t:
        model(x).sum().backward()
    assert t.names == ["1", "1.weight", "1.bias"] and x.label is None


def test_who_began_inside_ends_with_it(step):
    model, x, labels = step
    session = mg.debug()
    with mg.trace(model) as t:
        F.cross_entropy(model(x), labels).backward()
        session.off()
        assert recording.reviewer is recording.observer is recording.watch is recording.scope is None
    with mg.trace(model):
        inner = mg.debug()
    inner.off()
    assert recording.reviewer is recording.observer is recording.watch is recording.scope is None
    assert t["bn1/var"].grad is not None and model(x).node.residuals is not None


@pytest.mark.parametrize("subject", [3, "model", [nn.Linear(2, 2)]])
def test_a_trace_of_what_is_no_model_is_refused(subject):
    with pytest.raises(TypeError, match="trace: needs a Module, a Tensor or nothing, not a"):
        mg.trace(subject)
