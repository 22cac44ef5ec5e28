"""BatchNorm (two derivations), LayerNorm, GroupNorm, RMSNorm."""


import numpy as np

from tests.gallery import Exhibit


def batchnorm_forward(x, gamma, beta, eps=1e-3):
    mu = np.mean(x, axis=0)
    xmu = x - mu
    var = np.mean(xmu**2, axis=0)
    std = np.sqrt(var + eps)
    xhat = xmu / std
    out = gamma * xhat + beta
    return out, (xhat, xmu, std, gamma, out)


def columns(rng):
    return rng.normal(size=(7, 4)) * 2 + 1, rng.normal(size=4) + 0.1, rng.normal(size=4)


batchnorm = Exhibit(
    "batchnorm", batchnorm_forward, columns,
    """
    def backward(g, cache):
        xhat, xmu, std, gamma, out = cache
        m = g.shape[0]
        dgamma = np.sum(g * xhat, axis=0)
        dbeta = np.sum(g, axis=0)
        dxhat = g * gamma
        dx = (dxhat - np.sum(dxhat, axis=0) / m - xhat * np.sum(dxhat * xhat, axis=0) / m) / std
        return dx, dgamma, dbeta
    """,
)  # fmt: skip
VAR_TERM = " - xhat * np.sum(dxhat * xhat, axis=0) / m"
MEAN_TERM = " - np.sum(dxhat, axis=0) / m"
batchnorm.mistake(
    "variance path forgotten",
    (VAR_TERM, ""),
    of="x",
    kind="missing path",
    words="dx equals autodiff with the path through `var` cut",
)
batchnorm.mistake(
    "mean path forgotten",
    (MEAN_TERM, ""),
    of="x",
    kind="missing path",
    words="dx equals autodiff with the path through `mu` cut",
)
batchnorm.mistake(
    "nothing summed",
    ("np.sum(dxhat, axis=0) / m", "dxhat / m"),
    ("np.sum(dxhat * xhat, axis=0) / m", "dxhat * xhat / m"),
    of="x",
    kind="not summed",
    words="dx none of the paths through a reduction is summed: each element has its own terms alone",
)
batchnorm.mistake(
    "statistics as constants",
    (VAR_TERM, ""),
    (MEAN_TERM, ""),
    of="x",
    kind="missing path",
    words="`mu` and `var` both treated as constants",
)
batchnorm.mistake(
    "sign of the variance term",
    (VAR_TERM, VAR_TERM.replace("-", "+", 1)),
    of="x",
    kind="wrong sign",
    words="path through `var` has the wrong sign",
)
batchnorm.mistake(
    "sign of the mean term",
    (MEAN_TERM, MEAN_TERM.replace("-", "+", 1)),
    of="x",
    kind="wrong sign",
    words="path through `mu` has the wrong sign",
)
batchnorm.mistake(
    "mean term not divided by m",
    (MEAN_TERM, MEAN_TERM[:-4]),
    of="x",
    kind="factor",
    words="path through `mu` has a factor m = 7",
)
batchnorm.mistake(
    "variance term not divided by m",
    (VAR_TERM, VAR_TERM[:-4]),
    of="x",
    kind="factor",
    words="path through `var` has a factor m = 7",
)
batchnorm.mistake("everything times m", ("dx = (", "dx = m * ("), of="x", kind="factor", words="dx has a factor m = 7")
batchnorm.mistake(
    "everything over m", ("dx = (", "dx = 1 / m * ("), of="x", kind="factor", words="dx lacks a factor m = 7"
)
batchnorm.mistake(
    "unbiased variance",
    (VAR_TERM, VAR_TERM[:-1] + "(m - 1)"),
    of="x",
    kind="factor",
    words=r"path through `var` has a factor m/\(m-1\)",
)
batchnorm.mistake(
    "factor 2 in the variance",
    (VAR_TERM, VAR_TERM.replace("xhat *", "2 * xhat *", 1)),
    of="x",
    kind="factor",
    words="path through `var` has a factor 2 too many.*root",
)
batchnorm.mistake(
    "factor 1/2 in the variance",
    (VAR_TERM, VAR_TERM.replace("xhat *", "0.5 * xhat *", 1)),
    of="x",
    kind="factor",
    words="path through `var` lacks a factor 2.*square",
)
batchnorm.mistake(
    "gamma forgotten", ("dxhat = g * gamma", "dxhat = g"), of="x", kind="factor", words="dx lacks a factor `gamma`"
)
batchnorm.mistake(
    "gamma twice",
    ("dxhat = g * gamma", "dxhat = g * gamma * gamma"),
    of="x",
    kind="factor",
    words="dx has a factor `gamma` too many",
)
batchnorm.mistake(
    "divided by gamma",
    ("dxhat = g * gamma", "dxhat = g / gamma"),
    of="x",
    kind="factor",
    words="dx lacks a factor `gamma`²",
)
batchnorm.mistake("sigma forgotten", (") / std", ")"), of="x", kind="factor", words="dx has a factor `std` too many")
batchnorm.mistake(
    "divided by the variance", (") / std", ") / std**2"), of="x", kind="factor", words="dx lacks a factor `std`"
)
batchnorm.mistake(
    "multiplied by sigma", (") / std", ") * std"), of="x", kind="factor", words="dx has a factor `std`² too many"
)
batchnorm.mistake(
    "eps outside",
    (") / std", ") / np.sqrt(std**2 - 1e-3)"),
    of="x",
    kind="eps left out",
    words=r"leaves out 0\.001 \(eps\)",
)
batchnorm.mistake(
    "dgamma with y for xhat",
    ("np.sum(g * xhat, axis=0)\n", "np.sum(g * out, axis=0)\n"),
    of="gamma",
    kind="mistaken value",
    words="dgamma uses `out` where `xhat` is meant",
)
batchnorm.mistake(
    "dgamma with the centred input",
    ("np.sum(g * xhat, axis=0)\n", "np.sum(g * xmu, axis=0)\n"),
    of="gamma",
    kind="factor",
    words="dgamma has a factor `std` too many",
)
batchnorm.mistake(
    "dgamma averaged",
    ("dgamma = np.sum(", "dgamma = np.mean("),
    of="gamma",
    kind="factor",
    words="dgamma is averaged over the places where `gamma` is used, and should be summed",
)
batchnorm.mistake(
    "dbeta not summed",
    ("dbeta = np.sum(g, axis=0)", "dbeta = g"),
    of="beta",
    kind="broadcast not summed",
    words=r"dbeta has shape \[7, 4\].*sum it over axes \[0\]",
)
batchnorm.mistake(
    "dgamma and dbeta swapped",
    ("return dx, dgamma, dbeta", "return dx, dbeta, dgamma"),
    of="gamma",
    kind="swapped",
    words="another order",
)
batchnorm.mistake(
    "upstream ignored",
    ("m = g.shape[0]", "m = g.shape[0]; g = np.ones_like(g)"),
    of="x",
    kind="upstream ignored",
    words="dx, dgamma and dbeta ignore the upstream",
)
batchnorm.mistake(
    "upstream twice",
    ("m = g.shape[0]", "m = g.shape[0]; g = g * g"),
    of="x",
    kind="upstream twice",
    words="upstream gradient applied twice",
)
batchnorm.mistake("dx negated", ("dx = (", "dx = -("), of="x", kind="wrong sign", words="dx has the wrong sign")
batchnorm.mistake(
    "gamma and the variance forgotten",
    ("dxhat = g * gamma", "dxhat = g"),
    (VAR_TERM, ""),
    of="x",
    kind="combination",
    words="lacks a factor `gamma`.*path through `var` is missing",
)


