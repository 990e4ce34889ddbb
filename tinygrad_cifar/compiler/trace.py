"""Tracing: run a step for real, and write down every array operation that it makes.

Two ideas. First, arrays are told apart by their *memory*: whatever view of it a program makes, by ``x.T``, a slice,
``np.asarray`` or a reshape, an operand is found to be such a piece of such a ``Root``. So views are not operations.
Second, an operation is seen because one of its operands is ``Traced``, an ndarray that reports what is done with it.
Roots are numbered as they appear, so what two runs wrote down is equal where they did the same.
"""

import functools
import operator
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cifar import random
from tinygrad_cifar.errors import CompileError
from tinygrad_cifar.operators import Operators
from tinygrad_cifar.tensor import _NUMBERS, Array


class View(NamedTuple):
    """An operand: a piece of a root."""

    root: int
    offset: int  # in bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


class Scalar(NamedTuple):
    """An operand: a Python number, as the code that gives it at a replay."""

    code: str
    kind: type | None = None  # of a number that is always the same; None for an input, as a learning rate


class Call(NamedTuple):
    """An operand that a replay makes anew: ``make(*parts)``, as a list, a slice, a returned Tensor."""

    make: Callable[..., Any]
    parts: tuple[Any, ...]


class Operation(NamedTuple):
    """``function(*operands, **kwargs)``."""

    function: Any
    operands: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    how: Any  # "out": writes[0] takes the result; "inside": writes are operands; a bool: a guard of that truth; "end"
    writes: tuple[View, ...]
    reads: tuple[View, ...]
    line: str  # of the user's code; the last field, which is not compared


def operation(function: Any, operands: Any, kwargs: Any, how: Any, writes: tuple[View, ...], line: str) -> Operation:
    return Operation(function, operands, kwargs, how, writes, tuple(views(kwargs, views(operands, []))), line)


def views(nested: Any, found: list[View]) -> list[View]:
    """The views among nested operands, appended to those found before."""
    for x in nested:
        if type(x) is View:
            found.append(x)
        elif type(x) is tuple or type(x) is Call:
            views(x, found)
    return found


class Root:
    """A piece of memory.

    ``kind`` says where it comes from at a replay: "planned" is a piece of the program's arena; "own" is the program's,
    too, but cannot lie there; "argument" is one of the step's; "outside" is memory that stays where it is, such as a
    parameter; "constant" was made by the step and is the same at each call.
    """

    def __init__(self, array: Array, kind: str, name: str):
        self.array, self.kind, self.name = array, kind, name
        self.snapshot: Array | None = None  # what was there first, where nobody knows who made it
        self.left: Array | None = None  # what the operations left there, where others may write as well

    @functools.cached_property
    def address(self) -> int:
        return _address(self.array)

    @property
    def temporary(self) -> bool:
        """Whether the program itself makes the memory, so that nobody else sees it."""
        return self.kind in ("planned", "own", "constant")


def piece(view: View, memory: Array, start: int = 0) -> Array:
    """The array that a view describes, in the memory of its root, or ``start`` bytes into another one."""
    if view[1:] == (0, memory.shape, memory.strides, memory.dtype):
        return memory
    return np.ndarray(view.shape, view.dtype, memory.transpose(axes(memory)), start + view.offset, view.strides)


def axes(memory: Array) -> tuple[int, ...]:
    """The order of its axes in which an array is C-contiguous."""
    found = tuple(sorted(range(memory.ndim), key=lambda axis: -memory.strides[axis]))
    if not memory.transpose(found).flags.c_contiguous:
        raise CompileError("the step takes pieces of an array that is not contiguous; pass a contiguous one.")
    return found


