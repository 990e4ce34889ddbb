"""The recorded graph as a picture: what went in, which ops made the output of it, with which parameters."""

import copy
import inspect
import warnings
from collections import Counter
from collections.abc import Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeGuard

import graphviz  # type: ignore[import-untyped]
import numpy as np

from tinygrad_cifar import nn, random
from tinygrad_cifar.errors import ConfigError, GraphError
from tinygrad_cifar.tensor import Array, Node, Tensor, enable_grad

HINT = (
    "the program `dot` is not installed, so there is no picture, only its DOT text. Install Graphviz "
    "(apt install graphviz, brew install graphviz, winget install graphviz), or paste the text into an online viewer"
)

# Told apart by form and lightness, so that a black-and-white print still reads.
INK, GREY, PALE, BLUE = "#222222", "#666666", "#f3f3f3", "#cfe3f1"
STYLES = {
    "input": {"shape": "box", "style": "filled,dashed", "fillcolor": "white", "color": INK},
    "leaf": {"shape": "box", "style": "filled,rounded", "fillcolor": BLUE, "color": INK},
    "op": {"shape": "plain"},
    "output": {"shape": "box", "style": "filled", "fillcolor": INK, "color": INK, "fontcolor": "white"},
    "module": {"style": "filled,rounded", "fillcolor": PALE, "color": PALE, "fontcolor": GREY, "labeljust": "l"},
}
SYMMETRIC = {"add", "multiply", "maximum", "minimum"}


class Drawing(graphviz.Digraph):  # type: ignore[misc]
    """A Digraph that a notebook shows as its DOT text, with a hint, where ``dot`` is not installed."""

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return super()._repr_mimebundle_(*args, **kwargs)
        except graphviz.ExecutableNotFound:
            return {"text/plain": f"{HINT}.\n\n{self.source}"}


def graph(
    target: Tensor | nn.Module,
    x: Tensor | Array | tuple[int, ...] | None = None,
    *,
    model: nn.Module | None = None,
    direction: Literal["TB", "LR"] = "TB",
    max_nodes: int = 500,
) -> Drawing:
    """Draw the graph behind a Tensor, or behind what a Module makes of ``x``.

    White boxes are ops, with their settings and, in blue, the module's parameters that they read; other leaves have
    round blue boxes, inputs dashed ones, the output a black one. Arrows carry the shape of what flows along them, and
    its dtype where it differs from the output's. A module that took several ops is framed.

    Args:
        target: a Tensor with its graph still recorded (draw before ``backward``, which frees it), or a Module.
        x: what to run a Module on: a batch, or a batch's shape such as (100, 3072). It is run on a copy of the Module
            in the mode it is in: running averages, gradients and random streams stay as they are.
        model: whose parameters are to be named in a Tensor's graph, as in ``graph(cost, model=network)``.
        direction: "TB" from top to bottom, "LR" from left to right.
        max_nodes: the most ops to draw.

    Raises:
        ConfigError: a Module without ``x``, or ``x`` with a Tensor.
        GraphError: nothing was recorded, it was already freed, or it is larger than ``max_nodes``.

    Examples:
        >>> picture = tg.viz.graph(nn.mlp([3072, 50, 10]), (100, 3072))  # shown inline in a notebook
        >>> tg.viz.save(picture, "network.svg")
    """
    batch = None
    if isinstance(target, nn.Module):
        target, model, batch = _run(target, x)
    elif x is not None:
        raise ConfigError("graph draws what a Tensor already recorded: pass x with a Module only.")
    nodes = _recorded(target, max_nodes)
    pen = _Pen(target, model, batch)
    pen.drawing.attr(rankdir=direction)
    pen.draw(nodes)
    return pen.drawing


