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
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.report import MISTAKE, NOTE, Finding
from minigrad.check.run import Run, arrays_of, each, holding_arrays, kept_inside, name_of
from minigrad.check.watching import complaint

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

    def add_step(self, key: str, value: Any) -> None:
        """Notes the cotangent of an intermediate."""
        if (array := _numbers(key, f"the step {key}", value, self.findings)) is not None:
            self.steps[key] = array


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


def _parts(run: Run) -> dict[str, tuple[Any, ...]]:
    inputs = _inputs(run)
    return {
        "g": tuple(y for y in run.outputs if y.node is not None), "inputs": tuple(inputs), "rest": run.rest,
        "cache": (run.rest,), "differentiable": tuple(run.inputs[i] for i in run.differentiable if i < len(inputs)),
    }  # fmt: skip


def way_to_call(hand: Any, run: Run) -> tuple[Way, bool]:
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
    fitting = [way for way in ways if needed <= sum(len(parts[part]) for part in way) <= most]
    for way in fitting:
        settings = names[needed : sum(len(parts[part]) for part in way)]
        if {"rest", "cache"} & set(way) or set(settings) <= set(run.input_names):  # `backward(g, rate=0.1)` takes none
            return way, True
    return (fitting or ways)[0], bool(fitting)


def _arguments(hand: Any, run: Run, gs: list[Array]) -> list[Any]:
    """The arguments of `hand`, its own copies where they can be copied: it may write into them."""
    parts = _parts(run) | {"g": tuple(gs)}
    arguments = [x for part in way_to_call(hand, run)[0] for x in parts[part]]
    try:
        return copy.deepcopy(arguments)
    except TypeError:  # a cache with a lock or a generator in it
        return arguments


def takes_cotangents_by_name(hand: Any, run: Run) -> bool:
    """Whether the first arguments of `hand` are called after the outputs: `dh`, `grad_c` or `g2`."""
    names = _parameters(hand)[2]
    outputs = [run.names.get(y.node, "") for y in run.outputs]  # type: ignore[arg-type]
    return len(names) >= len(outputs) and all(
        re.fullmatch(rf"(d|g|grad)_?({re.escape(output)}|\d)", name) is not None
        for name, output in zip(names, outputs, strict=False)
    )


def may_take_cotangents(hand: Any, run: Run) -> bool:
    """Whether the first arguments of `hand` have names that cotangents may have: `dout`, `grad`, `g`."""
    return all(re.match("[dg]", name) for name in _parameters(hand)[2][: len(run.outputs)])


def ask(hand: Any, run: Run, gs: list[Array], change: Callable[[Any], Any] | None = None) -> Answer:
    """Calls `hand` and sorts what it returns; what is wrong with the form of it becomes a finding.

    gs: the cotangents of the outputs.  change: of everything that the hand is given
    """
    names = [run.leaf_name(k) for k in range(len(run.leaves))]
    returned = names[: len(names) - run.kept]
    if run.kept:
        run.f.layer.clear()  # type: ignore[attr-defined]
    if callable(hand):
        try:
            arguments = _arguments(hand, run, gs)
            result = hand(*(each(arguments, change) if change is not None else arguments))
        except (Exception, SystemExit) as error:
            return _nothing(names, "raised", complaint("the backward function", hand, error))
    else:
        result = hand
    result = arrays_of(result)
    if result is None:
        message = f"the backward function {name_of(hand)} returned None: is a return missing?"
        answer = _nothing(returned, "nothing returned", message)
    elif isinstance(result, Mapping):
        answer = _by_name({str(key): value for key, value in result.items()}, returned, run)
    else:
        answer = _in_order(list(result) if isinstance(result, (tuple, list)) else [result], names, run)
    if run.kept and len(answer.gradients) < len(names):
        for name, gradient in zip(names[len(returned) :], run.f.layer.gradients(), strict=True):  # type: ignore[attr-defined]
            answer.gradients.append(_numbers(name, f"d{name}", gradient, answer.findings))
    return answer


