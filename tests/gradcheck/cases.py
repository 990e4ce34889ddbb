"""Small random networks, one kind for each op, in which that op's gradient matters."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinygrad_cifar import nn
from tinygrad_cifar.gradcheck import GradientReport, check_gradients
from tinygrad_cifar.operators import OPS
from tinygrad_cifar.tensor import Op, Tensor, custom_op

Rng = np.random.Generator


@dataclass
class Case:
    """``loss()`` computes the cost from ``parameters`` anew; these are leaves that require a gradient."""

    parameters: dict[str, Tensor]
    loss: Callable[[], Tensor]


def case(op: str, seed: int) -> Case:
    """Linear layers with tanh between them; among them ``op``, or at the end where it is a loss.

    With odd seeds the last layer's weights are small, as those of documents that draw them from N(0, 0.001^2): all
    gradients before it are small as well.
    """
    rng = np.random.default_rng([seed, len(op)])
    n, inputs, width, classes = (int(size) for size in rng.permutation([4, 5, 6, 7])[:4])
    before, after = rng.integers(1, 3), rng.integers(0, 2)
    x = rng.standard_normal((n, inputs))
    build = int(rng.integers(2**31))
    parameters: dict[str, Tensor] = {}

    def loss() -> Tensor:
        again = np.random.default_rng(build)

        def parameter(name: str, *shape: int) -> Tensor:
            values = again.standard_normal(shape) / np.sqrt(shape[-1] if len(shape) > 1 else 1)
            if name == "Wlast" and seed % 2:
                values *= 1e-3
            return parameters.setdefault(name, Tensor(values, requires_grad=True))

        def linear(h: Tensor | np.ndarray, name: str, units: int) -> Tensor:
            return OPS["linear"](h, parameter(f"W{name}", units, h.shape[-1]), parameter(f"b{name}", units))

        h = linear(x, "0", width)
        for i in range(1, before):
            h = linear(np.tanh(h), str(i), width)
        h = np.tanh(h)
        if op in BLOCKS:
            h = BLOCKS[op](h, parameter, again)
        for i in range(after):
            h = np.tanh(linear(h, str(before + i), width))
        return LOSSES.get(op, _cross_entropy)(linear(h, "last", classes), parameter, again)

    loss()  # creates the parameters
    return Case(parameters, loss)


Parameter = Callable[..., Tensor]


def _cross_entropy(z: Tensor, parameter: Parameter, rng: Rng) -> Tensor:
    return OPS["softmax_cross_entropy"](z, labels=rng.integers(0, z.shape[1], len(z)))


def _l2(z: Tensor, parameter: Parameter, rng: Rng) -> Tensor:
    weights = parameter("W0"), parameter("Wlast")
    return _cross_entropy(z, parameter, rng) + OPS["l2_penalty"](*weights, coefficient=0.1)


LOSSES: dict[str, Callable[[Tensor, Parameter, Rng], Tensor]] = {
    "mse": lambda z, p, rng: OPS["mse"](z, p("target", *z.shape)),
    "hinge": lambda z, p, rng: OPS["hinge"](z, labels=rng.integers(0, z.shape[1], len(z))),
    "binary_cross_entropy_with_logits": lambda z, p, rng: OPS["binary_cross_entropy_with_logits"](
        z, targets=rng.random(z.shape)
    ),
    "l2_penalty": _l2,
}


def _tied(h: Tensor) -> Tensor:
    """Every entry stands twice in its row, and moves together with its twin: a tie, yet no kink."""
    return np.concatenate([h, h], axis=1)


def _rows(h: Tensor, rng: Rng) -> list[int]:
    return [0, 0, *rng.permutation(len(h)).tolist()]


BLOCKS: dict[str, Callable[[Tensor, Parameter, Rng], Tensor]] = {
    "add": lambda h, p, rng: h + p("a", h.shape[1]),
    "subtract": lambda h, p, rng: h - p("a", h.shape[1]),
    "multiply": lambda h, p, rng: h * p("a", h.shape[1]),
    "divide": lambda h, p, rng: h / (np.exp(p("a", h.shape[1])) + 1),
    "negative": lambda h, p, rng: -h,
    "power": lambda h, p, rng: (h * h + 0.5) ** p("a", h.shape[1]),
    "exp": lambda h, p, rng: h.exp(),
    "log": lambda h, p, rng: (h * h + 0.5).log(),
    "sqrt": lambda h, p, rng: (h * h + 0.5).sqrt(),
    "abs": lambda h, p, rng: h.abs(),
    "maximum": lambda h, p, rng: np.maximum(h, 0.3 * p("a", h.shape[1])),
    "minimum": lambda h, p, rng: np.minimum(h, 0.3 * p("a", h.shape[1])),
    "select": lambda h, p, rng: np.where(rng.random(h.shape) < 0.5, h, p("a", h.shape[1])),
    "clip": lambda h, p, rng: h.clip(-0.3, 0.3),
    "astype": lambda h, p, rng: h.astype(h.dtype),
    "clone": lambda h, p, rng: h.clone(),
    "sum": lambda h, p, rng: h * h.sum(axis=0),
    "mean": lambda h, p, rng: h * h.mean(axis=0),
    "var": lambda h, p, rng: h / (h.var(axis=0, ddof=1) + 0.1),
    "max": lambda h, p, rng: h * _tied(h).max(axis=1, keepdims=True),
    "min": lambda h, p, rng: h * h.min(axis=1, keepdims=True),
    "logsumexp": lambda h, p, rng: h * (3 * h).logsumexp(axis=1, keepdims=True),
    "reshape": lambda h, p, rng: h.reshape(h.shape[1], h.shape[0]),
    "transpose": lambda h, p, rng: h.T,
    "swapaxes": lambda h, p, rng: h.swapaxes(0, 1),
    "expand_dims": lambda h, p, rng: np.expand_dims(h, 0).reshape(h.shape),
    "squeeze": lambda h, p, rng: h.reshape(1, *h.shape).squeeze(0),
    "broadcast_to": lambda h, p, rng: h * np.broadcast_to(p("a", h.shape[1]), h.shape),
    "getitem": lambda h, p, rng: h[_rows(h, rng)],
    "scatter": lambda h, p, rng: OPS["scatter"](h, index=rng.permutation(len(h)), shape=(len(h) + 1, h.shape[1])),
    "setitem": lambda h, p, rng: OPS["setitem"](h, p("a", h.shape[1]), index=1),
    "concatenate": lambda h, p, rng: np.concatenate([h, h * h]),
    "stack": lambda h, p, rng: np.stack([h, h * h]).reshape(-1, h.shape[1]),
    "matmul": lambda h, p, rng: h @ p("M", h.shape[1], h.shape[1] + 1),
    "einsum": lambda h, p, rng: np.einsum("ij,jk->ik", h, p("M", h.shape[1], h.shape[1] + 1)),
    "batch_norm": lambda h, p, rng: OPS["batch_norm"](h, 1 + p("gamma", h.shape[1]), p("beta", h.shape[1])),
    "dropout": lambda h, p, rng: OPS["dropout"](h, mask=(rng.random(h.shape) < 0.7) / 0.7),
    **{
        name: lambda h, p, rng, name=name: OPS[name](2 * h)  # type: ignore[misc]
        for name in ("relu", "leaky_relu", "sigmoid", "softplus", "erf", "gelu", "softmax", "log_softmax")
    },
}


# What tests say in a word --------------------------------------------------------------------------------------------


def leaf(*values: object) -> Tensor:
    return Tensor(np.array(values, float), requires_grad=True)


def network(
    sizes: tuple[int, ...] = (6, 5, 4), n: int = 5, dtype: type = np.float64, **options
) -> tuple[nn.Sequential, Tensor, np.ndarray]:
    rng = np.random.default_rng(3)
    model = nn.mlp(sizes, dtype=dtype, **options)
    return model, Tensor(rng.standard_normal((n, sizes[0])).astype(dtype)), rng.integers(0, sizes[-1], n)


def check(model: nn.Module, x: Tensor, y: np.ndarray, **options) -> GradientReport:
    return check_gradients(lambda: nn.F.cross_entropy(model(x), y), model, **options)


def own(forward, rule, name: str = "op") -> Op:
    """An op of one's own, under any name."""
    op = custom_op(forward)
    op.name = name
    op.gradient(rule)
    return op


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
