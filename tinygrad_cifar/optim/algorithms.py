"""The optimisers, simplest first. Each update is written for vectors: weights w, gradient g, scratch t, state."""

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np

from tinygrad_cifar import loops
from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.optim.optimizer import Optimizer, require
from tinygrad_cifar.tensor import Array, Tensor


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum in both published forms.

        without momentum     w <- w - lr g
        form="pytorch"       v <- momentum v + g;      w <- w - lr v
        form="classic"       v <- momentum v + lr g;   w <- w - v            (Sutskever et al. 2013, eq. 1-2)

    The two differ once ``lr`` changes: the classic velocity remembers the old rates. With ``nesterov`` the weights
    move by the velocity that the next step would have: ``momentum v + g`` in place of v, or ``momentum v + lr g``
    (Sutskever et al. 2013, eq. 3-4, in the variables of Bengio et al. 2013).

    Where numba is installed (the extra ``fast``), one compiled loop does the update without momentum, with the same
    results bit for bit.

    Args:
        params: the parameters, as ``model.parameters()``.
        lr: the learning rate, at least 0; may be set before every step.
        momentum: in [0, 1).
        nesterov: look ahead; needs momentum.
        weight_decay: adds ``weight_decay * w`` to the gradient.
        form: which of the two forms of momentum.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        form: Literal["pytorch", "classic"] = "pytorch",
    ):
        require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
        if nesterov and not momentum:
            raise ConfigError("nesterov=True needs a momentum above 0, as momentum=0.9.")
        if form not in ("pytorch", "classic"):
            raise ConfigError(f'the form of momentum is "pytorch" or "classic", not {form!r}.')
        self.state_names = ("velocity",) if momentum else ()
        super().__init__(params, lr, weight_decay)
        self.momentum, self.nesterov, self.form = momentum, nesterov, form
        self._kernel = None if momentum else loops.kernel(loops.sgd)

    def coefficients(self, steps: int) -> dict[str, float]:
        return {"lr": self.lr, "momentum": self.momentum}

    def update(self, w: Array, g: Array, t: Array, v: Array | None = None, *, lr: float, momentum: float) -> None:
        if v is None:
            if self._kernel and self._kernel.takes(g):
                self._kernel(w, g, lr)
            else:
                w -= np.multiply(g, lr, out=t)
            return
        v *= momentum
        if self.form == "classic":
            v += np.multiply(g, lr, out=t)
            if self.nesterov:
                w -= t
                w -= np.multiply(v, momentum, out=t)
            else:
                w -= v
        else:
            v += g
            if self.nesterov:
                np.multiply(v, momentum, out=t)
                t += g
                t *= lr
                w -= t
            else:
                w -= np.multiply(v, lr, out=t)


class Adagrad(Optimizer):
    """Duchi et al. 2011: each weight's rate falls with the gradients that it has seen.

        s <- s + g^2;   w <- w - lr g / (sqrt(s) + eps)

    Defaults are PyTorch's.
    """

    state_names = ("square_sum",)

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0):
        require(eps >= 0, "eps", eps, "at least 0")
        super().__init__(params, lr, weight_decay)
        self.eps = eps

    def coefficients(self, steps: int) -> dict[str, float]:
        return {"lr": self.lr, "eps": self.eps}

    def update(self, w: Array, g: Array, t: Array, s: Array, *, lr: float, eps: float) -> None:
        s += np.multiply(g, g, out=t)
        np.sqrt(s, out=t)
        t += eps
        np.divide(g, t, out=t)
        t *= lr
        w -= t


