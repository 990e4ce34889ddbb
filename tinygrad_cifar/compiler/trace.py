"""Recording: run a step for real, and write down every array operation that it makes.

Two ideas. First, arrays are told apart by their *memory*: whatever view of it a program makes, by ``x.T``, a slice,
``np.asarray`` or a reshape, an operand is found to be such a piece of such a ``Root``. So views are not operations.
Second, an operation is seen because one of its operands is ``Traced``, an ndarray that reports what is done with it.
"""

import operator
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.lib.mixins import NDArrayOperatorsMixin

from tinygrad_cifar.errors import CompileError
from tinygrad_cifar.operators import Operators
from tinygrad_cifar.tensor import Array


class Root:
    """A piece of memory.

    ``kind`` says where it comes from at a replay: "planned" is a buffer of the program; "bound" is the result of a
    function that takes no ``out=``; "argument" is one of the step's; "outside" is memory that stays where it is, such
    as a parameter; "constant" was made by the step and is the same at each call.
    """

    __slots__ = ("array", "kind", "name", "snapshot", "start", "stop")

    def __init__(self, array: Array, kind: str, name: str = ""):
        self.array, self.kind, self.name = array, kind, name
        self.start, self.stop = byte_bounds(array)
        self.snapshot: Array | None = None


class View(NamedTuple):
    """A piece of a root: how an operand lies in memory."""

    root: Root
    offset: int  # in bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


class _Window:
    def __init__(self, view: View, owner: Array):
        self.owner = owner  # stays alive as long as the array does
        address = owner.__array_interface__["data"][0] + view.offset
        self.__array_interface__ = {
            "data": (address, not owner.flags.writeable), "shape": view.shape, "strides": view.strides,
            "typestr": view.dtype.str, "version": 3,
        }  # fmt: skip


def window(view: View, owner: Array | None = None) -> Array:
    """The array that a view describes, in the memory of its root or of another owner."""
    return np.asarray(_Window(view, view.root.array if owner is None else owner))


class Scalar(NamedTuple):
    """A Python number that a replay looks up again: ``key`` says where, as the optimiser's step size."""

    key: Any


