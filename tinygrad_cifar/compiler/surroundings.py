"""What a step finds around it: what it can reach through closures, globals and attributes, and whether it stays."""

import dis
import functools
import pickle
import random
import sys
import types
from collections import UserDict, UserList, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinygrad_cifar.nn.module import Module
from tinygrad_cifar.optim.optimizer import Optimizer
from tinygrad_cifar.tensor import Tensor

_PLAIN = (Tensor, int, float, str, bytes, type(None), np.generic)
_CONTAINERS = (functools.partial, list, dict, UserDict, UserList, tuple, frozenset,
               np.ndarray, set, deque, types.MappingProxyType)  # fmt: skip
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
_LIBRARIES = {"numpy", "tinygrad_cifar", *sys.stdlib_module_names}
_NOT_READING = {"__init__", "__new__", "__post_init__", "__setattr__", "__repr__", "__str__", "__del__"}
LARGE = 1000  # entries: lists and dicts from here on, and arrays of more bytes than 64 times that, hold data


class Place(NamedTuple):
    """An attribute, or an entry of a dict or list, and what was there."""

    held: Any
    name: Any
    label: str  # what the user calls it
    value: Any

    def access(self) -> str:
        """The code behind the holder's name that looks there."""
        if isinstance(self.held, dict) and self.name not in self.held:
            return f".get({self.name!r})"
        return f"[{self.name!r}]" if isinstance(self.held, dict | list) else f".{self.name}"

    def changed(self) -> bool:
        now, value = _look(self.held, self.name), self.value
        plain = isinstance(value, int | float | str) and type(now) is type(value)
        return not (now is value or (plain and now == value))


def _look(held: Any, name: Any) -> Any:
    if isinstance(held, list):
        return held[name] if name < len(held) else None
    return held.get(name) if isinstance(held, dict) else getattr(held, name, None)


