"""The tape made visible: program, table, paths, replay, drawings, and the errors of each."""

import contextlib
import html
import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from urllib.parse import unquote

import numpy as np
import pytest

import minigrad as mg
from minigrad import functional as F
from minigrad import nn, ops
from minigrad.backend import to_numpy
from minigrad.view import folding, layout, page, words


def batch_norm(x, gamma, beta, eps=1e-5):
    mean = mg.label(x.mean(0, keepdims=True), "mean")
    centred = mg.label(x - mean, "centred")
    var = mg.label((centred * centred).mean(0, keepdims=True), "var")
    scale = mg.label(gamma.reshape(1, -1) / mg.sqrt(var + eps), "scale")
    return centred * scale + beta.reshape(1, -1)


def batch_norm_tape():
    rng = np.random.default_rng(0)
    x = mg.tensor(rng.normal(size=(4, 3)), requires_grad=True)
    gamma = mg.tensor(np.array([1.0, 2.0, -0.5]), requires_grad=True)
    beta = mg.tensor(np.array([0.1, 0.2, 0.3]), requires_grad=True)
    weights = mg.tensor(rng.normal(size=(4, 3)))
    loss = (batch_norm(x, gamma, beta) * weights).sum()
    return loss, x, gamma, beta, mg.Tape(loss, x=x, gamma=gamma, beta=beta)


def test_program_has_a_row_for_every_node():
    *_, tape = batch_norm_tape()
    rows = str(tape).splitlines()
    assert len(rows) == len(tape) + 3
    assert rows[0].startswith("tape of result: 16 lines, 3 of them leaves; keeps 240 B")
    assert any("1e-5" in row and "add" in row for row in rows)


def test_program_shows_what_each_line_keeps():
    *_, tape = batch_norm_tape()
    assert tape["centred"].keeps == []
    assert tape[6].expression == "centred * centred"
    assert tape[6].keeps == [("centred", 96)]


def test_every_value_is_known_without_ceremony():
    loss, x, *_, tape = batch_norm_tape()
    assert set(tape.values) == set(tape.nodes)
    np.testing.assert_allclose(tape["var"].value.numpy()[0], x.numpy().var(0), rtol=1e-14)
    assert tape["result"].value.item() == loss.item()
    for line in tape.lines:
        np.testing.assert_array_equal(to_numpy(tape.recompute(line)), line.value.numpy())


def test_cotangents_are_those_of_backward():
    loss, x, gamma, beta, tape = batch_norm_tape()
    shown = {name: tape[name].cotangent.numpy().copy() for name in ("x", "gamma", "beta", "var", "mean")}
    loss.backward()
    for name, t in (("x", x), ("gamma", gamma), ("beta", beta)):
        np.testing.assert_array_equal(shown[name], t.grad.numpy())
    np.testing.assert_array_equal(shown["var"], mg.cotangent(loss, "var").numpy())
    np.testing.assert_array_equal(shown["mean"], mg.cotangent(loss, "mean").numpy())


def test_a_view_touches_no_gradient():
    *_, x, _, _, tape = batch_norm_tape()
    tape.table()
    tape.svg()
    assert x.grad is None


def test_steps_add_up_at_fan_out_points():
    *_, tape = batch_norm_tape()
    centred = [step for step in tape.steps if step.to == tape["centred"].number]
    assert [step.arrived for step in centred] == [1, 2, 3]
    outgoing = sum(to_numpy(step.outgoing) for step in centred)
    np.testing.assert_allclose(outgoing, to_numpy(centred[-1].running), rtol=1e-14)
    assert {step.rule for step in centred} == {"times scale", "times centred"}


def test_local_derivative_times_incoming_is_outgoing():
    *_, tape = batch_norm_tape()
    for step in tape.steps:
        if step.local is not None and step.local.shape == step.outgoing.shape:
            outgoing = to_numpy(step.incoming * step.local)
            np.testing.assert_allclose(outgoing, to_numpy(step.outgoing), rtol=1e-12, atol=1e-15)


def test_table_in_four_formats():
    *_, tape = batch_norm_tape()
    table = tape.table()
    assert "1/4 of it to each of the 4 elements averaged" in table.text()
    assert "| line | name | expression |" in table.markdown()
    assert r"$\frac{v_{8}}{v_{10}}$" in table.latex() and r"$\bar{\gamma}$" in table.latex()
    assert table.latex().count(r"\begin{longtable}") == table.latex().count(r"\end{longtable}") == 2
    body = ElementTree.fromstring(f"<div>{table.html()}</div>")
    assert len(body.findall("table")) == 2
    assert len(body.findall("table/tbody/tr")) == len(tape) + len(tape.steps)


@pytest.mark.parametrize(
    ("f", "expression", "latex"),
    [
        (lambda x: x * 123456789, "x * 123456789", r"x \odot 123456789"),
        (lambda x: x + 0.123456789, "x + 0.123456789", "x + 0.123456789"),
        (lambda x: x - 1e-5, "x - 1e-5", r"x - 10^{-5}"),
        (lambda x: x / -2.5e-7, "x / -2.5e-7", r"\frac{x}{-2.5 \cdot 10^{-7}}"),
        (lambda x: x * True, "x * True", r"x \odot \text{True}"),
        (lambda x: x * mg.tensor(0.1, dtype=mg.float64), "x * 0.1", r"x \odot 0.1"),
        (lambda x: x.mean(0), "mean(x, axis=0)", r"\overline{x}_{\text{axis}=0}"),
        (lambda x: x.sum((0, 1)), "sum(x, axis=(0, 1))", r"\sum_{\text{axis}=(0, 1)} x"),
        (lambda x: mg.flip(x, 1), "flip(x, axis=1)", r"\operatorname{flip}\left(x, \text{axis=1}\right)"),
        (lambda x: x**1.5, "x ** 1.5", "x^{1.5}"),
        (lambda x: x[:, ::-2], "x[:, ::-2]", r"\operatorname{take}\left(x, \text{index=(:, ::-2)}\right)"),
        (lambda x: x[..., None, 0], "x[..., None, 0]", r"x, \text{index=(..., None, 0)}\right)"),
    ],
)
def test_a_line_is_written_as_python_and_as_mathematics(f, expression, latex):
    x = mg.tensor(np.ones((2, 3)), requires_grad=True)
    tape = mg.Tape(f(x), mg.ones(*f(x).shape, dtype=mg.float64), x=x)
    assert tape[2].expression == expression
    assert np.array_equal(eval(expression, {**vars(mg), "x": x}).numpy(), f(x).numpy())
    assert f"{latex}$" in tape.table().latex()


