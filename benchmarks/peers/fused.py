"""minigrad after `fuse(model)`: the workloads that have a model in which something is fused."""

from __future__ import annotations

from benchmarks.peers import minigrad
from benchmarks.peers.minigrad import VERSION, Step, threads
from benchmarks.workloads import Arrays
from minigrad.fused import fuse

__all__ = ["VERSION", "threads", "w1", "w2", "w3", "w4", "w7", "w7_batches"]


def w1(a: Arrays) -> Step:
    return minigrad.training(fuse(minigrad.cnn(a)), a)


def w2(a: Arrays) -> Step:
    return minigrad.training(fuse(minigrad.lenet(a)), a)


def w3(a: Arrays) -> Step:
    return minigrad.training(fuse(minigrad.mlp(a)), a)


def w4(a: Arrays) -> Step:
    return minigrad.batch_norm(fuse(minigrad.bn_layer(a)), a)


def w7(a: Arrays) -> Step:
    return minigrad.evaluation(fuse(minigrad.cnn(a)), a, 10_000)


def w7_batches(a: Arrays) -> Step:
    return minigrad.evaluation(fuse(minigrad.cnn(a)), a, 500)
