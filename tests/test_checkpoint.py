"""Checkpoints: what follows a load is what would have followed the save, and no fault loses or half-loads one."""

import functools
import json
import os
import random as python_random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import minigrad as mg
from minigrad import data, files, nn, optim, runs
from minigrad.functional import cross_entropy


def make_run(width=8, seed=0, schedule=True, batches=True, optimizer=optim.AdamW):
    """A run with everything in it that has a state: BatchNorm, Dropout, momenta, a schedule, shuffled batches."""
    mg.random.seed(seed)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    labels = np.arange(40) % 3
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 3)
    )
    chosen = optimizer(model.named_parameters(), lr=0.05)
    return runs.Run(
        model,
        chosen,
        optim.CosineLR(chosen, 5000) if schedule else None,
        data.Batches(pixels, labels, 8, seed=seed, augment=data.Augment(shift=1)) if batches else None,
        arguments={"width": width},
        progress={"step": 0},
    )


def train(run, steps, after_each=lambda: None):
    """Trains until `progress["step"]` is `steps`."""
    while run.progress["step"] < steps:
        for x, y in run.batches:
            run.optimizer.zero_grad()
            cross_entropy(run.model(x), y).backward()
            run.optimizer.step()
            run.schedule.step()
            run.progress["step"] += 1
            after_each()
            if run.progress["step"] == steps:
                break


def everything(run):
    """All that a run holds, as comparable values."""
    optimizer = run.optimizer.state_dict()
    return {
        **{name: value.numpy().tobytes() for name, value in run.model.state_dict().items()},
        **{name: value.tobytes() for name, value in optimizer.pop("state").items()},
        "plain": json.dumps(
            [
                optimizer,
                run.schedule and run.schedule.state_dict(),
                run.batches and run.batches.state(),
                mg.random.state(),
                run.arguments,
                run.progress,
            ]
        ),
    }


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 7, 12])
@pytest.mark.parametrize("optimizer", [optim.SGD, optim.AdamW, functools.partial(optim.Adam, amsgrad=True)])
def test_stopping_at_any_step_and_going_on_changes_nothing(tmp_path, stop, optimizer):
    whole = make_run(optimizer=optimizer)
    train(whole, 13)
    expected = everything(whole)

    first = make_run(optimizer=optimizer)
    train(first, stop)
    runs.save(first, tmp_path / "run.safetensors")
    second = make_run(seed=99, optimizer=optimizer)  # other weights, another generator: all must come from the file
    second.batches = first.batches.__class__(
        first.batches.images, first.batches.labels, 8, seed=0, augment=first.batches.augment
    )
    mg.random.seed(12345)
    runs.load(second, tmp_path / "run.safetensors")
    train(second, 13)
    assert everything(second) == expected


