"""`nn.summary`: what each layer makes of an input, and what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import creation
from minigrad.nn.module import Module
from minigrad.tape import no_grad, recording
from minigrad.tensor import Buffer, Parameter, Tensor, Versioned

NEVER = "not called"


def summary(model: Module, input_shape: Sequence[int], dtype: Any = creation.float32) -> str:
    """A table of layers, output shapes, parameters and buffers, from one forward pass over zeros.

    input_shape includes the batch. The model runs in evaluation mode and is left as it was. What several
    calls or layers share counts once, where it is met first; a module that is made of others has a line of
    its own where it holds something itself, and what is never called stands at the end.
    """
    if not isinstance(input_shape, (tuple, list)):
        raise TypeError(f"summary: input_shape is a tuple of lengths, the batch first, not {input_shape!r}")
    paths = {id(module): path for path, module in model.named_modules()}
    rows: list[tuple[str, str, str, str]] = []
    counted: set[int] = set()

    def count(module: Module, output: str) -> None:
        """A line for a module, unless it only passes on what others compute and hold."""
        members = [value for _, value in module.members()]
        held = {id(value): value for value in members if isinstance(value, Versioned) and id(value) not in counted}
        counted.update(held)
        if held or (output != NEVER and not any(isinstance(value, Module) for value in members)):
            parameters = sum(p.size for p in held.values() if isinstance(p, Parameter))
            buffers = sum(b.size for b in held.values() if isinstance(b, Buffer))
            name = f"{paths.get(id(module), '?')} {type(module).__name__}".lstrip()
            rows.append((name, output, f"{parameters:,}", f"{buffers:,}"))

    def watch(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        y = module.forward(*args, **kwargs)
        count(module, str(list(y.shape)) if isinstance(y, Tensor) else type(y).__name__)
        return y

    modes = [(module, module.training) for module in model.modules()]
    before = recording.watch
    try:
        model.eval()
        recording.watch = watch
        with no_grad():
            model(creation.zeros(tuple(input_shape), dtype=dtype))
    finally:
        recording.watch = before
        for module, mode in modes:
            module.training = mode
    for module in model.modules():
        count(module, NEVER)
    parameters, buffers = sum(p.size for p in model.parameters()), sum(b.size for b in model.buffers())
    head = ("layer", "output", "parameters", "buffers")
    table = [head, *rows, ("total", "", f"{parameters:,}", f"{buffers:,}")]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in table]
    rule = "-" * (sum(widths) + 6)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
