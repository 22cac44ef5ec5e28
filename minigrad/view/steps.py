"""The reverse pass as steps: one for each edge of the tape.

A step has the cotangent that comes in, the rule in words, what it hands on, and the running sum at its destination.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigrad import paths as split
from minigrad.backend import Array, xp
from minigrad.tape import Node
from minigrad.view import words

if TYPE_CHECKING:
    from minigrad.view.program import Tape

MOVES = {"alias", "astype", "broadcast_to", "concatenate", "reshape", "sum", "sum_to", "take", "transpose"}
"""Linear rows whose matrix holds nothing but ones and zeros."""


@dataclass(frozen=True)
class Step:
    """One edge of the reverse pass.

    line, to:     the numbers of the line whose cotangent comes in, and of the input that it goes to
    argument:     which argument of the line that input is
    rule:         the pullback in words;  formula: as the table of primitives writes it
    incoming, outgoing: cotangents, of the line's and of the input's shape
    local:        the derivative along the edge, where it is one number for each element; else None
    local_text:   the same in words where it is a matrix
    running:      the input's cotangent so far, this step included;  uses: how many steps it sums in all;
    arrived: how many of these are in
    """

    line: int
    to: int
    argument: int
    rule: str
    formula: str
    incoming: Array
    local: Array | None
    local_text: str
    outgoing: Array
    running: Array
    uses: int
    arrived: int


def reverse_pass(tape: Tape, g: Array) -> tuple[list[Step], dict[Node, Array]]:
    """The steps from the result to the leaves, and the cotangent of every node; g is that of the result."""
    held: dict[Node, Array] = {tape.nodes[-1]: g}
    uses = Counter(source for node in tape.nodes for source in node.inputs)
    arrived = Counter[Node]()
    steps = []
    for node in reversed(tape.nodes):
        if node not in held or node.primitive is None:
            continue
        g = held[node]
        for argument, source, part in split.pull(node, g):
            held[source] = part if source not in held else held[source] + part
            arrived[source] += 1
            steps.append(_step(tape, node, argument, source, g, part, held[source], uses[source], arrived[source]))
    return steps, held


def steps_or_reason(tape: Tape) -> tuple[list[Step], str]:
    """The steps of the reverse pass, or none and the reason why there is none."""
    if tape.seed is None and tape.y.size != 1:
        return [], f"the result is no single number (its shape is {list(tape.y.shape)}), and no cotangent was given"
    try:
        return tape.steps, ""
    except RuntimeError as error:  # the tape was freed, or what it kept was overwritten
        return [], str(error)


def _step(
    tape: Tape, node: Node, argument: int, source: Node, g: Array, part: Array, running: Array, uses: int, arrived: int
) -> Step:
    row = node.primitive
    assert row is not None
    line = tape.lines[tape.numbers[node] - 1]
    m = math.prod(source.shape) // max(math.prod(node.shape), 1)
    operands = line.operands[argument : argument + 1] if row.variadic else line.operands
    named = {**dict(zip(row.arguments, operands, strict=True)), "y": line.name}
    rule = words.rule_words(row, argument, named, node.params, m)
    name = words.op_name(row)
    stack = name == "matmul" and source.shape[:-2] != node.shape[:-2]  # of products with one matrix
    if stack or (row.kind == "elementwise" and source.shape != node.shape):
        rule += f", then summed to {list(source.shape)}"
    plan = None if row.joint is not None else row.pullbacks[0 if row.variadic else argument]
    local, text = None, ""
    if row.kind == "elementwise" and plan is not None:
        pullback, places = plan
        local = pullback(xp.ones(node.shape, node.dtype), *[node.residuals[place] for place in places])
    elif name == "mean":
        text = f"1/{m}"
    elif name in MOVES:
        text = "1"
    elif name == "matmul":
        text = f"{line.operands[1 - argument]}ᵀ"
    else:
        text = "matrix"
    shown = words.formula(plan[0]) if plan is not None else "hand-derived"
    return Step(line.number, tape.numbers[source], argument, rule, shown, g, local, text, part, running, uses, arrived)
