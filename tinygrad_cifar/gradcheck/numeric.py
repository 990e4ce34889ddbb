"""Numeric derivatives: three classical ones to look at, and one that knows how far it can be trusted.

    forward      (f(x + h) - f(x)) / h              error ~ h f'' / 2 + 2 eps |f| / h
    central      (f(x + h) - f(x - h)) / 2h         error ~ h^2 f''' / 6 + eps |f| / h
    complex step Im f(x + ih) / h                   no subtraction, so h can be 1e-60: exact, for analytic f
    extrapolated central differences over shrinking steps, Richardson's extrapolation to h = 0, and the step at which
                 successive extrapolations agree best [Ridders 1982]: the value comes with an error bar

The last one also gives the slopes to the left and to the right, which differ where f has a kink.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cifar.tensor import Array

LEVELS = 14  # steps 1, 1/4, ..., 4^-13 = 1.5e-8 of the parameter's own scale
RATIO = 4.0
TINY = 2.0**-200  # the complex step, relative to what is changed: its square vanishes, yet tiny slopes still show

Function = Callable[[Array], float]


def forward_difference(f: Function, x: Array, h: float = 1e-6) -> Array:
    """(f(x + h e_i) - f(x)) / h for every entry i: x's shape."""
    at_x = f(x)
    return _entrywise(x, lambda e: (f(x + h * e) - at_x) / h)


def central_difference(f: Function, x: Array, h: float = 1e-5) -> Array:
    """(f(x + h e_i) - f(x - h e_i)) / 2h for every entry i: x's shape."""
    return _entrywise(x, lambda e: (f(x + h * e) - f(x - h * e)) / (2 * h))


def complex_step(f: Callable[[Array], complex], x: Array, h: float = TINY) -> Array:
    """Im f(x + ih e_i) / h for every entry i: x's shape. f must take complex arrays and be analytic: no ``abs``."""
    return _entrywise(x, lambda e: complex(f(x + 1j * h * e)).imag / h)


def extrapolated(f: Function, x: Array, scale: float | None = None) -> "Slopes":
    """Extrapolated derivatives of f at x with error bars and one-sided slopes, arrays of x's shape.

    Args:
        f: from an array to a number.
        x: float64; the derivative is taken by every entry.
        scale: the largest step; by default x's root mean square, or 1.
    """
    steps = ladder(scale or scale_of(x)).ravel()
    at_x = f(x)
    units = np.eye(x.size).reshape(x.size, *x.shape)
    plus = np.array([[f(x + h * e) - at_x for e in units] for h in steps])
    minus = np.array([[f(x - h * e) - at_x for e in units] for h in steps])
    size = np.maximum(abs(plus + at_x).max(0), abs(minus + at_x).max(0))  # f may happen to be 0 at x: look around
    found = slopes(plus, minus, steps[:, None], 4 * np.finfo(float).eps * size)
    return Slopes(*[getattr(found, name).reshape(x.shape) for name in Slopes.__dataclass_fields__])


def ladder(scale: ArrayLike) -> Array:
    """Shrinking steps, each a quarter of the one before, from ``scale`` (E,) on, rounded to a power of 2: (L, E)."""
    return 2.0 ** np.round(np.log2(scale)) * RATIO ** -np.arange(LEVELS)[:, None]


def scale_of(x: Array) -> float:
    """The size of change that is large for x: its root mean square, or 1 where x is zero."""
    return float(np.sqrt(np.mean(x * x))) or 1.0 if x.size else 1.0


def _entrywise(x: Array, slope: Callable[[Array], float]) -> Array:
    units = np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([slope(e) for e in units]).reshape(x.shape)


@dataclass
class Slopes:
    """Derivatives with error bars; infinite bars where the function is not smooth, or not finite, nearby."""

    value: Array
    error: Array
    left: Array
    left_error: Array
    right: Array
    right_error: Array


def slopes(plus: Array, minus: Array, steps: Array, noise: Array, clean: Array | None = None) -> Slopes:
    """The slopes of E functions, from their differences to the centre at L steps.

    Args:
        plus, minus: f(x + h) - f(x) and f(x - h) - f(x), (L, E).
        steps: h, (L, E) or (L, 1), each a quarter of the one before.
        noise: the rounding error of such a difference, (E,) or (L, E).
        clean: where no unit is known to flip between x - h and x + h, (L, E).
    """
    h, noise = steps, np.broadcast_to(noise, plus.shape)
    bend = np.abs(plus + minus) / h  # of a smooth function this shrinks with h; at a kink it stays
    stays = (bend[1:] > 0.5 * bend[:-1]) & (bend[1:] > 4 * noise[1:] / h[1:])
    smooth = ~np.vstack([stays, stays[-1:]])
    value, error = _plateau((plus - minus) / (2 * h), noise / h, RATIO**2, smooth if clean is None else smooth & clean)
    right, right_error = _plateau(plus / h, 2 * noise / h, RATIO)
    left, left_error = _plateau(-minus / h, 2 * noise / h, RATIO)
    return Slopes(value, error, left, left_error, right, right_error)


def _plateau(quotients: Array, noise: Array, ratio: float, clean: Array | None = None) -> tuple[Array, Array]:
    """Richardson's extrapolation, at the steps where three in a row agree best; how well they agree is the error bar.

    An error ~ h^p shrinks by ``ratio`` = 4^p from level to level, so (ratio q_{k+1} - q_k) / (ratio - 1) is rid of it.
    """
    better = (ratio * quotients[1:] - quotients[:-1]) / (ratio - 1)
    jump = np.abs(np.diff(better, axis=0))
    error = np.maximum(jump[1:], jump[:-1]) + 1.5 * noise[2:-1]
    if clean is not None:
        error = np.where(clean[:-3] & clean[1:-2] & clean[2:-1] & clean[3:], error, np.inf)
    error = np.where(np.isfinite(error), error, np.inf)
    best = error.argmin(0)
    entries = np.arange(error.shape[1])
    return better[1:-1][best, entries], error[best, entries]
