"""The classic mistakes of hand-written backpropagation, as gradient rules that make them.

``check_formula`` puts them in the place of the right rules to see which one explains a student's gradients;
``documents`` repeats the mistake of a published report with one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_cifar.operators import OPS
from tinygrad_cifar.tensor import Array

Rule = Callable[..., Any]


@contextmanager
def replaced_rule(op: str, rule: Rule, only: int | None = None) -> Iterator[None]:
    """Use ``rule`` as the gradient rule of the op ``op`` inside the block: in every call, or in one.

    Args:
        op: a name in the registry.
        rule: the other rule.
        only: the number of the call, counted backward from the output, 0 for the last layer's.
    """
    right = OPS[op].rule
    assert right is not None
    calls = iter(range(10**9))

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        return rule(*args, **kwargs) if next(calls) == only else right(*args, **kwargs)

    OPS[op].rule = rule if only is None else sometimes
    try:
        yield
    finally:
        OPS[op].rule = right


def batch_norm_paths(direct: float = 1.0, mean: float = 1.0, variance: float = 1.0, scale: bool = True) -> Rule:
    """Batch norm's rule with weights on the three paths by which x acts on x_hat; weight 0 forgets a path.

    dx = gamma / sqrt(var + eps) * (direct * g - mean * mean(g) - variance * x_hat * mean(g x_hat)); without ``scale``
    gamma is forgotten, too.
    """

    def rule(g: Array, out: Any, x: Array, gamma: Array, beta: Any, **settings: Any) -> Any:
        x_hat, inv_std = _standardised(x, settings)
        dx = direct * g - mean * g.mean(0) - variance * x_hat * (g * x_hat).mean(0)
        return dx * inv_std * (gamma if scale else 1), (g * x_hat).sum(0), g.sum(0)

    return rule


def _standardised(x: Array, settings: dict[str, Any]) -> tuple[Array, Array]:
    """x_hat and 1 / sqrt(var + eps)."""
    inv_std = 1 / np.sqrt(x.var(0) + settings.get("eps", 1e-5))
    return (x - x.mean(0)) * inv_std, inv_std


def unbiased_variance(g: Array, out: Any, x: Array, *rest: Any, **settings: Any) -> Any:
    return batch_norm_paths(variance=len(g) / (len(g) - 1))(g, out, x, *rest, **settings)


def without_eps(g: Array, out: Any, x: Array, *rest: Any, **settings: Any) -> Any:
    return batch_norm_paths()(g, out, x, *rest, **{**settings, "eps": 0.0})


def gamma_without_x_hat(g: Array, out: Any, x: Array, *rest: Any, **settings: Any) -> Any:
    dx, _, dbeta = batch_norm_paths()(g, out, x, *rest, **settings)
    return dx, dbeta, dbeta


def passed_over(gamma_kept: bool) -> Rule:
    """The gradient goes through batch norm as if x_hat were x."""

    def rule(g: Array, out: Any, x: Array, gamma: Array, beta: Any, **settings: Any) -> Any:
        return g * gamma if gamma_kept else g, (g * _standardised(x, settings)[0]).sum(0), g.sum(0)

    return rule


def cross_entropy(scores: Callable[[Array, Array, Array], Array]) -> Rule:
    """A rule for softmax with cross-entropy: ``scores(p, one_hot, logits)`` in the place of p - one_hot."""

    def rule(g: Array, out: Any, logits: Array, *, labels: Array, kept: Any) -> Any:
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        one_hot = np.eye(logits.shape[1], dtype=logits.dtype)[labels]
        return (scores(p, one_hot, logits) * (g / len(labels)),)

    return rule


FAULTS: dict[str, dict[str, Rule]] = {
    "batch_norm": {
        "variance path of batch norm missing": batch_norm_paths(variance=0),
        "mean path of batch norm missing": batch_norm_paths(mean=0),
        "mean and variance path of batch norm missing": batch_norm_paths(mean=0, variance=0),
        "sign of batch norm's variance path": batch_norm_paths(variance=-1),
        "sign of batch norm's mean path": batch_norm_paths(mean=-1),
        "factor 2 in batch norm's variance path": batch_norm_paths(variance=2),
        "factor 1/2 in batch norm's variance path": batch_norm_paths(variance=0.5),
        "n - 1 for n in batch norm's variance path": unbiased_variance,
        "eps missing in batch norm's gradient": without_eps,
        "gamma missing on the way through batch norm": batch_norm_paths(scale=False),
        "gamma missing and variance path of batch norm missing": batch_norm_paths(scale=False, variance=0),
        "gamma's gradient without the standardised scores": gamma_without_x_hat,
        "batch norm's standardisation passed over": passed_over(gamma_kept=True),
        "batch norm passed over as if it were not there": passed_over(gamma_kept=False),
    },
    "relu": {
        "ReLU's mask [h > 0] missing": lambda g, out, x: (g,),
        "ReLU's mask inverted": lambda g, out, x: (g * (out <= 0),),
        "h in the place of ReLU's mask [h > 0]": lambda g, out, x: (g * out,),
        "the gradient itself clipped by ReLU": lambda g, out, x: (g * (g > 0),),
    },
    "leaky_relu": {
        "slope of leaky ReLU missing below 0": lambda g, out, x, slope=0.01: (g * (x > 0),),
        "slope of leaky ReLU missing": lambda g, out, x, slope=0.01: (g,),
    },
    "sigmoid": {
        "slope of the sigmoid a (1 - a) missing": lambda g, out, x: (g,),
        "slope of the sigmoid: a in the place of a (1 - a)": lambda g, out, x: (g * out,),
        "slope of the sigmoid: 1 - a in the place of a (1 - a)": lambda g, out, x: (g * (1 - out),),
        "slope of the sigmoid: 1 - a^2, which is tanh's": lambda g, out, x: (g * (1 - out * out),),
        "slope of the sigmoid: z (1 - z), of its input": lambda g, out, x: (g * _logit(out) * (1 - _logit(out)),),
    },
    "tanh": {
        "slope of tanh 1 - a^2 missing": lambda g, out, x: (g,),
        "slope of tanh: 1 - a in the place of 1 - a^2": lambda g, out, x: (g * (1 - out),),
        "slope of tanh: a (1 - a), which is the sigmoid's": lambda g, out, x: (g * out * (1 - out),),
    },
    "softmax_cross_entropy": {
        "labels off by one: one too small": cross_entropy(lambda p, y, s: p - np.roll(y, -1, 1)),
        "labels off by one: one too large": cross_entropy(lambda p, y, s: p - np.roll(y, 1, 1)),
        "labels missing: P in the place of P - Y": cross_entropy(lambda p, y, s: p),
        "sign of the labels: P + Y in the place of P - Y": cross_entropy(lambda p, y, s: p + y),
        "softmax missing: scores in the place of P": cross_entropy(lambda p, y, s: s - y),
        "sigmoid in the place of softmax": cross_entropy(lambda p, y, s: 1 / (1 + np.exp(-s)) - y),
        "the slope of softmax missing: -1 / P for the right class": cross_entropy(lambda p, y, s: -y / p),
        "P (1 - P) too much: the slope of softmax counted twice": cross_entropy(lambda p, y, s: (p - y) * p * (1 - p)),
        "only the right class's score gets a gradient": cross_entropy(lambda p, y, s: (p - y) * y),
    },
}  # fmt: skip
"""Per op: what a mistake is called, and the rule that makes it."""


def _logit(a: Array) -> Array:
    return np.log(a / (1 - a))
