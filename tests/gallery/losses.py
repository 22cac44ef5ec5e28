"""Softmax with cross entropy, sigmoid cross entropy, cosine similarity, L2 normalisation, hinge."""


import numpy as np

from tests.gallery import Exhibit


def softmax_loss(x, y):
    shifted = x - np.max(x, axis=1, keepdims=True)
    e = np.exp(shifted)
    Z = e.sum(axis=1, keepdims=True)
    logp = shifted - np.log(Z)
    N = x.shape[0]
    return -np.sum(logp[np.arange(N), y]) / N


cross_entropy = Exhibit(
    "softmax cross entropy", softmax_loss, lambda rng: (rng.normal(size=(5, 4)), rng.integers(0, 4, 5)),
    """
    def backward(g, x, y):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        N = x.shape[0]
        d = p.copy()
        d[np.arange(N), y] -= 1
        return g * d / N
    """,
)  # fmt: skip
cross_entropy.mistake(
    "not divided by N", ("return g * d / N", "return g * d"), of="x", kind="factor", words="dx has a factor .*5"
)
cross_entropy.mistake(
    "targets not subtracted",
    ("    d[np.arange(N), y] -= 1\n", ""),
    of="x",
    kind="missing path",
    words="the path .* cut",
)
cross_entropy.mistake(
    "softmax's own path",
    ("d = p.copy()", "d = np.zeros_like(p)"),
    of="x",
    kind="missing path|derivative left out",
    words="path through `(Z|e)` cut|from `x` to `logp`",
)
cross_entropy.mistake(
    "sign", ("return g * d / N", "return -g * d / N"), of="x", kind="wrong sign", words="dx has the wrong sign"
)
cross_entropy.mistake("plus one", ("-= 1", "+= 1"), of="x", kind="wrong sign|factor|combination", words="wrong sign")
cross_entropy.mistake(
    "upstream ignored",
    ("return g * d / N", "return d / N"),
    of="x",
    kind="upstream ignored",
    words="dx ignores the upstream",
)
cross_entropy.mistake(
    "returns None", ("return g * d / N", "g * d / N"), of="", kind="nothing returned", words="returned None"
)
cross_entropy.mistake(
    "normalised over the batch",
    ("e / e.sum(axis=1, keepdims=True)", "e / e.sum(axis=0, keepdims=True)"),
    of="x",
    kind="unexplained",
    words="none of the mistakes",
)


def softmax_forward(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    total = e.sum(axis=-1, keepdims=True)
    return e / total


softmax = Exhibit(
    "softmax", softmax_forward, lambda rng: (rng.normal(size=(4, 5)),),
    """
    def backward(g, x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        p = e / e.sum(axis=-1, keepdims=True)
        return p * g - p * np.sum(p * g, axis=-1, keepdims=True)
    """,
)  # fmt: skip
softmax.mistake(
    "the diagonal of the Jacobian",
    ("np.sum(p * g, axis=-1, keepdims=True)", "p * g"),
    of="x",
    kind="not summed",
    words="path through `total` is not summed: .* as if the Jacobian were diagonal",
)
softmax.mistake(
    "summed over the batch",
    ("np.sum(p * g, axis=-1, keepdims=True)", "np.sum(p * g, axis=0, keepdims=True)"),
    of="x",
    kind="wrong axes",
    words=r"path through `total` is summed over axes \[0\], not axes \[1\]",
)
softmax.mistake(
    "without its sum",
    (" - p * np.sum(p * g, axis=-1, keepdims=True)", ""),
    of="x",
    kind="missing path",
    words="path through `total` cut",
)


def log_softmax_forward(x):
    shifted = x - x.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1)
    return shifted - np.log(total)[:, None]


log_softmax = Exhibit(
    "log softmax", log_softmax_forward, lambda rng: (rng.normal(size=(4, 5)),),
    """
    def backward(g, x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        return g - p * g.sum(axis=1, keepdims=True)
    """,
)  # fmt: skip
log_softmax.mistake(
    "the cotangent not summed",
    ("g.sum(axis=1, keepdims=True)", "g"),
    of="x",
    kind="not summed",
    words="path through `total` is not summed",
)


def sigmoid_loss(scores, targets):
    p = 1 / (1 + np.exp(-scores))
    losses = -(targets * np.log(p) + (1 - targets) * np.log(1 - p))
    return np.mean(losses)


binary = Exhibit(
    "sigmoid cross entropy", sigmoid_loss, lambda rng: (rng.normal(size=6), rng.integers(0, 2, 6)),
    """
    def backward(g, scores, targets):
        p = 1 / (1 + np.exp(-scores))
        d = p - targets
        return g * d / d.size
    """,
)  # fmt: skip
binary.mistake("summed, not averaged", ("d / d.size", "d"), of="scores", kind="factor", words="has a factor m = 6")
binary.mistake(
    "derivative of sigmoid too",
    ("d = p - targets", "d = (p - targets) * p * (1 - p)"),
    of="scores",
    kind="factor",
    words=r"has a factor `p`\(1 - `p`\) too many",
)
binary.mistake(
    "targets forgotten", ("d = p - targets", "d = p"), of="scores", kind="unexplained", words="none of the mistakes"
)