staged = Exhibit(
    "batchnorm, staged", batchnorm_forward, columns,
    """
    def backward(g, cache):
        xhat, xmu, std, gamma, out = cache
        m = g.shape[0]
        dxhat = g * gamma
        ivar = 1 / std
        divar = np.sum(dxhat * xmu, axis=0)
        dstd = -divar / std**2
        dvar = 0.5 / std * dstd
        dsq = np.ones_like(g) * dvar / m
        dxmu = dxhat * ivar + 2 * xmu * dsq
        dmu = -np.sum(dxmu, axis=0)
        dx = dxmu + np.ones_like(g) * dmu / m
        return dx, np.sum(g * xhat, axis=0), np.sum(g, axis=0)
    """,
)  # fmt: skip
staged.mistake(
    "1/2 of the root",
    ("0.5 / std", "1 / std"),
    of="x",
    kind="factor",
    words="path through `var` has a factor 2 too many",
)
staged.mistake(
    "2 of the square",
    ("2 * xmu * dsq", "xmu * dsq"),
    of="x",
    kind="factor",
    words="path through `var` lacks a factor 2",
)
staged.mistake(
    "minus of the reciprocal",
    ("dstd = -divar", "dstd = divar"),
    of="x",
    kind="wrong sign",
    words="path through `var` has the wrong sign",
)
staged.mistake(
    "square of sigma",
    ("divar / std**2", "divar / std"),
    of="x",
    kind="factor",
    words="path through `var` has a factor `std` too many",
)
staged.mistake(
    "1/sigma of the direct path",
    ("dxhat * ivar", "dxhat"),
    of="x",
    kind="derivative left out",
    words="factor 1/`std` of `xhat`",
)
staged.mistake(
    "m of the square's mean", ("dvar / m", "dvar"), of="x", kind="factor", words="path through `var` has a factor m = 7"
)
staged.mistake(
    "dmu not spread by 1/m", ("dmu / m", "dmu"), of="x", kind="factor", words="path through `mu` has a factor m = 7"
)
staged.mistake(
    "dmu forgotten", (" + np.ones_like(g) * dmu / m", ""), of="x", kind="missing path", words="path through `mu` cut"
)
staged.mistake(
    "minus of the centring",
    ("dmu = -np", "dmu = np"),
    of="x",
    kind="wrong sign",
    words="path through `mu` has the wrong sign",
)
staged.mistake(
    "direct path forgotten",
    ("dxmu + np.ones_like(g) * dmu / m", "np.ones_like(g) * dmu / m"),
    of="x",
    kind="missing path",
    words="from `x` into `xmu` cut",
)


