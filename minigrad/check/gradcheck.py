"""`gradcheck`: derivatives by autodiff against derivatives by numbers.

Reverse and forward mode are both compared with a numerical oracle (see `oracles`): every element of
the Jacobian where the inputs are small, a few random directions where they are large. Higher orders
are checked by checking the derivative's own derivative, in every nesting of the two modes. A kink
inside the step (relu at 0, a tie of a maximum) is named rather than reported as an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from minigrad import autodiff, backend, ops
from minigrad.backend import numpy as host
from minigrad.backend import to_numpy, xp
from minigrad.check.forward import CannotRun, Forward, complaint, input_names, name_of, record
from minigrad.check.oracles import ORACLES, Slope, one_sided
from minigrad.check.report import NOTE, Finding, Report
from minigrad.paths import pull
from minigrad.tensor import Tensor, differentiable

Array = Any

SMALL = 64
"""Up to so many input elements the whole Jacobian is compared."""

EXACT_RTOL = 1e-9
"""The relative tolerance beside an oracle that is right to rounding, in float64."""

RTOL = {"float64": 1e-7, "float32": 2e-3, "float16": 5e-2}
"""Relative tolerances, by the dtype of the computation; the oracle's own error is added."""

KINKED = frozenset(
    ("abs", "amax", "argmax", "clip", "elu", "leaky_relu", "maximum", "max_pool", "minimum", "relu", "take", "where")
)


def gradcheck(
    f: Callable[..., Any],
    inputs: Sequence[Any],
    order: int = 1,
    *,
    oracle: str = "auto",
    modes: str = "both",
    directions: int = 4,
    keep_dtype: bool = False,
    rtol: float | None = None,
    seed: int = 0,
) -> Report:
    """Checks the derivatives of f, a function of Tensors, at `inputs` (arrays or Tensors).

    order:  up to which order; each order is checked in every nesting of jvp and vjp
    oracle: "complex", "richardson", "central", or "auto": the complex step where f continues
            analytically, else Richardson. A disagreement is confirmed by Richardson before it counts
    modes:  "reverse", "forward" or "both".  directions: how many random ones, for large inputs
    keep_dtype: check in the inputs' dtype instead of float64.  rtol: relative tolerance, by default by dtype

    The report is true where all agree; a mistake names the input, the worst elements with both values
    and their ratio, the oracle and the step. Raises CannotRun where f fails or is not differentiable.
    """
    if order < 1:
        raise ValueError(f"gradcheck: the order is 1 or more, not {order}")
    if modes not in ("both", "reverse", "forward"):
        raise ValueError(f"gradcheck: modes is 'both', 'reverse' or 'forward', not {modes!r}")
    if oracle != "auto" and oracle not in ORACLES:
        raise ValueError(f"gradcheck: oracle is 'auto' or one of {sorted(ORACLES)}, not {oracle!r}")
    given = [to_numpy(x.data) if isinstance(x, Tensor) else x for x in _several(inputs)]
    given = [to_numpy(x) if backend.is_array(x) else x for x in given]
    narrow = sorted({str(x.dtype) for x in given if _floating(x) and x.dtype != host.float64})
    values = given if keep_dtype else [x.astype(host.float64) if _floating(x) else x for x in given]
    level = Level(f, values)
    names = input_names(f, len(values))
    report = Report(f"gradient of {name_of(f)}" + (f" to order {order}" if order > 1 else ""))
    report.details["computed in"] = level.dtype + (
        f" (inputs: {', '.join(narrow)})" if narrow and not keep_dtype else ""
    )
    oracles: dict[str, int] = {}
    for depth in range(order):
        for nesting in itertools.product(*[("reverse", "forward")] * depth):
            derived = level
            for step, mode in enumerate(nesting):
                derived = derived.derivative(mode, seed + step)
            _compare(
                report,
                derived,
                nesting,
                [names[i] for i in level.places],
                oracle,
                modes,
                directions,
                rtol,
                seed,
                oracles,
            )
    if report.mistakes:
        report.findings[:0] = _culprits(f, values)
    report.details["oracle"] = ", ".join(f"{name} ({n} directions)" for name, n in oracles.items())
    return report


def _several(inputs: Any) -> list[Any]:
    return list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]


