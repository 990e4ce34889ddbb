"""What a search is to do, as it is written into its storage; every process works from there."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.search.space import Space
from tinygrad_cifar.train import Config

PATIENCE = 30.0
"""Seconds after which a trial that is not heard of counts as left behind by a killed process."""

FRESH = "seed"  # the key of a trial that repeats another one with a fresh seed begins with it


@dataclass(frozen=True)
class Plan:
    """The trials of a search, each known by a key.

    ``"17"`` is point 17 of the space. ``"seed:17:2"`` is the third repetition of it with another seed: the noise. What
    a key stands for, settings and seed, depends on the key, the space and ``config.seed`` alone, so a trial that was
    killed can be done again by anybody.

    Attributes:
        space: what varies.
        config: everything else; its seed is what the points and the seeds of all trials are derived from.
        trials: how many points of the space.
        noise_seeds: how often the best of them is repeated.
        prune: whether hopeless trials are ended early.
    """

    space: Space
    config: Config
    trials: int
    noise_seeds: int = 0
    prune: bool = False

    def __post_init__(self) -> None:
        size = self.space.size
        if self.trials < 1:
            raise ConfigError(f"a search needs at least 1 trial, not {self.trials}.")
        if size is not None and self.trials > size:
            raise ConfigError(f"the grid has {size} points, so {self.trials} trials cannot be distinct.")
        if self.noise_seeds < 0 or self.noise_seeds == 1:
            raise ConfigError(f"noise_seeds must be 0, or at least 2 for a spread, not {self.noise_seeds}.")

    def points(self) -> list[str]:
        """The points of the space."""
        return [str(number) for number in range(self.trials)]

    def noise_keys(self, best: str) -> list[str]:
        """The repetitions of point ``best``."""
        return [f"{FRESH}:{best}:{k}" for k in range(self.noise_seeds)]

    def wanted(self, finished: Mapping[str, float | None]) -> list[str]:
        """The keys that this plan asks for as far as one can say: the noise comes when the best point is known.

        ``finished`` has the validation accuracy of the keys that are done, None where there is none.
        """
        keys = self.points()
        accuracies = {key: value for key in keys if (value := finished.get(key)) is not None}
        if not accuracies or not finished.keys() >= set(keys):
            return self._mixed(keys)
        return keys + self.noise_keys(max(accuracies, key=lambda key: (accuracies[key], -int(key))))

    def settings(self, key: str) -> dict[str, Any]:
        """What is varied, as the trial ``key`` has it."""
        return self.space.point(point_of(key), self.config.seed)

    def seed(self, key: str) -> int:
        """A seed for each key, so that no two trials begin with the same weights."""
        return int(np.random.SeedSequence([self.config.seed, zlib.crc32(key.encode())]).generate_state(1)[0])

    def configuration(self, key: str) -> Config:
        """The run that the trial ``key`` is.

        Raises:
            ConfigError: a setting that is varied is unknown, or a value of it does not do.
        """
        settings = self.settings(key)
        known = Config.__dataclass_fields__
        for name in settings:
            if name not in known or name in ("seed", "data", "synthetic"):
                raise ConfigError(f"a search cannot vary {name!r}: it varies settings of the network and its training.")
        if "hidden" in settings:
            widths = settings["hidden"]
            settings["hidden"] = tuple(widths) if isinstance(widths, list | tuple) else (widths,)
        return self.config.with_settings(**settings, seed=self.seed(key))

    def _mixed(self, keys: list[str]) -> list[str]:
        """In a random order, so that "later" does not mean "larger" when the order of trials is tested."""
        order = np.random.default_rng([self.config.seed, len(keys)]).permutation(len(keys))
        return [keys[k] for k in order]

    def differences(self, other: "Plan") -> list[str]:
        """What makes these two different searches; more trials, noise or pruning, or data elsewhere, does not."""
        mine, others = (vars(plan.config) | {"data": None} for plan in (self, other))
        names = [name for name in mine if mine[name] != others[name]]
        return names + (["what is varied"] if self.space != other.space else [])

    def to_json(self) -> str:
        """For ``from_json``."""
        counts = {"trials": self.trials, "noise_seeds": self.noise_seeds, "prune": self.prune}
        config = replace(self.config, data=None).to_json()
        return json.dumps({"space": self.space.to_json(), "config": config, **counts})

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """The plan that ``to_json`` wrote; where CIFAR-10 lies is for each machine to say."""
        content = json.loads(text)
        space, config = Space.from_json(content.pop("space")), Config.from_json(content.pop("config"))
        return cls(space, config, **content)


def point_of(key: str) -> int:
    """The number of the point that the trial ``key`` is at."""
    return int(key.split(":")[1] if key.startswith(FRESH) else key)
