"""Claim 1: BatchNorm is not pointless although an affine map could undo it."""

from __future__ import annotations

from typing import Any

import minigrad as mg
from examples.batchnorm.finding import Finding
from minigrad import functional as F
from minigrad import nn, optim, study

TITLE = "Is BatchNorm pointless?"
QUESTION = "Is BatchNorm pointless, since gamma and beta could undo it?"


class Affine(nn.Module):
    """gamma' x + beta': BatchNorm's function class without its gradients."""

    def __init__(self, features: int) -> None:
        self.weight = nn.Parameter(mg.ones(features))
        self.bias = nn.Parameter(mg.zeros(features))

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return x * self.weight + self.bias


class Imitation(Affine):
    """The affine map that BatchNorm is on the first batch it sees: the same function, until the first step."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.started = False

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        if not self.started:
            slope, shift = study.affine_equivalent(x, self.weight, self.bias)
            self.weight.update(slope.reshape(-1))
            self.bias.update(shift.reshape(-1))
            self.started = True
        return super().forward(x)


KINDS = {
    "BatchNorm": nn.BatchNorm1d,
    "affine map, gamma' = 1 and beta' = 0 at first": Affine,
    "affine map that starts as BatchNorm": Imitation,
}


def train(kind: Any, steps: int, lr: float = 0.5) -> list[float]:
    """Losses of a small net with four sigmoid layers on badly scaled inputs, `kind` in front of each."""
    mg.random.seed(1)
    width = 24
    layers: list[Any] = []
    for features in (8, width, width, width):
        layers += [nn.Linear(features, width), kind(width), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(width, 3))
    scale = mg.tensor([0.05, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0])
    x = mg.random.normal(512, 8)
    labels = (x @ mg.random.normal(8, 3)).argmax(1)
    x = x * scale + 3.0 * scale
    optimizer = optim.SGD(model.named_parameters(), lr=lr)
    losses = []
    for step in range(steps):
        rows = mg.arange(64) + 64 * (step % 8)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run(full: bool = False) -> Finding:
    mg.random.seed(0)
    gamma, beta = mg.tensor([1.5, 0.5, 2.0], dtype=mg.float64), mg.tensor([0.3, -0.2, 1.0], dtype=mg.float64)
    slopes, apart, gaps = [], [], []
    for _ in range(200):
        x = mg.random.normal(32, 3, mean=2.0, std=3.0, dtype=mg.float64, requires_grad=True)
        g = mg.random.normal(32, 3, dtype=mg.float64)
        y, _, _ = F.batch_norm(x, gamma, beta)
        slope, shift = study.affine_equivalent(x, gamma, beta)
        z = x * slope + shift
        through_bn, through_affine = mg.grad(y, x, g), mg.grad(z, x, g)
        apart.append(abs(y - z).max().item())
        gaps.append((mg.norm(through_bn - through_affine) / mg.norm(through_affine)).item())
        slopes.append(slope.reshape(-1).numpy() / gamma.numpy())
    spread = float((mg.tensor(slopes).std(0) / mg.tensor(slopes).mean(0)).mean().item())
    steps = 2000 if full else 600
    curves = {name: train(kind, steps) for name, kind in KINDS.items()}
    ours, *others = (sum(losses[-40:]) / 40 for losses in curves.values())
    first, _, same = (losses[0] for losses in curves.values())
    gap = sum(gaps) / len(gaps)

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        left.plot([s[0] for s in slopes], lw=1, label="1 / sigma of the batch")
        left.axhline(1 / 3, color="k", ls=":", lw=1, label="1 / sigma of the population")
        left.set(xlabel="batch", ylabel="gamma' / gamma", title="gamma' must follow every batch")
        left.legend(fontsize=8)
        for name, losses in curves.items():
            smooth = [sum(losses[i - 7 : i + 1]) / 8 for i in range(7, len(losses))]
            right.plot(range(7, len(losses)), smooth, label=name, lw=1)
        right.set(xlabel="step", ylabel="cross entropy, mean of 8 batches", ylim=(0, 1.7))
        right.set_title("same function class, same learning rate")
        right.legend(fontsize=8)

    return Finding(
        "On every batch BatchNorm equals an affine map with some gamma' and beta', but not in its gradients, and "
        "those gamma' and beta' change with every batch.",
        f"outputs equal to {max(apart):.0g}; gradients differ by {gap:.0%}; gamma' varies by {spread:.1%} from batch "
        f"to batch; final loss {ours:.2f}, and {min(others):.2f} at best with an affine map",
        max(apart) < 1e-12 and gap > 0.05 and spread > 0.05 and ours < 0.6 * min(others) and abs(first - same) < 1e-5,
        [
            "What a network can express is the same: given one batch, gamma' = gamma / sigma and beta' = beta - "
            "gamma' mean do exactly what BatchNorm does. What changes is how it is trained. BatchNorm's gradient has "
            "the parts along 1 and along x-hat taken out, which the affine map's has not, and the affine parameters "
            "that would undo or imitate it are no constants: they follow the statistics of every batch.",
            "The training curves are of one network on badly scaled inputs, with the same learning rate and the same "
            "initial weights. The third has affine maps that are BatchNorm on the first batch: both begin with the "
            f"loss {first:.3f}, and only the gradients, and what later batches are normalised by, differ.",
        ],
        {"apart": max(apart), "gradient_gap": gap, "spread": spread, "loss": ours, "affine losses": others,
         "first losses": (first, same)},
        draw,
    )  # fmt: skip
