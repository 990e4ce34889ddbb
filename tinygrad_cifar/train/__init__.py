"""Training: the loop, its history, the run folder; ``run(config)`` does all of it."""

from tinygrad_cifar.train.build import build_model
from tinygrad_cifar.train.config import Config
from tinygrad_cifar.train.evaluation import Evaluation, evaluate
from tinygrad_cifar.train.folder import RunFolder, load_run
from tinygrad_cifar.train.history import Epoch, History
from tinygrad_cifar.train.presets import PRESETS
from tinygrad_cifar.train.runs import Result, Score, run
from tinygrad_cifar.train.trainer import Trainer, Watcher
from tinygrad_cifar.train.watchers import progress

__all__ = [
    "PRESETS",
    "Config",
    "Epoch",
    "Evaluation",
    "History",
    "Result",
    "RunFolder",
    "Score",
    "Trainer",
    "Watcher",
    "build_model",
    "evaluate",
    "load_run",
    "progress",
    "run",
]
