"""The program: the planned instructions as Python source, one line each, and what it takes to run them again."""

import operator
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cifar import random
from tinygrad_cifar.compiler.plan import optimised, packed, placed
from tinygrad_cifar.compiler.trace import DRAWS_INTO, Instruction, Root, Scalar, View, _copy, window
from tinygrad_cifar.tensor import Array, Tensor

if TYPE_CHECKING:
    import graphviz  # type: ignore[import-untyped]

MISS = object()  # what ``run`` returns when a guard fails, before anything has changed


class Line:
    """A line of the program, and what explain() and graph() tell of it."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.operation = ""  # its name, where it computes; else the line is a guard, a view or bookkeeping
        self.result: View | None = None
        self.where = ""
        self.sources: list[Any] = []  # the lines, or the names of outside memory, that it reads from
        self.repeatable = False  # may be run again without the rest: for measuring


class Program:
    """One recorded path through the step, ready to run: ``run(*arguments)`` with its arrays and floats."""

    def __init__(self, parameters: list[str]) -> None:
        self.parameters = parameters
        self.names: dict[str, Any] = {
            "ndarray": np.ndarray, "Tensor": Tensor, "MISS": MISS, "stream": random.stream, "copy": _copy,
            "copyto": np.copyto,
        }  # fmt: skip
        self._known = {id(value): name for name, value in self.names.items()}
        self.lines: list[Line] = []
        self.start = 0  # the number of the first line behind the guards
        self.arena = np.empty(0, np.uint8)
        self.relies: list[tuple[Any, str, Any]] = []  # (holder, name, value): what must still be the same
        self.outside: dict[str, Array] = {}  # memory that lives on and that the program writes
        self.inputs: list[Any] = []  # stand-ins for the arguments
        self.run: Callable[..., Any]

    def __str__(self) -> str:
        count = sum(bool(line.operation) for line in self.lines)
        return f"{count} operations in {self.arena.nbytes:,} bytes of buffers,"

    def name(self, value: Any, prefix: str) -> str:
        """The name of a value that the source refers to."""
        if id(value) not in self._known:
            self._known[id(value)] = self.new(value, prefix)
        return self._known[id(value)]

    def new(self, value: Any, prefix: str) -> str:
        name = f"{prefix}{len(self.names)}"
        self.names[name] = value
        return name

    def line(self, code: str) -> Line:
        self.lines.append(Line(code))
        return self.lines[-1]

    def build(self, instructions: list[Instruction], kept: set[Root]) -> "Writer":
        """Plan and write the instructions. ``kept`` is read after the last one."""
        instructions, places = packed(optimised(instructions, kept))
        offsets, size = placed(instructions, kept, places)
        memory = np.zeros(size + 64, np.uint8)
        start = -memory.__array_interface__["data"][0] % 64
        self.arena = memory[start : start + size]
        writer = Writer(self, offsets)
        touched = {v.root for i in instructions for v in (*i.reads(), *i.writes())} | kept
        writer.bound = {root: root.name for root in touched if root.kind == "argument"}
        arrays = {root.name: np.zeros_like(root.array) for root in writer.bound}
        self.inputs = [arrays.get(name, 1.0) for name in self.parameters]
        for instruction in instructions:
            writer.write(instruction)
        for root in {v.root for i in instructions for v in i.writes() if v.root.kind == "outside"}:
            self.outside[f"{root.start:x}"] = root.array
        return writer

    def finish(self, writer: "Writer") -> None:
        """Write the lines that depend on what came after them, and compile."""
        for line, code in writer.deferred:
            line.code = "; ".join(code())
        self.lines = [line for line in self.lines if line.code]
        self.run = self._compiled([line.code for line in self.lines], {})

    def _compiled(self, code: list[str], names: dict[str, Any]) -> Callable[..., Any]:
        source = f"def run({', '.join(self.parameters)}):\n    " + "\n    ".join(code)
        namespace = {**self.names, **names}
        exec(compile(source, "<compiled step>", "exec"), namespace)
        run: Callable[..., Any] = namespace["run"]
        return run

    # Looking at it --------------------------------------------------------------------------------------------

    def measure(self, repeats: int = 20) -> list[float]:
        """Seconds that each line takes, the least of ``repeats`` runs. The model and the optimiser are as before."""
        code, seconds = [], [0.0] * len(self.lines)
        for i, line in enumerate(self.lines):
            if line.repeatable:
                code.append(f"_t = clock(); {line.code}; note({i}, clock() - _t)")
        before = [array.copy() for array in self.outside.values()]

        def note(i: int, spent: float) -> None:
            seconds[i] = min(seconds[i] or spent, spent)

        run = self._compiled(code, {"clock": time.perf_counter, "note": note})
        try:
            with random.preserved(), np.errstate(all="ignore"):
                for _ in range(repeats):
                    run(*self.inputs)
        finally:
            for array, saved in zip(self.outside.values(), before, strict=True):
                array[...] = saved
        return seconds

    def explain(self) -> str:
        """The program as a table: microseconds, bytes and shape of the result, the user's line, the operation."""
        seconds = self.measure()
        total = f"{self} {1e6 * sum(seconds):.0f} us\n{'us':>8}{'bytes':>10}  {'result':24}{'from':28}line"
        rows = [total]
        for line, spent in zip(self.lines, seconds, strict=True):
            v = line.result
            size = f"{int(np.prod(v.shape)) * v.dtype.itemsize:,}" if v else ""
            result = f"{v.dtype} {v.shape}" if v else ""
            rows.append(f"{1e6 * spent:8.2f}{size:>10}  {result:24}{line.where:28}{' '.join(line.code.split())[:120]}")
        return "\n".join(rows)

    def graph(self) -> "graphviz.Digraph":
        """The operations and what flows between them."""
        import graphviz

        picture = graphviz.Digraph(node_attr={"shape": "box", "fontname": "sans-serif", "fontsize": "10"})
        for i, line in enumerate(self.lines):
            if line.operation:
                shape = f"\\n{line.result.shape}" if line.result else ""
                picture.node(str(i), line.operation + shape, tooltip=line.where)
                for source in line.sources:
                    if isinstance(source, str):
                        picture.node(source, source, shape="ellipse")
                    picture.edge(source if isinstance(source, str) else str(self.lines.index(source)), str(i))
        return picture


