"""minigrad after `fuse(model)`: the workloads that have a model in which something is fused."""

from __future__ import annotations

import minigrad as mg
from benchmarks.peers.alike import workloads
from benchmarks.peers.minigrad import VERSION, threads
from minigrad import functional as F
from minigrad import nn, optim
from minigrad.fused import fuse

__all__ = ["VERSION", "threads"]

of_models = workloads(mg, nn, F, optim, fuse)
globals().update({name: of_models[name] for name in ("w1", "w2", "w3", "w4", "w7", "w7_batches")})
