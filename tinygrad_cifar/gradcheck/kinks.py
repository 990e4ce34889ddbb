"""Where the ops have kinks: how far each unit is from its own."""

from typing import Any

import numpy as np

from tinygrad_cifar.gradcheck.replay import Program, Step
from tinygrad_cifar.gradcheck.stacked import is_built_in
from tinygrad_cifar.gradcheck.ways import aligned, hinge_excess, shifted_axes
from tinygrad_cifar.tensor import Array


def margins(step: Step, arguments: list[Any], flags: list[bool]) -> Array | None:
    """Per unit the signed distance from its kink (stacked if an argument is); None for an op without kinks."""
    name = step.op.name
    if name in {"relu", "leaky_relu", "abs"}:
        return arguments[0]
    if name in {"maximum", "minimum"}:
        a, b = aligned(arguments, flags)
        return np.asarray(a - b)
    if name == "clip":
        x, low, high = arguments[0], step.kwargs.get("min"), step.kwargs.get("max")
        below = np.ones_like(x) if low is None else x - low
        above = np.ones_like(x) if high is None else high - x
        return np.where(np.abs(below) < np.abs(above), below, above)
    if name == "hinge":
        excess = hinge_excess(arguments[0], **step.kwargs)
        rows = np.arange(len(step.kwargs["labels"]))
        excess[..., rows, step.kwargs["labels"]] = 1
        return excess
    if name in {"max", "min"}:
        return _leads(step, arguments[0], flags[0])
    return None


def _leads(step: Step, x: Array, stacked: bool) -> Array:
    """How far each entry leads the best of the others: one positive per reduction, zeros at a tie."""
    x = x.real if step.op.name == "max" else -x.real
    axes = shifted_axes(step.kwargs.get("axis"), x.ndim, stacked)
    order = [*[a for a in range(x.ndim) if a not in axes], *axes]
    rows = x.transpose(order)
    flat = rows.reshape(*rows.shape[: x.ndim - len(axes)], -1)
    if flat.shape[-1] < 2:
        return np.ones_like(x)
    top = np.sort(flat, -1)[..., -2:]
    leads = flat - np.where(flat == top[..., 1:], top[..., :1], top[..., 1:])
    return leads.reshape(rows.shape).transpose(np.argsort(order))


def has_ties(program: Program) -> bool:
    """Whether an op that chooses among numbers, or one that is not known, finds two equal ones."""
    for step in program.steps:
        arguments = step.arguments(program.values)
        if not is_built_in(step):
            if any(len(np.unique(a)) < np.size(a) for a in arguments):
                return True
        elif step.op.name in {"maximum", "minimum", "max", "min"}:
            found = margins(step, arguments, [False] * len(arguments))
            if found is not None and (found == 0).any():
                return True
    return False
