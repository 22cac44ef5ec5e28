"""Optimizers and schedules, in order of increasing complexity.

An *optimizer* changes Parameters, in place, by a rule of their gradients. It holds its Parameters in
*groups*, each with its own *hyper-parameters* (learning rate, momentum, ...), and keeps a *memory* of
every Parameter: the arrays that the rule carries from one step to the next, under the Parameter's
name. A *schedule* sets hyper-parameters as a function of the step alone.

Invariants. Gradients are read, never written: two Parameters may share one array. Hyper-parameters are
Python numbers, which never widen an array. A call that raises has changed nothing.

Names, defaults and rules are PyTorch's. Each rule is given twice: as a formula, in which p is the
parameter, g its gradient (flipped by `maximize`, with weight decay added) and t the count of steps,
from 1; and below it in place, where `work` is an array that each line may write over.
"""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from minigrad.backend import Array, capturing, current, kernel, naming_memory, xp
from minigrad.tensor import Buffer, Parameter, Tensor, as_array

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "CosineLR",
    "OneCycleLR",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "StepLR",
    "WarmupLR",
    "clip_grad_norm",
    "decay_groups",
]

Hyper = dict[str, Any]
T = TypeVar("T")


# ------------------------------------------------------------------------------------------ optimizers


class Memory(dict[str, Array]):
    """What an optimizer remembers of one Parameter: arrays like it, zero when first asked for.

    step: how many steps it has taken.  scratch: two arrays like it to compute in, shared by Parameters.
    """

    __slots__ = ("name", "parameter", "scratch", "step")

    def __init__(self, name: str, parameter: Parameter) -> None:
        super().__init__()
        self.name = name
        self.parameter = parameter
        self.scratch: list[Array] = []
        self.step = 0

    def __missing__(self, key: str) -> Array:
        array = self[key] = xp.zeros_like(self.parameter.data)
        return array


class Group(UserDict[str, Any]):
    """Parameters, `group["params"]`, and the hyper-parameters that they share, `group["lr"]`, ....

    `group["lr"] = 0.01` holds from the next step on. A value is checked and cast when it is set:
    KeyError for an unknown name, TypeError or ValueError for a bad value.
    """

    def __init__(self, check: Callable[[Hyper], Hyper], hyper: Hyper) -> None:
        self.check = check
        self.memories: list[Memory] = []
        self.data = {"params": [], **check(hyper)}

    @property
    def hyper(self) -> Hyper:
        """The hyper-parameters alone."""
        return {key: value for key, value in self.data.items() if key != "params"}

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self.hyper:
            raise KeyError(f"cannot set {key!r}: a group's hyper-parameters are {', '.join(self.hyper)}")
        self.data.update(self.check({**self.hyper, key: value}))

    def __delitem__(self, key: str) -> None:
        raise KeyError(f"cannot delete {key!r}: every hyper-parameter has a value")


