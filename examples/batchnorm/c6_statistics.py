"""Claim 6: which statistics, over which axes, averaged how."""

from __future__ import annotations

from typing import Any

import minigrad as mg
from examples.batchnorm.finding import Finding
from minigrad import functional as F
from minigrad import nn, study
from minigrad.study import Statistics

TITLE = "Which statistics, and when?"
QUESTION = "One batch for all dimensions or one for each? And which statistics when?"

HEAD = ["framework", "name and default", "weight of the new value", "variance it averages", "what it stores"]
FRAMEWORKS = [
    ["Ioffe and Szegedy 2015", "a pass over the training set", "all batches alike", "unbiased, m/(m-1)", "mean, var"],
    ["PyTorch", "momentum = 0.1", "momentum", "unbiased", "mean, var"],
    ["PyTorch", "momentum = None", "1 / batches so far", "unbiased", "mean, var"],
    ["TensorFlow / Keras", "momentum (decay) = 0.99", "1 - momentum", "biased (fused kernels: unbiased)", "mean, var"],
    ["Flax", "momentum = 0.99", "1 - momentum", "biased", "mean, var"],
    ["Chainer", "decay = 0.9", "1 - decay", "unbiased", "mean, var"],
    ["Caffe", "moving_average_fraction = 0.999", "1, divided by a stored sum", "unbiased", "sums and their scale"],
    ["MatConvNet", "learning rate 0.05", "0.05", "biased, as sqrt(var + eps)", "mean, sigma"],
    ["Lasagne", "alpha = 0.1", "alpha", "biased, as 1 / sqrt(var + eps)", "mean, 1/sigma"],
]


def run(full: bool = False) -> Finding:
    mg.random.seed(0)
    steps, m = (4000 if full else 1000), 16
    true_mean, true_std = mg.tensor([2.0, -1.0], dtype=mg.float64), mg.tensor([1.0, 3.0], dtype=mg.float64)
    batches = [mg.random.normal(m, 2, dtype=mg.float64) * true_std + true_mean for _ in range(steps)]

    layer = nn.BatchNorm1d(2, momentum=0.1).to_dtype(mg.float64)
    cumulative = nn.BatchNorm1d(2, momentum=None).to_dtype(mg.float64)
    ours = Statistics(mg.zeros(2, dtype=mg.float64), mg.ones(2, dtype=mg.float64))
    tf_mean, tf_var = ours.mean, ours.var
    apart, biased_sum = 0.0, mg.zeros(2, dtype=mg.float64)
    track: dict[str, list[float]] = {"exponential, momentum 0.1": [], "cumulative average": []}
    for x in batches:
        layer(x)
        cumulative(x)
        assert layer.running_mean is not None and layer.running_var is not None and cumulative.running_var is not None
        batch = study.batch_statistics(x)
        ours = study.exponential(ours, batch, 0.1)
        tf_mean = study.tensorflow_average(tf_mean, batch.mean, 0.9)
        tf_var = study.tensorflow_average(tf_var, batch.var, 0.9)
        pairs = ((ours.mean, tf_mean), (ours.var, tf_var), (layer.running_mean, tf_mean), (layer.running_var, tf_var))
        apart = max(apart, *(abs(a - b).max().item() for a, b in pairs))
        biased_sum = biased_sum + x.var(0)
        track["exponential, momentum 0.1"].append(layer.running_var.numpy()[1].item())
        track["cumulative average"].append(cumulative.running_var.numpy()[1].item())
    population = study.population_statistics(batches)
    everything = mg.concatenate(batches)
    whole = max(
        abs(population.mean - everything.mean(0)).max().item(), abs(population.var / everything.var(0) - 1).max().item()
    )
    assert cumulative.running_var is not None
    unbiased_error = abs(cumulative.running_var.detach() / (true_std * true_std) - 1).max().item()
    bias = (biased_sum / steps / cumulative.running_var.detach()).mean().item()
    bias_gap = abs(bias - (m - 1) / m)

    each, _, _ = F.batch_norm(everything, axis=0, eps=0.0)
    together, _, _ = F.batch_norm(everything, axis=(0, 1), eps=0.0)
    own, shared = abs(each.std(0) - 1).max().item(), together.std(0).numpy()

    def draw(figure: Any) -> None:
        a1, a2 = figure.subplots(1, 2)
        for name, values in track.items():
            a1.plot(values, lw=1, label=name)
        a1.axhline(9.0, color="k", ls=":", lw=1, label="true variance")
        a1.axhline(9.0 * (m - 1) / m, color="C3", ls=":", lw=1, label="what the biased one averages to")
        a1.set(xlabel="batch of 16", title="running variance", ylim=(0, 16))
        a1.legend(fontsize=8)
        values = [together.numpy()[:, 0], together.numpy()[:, 1]]
        a2.hist(values, 60, histtype="step", label=["dimension 1", "dimension 2"], density=True)
        a2.hist(each.numpy()[:, 0], 60, histtype="step", color="k", density=True, label="each by its own")
        a2.set(xlabel="normalised value", ylabel="density", title="one statistic for all dimensions leaves them unlike")
        a2.legend(fontsize=8)

    return Finding(
        "Each dimension has statistics of its own, over one batch; TensorFlow's decay = 1 - PyTorch's momentum is "
        "one recursion, and only the unbiased variance averages to the population's.",
        f"the two recursions agree to {apart:.0g} over {steps} steps; biased / unbiased = {bias:.4f} = (m-1)/m to "
        f"{bias_gap:.0g}; cumulative average within {unbiased_error:.1%} of the truth",
        apart < 1e-12 and bias_gap < 1e-12 and whole < 1e-12 and unbiased_error < 0.03 and own < 1e-9
        and abs(shared[0] / shared[1] - 1) > 0.5,
        [
            "One batch serves all dimensions, and each dimension (a feature, or a channel with all its places in an "
            "image) has its own mean and variance from it. One statistic for all would leave the dimensions as "
            "unlike as they were.",
            "While training, the batch's own statistics are used, and gradients go through them; for evaluation a "
            "fixed estimate of the population's takes their place. It can be an exponential average (it forgets, and "
            "stays noisy), a cumulative one (momentum=None), or a pass over the whole training set after it, as in "
            "the paper. The two recursions below differ only in what they call the number: decay = 1 - momentum.",
        ],
        {"apart": apart, "bias": bias, "bias_gap": bias_gap, "whole": whole, "unbiased_error": unbiased_error,
         "own": own},
        draw,
        [(HEAD, FRAMEWORKS)],
    )  # fmt: skip
