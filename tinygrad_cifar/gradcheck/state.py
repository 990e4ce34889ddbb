"""Leaving no trace: whatever f changes when it is called is put back, bit for bit."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_cifar import random
from tinygrad_cifar.tensor import Tensor


@contextmanager
def preserved(f: Callable[[], Any], wrt: Mapping[str, Tensor], module: Any = None) -> Iterator[None]:
    """Restore, on the way out, parameters, running averages, batch counters and random streams.

    Buffers are those of ``module`` and of every module that f refers to: in its closure, its globals, its arguments.
    """
    tensors = list(wrt.values())
    generators = []
    for thing in [module, *_behind(f)]:
        if hasattr(thing, "named_buffers"):  # a Module
            tensors += [t for _, t in (*thing.named_parameters(), *thing.named_buffers())]
        elif isinstance(thing, Tensor):
            tensors.append(thing)
        elif isinstance(thing, np.random.Generator):
            generators.append(thing)
    before = [(t, t.data, t.data.copy(), t.grad) for t in tensors]
    states = [(g, g.bit_generator.state) for g in generators]
    legacy = np.random.get_state()
    try:
        with random.preserved():
            yield
    finally:
        for t, array, values, gradient in before:
            t.data, t.grad = array, gradient
            if not np.array_equal(array, values, equal_nan=True):
                array[...] = values
        for generator, state in states:
            generator.bit_generator.state = state
        np.random.set_state(legacy)


def _behind(f: Callable[[], Any]) -> list[Any]:
    """The objects that f refers to by name."""
    inner = getattr(f, "func", f)  # functools.partial
    things = [f, getattr(f, "__self__", None), *getattr(f, "args", ()), *getattr(f, "keywords", {}).values()]
    if inspect.isfunction(inner):
        found = inspect.getclosurevars(inner)
        things += [*found.nonlocals.values(), *found.globals.values(), *(inner.__defaults__ or ())]
    return [y for x in things for y in (x if isinstance(x, list | tuple) else [x])]
