"""What all optimizers share: groups of Parameters with their hyper-parameters, memories, saving and loading.

A subclass is a rule of one Parameter's gradient (`rules`).
"""

from __future__ import annotations

import itertools
from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from minigrad.backend import Array, current, kernel, naming_memory, xp
from minigrad.given import non_negative, whole
from minigrad.optim.given import lists_entries, named, ranges
from minigrad.tape import recording
from minigrad.tensor import Parameter, as_array
from minigrad.uses import arrangement

Hyper = dict[str, Any]


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
        if recording.uses is not None:
            recording.uses.hyper = True
            recording.uses.attributes.append((self, "data", dict(self.data)))
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

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses a hyper-parameter, which no step would look for here."""
        if name in vars(self).get("defaults", ()):
            raise AttributeError(
                f"{type(self).__name__}: {name} belongs to each group: optimizer.param_groups[0][{name!r}] = {value!r}"
            )
        super().__setattr__(name, value)

    def _unique(self, name: str) -> str:
        candidates = itertools.chain([name], (f"{name}#{i}" for i in itertools.count(1)))
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
        uses, due = recording.uses, []
        if uses is not None:
            uses.step(self)
        for group in self.param_groups:
            for memory in group.memories:
                node = memory.parameter.node
                if node is not None and node.grad is not None:
                    self._fit(memory, node.grad, group.data)
                    due.append((memory, node.grad, group.data))
        if (own := kernel("optimizer step")) is not None and own(self, due):
            return
        if uses is not None and due:
            uses.ruled.add(self)
        for memory, g, hyper in due:
            parameter = memory.parameter  # not its array: what nothing else holds needs no note when it is written to
            parameter.unlock()
            spare, work = memory.scratch
            memory.step += 1
            if hyper.get("maximize"):  # a rule of the user's may have neither
                g = xp.negative(g, out=spare)
            if hyper.get("weight_decay"):
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
        if fits and scratch and _alike(scratch[0], p):
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
            if not _alike(array, p):
                raise TypeError(
                    f"{where}: {memory.name!r} is now {p.dtype} {list(p.shape)}, but its {key} was made as "
                    f"{array.dtype} {list(array.shape)}; make the optimizer after changing a model's shapes, dtype or "
                    "backend"
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

    def load_state_dict(self, state_dict: Mapping[str, Any], allow_nonfinite: bool = False) -> None:
        """Takes over a snapshot, hyper-parameters included. Its arrays, or Tensors, are copied.

        Raises ValueError with all that is missing, unexpected, misshapen or not finite (allow_nonfinite=True lets
        NaN and infinities pass), and then changes nothing.
        """
        where = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{where}: needs what state_dict() gave, not a {type(state_dict).__name__}")
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
                elif not allow_nonfinite and not bool(xp.isfinite(array).all()):
                    faults.nonfinite.append(entry)
                arrays[entry] = array.copy()
        faults.report(where)

        for group, hyper in zip(self.param_groups, hypers, strict=True):
            group.data.update(hyper)
        for memory in self.state.values():
            memory.step = steps[memory.name]
            memory.clear()
        for entry, (memory, key) in expected.items():
            memory[key] = arrays[entry]
        arrangement.replaced(f"{where} gave the optimizer other arrays")

    def __repr__(self) -> str:
        lines = [
            f"  {len(group.memories)} parameters: "
            + ", ".join(f"{key}={value}" for key, value in group.hyper.items())
            for group in self.param_groups
        ]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def _alike(a: Array, b: Array) -> bool:
    """Whether two arrays have one shape, dtype and library."""
    return a.shape == b.shape and a.dtype == b.dtype and type(a) is type(b)


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


class Faults:
    """How a loaded state differs from what it is loaded into, collected so that one error can tell all."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.misshapen: list[str] = []
        self.nonfinite: list[str] = []

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