def test_the_last_two_are_kept_and_nothing_else(tmp_path):
    run, path = make_run(), tmp_path / "run.safetensors"
    for step in (1, 2, 3):
        train(run, step)
        runs.save(run, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.previous.safetensors", "run.safetensors"]
    assert runs.read(path)[1]["progress"] == {"step": 3}
    assert runs.read(runs.before(path))[1]["progress"] == {"step": 2}


def test_a_new_run_leaves_no_checkpoint_of_an_older_one(tmp_path):
    run, path = make_run(), tmp_path / "run.safetensors"
    runs.save(run, path)
    runs.save(run, path)
    runs.save(make_run(), path, first=True)
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_file_is_readable_as_plain_safetensors(tmp_path):
    run = make_run()
    runs.save(run, tmp_path / "run.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "run.safetensors")
    assert np.array_equal(arrays["model/1.weight"], run.model[1].weight.numpy())


@pytest.mark.parametrize("value", [np.float32(0.5), np.arange(2), mg.ones(1)])
def test_what_is_no_plain_value_is_refused_and_nothing_is_written(tmp_path, value):
    run = make_run()
    run.progress["best"] = value
    with pytest.raises(TypeError, match=rf"not {type(value).__name__} .*; .item\(\) makes a number of it"):
        runs.save(run, tmp_path / "run.safetensors")
    assert not list(tmp_path.iterdir())


def two_checkpoints(folder):
    run, path = make_run(), folder / "run.safetensors"
    for step in (1, 2):
        train(run, step)
        runs.save(run, path)
    return path


def damages(content, count):
    """Files that are not what was written: cut anywhere, a bit flipped anywhere, lengths that lie, other files."""
    draw = python_random.Random(0)
    yield b""
    yield b"no checkpoint at all"
    yield (2**60).to_bytes(8, "little") + content[8:]
    yield content[:8] + b"[" * 50_000
    yield content + b"\0"
    for _ in range(count):
        yield content[: draw.randrange(len(content))]
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        yield bytes(flipped)


def test_a_damaged_newest_falls_back_to_the_one_before_with_a_message(tmp_path, capsys):
    path = two_checkpoints(tmp_path)
    whole = path.read_bytes()
    for content in damages(whole, 60):
        path.write_bytes(content)
        run = make_run()
        assert runs.load(run, path) == runs.before(path)
        assert run.progress == {"step": 1}
        message = capsys.readouterr().err
        assert str(path) in message and str(runs.before(path)) in message


def test_a_missing_newest_falls_back_too(tmp_path, capsys):
    path = two_checkpoints(tmp_path)
    path.unlink()  # as when the machine stops between the two renames
    assert runs.load(make_run(), path) == runs.before(path)
    assert "no file" in capsys.readouterr().err


def test_no_whole_checkpoint_is_an_error_that_names_both_and_changes_nothing(tmp_path):
    path = two_checkpoints(tmp_path)
    for place in (path, runs.before(path)):
        place.write_bytes(place.read_bytes()[:-1])
    run = make_run()
    expected = everything(run)
    with pytest.raises(runs.DamagedError, match=r"(?s)run\.safetensors.*run\.previous\.safetensors"):
        runs.load(run, path)
    assert everything(run) == expected
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        runs.load(run, tmp_path / "other.safetensors")


def forged(path, change):
    """Rewrites a checkpoint with other contents and a checksum that fits them."""
    arrays, metadata = files.read(path)
    plain = json.loads(metadata["checkpoint"])
    change(arrays, plain)
    text = json.dumps(plain)
    files.save(arrays, path, {"checkpoint": text, "sha256": runs.checksum(arrays, text)})


def drop_weight(arrays, plain):
    del arrays["model/1.weight"]


def reshape_weight(arrays, plain):
    arrays["model/1.weight"] = mg.zeros(3, 3)


def widen_momentum(arrays, plain):
    arrays["optimizer/exp_avg/1.weight"] = mg.zeros(8, 16, dtype=mg.float64)


def other_schedule(arrays, plain):
    plain["schedule"]["settings"]["steps"] = 61


def other_seed(arrays, plain):
    plain["batches"]["seed"] = 1


def broken_generator(arrays, plain):
    plain["random"]["state"] = {}


def other_generator(arrays, plain):
    plain["random"]["bit_generator"] = "MT19937"


def no_schedule(arrays, plain):
    plain["schedule"] = None


@pytest.mark.parametrize(
    "change",
    [
        drop_weight, reshape_weight, widen_momentum, other_schedule, other_seed, broken_generator, other_generator,
        no_schedule,
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path, change):
    path = two_checkpoints(tmp_path)
    forged(path, change)
    run = make_run()
    train(run, 3)
    expected = everything(run)
    with pytest.raises(ValueError, match=r"run\.safetensors"):
        runs.load(run, path)
    assert everything(run) == expected


def test_another_version_and_nan_weights_are_refused(tmp_path, capsys):
    path = two_checkpoints(tmp_path)
    forged(path, lambda arrays, plain: arrays["model/1.weight"].__setitem__((0, 0), float("nan")))
    assert runs.load(make_run(), path) == runs.before(path)
    assert "model/1.weight holds NaN" in capsys.readouterr().err
    forged(path, lambda arrays, plain: plain.update(version=2) or arrays["model/1.weight"].__setitem__((0, 0), 0.0))
    with pytest.raises(ValueError, match="version 2"):
        runs.load(make_run(), path)


@pytest.mark.parametrize("text", [None, "{", "[]", "1", '{"version": 1}'])
def test_a_whole_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, text):
    run, path = make_run(), tmp_path / "run.safetensors"
    arrays = run.model.state_dict()
    files.save(arrays, path, {} if text is None else {"checkpoint": text, "sha256": runs.checksum(arrays, text)})
    expected = everything(run)
    with pytest.raises(runs.DamagedError, match=r"run\.safetensors is .*no checkpoint"):
        runs.load(run, path)
    assert everything(run) == expected


def test_nan_weights_are_not_saved_over_good_ones(tmp_path):
    path = two_checkpoints(tmp_path)
    before = path.read_bytes()
    run = make_run()
    run.model[1].weight.data[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"model/1\.weight"):
        runs.save(run, path)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path, monkeypatch):
    path = two_checkpoints(tmp_path)
    contents = {p: p.read_bytes() for p in tmp_path.iterdir()}

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        runs.save(make_run(), path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == contents


def test_killed_between_the_renames_after_a_damaged_newest_the_new_one_is_found(tmp_path, monkeypatch, capsys):
    """The damaged file has then taken the place of the one before: what was just written is all that there is."""
    path = two_checkpoints(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    run = make_run()
    assert runs.load(run, path) == runs.before(path)
    replace = os.replace

    def cut(source, target):
        if target == path:
            raise KeyboardInterrupt
        replace(source, target)

    train(run, 3)
    expected = everything(run)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", cut)
        runs.save(run, path)
    fresh = make_run()
    assert runs.load(fresh, path) == runs.following(path) and everything(fresh) == expected
    assert f"Going on from {runs.following(path)} instead" in capsys.readouterr().err
    runs.save(fresh, path)
    assert not runs.following(path).exists() and runs.load(make_run(), path) == path


def test_the_renames_are_synced(tmp_path, monkeypatch):
    run, path, calls = make_run(), tmp_path / "run.safetensors", []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    runs.save(run, path)
    runs.save(run, path)
    assert calls[-1] == "fsync" and calls.count("replace") == 5


def test_a_folder_is_no_place_for_a_checkpoint(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; name a file"):
        runs.save(make_run(), tmp_path)
    assert not [*tmp_path.iterdir()] and not runs.following(tmp_path).exists()


JUNK = (None, 5, -1, 1.5, "x", [], {}, [1], {"a": 1}, 10**30, "1" * 50)


def places(value, before=()):
    """Where something stands in nested lists and dicts."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*before, key)
        yield from places(part, (*before, key))


def test_whatever_stands_in_a_forged_checkpoint_it_loads_or_is_refused_by_name(tmp_path):
    """Its checksum is right, so that every check of the contents comes to its turn."""
    path = two_checkpoints(tmp_path)
    runs.before(path).unlink()
    whole, plain = path.read_bytes(), runs.read(path)[1]
    refused = 0
    for number, place in enumerate(places(plain)):
        for value in JUNK[number % 3 :: 3]:

            def put(arrays, plain, place=place, value=value):
                for key in place[:-1]:
                    plain = plain[key]
                plain[place[-1]] = value

            path.write_bytes(whole)
            forged(path, put)
            run = make_run()
            expected = everything(run)
            try:
                runs.load(run, path)
            except ValueError as error:
                refused += 1
                assert str(path) in str(error)
                assert everything(run) == expected
    assert refused > 100


ENDLESS = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from test_checkpoint import runs, make_run, train
run, path = make_run(), {path!r}
try:
    runs.load(run, path)
except FileNotFoundError:
    pass
print("up", flush=True)
train(run, {steps}, lambda: runs.save(run, path))
print("done", flush=True)
"""


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_gives_equal_weights(tmp_path, kills):
    """The process writes a checkpoint at every step, so that many of the kills fall into a write."""
    steps = 20 * kills
    whole = make_run()
    train(whole, steps)
    expected = everything(whole)
    path = tmp_path / "run.safetensors"
    script = ENDLESS.format(
        tests=str(Path(__file__).parent), root=str(Path(__file__).parents[1]), path=str(path), steps=steps
    )
    draw, killed = python_random.Random(kills), 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "up\n"
        if killed < kills:
            time.sleep(draw.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            killed += 1
        finished = process.stdout.read() == "done\n"
        process.wait()
        if finished:
            break
    run = make_run(seed=5)
    run.batches = make_run().batches
    runs.load(run, path)
    assert everything(run) == expected
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")], "nothing half-written stays behind"


CUT = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
from test_checkpoint import everything, files, make_run, mg, runs, train

path = Path({path!r})
left = 0

def moment():  # the process ends at one of these, each time at a later one
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def around(call):
    def cut(*args, **kwargs):
        moment()
        result = call(*args, **kwargs)
        moment()
        return result
    return cut

class Slowly:
    def __init__(self, *args):
        moment()
        self.file = open(*args)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, content):
        for i in range(0, len(content), len(content) // 8):
            self.file.write(content[i : i + len(content) // 8])
            self.file.flush()
            moment()

run, states = make_run(), {{}}
for step in (1, 2):
    train(run, step)
    states[step] = everything(run)
    runs.save(run, path)
start = {{p: p.read_bytes() for p in path.parent.iterdir()}}
train(run, 3)
states[3], generator = everything(run), mg.random.state()
moments = ended = 0
while not ended:
    for p in path.parent.iterdir():
        p.unlink()
    for p, content in start.items():
        p.write_bytes(content)
    mg.random.set_state(generator)
    child = os.fork()
    if not child:
        left, files.open = moments, Slowly
        os.replace, os.fsync, os.unlink = around(os.replace), around(os.fsync), around(os.unlink)
        runs.save(run, path)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    ended = status == 0
    fresh = make_run()
    runs.load(fresh, path)
    assert everything(fresh) == states[fresh.progress["step"]]
    whole = sum(runs.read(p)[1]["progress"]["step"] > 0 for p in path.parent.glob("run*.safetensors"))
    halves = len(list(path.parent.glob(".*.part")))
    print(moments, status, fresh.progress["step"], whole, halves)
    moments += 1
"""


def test_killed_at_every_moment_of_a_write_leaves_a_checkpoint_that_loads(tmp_path):
    """The process ends before and after each call to the operating system, and after each eighth of the contents."""
    script = CUT.format(
        tests=str(Path(__file__).parent), root=str(Path(__file__).parents[1]), path=str(tmp_path / "run.safetensors")
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    print(f"\n{len(rows) - 1} moments, at {sum(halves for *_, halves in rows)} of them a file was half-written")
    *killed, (_, status, step, whole, halves) = rows
    assert len(killed) >= 15 and (status, step, whole, halves) == (0, 3, 2, 0)
    assert all(status == signal.SIGKILL for _, status, *_ in killed)
    assert {step for _, _, step, *_ in killed} == {2, 3}, "what loads is the one before or the new one"
    assert [step for _, _, step, *_ in killed] == sorted(step for _, _, step, *_ in killed)
    assert all(whole >= 1 for *_, whole, _ in killed)
    assert sum(halves for *_, halves in killed) >= 8
