"""Does the record tell all? f itself, called with changed parameters, must do what the record does.

It does not where f takes a value out of the graph (``.data``, ``.numpy()``, ``.detach()``), or where a rule does so in
its own second derivative. Then the gradient lacks a part, although every op's rule is right.
"""

from collections.abc import Callable

import numpy as np

from tinygrad_cifar.gradcheck.numeric import scale_of
from tinygrad_cifar.gradcheck.replay import Program
from tinygrad_cifar.gradcheck.state import preserved
from tinygrad_cifar.tensor import Array, Tensor


def unrecorded(f: Callable[[], Tensor], parameters: dict[str, Tensor], program: Program) -> list[str]:
    """The names of the parameters on which f depends in ways that the program, in f's own precision, does not show."""
    before = program.values[program.out]
    start = _call(f, parameters, program.leaves)
    if not np.array_equal(start, _call(f, parameters, program.leaves)):
        return []  # f draws from a generator that is out of reach: nothing can be compared
    slack = 64 * np.finfo(before.dtype).eps * np.abs(before).max(initial=0) + np.abs(start - before).max(initial=0)

    def gap(i: int, step: float) -> tuple[float, float]:
        """How far f and the record part when parameter i moves, and how far f moves at all."""
        leaves = list(program.leaves)
        x = leaves[i]
        direction = np.random.default_rng(i).standard_normal(x.shape)
        leaves[i] = x + (step * scale_of(x) * direction).astype(x.dtype)
        told, done = program.run(leaves)[program.out] - before, _call(f, parameters, leaves) - start
        return float(np.abs(told - done).max(initial=0)), float(np.abs(done).max(initial=0))

    step = 1e-5 if before.dtype == np.float64 else 1e-2
    hidden = []
    for i, name in enumerate(parameters):
        far, size = gap(i, step)
        if far > 0.01 * size + slack and gap(i, step / 8)[0] < far / 2:  # a jump of f stays, a slope shrinks
            hidden.append(name)
    return hidden


def _call(f: Callable[[], Tensor], parameters: dict[str, Tensor], leaves: list[Array]) -> Array:
    """f's value at other values of the parameters."""
    with preserved(f, parameters):
        for t, value in zip(parameters.values(), leaves, strict=True):
            t.data = value
        return f().data
