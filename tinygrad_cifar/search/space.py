"""What a search varies: ranges and lists of values for settings of a Config."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, TypeGuard

import numpy as np

from tinygrad_cifar.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``.

    Without ``points`` a trial draws one at random, uniformly on the scale: "log" (every factor equally likely, as for
    learning rates) or "linear". With ``points`` it is a grid of so many values, evenly spaced on the scale, ends
    included.

    Raises:
        ConfigError: ``low`` is not below ``high``, or not above 0 on a log scale, or there are fewer than 2 points.
    """

    low: float
    high: float
    scale: str = "log"
    points: int | None = None

    def __post_init__(self) -> None:
        _require(self.scale in ("log", "linear"), f"the scale of a range is log or linear, not {self.scale!r}.")
        fits = -math.inf < self.low < self.high < math.inf
        _require(fits, f"a range goes from low to high, not from {self.low} to {self.high}.")
        above = self.scale == "linear" or self.low > 0
        _require(above, f"a log range begins above 0, not at {self.low}: 0 can be in a list or a linear range.")
        _require(self.points is None or self.points >= 2, f"a grid has at least 2 points, not {self.points}.")

    def at(self, share: float) -> float:
        """The value at ``share`` of the way from low to high, on the scale."""
        if self.scale == "linear":
            return self.low + share * (self.high - self.low)
        return min(max(self.low * (self.high / self.low) ** share, self.low), self.high)

    def grid(self) -> list[float]:
        """Its ``points`` values."""
        last = (self.points or 2) - 1
        return [self.at(k / last) if k < last else self.high for k in range(last + 1)]

    def share(self, value: float) -> float:
        """Where ``value`` lies: the reverse of ``at``."""
        if self.scale == "linear":
            return (value - self.low) / (self.high - self.low)
        return math.log(value / self.low) / math.log(self.high / self.low)


Values = Range | Sequence[Any]
Block = Mapping[str, Values]
"""What to vary together: {setting of Config: Range or list of values}."""


class Space:
    """One block, or several, as the five rectangles η × λ of a fine search; trials take the blocks in turn.

    Within a block, lists and grids are gone through in full, combination by combination and over again; ranges without
    points are drawn at random. So lists alone make a grid search, ranges alone a random one, and a range and a list
    give every value of the list its fair share of random draws.

    Raises:
        ConfigError: a block varies nothing or other settings than the first one, or something over no list or Range.

    Examples:
        >>> Space({"lr": Range(1e-3, 1e-1), "lam": [1e-6, 1e-5, 1e-4]})
    """

    def __init__(self, *blocks: Block) -> None:
        _require(all(blocks) and len(blocks) > 0, "a search needs something to vary, as {'lam': Range(1e-5, 1e-1)}.")
        for name, values in (item for block in blocks for item in block.items()):
            listed = isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) and len(values) > 0
            _require(isinstance(values, Range) or listed, f"{name} takes a Range or a list of values, not {values!r}.")
        self.blocks = [
            {name: v if isinstance(v, Range) else [_plain(item) for item in v] for name, v in block.items()}
            for block in blocks
        ]
        names = [sorted(block) for block in self.blocks]
        _require(all(n == names[0] for n in names), f"the blocks of a space vary the same settings, not {names}.")

    @property
    def names(self) -> list[str]:
        """The settings that vary."""
        return list(self.blocks[0])

    @property
    def size(self) -> int | None:
        """How many points a pure grid has; None where something is drawn at random."""
        if any(_is_drawn(values) for block in self.blocks for values in block.values()):
            return None
        return sum(len(_combinations(block)) for block in self.blocks)

    def block_of(self, number: int) -> int:
        """Which block the point ``number`` belongs to."""
        if self.size is None:
            return number % len(self.blocks)
        return [which for which, block in enumerate(self.blocks) for _ in _combinations(block)][number]

    def point(self, number: int, seed: int) -> dict[str, Any]:
        """The settings of trial ``number``, from 0: a pure function of its arguments.

        A pure grid has ``size`` points; they come block by block.
        """
        if self.size is not None:
            return [point for block in self.blocks for point in _combinations(block)][number]
        turn, block = number // len(self.blocks), self.blocks[self.block_of(number)]
        combinations = _combinations(block)
        rng = np.random.default_rng([seed, number])
        drawn = {name: v.at(rng.random()) for name, v in block.items() if _is_drawn(v)}
        return {name: (drawn | combinations[turn % len(combinations)])[name] for name in block}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __str__(self) -> str:
        return "  and  ".join(", ".join(f"{name} {_described(v)}" for name, v in b.items()) for b in self.blocks)

    def to_json(self) -> str:
        """For ``from_json``."""
        return json.dumps(
            [{name: asdict(v) if isinstance(v, Range) else v for name, v in b.items()} for b in self.blocks]
        )

    @classmethod
    def from_json(cls, text: str) -> "Space":
        """The space that ``to_json`` wrote."""
        return cls(
            *({name: Range(**v) if isinstance(v, dict) else v for name, v in b.items()} for b in json.loads(text))
        )


def parse_variation(text: str) -> tuple[str, Values]:
    """What the command line takes: ``lr=log:1e-5:1e-1``, ``lr=linear:0:0.1``, with ``:8`` a grid of 8, or a list.

    Raises:
        ConfigError: it is none of these.
    """
    name, _, values = text.partition("=")
    scale, *rest = values.split(":")
    try:
        if rest:
            low, high, *points = rest
            return name, Range(float(low), float(high), scale, *(int(n) for n in points))
        return name, [_parse_value(item) for item in values.split(",")]
    except ConfigError:
        raise
    except (ValueError, TypeError):
        raise ConfigError(
            f"{text!r} says not what to vary: write NAME=log:LOW:HIGH or NAME=linear:LOW:HIGH for random values, with "
            ":N for a grid of N, or a list as lam=1e-6,1e-5."
        ) from None


def written(value: Any) -> str:
    """A setting for people: four digits of a float."""
    if isinstance(value, list | tuple):
        return "-".join(map(written, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _described(values: Values) -> str:
    if not isinstance(values, Range):
        return "in " + ", ".join(map(written, values))
    grid = f", {values.points} points" if values.points else ""
    return f"from {written(values.low)} to {written(values.high)} ({values.scale}{grid})"


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        if not text:
            raise
        return text


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_drawn(values: Values) -> TypeGuard[Range]:
    return isinstance(values, Range) and values.points is None


def _combinations(block: Block) -> list[dict[str, Any]]:
    """Every combination of the lists and grids of a block."""
    fixed = {name: v.grid() if isinstance(v, Range) else v for name, v in block.items() if not _is_drawn(v)}
    return [dict(zip(fixed, values, strict=True)) for values in product(*fixed.values())]


def _require(valid: bool, message: str) -> None:
    if not valid:
        raise ConfigError(message)
