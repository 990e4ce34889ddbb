"""Gradient checks that say which side is wrong, and why.

The files, in an order in which to read them:

    check            what a check does, from f to the report
    replay, state    f is called once, its ops are recorded; whatever it changes is put back
    numeric          slopes from differences, with error bars; complex steps
    probe            the numeric side: slopes of a recorded program by the entries of one leaf
    stacked, ways, sparse   many changed copies of a program at once; how each op takes them; changes of one entry
    kinks            where the ops have kinks, and how far from them each unit is
    verdicts         both sides of each entry, and what they mean
    reasons          why an entry is zero, a kink or unresolved
    blame, patterns  which op is wrong, and what its error looks like
    unrecorded       whether f does more than its record tells
    report           what is printed

Beside these, for gradients that were derived by hand, and for tests:

    formulas, faults, formula_check   gradients in NumPy, the classic mistakes, and who is wrong
    methods, documents                the tables of assignments, with differences of one step
    overfit                           can a network learn a few images by heart?
    random_networks, strategies       what property tests draw; check_op
"""

import importlib
from typing import Any

from tinygrad_cifar.gradcheck import documents, formulas
from tinygrad_cifar.gradcheck.check import check_gradients
from tinygrad_cifar.gradcheck.formula_check import FormulaReport, FormulaVerdict, check_formula
from tinygrad_cifar.gradcheck.methods import MethodComparison, compare_methods
from tinygrad_cifar.gradcheck.numeric import central_difference, complex_step, extrapolated, forward_difference
from tinygrad_cifar.gradcheck.overfit import Overfit, overfits
from tinygrad_cifar.gradcheck.report import Blame, GradientReport, ParameterReport

__all__ = [
    "Blame",
    "FormulaReport",
    "FormulaVerdict",
    "GradientReport",
    "MethodComparison",
    "Overfit",
    "ParameterReport",
    "central_difference",
    "check_formula",
    "check_gradients",
    "compare_methods",
    "complex_step",
    "documents",
    "extrapolated",
    "formulas",
    "forward_difference",
    "overfits",
    "strategies",
]


def __getattr__(name: str) -> Any:
    """``strategies`` needs hypothesis, so it is imported when it is first used."""
    if name == "strategies":
        return importlib.import_module("tinygrad_cifar.gradcheck.strategies")
    raise AttributeError(f"module 'tinygrad_cifar.gradcheck' has no attribute {name!r}")
