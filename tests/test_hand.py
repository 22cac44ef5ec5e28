"""`check_hand_gradient` with people's own ways of writing: their state, their dice, how they call and answer."""

import re
import sys
import zipfile

import numpy as np
import pytest

import minigrad as mg
from minigrad.check import CannotRun, assert_hand_gradient
from minigrad.check.__main__ import main

rng = np.random.default_rng(0)
X, W = rng.normal(size=(4, 3)), rng.normal(size=(3, 2))


def only(report):
    assert len(report.mistakes) == 1, str(report)
    return report.mistakes[0]


# ---- a forward that draws random numbers ---------------------------------------------------------------
def dropped(x):
    mask = np.random.binomial(1, 0.5, size=x.shape) / 0.5
    return x * mask, mask


DICE = np.random.default_rng(1)


def shaken(x):
    push = DICE.integers(-3, 3, size=x.shape) * 0.3
    return x * push, push


@pytest.mark.parametrize("forward", [dropped, shaken], ids=["NumPy's global dice", "a generator of the user's"])
def test_every_run_draws_what_the_first_drew_so_that_a_dropout_can_be_checked(forward):
    assert mg.check_hand_gradient(forward, (X,), lambda g, mask: g * mask)
    assert "factor 2 too many" in only(mg.check_hand_gradient(forward, (X,), lambda g, mask: 2 * g * mask)).message
    assert not mg.check_hand_gradient(forward, (X,), lambda g, mask: g)


def test_a_forward_that_comes_to_something_else_at_every_run_cannot_be_checked():
    def unseeded(x):
        return x * np.random.default_rng().integers(0, 1000, size=x.shape)

    def of_tensors_only(x):
        return unseeded(x.relu())

    for forward in (unseeded, of_tensors_only):
        with pytest.raises(CannotRun, match=rf"{forward.__name__}\(\) .*seed"):
            mg.check_hand_gradient(forward, (X,), lambda g, x: g)


# ---- state -----------------------------------------------------------------------------------------------
class Layer:
    """A layer as courses write them: what the backward needs is kept in attributes."""

    def __init__(self):
        self.weight = mg.tensor(W)
        self.kept = {"list": [], "tuple": ()}

    def forward(self, x):
        self.x, self.kept = x, {"list": [x], "tuple": (x * 1, None)}
        return np.tanh(x) * 2

    def in_place(self, g):
        g *= 1 - np.tanh(self.x) ** 2
        g *= 2
        return g

    def row_by_row(self, g):
        return np.array([2 * gi * (1 - np.tanh(xi) ** 2) for gi, xi in zip(g, self.kept["list"][0])])

    def in_c(self, g):
        return np.einsum("ij,ij->ij", 2 * g, np.ascontiguousarray(1 - np.tanh(self.kept["tuple"][0]) ** 2))

    def writes(self, g):
        np.tanh(self.x, out=self.x)
        return 2 * g * (1 - self.x**2)


