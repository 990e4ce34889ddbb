"""What a gradient check found: to print, to paste into an assignment, to read by a program."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_cifar.gradcheck.verdicts import Findings
from tinygrad_cifar.tables import lined_up, markdown
from tinygrad_cifar.tensor import Array

VERDICTS = ("agree", "zero", "kink", "unresolved", "wrong")
COLUMNS = ("parameter", "shape", "verdict", "entries", "worst entry", "analytic", "numeric", "error bar", "mean |a-n|",
           "max |a-n|/(|a|+|n|)", "allclose 1e-7")  # fmt: skip


@dataclass
class Blame:
    """The op that is at fault: its name, the input whose gradient is wrong, and what the error looks like."""

    op: str
    input: str
    pattern: str
    label: str = ""  # "batch_norm #2": which of them

    def __str__(self) -> str:
        what = f"{self.label}, gradient of its input {self.input}" if self.label else f"{self.op} {self.input}"
        return f"{what.rstrip()}: {self.pattern}"


@dataclass
class ParameterReport:
    """The findings on one parameter."""

    name: str
    shape: tuple[int, ...]
    findings: Findings
    reasons: list[str] = field(default_factory=list)
    unrecorded: bool = False  # f depends on it in a way that was not recorded, so its gradient is incomplete

    @property
    def analytic(self) -> Array:
        """Backprop's values of the entries that were checked."""
        return self.findings.analytic

    @property
    def numeric(self) -> Array:
        """The numeric values of the same entries."""
        return self.findings.numeric

    @property
    def counts(self) -> dict[str, int]:
        """How many entries have which verdict."""
        found = Counter(self.findings.verdicts.tolist())
        return {v: found[v] for v in VERDICTS if found[v]}

    @property
    def verdict(self) -> str:
        """ "wrong" or "kink" if a single entry is; else the commoner of "agree" and "unresolved"; else "zero"."""
        counts = self.counts
        if self.unrecorded or "wrong" in counts:
            return "wrong"
        if "kink" in counts:
            return "kink"
        return max(("agree", "unresolved"), key=lambda v: counts.get(v, 0)) if set(counts) - {"zero"} else "zero"

    @property
    def worst(self) -> int:
        """The position of the entry that is farthest off, measured in error bars; a wrong one if there is one."""
        f = self.findings
        with np.errstate(invalid="ignore"):  # inf - inf
            off = np.abs(f.analytic - f.numeric) / np.where(f.error > 0, f.error, 1)
        rank = np.select([f.verdicts == v for v in ("wrong", "kink", "agree", "unresolved")], [4, 3, 2, 1], 0)
        off = np.where(np.isnan(off), np.inf, off)
        return int(np.lexsort((off, rank))[-1]) if len(off) else 0

    def metrics(self, eps: float = 1e-12) -> dict[str, Any]:
        """The measures that assignments ask for, over the checked entries.

        ``mean_absolute`` is mean |a - n|; ``normed`` is that over max(|a| + |n|); ``max_relative`` is the largest
        |a - n| / max(eps, |a| + |n|), ``allclose`` whether all |a - n| <= 1e-7. All are nan where a or n is not finite.
        """
        return measures(self.analytic, self.numeric, eps)

    def row(self) -> list[str]:
        f, m = self.findings, self.metrics()
        counts = " ".join(f"{n} {v}" for v, n in self.counts.items())
        start = [self.name, str(self.shape), self.verdict, counts]
        if not len(f.analytic):
            return [*start, *["–"] * (len(COLUMNS) - len(start))]
        i = self.worst
        index = ", ".join(str(n) for n in f.probes.index(i, self.shape))
        bar = "0" if f.error[i] <= 1e-200 else f"{f.error[i]:.1e}"
        return [
            *start, f"[{index}]", f"{f.analytic[i]:.8g}", f"{f.numeric[i]:.8g}", bar,
            f"{m['mean_absolute']:.2e}", f"{m['max_relative']:.2e}", str(m["allclose"]),
        ]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        f, i = self.findings, self.worst
        worst: dict[str, Any] | None = None
        if len(f.analytic):
            values = {"analytic": f.analytic[i], "numeric": f.numeric[i], "error_bar": f.error[i]}
            values |= {"left": f.left[i], "right": f.right[i]}
            worst = {"index": list(f.probes.index(i, self.shape)), "verdict": str(f.verdicts[i])}
            worst |= {k: _number(v) for k, v in values.items()}
        return {
            "shape": list(self.shape), "verdict": self.verdict, "counts": self.counts, "worst": worst,
            "reasons": self.reasons, "metrics": {k: _number(v) for k, v in self.metrics().items()},
        }  # fmt: skip


def measures(a: Array, n: Array, eps: float = 1e-12) -> dict[str, Any]:
    """``ParameterReport.metrics`` of analytic values a and numeric ones n."""
    if not a.size:
        return {"mean_absolute": 0.0, "normed": 0.0, "max_relative": 0.0, "allclose": True}
    if not np.isfinite([a, n]).all():
        return {"mean_absolute": math.nan, "normed": math.nan, "max_relative": math.nan, "allclose": False}
    off, size = np.abs(a - n), np.abs(a) + np.abs(n)
    return {
        "mean_absolute": float(off.mean()),
        "normed": float(off.mean() / size.max()) if size.max() > 0 else 0.0,
        "max_relative": float((off / np.maximum(eps, size)).max()),
        "allclose": bool(np.allclose(a, n, rtol=0, atol=1e-7)),
    }


