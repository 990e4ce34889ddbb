"""``compile(step)``: a step that records itself when it meets something new, and else replays."""

import functools
import threading
import time
import types
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_cifar.compiler import fusion, trace
from tinygrad_cifar.compiler.program import MISS, Program
from tinygrad_cifar.compiler.recording import Recording
from tinygrad_cifar.errors import CompileError
from tinygrad_cifar.tensor import Tensor, _Mode

if TYPE_CHECKING:
    import graphviz  # type: ignore[import-untyped]

ATTEMPTS = 8  # programs kept for one kind of arguments; four times as many recordings in a row are too many
WAYS = 4  # recordings kept of calls that differ from each other, as where a condition goes this way and that
KINDS = 64  # kinds of arguments; more means that a value is an argument that should be an array
_NONE_YET = "there is no program yet: call the step twice, with arguments of the same shapes."
_ONE_AT_A_TIME = threading.RLock()  # recording looks at all Tensors, and a program has its memory once


def compile(step: Callable[..., Any]) -> "CompiledStep":
    """``step`` without its bookkeeping: the same numbers, bit for bit, from a flat program in planned memory.

    The first two calls with arguments of a new kind (shapes, dtypes, memory order; values of all that is no array or
    float) run the step as it is and record its array operations. Where the two recordings agree, later calls replay
    them, as long as what the step finds around it, such as the mode of a model, is the same. What a step does besides
    arrays (printing) happens only while it is recorded; what would make a replay wrong is refused.

    Results belong to the caller, and have no graph: a step that trains does ``backward`` and the update itself.
    ``p.grad`` is the program's own memory: its values last until the next call.

    Raises:
        CompileError: at a call of the compiled step, when a replay could not repeat faithfully what it does.

    Examples:
        >>> @compile
        ... def step(x, labels):
        ...     optimizer.zero_grad()
        ...     loss = nn.functional.cross_entropy(model(x), labels)
        ...     loss.backward()
        ...     optimizer.step()
        ...     return loss
    """
    return CompiledStep(step)


class CompiledStep:
    """What ``compile`` returns: called like the step itself.

    Attributes:
        programs: for each kind of arguments, the programs recorded, the newest first.
        recordings: why each recording was made, and what came of it.
    """

    def __init__(self, step: Callable[..., Any]) -> None:
        functools.update_wrapper(self, step, updated=())  # a model's attributes stay its own
        self.step = step
        self.programs: dict[Hashable, list[Program]] = {}
        self.recordings: list[str] = []
        self._misses = 0  # recordings that gave no program, since the last replay
        self._set: set[str] = set()  # what the step was seen to set, which it may do once
        self._candidates: dict[Hashable, list[Recording]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _ONE_AT_A_TIME:
            if trace.at_work() or _Mode.detecting:  # inside another compiled step, or op by op to find an anomaly
                return self.step(*args, **kwargs)
            return self._run(args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: one's own programs for each instance."""
        return self if instance is None else types.MethodType(self, instance)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        parts: list[Any] = [_Mode.recording, *kwargs]
        inputs: list[Any] = []
        for x in (*args, *kwargs.values()):
            _add(x, parts, inputs)
        key = tuple(parts)
        for program in self.programs.get(key, ()):
            result = program.run(*inputs)
            if result is not MISS:
                self._misses = 0
                return result
        return self._record(key, args, kwargs)

    def _record(self, key: Hashable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        fusion.machine()  # which takes a moment to load, once in a process
        start = time.perf_counter()
        programs, candidates = self.programs.setdefault(key, []), self._candidates.setdefault(key, [])
        reason = programs[0].changed() if programs else "arguments of a new kind"
        changes = [next(candidate.around.changed(), "") for candidate in candidates]
        recording = Recording(candidates)
        result = recording.run(self.step, args, kwargs)
        recording.seconds = time.perf_counter() - start
        try:
            if unlike := recording.check(self._set):
                self._missed(f"the step set {unlike}")
                return result
            for candidate, change in zip(candidates, changes, strict=True):
                reason = f"{change} changed" if change else recording.difference(candidate)
                if not reason:
                    candidates.remove(candidate)
                    programs.insert(0, Program(recording))
                    del programs[ATTEMPTS:]
                    spent = candidate.seconds + time.perf_counter() - start
                    self.recordings.append(f"{programs[0]} recorded twice and planned in {1e3 * spent:.0f} ms")
                    return result
            candidates.insert(0, recording)
            del candidates[WAYS:]
            self._missed(reason)
        except CompileError as error:
            error.result = result  # the step itself was done
            raise
        return result

    def _missed(self, reason: str) -> None:
        """Note why a recording gave no program."""
        self.recordings.append(reason)
        self._misses += 1
        if self._misses > ATTEMPTS * 4 or len(self.programs) > KINDS:
            raise CompileError(
                f"every call is a new one to the compiler, at last since {reason}. What changes must be an array or a "
                "float (float(x)) among the arguments, or lists, tuples and dicts of them; what else changes must stay "
                "outside."
            )

    def __reduce__(self) -> Any:
        """A copy records anew: the programs work in the memory of the original's model."""
        return CompiledStep, (self.step,)

    def explain(self) -> str:
        """The programs, line by line, with the microseconds that each takes, and why they were recorded."""
        programs = [program.explain() for programs in self.programs.values() for program in programs] or [_NONE_YET]
        return "\n".join([*(f"recording {i}: {r}" for i, r in enumerate(self.recordings, start=1)), "", *programs])

    def graph(self) -> "graphviz.Digraph":
        """The newest program as a picture: operations as boxes, memory that lives on as ellipses.

        Raises:
            CompileError: nothing was compiled yet.
        """
        newest = [programs[0] for programs in self.programs.values() if programs]
        if not newest:
            raise CompileError(_NONE_YET)
        return newest[-1].graph()


def _add(x: Any, key: list[Any], inputs: list[Any]) -> None:
    """An argument's part of the key, and those of its values that a replay takes."""
    kind = type(x)
    if isinstance(x, Tensor):
        key.append(x.requires_grad)
        x = x.data
        kind = np.ndarray
    if kind is np.ndarray:
        key.append((x.shape, x.dtype, x.strides))
        inputs.append(x)
    elif kind is float:
        key.append(float)
        inputs.append(x)
    elif kind in (list, tuple, dict) or hasattr(x, "_fields"):
        key.append((kind, *(x if kind is dict else (len(x),))))
        for i in x.values() if kind is dict else x:
            _add(i, key, inputs)
    else:
        by_value = isinstance(x, int | str | bytes | np.generic | type(None))
        key.append((kind, x if by_value else _Same(x)))


class _Same:
    """Equal to itself alone; keeps the object alive, so that its address stays its own."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __hash__(self) -> int:
        return id(self.thing)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing
