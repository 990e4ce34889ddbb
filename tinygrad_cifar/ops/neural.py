"""Activations, and the fused layers of the networks: one node each, with the rule that one derives by hand.

A fused op works on arrays alone, which makes it fast; beside it stands its composed twin, the same function in
primitive ops as a textbook writes it. The twin is differentiated where derivatives of derivatives are wanted, and
the tests hold the hand-derived rule against it.
"""

import functools
import math
from typing import Any

import numpy as np

from tinygrad_cifar.ops.matmul import product
from tinygrad_cifar.tensor import Array, Tensor, op

# Activations ----------------------------------------------------------------------------------------------------


@op(saves="out")
def relu(x: Array) -> Array:
    """max(x, 0). At the kink x = 0 the rule gives 0."""
    return np.maximum(x, _zeros(x.shape, x.dtype))


@functools.lru_cache(maxsize=64)
def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    """NumPy compares with an array of zeros three times as fast as with the number 0."""
    zeros = np.zeros(shape, dtype)
    zeros.flags.writeable = False
    return zeros


@relu.gradient
def relu_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g * (out > 0),)


@op(saves="x")
def leaky_relu(x: Array, *, slope: float = 0.01) -> Array:
    """x where x > 0, slope * x elsewhere."""
    return np.where(x > 0, x, slope * x)


@leaky_relu.gradient
def leaky_relu_gradient(g: Any, out: Any, x: Any, slope: float = 0.01) -> Any:
    return (np.where(x > 0, g, slope * g),)


@op(saves="out")
def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x).  d/dx = y (1 - y)."""
    e = np.exp(np.minimum(-x, -math.log(np.finfo(x.dtype).tiny)))  # bounded: no overflow at x = -1000
    e += 1
    return np.reciprocal(e)


@sigmoid.gradient
def sigmoid_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g * out * (1 - out),)


@op(numpy=np.tanh, saves="out")
def tanh(x: Array) -> Array:
    """Hyperbolic tangent.  d/dx = 1 - y^2."""
    return np.tanh(x)


@tanh.gradient
def tanh_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g * (1 - out * out),)


@op(saves="x")
def softplus(x: Array) -> Array:
    """log(1 + e^x), a smooth ReLU.  d/dx = sigmoid(x)."""
    return np.logaddexp(x, 0)


@softplus.gradient
def softplus_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g * sigmoid.on(x),)


_erf = np.frompyfunc(math.erf, 1, 1)


@op(saves="x")
def erf(x: Array) -> Array:
    """2/sqrt(pi) * integral of e^(-t^2) from 0 to x."""
    return np.asanyarray(_erf(x)).astype(x.dtype)


@erf.gradient
def erf_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g * (2 / math.sqrt(math.pi)) * np.exp(-x * x),)


@op(saves="x")
def gelu(x: Array) -> Array:
    """x Phi(x), with Phi the normal distribution function (Hendrycks & Gimpel 2016), exact as in PyTorch."""
    return x * _normal_cdf(x)


@gelu.gradient
def gelu_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g * (_normal_cdf(x) + x * np.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))),)


def _normal_cdf(x: Any) -> Any:
    return 0.5 * (1 + erf.on(x * math.sqrt(0.5)))


@op(saves="out")
def softmax(x: Array, *, axis: int = -1) -> Array:
    """e^x / sum e^x along ``axis``.  J^T g = y (g - sum(g y))."""
    e = np.exp(x - x.max(axis, keepdims=True))
    e /= e.sum(axis, keepdims=True)
    return e


@softmax.gradient
def softmax_gradient(g: Any, out: Any, x: Any, axis: int = -1) -> Any:
    return (out * (g - np.sum(g * out, axis=axis, keepdims=True)),)


@op(saves="out")
def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """x - logsumexp(x) along ``axis``.  J^T g = g - softmax(x) sum(g)."""
    shifted = x - x.max(axis, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis, keepdims=True))
    return shifted


@log_softmax.gradient
def log_softmax_gradient(g: Any, out: Any, x: Any, axis: int = -1) -> Any:
    return (g - np.exp(out) * np.sum(g, axis=axis, keepdims=True),)


# Layers ---------------------------------------------------------------------------------------------------------


def composed_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = x @ weight.T
    return out if bias is None else out + bias


@op(twin=composed_linear)
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x W^T + b.  (..., in), (out, in), (out,) -> (..., out).

    With G the gradient from above: dx = G W, dW = G^T x, db = the sum of G's rows.
    """
    out = product(x, weight.T)
    if bias is not None:
        out += bias
    return out