def layernorm_forward(x, gamma, beta, eps=1e-5):
    mean = x.mean(axis=-1, keepdims=True)
    centred = x - mean
    var = (centred * centred).mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(var + eps)
    normed = centred * rstd
    return gamma * normed + beta, {"normed": normed, "rstd": rstd, "gamma": gamma}


layernorm = Exhibit(
    "layernorm", layernorm_forward,
    lambda rng: (rng.normal(size=(3, 5, 6)) * 2 + 1, rng.normal(size=6), rng.normal(size=6)),
    """
    def backward(g, cache):
        normed, rstd = cache["normed"], cache["rstd"]
        dn = g * cache["gamma"]
        dx = rstd * (dn - dn.mean(-1, keepdims=True) - normed * (dn * normed).mean(-1, keepdims=True))
        return dx, (g * normed).sum(axis=(0, 1)), g.sum(axis=(0, 1))
    """,
)  # fmt: skip
layernorm.mistake(
    "variance path",
    (" - normed * (dn * normed).mean(-1, keepdims=True)", ""),
    of="x",
    kind="missing path",
    words="path through `var` cut",
)
layernorm.mistake(
    "mean path", (" - dn.mean(-1, keepdims=True)", ""), of="x", kind="missing path", words="path through `mean` cut"
)
layernorm.mistake(
    "gamma forgotten", ('dn = g * cache["gamma"]', "dn = g"), of="x", kind="derivative left out", words="factor `gamma`"
)
layernorm.mistake(
    "gamma afterwards",
    ('dn = g * cache["gamma"]', "dn = g"),
    ("dx = rstd", "dx = cache['gamma'] * rstd"),
    of="x",
    kind="factor too late",
    words="factor `gamma` applied too late",
)
layernorm.mistake(
    "rstd forgotten", ("dx = rstd * (", "dx = ("), of="x", kind="factor", words="dx lacks a factor `rstd`"
)
layernorm.mistake(
    "dgamma over one axis",
    ("(g * normed).sum(axis=(0, 1))", "(g * normed).sum(axis=0)"),
    of="gamma",
    kind="broadcast not summed",
    words=r"sum it over axes \[0\]",
)
layernorm.mistake(
    "sums for means",
    ("dn.mean(", "dn.sum("),
    ("(dn * normed).mean(", "(dn * normed).sum("),
    of="x",
    kind="combination",
    words="`mean` has a factor m = 6.*`var` has a factor m = 6|`var` has a factor m = 6.*`mean` has a factor m = 6",
)


def groupnorm_forward(x, gamma, beta, groups, eps=1e-5):
    n, c, h, w = x.shape
    xg = x.reshape(n, groups, -1)
    mu = xg.mean(axis=2, keepdims=True)
    var = xg.var(axis=2, keepdims=True)
    std = np.sqrt(var + eps)
    xhat = ((xg - mu) / std).reshape(n, c, h, w)
    out = xhat * gamma + beta
    return out, (xhat, std, gamma, groups)


