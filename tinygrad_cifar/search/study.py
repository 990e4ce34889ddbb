"""What a search found: the trials, how much of their differences is noise, and where to look more closely."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan, sqrt
from os import PathLike
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from tinygrad_cifar.errors import SearchError
from tinygrad_cifar.search.order import Correlation, order_correlation
from tinygrad_cifar.search.plan import Plan
from tinygrad_cifar.search.space import Range, Space, Values, written
from tinygrad_cifar.tables import lined_up

if TYPE_CHECKING:
    from tinygrad_cifar.viz.figure import Picture

BEYOND_NOISE = 2 * sqrt(2)
"""Two single runs differ by chance with sqrt(2) times the standard deviation of one; twice that is 95 %."""

SUSPICIOUS = 0.01
"""The p-value below which a dependence on the order of trials is reported."""


@dataclass(frozen=True)
class Trial:
    """A run of the search.

    Attributes:
        number: of the point in the space, from 0.
        turn: when it was done: 0 for the trial that was begun first.
        settings: what was varied, and its values.
        seed: of the run.
        state: "complete", "pruned" or "diverged".
        accuracies: validation accuracy after each epoch, fractions in [0, 1].
        train_accuracy: of the final weights on all training images; None unless complete.
        seconds: wall-clock time.
    """

    number: int
    turn: int
    settings: dict[str, Any]
    seed: int
    state: str
    accuracies: tuple[float, ...]
    train_accuracy: float | None
    seconds: float

    @property
    def val_accuracy(self) -> float:
        """Of the final weights: what trials are ranked by. nan if there was no epoch."""
        return self.accuracies[-1] if self.accuracies else nan

    @property
    def best_val_accuracy(self) -> float:
        """The highest after any epoch; with the same images for choosing and measuring, it flatters."""
        return max(self.accuracies, default=nan)

    @property
    def top5_val_accuracy(self) -> float:
        """The mean of the five highest."""
        return fmean(sorted(self.accuracies)[-5:]) if self.accuracies else nan


@dataclass(frozen=True)
class Study:
    """A search as its storage has it, finished or not.

    Attributes:
        name: of the study in its storage.
        plan: what was to be done: ``plan.space``, ``plan.config``, ``plan.trials``.
        trials: those that are done, by number.
        noise: repetitions of the best one with other seeds.
    """

    name: str
    plan: Plan
    trials: tuple[Trial, ...]
    noise: tuple[Trial, ...]

    @cached_property
    def ranking(self) -> tuple[Trial, ...]:
        """The complete trials, the highest final validation accuracy first."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return tuple(sorted(complete, key=lambda trial: (-trial.val_accuracy, trial.number)))

    @property
    def best(self) -> Trial:
        """The first of the ranking.

        Raises:
            SearchError: no trial was completed.
        """
        if not self.ranking:
            raise SearchError(
                f"no trial of the study {self.name!r} is complete ({len(self.trials)} were pruned or diverged): search "
                "lower learning rates, or without pruning."
            )
        return self.ranking[0]

    @property
    def noise_accuracies(self) -> list[float]:
        """The validation accuracies of the best one's repetitions, as far as they were completed."""
        return [trial.val_accuracy for trial in self.noise if trial.state == "complete"]

    @property
    def seed_noise(self) -> float | None:
        """The standard deviation (n - 1) of the validation accuracy when nothing but the seed changes."""
        return stdev(self.noise_accuracies) if len(self.noise_accuracies) >= 2 else None

    @property
    def unseparated(self) -> tuple[Trial, ...]:
        """The trials behind the best that chance could have put there: within 2 sqrt(2) ``seed_noise`` of it."""
        if self.seed_noise is None:
            return ()
        least = self.best.val_accuracy - BEYOND_NOISE * self.seed_noise
        return tuple(trial for trial in self.ranking[1:] if trial.val_accuracy >= least)

    @cached_property
    def order(self) -> Correlation:
        """Whether later trials are better or worse. The order is random, so in a sound search they are not."""
        return order_correlation([trial.val_accuracy for trial in sorted(self.ranking, key=lambda trial: trial.turn)])

    def table(self, top: int = 10) -> str:
        """The best trials as text, with the noise of seeds and every reason to doubt the ranking."""
        best, doubtful = self.best, {trial.number for trial in self.unseparated}
        names = self.plan.space.names
        header = ["trial", *names, "val %", "behind", "best epoch", "mean top 5", "train %"]
        rows = []
        for trial in self.ranking[:top]:
            behind = 100 * (best.val_accuracy - trial.val_accuracy)
            accuracies = (trial.best_val_accuracy, trial.top5_val_accuracy, trial.train_accuracy)
            rows.append([
                str(trial.number), *(written(trial.settings.get(name, "")) for name in names),
                f"{100 * trial.val_accuracy:.2f}", f"{'~' if trial.number in doubtful else ''}{behind:.2f}",
                *("" if accuracy is None else f"{100 * accuracy:.2f}" for accuracy in accuracies),
            ])  # fmt: skip
        return "\n".join([*lined_up(header, rows, numbers=0), "", *self.notes()])

    def notes(self) -> list[str]:
        """What one should know before believing the ranking, a line each."""
        states = [trial.state for trial in self.trials]
        lines = [f"{len(self.trials)} of {self.plan.trials} trials done: {len(self.ranking)} complete, "
                 f"{states.count('pruned')} pruned, {states.count('diverged')} diverged."]  # fmt: skip
        if self.plan.config.synthetic:
            lines.append("SYNTHETIC DATA, NOT CIFAR-10: the accuracies say nothing about CIFAR-10.")
        return [*lines, *self._noise_notes(), *self._order_notes(), *self._edge_notes()]

    def narrowed(self) -> Space:
        """The space of a fine search around the best of this one.

        For each block of the space that has one of the best tenth of the complete trials (three at least), and each
        setting of it: a range goes from the lowest to the highest value of those trials, one step wider on either side,
        but never beyond the old range; a step is that of the grid, or the old width divided by the number of random
        trials, on the scale of the range. A list keeps the values that occur among them.
        """
        best = self.ranking[: max(3, len(self.ranking) // 10)]
        blocks = []
        for which, block in enumerate(self.plan.space.blocks):
            inside = [trial.settings for trial in best if self.plan.space.block_of(trial.number) == which]
            if inside:
                blocks.append({name: self._narrowed(v, [point[name] for point in inside]) for name, v in block.items()})
        return Space(*blocks)

    def figure(self, path: str | PathLike[str] | None = None) -> "Picture":
        """Accuracy over each setting that varies, and over the plane of the first two; also written to ``path``.

        Raises:
            SearchError: no trial was completed.
        """
        from tinygrad_cifar.search.figure import draw

        return draw(self, path)

    def __str__(self) -> str:
        return self.table()

    def _narrowed(self, values: Values, occurring: Sequence[Any]) -> Values:
        if not isinstance(values, Range):
            return [value for value in values if value in occurring]
        step = 1 / ((values.points - 1) if values.points else len(self.trials) / len(self.plan.space.blocks))
        shares = [values.share(value) for value in occurring]
        low, high = max(0.0, min(shares) - step), min(1.0, max(shares) + step)
        return Range(values.at(low), values.at(high), values.scale, values.points)

    def _noise_notes(self) -> list[str]:
        if self.seed_noise is None:
            return ["The noise of seeds was not measured: repeat the best trial with --noise-seeds 5."]
        again = self.noise_accuracies
        lines = [
            f"Noise of seeds: {100 * self.seed_noise:.2f} points (standard deviation of {len(again)} repetitions of "
            f"trial {self.best.number}; their mean is {100 * fmean(again):.2f} %)."
        ]
        if self.unseparated:
            lines.append(
                f"Warning: {len(self.unseparated)} trials are behind the best by less than that noise explains (~): "
                f"differences below {100 * BEYOND_NOISE * self.seed_noise:.2f} points do not tell settings apart."
            )
        return lines

    def _order_notes(self) -> list[str]:
        if len(self.ranking) < 5 or self.order.p >= SUSPICIOUS:
            return []
        return [
            f"Warning: the accuracy depends on the order in which trials were done (Spearman's rho "
            f"{self.order.rho:.2f}, p = {self.order.p:.4f}): something is carried over from one to the next."
        ]

    def _edge_notes(self) -> list[str]:
        block = self.plan.space.blocks[self.plan.space.block_of(self.best.number)] if self.ranking else {}
        lines = []
        for name, values in block.items():
            if isinstance(values, Range):
                step = 1 / ((values.points - 1) if values.points else len(self.trials))
                share = values.share(self.best.settings[name])
                if share < step / 2 or share > 1 - step / 2:
                    lines.append(
                        f"Warning: the best {name}, {written(self.best.settings[name])}, is at the edge of its range."
                    )
        return lines
