"""Modules: the walk, modes, state dicts and their exchange with PyTorch, looks, copies, and refusals."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from tests.against import floats


class Block(nn.Module):
    def __init__(self, width):
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x):
        return x + mg.relu(self.bn(self.conv(x)))


class Net(nn.Module):
    def __init__(self):
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.blocks = [Block(4), Block(4)]
        self.heads = {"a": nn.Linear(4, 2), "b": nn.Linear(4, 3)}
        self.scale = nn.Parameter(mg.ones(1))
        self.count = nn.Buffer(mg.zeros(1))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = x.mean((2, 3)) * self.scale
        return self.heads["a"](x), self.heads["b"](x)


# ---- against PyTorch --------------------------------------------------------------------------------
def pairs(torch):
    """Every layer with learnt or remembered state, here and there, and the shape of an input."""
    t = torch.nn
    return [
        (nn.Linear(5, 3), t.Linear(5, 3), (4, 5)),
        (nn.Linear(5, 3, bias=False), t.Linear(5, 3, bias=False), (2, 4, 5)),
        (nn.Conv1d(4, 6, 3, 2, 1, groups=2), t.Conv1d(4, 6, 3, 2, 1, groups=2), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, 2, 1), t.Conv2d(4, 6, 3, 2, 1), (2, 4, 6, 7)),
        (nn.Conv2d(4, 6, (3, 2), padding="same"), t.Conv2d(4, 6, (3, 2), padding="same"), (2, 4, 6, 7)),
        (nn.Conv2d(4, 6, 3, bias=False, dilation=2), t.Conv2d(4, 6, 3, bias=False, dilation=2), (2, 4, 6, 7)),
        (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2), t.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2), (2, 4, 4, 5)),
        (nn.BatchNorm1d(4), t.BatchNorm1d(4), (6, 4)),
        (nn.BatchNorm2d(4), t.BatchNorm2d(4), (3, 4, 5, 5)),
        (nn.LayerNorm((3, 4)), t.LayerNorm((3, 4)), (2, 3, 4)),
        (nn.LayerNorm(4, bias=False), t.LayerNorm(4, bias=False), (2, 3, 4)),
        (nn.GroupNorm(2, 4), t.GroupNorm(2, 4), (3, 4, 5)),
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True), t.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 3, 6, 6)),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), t.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 3, 6, 6)),
        (nn.AdaptiveAvgPool2d((2, 3)), t.AdaptiveAvgPool2d((2, 3)), (2, 3, 5, 7)),
        (nn.Flatten(), t.Flatten(), (2, 3, 4)),
        (nn.Identity(), t.Identity(), (2, 3)),
        (nn.ReLU(), t.ReLU(), (3, 4)),
        (nn.LeakyReLU(0.2), t.LeakyReLU(0.2), (3, 4)),
        (nn.ELU(1.5), t.ELU(1.5), (3, 4)),
        (nn.SiLU(), t.SiLU(), (3, 4)),
        (nn.GELU(), t.GELU(), (3, 4)),
        (nn.GELU("tanh"), t.GELU(approximate="tanh"), (3, 4)),
        (nn.Sigmoid(), t.Sigmoid(), (3, 4)),
        (nn.Tanh(), t.Tanh(), (3, 4)),
        (nn.Softplus(), t.Softplus(), (3, 4)),
        (nn.Softmax(1), t.Softmax(1), (3, 4)),
        (nn.LogSoftmax(1), t.LogSoftmax(1), (3, 4)),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), t.Sequential(t.Linear(4, 3), t.BatchNorm1d(3)), (5, 4)),
    ]  # fmt: skip


def test_layers_have_pytorchs_state_and_take_its_weights_to_the_same_numbers():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    for ours, theirs, shape in pairs(torch):
        theirs.double()
        ours.to_dtype(np.float64)
        there = {name: value.numpy() for name, value in theirs.state_dict().items()}
        assert {n: v.shape for n, v in ours.state_dict().items()} == {n: v.shape for n, v in there.items()}, ours
        assert list(ours.state_dict()) == list(there)
        ours.load_state_dict(there)
        (x,) = floats(shape)
        for mode in (True, False):
            ours.train(mode), theirs.train(mode)
            a, b = mg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
            ya, yb = ours(a), theirs(b)
            np.testing.assert_allclose(ya.numpy(), yb.detach().numpy(), rtol=1e-11, atol=1e-12, err_msg=repr(ours))
            (g,) = floats(ya.shape, seed=5)
            ours.zero_grad(), theirs.zero_grad()
            ya.backward(mg.tensor(g)), yb.backward(torch.tensor(g))
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-10, atol=1e-11, err_msg=repr(ours))
            for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-10, atol=1e-11, err_msg=name)
        for name, value in theirs.state_dict().items():
            np.testing.assert_allclose(ours.state_dict()[name].numpy(), value.numpy(), rtol=1e-12, err_msg=name)
        theirs.load_state_dict({n: torch.tensor(v.numpy()) for n, v in ours.state_dict().items()})


def test_embedding_has_pytorchs_state():
    torch = pytest.importorskip("torch")
    ours, theirs = nn.Embedding(5, 3), torch.nn.Embedding(5, 3)
    ours.load_state_dict({n: v.numpy() for n, v in theirs.state_dict().items()})
    index = np.array([[0, 4], [4, 1]])
    assert np.array_equal(ours(mg.tensor(index)).numpy(), theirs(torch.tensor(index)).detach().numpy())


def test_default_weights_are_uniform_within_one_over_the_root_of_fan_in():
    mg.random.seed(0)
    for layer, fan_in in [
        (nn.Linear(64, 200), 64),
        (nn.Conv2d(8, 64, 3, groups=2), 36),
        (nn.Conv1d(16, 64, 5), 80),
        (nn.ConvTranspose2d(64, 16, 3, groups=2), 72),
    ]:
        for p in layer.parameters():
            bound = 1 / np.sqrt(fan_in)
            assert np.abs(p.numpy()).max() <= bound
            if p.size > 1000:
                assert np.abs(p.numpy()).max() > 0.98 * bound
                assert abs(p.numpy().std() - bound / np.sqrt(3)) < 0.02 * bound


# ---- the walk ---------------------------------------------------------------------------------------
def test_names_follow_the_order_of_assignment_through_lists_and_dicts():
    names = [name for name, _ in Net().named_parameters()]
    assert names == [
        "scale", "stem.weight", "blocks.0.conv.weight", "blocks.0.conv.bias", "blocks.0.bn.weight", "blocks.0.bn.bias",
        "blocks.1.conv.weight", "blocks.1.conv.bias", "blocks.1.bn.weight", "blocks.1.bn.bias",
        "heads.a.weight", "heads.a.bias", "heads.b.weight", "heads.b.bias",
    ]  # fmt: skip
    assert [name for name, _ in Net().named_buffers()][:3] == [
        "count",
        "blocks.0.bn.running_mean",
        "blocks.0.bn.running_var",
    ]
    assert [path for path, _ in Net().named_modules()][:4] == ["", "stem", "blocks.0", "blocks.0.conv"]


def test_parameters_carry_their_path_as_label():
    net = Net()
    assert all(p.label == name for name, p in net.named_parameters())


def test_a_shared_module_is_walked_once_and_tied_weights_stand_under_each_path():
    torch = pytest.importorskip("torch")
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    assert len(list(model.parameters())) == 2
    t = torch.nn.Linear(3, 3)
    assert list(model.state_dict()) == list(torch.nn.Sequential(t, torch.nn.Tanh(), t).state_dict())
    x = mg.ones(1, 3)
    model(x).sum().backward()
    assert shared.weight.grad is not None


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def test_tied_weights_load_from_either_path_and_refuse_to_be_torn_apart():
    model = tied()
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    state = model.state_dict()
    assert list(state) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    state["0.weight"] = state["1.weight"] = mg.full((3, 3), 2.0)
    del state["0.weight"]
    assert tied().load_state_dict(state)[0].weight.tolist() == [[2.0] * 3] * 3
    state["0.weight"] = mg.full((3, 3), 3.0)
    with pytest.raises(ValueError, match=r"tied here, different there: 1.weight and 0.weight"):
        model.load_state_dict(state)
    state["1.weight"] = mg.ones(2)
    with pytest.raises(ValueError, match=r"(?s)misshapen: 1.weight.*tied here, different there: 1.weight and 0.weight"):
        model.load_state_dict(state)


def test_a_module_that_holds_its_parent_is_walked_all_the_same():
    parent, child = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)
    child.parent = parent
    parent.layers.append(child)
    assert len(list(parent.parameters())) == 4
    assert set(parent.state_dict()) >= {"0.weight", "0.bias", "1.weight", "1.bias"}


# ---- modes ------------------------------------------------------------------------------------------
def test_train_and_eval_reach_everything_below():
    net = Net()
    assert all(not m.training for m in net.eval().modules())
    assert all(m.training for m in net.train().modules())


def test_a_part_that_is_unfrozen_goes_back_to_the_mode_of_its_model():
    net = Net()
    net.freeze().eval()
    net.blocks[0].unfreeze()
    assert not net.blocks[0].bn.training and net.blocks[0].bn.weight.requires_grad
    net.train()
    assert net.blocks[0].bn.training and not net.blocks[1].bn.training


def test_the_names_are_those_of_the_last_walk():
    """A part of a model that was walked, put into another: an optimizer saves under the names of the model it got."""
    encoder = nn.Sequential(nn.Linear(2, 2))
    list(nn.Sequential(nn.Identity(), nn.Sequential(encoder)).named_parameters())
    model = nn.Sequential(encoder, nn.BatchNorm1d(2))
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1)
    assert list(optimizer.state) == [name for name, _ in model.named_parameters()]
    assert next(iter(optimizer.state)) == "0.0.weight" and encoder[0].path == "0.0"
    model[0].freeze().unfreeze().eval().zero_grad()
    assert encoder[0].weight.label == "0.0.weight"  # modes leave names alone


def test_the_first_call_of_a_model_gives_its_layers_their_names():
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    y = model(mg.ones(3, 2))
    assert model[1][1].path == "1.1" and model[1][1].running_mean.label == "1.1.running_mean"
    assert "1.0.weight" in str(mg.Tape(y))


def a_new_head(model, stranger):
    model.head = nn.Linear(2, 2)
    return {"head": model.head}


def a_head_that_ran_before(model, stranger):
    model.head = nn.Linear(2, 2)
    model.head(mg.ones(3, 2))
    return {"head": model.head}


def another_model_s_layer(model, stranger):
    model.blocks.append(stranger[1])
    model(mg.ones(3, 2))
    stranger(mg.ones(3, 2))
    return {"blocks.1": stranger[1], "blocks.0": model.blocks[0]}


def a_copy_of_its_own(model, stranger):
    model.blocks.append(copy.deepcopy(model.blocks[0]))
    return {"blocks.1": model.blocks[1], "blocks.0": model.blocks[0]}


def a_layer_at_the_front(model, stranger):
    model.blocks.insert(0, nn.Linear(2, 2))
    return {"blocks.0": model.blocks[0], "blocks.1": model.blocks[1]}


def walked_from_further_down(model, stranger):
    list(model.blocks[0].named_parameters())
    return {"blocks.0": model.blocks[0]}


@pytest.mark.parametrize(
    "change",
    [
        a_new_head, a_head_that_ran_before, another_model_s_layer, a_copy_of_its_own, a_layer_at_the_front,
        walked_from_further_down,
    ],
)  # fmt: skip
def test_names_are_right_in_the_first_call_after_a_change(change):
    class Growing(nn.Module):
        def __init__(self):
            self.blocks, self.head = [nn.Linear(2, 2)], nn.Identity()

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    model, stranger = Growing(), nn.Sequential(nn.Identity(), nn.Linear(2, 2))
    for m in (model, stranger):
        m(mg.ones(3, 2))
    expected = change(model, stranger)
    y = model(mg.ones(3, 2))
    for path, layer in expected.items():
        assert layer.path == path and layer.weight.label == f"{path}.weight" and f"{path}.weight" in str(mg.Tape(y))
    assert [name for name, _ in model.named_parameters()] == [p.label for p in model.parameters()]
    next(iter(expected.values())).weight = mg.Parameter(mg.ones(2, 5))
    with pytest.raises(ValueError) as caught:
        model(mg.ones(3, 2))
    assert caught.value.__notes__ == [f"in the layer {next(iter(expected))!r}: Linear(2, 2, bias=True)"]


def test_a_part_that_is_called_by_itself_keeps_the_names_of_its_model():
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(2, 2)))
    model(mg.ones(3, 2))
    model[1].layers.append(nn.Linear(2, 2))
    model[1](mg.ones(3, 2))
    assert [layer.weight.label for layer in model[1]] == ["1.0.weight", "1.1.weight"]


def test_a_layer_that_no_attribute_leads_to_is_named_from_itself():
    hidden = nn.Sequential(nn.Linear(2, 2))
    model = nn.Sequential(nn.Linear(2, 2), nn.Lambda(lambda x: hidden(x)))
    for _ in range(2):
        model(mg.ones(3, 2))
        assert hidden[0].weight.label == model[0].weight.label == "0.weight" and hidden[0].path == "0"


LAYERS = [
    (nn.Linear(4, 2), (2, 4)), (nn.Conv1d(2, 1, 2), (1, 2, 4)), (nn.Conv2d(1, 1, 2), (1, 1, 4, 4)),
    (nn.ConvTranspose2d(1, 1, 2), (1, 1, 4, 4)), (nn.MaxPool2d(2), (1, 1, 4, 4)), (nn.AvgPool2d(2), (1, 1, 4, 4)),
    (nn.AdaptiveAvgPool2d(1), (1, 1, 4, 4)), (nn.BatchNorm1d(4), (3, 4)), (nn.BatchNorm1d(4).eval(), (3, 4)),
    (nn.BatchNorm2d(1), (1, 1, 4, 4)), (nn.LayerNorm(4), (2, 4)), (nn.GroupNorm(2, 4), (2, 4)),
    (nn.Dropout(1.0), (2, 4)), (nn.Dropout().eval(), (2, 4)), (nn.Flatten(), (2, 2, 2)),
    (nn.Sequential(nn.Flatten(), nn.Tanh()), (2, 2, 2)),
    *((layer(), (2, 4)) for layer in (
        nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax, nn.LogSoftmax
    )),
]  # fmt: skip


@pytest.mark.parametrize("layer, shape", LAYERS, ids=lambda value: repr(value)[:24])
def test_a_layer_takes_lists_and_arrays_for_tensors(layer, shape):
    x = mg.random.normal(*shape)
    expected = layer(x)
    for given in (x.data, x.tolist()):
        y = layer(given)
        assert isinstance(y, mg.Tensor) and y.dtype == mg.float32 and y.tolist() == expected.tolist()
    for wrong in (None, "a", [x, x]):
        with pytest.raises(TypeError, match=r"^\w+: (cannot make numbers of \w+ data|a list of Tensors)") as caught:
            layer(wrong)
        assert caught.value.__notes__


def test_a_layer_of_ones_own_may_take_more_than_a_layer():
    class Scaled(nn.Linear):
        def forward(self, x, factor, shift=0.0):
            return super().forward(x) * factor + shift

    layer = Scaled(2, 2)
    x = mg.ones(1, 2)
    assert layer([[1.0, 1.0]], 2.0, shift=1.0).tolist() == (nn.Linear.forward(layer, x) * 2.0 + 1.0).tolist()


def test_a_layer_that_stands_alone_is_named_by_its_class():
    with pytest.raises(ValueError, match=r"^BatchNorm1d: an input of shape \[1, 2\].*") as caught:
        nn.BatchNorm1d(2)(mg.ones(1, 2))
    assert caught.value.__notes__ == ["in BatchNorm1d(2, eps=1e-05, momentum=0.1)"]
    with pytest.raises(ValueError, match=r"^BatchNorm1d 1: an input of shape \[1, 2\].*"):
        nn.Sequential(nn.Identity(), nn.BatchNorm1d(2))(mg.ones(1, 2))


LAYERS = {
    "linear": (lambda: nn.Linear(3, 2), (4, 3)),
    "conv": (lambda: nn.Conv2d(3, 2, 2), (1, 3, 4, 4)),
    "batchnorm": (lambda: nn.BatchNorm1d(3), (4, 3)),
    "layernorm": (lambda: nn.LayerNorm(3), (4, 3)),
    "groupnorm": (lambda: nn.GroupNorm(1, 3), (4, 3)),
    "max pooling": (lambda: nn.MaxPool2d(2), (1, 3, 4, 4)),
    "avg pooling": (lambda: nn.AvgPool2d(2), (1, 3, 4, 4)),
    "relu": (nn.ReLU, (4, 3)),
    "dropout": (lambda: nn.Dropout(0.0), (4, 3)),
    "flatten": (nn.Flatten, (1, 3, 4)),
    "sequential": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), (4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_takes_an_array_for_a_tensor(name):
    make, shape = LAYERS[name]
    layer, x = make(), mg.random.normal(shape)
    y = layer(x.data)
    assert isinstance(y, mg.Tensor) and np.array_equal(y.numpy(), layer(x).numpy())


@pytest.mark.parametrize("index", [np.array([-1, 0]), np.array([0, 5]), [5], 5])
def test_an_index_out_of_range_is_refused_whatever_holds_it(index):
    with pytest.raises(IndexError, match=r"embedding: an index lies outside 0..4"):
        nn.Embedding(5, 3)(mg.tensor(index).data if isinstance(index, np.ndarray) else index).numpy()
    assert mg.ones(3).sum().item() == 3.0  # and no condition is left behind


def test_freeze_survives_train():
    net = Net()
    net.blocks[0].freeze()
    net.train()
    assert net.training and net.blocks[1].bn.training and not net.blocks[0].bn.training
    before = net.state_dict()
    a, b = net(mg.random.normal(2, 1, 5, 5))
    (a.sum() + b.sum()).backward()
    after = net.state_dict()
    assert net.blocks[0].conv.weight.grad is None and net.blocks[1].conv.weight.grad is not None
    assert np.array_equal(before["blocks.0.bn.running_mean"].numpy(), after["blocks.0.bn.running_mean"].numpy())
    assert not np.array_equal(before["blocks.1.bn.running_mean"].numpy(), after["blocks.1.bn.running_mean"].numpy())


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("name", ["running_mean", "weight"])
def test_a_plain_tensor_cannot_take_the_place_of_a_buffer_or_parameter(name, history):
    """It would silently no longer be saved, loaded or learnt; and an attached one would keep every batch's tape."""
    model = nn.Sequential(nn.BatchNorm1d(2))
    list(model.named_modules())
    layer, value = model[0], mg.ones(2, requires_grad=history) * 3.0
    before, held = model.state_dict().keys(), getattr(layer, name)
    says = rf"BatchNorm1d: 0.{name} is a \w+, and a Tensor cannot take its place: {name}.update\(t\) overwrites its \w+"
    with pytest.raises(TypeError, match=says + (r"; this one has a history.*t.detach\(\)" if history else "$")):
        setattr(layer, name, value)
    assert getattr(layer, name) is held and model.state_dict().keys() == before
    with pytest.raises(TypeError, match=rf"0.{name} is a \w+, and a ndarray cannot take its place"):
        setattr(layer, name, np.zeros(2))
    setattr(layer, name, None)
    layer.note = value  # an attribute of its own may be any Tensor


