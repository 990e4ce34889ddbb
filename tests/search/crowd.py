"""A process of a search whose trials take a moment and train nothing: ``python crowd.py STORAGE LOG [SECONDS]``."""

import json
import sys
import time
from pathlib import Path

import optuna

from tinygrad_cifar.search import Plan, Range, Space
from tinygrad_cifar.search.storage import begin_study
from tinygrad_cifar.search.worker import work
from tinygrad_cifar.train import Config

NAME, TRIALS, PATIENCE = "crowd", 70, 1.0
PLAN = Plan(Space({"lr": Range(1e-3, 1e-1), "lam": Range(1e-6, 1e-2)}), Config(), TRIALS)


def main() -> None:
    storage, log, *seconds = sys.argv[1:]

    def train(trial: optuna.Trial, plan: Plan) -> float:
        config = plan.configuration(trial.user_attrs["key"])
        with Path(log).open("a") as lines:
            lines.write(json.dumps([trial.user_attrs["key"], config.lr, config.lam, config.seed]) + "\n")
        trial.report(0.5, 1)
        time.sleep(float(seconds[0]) if seconds else 0.01)
        return 0.5 + (config.lr or 0)

    work(begin_study(storage, NAME, PLAN), train, PATIENCE)


if __name__ == "__main__":
    main()