def _floating(x: Any) -> bool:
    return isinstance(x, host.ndarray) and x.dtype.kind == "f"


class Level:
    """A function of Tensors at a point, with one flat Tensor as its result; derivatives are Levels too.

    places: which inputs are differentiable.  xs: their values, on the host
    """

    def __init__(self, f: Callable[..., Any], values: Sequence[Any], call: Callable[..., Tensor] | None = None) -> None:
        self.f = f
        self.values = list(values)
        self.places = [i for i, x in enumerate(values) if _floating(x)]
        if not self.places:
            raise CannotRun("no input is a floating array: there is nothing to differentiate with respect to")
        self.xs = [self.values[i] for i in self.places]
        self.dtype = str(self.xs[0].dtype)
        self.call = call or self._flat
        self.lifted = call is not None

    def _flat(self, *xs: Any) -> Tensor:
        """f as a function of its differentiable inputs, its floating results laid end to end."""
        arguments = [backend.from_numpy(v) if isinstance(v, host.ndarray) else v for v in self.values]
        for place, x in zip(self.places, xs, strict=True):
            arguments[place] = x
        try:
            result = self.f(*arguments)
        except Exception as error:
            raise CannotRun(complaint("the function", self.f, error)) from error
        parts = result if isinstance(result, tuple) else (result,)
        tensors = [p for p in parts if isinstance(p, Tensor) and p.dtype.kind in "fc"]
        if not tensors:
            raise CannotRun(
                f"{name_of(self.f)} returned {type(parts[0]).__name__}: a Tensor of a floating dtype is needed"
            )
        flat = [ops.reshape(t, -1) for t in tensors]
        return flat[0] if len(flat) == 1 else ops.concatenate(flat)

    def numbers(self, xs: Sequence[Array]) -> Array:
        """The flat result on the host, for the oracles."""
        tensors = [Tensor(backend.from_numpy(host.asarray(x))) for x in xs]
        return to_numpy(self.call(*tensors).data)

    def tensors(self) -> list[Tensor]:
        return [Tensor(backend.from_numpy(x.copy())) for x in self.xs]

    def derivative(self, mode: str, seed: int) -> Level:
        """The derivative contracted with something random: a Level of one order more."""
        generator = host.random.default_rng(100 + seed)
        call = self.call
        if mode == "reverse":
            size = self.numbers(self.xs).size
            g = Tensor(backend.from_numpy(generator.normal(size=size).astype(self.dtype)))

            def derived(*xs: Tensor) -> Tensor:
                gradients = autodiff.vjp(call, *xs)[1](g)
                several = gradients if isinstance(gradients, tuple) else (gradients,)
                return ops.concatenate([ops.reshape(t, -1) for t in several])
        else:
            us = [
                Tensor(backend.from_numpy(host.asarray(generator.normal(size=x.shape)).astype(self.dtype)))
                for x in self.xs
            ]

            def derived(*xs: Tensor) -> Tensor:
                return autodiff.jvp(call, xs, tuple(us))[1]

        return Level(self.f, self.values, derived)


def _compare(
    report: Report, level: Level, nesting: tuple[str, ...], names: list[str], oracle: str, modes: str, directions: int,
    rtol: float | None, seed: int, oracles: dict[str, int],
) -> None:  # fmt: skip
    """One level's first derivatives, in both modes, input by input."""
    generator = host.random.default_rng(seed)
    title = " of the ".join([*(f"{m}-mode derivative" for m in reversed(nesting))]) if nesting else ""
    y = level.numbers(level.xs)
    if y.size == 0 or all(x.size == 0 for x in level.xs):
        return
    if not host.isfinite(y).all():
        report.findings.append(
            Finding("", "not finite", f"the function's own value is not finite{' in the ' + title if title else ''}")
        )
        return
    whole = sum(x.size for x in level.xs) <= SMALL
    gs = host.eye(y.size) if whole and y.size <= SMALL else generator.normal(size=(directions, y.size))
    reverse = None if modes == "forward" else _pulled(level, gs)
    for number, x in enumerate(level.xs):
        if x.size == 0:
            continue
        reach = RTOL[str(x.dtype)] if rtol is None else rtol
        units = host.eye(x.size) if whole else generator.normal(size=(directions, x.size))
        slopes: list[Slope] = []
        analytic: list[Array] = []
        kinks: list[int] = []
        for unit in units:
            u = [host.zeros(z.shape) for z in level.xs]
            u[number] = unit.reshape(x.shape)
            tangent = None if modes == "reverse" else _pushed(level, u)
            pulled = None if reverse is None else reverse[number] @ unit
            slope = _slope(level, u, oracle, (tangent, pulled), gs, reach)
            if isinstance(slope, str):
                kinks.append(len(slopes))
                message = (
                    f"a kink in {slope} lies within the step, where no derivative exists to compare with "
                    f"({names[number]})"
                )
                if not any(f.message == message for f in report.findings):
                    report.findings.append(Finding(names[number], "kink", message, severity=NOTE))
                continue
            oracles[slope.oracle] = oracles.get(slope.oracle, 0) + 1
            slopes.append(slope)
            analytic.append(host.concatenate([p for p in (tangent, pulled) if p is not None]))
        if slopes:
            _judge(
                report,
                names[number],
                title,
                slopes,
                analytic,
                gs,
                modes,
                x.shape if whole else None,
                reach,
                y.size,
                kinks,
            )