class Instruction:
    """One array operation: ``out = function(*operands, **kwargs)``."""

    __slots__ = ("_reads", "effect", "function", "kwargs", "line", "operands", "out", "written")

    def __init__(self, function: Any, operands: tuple[Any, ...], kwargs: dict[str, Any], line: str):
        self.function, self.line = function, line
        self.rewire(operands, kwargs)
        self.out: View | None = None  # where the result goes: by out=, or where its root is "bound", by assignment
        self.written: tuple[View, ...] = ()  # the operands that the function itself changes
        # "draw": random numbers; ("guard", truth): the operand has that truth; ("python", f): f writes what to run
        self.effect: Any = None

    def rewire(self, operands: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take other operands."""
        self.operands, self.kwargs = operands, kwargs
        self._reads = views([*operands, *kwargs.values()])

    def reads(self) -> list[View]:
        return self._reads

    def writes(self) -> list[View]:
        return [self.out, *self.written] if self.out else list(self.written)


def views(nested: Any) -> list[View]:
    """All views in nested operands."""
    found: list[View] = []
    for x in nested:
        if type(x) is View:
            found.append(x)
        elif type(x) is list or type(x) is tuple:
            found += views(x)
    return found


class Number(NDArrayOperatorsMixin):
    """A float that may change between calls, as the learning rate. As an operand of an array it is recorded by name.

    Python code that looks at its value (``if lr > 0.1``, ``math.sqrt(lr)``) pins it: the program then holds for this
    value only.
    """

    def __init__(self, value: float, key: Any, tracer: "Tracer"):
        self.value, self.key, self.tracer = value, key, tracer

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, Operators) for x in inputs):
            return NotImplemented
        if any(isinstance(x, np.ndarray) for x in inputs):
            return self.tracer.call(ufunc if method == "__call__" else getattr(ufunc, method), inputs, kwargs)
        return getattr(ufunc, method)(*[float(x) if isinstance(x, Number) else x for x in inputs], **kwargs).item()

    def __float__(self) -> float:
        self.tracer.pinned[self.key] = self.value
        return self.value

    def __bool__(self) -> bool:
        return bool(float(self))


class Traced(np.ndarray[Any, Any]):
    """An array that reports to the tracer what is done with it. Outside a recording it is an array like any other."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, Operators) for x in (*inputs, *kwargs.get("out", ()))):
            return NotImplemented
        return _call(ufunc if method == "__call__" else getattr(ufunc, method), inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if any(issubclass(t, Operators) for t in types):
            return NotImplemented
        if function in _DECOMPOSED:
            return super().__array_function__(function, types, args, kwargs)
        return _call(function, args, kwargs)

    def __getitem__(self, index: Any) -> Any:
        return _call(operator.getitem, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        _call(operator.setitem, (self, index, value), {})

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return _tracer.guard(self) if _tracer else bool(_plain(self))

    def copy(self, order: Any = "C") -> Any:
        return _call(_copy, (self,), {"order": order})

    def astype(self, dtype: Any, order: Any = "K", *_: Any, copy: bool = True) -> Any:  # type: ignore[override]
        if not copy and self.dtype == dtype:
            return self
        return _call(_copy, (self,), {"order": order, "dtype": np.dtype(dtype)})

    def reshape(self, *shape: Any, **kwargs: Any) -> Any:
        return _call(np.ndarray.reshape, (self, *shape), kwargs)

    def fill(self, value: Any) -> None:
        self[...] = value


def _copy(x: Array, order: Any = "C", dtype: Any = None) -> Array:
    return np.array(x, dtype, order=order, copy=True)


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def method(self: Traced, *args: Any, **kwargs: Any) -> Any:
        return _call(function, (self, *args), kwargs)

    method.__name__ = name
    return method


def _refused(name: str, why: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def method(self: Traced, *args: Any, **kwargs: Any) -> Any:
        if _tracer:
            _tracer.refuse(f"{name} {why}")
        return function(_plain(self), *args, **kwargs)

    method.__name__ = name
    return method


_LEAVES = (
    "takes a value out of the arrays while the step is recorded, and a replay would repeat today's value. Return it "
    "from the step as an array or Tensor and read it there, or leave the step uncompiled."
)
_REORDERS = "changes an array in a way that is not recorded. Use a NumPy function that returns a new array."

for _name in ("argmax", "argmin", "argsort", "take", "dot", "flatten", "ravel", "nonzero", "repeat", "choose",
              "compress", "trace", "searchsorted", "conj", "conjugate", "diagonal", "argpartition"):  # fmt: skip
    setattr(Traced, _name, _method(_name))
for _name in ("item", "tolist", "tobytes", "__float__", "__int__", "__index__", "__complex__", "__contains__"):
    setattr(Traced, _name, _refused(_name, _LEAVES))
for _name in ("sort", "partition", "put", "resize", "byteswap", "setfield"):
    setattr(Traced, _name, _refused(_name, _REORDERS))

# NumPy functions written in Python whose parts are recorded in their place; others are one instruction each.
_DECOMPOSED = {
    np.sum, np.mean, np.var, np.std, np.max, np.min, np.amax, np.amin, np.prod, np.any, np.all, np.clip, np.round,
    np.cumsum,
}  # fmt: skip
_ABOUT_SHAPE = {np.shape, np.ndim, np.size, np.may_share_memory, np.shares_memory, np.result_type, np.can_cast,
                np.iscomplexobj, np.isrealobj, np.broadcast_shapes}  # fmt: skip
_WRITERS = {np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal}
TAKES_OUT = {np.concatenate, np.matmul, _copy}


def takes_out(function: Any, result: Array) -> bool:
    """Whether the result can be written into a ready buffer."""
    if result.dtype.hasobject or not _compact(result):
        return False
    if isinstance(function, np.ufunc):
        return function.nout == 1
    owner = getattr(function, "__self__", None)
    return function in TAKES_OUT or (isinstance(owner, np.ufunc) and function.__name__ in ("reduce", "accumulate"))


_tracer: "Tracer | None" = None  # the one at work


def at_work() -> bool:
    """Whether a step is being recorded."""
    return _tracer is not None


def _call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if _tracer is None:
        return function(*_plain(args), **_plain(kwargs))
    return _tracer.call(function, args, kwargs)


def _plain(x: Any) -> Any:
    """Without the tracer's classes."""
    kind = type(x)
    if kind is Traced:
        return x.view(np.ndarray)
    if kind is Number:
        return x.value
    if kind is tuple or kind is list:
        return kind([_plain(i) for i in x])
    return {k: _plain(v) for k, v in x.items()} if kind is dict else x


_INSIDE = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep, os.path.dirname(np.__file__) + os.sep)


def where() -> str:
    """The line of the user's code that is at work: the innermost one outside of this package and NumPy."""
    frame: Any = sys._getframe(1)
    while frame.f_back and (frame.f_code.co_filename.startswith(_INSIDE) or frame.f_code.co_filename[0] == "<"):
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


class Tracer:
    """What one run of the step did."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self.roots: list[Root] = []  # by address
        self.starts: list[int] = []
        self.pinned: dict[Any, float] = {}  # numbers that Python code looked at
        self.refusal = ""  # the first thing that a replay could not do

    def __enter__(self) -> None:
        global _tracer
        if _tracer is not None:
            raise CompileError("a compiled step was called inside another one while that is recorded; compile one.")
        _tracer = self

    def __exit__(self, *_: object) -> None:
        global _tracer
        _tracer = None

    def refuse(self, reason: str) -> None:
        """The step runs on, so that an error of its own comes first, but it gives no program."""
        self.refusal = self.refusal or f"{where()}: {reason}"

    # Memory ---------------------------------------------------------------------------------------------------

    def add(self, array: Array, kind: str, name: str = "") -> Root:
        root = Root(array, kind, name)
        i = bisect_right(self.starts, root.start)
        self.starts.insert(i, root.start)
        self.roots.insert(i, root)
        return root

    def traced(self, array: Array, kind: str, name: str = "") -> Traced:
        """``array`` as a Traced one, its memory known as ``kind`` from now on."""
        if self.find(array) is None:
            self.add(array if kind != "outside" else _owner(array), kind, name)
        return array.view(Traced)

    def find(self, array: Array) -> Root | None:
        address = array.__array_interface__["data"][0]
        i = bisect_right(self.starts, address) - 1
        return self.roots[i] if i >= 0 and address < max(self.roots[i].stop, self.starts[i] + 1) else None

    def view(self, array: Array) -> View:
        """Which piece of which memory an operand is."""
        root = self.find(array)
        if root is not None and root.kind == "gradient":
            self.refuse(
                "the step adds to the gradients that were there before it. Clear them at its beginning, "
                "optimizer.zero_grad() or model.zero_grad(), and add up inside one step."
            )
        if root is None:
            if type(array) is Traced:
                self.refuse(
                    "an array came out of a NumPy function that hides its work from the recording. Use "
                    "functions of whole arrays, or leave the step uncompiled."
                )
            root = self.add(_owner(array), "outside")
            root.snapshot = root.array.copy(order="K")
        offset = array.__array_interface__["data"][0] - root.start
        return View(root, offset, array.shape, array.strides, array.dtype)

    # Operations -----------------------------------------------------------------------------------------------

    def encode(self, x: Any) -> Any:
        """An operand as it is recorded."""
        kind = type(x)
        if kind is Number:
            return Scalar(x.key)
        if isinstance(x, np.ndarray):
            return self.view(x)
        if kind is tuple or kind is list:
            return kind([self.encode(i) for i in x])
        return np.asarray(x) if isinstance(x, np.generic) else x

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do it, and write it down. The result's memory tells what happened: a view is no operation."""
        if function in _ABOUT_SHAPE:
            return function(*_plain(args), **_plain(kwargs))
        if function in _WRITERS:
            self.refuse(f"np.{function.__name__} {_REORDERS}")
        out = kwargs.get("out")
        out = out[0] if isinstance(out, tuple) else out
        instruction = Instruction(
            function, self.encode(args), {k: self.encode(v) for k, v in kwargs.items() if _says(k, v)}, where()
        )
        if out is not None:
            instruction.out = self._first_written(out, instruction)
        result = function(*_plain(args), **_plain(kwargs))
        if out is not None:
            self.instructions.append(instruction)
            return out
        if changes := _changes(function):
            instruction.written = tuple(instruction.operands[i] for i in changes)
            self.instructions.append(instruction)
            return None
        if function is operator.getitem and isinstance(result, np.generic):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            result = _plain(args[0])[(*_plain(index), ...)]
        if not isinstance(result, np.ndarray | np.generic):
            several = isinstance(result, tuple | list)
            name = getattr(function, "__name__", str(function))
            self.refuse(f"{name} {'returns several arrays, which is not recorded.' if several else _LEAVES}")
            return result
        result = np.asarray(result)
        if self.find(result) is None or not result.size:
            root = self.add(result, "planned" if takes_out(function, result) else "bound")
            instruction.out = View(root, 0, result.shape, result.strides, result.dtype)
            self.instructions.append(instruction)
        return result.view(Traced)

    def _first_written(self, out: Array, instruction: Instruction) -> View:
        """Memory that the step made itself and that this operation fills as a whole is a buffer like any other."""
        if self.find(out) is None and _owner(out).nbytes == out.nbytes and "where" not in instruction.kwargs:
            self.add(_owner(out), "planned")
        return self.view(out)

    def guard(self, condition: Array) -> bool:
        truth = bool(_plain(condition))
        instruction = Instruction(bool, (self.view(condition),), {}, where())
        instruction.effect = ("guard", truth)
        self.instructions.append(instruction)
        return truth


def _changes(function: Any) -> tuple[int, ...]:
    """Which of its arguments a function changes in place, and returns nothing; one that is not NumPy's says so."""
    if function is operator.setitem or function is np.copyto or getattr(function, "__name__", "") == "at":
        return (0,)
    changes: tuple[int, ...] = getattr(function, "changes", ())
    return changes


def _says(name: str, value: Any) -> bool:
    """Whether a keyword argument is other than NumPy's default, and no matter of buffers."""
    return name != "out" and not (name == "dtype" and value is None) and not (name == "where" and value is True)


def _owner(array: Array) -> Array:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _compact(array: Array) -> bool:
    start, stop = byte_bounds(array)
    return stop - start == array.nbytes


class Draws:
    """A random generator whose draws are recorded as draws: a replay takes the next ones from the same stream."""

    def __init__(self, generator: np.random.Generator, stream: str, tracer: Tracer):
        self._generator, self._stream, self._tracer = generator, stream, tracer

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._generator, name)
        if not callable(method):
            return method

        def draw(*args: Any, **kwargs: Any) -> Any:
            array = np.asarray(method(*args, **kwargs))
            instruction = Instruction((self._stream, name), args, kwargs, where())
            root = self._tracer.add(array, "planned" if name in DRAWS_INTO and _sized(args, kwargs) else "bound")
            instruction.out = self._tracer.view(array)
            instruction.effect = "draw"
            self._tracer.instructions.append(instruction)
            return root.array.view(Traced)

        return draw


DRAWS_INTO = {"random", "standard_normal"}  # methods (size, dtype) that also take out=


def _sized(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return len(args) <= 2 and kwargs.keys() <= {"size", "dtype"}