@linear.gradient
def linear_gradient(g: Array, out: Any, x: Array, weight: Array, bias: Array | None = None) -> Any:
    rows, x_rows = (g, x) if g.ndim == 2 else (g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1]))
    # dW is formed as (in, out) and transposed: the memory order in which nn.Linear keeps its weight.
    return lambda: product(g, weight), lambda: product(x_rows.T, rows).T, lambda: column_sums(rows)


@functools.lru_cache(maxsize=64)
def _filled(n: int, value: float, dtype: Any) -> Array:
    """n times the same value. ``_filled(n, 1, ...) @ rows`` sums over the batch several times faster than ``sum``."""
    row = np.full(n, value, dtype)
    row.flags.writeable = False
    return row


def column_sums(rows: Array) -> Array:
    """The sum over axis 0."""
    return np.dot(_filled(len(rows), 1, rows.dtype), rows)


def column_means(rows: Array) -> Array:
    """The mean over axis 0."""
    return np.dot(_filled(len(rows), 1 / len(rows), rows.dtype), rows)


def composed_batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float = 1e-5, **running: Any) -> Tensor:
    mean = x.mean(axis=0)
    var = ((x - mean) ** 2).mean(axis=0)
    return gamma * (x - mean) / np.sqrt(var + eps) + beta


@op(twin=composed_batch_norm, keeps=True)
def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    eps: float = 1e-5,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    momentum: float = 0.1,
) -> tuple[Array, Any]:
    """gamma * x_hat + beta with x_hat = (x - mean) / sqrt(var + eps), moments over the batch.  (N, C) -> (N, C).

    [Ioffe & Szegedy 2015, Alg. 1.] ``running_mean`` and ``running_var`` are updated in place:
    running <- (1 - momentum) * running + momentum * batch, with the unbiased variance (as in PyTorch).
    """
    mean = column_means(x)
    centred = x - mean
    var = column_means(centred * centred)
    inv_std = 1 / np.sqrt(var + eps)
    if running_mean is not None and running_var is not None:
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (var * (len(x) / (len(x) - 1)) - running_var)
    out = centred * (gamma * inv_std)
    out += beta
    return out, (centred, inv_std)


@batch_norm.gradient
def batch_norm_gradient(g: Array, out: Any, x: Any, gamma: Array, beta: Any, *, kept: Any, **settings: Any) -> Any:
    """dx = gamma / sqrt(var + eps) * (g - mean(g) - x_hat * mean(g x_hat)), with means over the batch.

    The second term is the path through the mean, the third the path through the variance. x_hat is never formed:
    it is (x - mean) times the reciprocal of the standard deviation.
    """
    centred, inv_std = kept
    g_mean, g_centred_mean = column_means(g), column_means(g * centred)

    def to_x() -> Array:
        dx = centred * (-inv_std * inv_std * g_centred_mean)
        dx += g
        dx -= g_mean
        dx *= gamma * inv_std
        return dx

    return to_x, lambda: len(g) * inv_std * g_centred_mean, lambda: len(g) * g_mean


def composed_dropout(x: Tensor, *, mask: Array) -> Tensor:
    return x * mask


@op(twin=composed_dropout)
def dropout(x: Array, *, mask: Array) -> Array:
    """x * mask, where the mask is 0 with probability p and 1 / (1 - p) otherwise [Srivastava et al. 2014]."""
    return x * mask


@dropout.gradient
def dropout_gradient(g: Array, out: Any, x: Any, *, mask: Array) -> Any:
    return (g * mask,)
