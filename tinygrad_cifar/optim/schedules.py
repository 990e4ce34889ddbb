"""Learning rates over time. A schedule is a pure function of the step, from 0: ``optimizer.lr = schedule(step)``.

Those that move once an epoch take ``steps_per_epoch``; with the default 1 they move at every step. Nothing is stored,
so a schedule can be plotted, compared, printed, and resumed at any step.
"""
# ruff: noqa: N801 - schedules are written and printed like the functions that they are

import math
from dataclasses import dataclass
from typing import Protocol

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.optim.optimizer import require


class Schedule(Protocol):
    """What every schedule is: step -> learning rate."""

    def __call__(self, step: int) -> float: ...


def _check(schedule: Schedule, least: int, *names: str) -> None:
    """ConfigError where one of these settings of ``schedule`` is less, or not finite."""
    for name in names:
        value = getattr(schedule, name)
        require(value >= least, f"{type(schedule).__name__}: {name}", value, f"at least {least}")


@dataclass(frozen=True)
class constant:
    """Always ``eta``."""

    eta: float

    def __post_init__(self) -> None:
        _check(self, 0, "eta")

    def __call__(self, step: int) -> float:
        return self.eta


@dataclass(frozen=True)
class triangular:
    """Smith 2017: from ``eta_min`` up to ``eta_max`` in ``n_s`` steps and down again in ``n_s``, over and over.

    PyTorch's CyclicLR(mode="triangular").
    """

    eta_min: float
    eta_max: float
    n_s: int

    def __post_init__(self) -> None:
        _check(self, 1, "n_s")
        _check(self, 0, "eta_min")
        require(self.eta_min <= self.eta_max, "triangular: eta_max", self.eta_max, f"at least eta_min, {self.eta_min},")

    def __call__(self, step: int) -> float:
        position = step % (2 * self.n_s)
        height = min(position, 2 * self.n_s - position) / self.n_s
        return self.eta_min + height * (self.eta_max - self.eta_min)

    def complete_cycles(self, epochs: int, n: int, batch: int) -> float:
        """``epochs * floor(n / batch) / (2 n_s)``, the cycles that ``epochs`` over ``n`` samples make.

        Only at a whole number does training end at ``eta_min``, where it is best.
        """
        return epochs * (n // batch) / (2 * self.n_s)


@dataclass(frozen=True)
class exponential:
    """``eta * exp(-k t)``, or ``eta * gamma^t`` (k = -ln gamma), t being the epoch, or the step with steps_per_epoch=1.

    With ``gamma`` PyTorch's ExponentialLR. Give one of ``k`` and ``gamma``.
    """

    eta: float
    k: float | None = None
    gamma: float | None = None
    steps_per_epoch: int = 1

    def __post_init__(self) -> None:
        _check(self, 0, "eta")
        _check(self, 1, "steps_per_epoch")
        if (self.k is None) == (self.gamma is None):
            raise ConfigError("exponential: give either k or gamma.")
        require(self.gamma is None or self.gamma > 0, "exponential: gamma", self.gamma, "positive")

    def __call__(self, step: int) -> float:
        t = step // self.steps_per_epoch
        return self.eta * (math.exp(-self.k * t) if self.k is not None else (self.gamma or 1.0) ** t)


@dataclass(frozen=True)
class step:
    """``eta * gamma^floor(epoch / every)``: a staircase. PyTorch's StepLR, with ``every`` for its step_size."""

    eta: float
    every: int
    gamma: float = 0.1
    steps_per_epoch: int = 1

    def __post_init__(self) -> None:
        _check(self, 0, "eta", "gamma")
        _check(self, 1, "every", "steps_per_epoch")

    def __call__(self, step: int) -> float:
        return self.eta * self.gamma ** (step // self.steps_per_epoch // self.every)


@dataclass(frozen=True)
class cosine:
    """From ``eta_max`` down half a cosine to ``eta_min`` in ``total`` epochs (steps by default), where it stays.

        eta_min + (eta_max - eta_min) (1 + cos(pi t / total)) / 2

    Loshchilov & Hutter 2017, eq. 5, without restarts; PyTorch's CosineAnnealingLR until ``total``.
    """

    eta_max: float
    total: int
    eta_min: float = 0.0
    steps_per_epoch: int = 1

    def __post_init__(self) -> None:
        _check(self, 0, "eta_max", "eta_min")
        _check(self, 1, "total", "steps_per_epoch")

    def __call__(self, step: int) -> float:
        return _anneal(self.eta_max, self.eta_min, min(step // self.steps_per_epoch / self.total, 1))


@dataclass(frozen=True)
class one_cycle:
    """Smith & Topin 2018: up from ``eta_max / div_factor`` in the share ``pct_start`` of ``total`` steps; then down.

    Both along half a cosine; it ends at ``eta_max / div_factor / final_div_factor``. PyTorch's OneCycleLR.
    """

    eta_max: float
    total: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        _check(self, 0, "eta_max")
        for name in ("div_factor", "final_div_factor"):
            require(getattr(self, name) > 0, f"one_cycle: {name}", getattr(self, name), "positive")
        require(0 <= self.pct_start <= 1, "one_cycle: pct_start", self.pct_start, "in [0, 1]")
        if not 1 < self.pct_start * self.total < self.total:
            raise ConfigError(
                f"one_cycle: {self.total} steps are too few to rise and fall with pct_start={self.pct_start}."
            )

    def __call__(self, step: int) -> float:
        start = self.eta_max / self.div_factor
        top = self.pct_start * self.total - 1  # the last step of the rise, as PyTorch places it
        if step <= top:
            return _anneal(start, self.eta_max, step / top)
        return _anneal(self.eta_max, start / self.final_div_factor, min((step - top) / (self.total - 1 - top), 1))


@dataclass(frozen=True)
class warm_up:
    """Rise in a straight line from ``start_factor`` of the first rate to all of it in ``steps``; then ``schedule``.

    Goyal et al. 2017, section 2.2; PyTorch's LinearLR followed by the schedule.
    """

    schedule: Schedule
    steps: int
    start_factor: float = 1 / 3

    def __post_init__(self) -> None:
        _check(self, 0, "steps")
        require(0 <= self.start_factor <= 1, "warm_up: start_factor", self.start_factor, "in [0, 1]")

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.schedule(step - self.steps)
        return self.schedule(0) * (self.start_factor + (1 - self.start_factor) * step / self.steps)


def _anneal(start: float, end: float, share: float) -> float:
    """Half a cosine from ``start`` to ``end``; ``share`` in [0, 1] says how far."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
