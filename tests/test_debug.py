"""The tape tells the truth: overwritten values, the first NaN, locked arrays, the log of writes, recomputation."""

from __future__ import annotations

import contextlib
import gc
import re
import sys
import threading
import warnings

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.tape import history, recording, writes
from tests.threads import at_once

HERE = __file__.rsplit("/", 1)[-1]


def line(offset=0):
    return sys._getframe(1).f_lineno + offset


@pytest.fixture(autouse=True)
def _quiet_and_clean():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
    assert recording.observer is recording.watch is recording.reviewer is None


def net():
    mg.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 2))
    list(model.named_parameters()), list(model.named_buffers())
    return model


# ---- values overwritten before the backward pass ----------------------------------------------------
def test_a_parameter_stepped_between_forward_and_backward_is_named_with_both_places():
    model = net()
    opt = optim.SGD(model.parameters(), lr=0.1)
    x = mg.random.normal(5, 3)
    model(x).sum().backward()
    late = model(x).sum()
    opt.step()
    says = rf"matmul .*kept '4.weight', .*float32 \[.*\].*overwritten by Optimizer.step at .*{HERE}:{line(-1)}; call"
    with pytest.raises(RuntimeError, match=says):
        late.backward()


def test_in_debug_mode_the_message_also_tells_where_the_value_was_kept():
    w = mg.Parameter(mg.ones(2))
    with mg.debug():
        y = (w * w).sum()
        kept = line(-1)
        w.update(mg.zeros(2))
        with pytest.raises(
            RuntimeError, match=rf"multiply.*by multiply at .*{HERE}:{kept}\).*by .*update at .*{HERE}:{kept + 2}"
        ):
            y.backward()


@pytest.mark.parametrize(
    "write", [lambda p: p.update(mg.zeros(2, 2)), lambda p: p.bump(), lambda p: p.data.fill(0) or p.bump()]
)
@pytest.mark.parametrize(
    "f",
    [
        lambda p, x: p * x,
        lambda p, x: x @ p,
        lambda p, x: x @ p.T,  # a view keeps the Parameter's memory
        lambda p, x: x @ p.reshape(2, 2)[:, ::-1],
        lambda p, x: mg.einsum("ij,jk->ik", x, p),
        lambda p, x: mg.maximum(p, x),
        lambda p, x: mg.log(p + 2.0) * x + mg.exp(p * p),
    ],
)
def test_every_way_of_keeping_and_of_writing_is_noticed(f, write):
    p, x = mg.Parameter(mg.ones(2, 2)), mg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = f(p, x).sum()
    write(p)
    with pytest.raises(RuntimeError, match="kept a Parameter"):
        y.backward()


def test_a_buffer_updated_by_a_later_forward_is_noticed():
    buffer, x = nn.Buffer(mg.ones(3)), mg.ones(3, requires_grad=True)
    y = (x * buffer).sum()
    buffer.update(mg.zeros(3))
    says = rf"multiply .*kept a Buffer.*overwritten by test_a_buffer.* at .*{HERE}:{line(-1)};"
    with pytest.raises(RuntimeError, match=says):
        y.backward()


def test_an_evaluation_graph_of_batch_norm_survives_later_training():
    """PyTorch's does not notice: its evaluation graph reads the running variance of the day."""
    layer = nn.BatchNorm1d(3)
    x = mg.random.normal(5, 3)
    x.requires_grad = True
    y = layer.eval()(x)
    g = mg.grad(y.sum(), x, retain_graph=True).numpy()
    layer.train()(mg.random.normal(50, 3) * 9.0)
    assert np.array_equal(mg.grad(y.sum(), x).numpy(), g)


def fill_in_place(p):
    p.data -= 0.5


def step_by_hand(p):
    with mg.no_grad():
        p -= 0.5


def step(p):
    p.grad = mg.ones(*p.shape)
    optim.SGD([p], lr=0.1).step()


def load(p):
    model = nn.Module()
    model.w = p
    model.load_state_dict({"w": mg.zeros(*p.shape)})


def assign_to_the_detached(p):
    p.detach()[...] = 0.0


