"""The numeric side of a check: slopes of a recorded program, from its forward values alone.

For each leaf the entries (or directions) are changed in batches of copies, see ``stacked``. Where every op on the way
is analytic, a complex step gives the slopes to all digits. Elsewhere, and wherever it contradicts the analytic value,
a ladder of shrinking real steps is extrapolated.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.gradcheck import numeric, stacked
from tinygrad_cifar.gradcheck.kinks import margins
from tinygrad_cifar.gradcheck.numeric import TINY, Slopes
from tinygrad_cifar.gradcheck.replay import Program, Step
from tinygrad_cifar.gradcheck.sparse import SHORTCUTS, Sparse, dense
from tinygrad_cifar.tensor import Array

DIRECTIONS = 8  # in each parameter, where directions are asked for
BATCH = 2**16  # numbers in the largest array of a batch of copies: it stays in the cache


@dataclass
class Entries:
    """Which entries of a leaf are changed, counted row-major: one per copy."""

    where: Array

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, some: Any) -> "Entries":
        return Entries(self.where[some])

    def change(self, leaf: Array, delta: complex | Array) -> Any:
        return Sparse(leaf, self.where, np.full(len(self.where), delta, np.result_type(delta, np.float64)))

    def of(self, gradients: Array) -> Array:
        """(R, *shape) -> (R, E)."""
        return gradients.reshape(len(gradients), -1)[:, self.where]

    def index(self, i: int, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(n) for n in np.unravel_index(int(self.where[i]), shape))


@dataclass
class Directions:
    """Random directions in which the whole leaf is changed: (E, *shape)."""

    vectors: Array

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, some: Any) -> "Directions":
        return Directions(self.vectors[some])

    def change(self, leaf: Array, delta: complex | Array) -> Any:
        return leaf + np.reshape(delta, (-1, *(1,) * leaf.ndim)) * self.vectors

    def of(self, gradients: Array) -> Array:
        return gradients.reshape(len(gradients), -1) @ self.vectors.reshape(len(self.vectors), -1).T

    def index(self, i: int, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return ("direction", i)


Probes = Entries | Directions


def probes_for(leaf: Array, entries: int | str, rng: np.random.Generator) -> Probes:
    """The entries, or directions, of a parameter that are checked."""
    if entries == "directions":
        return Directions(rng.standard_normal((DIRECTIONS, *leaf.shape)))
    if entries != "all" and (isinstance(entries, str) or entries < 1):
        raise ConfigError(f"entries is 'all', 'directions' or a number above 0, not {entries!r}.")
    if entries == "all" or int(entries) >= leaf.size:
        return Entries(np.arange(leaf.size))
    return Entries(np.sort(rng.choice(leaf.size, int(entries), replace=False)))


class Probe:
    """Slopes of <upstream, result> by the entries of one leaf of a program."""

    def __init__(self, program: Program, leaf: int, upstream: Array, noise: Array):
        self.program, self.leaf, self.upstream, self.noise = program, leaf, upstream, noise
        self.value = program.values[leaf]
        self.scale = numeric.scale_of(self.value)
        self.tiny = float(TINY * 2.0 ** np.round(np.log2(self.scale)))
        self.steps = program.downstream(leaf)
        self.reaches = program.out == leaf or any(s.slot == program.out for s in self.steps)
        self.analytic = stacked.is_analytic(self.steps)
        self.opaque = not all(stacked.is_built_in(s) for s in self.steps)
        self.margins: dict[int, Array] = {}  # of each step with kinks, by its slot
        for step in self.steps:
            arguments = step.arguments(program.values)
            found = margins(step, arguments, [False] * len(arguments))
            if found is not None:
                self.margins[step.slot] = found
        distances = [np.abs(m) for m in self.margins.values()]
        self.tied = any((d == 0).any() for d in distances)
        self.near_kinks = any((d <= 1e-6 * d.max(initial=0)).any() for d in distances)

    def batches(self, probes: Probes) -> Iterator[slice]:
        count = max(1, min(256, BATCH // self._widest(probes)))
        return (slice(i, i + count) for i in range(0, len(probes), count))

    def _widest(self, probes: Probes) -> int:
        """The size of the largest array that one copy needs."""
        sizes = [1, 0 if isinstance(probes, Entries) else self.value.size]

        def watch(step: Step, arguments: list[Any], flags: list[bool], out: Any) -> None:
            if not isinstance(out, Sparse):
                sizes.append(out.size)
                if step.op.name not in SHORTCUTS:
                    sizes.extend(a.base.size for a in arguments if isinstance(a, Sparse))

        self.run(probes[:1], 0.0, watch)
        return max(sizes)

    def run(self, probes: Probes, delta: complex | Array, watch: stacked.Watch | None = None) -> Array:
        """The results where each probe is changed by ``delta``: one number, or one for each."""
        change = probes.change(self.value, delta)
        result = stacked.run(self.program, self.leaf, change, self.steps, watch)
        assert result is not None
        return result

    def values(self, probes: Probes, delta: float) -> Array:
        """<upstream, result> for each probe, at a distance of ``delta``."""
        return self._dot(self.run(probes, delta))

    def complex_slopes(self, probes: Probes, sign: int = 1) -> Array:
        """Exact slopes to the right (sign 1) or to the left (-1); they differ only where a unit sits at its kink."""
        h = sign * self.tiny
        parts = [self._dot(self.run(probes[b], 1j * h).imag) / h for b in self.batches(probes)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def slopes(self, probes: Probes, scale: float | Array | None = None) -> Slopes:
        """Extrapolated slopes with error bars. ``scale``: the largest step, of all probes or of each."""
        scales = np.broadcast_to(self.scale if scale is None else scale, len(probes))
        parts = [self._slopes(probes[b], scales[b]) for b in self.batches(probes)]
        return Slopes(*[np.concatenate([getattr(p, name) for p in parts]) for name in Slopes.__dataclass_fields__])

    def _slopes(self, probes: Probes, scales: Array) -> Slopes:
        steps = numeric.ladder(scales)
        centre = self.run(probes, 0.0)
        differences: dict[int, list[Array]] = {1: [], -1: []}
        clean = np.ones((len(steps), len(probes)), bool)
        changed = np.zeros(centre.shape, bool)
        moved = np.zeros(clean.shape)  # how far the results move: where they grow, so does their rounding
        for level, h in enumerate(steps):
            for sign in (1, -1):
                difference = self.run(probes, sign * h, self._flips(clean[level])) - centre
                differences[sign].append(self._dot(difference))
                changed |= difference != 0
                moved[level] = np.maximum(moved[level], np.sqrt(self._sum((self.upstream * difference) ** 2)))
        hidden = ~changed.reshape(len(probes), -1).any(1)  # the change is too small to show
        changed |= hidden.reshape(-1, *(1,) * (changed.ndim - 1))
        rounding = np.sqrt(self._sum(changed * (self.upstream * self.noise) ** 2))
        noise = rounding + 4 * np.finfo(float).eps * moved
        return numeric.slopes(np.array(differences[1]), np.array(differences[-1]), steps, noise, clean)

    def flipping(self, probes: Probes, h: float) -> list[list[tuple[Step, tuple[int, ...]]]]:
        """Per probe the units that are on another side of their kink at x + h or x - h than at x."""
        found: list[list[tuple[Step, tuple[int, ...]]]] = [[] for _ in range(len(probes))]

        def watch(step: Step, arguments: list[Any], flags: list[bool], out: Any) -> None:
            for k, *unit in np.argwhere(self._flipped(step, arguments, flags)).tolist():
                if (step, tuple(unit)) not in found[k]:
                    found[k].append((step, tuple(unit)))

        for sign in (1, -1):
            self.run(probes, sign * h, watch)
        return found

    def _flipped(self, step: Step, arguments: list[Any], flags: list[bool]) -> Array:
        """Per copy and unit, whether it is on another side of its kink than at the unchanged values."""
        found = margins(step, [dense(a) for a in arguments], flags)
        if found is None:
            return np.zeros((0, 0), bool)
        return np.sign(found) != np.sign(self.margins[step.slot])

    def _flips(self, clean: Array) -> stacked.Watch:
        def watch(step: Step, arguments: list[Any], flags: list[bool], out: Any) -> None:
            if step.slot in self.margins:
                flipped = self._flipped(step, arguments, flags)
                clean[:] &= ~flipped.reshape(len(flipped), -1).any(1)

        return watch

    def _dot(self, results: Array) -> Array:
        return results.reshape(len(results), -1) @ self.upstream.ravel()

    def _sum(self, results: Array) -> Array:
        return results.reshape(len(results), -1).sum(1)
