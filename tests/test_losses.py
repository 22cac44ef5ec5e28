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


INF = float("inf")


@pytest.mark.parametrize(
    "loss, x, t, value, slope",
    [
        (F.huber_loss, INF, 0.0, INF, 2.0), (F.huber_loss, -INF, 1.0, INF, -2.0), (F.huber_loss, 1.0, INF, INF, -2.0),
        (F.huber_loss, 1e30, 0.0, 2e30, 2.0), (F.huber_loss, 2.0, 0.0, 2.0, 2.0), (F.huber_loss, 0.0, 0.0, 0.0, 0.0),
        (F.bce_with_logits, INF, 0.0, INF, 1.0), (F.bce_with_logits, -INF, 1.0, INF, -1.0),
        (F.bce_with_logits, INF, 0.25, INF, 0.75), (F.bce_with_logits, -INF, 0.25, INF, -0.25),
        (F.bce_with_logits, 1e30, 0.0, 1e30, 1.0), (F.bce_with_logits, 30.0, 1.0, np.exp(-30.0), -np.exp(-30.0)),
        (F.bce_with_logits, -30.0, 0.0, np.exp(-30.0), np.exp(-30.0)),
        (F.mse_loss, INF, 0.0, INF, INF), (F.l1_loss, -INF, 0.0, INF, -1.0), (F.l1_loss, 3.0, 3.0, 0.0, 0.0),
    ],
)  # fmt: skip
def test_a_loss_and_its_slope_where_numbers_end(loss, x, t, value, slope):
    """Outliers pull with a finite force, and what is nearly certain is not yet rounded to nothing."""
    options = {"delta": 2.0} if loss is F.huber_loss else {}
    x = mg.tensor([x], requires_grad=True)
    y = loss(x, mg.tensor([t]), **options)
    y.backward()
    np.testing.assert_allclose([y.item(), x.grad.item()], [value, slope], rtol=1e-6)


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
        (lambda: F.cross_entropy(scores(3), mg.tensor(0)), r"cross_entropy: needs an input \(n, classes, .*x\[None\]"),
        (lambda: F.cross_entropy(scores(3), scores(3)), r"cross_entropy: needs an input .* not \[3\]"),
        (lambda: F.cross_entropy(mg.tensor([[1, 2]]), mg.tensor([0])), r"cross_entropy: the input is floating, not"),
        (lambda: F.cross_entropy(scores(), [0, 1], ignore_index=1.5), r"ignore_index must be a whole number, not 1.5"),
        (lambda: nn.CrossEntropyLoss(ignore_index=None), r"CrossEntropyLoss: ignore_index must be a whole number"),
        (lambda: F.cross_entropy(None, [0, 1]), r"cross_entropy: cannot make numbers of NoneType"),
        (lambda: F.mse_loss(scores(2), 1.0), r"mse_loss: .*\[2\] and the target \[\]"),
        (lambda: F.huber_loss(scores(2), scores(2), "sum"), r"huber_loss: delta must be a number, not 'sum'"),
        (lambda: F.huber_loss(scores(2), scores(2), np.inf), r"huber_loss: delta must be finite .* not inf"),
        (
            lambda: F.cross_entropy(scores(), mg.tensor([True, False])),
            r"cross_entropy: class indices are integers, not bool",
        ),
        (lambda: F.cross_entropy(scores(), mg.ones(2)), r"cross_entropy: class indices are integers, not float32; use"),
        (lambda: F.cross_entropy(scores(), mg.ones(2, 4)), r"cross_entropy .*probabilities: .*\[2, 3\].*\[2, 4\]"),
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
        (lambda: F.huber_loss(scores(), scores(), delta=-1.0), r"delta must be finite and above zero, not -1"),
        (lambda: nn.HuberLoss(delta=float("nan")), r"HuberLoss: delta must be finite and above zero, not nan"),
        (
            lambda: nn.CrossEntropyLoss(label_smoothing=1.5),
            r"CrossEntropyLoss: label_smoothing must be in \[0, 1\], not 1.5",
        ),
        (lambda: nn.MSELoss("average"), r"MSELoss: reduction is 'mean', 'sum' or 'none', not 'average'"),
        (lambda: nn.CrossEntropyLoss(mg.ones(3), reduction=None), r"CrossEntropyLoss: reduction"),
    ],
)
def test_bad_input_is_refused_at_once(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        result = call()
        result.numpy()  # a device is asked about labels when values next cross to the host


@pytest.mark.parametrize(
    "name, call",
    [
        *((f.__name__, lambda f=f: f(scores(), np.zeros((2, 3)))) for f in (F.mse_loss, F.l1_loss, F.huber_loss)),
        ("bce_with_logits", lambda: F.bce_with_logits(scores(), np.zeros((2, 3)))),
        ("bce_with_logits", lambda: F.bce_with_logits(scores(), scores(), np.ones(3))),
        ("bce_with_logits", lambda: F.bce_with_logits(scores(), scores(), None, np.ones(3))),
        ("cross_entropy with probabilities", lambda: F.cross_entropy(scores(), np.ones((2, 3)) / 3)),
        ("cross_entropy", lambda: F.cross_entropy(scores(), scores(), np.ones(3))),
        ("cross_entropy", lambda: F.cross_entropy(scores(), mg.zeros(2, dtype=int), np.ones(3))),
        ("nll_loss", lambda: F.nll_loss(scores(), mg.zeros(2, dtype=int), np.ones(3))),
    ],
)
def test_a_target_or_weight_of_another_floating_dtype_is_refused_by_the_loss(name, call):
    says = rf"^{name}: the input is float32 and the (target|weight|pos_weight) float64; convert .*\.astype"
    with pytest.raises(TypeError, match=says):
        call()


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.huber_loss])
def test_unsigned_integers_have_no_differences(loss):
    small, large = mg.tensor(np.array([1], np.uint8)), mg.tensor(np.array([3], np.uint8))
    with pytest.raises(TypeError, match=r"the input is floating, not uint8; use .astype"):
        loss(small, large)


