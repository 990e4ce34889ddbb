"""Fusion: neighbouring elementwise operations become one call of the ``machine``, where numba is installed."""

import functools
import importlib
import itertools
import math
import operator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar import loops
from tinygrad_cifar.compiler.trace import COPIES

_NAMES: dict[Any, str] = {
    np.add: "ADD", np.subtract: "SUBTRACT", np.multiply: "MULTIPLY", np.divide: "DIVIDE", np.maximum: "MAXIMUM",
    np.minimum: "MINIMUM", np.sqrt: "SQRT", np.negative: "NEGATIVE", np.greater: "GREATER",
}  # fmt: skip
REAL = np.dtype(np.float32), np.dtype(np.float64)


class Place(NamedTuple):
    """An array that stays where it is: its address, and that of its end where it is dense; strides in elements."""

    start: int
    stop: int
    size: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def in_rows(self) -> bool:
        """Whether it lies row by row, without gaps."""
        return self.steps == _dense(self.shape)

    @property
    def in_columns(self) -> bool:
        return self.steps[::-1] == _dense(self.shape[::-1])


def place(address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]) -> Place | None:
    """The place of an array, or None where it is not aligned."""
    item, size = dtype.itemsize, math.prod(shape)
    if address % item or any([stride % item for stride in strides]):
        return None
    return Place(address, address + size * item, size, shape, tuple([stride // item for stride in strides]), dtype)


class Row(NamedTuple):
    """An operation as the machine takes it: a row of its table, the float type, and where it writes and reads."""

    numbers: list[int]
    real: type[np.floating[Any]]
    out: Place
    operands: tuple[Place, ...]


@functools.cache
def machine() -> Any:
    """The module ``machine``, or None without numba; the first call on a computer compiles it, for some seconds."""
    return importlib.import_module("tinygrad_cifar.compiler.machine") if loops.numba_works() else None


def knows(function: Any) -> bool:
    """Whether there is a machine, and it does such operations."""
    return (function in _NAMES or function in COPIES) and machine() is not None


def row(function: Any, out: Place, operands: list[Place]) -> Row | None:
    """An operation that the machine ``knows`` as a row, or None where it cannot do it with these arrays."""
    if not out.size or not (out.in_rows or out.in_columns):
        return None
    if function in COPIES:
        return _copy(out, operands[0])
    a, b = operands[0], operands[-1]
    if function in (np.add, np.multiply) and _turned(out, a, b):
        a, b = b, a
    real = a.dtype if function is np.greater else out.dtype
    if real not in REAL or a.dtype != real or b.dtype != real or not (_fits(a, out) and _fits(b, out)):
        return None
    if function not in (np.subtract, np.divide) and _turned(out, a, b):
        return None
    b_step = int(b.size > 1 and len(operands) > 1)
    numbers = [getattr(machine(), _NAMES[function]), out.size, out.start, a.start, b.start, int(a.size > 1), b_step]
    return Row([*numbers, 0, 1], real.type, out, (a, b))


@functools.lru_cache(maxsize=1024)
def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The steps of an array that lies row by row, without gaps."""
    return tuple(itertools.accumulate(shape[:0:-1], operator.mul, initial=1))[::-1] if shape else ()


def _turned(out: Place, a: Place, b: Place) -> bool:
    """Whether the first operand alone is a number, or the second alone has the result's place: the machine has loops
    for this where it matters which one is the first."""
    return a.size < b.size or b.start == out.start != a.start


def _fits(x: Place, out: Place) -> bool:
    """Whether an operand is a number, or lies as the result does, in the same place or elsewhere."""
    if x.size > 1 and (x.shape != out.shape or x.steps != out.steps):
        return False
    return _apart(x, out) or (x.start == out.start and x.stop == out.stop and x.dtype == out.dtype)


def _apart(x: Place, y: Place) -> bool:
    """Whether two dense arrays do not overlap."""
    return x.stop <= y.start or y.stop <= x.start


def _copy(out: Place, a: Place) -> Row | None:
    if out.dtype not in REAL or a.dtype not in (out.dtype, np.dtype(bool)) or min(a.steps, default=0) < 0:
        return None
    reach = a.start + (1 + sum([(n - 1) * step for n, step in zip(a.shape, a.steps, strict=True)])) * a.dtype.itemsize
    if a.start < out.stop and out.start < reach:
        return None
    # Broadcast, and its axes in the order in which the result's lie in memory, without those of length 1.
    repeated = [0 if n == 1 else step for n, step in zip(a.shape, a.steps, strict=True)]
    axes = list(zip(out.shape, [0] * (len(out.shape) - len(a.shape)) + repeated, strict=True))
    axes = [axis for axis in (axes if out.in_rows else axes[::-1]) if axis[0] > 1]
    if tuple([step for _, step in axes]) == _dense(tuple([n for n, _ in axes])):
        axes = [(out.size, 1)]
    if len(axes) > 2:
        return None
    (_, row_step), (length, step) = [(1, 0), *axes][-2:] if axes else [(1, 0), (1, 1)]
    operation = machine().COPY if a.dtype == out.dtype else machine().COPY_BOOLS
    return Row([operation, out.size, out.start, a.start, 0, step, length, row_step, 1], out.dtype.type, out, (a,))


def table(rows: list[Row]) -> NDArray[np.int64]:
    """The rows as a table. Those of a chain, of equally many elements, are done a chunk at a time."""
    found = np.array([row.numbers for row in rows], np.int64)
    first = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or not _joins(rows[i], rows[first:i]):
            found[first, -1] = i - first
            first = i
    return found


def _joins(row: Row, chain: list[Row]) -> bool:
    """Whether a chunk of this operation may be done before the next chunk of those of a chain: each element of memory
    belongs to the same element of the result in all of them."""
    n = row.numbers[1]
    if n <= machine().CHUNK or n != chain[0].numbers[1] or not (_plain(row) and _plain(chain[0])):
        return False
    return all(
        _apart(place, written) or (place.start, place.stop) == (written.start, written.stop)
        for other in chain
        for written, places in ((row.out, (other.out, *other.operands)), (other.out, row.operands))
        for place in places
    )


def _plain(row: Row) -> bool:
    """Whether it is no copy, or one from end to end."""
    operation, n, *_, step, length, _, _ = row.numbers
    return operation not in (machine().COPY, machine().COPY_BOOLS) or (length == n and step == 1)