@pytest.mark.parametrize("name", ["in_place", "row_by_row", "in_c", "writes"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["methods", "lambdas around them"])
def test_a_backward_finds_arrays_in_the_state_that_its_forward_left(name, wrapped):
    layer = Layer()
    weight = layer.weight
    forward, backward = layer.forward, getattr(layer, name)
    if wrapped:
        forward, backward = lambda x: layer.forward(x), lambda g: getattr(layer, name)(g)
    assert mg.check_hand_gradient(forward, (X,), backward)
    assert type(layer.x) is type(layer.kept["list"][0]) is type(layer.kept["tuple"][0]) is np.ndarray
    assert layer.weight is weight


class Affine:
    """A layer whose backward returns dx and leaves the others' gradients with the layer."""

    def __init__(self):
        self.W, self.b, self.dW, self.db = W.copy(), np.ones(2), np.zeros_like(W), np.zeros(2)
        self.params, self.grads = {"W": W.copy(), "b": np.ones(2)}, {}
        self.pair, self.d_pair = [W.copy(), np.ones(2)], [np.zeros_like(W), np.zeros(2)]

    def in_attributes(self, x):
        self.x = x
        return x @ self.W + self.b

    def attributes(self, g, wrong=1):
        self.dW, self.db = wrong * self.x.T @ g, g.sum(0)
        return g @ self.W.T

    def added(self, g, wrong=1):
        self.dW += wrong * self.x.T @ g
        self.db += g.sum(0)
        return g @ self.W.T

    def in_dicts(self, x):
        self.x = x
        return x @ self.params["W"] + self.params["b"]

    def dicts(self, g, wrong=1):
        self.grads["W"], self.grads["b"] = wrong * self.x.T @ g, g.sum(0)
        return g @ self.params["W"].T

    def in_lists(self, x):
        weight, bias = self.pair
        self.x = x
        return x @ weight + bias

    def lists(self, g, wrong=1):
        self.d_pair[0][...], self.d_pair[1][...] = wrong * self.x.T @ g, g.sum(0)
        return g @ self.pair[0].T


@pytest.mark.parametrize("ways", ["attributes", "attributes added", "dicts", "lists"])
def test_gradients_that_a_backward_leaves_with_its_layer_are_compared_too(ways):
    layer = Affine()
    held = layer.W, layer.params["W"], layer.pair[0]
    forward, backward = getattr(layer, f"in_{ways.split()[0]}"), getattr(layer, ways.split()[-1])
    report = mg.check_hand_gradient(forward, (X,), backward)
    assert report and len(report.facts) == 3
    finding = only(mg.check_hand_gradient(forward, (X,), lambda g: backward(g, 3)))
    assert "has a factor 3" in finding.message and finding.argument != "x"
    assert all(a is b for a, b in zip(held, (layer.W, layer.params["W"], layer.pair[0]), strict=True))
    assert np.array_equal(held[0], W)


def test_layers_in_a_net_keep_their_names_apart():
    class Net:
        def __init__(self):
            self.first, self.second = Affine(), Affine()
            self.second.W, self.second.b = W.T.copy(), np.ones(3)

        def forward(self, x):
            return self.second.in_attributes(np.tanh(self.first.in_attributes(x)))

        def backward(self, g):
            d = self.second.attributes(g)
            return self.first.attributes(d * (1 - self.second.x**2), wrong=-1)

    net = Net()
    finding = only(mg.check_hand_gradient(net.forward, (X,), net.backward))
    assert finding.argument == "first.W" and "wrong sign" in finding.message


def test_what_a_layer_keeps_is_a_name_and_what_cannot_be_compared_is_said():
    class Scaled:
        def __init__(self):
            self.weights = W.copy()

        def forward(self, x):
            self.x, self.h = x, np.tanh(x)
            self.out = self.h * 2
            return self.out @ self.weights

        def backward(self, g):
            self.dW, self.dout = self.out.T @ g, g @ self.weights.T
            return self.dout * 2

    layer = Scaled()
    report = mg.check_hand_gradient(layer.forward, (X,), layer.backward)
    assert "`h`" in only(report).message
    assert "the backward also leaves dW, not compared" in str(report)


LEFT = {}


def leaving(x):
    global latest
    latest = LEFT["x"] = x
    return x * x


def test_state_in_globals_is_arrays_too():
    assert mg.check_hand_gradient(leaving, (X,), lambda g: np.stack([a * b for a, b in zip(g, latest + LEFT["x"])]))
    assert type(latest) is type(LEFT["x"]) is np.ndarray


# ---- how people call and answer ------------------------------------------------------------------------
def linear(x, w):
    return x @ w


def linear_backward(g, x, w):
    return g @ w.T, x.T @ g


def cell(x, c):
    """Two outputs, of which the first depends on the second: an LSTM in small."""
    next_c = np.tanh(c) * x
    next_h = np.sin(next_c)
    return next_h, next_c, (x, c, next_c)


def cell_backward(dnext_h, dnext_c, cache):
    x, c, next_c = cache
    d = dnext_c + dnext_h * np.cos(next_c)
    return d * np.tanh(c), d * x * (1 - np.tanh(c) ** 2)


def test_a_hand_that_names_its_cotangents_is_held_to_all_of_them():
    def forgets(dnext_h, dnext_c, cache):
        return cell_backward(dnext_h, 0, cache)

    def forgets_too(dh, dstate, cache):
        return cell_backward(dh, 0, cache)

    assert mg.check_hand_gradient(cell, TWO, cell_backward)
    finding = only(mg.check_hand_gradient(cell, TWO, forgets))
    assert "ignore the upstream gradient of the output `next_c`" in finding.message
    report = mg.check_hand_gradient(cell, TWO, forgets_too)
    assert report and "with the cotangents of 1 of the values" in report.findings[-1].message


def test_numbers_among_the_settings_are_factors_with_a_name():
    def dropped(x, settings):
        mask = (np.random.rand(*x.shape) < settings["keep"]) / settings["keep"]
        return x * mask, mask

    finding = only(mg.check_hand_gradient(dropped, (X, {"keep": 0.6}), lambda g, mask: g * (mask > 0)))
    assert "dx has a factor 0.6 (settings['keep']) too many" in finding.message


def squared_error(x, y):
    return ((x - y) ** 2).mean()


TWO = X, X[::-1] * 1.3


@pytest.mark.parametrize(
    ("f", "hand"),
    [
        (cell, cell_backward), (cell, lambda up, across, kept: cell_backward(up, across, kept)),
        (lambda x, c: cell(x, c)[:2], lambda g1, g2, x, c: cell_backward(g1, g2, cell(x, c)[2])),
        (lambda x, c: cell(x, c)[:2], lambda g, next_c, *, x=TWO[0], c=TWO[1]: cell_backward(g, 0, (x, c, next_c))),
    ],
    ids=["named after the outputs", "named otherwise", "by arity", "one cotangent and a cache"],
)  # fmt: skip
def test_how_many_cotangents_a_backward_takes_is_read_off_its_signature_and_what_comes_out_right(f, hand):
    assert mg.check_hand_gradient(f, TWO, hand), mg.check_hand_gradient(f, TWO, hand)


def test_a_wrong_backward_of_two_outputs_is_named_or_told_how_it_was_called():
    def hand(dnext_h, dnext_c, cache):
        return cell_backward(dnext_h, dnext_c, cache)[0], cell_backward(dnext_h, 0, cache)[1]

    assert "dc" in only(mg.check_hand_gradient(cell, TWO, hand)).message
    report = mg.check_hand_gradient(cell, TWO, lambda up, across, kept: hand(up, across, kept))
    assert "was called with the cotangents of 1 of the values" in report.findings[-1].message
    assert "pass outputs=" in report.findings[-1].message


@pytest.mark.parametrize(
    ("f", "hand"),
    [
        (squared_error, lambda p, t: (2 * (p - t) / p.size, -2 * (p - t) / p.size)),
        (lambda x, y: (squared_error(x, y), x - y), lambda cache: (2 * cache / X.size, -2 * cache / X.size)),
        (squared_error, lambda g, x, y: (g * 2 * (x - y) / x.size, -g * 2 * (x - y) / x.size)),
    ],
    ids=["other names", "a cache alone", "with an upstream gradient"],
)
def test_a_backward_of_a_loss_that_takes_no_upstream_gradient_is_not_accused_of_ignoring_it(f, hand):
    assert mg.check_hand_gradient(f, TWO, hand)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda dx, dw: {}, "nothing returned", "empty dict"),
        (lambda dx, dw: {"dx": dx}, "nothing returned", "dw was not returned"),
        (lambda dx, dw: {"dx": dx, "w": None}, "nothing returned", "dw is None"),
        (lambda dx, dw: {"dx": "a", "dw": dw}, "not numbers", "dx holds"),
        (lambda dx, dw: {0: dx, 1: dw}, "unknown step", "no intermediate is called '0'"),
        (lambda dx, dw: ([[1], [1, 2]], dw), "not numbers", "dx is a list and no array"),
        (lambda dx, dw: exit(0), "raised", "raised SystemExit"),
    ],
)
def test_an_answer_in_another_form_is_a_finding(answer, kind, words):
    report = mg.check_hand_gradient(linear, (X, W), lambda g, x, w: answer(*linear_backward(g, x, w)))
    assert any(finding.kind == kind and words in finding.message for finding in report.mistakes), str(report)