def test_settings_that_stand_together_are_shown_by_their_names():
    x = mg.ones(1, 1, 4, 4, requires_grad=True)
    windows = "kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), out=(2, 2)"
    assert mg.Tape(F.max_pool2d(x, 2), mg.ones(1, 1, 2, 2), x=x)[2].expression == f"max_pool(x, {windows})"


@pytest.mark.parametrize(
    ("name", "latex"),
    [("v12", "v_{12}"), ("gamma", r"\gamma"), ("mu2", r"\mu_{2}"), ("mean", r"\text{mean}"), ("1", r"\text{1}"),
     ("10", r"\text{10}"), ("_", r"\text{\_}"), ("a^b", r"\text{a\textasciicircum{}b}")],
)  # fmt: skip
def test_a_name_in_mathematics(name, latex):
    assert words.latex_name(name) == latex


def test_table_of_a_vector_says_why_it_has_no_backward_part():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    assert "no backward part" in str(mg.Tape(mg.exp(x)).table())
    assert mg.Tape(mg.exp(x), mg.tensor([1.0, 0.0])).table().backward
    with pytest.raises(ValueError, match="make the view with a cotangent"):
        mg.Tape(mg.exp(x)).steps  # noqa: B018


@pytest.mark.parametrize(
    ("op", "text"),
    [("tanh", "g * (1 - y * y)"), ("exp", "g * y"), ("sqrt", "g / (2 * y)"), ("sigmoid", "g * (y * (1 - y))")],
)
def test_formula_is_read_from_the_table(op, text):
    assert words.formula(getattr(mg, op).primitive.pullbacks[0][0]) == text


ROWS = {value.primitive.name: value.primitive for value in vars(ops).values() if hasattr(value, "primitive")}


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.pullbacks])
def test_every_rule_of_the_table_is_said_in_words(name):
    row = ROWS[name]
    names = {argument: f"<{argument}>" for argument in row.arguments} | {"y": "<y>"}
    for i, plan in enumerate(row.pullbacks):
        said = words.rule_words(row, i, names, [f"<{s}>" for s in row.statics], 1)
        assert bool(said) is (plan is not None) and not said.startswith("becomes")


@pytest.mark.parametrize(
    ("f", "said"),
    [
        (mg.tanh, "times (1 - h**2)"),
        (mg.sqrt, "divided by (2 * h)"),
        (mg.relu, "passes where w > 0, is 0 elsewhere"),
        (lambda x: mg.elu(x, 0.5), "passes where w > 0, times (h + 0.5) elsewhere"),
        (lambda x: -x, "hands on its negative"),
        (lambda x: x / 4, "divided by 4"),
        (lambda x: 4 / x, "times -h / w"),
        (lambda x: x**3, "times 3 * w**(3 - 1)"),
    ],
)
def test_an_elementwise_rule_is_said_by_its_derivative(f, said):
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    assert mg.Tape(mg.label(f(x), "h").sum(), w=x).steps[-1].rule == said


@pytest.mark.parametrize(
    ("a", "b", "summed"),
    [
        ((2, 3), (3, 4), []), ((5, 2, 3), (5, 3, 4), []), ((5, 2, 3), (1, 3, 4), ["b"]), ((2, 3), (5, 3, 4), ["a"]),
    ],
)  # fmt: skip
def test_a_product_of_stacks_says_what_it_sums(a, b, summed):
    a, b = (mg.ones(*shape, requires_grad=True) for shape in (a, b))
    y = a @ b
    tape = mg.Tape(y, mg.ones(*y.shape), a=a, b=b)
    assert [tape[step.to].name for step in tape.steps if "then summed" in step.rule] == summed


@pytest.mark.parametrize("name", ["cube", "tanh", "take"])
def test_a_rule_of_ones_own_is_shown_in_the_lines_names(name):
    cube = mg.primitive(lambda x, n: x**n, lambda g, x, y, n: g * n * x ** (n - 1) + 0 * y, name=name, n=3)
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    step = mg.Tape(mg.label(cube(x), "h").sum(), w=x).steps[-1]
    assert step.rule == "becomes g * 3 * w ** (3 - 1) + 0 * h"


def test_paths_of_batch_norm():
    loss, x, *_, tape = batch_norm_tape()
    ways = {path.labels: path for path in tape.paths("x")}
    assert set(ways) == {
        ("centred",),
        ("mean", "centred"),
        ("centred", "var", "scale"),
        ("mean", "centred", "var", "scale"),
    }
    whole = mg.grad(loss, x, retain_graph=True).numpy()
    parts = sum(to_numpy(path.contribution) for path in ways.values())
    np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-14)
    assert abs(ways["mean", "centred", "var", "scale"].contribution).max() < 1e-14


def test_path_of_an_unknown_label_suggests_the_nearest():
    *_, tape = batch_norm_tape()
    with pytest.raises(KeyError, match="did you mean 'gamma'"):
        tape.paths("gama")
    with pytest.raises(KeyError, match="did you mean 'var'"):
        tape.paths("x", through=["vra"])


def test_a_result_that_its_row_did_not_keep_is_computed():
    x = mg.tensor([2.0, 4.0], requires_grad=True)
    y = (x / mg.tensor([4.0, 8.0])).sum()  # a quotient is kept for the divisor's gradient alone, here a constant's
    tape = mg.Tape(y)
    assert [to_numpy(value).tolist() for value in tape.values.values()] == [[2.0, 4.0], [0.5, 0.5], 1.0]


