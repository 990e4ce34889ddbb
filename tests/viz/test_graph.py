"""The picture's DOT text says what was recorded; drawing changes nothing; `dot` is needed for pixels only."""

import re
import shutil
from pathlib import Path
from typing import Any

import graphviz
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cifar as tg
from tinygrad_cifar import Tensor, nn
from tinygrad_cifar.errors import ConfigError, GraphError
from tinygrad_cifar.random import stream

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs the program dot: apt install graphviz")

F32 = np.float32


def boxes(drawing: graphviz.Digraph) -> dict[str, str]:
    """{name in the DOT text: words of its label}, markup removed."""
    found = re.findall(r"^\s*(\w+) \[label=<(.*)>", drawing.source, re.MULTILINE)
    return {name: " ".join(re.sub(r"<[^>]*>", " ", label).split()) for name, label in found}


def arrows(drawing: graphviz.Digraph) -> list[tuple[str, str, str]]:
    """(from, to, label) with the words of the boxes' labels."""
    words = boxes(drawing)
    found = re.findall(r"^\s*(\w+) -> (\w+)(?: \[label=\"?([^\"\]]*)\"?\])?", drawing.source, re.MULTILINE)
    return [(words[a], words[b], label.strip()) for a, b, label in found]


def kinds(drawing: graphviz.Digraph) -> list[str]:
    return sorted(re.sub(r"\d+", "", name) for name in boxes(drawing))


def test_a_network_reads_from_input_to_output() -> None:
    drawing = tg.viz.graph(nn.mlp([12, 5, 3]), (4, 12))
    linear0 = "linear 0.weight (5, 12) float32 0.bias (5,) float32"
    linear2 = "linear 2.weight (3, 5) float32 2.bias (3,) float32"
    assert arrows(drawing) == [
        ("x (4, 12) float32", linear0, ""),
        (linear0, "relu", "(4, 5)"),
        ("relu", linear2, "(4, 5)"),
        (linear2, "output (4, 3) float32", "(4, 3)"),
    ]


def test_a_cost_names_the_parameters_of_its_model() -> None:
    model = nn.mlp([6, 5, 3], batch_norm=True)
    loss = nn.functional.cross_entropy(model(Tensor(np.ones((4, 6), F32))), np.array([0, 1, 2, 0]))
    cost = loss + nn.l2_penalty(model, 0.005)
    words = list(boxes(tg.viz.graph(cost, model=model)).values())
    assert "input (4, 6) float32" in words
    assert "batch_norm 1.weight (5,) float32 1.bias (5,) float32" in words
    assert "softmax_cross_entropy labels (4,)" in words
    assert "l2_penalty coefficient=0.005 0.weight (5, 6) float32 3.weight (3, 5) float32" in words
    assert words[-1] == f"output () float32 = {cost.item():.5g}"


def test_leaves_numbers_and_the_order_of_operands() -> None:
    a, b = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0], requires_grad=True)
    a.name = "a<b"  # the characters that DOT's markup means are escaped
    drawing = tg.viz.graph((1 - a / b) ** 2)
    assert kinds(drawing) == ["leaf", "leaf", "op", "op", "op", "output"]
    assert arrows(drawing) == [
        ("a&lt;b (2,) float64", "divide", "a"),
        ("tensor (2,) float64", "divide", "b"),
        ("divide", "subtract (1, ·)", "(2,)"),
        ("subtract (1, ·)", "power (·, 2)", "(2,)"),
        ("power (·, 2)", "output (2,) float64", "(2,)"),
    ]


def test_what_is_used_twice_is_drawn_once_with_two_arrows() -> None:
    t = Tensor([2.0], requires_grad=True)
    y = t * t
    drawing = tg.viz.graph(y + y)
    assert kinds(drawing) == ["leaf", "op", "op", "output"]
    assert [pair[:2] for pair in arrows(drawing)].count(("tensor (1,) float64", "multiply")) == 2
    assert [pair[:2] for pair in arrows(drawing)].count(("multiply", "add")) == 2


def test_arrows_say_where_the_dtype_changes() -> None:
    t = Tensor(np.ones(3, F32), requires_grad=True)
    labels = [label for *_, label in arrows(tg.viz.graph((t * 2).astype(np.float64).sum()))]
    assert labels == ["", "(3,) float32", "(3,)", "()"]


def test_settings_are_shown_where_they_differ_from_the_defaults() -> None:
    t = Tensor(np.ones((2, 3)), requires_grad=True)
    words = " | ".join(boxes(tg.viz.graph(t.sum(axis=1, keepdims=True)[np.array([0]), 0].sum())).values())
    assert "sum axis=1, keepdims=True" in words
    assert "getitem index=(array (1,), 0)" in words
    assert words.endswith("| sum | output () float64 = 3")
    words = " | ".join(boxes(tg.viz.graph(t[:, 1:][..., ::-2])).values())
    assert "getitem index=(:, 1:) | getitem index=(Ellipsis, ::-2)" in words


def test_a_module_of_several_ops_is_framed() -> None:
    model = nn.mlp([6, 5, 3], batch_norm=True).eval()
    source = tg.viz.graph(model, (4, 6)).source
    assert "subgraph cluster_1 {" in source
    assert 'label="1  BatchNorm1d"' in source
    assert "cluster_0" not in source  # one op needs no frame: its box names its parameters
    frame = source.split("subgraph cluster_1 {")[1].split("}")[0]
    assert [frame.count(f"<b>{op}</b>") for op in ("multiply", "subtract", "add", "constant")] == [3, 1, 1, 2]


