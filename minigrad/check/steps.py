"""A backward pass judged step by step, from cotangents of intermediates that its author gives."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.causes import in_words
from minigrad.check.explain import explain
from minigrad.check.report import Finding
from minigrad.check.run import Run
from minigrad.check.sweep import Sweep
from minigrad.tape import Node
from minigrad.tensor import Tensor

Array = Any


def walk(run: Run, sweep: Sweep, steps: Mapping[str, Array], rtol: float) -> list[Finding]:
    """Judges given cotangents from the output to the inputs, each as if those before it were right.

    A name that held several values in turn (`h = x @ w; h = np.tanh(h)`) is taken for the one that fits.
    """
    findings: list[Finding] = []
    places: list[tuple[Node, str, Array]] = []
    named = {key: _called(run, sweep, key) for key in steps}
    for key, value in steps.items():
        if not named[key]:
            names = sorted(name for node, name in run.names.items() if node in sweep.cotangents)
            message = f"no intermediate is called {key!r}; the tape's names are {names}"
            findings.append(Finding(key, "unknown step", message))
            continue
        shaped = [node for node in named[key] if value.size == math.prod(node.shape)]
        if not shaped:
            node = named[key][0]
            message = f"step d{run.names[node]} has shape {list(value.shape)}, and {run.names[node]} {list(node.shape)}"
            findings.append(Finding(run.names[node], "shape", message))
        places += [(node, key, value.reshape(node.shape)) for node in shaped]
        named[key] = shaped
    given: dict[Node, Array] = {}
    settled: set[str] = set()
    for node, key, value in sorted(places, key=lambda place: -place[0].serial):
        if key in settled:
            continue
        expected = sweep.down(sweep.seeds, given=given).get(node)
        expected = host.zeros(node.shape) if expected is None else expected
        scale = float(host.abs(sweep.cotangents[node]).max(initial=0.0)) + float(host.abs(expected).max(initial=0.0))
        right = bool((host.abs(value - expected) <= rtol * scale).all())
        last = node is min(named[key], key=lambda n: n.serial)
        if not right and last:
            too = any(f.kind == "wrong step" for f in findings)
            before = ", ".join(f"d{run.names[n]}" for n in sorted(given, key=lambda n: -n.serial))
            findings.append(_wrong(run, sweep, named[key], value, given, rtol, too, before))
        if right or (last and len(named[key]) == 1):
            given[node] = value
            settled.add(key)
    return findings


def _called(run: Run, sweep: Sweep, key: str) -> list[Node]:
    """The nodes that `key` names, with or without a leading d: one, or those that shared a variable's name."""
    names = {node: name for node, name in run.names.items() if node in sweep.cotangents}
    for name in (key, key.removeprefix("d")):
        several = re.compile(re.escape(name) + r"( #\d+)?")
        if found := [node for node, own in names.items() if several.fullmatch(own)]:
            return found
    return []


def _wrong(
    run: Run, sweep: Sweep, nodes: list[Node], value: Array, given: Mapping[Node, Array], rtol: float, too: bool,
    before: str,
) -> Finding:  # fmt: skip
    """A step that is not the cotangent of its node, or of none of several nodes."""
    given_that = f", with {before} taken as given" if before else ""
    name = run.names[min(nodes, key=lambda n: n.serial)]
    head = f"d{name} is wrong too" if too else f"the first wrong step is d{name}"
    if len(nodes) > 1:
        which = "; ".join(f"`{run.names[n]}`{run.where(n)}" for n in nodes)
        message = f"{head}{given_that}: several values have that name, and it is the cotangent of none of them: {which}"
        return Finding(name, "wrong step", message, (name,))
    cause = _step_cause(run, sweep, nodes[0], value, given, rtol)
    message = f"{head}{run.where(nodes[0])}{given_that}" + (f": {cause}" if cause else "")
    return Finding(name, "wrong step", message, (name,))


def _step_cause(run: Run, sweep: Sweep, node: Node, value: Array, given: Mapping[Node, Array], rtol: float) -> str:
    """The mistake in one step: the same search, with the intermediate as the input asked about.

    Only what lies between it and the given steps can be at fault: nothing is passed above them.
    """
    between = {node}
    for n in run.order:
        if any(source in between and source not in given for source in n.inputs):
            between.add(n)
    x = Tensor(run.values[node], node)
    part = replace(run, input_names=[run.names[node]], inputs=[run.values[node]], differentiable=[0], leaves=[x])
    try:
        above = frozenset(run.order) - between
        seeds = {n: g for n, g in sweep.seeds.items() if n in between}
        for n in sorted(between & given.keys(), key=lambda n: -n.serial):
            seeds[n] = seeds.get(n, 0.0) + given[n] - Sweep(part, seeds, above).cotangents.get(n, 0.0)
        local = Sweep(part, seeds, above)
        expected = local.gradients[0]
        tol = 0.1 * rtol * (host.abs(expected) + float(host.abs(expected).max(initial=0.0)))
        explanations = explain(local, [value], [tol], [0])[0][0]
    except (ValueError, KeyError, host.linalg.LinAlgError):
        return ""
    return in_words(explanations[0].message, [run.names[node]]) if explanations else ""
