"""Saving and loading: exchange with PyTorch, hostile and damaged files, and writes that are cut short."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import resource
import signal
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc

import numpy as np
import pytest

import minigrad as mg
from minigrad import files, nn


def model():
    mg.random.seed(1)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))


def values(state):
    return {name: (str(t.dtype), t.shape, t.tolist()) for name, t in state.items()}


# ---- round trips ------------------------------------------------------------------------------------
def test_a_model_and_its_metadata_come_back(tmp_path):
    net = model()
    mg.save(net, tmp_path / "net.safetensors", {"epoch": "3"})
    state, metadata = files.read(tmp_path / "net.safetensors")
    assert values(state) == values(net.state_dict()) and metadata == {"epoch": "3"}
    mg.random.seed(2)
    other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).load_state_dict(state)
    assert values(other.state_dict()) == values(net.state_dict())


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_every_dtype_and_shape_comes_back(tmp_path, dtype, shape):
    array = np.arange(6)[: int(np.prod(shape))].reshape(shape).astype(dtype)
    mg.save({"a": array, "t": mg.tensor(array)}, tmp_path / "f")
    for back in mg.load(tmp_path / "f").values():
        assert back.dtype == dtype and back.shape == shape and back.tolist() == array.tolist()


def test_views_are_saved_as_they_look(tmp_path):
    x = mg.tensor(np.arange(6.0).reshape(2, 3))
    mg.save({"t": x.T, "flip": x[:, ::-1]}, tmp_path / "f")
    back = mg.load(tmp_path / "f")
    assert back["t"].tolist() == x.T.tolist() and back["flip"].tolist() == x[:, ::-1].tolist()


def test_pytorch_reads_our_files_and_we_read_its(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    )
    theirs(torch.randn(4, 1, 4, 4))
    save_file(theirs.state_dict(), tmp_path / "theirs")
    ours = model().load_state_dict(mg.load(tmp_path / "theirs"))
    x = np.random.default_rng(0).normal(size=(3, 1, 4, 4)).astype(np.float32)
    ours.eval(), theirs.eval()
    np.testing.assert_allclose(
        ours(mg.tensor(x)).numpy(), theirs(torch.tensor(x)).detach().numpy(), rtol=2e-6, atol=2e-6
    )

    ours.train()(mg.tensor(x))
    mg.save(ours, tmp_path / "ours")
    theirs.load_state_dict(load_file(tmp_path / "ours"))
    for name, value in theirs.state_dict().items():
        assert np.array_equal(value.numpy(), ours.state_dict()[name].numpy())


@pytest.mark.parametrize(
    ("source", "metadata", "says"),
    [
        (3, None, "save: needs a Module or a dict of arrays, not a int"),
        ({1: np.ones(2)}, None, "save: the names are text, not int 1"),
        ({"a": np.ones(2)}, {"epoch": 3}, "save: the metadata are text, not int 3"),
    ],
)
def test_names_and_metadata_are_text(tmp_path, source, metadata, says):
    with pytest.raises(TypeError, match=says):
        mg.save(source, tmp_path / "a.safetensors", metadata)


def test_what_is_no_array_of_numbers_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match=r"save: 'a' is a list, not an array of numbers"):
        mg.save({"a": [1, 2]}, tmp_path / "f")
    with pytest.raises(TypeError, match=r"save: 'o' is a ndarray"):
        mg.save({"o": np.array([object()])}, tmp_path / "f")
    with pytest.raises(FileNotFoundError, match=r"save: there is no folder .*nowhere"):
        mg.save({}, tmp_path / "nowhere" / "f")
    assert not list(tmp_path.iterdir())


# ---- hostile and damaged files ----------------------------------------------------------------------
def packed(header, body=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def entry(shape=(4,), offsets=(0, 16), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "empty": b"",
    "three bytes": b"abc",
    "a header longer than memory": packed({}, length=2**62),
    "a header longer than the file": packed({}, length=90_000_000),
    "no JSON": packed(b"{{{{"),
    "a JSON list": packed([1, 2]),
    "brackets without end": packed(b'{"a":' * 50_000),
    "overlapping offsets": packed({"a": entry(), "b": entry(offsets=(8, 24))}, bytes(24)),
    "a hole between offsets": packed({"a": entry(), "b": entry(offsets=(32, 48))}, bytes(48)),
    "offsets beyond the end": packed({"a": entry((40,), (0, 160))}, bytes(16)),
    "offsets backwards": packed({"a": entry(offsets=(16, 0))}, bytes(16)),
    "negative offsets": packed({"a": entry(offsets=(-16, 0))}, bytes(16)),
    "a shape larger than its bytes": packed({"a": entry((10**12,))}, bytes(16)),
    "a shape that overflows": packed({"a": entry((2**62, 4))}, bytes(16)),
    "a negative shape": packed({"a": entry((-4,))}, bytes(16)),
    "an unknown dtype": packed({"a": entry(dtype="Q7")}, bytes(16)),
    "a dtype of another size": packed({"a": entry(dtype="F64")}, bytes(16)),
    "bytes at the end": packed({"a": entry()}, bytes(32)),
    "metadata that is no text": packed({"__metadata__": {"x": [1]}, "a": entry()}, bytes(16)),
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_file_is_refused_without_a_large_allocation(tmp_path, fault):
    (tmp_path / "f").write_bytes(HOSTILE[fault])
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"load: .*f is damaged or not a safetensors file: "):
            mg.load(tmp_path / "f")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 32 << 10  # KiB


@pytest.mark.parametrize("dtype, size", [("BF16", 8), ("F8_E4M3", 16)])
def test_a_dtype_that_numpy_lacks_is_named(tmp_path, dtype, size):
    (tmp_path / "f").write_bytes(packed({"a": entry((size,), dtype=dtype)}, bytes(16)))
    with pytest.raises(ValueError, match=rf"'a' is of dtype {dtype}.*float32"):
        mg.load(tmp_path / "f")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"load: there is no file .*absent"):
        mg.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"load: there is no file"):
        mg.load(tmp_path)


def test_mutated_files_load_or_raise_and_never_half_load(tmp_path):
    net = model()
    mg.save(net, tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    before = values(net.state_dict())
    draw = random.Random(0)
    for _ in range(400):
        bad = bytearray(good)
        kind = draw.randrange(4)
        place = draw.randrange(len(bad) if kind else 700)
        if kind == 1:
            del bad[place:]
        elif kind == 2:
            bad[place:place] = bytes(draw.randrange(1, 9))
        elif kind == 3:
            del bad[place : place + draw.randrange(1, 9)]
        else:
            bad[place] ^= 1 << draw.randrange(8)
        (tmp_path / "bad").write_bytes(bad)
        try:
            net.load_state_dict(mg.load(tmp_path / "bad"))
        except ValueError:
            assert values(net.state_dict()) == before
        else:
            net.load_state_dict(mg.load(tmp_path / "good"))


# ---- writes that are cut short ----------------------------------------------------------------------
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    mg.save({"a": np.ones(3)}, tmp_path / "f")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        mg.save({"a": np.zeros(3)}, tmp_path / "f")
    monkeypatch.undo()
    assert mg.load(tmp_path / "f")["a"].tolist() == [1.0] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_file_system_without_room_leaves_the_old_file(tmp_path):
    """A true limit on the size of files, in a process of its own."""
    mg.save({"a": np.ones(3)}, tmp_path / "f")
    program = f"""
        import resource, signal, numpy, minigrad as mg
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            mg.save({{"a": numpy.zeros(100_000)}}, {str(tmp_path / "f")!r})
        except OSError as error:
            print(error.errno)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert int(run.stdout) == errno.EFBIG
    assert mg.load(tmp_path / "f")["a"].tolist() == [1.0] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_killed_while_writing_leaves_a_whole_file(tmp_path):
    program = f"""
        import itertools, numpy, minigrad as mg
        for i in itertools.count():
            mg.save({{"a": numpy.full(300_000, i), "b": numpy.full(300_000, i)}}, {str(tmp_path / "f")!r})
    """
    draw = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".f.*.part")) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for part in tmp_path.glob(".f.*.part"):
            part.unlink()
        if (tmp_path / "f").exists():
            state = mg.load(tmp_path / "f")
            assert len(np.unique([state["a"].numpy(), state["b"].numpy()])) == 1
    assert (tmp_path / "f").exists()


def test_a_saved_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    mg.save({}, tmp_path / "f")
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "plain").stat().st_mode
