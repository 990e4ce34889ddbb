"""CIFAR-10 itself, where it is: what is known about it holds for what the loader reads."""

import os
from pathlib import Path

import numpy as np
import pytest

from tinygrad_cifar.data import Cifar10, Standardiser, load_cifar10
from tinygrad_cifar.data.cifar10 import BINARY_FOLDER, PYTHON_FOLDER, VARIABLE

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"needs CIFAR-10: set {VARIABLE} to its folder"),
]


@pytest.fixture(scope="module")
def cifar() -> Cifar10:
    return load_cifar10()


def test_it_is_cifar10(cifar):
    assert not cifar.is_synthetic
    assert cifar.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert cifar.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(cifar.train.labels).tolist() == [5000] * 10
    assert np.bincount(cifar.test.labels).tolist() == [1000] * 10


def test_its_colours_are_those_that_everybody_quotes(cifar):
    fitted = Standardiser.fit(cifar.train.images, "channel")
    np.testing.assert_allclose(fitted.mean[::1024], [0.4914, 0.4822, 0.4465], atol=0.002)
    np.testing.assert_allclose(fitted.std[::1024], [0.2470, 0.2435, 0.2616], atol=0.005)


def test_both_layouts_hold_the_same_images():
    folders = [Path(os.environ[VARIABLE]) / name for name in (BINARY_FOLDER, PYTHON_FOLDER)]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"{VARIABLE} does not hold both published layouts")
    binary, python = map(load_cifar10, folders)
    for ours, theirs in ((binary.train, python.train), (binary.test, python.test)):
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
