"""Loops compiled by numba, where that is installed: ``pip install 'tinygrad-cifar[fast]'``.

NumPy walks over the arrays once for every operation, a compiled loop once for all of them. It does the same
operations in the same order, none of them contracted or reassociated, so the results are the same, bit for bit. The
NumPy that a loop stands for is what one reads, and what runs without numba. A loop gives no NumPy warnings: an
overflow shows as an infinite weight. docs/performance.md has what each is worth, and what was left to NumPy.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar.tensor import Array

Loop = Callable[..., None]


class Kernel:
    """A compiled loop over C-contiguous, writeable arrays, float32 or float64. It changes some of them in place.

    Like NumPy's functions, it hands the call to arrays of a class of their own (``__array_function__``), so that a
    compiler can record it; ``changes`` tells which arguments are written.

    Args:
        loop: the loop in Python, which returns nothing.
        changes: the positions of the arguments that it writes.
        types: numba's types of its arguments, with T for the float type.
    """

    def __init__(self, loop: Loop, changes: tuple[int, ...], types: str):
        self.__name__, self.changes, self._python = loop.__name__, changes, loop
        self._loop = compiled(loop, [f"void({types.replace('T', real)})" for real in ("f4", "f8")])

    @staticmethod
    def takes(array: Array) -> bool:
        """Whether an array lies in memory as the loop wants it, and is float32 or float64."""
        return array.dtype.char in "fd" and array.flags.carray

    def __call__(self, *arguments: Any) -> None:
        first = arguments[0]
        if type(first) is np.ndarray:
            self._loop(*arguments)
        else:
            first.__array_function__(self, (type(first),), arguments, {})

    def __reduce__(self) -> Any:
        """A copy is the loop itself; a pickle asks for it where it is read, and gets None where numba is missing."""
        return kernel, (self._python,)


def adam(w: Array, g: Array, m: Array, v: Array, beta1: float, beta2: float, step_size: float, eps_hat: float) -> None:
    """``Adam.update`` for one element after the other."""
    number = w.dtype.type  # as NumPy does it: Python numbers take on the arrays' dtype
    beta1, beta2, step_size, eps_hat = number(beta1), number(beta2), number(step_size), number(eps_hat)
    for i in range(w.size):
        m[i] = m[i] * beta1 + g[i]
        v[i] = v[i] * beta2 + g[i] * g[i]
        w[i] -= m[i] / (np.sqrt(v[i]) + eps_hat) * step_size


def sgd(w: Array, g: Array, lr: float) -> None:
    """``SGD.update`` without momentum."""
    lr = w.dtype.type(lr)
    for i in range(w.size):
        w[i] -= g[i] * lr


def standardise(out: Array, images: NDArray[np.uint8], chosen: NDArray[np.int64], scale: Array, shift: Array) -> None:
    """``Standardiser.transform`` of the chosen images, which must exist, into ``out``.

    A byte of each cache line is read first: memory then fetches all rows together, where it would wait for each.
    """
    touched = 0
    for i in range(chosen.size):
        for j in range(0, scale.size, 64):
            touched += images[chosen[i], j]
    if chosen.size:
        out[0, 0] = touched  # so that the compiler does not leave it out
    for i in range(chosen.size):
        pixels = images[chosen[i]]
        for j in range(scale.size):
            out[i, j] = out.dtype.type(pixels[j]) * scale[j] + shift[j]


SIGNATURES: dict[Loop, tuple[tuple[int, ...], str]] = {
    adam: ((0, 2, 3), "T[::1], T[::1], T[::1], T[::1], f8, f8, f8, f8"),
    sgd: ((0,), "T[::1], T[::1], f8"),
    standardise: ((0,), "T[:, ::1], u1[:, ::1], i8[::1], T[::1], T[::1]"),
}
"""What ``Kernel`` is told of each loop."""


@functools.cache
def kernel(loop: Loop) -> Kernel | None:
    """One of the loops above, compiled; None without numba. The first call on a machine compiles, for some seconds."""
    return Kernel(loop, *SIGNATURES[loop]) if numba_works() else None


def numba_works() -> bool:
    """Whether numba can be imported; it takes half a second."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):  # it is there, and does not go with this NumPy
            warnings.warn(f"numba cannot be used; NumPy gives the same results: {error}", stacklevel=4)
        return False
    return True


def compiled(loop: Loop, signatures: list[str]) -> Any:
    """``loop`` for these signatures, from numba's cache on disk where there is one.

    All at once and always in the same order, because numba numbers the files of its cache in the order of compilation,
    and processes that begin at the same time should agree on it.
    """
    from numba import njit

    # NumPy's division, which does not raise; the interpreter's lock is released, as in NumPy's own loops.
    settings: dict[str, Any] = {"error_model": "numpy", "nogil": True}
    try:
        return njit(signatures, cache=True, **settings)(loop)
    except RuntimeError:  # there is no folder that a cache could be written to
        return njit(signatures, **settings)(loop)
