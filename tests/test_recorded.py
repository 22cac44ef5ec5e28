"""A user's plain NumPy function, recorded: it computes what it computes for arrays, or is refused."""


import copy

import numpy as np
import pytest

import minigrad as mg
from minigrad.check import CannotRun
from minigrad.check.forward import record

X = np.random.default_rng(0).normal(size=(4, 3))


# ---- arrays made, written into, and shared ----------------------------------------------------------------------
def alias_is_the_same_array(x):
    y = x * 1.0
    z = y
    z += x
    return y


def slice_is_a_view(x):
    y = x * 1.0
    v = y[1:3]
    v *= 2.0
    return y


def rows_are_swapped_as_numpy_swaps_them(x):
    y = x.copy()
    y[0], y[1] = y[1], y[0]
    return y**2


def row_is_filled(x):
    out = np.zeros((4, 3))
    for i in range(4):
        row = out[i]
        row[:] = x[i] ** 2
    return out


def rows_are_added_to(x):
    out = np.zeros((4, 3))
    for row, r in zip(out, x):
        row += r**2
    return out


def chained_indices(x):
    out = np.zeros((2, 4, 3))
    for i in range(4):
        out[1][i][2] = x[i, 0] * x[i, 1]
        out[0][i] += x[i]
    return out


def reshaped_view(x):
    out = np.zeros((4, 3))
    flat = out.reshape(-1)
    flat[:] = x.reshape(-1) ** 2
    return out


def reshape_of_a_transpose_is_a_copy(x):
    y = x * 1.0
    y.T.reshape(-1)[:] = 0.0
    return y


def transposed_view(x):
    out = np.zeros((3, 4))
    out.T[:] = x**2
    return out


def view_of_a_view(x):
    y = x * 1.0
    inner = y[1:][:, 1:]
    inner *= x[:3, :2]
    y[2] = 0.0
    return y.sum() + inner.sum()


def computed_before_it_was_overwritten(x):
    y = x * 1.0
    w = y * y
    y[0] = 0.0
    return w + y


def numbers_are_not_shared(x):
    s = x[0, 0]
    t = s
    s += x[1, 1]
    return s * t


def input_is_overwritten(x):
    x -= x.mean(axis=0)
    x[x < 0] = 0
    return x**2


def out_is_given(x):
    y = np.empty_like(x)
    np.exp(x, out=y)
    np.multiply(y, x, out=y, where=x > 0)
    z = np.zeros(3)
    np.sum(y, axis=0, out=z)
    return y * z


def array_of_lists(x):
    return np.array([[x[0, 0], 1.0], [2.0, x[1, 1]]]) + np.asarray([v**2 for v in x[0, :2]])


def lists_are_summed(x):
    return np.sum([x[0], x[1]], axis=0) * np.mean([x[2], x[3]])


def brackets(x):
    return np.c_[x, x[:, 0]] * np.r_[x[:, 0], 1:3, x[0, 0]][:4, None]


def constants_are_filled(x):
    a, b, c = np.eye(3), np.arange(12.0).reshape(4, 3), np.array([1.0, 2.0, 3.0])
    a[0] = x[0]
    b += x
    c *= x[1]
    return b @ a + c


def added_at_places(x):
    out = np.zeros((2, 3))
    np.add.at(out, [0, 1, 0, 1], x)
    np.subtract.at(out, (0, [1, 1]), x[0, 0])
    return out


def other_ways_to_write(x):
    a, b, c, d = np.zeros((4, 3)), x[:3] * 1.0, x.copy(), x * 1.0
    np.copyto(a, x)
    np.fill_diagonal(b, 0.0)
    np.putmask(c, c > 0, 0.5)
    d.fill(2.0)
    return a * c * d + b.sum()


def methods_with_numpys_arguments(x):
    y = x.astype(x.dtype, copy=False) + x.clip(min=0).mean(axis=0, dtype=np.float64)
    y = y + x.take([0, 2, 1, 1], axis=0) + x.copy(order="C").conj().real
    y = y + x.sum(axis=1, where=x > 0, initial=1.0)[:, None] + x.std(0, mean=x.mean(0, keepdims=True))
    return y.reshape(2, 6, order="F") * x.ravel(order="F")[:6] + sum(v for v in x.flat) + x.flatten("F")[1]


def copies_by_python(x):
    return copy.copy(x) * copy.deepcopy(x)


def is_an_array(x):
    return x * 2 if isinstance(x, np.ndarray) else x * 3


def printed(x):
    assert f"{x.sum():.3f}" == f"{float(np.sum(X)):.3f}"
    quotient, rest = divmod(x, 2.0)
    return rest + quotient + round(x[0, 0], 1)


