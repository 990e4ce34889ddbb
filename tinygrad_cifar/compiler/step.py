"""``compile(step)``: a step that records itself when it meets something new, and else replays."""

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinygrad_cifar import random
from tinygrad_cifar.compiler import trace
from tinygrad_cifar.compiler.program import MISS, Line, Program, Writer
from tinygrad_cifar.compiler.surroundings import Surroundings, look
from tinygrad_cifar.compiler.trace import Draws, Instruction, Number, Root, Scalar, Traced, Tracer, View, views, where
from tinygrad_cifar.errors import CompileError
from tinygrad_cifar.nn.module import Module
from tinygrad_cifar.optim.optimizer import Optimizer
from tinygrad_cifar.tensor import Array, Tensor, _Mode

ATTEMPTS = 8  # recordings in a row that may differ, and programs kept for one kind of arguments


def compile(step: Callable[..., Any]) -> "CompiledStep":
    """``step``, which computes the same, bit for bit, without any graph.

    The first two calls with arguments of a new kind run the step as it is and record its array operations; where the
    two recordings agree, later calls replay them into memory that was planned ahead. So what the step does besides
    (printing, counting) happens only while it is recorded.
    """
    return CompiledStep(step)


class CompiledStep:
    """What ``compile`` returns: called like the step itself."""

    def __init__(self, step: Callable[..., Any]) -> None:
        functools.update_wrapper(self, step)
        self.step = step
        self.programs: dict[Hashable, list[Program]] = {}
        self.recordings: list[str] = []  # why each recording was made
        self._candidates: dict[Hashable, tuple[Recording, int]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if trace.at_work() or _Mode.detecting:  # inside another compiled step, or op by op to find an anomaly
            return self.step(*args, **kwargs)
        key: list[Any] = [_Mode.recording]
        inputs: list[Any] = []
        for x in args:
            _add(x, key, inputs)
        for name in kwargs:
            key.append(name)
            _add(kwargs[name], key, inputs)
        programs = self.programs.get(tuple(key), ())
        for program in programs:
            result = program.run(*inputs)
            if result is not MISS:
                return result
        return self._record(tuple(key), args, kwargs)

    def _record(self, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before, attempts = self._candidates.pop(key, (None, 0))
        recording = Recording(self.step, args, kwargs, before)
        result = recording.run()
        try:
            self._learn(key, recording, before, attempts)
        except CompileError as error:
            error.result = result  # the step itself was done
            raise
        return result

    def _learn(self, key: Hashable, recording: "Recording", before: "Recording | None", attempts: int) -> None:
        recording.check()
        difference = "first call with such arguments" if before is None else before.difference(recording)
        if difference:
            self.recordings.append(difference)
            if attempts >= ATTEMPTS:
                raise CompileError(
                    f"the step takes another path at every call; at last: {difference}. What changes must be an argument, "
                    "or stay outside of the compiled step."
                )
            self._candidates[key] = (recording, attempts + 1)
        else:
            self.recordings.append("confirmed: the same operations again")
            programs = self.programs.setdefault(key, [])
            programs.append(recording.program())
            del programs[:-ATTEMPTS]


def _add(x: Any, key: list[Any], inputs: list[Any]) -> None:
    """An argument's part of the key, and those of its values that a replay takes."""
    kind = type(x)
    if isinstance(x, Tensor):
        key.append((Tensor, x.requires_grad))
        x = x.data
        kind = np.ndarray
    if kind is np.ndarray:
        key.append((x.shape, x.dtype, x.strides))
        inputs.append(x)
    elif kind is float:
        key.append(float)
        inputs.append(x)
    elif kind is list or kind is tuple:
        key.append((kind, len(x)))
        for i in x:
            _add(i, key, inputs)
    elif kind is dict:
        key.append((dict, *x))
        for i in x.values():
            _add(i, key, inputs)
    elif kind in (int, str, bool, type(None), bytes):
        key.append((kind, x))
    else:
        key.append(_Same(x))


class _Same:
    """Equal to itself alone; keeps the object alive, so that its address stays its own."""

    def __init__(self, thing: Any):
        self.thing = thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing


class Recording:
    """One run of the step under the tracer, and all that a program needs to know of it."""

    def __init__(
        self, step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], before: "Recording | None"
    ) -> None:
        self.step, self.tracer = step, Tracer()
        self.parameters: list[str] = []
        self.floats: list[str] = []
        self.copied: list[str] = []  # arguments that are not contiguous
        self.originals: dict[Tensor, Array] = {}
        self.bumps: dict[Tensor, int] = {}
        self.steps: list[tuple[Optimizer, Any]] = []
        self.unseen: list[tuple[Root, Array]] = []  # outside memory of the recording before, as it is now
        if before:
            outside = [r for r in before.tracer.roots if r.kind == "outside" and r.snapshot is not None]
            self.unseen = [(r, r.array.copy(order="K")) for r in outside]
        self.objects: list[Any] = []  # arguments that are neither arrays nor numbers
        self.args, self.kwargs = self._argument(args), self._argument(kwargs)
        self.around = Surroundings(step, self.objects)
        self.entry = {t: t.grad for t in self.around.tensors}
        for gradient in self.entry.values():
            if gradient is not None:
                self.tracer.add(gradient.data, "gradient")

    def _argument(self, x: Any) -> Any:
        kind = type(x)
        if isinstance(x, Tensor):
            if x.requires_grad:
                raise CompileError("an argument of a compiled step cannot require a gradient; pass x.detach().")
            return Tensor._like(self._argument(x.data))
        if kind is np.ndarray:
            name = f"a{len(self.parameters)}"
            self.parameters.append(name)
            if not (x.flags.c_contiguous or x.flags.f_contiguous):
                self.copied.append(name)
                x = x.copy(order="K")
            elif self.tracer.find(x) is not None:
                x = x.copy(order="K")  # the same memory twice: tell the two apart
            return self.tracer.traced(x, "argument", name)
        if kind is float:
            name = f"a{len(self.parameters)}"
            self.parameters.append(name)
            self.floats.append(name)
            return Number(x, ("argument", name), self.tracer)
        if kind is list or kind is tuple:
            return kind([self._argument(i) for i in x])
        if kind is dict:
            return {k: self._argument(v) for k, v in x.items()}
        self.objects.append(x)
        return x

    # Running --------------------------------------------------------------------------------------------------

    def run(self) -> Any:
        self.before = self.around.now()
        versions = {t: t.version[0] for t in self.around.tensors}
        with self.tracer, self._patched():
            self._wrap()
            try:
                result = self.step(*self.args, **self.kwargs)
                self.outputs = self._output(result)
                self.gradients = [
                    (t, self.tracer.view(t.grad.data))
                    for t in self.around.tensors if t.grad is not None and t.grad is not self.entry.get(t)
                ]  # fmt: skip
            finally:
                self._unwrap()
                for t in self.around.tensors:
                    if t.grad is not None and type(t.grad.data) is Traced:
                        t.grad = Tensor(np.asarray(t.grad.data))
        self.cleared = [t for t, g in self.entry.items() if g is not None and t.grad is None]
        for tensor, version in versions.items():
            self.bumps[tensor] = tensor.version[0] - version - self.bumps.get(tensor, 0)
        return self._returned(self.outputs)

    def _wrap(self) -> None:
        for tensor in self.around.tensors:
            if type(tensor.data) is np.ndarray:
                self.originals[tensor] = tensor.data
                tensor.data = self.tracer.traced(tensor.data, "outside")

    def _unwrap(self) -> None:
        for tensor, data in self.originals.items():
            if type(tensor.data) is Traced:
                same = tensor.data.__array_interface__ == data.__array_interface__
                tensor.data = data if same else np.asarray(tensor.data)

    @contextlib.contextmanager
    def _patched(self) -> Iterator[None]:
        """While a step is recorded, the places where it leaves the world of arrays lead through here."""
        recording, tracer = self, self.tracer
        make, convert, call, update, streams = (
            Tensor.__init__, Tensor.__array__, Module.__call__, Optimizer.step, random._streams,
        )  # fmt: skip

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
                    "np.asarray of a Tensor takes its values out of the step while that is recorded. Use "
                    "NumPy functions on the Tensor itself or on t.data, or return it from the step."
                )
                return np.array(np.asarray(tensor.data), dtype, copy=copy)
            return convert(tensor, dtype, copy)

        def forward(module: Module, *args: Any, **kwargs: Any) -> Any:
            if module not in recording.around.modules:
                recording.around.reach([module])
                recording._wrap()
            return call(module, *args, **kwargs)

        class Streams(dict[str, Any]):
            def __getitem__(self, name: str) -> Any:
                return Draws(super().__getitem__(name), name, tracer)

        try:
            Tensor.__init__, Tensor.__array__ = init, as_array  # type: ignore[method-assign]
            Module.__call__, Optimizer.step = forward, self._update  # type: ignore[method-assign]
            random._streams = Streams(streams)
            yield
        finally:
            Tensor.__init__, Tensor.__array__ = make, convert  # type: ignore[method-assign]
            Module.__call__, Optimizer.step = call, update  # type: ignore[method-assign]
            streams.update(random._streams)
            random._streams = streams

    @property
    def _update(self) -> Callable[[Optimizer], None]:
        def step(optimizer: Optimizer) -> None:
            self._optimize(optimizer)

        return step

    def _optimize(self, optimizer: Optimizer) -> None:
        """An optimiser's step: its bookkeeping is a line of the program, its arithmetic is recorded."""
        tracer = self.tracer
        if optimizer not in self.around.optimizers:
            self.around.reach([optimizer])
        tensors = [slot.tensor for slot in optimizer._slots]
        versions = [t.version[0] for t in tensors]
        self._unwrap()
        segments = optimizer.advance()
        self._wrap()
        for t, version in zip(tensors, versions, strict=True):
            self.bumps[t] = self.bumps.get(t, 0) + t.version[0] - version
        number = len(self.steps)
        self.steps.append((optimizer, segments))
        gradients = [(t, tracer.view(t.grad.data)) for t in tensors if t.grad is not None]
        of = [id(t) for t, _ in gradients]
        bookkeeping = Instruction(Optimizer.advance, tuple(v for _, v in gradients), {"of": of}, where())
        bookkeeping.effect = ("python", lambda writer: _advance(writer, number, optimizer, segments, gradients))
        tracer.instructions.append(bookkeeping)
        for k, segment in enumerate(segments):
            blocks = tuple(
                replace(
                    block, weights=tracer.traced(block.weights, "outside"),
                    state=tuple(tracer.traced(s, "outside") for s in block.state),
                    scratch=tracer.scratch(block.scratch), gradient=tracer.scratch(block.gradient),
                )
                for block in segment.blocks
            )  # fmt: skip
            traced = replace(segment, blocks=blocks)
            values = optimizer.coefficients(segment.steps)
            numbers: Any = {name: Number(v, ("coefficient", number, k, name), tracer) for name, v in values.items()}
            optimizer.apply(traced, traced.gradient(), numbers)

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

    def _output(self, x: Any) -> Any:
        """The structure of what the step returned, with views in place of arrays."""
        if isinstance(x, Tensor):
            return (Tensor, self.tracer.view(x.data))
        if isinstance(x, np.ndarray):
            return (np.ndarray, self.tracer.view(x))
        if isinstance(x, list | tuple):
            return (type(x), [self._output(i) for i in x])
        if isinstance(x, dict):
            return (dict, {k: self._output(v) for k, v in x.items()})
        return (None, Scalar(x.key) if isinstance(x, Number) else x)

    def _returned(self, output: Any) -> Any:
        kind, value = output
        if kind is Tensor or kind is np.ndarray:
            piece = trace.window(value)
            return Tensor(piece.copy(order="K")) if kind is Tensor else piece.copy(order="K")[()]
        if kind is dict:
            return {k: self._returned(v) for k, v in value.items()}
        if kind is None:
            return value
        items = [self._returned(i) for i in value]
        return kind(*items) if hasattr(kind, "_fields") else kind(items)

    # Comparing ------------------------------------------------------------------------------------------------

    def difference(self, later: "Recording") -> str:
        """In what the two recordings differ, or ""."""
        pairs: dict[Root, Root] = {}
        ours, theirs = self.tracer.instructions, later.tracer.instructions
        for a, b in zip(ours, theirs, strict=False):
            same = (
                a.function == b.function and a.kwargs.keys() == b.kwargs.keys() and _effect(a) == _effect(b)
                and later._alike(a.operands, b.operands, pairs, b.line)
                and all(later._alike(a.kwargs[k], b.kwargs[k], pairs, b.line) for k in a.kwargs)
                and later._alike(a.out, b.out, pairs, b.line) and later._alike(a.written, b.written, pairs, b.line)
            )  # fmt: skip
            if not same:
                return f"{b.line} does something else than {a.line} did"
        if len(ours) != len(theirs):
            return f"{len(theirs)} operations in place of {len(ours)}"
        if [id(t) for t, _ in self.gradients] != [id(t) for t, _ in later.gradients]:
            return "other parameters have gradients"
        results = [self.outputs, [v for _, v in self.gradients]], [later.outputs, [v for _, v in later.gradients]]
        return "" if later._alike(*results, pairs, "what the step returns") else "another result is returned"

    def _alike(self, a: Any, b: Any, pairs: dict[Root, Root], line: str) -> bool:
        if type(a) is not type(b):
            return False
        if type(a) is View:
            if a[1:] != b[1:] or a.root.kind != b.root.kind or pairs.setdefault(a.root, b.root) is not b.root:
                return False
            if a.root.kind == "outside" and a.root.snapshot is not None:
                self._constant(a.root, b.root, line)
            return True
        if isinstance(a, list | tuple) and type(a) is not Scalar:
            return len(a) == len(b) and all(self._alike(x, y, pairs, line) for x, y in zip(a, b, strict=True))
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(self._alike(a[k], b[k], pairs, line) for k in a)
        if isinstance(a, np.ndarray):
            return _same_bytes(a, b)
        if isinstance(a, float | int) and a != b and not (a != a and b != b):
            raise CompileError(
                f"{line}: the number {a!r} was {b!r} at the next call, and the recording cannot see why. Make it an "
                "argument of the step (a float, or a 0-d array), or an attribute that optimizer.coefficients reads."
            )
        return bool(a is b or a == b)

    def _constant(self, a: Root, b: Root, line: str) -> None:
        """Memory from outside: the same in both runs, or made anew with the same contents. Else it is a leak."""
        if a.start == b.start:
            leak = any(r is a and not _same_bytes(was, b.snapshot) for r, was in self.unseen)
        else:
            leak = not _same_bytes(a.snapshot, b.snapshot)
            b.kind = "constant"
        if leak:
            raise CompileError(
                f"{line}: an array whose values change from call to call enters here, made by operations that the "
                "recording cannot see (np.asarray, np.array, a file, a generator of one's own). Make it an argument of "
                "the step; draw random numbers from tinygrad_cifar.random.stream(name)."
            )

    # Becoming a program ---------------------------------------------------------------------------------------

    def program(self) -> Program:
        program = Program()
        instructions = self._prepared()
        kept = {v.root for v in views([self.outputs, [v for _, v in self.gradients]])}
        kept |= {v.root for i in instructions if i.function is Optimizer.advance for v in i.reads()}
        self._guards(program)
        writer = program.build(instructions, kept, self.parameters, self.floats)
        given = [g for i in instructions if i.function is Optimizer.advance for g in zip(i.kwargs["of"], i.operands)]
        for tensor, view in self.gradients:
            if len(self.steps) != 1 or (id(tensor), view) not in given:
                _set_gradient(writer, tensor, view, program.lines)
        for tensor in self.cleared:
            program.lines.append(Line(f"{program.name(tensor, 'x')}.grad = None"))
        for tensor, count in self.bumps.items():
            if count:
                program.lines.append(Line(f"{program.name(tensor, 'x')}.version[0] += {count}"))
        program.lines.append(Line(f"return {self._result(writer, self.outputs)}"))
        program.finish(writer)
        return program

    def _prepared(self) -> list[Instruction]:
        """The instructions, with constants that the step changes set anew at each replay."""
        written = {v.root for i in self.tracer.instructions for v in i.writes()}
        anew = []
        for root in written:
            if root.kind == "constant" and root.snapshot is not None:
                root.kind = "planned"
                copy = Instruction(np.copyto, (), {}, "")
                copy.written = View(root, 0, root.array.shape, root.array.strides, root.array.dtype)
                copy.operands = (copy.written, root.snapshot)
                anew.append(copy)
            if root.kind == "argument" and root.name in self.copied:
                raise CompileError("the step changes an argument in place that is not contiguous; pass a contiguous one.")
        return anew + self.tracer.instructions

    def _guards(self, program: Program) -> None:
        looks, values, single = [], [], []
        whole: list[Any] = []
        for held, name in self.around.watched():
            value = look(held, name)
            program.keep.append(held)
            place = program.name(held, "x")
            at = f"{place}.get({name!r})" if isinstance(held, dict) else f"{place}.{name}"
            if isinstance(value, Tensor | np.ndarray) and value.size < 2:
                single.append(f"{at} is not {program.name(value, 'v')}")  # two of them may be equal and not the same
            if any(held is vars(m) for m in self.around.modules):
                if not any(held is w for w in whole):
                    whole.append(held)
                    looks.append(f"*{place}.values()")
                    values += held.values()
            else:
                looks.append(at)
                values.append(value)
        program.names["expected"] = values
        guard = " or ".join([f"[{', '.join(looks)}] != expected", *single])
        program.lines.append(Line(f"try:\n        if {guard}: return MISS\n    except ValueError: return MISS"))
        for key, value in self.tracer.pinned.items():
            if key[0] == "argument":
                now = key[1]
            else:
                optimizer, segments = self.steps[key[1]]
                segment = program.name(segments[key[2]], "segment")
                now = f"{program.name(optimizer, 'x')}.coefficients({segment}.steps + 1)[{key[3]!r}]"
            program.lines.append(Line(f"if {now} != {value!r}: return MISS"))
        for tensor, _ in self.gradients:
            if self.entry.get(tensor) is None:
                program.lines.append(Line(f"if {program.name(tensor, 'x')}.grad is not None: return MISS"))
        for name in self.copied:
            program.lines.append(Line(f"{name} = copy({name}, 'K')"))

    def _result(self, writer: Writer, output: Any) -> str:
        kind, value = output
        if kind is Tensor:
            return f"Tensor({writer.array(value)}.copy('K'))"
        if kind is np.ndarray:
            return f"{writer.array(value)}.copy('K')[()]"
        if kind is None:
            if type(value) is Scalar:
                return str(value.key[1])
            return writer.program.name(value, "c")
        if kind is dict:
            return "{" + ", ".join(f"{k!r}: {self._result(writer, v)}" for k, v in value.items()) + "}"
        items = [self._result(writer, v) for v in value]
        if hasattr(kind, "_fields"):
            return f"{writer.program.name(kind, 'c')}({', '.join(items)})"
        return f"[{', '.join(items)}]" if kind is list else f"({', '.join([*items, ''])})"


