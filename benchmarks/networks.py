"""The networks that are timed, their starting weights and their batches: the same for every program."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LEARNING_RATES = {"sgd": 0.01, "adam": 0.001}


@dataclass(frozen=True)
class Network:
    """A fully connected classifier: after every layer but the last, [batch norm,] activation."""

    sizes: tuple[int, ...]
    batch: int = 100
    batch_norm: bool = False
    activation: str = "relu"  # or "sigmoid"
    optimizer: str = "sgd"  # or "adam"
    dtype: str = "float32"

    @property
    def learning_rate(self) -> float:
        return LEARNING_RATES[self.optimizer]

    def __str__(self) -> str:
        sizes = "-".join(map(str, self.sizes)) if len(self.sizes) < 7 else f"{len(self.sizes) - 1} layers"
        words = [
            sizes,
            "BN" * self.batch_norm,
            "sigmoid" * (self.activation == "sigmoid"),
            "Adam" * (self.optimizer == "adam"),
        ]
        return " ".join(filter(None, words)) + f", {self.batch}"


NETWORKS = {
    "1-layer": Network((3072, 10)),
    "2-layer": Network((3072, 50, 10)),
    "3-layer-bn": Network((3072, 50, 50, 10), batch_norm=True),
    "9-layer-bn": Network((3072, 50, 30, 20, 20, 10, 10, 10, 10, 10), batch_norm=True),
    "sigmoid-adam": Network((3072, 100, 100, 10), batch=64, activation="sigmoid", optimizer="adam"),
    "wide-bn": Network((3072, 512, 512, 10), batch_norm=True),
}


class Layer(NamedTuple):
    """Starting values of one layer; ``gamma`` and ``beta`` are None where no batch norm follows."""

    weight: np.ndarray  # (in, out)
    bias: np.ndarray  # (out,)
    gamma: np.ndarray | None
    beta: np.ndarray | None


def layers(network: Network) -> list[Layer]:
    """Fresh starting values, the same at every call: He's, or Xavier's before a sigmoid."""
    rng = np.random.default_rng(0)
    gain = 2.0 if network.activation == "relu" else 1.0
    result = []
    for i, (fan_in, fan_out) in enumerate(zip(network.sizes, network.sizes[1:], strict=False)):
        weight = (rng.standard_normal((fan_in, fan_out)) * np.sqrt(gain / fan_in)).astype(network.dtype)
        bias = np.zeros(fan_out, network.dtype)
        normed = network.batch_norm and i < len(network.sizes) - 2
        gamma, beta = (np.ones_like(bias), np.zeros_like(bias)) if normed else (None, None)
        result.append(Layer(weight, bias, gamma, beta))
    return result


def state_dict(network: Network) -> dict[str, np.ndarray]:
    """The starting values under the names that ``nn.Sequential`` gives them, here and in PyTorch."""
    state, position = {}, 0
    for weight, bias, gamma, beta in layers(network):
        state |= {f"{position}.weight": weight.T, f"{position}.bias": bias}
        position += 1
        if gamma is not None:
            state |= {f"{position}.weight": gamma, f"{position}.bias": beta}
            state |= {f"{position}.running_mean": np.zeros_like(bias), f"{position}.running_var": np.ones_like(bias)}
            state |= {f"{position}.num_batches_tracked": np.zeros((), np.int64)}
            position += 1
        position += 1  # the activation
    return state


def batches(network: Network, count: int = 8) -> list[tuple[np.ndarray, np.ndarray]]:
    """``count`` different batches: standard normal x (batch, inputs) and int64 labels (batch,) in [0, classes)."""
    rng = np.random.default_rng(1)
    return [
        (
            rng.standard_normal((network.batch, network.sizes[0]), dtype=np.float32).astype(network.dtype),
            rng.integers(network.sizes[-1], size=network.batch),
        )
        for _ in range(count)
    ]
