"""The L2 penalty: both conventions, weights only, one node."""

from typing import Any

import numpy as np
import pytest

from tinygrad_cifar import Tensor, nn
from tinygrad_cifar.errors import ConfigError


@pytest.mark.parametrize(("convention", "factor"), [("sum", 1.0), ("half", 0.5)])
def test_penalty_counts_weights_only(convention: Any, factor: float) -> None:
    net = nn.mlp([4, 3, 2], batch_norm=True, dtype=np.float64)
    penalty = nn.l2_penalty(net, 0.1, convention)
    weights = [net[0].weight, net[3].weight]
    assert penalty.item() == pytest.approx(factor * 0.1 * sum((w.data**2).sum() for w in weights))
    assert penalty.node is not None
    assert len(penalty.node.parents) == 2
    penalty.backward()
    for w in weights:
        np.testing.assert_allclose(w.grad.data, 2 * factor * 0.1 * w.data)
        assert w.grad.data.T.flags.c_contiguous
    others = [p for p in net.parameters() if p.ndim == 1]
    assert len(others) == 4
    assert all(p.grad is None for p in others)


def test_shared_weights_count_once_and_plain_tensors_count() -> None:
    layer = nn.Linear(3, 3)
    once = nn.l2_penalty(nn.Sequential(layer), 1.0).item()
    assert nn.l2_penalty(nn.Sequential(layer, layer), 1.0).item() == once

    class Plain(nn.Module):
        def __init__(self) -> None:
            self.weight = Tensor(np.full((2, 2), 3.0), requires_grad=True)

    assert nn.l2_penalty(Plain(), 1.0).item() == 36


def test_nonsense_is_refused() -> None:
    net = nn.mlp([3, 2])
    with pytest.raises(ConfigError, match='"sum" or "half"'):
        nn.l2_penalty(net, 0.1, "mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lam >= 0"):
        nn.l2_penalty(net, -0.1)
    with pytest.raises(ConfigError, match="lam >= 0"):
        nn.l2_penalty(net, float("nan"))
    with pytest.raises(ConfigError, match="has no weights"):
        nn.l2_penalty(nn.ReLU(), 0.1)
