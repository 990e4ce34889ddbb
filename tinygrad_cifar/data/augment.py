"""Random changes to training images that leave their labels true, on uint8 rows of 3 x 32 x 32 pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar.data.splits import CHANNELS, SIDE
from tinygrad_cifar.errors import ConfigError

Images = NDArray[np.uint8]
Augmentation = Callable[[Images, np.random.Generator], Images]
"""(images uint8 (N, 3072), generator) -> new images of the same shape; the images given are left as they are."""


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirror each image left to right with probability ``p``."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ConfigError(f"p={self.p} is no probability; it must be between 0 and 1.")

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        flipped = images.copy()
        pictures = flipped.reshape(-1, CHANNELS, SIDE, SIDE)
        chosen = rng.random(len(images)) < self.p
        pictures[chosen] = pictures[chosen, :, :, ::-1]
        return flipped


@dataclass(frozen=True)
class RandomShift:
    """Move each image by up to ``pixels`` up or down and left or right, uniformly; what moves in is black (0).

    The same as PyTorch's ``RandomCrop(32, padding=pixels)``.
    """

    pixels: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.pixels < SIDE:
            raise ConfigError(f"a shift of up to {self.pixels} pixels; it must be between 0 and {SIDE - 1}.")

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        n, margin = len(images), self.pixels
        padded = np.zeros((n, CHANNELS, SIDE + 2 * margin, SIDE + 2 * margin), np.uint8)
        padded[:, :, margin : margin + SIDE, margin : margin + SIDE] = images.reshape(n, CHANNELS, SIDE, SIDE)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(2, 3))
        down, right = rng.integers(0, 2 * margin + 1, (2, n))
        return windows[np.arange(n), :, down, right].reshape(images.shape)


@dataclass(frozen=True)
class Compose:
    """Several augmentations, one after another."""

    steps: Sequence[Augmentation]

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        for step in self.steps:
            images = step(images, rng)
        return images
