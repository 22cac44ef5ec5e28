"""JAX, each step compiled as a whole (`jax.jit`): what a compiler makes of the same work.

The parameters are a dict of arrays, which a step takes and returns. The compiler may do less than it is
asked: a chain of a thousand adds becomes one loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workloads import Arrays, in_batches

VERSION = version("jax")
Step = Callable[[], Any]
Params = dict[str, Any]


def threads(n: int) -> None:
    """XLA makes as many threads as the process has cores when it starts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n])


def cross_entropy(scores: Any, y: Any) -> Any:
    return -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(len(y)), y])


def conv(x: Any, w: Any, b: Any, padding: int) -> Any:
    y = jax.lax.conv_general_dilated(x, w, (1, 1), [(padding, padding)] * 2)
    return y + b.reshape(1, -1, 1, 1)


def max_pool(x: Any) -> Any:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def moments(x: Any) -> tuple[Any, Any]:
    mean = jnp.mean(x, (0, 2, 3), keepdims=True)
    return mean, jnp.mean((x - mean) ** 2, (0, 2, 3), keepdims=True)


def normalised(x: Any, mean: Any, var: Any, gamma: Any, beta: Any) -> Any:
    gamma, beta = gamma.reshape(1, -1, 1, 1), beta.reshape(1, -1, 1, 1)
    return gamma * (x - mean) / jnp.sqrt(var + 1e-5) + beta


def parameters(a: Arrays) -> Params:
    return {k: jnp.asarray(v) for k, v in a.items() if "." in k}


def training(forward: Callable[[Params, Any, Params], tuple[Any, Params]], a: Arrays, normalised: list[int]) -> Step:
    """forward(params, x, running) gives scores and new running statistics.  normalised: channels of each BatchNorm."""
    x, y = jnp.asarray(a["x"]), jnp.asarray(a["y"])
    params, running = parameters(a), {}
    for i, n in enumerate(normalised, 1):
        params |= {f"gamma{i}": jnp.ones(n), f"beta{i}": jnp.zeros(n)}
        running |= {f"mean{i}": jnp.zeros(n), f"var{i}": jnp.ones(n)}
    momenta = {k: jnp.zeros_like(v) for k, v in params.items()}

    def loss(params: Params, running: Params) -> tuple[Any, Params]:
        scores, running = forward(params, x, running)
        return cross_entropy(scores, y), running

    @jax.jit
    def update(params: Params, momenta: Params, running: Params) -> Any:
        (value, running), gradient = jax.value_and_grad(loss, has_aux=True)(params, running)
        momenta = {k: 0.9 * momenta[k] + gradient[k] for k in params}
        return value, {k: params[k] - 0.01 * momenta[k] for k in params}, momenta, running

    def step() -> float:
        nonlocal params, momenta, running
        value, params, momenta, running = update(params, momenta, running)
        return float(value)

    return step


def w1(a: Arrays) -> Step:
    def forward(p: Params, h: Any, running: Params) -> tuple[Any, Params]:
        new = {}
        for i in (1, 2):
            h = conv(h, p[f"conv{i}.weight"], p[f"conv{i}.bias"], 1)
            mean, var = moments(h)
            m = h.size // h.shape[1]
            new[f"mean{i}"] = 0.9 * running[f"mean{i}"] + 0.1 * mean.ravel()
            new[f"var{i}"] = 0.9 * running[f"var{i}"] + 0.1 * var.ravel() * m / (m - 1)
            h = max_pool(jax.nn.relu(normalised(h, mean, var, p[f"gamma{i}"], p[f"beta{i}"])))
        return h.reshape(len(h), -1) @ p["linear.weight"].T + p["linear.bias"], new

    return training(forward, a, [16, 32])