def test_replay_runs_the_same_program_on_new_values():
    loss, x, gamma, beta, tape = batch_norm_tape()
    new = mg.tensor(x.numpy() * 3 + 1, requires_grad=True)
    with mg.trace():
        again = batch_norm_tape()[0]
    assert again.item() == loss.item()
    replayed = tape.replay({x: new})
    weights = tape[15].node.residuals[0]
    expected = (batch_norm(new, gamma, beta) * mg.tensor(weights)).sum()
    assert replayed.item() == expected.item()
    first, second = mg.grad(replayed, new), mg.grad(expected, new)
    np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_the_functional_batch_norm_is_known_and_runs_again():
    rng = np.random.default_rng(1)
    x = mg.tensor(rng.normal(size=(6, 3)), requires_grad=True)
    y, _, _ = F.batch_norm(x, None, None)
    tape = mg.Tape((y * mg.tensor(rng.normal(size=(6, 3)))).sum(), x=x)
    assert set(tape.values) == set(tape.nodes)
    assert {"mean", "centred", "var", "scale"} <= set(tape.names.values())
    new = rng.normal(size=(6, 3))
    expected = (F.batch_norm(mg.tensor(new), None, None)[0] * mg.tensor(tape.nodes[-2].residuals[0])).sum()
    assert tape.replay({x: new}).item() == pytest.approx(expected.item(), rel=1e-12)


def test_replay_of_what_is_there_gives_the_same():
    loss, _, gamma, *_, tape = batch_norm_tape()
    assert tape.replay({}).item() == loss.item()
    assert tape.replay({"gamma": gamma.numpy()}).item() == loss.item()
    assert mg.Tape(tape.replay({"gamma": gamma.numpy()}))["var"].value is not None


def test_replay_refuses_shapes_and_intermediates():
    *_, tape = batch_norm_tape()
    with pytest.raises(ValueError, match=r"'x' is float64 \[4, 3\], not float64 \[5, 3\]"):
        tape.replay({"x": np.zeros((5, 3))})
    with pytest.raises(ValueError, match="only leaves take new values"):
        tape.replay({"var": np.zeros((1, 3))})


def test_replay_warns_where_indices_were_recorded():
    x = mg.tensor([[1.0, 3.0, 2.0]], requires_grad=True)
    tape = mg.Tape(x.max(1).sum(), x=x)
    with pytest.warns(UserWarning, match="1 line uses masks, indices"):
        tape.replay({"x": np.array([[5.0, 3.0, 2.0]])})


@pytest.mark.parametrize("f", [lambda x: x % 0.7, lambda x: 0.7 % x, lambda x: x - 0.7, lambda x: 0.7 / x])
def test_numbers_in_a_line_are_known_whichever_pullback_asks_for_them(f):
    x = mg.tensor([1.0, 3.0, 2.0], requires_grad=True)
    tape = mg.Tape(f(x).sum(), x=x)
    assert set(tape.values) == set(tape.nodes) and tape.replay({}).item() == f(x).sum().item()


def test_replay_computes_again_what_batch_norm_takes_for_a_constant(recwarn):
    rng = np.random.default_rng(0)
    x, new = (mg.tensor((1e4 + 1e-2 * rng.normal(size=(64, 3))).astype("f4"), requires_grad=True) for _ in range(2))
    y, fresh = F.batch_norm(x)[0], F.batch_norm(new)[0]
    replayed = mg.Tape(y, x=x).replay({"x": new})
    np.testing.assert_array_equal(replayed.numpy(), fresh.numpy())
    g = rng.normal(size=(64, 3)).astype("f4")
    pair = mg.grad(replayed, new, g, retain_graph=True), mg.grad(fresh, new, g)
    np.testing.assert_array_equal(*(dx.numpy() for dx in pair))
    np.testing.assert_array_equal(mg.Tape(replayed).replay({new: x}).numpy(), y.numpy())
    with mg.trace():
        again = F.batch_norm(x)[0]
    np.testing.assert_array_equal(mg.Tape(again, x=x).replay({"x": new}).numpy(), fresh.numpy())
    assert not recwarn.list


CHOSEN = {
    "detached": lambda x: x - x.max().detach(),
    "a function of a detached value": lambda x: x * mg.exp(2 * x.detach()),
    "a mask": lambda x: x * (x > 1.5),
    "a mask made of masks": lambda x: x * ((x > 1.5) & (x < 2.5)).astype(mg.float32),
    "a condition": lambda x: mg.where(x > 1.5, x, 0.0),
    "an index": lambda x: x[x.argmax()],
    "an index in another array": lambda x: x.reshape(1, 3)[0, mg.argsort(x).reshape(-1)[1:]],
    "sorting": lambda x: x.sort()[:2],
    "a rounded number": lambda x: x * x.astype(mg.int64),
}
GIVEN = {
    "an array": lambda x: x * mg.tensor([2.0, 1.0, 0.0]),
    "labels": lambda x: F.cross_entropy(x.reshape(1, 3), mg.tensor([2])),
    "labels, some ignored": lambda x: F.cross_entropy(mg.stack([x, x]), mg.tensor([2, -100])),
    "a mask of labels": lambda x: x * (mg.tensor([0, 1, 1]) == 1),
    "dropout": lambda x: F.dropout(x, 0.5),
}


@pytest.mark.parametrize("what", CHOSEN)
def test_replay_warns_where_a_constant_was_computed_from_what_is_on_the_tape(what):
    x = mg.tensor([1.0, 3.0, 2.0], requires_grad=True)
    with pytest.warns(UserWarning, match=r"replay: \d lines? uses? masks, indices or detached values"):
        mg.Tape(CHOSEN[what](x).sum(), x=x).replay({"x": [5.0, 3.0, 2.0]})


@pytest.mark.parametrize("what", GIVEN)
def test_replay_takes_what_was_given_for_data(what, recwarn):
    x = mg.tensor([1.0, 3.0, 2.0], requires_grad=True)
    mg.Tape(GIVEN[what](x).sum(), x=x).replay({"x": [5.0, 3.0, 2.0]})
    assert not recwarn.list


