"""BatchNorm's state in the words of other frameworks, and back.

Frameworks agree on what evaluation computes, gamma (x - mean) / sqrt(var + eps) + beta, but not on what
they store, on what the number called momentum weighs, and on which variance they average. What
evaluation computes can always be translated exactly; how the averages go on while training cannot
where another variance (biased, or a root) is averaged, and then `exact="training"` is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from minigrad import creation, ops
from minigrad.given import fraction, non_negative
from minigrad.nn.normalisation import BatchNorm, BatchNorm1d, BatchNorm2d
from minigrad.tensor import Tensor, as_array

__all__ = ["CONVENTIONS", "Convention", "batchnorm_from", "batchnorm_to"]


@dataclass(frozen=True)
class Convention:
    """How a framework keeps BatchNorm.

    names:    of what it stores, in its own order: gamma, beta, then the statistics
    rate:     what it calls the weight, and its default;  old: whether that weighs the OLD value
    form:     of the variance as stored: "var", "sigma" = sqrt(var + eps), "inverse" = 1 / sqrt(var + eps),
              or "sums" of mean and var with their scale
    training: why its averages cannot be continued exactly here, or None where they can
    """

    name: str
    names: tuple[str, ...]
    eps: float
    rate: tuple[str, float]
    old: bool
    form: str
    training: str | None

    def __str__(self) -> str:
        rate, value = self.rate
        weighs = "old" if self.old else "new"
        stores = ", ".join(self.names)
        on = "exact too" if self.training is None else f"not exact: {self.training}"
        return (
            f"{self.name}: stores {stores}; {rate} = {value:g} weighs the {weighs} value; eps = {self.eps:g}; "
            f"evaluation is exact, training on is {on}"
        )


BIASED = "it averages the biased variance of each batch, minigrad the unbiased one, and the ratio depends on the batch"
ROOTS = "it averages the root of the variance, and the average of roots is not the root of the average"

CONVENTIONS = {
    c.name: c
    for c in (
        Convention(
            "pytorch", ("weight", "bias", "running_mean", "running_var"), 1e-5, ("momentum", 0.1), False, "var", None
        ),
        Convention(
            "keras", ("gamma", "beta", "moving_mean", "moving_variance"), 1e-3, ("momentum", 0.99), True, "var", BIASED
        ),
        Convention("flax", ("scale", "bias", "mean", "var"), 1e-5, ("momentum", 0.99), True, "var", BIASED),
        Convention("chainer", ("gamma", "beta", "avg_mean", "avg_var"), 2e-5, ("decay", 0.9), True, "var", None),
        Convention(
            "caffe", ("gamma", "beta", "mean", "variance", "scale_factor"), 1e-5, ("moving_average_fraction", 0.999),
            True, "sums", "its weight of the new value is 1 / scale_factor, which changes until the sums have settled",
        ),
        Convention("matconvnet", ("gamma", "beta", "moments"), 1e-4, ("learning_rate", 0.05), False, "sigma", ROOTS),
        Convention("lasagne", ("gamma", "beta", "mean", "inv_std"), 1e-4, ("alpha", 0.1), False, "inverse", ROOTS),
    )
}  # fmt: skip
"""Every convention by name; str() of one states what is exact. TensorFlow's is Keras's."""


def _convention(name: str, exact: str, op: str) -> Convention:
    """The convention of that name; what is to be exact is checked too."""
    if not isinstance(name, str):
        raise TypeError(f"{op}: a convention is a name, such as 'pytorch', not {name!r:.60}")
    found = CONVENTIONS.get({"tf": "keras", "tensorflow": "keras", "torch": "pytorch"}.get(name.lower(), name.lower()))
    if found is None:
        raise ValueError(f"{op}: no convention is called {name!r}; there are {', '.join(CONVENTIONS)} (and 'tf')")
    if exact not in ("evaluation", "training"):
        raise ValueError(f"{op}: exact is 'evaluation' or 'training', not {exact!r}")
    return found


def batchnorm_from(
    convention: str,
    state: Mapping[str, Any] | Sequence[Any],
    eps: float | None = None,
    rate: float | EllipsisType | None = ...,
    exact: str = "evaluation",
    dims: int = 2,
) -> BatchNorm:
    """A BatchNorm layer that evaluates as the one with this state does in another framework.

    convention: a name in `CONVENTIONS`, each of which says what it stores. state: its arrays by those
    names (Flax's two collections may be nested), or in that order; gamma and beta may be missing where
    the layer has none; integers become float32. eps, rate: as they were set there, in that framework's own
    meaning; by default what the state holds under "eps" and the rate's name, else the framework's defaults.
    rate=None is PyTorch's momentum=None, the average of all batches.
    exact="training" demands that averaging goes on exactly as there too. dims: 1 for BatchNorm1d, 2 for
    BatchNorm2d. MatConvNet's moments are (channels, 2): mean and sigma.
    Raises ValueError for an unknown convention, missing or misshapen arrays, a spread that is negative
    or not finite, a stored sigma smaller than eps allows, and an exactness that cannot be had, with the reason.
    """
    c = _convention(convention, exact, "batchnorm_from")
    if not hasattr(state, "__len__"):
        raise TypeError(f"batchnorm_from: the state is a dict or list of arrays, not {type(state).__name__}")
    own = state if isinstance(state, Mapping) else {}
    eps = non_negative("batchnorm_from: eps", own.get("eps", c.eps) if eps is None else eps)
    rate = own.get(*c.rate) if rate is ... else rate
    if rate is not None:
        rate = fraction(f"batchnorm_from: {c.name}'s {c.rate[0]}", rate)
    elif c.name != "pytorch":
        raise ValueError(f"batchnorm_from: {c.name}'s {c.rate[0]} is a number; only PyTorch's may be None")
    cumulative = rate is None or (c.form == "sums" and rate == 1.0)
    if exact == "training" and c.training is not None and not cumulative:
        raise ValueError(f"batchnorm_from: {c.name} cannot be continued exactly: {c.training}")
    arrays = _arrays(c, state)
    mean, var = _statistics(c, arrays, eps)
    channels = mean.shape[0]
    momentum = None if rate is None or cumulative else 1 - rate if c.old else rate
    affine = c.names[0] in arrays or c.names[1] in arrays
    kinds: dict[int, type[BatchNorm]] = {1: BatchNorm1d, 2: BatchNorm2d}
    if dims not in kinds:
        raise ValueError(f"batchnorm_from: dims is 1 or 2, not {dims}")
    if momentum is not None and 0.5 < momentum < 1.0:
        warnings.warn(
            f"batchnorm_from: {c.name}'s {c.rate[0]}={rate:g} is the weight of the {'OLD' if c.old else 'NEW'} value, "
            f"so that of a batch's statistics is {momentum:g}; is the number another framework's?",
            stacklevel=2,
        )
    layer = kinds[dims](channels, eps=eps, affine=affine).to_dtype(mean.dtype)
    layer.momentum = momentum
    assert layer.running_mean is not None and layer.running_var is not None
    for parameter, name in ((layer.weight, c.names[0]), (layer.bias, c.names[1])):
        if parameter is None:
            continue
        if name in arrays:
            parameter.update(_channels(arrays[name], channels, c, name).astype(mean.dtype))
        else:
            parameter.requires_grad = False  # the other framework has none: it stays at 1 or 0
    layer.running_mean.update(mean)
    layer.running_var.update(var)
    count = arrays.get("scale_factor") if cumulative and c.form == "sums" else own.get("num_batches_tracked")
    if count is not None:
        assert layer.num_batches_tracked is not None
        count = as_array(count, None, "batchnorm_from")
        layer.num_batches_tracked.update(Tensor(count).reshape(()).astype(creation.int64))
    return layer


def batchnorm_to(convention: str, layer: BatchNorm, exact: str = "evaluation") -> dict[str, Any]:
    """A BatchNorm layer's state in another framework's names, as Tensors, with its "eps" and its rate.

    The way back of `batchnorm_from`, and refused for the same reasons; also where the layer has no
    running statistics, and where momentum is None in a convention that has no cumulative average.
    """
    c = _convention(convention, exact, "batchnorm_to")
    if not isinstance(layer, BatchNorm):
        raise TypeError(f"batchnorm_to: needs a BatchNorm layer, not a {type(layer).__name__}")
    if layer.running_mean is None or layer.running_var is None or layer.num_batches_tracked is None:
        raise ValueError(f"batchnorm_to: {c.name} needs running statistics, and track_running_stats=False keeps none")
    cumulative = layer.momentum is None
    if exact == "training" and c.training is not None and not (c.form == "sums" and cumulative):
        raise ValueError(f"batchnorm_to: {c.name} cannot continue exactly: {c.training}")
    if cumulative and c.form != "sums" and c.name != "pytorch":
        raise ValueError(f"batchnorm_to: momentum=None averages all batches alike, which {c.name} cannot; set one")
    mean, var = layer.running_mean.detach(), layer.running_var.detach()
    state: dict[str, Any] = {}
    if layer.weight is not None and layer.bias is not None:
        state = {c.names[0]: layer.weight.detach(), c.names[1]: layer.bias.detach()}
    if c.form == "var":
        state |= {c.names[2]: mean, c.names[3]: var}
    elif c.form == "sums":
        count = layer.num_batches_tracked.detach() if cumulative else creation.ones(())
        count = count.astype(mean.dtype)
        state |= {"mean": mean * count, "variance": var * count, "scale_factor": count}
    elif c.form == "sigma":
        state["moments"] = ops.stack([mean, ops.sqrt(var + layer.eps)], 1)
    else:
        state |= {"mean": mean, "inv_std": 1 / ops.sqrt(var + layer.eps)}
    if c.name == "pytorch":
        state["num_batches_tracked"] = layer.num_batches_tracked.detach()
    state = {name: Tensor(value.data.copy()) for name, value in state.items()}
    rate = layer.momentum if layer.momentum is not None else 0.0
    state["eps"] = layer.eps
    state[c.rate[0]] = None if cumulative and not c.old else 1 - rate if c.old else rate
    return state


def _arrays(c: Convention, state: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """The state's arrays by name. ValueError lists what is missing or unknown."""
    if not isinstance(state, Mapping):
        if len(state) != len(c.names):
            names = ", ".join(c.names)
            raise ValueError(f"batchnorm_from: {c.name} stores {len(c.names)} arrays, {names}, not {len(state)}")
        state = dict(zip(c.names, state, strict=True))
    nested = [value for value in state.values() if isinstance(value, Mapping)]
    flat = {name: value for part in (nested or [state]) for name, value in part.items()}
    ignored = {"num_batches_tracked", "N", "eps", c.rate[0]}
    missing = [name for name in c.names[2:] if name not in flat]
    unknown = [name for name in flat if name not in c.names and name not in ignored]
    if missing or unknown:
        parts = [f"missing are {missing}"] * bool(missing) + [f"unknown are {unknown}"] * bool(unknown)
        raise ValueError(f"batchnorm_from: {c.name} stores {', '.join(c.names)}; {' and '.join(parts)}")
    arrays = {name: as_array(flat[name], None, "batchnorm_from") for name in c.names if name in flat}
    return {name: a if a.dtype.kind == "f" else a.astype(creation.float32) for name, a in arrays.items()}


def _statistics(c: Convention, arrays: Mapping[str, Any], eps: float) -> tuple[Tensor, Tensor]:
    """The mean and the variance of each channel."""
    if c.form == "sigma":
        moments = arrays["moments"]
        if moments.ndim != 2 or moments.shape[1] != 2:
            shape = list(moments.shape)
            raise ValueError(f"batchnorm_from: matconvnet's moments are (channels, 2), mean and sigma, not {shape}")
        mean, sigma = Tensor(moments[:, 0]), Tensor(moments[:, 1])
        _bounded(sigma, sigma > 0, f"{c.name}'s sigma", "above zero")
        return mean, _square_less(sigma, eps, c)
    name_of_mean, name_of_var = c.names[2:4]
    mean = Tensor(arrays[name_of_mean])
    if mean.ndim != 1:
        raise ValueError(f"batchnorm_from: {c.name}'s {name_of_mean} needs one axis, not shape {list(mean.shape)}")
    spread = Tensor(_channels(arrays[name_of_var], mean.shape[0], c, name_of_var))
    if c.form == "inverse":
        _bounded(spread, spread > 0, f"{c.name}'s {name_of_var}", "above zero")
        return mean, _square_less(1 / spread, eps, c)
    if c.form == "sums":
        scale = Tensor(arrays["scale_factor"]).reshape(())
        factor = 0.0 if scale.item() == 0 else 1 / scale.item()
        mean, spread = mean * factor, spread * factor
    _bounded(spread, spread >= 0, f"{c.name}'s {name_of_var}", "not negative")
    return mean, spread


def _bounded(spread: Tensor, holds: Tensor, what: str, bound: str) -> None:
    """ValueError where a spread is not finite, or a bound does not hold."""
    wrong = ops.logical_not(holds & ops.isfinite(spread)).numpy()
    if wrong.any():
        raise ValueError(f"batchnorm_from: {what} must be finite and {bound}, not {spread.numpy()[wrong][0]:g}")


def _square_less(sigma: Tensor, eps: float, c: Convention) -> Tensor:
    """var from sqrt(var + eps). ValueError where it would be negative."""
    var = sigma * sigma - eps
    lowest = var.min().item()
    if lowest < -1e-6 * eps:
        raise ValueError(
            f"batchnorm_from: {c.name} stores sqrt(var + eps), and with eps = {eps:g} a channel's variance would be "
            f"{lowest:.3g}; give the eps that its layer had"
        )
    return ops.maximum(var, 0.0)


def _channels(array: Any, channels: int, c: Convention, name: str) -> Any:
    """The array where it has one value for each channel; else ValueError."""
    if array.shape != (channels,):
        raise ValueError(f"batchnorm_from: {c.name}'s {name} needs shape [{channels}], not {list(array.shape)}")
    return array
