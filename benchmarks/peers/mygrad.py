"""MyGrad, with its layers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import mygrad as my
import numpy as np
from mygrad.nnet.activations import relu, sigmoid
from mygrad.nnet.layers import batchnorm, conv_nd, max_pool
from mygrad.nnet.losses import softmax_crossentropy

from benchmarks.workloads import Arrays

VERSION = version("mygrad")
Step = Callable[[], Any]


def threads(n: int) -> None:
    """NumPy's own; there is nothing to set."""


def training(forward: Callable[[dict[str, my.Tensor]], my.Tensor], a: Arrays, extra: Arrays | None = None) -> Step:
    given = {k: v for k, v in a.items() if "." in k} | (extra or {})
    p = {k: my.tensor(v.copy()) for k, v in given.items()}
    momenta = {k: np.zeros_like(v) for k, v in given.items()}

    def step() -> float:
        loss = softmax_crossentropy(forward(p), a["y"])
        loss.backward()
        for k, t in p.items():
            momenta[k] = 0.9 * momenta[k] + t.grad
            t.data -= 0.01 * momenta[k]
            t.null_grad()
        return float(loss.item())

    return step


def w1(a: Arrays) -> Step:
    norms = {f"gamma{i}": np.ones(n, np.float32) for i, n in ((1, 16), (2, 32))}
    norms |= {f"beta{i}": np.zeros(n, np.float32) for i, n in ((1, 16), (2, 32))}

    def forward(p: dict[str, my.Tensor]) -> my.Tensor:
        h = my.tensor(a["x"], constant=True)
        for i in (1, 2):
            h = conv_nd(h, p[f"conv{i}.weight"], stride=1, padding=1) + p[f"conv{i}.bias"].reshape(1, -1, 1, 1)
            h = batchnorm(h, gamma=p[f"gamma{i}"], beta=p[f"beta{i}"], eps=1e-5)
            h = max_pool(relu(h), (2, 2), 2)
        return my.matmul(h.reshape(128, -1), p["linear.weight"].T) + p["linear.bias"]

    return training(forward, a, norms)


def w3(a: Arrays) -> Step:
    def forward(p: dict[str, my.Tensor]) -> my.Tensor:
        h = my.tensor(a["x"], constant=True)
        for i in (1, 2, 3):
            h = sigmoid(my.matmul(h, p[f"linear{i}.weight"].T) + p[f"linear{i}.bias"])
        return my.matmul(h, p["linear4.weight"].T) + p["linear4.bias"]

    return training(forward, a)


def w4(a: Arrays) -> Step:
    def step() -> tuple[np.ndarray, ...]:
        x, gamma, beta = (my.tensor(a[k]) for k in ("x", "gamma", "beta"))
        batchnorm(x, gamma=gamma, beta=beta, eps=1e-5).backward(a["g"])
        return x.grad, gamma.grad, beta.grad

    return step


def w4_primitives(a: Arrays) -> Step:
    def step() -> tuple[np.ndarray, ...]:
        x, gamma, beta = my.tensor(a["x"]), *(my.tensor(a[k].reshape(1, 32, 1, 1)) for k in ("gamma", "beta"))
        mean = my.mean(x, axis=(0, 2, 3), keepdims=True)
        centred = x - mean
        var = my.mean(centred * centred, axis=(0, 2, 3), keepdims=True)
        y = gamma * centred / my.sqrt(var + 1e-5) + beta
        y.backward(a["g"])
        return x.grad, gamma.grad, beta.grad

    return step


def w5_expression(a: Arrays) -> Step:
    def step() -> tuple[np.ndarray, ...]:
        p, q, r = (my.tensor(a[k]) for k in "abc")
        ((p * q) + r).sum().backward()
        return p.grad, q.grad, r.grad

    return step


def w5_chain(a: Arrays) -> Step:
    q = my.tensor(a["b"], constant=True)

    def step() -> np.ndarray:
        p = y = my.tensor(a["a"])
        for _ in range(1000):
            y = y + q
        y.sum().backward()
        return p.grad

    return step


def w6_both(a: Arrays) -> Step:
    def step() -> tuple[np.ndarray, ...]:
        x, w, b = (my.tensor(a[k]) for k in ("x", "conv.weight", "conv.bias"))
        (conv_nd(x, w, stride=1, padding=1) + b.reshape(1, -1, 1, 1)).backward(a["g"])
        return x.grad, w.grad, b.grad

    return step
