"""The loop: step, epoch, training; with one way out for Ctrl-C and one for numbers that explode."""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar import nn
from tinygrad_cifar.compiler import compile as compile_step
from tinygrad_cifar.data import Batches
from tinygrad_cifar.errors import CompileError, NonFiniteError
from tinygrad_cifar.optim import Optimizer
from tinygrad_cifar.optim.schedules import Schedule
from tinygrad_cifar.tensor import Tensor, detect_anomaly
from tinygrad_cifar.train.evaluation import evaluate
from tinygrad_cifar.train.history import Epoch, History
from tinygrad_cifar.train.interrupt import ctrl_c
from tinygrad_cifar.train.snapshot import Snapshot

Weights = dict[str, NDArray[Any]]


class Watcher:
    """What looks on while a Trainer trains: progress, files. Every method may be left as it is."""

    def begin(self, trainer: "Trainer", epochs: int, steps_per_epoch: int) -> None:
        """Before the first step."""

    def step(self, trainer: "Trainer", measured: "Average") -> None:
        """After a step; ``measured`` covers the epoch so far."""

    def epoch(self, trainer: "Trainer", row: Epoch) -> None:
        """After an epoch; ``row`` is the newest of ``trainer.history``."""

    def end(self, trainer: "Trainer") -> None:
        """After the last epoch, also when an error ended the training."""


@dataclass
class Average:
    """Running averages over the batches of an epoch, each image counting once."""

    images: int = 0
    cost_sum: float = 0.0
    loss_sum: float = 0.0
    right: int = 0

    def add(self, cost: float, loss: float, right: int, images: int) -> None:
        self.images += images
        self.cost_sum += cost * images
        self.loss_sum += loss * images
        self.right += right

    @property
    def cost(self) -> float:
        return self.cost_sum / self.images

    @property
    def loss(self) -> float:
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        return self.right / self.images


