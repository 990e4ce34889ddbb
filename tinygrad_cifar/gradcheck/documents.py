"""The gradient checks of the documents, with their columns: what was printed there, regenerated, beside our verdicts.

Each function takes images x (n, d), float64 and standardised, and labels y (n,). The documents' numeric gradients are
differences of one fixed step; so are those in their columns here. The verdicts come from ``check_gradients``.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from tinygrad_cifar import nn
from tinygrad_cifar.gradcheck.check import check_gradients
from tinygrad_cifar.gradcheck.faults import batch_norm_paths, replaced_rule
from tinygrad_cifar.gradcheck.formula_check import document_names
from tinygrad_cifar.gradcheck.methods import compare_methods
from tinygrad_cifar.gradcheck.report import measures
from tinygrad_cifar.tables import markdown
from tinygrad_cifar.tensor import Array, Tensor

H = 1e-6  # the step of the numeric gradients
LARGEST = 1e-5  # error that counts as agreement in the second document
VERDICT_ENTRIES = 200  # of a parameter, where a verdict is given beside the document's own comparison


@dataclass
class Table:
    """A document's table, regenerated. ``ok``: nothing in it is wrong."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)
    ok: bool = True

    def column(self, name: str) -> list[str]:
        """What stands under a name."""
        return [row[self.columns.index(name)] for row in self.rows]

    def to_markdown(self) -> str:
        """Title, table and notes as Markdown."""
        table = markdown(self.columns, self.rows)
        return "\n".join([f"**{self.title}**", "", *table, *([""] if self.notes else []), *self.notes])

    __str__ = to_markdown


def analytic_central_forward(x: Array, y: Array, lam: float) -> Table:
    """Softmax classifier, W and b from N(0, 0.01^2): analytic (ANL), central (CDM) and forward differences (FDM).

    Relative differences are |a - b| / max(eps, |a| + |b|), times 10^4; absolute ones times 10^6.
    """
    model = nn.mlp([x.shape[1], 10], init=0.01, dtype=x.dtype)
    nn.init.normal(model[0].bias, 0.01)
    comparison = compare_methods(_cost(model, x, y, lam), document_names(model), h=H)
    rows = []
    for row in comparison.statistics():
        relative = [f"{1e4 * row[f'relative {what}']:.3f}" for what in ("min", "max", "mean")]
        absolute = [f"{1e6 * row[f'absolute {what}']:.3f}" for what in ("max", "mean")]
        rows.append((row["parameter"][0], row["pair"].replace("-", " vs "), *relative, *absolute))
    columns = (
        "Gradient", "Method", "Rel Diff Min [e+04]", "Rel Diff Max [e+04]", "Rel Diff Mean [e+04]",
        "Abs Diff Max [e+06]", "Abs Diff Mean [e+06]",
    )  # fmt: skip
    largest = max(row["absolute max"] for row in comparison.statistics() if row["pair"] == "ANL-CDM")
    notes = [f"the largest absolute difference between ANL and CDM is {largest:.1e}"]
    if lam:
        notes.append(
            f"Forward differences of {lam:g} ‖W‖² with h = {H:g} are off by {lam * H:.0e} in every entry, as here. The "
            "document's figures for λ = 1 show nothing of it: it seems that λ was not in the cost it differentiated."
        )
    return Table(f"Analytic, central and forward differences, λ = {lam:g}", columns, rows, notes, largest < 1e-6)


def average_errors(x: Array, y: Array) -> Table:
    """Two layers, 50 hidden units, weights from N(0, 0.001^2): mean |a - n| / max(|a| + |n|) per parameter.

    The document's words, and the figures that it printed for the first two images. The measure divides by the largest
    entry, so it says nothing about small ones; hence the last columns: worst entry by entry, and how many are zero.
    """
    model = nn.mlp([x.shape[1], 50, 10], init=0.001, dtype=x.dtype)
    values = compare_methods(_cost(model, x, y), document_names(model), h=1e-5).values
    printed = {
        "W1": ("weights of first layer", 7.52283628908819e-09), "b1": ("bias of first layer", 4.602426280088195e-09),
        "W2": ("weights of second layer", 3.0747216543846533e-10),
        "b2": ("bias of second layer", 1.193638211533644e-11),
    }  # fmt: skip
    rows, errors = [], []
    for name, (words, published) in printed.items():
        a, n = values[name]["ANL"], values[name]["CDM"]
        found = measures(a, n)
        errors.append(found["normed"])
        zeros = f"{100 * np.mean((a == 0) & (n == 0)):.0f} %"
        figures = (f"{found['normed']:.3e}", f"{published:.3e}", f"{found['max_relative']:.1e}", zeros)
        rows.append((f"Average error on {words}", *figures))
    ok = max(errors) < LARGEST
    columns = ("", f"error on {len(x)} images", "as printed", "worst entry, relative", "zero on both sides")
    return Table("Success!!" if ok else f"Failure: above {LARGEST:g}", columns, rows, ok=ok)


def max_relative_difference(x: Array, y: Array) -> Table:
    """Two layers, 20 features, 10 samples: max |a - n| / max(eps, |a| + |n|), which stays below 1e-5."""
    x, y = x[:10, :20], y[:10]
    model = nn.mlp([x.shape[1], 50, 10], dtype=x.dtype)
    comparison = compare_methods(_cost(model, x, y, lam=0.01), document_names(model), h=1e-5)
    largest = {name: measures(v["ANL"], v["CDM"], 1e-6)["max_relative"] for name, v in comparison.values.items()}
    rows = [(name, f"{value:.3e}", str(value <= LARGEST)) for name, value in largest.items()]
    title = f"Maximum relative difference, {x.shape[1]} features, {len(x)} samples, ε = 1e-6"
    columns = ("gradient", "max |gₐ-gₙ|/max(ε,|gₐ|+|gₙ|)", "≤ 1e-5")
    return Table(title, columns, rows, ok=max(largest.values()) <= LARGEST)


