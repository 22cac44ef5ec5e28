"""What command lines are told, as numbers: the examples' and the benchmarks'."""

from __future__ import annotations

import argparse
import math


def whole(text: str, least: int = 1) -> int:
    """A flag's whole number, at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return number


def from_zero(text: str) -> int:
    """A flag's whole number, at least 0."""
    return whole(text, 0)


def positive(text: str) -> float:
    """A flag's positive number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number
