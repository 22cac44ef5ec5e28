"""minigrad: layers in a Sequential and an ordinary `loss.backward()`, as users write them."""

from __future__ import annotations

import minigrad as mg
from benchmarks.peers.alike import workloads
from minigrad import functional as F
from minigrad import nn, optim

VERSION = "0.1"
threads = mg.set_threads
globals().update(workloads(mg, nn, F, optim))
