"""A step of SGD, Adagrad, RMSprop, Adam or AdamW for all Parameters in one launch, its numbers in the device's memory.

The counts of steps and the hyper-parameters lie on the device, beside what Python knows of them: a step that is
captured counts on at every replay, and `refresh` writes a changed learning rate before one.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from minigrad.backend import Array, by_value, capturing, xp
from minigrad.device.launch import REALS, THREADS, dense, launch, module, offer
from minigrad.optim.optimizer import Hyper, Memory, Optimizer
from minigrad.optim.rules import SGD, Adagrad, Adam, AdamW, RMSprop

MOST = 64
"""Arrays in one launch (`optimizers.cu`): their rows are a parameter of the launch, which has room for 4 KB."""

FIELDS = 7
"""Numbers in a row."""

Due = Sequence[tuple[Memory, Array, Hyper]]


KERNELS: dict[type[Optimizer], str] = {
    SGD: "sgd", Adagrad: "adagrad", RMSprop: "rmsprop", Adam: "adam", AdamW: "adam",
}  # fmt: skip
"""The rules that have a kernel, and its name."""


def numbers(kind: type[Optimizer], hyper: Hyper) -> list[float]:
    """A group's hyper-parameters in the order of the kernel's."""
    of_all = [hyper["lr"], hyper["weight_decay"], float(hyper["maximize"])]
    if kind is SGD:
        own = [hyper["momentum"], float(hyper["nesterov"])]
    elif kind is Adagrad:
        own = [hyper["lr_decay"], hyper["eps"]]
    elif kind is RMSprop:
        own = [hyper["alpha"], hyper["eps"], hyper["momentum"], float(hyper["centered"])]
    else:
        own = [*hyper["betas"], hyper["eps"], float(hyper["amsgrad"]), float(kind is AdamW)]
    return [*of_all, *own, *[0.0] * (5 - len(own))]


class OnDevice:
    """What an optimizer has on the device: hyper-parameters by group, and counts by Parameter."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer_type = type(optimizer)
        self.order = {name: i for i, name in enumerate(optimizer.state)}
        self.known_hyper: list[list[float]] = []
        self.known_counts: dict[str, int] = {}
        self.hyper = xp.zeros((len(optimizer.param_groups), 8))
        self.counts = xp.zeros(len(self.order), xp.int64)
        self.tickets = xp.zeros(len(self.order), xp.uint32)

    def refresh(self, optimizer: Optimizer) -> None:
        """Writes what Python changed since the last step: hyper-parameters, counts that were loaded."""
        hyper = [numbers(self.optimizer_type, group.data) for group in optimizer.param_groups]
        if hyper != self.known_hyper:
            self.hyper[...] = xp.asarray(hyper, xp.float64)
            self.known_hyper = hyper
        counts = {name: memory.step for name, memory in optimizer.state.items()}
        if counts != self.known_counts:
            self.counts[...] = xp.asarray(list(counts.values()), xp.int64)
            self.known_counts = counts

    def stepped(self, memories: Sequence[Memory]) -> None:
        """Counts a step of some Parameters, as the kernel does."""
        for memory in memories:
            memory.step += 1
            memory.parameter.bump()
        self.counted(memories)

    def counted(self, memories: Sequence[Memory]) -> None:
        """Notes that Python and the device have counted a step of some Parameters alike."""
        self.known_counts |= {memory.name: memory.step for memory in memories}


_held: WeakKeyDictionary[Optimizer, OnDevice] = WeakKeyDictionary()


def on_device(optimizer: Optimizer) -> OnDevice:
    """The optimizer's numbers on the device in use."""
    held = _held.get(optimizer)
    if held is None or held.hyper.__class__ is not xp.ndarray:
        held = _held[optimizer] = OnDevice(optimizer)
    return held


@offer("optimizer numbers")
def numbers_of(optimizer: Optimizer) -> OnDevice | None:
    """The numbers on the device of an optimizer whose steps are a kernel's; None for another."""
    kind, groups = type(optimizer), optimizer.param_groups
    mine = kind in KERNELS and not (kind is SGD and any(group["dampening"] for group in groups))
    return on_device(optimizer) if mine else None


@offer("optimizer step")
def step(optimizer: Optimizer, due: Due) -> bool | None:
    """Takes the step of the Parameters that are due; None, with nothing changed, where it is not for a kernel."""
    kind, held = type(optimizer), numbers_of(optimizer)
    if held is None or not due:
        return None
    dtype = due[0][0].parameter.data.dtype
    parameters = (memory.parameter for memory, _, _ in due)
    if dtype.char not in REALS or not all(p.data.dtype == dtype and p.data.flags.c_contiguous for p in parameters):
        return None
    held.refresh(optimizer)
    of = module("optimizers", dtype=dtype)
    group_of = {id(group.data): i for i, group in enumerate(optimizer.param_groups)}
    ordered = sorted(due, key=lambda one: held.order[one[0].name])
    for some in _runs(ordered, held.order):
        first = held.order[some[0][0].name]
        gradients = [dense(g) for _, g, _ in some]
        table: list[int] = []
        for (memory, _, hyper), g in zip(some, gradients, strict=True):
            table += _row(kind, memory, g, group_of[id(hyper)], hyper)
        largest = max(memory.parameter.size for memory, _, _ in some)
        grid = (max(1, min(64, -(-largest // (4 * THREADS)))), len(some))
        counted = (held.counts[first:], held.tickets[first:]) if first else (held.counts, held.tickets)
        launch(of, KERNELS[kind], grid, by_value(table, FIELDS * MOST), held.hyper, *counted)
    held.stepped([memory for memory, _, _ in ordered])
    return True


def _runs(due: Due, order: dict[str, int]) -> list[list[tuple[Memory, Array, Hyper]]]:
    """The Parameters in runs without a gap in the order, of `MOST` at most: a launch reads neighbouring counts."""
    runs: list[list[tuple[Memory, Array, Hyper]]] = []
    for one in due:
        if runs and len(runs[-1]) < MOST and order[runs[-1][-1][0].name] + 1 == order[one[0].name]:
            runs[-1].append(one)
        else:
            runs.append([one])
    return runs


def _row(kind: type[Optimizer], memory: Memory, g: Array, group: int, hyper: Hyper) -> list[int]:
    """A Parameter's row in the launch: addresses of it, its gradient, three memories; its size and its group."""
    p = memory.parameter.data
    keys: list[str | None]
    if kind is SGD:
        keys = ["momentum_buffer" if hyper["momentum"] else None, None, None]
    elif kind is Adagrad:
        keys = ["sum", None, None]
    elif kind is RMSprop:
        keys = [
            "square_avg", "grad_avg" if hyper["centered"] else None, "momentum_buffer" if hyper["momentum"] else None,
        ]  # fmt: skip
    else:
        keys = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq" if hyper["amsgrad"] else None]
    for key in keys:
        if key is not None and key not in memory:
            _begin(memory, key, hyper["initial_accumulator_value"] if kind is Adagrad else 0.0)
    kept = [0 if key is None else memory[key].data.ptr for key in keys]
    return [p.data.ptr, g.data.ptr, *kept, p.size, group]


def _begin(memory: Memory, key: str, value: float) -> None:
    """Makes an array of a memory, filled once: what a graph captured would fill it again at every replay."""
    array = memory[key] = xp.empty_like(memory.parameter.data)
    if capturing.afterwards is None:
        array.fill(value)
    else:
        capturing.afterwards.append(lambda: array.fill(value))
