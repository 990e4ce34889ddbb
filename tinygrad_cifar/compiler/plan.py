"""Planning: fewer operations, in fixed buffers.

The operations keep their order and are exactly those of the step, so a replay's numbers are eager's, bit for bit. What
is dropped are operations that nobody needs or that were done before; what changes is where results lie.
"""

import itertools
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_cifar.compiler.trace import COPIES, Call, Draw, Operation, Root, Tracer, View, operation, piece
from tinygrad_cifar.errors import CompileError

ALIGNMENT = 64  # bytes: a cache line


def simplified(operations: list[Operation], tracer: Tracer) -> list[Operation]:
    """The operations that are needed, once each, with the guards and what they depend on in front."""
    roots = tracer.roots
    needed = _needed(_once(_spread(operations, tracer), roots), roots)
    return _gathered(_guards_first(needed, roots), roots)


def _spread(operations: list[Operation], tracer: Tracer) -> list[Operation]:
    """With operands written out in full where NumPy would convert or repeat them in a buffer made for the occasion:
    masks that meet floats, and rows and columns that meet matrices. It takes no longer, and can be done once for two.
    """
    chosen = []
    for op in operations:
        if _elementwise(op) and op.writes[0].dtype.kind == "f":
            out, array = op.writes[0], piece(op.writes[0], tracer.roots[op.writes[0].root].array)
            full: dict[Any, View] = {}
            for v in op.reads:
                differs = v.shape != out.shape or v.dtype != out.dtype
                if differs and v.shape and v.dtype in (out.dtype, np.dtype(bool)) and v not in full:
                    full[v] = tracer.add(np.empty_like(array), "planned")
                    chosen.append(operation(np.ndarray.copy, (v,), (), "out", (full[v],), op.line))
            if full:
                operands = tuple([full.get(x, x) for x in op.operands])
                op = operation(op.function, operands, (), op.how, op.writes, op.line)
        chosen.append(op)
    return chosen


def _elementwise(op: Operation) -> bool:
    return isinstance(op.function, np.ufunc) and op.function.signature is None and not op.kwargs


def _writes(operations: Iterable[Operation]) -> Counter[int]:
    return Counter(v.root for op in operations for v in op.writes)


def _last_writes(operations: list[Operation]) -> dict[int, int]:
    return {v.root: n for n, op in enumerate(operations) for v in op.writes}


def _once(operations: list[Operation], roots: list[Root]) -> list[Operation]:
    """Without repetitions: an operation on the same operands, none changed since, has the same result. A copy has that
    of its original, where both stay as they are.
    """
    kept = {v.root for v in operations[-1].reads}
    writes = _writes(operations)
    last_write = _last_writes(operations)
    versions: defaultdict[int, int] = defaultdict(int)
    seen: dict[Any, View] = {}
    same: dict[int, tuple[int, int]] = {}
    chosen = []
    for n, op in enumerate(operations):
        op = _moved_operation(op, same)
        out = op.writes[0] if op.how == "out" and type(op.function) is not Draw else None
        if out and roots[out.root].temporary and writes[out.root] == 1 and out.root not in kept:
            source: Any = op.operands[0] if op.function in COPIES else None
            stays = type(source) is View and last_write.get(source.root, -1) < n
            if not stays or source[1:] != out[1:] or roots[source.root].kind == "outside":
                key = (op.function, op.operands, op.kwargs, out[2:], *[versions[v.root] for v in op.reads])
                source = seen.setdefault(key, out)
            if source is not out:
                same[out.root] = (source.root, 0)
                continue
        for v in op.writes:
            versions[v.root] += 1
        chosen.append(op)
    return chosen


def _moved(x: Any, places: dict[int, tuple[int, int]]) -> Any:
    """Operands that lie elsewhere: ``places`` tells of a root, in which other one it is, and where."""
    if type(x) is View and x.root in places:
        root, offset = places[x.root]
        return View(root, offset + x.offset, *x[2:])
    if type(x) is Call:
        return Call(x.make, _moved(x.parts, places))
    return tuple([_moved(i, places) for i in x]) if type(x) is tuple else x


def _moved_operation(op: Operation, places: dict[int, tuple[int, int]]) -> Operation:
    if places and any([v.root in places for v in (*op.reads, *op.writes)]):
        operands, kwargs, writes = _moved((op.operands, op.kwargs, op.writes), places)
        return operation(op.function, operands, kwargs, op.how, writes, op.line)
    return op


