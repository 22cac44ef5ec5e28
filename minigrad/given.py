"""Numbers at the door: what a function, a layer or an optimizer is given, checked and cast to Python's own.

NumPy's scalars would widen float32 where they are kept, and NaN would be noticed far from where it came in.
Errors name who was given what: `what` is such as "SGD: lr". TypeError where it is no number, or not whole;
ValueError where it is out of its range.
"""

from __future__ import annotations

import math
from operator import index
from typing import Any


def number(what: str, value: Any) -> float:
    """`value` as a Python float, of any size; NaN too."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} must be a number, not {value!r}")
    return float(value)


def finite(what: str, value: Any) -> float:
    """`value` as a Python float, neither infinite nor NaN."""
    given = number(what, value)
    if not math.isfinite(given):
        raise ValueError(f"{what} must be finite, not {given}")
    return given


def non_negative(what: str, value: Any) -> float:
    """`value` as a Python float, finite and not negative."""
    given = number(what, value)
    if not (given >= 0 and math.isfinite(given)):
        raise ValueError(f"{what} must be finite and not negative, not {given}")
    return given


def positive(what: str, value: Any) -> float:
    """`value` as a Python float, finite and above zero."""
    given = number(what, value)
    if not (given > 0 and math.isfinite(given)):
        raise ValueError(f"{what} must be finite and above zero, not {given}")
    return given


def fraction(what: str, value: Any) -> float:
    """`value` as a Python float in [0, 1]."""
    given = number(what, value)
    if not 0 <= given <= 1:
        raise ValueError(f"{what} must be in [0, 1], not {given}")
    return given


def flag(what: str, value: Any) -> bool:
    """`value` as True or False, if it is one of the two."""
    if value is not True and value is not False:
        raise TypeError(f"{what} must be True or False, not {value!r}")
    return bool(value)


def whole(what: str, value: Any, least: int | None = 1) -> int:
    """`value` as a Python int, at least `least` (None: any)."""
    try:
        if isinstance(value, bool):
            raise TypeError
        given = index(value)
    except TypeError:
        raise TypeError(f"{what} must be a whole number, not {value!r}") from None
    if least is not None and given < least:
        raise ValueError(f"{what} must be at least {least}, not {given}")
    return given


def integers(op: str, what: str, value: Any) -> tuple[int, ...]:
    """One whole number, or a tuple or list of them, as a tuple: axes, lengths, positions."""
    try:
        return tuple(map(index, value)) if isinstance(value, (tuple, list)) else (index(value),)
    except TypeError:
        raise TypeError(f"{op}: {what} is a whole number, not {value!r:.60}") from None