class Trainer:
    """Minimises ``cost = loss + penalty``: mean cross entropy, plus the L2 penalty on the weights.

    Args:
        model: (N, features) -> scores (N, classes).
        optimizer: of the model's parameters.
        schedule: step, counted from 0 -> learning rate; without one the optimiser's ``lr`` stays as it is.
        lam: the weight of the L2 penalty.
        l2_convention: how it is counted, as in ``nn.l2_penalty``.
        compile: replay the steps, as ``tinygrad_cifar.compile`` does; the results are the same.

    Attributes:
        steps: updates made so far.
        history: a row per epoch.
        best_weights: the ``state_dict`` at the epoch of the highest validation accuracy, ``history.best``.
        interrupted: whether Ctrl-C ended the last ``fit``.

    Examples:
        >>> trainer = Trainer(model, optimizer, schedules.triangular(1e-5, 1e-1, n_s=2250), lam=0.005)
        >>> history = trainer.fit(train_batches, validation_batches, epochs=20)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: Schedule | None = None,
        *,
        lam: float = 0.0,
        l2_convention: Literal["sum", "half"] = "sum",
        compile: bool = True,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.lam, self.l2_convention = lam, l2_convention
        self._update = compile_step(self._pass) if compile else self._pass
        self.steps = 0
        self.history = History()
        self.best_weights: Weights = {}
        self.interrupted = False

    def fit(self, train: Batches, val: Batches, epochs: int, *watchers: Watcher) -> History:
        """Train for ``epochs`` epochs; validate after each.

        Ctrl-C ends the training after the step at work: the part of the epoch that was done gets its row in the
        history, ``interrupted`` becomes True, and ``fit`` returns as usual. A second Ctrl-C does what it always does.

        Args:
            train: iterated over once an epoch.
            val: iterated over after each epoch; build it with shuffle=False.
            epochs: at least 1.
            watchers: told of each step and epoch, as ``progress()``.

        Raises:
            NonFiniteError: the cost became infinite or not a number; the message names the first op that did. The
                model has the weights of the last epoch's end again.
        """
        # Whether numbers are finite is checked at every step, so NumPy need not warn of it as well.
        quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
        with ExitStack() as ends, ctrl_c() as pressed, quiet:
            for watcher in watchers:
                watcher.begin(self, epochs, len(train))
                ends.callback(watcher.end, self)
            for _ in range(epochs):
                self._epoch(train, val, pressed, watchers)
                if pressed():
                    break
        self.interrupted = pressed()
        return self.history

    def step(self, x: NDArray[Any], labels: NDArray[np.integer[Any]]) -> tuple[float, float, int]:
        """One update on a batch: its cost and loss before the update, and how many images it had right.

        Raises:
            NonFiniteError: the cost is infinite or not a number; the update was made and spoiled the weights.
        """
        if self.schedule is not None:
            self.optimizer.lr = self.schedule(self.steps)
        try:
            cost, loss, right = self._update(x, labels)
        except CompileError as error:
            if error.result is None:
                raise
            cost, loss, right = error.result
            self._update = self._pass
            warnings.warn(f"the training goes on uncompiled, since {error}", stacklevel=2)
        value = cost.item()
        if not math.isfinite(value):
            raise NonFiniteError(f"the cost of step {self.steps + 1} is {value}.")
        self.steps += 1
        return value, loss.item(), int(right)

    def _pass(self, x: NDArray[Any], labels: NDArray[np.integer[Any]]) -> tuple[Tensor, Tensor, Any]:
        """Forward, backward and update: what is compiled."""
        self.optimizer.zero_grad()
        scores = self.model(Tensor(x))
        loss = nn.F.cross_entropy(scores, labels)
        cost = loss + nn.l2_penalty(self.model, self.lam, self.l2_convention) if self.lam else loss
        cost.backward()
        self.optimizer.step()
        return cost, loss, (scores.data.argmax(axis=1) == labels).sum()

    def _epoch(self, train: Batches, val: Batches, pressed: Callable[[], bool], watchers: tuple[Watcher, ...]) -> None:
        begin = time.perf_counter()
        start = Snapshot(self, train)
        measured = Average()
        self.model.train()
        try:
            for x, labels in train:
                measured.add(*self.step(x, labels), len(labels))
                for watcher in watchers:
                    watcher.step(self, measured)
                if pressed():
                    break
            row = self._validated(measured, val, begin)
        except NonFiniteError as error:
            raise self._traced(error, start, train, val) from None
        self.history.append(row)
        if self.history.best is row:
            self.best_weights = self.model.state_dict()
        for watcher in watchers:
            watcher.epoch(self, row)

    def _validated(self, measured: Average, val: Batches, begin: float) -> Epoch:
        result = evaluate(self.model, val)
        cost = result.loss + self.penalty()
        if not math.isfinite(cost):
            raise NonFiniteError(f"the validation cost after step {self.steps} is {cost}.")
        return Epoch(
            len(self.history) + 1, self.steps, self.optimizer.lr,
            measured.cost, measured.loss, measured.accuracy,
            cost, result.loss, result.accuracy,
            time.perf_counter() - begin,
        )  # fmt: skip

    def penalty(self) -> float:
        """What the weights as they are add to the loss."""
        return nn.l2_penalty(self.model, self.lam, self.l2_convention).item() if self.lam else 0.0

    def _traced(self, error: NonFiniteError, start: Snapshot, train: Batches, val: Batches) -> NonFiniteError:
        """The error with its origin: the epoch is the same bit for bit when it is run again, this time watched."""
        start.restore(self, train)
        try:
            with detect_anomaly():
                for x, labels in train:
                    self.step(x, labels)
                    self._check_update()
                evaluate(self.model, val)
            origin = "The first op could not be found by running the epoch again."
        except NonFiniteError as found:
            origin = f"At step {self.steps + 1} (learning rate {self.optimizer.lr:g}): {found}"
        start.restore(self, train)
        weights = f"those of the end of epoch {len(self.history)}" if self.history else "the initial ones"
        return NonFiniteError(
            f"{error} {origin}\nThe weights are {weights} again. Lower the learning rate, or warm it up."
        )

    def _check_update(self) -> None:
        for name, parameter in self.model.named_parameters():
            if not np.isfinite(parameter.data).all():
                self.steps -= 1
                raise NonFiniteError(f"the update of {name} by {type(self.optimizer).__name__} overflows.")
