"""Tensor: an array that remembers how it was made.

``Tensor`` holds a NumPy array; ``Op`` is a function on arrays together with its gradient rule; ``Node`` is one
recorded call of an op. Calling an op computes on the arrays and, where an input wants a gradient, leaves a node
behind. The nodes form the graph that ``engine.py`` walks backward.

What one can write with a Tensor (operators, methods, NumPy's functions) stands in ``operators.py``, which looks ops
up in the registry ``OPS``. The files of ``ops/`` fill it, so ops import Tensor and never the other way round.
"""

import contextlib
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinygrad_cifar.errors import DtypeError, GraphError, ShapeError
from tinygrad_cifar.operands import (
    PLAIN,
    argument,
    check_finite,
    check_list,
    check_precision,
    describe,
    explained,
    harmonised,
)
from tinygrad_cifar.operators import NUMPY, OPS, Operand, Operators, unwrap

Array = NDArray[Any]

ENGINE: dict[str, Callable[..., Any]] = {}  # filled by engine.py, which stands above this file

UNCOUNTED = [0]  # the version of a saved operand that is no Tensor: nobody counts its changes

_order = itertools.count()
_new = object.__new__
_NUMBERS = {bool, int, float}  # Python's numbers take the dtype of the array beside them


class _Modes(threading.local):
    recording = True  # each thread has its own: one may evaluate while another one trains
    detecting = 0  # how many detect_anomaly blocks are open, in all threads: set on the class, where it is read sooner

    def __init__(self) -> None:
        self.outside: list[bool] = []  # whether it recorded around each open block of no_grad or enable_grad


_Mode = _Modes()


class _Recording(contextlib.ContextDecorator):
    def __init__(self, value: bool):
        self.value = value

    def __enter__(self) -> None:
        _Mode.outside.append(_Mode.recording)
        _Mode.recording = self.value

    def __exit__(self, *error: object) -> None:
        _Mode.recording = _Mode.outside.pop()


def no_grad() -> _Recording:
    """``with no_grad():`` computes without recording a graph, as for evaluation or a hand-written update.

    Like ``enable_grad`` it is for the thread that enters it: others record on. ``@no_grad()`` does a whole function so.
    """
    return _Recording(False)


def enable_grad() -> _Recording:
    """``with enable_grad():`` records again inside a ``no_grad`` block."""
    return _Recording(True)


@contextlib.contextmanager
def detect_anomaly() -> Iterator[None]:
    """``with detect_anomaly():`` raises NonFiniteError at the first op or rule that yields inf or nan. Slower."""
    _Modes.detecting += 1
    try:
        yield
    finally:
        _Modes.detecting -= 1


def is_recording() -> bool:
    """Whether ops leave nodes behind at this moment."""
    return _Mode.recording


class Spec:
    """The shape and dtype that stand in for a value which the gradient rule does not need."""

    __slots__ = ("dtype", "ndim", "shape")

    def __init__(self, array: Array):
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim


class Node:
    """One recorded call of an op: what made a tensor, and what its gradient rule needs."""

    op: "Op"
    order: int  # creation number: parents always have a smaller one, so it orders the walk
    parents: tuple["Node | Tensor | None", ...]  # per input: its node, the leaf itself, or None: wants no gradient
    saved: tuple[Any, ...] | None  # per input: its array, or what has its shape and dtype; None once freed
    out: Any = None  # the result's array, where the rule needs it
    kept: Any = None  # what an op with keeps=True handed to its rule
    kwargs: dict[str, Any]
    counters: list[list[int]]  # the version counters of what is saved: of each saved input, then of the result
    expected: int  # the sum of those counters when it was saved
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    hooks: list[Callable[["Tensor"], "Tensor | None"]] | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)


