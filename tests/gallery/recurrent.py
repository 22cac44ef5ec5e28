"""An LSTM cell and a plain recurrent cell over several steps."""


import numpy as np

from tests.gallery import Exhibit


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def lstm_forward(x, h, c, Wx, Wh, b):
    H = h.shape[1]
    a = x @ Wx + h @ Wh + b
    i = sigmoid(a[:, :H])
    f = sigmoid(a[:, H : 2 * H])
    o = sigmoid(a[:, 2 * H : 3 * H])
    n = np.tanh(a[:, 3 * H :])
    c_next = f * c + i * n
    t = np.tanh(c_next)
    h_next = o * t
    return h_next, c_next, (x, h, c, Wx, Wh, i, f, o, n, t)


lstm = Exhibit(
    "lstm cell", lstm_forward,
    lambda rng: tuple(rng.normal(size=s) for s in ((3, 2), (3, 4), (3, 4), (2, 16), (4, 16), (16,))),
    """
    def backward(dh, dc, cache):
        x, h, c, Wx, Wh, i, f, o, n, t = cache
        do = dh * t
        dt = dh * o
        dc = dc + dt * (1 - t**2)
        df, di, dn = dc * c, dc * n, dc * i
        da = np.concatenate([di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dn * (1 - n**2)], axis=1)
        return da @ Wx.T, da @ Wh.T, dc * f, x.T @ da, h.T @ da, da.sum(axis=0)
    """,
    outputs=2,
)  # fmt: skip
lstm.mistake(
    "tanh of the cell",
    ("dt * (1 - t**2)", "dt"),
    of="x",
    kind="derivative left out",
    words="lack the derivative of tanh at `t`",
)
lstm.mistake(
    "cell's own upstream",
    ("dc = dc + dt * (1 - t**2)", "dc = dt * (1 - t**2)"),
    of="x",
    kind="missing path",
    words="upstream gradient of the output `c_next`",
)
lstm.mistake(
    "another gate in tanh's derivative",
    ("1 - n**2", "1 - f**2"),
    of="x",
    kind="mistaken value",
    words="use `f` where `n` is meant, in the derivative of `n`",
)
lstm.mistake(
    "forget gate's derivative",
    ("df * f * (1 - f)", "df * f"),
    of="x",
    kind="factor",
    words=r"path through `f` lacks a factor \(1 - `f`\)",
)
lstm.mistake(
    "input and candidate exchanged",
    ("di, dn = dc * c, dc * n, dc * i", "di, dn = dc * c, dc * i, dc * n"),
    of="x",
    kind="mistaken value",
    words="`i` and `n` are exchanged",
)
lstm.mistake(
    "candidate not squared",
    ("dn * (1 - n**2)", "dn * (1 - n)"),
    of="x",
    kind="wrong derivative",
    words=r"use \(1 - `n`\) for the derivative of tanh at `n`",
)
lstm.mistake(
    "cell without the forget gate", ("dc * f, x.T", "dc, x.T"), of="c", kind="factor", words="dc lacks a factor `f`"
)
lstm.mistake(
    "gates in another order",
    ("[di * i * (1 - i), df * f * (1 - f),", "[df * f * (1 - f), di * i * (1 - i),"),
    of="b",
    kind="permuted",
    words="parts that belong to `i` and `f`",
)
lstm.mistake(
    "output gate forgotten", ("do = dh * t", "do = 0 * dh"), of="x", kind="missing path", words="path through `o` cut"
)
lstm.mistake(
    "do without tanh", ("do = dh * t", "do = dh"), of="x", kind="derivative left out|factor", words="factor `t`"
)


def rnn_forward(x, h0, Wx, Wh):
    h = h0
    states = []
    for step in range(3):
        h = np.tanh(x[step] @ Wx + h @ Wh)
        states.append(h)
    return np.stack(states), states


