"""`gradcheck` at hard places: it accuses no right function, lets no wrong one pass, and says where it cannot tell."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import functional
from minigrad.check import CannotRun, assert_gradient, gradcheck
from minigrad.check.oracles import apart, central, richardson, smooth

pytestmark = pytest.mark.host("the rows made here call NumPy")

rng = np.random.default_rng(3)
X = rng.normal(size=(3, 4))
ZERO_AMONG_ONES = np.concatenate([[0.0], np.ones(99)])

reversed_sine = mg.primitive(lambda x: np.sin(x), lambda g, x: -g * mg.cos(x), name="reversed_sine")
LAYER = (np.concatenate([np.zeros((1, 3)), X[:, :3]]), rng.normal(size=(3, 2)), np.zeros(2))

HARD = {
    "a fast oscillation": (lambda x: mg.sin(x * 1e3), [X[0]]),
    "a very fast oscillation": (lambda x: mg.sin(x * 1e6), [X[0]]),
    "a small spread at a large mean": (lambda x: mg.sqrt(mg.var(x)), [1 + 1e-4 * X[0]]),
    "BatchNorm of mean 1e4 and spread 1e-2": (lambda x: functional.batch_norm(x)[0], [1e4 + 1e-2 * X]),
    "BatchNorm of a constant channel": (lambda x: functional.batch_norm(x)[0], [np.ones((4, 2))]),
    "the edge of the logarithm": (mg.log, [np.array([1e-7, 1.0])]),
    "the edge of the root": (mg.sqrt, [np.array([1e-6, 1.0])]),
    "the edge of arccos": (mg.arccos, [np.array([0.9999, 0.5])]),
    "the edge of log1p": (mg.log1p, [np.array([-0.99999, 0.5])]),
    "entropy": (lambda x: x * mg.log(x), [np.array([1e-4, 0.5, 0.4999])]),
    "inputs of twenty orders of magnitude": (lambda x: x**2, [np.array([1e-10, 1e10, 1.0])]),
    "a result near the smallest numbers": (lambda x: mg.sin(x) * 1e-200, [X[0]]),
    "a result near the largest": (lambda x: mg.sin(x) * 1e200, [X[0]]),
    "terms that cancel": (lambda x: mg.softmax(x, 1).sum(), [X]),
    "what the inputs were added to is taken away again": (lambda x: (x + 1e6) - 1e6, [X[0]]),
    "single precision inside": (lambda x: mg.tanh(x.astype("float32")).astype("float64"), [X]),
    "a saturated function times a large number": (lambda x: 1e6 * mg.tanh(x), [np.array([12.0, 15.0, 0.1])]),
    "one so flat that rounding is larger": (lambda x: 1e6 * mg.tanh(x), [np.array([15.0])]),
    "a constant": (lambda x: mg.ones(3), [X[0]]),
    "a relu that is off": (lambda x: mg.relu(-mg.exp(x)).sum(), [X[0]]),
}  # fmt: skip


@pytest.mark.parametrize("oracle", ["auto", "richardson", "central"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", HARD)
def test_a_right_function_is_not_accused_at_a_hard_place(name, order, oracle):
    f, xs = HARD[name]
    report = gradcheck(f, xs, order, oracle=oracle)
    assert not report.mistakes
    assert report or order > 1  # where the derivative's derivative may be lost in rounding


MOVING = [
    name for name in HARD
    if name not in ("terms that cancel", "a constant", "a relu that is off", "one so flat that rounding is larger")
]  # fmt: skip


@pytest.mark.parametrize("name", MOVING)
def test_a_factor_of_a_thousandth_too_much_is_found_at_a_hard_place(name):
    f, xs = HARD[name]
    more = mg.primitive(lambda y: 1.0 * y, lambda g: 1.001 * g, name="more")
    assert not gradcheck(lambda x: more(f(x)), xs)


def test_a_factor_of_1e_8_too_much_is_found_and_named_by_every_oracle():
    slightly = mg.primitive(lambda x: np.sin(x), lambda g, x: g * mg.cos(x) * (1 + 1e-8), name="slightly")
    for oracle in ("auto", "complex", "richardson", "central"):
        report = gradcheck(lambda x: slightly(x), [X], oracle=oracle)
        assert [f.argument for f in report.mistakes if f.kind == "wrong pullback"] == ["slightly"], oracle


# ---- kinks and infinite slopes -------------------------------------------------------------------------
@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("f", [mg.relu, mg.abs, mg.sqrt])
def test_one_element_without_a_derivative_does_not_hide_the_others(f, reduce):
    def whole(x, with_):
        y = f(x) + with_(x)
        return y.sum() if reduce else y

    assert gradcheck(lambda x: whole(x, mg.sin), [ZERO_AMONG_ONES])
    report = gradcheck(lambda x: whole(x, lambda x: reversed_sine(x)), [ZERO_AMONG_ONES])
    assert [finding.argument for finding in report.mistakes if finding.kind == "wrong pullback"] == ["reversed_sine"]
    assert any(finding.kind == "wrong gradient" for finding in report.mistakes)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: mg.relu(x) + reversed_sine(x), [0.0, 0.0]),
        (lambda x: mg.sqrt(x), [0.0]),
        (lambda x: mg.log(x), [-1.0, 2.0]),
        (lambda x: x * 2, [np.nan]),
        (lambda x: x / mg.norm(x), [0.0, 0.0]),
    ],
)
def test_where_nothing_can_be_compared_nothing_is_proved_and_nobody_accused(f, x):
    report = gradcheck(f, [np.array(x)])
    assert not report and not report.mistakes and "PROVES NOTHING" in str(report)


@pytest.mark.parametrize("oracle", ["auto", "richardson", "central"])
def test_an_infinite_slope_is_told_and_is_no_mistake(oracle):
    report = gradcheck(mg.sqrt, [np.array([0.0, 1.0])], oracle=oracle)
    assert report and [finding.kind for finding in report.findings] == ["no slope"]


def test_outputs_of_a_layer_that_are_not_at_a_kink_are_compared():
    layer = lambda x, w, b: mg.relu(x @ w + b)
    assert gradcheck(layer, LAYER)
    twice = mg.primitive(lambda a, b: a + b, lambda g: g, lambda g: 2 * g, name="twice")
    assert gradcheck(lambda x, w, b: mg.relu(twice(x @ w, b)), LAYER).mistakes


def test_an_empty_input_beside_a_large_one_proves_nothing_wrong():
    assert gradcheck(lambda x, e: mg.tanh(x) + e.sum(), [np.ones((9, 9)), np.zeros((0, 3))])


def test_kinks_that_cancel_are_named():
    """relu(x) - relu(-x) is x; at 0 autodiff says 0, by its convention for each relu."""
    report = gradcheck(lambda x: mg.relu(x) - mg.relu(-x), [np.array([0.0, 1.0])])
    assert report and "relu stands at a kink" in report.findings[0].message


def test_an_op_at_its_kink_or_outside_its_domain_is_not_taken_for_the_culprit():
    report = gradcheck(lambda x: mg.relu(x) + reversed_sine(x), [np.array([0.0, 1.0])])
    assert {finding.argument for finding in report.mistakes} == {"reversed_sine", "x"}
    assert not gradcheck(mg.log, [-np.ones(2)]).mistakes


# ---- narrow dtypes, and a complex step that is none --------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("factor", [-1.0, 2.0, 1.05])
def test_in_a_narrow_dtype_a_wrong_factor_is_found(dtype, factor):
    bad = mg.primitive(lambda x: np.sin(x), lambda g, x: g * mg.cos(x) * factor, name="bad")
    assert gradcheck(mg.sin, [X.astype(dtype)], order=2, keep_dtype=True)
    assert gradcheck(lambda x: bad(x), [X.astype(dtype)], keep_dtype=True).mistakes


def test_a_function_that_takes_only_single_precision_is_checked_in_it():
    """Such as one that has a constant of float32, which does not mix with float64."""
    w = mg.tensor(X.astype("float32"))
    bad = mg.primitive(lambda x: np.sin(x), lambda g, x: g * mg.cos(x) * 1.05, name="bad")
    assert gradcheck(lambda x: mg.tanh(x.astype("float32") * w), [X.astype("float32")], order=2, keep_dtype=True)
    report = gradcheck(lambda x: bad(x * w), [X.astype("float32")], keep_dtype=True)
    assert report.mistakes and report.mistakes[0].argument == "bad"


@pytest.mark.parametrize("square", [lambda x: x * np.conj(x), lambda x: np.abs(x) ** 2])
def test_a_complex_step_that_is_no_derivative_accuses_nobody(square):
    right = mg.primitive(square, lambda g, x: 2 * g * x, name="right")
    assert gradcheck(lambda x: right(x), [X])
    report = gradcheck(lambda x: right(x) + reversed_sine(x), [X])
    assert {finding.argument for finding in report.mistakes} == {"reversed_sine", "x"}


# ---- the oracles ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("oracle", [central, richardson])
def test_each_output_has_its_own_step(oracle):
    x = np.array([1e-7, 1.0])
    slope = oracle(lambda xs: np.log(xs[0]), [x], [np.ones(2)])
    np.testing.assert_allclose(slope.value, 1 / x, rtol=1e-6)
    assert (np.abs(slope.value - 1 / x) <= slope.error).all()


@pytest.mark.parametrize("oracle", [central, richardson])
def test_beside_nan_an_oracle_says_that_it_cannot_tell(oracle):
    slope = oracle(lambda xs: np.sqrt(xs[0]), [np.array([0.0, 4.0])], [np.ones(2)])
    assert slope.error[0] == np.inf and slope.value[1] == pytest.approx(0.25, abs=1e-9)


def test_the_smooth_part_of_a_direction():
    f = lambda xs: np.array([np.abs(xs[0]).sum()])
    x, u = np.array([1.0, 0.0, -2.0, 0.0]), np.arange(1.0, 5)
    assert apart(f, [x], [u], 1e-7).all()
    assert smooth(f, [x], [u])[0].tolist() == [1, 0, 3, 0]


# ---- what is said ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("oracle", "said"), [("central", "rounding"), ("richardson", "rounding")])
def test_the_best_step_and_what_limits_it_are_told_where_all_is_right(oracle, said):
    words = gradcheck(mg.exp, [X], oracle=oracle).details["oracle"]
    assert "12 directions, best step 0.0" in words and f"limited by {said}" in words


def test_only_elements_that_differ_are_listed_as_the_worst():
    one = mg.primitive(lambda x: 2 * x, lambda g, x: g * (2 + (x == x.max())), name="one")
    finding = next(f for f in gradcheck(lambda x: one(x), [X]).mistakes if f.kind == "wrong gradient")
    assert [row["ratio"] for row in finding.evidence["worst"]] == [1.5]


@pytest.mark.parametrize(
    ("pullback", "said"),
    [
        (lambda g, x: 1 / 0, "ZeroDivisionError"),
        (lambda g, x: g.nothing, "AttributeError"),
        (lambda g, x: g[:1], "(3, 4)"),
    ],
)
def test_a_pullback_that_raises_or_returns_another_shape_is_named(pullback, said):
    broken = mg.primitive(lambda x: np.sin(x), pullback, name="broken")
    (finding,) = gradcheck(lambda x: broken(x), [X]).mistakes
    assert finding.kind == "raised" and "the pullback of broken in its argument 'x'" in finding.message
    assert said in finding.message


def test_a_pullback_that_cannot_be_differentiated_raises_with_the_users_line():
    once = mg.primitive(lambda x: np.sin(x), lambda g, x: g * np.cos(np.asarray(memoryview(x))), name="once")
    assert gradcheck(lambda x: once(x), [X], modes="reverse")
    with pytest.raises(CannotRun, match=r"the backward pass of .* at test_gradcheck.py:\d+"):
        gradcheck(lambda x: once(x), [X], modes="reverse", order=2)


@pytest.mark.parametrize(
    ("option", "value"),
    [("order", "a"), ("order", 1.5), ("order", 0), ("directions", 0), ("seed", "a"), ("seed", -1),
     ("rtol", -1), ("rtol", 100), ("rtol", "a"), ("modes", "up"), ("oracle", "foo")],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_refused(option, value):
    with pytest.raises(ValueError, match=f"gradcheck: .*{option}.* not {value!r}"):
        gradcheck(mg.sin, [X], **{option: value})


def test_no_warning_leaks(recwarn):
    for f, x in ((mg.log, -X), (mg.sqrt, ZERO_AMONG_ONES), (mg.sin, X.astype("float16"))):
        gradcheck(f, [x], keep_dtype=True)
    assert not recwarn.list


def test_an_assertion_begins_with_what_was_found():
    with pytest.raises(AssertionError, match=r"^gradient of <lambda>\(\): WRONG"):
        assert_gradient(lambda x: reversed_sine(x), [X])


def test_a_layer_of_another_dtype_than_the_check_is_told_how_to_be_checked():
    """Layers are born in single precision, and the check computes in double."""
    layer, x = mg.nn.BatchNorm1d(3), mg.random.normal(5, 3)
    says = r"\(the check computes in float64: convert a layer with to_dtype\(mg.float64\)"
    with pytest.raises(CannotRun, match=says + r", or keep_dtype=True\)"):
        gradcheck(layer, [x])
    with pytest.raises(CannotRun, match=says + r"\)"):
        gradcheck(layer, [x.astype(mg.float64)])
    assert gradcheck(layer, [x], keep_dtype=True).ok
    assert gradcheck(layer.to_dtype(mg.float64), [x]).ok
