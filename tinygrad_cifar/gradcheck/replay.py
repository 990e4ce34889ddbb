"""A computation, recorded once, that can be run again: in float64, with rounding noise, or as a graph.

The checker calls the user's function under ``record``. What it did is then a ``Program``: a list of steps (op, where
each input comes from, keyword arguments) over numbered slots, the leaves first. Everything that f drew at random, such
as dropout masks, is frozen in it, and all arrays are copies: the model is not touched. ``double`` turns it to float64.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tinygrad_cifar import tensor
from tinygrad_cifar.engine import grad
from tinygrad_cifar.errors import GraphError
from tinygrad_cifar.operands import describe
from tinygrad_cifar.operators import OPS, unwrap
from tinygrad_cifar.tensor import Array, Node, Op, Tensor, enable_grad

NOISE = 2.0**-50  # 4 eps: rounding noise is imitated a little too large, never too small
EXTREMES = {"max", "min"}  # their rules look for the result among the inputs: it must stay exact
LOGARITHMS = {"logsumexp", "log_softmax", "softmax_cross_entropy", "log", "gelu", "erf"}  # round like 1, though near 0


class Noise:
    """Rounding noise: every float off by a relative 4 eps at most.

    With ``keep_ties`` equal numbers get equal noise; else they are torn apart, as rounding may have made them equal.
    """

    def __init__(self, rng: np.random.Generator, keep_ties: bool = False):
        self.rng, self.keep_ties = rng, keep_ties
        self.key = rng.integers(2**63, dtype=np.uint64) * 2 + 1

    def __call__(self, x: Any, absolute: bool = False) -> Any:
        """x with noise; ``absolute``: as large as that of 1, also where x is near 0."""
        if not isinstance(x, np.ndarray) or x.dtype != np.float64:
            return x
        off = NOISE * (self._by_value(x) if self.keep_ties else self.rng.uniform(-1, 1, x.shape))
        return np.asarray(x + off * (1 + np.abs(x)) if absolute else x * (1 + off))

    def _by_value(self, x: Array) -> Array:
        """Numbers in [-1, 1) that depend on x's bits alone."""
        bits = np.ascontiguousarray(x).view(np.uint64).reshape(x.shape)
        return (bits * self.key >> 11) * 2.0**-52 - 1


@dataclass
class Step:
    """One recorded call: ``values[slot] = op(*inputs, **kwargs)``."""

    op: Op
    sources: tuple[int | None, ...]  # per input: the slot it comes from, or None: a constant
    constants: tuple[Any, ...]  # per input: the constant, or None: it comes from a slot
    kwargs: dict[str, Any]
    slot: int
    label: str  # "relu #2": the second relu of the program

    def __post_init__(self) -> None:
        self.constants = tuple([_frozen(c) for c in self.constants])

    def arguments(self, values: Sequence[Any], noise: Noise | None = None) -> list[Any]:
        """The inputs of the op, given the values of all slots."""
        constants = [noise(c) for c in self.constants] if noise else self.constants
        return [c if s is None else values[s] for s, c in zip(self.sources, constants, strict=True)]

    def forward(self, arguments: Sequence[Any]) -> Array:
        out = self.op.forward(*arguments, **self.kwargs)
        return np.asarray(out[0] if self.op.keeps else out)


