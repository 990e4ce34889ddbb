"""Random graphs out of all ops, with broadcasting and shared subexpressions, against PyTorch and finite differences.

Hypothesis draws a program: a few leaves, then steps that each take earlier values. A step is written once, in calls of
``do(name, *operands, **kwargs)``, and run with our ops, with our ops as twins, or with PyTorch's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_cifar as tg
from tests.core.agree import assert_close, leaves
from tests.core.samples import indices
from tinygrad_cifar import Tensor
from tinygrad_cifar.operators import OPS

Do = Callable[..., Any]


def ours(name: str, *operands: Any, **kwargs: Any) -> Any:
    return OPS[name](*operands, **kwargs)


@dataclass
class Program:
    """Arrays to start from, and steps: each takes ``do`` and the values so far, and yields one more."""

    start: list[Any]
    steps: list[tuple[str, Callable[[Do, list[Any]], Any]]] = field(default_factory=list)

    def run(self, do: Do, start: list[Any]) -> list[Any]:
        values = list(start)
        for _, step in self.steps:
            values.append(step(do, values))
        return values

    def __repr__(self) -> str:
        return f"Program({[x.shape for x in self.start]} -> {' -> '.join(name for name, _ in self.steps)})"


class Writer:
    """Draws the steps of a program, and computes along, to know the shapes."""

    def __init__(self, draw: Any):
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3)).input_shapes
        self.program = Program([self.rng.normal(size=shape) for shape in shapes])
        self.values = list(self.program.start)

    def add(self, name: str, step: Callable[[Do, list[Any]], Any]) -> None:
        self.program.steps.append((name, step))
        self.values.append(step(ours, [Tensor(v) for v in self.values]).data)

    def pick(self, fits: Callable[[Any], bool] = lambda value: True) -> int:
        """The number of an earlier value, the later ones being more likely; made to fit where none does."""
        fitting = [i for i, v in enumerate(self.values) if fits(v)]
        if not fitting:
            raise LookupError
        return self.draw(st.sampled_from(fitting + fitting[-3:]))

    def constant(self, *shape: int) -> Any:
        return self.rng.normal(size=shape)


def one(name: str, **settings: Any) -> Callable[[Writer], None]:
    """An op of one operand that takes any value."""

    def write(w: Writer) -> None:
        i, kwargs = w.pick(), {k: w.draw(v) for k, v in settings.items()}
        w.add(name, lambda do, v: do(name, v[i], **kwargs))

    return write


def two(name: str) -> Callable[[Writer], None]:
    def write(w: Writer) -> None:
        i = w.pick()
        j = w.pick(lambda v: broadcasts(v.shape, w.values[i].shape))
        if name in {"maximum", "minimum"}:  # scaled apart, so that rounding decides no tie
            apart = w.constant(*w.values[j].shape)
            w.add(name, lambda do, v: do(name, v[i], do("multiply", v[j], apart)))
        else:
            w.add(name, lambda do, v: do(name, v[i], v[j]))

    return write


def broadcasts(a: Any, b: Any) -> bool:
    try:
        return np.prod(np.broadcast_shapes(a, b)) <= 64
    except ValueError:
        return False


def matrix(v: Any) -> bool:
    return v.ndim == 2 and v.shape[0] > 1


def reduction(name: str) -> Callable[[Writer], None]:
    def write(w: Writer) -> None:
        i = w.pick(lambda v: v.ndim > 0)
        axis = w.draw(st.none() | st.integers(-w.values[i].ndim, w.values[i].ndim - 1))
        keepdims = w.draw(st.booleans())
        apart = w.constant(*w.values[i].shape)
        w.add(name, lambda do, v: do(name, do("multiply", v[i], apart), axis=axis, keepdims=keepdims))

    return write


def positive(name: str) -> Callable[[Writer], None]:
    def write(w: Writer) -> None:
        i = w.pick()
        w.add(name, lambda do, v: do(name, do("add", do("multiply", v[i], v[i]), 0.5)))

    return write


def softly(name: str) -> Callable[[Writer], None]:
    """An op along an axis."""

    def write(w: Writer) -> None:
        i = w.pick(lambda v: v.ndim > 0)
        axis = w.draw(st.integers(-w.values[i].ndim, w.values[i].ndim - 1))
        w.add(name, lambda do, v: do(name, v[i], axis=axis))

    return write


def divide(w: Writer) -> None:
    i = w.pick()
    j = w.pick(lambda v: broadcasts(v.shape, w.values[i].shape))
    w.add("divide", lambda do, v: do("divide", v[i], do("add", do("abs", v[j]), 0.7)))


def power(w: Writer) -> None:
    i = w.pick()
    j = w.pick(lambda v: broadcasts(v.shape, w.values[i].shape))
    w.add("power", lambda do, v: do("power", do("add", do("sigmoid", v[i]), 0.5), do("tanh", v[j])))


def square(w: Writer) -> None:
    i, n = w.pick(), w.draw(st.sampled_from([0, 1, 2, 3]))
    w.add("power", lambda do, v: do("power", do("tanh", v[i]), n))


def exp(w: Writer) -> None:
    i = w.pick()
    w.add("exp", lambda do, v: do("exp", do("tanh", v[i])))


def select(w: Writer) -> None:
    i = w.pick()
    j = w.pick(lambda v: broadcasts(v.shape, w.values[i].shape))
    condition = w.rng.random(np.broadcast_shapes(w.values[i].shape, w.values[j].shape)) < 0.5
    w.add("select", lambda do, v: do("select", v[i], v[j], condition=condition))


def dropout(w: Writer) -> None:
    i = w.pick()
    mask = (w.rng.random(w.values[i].shape) < 0.7) / 0.7
    w.add("dropout", lambda do, v: do("dropout", v[i], mask=mask))


def binary_cross_entropy(w: Writer) -> None:
    i = w.pick()
    targets = w.rng.random(w.values[i].shape)
    name = "binary_cross_entropy_with_logits"
    w.add(name, lambda do, v: do(name, v[i], targets=targets))


def reshape(w: Writer) -> None:
    i = w.pick()
    shape = w.draw(st.sampled_from([-1, (*w.values[i].shape[::-1],), (1, *w.values[i].shape, 1)]))
    w.add("reshape", lambda do, v: do("reshape", v[i], shape=shape))


def transpose(w: Writer) -> None:
    i = w.pick()
    axes = w.draw(st.none() | st.permutations(range(w.values[i].ndim)))
    w.add("transpose", lambda do, v: do("transpose", v[i], axes=axes))


def swapaxes(w: Writer) -> None:
    i = w.pick(lambda v: v.ndim > 1)
    w.add("swapaxes", lambda do, v: do("swapaxes", v[i], axis1=0, axis2=-1))


def expand_dims(w: Writer) -> None:
    i = w.pick(lambda v: v.ndim < 4)
    axis = w.draw(st.sampled_from([0, -1]))
    w.add("expand_dims", lambda do, v: do("expand_dims", v[i], axis=axis))


def broadcast_to(w: Writer) -> None:
    i = w.pick(lambda v: v.size <= 16 and v.ndim < 4)
    shape = (2, *w.values[i].shape)
    w.add("broadcast_to", lambda do, v: do("broadcast_to", v[i], shape=shape))


def getitem(w: Writer) -> None:
    i = w.pick()
    index = w.draw(indices(w.values[i].shape).filter(lambda index: w.values[i][index].size))
    w.add("getitem", lambda do, v: do("getitem", v[i], index=index))


def scatter(w: Writer) -> None:
    i = w.pick(lambda v: v.ndim > 0)
    places = w.rng.integers(0, 3, len(w.values[i]))
    shape = (3, *w.values[i].shape[1:])
    w.add("scatter", lambda do, v: do("scatter", v[i], index=places, shape=shape))


def setitem(w: Writer) -> None:
    i = w.pick(lambda v: v.ndim > 0)
    j = w.pick(lambda v: broadcasts(v.shape, w.values[i].shape[1:]) and v.ndim < w.values[i].ndim)
    if np.broadcast_shapes(w.values[j].shape, w.values[i].shape[1:]) != w.values[i].shape[1:]:
        raise LookupError
    index = w.draw(st.sampled_from([0, -1, slice(None), np.array([0, -1, 0])]))
    w.add("setitem", lambda do, v: do("setitem", v[i], v[j], index=index))


def concatenate(w: Writer) -> None:
    i = w.pick(lambda v: v.ndim > 0)
    j = w.pick(lambda v: v.shape[1:] == w.values[i].shape[1:] and v.ndim > 0)
    w.add("concatenate", lambda do, v: do("concatenate", v[i], v[j], v[i], axis=0))


def stack(w: Writer) -> None:
    i = w.pick(lambda v: v.ndim < 4)
    j = w.pick(lambda v: v.shape == w.values[i].shape)
    axis = w.draw(st.sampled_from([0, -1]))
    w.add("stack", lambda do, v: do("stack", v[i], v[j], axis=axis))


def mse(w: Writer) -> None:
    i = w.pick()
    j = w.pick(lambda v: v.shape == w.values[i].shape)
    w.add("mse", lambda do, v: do("mse", v[i], do("negative", v[j])))


def l2_penalty(w: Writer) -> None:
    i, j = w.pick(), w.pick()
    w.add("l2_penalty", lambda do, v: do("l2_penalty", v[i], v[j], coefficient=0.3))


def matmul(w: Writer) -> None:
    i = w.pick(lambda v: v.ndim > 0)
    j = w.draw(st.sampled_from(range(len(w.values))))
    if w.values[j].ndim and w.values[j].shape[-2:][0] == w.values[i].shape[-1] and w.values[j].ndim <= 2:
        w.add("matmul", lambda do, v: do("matmul", v[i], v[j]))
    else:
        weight = w.constant(w.values[i].shape[-1], 2)
        w.add("matmul", lambda do, v: do("matmul", do("tanh", v[i]), weight))


def einsum(w: Writer) -> None:
    i = w.pick(lambda v: v.ndim > 0)
    j = w.pick(lambda v: v.ndim > 0 and v.shape[-1] == w.values[i].shape[-1])
    subscripts = "...i,...i->..." if broadcasts(w.values[i].shape, w.values[j].shape) else "...i,i->i..."
    if subscripts.endswith("i..."):
        j = w.pick(lambda v: v.shape == w.values[i].shape[-1:])
    w.add("einsum", lambda do, v: do("einsum", v[i], v[j], subscripts=subscripts))


def linear(w: Writer) -> None:
    i = w.pick(lambda v: v.ndim > 0)
    ins = w.values[i].shape[-1]
    weight, bias = w.constant(2, ins), w.constant(2)
    j = w.draw(st.none() | st.just(w.pick(lambda v: v.ndim == 0 or v.shape[-1] == ins)))
    mixed = (lambda do, v: weight) if j is None else lambda do, v: do("multiply", weight, do("tanh", row(do, v, j)))
    w.add("linear", lambda do, v: do("linear", v[i], mixed(do, v), do("multiply", bias, do("sum", v[i]))))


def row(do: Do, v: list[Any], j: int) -> Any:
    """The value's mean over all axes but the last."""
    return v[j] if len(v[j].shape) < 2 else do("mean", v[j], axis=tuple(range(len(v[j].shape) - 1)))


