"""The machinery that all optimisers share: parameters and state in flat arrays, updated block by block.

At construction all parameters of one dtype move into one flat array, and each ``p.data`` becomes a view of it, in the
memory order that it had. The state (velocities, moments) is flat too. A step then walks over blocks that stay in the
processor's cache: a large parameter is cut into several, and many small ones are merged into one, whose gradients are
gathered first. So the update rule of an optimiser is written for one-dimensional arrays and reads like the paper's,
and a network with 36 small parameters costs hardly more than one with two.

A step has two halves that never mix, so that a compiler can replay the second one:
``advance`` and ``coefficients`` do the bookkeeping and compute the Python numbers of this step;
``apply`` computes on arrays alone, with those numbers as inputs.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cifar.errors import CheckpointError, ConfigError, DtypeError, NonFiniteError, ShapeError
from tinygrad_cifar.operands import describe
from tinygrad_cifar.tensor import Array, Tensor

BLOCK = 1 << 16  # elements; measured: smaller blocks cost more calls than cache misses, larger ones gain nothing


@dataclass(slots=True, eq=False)
class Slot:
    """The place of one parameter in a flat array."""

    tensor: Tensor
    view: Array  # of the flat array, in the parameter's shape: what tensor.data is
    flat: "Flat"
    start: int
    stop: int
    transposed: bool  # the memory order is that of the transpose, as nn.Linear's weights have it
    steps: int = 0  # how many updates it has had

    def flattened(self, array: Array) -> Array:
        """``array``, of the parameter's shape, as the vector that it is in the parameter's memory order."""
        return (array.T if self.transposed else array).reshape(-1)

    def shaped(self, flat: Array) -> Array:
        """This parameter's piece of a flat array, as a view in the parameter's shape."""
        return flat[self.start : self.stop].reshape(self.tensor.shape, order="F" if self.transposed else "C")


@dataclass(slots=True, eq=False)
class Flat:
    """The flat arrays of one dtype: the parameters, the optimiser's state, and two blocks of scratch memory."""

    weights: Array
    state: dict[str, Array]
    scratch: tuple[Array, Array]


@dataclass(slots=True, eq=False)
class Block:
    """A piece of a segment, small enough for the cache: views of the flat arrays."""

    start: int  # within the segment's gradient
    stop: int
    weights: Array
    state: tuple[Array, ...]
    scratch: Array
    gradient: Array  # scratch memory for the gradient


@dataclass(slots=True, eq=False)
class Segment:
    """Neighbours in a flat array that are updated together: one large parameter, or several small ones."""

    slots: tuple[Slot, ...]
    blocks: tuple[Block, ...]

    @property
    def steps(self) -> int:
        return self.slots[0].steps

    def gradient(self) -> Array:
        """The segment's gradient as a vector: a view where it is one parameter's, gathered where there are several."""
        if len(self.slots) == 1:
            return self.slots[0].flattened(self.slots[0].tensor.grad.data)  # type: ignore[union-attr]
        gradients = [s.tensor.grad.data.T if s.transposed else s.tensor.grad.data for s in self.slots]  # type: ignore[union-attr]
        return np.concatenate(gradients, axis=None, out=self.blocks[0].gradient)