class Optimizer:
    """What all optimizers share: groups, memories, saving and loading. A subclass is its `update`.

    params: Parameters, or (name, Parameter) pairs, or groups `{"params": ..., "lr": ...}` whose other
    hyper-parameters are those given beside them. A Parameter is known by its pair's name, else by its
    label, else as "parameter0", "parameter1", ... by position; a name met again gets "#1", "#2", ....
    State is saved under these names: `model.named_parameters()` gives the same ones in every process.

    Raises TypeError for anything but Parameters; ValueError for a Parameter given twice, for none at
    all, and for a hyper-parameter that is unknown, negative, not finite or out of its range.
    """

    remembers: ClassVar[dict[str, str | None]] = {}
    """The arrays in a memory, each with the hyper-parameter that switches it on, or None for always."""

    def __init__(self, params: Any, **defaults: Any) -> None:
        kind = type(self).__name__
        self.defaults = self.check(defaults)
        self.param_groups: list[Group] = []
        self.state: dict[str, Memory] = {}
        self._pool: dict[Any, Array] = {}
        params = list(params) if lists_entries(params) else params
        grouped = isinstance(params, list) and params and all(isinstance(item, Mapping) for item in params)
        owners: dict[int, str] = {}
        for given in params if grouped else [{"params": params}]:
            unknown = given.keys() - self.defaults.keys() - {"params"}
            if unknown or "params" not in given:
                raise ValueError(
                    f"{kind}: a group has 'params' and any of {list(self.defaults)}, not {list(given)}"
                )
            group = Group(self.check, {key: given.get(key, value) for key, value in self.defaults.items()})
            for name, p in named(given["params"], kind):
                if id(p) in owners:
                    raise ValueError(
                        f"{kind}: the Parameter {owners[id(p)]!r} of shape {list(p.shape)} is given twice"
                    )
                name = owners[id(p)] = self._unique(name or f"parameter{len(owners)}")
                memory = self.state[name] = Memory(name, p)
                group.memories.append(memory)
                group["params"].append(p)
            self.param_groups.append(group)
        if not self.state:
            raise ValueError(
                f"{kind}: got no Parameters; has the model none, or was its iterator used up before?"
            )

    def _unique(self, name: str) -> str:
        candidates = [name, *(f"{name}#{i}" for i in range(1, len(self.state) + 1))]
        return next(candidate for candidate in candidates if candidate not in self.state)

    @classmethod
    def check(cls, hyper: Hyper) -> Hyper:
        """The hyper-parameters cast to Python numbers; TypeError or ValueError names the bad one."""
        return {
            name: ranges.get(name, non_negative)(f"{cls.__name__}: {name}", value)
            for name, value in hyper.items()
        }

    def zero_grad(self) -> None:
        """Drops the gradient of every Parameter."""
        for memory in self.state.values():
            memory.parameter.grad = None

    @naming_memory("Optimizer.step")
    def step(self) -> None:
        """Changes every Parameter that has a gradient; the others and their memories stay as they are.

        Raises ValueError or TypeError, before any change, where a gradient does not fit its Parameter.
        """
        due = []
        for group in self.param_groups:
            for memory in group.memories:
                node = memory.parameter.node
                if node is not None and node.grad is not None:
                    self._fit(memory, node.grad, group.data)
                    due.append((memory, node.grad, group.data))
        if (own := kernel("optimizer step")) is not None and own(self, due):
            return
        for memory, g, hyper in due:
            parameter = memory.parameter  # not its array: what nothing else holds needs no note when it is written to
            parameter.unlock()
            spare, work = memory.scratch
            memory.step += 1
            if hyper["maximize"]:
                g = xp.negative(g, out=spare)
            if hyper["weight_decay"]:
                g = self.decay(parameter.data, g, hyper, work, spare)
            self.update(parameter.data, g, memory, hyper, work)
            parameter.bump()

    def decay(self, p: Array, g: Array, hyper: Hyper, work: Array, out: Array) -> Array:
        """g + weight_decay p, the gradient of the loss + weight_decay/2 |p|^2, in `out`."""
        return xp.add(g, xp.multiply(p, hyper["weight_decay"], out=work), out=out)

    def update(self, p: Array, g: Array, memory: Memory, hyper: Hyper, work: Array) -> None:
        """The rule: changes the array `p` in place. All arrays have one shape and dtype."""
        raise NotImplementedError(f"{type(self).__name__} has no update rule")

    def _fit(self, memory: Memory, g: Array, hyper: Hyper) -> None:
        """Sees to it that a Parameter, its gradient, memory and scratch arrays can be computed with."""
        p, scratch = memory.parameter.data, memory.scratch
        fits = g.shape == p.shape and g.dtype == p.dtype
        if fits and scratch and scratch[0].dtype == p.dtype and type(scratch[0]) is type(p):
            return
        where = f"{type(self).__name__}.step"
        if not fits:
            raise ValueError(
                f"{where}: the gradient of {memory.name!r} is {g.dtype} {list(g.shape)}, but the Parameter is "
                f"{p.dtype} {list(p.shape)}; was its data replaced after backward()?"
            )
        if not isinstance(p, xp.ndarray):
            raise TypeError(
                f"{where}: {memory.name!r} is an array of {type(p).__module__}, but the backend in use is "
                f"{current()!r}; make and train a model under one mg.use(...)"
            )
        for key, array in memory.items():
            if array.dtype != p.dtype or type(array) is not type(p):
                raise TypeError(
                    f"{where}: {memory.name!r} is now {p.dtype}, but its {key} was made as {array.dtype}; "
                    "make the optimizer after changing a model's dtype or backend"
                )
        if hyper.get("eps") and not p.dtype.type(hyper["eps"]):
            raise ValueError(
                f"{where}: eps {hyper['eps']} is 0 in the {p.dtype} of {memory.name!r}; 0.0001 is usual there"
            )
        # One pool for all of a dtype: scratch stays in cache from one Parameter to the next.
        pool = self._pool.get((type(p), p.dtype))
        if pool is None or pool.shape[1] < p.size:
            largest = max(m.parameter.size for m in self.state.values())
            pool = self._pool[type(p), p.dtype] = xp.empty((2, largest), p.dtype)
        memory.scratch = [row[: p.size].reshape(p.shape) for row in pool]

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of everything that the next step depends on, besides Parameters and gradients.

        "state": copies of the remembered arrays, by names like "momentum_buffer/conv1.weight". The rest
        is for JSON: "optimizer", the class; "param_groups", each with its hyper-parameters and "params",
        which maps the Parameters' names to their counts of steps.
        """
        return {
            "optimizer": type(self).__name__,
            "state": {
                f"{key}/{name}": a.copy() for name, memory in self.state.items() for key, a in memory.items()
            },
            "param_groups": [
                {"params": {memory.name: memory.step for memory in group.memories}, **group.hyper}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over a snapshot, hyper-parameters included. Its arrays, or Tensors, are copied.

        Raises ValueError with all that is missing, unexpected or misshapen, and then changes nothing.
        """
        where = f"{type(self).__name__}.load_state_dict"
        if state_dict.keys() != {"optimizer", "state", "param_groups"}:
            raise ValueError(f"{where}: not the state of an optimizer: its entries are {list(state_dict)}")
        if state_dict["optimizer"] != type(self).__name__:
            raise ValueError(f"{where}: this is the state of {state_dict['optimizer']}")
        given, groups = state_dict["state"], state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError(
                f"{where}: the state has {len(groups)} groups, the optimizer {len(self.param_groups)}"
            )

        faults = Faults()
        hypers: list[Hyper] = []
        steps: dict[str, int] = {}
        expected: dict[str, tuple[Memory, str]] = {}
        for i, (group, saved) in enumerate(zip(self.param_groups, groups, strict=True)):
            own = {memory.name: memory for memory in group.memories}
            faults.compare(f"group {i}: ", own, saved.get("params", {}))
            faults.compare(f"group {i}: ", group.data, saved)
            hyper = self.check({key: saved.get(key, value) for key, value in group.hyper.items()})
            hypers.append(hyper)
            for name, step in saved.get("params", {}).items():
                steps[name] = whole(f"{where}: the steps of {name}", step, least=0)
                for key, switch in self.remembers.items() if name in own and steps[name] else ():
                    if switch is None or hyper[switch] or f"{key}/{name}" in given:
                        expected[f"{key}/{name}"] = own[name], key
        faults.compare("", expected, given)
        arrays: dict[str, Array] = {}
        for entry, (memory, _) in expected.items():
            if entry in given:
                p, array = memory.parameter.data, as_array(given[entry], None, where)
                if array.shape != p.shape or array.dtype != p.dtype:
                    faults.misshapen.append(
                        f"{entry} ({array.dtype} {list(array.shape)} for {p.dtype} {list(p.shape)})"
                    )
                arrays[entry] = array.copy()
        faults.report(where)

        for group, hyper in zip(self.param_groups, hypers, strict=True):
            group.data.update(hyper)
        for memory in self.state.values():
            memory.step = steps[memory.name]
            memory.clear()
        for entry, (memory, key) in expected.items():
            memory[key] = arrays[entry]

    def __repr__(self) -> str:
        lines = [
            f"  {len(group.memories)} parameters: "
            + ", ".join(f"{key}={value}" for key, value in group.hyper.items())
            for group in self.param_groups
        ]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum: a ball that rolls downhill.

    v = g at its first step, then momentum v + (1 - dampening) g;   p = p - lr v
    nesterov: p = p - lr (g + momentum v), the gradient as if the roll had gone on.
    Sutskever et al., On the importance of initialization and momentum in deep learning, 2013.
    """

    remembers: ClassVar = {"momentum_buffer": "momentum"}

    def __init__(
        self, params: Any, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, *, maximize: bool = False
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay,
            nesterov=nesterov, maximize=maximize
        )

    @classmethod
    def check(cls, hyper: Hyper) -> Hyper:
        hyper = super().check(hyper)
        if hyper["nesterov"] and not (hyper["momentum"] > 0 and hyper["dampening"] == 0):
            raise ValueError(
                f"{cls.__name__}: nesterov needs momentum > 0 and dampening 0, "
                f"not momentum {hyper['momentum']} and dampening {hyper['dampening']}"
            )
        return hyper

    def update(self, p: Array, g: Array, memory: Memory, hyper: Hyper, work: Array) -> None:
        lr, momentum, dampening = hyper["lr"], hyper["momentum"], hyper["dampening"]
        if not momentum:
            p -= xp.multiply(g, lr, out=work)
            return
        if "momentum_buffer" in memory:
            v = memory["momentum_buffer"]
            v *= momentum
            v += xp.multiply(g, 1 - dampening, out=work) if dampening else g
        else:
            v = memory["momentum_buffer"]
            xp.copyto(v, g)
        if hyper["nesterov"]:
            v = xp.add(g, xp.multiply(v, momentum, out=work), out=work)
        p -= xp.multiply(v, lr, out=work)


class Adagrad(Optimizer):
    """A step of its own for each weight: what has had large gradients moves little.

    s = s + g^2, from initial_accumulator_value;   p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)
    Duchi, Hazan, Singer, Adaptive subgradient methods, 2011.
    """

    remembers: ClassVar = {"sum": None}

    def __init__(
        self, params: Any, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0, eps: float = 1e-10, *, maximize: bool = False
    ) -> None:
        super().__init__(
            params, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value, eps=eps, maximize=maximize
        )

    def update(self, p: Array, g: Array, memory: Memory, hyper: Hyper, work: Array) -> None:
        if "sum" not in memory:
            memory["sum"].fill(hyper["initial_accumulator_value"])
        s = memory["sum"]
        s += xp.multiply(g, g, out=work)
        xp.sqrt(s, out=work)
        work += hyper["eps"]
        xp.divide(g, work, out=work)
        work *= hyper["lr"] / (1 + (memory.step - 1) * hyper["lr_decay"])
        p -= work


class RMSprop(Optimizer):
    """Adagrad that forgets: gradients are measured by the mean of their recent squares.

    s = alpha s + (1 - alpha) g^2;   d = g / (sqrt(s) + eps);   p = p - lr d
    centered: sqrt(s - m^2) instead, where m = alpha m + (1 - alpha) g: the recent variance
    momentum: v = momentum v + d;   p = p - lr v
    Hinton, Neural networks for machine learning, lecture 6e, 2012; centered: Graves, 2013.
    """

    remembers: ClassVar = {"square_avg": None, "grad_avg": "centered", "momentum_buffer": "momentum"}

    def __init__(
        self, params: Any, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
        weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False, *, maximize: bool = False
    ) -> None:
        super().__init__(
            params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
            centered=centered, maximize=maximize
        )

    def update(self, p: Array, g: Array, memory: Memory, hyper: Hyper, work: Array) -> None:
        alpha = hyper["alpha"]
        s = memory["square_avg"]
        s *= alpha
        xp.multiply(g, g, out=work)
        work *= 1 - alpha
        s += work
        if hyper["centered"]:
            m = memory["grad_avg"]
            m *= alpha
            m += xp.multiply(g, 1 - alpha, out=work)
            xp.subtract(s, xp.multiply(m, m, out=work), out=work)
            xp.sqrt(work, out=work)
        else:
            xp.sqrt(s, out=work)
        work += hyper["eps"]
        d = xp.divide(g, work, out=work)
        if hyper["momentum"]:
            v = memory["momentum_buffer"]
            v *= hyper["momentum"]
            v += d
            d = v
        p -= xp.multiply(d, hyper["lr"], out=work)


class Adam(Optimizer):
    """Momentum over RMSprop, both freed from the bias of having begun at zero.

    m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
    p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
    amsgrad: the greatest v so far instead of v.
    Kingma and Ba, 2015; amsgrad: Reddi, Kale, Kumar, On the convergence of Adam and beyond, 2018.
    """

    remembers: ClassVar = {"exp_avg": None, "exp_avg_sq": None, "max_exp_avg_sq": "amsgrad"}

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize
        )

    def update(self, p: Array, g: Array, memory: Memory, hyper: Hyper, work: Array) -> None:
        beta1, beta2 = hyper["betas"]
        t = memory.step
        m, v = memory["exp_avg"], memory["exp_avg_sq"]
        m *= beta1
        m += xp.multiply(g, 1 - beta1, out=work)
        v *= beta2
        xp.multiply(g, g, out=work)
        work *= 1 - beta2
        v += work
        if hyper["amsgrad"]:
            v = xp.maximum(memory["max_exp_avg_sq"], v, out=memory["max_exp_avg_sq"])
        xp.sqrt(v, out=work)
        work /= math.sqrt(1 - beta2**t)
        work += hyper["eps"]
        xp.divide(m, work, out=work)
        work *= hyper["lr"] / (1 - beta1**t)
        p -= work


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights themselves, whatever the gradients' size.

    p = (1 - lr weight_decay) p first, then Adam's step without any decay in g.
    Loshchilov and Hutter, Decoupled weight decay regularization, 2019.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)

    def decay(self, p: Array, g: Array, hyper: Hyper, work: Array, out: Array) -> Array:
        # The factor 1 - 1e-5 is not a float32; its rounding would be the same in every step and add up.
        p -= xp.multiply(p, hyper["lr"] * hyper["weight_decay"], out=work)
        return g


# -------------------------------------------------------------------------- around the optimizer's step


def decay_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer: weights, with the decay, and without it the biases and normalisations.

    A Parameter of at most one dimension is a bias, a gamma or a beta: pulling those to zero shrinks no
    function. `model` is a Module, or its named_parameters().
    """
    decay = non_negative("decay_groups: weight_decay", weight_decay)
    pairs = named(model.named_parameters() if hasattr(model, "named_parameters") else model, "decay_groups")
    return [
        {"params": [(name, p) for name, p in pairs if p.ndim > 1], "weight_decay": decay},
        {"params": [(name, p) for name, p in pairs if p.ndim <= 1], "weight_decay": 0.0},
    ]


