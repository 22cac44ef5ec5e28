"""The rules, in order of increasing complexity: SGD, Adagrad, RMSprop, Adam, AdamW.

Each is given twice: as a formula, in which p is the parameter, g its gradient (flipped by `maximize`, with weight decay
added) and t the count of steps, from 1; and below it in place, where `work` is an array that each line may write over.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from minigrad.backend import Array, xp
from minigrad.optim.optimizer import Hyper, Memory, Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum: a ball that rolls downhill.

    v = g at its first step, then momentum v + (1 - dampening) g;   p = p - lr v
    nesterov: p = p - lr (g + momentum v), the gradient as if the roll had gone on.
    Sutskever et al., On the importance of initialization and momentum in deep learning, 2013.
    """

    remembers: ClassVar = {"momentum_buffer": "momentum"}

    def __init__(
        self, params: Any, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, *, maximize: bool = False
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay,
            nesterov=nesterov, maximize=maximize
        )

    @classmethod
    def check(cls, hyper: Hyper) -> Hyper:
        hyper = super().check(hyper)
        if hyper["nesterov"] and not (hyper["momentum"] > 0 and hyper["dampening"] == 0):
            raise ValueError(
                f"{cls.__name__}: nesterov needs momentum > 0 and dampening 0, "
                f"not momentum {hyper['momentum']} and dampening {hyper['dampening']}"
            )
        return hyper

    def update(self, p: Array, g: Array, memory: Memory, hyper: Hyper, work: Array) -> None:
        lr, momentum, dampening = hyper["lr"], hyper["momentum"], hyper["dampening"]
        if not momentum:
            p -= xp.multiply(g, lr, out=work)
            return
        if "momentum_buffer" in memory:
            v = memory["momentum_buffer"]
            v *= momentum
            v += xp.multiply(g, 1 - dampening, out=work) if dampening else g
        else:
            v = memory["momentum_buffer"]
            xp.copyto(v, g)
        if hyper["nesterov"]:
            v = xp.add(g, xp.multiply(v, momentum, out=work), out=work)
        p -= xp.multiply(v, lr, out=work)


class Adagrad(Optimizer):
    """A step of its own for each weight: what has had large gradients moves little.

    s = s + g^2, from initial_accumulator_value;   p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)
    Duchi, Hazan, Singer, Adaptive subgradient methods, 2011.
    """

    remembers: ClassVar = {"sum": None}

    def __init__(
        self, params: Any, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0, eps: float = 1e-10, *, maximize: bool = False
    ) -> None:
        super().__init__(
            params, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value, eps=eps, maximize=maximize
        )

    def update(self, p: Array, g: Array, memory: Memory, hyper: Hyper, work: Array) -> None:
        if "sum" not in memory:
            memory["sum"].fill(hyper["initial_accumulator_value"])
        s = memory["sum"]
        s += xp.multiply(g, g, out=work)
        xp.sqrt(s, out=work)
        work += hyper["eps"]
        xp.divide(g, work, out=work)
        work *= hyper["lr"] / (1 + (memory.step - 1) * hyper["lr_decay"])
        p -= work


class RMSprop(Optimizer):
    """Adagrad that forgets: gradients are measured by the mean of their recent squares.

    s = alpha s + (1 - alpha) g^2;   d = g / (sqrt(s) + eps);   p = p - lr d
    centered: sqrt(s - m^2) instead, where m = alpha m + (1 - alpha) g: the recent variance
    momentum: v = momentum v + d;   p = p - lr v
    Hinton, Neural networks for machine learning, lecture 6e, 2012; centered: Graves, 2013.
    """

    remembers: ClassVar = {"square_avg": None, "grad_avg": "centered", "momentum_buffer": "momentum"}

    def __init__(
        self, params: Any, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
        weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False, *, maximize: bool = False
    ) -> None:
        super().__init__(
            params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
            centered=centered, maximize=maximize
        )

    def update(self, p: Array, g: Array, memory: Memory, hyper: Hyper, work: Array) -> None:
        alpha = hyper["alpha"]
        s = memory["square_avg"]
        s *= alpha
        xp.multiply(g, g, out=work)
        work *= 1 - alpha
        s += work
        if hyper["centered"]:
            m = memory["grad_avg"]
            m *= alpha
            m += xp.multiply(g, 1 - alpha, out=work)
            xp.subtract(s, xp.multiply(m, m, out=work), out=work)
            xp.sqrt(work, out=work)
        else:
            xp.sqrt(s, out=work)
        work += hyper["eps"]
        d = xp.divide(g, work, out=work)
        if hyper["momentum"]:
            v = memory["momentum_buffer"]
            v *= hyper["momentum"]
            v += d
            d = v
        p -= xp.multiply(d, hyper["lr"], out=work)


class Adam(Optimizer):
    """Momentum over RMSprop, both freed from the bias of having begun at zero.

    m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
    p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
    amsgrad: the greatest v so far instead of v.
    Kingma and Ba, 2015; amsgrad: Reddi, Kale, Kumar, On the convergence of Adam and beyond, 2018.
    """

    remembers: ClassVar = {"exp_avg": None, "exp_avg_sq": None, "max_exp_avg_sq": "amsgrad"}

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize
        )

    def update(self, p: Array, g: Array, memory: Memory, hyper: Hyper, work: Array) -> None:
        beta1, beta2 = hyper["betas"]
        t = memory.step
        m, v = memory["exp_avg"], memory["exp_avg_sq"]
        m *= beta1
        m += xp.multiply(g, 1 - beta1, out=work)
        v *= beta2
        xp.multiply(g, g, out=work)
        work *= 1 - beta2
        v += work
        if hyper["amsgrad"]:
            v = xp.maximum(memory["max_exp_avg_sq"], v, out=memory["max_exp_avg_sq"])
        xp.sqrt(v, out=work)
        work /= math.sqrt(1 - beta2**t)
        work += hyper["eps"]
        xp.divide(m, work, out=work)
        work *= hyper["lr"] / (1 - beta1**t)
        p -= work


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights themselves, whatever the gradients' size.

    p = (1 - lr weight_decay) p first, then Adam's step without any decay in g.
    Loshchilov and Hutter, Decoupled weight decay regularization, 2019.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)

    def decay(self, p: Array, g: Array, hyper: Hyper, work: Array, out: Array) -> Array:
        # The factor 1 - 1e-5 is not a float32; its rounding would be the same in every step and add up.
        p -= xp.multiply(p, hyper["lr"] * hyper["weight_decay"], out=work)
        return g
