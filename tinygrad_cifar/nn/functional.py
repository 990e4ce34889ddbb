"""Layers and losses as functions, named as in ``torch.nn.functional``. Also reached as ``nn.F``."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cifar.errors import ConfigError, DtypeError, ShapeError
from tinygrad_cifar.operands import check_list
from tinygrad_cifar.operators import OPS, unwrap
from tinygrad_cifar.random import stream
from tinygrad_cifar.tensor import Array, Tensor

# Layers -------------------------------------------------------------------------------------------------------


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: (..., in), (out, in), (out,) -> (..., out).

    Raises:
        ShapeError: the last axis of ``x`` is not the weight's ``in``.
    """
    if x.shape[-1:] != weight.shape[1:]:
        raise ShapeError(
            f"linear: the weight {weight.shape} takes inputs of shape (..., {weight.shape[-1]}), but got {x.shape}. "
            "Images need nn.Flatten() before the first Linear; else mend in_features."
        )
    return OPS["linear"](x, weight) if bias is None else OPS["linear"](x, weight, bias)


def batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``weight * (x - mean) / sqrt(var + eps) + bias`` for each of the C columns of x: (N, C) -> (N, C).

    In training mean and (biased) variance are the batch's, and the running averages move in place toward them
    (toward the unbiased variance): ``running <- (1 - momentum) * running + momentum * batch``. Otherwise they are
    the running averages. Ioffe & Szegedy 2015, algorithms 1 and 2.

    Raises:
        ShapeError: ``x`` is not (N, C), or has a single row in training.
    """
    if x.ndim != 2 or x.shape[1] != weight.shape[0]:
        raise ShapeError(f"batch_norm over {weight.shape[0]} features expects (N, {weight.shape[0]}), got {x.shape}.")
    if training:
        if x.shape[0] < 2:
            raise ShapeError(
                f"Expected more than 1 value per channel when training, got a batch of {x.shape[0]}, which has no "
                "variance. Drop the incomplete last batch, or call model.eval() when you evaluate single samples."
            )
        return OPS["batch_norm"](
            x, weight, bias, eps=eps, running_mean=running_mean.data, running_var=running_var.data, momentum=momentum
        )
    mean = running_mean.data.copy()  # training may move it before backward
    scale = weight * (1 / np.sqrt(running_var.data + eps))
    return x * scale + (bias - mean * scale)


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Zero each entry with probability ``p`` in [0, 1) and scale the others by 1 / (1 - p), so the mean stays.

    The mask comes from the random stream "dropout" and is the same for float32 and float64. Without ``training`` it
    is the identity. Srivastava et al. 2014.

    Raises:
        ConfigError: ``p`` is outside [0, 1).
    """
    if not 0 <= p < 1:
        raise ConfigError(f"dropout: p is the probability of dropping an entry, in [0, 1), not {p}.")
    if not training or p == 0:
        return x
    keep = stream("dropout").random(x.shape, np.float32) >= p
    return OPS["dropout"](x, mask=np.multiply(keep, 1 / (1 - p), dtype=x.dtype))


# Activations --------------------------------------------------------------------------------------------------


