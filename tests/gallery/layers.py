"""Affine layers, attention, convolution, pooling, embedding."""
# ruff: noqa: E501  (one mistake a line, so that the edits can be compared)

import numpy as np

from tests.gallery import Exhibit


def mlp_forward(x, W1, b1, W2, b2):
    a = x @ W1 + b1
    h = np.maximum(0, a)
    out = h.dot(W2) + b2
    return out, (x, W1, a, h, W2)


mlp = Exhibit(
    "two-layer net", mlp_forward,
    lambda rng: (rng.normal(size=(6, 5)), rng.normal(size=(5, 4)), rng.normal(size=4), rng.normal(size=(4, 4)), rng.normal(size=4)),
    """
    def backward(g, cache):
        x, W1, a, h, W2 = cache
        dW2 = h.T @ g
        db2 = g.sum(axis=0)
        dh = g @ W2.T
        da = dh * (a > 0)
        dW1 = x.T @ da
        db1 = da.sum(axis=0)
        dx = da @ W1.T
        return dx, dW1, db1, dW2, db2
    """,
)  # fmt: skip
mlp.mistake(
    "relu's derivative",
    ("da = dh * (a > 0)", "da = dh"),
    of="x",
    kind="derivative left out",
    words="dx, dW1 and db1 lack the derivative of maximum at `h`",
)
mlp.mistake(
    "mask of the upstream",
    ("(a > 0)", "(dh > 0)"),
    of="x",
    kind="mistaken value",
    words="use the cotangent that arrives where `a` is meant",
)
mlp.mistake(
    "W2 not transposed", ("dh = g @ W2.T", "dh = g @ W2"), of="x", kind="mistaken value", words="`W2` transposed"
)
mlp.mistake(
    "dW2 transposed", ("dW2 = h.T @ g", "dW2 = g.T @ h"), of="W2", kind="permuted", words="dW2 is autodiff's transposed"
)
mlp.mistake(
    "a for h",
    ("dW2 = h.T @ g", "dW2 = a.T @ g"),
    of="W2",
    kind="mistaken value",
    words="dW2 uses `a` where `h` is meant",
)
mlp.mistake(
    "db1 not summed",
    ("db1 = da.sum(axis=0)", "db1 = da"),
    of="b1",
    kind="broadcast not summed",
    words=r"sum it over axes \[0\]",
)
mlp.mistake(
    "db2 over the wrong axis",
    ("db2 = g.sum(axis=0)", "db2 = g.sum(axis=1)"),
    of="b2",
    kind="wrong axes",
    words=r"db2 has shape \[6\].* the upstream gradient summed over axes \[1\], and has to be summed over \[0\]",
)
mlp.mistake(
    "dW1 divided by N",
    ("dW1 = x.T @ da", "dW1 = x.T @ da / len(x)"),
    of="W1",
    kind="factor",
    words="dW1 lacks a factor 6",
)
mlp.mistake(
    "activations for relu's mask",
    ("(a > 0)", "a"),
    of="x",
    kind="wrong derivative",
    words="`a` for the derivative of maximum at `h`",
)


def square_forward(x, W, V):
    h = np.tanh(x @ W)
    return h @ V


square = Exhibit(
    "layers of one width", square_forward,
    lambda rng: (rng.normal(size=(4, 4)), rng.normal(size=(4, 4)), rng.normal(size=(4, 4))),
    """
    def backward(g, x, W, V):
        h = np.tanh(x @ W)
        dh = g @ V.T
        da = dh * (1 - h * h)
        return da @ W.T, x.T @ da, h.T @ g
    """,
)  # fmt: skip
square.mistake(
    "the cotangent transposed", ("g @ V.T", "g.T @ V.T"), of="x", kind="product",
    words="dx and dW use `g.T @ V.T` where `g @ V.T` is meant; g is the cotangent of `output`",
)  # fmt: skip
square.mistake(
    "another order", ("x.T @ da", "da @ x"), of="W", kind="product",
    words="dW uses `g @ x` where `x.T @ g` is meant; g is the cotangent of `x @ W`",
)  # fmt: skip
square.mistake(
    "order and cotangent", ("da @ W.T", "W @ da.T"), of="x", kind="permuted", words="dx is autodiff's transposed"
)
square.mistake(
    "the first factor second", ("g @ V.T", "V.T @ g"), of="x", kind="product",
    words="use `V.T @ g` where `g @ V.T` is meant",
)  # fmt: skip


