"""Layers: shapes, modes, errors, and training step by step as PyTorch does it."""

from typing import Any

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar import Tensor, nn, optim
from tinygrad_cifar.errors import ConfigError, ShapeError

RNG = np.random.default_rng(2)


def test_linear_keeps_its_weight_as_in_by_out_in_memory() -> None:
    layer = nn.Linear(7, 3)
    assert layer.weight.shape == (3, 7)
    assert layer.weight.data.T.flags.c_contiguous
    x = RNG.normal(size=(5, 7)).astype(np.float32)
    np.testing.assert_allclose(layer(Tensor(x)).data, x @ layer.weight.data.T + layer.bias.data, rtol=1e-6)
    layer(Tensor(x)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.data.T.flags.c_contiguous


def test_linear_starts_within_pytorchs_bound_and_alike_in_both_precisions() -> None:
    tg.manual_seed(3)
    single = nn.Linear(400, 50)
    tg.manual_seed(3)
    double = nn.Linear(400, 50, dtype=np.float64)
    assert 0.9 / 20 < np.abs(double.weight.data).max() <= 1 / 20
    assert 0.5 / 20 < np.abs(double.bias.data).max() <= 1 / 20
    np.testing.assert_array_equal(single.weight.data, double.weight.data.astype(np.float32))


def test_linear_names_the_shapes_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"\(\.\.\., 7\), but got \(2, 6\)"):
        nn.Linear(7, 3)(Tensor(np.zeros((2, 6), np.float32)))
    with pytest.raises(ConfigError, match="at least one input"):
        nn.Linear(0, 3)


def test_batch_norm_moves_its_averages_in_training_and_uses_them_in_evaluation() -> None:
    layer = nn.BatchNorm1d(3, momentum=0.25, dtype=np.float64)
    x = RNG.normal(2, 3, size=(8, 3))
    out = layer(Tensor(x)).data
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(out.var(0), x.var(0) / (x.var(0) + 1e-5), rtol=1e-12)
    np.testing.assert_allclose(layer.running_mean.data, 0.25 * x.mean(0))
    np.testing.assert_allclose(layer.running_var.data, 0.75 + 0.25 * x.var(0, ddof=1))
    assert layer.num_batches_tracked.item() == 1
    before = layer.state_dict()
    expected = (x - layer.running_mean.data) / np.sqrt(layer.running_var.data + 1e-5)
    np.testing.assert_allclose(layer.eval()(Tensor(x)).data, expected)
    np.testing.assert_allclose(layer(Tensor(x[:1])).data, expected[:1])
    assert all(np.array_equal(array, before[name]) for name, array in layer.state_dict().items())


def test_batch_norm_refuses_one_sample_in_training_and_wrong_shapes() -> None:
    layer = nn.BatchNorm1d(3)
    with pytest.raises(ShapeError, match=r"Expected more than 1 value per channel.*model\.eval\(\)"):
        layer(Tensor(np.zeros((1, 3), np.float32)))
    with pytest.raises(ShapeError, match=r"expects \(N, 3\), got \(2, 4\)"):
        layer(Tensor(np.zeros((2, 4), np.float32)))
    assert layer.num_batches_tracked.item() == 0
    with pytest.raises(ConfigError, match="momentum in"):
        nn.BatchNorm1d(3, momentum=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_repeats_from_a_seed_and_keeps_the_mean(dtype: Any) -> None:
    layer, x = nn.Dropout(0.3), Tensor(np.ones((100, 100), dtype))
    tg.manual_seed(5)
    first = layer(x).data
    tg.manual_seed(5)
    np.testing.assert_array_equal(layer(x).data, first)
    assert not np.array_equal(layer(x).data, first)
    assert first.dtype == dtype
    np.testing.assert_allclose(np.unique(first), [0, 1 / 0.7])
    assert abs(first.mean() - 1) < 0.02
    assert layer.eval()(x) is x


def test_dropout_drops_the_same_entries_in_both_precisions() -> None:
    masks = []
    for dtype in (np.float32, np.float64):
        tg.manual_seed(5)
        masks.append(nn.Dropout()(Tensor(np.ones((9, 9), dtype))).data > 0)
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_dropout_refuses_impossible_probabilities(p: float) -> None:
    with pytest.raises(ConfigError, match=r"in \[0, 1\)"):
        nn.Dropout(p)
    with pytest.raises(ConfigError, match=r"in \[0, 1\)"):
        nn.F.dropout(Tensor(np.ones(3)), p)


def test_sequential_is_a_sequence() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Identity())
    assert len(net) == 4
    assert isinstance(net[1], nn.Linear)
    assert isinstance(net[-1], nn.Identity)
    assert [type(m).__name__ for m in net[1:3]] == ["Linear", "ReLU"]
    assert list(net)[2] is net[2]
    assert net(Tensor(np.zeros((2, 3, 4), np.float32))).shape == (2, 5)
    with pytest.raises(IndexError):
        net[4]


