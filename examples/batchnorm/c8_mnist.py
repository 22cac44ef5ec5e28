"""Claim 8: figure 1 of Ioffe and Szegedy (2015), on MNIST: three layers of 100 sigmoids, with and without
BatchNorm."""

from __future__ import annotations

from typing import Any

import minigrad as mg
from examples.batchnorm.finding import Finding
from minigrad import data, optim
from minigrad import functional as F
from models.mlp import MLP

TITLE = "The paper's MNIST experiment"
QUESTION = "Does BatchNorm train the paper's network faster, and does it steady the inputs of its sigmoids?"

PAPER_STEPS, DEFAULT_STEPS, BATCH = 50_000, 3_000, 60
UNIT = 7
"""The sigmoid of the last hidden layer that is watched: any would do."""


def accuracy(model: MLP, x: mg.Tensor, labels: mg.Tensor) -> float:
    """The share of right answers in evaluation mode."""
    model.eval()
    with mg.no_grad():
        right = sum(
            int((model(x[i : i + 2000]).argmax(1) == labels[i : i + 2000]).sum().item()) for i in range(0, len(x), 2000)
        )
    model.train()
    return right / len(x)


def sigmoid_input(model: MLP, x: mg.Tensor) -> list[float]:
    """{15, 50, 85}th percentiles of what one sigmoid of the last hidden layer is given for the images x."""
    model.eval()
    with mg.no_grad():
        z = x
        for layer in model.hidden.layers[:-1]:
            z = layer(z)
    model.train()
    ordered = sorted(z[:, UNIT].tolist())
    return [ordered[int(share * (len(ordered) - 1))] for share in (0.15, 0.5, 0.85)]


def train(dataset: data.Dataset, normalise: bool, steps: int, lr: float = 0.1) -> dict[str, list[Any]]:
    """Test accuracy and percentiles at about forty points of a training run by plain SGD."""
    mg.random.seed(0)
    model = MLP(normalise=normalise)
    optimizer = optim.SGD(model.named_parameters(), lr=lr)
    batches = data.Batches(dataset.train_images, dataset.train_labels, BATCH, seed=1)
    test = data.Batches(dataset.test_images, dataset.test_labels, len(dataset.test_images), shuffle=False)
    images, labels = next(iter(test))
    seen: dict[str, list[Any]] = {"step": [], "accuracy": [], "percentiles": []}
    every = max(1, steps // 40)
    step = 0
    while step < steps:
        for x, y in batches:
            if step % every == 0:
                seen["step"].append(step)
                seen["accuracy"].append(accuracy(model, images, labels))
                seen["percentiles"].append(sigmoid_input(model, images[:1000]))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            step += 1
            if step == steps:
                break
    seen["step"].append(step)
    seen["accuracy"].append(accuracy(model, images, labels))
    seen["percentiles"].append(sigmoid_input(model, images[:1000]))
    return seen


def first_step_above(seen: dict[str, list[Any]], level: float) -> int | None:
    """The first measured step at which the test accuracy reaches `level`."""
    return next((s for s, a in zip(seen["step"], seen["accuracy"], strict=True) if a >= level), None)


def steadiness(seen: dict[str, list[Any]]) -> float:
    """The widest spread (85th less 15th percentile) over the narrowest, from the second point on: 1 is steady."""
    widths = [high - low for low, _, high in seen["percentiles"][1:]]
    return max(widths) / min(widths)


def run(full: bool = False, steps: int | None = None, dataset: data.Dataset | None = None) -> Finding:
    claim = (
        "With BatchNorm the paper's network trains faster and further on MNIST, and the inputs of its sigmoids are "
        "spread more steadily while it trains."
    )
    steps = steps if steps is not None else PAPER_STEPS if full else DEFAULT_STEPS
    if dataset is None:
        try:
            dataset = data.mnist()
        except data.DataError as error:
            return Finding(claim, f"needs MNIST: {error}", None, [str(error)])
    runs = {"with BatchNorm": train(dataset, True, steps), "without": train(dataset, False, steps)}
    end = {name: seen["accuracy"][-1] for name, seen in runs.items()}
    level = max(runs["without"]["accuracy"])
    sooner = first_step_above(runs["with BatchNorm"], level)
    spread = {name: steadiness(seen) for name, seen in runs.items()}

    def draw(figure: Any) -> None:
        a1, a2, a3 = figure.subplots(1, 3)
        for name, seen in runs.items():
            a1.plot(seen["step"], seen["accuracy"], label=name, lw=1.2)
        a1.set(xlabel="step", title="test accuracy", ylim=(0.7 if min(end.values()) > 0.75 else 0.0, 1.0))
        a1.legend(fontsize=8)
        for axis, (name, seen) in zip((a3, a2), runs.items(), strict=True):
            for k, share in enumerate((15, 50, 85)):
                axis.plot(seen["step"], [p[k] for p in seen["percentiles"]], lw=1, label=f"{share}th percentile")
            axis.set(xlabel="step", title=f"input of a sigmoid, {name}")
        a2.legend(fontsize=8)
        for axis in (a1, a2, a3):
            axis.locator_params(axis="x", nbins=5)
        low = min(a2.get_ylim()[0], a3.get_ylim()[0])
        high = max(a2.get_ylim()[1], a3.get_ylim()[1])
        a2.set_ylim(low, high)
        a3.set_ylim(low, high)

    reached = f"after {sooner} steps" if sooner is not None else "never"
    return Finding(
        claim,
        f"after {steps} steps {end['with BatchNorm']:.2%} with and {end['without']:.2%} without; BatchNorm reaches "
        f"the other's best {reached}; the spread of a sigmoid's input varies {spread['with BatchNorm']:.1f}-fold "
        f"with and {spread['without']:.1f}-fold without",
        end["with BatchNorm"] > end["without"] and sooner is not None and sooner < steps
        and spread["with BatchNorm"] < spread["without"],
        [
            "784 - 100 - 100 - 100 - 10 with sigmoids, Gaussian weights of standard deviation 0.1, batches of 60, "
            f"SGD with the learning rate 0.1 for both (the paper does not name its own), {steps} of the paper's "
            f"{PAPER_STEPS} steps, on {dataset.name} ({dataset.source}).",
            "The percentiles are those of one sigmoid's input in the last hidden layer over 1000 test images, in "
            "evaluation mode. Without BatchNorm it starts out almost constant and has to be widened by the layers "
            f"below, {spread['without']:.1f}-fold in all; with BatchNorm its spread is of order one from the first "
            "steps on. Its median is no steadier than without: it jitters with the running statistics, which "
            "remember ten batches.",
        ],
        {"accuracy": end, "sooner": sooner, "spread": spread, "runs": runs},
        draw,
    )  # fmt: skip
