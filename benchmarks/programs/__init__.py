"""One file a program: the same training step, written as a user of that framework would write it.

A **step** is: given x (batch, inputs) and int64 labels (batch,), both lying ready in memory in the framework's own
type, clear the gradients, forward, mean cross entropy (its value is computed and left unread), backward, one update
of all parameters by SGD or Adam with PyTorch's defaults. No penalty. Every linear layer has a bias; batch norm is
PyTorch's: eps 1e-5, running averages moved with momentum 0.1. Thread counts are left at each framework's default.

``limit`` alone does less: it is the floor that the others are measured against.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.networks import Network, batches

PROGRAMS = (
    "limit",
    "numpy_hand",
    "torch_eager",
    "torch_compile",
    "jax_jit",
    "autograd",
    "mygrad",
    "tinygrad_jit",
    "tinygrad_cifar_eager",
    "tinygrad_cifar_compile",
)


class SkipProgramError(Exception):
    """This program cannot run here; the message says why."""


class Program(NamedTuple):
    """What a file of this folder makes of a network."""

    step: Callable[[Any, Any], Any]  # x, labels -> loss
    prepare: Callable[[Any, Any], tuple[Any, Any]] = lambda x, labels: (x, labels)
    wait: Callable[[Any], None] = lambda loss: None  # until the step that returned this loss is done


def load(name: str, network: Network) -> Program:
    """Build the program ``name``; ImportError or SkipProgramError where it cannot be had."""
    return importlib.import_module(f"benchmarks.programs.{name}").program(network)


def losses(name: str, network: Network, count: int = 6) -> list[float]:
    """The losses of the first ``count`` steps: equal between programs that compute the same thing.

    Two batches take turns, so that every loss after the second shows what the updates before it did.
    """
    program = load(name, network)
    ready = [program.prepare(x, labels) for x, labels in batches(network, 2)]
    return [program.step(*ready[i % 2]).item() for i in range(count)]
