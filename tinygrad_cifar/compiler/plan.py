"""Planning: from what a step did to a flat program in fixed buffers.

The instructions keep their order and their exact operations, so a replay's numbers are eager's, bit for bit. What is
dropped are operations that nobody needs or that were done before; what changes is where results lie.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_cifar.compiler.trace import Instruction, Root, Scalar, View, _copy, views
from tinygrad_cifar.errors import CompileError

ALIGNMENT = 64  # bytes: a cache line


def optimised(instructions: list[Instruction], kept: set[Root]) -> list[Instruction]:
    """The instructions that are needed, once each, with the guards and what they depend on in front."""
    instructions = _once(instructions, kept)
    instructions = _forwarded(instructions, kept)
    instructions = _needed(instructions, kept)
    return _guards_first(instructions)


def _needed(instructions: list[Instruction], kept: set[Root]) -> list[Instruction]:
    """Without those whose results are never read: walking back from what outlives the step."""
    needed = set(kept)
    chosen = []
    for instruction in reversed(instructions):
        if instruction.effect or any(v.root in needed or not _temporary(v.root) for v in instruction.writes()):
            chosen.append(instruction)
            needed.update(v.root for v in instruction.reads())
            needed.update(v.root for v in instruction.writes())
    return chosen[::-1]


def _temporary(root: Root) -> bool:
    """Whether the program itself makes the memory, so that nobody else sees it."""
    return root.kind in ("planned", "bound", "constant")


def _writes(instructions: Iterable[Instruction]) -> Counter[Root]:
    return Counter(v.root for i in instructions for v in i.writes())


def _once(instructions: list[Instruction], kept: set[Root]) -> list[Instruction]:
    """Without repetitions: an operation on the same operands, none changed since, has the same result."""
    writes = _writes(instructions)
    versions: Counter[Root] = Counter()
    seen: dict[Any, View] = {}
    same: dict[Root, Root] = {}
    chosen = []
    for instruction in instructions:
        instruction.operands, instruction.kwargs = _moved(instruction.operands, same), _moved(instruction.kwargs, same)
        out = instruction.out
        if out and not instruction.effect and _temporary(out.root) and writes[out.root] == 1 and out.root not in kept:
            read = [(v.root, versions[v.root]) for v in instruction.reads()]
            key = (instruction.function, _key(instruction.operands), _key(instruction.kwargs), *read)
            before = seen.setdefault(key, out)
            if before is not out:
                same[out.root] = before.root
                continue
        versions.update(v.root for v in instruction.writes())
        chosen.append(instruction)
    return chosen


def _forwarded(instructions: list[Instruction], kept: set[Root]) -> list[Instruction]:
    """Without copies whose original and copy both stay unchanged: readers of the copy read the original."""
    last_write: dict[Root, int] = {}
    for n, instruction in enumerate(instructions):
        last_write.update({v.root: n for v in instruction.writes()})
    writes = _writes(instructions)
    same: dict[Root, Root] = {}
    chosen = []
    for n, instruction in enumerate(instructions):
        instruction.operands, instruction.kwargs = _moved(instruction.operands, same), _moved(instruction.kwargs, same)
        out, source = instruction.out, instruction.operands[0] if instruction.operands else None
        if (
            instruction.function is _copy and out and type(source) is View and writes[out.root] == 1
            and out.root not in kept and source[1:] == out[1:]
            and (source.root.kind != "outside" and last_write.get(source.root, -1) < n)
        ):  # fmt: skip
            same[out.root] = source.root
        else:
            chosen.append(instruction)
    return chosen


def _moved(x: Any, roots: dict[Root, Root]) -> Any:
    """Operands with views of other memory."""
    if type(x) is View:
        return x._replace(root=roots[x.root]) if x.root in roots else x
    if type(x) is list or type(x) is tuple:
        return type(x)([_moved(i, roots) for i in x])
    return {k: _moved(v, roots) for k, v in x.items()} if type(x) is dict else x


def _key(x: Any) -> Any:
    """Something hashable that is equal for equal operands."""
    if type(x) is list or type(x) is tuple:
        return (type(x), *map(_key, x))
    if type(x) is dict:
        return tuple((k, _key(v)) for k, v in x.items())
    if isinstance(x, np.ndarray):
        return (x.dtype, x.tobytes())
    return (type(x), x) if type(x) in (View, Scalar, str) else (type(x), repr(x))


def _guards_first(instructions: list[Instruction]) -> list[Instruction]:
    """Guards, and what they depend on, before everything that changes memory: a failed guard must leave no trace."""
    ends = [n for n, i in enumerate(instructions) if _is_guard(i)]
    if not ends:
        return instructions
    cone: set[Instruction] = set()
    needed: set[Root] = set()
    for instruction in reversed(instructions[: ends[-1] + 1]):
        if _is_guard(instruction) or any(v.root in needed for v in instruction.writes()):
            cone.add(instruction)
            needed.update(v.root for v in instruction.reads())
            needed.update(v.root for v in instruction.writes())
    writes = _writes(cone)
    for n, instruction in enumerate(instructions):
        changes = any(not _temporary(v.root) for v in instruction.writes())
        if instruction in cone and (instruction.effect == "draw" or changes):
            raise CompileError(
                f"{instruction.line}: a condition depends on what this line changes or draws, so a replay could not "
                "take it back. Decide outside of the compiled step."
            )
        if instruction not in cone and n < ends[-1] and any(writes[v.root] > 1 for v in instruction.reads()):
            raise CompileError(f"{instruction.line}: a condition depends on an array that is changed in place here.")
    return [i for i in instructions if i in cone] + [i for i in instructions if i not in cone]


def _is_guard(instruction: Instruction) -> bool:
    return isinstance(instruction.effect, tuple) and instruction.effect[0] == "guard"


# Buffers --------------------------------------------------------------------------------------------------------


def packed(instructions: list[Instruction]) -> tuple[list[Instruction], dict[Root, tuple[Root, int]]]:
    """Results that are only gathered into one vector are written there at once: {root: (vector's root, offset)}."""
    writes = _writes(instructions)
    last_write = {v.root: n for n, i in enumerate(instructions) for v in i.writes()}
    places: dict[Root, tuple[Root, int]] = {}
    chosen = []
    for n, instruction in enumerate(instructions):
        out = instruction.out
        gathers = instruction.function is np.concatenate and instruction.kwargs.get("axis", 0) is None
        if out and gathers and out.root.kind == "planned" and writes[out.root] == 1 and out.offset == 0:
            offset = 0
            for source in views(instruction.operands[0]):
                size = source.root.stop - source.root.start
                fits = (
                    source.root.kind == "planned" and source.root not in places and last_write[source.root] < n
                    and _whole(source) and source.dtype == out.dtype and source.strides == _strides(source)
                )  # fmt: skip
                if fits:
                    places[source.root] = (out.root, offset)
                else:
                    size = int(np.prod(source.shape)) * source.dtype.itemsize
                    copy = Instruction(np.copyto, (), {}, instruction.line)
                    copy.written = View(out.root, out.offset + offset, source.shape, _strides(source), source.dtype)
                    copy.operands = (copy.written, source)
                    chosen.append(copy)
                offset += size
        else:
            chosen.append(instruction)
    return chosen, places


def _whole(view: View) -> bool:
    return view.offset == 0 and int(np.prod(view.shape)) * view.dtype.itemsize == view.root.stop - view.root.start


def _strides(view: View) -> tuple[int, ...]:
    """Those of a C-contiguous array."""
    steps = np.cumprod([view.dtype.itemsize, *view.shape[:0:-1]])[::-1] if view.shape else ()
    return tuple(int(s) for s in steps)


def placed(
    instructions: list[Instruction], kept: set[Root], places: dict[Root, tuple[Root, int]]
) -> tuple[dict[Root, int], int]:
    """An offset in one arena for every planned root, and the arena's size.

    Memory is given back after its last use. An elementwise operation may write over an operand that it is the last
    to read.
    """
    first: dict[Root, int] = {}
    last: dict[Root, int] = {}
    for n, instruction in enumerate(instructions):
        for v in (*instruction.reads(), *instruction.writes()):
            root = places[v.root][0] if v.root in places else v.root
            if root.kind == "planned":
                first.setdefault(root, n)
                last[root] = n
    last.update({places[root][0] if root in places else root: len(instructions) for root in kept})
    ending: dict[int, list[Root]] = {}
    for root, n in last.items():
        ending.setdefault(n, []).append(root)
    offsets: dict[Root, int] = {}
    used: list[tuple[int, int, Root]] = []  # start, stop, root: by address
    size = 0
    for n, instruction in enumerate(instructions):
        for v in (*instruction.writes(), *instruction.reads()):
            root = places[v.root][0] if v.root in places else v.root
            if root.kind != "planned" or root in offsets:
                continue
            heir = None if v.root in places else _heir(instruction, n, last, places)
            if heir is not None:
                offsets[root] = offsets[heir]
                used = [(a, b, root if r is heir else r) for a, b, r in used]
                continue
            length = -(-(root.stop - root.start) // ALIGNMENT) * ALIGNMENT
            start = 0
            for a, b, _ in used:
                if start + length <= a:
                    break
                start = b
            offsets[root] = start
            used.append((start, start + length, root))
            used.sort(key=lambda u: u[0])
            size = max(size, start + length)
        if n in ending:
            dead = set(ending[n])
            used = [u for u in used if u[2] not in dead]
    for root, (vector, offset) in places.items():
        offsets[root] = offsets[vector] + offset
    return offsets, size


def _heir(
    instruction: Instruction, n: int, last: dict[Root, int], places: dict[Root, tuple[Root, int]]
) -> Root | None:
    """The operand whose memory the result of an elementwise operation may take over."""
    function, out = instruction.function, instruction.out
    if not isinstance(function, np.ufunc) or function.signature is not None or out is None or instruction.kwargs:
        return None
    candidates = [v for v in instruction.operands if type(v) is View]
    for v in candidates:
        dies = v.root.kind == "planned" and last.get(v.root) == n and v.root not in places
        alone = all(other == v for other in candidates if other.root is v.root)
        if dies and alone and v[1:] == out[1:] and v.root.stop - v.root.start == out.root.stop - out.root.start:
            return v.root
    return None
