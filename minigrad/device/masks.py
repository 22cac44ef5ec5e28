"""Dropout's masks where a graph is captured: drawn on the device, since a replay asks the host for nothing.

Elsewhere masks come from the host's generator, so that one seed gives one mask on every backend. The key of the
masks here is drawn from that generator when the graph is captured; a count on the device makes each replay's new.
"""

from __future__ import annotations

from typing import Any

from minigrad.backend import capturing, xp
from minigrad.device.launch import function, launch, module, offer, per_thread, small
from minigrad.generator import generator, noting_draws
from minigrad.tensor import Tensor


@offer("bernoulli")
def bernoulli(p: float, shape: tuple[int, ...], dtype: Any) -> Tensor | None:
    """Ones with probability p, zeros otherwise; None outside of a capture, and for what must be drawn twice."""
    if not capturing.on or noting_draws():
        return None
    after, y = capturing.afterwards, xp.empty(shape, dtype)
    if y.dtype.char not in "fd" or not small(y):
        return None
    of = module("masks", dtype=y.dtype)
    if after is None:  # a rehearsal, whose mask is the host's
        function(of, "bernoulli")
        return None
    state, tickets = xp.empty(2, xp.int64), xp.empty(1, xp.uint32)

    def begin() -> None:  # once: what is captured would be written again at every replay
        state[...] = xp.asarray([int(generator().integers(1 << 62)), 0], xp.int64)
        tickets.fill(0)

    after.append(begin)
    launch(of, "bernoulli", per_thread(y.size, 1024), y, float(p), state, tickets, y.size)
    return Tensor(y)
