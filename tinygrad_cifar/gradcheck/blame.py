"""Who is to blame: every recorded op checked alone, with its actual inputs and a random gradient from above."""

import ast
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cifar.gradcheck.kinks import has_ties
from tinygrad_cifar.gradcheck.patterns import Wrong, nonlinear, pattern
from tinygrad_cifar.gradcheck.probe import Directions, Entries, Probes
from tinygrad_cifar.gradcheck.replay import Program, Step
from tinygrad_cifar.gradcheck.report import Blame
from tinygrad_cifar.gradcheck.verdicts import Sides
from tinygrad_cifar.tensor import Array

ALL = 1024  # inputs of up to so many entries are checked entry by entry
SAMPLE = 256  # of larger ones, so many entries and some directions


def upstream_for(program: Program, rng: np.random.Generator) -> Array:
    """A random gradient from above: never ones, never near zero."""
    shape = program.values[program.out].shape
    return np.asarray(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 2, shape))


def faults(program: Program, rng: np.random.Generator, suspects: dict[int, Array]) -> list[Blame]:
    """The ops whose rules are wrong, in the order of computation. ``suspects``: entries, by slot, to look at too."""
    return [fault for step in program.steps for fault in _examine(program, step, rng, suspects)]


def _examine(program: Program, step: Step, rng: np.random.Generator, suspects: dict[int, Array]) -> list[Blame]:
    """The inputs of one recorded op for which its rule is wrong."""
    alone = program.alone(step)
    upstream = upstream_for(alone, rng)
    sides = Sides(alone, upstream, rng)
    if sides.raised:
        name = next((n for i, n in enumerate(alone.names) if _raises(alone, i, upstream)), alone.names[0])
        return [Blame(step.op.name, name, _raised(sides.raised), step.label)]
    slots = [s for s in step.sources if s is not None]
    found = []
    for leaf, (name, slot) in enumerate(zip(alone.names, slots, strict=True)):
        if text := nonlinear(sides, leaf):
            found.append(Blame(step.op.name, name, text, step.label))
            continue
        probe = sides.probe(leaf)
        for probes in _probes(alone, leaf, suspects.get(slot, ()), rng):
            findings = sides.examine(probe, probes)
            if (findings.verdicts == "wrong").any():
                sure = ~np.isin(findings.verdicts, ["kink", "unresolved"])  # elsewhere "right" is not one number
                where = findings.verdicts[sure] == "wrong"
                wrong = Wrong(alone, leaf, sides, probes[sure], findings.numeric[sure], where)
                found.append(Blame(step.op.name, name, pattern(wrong), step.label))
                break
    return found


def _probes(program: Program, leaf: int, suspects: ArrayLike, rng: np.random.Generator) -> Iterator[Probes]:
    """All entries, or of many some, and directions; where numbers are tied, all of them together."""
    x = program.leaves[leaf]
    if x.size <= ALL:
        yield Entries(np.arange(x.size))
    else:
        some = rng.choice(x.size, SAMPLE, replace=False)
        yield Entries(np.union1d(some, suspects).astype(int))
        yield Directions(rng.standard_normal((4, *x.shape)))
    if has_ties(program):
        yield Directions(np.ones((1, *x.shape)))


def _raises(program: Program, leaf: int, upstream: Array) -> bool:
    """Whether the walk fails where the gradient by this leaf alone is wanted."""
    try:
        program.gradients(upstream, only=leaf)
    except Exception:
        return True
    return False


def _raised(message: str) -> str:
    returned = re.search(r"returned shape (\([^)]*\)), but the input has (\([^)]*\))", message)
    if returned and ast.literal_eval(returned[1])[::-1] == ast.literal_eval(returned[2]):
        return "transposed"
    if "read-only" in message:
        return "changes in place what it is given, which others use as well: work on a copy"
    if "DtypeError" in message:
        return f"{message} (Checks compute in float64, so keep to the dtype of what is given.)"
    return message