class Writer:
    """Writes instructions as lines of Python."""

    def __init__(self, program: Program, offsets: dict[Root, int]):
        self.program, self.offsets = program, offsets
        self.arrays: dict[View, str] = {}
        self.bound: dict[Root, str] = {}  # roots that are local variables of the program
        self.scalars: dict[tuple[Any, Any], str] = {}
        self.constants: dict[Any, str] = {}
        self.tensors: dict[View, str] = {}
        self.deferred: list[tuple[Line, Callable[[], list[str]]]] = []
        self.writers: dict[Root, Line] = {}  # the last line that wrote there

    def array(self, view: View) -> str:
        """The name of the array that is this view."""
        if view not in self.arrays:
            root = view.root
            if root in self.bound:
                self.arrays[view] = self._local(view)
            elif root in self.offsets:
                piece = window(view._replace(offset=view.offset + self.offsets[root]), self.program.arena)
                self.arrays[view] = self.program.new(piece, "b")
            else:
                owner = root.snapshot if root.kind == "constant" else root.array
                self.arrays[view] = self.program.new(window(view, owner), "k" if root.kind == "constant" else "w")
        return self.arrays[view]

    def _local(self, view: View) -> str:
        """A view of an array that is another one at each replay: made at each replay."""
        base, root = self.bound[view.root], view.root.array
        if view.offset == 0 and view[2:] == (root.shape, root.strides, root.dtype):
            return base
        name = f"{base}_{len(self.arrays)}"
        if view.offset == 0 and view[2:] == (root.T.shape, root.T.strides, root.dtype):
            code = f"{name} = {base}.T"
        else:
            flat = base if root.flags.c_contiguous else f"{base}.T"
            dtype = self.program.name(view.dtype, "dtype")
            code = f"{name} = ndarray({view.shape}, {dtype}, {flat}, {view.offset}, {view.strides})"
        self.program.line(code).repeatable = True
        return name

    def gradient(self, view: View) -> str:
        """The name of the Tensor that wraps a view: always the same one."""
        if view not in self.tensors:
            self.tensors[view] = self.program.new(Tensor(self.program.names[self.array(view)]), "g")
        return self.tensors[view]

    def fill(self, prefix: Any, value: Callable[[str], str], only: str | None = None) -> list[str]:
        """Statements that give the numbers whose key is ``(*prefix, name)`` the value ``value(name)``."""
        return [
            f"{name}{'' if dtype is None else '[()]'} = {value(key[-1])}"
            for (key, dtype), name in self.scalars.items() if key[:-1] == prefix and only in (None, key[-1])
        ]  # fmt: skip

    def operand(self, x: Any, dtype: Any = None) -> str:
        """``dtype`` is that of the arrays beside a Python number, which takes it on."""
        if type(x) is View:
            return self.array(x)
        if type(x) is Scalar:  # a 0-d array where it meets arrays of one dtype; else a local variable
            if (x.key, dtype) not in self.scalars:
                value, prefix = (1.0, "n") if dtype is None else (np.zeros((), dtype), "s")  # 1.0: for measuring
                self.scalars[x.key, dtype] = self.program.new(value, prefix)
            return self.scalars[x.key, dtype]
        if type(x) is tuple:
            return "(" + "".join(self.operand(i) + ", " for i in x) + ")"
        if type(x) is list:
            return "[" + ", ".join(self.operand(i) for i in x) + "]"
        if isinstance(x, int | float) and not isinstance(x, bool) and dtype is not None and _fits(x, dtype):
            x = np.asarray(x, dtype)
        if isinstance(x, np.ndarray):
            return self._constant((x.dtype, x.shape, x.tobytes()), x)
        return repr(x) if x is None or x is Ellipsis or isinstance(x, str | int) else self.program.new(x, "c")

    def _constant(self, key: Any, value: Array) -> str:
        if key not in self.constants:
            self.constants[key] = self.program.new(value, "k")
        return self.constants[key]

    def _spread(self, name: str, x: Any, out: View) -> str:
        """A constant as an array of the result's shape: the loops for maximum are slow where an operand is repeated."""
        value, size = self.program.names.get(name), int(np.prod(out.shape))
        if type(x) in (View, Scalar) or size > 1 << 14 or getattr(value, "dtype", None) != out.dtype:
            return name
        return self._constant((name, out[2:]), window(out._replace(offset=0), np.full(size, value)))

    def write(self, i: Instruction) -> None:
        program, out, kind = self.program, i.out, i.effect[0] if isinstance(i.effect, tuple) else i.effect
        if kind == "python":
            for view in i.reads():
                self.array(view)
            self.deferred.append((program.line(""), lambda: i.effect[1](self)))
            return
        dtypes = {v.dtype for v in i.reads()}
        one = isinstance(i.function, np.ufunc) and len(dtypes) == 1 and "dtype" not in i.kwargs
        operands = [self.operand(x, next(iter(dtypes)) if one else None) for x in i.operands]
        kwargs = [f"{k}={self.operand(v)}" for k, v in i.kwargs.items()]
        binds = out is not None and out.root.kind == "bound" and out.root not in self.bound
        if kind == "guard":
            code, name = f"if bool({operands[0]}) is not {i.effect[1]}: return MISS", ""
        elif kind == "draw":
            stream, name = i.function
            if out and name in DRAWS_INTO and not binds:
                operands, kwargs = [], [f"dtype={x}" for x in operands[1:]] + [k for k in kwargs if k[:5] != "size="]
                kwargs.append(f"out={self.array(out)}")
            code = f"stream({stream!r}).{name}({', '.join([*operands, *kwargs])})"
        elif i.function is operator.setitem:
            code, name = f"{operands[0]}[{operands[1]}] = {operands[2]}", "setitem"
        elif i.function is operator.getitem:
            code, name = f"{operands[0]}[{operands[1]}]", "getitem"
        elif i.function is _copy and out:
            code, name = f"copyto({self.array(out)}, {operands[0]}, 'unsafe')", "copy"
        else:
            owner = getattr(i.function, "__self__", None)
            name = getattr(i.function, "__name__", "function")
            name = f"{owner.__name__}.{name}" if isinstance(owner, np.ufunc) else name
            if i.function in (np.maximum, np.minimum) and out:
                operands = [self._spread(n, x, out) for n, x in zip(operands, i.operands, strict=True)]
            if out and not binds:
                positional = isinstance(i.function, np.ufunc) and i.function not in (np.maximum, np.minimum)
                kwargs.append(self.array(out) if positional and not kwargs else f"out={self.array(out)}")
            function = program.name(i.function, "".join(c if c.isidentifier() else "_" for c in name))
            code = f"{function}({', '.join([*operands, *kwargs])})"
        if out and binds:
            self.bound[out.root] = f"r{len(self.bound)}"
            code = f"{self.bound[out.root]} = {code}"
        line = program.line(code)
        result = next(iter(i.writes()), None)
        line.operation, line.result, line.where, line.repeatable = name, result, i.line, kind != "guard"
        line.sources = [self.writers.get(r, self._outer(r)) for r in dict.fromkeys(v.root for v in i.reads())]
        self.writers.update({v.root: line for v in i.writes()})

    def _outer(self, root: Root) -> str:
        return root.name or ("constant" if root.kind == "constant" else f"memory {root.start:x}")


def _fits(x: float, dtype: Any) -> bool:
    """Whether a Python number beside an array of this dtype becomes that dtype."""
    return dtype.kind == "f" or (
        dtype.kind in "iu" and isinstance(x, int) and np.iinfo(dtype).min <= x <= np.iinfo(dtype).max
    )
