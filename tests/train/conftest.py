"""A data set that trains in a blink."""

import signal
from collections.abc import Iterator

import pytest

from tinygrad_cifar.data import Cifar10, synthesise


@pytest.fixture(scope="session")
def tiny() -> Cifar10:
    """600 synthetic images to train and validate on, 200 to test on: not CIFAR-10."""
    return synthesise(600, 200)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler of Ctrl-C, whatever the process that runs the tests has set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "training left its own handler behind"
    signal.signal(signal.SIGINT, before)
