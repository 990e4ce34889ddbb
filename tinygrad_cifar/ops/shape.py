"""Shapes, indexing and joining. These ops move entries and change none, so no rule needs a value."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_cifar.operators import NUMPY, Operand, unwrap
from tinygrad_cifar.tensor import Array, Tensor, implements, op

Axis = int | tuple[int, ...] | None


@op(saves="", view=True)
def reshape(x: Array, *, shape: Any) -> Array:
    """The same entries, row-major, in another shape; one length may be -1."""
    return x.reshape(shape)


@reshape.gradient
def reshape_gradient(g: Any, out: Any, x: Any, shape: Any) -> Any:
    return (g.reshape(x.shape),)


@op(saves="", view=True)
def transpose(x: Array, *, axes: Sequence[int] | None = None) -> Array:
    """Axes in the order ``axes``, or all reversed."""
    return x.transpose(axes) if axes is not None else x.T


@transpose.gradient
def transpose_gradient(g: Any, out: Any, x: Any, axes: Sequence[int] | None = None) -> Any:
    if axes is None:
        return (g.T,)
    return (g.transpose(tuple(int(i) for i in np.argsort([a % x.ndim for a in axes]))),)


@op(saves="", view=True)
def swapaxes(x: Array, *, axis1: int, axis2: int) -> Array:
    """Two axes exchanged."""
    return x.swapaxes(axis1, axis2)


@swapaxes.gradient
def swapaxes_gradient(g: Any, out: Any, x: Any, axis1: int, axis2: int) -> Any:
    return (g.swapaxes(axis1, axis2),)


@op(saves="", view=True)
def expand_dims(x: Array, *, axis: int | tuple[int, ...]) -> Array:
    """New axes of length 1 at the positions ``axis`` of the result."""
    return np.expand_dims(x, axis)


@expand_dims.gradient
def expand_dims_gradient(g: Any, out: Any, x: Any, axis: int | tuple[int, ...]) -> Any:
    return (g.reshape(x.shape),)


@op(saves="", view=True)
def squeeze(x: Array, *, axis: Axis = None) -> Array:
    """Axes of length 1 dropped: all of them, or those named."""
    return x.squeeze(axis)


@squeeze.gradient
def squeeze_gradient(g: Any, out: Any, x: Any, axis: Axis = None) -> Any:
    return (g.reshape(x.shape),)


@op(saves="", view=True)
def broadcast_to(x: Array, *, shape: Any) -> Array:
    """x repeated to ``shape``, without copying (the result is read-only)."""
    return np.broadcast_to(x, shape)


@broadcast_to.gradient
def broadcast_to_gradient(g: Any, out: Any, x: Any, shape: Any) -> Any:
    return (g,)  # the walk sums over what was repeated


@op(saves="", view=True)
def getitem(x: Array, *, index: Any) -> Array:
    """x[index], with slices, integers, None, ..., masks and integer arrays."""
    return x[index]


@getitem.gradient
def getitem_gradient(g: Any, out: Any, x: Any, index: Any) -> Any:
    return (scatter.on(g, index=index, shape=x.shape),)


@op(saves="")
def scatter(g: Array, *, index: Any, shape: tuple[int, ...]) -> Array:
    """Zeros of ``shape`` with g added at ``index``; what falls on one place adds up."""
    whole = np.zeros_like(g, shape=shape)
    if _is_basic(index):
        whole[index] = g
    else:
        np.add.at(whole, index, g)
    return whole


@scatter.gradient
def scatter_gradient(g: Any, out: Any, x: Any, index: Any, shape: tuple[int, ...]) -> Any:
    return (g[index],)


def _is_basic(index: Any) -> bool:
    """Whether no entry can be named twice: only slices, integers, None and ``...``."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or isinstance(p, slice | int | np.integer) for p in parts)


@op(saves="")
def setitem(x: Array, value: Array, *, index: Any) -> Array:
    """A copy of x with ``x[index] = value``. Where the index names a place twice, NumPy's last one wins."""
    changed = x.copy()
    changed[index] = value
    return changed


@setitem.gradient
def setitem_gradient(g: Any, out: Any, x: Any, value: Any, index: Any) -> Any:
    def to_value() -> Any:
        region = to_region()
        return region.reshape((1,) * (np.ndim(value) - np.ndim(region)) + region.shape)  # NumPy drops leading ones

    def to_region() -> Any:
        if _is_basic(index):
            return g[index]
        places = np.arange(g.size).reshape(g.shape)[index]
        turns = np.arange(places.size).reshape(places.shape)
        last = np.zeros(g.size, int)
        last[places] = turns
        return np.where(last[places] == turns, g[index], 0)

    return lambda: setitem.on(g, 0, index=index), to_value


@op(saves="")
def concatenate(*arrays: Array, axis: int = 0) -> Array:
    """The arrays one behind the other along ``axis``."""
    return np.concatenate(arrays, axis)


@concatenate.gradient
def concatenate_gradient(g: Any, out: Any, *arrays: Any, axis: int = 0) -> Any:
    ends = np.cumsum([a.shape[axis] for a in arrays])
    before = (slice(None),) * (axis % g.ndim)
    return [g[(*before, slice(end - a.shape[axis], end))] for a, end in zip(arrays, ends.tolist(), strict=True)]


@op(saves="")
def stack(*arrays: Array, axis: int = 0) -> Array:
    """The arrays, all of one shape, along a new axis."""
    return np.stack(arrays, axis)


@stack.gradient
def stack_gradient(g: Any, out: Any, *arrays: Any, axis: int = 0) -> Any:
    before = (slice(None),) * (axis % g.ndim)
    return [g[(*before, i)] for i in range(len(arrays))]


# NumPy's own names, with NumPy's order of arguments.
NUMPY[np.reshape] = lambda x, shape: reshape(x, shape=shape)
NUMPY[np.ravel] = lambda x: reshape(x, shape=-1)
NUMPY[np.transpose] = lambda x, axes=None: transpose(x, axes=axes)
NUMPY[np.swapaxes] = lambda x, axis1, axis2: swapaxes(x, axis1=axis1, axis2=axis2)
NUMPY[np.expand_dims] = lambda x, axis: expand_dims(x, axis=axis)
NUMPY[np.squeeze] = lambda x, axis=None: squeeze(x, axis=axis)
NUMPY[np.broadcast_to] = lambda x, shape: broadcast_to(x, shape=shape)
NUMPY[np.stack] = lambda arrays, axis=0: stack(*arrays, axis=axis)


@implements(np.concatenate)
def _concatenate(arrays: Sequence[Operand], axis: int | None = 0) -> Tensor:
    if axis is None:
        return concatenate(*[reshape(a, shape=-1) for a in arrays])
    return concatenate(*arrays, axis=axis)


@implements(np.take)
def _take(x: Tensor, indices: Operand, axis: int | None = None) -> Tensor:
    if axis is None:
        return reshape(x, shape=-1)[unwrap(indices, copy=True)]
    before = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
    return x[(*(slice(None),) * before, unwrap(indices, copy=True))]
