"""The same program on every backend, proved without a GPU: on a stand-in that refuses what CuPy refuses.

First the stand-in itself; then rows, layers, optimizers, checker and examples on it, whose numbers are
NumPy's (it computes with NumPy, so they are equal to the bit); then what crosses between host and
device; then what goes wrong: no CuPy, no driver, no memory, arrays of two libraries.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from benchmarks import gpu, gpu_worker
from minigrad import backend, data, nn, optim
from minigrad import functional as F
from minigrad.backend import xp
from minigrad.generator import generator
from models.cnn import CNN
from tests import standin
from tests.samples import SAMPLES
from tests.standin import DeviceArray, transfers


@pytest.fixture
def device() -> Iterator[None]:
    """The stand-in as the backend, and nothing pending from before."""
    with mg.using("standin"):
        transfers.reset()
        yield
        backend.pending.clear()


def on_both(compute: Callable[[], Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The Tensors that `compute` returns, on NumPy and on the stand-in, as NumPy arrays."""
    results = []
    for name in ("numpy", "standin"):
        with mg.using(name):
            mg.random.seed(7)
            found = [t for t in compute() if t is not None]
            assert all(isinstance(t.data, xp.ndarray) for t in found)
            results.append([t.numpy() for t in found])
    return results[0], results[1]