def _effect(instruction: Instruction) -> Any:
    effect = instruction.effect
    return effect[0] if isinstance(effect, tuple) and effect[0] == "python" else effect


def _same_bytes(a: Any, b: Any) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _advance(writer: Writer, number: int, optimizer: Any, segments: Any, gradients: Any) -> list[str]:
    lines: list[Line] = []
    for tensor, view in gradients:
        _set_gradient(writer, tensor, view, lines)
    name = writer.program.name(optimizer, "x")
    code = [line.code for line in lines]
    if type(optimizer).advance is Optimizer.advance:  # its counting, written out: the guards have checked the rest
        slots = [slot for segment in segments for slot in segment.slots]
        code += [f"{writer.program.name(slot, 'slot')}.steps += 1" for slot in slots]
        code += [f"{writer.program.name(slot.tensor, 'x')}.version[0] += 1" for slot in slots]
    else:
        code.append(f"{name}.advance()")
    for k, segment in enumerate(segments):
        numbers = writer.fill(("coefficient", number, k), lambda key: f"values[{key!r}]")
        if numbers:
            steps = f"{writer.program.name(segment, 'segment')}.steps"
            code += [f"values = {name}.coefficients({steps})", *numbers]
    return code


def _set_gradient(writer: Writer, tensor: Tensor, view: View, lines: list[Line]) -> None:
    """``p.grad`` is the program's own buffer: its values last until the next replay."""
    name = writer.program.name(tensor, "t")
    if view.root in writer.bound:
        lines.append(Line(f"{name}.grad = Tensor({writer.array(view)})"))
    else:
        lines.append(Line(f"{name}.grad = {writer.gradient(view)}"))