def assign_to_a_view(p):
    with mg.no_grad():
        p.reshape(-1)[0] = 7.0


@pytest.mark.parametrize("write", [fill_in_place, step_by_hand, step, load, assign_to_the_detached, assign_to_a_view])
@pytest.mark.parametrize("kind", [mg.Parameter, nn.Buffer])
def test_whoever_overwrites_a_parameter_or_buffer_is_named(kind, write):
    if kind is nn.Buffer and write is step:
        return
    p, x = kind(mg.ones(2, 2)), mg.ones(2, 2, requires_grad=True)
    y = (x * p).sum()
    write(p)
    who = {step: "Optimizer.step", load: "Module.load_state_dict"}.get(write, write.__name__)
    last = max(number for *_, number in write.__code__.co_lines() if number)
    says = rf"multiply .*kept a .*overwritten by {who} at .*{HERE}:{last};"
    with pytest.raises(RuntimeError, match=says):
        y.backward()


@pytest.mark.parametrize("kind", [mg.Parameter, nn.Buffer])
def test_another_array_leaves_the_gradient_of_the_old_values_as_it_was(kind):
    p, x = kind(mg.ones(2)), mg.ones(2, requires_grad=True)
    y = (x * p).sum()
    p.data = p.data * 3.0
    y.backward()
    assert x.grad.tolist() == [1.0, 1.0] and p.version == 1
    assert (x * p).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("shape, dtype", [((2, 2), "float32"), ((3,), "float64")], ids=["shape", "dtype"])
def test_an_array_of_another_shape_or_dtype_has_a_leaf_of_its_own(shape, dtype):
    array = mg.full(shape, 3.0, dtype=dtype).data
    p = mg.Parameter(mg.ones(3))
    p.rename("p")
    y = p.sum()
    y.backward(retain_graph=True)
    p.data = array
    assert p.grad is None and p.requires_grad and p.label == p.node.label == "p"
    (p * p).sum().backward()
    assert p.grad.dtype == array.dtype and p.grad.tolist() == np.full(array.shape, 6.0).tolist()
    y.backward()  # of the old array: it has another leaf
    assert p.grad.tolist() == np.full(array.shape, 6.0).tolist()
    with pytest.raises(TypeError, match="only floating dtypes have gradients, not int64"):
        p.data = np.ones(3, "int64")
    assert p.data is array
    p.requires_grad = False
    p.data = np.ones((1, 3), "float32")
    assert not p.requires_grad


@pytest.mark.parametrize("kind", [mg.Parameter, nn.Buffer])
@pytest.mark.parametrize("history", [False, True])
def test_a_tensor_is_no_array_to_hold(kind, history):
    p, t = kind(mg.ones(2)), mg.ones(2, requires_grad=history) * 2.0
    before = p.data
    with pytest.raises(TypeError, match=rf"data: a {kind.__name__} of .* was given a Tensor in .* its array; p.update"):
        p.data = t
    assert p.data is before and p.version == 0


def test_a_replay_with_another_array_is_noticed():
    """It would run with the new values, and their gradient is not that of the old ones."""
    w = mg.Parameter(mg.ones(2))
    y = mg.checkpoint(lambda x: x * w * w, mg.ones(2, requires_grad=True)).sum()
    w.data = w.data * 3.0
    with pytest.raises(RuntimeError, match=r"checkpoint on line .* was replaced by another"):
        y.backward()


def test_assigning_into_a_constant_that_the_tape_keeps_is_noticed():
    x, w = mg.tensor([1.0, 2.0]), mg.Parameter(mg.ones(2))
    y = (w * x).sum()
    x[0] = 5.0
    says = rf"kept a Tensor.*overwritten by test_assigning.* at .*{HERE}:{line(-1)};"
    with pytest.raises(RuntimeError, match=says):
        y.backward()


