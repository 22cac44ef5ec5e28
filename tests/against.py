"""Two judges for layers and losses: a reference written from the formula, and PyTorch where it is installed.

Both get the same float64 numbers. A reference is plain NumPy, with loops; its derivative along a few
random directions is taken by central differences. PyTorch is asked for the gradient of every input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg


def floats(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Odd float64 values, one array for each shape."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) + 0.1 for shape in shapes]


def pulled(f: Callable[..., Any], arrays: list[Any], cotangent_seed: int = 1) -> tuple[Any, list[Any], Any]:
    """f here: its value, the cotangents of its floating arguments, and the random cotangent that was pulled back."""
    xs = [mg.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y = f(*xs)
    cotangent = np.asarray(np.random.default_rng(cotangent_seed).normal(size=y.shape), y.dtype)
    y.backward(mg.tensor(cotangent))
    grads = [None if x.node is None else (np.zeros(x.shape) if x.grad is None else x.grad.numpy()) for x in xs]
    return y.numpy(), grads, cotangent


def agrees_with_reference(f: Callable[..., Any], reference: Callable[..., Any], *arrays: Any) -> None:
    """Value to rounding; gradient along three directions to the accuracy of a central difference."""
    arrays = [np.asarray(a) for a in arrays]
    y, grads, cotangent = pulled(f, arrays)
    expected = np.asarray(reference(*arrays))
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    rng = np.random.default_rng(2)
    for _ in range(3):
        directions = [rng.normal(size=a.shape) if a.dtype.kind == "f" else np.zeros_like(a) for a in arrays]
        h = 1e-5
        ahead = reference(*[a + (h * d).astype(a.dtype) for a, d in zip(arrays, directions)])
        behind = reference(*[a - (h * d).astype(a.dtype) for a, d in zip(arrays, directions)])
        slope = (cotangent * (np.asarray(ahead) - np.asarray(behind))).sum() / (2 * h)
        ours = sum((g * d).sum() for g, d in zip(grads, directions) if g is not None)
        np.testing.assert_allclose(ours, slope, rtol=1e-6, atol=1e-7)


def agrees_with_torch(
    f: Callable[..., Any], theirs: Callable[..., Any], *arrays: Any, tolerance: float = 1e-11
) -> None:
    """Value and every gradient to rounding."""
    torch = pytest.importorskip("torch")
    arrays = [np.asarray(a) for a in arrays]
    y, grads, cotangent = pulled(f, arrays)
    ts = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    t = theirs(*ts)
    assert y.shape == tuple(t.shape)
    assert str(y.dtype) == str(t.dtype).removeprefix("torch.")
    np.testing.assert_allclose(y, t.detach().numpy(), rtol=tolerance, atol=tolerance)
    t.backward(torch.tensor(cotangent))
    for ours, x in zip(grads, ts):
        if x.requires_grad:
            expected = np.zeros(tuple(x.shape)) if x.grad is None else x.grad.numpy()
            np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)