def _pulled(level: Level, gs: Array) -> list[Array]:
    """For each input the pullbacks of several cotangents, as rows: by the plain reverse pass, on raw arrays."""
    leaves = [Tensor(x.data, differentiable(x.data)) for x in level.tensors()]
    y = level.call(*leaves)
    if y.node is None:
        return [host.zeros((len(gs), x.size)) for x in level.xs]
    rows = []
    for g in gs:
        found = autodiff.grad(y, leaves, backend.from_numpy(g.astype(y.dtype)), retain_graph=True)
        rows.append([to_numpy(t.data).reshape(-1) for t in found])
    return [host.stack([row[k] for row in rows]) for k in range(len(level.xs))]


def _pushed(level: Level, u: Sequence[Array]) -> Array:
    us = [Tensor(xp.asarray(d, x.dtype)) for d, x in zip(u, level.xs, strict=True)]
    return to_numpy(autodiff.jvp(level.call, level.tensors(), us)[1].data)


def _agree(slope: Slope, found: tuple[Array | None, Array | None], gs: Array, rtol: float) -> bool:
    tangent, pulled = found
    scale = float(host.abs(slope.value).max(initial=0.0))
    rtol = min(rtol, EXACT_RTOL) if slope.regime == "exact" else rtol
    ok = True
    if tangent is not None:
        ok &= bool(
            (host.abs(tangent - slope.value) <= rtol * (host.abs(slope.value) + scale) + 10 * slope.error + 1e-14).all()
        )
    if pulled is not None:
        expected, error = gs @ slope.value, host.abs(gs) @ slope.error
        size = host.abs(gs) @ host.abs(slope.value)
        ok &= bool((host.abs(pulled - expected) <= rtol * (size + scale) + 10 * error + 1e-14).all())
    return ok


def _slope(
    level: Level, u: Sequence[Array], oracle: str, found: tuple[Array | None, Array | None], gs: Array, rtol: float
) -> Slope | str:
    """The numerical slope in a direction, or the name of the kink that forbids one."""
    f = level.numbers
    first: Slope | None = None
    if oracle == "auto":
        first = None if level.lifted or level.dtype != "float64" else ORACLES["complex"](f, level.xs, u)
        first = first if first is not None else ORACLES["richardson"](f, level.xs, u)
    else:
        first = ORACLES[oracle](f, level.xs, u)
        if first is None:
            raise CannotRun(
                f"{name_of(level.f)} has no complex continuation (it uses an op that takes real numbers only)"
            )
    assert first is not None
    if _agree(first, found, gs, rtol):
        kink = _kink(level, u, 1e-9) if first.oracle != "complex step" else None
        return first if kink is None else kink
    for step in (1e-7, 1e-5, first.step if first.oracle != "complex step" else 1e-5):
        kink = _kink(level, u, step)
        if kink is not None:
            return kink
    if first.oracle == "complex step":  # a function may continue otherwise than expected: ask another oracle
        second = ORACLES["richardson"](f, level.xs, u)
        assert second is not None
        return second if _agree(second, found, gs, rtol) else first
    return first


