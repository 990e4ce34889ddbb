"""The range test finds where learning begins and ends, and leaves no trace."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Shell
from tinygrad_cifar import nn, optim, random
from tinygrad_cifar.data import Batches, Cifar10, Standardiser
from tinygrad_cifar.errors import SearchError
from tinygrad_cifar.search import Range, range_test
from tinygrad_cifar.train import Trainer


def training(tiny: Cifar10, optimizer: str = "sgd") -> tuple[Trainer, Batches, Batches]:
    random.manual_seed(3)
    model = nn.mlp([3072, 8, 10], batch_norm=True, dropout=0.2)
    train, val = tiny.split("all-200")
    standardiser = Standardiser.fit(train.images)
    parameters = model.parameters()
    chosen = optim.Adam(parameters, 0.01) if optimizer == "adam" else optim.SGD(parameters, 0.01, 0.9)
    trainer = Trainer(model, chosen, optim.schedules.exponential(0.01, gamma=0.9))
    return trainer, Batches(train, 50, standardiser, drop_last=True), Batches(val, 100, standardiser, shuffle=False)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("begun", [0, 1])
def test_a_training_goes_on_as_if_there_had_been_no_test(tiny: Cifar10, optimizer: str, begun: int) -> None:
    weights, histories = [], []
    for tested in (False, True):
        trainer, train, val = training(tiny, optimizer)
        if begun:
            trainer.fit(train, val, begun)
        if tested:
            trainer.model.eval()
            range_test(trainer, train, Range(1e-5, 1e3), steps=30)
            assert not any(module.training for module in trainer.model.modules())
            assert all(parameter.grad is None for parameter in trainer.model.parameters())
        trainer.fit(train, val, 2)
        weights.append(trainer.model.state_dict())
        histories.append([row.train_cost for row in trainer.history])
    assert histories[0] == histories[1]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_rates_rise_on_the_scale_and_the_useful_ones_are_found(tiny: Cifar10, tmp_path: Path) -> None:
    trainer, train, _ = training(tiny)
    tested = range_test(trainer, train, Range(1e-6, 1e2), steps=120)
    ratios = np.divide(tested.rates[1:], tested.rates[:-1])
    assert np.allclose(ratios, ratios[0])
    assert tested.rates[0] == 1e-6
    assert len(tested.rates) == len(tested.losses) == len(tested.smoothed) > 20
    assert 1e-6 < tested.eta_min < tested.eta_max < 1e2
    assert tested.smoothed[0] == pytest.approx(tested.losses[0]), "the average does not begin at 0"
    tested.figure(tmp_path / "range.png")
    assert (tmp_path / "range.png").exists()
    assert f"{tested.eta_max:.2g}" in str(tested)


def test_it_ends_when_the_loss_explodes(tiny: Cifar10) -> None:
    trainer, train, _ = training(tiny)
    assert len(range_test(trainer, train, Range(1e-3, 1e30), steps=200).rates) < 200


def test_too_few_steps_are_refused(tiny: Cifar10) -> None:
    trainer, train, _ = training(tiny)
    with pytest.raises(SearchError, match="at least 10"):
        range_test(trainer, train, steps=5)
    with pytest.raises(SearchError, match="at least 10"):
        range_test(trainer, train, steps=0)
    next(iter(trainer.model.parameters())).data[:] = np.nan
    with pytest.raises(SearchError, match="not finite at the lowest rate"):
        range_test(trainer, train, steps=20)


def test_on_the_command_line(shell: Shell) -> None:
    settings = ("--synthetic", "--split", "all-200", "--hidden", "8", "--batch-size", "10")
    code, out, _ = shell("search", *settings, "--range-test")
    assert code == 0
    assert "learning begins at" in out
    assert Path("range_test.png").exists()