def test_a_step_written_by_hand_moves_the_model():
    """`p -= ...` as in PyTorch; a new Tensor under the name p would leave the model as it was, without a word."""
    layer = nn.Linear(3, 2)
    before = layer.state_dict()
    layer(mg.ones(4, 3)).sum().backward()
    with mg.no_grad():
        for p in layer.parameters():
            p -= 0.25 * p.grad
    assert np.array_equal(layer.weight.numpy(), before["weight"].numpy() - 0.25 * layer.weight.grad.numpy())
    assert layer.bias.requires_grad and layer.bias.version == 1
    with pytest.raises(RuntimeError, match=r"update: the new value .* under mg.no_grad\(\)"):
        layer.bias *= 2.0
    counter = nn.Module()
    counter.seen = held = nn.Buffer(mg.zeros(2, dtype=int))
    counter.seen += mg.tensor([3, 4])
    assert counter.seen is held and held.tolist() == [3, 4]
    with pytest.raises(TypeError, match="float32 values do not fit into a int64 Buffer"):
        counter.seen /= 2


def test_unfreeze_gives_learning_and_names_back():
    net = Net()
    names = [name for name, _ in net.named_parameters()]
    net.freeze().unfreeze()
    assert [p.node.label for p in net.parameters()] == names
    assert all(p.requires_grad for p in net.parameters()) and all(m.training for m in net.modules())


