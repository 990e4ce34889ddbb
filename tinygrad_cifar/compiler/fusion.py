"""Fusion: neighbouring elementwise operations become one call of the ``machine``, where numba is installed."""

import functools
import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from tinygrad_cifar import loops
from tinygrad_cifar.compiler.trace import COPIES
from tinygrad_cifar.tensor import Array

_NAMES: dict[Any, str] = {
    np.add: "ADD", np.subtract: "SUBTRACT", np.multiply: "MULTIPLY", np.divide: "DIVIDE", np.maximum: "MAXIMUM",
    np.minimum: "MINIMUM", np.sqrt: "SQRT", np.negative: "NEGATIVE", np.greater: "GREATER",
}  # fmt: skip
_REAL = np.dtype(np.float32), np.dtype(np.float64)


class Row(NamedTuple):
    """An operation as the machine takes it: a row of its table, the float type, and where it writes and reads."""

    numbers: list[int]
    real: type[np.floating[Any]]
    written: tuple[int, int]
    read: list[tuple[int, int]]


@functools.cache
def machine() -> Any:
    """The module ``machine``, or None without numba; the first call on a computer compiles it, for some seconds."""
    return importlib.import_module("tinygrad_cifar.compiler.machine") if loops.numba_works() else None


def row(function: Any, out: Array, operands: list[Array]) -> Row | None:
    """An operation on arrays that stay where they are; None where the machine cannot do it."""
    if not out.flags.forc or not out.size or not all(x.flags.aligned for x in (out, *operands)):
        return None
    if function in COPIES:
        return _copy(out, operands[0])
    a, b = operands[0], operands[-1]
    if function in (np.add, np.multiply) and _turned(out, a, b):
        a, b = b, a
    dtypes = (out.dtype if function is not np.greater else a.dtype), a.dtype, b.dtype
    if (
        function not in _NAMES
        or dtypes[0] not in _REAL
        or len(set(dtypes)) > 1
        or not (_fits(a, out) and _fits(b, out))
    ):
        return None
    if function not in (np.subtract, np.divide) and _turned(out, a, b):
        return None
    steps = int(a.size > 1), int(b.size > 1 and len(operands) > 1)
    return _row(_NAMES[function], [out.size, *map(_address, (out, a, b)), *steps, 0, 1], out, a, b)


def _turned(out: Array, a: Array, b: Array) -> bool:
    """Whether the first operand alone is a number, or the second alone has the result's place: the machine has loops
    for this where it matters which one is the first."""
    return a.size < b.size or _address(b) == _address(out) != _address(a)


def _row(name: str, numbers: list[int], out: Array, *operands: Array) -> Row:
    real = (operands[0] if out.dtype == bool else out).dtype.type
    return Row([getattr(machine(), name), *numbers], real, byte_bounds(out), [byte_bounds(x) for x in operands])


def _fits(x: Array, out: Array) -> bool:
    """Whether an operand is a number, or lies as the result does, in the same place or elsewhere."""
    if x.size > 1 and (x.shape != out.shape or _steps(x) != _steps(out)):
        return False
    return (x.dtype == out.dtype and byte_bounds(x) == byte_bounds(out)) or not np.may_share_memory(x, out)


def _copy(out: Array, a: Array) -> Row | None:
    if out.dtype not in _REAL or a.dtype not in (out.dtype, np.dtype(bool)) or np.may_share_memory(out, a):
        return None
    source = np.broadcast_to(a, out.shape)
    source = (source if out.flags.c_contiguous else source.T).squeeze()
    steps, length = _steps(source), source.shape[-1] if source.ndim else 1
    if source.flags.c_contiguous:
        steps, length = (0, 1), source.size
    elif source.ndim > 2 or min(steps) < 0:
        return None
    row_step, step = (0, *steps)[-2:]
    return _row("COPY_BOOLS" if a.dtype == bool else "COPY",
                [out.size, _address(out), _address(a), 0, step, length, row_step, 1], out, a)  # fmt: skip


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
        place == written or place[1] <= written[0] or written[1] <= place[0]
        for other in chain
        for written, places in ((row.written, [other.written, *other.read]), (other.written, row.read))
        for place in places
    )


def _plain(row: Row) -> bool:
    """Whether it is no copy, or one from end to end."""
    operation, n, *_, step, length, _, _ = row.numbers
    return operation not in (machine().COPY, machine().COPY_BOOLS) or (length == n and step == 1)


def _steps(x: Array) -> tuple[int, ...]:
    """The strides in elements, of which an aligned array has whole ones."""
    return tuple([stride // x.itemsize for stride in x.strides])


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