SCORES = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]], np.float32)
PER_CLASS = [1.0, 2.0, 3.0]
LOSSES = {
    "cross_entropy": (F.cross_entropy, SCORES, [0, 2], {"weight": PER_CLASS}),
    "cross_entropy of probabilities": (F.cross_entropy, SCORES, [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], {}),
    "nll_loss": (F.nll_loss, SCORES, [0, 2], {"weight": PER_CLASS}),
    "mse_loss": (F.mse_loss, SCORES, (SCORES + 1).tolist(), {}),
    "l1_loss": (F.l1_loss, SCORES, (SCORES + 1).tolist(), {}),
    "huber_loss": (F.huber_loss, SCORES, (SCORES + 1).tolist(), {}),
    "bce_with_logits": (F.bce_with_logits, SCORES, [[1, 0, 1], [0, 1, 0]], {"weight": PER_CLASS}),
    "bce_with_logits, pos_weight": (F.bce_with_logits, SCORES, [[1, 0, 1], [0, 1, 0]], {"pos_weight": PER_CLASS}),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_takes_lists_and_arrays_for_tensors(name):
    loss, x, target, weights = LOSSES[name]
    array = lambda values: mg.tensor(values).data
    expected = loss(mg.tensor(x), mg.tensor(target), **{k: mg.tensor(w) for k, w in weights.items()})
    assert isinstance(expected, mg.Tensor) and expected.shape == ()
    for found in (
        loss(mg.tensor(x), target, **weights),
        loss(array(x), array(target), **{k: array(w) for k, w in weights.items()}),
        loss(x.tolist(), target, **weights),
    ):
        assert isinstance(found, mg.Tensor) and found.item() == expected.item()


def test_a_number_as_pos_weight_is_one_for_all():
    x, t = mg.tensor(SCORES.astype(np.float64)), mg.tensor((SCORES > 0).astype(np.float64))
    expected = F.bce_with_logits(x, t, pos_weight=mg.full((3,), 2.0, dtype=mg.float64))
    for target in (t, t.astype(bool), t.astype(mg.uint8)):
        assert F.bce_with_logits(x, target, pos_weight=2.0).item() == expected.item()


def test_a_loss_names_its_weight_as_pytorch_does_and_never_learns_it():
    loss = nn.CrossEntropyLoss(mg.ones(3))
    assert list(loss.state_dict()) == ["weight"] and not list(loss.parameters())