def clip_grad_norm(parameters: Any, max_norm: float, error_if_nonfinite: bool = False) -> Tensor:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)); returns the norm that they had together.

    The norm is a 0-d Tensor, so that nothing is read back from a GPU; float32, or float64 where a
    gradient is. Without gradients it is 0. As in PyTorch, a NaN norm makes every gradient NaN, and an
    infinite one makes finite gradients zero and infinite ones NaN, unless `error_if_nonfinite`, which
    waits for the norm and raises ValueError before any change. A max_norm of inf only measures.
    """
    max_norm = float(max_norm)
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm: max_norm must not be negative or NaN, not {max_norm}")
    nodes = [
        p.node
        for _, p in named(parameters, "clip_grad_norm")
        if p.node is not None and p.node.grad is not None
    ]
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
    if not capturing():
        return xp.vdot(g, g)
    own = kernel("sums of products")
    y = None if own is None else own(g, g, tuple(range(g.ndim)))
    return (g * g).sum() if y is None else y.reshape(())


# ------------------------------------------------------------------------------------------- schedules


class Schedule:
    """Sets the hyper-parameters of every group as a function of the step: `lr(step, base)`.

    The base rates are those that the groups have when the schedule is made; making it sets the values
    of step 0, and each `step()`, called after the optimizer's, those of the next.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    """The attributes that define the function; a subclass sets them before it calls `__init__` here."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = of_kind(Optimizer, type(self).__name__, optimizer)
        self.base_lrs: list[float] = [group["lr"] for group in optimizer.param_groups]
        self.steps_taken = 0
        self._apply(0)

    def lr(self, step: int, base: float) -> float:
        """The learning rate at `step`, counted from 0, of a group whose base rate is `base`."""
        raise NotImplementedError(f"{type(self).__name__} has no rule for the learning rate")

    def at(self, step: int) -> list[Hyper]:
        """The hyper-parameters that this schedule sets at `step`, for each group."""
        return [{"lr": self.lr(step, base)} for base in self.base_lrs]

    def step(self) -> None:
        """Goes on to the next step."""
        self._apply(self.steps_taken + 1)
        self.steps_taken += 1

    def _apply(self, step: int) -> None:
        for group, hyper in zip(self.optimizer.param_groups, self.at(step), strict=True):
            group.update(hyper)

    def state_dict(self) -> dict[str, Any]:
        """What to save, for JSON: the schedule's class, its settings, base rates and step."""
        return {
            "schedule": type(self).__name__,
            "settings": {name: getattr(self, name) for name in self.settings},
            "base_lrs": list(self.base_lrs),
            "steps_taken": self.steps_taken,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes to the saved step and sets the optimizer's hyper-parameters to the values of that step.

        Raises ValueError where the saved schedule is not this one, and then changes nothing.
        """
        for schedule, base_lrs, steps_taken in self._read(state_dict):
            schedule.base_lrs, schedule.steps_taken = base_lrs, steps_taken
        self._apply(self.steps_taken)

    def _read(self, state_dict: Mapping[str, Any]) -> list[tuple[Schedule, list[float], int]]:
        """(schedule, base rates, steps taken) of this schedule and of any inside it, checked."""
        where = f"{type(self).__name__}.load_state_dict"
        own = self.state_dict()
        if state_dict.keys() != own.keys():
            raise ValueError(f"{where}: not the state of this schedule: its entries are {list(state_dict)}")
        for key in ("schedule", "settings"):
            if state_dict[key] != own[key]:
                raise ValueError(
                    f"{where}: the saved {key} {state_dict[key]!r} is not this one's {own[key]!r}"
                )
        base_lrs = [non_negative(f"{where}: base_lrs", base) for base in state_dict["base_lrs"]]
        if len(base_lrs) != len(self.base_lrs):
            raise ValueError(
                f"{where}: the state is of {len(base_lrs)} groups, the optimizer has {len(self.base_lrs)}"
            )
        return [(self, base_lrs, whole(f"{where}: steps_taken", state_dict["steps_taken"], least=0))]


class StepLR(Schedule):
    """lr = base gamma^floor(step / step_size): a stair."""

    settings = ("step_size", "gamma")

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = whole("StepLR: step_size", step_size)
        self.gamma = non_negative("StepLR: gamma", gamma)
        super().__init__(optimizer)

    def lr(self, step: int, base: float) -> float:
        return base * self.gamma ** (step // self.step_size)


def cosine(start: float, end: float, part: float) -> float:
    """From `start` at part = 0 to `end` at part = 1, exact at both, along half a wave."""
    weight = (1 + math.cos(math.pi * part)) / 2
    return weight * start + (1 - weight) * end


class CosineLR(Schedule):
    """lr from base to lr_min along half a cosine wave of `steps` steps; afterwards it stays at lr_min.

    Loshchilov and Hutter, SGDR, 2017, without the restarts.
    """

    settings = ("steps", "lr_min")

    def __init__(self, optimizer: Optimizer, steps: int, lr_min: float = 0.0) -> None:
        self.steps = whole("CosineLR: steps", steps)
        self.lr_min = non_negative("CosineLR: lr_min", lr_min)
        super().__init__(optimizer)

    def lr(self, step: int, base: float) -> float:
        return cosine(base, self.lr_min, min(step / self.steps, 1.0))


class WarmupLR(Schedule):
    """lr = (step + 1) / (steps + 1) of the full rate for `steps` steps; then the full rate, or `then`.

    then: a schedule of the same optimizer, which this one takes over: it begins at `steps`, and only
    the WarmupLR is stepped and saved. The full rate is `then`'s at its step 0.
    """

    settings = ("steps",)

    def __init__(self, optimizer: Optimizer, steps: int, then: Schedule | None = None) -> None:
        self.steps = whole("WarmupLR: steps", steps)
        self.then = then
        if then is not None and of_kind(Schedule, "WarmupLR", then).optimizer is not optimizer:
            raise ValueError("WarmupLR: `then` schedules another optimizer")
        super().__init__(optimizer)

    def lr(self, step: int, base: float) -> float:
        return base * min((step + 1) / (self.steps + 1), 1.0)

    def at(self, step: int) -> list[Hyper]:
        if self.then is None:
            return super().at(step)
        return [
            {**hyper, "lr": self.lr(step, hyper["lr"])} for hyper in self.then.at(max(step - self.steps, 0))
        ]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "then": None if self.then is None else self.then.state_dict()}

    def _read(self, state_dict: Mapping[str, Any]) -> list[tuple[Schedule, list[float], int]]:
        states = super()._read(state_dict)
        saved = state_dict["then"]
        if (saved is None) != (self.then is None):
            raise ValueError(f"WarmupLR.load_state_dict: the saved `then` {saved!r} is not this one's")
        return states if self.then is None else states + self.then._read(saved)


class OneCycleLR(Schedule):
    """Up to max_lr and down to almost nothing, while the momentum goes down and up again.

    With low = max_lr / div_factor, along half cosine waves: from low to max_lr at step
    pct_start total_steps - 1, then to low / final_div_factor at step total_steps - 1.
    cycle_momentum: momentum (Adam: beta1) runs from max_momentum to base_momentum and back; it is
    switched on where it was 0. max_lr is one number, or one for each group.
    Smith and Topin, Super-convergence, 2018, in the two phases of PyTorch and fastai.

    ValueError where the optimizer has no momentum to cycle, and for a step beyond total_steps.
    """

    settings = (
        "max_lr",
        "total_steps",
        "pct_start",
        "cycle_momentum",
        "base_momentum",
        "max_momentum",
        "div_factor",
        "final_div_factor",
    )

    def __init__(
        self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int, pct_start: float = 0.3,
        cycle_momentum: bool = True, base_momentum: float = 0.85, max_momentum: float = 0.95,
        div_factor: float = 25.0, final_div_factor: float = 1e4
    ) -> None:
        groups = of_kind(Optimizer, "OneCycleLR", optimizer).param_groups
        tops = max_lr if isinstance(max_lr, (list, tuple)) else [max_lr] * len(groups)
        if len(tops) != len(groups):
            raise ValueError(f"OneCycleLR: max_lr has {len(tops)} values for {len(groups)} groups")
        self.max_lr = [non_negative("OneCycleLR: max_lr", top) for top in tops]
        self.total_steps = whole("OneCycleLR: total_steps", total_steps)
        self.pct_start = fraction("OneCycleLR: pct_start", pct_start)
        self.cycle_momentum = flag("OneCycleLR: cycle_momentum", cycle_momentum)
        self.base_momentum = fraction("OneCycleLR: base_momentum", base_momentum)
        self.max_momentum = fraction("OneCycleLR: max_momentum", max_momentum)
        self.div_factor = non_negative("OneCycleLR: div_factor", div_factor)
        self.final_div_factor = non_negative("OneCycleLR: final_div_factor", final_div_factor)
        if not self.div_factor or not self.final_div_factor:
            raise ValueError("OneCycleLR: div_factor and final_div_factor must not be 0")
        if self.cycle_momentum and not optimizer.defaults.keys() & {"momentum", "betas"}:
            raise ValueError(
                f"OneCycleLR: {type(optimizer).__name__} has no momentum to cycle; give cycle_momentum=False"
            )
        super().__init__(optimizer)

    def wave(self, step: int, start: float, top: float, end: float) -> float:
        """From `start` to `top` to `end`, along the two phases."""
        peak, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        step = min(step, last)
        if step < peak:
            return cosine(start, top, step / peak)
        return cosine(top, end, (step - peak) / (last - peak)) if last > peak else top

    def lr(self, step: int, base: float) -> float:
        low = base / self.div_factor
        return self.wave(step, low, base, low / self.final_div_factor)

    def at(self, step: int) -> list[Hyper]:
        hypers: list[Hyper] = [{"lr": self.lr(step, top)} for top in self.max_lr]
        if self.cycle_momentum:
            momentum = self.wave(step, self.max_momentum, self.base_momentum, self.max_momentum)
            for hyper, group in zip(hypers, self.optimizer.param_groups, strict=True):
                if "betas" in group:
                    hyper["betas"] = momentum, group["betas"][1]
                else:
                    hyper["momentum"] = momentum
        return hypers

    def step(self) -> None:
        if self.steps_taken >= self.total_steps:
            raise ValueError(
                f"OneCycleLR: all {self.total_steps} steps were taken; make it longer or stop here"
            )
        super().step()


# ------------------------------------------------------------------------------- what is given, checked


def lists_entries(given: Any) -> bool:
    """Whether `given` can be a list of Parameters; a Module, which may be a list of layers, is none."""
    single = isinstance(given, (Tensor, str, Mapping)) or hasattr(given, "named_parameters")
    return isinstance(given, Iterable) and not single


def named(given: Any, who: str) -> list[tuple[str | None, Parameter]]:
    """(name or None, Parameter) for each of some Parameters or (name, Parameter) pairs.

    Raises TypeError for anything else, and says what it is called and why it is refused.
    """
    if not lists_entries(given):
        raise TypeError(
            f"{who}: needs an iterable of Parameters, like model.parameters(), not a {type(given).__name__}"
        )
    pairs: list[tuple[str | None, Parameter]] = []
    for position, item in enumerate(given):
        name, p = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
        if not isinstance(p, Parameter):
            if isinstance(p, Buffer):
                why = "a Buffer is remembered, not learnt: it has no gradient; model.parameters() leaves it out"
            else:
                why = "only Parameters are learnt; mg.Parameter(values) makes one"
            kind = type(p).__name__
            if isinstance(p, Tensor):
                name = name or p.label
                kind += f" of shape {list(p.shape)}"
            raise TypeError(f"{who}: {repr(name) if name else f'entry {position}'} is a {kind}: {why}")
        pairs.append((name or p.label, p))
    return pairs


def of_kind(kind: type[T], who: str, value: Any) -> T:
    """`value`, if it is one of `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{who}: needs a {kind.__name__}, not a {type(value).__name__}")
    return value


def non_negative(what: str, value: Any) -> float:
    """`value` as a Python float, finite and not negative."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} must be a number, not {value!r}")
    number = float(value)
    if not (number >= 0 and math.isfinite(number)):
        raise ValueError(f"{what} must be finite and not negative, not {number}")
    return number


def fraction(what: str, value: Any) -> float:
    """`value` as a Python float in [0, 1]."""
    number = non_negative(what, value)
    if number > 1:
        raise ValueError(f"{what} must be in [0, 1], not {number}")
    return number


def two_betas(what: str, value: Any) -> tuple[float, float]:
    """A pair of decay rates as Python floats in [0, 1): at 1 the bias correction would divide by zero."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{what} must be a pair of numbers, not {value!r}")
    beta1, beta2 = (non_negative(f"{what}[{i}]", beta) for i, beta in enumerate(value))
    for i, beta in enumerate((beta1, beta2)):
        if beta >= 1:
            raise ValueError(f"{what}[{i}] must be in [0, 1), not {beta}")
    return beta1, beta2


def flag(what: str, value: Any) -> bool:
    """`value` as True or False, if it is one of the two."""
    if value is not True and value is not False:
        raise TypeError(f"{what} must be True or False, not {value!r}")
    return bool(value)


def whole(what: str, value: Any, least: int = 1) -> int:
    """`value` as a Python int, at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be a whole number, not {value!r}")
    number = int(value)
    if number < least:
        raise ValueError(f"{what} must be at least {least}, not {number}")
    return number


ranges: dict[str, Callable[[str, Any], Any]] = {
    "alpha": fraction,
    "betas": two_betas,
    "nesterov": flag,
    "centered": flag,
    "amsgrad": flag,
    "maximize": flag,
}
"""What a hyper-parameter may be, where that is not any finite number from 0 on."""


class Faults:
    """How a loaded state differs from what it is loaded into, collected so that one error can tell all."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.misshapen: list[str] = []

    def compare(self, where: str, expected: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        """Notes the names that only one of the two has."""
        self.missing += [f"{where}{name}" for name in expected if name not in given]
        self.unexpected += [f"{where}{name}" for name in given if name not in expected]

    def report(self, who: str) -> None:
        """Raises ValueError if there is any fault."""
        faults = {kind: names for kind, names in vars(self).items() if names}
        if faults:
            listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items())
            raise ValueError(f"{who}: the state does not fit, nothing was loaded. {listed}")
