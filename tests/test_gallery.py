"""Every planted mistake of the gallery is found, nearly every one is named, and nobody is accused falsely."""

import re

import numpy as np
import pytest

import minigrad as mg
from tests.gallery import all_exhibits

EXHIBITS = all_exhibits()
CASES = [(exhibit, mistake) for exhibit in EXHIBITS for mistake in exhibit.mistakes]


def inputs_of(exhibit, seed=1):
    return exhibit.inputs(np.random.default_rng(seed))


@pytest.mark.parametrize(("exhibit", "mistake"), CASES, ids=[f"{e.name}: {m.name}" for e, m in CASES])
def test_a_planted_mistake_leads_to_its_sentence(exhibit, mistake):
    report = mg.check_hand_gradient(
        exhibit.forward, inputs_of(exhibit), exhibit.wrong(mistake), outputs=exhibit.outputs, score=False
    )
    assert not report.ok
    assert any(
        re.fullmatch(mistake.kind, finding.kind)
        and mistake.argument in finding.argument.split(", ")
        and re.search(mistake.words, finding.message)
        for finding in report.mistakes
    ), str(report)


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_the_right_backward_passes_a_check_that_could_have_failed(exhibit):
    report = mg.check_hand_gradient(exhibit.forward, inputs_of(exhibit), exhibit.right(), outputs=exhibit.outputs)
    assert report.ok, str(report)
    caught, visible = re.match(r"(\d+) of (\d+)", report.details["mutation score"]).groups()
    assert caught == visible


def test_the_gallery_is_large_and_nearly_all_of_it_is_named():
    assert len(CASES) >= 60
    assert len({exhibit.name for exhibit in EXHIBITS}) >= 10
    unnamed = [mistake.name for _, mistake in CASES if mistake.kind == "unexplained"]
    assert len(unnamed) <= 0.05 * len(CASES), unnamed


# ---- nobody is accused falsely ----------------------------------------------------------------------
BATCHES = {
    "batchnorm": (2, 9),
    "batchnorm, staged": (2, 9),
    "layernorm": (1, 4),
    "groupnorm": (1, 4),
    "rmsnorm": (1, 6),
}


def varied(exhibit, rng):
    """Inputs of other shapes, dtypes and conditions: large means, constant channels, batches of two."""
    n, d = int(rng.integers(2, 10)), int(rng.integers(2, 7))
    shapes = {
        "batchnorm": ((n, d), (d,), (d,)),
        "batchnorm, staged": ((n, d), (d,), (d,)),
        "batchnorm, in one line": ((n, d), (d,), (d,)),
        "batchnorm, closed form": ((n, d), (d,), (d,)),
        "batchnorm, computed again": ((n, d), (d,), (d,)),
        "spatial batchnorm": ((n, d, 2, 3), (d,), (d,)),
        "layernorm": ((2, n, d), (d,), (d,)),
        "groupnorm": ((n, 2 * d, 2, 3), (1, 2 * d, 1, 1), (1, 2 * d, 1, 1)),
        "rmsnorm": ((n, d), (d,)),
        "softmax cross entropy": ((n, d),),
        "label smoothing": ((n, d),),
        "dropout with its mask": ((n, d), (d, 4), (n, 4)),
        "sigmoid cross entropy": ((n,),),
        "cosine similarity": ((n, d), (n, d)),
        "weight normalisation": ((n, d), (n, 1)),
        "centring": ((n, d), (d,)),
        "unit vectors": ((n, d),),
        "bilinear form": ((n, d), (d, d), (n, d)),
        "logistic loss, in one line": ((n,),),
        "softmax": ((n, d),),
        "log softmax": ((n, d),),
        "mean of what a mask keeps": ((n, d, 2), (2, 3)),
        "layers of one width": ((d, d), (d, d), (d, d)),
        "two-layer net": ((n, d), (d, 3), (3,), (3, n), (n,)),
        "dilated convolution": ((n, d + 3), (3,)),
        "max pooling, by loops": ((n, d + 1, 4),),
        "states in a dict": ((4, d, 1), (3, d), (3, 3), (3, 1)),
        "embedding used twice": ((n, d),),
        "highway layer": ((n, d), (d, d), (d, d), (d,)),
        "attention": ((n, d), (d, d), (d, 3)),
        "causal attention": ((n, d), (d, 3), (d, 3), (d, 2)),
        "convolution": ((2, d % 3 + 1, 3, 4), (2, d % 3 + 1, 3, 3), (2,)),
        "average pooling": ((n, d, 4, 2),),
        "max pooling": ((n, d, 2, 4),),
        "embedding": ((n, d),),
        "lstm cell": ((n, d), (n, 3), (n, 3), (d, 12), (3, 12), (12,)),
        "recurrent net": ((3, n, d), (n, 3), (d, 3), (3, 3)),
        "spring": ((n, d), (n, d), (n, d)),
    }[exhibit.name]
    dtype = rng.choice([np.float32, np.float64])
    arrays = [np.asarray(rng.normal(size=shape)) + 0.1 for shape in shapes]
    condition = rng.choice(["plain", "plain", "far", "two", "constant"])
    if "norm" in exhibit.name and exhibit.name != "weight normalisation":
        if condition == "far":
            arrays[0] = arrays[0] * 1e-2 + 1e4
        elif condition == "two" and exhibit.name.startswith("batch"):
            arrays[0] = arrays[0][:2]
        elif condition == "constant":
            arrays[0][..., 0] = 0.7
    extra = {
        "softmax cross entropy": (rng.integers(0, d, n),),
        "label smoothing": (rng.integers(0, d, n),),
        "sigmoid cross entropy": (rng.integers(0, 2, n),),
        "logistic loss, in one line": (rng.integers(0, 2, n),),
        "groupnorm": (2,),
        "mean of what a mask keeps": (rng.integers(1, d + 1, n),),
        "embedding": (rng.integers(0, n, (3, 2)),),
        "embedding used twice": (rng.integers(0, n, 4),),
    }.get(exhibit.name, ())
    return (*[a.astype(dtype) for a in arrays], *extra)


