"""Normalisation layers: BatchNorm with its two Parameters and its Buffers, LayerNorm, GroupNorm.

Why there are two parameters and two other things that are not: gamma and beta are learnt from
gradients like any weight; the running mean and variance are remembered, by averaging, and no gradient
ever reaches them. They are Buffers, and hold nothing with a history.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from minigrad import creation, ops
from minigrad import functional as F
from minigrad.backend import kernel
from minigrad.given import fraction, non_negative, whole
from minigrad.nn.module import Layer, title, unusual
from minigrad.tape import no_grad
from minigrad.tensor import Buffer, Parameter, Tensor


def _affine(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    y = x if scale is None else x * F.per_channel(scale, x)
    return y if shift is None else y + F.per_channel(shift, x)


class BatchNorm(Layer):
    """Normalises each channel (axis 1) over all other axes.

    Training uses the batch's statistics and moves the running ones towards them,
    `running = (1 - momentum) running + momentum new` (momentum is the weight of the NEW value;
    momentum=None averages all batches alike), with the unbiased variance m/(m-1) var. Evaluation uses
    the running ones, or the batch's where there are none (track_running_stats=False).
    """

    input_axes: tuple[int, ...] = ()

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        num_features = whole(f"{name}: num_features", num_features)
        momentum = None if momentum is None else fraction(f"{name}: momentum", momentum)
        if momentum is not None and 0.5 < momentum < 1.0:
            warnings.warn(
                f"{name}: momentum={momentum} is the weight of the NEW value here, as in PyTorch; TensorFlow, Keras "
                f"and Flax give the weight of the old one, and would call this {1 - momentum:g}",
                stacklevel=2,
            )
        self.num_features, self.eps, self.momentum = num_features, non_negative(f"{name}: eps", eps), momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(creation.ones(num_features)) if affine else None
        self.bias = Parameter(creation.zeros(num_features)) if affine else None
        self.running_mean = Buffer(creation.zeros(num_features)) if track_running_stats else None
        self.running_var = Buffer(creation.ones(num_features)) if track_running_stats else None
        self.num_batches_tracked = Buffer(creation.full((), 0)) if track_running_stats else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in self.input_axes or x.shape[1] != self.num_features:
            axes = " or ".join(map(str, self.input_axes))
            raise ValueError(
                f"{title(self)}: needs {axes} axes and {self.num_features} channels in axis 1, "
                f"but the input is {list(x.shape)}"
            )
        if x.dtype != creation.float16:
            return self._normalise(x, self.weight, self.bias)
        gamma, beta = (p if p is None else p.astype(creation.float32) for p in (self.weight, self.bias))
        return self._normalise(x.astype(creation.float32), gamma, beta).astype(creation.float16)

    def _normalise(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        if not self.training and self.running_mean is not None and self.running_var is not None:
            scale = (1 if gamma is None else gamma) / ops.sqrt(self.running_var + self.eps)
            return _affine(x - F.per_channel(self.running_mean, x), scale, beta)
        m = x.size // self.num_features
        if m == 0:
            return _affine(x, gamma, beta)
        if m == 1:
            raise ValueError(
                f"{title(self)}: an input of shape {list(x.shape)} has one value for each channel, "
                "whose variance is zero; training needs a larger batch (or call eval())"
            )
        y, mean, var = F.batch_norm(x, gamma, beta, tuple(i for i in range(x.ndim) if i != 1), self.eps)
        if self.training:
            with no_grad():  # remembered, not learnt
                self._remember(mean, var, m)
        return y

    def _remember(self, mean: Tensor, var: Tensor, m: int) -> None:
        """Moves the running statistics towards the mean and the biased variance of m values a channel."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        if (own := kernel("remember")) is not None and own(self, mean.data, var.data, m):
            return
        self.num_batches_tracked.update(self.num_batches_tracked + 1)
        # The count stays where it is: reading it would make every step wait for the device.
        f = 1 / self.num_batches_tracked.astype(creation.float64) if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, var * (m / (m - 1)))):
            running.update((1 - f) * running + f * new.reshape(-1).astype(running.dtype))

    def settings(self) -> str:
        text = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"
        return text + unusual(self, {"affine": True, "track_running_stats": True})


class BatchNorm1d(BatchNorm):
    """BatchNorm of (n, channels) or (n, channels, length)."""

    input_axes = (2, 3)


class BatchNorm2d(BatchNorm):
    """BatchNorm of (n, channels, height, width)."""

    input_axes = (4,)


class LayerNorm(Layer):
    """Normalises each sample over its last axes, of shape `normalized_shape`."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        shape = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        self.normalized_shape = tuple(whole("LayerNorm: normalized_shape", n) for n in shape)
        if not shape:
            raise ValueError("LayerNorm: normalized_shape must have at least one axis, not ()")
        self.eps = non_negative("LayerNorm: eps", eps)
        self.weight = Parameter(creation.ones(self.normalized_shape)) if elementwise_affine else None
        self.bias = Parameter(creation.zeros(self.normalized_shape)) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def settings(self) -> str:
        text = f"{self.normalized_shape}, eps={self.eps}"
        if self.weight is None:
            return text + ", elementwise_affine=False"
        return text if self.bias is not None else text + ", bias=False"


class GroupNorm(Layer):
    """Normalises each sample over groups of its channels."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        num_groups = whole("GroupNorm: num_groups", num_groups)
        num_channels = whole("GroupNorm: num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, non_negative("GroupNorm: eps", eps)
        self.weight = Parameter(creation.ones(num_channels)) if affine else None
        self.bias = Parameter(creation.zeros(num_channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"{title(self)}: needs {self.num_channels} channels, but the input is {list(x.shape)}")
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def settings(self) -> str:
        affine = "" if self.weight is not None else ", affine=False"
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}{affine}"
