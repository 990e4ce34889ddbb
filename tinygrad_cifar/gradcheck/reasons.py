"""Why an entry is what its verdict says: the op that stops a change, the unit that flips, what would resolve it."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cifar.gradcheck import stacked
from tinygrad_cifar.gradcheck.probe import Probe, Probes
from tinygrad_cifar.gradcheck.replay import Step
from tinygrad_cifar.gradcheck.sparse import dense
from tinygrad_cifar.gradcheck.verdicts import Findings
from tinygrad_cifar.tensor import Array

LOOKED_AT = 512  # zero entries whose reason is looked up
SHOWN = 3  # kinks that are named

STOPS = {  # each is about what the change arrives at, not about the whole of the op
    "linear": "what it is multiplied with is 0 in every sample",
    "matmul": "what it is multiplied with is 0",
    "multiply": "what it is multiplied with is 0",
    "batch_norm": "what it is multiplied with is 0",
    "relu": "inactive wherever the change arrives",
    "dropout": "dropped wherever the change arrives",
    "sigmoid": "saturated", "tanh": "saturated", "softplus": "saturated", "softmax": "saturated",
    "softmax_cross_entropy": "saturated: its probabilities are 0 or 1",
    "binary_cross_entropy_with_logits": "saturated: its probabilities are 0 or 1",
    "clip": "outside of the range",
    "hinge": "none of its margins is violated",
    "max": "not the largest", "min": "not the smallest",
    "maximum": "not the larger", "minimum": "not the smaller",
    "select": "not selected", "getitem": "not selected",
}  # fmt: skip
FADING = {op for op, text in STOPS.items() if text.startswith("saturated")}  # slopes below rounding are not yet 0
LAYERS = {"linear", "batch_norm"}  # their rows are samples, and their columns units
SHIFTS = {"softmax", "log_softmax", "softmax_cross_entropy"}


class Stop(NamedTuple):
    """Where a change ends: a step that does not pass it on."""

    step: Step
    change: list[Array | None]  # of each input of the step, per unit of change; None where it does not change
    cancels: bool  # parts of the change would be passed on


def zeros(probe: Probe, found: Findings) -> list[str]:
    """The reasons of the zero entries, the most frequent first: "12 x relu #1: dead unit ..."."""
    where = np.flatnonzero(found.verdicts == "zero")
    if not len(where):
        return []
    if not probe.reaches:
        return ["unused: no op leads from it to the result"]
    some = where[np.linspace(0, len(where) - 1, min(len(where), LOOKED_AT)).astype(int)]
    reasons: Counter[str] = Counter()
    for batch in probe.batches(found.probes[some]):
        reasons.update(_ends(probe, stops) for stops in _vanishing(probe, found.probes[some[batch]]))
    share = "" if len(some) == len(where) else f" of {len(some)} looked at"
    return [f"{n}{share} × {reason}" for reason, n in reasons.most_common()]


def _vanishing(probe: Probe, probes: Probes) -> list[list[Stop]]:
    """Per probe the steps at which the change ends, on all its ways; empty if it gets through on one."""
    found: list[list[Stop]] = [[] for _ in range(len(probes))]
    ended = {probe.leaf: np.zeros(len(probes), bool)}  # of each slot that changes
    delta: Any = probe.tiny * 1j
    near = 1e-11  # how exactly a change is known, relatively
    if not probe.analytic:  # each probe twice, to the right and to the left
        near = 1e-8
        delta = 1e-6 * probe.scale * np.repeat([1.0, -1.0], len(probes))
        probes = probes[np.tile(np.arange(len(probes)), 2)]

    def tangent(x: Array) -> Array:
        left, right = x[len(found) :], x[: len(found)]
        return right.imag / probe.tiny if probe.analytic else (right - left) / (2e-6 * probe.scale)

    def watch(step: Step, arguments: list[Any], flags: list[bool], out: Any) -> None:
        stacks = [dense(a) if f else None for a, f in zip(arguments, flags, strict=True)]
        before = [None if x is None else tangent(x) for x in stacks]
        reached = [(t, s) for t, s in zip(before, step.sources, strict=True) if t is not None and s is not None]
        size = np.max([_largest(t) * ~ended[s] for t, s in reached], axis=0)
        after = _largest(tangent(dense(out)))
        gone = (after <= near * size) & (size > 0)
        if gone.any():
            part = _largest(tangent(_uneven(probe, step, stacks)))
            fading = step.op.name in FADING or not stacked.is_built_in(step)
            passed = part > (near * size if fading else 0)
            gone &= ~passed | (after <= near * part)
            for k in np.flatnonzero(gone):
                change = [None if t is None else t[k] for t in before]
                found[k].append(Stop(step, change, bool(passed[k])))
        ended[step.slot] = gone | (size == 0)

    probe.run(probes, delta, watch)
    return [stops if lost else [] for lost, stops in zip(ended[probe.program.out], found, strict=True)]


def _uneven(probe: Probe, step: Step, stacks: list[Array | None]) -> Array:
    """The step's result where each entry of its inputs changes by another multiple: nothing cancels there."""
    rng = np.random.default_rng(0)
    mixed = [
        base if x is None else base + (x - base) * rng.uniform(1, 2, np.shape(base))
        for x, base in zip(stacks, step.arguments(probe.program.values), strict=True)
    ]
    flags = [x is not None for x in stacks]
    return np.asarray(stacked.forward(step, mixed, flags, probe.program.values[step.slot]))


