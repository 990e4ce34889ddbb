"""Random small networks, correct but awkward: what a gradient checker has to get right.

Kinks placed on purpose, dead units, biases before batch norm, saturated units, dropout, L2, weights and images of any
size from 1e-4 to 1e3, float32 and float64. ``strategies.networks()`` draws them for property tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

from tinygrad_cifar import nn
from tinygrad_cifar.random import preserved
from tinygrad_cifar.tensor import Array, Tensor

CHOICES: dict[str, Sequence[Any]] = {
    "layers": range(1, 10),
    "width": range(1, 9),
    "inputs": range(1, 9),
    "classes": range(2, 6),
    "batch": range(2, 7),
    "activation": ("relu", "sigmoid", "tanh", "leaky_relu"),
    "batch_norm": (False, True),
    "bias": (True, True, False),
    "dropout": (0.0, 0.0, 0.3),
    "dead": (False, False, True),
    "kink": ("none", "exact", "near"),
    "scale": tuple(10.0**k for k in range(-4, 4)),
    "image_scale": (1.0, 1.0, 1e-4, 1e3),
    "lam": (0.0, 0.01, 1.0),
    "convention": ("sum", "half"),
    "dtype": ("float32", "float64"),
    "seed": range(2**31),
}
"""From what each setting of a RandomNetwork is drawn; what stands twice is drawn twice as often."""


@dataclass(frozen=True)
class RandomNetwork:
    """A classifier with images, labels and a loss, all decided by these settings: its repr builds it again.

    Args:
        layers: linear layers, 1 to 9; after each but the last come batch norm, activation and dropout.
        width: units of a hidden layer.
        scale: how much larger than He's the weights are.
        dead: the last unit of each hidden layer is off (or saturated) for every image.
        kink: "exact": image 0 and the biases are zero, so first-layer units stand exactly on their kink; "near": unit 0
            of each hidden layer stands within 1e-9 of it for image 0.
    """

    layers: int = 2
    width: int = 4
    inputs: int = 5
    classes: int = 3
    batch: int = 4
    activation: str = "relu"
    batch_norm: bool = False
    bias: bool = True
    dropout: float = 0.0
    dead: bool = False
    kink: Literal["none", "exact", "near"] = "none"
    scale: float = 1.0
    image_scale: float = 1.0
    lam: float = 0.0
    convention: Literal["sum", "half"] = "sum"
    dtype: str = "float64"
    seed: int = 0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """Every setting drawn from its ``CHOICES``."""
        return cls(**{name: values[int(rng.integers(len(values)))] for name, values in CHOICES.items()})

    @cached_property
    def x(self) -> Array:
        """The images, (batch, inputs)."""
        x = self.image_scale * np.random.default_rng([self.seed, 0]).standard_normal((self.batch, self.inputs))
        if self.kink == "exact":
            x[0] = 0
        return x.astype(self.dtype)

    @cached_property
    def y(self) -> Array:
        """The labels, (batch,)."""
        return np.random.default_rng([self.seed, 1]).integers(0, self.classes, self.batch)

    @cached_property
    def model(self) -> nn.Sequential:
        sizes = [self.inputs, *[self.width] * (self.layers - 1), self.classes]
        with preserved():
            model = nn.mlp(sizes, self.activation, self.batch_norm, self.dropout, self.bias, dtype=self.dtype)
        rng = np.random.default_rng([self.seed, 2])
        for name, parameter in model.named_parameters():
            self._fill(name, parameter, rng)
        self._place(model)
        return model

    def loss(self) -> Tensor:
        """The cost: softmax cross-entropy, plus the L2 penalty where there is one."""
        cost = nn.F.cross_entropy(self.model(Tensor(self.x)), self.y)
        return cost + nn.l2_penalty(self.model, self.lam, self.convention) if self.lam else cost

    def __repr__(self) -> str:
        changed = [f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name)) != f.default]
        return f"RandomNetwork({', '.join(changed)})"

    def _fill(self, name: str, parameter: Tensor, rng: np.random.Generator) -> None:
        noise = rng.standard_normal(parameter.shape)
        if parameter.ndim == 2:
            parameter.data[...] = self.scale * np.sqrt(2 / parameter.shape[1]) * noise
        elif name.endswith("weight"):  # batch norm's
            parameter.data[...] = 1 + 0.3 * noise
        else:
            parameter.data[...] = 0 if self.kink == "exact" else 0.1 * self.scale * noise

    def _place(self, model: nn.Sequential) -> None:
        """Move the biases that feed an activation, layer by layer, so that units are dead or close to a kink."""
        before = h = Tensor(self.x)
        feeding: Any = None
        for module in model:
            if isinstance(module, tuple(nn.ACTIVATIONS.values())) and feeding.bias is not None:
                if self.kink == "near":
                    feeding.bias.data[0] -= h.data[0, 0] * (1 - 1e-9)
                if self.dead:
                    feeding.bias.data[-1] -= 2 * np.abs(h.data[:, -1]).max() + 10
                h = feeding(before)
            if isinstance(module, nn.Linear | nn.BatchNorm1d):
                feeding, before = module, h
            if not isinstance(module, nn.Dropout):
                h = module(h)
        for module in model:
            if isinstance(module, nn.BatchNorm1d):
                nn.init.zeros(module.running_mean)
                nn.init.ones(module.running_var)