def w2(a: Arrays) -> Step:
    def forward(p: Params, h: Any, running: Params) -> tuple[Any, Params]:
        for i, padding in ((1, 2), (2, 0)):
            h = max_pool(jax.nn.relu(conv(h, p[f"conv{i}.weight"], p[f"conv{i}.bias"], padding)))
        h = h.reshape(len(h), -1)
        for i in (1, 2):
            h = jax.nn.relu(h @ p[f"linear{i}.weight"].T + p[f"linear{i}.bias"])
        return h @ p["linear3.weight"].T + p["linear3.bias"], running

    return training(forward, a, [])


def w3(a: Arrays) -> Step:
    def forward(p: Params, h: Any, running: Params) -> tuple[Any, Params]:
        for i in (1, 2, 3):
            h = jax.nn.sigmoid(h @ p[f"linear{i}.weight"].T + p[f"linear{i}.bias"])
        return h @ p["linear4.weight"].T + p["linear4.bias"], running

    return training(forward, a, [])


def w4_primitives(a: Arrays) -> Step:
    x, g, gamma, beta = (jnp.asarray(a[k]) for k in ("x", "g", "gamma", "beta"))

    @jax.jit
    def both(x: Any, gamma: Any, beta: Any, g: Any) -> Any:
        y, pullback = jax.vjp(lambda x, gamma, beta: normalised(x, *moments(x), gamma, beta), x, gamma, beta)
        return y, pullback(g)

    return lambda: jax.block_until_ready(both(x, gamma, beta, g))[1]


def w5_expression(a: Arrays) -> Step:
    p, q, r = (jnp.asarray(a[k]) for k in "abc")
    both = jax.jit(jax.value_and_grad(lambda p, q, r: ((p * q) + r).sum(), argnums=(0, 1, 2)))

    return lambda: jax.block_until_ready(both(p, q, r))[1]


def w5_chain(a: Arrays) -> Step:
    p, q = jnp.asarray(a["a"]), jnp.asarray(a["b"])

    def chain(y: Any) -> Any:
        for _ in range(1000):
            y = y + q
        return y.sum()

    both = jax.jit(jax.value_and_grad(chain))

    return lambda: jax.block_until_ready(both(p))[1]


def w6_forward(a: Arrays) -> Step:
    x, w, b = (jnp.asarray(a[k]) for k in ("x", "conv.weight", "conv.bias"))
    forward = jax.jit(lambda x, w, b: conv(x, w, b, 1))
    return lambda: jax.block_until_ready(forward(x, w, b))


def w6_both(a: Arrays) -> Step:
    x, w, b, g = (jnp.asarray(a[k]) for k in ("x", "conv.weight", "conv.bias", "g"))

    @jax.jit
    def both(x: Any, w: Any, b: Any, g: Any) -> Any:
        y, pullback = jax.vjp(lambda x, w, b: conv(x, w, b, 1), x, w, b)
        return y, pullback(g)

    return lambda: jax.block_until_ready(both(x, w, b, g))[1]


def evaluation(a: Arrays, batch: int) -> Step:
    p, y = parameters(a), a["y"]
    batches = [jnp.asarray(x) for x in in_batches(a["x"], batch)]

    @jax.jit
    def scores(p: Params, h: Any) -> Any:
        for i, n in ((1, 16), (2, 32)):
            h = conv(h, p[f"conv{i}.weight"], p[f"conv{i}.bias"], 1)
            running = jnp.zeros((1, n, 1, 1)), jnp.ones((1, n, 1, 1))
            h = max_pool(jax.nn.relu(normalised(h, *running, jnp.ones(n), jnp.zeros(n))))
        return h.reshape(len(h), -1) @ p["linear.weight"].T + p["linear.bias"]

    def step() -> tuple[Any, ...]:
        found = np.concatenate(jax.device_get([scores(p, x) for x in batches]))
        return (found.argmax(1) == y).mean(), found

    return step


def w7(a: Arrays) -> Step:
    return evaluation(a, 10_000)


def w7_batches(a: Arrays) -> Step:
    return evaluation(a, 500)
