"""Whose gradients are right? A student's own formula, generic backpropagation, and finite differences.

Three witnesses, of which two suffice to convict the third: where the student's gradients lie outside of the numeric
error bar they are wrong, and so is backpropagation where it does. What is wrong about the formula is then looked for:
a constant factor, the L2 term, a transposed array, or one of the classic mistakes of ``faults``.
"""

import copy
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cifar import nn
from tinygrad_cifar.engine import grad
from tinygrad_cifar.errors import ConfigError, ShapeError
from tinygrad_cifar.gradcheck.check import check_gradients
from tinygrad_cifar.gradcheck.faults import FAULTS, replaced_rule
from tinygrad_cifar.gradcheck.formulas import Convention
from tinygrad_cifar.gradcheck.replay import record
from tinygrad_cifar.gradcheck.report import GradientReport, ParameterReport
from tinygrad_cifar.gradcheck.verdicts import between
from tinygrad_cifar.random import preserved
from tinygrad_cifar.tables import lined_up, markdown
from tinygrad_cifar.tensor import Array, Tensor

CLOSE = 1e-7  # how far, relative to the largest gradient, two ways to compute one may round apart
ROUNDED = "right to six digits only: computed in float32?"
COLUMNS = ("parameter", "verdict", "worst entry", "yours", "backprop", "numeric", "error bar", "term")


@dataclass
class FormulaVerdict:
    """What the three witnesses say of one parameter."""

    name: str
    wrong: str  # "", "yours", "backprop" or "both"
    index: tuple[int, ...]  # the entry in which yours is farthest off, and its values
    yours: float
    backprop: float
    numeric: float
    error: float
    term: str = field(default="", kw_only=True)  # what is wrong about yours

    @property
    def yours_wrong(self) -> bool:
        """Whether the student's gradient is wrong, whatever backpropagation's is."""
        return self.wrong in ("yours", "both")

    @property
    def verdict(self) -> str:
        return {"": "agree", "both": "both are wrong"}.get(self.wrong, f"{self.wrong} is wrong")

    def row(self) -> list[str]:
        values = [f"{v:.8g}" for v in (self.yours, self.backprop, self.numeric)]
        return [self.name, self.verdict, str(list(self.index)), *values, f"{self.error:.1e}", self.term]


@dataclass
class FormulaReport:
    """The result of ``check_formula``. ``print(report)`` shows it; ``assert report.ok, report`` tests it."""

    parameters: dict[str, FormulaVerdict]  # from the last layer to the first: the way the gradient goes
    backprop: GradientReport = field(repr=False)

    @property
    def ok(self) -> bool:
        """The student's gradients are right, all of them."""
        return self.first is None

    @property
    def first(self) -> FormulaVerdict | None:
        """The first parameter, on the gradient's way from the last layer to the first, for which yours is wrong."""
        return next((v for v in self.parameters.values() if v.yours_wrong), None)

    @property
    def headline(self) -> str:
        """One line: whose gradients are wrong, in which term, and from which layer on."""
        if self.first is None:
            others = [v.name for v in self.parameters.values() if v.wrong]
            return f"your formula is right; backprop is wrong for {', '.join(others)}" if others else "all three agree"
        layer, deepest = _layer(self.first.name), max(_layer(name) for name in self.parameters)
        above = "" if layer == deepest else f"; above it, layer{'s' * (deepest - layer > 1)} " + (
            f"{layer + 1} to {deepest} are right" if deepest - layer > 1 else f"{deepest} is right"
        )  # fmt: skip
        below = [v.yours_wrong for v in self.parameters.values() if _layer(v.name) < layer]
        where = f"in layer {layer}" if below and not any(below) else f"from layer {layer} on"
        return f"your formula is wrong {where}: {self.first.name}: {self.first.term}{above}"

    def __str__(self) -> str:
        return "\n".join([self.headline, "", *lined_up(COLUMNS, self._rows())])

    def to_markdown(self) -> str:
        """A Markdown table with the headline above."""
        return "\n".join([f"**{self.headline}**", "", *markdown(COLUMNS, self._rows())])

    def _rows(self) -> list[list[str]]:
        return [v.row() for v in self.parameters.values()]