class Op:
    """A differentiable function: its forward on plain arrays, and its gradient rule.

    Positional arguments are the differentiable inputs; keyword arguments are everything else (axes, labels, masks).
    The rule is ``rule(g, out, *inputs, **kwargs)`` with ``g`` the gradient that arrives from above. It returns, per
    input, the gradient, a function without arguments that computes it (called only when somebody wants it), or None.
    It is written in NumPy expressions, so handed Tensors it records a graph and can be differentiated again.
    Broadcasting needs no thought in a rule: the walk undoes it.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        saves: str | None = None,
        keeps: bool = False,
        view: bool = False,
        twin: Callable[..., "Tensor"] | None = None,
        custom: bool = False,
    ):
        self.name = forward.__name__.rstrip("_")
        self.forward = forward
        self.keeps, self.view, self.twin, self.custom = keeps, view, twin, custom
        self.rule: Callable[..., Any] | None = None
        self.__doc__ = forward.__doc__
        self.__name__ = forward.__name__
        self.__wrapped__ = forward
        self._declare(saves)

    def _declare(self, saves: str | None) -> None:
        """``saves`` names the inputs (and "out") whose values the rule needs; None means all of them."""
        parameters = inspect.signature(self.forward).parameters.values()
        inputs = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in inputs)
        self.inputs = tuple(p.name for p in inputs)
        names = {*self.inputs, "out"} if saves is None else set(saves.split())
        if unknown := names - {*self.inputs, "out"}:
            raise TypeError(f"op {self.name}: saves names {sorted(unknown)}, but its inputs are {self.inputs}")
        self.saves = tuple(name in names for name in self.inputs)
        self.each_saved = itertools.repeat(self.saves[0]) if self.variadic else self.saves
        self.saves_out = "out" in names and not (self.keeps or self.twin)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def gradient(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: ``rule`` is this op's gradient rule."""
        self.rule = rule
        return rule

    def __call__(self, *inputs: Any, **kwargs: Any) -> "Tensor":
        """Compute; record a node where an input requires a gradient.

        Raises:
            DtypeError: float operands of different precision meet.
            ShapeError: the forward cannot combine these shapes.
        """
        arrays: list[Any] = []
        dtype = None
        recorded = False
        for x in inputs:
            if isinstance(x, Tensor):
                array = x.data
                recorded = recorded or x.requires_grad
                if dtype is None:
                    dtype = array.dtype
                if array.dtype is dtype:
                    arrays.append(array)
                    continue
            elif type(x) in _NUMBERS:
                arrays.append(x)
                continue
            arrays = harmonised(self, inputs)
            recorded = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
            break
        for value in kwargs.values():
            if type(value) not in PLAIN:
                kwargs = {name: argument(self, name, value) for name, value in kwargs.items()}
                break
        try:
            out = self.forward(*arrays, **kwargs)
        except (ValueError, TypeError) as error:
            raise explained(self, inputs, arrays, error) from error
        kept = None
        if self.keeps:
            out, kept = out
        if not isinstance(out, np.ndarray):
            out = np.asarray(out)
        if out.dtype is not dtype:
            check_precision(self, arrays, out)
        if _Modes.detecting:
            check_finite(self, inputs, arrays, out)
        result = _wrap(out)
        if self.view:
            for x in inputs:
                if isinstance(x, Tensor) and np.may_share_memory(out, x.data):
                    result.version, result.is_view = x.version, True
        if recorded and _Mode.recording:
            _record(self, inputs, arrays, result, kept, kwargs)
        return result

    def on(self, *inputs: Any, **kwargs: Any) -> Any:
        """Arrays in, array out; Tensors in, Tensor out: for rules, where NumPy itself has no such function."""
        if any(isinstance(x, Tensor) for x in inputs):
            return self(*inputs, **kwargs)
        return self.forward(*inputs, **kwargs)


def op(*, numpy: Callable[..., Any] | None = None, **declared: Any) -> Callable[[Callable[..., Any]], Op]:
    """Decorator that makes an array function an op of the registry, and the meaning of ``numpy`` on Tensors."""

    def register(forward: Callable[..., Any]) -> Op:
        made = Op(forward, **declared)
        OPS[made.name] = made
        if numpy is not None:
            NUMPY[numpy] = made
        return made

    return register