def attention_forward(q, k, v):
    d = q.shape[-1]
    scores = q @ k.T / np.sqrt(d)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total = e.sum(axis=-1, keepdims=True)
    p = e / total
    return p @ v, (q, k, v, p)


attention = Exhibit(
    "attention", attention_forward, lambda rng: (rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 2))),
    """
    def backward(g, cache):
        q, k, v, p = cache
        dv = p.T @ g
        dp = g @ v.T
        ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True))
        ds = ds / np.sqrt(q.shape[-1])
        return ds @ k, ds.T @ q, dv
    """,
)  # fmt: skip
attention.mistake(
    "scale forgotten",
    ("    ds = ds / np.sqrt(q.shape[-1])\n", ""),
    of="q",
    kind="factor",
    words=r"factor (sqrt\(m\)|1\.73205)",
)
attention.mistake(
    "softmax's normaliser",
    (" - (dp * p).sum(axis=-1, keepdims=True)", ""),
    of="q",
    kind="missing path",
    words="dq and dk equal autodiff with the path through `total` cut",
)
attention.mistake(
    "softmax as if diagonal",
    ("(dp * p).sum(axis=-1, keepdims=True)", "dp * p"),
    of="k",
    kind="not summed",
    words="in dq and dk the path through `total` is not summed",
)
attention.mistake(
    "softmax's derivative",
    ("ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True))", "ds = dp"),
    of="q",
    kind="derivative left out",
    words="lack the derivative of `p` by `scores`",
)
attention.mistake(
    "mean for sum",
    ("(dp * p).sum(", "(dp * p).mean("),
    of="q",
    kind="factor",
    words="path through `total` lacks a factor .*5",
)
attention.mistake(
    "dq and dk by one another",
    ("return ds @ k, ds.T @ q", "return ds @ ds.T @ q, ds.T @ q"),
    of="q",
    kind="unexplained",
    words="none of the mistakes",
)
attention.mistake(
    "dv with the scores",
    ("dv = p.T @ g", "dv = (q @ k.T / np.sqrt(q.shape[-1])).T @ g"),
    of="v",
    kind="mistaken value",
    words="dv uses `scores` where `p` is meant",
)
attention.mistake(
    "scale twice",
    ("ds / np.sqrt(q.shape[-1])", "ds / q.shape[-1]"),
    of="q",
    kind="factor",
    words=r"lacks? a factor (sqrt\(m\)|1\.73205)",
)


def conv_forward(x, w, b):
    N, _, H, W = x.shape
    F, _, HH, WW = w.shape
    xp = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="constant")
    out = np.zeros((N, F, H, W))
    for i in range(H):
        for j in range(W):
            patch = xp[:, :, i : i + HH, j : j + WW]
            out[:, :, i, j] = np.tensordot(patch, w, axes=([1, 2, 3], [1, 2, 3])) + b
    return out, (x, w, b)


