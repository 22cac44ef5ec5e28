"""A student's BatchNorm, three wrong backward passes, and what the checker says of each; then a right one.

    python -m examples.check_your_batchnorm

The forward is plain NumPy, as in a course's exercise, and stays unchanged. Put your own in its place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg

Cache = tuple[Any, ...]
Gradients = tuple[Any, Any, Any]


def batchnorm_forward(x: Any, gamma: Any, beta: Any, eps: float = 1e-5) -> tuple[Any, Cache]:
    mu = np.mean(x, axis=0)
    xmu = x - mu
    var = np.mean(xmu**2, axis=0)
    std = np.sqrt(var + eps)
    xhat = xmu / std
    out = gamma * xhat + beta
    return out, (xhat, xmu, std, gamma)


def first_try(dout: Any, cache: Cache) -> Gradients:
    """Divides by the standard deviation, and takes the statistics for given."""
    xhat, _, std, gamma = cache
    dx = dout * gamma / std
    return dx, np.sum(dout * xhat, axis=0), np.sum(dout, axis=0)


def second_try(dout: Any, cache: Cache) -> Gradients:
    """Step by step this time; somewhere on the way a factor is lost, and dgamma takes the wrong value."""
    xhat, xmu, std, gamma = cache
    m = len(dout)
    dxhat = dout * gamma
    dstd = -np.sum(dxhat * xmu, axis=0) / std**2
    dvar = dstd / std
    dxmu = dxhat / std + 2 * xmu * dvar / m
    dx = dxmu - np.sum(dxmu, axis=0) / m
    return dx, np.sum(dout * (gamma * xhat), axis=0), np.sum(dout, axis=0)


def third_try(dout: Any, cache: Cache) -> Gradients:
    """The short formula from memory, without the path through the mean, and with dbeta as it comes."""
    xhat, _, std, gamma = cache
    dxhat = dout * gamma
    dx = (dxhat - xhat * np.mean(dxhat * xhat, axis=0)) / std
    return dx, np.sum(dout * xhat, axis=0), dout


def at_last(dout: Any, cache: Cache) -> Gradients:
    xhat, _, std, gamma = cache
    dxhat = dout * gamma
    dx = (dxhat - np.mean(dxhat, axis=0) - xhat * np.mean(dxhat * xhat, axis=0)) / std
    return dx, np.sum(dout * xhat, axis=0), np.sum(dout, axis=0)


def main() -> None:
    rng = np.random.default_rng(0)
    x, gamma, beta = 3 * rng.normal(size=(8, 4)) + 5, rng.normal(size=4), rng.normal(size=4)
    for attempt in (first_try, second_try, third_try, at_last):
        report = mg.check_hand_gradient(batchnorm_forward, (x, gamma, beta), attempt)
        print(f"{attempt.__name__}: {'right' if report.ok else 'wrong'}")
        for finding in report.findings:
            print(f"    {finding}")
    print(f"    ({report.details['mutation score']})")
    print("\nAnd a check that could not have failed, with the gradient of sum(out):")
    report = mg.check_hand_gradient(batchnorm_forward, (x, gamma, beta), at_last, cotangent=np.ones_like(x))
    for finding in report.findings:
        print(f"    {finding}")


if __name__ == "__main__":
    main()
