"""Both sides of one leaf, entry by entry, and the verdict on each.

agree        the analytic value lies within the numeric one's error bar, and the bar is narrow
zero         both are zero as far as rounding can tell
kink         f has a kink here, and the analytic value lies between the slopes to its left and right
unresolved   the error bar is too wide to say
wrong        the analytic value lies outside of the error bar
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinygrad_cifar.gradcheck.kinks import has_ties
from tinygrad_cifar.gradcheck.probe import Directions, Probe, Probes
from tinygrad_cifar.gradcheck.replay import Noise, Program
from tinygrad_cifar.tensor import Array

REPLICAS = 8  # how often rounding noise is imitated
NARROW = 1e-3  # an error bar of at most this share of the value tells something
EXACT = 2.0**-43  # rounding of a complex step relative to its value
UNDERFLOW = 1e-230  # float64 ends at 1e-308, and a complex step is 1e-60
SAFETY = 16  # times the largest rounding error seen in the imitations
NEARER = 4.0**-7  # the largest step of a second ladder, relative to the entry itself
BLOCK = 1024  # so many doubtful entries get a second opinion at a time
TURN = -1024.0  # times the gradient from above: exact in binary, and beyond what a rule may clip it to
SAME = 1e-9  # slopes to the left and right that differ by less, relatively, are one


@dataclass
class Findings:
    """What is known of E entries of a leaf (or directions in it): arrays of shape (E,)."""

    probes: Probes
    analytic: Array
    numeric: Array
    error: Array  # the error bar of analytic - numeric
    left: Array
    right: Array
    verdicts: Array


class Sides:
    """A program's analytic gradients by all leaves, and the rounding noise of both sides."""

    def __init__(self, program: Program, upstream: Array, rng: np.random.Generator):
        self.program, self.upstream = program, upstream
        self.noise = _rounding(program, rng)
        self.raised = ""
        try:
            first, again = program.gradients(upstream), program.gradients(upstream)
            self.turned = [g / TURN for g in program.gradients(TURN * upstream)]
            ties = has_ties(program)
            noisy = [program.gradients(upstream, Noise(rng, ties)) for _ in range(REPLICAS)]
            self.gradients = [np.stack(g) for g in zip(first, *noisy, strict=True)]
            if far(program.values[program.out :], program.run()[program.out :]):
                self.raised = "its forward draws at random: draw outside of the op, and pass in what was drawn"
            elif far(first, again):
                self.raised = "two walks give different gradients: a rule draws at random, or keeps what it was given"
        except Exception as error:  # a user's rule may raise anything: that is a finding, not a failure of the check
            self.raised = f"the rule fails: {type(error).__name__}: {error}"
            self.gradients = [np.full((1, *x.shape), np.nan) for x in program.leaves]

    def probe(self, leaf: int) -> Probe:
        return Probe(self.program, leaf, self.upstream, self.noise)

    def examine(self, probe: Probe, probes: Probes, faulty: bool = False) -> Findings:
        """The verdicts on one leaf, that of ``probe``.

        ``faulty``: whether a rule is known to be wrong. It decides where several units sit at their kinks at once:
        there a correct gradient, a mixture of sides, may lie outside of the slopes to the left and right.
        """
        runs = probes.of(self.gradients[probe.leaf])
        analytic, blur = runs[0], _blur(runs)
        if not probe.reaches or not len(probes):
            zeros = np.zeros(len(probes))
            return Findings(probes, analytic, zeros, zeros, zeros, zeros, _smooth(analytic, zeros, zeros, zeros))
        if not probe.analytic:
            found = _nearer(probe, _climbed(probe, probes, analytic, blur), blur)
            return _excused(probe, _drowned(probe, found), faulty)
        found = _stepped(probe, probes, analytic, blur)
        doubtful = np.flatnonzero(np.isin(found.verdicts, ["wrong", "unresolved"]))
        for start in range(0, 0 if self.raised else len(doubtful), BLOCK):
            some = doubtful[start : start + BLOCK]
            second = _climbed(probe, probes[some], analytic[some], blur[some], _part(found, some))
            # Where f bends within the smallest step, the ladder errs: it may clear up what rounding hides, not accuse.
            useful = (found.verdicts[some] == "wrong") | (second.verdicts != "wrong")
            _merge(found, some[useful], _part(second, useful))
            if np.mean(found.verdicts[some] == "wrong") > 0.9:
                break  # nothing to rescue: the complex steps were right about the others, too
        return _excused(probe, found, faulty)


