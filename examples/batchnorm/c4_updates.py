"""Claim 4: gamma and beta are updated like any other parameter."""

from __future__ import annotations

from typing import Any

import minigrad as mg
from examples.batchnorm.finding import Finding
from minigrad import functional as F
from minigrad import nn, optim, study

TITLE = "How are gamma and beta updated?"
QUESTION = "How are gamma and beta updated?"


def finite_difference(f: Any, p: mg.Tensor, h: float = 1e-5) -> list[float]:
    """Central differences of a scalar function in every element of a 1-d parameter."""
    slopes = []
    for i in range(p.size):
        step = h * mg.eye(p.size, dtype=p.dtype)[i]
        slopes.append((f(p + step) - f(p - step)).item() / (2 * h))
    return slopes


def relative(a: Any, b: Any) -> float:
    """The largest difference over the largest value."""
    return float(abs(a - b).max() / abs(b).max())


def decayed(which: str, steps: int) -> tuple[list[float], list[float]]:
    """Mean |gamma| and loss of a small regression when only W, only gamma and beta, or nothing is decayed."""
    mg.random.seed(2)
    model = nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
    x = mg.random.normal(256, 6)
    target = mg.sin(2 * x @ mg.random.normal(6, 1))
    first, bn, last = model[0].weight, [model[1].weight, model[1].bias], list(model[3].parameters())
    optimizer = optim.SGD(
        [
            {"params": [first], "weight_decay": 0.1 if which == "W" else 0.0},
            {"params": bn, "weight_decay": 0.1 if which == "gamma and beta" else 0.0},
            {"params": last},
        ],
        lr=0.05,
    )
    gammas, losses = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        gammas.append(float(abs(bn[0].numpy()).mean()))
        losses.append(loss.item())
    return gammas, losses


def run(full: bool = False) -> Finding:
    mg.random.seed(0)
    x = mg.random.normal(20, 4, mean=1.0, std=2.0, dtype=mg.float64, requires_grad=True)
    g = mg.random.normal(20, 4, dtype=mg.float64)
    gamma = mg.tensor([1.5, -0.5, 2.0, 0.1], dtype=mg.float64, requires_grad=True)
    beta = mg.tensor([0.3, -0.2, 1.0, 0.0], dtype=mg.float64, requires_grad=True)
    y, _, _ = F.batch_norm(x, gamma, beta)
    dx, dgamma, dbeta = mg.grad(y, [x, gamma, beta], g)
    paper = study.paper_gradients(x, gamma, g)
    by_paper = max(relative(a.numpy(), b.numpy()) for a, b in zip((dx, dgamma, dbeta), paper, strict=True))
    constant = x.detach()
    numeric_gamma = finite_difference(lambda p: (F.batch_norm(constant, p, beta.detach())[0] * g).sum(), gamma.detach())
    numeric_beta = finite_difference(lambda p: (F.batch_norm(constant, gamma.detach(), p)[0] * g).sum(), beta.detach())
    by_difference = max(
        relative(dgamma.numpy(), mg.tensor(numeric_gamma, dtype=mg.float64).numpy()),
        relative(dbeta.numpy(), mg.tensor(numeric_beta, dtype=mg.float64).numpy()),
    )

    layer = nn.BatchNorm1d(4).to_dtype(mg.float64)
    assert layer.weight is not None and layer.bias is not None
    layer.weight.update(gamma.detach())
    layer.bias.update(beta.detach())
    optimizer = optim.SGD([{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias], "lr": 0.01}])
    (layer(constant) * g).sum().backward()
    optimizer.step()
    stepped = max(
        float(abs(layer.weight.numpy() - (gamma - 0.1 * dgamma).numpy()).max()),
        float(abs(layer.bias.numpy() - (beta - 0.01 * dbeta).numpy()).max()),
    )

    steps = 1500 if full else 400
    runs = {which: decayed(which, steps) for which in ("nothing", "W", "gamma and beta")}
    shrunk = runs["gamma and beta"][0][-1] / runs["nothing"][0][-1]
    worse = {which: losses[-1] for which, (_, losses) in runs.items()}

    def draw(figure: Any) -> None:
        a1, a2 = figure.subplots(1, 2)
        for which, (gammas, losses) in runs.items():
            a1.plot(gammas, label=f"decay of {which}", lw=1)
            a2.plot(losses, label=f"decay of {which}", lw=1)
        a1.set(xlabel="step", title="mean |gamma|", ylim=0)
        a2.set(xlabel="step", title="loss", ylim=(0, 0.8))
        a1.legend(fontsize=8)
        a2.legend(fontsize=8)

    return Finding(
        "gamma and beta are ordinary parameters: autodiff, the paper's formulas and finite differences give one "
        "gradient, and any optimizer moves them.",
        f"against the paper's formulas {by_paper:.0g}, against finite differences {by_difference:.0g}, a step with "
        f"two learning rates exact to {stepped:.0g}; decay shrinks gamma to {shrunk:.0%}",
        by_paper < 1e-11 and by_difference < 1e-7 and stepped < 1e-14 and shrunk < 0.8
        and worse["gamma and beta"] > worse["nothing"],
        [
            "The sums dgamma = sum of dy x-hat and dbeta = sum of dy come out of the tape without any rule for "
            "BatchNorm. Their step is the optimizer's, with a learning rate of their own where a parameter group "
            "says so.",
            "Decaying gamma and beta is another matter than decaying weights. W in front of BatchNorm can be shrunk "
            "freely: the function stays, only the effective learning rate rises. gamma and beta are the scale and "
            "the place of what the next layer sees; pulling them to zero changes the function and costs loss. "
            "minigrad's optim.decay_groups leaves them out.",
        ],
        {"paper": by_paper, "difference": by_difference, "stepped": stepped, "shrunk": shrunk,
         **{f"loss {k}": v for k, v in worse.items()}},
        draw,
    )  # fmt: skip
