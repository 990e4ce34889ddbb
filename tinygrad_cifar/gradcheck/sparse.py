"""A value of which each copy changes a single entry, and the ops that need no full copies of it.

A linear layer of which one weight changes has one changed column: no matrix product, and no copy of the weights.
A shortcut may decline by returning None; then full copies are made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cifar.gradcheck.replay import Step
from tinygrad_cifar.tensor import Array


@dataclass
class Sparse:
    """K copies of ``base``; copy k has ``delta[k]`` added to its entry ``where[k]`` (counted row-major)."""

    base: Array
    where: Array
    delta: Array

    def dense(self) -> Array:
        stack = np.empty((len(self.where), self.base.size), self.delta.dtype)
        stack[:] = self.base.ravel()
        stack[np.arange(len(stack)), self.where] += self.delta
        return stack.reshape(-1, *self.base.shape)


def dense(x: Any) -> Any:
    """x itself, or its full copies if it is Sparse."""
    return x.dense() if isinstance(x, Sparse) else x


def _changed(base: Array, dtype: Any, count: int) -> Array:
    stack = np.empty((count, *base.shape), dtype)
    stack[:] = base
    return stack


def _linear(step: Step, arguments: list[Any], which: int, base: Array) -> Array | None:
    change = arguments[which]
    out = _changed(base, change.delta.dtype, len(change.where))
    flat = out.reshape(len(out), -1, base.shape[-1])
    copies = np.arange(len(out))
    row, column = np.divmod(change.where, change.base.shape[-1])
    if which == 0:
        flat[copies, row] += change.delta[:, None] * arguments[1][:, column].T
    elif which == 1:
        flat[copies, :, row] += change.delta[:, None] * arguments[0].reshape(-1, change.base.shape[1]).T[column]
    else:
        flat[copies, :, column] += change.delta[:, None]
    return out


def _matmul(step: Step, arguments: list[Any], which: int, base: Array) -> Array | None:
    change, other = arguments[which], arguments[1 - which]
    if change.base.ndim != 2 or other.ndim != 2:
        return None
    out = _changed(base, change.delta.dtype, len(change.where))
    copies = np.arange(len(out))
    row, column = np.divmod(change.where, change.base.shape[1])
    if which == 0:
        out[copies, row] += change.delta[:, None] * other[column]
    else:
        out[copies, :, column] += change.delta[:, None] * other.T[row]
    return out


def _transpose(step: Step, arguments: list[Any], which: int, base: Array) -> Sparse | None:
    change = arguments[which]
    if change.base.ndim != 2 or step.kwargs.get("axes") not in (None, (1, 0)):
        return None
    row, column = np.divmod(change.where, change.base.shape[1])
    return Sparse(base, column * len(change.base) + row, change.delta)


def _l2_penalty(step: Step, arguments: list[Any], which: int, base: Array) -> Array | None:
    change = arguments[which]
    entry = change.base.ravel()[change.where]
    return base + step.kwargs["coefficient"] * change.delta * (2 * entry + change.delta)


def _sum(step: Step, arguments: list[Any], which: int, base: Array) -> Array | None:
    change = arguments[which]
    return base + change.delta if base.ndim == 0 else None


def _elementwise(step: Step, arguments: list[Any], which: int, base: Array) -> Sparse | None:
    """Entry by entry, where all operands have one shape or are scalars; several may be sparse."""
    change = arguments[which]
    entries = []
    for a in arguments:
        if isinstance(a, Sparse):
            if a.base.shape != base.shape:
                return None
            entries.append(a.base.ravel()[a.where] + a.delta)
        elif np.ndim(a) and np.shape(a) != base.shape:
            return None
        else:
            entries.append(a.ravel()[change.where] if np.ndim(a) else a)
    return Sparse(base, change.where, step.forward(entries) - base.ravel()[change.where])


SHORTCUTS: dict[str, Callable[[Step, list[Any], int, Array], Any]] = {
    "linear": _linear,
    "matmul": _matmul,
    "transpose": _transpose,
    "l2_penalty": _l2_penalty,
    "sum": _sum,
    **dict.fromkeys(["add", "subtract", "multiply", "divide", "negative", "power", "exp", "log", "sqrt"], _elementwise),
}


def shortcut(step: Step, arguments: list[Any], base: Array) -> Any:
    """A step's result where all that changes is Sparse: Sparse again, or full copies; None if there is no short way."""
    way = SHORTCUTS.get(step.op.name)
    changed = [i for i, a in enumerate(arguments) if isinstance(a, Sparse)]
    if way is None or (len(changed) > 1 and way is not _elementwise):
        return None
    return way(step, arguments, changed[0], base)
