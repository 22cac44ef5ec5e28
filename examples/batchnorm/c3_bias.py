"""Claim 3: a bias before BatchNorm, with and without the dependence of the mean on it."""

from __future__ import annotations

from typing import Any

import minigrad as mg
from examples.batchnorm.finding import Finding
from minigrad import functional as F
from minigrad import nn, optim

TITLE = "Ignoring that E[x] depends on b"
QUESTION = "What happens when the gradient step ignores that the batch's mean depends on the bias?"


def centred_loss(u: mg.Tensor, b: mg.Tensor, target: mg.Tensor, ignore: bool) -> mg.Tensor:
    """Mean squared error of (u + b) - E[u + b]; `ignore` treats the expectation as a constant."""
    x = u + b
    mean = x.mean(0, keepdims=True)
    return F.mse_loss(x - (mean.detach() if ignore else mean), target)


def drift(ignore: bool, steps: int) -> tuple[list[float], list[float]]:
    """b and the loss under gradient steps; float64."""
    mg.random.seed(0)
    u = mg.random.normal(64, 1, dtype=mg.float64)
    target = mg.random.normal(64, 1, dtype=mg.float64) + 1.0
    b = mg.zeros(1, dtype=mg.float64, requires_grad=True)
    values, losses = [], []
    for _ in range(steps):
        loss = centred_loss(u, b, target, ignore)
        values.append(b.item())
        losses.append(loss.item())
        b = mg.tensor(b.numpy() - 0.1 * mg.grad(loss, b).numpy(), requires_grad=True)
    return values, losses


def adam_bias(kind: Any, steps: int, dtype: Any = mg.float32) -> list[float]:
    """The largest |b| of a linear layer in front of BatchNorm while an optimizer trains it."""
    mg.random.seed(0)
    first, bn, last = nn.Linear(10, 16), nn.BatchNorm1d(16), nn.Linear(16, 1)
    model = nn.Sequential(first, bn, nn.Tanh(), last).to_dtype(dtype)
    x = mg.random.normal(256, 10, dtype=dtype)
    target = mg.sin(x @ mg.random.normal(10, 1, dtype=dtype))
    start = first.bias.detach().numpy().copy()  # type: ignore[union-attr]
    optimizer = kind(model.named_parameters(), lr=1e-2)
    moved = []
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x), target).backward()
        optimizer.step()
        moved.append(float(abs(first.bias.numpy() - start).max()))  # type: ignore[union-attr]
    return moved


def run(full: bool = False) -> Finding:
    steps = 200
    naive_b, naive_loss = drift(True, steps)
    right_b, right_loss = drift(False, steps)
    moved = max(naive_loss) - min(naive_loss)

    mg.random.seed(1)
    u = mg.random.normal(64, 1, dtype=mg.float64)
    target = mg.random.normal(64, 1, dtype=mg.float64)
    b = mg.tensor([0.3], dtype=mg.float64, requires_grad=True)
    correct = abs(mg.grad(centred_loss(u, b, target, False), b).item())
    one = mg.full((64, 1), 0.7, dtype=mg.float64)
    each = mg.random.normal(64, 1, std=0.7, dtype=mg.float64)
    shift_one = abs((u + one) - (u + one).mean(0) - (u - u.mean(0))).max().item()
    shift_each = abs((u + each) - (u + each).mean(0) - (u - u.mean(0))).max().item()
    bent = mg.relu(u + b)
    behind = abs(mg.grad(F.mse_loss(bent - bent.mean(0, keepdims=True), target), b).item())

    count = 4000 if full else 1000
    walks = {
        "Adam, float32": adam_bias(optim.Adam, count),
        "Adam, float64": adam_bias(optim.Adam, count, mg.float64),
        "SGD, float32": adam_bias(optim.SGD, count),
    }
    farthest = {name: max(walk) for name, walk in walks.items()}

    def draw(figure: Any) -> None:
        a1, a2, a3 = figure.subplots(1, 3)
        a1.plot(naive_b, label="E[x] taken as a constant")
        a1.plot(right_b, label="with its gradient")
        a1.set(xlabel="step", title="b")
        a1.legend(fontsize=8)
        a2.plot(naive_loss, label="E[x] taken as a constant")
        a2.plot(right_loss, "--", label="with its gradient")
        a2.set(xlabel="step", title="loss", ylim=(0, 1.2 * max(naive_loss)))
        for (name, walk), style in zip(walks.items(), ("-", "-", "--"), strict=True):
            a3.plot(walk, style, label=f"{name}: up to {farthest[name]:.2g}", lw=1.2)
        a3.set(xlabel="step", title="largest |change of b| before BatchNorm")
        a3.legend(fontsize=8)

    return Finding(
        "Taken as a constant, E[x] lets b drift without end while the loss stands still; the true gradient of b is "
        "0; rounding noise is enough for Adam to move b in float32.",
        f"naive: b = {naive_b[-1]:.1f} after {steps} steps, loss moved by {moved:.0g}; correct gradient "
        f"{correct:.0g}; Adam in float32 moved a dead bias by {farthest['Adam, float32']:.2f}, SGD by "
        f"{farthest['SGD, float32']:.0g}",
        abs(naive_b[-1]) > 5 and moved < 1e-12 and correct < 1e-15 and shift_one < 1e-14 and shift_each > 0.1
        and behind > 1e-3 and farthest["Adam, float32"] > 0.1 and farthest["SGD, float32"] < 1e-4,
        [
            "This is the example in section 2 of the paper. A step on b alone changes u + b and its mean by the same "
            "amount, so the normalised value, and the loss, are what they were: E[u + b + delta] = E[u + b] + delta. "
            f"That holds because delta is one number for the batch (the centred values move by {shift_one:.0g}). "
            f"With a delta of its own for each sample they move by up to {shift_each:.1f}, and with a nonlinearity "
            f"between b and the mean the gradient of b is no longer zero ({behind:.2g}).",
            "Differentiating the mean as well gives b the gradient 0, exactly in mathematics and to the last digit "
            "here. In float32 the zero is rounding noise, a few 1e-9 (Adam's eps is 1e-8), and Adam divides every "
            "gradient by its own size: a bias in front of BatchNorm then walks off on noise alone. It harms nothing "
            "until the numbers are large, and it is why layers before BatchNorm are built with bias=False. Plain SGD "
            "leaves it where it is; in float64 the noise is far below Adam's eps.",
        ],
        {"naive_b": naive_b[-1], "naive_loss_moved": moved, "correct": correct, "one": shift_one, "each": shift_each,
         "nonlinear": behind, **farthest},
        draw,
    )  # fmt: skip