@dataclass
class Program:
    """Leaves, steps, and the value of every slot at the point where it was recorded."""

    names: list[str]  # of the leaves, which have the slots 0, 1, ...
    leaves: list[Array]
    steps: list[Step]
    out: int  # the slot of the result
    values: list[Array] = field(init=False)
    hooked: list[str] = field(default_factory=list)  # what has hooks, which are no part of the record

    def __post_init__(self) -> None:
        self.values = [_frozen(x) for x in self.run()]

    def double(self) -> "Program":
        """The same with every float in float64."""
        steps = [
            replace(s, constants=tuple(map(_double, s.constants)), kwargs={k: _double(v) for k, v in s.kwargs.items()})
            for s in self.steps
        ]
        return Program(self.names, [_double(x) for x in self.leaves], steps, self.out)

    def run(self, leaves: Sequence[Array] | None = None, noise: Noise | None = None) -> list[Array]:
        """The values of all slots. With ``noise``, every input and result is a little off."""
        values = list(self.leaves if leaves is None else leaves)
        if noise:
            values = [noise(x) for x in values]
        for step in self.steps:
            result = step.forward(step.arguments(values, noise))
            values.append(noise(result, step.op.name in LOGARITHMS) if noise else result)
        return values

    def gradients(self, upstream: Array, noise: Noise | None = None, only: int | None = None) -> list[Array]:
        """The analytic side: what the ops' rules and the engine's walk make of it, per leaf, or by one of them."""
        leaves = [Tensor(noise(x) if noise else _frozen(x), only in (None, i)) for i, x in enumerate(self.leaves)]
        values: list[Any] = list(leaves)
        with enable_grad():
            for step in self.steps:
                result = step.op(*step.arguments(values, noise), **step.kwargs)
                if result.node is not None and noise:
                    _disturb(result, step, noise)
                elif result.node is not None:
                    _freeze(result)
                values.append(result)
        if not values[self.out].requires_grad:
            return [np.zeros_like(x) for x in self.leaves]
        values[self.out].register_hook(lambda g: g.data.setflags(write=False))
        wanted = [t for t in leaves if t.requires_grad]
        found = grad(values[self.out], wanted, noise(upstream) if noise else upstream, allow_unused=True)
        return [g.data for g in found]

    def downstream(self, leaf: int) -> list[Step]:
        """The steps whose result depends on the leaf."""
        reached = {leaf}
        found = []
        for step in self.steps:
            if not reached.isdisjoint(step.sources):
                reached.add(step.slot)
                found.append(step)
        return found

    def alone(self, step: Step) -> "Program":
        """A program of this one step, whose leaves are its inputs that are not constant."""
        names: list[str] = []
        leaves: list[Array] = []
        sources: list[int | None] = []
        for i, s in enumerate(step.sources):
            sources.append(None if s is None else len(leaves))
            if s is not None:
                names.append(input_name(step.op, i))
                leaves.append(self.values[s])
        copy = Step(step.op, tuple(sources), step.constants, step.kwargs, len(leaves), step.label)
        return Program(names, leaves, [copy], copy.slot)


def input_name(op: Op, i: int) -> str:
    """The name of an op's i-th input: ``weight``, or ``arrays[2]`` where it takes any number."""
    last = len(op.inputs) - 1
    return f"{op.inputs[last]}[{i - last}]" if op.variadic and i >= last else op.inputs[i]


def record(f: Callable[[], Any], wrt: dict[str, Tensor]) -> tuple[Program, Tensor]:
    """Call ``f`` once; what it computed from ``wrt`` as a program, and its result.

    Raises:
        GraphError: f does not return a Tensor, uses a recorded tensor that was computed before f was called, or
            changes a recorded value outside of the graph.
    """
    slots: dict[Node | Tensor, int] = {t: i for i, t in enumerate(wrt.values())}
    leaves = [_copy(t.data) for t in wrt.values()]
    made = list(leaves)  # the value of every slot when it was made
    calls: list[tuple[Op, tuple[int | None, ...], tuple[Any, ...], dict[str, Any]]] = []

    def note(op: Op, inputs: tuple[Any, ...], arrays: list[Any], out: Tensor) -> None:
        sources = tuple([_source(x, slots) for x in inputs])
        if out.node is not None and any(s is not None for s in sources):
            for x, s in zip(inputs, sources, strict=True):
                _unchanged(x, s, made)
            constants = [_copy(a) if s is None else None for a, s in zip(arrays, sources, strict=True)]
            slots[out.node] = len(made)
            made.append(_copy(out.data))
            calls.append((op, sources, tuple(constants), {k: _copy(v) for k, v in out.node.kwargs.items()}))

    with enable_grad(), _listening(note):
        result = f()
    if not isinstance(result, Tensor):
        raise GraphError(f"check_gradients: f must return a Tensor, not {type(result).__name__}.")
    out = _source(result, slots)
    _unchanged(result, out, made)
    if out is None:  # a constant as far as wrt is concerned
        constant = Step(OPS["clone"], (None,), (_copy(result.data),), {}, len(leaves), "")
        return Program(list(wrt), leaves, [constant], constant.slot), result
    program = Program(list(wrt), leaves, *_pruned(calls, len(wrt), out))
    names = [*wrt, *[f"the result of {op.name}" for op, *_ in calls]]
    program.hooked = list(dict.fromkeys(n for n, place in zip(names, slots, strict=True) if place.hooks))
    return program, result