def _in_order(parts: list[Any], names: list[str], run: Run) -> Answer:
    """Gradients in the order of the inputs, those of a layer's parameters among them or not."""
    numbers, returned = [], names[: len(names) - run.kept]
    inside = [Finding(name, "not compared", kept_inside(name), severity=NOTE) for name in holding_arrays(run)]
    if len(parts) == len(_inputs(run)) and len(parts) != len(returned):
        numbers = [i for i in _floats(run) if isinstance(parts[i], host.ndarray) or parts[i]]
        inside = [note for note in inside if parts[run.input_names.index(note.argument)] is not None]
        parts = [parts[i] for i in run.differentiable[: len(returned)]]
    elif len(parts) == len(returned):
        inside = []
    if len(parts) != len(names):
        names = returned
    if len(parts) != len(names):
        needed = ", ".join("d" + n for n in names)
        message = f"{len(parts)} gradients were returned, and {len(names)} are needed: {needed}"
        message += "; where only some are meant, name their inputs in wrt=" if len(parts) < len(names) else ""
        answer = _nothing(names, "number of gradients", message)
        answer.findings += inside
        return answer
    answer = Answer([None] * len(names), {}, inside, numbers)
    for k, part in enumerate(parts):
        answer.gradients[k] = _numbers(names[k], f"d{names[k]}", part, answer.findings)
    return answer


def _inputs(run: Run) -> list[Any]:
    """The arguments of the forward, without what a layer keeps."""
    return run.inputs[: len(run.inputs) - run.kept]


def _floats(run: Run) -> list[int]:
    """The places of Python's floats among the inputs: settings, as long as nobody returns a gradient for them."""
    return [i for i, value in enumerate(_inputs(run)) if isinstance(value, float)]


def _nothing(names: list[str], kind: str, message: str) -> Answer:
    return Answer([None] * len(names), {}, [Finding("", kind, message)])


def _numbers(name: str, what: str, value: Any, findings: list[Finding]) -> Array | None:
    """One gradient or step, called `what`, as an array of real numbers; where it is none, a finding says so."""
    if value is None:
        findings.append(Finding(name, "nothing returned", f"{what} is None"))
        return None
    try:
        array = host.asarray(value)
    except (TypeError, ValueError) as error:  # lists of unequal lengths
        findings.append(Finding(name, "not numbers", f"{what} is a {type(value).__name__} and no array: {error}"))
        return None
    if array.dtype.kind not in "fiu":
        findings.append(Finding(name, "not numbers", f"{what} holds {array.dtype}, not real numbers"))
        return None
    return array if array.dtype.kind == "f" else array.astype(float)


def _key_of(name: str, keys: Collection[str], names: list[str]) -> str | None:
    """The key of an input's gradient, `dx` or `x`; None where it has none. (`dx` may be an input too.)"""
    gradient = f"d{name}"
    anothers = gradient in names and f"d{gradient}" not in keys
    if gradient in keys and not anothers:
        return gradient
    return name if name in keys else None


def _by_name(result: Mapping[str, Any], names: list[str], run: Run) -> Answer:
    """Gradients and steps from a dict; both `x` and `dx` name the gradient of x."""
    numbers = [i for i in _floats(run) if _key_of(run.input_names[i], result, run.input_names) is not None]
    answer = Answer([None] * len(names), numbers=numbers)
    of = {_key_of(name, result, names): k for k, name in enumerate(names)}
    for key, value in result.items():
        if key in of:
            answer.gradients[of[key]] = _numbers(names[of[key]], f"d{names[of[key]]}", value, answer.findings)
        else:
            answer.add_step(key, value)
    missing = [name for name in names if _key_of(name, result, names) is None]
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
        answer.add_step(str(key), arrays_of(value))
    return answer
