"""Networks: modules, layers, initialisers, losses. Names, shapes and defaults are PyTorch's where it has the thing."""

from tinygrad_cifar.nn import functional, init
from tinygrad_cifar.nn import functional as F
from tinygrad_cifar.nn.layers import (
    GELU,
    BatchNorm1d,
    Dropout,
    Flatten,
    Identity,
    LeakyReLU,
    Linear,
    ReLU,
    Sequential,
    Sigmoid,
    Softplus,
    Tanh,
)
from tinygrad_cifar.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss, MultiMarginLoss, l2_penalty
from tinygrad_cifar.nn.mlp import ACTIVATIONS, mlp
from tinygrad_cifar.nn.module import Module, Parameter, count_parameters
from tinygrad_cifar.nn.summary import Summary, summary

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "CrossEntropyLoss",
    "Dropout",
    "F",
    "Flatten",
    "Identity",
    "LeakyReLU",
    "Linear",
    "MSELoss",
    "Module",
    "MultiMarginLoss",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softplus",
    "Summary",
    "Tanh",
    "count_parameters",
    "functional",
    "init",
    "l2_penalty",
    "mlp",
    "summary",
]
