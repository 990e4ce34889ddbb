"""Scale pixels to [0, 1] and standardise them with the statistics of the training split."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinygrad_cifar.data.splits import CHANNELS, PIXELS
from tinygrad_cifar.errors import ConfigError, DtypeError, ShapeError

KINDS = ("none", "scalar-mean", "mean", "pixel", "channel")
"""What ``Standardiser.fit`` can do; its table says what each means."""
_TILE = 4  # NumPy multiplies four rows at a time by four copies of a row in 60 % of the time of one by one
_Table = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Standardiser:
    """x = (pixel / 255 - mean) / std, with a mean and a std for each of the 3,072 values of an image.

    | kind          | mean                              | std             |
    |---------------|-----------------------------------|-----------------|
    | "none"        | 0                                 | 1               |
    | "scalar-mean" | one, of all values                | 1               |
    | "mean"        | of each value (pixel and channel) | 1               |
    | "pixel"       | of each value                     | of each value   |
    | "channel"     | of each channel                   | of each channel |

    The std is the population's (divided by N). A value that never varies has std 0 and is divided by 1 instead, so
    it becomes 0 on the split that was fitted.

    Attributes:
        kind: a row of the table.
        mean, std: float64 (3072,), in units of pixel / 255.
    """

    kind: str
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    _folded: dict[np.dtype[Any], tuple[_Table, _Table]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def fit(cls, images: NDArray[np.uint8], kind: str = "pixel") -> "Standardiser":
        """The statistics of ``images``, uint8 (N, 3072): give it the training split's and nothing else.

        Sums are taken in integers, so mean and variance are exact until they are rounded to float64.

        Raises:
            ConfigError: there is no such kind.
            DtypeError, ShapeError: ``images`` is not uint8, or not (N, 3072) with N at least 1.
        """
        if kind not in KINDS:
            raise ConfigError(f"no standardisation is called {kind!r}; there are {', '.join(map(repr, KINDS))}.")
        _check_images(images)
        if len(images) == 0:
            raise ShapeError("statistics of no images: the split is empty.")
        if kind == "none":
            return cls(kind, np.zeros(PIXELS), np.ones(PIXELS))
        groups = {"scalar-mean": 1, "channel": CHANNELS}.get(kind, PIXELS)
        sums = images.sum(axis=0, dtype=np.int64).reshape(groups, -1).sum(axis=1)
        squares = np.einsum("ij,ij->j", images, images, dtype=np.int64, casting="unsafe")
        squares = squares.reshape(groups, -1).sum(axis=1)
        count = len(images) * PIXELS // groups
        # Python's integers do not overflow, and the quotient of two of them is correctly rounded.
        mean = [int(s) / (255 * count) for s in sums]
        variance = [(count * int(q) - int(s) ** 2) / (255 * count) ** 2 for s, q in zip(sums, squares, strict=True)]
        std = np.sqrt(variance) if kind in ("pixel", "channel") else np.ones(groups)
        std[std == 0] = 1
        return cls(kind, np.repeat(mean, PIXELS // groups), np.repeat(std, PIXELS // groups))

    def transform(
        self, images: NDArray[np.uint8], dtype: DTypeLike = np.float32, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """``images``, uint8 (N, 3072), standardised, as ``dtype`` (float32 or float64), C-contiguous.

        Computed as pixel * (1 / (255 std)) + (-mean / std), both factors rounded once to ``dtype``: within 1e-6 of
        the formula in float32 where the result lies between -5 and 5.

        Args:
            images: the pixels.
            dtype: of the result, unless ``out`` says it.
            out: C-contiguous (N, 3072), filled and returned.
        """
        _check_images(images)
        if out is None:
            out = np.empty(images.shape, dtype)
        elif out.shape != images.shape or not out.flags.c_contiguous:
            raise ShapeError(f"out must be C-contiguous of shape {images.shape}; its shape is {out.shape}.")
        scale, shift = self.factors(out.dtype)
        np.copyto(out, images)
        whole = len(out) - len(out) % _TILE
        tiles, rest = out[:whole].reshape(-1, scale.size), out[whole:]
        tiles *= scale.ravel()
        tiles += shift.ravel()
        rest *= scale[: len(rest)]
        rest += shift[: len(rest)]
        return out

    def inverse(self, x: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
        """Pixels again, uint8 (N, 3072), for showing: rounded, and clipped to 0...255.

        ``inverse(transform(images))`` equals ``images``.
        """
        pixels = (np.asarray(x, np.float64) * self.std + self.mean) * 255
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

    def factors(self, dtype: np.dtype[Any]) -> tuple[_Table, _Table]:
        """The factor and the term of each value, (4, 3072) of equal rows; made once for each dtype."""
        if dtype not in self._folded:
            if dtype not in (np.float32, np.float64):
                raise DtypeError(f"images are standardised to float32 or float64, not to {dtype}.")
            rows = 1 / (255 * self.std), -self.mean / self.std
            scale, shift = (np.tile(row.astype(dtype), (_TILE, 1)) for row in rows)
            self._folded[dtype] = scale, shift
        return self._folded[dtype]


def _check_images(images: NDArray[np.uint8]) -> None:
    if images.dtype != np.uint8:
        raise DtypeError(f"images must be uint8 (0...255), not {images.dtype}; do not scale them beforehand.")
    if images.ndim != 2 or images.shape[1] != PIXELS:
        raise ShapeError(f"images must have the shape (N, {PIXELS}), not {images.shape}.")
