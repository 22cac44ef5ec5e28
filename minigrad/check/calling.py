"""How a hand-derived backward function is called, and how its answer is read.

People write `hand(g, *inputs)`, `hand(g, cache)` or `hand(*inputs)`, and return an array, a tuple or a
dict. What a function takes is read off its signature; what is wrong with the form of its answer
becomes a finding.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.forward import Forward, arrays_of, complaint, name_of
from minigrad.check.report import MISTAKE, NOTE, Finding

Array = Any
Way = tuple[str, ...]
"""What a hand function takes, in order: "g" (the cotangents), "inputs", "rest" (what else the forward returned), ..."""


@dataclass
class Answer:
    """What a hand function returned: for each differentiable input an array or None, and named steps.

    numbers: the places of Python's floats among the inputs that have a gradient too.
    """

    gradients: list[Array | None]
    steps: dict[str, Array] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


def _parameters(hand: Any) -> tuple[int, float, list[str]]:
    """How many positional arguments a function needs and takes, and their names."""
    try:
        parameters = list(inspect.signature(hand).parameters.values())
    except (TypeError, ValueError):
        return 0, math.inf, []
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    most = math.inf if any(p.kind == p.VAR_POSITIONAL for p in parameters) else len(positional)
    return needed, most, [p.name for p in positional]


def _parts(run: Forward) -> dict[str, tuple[Any, ...]]:
    return {
        "g": tuple(y for y in run.outputs if y.node is not None), "inputs": tuple(run.inputs), "rest": run.rest,
        "cache": (run.rest,), "differentiable": tuple(run.inputs[i] for i in run.differentiable),
    }  # fmt: skip


def way_to_call(hand: Any, run: Forward) -> tuple[Way, bool]:
    """What `hand` takes, and whether its signature agrees; of several ways the likeliest."""
    needed, most, names = _parameters(hand)
    parts = _parts(run)
    loss = all(y.size == 1 for y in run.outputs)
    ways: list[Way] = [("g", "rest")] if run.rest else []
    by_name = names[len(parts["g"]) :] == run.input_names
    ways = [("g", "inputs"), *ways] if by_name else [*ways, ("g", "inputs")]
    ways += [("g", "differentiable"), ("g",), ("inputs",), ("rest",)]
    if len(run.rest) > 1:
        ways.insert(1, ("g", "cache"))
    if loss and names == run.input_names:
        ways.insert(0, ("inputs",))
    if loss and names[:1] == ["cache"]:
        ways.insert(0, ("rest",))
    for way in ways:
        if needed <= sum(len(parts[part]) for part in way) <= most:
            return way, True
    return ways[0], False


def _arguments(hand: Any, run: Forward, gs: list[Array]) -> list[Any]:
    """The arguments of `hand`, its own copies where they can be copied: it may write into them."""
    parts = _parts(run) | {"g": tuple(gs)}
    arguments = [x for part in way_to_call(hand, run)[0] for x in parts[part]]
    try:
        return copy.deepcopy(arguments)
    except TypeError:  # a cache with a lock or a generator in it
        return arguments


def takes_cotangents_by_name(hand: Any, run: Forward) -> bool:
    """Whether the first arguments of `hand` are called after the outputs: `dh`, `grad_c` or `g2`."""
    names = _parameters(hand)[2]
    outputs = [run.names.get(y.node, "") for y in run.outputs]  # type: ignore[arg-type]
    return len(names) >= len(outputs) and all(
        re.fullmatch(rf"(d|g|grad)_?({re.escape(output)}|\d)", name) is not None
        for name, output in zip(names, outputs, strict=False)
    )


def ask(hand: Any, run: Forward, gs: list[Array], names: list[str]) -> Answer:
    """Calls `hand` and sorts what it returns; what is wrong with the form of it becomes a finding.

    gs: the cotangents of the outputs.  names: of the differentiable inputs.
    """
    if callable(hand):
        try:
            result = hand(*_arguments(hand, run, gs))
        except (Exception, SystemExit) as error:
            return _nothing(names, "raised", complaint("the backward function", hand, error))
    else:
        result = hand
    result = arrays_of(result)
    if result is None:
        return _nothing(
            names, "nothing returned", f"the backward function {name_of(hand)} returned None: is a return missing?"
        )
    if isinstance(result, Mapping):
        answer = _by_name(result, names)
        keys = {str(key).removeprefix("d") for key in result}
        answer.numbers = [i for i in _floats(run) if run.input_names[i] in keys]
        return answer
    parts = list(result) if isinstance(result, (tuple, list)) else [result]
    numbers = []
    if len(parts) == len(run.inputs) and len(parts) != len(names):
        numbers = [i for i in _floats(run) if isinstance(parts[i], host.ndarray) or parts[i]]
        parts = [parts[i] for i in run.differentiable]
    if len(parts) != len(names):
        needed = ", ".join("d" + n for n in names)
        message = f"{len(parts)} gradients were returned, and {len(names)} are needed: {needed}"
        return _nothing(names, "number of gradients", message)
    answer = Answer([None] * len(names), numbers=numbers)
    for k, part in enumerate(parts):
        answer.gradients[k] = _numbers(names[k], part, answer.findings)
    return answer


def _floats(run: Forward) -> list[int]:
    """The places of Python's floats among the inputs: settings, as long as nobody returns a gradient for them."""
    return [i for i, value in enumerate(run.inputs) if isinstance(value, float)]


def _nothing(names: list[str], kind: str, message: str) -> Answer:
    return Answer([None] * len(names), {}, [Finding("", kind, message)])


def _numbers(name: str, value: Any, findings: list[Finding]) -> Array | None:
    """One gradient or step as an array of real numbers; where it is none, a finding says so."""
    if value is None:
        findings.append(Finding(name, "nothing returned", f"d{name} is None"))
        return None
    try:
        array = host.asarray(value)
    except (TypeError, ValueError) as error:  # lists of unequal lengths
        findings.append(Finding(name, "not numbers", f"d{name} is a {type(value).__name__} and no array: {error}"))
        return None
    if array.dtype.kind not in "fiu":
        findings.append(Finding(name, "not numbers", f"d{name} holds {array.dtype}, not real numbers"))
        return None
    return array if array.dtype.kind == "f" else array.astype(float)


def _by_name(result: Mapping[Any, Any], names: list[str]) -> Answer:
    """Gradients and steps from a dict; both `x` and `dx` name the gradient of x."""
    answer = Answer([None] * len(names))
    said = set()
    for key, value in result.items():
        key = str(key)
        plain = key if key in names or not key.startswith("d") else key[1:]
        array = _numbers(plain if plain in names else key, value, answer.findings)
        said.add(plain)
        if plain in names:
            answer.gradients[names.index(plain)] = array
        elif array is not None:
            answer.steps[key] = array
    missing = [name for name in names if name not in said]
    if not result:
        answer.findings.append(Finding("", "nothing returned", "an empty dict was returned: it holds no gradient"))
    elif missing and len(missing) < len(names):
        message = f"{', '.join('d' + name for name in missing)} {'was' if len(missing) == 1 else 'were'} not returned"
        severity = NOTE if answer.steps else MISTAKE  # who looks for a wrong step gives what leads to it
        answer.findings.append(Finding(", ".join(missing), "nothing returned", message, severity=severity))
    return answer


def steps_of(steps: Mapping[str, Any] | None) -> Answer:
    """Steps that were given beside the hand function."""
    answer = Answer([])
    for key, value in (steps or {}).items():
        array = _numbers(str(key).removeprefix("d"), arrays_of(value), answer.findings)
        if array is not None:
            answer.steps[str(key)] = array
    return answer
