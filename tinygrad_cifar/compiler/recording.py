"""A recording: one call of the step under the tracer, and what a replay has to do besides array operations.

While it runs, reading ``t.data`` of any Tensor gives a Traced array, and tells that the step depends on this Tensor;
reading and setting ``t.grad`` tells what becomes of gradients.
"""

import contextlib
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinygrad_cifar import random
from tinygrad_cifar.compiler.surroundings import Surroundings, contents
from tinygrad_cifar.compiler.trace import Call, Number, Operation, Random, Root, Scalar, Traced, Tracer, View, operation
from tinygrad_cifar.errors import CompileError
from tinygrad_cifar.nn.module import Module
from tinygrad_cifar.optim.optimizer import Optimizer, Slot
from tinygrad_cifar.tensor import Array, Tensor


def tree(x: Any, leaf: Callable[[Any], Any]) -> Any:
    """``x`` with all that is no list, tuple or dict replaced by ``leaf`` of it."""
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*[tree(i, leaf) for i in x])
    if type(x) is list or type(x) is tuple:
        return type(x)([tree(i, leaf) for i in x])
    return {k: tree(v, leaf) for k, v in x.items()} if type(x) is dict else leaf(x)


class Recording:
    """What one call of the step did."""

    def __init__(self, before: Sequence["Recording"] = ()):
        self.tracer, self.around = Tracer(), Surroundings()
        self.inputs: dict[str, Any] = {}  # the arguments that are arrays and floats
        self.rates: list[tuple[Optimizer, Slot, int]] = []  # the optimisers' numbers: at which of the slot's updates
        self.readers: dict[Optimizer, str] = {}  # whose learning rate the step itself reads, and its name
        self.counts: dict[Slot, int] = {}  # updates before
        self.versions: dict[Tensor, int] = {}
        self.cleared: set[Tensor] = set()  # that have no gradient when the step begins
        self.gradients: dict[Tensor, Tensor | None] = {}
        outside = [root.array for other in before for root in other.tracer.roots if root.snapshot is not None]
        self.earlier = {id(array): array.copy(order="K") for array in outside}  # as it is now, before this run
        self.contents: dict[str, Array] = {}  # of the arguments
        self.repeated: dict[str, Array] = {}  # the arguments that may be in a constant, since they did not change
        self._made: dict[Tensor, None] = {}  # by the step itself, or while it ran
        self._used: dict[Tensor, Traced] = {}  # the data of those that were there before
        self._paused = False
        self.seconds = 0.0  # that the call took

    def _argument(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            if x.requires_grad:
                raise CompileError("an argument of a compiled step cannot require a gradient; pass x.detach().")
            return Tensor._like(self._argument(x.data))
        if type(x) is not np.ndarray and type(x) is not float:
            self.around.reach(x)
            return x
        name = f"a{len(self.inputs)}"
        if isinstance(x, float):
            self.inputs[name] = x
            return Number(x, name)
        # as_strided: a root of its own, though it may be a piece of a data set
        self.inputs[name], self.contents[name] = as_strided(x), x.copy()
        return self.tracer.traced(self.inputs[name], "argument", name)

    # Running --------------------------------------------------------------------------------------------------

    def run(self, step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Do the step for real."""
        args, kwargs = tree((args, kwargs), self._argument)
        self.around.reach(step)
        streams = random._streams
        with self.tracer, _replaced(*self._watching()):
            try:
                result = step(*args, **kwargs)
                returned = self._returned(result)
                places = [g if g is None else self._kept(g.data) for g in self.gradients.values()]
                left = (returned, tuple(zip(map(id, self.gradients), places, strict=True)))
                self.tracer.operations.append(operation(None, left, (), "end", (), "the return"))
            finally:
                streams.clear()
                streams.update(random._streams)
                self._paused = True
                for t in self._made:
                    t.data = np.asarray(t.data)
        return tree(result, _value)

    def _watching(self) -> list[tuple[Any, str, Any]]:
        """What stands in the place of Tensor's attributes, and of the ways out of the world of arrays."""
        make, convert, call, update = Tensor.__init__, Tensor.__array__, Module.__call__, Optimizer.step

        def init(tensor: Tensor, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
            array = data.data if isinstance(data, Tensor) else data
            if type(array) is Traced and dtype is not None:
                data, dtype = array.astype(dtype, copy=False), None  # recorded; NumPy's asarray is not
            make(tensor, data, requires_grad, dtype)

        def as_array(tensor: Tensor, dtype: Any = None, copy: bool | None = None) -> Array:
            if not self._idle():
                self.tracer.refuse(
                    "np.asarray of a Tensor takes its values out of the step while that is recorded. Use NumPy "
                    "functions on the Tensor itself or on t.data, or return it from the step."
                )
            return convert(tensor, dtype, copy)

        def forward(module: Module, *args: Any, **kwargs: Any) -> Any:
            if not self._idle():
                self.around.reach(module)
            return call(module, *args, **kwargs)

        return [
            (Tensor, "data", property(self._data, self._set_data)),
            (Tensor, "grad", property(self._gradient, self._set_gradient)),
            (Tensor, "__init__", init), (Tensor, "__array__", as_array), (Module, "__call__", forward),
            (Optimizer, "step", lambda optimizer: update(optimizer) if self._idle() else self._update(optimizer)),
            (Optimizer, "lr", property(self._rate, vars(Optimizer)["lr"].fset)),
            (random, "_streams", Random(random._streams)),
        ]  # fmt: skip

    def _idle(self) -> bool:
        """Whether what happens now is not the step's: the recording's own work, or another thread's."""
        return self._paused or threading.get_ident() != self.tracer.thread

    def _data(self, tensor: Tensor) -> Array:
        array: Array = vars(tensor)["data"]
        if type(array) is Traced or self._idle():
            return array
        if tensor not in self._used:
            self.versions.setdefault(tensor, tensor.version[0])
            for name in ("data", "requires_grad", "hooks"):
                self.around.watch(vars(tensor), name, f"the {name} of {tensor.name or 'a tensor'}")
            if tensor.hooks:
                self.around.reach(tensor.hooks)
            self._used[tensor] = self.tracer.traced(array)
        return self._used[tensor]

    def _set_data(self, tensor: Tensor, array: Array) -> None:
        held = vars(tensor)
        if not self._idle():
            if type(array) is np.ndarray:
                self.tracer.view(array)
                array = array.view(Traced)
            before = held.get("data")
            if before is not None and before.__array_interface__ == array.__array_interface__:
                return  # t.data += ...
            if before is not None and tensor not in self._made:
                self.tracer.refuse(f"the step gives {tensor.name or 'a tensor'} another array. Write into t.data[...].")
            self._made[tensor] = None
        held["data"] = array

    def _gradient(self, tensor: Tensor) -> Tensor | None:
        gradient: Tensor | None = vars(tensor).get("grad")
        if not (self._idle() or tensor in self.gradients or tensor in self._made):
            self.cleared.add(tensor)
            if gradient is not None:
                self.tracer.refuse(
                    "the step adds to the gradients that were there before it. Clear them at its beginning, "
                    "optimizer.zero_grad() or model.zero_grad(), and add up inside one step."
                )
        return gradient

    def _set_gradient(self, tensor: Tensor, gradient: Tensor | None) -> None:
        vars(tensor)["grad"] = gradient
        if not self._idle() and tensor not in self._made:
            self.gradients[tensor] = gradient

    def _rate(self, optimizer: Optimizer) -> Any:
        if self._idle():
            return optimizer._lr
        self.around.reach(optimizer)
        return Number(optimizer._lr, self.readers.setdefault(optimizer, f"lr{len(self.readers)}"))

    def _update(self, optimizer: Optimizer) -> None:
        """An optimiser's step: its bookkeeping is left to the program's end, its arithmetic is recorded."""
        self.around.reach(optimizer)
        for slot in optimizer._slots:
            self._data(slot.tensor)
            self._gradient(slot.tensor)
            self.counts.setdefault(slot, slot.steps)
        if type(optimizer).advance is not Optimizer.advance:
            self.tracer.refuse("this optimiser has an advance() of its own, which a replay would leave out.")
        replaced = [slot for slot in optimizer._slots if vars(slot.tensor)["data"] is not slot.view]
        arrays = [self._data(slot.tensor) for slot in replaced]
        self._paused = True
        try:
            segments = optimizer.advance()
            coefficients = [optimizer.numbers(segment.steps) for segment in segments]
        finally:
            self._paused = False
        for slot, array in zip(replaced, arrays, strict=True):  # where two optimisers share it, at every step
            np.copyto(self.tracer.traced(slot.view), array)
        self._used.clear()
        self.around.accept(vars(optimizer), "_present", "_segments")
        for slot in optimizer._slots:
            self.around.accept(vars(slot.tensor), "data")
        for segment, values in zip(segments, coefficients, strict=True):
            code, slot = f"c{len(self.rates)}", segment.slots[0]
            self.rates.append((optimizer, slot, segment.steps - self.counts[slot]))
            numbers: Any = {name: Number(v, f"{code}[{name!r}]") for name, v in values.items()}
            blocks = []
            for block in segment.blocks:
                weights, scratch, *state = map(self.tracer.traced, (block.weights, block.scratch, *block.state))
                gradient = self.tracer.traced(np.empty_like(block.gradient), "planned")
                blocks.append(replace(block, weights=weights, scratch=scratch, state=tuple(state), gradient=gradient))
            traced_segment = replace(segment, blocks=tuple(blocks))
            optimizer.apply(traced_segment, traced_segment.gradient(), numbers)

    def _kept(self, gradient: Array) -> View:
        """The program's own memory, where an argument is the gradient."""
        view = self.tracer.view(gradient)
        return self.tracer.view(gradient.copy()) if self.tracer.roots[view.root].kind == "argument" else view

    def _returned(self, x: Any) -> Any:
        """A part of the result, as a replay makes it: arrays are copied."""
        if isinstance(x, Tensor):
            return Call(Tensor, (Call(np.array, (self.tracer.view(x.data),)),))
        if isinstance(x, np.ndarray):
            return Call(operator.getitem, (Call(np.array, (self.tracer.view(x),)), ()))
        if type(x) is dict:
            return Call(dict, (tuple((k, self._returned(v)) for k, v in x.items()),))
        if isinstance(x, tuple | list):
            parts = tuple(self._returned(i) for i in x)
            return parts if type(x) is tuple else Call(type(x), parts if hasattr(x, "_fields") else (parts,))
        return self.tracer.encode(x)

    # Judging --------------------------------------------------------------------------------------------------

    def check(self, set_before: set[str]) -> str:
        """Raise CompileError where the step did something that its array operations do not tell of.

        What it sets for the first time, as a mask that is made when it is needed, it may not set again: returns what
        that was, or "". Then this call is no example of the next one.
        """
        if self.tracer.refusal:
            raise CompileError(self.tracer.refusal)
        written = {v.root for op in self.tracer.operations for v in op.writes}
        self.around.contents = [c for c in self.around.contents if not self._live(c[0], c[1], written)]
        for label in self.around.changed():
            keeps_results = any(type(x) is Traced for x in self.around.now())
            if label not in set_before and not keeps_results:
                set_before.add(label)
                return label
            raise CompileError(
                f"the step changes {label}, which a replay would not: it repeats array operations only. Count, "
                "schedule and store outside of the compiled step; write to arrays in place, from Tensors or t.data."
            )
        for number, root in enumerate(self.tracer.roots):
            if root.left is not None and not _same_bytes(root.array, root.left):
                raise CompileError(
                    f"{self._line(number)}: an array that is used here is changed later in the step, by what the "
                    "recording cannot see. Write to it from Tensors or t.data, or make a new array."
                )
        for label in self.around.drawn():
            raise CompileError(
                f"the step draws from {label}, which the recording cannot see, so a replay would repeat what came of "
                "it. Draw arrays from tinygrad_cifar.random.stream, or make them an argument of the step."
            )
        for optimizer in [*self.readers, *[optimizer for optimizer, _, _ in self.rates]]:
            self.around.places.pop((id(vars(optimizer)), "_lr"), None)  # a replay asks for it
        return ""

    def _live(self, thing: Any, before: Any, written: set[int]) -> bool:
        """Whether it is an array that the operations use: then a replay finds what is in it, and changes it alike."""
        view = self.tracer.find(thing) if isinstance(thing, np.ndarray) else None
        return view is not None and (view.root in written or contents(thing) == before)

    def difference(self, before: "Recording") -> str:
        """In what this recording differs from the one before, or ""."""
        ours, theirs = self.tracer, before.tracer
        for (then, _), (now, line) in zip(theirs.numbers, ours.numbers, strict=False):
            if then != now:
                return f"{line} looks at a number, which was another one"
        for a, b in zip(theirs.operations, ours.operations, strict=False):
            if a[:-1] != b[:-1]:  # the line is no matter: the step may be called from several
                _check_numbers(a, b, b.line)
                return f"{b.line} does something else than {a.line} did"
        if len(ours.operations) != len(theirs.operations):
            return f"{len(ours.operations)} operations in place of {len(theirs.operations)}"
        if self.rates != before.rates or self.readers != before.readers:
            return "other optimisers are used"
        if [r.snapshot is None for r in ours.roots] != [r.snapshot is None for r in theirs.roots]:
            return "other memory is used"
        for number, (x, y) in enumerate(zip(theirs.roots, ours.roots, strict=True)):
            if y.snapshot is not None:
                self._check_constant(x, y, number)
            elif x.array is y.array and y.kind == "planned":
                y.kind = "outside"  # a buffer of the user's, who may read it
        if any(root.kind == "constant" and root.array.size > 1 for root in ours.roots):
            both = zip(self.contents.items(), before.contents.values(), strict=True)
            self.repeated = {name: now for (name, now), then in both if np.array_equal(now, then)}
        return ""

    def _check_constant(self, before: Root, root: Root, number: int) -> None:
        """Memory from outside: the same in both runs, or made anew with the same contents. Else it is a leak."""
        then = self.earlier[id(root.array)] if before.array is root.array else before.snapshot
        if before.array is not root.array:
            root.kind = "constant"
        if not _same_bytes(then, root.snapshot) and (line := self._line(number)):
            raise CompileError(
                f"{line}: an array whose values change from call to call enters here, made by what the recording "
                "cannot see (np.asarray, np.array, an ndarray indexed by labels, a file, a generator of one's own). "
                "Make it an argument of the step, Tensor(x) where it is an ndarray; draw random numbers from "
                "tinygrad_cifar.random.stream; np.eye(k)[labels] is labels[:, None] == np.arange(k)."
            )

    def _line(self, number: int) -> str:
        """Where a root is first read, or ""."""
        return next((op.line for op in self.tracer.operations if any(v.root == number for v in op.reads)), "")

    def operations(self) -> list[Operation]:
        """The operations, with constants that the step itself changes set anew at each replay."""
        anew = []
        for number in {v.root for op in self.tracer.operations for v in op.writes}:
            root = self.tracer.roots[number]
            if root.kind == "constant" and root.snapshot is not None:
                root.kind, array = "planned", root.array
                place = View(number, 0, array.shape, array.strides, array.dtype)
                constant = self.tracer.add(root.snapshot, "constant")
                anew.append(operation(np.copyto, (place, constant), (), "inside", (place,), ""))
        return anew + self.tracer.operations


def _check_numbers(a: Any, b: Any, line: str) -> None:
    """Raise CompileError where a float among nested operands has changed."""
    for x, y in zip(a, b, strict=False):
        if type(x) is type(y) is Scalar and x.kind is y.kind is float and x != y:
            raise CompileError(
                f"{line}: the number {x.code} was {y.code} at the next call, and the recording cannot see why. Make it "
                "an argument of the step (a float, or a 0-d array), or an attribute that optimizer.coefficients reads."
            )
        if type(x) in (tuple, Call) and type(y) in (tuple, Call):
            _check_numbers(x, y, line)


def _same_bytes(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _value(x: Any) -> Any:
    """What the recorded call returns for a part of the result."""
    if isinstance(x, Tensor):
        return Tensor(np.array(x.data))
    if isinstance(x, np.ndarray):
        return np.array(x)[()]
    return x.value if isinstance(x, Number) else x


@contextlib.contextmanager
def _replaced(*attributes: tuple[Any, str, Any]) -> Iterator[None]:
    """With attributes (of what, name, value) that are other ones inside the block."""
    before = [(thing, name, vars(thing).get(name, _NOTHING)) for thing, name, _ in attributes]
    try:
        for thing, name, value in attributes:
            setattr(thing, name, value)
        yield
    finally:
        for thing, name, value in before:
            delattr(thing, name) if value is _NOTHING else setattr(thing, name, value)


_NOTHING = object()