def _largest(changes: Array) -> Array:
    """The size of each copy's change."""
    return np.abs(changes).reshape(len(changes), -1).max(1, initial=0)


def _ends(probe: Probe, stops: list[Stop]) -> str:
    if not stops:
        return "what gets through is no larger than rounding"
    texts = list(dict.fromkeys(f"{s.step.label}: {_stop(probe, s)}" for s in stops))
    return "; ".join(texts[:SHOWN]) + (f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")


def _stop(probe: Probe, stop: Stop) -> str:
    step, change = stop.step, stop.change[0]
    if change is not None and step.op.name == "batch_norm" and _even(change, 0):
        advice = ", so bias=False would do" if probe.value.ndim == 1 else ""
        return f"batch norm removes a constant shift: exactly zero by translation invariance{advice}"
    if change is not None and step.op.name in SHIFTS and _even(change, step.kwargs.get("axis", -1)):
        return "a shift of all scores changes nothing"
    if stop.cancels:
        return "what it contributes here cancels"
    if change is not None and step.op.name == "relu" and _is_dead(probe, step, change):
        return "dead unit: inactive in every sample"
    return STOPS.get(step.op.name, "does not pass its change on")


def _even(change: Array, axis: int) -> bool:
    """Whether all that lies along an axis changes alike."""
    return bool(np.ptp(change, axis).max(initial=0) <= 1e-9 * np.abs(change).max(initial=0))


def _is_dead(probe: Probe, step: Step, change: Array) -> bool:
    """Whether the units that change are inactive in all samples, not just in those in which they change."""
    return _of_layer(probe, step, change.shape) and not probe.program.values[step.slot][:, change.any(0)].any()


def _of_layer(probe: Probe, step: Step, shape: tuple[int, ...]) -> bool:
    """Whether a step works on (samples, units), as far as one can know: on the result of a layer."""
    source = (step.sources[0] or 0) - len(probe.program.leaves)
    return len(shape) == 2 and source >= 0 and probe.program.steps[source].op.name in LAYERS


def kinks(probe: Probe, found: Findings) -> list[str]:
    """Which unit of which op flips at the first few kinks: "relu #2 unit 3 flips for sample 4"."""
    where = np.flatnonzero(found.verdicts == "kink")[:SHOWN]
    if not len(where):
        return []
    flips = probe.flipping(found.probes[where], 1e-7 * probe.scale)
    texts = []
    for i, units in zip(where, flips, strict=True):
        index = found.probes.index(int(i), probe.value.shape)
        named = [f"{step.label} {_unit(probe, step, unit)}" for step, unit in units[:SHOWN]]
        more = f" and {len(units) - SHOWN} more" if len(units) > SHOWN else ""
        cause = ", ".join(named) + more if named else "the slope jumps"
        sides = f"{found.left[i]:.6g} to the left, {found.right[i]:.6g} to the right"
        texts.append(f"{list(index)}: {cause}; slopes {sides}")
    return texts


def _unit(probe: Probe, step: Step, unit: tuple[int, ...]) -> str:
    if _of_layer(probe, step, probe.margins[step.slot].shape):
        return f"unit {unit[1]} flips for sample {unit[0]}"
    return f"entry {list(unit)} flips"


def unresolved(probe: Probe, found: Findings) -> list[str]:
    """What hides the unresolved entries, and what would show them."""
    where = found.verdicts == "unresolved"
    if not where.any():
        return []
    if not np.isfinite(found.error[where]).any() or not np.isfinite(found.numeric[where]).any():
        return ["the numeric slope is not finite here (a log or root at 0, a division by 0): move away from that point"]
    if probe.analytic:
        return ["rounding hides the slope: large terms cancel; smaller weights or inputs may show it"]
    return [
        f"the error bar, {np.median(found.error[where]):.1e}, is wide beside the slope, and rounding moves the result "
        f"by up to {probe.noise.max():.1e}: check a part of f, without its largest terms"
    ]
