"""Optimizers and schedules: against formulas in float64, against PyTorch, and what they refuse."""

import copy
import gc
import itertools
import json
import math
import tracemalloc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend, optim

STEPS = 25
SHAPE = (3, 4)


def options(**values):
    """Every combination of the given values, as keyword arguments."""
    return [dict(zip(values, chosen)) for chosen in itertools.product(*values.values())]


RULES = [
    ("SGD", kw)
    for kw in options(
        lr=[0.1], momentum=[0, 0.9], dampening=[0, 0.3], nesterov=[False, True], weight_decay=[0, 0.05],
        maximize=[False, True],
    )
    if not kw["nesterov"] or (kw["momentum"] and not kw["dampening"])
]  # fmt: skip
RULES += [
    ("Adagrad", kw)
    for kw in options(
        lr=[0.1], lr_decay=[0, 0.2], weight_decay=[0, 0.05], initial_accumulator_value=[0, 0.7], maximize=[False, True]
    )
]
RULES += [
    ("RMSprop", kw)
    for kw in options(
        lr=[0.02], alpha=[0.9], momentum=[0, 0.8], centered=[False, True], weight_decay=[0, 0.05],
        maximize=[False, True],
    )
]  # fmt: skip
RULES += [
    (name, kw)
    for name in ("Adam", "AdamW")
    for kw in options(
        lr=[0.03], betas=[(0.8, 0.95)], eps=[1e-3], weight_decay=[0, 0.05], amsgrad=[False, True],
        maximize=[False, True],
    )
]  # fmt: skip
RULES += [(name, {}) for name in ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW")]

EVERYTHING_ON = [
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    ("AdamW", {"amsgrad": True, "weight_decay": 0.1, "maximize": True}),
]


def identity(value):
    """A test's name for a rule's options."""
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"
    return None


def start(dtype="float64"):
    return np.random.default_rng(1).normal(size=SHAPE).astype(dtype)


def gradients(steps=STEPS):
    return np.random.default_rng(2).normal(size=(steps, *SHAPE))


def give(p, g):
    """Puts a gradient where backward() would."""
    p.grad = mg.tensor(np.asarray(g, p.dtype))


def parameters(*shapes, dtype="float32", seed=0):
    """Parameters with gradients."""
    draw = np.random.default_rng(seed).normal
    ps = [mg.Parameter(draw(size=shape).astype(dtype)) for shape in shapes]
    for p in ps:
        give(p, draw(size=p.shape))
    return ps


def run(name, kw, dtype="float64"):
    """The Parameter after STEPS steps, and its optimizer; the gradient depends on the Parameter too."""
    p = mg.Parameter(start(dtype))
    optimizer = getattr(optim, name)([("w", p)], **kw)
    for g in gradients():
        give(p, g + np.sin(p.numpy()))
        optimizer.step()
    return p, optimizer


# ------------------------------------------------------------- the rules, from their papers and nothing else


def sgd(p, g, t, m, lr=1e-3, momentum=0, dampening=0, nesterov=False):
    if momentum:
        m["v"] = g if t == 1 else momentum * m["v"] + (1 - dampening) * g
        g = g + momentum * m["v"] if nesterov else m["v"]
    return p - lr * g


def adagrad(p, g, t, m, lr=1e-2, lr_decay=0, initial_accumulator_value=0, eps=1e-10):
    m["s"] = m.get("s", initial_accumulator_value) + g**2
    return p - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(m["s"]) + eps)


def rmsprop(p, g, t, m, lr=1e-2, alpha=0.99, eps=1e-8, momentum=0, centered=False):
    m["s"] = alpha * m.get("s", 0) + (1 - alpha) * g**2
    m["m"] = alpha * m.get("m", 0) + (1 - alpha) * g
    d = g / (np.sqrt(m["s"] - m["m"] ** 2 * centered) + eps)
    m["v"] = momentum * m.get("v", 0) + d
    return p - lr * m["v"]


def adam(p, g, t, m, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, amsgrad=False):
    m["m"] = betas[0] * m.get("m", 0) + (1 - betas[0]) * g
    m["v"] = betas[1] * m.get("v", 0) + (1 - betas[1]) * g**2
    m["top"] = np.maximum(m.get("top", 0), m["v"])
    v = m["top"] if amsgrad else m["v"]
    m_hat, v_hat = m["m"] / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps)


def reference(name, kw):
    """What `run` must give, in float64."""
    rule = {"SGD": sgd, "Adagrad": adagrad, "RMSprop": rmsprop, "Adam": adam, "AdamW": adam}[name]
    kw = dict(kw)
    maximize = kw.pop("maximize", False)
    decay = kw.pop("weight_decay", 1e-2 if name == "AdamW" else 0)
    p, m = start(), {}
    for t, g in enumerate(gradients(), 1):
        g = g + np.sin(p)
        if maximize:
            g = -g
        if name == "AdamW":
            p = p * (1 - kw.get("lr", 1e-3) * decay)
        else:
            g = g + decay * p
        p = rule(p, g, t, m, **kw)
    return p


@pytest.mark.parametrize(("name", "kw"), RULES, ids=identity)
def test_rule_equals_its_formula_in_float64(name, kw):
    p, _ = run(name, kw)
    np.testing.assert_allclose(p.numpy(), reference(name, kw), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "kw"), RULES, ids=identity)
def test_rule_equals_pytorch(name, kw):
    torch = pytest.importorskip("torch")
    p, optimizer = run(name, kw)
    q = torch.nn.Parameter(torch.tensor(start()))
    theirs = getattr(torch.optim, name)([q], **kw)
    for g in gradients():
        q.grad = torch.tensor(g) + torch.sin(q.detach())
        theirs.step()
    np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-12, atol=1e-14)
    remembered = {key: value.numpy() for key, value in theirs.state[q].items() if key != "step" and value is not None}
    assert optimizer.state["w"].keys() == remembered.keys()
    for key, value in remembered.items():
        np.testing.assert_allclose(optimizer.state["w"][key], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"])
def test_defaults_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(1))]).defaults
    ours = getattr(optim, name)(parameters((1,))).defaults
    assert ours == {key: theirs[key] for key in ours}


