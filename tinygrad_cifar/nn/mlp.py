"""The networks of the documents: fully connected layers, with batch norm and dropout where wanted."""

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.nn import init as initialisers
from tinygrad_cifar.nn import layers
from tinygrad_cifar.nn.module import Module
from tinygrad_cifar.tensor import Tensor

ACTIVATIONS: dict[str, type[Module]] = {
    "relu": layers.ReLU,
    "leaky_relu": layers.LeakyReLU,
    "sigmoid": layers.Sigmoid,
    "tanh": layers.Tanh,
    "gelu": layers.GELU,
    "softplus": layers.Softplus,
}
"""The activations of ``mlp``, by name."""


def mlp(
    sizes: Sequence[int],
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
    bias: bool = True,
    init: Literal["he", "xavier"] | float = "he",
    dtype: DTypeLike = np.float32,
) -> layers.Sequential:
    """A network of fully connected layers, as ``mlp([3072, 50, 50, 10])``: Linear, batch norm, activation, dropout.

    Args:
        sizes: the numbers of features from input to output, two or more; the last layer is a Linear alone.
        activation: one of ``ACTIVATIONS``.
        batch_norm: a BatchNorm1d after each hidden Linear.
        dropout: the probability, in [0, 1), of the Dropout after each hidden activation; 0 leaves it out.
        bias: whether the Linear layers have one. Before batch norm it has no effect.
        init: "he" or "xavier" (normal), or the standard deviation of the weights. Biases start at 0.
        dtype: float32 or float64.

    Raises:
        ConfigError: fewer than two sizes, or an unknown activation or initialiser.
    """
    if len(sizes) < 2:
        raise ConfigError(f"mlp needs the input and the output size at least, as [3072, 10]; got {list(sizes)}.")
    if activation not in ACTIVATIONS:
        raise ConfigError(f"unknown activation {activation!r}; there are {', '.join(ACTIVATIONS)}.")
    modules: list[Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes[:-1]):
        modules.append(_linear(fan_in, fan_out, bias, init, dtype))
        if batch_norm:
            modules.append(layers.BatchNorm1d(fan_out, dtype=dtype))
        modules.append(ACTIVATIONS[activation]())
        if dropout:
            modules.append(layers.Dropout(dropout))
    return layers.Sequential(*modules, _linear(sizes[-2], sizes[-1], bias, init, dtype))


def _linear(fan_in: int, fan_out: int, bias: bool, init: str | float, dtype: DTypeLike) -> layers.Linear:
    layer = layers.Linear(fan_in, fan_out, bias, dtype)
    _initialise(layer.weight, init)
    if layer.bias is not None:
        initialisers.zeros(layer.bias)
    return layer


def _initialise(weight: Tensor, init: str | float) -> None:
    if init == "he":
        initialisers.he_normal(weight)
    elif init == "xavier":
        initialisers.xavier_normal(weight)
    elif isinstance(init, int | float):
        initialisers.normal(weight, init)
    else:
        raise ConfigError(f'unknown initialiser {init!r}: "he", "xavier", or a standard deviation as 0.01.')