@pytest.mark.parametrize(
    ("new", "error", "text"),
    [
        (np.ones(3), TypeError, "needs a mapping from leaves"),
        ({"x": np.ones((4, 3)) * 1j}, TypeError, "'x' takes real numbers, not complex128"),
        ({"x": "abc"}, (TypeError, ValueError), "replay: 'x'"),
        ({"x": np.ones((4, 3)), 1: np.ones((4, 3))}, ValueError, r"'x' \(line 1\) is given two new values"),
    ],
)
def test_replay_refuses_what_are_no_new_values(new, error, text):
    with pytest.raises(error, match=text):
        batch_norm_tape()[-1].replay(new)


def test_a_constant_that_nothing_kept_is_named():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    target = mg.tensor([0.5, 0.5])
    tape = mg.Tape((x - target).sum(), x=x)
    assert "not kept" in str(tape.table())
    with pytest.raises(RuntimeError, match="was not kept"):
        tape[2].value  # noqa: B018
    with pytest.raises(RuntimeError, match=r"with mg.trace\(\)"):
        tape.replay({x: [3.0, 4.0]})
    with mg.trace():
        tape = mg.Tape((x - target).sum(), x=x)
    assert tape.replay({x: [3.0, 4.0]}).item() == 6.0


def test_a_freed_tape_says_so():
    loss, *_ = batch_norm_tape()
    loss.backward()
    assert "lines were freed" in str(mg.Tape(loss))
    for ask in (mg.Tape(loss).table, lambda: mg.Tape(loss).paths(1), lambda: mg.Tape(loss).steps):
        with pytest.raises(RuntimeError, match=r"freed; pass retain_graph=True"):
            ask()


def test_a_leaf_overwritten_since_is_noticed():
    b = mg.Parameter(np.array([1.0, 2.0]))
    loss = mg.exp(b + 1.0).sum()
    tape, late = mg.Tape(loss), mg.Tape(loss)
    assert tape[2].value.tolist() == [2.0, 3.0]
    b.update(np.array([5.0, 5.0]))
    with pytest.warns(UserWarning, match="a leaf was overwritten since"):
        assert late[2].value.tolist() == [6.0, 6.0]


def a_step_after_the_backward_pass(traced=False):
    """A loss whose tape was kept, a weight of an optimizer's step since, the weight as it was, and the trace."""
    mg.random.seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    optimizer = mg.optim.SGD(model.named_parameters(), lr=1.0)
    x, labels = mg.random.normal(6, 4), mg.tensor([0, 1, 2, 0, 1, 2])
    with mg.trace(model) if traced else contextlib.nullcontext() as t:
        loss = F.cross_entropy(model(x), labels)
        loss.backward(retain_graph=True)
        before = model[0].weight.numpy().copy()
        optimizer.step()
    return loss, model[0].weight, before, t


@pytest.mark.parametrize(
    "ask", [lambda tape: tape["0.weight"].cotangent, lambda tape: tape.paths("0.weight"), lambda tape: tape.table()]
)
@pytest.mark.filterwarnings("ignore:Tape")
def test_cotangents_of_overwritten_values_are_refused_as_backward_refuses_them(ask):
    loss, weight, *_ = a_step_after_the_backward_pass()
    with pytest.raises(RuntimeError, match=r"kept '2.weight'.*overwritten by") as refused:
        mg.grad(loss, weight, retain_graph=True)
    with pytest.raises(RuntimeError, match=re.escape(str(refused.value))):
        ask(mg.Tape(loss))
    assert "kept '2.weight'" in page.contents(mg.Tape(loss), None)["note"]
    assert "no cotangents" in mg.Tape(loss).svg()


def test_a_trace_keeps_values_as_they_were_before_the_step(recwarn):
    loss, _, before, t = a_step_after_the_backward_pass(traced=True)
    np.testing.assert_array_equal(t["0.weight"].value.numpy(), before)
    tape = mg.Tape(loss)
    np.testing.assert_array_equal(tape["0.weight"].value.numpy(), before)
    for line in tape.lines:
        np.testing.assert_array_equal(to_numpy(tape.recompute(line)), line.value.numpy())
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [mg.float64, "float64", np.dtype("float64"), np.float64])
def test_a_dtype_is_written_by_its_name(dtype):
    tape = mg.Tape(mg.tensor([1.0, 2.0], requires_grad=True).astype(dtype).sum())
    assert tape[2].expression == "astype(x1, dtype=float64)"
    assert tape.table().latex() and tape.svg() and tape.dot()


def test_names():
    loss, x, *_, tape = batch_norm_tape()
    assert tape[x].name == "x" and tape["x"].number == 1 and tape[1].op == "leaf"
    with pytest.raises(KeyError, match="did you mean 'centred'"):
        tape["centered"]
    with pytest.raises(IndexError, match="numbered 1 to 16"):
        tape[17]
    with pytest.raises(ValueError, match=r"is not on the tape of this float64 \[\] result"):
        tape[mg.tensor([1.0], requires_grad=True)]
    with pytest.raises(ValueError, match="w="):
        mg.Tape(loss, w=mg.tensor([1.0]))
    with pytest.raises(RuntimeError, match="not on the tape"):
        mg.Tape(mg.tensor([1.0]))


def test_automatic_names_give_way_to_given_ones():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    h = mg.label(x * 2, "v3")
    tape = mg.Tape((mg.label(h * h, "result") * x).sum(), x1=x)
    assert [line.name for line in tape] == ["x1", "v3", "result", "v4", "result_"]
    assert tape["v3"].number == 2 and tape["result"].number == 3
    assert [line.name for line in mg.Tape((mg.label(x * 2, "x1") * mg.exp(x)).sum())][:2] == ["x1_", "x1"]
    assert [line.name for line in mg.Tape((mg.label(x * 2, "v3") * mg.exp(x)).sum())][1:4] == ["v3", "v3_", "v4"]


def test_a_keyword_and_a_label_are_one_name_for_two():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    a, b = mg.label(mg.exp(x), "h"), mg.tanh(x)
    tape = mg.Tape((a * b).sum(), h=b, y=x, self=a)
    assert tape["y"].node is x.node and tape["self"].node is a.node
    tape = mg.Tape((a * b).sum(), h=b)
    with pytest.raises(KeyError, match=r"'h' names 2 nodes: 'h#1' \(line 2\), 'h#2' \(line 3\)"):
        tape["h"]


