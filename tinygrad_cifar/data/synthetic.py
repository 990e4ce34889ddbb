"""A stand-in of CIFAR-10's shape and format, for machines that cannot have CIFAR-10.

An image is a smooth field of colour: one of its class's two patterns, drowned in a smooth random field and fine
noise. All arithmetic on pixels is in integers, so that a seed gives the same bytes on every machine.
"""

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar.data.splits import CHANNELS, CLASSES, PIXELS, SIDE, Cifar10, Split

_KNOTS = 9  # a field is given by 9 x 9 knots in each channel and is bilinear in the cells of 4 x 4 pixels between
_CELL = SIDE // (_KNOTS - 1)
_PATTERN, _FIELD, _GRAIN = 12.0, 75.0, 24  # standard deviations of the knots; the grain is uniform below its bound
_CHUNK = 500


def synthesise(train: int = 50_000, test: int = 10_000, seed: int = 0) -> Cifar10:
    """A set of ``train`` + ``test`` images made from ``seed``; it does not touch the project's random streams.

    Labels are drawn uniformly. A linear classifier reaches about 55 % on it, so it is good for trying programs
    out; accuracies on it say nothing about CIFAR-10.
    """
    rng = np.random.default_rng(seed)
    patterns = rng.normal(0, _PATTERN, (len(CLASSES), 2, CHANNELS, _KNOTS, _KNOTS))
    return Cifar10(
        _split(rng, patterns, train), _split(rng, patterns, test), f"synthetic, seed {seed}", is_synthetic=True
    )


def _split(rng: np.random.Generator, patterns: NDArray[np.float64], n: int) -> Split:
    labels = rng.integers(0, len(CLASSES), n, dtype=np.uint8)
    images = np.empty((n, PIXELS), np.uint8)
    for start in range(0, n, _CHUNK):  # a chunk at a time stays in cache
        rows = images[start : start + _CHUNK]
        own = patterns[labels[start : start + _CHUNK], rng.integers(0, 2, len(rows))]
        knots = np.rint(own + rng.normal(0, _FIELD, own.shape)).astype(np.int16)
        field = _stretch(_stretch(knots).swapaxes(2, 3)).swapaxes(2, 3).reshape(rows.shape)
        grain = rng.integers(-_GRAIN, _GRAIN, rows.shape, dtype=np.int8)
        rows[:] = np.clip(field // _CELL**2 + grain + 128, 0, 255)
    return Split(images, labels)


def _stretch(knots: NDArray[np.int16]) -> NDArray[np.int16]:
    """Interpolate linearly along axis 2, 9 knots to 32 pixels, times ``_CELL``."""
    pixels = np.empty((*knots.shape[:2], SIDE, knots.shape[3]), np.int16)
    for k in range(_CELL):
        pixels[:, :, k::_CELL] = (_CELL - k) * knots[:, :, :-1] + k * knots[:, :, 1:]
    return pixels