def test_parameters_without_a_gradient_are_skipped_as_in_pytorch():
    torch = pytest.importorskip("torch")
    ps = [mg.Parameter(start()), mg.Parameter(start())]
    qs = [torch.nn.Parameter(torch.tensor(start())) for _ in ps]
    ours, theirs = optim.Adam(ps, lr=0.1), torch.optim.Adam(qs, lr=0.1)
    for t, g in enumerate(gradients()):
        for i, (p, q) in enumerate(zip(ps, qs)):
            if i == 0 or t % 3 == 1:
                give(p, g)
                q.grad = torch.tensor(g)
        ours.step()
        theirs.step()
        ours.zero_grad()
        theirs.zero_grad()
        assert all(p.grad is None for p in ps)
    for p, q in zip(ps, qs):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-12)
    assert [memory.step for memory in ours.state.values()] == [STEPS, len(range(1, STEPS, 3))]


def test_a_parameter_without_a_gradient_keeps_values_version_and_memory():
    p, q = parameters((2,), (2,))
    q.grad = None
    before = q.data.copy()
    optimizer = optim.SGD([("p", p), ("q", q)], lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer.step()
    assert (q.data == before).all() and q.version == 0 and p.version == 1
    assert dict(optimizer.state["q"]) == {} and optimizer.state["q"].step == 0


def test_a_frozen_parameter_stays():
    p, q = parameters((2,), (2,))
    q.requires_grad = False
    before = q.data.copy()
    optim.SGD([p, q], lr=0.1, weight_decay=0.5).step()
    assert (q.data == before).all()


def test_momentum_raised_by_hand_begins_with_a_copy_of_the_gradient():
    (p,) = parameters((3,))
    optimizer = optim.SGD([("p", p)], dampening=0.5)
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0.9
    optimizer.step()
    assert (optimizer.state["p"]["momentum_buffer"] == p.grad.data).all()


def test_groups_have_their_own_hyper_parameters():
    torch = pytest.importorskip("torch")
    ps = [mg.Parameter(start()) for _ in range(2)]
    qs = [torch.nn.Parameter(torch.tensor(start())) for _ in range(2)]
    split = lambda a, b: [{"params": [a], "lr": 0.5, "weight_decay": 0.1}, {"params": [b], "momentum": 0.5}]
    ours = optim.SGD(split(*ps), lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD(split(*qs), lr=0.1, momentum=0.9)
    for g in gradients(5):
        for p, q in zip(ps, qs):
            give(p, g)
            q.grad = torch.tensor(g)
        ours.step()
        theirs.step()
    for p, q in zip(ps, qs):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-12)
    assert ours.param_groups[0]["params"] == [ps[0]]


def test_it_learns_through_backward():
    x = mg.tensor(np.random.default_rng(0).normal(size=(32, 3)), dtype="float32")
    truth = mg.tensor([[1.0], [-2.0], [0.5]])
    w = mg.Parameter(mg.zeros((3, 1)))
    optimizer = optim.SGD([w], lr=0.1, momentum=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        mg.mean(mg.square(x @ w - x @ truth)).backward()
        optimizer.step()
    np.testing.assert_allclose(w.numpy(), truth.numpy(), atol=1e-5)


# --------------------------------------------------------------------------------------- arrays, in place


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("name", "kw"), EVERYTHING_ON, ids=identity)
def test_a_step_keeps_every_dtype_even_with_numpy_hyper_parameters(name, kw, dtype):
    kw = {key: np.float64(value) if isinstance(value, float) else value for key, value in kw.items()}
    if name in ("Adagrad", "RMSprop", "Adam", "AdamW"):
        kw["eps"] = np.float64(1e-3)
    (p,) = parameters((2, 3), dtype=dtype)
    optimizer = getattr(optim, name)([("p", p)], lr=np.float64(0.1), **kw)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.float64(0.01)
    optimizer.step()
    assert p.dtype == dtype
    assert {array.dtype for array in optimizer.state["p"].values()} == {np.dtype(dtype)}
    for value in optimizer.param_groups[0].hyper.values():
        assert type(value) in (float, bool, tuple)


@pytest.mark.parametrize(("name", "kw"), EVERYTHING_ON, ids=identity)
def test_float32_stays_close_to_float64(name, kw):
    p, _ = run(name, {**kw, "lr": 0.01}, "float32")
    np.testing.assert_allclose(p.numpy(), reference(name, {**kw, "lr": 0.01}), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "kw"), EVERYTHING_ON, ids=identity)
def test_after_the_first_step_nothing_large_is_allocated(name, kw):
    p, q = parameters((400, 250), (1000,))
    optimizer = getattr(optim, name)([q, p], **kw)
    optimizer.step()
    tracemalloc.start()
    try:
        optimizer.step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < p.data.nbytes / 50


@pytest.mark.parametrize(("name", "kw"), EVERYTHING_ON, ids=identity)
def test_a_step_writes_into_the_parameters_array_and_leaves_the_gradient(name, kw):
    p, q = parameters((2, 3), (2, 3))
    shared = np.broadcast_to(np.float32(0.5), (2, 3))  # read-only, and the gradient of both
    p.node.grad = q.node.grad = shared
    q.update(p.data)
    array = p.data
    version = p.version
    optimizer = getattr(optim, name)([p, q], **kw)
    before = p.data.copy()
    optimizer.step()
    optimizer.step()
    assert p.data is array and p.version == version + 2
    assert (p.data != before).all() and (p.data == q.data).all() and (shared == 0.5).all()


@pytest.mark.parametrize(("name", "kw"), EVERYTHING_ON, ids=identity)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (5, 2)])
def test_any_shape_and_memory_order(name, kw, shape):
    (p,) = parameters(shape)
    (q,) = parameters(shape)
    q.data = np.array(q.data, order="F")
    for x in (p, q):
        optimizer = getattr(optim, name)([x], **kw)
        optimizer.step()
        optimizer.step()
        assert x.shape == shape and isinstance(x.data, np.ndarray)
    assert (p.data == q.data).all()


def test_a_gradient_that_does_not_fit_is_refused_before_any_change():
    p, q = parameters((2,), (3,))
    optimizer = optim.SGD([("p", p), ("q", q)], momentum=0.9)
    before = p.data.copy()
    for bad in (np.ones((3, 1), "float32"), np.ones(3)):
        q.node.grad = bad
        with pytest.raises(ValueError, match=r"SGD.step: the gradient of 'q' is float.* Parameter is float32 \[3\]"):
            optimizer.step()
        assert (p.data == before).all() and p.version == 0 and optimizer.state["p"].step == 0


