"""The program: the planned instructions as Python source, one line each, and what it takes to run it again."""

import operator
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_cifar.compiler.plan import optimised, packed, placed
from tinygrad_cifar.compiler.trace import DRAWS_INTO, Instruction, Root, Scalar, View, _copy, window
from tinygrad_cifar.random import stream
from tinygrad_cifar.tensor import Array, Tensor

MISS = object()  # what ``run`` returns when a guard fails, before anything has changed


class Line:
    """A line of the program, and what explain() tells of it."""

    __slots__ = ("code", "result", "seconds", "where")

    def __init__(self, code: str, result: str = "", where: str = ""):
        self.code, self.result, self.where, self.seconds = code, result, where, 0.0


class Program:
    """One recorded path through the step, ready to run: ``run(*arrays)`` with the step's array arguments."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {
            "ndarray": np.ndarray, "Tensor": Tensor, "MISS": MISS, "stream": stream, "copy": _copy,
        }  # fmt: skip
        self.lines: list[Line] = []
        self.arena = np.empty(0, np.uint8)
        self.outside: list[Array] = []  # memory that lives on and that the program writes
        self.keep: list[Any] = []  # what guards compare by identity must not be freed
        self.parameters: list[str] = []
        self.run: Callable[..., Any]

    # Building -------------------------------------------------------------------------------------------------

    def name(self, value: Any, prefix: str) -> str:
        """A name for a value that the source refers to."""
        for name, known in self.names.items():
            if known is value:
                return name
        name = f"{prefix}{sum(n.rstrip('0123456789') == prefix for n in self.names)}"
        self.names[name] = value
        return name

    def build(
        self, instructions: list[Instruction], kept: set[Root], parameters: list[str], floats: list[str]
    ) -> "Writer":
        """Plan and write the instructions. ``kept`` is read after the last one."""
        self.parameters = parameters
        instructions, places = packed(optimised(instructions, kept))
        offsets, size = placed(instructions, kept, places)
        memory = np.zeros(size + 64, np.uint8)
        start = -memory.__array_interface__["data"][0] % 64
        self.arena = memory[start : start + size]
        writer = Writer(self, offsets)
        used = {v.root for i in instructions for v in (*i.reads(), *i.writes())} | kept
        writer.bound = {root: root.name for root in used if root.kind == "argument"}
        self.lines.append(Line(""))
        writer.deferred.append(
            (self.lines[-1], lambda w: [s for a in floats for s in w.fill(("argument",), lambda key: key, only=a)])
        )
        for instruction in instructions:
            writer.write(instruction)
        self.outside = [*{v.root: v.root.array for i in instructions for v in i.writes() if v.root.kind == "outside"}.values()]
        return writer

    def finish(self, writer: "Writer") -> None:
        """Write the lines that depend on what came after them, and compile."""
        for line, code in writer.deferred:
            line.code = "; ".join(code(writer))
        self.lines = [line for line in self.lines if line.code]
        self.run = self.compile()

    def source(self, timed: bool = False) -> str:
        body = []
        for i, line in enumerate(self.lines):
            if timed:
                body.append(f"_t = clock(); {line.code}; spent[{i}] += clock() - _t" if line.result else line.code)
            else:
                body.append(line.code)
        return f"def run({', '.join(self.parameters)}):\n    " + "\n    ".join(body)

    def compile(self, timed: bool = False) -> Callable[..., Any]:
        names = dict(self.names)
        if timed:
            names |= {"clock": time.perf_counter, "spent": [0.0] * len(self.lines)}
        exec(compile(self.source(timed), "<compiled step>", "exec"), names)
        run: Callable[..., Any] = names["run"]
        return run


class Writer:
    """Writes instructions as lines of Python."""

    def __init__(self, program: Program, offsets: dict[Root, int]):
        self.program, self.offsets = program, offsets
        self.arrays: dict[View, str] = {}
        self.bound: dict[Root, str] = {}  # roots that are local variables of the program
        self.scalars: dict[tuple[Any, Any], str] = {}
        self.constants: dict[Any, str] = {}
        self.tensors: dict[View, str] = {}
        self.deferred: list[tuple[Line, Callable[[Writer], list[str]]]] = []

    def array(self, view: View) -> str:
        """The name of the array that is this view."""
        if view not in self.arrays:
            root = view.root
            if root in self.bound:
                self.arrays[view] = self._local(view)
            elif root in self.offsets:
                piece = window(view._replace(offset=view.offset + self.offsets[root]), self.program.arena)
                self.arrays[view] = self._new(piece, "b")
            else:
                owner = root.snapshot if root.kind == "constant" and root.snapshot is not None else root.array
                self.arrays[view] = self._new(window(view, owner), "k" if root.kind == "constant" else "w")
        return self.arrays[view]

    def _new(self, value: Any, prefix: str) -> str:
        name = f"{prefix}{len(self.program.names)}"
        self.program.names[name] = value
        return name

    def _local(self, view: View) -> str:
        base, root = self.bound[view.root], view.root.array
        if view.offset == 0 and (view.shape, view.strides, view.dtype) == (root.shape, root.strides, root.dtype):
            return base
        name = f"{base}_{len(self.arrays)}"
        if view.offset == 0 and (view.shape, view.strides, view.dtype) == (root.T.shape, root.T.strides, root.dtype):
            code = f"{name} = {base}.T"
        else:
            flat = base if root.flags.c_contiguous else f"{base}.T"
            dtype = self.program.name(view.dtype, "dtype")
            code = f"{name} = ndarray({view.shape}, {dtype}, {flat}, {view.offset}, {view.strides})"
        self.program.lines.append(Line(code))
        return name

    def scalar(self, key: Any, dtype: Any) -> str:
        """The name of a number that is looked up at each replay: a 0-d array where it meets arrays of one dtype."""
        if (key, dtype) not in self.scalars:
            new = f"n{len(self.scalars)}" if dtype is None else self._new(np.zeros((), dtype), "s")
            self.scalars[key, dtype] = new
        return self.scalars[key, dtype]

    def fill(self, prefix: Any, value: Callable[[str], str], only: str | None = None) -> list[str]:
        """Statements that give the numbers whose key is ``(*prefix, name)`` the value ``value(name)``."""
        return [
            f"{name} = {value(key[-1])}" if dtype is None else f"{name}[()] = {value(key[-1])}"
            for (key, dtype), name in self.scalars.items() if key[:-1] == prefix and only in (None, key[-1])
        ]  # fmt: skip

    def gradient(self, view: View) -> str:
        """The name of the Tensor that wraps a view: always the same one."""
        if view not in self.tensors:
            self.tensors[view] = self._new(Tensor(self.program.names[self.array(view)]), "g")
        return self.tensors[view]

    def operand(self, x: Any, dtype: Any) -> str:
        """``dtype`` is that of the arrays beside a Python number, which takes it on."""
        if type(x) is View:
            return self.array(x)
        if type(x) is Scalar:
            return self.scalar(x.key, dtype)
        if type(x) is tuple:
            return "(" + "".join(self.operand(i, None) + ", " for i in x) + ")"
        if type(x) is list:
            return "[" + ", ".join(self.operand(i, None) for i in x) + "]"
        if x is None or x is Ellipsis or isinstance(x, str | bool):
            return repr(x)
        if isinstance(x, int | float) and (dtype is None or (dtype.kind != "f" and not _fits(x, dtype))):
            return repr(x) if isinstance(x, int) else self._new(x, "k")
        if isinstance(x, slice):
            return f"slice({x.start}, {x.stop}, {x.step})"
        if isinstance(x, int | float):
            x = np.asarray(x, dtype)
        if isinstance(x, np.ndarray):
            key = (x.dtype, x.tobytes(), x.shape)
            if key not in self.constants:
                self.constants[key] = self._new(x, "k")
            return self.constants[key]
        return self.program.name(x, "c")

    def _spread(self, name: str, x: Any, out: View) -> str:
        """A constant as an array of the result's shape: the loops for maximum are slow where an operand is repeated."""
        size = int(np.prod(out.shape))
        value = self.program.names.get(name)
        if type(x) is View or type(x) is Scalar or size > 1 << 14 or getattr(value, "dtype", None) != out.dtype:
            return name
        key = (name, out.shape, out.strides)
        if key not in self.constants:
            full = np.empty(size, out.dtype)
            full.fill(value)
            self.constants[key] = self._new(window(out._replace(offset=0), full), "k")
        return self.constants[key]

    def write(self, i: Instruction) -> None:
        lines = self.program.lines
        if isinstance(i.effect, tuple):
            self._effect(i)
            return
        out = i.out
        if i.effect == "draw":
            generator, method = i.function
            arguments = [f"{k}={self.operand(v, None)}" for k, v in i.kwargs.items() if k != "size"]
            if out and out.root.kind == "planned" and method in DRAWS_INTO:
                arguments += [f"dtype={self.operand(v, None)}" for v in i.operands[1:]] + [f"out={self.array(out)}"]
                code = f"stream({generator!r}).{method}({', '.join(arguments)})"
            else:
                everything = [self.operand(v, None) for v in i.operands]
                everything += [f"{k}={self.operand(v, None)}" for k, v in i.kwargs.items()]
                code = self._bind(out, f"stream({generator!r}).{method}({', '.join(everything)})")
            lines.append(Line(code, _describe(out), i.line))
            return
        dtypes = {v.dtype for v in i.reads()}
        alone = isinstance(i.function, np.ufunc) and len(dtypes) == 1 and "dtype" not in i.kwargs
        common = dtypes.pop() if alone else None
        common = common if common is not None and common.kind in "fiu" else None
        operands = [self.operand(x, common) for x in i.operands]
        if i.function in (np.maximum, np.minimum) and out is not None:
            operands = [self._spread(name, x, out) for name, x in zip(operands, i.operands, strict=True)]
        kwargs = [f"{k}={self.operand(v, None)}" for k, v in i.kwargs.items()]
        if i.function is operator.setitem:
            code = f"{operands[0]}[{operands[1]}] = {operands[2]}"
        elif i.function is operator.getitem:
            code = self._bind(out, f"{operands[0]}[{operands[1]}]")
        elif i.function is _copy:
            code = f"{self.program.name(np.copyto, 'copyto')}({self.array(out)}, {operands[0]}, 'unsafe')"
        else:
            name = getattr(i.function, "__name__", "f")
            owner = getattr(i.function, "__self__", None)
            name = f"{owner.__name__}_{name}" if isinstance(owner, np.ufunc) else name
            function = self.program.name(i.function, name.strip("_<>"))
            if out is None or (out.root.kind == "bound" and out.root not in self.bound):
                code = f"{function}({', '.join([*operands, *kwargs])})"
                code = self._bind(out, code)
            else:
                place = self.array(out)
                positional = isinstance(i.function, np.ufunc) and i.function not in (np.maximum, np.minimum)
                kwargs.append(place if positional and not kwargs else f"out={place}")
                code = f"{function}({', '.join([*operands, *kwargs])})"
        lines.append(Line(code, _describe(out or i.written), i.line))

    def _bind(self, out: View | None, code: str) -> str:
        if out is None:
            return code
        name = f"r{len(self.bound)}"  # the arguments are called a0, a1, ...
        self.bound[out.root] = name
        return f"{name} = {code}"

    def _effect(self, i: Instruction) -> None:
        kind, *details = i.effect
        if kind == "guard":
            self.program.lines.append(Line(f"if bool({self.operand(i.operands[0], None)}) is not {details[0]}: return MISS"))
        else:
            for view in i.reads():
                self.array(view)
            self.program.lines.append(Line(""))
            self.deferred.append((self.program.lines[-1], details[0]))


def _fits(x: float, dtype: Any) -> bool:
    return isinstance(x, int) and np.iinfo(dtype).min <= x <= np.iinfo(dtype).max


def _describe(view: View | None) -> str:
    return "" if view is None else f"{view.dtype} {view.shape}"
