"""Initialisers: each fills a tensor in place from the random stream "init" and returns it.

Numbers are drawn in float64 and then rounded to the tensor's dtype, so a float32 and a float64 model of the same seed
start from the same numbers. ``fan_in`` and ``fan_out`` are the numbers of inputs and outputs of a weight of shape
(out, in, ...), as in PyTorch.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cifar.errors import ConfigError, ShapeError
from tinygrad_cifar.random import stream
from tinygrad_cifar.tensor import Tensor


def he_normal(tensor: Tensor) -> Tensor:
    """N(0, 2 / fan_in): keeps the variance of signals through ReLU layers. He et al. 2015, eq. 10."""
    return normal(tensor, math.sqrt(2 / _fans(tensor)[0]))


def he_uniform(tensor: Tensor) -> Tensor:
    """U(-b, b) with b = sqrt(6 / fan_in), which has the variance of ``he_normal``. He et al. 2015."""
    bound = math.sqrt(6 / _fans(tensor)[0])
    return uniform(tensor, -bound, bound)


def xavier_normal(tensor: Tensor) -> Tensor:
    """N(0, 2 / (fan_in + fan_out)): for sigmoid and tanh layers. Glorot & Bengio 2010, eq. 12."""
    return normal(tensor, math.sqrt(2 / sum(_fans(tensor))))


def xavier_uniform(tensor: Tensor) -> Tensor:
    """U(-b, b) with b = sqrt(6 / (fan_in + fan_out)). Glorot & Bengio 2010, eq. 16."""
    bound = math.sqrt(6 / sum(_fans(tensor)))
    return uniform(tensor, -bound, bound)


def normal(tensor: Tensor, std: float = 1.0) -> Tensor:
    """N(0, std^2).

    Raises:
        ConfigError: ``std`` is negative or not finite.
    """
    if not 0 <= std < math.inf:
        raise ConfigError(f"the standard deviation of an initialiser must be at least 0 and finite, not {std}.")
    return _fill(tensor, std * stream("init").standard_normal(tensor.shape))


def uniform(tensor: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """U(low, high).

    Raises:
        ConfigError: ``low`` exceeds ``high``.
    """
    if not low <= high:
        raise ConfigError(f"a uniform initialiser needs low <= high, not {low} and {high}.")
    return _fill(tensor, stream("init").uniform(low, high, tensor.shape))


def zeros(tensor: Tensor) -> Tensor:
    """All 0: for biases."""
    return _fill(tensor, 0)


def ones(tensor: Tensor) -> Tensor:
    """All 1: for the scale of batch norm."""
    return _fill(tensor, 1)


def constant(tensor: Tensor, value: float) -> Tensor:
    """All ``value``."""
    return _fill(tensor, value)


def _fill(tensor: Tensor, values: ArrayLike) -> Tensor:
    np.copyto(tensor.data, values, casting="same_kind")
    tensor.version[0] += 1
    return tensor


def _fans(tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim < 2:
        raise ShapeError(
            f"a tensor of shape {tensor.shape} has no fan-in: He and Xavier are for weights of shape (out, in, ...). "
            "Initialise biases with zeros or constant."
        )
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive
