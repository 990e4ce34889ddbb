"""Gradient checks that say which side is wrong, and why."""

from tinygrad_cifar.gradcheck.check import check_gradients
from tinygrad_cifar.gradcheck.methods import MethodComparison, compare_methods
from tinygrad_cifar.gradcheck.numeric import central_difference, complex_step, extrapolated, forward_difference
from tinygrad_cifar.gradcheck.report import Blame, GradientReport, ParameterReport

__all__ = [
    "Blame",
    "GradientReport",
    "MethodComparison",
    "ParameterReport",
    "central_difference",
    "check_gradients",
    "compare_methods",
    "complex_step",
    "extrapolated",
    "forward_difference",
]