def cosine_forward(a, b):
    na = np.sqrt(np.sum(a * a, axis=1))
    nb = np.sqrt(np.sum(b * b, axis=1))
    dot = np.sum(a * b, axis=1)
    cos = dot / (na * nb)
    return cos, (na, nb, dot, cos)


cosine = Exhibit(
    "cosine similarity", cosine_forward, lambda rng: (rng.normal(size=(4, 5)), rng.normal(size=(4, 5))),
    """
    def backward(g, a, b):
        na = np.sqrt((a * a).sum(1, keepdims=True))
        nb = np.sqrt((b * b).sum(1, keepdims=True))
        cos = (a * b).sum(1, keepdims=True) / (na * nb)
        g = g[:, None]
        da = g * (b / (na * nb) - cos * a / na**2)
        db = g * (a / (na * nb) - cos * b / nb**2)
        return da, db
    """,
)  # fmt: skip
cosine.mistake(
    "norm of a as a constant", (" - cos * a / na**2", ""), of="a", kind="missing path", words="path through `na` cut"
)
cosine.mistake(
    "norm of b as a constant", (" - cos * b / nb**2", ""), of="b", kind="missing path", words="path through `nb` cut"
)
cosine.mistake(
    "sign of the norm's path",
    ("- cos * a", "+ cos * a"),
    of="a",
    kind="wrong sign",
    words="path through `na` has the wrong sign",
)
cosine.mistake(
    "norm not squared",
    ("cos * a / na**2", "cos * a / na"),
    of="a",
    kind="factor",
    words="path through `na` has a factor `na` too many",
)
cosine.mistake(
    "da and db swapped", ("return da, db", "return db, da"), of="a", kind="swapped", words="da holds autodiff's db"
)
cosine.mistake(
    "dot's path forgotten", ("b / (na * nb) - cos", "-cos"), of="a", kind="missing path", words="path through `dot` cut"
)


def unit_forward(w, scale):
    length = np.linalg.norm(w, axis=1, keepdims=True)
    direction = w / length
    return scale * direction


weight_norm = Exhibit(
    "weight normalisation", unit_forward, lambda rng: (rng.normal(size=(3, 4)), rng.normal(size=(3, 1))),
    """
    def backward(g, w, scale):
        length = np.sqrt((w * w).sum(1, keepdims=True))
        d = w / length
        dw = scale / length * (g - d * (g * d).sum(1, keepdims=True))
        return dw, (g * d).sum(1, keepdims=True)
    """,
)  # fmt: skip
weight_norm.mistake(
    "length as a constant",
    (" - d * (g * d).sum(1, keepdims=True)", ""),
    of="w",
    kind="missing path",
    words="path through `length` cut",
)
weight_norm.mistake(
    "scale forgotten",
    ("dw = scale / length", "dw = 1 / length"),
    of="w",
    kind="factor",
    words="dw lacks a factor `scale`",
)
weight_norm.mistake(
    "length forgotten",
    ("dw = scale / length", "dw = scale"),
    of="w",
    kind="factor",
    words="dw has a factor `length` too many",
)
weight_norm.mistake(
    "w for its direction",
    ("return dw, (g * d)", "return dw, (g * w)"),
    of="scale",
    kind="factor|mistaken value",
    words="`length`|`w`",
)


