"""What is compared and what is refused before anything is measured; times themselves are nobody's promise."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks import cpu, end_to_end, growth, options
from benchmarks.costs import COSTS
from benchmarks.peers import PEERS
from benchmarks.roofline import LABELS
from benchmarks.worker import checks_of
from benchmarks.workloads import OPS, WORKLOADS, Workload, arrays_of


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_wrong_gradient_makes_a_row_disagree(wrong: int) -> None:
    rng = np.random.default_rng(0)
    gradients = [rng.standard_normal((64, 32)), rng.standard_normal(32), 1e-3 * rng.standard_normal(32)]
    rounded = [gradient.astype(np.float32) for gradient in gradients]
    broken = [0.99 * gradient if i == wrong else gradient for i, gradient in enumerate(gradients)]
    agreed = cpu.agree({name: checks_of(tuple(made)) for name, made in
                        (("pytorch", gradients), ("minigrad", rounded), ("fused", broken))})  # fmt: skip
    assert agreed == {"pytorch": True, "minigrad": True, "fused": False}


def test_numbers_agree_to_1e_4_and_what_is_missing_or_nan_does_not() -> None:
    truth = {"pytorch": checks_of(2.0)}
    for value, right in ((2.0001, True), (2.001, False), (float("nan"), False), ((2.0, 2.0), False)):
        assert cpu.agree({**truth, "minigrad": checks_of(value)})["minigrad"] is right
    assert cpu.agree({"minigrad": checks_of(2.0)}) == {}
    assert cpu.agree({"pytorch": [], "minigrad": []}) == {"pytorch": False, "minigrad": False}  # nothing was compared


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_contestants_that_are_here_compute_the_same(workload: Workload) -> None:
    arrays = arrays_of(workload.name)
    few = {"w4": 3, "w6": 3, "w7": 600}.get(workload.name[:2])  # images; 600 are more than one batch
    arrays |= {key: arrays[key][:few] for key in ("x", "y", "g") if key in arrays}
    checks = {}
    for name in (name for name, package in PEERS.items() if importlib.util.find_spec(package)):
        if (make := getattr(importlib.import_module(f"benchmarks.peers.{name}"), workload.name, None)) is not None:
            checks[name] = checks_of(make(arrays)())
    checks.setdefault("pytorch", checks["minigrad"])  # where it is not installed: among the others
    assert all(checks.values())
    assert all(cpu.agree(checks).values())


def test_every_workload_has_its_cost_and_its_label() -> None:
    assert {one.name for one in (*WORKLOADS, *OPS)} == set(COSTS) == set(LABELS)


def test_names_are_chosen_by_how_they_begin() -> None:
    choose = options.among(["w1", "w4", "w4_primitives", "w5_chain"])
    assert choose("w4") == ["w4", "w4_primitives"]
    assert choose("W5,w1") == ["w1", "w5_chain"]
    for text, named in (("w99", "'w99'"), ("w1,", "''"), ("w4,x,y", "'x', 'y'")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"there is no {named}; there are w1, w4, w4_primitives"):
            choose(text)


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (cpu.main, ["--only", "w99"], "there is no 'w99'"),
        (cpu.main, ["--threads", "0"], "'0' is not a whole number from 1 on"),
        (cpu.main, ["--peers", "tensorflow"], "there is no 'tensorflow'"),
        (growth.main, ["--threads", "1,x"], "'x' is not a whole number from 1 on"),
        (growth.main, ["--only", "width"], "there is no 'width'"),
        (end_to_end.main, ["--seeds", "0,-1"], "'-1' is not a whole number from 0 on"),
        (end_to_end.main, ["--data", "/nowhere"], "/nowhere has no train-images-idx3-ubyte, train-labels"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(
    program: Callable[[list[str]], None], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        program(arguments)
    assert message in capsys.readouterr().err


def test_nobody_to_measure_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "jax", "no_such_package")
    with pytest.raises(SystemExit, match="nobody is left"):
        cpu.main(["--peers", "jax"])
    assert "skipped: jax (no_such_package is not installed)" in capsys.readouterr().out
