"""What the tests of the core share."""

from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def in_torch(torch: ModuleType) -> ModuleType:
    """Every op in PyTorch (``in_torch.apply(name, *inputs, **kwargs)``), or the test is skipped."""
    from tests.core import in_torch

    return in_torch
