"""What the user asked `check_hand_gradient` for."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minigrad.backend import numpy as host
from minigrad.check.repeated import Repeated
from minigrad.check.run import CannotRun


@dataclass(frozen=True)
class Asked:
    """The arguments of `check_hand_gradient` that hold for all its runs; f is what can be run again and again."""

    f: Repeated
    hand: Any
    cotangent: Any
    outputs: int | None
    steps: Any
    rtol: float | None
    keep_dtype: bool
    seed: int
    budget: float
    progress: bool | None

    @property
    def parts(self) -> int:
        """How many outputs are asked for, as far as the arguments tell."""
        return self.outputs or (len(self.cotangent) if isinstance(self.cotangent, tuple) and self.cotangent else 1)

    def require_sense(self) -> None:
        """Raises CannotRun for arguments of which no check can be made."""
        if not callable(self.f.func):
            raise CannotRun(f"f is {self.f.func!r:.60}: the forward function comes first, then the inputs, then hand")
        if self.hand is None or isinstance(self.hand, (str, bytes)):
            raise CannotRun(f"hand is {self.hand!r:.60}: it must be the backward function, or the gradients themselves")
        if isinstance(self.f.wrt, str):
            raise CannotRun(f"wrt={self.f.wrt!r}: it must be a tuple of names, such as ({self.f.wrt!r},)")
        if self.steps is not None and not isinstance(self.steps, Mapping):
            raise CannotRun(f"steps is a {type(self.steps).__name__}: it must be a dict of cotangents by name")
        if self.rtol is not None and not (isinstance(self.rtol, (int, float)) and 0 < self.rtol < float("inf")):
            raise CannotRun(f"rtol={self.rtol!r}: it must be a number above 0, such as 1e-9")
        if not (isinstance(self.budget, (int, float)) and self.budget > 0):
            raise CannotRun(f"budget={self.budget!r}: it must be a number of seconds above 0")
        try:
            if self.outputs is not None and operator.index(self.outputs) < 1:
                raise ValueError
        except (TypeError, ValueError) as error:
            raise CannotRun(f"outputs={self.outputs!r}: it must be a number of outputs, 1 or more") from error
        try:
            host.random.default_rng(self.seed)
        except (TypeError, ValueError) as error:
            raise CannotRun(f"seed={self.seed!r}: it must be an integer, 0 or more ({error})") from error
