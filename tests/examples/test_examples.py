"""The examples run, are short, and use nothing that is private."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TINYGRAD_CIFAR_DATA": "nowhere"}
    run = subprocess.run(
        [sys.executable, "-W", "error", path, "--quick"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"test\D*[\d.]+", run.stdout)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_is_short_and_uses_public_names(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert not re.search(r"[\s.]_[a-z]", text)


def test_there_are_the_four_networks_of_the_assignments() -> None:
    names = {path.stem for path in EXAMPLES}
    assert {"k_layer_batch_norm", "sigmoid_adam", "softmax_classifier", "two_layer_cyclical"} <= names
