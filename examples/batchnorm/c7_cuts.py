"""Claim 7: training with the gradient of the moments cut."""

from __future__ import annotations

from typing import Any

import minigrad as mg
from examples.batchnorm.finding import Finding
from minigrad import functional as F
from minigrad import nn, optim, study

TITLE = "Why take the gradient of the moments?"
QUESTION = "Why take the gradient of the moments at all?"

CUTS = {
    "full gradient": (True, True),
    "mean cut": (False, True),
    "variance cut": (True, False),
    "both cut": (False, False),
}
"""For each run, whether the gradient goes through the mean and through the variance."""


class CutNorm(nn.Module):
    """BatchNorm whose gradient may ignore the batch's mean, its variance, or both. Values are those of BatchNorm."""

    def __init__(self, features: int, through_mean: bool, through_var: bool) -> None:
        self.gamma, self.beta = mg.ones(features), mg.zeros(features)
        self.through_mean, self.through_var = through_mean, through_var

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return study.batch_norm(x, self.gamma, self.beta, 1e-5, self.through_mean, self.through_var)


def train(
    cut: tuple[bool, bool], steps: int, lr: float = 0.2, depth: int = 6, width: int = 32
) -> dict[str, list[float]]:
    """Loss, norm and bias of the first layer's weights, and rms pre-activations, of a net of ReLU layers."""
    mg.random.seed(3)
    layers: list[nn.Module] = []
    for features in (10, *[width] * (depth - 1)):
        layers += [nn.Linear(features, width), CutNorm(width, *cut), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 4))
    x = mg.random.normal(512, 10)
    labels = mg.sin(2 * x @ mg.random.normal(10, 4)).argmax(1)
    first, rest = model[0], model[1:]
    optimizer = optim.SGD(model.named_parameters(), lr=lr)
    seen: dict[str, list[float]] = {"loss": [], "norm of W": [], "largest |b|": [], "activations": []}
    for step in range(steps):
        rows = mg.arange(64) + 64 * (step % 8)
        optimizer.zero_grad()
        z = first(x[rows])
        loss = F.cross_entropy(rest(z), labels[rows])
        loss.backward()
        seen["loss"].append(loss.item())
        seen["norm of W"].append(mg.norm(first.weight.detach()).item())
        seen["largest |b|"].append(float(abs(first.bias.numpy()).max()))
        seen["activations"].append(mg.sqrt((z * z).mean()).item())
        optimizer.step()
    return seen


def run(full: bool = False) -> Finding:
    steps = 2000 if full else 500
    runs = {name: train(cut, steps) for name, cut in CUTS.items()}

    mg.random.seed(0)
    w = mg.random.normal(6, 4, dtype=mg.float64, requires_grad=True)
    u, g = mg.random.normal(32, 6, dtype=mg.float64), mg.random.normal(32, 4, dtype=mg.float64)
    gamma, beta = mg.tensor([1.5, 0.5, 2.0, 1.0], dtype=mg.float64), mg.zeros(4, dtype=mg.float64)
    along_w, along_one = {}, {}
    for name, cut in CUTS.items():
        z = u @ w
        y = study.batch_norm(z, gamma, beta, 0.0, *cut)
        dz, dw = mg.grad(y, [z, w], g)
        along_w[name] = abs((dw * w).sum().item()) / (mg.norm(dw) * mg.norm(w)).item()
        along_one[name] = (mg.norm(dz.sum(0)) / mg.norm(dz)).item()

    end = {name: {key: sum(values[-40:]) / 40 for key, values in seen.items()} for name, seen in runs.items()}

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 4)
        for axis, key in zip(axes, ("loss", "norm of W", "largest |b|", "activations"), strict=True):
            for (name, seen), style in zip(runs.items(), ("-", "-", "--", "-"), strict=True):
                axis.plot(seen[key], style, lw=1, label=name)
            axis.set(xlabel="step", title=key if key != "activations" else "rms of Wu + b")
        axes[0].set_yscale("log")
        axes[0].legend(fontsize=8)

    cut_worse = min(end[name]["loss"] for name in CUTS if name != "full gradient")
    grown = end["both cut"]["activations"] / end["full gradient"]["activations"]
    return Finding(
        "Without the gradient of the moments, steps go along directions that normalisation takes out again: weights "
        "and biases grow, activations with them, and the loss falls more slowly or not at all.",
        f"final loss {end['full gradient']['loss']:.2g} in full, at best {cut_worse:.2g} with a path cut; "
        f"pre-activations grow {grown:.1f} times as large with both cut; cos(W, dW): {along_w['full gradient']:.0g} "
        f"in full, {along_w['variance cut']:.2f} without the variance",
        along_w["full gradient"] < 1e-12 and along_w["variance cut"] > 1e-3 and along_one["full gradient"] < 1e-12
        and along_one["mean cut"] > 1e-2 and grown > 1.2 and end["full gradient"]["loss"] < cut_worse
        and end["mean cut"]["largest |b|"] > 2 * end["full gradient"]["largest |b|"],
        [
            "Cutting the mean leaves a part of the gradient along 1: it moves the bias, which normalisation "
            "subtracts again. Cutting the variance leaves a part along x-hat: it moves the scale of W, which "
            "normalisation divides out again. Either step spends the learning rate on nothing, and since nothing "
            "pushes back, weights and activations grow.",
            "All four runs compute the same values from the same weights; only the tape differs, by a detach().",
        ],
        {"along_w": along_w, "along_one": along_one, "grown": grown, "end": end},
        draw,
    )  # fmt: skip
