import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar.data import Compose, RandomHorizontalFlip, RandomShift
from tinygrad_cifar.errors import ConfigError

IMAGES = np.random.default_rng(0).integers(1, 256, (50, 3072), dtype=np.uint8)  # no pixel is black
PICTURES = IMAGES.reshape(50, 3, 32, 32)
ALWAYS, NEVER = RandomHorizontalFlip(1), RandomHorizontalFlip(0)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_flip_mirrors_left_to_right():
    np.testing.assert_array_equal(ALWAYS(IMAGES, rng()).reshape(PICTURES.shape), PICTURES[:, :, :, ::-1])


def test_two_flips_are_none():
    np.testing.assert_array_equal(ALWAYS(ALWAYS(IMAGES, rng()), rng()), IMAGES)
    np.testing.assert_array_equal(NEVER(IMAGES, rng()), IMAGES)


@given(st.integers(0, 1000))
def test_each_image_is_flipped_whole_or_not_at_all(seed):
    flipped = RandomHorizontalFlip()(IMAGES, rng(seed))
    same, mirrored = ((flipped == other).all(1) for other in (IMAGES, ALWAYS(IMAGES, rng())))
    assert (same ^ mirrored).all()


def test_about_p_of_the_images_are_flipped():
    images = np.tile(IMAGES, (40, 1))
    changed = (RandomHorizontalFlip(0.3)(images, rng()) != images).any(1).mean()
    assert abs(changed - 0.3) < 0.05


@given(st.integers(0, 31), st.integers(0, 1000))
def test_a_shift_is_a_window_of_the_padded_picture(pixels, seed):
    shifted = RandomShift(pixels)(IMAGES[:5], rng(seed)).reshape(5, 3, 32, 32)
    for picture, original in zip(shifted, PICTURES, strict=False):
        kept = (picture != 0).all(0)  # where no black moved in, on all three channels
        rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
        height, width = len(rows), len(columns)
        assert min(height, width) >= 32 - pixels
        assert kept[np.ix_(rows, columns)].all()
        assert (picture[:, ~kept] == 0).all()
        top = 0 if rows[0] else 32 - height
        left = 0 if columns[0] else 32 - width
        source = original[:, top : top + height, left : left + width]
        np.testing.assert_array_equal(picture[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], source)


def test_shifts_go_every_way_equally_often():
    dot = np.zeros((2000, 3, 32, 32), np.uint8)
    dot[:, :, 16, 16] = 1
    moved = RandomShift(1)(dot.reshape(2000, -1), rng()).reshape(dot.shape).sum((0, 1))
    assert moved[15:18, 15:18].sum() == moved.sum() == 6000
    assert (np.abs(moved[15:18, 15:18] / 6000 - 1 / 9) < 0.03).all()


@pytest.mark.parametrize(
    "augment", [RandomHorizontalFlip(), RandomShift(), Compose([RandomShift(), RandomHorizontalFlip()])]
)
def test_every_augmentation(augment):
    before = IMAGES.copy()
    out = augment(IMAGES, rng())
    np.testing.assert_array_equal(IMAGES, before)
    assert (out.shape, out.dtype) == (IMAGES.shape, np.uint8)
    assert not np.shares_memory(out, IMAGES)
    assert (out != IMAGES).any()
    np.testing.assert_array_equal(out, augment(IMAGES, rng()))
    assert (out != augment(IMAGES, rng(1))).any()
    assert augment(IMAGES[:0], rng()).shape == (0, 3072)


def test_compose_applies_the_first_first():
    composed = Compose([RandomShift(3), ALWAYS])
    generator = rng(2)
    expected = ALWAYS(RandomShift(3)(IMAGES, generator), generator)
    np.testing.assert_array_equal(composed(IMAGES, rng(2)), expected)
    assert repr(composed) == "Compose(steps=[RandomShift(pixels=3), RandomHorizontalFlip(p=1)])"


def test_errors():
    with pytest.raises(ConfigError, match="no probability"):
        RandomHorizontalFlip(1.5)
    with pytest.raises(ConfigError, match="between 0 and 31"):
        RandomShift(32)
