"""`nn.summary`: what each layer makes of an input, and what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import creation
from minigrad.nn.module import Module
from minigrad.tape import Reviewer, no_grad
from minigrad.tensor import Buffer, Parameter, Tensor, Versioned

NEVER = "not called"


class Lines(Reviewer):
    """The lines of a summary, as the layers of a model are called."""

    def __init__(self, model: Module) -> None:
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.rows: list[tuple[str, str, str, str]] = []
        self.counted: set[int] = set()

    def called(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A line for a layer, with the shape of what it gives."""
        y = super().called(module, args, kwargs)
        self.count(module, str(list(y.shape)) if isinstance(y, Tensor) else type(y).__name__)
        return y

    def count(self, module: Module, output: str) -> None:
        """A line for a module, unless it only passes on what others compute and hold."""
        members = [value for _, value in module.members()]
        held = {id(value): value for value in members if isinstance(value, Versioned) and id(value) not in self.counted}
        self.counted.update(held)
        if held or (output != NEVER and not any(isinstance(value, Module) for value in members)):
            parameters = sum(p.size for p in held.values() if isinstance(p, Parameter))
            buffers = sum(b.size for b in held.values() if isinstance(b, Buffer))
            name = f"{self.paths.get(id(module), '?')} {type(module).__name__}".lstrip()
            self.rows.append((name, output, f"{parameters:,}", f"{buffers:,}"))


def summary(model: Module, input_shape: Sequence[int], dtype: Any = creation.float32) -> str:
    """A table of layers, output shapes, parameters and buffers, from one forward pass over zeros.

    input_shape includes the batch. The model runs in evaluation mode and is left as it was. What several
    calls or layers share counts once, where it is met first; a module that is made of others has a line of
    its own where it holds something itself, and what is never called stands at the end.
    """
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(f"summary: input_shape is a tuple of lengths, the batch first, not {input_shape!r}")
    lines = Lines(model)
    states = [(module, module.frozen) for module in model.modules()]
    try:
        for module, _ in states:
            module.frozen = True  # it evaluates, whatever it was asked for
        with lines, no_grad():
            model(creation.zeros(tuple(input_shape), dtype=dtype))
    finally:
        for module, frozen in states:
            module.frozen = frozen
    for module in model.modules():
        lines.count(module, NEVER)
    parameters, buffers = sum(p.size for p in model.parameters()), sum(b.size for b in model.buffers())
    head = ("layer", "output", "parameters", "buffers")
    table = [head, *lines.rows, ("total", "", f"{parameters:,}", f"{buffers:,}")]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    text = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in table]
    rule = "-" * (sum(widths) + 6)
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])