@pytest.mark.parametrize(
    "shape, dtype, now", [((2,), "float64", r"float64 \[2\]"), ((3, 2), "float32", r"float32 \[3, 2\]")]
)
def test_a_dtype_or_shape_changed_after_the_first_step_is_refused(shape, dtype, now):
    (p,) = parameters((2,))
    optimizer = optim.Adam([("p", p)])
    optimizer.step()
    p.data = mg.ones(shape, dtype=dtype).data
    (p * p).sum().backward()
    with pytest.raises(TypeError, match=rf"'p' is now {now}, but its exp_avg was made as float32 \[2\]"):
        optimizer.step()
    assert (p.data == 1).all() and optimizer.state["p"].step == 1


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop", "Adam", "AdamW"])
def test_an_eps_that_float16_rounds_to_zero_is_refused(name):
    (p,) = parameters((2,), dtype="float16")
    optimizer = getattr(optim, name)([("p", p)])
    with pytest.raises(ValueError, match=rf"{name}.step: eps .* is 0 in the float16 of 'p'; 0.0001 is usual there"):
        optimizer.step()
    optimizer.param_groups[0]["eps"] = 1e-4
    optimizer.step()
    assert np.isfinite(p.numpy()).all()


def test_arrays_of_another_backend_are_refused(monkeypatch):
    class Array:
        pass

    namespace = SimpleNamespace(ndarray=Array)
    monkeypatch.setitem(backend.backends, "other", lambda: backend.Backend("other", namespace, None, None))
    optimizer = optim.SGD(parameters((2,)))
    with mg.using("other"), pytest.raises(TypeError, match=r"'parameter0' is an array of numpy, .* is 'other'"):
        optimizer.step()


def test_dropping_an_optimizer_frees_it_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        (p,) = parameters((2,))
        optimizer = optim.Adam([p])
        schedule = optim.CosineLR(optimizer, 3)
        optimizer.step()
        gone = weakref.ref(optimizer), weakref.ref(p)
        del optimizer, schedule, p
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_the_rule_is_all_that_a_new_optimizer_needs():
    class SignSGD(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, lr=lr)

        def update(self, p, g, memory, hyper, work):
            p -= np.multiply(np.sign(g), hyper["lr"], out=work)

    (p,) = parameters((3,))
    before, g = p.data.copy(), p.grad.data
    SignSGD([p], lr=0.25).step()
    assert (p.data == before - np.float32(0.25) * np.sign(g)).all()
    with pytest.raises(NotImplementedError, match="Optimizer has no update rule"):
        optim.Optimizer([p]).step()


# -------------------------------------------------------------------------------------- what it is given


def test_names_come_from_pairs_then_labels_then_positions():
    a, b, c, d = parameters((1,), (1,), (1,), (1,))
    for p in (a, b):
        p.rename("layer.weight")
    optimizer = optim.SGD([("given", a), b, c, (None, d)])
    assert list(optimizer.state) == ["given", "layer.weight", "parameter2", "parameter3"]
    assert [m.parameter for m in optimizer.state.values()] == [a, b, c, d]


def test_equal_names_are_made_unique_in_order():
    ps = parameters((1,), (1,), (1,), (1,))
    names = ["w", "w", "w#1", "w"]
    for _ in range(2):
        assert list(optim.SGD(zip(names, ps)).state) == ["w", "w#1", "w#1#1", "w#2"]


def test_names_are_unique_over_groups():
    a, b = parameters((1,), (1,))
    assert list(optim.SGD([{"params": [a]}, {"params": iter([b])}]).state) == ["parameter0", "parameter1"]


def test_a_buffer_is_refused_by_name_and_shape():
    (p,) = parameters((2,))
    buffer = mg.Buffer(np.zeros(4, "float32"))
    why = r"Buffer of shape \[4\]: a Buffer is remembered, not learnt"
    with pytest.raises(TypeError, match="SGD: entry 1 is a " + why):
        optim.SGD([p, buffer])
    with pytest.raises(TypeError, match="Adam: 'bn.running_mean' is a " + why):
        optim.Adam([("p", p), ("bn.running_mean", buffer)])
    buffer.rename("bn.running_var")
    with pytest.raises(TypeError, match="AdamW: 'bn.running_var' is a " + why):
        optim.AdamW([{"params": [p]}, {"params": [buffer]}])
    with pytest.raises(TypeError, match="clip_grad_norm: 'bn.running_var' is a " + why):
        optim.clip_grad_norm([buffer], 1.0)
    with pytest.raises(TypeError, match="decay_groups: 'bn.running_var' is a " + why):
        optim.decay_groups([buffer], 0.1)


@pytest.mark.parametrize("bad", [mg.tensor([1.0, 2.0]), mg.tensor([1.0, 2.0], requires_grad=True)])
def test_a_plain_tensor_is_refused(bad):
    with pytest.raises(TypeError, match=r"SGD: entry 0 is a Tensor of shape \[2\]: only Parameters are learnt"):
        optim.SGD([bad])


class Model(list):
    """Stands for a Module that is a sequence of layers."""

    def named_parameters(self):
        return iter([])


MODEL = Model()


@pytest.mark.parametrize("bad", [3, None, "w", {"params": []}, mg.Parameter(np.zeros(2)), mg.tensor([1.0]), MODEL])
def test_what_is_not_an_iterable_of_parameters_is_refused(bad):
    with pytest.raises(TypeError, match=r"SGD: needs an iterable of Parameters, like model\.parameters"):
        optim.SGD(bad)


def test_foreign_entries_are_refused():
    (p,) = parameters((2,))
    with pytest.raises(TypeError, match="SGD: entry 1 is a ndarray: only Parameters"):
        optim.SGD([p, np.zeros(2)])
    with pytest.raises(TypeError, match="SGD: entry 1 is a dict: only Parameters"):
        optim.SGD([p, {"params": [p]}])


def test_a_parameter_given_twice_is_refused():
    (p,) = parameters((2,))
    with pytest.raises(ValueError, match=r"SGD: the Parameter 'a' of shape \[2\] is given twice"):
        optim.SGD([("a", p), ("b", p)])
    with pytest.raises(ValueError, match=r"'parameter0' .* is given twice"):
        optim.SGD([{"params": [p]}, {"params": [p]}])


def test_no_parameters_are_refused():
    for nothing in ([], iter(()), [{"params": []}]):
        with pytest.raises(ValueError, match="SGD: got no Parameters"):
            optim.SGD(nothing)


