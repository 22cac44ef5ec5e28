"""PyTorch, eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.workloads import Arrays, in_batches, state

VERSION = torch.__version__
Step = Callable[[], Any]


def threads(n: int) -> None:
    torch.set_num_threads(n)


def loaded(model: nn.Module, a: Arrays, names: dict[str, str]) -> nn.Module:
    model.load_state_dict({k: torch.tensor(v) for k, v in state(a, names).items()}, strict=False)
    return model


def cnn(a: Arrays) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1568, 10),
    )  # fmt: skip
    return loaded(model, a, {"conv1": "0", "conv2": "4", "linear": "9"})


def training(model: nn.Module, a: Arrays) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.tensor(a["x"]), torch.tensor(a["y"])

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def w1(a: Arrays) -> Step:
    return training(cnn(a), a)


def w2(a: Arrays) -> Step:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    names = {"conv1": "0", "conv2": "3", "linear1": "7", "linear2": "9", "linear3": "11"}
    return training(loaded(model, a, names), a)


def w3(a: Arrays) -> Step:
    model = nn.Sequential(
        nn.Linear(784, 100), nn.Sigmoid(), nn.Linear(100, 100), nn.Sigmoid(), nn.Linear(100, 100), nn.Sigmoid(),
        nn.Linear(100, 10),
    )  # fmt: skip
    return training(loaded(model, a, {"linear1": "0", "linear2": "2", "linear3": "4", "linear4": "6"}), a)


def w4(a: Arrays) -> Step:
    layer = nn.BatchNorm2d(32)
    layer.load_state_dict({"weight": torch.tensor(a["gamma"]), "bias": torch.tensor(a["beta"])}, strict=False)
    x, g = torch.tensor(a["x"], requires_grad=True), torch.tensor(a["g"])

    def step() -> tuple[Any, ...]:
        layer.zero_grad()
        x.grad = None
        layer(x).backward(g)
        return x.grad, *(p.grad for p in layer.parameters())

    return step


def w4_primitives(a: Arrays) -> Step:
    x, g = torch.tensor(a["x"], requires_grad=True), torch.tensor(a["g"])
    gamma, beta = (torch.tensor(a[k].reshape(1, 32, 1, 1), requires_grad=True) for k in ("gamma", "beta"))

    def step() -> tuple[Any, ...]:
        x.grad = gamma.grad = beta.grad = None
        mean = x.mean((0, 2, 3), keepdim=True)
        centred = x - mean
        var = (centred * centred).mean((0, 2, 3), keepdim=True)
        y = gamma * centred / torch.sqrt(var + 1e-5) + beta
        y.backward(g)
        return x.grad, gamma.grad, beta.grad

    return step


def w5_expression(a: Arrays) -> Step:
    p, q, r = (torch.tensor(a[k], requires_grad=True) for k in "abc")

    def step() -> tuple[Any, ...]:
        p.grad = q.grad = r.grad = None
        ((p * q) + r).sum().backward()
        return p.grad, q.grad, r.grad

    return step


def w5_chain(a: Arrays) -> Step:
    p, q = torch.tensor(a["a"], requires_grad=True), torch.tensor(a["b"])

    def step() -> Any:
        p.grad = None
        y = p
        for _ in range(1000):
            y = y + q
        y.sum().backward()
        return p.grad

    return step


def w6_forward(a: Arrays) -> Step:
    x, w, b = (torch.tensor(a[k]) for k in ("x", "conv.weight", "conv.bias"))
    return lambda: F.conv2d(x, w, b, padding=1)


def w6_both(a: Arrays) -> Step:
    x, w, b = (torch.tensor(a[k], requires_grad=True) for k in ("x", "conv.weight", "conv.bias"))
    g = torch.tensor(a["g"])

    def step() -> tuple[Any, ...]:
        x.grad = w.grad = b.grad = None
        F.conv2d(x, w, b, padding=1).backward(g)
        return x.grad, w.grad, b.grad

    return step


def evaluation(model: nn.Module, a: Arrays, batch: int) -> Step:
    model.eval()
    batches, y = [torch.tensor(x) for x in in_batches(a["x"], batch)], a["y"]

    def step() -> tuple[Any, ...]:
        with torch.no_grad():
            scores = np.concatenate([model(x).numpy() for x in batches])
        return (scores.argmax(1) == y).mean(), scores

    return step


def w7(a: Arrays) -> Step:
    return evaluation(cnn(a), a, 10_000)


def w7_batches(a: Arrays) -> Step:
    return evaluation(cnn(a), a, 500)


def differentiated(f: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Step:
    """f and its pullback, with a cotangent of ones."""
    ones = torch.ones_like(f(*inputs))

    def step() -> tuple[Any, ...]:
        for t in inputs:
            t.grad = None
        f(*inputs).backward(ones)
        return tuple(t.grad for t in inputs)

    return step


def op_relu(a: Arrays) -> Step:
    return differentiated(torch.relu, torch.tensor(a["x"], requires_grad=True))


def op_max_pool(a: Arrays) -> Step:
    return differentiated(lambda x: F.max_pool2d(x, 2), torch.tensor(a["x"], requires_grad=True))


def op_conv_first(a: Arrays) -> Step:
    images = torch.tensor(a["images"])
    w, b = (torch.tensor(a[f"first.{k}"], requires_grad=True) for k in ("weight", "bias"))
    return differentiated(lambda w, b: F.conv2d(images, w, b, padding=1), w, b)


def op_linear(a: Arrays) -> Step:
    names = ("rows", "linear.weight", "linear.bias")
    return differentiated(F.linear, *(torch.tensor(a[k], requires_grad=True) for k in names))
