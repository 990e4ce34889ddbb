"""Images and linear weight templates, side by side in a grid."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinygrad_cifar.errors import DataError, DtypeError, NonFiniteError, ShapeError
from tinygrad_cifar.viz.figure import INK, Picture

SIDE, GAP = 32, 4
AT_MOST = 1000


def image_grid(
    images: ArrayLike, labels: ArrayLike | None = None, classes: Sequence[str] | None = None, *, columns: int = 10
) -> Picture:
    """Images (N, 3072) as stored (uint8; the red, then the green, then the blue plane, by rows), left to right.

    ``labels`` (N,), class numbers in [0, len(classes)), are written under the images, by name where ``classes`` is
    given. It takes the pixels before standardising, so nothing is clipped.

    Raises:
        DtypeError: the images are not uint8.
        ShapeError: another shape, or more than 1,000 images.
        DataError: a label without a class.
    """
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8:
        raise DtypeError(
            f"image_grid shows pixels as stored, uint8 in 0..255, and got {pixels.dtype}: "
            "pass the images from before scaling and standardising"
        )
    _check_rows(pixels, "images")
    return _grid(pixels, _captions(labels, classes, len(pixels)), columns)


def weight_templates(weight: ArrayLike, classes: Sequence[str] | None = None, *, columns: int = 10) -> Picture:
    """The rows of ``weight`` (K, 3072), one a class or hidden unit, each looked at as the image that excites it most.

    Every template is rescaled by its own extremes, (w - min w) / (max w - min w), so that it fills [0, 1] and nothing
    is clipped; a constant one is mid-grey. Lightness can therefore not be compared between templates.

    Raises:
        ShapeError: another shape, or more than 1,000 rows.
        NonFiniteError: a weight is NaN or infinite.
    """
    rows = np.asarray(weight, np.float64)
    _check_rows(rows, "weight")
    if not np.isfinite(rows).all():
        first = int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise NonFiniteError(f"weight row {first} is not finite: its training diverged, lower the learning rate")
    if classes is not None and len(classes) != len(rows):
        raise ShapeError(f"{len(classes)} classes do not name the {len(rows)} rows of weight: give one name per row")
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    unit = np.divide(rows - low, high - low, out=np.full_like(rows, 0.5), where=high > low)
    return _grid(np.rint(255 * unit).astype(np.uint8), list(classes or ()), columns)


def _check_rows(rows: NDArray[np.generic], name: str) -> None:
    if rows.ndim != 2 or rows.shape[1] != 3 * SIDE * SIDE:
        raise ShapeError(f"{name} should have shape (N, 3072), got {rows.shape}: one flat 3 x 32 x 32 image per row")
    if not 0 < len(rows) <= AT_MOST:
        raise ShapeError(f"{name} has {len(rows)} rows, a grid shows 1 to {AT_MOST}: pass a part, such as {name}[:100]")


def _captions(labels: ArrayLike | None, classes: Sequence[str] | None, count: int) -> list[str]:
    if labels is None:
        return []
    numbers = np.asarray(labels)
    if numbers.shape != (count,):
        raise ShapeError(f"labels should have shape ({count},), one per image, got {numbers.shape}")
    if classes is None:
        return [str(number) for number in numbers]
    for position, number in enumerate(numbers):
        if not 0 <= number < len(classes):
            raise DataError(f"labels[{position}] is {number}, outside the {len(classes)} classes given")
    return [classes[number] for number in numbers]


def _grid(images: NDArray[np.uint8], captions: list[str], columns: int) -> Picture:
    """One canvas and one imshow, however many images; captions in the space below each.

    The axes fill the page at 40 canvas pixels an inch, so that a pixel of an image is a square of whole pixels.
    """
    columns = max(1, min(columns, len(images)))
    width, height = SIDE + GAP, SIDE + (9 if captions else GAP)
    canvas = np.full((GAP + -(-len(images) // columns) * height, GAP + columns * width, 3), 255, np.uint8)
    picture = Picture(canvas.shape[1] / 40, canvas.shape[0] / 40)
    picture.set_layout_engine("none")
    axes = picture.add_axes((0, 0, 1, 1))
    for position, image in enumerate(images):
        top, left = GAP + position // columns * height, GAP + position % columns * width
        canvas[top : top + SIDE, left : left + SIDE] = image.reshape(3, SIDE, SIDE).transpose(1, 2, 0)
        if captions:
            place = left + SIDE / 2, top + SIDE + 0.5
            axes.text(*place, captions[position], ha="center", va="top", fontsize=9, color=INK)
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    return picture