def relu(x: Tensor) -> Tensor:
    """``max(x, 0)``; its gradient at 0 is 0."""
    return OPS["relu"](x)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """``x`` where it is positive, ``negative_slope * x`` elsewhere. Maas et al. 2013."""
    return OPS["leaky_relu"](x, slope=negative_slope)


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``, in (0, 1)."""
    return OPS["sigmoid"](x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent, in (-1, 1)."""
    return OPS["tanh"](x)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, a smooth ReLU."""
    return OPS["softplus"](x)


def gelu(x: Tensor) -> Tensor:
    """``x * Phi(x)``, Phi being the normal distribution function. Hendrycks & Gimpel 2016."""
    return OPS["gelu"](x)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """``exp(x) / sum(exp(x))`` along ``axis``: probabilities."""
    return OPS["softmax"](x, axis=axis)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """``log(softmax(x))`` along ``axis``, computed without overflow."""
    return OPS["log_softmax"](x, axis=axis)


# Losses, each the mean over the batch --------------------------------------------------------------------------


def cross_entropy(logits: Tensor, labels: ArrayLike) -> Tensor:
    """``mean_n -log softmax(logits_n)[labels_n]``.

    Args:
        logits: (N, C), scores before softmax.
        labels: (N,), integers in [0, C).

    Raises:
        ShapeError: ``logits`` is not (N, C), ``labels`` not (N,), or a label lies outside [0, C).
        DtypeError: ``labels`` are not integers.
    """
    return OPS["softmax_cross_entropy"](logits, labels=_class_labels("cross_entropy", logits, labels))


def hinge(scores: Tensor, labels: ArrayLike, margin: float = 1.0) -> Tensor:
    """Multi-class SVM: ``mean_n sum_{j != y} max(0, margin - s_y + s_j) / C``, as PyTorch's ``multi_margin_loss``.

    Args:
        scores: (N, C).
        labels: (N,), integers in [0, C).
        margin: how far the right class should lead, positive.

    Raises:
        ShapeError, DtypeError: as for ``cross_entropy``.
    """
    return OPS["hinge"](scores, labels=_class_labels("hinge", scores, labels), margin=margin)


def binary_cross_entropy_with_logits(logits: Tensor, targets: Any) -> Tensor:
    """``mean -(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x)))`` over all entries, computed without overflow.

    Args:
        logits: any shape.
        targets: the same shape, in [0, 1].

    Raises:
        ShapeError: the shapes differ.
        DtypeError: the targets are of another float precision.
        UnsupportedError: the targets require a gradient.
    """
    targets = _as_targets(targets, logits)
    _same_shape("binary_cross_entropy_with_logits", logits, targets.shape)
    if targets.dtype != logits.dtype:
        if targets.dtype.kind == "f":
            raise DtypeError(
                f"binary_cross_entropy_with_logits: targets are {targets.dtype}, logits {logits.dtype}. Convert the "
                f"targets: targets.astype({logits.dtype})."
            )
        targets = targets.astype(logits.dtype)
    return OPS["binary_cross_entropy_with_logits"](logits, targets=targets)


def mse_loss(prediction: Tensor, target: Tensor | ArrayLike) -> Tensor:
    """``mean (prediction - target)^2`` over all entries of two arrays of the same shape.

    Raises:
        ShapeError: the shapes differ; they are not broadcast, which would hide (N, 1) against (N,).
    """
    targets = _as_targets(target, prediction)
    _same_shape("mse_loss", prediction, targets.shape)
    return OPS["mse"](prediction, targets)


def _as_targets(targets: Any, prediction: Tensor) -> Any:
    """Arrays and Tensors as they are; lists and numbers in the prediction's precision."""
    check_list(targets)
    return targets if isinstance(targets, Tensor | np.ndarray) else np.asarray(targets, prediction.dtype)


def _same_shape(name: str, prediction: Tensor, shape: tuple[int, ...]) -> None:
    if prediction.shape != shape:
        raise ShapeError(f"{name}: predictions are {prediction.shape} but targets {shape}; they must be the same.")


_UNSIGNED: dict[Any, Any] = {
    np.dtype(f"{sign}{size}"): np.dtype(f"u{size}") for sign in "iu" for size in (1, 2, 4, 8)
}  # fmt: skip


def _class_labels(name: str, scores: Tensor, labels: Any) -> Array:
    """``labels`` as an array, checked. Read as unsigned a negative label is huge, so one ``max`` checks the range."""
    labels = np.asanyarray(unwrap(labels))
    unsigned, shape = _UNSIGNED.get(labels.dtype), scores.shape
    if len(shape) == 2 and unsigned and labels.shape == shape[:1] and labels.size:
        if np.maximum.reduce(labels.view(unsigned)) < shape[1]:
            return labels
        first = int(np.argmax(labels.view(unsigned) >= shape[1]))
        raise ShapeError(
            f"{name}: labels must be class numbers in [0, {shape[1]}), the scores being {shape}, but "
            f"labels[{first}] is {labels[first]}. Labels that count from 1 need labels - 1."
        )
    if len(shape) != 2 or not shape[0]:
        raise ShapeError(f"{name}: scores must be (N, C) with N >= 1, a row per sample; got {shape}.")
    if labels.shape == shape:
        raise ShapeError(f"{name}: labels of shape {labels.shape} look one-hot. Pass labels.argmax(axis=1).")
    if labels.shape != shape[:1]:
        raise ShapeError(f"{name}: {shape[0]} rows of scores need ({shape[0]},) labels: {labels.shape}.")
    raise DtypeError(f"{name}: labels must be integers, not {labels.dtype}. Pass labels.astype(int).")
