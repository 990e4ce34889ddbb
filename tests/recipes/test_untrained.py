"""What is shown without any training: the images, and the documents' tables of gradients."""

import numpy as np
import pytest

from tinygrad_cifar.data import Cifar10, synthesise
from tinygrad_cifar.recipes import DOCUMENTS, gradients, images
from tinygrad_cifar.recipes.recipe import Show
from tinygrad_cifar.report import Figure, Table, Text

RECIPE = DOCUMENTS["a1"]["gradients"]


@pytest.fixture(scope="module")
def two_batches() -> Cifar10:
    """As many images as the split "batch1" takes."""
    return synthesise(20_000, 200)


def test_the_mean_of_the_training_images_becomes_0(two_batches: Cifar10) -> None:
    (table,) = images.means(RECIPE, {}, two_batches)
    assert isinstance(table, Table)
    assert [row[:2] for row in table.rows] == [("train", "10,000"), ("val", "10,000"), ("test", "200")]
    assert abs(float(table.rows[0][3])) < 1e-12 < abs(float(table.rows[1][3]))


def test_images_of_the_data_set_are_not_for_publishing(two_batches: Cifar10) -> None:
    for figure in images.grids(RECIPE, {}, two_batches):
        assert isinstance(figure, Figure)
        assert figure.local


def test_the_first_weights(two_batches: Cifar10) -> None:
    (table,) = gradients.first_weights(RECIPE, {}, two_batches)
    assert isinstance(table, Table)
    assert [row[:2] for row in table.rows] == [
        ("0.weight", "50×3072"), ("0.bias", "50"), ("2.weight", "10×50"), ("2.bias", "10"),
    ]  # fmt: skip
    assert float(table.rows[0][3]) == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize(
    "show", [gradients.methods, gradients.normed, gradients.plain_layers, gradients.batch_norm_layers]
)
def test_tables_of_gradients(show: Show, tiny: Cifar10, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    small = rng.standard_normal((10, 40)), rng.integers(0, 10, 10)
    monkeypatch.setattr(gradients, "_sample", lambda data, n: small)
    for table in show(RECIPE, {}, tiny):
        assert isinstance(table, Table)
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_formulas_are_the_third_witness(tiny: Cifar10) -> None:
    text, table = gradients.sigmoid_layers(RECIPE, {}, tiny)
    assert isinstance(text, Text)
    assert isinstance(table, Table)
    assert "all three agree" in table.caption