class Surroundings:
    """The places that a replay relies on.

    Variables of closures, and globals; all attributes of modules and optimisers, and all that lists and dicts hold; of
    other objects, of functions, classes and Python modules the attributes that the code names, or texts in it; what is
    in small arrays, sets and deques, unless array operations use them. Code of this package, of NumPy and of other
    libraries is not looked at, unless it is the step itself. What a Tensor holds is watched as soon as it is used.
    """

    def __init__(self) -> None:
        self.places: dict[tuple[int, Any], Place] = {}
        self.whole: dict[int, tuple[Any, str, int]] = {}  # dicts and lists of which all is watched, and their sizes
        self.contents: list[tuple[Any, Any, str]] = []  # small arrays, sets and the like, and what was in them
        self.names: set[str] = set()  # of attributes in the code, and strings, which getattr may take
        self._states: list[tuple[str, Callable[[], Any], bytes]] = []  # of random generators
        self._seen: dict[Any, Any] = {}
        self._labels: dict[int, str] = {}
        self._objects: list[Any] = []
        self._watch_generator("Python's random", random.getstate)
        self._watch_generator("np.random", np.random.get_state)

    def watch(self, held: Any, name: Any, label: str) -> Any:
        """Watch a place from now on; returns what is there."""
        value = _look(held, name)
        self._labels.setdefault(id(value), label)
        if isinstance(value, str):
            self.names.add(value)
        return self.places.setdefault((id(held), name), Place(held, name, label, value)).value

    def _watch_generator(self, label: str, state: Callable[[], Any]) -> None:
        self._states.append((label, state, pickle.dumps(state())))

    def accept(self, held: Any, *names: str) -> None:
        """What is there now is what a replay finds."""
        for name in names:
            if place := self.places.get((id(held), name)):
                self.places[id(held), name] = place._replace(value=_look(held, name))

    def changed(self) -> Iterator[str]:
        """What is not as it was, by the names that the user gave it."""
        yield from (place.label for place in self.places.values() if place.changed())
        yield from (label for held, label, size in self.whole.values() if len(held) != size)
        yield from (label for thing, before, label in self.contents if contents(thing) != before)

    def now(self) -> Iterator[Any]:
        """What is there."""
        yield from (_look(place.held, place.name) for place in self.places.values())
        for held, _, _ in self.whole.values():
            yield from held.values() if isinstance(held, dict) else held

    def drawn(self) -> Iterator[str]:
        """The random generators that were used and are none of the package's streams."""
        return (label for label, state, before in self._states if pickle.dumps(state()) != before)

    # Finding them ---------------------------------------------------------------------------------------------

    def reach(self, step: Any) -> None:
        """Find the places that a thing leads to."""
        stack = [] if id(step) in self._seen else [step]
        while stack:
            while stack:
                stack += self._led_to(stack.pop(), step)
            stack = [value for thing in self._objects for value in self._named(thing)]

    def _led_to(self, thing: Any, step: Any) -> Iterable[Any]:
        """What can be reached from a thing, which is watched from now on."""
        method = isinstance(thing, types.MethodType)
        function, owner = (thing.__func__, thing.__self__) if method else (thing, None)
        key = (id(function), id(owner)) if method else id(thing)
        if key in self._seen or isinstance(thing, _PLAIN):
            return ()
        self._seen[key] = thing  # and so it keeps its address
        if method or isinstance(thing, types.FunctionType):
            code = isinstance(function, types.FunctionType) and (thing is step or _users(function))
            self._objects += [function] * code
            return [owner, *(self._function(function, owner) if code else ())]
        if isinstance(thing, Module):
            return self._module(thing)
        if isinstance(thing, Optimizer):
            for name in vars(thing):
                self.watch(vars(thing), name, f"{type(thing).__name__}.{name.lstrip('_')}")
            return [method for name in ("step", "update", "coefficients") for method in _methods(thing, name)]
        return self._contained(thing) if isinstance(thing, _CONTAINERS) else self._object(thing)

    def _module(self, module: Module) -> list[Any]:
        module.training = module.training  # an attribute of its own, so that a switch and back leaves no trace
        if _users(type(module)):
            self._objects.append(module)
        held = self._all(vars(module), type(module).__name__, "{}.{}")
        return [*held, *_methods(module, "forward"), *_implicit(module)]

    def _contained(self, thing: Any) -> Iterable[Any]:
        if isinstance(thing, functools.partial):
            return [thing.func, *thing.args, *thing.keywords.values()]
        if isinstance(thing, list | dict):
            return self._all(thing, self._label(thing), "{}[{!r}]") if len(thing) < LARGE else ()
        if isinstance(thing, UserDict | UserList):
            return [thing.data]
        if isinstance(thing, tuple | frozenset):
            return list(thing)[:LARGE]
        if id(thing) in self._labels and (now := contents(thing)) is not None:
            self.contents.append((thing, now, self._label(thing)))
        return ()

    def _object(self, thing: Any) -> list[Any]:
        if isinstance(thing, _GENERATORS):
            self._watch_generator(self._label(thing), functools.partial(pickle.dumps, thing))
        elif isinstance(thing, type | types.ModuleType):
            if _users(thing):
                self._objects.append(thing)
        elif _users(type(thing)) or (hasattr(thing, "__dict__") and not type(thing).__module__.startswith("numpy")):
            self._objects.append(thing)
            return [*[x for x in _inside(thing).values() if not isinstance(x, list | dict)], *_implicit(thing)]
        return []

    def _label(self, thing: Any) -> str:
        return self._labels.get(id(thing), f"a {type(thing).__name__}")

    def _all(self, held: Any, label: str, template: str) -> list[Any]:
        """Watch all that a list or a dict holds."""
        self.whole[id(held)] = held, label, len(held)
        names = held if isinstance(held, dict) else range(len(held))
        return [self.watch(held, name, template.format(label, name)) for name in names]

    def _named(self, thing: Any) -> list[Any]:
        """Watch the attributes of a thing and of its class that the code has names for. Those that are new."""
        kind = thing if isinstance(thing, type) else type(thing)
        own = {} if isinstance(thing, type | Module) else _inside(thing)
        names = self.names & own.keys()
        for cls in kind.__mro__:
            if _users(cls):
                names |= {name for name in self.names & vars(cls).keys() if _is_data(vars(cls)[name])}
        label = getattr(thing if isinstance(thing, types.ModuleType) else kind, "__name__", "")
        return [self.watch(thing, name, f"{label}.{name}") for name in names if (id(thing), name) not in self.places]

    def _function(self, function: types.FunctionType, owner: Any) -> Iterator[Any]:
        """The variables of a function, and the methods and properties that it takes from them or from ``self``."""
        known: dict[str, Any] = dict.fromkeys(function.__code__.co_varnames[:1], owner)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            known[name] = self.watch(cell, "cell_contents", name)
        yield from (*known.values(), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        thing, behind_super = None, "super" in function.__code__.co_names
        self.names |= _strings(function.__code__)
        for operation, name in _instructions(function.__code__):
            if "ATTR" in operation or "METHOD" in operation:
                self.names.add(name)
                yield from _methods(thing, name)
                if behind_super:
                    yield from _methods(owner, name)
                thing = _inside(thing).get(name)
            elif operation in ("LOAD_GLOBAL", "STORE_GLOBAL"):
                thing = function.__globals__.get(name)
                if name in function.__globals__ and not isinstance(thing, types.ModuleType | type):
                    self.watch(function.__globals__, name, name)
                yield thing
            else:
                thing = known.get(name)


def _inside(thing: Any) -> Mapping[str, Any]:
    """The ``__dict__`` of a thing, where it is one: an extension's types may have anything there."""
    inside = getattr(thing, "__dict__", None)
    return inside if isinstance(inside, Mapping) else {}


@functools.lru_cache(maxsize=1024)
def _instructions(code: types.CodeType) -> list[tuple[str, str]]:
    """(operation, variable or attribute) of code and of what is defined in it."""
    found = []
    for i in dis.get_instructions(code):
        if isinstance(i.argval, types.CodeType):
            found += _instructions(i.argval)
        name = i.argval[-1:] if isinstance(i.argval, tuple) else (i.argval,)  # two variables may be loaded at once
        found.append((i.opname, name[0] if i.opname != "LOAD_CONST" and name and isinstance(name[0], str) else ""))
    return found


@functools.lru_cache(maxsize=1024)
def _strings(code: types.CodeType) -> frozenset[str]:
    """The texts in code and in what is defined in it."""
    within = [_strings(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(constant for constant in code.co_consts if isinstance(constant, str)).union(*within)


def contents(thing: Any) -> bytes | list[Any] | None:
    """What is in an array, a set, a deque or a mapping, to be compared later; None where that is much, or not plain."""
    if isinstance(thing, np.ndarray):
        return thing.tobytes() if thing.nbytes <= LARGE << 6 else None
    found = [*thing, *(thing.values() if isinstance(thing, Mapping) else ())]
    plain = len(found) < LARGE and all(isinstance(x, _PLAIN) and not isinstance(x, Tensor) for x in found)
    return found if plain else None


def _methods(thing: Any, name: str) -> Iterator[types.MethodType]:
    """The methods or properties of that name, of the class and its bases, bound, where they are written in Python."""
    for cls in (thing if isinstance(thing, type) else type(thing)).__mro__:
        found = vars(cls).get(name)
        function = getattr(found, "fget", None) or getattr(found, "__func__", found)
        if isinstance(function, types.FunctionType):
            yield types.MethodType(function, thing)


def _implicit(thing: Any) -> list[types.MethodType]:
    """The methods that Python calls by itself: for an operator, an index, an attribute that is not there."""
    names = {name for cls in type(thing).__mro__ if _users(cls) for name in vars(cls) if name.startswith("__")}
    return [method for name in names - _NOT_READING for method in _methods(thing, name)]


def _is_data(value: Any) -> bool:
    """Whether a class's attribute is neither a method nor a property; a slot is data."""
    return isinstance(value, types.MemberDescriptorType) or not hasattr(type(value), "__get__")


def _users(thing: Any) -> bool:
    """Whether a function, class or Python module is the user's."""
    module = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return not _library(str(module).partition(".")[0])


@functools.cache
def _library(package: str) -> bool:
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    installed = "site-packages" in file or "dist-packages" in file
    return package != "__main__" and (installed or package in _LIBRARIES)