def batch_norm(w: Writer) -> None:
    i = w.pick(matrix)
    spread = w.constant(*w.values[i].shape)  # columns that are constant have no variance to divide by
    gamma, beta = w.constant(w.values[i].shape[1]), w.constant(w.values[i].shape[1])
    w.add(
        "batch_norm",
        lambda do, v: do("batch_norm", do("add", v[i], spread), do("add", do("mean", v[i], axis=0), gamma), beta),
    )


def classified(name: str) -> Callable[[Writer], None]:
    def write(w: Writer) -> None:
        i = w.pick(lambda v: v.ndim == 2 and v.shape[1] > 1)
        labels = w.rng.integers(0, w.values[i].shape[1], len(w.values[i]))
        apart = w.constant(*w.values[i].shape)
        w.add(name, lambda do, v: do(name, do("add", v[i], apart), labels=labels))

    return write


STEPS: dict[str, Callable[[Writer], None]] = {
    **{name: two(name) for name in ["add", "subtract", "multiply", "maximum", "minimum"]},
    **{name: one(name) for name in ["negative", "abs", "clone", "squeeze", "relu", "sigmoid", "tanh", "softplus"]},
    **{name: one(name) for name in ["erf", "gelu", "leaky_relu"]},
    **{name: positive(name) for name in ["log", "sqrt"]},
    **{name: reduction(name) for name in ["sum", "mean", "var", "max", "min", "logsumexp"]},
    **{name: softly(name) for name in ["softmax", "log_softmax"]},
    **{name: classified(name) for name in ["softmax_cross_entropy", "hinge"]},
    "clip": one("clip", min=st.just(-0.4321), max=st.just(0.8765)),
    "astype": one("astype", dtype=st.just(np.dtype(np.float64))),
    "binary_cross_entropy_with_logits": binary_cross_entropy,
    "square": square,
    **{
        step.__name__: step
        for step in [
            divide, power, exp, select, dropout, reshape, transpose, swapaxes, expand_dims, broadcast_to, getitem,
            scatter, setitem, concatenate, stack, mse, l2_penalty, matmul, einsum, linear, batch_norm,
        ]
    },
}  # fmt: skip


