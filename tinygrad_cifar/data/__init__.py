"""CIFAR-10 as uint8 arrays, and the batches of floats that a network eats.

    cifar = load_cifar10()
    train, validation = cifar.split("all-5000")
    standardiser = Standardiser.fit(train.images, "pixel")
    for x, y in Batches(train, 100, standardiser):  # one epoch, in a new order each time
        ...

Images are uint8 rows of 3,072 values (red, green, blue planes of 32 x 32) until the last moment, so the whole set is
184 MB. Everything here is plain NumPy arrays: no Tensor.
"""

from tinygrad_cifar.data.augment import Augmentation, Compose, RandomHorizontalFlip, RandomShift
from tinygrad_cifar.data.batches import Batches
from tinygrad_cifar.data.cifar10 import CifarUnavailableError, cache_folder, load_cifar10, load_or_synthesise
from tinygrad_cifar.data.splits import CLASSES, Cifar10, Split
from tinygrad_cifar.data.standardise import KINDS, Standardiser
from tinygrad_cifar.data.synthetic import synthesise

__all__ = [
    "CLASSES",
    "KINDS",
    "Augmentation",
    "Batches",
    "Cifar10",
    "CifarUnavailableError",
    "Compose",
    "RandomHorizontalFlip",
    "RandomShift",
    "Split",
    "Standardiser",
    "cache_folder",
    "load_cifar10",
    "load_or_synthesise",
    "synthesise",
]
