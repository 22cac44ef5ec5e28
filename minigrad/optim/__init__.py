"""Optimizers and schedules, in order of increasing complexity.

An *optimizer* changes Parameters, in place, by a rule of their gradients (`rules`). It holds its Parameters in
*groups*, each with its own *hyper-parameters* (learning rate, momentum, ...), and keeps a *memory* of
every Parameter: the arrays that the rule carries from one step to the next, under the Parameter's
name (`optimizer`). A *schedule* sets hyper-parameters as a function of the step alone (`schedules`).

Invariants. Gradients are read, never written: two Parameters may share one array. Hyper-parameters are
Python numbers, which never widen an array. A call that raises has changed nothing.

Names, defaults and rules are PyTorch's.
"""

from typing import NoReturn

from minigrad import pytorch_names
from minigrad.optim.clipping import clip_grad_norm
from minigrad.optim.optimizer import Optimizer, decay_groups
from minigrad.optim.rules import SGD, Adagrad, Adam, AdamW, RMSprop
from minigrad.optim.schedules import CosineLR, OneCycleLR, Schedule, StepLR, WarmupLR

__all__ = [
    "SGD", "Adagrad", "Adam", "AdamW", "CosineLR", "OneCycleLR", "Optimizer", "RMSprop", "Schedule", "StepLR",
    "WarmupLR", "clip_grad_norm", "decay_groups",
]  # fmt: skip


def __getattr__(name: str) -> NoReturn:
    """What PyTorch calls otherwise is told by the error."""
    raise pytorch_names.of_package(__name__, name)