def _kink(level: Level, u: Sequence[Array], h: float) -> str | None:
    """The op that switches between x - hu and x + hu while the slopes to both sides differ."""
    right, left = one_sided(level.numbers, level.xs, u, h)
    apart = float(host.abs(right - left).max(initial=0.0))
    size = float(host.maximum(host.abs(right), host.abs(left)).max(initial=0.0))
    here = float(host.abs(level.numbers(level.xs)).max(initial=0.0))
    if apart <= 1e-3 * size + 100 * host.finfo(level.dtype).eps * here / h:
        return None
    sides = []
    for sign in (1, -1):
        moved = list(level.values)
        for place, x, d in zip(level.places, level.xs, u, strict=True):
            moved[place] = (x + sign * h * d).astype(x.dtype)
        try:
            with backend.using("numpy"):
                sides.append(_switches(record(_one_output(level.f), moved)))
        except CannotRun:
            return None
    for (words, a), (_, b) in zip(*sides, strict=False):
        if a.shape != b.shape or not host.array_equal(a, b):
            return words
    return None


def _culprits(f: Callable[..., Any], values: Sequence[Any]) -> list[Finding]:
    """The rows whose own pullback disagrees with their own forward, each checked alone where it stands on the tape."""
    try:
        with backend.using("numpy"):
            run = record(_one_output(f), values)
            return [finding for node in run.order for finding in _alone(run, node)]
    except CannotRun:
        return []


def _alone(run: Forward, node: Any) -> list[Finding]:
    row = node.primitive
    if row is None:
        return []
    generator = host.random.default_rng(0)
    g = generator.normal(size=node.shape)
    if row.joint is not None:
        return _beside_its_reference(row, node, g)
    statics = dict(zip(row.statics, node.params, strict=True))
    findings = []
    for i, _, c in pull(node, g):
        arguments = list(run.arguments[node])

        def forward(xs: Sequence[Array], i: int = i, arguments: list[Any] = arguments) -> Array:
            return host.asarray(row.call(*arguments[:i], xs[0], *arguments[i + 1 :], **statics)).reshape(-1)

        x = host.asarray(arguments[i], dtype=float)
        u = generator.normal(size=x.shape)
        slope = ORACLES["complex"](forward, [x], [u]) or ORACLES["richardson"](forward, [x], [u])
        assert slope is not None
        expected, found = float(g.reshape(-1) @ slope.value), float((c * u).sum())
        size = float(host.abs(g.reshape(-1)) @ host.abs(slope.value)) + float(host.abs(c * u).sum())
        if abs(found - expected) > 1e-6 * size + 10 * float(host.abs(g.reshape(-1)) @ slope.error):
            name = row.arguments[0 if row.variadic else i]
            message = (
                f"the pullback of {row.name} in its argument {name!r} is wrong{run.where(node)}: along a random "
                f"direction it "
                f"gives {found:.6g}, and its forward changes by {expected:.6g} (ratio "
                f"{found / expected if expected else float('inf'):.6g})"
            )
            findings.append(
                Finding(row.name, "wrong pullback", message, (row.name,), evidence={"oracle": slope.oracle})
            )
    return findings


def _beside_its_reference(row: Any, node: Any, g: Array) -> list[Finding]:
    """A fused row's own pullback against the derivative of what it fuses."""
    findings = []
    fused = {i: c for i, _, c in pull(node, g)}
    for i, _, c in pull(node, Tensor(g), create_graph=True):
        apart = float(host.abs(fused[i] - c.data).max(initial=0.0))
        if apart > 1e-6 * float(host.abs(c.data).max(initial=0.0)) + 1e-12:
            message = (
                f"the fused pullback of {row.name} in its argument {row.arguments[i]!r} differs from that "
                f"of its reference by up to {apart:.3g}"
            )
            findings.append(Finding(row.name, "wrong pullback", message, (row.name,)))
    return findings


def _one_output(f: Callable[..., Any]) -> Callable[..., Any]:
    def first(*xs: Any) -> Any:
        result = f(*xs)
        return result[0] if isinstance(result, tuple) else result

    return first


