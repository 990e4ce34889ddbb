"""The compiled loops give NumPy's results, bit for bit; without numba there is NumPy."""

import copy
import pickle
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_cifar as tg
from tinygrad_cifar import loops, nn, optim
from tinygrad_cifar.data import KINDS, Batches, Split, Standardiser

Make = type[optim.Adam] | type[optim.SGD]
CALL = re.compile(r"(adam|sgd)\d+\(")  # in a compiled program


@pytest.fixture(scope="module")
def kernel() -> loops.Kernel:
    """Adam's."""
    return loops.kernel(loops.adam) or pytest.skip("needs numba: pip install 'tinygrad-cifar[fast]'")


@pytest.fixture
def _without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "numba", None)
    loops.kernel.cache_clear()
    yield
    loops.kernel.cache_clear()


def bits(array: np.ndarray) -> np.ndarray:
    """What tells -0 from 0; all NaN are one."""
    return np.where(np.isnan(array), np.nan, array).view(f"u{array.itemsize}")


def updated(optimizer: optim.Adam, kernel: Any, arrays: list[np.ndarray], steps: int) -> list[np.ndarray]:
    """w, m and v after some updates, with coefficients of their own each."""
    w, g, m, v = (array.copy() for array in arrays)
    optimizer._kernel = kernel
    with np.errstate(all="ignore"):
        for step in range(1, steps + 1):
            optimizer.update(w, g, np.empty_like(w), m, v, **optimizer.coefficients(step))
    assert np.array_equal(bits(g), bits(arrays[1]))
    return [w, m, v]


@given(data=st.data(), dtype=st.sampled_from([np.float32, np.float64]), make=st.sampled_from([optim.Adam, optim.AdamW]))
def test_any_values_give_the_bits_of_numpy(kernel: loops.Kernel, data: st.DataObject, dtype: Any, make: Make) -> None:
    """Zeros, denormals, infinities and NaN among them, in vectors of any length."""
    size, share = data.draw(st.integers(0, 70)), st.floats(0, 1, exclude_max=True)
    arrays = [data.draw(hnp.arrays(dtype, size)) for _ in range(4)]
    settings = {"lr": data.draw(st.floats(0, 1e3)), "betas": data.draw(st.tuples(share, share))}
    optimizer = make([nn.Parameter(np.zeros(1))], **settings, eps=data.draw(st.floats(0, 1)))
    steps = data.draw(st.integers(1, 4))
    ours, numpys = updated(optimizer, kernel, arrays, steps), updated(optimizer, None, arrays, steps)
    for mine, its in zip(ours, numpys, strict=True):
        assert np.array_equal(bits(mine), bits(its))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW])
def test_long_vectors_give_the_bits_of_numpy(kernel: loops.Kernel, dtype: Any, make: Make) -> None:
    """Where compilers vectorise, and would contract or reorder if they were allowed to."""
    rng = np.random.default_rng(0)
    optimizer = make([nn.Parameter(np.zeros(1))])
    for size in (1000, 4099, 65536):
        w, g, m, v = (rng.standard_normal(size) * 10.0 ** rng.integers(-30, 10, size) for _ in range(4))
        arrays = [array.astype(dtype) for array in (w, g, m, np.abs(v))]
        ours, numpys = updated(optimizer, kernel, arrays, 20), updated(optimizer, None, arrays, 20)
        for mine, its in zip(ours, numpys, strict=True):
            assert np.array_equal(bits(mine), bits(its))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_may_lie_in_memory_in_any_way(kernel: loops.Kernel, dtype: Any) -> None:
    optimizer = optim.Adam([nn.Parameter(np.zeros(1))])
    optimizer._kernel = kernel
    spread = np.broadcast_to(dtype(0.5), 9)  # may not be written
    for g in (spread, np.arange(18, dtype=dtype)[::2], np.arange(9, dtype=dtype)[::-1]):
        results = []
        for gradient in (g, g.copy()):
            w, m, v = (np.ones(9, dtype) for _ in range(3))
            optimizer.update(w, gradient, np.empty_like(w), m, v, **optimizer.coefficients(1))
            results.append([w, m, v])
        assert np.array_equal(*results)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble])
