"""Module: what it finds in itself, saving and loading, modes, hooks, repr."""

import copy
from typing import Any

import numpy as np
import pytest

from tinygrad_cifar import Tensor, nn
from tinygrad_cifar.errors import CheckpointError, ConfigError


class Net(nn.Module):
    """Assigns everything without calling super().__init__(), which must not matter."""

    def __init__(self) -> None:
        self.scale = nn.Parameter(np.ones(3, np.float32))
        self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())
        self.head = nn.Linear(3, 2, bias=False)
        self.register_buffer("offset", np.zeros(3, np.float32))
        self.sizes = [4, 3, 2]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) * self.scale + self.offset)


NAMES = [
    "scale", "body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "head.weight",
]  # fmt: skip
BUFFERS = ["offset", "body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"]
ARCHITECTURE = """\
Net(
  (body): Sequential(
    (0): Linear(in_features=4, out_features=3, bias=True)
    (1): BatchNorm1d(3, eps=1e-05, momentum=0.1)
    (2): ReLU()
  )
  (head): Linear(in_features=3, out_features=2, bias=False)
)"""


def batch(n: int = 5, features: int = 4) -> Tensor:
    return Tensor(np.random.default_rng(1).normal(size=(n, features)).astype(np.float32))


def test_parameters_have_dotted_names_in_the_order_of_assignment() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [p.name for p in net.parameters()] == NAMES
    assert [name for name, _ in net.named_buffers()] == BUFFERS
    assert [name for name, _ in net.named_modules()] == ["", "body", "body.0", "body.1", "body.2", "head"]
    assert nn.count_parameters(net) == 3 + 15 + 6 + 6


def test_a_leaf_tensor_is_a_parameter_and_an_intermediate_result_is_not() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            self.weight = Tensor(np.ones((2, 2)), requires_grad=True)
            self.constant = Tensor(np.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            self.hidden = x @ self.weight + self.constant
            return self.hidden

    odd = Odd()
    odd(Tensor(np.ones((1, 2))))
    assert odd.hidden.requires_grad
    assert list(odd.state_dict()) == ["weight"]


def test_a_frozen_parameter_stays_a_parameter() -> None:
    net = Net()
    net.head.weight.requires_grad = False
    assert "head.weight" in net.state_dict()
    net(batch()).sum().backward()
    assert net.head.weight.grad is None
    assert net.scale.grad is not None


def test_shared_modules_count_once_but_are_saved_under_each_name() -> None:
    layer = nn.Linear(3, 3)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    assert len(list(net.parameters())) == 2
    assert len(list(net.modules())) == 3
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize(
    "hidden",
    [
        [nn.ReLU()],
        (nn.Parameter(np.ones(2)),),
        {"a": nn.Identity()},
        [None, nn.ReLU()],
        [("first", nn.ReLU())],
        [Tensor(np.ones(2), requires_grad=True)],
    ],
)
def test_modules_hidden_in_a_container_are_an_error(hidden: Any) -> None:
    net = Net()
    net.layers = hidden
    with pytest.raises(ConfigError, match=r"Net\.layers is a (list|tuple|dict).*nn\.Sequential"):
        list(net.parameters())


@pytest.mark.parametrize("value", [np.ones((2, 3)), Tensor(np.ones((2, 3))), nn.Parameter(np.ones((2, 3))) * 2])
def test_what_replaces_a_parameter_must_be_one(value: Any) -> None:
    net = Net()
    with pytest.raises(ConfigError, match=r"Linear\.weight is a Parameter.*nn\.Parameter\(values\)"):
        net.head.weight = value
    net.head.weight = nn.Parameter(np.ones((2, 3), np.float32))
    net.head.weight = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    net.body[0].bias = None
    assert [name for name, _ in net.named_parameters()] == [name for name in NAMES if name != "body.0.bias"]


def test_typos_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="boddy"):
        Net().boddy  # noqa: B018


def test_a_module_without_forward_says_so() -> None:
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty defines no forward"):
        Empty()(1)


def test_train_and_eval_reach_every_module() -> None:
    net = Net()
    assert net.training
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.train()
    assert all(m.training for m in net.modules())


