"""Read CIFAR-10's published pickles without running them.

The published Python layout was pickled by Python 2, protocol 2, and a pickle is a program: ``pickle.load`` does what
it says. Here the standard library's ``pickletools`` only takes the file apart, and the two dozen opcodes that the
published files use are interpreted below. What can be built is ``dict``, ``list``, ``tuple``, ``bytes``, ``int``,
``bool``, ``None`` and ``uint8`` arrays; no name is ever looked up and nothing that a file names is ever called.
"""

import pickletools
from typing import Any

import numpy as np

from tinygrad_cifar.errors import DataError

# The only names that a file may mention; each is a word to the interpreter, never an object.
_RECONSTRUCT, _NDARRAY, _DTYPE = "numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"


class _Name(str):
    """One of the three names above, kept apart from the file's byte strings."""


class _Uint8:
    """The dtype uint8: the only dtype there is."""


class _NewArray:
    """An array between its creation and the BUILD that gives it a shape and its bytes."""


def restricted_loads(raw: bytes, where: str) -> Any:
    """The object that the pickle ``raw`` describes, built from the types above and from nothing else.

    Args:
        raw: the whole file.
        where: the file's name, for messages.

    Raises:
        DataError: ``raw`` is truncated or corrupt, or asks for what the published files do not contain. The message
            names the byte.
    """
    machine = _Machine()
    try:
        for opcode, argument, position in pickletools.genops(raw):
            machine.position = position or 0
            machine.apply(opcode.name, argument)
        (result,) = machine.stack
    except Exception as error:  # a corrupt file can trip over anything: a missing item, a wrong type, a wrong length
        raise DataError(
            f"{where}: not a CIFAR-10 pickle; reading stopped at byte {machine.position:,} of {len(raw):,} ({error}). "
            "The file is truncated, corrupt or foreign: delete it and download it again."
        ) from error
    if machine.position != len(raw) - 1:
        raise DataError(
            f"{where}: the pickle ends at byte {machine.position:,}, but the file is {len(raw):,} bytes long. "
            "The file is corrupt: delete it and download it again."
        )
    return result


class _Machine:
    """The pickle machine: a stack, the stacks set aside by MARK, and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.position = 0

    def apply(self, opcode: str, argument: Any) -> None:
        match opcode:
            case "PROTO" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2":
                self.stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":
                self.stack.append(argument.encode("latin-1"))  # pickletools decoded the bytes so
            case "NONE":
                self.stack.append(None)
            case "NEWFALSE" | "NEWTRUE":
                self.stack.append(opcode == "NEWTRUE")
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append({})
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = self.since_mark()
                self.stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.stack.pop() for _ in range(int(opcode[-1]))]
                self.stack.append(tuple(reversed(items)))
            case "APPEND":
                self.extend([self.stack.pop()])
            case "APPENDS":
                self.extend(self.since_mark())
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                self.update([key, value])
            case "SETITEMS":
                self.update(self.since_mark())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                if argument not in (_RECONSTRUCT, _NDARRAY, _DTYPE):
                    raise ValueError(f"it asks for {argument.replace(' ', '.')!r}, which no CIFAR-10 file needs")
                self.stack.append(_Name(argument))
            case "REDUCE":
                arguments, name = self.stack.pop(), self.stack.pop()
                self.stack.append(_reduce(name, arguments))
            case "BUILD":
                state, unfinished = self.stack.pop(), self.stack.pop()
                self.stack.append(_build(unfinished, state))
            case _:
                raise ValueError(f"opcode {opcode}, which no CIFAR-10 file needs")

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("items for a list, but there is no list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        # Only byte strings are keys: hashing a tuple nested a million deep would overflow the C stack.
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, bytes) for key in items[::2]):
            raise TypeError("items for a dictionary, but there is none, or a key is not a byte string")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _reduce(name: Any, arguments: Any) -> _NewArray | _Uint8:
    """What Python would get by calling ``name``: only an array about to be filled, and the dtype uint8."""
    match name, arguments:
        case _Name(), (_Name(), (0,), b"b") if name == _RECONSTRUCT and arguments[0] == _NDARRAY:
            return _NewArray()
        case _Name(), (b"u1", 0, 1) if name == _DTYPE:
            return _Uint8()
    raise ValueError("it calls something other than an empty array or the dtype uint8")


def _build(unfinished: Any, state: Any) -> Any:
    """Complete an array or a dtype with the state that NumPy's ``__reduce__`` wrote."""
    match unfinished, state:
        case _Uint8(), (3, b"|", None, None, None, -1, -1, 0):
            return unfinished
        case _NewArray(), (1, (int(rows), int(columns)), _Uint8(), bool(fortran), bytes(content)):
            return np.frombuffer(content, np.uint8).reshape((rows, columns), order="F" if fortran else "C")
    raise ValueError("an array that is not a table of uint8")