def custom_op(forward: Callable[..., Any]) -> Op:
    """Decorator for a user's own op: the forward on plain arrays; ``@name.gradient`` then takes its rule.

    Examples:
        >>> @custom_op
        ... def cube(x): return x ** 3
        >>> @cube.gradient
        ... def cube_gradient(g, out, x): return (3 * g * x ** 2,)
    """
    return Op(forward, custom=True, view=True)  # it may return a view, or its input as it is


def implements(numpy: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function is what ``numpy`` does on Tensors."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        NUMPY[numpy] = function
        return function

    return register


def _record(
    op: Op, inputs: tuple[Any, ...], arrays: list[Any], result: "Tensor", kept: Any, kwargs: dict[str, Any]
) -> None:
    parents: list[Node | Tensor | None] = []
    counters: list[list[int]] = []
    values: list[Any] = []
    expected = 0
    for x, array, save in zip(inputs, arrays, op.each_saved, strict=False):
        parent, counter = None, UNCOUNTED
        if isinstance(x, Tensor):
            counter = x.version
            if x.requires_grad:
                parent = x.node or x
        parents.append(parent)
        if save:
            counters.append(counter)
            expected += counter[0]
            values.append(array)
        else:
            values.append(parent if type(parent) is Node else array if type(array) in _NUMBERS else Spec(array))
    node = Node()
    node.op, node.kwargs, node.kept = op, kwargs, kept
    node.order = next(_order)
    node.shape, node.dtype = result.data.shape, result.data.dtype
    if op.saves_out:
        node.out = result.data
        counters.append(result.version)
        expected += result.version[0]
    node.saved, node.parents, node.counters, node.expected = tuple(values), tuple(parents), counters, expected
    result.node = node
    result.requires_grad = True


def _wrap(array: Array) -> "Tensor":
    t: Tensor = _new(Tensor)
    t.data = array
    t.version = [0]
    return t


class Tensor(Operators):
    """An n-dimensional array that can record the computation that made it.

    Args:
        data: an ndarray (wrapped without copying), a number, a nested list, or another Tensor (its array is shared).
        requires_grad: whether ``backward`` shall leave this tensor's gradient in ``.grad``.
        dtype: converts; by default NumPy's rule holds (Python floats are float64).

    Raises:
        DtypeError: a gradient is wanted of something that is not floating-point.
        UnsupportedError: a list holds Tensors that require a gradient; ``np.stack`` keeps their graphs.
    """

    data: Array
    version: list[int]  # one count of in-place changes, shared by all tensors that share the memory
    is_view: bool = False  # an op made it of another tensor's memory
    requires_grad: bool = False
    grad: "Tensor | None" = None  # leaves only: backward adds to it
    node: Node | None = None  # what made it; None for a leaf
    name: str | None = None
    hooks: list[Callable[["Tensor"], "Tensor | None"]] | None = None

    def __init__(self, data: Operand, requires_grad: bool = False, dtype: DTypeLike | None = None):
        check_list(data)
        self.version = data.version if isinstance(data, Tensor) else [0]
        self.data = np.asarray(unwrap(data), dtype)
        self.requires_grad = requires_grad
        if self.data.dtype.kind not in "fiub":
            raise DtypeError(f"a Tensor holds floats, integers or booleans, not {self.data.dtype}.")
        if requires_grad and self.data.dtype.kind != "f":
            raise DtypeError(f"only floating-point tensors have gradients, not {self.data.dtype}; pass dtype=float.")

    _like = staticmethod(_wrap)

    # What it is -----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made it: parameters, inputs, and everything computed under ``no_grad``."""
        return self.node is None

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        text = np.array2string(self.data, separator=", ", prefix="Tensor(")
        extra = "" if self.dtype == np.float64 else f", dtype={self.dtype}"
        if self.node is not None:
            extra += f", op={self.node.op.name}"
        elif self.requires_grad:
            extra += ", requires_grad=True"
        return f"Tensor({text}{extra})"

    # Out of the graph -----------------------------------------------------------------------------------------

    def numpy(self) -> Array:
        """The array itself, not a copy. Changing it in place is not counted: write through the Tensor instead."""
        return self.data

    def item(self) -> Any:
        """The only element, as a Python number."""
        return self.data.item()

    def tolist(self) -> Any:
        return self.data.tolist()

    def detach(self) -> "Tensor":
        """The same memory as a leaf without history that wants no gradient."""
        return Tensor(self)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.data, dtype, copy=copy)

    def __format__(self, spec: str) -> str:
        """``f"{loss:.4f}"`` formats the number; without a spec, and for more than a number, it is ``str``."""
        return format(self.data[()], spec) if spec and self.ndim == 0 else format(str(self), spec)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __int__(self) -> int:
        return int(self.data)

    def __index__(self) -> int:
        return self.data.__index__()

    # Gradients ------------------------------------------------------------------------------------------------

    def backward(self, gradient: Operand | None = None, create_graph: bool = False, retain_graph: bool = False) -> None:
        """Add the gradient of this tensor to ``.grad`` of every leaf that requires one. See ``engine.backward``."""
        ENGINE["backward"](self, gradient, create_graph=create_graph, retain_graph=retain_graph)

    def register_hook(self, hook: Callable[["Tensor"], "Tensor | None"]) -> Callable[[], None]:
        """Call ``hook(gradient)`` once this tensor's whole gradient is known; a returned Tensor replaces it.

        Returns a function that removes the hook.
        """
        if not self.requires_grad:
            raise GraphError("a hook needs a tensor that requires a gradient; this one never gets any.")
        owner = self.node or self
        if owner.hooks is None:
            owner.hooks = []
        hooks = owner.hooks
        hooks.append(hook)
        return lambda: hooks.remove(hook)

    # In-place changes -----------------------------------------------------------------------------------------

    def __setitem__(self, index: Any, value: Operand) -> None:
        if self.is_view and self._recorded(value):
            raise GraphError(
                f"{describe(self)} is a view: inside the graph what is written to it would not reach the tensor it "
                "views. Write to that tensor (t[0, 1] = v, not t[0][1] = v), or to a clone: t.clone()."
            )
        self._write(OPS["setitem"], value, index=unwrap(index, copy=True))

    def __iadd__(self, other: Operand) -> Self:
        return self._write(OPS["add"], other)

    def __isub__(self, other: Operand) -> Self:
        return self._write(OPS["subtract"], other)

    def __imul__(self, other: Operand) -> Self:
        return self._write(OPS["multiply"], other)

    def __itruediv__(self, other: Operand) -> Self:
        return self._write(OPS["divide"], other)

    def _recorded(self, value: Operand) -> bool:
        """Whether writing ``value`` into this tensor is part of a graph."""
        return _Mode.recording and (self.requires_grad or (isinstance(value, Tensor) and value.requires_grad))

    def _write(self, op: Op, value: Operand, **kwargs: Any) -> Self:
        """Become ``op(self, value)``.

        Outside the graph the memory changes, and is counted. Inside it the tensor takes on a new array and a new
        node, and the values that others saved stay what they were.
        """
        recorded = self._recorded(value)
        if recorded and self.requires_grad and self.is_leaf:
            raise GraphError(
                f"{describe(self)} is a leaf that requires a gradient: changing it in place would cut it from its "
                "own gradient. Change it inside `with no_grad():`, or write `u = t.clone()` and change u."
            )
        result = op(self, value, **kwargs)
        if result.shape != self.shape or result.dtype != self.dtype:
            wrong = ShapeError if result.shape != self.shape else DtypeError
            raise wrong(
                f"an in-place {op.name} cannot turn {self.shape} {self.dtype} into {result.shape} {result.dtype}."
            )
        if recorded:
            self.data, self.node, self.version = result.data, result.node, [0]
            self.requires_grad, self.is_view = True, False
        else:
            np.copyto(self.data, result.data)
            self.version[0] += 1
        return self