def test_a_group_with_unknown_entries_is_refused():
    (p,) = parameters((2,))
    with pytest.raises(ValueError, match=r"SGD: a group has 'params' and any of \['lr'.*not \['params', 'betas'\]"):
        optim.SGD([{"params": [p], "betas": (0.9, 0.99)}])
    with pytest.raises(ValueError, match=r"SGD: a group has 'params' .* not \['lr'\]"):
        optim.SGD([{"lr": 0.1}])


NUMBERS = [
    ("SGD", ["lr", "momentum", "dampening", "weight_decay"]),
    ("Adagrad", ["lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"]),
    ("RMSprop", ["lr", "alpha", "eps", "weight_decay", "momentum"]),
    ("Adam", ["lr", "eps", "weight_decay"]),
    ("AdamW", ["lr", "eps", "weight_decay"]),
]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, np.float32(-1)])
@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in NUMBERS for key in keys])
def test_bad_hyper_parameters_are_refused_with_name_and_value(name, key, value):
    (p,) = parameters((2,))
    message = f"{name}: {key} must be .*, not {float(value)}"
    with pytest.raises(ValueError, match=message):
        getattr(optim, name)([p], **{key: value})
    with pytest.raises(ValueError, match=message):
        getattr(optim, name)([{"params": [p], key: value}])
    optimizer = getattr(optim, name)([p])
    before = dict(optimizer.param_groups[0])
    with pytest.raises(ValueError, match=message):
        optimizer.param_groups[0][key] = value
    assert dict(optimizer.param_groups[0]) == before


@pytest.mark.parametrize(
    ("name", "kw", "error", "message"),
    [
        ("SGD", {"lr": "0.1"}, TypeError, "SGD: lr must be a number, not '0.1'"),
        ("SGD", {"lr": None}, TypeError, "SGD: lr must be a number, not None"),
        ("SGD", {"momentum": True}, TypeError, "SGD: momentum must be a number, not True"),
        ("SGD", {"nesterov": 0.9}, TypeError, "SGD: nesterov must be True or False, not 0.9"),
        ("SGD", {"nesterov": True}, ValueError, "nesterov needs momentum > 0 and dampening 0, not momentum 0.0"),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "momentum 0.9 and dampening 0.1"),
        ("RMSprop", {"alpha": 1.5}, ValueError, r"RMSprop: alpha must be in \[0, 1\], not 1.5"),
        ("Adam", {"betas": (0.9, 1.0)}, ValueError, r"Adam: betas\[1\] must be in \[0, 1\), not 1.0"),
        ("Adam", {"betas": (1.0, 0.9)}, ValueError, r"Adam: betas\[0\] must be in \[0, 1\), not 1.0"),
        ("Adam", {"betas": (-0.1, 0.9)}, ValueError, r"Adam: betas\[0\] must be finite and not negative, not -0.1"),
        ("AdamW", {"betas": (0.9, math.nan)}, ValueError, r"AdamW: betas\[1\] must be finite .* not nan"),
        ("Adam", {"betas": 0.9}, TypeError, "Adam: betas must be a pair of numbers, not 0.9"),
        ("Adam", {"amsgrad": 1}, TypeError, "Adam: amsgrad must be True or False, not 1"),
    ],
)
def test_other_bad_hyper_parameters_are_refused(name, kw, error, message):
    with pytest.raises(error, match=message):
        getattr(optim, name)(parameters((2,)), **kw)


def test_a_groups_names_are_fixed():
    group = optim.SGD(parameters((2,))).param_groups[0]
    for key in ("params", "learning_rate"):
        with pytest.raises(KeyError, match=f"cannot set '{key}': a group's hyper-parameters are lr, momentum"):
            group[key] = 1.0
    with pytest.raises(KeyError, match="cannot delete 'lr'"):
        del group["lr"]


def test_a_hyper_parameter_is_not_set_beside_the_groups():
    """No step would look for it there, and training would go on with the old one."""
    optimizer = optim.SGD([mg.Parameter(mg.ones(2))], lr=0.1)
    with pytest.raises(AttributeError, match=r"SGD: lr belongs to each group: .*param_groups\[0\]\['lr'\] = 0.01"):
        optimizer.lr = 0.01
    optimizer.note = "an attribute of the user's"


def test_repr_shows_groups_and_hyper_parameters():
    assert repr(optim.Adagrad(parameters((2,), (3,)), lr=0.5)) == (
        "Adagrad(\n  2 parameters: lr=0.5, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, "
        "eps=1e-10, maximize=False\n)"
    )


# ------------------------------------------------------------------------------------- saved and loaded


def through_a_file(state):
    """What is left of a state after it was written as arrays and JSON."""
    rest = json.loads(json.dumps({key: value for key, value in state.items() if key != "state"}))
    return {**rest, "state": {key: np.ascontiguousarray(value) for key, value in state["state"].items()}}


@pytest.mark.parametrize(("name", "kw"), EVERYTHING_ON, ids=identity)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(name, kw):
    def model():
        a, b = parameters((2, 3), (4,))
        return a, b, getattr(optim, name)([("a", a), ("b", b)], lr=0.1, **kw)

    a, b, optimizer = model()
    schedule = optim.CosineLR(optimizer, 10)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    saved, progress = through_a_file(optimizer.state_dict()), json.loads(json.dumps(schedule.state_dict()))
    c, d, resumed = model()
    c.update(a.data)
    d.update(b.data)
    for optimizer_first in (True, False):
        again = copy.deepcopy((c, d, resumed))
        schedule_again = optim.CosineLR(again[2], 10)
        for load in [
            lambda o=again[2]: o.load_state_dict(saved),
            lambda s=schedule_again: s.load_state_dict(progress),
        ][:: 1 if optimizer_first else -1]:
            load()
        x, y = copy.deepcopy((a.data, b.data))
        twin = copy.deepcopy((a, b, optimizer))
        twin_schedule = copy.deepcopy(schedule)
        twin_schedule.optimizer = twin[2]
        for _ in range(4):
            for o, s in ((twin[2], twin_schedule), (again[2], schedule_again)):
                o.step()
                s.step()
        assert (again[0].data == twin[0].data).all() and (again[1].data == twin[1].data).all()
        assert (again[0].data != x).all() and (again[1].data != y).all()
        assert again[2].param_groups[0].hyper == twin[2].param_groups[0].hyper


