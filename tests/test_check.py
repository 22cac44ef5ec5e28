"""The checker itself: every row passes it, planted errors fail it by name, and bad input is told clearly."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from examples import check_your_batchnorm
from minigrad import backend, functional, fused, ops
from minigrad.check import CannotRun, Finding, Report, assert_gradient, assert_hand_gradient
from minigrad.check.oracles import central, complex_step, richardson
from minigrad.pooling import Windows
from tests.samples import SAMPLES

rng = np.random.default_rng(0)
X, GAMMA, BETA = rng.normal(size=(6, 4)) * 2 + 1, rng.normal(size=4) + 0.1, rng.normal(size=4)
BN = (X, GAMMA, BETA)


def forward(x, gamma, beta):
    mu = np.mean(x, axis=0)
    xmu = x - mu
    var = np.mean(xmu**2, axis=0)
    std = np.sqrt(var + 1e-5)
    xhat = xmu / std
    return gamma * xhat + beta, (xhat, xmu, std, gamma)


def right(g, cache):
    xhat, _, std, gamma = cache
    d = g * gamma
    return (d - d.mean(0) - xhat * (d * xhat).mean(0)) / std, (g * xhat).sum(0), g.sum(0)


def without_variance(g, cache):
    _, dgamma, dbeta = right(g, cache)
    d = g * cache[3]
    return (d - d.mean(0)) / cache[2], dgamma, dbeta


def only(report):
    (finding,) = report.mistakes
    return finding


# ---- gradcheck ---------------------------------------------------------------------------------------
DIFFERENTIABLE = [
    s
    for s in SAMPLES
    if getattr(getattr(getattr(ops, s.name, None), "primitive", None), "kind", "") != "discrete"
    and any(a.dtype.kind == "f" and a.size for a in s.arrays)
]


@pytest.mark.host("the samples' calls hold NumPy's indices")
@pytest.mark.parametrize("sample", DIFFERENTIABLE, ids=str)
def test_every_row_of_the_table_agrees_with_numbers(sample):
    assert mg.gradcheck(sample.call, sample.arrays)


def test_every_row_with_a_derivative_has_a_sample_here():
    rows = {
        name
        for name, value in vars(ops).items()
        if getattr(getattr(value, "primitive", None), "kind", "discrete") != "discrete"
    }
    assert rows <= {sample.name for sample in DIFFERENTIABLE} | {name for name in rows if name + "_" in rows}


WRONG = {
    "tanh": (0, lambda g, y: g * (1 - y)),
    "exp": (0, lambda g, y: g),
    "sqrt": (0, lambda g, y: g / y),
    "divide": (1, lambda g, b, y: g * y / b),
    "mean": (0, lambda g, x_shape, axis, keepdims: ops.spread(g, x_shape, axis, keepdims)),
    "multiply": (0, lambda g, b: g),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_error_planted_in_a_row_is_named_also_inside_a_function(name, monkeypatch):
    row = getattr(ops, name).primitive
    i, wrong = WRONG[name]
    _, places = row.pullbacks[i]
    planted = tuple((wrong, places) if j == i else rule for j, rule in enumerate(row.pullbacks))
    monkeypatch.setattr(row, "pullbacks", planted)

    def f(x, gamma):
        centred = x - x.mean(0, keepdims=True)
        return ops.tanh(ops.exp(centred * 0.1) * gamma / ops.sqrt((centred * centred).mean(0) + 1.0))

    report = mg.gradcheck(f, (X, GAMMA))
    assert not report
    assert {finding.argument for finding in report.findings if finding.kind == "wrong pullback"} == {name}
    sample = next(s for s in SAMPLES if s.name == name)
    assert not mg.gradcheck(sample.call, sample.arrays)


PLAN = fused.Plan(((1, 1), (1, 1), (1, 1), 1), 1e-5, True, Windows((2, 2), (2, 2), (0, 0), (1, 1), (2, 2)))
FUSED = {
    "block": [PLAN, PLAN._replace(pool=None), PLAN._replace(pool=None, relu=False), PLAN._replace(conv=None)],
    "dense": [None, ops.relu, ops.sigmoid, ops.tanh],
}


def block_inputs(plan):
    shapes = ((3, 2, 4, 4), (2, 2, 3, 3), (2,), (2,), (2,))
    return [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(shapes)]


@pytest.mark.host("fused kernels run on the host")
@pytest.mark.parametrize("activation", FUSED["dense"])
def test_a_linear_layer_with_its_activation_agrees_with_numbers(activation):
    arrays = [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate([(5, 3), (4, 3), (4,)])]
    assert mg.gradcheck(lambda x, w, b: fused.dense(x, w, b, activation), arrays)


@pytest.mark.host("fused kernels run on the host")
@pytest.mark.parametrize("plan", FUSED["block"])
def test_a_block_of_layers_agrees_with_numbers(plan):
    kernel = fused.block
    wanted = [plan.conv is not None] * 3 + [True] * 2

    def f(*arrays):
        return kernel(*[a if use or i == 0 else a.detach() for i, (a, use) in enumerate(zip(arrays, wanted))], plan)

    assert mg.gradcheck(f, block_inputs(plan))


def test_every_fused_kernel_has_a_sample_here():
    kernels = {n for n, v in vars(fused).items() if getattr(getattr(v, "primitive", None), "kind", "") == "fused"}
    assert kernels == set(FUSED)


@pytest.mark.host("fused kernels run on the host")
def test_an_error_planted_in_a_fused_kernel_is_named(monkeypatch):
    row = fused.block.primitive
    joint = row.joint

    def planted(*arguments):
        dx, dw, db, dgamma, dbeta = joint(*arguments)
        return dx, dw, db, 2 * dgamma, dbeta

    monkeypatch.setattr(row, "joint", planted)
    report = mg.gradcheck(lambda *arrays: fused.block(*arrays, PLAN), block_inputs(PLAN))
    assert not report
    named = next(finding for finding in report.findings if finding.kind == "wrong pullback")
    assert named.argument == "block"
    assert "'gamma'" in named.message


def test_an_error_of_the_second_order_is_found_in_the_nesting_where_it_is():
    def frozen(g, x):
        return g * (3 * (x.data if isinstance(x, mg.Tensor) else x) ** 2)

    cube = mg.primitive(lambda x: x**3, frozen, name="cube")
    assert mg.gradcheck(lambda x: cube(x), (X,))
    report = mg.gradcheck(lambda x: cube(x), (X,), order=2)
    assert not report
    assert all("derivative" in finding.message for finding in report.mistakes if finding.kind == "wrong gradient")


@pytest.mark.parametrize("order", [1, 2, 3])
def test_batch_norm_is_right_to_the_third_order_in_every_nesting(order):
    report = mg.gradcheck(lambda x, g: functional.batch_norm(x, g, g, axis=0)[0], (X[:3, :2], GAMMA[:2]), order=order)
    assert report, str(report)
    assert sum("derivative" in name for name in report.facts) == 4 * sum(2**k for k in range(1, order))


def test_a_failure_tells_input_element_values_ratio_oracle_and_step():
    bad = mg.primitive(lambda x: x**3, lambda g, x: 2 * g * x * x, name="cube")
    finding = next(f for f in mg.gradcheck(lambda x: bad(x), (X,)).mistakes if f.kind == "wrong gradient")
    assert "with respect to x" in finding.message
    worst = finding.evidence["worst"][0]
    assert worst["ratio"] == pytest.approx(2 / 3)
    assert worst["input"] == np.unravel_index(np.argmax(np.abs(X)), X.shape)
    assert finding.evidence["oracle"] == ("Richardson" if backend.current() == "cupy" else "complex step")


def test_a_complex_continuation_with_noise_is_no_oracle(monkeypatch):
    """As the power of a negative number on a device."""
    monkeypatch.setattr("minigrad.check.oracles.on_host", lambda: False)
    cube = lambda xs: xs[0] ** 3
    noisy = lambda xs: xs[0] ** 3 + (1e-16j if xs[0].dtype.kind == "c" else 0.0)
    given = [X.reshape(-1)], [np.ones(X.size)]
    assert complex_step(noisy, *given) is None
    np.testing.assert_allclose(complex_step(cube, *given).value, 3 * X.reshape(-1) ** 2)


@pytest.mark.parametrize(
    ("f", "x", "named"),
    [
        (lambda x: mg.relu(x), [0.0, 1.0, -1.0], "relu"),
        (lambda x: mg.abs(x), [0.0, 1.0], "abs"),
        (lambda x: mg.clip(x, -1, 1), [1.0, 0.3], "clip"),
        (lambda x: mg.maximum(x, 0.5), [0.5, 2.0], "maximum"),
        (lambda x: mg.max(x), [2.0, 2.0, 1.0], "amax"),
        (lambda x: mg.max(x, axis=0), [2.0, 2.0, 1.0], "choice of elements"),
    ],
)
@pytest.mark.parametrize("oracle", ["auto", "central", "richardson"])
def test_a_kink_is_named_and_is_not_an_error(f, x, named, oracle):
    report = mg.gradcheck(f, (np.array(x),), oracle=oracle)
    assert report, str(report)
    assert any(finding.kind == "kink" and named in finding.message for finding in report.findings)


def test_the_three_oracles_agree_with_one_another_and_claim_honest_errors():
    def f(xs):
        return np.tanh(xs[0]) * np.exp(xs[0])

    x, u = rng.normal(size=5), rng.normal(size=5)
    exact = u * np.exp(x) * (np.tanh(x) + 1 / np.cosh(x) ** 2)
    for oracle, reach in ((complex_step, 1e-15), (richardson, 1e-12), (central, 1e-9)):
        slope = oracle(f, [x], [u])
        assert np.abs(slope.value - exact).max() < 4 * reach
        assert (np.abs(slope.value - exact) <= slope.error + 1e-15).all()


def test_central_differences_tell_a_kink_from_rounding():
    assert central(lambda xs: np.abs(xs[0] - 1e-12), [np.zeros(1)], [np.ones(1)]).regime != "truncation"
    assert central(lambda xs: np.exp(xs[0]), [np.ones(1)], [np.ones(1)]).regime == "rounding"


def test_of_equally_good_steps_richardson_takes_the_longest_where_rounding_is_least():
    slope = richardson(lambda xs: 2 * xs[0], [np.array([0.625])], [np.array([0.0625])])  # exact at every step
    assert slope.value == 0.125
    assert slope.step == 0.25  # the first that could be confirmed by two longer ones
    assert slope.error < 1e-14


def test_float32_inputs_are_checked_in_float64_and_the_report_says_so():
    x = X.astype(np.float32)
    assert mg.gradcheck(mg.tanh, (x,)).details["computed in"] == "float64 (inputs: float32)"
    assert mg.gradcheck(mg.tanh, (x,), keep_dtype=True).details["computed in"] == "float32"


def test_large_inputs_are_checked_along_random_directions():
    report = mg.gradcheck(lambda x: mg.tanh(x).sum(0), (rng.normal(size=(50, 40)),))
    assert report.details["oracle"] == "complex step (4 directions)"
    bad = mg.primitive(lambda x: x * x, lambda g, x: g * x, name="square")
    assert not mg.gradcheck(lambda x: bad(x), (rng.normal(size=(50, 40)),))


def test_a_function_without_a_complex_form_falls_to_richardson():
    assert "Richardson" in mg.gradcheck(lambda x: mg.remainder(x, 3.0), (X,)).details["oracle"]


# ---- check_hand_gradient -------------------------------------------------------------------------------
def test_inputs_may_be_tensors_and_the_hand_may_take_inputs_or_a_cache_or_be_arrays():
    def by_inputs(g, x, gamma, beta):
        return right(g, forward(x, gamma, beta)[1])

    assert mg.check_hand_gradient(forward, tuple(map(mg.tensor, BN)), right)
    assert mg.check_hand_gradient(forward, BN, by_inputs)
    g = rng.normal(size=X.shape)
    arrays = right(g, forward(*BN)[1])
    assert mg.check_hand_gradient(forward, BN, arrays, cotangent=g)
    assert mg.check_hand_gradient(forward, BN, dict(zip(("dx", "dgamma", "dbeta"), arrays)), cotangent=g)
    with pytest.raises(CannotRun, match="pass cotangent="):
        mg.check_hand_gradient(forward, BN, arrays)


def test_a_loss_may_have_a_backward_without_an_upstream_gradient():
    assert mg.check_hand_gradient(lambda x: np.sum(x**2), (X,), lambda x: 2 * x)
    assert mg.check_hand_gradient(lambda x: np.sum(x**2), (X,), 2 * X)
    assert "lacks a factor 2" in only(mg.check_hand_gradient(lambda x: np.sum(x**2), (X,), lambda x: x)).message


def test_a_constant_of_another_dtype_and_a_method_are_as_welcome_as_in_numpy():
    mask = (X > 0).astype(np.float32)

    class Layer:
        def forward(self, x):
            return np.maximum(x * mask, 0)

        def backward(self, g, x):
            return g * mask * (x > 0)

    layer = Layer()
    assert mg.check_hand_gradient(layer.forward, (X,), layer.backward)


def test_the_sentence_names_the_path():
    finding = only(mg.check_hand_gradient(forward, BN, without_variance))
    assert finding.message == "dx equals autodiff with the path through `var` cut: it is missing"
    assert (finding.argument, finding.kind, finding.paths, finding.factor) == ("x", "missing path", ("var",), "0")
    assert finding.evidence["worst"][0]["ratio"] != 1


def test_labels_name_paths_where_the_forward_is_minigrads_own():
    def batch_norm(x, gamma, beta):
        return functional.batch_norm(x, gamma, beta, axis=0)[0]

    def hand(g, x, gamma, beta):
        std = np.sqrt(x.var(0) + 1e-5)
        return g * gamma / std, (g * (x - x.mean(0)) / std).sum(0), g.sum(0)

    finding = only(mg.check_hand_gradient(batch_norm, BN, hand))
    assert finding.kind == "missing path"
    assert "`mean`" in finding.message
    assert "`var`" in finding.message or "`scale`" in finding.message


STEPS = """
xhat, xmu, std, gamma = forward(*BN)[1]
m = len(g)
dxhat = g * gamma
dstd = -(dxhat * xmu).sum(0) / std**2
dvar = dstd / (2 * std)
dxmu = dxhat / std + 2 * xmu * dvar / m
dmu = -dxmu.sum(0)
dx = dxmu + dmu / m
"""


@pytest.mark.parametrize(
    ("edit", "wrong"),
    [
        (("g * gamma", "g"), "xhat"),
        (("dstd = -", "dstd = "), "std"),
        (("dstd / (2 * std)", "dstd / std"), "var"),
        (("2 * xmu * dvar / m", "xmu * dvar / m"), "xmu"),
        (("dmu = -dxmu", "dmu = dxmu"), "mu"),
        (("dmu / m", "dmu"), "x"),
    ],
)
def test_step_by_step_the_first_wrong_step_is_named_and_those_after_it_are_not_blamed(edit, wrong):
    g = np.random.default_rng(1).normal(size=X.shape)
    scope = {"g": g, "forward": forward, "BN": BN}
    exec(STEPS.replace(*edit), scope)
    steps = {name: scope["d" + name] for name in ("xhat", "std", "var", "xmu", "mu", "x")}
    report = mg.check_hand_gradient(forward, BN, steps, cotangent=g, score=False)
    blamed = [finding for finding in report.findings if finding.kind == "wrong step"]
    assert [finding.argument for finding in blamed] == ([wrong] if wrong != "x" else [])
    if wrong == "x":
        assert only(report).argument == "x"
    else:
        assert blamed[0].message.startswith(f"the first wrong step is d{wrong}")
    exec(STEPS, scope)
    assert mg.check_hand_gradient(
        forward, BN, {name: scope["d" + name] for name in steps}, cotangent=g, score=False
    )  # fmt: skip


# ---- a check that proves nothing ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    "cotangent", [lambda y: np.ones_like(y), lambda y: 2 * (y - BETA)], ids=["sum(y)", "sum(y**2)"]
)
def test_a_cotangent_that_batchnorm_annihilates_is_a_finding(cotangent):
    report = mg.check_hand_gradient(forward, BN, right, cotangent=cotangent(forward(*BN)[0]))
    assert not report
    assert not report.mistakes
    finding = next(finding for finding in report.findings if finding.kind == "vacuous")
    assert finding.evidence["caught"] < finding.evidence["visible"]
    assert "annihilates" in finding.message


def test_the_default_cotangent_catches_every_mutant():
    caught, visible = re.findall(r"\d+", mg.check_hand_gradient(forward, BN, right).details["mutation score"])
    assert caught == visible


def test_gamma_of_one_hides_a_missing_gamma_and_the_check_looks_elsewhere_too():
    def without_gamma(g, cache):
        return right(g, (*cache[:3], 1.0))

    inputs = (X, np.ones(4), np.zeros(4))
    report = mg.check_hand_gradient(forward, inputs, without_gamma)
    assert "factor `gamma`" in only(report).message
    assert "gamma is 1 everywhere" in only(report).message
    report = mg.check_hand_gradient(forward, inputs, right)
    assert report
    assert [finding.kind for finding in report.findings] == ["vacuous"]


def test_a_structural_zero_is_named_with_its_cancellation():
    def biased(x, bias):
        z = x + bias
        return (z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-5)

    def hand(g, x, bias):
        xhat, std = biased(x, bias), np.sqrt(x.var(0) + 1e-5)
        return (g - g.mean(0) - xhat * (g * xhat).mean(0)) / std, np.zeros(4)

    report = mg.check_hand_gradient(biased, (X, GAMMA), hand)
    assert report
    finding = next(finding for finding in report.findings if finding.kind == "structural zero")
    assert finding.argument == "bias"
    assert finding.evidence["cancellation"] > 1e11


# ---- bad input ------------------------------------------------------------------------------------------------
def raises(g, cache):
    return g @ g


@pytest.mark.parametrize(
    ("hand", "kind", "words"),
    [
        (raises, "raised", r"raises\(\) raised ValueError at test_check.py:\d+: `return g @ g`"),
        (lambda g, cache: None, "nothing returned", "returned None"),
        (lambda g, cache: right(g, cache)[:2], "number of gradients", "2 gradients were returned, and 3 are needed"),
        (lambda g, cache: (right(g, cache)[0], None, g.sum(0)), "nothing returned", "dgamma is None"),
        (lambda g, cache: (np.nan * g, *right(g, cache)[1:]), "not finite", r"NaN or infinite, the first at \[0, 0\]"),
        (lambda g, cache: (g[:3], *right(g, cache)[1:]), "shape", r"dx has shape \[3, 4\], and x \[6, 4\]"),
        (lambda g, cache: ("a", *right(g, cache)[1:]), "not numbers", "dx holds"),
        (lambda g: g, "number of gradients", "1 gradients"),
    ],
)
def test_a_bad_hand_function_is_a_finding(hand, kind, words):
    report = mg.check_hand_gradient(forward, BN, hand)
    assert not report
    assert any(finding.kind == kind and re.search(words, finding.message) for finding in report.mistakes), str(report)


def decomposed(x):
    scale = np.linalg.svd(x.T @ x)[0]
    return x @ scale


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (
            decomposed,
            r"decomposed\(\) raised TypeError at test_check.py:\d+: `scale = np.linalg.svd.*np.linalg.svd: the tape",
        ),
        (lambda x: np.float64(x.tolist()) * 2, "returned ndarray as output 0.*\\.tolist\\(\\)"),
        (lambda x: 3.0, "returned float as output 0"),
        (lambda x: np.sign(x), "does not depend on any differentiable input"),
        (lambda x, y: x, "missing 1 required positional argument"),
    ],
)
def test_a_forward_that_cannot_be_checked_says_which_call(f, words):
    with pytest.raises(CannotRun, match=words):
        mg.check_hand_gradient(f, (X,), lambda g, x: g)


@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        ((np.arange(3),), r"(numpy\.)?int64 \[3\]"), (([1.0, 2.0],), r"\[1.0, 2.0\]"), ({"W": 1.0}, "{'W': 1.0}"),
        ((), "nothing"),
    ],
)  # fmt: skip
def test_inputs_without_a_gradient_are_shown_with_what_is_needed(inputs, given):
    says = rf"no input is a floating array \({given}\).*arrays of floats, in a tuple"
    with pytest.raises(CannotRun, match=says):
        mg.check_hand_gradient(lambda *xs: xs[0], inputs, lambda g, x: g)
    with pytest.raises(CannotRun, match=says):
        mg.gradcheck(lambda *xs: xs[0], inputs)


def test_a_value_that_leaves_the_tape_is_noticed():
    def scaled(x):
        size = float(np.max(x))
        return x * size

    def hand(g, x):
        d = g * x.max()
        d[np.unravel_index(x.argmax(), x.shape)] += (g * x).sum()
        return d

    report = mg.check_hand_gradient(scaled, (X,), hand, score=False)
    finding = next(finding for finding in report.mistakes if finding.kind == "left the tape")
    assert "`size = float(np.max(x))`" in finding.message

    def harmless(x):
        return np.exp(x - float(np.max(x))) * np.exp(float(np.max(x)))

    report = mg.check_hand_gradient(harmless, (X,), lambda g, x: g * np.exp(x), score=False)
    assert report
    assert "no difference" in report.findings[0].message


def test_the_users_arrays_and_numpy_itself_are_left_as_they_were():
    x = X.copy()

    def hand(g, cache):
        result = right(g, cache)
        for array in (g, *cache):
            array[...] = 0
        return result

    assert mg.check_hand_gradient(forward, (x, GAMMA, BETA), hand)
    assert np.array_equal(x, X)
    assert type(np.zeros(3)) is np.ndarray
    with pytest.raises(RuntimeError, match="setitem"):
        mg.tensor(X, requires_grad=True)[0] = 1


def test_what_nothing_explains_is_told_by_where_it_is():
    def hand(g, cache):
        dx, dgamma, dbeta = right(g, cache)
        dx[3, 1:3] += [0.37, -0.91]
        return dx, dgamma, dbeta

    finding = mg.check_hand_gradient(forward, BN, hand).findings[0]
    assert finding.kind == "unexplained"
    assert f"in 2 of {X.size} elements" in str(finding)
    assert "[3, 1]" in str(finding) and "only at [3] of axis 0" in str(finding)


def test_a_hand_that_answers_in_single_precision_is_held_to_its_digits_or_to_the_tolerance_given():
    def hand(g, cache):
        return tuple(d.astype("float32") for d in right(g, cache))

    report = mg.check_hand_gradient(forward, BN, hand)
    assert report and "float32's digits" in report.details["precision"]
    assert not mg.check_hand_gradient(forward, BN, hand, rtol=1e-12)


def test_a_parameter_of_elsewhere_does_not_hide_the_names_of_what_comes_after_it():
    with mg.using("numpy"):  # where plain NumPy functions are checked
        weight = mg.tensor(GAMMA + 2, requires_grad=True)

    def f(x):
        t = np.tanh(x)
        return t * t * weight, t

    text = str(only(mg.check_hand_gradient(f, (X,), lambda g, t: 2 * g * (GAMMA + 2) * (1 - t * t))))
    assert "lacks a factor `t`" in text


def test_functions_of_a_named_value_are_factors():
    def f(x, w):
        return x * w

    w = np.abs(GAMMA) + 0.3
    for words, factor in {"sqrt(`w`)": np.sqrt(w), "`w`²": w * w, "(1 + `w`)": 1 + w, "`w`³": w**3}.items():
        report = mg.check_hand_gradient(f, (X, w), lambda g, x, w, factor=factor: (g * w * factor, (g * x).sum(0)))
        assert f"dx has a factor {words} too many" in str(only(report))


def test_the_square_of_a_single_number_left_out_is_named():
    def f(x, w):
        scale = np.sum(w * w)
        t = np.tanh(x)
        return t * scale * scale, t

    w = np.array([0.3, 0.7])

    def hand(g, t):
        return g * (1 - t * t), 4 * w * (w * w).sum() * (g * t).sum()

    text = str(only(mg.check_hand_gradient(f, (X, w), hand)))
    assert "a factor `scale`²" in text


# ---- the report ---------------------------------------------------------------------------------------------
def test_a_report_speaks_text_html_json_and_pictures(tmp_path):
    report = mg.check_hand_gradient(forward, BN, without_variance)
    assert "WRONG" in str(report)
    assert "path through `var` cut" in repr(report)
    assert "<table>" in report._repr_html_()
    record = json.loads(report.to_json())
    assert record["ok"] is False
    assert record["findings"][0]["kind"] == "missing path"
    pytest.importorskip("matplotlib")
    report.plot(str(tmp_path / "report.png"))
    assert (tmp_path / "report.png").stat().st_size > 1000
    mg.gradcheck(mg.tanh, (X,)).plot(str(tmp_path / "check.png"))


def test_a_report_with_arrays_and_numpys_numbers_is_json():
    finding = Finding("x", "factor", "off", evidence={"worst": np.array([1.5, np.nan]), "count": np.int64(3)})
    record = json.loads(Report("a check", [finding], {"x": {"size": np.float32(0.5)}}).to_json())
    assert record["findings"][0]["evidence"] == {"worst": [1.5, "nan"], "count": 3}
    assert record["facts"] == {"x": {"size": 0.5}}


def test_the_sum_of_absolute_contributions_stands_beside_the_gradient():
    report = mg.check_hand_gradient(forward, BN, right)
    assert report.absolute["x"].shape == X.shape
    assert (report.absolute["x"] >= np.abs(report.maps["x"][1])).all()
    assert report.facts["x"]["cancellation"] > 1


def test_the_code_in_the_documentation_runs(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "checking.md").read_text()
    scope: dict = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        file = tmp_path / f"block{number}.py"
        file.write_text(block)
        exec(compile(block, str(file), "exec"), scope)


def test_the_example_finds_the_three_mistakes(capsys):
    check_your_batchnorm.main()
    said = capsys.readouterr().out
    for words in (
        "`mu` and `var` both treated as constants",
        "path through `var` has a factor 2 too many",
        "dgamma has a factor `gamma` too many",
        "path through `mu` cut",
        "sum it over axes [0]",
        "at_last: right",
        "this check would miss",
    ):
        assert words in said


def test_assertions_fail_with_the_sentence():
    with pytest.raises(AssertionError, match="path through `var` cut"):
        assert_hand_gradient(forward, BN, without_variance)
    with pytest.raises(AssertionError, match="pullback of cube"):
        assert_gradient(mg.primitive(lambda x: x**3, lambda g, x: g * x * x, name="cube"), (X,))
    assert assert_hand_gradient(forward, BN, right).ok


# ---- the command line ---------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def forward(x, w):\n    return np.tanh(x @ w)\n"
        "def right(g, x, w):\n    d = g * (1 - np.tanh(x @ w) ** 2)\n    return d @ w.T, x.T @ d\n"
        "def wrong(g, x, w):\n    return g @ w.T, x.T @ g\n"
    )
    np.savez(tmp_path / "inputs.npz", w=rng.normal(size=(3, 2)), x=rng.normal(size=(4, 3)))
    return tmp_path


@pytest.mark.parametrize(
    ("backward", "code", "words"),
    [("right", 0, "right"), ("wrong", 1, "derivative of tanh"), ("absent", 2, "no function 'absent'")],
)
def test_the_command_line_and_its_exit_codes(folder, backward, code, words):
    command = [sys.executable, "-m", "minigrad.check", f"mine.py:{backward}", "--forward", "mine.py:forward"]
    done = subprocess.run(
        [*command, "--inputs", "inputs.npz"], cwd=folder, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# ---- what a hint says -----------------------------------------------------------------------------------
WAVE, RAMP = np.linspace(-2.0, 1.7, 12).reshape(4, 3), np.linspace(0.3, 2.9, 12).reshape(4, 3)


def waves(x):
    return np.sin(x) * RAMP


@pytest.mark.parametrize(
    ("turned", "words"),
    [
        (lambda g: g[:, ::-1], "flipped along axis 1"), (lambda g: g[::-1, ::-1], "flipped along axes 0, 1"),
        (lambda g: np.roll(g, 1, 0), "rolled by 1 along axis 0"),
    ],
    ids=["one axis", "both", "rolled"],
)  # fmt: skip
def test_a_gradient_that_was_turned_around_is_told_how(turned, words):
    report = mg.check_hand_gradient(waves, (WAVE,), lambda g, x: turned(g * np.cos(x) * RAMP))
    assert f"dx is autodiff's {words}" in only(report).message


def test_a_factor_that_is_a_number_among_the_inputs():
    report = mg.check_hand_gradient(
        lambda x, c: waves(x) * c, (WAVE, np.array(2.7)), lambda g, x, c: (g * np.cos(x) * RAMP, np.sum(g * waves(x)))
    )
    assert re.search(r"dx lacks a factor (`c`|2\.7)", only(report).message)


def test_a_factor_of_a_batch_of_two():
    x, weight = WAVE[:2], np.arange(3.0) + 1
    report = mg.check_hand_gradient(
        lambda x: np.sum(x.var(0) * weight), (x,), lambda x: np.sqrt(2) * (x - x.mean(0)) * weight
    )
    assert "dx has a factor sqrt(m) (m = 2) too many" in only(report).message


@pytest.mark.parametrize(("wrong", "words"), [(4 / 3, "has a factor m/(m-1)"), (3 / 4, "lacks a factor m/(m-1)")])
def test_bessels_factor_both_ways(wrong, words):
    report = mg.check_hand_gradient(
        lambda x: np.sum(x.var(0) * RAMP[0]), (WAVE,), lambda x: wrong * 2 / 4 * (x - x.mean(0)) * RAMP[0]
    )
    assert f"dx {words} (m = 4" in only(report).message


def test_of_two_mistakes_of_which_one_is_unknown_nothing_is_claimed():
    two = lambda x: waves(x) + np.exp(x) * WAVE + x**3
    known = mg.check_hand_gradient(two, (WAVE,), lambda g, x: g * (2 * np.exp(x) * WAVE + 3 * x**2))
    assert "exp" in only(known).message and "factor 2 too many" in only(known).message
    unknown = mg.check_hand_gradient(two, (WAVE,), lambda g, x: g * (0.37123 * np.exp(x) * WAVE + 3 * x**2))
    assert only(unknown).kind == "unexplained"


def nested(x, depth):
    return x if depth == 0 else np.tanh(nested(x, depth - 1))


def test_a_derivative_left_out_at_every_step_of_a_loop_among_other_lines():
    def hand(g, x):
        return g * np.exp(nested(waves(x), 3)) * np.cos(x) * RAMP

    finding = only(mg.check_hand_gradient(lambda x: np.exp(nested(waves(x), 3)), (WAVE,), hand))
    assert "lacks the derivative of tanh at each of 3 steps" in finding.message


@pytest.mark.parametrize("wrong", ["a", "b"])
def test_the_argument_whose_pullback_is_wrong_is_named(wrong):
    twice = {name: 2 if name == wrong else 1 for name in "ab"}
    bad = mg.primitive(
        lambda a, b: a * b, lambda g, a, b: twice["a"] * g * b, lambda g, a, b: twice["b"] * g * a, name="bad"
    )
    report = mg.gradcheck(lambda x, w: mg.tanh(bad(x, w)), (WAVE, RAMP))
    culprits = [finding.message for finding in report.mistakes if finding.kind == "wrong pullback"]
    assert len(culprits) == 1 and f"the pullback of bad in its argument '{wrong}' is wrong" in culprits[0]


def test_what_has_no_complex_continuation_gets_no_complex_step():
    given = [WAVE.reshape(-1)], [np.ones(12)]
    assert complex_step(lambda xs: np.abs(xs[0]), *given) is None  # real again
    with np.errstate(all="ignore"):
        assert complex_step(lambda xs: xs[0] / 0, *given) is None


def test_progress_is_shown_to_the_end(monkeypatch):
    seen = []

    class Bar:
        def __init__(self, total, **options):
            self.n, self.total = 0, total

        def update(self):
            self.n += 1
            seen.append((self.n, self.total))

        def close(self):
            seen.append("closed")

    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    mg.check_hand_gradient(lambda x, c: waves(x) * c, (WAVE, RAMP), lambda g, x, c: (g * 0.5, g * 0.1), progress=True)
    assert seen == [(1, 2), (2, 2), "closed"]
