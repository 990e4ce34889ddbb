"""A table of a network's layers: output shapes, parameters and arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cifar.nn.layers import BatchNorm1d, Dropout, Flatten, Identity, Linear
from tinygrad_cifar.nn.module import Module, count_parameters, preserved_modes
from tinygrad_cifar.tables import lined_up
from tinygrad_cifar.tensor import Tensor, no_grad


@dataclass(frozen=True)
class Layer:
    """One row of a summary: a module without children."""

    name: str  # dotted, as in state_dict
    kind: str
    output_shape: tuple[int, ...]  # of one sample
    parameters: int
    flops: int | None  # per sample, forward; None where nobody knows


@dataclass(frozen=True)
class Summary:
    """What ``summary`` returns; ``str`` of it is the table.

    FLOPs are floating-point operations of one sample's forward pass in evaluation. Counted are: Linear, 2 in out
    (a multiplication and an addition per weight) and out more for the bias; BatchNorm1d, 2 per feature (scale and
    shift); an activation, 1 per feature, although exp costs more; Flatten, Dropout and Identity, 0.
    Of modules written elsewhere nothing is known: "?".
    A training step costs about three times as much: the backward pass repeats each matrix product twice.
    """

    title: str
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    parameters: int  # shared ones once

    @property
    def flops(self) -> int:
        """The total of all layers where it is known."""
        return sum(layer.flops or 0 for layer in self.layers)

    def __str__(self) -> str:
        rows = [("", "input", _shape(self.input_shape), "", "")]
        for layer in self.layers:
            flops = "?" if layer.flops is None else f"{layer.flops:,}"
            rows.append((layer.name, layer.kind, _shape(layer.output_shape), f"{layer.parameters:,}", flops))
        rows += [("total", self.title, "", f"{self.parameters:,}", f"{self.flops:,}")]
        header, *lines, total = lined_up(("layer", "kind", "output", "parameters", "FLOPs"), rows, 3)
        rule = "-" * len(header)
        return "\n".join([header, rule, *lines, rule, total])

    __repr__ = __str__


def summary(model: Module, input_shape: Sequence[int]) -> Summary:
    """The layers of ``model`` as a table, found by one forward pass of a zero batch of one sample.

    Nothing changes by it: it runs in evaluation mode without a graph, and every mode is put back.

    Args:
        model: any Module; rows are the modules without children, in the order in which they ran.
        input_shape: the shape of one sample, without the batch axis: (3072,).

    Examples:
        >>> print(summary(mlp([3072, 50, 10]), (3072,)))
    """
    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    rows: list[Layer] = []
    leaves = [(name, module) for name, module in model.named_modules() if not any(module.named_children())]
    removers = [module.register_forward_hook(_observer(name, rows)) for name, module in leaves]
    try:
        with no_grad(), preserved_modes(model):
            model.eval()(Tensor(np.zeros((1, *input_shape), dtype)))
    finally:
        for remove in removers:
            remove()
    return Summary(type(model).__name__, tuple(input_shape), tuple(rows), count_parameters(model))


def _observer(name: str, rows: list[Layer]) -> Any:
    def observe(module: Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        parameters = sum(p.size for _, p in module._own_parameters())
        shape = output.shape[1:]
        rows.append(Layer(name, type(module).__name__, shape, parameters, _flops(module, math.prod(shape))))

    return observe


def _flops(module: Module, outputs: int) -> int | None:
    if isinstance(module, Linear):
        return outputs * (2 * module.in_features + (module.bias is not None))
    if isinstance(module, BatchNorm1d):
        return 2 * outputs
    if isinstance(module, Flatten | Dropout | Identity):
        return 0
    return outputs if type(module).__module__.startswith("tinygrad_cifar.nn") else None


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"