def test_state_is_keyed_by_name_and_order_does_not_matter():
    a, b = parameters((2,), (3,))
    one = optim.Adam([("a", a), ("b", b)], amsgrad=True)
    one.step()
    state = one.state_dict()
    assert list(state["state"]) == [f"{k}/{n}" for n in "ab" for k in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")]
    assert state["optimizer"] == "Adam"
    assert state["param_groups"] == [
        {"params": {"a": 1, "b": 1}, "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
        | {"weight_decay": 0, "amsgrad": True, "maximize": False}
    ]
    other = optim.Adam([("b", b), ("a", a)], amsgrad=True)
    other.load_state_dict(state)
    for name in "ab":
        for key, array in one.state[name].items():
            assert (other.state[name][key] == array).all()


def test_a_state_brings_its_hyper_parameters():
    a, b = parameters((2,), (3,))
    groups = [{"params": [("a", a)], "lr": 0.5}, {"params": [("b", b)], "weight_decay": 0.1}]
    state = optim.AdamW(groups, lr=0.02, betas=(0.8, 0.9)).state_dict()
    other = optim.AdamW([{"params": [("a", a)]}, {"params": [("b", b)]}])
    other.load_state_dict(state)
    assert [group.hyper["lr"] for group in other.param_groups] == [0.5, 0.02]
    assert [group.hyper["weight_decay"] for group in other.param_groups] == [1e-2, 0.1]
    assert {group.hyper["betas"] for group in other.param_groups} == {(0.8, 0.9)}


def test_a_snapshot_and_what_was_loaded_from_it_share_no_memory():
    (p,) = parameters((2,))
    optimizer = optim.SGD([("p", p)], momentum=0.9)
    optimizer.step()
    state = optimizer.state_dict()
    before = state["state"]["momentum_buffer/p"].copy()
    optimizer.step()
    assert (state["state"]["momentum_buffer/p"] == before).all()
    optimizer.load_state_dict(state)
    assert (optimizer.state["p"]["momentum_buffer"] == before).all() and optimizer.state["p"].step == 1
    optimizer.step()
    assert (state["state"]["momentum_buffer/p"] == before).all()


def test_a_state_of_tensors_loads():
    (p,) = parameters((2,))
    optimizer = optim.SGD([("p", p)], momentum=0.9)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"] = {key: mg.tensor(value) for key, value in state["state"].items()}
    optimizer.load_state_dict(state)
    assert type(optimizer.state["p"]["momentum_buffer"]) is np.ndarray


def test_a_state_before_the_first_step_and_of_skipped_parameters_loads():
    a, b = parameters((2,), (3,))
    b.grad = None
    optimizer = optim.Adam([("a", a), ("b", b)], lr=0.5)
    fresh = optimizer.state_dict()
    optimizer.step()
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))
    assert [m.step for m in optimizer.state.values()] == [1, 0]
    optimizer.load_state_dict(fresh)
    assert [m.step for m in optimizer.state.values()] == [0, 0] and not optimizer.state["a"]


def test_a_buffer_kept_from_before_momentum_was_switched_off_loads():
    (p,) = parameters((2,))
    optimizer = optim.SGD([("p", p)], momentum=0.9)
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert "momentum_buffer" in optimizer.state["p"]


def remove(*path):
    def damage(state):
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return damage


def put(value, *path):
    def damage(state):
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("state", "exp_avg/a"), "missing: exp_avg/a$"),
        (remove("state", "exp_avg_sq/b"), "missing: exp_avg_sq/b$"),
        (put(np.zeros(1), "state", "exp_avg/c"), "unexpected: exp_avg/c$"),
        (put(np.zeros(2), "state", "sum/a"), "unexpected: sum/a$"),
        (put(np.zeros(2), "state", "a"), "unexpected: a$"),
        (put(np.zeros((2, 1), "float32"), "state", "exp_avg/a"), r"misshapen: exp_avg/a \(float32 \[2, 1\] for"),
        (put(np.zeros(2), "state", "exp_avg/a"), r"misshapen: exp_avg/a \(float64 \[2\] for float32 \[2\]\)"),
        (put(0, "param_groups", 0, "params", "a"), "unexpected: exp_avg/a, exp_avg_sq/a"),
        (remove("param_groups", 0, "params", "a"), "missing: group 0: a; unexpected: exp_avg/a, exp_avg_sq/a"),
        (put(1, "param_groups", 0, "params", "z"), "unexpected: group 0: z"),
        (remove("param_groups", 0, "lr"), "missing: group 0: lr"),
        (remove("param_groups", 0, "params"), "missing: group 0: a, group 0: b, group 0: params; unexp"),
        (put(0.9, "param_groups", 0, "momentum"), "unexpected: group 0: momentum"),
        (put(math.nan, "param_groups", 0, "lr"), "Adam: lr must be finite and not negative, not nan"),
        (put(True, "param_groups", 0, "amsgrad"), "missing: max_exp_avg_sq/a, max_exp_avg_sq/b"),
        (put(-1, "param_groups", 0, "params", "a"), "the steps of a must be at least 0, not -1"),
        (put("AdamW", "optimizer"), "this is the state of AdamW"),
        (remove("param_groups", 0), "the state has 0 groups, the optimizer 1"),
        (remove("state"), r"not the state of an optimizer: its entries are \['optimizer', 'param_groups'\]"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(damage, message):
    a, b = parameters((2,), (3,))
    optimizer = optim.Adam([("a", a), ("b", b)])
    optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 0.5
    damage(state)
    optimizer.step()
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"] and before["state"].keys() == after["state"].keys()
    assert all((before["state"][key] == after["state"][key]).all() for key in before["state"])


def test_what_is_not_finite_is_loaded_only_where_that_is_wanted():
    (p,) = parameters((2,))
    optimizer = optim.SGD([("p", p)], momentum=0.9)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"]["momentum_buffer/p"][1] = math.nan
    with pytest.raises(ValueError, match=r"SGD.load_state_dict: .*nonfinite: momentum_buffer/p"):
        optimizer.load_state_dict(state)
    optimizer.load_state_dict(state, allow_nonfinite=True)
    with pytest.raises(TypeError, match=r"SGD.load_state_dict: needs what state_dict\(\) gave, not a NoneType"):
        optimizer.load_state_dict(None)


def test_the_longest_norm_is_a_number():
    with pytest.raises(TypeError, match="clip_grad_norm: max_norm must be a number, not 'a'"):
        optim.clip_grad_norm(parameters((2,)), "a")


def test_all_faults_are_listed_at_once():
    a, b = parameters((2,), (3,))
    optimizer = optim.Adagrad([("a", a), ("b", b)])
    optimizer.step()
    state = optimizer.state_dict()
    state["state"] = {"sum/a": np.zeros(5, "float32"), "sum/x": np.zeros(2, "float32")}
    with pytest.raises(ValueError, match=r"nothing was loaded. missing: sum/b; unexpected: sum/x; misshapen: sum/a \("):
        optimizer.load_state_dict(state)


# ------------------------------------------------------------------------------------ groups and clipping


def test_decay_groups_keep_vectors_out_of_weight_decay():
    w, b, gamma, scalar = parameters((2, 3), (3,), (3,), ())
    pairs = [("w", w), ("b", b), ("gamma", gamma), ("scalar", scalar)]
    decayed, plain = optim.decay_groups(pairs, np.float64(0.1))
    assert decayed == {"params": [("w", w)], "weight_decay": 0.1}
    assert plain == {"params": pairs[1:], "weight_decay": 0.0}
    model = SimpleNamespace(named_parameters=lambda: iter(pairs))
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1), lr=0.2)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert list(optimizer.state) == ["w", "b", "gamma", "scalar"]
    assert optim.decay_groups([b], 0.1)[0]["params"] == []
    with pytest.raises(ValueError, match="decay_groups: weight_decay must be finite and not negative, not -1"):
        optim.decay_groups(pairs, -1)