def assert_same(compute: Callable[[], Any]) -> None:
    host, device = on_both(compute)
    assert len(host) == len(device) > 0
    for a, b in zip(host, device, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


# ---- the stand-in is as strict as CuPy ---------------------------------------------------------------
REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "a NumPy array as an operand": lambda x, i: x + np.ones(3, np.float32),
    "a NumPy array as the left operand": lambda x, i: np.ones(3, np.float32) + x,
    "a strong scalar": lambda x, i: x * np.float64(2),
    "a strong scalar on the left": lambda x, i: np.float64(2) * x,
    "a list as an operand": lambda x, i: x * [1.0, 2.0, 3.0],
    "NumPy's ufunc": lambda x, i: np.exp(x),
    "NumPy's function": lambda x, i: np.concatenate([x, x]),
    "conversion": lambda x, i: np.asarray(x),
    "a list for a function of arrays": lambda x, i: xp.sum([1.0, 2.0]),
    "a NumPy array for a ufunc": lambda x, i: xp.exp(np.ones(3)),
    "a NumPy array as out": lambda x, i: xp.add(x, x, out=np.empty(3, np.float32)),
    "a NumPy array to copy from": lambda x, i: xp.copyto(x, np.ones(3, np.float32)),
    "a NumPy mask to copy by": lambda x, i: xp.copyto(x, 0, where=np.ones(3, bool)),
    "a wider array to copy from": lambda x, i: xp.copyto(i, x),
    "a NumPy array to assign": lambda x, i: x.__setitem__(0, np.ones(())),
    "a NumPy array in an index": lambda x, i: x[np.array([0])],
    "a list in an index": lambda x, i: x[[0, 1]],
    "an integer out of range": lambda x, i: x[3],
    "where on a Python truth value": lambda x, i: xp.where(True, x, x),
    "a ufunc's where": lambda x, i: xp.add(x, x, where=x > 0),
    "a maximum's initial": lambda x, i: x.max(initial=0.0),
    "a maximum's where": lambda x, i: x.max(where=x > 0),
    "a sum's where": lambda x, i: xp.sum(x, where=x > 0),
    "an unstable sort": lambda x, i: xp.argsort(x, kind="quicksort"),
    "einsum into an array": lambda x, i: xp.einsum("i->i", x, out=x),
    "objects": lambda x, i: xp.asarray([object()]),
    "text": lambda x, i: xp.asarray(["a"]),
    "ragged lists": lambda x, i: xp.asarray([[1.0], [2.0, 3.0]]),
    "a list of arrays": lambda x, i: xp.asarray([x, x]),
    "adding up int64": lambda x, i: xp.add.at(i.astype(np.int64), i, i),
    "adding up complex numbers": lambda x, i: xp.add.at(x.astype(np.complex64), i, x),
    "multiply.at": lambda x, i: xp.multiply.at(x, i, x),
    "a name that CuPy lacks": lambda x, i: xp.setbufsize(8),
    "a method that CuPy lacks": lambda x, i: x.newbyteorder(),
    "an array as an index of a list": lambda x, i: [1, 2, 3][i[0]],
    "a hash": lambda x, i: hash(x),
    "an array as a number of elements": lambda x, i: xp.arange(i[1]),
    "an array as a shape": lambda x, i: xp.zeros(i[1]),
    "an array in a shape": lambda x, i: x.reshape(i[1], 3),
    "an array as an axis": lambda x, i: x.sum(axis=i[0]),
    "an array as a count of repeats": lambda x, i: xp.repeat(x, i[1]),
    "an array as a shift": lambda x, i: xp.roll(x, i[1]),
    "an array as a padding": lambda x, i: xp.pad(x, (0, i[1])),
    "an array as a number of parts": lambda x, i: xp.split(x, i[1]),
    "a list to concatenate": lambda x, i: xp.concatenate([x, [1.0]]),
    "numbers to stack": lambda x, i: xp.stack([1.0, 2.0]),
    "a list to choose from": lambda x, i: xp.where(x > 0, [1.0, 2.0, 3.0], x),
    "logic of complex numbers": lambda x, i: xp.logical_and(x, x.astype(np.complex64)),
    "comparing with a list": lambda x, i: x == [1.0, 2.0, 3.0],
    "comparing with text": lambda x, i: x != "a",
    "the largest halves at indices": lambda x, i: xp.maximum.at(x.astype(np.float16), i, x),
    "a mask along an axis": lambda x, i: xp.take_along_axis(x, x > 1, 0),
    "bounds in a list": lambda x, i: xp.clip(x, [0.0, 1.0, 2.0], 3.0),
    "no bound for truth values": lambda x, i: (x > 1).clip(None, 1),
    "bounds of complex numbers": lambda x, i: xp.clip(x.astype(np.complex64), 0, 1),
    "a list to fill with": lambda x, i: xp.full_like(x, [1.0, 2.0, 3.0]),
    "nothing to fill with": lambda x, i: x.fill(None),
    "a lock": lambda x, i: setattr(x.flags, "writeable", False),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_standin_refuses(what: str, device: None) -> None:
    x, i = xp.asarray([1.0, 2.0, 3.0], np.float32), xp.asarray([0, 1, 2])
    with pytest.raises((TypeError, ValueError, IndexError, AttributeError, NotImplementedError)):
        REFUSED[what](x, i)
    assert transfers.count == 0


WAITS: dict[str, Callable[[Any], Any]] = {
    "float": float, "int": int, "bool": lambda x: bool(x > 0), "item": lambda x: x.item(), "get": lambda x: x.get(),
    "tolist": lambda x: x.tolist(), "repr": repr, "str": str, "format": lambda x: f"{x:.2f}",
    "an if": lambda x: 1 if x > 0 else 2, "to_numpy": backend.to_numpy, "unique": lambda x: xp.unique(x),
    "a mask": lambda x: x.reshape(1)[x.reshape(1) > 0], "where with one argument": lambda x: xp.where(x.reshape(1) > 0),
    "assigning by a mask": lambda x: x.reshape(1).__setitem__(x.reshape(1) > 0, 1.0),
    "nonzero": lambda x: xp.nonzero(x.reshape(1)), "tobytes": lambda x: x.tobytes(), "dumps": lambda x: x.dumps(),
}  # fmt: skip


@pytest.mark.parametrize("what", WAITS)
def test_every_way_to_the_host_is_counted(what: str, device: None) -> None:
    x = xp.asarray(1.5, np.float32)
    WAITS[what](x)
    assert transfers.count == 1
    assert "test_backends.py" in transfers.log[0] or "backend.py" in transfers.log[0]


def test_results_stay_on_the_device(device: None) -> None:
    x = xp.asarray([[1.0, 5.0, 5.0]], np.float32)
    results = (x.sum(), x[0, 1], x.max(), xp.argmax(x), x > 2, xp.array_equal(x, x), x.mean(axis=0))
    for y in (*results, xp.asarray(np.float32(2))):
        assert isinstance(y, DeviceArray)
    assert x.sum().shape == () and x.dtype == np.float32
    assert transfers.count == 0


def test_integers_out_of_range_wrap_around_as_in_cupy(device: None) -> None:
    x = xp.asarray([10.0, 11.0, 12.0])
    assert x[xp.asarray([3, -4, 7])].tolist() == [10.0, 12.0, 11.0]
    assert xp.take(x, xp.asarray([4])).tolist() == [11.0]
    xp.add.at(x, xp.asarray([3, 3]), xp.asarray([1.0, 1.0]))
    assert x.tolist() == [12.0, 11.0, 12.0]
    x[xp.asarray([5])] = 0.0
    assert x.tolist() == [12.0, 11.0, 0.0]


def test_views_know_the_owner_of_their_memory_except_strided_ones(device: None) -> None:
    x = xp.zeros((2, 3))
    for view in (x[0], x.T, x.reshape(6), x.view(), xp.broadcast_to(x, (4, 2, 3)), x[0].reshape(3, 1)):
        assert view.base is x
    assert x.copy().base is None and (x + 1).base is None
    assert xp.lib.stride_tricks.as_strided(x, (2,), (8,)).base is None
    assert mg.ops.windows(mg.ones(1, 1, 4, 4), (2, 2)).data.base is not None


def test_in_place_operators_and_out_return_the_array_itself(device: None) -> None:
    x = xp.ones(3, np.float32)
    before = x
    x += 1
    x *= x
    assert x is before and xp.exp(x, out=x) is before and xp.add(x, x, x) is before
    assert x.astype(np.float32, copy=False) is x and xp.asarray(x) is x
    a = xp.ones((2, 2, 2), np.float32)
    out = xp.empty((4, 2, 2), np.float32)
    xp.matmul(a, a, out=out[::2])
    assert out[::2].tolist() == [[[2.0, 2.0]] * 2] * 2


# ---- rows, layers, losses, optimizers: NumPy's numbers -------------------------------------------------
@pytest.mark.parametrize("sample", SAMPLES, ids=[f"{i}-{s}" for i, s in enumerate(SAMPLES)])
def test_an_op_and_its_gradient(sample: Any) -> None:
    def compute() -> list[mg.Tensor]:
        xs = [mg.tensor(a, requires_grad=a.dtype.kind == "f") for a in sample.arrays]
        y = sample.call(*xs)
        outputs = list(y) if isinstance(y, (tuple, list)) else [y]
        leaves = [x for x in xs if x.requires_grad]
        gradients = []
        for out in outputs:
            if isinstance(out, mg.Tensor) and out.requires_grad:
                gradients += mg.grad(out, leaves, mg.random.normal(out.shape, dtype=out.dtype), retain_graph=True)
        before = transfers.count
        found = [out for out in outputs if isinstance(out, mg.Tensor)] + gradients
        assert transfers.count == before
        return found

    assert_same(compute)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(5, 3), (4, 5)),
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1), (2, 2, 7)),
    "Conv2d": (lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2), (2, 2, 5, 5)),
    "Conv2d strided": (lambda: nn.Conv2d(2, 4, (3, 2), stride=2, dilation=(1, 2)), (2, 2, 7, 6)),
    "Conv2d same": (lambda: nn.Conv2d(1, 2, 4, padding="same"), (2, 1, 5, 6)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 2, 3, 4)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (2, 2, 6, 4)),
    "MaxPool2d padded": (lambda: nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), (2, 2, 6, 5)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (2, 2, 6, 5)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 2, 5, 4)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (5, 3)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (2, 3, 4, 4)),
    "BatchNorm2d evaluated": (lambda: nn.BatchNorm2d(3).eval(), (2, 3, 4, 4)),
    "BatchNorm2d without affine": (lambda: nn.BatchNorm2d(3, affine=False, track_running_stats=False), (2, 3, 4, 4)),
    "LayerNorm": (lambda: nn.LayerNorm(5), (4, 5)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 3, 3)),
    "Dropout": (lambda: nn.Dropout(0.4), (4, 5)),
    "Flatten": (lambda: nn.Flatten(), (2, 3, 4)),
    "Identity": (lambda: nn.Identity(), (2, 3)),
    **{
        name: (getattr(nn, name), (3, 4))
        for name in ("ReLU", "LeakyReLU", "ELU", "SiLU", "GELU", "Sigmoid", "Tanh", "Softplus", "Softmax", "LogSoftmax")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_its_gradients_and_its_memory(name: str) -> None:
    make, shape = LAYERS[name]

    def compute() -> list[Any]:
        layer, x = make(), mg.random.normal(shape, requires_grad=True)
        before = transfers.count
        y = layer(x)
        y.backward(mg.random.normal(y.shape))
        assert transfers.count == before
        return [y, x.grad, *(p.grad for p in layer.parameters()), *layer.state_dict().values()]

    assert_same(compute)


def test_every_layer_is_in_the_list() -> None:
    elsewhere = {"Embedding", "Lambda", "Module", "ModuleList", "Sequential"}
    layers = {n for n in nn.__all__ if isinstance(getattr(nn, n), type) and issubclass(getattr(nn, n), nn.Module)}
    layers = {n for n in layers if not n.endswith("Loss")}
    assert layers - {name.split()[0] for name in LAYERS} <= elsewhere


def test_an_embedding_and_its_gradient() -> None:
    def compute() -> list[Any]:
        layer = nn.Embedding(4, 3)
        layer(mg.tensor([[0, 2], [2, 2]])).sum().backward()
        return [layer.weight, layer.weight.grad]

    assert_same(compute)


LOSSES: dict[str, Callable[[mg.Tensor], mg.Tensor]] = {
    "cross_entropy": lambda x: F.cross_entropy(x, mg.tensor([0, 2, -100, 1])),
    "cross_entropy weighted": lambda x: F.cross_entropy(
        x, mg.tensor([0, 2, 1, 1]), mg.tensor([0.5, 1.0, 2.0]), label_smoothing=0.1
    ),
    "cross_entropy of probabilities": lambda x: F.cross_entropy(x, mg.softmax(mg.random.normal(4, 3), 1)),
    "nll_loss": lambda x: F.nll_loss(mg.log_softmax(x, 1), mg.tensor([0, 2, 1, 1])),
    "bce_with_logits": lambda x: F.bce_with_logits(x, mg.random.uniform(4, 3), pos_weight=mg.tensor([1.0, 2.0, 3.0])),
    "mse_loss": lambda x: F.mse_loss(x, mg.random.normal(4, 3)),
    "l1_loss": lambda x: F.l1_loss(x, mg.random.normal(4, 3)),
    "huber_loss": lambda x: F.huber_loss(x, mg.random.normal(4, 3), 0.5),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_asks_nothing_of_the_device(name: str) -> None:
    def compute() -> list[Any]:
        x = mg.random.normal(4, 3, requires_grad=True)
        before = transfers.count
        loss = LOSSES[name](x)
        loss.backward()
        assert transfers.count == before
        return [loss, x.grad]

    assert_same(compute)


OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda ps: optim.SGD(ps, 0.1),
    "SGD nesterov": lambda ps: optim.SGD(ps, 0.1, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "Adagrad": lambda ps: optim.Adagrad(ps, 0.1, lr_decay=0.1, initial_accumulator_value=0.1),
    "RMSprop": lambda ps: optim.RMSprop(ps, 0.01, momentum=0.9, centered=True),
    "Adam": lambda ps: optim.Adam(ps, 0.01, weight_decay=1e-2, amsgrad=True),
    "AdamW": lambda ps: optim.AdamW(ps, 0.01, maximize=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_with_clipping_and_a_schedule_asks_nothing_of_the_device(name: str) -> None:
    def compute() -> list[Any]:
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
        optimizer = OPTIMIZERS[name](model.named_parameters())
        schedule = optim.WarmupLR(optimizer, 2, optim.CosineLR(optimizer, 4))
        x = mg.random.normal(6, 4)
        before = transfers.count
        for _ in range(4):
            optimizer.zero_grad()
            mg.square(model(x)).mean().backward()
            norm = optim.clip_grad_norm(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
        assert transfers.count == before
        return [norm, *model.parameters(), *map(mg.Tensor, optimizer.state_dict()["state"].values())]

    assert_same(compute)


def test_state_moves_between_backends_through_files(tmp_path: Any) -> None:
    make = lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with mg.using("standin"):
        there = make()
        mg.save(there, tmp_path / "weights.safetensors")
        values = [v.numpy() for v in there.state_dict().values()]
    here = make().load_state_dict(mg.load(tmp_path / "weights.safetensors"))
    for a, b in zip(values, here.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b.numpy())


# ---- a training step -----------------------------------------------------------------------------------
IMAGES = np.random.default_rng(3).integers(0, 256, (24, 1, 28, 28)).astype(np.uint8)
LABELS = (np.arange(24) % 10).astype(np.int64)


def train(steps: int, extra: Callable[[mg.Tensor], Any] = lambda loss: None) -> tuple[nn.Module, list[mg.Tensor]]:
    """Some steps of the small CNN with all that training may use; `extra` sees each loss."""
    model = nn.Sequential(CNN(), nn.BatchNorm1d(10, momentum=0.3), nn.Dropout(0.2))
    optimizer = optim.AdamW(optim.decay_groups(model, 1e-2), 1e-3)
    schedule = optim.OneCycleLR(optimizer, 1e-2, steps)
    batches = data.Batches(IMAGES, LABELS, 8, seed=5, augment=data.Augment(shift=2, rotate=5), normalise=(0.5, 0.25))
    losses: list[mg.Tensor] = []
    for (x, y), _ in zip(batches, range(steps), strict=False):
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        extra(loss)
        losses.append(loss.detach())
    return model, losses


def test_three_steps_of_the_small_cnn_are_numpys_to_rounding() -> None:
    def compute() -> list[Any]:
        model, losses = CNN(), []
        optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
        for (x, y), _ in zip(data.Batches(IMAGES, LABELS, 8, seed=5), range(3), strict=True):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return [*losses, *model.state_dict().values()]

    host, device = on_both(compute)
    for a, b in zip(host, device, strict=True):  # a convolution on the host adds up in other blocks
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_training_step_brings_nothing_to_the_host(device: None) -> None:
    with mg.transfers(limit=0) as crossed:
        model, _ = train(2)
    assert (transfers.count, transfers.log) == (0, [])
    assert crossed.to_host == 0
    assert crossed.to_device >= 6 + len(list(model.parameters())) / 2  # batches, masks of dropout, drawn weights


PLANTED = [float, bool, repr, lambda t: t.item(), lambda t: t.numpy(), lambda t: t.data.get()]


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_transfer_is_caught(planted: Callable[[Any], Any], device: None) -> None:
    train(1, extra=planted)
    assert transfers.count >= 1


def test_a_forbidden_transfer_names_itself(device: None) -> None:
    message = r"a float32 \[\] array crosses to the host, 2 where .* allows 1"
    with mg.transfers(limit=1), pytest.raises(RuntimeError, match=message):
        train(2, extra=lambda loss: loss.item())
    assert backend._watching == []


@pytest.mark.parametrize("look", [str, repr, "{}".format, "{:.3f}".format, float, bool, int, lambda t: t.tolist()])
def test_every_look_at_a_loss_is_counted_as_it_crosses(look: Callable[[Any], Any], device: None) -> None:
    loss = mg.ones(3).sum()
    with mg.transfers() as crossed, contextlib.suppress(TypeError):  # a Tensor may know no format
        look(loss)
    assert crossed.to_host == transfers.count
    with mg.transfers(limit=0), pytest.raises((RuntimeError, TypeError), match=r"crosses to the host|__format__"):
        look(loss)


def test_on_the_host_nothing_crosses() -> None:
    with mg.using("numpy"), mg.transfers(limit=0) as crossed:
        mg.tensor(np.ones(3)).sum().item()
    assert (crossed.to_host, crossed.to_device) == (0, 0)


def test_batchnorm_that_averages_all_batches_asks_nothing_of_the_device() -> None:
    def compute() -> list[Any]:
        layer = nn.BatchNorm1d(3, momentum=None)
        before = transfers.count
        for _ in range(3):
            layer(mg.random.normal(4, 3))
        assert transfers.count == before
        return list(layer.state_dict().values())

    assert_same(compute)


def test_a_seed_gives_the_same_weights_and_batches_on_every_backend() -> None:
    def compute() -> list[Any]:
        found = [*CNN().state_dict().values(), mg.random.permutation(9), mg.random.bernoulli(0.3, 4, 5)]
        for x, y in data.Batches(IMAGES, LABELS, 7, seed=2, augment=data.Augment(shift=1, scale=0.1)):
            found += [x, y]
        return found

    assert_same(compute)


# ---- checker, views, examples ----------------------------------------------------------------------------
def test_the_checker_runs_on_the_device_and_still_fails_a_wrong_derivative(device: None) -> None:
    x = np.random.default_rng(0).normal(size=(3, 2))
    assert mg.gradcheck(lambda t: (mg.tanh(t) * t).sum(), [x], order=2)
    wrong = mg.primitive(lambda t: xp.tanh(t), lambda g, y: g * (1 - y), name="wrong")
    assert not mg.gradcheck(lambda t: wrong(t).sum(), [x])


def test_derivatives_of_higher_order() -> None:
    def compute() -> list[Any]:
        x = mg.random.normal(3)
        f = lambda t: (mg.exp(t) * mg.sin(t)).sum()
        pairs = lambda t: mg.outer(t, t).reshape(-1)
        return [mg.hessian(f, x), mg.hvp(f, x, mg.ones(3)), mg.jacobian(pairs, x), *mg.jvp(f, x, x)]

    assert_same(compute)


def test_a_tape_can_be_printed(device: None) -> None:
    x = mg.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    y = F.batch_norm(x, mg.ones(2), mg.zeros(2))[0]
    assert "mean" in str(mg.Tape(y)) and "tensor" in repr(y)
    paths = mg.Tape(y).paths(x, cotangent=mg.ones(2, 2))
    assert all(str(path) for path in paths)


def test_the_main_job_trains_on_the_device(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from examples.mnist import command, pictures

    small = data.Dataset("few", IMAGES, LABELS, IMAGES, LABELS, tuple("0123456789"), "random numbers")
    monkeypatch.setattr(command, "load", lambda *arguments: small)
    monkeypatch.setattr(pictures, "draw", lambda *arguments: None)
    printed = {}
    for name in ("numpy", "standin"):
        with mg.using(name):
            out = tmp_path / name
            status = command.main(["--model", "mlp-bn", "--epochs", "1", "--batch-size", "8", "--out", str(out)])
            assert status == 0, capsys.readouterr()
            printed[name] = capsys.readouterr()
    assert printed["numpy"].out.splitlines()[-1] == printed["standin"].out.splitlines()[-1]
    assert not printed["numpy"].err
    assert "without a CUDA graph: the backend is 'standin', which has no CUDA graphs" in printed["standin"].err


# ---- what goes wrong ---------------------------------------------------------------------------------------
MEETINGS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda d, h: d + h,
    "multiply": lambda d, h: h * d,
    "maximum": lambda d, h: mg.maximum(d, h),
    "matmul": lambda d, h: mg.matmul(d, h),
    "concatenate": lambda d, h: mg.concatenate([d, h]),
    "less": lambda d, h: d < h,
    "einsum": lambda d, h: mg.einsum("ij,jk->ik", d, h),
}


def assert_meeting_is_named(op: str, library: str, device: str) -> None:
    """An op of a device's array and the host's, with one of the two libraries in use, names both."""
    with mg.using("numpy"):
        host = mg.ones(2, 2)
    with mg.using(device):
        there = mg.ones(2, 2)
    message = rf"{op}.*float32 \[2, 2\].*backend in use is '{library}'"
    with mg.using(library), pytest.raises(TypeError, match=message) as caught:
        MEETINGS[op](there, host)
    assert f"{device if library == 'numpy' else 'numpy'}.float32 [2, 2]" in str(caught.value)


@pytest.mark.parametrize("op", MEETINGS)
@pytest.mark.parametrize("library", ["numpy", "standin"])
def test_arrays_of_two_libraries_that_meet_are_named(op: str, library: str) -> None:
    assert_meeting_is_named(op, library, "standin")


STRANGERS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {  # what takes one Tensor of another library
    "sum": (lambda d, h: h.sum(), r"sum: operands of another array library: numpy\.float32 \[2, 2\]"),
    "an index": (lambda d, h: d[h], r"an index of another array library: numpy\.float32 \[2, 2\]"),
    "assignment": (lambda d, h: d.__setitem__(h, 0.0), "an index of another array library"),
    "a gradient": (lambda d, h: setattr(mg.Parameter(d), "grad", h), "grad: the gradient is an array of numpy"),
    "clipping": (
        lambda d, h: optim.clip_grad_norm([h], 1.0),
        "clip_grad_norm: the gradient of 'a Parameter' is an array of numpy, but the backend in use is 'standin'",
    ),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_a_tensor_of_another_library_is_named(what: str) -> None:
    call, message = STRANGERS[what]
    with mg.using("numpy"):
        host = mg.Parameter(mg.ones(2, 2))
        host.grad = mg.ones(2, 2)
    with mg.using("standin"), pytest.raises(TypeError, match=message):
        call(mg.ones(2, 2), host)


def test_a_parameter_takes_values_of_another_library_over() -> None:
    with mg.using("numpy"):
        host = mg.full((2, 2), 3.0)
    with mg.using("standin"), mg.transfers() as crossed:
        there = mg.Parameter(mg.ones(2, 2))
        there.update(host)
        assert there.tolist() == [[3.0, 3.0]] * 2
    assert crossed.to_device == 1


def test_a_tensor_of_a_backend_that_was_left_can_be_read_and_moved() -> None:
    with mg.using("standin"):
        there = mg.tensor([1.0, 2.0])
    with mg.using("numpy"):
        assert there.numpy().tolist() == [1.0, 2.0]
        assert (mg.tensor(there.numpy()) + 1).numpy().tolist() == [2.0, 3.0]
        assert isinstance(mg.tensor(there).data, np.ndarray)


def test_a_model_of_another_backend_is_refused_by_its_optimizer(device: None) -> None:
    with mg.using("numpy"):
        model = nn.Linear(2, 1)
        model(mg.ones(1, 2)).sum().backward()
    with pytest.raises(TypeError, match=r"weight.*is an array of numpy, but the backend in use is 'standin'"):
        optim.SGD(model.named_parameters(), 0.1).step()


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_out_of_range_is_told_when_a_value_next_crosses(label: int, device: None) -> None:
    x = mg.random.normal(2, 10, requires_grad=True)
    loss = F.cross_entropy(x, mg.tensor([3, label]))
    loss.backward()  # CuPy would wrap the label around; the step goes on
    assert transfers.count == 0
    with pytest.raises(ValueError, match=rf"cross_entropy: a target is {label}, .*0\.\.9"):
        loss.item()
    assert np.isfinite(loss.item())  # told once


def test_an_index_out_of_range_is_told_when_a_value_next_crosses(device: None) -> None:
    y = nn.Embedding(4, 2)(mg.tensor([1, 4]))
    with pytest.raises(IndexError, match=r"embedding: an index .*0\.\.3"):
        y.numpy()


def test_what_is_pending_is_told_also_after_the_backend_was_left() -> None:
    with mg.using("standin"):
        nn.Embedding(4, 2)(mg.tensor([7]))
    with mg.using("numpy"), pytest.raises(IndexError, match="embedding"):
        mg.ones(1).item()


def test_a_numpy_cotangent_is_brought_to_the_device(device: None) -> None:
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    (x * x).backward(np.array([1.0, 10.0], "float32"))
    assert x.grad.tolist() == [2.0, 40.0]
    _, tangent = mg.jvp(lambda x: x * x, [x.detach()], [np.array([1.0, 0.5], "float32")])
    assert tangent.tolist() == [2.0, 2.0]


def test_who_never_looks_keeps_no_tape_alive_and_is_told_at_last(device: None) -> None:
    for step in range(3 * backend.MOST_PENDING):
        x = mg.random.normal(2, 3, requires_grad=True) * 2.0
        loss = F.nll_loss(x, mg.tensor([0, 3 if step == 5 else 1]))
    scores = weakref.ref(x)
    del x
    loss = loss.detach()
    assert scores() is None and len(backend.pending) == backend.MOST_PENDING
    with pytest.raises(ValueError, match=r"out of range more than 64 checks before this look.*more often"):
        loss.item()
    assert np.isfinite(loss.item())


def test_the_first_op_that_widens_is_named() -> None:
    twice = mg.primitive(lambda x: x * xp.asarray(2.0), lambda g: g * 2, name="twice")
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    with mg.no_widening():
        mg.exp(x).astype(mg.float64).sum()
        for recorded in (True, False):  # by no_grad, or since it is of a constant
            with contextlib.nullcontext() if recorded else mg.no_grad():
                for given in (x, x.detach()):
                    with pytest.raises(TypeError, match=r"twice: widened float32 \[2\] to float64 .*_backends\.py"):
                        twice(given)
    assert twice(x).dtype == np.float64


def test_fused_layers_stay_fused_under_the_alarm() -> None:
    with mg.using("numpy"), mg.no_widening():
        model = mg.fused.fuse(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()))
        assert "block" in str(mg.Tape(model(mg.random.normal(2, 1, 5, 5))))


def test_a_cotangent_that_widens_is_named_with_its_op_and_what_looked_on_before_still_does() -> None:
    twice = mg.primitive(lambda x: x * 2, lambda g: g * xp.asarray(2.0), name="twice")
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    with mg.debug() as session, mg.no_widening():
        x.astype(mg.float64).sum().backward()  # back to what x is
        with pytest.raises(TypeError, match=r"backward of twice: widened float32 \[2\] to float64 \[2\]"):
            twice(x).sum().backward()
        p = mg.Parameter(mg.ones(2))
        p.update(mg.zeros(2))
        with np.errstate(divide="ignore"), pytest.raises(FloatingPointError, match="log"):
            mg.log(x * 0)
    assert len(session.written) == 1


class FakeCUDA(Exception):
    """Stands for cupy.cuda.runtime.CUDARuntimeError."""


def fake_cupy(monkeypatch: pytest.MonkeyPatch, driver: int = 13000, devices: int = 1, fault: str = "") -> Any:
    """A module `cupy`, of CUDA 13.2, whose GPU is the stand-in; CUDA versions are 1000 major + 10 minor."""

    def count() -> int:
        if fault:
            raise FakeCUDA(fault)
        return devices

    cupy: Any = types.ModuleType("cupy")
    vars(cupy).update(vars(standin.namespace()))
    runtime = types.SimpleNamespace(
        CUDARuntimeError=FakeCUDA, getDeviceCount=count, driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: 13020, memGetInfo=lambda: (100 << 20, 8192 << 20),
    )  # fmt: skip
    pool = types.SimpleNamespace(used_bytes=lambda: 7000 << 20, total_bytes=lambda: 8000 << 20)
    cupy.__version__ = "14.2.0"
    cupy.cuda = types.SimpleNamespace(runtime=runtime)
    cupy.get_default_memory_pool = lambda: pool
    cupy.asnumpy = lambda array: array.get()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return cupy


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    before = mg.current()
    with pytest.raises(ImportError, match=r"needs CuPy, which does not import here.*pip install 'cupy-cuda13x\[ctk\]'"):
        mg.use("cupy")
    assert mg.current() == before


@pytest.mark.parametrize(
    ("driver", "devices", "fault", "message"),
    [
        (0, 0, "cudaErrorInsufficientDriver", r"CuPy 14\.2\.0 .* finds no NVIDIA driver; .*mg\.use\('numpy'\)"),
        (12040, 0, "cudaErrorInsufficientDriver", r"too old: it knows CUDA 12\.4 .*needs 13\.2.*cupy-cuda12x"),
        (13020, 0, "cudaErrorNoDevice", r"finds no usable GPU; see what nvidia-smi says.*cudaErrorNoDevice"),
        (13000, 0, "cudaErrorNoDevice", "finds no usable GPU"),  # a driver of an older minor version will do
        (13020, 0, "", "finds no GPU on this machine"),
    ],
)
def test_without_a_usable_gpu(
    monkeypatch: pytest.MonkeyPatch, driver: int, devices: int, fault: str, message: str
) -> None:
    fake_cupy(monkeypatch, driver, devices, fault)
    before = mg.current()
    with pytest.raises(RuntimeError, match=message):
        mg.use("cupy")
    assert mg.current() == before


def test_without_the_libraries_that_compile_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = fake_cupy(monkeypatch)

    def version() -> None:
        raise RuntimeError('Failure finding "libnvrtc.so.13"')

    cupy.cuda.nvrtc = types.SimpleNamespace(getVersion=version)
    with pytest.raises(RuntimeError, match=r"without CUDA's libraries.*pip install 'cupy-cuda13x\[ctk\]' .*libnvrtc"):
        mg.use("cupy")
    cupy.cuda.nvrtc.getVersion = lambda: (13, 0)
    with mg.using("cupy"):
        assert mg.current() == "cupy"


def test_the_installed_cupy_says_why_it_cannot_run() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed here; the tests above run on a fake one")
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        devices = 0
    if devices:
        pytest.skip("there is a GPU here")
    with pytest.raises(RuntimeError, match=r"driver|GPU"):
        mg.use("cupy")


def capturable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A fake CuPy with streams and graphs; what is captured runs at once, and replays are only noted."""
    cupy = fake_cupy(monkeypatch)
    calls: list[str] = []

    class Stream:
        def __init__(self, non_blocking: bool = False) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...
        def record(self) -> str:
            return "event"

        def wait_event(self, event: str) -> None:
            assert event == "event"

        def begin_capture(self) -> None:
            calls.append("begin")

        def end_capture(self) -> Any:
            calls.append("end")
            return types.SimpleNamespace(launch=lambda stream: calls.append("launch"))

    @contextlib.contextmanager
    def using_allocator(allocator: Any) -> Iterator[None]:
        yield

    cupy.cuda.Stream, cupy.cuda.get_current_stream, cupy.cuda.using_allocator = Stream, Stream, using_allocator
    cupy.cuda.MemoryPool = lambda: types.SimpleNamespace(malloc=None)
    return calls


def captured(optimizer_of: Any = optim.SGD, shapes: Any = (4,) * 5, inside: Callable[[], Any] = lambda: None) -> Any:
    """A small training step after some calls of its captured form."""
    model = nn.Linear(3, 2)
    optimizer = optimizer_of(model.parameters(), 0.1)

    def step(x: mg.Tensor) -> mg.Tensor:
        inside()
        loss = mg.square(mg.relu(model(x))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    fast = mg.capture(step, optimizer, warmup=2)
    for n in shapes:
        assert fast(mg.ones(n, 3)).shape == ()
    return fast


@pytest.mark.parametrize("name", ["numpy", "standin"])
def test_without_cuda_a_captured_step_runs_as_it_is(name: str) -> None:
    with mg.using(name):
        fast = captured()
    assert fast.replays == 0 and fast.reason == f"the backend is {name!r}, which has no CUDA graphs"


def test_a_step_is_captured_after_its_warmup_and_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = capturable(monkeypatch)
    with mg.using("cupy"):
        fast = captured()
    assert calls == ["begin", "end", "launch", "launch", "launch"]
    assert fast.replays == 3 and fast.reason is None
    assert not backend.capturing.on  # who computes beside it may call cuBLAS


def test_what_another_thread_does_meanwhile_is_no_part_of_a_captured_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, found = capturable(monkeypatch), []
    with mg.using("cupy"):
        layer, wrong = nn.Embedding(4, 2), mg.tensor([7])

        def look_up() -> None:
            layer(wrong)
            found.append(backend.capturing.on)

        def beside() -> None:
            if backend.capturing.afterwards is not None:
                other = threading.Thread(target=look_up)
                other.start()
                other.join()

        assert captured(inside=beside).replays == 3 and found == [False]
        with pytest.raises(IndexError, match="embedding"):
            mg.ones(1).item()
    assert calls.count("begin") == 1


def test_a_captured_step_comes_after_what_was_launched_before_it_and_before_what_is_launched_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = capturable(monkeypatch)
    cuda = sys.modules["cupy"].cuda

    class Stream(cuda.Stream):
        def __init__(self, non_blocking: bool = False) -> None:
            self.name = "own" if non_blocking else "current"  # the default stream waits for every blocking one
            calls.extend(["a stream of its own"] * non_blocking)

        def record(self) -> str:
            return f"where {self.name} stands"

        def wait_event(self, event: str) -> None:
            calls.append(f"{self.name} waits for {event}")

    cuda.Stream = cuda.get_current_stream = Stream
    with mg.using("cupy"):
        captured(shapes=(4,) * 2)
        assert not backend.capturing.on
        calls.clear()
        captured(shapes=(4,) * 4)
    before, after = "own waits for where current stands", "current waits for where own stands"
    assert calls[0] == "a stream of its own"
    assert calls[1:5] == [before, after] * 2  # the calls that make ready
    assert calls[5:] == [before, "begin", "end", "launch", after, before, "launch", after]


def test_why_a_step_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = capturable(monkeypatch)
    with mg.using("cupy"):
        fast = captured(shapes=(4, 4, 4, 5))
        now, then = "(((5, 3), 'float32'),)", "(((4, 3), 'float32'),)"
        assert fast.replays == 1
        assert fast.reason == f"shapes or dtypes of the inputs are {now} and were {then} when captured"
        fast.optimizer.param_groups[0]["lr"] = 0.25
        fast(mg.ones(4, 3))
        now, then = fast.reason.removeprefix("the optimizer's hyper-parameters are ").split(" and were ")
        assert fast.replays == 1 and "('lr', 0.25)" in now and "('lr', 0.1)" in then and "float32" not in now + then
        for given in (mg.ones(4, 3, requires_grad=True), 3):
            fast = mg.capture(lambda x: None, warmup=0)
            fast(given)
            why = "inputs must be Tensors without a history, of the backend in use"
            assert (fast.replays, fast.reason) == (0, why)
        with pytest.raises(TypeError, match="capture: needs the Optimizer, not a Linear"):
            mg.capture(lambda x: None, nn.Linear(2, 1))
        with pytest.raises(ValueError, match="capture: warmup must be at least 0, not -1"):
            mg.capture(lambda x: None, warmup=-1)
        assert "Adam counts its steps on the host" in captured(optim.Adam).reason
        assert "draws random numbers" in captured(inside=lambda: generator().random()).reason
        assert "moves arrays between host and device" in captured(inside=lambda: mg.ones(1).item()).reason
    assert calls.count("launch") == 1


def test_a_replay_is_compared_on_the_device_and_told_when_a_value_next_crosses(device: None) -> None:
    layer, x = nn.BatchNorm1d(3), mg.random.normal(4, 3, requires_grad=True)
    for changes in (False, True):
        y = mg.checkpoint(layer.train(), x)
        held = weakref.ref(y.data)
        layer.train(not changes)
        y.sum().backward()
        del y
        assert transfers.count == 0 and held() is None, "what waits to be told holds no tape"
        if changes:
            with pytest.raises(RuntimeError, match=r"another result .*BatchNorm1d '' evaluates now, and was training"):
                mg.ones(1).item()
        else:
            mg.ones(1).item()
            transfers.reset()


def test_a_recomputation_is_captured_and_one_that_draws_is_not() -> None:
    """What a graph draws on the device could not be drawn again by the replay of the checkpoint within it."""
    if standin.emulator.COMPILER is None:
        pytest.skip("no g++ here to compile kernels with")
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    for p in (0.0, 0.5):
        found = []
        for name in ("numpy", "emulated"):
            with mg.using(name):
                mg.random.seed(0)
                model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(p), nn.Linear(3, 2))
                optimizer = optim.SGD(model.parameters(), 0.1)

                def step(x: mg.Tensor, model: Any = model, optimizer: Any = optimizer) -> mg.Tensor:
                    loss = mg.square(mg.checkpoint(model, x)).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    return loss.detach()

                fast = mg.capture(step, optimizer, warmup=2)
                found.append([fast(mg.tensor(x)).item() for _ in range(6)])
        assert (fast.replays > 0) == (p == 0.0), fast.reason
        np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_a_capture_that_the_library_refuses_falls_back_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = capturable(monkeypatch)
    with mg.using("cupy"):
        def refuse_once() -> None:
            if calls and calls[-1] == "begin":
                raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")

        fast = captured(inside=refuse_once)
    assert calls == ["begin", "end"] and fast.replays == 0
    assert "NotImplementedError: calling cuBLAS API" in fast.reason


def test_out_of_memory_says_what_was_asked_what_is_held_and_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = fake_cupy(monkeypatch)
    full = False

    def limited(make: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if full:
                raise MemoryError("Out of memory allocating 1,000 bytes (allocated so far: 200 bytes).")
            return make(*args, **kwargs)

        return call

    for name in ("exp", "multiply", "asarray", "zeros"):
        setattr(cupy, name, limited(getattr(cupy, name)))
    with mg.using("cupy"):
        x = mg.tensor([1.0, 2.0], requires_grad=True)
        optimizer = optim.SGD([mg.Parameter(x.detach())], 0.1)
        optimizer.param_groups[0]["params"][0].grad = mg.ones(2)
        y = mg.primitive(lambda x: x + 1, lambda g: xp.multiply(g, 1), name="shift")(x).sum()
        full = True
        held = r"Arrays hold 7,000 MiB.*8,000 MiB.*100 MiB of the card's 8,192 MiB"
        shown = rf"Out of memory allocating 1,000 bytes.*{held}.*batch size"
        with pytest.raises(mg.OutOfMemory, match=r"exp of float32 \[2\]: " + shown):
            mg.exp(x)
        with pytest.raises(mg.OutOfMemory, match="backward: " + shown):
            y.backward()
        with pytest.raises(mg.OutOfMemory, match=r"Optimizer\.step: " + shown):
            optimizer.step()
        with pytest.raises(mg.OutOfMemory, match="from_numpy: " + shown):
            mg.random.normal(3)


def test_the_gpu_benchmark_says_what_it_could_not_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any
) -> None:
    fake_cupy(monkeypatch, driver=0, fault="cudaErrorInsufficientDriver")
    assert gpu.main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Not measured:" in printed and "everything: CuPy 14.2.0 is installed but finds no NVIDIA driver" in printed
    assert "|" not in printed
    assert (tmp_path / "gpu.md").read_text() == printed


def test_the_gpu_benchmark_measures_its_contestants_and_writes_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any
) -> None:
    """On the stand-in, whose clock says nothing: what is tested is that every contestant runs and is reported."""
    if standin.emulator.COMPILER is None:
        pytest.skip("no g++ here to compile kernels with")
    monkeypatch.setitem(backend.backends, "cupy", backend.backends["emulated"])
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(gpu, "versions", lambda: "a stand-in")
    monkeypatch.setattr(gpu, "WARMUP", 4)
    monkeypatch.setattr(gpu, "command", lambda arguments, *rest: [f"ran {arguments[0]}"])
    clock = itertools.count()
    event = types.SimpleNamespace(record=lambda: next(clock), synchronize=lambda: None)
    for name, value in (("Event", lambda: event), ("get_elapsed_time", lambda start, end: 1.0)):
        monkeypatch.setattr(standin.Cuda, name, staticmethod(value), raising=False)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "LEAST", 1)

    class Here(gpu.Rival):
        """Answers in this process."""

        def __init__(self, name: str, clock: gpu.Clock) -> None:
            self.name, self.worker, self.clock, self.late = name, gpu_worker.Worker(name), clock, False

        def ask(self, question: Any) -> Any:
            return json.loads(json.dumps(self.worker.answer(question)))

        def close(self) -> None:
            pass

    monkeypatch.setattr(gpu, "Rival", Here)
    with mg.using("numpy"):
        assert gpu.main(["--batches", "2", "--seconds", "0.001", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    ours = [line for line in found["steps"] if line["contestant"].startswith("minigrad")]
    assert [line["contestant"].count(",") for line in ours] == [0, 1, 1, 2]
    assert [line["note"] for line in ours] == [""] * 4  # the captured ones did run captured
    assert len(found["steps"]) == 4 and sum("PyTorch" in reason for reason in found["not measured"]) == 4
    assert found["check"] == ["ran pytest"] and found["train"] == ["ran examples.mnist"]
    assert (tmp_path / "gpu.md").read_text().count("\n| 2 | minigrad") == 4


ODD_WORKER = """
import json, os, sys, time

name = sys.argv[1]
if name == "ends at once":
    sys.exit(3)
print("{}", flush=True)
for line in sys.stdin:
    what, number = json.loads(line)
    answer = {"ms": 2.0 * number, "note": ""} if what == "run" else {}
    if name == "ends" and what == "run":
        os._exit(4)
    if name == "hangs" and what == "make":
        os.fork()  # who holds the pipe too
        time.sleep(60)
    if name == "raises at 4096" and what == "make" and number == 4096:
        answer = {"error": "OutOfMemory: allocating 1 byte"}
    if name == "tells no time" and what == "run":
        answer = {"ms": float("nan")}
    print("warning: all is well" if name == "prints rubbish" else [1] if name == "lists" else json.dumps(answer))
    sys.stdout.flush()
"""


def test_the_gpu_benchmark_measures_those_who_answer_and_says_why_others_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any
) -> None:
    odd = {
        "ends at once": "ended with 3", "ends": "ended with 4", "hangs": "after 5 s without an answer",
        "prints rubbish": "answered 'warning: all is well", "lists": r"it answered \[1\]",
        "tells no time": "it measured nan ms", "raises at 4096": "OutOfMemory: allocating 1 byte",
    }  # fmt: skip
    (tmp_path / "odd_worker.py").write_text(ODD_WORKER)
    fake_cupy(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gpu, "versions", lambda: "a fake")
    monkeypatch.setattr(gpu, "WORKER", "odd_worker")
    monkeypatch.setattr(gpu, "WAYS", ["minigrad", "PyTorch eager", *odd])
    monkeypatch.setattr(gpu, "PATIENCE", 5.0)
    monkeypatch.setattr(gpu, "CHECK", ["odd_worker", "ends at once"])
    monkeypatch.setattr(gpu, "TRAIN", ["nothing_of_this_name"])
    with mg.using("numpy"):
        assert gpu.main(["--seconds", "0.1", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    measured = [(line["batch"], line["contestant"], line["ms"]) for line in found["steps"]]
    fine = ["minigrad", "PyTorch eager"]
    assert measured == [(128, name, 2.0) for name in [*fine, "raises at 4096"]] + [(4096, name, 2.0) for name in fine]
    for name, reason in odd.items():
        where = "" if name == "ends at once" else ", batch 4096" if name == "raises at 4096" else ", batch 128"
        assert any(re.match(f"{name}{where}: .*{reason}", said) for said in found["not measured"]), name
    assert [said.endswith("not asked again") for said in found["not measured"] if said.startswith("hangs")] == [True]
    assert any("`python -m odd_worker ends at once` ended with status 3" in said for said in found["not measured"])
    assert any("`python -m nothing_of_this_name` ended with status 1" in said for said in found["not measured"])
    assert (tmp_path / "gpu.md").read_text() == capsys.readouterr().out


def test_what_the_gpu_benchmark_has_no_time_for_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Any
) -> None:
    (tmp_path / "odd_worker.py").write_text(ODD_WORKER)
    fake_cupy(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gpu, "versions", lambda: "a fake")
    monkeypatch.setattr(gpu, "WORKER", "odd_worker")
    monkeypatch.setattr(gpu, "WAYS", ["minigrad", "PyTorch eager"])
    runs, run = [], gpu.Rival.run
    monkeypatch.setattr(gpu.Rival, "run", lambda one, steps: runs.append(steps) or run(one, steps))
    # Both are made, which runs each once, and one has its turn.
    monkeypatch.setattr(gpu.Clock, "left", lambda clock: 60.0 * (len(runs) < 4))
    with mg.using("numpy"):
        assert gpu.main(["--seconds", "0.1", "--out", str(tmp_path), "--parts", "step"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [(line["batch"], line["contestant"]) for line in found["steps"]] == [(128, "minigrad")]
    for name, batch in (("PyTorch eager", 128), ("minigrad", 4096), ("PyTorch eager", 4096)):
        assert f"{name}, batch {batch}: the ten minutes were over" in found["not measured"]
