"""Module: a part of a network, made of parameters, buffers and other modules."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeGuard, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from tinygrad_cifar.errors import CheckpointError, ConfigError
from tinygrad_cifar.operators import Operand
from tinygrad_cifar.tensor import Array, Tensor

T = TypeVar("T")
Hook = Callable[["Module", tuple[Any, ...], Any], Any]


class Parameter(Tensor):
    """A Tensor that a Module learns. It stays a parameter when ``requires_grad`` is switched off to freeze it."""

    __slots__ = ()

    def __init__(self, data: Operand, requires_grad: bool = True, dtype: DTypeLike | None = None):
        super().__init__(data, requires_grad, dtype)


class Module:
    """Base of all layers and networks: write ``forward``, assign parameters and modules as attributes.

    A Parameter (or any leaf Tensor that requires a gradient) that is an attribute is learned; a Module that is an
    attribute is a part; what ``register_buffer`` stores is saved with the model but not learned. Attributes are
    ordinary ones: nothing has to be called before they are assigned, ``super().__init__()`` included.

    Examples:
        >>> class Net(Module):
        ...     def __init__(self):
        ...         self.hidden, self.scores = Linear(3072, 50), Linear(50, 10)
        ...     def forward(self, x):
        ...         return self.scores(self.hidden(x).relu())
    """

    training: bool = True
    _buffers: tuple[str, ...] = ()
    _forward_hooks: tuple[Hook, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(vars(self).get(name), Parameter) and not (value is None or is_parameter(value)):
            raise ConfigError(
                f"{type(self).__name__}.{name} is a Parameter: a {type(value).__name__} in its place would be neither "
                "trained nor saved. Write nn.Parameter(values), or None to leave it out."
            )
        super().__setattr__(name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output. Every Module defines its own; call the module itself, not ``forward``."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward(self, x).")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.forward(*args, **kwargs)
        for hook in self._forward_hooks:
            replaced = hook(self, args, output)
            output = output if replaced is None else replaced
        return output

    def register_forward_hook(self, hook: Hook) -> Callable[[], None]:
        """Call ``hook(module, inputs, output)`` after every forward; what it returns, unless None, is the output.

        Returns a function that removes the hook.
        """
        self._forward_hooks += (hook,)

        def remove() -> None:
            self._forward_hooks = tuple(h for h in self._forward_hooks if h is not hook)

        return remove

    def register_buffer(self, name: str, value: ArrayLike | Tensor) -> None:
        """Keep ``value`` as the attribute ``name``: a Tensor without gradient that ``state_dict`` saves."""
        setattr(self, name, Tensor(value))
        self._buffers += (name,)

    # What it is made of ---------------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The modules that are attributes of this one, in the order in which they were assigned.

        Raises:
            ConfigError: modules or parameters hide in a list, tuple or dict, where training would miss them.
        """
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, _CONTAINERS) and _holds_parts(value):
                raise ConfigError(
                    f"{type(self).__name__}.{name} is a {type(value).__name__} that holds modules or parameters: "
                    "they would be neither trained nor saved. Use nn.Sequential(*modules), or one attribute each."
                )

    def _walk(self, name: str = "") -> list[tuple[str, "Module"]]:
        """This module and all below it, parents first; a shared one comes once for each of its names."""
        found = [(name, self)]
        for child_name, child in self.named_children():
            found += child._walk(_dotted(name, child_name))
        return found

    def _own_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in vars(self).items():
            if is_parameter(value):
                yield name, value

    def named_modules(self) -> Iterator[tuple[str, "Module"]]:
        """(dotted name, module) of this module, whose name is "", and of all below it, each module once."""
        return _once(self._walk())

    def modules(self) -> Iterator["Module"]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, parameter), each parameter once, in PyTorch's order: "0.weight", "0.bias", "2.weight", ...

        The dotted name also becomes the tensor's ``.name``, so that errors and pictures speak of "0.weight".
        """
        everywhere = ((_dotted(path, name), p) for path, m in self._walk() for name, p in m._own_parameters())
        for name, parameter in _once(everywhere):
            parameter.name = name
            yield name, parameter

    def parameters(self) -> Iterator[Tensor]:
        """All parameters, each once: what an optimiser wants."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer), each buffer once: what is saved but not learned, such as running averages."""
        return _once((_dotted(path, name), getattr(m, name)) for path, m in self._walk() for name in m._buffers)

    def buffers(self) -> Iterator[Tensor]:
        """All buffers, each once."""
        return (buffer for _, buffer in self.named_buffers())

    # Modes ----------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Switch to training: batch norm uses the batch's own statistics, dropout drops."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch to evaluation: batch norm uses its running averages, dropout does nothing."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients: each parameter's ``grad`` becomes None."""
        for parameter in self.parameters():
            parameter.grad = None

    def astype(self, dtype: DTypeLike) -> Self:
        """Convert parameters and floating-point buffers in place, and forget gradients. Do it before an optimiser."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.data.dtype.kind == "f":
                tensor.data = tensor.data.astype(dtype)  # keeps the memory order
                tensor.grad = None
                tensor.version[0] += 1
        return self

    # Saving ---------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        state = {}
        for path, module in self._walk():
            state.update({_dotted(path, name): parameter for name, parameter in module._own_parameters()})
            state.update({_dotted(path, name): getattr(module, name) for name in module._buffers})
        return state

    def state_dict(self) -> dict[str, Array]:
        """{dotted name: array} of all parameters and buffers, with PyTorch's names and shapes.

        The arrays are contiguous copies: a snapshot that further training does not change.
        """
        return {name: np.array(tensor.data, order="C") for name, tensor in self._state().items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike]) -> None:
        """Write the values of ``state`` (arrays, also PyTorch's tensors) into parameters and buffers, in place.

        The model keeps its dtypes. Nothing is written unless every name and shape fits.

        Raises:
            CheckpointError: names are missing or unexpected, or shapes differ; all of them are listed.
        """
        own = self._state()
        values = {name: np.asarray(value) for name, value in state.items()}
        faults = [f"missing: {name} {own[name].shape}" for name in own if name not in values]
        faults += [f"unexpected: {name} {values[name].shape}" for name in values if name not in own]
        for name in own.keys() & values.keys():
            if values[name].shape != own[name].shape:
                faults.append(f"shape: {name} is {own[name].shape} here but {values[name].shape} in the state_dict")
            elif not np.can_cast(values[name].dtype, own[name].dtype, "same_kind"):
                faults.append(f"dtype: {name} is {own[name].dtype} here but {values[name].dtype} in the state_dict")
        if faults:
            raise CheckpointError(
                f"the state_dict does not fit this {type(self).__name__}:\n  " + "\n  ".join(sorted(faults))
                + "\nBuild the network with the sizes and options with which it was saved."
            )  # fmt: skip
        for name, tensor in own.items():
            tensor.data[...] = values[name]
            tensor.version[0] += 1

    # Reading --------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands between the brackets of a layer's repr."""
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {child!r}" for name, child in self.named_children()]
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        body = "\n".join(children).replace("\n", "\n  ")
        return f"{type(self).__name__}({self.extra_repr()}\n  {body}\n)"


def is_parameter(value: Any) -> TypeGuard[Tensor]:
    """Whether an attribute of a module is learned: an intermediate result that was stored is not."""
    return isinstance(value, Parameter) or (isinstance(value, Tensor) and value.requires_grad and value.node is None)


_CONTAINERS = (list, tuple, dict)


def _holds_parts(value: Any) -> bool:
    """Whether modules or parameters are in a container, at any depth."""
    if isinstance(value, _CONTAINERS):
        return any(map(_holds_parts, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Module) or is_parameter(value)


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _once(named: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    """The pairs whose object has not come before."""
    seen: set[int] = set()
    for name, thing in named:
        if id(thing) not in seen:
            seen.add(id(thing))
            yield name, thing


def count_parameters(module: Module) -> int:
    """How many numbers the module learns."""
    return sum(math.prod(parameter.shape) for parameter in module.parameters())


@contextmanager
def preserved_modes(module: Module) -> Iterator[None]:
    """``with preserved_modes(model):`` leaves it and all its parts in training or evaluation as each was."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
