"""Matrices multiplied in another order, or transposed where they should not be, that no shape gives away."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from minigrad.backend import numpy as host
from minigrad.check.case import LOCAL, Case, Explanation
from minigrad.check.run import op_of
from minigrad.check.sweep import Array
from minigrad.tape import Node


def products(case: Case) -> Iterator[Explanation]:
    """A product of matrices in another order, or of the transposed cotangent."""
    for node in case.sweep.steps("matmul"):
        for i, source, right in case.sweep.terms(node):
            g, other = case.sweep.cotangents[node], host.asarray(case.run.arguments[node][1 - i])
            if min(g.ndim, other.ndim, right.ndim) < 2:
                continue
            name, legend = _factor(case, node, 1 - i)
            meant = f"g @ {name}.T" if i == 0 else f"{name}.T @ g"
            of_turned = _turned(case, source) is not None
            for text, c in _ways(g, other, name, first=i == 0):
                if c.shape == right.shape and case.confirmed(source, c - right):
                    text, needed = (_product(words, of_turned) for words in (text, meant))
                    message = f"<d> <uses> `{text}` where `{needed}` is meant; g is the cotangent of "
                    message += case.run.place(node) + legend
                    yield case.at((node, i), ("product", node, i, text), LOCAL + 0.3, "product", message)


def _factor(case: Case, node: Node, i: int) -> tuple[str, str]:
    """A factor of a product as a name, and what the name stands for where the forward has none."""
    source = node.inputs[i]
    turned = None if source is None else _turned(case, source)
    words = case.run.argument(node, i) if turned is None else case.run.describe(turned)
    if words[:1] == "`" and words.strip("`").isidentifier():
        return words.strip("`") + ".T" * (turned is not None), ""
    return "m" + ".T" * (turned is not None), f", and m is {words or 'a constant'}"


def _turned(case: Case, node: Node) -> Node | None:
    """What a node is the transpose of that has no name itself, as `k.T` in `q @ k.T`."""
    if node in case.run.names or op_of(node) != "transpose":
        return None
    *_, row, column = node.params[0]
    return node.inputs[0] if (row, column) == (len(node.shape) - 1, len(node.shape) - 2) else None


def _product(text: str, turned: bool) -> str:
    """A product in words, transposed where it is to be, no matrix transposed twice."""
    if turned:
        left, right = text.split(" @ ")
        text = f"{right}.T @ {left}.T"
    while ".T.T" in text:
        text = text.replace(".T.T", "")
    return text


def _ways(g: Array, other: Array, name: str, first: bool) -> Iterator[tuple[str, Array]]:
    """Products of g and another matrix in words and numbers, but for the right one and its unturned factor's.

    first: whether g comes first in the right one. (A factor that is not transposed is a value mistaken for another.)
    """
    for swapped, turned, flipped in itertools.product((False, True), repeat=3):
        if not (swapped or turned):
            continue
        one = ("g.T", g.swapaxes(-1, -2)) if turned else ("g", g)
        two = (name, other) if flipped else (f"{name}.T", other.swapaxes(-1, -2))
        (left, a), (right, b) = (one, two) if first != swapped else (two, one)
        if a.shape[-1] == b.shape[-2]:
            yield f"{left} @ {right}", a @ b
