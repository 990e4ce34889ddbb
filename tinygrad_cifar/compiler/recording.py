"""A recording: one run of the step under the tracer, the comparison of two, and the program that comes of them."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinygrad_cifar import random
from tinygrad_cifar.compiler.program import Program, Writer
from tinygrad_cifar.compiler.surroundings import Surroundings, look
from tinygrad_cifar.compiler.trace import (
    Draws,
    Instruction,
    Number,
    Root,
    Scalar,
    Traced,
    Tracer,
    View,
    views,
    where,
    window,
)
from tinygrad_cifar.errors import CompileError
from tinygrad_cifar.nn.module import Module
from tinygrad_cifar.optim.optimizer import Optimizer
from tinygrad_cifar.tensor import Array, Tensor


def tree(x: Any, leaf: Callable[[Any], Any]) -> Any:
    """``x`` with all that is no list, tuple or dict replaced by ``leaf`` of it."""
    if isinstance(x, tuple) and hasattr(x, "_fields") and type(x) not in (View, Scalar):
        return type(x)(*[tree(i, leaf) for i in x])
    if type(x) is list or type(x) is tuple:
        return type(x)([tree(i, leaf) for i in x])
    return {k: tree(v, leaf) for k, v in x.items()} if type(x) is dict else leaf(x)


class Recording:
    """What one call of the step did."""

    def __init__(
        self, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], before: "Recording | None"
    ) -> None:
        self.step, self.tracer = step, Tracer()
        self.parameters: list[str] = []
        self.copied: list[str] = []  # arguments that are not contiguous
        objects: list[Any] = []  # arguments that are neither arrays nor numbers
        self.args, self.kwargs = tree((args, kwargs), lambda x: self._argument(x, objects))
        self.around = Surroundings(step, objects)
        self.originals: dict[Tensor, Array] = {}
        self.bumps = {t: -t.version[0] for t in self.around.tensors}
        self.steps: list[tuple[Optimizer, Any]] = []
        self.constants: list[Root] = []  # made anew in each run, with the same contents
        self.entry = {t: t.grad for t in self.around.tensors}
        for gradient in self.entry.values():
            if gradient is not None:
                self.tracer.add(gradient.data, "gradient")
        outside = [root for root in before.tracer.roots if root.snapshot is not None] if before else []
        self.earlier = {root: root.array.copy(order="K") for root in outside}  # as it is now, before this run

    def _argument(self, x: Any, objects: list[Any]) -> Any:
        if isinstance(x, Tensor):
            if x.requires_grad:
                raise CompileError("an argument of a compiled step cannot require a gradient; pass x.detach().")
            return Tensor._like(self._argument(x.data, objects))
        name = f"a{len(self.parameters)}"
        if type(x) is np.ndarray:
            self.parameters.append(name)
            contiguous = x.flags.c_contiguous or x.flags.f_contiguous
            if not contiguous:
                self.copied.append(name)
            if not contiguous or self.tracer.find(x) is not None:  # the same memory twice: tell the two apart
                x = x.copy(order="K")
            return self.tracer.traced(x, "argument", name)
        if type(x) is float:
            self.parameters.append(name)
            return Number(x, ("argument", name), self.tracer)
        objects.append(x)
        return x

    # Running --------------------------------------------------------------------------------------------------

    def run(self) -> Any:
        """Do the step for real."""
        self.before = self.around.now()
        streams = random._streams
        with self.tracer, _replaced(*self._ways_out()):
            self._wrap()
            try:
                result = self.step(*self.args, **self.kwargs)
                self.outputs = tree(result, self._output)
                gradients = [(t, t.grad) for t in self.around.tensors if t.grad is not self.entry.get(t)]
                self.gradients = [(t, self.tracer.view(g.data)) for t, g in gradients if g is not None]
            finally:
                streams.update(random._streams)
                self._unwrap()
                for t in self.around.tensors:
                    if t.grad is not None and type(t.grad.data) is Traced:
                        t.grad = Tensor(t.grad.data.view(np.ndarray))
        self.bumps = {t: count + t.version[0] for t, count in self.bumps.items()}
        return tree(self.outputs, _value)

    def _wrap(self) -> None:
        for tensor in self.around.tensors:
            if type(tensor.data) is np.ndarray:
                self.originals[tensor] = tensor.data
                tensor.data = self.tracer.traced(tensor.data, "outside")

    def _unwrap(self) -> None:
        for tensor, data in self.originals.items():
            if type(tensor.data) is Traced:
                same = tensor.data.__array_interface__ == data.__array_interface__
                tensor.data = data if same else tensor.data.view(np.ndarray)

    def _ways_out(self) -> list[tuple[Any, str, Any]]:
        """The places where a step leaves the world of arrays, and what stands there while it is recorded."""
        make, convert, call, tracer, recording = Tensor.__init__, Tensor.__array__, Module.__call__, self.tracer, self

        def init(tensor: Tensor, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
            array = data.data if isinstance(data, Tensor) else data
            if type(array) is Traced and dtype is not None:
                array = data = array.astype(dtype, copy=False)
            make(tensor, data, requires_grad, dtype)
            if type(array) is Traced:
                tensor.data = array

        def as_array(tensor: Tensor, dtype: Any = None, copy: bool | None = None) -> Array:
            if type(tensor.data) is Traced:
                tracer.refuse(
                    "np.asarray of a Tensor takes its values out of the step while that is recorded. Use NumPy "
                    "functions on the Tensor itself or on t.data, or return it from the step."
                )
            return convert(tensor, dtype, copy)

        def forward(module: Module, *args: Any, **kwargs: Any) -> Any:
            if not recording.around.knows(module):
                recording.around.reach([module])
                recording._wrap()
            return call(module, *args, **kwargs)

        class Streams(dict[str, Any]):
            def __getitem__(self, name: str) -> Any:
                return Draws(super().__getitem__(name), name, tracer)

        return [
            (Tensor, "__init__", init), (Tensor, "__array__", as_array), (Module, "__call__", forward),
            (Optimizer, "step", lambda optimizer: recording._update(optimizer)),
            (random, "_streams", Streams(random._streams)),
        ]  # fmt: skip

    def _update(self, optimizer: Optimizer) -> None:
        """An optimiser's step: its bookkeeping becomes a line of the program, its arithmetic is recorded."""
        tracer, number = self.tracer, len(self.steps)
        if not self.around.knows(optimizer):
            self.around.reach([optimizer])
        tensors = [slot.tensor for slot in optimizer._slots]
        versions = [t.version[0] for t in tensors]
        self._unwrap()
        segments = optimizer.advance()
        self._wrap()
        for t, version in zip(tensors, versions, strict=True):
            self.bumps[t] = self.bumps.get(t, -version) + version - t.version[0]  # counted by advance
        self.steps.append((optimizer, segments))
        self.around.recorded.add(id(optimizer))
        gradients = [(t, tracer.view(t.grad.data)) for t in tensors if t.grad is not None]
        of = [id(t) for t, _ in gradients]
        bookkeeping = Instruction(Optimizer.advance, tuple(v for _, v in gradients), {"of": of}, where())
        bookkeeping.effect = ("python", lambda writer: _advance(writer, number, optimizer, segments, gradients))
        tracer.instructions.append(bookkeeping)
        for k, segment in enumerate(segments):
            blocks = []
            for block in segment.blocks:
                state = tuple(tracer.traced(s, "outside") for s in block.state)
                weights, scratch = tracer.traced(block.weights, "outside"), tracer.traced(block.scratch, "outside")
                gradient = tracer.traced(np.empty_like(block.gradient), "planned")  # its pieces can be computed in it
                blocks.append(replace(block, weights=weights, state=state, scratch=scratch, gradient=gradient))
            traced = replace(segment, blocks=tuple(blocks))
            values = optimizer.coefficients(segment.steps)
            numbers: Any = {name: Number(v, ("coefficient", number, k, name), tracer) for name, v in values.items()}
            optimizer.apply(traced, traced.gradient(), numbers)

    def _output(self, x: Any) -> Any:
        """A part of what the step returned: (what, view), or (None, value)."""
        if isinstance(x, Tensor):
            return _Result(Tensor, self.tracer.view(x.data))
        if isinstance(x, np.ndarray):
            return _Result(np.ndarray, self.tracer.view(x))
        return _Result(None, Scalar(x.key) if isinstance(x, Number) else x)

    def check(self) -> None:
        """Raise CompileError where the step did something that its array operations do not tell of."""
        if self.tracer.refusal:
            raise CompileError(self.tracer.refusal)
        after = self.around.now()
        adopted = [slot.view for optimizer, _ in self.steps for slot in optimizer._slots]
        for (key, name), (held, value) in self.before.items():
            now = after.get((key, name), (None, None))[1]
            same = now is value or (isinstance(value, int | float | str) and type(now) is type(value) and now == value)
            if not same and name not in ("_present", "_segments") and not any(now is view for view in adopted):
                raise CompileError(
                    f"the step changes {self.around.describe(held, name)}, which a replay would not: it repeats array "
                    "operations only. Count, schedule and store outside of the compiled step; write to arrays in place."
                )

    # Comparing ------------------------------------------------------------------------------------------------

    def difference(self, later: "Recording") -> str:
        """In what the two recordings differ, or ""."""
        pairs: dict[Root, Root] = {}
        ours, theirs = self.tracer.instructions, later.tracer.instructions
        for a, b in zip(ours, theirs, strict=False):
            if not later._alike(_stated(a), _stated(b), pairs, b.line):
                return f"{b.line} does something else than {a.line} did"
        if len(ours) != len(theirs):
            return f"{len(theirs)} operations in place of {len(ours)}"
        first, second = [[r.outputs, [(id(t), v) for t, v in r.gradients]] for r in (self, later)]
        return "" if later._alike(first, second, pairs, "what the step returns") else "other results or gradients"

    def _alike(self, a: Any, b: Any, pairs: dict[Root, Root], line: str) -> bool:
        if type(a) is not type(b):
            return False
        if type(a) is View:
            if a[1:] != b[1:] or a.root.kind != b.root.kind:
                return False
            if a.root not in pairs and a.root.kind == "outside" and a.root.snapshot is not None:
                self._check_constant(a.root, b.root, line)
            return pairs.setdefault(a.root, b.root) is b.root
        if type(a) in (list, tuple, _Result):
            return len(a) == len(b) and all(self._alike(x, y, pairs, line) for x, y in zip(a, b, strict=True))
        if type(a) is dict:
            return a.keys() == b.keys() and all(self._alike(a[k], b[k], pairs, line) for k in a)
        if isinstance(a, np.ndarray):
            return _same_bytes(a, b)
        if isinstance(a, float) and a != b and not (a != a and b != b):
            raise CompileError(
                f"{line}: the number {a!r} was {b!r} at the next call, and the recording cannot see why. Make it an "
                "argument of the step (a float, or a 0-d array), or an attribute that optimizer.coefficients reads."
            )
        return bool(a is b or a == b)

    def _check_constant(self, a: Root, b: Root, line: str) -> None:
        """Memory from outside: the same in both runs, or made anew with the same contents. Else it is a leak."""
        if a.start == b.start:
            leak = not _same_bytes(self.earlier[a], b.snapshot)
        else:
            leak = not _same_bytes(a.snapshot, b.snapshot)
            self.constants.append(b)
        if leak:
            raise CompileError(
                f"{line}: an array whose values change from call to call enters here, made by operations that the "
                "recording cannot see (np.asarray, np.array, a file, a generator of one's own). Make it an argument of "
                "the step, Tensor(x) where it is an ndarray; draw random numbers from tinygrad_cifar.random.stream."
            )

    def changed(self, program: Program) -> str:
        """Why the program's guards failed."""
        for held, name, value in program.relies:
            if look(held, name) is not value:
                return f"{self.around.describe(held, name)} changed"
        return "a condition on the data came out otherwise, or a gradient was left from before"

    # Becoming a program ---------------------------------------------------------------------------------------

    def program(self) -> Program:
        """The program that replays this recording."""
        program = Program(self.parameters)
        instructions = self._prepared()
        advances = [i for i in instructions if i.function is Optimizer.advance]
        results: list[Any] = []
        tree(self.outputs, results.append)
        kept = {v.root for v in views([*(r[1] for r in results), *(v for _, v in self.gradients)])}
        kept |= {v.root for i in advances for v in i.reads()}
        self._write_guards(program)
        writer = program.build(instructions, kept)
        for name in self.parameters:
            fill = functools.partial(writer.fill, ("argument",), str, name)
            writer.deferred.append((program.line(""), fill))
            program.lines.insert(program.start, program.lines.pop())
        advances = advances if len(advances) == 1 else []
        given = [g for i in advances for g in zip(i.kwargs["of"], i.operands, strict=True)]
        for tensor, view in self.gradients:
            if (id(tensor), view) not in given:
                program.line(_set_gradient(writer, tensor, view))
        for tensor, gradient in self.entry.items():
            if gradient is not None and tensor.grad is None:
                program.line(f"{program.name(tensor, 'x')}.grad = None")
        for tensor, count in self.bumps.items():
            if count > 0:
                program.line(f"{program.name(tensor, 'x')}.version[0] += {count}")
        items = [_source(writer, result) for result in results]
        if type(self.outputs) is _Result:
            program.line(f"return {items[0]}")
        else:
            shape, count = tree(self.outputs, lambda _: None), len(items)

            def rebuilt(items: Iterator[Any]) -> Any:
                return tree(shape, lambda _: next(items))

            program.line(f"return {program.name(rebuilt, 'rebuilt')}(iter(({', '.join(items)}{',' * (count == 1)})))")
        program.finish(writer)
        return program

    def _prepared(self) -> list[Instruction]:
        """The instructions, with constants that the step itself changes set anew at each replay."""
        anew = []
        written = {v.root for i in self.tracer.instructions for v in i.writes()}
        for root in self.constants:
            root.kind = "planned" if root in written else "constant"
            if root in written:
                place = View(root, 0, root.array.shape, root.array.strides, root.array.dtype)
                copy = Instruction(np.copyto, (place, root.snapshot), {}, "")
                copy.written = (place,)
                anew.append(copy)
        if any(root.kind == "argument" and root.name in self.copied for root in written):
            raise CompileError("the step changes an argument in place that is not contiguous; pass a contiguous one.")
        return anew + self.tracer.instructions

    def _write_guards(self, program: Program) -> None:
        looks: dict[str, list[Any]] = {}
        single = []
        contents = {id(vars(module)) for module in self.around.modules}
        for held, name in self.around.watched():
            value, place = look(held, name), program.name(held, "x")
            program.relies.append((held, name, value))
            at = f"{place}.get({name!r})" if isinstance(held, dict) else f"{place}.{name}"
            if isinstance(value, Tensor | np.ndarray) and value.size < 2:
                single.append(f"{at} is not {program.name(value, 'v')}")  # two of them may be equal and not the same
            looks.setdefault(f"*{place}.values()" if id(held) in contents else at, []).append(value)
        program.names["expected"] = [value for values in looks.values() for value in values]
        guards = [" or ".join([f"[{', '.join(looks)}] != expected", *single])]
        for key, value in self.tracer.pinned.items():
            now = str(key[1])
            if key[0] == "coefficient":
                optimizer, segments = self.steps[key[1]]
                now = f"{program.name(optimizer, 'x')}.coefficients({program.name(segments[key[2]], 's')}.steps + 1)"
                now += f"[{key[3]!r}]"
            guards.append(f"{now} != {value!r}")
        for tensor, _ in self.gradients:
            if self.entry.get(tensor) is None:
                guards.append(f"{program.name(tensor, 'x')}.grad is not None")
        program.line(f"try:\n        if {' or '.join(guards)}: return MISS\n    except ValueError: return MISS")
        for name in self.copied:
            program.line(f"{name} = copy({name}, 'K')")
        program.start = len(program.lines)