groupnorm = Exhibit(
    "groupnorm", groupnorm_forward,
    lambda rng: (rng.normal(size=(2, 4, 3, 3)) + 1, rng.normal(size=(1, 4, 1, 1)), rng.normal(size=(1, 4, 1, 1)), 2),
    """
    def backward(g, cache):
        xhat, std, gamma, groups = cache
        n, c, h, w = g.shape
        axes = (0, 2, 3)
        dgamma = (g * xhat).sum(axis=axes, keepdims=True)
        dbeta = g.sum(axis=axes, keepdims=True)
        d = (g * gamma).reshape(n, groups, -1)
        xh = xhat.reshape(n, groups, -1)
        m = d.shape[2]
        dx = (d - d.sum(2, keepdims=True) / m - xh * (d * xh).sum(2, keepdims=True) / m) / std
        return dx.reshape(n, c, h, w), dgamma, dbeta
    """,
)  # fmt: skip
groupnorm.mistake(
    "variance path",
    (" - xh * (d * xh).sum(2, keepdims=True) / m", ""),
    of="x",
    kind="missing path",
    words="path through `var` cut",
)
groupnorm.mistake(
    "mean path", (" - d.sum(2, keepdims=True) / m", ""), of="x", kind="missing path", words="path through `mu` cut"
)
groupnorm.mistake(
    "batch for m", ("m = d.shape[2]", "m = n"), of="x", kind="combination", words="`mu`.*`var`|`var`.*`mu`"
)
groupnorm.mistake(
    "an axis forgotten in m, another in its place", ("m = d.shape[2]", "m = c * h"), of="x", kind="combination",
    words="(`mu`|`var`) counts 3/2 times, and the path through (`var`|`mu`) counts 3/2 times",
)  # fmt: skip
groupnorm.mistake(
    "gamma forgotten", ("d = (g * gamma)", "d = g"), of="x", kind="derivative left out", words="factor `gamma`"
)
groupnorm.mistake(
    "keepdims forgotten",
    ("dbeta = g.sum(axis=axes, keepdims=True)", "dbeta = g.sum(axis=axes)"),
    of="beta",
    kind="shape",
    words=r"reshape it to \[1, 4, 1, 1\]",
)
groupnorm.mistake("std forgotten", (" / m) / std", " / m)"), of="x", kind="factor", words="factor `std` too many")


def rmsnorm_forward(x, weight, eps=1e-6):
    ms = np.mean(np.square(x), axis=-1, keepdims=True)
    r = 1 / np.sqrt(ms + eps)
    return x * r * weight, r


rmsnorm = Exhibit(
    "rmsnorm", rmsnorm_forward, lambda rng: (rng.normal(size=(4, 5)), rng.normal(size=5) + 0.2),
    """
    def backward(g, x, weight):
        r = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)
        d = g * weight
        dx = d * r - x * r**3 * np.mean(d * x, axis=-1, keepdims=True)
        return dx, np.sum(g * x * r, axis=0)
    """,
)  # fmt: skip
rmsnorm.mistake(
    "through the root mean square",
    (" - x * r**3 * np.mean(d * x, axis=-1, keepdims=True)", ""),
    of="x",
    kind="missing path",
    words="path through `(ms|r)` cut",
)
rmsnorm.mistake(
    "r squared for r cubed", ("r**3", "r**2"), of="x", kind="factor", words="path through `(ms|r)` lacks a factor `r`"
)
rmsnorm.mistake(
    "weight without r",
    ("np.sum(g * x * r, axis=0)", "np.sum(g * x, axis=0)"),
    of="weight",
    kind="derivative left out|mistaken value|factor",
    words="`r`|`x`",
)
rmsnorm.mistake(
    "root mean square of the columns",
    ("np.sum(g * x * r, axis=0)", "np.sum(g * x / np.sqrt(np.mean(x * x, axis=0) + 1e-6), axis=0)"),
    of="weight",
    kind="wrong axes",
    words=r"values for which `ms` was taken over axes \[0\]",
)
rmsnorm.mistake(
    "each element's own term of the mean",
    ("np.mean(d * x, axis=-1, keepdims=True)", "d * x / x.shape[-1]"),
    of="x",
    kind="not summed",
    words="path through `ms` is not summed: each element has its own term alone",
)


def one_line_forward(x, gamma, beta):
    return gamma * (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5) + beta


