"""What PyTorch calls it and what it is here: the names that users' hands know, told where one of them is not found.

Nothing here is an alias. Who writes `t.unsqueeze(0)` reads `t.expand_dims(axis)` in the error, and that NumPy's words
are the ones that count for arrays. In the replacements `t` is a Tensor, `F` is `minigrad.functional`.
"""

from __future__ import annotations

from typing import Any, NoReturn

TENSOR = {
    "add": "t + u", "bool": "t.astype(mg.bool_)", "bmm": "t @ u", "chunk": "t.split(parts, axis)",
    "clamp": "t.clip(low, high)", "clone": "t.copy()",
    "contiguous": "t itself: nothing asks how an array lies in memory", "cpu": "t.numpy(), NumPy's array",
    "cuda": 'mg.use("cupy") before it is made', "device": "mg.current(), the backend", "diag": "t.diagonal()",
    "dim": "t.ndim", "div": "t / u", "double": "t.astype(mg.float64)", "eq": "t == u",
    "expand": "t.broadcast_to(shape)", "expand_as": "t.broadcast_to(u.shape)", "float": "t.astype(mg.float32)",
    "gather": "t.take_along_axis(index, axis)", "ge": "t >= u", "grad_fn": "t.node, its line on the tape",
    "gt": "t > u", "half": "t.astype(mg.float16)", "index_select": "t[:, index]", "int": "t.astype(mg.int32)",
    "le": "t <= u", "log_softmax": "F.log_softmax(t, axis)", "long": "t.astype(mg.int64)", "lt": "t < u",
    "masked_fill": "mg.where(mask, value, t)", "masked_select": "t[mask]", "mm": "t @ u", "mul": "t * u",
    "mv": "t @ u", "ne": "t != u", "neg": "-t", "nelement": "t.size", "nonzero": "np.nonzero(t.numpy())",
    "numel": "t.size", "pow": "t ** n", "register_hook": 'mg.label(t, "name"), which keeps its cotangent as t.grad',
    "requires_grad_": "t.requires_grad = True", "retain_grad": 'mg.label(t, "name"), which keeps t.grad',
    "rsqrt": "1 / t.sqrt()", "softmax": "F.softmax(t, axis)", "sub": "t - u", "t": "t.T",
    "to": 't.astype(dtype); for a GPU mg.use("cupy") before it is made', "topk": "t.argsort(axis), the last k of it",
    "type": "t.astype(dtype)", "unbind": "tuple(t), along the first axis", "unique": "np.unique(t.numpy())",
    "unsqueeze": "t.expand_dims(axis)", "values": "t itself: t.max(axis) gives the values, t.argmax(axis) the places",
    "view": "t.reshape(shape)", "view_as": "t.reshape(u.shape)",
    **dict.fromkeys(
        ("add_", "clamp_", "copy_", "div_", "fill_", "mul_", "sub_", "uniform_", "normal_", "zero_"),
        "p.update(values) of a Parameter or Buffer, t[...] = values of a constant",
    ),
}  # fmt: skip

MODULE = {
    "add_module": "an attribute, self.name = module", "append": "model.layers.append(layer), of a Sequential",
    "apply": "a loop over model.modules()", "children": "model.modules(), with all below",
    "cpu": 'mg.use("numpy") before it is made', "cuda": 'mg.use("cupy") before it is made',
    "double": "model.to_dtype(mg.float64)", "float": "model.to_dtype(mg.float32)", "half": "model.to_dtype(mg.float16)",
    "named_children": "model.named_modules(), with all below",
    "register_buffer": "an attribute, self.name = nn.Buffer(values)",
    "register_forward_hook": "with mg.trace(model) as t:",
    "register_parameter": "an attribute, self.name = nn.Parameter(values)",
    "requires_grad_": "model.freeze() and model.unfreeze()", "save": "mg.save(model, path)",
    "to": 'model.to_dtype(dtype); for a GPU mg.use("cupy") before it is made',
}  # fmt: skip

