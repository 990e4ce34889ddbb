"""The pictures that compare runs: lines with bands over repeats, and grids of panels."""

from collections.abc import Mapping, Sequence

import numpy as np

from tinygrad_cifar.viz.curves import SPLITS
from tinygrad_cifar.viz.figure import BLUE, INK, VERMILION, Picture, dress

PALETTE = (BLUE, VERMILION, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # of Okabe & Ito
DASHES = ("-", "--", ":")
WIDE = 10  # losses that are so many times the least are drawn on a log scale
TITLES = {"train": "training", "val": "validation", "test": "test"}

Curves = Mapping[str, Sequence[float]]


def bands(groups: Mapping[str, Sequence[Curves]], quantities: Sequence[str]) -> Picture:
    """A panel per quantity, as "test_loss", over epochs: the mean line of each group, and ± one std around it.

    Args:
        groups: by label, the repeats; each has a column for every quantity, and "epoch", or "test_epoch" for those of
            the test images. A repeat that ended early is left out.
        quantities: the columns to draw.
    """
    picture = Picture(6.2 * len(quantities), 4.6)
    panels = picture.subplots(1, len(quantities), squeeze=False)[0]
    for axes, quantity in zip(panels, quantities, strict=True):
        along = "test_epoch" if quantity.startswith("test_") else "epoch"
        for i, (label, repeats) in enumerate(groups.items()):
            colour, dash = PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)]
            epochs = max((r[along] for r in repeats), key=len, default=())
            values = np.array([r[quantity] for r in repeats if len(r[quantity]) == len(epochs)])
            if not values.size:
                continue
            mean, std = values.mean(axis=0), values.std(axis=0)
            axes.plot(epochs, mean, dash, color=colour, label=label, linewidth=1.4)
            if len(values) > 1:
                axes.fill_between(epochs, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        dress(axes, title(quantity), "epoch", 13)
        low, high = axes.dataLim.intervaly
        if quantity.endswith("loss") and high > WIDE * low > 0:
            axes.set_yscale("log")
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(
        handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False, labelcolor=INK
    )
    return picture


def loss_panels(runs: Mapping[str, Curves]) -> Picture:
    """A panel per run with its training and validation loss over epochs, two side by side."""
    rows = -(-len(runs) // 2)
    picture = Picture(12.4, 3.2 * rows)
    panels = picture.subplots(rows, 2, squeeze=False, sharey=True).ravel()
    for axes, (label, curves) in zip(panels, runs.items(), strict=False):
        for split, name, colour, dash in SPLITS:
            values = curves[f"{split}_loss"]
            axes.plot(np.arange(1, len(values) + 1), values, dash, color=colour, label=f"{name} loss")
        dress(axes, label, "epoch", 13)
    for axes in panels[len(runs) :]:
        axes.set_visible(False)
    panels[0].legend(frameon=False, labelcolor=INK)
    return picture


def title(quantity: str) -> str:
    """``test_loss`` as ``test loss``."""
    split, _, rest = quantity.partition("_")
    return f"{TITLES[split]} {rest}"
