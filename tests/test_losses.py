"""Losses, as functions and as modules, against their formulas and against PyTorch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import minigrad as mg
from minigrad import functional as F
from minigrad import nn
from tests import references as ref
from tests.against import agrees_with_reference, agrees_with_torch, floats

REDUCTIONS = ["mean", "sum", "none"]
SHAPES = [(5, 4), (3, 4, 2), (2, 4, 2, 3)]


def torch_functional():
    return pytest.importorskip("torch").nn.functional


def classes(shape, ignored=None, seed=3):
    """Class indices for scores of `shape`, some of them ignored."""
    target = np.random.default_rng(seed).integers(0, shape[1], shape[:1] + shape[2:])
    if ignored is not None:
        target.reshape(-1)[::3] = ignored
    return target


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "weighted, ignored, smoothing", list(itertools.product([False, True], [None, -100, 1], [0.0, 0.3]))
)
def test_cross_entropy_of_classes(shape, reduction, weighted, ignored, smoothing):
    (x,) = floats(shape)
    target = classes(shape, ignored)
    weight = np.array([0.5, 1.5, 2.0, 0.7]) if weighted else None
    options = {
        "ignore_index": -100 if ignored is None else ignored,
        "reduction": reduction,
        "label_smoothing": smoothing,
    }

    loss = nn.CrossEntropyLoss(None if weight is None else mg.tensor(weight), **options)
    agrees_with_reference(
        lambda x: loss(x, mg.tensor(target)),
        lambda x: ref.cross_entropy(x, target, weight, options["ignore_index"], reduction, smoothing),
        x,
    )
    torch = pytest.importorskip("torch")
    agrees_with_torch(
        lambda x: loss(x, mg.tensor(target)),
        lambda x: torch.nn.functional.cross_entropy(
            x, torch.tensor(target), None if weight is None else torch.tensor(weight), **options
        ),
        x,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted, smoothing", [(False, 0.0), (True, 0.0), (False, 0.2), (True, 0.2)])
def test_cross_entropy_of_probabilities(shape, reduction, weighted, smoothing):
    x, scores = floats(shape, shape)
    target = np.exp(ref.log_softmax(scores, 1))
    weight = np.array([0.5, 1.5, 2.0, 0.7]) if weighted else None
    options = {"reduction": reduction, "label_smoothing": smoothing}
    ours = lambda x, t: F.cross_entropy(x, t, None if weight is None else mg.tensor(weight), **options)
    reference = lambda x, t: ref.cross_entropy(x, t, weight, reduction=reduction, smoothing=smoothing)
    agrees_with_reference(ours, reference, x, target)
    torch = pytest.importorskip("torch")
    theirs = lambda x, t: torch.nn.functional.cross_entropy(
        x, t, None if weight is None else torch.tensor(weight), **options
    )
    agrees_with_torch(ours, theirs, x, target)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted, ignored", [(False, None), (True, None), (False, 2), (True, -100)])
def test_nll_loss(shape, reduction, weighted, ignored):
    (x,) = floats(shape)
    target = classes(shape, ignored)
    weight = np.array([0.5, 1.5, 2.0, 0.7]) if weighted else None
    index = -100 if ignored is None else ignored
    loss = nn.NLLLoss(None if weight is None else mg.tensor(weight), index, reduction)
    ours = lambda x: loss(x, mg.tensor(target))
    agrees_with_reference(ours, lambda x: ref.nll(x, target, weight, index, reduction), x)
    torch = pytest.importorskip("torch")
    theirs = lambda x: torch.nn.functional.nll_loss(
        x,
        torch.tensor(target),
        None if weight is None else torch.tensor(weight),
        ignore_index=index,
        reduction=reduction,
    )
    agrees_with_torch(ours, theirs, x)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_of_ignored_targets_has_the_mean_nan_and_the_sum_zero(smoothing):
    (x,) = floats((3, 4))
    target = mg.tensor([-100] * 3)
    assert np.isnan(F.cross_entropy(mg.tensor(x), target, label_smoothing=smoothing).item())
    assert F.cross_entropy(mg.tensor(x), target, reduction="sum", label_smoothing=smoothing).item() == 0.0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 3, 2)])
def test_regression_losses(shape, reduction):
    x, t = floats(shape, shape)
    x, t = x * 2, t * 2
    functional = torch_functional()
    cases = [
        (nn.MSELoss(reduction), lambda x, t: ref.reduced((x - t) ** 2, reduction), functional.mse_loss, {}),
        (nn.L1Loss(reduction), lambda x, t: ref.reduced(np.abs(x - t), reduction), functional.l1_loss, {}),
        (nn.HuberLoss(reduction), lambda x, t: ref.huber(x, t, 1.0, reduction), functional.huber_loss, {}),
        (
            nn.HuberLoss(reduction, delta=0.4),
            lambda x, t: ref.huber(x, t, 0.4, reduction),
            functional.huber_loss,
            {"delta": 0.4},
        ),
    ]
    for loss, reference, theirs, options in cases:
        agrees_with_reference(loss, reference, x, t)
        agrees_with_torch(loss, lambda x, t: theirs(x, t, reduction=reduction, **options), x, t)  # noqa: B023


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("positive", [False, True])
def test_bce_with_logits(reduction, weighted, positive):
    x, t = floats((4, 3), (4, 3))
    t = 1 / (1 + np.exp(-t))
    weight = np.array([[0.5], [1.0], [2.0], [0.1]]) if weighted else None
    pos_weight = np.array([0.5, 1.0, 3.0]) if positive else None
    loss = nn.BCEWithLogitsLoss(
        None if weight is None else mg.tensor(weight), reduction, None if pos_weight is None else mg.tensor(pos_weight)
    )
    reference = lambda x, t: ref.bce_with_logits(
        x, t, 1.0 if weight is None else weight, 1.0 if pos_weight is None else pos_weight, reduction
    )
    agrees_with_reference(loss, reference, x, t)
    torch = pytest.importorskip("torch")
    theirs = lambda x, t: torch.nn.functional.binary_cross_entropy_with_logits(
        x, t,
        None if weight is None else torch.tensor(weight),
        pos_weight=None if pos_weight is None else torch.tensor(pos_weight),
        reduction=reduction,
    )  # fmt: skip
    agrees_with_torch(loss, theirs, x, t)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_scores_neither_overflow_nor_vanish(scale):
    x = mg.tensor(np.array([[scale, -scale], [-scale, scale]]), requires_grad=True)
    loss = F.cross_entropy(x, mg.tensor([0, 0]))
    loss.backward()
    assert loss.item() == scale
    np.testing.assert_allclose(x.grad.numpy(), [[0, 0], [-0.5, 0.5]], atol=1e-12)
    t = mg.tensor(np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert F.bce_with_logits(x, t).item() == scale / 2


def test_losses_have_exact_second_derivatives():
    x = mg.tensor(floats((3, 4))[0], requires_grad=True)
    target = mg.tensor([1, 0, 3])
    h = mg.hessian(lambda x: F.cross_entropy(x, target, reduction="sum"), x).numpy()
    p = F.softmax(x).numpy()
    expected = np.zeros((3, 4, 3, 4))
    for i in range(3):
        expected[i, :, i, :] = np.diag(p[i]) - np.outer(p[i], p[i])
    np.testing.assert_allclose(h, expected, atol=1e-14)


def test_float16_scores_keep_their_dtype_and_do_not_overflow():
    x = mg.tensor(np.full((4, 3), 6e4, np.float16), requires_grad=True)
    loss = F.cross_entropy(x, mg.tensor([0, 1, 2, 0]))
    loss.backward()
    assert loss.dtype == np.float16 and abs(loss.item() - np.log(3)) < 1e-2
    assert np.isfinite(x.grad.numpy()).all()


def scores(*shape):
    return mg.zeros(shape or (2, 3))


@pytest.mark.parametrize(
    "call, says",
    [
        (
            lambda: F.cross_entropy(scores(), mg.tensor([0, 3])),
            r"cross_entropy: a target is 3, but the 3 classes are 0\.\.2",
        ),
        (lambda: F.cross_entropy(scores(), mg.tensor([0, -1])), r"cross_entropy: a target is -1"),
        (lambda: F.cross_entropy(scores(), mg.tensor([[0], [1]])), r"needs class indices of shape \[2\], not \[2, 1\]"),
        (lambda: F.cross_entropy(scores(), mg.tensor([0, 1, 2])), r"needs class indices of shape \[2\], not \[3\]"),
        (lambda: F.cross_entropy(scores(3), mg.tensor(0)), r"cross_entropy"),
        (
            lambda: F.cross_entropy(scores(), mg.tensor([True, False])),
            r"cross_entropy: class indices are integers, not bool",
        ),
        (lambda: F.cross_entropy(scores(), mg.ones(2)), r"cross_entropy .*probabilities: .*\[2, 3\].*\[2\]"),
        (lambda: F.cross_entropy(scores(), mg.tensor([0, 1]), mg.ones(2)), r"the weight needs shape \[3\], not \[2\]"),
        (lambda: F.cross_entropy(scores(), mg.ones(2, 3), mg.ones(2)), r"the weight needs shape \[3\], not \[2\]"),
        (lambda: F.cross_entropy(scores(), mg.tensor([0, 1]), reduction="avg"), r"reduction is .* not 'avg'"),
        (
            lambda: F.cross_entropy(scores(), mg.tensor([0, 1]), label_smoothing=float("nan")),
            r"label_smoothing .* not nan",
        ),
        (lambda: F.nll_loss(scores(), mg.tensor([0.0, 1.0])), r"nll_loss: class indices are integers, not float32"),
        (lambda: F.mse_loss(scores(4), scores(4, 1)), r"mse_loss: .*\[4\].*\[4, 1\].*reshape"),
        (lambda: F.l1_loss(scores(4, 1), scores(4)), r"l1_loss: .*\[4, 1\].*\[4\]"),
        (lambda: F.huber_loss(scores(4, 1), scores(4)), r"huber_loss"),
        (lambda: F.bce_with_logits(scores(4, 1), scores(4)), r"bce_with_logits: .*\[4, 1\].*\[4\]"),
        (lambda: F.bce_with_logits(scores(4), scores(4), scores(4, 1)), r"bce_with_logits: the weight \[4, 1\].*\[4\]"),
        (
            lambda: F.bce_with_logits(scores(4), scores(4), None, scores(4, 1)),
            r"bce_with_logits: the pos_weight \[4, 1\]",
        ),
        (lambda: F.huber_loss(scores(), scores(), delta=-1.0), r"delta is positive, not -1"),
        (lambda: nn.HuberLoss(delta=float("nan")), r"HuberLoss: delta is positive and finite, not nan"),
        (
            lambda: nn.CrossEntropyLoss(label_smoothing=1.5),
            r"CrossEntropyLoss: label_smoothing is between 0 and 1, not 1.5",
        ),
        (lambda: nn.MSELoss("average"), r"MSELoss: reduction is 'mean', 'sum' or 'none', not 'average'"),
        (lambda: nn.CrossEntropyLoss(mg.ones(3), reduction=None), r"CrossEntropyLoss: reduction"),
    ],
)
def test_bad_input_is_refused_at_once(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        result = call()
        result.numpy()  # a device is asked about labels when values next cross to the host


def test_a_loss_names_its_weight_as_pytorch_does_and_never_learns_it():
    loss = nn.CrossEntropyLoss(mg.ones(3))
    assert list(loss.state_dict()) == ["weight"] and not list(loss.parameters())