def test_other_floats_are_left_to_numpy(dtype: Any) -> None:
    p = nn.Parameter(np.ones(3, dtype))
    optimizer = optim.Adam([p], lr=0.1)
    p.grad = tg.Tensor(np.ones(3, dtype))
    optimizer.step()
    assert p.dtype == dtype
    assert np.allclose(p.numpy(), 0.9, atol=1e-3)


def trained(make: Make, kernel: loops.Kernel | None, compiled: bool, dtype: Any) -> dict[str, np.ndarray]:
    """Weights and state after 50 steps, with a rate that changes and a short batch now and then."""
    tg.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 5)).astype(dtype)
    optimizer = make(model.parameters(), lr=0.1, weight_decay=0.01)
    optimizer._kernel = kernel

    def step(x: np.ndarray, labels: np.ndarray) -> tg.Tensor:
        optimizer.zero_grad()
        loss = nn.F.cross_entropy(model(tg.Tensor(x)), labels)
        loss.backward()
        optimizer.step()
        return loss

    run = tg.compile(step) if compiled else step
    rng = np.random.default_rng(0)
    for i in range(50):
        optimizer.lr = 0.1 / (1 + i % 7)
        n = 6 if i % 10 == 9 else 10
        run(rng.standard_normal((n, 12)).astype(dtype), rng.integers(5, size=n))
    if compiled:
        assert bool(CALL.search(run.explain())) == bool(kernel)
    return {**model.state_dict(), **optimizer.state_dict()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW])
def test_training_is_the_same_with_it_and_compiled(kernel: loops.Kernel, make: Make, dtype: Any) -> None:
    numpys = trained(make, None, compiled=False, dtype=dtype)
    for loop, compiled in [(kernel, False), (None, True), (kernel, True)]:
        ours = trained(make, loop, compiled, dtype)
        assert ours.keys() == numpys.keys()
        assert all(np.array_equal(ours[name], numpys[name]) for name in numpys)


@pytest.mark.usefixtures("kernel")
def test_one_call_updates_a_block() -> None:
    model = nn.Linear(300, 300)  # two blocks, and the bias
    optimizer = optim.Adam(model.parameters())

    @tg.compile
    def step(x: np.ndarray) -> tg.Tensor:
        optimizer.zero_grad()
        cost = (model(tg.Tensor(x)) ** 2).sum()
        cost.backward()
        optimizer.step()
        return cost

    for _ in range(3):
        step(np.ones((2, 300), np.float32))
    assert len(CALL.findall(step.explain())) == 3
    assert "adam" in step.graph().source


