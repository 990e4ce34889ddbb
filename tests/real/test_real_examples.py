"""The examples end at the accuracies that the README shows."""

import os
from pathlib import Path

import pytest

from tests.examples.printed import EXAMPLES, form, in_readme, percentages, run

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        "TINYGRAD_CIFAR_DATA" not in os.environ, reason="needs CIFAR-10: set TINYGRAD_CIFAR_DATA to its folder"
    ),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_it_ends_at_the_accuracies_of_the_readme(example: Path, tmp_path: Path) -> None:
    printed, shown = run(example, tmp_path), in_readme(example)
    assert form(printed) == form(shown)
    # On the way there, at high learning rates, rounding is enough to move an accuracy by more. Another BLAS rounds
    # otherwise, and the published images are a little better than the copy the README used.
    assert percentages(printed) == pytest.approx(percentages(shown), abs=1.5)
