"""Cross entropy of class indices on the device, as one row: two launches instead of some twenty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import functional as F
from minigrad.backend import Array, require, to_numpy, xp
from minigrad.device.launch import THREADS, dense, launch, module, offer, per_thread, usable
from minigrad.device.sums import up_to_power
from minigrad.primitive import fused
from minigrad.tensor import Tensor

INTEGERS = {"int32": "int", "int64": "long long", "uint8": "unsigned char"}
LARGEST = 1024
"""The most threads of the one block that adds up the rows (`loss.cu`)."""

MOST = 1 << 16
"""Rows that one block adds up in a time that does not matter."""


def _module(x: Array, labels: Array) -> Any:
    return module("loss", dtype=x.dtype, LABEL=INTEGERS[str(labels.dtype)])


def _forward(x: Array, labels: Array, ignored: int) -> tuple[Array, Any]:
    (n, classes), x, labels = x.shape, dense(x), dense(labels)
    loss, logs, counted, fine = (
        xp.empty((), x.dtype), xp.empty((n, 2), x.dtype), xp.empty((), x.dtype), xp.empty((), bool)
    )  # fmt: skip
    of, threads = _module(x, labels), min(LARGEST, max(THREADS, up_to_power(n)))
    launch(of, "cross_entropy", (1,), x, labels, loss, logs, counted, fine, n, classes, ignored, threads=threads)

    def error() -> Exception:
        given = to_numpy(labels)
        worst = given[((given < 0) | (given >= classes)) & (given != ignored)][0]
        return ValueError(f"cross_entropy: a target is {worst}, but the {classes} classes are 0..{classes - 1}")

    require(fine, error)
    return loss, (logs, counted)


def _backward(
    g: Array, y: Array, kept: Any, needed: Sequence[bool], x: Array, labels: Array, ignored: int
) -> list[Array | None]:
    (n, classes), (logs, counted), dx = x.shape, kept, xp.empty(x.shape, x.dtype)
    x, labels = dense(x), dense(labels)
    grid = per_thread(x.size)
    of = _module(x, labels)
    launch(of, "cross_entropy_pullback", grid, dense(g), x, labels, logs, counted, dx, n, classes, ignored)
    return [dx, None]


def composed(x: Any, labels: Any, ignored: int) -> Any:
    """The reference: the loss as it is composed of ordinary ops."""
    logp = F.log_softmax(x, 1)
    return F.nll_loss(logp, labels if isinstance(labels, Tensor) else Tensor(labels), None, ignored)


row = fused(
    lambda x, labels, ignored: _forward(x, labels, ignored), _backward, composed, name="cross_entropy", ignored=...
)


@offer("cross_entropy")
def cross_entropy(x: Tensor, target: Tensor, ignored: int) -> Tensor | None:
    """The mean loss of scores (n, classes) and class indices (n,); None where they are of another kind."""
    plain = x.ndim == 2 and target.shape == x.shape[:1] and 0 < len(x) <= MOST
    if not plain or str(target.dtype) not in INTEGERS or target.data.__class__ is not xp.ndarray or not usable(x.data):
        return None
    return row(x, target, ignored)
