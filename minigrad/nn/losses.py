"""Losses as modules; the formulas are in `functional`."""

from __future__ import annotations

from minigrad import functional as F
from minigrad.given import fraction, positive, whole
from minigrad.nn.module import Module, unusual
from minigrad.tensor import Buffer, Tensor


class Loss(Module):
    """A loss with a reduction: "mean", "sum" or "none"."""

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"{type(self).__name__}: reduction is 'mean', 'sum' or 'none', not {reduction!r}")
        self.reduction = reduction

    def settings(self) -> str:
        usual = {"ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0, "delta": 1.0}
        held = "".join(f", {name} of shape {list(value.shape)}" for name, value in self.members())
        return (held + unusual(self, usual))[2:]


class CrossEntropyLoss(Loss):
    """Softmax and negative log-likelihood of scores (n, classes, ...); see `functional.cross_entropy`."""

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else Buffer(weight)
        self.ignore_index = whole("CrossEntropyLoss: ignore_index", ignore_index, least=None)
        self.label_smoothing = fraction("CrossEntropyLoss: label_smoothing", label_smoothing)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(x, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class NLLLoss(Loss):
    """The negative log-likelihood of log-probabilities; see `functional.nll_loss`."""

    def __init__(self, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else Buffer(weight)
        self.ignore_index = whole("NLLLoss: ignore_index", ignore_index, least=None)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(x, target, self.weight, self.ignore_index, self.reduction)


class BCEWithLogitsLoss(Loss):
    """Binary cross entropy of scores."""

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean", pos_weight: Tensor | None = None) -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else Buffer(weight)
        self.pos_weight = None if pos_weight is None else Buffer(pos_weight)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.bce_with_logits(x, target, self.weight, self.pos_weight, self.reduction)


class MSELoss(Loss):
    """The mean squared error."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(x, target, self.reduction)


class L1Loss(Loss):
    """The mean absolute error."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(x, target, self.reduction)


class HuberLoss(Loss):
    """Squared near zero, absolute beyond delta."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = positive("HuberLoss: delta", delta)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(x, target, self.delta, self.reduction)