def _source(x: Any, slots: dict[Node | Tensor, int]) -> int | None:
    """The slot an operand comes from; None for a constant."""
    if not isinstance(x, Tensor) or not x.requires_grad:
        return None
    if x.node is None or x.node in slots:
        return slots.get(x.node or x)
    raise GraphError(
        f"check_gradients: f uses {describe(x)}, which was computed before f was called, so a change of the parameters "
        "cannot reach it. Compute it inside f, or pass x.detach() if it is meant to be a constant."
    )


def _unchanged(x: Any, slot: int | None, made: list[Array]) -> None:
    """Complain if the value of ``x`` is no longer what it was when it was recorded."""
    if slot is not None and not np.array_equal(x.data, made[slot], equal_nan=True):
        raise GraphError(
            f"check_gradients: f changes the value of {describe(x)} outside of the graph (.data, .numpy(), no_grad(), "
            "an op's forward), so backprop knows nothing of it. Write it with ops: np.where(s > 0, s, 0)."
        )


def _pruned(calls: list[Any], leaves: int, out: int) -> tuple[list[Step], int]:
    """The calls on which the result depends, renumbered, and the slot of the result."""
    needed = {out}
    for i in reversed(range(len(calls))):
        if leaves + i in needed:
            needed.update(s for s in calls[i][1] if s is not None)
    slots = {i: i for i in range(leaves)}
    seen: Counter[str] = Counter()
    steps: list[Step] = []
    for i, (op, sources, constants, kwargs) in enumerate(calls):
        if leaves + i in needed:
            slots[leaves + i] = leaves + len(steps)
            seen[op.name] += 1
            moved = tuple([None if s is None else slots[s] for s in sources])
            steps.append(Step(op, moved, constants, kwargs, leaves + len(steps), f"{op.name} #{seen[op.name]}"))
    return steps, slots[out]


@contextmanager
def _listening(note: Callable[[Op, tuple[Any, ...], list[Any], Tensor], None]) -> Iterator[None]:
    """Call ``note`` after each recorded op. Nodes alone would not do: they drop the values that no rule needs."""
    original = tensor._record

    def recorded(op: Op, inputs: Any, arrays: Any, result: Tensor, kept: Any, kwargs: Any) -> None:
        original(op, inputs, arrays, result, kept, kwargs)
        note(op, inputs, arrays, result)

    tensor._record = recorded
    try:
        yield
    finally:
        tensor._record = original


def _copy(x: Any) -> Any:
    x = unwrap(x)
    return x.copy(order="K") if isinstance(x, np.ndarray) else x


def _double(x: Any) -> Any:
    """Floats in float64; dtypes as arguments (of ``astype``) follow."""
    if isinstance(x, np.ndarray):
        return np.array(x, np.float64 if x.dtype.kind == "f" else x.dtype, order="C")
    return np.dtype(np.float64) if isinstance(x, np.dtype) and x.kind == "f" else x


def _frozen(x: Any) -> Any:
    """The same memory as an array that cannot be written to: what a rule is given belongs to others, too."""
    if isinstance(x, np.ndarray):
        x = x.view()
        x.flags.writeable = False
    return x


def _freeze(result: Tensor) -> None:
    result.data = _frozen(result.data)
    assert result.node is not None
    if result.node.out is not None:
        result.node.out = result.data


def _disturb(result: Tensor, step: Step, noise: Noise) -> None:
    """Noise for what a rule uses, in place since the graph refers to these arrays, and for the gradient it is given."""
    assert result.node is not None
    result.register_hook(lambda g: Tensor(noise(g.data)))
    if step.op.view or step.op.custom or step.op.name in EXTREMES:
        return
    kept = result.node.kept if isinstance(result.node.kept, tuple) else (result.node.kept,)
    for array in (result.data, *kept):
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.flags.writeable:
            array[...] = noise(array, step.op.name in LOGARITHMS and array is result.data)
