"""`capture`: a training step recorded once as a CUDA graph, then launched as a whole.

A small network is bound by launches: Python asks for some hundred kernels a step, one after the other. A
CUDA graph is those launches, recorded once on a stream, which the driver then issues together. What is
recorded is the device's work alone: Python does not run in a *replay*, so a step can be captured only
where the next one would launch the very same kernels with the same numbers in them. What changes
between steps must lie in arrays: inputs are copied into fixed ones, parameters, momenta and running statistics are
there anyway, and the kernels of `minigrad.device` read an optimizer's count of steps and its learning rate, and the
state of dropout's masks, from the device's memory. Products go through those kernels too: CuPy refuses calls of cuBLAS
while a stream is captured.

Whatever cannot be captured runs as it would without `capture`, and `reason` says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad import backend
from minigrad.backend import current, kernel, xp
from minigrad.optim.optimizer import Memory, Optimizer
from minigrad.optim.rules import SGD
from minigrad.tensor import Tensor

__all__ = ["capture"]

NOT_YET = "not captured yet: the first calls make memory and kernels ready"

Signature = tuple[tuple[Any, ...], ...]


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
        self._stream: Any = None
        self._graph: Any = None
        self._inputs: list[Tensor] = []
        self._result: Any = None
        self._of: tuple[Any, ...] = ()
        self._pool: Any = None
        self._conditions: list[Any] = []
        self._stepped: list[Memory] = []

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
        with self._stream:
            result = self._on_stream(inputs, numbers)
        before.wait_event(self._stream.record())
        return result

    def _on_stream(self, inputs: tuple[Tensor, ...], numbers: Any) -> Any:
        if self.left > 0 or (numbers is None and self._unstepped()):
            self.left -= 1
            backend.rehearsing = True  # capturing then finds kernels loaded, and memory in the pool
            try:
                with xp.cuda.using_allocator(self._pool.malloc):
                    return self.step(*inputs)
            finally:
                backend.rehearsing = False
        if numbers is not None:
            numbers.refresh(self.optimizer)
        of = (signature(inputs), self._settings(numbers))
        fresh = self._graph is None
        if fresh:
            self._record(inputs, of)
        if self._graph is None:
            return self.step(*inputs)
        if of != self._of:
            part = 0 if of[0] != self._of[0] else 1
            what = ("shapes or dtypes of the inputs", "the optimizer's hyper-parameters")[part]
            self.reason = f"{what} are {of[part]} and were {self._of[part]} when captured"
            return self.step(*inputs)
        for held, given in zip(self._inputs, inputs, strict=True):
            held.data[...] = given.data
        self._graph.launch(self._stream)
        if not fresh:  # what Python counts in a step, recording has counted once
            for memory in self._stepped:
                memory.step += 1
                memory.parameter.bump()
            if numbers is not None:
                numbers.counted(self._stepped)
        held_already = {id(condition) for condition in backend._pending}
        backend._pending += [condition for condition in self._conditions if id(condition) not in held_already]
        self.reason = None
        self.replays += 1
        return self._result

    def _record(self, inputs: tuple[Tensor, ...], of: tuple[Any, ...]) -> None:
        """Records one run of the step, or sets why there will never be one."""
        held = [Tensor(given.data.copy()) for given in inputs]
        drawn, asked = backend.generator().bit_generator.state, len(backend._pending)
        memories = [] if self.optimizer is None else list(self.optimizer.state.values())
        before = [(m, m.step, set(m), m.parameter.node, m.parameter.node and m.parameter.node.grad) for m in memories]
        trouble: Exception | None = None
        with backend.transfers() as crossed, xp.cuda.using_allocator(self._pool.malloc):
            begin: list[Callable[[], None]] = []
            backend.after_capture = begin
            self._stream.begin_capture()
            try:
                result = self.step(*held)
            except Exception as error:  # whatever it is, the step runs again, uncaptured, and shows it there
                trouble = error
            finally:
                backend.after_capture = None
                try:
                    graph = self._stream.end_capture()
                except Exception as error:
                    trouble = trouble or error
        if trouble is not None:
            self._never = f"capturing failed: {type(trouble).__name__}: {trouble}"
        elif crossed.to_host or crossed.to_device:
            self._never = "the step moves arrays between host and device, which a replay would not repeat"
        elif backend.generator().bit_generator.state != drawn:
            self._never = "the step draws random numbers on the host (dropout, augmentation), and a replay would not"
        if self._never is not None:
            # Nothing was computed: what Python noted of it is undone, since the step now runs in earnest.
            self.reason = self._never
            backend.generator().bit_generator.state = drawn
            del backend._pending[asked:]
            for memory, step, known, node, gradient in before:
                memory.step = step
                for key in memory.keys() - known:  # made and never filled
                    del memory[key]
                if node is not None:
                    node.grad = gradient
            return
        self._graph, self._inputs, self._result, self._of = graph, held, result, of
        self._stepped = [memory for memory, step, *_ in before if memory.step != step]
        self._conditions = backend._pending[asked:]
        del backend._pending[asked:]
        for start in begin:
            start()

    def _obstacle(self, inputs: tuple[Any, ...], numbers: Any) -> str | None:
        """Why this call cannot be captured or replayed, if it is known beforehand."""
        if not hasattr(getattr(xp, "cuda", None), "Stream"):
            return f"the backend is {current()!r}, which has no CUDA graphs"
        if not all(isinstance(x, Tensor) and x.node is None for x in inputs):
            return "inputs must be Tensors without a history"
        if self.optimizer is not None and type(self.optimizer) is not SGD and numbers is None:
            kind = type(self.optimizer).__name__
            return f"{kind} counts its steps on the host, and a replay would repeat one step's numbers; SGD does not"
        return None

    def _unstepped(self) -> bool:
        """Whether the optimizer's first step, which may differ from all others, is still to come."""
        return self.optimizer is not None and not any(memory.step for memory in self.optimizer.state.values())

    def _numbers(self) -> Any:
        """The optimizer's counts and hyper-parameters on the device, where a kernel takes its steps; else None."""
        own = None if self.optimizer is None else kernel("optimizer numbers")
        return None if own is None else own(self.optimizer)

    def _settings(self, numbers: Any) -> tuple[Any, ...]:
        """What of the optimizer's hyper-parameters the captured kernels are made for."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        if numbers is not None:  # only what decides which arrays there are: the numbers are read at every replay
            return tuple(tuple(bool(group.get(key)) for key in ("momentum", "amsgrad", "centered")) for group in groups)
        return tuple(tuple(sorted(group.hyper.items())) for group in groups)


def signature(inputs: tuple[Tensor, ...]) -> Signature:
    """The shapes and dtypes of the inputs: what a graph was captured for."""
    return tuple((x.shape, str(x.dtype)) for x in inputs)


def capture(step: Callable[..., Any], optimizer: Optimizer | None = None, warmup: int = 3) -> Captured:
    """A function like `step(*inputs)` that runs as one CUDA graph from its `warmup`-th call on.

        fast = mg.capture(step, optimizer)
        for x, y in batches:
            loss = fast(x, y)

    step: takes constant Tensors of fixed shapes, trains, and returns Tensors (or nothing). What a replay
    returns lies in fixed arrays that the next replay overwrites. optimizer: the one that the step uses; step its
    schedule outside of `step`: SGD without dampening, Adagrad, RMSprop, Adam and AdamW see a changed learning rate at
    the next replay. Other optimizers than these run uncaptured. Python in the step (printing, counting) does not run in
    a replay, and masks of dropout come from a generator on the device. Where a call is not a replay, it runs as `step`
    does and `fast.reason` says why: no CUDA, other shapes, values read on the host, or a library that refuses to be
    captured.
    """
    if not callable(step):
        raise TypeError(f"capture: needs a function of Tensors, not a {type(step).__name__}")
    return Captured(step, optimizer, warmup)