def test_to_dtype_returns_the_module_and_keeps_buffers_of_half_precision_in_single():
    assert all(b.dtype != mg.float16 for b in Net().to_dtype("float16").buffers())
    net = Net().to_dtype(mg.float16)
    assert {p.dtype for p in net.parameters()} == {np.dtype("float16")}
    assert net.blocks[0].bn.running_var.dtype == np.float32 and net.blocks[0].bn.num_batches_tracked.dtype == np.int64
    assert Net().to_dtype(mg.float64).blocks[0].bn.running_var.dtype == np.float64
    a, _ = net(mg.zeros(2, 1, 4, 4, dtype=mg.float16))
    assert a.dtype == np.float16
    with pytest.raises(TypeError, match=r"to_dtype: .*int"):
        net.to_dtype(int)


# ---- state ------------------------------------------------------------------------------------------
def test_a_state_dict_is_a_copy():
    layer = nn.Linear(2, 2)
    state = layer.state_dict()
    layer.weight.update(mg.zeros(2, 2))
    assert np.any(state["weight"].numpy())


def wrong_states():
    good = Net().state_dict()
    yield "missing: scale", {k: v for k, v in good.items() if k != "scale"}
    yield "unexpected: extra", {**good, "extra": mg.ones(1)}
    yield r"misshapen: scale \(here \[1\], given \[2\]\)", {**good, "scale": mg.ones(2)}
    yield r"of another dtype .*: scale \(here float32, given float64\)", {**good, "scale": mg.ones(1, dtype=mg.float64)}
    yield r"not finite .*: scale", {**good, "scale": mg.full((1,), float("nan"))}
    yield r"not finite .*: count", {**good, "count": mg.full((1,), float("inf"))}


