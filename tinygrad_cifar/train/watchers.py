"""Progress: a bar and a line per epoch in a terminal, the lines alone elsewhere."""

import sys
import time
from typing import TextIO

from tinygrad_cifar.optim.schedules import triangular, warm_up
from tinygrad_cifar.train.history import Epoch
from tinygrad_cifar.train.trainer import Average, Trainer, Watcher

EVERY = 20  # steps between two changes of the bar: more often costs time and nobody can read it


class Lines(Watcher):
    """A line per epoch: learning rate, loss, accuracy, time left; together as wide as a terminal at least is."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream

    def begin(self, trainer: Trainer, epochs: int, steps_per_epoch: int) -> None:
        self.last = len(trainer.history) + epochs
        self.first, self.start = len(trainer.history), time.perf_counter()
        schedule, before = trainer.schedule, trainer.steps
        if isinstance(schedule, warm_up):
            before -= schedule.steps
            schedule = schedule.schedule
        if isinstance(schedule, triangular):
            self.say(cycles_note(schedule, epochs, steps_per_epoch, before))
        self.say(f"{'':{len(self._name(self.last))}}     rate  train loss  accuracy  validation loss  accuracy   left")

    def epoch(self, trainer: Trainer, row: Epoch) -> None:
        each = (time.perf_counter() - self.start) / (row.epoch - self.first)
        self.say(
            f"{self._name(row.epoch)}  {row.lr:7.1e}  {row.train_loss:10.4f}  {row.train_accuracy:8.2%}"
            f"  {row.val_loss:15.4f}  {row.val_accuracy:8.2%}  {clock(each * (self.last - row.epoch)):>5}"
        )

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch:{len(str(self.last))}}/{self.last}"

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=self.stream or sys.stdout, flush=True)


class Bar(Lines):
    """The same, with a bar that moves below the lines."""

    def begin(self, trainer: Trainer, epochs: int, steps_per_epoch: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("step {task.completed}/{task.total}"), BarColumn(bar_width=None),
            TextColumn("{task.description}"), TimeRemainingColumn(),
            console=Console(file=self.stream), transient=True, refresh_per_second=4,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=trainer.steps + epochs * steps_per_epoch, completed=trainer.steps)
        self.bar.start()
        super().begin(trainer, epochs, steps_per_epoch)

    def step(self, trainer: Trainer, measured: Average) -> None:
        if trainer.steps % EVERY == 0:
            text = f"lr {trainer.optimizer.lr:.1e}  loss {measured.loss:.3f}  accuracy {measured.accuracy:5.1%}"
            self.bar.update(self.task, completed=trainer.steps, description=text)

    def end(self, trainer: Trainer) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        self.bar.console.print(line, highlight=False, soft_wrap=True)


def progress(stream: TextIO | None = None) -> Lines:
    """A watcher for ``Trainer.fit`` that prints to ``stream``, stdout by default: a Bar in a terminal, else Lines."""
    shown = stream or sys.stdout  # None if it was closed
    return Bar(stream) if shown and shown.isatty() else Lines(stream)


def cycles_note(schedule: triangular, epochs: int, steps_per_epoch: int, before: int = 0) -> str:
    """How many cycles the training makes, and a warning where the last one is incomplete.

    ``before``: steps of the schedule that an earlier training made; less than 0 if a warm-up comes first.
    """
    cycle = 2 * schedule.n_s
    cycles = (before + epochs * steps_per_epoch) / cycle
    steps = f"{epochs} epochs x {steps_per_epoch} steps"
    if before:
        steps = f"({steps} + {before} made before)" if before > 0 else f"({steps} - {-before} of warm-up)"
    arithmetic = f"{steps} / (2 x n_s={schedule.n_s})"
    if cycles == int(cycles):
        return f"complete cycles: {cycles:.0f} = {arithmetic}"
    whole = max(round(cycles), before // cycle + 1, 1)
    enough = (whole * cycle - before) / steps_per_epoch
    return (
        f"warning: incomplete cycles: {cycles:.2f} = {arithmetic},\n"
        f"so training ends at a high rate. Complete cycles: {whole} in {enough:g} epochs."
    )


def clock(seconds: float) -> str:
    """``75`` as ``1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
