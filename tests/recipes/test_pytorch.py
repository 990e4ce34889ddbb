"""The whole of a training, held against PyTorch: same weights, same batches, same figures."""

from types import ModuleType
from typing import Any

import pytest

from tests.recipes.conftest import SMALL
from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.recipes.pytorch import train_in_pytorch
from tinygrad_cifar.train import Config, run
from tinygrad_cifar.train.runs import numbers

BASE = SMALL.with_settings(hidden=(8, 6), dtype="float64", epochs=2)
TRIANGULAR = BASE.with_settings(schedule="triangular", n_s=4, eta_max=0.1)
SIGMOID = BASE.with_settings(activation="sigmoid", init="xavier")
MOMENTUM = BASE.with_settings(momentum=0.9, schedule="exponential", lr=0.02, gamma=0.5)

CONFIGS: dict[str, Config] = {
    "softmax": BASE.with_settings(hidden=(), standardise="mean"),
    "sgd": BASE,
    "batch norm": BASE.with_settings(batch_norm=True),
    "penalty, sum": TRIANGULAR.with_settings(batch_norm=True, lam=0.05),
    "penalty, half": TRIANGULAR.with_settings(lam=0.05, l2_convention="half"),
    "augmented, warmed up": BASE.with_settings(augment_flip=True, augment_shift=2, schedule="cosine", warm_up=3),
    "momentum": MOMENTUM,
    "classic momentum": MOMENTUM.with_settings(momentum_form="classic"),
    "Nesterov": MOMENTUM.with_settings(nesterov=True),
    "classic Nesterov": MOMENTUM.with_settings(nesterov=True, momentum_form="classic"),
    "sigmoid, Adam": SIGMOID.with_settings(optimizer="adam", lr=0.01),
    "AdamW": BASE.with_settings(optimizer="adamw", weight_decay=0.1, lr=0.01, activation="gelu"),
    "RMSprop": BASE.with_settings(optimizer="rmsprop", momentum=0.5, lr=0.001, activation="tanh"),
    "AdaGrad": BASE.with_settings(optimizer="adagrad", lr=0.01, activation="leaky_relu"),
}


def flat(scores: dict[str, Any]) -> dict[str, float]:
    """{"test loss": ...} of {"test": {"loss": ...}}."""
    named = {name: score if isinstance(score, dict) else {"": score} for name, score in scores.items()}
    return {f"{name} {what}": number for name, score in named.items() for what, number in score.items()}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_both_end_at_the_same_figures(torch: ModuleType, tiny: Cifar10, config: Config) -> None:
    ours, theirs = numbers(run(config, data=tiny)), train_in_pytorch(config, tiny)
    assert theirs["version"] == torch.__version__
    assert not theirs["failed"]
    assert (theirs["epochs"], theirs["steps"]) == (ours["epochs"], ours["steps"])
    for weights in ("final", "best"):
        assert flat(theirs[weights]) == pytest.approx(flat(ours[weights]), rel=1e-9)


def test_the_comparison_sees_which_momentum_it_is(torch: ModuleType, tiny: Cifar10) -> None:
    """The two forms part when the rate changes, so agreement above is no accident."""
    losses = [
        train_in_pytorch(CONFIGS[name], tiny)["final"]["test"]["loss"] for name in ("momentum", "classic momentum")
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_float32_agrees_to_its_rounding(torch: ModuleType, tiny: Cifar10) -> None:
    config = BASE.with_settings(dtype="float32")
    ours, theirs = numbers(run(config, data=tiny)), train_in_pytorch(config, tiny)
    assert theirs["final"]["val"]["loss"] == pytest.approx(ours["final"]["val"]["loss"], rel=1e-4)


def test_a_divergence_is_a_result(torch: ModuleType, tiny: Cifar10) -> None:
    threads = torch.get_num_threads()
    outcome = train_in_pytorch(BASE.with_settings(lr=1e300), tiny)
    assert "the cost at step" in outcome["failed"]
    assert "final" not in outcome
    assert torch.get_num_threads() == threads


def test_dropout_is_refused(torch: ModuleType, tiny: Cifar10) -> None:
    with pytest.raises(ConfigError, match="other masks"):
        train_in_pytorch(BASE.with_settings(dropout=0.1), tiny)


def test_without_pytorch_it_says_what_to_install(tiny: Cifar10, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygrad_cifar.recipes.pytorch.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tinygrad-cifar\[peers\]'"):
        train_in_pytorch(BASE, tiny)
