"""A whole run: data, network, training, test, folder."""

import dataclasses
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from tinygrad_cifar import nn, random
from tinygrad_cifar.data import Batches, Cifar10, Split, Standardiser
from tinygrad_cifar.errors import NonFiniteError
from tinygrad_cifar.train.build import (
    build_model,
    build_schedule,
    build_trainer,
    load_data,
    ordered_batches,
    split_data,
    training_batches,
)
from tinygrad_cifar.train.config import Config
from tinygrad_cifar.train.evaluation import Evaluation, evaluate
from tinygrad_cifar.train.folder import RunFolder
from tinygrad_cifar.train.history import History
from tinygrad_cifar.train.interrupt import ctrl_c
from tinygrad_cifar.train.trainer import Trainer, Watcher


@dataclass(frozen=True)
class Score:
    """Of some weights on some images; the cost is the loss plus the penalty, the accuracy a fraction in [0, 1]."""

    cost: float
    loss: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Result:
    """What a run came to.

    Attributes:
        config: the configuration with every default filled in.
        model: the network with its final weights, in evaluation mode.
        history: a row per epoch.
        train, val, test: of the final weights, in evaluation mode; "train" covers all training images.
        best_epoch, best_test: the epoch of the highest validation accuracy, and the test score of its weights.
        source, is_synthetic: where the images came from.
        interrupted: Ctrl-C ended the training early, or was pressed while its end was measured.
    """

    config: Config
    model: nn.Module
    history: History
    train: Score
    val: Score
    test: Score
    best_epoch: int
    best_test: Score
    source: str
    is_synthetic: bool
    interrupted: bool

    def __str__(self) -> str:
        rows = [f"{'':12}{'cost':>10}{'loss':>10}{'accuracy':>12}"]
        for name in ("train", "val", "test"):
            score: Score = getattr(self, name)
            title = {"val": "validation"}.get(name, name)
            rows.append(f"{title:12}{score.cost:10.4f}{score.loss:10.4f}{100 * score.accuracy:10.2f} %")
        best = self.history[self.best_epoch - 1]
        rows.append(
            f"Best weights: epoch {best.epoch}, validation {100 * best.val_accuracy:.2f} %, "
            f"test {100 * self.best_test.accuracy:.2f} %."
        )
        return "\n".join(rows)


def run(
    config: Config,
    folder: str | os.PathLike[str] | None = None,
    *,
    data: Cifar10 | None = None,
    model: nn.Module | None = None,
    standardiser: Standardiser | None = None,
    watchers: tuple[Watcher, ...] = (),
    say: Callable[[str], None] = lambda line: None,
    compile: bool = True,
    prefetch: bool | None = None,
) -> Result:
    """Train and test the network that ``config`` describes.

    All random streams are started anew from ``config.seed``, so a run does not depend on what was drawn before it.

    Args:
        config: what to run.
        folder: where to keep the run, see ``RunFolder``; without one nothing is written.
        data: the images, if they are loaded already; otherwise ``config`` says where they are.
        model: a network to train on, instead of a new one.
        standardiser: if it was fitted already, to the images that ``config`` trains on.
        watchers: told of each step and epoch, as ``progress()``.
        say: is handed a description of network and data before the training begins, as ``print``.
        compile: replay the steps, as ``Trainer`` does; the results are the same.
        prefetch: prepare batches in a thread, see ``Batches``; False where there is a run for each core. The results
            are the same.

    Raises:
        ConfigError, DataError: a setting, the folder or the data is not usable.
        NonFiniteError: the training diverged; the folder keeps the history and the last good weights.
    """
    data = data or load_data(config)
    train, val = split_data(config, data)
    config = config.resolved(len(train))
    if data.is_synthetic:
        config = config.with_settings(synthetic=True)
    elif config.data:
        config = config.with_settings(data=data.source)  # complete, so that it runs again from any folder
    random.manual_seed(config.seed)
    model = model or build_model(config)
    described = _describe(config, model, data, train, val)
    standardiser = standardiser or Standardiser.fit(train.images, config.standardise)
    batches = training_batches(config, train, standardiser, prefetch)
    splits = {"train": train, "val": val, "test": data.test}
    in_order = {name: ordered_batches(config, split, standardiser, prefetch) for name, split in splits.items()}
    trainer = build_trainer(config, model, build_schedule(config, len(batches)), compile=compile)
    kept = RunFolder(folder, config) if folder is not None else None  # now that every setting has proved usable
    say(described)
    try:
        trainer.fit(batches, in_order["val"], config.epochs or 0, *([kept] if kept else []), *watchers)
    except NonFiniteError as error:
        if kept:
            kept.write("summary.txt", f"{described}\n\nFAILED: {error}\n")
            kept.draw(trainer.history)
        raise
    # The first Ctrl-C waits for the last second as well, in which all that was trained is measured and drawn.
    with nullcontext() if trainer.interrupted else ctrl_c() as pressed:
        result = _result(config, trainer, data, in_order)
        if kept:
            kept.write("results.json", json.dumps(numbers(result), indent=2) + "\n")
            kept.write("summary.txt", f"{described}\n\n{_outcome(result)}\n")
            kept.draw(trainer.history)
    return dataclasses.replace(result, interrupted=pressed is None or pressed())