@pytest.mark.parametrize("wrong", [nn.ReLU, nn.F.relu, None, [nn.ReLU(), nn.Linear(2, 2)]])
def test_sequential_takes_nothing_but_modules(wrong: Any) -> None:
    """What is no module would be passed over, and the network be another one than is written."""
    with pytest.raises(ConfigError, match=r"takes modules one by one, not .*nn\.ReLU\(\), not nn\.ReLU"):
        nn.Sequential(nn.Linear(3, 2), wrong)


def test_flatten_takes_an_empty_batch() -> None:
    assert nn.Flatten()(Tensor(np.zeros((0, 4, 3)))).shape == (0, 12)


@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "Sigmoid", "Tanh", "GELU", "Softplus", "Identity"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_training_goes_as_in_pytorch(torch: Any, name: str, batch_norm: bool) -> None:
    def build(lib: Any, **dtype: Any) -> Any:
        middle = [lib.BatchNorm1d(5, **dtype)] if batch_norm else []
        activation = getattr(lib, name)()
        return lib.Sequential(
            lib.Flatten(), lib.Linear(6, 5, **dtype), *middle, activation, lib.Linear(5, 4, bias=False, **dtype)
        )

    model = build(nn, dtype=np.float64)
    peer = build(torch.nn, dtype=torch.float64)
    peer.load_state_dict({key: torch.from_numpy(value) for key, value in model.state_dict().items()})
    optimizer = optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    peer_optimizer = torch.optim.SGD(peer.parameters(), lr=0.3, momentum=0.9)
    for _ in range(5):
        x, labels = RNG.normal(size=(7, 2, 3)), RNG.integers(0, 4, 7)
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(model(Tensor(x)), labels)
        loss.backward()
        optimizer.step()
        peer_optimizer.zero_grad()
        peer_loss = torch.nn.CrossEntropyLoss()(peer(torch.from_numpy(x)), torch.from_numpy(labels))
        peer_loss.backward()
        peer_optimizer.step()
        assert loss.item() == pytest.approx(peer_loss.item(), rel=1e-11)
    for key, value in peer.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[key], value.numpy(), rtol=1e-9, atol=1e-11)
    x = RNG.normal(size=(3, 2, 3))
    with torch.no_grad():
        expected = peer.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model.eval()(Tensor(x)).data, expected, rtol=1e-9, atol=1e-11)


def test_batch_norm_in_evaluation_has_pytorchs_gradients(torch: Any) -> None:
    layer, peer = nn.BatchNorm1d(3, dtype=np.float64), torch.nn.BatchNorm1d(3, dtype=torch.float64)
    layer(Tensor(RNG.normal(1, 2, size=(9, 3))))
    layer.weight.data[...] = [1.5, -2, 0.3]
    peer.load_state_dict({key: torch.from_numpy(value) for key, value in layer.state_dict().items()})
    x, upstream = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))
    t, u = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    layer.eval()(t).backward(upstream)
    peer.eval()(u).backward(torch.from_numpy(upstream))
    pairs = [(t, u), (layer.weight, peer.weight), (layer.bias, peer.bias)]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours.grad.data, theirs.grad.numpy(), rtol=1e-10)


def test_batch_norm_in_evaluation_does_not_mind_training_before_backward() -> None:
    layer = nn.BatchNorm1d(3, dtype=np.float64).eval()
    x = RNG.normal(1, 2, size=(4, 3))
    out = layer(Tensor(x))
    layer.train()(Tensor(x))  # moves the running averages
    out.backward(np.ones((4, 3)))
    np.testing.assert_allclose(layer.weight.grad.data, x.sum(axis=0) / np.sqrt(1 + layer.eps))