def test_a_tape_is_a_sequence_of_lines():
    loss, x, *_, tape = batch_norm_tape()
    assert [line.number for line in tape] == list(range(1, 17))
    assert tape[np.int64(3)].number == 3
    for key, held in (("var", True), ("x", True), ("nothing", False), (x, True), (mg.ones(1), False), (tape[2], True)):
        assert (key in tape) is held
    assert mg.Tape(loss)[2] not in tape and np.ones(3) not in tape
    for key in (1.5, None, True, slice(1, 3), np.ones(3)):
        with pytest.raises(TypeError, match="a line has a name, a number and a Tensor"):
            tape[key]


def test_a_keyword_names_a_waypoint():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    h = mg.tanh(x)
    tape = mg.Tape((h * 3).sum() + x.sum(), w=x, h=h)
    assert [str(path).split(":")[0] for path in tape.paths("w")] == ["w -> result", "w -> h -> result"]
    for through in (["h"], "h", [h], [tape["h"].number], [np.int64(2)]):
        assert {path.labels for path in tape.paths(x, through=through)} == {(), ("h",)}
    sums = {path.labels for path in mg.Tape((h * 3).sum() + x.sum()).paths(x)}
    assert sums == {("v4",), ("v5",)}
    with pytest.raises(ValueError, match="w, which through= asks for, lies on no way from y back to x"):
        tape.paths("h", through=["w"])
    assert page.way_edges(tape, x.node, ["h"]) == [(1, 2), (2, 3), (3, 4), (4, 6)]


def test_a_label_to_tell_ways_apart_by_stands_for_all_lines_that_have_it():
    h = x = mg.tensor([1.0, 2.0], requires_grad=True)
    for _ in range(3):
        h = mg.label(mg.label(h * 2, "z") + 1, "h")
    assert [way.labels for way in mg.Tape(h.sum()).paths(x, through="h")] == [("h#1", "h#2", "h#3")]


def test_a_table_counts_what_is_not_finite(recwarn):
    x = mg.tensor([[0.0, 1.0, -1.0, 2.0], [4.0, 4.0, 4.0, 4.0]], requires_grad=True)
    with np.errstate(all="ignore"):
        table = mg.Tape((mg.log(x)).sum()).table(elements=3)
    recwarn.clear()
    assert table.forward[1][4] == "2 of 8 not finite, mean 1.04, std 0.5294, 0 to 1.386"
    assert words.short(np.array([np.nan] * 9)) == "9 of 9 not finite"
    assert words.short(np.array([np.inf] + [2.0] * 8)) == "1 of 9 not finite, else 2"
    assert not recwarn.list


def test_a_label_on_two_nodes_is_refused():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    a = mg.label(mg.exp(x), "a")
    tape = mg.Tape(mg.label(a * 2, "a").sum())
    with pytest.raises(KeyError, match="'a' names 2 nodes: 'a#1' \\(line 2\\), 'a#2' \\(line 3\\)"):
        tape["a"]
    assert tape["a#2"].number == 3


def test_svg_is_well_formed_and_has_the_numbers():
    *_, tape = batch_norm_tape()
    root = ElementTree.fromstring(tape.svg())
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f".//{space}circle")) == 13
    texts = [text.text for text in root.iter(f"{space}text")]
    assert {"mean", "centred", "var", "scale", "gamma"} <= set(texts)


def test_svg_is_written_to_a_file(tmp_path):
    *_, tape = batch_norm_tape()
    text = tape.svg(tmp_path / "bn.svg")
    assert (tmp_path / "bn.svg").read_text() == text


def test_dot_names_every_line():
    *_, tape = batch_norm_tape()
    text = tape.dot()
    assert text.startswith("digraph tape {") and text.count("->") == 17 and text.count("[shape=") == 16


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_draws_it():
    *_, tape = batch_norm_tape()
    assert "<svg" in tape.svg(graphviz=True)


def test_without_graphviz_the_error_says_what_to_do(monkeypatch):
    *_, tape = batch_norm_tape()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="draws without it"):
        tape.svg(graphviz=True)


def test_a_large_tape_is_folded_and_says_so():
    x = mg.tensor(np.ones(3), requires_grad=True)
    y = x
    for _ in range(500):
        y = y * 1.001
    tape = mg.Tape(y.sum())
    items = folding.groups(tape)
    assert sum(len(item.lines) for item in items) == len(tape) and len(items) < 20
    for text in (tape.svg(), tape.dot(), page.contents(tape, None)["note"].lower()):
        assert "folded by number: 502 lines are too many to draw one by one" in text


def test_a_long_loop_has_a_bounded_number_of_boxes():
    model, y = nn.Linear(2, 2), mg.ones(1, 2)
    with mg.trace(model) as t:
        for _ in range(301):
            y = mg.tanh(model(y)) + y
    x, z = mg.tensor(0.1, requires_grad=True), 0.0
    for _ in range(3000):
        z = z * x
    for tape in (t.tape(y.sum()), mg.Tape(z)):
        items = folding.groups(tape)
        assert len(items) < 100 and sum(len(item.lines) for item in items) == len(tape)
        assert folding.folding(tape, items).startswith("folded by number")


def test_a_box_of_many_lines_stays_closed():
    model, y = nn.Sequential(nn.Linear(2, 2)), mg.ones(1, 2)
    with mg.trace(model) as t:
        for _ in range(80):
            y = model(y)
    found = page.contents(t.tape(y.sum()), None)
    assert [item["inner"] for item in found["items"] if item["title"] == "0"] == [None]
    assert found["note"].endswith("One of more than 200 lines stays closed.")


