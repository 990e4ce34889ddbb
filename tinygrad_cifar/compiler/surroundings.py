"""What a step finds around it: what it can reach through closures, globals and attributes, and whether it stays."""

import functools
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cifar.nn.module import Module
from tinygrad_cifar.optim.optimizer import Optimizer
from tinygrad_cifar.tensor import Tensor

_PLAIN = (Tensor, int, float, str, bytes, type(None), np.ndarray, np.generic, types.ModuleType, type,
          np.random.Generator)  # fmt: skip
_CLOSED = ("numpy", "tinygrad_cifar.compiler")  # what these packages make is not looked into


class Place(NamedTuple):
    """An attribute, or an entry of a dict, and what was there."""

    held: Any
    name: str
    label: str  # what the user calls it
    value: Any

    def access(self) -> str:
        """The code behind the holder's name that looks there."""
        if not isinstance(self.held, dict):
            return f".{self.name}"
        return f"[{self.name!r}]" if self.name in self.held else f".get({self.name!r})"

    def changed(self) -> bool:
        now, value = _look(self.held, self.name), self.value
        plain = isinstance(value, int | float | str) and type(now) is type(value)
        return not (now is value or (plain and now == value))


def _look(held: Any, name: str) -> Any:
    return held.get(name) if isinstance(held, dict) else getattr(held, name, None)


class Surroundings:
    """The places that a replay relies on.

    All attributes of modules and optimisers; of other objects those that the code names; variables of closures, and
    globals. Code inside of this package is not looked at, unless it is the step itself. What a Tensor holds is watched
    as soon as it is used.
    """

    def __init__(self) -> None:
        self.places: dict[tuple[int, str], Place] = {}
        self.modules: list[Module] = []
        self._seen: dict[int, Any] = {}
        self._objects: list[Any] = []
        self._names: set[str] = set()  # of attributes and globals in the code

    def watch(self, held: Any, name: str, label: str) -> Any:
        """Watch a place from now on; returns what is there."""
        place = Place(held, name, label, _look(held, name))
        return self.places.setdefault((id(held), name), place).value

    def accept(self, held: Any, *names: str) -> None:
        """What is there now is what a replay finds."""
        for name in names:
            if place := self.places.get((id(held), name)):
                self.places[id(held), name] = place._replace(value=_look(held, name))

    def watch_all(self, thing: Any) -> list[Any]:
        names = vars(thing) if isinstance(thing, Module | Optimizer) else self._names & vars(thing).keys()
        return [self.watch(vars(thing), name, f"{type(thing).__name__}.{name}") for name in names]

    def reach(self, step: Any, *others: Any) -> None:
        """Find the places that these things lead to."""
        stack = [step, *others]
        while stack:
            thing = stack.pop()
            if id(thing) in self._seen or isinstance(thing, _PLAIN):
                continue
            self._seen[id(thing)] = thing
            if isinstance(thing, types.FunctionType):
                if thing is step or not thing.__module__.startswith("tinygrad_cifar."):
                    stack += self._function(thing)
            elif isinstance(thing, types.MethodType):
                stack.append(thing.__self__)
                stack += self._function(thing.__func__) if isinstance(thing.__func__, types.FunctionType) else []
            elif isinstance(thing, functools.partial):
                stack += [thing.func, *thing.args, *thing.keywords.values()]
            elif isinstance(thing, list | tuple | set | dict):
                stack += list(thing.values() if isinstance(thing, dict) else thing)[:1000]
            elif isinstance(thing, Module):
                self.modules.append(thing)
                thing.training = thing.training  # an attribute of its own, so that a switch and back leaves no trace
                stack += self.watch_all(thing)
            elif isinstance(thing, Optimizer):
                self.watch_all(thing)
            elif hasattr(thing, "__dict__") and not type(thing).__module__.startswith(_CLOSED):
                self._objects.append(thing)
                stack += vars(thing).values()
                call: Any = vars(type(thing)).get("__call__")
                stack += self._function(call) if isinstance(call, types.FunctionType) else []
        for thing in self._objects:
            self.watch_all(thing)

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield self.watch(cell, "cell_contents", name)
        yield from function.__defaults__ or ()
        for code in _codes(function.__code__):
            self._names.update(code.co_names)
            for name in code.co_names:
                value = function.__globals__.get(name)
                if value is not None and not isinstance(value, types.ModuleType | type):
                    yield self.watch(function.__globals__, name, name)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
