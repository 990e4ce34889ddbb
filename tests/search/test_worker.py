"""Trials that train: each is the run that its number says, whatever was done before it."""

from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs Optuna: pip install 'tinygrad-cifar[search]'")

from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.search import Plan, Range, Space, Study, load
from tinygrad_cifar.search.storage import begin_study
from tinygrad_cifar.search.worker import Training, work
from tinygrad_cifar.train import Config, run

SMALL = Config(hidden=(8,), epochs=2, batch_size=50, split="all-200", synthetic=True)


def done(plan: Plan, tiny: Cifar10, storage: Path) -> Study:
    work(begin_study(str(storage), "s", plan), Training(tiny), patience=30)
    return load("s", storage)


def test_a_trial_is_the_run_of_its_settings_and_seed(tiny: Cifar10, tmp_path: Path) -> None:
    plan = Plan(Space({"lr": Range(1e-3, 1e-1)}), SMALL, 4, noise_seeds=2)
    study = done(plan, tiny, tmp_path / "s.journal")
    assert len(study.trials) == 4
    assert len(study.noise) == 2
    for trial in study.trials:
        alone = run(SMALL.with_settings(**trial.settings, seed=trial.seed), data=tiny)
        assert trial.accuracies == tuple(row.val_accuracy for row in alone.history)
        assert trial.val_accuracy == alone.val.accuracy
        assert trial.train_accuracy == alone.train.accuracy
    assert {trial.settings["lr"] for trial in study.noise} == {study.best.settings["lr"]}
    assert len({trial.seed for trial in (*study.trials, *study.noise)}) == 6


def test_a_search_can_be_extended(tiny: Cifar10, tmp_path: Path) -> None:
    space = Space({"lr": Range(1e-3, 1e-1)})
    few = done(Plan(space, SMALL, 2), tiny, tmp_path / "s.journal")
    more = done(Plan(space, SMALL, 4), tiny, tmp_path / "s.journal")
    assert more.trials[:2] == few.trials
    assert len(more.trials) == 4


def test_training_that_diverges_is_a_result(tiny: Cifar10, tmp_path: Path) -> None:
    study = done(Plan(Space({"lr": [1e-2, 1e30]}), SMALL, 2), tiny, tmp_path / "s.journal")
    assert [trial.state for trial in study.trials] == ["complete", "diverged"]
    assert study.best.settings == {"lr": 1e-2}
    assert "1 complete, 0 pruned, 1 diverged" in study.table()


def test_hopeless_trials_are_pruned_if_that_is_wanted(tiny: Cifar10, tmp_path: Path) -> None:
    config = SMALL.with_settings(epochs=4)
    rates = [0.05 + 0.001 * k for k in range(8)]
    done(Plan(Space({"lr": [*rates, 1e-9]}), config, 8), tiny, tmp_path / "s.journal")
    study = done(Plan(Space({"lr": [*rates, 1e-9]}), config, 9, prune=True), tiny, tmp_path / "s.journal")
    assert study.trials[8].state == "pruned"
    assert len(study.trials[8].accuracies) < 4
    assert study.trials[8] not in study.ranking


def test_ctrl_c_puts_the_trial_back(tiny: Cifar10, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(Space({"lr": [1e-2]}), SMALL, 1)
    study = begin_study(str(tmp_path / "s.journal"), "s", plan)

    def pressed(*_: object) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(study, pressed, patience=30)
    assert load("s", tmp_path / "s.journal").trials == ()
    assert len(done(plan, tiny, tmp_path / "s.journal").trials) == 1
