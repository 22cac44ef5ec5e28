"""`python -m examples.mnist`: what it prints, writes and refuses, and that no interruption changes its result."""

import contextlib
import gzip
import io
import json
import os
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
from examples.mnist import command, pictures, training
from minigrad import data, files, runs

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


@pytest.fixture(scope="module")
def begun(folder):
    """A run of LeNet-5, whose nonlinearity is Tanh, at its beginning, and its images."""
    with pytest.warns(UserWarning):
        dataset = data.load("mnist", folder)
    return training.make_run({**command.SHAPING, "model": "lenet", "lr": 0.1}, dataset), dataset


def test_values_below_zero_are_drawn_in_another_colour_than_zero(begun):
    figures = pytest.importorskip("matplotlib.figure")
    strips = pictures.features(figures, *begun).axes[2:]
    assert len(strips) == 4
    for axes in strips:
        (image,) = axes.images
        assert np.nanmin(image.get_array()) < 0 and image.get_clim() == (-1, 1)
        assert axes.get_title(loc="left").endswith("(red: above zero, blue: below)")


@pytest.mark.parametrize(("wrong", "places"), [(0, 3), (2, 3), (5, 5), (8, 8), (11, 16), (50, 24)])
def test_few_mistakes_leave_little_blank(begun, wrong, places):
    figures = pytest.importorskip("matplotlib.figure")
    said = np.eye(10)[begun[1].test_labels]
    said[:wrong] = np.roll(said[:wrong], 1, axis=1)
    figure = pictures.mistakes(figures, begun[1], said)
    assert len(figure.axes) == places
    assert sum(bool(axes.images) for axes in figure.axes) == min(wrong, 24)


def test_a_single_point_is_drawn_and_not_covered(begun):
    figures = pytest.importorskip("matplotlib.figure")
    run = begun[0]
    line = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 90.0, "test_loss": 1.0, "test_accuracy": 90.0}
    run.progress.update(history=[line], trace=[[1.0, 1.0]])
    for axes in pictures.curves(figures, run).axes:
        training_point, test_point = axes.lines
        assert training_point.get_marker() == test_point.get_marker() == "o"
        assert training_point.get_markersize() > test_point.get_markersize()


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
    last = shown.splitlines()[-3]
    assert re.fullmatch(r" +loss [.\d]+, accuracy [.\d]+ %;  test loss [.\d]+, accuracy [.\d]+ %", last), last


def test_eighty_columns_hold_a_bar_and_the_accuracy():
    tqdm = pytest.importorskip("tqdm").tqdm
    line = tqdm.format_meter(
        2560, 60_000, 1.17, ncols=80, prefix="epoch  1/2", unit=" images", unit_scale=True,
        bar_format=command.Bar.form, postfix="loss 0.7010, accuracy 93.12 %",
    )  # fmt: skip
    assert "loss 0.7010, accuracy 93.12 %, 2.19k images/s" in line and len(line) <= 80
    assert len(line.split("|")[1]) >= 8


# --- interruptions ---------------------------------------------------------------------------------------


