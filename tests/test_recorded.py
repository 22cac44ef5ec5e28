"""A user's plain NumPy function, recorded: it computes what it computes for arrays, or is refused."""


import numpy as np
import pytest

from minigrad.check import CannotRun
from minigrad.check.forward import record

X = np.random.default_rng(0).normal(size=(4, 3))


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
