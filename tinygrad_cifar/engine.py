"""The walk: from an output back through the recorded graph, node by node, to the leaves.

Nodes are numbered as they are recorded, so taking the highest number first visits every node after all nodes that
used its result. A node's gradient is dropped as soon as its rule has consumed it, and the node's saved values with
it. This is the only place that undoes broadcasting and that checks what rules return.
"""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np

from tinygrad_cifar.errors import DtypeError, GraphError, MutationError, NonFiniteError, ShapeError
from tinygrad_cifar.operands import describe
from tinygrad_cifar.operators import OPS, Operand, unwrap
from tinygrad_cifar.tensor import ENGINE, UNCOUNTED, Array, Node, Op, Tensor, _Mode, _Modes, _wrap

_SEQUENCES = {tuple, list}
Place = Node | Tensor  # a place of the graph where a gradient arrives: a recorded result, or a leaf


def backward(
    output: Tensor, gradient: Operand | None = None, *, create_graph: bool = False, retain_graph: bool = False
) -> None:
    """Add d output / d leaf, weighted with ``gradient``, to ``.grad`` of every leaf that requires one.

    Args:
        output: what to differentiate; a scalar unless ``gradient`` is given.
        gradient: the gradient from above, of ``output``'s shape; 1 for a scalar.
        create_graph: record the gradients' own graph, so that they can be differentiated again.
        retain_graph: keep the saved values for another walk (implied by ``create_graph``).

    Raises:
        GraphError: nothing was recorded, an earlier walk freed the graph, or ``gradient`` is missing.
        MutationError: a value that a rule needs was changed in place since.
        ShapeError, DtypeError: a gradient does not have the shape or dtype of its tensor.
    """
    seed = _seed(output, gradient)
    found = _walk([(output, seed)], None, create_graph, retain_graph or create_graph)
    for leaf, g in found.items():
        if isinstance(leaf, Tensor):
            leaf.grad = _as_tensor(g) if leaf.grad is None else _added(leaf.grad, g)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Operand | Sequence[Operand | None] | None = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> tuple[Tensor, ...]:
    """The gradients of the outputs' weighted sum with respect to ``inputs``, leaves or not; ``.grad`` stays untouched.

    Only the part of the graph between the two is walked. The arguments are named as in ``torch.autograd.grad``;
    an input that the outputs do not depend on is an error, or a gradient of zeros with ``allow_unused``.

    Raises:
        GraphError: an input does not require a gradient or is not used; or as for ``backward``.
        ShapeError: ``grad_outputs`` has not one for each output; or as for ``backward``.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    above = grad_outputs if isinstance(grad_outputs, list | tuple) else [grad_outputs] * len(outputs)
    if len(above) != len(outputs):
        raise ShapeError(
            f"grad: {len(outputs)} outputs, but {len(above)} grad_outputs. A list means one for each output; for a "
            "single output give an array."
        )
    seeds = [(y, _seed(y, g)) for y, g in zip(outputs, above, strict=True)]
    for x in inputs:
        if not x.requires_grad:
            raise GraphError(f"grad: {describe(x)} does not require a gradient; set requires_grad=True before use.")
    targets = [x.node or x for x in inputs]
    found = _walk(seeds, targets, create_graph, create_graph if retain_graph is None else retain_graph)
    for x, place in zip(inputs, targets, strict=True):
        if place not in found and not allow_unused:
            raise GraphError(
                f"grad: the outputs do not depend on {describe(x)}. Pass allow_unused=True to get zeros for it."
            )
    return tuple([_as_tensor(found[p]) if p in found else Tensor(np.zeros_like(x.data))
                  for x, p in zip(inputs, targets, strict=True)])  # fmt: skip


def hvp(
    f: Callable[..., Tensor], inputs: Tensor | Sequence[Tensor], vectors: Operand | Sequence[Operand]
) -> tuple[Tensor, ...]:
    """Hessian-vector product of the scalar ``f(*inputs)``: H v, by differentiating the gradient's product with v.

    Raises:
        ShapeError: ``vectors`` has not one of its shape for each input.
    """
    if isinstance(inputs, Tensor):
        inputs, vectors = [inputs], [vectors]
    if len(vectors) != len(inputs):
        raise ShapeError(f"hvp: {len(inputs)} inputs, but {len(vectors)} vectors. Give one for each, in a list.")
    first = grad(f(*inputs), inputs, create_graph=True, allow_unused=True)
    live = [(g, v) for g, v in zip(first, vectors, strict=True) if g.requires_grad]
    if not live:
        return tuple(Tensor(np.zeros_like(x.data)) for x in inputs)
    return grad([g for g, _ in live], inputs, [v for _, v in live], allow_unused=True)


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor, create_graph: bool = False) -> Tensor:
    """d f(x) / d x with shape ``f(x).shape + x.shape``, one backward walk per entry of f(x)."""
    y = f(x)
    rows: list[Any] = []
    for i in range(y.size):
        one = np.zeros(y.size, y.dtype)
        one[i] = 1
        rows += grad(y, x, one.reshape(y.shape), create_graph, retain_graph=True, allow_unused=True)
    whole = OPS["stack"](*rows) if rows else Tensor(np.zeros((0, *x.shape), x.dtype))
    return whole.reshape(y.shape + x.shape)


def sum_to(g: Any, shape: tuple[int, ...]) -> Any:
    """Undo broadcasting: sum ``g`` over the axes along which ``shape`` was repeated to g's shape."""
    extra = len(g.shape) - len(shape)
    repeated = tuple(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    return np.sum(g, axis=(*range(extra), *repeated)).reshape(shape)


ENGINE["backward"] = backward


def _walk(
    seeds: Sequence[tuple[Tensor, Any]], targets: Sequence[Place] | None, create_graph: bool, retain: bool
) -> dict[Place, Any]:
    """The gradients that arrive at the targets, or with ``targets=None`` at all leaves."""
    ends = set(targets or ())
    wanted = None if targets is None else _toward([y.node or y for y, _ in seeds], ends)
    pending: dict[Place, Any] = {}
    found: dict[Place, Any] = {}
    heap: list[tuple[int, Node]] = []
    recording, _Mode.recording = _Mode.recording, create_graph
    try:
        arriving: Sequence[tuple[Place, Any]] = [(y.node or y, g if create_graph else g.data) for y, g in seeds]
        while True:
            for place, g in arriving:
                if place in pending:
                    pending[place] = pending[place] + g
                else:
                    pending[place] = g
                    if type(place) is Node:
                        heappush(heap, (-place.order, place))
            arriving = ()
            if not heap:
                break
            node = heappop(heap)[1]
            g = pending.pop(node)
            if node.hooks:
                g = _hooked(node, g)
            if node in ends:
                found[node] = _copy(g)
            parents = node.parents
            if wanted is not None:
                if node not in wanted:
                    continue
                parents = tuple(p if p in wanted or p in ends else None for p in parents)
            arriving = _passed_on(node, g, parents, create_graph)
            if not retain:
                node.saved = node.kept = node.out = None
                node.parents = ()
        for leaf, g in pending.items():
            g = _hooked(leaf, g) if leaf.hooks else g
            found[leaf] = _copy(g) if create_graph else g
    finally:
        _Mode.recording = recording
    return found


def _passed_on(node: Node, g: Any, parents: Sequence[Place | None], create_graph: bool) -> list[tuple[Place, Any]]:
    """The gradients that a node hands on to its parents, each with that parent."""
    gradients = _rule(node, g, parents, create_graph)
    if type(gradients) not in _SEQUENCES or len(gradients) < len(parents):
        raise GraphError(
            f"the gradient rule of {node.op.name} must return a tuple of {len(parents)}: a gradient or None "
            "for each input."
        )
    arriving = []
    for i, parent in enumerate(parents):
        if parent is not None:
            gradient = gradients[i]
            if callable(gradient):
                gradient = gradient()
            if gradient is None:
                continue
            like = parent.data if isinstance(parent, Tensor) else parent
            fits = type(gradient) is np.ndarray and gradient.dtype is like.dtype and gradient.shape == like.shape
            if not fits or _Modes.detecting:
                gradient = _checked(node, i, parent, gradient)
            if like is not parent and _shared(gradient, g, node.op):
                gradient = gradient.copy()
            arriving.append((parent, gradient))
    return arriving


def _toward(starts: list[Place], targets: set[Place]) -> set[Place]:
    """The nodes between the starts and the targets: those from which some target can be reached, or could before
    they were freed."""
    seen: dict[Node, None] = {}
    stack = [p for p in starts if isinstance(p, Node)]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen[node] = None
            stack.extend(p for p in node.parents if isinstance(p, Node))
    between: set[Place] = set()
    for node in sorted(seen, key=lambda n: n.order):
        if node.saved is None or any(p in targets or p in between for p in node.parents if p is not None):
            between.add(node)
    return between


def _rule(node: Node, g: Any, parents: Sequence[Place | None], create_graph: bool) -> Sequence[Any]:
    op, saved, out = node.op, node.saved, node.out
    if saved is None:
        raise GraphError(
            f"backward reached {op.name} {node.shape} a second time, but its saved values were freed by the first "
            "walk. Compute the result again, or pass retain_graph=True to the first walk."
        )
    now = 0
    for counter in node.counters:
        now += counter[0]
    if now != node.expected:
        raise _mutation(node)
    if op.rule is None:
        raise GraphError(f"op {op.name} has no gradient rule; write one under @{op.name}.gradient.")
    if create_graph:
        if op.twin is not None:
            return _through_twin(node, g, parents)
        saved = _rejoined(node)
        out = out if out is None else _at(node, out, node.counters[-1])
    if op.keeps:
        return op.rule(g, out, *saved, kept=node.kept, **node.kwargs)
    return op.rule(g, out, *saved, **node.kwargs)


def _rejoined(node: Node) -> tuple[Any, ...]:
    """The saved inputs as the Tensors they were, connected to the graph again, with their version counters."""
    counters = iter(node.counters)
    each = zip(node.saved or (), node.parents, node.op.each_saved, strict=False)
    return tuple([_at(place, value, next(counters)) if save else value for value, place, save in each])


def _at(place: Place | None, value: Any, version: list[int]) -> Any:
    if version is UNCOUNTED:
        return value
    if isinstance(place, Tensor):
        if place.data is not value:
            raise MutationError(f"{describe(place)} was given another array (t.data = ...) after it was used.")
        return place
    t = _wrap(value)
    t.version, t.node, t.requires_grad = version, place, place is not None
    return t


def _through_twin(node: Node, g: Any, parents: Sequence[Place | None]) -> list[Any]:
    """The gradients of a fused op as a graph: those of its composed twin, at the same inputs."""
    assert node.op.twin is not None
    # Clones mark where the twin begins: an input that depends on another one must not count twice.
    inputs = [x if p is None else OPS["clone"](x) for x, p in zip(_rejoined(node), node.parents, strict=True)]
    wanted = [x for x, p in zip(inputs, parents, strict=True) if p is not None]
    found = iter(grad(node.op.twin(*inputs, **node.kwargs), wanted, g, create_graph=True, allow_unused=True))
    return [None if p is None else next(found) for p in parents]


def _checked(node: Node, i: int, parent: Place, gradient: Any) -> Any:
    """What a rule returned for input i, with broadcasting undone, and checked against that input."""
    shape, dtype = parent.shape, getattr(gradient, "dtype", None)
    if dtype is not parent.dtype and (dtype is None or dtype != parent.dtype):  # NumPy: None == dtype(float)
        raise DtypeError(
            f"{_where(node, i)} the rule returned {getattr(gradient, 'dtype', type(gradient).__name__)}, but the input "
            f"is {parent.dtype}. Keep constants in the rule Python numbers, or convert them: .astype(g.dtype)."
        )
    if gradient.shape != shape:
        if not _broadcasts(shape, gradient.shape):
            raise ShapeError(f"{_where(node, i)} the rule returned shape {gradient.shape}, but the input has {shape}.")
        gradient = sum_to(gradient, shape)
    if _Modes.detecting and not np.isfinite(unwrap(gradient)).all():
        raise NonFiniteError(f"{_where(node, i)} the rule is the first to return a gradient that is not finite.")
    return gradient


def _shared(gradient: Any, above: Any, op: Op) -> bool:
    """Whether a leaf, which keeps what it is given, needs a copy: the memory may be another gradient's too, or, from
    a user's rule, anybody's."""
    if not isinstance(gradient, np.ndarray):
        return False
    base = gradient if gradient.base is None else gradient.base
    return op.custom or base is above or base is above.base or not gradient.flags.writeable


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(small, large) == large
    except ValueError:
        return False


def _where(node: Node, i: int) -> str:
    names = node.op.inputs
    return f"gradient of {node.op.name}, input {i} ({names[min(i, len(names) - 1)]}):"


def _mutation(node: Node) -> MutationError:
    saved = [name for name, save in zip(node.op.inputs, node.op.saves, strict=True) if save]
    saved += ["its result"] * node.op.saves_out
    return MutationError(
        f"backward through {node.op.name} {node.shape} needs the value of {' and '.join(saved)}, but one was changed "
        "in place after it was used (by an optimiser step, `t[...] = ...`, or `t += ...` under no_grad). Call backward "
        "before changing it, or change a clone: t.clone()."
    )


def _seed(output: Tensor, gradient: Operand | None) -> Tensor:
    if not output.requires_grad:
        raise GraphError(
            f"{describe(output)} has no graph behind it: no input required a gradient, or it was computed under "
            "no_grad(), or by a compiled function. Create inputs with requires_grad=True; compile a whole step, with "
            "backward and update."
        )
    if gradient is None:
        array = output.data
        if array.size != 1:
            raise GraphError(
                f"backward starts from a scalar, not from shape {output.shape}. Reduce it first (.mean()), or pass "
                "the gradient from above: backward(gradient)."
            )
        return _wrap(np.array(1, array.dtype, ndmin=array.ndim))
    if isinstance(gradient, Tensor):
        seed = gradient if gradient.requires_grad else Tensor(gradient.data.copy())
    else:
        seed = Tensor(np.array(gradient, output.dtype))
    if seed.shape != output.shape:
        raise ShapeError(f"the gradient from above has shape {seed.shape}, but the output has {output.shape}.")
    if seed.dtype != output.dtype:
        raise DtypeError(f"the gradient from above is {seed.dtype}, but the output is {output.dtype}; use .astype.")
    return seed


def _hooked(place: Place, g: Any) -> Any:
    for hook in list(place.hooks or ()):
        given = _as_tensor(g)
        version, count = given.version, given.version[0]
        changed = hook(given)
        if given.version is not version or version[0] != count:
            raise GraphError(
                f"a hook changed its gradient {place.shape} in place, which may be the gradient of other tensors too. "
                "Return another one: g * 0.5, not g *= 0.5."
            )
        if changed is None:
            continue
        if not isinstance(changed, Tensor) or (changed.shape, changed.dtype) != (place.shape, place.dtype):
            raise GraphError(
                f"a hook returned {describe(changed)}; it must return None, or a Tensor {place.shape} {place.dtype} "
                "that replaces the gradient."
            )
        g = changed if isinstance(g, Tensor) else changed.data.copy()
    return g


def _copy(g: Any) -> Any:
    """The gradient in memory of its own: what the caller does to it must not reach another one."""
    return OPS["clone"](g) if isinstance(g, Tensor) else g.copy()


def _as_tensor(g: Any) -> Tensor:
    if isinstance(g, np.ndarray):
        return _wrap(g)
    return g if isinstance(g, Tensor) else _wrap(np.asarray(g))


def _added(before: Tensor, g: Any) -> Tensor:
    return before + g if isinstance(g, Tensor) else _wrap(before.data + g)


__all__ = ["Array", "backward", "grad", "hvp", "jacobian", "sum_to"]