def test_what_is_not_needed_may_be_overwritten():
    w, b = mg.Parameter(mg.ones(2)), mg.Parameter(mg.ones(2))
    x = mg.tensor([1.0, 2.0])
    y = (w * x + b).sum()  # x is kept, w and b are not
    w.update(mg.zeros(2))
    b.update(mg.zeros(2))
    y.backward()
    assert w.grad.tolist() == [1.0, 2.0]
    v = mg.Parameter(mg.ones(2))
    z = (w * v).sum()
    w.update(mg.ones(2))
    assert mg.grad(z, w).tolist() == [1.0, 1.0]  # needs v alone


def test_overwriting_after_the_backward_pass_or_under_another_dtype_is_no_fault():
    model = net()
    opt = optim.Adam(model.parameters())
    for _ in range(3):
        model.zero_grad()
        model(mg.ones(4, 3)).sum().backward()
        opt.step()
    y = model(mg.ones(4, 3)).sum()
    model.to_dtype(mg.float64)
    y.backward()


def test_second_derivatives_notice_too():
    w = mg.Parameter(mg.tensor([2.0]))
    g = mg.grad((w**3.0).sum(), w, create_graph=True)
    w.update(mg.zeros(1))
    with pytest.raises(RuntimeError, match="kept a Parameter"):
        g.sum().backward()


def test_what_nothing_else_holds_is_overwritten_without_a_note():
    p, b = mg.Parameter(mg.ones(2)), nn.Buffer(mg.ones(2))
    before = writes.newest
    for write in (p.bump, b.bump, lambda: p.update(mg.zeros(2)), lambda: b.update(mg.zeros(2))):
        write()
    assert writes.newest == before
    y = p * p
    p.bump()
    assert writes.newest > y.node.serial


def test_the_list_of_writes_does_not_outlive_the_arrays():
    gc.collect()
    before = len(writes.last)
    for _ in range(100):
        nn.Buffer(mg.ones(2)).update(mg.zeros(2))
    assert len(writes.last) == before


# ---- anomalies --------------------------------------------------------------------------------------
def test_the_first_bad_value_of_a_forward_names_op_layer_line_and_ranges():
    class Layer(nn.Module):
        def forward(self, x):
            return mg.log(x)

    model = nn.Sequential(nn.Identity(), Layer())
    x = mg.tensor([1.0, -1.0, 4.0], requires_grad=True)
    says = (
        rf"^log \(line \d+ of the tape in the layer Layer '1', recorded by log at .*{HERE}:\d+\) made the first NaN: "
        r"the result is float32 \[3\] in \[0, 1.386\], 1 of 3 NaN; the operands are x = float32 \[3\] in \[-1, 4\]"
    )
    with mg.detect_anomaly(), pytest.raises(FloatingPointError, match=says):
        model(x)


def test_the_first_bad_value_of_a_backward_names_the_op_that_made_it():
    x = mg.tensor([0.0, 4.0], requires_grad=True)
    with mg.detect_anomaly():
        y = (mg.sqrt(x) * 2.0).sum()
        says = (
            rf"backward: sqrt \(.*{HERE}:{line(-2)}\) made the first infinity in the cotangent of its operand x: "
            r"float32 \[2\] in \[0.5, 0.5\], 1 of 2 infinite; the cotangent that arrived is float32 \[2\] in \[2, 2\]; "
            r"the line kept float32 \[2\] in \[0, 2\]"
        )
        with pytest.raises(FloatingPointError, match=says):
            y.backward()


def test_infinities_that_were_put_in_pass_and_nan_that_was_put_in_is_shown():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    mask = mg.tensor([True, False])
    with mg.detect_anomaly():
        mg.softmax(mg.where(mask, x, -float("inf"))).sum().backward()
        with pytest.raises(
            FloatingPointError, match=r"multiply .*first NaN: .*b = float32 \[2\] in \[1, 1\], 1 of 2 NaN"
        ):
            x * mg.tensor([float("nan"), 1.0])


def test_a_wrong_cotangent_and_a_second_derivative_are_seen():
    x = mg.tensor([0.0], requires_grad=True)
    with mg.detect_anomaly():
        with pytest.raises(FloatingPointError, match=r"backward: multiply .*cotangent that arrived is .*1 of 1 NaN"):
            (x * 2.0).backward(mg.tensor([float("nan")]))
        g = mg.grad((x**1.5).sum(), x, create_graph=True)
        with pytest.raises(FloatingPointError, match=r"backward: power_of .*first infinity"):
            g.sum().backward()


