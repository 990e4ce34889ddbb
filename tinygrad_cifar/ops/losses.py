"""Losses and the L2 penalty, fused: scalars, each with its hand-derived rule and its composed twin."""

import functools
from typing import Any

import numpy as np

from tinygrad_cifar.ops.neural import column_means, column_sums, sigmoid, softplus
from tinygrad_cifar.tensor import Array, Tensor, op


@functools.lru_cache(maxsize=64)
def _rows(n: int) -> Array:
    return np.arange(n)


def _pick(scores: Any, labels: Array) -> Any:
    """The score of each sample's own class."""
    return scores[_rows(len(labels)), labels]


def composed_softmax_cross_entropy(logits: Tensor, *, labels: Array) -> Tensor:
    return (logits.logsumexp(axis=1) - _pick(logits, labels)).mean()


@op(twin=composed_softmax_cross_entropy, keeps=True)
def softmax_cross_entropy(logits: Array, *, labels: Array) -> tuple[Array, Any]:
    """mean over the batch of -log softmax(logits)[label].  (N, C), integer labels (N,) in [0, C) -> scalar.

    With P the probabilities and Y the one-hot labels: d logits = (P - Y) / N.
    """
    n = len(labels)
    p = logits.T.copy()  # (C, N): NumPy reduces over the first axis several times faster than over the last
    p -= np.maximum.reduce(p)
    # Where in p, as a vector, the samples' own classes lie: one index is several times faster than two.
    places = np.multiply(labels, n, dtype=np.intp)
    places += _rows(n)
    own = p.reshape(-1).take(places)
    np.exp(p, out=p)
    total = column_sums(p)
    p /= total
    return column_means(np.log(total) - own), (p, places)


@softmax_cross_entropy.gradient
def softmax_cross_entropy_gradient(g: Array, out: Any, logits: Any, *, labels: Array, kept: Any) -> Any:
    p, places = kept
    scale = g / len(labels)
    d = p * scale
    d.reshape(-1)[places] -= scale
    return (d.T,)


def composed_binary_cross_entropy_with_logits(logits: Tensor, *, targets: Array) -> Tensor:
    return (softplus(logits) - targets * logits).mean()


@op(twin=composed_binary_cross_entropy_with_logits)
def binary_cross_entropy_with_logits(logits: Array, *, targets: Array) -> Array:
    """mean of -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z)), stable for every z.  d z = (sigmoid(z) - t) / size.

    Targets have the shape of the logits and lie in [0, 1].
    """
    terms = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))
    return terms.sum() / logits.size


@binary_cross_entropy_with_logits.gradient
def binary_cross_entropy_with_logits_gradient(g: Array, out: Any, logits: Array, *, targets: Array) -> Any:
    return ((sigmoid.on(logits) - targets) * (g / logits.size),)


def composed_hinge(scores: Tensor, *, labels: Array, margin: float = 1.0) -> Tensor:
    own = np.expand_dims(_pick(scores, labels), 1)
    wrong = np.arange(scores.shape[1]) != np.expand_dims(labels, 1)
    return (wrong * (scores - own + margin).relu()).sum() / scores.size


@op(twin=composed_hinge, keeps=True)
def hinge(scores: Array, *, labels: Array, margin: float = 1.0) -> tuple[Array, Any]:
    """mean over the batch of (1/C) sum over wrong classes j of max(0, margin + s_j - s_label).  (N, C) -> scalar.

    The multi-class SVM of Weston & Watkins, scaled by 1/C as PyTorch's ``multi_margin_loss``.
    """
    excess = scores - _pick(scores, labels)[:, None] + margin
    excess[_rows(len(labels)), labels] = 0
    np.maximum(excess, 0, out=excess)
    return excess.sum() / scores.size, excess > 0


@hinge.gradient
def hinge_gradient(g: Array, out: Any, scores: Array, *, labels: Array, kept: Array, margin: float = 1.0) -> Any:
    d = kept * (g / scores.size)
    d[_rows(len(labels)), labels] = -d.sum(1)
    return (d,)


def composed_mse(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 2).mean()


@op(twin=composed_mse)
def mse(prediction: Array, target: Array) -> Array:
    """mean of (prediction - target)^2 over all entries.  d prediction = 2 (prediction - target) / size."""
    difference = prediction - target
    return (difference * difference).sum() / difference.size


@mse.gradient
def mse_gradient(g: Array, out: Any, prediction: Array, target: Array) -> Any:
    d = prediction - target
    d *= 2 * g / d.size
    return d, lambda: -d


def composed_l2_penalty(*weights: Tensor, coefficient: float) -> Tensor:
    total = (weights[0] ** 2).sum()
    for w in weights[1:]:
        total = total + (w**2).sum()
    return coefficient * total


@op(twin=composed_l2_penalty)
def l2_penalty(*weights: Array, coefficient: float) -> Array:
    """coefficient * sum of all squared weights.  dW = 2 coefficient W."""
    flat = [w.reshape(-1, order="A") for w in weights]
    return np.asarray(coefficient * sum(w @ w for w in flat), weights[0].dtype)


@l2_penalty.gradient
def l2_penalty_gradient(g: Array, out: Any, *weights: Array, coefficient: float) -> Any:
    return [lambda w=w: w * (2 * coefficient * g) for w in weights]
