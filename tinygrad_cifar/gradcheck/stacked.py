"""Many perturbed copies of a computation at once, from the changed leaf on.

A *stacked* value carries K copies along a new leading axis; everything that the change does not reach stays a plain
array. Most ops run on stacked arrays by their own forward, with axes shifted by one. What ``ways.py`` does not list is
run copy by copy, which is slow and always right.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinygrad_cifar.gradcheck.replay import Program, Step
from tinygrad_cifar.gradcheck.sparse import Sparse, dense, shortcut
from tinygrad_cifar.gradcheck.ways import STACKED, count
from tinygrad_cifar.operators import OPS
from tinygrad_cifar.tensor import Array

Watch = Callable[[Step, list[Any], list[bool], Any], None]


def run(program: Program, leaf: int, change: Any, steps: Iterable[Step], watch: Watch | None = None) -> Array | None:
    """The result for each copy, shape (K, *result's); None if it does not depend on the leaf.

    Args:
        program: what to run.
        leaf: the slot of the leaf that changes.
        change: its new value: a Sparse, or an array with K copies along axis 0, real or complex.
        steps: ``program.downstream(leaf)``.
        watch: called after each step with (step, arguments, which of them are stacked, result); these may be Sparse.
    """
    copies: dict[int, Any] = {leaf: change}
    for step in steps:
        flags = [s in copies for s in step.sources]
        arguments = step.arguments(program.values)
        arguments = [copies.get(-1 if s is None else s, a) for s, a in zip(step.sources, arguments, strict=True)]
        out = copies[step.slot] = forward(step, arguments, flags, program.values[step.slot])
        if isinstance(out, np.ndarray) and out.dtype.kind == "c" and out.flags.writeable:
            # A complex step changes the real part by rounding only, which chaos would amplify.
            out.real = program.values[step.slot]
        if watch:
            watch(step, arguments, flags, copies[step.slot])
    return dense(copies[program.out]) if program.out in copies else None


def forward(step: Step, arguments: list[Any], flags: list[bool], base: Array) -> Any:
    """One step on stacked arguments; ``base`` is its value at the unchanged ones."""
    known = is_built_in(step)
    if any(isinstance(a, Sparse) for a in arguments):
        pure = all(isinstance(a, Sparse) for a, stacked in zip(arguments, flags, strict=True) if stacked)
        if known and pure and (result := shortcut(step, arguments, base)) is not None:
            return result
        arguments = [dense(a) for a in arguments]
    way = STACKED.get(step.op.name) if known else None
    result = way(step, arguments, flags) if way else None
    return one_by_one(step, arguments, flags) if result is None else result


def is_built_in(step: Step) -> bool:
    """Whether the step's forward is the registry's own: a user's op may share the name, not the function."""
    own = OPS.get(step.op.name)
    return own is not None and own.forward is step.op.forward


def one_by_one(step: Step, arguments: list[Any], flags: list[bool]) -> Array:
    dtype = np.result_type(*[a for a, stacked in zip(arguments, flags, strict=True) if stacked])
    if dtype.kind == "c":
        arguments = [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arguments]
    each = list(zip(arguments, flags, strict=True))
    copies = [[a[k, ...] if stacked else a for a, stacked in each] for k in range(count(arguments, flags))]
    return np.stack([step.forward(copy) for copy in copies])


# Where the complex step holds: functions that are analytic, on each side of their kinks, as they are written.

ANALYTIC = (
    {*STACKED, "scatter", "setitem", "concatenate", "stack", "swapaxes", "expand_dims", "squeeze", "einsum"}
    - {"gelu", "erf"}
)  # fmt: skip


def is_analytic(steps: Iterable[Step]) -> bool:
    """Whether a complex step goes through all of ``steps``: only the registry's own ops, and known to be analytic."""
    return all(is_built_in(s) and s.op.name in ANALYTIC for s in steps)
