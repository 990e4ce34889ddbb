"""The examples run, are short, use nothing that is private, and print what the README shows."""

import re
from pathlib import Path

import pytest

from tests.examples.printed import EXAMPLES, form, in_readme, run


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_runs_and_prints_the_lines_that_the_readme_shows(path: Path, tmp_path: Path) -> None:
    printed = run(path, tmp_path, "--quick", TINYGRAD_CIFAR_DATA="nowhere")
    assert form(printed) == form(in_readme(path))  # for the figures see tests/real
    assert re.search(r"test\D*[\d.]+", printed)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_is_short_and_uses_public_names(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert not re.search(r"[\s.]_[a-z]", text)


def test_there_are_the_five_networks_of_the_assignments() -> None:
    assert {path.stem for path in EXAMPLES} == {
        "k_layer_batch_norm", "sigmoid_adam", "softmax_classifier", "two_layer_cyclical", "two_layer_momentum",
    }  # fmt: skip