def test_who_gives_steps_need_not_give_every_gradient():
    def f(x, w):
        z = x @ w
        return np.tanh(z)

    def hand(g, x, w):
        dz = g * (1 - np.tanh(x @ w) ** 2)
        return {"z": dz, "x": dz @ w.T}

    report = mg.check_hand_gradient(f, (X, W), hand)
    assert report
    assert [finding.message for finding in report.findings] == ["dw was not returned"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cotangent": "abc"}, "cotangent is a str"), ({"cotangent": np.full((4, 2), np.nan)}, "cotangent holds NaN"),
        ({"outputs": 0}, "outputs=0"), ({"outputs": "a"}, "outputs='a'"), ({"rtol": -1}, "rtol=-1"),
        ({"rtol": "a"}, "rtol='a'"), ({"seed": "a"}, "seed='a'"), ({"seed": -1}, "seed=-1"),
        ({"steps": [1]}, "steps is a list"), ({"hand": None}, "hand is None"), ({"hand": "x"}, "hand is 'x'"),
        ({"hand": 3}, "given as int.*pass cotangent="), ({"f": 3}, "f is 3"),
        ({"inputs": (X * np.nan, W)}, "x holds NaN"),
    ],
)  # fmt: skip
def test_arguments_without_sense_are_refused_by_name(options, words):
    given = {"f": linear, "inputs": (X, W), "hand": linear_backward} | options
    with pytest.raises(CannotRun, match=words):
        mg.check_hand_gradient(**given)


def test_a_cotangent_may_be_nested_lists():
    assert mg.check_hand_gradient(linear, (X, W), linear_backward, cotangent=rng.normal(size=(4, 2)).tolist())


def test_a_forward_may_return_a_list_and_what_is_kept_inside_one_has_no_gradient():
    assert mg.check_hand_gradient(lambda x: [x * 2, x], (X,), lambda g, x: 2 * g)
    with pytest.raises(CannotRun, match=r"arrays in pair .*lambda a, b: forward\(\[a, b\]\)"):
        mg.check_hand_gradient(lambda pair: pair[0] * pair[1], ([X, X + 1],), lambda g, pair: (g, g))
    report = mg.check_hand_gradient(lambda x, p: x @ p["w"], (X, {"w": W}), lambda g, x, p: g @ p["w"].T)
    assert report and "no gradients" in report.details["in p"]
    report = mg.check_hand_gradient(lambda x, p: x @ p["w"], (X, {"w": W}), lambda g, x, p: (g @ p["w"].T, x.T @ g))
    assert report
    assert any("arrays in p have no gradients" in finding.message for finding in report.findings)
    with pytest.raises(CannotRun, match=r"returned a dict as output 0.*\(out, cache\)"):
        mg.check_hand_gradient(lambda x: {"out": x * 2}, (X,), lambda g, x: 2 * g)


def test_the_gradients_of_some_inputs_can_be_meant_alone():
    def loss(w, x, rate):
        return (x[0].dot(w) ** 2).sum() + rate * (w * w).sum()

    def backward(g, w, x, rate):
        return g * 2 * (np.outer(x[0], x[0].dot(w)) + rate * w)

    report = mg.check_hand_gradient(loss, (W, X, 0.1), backward, wrt=("w",))
    assert report and list(report.facts) == ["w"]
    assert "wrt=" in only(mg.check_hand_gradient(loss, (W, X, 0.1), backward)).message
    for wrt in ("w", ("v",)):
        with pytest.raises(CannotRun, match="wrt"):
            mg.check_hand_gradient(loss, (W, X, 0.1), backward, wrt=wrt)


def test_a_search_ends_when_its_budget_is_spent_and_the_report_says_so():
    report = mg.check_hand_gradient(normalised, (X,), without_variance, budget=1e-9)
    assert only(report).kind == "unexplained" and "budget=" in only(report).message
    assert "ended early for dx" in report.details["search"]
    report = mg.check_hand_gradient(normalised, (X,), without_variance)
    assert only(report).kind == "missing path" and "search" not in report.details
    with pytest.raises(CannotRun, match="budget"):
        mg.check_hand_gradient(normalised, (X,), without_variance, budget=0)


def test_in_a_long_loop_the_same_slip_at_every_step_is_named():
    def recurrent(x, w):
        h, hs = x[0], [x[0]]
        for t in range(1, len(x)):
            h = np.tanh(h @ w + x[t])
            hs.append(h)
        return h, (hs, w)

    def backward(g, cache):
        hs, w = cache
        dx, dw = [], np.zeros_like(w)
        for t in range(len(hs) - 1, 0, -1):
            dx.insert(0, g)
            dw += hs[t - 1].T @ g
            g = g @ w.T
        return np.stack([g, *dx]), dw

    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(30, 2, 3)), generator.normal(size=(3, 3)) / 2
    finding = only(mg.check_hand_gradient(recurrent, inputs, backward))
    assert "the derivative of tanh at each of 29 steps" in finding.message


def test_numbers_are_inputs_where_there_is_no_array_and_whole_numbers_get_a_hint():
    assert mg.check_hand_gradient(lambda x: x**3, (1.5,), lambda g, x: 3 * g * x**2)
    assert "2" in only(mg.check_hand_gradient(lambda x: x**2, (1.5,), lambda g, x: 4 * g * x)).message
    with pytest.raises(CannotRun, match="give the inputs as arrays of floats"):
        mg.check_hand_gradient(lambda x: x * 2.0, (np.arange(3),), lambda g, x: 2 * g)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200])