def test_a_page_of_very_many_lines_is_sparing_and_says_so(tmp_path, monkeypatch):
    y = x = mg.tensor(np.ones((5, 5)), requires_grad=True)
    for _ in range(100):
        y = y * 2
    tape = mg.Tape(y.sum())
    tape.save_html(tmp_path / "all.html")
    monkeypatch.setattr(page, "MANY", 80)
    with pytest.warns(UserWarning, match="this page has 102 lines"):
        tape.save_html(tmp_path / "sparing.html")
    found = page.contents(tape, [tape[x]])
    assert all(item["inner"] is None for item in found["items"])
    assert all(picture["shape"] in ([], [5, 5]) and len(picture["cells"]) <= 2 for picture in found["pictures"])
    assert "Boxes stay closed, and pictures are small." in found["note"]
    assert (tmp_path / "sparing.html").stat().st_size < (tmp_path / "all.html").stat().st_size


def test_the_edges_of_one_item_share_their_dummies():
    chain = [(i, i + 1) for i in range(1, 50)]
    places = layout.layout(51, [*chain, *((0, i) for i in range(1, 51))])
    assert len(places.x) == 51 + 49


def test_layout_keeps_a_distance_and_the_direction():
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3), (4, 3), (3, 5)]
    places = layout.layout(6, edges)
    assert all(places.x[a] < places.x[b] for a, b in edges)
    for row in places.layers:
        heights = [places.y[i] for i in row]
        assert all(b - a > 0.999 for a, b in itertools.pairwise(heights))


def test_spaced_is_the_least_squares_placement():
    assert layout.spaced([0.0, 0.0, 0.0]) == [-1.0, 0.0, 1.0]
    assert layout.spaced([0.0, 5.0]) == [0.0, 5.0]


def test_a_recomputed_part_is_shown_and_runs_again():
    mg.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).to_dtype(mg.float64)
    x = mg.tensor(np.arange(12.0).reshape(4, 3), requires_grad=True)
    tape = mg.Tape((mg.checkpoint(model, x) * mg.checkpoint(lambda a, n: a.sum() * n, x, 2)).sum(), x=x)
    state = mg.random.state()
    table = tape.table()
    assert "checkpoint(x, 2, f=<lambda>)" in table.text() and "f=Sequential" in table.text()
    assert "through a new recording of the function" in table.text() and table.latex() and tape.svg()
    for line in tape:
        np.testing.assert_array_equal(to_numpy(tape.recompute(line)), line.value.numpy())
    assert tape.replay({"x": x.numpy()}).item() == tape["result"].value.item()
    doubled = tape.replay({"x": 2 * x.numpy()})
    assert doubled.item() == pytest.approx(2 * tape["result"].value.item(), rel=1e-5)  # BatchNorm takes the factor away
    with pytest.raises(RuntimeError, match=r"Sequential uses .*'0.weight'.* make it an argument"):
        tape.replay({model[0].weight: np.ones((4, 3))})
    assert mg.random.state() == state and model[1].num_batches_tracked.item() == 1


# ---- the page --------------------------------------------------------------------------------------


def net_loss(look_on=lambda model: contextlib.nullcontext()):
    mg.random.seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    with look_on(model):
        return F.cross_entropy(model(mg.random.normal(5, 1, 6, 6)), mg.tensor([0, 1, 2, 3, 0]))


def traced_net():
    return net_loss(mg.trace)


def test_page_needs_nothing_from_outside(tmp_path):
    *_, tape = batch_norm_tape()
    tape.save_html(tmp_path / "tape.html", "BatchNorm & <friends>")
    text = (tmp_path / "tape.html").read_text()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "") and "src=" not in text and "@import" not in text
    assert "<title>BatchNorm &amp; &lt;friends&gt;</title>" in text
    assert [file.name for file in tmp_path.iterdir()] == ["tape.html"]


def test_page_contents_are_the_tapes():
    loss, *_, tape = batch_norm_tape()
    found = json.loads(json.dumps(page.contents(tape, None)))
    assert len(found["lines"]) == 16 and len(found["steps"]) == len(tape.steps)
    assert [split["leaf"] for split in found["paths"]] == ["x", "gamma", "beta"]
    assert found["pictures"][found["lines"][15]["value"]]["few"] == [words.number(loss.item())]
    assert all(step["incoming"] == found["lines"][step["line"] - 1]["cotangent"] for step in found["steps"])
    shares = [way["share"] for way in found["paths"][0]["ways"]]
    assert sum(shares) == pytest.approx(1.0)


def test_page_splits_the_gradients_that_are_asked_for(tmp_path):
    *_, tape = batch_norm_tape()
    for asked in (["gamma"], "gamma", [tape["gamma"].number]):
        tape.save_html(tmp_path / "tape.html", paths=asked)
        text = (tmp_path / "tape.html").read_text()
        assert '"paths":[{"leaf":"gamma"' in text and '{"leaf":"x"' not in text


def test_page_draws_the_ways_of_a_gradient_to_one_scale():
    found = page.contents(batch_norm_tape()[-1], None)
    ways = {tuple(way["labels"]): way["picture"] for way in found["paths"][0]["ways"]}
    levels = {labels: np.abs(found["pictures"][n]["cells"]).max() for labels, n in ways.items()}
    assert max(levels.values()) == 127 and levels["mean", "centred", "var", "scale"] == 0


def test_page_lights_the_edges_of_a_path_only():
    *_, tape = batch_norm_tape()
    n = {name: tape[name].number for name in ("x", "mean", "centred", "var", "scale")}
    direct = page.way_edges(tape, tape["x"].node, ["centred"])
    assert (n["x"], n["centred"]) in direct and not any(n["mean"] in e or n["var"] in e for e in direct)
    inner = page.way_edges(tape, tape["x"].node, ["mean", "centred", "var", "scale"])
    assert (n["x"], n["mean"]) in inner and (n["x"], n["centred"]) not in inner and (n["centred"], 12) not in inner
    assert page.way_edges(tape, tape["x"].node, ["scale"]) == []