@pytest.mark.parametrize("number", range(6))
def test_a_wrong_state_is_refused_with_a_list_and_changes_nothing(number):
    says, state = list(wrong_states())[number]
    net = Net()
    before = net.state_dict()
    with pytest.raises(ValueError, match=says):
        net.load_state_dict(state)
    after = net.state_dict()
    assert all(np.array_equal(before[k].numpy(), after[k].numpy()) for k in before)


def test_everything_wrong_is_listed_at_once():
    state = Net().state_dict()
    del state["scale"]
    state["extra"], state["stem.weight"] = mg.ones(1), mg.ones(3)
    with pytest.raises(
        ValueError, match=r"(?s)does not fit this Net.*missing: scale.*unexpected: extra.*misshapen: stem"
    ):
        Net().load_state_dict(state)


def test_what_strict_and_nonfinite_let_pass():
    net = Net().load_state_dict({"scale": mg.full((1,), 3.0), "extra": mg.ones(1)}, strict=False)
    assert net.scale.item() == 3.0
    assert np.isnan(
        net.load_state_dict({"scale": mg.full((1,), float("nan"))}, False, allow_nonfinite=True).scale.item()
    )


# ---- copies -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_module_computes_the_same_and_learns_alone(copied):
    net = Net()
    list(net.named_parameters())
    net.stem.freeze()
    x = mg.random.normal(2, 1, 5, 5)
    net(x)[0].sum().backward()
    twin = copied(net)
    assert {n: v.tolist() for n, v in twin.state_dict().items()} == {n: v.tolist() for n, v in net.state_dict().items()}
    assert [p.label for p in twin.parameters()] == [p.label for p in net.parameters()]
    assert not twin.stem.weight.requires_grad and isinstance(twin.count, nn.Buffer)
    assert np.array_equal(twin.blocks[0].conv.weight.grad.numpy(), net.blocks[0].conv.weight.grad.numpy())
    before, gradient = net.state_dict(), net.scale.grad.numpy().copy()
    twin(x)[0].sum().backward()
    twin.scale.update(mg.zeros(1))
    assert net.scale.tolist() == before["scale"].tolist() and np.array_equal(net.scale.grad.numpy(), gradient)
    assert twin.blocks[0].bn.running_mean.tolist() != net.blocks[0].bn.running_mean.tolist()


