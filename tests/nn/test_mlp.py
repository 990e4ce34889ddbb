"""The builder of the documents' networks."""

from typing import Any

import numpy as np
import pytest

from tinygrad_cifar import nn
from tinygrad_cifar.errors import ConfigError


def kinds(net: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in net]


def test_the_order_of_layers() -> None:
    net = nn.mlp([8, 6, 4, 2], activation="tanh", batch_norm=True, dropout=0.2)
    block = ["Linear", "BatchNorm1d", "Tanh", "Dropout"]
    assert kinds(net) == [*block, *block, "Linear"]
    assert kinds(nn.mlp([8, 2])) == ["Linear"]
    assert kinds(nn.mlp([8, 6, 2])) == ["Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("name", nn.ACTIVATIONS)
def test_every_activation_runs_in_both_precisions(name: str) -> None:
    for dtype in (np.float32, np.float64):
        net = nn.mlp([5, 4, 3], activation=name, batch_norm=True, dtype=dtype)
        out = net(np.ones((2, 5), dtype))
        assert out.dtype == dtype
        assert {p.dtype for p in net.parameters()} == {np.dtype(dtype)}


@pytest.mark.parametrize(("init", "std"), [("he", np.sqrt(2 / 400)), ("xavier", np.sqrt(2 / 500)), (0.03, 0.03)])
def test_initialisation(init: Any, std: float) -> None:
    net = nn.mlp([400, 100, 2], init=init)
    assert net[0].weight.data.std() == pytest.approx(std, rel=0.02)
    assert not net[0].bias.data.any()


def test_without_bias() -> None:
    assert [name for name, _ in nn.mlp([4, 3, 2], bias=False).named_parameters()] == ["0.weight", "2.weight"]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="input and the output size"):
        nn.mlp([10])
    with pytest.raises(ConfigError, match="unknown activation 'rleu'; there are relu"):
        nn.mlp([4, 2], activation="rleu")
    with pytest.raises(ConfigError, match=r'unknown initialiser .*"he"'):
        nn.mlp([4, 2], init="kaiming")  # type: ignore[arg-type]