@pytest.mark.parametrize("save", [mg.Tape.save_html, mg.Tape.svg])
def test_nothing_is_half_written(tmp_path, monkeypatch, save):
    *_, tape = batch_norm_tape()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    (tmp_path / "there").write_text("before")
    for name in ("tape", "there"):
        with pytest.raises(OSError, match="disk full"):
            save(tape, tmp_path / name)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("there", "before")]


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda tape: tape.save_html("nowhere/tape.html"), FileNotFoundError, "there is no folder nowhere"),
        (lambda tape: tape.svg("."), IsADirectoryError, "is a folder; give the name of a file"),
        (lambda tape: tape.table(-1), ValueError, "table: elements must be at least 0, not -1"),
        (lambda tape: tape.table("all"), TypeError, "table: elements must be a whole number, not 'all'"),
        (lambda tape: tape.paths("x", limit=0), ValueError, "paths: limit must be at least 1, not 0"),
        (lambda tape: mg.Tape(tape.y, mg.ones(2)), ValueError, r"the cotangent has shape \[2\], the result \[\]"),
        (lambda tape: tape[mg.ones(2)], ValueError, "On the tape are x, gamma, beta, mean, centred, var, scale"),
    ],
)
def test_bad_arguments_are_refused_by_name(ask, error, words):
    with pytest.raises(error, match=words):
        ask(batch_norm_tape()[-1])


def test_page_of_a_freed_or_unreduced_tape_says_so():
    loss, *_ = batch_norm_tape()
    loss.backward()
    assert "No reverse pass" in page.contents(mg.Tape(loss), None)["note"]


def test_page_groups_lines_by_layer():
    tape = mg.Tape(traced_net())
    titles = [item["title"] for item in page.contents(tape, None)["items"] if item["group"]]
    assert titles == ["0", "1", "2", "3", "4"]


def test_a_model_that_nobody_traced_is_grouped_by_its_parameters_names():
    tape = mg.Tape(net_loss())
    assert {line.name for line in tape if line.op == "leaf"} >= {"0.weight", "1.bias", "4.weight"}
    items = folding.groups(tape, fold=True)
    assert [item.title for item in items if item.group] == ["0", "1", "4"]
    assert "as the parameters' names tell (mg.trace(model) tells" in folding.folding(tape, items)
    traced = mg.Tape(traced_net())
    assert folding.folding(traced, folding.groups(traced, fold=True)).startswith("folded by layer: ")
    assert folding.folding(traced, folding.groups(traced, fold=False)) == ""


def test_a_box_says_what_is_in_it():
    def told(tape):
        return [folding.told(tape, item) for item in folding.groups(tape, fold=True) if item.group]

    assert told(mg.Tape(traced_net())) == ["conv", "BatchNorm2d", "relu", "reshape", "Linear"]
    assert all(re.fullmatch(r"\d+ lines", text) for text in told(mg.Tape(net_loss())))


def test_pictures_keep_what_is_not_finite():
    found = page.picture(np.array([[1.0, np.nan], [-2.0, np.inf]]), (4, 4))
    assert found["bad"] == 2 and found["cells"] == [[64, None], [-127, None]]
    assert page.picture(np.zeros((100, 100)), (24, 32))["cells"] == [[0] * 32] * 24


HOSTILE = [
    "</script><script>alert(1)</script>", "<!--<script>", "/*DATA*/", "TITLE", 'a\\"b', "\\N", "back\\", "new\nline",
    "\x00\x1b[31m", "pipe|x", "\u202ertl", "\ud800", "{x}{0}%s$_^~&#",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_any_label_and_title_can_be_shown(tmp_path, name):
    x = mg.label(mg.tensor([1.0, 2.0], requires_grad=True), name)
    tape = mg.Tape(mg.label(mg.tanh(x * 2), name + "/h").sum())
    tape.save_html(tmp_path / "tape.html", name)
    text = (tmp_path / "tape.html").read_text("utf-8")
    data = text.split('id="data">')[1].split("</script>")[0]
    assert text.count("</script>") == 3 and "<" not in data
    shown = words.printable(name)
    assert json.loads(data)["lines"][0]["name"] == shown == tape[name].name
    assert f"<title>{html.escape(shown)}</title>" in text and tape.paths(1)[0].ends[0] == shown
    ElementTree.fromstring(tape.svg())
    rows = tape.table().markdown().splitlines()
    assert all(row.startswith(("|", "**")) for row in rows if row)
    assert not re.search(r"(?<!\\)[<`_]", "".join(rows))
    assert tape.dot().count("\n") == 2 + 1 + 4 + 3 + 1
    if shutil.which("dot") is not None:
        assert shown in html.unescape(tape.svg(graphviz=True)).replace("\xa0", " ")


def test_pictures_and_statistics_of_the_largest_numbers():
    top = np.finfo(np.float64).max
    found = page.picture(np.array([top, -top, top / 2, 0.0]), (4, 4))
    assert found["cells"] == [[127, -127, 64, 0]] and sum(found["hist"]) == 4 and found["hist"][0] == 1
    assert found["mean"] == words.number(top / 8) and found["std"] == words.number(top / 8 * 35**0.5)
    assert words.statistics(np.array([5e-324, 0.0])) == (0.0, 5e-324, 0.0, 0.0)


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
    "--virtual-time-budget=3000", "--dump-dom",
]  # fmt: skip


