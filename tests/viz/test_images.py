"""A grid shows every pixel as it is, each template over its whole range, and clips nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cifar as tg
from tinygrad_cifar.errors import DataError, DtypeError, NonFiniteError, ShapeError
from tinygrad_cifar.viz.figure import Picture
from tinygrad_cifar.viz.images import GAP, SIDE


def tile(picture: Picture, row: int, column: int, captioned: bool = False) -> np.ndarray:
    """One image (3072,) cut out of the grid's canvas."""
    canvas = np.asarray(picture.axes[0].images[0].get_array())
    top, left = GAP + row * (SIDE + (9 if captioned else GAP)), GAP + column * (SIDE + GAP)
    return canvas[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1).reshape(-1)


@given(st.integers(1, 13), st.integers(1, 5))
def test_every_image_is_in_its_place_pixel_by_pixel(count: int, columns: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 3072), np.uint8)
    picture = tg.viz.image_grid(images, columns=columns)
    for i, image in enumerate(images):
        assert np.array_equal(tile(picture, i // columns, i % columns), image)


def test_captions_are_class_names_or_numbers() -> None:
    images = np.zeros((3, 3072), np.uint8)
    named = tg.viz.image_grid(images, [2, 0, 1], ["airplane", "automobile", "bird"])
    assert [text.get_text() for text in named.axes[0].texts] == ["bird", "airplane", "automobile"]
    assert [text.get_text() for text in tg.viz.image_grid(images, np.array([2, 0, 1])).axes[0].texts] == ["2", "0", "1"]
    named.canvas.draw()


def test_a_pixel_is_a_square_of_whole_pixels() -> None:
    image = np.zeros((1, 3072), np.uint8)
    image[0, [0, 1024, 2048]] = 200, 100, 50  # the top left pixel
    picture = tg.viz.image_grid(image)
    picture.canvas.draw()
    shown = np.asarray(picture.canvas.buffer_rgba())[..., :3]
    assert (shown == (200, 100, 50)).all(axis=2).sum() == 3 * 3


def test_templates_fill_the_range_each_for_itself() -> None:
    weight = np.random.default_rng(0).standard_normal((10, 3072)) * np.arange(10)[:, None]  # row 0 is constant
    picture = tg.viz.weight_templates(tg.Tensor(weight), [str(i) for i in range(10)])
    assert (tile(picture, 0, 0, captioned=True) == 128).all()
    for i in range(1, 10):
        shown = tile(picture, 0, i, captioned=True)
        assert (shown.min(), shown.max()) == (0, 255)
        assert shown.argmax() == weight[i].argmax()


def test_what_cannot_be_shown_is_said() -> None:
    images = np.zeros((2, 3072), np.uint8)
    with pytest.raises(DtypeError, match="before scaling and standardising"):
        tg.viz.image_grid(images.astype(np.float32))
    with pytest.raises(ShapeError, match=r"\(N, 3072\), got \(2, 32, 96\)"):
        tg.viz.image_grid(images.reshape(2, 32, 96))
    with pytest.raises(ShapeError, match="has 0 rows"):
        tg.viz.image_grid(images[:0])
    with pytest.raises(ShapeError, match=r"images\[:100\]"):
        tg.viz.image_grid(np.zeros((1001, 3072), np.uint8))
    with pytest.raises(ShapeError, match="one per image"):
        tg.viz.image_grid(images, [1])
    with pytest.raises(DataError, match=r"labels\[1\] is 2"):
        tg.viz.image_grid(images, [0, 2], ["a", "b"])
    with pytest.raises(NonFiniteError, match="row 1"):
        tg.viz.weight_templates(np.stack([np.zeros(3072), np.full(3072, np.nan)]))
    with pytest.raises(ShapeError, match="one name per row"):
        tg.viz.weight_templates(np.zeros((2, 3072)), ["a"])
