"""What a captured step (`mg.capture`) takes as given, and what it does to what stays after it.

A replay launches kernels, and Python does not run. What Python would have seen is therefore noted while the step runs
to be captured, by those who know: a Tensor's `grad`, the reverse pass, Parameters and Buffers that are written to,
optimizers and their hyper-parameters, the modes of layers.
"""

from __future__ import annotations

import itertools
from typing import Any

from minigrad.tape import Node, next_serial


class Arrangement:
    """What a captured step takes as given: whose array is which, what learns, what the attributes of layers are.

    mark: a number that is another after every change, and the old one where an attribute has its old value again.
    last: the last change.
    """

    def __init__(self) -> None:
        self.mark = 0
        self.last = ""

    def attribute(self, thing: Any, name: str, before: Any, after: Any, what: str) -> None:
        """An attribute of a thing has another value than before."""
        self.mark ^= hash((id(thing), name, before)) ^ hash((id(thing), name, after))
        self.last = what

    def replaced(self, what: str) -> None:
        """An array, or a leaf's node, took another's place."""
        self.mark ^= hash((next_serial(), "other"))
        self.last = what


arrangement = Arrangement()


class Uses:
    """What a step that is captured, or rehearsed, does to what stays after it: gradients, values, optimizers.

    gradients: of each leaf, whether the step began with the gradient that was there, rather than dropped it, and that
    gradient.  optimizers: those that took a step, each with its memories, their counts and keys before.  ruled: those
    of them whose step was no kernel's.  written: Parameters and Buffers whose values were overwritten, by their ids.
    attributes: things of which an attribute was given another value, with its name and the value before, in turn.
    hyper: whether hyper-parameters were set.
    """

    def __init__(self) -> None:
        self.gradients: dict[Node, tuple[bool, Any]] = {}
        self.optimizers: dict[Any, list[tuple[Any, int, set[str]]]] = {}
        self.ruled: set[Any] = set()
        self.written: dict[int, Any] = {}
        self.attributes: list[tuple[Any, str, Any]] = []
        self.hyper = False

    def gradient(self, node: Node, used: bool = True) -> None:
        """The gradient of a leaf is read or added to, or, not `used`, written over: the first time counts."""
        if node.primitive is None:
            self.gradients.setdefault(node, (used, node.grad))

    def step(self, optimizer: Any) -> None:
        """An optimizer is about to take a step."""
        memories = optimizer.state.values()
        self.optimizers.setdefault(optimizer, [(memory, memory.step, set(memory)) for memory in memories])
        for memory in memories:
            if memory.parameter.node is not None:
                self.gradient(memory.parameter.node)

    def undo(self) -> None:
        """Takes back what Python noted of a step that was not computed."""
        for node, (_, gradient) in self.gradients.items():
            node.grad = gradient
        for memory, step, _ in self.memories():
            memory.step = step
        for thing, name, value in reversed(self.attributes):
            setattr(thing, name, value)

    def forget(self) -> None:
        """Drops the optimizers' arrays that the step made: they were never filled."""
        for memory, _, known in self.memories():
            for key in memory.keys() - known:
                del memory[key]

    def memories(self) -> list[tuple[Any, int, set[str]]]:
        """The optimizers' memories, their counts and keys before."""
        return list(itertools.chain.from_iterable(self.optimizers.values()))