def evaluation_batches(config: Config, data: Cifar10, split: Split) -> Batches:
    """``split`` in order, standardised with the statistics of the images that ``config`` trains on."""
    train, _ = split_data(config, data)
    return ordered_batches(config, split, Standardiser.fit(train.images, config.standardise))


def _result(config: Config, trainer: Trainer, data: Cifar10, batches: dict[str, Batches]) -> Result:
    def score(name: str) -> Score:
        measured: Evaluation = evaluate(trainer.model, batches[name])
        return Score(measured.loss + trainer.penalty(), measured.loss, measured.accuracy)

    final = {name: score(name) for name in batches}
    weights = trainer.model.state_dict()
    trainer.model.load_state_dict(trainer.best_weights)
    best_test = score("test")
    trainer.model.load_state_dict(weights)
    assert trainer.history.best is not None
    return Result(
        config, trainer.model.eval(), trainer.history, **final, best_epoch=trainer.history.best.epoch,
        best_test=best_test, source=data.source, is_synthetic=data.is_synthetic, interrupted=trainer.interrupted,
    )  # fmt: skip


def numbers(result: Result) -> dict[str, Any]:
    best = result.history[result.best_epoch - 1]
    return {
        "source": result.source,
        "is_synthetic": result.is_synthetic,
        "interrupted": result.interrupted,
        "epochs": len(result.history),
        "steps": result.history[-1].step,
        "seconds": sum(row.seconds for row in result.history),
        "final": {name: dataclasses.asdict(getattr(result, name)) for name in ("train", "val", "test")},
        "best": {
            "epoch": best.epoch,
            "val": dataclasses.asdict(Score(best.val_cost, best.val_loss, best.val_accuracy)),
            "test": dataclasses.asdict(result.best_test),
        },
    }


def _describe(config: Config, model: nn.Module, data: Cifar10, train: Split, val: Split) -> str:
    settings = "\n".join(f"  {name} = {value}" for name, value in (config.changed() | {"seed": config.seed}).items())
    rule = "=" * 78
    warning = f"{rule}\nSYNTHETIC DATA, NOT CIFAR-10: the accuracies say nothing about CIFAR-10.\n{rule}\n"
    return (
        f"{warning if data.is_synthetic else ''}"
        f"Data: {data.source}\n"
        f"Images: {len(train):,} to train on, {len(val):,} to validate on, {len(data.test):,} to test on\n\n"
        f"{nn.summary(model, (train.images.shape[1],))}\n\n"
        f"Settings that differ from the defaults, and the seed:\n{settings}"
    )


def _outcome(result: Result) -> str:
    seconds = sum(row.seconds for row in result.history)
    end = "INTERRUPTED by Ctrl-C" if result.interrupted else "Trained"
    return (
        f"{end} after {len(result.history)} epochs, {result.history[-1].step:,} steps, {seconds:.1f} s.\n"
        f"The weights at the end of the last epoch:\n{result}"
    )
