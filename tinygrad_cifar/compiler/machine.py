"""A machine for chains of elementwise operations, compiled by numba: one call in place of a NumPy call for each.

What a small network computes beside its matrix products are a few thousand numbers at a time, for which a NumPy call
takes longer to begin than to compute. The machine walks over a table that has a row for each operation, with the
addresses of its operands. It does what NumPy does, with one rounding for each operation, so that the results are the
same, bit for bit. It gives no NumPy warnings: an overflow shows as an infinite number.
"""

import functools
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from tinygrad_cifar import loops

CHUNK = 2048  # elements: what one operation has computed is still in the first cache when the next one reads it
SETTINGS: Any = {"error_model": "numpy", "nogil": True}  # NumPy's division, which does not raise
ADD, SUBTRACT, MULTIPLY, DIVIDE, MAXIMUM, MINIMUM, SQRT, NEGATIVE, GREATER, COPY, COPY_BOOLS = range(11)
_BYTE = np.uint8(0)


def _pointer(context: Any, address: Any, like: Any) -> Any:
    """An address as a pointer to numbers like ``like``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(address, like), generate


_at: Any = intrinsic(_pointer)


def _loop(function: Any, turns: bool = False) -> Any:
    """``out[i] = function(a[i], b[i])``; an operand with step 0 is a number. ``turns`` tells whether the first may be
    one, or the second the result's memory.

    Where an operand is the result's memory, the loop has one name for both: of two names LLVM would have to assume that
    they overlap otherwise, and would do one element after the other.
    """
    function = njit(**SETTINGS)(function)

    @njit(inline="always", **SETTINGS)
    def arrays(out: Any, a: Any, b: Any, n: int) -> None:
        for i in range(n):
            out[i] = function(a[i], b[i])

    @njit(inline="always", **SETTINGS)
    def array_and_number(out: Any, a: Any, y: Any, n: int) -> None:
        for i in range(n):
            out[i] = function(a[i], y)

    @njit(inline="always", **SETTINGS)
    def number_and_array(out: Any, x: Any, b: Any, n: int) -> None:
        for i in range(n):
            out[i] = function(x, b[i])

    @njit(**SETTINGS)
    def loop(out: Any, a: Any, b: Any, n: int, a_step: int, b_step: int, own: int) -> None:
        if b_step == 0 and own == 1:
            array_and_number(out, out, b[0], n)
        elif b_step == 0:
            array_and_number(out, a, b[0], n)
        elif own == 1:
            arrays(out, out, b, n)
        elif a_step and not own:
            arrays(out, a, b, n)
        elif turns and a_step:
            arrays(out, a, out, n)
        elif turns and own:
            number_and_array(out, a[0], out, n)
        elif turns:
            number_and_array(out, a[0], b, n)

    return loop


_add = _loop(lambda x, y: x + y)
_subtract = _loop(lambda x, y: x - y, turns=True)
_multiply = _loop(lambda x, y: x * y)
_divide = _loop(lambda x, y: x / y, turns=True)
_maximum = _loop(lambda x, y: x if x > y or x != x else y)  # as NumPy: a NaN wins, of two zeros the second
_minimum = _loop(lambda x, y: x if x < y or x != x else y)
_greater = _loop(lambda x, y: x > y)
_sqrt = _loop(lambda x, _: np.sqrt(x))
_negative = _loop(lambda x, _: -x)


@njit(**SETTINGS)
def _copy(out: Any, a: Any, n: int, length: int, row_step: int, step: int) -> None:
    """Rows of ``length``, whose elements lie ``step`` apart, one after the other into ``out``."""
    for row in range(n // length):
        to, source = out[row * length : (row + 1) * length], a[row * row_step :]
        if step == 1:
            for i in range(length):
                to[i] = source[i]
        elif step == 0:
            to[:] = source[0]
        else:
            for i in range(length):
                to[i] = source[i * step]


@njit(**SETTINGS)
def _operate(row: Any, start: int, n: int, size: int, like: Any) -> None:
    """``n`` elements of one operation, from ``start`` on."""
    operation, _, out_at, a_at, b_at, a_step, b_step, row_step, _ = row
    if operation >= COPY:
        reach = (n - 1) * (a_step + row_step) + 1  # no shorter than what is read
        out = carray(_at(out_at + start * size, like), n)
        if operation == COPY:
            _copy(out, carray(_at(a_at + start * size * a_step, like), reach), n, min(b_step, n), row_step, a_step)
        else:
            _copy(out, carray(_at(a_at + start * a_step, _BYTE), reach), n, min(b_step, n), row_step, a_step)
        return
    a = carray(_at(a_at + start * size * a_step, like), n)
    b = carray(_at(b_at + start * size * b_step, like), n)
    if operation == GREATER:
        _greater(carray(_at(out_at + start, _BYTE), n), a, b, n, a_step, b_step, 0)
        return
    out = carray(_at(out_at + start * size, like), n)
    own = 1 if out_at == a_at else 2 if out_at == b_at else 0
    if operation == ADD:
        _add(out, a, b, n, a_step, b_step, own)
    elif operation == SUBTRACT:
        _subtract(out, a, b, n, a_step, b_step, own)
    elif operation == MULTIPLY:
        _multiply(out, a, b, n, a_step, b_step, own)
    elif operation == DIVIDE:
        _divide(out, a, b, n, a_step, b_step, own)
    elif operation == MAXIMUM:
        _maximum(out, a, b, n, a_step, b_step, own)
    elif operation == MINIMUM:
        _minimum(out, a, b, n, a_step, b_step, own)
    elif operation == SQRT:
        _sqrt(out, a, b, n, a_step, b_step, own)
    else:
        _negative(out, a, b, n, a_step, b_step, own)


@functools.cache
def run_for(real: type[np.floating[Any]]) -> Any:
    """``run(table)`` for one float type: compiled for each alone, and for some seconds, at its first use on a computer.

    A row of the table has: the operation; elements; the addresses of the result and of two operands; how many elements
    the operands move on for each of the result, 1 or 0; 0; how many rows from here on are done together, a chunk of all
    of them at a time. Of a copy, whose rows may be repeated or lie apart, the sixth to eighth are: its step within a
    row, the length of a row, and the step from row to row.
    """
    like, size = real(0), np.dtype(real).itemsize

    def run(table: NDArray[np.int64]) -> None:
        first = 0
        while first < len(table):
            n, together = table[first, 1], table[first, 8]
            chunk = CHUNK if together > 1 else n
            for start in range(0, n, chunk):
                for i in range(first, first + together):
                    _operate(table[i], start, min(chunk, n - start), size, like)
            first += together

    run.__qualname__ = f"run_{real.__name__}"  # the name of a file in numba's cache
    return loops.compiled(run, ["void(i8[:, ::1])"])
