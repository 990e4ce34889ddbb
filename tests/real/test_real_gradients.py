"""The documents' gradient checks on ten images of CIFAR-10 itself, at full size."""

import os

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar.data import Standardiser, load_cifar10
from tinygrad_cifar.gradcheck import documents

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        "TINYGRAD_CIFAR_DATA" not in os.environ, reason="needs CIFAR-10: set TINYGRAD_CIFAR_DATA to its folder"
    ),
]


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    train, _ = load_cifar10().split("batch1")
    x = Standardiser.fit(train.images).transform(train.images[:10], np.float64)
    return x, train.labels[:10].astype(int)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("variance_path", [True, False])
def test_the_flags_of_the_batch_norm_check(
    images: tuple[np.ndarray, np.ndarray], depth: int, variance_path: bool
) -> None:
    tg.manual_seed(12345)
    table = documents.allclose_with_batch_norm(*images, depth, variance_path)
    if variance_path:
        assert table.ok
        assert set(table.column("allclose")) == {"True"}
        assert {row[5] for row in table.rows} == {"agree", "zero"}
    else:
        assert table.column("allclose") == [text.split()[0] for text in table.column("as printed")]
        assert "batch_norm #1, gradient of its input x: variance path missing" in table.notes[0]