def test_a_copied_module_keeps_its_weights_tied():
    twin = copy.deepcopy(tied())
    assert twin[0].weight is twin[1].weight


def test_a_result_is_not_copied_with_a_part_of_its_history():
    y = nn.Linear(2, 2)(mg.ones(1, 2))
    with pytest.raises(RuntimeError, match=r"detach"):
        copy.deepcopy(y)
    assert copy.deepcopy(y.detach()).tolist() == y.tolist()


# ---- looks ------------------------------------------------------------------------------------------
def test_repr_is_a_tree():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), nn.Linear(4, 2, bias=False)
    )
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n"
        "  (1): Sequential(\n"
        "    (0): ReLU()\n"
        "    (1): MaxPool2d((2, 2), stride=(2, 2), padding=(0, 0))\n"
        "  )\n"
        "  (2): Linear(4, 2, bias=False)\n"
        ")"
    )


def test_repr_shows_what_is_not_usual():
    shown = {
        nn.MaxPool2d(3, dilation=2): "MaxPool2d((3, 3), stride=(3, 3), padding=(0, 0), dilation=(2, 2))",
        nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False): (
            "AvgPool2d((2, 2), stride=(2, 2), padding=(0, 0), ceil_mode=True, count_include_pad=False)"
        ),
        nn.LayerNorm(3, bias=False): "LayerNorm((3,), eps=1e-05, bias=False)",
        nn.LayerNorm(3, elementwise_affine=False): "LayerNorm((3,), eps=1e-05, elementwise_affine=False)",
        nn.GroupNorm(1, 3, affine=False): "GroupNorm(1, 3, eps=1e-05, affine=False)",
        nn.BatchNorm1d(3, affine=False): "BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=False)",
        nn.Conv1d(1, 2, 3, bias=False): "Conv1d(1, 2, kernel_size=(3,), stride=(1,), bias=False)",
        nn.GELU(): "GELU()",
        nn.GELU("tanh"): "GELU(approximate='tanh')",
        nn.Softmax(1): "Softmax(axis=1)",
        nn.LogSoftmax(): "LogSoftmax(axis=-1)",
        nn.Flatten(): "Flatten(start_axis=1)",
        nn.MSELoss(): "MSELoss()",
        nn.MSELoss("sum"): "MSELoss(reduction='sum')",
        nn.HuberLoss(delta=0.5): "HuberLoss(delta=0.5)",
        nn.CrossEntropyLoss([1.0, 2.0], -1, label_smoothing=0.1): (
            "CrossEntropyLoss(weight of shape [2], ignore_index=-1, label_smoothing=0.1)"
        ),
    }
    assert [repr(layer) for layer in shown] == list(shown.values())


