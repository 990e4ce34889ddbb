"""Wrong gradient rules: every op, and every classic mistake. A checker has to find them all, and name the op.

Most are the right rule with one thing changed. ``replaced_rule`` puts one in the place of the right rule for a while;
``cases.py`` builds networks in which it matters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_cifar import ops  # noqa: F401  (fills the registry)
from tinygrad_cifar.gradcheck.faults import batch_norm_paths, cross_entropy, gamma_without_x_hat, unbiased_variance
from tinygrad_cifar.operators import OPS

Rule = Callable[..., Any]


@dataclass(frozen=True)
class WrongRule:
    """``pattern``: a word that a report should use for it, where the error has a recognisable shape."""

    name: str
    op: str
    rule: Rule
    pattern: str = ""

    def __str__(self) -> str:
        return f"{self.op}: {self.name}"


def right_gradients(op: str, *args: Any, **kwargs: Any) -> list[Any]:
    return [d() if callable(d) else d for d in RIGHT[op](*args, **kwargs)]


RIGHT = {name: op.rule for name, op in OPS.items()}


def edited(op: str, edit: Callable[[Any], Any], only: int | None = None) -> Rule:
    """The right rule with ``edit`` applied to every gradient, or only to that of one input."""

    def rule(*args: Any, **kwargs: Any) -> list[Any]:
        return [edit(d) if only in (None, i) else d for i, d in enumerate(right_gradients(op, *args, **kwargs))]

    return rule


def one_entry(d: Any) -> Any:
    """Wrong in the last entry only."""
    changed = np.array(d, order="C")
    changed.reshape(-1)[-1] *= 1.5
    return changed


def mirrored(d: Any) -> Any:
    return np.asarray(d)[..., ::-1]


def times(factor: float) -> Callable[[Any], Any]:
    return lambda d: factor * d


def zero(d: Any) -> Any:
    return np.zeros_like(d)


# Rules that are written out, because they are mistakes of their own -------------------------------------------------


def sum_of_wrong_axis(g: Any, out: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Lays the column sums' gradient down the rows."""
    return (np.broadcast_to(np.resize(g, (x.shape[0], 1)), x.shape),)