one_line = Exhibit(
    "batchnorm, in one line", one_line_forward, columns,
    """
    def backward(g, x, gamma, beta):
        inverse = 1 / np.sqrt(x.var(axis=0) + 1e-5)
        xhat = (x - x.mean(axis=0)) * inverse
        d = g * gamma
        dx = inverse * (d - d.mean(axis=0) - xhat * (d * xhat).mean(axis=0))
        return dx, (g * xhat).sum(axis=0), g.sum(axis=0)
    """,
)  # fmt: skip
one_line.mistake(
    "gamma's factor not normalised",
    ("(g * xhat).sum(axis=0)", "(g * x).sum(axis=0)"),
    of="gamma",
    kind="mistaken value",
    words="dgamma is the sum of the upstream gradient times `x`, which is not what `gamma` multiplies",
)
one_line.mistake(
    "gamma's factor not divided",
    ("(g * xhat).sum(axis=0)", "(g * (x - x.mean(axis=0))).sum(axis=0)"),
    of="gamma",
    kind="factor",
    words=r"dgamma has a factor `np.sqrt\(x.var\(axis=0\) \+ 1e-5\)` too many",
)
one_line.mistake(
    "variance instead of deviation",
    ("dx = inverse * (d", "dx = inverse**2 * (d"),
    of="x",
    kind="factor",
    words=r"dx lacks a factor `np.sqrt\(x.var\(axis=0\) \+ 1e-5\)`",
)


def centring_forward(x, weight):
    mu = x.mean(axis=0)
    return (x - mu) * weight


centring = Exhibit(
    "centring", centring_forward, lambda rng: (rng.normal(size=(4, 5)), rng.normal(size=5)),
    """
    def backward(g, x, weight):
        d = g * weight
        return d - d.mean(axis=0), (g * (x - x.mean(axis=0))).sum(axis=0)
    """,
)  # fmt: skip
centring.mistake(
    "mean over the features",
    ("d - d.mean(axis=0)", "d - d.mean(axis=1, keepdims=True)"),
    of="x",
    kind="wrong axes",
    words=r"path through `mu` is summed over axes \[1\], not axes \[0\]",
)
centring.mistake(
    "mean over everything",
    ("d - d.mean(axis=0)", "d - d.mean()"),
    of="x",
    kind="wrong axes",
    words=r"path through `mu` is summed over axes \[0, 1\]",
)
centring.mistake(
    "each sample's own part",
    ("d - d.mean(axis=0)", "d - d / len(d)"),
    of="x",
    kind="not summed|factor",
    words="`mu` is not summed|lacks",
)


closed = Exhibit(
    "batchnorm, closed form", batchnorm_forward, columns,
    """
    def backward(g, cache):
        xhat, xmu, std, gamma, out = cache
        dx = gamma / std * (g - np.mean(g, axis=0) - xhat * np.mean(g * xhat, axis=0))
        return dx, np.sum(g * xhat, axis=0), np.sum(g, axis=0)
    """,
)  # fmt: skip
for name, edits, kind, words in (
    ("both means over the features",
     (("np.mean(g, axis=0)", "np.mean(g, axis=1, keepdims=True)"),
      ("np.mean(g * xhat, axis=0)", "np.mean(g * xhat, axis=1, keepdims=True)")),
     "wrong axes", "terms through `mu` and `var` sum over axis 1, not over axis 0"),
    ("both means over everything",
     (("np.mean(g, axis=0)", "np.mean(g)"), ("np.mean(g * xhat, axis=0)", "np.mean(g * xhat)")),
     "wrong axes", r"sum over axes \[0, 1\], not over axis 0"),
    ("the second mean over the features", (("np.mean(g * xhat, axis=0)", "np.mean(g * xhat, axis=1, keepdims=True)"),),
     "wrong axes", "term through `var` .* the sum is over axis 1, not over axis 0"),
    ("no xhat inside the second mean", (("np.mean(g * xhat, axis=0)", "np.mean(g, axis=0)"),),
     "wrong term", r"`-gamma \* xhat / std \* mean\(g, axis=0\)` by hand, and `-gamma \* xhat / std \* mean\(g \* x"),
    ("g for xhat before the second mean", (("xhat * np.mean(", "g * np.mean("),),
     "wrong term", r"`-g \* gamma / std \* mean\(g \* xhat, axis=0\)` by hand"),
    ("the second mean not taken", (("np.mean(g * xhat, axis=0)", "g * xhat / len(g)"),),
     "wrong term", r"`-1/7 \* g \* gamma \* xhat² / std` by hand"),
    ("gamma on the first term alone",
     (("gamma / std * (g - ", "1 / std * (gamma * g - "),),
     "factor", "the terms through `mu` and `var` lack a factor gamma"),
    ("the variance for its root", (("gamma / std", "gamma / std**2"),), "factor", "dx lacks a factor `std`"),
):  # fmt: skip
    closed.mistake(name, *edits, of="x", kind=kind, words=words)