def browse(tmp_path, tape, script, width=None):
    """What `script` writes down as JSON while the page is open in a browser; the browser may not complain.

    width: of a frame of so many pixels and 844 in height, for the page to stand in.
    """
    tape.save_html(tmp_path / "tape.html")
    text = (tmp_path / "tape.html").read_text("utf-8")
    written = f"encodeURIComponent(JSON.stringify((() => {{{script}}})()))"
    report = f"<script>window.top.document.body.dataset.report = {written};</script>"
    text = text.replace("</body>", report + "</body>")
    if width is not None:
        text = f'<body><iframe width={width} height=844 style="border:0" srcdoc="{html.escape(text)}"></iframe></body>'
    (tmp_path / "driven.html").write_text(text, "utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "driven.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "CONSOLE" not in done.stderr and "Uncaught" not in done.stderr, done.stderr
    found = re.search(r'data-report="([^"]*)"', done.stdout)
    assert found, done.stdout[:2000]
    return json.loads(unquote(found.group(1)))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_browser_slider_and_paths(tmp_path):
    *_, tape = batch_norm_tape()
    report = browse(
        tmp_path,
        tape,
        """
        const count = (q) => document.querySelectorAll(q).length, slider = document.getElementById("slider");
        const seen = {nodes: count(".node"), edges: count(".edge"), before: count(".edge.now")};
        slider.value = 3; slider.dispatchEvent(new Event("input"));
        seen.at = document.getElementById("at").textContent; seen.now = count(".edge.now");
        seen.done = count(".edge.done");
        slider.value = slider.max; slider.dispatchEvent(new Event("input"));
        seen.end = count(".edge.now") + count(".edge.done");
        seen.under = [...document.querySelectorAll('[data-line="7"] .sub')].map((e) => e.textContent);
        document.querySelectorAll(".way")[3].click();
        seen.lit = count(".edge.lit"); seen.ways = count(".way");
        document.querySelectorAll(".way")[3].click();
        seen.dark = count(".edge.lit");
        document.querySelector('[data-line="7"]').dispatchEvent(new MouseEvent("mouseenter"));
        seen.detail = document.querySelector("#detail h2").textContent; seen.maps = count("#detail canvas");
        return seen;
        """,
    )
    assert report["nodes"] == 16 and report["edges"] == report["end"] == 17 and report["before"] == 0
    assert report["at"].startswith(f"step 3 of {len(tape.steps)}") and (report["now"], report["done"]) == (1, 2)
    assert report["ways"] == 6 and report["lit"] > 5 and report["dark"] == 0
    assert report["detail"] == "line 7: var" and report["maps"] == 2
    texts = [[float(number) for number in text.split(", ")] for text in report["under"]]
    numbers = [tape["var"].value.numpy().ravel(), tape["var"].cotangent.numpy().ravel()]
    np.testing.assert_allclose(texts, numbers, rtol=5e-3)  # three digits


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_browser_folds_layers(tmp_path):
    report = browse(
        tmp_path,
        mg.Tape(traced_net()),
        """
        const count = (q) => document.querySelectorAll(q).length, seen = {};
        document.getElementById("fold").click(); seen.folded = count(".node");
        document.querySelectorAll(".node.group")[1].dispatchEvent(new MouseEvent("mouseenter"));
        seen.inside = document.querySelector("#detail h2").textContent + count("#detail dt");
        document.querySelectorAll(".node.group")[1].dispatchEvent(new MouseEvent("click", {bubbles: true}));
        seen.opened = count(".node"); seen.open = count(".node.open");
        document.getElementById("unfold").click(); seen.all = count(".node:not(.group)");
        return seen;
        """,
    )
    assert report["inside"] == "inside 112"
    assert report["open"] == 1 and report["folded"] < report["opened"] < report["all"]
    assert report["all"] == len(mg.Tape(traced_net()))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_browser_breaks_a_long_chain_as_lines_of_text(tmp_path):
    report = browse(
        tmp_path,
        mg.Tape(traced_net()),
        """
        document.getElementById("fold").click();
        const folded = [...document.querySelectorAll(".node.group")].map((e) => e.getBoundingClientRect());
        const edges = [...document.querySelectorAll(".edge")].map((e) => e.getAttribute("d"));
        return {places: folded.map((box) => [box.left, box.right, box.top]), edges};
        """,
        width=390,
    )
    assert all(0 <= left < right <= 390 for left, right, _ in report["places"])
    tops = [top for *_, top in report["places"]]
    assert tops == sorted(tops) and len(set(tops)) > 1
    assert any("H" in path for path in report["edges"]) and not any("NaN" in path for path in report["edges"])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_browser_keyboard(tmp_path):
    report = browse(
        tmp_path,
        mg.Tape(traced_net()),
        """
        const all = (q) => [...document.querySelectorAll(q)], seen = {};
        const press = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
        document.getElementById("fold").click();
        seen.reached = all(".node").every((e) => e.tabIndex === 0 && e.getAttribute("role") === "button");
        const box = all(".node.group")[1]; box.focus();
        seen.inside = document.querySelector("#detail h2").textContent;
        press(box, "Enter");
        seen.open = [all(".node.open").length, document.activeElement.getAttribute("aria-expanded")];
        const line = all(".node:not(.group)").find((e) => e.getAttribute("aria-label").startsWith("line 9:"));
        line.focus(); seen.detail = document.querySelector("#detail h2").textContent;
        press(line, " "); seen.kept = all(".node.kept").length; press(line, "x"); press(line, " ");
        seen.let = all(".node.kept").length;
        return seen;
        """,
    )
    assert report["reached"] and report["inside"] == "inside 1" and report["open"] == [1, "true"]
    assert report["detail"].startswith("line 9: 1/") and (report["kept"], report["let"]) == (1, 0)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_browser_on_a_small_screen(tmp_path):
    script = """
        const box = (q) => document.querySelector(q).getBoundingClientRect(), root = document.documentElement;
        const slider = document.getElementById("slider");
        slider.value = 3; slider.dispatchEvent(new Event("input"));
        return {page: root.scrollWidth, graph: [box("#graph").width, box("#graph").height], at: box("#at").right,
                aside: [box("aside").width, box("aside").top - box("#graph").bottom], slider: box("#slider").width};
        """
    small = browse(tmp_path, batch_norm_tape()[-1], script, width=390)
    assert small["page"] <= 390 and small["graph"][0] >= 370 and small["graph"][1] > 400 and small["at"] <= 390
    assert small["aside"][0] >= 370 and small["aside"][1] >= 0 and small["slider"] > 150
    large = browse(tmp_path, batch_norm_tape()[-1], script, width=1200)
    assert large["graph"][0] > 800 and large["aside"][0] == 360


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("name", HOSTILE[:3])
def test_browser_shows_any_label(tmp_path, name):
    x = mg.label(mg.tensor(np.zeros((0, 3)), requires_grad=True), name)
    script = """
        document.querySelector('[data-line="1"]').dispatchEvent(new MouseEvent("mouseenter"));
        return [document.querySelectorAll(".node").length, document.getElementById("detail").textContent];
        """
    nodes, detail = browse(tmp_path, mg.Tape((x * 2).sum()), script)
    assert nodes == 3 and name in detail and "empty [0, 3]" in detail