def test_a_shared_or_frozen_parameter_keeps_its_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    model = Tied()
    expected = ["linear layer.weight (4, 4) float32"] * 2
    assert [w for w in boxes(tg.viz.graph(model, (2, 4))).values() if w.startswith("linear")] == expected
    model.layer.weight.requires_grad = False
    assert [w for w in boxes(tg.viz.graph(model, (2, 4))).values() if w.startswith("linear")] == expected


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=25))
def test_every_recorded_op_is_a_box_and_every_operand_an_arrow(pairs: list[tuple[int, int]]) -> None:
    tensors = [Tensor([1.0], requires_grad=True)]
    for i, j in pairs:
        tensors.append(tensors[i % len(tensors)] + tensors[j % len(tensors)])
    reached, stack = set(), [tensors[-1].node]
    while stack:
        node: Any = stack.pop()
        if node not in reached:
            reached.add(node)
            stack += [p for p in node.parents if not isinstance(p, Tensor)]
    drawing = tg.viz.graph(tensors[-1])
    assert kinds(drawing).count("op") == len(reached)
    assert kinds(drawing).count("leaf") == 1
    assert len(arrows(drawing)) == 2 * len(reached) + 1


def test_drawing_a_model_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    model[1].eval()
    tg.manual_seed(7)
    stream("dropout").random(3)
    untouched = stream("dropout").bit_generator.state
    before, modes = model.state_dict(), [m.training for m in model.modules()]
    versions = [p.version[0] for p in model.parameters()]
    with tg.no_grad():  # draws all the same
        assert "dropout" in tg.viz.graph(model.train(), (4, 6)).source
        assert not tg.is_recording()
    model[1].eval()
    after = model.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert modes == [m.training for m in model.modules()]
    assert versions == [p.version[0] for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert stream("dropout").bit_generator.state == untouched


def test_a_model_takes_an_array_a_tensor_or_a_shape() -> None:
    model = nn.mlp([6, 3], dtype=np.float64)
    x = Tensor(np.ones((4, 6)))
    named = Tensor(np.ones((4, 6)))
    named.name = "pixels"
    sources = [tg.viz.graph(model, batch).source for batch in (x, x.data, (4, 6))]
    assert sources[0] == sources[1] == sources[2]
    assert "pixels (4, 6) float64" in boxes(tg.viz.graph(model, named)).values()
    assert not x.requires_grad


def test_a_long_chain_does_not_recurse() -> None:
    t = Tensor([1.0], requires_grad=True)
    for _ in range(100_000):
        t = t + 1
    with pytest.raises(GraphError, match=r"100,000 ops.*max_nodes=100000"):
        tg.viz.graph(t)
    short = Tensor([1.0], requires_grad=True)
    for _ in range(3000):
        short = short + 1
    assert kinds(tg.viz.graph(short, max_nodes=3000)).count("op") == 3000


def test_what_cannot_be_drawn_is_said() -> None:
    t = Tensor([1.0], requires_grad=True)
    with pytest.raises(GraphError, match="no graph to draw"):
        tg.viz.graph(t)
    y = (t * 2).sum()
    y.backward()
    with pytest.raises(GraphError, match="freed by backward"):
        tg.viz.graph(y)
    with pytest.raises(ConfigError, match="something to run on"):
        tg.viz.graph(nn.mlp([6, 3]))
    with pytest.raises(ConfigError, match="with a Module only"):
        tg.viz.graph((t * 2).sum(), (4, 6))

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ConfigError, match="one Tensor, and Pair returned a tuple"):
        tg.viz.graph(Pair(), (4, 6))


def test_dot_text_is_written_without_dot(tmp_path: Path) -> None:
    drawing = tg.viz.graph(nn.mlp([6, 3]), (4, 6), direction="LR")
    written = tg.viz.save(drawing, tmp_path / "net.dot")
    assert written.read_text() == drawing.source
    assert "rankdir=LR" in drawing.source


def test_where_dot_is_missing_the_text_and_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    drawing = tg.viz.graph(nn.mlp([6, 3]), (4, 6))
    with pytest.warns(UserWarning, match="apt install graphviz"):
        written = tg.viz.save(drawing, tmp_path / "net.png")
    assert written == tmp_path / "net.dot"
    assert written.read_text() == drawing.source
    shown = drawing._repr_mimebundle_()
    assert drawing.source in shown["text/plain"]
    assert "apt install graphviz" in shown["text/plain"]


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no picture format '\.docx'"):
        tg.viz.save(tg.viz.graph(nn.mlp([6, 3]), (4, 6)), tmp_path / "net.docx")


@needs_dot
def test_the_picture_renders(tmp_path: Path) -> None:
    drawing = tg.viz.graph(nn.mlp([6, 5, 3], batch_norm=True).eval(), (4, 6))
    assert tg.viz.save(drawing, tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    svg = tg.viz.save(drawing, tmp_path / "net.svg").read_text()
    assert all(word in svg for word in (">0.weight<", ">multiply<", ">output<", "(4, 5)"))
    assert "image/svg+xml" in drawing._repr_mimebundle_()
