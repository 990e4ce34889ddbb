"""Hyper-parameter search: random or grid, coarse to fine, resumed after a kill, on as many processes as there are.

    from tinygrad_cifar.search import Range, Space, search

    study = search({"lr": Range(1e-3, 1e-1), "lam": Range(1e-6, 1e-2)}, config, 70, jobs=2, noise_seeds=5)
    print(study)                                    # the best, and which of them the noise of seeds tells apart
    study.figure("search.png")
    fine = search(study.narrowed(), config, 70, name="fine", jobs=2)
    study.best.settings, study.best.val_accuracy, study.ranking[:3], study.seed_noise

It needs Optuna, for its storages: ``pip install 'tinygrad-cifar[search]'``. ``range_test`` and ``order_correlation`` do
not.
"""

from tinygrad_cifar.search.farm import load, search
from tinygrad_cifar.search.order import Correlation, order_correlation
from tinygrad_cifar.search.plan import Plan
from tinygrad_cifar.search.range_test import RangeTest, range_test
from tinygrad_cifar.search.space import Range, Space, parse_variation
from tinygrad_cifar.search.study import Study, Trial

__all__ = [
    "Correlation",
    "Plan",
    "Range",
    "RangeTest",
    "Space",
    "Study",
    "Trial",
    "load",
    "order_correlation",
    "parse_variation",
    "range_test",
    "search",
]