def test_constants_whose_squares_are_no_numbers_lead_to_a_finding_too(scale):
    assert only(mg.check_hand_gradient(lambda x: x * scale, (X,), lambda g, x: 0.3 * scale * g))


def test_where_there_are_no_elements_nothing_is_compared():
    report = mg.check_hand_gradient(linear, (X[:0], W), linear_backward)
    assert not report and not report.mistakes
    assert "the output has no elements (its shape is [0, 2])" in report.findings[0].message


def test_what_is_wrong_in_several_places_is_one_mistake():
    def chosen(x, a, b):
        return np.where(x > 0, x * a, x * b)

    def inverted(g, x, a, b):
        return g * np.where(x > 0, b, a), g * x * (x < 0), g * x * (x > 0)

    def gated(x, v, w):
        a, b = np.tanh(x @ v), np.tanh(x @ w)
        return a * b, (a, b)

    def unpacked(g, x, v, w, a):
        da, db = g * a * (1 - a**2), g * a * (1 - a**2)
        return da @ v.T + db @ w.T, x.T @ da, x.T @ db

    told = only(mg.check_hand_gradient(chosen, (X, X + 0.7, 2 * X), inverted)).message
    assert "dx, da and db use the condition inverted in `output`" in told
    arrays = X, W, W[::-1] + 0.3
    told = only(mg.check_hand_gradient(gated, arrays, lambda g, x, v, w: unpacked(g, x, v, w, np.tanh(x @ v)))).message
    assert "dx, dv and dw use `a` where `b` is meant, wherever it is used" in told


def test_names_that_begin_with_a_d_are_names_like_others():
    def forward(dim, delta, dx):
        return dim * delta * dx

    def backward(g, dim, delta, dx):
        return {"dim": g * delta * dx, "delta": g * dim * dx, "dx": (g * dim * delta).sum()}

    def prefixed(g, dim, delta, dx):
        return {"d" + name: gradient for name, gradient in backward(g, dim, delta, dx).items()}

    for hand in (backward, prefixed):
        report = mg.check_hand_gradient(forward, (X, X + 1, 0.5), hand)
        assert report and set(report.facts) == {"dim", "delta", "dx"}
    assert mg.check_hand_gradient(lambda x, dx: x * dx, TWO, lambda g, x, dx: {"dx": g * dx, "ddx": g * x})
    assert mg.check_hand_gradient(lambda x, dx: x * dx, TWO, lambda g, x, dx: {"x": g * dx, "dx": g * x})


# ---- where no derivative exists --------------------------------------------------------------------------
def test_numbers_that_overflow_are_not_finite_and_no_zero():
    report = mg.check_hand_gradient(lambda x: np.exp(1e3 * x), (X,), lambda g, x: g * 1e3 * np.exp(1e3 * x))
    assert [finding.kind for finding in report.findings] == ["no derivative"]


def test_long_doubles_are_compared_too():
    x = X.astype(np.longdouble)
    assert mg.check_hand_gradient(np.tanh, (x,), lambda g, x: g * (1 - np.tanh(x) ** 2), keep_dtype=True)


def test_numbers_that_are_not_finite_in_both_are_a_note_and_the_others_are_compared(recwarn):
    x = np.array([0.0, 1.0, 4.0])
    report = mg.check_hand_gradient(np.sqrt, (x,), lambda g, x: g * 0.5 / np.sqrt(x))
    assert report
    assert "the first at [0]: no derivative exists there" in report.findings[0].message
    assert only(mg.check_hand_gradient(np.sqrt, (x,), lambda g, x: g * 0.7 / np.sqrt(x))).kind == "unexplained"
    assert not recwarn.list


@pytest.mark.parametrize(
    ("f", "x", "hand"),
    [
        (np.sqrt, np.zeros(3), lambda g, x: g * 0.5 / np.sqrt(x)),
        (np.log, np.array([0.0, 1.0]), lambda g, x: g / np.maximum(x, 1)),
        (lambda x: x / np.linalg.norm(x), np.zeros(3), lambda g, x: g),
    ],
    ids=["nothing is left", "finite by hand", "0/0"],
)
def test_what_autodiff_does_not_know_proves_nothing(f, x, hand):
    report = mg.check_hand_gradient(f, (x,), hand)
    assert not report and not report.mistakes
    assert report.findings[0].kind == "no derivative"


