"""`capture`: a training step recorded once as a CUDA graph, then launched as a whole.

A small network is bound by launches: Python asks for some hundred kernels a step, one after the other. A
CUDA graph is those launches, recorded once on a stream, which the driver then issues together. What is
recorded is the device's work alone: Python does not run in a *replay*, so a step can be captured only
where the next one would launch the very same kernels with the same numbers in them. What changes
between steps must lie in arrays: inputs are copied into fixed ones, parameters, momenta and running statistics are
there anyway, and the kernels of `minigrad.device` read an optimizer's count of steps and its learning rate, and the
state of dropout's masks, from the device's memory. Products go through those kernels too: CuPy refuses calls of cuBLAS
while a stream is captured.

What Python does around the kernels is noted while the step is captured (`uses`), and each replay does it again (counts
of steps, gradients, which values were overwritten) or is no replay: where the step began with a gradient that was
there, where it sets a learning rate, and where since then a Parameter was given another array, an optimizer's state
was loaded, or an attribute of a layer was set.

Whatever cannot be captured runs as it would without `capture`, and `reason` says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from minigrad.backend import Array, Condition, capturing, current, kernel, pending, to_numpy, transfers, xp
from minigrad.generator import generator
from minigrad.given import whole
from minigrad.optim.given import of_kind
from minigrad.optim.optimizer import Memory, Optimizer
from minigrad.optim.rules import SGD
from minigrad.tape import Node, recording
from minigrad.tensor import Tensor, Versioned
from minigrad.uses import Uses, arrangement

__all__ = ["capture"]

NOT_YET = "not captured yet: the first calls make memory and kernels ready"

Signature = tuple[tuple[Any, ...], ...]


@dataclass
class Recorded:
    """A graph, and what Python does for it at each launch.

    inputs, result: where it reads and writes.  of: what it was captured for.  conditions: what must hold in every
    launch.  gradients: of the leaves whose gradients the step leaves or drops, what each then has.  stepped: whose
    steps are counted, and how many at each launch.  written: the Parameters and Buffers that it overwrites.  begun:
    what was done once before the first launch, with the arrays that every launch goes on with.
    """

    graph: Any
    inputs: list[Tensor]
    result: Any
    of: tuple[Any, ...]
    conditions: list[Condition]
    gradients: list[tuple[Node, Any]]
    stepped: list[tuple[Memory, int]]
    written: list[Versioned]
    begun: list[Callable[[], None]]


class Captured:
    """A step that is captured when it has run `warmup` times; call it as the step itself.

    reason: why the last call was not a replay, None where it was.  replays: how many were.
    """

    def __init__(self, step: Callable[..., Any], optimizer: Optimizer | None, warmup: int) -> None:
        self.step, self.optimizer = step, optimizer
        self.left = warmup
        self.reason: str | None = NOT_YET
        self.replays = 0
        self._never: str | None = None
        self._ruled = False  # whether the optimizer's steps were seen to be no kernel's
        self._stream: Any = None
        self._pool: Any = None
        self._recorded: Recorded | None = None
        self._mark: int | None = None  # of the arrangement that the step was captured in
        self._used: list[Node] = []  # the leaves whose gradients the step takes as it finds them

    def __call__(self, *inputs: Tensor) -> Any:
        numbers = self._numbers()
        obstacle = self._never or self._obstacle(inputs, numbers)
        if obstacle is not None:
            self.reason = obstacle
            return self.step(*inputs)
        if self._stream is None:
            self._stream = xp.cuda.Stream(non_blocking=True)
            # Memory of its own: what a replay computes in must never be given to anything that stays.
            self._pool = xp.cuda.MemoryPool()
        before = xp.cuda.get_current_stream()
        self._stream.wait_event(before.record())  # what was launched so far comes first
        try:
            with self._stream:
                return self._on_stream(inputs, numbers)
        finally:
            before.wait_event(self._stream.record())

    def _on_stream(self, inputs: tuple[Tensor, ...], numbers: Any) -> Any:
        if self._mark is not None and self._mark != arrangement.mark:
            self._recorded, self._mark, self._used = None, None, []
            self.left = max(self.left, 1)
            self.reason = f"captured anew at the next call, since {arrangement.last}"
        if self.left > 0 or (numbers is None and self._unstepped()):
            self.left -= 1
            return self._rehearse(inputs)
        if (found := self._found()) is not None:
            self.reason = found
            return self.step(*inputs)
        if numbers is not None:
            numbers.refresh(self.optimizer)
        of = (signature(inputs), self._settings(numbers))
        if self._recorded is None:
            self._record(inputs, of, numbers)
        if (recorded := self._recorded) is None:
            return self.step(*inputs)
        if of != recorded.of:
            part = 0 if of[0] != recorded.of[0] else 1
            what = ("shapes or dtypes of the inputs", "the optimizer's hyper-parameters")[part]
            self.reason = f"{what} are {of[part]} and were {recorded.of[part]} when captured"
            return self.step(*inputs)
        for held, given in zip(recorded.inputs, inputs, strict=True):
            held.data[...] = given.data
        waiting = {id(condition) for condition in pending}
        for condition in recorded.conditions:
            if id(condition) not in waiting:  # nobody has asked yet, or somebody has looked
                condition[0].fill(True)
                pending.append(condition)
        recorded.graph.launch(self._stream)
        for node, gradient in recorded.gradients:
            node.grad = gradient
        for memory, steps in recorded.stepped:
            memory.step += steps
        for thing in recorded.written:
            thing.bump()
        if numbers is not None:
            numbers.counted([memory for memory, _ in recorded.stepped])
        self.reason = None
        self.replays += 1
        return recorded.result

    def _rehearse(self, inputs: tuple[Tensor, ...]) -> Any:
        """Runs the step as it will be captured: capturing then finds kernels loaded, and memory in the pool."""
        with xp.cuda.using_allocator(self._pool.malloc), noting() as (uses, conditions):
            result = self.step(*inputs)
            for condition in conditions:
                lasting(*condition)
        self._never = self._unrepeated(uses)
        self._ruled = self.optimizer in uses.ruled
        return result

    def _record(self, inputs: tuple[Tensor, ...], of: tuple[Any, ...], numbers: Any) -> None:
        """Records one run of the step, of which nothing is computed or counted yet, or sets why there is none."""
        held = [Tensor(given.data.copy()) for given in inputs]
        drawn = generator().bit_generator.state
        self._mark = arrangement.mark
        begin: list[Callable[[], None]] = []
        trouble: BaseException | None = None
        with transfers() as crossed, xp.cuda.using_allocator(self._pool.malloc), noting() as (uses, asked):
            self._stream.begin_capture()
            capturing.afterwards = begin
            try:
                result = self.step(*held)
                conditions = [lasting(*condition) for condition in asked]
            except BaseException as error:  # whatever it is, the step runs again, uncaptured, and shows it there
                trouble = error
            finally:
                capturing.afterwards = None
                try:
                    graph = self._stream.end_capture()
                except Exception as error:
                    trouble = trouble or error
        gradients = [(node, node.grad) for node in uses.gradients]
        stepped = [(memory, memory.step - step) for memory, step, _ in uses.memories() if memory.step != step]
        refused = self._refused(uses, trouble, crossed, drawn)
        uses.undo()
        if trouble is None or isinstance(trouble, Exception):  # not Ctrl-C, which says nothing of the step
            self._never = refused
        self._used = [node for node, (used, _) in uses.gradients.items() if used]
        self._ruled = self.optimizer in uses.ruled
        if refused is None and self._ruled and numbers is not None:
            refused = "the optimizer's kernel does not take its step (other dtypes or layouts)"
        refused = refused or self._found()
        if refused is None:
            written = list(uses.written.values())
            self._recorded = Recorded(graph, held, result, of, conditions, gradients, stepped, written, begin)
            for start in begin:
                start()
            return
        # Nothing was computed: what Python noted of it is undone, since the step now runs in earnest.
        self.reason = refused
        uses.forget()
        generator().bit_generator.state = drawn
        if trouble is not None and not isinstance(trouble, Exception):
            raise trouble

    def _refused(self, uses: Uses, trouble: BaseException | None, crossed: Any, drawn: Any) -> str | None:
        """Why what was just captured is no graph that could be replayed."""
        if (unrepeated := self._unrepeated(uses)) is not None:
            return unrepeated
        if trouble is not None:
            return f"capturing failed: {type(trouble).__name__}: {trouble}"
        if crossed.to_host or crossed.to_device:
            return "the step moves arrays between host and device, which a replay would not repeat"
        if generator().bit_generator.state != drawn:
            return "the step draws random numbers on the host (dropout, augmentation), and a replay would not"
        if self._mark != arrangement.mark:
            return f"a replay would not repeat what the step does: {arrangement.last}"
        return None

    def _found(self) -> str | None:
        """Why this call is neither captured nor replayed: a gradient that the step takes as it finds it."""
        for node in self._used:
            if node.grad is not None:
                name = f"a leaf of shape {list(node.shape)}" if node.label is None else repr(node.label)
                return (
                    f"the gradient of {name} is there before the step, which uses it or adds to it, and a replay would "
                    "not; call zero_grad() in the step or before it"
                )
        return None

    def _unrepeated(self, uses: Uses) -> str | None:
        """What a step does to optimizers that a replay would not, for which it is never captured."""
        for optimizer in uses.optimizers:
            if optimizer is not self.optimizer:
                kind = type(optimizer).__name__
                return f"{kind}.step runs in the step, and a replay would not see it; mg.capture(step, optimizer) would"
        if uses.hyper:
            return "the step sets hyper-parameters, and a replay would not; step a schedule outside of it, after it"
        return None

    def _obstacle(self, inputs: tuple[Any, ...], numbers: Any) -> str | None:
        """Why this call cannot be captured or replayed, if it is known beforehand."""
        if capturing.on:
            return "it runs within a step that is captured itself"
        if not hasattr(getattr(xp, "cuda", None), "Stream"):
            return f"the backend is {current()!r}, which has no CUDA graphs"
        if not all(isinstance(x, Tensor) and x.node is None and isinstance(x.data, xp.ndarray) for x in inputs):
            return "inputs must be Tensors without a history, of the backend in use"
        if self.optimizer is not None and type(self.optimizer) is not SGD and numbers is None:
            kind = type(self.optimizer).__name__
            return f"{kind} counts its steps on the host, and a replay would repeat one step's numbers; SGD does not"
        return None

    def _unstepped(self) -> bool:
        """Whether the optimizer's first step, which may differ from all others, is still to come."""
        return self.optimizer is not None and not any(memory.step for memory in self.optimizer.state.values())

    def _numbers(self) -> Any:
        """The optimizer's counts and hyper-parameters on the device, where a kernel takes its steps; else None."""
        own = None if self.optimizer is None or self._ruled else kernel("optimizer numbers")
        return None if own is None else own(self.optimizer)

    def _settings(self, numbers: Any) -> tuple[Any, ...]:
        """What of the optimizer's hyper-parameters the captured kernels are made for."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        if numbers is not None:  # only what decides which arrays there are: the numbers are read at every replay
            return tuple(tuple(bool(group.get(key)) for key in ("momentum", "amsgrad", "centered")) for group in groups)
        return tuple(tuple(sorted(group.hyper.items())) for group in groups)


@contextlib.contextmanager
def noting() -> Iterator[tuple[Uses, list[Condition]]]:
    """What the step within does to gradients and optimizers, and what it requires."""
    recording.uses, capturing.conditions = Uses(), []
    try:
        yield recording.uses, capturing.conditions
    finally:
        recording.uses = capturing.conditions = None


def lasting(condition: Array, error: Callable[[], Exception]) -> Condition:
    """A condition that, once it was filled with truth, holds while the given one holds at every launch."""
    always = xp.empty((), bool)
    xp.logical_and(always, condition, out=always)

    def told() -> Exception:
        if not to_numpy(condition):  # of the last launch, whose labels or indices are still there
            return error()
        return ValueError(
            "a label or an index was out of range in a replay before the last one; look more often (loss.item()), or "
            "run uncaptured, to be told which"
        )

    return always, told


def signature(inputs: tuple[Tensor, ...]) -> Signature:
    """The shapes and dtypes of the inputs: what a graph was captured for."""
    return tuple((x.shape, str(x.dtype)) for x in inputs)


def capture(step: Callable[..., Any], optimizer: Optimizer | None = None, warmup: int = 3) -> Captured:
    """A function like `step(*inputs)` that runs as one CUDA graph from its `warmup`-th call on.

        fast = mg.capture(step, optimizer)
        for x, y in batches:
            loss = fast(x, y)

    step: takes constant Tensors of fixed shapes, trains, and returns Tensors (or nothing). What a replay returns, and
    the gradients that it leaves, lie in fixed arrays that the next replay overwrites. optimizer: the one that the step
    uses; step its schedule outside of `step`: SGD without dampening, Adagrad, RMSprop, Adam and AdamW see a changed
    learning rate at the next replay. Other optimizers than these run uncaptured, and so do these for other dtypes than
    float32 and float64 or for several at once. zero_grad() in the step, or before each call. Python in the step
    (printing, counting) does not run in a replay, and masks of dropout come from a generator on the device. Where a
    call is not a replay, it runs as `step` does and `fast.reason` says why: no CUDA, other shapes, values read on the
    host, or a library that refuses to be captured. After `load_state_dict` of the optimizer, `p.data = array`,
    `eval()`, `freeze()`, or where an attribute of a layer was set, the step is captured anew.
    """
    if not callable(step):
        raise TypeError(f"capture: needs a function of Tensors, not a {type(step).__name__}")
    if optimizer is not None:
        of_kind(Optimizer, "capture", optimizer)
    return Captured(step, optimizer, whole("capture: warmup", warmup, least=0))
