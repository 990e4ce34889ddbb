"""The losses of ``functional`` as modules, and the L2 penalty."""

from typing import Literal

from numpy.typing import ArrayLike

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.nn import functional as F
from tinygrad_cifar.nn.module import Module, is_parameter
from tinygrad_cifar.operators import OPS
from tinygrad_cifar.tensor import Tensor


class CrossEntropyLoss(Module):
    """``F.cross_entropy``: scores (N, C) and integer labels (N,) -> the mean loss."""

    def forward(self, logits: Tensor, labels: ArrayLike) -> Tensor:
        return F.cross_entropy(logits, labels)


class BCEWithLogitsLoss(Module):
    """``F.binary_cross_entropy_with_logits``: scores and targets in [0, 1] of one shape -> the mean loss."""

    def forward(self, logits: Tensor, targets: ArrayLike) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets)


class MultiMarginLoss(Module):
    """``F.hinge``: scores (N, C) and integer labels (N,) -> the mean multi-class SVM loss."""

    def __init__(self, margin: float = 1.0):
        self.margin = margin

    def forward(self, scores: Tensor, labels: ArrayLike) -> Tensor:
        return F.hinge(scores, labels, self.margin)

    def extra_repr(self) -> str:
        return f"margin={self.margin}"


class MSELoss(Module):
    """``F.mse_loss``: predictions and targets of one shape -> the mean squared difference."""

    def forward(self, prediction: Tensor, target: Tensor | ArrayLike) -> Tensor:
        return F.mse_loss(prediction, target)


def l2_penalty(model: Module, lam: float, convention: Literal["sum", "half"] = "sum") -> Tensor:
    """``lam * ||W||^2`` ("sum") or ``lam/2 * ||W||^2`` ("half") over the weights of ``model``, as one graph node.

    Its gradient is ``2 lam W`` or ``lam W``. Only weights count, that is parameters of two axes or more; never
    biases, nor the scale and shift of batch norm. An optimiser's ``weight_decay=d`` is "half" with ``lam=d``, except
    that it decays biases too.

    Raises:
        ConfigError: ``lam`` is negative, the convention unknown, or the model has no weights.
    """
    if not lam >= 0 or convention not in ("sum", "half"):
        raise ConfigError(f'l2_penalty needs lam >= 0 and convention "sum" or "half", not {lam} and {convention!r}.')
    weights = _weights(model)
    if not weights:
        raise ConfigError(f"l2_penalty: this {type(model).__name__} has no weights, parameters of 2 axes or more.")
    return OPS["l2_penalty"](*weights, coefficient=lam if convention == "sum" else lam / 2)


def _weights(model: Module) -> list[Tensor]:
    """The parameters of two axes or more, each once. It runs at every step, hence this leaner walk than ``modules``."""
    weights: dict[Tensor, None] = {}
    modules = [model]
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Module):
                modules.append(value)
            elif isinstance(value, Tensor) and value.data.ndim > 1 and is_parameter(value):
                weights[value] = None
    return list(weights)
