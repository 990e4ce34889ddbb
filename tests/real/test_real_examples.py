"""An example prints the figures that the README shows."""

import os
from pathlib import Path

import pytest

from tests.examples.printed import ROOT, form, in_readme, percentages, run

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        "TINYGRAD_CIFAR_DATA" not in os.environ, reason="needs CIFAR-10: set TINYGRAD_CIFAR_DATA to its folder"
    ),
]


def test_the_shortest_example_prints_the_figures_of_the_readme(tmp_path: Path) -> None:
    example = ROOT / "examples" / "softmax_classifier.py"
    printed, shown = run(example, tmp_path), in_readme(example)
    assert form(printed) == form(shown)
    # Another BLAS rounds otherwise, and the published images are a little better than the copy the README used.
    assert percentages(printed) == pytest.approx(percentages(shown), abs=1.5)
