"""One recorded run of a user's function, and the words for its parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from minigrad import backend
from minigrad.backend import numpy as host
from minigrad.backend import to_numpy
from minigrad.tape import Node
from minigrad.tensor import Tensor


class CannotRun(ValueError):
    """The check could not be made; the message says why and what to do."""


@dataclass
class Run:
    """One recorded run.

    names, lines: of nodes; a line is (number, text).  expressions: what of the line a node belongs to; inner: the nodes
    that are not all of it; visits: which of its computations a node is of, as a number
    inputs: as f was given them, arrays on the host; the last `kept` of them are no arguments of f, but kept by a layer
    differentiable: the numbers of the inputs with gradients, and `leaves` their Tensors
    outputs: the Tensors that get a cotangent.  rest: what else f returns, as f itself returns it for arrays
    values, arguments: of every node, raw.  escapes: sentences on values that left the tape
    steps: ops that are constant almost everywhere and were given values on the tape, in words
    moment: the number of lines that ran.  constants: arrays that f has names for, and that are not on the tape
    """

    f: Callable[..., Any]
    input_names: list[str]
    inputs: list[Any]
    differentiable: list[int] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    rest: tuple[Any, ...] = ()
    order: list[Node] = field(default_factory=list)
    values: dict[Node, Any] = field(default_factory=dict)
    arguments: dict[Node, tuple[Any, ...]] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    lines: dict[Node, tuple[int, str]] = field(default_factory=dict)
    expressions: dict[Node, str] = field(default_factory=dict)
    inner: set[Node] = field(default_factory=set)
    visits: dict[Node, int] = field(default_factory=dict)
    moment: int = 0
    constants: dict[str, Any] = field(default_factory=dict)
    escapes: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    kept: int = 0

    def leaf_name(self, k: int) -> str:
        """The name of the k-th differentiable input."""
        return self.input_names[self.differentiable[k]]

    def describe(self, node: Node) -> str:
        """A node in words: its name, else the expression that it is, or its op in the expression that it is part of."""
        if node in self.names:
            return f"`{self.names[node]}`"
        op = op_of(node)
        source = node.inputs[0] if op in ("alias", "reshape", "take") else None
        if source in self.names and math.prod(source.shape) == math.prod(node.shape):  # such as `gamma[:, None]`
            return f"`{self.names[source]}`"
        if self.expressions.get(node) and node not in self.inner:
            return f"`{self.expressions[node]}`"
        where = self.expressions.get(node) or self.lines.get(node, (0, ""))[1]
        return f"the {op or 'input'}" + f" in `{where}`" * bool(where)

    def argument(self, node: Node, i: int) -> str:
        """The i-th argument of a node in words: a number as such, an array that is not on the tape by its name."""
        source = node.inputs[i]
        if source is not None:
            return self.describe(source)
        value = host.asarray(self.arguments[node][i])
        return self.constant(value) if value.ndim else f"{float(value):.6g}"

    def constant(self, value: Any) -> str:
        """The name that f has for an array, up to axes of length 1, or nothing."""
        for name, known in self.constants.items():
            if known.size == value.size and host.array_equal(known.reshape(-1), value.reshape(-1)):
                return f"`{name}`"
        return ""

    def place(self, node: Node) -> str:
        """A node in words, and where it was made."""
        return self.describe(node) + self.where(node)

    def where(self, node: Node) -> str:
        """Where a node was made: " (line 7: `var = ...`)", or nothing."""
        return f" (line {self.lines[node][0]}: `{self.lines[node][1]}`)" if node in self.lines else ""


def op_of(node: Node) -> str:
    """The name of the row that made a node; "" where it was there before."""
    return "" if node.primitive is None else node.primitive.name


def is_elementwise(node: Node) -> bool:
    """Whether an op made a node that works element by element, and broadcasts."""
    return node.primitive is not None and node.primitive.kind == "elementwise"


def name_of(f: Any) -> str:
    """A function's name, as a message shows it."""
    return f"{getattr(f, '__name__', type(f).__name__)}()"


def floating(x: Any) -> bool:
    return isinstance(x, host.ndarray) and x.dtype.kind == "f"


def on_host(x: Any) -> Any:
    """Tensors and device arrays as arrays on the host, and NumPy's numbers too."""
    if isinstance(x, Tensor):
        return to_numpy(x.data)
    return host.asarray(to_numpy(x)) if backend.is_array(x) or isinstance(x, host.generic) else x


def computed_in(inputs: Sequence[Any], keep_dtype: bool) -> tuple[list[Any], list[str]]:
    """The inputs on the host, floating ones in float64 unless they are to keep their dtypes; and the others' dtypes."""
    given = [on_host(x) for x in inputs]
    narrow = sorted({str(x.dtype) for x in given if floating(x) and x.dtype != host.float64})
    return given if keep_dtype else [x.astype(host.float64) if floating(x) else x for x in given], narrow


def by_an_ulp(dtype: Any = None) -> Callable[[Any], Any]:
    """What moves each number of a floating array by one unit in the last place, of its own dtype or another's."""
    generator = host.random.default_rng(11)

    def move(x: Any) -> Any:
        if not floating(x):
            return x
        eps = host.finfo(dtype or x.dtype).eps
        return host.asarray(x * (1 + eps * generator.choice([-1.0, 1.0], x.shape)), x.dtype)

    return move


def arrays_of(value: Any) -> Any:
    """The same value with NumPy arrays where Tensors stood, also inside tuples, lists and dicts."""
    return each(value, lambda part: to_numpy(part.data) if isinstance(part, Tensor) else part)


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value changed, or what is inside of tuples, lists and dicts."""
    if isinstance(value, tuple):
        parts = [each(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [each(part, change) for part in value]
    if isinstance(value, dict):
        return {key: each(part, change) for key, part in value.items()}
    return change(value)


def holding_arrays(run: Run) -> list[str]:
    """The names of the inputs that are lists, tuples or dicts of floating arrays."""

    def holds(value: Any) -> bool:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return any(floating(part) or isinstance(part, Tensor) or holds(part) for part in parts)

    return [name for name, value in zip(run.input_names, run.inputs, strict=True) if holds(value)]


def kept_inside(name: str) -> str:
    """What to do about an input that holds arrays."""
    return (
        f"The arrays in {name} have no gradients of their own here: make each of them an argument, as in "
        f"`lambda a, b: forward([a, b])`, and return their gradients in that order"
    )