@pytest.mark.parametrize("make", [mg.detect_anomaly, mg.debug])
def test_what_is_not_on_the_tape_is_looked_at_too(make):
    class Layer(nn.Module):
        def forward(self, x):
            return mg.log(x)

    model, x = nn.Sequential(nn.Identity(), Layer()), mg.tensor([1.0, -1.0], requires_grad=True)
    with make():
        with mg.no_grad(), pytest.raises(FloatingPointError) as raised:
            model(x)
        says = (
            rf"^log \(not on the tape: under no_grad; in the layer Layer '1' computed by log at .*{HERE}:\d+\) made "
            r"the first NaN: the result is float32 \[2\] in \[0, 0\], 1 of 2 NaN; the operands are x = float32 "
            r"\[2\] in \[-1, 1\]"
        )
        assert re.match(says, str(raised.value)), raised.value
        with pytest.raises(FloatingPointError, match=r"divide \(not on the tape: of constants; .*the first infinity"):
            mg.tensor([1.0]) / mg.tensor([0.0])
        assert mg.tensor([-np.inf, 1.0]).max().item() == 1.0


def test_operands_are_called_by_their_labels():
    w, x = mg.Parameter(mg.tensor([0.0])), mg.tensor([2.0], requires_grad=True)
    w.rename("conv.weight")
    h = mg.label(x - 2.0, "centred")
    with mg.detect_anomaly():
        with pytest.raises(FloatingPointError, match=r"operands are a 'centred' = .*; b 'conv.weight' = float32"):
            h / w
        y = mg.sqrt(h)
        with pytest.raises(FloatingPointError, match=r"backward: sqrt .*cotangent of its operand x 'centred':"):
            y.sum().backward()


def test_sessions_end_nest_and_stay_in_their_thread():
    session = mg.detect_anomaly()
    seen = []
    with mg.debug() as inner:
        thread = threading.Thread(target=lambda: seen.append(mg.log(mg.tensor([0.0], requires_grad=True)).item()))
        thread.start()
        thread.join()
        assert recording.reviewer is inner
        with pytest.raises(FloatingPointError):
            mg.log(mg.tensor([0.0], requires_grad=True))
    assert recording.reviewer is session and seen == [-np.inf]
    session.off()
    session.off()
    assert mg.log(mg.tensor([0.0], requires_grad=True)).item() == -np.inf


@pytest.mark.parametrize("first", [mg.debug, mg.detect_anomaly])
@pytest.mark.parametrize("second", [mg.debug, mg.detect_anomaly])
def test_a_session_that_ends_takes_those_that_were_made_inside_it_along(first, second):
    outer, inner = first(), second()
    outer.off()
    assert recording.observer is recording.watch is recording.reviewer is None
    inner.off()
    assert recording.observer is recording.watch is recording.reviewer is None
    assert mg.log(mg.tensor([0.0], requires_grad=True)).item() == -np.inf


def test_watching_changes_no_number():
    x = mg.random.normal(6, 3)
    results = []
    for watch in (False, True):
        model = net()
        session = mg.debug() if watch else None
        opt = optim.Adam(model.parameters(), lr=0.1)
        for _ in range(3):
            model.zero_grad()
            mg.mean(model(x) ** 2.0).backward()
            opt.step()
        if session is not None:
            session.off()
        results.append({n: v.tolist() for n, v in model.state_dict().items()})
    assert results[0] == results[1]


# ---- locks and the log ------------------------------------------------------------------------------
@pytest.mark.host("only NumPy's arrays can be locked")
def test_arrays_that_the_tape_keeps_are_locked_until_the_backward_pass():
    with mg.debug():
        x = mg.tensor([1.0, 2.0], requires_grad=True)
        h = x * 2.0
        y = (h * h).sum()
        with pytest.raises(ValueError, match="read-only"):
            h.numpy()[0] = 7.0
        y.backward()
        h.numpy()[0] = 7.0
    assert x.grad.tolist() == [8.0, 16.0]