def unit_forward(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


unit = Exhibit(
    "unit vectors", unit_forward, lambda rng: (rng.normal(size=(4, 3)),),
    """
    def backward(g, x):
        n = np.linalg.norm(x, axis=1, keepdims=True)
        u = x / n
        return (g - u * (g * u).sum(axis=1, keepdims=True)) / n
    """,
)  # fmt: skip
unit.mistake(
    "each component's own term",
    ("(g * u).sum(axis=1, keepdims=True)", "(g * u)"),
    of="x",
    kind="not summed",
    words=r"path through `np.linalg.norm\(x, axis=1, keepdims=True\)` is not summed",
)
unit.mistake(
    "x for u",
    ("- u * (g", "- x * (g"),
    of="x",
    kind="mistaken value",
    words="dx uses `x` where `output` is meant",
)


def bilinear_forward(x, A, y):
    return np.einsum("bi,ij,bj->b", x, A, y)


bilinear = Exhibit(
    "bilinear form", bilinear_forward,
    lambda rng: (rng.normal(size=(5, 3)), rng.normal(size=(3, 3)), rng.normal(size=(5, 3))),
    """
    def backward(g, x, A, y):
        g = g[:, None]
        return g * (y @ A.T), (g * x).T @ y, g * (x @ A)
    """,
)  # fmt: skip
bilinear.mistake(
    "A not transposed", ("y @ A.T", "y @ A"), of="x", kind="mistaken value", words="dx uses `A` transposed where `A`"
)
bilinear.mistake(
    "A transposed", ("x @ A)", "x @ A.T)"), of="y", kind="mistaken value", words="dy uses `A` transposed where `A`"
)


def logistic_forward(z, target):
    return -np.mean(target * np.log(1 / (1 + np.exp(-z))) + (1 - target) * np.log(1 - 1 / (1 + np.exp(-z))))


logistic = Exhibit(
    "logistic loss, in one line", logistic_forward, lambda rng: (rng.normal(size=7), rng.integers(0, 2, 7)),
    """
    def backward(g, z, target):
        p = 1 / (1 + np.exp(-z))
        return g * (p - target) / len(z)
    """,
)  # fmt: skip
logistic.mistake(
    "the sigmoid's derivative once more",
    ("(p - target)", "(p - target) * p * (1 - p)"),
    of="z",
    kind="factor",
    words=r"dz has a factor p\(1 - p\), with p `1 / \(1 \+ np.exp\(-z\)\)`, too many",
)
logistic.mistake(
    "the sigmoid's derivative left out",
    ("(p - target)", "((1 - target) / (1 - p) - target / p)"),
    of="z",
    kind="factor",
    words=r"dz lacks a factor p\(1 - p\)",
)


def smoothed_loss(x, y):
    logp = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return -(0.9 * logp[np.arange(len(y)), y] + 0.1 * logp.mean(axis=1)).mean()


smoothed = Exhibit(
    "label smoothing", smoothed_loss, lambda rng: (rng.normal(size=(5, 4)), rng.integers(0, 4, 5)),
    """
    def backward(g, x, y):
        p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        k = x.shape[1]
        targets = 0.9 * np.eye(k)[y] + 0.1 / k
        return g * (p - targets) / len(y)
    """,
)  # fmt: skip
for name, edit, words in (
    ("no smoothing", ("0.9 * np.eye(k)[y] + 0.1 / k", "np.eye(k)[y]"), r"`\(softmax\(x, axis=1\) - onehot\(y\)\) / 5`"),
    ("spread over the others", ("0.1 / k", "0.1 / (k - 1)"), r"- 1/30\) / 5` by hand, and .* - 1/40\) / 5` is right"),
    ("the rest not spread", ("0.1 / k", "0.1"), r"- 1/10\) / 5` by hand"),
):
    smoothed.mistake(name, edit, of="x", kind="wrong term", words=words)


def dropped_forward(x, W, keep):
    h = np.maximum(x @ W, 0)
    return h * keep


dropped = Exhibit(
    "dropout with its mask", dropped_forward,
    lambda rng: (rng.normal(size=(5, 3)), rng.normal(size=(3, 4)), (rng.random((5, 4)) < 0.6) / 0.6),
    """
    def backward(g, x, W, keep):
        h = x @ W
        d = g * keep * (h > 0)
        return d @ W.T, x.T @ d, g * np.maximum(h, 0)
    """,
)  # fmt: skip
dropped.mistake(
    "mask inverted",
    ("g * keep", "g * (keep.max() - keep)"),
    of="x",
    kind="mistaken value",
    words="zeros where it has none",
)
dropped.mistake(
    "relu's condition inverted",
    ("(h > 0)", "(h <= 0)"),
    of="W",
    kind="wrong derivative",
    words="condition of maximum inverted",
)


def masked_forward(x, W, lengths):
    mask = np.arange(x.shape[1]) < lengths[:, None]
    bag = (x * mask[:, :, None]).sum(axis=1) / lengths[:, None]
    return bag @ W


masked = Exhibit(
    "mean of what a mask keeps", masked_forward,
    lambda rng: (rng.normal(size=(3, 4, 2)), rng.normal(size=(2, 3)), np.array([3, 2, 4])),
    """
    def backward(g, x, W, lengths):
        mask = np.arange(x.shape[1]) < lengths[:, None]
        bag = (x * mask[:, :, None]).sum(axis=1) / lengths[:, None]
        dbag = (g @ W.T)[:, None, :]
        return dbag * mask[:, :, None] / lengths[:, None, None], bag.T @ g
    """,
)  # fmt: skip
for name, edit, of, kind, words in (
    ("mask forgotten", ("dbag * mask[:, :, None]", "0 * x + dbag"), "x", "derivative left out", "the factor `mask` of"),
    ("length forgotten", (" / lengths[:, None, None]", ""), "x", "derivative left out", "the factor 1/`lengths` of"),
):  # fmt: skip
    masked.mistake(name, edit, of=of, kind=kind, words=words)

EXHIBITS = [
    cross_entropy, softmax, log_softmax, binary, cosine, weight_norm, unit, bilinear, logistic, smoothed, dropped,
    masked,
]  # fmt: skip