def named_forward(x, gamma, beta):
    mu = x.mean(axis=0)
    var = ((x - mu) ** 2).mean(axis=0)
    std = np.sqrt(var + 1e-3)
    return gamma * (x - mu) / std + beta


own_eps = Exhibit(
    "batchnorm, computed again", named_forward, columns,
    """
    def backward(g, x, gamma, beta):
        mu = x.mean(axis=0)
        var = ((x - mu) ** 2).mean(axis=0)
        std = np.sqrt(var + 1e-3)
        xhat = (x - mu) / std
        dx = gamma / std * (g - np.mean(g, axis=0) - xhat * np.mean(g * xhat, axis=0))
        return dx, np.sum(g * xhat, axis=0), np.sum(g, axis=0)
    """,
)  # fmt: skip
for name, edit, kind, words in (
    ("another eps", ("1e-3", "1e-5"), "another eps", "use 1e-05 where 0.001 .eps. is added"),
    ("eps outside of the root", ("np.sqrt(var + 1e-3)", "np.sqrt(var) + 1e-3"), "eps outside", "added to the root"),
    ("eps forgotten", ("var + 1e-3", "var"), "eps left out", "leave out 0.001"),
    ("m - 1 for m", ("((x - mu) ** 2).mean(axis=0)", "x.var(axis=0, ddof=1)"), "factor", "`var` divided by m - 1"),
    ("var for std", ("gamma / std", "gamma / var"), "mistaken value", "is `var` used where `std` is meant"),
):
    own_eps.mistake(name, edit, of="x", kind=kind, words=words)


def spatial_forward(x, gamma, beta):
    N, C, H, W = x.shape
    flat = x.transpose(0, 2, 3, 1).reshape(-1, C)
    std = np.sqrt(flat.var(axis=0) + 1e-5)
    xhat = (flat - flat.mean(axis=0)) / std
    return (gamma * xhat + beta).reshape(N, H, W, C).transpose(0, 3, 1, 2), (xhat, std, gamma)


spatial = Exhibit(
    "spatial batchnorm", spatial_forward,
    lambda rng: (rng.normal(size=(2, 3, 3, 2)), rng.normal(size=3) + 0.1, rng.normal(size=3)),
    """
    def backward(g, cache):
        xhat, std, gamma = cache
        N, C, H, W = g.shape
        d = g.transpose(0, 2, 3, 1).reshape(-1, C)
        dflat = gamma / std * (d - d.mean(axis=0) - xhat * (d * xhat).mean(axis=0))
        return dflat.reshape(N, H, W, C).transpose(0, 3, 1, 2), (d * xhat).sum(axis=0), d.sum(axis=0)
    """,
)  # fmt: skip
spatial.mistake(
    "not transposed back",
    ("dflat.reshape(N, H, W, C).transpose(0, 3, 1, 2)", "dflat.reshape(N, C, H, W)"),
    of="x",
    kind="permuted",
    words=r"is only reshaped, where its axes have to be permuted back, by transpose\(0, 3, 1, 2\)",
)
spatial.mistake(
    "the cotangent not transposed",
    ("g.transpose(0, 2, 3, 1).reshape(-1, C)", "g.reshape(-1, C)"),
    of="x",
    kind="permuted",
    words="is only reshaped, where its axes have to be permuted back",
)

spatial.mistake(
    "the channels reshaped to the front", ("g.transpose(0, 2, 3, 1).reshape(-1, C)", "g.reshape(C, -1).T"), of="x",
    kind="permuted", words=r"is reshaped to \[3, 2, 3, 2\], and then permuted to axes \[1, 2, 3, 0\]",
)  # fmt: skip
own_eps.mistake(
    "eps forgotten once", ("xhat * np.mean(g * xhat, axis=0)", "(x - mu) / var * np.mean(g * (x - mu), axis=0)"),
    of="x", kind="eps left out", words=r"in dx the path through `var` leaves out 0.001 \(eps\)",
)  # fmt: skip

EXHIBITS = [batchnorm, staged, layernorm, groupnorm, rmsnorm, one_line, centring, closed, own_eps, spatial]