rnn = Exhibit(
    "recurrent net", rnn_forward, lambda rng: tuple(rng.normal(size=s) for s in ((3, 2, 2), (2, 3), (2, 3), (3, 3))),
    """
    def backward(g, x, h0, Wx, Wh):
        hs = [h0]
        for step in range(3):
            hs.append(np.tanh(x[step] @ Wx + hs[-1] @ Wh))
        dx, dWx, dWh, dh = np.zeros_like(x), 0, 0, 0
        for step in reversed(range(3)):
            da = (g[step] + dh) * (1 - hs[step + 1] ** 2)
            dx[step] = da @ Wx.T
            dWx = dWx + x[step].T @ da
            dWh = dWh + hs[step].T @ da
            dh = da @ Wh.T
        return dx, dh, dWx, dWh
    """,
)  # fmt: skip
rnn.mistake("no gradient through time", ("(g[step] + dh)", "g[step]"), of="x", kind="missing path", words="cut")
rnn.mistake(
    "weights of the last step only",
    ("dWh = dWh + ", "dWh = "),
    of="Wh",
    kind="overwritten",
    words="of the 3 contributions to `Wh` only one is left",
)
rnn.mistake(
    "tanh's derivative",
    (" * (1 - hs[step + 1] ** 2)", ""),
    of="x",
    kind="derivative left out",
    words="derivative of tanh at each of 3 steps",
)
rnn.mistake(
    "h0 not reached", ("return dx, dh,", "return dx, 0 * dh,"), of="h0", kind="zero", words="dh0 is zero everywhere"
)
rnn.mistake(
    "Wh not transposed", ("dh = da @ Wh.T", "dh = da @ Wh"), of="x", kind="mistaken value", words="`Wh` transposed"
)
rnn.mistake(
    "a step off in tanh's derivative",
    ("1 - hs[step + 1] ** 2", "1 - hs[step] ** 2"),
    of="x",
    kind="mistaken value",
    words="use `h` of the step before where the step itself is meant, in the derivative of tanh",
)
rnn.mistake(
    "a step off in the weights",
    ("hs[step].T @ da", "hs[step + 1].T @ da"),
    of="Wh",
    kind="mistaken value",
    words="uses `h` of the step after where the step itself is meant",
)
rnn.mistake(
    "only the last step's cotangent",
    ("(g[step] + dh)", "(g[step] * (step == 2) + dh)"),
    of="x",
    kind="upstream ignored",
    words="use only the last of the 3 parts of the upstream gradient along axis 0",
)

rnn.mistake(
    "tanh not squared, at every step",
    ("1 - hs[step + 1] ** 2", "1 - hs[step + 1]"),
    of="Wx",
    kind="wrong derivative",
    words=r"use \(1 - y\) for the derivative of tanh at each of 3 steps",
)


def spring_forward(x, v, k):
    for _ in range(4):
        v = v - 0.1 * k * x - 0.05 * v
        x = x + 0.1 * v
    return x


spring = Exhibit(
    "spring", spring_forward, lambda rng: (rng.normal(size=5), rng.normal(size=5), rng.normal(size=5) + 2),
    """
    def backward(g, x, v, k):
        xs = [x]
        for _ in range(4):
            v = v - 0.1 * k * xs[-1] - 0.05 * v
            xs.append(xs[-1] + 0.1 * v)
        dx, dv, dk = g, np.zeros_like(g), np.zeros_like(g)
        for step in reversed(range(4)):
            dv = dv + 0.1 * dx
            dk = dk - 0.1 * dv * xs[step]
            dx = dx - 0.1 * k * dv
            dv = dv - 0.05 * dv
        return dx, dv, dk
    """,
)  # fmt: skip
for name, edit, of, kind, words in (
    ("the force's sign", ("dx = dx - 0.1 * k * dv", "dx = dx + 0.1 * k * dv"), "x", "wrong sign",
     "have the wrong sign on all 4 paths into `x`"),
    ("velocity overwritten", ("dv = dv + 0.1 * dx", "dv = 0.1 * dx"), "k", "overwritten",
     "of the 3 contributions to `v` only one is left .*, at every step"),
    ("position of the step after", ("dv * xs[step]", "dv * xs[step + 1]"), "k", "mistaken value",
     "uses `x` of the step after"),
):  # fmt: skip
    spring.mistake(name, edit, of=of, kind=kind, words=words)


def states_forward(x, Wx, Wh, h0):
    hs = {-1: h0}
    total = 0
    for t in range(4):
        hs[t] = np.tanh(np.dot(Wx, x[t]) + np.dot(Wh, hs[t - 1]))
        total = total + np.sum(hs[t] ** 2)
    return total


states = Exhibit(
    "states in a dict", states_forward,
    lambda rng: tuple(rng.normal(size=s) for s in ((4, 2, 1), (3, 2), (3, 3), (3, 1))),
    """
    def backward(g, x, Wx, Wh, h0):
        hs = {-1: h0}
        for t in range(4):
            hs[t] = np.tanh(np.dot(Wx, x[t]) + np.dot(Wh, hs[t - 1]))
        dx, dWx, dWh, dh = np.zeros_like(x), 0, 0, 0
        for t in reversed(range(4)):
            da = (2 * g * hs[t] + dh) * (1 - hs[t] ** 2)
            dx[t], dWx, dWh = np.dot(Wx.T, da), dWx + np.dot(da, x[t].T), dWh + np.dot(da, hs[t - 1].T)
            dh = np.dot(Wh.T, da)
        return dx, dWx, dWh, dh
    """,
)  # fmt: skip
for name, edit, of, which in (
    ("a step off in the weights", ("hs[t - 1].T", "hs[t].T"), "Wh", "dWh uses `hs` of the step after"),
    ("a step off in tanh's derivative", ("1 - hs[t] ** 2", "1 - hs[t - 1] ** 2"), "x", "use `hs` of the step before"),
):
    states.mistake(name, edit, of=of, kind="mistaken value", words=which + " where the step itself is meant")

EXHIBITS = [lstm, rnn, spring, states]
