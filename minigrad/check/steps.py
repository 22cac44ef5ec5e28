"""A backward pass judged step by step, from cotangents of intermediates that its author gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.explain import Explainer
from minigrad.check.findings import in_words
from minigrad.check.forward import Forward
from minigrad.check.report import Finding
from minigrad.check.sweep import Sweep
from minigrad.tape import Node
from minigrad.tensor import Tensor

Array = Any


def walk(run: Forward, sweep: Sweep, steps: Mapping[str, Array], rtol: float) -> list[Finding]:
    """Judges given cotangents from the output to the inputs, each as if those before it were right."""
    nodes: dict[str, Node] = {name: node for node, name in run.names.items() if node in sweep.cotangents}
    placed: dict[Node, tuple[str, Array]] = {}
    findings = []
    for key, value in steps.items():
        name = key if key in nodes else key[1:] if key.startswith("d") and key[1:] in nodes else None
        if name is None:
            message = f"no intermediate is called {key!r}; the tape's names are {sorted(nodes)}"
            findings.append(Finding(key, "unknown step", message))
            continue
        node = nodes[name]
        shaped = value.reshape(node.shape) if value.size == math.prod(node.shape) else value
        if shaped.shape != node.shape:
            message = f"step d{name} has shape {list(value.shape)}, and {name} {list(node.shape)}"
            findings.append(Finding(name, "shape", message))
            continue
        placed[node] = (name, shaped)
    given: dict[Node, Array] = {}
    for node in sorted(placed, key=lambda n: -n.serial):
        name, value = placed[node]
        expected = sweep.down(sweep.seeds, given=given).get(node)
        expected = host.zeros(node.shape) if expected is None else expected
        scale = float(host.abs(sweep.cotangents[node]).max(initial=0.0)) + float(host.abs(expected).max(initial=0.0))
        if not (host.abs(value - expected) <= 100 * rtol * scale).all():
            before = [placed[n][0] for n in sorted(given, key=lambda n: -n.serial)]
            head = (
                f"the first wrong step is d{name}"
                if not any(f.kind == "wrong step" for f in findings)
                else f"d{name} is wrong too"
            )
            given_that = f", with {', '.join('d' + b for b in before)} taken as given" if before else ""
            cause = _step_cause(run, sweep, node, value, given, rtol)
            message = f"{head}{run.where(node)}{given_that}" + (f": {cause}" if cause else "")
            findings.append(Finding(name, "wrong step", message, (name,)))
        given[node] = value
    return findings


def _step_cause(run: Forward, sweep: Sweep, node: Node, value: Array, given: Mapping[Node, Array], rtol: float) -> str:
    """The mistake in one step: the same search, with the intermediate as the input asked about."""
    x = Tensor(run.values[node], node)
    part = replace(run, input_names=[run.names[node]], inputs=[run.values[node]], differentiable=[0], leaves=[x])
    try:
        seeds = dict(sweep.seeds)
        for n, g in given.items():
            seeds[n] = g - sweep.down(seeds)[n] + seeds.get(n, 0.0)
        local = Sweep(part, seeds)
        expected = local.gradients[0]
        tol = 10 * rtol * (host.abs(expected) + float(host.abs(expected).max(initial=0.0)))
        explanations = Explainer(local, [value], [tol]).explain(0)
    except (ValueError, KeyError, host.linalg.LinAlgError):
        return ""
    return in_words(explanations[0].message, [run.names[node]]) if explanations else ""
