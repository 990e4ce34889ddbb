"""Gradient checks that say which side is wrong, and why."""

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