convolution = Exhibit(
    "convolution", conv_forward,
    lambda rng: (rng.normal(size=(2, 2, 4, 4)), rng.normal(size=(3, 2, 3, 3)), rng.normal(size=3)),
    """
    def backward(g, cache):
        x, w, b = cache
        xp = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        dxp, dw = np.zeros_like(xp), np.zeros_like(w)
        for i in range(g.shape[2]):
            for j in range(g.shape[3]):
                d = g[:, :, i, j]
                dw += np.tensordot(d, xp[:, :, i : i + 3, j : j + 3], axes=([0], [0]))
                dxp[:, :, i : i + 3, j : j + 3] += np.tensordot(d, w, axes=([1], [0]))
        return dxp[:, :, 1:-1, 1:-1], dw, g.sum(axis=(0, 2, 3))
    """,
)  # fmt: skip
convolution.mistake(
    "assigned, not added",
    ("j : j + 3] += np", "j : j + 3] = np"),
    of="x",
    kind="overwritten",
    words="overwrite each other",
)
convolution.mistake(
    "kernel flipped",
    ("np.tensordot(d, w, axes", "np.tensordot(d, w[:, :, ::-1, ::-1], axes"),
    of="x",
    kind="mistaken value",
    words="`w` flipped along axes 2, 3",
)
convolution.mistake(
    "dw flipped",
    ("dw, g.sum", "dw[:, :, ::-1, ::-1], g.sum"),
    of="w",
    kind="permuted",
    words="dw is autodiff's flipped along axes 2, 3",
)
convolution.mistake(
    "padding kept",
    ("return dxp[:, :, 1:-1, 1:-1]", "return dxp"),
    of="x",
    kind="derivative left out",
    words=r"dx has shape \[2, 2, 6, 6\], and x \[2, 2, 4, 4\]: it is the cotangent of `xp`",
)
convolution.mistake(
    "the padding of one side kept", ("dxp[:, :, 1:-1, 1:-1]", "dxp[:, :, 2:, 2:]"), of="x", kind="permuted",
    words=r"the part of the cotangent of `xp` .* that belongs to `x` is cut out from \[0, 0, 2, 2\] on",
)  # fmt: skip
convolution.mistake(
    "db over the batch only",
    ("g.sum(axis=(0, 2, 3))", "g.sum(axis=0)"),
    of="b",
    kind="broadcast not summed",
    words="sum it over axes",
)
convolution.mistake(
    "dw averaged", ("dw, g.sum", "dw / len(x), g.sum"), of="w", kind="factor", words="dw lacks a factor 2"
)


