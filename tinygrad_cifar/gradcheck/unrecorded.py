"""Does the record tell all? f itself, called with changed parameters, must do what the record does.

It does not where f takes a value out of the graph (``.data``, ``.numpy()``, ``.detach()``), or where a rule does so in
its own second derivative. Then the gradient lacks a part, although every op's rule is right. A mask made of values,
such as ``x * (x.data > 0)``, is none of these: it jumps, and between its jumps its slope is zero.
"""

from collections.abc import Callable, Iterator

import numpy as np

from tinygrad_cifar.gradcheck.numeric import scale_of
from tinygrad_cifar.gradcheck.replay import Program, record
from tinygrad_cifar.gradcheck.state import preserved
from tinygrad_cifar.tensor import Array, Tensor


def unrecorded(f: Callable[[], Tensor], parameters: dict[str, Tensor], program: Program) -> dict[str, str]:
    """The parameters on which f depends in ways that the program, in f's own precision, does not show.

    With each name goes the op that uses a value which moves with the parameter as if it were constant; "" if unknown.
    """
    before = program.values[program.out]
    start, _ = _called(f, parameters, program.leaves)
    if not np.array_equal(start, _called(f, parameters, program.leaves)[0]):
        return {}  # f draws from a generator that is out of reach: nothing can be compared
    slack = 64 * np.finfo(before.dtype).eps * np.abs(before).max(initial=0) + np.abs(start - before).max(initial=0)

    def gap(i: int, step: float) -> tuple[float, float, Program]:
        """How far f and the record part when parameter i moves, how far f moves at all, and its record there."""
        leaves = list(program.leaves)
        x = leaves[i]
        direction = np.random.default_rng(i).standard_normal(x.shape)
        leaves[i] = x + (step * scale_of(x) * direction).astype(x.dtype)
        value, there = _called(f, parameters, leaves)
        told, done = program.run(leaves)[program.out] - before, value - start
        return float(np.abs(told - done).max(initial=0)), float(np.abs(done).max(initial=0)), there

    step = 1e-5 if before.dtype == np.float64 else 1e-2
    hidden = {}
    for i, name in enumerate(parameters):
        far, size, there = gap(i, step)
        if far > 0.01 * size + slack and gap(i, step / 8)[0] < far / 2:  # a jump of f stays, a slope shrinks
            changes = list(_changes(program, there))
            moved = [label for label, jumped in changes if not jumped]
            if moved or not changes:  # else masks that jumped on the way explain it
                hidden[name] = moved[0] if moved else ""
    return hidden


def _changes(here: Program, there: Program) -> Iterator[tuple[str, bool]]:
    """The ops whose constants differ between two records, and whether they jumped, as masks and indices do."""
    for one, other in zip(here.steps, there.steps, strict=False):
        settings = [k for k in one.kwargs if not k.startswith("running_")]  # averages are f's own business
        pairs = [(one.kwargs[k], other.kwargs.get(k)) for k in settings]
        for a, b in [*pairs, *zip(one.constants, other.constants, strict=False)]:
            if isinstance(a, np.ndarray | float) and not np.array_equal(a, b):
                a, b = np.asarray(a), np.asarray(b)
                smooth = a.dtype.kind == b.dtype.kind == "f" and a.shape == b.shape
                near = smooth and (a != b) & (np.abs(a - b) < 0.5 * np.maximum(np.abs(a), np.abs(b)))
                yield one.label, not np.any(near)


def _called(f: Callable[[], Tensor], parameters: dict[str, Tensor], leaves: list[Array]) -> tuple[Array, Program]:
    """f's value at other values of the parameters, and its record there."""
    with preserved(f, parameters):
        for t, value in zip(parameters.values(), leaves, strict=True):
            t.data = value.copy()  # f may change it
        program, result = record(f, parameters)
        return result.data, program