@st.composite
def programs(draw: Any, longest: int = 8) -> Program:
    w = Writer(draw)
    for name in draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=3, max_size=longest)):
        try:
            STEPS[name](w)
        except LookupError:
            continue  # no value so far has a shape that this op takes
        if np.abs(w.values[-1]).max(initial=0) > 5:
            last = len(w.values) - 1
            w.add("tanh", lambda do, v, last=last: do("tanh", v[last]))
    return w.program


def test_every_op_can_occur() -> None:
    assert set(STEPS) >= set(OPS)


def upstreams(program: Program, values: list[Any]) -> list[Any]:
    """A random gradient for the last value and for the one before: two outputs, so that subexpressions are shared."""
    rng = np.random.default_rng(7)
    return [rng.normal(size=v.shape) for v in values[-2:]]


@settings(max_examples=150)
@given(program=programs())
def test_equals_torch(program: Program, in_torch: Any) -> None:
    """Values, gradients (1e-10) and second derivatives (1e-8), all relative to scale."""
    xs, ts = leaves(program.start), in_torch.leaves(program.start)
    values, torch_values = program.run(ours, xs), program.run(in_torch.apply, ts)
    for value, expected in zip(values, torch_values, strict=True):
        assert_close(value, in_torch.numpy(expected), 1e-11)
    above = upstreams(program, values)
    outputs = [(y, g) for y, g in zip(values[-2:], above, strict=True) if y.requires_grad]
    first = tg.grad([y for y, _ in outputs], xs, [g for _, g in outputs], create_graph=True, allow_unused=True)
    torch_first = in_torch.gradients(torch_values[-2:], ts, above, create_graph=True)
    for g, expected in zip(first, torch_first, strict=True):
        assert_close(g, in_torch.numpy(expected), 1e-10, "gradient")
    weights = [np.cos(np.arange(g.size)).reshape(g.shape) for g in first]
    pairs = [(g, w) for g, w in zip(first, weights, strict=True) if g.requires_grad]
    second = tg.grad([g for g, _ in pairs], xs, [w for _, w in pairs], allow_unused=True)
    for g, expected in zip(second, in_torch.gradients(torch_first, ts, weights), strict=True):
        assert_close(g, in_torch.numpy(expected), 1e-8, "second derivative")


