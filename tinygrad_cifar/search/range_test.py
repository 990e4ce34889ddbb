"""The learning-rate range test: let the rate rise, watch the loss, leave everything as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from tinygrad_cifar import random
from tinygrad_cifar.data import Batches, Standardiser
from tinygrad_cifar.errors import NonFiniteError, SearchError
from tinygrad_cifar.nn.module import preserved_modes
from tinygrad_cifar.search.space import Range
from tinygrad_cifar.train import Config, Trainer
from tinygrad_cifar.train.build import build_model, build_trainer, load_data, split_data, training_batches
from tinygrad_cifar.train.snapshot import Snapshot

if TYPE_CHECKING:
    from tinygrad_cifar.viz.figure import Picture

SMOOTHING = 0.9  # of the running average of the loss: a batch alone is too noisy
BURST = 3.0  # the test ends when the smoothed loss is so many times the lowest
FALL = 0.1  # the share of the whole fall of the loss at which learning counts as begun


@dataclass(frozen=True)
class RangeTest:
    """Loss over learning rate.

    Attributes:
        rates: the learning rate of each step.
        losses: the loss of its batch before the update, in nats.
        smoothed: its running average, without bias towards the beginning.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]

    @property
    def eta_min(self) -> float:
        """The rate at which the network begins to learn: a tenth of the fall of the smoothed loss."""
        lowest = int(np.argmin(self.smoothed))
        level = self.smoothed[0] - FALL * (self.smoothed[0] - self.smoothed[lowest])
        return next(rate for rate, loss in zip(self.rates, self.smoothed, strict=True) if loss <= level)

    @property
    def eta_max(self) -> float:
        """The rate of the lowest smoothed loss: beyond it larger steps only do harm."""
        return self.rates[int(np.argmin(self.smoothed))]

    def __str__(self) -> str:
        return (
            f"learning begins at {self.eta_min:.2g}; the loss is lowest at {self.eta_max:.2g} ({len(self.rates)} steps)"
        )

    def figure(self, path: str | PathLike[str] | None = None) -> "Picture":
        """Loss over learning rate; also written to ``path``."""
        from tinygrad_cifar.viz.figure import BLUE, INK, VERMILION, Picture, plain

        picture = Picture(6.5, 4.4)
        axes = picture.subplots()
        plain(axes)
        axes.plot(self.rates, self.losses, color=BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(self.rates, self.smoothed, color=BLUE, linewidth=2)
        for rate in (self.eta_min, self.eta_max):
            axes.axvline(rate, color=VERMILION, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.5 * self.smoothed[0])
        axes.set_xlabel("learning rate η", fontsize=12, color=INK)
        axes.set_ylabel("loss of the batch", fontsize=12, color=INK)
        axes.set_title(str(self), fontsize=10, color=INK)
        if path is not None:
            picture.savefig(path)
        return picture


def range_test(trainer: Trainer, train: Batches, rates: Range | None = None, steps: int | None = None) -> RangeTest:
    """Train with a learning rate that rises through ``rates``, and put everything back.

    Smith 2017, section 3.3, on a log scale unless ``rates`` says otherwise. Model, optimiser, batches, trainer and
    random streams are afterwards what they were before, bit for bit; the gradients are gone. The test ends early when
    the smoothed loss is three times its lowest, or not finite.

    Args:
        trainer: with the model and the optimiser; its schedule is set aside.
        train: the batches, repeated if need be.
        rates: 1e-6 to 10 on a log scale, if not given.
        steps: those of one epoch, if not given; at least 10.

    Raises:
        SearchError: fewer than 10 steps, or the loss is not finite from the beginning.
    """
    rates = rates or Range(1e-6, 10.0)
    steps = len(train) if steps is None else steps
    if steps < 10:
        raise SearchError(f"a range test of {steps} steps shows nothing: it takes at least 10, better 100.")
    tried, losses, smoothed = [], [], []
    average = 0.0
    with _untouched(trainer, train), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        begin = trainer.steps
        trainer.schedule = lambda step: rates.at((step - begin) / (steps - 1))
        trainer.model.train()
        batches = chain.from_iterable(repeat(train))
        for (x, labels), count in zip(batches, range(1, steps + 1), strict=False):
            try:
                _, loss, _ = trainer.step(x, labels)
            except NonFiniteError:
                break
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            tried.append(trainer.optimizer.lr)
            losses.append(loss)
            smoothed.append(average / (1 - SMOOTHING**count))
            if smoothed[-1] > BURST * min(smoothed):
                break
    if not tried:
        raise SearchError("the loss is not finite at the lowest rate: begin the range test lower, or mend the network.")
    return RangeTest(tuple(tried), tuple(losses), tuple(smoothed))


def range_test_of(config: Config) -> RangeTest:
    """The range test of the network, optimiser and data that ``config`` describes."""
    train, _ = split_data(config, load_data(config))
    random.manual_seed(config.seed)
    trainer = build_trainer(config, build_model(config))
    return range_test(trainer, training_batches(config, train, Standardiser.fit(train.images, config.standardise)))


@contextmanager
def _untouched(trainer: Trainer, train: Batches) -> Iterator[None]:
    with random.preserved(), preserved_modes(trainer.model):
        before, schedule = Snapshot(trainer, train), trainer.schedule
        try:
            yield
        finally:
            before.restore(trainer, train)
            trainer.optimizer.zero_grad()
            trainer.schedule = schedule
