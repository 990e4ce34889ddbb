"""Which classes are taken for which."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_cifar.errors import DataError, ShapeError
from tinygrad_cifar.viz.figure import BLUE, FAINT, INK, Picture, bare


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int | Sequence[str]) -> NDArray[np.int64]:
    """Counts (K, K): entry [i, j] is how many examples of class i were predicted as class j.

    ``labels`` and ``predictions`` (N,) are class numbers in [0, K); ``classes`` is K, or the K names.

    Raises:
        ShapeError: labels and predictions do not pair up.
        DataError: a number that is not one of the K classes.
    """
    count = int(classes) if isinstance(classes, int | np.integer) else len(classes)
    pairs = {"labels": np.asarray(labels), "predictions": np.asarray(predictions)}
    true, predicted = pairs.values()
    if true.ndim != 1 or true.shape != predicted.shape:
        raise ShapeError(f"labels {true.shape} and predictions {predicted.shape} should both be (N,), one class each")
    for name, values in pairs.items():
        if values.dtype.kind not in "iu":
            raise DataError(f"{name} are {values.dtype}, not class numbers: pass scores.argmax(axis=1), not the scores")
        outside = np.flatnonzero((values < 0) | (values >= count))
        if len(outside):
            raise DataError(f"{name}[{outside[0]}] is {values[outside[0]]}, outside the {count} classes 0..{count - 1}")
    cells = true.astype(np.int64) * count + predicted.astype(np.int64)
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def per_class_accuracy(matrix: ArrayLike) -> NDArray[np.float64]:
    """The diagonal over the row sums of a confusion matrix: (K, K) -> (K,) in [0, 1], NaN for an absent class."""
    counts = _checked(matrix)
    totals = counts.sum(axis=1)
    return np.divide(np.diag(counts), totals, out=np.full(len(counts), np.nan), where=totals > 0)


def confusion_picture(matrix: ArrayLike, classes: Sequence[str]) -> Picture:
    """Draw a confusion matrix (K, K): counts, shaded by their share of the row, and each class's accuracy.

    Raises:
        ShapeError: the matrix is not (K, K) with K = len(classes).
        DataError: it counts no example.
    """
    counts = _checked(matrix)
    if len(classes) != len(counts):
        raise ShapeError(f"{len(classes)} class names do not fit a matrix of shape {counts.shape}")
    if counts.sum() == 0:
        raise DataError("the confusion matrix counts no example: predict at least one before drawing it")
    size = 0.62 * len(classes) + 2.2
    picture = Picture(size + 1.8, size)
    cells, bars = picture.subplots(1, 2, sharey=True, width_ratios=[len(classes), 0.24 * len(classes)])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if shares[row, column] > 0.6 else INK if count else FAINT
        weight = "bold" if row == column else "normal"
        cells.text(column, row, f"{count:,}", ha="center", va="center", fontsize=10, color=ink, fontweight=weight)
    cells.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
    cells.set_yticks(range(len(classes)), classes)
    cells.set_xlabel("predicted", fontsize=12, color=INK)
    cells.set_ylabel("true", fontsize=12, color=INK)
    right, total = int(np.trace(counts)), int(counts.sum())
    cells.set_title(f"{100 * right / total:.2f} % of {total:,} right", fontsize=13, color=INK, loc="left")
    accuracy = per_class_accuracy(counts)
    bars.barh(range(len(classes)), np.nan_to_num(accuracy), height=0.62, color=BLUE)
    for row, value in enumerate(accuracy):
        words = "none" if np.isnan(value) else f"{100 * value:.1f} %"
        bars.text(np.nan_to_num(value) + 0.03, row, words, va="center", fontsize=10, color=INK)
    bars.set(xlim=(0, 1.6), xticks=[])
    bars.set_title("accuracy", fontsize=12, color=INK, loc="left")
    for axes in (cells, bars):
        bare(axes)
    return picture


def _checked(matrix: ArrayLike) -> NDArray[np.int64]:
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.dtype.kind not in "iu":
        raise ShapeError(f"a confusion matrix is (K, K) whole numbers, got {counts.shape} {counts.dtype}")
    return counts.astype(np.int64)
