"""Finished tasks on disk, each in a folder of its own that its settings name: what is there is never run again."""

import csv
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tinygrad_cifar.data import Batches, Cifar10, Standardiser
from tinygrad_cifar.data.batches import BLAS_THREADS
from tinygrad_cifar.errors import NonFiniteError
from tinygrad_cifar.recipes.pytorch import train_in_pytorch
from tinygrad_cifar.train import Config, Epoch, History, RunFolder, Trainer, Watcher, evaluate, run
from tinygrad_cifar.train.build import load_data, ordered_batches, split_data
from tinygrad_cifar.train.folder import FINAL
from tinygrad_cifar.train.runs import numbers

MEASURED = 10  # epochs after which the test images are measured, at most
DONE = "results.json"  # written last: a folder without it is of a run that was killed


@dataclass(frozen=True)
class Task:
    """Something to run once: a training.

    Attributes:
        configs: one; or several, which train the same weights in turn, never drawn anew.
        in_pytorch: the same in PyTorch, from the same first weights and the same batches, see ``train_in_pytorch``.
    """

    configs: tuple[Config, ...]
    in_pytorch: bool = False

    @property
    def config(self) -> Config:
        """The last one, which the results are of."""
        return self.configs[-1]


@dataclass(frozen=True)
class Run:
    """A finished task, read from its folder."""

    folder: Path

    @cached_property
    def results(self) -> dict[str, Any]:
        """Accuracies, losses and costs of the final and the best weights; "failed", "seconds", "source".

        Of trainings in turn also "trials", the final validation accuracy of each; of one in PyTorch its "version".
        """
        return json.loads((self.folder / DONE).read_text())

    @cached_property
    def config(self) -> Config:
        return Config.from_json((self.folder / "config.json").read_text())

    @cached_property
    def history(self) -> History:
        return History.from_csv((self.folder / "history.csv").read_text())

    @cached_property
    def test(self) -> dict[str, list[float]]:
        """Columns: epoch, and loss and accuracy on the test images after it; at most MEASURED of them."""
        names, *rows = csv.reader(io.StringIO((self.folder / "test.csv").read_text()))
        return {name: [float(row[i]) for row in rows] for i, name in enumerate(names)}

    @property
    def failed(self) -> str:
        """Why the training diverged; empty if it did not."""
        return self.results["failed"]

    def accuracy(self, split: str, best: bool = False) -> float:
        """In [0, 1], on "train", "val" or "test", of the final or the best weights ("train" of the final ones only)."""
        return self.results["best" if best and split != "train" else "final"][split]["accuracy"]

    def curves(self) -> dict[str, list[float]]:
        """The columns of the history, and test_epoch, test_loss and test_accuracy."""
        return self.history.columns() | {f"test_{name}": values for name, values in self.test.items()}


def folder_of(store: Path, task: Task) -> Path:
    """The folder in ``store`` of ``task``; where the images lie does not matter."""
    texts = [config.with_settings(data=None, synthetic=config.synthetic).to_json() for config in task.configs]
    suffix = "-pytorch" * task.in_pytorch
    return store / f"{task.config.title}-{hashlib.sha256(''.join(texts).encode()).hexdigest()[:12]}{suffix}"


def finished(store: Path, task: Task) -> Run | None:
    """The run of ``task``, if ``store`` has it."""
    folder = folder_of(store, task)
    return Run(folder) if (folder / DONE).exists() else None


def perform(task: Task, store: Path, data: Cifar10 | None = None) -> Run:
    """Run ``task`` and store it, a divergence too; what a killed run left is removed first."""
    data = data or _images(task.config.data, task.config.synthetic)
    folder = folder_of(store, task)
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.process_time()
    if task.in_pytorch:
        kept, outcome = RunFolder(folder, task.config), train_in_pytorch(task.config, data)
    elif len(task.configs) > 1:
        kept, outcome = RunFolder(folder, task.config), _train_in_turn(task.configs, data)
    else:
        kept, outcome = _train(task.config, data, folder)
    kept.write(DONE, json.dumps(outcome | {"seconds": time.process_time() - begin}, indent=2) + "\n")
    return Run(folder)


def _train(config: Config, data: Cifar10, folder: Path) -> tuple[RunFolder, dict[str, Any]]:
    """Train, and keep everything but the results, which are returned."""
    standardiser = _standardiser(data, config.split, config.subset, config.standardise)
    tests = _TestCurve(ordered_batches(config, data.test, standardiser, prefetch=False))
    try:
        result = run(config, data=data, standardiser=standardiser, watchers=(tests,), prefetch=False)
        outcome = numbers(result) | {"failed": ""}
        kept = RunFolder(folder, result.config)
        kept.write_weights(FINAL, result.model.state_dict())
    except NonFiniteError as error:
        outcome = _diverged(error, data)
        kept = RunFolder(folder, config)
    kept.write("history.csv", tests.history.to_csv())
    rows = [("epoch", "loss", "accuracy"), *tests.rows]
    kept.write("test.csv", "".join(",".join(map(str, row)) + "\n" for row in rows))
    return kept, outcome


def _train_in_turn(configs: Iterable[Config], data: Cifar10) -> dict[str, Any]:
    """Train the same weights with one configuration after the other."""
    model, trials, outcome = None, [], dict[str, Any]()
    try:
        for config in configs:
            result = run(config, data=data, model=model, prefetch=False)
            model, outcome = result.model, numbers(result) | {"failed": ""}
            trials.append(result.val.accuracy)
    except NonFiniteError as error:
        outcome = _diverged(error, data)
    return outcome | {"trials": trials}


def _diverged(error: NonFiniteError, data: Cifar10) -> dict[str, Any]:
    return {"failed": str(error), "source": data.source, "is_synthetic": data.is_synthetic}


def perform_all(tasks: Iterable[Task], store: Path, jobs: int) -> Iterator[tuple[Task, Run | None]]:
    """Run ``tasks`` in ``jobs`` processes of one BLAS thread each; yields each as it begins, and with its Run after.

    When the caller stops, or this process dies, however it dies, so do the processes.
    """
    waiting = list(tasks)
    os.environ |= dict.fromkeys(BLAS_THREADS, "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(waiting)) or 1, context, _begin_worker) as pool:
        running: dict[Future[Run], Task] = {}
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    task = waiting.pop(0)
                    running[pool.submit(perform, task, store)] = task
                    yield task, None
                for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        with suppress(BaseException):
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@lru_cache(maxsize=1)
def _images(data: str | None, synthetic: bool) -> Cifar10:
    return load_data(Config(data=data, synthetic=synthetic))


@lru_cache(maxsize=4)
def _standardiser(data: Cifar10, split: str, subset: int | None, kind: str) -> Standardiser:
    """The statistics of the same training images, taken once for all runs: that takes as long as 200 steps."""
    train, _ = split_data(Config(split=split, subset=subset), data)
    return Standardiser.fit(train.images, kind)


class _TestCurve(Watcher):
    """Loss and accuracy on the test images, after MEASURED epochs of a long training."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.history = batches, History()
        self.rows: list[tuple[int, float, float]] = []

    def begin(self, trainer: Trainer, epochs: int, steps_per_epoch: int) -> None:
        self.history, self.last, self.every = trainer.history, epochs, -(-epochs // MEASURED)

    def epoch(self, trainer: Trainer, row: Epoch) -> None:
        if row.epoch % self.every == 0 or row.epoch == self.last:
            measured = evaluate(trainer.model, self.batches)
            self.rows.append((row.epoch, measured.loss, measured.accuracy))