def test_zero_grad_forgets() -> None:
    net = Net()
    net(batch()).sum().backward()
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_astype_converts_floats_and_keeps_the_memory_order() -> None:
    net = Net().astype(np.float64)
    dtypes = {name: array.dtype for name, array in net.state_dict().items()}
    assert dtypes.pop("body.1.num_batches_tracked") == np.int64
    assert set(dtypes.values()) == {np.dtype(np.float64)}
    assert net.head.weight.data.T.flags.c_contiguous
    assert net(batch().astype(np.float64)).dtype == np.float64


def test_state_dict_is_a_snapshot_that_loads_back() -> None:
    net, other = Net(), Net()
    state = net.state_dict()
    assert list(state) == [
        "scale", "offset", "body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "body.1.running_mean",
        "body.1.running_var", "body.1.num_batches_tracked", "head.weight",
    ]  # fmt: skip
    assert all(array.flags.c_contiguous for array in state.values())
    arrays = [t.data for t in other.parameters()]
    versions = [t.version[0] for t in other.parameters()]
    other.load_state_dict(state)
    assert all(t.data is array for t, array in zip(other.parameters(), arrays, strict=True))
    assert [t.version[0] for t in other.parameters()] == [v + 1 for v in versions]
    np.testing.assert_array_equal(other.eval()(batch()).data, net.eval()(batch()).data)
    net.head.weight.data += 1
    np.testing.assert_array_equal(state["head.weight"], other.head.weight.data)


def test_load_state_dict_lists_every_fault_and_writes_nothing() -> None:
    net = Net()
    before = net.state_dict()
    state = {**before, "more": np.zeros(2), "scale": np.zeros(4), "head.weight": np.zeros((2, 3), complex)}
    del state["body.0.bias"]
    state["body.0.weight"] = np.full((3, 4), 7.0)
    with pytest.raises(CheckpointError) as caught:
        net.load_state_dict(state)
    for fault in (
        "missing: body.0.bias (3,)", "unexpected: more (2,)", "shape: scale is (3,) here but (4,)",
        "dtype: head.weight is float32 here but complex128",
    ):  # fmt: skip
        assert fault in str(caught.value)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_deep_copy_is_independent() -> None:
    net = Net()
    twin = copy.deepcopy(net)
    twin.scale.data += 1
    assert net.scale.data[0] == 1
    assert twin.head.weight.data.T.flags.c_contiguous
    assert list(twin.state_dict()) == list(net.state_dict())


def test_forward_hooks_see_and_replace_the_output_until_removed() -> None:
    layer, seen = nn.ReLU(), []
    remove_first = layer.register_forward_hook(lambda module, inputs, output: seen.append((module, inputs, output)))
    remove_second = layer.register_forward_hook(lambda module, inputs, output: output * 2)
    x = Tensor(np.array([-1.0, 3.0]))
    assert layer(x).tolist() == [0.0, 6.0]
    assert seen[0][0] is layer
    assert seen[0][1] == (x,)
    assert seen[0][2].tolist() == [0.0, 3.0]
    assert nn.ReLU()._forward_hooks == ()
    remove_first()
    remove_second()
    assert layer(x).tolist() == [0.0, 3.0]
    assert len(seen) == 1


def test_repr_reads_like_the_architecture() -> None:
    assert repr(Net()) == ARCHITECTURE


def test_state_dict_goes_to_pytorch_and_back(torch: Any) -> None:
    ours = nn.mlp([6, 5, 4, 3], batch_norm=True)
    theirs = torch.nn.Sequential(
        torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU(), torch.nn.Linear(5, 4),
        torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 3),
    )  # fmt: skip
    ours(batch(features=6))
    state = ours.state_dict()
    assert {n: a.shape for n, a in state.items()} == {n: tuple(t.shape) for n, t in theirs.state_dict().items()}
    assert list(state) == list(theirs.state_dict())
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()}, strict=True)
    x = batch(features=6)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(x.data)).numpy()
    np.testing.assert_allclose(ours.eval()(x).data, expected, rtol=1e-5, atol=1e-6)
    again = nn.mlp([6, 5, 4, 3], batch_norm=True)
    again.load_state_dict(theirs.state_dict())
    for name, array in again.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
        assert array.dtype == state[name].dtype
