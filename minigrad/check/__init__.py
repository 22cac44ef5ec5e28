"""Checking gradients: `gradcheck` against numbers, `check_hand_gradient` against autodiff.

A `level` is a function at a point (or its derivative), `oracles` differentiate it by numbers, a `trial` compares
in one direction, `kinks` and `culprits` name the op at a kink and the row that is wrong.
`forward` records a user's function as a `run`, with names and lines (`watching` looks on, `repeated` runs it again and
again, `layers` finds what it keeps in attributes), `calling` asks their backward, `comparison` and `rounding` tell
whether it is right, `sweep` acts out backward passes with mistakes in them, `explain` looks for the mistake that was
made (`slips` lists the searches, of which each gets a `case` and its `clues`), `mutants` measures what a check could
have caught; `findings`, `causes`, `steps` and `report` say it.
`python -m minigrad.check` does it from the command line.
"""

from typing import Any

from minigrad.check.gradcheck import gradcheck
from minigrad.check.hand import check_hand_gradient
from minigrad.check.report import Finding, Report
from minigrad.check.run import CannotRun


def assert_hand_gradient(f: Any, inputs: Any, hand: Any, **options: Any) -> Report:
    """For tests: `check_hand_gradient`, and an AssertionError with the whole report where it fails."""
    __tracebackhide__ = True
    report = check_hand_gradient(f, inputs, hand, **options)
    if not report:
        raise AssertionError(str(report))
    return report


def assert_gradient(f: Any, inputs: Any, order: int = 1, **options: Any) -> Report:
    """For tests: `gradcheck`, and an AssertionError with the whole report where it fails."""
    __tracebackhide__ = True
    report = gradcheck(f, inputs, order, **options)
    if not report:
        raise AssertionError(str(report))
    return report


__all__ = [
    "CannotRun", "Finding", "Report", "assert_gradient", "assert_hand_gradient", "check_hand_gradient", "gradcheck",
]  # fmt: skip