def test_the_norm_of_gradients_where_a_graph_is_captured_and_no_kernel_is_there(monkeypatch):
    a, b = parameters((2,), (3, 2))
    expected = float(optim.clip_grad_norm([a, b], 1e9))
    monkeypatch.setattr("minigrad.optim.clipping.capturing.conditions", [])
    assert float(optim.clip_grad_norm([a, b], 1e9)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 4.0, 100.0, math.inf])
def test_clip_grad_norm_is_pytorchs(max_norm):
    torch = pytest.importorskip("torch")
    ps = parameters((2, 3), (), (4,), dtype="float64")
    qs = [torch.nn.Parameter(torch.tensor(p.data)) for p in ps]
    for p, q in zip(ps, qs):
        q.grad = torch.tensor(p.grad.data)
    norm = optim.clip_grad_norm(ps, max_norm)
    theirs = torch.nn.utils.clip_grad_norm_(qs, max_norm)
    np.testing.assert_allclose(norm.item(), theirs.item(), rtol=1e-15)
    for p, q in zip(ps, qs):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-14)
        assert isinstance(p.grad.data, np.ndarray) and p.grad.shape == p.shape


def test_clip_grad_norm_scales_to_the_norm_asked_for():
    ps = parameters((20, 3), (4,))
    g = np.concatenate([p.grad.data.ravel() for p in ps]).astype("float64")
    norm = optim.clip_grad_norm(((f"p{i}", p) for i, p in enumerate(ps)), np.float64(0.5))
    assert type(norm) is mg.Tensor and norm.shape == () and norm.dtype == np.float32
    np.testing.assert_allclose(norm.item(), np.linalg.norm(g), rtol=1e-6)
    clipped = np.concatenate([p.grad.data.ravel() for p in ps])
    assert clipped.dtype == np.float32
    np.testing.assert_allclose(clipped, g * 0.5 / (np.linalg.norm(g) + 1e-6), rtol=1e-6)


def test_clip_grad_norm_leaves_small_gradients_exactly():
    (p,) = parameters((5,))
    before = p.grad.data
    optim.clip_grad_norm([p], 1e3)
    assert (p.grad.data == before).all()


def test_clip_grad_norm_writes_into_no_array_that_others_may_hold():
    p, q = parameters((3,), (3,))
    shared = np.full(3, 2.0, "float32")
    p.node.grad = q.node.grad = shared
    norm = optim.clip_grad_norm([p, q], 1.0)
    assert (shared == 2).all()
    np.testing.assert_allclose(p.grad.numpy(), shared / norm.item(), rtol=1e-5)
    assert (p.grad.data == q.grad.data).all()


def test_clip_grad_norm_of_float16_is_measured_in_float32():
    (p,) = parameters((100,), dtype="float16")
    give(p, np.full(100, 1000.0))
    norm = optim.clip_grad_norm([p], 100.0)
    assert norm.dtype == np.float32 and norm.item() == 10000 and p.grad.dtype == np.float16
    np.testing.assert_allclose(p.grad.numpy(), 10, rtol=2e-3)


def test_clip_grad_norm_without_gradients_is_zero():
    (p,) = parameters((2,))
    p.grad = None
    frozen = mg.Parameter(np.zeros(2), requires_grad=False)
    for ps in ([p], [p, frozen], []):
        norm = optim.clip_grad_norm(ps, 1.0)
        assert norm.item() == 0 and norm.shape == () and norm.dtype == np.float32


@pytest.mark.filterwarnings("ignore:invalid value")
def test_clip_grad_norm_of_non_finite_gradients_is_pytorchs():
    torch = pytest.importorskip("torch")
    for bad in (math.inf, math.nan):
        (p,) = parameters((2,))
        give(p, [bad, 1.0])
        q = torch.nn.Parameter(torch.zeros(2))
        q.grad = torch.tensor([bad, 1.0])
        norm = optim.clip_grad_norm([p], 1.0)
        theirs = torch.nn.utils.clip_grad_norm_([q], 1.0)
        np.testing.assert_equal(norm.item(), theirs.item())
        np.testing.assert_equal(p.grad.numpy(), q.grad.numpy())


def test_clip_grad_norm_can_refuse_non_finite_gradients():
    (p,) = parameters((2,))
    give(p, [math.nan, 1.0])
    with pytest.raises(ValueError, match="clip_grad_norm: the norm of the gradients is nan; nothing was scaled"):
        optim.clip_grad_norm([p], 1.0, error_if_nonfinite=True)
    assert p.grad.data[1] == 1


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_clip_grad_norm_refuses_a_bad_bound(bad):
    with pytest.raises(ValueError, match="clip_grad_norm: max_norm must not be negative or NaN"):
        optim.clip_grad_norm(parameters((2,)), bad)