def _rounding(program: Program, rng: np.random.Generator) -> Array:
    """How far rounding can move each entry of the program's result: the largest move in several imitations."""
    exact = program.values[program.out]
    noisy = [program.run(noise=Noise(rng))[program.out] for _ in range(REPLICAS)]
    return np.max([np.abs(x - exact) for x in noisy], axis=0)


def _blur(runs: Array) -> Array:
    """How much of each analytic value, runs[0], may be rounding, given imitations of it.

    The imitations of one entry may agree by chance: it gets at least a share of what is usual, relatively.
    """
    seen = SAFETY * np.abs(runs[1:] - runs[0]).max(0, initial=0)
    size = np.abs(runs[0])
    relative = seen[seen < size] / size[seen < size]
    usual = np.median(relative) if len(relative) else 0
    return np.maximum(seen, 0.25 * usual * size) + UNDERFLOW


def far(first: list[Array], again: list[Array]) -> bool:
    """Whether what should be the same numbers twice are not, by more than rounding."""
    size = max((np.abs(g).max(initial=0) for g in first), default=0)
    return any(np.abs(g - h).max(initial=0) > 1e-3 * size + UNDERFLOW for g, h in zip(first, again, strict=True))


def _stepped(probe: Probe, probes: Probes, analytic: Array, blur: Array) -> Findings:
    """The verdicts by complex steps."""
    right = probe.complex_slopes(probes)
    left = probe.complex_slopes(probes, -1) if probe.tied else right
    size = np.maximum(np.abs(left), np.abs(right))
    error = blur + EXACT * np.maximum(size, np.abs(analytic))
    verdicts = _smooth(analytic, blur, right, error)
    kinked = np.abs(left - right) > SAME * size
    inside = [between(analytic, left, right, slack) for slack in (SAME * size, error)]
    verdicts[kinked] = np.select(inside, ["kink", "unresolved"], "wrong")[kinked]
    return Findings(probes, analytic, right, error, left, right, verdicts)


def _climbed(
    probe: Probe,
    probes: Probes,
    analytic: Array,
    blur: Array,
    exact: Findings | None = None,
    scale: float | Array | None = None,
) -> Findings:
    """The verdicts by a ladder of real steps; ``exact`` ones, from complex steps, decide within its bars."""
    s = probe.slopes(probes, scale)
    error = s.error + blur
    verdicts = _smooth(analytic, blur, s.value, error)
    found = Findings(probes, analytic, s.value, error, s.left, s.right, verdicts)
    if exact is not None:
        decided = np.abs(exact.numeric - s.value) <= error
        _merge(found, decided, _part(exact, decided))
    rough = ~np.isfinite(s.error)
    gap = s.left_error + s.right_error
    same = rough & (np.abs(s.left - s.right) <= gap)
    found.numeric = np.where(rough, np.where(s.left_error < s.right_error, s.left, s.right), found.numeric)
    found.error = np.where(rough, np.minimum(s.left_error, s.right_error) + blur, found.error)
    verdicts = found.verdicts
    verdicts[same] = _smooth(analytic, blur, found.numeric, found.error)[same]
    kinked = rough & ~same
    verdicts[kinked] = np.where(between(analytic, s.left, s.right, gap), "kink", "wrong")[kinked]
    verdicts[~np.isfinite(gap) & rough] = "unresolved"
    return found


