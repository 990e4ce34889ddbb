"""What tests get: the same seed, no screen, PyTorch where it is installed, a small data set, the command line."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

import tinygrad_cifar as tg
from tinygrad_cifar.data import Cifar10, synthesise

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


@pytest.fixture(scope="session")
def tiny() -> Cifar10:
    """600 synthetic images to train and validate on, 200 to test on: not CIFAR-10."""
    return synthesise(600, 200)


class Shell:
    """Runs the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        from tinygrad_cifar import cli

        self.monkeypatch.setattr(sys, "argv", ["tinygrad-cifar", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = self.capsys.readouterr()
        if isinstance(end.value.code, str):  # Python prints it to stderr and exits with 1
            return 1, printed.out, printed.err + end.value.code
        return end.value.code or 0, printed.out, printed.err


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Cifar10) -> Shell:
    """In an empty folder, with ``tiny`` for the synthetic set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYGRAD_CIFAR_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("tinygrad_cifar.data.cifar10.synthesise", lambda: tiny)
    return Shell(monkeypatch, capsys)