def save(drawing: graphviz.Digraph, path: str | PathLike[str]) -> Path:
    """Write the picture in the format of the path's suffix (svg, png, pdf), or the DOT text for .dot and .gv.

    Where ``dot`` is not installed the DOT text is written instead, beside the path with the suffix .dot, with a
    warning that says so and how to install it. Returns the path that was written.

    Raises:
        ConfigError: a suffix that Graphviz has no format for.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".")
    if kind not in ("dot", "gv"):
        if kind not in graphviz.FORMATS:
            raise ConfigError(f"{path}: no picture format {path.suffix!r}; name it .svg, .png, .pdf or .dot.")
        try:
            path.write_bytes(drawing.pipe(format=kind))
        except graphviz.ExecutableNotFound:
            path = path.with_suffix(".dot")
            warnings.warn(f"{HINT}: {path}", stacklevel=2)
        else:
            return path
    path.write_text(drawing.source, encoding="utf-8")
    return path


def _run(module: nn.Module, x: Tensor | Array | tuple[int, ...] | None) -> tuple[Tensor, nn.Module, Tensor]:
    """The output of a copy of the module on x, the copy, whose parameters are those in the graph, and the input."""
    if x is None:
        raise ConfigError("a Module needs something to run on: graph(model, x), x a batch or its shape, (100, 3072).")
    module = copy.deepcopy(module)
    dtype = next((p.dtype for p in module.parameters()), np.dtype(np.float32))
    if isinstance(x, tuple):
        x = np.random.default_rng(0).standard_normal(x).astype(dtype)
    given = x if isinstance(x, Tensor) else Tensor(x)
    # An input that wants a gradient is recorded by name, even where ops without parameters come first.
    batch = Tensor(given.data, requires_grad=given.dtype.kind == "f")
    batch.name = given.name or "x"
    with random.preserved(), enable_grad():
        output = module(batch)
    if not isinstance(output, Tensor):
        raise ConfigError(f"graph draws one Tensor, and {type(module).__name__} returned a {type(output).__name__}.")
    return output, module, batch


def _recorded(output: Tensor, max_nodes: int) -> list[Node]:
    """The nodes behind the output in the order of their making, found without recursion."""
    if output.node is None:
        raise GraphError("there is no graph to draw: no input required a gradient, or it was computed under no_grad().")
    seen = {output.node}
    stack = [output.node]
    while stack:
        node = stack.pop()
        if node.saved is None:
            raise GraphError(
                f"the graph was freed by backward (at {node.op.name} {node.shape}): draw it before, or call "
                "backward(retain_graph=True)."
            )
        new = {parent for parent in node.parents if isinstance(parent, Node)} - seen
        seen |= new
        stack += new
    if len(seen) > max_nodes:
        raise GraphError(
            f"the graph has {len(seen):,} ops, too many to read in a picture of at most {max_nodes}: draw one layer, "
            f"one time step or a shorter loop, or raise the limit with max_nodes={len(seen)}."
        )
    return sorted(seen, key=lambda node: node.order)


class _Pen:
    """Draws ops, what they read, and the arrows between, each thing once."""

    def __init__(self, output: Tensor, model: nn.Module | None, batch: Tensor | None):
        self.output, self.batch = output, batch
        parameters = dict(model.named_parameters()) if model else {}
        self.names = {id(p): name for name, p in parameters.items()}
        self.frozen = {id(p.data): p for p in parameters.values() if not p.requires_grad}
        self.kinds = {name: type(module).__name__ for name, module in model.named_modules()} if model else {}
        self.boxes: dict[Any, str] = {}  # a node, or the id of a leaf or array -> its name in the DOT text
        self.drawing = Drawing(
            graph_attr={"nodesep": "0.3", "ranksep": "0.3", "fontname": "Helvetica", "fontsize": "12"},
            node_attr={"fontname": "Helvetica", "fontsize": "13", "margin": "0.14,0.07", "height": "0.3"},
            edge_attr={"fontname": "Helvetica", "fontsize": "10", "fontcolor": GREY, "arrowsize": "0.7"},
        )

    def draw(self, nodes: Sequence[Node]) -> None:
        homes = self._homes(nodes)
        sizes = Counter(homes.values())
        frames = {home: graphviz.Digraph(f"cluster_{home}") for home in sizes if home and sizes[home] > 1}
        for node in nodes:
            self._op(node, frames.get(homes[node], self.drawing))
        for home, frame in frames.items():
            frame.attr(label=graphviz.escape(f"{home}  {self.kinds.get(home, '')}"), **STYLES["module"])
            self.drawing.subgraph(frame)
        value = f" = {self.output.item():.5g}" if self.output.size == 1 else ""
        self._box(self.drawing, id(self.output), "output", self.output.name or "output", _spec(self.output) + value)
        self._arrow(nodes[-1], id(self.output))

    def _op(self, node: Node, frame: graphviz.Digraph) -> None:
        """A box with the op's name, its settings and its module's parameters, and an arrow for every other operand."""
        rows, arrows, operands = [], [], []
        ordered = node.op.name not in SYMMETRIC
        for i, (parent, value) in enumerate(self._inputs(node)):
            if self._is_parameter(parent):
                rows.append(parent)
                operands.append(self._name(parent))
            elif parent is None and isinstance(value, bool | int | float):
                operands.append(f"{value:g}")
            elif parent is not None or value is not None:
                arrows.append((self._source(frame, parent, value), i))
                operands.append("·")
        settings = _settings(node)
        if len(operands) > len(rows) + len(arrows) or (rows and ordered and node.op.inputs == ("a", "b")):
            settings.insert(0, f"({', '.join(operands)})")
        self._box(frame, node, "op", _table(node.op.name, settings, [(self._name(p), _spec(p)) for p in rows]))
        for source, i in arrows:
            named = len(arrows) > 1 and ordered and not node.op.variadic
            self._arrow(source, node, node.op.inputs[i] if named else "")

    def _inputs(self, node: Node) -> list[tuple[Node | Tensor | None, Any]]:
        """Per input its node, its leaf (frozen parameters too), or None for a constant; and its value."""
        pairs = zip(node.parents, node.saved or (), strict=True)
        return [(self.frozen.get(id(value)) if parent is None else parent, value) for parent, value in pairs]

    def _source(self, frame: graphviz.Digraph, parent: Node | Tensor | None, value: Any) -> Any:
        """The key in ``boxes`` of where an operand comes from; a leaf or a constant is drawn when it is first met."""
        if isinstance(parent, Node):
            return parent
        if isinstance(parent, Tensor):
            style = "input" if parent is self.batch else "leaf"
            return self._box(self.drawing, id(parent), style, self._name(parent), _spec(parent))
        if self.batch is None:  # a Tensor's graph says of its data only that they want no gradient
            return self._box(self.drawing, id(value), "input", "input", _spec(value))
        return self._box(frame, id(value), "input", "constant", _spec(value))

    def _homes(self, nodes: Sequence[Node]) -> dict[Node, str]:
        """The module that an op belongs to: the one whose parameters, or what was made of them alone, it reads; or "".

        A scalar made of weights is a penalty, no part of a layer.
        """
        homes: dict[Node, str] = {}
        own: dict[Node, str] = {}  # what is made of one module's parameters alone
        for node in nodes:
            parents = [p for p, _ in self._inputs(node) if p is not None]
            owners = [own.get(p) if isinstance(p, Node) else self._module(p) for p in parents]
            found = {owner for owner in owners if owner}
            homes[node] = found.pop() if len(found) == 1 and node.shape != () else ""
            if all(owners) and (self.batch is not None or len(parents) == len(node.parents)):
                own[node] = homes[node]
        return homes

    def _module(self, leaf: Tensor) -> str:
        return self._name(leaf).rpartition(".")[0] if self._is_parameter(leaf) else ""

    def _is_parameter(self, place: Node | Tensor | None) -> TypeGuard[Tensor]:
        return isinstance(place, nn.Parameter) or id(place) in self.names

    def _name(self, leaf: Tensor) -> str:
        return self.names.get(id(leaf)) or leaf.name or ("parameter" if self._is_parameter(leaf) else "tensor")

    def _box(self, where: graphviz.Digraph, key: Any, style: str, label: str, words: str = "") -> Any:
        if key not in self.boxes:
            self.boxes[key] = f"{style}{len(self.boxes)}"
            html = label if style == "op" else _rows([f"<b>{escape(label)}</b>", _small(words)])
            where.node(self.boxes[key], f"<{html}>", **STYLES[style])
        return key

    def _arrow(self, source: Any, target: Any, operand: str = "") -> None:
        words = [operand]
        if isinstance(source, Node):
            words.append(str(source.shape) if source.dtype == self.output.dtype else _spec(source))
        self.drawing.edge(self.boxes[source], self.boxes[target], "  ".join(["", *filter(None, words)]))


def _table(name: str, settings: list[str], parameters: list[tuple[str, str]]) -> str:
    rows = [f'<tr><td cellpadding="6"><b>{escape(name)}</b></td></tr>']
    if settings:
        rows.append(f"<tr><td>{_small(', '.join(settings))}</td></tr>")
    for title, words in parameters:
        rows.append(f'<tr><td bgcolor="{BLUE}" align="left"><b>{escape(title)}</b>  {_small(words)}</td></tr>')
    border = f'bgcolor="white" color="{INK}" cellborder="0" cellspacing="0" cellpadding="3"'
    return f"<table {border}>{''.join(rows)}</table>"


def _rows(lines: list[str]) -> str:
    """Lines of different sizes below each other: with a mere <br/> they touch."""
    rows = "".join(f"<tr><td>{line}</td></tr>" for line in lines)
    return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{rows}</table>'


def _small(words: str) -> str:
    return f'<font point-size="10">{escape(words)}</font>'


def _spec(thing: Any) -> str:
    return f"{thing.shape} {thing.dtype}"


def _settings(node: Node) -> list[str]:
    """The op's keyword arguments that are not its defaults; of arrays, those it cannot do without, by their shape."""
    known = inspect.signature(node.op.forward).parameters
    words = []
    for name, value in node.kwargs.items():
        default = known[name].default if name in known else inspect.Parameter.empty
        if isinstance(value, np.ndarray):
            if default is inspect.Parameter.empty:
                words.append(f"{name} {value.shape}")
        elif value != default:
            words.append(f"{name}={_short(value)}")
    return words


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    if isinstance(value, np.ndarray):
        return f"array {value.shape}"
    if isinstance(value, slice):
        ends = (value.start, value.stop) if value.step is None else (value.start, value.stop, value.step)
        return ":".join("" if end is None else str(end) for end in ends)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 32 else f"{text[:29]}..."