class RMSprop(Optimizer):
    """Tieleman & Hinton 2012: the gradient divided by a running average of its size; momentum as in PyTorch.

        s <- alpha s + (1 - alpha) g^2;   d = g / (sqrt(s) + eps)
        without momentum   w <- w - lr d
        with momentum      v <- momentum v + d;   w <- w - lr v

    Defaults are PyTorch's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ):
        require(0 <= alpha < 1, "alpha", alpha, "in [0, 1)")
        require(eps >= 0, "eps", eps, "at least 0")
        require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
        self.state_names = ("square_average", "velocity") if momentum else ("square_average",)
        super().__init__(params, lr, weight_decay)
        self.alpha, self.eps, self.momentum = alpha, eps, momentum

    def coefficients(self, steps: int) -> dict[str, float]:
        alpha = self.alpha
        return {"lr": self.lr, "alpha": alpha, "fresh": 1 - alpha, "eps": self.eps, "momentum": self.momentum}

    def update(
        self,
        w: Array,
        g: Array,
        t: Array,
        s: Array,
        v: Array | None = None,
        *,
        lr: float,
        alpha: float,
        fresh: float,
        eps: float,
        momentum: float,
    ) -> None:
        np.multiply(g, g, out=t)
        t *= fresh
        s *= alpha
        s += t
        np.sqrt(s, out=t)
        t += eps
        np.divide(g, t, out=t)
        if v is None:
            t *= lr
        else:
            v *= momentum
            v += t
            np.multiply(v, lr, out=t)
        w -= t


class Adam(Optimizer):
    """Kingma & Ba 2015, algorithm 1: momentum, and a rate for each weight from the size of its gradients.

        w <- w - lr m_hat / (sqrt(v_hat) + eps)

    ``m_hat`` and ``v_hat`` are weighted means of all gradients so far and of their squares, with weights beta^age. The
    paper keeps running averages and corrects their bias toward 0; here the plain sums are kept,

        m <- beta1 m + g;   v <- beta2 v + g^2

    and divided by the sum of their weights, ``(1 - beta^t) / (1 - beta)``, which is the same and two passes shorter.
    These divisors are moved into two numbers per step, as in the paper's section 2:
    ``w <- w - step_size m / (sqrt(v) + eps_hat)``.

    Where numba is installed (the extra ``fast``), one compiled loop does the update, with the same results bit for bit.
    """

    state_names = ("m", "v")

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        require(len(betas) == 2 and all(0 <= beta < 1 for beta in betas), "betas", betas, "two numbers in [0, 1)")
        require(eps >= 0, "eps", eps, "at least 0")
        super().__init__(params, lr, weight_decay)
        self.betas, self.eps = tuple(betas), eps
        self._kernel = loops.kernel(loops.adam)

    def coefficients(self, steps: int) -> dict[str, float]:
        beta1, beta2 = self.betas
        m_weight = (1 - beta1**steps) / (1 - beta1)
        v_weight = math.sqrt((1 - beta2**steps) / (1 - beta2))
        step_size = self.lr * v_weight / m_weight
        return {"beta1": beta1, "beta2": beta2, "step_size": step_size, "eps_hat": self.eps * v_weight}

    def update(
        self,
        w: Array,
        g: Array,
        t: Array,
        m: Array,
        v: Array,
        *,
        beta1: float,
        beta2: float,
        step_size: float,
        eps_hat: float,
    ) -> None:
        if self._kernel and self._kernel.takes(g):
            self._kernel(w, g, m, v, beta1, beta2, step_size, eps_hat)
            return
        m *= beta1
        m += g
        v *= beta2
        v += np.multiply(g, g, out=t)
        np.sqrt(v, out=t)
        t += eps_hat
        np.divide(m, t, out=t)
        t *= step_size
        w -= t


class AdamW(Adam):
    """Loshchilov & Hutter 2019, algorithm 2: Adam whose weight decay bypasses the moments.

    ``w <- (1 - lr weight_decay) w`` before Adam's update; the gradient has no share of it.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(params, lr, betas, eps, weight_decay)

    def coefficients(self, steps: int) -> dict[str, float]:
        return {"shrink": 1 - self.lr * self.weight_decay, **super().coefficients(steps)}

    def update(  # type: ignore[override]
        self, w: Array, g: Array, t: Array, m: Array, v: Array, *, shrink: float, **adam: float
    ) -> None:
        w *= shrink
        super().update(w, g, t, m, v, **adam)
