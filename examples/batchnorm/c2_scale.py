"""Claim 2: BN(aWu) = BN(Wu), for a > 0 and eps = 0 only."""

from __future__ import annotations

import itertools
from typing import Any

import minigrad as mg
from examples.batchnorm.finding import Finding
from minigrad import functional as F
from minigrad import optim

TITLE = "BN(aWu) = BN(Wu)?"
QUESTION = "Does the scale of the weights before BatchNorm matter?"


def output_and_gradient(
    w: mg.Tensor, u: mg.Tensor, g: mg.Tensor, a: float, eps: float
) -> tuple[mg.Tensor, mg.Tensor, mg.Tensor]:
    """BN((aW) u), the gradient with respect to aW for a cotangent g, and aW."""
    scaled = mg.tensor(a * w.numpy(), requires_grad=True)
    y, _, _ = F.batch_norm(u @ scaled, eps=eps)
    return y, mg.grad(y, scaled, g), scaled


def run(full: bool = False) -> Finding:
    mg.random.seed(0)
    w = mg.random.normal(5, 4, dtype=mg.float64)
    u = mg.random.normal(64, 5, dtype=mg.float64) * 0.02
    g = mg.random.normal(64, 4, dtype=mg.float64)
    y1, d1, _ = output_and_gradient(w, u, g, 1.0, 0.0)
    scales = [10.0 ** (k / 4) for k in range(-8, 9)]
    exact, with_eps, norms, inner = [], [], [], []
    y1_eps, _, _ = output_and_gradient(w, u, g, 1.0, 1e-5)
    for a in scales:
        y, d, scaled = output_and_gradient(w, u, g, a, 0.0)
        exact.append(abs(y - y1).max().item())
        norms.append((mg.norm(d) / mg.norm(d1)).item())
        inner.append(((d * scaled).sum() / (mg.norm(d) * mg.norm(scaled))).item())
        with_eps.append(abs(output_and_gradient(w, u, g, a, 1e-5)[0] - y1_eps).max().item())
    ratio = max(abs(n * a - 1) for n, a in zip(norms, scales, strict=True))
    flipped = abs(output_and_gradient(w, u, g, -1.0, 0.0)[0] + y1).max().item()
    at_tenth = abs(output_and_gradient(w, u, g, 0.1, 1e-5)[0] - y1_eps).max().item()
    orthogonal = max(map(abs, inner))
    sizes = weight_norms(w, u, 300)

    def draw(figure: Any) -> None:
        a1, a2, a3 = figure.subplots(1, 3)
        a1.loglog(scales, [max(e, 1e-17) for e in exact], "o-", ms=3, label="eps = 0")
        a1.loglog(scales, [max(e, 1e-17) for e in with_eps], "s-", ms=3, label="eps = 1e-5")
        a1.set(xlabel="a", title="largest |BN(aWu) - BN(Wu)| (0 as 1e-17)")
        a1.legend(fontsize=8)
        a2.loglog(scales, norms, "o", ms=4, label="measured")
        a2.loglog(scales, [1 / a for a in scales], "k:", lw=1, label="1/a")
        a2.set(xlabel="a", title="gradient of aW over that of W")
        a2.legend(fontsize=8)
        a3.plot(sizes, lw=1)
        a3.set(xlabel="SGD step", title="norm of W: it can only grow")

    return Finding(
        "BN(aWu) = BN(Wu) exactly for a > 0 and eps = 0; the gradient scales by 1/a and is orthogonal to W; a < 0 "
        "flips the sign; eps breaks it for small a.",
        f"eps = 0: equal to {max(exact):.0g}, gradient 1/a to {ratio:.0g}, cos(W, dW) = {orthogonal:.0g}; a = 0.1 "
        f"with eps = 1e-5: off by {at_tenth:.2f}",
        max(exact) < 1e-11 and ratio < 1e-11 and orthogonal < 1e-11 and flipped < 1e-11 and at_tenth > 0.1,
        [
            "Normalising divides the scale of the weights out, so the loss cannot depend on it: the gradient has no "
            "part along W (W . dW = 0), and twice the weights get half the gradient. Large weights thus learn "
            "slowly, which steadies training; since every SGD step is orthogonal to W, the norm of W can only grow, "
            "and the effective learning rate falls.",
            "It holds for a > 0 only: a negative a turns every output round. And it holds for eps = 0 only. Here the "
            "pre-activations have a variance near 1e-3; at a = 0.1 it is 1e-5, as large as eps, and the output "
            "shrinks.",
        ],
        {"exact": max(exact), "ratio": ratio, "orthogonal": orthogonal, "flipped": flipped, "eps": at_tenth,
         "growth": sizes[-1] / sizes[0], "smallest_step": min(b - a for a, b in itertools.pairwise(sizes))},
        draw,
    )  # fmt: skip


def weight_norms(w: mg.Tensor, u: mg.Tensor, steps: int) -> list[float]:
    """The norm of W under SGD on a loss behind BatchNorm with eps = 0."""
    weight = mg.Parameter(w)
    target = mg.random.normal(64, 4, dtype=mg.float64)
    optimizer = optim.SGD([weight], lr=2.0)
    sizes = [mg.norm(w).item()]
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(F.batch_norm(u @ weight, eps=0.0)[0], target).backward()
        optimizer.step()
        sizes.append(mg.norm(weight.detach()).item())
    return sizes