class Number:
    """A float that may change between calls, as the learning rate. In array operations it is recorded by its name.

    Arithmetic with other numbers gives a Number, too, which a replay computes anew. Python code that looks at a value
    (``if lr > 0.1``, ``math.sqrt(lr)``) ties the program to what it saw.
    """

    __class__ = property(lambda self: float)  # so that isinstance(lr, float) is as true as outside
    __float__: Callable[[], float]

    def __init__(self, value: float, code: str):
        self.value, self.code = value, code

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, Operators) for x in inputs):
            return NotImplemented
        return _call(ufunc if method == "__call__" else getattr(ufunc, method), inputs, kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(float(self), dtype)

    def __hash__(self) -> int:
        return hash(float(self))

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __repr__(self) -> str:
        return repr(self.value)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other


def _method_of_number(function: Callable[..., Any], code: str, seen: bool = False) -> Callable[..., Any]:
    """``function`` of a Number and others: ``code`` of their names; ``seen`` where Python gets to know the result."""

    def method(self: Number, *others: Any) -> Any:
        if any(type(x) not in _NUMBERS for x in others):
            return NotImplemented
        value, tracer = function(*_plain((self, *others))), _here()
        if tracer is None:
            return value
        names = [x.code if type(x) is Number else repr(x) for x in (self, *others)]
        told = code.format(*names, all=", ".join(names))
        return tracer.see(told, value) if seen else tracer.compute(told, value)

    return method


for _name, _sign in [("add", "+"), ("sub", "-"), ("mul", "*"), ("truediv", "/"), ("floordiv", "//"), ("mod", "%"),
                     ("pow", "**")]:  # fmt: skip
    _function: Any = getattr(operator, _name)
    setattr(Number, f"__{_name}__", _method_of_number(_function, f"({{}}) {_sign} ({{}})"))
    _turned = functools.partial(lambda function, a, b: function(b, a), _function)
    setattr(Number, f"__r{_name}__", _method_of_number(_turned, f"({{1}}) {_sign} ({{0}})"))
for _name, _sign in [("neg", "-"), ("pos", "+"), ("abs", "abs")]:
    setattr(Number, f"__{_name}__", _method_of_number(getattr(operator, _name), _sign + "({})"))
for _name, _sign in [("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "=="), ("ne", "!=")]:
    setattr(Number, f"__{_name}__", _method_of_number(getattr(operator, _name), f"({{}}) {_sign} ({{}})", seen=True))
for _name, _function in [("float", float), ("int", int), ("trunc", int), ("bool", bool), ("round", round)]:
    setattr(Number, f"__{_name}__", _method_of_number(_function, _function.__name__ + "({all})", seen=True))

_NUMBERS.add(Number)  # an op takes it as the Python number that it is


class Draw(NamedTuple):
    """A method of a random stream. A replay draws from the same stream, wherever that is by then."""

    stream: str
    method: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(random.stream(self.stream), self.method)(*args, **kwargs)


class Draws:
    """A random generator whose draws are recorded."""

    def __init__(self, generator: np.random.Generator, stream: str):
        self._generator, self._stream = generator, stream

    def __getattr__(self, name: str) -> Any:
        found, tracer = getattr(self._generator, name), _here()
        if tracer and not callable(found):
            tracer.refuse(_SET_BACK)
        return functools.partial(_drawn, found, Draw(self._stream, name)) if callable(found) else found


class Random(dict[str, Any]):
    """The random streams by their names. What is drawn from them is recorded; what else happens to them is refused."""

    def __getitem__(self, name: str) -> Any:
        return Draws(super().__getitem__(name), name)

    def clear(self) -> None:
        for name in list(self):
            del self[name]

    def __delitem__(self, name: str) -> None:
        if tracer := _here():
            tracer.refuse(_SET_BACK)
        super().__delitem__(name)


def _drawn(method: Callable[..., Any], draw: Draw, *args: Any, **kwargs: Any) -> Any:
    result, tracer = method(*args, **kwargs), _here()
    if tracer and not isinstance(result, np.ndarray):
        tracer.refuse(f"{draw.method} gives no array, which is not recorded. Draw an array: size=1, or a permutation.")
    elif tracer:
        tracer.record(draw, tracer.encode(args), kwargs, "out", tracer.add(result, "planned"))
        return result.view(Traced)
    return result


class Traced(np.ndarray[Any, Any]):
    """An array that reports to the tracer what is done with it. Outside a recording it is an array like any other."""

    number = False  # whether it stands for one of NumPy's numbers, which never change: x += 1 makes a new one

    def as_number(self) -> "Traced":
        self.number = True
        return self

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if [x for x in (*inputs, *kwargs.get("out", ())) if isinstance(x, Operators)]:
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

    def __bool__(self) -> bool:
        return _tracer.guard(self) if _tracer else bool(_plain(self))

    def fill(self, value: Any) -> None:
        self[...] = value

    @property
    def flat(self) -> Any:
        if _tracer:
            _tracer.refuse(f"flat {_CHANGES}")
        return _plain(self).flat


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)
    return lambda self, *args, **kwargs: _call(function, (self, *args), kwargs)


def _in_place(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)
    return lambda self, other: NotImplemented if self.number else function(self, other)


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor",
              "ilshift", "irshift"):  # fmt: skip
    setattr(Traced, f"__{_name}__", _in_place(f"__{_name}__"))

_REDUCTIONS = ["sum", "mean", "var", "std", "max", "min", "prod", "any", "all", "clip"]
_DECOMPOSED = {np.amax, np.amin, *[getattr(np, name) for name in _REDUCTIONS]}  # made of ufuncs, which are recorded
_CONVERSIONS = ["__float__", "__int__", "__index__", "__complex__", "__contains__"]
_ABOUT_SHAPE = {np.shape, np.ndim, np.size, np.may_share_memory, np.shares_memory, np.result_type, np.can_cast,
                np.iscomplexobj, np.isrealobj, np.broadcast_shapes}  # fmt: skip
for _name in dir(np.ndarray):
    _public = _name[0] != "_" and _name not in (*_REDUCTIONS, "view", "fill") and callable(getattr(np.ndarray, _name))
    if _public or _name in _CONVERSIONS:
        setattr(Traced, _name, _method(_name))

_INSIDE = {operator.setitem, np.copyto}
COPIES = {np.ndarray.copy, np.ndarray.astype}

_tracer: "Tracer | None" = None  # the one at work


def at_work() -> bool:
    """Whether a step is being recorded."""
    return _tracer is not None


def _here() -> "Tracer | None":
    """The one at work, if it records what this thread does."""
    return _tracer if _tracer and _tracer.thread == threading.get_ident() else None


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


_ROOMS = tuple(os.path.dirname(path) + os.sep for path in (os.path.dirname(__file__), np.__file__))


@functools.cache
def _users(file: str) -> str:
    """The name of a file of the user's, or "" for one of this package or NumPy."""
    return "" if file.startswith((*_ROOMS, "<")) else os.path.basename(file)


class Tracer:
    """What one run of the step did."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.roots: list[Root] = []
        self._numbers: dict[int, int] = {}  # id of an array that owns memory -> the number of its root
        self.numbers: list[tuple[str, str]] = []  # a replay's code that computes or compares numbers; the user's line
        self.refusal = ""  # the first thing that a replay could not do
        self.thread = threading.get_ident()
        self._caller: Any = None  # the frame that calls the step

    def __enter__(self) -> None:
        global _tracer
        _tracer, self._caller = self, sys._getframe(1)

    def __exit__(self, *_: object) -> None:
        global _tracer
        _tracer = self._caller = None

    def refuse(self, reason: str) -> None:
        """The step runs on, so that an error of its own comes first, but it gives no program."""
        self.refusal = self.refusal or f"{self.where()}: {reason}"

    def where(self) -> str:
        """The line that is at work: the innermost one outside of this package and NumPy, or else the step's own."""
        frame: Any = sys._getframe(1)
        while not (name := _users(frame.f_code.co_filename)) and frame.f_back is not self._caller:
            frame = frame.f_back
        return f"{name or os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"

    # Numbers --------------------------------------------------------------------------------------------------

    def compute(self, code: str, value: Any) -> Number:
        """A number that is made of others."""
        name = f"n{len(self.numbers)}"
        self.numbers.append((f"{name} = {code}", self.where()))
        return Number(value, name)

    def see(self, code: str, value: Any) -> Any:
        """What Python code gets to know of a number: the program holds for this value only."""
        self.numbers.append((f"if ({code}) != {value!r}: return MISS", self.where()))
        return value

    # Memory ---------------------------------------------------------------------------------------------------

    def add(self, array: Array, kind: str, name: str = "") -> View:
        """The memory of an array as a new root."""
        self._numbers[id(array)] = len(self.roots)
        self.roots.append(Root(array, kind, name or f"r{len(self.roots)}"))
        return View(len(self.roots) - 1, 0, array.shape, array.strides, array.dtype)

    def traced(self, array: Array, kind: str = "outside", name: str = "") -> Traced:
        """``array`` as a Traced one, its memory known as ``kind`` from now on."""
        if self.root(array) is None:
            self.add(array if kind != "outside" else _owner(array), kind, name)
        return array.view(Traced)

    def root(self, array: Array) -> int | None:
        """The number of the memory that an array lies in, if that is known."""
        owner: Any = array
        while (number := self._numbers.get(id(owner))) is None:
            owner = getattr(owner, "base", None)
            if owner is None:
                return None
        return number

    def find(self, array: Array) -> View | None:
        """Which piece of which memory an array is, if that is known."""
        number = self.root(array)
        if number is None:
            return None
        root = self.roots[number]
        whole = array.nbytes == root.array.nbytes and array.flags.forc and root.array.flags.forc
        offset = 0 if whole else _address(array) - root.address
        return View(number, offset, array.shape, array.strides, array.dtype)

    def view(self, array: Array) -> View:
        """Which piece of which memory an operand is."""
        found = self.find(array)
        if found is not None:
            return found
        if type(array) is Traced:
            self.refuse(
                "an array came out of a NumPy function that hides its work from the recording. Use functions of whole "
                "arrays, or leave the step uncompiled."
            )
        self.add(_owner(array), "outside")
        self.roots[-1].snapshot = self.roots[-1].left = _owner(array).copy(order="K")
        return self.view(array)

    # Operations -----------------------------------------------------------------------------------------------

    def encode(self, x: Any) -> Any:
        """An operand as it is recorded."""
        kind = type(x)
        if kind is Traced or kind is np.ndarray:
            return self.view(x)
        if kind is Number:
            return Scalar(x.code)
        if kind is float or kind is int:
            return Scalar(repr(x), kind)
        if kind is tuple:
            return tuple([self.encode(i) for i in x])
        if kind is list:
            return Call(list, (self.encode(tuple(x)),))
        if kind is slice:
            return Call(slice, self.encode((x.start, x.stop, x.step)))
        return self.view(np.asarray(x)) if isinstance(x, np.ndarray | np.generic) else x

    def record(self, function: Any, operands: Any, kwargs: dict[str, Any], how: Any, *writes: View) -> None:
        told = tuple([(k, self.encode(v)) for k, v in kwargs.items() if k not in _UNSAID or v is not _UNSAID[k]])
        self.operations.append(operation(function, operands, told, how, writes, self.where()))
        for root in [self.roots[v.root] for v in writes]:
            if root.left is not None:
                root.left = root.array.copy(order="K")

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do it, and write it down. The result's memory tells what happened: a view is no operation."""
        changes = _changes(function)
        if changes:
            operands = self.encode(args)  # before, as it keeps what is in arrays that are new to it
        elif kwargs.get("out") is not None:
            return self._into(function, args, kwargs)
        result = function(*_plain(args), **_plain(kwargs))
        if changes:
            self.record(function, operands, kwargs, "inside", *[operands[i] for i in changes])
        if changes or function in _ABOUT_SHAPE:
            return result
        if function is operator.getitem and isinstance(result, np.generic):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            entry = _plain(args[0])[(*_plain(index), ...)]  # a view of the one entry
            return self.call(np.ndarray.copy, (entry.view(Traced),), {}).as_number()
        if not isinstance(result, np.ndarray | np.generic):
            self.refuse(f"{getattr(function, '__name__', function)} {_CHANGES if result is None else _LEAVES}")
            return result
        number = isinstance(result, np.generic) or (function in COPIES and getattr(args[0], "number", False))
        result = np.asarray(result)
        if self.root(result) is None or not result.size:
            lies = result.flags.forc and not result.dtype.hasobject
            operands, out = self.encode(args), self.add(result, "planned" if lies else "own")
            self._numbers.setdefault(id(_owner(result)), out.root)  # of which the result may be a view
            self.record(function, operands, kwargs, "out", out)
        elif function is np.nan_to_num:  # with copy=False, and no view
            self.refuse(f"nan_to_num {_CHANGES}")
        return result.view(Traced).as_number() if number else result.view(Traced)

    def _into(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call with ``out=``."""
        out = kwargs.pop("out")
        out = out[0] if isinstance(out, tuple) else out
        operands = self.encode(args)
        if self.root(out) is None and _owner(out).nbytes == out.nbytes and "where" not in kwargs:
            self.add(_owner(out), "planned")  # made by the step and filled as a whole: a buffer like any other
        view = self.view(out)
        function(*_plain(args), **_plain(kwargs), out=_plain(out))
        if type(out) is np.ndarray:
            self.roots[view.root].left = out  # what is done to it by its own name cannot be seen
        self.record(function, operands, kwargs, "out", view)
        return out if type(out) is Traced else out.view(Traced)

    def guard(self, condition: Array) -> bool:
        truth = bool(_plain(condition))
        self.record(bool, (self.view(condition),), {}, truth)
        return truth


_LEAVES = (
    "takes a value out of the arrays while the step is recorded, and a replay would repeat today's value. Return it "
    "from the step as an array or Tensor and read it there, or leave the step uncompiled."
)
_SET_BACK = "the random streams are set back here, which a replay would not do. Do it outside."
_CHANGES = "changes an array in a way that is not recorded. Use a NumPy function that returns a new array."
_UNSAID = {"dtype": None, "where": True}  # NumPy's defaults, which some of its functions pass on


def _changes(function: Any) -> tuple[int, ...]:
    """Which operands a function changes in place, and returns nothing; one that is not NumPy's says so."""
    first = function in _INSIDE or getattr(function, "__name__", "") == "at"
    return (0,) if first else getattr(function, "changes", ())


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _owner(array: Array) -> Array:
    owner, base = array, array.base
    while base is not None:
        owner, base = (base if isinstance(base, np.ndarray) else owner), getattr(base, "base", None)
    return owner