# -------------------------------------------------------------------------------------------- schedules


def curve(make, steps, optimizer=None):
    """The hyper-parameters that a schedule gives to the first group, step by step."""
    optimizer = optimizer or optim.SGD(parameters((1,)), lr=0.8, momentum=0.9)
    schedule = make(optimizer)
    seen = []
    for _ in range(steps):
        seen.append(dict(optimizer.param_groups[0].hyper))
        schedule.step()
    return seen


def torch_curve(make, steps, kind="SGD", **kw):
    torch = pytest.importorskip("torch")
    kw = kw or {"lr": 0.8, "momentum": 0.9}
    optimizer = getattr(torch.optim, kind)([torch.nn.Parameter(torch.zeros(1))], **kw)
    schedule = make(torch.optim.lr_scheduler, optimizer)
    seen = []
    for _ in range(steps):
        seen.append(dict(optimizer.param_groups[0]))
        optimizer.step()
        schedule.step()
    return seen


def rates(seen):
    return [hyper["lr"] for hyper in seen]


@pytest.mark.parametrize(
    ("ours", "theirs", "steps"),
    [
        (lambda o: optim.StepLR(o, 3), lambda t, o: t.StepLR(o, 3), 11),
        (lambda o: optim.StepLR(o, 4, gamma=0.7), lambda t, o: t.StepLR(o, 4, gamma=0.7), 20),
        (lambda o: optim.CosineLR(o, 10), lambda t, o: t.CosineAnnealingLR(o, 10), 11),
        (lambda o: optim.CosineLR(o, 7, lr_min=0.1), lambda t, o: t.CosineAnnealingLR(o, 7, eta_min=0.1), 8),
        (lambda o: optim.WarmupLR(o, 4), lambda t, o: t.LinearLR(o, start_factor=1 / 5, total_iters=4), 9),
        (
            lambda o: optim.WarmupLR(o, 4, optim.StepLR(o, 3)),
            lambda t, o: t.SequentialLR(o, [t.LinearLR(o, 1 / 5, total_iters=4), t.StepLR(o, 3)], [4]),
            15,
        ),
        (lambda o: optim.OneCycleLR(o, 0.5, 20), lambda t, o: t.OneCycleLR(o, 0.5, total_steps=20), 20),
        (
            lambda o: optim.OneCycleLR(o, 0.5, 13, 0.6, False, div_factor=3, final_div_factor=7),
            lambda t, o: t.OneCycleLR(
                o, 0.5, 13, pct_start=0.6, cycle_momentum=False, div_factor=3, final_div_factor=7
            ),
            13,
        ),
        (lambda o: optim.OneCycleLR(o, 0.5, 5, 0.1), lambda t, o: t.OneCycleLR(o, 0.5, 5, pct_start=0.1), 5),
    ],
)
def test_schedule_is_pytorchs(ours, theirs, steps):
    a, b = curve(ours, steps), torch_curve(theirs, steps)
    np.testing.assert_allclose(rates(a), rates(b), rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose([h["momentum"] for h in a], [h["momentum"] for h in b], rtol=1e-12)


def test_one_cycle_turns_adams_beta1_as_pytorchs_does():
    adam = optim.Adam(parameters((1,)), betas=(0.9, 0.97))
    ours = curve(lambda o: optim.OneCycleLR(o, 0.5, 12, base_momentum=0.7, max_momentum=0.9), 12, adam)
    theirs = torch_curve(
        lambda t, o: t.OneCycleLR(o, 0.5, 12, base_momentum=0.7, max_momentum=0.9), 12, "Adam", betas=(0.9, 0.97)
    )
    np.testing.assert_allclose([h["betas"] for h in ours], [h["betas"] for h in theirs], rtol=1e-12)
    np.testing.assert_allclose(rates(ours), rates(theirs), rtol=1e-12)


@pytest.mark.parametrize(("total", "pct"), [(10, 0.1), (1, 0.3), (1, 1.0), (5, 1.0), (5, 0.0), (4, 0.25)])
def test_one_cycle_is_defined_at_its_edges(total, pct):
    seen = rates(curve(lambda o: optim.OneCycleLR(o, 0.5, total, pct), total))
    assert all(0 < rate <= 0.5 for rate in seen)
    if total > 1 and pct in (0.1, 0.25):
        assert seen[0] == 0.5  # a rise of length 0


def test_one_cycle_with_a_rate_for_each_group():
    a, b = parameters((1,), (1,))
    optimizer = optim.SGD([{"params": [a]}, {"params": [b]}])
    optim.OneCycleLR(optimizer, [0.5, 1.0], 10, div_factor=10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.95, 0.95]


def test_one_cycle_refuses_a_step_beyond_its_end():
    optimizer = optim.SGD(parameters((1,)))
    schedule = optim.OneCycleLR(optimizer, 0.5, 3)
    for _ in range(3):
        schedule.step()
    last = optimizer.param_groups[0]["lr"]
    np.testing.assert_allclose(last, 0.5 / 25 / 1e4)
    with pytest.raises(ValueError, match="OneCycleLR: all 3 steps were taken"):
        schedule.step()
    assert schedule.steps_taken == 3 and optimizer.param_groups[0]["lr"] == last


def test_cosine_stays_at_its_end():
    seen = rates(curve(lambda o: optim.CosineLR(o, 5, lr_min=0.1), 9))
    assert seen[5:] == [0.1] * 4 and seen[0] == 0.8


def test_warmup_rises_in_equal_steps_to_the_full_rate():
    seen = rates(curve(lambda o: optim.WarmupLR(o, 3), 6))
    np.testing.assert_allclose(seen, [0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_warmup_hands_over_to_any_schedule_at_its_step_0():
    plain = curve(lambda o: optim.CosineLR(o, 6), 6)
    warm = curve(lambda o: optim.WarmupLR(o, 3, optim.CosineLR(o, 6)), 9)
    assert warm[3:] == plain
    cycled = curve(lambda o: optim.OneCycleLR(o, 0.5, 6), 6)
    warm = curve(lambda o: optim.WarmupLR(o, 1, optim.OneCycleLR(o, 0.5, 6)), 9)
    assert warm[1:7] == cycled and warm[0]["lr"] == cycled[0]["lr"] / 2 and warm[8] == cycled[5]


def test_groups_keep_their_proportions():
    a, b = parameters((1,), (1,))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.1}])
    schedule = optim.CosineLR(optimizer, 4)
    schedule.step()
    x, y = (group["lr"] for group in optimizer.param_groups)
    np.testing.assert_allclose([x, y], [0.5 + math.sqrt(0.125), 0.05 + math.sqrt(0.125) / 10])
    assert schedule.at(4) == [{"lr": 0.0}, {"lr": 0.0}]