def allclose_without_batch_norm(x: Array, y: Array) -> Table:
    """Networks of 2, 3 and 4 layers: whether ``allclose``, with an absolute tolerance of 1e-7, holds throughout."""
    rows = []
    for depth in (2, 3, 4):
        model = nn.mlp([x.shape[1], *[50] * (depth - 1), 10], dtype=x.dtype)
        parameters = document_names(model)
        values = compare_methods(_cost(model, x, y), parameters, h=H).values
        report = check_gradients(_cost(model, x, y), parameters, entries=VERDICT_ENTRIES)
        flags = [np.allclose(v["ANL"], v["CDM"], atol=1e-7) for v in values.values()]
        rows.append((f"{depth}-layer network", str(all(flags)), report.headline))
    title = f"Gradients without batch normalisation, {len(x)} images, allclose with atol = 1e-7"
    return Table(title, ("network", "allclose", "verdict"), rows, ok=all(row[1] == "True" for row in rows))


PRINTED = {
    2: {"b2": "True", "gamma2": "True", "beta2": "True", "W2": "True", "b1": "True", "gamma1": "True", "beta1": "True",
        "W1": "False ~1"},
    3: {"b3": "True 5.023e-08", "gamma3": "True 0", "beta3": "True 0", "W3": "True 1.395e-07", "b2": "True 2.162e-03",
        "gamma2": "True 1.480e-06", "beta2": "True 6.719e-07", "W2": "False ~1", "b1": "True 0.978",
        "gamma1": "False ~1", "beta1": "False ~1", "W1": "False ~1"},
}  # fmt: skip
"""What the document printed for its networks of 2 and 3 layers with batch norm: the flag, and the relative error."""


def allclose_with_batch_norm(x: Array, y: Array, depth: int = 3, variance_path: bool = True) -> Table:
    """The check that the document spent "significant time" on: batch norm, 50 units a layer, allclose at 1e-7.

    Its author kept a gamma and beta for the last layer, too, which has no batch norm: unused, hence the errors of 0.

    Args:
        x, y: images and labels.
        depth: layers; the document has 2 and 3.
        variance_path: False drops the variance term from the gradient rule of batch norm, as the document's failing
            flags suggest that it was.
    """
    model = nn.mlp([x.shape[1], *[50] * (depth - 1), 10], batch_norm=True, dtype=x.dtype)
    parameters = document_names(model)
    for name in (f"gamma{depth}", f"beta{depth}"):
        parameters[name] = Tensor(np.ones(10), requires_grad=True)
    rule: AbstractContextManager[None] = nullcontext()
    if not variance_path:
        rule = replaced_rule("batch_norm", batch_norm_paths(variance=0))
    cost = _cost(model, x, y)
    with rule:
        values = compare_methods(cost, parameters, h=H).values
        report = check_gradients(cost, parameters, entries=VERDICT_ENTRIES)
    names = [f"{kind}{layer}" for layer in range(depth, 0, -1) for kind in ("b", "gamma", "beta", "W")]
    words = {"b": "bias", "gamma": "gamma", "beta": "beta", "W": "weights"}
    rows = []
    for name in names:
        a, n = values[name]["ANL"], values[name]["CDM"]
        own = report.parameters[name]
        flags = (str(np.allclose(a, n, atol=1e-7)), f"{measures(a, n)['max_relative']:.3e}")
        printed = PRINTED.get(depth, {}).get(name, "")
        rows.append((f"Layer{name[-1]}", words[name[:-1]], *flags, printed, own.verdict, "; ".join(own.reasons[:1])))
    title = f"Gradients with batch normalisation, {depth} layers, {len(x)} images, atol = 1e-7"
    title += "" if variance_path else ", variance path dropped from the rule"
    columns = ("layer", "gradient", "allclose", "relative error", "as printed", "verdict", "why")
    return Table(title, columns, rows, [report.headline], ok=report.blame is None)


def a1(x: Array, y: Array) -> list[Table]:
    """Assignment 1: the ANL, CDM, FDM tables without and with regularisation."""
    return [analytic_central_forward(x, y, 0.0), analytic_central_forward(x, y, 1.0)]


def a2(x: Array, y: Array) -> list[Table]:
    """Assignment 2: the average errors on two images, and the maximum relative difference."""
    return [average_errors(x[:2], y[:2]), max_relative_difference(x, y)]


def a3(x: Array, y: Array) -> list[Table]:
    """Assignment 3: allclose without batch norm; with it; and with it and the variance path forgotten."""
    tables = [allclose_without_batch_norm(x, y)]
    for variance_path in (True, False):
        tables += [allclose_with_batch_norm(x, y, depth, variance_path) for depth in (2, 3)]
    return tables


DOCUMENTS: Mapping[str, Callable[[Array, Array], list[Table]]] = {"a1": a1, "a2": a2, "a3": a3}


def _cost(model: nn.Module, x: Array, y: Array, lam: float = 0.0) -> Callable[[], Tensor]:
    def cost() -> Tensor:
        loss = nn.F.cross_entropy(model(Tensor(x)), y)
        return loss + nn.l2_penalty(model, lam) if lam else loss

    return cost
