"""The comparison of assignments: analytic gradients beside central and forward differences of one fixed step."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from tinygrad_cifar.gradcheck.check import named
from tinygrad_cifar.gradcheck.probe import Probe, Probes, probes_for
from tinygrad_cifar.gradcheck.replay import record
from tinygrad_cifar.gradcheck.state import preserved
from tinygrad_cifar.tables import markdown
from tinygrad_cifar.tensor import Array, Tensor

COLUMNS = ("parameter", "pair", "relative min", "relative max", "relative mean", "absolute max", "absolute mean")


@dataclass
class MethodComparison:
    """``values[parameter][method]``: the gradients of the compared entries, by "ANL", "CDM" and "FDM"."""

    values: dict[str, dict[str, Array]]

    def statistics(self, eps: float = 1e-12) -> list[dict[str, Any]]:
        """Per parameter and pair of methods: |a-b| and |a-b| / max(eps, |a|+|b|), in one dict per row."""
        rows = []
        for name, methods in self.values.items():
            for one, other in combinations(methods, 2):
                off = np.abs(methods[one] - methods[other])
                relative = off / np.maximum(eps, np.abs(methods[one]) + np.abs(methods[other]))
                figures = (relative.min(), relative.max(), relative.mean(), off.max(), off.mean())
                rows.append(dict(zip(COLUMNS, (name, f"{one}-{other}", *map(float, figures)), strict=True)))
        return rows

    def to_markdown(self) -> str:
        """The statistics as a Markdown table."""
        cells = [[f"{v:.3e}" if isinstance(v, float) else v for v in row.values()] for row in self.statistics()]
        return "\n".join(markdown(COLUMNS, cells))

    __str__ = to_markdown


def compare_methods(
    f: Callable[[], Tensor], wrt: Any, *, h: float = 1e-6, entries: int | str = "all", seed: int = 0
) -> MethodComparison:
    """Backprop (ANL), central (CDM) and forward (FDM) differences with step ``h``, in float64, of the scalar ``f()``.

    Arguments as ``check_gradients``, which gives the better test; this one gives the tables that reports print.
    """
    parameters = named(wrt)
    rng = np.random.default_rng(seed)
    with preserved(f, parameters, wrt), np.errstate(all="ignore"):
        program = record(f, parameters)[0].double()
        one = np.ones_like(program.values[program.out])
        values = {}
        for leaf, analytic in enumerate(program.gradients(one)):
            probes = probes_for(program.leaves[leaf], entries, rng)
            methods = {"ANL": probes.of(analytic[None])[0]}
            values[program.names[leaf]] = methods | _differences(Probe(program, leaf, one, one), probes, h)
    return MethodComparison(values)


def _differences(probe: Probe, probes: Probes, h: float) -> dict[str, Array]:
    if not probe.reaches:
        return {"CDM": np.zeros(len(probes)), "FDM": np.zeros(len(probes))}
    centre, plus, minus = (
        np.concatenate([probe.values(probes[b], delta) for b in probe.batches(probes)]) for delta in (0, h, -h)
    )
    return {"CDM": (plus - minus) / (2 * h), "FDM": (plus - centre) / h}
