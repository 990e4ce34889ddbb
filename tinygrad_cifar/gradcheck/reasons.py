"""Why an entry is what its verdict says: the op that stops a change, the unit that flips, what would resolve it."""

from collections import Counter

import numpy as np

from tinygrad_cifar.gradcheck.probe import Probe, Stop
from tinygrad_cifar.gradcheck.verdicts import Findings

LOOKED_AT = 512  # zero entries whose reason is looked up
SHOWN = 3  # kinks that are named

STOPS = {
    "linear": "what it is multiplied with is 0 in every sample",
    "matmul": "what it is multiplied with is 0",
    "multiply": "what it is multiplied with is 0",
    "relu": "dead unit: inactive in every sample",
    "dropout": "dropped in every sample",
    "batch_norm": "batch norm removes a constant shift: exactly zero by translation invariance, so bias=False would do",
    "sigmoid": "saturated", "tanh": "saturated", "softmax": "saturated", "log_softmax": "saturated",
    "softmax_cross_entropy": "saturated softmax: every probability is 0 or 1",
    "clip": "outside of the range",
    "hinge": "no margin is violated",
    "max": "never the largest", "min": "never the smallest",
    "maximum": "never the larger", "minimum": "never the smaller",
    "select": "never selected", "getitem": "never selected",
}  # fmt: skip
SHIFTS = {"softmax", "log_softmax", "softmax_cross_entropy"}


def zeros(probe: Probe, found: Findings) -> list[str]:
    """The reasons of the zero entries, the most frequent first: "12 x relu #1: dead unit ..."."""
    where = np.flatnonzero(found.verdicts == "zero")
    if not len(where):
        return []
    if not probe.reaches:
        return ["unused: the result does not depend on it"]
    some = where[np.linspace(0, len(where) - 1, min(len(where), LOOKED_AT)).astype(int)]
    reasons: Counter[str] = Counter()
    for batch in probe.batches(found.probes[some]):
        reasons.update(_stop(s) for s in probe.vanishing(found.probes[some[batch]]))
    share = "" if len(some) == len(where) else f" of {len(some)} looked at"
    return [f"{n}{share} × {reason}" for reason, n in reasons.most_common()]


def _stop(stop: Stop | None) -> str:
    if stop is None:
        return "what it contributes cancels"
    name, label = stop.step.op.name, stop.step.label
    if stop.alike and name in SHIFTS:
        return f"{label}: a shift of all scores changes nothing"
    if stop.cancels and name != "batch_norm":
        return f"{label}: what it contributes here cancels"
    return f"{label}: {STOPS.get(name, 'does not pass its change on')}"


def kinks(probe: Probe, found: Findings) -> list[str]:
    """Which unit of which op flips at the first few kinks: "relu #2 unit 3 flips for sample 4"."""
    where = np.flatnonzero(found.verdicts == "kink")[:SHOWN]
    if not len(where):
        return []
    flips = probe.flipping(found.probes[where], 1e-7 * probe.scale)
    texts = []
    for i, units in zip(where, flips, strict=True):
        index = found.probes.index(int(i), probe.value.shape)
        named = [f"{step.label} {_unit(unit)}" for step, unit in units[:SHOWN]]
        more = f" and {len(units) - SHOWN} more" if len(units) > SHOWN else ""
        cause = ", ".join(named) + more if named else "the slope jumps"
        sides = f"{found.left[i]:.6g} to the left, {found.right[i]:.6g} to the right"
        texts.append(f"{list(index)}: {cause}; slopes {sides}")
    return texts


def _unit(unit: tuple[int, ...]) -> str:
    if len(unit) == 2:
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
        return ["rounding hides the slope: large terms cancel; smaller weights or inputs would show it"]
    return [
        f"the error bar, {np.median(found.error[where]):.1e}, is wide beside the slope, because the result is of size "
        f"{np.abs(probe.program.values[probe.program.out]).max():.1e}: check a part of f, or scale it up"
    ]