def mean_of_all(g: Any, out: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """Divides by the number of all entries rather than by that of the axis."""
    (d,) = right_gradients("mean", g, out, x, axis=axis, keepdims=keepdims)
    return (d * (x.shape[axis] / math.prod(x.shape)),)


def var_with_ddof_ignored(g: Any, out: Any, x: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    (d,) = right_gradients("var", g, out, x, axis=axis, ddof=ddof, keepdims=keepdims)
    return (d * ((x.shape[axis] - ddof) / x.shape[axis]),)


def var_not_centred(g: Any, out: Any, x: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    g = g if keepdims else np.expand_dims(g, axis)
    return (g * 2 / (x.shape[axis] - ddof) * x,)


def max_to_every_tie(g: Any, out: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    g, out = (g, out) if keepdims else (np.expand_dims(g, axis), np.expand_dims(out, axis))
    return (g * (x == out),)


def extreme_to_all(g: Any, out: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    g = g if keepdims else np.expand_dims(g, axis)
    return (np.broadcast_to(g / x.shape[axis], x.shape),)


def logsumexp_unnormalised(g: Any, out: Any, x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    g = g if keepdims else np.expand_dims(g, axis)
    return (g * np.exp(x),)


def power_not_lowered(g: Any, out: Any, a: Any, b: Any) -> Any:
    return g * b * out, right_gradients("power", g, out, a, b)[1]


def matmul_for_square(g: Any, out: Any, a: Any, b: Any) -> Any:
    """Confuses the number of b's rows with that of its columns: right for square matrices only."""
    d, other = right_gradients("matmul", g, out, a, b)
    return d * (b.shape[0] / b.shape[1]), other


def getitem_without_adding(g: Any, out: Any, x: Any, index: Any) -> Any:
    """Writes instead of adding where the index names a row twice."""
    whole = np.zeros(x.shape, g.dtype)
    whole[index] = g
    return (whole,)


def setitem_keeps_what_was_overwritten(g: Any, out: Any, x: Any, value: Any, index: Any) -> Any:
    return g, right_gradients("setitem", g, out, x, value, index)[1]


def concatenate_in_reverse(g: Any, out: Any, *arrays: Any, axis: int = 0) -> Any:
    return right_gradients("concatenate", np.flip(g, axis), out, *arrays, axis=axis)


def stack_in_reverse(g: Any, out: Any, *arrays: Any, axis: int = 0) -> Any:
    return right_gradients("stack", np.flip(g, axis), out, *arrays, axis=axis)


def select_swapped(g: Any, out: Any, a: Any, b: Any, condition: Any) -> Any:
    return np.where(condition, 0, g), np.where(condition, g, 0)


def batch_norm_beta_mean(g: Any, *args: Any, **kwargs: Any) -> Any:
    return [*right_gradients("batch_norm", g, *args, **kwargs)[:2], g.mean(0)]


def relu_guided(g: Any, out: Any, x: Any) -> Any:
    """Passes only positive gradients on, as guided backpropagation does for pictures."""
    return (g * (out > 0) * (g > 0),)


def softmax_diagonal(g: Any, out: Any, x: Any, axis: int = -1) -> Any:
    return (g * out * (1 - out),)


def log_softmax_of_ones(g: Any, out: Any, x: Any, axis: int = -1) -> Any:
    """Right where the gradient from above is all ones: takes its sum for the number of classes."""
    return (g - np.exp(out) * out.shape[axis],)


def gelu_without_density(g: Any, out: Any, x: Any) -> Any:
    return (g * 0.5 * (1 + np.vectorize(math.erf)(x * math.sqrt(0.5))),)


def cross_entropy_for_ones(g: Any, out: Any, logits: Any, *, labels: Any, kept: Any) -> Any:
    """Forgets the gradient from above: right only where that is 1."""
    return right_gradients("softmax_cross_entropy", np.ones_like(g), out, logits, labels=labels, kept=kept)


def batch_norm_gamma_not_standardised(g: Any, out: Any, x: Any, *rest: Any, **settings: Any) -> Any:
    dx, _, dbeta = right_gradients("batch_norm", g, out, x, *rest, **settings)
    return dx, (g * (x - x.mean(0))).sum(0), dbeta


def batch_norm_of_running_averages(g: Any, out: Any, x: Any, *rest: Any, **settings: Any) -> Any:
    """Takes the variance for the running average's, as after one step of momentum 0.1 from 1."""
    dx, dgamma, dbeta = right_gradients("batch_norm", g, out, x, *rest, **settings)
    return dx * np.sqrt((x.var(0) + 1e-5) / (0.9 + 0.1 * x.var(0) + 1e-5)), dgamma, dbeta


def mse_factor_missing(g: Any, out: Any, prediction: Any, target: Any) -> Any:
    d = (prediction - target) * (g / prediction.size)
    return d, -d


def hinge_without_own_class(g: Any, out: Any, scores: Any, *, labels: Any, kept: Any, margin: float = 1.0) -> Any:
    own = np.arange(scores.shape[1]) == labels[:, None]
    (d,) = right_gradients("hinge", g, out, scores, labels=labels, kept=kept, margin=margin)
    return (np.where(own, 0, d),)


def binary_cross_entropy_without_sigmoid(g: Any, out: Any, logits: Any, *, targets: Any) -> Any:
    return ((logits - targets) * (g / logits.size),)


def linear_first_row(g: Any, out: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """Takes the first row's gradient for the bias instead of the sum over the rows."""
    return lambda: g @ weight, lambda: g.T @ x, lambda: g[0].copy()


def linear_bias_mean(g: Any, out: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return lambda: g @ weight, lambda: g.T @ x, lambda: g.mean(0)


def linear_weight_reshaped(g: Any, out: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """x^T g squeezed into the weight's shape: right for 1 x 1, and the right numbers in the wrong places."""
    return lambda: g @ weight, lambda: (x.T @ g).reshape(weight.shape), lambda: g.sum(0)


def l2_half(g: Any, out: Any, *weights: Any, coefficient: float) -> Any:
    return [w * (coefficient * g) for w in weights]


def einsum_reversed_operand(g: Any, out: Any, *operands: Any, subscripts: str) -> Any:
    first, *others = right_gradients("einsum", g, out, *operands, subscripts=subscripts)
    return [first[::-1], *others]


def add_first_row(g: Any, out: Any, a: Any, b: Any) -> Any:
    """Missing unbroadcast: the second operand's gradient is that of one row instead of the sum of all."""
    return g, g[(0,) * (g.ndim - len(b.shape))] if g.ndim > len(b.shape) else g


WRONG = [
    # Elementwise
    WrongRule("missing unbroadcast", "add", add_first_row, "first row"),
    WrongRule("second operand twice", "add", edited("add", times(2), only=1), "factor"),
    WrongRule("sign of the second operand", "subtract", edited("subtract", times(-1), only=1), "sign"),
    WrongRule("product rule without the other factor", "multiply", lambda g, out, a, b: (g, g)),
    WrongRule("operands swapped", "multiply", lambda g, out, a, b: (g * a, g * b)),
    WrongRule("sign of the denominator", "divide", edited("divide", times(-1), only=1), "sign"),
    WrongRule("denominator not squared", "divide", lambda g, out, a, b: (g / b, -g * out)),
    WrongRule("sign", "negative", edited("negative", times(-1)), "sign"),
    WrongRule("exponent not lowered", "power", power_not_lowered),
    WrongRule("exponent's gradient missing", "power", edited("power", zero, only=1)),
    WrongRule("factor 2", "exp", edited("exp", times(2)), "factor"),
    WrongRule("minus one", "exp", lambda g, out, x: (g * (out - 1),)),
    WrongRule("1/(1+x)", "log", lambda g, out, x: (g / (1 + x),)),
    WrongRule("one half missing", "sqrt", edited("sqrt", times(2)), "factor"),
    WrongRule("sign of x ignored", "abs", lambda g, out, x: (g + 0 * x,)),
    WrongRule("both sides get all", "maximum", lambda g, out, a, b: (g, g)),
    WrongRule("sides swapped", "maximum", lambda g, out, a, b: (g * (a < b), g * (a >= b))),
    WrongRule("maximum's rule", "minimum", lambda g, out, a, b: (g * (a > b), g * (a <= b))),
    WrongRule("branches swapped", "select", select_swapped),
    WrongRule("passes outside too", "clip", lambda g, out, x, min, max: (g + 0 * x,)),
    WrongRule("relative error 1e-6", "astype", edited("astype", times(1 + 1e-6))),
    WrongRule("dropped", "clone", edited("clone", zero)),
    # Reductions
    WrongRule("along the wrong axis", "sum", sum_of_wrong_axis),
    WrongRule("divided by n", "sum", lambda g, out, x, **k: right_gradients("mean", g, out, x, **k), "factor"),
    WrongRule("missing 1/n", "mean", lambda g, out, x, **k: right_gradients("sum", g, out, x, **k), "n"),
    WrongRule("divided by all entries", "mean", mean_of_all),
    WrongRule("n for n-1", "var", var_with_ddof_ignored),
    WrongRule("factor 2 missing", "var", edited("var", times(0.5)), "factor"),
    WrongRule("not centred", "var", var_not_centred),
    WrongRule("every tie gets all", "max", max_to_every_tie),
    WrongRule("spread evenly", "max", extreme_to_all),
    WrongRule("sign", "min", edited("min", times(-1)), "sign"),
    WrongRule("not normalised", "logsumexp", logsumexp_unnormalised),
    WrongRule("uniform weights", "logsumexp", extreme_to_all),
    # Shapes
    WrongRule("column-major", "reshape", lambda g, out, x, shape: (np.reshape(g, x.shape, order="F"),)),
    WrongRule("reshaped, not transposed", "transpose", lambda g, out, x, axes=None: (g.reshape(x.shape),)),
    WrongRule("reshaped, not swapped", "swapaxes", lambda g, out, x, axis1, axis2: (g.reshape(x.shape),)),
    WrongRule("columns reversed", "expand_dims", edited("expand_dims", mirrored)),
    WrongRule("columns reversed", "squeeze", edited("squeeze", mirrored)),
    WrongRule("mean over what was repeated", "broadcast_to", lambda g, out, x, shape: (g / shape[0],), "factor"),
    WrongRule("repeated rows not added", "getitem", getitem_without_adding),
    WrongRule("factor 2", "scatter", edited("scatter", times(2)), "factor"),
    WrongRule("overwritten entries still count", "setitem", setitem_keeps_what_was_overwritten),
    WrongRule("value's gradient missing", "setitem", edited("setitem", zero, only=1)),
    WrongRule("parts in reverse", "concatenate", concatenate_in_reverse),
    WrongRule("parts in reverse", "stack", stack_in_reverse),
    # Products
    WrongRule("right for square shapes only", "matmul", matmul_for_square),
    WrongRule("second operand's sign", "matmul", edited("matmul", times(-1), only=1), "sign"),
    WrongRule("error in one entry", "matmul", edited("matmul", one_entry, only=0)),
    WrongRule("first operand reversed", "einsum", einsum_reversed_operand),
    WrongRule("second operand missing", "einsum", edited("einsum", zero, only=1)),
    # Activations
    WrongRule("no mask", "relu", lambda g, out, x: (g + 0 * out,)),
    WrongRule("guided", "relu", relu_guided),
    WrongRule("mask inverted", "relu", lambda g, out, x: (g * (out <= 0),)),
    WrongRule("slope squared", "leaky_relu", lambda g, out, x, slope=0.01: (np.where(x > 0, g, slope * slope * g),)),
    WrongRule("slope missing", "leaky_relu", lambda g, out, x, slope=0.01: (np.where(x > 0, g, 0),)),
    WrongRule("1 + y for 1 - y", "sigmoid", lambda g, out, x: (g * out * (1 + out),)),
    WrongRule("1 - y missing", "sigmoid", lambda g, out, x: (g * out,)),
    WrongRule("sigmoid's rule", "tanh", lambda g, out, x: (g * out * (1 - out),)),
    WrongRule("not squared", "tanh", lambda g, out, x: (g * (1 - out),)),
    WrongRule("tanh for sigmoid", "softplus", lambda g, out, x: (g * np.tanh(x),)),
    WrongRule("2/sqrt(pi) missing", "erf", edited("erf", times(math.sqrt(math.pi) / 2)), "factor"),
    WrongRule("density term missing", "gelu", gelu_without_density),
    WrongRule("diagonal only", "softmax", softmax_diagonal),
    WrongRule("zero, as for an upstream of ones", "softmax", edited("softmax", zero)),
    WrongRule("right for an upstream of ones", "log_softmax", log_softmax_of_ones),
    WrongRule("sum missing", "log_softmax", lambda g, out, x, axis=-1: (g - np.exp(out) * g,)),
    # Layers
    WrongRule("weight's sign", "linear", edited("linear", times(-1), only=1), "sign"),
    WrongRule("weight transposed and reshaped", "linear", linear_weight_reshaped, "transpose"),
    WrongRule("weight doubled", "linear", edited("linear", times(2), only=1), "factor"),
    WrongRule("relative error 1e-6 in the weight", "linear", edited("linear", times(1 + 1e-6), only=1)),
    WrongRule("error in one entry of the weight", "linear", edited("linear", one_entry, only=1)),
    WrongRule("bias: first row", "linear", linear_first_row, "first row"),
    WrongRule("bias: mean over rows", "linear", linear_bias_mean, "n"),
    WrongRule("bias dropped", "linear", edited("linear", zero, only=2)),
    WrongRule("input halved", "linear", edited("linear", times(0.5), only=0), "factor"),
    WrongRule("mean path missing", "batch_norm", batch_norm_paths(mean=0), "mean path"),
    WrongRule("variance path missing", "batch_norm", batch_norm_paths(variance=0), "variance path"),
    WrongRule("both paths missing", "batch_norm", batch_norm_paths(mean=0, variance=0), "path"),
    WrongRule("variance path's sign", "batch_norm", batch_norm_paths(variance=-1)),
    WrongRule("n-1 for n", "batch_norm", unbiased_variance),
    WrongRule("gamma missing in dx", "batch_norm", batch_norm_paths(scale=False)),
    WrongRule("gamma's gradient without x_hat", "batch_norm", gamma_without_x_hat),
    WrongRule("gamma's gradient not standardised", "batch_norm", batch_norm_gamma_not_standardised),
    WrongRule("zero, as for an upstream of ones", "batch_norm", edited("batch_norm", zero, only=0)),
    WrongRule("the running variance for the batch's", "batch_norm", batch_norm_of_running_averages),
    WrongRule("beta's mean", "batch_norm", batch_norm_beta_mean, "n"),
    WrongRule("mask ignored", "dropout", lambda g, out, x, *, mask: (g + 0 * mask,)),
    WrongRule("mask not scaled", "dropout", lambda g, out, x, *, mask: (g * (mask > 0),)),
    # Losses
    WrongRule("missing 1/n", "softmax_cross_entropy", cross_entropy(lambda p, y, s: (p - y) * len(p)), "n"),
    WrongRule("label off by one", "softmax_cross_entropy", cross_entropy(lambda p, y, s: p - np.roll(y, 1, 1))),
    WrongRule("labels missing", "softmax_cross_entropy", cross_entropy(lambda p, y, s: p)),
    WrongRule("sign", "softmax_cross_entropy", edited("softmax_cross_entropy", times(-1)), "sign"),
    WrongRule("right for an upstream of 1", "softmax_cross_entropy", cross_entropy_for_ones),
    WrongRule("softmax missing", "softmax_cross_entropy", cross_entropy(lambda p, y, s: s - y)),
    WrongRule("through softmax twice", "softmax_cross_entropy", cross_entropy(lambda p, y, s: (p - y) * p * (1 - p))),
    WrongRule("factor 3", "binary_cross_entropy_with_logits", edited("binary_cross_entropy_with_logits", times(3))),
    WrongRule("sigmoid missing", "binary_cross_entropy_with_logits", binary_cross_entropy_without_sigmoid),
    WrongRule("own class missing", "hinge", hinge_without_own_class),
    WrongRule("sign", "hinge", edited("hinge", times(-1)), "sign"),
    WrongRule("factor 2 missing", "mse", mse_factor_missing, "factor"),
    WrongRule("target's sign", "mse", lambda g, out, p, t: [right_gradients("mse", g, out, p, t)[0]] * 2, "sign"),
    WrongRule("lambda W for 2 lambda W", "l2_penalty", l2_half, "factor"),
    WrongRule("penalty dropped", "l2_penalty", edited("l2_penalty", zero)),
]  # fmt: skip
