"""Why an entry is what its verdict says: the op that stops a change, the unit that flips, what would resolve it."""

from collections import Counter

import numpy as np

from tinygrad_cifar.gradcheck.probe import Probe, Stop
from tinygrad_cifar.gradcheck.replay import Step
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
LAYERS = {"linear", "batch_norm"}  # their rows are samples, and their columns units
SHIFTS = {"softmax", "log_softmax", "softmax_cross_entropy"}


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
        reasons.update(_ends(probe, stops) for stops in probe.vanishing(found.probes[some[batch]]))
    share = "" if len(some) == len(where) else f" of {len(some)} looked at"
    return [f"{n}{share} × {reason}" for reason, n in reasons.most_common()]


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
