"""Checking gradients: `gradcheck` against numbers, `check_hand_gradient` against autodiff.

`forward` records a user's function with names and lines, `sweep` acts out backward passes with
mistakes in them, `explain` looks for the mistake that was made, `mutants` measures what a check could
have caught, `report` says it. `python -m minigrad.check` does it from the command line.
"""

from minigrad.check.forward import CannotRun
from minigrad.check.gradcheck import gradcheck
from minigrad.check.hand import check_hand_gradient
from minigrad.check.report import Finding, Report

__all__ = ["CannotRun", "Finding", "Report", "check_hand_gradient", "gradcheck"]
