"""What a captured step (`mg.capture`) takes as given, and what it does to what stays after it.

A replay launches kernels, and Python does not run. What Python would have seen is therefore noted while the step runs
to be captured, by those who know: a Tensor's `grad`, the reverse pass, optimizers, the modes of layers.
"""

from __future__ import annotations

import itertools
from typing import Any

from minigrad.tape import Node, next_serial


class Arrangement:
    """What a captured step takes as given: whose array is which, what learns, which layers train.

    mark: a number that is another after every change, and the old one where a switch is turned back.
    last: the last change.
    """

    def __init__(self) -> None:
        self.mark = 0
        self.last = ""

    def switched(self, thing: Any, what: str) -> None:
        """One of two states of a thing took the other's place."""
        self.mark ^= hash((id(thing), "switch"))  # twice the same: as it was
        self.last = what

    def replaced(self, what: str) -> None:
        """An array, or a leaf's node, took another's place."""
        self.mark ^= hash((next_serial(), "other"))
        self.last = what


arrangement = Arrangement()


class Uses:
    """What a step that is captured, or rehearsed, does to what stays after it: gradients and optimizers.

    gradients: of each leaf, whether the step began with the gradient that was there, rather than dropped it, and that
    gradient.  optimizers: those that took a step, each with its memories, their counts and keys before.  ruled: those
    of them whose step was no kernel's.  arrays: of Parameters and Buffers that were given another, in turn.
    """

    def __init__(self) -> None:
        self.gradients: dict[Node, tuple[bool, Any]] = {}
        self.optimizers: dict[Any, list[tuple[Any, int, set[str]]]] = {}
        self.ruled: set[Any] = set()
        self.arrays: list[tuple[Any, Any]] = []

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
        for thing, array in reversed(self.arrays):
            thing.data = array

    def forget(self) -> None:
        """Drops the optimizers' arrays that the step made: they were never filled."""
        for memory, _, known in self.memories():
            for key in memory.keys() - known:
                del memory[key]

    def memories(self) -> list[tuple[Any, int, set[str]]]:
        """The optimizers' memories, their counts and keys before."""
        return list(itertools.chain.from_iterable(self.optimizers.values()))
