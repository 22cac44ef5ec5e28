"""What an optimizer or a schedule is given, checked: errors name who was given what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from minigrad.given import flag, fraction, non_negative
from minigrad.tensor import Buffer, Parameter, Tensor

T = TypeVar("T")


def lists_entries(given: Any) -> bool:
    """Whether `given` can be a list of Parameters; a Module, which may be a list of layers, is none."""
    single = isinstance(given, (Tensor, str, Mapping)) or hasattr(given, "named_parameters")
    return isinstance(given, Iterable) and not single


def named(given: Any, who: str) -> list[tuple[str | None, Parameter]]:
    """(name or None, Parameter) for each of some Parameters or (name, Parameter) pairs.

    Raises TypeError for anything else, and says what it is called and why it is refused.
    """
    if not lists_entries(given):
        raise TypeError(
            f"{who}: needs an iterable of Parameters, like model.parameters(), not a {type(given).__name__}"
        )
    pairs: list[tuple[str | None, Parameter]] = []
    for position, item in enumerate(given):
        name, p = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
        if not isinstance(p, Parameter):
            if isinstance(p, Buffer):
                why = "a Buffer is remembered, not learnt: it has no gradient; model.parameters() leaves it out"
            else:
                why = "only Parameters are learnt; mg.Parameter(values) makes one"
            kind = type(p).__name__
            if isinstance(p, Tensor):
                name = name or p.label
                kind += f" of shape {list(p.shape)}"
            raise TypeError(f"{who}: {repr(name) if name else f'entry {position}'} is a {kind}: {why}")
        pairs.append((name or p.label, p))
    return pairs


def of_kind(kind: type[T], who: str, value: Any) -> T:
    """`value`, if it is one of `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{who}: needs the {kind.__name__}, not a {type(value).__name__}")
    return value


def two_betas(what: str, value: Any) -> tuple[float, float]:
    """A pair of decay rates as Python floats in [0, 1): at 1 the bias correction would divide by zero."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{what} must be a pair of numbers, not {value!r}")
    beta1, beta2 = (non_negative(f"{what}[{i}]", beta) for i, beta in enumerate(value))
    for i, beta in enumerate((beta1, beta2)):
        if beta >= 1:
            raise ValueError(f"{what}[{i}] must be in [0, 1), not {beta}")
    return beta1, beta2


ranges: dict[str, Callable[[str, Any], Any]] = {
    "alpha": fraction,
    "betas": two_betas,
    "nesterov": flag,
    "centered": flag,
    "amsgrad": flag,
    "maximize": flag,
}
"""What a hyper-parameter may be, where that is not any finite number from 0 on."""
