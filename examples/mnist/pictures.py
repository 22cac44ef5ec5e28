"""What a trained network looks like: its curves, its confusions, its worst mistakes, its filters at work.

matplotlib is needed here and nowhere else; it draws into files and opens no window.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import data, nn, runs
from minigrad.tape import Reviewer
from models.resnet import Block

INK, PALE, GRID = "#22252b", "#8a909c", "#e4e6ea"
BLUE, RED = "#2f6fb7", "#c8452f"
STYLE = {
    "figure.facecolor": "white", "figure.dpi": 130, "savefig.bbox": "tight", "savefig.pad_inches": 0.25,
    "font.size": 10, "axes.titlesize": 11, "axes.titlepad": 10, "axes.titleweight": "bold",
    "axes.edgecolor": PALE, "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK,
    "xtick.color": PALE, "ytick.color": PALE, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid.axis": "y", "grid.color": GRID,
    "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip


def draw(run: runs.Run, dataset: data.Dataset, probabilities: np.ndarray, folder: Path) -> None:
    """Writes curves.png, confusion.png, mistakes.png and features.png into `folder`.

    probabilities: (n, classes), the model's for the test images.
    """
    matplotlib = importlib.import_module("matplotlib")
    figures = importlib.import_module("matplotlib.figure")
    with matplotlib.rc_context(STYLE):
        for name, picture in (
            ("curves", curves(figures, run)),
            ("confusion", confusion(figures, dataset, probabilities)),
            ("mistakes", mistakes(figures, dataset, probabilities)),
            ("features", features(figures, run, dataset)),
        ):
            picture.savefig(folder / f"{name}.png")


def curves(figures: Any, run: runs.Run) -> Any:
    """The loss as it fell, and the accuracy after each epoch."""
    tickers = importlib.import_module("matplotlib.ticker")
    history, trace = run.progress["history"], run.progress["trace"]
    epochs = [line["epoch"] for line in history]
    figure = figures.Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)

    left.set_title("Loss", loc="left")
    alone = {"marker": "o", "ms": 8, "mfc": "white"}  # a point, which no line shows and a full one may cover
    left.plot(
        [x for x, _ in trace], [loss for _, loss in trace], color=BLUE, lw=1.2, label="training",
        **(alone if len(trace) == 1 else {}),
    )  # fmt: skip
    left.plot(epochs, [line["test_loss"] for line in history], "o-", color=RED, ms=4, label="test")
    left.set_yscale("log")
    left.yaxis.set_major_locator(tickers.LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.minorticks_off()
    left.legend()

    right.set_title("Accuracy in per cent", loc="left")
    for key, colour, label in (("train_accuracy", BLUE, "training"), ("test_accuracy", RED, "test")):
        marks = alone if len(history) == 1 and colour == BLUE else {"marker": "o", "ms": 4}
        right.plot(epochs, [line[key] for line in history], color=colour, label=label, **marks)
    last = history[-1]["test_accuracy"]
    away = (0, -17 if history[-1]["train_accuracy"] > last else 9)  # from the other curve
    right.annotate(
        f"{last:.2f} %", (epochs[-1], last), away, textcoords="offset points", ha="right", color=RED, weight="bold"
    )
    lowest = min(min(line["train_accuracy"], line["test_accuracy"]) for line in history)
    right.set_ylim(lowest - 0.16 * (100 - lowest) - 0.05, 100 + 0.08 * (100 - lowest))
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.grid(True, axis="y")
        axes.set_xlabel("epoch")
        axes.set_xlim(0 if axes is left else 0.5, max(epochs) + 0.5)
        axes.set_xticks(epochs if len(epochs) <= 12 else epochs[:: -(-len(epochs) // 10)])
    return figure


def confusion(figures: Any, dataset: data.Dataset, probabilities: np.ndarray) -> Any:
    """What was taken for what. The right answers stand pale on the diagonal, so that the mistakes show."""
    names, truth, said = dataset.class_names, dataset.test_labels, probabilities.argmax(1)
    n = len(names)
    counts = np.zeros((n, n), int)
    np.add.at(counts, (truth, said), 1)
    wrong = counts * (1 - np.eye(n, dtype=int))
    figure = figures.Figure(figsize=(7.2, 6.4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{wrong.sum():,} of {len(truth):,} test images were taken for something else", loc="left")
    worst = max(wrong.max(), 1)
    axes.imshow(np.ma.masked_equal(wrong, 0), cmap="OrRd", vmin=-0.15 * worst, vmax=1.15 * worst)
    for i in range(n):
        for j in range(n):
            if i == j:
                axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", color=PALE, size=9)
            elif counts[i, j]:
                colour = "white" if counts[i, j] > 0.7 * worst else INK
                axes.text(j, i, counts[i, j], ha="center", va="center", color=colour, weight="bold")
        right = counts[i, i] / max(counts[i].sum(), 1)
        axes.text(n - 0.3, i, f"{100 * right:.1f} %", ha="left", va="center", color=INK)
    axes.text(n - 0.3, -0.75, "right", ha="left", va="center", color=PALE)
    long = max(map(len, names)) > 2
    axes.set_xticks(range(n), names, rotation=40 if long else 0, ha="right" if long else "center")
    axes.set_yticks(range(n), names)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(True, which="minor", axis="both", color=GRID, lw=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("what the network said")
    axes.set_ylabel("what was written")
    return figure


def mistakes(figures: Any, dataset: data.Dataset, probabilities: np.ndarray, rows: int = 3, columns: int = 8) -> Any:
    """The test images of which the network was surest and wrong, the surest first."""
    truth, said = dataset.test_labels, probabilities.argmax(1)
    wrong = np.flatnonzero(said != truth)
    worst = wrong[np.argsort(-probabilities[wrong, said[wrong]], kind="stable")][: rows * columns]
    columns = min(columns, max(len(worst), 3))
    rows = max(1, -(-len(worst) // columns))
    figure = figures.Figure(figsize=(1.35 * columns, 1.75 * rows + 0.7), layout="constrained")
    title = ["Surest mistakes: what the network said,", "how sure it was, and what was meant"]
    figure.suptitle(
        (" " if columns > 5 else "\n").join(title) if len(worst) else "There are no mistakes to show",
        x=0.01, ha="left", weight="bold", size=11,
    )  # fmt: skip
    for place, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if place < len(worst):
            i = worst[place]
            axes.imshow(dataset.test_images[i, 0], cmap="gray_r")
            sure = min(100 * probabilities[i, said[i]], 99.9)
            axes.set_title(f"{dataset.class_names[said[i]]}  {sure:.1f} %", loc="center", size=10, color=RED, pad=3)
            meant = f"meant: {dataset.class_names[truth[i]]}"
            axes.text(0.5, -0.03, meant, transform=axes.transAxes, ha="center", va="top", size=9)
    return figure


def features(figures: Any, run: runs.Run, dataset: data.Dataset, most: int = 16) -> Any:
    """The first layer's filters, and what becomes of one test image on its way through the network."""
    assert run.batches is not None
    first = data.Batches(
        dataset.test_images[:1], dataset.test_labels[:1], 1, shuffle=False, normalise=run.batches.normalise
    )
    x, _ = next(iter(first))
    strips = [("filters of the first layer (red: more ink, blue: less)", filters(run.model)[:most], True)]
    for path, y in activations(run.model, x):
        signed = bool(y.min() < 0)
        colours = " (red: above zero, blue: below)" if signed else ""
        if y.ndim == 1:
            thick = max(1, len(y) // 16)
            strips.append((f"after {path}: {len(y)} values{colours}", np.repeat(y[None, None], thick, axis=1), signed))
            continue
        shown = f"{most} of " if len(y) > most else ""
        strips.append((f"after {path}: {shown}{len(y)} maps of {y.shape[1]} x {y.shape[2]}{colours}", y[:most], signed))
    figure = figures.Figure(figsize=(12, 0.98 * len(strips) + 0.5), layout="constrained")
    name = dataset.class_names[int(dataset.test_labels[0])]
    figure.suptitle(f"What the network sees in this {name}", x=0.01, ha="left", weight="bold", size=11)
    grid = figure.add_gridspec(len(strips), 2, width_ratios=(1, 5))
    axes = figure.add_subplot(grid[:, 0])
    axes.imshow(dataset.test_images[0, 0], cmap="gray_r")
    axes.set_axis_off()
    for place, (title, tiles, signed) in enumerate(strips):
        axes = figure.add_subplot(grid[place, 1])
        row = side_by_side(tiles, most if len(tiles) > 1 else 1)
        axes.imshow(row, cmap="RdBu_r" if signed else "magma", vmin=-1 if signed else 0, vmax=1)
        axes.set_title(title, loc="left", size=9, weight="normal", pad=4)
        axes.set_axis_off()
    return figure


def side_by_side(tiles: np.ndarray, places: int) -> np.ndarray:
    """Images (m, h, w) in a row with gaps between them, each scaled to at most 1; empty places up to `places`."""
    _, h, w = tiles.shape
    gap = -(-w // 12)
    row = np.full((h, places * (w + gap) - gap), np.nan)
    for i, tile in enumerate(tiles):
        row[:, i * (w + gap) : i * (w + gap) + w] = tile / (np.abs(tile).max() or 1.0)
    return row


def filters(model: nn.Module) -> np.ndarray:
    """The first weight as small images: a convolution's kernels, or a linear layer's rows in the shape of the input."""
    weight = next(p for p in model.parameters() if p.ndim > 1).numpy()
    return weight[:, 0] if weight.ndim == 4 else weight.reshape(len(weight), 28, 28)


class Seen(Reviewer):
    """What the nonlinearities of a model give for an image, in order, as they are called."""

    def __init__(self, model: nn.Module) -> None:
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.maps: list[tuple[str, np.ndarray]] = []

    def called(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        y = super().called(module, args, kwargs)
        if isinstance(module, (nn.ReLU, nn.Tanh, nn.Sigmoid, Block)):
            self.maps.append((f"{self.paths[id(module)]} {type(module).__name__}", y.numpy()[0]))
        return y


def activations(model: nn.Module, x: mg.Tensor) -> list[tuple[str, np.ndarray]]:
    """For one image what each nonlinearity gives, in order, with its path: (channels, h, w) or (features,)."""
    model.eval()
    with Seen(model) as seen, mg.no_grad():
        model(x)
    return seen.maps