@pytest.mark.host("only NumPy's arrays can be locked")
def test_locks_end_with_the_tape_that_asked_for_them():
    given = np.ones(3, np.float32)
    w = mg.Parameter(mg.ones(3))
    with mg.debug():
        y = w * mg.Tensor(given)
        with pytest.raises(ValueError, match="read-only"):
            given[0] = 2.0
        del y
        given[0] = 2.0
        w.update(mg.zeros(3))


RAW_WRITES = {
    "an item": lambda p: p.data.__setitem__(0, 5.0),
    "all": lambda p: p.data.__setitem__(..., 5.0),
    "fill": lambda p: p.data.fill(5.0),
    "an operator": lambda p: p.data.__iadd__(1.0),
    "out=": lambda p: np.add(p.data, 1.0, out=p.data),
    "copyto": lambda p: np.copyto(p.data, 5.0),
    "a view": lambda p: p.data[1:].fill(5.0),
    "the transpose": lambda p: p.data.T.fill(5.0),
    "numpy()": lambda p: p.numpy().fill(5.0),
}


@pytest.mark.host("only NumPy's arrays can be locked")
@pytest.mark.parametrize("write", RAW_WRITES)
@pytest.mark.parametrize("kind", [mg.Parameter, nn.Buffer, mg.Tensor])
def test_in_debug_mode_a_write_to_the_raw_array_is_refused_where_it_happens(kind, write):
    p, x = kind(np.ones(3, np.float32)), mg.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="read-only") as raised, mg.debug():
        y = (x * p).sum()
        kept = line(-1)
        RAW_WRITES[write](p)
    assert f"multiply, recorded by multiply at {__file__}:{kept}" in raised.value.__notes__[-1]
    y.backward()
    RAW_WRITES[write](p)
    assert x.grad.tolist() == [1.0] * 3


@pytest.mark.host("only NumPy's arrays can be locked")
def test_in_debug_mode_a_write_through_another_array_is_noticed():
    whole = np.ones(6, np.float32)
    other, part = whole[:4], whole[1:4]
    x = mg.ones(3, requires_grad=True)
    for write in (lambda: whole.fill(5.0), lambda: other.fill(6.0)):
        with mg.debug():
            y = (x * mg.Tensor(part)).sum()
            kept = line(-1)
            try:
                write()
            except ValueError:
                continue  # the owner is locked
            says = rf"multiply .*by multiply at .*{HERE}:{kept}\) kept an array .*backward at .*{HERE}:{line(2)}, this"
            with pytest.raises(RuntimeError, match=says):
                y.backward()
    assert whole.tolist() == [6.0] * 4 + [1.0] * 2, "the second write went through, and was noticed"


@pytest.mark.host("only NumPy's arrays can be locked")
def test_in_debug_mode_a_loop_that_writes_by_hand_after_the_backward_pass_runs_on():
    w = mg.Parameter(mg.ones(3))
    given = np.ones(3, np.float32)
    with mg.debug():
        for _ in range(3):
            w.grad = None
            loss = (w * mg.tensor(given) * w).sum()
            given += 1.0  # mg.tensor took a copy
            loss.backward()
            w.data[...] -= 0.01 * w.grad.data
            w.data -= 0.0 * w.grad.data
    assert w.version == 3 and given.tolist() == [4.0] * 3


def test_every_change_of_a_buffer_is_logged_with_who_and_where():
    layer = nn.BatchNorm1d(3)
    with mg.debug() as session:
        layer(mg.random.normal(4, 3))
        where = line(-1)
        assert {w.layer for w in session.written} == {"BatchNorm1d"}
    assert [w.name for w in session.written] == ["'num_batches_tracked'", "'running_mean'", "'running_var'"]
    assert all(
        w.place.startswith("by Module.__call__ at ") and w.place.endswith(f"{HERE}:{where}") for w in session.written
    )
    assert sorted(w.serial for w in session.written) == [w.serial for w in session.written]


