"""The summary: its figures, and that making it leaves no trace."""

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar import Tensor, nn
from tinygrad_cifar.errors import ShapeError

TABLE = """\
layer  kind         output     parameters    FLOPs
--------------------------------------------------
       input        (N, 3072)
0      Linear       (N, 50)       153,650  307,250
1      BatchNorm1d  (N, 50)           100      100
2      ReLU         (N, 50)             0       50
3      Linear       (N, 50)         2,550    5,050
4      BatchNorm1d  (N, 50)           100      100
5      ReLU         (N, 50)             0       50
6      Linear       (N, 10)           510    1,010
--------------------------------------------------
total  Sequential                 156,910  313,610"""


def test_the_table() -> None:
    net = nn.mlp([3072, 50, 50, 10], batch_norm=True)
    assert str(nn.summary(net, (3072,))) == TABLE


def test_shapes_totals_and_unknown_layers() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            self.scale = nn.Parameter(np.ones(1, np.float32))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x * x

    layer = nn.Linear(6, 6, bias=False)
    report = nn.summary(nn.Sequential(nn.Flatten(), layer, Square(), layer), (2, 3))
    assert [row.output_shape for row in report.layers] == [(6,)] * 4
    assert [row.name for row in report.layers] == ["0", "1", "2", "1"]
    assert [row.flops for row in report.layers] == [0, 72, None, 72]
    assert report.parameters == 37
    assert report.flops == 144
    assert "?" in str(report)
    assert "(N, 2, 3)" in str(report)


def test_it_changes_nothing() -> None:
    net = nn.mlp([6, 5, 4], batch_norm=True, dropout=0.5)
    net(Tensor(np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32))).sum().backward()
    net[1].eval()
    modes = [m.training for m in net.modules()]
    state, attributes = net.state_dict(), [set(vars(m)) - {"_forward_hooks", "training"} for m in net.modules()]
    gradients = [p.grad for p in net.parameters()]
    streams = {name: tg.random.stream(name).bit_generator.state for name in ("init", "dropout", "shuffle")}
    nn.summary(net, (6,))
    assert [m.training for m in net.modules()] == modes
    assert all(np.array_equal(array, state[name]) for name, array in net.state_dict().items())
    assert [set(vars(m)) - {"_forward_hooks", "training"} for m in net.modules()] == attributes
    assert all(m._forward_hooks == () for m in net.modules())
    assert all(p.grad is g for p, g in zip(net.parameters(), gradients, strict=True))
    assert {name: tg.random.stream(name).bit_generator.state for name in streams} == streams


def test_modes_come_back_even_when_the_forward_fails() -> None:
    net = nn.mlp([6, 5, 4], batch_norm=True)
    with pytest.raises(ShapeError, match="takes inputs of shape"):
        nn.summary(net, (7,))
    assert all(m.training for m in net.modules())
    assert all(m._forward_hooks == () for m in net.modules())