WITHOUT_PICTURES = """
import sys
from examples.mnist import command, pictures
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


def test_a_new_run_sets_an_unfinished_one_aside_and_says_how_to_go_on_with_it(run, tmp_path, monkeypatch):
    """The same command again after Ctrl-C: what was learnt is not to be lost by it."""
    path = tmp_path / "out" / "checkpoint.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(command, "interruptible", lambda: contextlib.nullcontext(lambda: True))
        assert run(*FEW)[0] == 130
    stopped = path.read_bytes()
    status, _, complaints = run(*FEW, "--epochs", "1")
    aside = tmp_path / "out" / "checkpoint.1.safetensors"
    assert status == 0 and aside.read_bytes() == stopped
    assert f"unfinished run (0 of 2 epochs done). It is now {aside}" in complaints
    again = shlex.split(next(line for line in complaints.splitlines() if "--resume" in line))
    assert run(*again[3:])[0] == 0
    assert runs.read(aside)[1]["progress"]["history"][1]["epoch"] == 2

    status, _, complaints = run(*FEW, "--epochs", "1")  # the one that was finished is replaced
    assert status == 0 and "unfinished" not in complaints
    assert not (tmp_path / "out" / "checkpoint.2.safetensors").exists()


def test_ctrl_c_while_the_pictures_are_drawn_says_how_to_have_them(run, monkeypatch, tmp_path):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "draw", interrupted)
        status, lines, _ = run(*FEW)
    assert status == 130 and "Stopped; as last saved it is in" in lines[-2]
    status, lines, _ = run(*shlex.split(lines[-1])[3:])
    assert status == 0 and lines[-1].startswith("test accuracy")


def test_a_finished_run_writes_its_metrics_wherever_it_is_resumed(run, tmp_path):
    run(*FEW)
    status, _, _ = run("--resume", "--checkpoint", str(tmp_path / "out" / "checkpoint.safetensors"), out=tmp_path / "b")
    assert status == 0
    assert (tmp_path / "b" / "metrics.jsonl").read_text() == (tmp_path / "out" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("fault", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")])
def test_where_nothing_can_be_printed_it_trains_on(folder, tmp_path, monkeypatch, capfd, fault):
    class Closed(io.StringIO):
        def write(self, text):
            raise fault

        def fileno(self):
            return devnull.fileno()

    with open(tmp_path / "null", "w") as devnull, pytest.warns(UserWarning):
        monkeypatch.setattr(sys, "stdout", Closed())
        assert command.main(["--data", str(folder), "--out", str(tmp_path), *FEW]) == 0
    assert f"nothing more can be printed ({fault})" in capfd.readouterr().err
    assert (tmp_path / "weights.safetensors").exists()


def test_without_a_stdout_it_trains(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.warns(UserWarning):
        assert command.main(["--data", str(folder), "--out", str(tmp_path), *FEW]) == 0


def test_a_resumed_run_finds_the_images_that_auto_had_chosen(folder, tmp_path, capsys):
    """Begun on the digits, since MNIST was not at hand, it does not go on with MNIST when that is there."""
    few = ["--model", "mlp", "--epochs", "1", "--limit-train", "64", "--limit-test", "20", "--out", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.loading, "_load_published", lambda dataset, folder: data.digits())
        assert command.main(few) == 0
    for again in ([], ["--dataset", "auto"]):
        assert command.main(["--resume", "--out", str(tmp_path), *again]) == 0
        assert capsys.readouterr().out.splitlines()[-4].startswith("Dataset('digits'")


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
        (["--checkpoint", str(ROOT)], f"--checkpoint {ROOT} is a folder; name a file"),
        (["--out", __file__], f"--out: {__file__} cannot be made a folder: File exists"),
        (["--checkpoint", f"{__file__}/x"], f"--checkpoint: {__file__} cannot be made a folder: File exists"),
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


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("model", ["mlp", "mlp-bn"])
@pytest.mark.parametrize("every", ["1", "1000"])
def test_a_run_that_diverges_ends_with_advice_and_nothing_else(run, tmp_path, model, every):
    """Running statistics may overflow before the loss does: then the checkpoint is refused."""
    status, _, complaints = run(*FEW, "--model", model, "--lr", "1e30", "--optimizer", "sgd", "--save-every", every)
    assert status == 1
    assert "try a smaller --lr" in complaints and complaints.count("\n") == 1


def test_a_batch_that_a_layer_refuses_is_told_with_the_layer(run):
    status, _, complaints = run(*FEW, "--batch-size", "1", "--limit-train", "20")
    assert status == 1
    assert "whose variance is zero" in complaints and "in the layer 'hidden.2'" in complaints


FORGED = [
    *[("arguments", name, value) for name, value in [
        ("model", "zzz"), ("model", 5), ("epochs", "x"), ("batch_size", 0), ("optimizer", "zzz"), ("lr", "x"),
        ("lr", -1), ("seed", -1), ("dataset", "../../x"), ("limit_train", [5]), ("save_every", 0), ("fuse", "x"),
        ("extra", 1), ("resume", True),
    ]],
    ("progress", "history", 5), ("progress", "history", ["x"]), ("progress", "trace", {}), ("progress", "seen", "x"),
    ("progress", "loss", None), ("arguments", None, {}), ("progress", None, {}),
]  # fmt: skip


@pytest.mark.parametrize(("part", "name", "value"), FORGED)
def test_what_a_forged_checkpoint_holds_is_refused_as_on_the_command_line(run, tmp_path, part, name, value):
    run(*FEW, "--epochs", "1")
    path = tmp_path / "out" / "checkpoint.safetensors"
    arrays, plain = runs.read(path)
    if name is None:
        plain[part] = value
    else:
        plain[part][name] = value
    text = json.dumps(plain)
    files.save(arrays, path, {"checkpoint": text, "sha256": runs.checksum(arrays, text)})
    status, _, complaints = run("--resume")
    assert status == 1 and complaints.startswith("examples.mnist: ")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("MINIGRAD_BACKEND=tpu", "no backend is called 'tpu'"),
        ("MINIGRAD_THREADS=x", "MINIGRAD_THREADS: needs an integer >= 1, not 'x'"),
    ],
)
def test_a_setting_of_the_environment_that_cannot_be_had_is_told(setting, message):
    name, _, value = setting.partition("=")
    line = [sys.executable, "-m", "examples.mnist"]
    done = subprocess.run(line, cwd=ROOT, env={**os.environ, name: value}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


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
