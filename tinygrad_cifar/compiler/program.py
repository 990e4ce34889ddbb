"""The program: the planned operations as Python source, one line each, and what it takes to run them again."""

import itertools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinygrad_cifar import random
from tinygrad_cifar.compiler import fusion
from tinygrad_cifar.compiler.plan import last_guard, placed, simplified
from tinygrad_cifar.compiler.recording import Recording
from tinygrad_cifar.compiler.surroundings import contents
from tinygrad_cifar.compiler.trace import COPIES, Call, Draw, Operation, Root, Scalar, View, axes, piece
from tinygrad_cifar.errors import CompileError
from tinygrad_cifar.tensor import Array, Tensor

if TYPE_CHECKING:
    import graphviz  # type: ignore[import-untyped]

_NOTHING = np.empty(0)
MISS = object()  # what ``run`` returns when a guard fails, before anything has changed


class Line(NamedTuple):
    """A line of the program."""

    code: str
    ops: tuple[Operation, ...] = ()  # what it computes; nothing for views and bookkeeping
    repeatable: bool = True  # may be run again without the rest: for measuring
    told: str = ""  # what stands for the code where that says little


class Program:
    """One recorded path through the step, ready to run: ``run(*arguments)`` with its arrays and floats."""

    def __init__(self, recording: Recording):
        self.roots = recording.tracer.roots
        self.inputs, self.around = recording.inputs, recording.around
        self.names: dict[str, Any] = {"ndarray": np.ndarray, "MISS": MISS, "copyto": np.copyto, "put": _put,
                                      "array_equal": np.array_equal, "nan": np.nan, "inf": np.inf,
                                      "states": _states, "set_back": _set_back}  # fmt: skip
        self._named = {id(value): name for name, value in self.names.items()}
        self._arrays: dict[View, str] = {}
        self._scalars: dict[tuple[Scalar, Any], str] = {}
        self._places: dict[View, fusion.Place | None] = {}
        operations = simplified(recording.operations(), recording.tracer)
        self._offsets, size = placed(operations, self.roots)
        memory = np.zeros(size + 64, np.uint8)
        self.arena = memory[-memory.ctypes.data % 64 :][:size]
        self._start = self.arena.ctypes.data
        self.changed_memory = [r.array for r in {self.roots[v.root] for op in operations for v in op.writes}
                               if not r.temporary]  # fmt: skip
        draws = [op.function for op in operations[: last_guard(operations) + 1] if type(op.function) is Draw]
        self._drawn_first = tuple(sorted({draw.stream for draw in draws}))
        self.lines = [Line(f"before = states{self._drawn_first}", (), False)] * bool(draws)
        self._write_all(operations[:-1])
        self._end(recording, operations[-1])
        self.lines = self._guards(recording) + self._numbers(recording) + self.lines
        self.run = self._compiled([line.code for line in self.lines], {})
        for root in self.roots:
            root.array = root.snapshot = root.left = _NOTHING  # what the recording computed is not needed any more

    def __str__(self) -> str:
        count = sum(len(line.ops) for line in self.lines)
        return f"{count} operations in {self.arena.nbytes:,} bytes of buffers,"

    def _compiled(self, code: list[str], names: dict[str, Any]) -> Callable[..., Any]:
        source = f"def run({', '.join(self.inputs)}):\n    " + "\n    ".join(code)
        namespace = {**self.names, **names}
        exec(compile(source, "<compiled step>", "exec"), namespace)
        run: Callable[..., Any] = namespace["run"]
        return run

    def changed(self) -> str:
        """Why a guard failed."""
        changed = (f"{label} changed" for label in self.around.changed())
        return next(changed, "a condition on the data came out otherwise, or a gradient was left from before")

    # Names ----------------------------------------------------------------------------------------------------

    def name(self, value: Any, prefix: str) -> str:
        """The name of a value that the source refers to."""
        if id(value) not in self._named:
            self._named[id(value)] = f"{prefix}{len(self.names)}"
            self.names[self._named[id(value)]] = value
        return self._named[id(value)]

    def _array(self, view: View) -> str:
        """The name of the array that is this view."""
        name = self._arrays.get(view)
        if name is None:
            name = self._arrays[view] = self._new_array(view, self.roots[view.root])
        return name

    def _new_array(self, view: View, root: Root) -> str:
        if root.kind == "argument":
            return self._local(view, root)
        if view.root in self._offsets:
            return self.name(piece(view, self.arena, self._offsets[view.root]), "b")
        return self.name(piece(view, root.array), "k" if root.kind == "constant" else "w")

    def _local(self, view: View, root: Root) -> str:
        """A view of an array that is another one at each replay: made at each replay."""
        base = root.array
        if view.offset == 0 and view[2:] == (base.shape, base.strides, base.dtype):
            return root.name
        if view.offset == 0 and view[2:] == (base.T.shape, base.T.strides, base.dtype):
            code = f"{root.name}.T"
        else:
            flat = root.name if base.flags.c_contiguous else f"{root.name}.transpose({axes(base)})"
            code = f"ndarray({view.shape}, {self.name(view.dtype, 'd')}, {flat}, {view.offset}, {view.strides})"
        name = f"{root.name}_{len(self._arrays)}"
        self.lines.append(Line(f"{name} = {code}"))
        return name

    def _operand(self, x: Any, op: Operation | None = None) -> str:
        if type(x) is View:
            return self._array(x)
        if type(x) is Scalar:  # as a 0-d array of the dtype that it takes on it costs less
            dtype = _dtype(x, op)
            if dtype is None:
                return x.code
            if (x, dtype) not in self._scalars:
                self._scalars[x, dtype] = self.name(np.asarray(x.kind(x.code) if x.kind else 0, dtype), "s")
            return self._scalars[x, dtype]
        if type(x) is Call:
            return f"{self.name(x.make, 'f')}({', '.join([self._operand(i) for i in x.parts])})"
        if type(x) is tuple:
            return "(" + "".join([self._operand(i) + ", " for i in x]) + ")"
        return repr(x) if x is None or x is Ellipsis or isinstance(x, str | bool) else self.name(x, "o")

    # Lines ----------------------------------------------------------------------------------------------------

    def _write_all(self, operations: list[Operation]) -> None:
        """The lines of operations: one for neighbours that the machine can do, or else one for each."""
        rows = [(op, self._row(op)) for op in operations]
        for real, group in itertools.groupby(rows, lambda pair: pair[1].real if pair[1] else None):
            together = list(group)
            if real is None:
                for op, _ in together:
                    self._write(op)
                continue
            table = self.name(fusion.table([row for _, row in together if row]), "t")
            code = f"{self.name(fusion.machine().run_for(real), 'run')}({table})"
            told = f"{len(together)} at once: " + ", ".join([_title(op, ".") for op, _ in together])
            self.lines.append(Line(code, tuple([op for op, _ in together]), told=told))

    def _row(self, op: Operation) -> fusion.Row | None:
        """The operation as the machine takes it, where all of its arrays stay where they are."""
        if not fusion.knows(op.function) or op.how != "out" or (op.kwargs and op.function not in COPIES):
            return None
        operands = op.operands[:1] if op.function in COPIES else op.operands
        places = [self._place(x, op) for x in (*op.writes, *operands)]
        out, *read = [place for place in places if place]
        return fusion.row(op.function, out, read) if len(read) == len(operands) else None

    def _place(self, x: Any, op: Operation) -> fusion.Place | None:
        """Where an operand lies at every replay, or None."""
        if type(x) is View and self.roots[x.root].kind != "argument":
            if x not in self._places:
                self._places[x] = fusion.place(self._address(x.root) + x.offset, x.shape, x.strides, x.dtype)
            return self._places[x]
        number = self.names.get(self._operand(x, op)) if type(x) is Scalar else None
        return None if number is None else fusion.place(number.ctypes.data, (), (), number.dtype)

    def _address(self, number: int) -> int:
        """Of the memory of a root."""
        if number in self._offsets:
            return self._start + self._offsets[number]
        self.name(self.roots[number].array, "m")  # keeps it alive
        return self.roots[number].address

    def _write(self, op: Operation) -> None:
        """The line of an operation."""
        function, out = op.function, op.writes[0] if op.how == "out" else None
        operands = [self._operand(x, op) for x in op.operands]
        kwargs = [f"{k}={self._operand(v)}" for k, v in op.kwargs]
        if function is bool:
            undo = "set_back(before); " * bool(self._drawn_first)
            self.lines.append(Line(f"if bool({operands[0]}) is not {op.how}: {undo}return MISS", (op,), False))
            return
        fills = _takes_out(function)
        if out and fills:  # by position is quicker, where it is allowed
            quick = isinstance(function, np.ufunc) and function not in (np.maximum, np.minimum)
            positional = (quick or function is np.dot) and not kwargs
            kwargs.append(f"{'' if positional else 'out='}{self._array(out)}")
        name = self._named.get(id(function)) or self.name(function, _title(op, "_"))
        code = f"{name}({', '.join([*operands, *kwargs])})"
        if out and function in COPIES:
            code = f"copyto({self._array(out)}, {operands[0]}, 'unsafe')"
        elif out and not fills:
            code = f"put({self._array(out)}, {code}, {op.line!r})"
        self.lines.append(Line(code, (op,)))

    def _end(self, recording: Recording, op: Operation) -> None:
        """What a step leaves behind beside arrays, and what it returns."""
        returned, places = op.operands
        views = zip(recording.gradients, [view for _, view in places], strict=True)
        # The memory is the program's own, so the Tensor can always be the same.
        self.names["gradients"] = [(t, view and Tensor(self.names[self._array(view)])) for t, view in views]
        versions = [(t.version, t.version[0] - before) for t, before in recording.versions.items()]
        self.names["steps"] = [(slot, slot.steps - before) for slot, before in recording.counts.items()]
        self.names["versions"] = [(version, count) for version, count in versions if count]
        for code in [
            "for tensor, gradient in gradients: tensor.grad = gradient",
            "for slot, count in steps: slot.steps += count",
            "for version, count in versions: version[0] += count",
            f"return {self._operand(returned)}",
        ]:
            self.lines.append(Line(code, (), False))

    def _guards(self, recording: Recording) -> list[Line]:
        """Is everything as it was?"""
        around = recording.around
        single: list[str] = []
        looks: list[str] = []
        expected: list[Any] = []
        for held, _, _ in around.whole.values():
            looks.append(f"*{self.name(held, 'x')}{'.values()' if isinstance(held, dict) else ''}")
            expected += held.values() if isinstance(held, dict) else held
        for place in around.places.values():
            at = f"{self.name(place.held, 'x')}{place.access()}"
            if isinstance(place.value, (Tensor, np.ndarray)) and place.value.size < 2:
                single.append(f"{at} is not {self.name(place.value, 'v')}")  # two of them may be equal and not the same
            if id(place.held) not in around.whole:
                looks.append(at)
                expected.append(place.value)
        for thing, before, _ in around.contents:
            looks.append(f"{self.name(contents, 'f')}({self.name(thing, 'x')})")
            expected.append(before)
        self.names.update(expected=expected, cleared=list(recording.cleared))
        changed = " or ".join([f"[{', '.join(looks)}] != expected", *single])
        changed = f"try:\n        if {changed}: return MISS\n    except Exception: return MISS"  # it cannot be compared
        left = "for tensor in cleared:\n        if tensor.grad is not None: return MISS"
        repeated = [f"if not array_equal({name}, {self.name(array, 'k')}): return MISS"
                    for name, array in recording.repeated.items()]  # fmt: skip
        return [Line(code, (), False) for code in (changed, left, *repeated)]

    def _numbers(self, recording: Recording) -> list[Line]:
        """The numbers of this step."""
        lines = [Line(f"{name} = {self.name(reader, 'x')}.lr") for reader, name in recording.readers.items()]
        for k, (optimizer, slot, ahead) in enumerate(recording.rates):
            at = f"{self.name(slot, 'x')}.steps + {ahead}"
            lines.append(Line(f"c{k} = {self.name(optimizer, 'x')}.numbers({at})"))
        lines += [Line(code, (), "return" not in code) for code, _ in recording.tracer.numbers]
        return lines + [Line(f"{name}[()] = {x.code}") for (x, _), name in self._scalars.items() if not x.kind]

    # Looking at it --------------------------------------------------------------------------------------------

    def measure(self, repeats: int = 20) -> list[float]:
        """Seconds that each line takes, the least of ``repeats`` runs. The model and the optimiser are as before."""
        seconds = [0.0] * len(self.lines)
        code = [f"_t = clock(); {line.code}; note({i}, clock() - _t)" for i, line in enumerate(self.lines)
                if line.repeatable]  # fmt: skip

        def note(i: int, spent: float) -> None:
            seconds[i] = min(seconds[i] or spent, spent)

        run = self._compiled(code, {"clock": time.perf_counter, "note": note})
        before = [array.copy() for array in self.changed_memory]
        try:
            with random.preserved(), np.errstate(all="ignore"):
                for _ in range(repeats):
                    run(**self.inputs)
        finally:
            for array, saved in zip(self.changed_memory, before, strict=True):
                array[...] = saved
        return seconds

    def explain(self) -> str:
        """The program as a table: microseconds, bytes and shape of the result, the user's line, the operation."""
        seconds = self.measure()
        rows = [f"{self} {1e6 * sum(seconds):.0f} us", f"{'us':>8}{'bytes':>10}  {'result':24}{'from':28}line"]
        for (code, ops, _, told), spent in zip(self.lines, seconds, strict=True):
            v = ops[-1].writes[0] if ops and ops[-1].writes else None
            size = f"{math.prod(v.shape) * v.dtype.itemsize:,}" if v else ""
            result, line = f"{v.dtype} {v.shape}" if v else "", ops[-1].line if ops else ""
            rows.append(f"{1e6 * spent:8.2f}{size:>10}  {result:24}{line:28}{' '.join((told or code).split())[:120]}")
        return "\n".join(rows)

    def graph(self) -> "graphviz.Digraph":
        """The operations and what flows between them."""
        import graphviz

        picture = graphviz.Digraph(node_attr={"shape": "box", "fontname": "sans-serif", "fontsize": "10"})
        writers: dict[int, str] = {}  # root -> the operation that wrote there last
        for i, op in enumerate(op for line in self.lines for op in line.ops):
            shape = f"\n{op.writes[0].shape}" if op.writes else ""
            picture.node(str(i), _title(op, ".") + shape, tooltip=op.line)
            for number in dict.fromkeys(v.root for v in op.reads):
                if number not in writers:
                    writers[number] = self.roots[number].name
                    picture.node(writers[number], f"{self.roots[number].kind} {writers[number]}", shape="ellipse")
                picture.edge(writers[number], str(i))
            writers.update({v.root: str(i) for v in op.writes})
        return picture


