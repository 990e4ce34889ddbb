"""What a step finds around it: the modules, optimisers and tensors that it can reach, and what must stay as it is."""

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tinygrad_cifar.nn.module import Module
from tinygrad_cifar.optim.optimizer import Optimizer
from tinygrad_cifar.tensor import Tensor

_PLAIN = (int, float, str, bytes, bool, type(None), np.ndarray, np.generic, types.ModuleType, type, np.random.Generator)
_CLOSED = ("numpy", "tinygrad_cifar.compiler")  # what these packages make is not looked into


class Surroundings:
    """All that a function can reach through its closure, the globals that it names, its own object and arguments."""

    def __init__(self, step: Callable[..., Any], arguments: Iterable[Any]) -> None:
        self.modules: list[Module] = []
        self.optimizers: list[Optimizer] = []
        self.tensors: list[Tensor] = []
        self.recorded: set[int] = set()  # optimisers whose rate is looked up at each replay
        self._objects: list[Any] = []
        self._cells: list[tuple[str, types.CellType]] = []
        self._globals: list[tuple[str, dict[str, Any]]] = []
        self._names: set[str] = set()  # the names of attributes and globals in the code
        self._seen: dict[int, Any] = {}
        self.reach([step, *arguments])

    def reach(self, stack: list[Any]) -> None:
        """Walk over what these hold; code inside of this package is not looked at, unless it is the step itself."""
        step = stack[0]
        while stack:
            thing = stack.pop()
            if id(thing) in self._seen or isinstance(thing, _PLAIN):
                continue
            self._seen[id(thing)] = thing
            if isinstance(thing, Tensor):
                self.tensors.append(thing)
            elif isinstance(thing, Module):
                self.modules.append(thing)
                thing.training = thing.training  # an attribute of its own, so that a switch and back leaves no trace
                stack += vars(thing).values()
            elif isinstance(thing, Optimizer):
                self.optimizers.append(thing)
                stack += [slot.tensor for slot in thing._slots]
            elif isinstance(thing, types.FunctionType):
                if thing is step or not thing.__module__.startswith("tinygrad_cifar."):
                    stack += self._function(thing)
            elif isinstance(thing, types.MethodType):
                stack.append(thing.__self__)
                if isinstance(thing.__func__, types.FunctionType):
                    stack += self._function(thing.__func__)
            elif isinstance(thing, functools.partial):
                stack += [thing.func, *thing.args, *thing.keywords.values()]
            elif isinstance(thing, list | tuple | set | dict):
                stack += list(thing.values() if isinstance(thing, dict) else thing)[:1000]
            elif hasattr(thing, "__dict__") and not type(thing).__module__.startswith(_CLOSED):
                self._objects.append(thing)
                stack += vars(thing).values()
                call: Any = vars(type(thing)).get("__call__")
                stack += self._function(call) if isinstance(call, types.FunctionType) else []

    def knows(self, thing: Any) -> bool:
        return id(thing) in self._seen

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in cells:
            self._cells.append((name, cell))
            yield look(cell, "cell_contents")
        yield from function.__defaults__ or ()
        for code in _codes(function.__code__):
            self._names.update(code.co_names)
            for name in code.co_names:
                value = function.__globals__.get(name)
                if value is not None and not isinstance(value, types.ModuleType | type):
                    self._globals.append((name, function.__globals__))
                    yield value

    def watched(self) -> Iterator[tuple[Any, str]]:
        """What a replay relies on: (holder, name). The name is an attribute of the holder, or a key of a dict."""
        for module in self.modules:
            yield from ((vars(module), name) for name in vars(module))
        for optimizer in self.optimizers:
            fixed = [name for name in vars(optimizer) if name != "lr" or id(optimizer) not in self.recorded]
            yield from ((optimizer, name) for name in fixed)
        for tensor in self.tensors:
            yield tensor, "data"
            yield tensor, "requires_grad"
        for thing in self._objects:
            yield from ((thing, name) for name in sorted(self._names & vars(thing).keys()))
        yield from ((cell, "cell_contents") for _, cell in self._cells)
        yield from ((held, name) for name, held in self._globals)

    def now(self) -> dict[tuple[int, str], tuple[Any, Any]]:
        """(holder, value) of everything that is watched, and of the learning rates."""
        rates = [(optimizer, "lr") for optimizer in self.optimizers]
        return {(id(held), name): (held, look(held, name)) for held, name in [*self.watched(), *rates]}

    def describe(self, held: Any, name: str) -> str:
        """What the user calls it."""
        for module in self.modules:
            if held is vars(module):
                return f"{type(module).__name__}.{name}"
        for cell_name, cell in self._cells:
            if held is cell:
                return cell_name
        if isinstance(held, Tensor):
            return f"the {name} of {held.name or 'a tensor'}"
        return name if isinstance(held, dict) else f"{type(held).__name__}.{name}"


def look(held: Any, name: str) -> Any:
    """The value of something watched; None where a cell is still empty."""
    return held.get(name) if isinstance(held, dict) else getattr(held, name, None)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