def average_pool(x):
    N, C, H, W = x.shape
    blocks = x.reshape(N, C, H // 2, 2, W // 2, 2)
    return blocks.mean(axis=(3, 5))


avg_pool = Exhibit(
    "average pooling", average_pool, lambda rng: (rng.normal(size=(2, 3, 4, 4)),),
    """
    def backward(g, x):
        return np.repeat(np.repeat(g, 2, axis=2), 2, axis=3) / 4
    """,
)  # fmt: skip
avg_pool.mistake("not divided", (" / 4", ""), of="x", kind="factor", words="dx has a factor .*4")
avg_pool.mistake("divided by one side", (" / 4", " / 2"), of="x", kind="factor", words="dx has a factor 2")
avg_pool.mistake(
    "tiled",
    ("np.repeat(np.repeat(g, 2, axis=2), 2, axis=3)", "np.tile(g, (1, 1, 2, 2))"),
    of="x",
    kind="permuted",
    words=r"is permuted to axes \[0, 1, 3, 2, 5, 4\], and then reshaped, where it has to be reshaped .* alone",
)


def maximum_pool(x):
    N, C, H, W = x.shape
    blocks = x.reshape(N, C, H // 2, 2, W // 2, 2)
    return blocks.max(axis=(3, 5)), x


max_pool = Exhibit(
    "max pooling", maximum_pool, lambda rng: (rng.normal(size=(2, 3, 4, 4)),),
    """
    def backward(g, x):
        N, C, H, W = x.shape
        blocks = x.reshape(N, C, H // 2, 2, W // 2, 2)
        top = blocks.max(axis=(3, 5), keepdims=True)
        mask = blocks == top
        return (mask * g[:, :, :, None, :, None]).reshape(x.shape)
    """,
)  # fmt: skip
max_pool.mistake(
    "spread over the window",
    ("mask * g[:, :, :, None, :, None]", "np.ones_like(mask) * g[:, :, :, None, :, None] / 4"),
    of="x",
    kind="wrong derivative",
    words="spread evenly over all elements",
)
max_pool.mistake("negated", ("return (mask", "return -(mask"), of="x", kind="wrong sign", words="dx has the wrong sign")
max_pool.mistake(
    "times the maximum", ("(mask * g", "(mask * top * g"), of="x", kind="factor", words="factor .* too many"
)


def embedding_forward(table, words):
    vectors = table[words]
    return np.tanh(vectors)


embedding = Exhibit(
    "embedding", embedding_forward, lambda rng: (rng.normal(size=(5, 3)), np.array([[0, 2, 2], [4, 0, 2]])),
    """
    def backward(g, table, words):
        d = g * (1 - np.tanh(table[words]) ** 2)
        dtable = np.zeros_like(table)
        np.add.at(dtable, words, d)
        return dtable
    """,
)  # fmt: skip
embedding.mistake(
    "repeated words overwrite",
    ("np.add.at(dtable, words, d)", "dtable[words] = d"),
    of="table",
    kind="overwritten",
    words="overwrite each other",
)
embedding.mistake(
    "repeated words added once",
    ("np.add.at(dtable, words, d)", "dtable[words] += d"),
    of="table",
    kind="overwritten",
    words="overwrite each other",
)
embedding.mistake(
    "tanh's derivative",
    (" * (1 - np.tanh(table[words]) ** 2)", ""),
    of="table",
    kind="derivative left out",
    words="derivative of tanh",
)
embedding.mistake(
    "tanh's derivative twice", ("** 2)", "** 2) ** 2"), of="table", kind="derivative twice", words="tanh .* twice"
)
embedding.mistake(
    "tanh's square forgotten",
    ("np.tanh(table[words]) ** 2", "np.tanh(table[words])"),
    of="table",
    kind="wrong derivative|factor",
    words=r"`output`",
)


def tied_forward(E, words):
    return np.tanh(E[words]) @ E.T


tied = Exhibit(
    "embedding used twice", tied_forward, lambda rng: (rng.normal(size=(5, 3)), np.array([0, 2, 2, 4])),
    """
    def backward(g, E, words):
        h = np.tanh(E[words])
        dE = g.T @ h
        np.add.at(dE, words, (g @ E) * (1 - h**2))
        return dE
    """,
)  # fmt: skip
tied.mistake(
    "repeated words added once", ("np.add.at(dE, words, (g @ E) * (1 - h**2))", "dE[words] += (g @ E) * (1 - h**2)"),
    of="E", kind="overwritten", words="contributions to `E` that meet in one element overwrite each other",
)  # fmt: skip


def causal_forward(x, Wq, Wk, Wv):
    q, k, v = x @ Wq, x @ Wk, x @ Wv
    scores = q @ k.T
    seen = np.where(np.tri(len(x)) > 0, scores, -1e9)
    e = np.exp(seen - seen.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return p @ v


causal = Exhibit(
    "causal attention", causal_forward, lambda rng: tuple(rng.normal(size=s) for s in ((4, 3), (3, 3), (3, 3), (3, 2))),
    """
    def backward(g, x, Wq, Wk, Wv):
        q, k, v = x @ Wq, x @ Wk, x @ Wv
        scores = np.where(np.tri(len(x)) > 0, q @ k.T, -1e9)
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        dv = p.T @ g
        dp = g @ v.T
        ds = p * (dp - (dp * p).sum(axis=1, keepdims=True))
        dq, dk = ds @ k, ds.T @ q
        return dq @ Wq.T + dk @ Wk.T + dv @ Wv.T, x.T @ dq, x.T @ dk, x.T @ dv
    """,
)  # fmt: skip
for name, edit, of, kind, words in (
    ("mask forgotten", ("np.where(np.tri(len(x)) > 0, q @ k.T, -1e9)", "q @ k.T"), "Wk", "step left out",
     "dx, dWq, dWk and dWv are computed without the where at `seen`"),
    ("softmax summed over the queries", ("(dp * p).sum(axis=1", "(dp * p).sum(axis=0"), "Wq", "wrong axes",
     r"path through `e.sum\(axis=1, keepdims=True\)` is summed over axes \[0\], not axes \[1\]"),
    ("scores not transposed", ("ds.T @ q", "ds @ q"), "Wk", "product", r"`g @ q` where `g.T @ q` is meant"),
    ("weights exchanged", ("dq @ Wq.T + dk @ Wk.T", "dq @ Wk.T + dk @ Wq.T"), "x", "mistaken value",
     "in dx `Wk` and `Wq` are exchanged"),
):  # fmt: skip
    causal.mistake(name, edit, of=of, kind=kind, words=words)


def highway_forward(x, Wh, Wt, bt):
    h = np.maximum(x @ Wh, 0)
    t = 1 / (1 + np.exp(-(x @ Wt + bt)))
    return h * t + x * (1 - t)


highway = Exhibit(
    "highway layer", highway_forward, lambda rng: tuple(rng.normal(size=s) for s in ((6, 4), (4, 4), (4, 4), (4,))),
    """
    def backward(g, x, Wh, Wt, bt):
        h = np.maximum(x @ Wh, 0)
        t = 1 / (1 + np.exp(-(x @ Wt + bt)))
        dh = g * t * (h > 0)
        dt = g * (h - x) * t * (1 - t)
        dx = dh @ Wh.T + dt @ Wt.T + g * (1 - t)
        return dx, x.T @ dh, x.T @ dt, dt.sum(axis=0)
    """,
)  # fmt: skip
for name, edit, of, kind, words in (
    ("the gate for the carry", ("+ g * (1 - t)", "+ g * t"), "x", "mistaken value",
     r"dx uses `t` where `1 - t` is meant, in the derivative of `x \* \(1 - t\)`"),
    ("carry not scaled", ("+ g * (1 - t)", "+ g"), "x", "derivative left out", r"factor `1 - t` of `x \* \(1 - t\)`"),
    ("the carry's part of the gate", ("(h - x)", "h"), "Wt", "missing path", "dx, dWt and dbt .* through `1 - t` cut"),
):  # fmt: skip
    highway.mistake(name, edit, of=of, kind=kind, words=words)


def dilated_forward(x, w):
    T, k = x.shape[1], len(w)
    xp = np.concatenate([np.zeros((len(x), 2 * k - 2)), x], axis=1)
    out = np.zeros(x.shape)
    for t in range(T):
        for i in range(k):
            out[:, t] += w[i] * xp[:, t + 2 * i]
    return out


dilated = Exhibit(
    "dilated convolution", dilated_forward, lambda rng: (rng.normal(size=(2, 6)), rng.normal(size=3)),
    """
    def backward(g, x, w):
        T, k = x.shape[1], len(w)
        xp = np.concatenate([np.zeros((len(x), 2 * k - 2)), x], axis=1)
        dxp, dw = np.zeros_like(xp), np.zeros(k)
        for t in range(T):
            for i in range(k):
                dxp[:, t + 2 * i] += w[i] * g[:, t]
                dw[i] += np.sum(g[:, t] * xp[:, t + 2 * i])
        return dxp[:, 2 * k - 2 :], dw
    """,
)  # fmt: skip
for name, edit, of, kind, words in (
    ("assigned, not added", ("dxp[:, t + 2 * i] +=", "dxp[:, t + 2 * i] ="), "x", "overwritten", "contributions to `xp`"),
    ("weights assigned", ("dw[i] +=", "dw[i] ="), "w", "overwritten", "in dw contributions to `w` that meet"),
    ("weights averaged", ("], dw\n", "], dw / g.size\n"), "w", "factor", "averaged over the places where `w` is used"),
):  # fmt: skip
    dilated.mistake(name, edit, of=of, kind=kind, words=words)


def naive_maximum_pool(x):
    N, H, W = x.shape
    out = np.zeros((N, H - 2, W - 2))
    for n in range(N):
        for i in range(H - 2):
            for j in range(W - 2):
                out[n, i, j] = np.max(x[n, i : i + 3, j : j + 3])
    return out


loops_pool = Exhibit(
    "max pooling, by loops", naive_maximum_pool, lambda rng: (rng.normal(size=(2, 5, 4)),),
    """
    def backward(g, x):
        dx = np.zeros_like(x)
        for n in range(len(g)):
            for i in range(g.shape[1]):
                for j in range(g.shape[2]):
                    window = x[n, i : i + 3, j : j + 3]
                    mask = window == np.max(window)
                    dx[n, i : i + 3, j : j + 3] += mask * g[n, i, j]
        return dx
    """,
)  # fmt: skip
for name, edit, kind, words in (
    ("the least", ("== np.max(", "== np.min("), "wrong derivative", "given to the smallest element, at each of 12 steps"),
    ("everywhere", ("mask * g", "np.ones((3, 3)) * g"), "wrong derivative", "copied to all elements, at each of 12"),
    ("the mean's", ("mask * g", "1 / 9 * g"), "wrong derivative", "spread evenly over all elements, at each of 12"),
    ("assigned", ("j : j + 3] += mask * g[n, i, j]", "j : j + 3][mask] = g[n, i, j]"), "overwritten", "meet in one"),
    ("a row short", ("g.shape[1])", "g.shape[1] - 1)"), "upstream ignored", "all but the last of the 3 parts"),
):  # fmt: skip
    loops_pool.mistake(name, edit, of="x", kind=kind, words=words)

EXHIBITS = [tied, highway, dilated, loops_pool, mlp, square, attention, causal, convolution, avg_pool, max_pool, embedding]