class Optimizer:
    """Base of the optimisers. A subclass names its state and writes ``coefficients`` and ``update``.

    ``weight_decay`` adds ``weight_decay * w`` to every gradient, as in PyTorch: the gradient of weight_decay/2 ||w||^2
    over all parameters, biases included. For weights alone, or lambda ||W||^2, add ``nn.l2_penalty`` to the loss.

    Parameters whose gradient is None are left alone, and so is their state. A gradient is never changed.
    """

    state_names: tuple[str, ...] = ()
    decoupled = False  # whether weight decay bypasses the gradient (AdamW)

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0):
        require(lr >= 0, "lr", lr, "at least 0")
        require(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
        self.lr = lr
        self.weight_decay = float(weight_decay)
        self._slots = _pack(_checked(params), self.state_names)
        self._present: list[bool] = []
        self._segments: list[Segment] = []

    @property
    def lr(self) -> float:
        """The learning rate, a Python number; set it before a step, as a schedule does."""
        return self._lr

    @lr.setter
    def lr(self, value: SupportsFloat) -> None:
        self._lr = float(value)

    def coefficients(self, steps: int) -> dict[str, float]:
        """The Python numbers that ``update`` needs at the parameters' ``steps``-th update, counted from 1."""
        return {"lr": self.lr}

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change ``w`` and the state in place: ``update(w, g, scratch, *state, **coefficients)`` on vectors.

        ``g`` must not be changed; ``scratch`` may be overwritten. Only NumPy functions of arrays and coefficients.
        """
        raise NotImplementedError

    def step(self) -> None:
        """Update every parameter that has a gradient.

        Raises:
            DtypeError, ShapeError: a parameter or its gradient was replaced by one of another dtype or shape.
        """
        for segment in self.advance():
            self.apply(segment, segment.gradient(), self.numbers(segment.steps))

    def advance(self) -> list[Segment]:
        """Everything about a step that is not arithmetic: which parameters take part, and counting their updates."""
        present = []
        for slot in self._slots:
            tensor, view = slot.tensor, slot.view
            if tensor.data is not view:
                _adopt(slot)
                tensor.version[0] += 1
            gradient = tensor.grad
            present.append(gradient is not None)
            if gradient is not None:
                array = gradient.data
                if not isinstance(gradient, Tensor) or array.shape != view.shape or array.dtype != view.dtype:
                    raise _gradient_error(slot)
                slot.steps += 1
                tensor.version[0] += 1
        if present != self._present:
            self._present, self._segments = present, _segments(self._slots, present)
        return self._segments

    def numbers(self, steps: int) -> dict[str, float]:
        """The coefficients as Python numbers: NumPy's would bring a precision of their own."""
        return {name: float(value) for name, value in self.coefficients(steps).items()}

    def apply(self, segment: Segment, gradient: Array, coefficients: Mapping[str, float]) -> None:
        """The arithmetic of a step on one segment, whose flat gradient is ``gradient``."""
        decay = 0.0 if self.decoupled else self.weight_decay
        for block in segment.blocks:
            g = gradient[block.start : block.stop]
            if decay:
                g = np.add(np.multiply(block.weights, decay, out=block.scratch), g, out=block.gradient)
            self.update(block.weights, g, block.scratch, *block.state, **coefficients)

    def zero_grad(self) -> None:
        """Forget the gradients: each becomes None."""
        for slot in self._slots:
            slot.tensor.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to continue bit for bit, as numbers and copied arrays.

        "lr"; "steps", the number of updates of each parameter; and for each piece of state and each parameter an
        array of the parameter's shape: "velocity.0", "velocity.1", ... Other settings are the constructor's.
        """
        state: dict[str, Any] = {"lr": self.lr, "steps": np.array([slot.steps for slot in self._slots])}
        for name, array in self._state_views():
            state[name] = np.array(array, order="C")
        return state

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Take over what ``state_dict`` returned for the same parameters in the same order.

        Raises:
            CheckpointError: names are missing or unexpected, or shapes differ.
        """
        views = {"lr": np.empty(()), "steps": np.empty(len(self._slots)), **dict(self._state_views())}
        values = {name: np.asarray(value) for name, value in state.items()}
        faults = [f"missing: {name}" for name in views if name not in values]
        faults += [f"unexpected: {name}" for name in values if name not in views]
        for name in views.keys() & values.keys():
            if values[name].shape != views[name].shape:
                faults.append(f"shape: {name} is {views[name].shape} here but {values[name].shape} in the state_dict")
        if faults:
            raise CheckpointError(
                f"the state_dict does not fit this {type(self).__name__}:\n  " + "\n  ".join(sorted(faults))
                + "\nBuild the optimiser with the settings, and for the network, with which it was saved."
            )  # fmt: skip
        self.lr = values["lr"]
        for slot, steps in zip(self._slots, values["steps"], strict=True):
            slot.steps = int(steps)
        for name, view in self._state_views():
            view[...] = values[name]
        self._present = []  # step counts may differ now, so the segments may too

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, in which the parameters would be views of the flat arrays no longer."""
        own = {name: value for name, value in vars(self).items() if name not in ("_slots", "_present", "_segments")}
        return {"own": own, "params": [slot.tensor for slot in self._slots], "saved": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["own"], _segments=[])
        self._slots = _pack(state["params"], self.state_names)
        self.load_state_dict(state["saved"])

    def _state_views(self) -> Iterator[tuple[str, Array]]:
        for name in self.state_names:
            for i, slot in enumerate(self._slots):
                yield f"{name}.{i}", slot.shaped(slot.flat.state[name])

    def __repr__(self) -> str:
        numbers = {"lr": self.lr, **{name: value for name, value in vars(self).items() if not name.startswith("_")}}
        settings = ", ".join(f"{name}={value!r}" for name, value in numbers.items() if name != "state_names")
        return f"{type(self).__name__}({settings})"


def clip_grad_norm(params: Iterable[Tensor] | Tensor, max_norm: float) -> np.floating[Any]:
    """Scale all gradients by ``min(1, max_norm / (norm + 1e-6))``, so that together their norm is at most ``max_norm``.

    Returns:
        The norm before: the root of the sum of all squared entries. Pascanu et al. 2013, algorithm 1.

    Raises:
        NonFiniteError: the norm is infinite or not a number.
    """
    require(max_norm > 0, "max_norm", max_norm, "positive")
    each = dict.fromkeys([params] if isinstance(params, Tensor) else params)
    gradients = {p: p.grad.data for p in each if p.grad is not None}
    if not gradients:
        return np.float64(0)
    norm = np.linalg.norm(np.stack([np.linalg.norm(g) for g in gradients.values()]))
    if not np.isfinite(norm):
        bad = [p.name or f"parameter {i}" for i, (p, g) in enumerate(gradients.items()) if not np.isfinite(g).all()]
        raise NonFiniteError(
            f"the gradients' norm is {norm}; entries of {', '.join(bad) or 'none'} are not finite. Find the first such "
            "op with detect_anomaly(), or lower the learning rate."
        )
    scale = np.minimum(1, max_norm / (norm + 1e-6))  # without a condition, so that a compiled step has one way only
    for p, g in gradients.items():
        p.grad = Tensor(g * scale.astype(g.dtype))
    return norm


def require(valid: bool, name: str, value: Any, demand: str) -> None:
    """Raise ConfigError unless the setting is valid; a NaN fails every comparison, so it is never valid."""
    if not valid or (isinstance(value, float) and math.isinf(value)):
        raise ConfigError(f"{name} must be {demand} and finite, not {value!r}.")


# Packing --------------------------------------------------------------------------------------------------------


def _checked(params: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise ConfigError(f"an optimiser takes several Tensors, as model.parameters(), not a {type(params).__name__}.")
    tensors = list(params)
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or not tensor.is_leaf or not tensor.requires_grad:
            raise ConfigError(
                f"an optimiser changes leaf Tensors with requires_grad=True, not {tensor!r}. Pass model.parameters(), "
                "without those that are frozen."
            )
    if not tensors:
        raise ConfigError("the optimiser got no parameters. A generator is read only once: call parameters() again.")
    return list(dict.fromkeys(tensors))  # a shared parameter counts once


def _pack(tensors: list[Tensor], state_names: Sequence[str]) -> list[Slot]:
    """Move the parameters into one flat array per dtype; returns their slots in the given order."""
    slots = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        members = [tensor for tensor in tensors if tensor.dtype == dtype]
        size = sum(tensor.size for tensor in members)
        state = {name: np.zeros(size, dtype) for name in state_names}
        block = min(size, BLOCK)
        flat = Flat(np.empty(size, dtype), state, (np.empty(block, dtype), np.empty(block, dtype)))
        start = 0
        for tensor in members:
            flags = tensor.data.flags
            transposed = flags.f_contiguous and not flags.c_contiguous
            slot = Slot(tensor, tensor.data, flat, start, start + tensor.size, transposed)
            slot.view = slot.shaped(flat.weights)
            _adopt(slot)
            slots[tensor] = slot
            start += tensor.size
    return [slots[tensor] for tensor in tensors]


def _adopt(slot: Slot) -> None:
    """Bring the value of ``tensor.data`` into the flat array, and make ``tensor.data`` the view of it again."""
    data = slot.tensor.data
    name = slot.tensor.name or "a parameter"
    if data.dtype != slot.view.dtype:
        raise DtypeError(f"{name} became {data.dtype}; its optimiser holds {slot.view.dtype}. Call model.astype before "
                         "you build the optimiser, or build a new one.")  # fmt: skip
    if data.shape != slot.view.shape:
        raise ShapeError(f"{name} became {data.shape}; its optimiser holds {slot.view.shape}. Build a new optimiser.")
    slot.view[...] = data
    slot.tensor.data = slot.view


def _gradient_error(slot: Slot) -> Exception:
    name, gradient = slot.tensor.name or "a parameter", slot.tensor.grad
    error = ShapeError if gradient.shape != slot.view.shape else DtypeError  # type: ignore[union-attr]
    return error(
        f"{name} is {slot.view.shape} {slot.view.dtype}, but its gradient {describe(gradient)}. A gradient that you "
        "set by hand is a Tensor of the parameter's shape and dtype: p.grad = Tensor(g)."
    )


# Cutting --------------------------------------------------------------------------------------------------------


def _segments(slots: Sequence[Slot], present: Sequence[bool]) -> list[Segment]:
    """The parameters with a gradient as segments: neighbours with equally many updates, up to BLOCK elements."""
    segments = []
    live = sorted((s for s, has in zip(slots, present, strict=True) if has), key=lambda s: (id(s.flat), s.start))
    run: list[Slot] = []
    for slot in live:
        joins = (
            run
            and slot.flat is run[-1].flat
            and slot.start == run[-1].stop
            and slot.steps == run[-1].steps
            and slot.stop - run[0].start <= BLOCK
        )
        if run and not joins:
            segments.append(_segment(run))
            run = []
        run.append(slot)
    return [*segments, _segment(run)] if run else []


def _segment(slots: Sequence[Slot]) -> Segment:
    flat, start, size = slots[0].flat, slots[0].start, slots[-1].stop - slots[0].start
    count = max(1, math.ceil(size / BLOCK))
    cuts = [size * i // count for i in range(count + 1)]
    blocks = []
    for a, b in itertools.pairwise(cuts):
        piece = slice(start + a, start + b)
        state = tuple(array[piece] for array in flat.state.values())
        scratch, gradient = (buffer[: b - a] for buffer in flat.scratch)
        blocks.append(Block(a, b, flat.weights[piece], state, scratch, gradient))
    return Segment(tuple(slots), tuple(blocks))