def check_formula(
    compute_gradients: Callable[..., dict[str, Any]],
    network: nn.Module,
    x: ArrayLike,
    y: ArrayLike,
    *,
    lam: float = 0.0,
    convention: Convention = "sum",
    entries: int | None = None,
) -> FormulaReport:
    """Judge a hand-written gradient: theirs, generic backpropagation, and finite differences, parameter by parameter.

    Args:
        compute_gradients: ``f(x, y, parameters)`` -> {name: gradient}, in NumPy. ``parameters`` holds float64 arrays
            W1 (out, in), b1 (out,), W2, ... and gamma1, beta1, ... where batch norm follows layer 1. It is also given
            ``lam`` and ``convention`` if it has parameters of these names.
        network: a classifier whose Linear and BatchNorm1d layers come in the order in which they are used; it is
            checked in its present mode (training or evaluation) and stays untouched.
        x, y: images (n, ...) and labels (n,).
        lam, convention: the L2 penalty of the cost, as for ``nn.l2_penalty``; none by default.
        entries: how many entries per parameter to differentiate numerically; all by default.

    Raises:
        ConfigError: the function returns no dict, or lacks a parameter; or the network drops units at random.
        ShapeError: a gradient has a shape that is neither its parameter's nor the transposed one.

    Examples:
        >>> print(check_formula(my_compute_gradients, nn.mlp([3072, 50, 10]), x[:10], y[:10], lam=0.01))
    """
    case = _Case(network, np.asarray(x, np.float64), np.asarray(y), lam, convention)
    theirs = case.ask(compute_gradients)
    report = check_gradients(case.cost, case.parameters, entries="all" if entries is None else entries)
    verdicts = {name: _judge(case, theirs[name], report.parameters[name]) for name in reversed(case.parameters)}
    _explain(case, theirs, verdicts)
    return FormulaReport(verdicts, report)


def document_names(network: nn.Module) -> dict[str, Tensor]:
    """The parameters under the names of the documents: W1, b1, gamma1, beta1, W2, ..."""
    found: dict[str, Tensor] = {}
    layer = 0
    for module in network.modules():
        if isinstance(module, nn.Linear):
            layer += 1
            found[f"W{layer}"] = module.weight
            if module.bias is not None:
                found[f"b{layer}"] = module.bias
        elif isinstance(module, nn.BatchNorm1d):
            found |= {f"gamma{layer}": module.weight, f"beta{layer}": module.bias}
    return found


class _Case:
    """The network in float64, its data and its cost, with the gradients that backpropagation finds."""

    def __init__(self, network: nn.Module, x: Array, y: Array, lam: float, convention: Convention):
        self.model = copy.deepcopy(network).astype(np.float64)
        self.x, self.y, self.lam, self.convention = x, y, lam, convention
        if any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in self.model.modules()):
            raise ConfigError("check_formula: this network drops units at random, which no formula knows; use .eval().")
        self.parameters = document_names(self.model)
        self.gradients = self.backprop()
        self.calls = Counter(step.op.name for step in record(self.cost, self.parameters)[0].steps)
        self.classes = next(len(t) for name, t in reversed(self.parameters.items()) if name.startswith("W"))
        self.largest = max(np.abs(g).max(initial=0) for g in self.gradients.values())

    def cost(self) -> Tensor:
        loss = nn.F.cross_entropy(self.model(Tensor(self.x)), self.y)
        return loss + nn.l2_penalty(self.model, self.lam, self.convention) if self.lam else loss

    def backprop(self) -> dict[str, Array]:
        found = grad(self.cost(), list(self.parameters.values()), allow_unused=True)
        return {name: g.data for name, g in zip(self.parameters, found, strict=True)}

    @property
    def decay(self) -> float:
        return 2 * self.lam if self.convention == "sum" else self.lam

    def ask(self, compute_gradients: Callable[..., Any]) -> dict[str, Array]:
        """The student's gradients, checked for names and shapes. A transposed one is let through."""
        given = {name: t.data.copy() for name, t in self.parameters.items()}
        options = {"lam": self.lam, "convention": self.convention}
        known = inspect.signature(compute_gradients).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in known.values())
        with preserved():
            found = compute_gradients(
                self.x.copy(), self.y.copy(), given, **{k: v for k, v in options.items() if k in known or takes_all}
            )
        if not isinstance(found, dict) or (missing := given.keys() - found.keys()):
            lacks = f"lacks {', '.join(sorted(missing))}" if isinstance(found, dict) else f"is a {type(found).__name__}"
            raise ConfigError(
                f"check_formula: the function must return {{name: gradient}} for {', '.join(given)}; what it returns "
                f"{lacks}."
            )
        return {name: _shaped(name, np.asarray(found[name], np.float64), array.shape) for name, array in given.items()}


