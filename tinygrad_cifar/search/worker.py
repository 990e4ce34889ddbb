"""One process of a search; ``farm`` starts it with the arguments STORAGE STUDY PATIENCE PARENT [DATA]."""

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.errors import NonFiniteError, TinygradCifarError
from tinygrad_cifar.search.plan import Plan
from tinygrad_cifar.search.queue import Queue
from tinygrad_cifar.search.storage import explained, open_study
from tinygrad_cifar.train import Epoch, Trainer, Watcher, run
from tinygrad_cifar.train.build import load_data, split_data

Train = Callable[[optuna.Trial, Plan], float]
"""Does a trial; returns its validation accuracy."""


def main() -> None:
    """Do trials until none is left, or the process that started this one is gone."""
    storage, name, patience, parent, *data = sys.argv[1:]
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    try:
        with explained(storage):
            study = open_study(storage, name)
            plan = Plan.from_json(study.user_attrs["plan"])
            config = replace(plan.config, data=data[0]) if data else plan.config
            work(study, Training(load_data(config)), float(patience))
    except (TinygradCifarError, OSError, MemoryError) as error:
        sys.exit(f"error: {error}")


def work(study: optuna.Study, train: Train, patience: float) -> None:
    """Take trials from the queue and do them until the plan is fulfilled, by this process and all others.

    Raises:
        KeyboardInterrupt: Ctrl-C; the trial at work goes back into the queue.
    """
    queue = Queue(study, patience)
    while queue.missing():
        trial = queue.take()
        if trial is None:
            time.sleep(min(1.0, patience / 10))  # the rest is being done by others, who may yet be killed
            continue
        try:
            with queue.beating(trial):
                _do(study, trial, train, queue.plan)
        except UpdateFinishedTrialError:
            continue  # taken for dead, as it had not been heard of for too long; somebody else does it
        except BaseException:
            queue.fail(trial.number)
            raise


def _do(study: optuna.Study, trial: optuna.Trial, train: Train, plan: Plan) -> None:
    try:
        value = train(trial, plan)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    except NonFiniteError:
        trial.set_user_attr("diverged", True)
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(trial, value, skip_if_finished=True)


class Training:
    """Trains what a trial describes, on images that are loaded once.

    Pruning is Optuna's median rule: from a quarter of the epochs on, a trial ends when its best validation accuracy so
    far is below the median of what eight or more complete trials had after the same epoch.
    """

    def __init__(self, data: Cifar10) -> None:
        self.data = data

    def __call__(self, trial: optuna.Trial, plan: Plan) -> float:
        config = plan.configuration(trial.user_attrs["key"])
        if plan.prune:
            epochs = config.resolved(len(split_data(config, self.data)[0])).epochs or 0
            trial.study.pruner = optuna.pruners.MedianPruner(n_startup_trials=8, n_warmup_steps=epochs // 4)
        result = run(config, data=self.data, watchers=(_Report(trial, plan.prune),), prefetch=False)
        if result.interrupted:
            raise KeyboardInterrupt
        trial.set_user_attr("train_accuracy", result.train.accuracy)
        return result.val.accuracy


class _Report(Watcher):
    """Tells the storage the validation accuracy of each epoch."""

    def __init__(self, trial: optuna.Trial, prune: bool) -> None:
        self.trial, self.prune = trial, prune

    def epoch(self, trainer: Trainer, row: Epoch) -> None:
        self.trial.report(row.val_accuracy, row.epoch)
        if self.prune and self.trial.should_prune():
            raise optuna.TrialPruned


def _end_with(parent: int) -> None:
    """Whoever started this process was killed and cannot stop it any more."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