def by_backward(program: Program) -> list[Any]:
    xs = leaves(program.start)
    values = program.run(ours, xs)
    sum(((g * y).sum() for g, y in zip(upstreams(program, values), values[-2:], strict=True)), Tensor(0.0)).backward()
    return [np.zeros(x.shape) if x.grad is None else x.grad.data for x in xs]


@settings(max_examples=60)
@given(program=programs())
def test_backward_grad_and_create_graph_agree(program: Program) -> None:
    xs = leaves(program.start)
    values = program.run(ours, xs)
    above = upstreams(program, values)
    expected = by_backward(program)
    for create_graph in (True, False):
        found = tg.grad(values[-2:], xs, above, create_graph, allow_unused=True)
        for g, e in zip(found, expected, strict=True):
            assert_close(g, e, 1e-11)


@settings(max_examples=60)
@given(program=programs())
def test_equals_finite_differences(program: Program) -> None:
    """The slope in a random direction, by central differences; needs no other framework."""
    direction = [np.random.default_rng(i).normal(size=x.shape) for i, x in enumerate(program.start)]

    def along(t: float) -> float:
        with tg.no_grad():
            moved = [Tensor(x + t * d) for x, d in zip(program.start, direction, strict=True)]
            values = program.run(ours, moved)
        return float(sum((g * y.data).sum() for g, y in zip(upstreams(program, values), values[-2:], strict=True)))

    slope = sum(float((g * d).sum()) for g, d in zip(by_backward(program), direction, strict=True))
    steps = [2e-5, 1e-5, 5e-6]
    measured = [(along(h) - along(-h)) / (2 * h) for h in steps]
    one_sided = [(along(h) - along(0)) / h - (along(0) - along(-h)) / h for h in steps]
    if max(np.abs(one_sided)) > 1e-2 * (1 + abs(slope)):
        return  # a kink lies within the step: no derivative to compare with
    assert abs(np.median(measured) - slope) <= 1e-5 * (1 + abs(slope))