PACKAGE = {
    "Generator": "mg.random.seed(n): the host has one generator", "allclose": "np.allclose(t.numpy(), u.numpy())",
    "as_tensor": "mg.tensor(data)", "autograd": "mg.grad, mg.vjp, mg.jacobian and others",
    "bool": "mg.bool_", "cat": "mg.concatenate(tensors, axis)", "cuda": 'mg.use("cupy")', "device": 'mg.use("cupy")',
    "double": "mg.float64", "empty": "mg.zeros(shape)", "float": "mg.float32", "from_numpy": "mg.tensor(array)",
    "func": "mg.grad, mg.vjp, mg.jvp, mg.jacobian, mg.hessian", "half": "mg.float16",
    "inference_mode": "mg.no_grad()", "int": "mg.int32",
    "is_tensor": "isinstance(x, mg.Tensor)", "long": "mg.int64", "manual_seed": "mg.random.seed(n)",
    "rand": "mg.random.uniform(shape)", "randint": "mg.tensor(np.random.default_rng(seed).integers(n, size=shape))",
    "randn": "mg.random.normal(shape)", "randn_like": "mg.random.normal(t.shape)",
    "randperm": "mg.random.permutation(n)",
    "set_grad_enabled": "mg.no_grad() or mg.enable_grad()", "utils": "data.Batches and mg.checkpoint",
}  # fmt: skip

FUNCTIONAL = {
    "binary_cross_entropy": "F.bce_with_logits, of scores", "binary_cross_entropy_with_logits": "F.bce_with_logits",
    "instance_norm": "F.group_norm(t, channels)", "interpolate": "t.repeat(2, axis), for the nearest",
    "logsigmoid": "-F.softplus(-t)", "normalize": "t / t.norm(axis=1, keepdims=True)",
    "one_hot": "mg.eye(classes)[labels]",
    "pad": "mg.pad(t, widths), a pair for each axis", "relu6": "t.clip(0, 6)", "smooth_l1_loss": "F.huber_loss",
}  # fmt: skip

NN = {
    "BCELoss": "nn.BCEWithLogitsLoss, of scores", "InstanceNorm2d": "nn.GroupNorm(channels, channels)",
    "ModuleDict": "a dict of modules as an attribute", "ParameterDict": "a dict as an attribute",
    "ParameterList": "a list as an attribute", "ReLU6": "nn.Lambda(lambda t: t.clip(0, 6))",
    "SmoothL1Loss": "nn.HuberLoss", "functional": "minigrad.functional", "init": "minigrad.init",
    "utils": "optim.clip_grad_norm",
}  # fmt: skip

OPTIM = {
    "CosineAnnealingLR": "optim.CosineLR(optimizer, steps, lr_min)",
    "ExponentialLR": "optim.StepLR(optimizer, 1, gamma)",
    "LambdaLR": "a subclass of optim.Schedule with lr(step, base)", "LinearLR": "optim.WarmupLR(optimizer, steps)",
    "MultiStepLR": "a subclass of optim.Schedule with lr(step, base)",
    "ReduceLROnPlateau": 'optimizer.param_groups[0]["lr"] = rate',
    "SequentialLR": "optim.WarmupLR(optimizer, steps, then=schedule)",
    "clip_grad_norm_": "optim.clip_grad_norm",
    "lr_scheduler": "optim.StepLR, optim.CosineLR, optim.OneCycleLR, optim.WarmupLR",
}  # fmt: skip

DATA = {
    "DataLoader": "data.Batches(images, labels, batch_size)", "FashionMNIST": "data.fashion_mnist()",
    "MNIST": "data.mnist()", "Subset": "images[indices], labels[indices]",
    "TensorDataset": "data.Batches(images, labels, batch_size)", "random_split": "data.split(dataset, held_out)",
}  # fmt: skip

PLACES = {
    "minigrad": TENSOR | PACKAGE, "minigrad.functional": FUNCTIONAL, "minigrad.nn": NN, "minigrad.optim": OPTIM,
    "minigrad.data": DATA,
}  # fmt: skip
"""By module, what is looked for there under PyTorch's name."""


def of_package(module: str, name: str) -> AttributeError:
    """The error of a name that a module of the package lacks."""
    return missing(f"module {module!r}", name, PLACES[module].get(name))


def of_module(module: object, name: str) -> Any:
    """Raises the error of a name that a Module lacks. An unknown one may be a property that raised: it raises again."""
    if name in MODULE:
        raise missing(f"{type(module).__name__!r} object", name, MODULE[name], module)
    return object.__getattribute__(module, name)


class Elsewhere:
    """A method of PyTorch's Tensor that has another name here: looking it up is an AttributeError that says so.

    (A `__getattr__` would do the same and slow every look at every attribute down.)
    """

    def __init__(self, name: str, here: str) -> None:
        self.name, self.here = name, here

    def __get__(self, t: object, kind: type) -> NoReturn:
        raise missing(f"{kind.__name__!r} object", self.name, self.here, t)


def missing(who: str, name: str, here: str | None, owner: object = None) -> AttributeError:
    """The error of a name that is not there; it says what to write for PyTorch's, where that is known."""
    told = "" if here is None else f"; for PyTorch's {name} write {here}"
    return AttributeError(f"{who} has no attribute {name!r}{told}", name=name, obj=owner)