FUNCTIONS = [
    alias_is_the_same_array, slice_is_a_view, rows_are_swapped_as_numpy_swaps_them, row_is_filled, rows_are_added_to,
    chained_indices, reshaped_view, reshape_of_a_transpose_is_a_copy, transposed_view, view_of_a_view,
    computed_before_it_was_overwritten, numbers_are_not_shared, input_is_overwritten, out_is_given, array_of_lists,
    lists_are_summed, brackets, constants_are_filled, added_at_places, other_ways_to_write,
    methods_with_numpys_arguments, copies_by_python, is_an_array, printed,
]  # fmt: skip


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_what_is_written_and_shared_is_recorded_as_numpy_does_it(f):
    run = record(f, [X])
    (y,), (x,) = run.outputs, run.leaves
    np.testing.assert_allclose(y.numpy(), f(X.copy()), rtol=1e-13)
    rng = np.random.default_rng(1)
    g, u, h = rng.normal(size=y.shape), rng.normal(size=X.shape), 1e-6
    slope = np.sum(g * (f(X + h * u) - f(X - h * u))) / (2 * h)
    gradient = mg.grad(y, x, g).numpy()
    assert np.sum(gradient * u) == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_a_parameter_of_minigrads_is_not_written_into():
    p = mg.nn.Linear(3, 2).to_dtype("float64").weight
    before = p.numpy().copy()

    def f(x):
        w = p
        w += 1.0
        return x @ w.T

    with pytest.raises(CannotRun, match=r"`w \+= 1.0`: update: the new value of this Parameter is on the tape"):
        record(f, [X])
    assert np.array_equal(p.numpy(), before)


def test_tensors_have_their_own_methods_again_afterwards():
    before = dict(vars(mg.Tensor))
    record(slice_is_a_view, [X])
    assert dict(vars(mg.Tensor)) == before


# ---- and what is refused --------------------------------------------------------------------------------------------
def fills_a_global_array(x):
    GLOBAL[0] = x[0]
    return GLOBAL


def vectorizes(x):
    return np.vectorize(lambda v: v * v)(x)


def iterates(x):
    return sum(v for v in np.nditer(x))


GLOBAL = np.ones((4, 3))


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (fills_a_global_array, "`GLOBAL.0. = x.0.`: .* np.zeros or np.array in the function"),
        (vectorizes, "np.vectorize: .* write the function for whole arrays"),
        (iterates, "np.nditer: .* np.ndindex"),
    ],
)
def test_what_cannot_be_recorded_is_refused_with_the_call_and_the_fix(f, words):
    with pytest.raises(CannotRun, match=words):
        record(f, [X])


def sorts_in_place(x):
    y = x.copy()
    y.sort(axis=0)
    return y


def asks_for_the_type(x):
    return x * 2 if type(x) is np.ndarray else x * 3


def draws(x):
    return x * np.random.default_rng().random(x.shape)


calls = [0]


def counts_its_calls(x):
    calls[0] += 1
    return x * calls[0]


@pytest.mark.parametrize("f", [sorts_in_place, asks_for_the_type, draws, counts_its_calls])
def test_a_function_that_was_recorded_as_another_one_is_refused(f):
    with pytest.raises(CannotRun, match=rf"{f.__name__}\(\) returns other values when it is recorded .* seed the"):
        record(f, [X])


def test_a_random_mask_is_the_same_for_tensors_and_arrays_and_drawn_once():
    def dropout(x):
        mask = (np.random.rand(*x.shape) < 0.5) / 0.5
        return x * mask, mask

    np.random.seed(0)
    expected, following = np.random.rand(*X.shape), np.random.rand()
    np.random.seed(0)
    run = record(dropout, [X])
    assert np.array_equal(run.rest[0], (expected < 0.5) / 0.5)
    assert np.random.rand() == following


def test_a_backward_pass_gets_the_cache_that_its_forward_makes_of_arrays():
    class Cache:
        pass

    def forward(x, w):
        cache = Cache()
        cache.x, cache.w = x, w
        return x @ w, cache

    run = record(forward, [X, X.T.copy()])
    assert type(run.rest[0].x) is np.ndarray


def argmax_of_rows(x):
    return np.argmax(x, axis=1)


def signs(x):
    s = np.sign(x)
    return s * 2


def mask_as_numbers(x):
    return (x > 0).astype(float)


@pytest.mark.parametrize(("f", "op"), [(argmax_of_rows, "argmax"), (signs, "sign"), (mask_as_numbers, "greater")])
def test_the_step_that_has_no_derivative_is_named_with_its_line(f, op):
    with pytest.raises(CannotRun, match=rf"{op} on line \d+, `.*`, is constant almost everywhere"):
        record(f, [X])
