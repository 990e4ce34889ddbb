"""What a machine without Optuna is told, and what works there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_cifar.errors import SearchError
from tinygrad_cifar.search import farm, load, search
from tinygrad_cifar.train import Config


def test_without_optuna_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm, "find_spec", lambda name: None)
    with pytest.raises(SearchError, match=re.escape("pip install 'tinygrad-cifar[search]'")):
        search({"lr": [0.1]}, Config())
    with pytest.raises(SearchError, match="Optuna"):
        load()


def test_importing_the_room_does_not_import_optuna() -> None:
    program = "import sys, tinygrad_cifar.search; sys.exit('optuna' in sys.modules)"
    root = str(Path(__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": root}).returncode == 0
