"""What BatchNorm remembers, moved in one launch where the ops that this stands for would ask for thirteen."""

from __future__ import annotations

from minigrad.backend import Array
from minigrad.device.launch import dense, launch, module, offer, usable
from minigrad.nn.normalisation import BatchNorm

Buffers = tuple[Array | None, Array | None, Array | None]


def written(norm: BatchNorm) -> Buffers:
    """Running mean and variance and the count of batches, which a kernel is to write; None where nothing is kept."""
    count, mean, var = norm.num_batches_tracked, norm.running_mean, norm.running_var
    if not norm.training or count is None or mean is None or var is None or not count.remembers:
        return None, None, None
    for buffer in (count, mean, var):
        buffer.unlock()
        buffer.bump()
    return mean.data, var.data, count.data


def momentum(norm: BatchNorm) -> float:
    """The weight of the new value; -1 for a mean of all batches."""
    return -1.0 if norm.momentum is None else norm.momentum


def fits(norm: BatchNorm) -> bool:
    """Whether kernels may write what a BatchNorm keeps: nothing checks again what a launch is given."""
    count, mean, var = norm.num_batches_tracked, norm.running_mean, norm.running_var
    if count is None or mean is None or var is None:
        return True
    dense = all(buffer.data.flags.c_contiguous for buffer in (count, mean, var))
    return dense and count.dtype.name == "int64" and usable(mean.data, var.data)


@offer("remember")
def remember(norm: BatchNorm, mean: Array, var: Array, m: int) -> bool | None:
    """`BatchNorm._remember`."""
    kept = mean if norm.running_mean is None else norm.running_mean.data
    if not (fits(norm) and usable(mean, var, kept)):
        return None
    of = module("running", dtype=mean.dtype)
    mean, var, arrays = dense(mean), dense(var), written(norm)
    if arrays[0] is not None:
        launch(of, "remember", (1,), mean, var, *arrays, mean.size, m / (m - 1), momentum(norm))
    return True