def _shaped(name: str, gradient: Array, shape: tuple[int, ...]) -> Array:
    if [n for n in gradient.shape if n != 1] == [n for n in shape if n != 1]:
        return gradient.reshape(shape)  # (50, 1) for (50,) is no mistake
    if gradient.shape == shape[::-1]:
        return gradient
    raise ShapeError(f"check_formula: the gradient of {name} has shape {gradient.shape}, the parameter {shape}.")


def _judge(case: _Case, theirs: Array, report: ParameterReport) -> FormulaVerdict:
    f = report.findings
    turned = theirs.shape != report.shape
    yours = f.probes.of((theirs.T if turned else theirs)[None])[0]
    slack = f.error + CLOSE * max(np.abs(f.analytic).max(initial=0), 1e-3 * case.largest, 1e-300)
    outside = np.abs(yours - f.numeric) > slack
    outside &= ~((f.verdicts == "kink") & between(yours, f.left, f.right, slack))
    outside |= ~np.isfinite(yours) | turned
    off = np.nan_to_num(np.abs(yours - f.numeric) / slack, nan=np.inf)
    worst = int(np.argmax(np.where(outside == outside.any(), off, -1)))
    sides = ["yours"] * bool(outside.any()) + ["backprop"] * (report.verdict == "wrong")
    wrong = "both" if len(sides) > 1 else "".join(sides)
    values = [float(side[worst]) for side in (yours, f.analytic, f.numeric, f.error)]
    return FormulaVerdict(report.name, wrong, f.probes.index(worst, report.shape), *values)


# Which term is wrong -------------------------------------------------------------------------------------------------


def _explain(case: _Case, theirs: dict[str, Array], verdicts: dict[str, FormulaVerdict]) -> None:
    """Fill in ``term`` where yours is wrong."""
    wrong = [v for v in verdicts.values() if v.yours_wrong]
    for verdict in wrong:
        verdict.term = _simple(case, verdict.name, theirs[verdict.name])
    terms = {v.term for v in wrong}
    if len(terms) > 1 or "" in terms:
        text, explained = _fault(case, theirs, [v.name for v in wrong])
        for verdict in wrong:
            if not verdict.term or len(explained) == len(wrong):  # one mistake for all is likelier than one for each
                verdict.term = text if verdict.name in explained else "no known mistake explains it"


def _simple(case: _Case, name: str, theirs: Array) -> str:
    """A mistake in this parameter alone: shape, factor, or the L2 term. Empty if it is none of these."""
    parameter, right = case.parameters[name].data, case.gradients[name]
    if not np.isfinite(theirs).all():
        return "inf or nan"
    if theirs.shape != right.shape or (right.ndim == 2 and theirs.shape == right.T.shape and _same(theirs.T, right)):
        return "transposed"
    if not theirs.any():
        return "missing: all zeros"
    if theirs.size <= 2:  # any two numbers are so much of one term and so much of another
        a = float(np.vdot(theirs, right) / np.vdot(right, right)) if right.any() else 0.0
        known = _known(a, case) or math.isclose(abs(a), 1, rel_tol=1e-6)
        return _factor(a, case) or ROUNDED if known and _same(a * right, theirs) else ""
    decay = case.decay if name.startswith("W") else 0.0
    data = right - decay * parameter
    terms = np.stack([data.ravel(), parameter.ravel()], 1)
    (a, c), *_ = np.linalg.lstsq(terms, theirs.ravel(), rcond=None)
    if not _same(terms @ [a, c], theirs.ravel()):
        return ""
    said = [_factor(a, case)]
    if abs(c - decay) > 1e-6 * max(abs(c), decay) and not _same(terms @ [a, decay], theirs.ravel()):
        said.append(_l2(c, case, name))
    return ", ".join(filter(None, said)) or ROUNDED


