"""The images themselves: the pixels, and what subtracting the mean does to them."""

from collections.abc import Iterator

import numpy as np

from tinygrad_cifar.data import Cifar10, Standardiser
from tinygrad_cifar.recipes.recipe import Recipe, Results
from tinygrad_cifar.report.blocks import Block, Figure, Table
from tinygrad_cifar.viz import image_grid, weight_templates

SHOWN = 50
DOCUMENT = {"train": "1.787e-15", "val": "-0.000809", "test": "0.001914"}


def means(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """The mean of each split after the training mean has been subtracted."""
    train, val = data.split("batch1")
    standardiser = Standardiser.fit(train.images, "mean")
    splits = {"train": train, "val": val, "test": data.test}
    rows = []
    for name, split in splits.items():
        mean = standardiser.transform(split.images, np.float64).mean()
        rows.append((name, f"{len(split):,}", DOCUMENT[name], f"{mean:.3e}" if name == "train" else f"{mean:.6f}"))
    caption = "Mean of all values after subtracting the training images' mean, float64."
    yield Table(("split", "images", "document", "here"), rows, caption)


def grids(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """The first training images as they are, and after subtracting the mean."""
    train, _ = data.split("batch1")
    first = train.subset(SHOWN)
    picture = image_grid(first.images, first.labels, data.classes)
    yield Figure(picture, "images", f"The first {SHOWN} training images.", local=True)
    x = Standardiser.fit(train.images, "mean").transform(first.images, np.float64)
    text = "The same after subtracting the mean, each rescaled by its own extremes so that nothing is clipped."
    yield Figure(weight_templates(x), "images-minus-mean", text, local=True)
