"""Layers: linear maps, convolutions, pooling, dropout, embeddings and activations.

PyTorch's names and arguments, its shapes of weights and its keys in a state dict.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad import functional as F
from minigrad import init, ops, random
from minigrad.functional import Padding, Pair, Single, check_word, pair, single
from minigrad.given import finite, fraction, whole
from minigrad.nn.module import Layer, Module, unusual
from minigrad.tensor import Parameter, Tensor


class Linear(Layer):
    """x Wᵀ + b: (..., in_features) to (..., out_features)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features = in_features = whole("Linear: in_features", in_features)
        self.out_features = out_features = whole("Linear: out_features", out_features)
        self.weight = Parameter(init.by_fan_in((out_features, in_features), in_features))
        self.bias = Parameter(init.by_fan_in((out_features,), in_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def settings(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Conv(Layer):
    """What the convolution layers share: sizes, weight and bias. Settings are checked here and kept as tuples."""

    axes = 2

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        in_channels = whole(f"{name}: in_channels", in_channels)
        out_channels = whole(f"{name}: out_channels", out_channels)
        groups = whole(f"{name}: groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{name}: {in_channels} and {out_channels} channels do not divide into {groups} groups")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = self._setting("kernel_size", kernel_size)
        self.stride = self._setting("stride", stride)
        self.padding: Any = padding if isinstance(padding, str) else self._setting("padding", padding, 0)
        self.dilation = self._setting("dilation", dilation)
        if isinstance(padding, str):
            check_word(name, padding, self.stride)
        fan_in = self.weight_shape()[1] * math.prod(self.kernel_size)
        self.weight = Parameter(init.by_fan_in(self.weight_shape(), fan_in))
        self.bias = Parameter(init.by_fan_in((out_channels,), fan_in)) if bias else None

    def _setting(self, name: str, value: Any, least: int = 1) -> Any:
        what = f"{type(self).__name__} {name}"
        return pair(value, what, least) if self.axes == 2 else (single(value, what, least),)

    def weight_shape(self) -> tuple[int, ...]:
        """(out, in / groups, ...kernel)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def settings(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        zeros, ones = (0,) * self.axes, (1,) * self.axes
        usual = {"padding": zeros, "output_padding": zeros, "dilation": ones, "groups": 1}
        return sizes + unusual(self, usual) + ("" if self.bias is not None else ", bias=False")


class Conv2d(Conv):
    """Cross-correlation of images, (n, in, h, w) to (n, out, oh, ow); see `functional.conv2d`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Pair, stride: Pair = 1, padding: Padding = 0,
        dilation: Pair = 1, groups: int = 1, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv1d(Conv):
    """Cross-correlation of sequences, (n, in, l) to (n, out, ol); see `functional.conv1d`."""

    axes = 1

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Single, stride: Single = 1, padding: Single | str = 0,
        dilation: Single = 1, groups: int = 1, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ConvTranspose2d(Conv):
    """The adjoint of a convolution, (n, in, h, w) to (n, out, oh, ow); see `functional.conv_transpose2d`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Pair, stride: Pair = 1, padding: Pair = 0,
        output_padding: Pair = 0, groups: int = 1, bias: bool = True, dilation: Pair = 1,
    ) -> None:  # fmt: skip
        if isinstance(padding, str):
            raise ValueError(f"ConvTranspose2d: padding is a number or a pair, not {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.output_padding = self._setting("output_padding", output_padding, 0)

    def weight_shape(self) -> tuple[int, ...]:
        """(in, out / groups, ...kernel)."""
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class Pool(Layer):
    """What the pooling layers share: a window and its steps, checked here and kept as pairs."""

    def __init__(self, kernel_size: Pair, stride: Pair | None, padding: Pair, ceil_mode: bool) -> None:
        name = type(self).__name__
        self.kernel_size = pair(kernel_size, f"{name} kernel_size")
        self.stride = self.kernel_size if stride is None else pair(stride, f"{name} stride")
        self.padding = pair(padding, f"{name} padding", 0)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(f"{name}: padding {self.padding} is at most half of the kernel {self.kernel_size}")
        self.ceil_mode = ceil_mode

    def settings(self) -> str:
        usual = {"dilation": (1, 1), "ceil_mode": False, "count_include_pad": True}
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}{unusual(self, usual)}"


class MaxPool2d(Pool):
    """The maximum of each window; see `functional.max_pool2d`."""

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1,
        ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = pair(dilation, "MaxPool2d dilation")

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class AvgPool2d(Pool):
    """The mean of each window; see `functional.avg_pool2d`."""

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class AdaptiveAvgPool2d(Layer):
    """Means over as many windows as the output is to have cells."""

    def __init__(self, output_size: Pair) -> None:
        self.output_size = pair(output_size, "AdaptiveAvgPool2d output_size")

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def settings(self) -> str:
        return f"{self.output_size}"


class Dropout(Layer):
    """Zeros elements with probability p in training, and scales the others by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = fraction("Dropout: p", p)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def settings(self) -> str:
        return f"p={self.p}"


class Embedding(Layer):
    """A learnt vector for each of `num_embeddings` integers: shape to shape + (embedding_dim,)."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        self.num_embeddings = whole("Embedding: num_embeddings", num_embeddings)
        self.embedding_dim = whole("Embedding: embedding_dim", embedding_dim)
        self.weight = Parameter(random.normal(self.num_embeddings, self.embedding_dim))

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight)

    def settings(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class Flatten(Layer):
    """All axes from `start_axis` on as one: images to features."""

    def __init__(self, start_axis: int = 1) -> None:
        self.start_axis = whole("Flatten: start_axis", start_axis, least=None)

    def forward(self, x: Tensor) -> Tensor:
        return ops.flatten(x, self.start_axis)

    def settings(self) -> str:
        return f"start_axis={self.start_axis}"


class Identity(Module):
    """Nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


# ---- activations -------------------------------------------------------------------------------------
class ReLU(Layer):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x)


class LeakyReLU(Layer):
    """x where x > 0, else negative_slope x."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = finite("LeakyReLU: negative_slope", negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        return ops.leaky_relu(x, self.negative_slope)

    def settings(self) -> str:
        return f"{self.negative_slope}"


class ELU(Layer):
    """x where x > 0, else alpha (exp(x) - 1)."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = finite("ELU: alpha", alpha)

    def forward(self, x: Tensor) -> Tensor:
        return ops.elu(x, self.alpha)

    def settings(self) -> str:
        return f"{self.alpha}"


class SiLU(Layer):
    """x sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.silu(x)


class GELU(Layer):
    """x Phi(x)."""

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate is 'none' or 'tanh', not {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return ops.gelu(x, self.approximate)

    def settings(self) -> str:
        return unusual(self, {"approximate": "none"})[2:]


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.sigmoid(x)


class Tanh(Layer):
    """tanh(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.tanh(x)


class Softplus(Layer):
    """log(1 + exp(x))."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.softplus(x)


class Softmax(Layer):
    """exp(x) / sum(exp(x)) along an axis."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = whole("Softmax: axis", axis, least=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, self.axis)

    def settings(self) -> str:
        return f"axis={self.axis}"


class LogSoftmax(Layer):
    """The logarithm of softmax along an axis."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = whole("LogSoftmax: axis", axis, least=None)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(x, self.axis)

    def settings(self) -> str:
        return f"axis={self.axis}"
