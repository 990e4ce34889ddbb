"""Arithmetic, entry by entry. Operands broadcast as NumPy's do; the walk undoes it, so no rule mentions it."""

import math
from typing import Any

import numpy as np

from tinygrad_cifar.operators import Operand, unwrap
from tinygrad_cifar.tensor import Array, Tensor, implements, op


@op(numpy=np.add, saves="")
def add(a: Array, b: Array) -> Array:
    """a + b."""
    return a + b


@add.gradient
def add_gradient(g: Any, out: Any, a: Any, b: Any) -> Any:
    return g, g


@op(numpy=np.subtract, saves="")
def subtract(a: Array, b: Array) -> Array:
    """a - b."""
    return a - b


@subtract.gradient
def subtract_gradient(g: Any, out: Any, a: Any, b: Any) -> Any:
    return g, lambda: -g


@op(numpy=np.multiply, saves="a b")
def multiply(a: Array, b: Array) -> Array:
    """a * b."""
    return a * b


@multiply.gradient
def multiply_gradient(g: Any, out: Any, a: Any, b: Any) -> Any:
    return lambda: g * b, lambda: g * a


@op(numpy=np.divide, saves="b out")
def divide(a: Array, b: Array) -> Array:
    """a / b.  d/db = -a/b^2 = -out/b."""
    return a / b


@divide.gradient
def divide_gradient(g: Any, out: Any, a: Any, b: Any) -> Any:
    return lambda: g / b, lambda: -g * out / b


@op(numpy=np.negative, saves="")
def negative(x: Array) -> Array:
    """-x."""
    return -x


@negative.gradient
def negative_gradient(g: Any, out: Any, x: Any) -> Any:
    return (-g,)


@op(numpy=np.power, saves="a b out")
def power(a: Array, b: Array) -> Array:
    """a ** b.  d/da = b a^(b-1), and 0 where b = 0; d/db = a^b log a, and 0 where a = 0."""
    return a**b


@power.gradient
def power_gradient(g: Any, out: Any, a: Any, b: Any) -> Any:
    def to_base() -> Any:
        if isinstance(b, int | float):
            return g * b * a ** (b - 1 if b != 0 else 1)
        return g * b * a ** np.where(b == 0, 1, b - 1)  # b = 0: no 0 * inf at a = 0

    def to_exponent() -> Any:
        if isinstance(a, int | float):
            return g * out * (math.log(a or 1) if a >= 0 else math.nan)
        return g * out * np.log(np.where(a == 0, 1, a))

    return to_base, to_exponent


@op(numpy=np.exp, saves="out")
def exp(x: Array) -> Array:
    """e^x."""
    return np.exp(x)


@exp.gradient
def exp_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g * out,)


@op(numpy=np.log, saves="x")
def log(x: Array) -> Array:
    """Natural logarithm, for x > 0."""
    return np.log(x)


@log.gradient
def log_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g / x,)


@op(numpy=np.sqrt, saves="out")
def sqrt(x: Array) -> Array:
    """Square root, for x >= 0. The slope at 0 is infinite."""
    return np.sqrt(x)


@sqrt.gradient
def sqrt_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g / (2 * out),)


@op(numpy=np.absolute, saves="x")
def abs_(x: Array) -> Array:
    """|x|. At the kink x = 0 the rule gives 0."""
    return np.abs(x)


@abs_.gradient
def abs_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g * np.sign(x),)


@op(numpy=np.maximum, saves="a b")
def maximum(a: Array, b: Array) -> Array:
    """The larger of a and b. At a tie each side gets half of the gradient (as in PyTorch)."""
    return np.maximum(a, b)


@maximum.gradient
def maximum_gradient(g: Any, out: Any, a: Any, b: Any) -> Any:
    share = _share(a, b, g.dtype)
    return lambda: g * share, lambda: g * (1 - share)


@op(numpy=np.minimum, saves="a b")
def minimum(a: Array, b: Array) -> Array:
    """The smaller of a and b. At a tie each side gets half of the gradient."""
    return np.minimum(a, b)


@minimum.gradient
def minimum_gradient(g: Any, out: Any, a: Any, b: Any) -> Any:
    share = _share(a, b, g.dtype)
    return lambda: g * (1 - share), lambda: g * share


def _share(a: Any, b: Any, dtype: Any) -> Array:
    """1 where a > b, 1/2 at a tie, 0 where a < b: the derivative of max(a, b) by a."""
    a, b = unwrap(a), unwrap(b)
    return np.where(a == b, 0.5, a > b).astype(dtype)


@op(saves="")
def select(a: Array, b: Array, *, condition: Array) -> Array:
    """a where the condition holds, b elsewhere."""
    return np.where(condition, a, b)


@select.gradient
def select_gradient(g: Any, out: Any, a: Any, b: Any, condition: Array) -> Any:
    return lambda: np.where(condition, g, 0), lambda: np.where(condition, 0, g)


@implements(np.where)
def where(condition: Operand, a: Operand = None, b: Operand = None) -> Any:
    """a where the condition holds, b elsewhere; the condition itself has no gradient. Alone it is ``np.nonzero``."""
    if a is None and b is None:
        return np.nonzero(unwrap(condition))
    return select(a, b, condition=unwrap(condition, copy=True))


@op(saves="x")
def clip(x: Array, *, min: float | None = None, max: float | None = None) -> Array:
    """x limited to [min, max]. The gradient passes where min <= x <= max (as in PyTorch)."""
    return np.clip(x, min, max)


@clip.gradient
def clip_gradient(g: Any, out: Any, x: Any, min: float | None = None, max: float | None = None) -> Any:
    inside = (x >= (-math.inf if min is None else min)) & (x <= (math.inf if max is None else max))
    return (np.where(inside, g, 0),)


@implements(np.clip)
def _clip(x: Operand, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Tensor:
    return clip(x, min=a_min if min is None else min, max=a_max if max is None else max)


@op(saves="")
def astype(x: Array, *, dtype: Any) -> Array:
    """x in another floating-point precision; the gradient is converted back."""
    return x.astype(dtype)


@astype.gradient
def astype_gradient(g: Any, out: Any, x: Any, dtype: Any) -> Any:
    return (g.astype(x.dtype),)


@op(numpy=np.copy, saves="")
def clone(x: Array) -> Array:
    """A copy in memory of its own."""
    return x.copy()


@clone.gradient
def clone_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g,)


@implements(np.square)
def square(x: Tensor) -> Tensor:
    """x * x."""
    return x * x


@implements(np.reciprocal)
def reciprocal(x: Tensor) -> Tensor:
    """1 / x."""
    return 1 / x