class _Result(tuple[Any, Any]):
    """(Tensor or ndarray, view) or (None, value): a leaf of what the step returned."""

    def __new__(cls, kind: Any, value: Any) -> "_Result":
        return super().__new__(cls, (kind, value))


def _value(result: Any) -> Any:
    kind, value = result
    if kind is None:
        return value
    array = window(value).copy(order="K")
    return Tensor(array) if kind is Tensor else array[()]


def _source(writer: Writer, result: Any) -> str:
    kind, value = result
    if kind is None:
        return str(value.key[1]) if type(value) is Scalar else writer.program.name(value, "c")
    copy = f"{writer.array(value)}.copy('K')"
    return f"Tensor({copy})" if kind is Tensor else f"{copy}[()]"


def _stated(i: Instruction) -> tuple[Any, ...]:
    """What can be compared of an instruction."""
    python = isinstance(i.effect, tuple) and i.effect[0] == "python"
    return i.function, i.operands, i.kwargs, i.out, i.written, "python" if python else i.effect


def _same_bytes(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _advance(writer: Writer, number: int, optimizer: Any, segments: Any, gradients: Any) -> list[str]:
    """The bookkeeping of an optimiser's step, and its numbers."""
    program = writer.program
    code = [_set_gradient(writer, tensor, view) for tensor, view in gradients]
    name = program.name(optimizer, "x")
    if type(optimizer).advance is Optimizer.advance:  # its counting, written out: the guards have checked the rest
        for slot in [slot for segment in segments for slot in segment.slots]:
            code += [f"{program.name(slot, 's')}.steps += 1", f"{program.name(slot.tensor, 'x')}.version[0] += 1"]
    else:
        code.append(f"{name}.advance()")
    for k, segment in enumerate(segments):
        numbers = writer.fill(("coefficient", number, k), lambda key: f"values[{key!r}]")
        if numbers:
            code += [f"values = {name}.coefficients({program.name(segment.slots[0], 's')}.steps)", *numbers]
    return code


def _set_gradient(writer: Writer, tensor: Tensor, view: View) -> str:
    """``p.grad`` is the program's own buffer: its values last until the next replay."""
    name = writer.program.name(tensor, "x")
    if view.root in writer.bound:
        return f"{name}.grad = Tensor({writer.array(view)})"
    return f"{name}.grad = {writer.gradient(view)}"


@contextlib.contextmanager
def _replaced(*attributes: tuple[Any, str, Any]) -> Iterator[None]:
    """With attributes (of what, name, value) that are other ones inside the block."""
    before = [(thing, name, getattr(thing, name)) for thing, name, _ in attributes]
    try:
        for thing, name, value in attributes:
            setattr(thing, name, value)
        yield
    finally:
        for thing, name, value in before:
            setattr(thing, name, value)