def _put(out: Array, result: Any, line: str) -> None:
    """``copyto``, which would repeat a smaller result."""
    if result.shape != out.shape:
        raise CompileError(
            f"{line}: the result is {result.shape}, but was {out.shape} when it was recorded. Where a shape depends on "
            "the data (x[mask], np.unique), use np.where, or leave the step uncompiled."
        )
    np.copyto(out, result)


def _states(*streams: str) -> list[tuple[np.random.BitGenerator, Any]]:
    """Where random streams are, before what they draw decides on a guard."""
    generators = [random.stream(name).bit_generator for name in streams]
    return [(generator, generator.state) for generator in generators]


def _set_back(states: list[tuple[np.random.BitGenerator, Any]]) -> None:
    for generator, state in states:
        generator.state = state


def _title(op: Operation, dot: str) -> str:
    """What an operation is called."""
    owner, name = getattr(op.function, "__self__", None), getattr(op.function, "__name__", "function")
    if type(op.function) is Draw:
        name = op.function.method
    title = f"{owner.__name__}{dot}{name}" if isinstance(owner, np.ufunc) else name
    return title if title.replace(".", "").isidentifier() else "function"


def _takes_out(function: Any) -> bool:
    """Whether the result can be written into a ready buffer."""
    name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    fills = type(function) is Draw and function.method in ("random", "standard_normal")
    reduces = isinstance(owner, np.ufunc) and name in ("reduce", "accumulate")
    return isinstance(function, np.ufunc) or function in (np.concatenate, np.dot) or reduces or fills


def _dtype(number: Scalar, op: Operation | None) -> np.dtype[Any] | None:
    """The dtype that a Python number takes on beside the operation's arrays, where they agree on it."""
    if op is None or not isinstance(op.function, np.ufunc) or "dtype" in dict(op.kwargs):
        return None
    dtypes = {v.dtype for v in op.reads}
    if len(dtypes) != 1:
        return None
    dtype = dtypes.pop()
    whole = dtype.kind in "iu" and number.kind is int
    fits = dtype.kind == "f" or (whole and np.iinfo(dtype).min <= int(number.code) <= np.iinfo(dtype).max)
    return dtype if fits else None
