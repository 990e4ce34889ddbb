"""Planning: from what a step did to a flat program in fixed buffers.

The instructions keep their order and their exact operations, so a replay's numbers are eager's, bit for bit. What is
dropped are operations that nobody needs or that were done before; what changes is where results lie.
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_cifar.compiler.trace import Instruction, Root, Scalar, View, _copy, views
from tinygrad_cifar.errors import CompileError

ALIGNMENT = 64  # bytes: a cache line


def optimised(instructions: list[Instruction], kept: set[Root]) -> list[Instruction]:
    """The instructions that are needed, once each, with the guards and what they depend on in front."""
    instructions = _once(_converted(instructions), kept)
    instructions = _forwarded(instructions, kept)
    instructions = _needed(instructions, kept)
    return _guards_first(instructions)


def _converted(instructions: list[Instruction]) -> list[Instruction]:
    """With operands written out in full where NumPy would convert or repeat them in a buffer made for the occasion:
    masks that meet floats, and rows and columns that meet matrices. It takes no longer, and can be done once for two.
    """
    chosen = []
    for instruction in instructions:
        out, operands = instruction.out, list(instruction.operands)
        elementwise = isinstance(instruction.function, np.ufunc) and instruction.function.signature is None
        if out and out.dtype.kind == "f" and elementwise and not instruction.kwargs and out.strides == _strides(out):
            for n, x in enumerate(operands):
                if type(x) is not View or x.dtype not in (out.dtype, np.dtype(bool)) or not x.shape:
                    continue
                if x.dtype != out.dtype or x.shape != out.shape:
                    full = Instruction(_copy, (x,), {"shape": out.shape, "dtype": out.dtype}, instruction.line)
                    root = Root(np.empty(out.shape, out.dtype), "planned")
                    full.out = operands[n] = View(root, 0, out.shape, out.strides, out.dtype)
                    chosen.append(full)
            instruction.rewire(tuple(operands), {})
        chosen.append(instruction)
    return chosen


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
        if same:
            instruction.rewire(_moved(instruction.operands, same), _moved(instruction.kwargs, same))
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
        if same:
            instruction.rewire(_moved(instruction.operands, same), _moved(instruction.kwargs, same))
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
                    place = View(out.root, out.offset + offset, source.shape, _strides(source), source.dtype)
                    copy = Instruction(np.copyto, (place, source), {}, instruction.line)
                    copy.written = (place,)
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

    Roots that are never needed at the same time may lie in the same place; the largest chooses first. An elementwise
    operation may write over an operand that it is the last to read.
    """
    first: dict[Root, int] = {}
    last: dict[Root, int] = {}
    for n, instruction in enumerate(instructions):
        for v in (*instruction.writes(), *instruction.reads()):
            root = places[v.root][0] if v.root in places else v.root
            if root.kind == "planned":
                first.setdefault(root, n)
                last[root] = n
    for root in kept:
        home = places[root][0] if root in places else root
        if home in last:
            last[home] = len(instructions)
    guards = max((n for n, i in enumerate(instructions) if _is_guard(i)), default=-1)
    last.update({root: len(instructions) for root in first if first[root] <= guards})  # a failed guard spoils nothing
    heirs: dict[Root, Root] = {}  # root -> the one whose memory it goes on with
    ends = dict(last)
    for n, instruction in enumerate(instructions):
        if instruction.out and first.get(instruction.out.root) == n:
            before = _heir(instruction, n, last, places)
            if before is not None:
                origin = heirs[instruction.out.root] = heirs.get(before, before)
                ends[origin] = last[instruction.out.root]
    offsets: dict[Root, int] = {}
    taken: list[tuple[int, int, int, int]] = []  # start, stop, first, last: by address
    for root in sorted(first.keys() - heirs.keys(), key=lambda r: (r.start - r.stop, first[r])):
        length, start = -(-(root.stop - root.start) // ALIGNMENT) * ALIGNMENT, 0
        for a, b, begin, end in taken:
            if begin <= ends[root] and first[root] <= end:
                if start + length <= a:
                    break
                start = max(start, b)
        offsets[root] = start
        insort(taken, (start, start + length, first[root], ends[root]))
    offsets.update({root: offsets[origin] for root, origin in heirs.items()})
    offsets.update({root: offsets[vector] + offset for root, (vector, offset) in places.items()})
    return offsets, max((stop for _, stop, _, _ in taken), default=0)


def _heir(instruction: Instruction, n: int, last: dict[Root, int], places: dict[Root, tuple[Root, int]]) -> Root | None:
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
