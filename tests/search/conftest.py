"""A data set that trains in a blink."""

import pytest

from tinygrad_cifar.data import Cifar10, synthesise


@pytest.fixture(scope="session")
def tiny() -> Cifar10:
    """600 synthetic images to train and validate on, 200 to test on: not CIFAR-10."""
    return synthesise(600, 200)