def _same(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).max(initial=0) <= 1e-6 * np.abs(b).max(initial=0))


def _known(a: float, case: _Case) -> str:
    """What may have made a factor, side by side where n or the number of classes leaves it open; "" if nothing has."""
    n, k = len(case.x), case.classes
    known = [
        (2, "factor 2"), (0.5, "factor 1/2"), (n, f"1/n missing (n = {n})"), (1 / n, f"1/n twice (n = {n})"),
        (n / (n - 1) if n > 2 else 1, "n - 1 for n"), (n / k, f"divided by the {k} classes, not the {n} images"),
    ]  # fmt: skip
    return ", or ".join(text for value, text in known if value != 1 and math.isclose(abs(a), value, rel_tol=1e-6))


def _factor(a: float, case: _Case) -> str:
    if math.isclose(abs(a), 1, rel_tol=1e-6):
        return "sign" if a < 0 else ""
    return ("sign, " if a < 0 else "") + (_known(a, case) or f"factor {abs(a):.6g}")


def _l2(c: float, case: _Case, name: str) -> str:
    """Of a gradient that contains c times its parameter, where ``case.decay`` times it is right."""
    two, symbol = case.decay, "2λW" if case.convention == "sum" else "λW"
    if not name.startswith("W"):
        return f"an L2 term of {c:.4g} times the parameter: only weights have one"
    known = {
        0.0: f"L2 term missing: the difference is {symbol}",
        -two: "sign of the L2 term",
        two / len(case.x): "L2 term divided by n",
        two * len(case.x): "L2 term multiplied by n",
        two / 2: "L2 term: half of it" if case.convention == "half" else "L2 term: λW in the place of 2λW",
        2 * two: "L2 term: 2λW in the place of λW" if case.convention == "half" else "L2 term: twice of it",
    }
    text = next((t for value, t in known.items() if abs(c - value) <= 1e-6 * max(abs(two), abs(c))), "")
    return text or f"L2 term: {c:.4g} W in the place of {two:.4g} W"


def _fault(case: _Case, theirs: dict[str, Array], wrong: list[str]) -> tuple[str, list[str]]:
    """The mistake in a layer's formula that explains most of the wrong parameters, the first of them included.

    Where several make the same gradients on this data, all of them.
    """
    best: list[str] = []
    texts: list[str] = []
    for text, gradients in _mistaken(case):
        explained = [name for name in wrong if _equal(gradients[name], theirs[name], case)]
        rest = [name for name in theirs if name not in wrong]
        fits = all(_equal(gradients[name], theirs[name], case) for name in rest)
        if wrong[0] not in explained or not fits:
            continue
        if len(explained) > len(best):
            best, texts = explained, [text]
        elif explained == best and not any(text.startswith(t) for t in texts):
            texts.append(text)  # on this data, both make the same gradients
    return ", or ".join(texts), best


def _equal(a: Array, b: Array, case: _Case) -> bool:
    return a.shape == b.shape and bool(
        np.abs(a - b).max(initial=0) <= 1e-6 * max(np.abs(b).max(initial=0), 1e-3 * case.largest)
    )


def _mistaken(case: _Case) -> Iterator[tuple[str, dict[str, Array]]]:
    """What backpropagation would find if it made the mistakes of ``faults``: in every layer, or in one."""
    for op, mistakes in FAULTS.items():
        count = case.calls[op]
        for text, rule in mistakes.items():
            for only in [None, *range(count)] if count > 1 else [None] * count:
                where = "" if only is None else f", in layer {count - only}"
                with replaced_rule(op, rule, only):
                    yield text + where, case.backprop()


def _layer(name: str) -> int:
    return int("".join(filter(str.isdigit, name)))