class Shared(nn.Module):
    """A layer called twice, a weight tied to another, a Parameter of its own, and a layer that is never called."""

    def __init__(self):
        self.scale = nn.Parameter(mg.ones(3))
        self.twice, self.tied, self.never = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.tied.weight = self.twice.weight

    def forward(self, x):
        return self.tied(self.twice(self.twice(x))) * self.scale


@pytest.mark.parametrize("model", [Shared(), nn.Sequential(Shared(), nn.ReLU()), nn.Linear(3, 2)])
def test_the_lines_of_a_summary_add_up_to_its_total(model):
    *lines, total = (line.split()[-2:] for line in nn.summary(model, (2, 3)).splitlines() if line[-1].isdigit())
    assert [sum(map(int, column)) for column in zip(*lines)] == list(map(int, total))
    assert int(total[0]) == sum(p.size for p in model.parameters())


def test_the_shape_for_a_summary_is_a_tuple():
    with pytest.raises(TypeError, match="summary: input_shape is a tuple of lengths, the batch first, not 3"):
        nn.summary(nn.Linear(3, 2), 3)


def test_summary_counts_and_leaves_the_model_as_it_was():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
    net[1].freeze()
    before = net.state_dict()
    text = nn.summary(net, (2, 1, 8, 8))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "output", "parameters", "buffers"]
    assert lines[2].split() == ["0", "Conv2d", "[2,", "4,", "6,", "6]", "40", "0"]
    assert lines[3].split()[-2:] == ["8", "9"]
    assert lines[-1].split() == ["total", "1,498", "9"]
    assert net.training and not net[1].training
    assert all(module.training for module in net.freeze().unfreeze().modules())
    assert all(np.array_equal(v.numpy(), before[k].numpy()) for k, v in net.state_dict().items())