def accused(seed):
    """The report on a right backward where it finds a mistake in it, else None."""
    rng = np.random.default_rng(seed)
    exhibit = EXHIBITS[seed % len(EXHIBITS)]
    inputs = varied(exhibit, rng)
    report = mg.check_hand_gradient(
        exhibit.forward, inputs, exhibit.right(), outputs=exhibit.outputs, seed=seed, score=seed % 5 == 0
    )
    return None if report.ok else f"{exhibit.name}, seed {seed}: {report}"


@pytest.mark.parametrize("seed", range(68))
def test_a_right_backward_is_never_accused(seed):
    assert accused(seed) is None


@pytest.mark.slow
def test_a_right_backward_is_never_accused_in_a_thousand_random_cases():
    assert [case for case in map(accused, range(1000, 2000)) if case] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_mistakes_are_found_and_named_at_other_values_too(seed):
    found = named = 0
    for exhibit, mistake in CASES:
        report = mg.check_hand_gradient(
            exhibit.forward,
            inputs_of(exhibit, seed),
            exhibit.wrong(mistake),
            outputs=exhibit.outputs,
            score=False,
            seed=seed,
        )
        found += not report.ok
        named += all(finding.kind != "unexplained" for finding in report.mistakes)
    assert found == len(CASES)
    assert named >= 0.95 * len(CASES)


CONDITIONS = {
    "float32": lambda x: x.astype(np.float32),
    "mean 1e4, std 1e-2": lambda x: x * 1e-2 + 1e4,
    "a batch of 2": lambda x: x[:2],
    "a constant channel": lambda x: np.concatenate([x[:, :-1], np.full_like(x[:, :1], 0.7)], axis=1),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_batchnorms_mistakes_are_found_under_hard_conditions(condition):
    exhibit = EXHIBITS[0]
    x, gamma, beta = inputs_of(exhibit)
    x = CONDITIONS[condition](x)
    gamma, beta = gamma.astype(x.dtype), beta.astype(x.dtype)
    assert mg.check_hand_gradient(exhibit.forward, (x, gamma, beta), exhibit.right()).ok
    missed = [
        mistake.name
        for mistake in exhibit.mistakes
        if mg.check_hand_gradient(exhibit.forward, (x, gamma, beta), exhibit.wrong(mistake), score=False).ok
    ]
    assert missed == []
