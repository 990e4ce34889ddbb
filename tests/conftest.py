"""What every test gets: the same seed, no screen, and PyTorch where it is installed."""

import os
from types import ModuleType

import pytest
from hypothesis import settings

import tinygrad_cifar as tg

os.environ["MPLBACKEND"] = "Agg"

# No deadline, because nothing here may depend on how fast the machine is. In CI the examples are the same at every run.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from seed 0, whatever ran before it."""
    tg.manual_seed(0)


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """PyTorch, or the test is skipped: ``def test_relu(torch): ...``."""
    return pytest.importorskip("torch", reason="needs PyTorch: pip install 'tinygrad-cifar[peers]'")
