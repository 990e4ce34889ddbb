"""How each op takes stacked arguments: K copies along a new leading axis. A way may decline by returning None.

Wherever it can be, the op's own forward does the work, so that the numeric side checks what the network computes.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_cifar.gradcheck.replay import Step
from tinygrad_cifar.tensor import Array


def _ndim(x: Any, stacked: bool) -> int:
    return np.ndim(x) - stacked


def count(arguments: list[Any], flags: list[bool]) -> int:
    """How many copies there are."""
    return next(len(a) for a, f in zip(arguments, flags, strict=True) if f)


def aligned(arguments: list[Any], flags: list[bool]) -> list[Any]:
    """Operands that broadcast from the right: a stacked one with fewer axes gets more."""
    ndim = max(_ndim(a, f) for a, f in zip(arguments, flags, strict=True))
    return [_widened(a, ndim) if f else a for a, f in zip(arguments, flags, strict=True)]


def _widened(x: Array, ndim: int) -> Array:
    """Copies of ``ndim`` axes each: what they lack stands behind the axis of the copies."""
    return x.reshape(len(x), *(1,) * (ndim - x.ndim + 1), *x.shape[1:])


def shifted_axes(axis: Any, ndim: int, stacked: bool = True) -> tuple[int, ...]:
    """The axes of one copy (None: all), in an array of ``ndim`` axes: if stacked, the first is the copies'."""
    axes = range(ndim - stacked) if axis is None else (axis,) if isinstance(axis, int) else axis
    return tuple(a % (ndim - stacked) + stacked for a in axes)


