"""A document whose experiments train in a blink."""

import pytest

from tinygrad_cifar.recipes import shows
from tinygrad_cifar.recipes.recipe import Claim, Document, Recipe, Setting
from tinygrad_cifar.train import Config

SMALL = Config(hidden=(8,), lr=0.05, batch_size=50, epochs=3, split="all-200")


@pytest.fixture
def document() -> Document:
    two = {
        "η=.05": Setting(SMALL, {"train": 55.0, "test": 1.0}),
        "η=.01": Setting(SMALL.with_settings(lr=0.01), {"test": 99.0}, why="There is no such network."),
    }
    one = {"no hidden layer": Setting(SMALL.with_settings(hidden=()))}
    return Document("small", "Small things", "Nothing to see.", (
        Recipe("two", "9.1", "Two rates", two, (shows.accuracies, shows.curves, shows.bands, shows.after_training),
               (Claim("More is more.", lambda r: r["η=.05"].mean("test") > 0), Claim("Less is more.", lambda r: False)),
               ("The document contradicts itself.",), repeats=2),
        Recipe("one", "9.2", "One layer", one, (shows.templates, shows.panels, shows.last_losses), repeats=1),
    ))  # fmt: skip