def _nearer(probe: Probe, found: Findings, blur: Array) -> Findings:
    """A second opinion from smaller steps: the first may have gone over what f does close by, a stair or a pole."""
    doubtful = np.flatnonzero(np.isin(found.verdicts, ["wrong", "unresolved"]))
    if not len(doubtful):
        return found
    some, wrong = found.probes[doubtful], found.verdicts[doubtful] == "wrong"
    x = np.abs(probe.value.ravel())
    size = np.full(len(some), x[x > 0].min(initial=np.inf)) if isinstance(some, Directions) else x[some.where]
    scale = np.where((size > 0) & (size < probe.scale), size, probe.scale) * NEARER
    fine = _climbed(probe, some, found.analytic[doubtful], blur[doubtful], scale=scale)
    precise = fine.error < 0.1 * np.abs(found.analytic - found.numeric)[doubtful]
    sure = np.where(wrong, precise & (fine.verdicts != "wrong"), fine.verdicts == "agree")
    _merge(found, doubtful[sure], _part(fine, sure))
    return found


def _drowned(probe: Probe, found: Findings) -> Findings:
    """Off by less than rounding can hide, whatever the step, is not known to be wrong."""
    noise = SAFETY * np.linalg.norm(probe.upstream * probe.noise)
    hidden = np.abs(found.analytic - found.numeric) * probe.scale <= noise
    found.verdicts[hidden & (found.verdicts == "wrong")] = "unresolved"
    return found


def _excused(probe: Probe, found: Findings, faulty: bool) -> Findings:
    """Where several units flip at once, a mixture of their sides is as right as the slopes to the left and right."""
    wrong = np.flatnonzero(found.verdicts == "wrong")
    if not len(wrong) or faulty:
        return found
    if probe.near_kinks:
        for batch in probe.batches(found.probes[wrong]):
            flips = probe.flipping(found.probes[wrong[batch]], 1e-7 * probe.scale)
            found.verdicts[wrong[batch]] = ["kink" if len(units) > 1 else "wrong" for units in flips]
    if probe.opaque:  # a user's op, of whose kinks nothing is known
        wrong = np.flatnonzero(found.verdicts == "wrong")
        left, right = found.left[wrong], found.right[wrong]
        jumps = np.abs(left - right) > 1e-3 * np.maximum(np.abs(left), np.abs(right))
        several = jumps if isinstance(found.probes, Directions) or len(probe.steps) > 1 else np.zeros_like(jumps)
        found.verdicts[wrong[several]] = "kink"
    return found


def _smooth(analytic: Array, blur: Array, numeric: Array, error: Array) -> Array:
    """The verdicts where f is smooth. ``blur`` is how much of the analytic value may be rounding."""
    within = np.abs(analytic - numeric) <= error
    zero = (np.abs(analytic) <= blur) & (np.abs(numeric) <= error)
    narrow = error <= NARROW * np.maximum(np.abs(analytic), np.abs(numeric))
    unknown = ~np.isfinite(numeric) | np.isinf(error)
    cases = [unknown, within & zero, within & narrow, within]
    return np.select(cases, ["unresolved", "zero", "agree", "unresolved"], "wrong").astype("<U10")


def between(x: Array, one: Array, other: Array, slack: Array) -> Array:
    """Whether x lies between two others, in either order, or off by no more than ``slack``."""
    return (np.minimum(one, other) - slack <= x) & (x <= np.maximum(one, other) + slack)


def _part(found: Findings, some: Any) -> Findings:
    return Findings(*[getattr(found, name)[some] for name in Findings.__dataclass_fields__])


def _merge(found: Findings, some: Array, part: Findings) -> None:
    for name in ("numeric", "error", "left", "right", "verdicts"):
        getattr(found, name)[some] = getattr(part, name)


def scaled(found: Findings, factor: float) -> Findings:
    """All values times ``factor``, without signs of zeros."""
    names = ("analytic", "numeric", "left", "right")
    values: dict[str, Any] = {name: getattr(found, name) * factor + 0.0 for name in names}
    return replace(found, error=found.error * abs(factor), **values)