def test_every_way_of_changing_a_buffer_is_logged():
    model = nn.Sequential(nn.Identity(), nn.BatchNorm1d(2))
    buffer = dict(model.named_buffers())["1.running_mean"]
    with mg.debug() as session:
        buffer.update(mg.ones(2))
        buffer[0] = 3.0
        buffer.data += 1.0
        buffer.data = buffer.data * 2.0
        last = line(-1)
    model(mg.random.normal(4, 2))
    assert [w.name for w in session.written] == ["'1.running_mean'"] * 4
    places = [f"{HERE}:{last - 3 + i}" for i in range(4)]
    assert all(w.place.endswith(p) for w, p in zip(session.written, places, strict=True)), session.written
    assert buffer.version == 5


# ---- recomputation ----------------------------------------------------------------------------------
def thrice(model, x, call):
    """Gradients of three orders through a model, and its state afterwards."""
    mg.random.seed(3)
    y = call(model, x * 2.0)
    first = mg.grad((y * y).sum(), [x, model[0].weight], create_graph=True)
    second = mg.grad(sum((g * g).sum() for g in first), [x, model[0].weight, model[4].bias], create_graph=True)
    model.zero_grad()
    sum((g * g).sum() for g in second).backward()
    return [y, *first, *second, *(p.grad for p in model.parameters())], model.state_dict(), mg.random.uniform(3)


def test_recomputed_values_gradients_masks_and_statistics_are_those_of_a_plain_run():
    x = mg.tensor(np.random.default_rng(0).normal(size=(5, 3)), requires_grad=True)
    plain, state, after = thrice(net().to_dtype(mg.float64), x, lambda f, h: f(h))
    again, other, later = thrice(net().to_dtype(mg.float64), x, lambda f, h: mg.checkpoint(f, h))
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-11, atol=1e-10)
    assert {n: v.tolist() for n, v in state.items()} == {n: v.tolist() for n, v in other.items()}
    assert after.tolist() == later.tolist()


def test_first_gradients_of_a_recomputation_are_equal_to_the_bit():
    x = mg.random.normal(5, 3)
    x.requires_grad = True
    found = []
    for call in (lambda f, h: f(h), mg.checkpoint):
        model = net()
        mg.random.seed(1)
        x.grad = None
        call(model, x).sum().backward()
        found.append([x.grad.tolist(), *(p.grad.tolist() for p in model.parameters())])
    assert found[0] == found[1]


def test_a_recomputation_is_one_line_of_the_tape_that_keeps_its_inputs():
    model, x = net(), mg.ones(5, 3, requires_grad=True)
    y = mg.checkpoint(model, x)
    assert y.node.primitive.name == "checkpoint"
    assert [n for n in history(y.node) if n.primitive is not None] == [y.node]


def test_recomputations_nest_repeat_and_take_plain_arguments():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    f = lambda x, n, flag: mg.checkpoint(lambda z: z * z, x) ** float(n) if flag else x
    y = mg.checkpoint(f, x, 2, True)
    first = mg.grad(y.sum(), x, create_graph=True)
    assert first.tolist() == [4.0, 32.0] and mg.grad(first.sum(), x).tolist() == [12.0, 48.0]
    again = mg.checkpoint(f, x, 2, True).sum()
    again.backward(retain_graph=True)
    again.backward()
    assert x.grad.tolist() == [8.0, 64.0]
    assert mg.checkpoint(lambda x: x, x).tolist() == [1.0, 2.0]
    empty = mg.zeros(0, 3, requires_grad=True)
    assert mg.grad(mg.checkpoint(mg.tanh, empty).sum(), empty).shape == (0, 3)
    with mg.no_grad():
        assert mg.checkpoint(f, x, 2, True).node is None
    assert mg.checkpoint(lambda x: x.detach() * 2.0, x).node is None


