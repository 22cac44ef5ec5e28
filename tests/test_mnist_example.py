"""`python -m examples.mnist`: what it prints, writes and refuses, and that no interruption changes its result."""

import gzip
import io
import json
import random
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from examples.mnist import __main__ as command
from examples.mnist import pictures, training
from minigrad import data, runs

ROOT = Path(__file__).parents[1]
FEW = ["--model", "mlp-bn", "--epochs", "2", "--batch-size", "16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three hundred images in MNIST's format: a bright bar whose height says the class, in noise."""
    folder = tmp_path_factory.mktemp("bars")
    draw = np.random.default_rng(0)
    for part, n in (("train", 300), ("t10k", 80)):
        labels = np.arange(n) % 10
        images = draw.integers(0, 60, (n, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[2 * label + 4 : 2 * label + 6, 6:22] = 250
        idx3 = struct.pack(">4I", 0x803, n, 28, 28) + images.astype(np.uint8).tobytes()
        idx1 = struct.pack(">2I", 0x801, n) + labels.astype(np.uint8).tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx3, 1))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx1)
    return folder


draw_pictures = pictures.draw


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """The pictures that were asked for; drawing them takes a second, and one test does it."""
    asked = []
    monkeypatch.setattr(pictures, "draw", lambda *arguments: asked.append(arguments))
    return asked


@pytest.fixture
def run(folder, tmp_path, capsys):
    """Runs the command in this process: its status, and the lines and complaints that it prints."""

    def run(*arguments, out=tmp_path / "out"):
        status = command.main(["--data", str(folder), "--out", str(out), *arguments])
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err

    with pytest.warns(UserWarning, match="not recognised|cannot be recognised"):
        yield run


def test_it_learns_and_says_how_well_on_its_last_line(run, tmp_path, drawn):
    status, lines, _ = run(*FEW, "--epochs", "6", "--no-augment")
    assert status == 0
    accuracy = re.fullmatch(r"test accuracy: (\d+\.\d\d) %", lines[-1])
    assert accuracy and float(accuracy[1]) > 90
    assert len(drawn) == 1
    metrics = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert f"{metrics[-1]['test_accuracy']:.2f}" == accuracy[1]
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]


@pytest.mark.parametrize("model", ["mlp-bn", "cnn"])
def test_what_was_learnt_is_drawn(run, tmp_path, monkeypatch, model):
    monkeypatch.setattr(pictures, "draw", draw_pictures)
    assert run("--model", model, "--epochs", "1", "--limit-train", "32", "--limit-test", "20")[0] == 0
    for name in ("curves", "confusion", "mistakes", "features"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000


@pytest.mark.parametrize("model", training.MODELS)
def test_every_model_has_filters_and_activations_to_show(model):
    network = training.MODELS[model]()
    filters = pictures.filters(network)
    assert filters.ndim == 3 and filters.shape[1:] in ((5, 5), (28, 28))
    shown = pictures.activations(network, mg.zeros(1, 1, 28, 28))
    assert len(shown) >= 3
    assert all(y.ndim in (1, 3) for _, y in shown)


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
def test_every_optimizer_learns_with_its_own_settings(folder, optimizer):
    few = {"model": "mlp-bn", "epochs": 4, "batch_size": 16, "augment": False}
    arguments = {**command.SHAPING, **few, "optimizer": optimizer, "lr": training.OPTIMIZERS[optimizer][1]["lr"]}
    with pytest.warns(UserWarning):
        dataset = data.load("mnist", folder)
    run = training.make_run(arguments, dataset)
    take = training.Stepper(run)
    losses = [take(x, y)[0].item() for _ in range(4) for x, y in run.batches]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])


def test_the_weights_load_into_the_model(run, tmp_path):
    run(*FEW, "--epochs", "1")
    model = training.MODELS["mlp-bn"]()
    model.load_state_dict(mg.load(tmp_path / "out" / "weights.safetensors"))