def _elementwise(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    return step.forward(aligned(arguments, flags))


def _reduced(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    (x,) = arguments
    shifted = shifted_axes(step.kwargs.get("axis", -1 if "softmax" in step.op.name else None), x.ndim)
    moved = {**step.kwargs, "axis": shifted[0] if len(shifted) == 1 else shifted}
    return step.op.forward(x, **moved)


def _variance(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    """NumPy's own takes |x|^2 of complex numbers, which is no analytic function."""
    (x,) = arguments
    shifted = shifted_axes(step.kwargs.get("axis"), x.ndim)
    centred = x - x.mean(shifted, keepdims=True)
    count = math.prod(x.shape[a] for a in shifted) - step.kwargs.get("ddof", 0)
    return (centred * centred).sum(shifted, keepdims=step.kwargs.get("keepdims", False)) / count


def _reshape(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    (x,) = arguments
    shape = step.kwargs["shape"]
    return x.reshape(len(x), *(shape if isinstance(shape, tuple | list) else (shape,)))


def _transpose(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    (x,) = arguments
    axes = step.kwargs.get("axes")
    order = reversed(range(x.ndim - 1)) if axes is None else (a % (x.ndim - 1) for a in axes)
    return x.transpose(0, *[a + 1 for a in order])


def _getitem(step: Step, arguments: list[Any], flags: list[bool]) -> Array | None:
    (x,) = arguments
    index = step.kwargs["index"]
    parts = index if isinstance(index, tuple) else (index,)
    basic = all(p is None or p is Ellipsis or isinstance(p, slice | int) for p in parts)
    if not basic and not all(isinstance(p, np.ndarray) for p in parts):
        return None
    return x[(slice(None), *parts)]


def _broadcast(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    (x,) = arguments
    shape = step.kwargs["shape"]
    shape = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    return np.broadcast_to(_widened(x, len(shape)), (len(x), *shape))


def _matmul(step: Step, arguments: list[Any], flags: list[bool]) -> Array | None:
    a, b = arguments
    if min(_ndim(a, flags[0]), _ndim(b, flags[1])) < 2:
        return None
    if flags == [True, False] and a.ndim == 3 and b.ndim == 2:
        return _rows_times(a, b)
    return _elementwise(step, arguments, flags)


def _rows_times(x: Array, matrix: Array) -> Array:
    """x @ matrix as one product of all rows; of a complex x, two real products, at half the cost of a complex one."""
    rows = x.reshape(-1, x.shape[-1])
    out = np.empty((len(rows), matrix.shape[-1]), x.dtype)
    if x.dtype.kind == "c" and matrix.dtype.kind == "f":
        out.real, out.imag = rows.real @ matrix, rows.imag @ matrix
    else:
        np.matmul(rows, matrix, out)
    return out.reshape(*x.shape[:-1], -1)


def _linear(step: Step, arguments: list[Any], flags: list[bool]) -> Array | None:
    x, weight, *bias = arguments
    if _ndim(x, flags[0]) < 2:
        return None
    if flags[1]:
        rows = x.reshape(*x.shape[: flags[0]], -1, x.shape[-1])
        out = (rows @ weight.swapaxes(-1, -2)).reshape(len(weight), *x.shape[flags[0] : -1], weight.shape[1])
    else:
        out = _rows_times(x, weight.T)
    for b in bias:
        out = out + (_widened(b, _ndim(x, flags[0])) if flags[2] else b)
    return out


def _batch_norm(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    """Batch norm treats its columns one by one, so K copies are K times as many columns."""
    k = count(arguments, flags)
    x, gamma, beta = [a if f else np.broadcast_to(a, (k, *a.shape)) for a, f in zip(arguments, flags, strict=True)]
    n, features = x.shape[1:]
    wide = x.swapaxes(0, 1).reshape(n, k * features)
    dtype = np.result_type(x, gamma, beta)  # its forward works in place: no real array may receive complex values
    wide, gamma, beta = (a.astype(dtype, copy=False) for a in (wide, gamma.ravel(), beta.ravel()))
    out, _ = step.op.forward(wide, gamma, beta, eps=step.kwargs.get("eps", 1e-5))
    return out.reshape(n, k, features).swapaxes(0, 1)


def _softmax_cross_entropy(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    (z,) = arguments
    labels = step.kwargs["labels"]
    shifted = z - z.max(-1, keepdims=True)
    picked = shifted[:, np.arange(len(labels)), labels]
    return (np.log(np.exp(shifted).sum(-1)) - picked).sum(-1) / len(labels)


def _hinge(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    excess = hinge_excess(arguments[0], **step.kwargs)
    return np.maximum(excess, 0).sum((-2, -1)) / math.prod(excess.shape[1:])


def hinge_excess(scores: Array, *, labels: Array, margin: float = 1.0) -> Array:
    rows = np.arange(len(labels))
    excess = scores - scores[..., rows, labels][..., None] + margin
    excess[..., rows, labels] = 0
    return excess


def _softplus(z: Array) -> Array:
    """log(1 + e^z), also for complex z."""
    decay = np.exp(np.where(z > 0, -z, z))
    return np.where(z > 0, z, 0) + np.log1p(decay)


def _binary_cross_entropy(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    (z,) = arguments
    terms = _softplus(z) - z * step.kwargs["targets"]
    return terms.reshape(len(z), -1).sum(1) / math.prod(z.shape[1:])


def _mse(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    prediction, target = arguments
    difference = (prediction - target).reshape(count(arguments, flags), -1)
    return (difference * difference).sum(1) / difference.shape[1]


def _l2_penalty(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    squares = [(w * w).reshape(len(w) if f else 1, -1).sum(1) for w, f in zip(arguments, flags, strict=True)]
    return step.kwargs["coefficient"] * sum(squares)


STACKED: dict[str, Callable[[Step, list[Any], list[bool]], Array | None]] = {
    **dict.fromkeys(
        [
            "add", "subtract", "multiply", "divide", "negative", "power", "exp", "log", "sqrt", "maximum", "minimum",
            "select", "clip", "clone", "relu", "leaky_relu", "sigmoid", "tanh", "erf", "gelu", "dropout",
        ],
        _elementwise,
    ),
    **dict.fromkeys(["sum", "mean", "max", "min", "logsumexp", "softmax", "log_softmax"], _reduced),
    "abs": lambda step, arguments, flags: np.where(arguments[0] < 0, -arguments[0], arguments[0]),
    "astype": lambda step, arguments, flags: arguments[0],
    "softplus": lambda step, arguments, flags: _softplus(arguments[0]),
    "var": _variance,
    "reshape": _reshape,
    "transpose": _transpose,
    "getitem": _getitem,
    "broadcast_to": _broadcast,
    "matmul": _matmul,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "softmax_cross_entropy": _softmax_cross_entropy,
    "hinge": _hinge,
    "binary_cross_entropy_with_logits": _binary_cross_entropy,
    "mse": _mse,
    "l2_penalty": _l2_penalty,
}  # fmt: skip
