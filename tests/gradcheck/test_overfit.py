"""The overfit check: a network that can learn does, one that cannot is told why, and nothing else changes."""

from typing import Any

import numpy as np
import pytest

from tinygrad_cifar import nn, random
from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.gradcheck import overfits
from tinygrad_cifar.gradcheck.faults import cross_entropy, replaced_rule
from tinygrad_cifar.tensor import Tensor

RNG = np.random.default_rng(0)
BATCH = RNG.standard_normal((20, 30)).astype(np.float32), RNG.integers(0, 5, 20)


@pytest.mark.parametrize("settings", [{}, {"batch_norm": True}, {"dropout": 0.5}, {"dtype": np.float64}])
def test_a_network_learns_by_heart(settings: dict[str, Any]) -> None:
    verdict = overfits(nn.mlp([30, 20, 5], **settings), BATCH)
    assert verdict, verdict
    assert verdict.losses[-1] < 0.01
    assert verdict.accuracy == 1
    assert str(verdict).startswith("overfits: loss ")
    assert str(verdict).endswith(f"in {len(verdict.losses) - 1} steps")


def test_model_and_random_streams_stay_as_they_were() -> None:
    model = nn.mlp([30, 20, 5], batch_norm=True, dropout=0.5).eval()
    before = model.state_dict()
    states = {name: random.stream(name).bit_generator.state for name in ("init", "dropout")}
    overfits(model, BATCH, steps=3)
    assert not model.training
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.5}
    assert all(p.grad is None for p in model.parameters())
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    for name, state in states.items():
        assert random.stream(name).bit_generator.state == state


TWINS = np.repeat(BATCH[0][:10], 2, 0), BATCH[1]


def dead() -> nn.Sequential:
    model = nn.mlp([30, 20, 5])
    model[0].bias.data[...] = -1e3
    nn.init.zeros(model[2].weight)
    return model


def frozen() -> nn.Sequential:
    model = nn.mlp([30, 5])
    for parameter in model.parameters():
        parameter.requires_grad = False
    return model


class Then(nn.Module):
    """A network whose scores go through ``last``."""

    def __init__(self, last: Any, middle: Any = lambda h: h) -> None:
        self.first, self.second = nn.Linear(30, 20), nn.Linear(20, 5)
        self.middle, self.last = middle, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.middle(self.first(x)).relu()))


@pytest.mark.parametrize(
    ("model", "batch", "options", "reason"),
    [
        (lambda: nn.mlp([30, 20, 5]), TWINS, {"lr": 0.05, "steps": 300}, "equal images"),
        (dead, BATCH, {"steps": 50}, "0.weight, 0.bias, 2.weight never moved"),
        (frozen, BATCH, {}, "no parameter requires a gradient"),
        (lambda: nn.mlp([30, 20, 5]), BATCH, {"steps": 10, "lr": 1e-3}, "still falls"),
        (lambda: nn.mlp([30, 20, 5]), BATCH, {"steps": 20, "lr": 1e-6}, "still falls"),
        (lambda: nn.mlp([30, 20, 5]), BATCH, {"steps": 20, "lr": 0.0}, "never moved: lr=0 is too small"),
        (lambda: nn.mlp([30, 20, 5]), BATCH, {"steps": 20, "lr": 1e-12}, "never moved: lr=1e-12 is too small"),
        (lambda: Then(nn.F.softmax), BATCH, {"steps": 200}, "scores are probabilities"),
        (lambda: Then(nn.F.relu), BATCH, {"steps": 200}, "scores are cut off at 0"),
        (lambda: Then(lambda s: s, lambda h: h.detach()), BATCH, {"steps": 20},
         "first.weight, first.bias never moved: no gradient at all, so unused, or cut off"),
        (lambda: nn.mlp([30, 20, 5]), (np.full((20, 30), np.nan), BATCH[1]), {}, "the loss is nan at step 0"),
        (lambda: nn.mlp([30, 20, 5]), BATCH, {"steps": 60, "lr": 3.0, "target": 0.0}, "jumps up and down: lower lr=3"),
        (lambda: nn.mlp([30, 2, 5]), BATCH, {"steps": 60, "lr": 0.5}, "the loss is stuck: more hidden units"),
    ],
)  # fmt: skip
def test_it_says_why_not(model: Any, batch: Any, options: dict[str, Any], reason: str) -> None:
    verdict = overfits(model(), batch, **options)
    assert not verdict
    assert reason in str(verdict)
    assert str(verdict).startswith("does not overfit: loss ")


def test_a_wrong_sign_makes_the_loss_rise() -> None:
    with replaced_rule("softmax_cross_entropy", cross_entropy(lambda p, y, s: y - p)):
        verdict = overfits(nn.mlp([30, 20, 5], dtype=np.float64), BATCH, steps=50)
    assert not verdict
    assert "the loss rose" in verdict.reason


def test_a_model_without_parameters_is_named() -> None:
    with pytest.raises(ConfigError, match="ReLU has no parameters"):
        overfits(nn.ReLU(), (np.ones((4, 10)), np.arange(4)))
