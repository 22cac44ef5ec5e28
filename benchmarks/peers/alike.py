"""The workloads in the words that PyTorch and minigrad share: layers, functions, optimizers, `backward`.

One text for both, so that what is compared is the frameworks and not how somebody wrote for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.workloads import Arrays, in_batches, state

Step = Callable[[], Any]
Make = Callable[[Arrays], Step]


def bn_cnn(nn: Any) -> Any:
    """The small CNN with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip


def training_step(F: Any, optim: Any, model: Any, x: Any, y: Any) -> Step:
    """A step on one batch, of which the loss comes back."""
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def workloads(
    framework: Any, nn: Any, F: Any, optim: Any, prepared: Callable[[Any], Any] = lambda model: model
) -> dict[str, Make]:  # fmt: skip
    """For each workload by name the function that makes its step. prepared: what is done to a model before."""
    tensor = framework.tensor

    def leaves(a: Arrays, *names: str) -> list[Any]:
        return [tensor(a[name], requires_grad=True) for name in names]

    def loaded(model: Any, weights: dict[str, Any]) -> Any:
        model.load_state_dict({name: tensor(values) for name, values in weights.items()}, strict=False)
        return prepared(model)

    def cnn(a: Arrays) -> Any:
        return loaded(bn_cnn(nn), state(a, {"conv1": "0", "conv2": "4", "linear": "9"}))

    def lenet(a: Arrays) -> Any:
        model = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip
        names = {"conv1": "0", "conv2": "3", "linear1": "7", "linear2": "9", "linear3": "11"}
        return loaded(model, state(a, names))

    def mlp(a: Arrays) -> Any:
        model = nn.Sequential(
            nn.Linear(784, 100), nn.Sigmoid(), nn.Linear(100, 100), nn.Sigmoid(), nn.Linear(100, 100), nn.Sigmoid(),
            nn.Linear(100, 10),
        )  # fmt: skip
        return loaded(model, state(a, {"linear1": "0", "linear2": "2", "linear3": "4", "linear4": "6"}))

    def training(model: Any, a: Arrays) -> Step:
        return training_step(F, optim, model, tensor(a["x"]), tensor(a["y"]))

    def batch_norm(a: Arrays) -> Step:
        layer = loaded(nn.Sequential(nn.BatchNorm2d(32)), {"0.weight": a["gamma"], "0.bias": a["beta"]})
        (x,), g = leaves(a, "x"), tensor(a["g"])

        def step() -> tuple[Any, ...]:
            layer.zero_grad()
            x.grad = None
            layer(x).backward(g)
            return x.grad, *(p.grad for p in layer.parameters())

        return step

    def batch_norm_of_primitives(a: Arrays) -> Step:
        (x,), g = leaves(a, "x"), tensor(a["g"])
        gamma, beta = (tensor(a[k].reshape(1, 32, 1, 1), requires_grad=True) for k in ("gamma", "beta"))

        def normalised() -> Any:
            mean = x.mean((0, 2, 3), keepdims=True)
            centred = x - mean
            var = (centred * centred).mean((0, 2, 3), keepdims=True)
            return gamma * centred / framework.sqrt(var + 1e-5) + beta

        return differentiated(normalised, [x, gamma, beta], g)

    def expression(a: Arrays) -> Step:
        p, q, r = leaves(a, "a", "b", "c")

        def step() -> tuple[Any, ...]:
            p.grad = q.grad = r.grad = None
            ((p * q) + r).sum().backward()
            return p.grad, q.grad, r.grad

        return step

    def chain(a: Arrays) -> Step:
        (p,), q = leaves(a, "a"), tensor(a["b"])

        def step() -> Any:
            p.grad = None
            y = p
            for _ in range(1000):
                y = y + q
            y.sum().backward()
            return p.grad

        return step

    def convolution(a: Arrays) -> Step:
        x, w, b = (tensor(a[k]) for k in ("x", "conv.weight", "conv.bias"))
        return lambda: F.conv2d(x, w, b, padding=1)

    def convolution_both_ways(a: Arrays) -> Step:
        x, w, b = inputs = leaves(a, "x", "conv.weight", "conv.bias")
        return differentiated(lambda: F.conv2d(x, w, b, padding=1), inputs, tensor(a["g"]))

    def evaluation(a: Arrays, batch: int) -> Step:
        model = cnn(a)
        model.eval()
        batches, y = [tensor(x) for x in in_batches(a["x"], batch)], a["y"]

        def step() -> tuple[Any, ...]:
            with framework.no_grad():
                scores = np.concatenate([model(x).numpy() for x in batches])
            return (scores.argmax(1) == y).mean(), scores

        return step

    def differentiated(f: Callable[[], Any], inputs: list[Any], g: Any = None) -> Step:
        """f and its pullback, of ones where no cotangent is given."""
        g = framework.ones_like(f()) if g is None else g

        def step() -> tuple[Any, ...]:
            for t in inputs:
                t.grad = None
            f().backward(g)
            return tuple(t.grad for t in inputs)

        return step

    def of_x(f: Callable[[Any], Any]) -> Make:
        def make(a: Arrays) -> Step:
            (x,) = leaves(a, "x")
            return differentiated(lambda: f(x), [x])

        return make

    def first_convolution(a: Arrays) -> Step:
        images, (w, b) = tensor(a["images"]), leaves(a, "first.weight", "first.bias")
        return differentiated(lambda: F.conv2d(images, w, b, padding=1), [w, b])

    def linear(a: Arrays) -> Step:
        inputs = leaves(a, "rows", "linear.weight", "linear.bias")
        return differentiated(lambda: F.linear(*inputs), inputs)

    return {
        "w1": lambda a: training(cnn(a), a),
        "w2": lambda a: training(lenet(a), a),
        "w3": lambda a: training(mlp(a), a),
        "w4": batch_norm,
        "w4_primitives": batch_norm_of_primitives,
        "w5_expression": expression,
        "w5_chain": chain,
        "w6_forward": convolution,
        "w6_both": convolution_both_ways,
        "w7": lambda a: evaluation(a, 10_000),
        "w7_batches": lambda a: evaluation(a, 500),
        "op_relu": of_x(framework.relu),
        "op_max_pool": of_x(lambda x: F.max_pool2d(x, 2)),
        "op_conv_first": first_convolution,
        "op_linear": linear,
    }
