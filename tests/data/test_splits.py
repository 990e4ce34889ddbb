import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar.data import CLASSES, Cifar10, Split
from tinygrad_cifar.errors import ConfigError, DataError


def numbered(n):
    """Images whose first four values spell their number."""
    images = np.zeros((n, 3072), np.uint8)
    images[:, :4] = np.arange(n, dtype="<u4")[:, None].view(np.uint8)
    return Split(images, np.arange(n, dtype=np.uint8) % 10)


def numbers(split):
    return np.ascontiguousarray(split.images[:, :4]).view("<u4").ravel()


# As large as CIFAR-10, on one page of zeros: broadcasting costs no memory.
FULL = Cifar10(
    Split(np.broadcast_to(np.uint8(0), (50_000, 3072)), np.zeros(50_000, np.uint8)),
    Split(np.broadcast_to(np.uint8(0), (10_000, 3072)), np.zeros(10_000, np.uint8)),
    "zeros",
)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("batch1", (10_000, 10_000)), ("all-5000", (45_000, 5_000)), ("all-1000", (49_000, 1_000))],
)
def test_the_documents_splits(name, sizes):
    assert tuple(map(len, FULL.split(name))) == sizes


def test_batch1_trains_on_the_first_file_and_validates_on_the_second():
    train, validation = Cifar10(numbered(30_000), numbered(1), "numbered").split("batch1")
    np.testing.assert_array_equal(numbers(train), np.arange(10_000))
    np.testing.assert_array_equal(numbers(validation), np.arange(10_000, 20_000))


@given(st.integers(2, 60), st.data())
def test_all_but_the_last_n(total, data):
    n = data.draw(st.integers(1, total - 1))
    cifar = Cifar10(numbered(total), numbered(1), "numbered")
    train, validation = cifar.split(f"all-{n}")
    np.testing.assert_array_equal(numbers(train), np.arange(total - n))
    np.testing.assert_array_equal(numbers(validation), np.arange(total - n, total))
    np.testing.assert_array_equal(validation.labels, cifar.train.labels[-n:])
    assert np.shares_memory(train.images, cifar.train.images)


@pytest.mark.parametrize("name", ["", "all", "all-", "all--5", "all-5.0", "batch2", "ALL-5000", "all-5000 "])
def test_an_unknown_split_lists_the_known_ones(name):
    with pytest.raises(ConfigError, match="'batch1', 'all-5000', 'all-1000'"):
        FULL.split(name)


@pytest.mark.parametrize("name", ["all-0", "all-50000", "all-99999"])
def test_a_split_without_images_is_an_error(name):
    with pytest.raises(DataError, match="no images to train or validate on: there are 50,000"):
        FULL.split(name)


def test_a_set_that_is_too_small_for_batch1():
    with pytest.raises(DataError, match="there are 15,000"):
        Cifar10(numbered(15_000), numbered(1), "numbered").split("batch1")


def test_a_subset_is_the_first_images():
    split = numbered(10)
    np.testing.assert_array_equal(numbers(split.subset(4)), np.arange(4))
    assert len(split.subset(10)) == 10
    assert np.shares_memory(split.subset(4).images, split.images)


@pytest.mark.parametrize("n", [0, -1, 11])
def test_a_subset_that_cannot_be_taken(n):
    with pytest.raises(DataError, match="ask for 1 to 10"):
        numbered(10).subset(n)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((3, 3072)), np.zeros(3, np.uint8)),
        (np.zeros((3, 3, 32, 32), np.uint8), np.zeros(3, np.uint8)),
        (np.zeros((3, 3072), np.uint8), np.zeros(4, np.uint8)),
        (np.zeros((3, 3072), np.uint8), np.zeros(3, np.int64)),
    ],
)
def test_a_split_is_rows_of_uint8(images, labels):
    with pytest.raises(DataError, match="must be uint8 of shape"):
        Split(images, labels)


def test_there_are_ten_classes():
    assert len(set(CLASSES)) == 10
    assert FULL.classes[3] == "cat"
    assert repr(FULL.test) == "Split(10,000 images)"