def test_containers():
    model = nn.Sequential(nn.Linear(2, 3), nn.Lambda(mg.tanh), nn.Identity())
    assert len(model) == 3 and isinstance(model[1:], nn.Sequential) and model[0] is next(iter(model))
    assert model(mg.ones(1, 2)).shape == (1, 3)
    many = nn.ModuleList([nn.Linear(2, 2)]).append(nn.Linear(2, 2))
    assert len(many) == 2 and list(many.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_softmax_layers_and_embedding_and_dropout_show_their_settings():
    assert repr(nn.Embedding(3, 4)) == "Embedding(3, 4)" and repr(nn.Dropout(0.2)) == "Dropout(p=0.2)"


# ---- bad input --------------------------------------------------------------------------------------
NAN = float("nan")


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: nn.Linear(0, 3), "Linear: in_features must be at least 1, not 0"),
        (lambda: nn.Linear(3, 2.5), "Linear: out_features must be a whole number, not 2.5"),
        (lambda: nn.Conv2d(3, 4, 0), "Conv2d kernel_size: needs one integer >= 1"),
        (lambda: nn.Conv2d(3, 4, 3, stride=0), "Conv2d stride: needs one integer >= 1"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), "Conv2d padding: needs one integer >= 0"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), "Conv2d: padding is .* not 'full'"),
        (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), "Conv2d: padding='same' needs stride 1"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "Conv2d: 3 and 4 channels do not divide into 2 groups"),
        (lambda: nn.Conv1d(3, 4, (3, 3)), "Conv1d kernel_size: needs one integer"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, padding="same"), "ConvTranspose2d: padding is a number"),
        (lambda: nn.MaxPool2d(2, padding=2), "MaxPool2d: padding .* at most half"),
        (lambda: nn.AvgPool2d(0), "AvgPool2d kernel_size: needs one integer >= 1"),
        (lambda: nn.AdaptiveAvgPool2d(0), "AdaptiveAvgPool2d output_size"),
        (lambda: nn.Dropout(NAN), "Dropout: .*not nan"),
        (lambda: nn.LeakyReLU(NAN), "LeakyReLU: negative_slope must be finite, not nan"),
        (lambda: nn.ELU(NAN), "ELU: alpha must be finite, not nan"),
        (lambda: nn.GELU("fast"), "GELU: approximate is 'none' or 'tanh', not 'fast'"),
        (lambda: nn.BatchNorm2d(0), "BatchNorm2d: num_features must be at least 1, not 0"),
        (lambda: nn.BatchNorm2d(3, eps=NAN), "BatchNorm2d: eps must be finite and not negative, not nan"),
        (lambda: nn.BatchNorm2d(3, momentum=NAN), "BatchNorm2d: momentum must be in \\[0, 1\\], not nan"),
        (lambda: nn.LayerNorm(0), "LayerNorm: normalized_shape"),
        (lambda: nn.LayerNorm(3, eps=-1.0), "LayerNorm: eps must be finite and not negative, not -1"),
        (lambda: nn.GroupNorm(2, 3), "GroupNorm: 3 channels do not divide into 2 groups"),
        (lambda: nn.GroupNorm(0, 3), "GroupNorm: num_groups must be at least 1, not 0"),
        (lambda: nn.Embedding(0, 3), "Embedding: num_embeddings must be at least 1"),
        (lambda: nn.Linear(True, 3), "Linear: in_features must be a whole number, not True"),
        (lambda: nn.LayerNorm(()), "LayerNorm: normalized_shape must have at least one axis"),
        (lambda: nn.BatchNorm1d(3, momentum="x"), "BatchNorm1d: momentum must be a number, not 'x'"),
        (lambda: nn.BatchNorm1d(3, eps="a"), "BatchNorm1d: eps must be a number, not 'a'"),
        (lambda: nn.Dropout("a"), "Dropout: p must be a number, not 'a'"),
        (lambda: nn.ModuleList([nn.ReLU(), 2]), "ModuleList: entry 1 is a int, not a Module"),
        (lambda: nn.Parameter(mg.ones(2, requires_grad=True) * 2), r"Parameter: .*multiply.*pass t.detach\(\)"),
        (lambda: nn.Sequential(mg.relu), r"Sequential: layer 0 is a function, not a Module; .*nn.Lambda"),
        (lambda: nn.Buffer(nn.Linear(2, 2).weight), "Buffer: .*history"),
        (lambda: nn.Identity().train("eval"), "Identity: training must be True or False, not 'eval'"),
        (lambda: nn.Parameter(mg.tensor([1, 2])), "Parameter: only floating dtypes have gradients, not int64"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_when_the_layer_is_made(make, says):
    with pytest.raises((ValueError, TypeError, RuntimeError), match=says):
        make()


@pytest.mark.parametrize(
    "layer, x, says",
    [
        (nn.Linear(3, 2), mg.ones(4, 5), r"linear: the weight \[2, 3\] needs 3 features.*\[4, 5\]"),
        (nn.Linear(3, 2), mg.ones(4, 3, dtype=mg.float64), r"different floating dtypes"),
        (nn.Conv2d(3, 4, 3), mg.ones(2, 1, 5, 5), r"conv.*\[4, 3, 3, 3\].*\[2, 1, 5, 5\]"),
        (nn.Conv2d(3, 4, 3), mg.ones(3, 5, 5), r"conv2d: needs 4 axes .*\[3, 5, 5\]"),
        (nn.Conv2d(3, 4, 7), mg.ones(1, 3, 5, 5), r"window of \[7, 7\].*\[5, 5\]"),
        (nn.BatchNorm2d(3), mg.ones(2, 4, 5, 5), r"needs 4 axes and 3 channels in axis 1.*\[2, 4, 5, 5\]"),
        (nn.BatchNorm1d(3), mg.ones(2, 3, 5, 5), r"needs 2 or 3 axes"),
        (nn.LayerNorm(4), mg.ones(2, 3), r"layer_norm: the last axes of \[2, 3\] are not \[4\]"),
        (nn.GroupNorm(2, 4), mg.ones(2, 3, 5), r"needs 4 channels.*\[2, 3, 5\]"),
        (nn.Embedding(3, 2), mg.tensor([3.0]), r"indices are integers, not float32"),
        (nn.MaxPool2d(2), mg.ones(2, 2), r"max_pool2d: needs 4 axes"),
        (nn.Softmax(2), mg.ones(2, 2), r"axis"),
        (nn.ModuleList(), mg.ones(2), r"ModuleList: it only holds modules"),
    ],
)
def test_bad_input_is_refused_with_the_path_of_the_layer(layer, x, says):
    model = nn.Sequential(nn.Identity(), nn.Sequential(layer))
    list(model.modules())
    with pytest.raises(
        (ValueError, TypeError, IndexError, NotImplementedError),
        match=f"(?s){says}.*in the layer '1.0': {type(layer).__name__}",
    ):
        model(x)


def test_numpys_integers_are_sizes():
    three, one = np.int64(3), np.int64(1)
    for make in (
        lambda n: nn.Linear(n, n), lambda n: nn.Conv2d(n, n, n, groups=n), lambda n: nn.BatchNorm1d(n),
        lambda n: nn.Embedding(n, n), lambda n: nn.LayerNorm(n), lambda n: nn.LayerNorm((n, n)),
        lambda n: nn.GroupNorm(n, n),
    ):  # fmt: skip
        assert repr(make(three)) == repr(make(3))
    x, w = mg.ones(1, 3, 4, 4), mg.ones(3, 3, 2, 2)
    assert mg.functional.conv2d(x, w, groups=one).shape == (1, 3, 3, 3)


@pytest.mark.parametrize(
    "update, says",
    [
        (lambda layer: layer.num_batches_tracked.update(mg.tensor(1.7)), "float32 values do not fit into a int64"),
        (lambda layer: layer.num_batches_tracked.update(mg.tensor(NAN)), "float32 values do not fit into a int64"),
        (lambda layer: layer.load_state_dict(None), "load_state_dict: needs a dict of arrays, not a NoneType; mg.load"),
        (lambda layer: layer.load_state_dict("weights.safetensors"), "load_state_dict: needs a dict of arrays, .* str"),
        (lambda layer: layer.to_dtype("foo"), "to_dtype: Parameters are floating.*not foo"),
        (lambda layer: layer.to_dtype(None), "to_dtype: Parameters are floating.*not None"),
        (lambda layer: mg.fused.fuse(3), "fuse: needs a Module, not a int"),
        (lambda layer: mg.capture(3), "capture: needs a function of Tensors, not a int"),
    ],
)  # fmt: skip
def test_what_would_be_cast_or_is_of_another_type_is_refused(update, says):
    with pytest.raises(TypeError, match=says):
        update(nn.BatchNorm1d(3))


def test_a_momentum_of_the_other_convention_is_pointed_out():
    with pytest.warns(UserWarning, match=r"momentum=0.9 is the weight of the NEW value.*call this 0.1") as warned:
        nn.BatchNorm1d(3, momentum=0.9)
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.BatchNorm1d(3, momentum=1.0), nn.BatchNorm1d(3, momentum=0.5), nn.BatchNorm1d(3, momentum=None)


# ---- initialisation ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name, std, bounded",
    [
        ("kaiming_normal", np.sqrt(2 / 72), False),
        ("kaiming_uniform", np.sqrt(2 / 72), True),
        ("xavier_normal", np.sqrt(2 / (72 + 576)), False),
        ("xavier_uniform", np.sqrt(2 / (72 + 576)), True),
    ],
)
def test_initial_weights_have_the_spread_of_their_papers(name, std, bounded):
    mg.random.seed(0)
    w = getattr(mg.init, name)((64, 8, 3, 3))  # fan_in 72, fan_out 576
    assert w.dtype == np.float32 and w.shape == (64, 8, 3, 3)
    assert abs(w.numpy().std() / std - 1) < 0.03 and abs(w.numpy().mean()) < 0.1 * std
    assert (np.abs(w.numpy()).max() <= std * np.sqrt(3)) == bounded


