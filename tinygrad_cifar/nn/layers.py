"""Layers: modules around the functions of ``functional``."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.nn import functional as F
from tinygrad_cifar.nn import init
from tinygrad_cifar.nn.module import Module, Parameter
from tinygrad_cifar.tensor import Tensor


class Linear(Module):
    """``x @ weight.T + bias``: (N, in_features) -> (N, out_features).

    ``weight`` has PyTorch's shape (out, in); its memory is (in, out) contiguous, which makes the product with a batch
    15-25 % faster. Both start from U(-1/sqrt(in), 1/sqrt(in)) as in PyTorch; see ``nn.init`` for others.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: DTypeLike = np.float32):
        if in_features < 1 or out_features < 1:
            raise ConfigError(f"Linear needs at least one input and one output, not {in_features} and {out_features}.")
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        self.weight = Parameter(np.empty((in_features, out_features), dtype).T)
        init.uniform(self.weight, -bound, bound)
        self.bias: Parameter | None = None
        if bias:
            self.bias = Parameter(np.empty(out_features, dtype))
            init.uniform(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class BatchNorm1d(Module):
    """Standardise each feature over the batch, then scale and shift: (N, C) -> (N, C). Ioffe & Szegedy 2015.

        weight * (x - mean) / sqrt(var + eps) + bias

    Training uses the mean and biased variance of the batch; evaluation uses running averages, which training moves by
    ``running <- (1 - momentum) * running + momentum * batch`` (with the unbiased variance, as in PyTorch). A document
    that keeps the share alpha = 0.9 of the old value means ``momentum=0.1``.

    Raises:
        ShapeError: in training, when a batch has a single sample.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, dtype: DTypeLike = np.float32):
        if num_features < 1 or eps < 0 or not 0 <= momentum <= 1:
            raise ConfigError(
                "BatchNorm1d needs num_features >= 1, eps >= 0 and momentum in [0, 1] (the share of the new batch), "
                f"not {num_features}, {eps} and {momentum}."
            )
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = Parameter(np.ones(num_features, dtype))
        self.bias = Parameter(np.zeros(num_features, dtype))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        self.register_buffer("running_mean", np.zeros(num_features, dtype))
        self.register_buffer("running_var", np.ones(num_features, dtype))
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64))

    def forward(self, x: Tensor) -> Tensor:
        out = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        if self.training:
            self.num_batches_tracked.data += 1
        return out

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class Sequential(Module):
    """Modules one after the other: ``Sequential(a, b)(x)`` is ``b(a(x))``. It has len, indexing, slices, iteration."""

    def __init__(self, *modules: Module):
        if others := [m for m in modules if not isinstance(m, Module)]:
            raise ConfigError(
                f"Sequential takes modules one by one, not {others[0]!r}. Write nn.ReLU(), not nn.ReLU or F.relu, and "
                "Sequential(*layers), not Sequential(layers)."
            )
        vars(self).update({str(i): module for i, module in enumerate(modules)})

    def __iter__(self) -> Iterator[Any]:
        return iter([value for value in vars(self).values() if isinstance(value, Module)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, index: int | slice) -> Any:
        chosen = list(self)[index]
        return Sequential(*chosen) if isinstance(index, slice) else chosen

    def forward(self, x: Tensor) -> Tensor:
        for module in vars(self).values():
            if isinstance(module, Module):
                x = module(x)
        return x


class ReLU(Module):
    """``max(x, 0)``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class LeakyReLU(Module):
    """``x`` where it is positive, ``negative_slope * x`` elsewhere."""

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class Sigmoid(Module):
    """``1 / (1 + exp(-x))``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        return F.tanh(x)


class GELU(Module):
    """``x * Phi(x)``, Phi being the normal distribution function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)


class Softplus(Module):
    """``log(1 + exp(x))``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)


class Dropout(Module):
    """In training, zero each entry with probability ``p`` and scale the others by 1 / (1 - p). Srivastava et al. 2014.

    The masks come from the random stream "dropout", so a seed repeats them.
    """

    def __init__(self, p: float = 0.5):
        if not 0 <= p < 1:
            raise ConfigError(f"Dropout: p is the probability of dropping an entry, in [0, 1), not {p}.")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """All axes but the first become one: (N, 32, 32, 3) -> (N, 3072)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Identity(Module):
    """``x`` itself: fills a place where no layer is wanted."""

    def forward(self, x: Tensor) -> Tensor:
        return x
