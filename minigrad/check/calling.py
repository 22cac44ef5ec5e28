"""How a hand-derived backward function is called, and how its answer is read.

People write `hand(g, *inputs)`, `hand(g, cache)` or `hand(*inputs)`, and return an array, a tuple or a
dict: what a function takes is read off its signature, and what is wrong with the form of its answer
becomes a finding.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.forward import Forward, arrays_of, complaint, name_of
from minigrad.check.report import Finding

Array = Any


@dataclass
class Answer:
    """What a hand function returned: for each differentiable input an array or None, and named steps."""

    gradients: list[Array | None]
    steps: dict[str, Array] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def _parameters(hand: Any) -> tuple[int, float, list[str]]:
    """How many positional arguments a function needs and takes, and their names."""
    try:
        parameters = list(inspect.signature(hand).parameters.values())
    except (TypeError, ValueError):
        return 0, float("inf"), []
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    most = float("inf") if any(p.kind == p.VAR_POSITIONAL for p in parameters) else len(positional)
    return needed, most, [p.name for p in positional]


def without_upstream(hand: Any, run: Forward) -> bool:
    """Whether a loss's backward takes its inputs alone."""
    needed, most, names = _parameters(hand)
    return most == len(run.inputs) and needed <= most and names == run.input_names


def _arguments(hand: Any, run: Forward, gs: list[Array]) -> tuple[Any, ...]:
    """The arguments of `hand`: the cotangents, and then the cache or the inputs, whichever it takes."""
    needed, most, names = _parameters(hand)
    inputs = tuple(copy.deepcopy(run.inputs))
    g = tuple(x.copy() for x in gs)
    rest = copy.deepcopy(run.rest)
    ways = [(*g, *rest)] if rest else []
    by_name = names[len(g) :] == run.input_names
    ways = [(*g, *inputs), *ways] if by_name else [*ways, (*g, *inputs)]
    ways += [(*g, *(inputs[i] for i in run.differentiable)), g, inputs, rest]
    if len(rest) > 1:
        ways.insert(1, (*g, rest))
    if run.outputs[0].size == 1 and without_upstream(hand, run):
        ways.insert(0, inputs)
    for way in ways:
        if needed <= len(way) <= most:
            return way
    return ways[0]


def ask(hand: Any, run: Forward, gs: list[Array], names: list[str]) -> Answer:
    """Calls `hand` and sorts what it returns; what is wrong with the form of it becomes a finding."""
    nothing: list[Array | None] = [None] * len(names)
    if callable(hand):
        try:
            with host.errstate(all="ignore"):
                result = hand(*_arguments(hand, run, gs))
        except Exception as error:
            return Answer(nothing, {}, [Finding("", "raised", complaint("the backward function", hand, error))])
    else:
        result = hand
    result = arrays_of(result)
    if result is None:
        message = f"the backward function {name_of(hand)} returned None: is a return missing?"
        return Answer(nothing, {}, [Finding("", "nothing returned", message)])
    if isinstance(result, Mapping):
        return _by_name(result, names)
    parts = list(result) if isinstance(result, (tuple, list)) else [result]
    if len(parts) == len(run.inputs) and len(parts) != len(names):
        parts = [parts[i] for i in run.differentiable]
    if len(parts) != len(names):
        message = (
            f"{len(parts)} gradients were returned, and {len(names)} are needed: {', '.join('d' + n for n in names)}"
        )
        return Answer(nothing, {}, [Finding("", "number of gradients", message)])
    answer = Answer(nothing)
    for k, part in enumerate(parts):
        if part is None:
            answer.findings.append(Finding(names[k], "nothing returned", f"d{names[k]} is None"))
            continue
        array = host.asarray(part)
        if array.dtype.kind not in "fiu":
            answer.findings.append(
                Finding(names[k], "not numbers", f"d{names[k]} holds {array.dtype}, not real numbers")
            )
            continue
        answer.gradients[k] = array if array.dtype.kind == "f" else array.astype(float)
    return answer


def _by_name(result: Mapping[str, Any], names: list[str]) -> Answer:
    """Gradients and steps from a dict; both `x` and `dx` name the gradient of x."""
    answer = Answer([None] * len(names))
    for key, value in result.items():
        array = host.asarray(value, dtype=float)
        plain = key if key in names or not key.startswith("d") else key[1:]
        if plain in names:
            answer.gradients[names.index(plain)] = array
        else:
            answer.steps[key] = array
    return answer