def _number(x: Any) -> Any:
    """As JSON knows it, which has no inf and nan."""
    return x if isinstance(x, bool) else float(x) if np.isfinite(x) else str(x)


@dataclass
class GradientReport:
    """The result of ``check_gradients``. ``print(report)`` shows it; ``assert report.ok, report`` tests it."""

    parameters: dict[str, ParameterReport]
    faults: list[Blame]
    result: tuple[int, ...] = ()  # the shape of what f returned
    order: int = 1
    dtype: str = "float64"  # the model's; the check computes in float64
    seconds: float = 0.0
    hooked: list[str] = field(default_factory=list)  # the tensors that have hooks, which are left out of a check

    @property
    def ok(self) -> bool:
        """Nothing is wrong, and at least one entry proves it."""
        return not self.faults and self.proven > 0

    @property
    def blame(self) -> Blame | None:
        """The first wrong op, in the order in which f computes; None if nothing is wrong."""
        return self.faults[0] if self.faults else None

    @property
    def proven(self) -> float:
        """The share of the checked entries that prove something: that agree, or lie between the slopes of a kink."""
        proving, total = self._proving()
        return proving / max(1, total)

    def _proving(self) -> tuple[int, int]:
        """How many of the checked entries prove something, and how many there are."""
        counts = sum((Counter(p.counts) for p in self.parameters.values()), Counter[str]())
        return counts["agree"] + counts["kink"], counts.total()

    @property
    def headline(self) -> str:
        """One line: the outcome and what it rests on."""
        proving, total = self._proving()
        share = 100 * (1 - self.proven)
        idle = f"{share:{'.0f' if share >= 1 else '.1g'}} % of {total} entries prove nothing (zero or unresolved)"
        subject = "gradients" if self.order == 1 else "second derivatives"
        if self.blame:
            return f"WRONG {subject}. {self.blame}"
        if not self.ok:
            return f"NOTHING PROVEN about the {subject}: {idle}"
        warning = f", but {idle}" if self.proven < 0.5 else f"; {idle}" if self.proven < 1 else ""
        return f"{subject} agree in {proving} of {total} entries{warning}"

    def _rows(self) -> list[list[str]]:
        return [p.row() for p in self.parameters.values()]

    def _notes(self) -> list[str]:
        notes = [f"{p.name}: {reason}" for p in self.parameters.values() for reason in p.reasons]
        notes += [f"also wrong: {fault}" for fault in self.faults[1:]]
        if self.hooked:
            notes.append(f"without the hooks on {', '.join(self.hooked)}: in .grad is what they make of the gradients")
        if math.prod(self.result) != 1:
            notes.append(f"f's result has shape {self.result}: its entries are weighted with random numbers and added")
        return notes

    def __str__(self) -> str:
        notes = self._notes()
        return "\n".join([self.headline, "", *lined_up(COLUMNS, self._rows()), *([""] if notes else []), *notes])

    __repr__ = __str__

    def to_markdown(self) -> str:
        """A Markdown table, with the headline above and the reasons below."""
        notes = [f"- {note}" for note in self._notes()]
        return "\n".join([f"**{self.headline}**", "", *markdown(COLUMNS, self._rows()), "", *notes]).rstrip()

    def to_json(self) -> str:
        """Everything but the single entries, as JSON."""
        return json.dumps(
            {
                "ok": self.ok, "headline": self.headline, "proven": self.proven,
                "order": self.order, "dtype": self.dtype, "hooked": self.hooked, "seconds": self.seconds,
                "blame": None if self.blame is None else vars(self.blame), "faults": [vars(b) for b in self.faults],
                "parameters": {name: p.as_dict() for name, p in self.parameters.items()},
            },
            indent=2,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        from html import escape

        head = "".join(f"<th>{escape(c)}</th>" for c in COLUMNS)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self._rows())
        notes = "".join(f"<li>{escape(note)}</li>" for note in self._notes())
        return f"<p><b>{escape(self.headline)}</b></p><table><tr>{head}</tr>{body}</table><ul>{notes}</ul>"

    def __rich__(self) -> Any:
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Column, Table
        from rich.text import Text

        colours = {"agree": "green", "zero": "cyan", "kink": "yellow", "unresolved": "magenta", "wrong": "bold red"}
        shown = (0, 2, 3, 4, 5, 6, 7)  # what fits a terminal
        whole = ("parameter", "verdict", "analytic", "numeric")  # no digit is cut off, in 80 columns either
        columns = [Column(COLUMNS[i], no_wrap=COLUMNS[i] in whole) for i in shown]
        table = Table(*columns, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
        for p, row in zip(self.parameters.values(), self._rows(), strict=True):
            table.add_row(*[Text(row[i]) for i in shown], style=colours[p.verdict])
        title = Text(self.headline, style="bold green" if self.ok else "bold red")
        return Group(title, table, *[Text(note) for note in self._notes()])
