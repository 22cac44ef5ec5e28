"""`check_hand_gradient` with people's own ways of writing: their state, their dice, how they call and answer."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.check import CannotRun

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

    with pytest.raises(CannotRun, match=r"unseeded\(\) gave another result .* seed"):
        mg.check_hand_gradient(unseeded, (X,), lambda g, x: g)


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


LEFT = {}


def leaving(x):
    global latest
    latest = LEFT["x"] = x
    return x * x


def test_state_in_globals_is_arrays_too():
    assert mg.check_hand_gradient(leaving, (X,), lambda g: np.stack([a * b for a, b in zip(g, latest + LEFT["x"])]))
    assert type(latest) is type(LEFT["x"]) is np.ndarray
