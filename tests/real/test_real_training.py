"""The command line trains on CIFAR-10 itself, and reaches the accuracy that the documents report."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        "TINYGRAD_CIFAR_DATA" not in os.environ, reason="needs CIFAR-10: set TINYGRAD_CIFAR_DATA to its folder"
    ),
]

CYCLICAL = ["--schedule", "triangular", "--eta-min", "1e-5", "--eta-max", "1e-1", "--batch-size", "100"]
TWO_LAYERS = ["--hidden", "50", "--lam", "0.01", "--n-s", "800", "--cycles", "3", "--split", "batch1"]
THREE_LAYERS = ["--hidden", "50,50", "--batch-norm", "--lam", "0.005", "--n-s", "2250", "--cycles", "2"]


def tinygrad_cifar(*arguments: str) -> str:
    """What the command prints."""
    program = "from tinygrad_cifar.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("recipe", "accuracy"),
    [
        pytest.param([*TWO_LAYERS, *CYCLICAL], 46.0, id="2 layers, 3 cycles, batch 1"),
        pytest.param([*THREE_LAYERS, *CYCLICAL, "--split", "all-5000"], 52.0, id="3 layers, batch norm, 2 cycles"),
    ],
)
def test_training_reaches_the_accuracy_of_the_documents(recipe: list[str], accuracy: float, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tinygrad_cifar("train", *recipe, "--seed", "12345", "--out", str(folder))
    left = {path.name for path in folder.iterdir()}
    assert left >= {"config.json", "curves.png", "environment.json", "history.csv", "model.safetensors", "summary.txt"}
    reported = re.search(r"test accuracy\D*([\d.]+) ?%", tinygrad_cifar("evaluate", str(folder)))
    assert reported, "evaluate does not print the test accuracy"
    assert float(reported[1]) >= accuracy