def _switches(run: Forward) -> list[tuple[str, Array]]:
    """Which side every op with a kink is on."""
    switches = []
    for node in run.order:
        if node.primitive is None or node.primitive.name not in KINKED:
            continue
        name = node.primitive.name
        arrays = [a for a in run.arguments[node] if isinstance(a, host.ndarray)]
        words = name.rstrip("_") + (f" ({run.describe(node)})" if node in run.names else "")
        if name in ("maximum", "minimum"):
            a, b = run.arguments[node]
            state = host.sign(host.asarray(a) - host.asarray(b))
        elif name == "clip":
            low, high = node.params
            x = arrays[0]
            state = host.where(x < (-host.inf if low is None else low), -1, 0) + host.where(
                x > (host.inf if high is None else high), 1, 0
            )
        elif name in ("amax", "max_pool"):
            state = arrays[0] == _spread(run.values[node], arrays[0])
        elif name == "where":
            state = arrays[0]
        elif name == "take":
            index = node.params[0]
            parts = [p for p in (index if isinstance(index, tuple) else (index,)) if isinstance(p, host.ndarray)]
            state = host.concatenate([host.ravel(p) for p in parts]) if parts else host.zeros(0)
            words = (
                f"the choice of elements{' for ' + run.describe(node) if node in run.names else ''} (max, "
                f"sort or an index)"
            )
        else:
            state = host.sign(arrays[0])
        switches.append((words, host.asarray(state)))
    return switches


def _spread(top: Array, x: Array) -> Array:
    """A maximum over some axes, against the array it was taken of."""
    if top.ndim == x.ndim:
        return top
    return host.isin(x, top) * x


def _judge(
    report: Report, name: str, title: str, slopes: list[Slope], analytic: list[Array], gs: Array, modes: str,
    shape: tuple[int, ...] | None, rtol: float, outputs: int, kinks: list[int],
) -> None:  # fmt: skip
    """Compares all directions of one input and reports the worst."""
    sides = [m for m in ("forward", "reverse") if modes in ("both", m)]
    start = 0
    rtol = min(rtol, EXACT_RTOL) if all(s.regime == "exact" for s in slopes) else rtol
    for side in sides:
        width = outputs if side == "forward" else len(gs)
        computed = host.stack([a[start : start + width] for a in analytic], 1)
        start += width
        expected = host.stack([s.value for s in slopes], 1)
        error = host.stack([s.error for s in slopes], 1)
        size = host.abs(expected)
        if side == "reverse":
            expected, error, size = gs @ expected, host.abs(gs) @ error, host.abs(gs) @ size
        bound = rtol * (size + size.max(initial=0.0)) + 10 * error + 1e-14
        key = f"{name} ({side}{', ' + title if title else ''})"
        gap = host.abs(computed - expected)
        report.facts[key] = {
            "largest difference": float(gap.max(initial=0.0)),
            "tolerance": float(bound.max(initial=0.0)),
        }
        if not title:
            report.maps[f"{name} ({side})"] = (computed, expected)
        bad = ~(gap <= bound)
        if not bad.any():
            continue
        worst = []
        for flat in host.argsort(-host.where(host.isnan(gap), host.inf, gap).reshape(-1))[:3]:
            i, j = (int(n) for n in host.unravel_index(int(flat), gap.shape))
            place = tuple(int(n) for n in host.unravel_index(j, shape)) if shape is not None and not kinks else j
            mine, right = float(computed[i, j]), float(expected[i, j])
            worst.append(
                {
                    "output": i,
                    "input": place,
                    "autodiff": mine,
                    "oracle": right,
                    "ratio": mine / right if right else float("inf"),
                }
            )
        slope = slopes[int(host.argmax(bad.any(axis=0)))]
        first = worst[0]
        where = "element" if shape is not None else "direction"
        message = (
            f"the gradient with respect to {name} is wrong ({side} mode{', in the ' + title if title else ''}): "
            f"at output "
            f"{first['output']}, {where} {first['input']}, autodiff says {first['autodiff']:.6g} and the "
            f"{slope.oracle} "
            f"{first['oracle']:.6g} (ratio {first['ratio']:.6g}); {int(bad.sum())} of {bad.size} differ. Step "
            f"{slope.step:.1g}, "
            f"limited by {slope.regime}"
        )
        evidence = {"worst": worst, "oracle": slope.oracle, "step": slope.step, "regime": slope.regime, "mode": side}
        report.findings.append(Finding(name, "wrong gradient", message, evidence=evidence))
