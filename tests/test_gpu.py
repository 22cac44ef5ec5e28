"""CuPy on a real GPU against NumPy: op by op, layer by layer, and after a hundred steps.

Skipped, with the reason, where there is none. Bounds: float64 ops to 1e-10 of the largest value (another
order of addition), float32 layers to 1e-4, a hundred steps of SGD to 1e-2 of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import data, optim
from minigrad import functional as F
from minigrad.backend import xp
from models.cnn import CNN
from tests.samples import SAMPLES
from tests.test_backends import IMAGES, LABELS, LAYERS


@pytest.fixture(scope="module", autouse=True)
def gpu() -> Iterator[None]:
    try:
        with mg.using("cupy"):
            pass
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))
    yield


def assert_close(compute: Callable[[], Any], tolerance: float) -> None:
    """The Tensors that `compute` returns agree on both backends, relative to the largest value of each."""
    results = []
    for name in ("numpy", "cupy"):
        with mg.using(name):
            mg.random.seed(7)
            results.append([t.numpy() for t in compute() if t is not None])
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) if a.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("sample", SAMPLES, ids=[f"{i}-{s}" for i, s in enumerate(SAMPLES)])
def test_an_op_and_its_gradient(sample: Any) -> None:
    def compute() -> list[mg.Tensor]:
        xs = [mg.tensor(a, requires_grad=a.dtype.kind == "f") for a in sample.arrays]
        y = sample.call(*xs)
        outputs = [out for out in (y if isinstance(y, (tuple, list)) else [y]) if isinstance(out, mg.Tensor)]
        leaves = [x for x in xs if x.requires_grad]
        gradients = []
        for out in outputs:
            if out.requires_grad:
                cotangent = mg.random.normal(out.shape, dtype=out.dtype)
                gradients += mg.grad(out, leaves, cotangent, retain_graph=True)
        return outputs + gradients

    assert_close(compute, 1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_its_gradients_and_its_memory(name: str) -> None:
    make, shape = LAYERS[name]

    def compute() -> list[Any]:
        layer, x = make(), mg.random.normal(shape, requires_grad=True)
        y = layer(x)
        y.backward(mg.random.normal(y.shape))
        return [y, x.grad, *(p.grad for p in layer.parameters()), *layer.state_dict().values()]

    assert_close(compute, 1e-4)


def test_a_hundred_steps() -> None:
    def compute() -> list[mg.Tensor]:
        model = CNN()
        optimizer = optim.SGD(model.parameters(), 0.01, momentum=0.9)
        batches = data.Batches(IMAGES, LABELS, 8, seed=5)
        losses: list[mg.Tensor] = []
        while len(losses) < 100:
            for x, y in batches:
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        return [mg.stack(losses[:100])]

    assert_close(compute, 1e-2)


def test_of_equal_maxima_the_first_is_chosen() -> None:
    with mg.using("cupy"):
        for n in (3, 1000, 100_003):
            x = xp.zeros((4, n))
            assert xp.argmax(x, axis=1).get().tolist() == [0] * 4
            x[:, n // 2 :] = 1.0
            assert xp.argmax(x, axis=1).get().tolist() == [n // 2] * 4 and int(xp.argmax(x)) == n // 2


def test_a_step_does_not_wait_for_the_device() -> None:
    cupyx = pytest.importorskip("cupyx")
    with mg.using("cupy"):
        model = CNN()
        optimizer = optim.Adam(model.parameters())
        x, y = mg.random.normal(8, 1, 28, 28), mg.tensor(LABELS[:8])

        def step() -> None:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        step()
        with cupyx.allow_synchronize(False), mg.transfers(limit=0):
            step()
