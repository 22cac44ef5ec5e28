"""Gradients scaled down where together they are too long."""

from __future__ import annotations

from typing import Any

from minigrad.backend import Array, capturing, current, kernel, xp
from minigrad.given import number
from minigrad.optim.given import named
from minigrad.tape import recording
from minigrad.tensor import Tensor


def clip_grad_norm(parameters: Any, max_norm: float, error_if_nonfinite: bool = False) -> Tensor:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)); returns the norm that they had together.

    The norm is a 0-d Tensor, so that nothing is read back from a GPU; float32, or float64 where a
    gradient is. Without gradients it is 0. As in PyTorch, a NaN norm makes every gradient NaN, and an
    infinite one makes finite gradients zero and infinite ones NaN, unless `error_if_nonfinite`, which
    waits for the norm and raises ValueError before any change. A max_norm of inf only measures.
    """
    max_norm = number("clip_grad_norm: max_norm", max_norm)
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm: max_norm must not be negative or NaN, not {max_norm}")
    nodes = [
        p.node
        for _, p in named(parameters, "clip_grad_norm")
        if p.node is not None and p.node.grad is not None
    ]
    for node in nodes:
        if not isinstance(node.grad, xp.ndarray):
            raise TypeError(
                f"clip_grad_norm: the gradient of {node.label or 'a Parameter'!r} is an array of "
                f"{type(node.grad).__module__}, but the backend in use is {current()!r}"
            )
        if recording.uses is not None:
            recording.uses.gradient(node)
    # Sums of squares of float16 would overflow at a norm of 256.
    dtype = xp.result_type(xp.float32, *(node.grad.dtype for node in nodes))
    wide = [node.grad.astype(dtype, copy=False) for node in nodes]
    squares = [_square(g) for g in wide]
    norm = xp.sqrt(xp.asarray(sum(squares), dtype))
    if error_if_nonfinite and not bool(xp.isfinite(norm)):
        raise ValueError(f"clip_grad_norm: the norm of the gradients is {float(norm)}; nothing was scaled")
    scale = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    for node in nodes:
        # A new array: this one may be another Parameter's gradient too.
        node.grad = xp.multiply(node.grad, scale.astype(node.grad.dtype), out=xp.empty_like(node.grad))
    return Tensor(xp.asarray(norm))  # NumPy makes a scalar of a 0-d array


def _square(g: Array) -> Array:
    """g @ g over all axes; while a graph is captured without cuBLAS, which would refuse."""
    if not capturing.on:
        return xp.vdot(g, g)
    own = kernel("sums of products")
    y = None if own is None else own(g, g, tuple(range(g.ndim)))
    return (g * g).sum() if y is None else y.reshape(())