def _gathered(operations: list[Operation], roots: list[Root]) -> list[Operation]:
    """Results that are only gathered into one vector, as gradients for the optimiser, are written there at once."""
    writes, last_write = _writes(operations), _last_writes(operations)
    places: dict[int, tuple[int, int]] = {}
    chosen = []
    for n, op in enumerate(operations):
        if op.function is np.concatenate and op.kwargs == (("axis", None),):
            out, sources = op.writes[0], op.operands[0].parts[0]
            whole = out.offset == 0 and roots[out.root].kind == "planned" and writes[out.root] == 1
            arrays = [piece(v, roots[v.root].array) for v in sources]
            fits = [
                roots[v.root].kind == "planned" and last_write[v.root] < n and v.dtype == out.dtype
                and array.flags.c_contiguous and array.nbytes == roots[v.root].array.nbytes
                for v, array in zip(sources, arrays, strict=True)
            ]  # fmt: skip
            if whole and all(fits) and len({v.root for v in sources} - places.keys()) == len(sources):
                starts = itertools.accumulate([array.nbytes for array in arrays], initial=0)
                places.update({v.root: (out.root, start) for v, start in zip(sources, starts, strict=False)})
                continue
        chosen.append(op)
    return [_moved_operation(op, places) for op in chosen]


def _needed(operations: list[Operation], roots: list[Root]) -> list[Operation]:
    """Without those whose results are never read: walking back from what outlives the step."""
    needed: set[int] = set()
    chosen = []
    for op in reversed(operations):
        matters = not op.writes or any([v.root in needed or not roots[v.root].temporary for v in op.writes])
        if matters or type(op.function) is Draw:
            chosen.append(op)
            needed.update([v.root for v in (*op.reads, *op.writes)])
    return chosen[::-1]


def _guards_first(operations: list[Operation], roots: list[Root]) -> list[Operation]:
    """Guards, and what they depend on, before everything that changes memory: a failed guard must leave no trace.

    With them go earlier draws from the same random streams, and what reads memory before they write it again.
    """
    first: set[int] = set()
    needed: set[int] = set()
    written: set[int] = set()
    streams: set[str] = set()
    for n in range(last_guard(operations), -1, -1):
        op = operations[n]
        drawn = {op.function.stream} if type(op.function) is Draw else set()
        changes, reads = {v.root for v in op.writes}, {v.root for v in op.reads}
        if op.function is bool or changes & needed or reads & written or drawn & streams:
            if any(not roots[root].temporary for root in changes):
                raise CompileError(
                    f"{op.line}: a condition depends on what this line changes, so a replay could not take it back. "
                    "Decide outside of the compiled step."
                )
            first.add(n)
            needed |= reads | changes
            written |= changes
            streams |= drawn
    return [operations[n] for n in sorted(first)] + [op for n, op in enumerate(operations) if n not in first]


def last_guard(operations: list[Operation]) -> int:
    return max((n for n, op in enumerate(operations) if op.function is bool), default=-1)


# Buffers --------------------------------------------------------------------------------------------------------


def placed(operations: list[Operation], roots: list[Root]) -> tuple[dict[int, int], int]:
    """An offset in one arena for every planned root, and the arena's size.

    Roots that are never needed at the same time may lie in the same place; the largest chooses first.
    """
    first, last = _lifetimes(operations, roots)
    size = {number: roots[number].array.nbytes for number in first}
    heirs = _heirs(operations, first, last, size)
    ends = dict(last)
    for heir, origin in heirs.items():
        ends[origin] = max(ends[origin], last[heir])
    offsets: dict[int, int] = {}
    taken: list[tuple[int, int, int, int]] = []  # start, stop, first, last: by address
    for number in sorted(first.keys() - heirs.keys(), key=lambda r: (-size[r], first[r])):
        length, start = -(-size[number] // ALIGNMENT) * ALIGNMENT, 0
        begin, end = first[number], ends[number]
        for a, b, x, y in taken:
            if start + length <= a:
                break
            if x <= end and begin <= y:
                start = max(start, b)
        offsets[number] = start
        insort(taken, (start, start + length, begin, end))
    offsets.update({heir: offsets[origin] for heir, origin in heirs.items()})
    return offsets, max((stop for _, stop, _, _ in taken), default=0)


def _lifetimes(operations: list[Operation], roots: list[Root]) -> tuple[dict[int, int], dict[int, int]]:
    """The first and the last operation that touches each planned root."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for n, op in enumerate(operations):
        for v in (*op.reads, *op.writes):
            if roots[v.root].kind == "planned":
                first.setdefault(v.root, n)
                last[v.root] = n
    guard = last_guard(operations)  # one that fails must not have spoiled what the last replay left
    last.update({number: len(operations) for number in first if first[number] <= guard})
    return first, last


def _heirs(
    operations: list[Operation], first: dict[int, int], last: dict[int, int], size: dict[int, int]
) -> dict[int, int]:
    """{root: the one whose memory it goes on with}: elementwise operations write over operands that they read last."""
    heirs: dict[int, int] = {}
    for n, op in enumerate(operations):
        if _elementwise(op) and first.get(op.writes[0].root) == n:
            out = op.writes[0]
            for v in op.reads:
                dies = last.get(v.root) == n and v[1:] == out[1:] and size[v.root] == size[out.root]
                if dies and all(w == v for w in op.reads if w.root == v.root):
                    heirs[out.root] = heirs.get(v.root, v.root)
                    break
    return heirs