def test_the_same_seed_draws_the_same_layer():
    draws = []
    for _ in range(2):
        mg.random.seed(7)
        draws.append(nn.Conv2d(2, 3, 3).weight.tolist())
    assert draws[0] == draws[1]


def test_a_weight_of_one_axis_has_no_fans():
    with pytest.raises(ValueError, match=r"fans: a weight has at least two axes, not shape \[3\]"):
        mg.init.kaiming_normal((3,))


@pytest.mark.parametrize("name", ["path", "_name", "_title", "_walk", "_every", "_named", "name", "title"])
def test_a_submodule_may_have_any_ordinary_name(name):
    class Model(nn.Module):
        def __init__(self):
            setattr(self, name, nn.Linear(3, 3))

        def forward(self, x):
            return getattr(self, name)(x)

    model = Model()
    assert list(model.state_dict()) == [f"{name}.weight", f"{name}.bias"]
    assert model(mg.ones(1, 3)).shape == (1, 3)
    assert [n for n, _ in model.named_parameters()] == list(model.state_dict()) and getattr(model, name).path == name


@pytest.mark.parametrize("name", ["training", "frozen"])
def test_a_mode_is_no_place_for_a_module(name):
    class Model(nn.Module):
        def __init__(self):
            setattr(self, name, nn.Linear(3, 3))

    with pytest.raises(TypeError, match=f"{name} tells whether .* give the Linear another name"):
        Model()
