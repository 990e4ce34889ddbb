"""What the epoch benchmark trains on: uint8 noise of CIFAR-10's shape, since speed does not depend on the picture."""

import numpy as np

from tinygrad_cifar.data import Split, Standardiser

VALIDATION = 1000  # images a time


def splits(images: int) -> tuple[Split, Split, Standardiser]:
    """(train, validation, standardiser): ``images`` to train on and a ninth of it to validate on."""
    rng = np.random.default_rng(3)
    train, validation = (
        Split(rng.integers(256, size=(n, 3072), dtype=np.uint8), rng.integers(10, size=n, dtype=np.uint8))
        for n in (images, images // 9)
    )
    return train, validation, Standardiser.fit(train.images[:5000])
