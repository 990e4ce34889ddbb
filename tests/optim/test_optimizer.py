"""The flat machinery: packing, segments, parameters without gradient, adoption, saving, clipping."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar import Tensor, compile, nn, optim
from tinygrad_cifar.errors import CheckpointError, ConfigError, DtypeError, MutationError, NonFiniteError, ShapeError
from tinygrad_cifar.optim import optimizer as machinery


def ones(*shape: int, dtype: Any = np.float64) -> nn.Parameter:
    return nn.Parameter(np.ones(shape, dtype))


def give(params: list[Any], value: float = 1.0) -> None:
    for p in params:
        p.grad = Tensor(np.full_like(p.data, value))


def train(model: nn.Module, optimizer: optim.Optimizer, steps: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        x, labels = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 3, 8)
        optimizer.zero_grad()
        nn.F.cross_entropy(model(Tensor(x)), labels).backward()
        optimizer.step()


def test_parameters_become_views_of_one_array_with_the_same_values_and_memory_order() -> None:
    model = nn.mlp([6, 5, 4], batch_norm=True)
    before = model.state_dict()
    optim.SGD(model.parameters(), lr=0.1)
    (base,) = {id(p.data.base): p.data.base for p in model.parameters()}.values()
    assert base.size == nn.count_parameters(model)
    assert model[0].weight.data.T.flags.c_contiguous
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())


def test_building_an_optimiser_between_forward_and_backward_is_fine() -> None:
    model = nn.mlp([3, 2])
    before = model[0].bias.data.copy()
    loss = nn.F.cross_entropy(model(np.ones((2, 3), np.float32)), np.array([0, 0]))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    loss.backward()
    optimizer.step()
    assert (model[0].bias.data != before).all()


def test_backward_after_a_step_through_the_old_graph_fails_loudly() -> None:
    model = nn.mlp([3, 4, 2])
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    x, labels = np.ones((2, 3), np.float32), np.array([0, 1])
    old = nn.F.cross_entropy(model(x), labels)
    nn.F.cross_entropy(model(x), labels).backward()
    optimizer.step()
    with pytest.raises(MutationError):
        old.backward()


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), block=st.integers(1, 20), data=st.data())
def test_any_sizes_blocks_and_missing_gradients_give_the_same_result(
    sizes: list[int], block: int, data: st.DataObject
) -> None:
    whole, before = [ones(n) for n in sizes], machinery.BLOCK
    separate = [ones(n) for n in sizes]
    machinery.BLOCK = block
    try:
        together = optim.Adam(whole, lr=0.1, weight_decay=0.1)
        each = [optim.Adam([p], lr=0.1, weight_decay=0.1) for p in separate]
        for step in range(3):
            present = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
            for p, q, has in zip(whole, separate, present, strict=True):
                gradient = np.linspace(-1, step, p.size)
                p.grad = Tensor(gradient) if has else None
                q.grad = Tensor(gradient) if has else None
            together.step()
            for optimizer in each:
                optimizer.step()
    finally:
        machinery.BLOCK = before
    for p, q in zip(whole, separate, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


@pytest.mark.parametrize("wrap", [lambda step: step, compile])
def test_numbers_of_numpy_are_python_numbers(wrap: Any) -> None:
    results = []
    for number in (float, np.float64):
        w = nn.Parameter(np.linspace(0.1, 1, 7, dtype=np.float32))
        optimizer = optim.SGD([w], lr=number(0.1), momentum=number(0.9), weight_decay=number(0.01))

        def step(x: Any, w: Any = w, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            (w * Tensor(x)).sum().backward()
            optimizer.step()

        run = wrap(step)
        for i in range(5):
            optimizer.lr = number(0.1) / (i + 1)
            run(np.linspace(1, 2, 7, dtype=np.float32))
        results.append((w.data.copy(), optimizer.lr, type(optimizer.lr), repr(optimizer.lr)))
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:] == (0.1 / 5, float, repr(0.1 / 5))


def test_a_parameter_without_gradient_is_left_alone_and_so_is_its_state() -> None:
    params = [ones(3), ones(3), ones(3)]
    optimizer = optim.Adam(params, lr=0.1, weight_decay=0.5)
    give([params[0], params[2]])
    versions = [p.version[0] for p in params]
    optimizer.step()
    np.testing.assert_array_equal(params[1].data, 1)
    assert (params[0].data < 1).all()
    assert [p.version[0] - v for p, v in zip(params, versions, strict=True)] == [1, 0, 1]
    state = optimizer.state_dict()
    assert state["steps"].tolist() == [1, 0, 1]
    assert not state["m.1"].any()
    assert state["m.2"].any()
    optimizer.zero_grad()
    optimizer.step()
    assert optimizer.state_dict()["steps"].tolist() == [1, 0, 1]


def test_two_precisions_live_in_two_arrays() -> None:
    params = [ones(3), ones(2, dtype=np.float32), ones(4)]
    optimizer = optim.SGD(params, lr=0.25)
    give(params)
    optimizer.step()
    assert [p.dtype for p in params] == [np.float64, np.float32, np.float64]
    assert all((p.data == 0.75).all() for p in params)
    assert params[0].data.base is params[2].data.base


def test_a_shared_parameter_counts_once() -> None:
    p = ones(3)
    optimizer = optim.SGD([p, p], lr=0.25)
    give([p])
    optimizer.step()
    np.testing.assert_array_equal(p.data, 0.75)


def test_a_replaced_array_is_adopted() -> None:
    p = ones(3)
    optimizer = optim.SGD([p], lr=0.25)
    view = p.data
    p.data = np.full(3, 5.0)
    give([p])
    optimizer.step()
    np.testing.assert_array_equal(p.data, 4.75)
    assert p.data is view
    p.data = np.ones(3, np.float32)
    with pytest.raises(DtypeError, match=r"became float32.*model\.astype before"):
        optimizer.step()
    p.data = np.ones(4)
    with pytest.raises(ShapeError, match=r"became \(4,\)"):
        optimizer.step()


def test_two_optimisers_may_hold_the_same_parameter() -> None:
    p = ones(3)
    first, second = optim.SGD([p], lr=0.25), optim.SGD([p], lr=0.5)
    give([p])
    first.step()
    second.step()
    first.step()
    np.testing.assert_array_equal(p.data, 0)


def test_a_gradient_set_by_hand_must_fit() -> None:
    p = ones(2, 3)
    p.name = "0.weight"
    optimizer = optim.SGD([p], lr=0.25)
    p.grad = Tensor(np.ones((3, 2)))
    with pytest.raises(ShapeError, match=r"0\.weight is \(2, 3\) float64, but its gradient tensor \(3, 2\)"):
        optimizer.step()
    p.grad = Tensor(np.ones((2, 3), np.float32))
    with pytest.raises(DtypeError, match=r"its gradient .* float32"):
        optimizer.step()
    p.grad = np.ones((2, 3))  # type: ignore[assignment]
    with pytest.raises(DtypeError, match=r"its gradient array .* p\.grad = Tensor"):
        optimizer.step()
    np.testing.assert_array_equal(p.data, 1)


def test_what_is_no_list_of_parameters_is_refused() -> None:
    model = nn.mlp([3, 2])
    generator = model.parameters()
    list(generator)
    frozen = Tensor(np.ones(2))
    result = ones(2) * 2
    for params in (model, ones(2), generator, [], [frozen], [result], [np.ones(2)]):
        with pytest.raises(ConfigError, match="parameters"):
            optim.SGD(params, lr=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: optim.Adam(p, lr=0.01),
        lambda p: optim.AdamW(p, lr=0.01),
        lambda p: optim.RMSprop(p, momentum=0.5),
        lambda p: optim.Adagrad(p),
    ],
)
def test_resuming_is_bit_identical(make: Any) -> None:
    model = nn.mlp([6, 5, 3], batch_norm=True)
    optimizer = make(model.parameters())
    train(model, optimizer, 3)
    optimizer.lr *= 0.5
    weights, state = model.state_dict(), optimizer.state_dict()
    train(model, optimizer, 3, seed=1)

    again = nn.mlp([6, 5, 3], batch_norm=True)
    resumed = make(again.parameters())
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    train(again, resumed, 3, seed=1)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, again.state_dict()[name])
    for name, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, resumed.state_dict()[name])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("make", [optim.Adam, lambda p: optim.SGD(p, lr=0.1, momentum=0.9)])
def test_a_copy_of_model_and_optimiser_goes_on_like_the_original(make: Any, copied: Any) -> None:
    model = nn.mlp([6, 5, 3], batch_norm=True)
    optimizer = make(model.parameters())
    train(model, optimizer, 3)
    twin, its_optimizer = copied((model, optimizer))
    for m, o in ((twin, its_optimizer), (model, optimizer)):
        train(m, o, 3, seed=1)
    assert all(np.array_equal(array, twin.state_dict()[name]) for name, array in model.state_dict().items())
    assert not np.shares_memory(model[0].weight.data, twin[0].weight.data)


def test_a_state_dict_that_does_not_fit_is_refused() -> None:
    optimizer = optim.SGD([ones(3), ones(2)], lr=0.1, momentum=0.9)
    state = optimizer.state_dict()
    state["velocity.0"] = np.zeros(4)
    state["m.1"] = state.pop("velocity.1")
    with pytest.raises(CheckpointError) as caught:
        optimizer.load_state_dict(state)
    for fault in ("shape: velocity.0 is (3,) here but (4,)", "missing: velocity.1", "unexpected: m.1"):
        assert fault in str(caught.value)


def test_clip_grad_norm_scales_all_gradients_alike() -> None:
    params = [ones(2), ones(1), ones(5)]
    params[0].grad, params[1].grad = Tensor(np.array([3.0, 0.0])), Tensor(np.array([-4.0]))
    assert optim.clip_grad_norm(params, 10.0) == 5
    assert params[1].grad.data[0] == -4
    assert optim.clip_grad_norm(iter(params), 1.0) == 5
    np.testing.assert_allclose(params[0].grad.data, [0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(params[1].grad.data, [-0.8], rtol=1e-6)
    assert params[2].grad is None
    params[0].grad.data[1] = np.nan
    with pytest.raises(NonFiniteError, match="parameter 0"):
        optim.clip_grad_norm(params, 1.0)
    with pytest.raises(ConfigError, match="max_norm"):
        optim.clip_grad_norm(params, 0.0)


def test_clip_grad_norm_without_gradients() -> None:
    assert optim.clip_grad_norm([ones(2)], 1.0) == 0


def test_clip_grad_norm_in_a_compiled_step() -> None:
    w = Tensor(np.ones((2, 2)), requires_grad=True)
    optimizer = optim.SGD([w], 0.1)

    @compile
    def step(x: Tensor) -> Any:
        optimizer.zero_grad()
        (x @ w).sum().backward()
        norm = optim.clip_grad_norm([w], 1.0)
        optimizer.step()
        return norm

    for size in (1.0, 0.1, 0.01, 100.0):
        before = w.data.copy()
        norm = step(Tensor(np.full((3, 2), size)))
        assert norm == pytest.approx(6 * size)
        np.testing.assert_allclose(before - w.data, 0.1 * 0.5 * min(6 * size, 1), rtol=1e-5)
    with pytest.raises(NonFiniteError, match="parameter 0"):
        step(Tensor(np.full((3, 2), np.nan)))
    assert np.isfinite(w.data).all()


def test_clip_grad_norm_of_one_parameter() -> None:
    parameter = ones(2)
    parameter.grad = Tensor(np.array([3.0, 4.0]))
    assert optim.clip_grad_norm(parameter, 1.0) == 5
    np.testing.assert_allclose(parameter.grad.data, [0.6, 0.8], rtol=1e-6)


def test_clip_grad_norm_is_pytorchs(torch: Any) -> None:
    rng = np.random.default_rng(3)
    params = [ones(4, 3), ones(3)]
    peers = [torch.nn.Parameter(torch.ones(*p.shape, dtype=torch.float64)) for p in params]
    for p, q in zip(params, peers, strict=True):
        p.grad = Tensor(rng.normal(size=p.shape))
        q.grad = torch.tensor(p.grad.data)
    assert optim.clip_grad_norm(params, 0.7) == pytest.approx(torch.nn.utils.clip_grad_norm_(peers, 0.7).item())
    for p, q in zip(params, peers, strict=True):
        np.testing.assert_allclose(p.grad.data, q.grad.numpy(), rtol=1e-12)