@pytest.mark.parametrize("look, where", [(contextlib.nullcontext, "mg.debug"), (mg.debug, "recorded by checkpoint at")])
def test_a_parameter_overwritten_before_the_replay_is_noticed(look, where):
    model = net()
    with look():
        loss = mg.checkpoint(model, mg.ones(5, 3)).sum()
        model[0].weight.update(mg.zeros(4, 3))
        with pytest.raises(RuntimeError, match=rf"checkpoint .*{where}.*kept '0.weight'"):
            loss.backward()


class Counting(nn.Module):
    """Doubles, and counts in one way or another how often."""

    def __init__(self, count):
        self.number, self.count = nn.Buffer(mg.zeros(1)), count

    def forward(self, x):
        self.count(self.number)
        return x * 2.0


def add_in_place(buffer):
    buffer.data += 1.0


def add_to_the_raw_array(buffer):
    buffer.data[...] += 1.0


def take_another_array(buffer):
    buffer.data = buffer.data + 1.0


@pytest.mark.parametrize(
    "count",
    [
        lambda b: b.update(b + 1.0), lambda b: b.__setitem__(..., b.detach() + 1.0), add_in_place, add_to_the_raw_array,
        take_another_array,
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: lambda x: f(x)])
def test_a_replay_leaves_buffers_as_they_were_however_they_are_written(count, wrap):
    layer, x = Counting(count), mg.ones(3, requires_grad=True)
    y = mg.checkpoint(wrap(layer), x).sum()
    array, version = layer.number.data, layer.number.version
    for _ in range(2):
        y.backward(retain_graph=True)
    assert layer.number.item() == 1.0 and layer.number.data is array and layer.number.version == version


class Following(nn.Module):
    """Takes a running mean off its input, as it is before or after this batch has moved it."""

    def __init__(self, move, reads_first):
        self.mean, self.count = nn.Buffer(mg.zeros(3)), nn.Buffer(mg.zeros(1))
        self.move, self.reads_first = move, reads_first

    def forward(self, x):
        mean = self.mean * 1.0
        self.move(self.mean, 0.5 * (self.mean + x.detach().mean(0)))
        self.count.update(self.count + 1.0)
        return mg.tanh(x - (mean if self.reads_first else self.mean) + self.count)


def add_the_difference(buffer, value):
    buffer.data += (value - buffer).data


@pytest.mark.parametrize(
    "move",
    [
        lambda b, v: b.update(v), lambda b, v: b.__setitem__(..., v), add_the_difference,
        lambda b, v: setattr(b, "data", v.data), lambda b, v: b.data.__setitem__(..., v.data), lambda b, v: None,
    ],
)  # fmt: skip
@pytest.mark.parametrize("reads_first", [True, False])
def test_a_replay_reads_buffers_as_the_forward_pass_found_them(move, reads_first):
    """Also where others have overwritten them since, and where it is one part of a larger replay."""
    x = mg.random.normal(4, 3, requires_grad=True)
    found = []
    for call in (lambda f, x: f(x), mg.checkpoint, lambda f, x: mg.checkpoint(lambda x: mg.checkpoint(f, x) * 1.0, x)):
        layer = Following(move, reads_first)
        ys = [call(layer, x), call(layer, x * 3.0)]
        moved = layer.mean.numpy().copy()
        layer.mean.update(layer.mean * 2.0 + 1.0)
        gradients = mg.grad((ys[0] * ys[1]).sum(), x, create_graph=True)
        found.append([*ys, gradients, mg.grad(gradients.sum(), x), mg.tensor(moved), layer.mean, layer.count])
    for plain, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_allclose(other.numpy(), plain.numpy(), rtol=1e-5, atol=1e-5)


def test_the_log_of_writes_has_each_batch_once_where_a_forward_is_run_again():
    layer, x = nn.BatchNorm1d(3), mg.random.normal(4, 3, requires_grad=True)
    with mg.debug() as session:
        mg.checkpoint(layer, x).sum().backward()
    assert [w.name for w in session.written] == ["'num_batches_tracked'", "'running_mean'", "'running_var'"]


def switched_off(x):
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    list(model.named_modules())
    yield model, "Linear '0' evaluates now, and was training; Dropout '1' evaluates"
    model.eval()