def test_a_seed_gives_one_result_and_another_seed_another(run, tmp_path):
    weights = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        run(*FEW, "--seed", seed, out=tmp_path / name)
        weights.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_fused_it_learns_the_same_and_its_weights_are_any_models(run, tmp_path, drawn):
    weights = []
    for name, flag in (("plain", "--no-fuse"), ("fused", "--fuse")):
        status, _, _ = run(*FEW, "--model", "cnn", "--epochs", "1", "--limit-train", "64", flag, out=tmp_path / name)
        assert status == 0 and len(drawn) == len(weights) + 1
        weights.append(mg.load(tmp_path / name / "weights.safetensors"))
    plain, fused = weights
    assert plain.keys() == fused.keys()
    assert any(not np.array_equal(plain[key].numpy(), fused[key].numpy()) for key in plain), "it did run another way"
    for key, value in plain.items():
        np.testing.assert_allclose(fused[key].numpy(), value.numpy(), rtol=1e-2, atol=1e-2)


def test_in_a_terminal_there_is_a_bar_with_loss_accuracy_and_speed(folder, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    with pytest.warns(UserWarning):
        assert command.main(["--data", str(folder), "--out", str(tmp_path), *FEW]) == 0
    shown = screen.getvalue()
    for part in ("epoch  1/2", "loss", "accuracy", "images/s", "epoch  2/2"):
        assert part in shown


# --- interruptions ---------------------------------------------------------------------------------------


WITHOUT_PICTURES = """
import sys
from examples.mnist import __main__ as command, pictures
pictures.draw = lambda *arguments: None
sys.exit(command.main())
"""


def start(folder, out, *arguments):
    """The command in a process of its own, which has begun when this returns."""
    line = [sys.executable, "-W", "ignore", "-c", WITHOUT_PICTURES, "--data", str(folder), "--out", str(out)]
    process = subprocess.Popen([*line, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("Dataset"), process.stderr.read()
    return process


LONGER = [*FEW, "--epochs", "5", "--save-every", "1"]


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_weights(run, folder, tmp_path, kills):
    run(*LONGER, out=tmp_path / "whole")
    out, draw, killed, arguments = tmp_path / "killed", random.Random(kills), 0, LONGER
    while True:
        process = start(folder, out, *arguments)
        arguments = ["--resume"]
        if killed < kills:
            time.sleep(draw.uniform(0, 0.6))
            process.kill()
            killed += 1
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    same_result(out, tmp_path / "whole")


def same_result(one, other):
    """The same weights to the last bit, and the same metrics except for the time they took."""
    assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    metrics = [
        [
            {key: value for key, value in json.loads(line).items() if "second" not in key}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (one, other)
    ]
    assert metrics[0] == metrics[1]


def test_ctrl_c_saves_and_the_command_that_it_prints_goes_on(run, folder, tmp_path):
    many = [*FEW, "--epochs", "20", "--save-every", "1000"]
    run(*many, out=tmp_path / "whole")
    process = start(folder, tmp_path / "stopped", *many, "--no-capture")
    assert any(line.startswith("epoch ") for line in iter(process.stdout.readline, ""))  # the first of twenty is done
    process.send_signal(signal.SIGINT)
    printed, complaints = process.communicate()
    assert process.returncode == 130, complaints
    again = shlex.split(printed.splitlines()[-1])
    assert again[:3] == ["python", "-m", "examples.mnist"]
    assert again[3:] == ["--resume", "--out", str(tmp_path / "stopped"), "--data", str(folder), "--no-capture"]
    status, lines, _ = run(*again[3:])
    assert status == 0 and lines[-1].startswith("test accuracy")
    same_result(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("moment", [0, 1, 17, 18, 19, 35, 36])
def test_stopped_after_any_step_it_ends_with_the_same_result(folder, moment):
    arguments = {**command.SHAPING, "model": "mlp-bn", "epochs": 2, "batch_size": 16, "lr": 1e-2, "save_every": 1000}
    with pytest.warns(UserWarning):
        dataset = data.load("mnist", folder)

    class Silent:
        def step(self, *values):
            pass

        def tested(self, line):
            pass

    def go(run, stop):
        tests = data.Batches(dataset.test_images, dataset.test_labels, 40, shuffle=False)
        return training.train(run, tests, Silent(), lambda: runs.save(run, path), stop)

    path = Path(folder) / f"stop{moment}.safetensors"
    whole = training.make_run(arguments, dataset)
    assert go(whole, lambda: False)
    stopped = training.make_run(arguments, dataset)
    go(stopped, lambda: stopped.schedule.steps_taken >= moment)
    resumed = training.make_run(arguments, dataset)
    runs.load(resumed, path)
    assert go(resumed, lambda: False)
    for name, value in whole.model.state_dict().items():
        assert np.array_equal(value.numpy(), resumed.model.state_dict()[name].numpy()), name
    assert [line["test_loss"] for line in whole.progress["history"]] == [
        line["test_loss"] for line in resumed.progress["history"]
    ]
    assert [value for _, value in whole.progress["trace"]] == [value for _, value in resumed.progress["trace"]]


def test_a_finished_run_resumed_only_shows_its_result_again(run, tmp_path):
    _, first, _ = run(*FEW)
    before = (tmp_path / "out" / "weights.safetensors").read_bytes()
    status, again, _ = run("--resume")
    assert status == 0 and again[-1] == first[-1]
    assert (tmp_path / "out" / "weights.safetensors").read_bytes() == before


def test_a_full_disk_does_not_end_the_training(run, monkeypatch):
    def full(*arguments, **named):
        if not named.get("first"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "save", full)
    status, lines, complaints = run(*FEW)
    assert status == 0 and lines[-1].startswith("test accuracy")
    assert "No space left" in complaints


# --- what it refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "0"], "argument --epochs: '0' is not a whole number from 1 on"),
        (["--epochs", "two"], "argument --epochs: 'two' is not a whole number from 1 on"),
        (["--batch-size", "-3"], "argument --batch-size: '-3' is not a whole number"),
        (["--lr", "nan"], "argument --lr: 'nan' is not a positive number"),
        (["--lr", "-1"], "argument --lr: '-1' is not a positive number"),
        (["--seed", "-1"], "argument --seed: '-1' is not a whole number from 0 on"),
        (["--model", "transformer"], "invalid choice: 'transformer'"),
        (["--optimizer", "magic"], "invalid choice: 'magic'"),
        (["--dataset", "imagenet"], "invalid choice: 'imagenet'"),
        (["--backend", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_bad_flags_are_refused_by_name(flags, message, capsys):
    with pytest.raises(SystemExit) as exit:
        command.main(flags)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "/nowhere", "--dataset", "mnist"], "/nowhere: no such folder"),
        (["--resume"], "there is no checkpoint"),
        (["--dataset", "digits", "--held-out", "5000"], "held_out must be between"),
    ],
)
def test_what_is_not_there_is_named(flags, message, tmp_path, capsys):
    assert command.main(["--out", str(tmp_path), *flags]) == 1
    assert message in capsys.readouterr().err


def test_a_run_cannot_be_resumed_with_other_arguments(run):
    run(*FEW)
    status, _, complaints = run("--resume", "--lr", "0.5", "--epochs", "2")
    assert status == 1
    assert "--lr 0.5 (it has 0.004)" in complaints and "--epochs" not in complaints


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_no_number_ends_the_run_with_advice(run, tmp_path):
    status, _, complaints = run(*FEW, "--model", "mlp", "--lr", "1e30", "--optimizer", "sgd")
    assert status == 1
    assert "try a smaller --lr" in complaints


@pytest.mark.parametrize("missing", ["matplotlib", "tqdm"])
def test_without_an_extra_it_trains_and_names_what_to_install(run, drawn, monkeypatch, missing):
    find = command.importlib.util.find_spec
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    status, lines, complaints = run(*FEW)
    assert status == 0 and lines[-1].startswith("test accuracy")
    assert missing in complaints and "pip install -e '.[examples]'" in complaints
    assert bool(drawn) == (missing == "tqdm")


def test_settings_are_chosen_on_held_out_training_images(folder):
    with pytest.warns(UserWarning):
        dataset = command.load({**command.SHAPING, "dataset": "mnist", "held_out": 50}, folder)
        whole = data.load("mnist", folder)
    assert len(dataset.train_images) == 250 and len(dataset.test_images) == 50
    shown = {image.tobytes() for image in dataset.test_images}
    assert not shown & {image.tobytes() for image in whole.test_images}
    assert shown <= {image.tobytes() for image in whole.train_images}
