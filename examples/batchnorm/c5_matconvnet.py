"""Claim 5: the third weight of MatConvNet's bnorm is no weight: it is moved by averaging."""

from __future__ import annotations

import math
from typing import Any

import minigrad as mg
from examples.batchnorm.finding import Finding
from minigrad import functional as F
from minigrad import nn

TITLE = "MatConvNet's third weight"
QUESTION = "What is the mysterious third weight of MatConvNet's bnorm layer?"


class MatConvNetNorm:
    """MatConvNet's bnorm layer and the part of its training loop that concerns it (cnn_train, 2016).

    weights {gamma, beta, moments} with learning rates 1, 1, 0.05 and weight decay 0 for the moments.
    The layer's "gradient" of the moments is (mean, sqrt(var + eps)) of the batch times the batch size;
    the loop moves them with `(1 - rate) old + (rate / batch size) gradient`: trainMethod 'average'.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        self.eps = eps
        self.gamma = mg.ones(channels, dtype=mg.float64)
        self.beta = mg.zeros(channels, dtype=mg.float64)
        self.moments = mg.stack([mg.zeros(channels, dtype=mg.float64), mg.ones(channels, dtype=mg.float64)], 1)
        self.learning_rates = (1.0, 1.0, 0.05)

    def backward(self, x: mg.Tensor, g: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor, mg.Tensor]:
        """The layer's three "gradients" for a batch x and a cotangent g."""
        gamma, beta = mg.tensor(self.gamma, requires_grad=True), mg.tensor(self.beta, requires_grad=True)
        y, _, _ = F.batch_norm(x, gamma, beta, eps=self.eps)
        dgamma, dbeta = mg.grad(y, [gamma, beta], g)
        sigma = mg.sqrt(x.var(0) + self.eps)
        return dgamma, dbeta, mg.stack([x.mean(0), sigma], 1) * x.shape[0]

    def step(self, x: mg.Tensor, g: mg.Tensor, rate: float) -> None:
        """One step of the training loop with the network's learning rate `rate`."""
        dgamma, dbeta, dmoments = self.backward(x, g)
        self.gamma = self.gamma - rate * self.learning_rates[0] / x.shape[0] * dgamma
        self.beta = self.beta - rate * self.learning_rates[1] / x.shape[0] * dbeta
        own = self.learning_rates[2]  # not multiplied by the network's rate, no momentum, no decay
        self.moments = (1 - own) * self.moments + own / x.shape[0] * dmoments


def run(full: bool = False) -> Finding:
    mg.random.seed(0)
    theirs = MatConvNetNorm(2)
    ours = nn.BatchNorm1d(2, momentum=0.05).to_dtype(mg.float64)
    sigma_of_ours, means, sigmas = [], [], []
    roots = mg.ones(2, dtype=mg.float64)  # the same average, of sigma instead of var
    m = 10
    for step in range(600 if full else 300):
        spread = 1.0 + 0.8 * math.sin(step / 25)
        x = mg.random.normal(m, 2, mean=2.0, std=spread, dtype=mg.float64)
        theirs.step(x, mg.random.normal(m, 2, dtype=mg.float64), 0.1)
        ours(x)
        roots = 0.95 * roots + 0.05 * mg.sqrt(x.var(0) + 1e-5)
        assert ours.running_mean is not None and ours.running_var is not None
        biased = ours.running_var.detach() * ((m - 1) / m)
        sigma_of_ours.append(mg.sqrt(biased + 1e-5)[0].item())
        means.append(abs(theirs.moments[:, 0] - ours.running_mean.detach()).max().item())
        sigmas.append(theirs.moments[0, 1].item())
    mean_gap = max(means)
    root_gap = abs(theirs.moments[:, 1] - roots).max().item()
    late = range(100, len(sigmas))
    below = [sigma_of_ours[i] - sigmas[i] for i in late]
    jensen = sum(b / s for b, s in zip(below, sigma_of_ours[100:], strict=True)) / len(below)

    def draw(figure: Any) -> None:
        a1, a2 = figure.subplots(1, 2)
        a1.semilogy([max(v, 1e-18) for v in means], lw=1)
        a1.set(xlabel="step", title="|their mean - our running mean| (0 as 1e-18)", ylim=(1e-18, 1e-10))
        a2.plot(sigma_of_ours, lw=1, label="root of the averaged variance (ours)")
        a2.plot(sigmas, lw=1, label="average of the roots (MatConvNet)")
        a2.set(xlabel="step", title="sigma in evaluation mode")
        a2.legend(fontsize=8)

    return Finding(
        "MatConvNet's third weight is our two Buffers in another form: its mean equals ours exactly, its sigma "
        "cannot, since the average of sigma is not the sigma of the average.",
        f"means equal to {mean_gap:.0g}, sigma equal to an average of roots to {root_gap:.0g}, and {jensen:.1%} "
        "below the root of the average",
        mean_gap < 1e-13 and root_gap < 1e-13 and min(below) > 0 and jensen > 0.01,
        [
            "MatConvNet keeps (mean, sigma) of each channel as a third weight beside gamma and beta, with the "
            "learning rate 0.05. It is no weight: the layer writes the batch's moments, times the batch size, where "
            "a gradient would stand, and the loop's method 'average' divides by the batch size again and moves the "
            "weight towards them, without momentum and without decay. Learning rate 0.05 is thus our momentum 0.05: "
            "(1 - 0.05) old + 0.05 new.",
            "The means agree to rounding. MatConvNet averages sigma = sqrt(var + eps), we average the variance, and "
            "by Jensen's inequality the average of roots lies below the root of the average wherever the batches "
            "differ. No conversion afterwards can know by how much, so nn.batchnorm_from('matconvnet', ...) converts "
            "what evaluation computes exactly, and refuses to promise more.",
        ],
        {"mean_gap": mean_gap, "root_gap": root_gap, "jensen": jensen, "min_below": min(below)},
        draw,
    )