def switched_off_in_many_places(x):
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.ReLU())
    list(model.named_modules())
    yield model, "Linear '0' evaluates now, and was training; and 2 more of that kind"
    model.eval()


def frozen(x):
    layer = nn.Linear(3, 3).freeze()
    yield layer, "usually a frozen weight"
    layer.weight.update(layer.weight.detach() * 5.0)


def closed_over(x):
    factor = mg.ones(3)
    yield (lambda x: x * factor), "or a constant that the function reads was overwritten"
    factor[0] = 1.01


def resized(x):
    rows = [4]
    yield (lambda x: x[: rows[0]]), "usually a frozen weight"
    rows[0] = 3


def drawing(x):
    yield (lambda x: x * float(np.random.default_rng().uniform())), "random numbers that are not mg.random's"


@pytest.mark.parametrize("case", [switched_off, switched_off_in_many_places, frozen, closed_over, resized, drawing])
@pytest.mark.parametrize("differentiable", [False, True])
def test_a_replay_that_gives_something_else_is_refused_and_says_what_changed(case, differentiable):
    """Of what else the function reads no array is kept: without this the gradient would silently be wrong."""
    x = mg.random.normal(4, 3, requires_grad=True)
    story = case(x)
    f, says = next(story)
    y = mg.checkpoint(f, x).sum()
    next(story, None)
    with pytest.raises(RuntimeError, match=rf"checkpoint on line \d+ .*another result .*float32 \[4, 3\].*{says}"):
        mg.grad(y, x, create_graph=differentiable)
        mg.tensor(1.0).item()  # on a device the answer is looked at when a value crosses


@pytest.mark.parametrize("size", [0.0, 1.0, 1e3])
def test_a_replay_that_differs_by_rounding_alone_is_the_same(size):
    x, factors = mg.tensor([1.0, -2.0], requires_grad=True), iter([size, size * (1 + 1e-6)])
    y = mg.checkpoint(lambda x: x * next(factors), x).sum()
    assert mg.grad(y, x).tolist() == pytest.approx([size, size], rel=1e-5)


def test_a_replay_draws_what_was_drawn_whatever_other_threads_draw():
    layer, wrong = nn.Dropout(0.5), []

    def repeat():
        for _ in range(40):
            x = mg.ones(50, requires_grad=True)
            y = mg.checkpoint(lambda x: layer(mg.checkpoint(layer, layer(x))), x)
            wrong.append(mg.grad(y.sum(), x).tolist() != y.tolist())

    at_once(repeat, interval=1e-5)
    assert len(wrong) == 160 and not any(wrong)


def test_a_function_that_seeds_draws_the_same_again_and_disturbs_nobody():
    def f(x):
        mg.random.seed(7)
        return x * mg.random.bernoulli(0.5, 20)

    x = mg.ones(20, requires_grad=True)
    y = mg.checkpoint(f, x)
    mg.random.seed(8)
    expected = mg.random.normal(3).tolist()
    mg.random.seed(8)
    assert mg.grad(y.sum(), x).tolist() == y.tolist()
    assert mg.random.normal(3).tolist() == expected


def test_what_a_recomputation_cannot_do_is_said():
    x = mg.tensor([1.0], requires_grad=True)
    hidden = x * 2.0
    with pytest.raises(ValueError, match=r"checkpoint: the function uses <node \d+: multiply.*pass it as one"):
        mg.checkpoint(lambda z: z * hidden, x)
    with pytest.raises(TypeError, match=r"checkpoint: the function returns one Tensor, not tuple"):
        mg.checkpoint(lambda z: (z, z), x)


def test_in_debug_mode_an_optimizer_steps_on_parameters_that_a_tape_still_keeps() -> None:
    p = mg.Parameter(np.array([1.0, 2.0]))
    optimizer = mg.optim.SGD([("p", p)], lr=0.5)
    with mg.debug():
        loss = (p * p).sum()
        loss.backward(retain_graph=True)
        optimizer.step()
        np.testing.assert_array_equal(p.numpy(), [0.0, 0.0])
        with pytest.raises(RuntimeError, match="overwritten"):
            loss.backward()
