"""tinygrad_cifar: a small, checkable, fast autograd framework on NumPy."""

import importlib
from typing import Any

from tinygrad_cifar import errors, ops  # noqa: F401  (importing ops fills the registry)
from tinygrad_cifar.engine import backward, grad, hvp, jacobian
from tinygrad_cifar.random import manual_seed
from tinygrad_cifar.tensor import Tensor, custom_op, detect_anomaly, enable_grad, is_recording, no_grad

__version__ = "0.1.0"

_ROOMS = {"nn", "optim", "data", "train", "viz", "gradcheck", "compiler"}

__all__ = [
    "Tensor", "backward", "check_gradients", "compile", "custom_op", "detect_anomaly", "enable_grad", "errors", "grad",
    "hvp", "is_recording", "jacobian", "manual_seed", "no_grad", *sorted(_ROOMS),
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The other rooms are imported when they are first used, so that the core stays quick to import."""
    if name in _ROOMS:
        return importlib.import_module(f"tinygrad_cifar.{name}")
    if name == "compile":
        return importlib.import_module("tinygrad_cifar.compiler").compile
    if name == "check_gradients":
        return importlib.import_module("tinygrad_cifar.gradcheck").check_gradients
    raise AttributeError(f"module 'tinygrad_cifar' has no attribute {name!r}")
