"""What is drawn as one thing: a line, or a run of consecutive lines of one layer, folded into one box.

Since lines only use earlier lines, groups that are runs leave the graph without cycles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigrad.view import words

if TYPE_CHECKING:
    from minigrad.view.program import Tape

DRAWABLE = 60
"""Lines up to which a drawing is legible; larger tapes are folded by layer."""

LAYERS, RUN = 600, 40
"""Layers, and lines outside of them, up to which each is a box of its own; and how many share a box then, at least."""


@dataclass
class Item:
    """One thing in a drawing: its title, its lines' numbers, and for a group its inner drawing."""

    title: str
    lines: list[int]
    group: bool = False


def groups(tape: Tape, fold: bool | None = None) -> list[Item]:
    """The items of a tape. fold: True folds every layer, False none, None only where there are too many lines."""
    if fold is None:
        fold = len(tape) > DRAWABLE
    if not fold:
        return [Item(line.name, [line.number]) for line in tape.lines]
    keys = layer_of_lines(tape)
    runs: list[Item] = []
    for number, key in keys.items():
        if not key or not runs or not runs[-1].group or key != runs[-1].title:
            runs.append(Item(key or tape.lines[number - 1].name, [], bool(key)))
        runs[-1].lines.append(number)
    if len(runs) > (LAYERS if any(keys.values()) else DRAWABLE):
        many = max(RUN, math.ceil(len(runs) / DRAWABLE))
        runs = [_together(runs[start : start + many]) for start in range(0, len(runs), many)]
    of_line = {number: i for i, run in enumerate(runs) for number in run.lines}
    users: dict[int, set[int]] = {}
    for line in tape.lines:
        for source in line.node.inputs:
            if source is not None and source.primitive is None:
                users.setdefault(tape.numbers[source], set()).add(of_line[line.number])
    for line in tape.lines:
        if line.node.primitive is None:
            homes = users.get(line.number, set())
            home = runs[min(homes)] if len(homes) == 1 else None
            if home is not None and home.group and line.node.label:
                home.lines.insert(0, line.number)
            else:
                runs.append(Item(line.name, [line.number]))
    return runs


def _together(items: Sequence[Item]) -> Item:
    numbers = [number for item in items for number in item.lines]
    return Item(f"lines {numbers[0]} to {numbers[-1]}", numbers, True)


def folding(tape: Tape, items: Sequence[Item]) -> str:
    """How the items are folded, for the reader: "" where they are not."""
    if not any(item.group for item in items):
        return ""
    many = f"{len(tape)} lines are too many to draw one by one"
    if all(item.title.startswith("lines ") for item in items if item.group):
        return f"folded by number: {many}; of a model that runs inside mg.trace(model) the layers are known"
    if any(line.layer for line in tape.lines):
        return f"folded by layer: {many}"
    return f"folded by layer, as the parameters' names tell (mg.trace(model) tells where each ends): {many}"


def told(tape: Tape, item: Item) -> str:
    """What is in a box: its ops where they are few, else the class of its layer where one was traced."""
    lines = [line for number in item.lines if (line := tape.lines[number - 1]).node.primitive is not None]
    if len(lines) < 3:
        return ", ".join(line.op for line in lines)
    kinds = {line.kind if line.layer == item.title else "" for line in lines}
    return kinds.pop() if len(kinds) == 1 and kinds != {""} else f"{len(item.lines)} lines"


def layer_of_lines(tape: Tape) -> dict[int, str]:
    """For each computed line the layer that recorded it: as traced, else by its parameters' names.

    Without a trace, lines between a layer's first line that is known and the next layer's are taken as its own.
    """
    keys: dict[int, str] = {}
    traced = any(line.layer for line in tape.lines)
    current = ""
    for line in tape.lines:
        if line.node.primitive is None:
            continue
        if traced:
            keys[line.number] = line.layer
            continue
        leaves = [source for source in line.node.inputs if source is not None and source.primitive is None]
        names = [leaf.label for leaf in leaves if leaf.label and "." in leaf.label]
        if names:
            current = words.printable(names[0].rsplit(".", 1)[0])
        keys[line.number] = current
    return keys


def edges_between(tape: Tape, items: Sequence[Item]) -> list[tuple[int, int]]:
    """The edges among items, each pair once."""
    home = {number: i for i, item in enumerate(items) for number in item.lines}
    found: dict[tuple[int, int], None] = {}
    for line in tape.lines:
        for source in line.node.inputs:
            if source is None:
                continue
            a, b = home.get(tape.numbers[source]), home.get(line.number)
            if a is not None and b is not None and a != b:
                found[(a, b)] = None
    return list(found)
