"""HIPS autograd: the workloads without convolution, which it leaves to a direct sum over shifts."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import autograd.numpy as np
from autograd import grad, make_vjp, value_and_grad

from benchmarks.workloads import Arrays

VERSION = version("autograd")
Step = Callable[[], Any]


def threads(n: int) -> None:
    """NumPy's own; there is nothing to set."""


def w3(a: Arrays) -> Step:
    weights = {k: v for k, v in a.items() if k.startswith("linear")}
    momenta = {k: np.zeros_like(v) for k, v in weights.items()}
    x, rows, y = a["x"], np.arange(len(a["y"])), a["y"]

    def loss(p: Arrays) -> float:
        h = x
        for i in (1, 2, 3):
            h = 1 / (1 + np.exp(-(np.dot(h, p[f"linear{i}.weight"].T) + p[f"linear{i}.bias"])))
        s = np.dot(h, p["linear4.weight"].T) + p["linear4.bias"]
        s = s - np.max(s, axis=1, keepdims=True)
        return -np.mean(s[rows, y] - np.log(np.sum(np.exp(s), axis=1)))

    both = value_and_grad(loss)

    def step() -> float:
        value, gradient = both(weights)
        for k, w in weights.items():
            momenta[k] = 0.9 * momenta[k] + gradient[k]
            weights[k] = w - 0.01 * momenta[k]
        return float(value)

    return step


def w4_primitives(a: Arrays) -> Step:
    def f(args: tuple) -> np.ndarray:
        x, gamma, beta = args
        mean = np.mean(x, axis=(0, 2, 3), keepdims=True)
        centred = x - mean
        var = np.mean(centred * centred, axis=(0, 2, 3), keepdims=True)
        return gamma * centred / np.sqrt(var + 1e-5) + beta

    args = (a["x"], a["gamma"].reshape(1, 32, 1, 1), a["beta"].reshape(1, 32, 1, 1))

    def step() -> tuple[np.ndarray, ...]:
        pullback, _ = make_vjp(f)(args)
        return pullback(a["g"])

    return step


def w5_expression(a: Arrays) -> Step:
    gradient = grad(lambda t: np.sum(t[0] * t[1] + t[2]))
    args = (a["a"], a["b"], a["c"])
    return lambda: gradient(args)


def w5_chain(a: Arrays) -> Step:
    q = a["b"]

    def chain(y: np.ndarray) -> float:
        for _ in range(1000):
            y = y + q
        return np.sum(y)

    gradient = grad(chain)
    return lambda: gradient(a["a"])
