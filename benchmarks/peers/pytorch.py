"""PyTorch, eager."""

from __future__ import annotations

import torch
from torch import nn, optim
from torch.nn import functional as F

from benchmarks.peers.alike import workloads

VERSION = torch.__version__
threads = torch.set_num_threads
globals().update(workloads(torch, nn, F, optim))