# ---- a check that proves nothing ---------------------------------------------------------------------------
def normalised(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def normalised_backward(g, x):
    xhat = normalised(x)
    return (g - g.mean(0) - xhat * (g * xhat).mean(0)) / np.sqrt(x.var(0) + 1e-5)


def without_variance(g, x):
    return (g - g.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def test_a_tolerance_that_hides_mistakes_is_a_finding():
    report = mg.check_hand_gradient(normalised, (X,), without_variance, rtol=10)
    assert not report and not report.mistakes
    assert "less than the tolerance" in report.findings[0].message
    assert report.findings[0].evidence["caught"] == 0


def test_a_backward_that_draws_random_numbers_is_not_let_off():
    report = mg.check_hand_gradient(np.sin, (X,), lambda g, x: g * np.random.default_rng().normal(size=x.shape))
    assert not report


@pytest.mark.parametrize("hand", [normalised_backward, without_variance])
@pytest.mark.parametrize("factor", [1, -0.25])
def test_a_sum_at_the_end_of_the_forward_that_annihilates_the_gradient_is_a_finding(hand, factor):
    report = mg.check_hand_gradient(
        lambda x: factor * np.sum(normalised(x)), (X,), lambda g, x: hand(np.full(x.shape, factor * g), x)
    )
    assert not report and not report.mistakes
    finding = next(finding for finding in report.findings if finding.kind == "vacuous")
    assert "the sum in which the forward ends annihilates them" in finding.message


def test_a_loss_whose_own_paths_cancel_is_none():
    """The gradient of a variance through its mean is zero: who leaves it out is right."""
    report = mg.check_hand_gradient(
        lambda x: ((x - x.mean(0)) ** 2).mean(), (X,), lambda g, x: g * 2 * (x - x.mean(0)) / x.size
    )
    assert report and not report.findings


@pytest.mark.parametrize("form", ["a function", "arrays"])
def test_where_every_gradient_is_zero_nothing_is_proved(form):
    def dead(x, w):
        return np.maximum(x @ w, 0)

    inputs, zeros = (np.abs(X), -np.abs(W)), (0 * X, 0 * W)
    hand = zeros if form == "arrays" else lambda g, x, w: zeros
    report = mg.check_hand_gradient(dead, inputs, hand, cotangent=np.ones((4, 2)) if form == "arrays" else None)
    assert not report and not report.mistakes
    assert "every gradient is zero" in report.findings[0].message


# ---- rounding --------------------------------------------------------------------------------------------
def stable_sigmoid(x):
    z, top = np.zeros_like(x), np.ones_like(x)
    z[x >= 0] = np.exp(-x[x >= 0])
    z[x < 0] = top[x < 0] = np.exp(x[x < 0])
    s = top / (1 + z)
    return s, s


@pytest.mark.parametrize("size", [20, 35, 40, 800])
def test_a_saturated_sigmoid_written_with_masks_has_a_right_derivative_in_its_own_digits(size):
    x = size * np.array([[1.0, -1.0, 0.9], [0.01, -0.8, 0.7]])
    assert not mg.check_hand_gradient(stable_sigmoid, (x,), lambda g, s: g * s * (1 - s)).mistakes
    assert mg.check_hand_gradient(stable_sigmoid, (x,), lambda g, s: g * s).mistakes


def test_a_condition_that_comes_out_otherwise_an_ulp_away_lets_no_mistake_off():
    def largest(x):
        out = x.max(1, keepdims=True)
        return out, (x, out)

    def backward(g, cache):
        x, out = cache
        return g * (x == out)

    assert mg.check_hand_gradient(largest, (X,), backward)
    assert not mg.check_hand_gradient(largest, (X,), lambda g, c: 1.001 * backward(g, c))


# ---- axes of length 1 --------------------------------------------------------------------------------------
def batchnorm(x, gamma):
    mu = x.mean(0)
    var = ((x - mu) ** 2).mean(0)
    xhat = (x - mu) / np.sqrt(var + 1e-3)
    return gamma * xhat, (var, xhat, gamma)


def batchnorm_backward(g, cache, eps=0.0, path=1):
    var, xhat, gamma = cache
    d = g * gamma
    dx = (d - d.mean(0) - path * xhat * (d * xhat).mean(0)) / (np.sqrt(var + 1e-3 - eps) + eps)
    return dx, (g * xhat).sum(0)


def test_with_one_channel_a_cause_is_told_rather_than_a_number_of_no_meaning():
    x, gamma = np.random.default_rng(0).normal(size=(6, 1)), np.array([1.3])
    finding = only(mg.check_hand_gradient(batchnorm, (x, gamma), lambda g, c: batchnorm_backward(g, c, eps=1e-3)))
    assert finding.kind == "eps outside"


def test_statistics_of_one_element_are_a_note_and_a_shape_that_would_tell_more_is_named():
    x, gamma = np.array([[0.4, -1.2]]), np.array([1.3, 0.7])
    report = mg.check_hand_gradient(batchnorm, (x, gamma), lambda g, c: batchnorm_backward(g, c, path=0))
    assert not report.mistakes
    assert any("`mu`" in f.message and "one element each" in f.message for f in report.findings)

    def doubled(g, x, w):
        return 2 * g * w, g * x

    one = np.array([[1.3]]), np.array([[2.0]])
    assert "more elements of x would tell" in only(mg.check_hand_gradient(lambda x, w: x * w, one, doubled)).message

    def both_doubled(g, x, b):
        return 2 * g, 2 * g.sum()

    inputs = np.random.default_rng(0).normal(size=(4, 3)), np.array(1.3)
    finding = only(mg.check_hand_gradient(lambda x, b: x + b, inputs, both_doubled))
    assert finding.argument == "x, b" and "would tell" not in finding.message  # x has elements enough


def test_an_unexplained_gradient_behind_a_sum_to_one_number_is_a_finding():
    def log_mixture(x, mu, logits):
        each = logits - np.log(np.sum(np.exp(logits))) - 0.5 * (x[:, None] - mu) ** 2
        return np.log(np.exp(each).sum(axis=1)).mean()

    inputs = tuple(np.random.default_rng(0).normal(size=n) for n in (4, 3, 3))
    report = mg.check_hand_gradient(log_mixture, inputs, tuple(np.cos(x) for x in inputs), cotangent=np.ones(()))
    assert [finding.kind for finding in report.mistakes] == ["unexplained"] * 3


def test_a_path_that_is_missing_is_believed_before_another_that_counts_twice():
    def cosine(a, b):
        dot, na = (a * b).sum(1), np.sqrt((a * a).sum(1))
        return dot / na, (a, b, na)

    def backward(g, cache):
        a, b, na = cache
        return (g / na)[:, None] * b, (g / na)[:, None] * a

    for columns in (1, 3):
        inputs = tuple(1 + np.random.default_rng(0).random((2, 4, columns)))
        finding = only(mg.check_hand_gradient(cosine, inputs, backward))
        assert "path through `na` cut" in finding.message
        assert ("a.shape[1] above 1 may tell" in finding.message) is (columns == 1)


def test_the_state_after_a_step_for_the_one_before_is_named_where_a_loop_only_fills_a_list():
    def recurrent(x, h0, w):
        hs = [h0]
        for t in range(len(x)):
            hs.append(np.tanh(x[t] + hs[-1] @ w))
        return np.stack(hs[1:]), (hs, w)

    def backward(g, cache):
        hs, w = cache
        dx, dw, dh = np.zeros_like(g), np.zeros_like(w), 0
        for t in reversed(range(len(g))):
            dx[t] = (g[t] + dh) * (1 - hs[t + 1] ** 2)
            dw += hs[t + 1].T @ dx[t]
            dh = dx[t] @ w.T
        return dx, dh, dw

    rng = np.random.default_rng(0)
    report = mg.check_hand_gradient(recurrent, (rng.normal(size=(5, 2, 3)), np.ones((2, 3)), np.eye(3)), backward)
    finding = only(report)
    assert finding.argument == "w" and "of the step after where the step itself is meant" in finding.message


# ---- narrow dtypes ---------------------------------------------------------------------------------------
def unit(x):
    n = np.sqrt((x * x).sum(1, keepdims=True))
    return x / n, (x, n)


def unit_backward(g, cache):
    x, n = cache
    return g / n - x * (g * x).sum(1, keepdims=True) / n**3


@pytest.mark.parametrize("rows", [2, 8])
@pytest.mark.parametrize("scale", [1e-1, 1, 1e2])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rounding_is_no_mistake_that_a_check_in_low_precision_would_have_to_see(dtype, scale, rows):
    x = (scale * np.random.default_rng(0).normal(size=(rows, 4))).astype(dtype)
    if rows * scale < 2e2:  # a batch of two that is spread wide hides its mistakes in float64 too
        assert mg.check_hand_gradient(normalised, (x,), normalised_backward, keep_dtype=True)
    report = mg.check_hand_gradient(unit, (x / scale,), unit_backward, keep_dtype=True)
    assert report and not report.findings
    assert report.details["computed in"].startswith(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_mistake_smaller_than_the_rounding_is_named_in_a_low_precision_too(dtype):
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(dtype)
    report = mg.check_hand_gradient(unit, (x,), lambda g, c: 1.0001 * unit_backward(g, c), keep_dtype=True)
    assert "1.0001 times" in only(report).message


def test_what_goes_wrong_in_one_dtype_alone_is_told_from_a_mistake_in_the_derivation():
    def good_in_float64(g, cache):
        return unit_backward(g, cache) * (1 if g.dtype == np.float64 else 2)

    report = mg.check_hand_gradient(unit, (X.astype("float32"),), good_in_float64, keep_dtype=True)
    assert not report and not report.mistakes
    assert "right in float64; in float32" in report.findings[0].message
    large = np.full((2, 3), 5e2, "float16")
    report = mg.check_hand_gradient(unit, (large,), unit_backward, keep_dtype=True)
    assert not report and not report.mistakes
    assert all("float16" in finding.message for finding in report.findings)
    assert mg.check_hand_gradient(unit, (large,), unit_backward)


def in_single(g, cache):
    return unit_backward(g.astype("float32"), tuple(c.astype("float32") for c in cache)).astype(float)


def in_single_between(g, cache):
    return unit_backward(g, tuple(c.astype("float32").astype(float) for c in cache))


def in_single_at_the_end(g, cache):
    return unit_backward(g, cache).astype("float32").astype(float)


@pytest.mark.parametrize("shape", [(5, 4), (1, 3), (2, 2)])
@pytest.mark.parametrize("hand", [in_single, in_single_between, in_single_at_the_end])
def test_a_hand_that_rounds_to_single_precision_is_held_to_its_digits_whatever_it_returns(hand, shape):
    rng = np.random.default_rng(0)
    x = 1 + rng.random(size=shape)
    report = mg.check_hand_gradient(unit, (x,), hand)
    assert report, str(report)
    assert "dx by hand computed in float32" in report.details["precision"]
    assert not mg.check_hand_gradient(unit, (x,), hand, rtol=1e-12)
    if hand is in_single_at_the_end:
        g = rng.normal(size=shape)
        assert mg.check_hand_gradient(unit, (x,), hand(g, unit(x)[1]), g)


def test_a_mistake_of_the_size_of_single_precision_is_not_taken_for_rounding():
    def eps_left_out(g, x):
        xhat = (x - x.mean(0)) / x.std(0)
        return (g - g.mean(0) - xhat * (g * xhat).mean(0)) / x.std(0)

    x = 30 * np.random.default_rng(0).normal(size=(8, 4))
    finding = only(mg.check_hand_gradient(normalised, (x,), eps_left_out))
    assert finding.kind == "eps left out"


@pytest.mark.parametrize("seed", range(4))
def test_a_small_mistake_is_no_rounding_where_statistics_magnify_the_inputs(seed):
    generator = np.random.default_rng(seed)
    inputs = 1 + 20 * generator.normal(size=(7, 4)), generator.normal(size=4)
    finding = only(mg.check_hand_gradient(batchnorm, inputs, lambda g, c: batchnorm_backward(g, c, eps=1e-3)))
    assert finding.kind == "eps outside"


def test_a_constant_with_few_digits_is_called_so():
    finding = only(mg.check_hand_gradient(lambda x: x * 0.1, (X,), lambda g, x: g * np.float32(0.1)))
    assert "dx is 1 + 1.5e-08 times autodiff's" in finding.message and "float32" in finding.message


def test_numbers_that_differ_are_shown_with_the_digits_that_differ():
    def hand(g, x):
        return g + 1e-8 * np.arange(12).reshape(4, 3) % 5e-8

    report = mg.check_hand_gradient(lambda x: 1 * x, (X,), hand, np.ones((4, 3)))
    assert "1.00000001 by hand, 1 by autodiff" in str(report)


# ---- step by step ----------------------------------------------------------------------------------------
def reusing(x, w1, w2):
    h = x @ w1
    h = np.maximum(h, 0)
    h = h * 2
    return h @ w2


REUSED = X, W, W[:2, :2] + 1


def reusing_backward(g, x, w1, w2):
    z = x @ w1
    last = g @ w2.T
    first = 2 * last * (z > 0)
    return {"x": first @ w1.T, "w1": x.T @ first, "w2": (2 * np.maximum(z, 0)).T @ g}, first, 2 * last, last


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_step_of_a_name_that_held_several_values_is_taken_for_the_one_that_fits(which):
    def hand(*arguments):
        answer = reusing_backward(*arguments)
        return answer[0] | {"h": answer[which]}

    assert mg.check_hand_gradient(reusing, REUSED, hand)


def test_a_step_that_fits_none_of_the_values_of_its_name_says_so_and_names_no_cause():
    def hand(*arguments):
        answer = reusing_backward(*arguments)
        return answer[0] | {"dh": 3 * answer[1]}

    message = only(mg.check_hand_gradient(reusing, REUSED, hand)).message
    assert message.startswith("the first wrong step is dh: several values have that name")
    assert "`h #2` (line " in message and "`h #3` (line " in message


def staged(x):
    mean = x.mean(0)
    centred = x - mean
    square = centred**2
    var = square.mean(0)
    inverse = 1 / np.sqrt(var + 1e-5)
    return centred * inverse


def test_the_cause_of_a_wrong_step_lies_between_it_and_the_steps_that_were_right():
    def hand(g, x):
        centred = x - x.mean(0)
        inverse = 1 / np.sqrt((centred**2).mean(0) + 1e-5)
        dinverse = (g * centred).sum(0)
        dvar = -0.5 * inverse**3 * dinverse
        dsquare = np.ones_like(x) * dvar / len(x)
        dcentred = g * inverse - 2 * centred * dsquare
        return {
            "inverse": dinverse,
            "var": dvar,
            "square": dsquare,
            "centred": dcentred,
            "x": dcentred - dcentred.mean(0),
        }

    report = mg.check_hand_gradient(staged, (X,), hand)
    step = next(finding for finding in report.mistakes if finding.kind == "wrong step")
    assert step.message.endswith("in dcentred the path through `square` has the wrong sign")


# ---- the command line ------------------------------------------------------------------------------------
MINE = """
import sys
import numpy as np
def forward(x, w, scale=2.0): return np.tanh(x @ w) * scale
def right(g, x, w):
    d = 2 * g * (1 - np.tanh(x @ w) ** 2)
    return d @ w.T, x.T @ d
def nothing(g, x, w): pass
def quits(*arguments): sys.exit(0)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mine", "leaving"):
        monkeypatch.delitem(sys.modules, f"checked_{name}", raising=False)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "leaving.py").write_text(MINE + "sys.exit(0)\n")
    return tmp_path


def command(backward="mine.py:right", forward="mine.py:forward", inputs="inputs.npz", *options):
    return main([backward, "--forward", forward, "--inputs", inputs, *options])


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({"w": W, "x": X}, 0, "right"), ({"w": W, "scale": 2.0, "x": X}, 0, "right"), ({"a": X, "b": W}, 0, "right"),
        ({"w": W, "X": X}, 2, "X is no argument of forward(x, w, scale=2.0)"), ({"x": X}, 2, "there is no w in it"),
        ({"x": X, "w": W, "dout": X @ W}, 2, "dout is no argument"), ({}, 2, "no arrays in it"),
        ({"x": X, "w": W, "cotangent": X @ W}, 0, "right"), ({"x": X * np.nan, "w": W}, 2, "the input x holds NaN"),
        ({"x": np.array([{}], dtype=object), "w": W}, 2, "cannot be read as an .npz"),
    ],
)  # fmt: skip
def test_the_command_takes_arrays_by_name_or_all_in_their_order(mine, capsys, arrays, code, words):
    np.savez("inputs.npz", **arrays)
    assert command() == code
    assert words in "".join(capsys.readouterr())


@pytest.mark.parametrize("damage", ["cut", "garbage", "a wrong bit", "one array", "text in a zip"])
def test_a_broken_file_of_inputs_is_no_verdict(mine, capsys, damage):
    np.savez("inputs.npz", x=X, w=W)
    whole = (mine / "inputs.npz").read_bytes()
    if damage == "one array":
        np.save("one.npy", X)
        whole = (mine / "one.npy").read_bytes()
    elif damage == "text in a zip":
        with zipfile.ZipFile("text.zip", "w") as archive:
            archive.writestr("a.txt", "x")
        whole = (mine / "text.zip").read_bytes()
    at = len(whole) // 3
    (mine / "inputs.npz").write_bytes(
        {
            "cut": whole[:at],
            "garbage": b"PK\x03\x04 and",
            "a wrong bit": whole[:at] + b"\xff\x00" + whole[at + 2 :],
        }.get(damage, whole)
    )
    assert command() == 2
    assert "could not run: inputs.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("leaving.py:right", "leaving.py:forward"), 2, "raised SystemExit at leaving.py"),
        (("mine.py:right", "mine.py:quits"), 2, r"RuntimeError at mine.py.*SystemExit"),
        (("mine.py:quits",), 1, "raised SystemExit at mine.py"),
        (("mine.py:right", "mine.py:forward", "inputs.npz", "--seed", "-1"), 2, "seed=-1"),
        (("mine.py:right", "mine.py:forward", "inputs.npz", "--outputs", "-1"), 2, "outputs=-1"),
        (("mine.py:right", "mine.py:forward", "inputs.npz", "--plot", "no/a.png"), 2, "right.*could not plot"),
        (("mine.py:right", "mine.py:forward", "inputs.npz", "--plot", "a.xyz"), 2, "right.*could not plot"),
        (("mine.py:nothing", "mine.py:forward", "inputs.npz", "--plot", "a.png"), 1, "returned None"),
    ],
)
def test_neither_an_exit_of_the_users_nor_a_picture_decides_the_verdict(mine, capsys, given, code, words):
    pytest.importorskip("matplotlib")
    np.savez("inputs.npz", x=X, w=W)
    assert command(*given) == code
    assert re.search(words, "".join(capsys.readouterr()), re.DOTALL)


# ---- numbers and pictures --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("f", "slope", "factor"),
    [
        (lambda x: x * 2, lambda x: 2 + 0 * x, 1), (np.tanh, lambda x: 1 - np.tanh(x) ** 2, 1),
        (lambda x: np.exp(np.tanh(np.sin(x))), None, 1), (lambda x: x - x / 2, lambda x: 0.5 + 0 * x, 3),
        (lambda x: x * 0, lambda x: 0 * x, None),
    ],
    ids=["2x", "tanh", "three in a row", "x - x/2", "0"],
)  # fmt: skip
def test_one_path_cancels_nothing_and_two_by_what_they_are(f, slope, factor):
    report = mg.check_hand_gradient(f, (X,), lambda g, x: g * slope(x) if slope else g)
    assert report.facts["x"].get("cancellation") == (pytest.approx(factor) if factor else None)
    if factor == 1 and slope:
        assert report.facts["x"]["|path terms|"] == pytest.approx(report.facts["x"]["|gradient|"])
        assert np.allclose(report.absolute["x"], np.abs(report.maps["x"][1]))


def one_off(g, x):
    d = 2 * g
    d[1, 2] *= 1.01
    return d


def test_the_worst_elements_are_elements_that_differ():
    finding = only(mg.check_hand_gradient(lambda x: 2 * x, (X,), one_off))
    assert [row["index"] for row in finding.evidence["worst"]] == [(1, 2)]


def test_an_assertion_says_in_its_first_line_what_is_wrong():
    with pytest.raises(AssertionError) as failure:
        assert_hand_gradient(lambda x: 2 * x, (X,), one_off)
    assert str(failure.value).splitlines()[0].endswith(": WRONG")


def test_differences_are_drawn_on_their_own_scale_and_rounding_looks_like_nothing():
    pytest.importorskip("matplotlib")

    def scales(report):
        return [ax.images[0].get_clim()[1] for ax in report.plot().axes[:3]]

    checked, reference, difference = scales(mg.check_hand_gradient(lambda x: 2 * x, (X,), one_off))
    assert checked == reference > 10 * difference > 0
    report = mg.check_hand_gradient(lambda x: x * 3, (X[0],), lambda g, x: g * (3 + 1e-15))
    assert report and scales(report)[2] > 1e4 * np.abs(np.subtract(*report.maps["x"])).max()
    assert not report.plot().axes[0].get_yticks().size
    with np.errstate(all="raise"):
        mg.check_hand_gradient(np.sqrt, (np.zeros(3),), lambda g, x: g / np.sqrt(x)).plot()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("off", [0.0, 1.0])
def test_a_float_that_the_hand_has_a_gradient_for_is_an_input_like_any_other(named, off):
    def forward(x, w, b):
        return np.tanh(x @ w + b)

    def backward(g, x, w, b):
        d = g * (1 - forward(x, w, b) ** 2)
        gradients = np.outer(d, w), x.T @ d, d.sum() + off
        return dict(zip(("dx", "dw", "db"), gradients, strict=True)) if named else gradients

    report = mg.check_hand_gradient(forward, (rng.normal(size=(5, 3)), rng.normal(size=3), 0.3), backward)
    assert report.ok is (off == 0)
    assert [finding.argument for finding in report.mistakes] == ["b"] * (off != 0)


def test_a_float_without_a_gradient_is_a_setting():
    def forward(x, p):
        return x * p

    for backward in (lambda g, x, p: (g * p, None), lambda g, x, p: (g * p, 0.0)):
        report = mg.check_hand_gradient(forward, (rng.normal(size=4), 0.3), backward)
        assert report.ok and list(report.facts) == ["x"]


@pytest.mark.parametrize(
    ("returned", "argument", "kind", "words"),
    [
        ("dW, dx, db", "x", "swapped", "holds autodiff's dW; are the gradients returned in another order"),
        ("g * y, dW, db", "x", "derivative left out|shape", r"shape \[5, 2\], and x \[5, 3\]: it is the cotangent of"),
        ("dx, dW, db.sum()", "b", "shape", r"summed over axes \[0\]"),
        ("dx, dW, g * (1 - y**2)", "b", "broadcast not summed", "sum it over axes"),
        ("dx, dW.T, db", "W", "transposed", "transposed"),
    ],
)
def test_a_gradient_of_a_wrong_shape_is_told_for_what_it_is(returned, argument, kind, words):
    def forward(x, W, b):
        z = x @ W + b
        return np.tanh(z), z

    source = f"""
def backward(g, x, W, b):
    y = np.tanh(x @ W + b)
    d = g * (1 - y**2)
    dx, dW, db = d @ W.T, x.T @ d, d.sum(0)
    g, y = d, 1.0
    return {returned.replace("g * (1 - y**2)", "d")}
"""
    names = {"np": np}
    exec(source, names)
    inputs = rng.normal(size=(5, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)
    report = mg.check_hand_gradient(forward, inputs, names["backward"], outputs=1)
    found = next(finding for finding in report.mistakes if finding.argument == argument)
    assert re.fullmatch(kind, found.kind) and re.search(words, found.message), report


def test_the_half_of_a_gradient_is_no_average_where_two_steps_use_the_input_and_a_factor_has_no_sign_of_its_own():
    x, w = np.random.default_rng(0).normal(size=(2, 4, 3))
    half = only(mg.check_hand_gradient(lambda x, w: x * w + np.tanh(x), (x, w), lambda g, x, w: (
        g * (w + 1 - np.tanh(x) ** 2) / 2, g * x
    )))  # fmt: skip
    assert "lacks a factor 2" in half.message and "averaged" not in half.message
    power = only(mg.check_hand_gradient(lambda x: (1 + x * x) ** -0.75, (x,), lambda g, x: (
        -2 * x * g * (1 + x * x) ** -1.75
    )))  # fmt: skip
    assert "lacks a factor 0.75 of" in power.message
