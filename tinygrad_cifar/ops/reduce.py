"""Sums, means and extremes over axes. ``axis``: None for all, an integer, or a tuple; negative counts from the end."""

import math
from typing import Any

import numpy as np

from tinygrad_cifar.operators import NUMPY, unwrap
from tinygrad_cifar.tensor import Array, op

Axis = int | tuple[int, ...] | None


def _spread(g: Any, axis: Axis, keepdims: bool) -> Any:
    """Give a reduced gradient its reduced axes back, with length 1. A single number fits as it is."""
    return g if keepdims or axis is None or g.ndim == 0 else np.expand_dims(g, axis)


def _count(x: Any, axis: Axis) -> int:
    """How many entries a reduction over ``axis`` takes together."""
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return math.prod(x.shape[a] for a in axes)


@op(saves="")
def sum_(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Sum over ``axis``."""
    return x.sum(axis, keepdims=keepdims)


@sum_.gradient
def sum_gradient(g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    return (np.broadcast_to(_spread(g, axis, keepdims), x.shape),)


@op(saves="")
def mean(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Mean over ``axis``."""
    return x.mean(axis, keepdims=keepdims)


@mean.gradient
def mean_gradient(g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    return (np.broadcast_to(_spread(g / _count(x, axis), axis, keepdims), x.shape),)


@op(saves="x")
def var(x: Array, *, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Array:
    """sum (x - mean)^2 / (n - ddof) over ``axis``.  d/dx = 2 (x - mean) / (n - ddof): d var / d mean is zero."""
    return x.var(axis, ddof=ddof, keepdims=keepdims)


@var.gradient
def var_gradient(g: Any, out: Any, x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    centred = x - np.mean(x, axis=axis, keepdims=True)
    count = _count(x, axis) - ddof
    return (_spread(g * (2 / count if count > 0 else math.nan), axis, keepdims) * centred,)


@op(saves="x out")
def max_(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Largest entry over ``axis``. Tied entries share the gradient equally (as PyTorch's ``amax``)."""
    return x.max(axis, keepdims=keepdims)


@op(saves="x out")
def min_(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Smallest entry over ``axis``. Tied entries share the gradient equally."""
    return x.min(axis, keepdims=keepdims)


@max_.gradient
@min_.gradient
def extreme_gradient(g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    chosen = unwrap(x) == _spread(unwrap(out), axis, keepdims)
    share = (chosen / chosen.sum(axis, keepdims=True)).astype(g.dtype)
    return (_spread(g, axis, keepdims) * share,)


@op(saves="x out")
def logsumexp(x: Array, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """log sum e^x over ``axis``, without overflow.  d/dx = softmax(x)."""
    peak = x.max(axis, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0)  # all -inf: e^-inf, not inf - inf
    total = np.log(np.exp(x - peak).sum(axis, keepdims=True)) + peak
    return total if keepdims else total.squeeze(axis)


@logsumexp.gradient
def logsumexp_gradient(g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    return (_spread(g, axis, keepdims) * np.exp(x - _spread(out, axis, keepdims)),)


# NumPy's own names, with NumPy's order of arguments.
NUMPY[np.sum] = lambda x, axis=None, *, keepdims=False: sum_(x, axis=axis, keepdims=keepdims)
NUMPY[np.mean] = lambda x, axis=None, *, keepdims=False: mean(x, axis=axis, keepdims=keepdims)
NUMPY[np.var] = lambda x, axis=None, *, ddof=0, keepdims=False: var(x, axis=axis, ddof=ddof, keepdims=keepdims)
NUMPY[np.std] = lambda x, axis=None, *, ddof=0, keepdims=False: var(x, axis=axis, ddof=ddof, keepdims=keepdims).sqrt()
NUMPY[np.max] = NUMPY[np.amax] = lambda x, axis=None, *, keepdims=False: max_(x, axis=axis, keepdims=keepdims)
NUMPY[np.min] = NUMPY[np.amin] = lambda x, axis=None, *, keepdims=False: min_(x, axis=axis, keepdims=keepdims)
NUMPY[np.linalg.norm] = lambda x: sum_(x * x).sqrt()  # Frobenius's, or Euclid's, of all entries; no other
