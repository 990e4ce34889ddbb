"""Cost, loss and accuracy of a run, on the training and the validation split."""

import textwrap
from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from tinygrad_cifar.errors import DataError, ShapeError
from tinygrad_cifar.viz.figure import BLUE, INK, VERMILION, Picture, dress

History = Mapping[str, Sequence[float]]

SPLITS = (("train", "training", BLUE, "-"), ("val", "validation", VERMILION, "--"))
WIDTH = 125  # of a line of the title, in characters


def training_curves(
    history: History, path: str | PathLike[str] | None = None, *, config: Mapping[str, object] | None = None
) -> Picture:
    """Three panels, cost (with the penalty), loss (without) and accuracy, over update steps, or else over epochs.

    ``history`` maps a column name to one value per row: ``step`` or ``epoch``, and any of ``train_cost``,
    ``train_loss``, ``train_accuracy``, ``val_cost``, ``val_loss``, ``val_accuracy``; other columns are ignored.
    Accuracies are fractions in [0, 1], shown in per cent. A value that is not finite leaves a gap in its line.
    ``config`` becomes the title: what was run is written on the picture of it. With ``path`` the picture is also
    written there (png, svg, pdf by its suffix).

    Raises:
        DataError: there is nothing to draw, or an accuracy is not a fraction.
        ShapeError: columns differ in length.
    """
    columns = _checked(history)
    axis = "step" if "step" in columns else "epoch"
    picture = Picture(13.5, 4.4)
    panels = picture.subplots(1, 3)
    for axes, quantity in zip(panels, ("cost", "loss", "accuracy"), strict=True):
        for split, label, colour, dash in SPLITS:
            if (values := columns.get(f"{split}_{quantity}")) is not None:
                marker = "o" if len(values) <= 30 else ""
                axes.plot(columns[axis], values, dash, color=colour, marker=marker, markersize=3.5, label=label)
        dress(axes, quantity, "update step" if axis == "step" else axis, 14)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _mark_best(panels[2], columns[axis], columns.get("val_accuracy"))
    # One line of each label, whichever panels it is in.
    lines = {str(line.get_label()): line for axes in panels for line in axes.get_legend_handles_labels()[0]}
    picture.legend(
        lines.values(), lines, loc="outside lower center", ncols=2, frameon=False, fontsize=12, labelcolor=INK
    )
    if config:
        picture.suptitle(_wrapped(describe(config)), fontsize=13, color=INK)
    if path is not None:
        picture.savefig(path)
    return picture


def describe(config: Mapping[str, object]) -> str:
    """A configuration in one line: ``{"hidden": [50, 50], "batch_norm": True, "lr": 0.1}`` gives
    ``hidden 50-50 · batch_norm · lr 0.1``.

    What is None, False or empty is left out; a mapping inside is written out in its place.
    """
    parts = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            parts.append(describe(value))
        elif value is True:
            parts.append(name)
        elif value is not None and value is not False and (text := _short(value)):
            parts.append(f"{name} {text}")
    return " · ".join(part for part in parts if part)


def _wrapped(line: str) -> str:
    """Broken between settings, never inside one, into as few lines as will do, of about the same length."""
    line = line.replace(" ", "\u00a0").replace("\u00a0·\u00a0", " · ")
    whole = min((textwrap.wrap(line, w, break_on_hyphens=False) for w in range(1, WIDTH + 1)), key=len)
    return "\n".join(part.removesuffix(" ·").removeprefix("· ") for part in whole)


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return "-".join(_short(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _checked(history: History) -> dict[str, NDArray[np.float64]]:
    names = [f"{split}_{quantity}" for quantity in ("cost", "loss", "accuracy") for split, *_ in SPLITS]
    columns = {name: np.asarray(history[name], np.float64) for name in ("step", "epoch", *names) if name in history}
    if not ({"step", "epoch"} & columns.keys() and set(names) & columns.keys()):
        raise DataError(
            f"a history to draw has a column 'step' or 'epoch' and at least one of {', '.join(names)}; "
            f"this one has {', '.join(map(repr, history)) or 'no column'}"
        )
    lengths = {name: values.shape for name, values in columns.items()}
    if len(set(lengths.values())) > 1 or any(len(shape) != 1 for shape in lengths.values()):
        raise ShapeError(f"every column of a history has one number per row; these have shapes {lengths}")
    if 0 in next(iter(lengths.values())):
        raise DataError("the history has no rows: train for at least one epoch before drawing its curves")
    for name in ("train_accuracy", "val_accuracy"):
        values = columns.get(name, np.zeros(0))
        if np.any((values < 0) | (values > 1)):
            raise DataError(f"{name} reaches {np.nanmax(np.abs(values)):g}: give fractions in [0, 1], not per cent")
    return columns


def _mark_best(axes: Axes, along: NDArray[np.float64], accuracy: NDArray[np.float64] | None) -> None:
    if accuracy is None or not np.isfinite(accuracy).any():
        return
    best = int(np.nanargmax(accuracy))
    axes.plot(along[best], accuracy[best], "o", markersize=9, markerfacecolor="none", markeredgecolor=VERMILION)
    axes.set_title(f"best validation {100 * accuracy[best]:.2f} %", fontsize=12, color=VERMILION, loc="right")
