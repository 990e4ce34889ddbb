"""tinygrad_cifar: a small, checkable, fast autograd framework on NumPy."""

import importlib
from typing import TYPE_CHECKING, Any

from tinygrad_cifar import errors, ops  # noqa: F401  (importing ops fills the registry)
from tinygrad_cifar.engine import backward, grad, hvp, jacobian
from tinygrad_cifar.random import manual_seed
from tinygrad_cifar.tensor import Tensor, custom_op, detect_anomaly, enable_grad, is_recording, no_grad

if TYPE_CHECKING:  # what an editor completes; a program gets them from __getattr__
    from tinygrad_cifar import compiler, data, gradcheck, nn, optim, recipes, report, search, train, viz
    from tinygrad_cifar.compiler import compile
    from tinygrad_cifar.gradcheck import check_gradients

__version__ = "0.1.0"

__all__ = [
    "Tensor", "backward", "check_gradients", "compile", "compiler", "custom_op", "data", "detect_anomaly",
    "enable_grad", "errors", "grad", "gradcheck", "hvp", "is_recording", "jacobian", "manual_seed", "nn", "no_grad",
    "optim", "recipes", "report", "search", "train", "viz",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The other rooms are imported when they are first used, so that the core stays quick to import."""
    if name == "compile":
        return importlib.import_module("tinygrad_cifar.compiler").compile
    if name == "check_gradients":
        return importlib.import_module("tinygrad_cifar.gradcheck").check_gradients
    if name in __all__:
        return importlib.import_module(f"tinygrad_cifar.{name}")
    raise AttributeError(f"module 'tinygrad_cifar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
