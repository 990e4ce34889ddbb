"""What a data set is: rows of uint8 pixels and their labels, and how the documents divide CIFAR-10."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar.errors import ConfigError, DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""What the labels 0 to 9 mean."""
CHANNELS, SIDE = 3, 32
PIXELS = CHANNELS * SIDE * SIDE
BATCH = 10_000
"""Images in each of the published files."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 (N, 3072), 0...255: 1,024 red values, then green, then blue, each row by row.
        labels: uint8 (N,), 0...9, an index into ``Cifar10.classes``.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        for name, array, shape in (
            ("images", self.images, (len(self.labels), PIXELS)),
            ("labels", self.labels, (len(self.labels),)),
        ):
            if array.shape != shape or array.dtype != np.uint8:
                raise DataError(f"{name} must be uint8 of shape {shape}, not {array.dtype} of shape {array.shape}.")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images)"

    def subset(self, n: int) -> "Split":
        """The first ``n`` images (a view, nothing is copied).

        Raises:
            DataError: ``n`` is not between 1 and the number of images.
        """
        if not 1 <= n <= len(self):
            raise DataError(f"a subset of {n:,} images cannot be taken from {len(self):,}; ask for 1 to {len(self):,}.")
        return Split(self.images[:n], self.labels[:n])


@dataclass(frozen=True, eq=False)
class Cifar10:
    """CIFAR-10 [Krizhevsky 2009], or the synthetic set that stands in for it.

    Attributes:
        train: the five training batches in published order, 50,000 images.
        test: the test batch, 10,000 images.
        source: where the images come from, for people to read.
        is_synthetic: True if these are not photographs but the project's own stand-in.
        classes: the ten names; label k means ``classes[k]``.
    """

    train: Split
    test: Split
    source: str
    is_synthetic: bool = False
    classes: tuple[str, ...] = CLASSES

    def split(self, name: str) -> tuple[Split, Split]:
        """``(train, validation)``, divided as the documents do (views, nothing is copied).

        | name       | train                     | validation                |
        |------------|---------------------------|---------------------------|
        | "batch1"   | training batch 1 (10,000) | training batch 2 (10,000) |
        | "all-5000" | the first 45,000          | the last 5,000            |
        | "all-1000" | the first 49,000          | the last 1,000            |
        | "all-N"    | all but the last N        | the last N                |

        Raises:
            ConfigError: there is no split of that name.
            DataError: the data set is too small for it.
        """
        total = len(self.train)
        if name == "batch1":
            first, last = BATCH, 2 * BATCH
        elif name.startswith("all-") and name[4:].isdecimal():
            first, last = total - int(name[4:]), total
        else:
            raise ConfigError(f"no split is called {name!r}; there are 'batch1', 'all-5000', 'all-1000', 'all-N'.")
        if not 0 < first < last <= total:
            raise DataError(f"split {name!r} leaves no images to train or validate on: there are {total:,} in all.")
        images, labels = self.train.images, self.train.labels
        return Split(images[:first], labels[:first]), Split(images[first:last], labels[first:last])