SCHEDULES = [
    lambda o: optim.StepLR(o, 2),
    lambda o: optim.CosineLR(o, 7, lr_min=1e-3),
    lambda o: optim.OneCycleLR(o, 0.5, 20),
    lambda o: optim.WarmupLR(o, 4),
    lambda o: optim.WarmupLR(o, 2, optim.CosineLR(o, 9)),
    lambda o: optim.WarmupLR(o, 2, optim.WarmupLR(o, 2, optim.OneCycleLR(o, 0.5, 20))),
]


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("done", [0, 1, 5])
def test_a_resumed_schedule_goes_on_exactly(make, done):
    whole = curve(make, 12)
    optimizer = optim.SGD(parameters((1,)), lr=0.8, momentum=0.9)
    schedule = make(optimizer)
    for _ in range(done):
        schedule.step()
    saved = json.loads(json.dumps(schedule.state_dict()))
    late = optim.SGD(parameters((1,)), lr=0.123, momentum=0.9)  # the rate that it was made with does not matter
    resumed = make(late)
    resumed.load_state_dict(saved)
    rest = []
    for _ in range(done, 12):
        rest.append(late.param_groups[0].hyper)
        resumed.step()
    assert rest == whole[done:]


@pytest.mark.parametrize(
    ("make", "damage", "message"),
    [
        (0, put("CosineLR", "schedule"), "StepLR.load_state_dict: the saved schedule 'CosineLR' is not this"),
        (0, put(3, "settings", "step_size"), "the saved settings {'step_size': 3, 'gamma': 0.1} is not this one's"),
        (0, remove("base_lrs"), r"not the state of this schedule: its entries are \['schedule', 'settings'"),
        (0, put([0.1, 0.2], "base_lrs"), "the state is of 2 groups, the optimizer has 1"),
        (0, put([math.nan], "base_lrs"), "base_lrs must be finite and not negative, not nan"),
        (0, put(-1, "steps_taken"), "steps_taken must be at least 0, not -1"),
        (4, put(None, "then"), "WarmupLR.load_state_dict: the saved `then` None is not this one's"),
        (4, put(8, "then", "settings", "steps"), "CosineLR.load_state_dict: the saved settings"),
    ],
)  # fmt: skip
def test_a_schedules_state_that_does_not_fit_changes_nothing(make, damage, message):
    optimizer = optim.SGD(parameters((1,)), lr=0.8)
    schedule = SCHEDULES[make](optimizer)
    state = schedule.state_dict()
    for _ in range(3):
        schedule.step()
    before = schedule.state_dict(), optimizer.param_groups[0].hyper
    damage(state)
    with pytest.raises(ValueError, match=message):
        schedule.load_state_dict(state)
    assert before == (schedule.state_dict(), optimizer.param_groups[0].hyper)


def test_bad_schedules_are_refused_before_they_touch_the_optimizer():
    optimizer = optim.SGD(parameters((1,)), lr=0.8)
    other = optim.SGD(parameters((1,)), lr=0.8)
    then = optim.CosineLR(other, 3)
    for error, message, make in [
        (ValueError, "StepLR: step_size must be at least 1, not 0", lambda: optim.StepLR(optimizer, 0)),
        (TypeError, "StepLR: step_size must be a whole number, not 2.5", lambda: optim.StepLR(optimizer, 2.5)),
        (ValueError, "StepLR: gamma must be finite and not negative", lambda: optim.StepLR(optimizer, 1, math.nan)),
        (ValueError, "CosineLR: steps must be at least 1, not -3", lambda: optim.CosineLR(optimizer, -3)),
        (ValueError, "CosineLR: lr_min must be finite", lambda: optim.CosineLR(optimizer, 3, -0.1)),
        (ValueError, "WarmupLR: steps must be at least 1", lambda: optim.WarmupLR(optimizer, 0)),
        (TypeError, "WarmupLR: steps must be a whole number, not True", lambda: optim.WarmupLR(optimizer, True)),
        (ValueError, "WarmupLR: `then` schedules another optimizer", lambda: optim.WarmupLR(optimizer, 3, then)),
        (TypeError, "WarmupLR: needs the Schedule, not a str", lambda: optim.WarmupLR(optimizer, 3, "cosine")),
        (TypeError, "CosineLR: needs the Optimizer, not a float", lambda: optim.CosineLR(0.1, 3)),
        (TypeError, "OneCycleLR: needs the Optimizer, not a list", lambda: optim.OneCycleLR([], 0.1, 3)),
        (ValueError, "OneCycleLR: max_lr has 2 values for 1 groups", lambda: optim.OneCycleLR(optimizer, [1, 2], 3)),
        (ValueError, "OneCycleLR: max_lr must be finite", lambda: optim.OneCycleLR(optimizer, math.inf, 3)),
        (ValueError, "OneCycleLR: total_steps must be at least 1", lambda: optim.OneCycleLR(optimizer, 1, 0)),
        (ValueError, r"OneCycleLR: pct_start must be in \[0, 1\]", lambda: optim.OneCycleLR(optimizer, 1, 3, 30)),
        (ValueError, "must not be 0", lambda: optim.OneCycleLR(optimizer, 1, 3, div_factor=0)),
        (ValueError, "must not be 0", lambda: optim.OneCycleLR(optimizer, 1, 3, final_div_factor=0)),
    ]:
        with pytest.raises(error, match=message):
            make()
    assert optimizer.param_groups[0].hyper == optim.SGD(parameters((1,)), lr=0.8).param_groups[0].hyper


def test_one_cycle_refuses_an_optimizer_without_momentum():
    optimizer = optim.Adagrad(parameters((1,)))
    with pytest.raises(ValueError, match="OneCycleLR: Adagrad has no momentum to cycle; give cycle_momentum=False"):
        optim.OneCycleLR(optimizer, 0.1, 3)
    optim.OneCycleLR(optimizer, 0.1, 3, cycle_momentum=False)
    with pytest.raises(NotImplementedError, match="Schedule has no rule"):
        optim.Schedule(optimizer)