def test_copies_and_pickles(kernel: loops.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = optim.Adam([nn.Parameter(np.ones(3))])
    pickled = pickle.dumps(optimizer)
    assert copy.deepcopy(optimizer)._kernel is pickle.loads(pickled)._kernel is kernel
    monkeypatch.setitem(sys.modules, "numba", None)
    loops.kernel.cache_clear()
    assert pickle.loads(pickled)._kernel is None
    loops.kernel.cache_clear()


@pytest.mark.usefixtures("_without_numba")
def test_without_numba_numpy_does_it() -> None:
    p = nn.Parameter(np.ones(3))
    optimizer = optim.Adam([p], lr=0.1)
    assert optimizer._kernel is None
    p.grad = tg.Tensor(np.ones(3))
    optimizer.step()
    assert np.allclose(p.numpy(), 0.9)


@pytest.mark.usefixtures("_without_numba")
def test_a_numba_that_cannot_be_imported_is_told_of(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.0 or less')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numba")
    with pytest.warns(UserWarning, match="cannot be used.*NumPy 2.0 or less"):
        optimizer = optim.Adam([nn.Parameter(np.ones(3))])
    assert optimizer._kernel is None


# SGD ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sgd_loop() -> loops.Kernel:
    """That of SGD without momentum."""
    return loops.kernel(loops.sgd) or pytest.skip("needs numba: pip install 'tinygrad-cifar[fast]'")


@given(data=st.data(), dtype=st.sampled_from([np.float32, np.float64]), lr=st.floats(0, 1e3))
def test_any_values_give_the_bits_of_numpys_sgd(data: st.DataObject, dtype: Any, lr: float) -> None:
    sgd_loop = loops.kernel(loops.sgd) or pytest.skip("needs numba: pip install 'tinygrad-cifar[fast]'")
    size = data.draw(st.integers(0, 70))
    w, g = (data.draw(hnp.arrays(dtype, size)) for _ in range(2))
    with np.errstate(all="ignore"):
        expected = w - g * dtype(lr)
    sgd_loop(w, g, lr)
    assert np.array_equal(bits(w), bits(expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_with_sgd_is_the_same(sgd_loop: loops.Kernel, dtype: Any) -> None:
    numpys = trained(optim.SGD, None, compiled=False, dtype=dtype)
    for kernel, compiled in [(sgd_loop, False), (None, True), (sgd_loop, True)]:
        ours = trained(optim.SGD, kernel, compiled, dtype)
        assert all(np.array_equal(ours[name], numpys[name]) for name in numpys)


def test_sgd_with_momentum_is_left_to_numpy(sgd_loop: loops.Kernel) -> None:
    parameters = [nn.Parameter(np.zeros(3, np.float32))]
    assert optim.SGD(parameters, 0.1)._kernel is sgd_loop
    assert optim.SGD(parameters, 0.1, momentum=0.9)._kernel is None


# Batches --------------------------------------------------------------------------------------------------------


@pytest.fixture
def _with_numba() -> None:
    if not loops.kernel(loops.standardise):
        pytest.skip("needs numba: pip install 'tinygrad-cifar[fast]'")


def images_of(n: int) -> Split:
    rng = np.random.default_rng(0)
    return Split(rng.integers(256, size=(n, 3072), dtype=np.uint8), rng.integers(10, size=n, dtype=np.uint8))


def epoch_of(split: Split, batch_size: int, standardiser: Standardiser, loop: bool, **settings: Any) -> list[Any]:
    tg.manual_seed(0)
    made = Batches(split, batch_size, standardiser, **settings)
    if not loop:
        made.split = Split(np.asfortranarray(split.images), split.labels)  # which the loop does not take
    epoch = list(made)
    assert bool(made._kernel) == loop
    return epoch


@pytest.mark.usefixtures("_with_numba")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("prefetch", [True, False])
def test_batches_have_the_bits_of_numpy(kind: str, dtype: Any, prefetch: bool) -> None:
    split = images_of(57)
    split.images[:, 5] = 7  # never varies
    split.images[:40, 6] = 255
    standardiser = Standardiser.fit(split.images[:40], kind)
    for batch_size in (1, 8, 57):
        of = split, batch_size, standardiser
        settings = {"dtype": dtype, "prefetch": prefetch}
        ours, numpys = epoch_of(*of, loop=True, **settings), epoch_of(*of, loop=False, **settings)
        for (x, labels), (its, same) in zip(ours, numpys, strict=True):
            assert x.dtype == dtype
            assert x.flags.carray
            assert np.array_equal(bits(x), bits(its))
            assert np.array_equal(labels, same)


@pytest.mark.usefixtures("_with_numba")
def test_what_the_loop_does_not_do_is_left_to_numpy() -> None:
    class Halved(Standardiser):
        def transform(self, *arguments: Any, **settings: Any) -> Any:
            return super().transform(*arguments, **settings) / 2

    split = images_of(9)
    halved = Halved.fit(split.images)
    ((x, _),) = Batches(split, 9, halved, shuffle=False)
    assert np.array_equal(x, Standardiser.transform(halved, split.images) / 2)
    ((x, _),) = Batches(split, 9, Standardiser.fit(split.images, "none"), augment=lambda images, _: 0 * images)
    assert not x.any()


@pytest.mark.usefixtures("_without_numba")
def test_without_numba_numpy_prepares_the_batches() -> None:
    split = images_of(9)
    standardiser = Standardiser.fit(split.images)
    ((x, _),) = Batches(split, 9, standardiser, shuffle=False)
    assert np.array_equal(x, standardiser.transform(split.images))
