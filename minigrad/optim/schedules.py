"""Schedules: hyper-parameters as a function of the step alone.

A schedule is a function of the step and of the rates that the groups had when it was made, so that what has to be
saved of it is a count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from minigrad.given import flag, fraction, non_negative, whole
from minigrad.optim.given import of_kind
from minigrad.optim.optimizer import Hyper, Optimizer


class Schedule:
    """Sets the hyper-parameters of every group as a function of the step: `lr(step, base)`.

    The base rates are those that the groups have when the schedule is made; making it sets the values
    of step 0, and each `step()`, called after the optimizer's, those of the next.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    """The attributes that define the function; a subclass sets them before it calls `__init__` here."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = of_kind(Optimizer, type(self).__name__, optimizer)
        self.base_lrs: list[float] = [group["lr"] for group in optimizer.param_groups]
        self.steps_taken = 0
        self._apply(0)

    def lr(self, step: int, base: float) -> float:
        """The learning rate at `step`, counted from 0, of a group whose base rate is `base`."""
        raise NotImplementedError(f"{type(self).__name__} has no rule for the learning rate")

    def at(self, step: int) -> list[Hyper]:
        """The hyper-parameters that this schedule sets at `step`, for each group."""
        return [{"lr": self.lr(step, base)} for base in self.base_lrs]

    def step(self) -> None:
        """Goes on to the next step."""
        self._apply(self.steps_taken + 1)
        self.steps_taken += 1

    def _apply(self, step: int) -> None:
        for group, hyper in zip(self.optimizer.param_groups, self.at(step), strict=True):
            group.update(hyper)

    def state_dict(self) -> dict[str, Any]:
        """What to save, for JSON: the schedule's class, its settings, base rates and step."""
        return {
            "schedule": type(self).__name__,
            "settings": {name: getattr(self, name) for name in self.settings},
            "base_lrs": list(self.base_lrs),
            "steps_taken": self.steps_taken,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes to the saved step and sets the optimizer's hyper-parameters to the values of that step.

        Raises ValueError where the saved schedule is not this one, and then changes nothing.
        """
        for schedule, base_lrs, steps_taken in self._read(state_dict):
            schedule.base_lrs, schedule.steps_taken = base_lrs, steps_taken
        self._apply(self.steps_taken)

    def _read(self, state_dict: Mapping[str, Any]) -> list[tuple[Schedule, list[float], int]]:
        """(schedule, base rates, steps taken) of this schedule and of any inside it, checked."""
        where = f"{type(self).__name__}.load_state_dict"
        own = self.state_dict()
        if state_dict.keys() != own.keys():
            raise ValueError(f"{where}: not the state of this schedule: its entries are {list(state_dict)}")
        for key in ("schedule", "settings"):
            if state_dict[key] != own[key]:
                raise ValueError(
                    f"{where}: the saved {key} {state_dict[key]!r} is not this one's {own[key]!r}"
                )
        base_lrs = [non_negative(f"{where}: base_lrs", base) for base in state_dict["base_lrs"]]
        if len(base_lrs) != len(self.base_lrs):
            raise ValueError(
                f"{where}: the state is of {len(base_lrs)} groups, the optimizer has {len(self.base_lrs)}"
            )
        return [(self, base_lrs, whole(f"{where}: steps_taken", state_dict["steps_taken"], least=0))]


class StepLR(Schedule):
    """lr = base gamma^floor(step / step_size): a stair."""

    settings = ("step_size", "gamma")

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = whole("StepLR: step_size", step_size)
        self.gamma = non_negative("StepLR: gamma", gamma)
        super().__init__(optimizer)

    def lr(self, step: int, base: float) -> float:
        return base * self.gamma ** (step // self.step_size)


def cosine(start: float, end: float, part: float) -> float:
    """From `start` at part = 0 to `end` at part = 1, exact at both, along half a wave."""
    weight = (1 + math.cos(math.pi * part)) / 2
    return weight * start + (1 - weight) * end


class CosineLR(Schedule):
    """lr from base to lr_min along half a cosine wave of `steps` steps; afterwards it stays at lr_min.

    Loshchilov and Hutter, SGDR, 2017, without the restarts.
    """

    settings = ("steps", "lr_min")

    def __init__(self, optimizer: Optimizer, steps: int, lr_min: float = 0.0) -> None:
        self.steps = whole("CosineLR: steps", steps)
        self.lr_min = non_negative("CosineLR: lr_min", lr_min)
        super().__init__(optimizer)

    def lr(self, step: int, base: float) -> float:
        return cosine(base, self.lr_min, min(step / self.steps, 1.0))


class WarmupLR(Schedule):
    """lr = (step + 1) / (steps + 1) of the full rate for `steps` steps; then the full rate, or `then`.

    then: a schedule of the same optimizer, which this one takes over: it begins at `steps`, and only
    the WarmupLR is stepped and saved. The full rate is `then`'s at its step 0.
    """

    settings = ("steps",)

    def __init__(self, optimizer: Optimizer, steps: int, then: Schedule | None = None) -> None:
        self.steps = whole("WarmupLR: steps", steps)
        self.then = then
        if then is not None and of_kind(Schedule, "WarmupLR", then).optimizer is not optimizer:
            raise ValueError("WarmupLR: `then` schedules another optimizer")
        super().__init__(optimizer)

    def lr(self, step: int, base: float) -> float:
        return base * min((step + 1) / (self.steps + 1), 1.0)

    def at(self, step: int) -> list[Hyper]:
        if self.then is None:
            return super().at(step)
        return [
            {**hyper, "lr": self.lr(step, hyper["lr"])} for hyper in self.then.at(max(step - self.steps, 0))
        ]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "then": None if self.then is None else self.then.state_dict()}

    def _read(self, state_dict: Mapping[str, Any]) -> list[tuple[Schedule, list[float], int]]:
        states = super()._read(state_dict)
        saved = state_dict["then"]
        if (saved is None) != (self.then is None):
            raise ValueError(f"WarmupLR.load_state_dict: the saved `then` {saved!r} is not this one's")
        return states if self.then is None else states + self.then._read(saved)


class OneCycleLR(Schedule):
    """Up to max_lr and down to almost nothing, while the momentum goes down and up again.

    With low = max_lr / div_factor, along half cosine waves: from low to max_lr at step
    pct_start total_steps - 1, then to low / final_div_factor at step total_steps - 1.
    cycle_momentum: momentum (Adam: beta1) runs from max_momentum to base_momentum and back; it is
    switched on where it was 0. max_lr is one number, or one for each group.
    Smith and Topin, Super-convergence, 2018, in the two phases of PyTorch and fastai.

    ValueError where the optimizer has no momentum to cycle, and for a step beyond total_steps.
    """

    settings = (
        "max_lr",
        "total_steps",
        "pct_start",
        "cycle_momentum",
        "base_momentum",
        "max_momentum",
        "div_factor",
        "final_div_factor",
    )

    def __init__(
        self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int, pct_start: float = 0.3,
        cycle_momentum: bool = True, base_momentum: float = 0.85, max_momentum: float = 0.95,
        div_factor: float = 25.0, final_div_factor: float = 1e4
    ) -> None:
        groups = of_kind(Optimizer, "OneCycleLR", optimizer).param_groups
        tops = max_lr if isinstance(max_lr, (list, tuple)) else [max_lr] * len(groups)
        if len(tops) != len(groups):
            raise ValueError(f"OneCycleLR: max_lr has {len(tops)} values for {len(groups)} groups")
        self.max_lr = [non_negative("OneCycleLR: max_lr", top) for top in tops]
        self.total_steps = whole("OneCycleLR: total_steps", total_steps)
        self.pct_start = fraction("OneCycleLR: pct_start", pct_start)
        self.cycle_momentum = flag("OneCycleLR: cycle_momentum", cycle_momentum)
        self.base_momentum = fraction("OneCycleLR: base_momentum", base_momentum)
        self.max_momentum = fraction("OneCycleLR: max_momentum", max_momentum)
        self.div_factor = non_negative("OneCycleLR: div_factor", div_factor)
        self.final_div_factor = non_negative("OneCycleLR: final_div_factor", final_div_factor)
        if not self.div_factor or not self.final_div_factor:
            raise ValueError("OneCycleLR: div_factor and final_div_factor must not be 0")
        if self.cycle_momentum and not optimizer.defaults.keys() & {"momentum", "betas"}:
            raise ValueError(
                f"OneCycleLR: {type(optimizer).__name__} has no momentum to cycle; give cycle_momentum=False"
            )
        super().__init__(optimizer)

    def wave(self, step: int, start: float, top: float, end: float) -> float:
        """From `start` to `top` to `end`, along the two phases."""
        peak, last = self.pct_start * self.total_steps - 1, self.total_steps - 1
        step = min(step, last)
        if step < peak:
            return cosine(start, top, step / peak)
        return cosine(top, end, (step - peak) / (last - peak)) if last > peak else top

    def lr(self, step: int, base: float) -> float:
        low = base / self.div_factor
        return self.wave(step, low, base, low / self.final_div_factor)

    def at(self, step: int) -> list[Hyper]:
        hypers: list[Hyper] = [{"lr": self.lr(step, top)} for top in self.max_lr]
        if self.cycle_momentum:
            momentum = self.wave(step, self.max_momentum, self.base_momentum, self.max_momentum)
            for hyper, group in zip(hypers, self.optimizer.param_groups, strict=True):
                if "betas" in group:
                    hyper["betas"] = momentum, group["betas"][1]
                else:
                    hyper["momentum"] = momentum
        return hypers

    def step(self) -> None:
        if self.steps_taken >= self.total_steps:
            raise ValueError(
                f"OneCycleLR: all {self.total_steps} steps were taken; make it longer or stop here"
            )
        super().step()
