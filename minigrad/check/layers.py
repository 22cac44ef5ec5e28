"""Parameters that a layer keeps beside their gradients: `self.W` and `self.dW`, `params["W"]` and `grads["W"]`.

A forward reads such an array without having it as an argument, and its backward leaves the gradient with the layer
instead of returning it. What the backward wrote under a name that belongs to an array beside it is a gradient to
compare: the array becomes one more input, put in its place before each run, and the gradient one more answer.
"""

from __future__ import annotations

import collections
import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.run import floating

Array = Any
Place = tuple[Any, Any]
"""A dict or a list, and a key of it."""

Held = tuple[Any, Any, Any]
"""What holds something, its key, and the thing."""


@dataclass
class Parameter:
    """An array that a layer keeps.  places: where it is kept.  gradient: where the backward leaves its gradient."""

    name: str
    value: Array
    places: list[Place]
    gradient: Place


class Kept:
    """The arrays that a forward and its backward can reach, as they were before the check."""

    def __init__(self, held: Sequence[Held]) -> None:
        names = _containers(held)
        self.arrays = [
            (holder, key, value) for holder, key, value in held if isinstance(holder, (dict, list)) and floating(value)
        ]
        self.before = {
            (id(place[0]), place[1]): copy.copy(_at(*place))
            for holder, key, _ in self.arrays for place in _places(holder, key, names)
        }  # fmt: skip

    def parameters(self, held: Sequence[Held], taken: Sequence[str]) -> list[Parameter]:
        """The arrays that are where they were, and beside which the backward has left a gradient.

        taken: the names of the forward's arguments, which are no parameters of a layer
        """
        names = _containers(held)
        found: dict[int, Parameter] = {}
        for holder, key, value in self.arrays:
            if _at(holder, key) is not value or key in taken:
                continue
            if id(value) in found:
                found[id(value)].places.append((holder, key))
                continue
            for place in _places(holder, key, names):
                gradient, before = _at(*place), self.before.get((id(place[0]), place[1]))
                if floating(gradient) and not (before is not None and host.array_equal(gradient, before)):
                    found[id(value)] = Parameter(_name(holder, key, names), value, [(holder, key)], place)
                    break
        parameters = list(found.values())
        alike = collections.Counter(parameter.name for parameter in parameters)
        for parameter in parameters:
            holder, key = parameter.places[0]
            if alike[parameter.name] > 1 and id(holder) in names:
                parameter.name = f"{_name(*names[id(holder)], names)}.{parameter.name}"
        return parameters


def unidentified(held: Sequence[Held], left: dict[Any, Array], known: Sequence[Any]) -> list[str]:
    """The names of gradients that a backward left in a layer's attributes and that are none of `known`.

    left: what the forward had left, by (id of the holder, key)
    """
    attributes = {id(value.__dict__) for _, _, value in held if hasattr(value, "__dict__")}
    compared = [one for one in known if one is not None]
    return [
        key for holder, key, value in held
        if id(holder) in attributes and floating(value) and value is not left.get((id(holder), key))
        and re.match(r"d_?[A-Za-z]+$|grad|.*_grad", key) and not any(host.array_equal(value, one) for one in compared)
    ]  # fmt: skip


class Layer:
    """Parameters as further inputs of a forward, and their gradients as further answers of its backward."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = list(parameters)

    @property
    def values(self) -> list[Array]:
        return [parameter.value for parameter in self.parameters]

    def put(self, values: Sequence[Any]) -> None:
        """Puts other values in the parameters' places."""
        for parameter, value in zip(self.parameters, values, strict=True):
            for holder, key in parameter.places:
                holder[key] = value

    def clear(self) -> None:
        """Zeros where gradients are left, for a backward that adds to them."""
        for parameter in self.parameters:
            holder, key = parameter.gradient
            if isinstance(gradient := _at(holder, key), host.ndarray):
                gradient[...] = 0

    def gradients(self) -> list[Any]:
        """What the backward left, copied, as the next one writes there too; None where it left nothing."""
        return [copy.copy(_at(*parameter.gradient)) for parameter in self.parameters]


def _containers(held: Sequence[Held]) -> dict[int, Place]:
    """Where each dict, list and object's attributes are kept, by id; under a name rather than a number."""
    found: dict[int, Place] = {}
    for holder, key, value in held:
        attributes = value if isinstance(value, (dict, list)) else getattr(value, "__dict__", None)
        if attributes is not None and (id(attributes) not in found or isinstance(key, str)) and holder is not None:
            found[id(attributes)] = holder, key
    return found


def _name(holder: Any, key: Any, names: dict[int, Place]) -> str:
    """The key of a dict, or a list's own and the place in it: `params[0]`."""
    return key if isinstance(key, str) or id(holder) not in names else f"{names[id(holder)][1]}[{key}]"


def _places(holder: Any, key: Any, names: dict[int, Place]) -> Iterator[Place]:
    """Where the gradient of an array may be left: beside it, or in a container beside its own."""
    yield from ((holder, other) for other in _keys(holder) if _belongs(other, key))
    outer, own = names.get(id(holder), (None, None))
    yield from ((outer[other], key) for other in _keys(outer) if _belongs(other, own))


def _keys(holder: Any) -> list[str]:
    return [key for key in holder if isinstance(key, str)] if isinstance(holder, dict) else []


def _at(holder: Any, key: Any) -> Any:
    try:
        return holder[key]
    except (KeyError, IndexError, TypeError):
        return None


def _belongs(gradient: str, name: Any) -> bool:
    """Whether a key is a gradient's of what has the other: `dW`, `grad_W` or `W_grad` of `W`, `grads` of `params`."""
    key, name = gradient.lower().replace("_", ""), str(name).lower().replace("_", "")
    beside = f"grad{name[5:]}" if name[:5] == "param" else f"d{name}"
    return key in (beside, f"d{name}", f"grad{name}", f"{name}grad", f"{name}gradient")
