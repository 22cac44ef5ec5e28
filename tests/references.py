"""Layers and losses in plain NumPy, written from their formulas with loops: slow, and independent of minigrad."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


# ---- convolution and pooling ------------------------------------------------------------------------
def both(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def conv2d(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    s, d = both(stride), both(dilation)
    n, _, _h, _width = x.shape
    o, cg, kh, kw = w.shape
    if padding == "same":
        total = [d[0] * (kh - 1), d[1] * (kw - 1)]
        frame = [(t // 2, t - t // 2) for t in total]
    else:
        p = both(0 if padding == "valid" else padding)
        frame = [(p[0], p[0]), (p[1], p[1])]
    x = np.pad(x, [(0, 0), (0, 0), *frame])
    oh = (x.shape[2] - d[0] * (kh - 1) - 1) // s[0] + 1
    ow = (x.shape[3] - d[1] * (kw - 1) - 1) // s[1] + 1
    y = np.zeros((n, o, oh, ow))
    for k in range(o):
        first = (k // (o // groups)) * cg
        for i in range(oh):
            for j in range(ow):
                top, left = i * s[0], j * s[1]
                patch = x[
                    :,
                    first : first + cg,
                    top : top + d[0] * (kh - 1) + 1 : d[0],
                    left : left + d[1] * (kw - 1) + 1 : d[1],
                ]
                y[:, k, i, j] = (patch * w[k]).sum((1, 2, 3)) + (0 if b is None else b[k])
    return y


def conv_transpose2d(x, w, b=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Every input cell stamps the kernel, times itself, onto the output."""
    s, p, e, d = both(stride), both(padding), both(output_padding), both(dilation)
    n, c, h, width = x.shape
    _, og, kh, kw = w.shape
    full = np.zeros(
        (n, og * groups, (h - 1) * s[0] + d[0] * (kh - 1) + 1 + e[0], (width - 1) * s[1] + d[1] * (kw - 1) + 1 + e[1])
    )
    for k in range(c):
        first = (k // (c // groups)) * og
        for i in range(h):
            for j in range(width):
                for a in range(kh):
                    for q in range(kw):
                        full[:, first : first + og, i * s[0] + a * d[0], j * s[1] + q * d[1]] += (
                            x[:, k, i, j, None] * w[k, :, a, q]
                        )
    y = full[:, :, p[0] : full.shape[2] - p[0], p[1] : full.shape[3] - p[1]]
    return y if b is None else y + b[:, None, None]


def pool_count(n, k, s, p, d, ceil_mode):
    out = (n + 2 * p - d * (k - 1) - 1) / s
    out = (math.ceil(out) if ceil_mode else math.floor(out)) + 1
    if ceil_mode and (out - 1) * s >= n + p:
        out -= 1
    return out


def max_pool2d(x, kernel, stride=None, padding=0, dilation=1, ceil_mode=False):
    k, p, d = both(kernel), both(padding), both(dilation)
    s = k if stride is None else both(stride)
    n, c, h, w = x.shape
    oh, ow = (pool_count(x.shape[2 + i], k[i], s[i], p[i], d[i], ceil_mode) for i in range(2))
    y = np.full((n, c, oh, ow), -np.inf)
    for i in range(oh):
        for j in range(ow):
            rows = [r for r in (i * s[0] - p[0] + a * d[0] for a in range(k[0])) if 0 <= r < h]
            columns = [q for q in (j * s[1] - p[1] + a * d[1] for a in range(k[1])) if 0 <= q < w]
            y[:, :, i, j] = x[:, :, rows][:, :, :, columns].max((2, 3))
    return y


def avg_pool2d(x, kernel, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    k, p = both(kernel), both(padding)
    s = k if stride is None else both(stride)
    n, c, h, w = x.shape
    oh, ow = (pool_count(x.shape[2 + i], k[i], s[i], p[i], 1, ceil_mode) for i in range(2))
    y = np.zeros((n, c, oh, ow))
    for i in range(oh):
        for j in range(ow):
            top, left = i * s[0] - p[0], j * s[1] - p[1]
            cells = [(r, q) for r in range(top, top + k[0]) for q in range(left, left + k[1])]
            inside = [(r, q) for r, q in cells if 0 <= r < h and 0 <= q < w]
            framed = [(r, q) for r, q in cells if r < h + p[0] and q < w + p[1]]
            y[:, :, i, j] = sum(x[:, :, r, q] for r, q in inside) / len(framed if count_include_pad else inside)
    return y


def adaptive_avg_pool2d(x, size):
    oh, ow = both(size)
    h, w = x.shape[2:]
    y = np.zeros((*x.shape[:2], oh, ow))
    for i in range(oh):
        for j in range(ow):
            rows = slice(math.floor(i * h / oh), math.ceil((i + 1) * h / oh))
            columns = slice(math.floor(j * w / ow), math.ceil((j + 1) * w / ow))
            y[:, :, i, j] = x[:, :, rows, columns].mean((2, 3))
    return y


# ---- normalisation ----------------------------------------------------------------------------------
def batch_norm(x, gamma=None, beta=None, eps=1e-5):
    """Over all axes but the second, from the definition, channel by channel."""
    y = np.empty(x.shape)
    for c in range(x.shape[1]):
        values = x[:, c]
        mean = values.sum() / values.size
        var = ((values - mean) ** 2).sum() / values.size
        y[:, c] = (values - mean) / np.sqrt(var + eps)
        y[:, c] = y[:, c] * (1 if gamma is None else gamma[c]) + (0 if beta is None else beta[c])
    return y


def layer_norm(x, axes, weight=1.0, bias=0.0, eps=1e-5):
    over = tuple(range(x.ndim - axes, x.ndim))
    mean = x.mean(over, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(over, keepdims=True) + eps) * weight + bias


def group_norm(x, groups, weight=None, bias=None, eps=1e-5):
    n, c = x.shape[:2]
    y = np.empty(x.shape)
    for i in range(n):
        for g in range(groups):
            part = slice(g * c // groups, (g + 1) * c // groups)
            values = x[i, part]
            y[i, part] = (values - values.mean()) / np.sqrt(values.var() + eps)
    channels = (c, *[1] * (x.ndim - 2))
    y = y if weight is None else y * weight.reshape(channels)
    return y if bias is None else y + bias.reshape(channels)


# ---- losses -----------------------------------------------------------------------------------------
def log_softmax(x, axis):
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def nll(logp, target, weight=None, ignore_index=-100, reduction="mean", smoothing=0.0):
    """Target by target."""
    classes = logp.shape[1]
    w = np.ones(classes) if weight is None else weight
    losses, total = np.zeros(target.shape), 0.0
    for place in np.ndindex(target.shape):
        t = target[place]
        if t == ignore_index:
            continue
        scores = logp[(place[0], slice(None), *place[1:])]
        losses[place] = -(1 - smoothing) * w[t] * scores[t] - smoothing / classes * (w * scores).sum()
        total += w[t]
    if reduction == "none":
        return losses
    with np.errstate(invalid="ignore"):
        return losses.sum() if reduction == "sum" else losses.sum() / np.float64(total)


def cross_entropy(x, target, weight=None, ignore_index=-100, reduction="mean", smoothing=0.0):
    logp = log_softmax(x, 1)
    if target.dtype.kind != "f":
        return nll(logp, target, weight, ignore_index, reduction, smoothing)
    classes = x.shape[1]
    w = (np.ones(classes) if weight is None else weight).reshape(classes, *[1] * (x.ndim - 2))
    mixed = (1 - smoothing) * target + smoothing / classes
    losses = -(w * mixed * logp).sum(1)
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.sum() / losses.size


def reduced(losses, reduction):
    return {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[reduction]


def bce_with_logits(x, t, weight=1.0, pos_weight=1.0, reduction="mean"):
    p = 1 / (1 + np.exp(-x))
    return reduced(-weight * (pos_weight * t * np.log(p) + (1 - t) * np.log(1 - p)), reduction)


def huber(x, t, delta, reduction):
    d = np.abs(x - t)
    return reduced(np.where(d <= delta, d * d / 2, delta * (d - delta / 2)), reduction)
