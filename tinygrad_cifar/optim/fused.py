"""Updates as one loop each, compiled by numba where that is installed: ``pip install 'tinygrad-cifar[fast]'``.

NumPy walks over the arrays once for every operation of an update, a compiled loop once for all of them. It does the
same operations in the same order, none of them contracted or reassociated, so the weights are the same, bit for bit;
``update`` in ``algorithms`` stays what one reads, and what runs without numba. The loop gives no NumPy warnings: an
overflow shows as an infinite weight. Only Adam has one, since no other update takes 15 % of a training step.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_cifar.tensor import Array


class Kernel:
    """A compiled loop ``kernel(w, g, *state, *numbers)`` over vectors, which changes ``w`` and the state in place.

    Like NumPy's functions, it hands the call to arrays of a class of their own (``__array_function__``), so that a
    compiler can record it; ``changes`` tells which arguments are written.
    """

    def __init__(self, loop: Callable[..., None], states: int, numbers: int):
        self.__name__ = loop.__name__
        self.changes = (0, *range(2, 2 + states))
        self._loop = _compiled(loop, states, numbers)

    def __call__(self, w: Array, g: Array, *others: Any) -> None:
        if type(w) is np.ndarray:
            self._loop(w, np.ascontiguousarray(g), *others)
        else:
            w.__array_function__(self, (type(w),), (w, g, *others), {})


@functools.cache
def adam_kernel() -> Kernel | None:
    """Adam's update, or None where numba is not installed. The first call on a machine compiles, for some seconds."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):  # it is there, and does not go with this NumPy
            warnings.warn(f"Adam's update runs without numba, with the same results: {error}", stacklevel=3)
        return None
    return Kernel(adam, states=2, numbers=4)


def adam(w: Array, g: Array, m: Array, v: Array, beta1: float, beta2: float, step_size: float, eps_hat: float) -> None:
    """``Adam.update`` for one element after the other."""
    number = w.dtype.type  # as NumPy does it: Python numbers take on the arrays' dtype
    beta1, beta2, step_size, eps_hat = number(beta1), number(beta2), number(step_size), number(eps_hat)
    for i in range(w.size):
        m[i] = m[i] * beta1 + g[i]
        v[i] = v[i] * beta2 + g[i] * g[i]
        w[i] -= m[i] / (np.sqrt(v[i]) + eps_hat) * step_size


def _compiled(loop: Callable[..., None], states: int, numbers: int) -> Any:
    """``loop`` for float32 and float64, from numba's cache on disk where there is one.

    Both at once and in this order, because numba numbers the files of its cache in the order of compilation, and
    processes that begin at the same time should agree on it.
    """
    from numba import njit, types

    signatures = []
    for dtype in (types.float32, types.float64):
        vector, constant = types.Array(dtype, 1, "C"), types.Array(dtype, 1, "C", readonly=True)
        signatures.append(types.void(vector, constant, *[vector] * states, *[types.float64] * numbers))
    # NumPy's division, which does not raise; the interpreter's lock is released, as in NumPy's own loops.
    settings: dict[str, Any] = {"error_model": "numpy", "nogil": True}
    try:
        return njit(signatures, cache=True, **settings)(loop)
    except RuntimeError:  # there is no folder that a cache could be written to
        return njit(signatures, **settings)(loop)
