"""Module: a function with state. The walk over its attributes is all that there is to it.

Parameters, Buffers and Modules are found where they are: in the attributes of a Module, in the order
of assignment, also inside lists, tuples and dicts. Their *path* ("block.conv.weight") is their name in
state dicts, optimizers, errors and on the tape.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from minigrad import creation, ops, pytorch_names
from minigrad.backend import is_array
from minigrad.given import flag
from minigrad.tape import recording
from minigrad.tensor import Buffer, Parameter, Tensor, Versioned, as_array, as_tensor
from minigrad.uses import arrangement

State = dict[str, Tensor]
walks = itertools.count(1)
"""The numbers of the walks that give names."""


class _Path:
    """A module's path within the model that was walked last. A `path` of the user's own stands before it."""

    def __get__(self, module: Module | None, owner: type[Module]) -> str:
        return "" if module is None else module._place


class Module:
    """The base of every layer and model: write `forward`, assign what it needs in `__init__`."""

    frozen: bool = False
    _mode: bool = True  # what train() or eval() asked for last
    path = _Path()
    _place: str = ""  # its path within the model that was walked last
    _walked: int = 0  # the number of that walk; 0 where there was none

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError(f"{type(self).__name__} has no forward method; write one")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`. Arrays that are given by position come in as Tensors."""
        outermost = recording.outermost
        if outermost is None:
            recording.outermost = self
            if not self._walked:
                name_from(self)
        elif self._walked != outermost._walked:  # it came into the model, or was named from elsewhere, after the walk
            name_within(outermost, self)
        try:
            for given in args:
                if not isinstance(given, Tensor):
                    args = self._received(args)
                    break
            if recording.watch is None:
                return self.forward(*args, **kwargs)
            return recording.watch(self, args, kwargs)
        except Exception as error:
            if not hasattr(error, "__notes__"):  # the innermost layer speaks
                where = f"in the layer {self._place!r}: " if self._place else "in "
                error.add_note(f"{where}{type(self).__name__}({self.settings()})")
            raise
        finally:
            recording.outermost = outermost

    def _received(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What `forward` gets where not all that is given by position are Tensors."""
        return tuple(Tensor(a) if is_array(a) else a for a in args)

    def __getstate__(self) -> dict[str, Any]:
        """What copies take over: all but the path and the walk, which did not find them."""
        return {name: value for name, value in vars(self).items() if name not in ("_place", "_walked")}

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses other values in the place of a Parameter or Buffer: they would be neither learnt nor saved."""
        held = None if value is None or isinstance(value, Versioned) else vars(self).get(name)
        if isinstance(held, Versioned):
            lost = isinstance(value, Tensor) and value.node is not None
            where = f"{self._place}.{name}" if self._place else name
            raise TypeError(
                f"{type(self).__name__}: {where} is a {type(held).__name__}, and a {type(value).__name__} cannot take "
                f"its place: {name}.update(t) overwrites its values"
                + f"; this one has a history, and {name}.update(t.detach()) drops it" * lost
            )
        if name in ("training", "frozen") and isinstance(value, (Module, Tensor)):
            raise TypeError(
                f"{type(self).__name__}: {name} tells whether a module is in that mode; give the "
                f"{type(value).__name__} another name"
            )
        if not name.startswith("_") and name != "training":
            self._note(name, self.frozen if name == "frozen" else vars(self).get(name, value), value)
        super().__setattr__(name, value)

    def _note(self, name: str, before: Any, after: Any) -> None:
        """Tells captured steps of an attribute that is another: a plain value, or a Parameter, Buffer or Module."""
        place = self._place or type(self).__name__
        if before is after:
            return
        if isinstance(before, (Versioned, Module)):
            arrangement.replaced(f"{name} of {place!r} is another {type(before).__name__}")
        elif _plain(before) and _plain(after) and before != after:
            arrangement.attribute(self, name, before, after, f"{name} of {place!r} was set to {after!r}")
        else:
            return
        if recording.uses is not None:
            recording.uses.attributes.append((self, name, before))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What PyTorch calls otherwise is told by the error."""
            return pytorch_names.of_module(self, name)

    # ---- the walk ----------------------------------------------------------------------------------
    def members(self) -> Iterator[tuple[str, Any]]:
        """Parameters, Buffers and Modules held by this module itself, with their names here."""
        for name, value in vars(self).items():
            yield from _within(name, value)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once, with its path; the root's path is empty."""
        return _named(self, Module, prefix)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (found for _, found in _walk(self) if isinstance(found, Module))

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every Parameter once, with its path."""
        return _named(self, Parameter)

    def parameters(self) -> Iterator[Parameter]:
        """Every Parameter once: what an optimizer takes."""
        return (p for _, p in _named(self, Parameter))

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Every Buffer once, with its path."""
        return _named(self, Buffer)

    def buffers(self) -> Iterator[Buffer]:
        """Every Buffer once."""
        return (b for _, b in _named(self, Buffer))

    # ---- modes -------------------------------------------------------------------------------------
    @property
    def training(self) -> bool:
        """Whether it is in training mode: what `train` or `eval` asked for last, unless it is frozen."""
        return self._mode and not self.frozen

    @training.setter
    def training(self, mode: bool) -> None:
        before = self.training
        self._mode = flag(f"{type(self).__name__}: training", mode)
        self._note("training", before, self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode for this module and all below, except what is frozen; returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Evaluation mode: BatchNorm uses its running statistics, Dropout passes everything."""
        return self.train(False)

    def freeze(self) -> Self:
        """Nothing here learns or remembers until `unfreeze`: `train()` leaves it in evaluation mode."""
        for module in self.modules():
            module.frozen = True
        for parameter in _every(self, Parameter):
            parameter.requires_grad = False
        return self

    def unfreeze(self) -> Self:
        """Undoes `freeze`: parameters learn again, and the mode is the one that the model was put into last."""
        for module in self.modules():
            module.frozen = False
        for parameter in _every(self, Parameter):
            parameter.requires_grad = True
        return self

    def zero_grad(self) -> None:
        """Forgets every parameter's gradient."""
        for parameter in _every(self, Parameter):
            parameter.grad = None

    def to_dtype(self, dtype: Any) -> Self:
        """Converts Parameters and floating Buffers; gradients are forgotten. Returns the module.

        Buffers stay at float32 where half precision is asked for: averages over many batches need the digits.
        """
        try:
            wanted = creation.zeros(0, dtype=dtype).dtype
        except TypeError:
            wanted = None
        if dtype is None or wanted is None or wanted.kind != "f":
            raise TypeError(
                f"to_dtype: Parameters are floating, so the dtype is float16, float32 or float64, not {dtype}"
            )
        for parameter in _every(self, Parameter):
            parameter.grad = None
            parameter.data = parameter.data.astype(wanted)
        for buffer in _every(self, Buffer):
            if buffer.dtype.kind == "f":
                buffer.data = buffer.data.astype(creation.float32 if wanted == creation.float16 else wanted)
        return self

    # ---- state -------------------------------------------------------------------------------------
    def _state(self) -> dict[str, Versioned]:
        """Parameters and Buffers by path; one that is held in several places stands under each of its paths."""
        return {
            f"{path}.{name}" if path else name: value
            for path, module in self._everywhere()
            for name, value in module.members()
            if isinstance(value, Versioned)
        }

    def _everywhere(self, path: str = "", above: tuple[Module, ...] = ()) -> Iterator[tuple[str, Module]]:
        """This module and all below it, under every path that leads there."""
        yield path, self
        for name, value in self.members():
            if isinstance(value, Module) and value not in above:
                yield from value._everywhere(f"{path}.{name}" if path else name, (*above, self))

    def state_dict(self) -> State:
        """Copies of all Parameters and Buffers by path, as constant Tensors.

        Tied weights stand under each of their paths, as in PyTorch.
        """
        return {path: Tensor(value.data.copy()) for path, value in self._state().items()}

    def load_state_dict(self, state: dict[str, Any], strict: bool = True, allow_nonfinite: bool = False) -> Self:
        """Overwrites Parameters and Buffers with the arrays of a state dict; returns the module.

        Raises TypeError for anything but a dict, and ValueError that lists what is missing, unexpected,
        misshapen, of another dtype, not finite (allow_nonfinite=True lets NaN and infinities pass) or tied
        here and different there; then nothing is changed. strict=False passes over the missing and the
        unexpected. Of tied weights one is enough.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"load_state_dict: needs a dict of arrays, not a {type(state).__name__}; mg.load(path) reads one"
            )
        own = self._state()
        given = {path: as_array(value, None, "load_state_dict") for path, value in state.items() if path in own}
        firsts: dict[int, str] = {}  # of tied weights the path that is given first
        misshapen, mistyped, nonfinite, untied = [], [], [], []
        for path, array in given.items():
            value, first = own[path], firsts.setdefault(id(own[path]), path)
            if array.shape != value.shape:
                misshapen.append(f"{path} (here {list(value.shape)}, given {list(array.shape)})")
            elif array.dtype != value.dtype:
                mistyped.append(f"{path} (here {value.dtype}, given {array.dtype})")
            elif not allow_nonfinite and not bool(ops.all(ops.isfinite(Tensor(array)))):
                nonfinite.append(path)
            elif first != path and _differ(given[first], array):
                untied.append(f"{first} and {path}")
        problems = {
            "missing": [path for path, value in own.items() if id(value) not in firsts] if strict else [],
            "unexpected": [path for path in state if path not in own] if strict else [],
            "misshapen": misshapen,
            "of another dtype (see to_dtype)": mistyped,
            "not finite (allow_nonfinite=True lets them pass)": nonfinite,
            "tied here, different there": untied,
        }
        if any(problems.values()):
            lines = [f"\n  {what}: {', '.join(entries)}" for what, entries in problems.items() if entries]
            raise ValueError(f"load_state_dict: the state does not fit this {type(self).__name__}{''.join(lines)}")
        for path, array in given.items():
            own[path].update(array)
        return self

    # ---- looks -------------------------------------------------------------------------------------
    def settings(self) -> str:
        """What `repr` shows between the brackets."""
        return ""

    def __repr__(self) -> str:
        children = [(name, m) for name, m in self.members() if isinstance(m, Module)]
        head = f"{type(self).__name__}({self.settings()}"
        if not children:
            return head + ")"
        lines = [f"  ({name}): " + repr(m).replace("\n", "\n  ") for name, m in children]
        return head + "\n" + "\n".join(lines) + "\n)"


class Layer(Module):
    """A module of one Tensor, the first argument: an array, a list or a number there comes in as one, too."""

    def _received(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return as_tensor(args[0], type(self).__name__), *super()._received(args[1:])


def title(module: Module) -> str:
    """What errors call a module: its class and, within a model, its path."""
    return f"{type(module).__name__} {module._place}" if module._place else type(module).__name__


def name_from(root: Module, number: int | None = None) -> None:
    """Gives all modules, Parameters and Buffers their paths, as every named walk does, from the root's own on.

    A model's first call does so, that errors and the tape may know them.
    """
    for _ in _named(root, Module, root._place, number):
        pass


def name_within(outermost: Module, module: Module) -> None:
    """Gives paths once more, since a module runs within another whose walk did not find it."""
    name_from(outermost)
    if module._walked != outermost._walked:  # no attribute leads there, as from a function that calls it
        name_from(module, outermost._walked)


def _walk(root: Module, path: str = "") -> Iterator[tuple[str, Any]]:
    """A module and all Parameters, Buffers and Modules below it, each once, with their paths."""
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [(path, root)]
    while stack:
        path, found = stack.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield path, found
        if isinstance(found, Module):
            below = [(f"{path}.{name}" if path else name, value) for name, value in found.members()]
            below.sort(key=lambda entry: isinstance(entry[1], Module))  # its own values come before its modules
            stack.extend(reversed(below))


def _named(root: Module, kind: type[Any], path: str = "", number: int | None = None) -> Iterator[tuple[str, Any]]:
    """What a walk finds of a kind. What it finds it gives its path: the last walk's are the names."""
    number = number or next(walks)
    for place, found in _walk(root, path):
        if isinstance(found, Module):
            vars(found).update(_place=place, _walked=number)
        elif found.name != place:
            found.rename(place)
        if isinstance(found, kind):
            yield place, found


def _every(root: Module, kind: type[Any]) -> list[Any]:
    """All of a kind, whose names stay."""
    return [found for _, found in _walk(root) if isinstance(found, kind)]


def unusual(module: Module, usual: dict[str, Any]) -> str:
    """The settings that a module has and that are not the usual ones, each as ", name=value"."""
    values = {name: getattr(module, name, value) for name, value in usual.items()}
    return "".join(f", {name}={value!r}" for name, value in values.items() if value != usual[name])


def _plain(value: Any) -> bool:
    """Whether a value is a number, a text, None or a tuple of such: what says how a layer computes."""
    return isinstance(value, (bool, int, float, str, type(None))) or (
        type(value) is tuple and all(_plain(part) for part in value)
    )


def _differ(a: Any, b: Any) -> bool:
    """Whether two arrays are not the same values in the same shape and dtype; NaN is like NaN."""
    x, y = Tensor(a), Tensor(b)
    return a.shape != b.shape or a.dtype != b.dtype or bool(ops.any((x != y) & ((x == x) | (y == y))))


def _within(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The Parameters, Buffers and Modules in an attribute, also inside lists, tuples and dicts."""
    if isinstance(value, (Module, Versioned)):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _within(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _within(f"{name}.{number}", item)


class Sequential(Module):
    """Modules one after the other. Their paths are their numbers: "0.weight"."""

    def __init__(self, *layers: Module) -> None:
        for number, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(
                    f"Sequential: layer {number} is a {type(layer).__name__}, not a Module; a list of layers is handed "
                    "over as Sequential(*layers), and nn.Lambda makes a layer of a function"
                )
        self.layers = list(layers)

    def members(self) -> Iterator[tuple[str, Any]]:
        return ((str(number), layer) for number, layer in enumerate(self.layers))

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def __getitem__(self, index: int | slice) -> Any:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]


class ModuleList(Module):
    """A list of modules that a model walks through itself. Their paths are their numbers."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """NotImplementedError: which module is called when is for the model to say."""
        raise NotImplementedError(
            "ModuleList: it only holds modules; call each, as in `for module in modules: x = module(x)`, or make it a "
            "Sequential"
        )

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.entries: list[Module] = []
        for module in modules:
            self.append(module)

    def members(self) -> Iterator[tuple[str, Any]]:
        return ((str(number), module) for number, module in enumerate(self.entries))

    def append(self, module: Module) -> Self:
        """Adds a module at the end."""
        if not isinstance(module, Module):
            raise TypeError(f"ModuleList: entry {len(self.entries)} is a {type(module).__name__}, not a Module")
        self.entries.append(module)
        return self

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.entries)

    def __getitem__(self, index: int) -> Module:
        return self.entries[index]


class Lambda(Module):
    """Any function of one Tensor as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def settings(self) -> str:
        return getattr(self.function, "__name__", "")
