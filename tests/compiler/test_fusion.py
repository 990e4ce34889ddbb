"""The machine for chains of elementwise operations has the bits of NumPy, whatever lies in memory, and wherever."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_cifar as tg
from tests.compiler.test_random_steps import run as run_step
from tests.compiler.test_random_steps import step_of
from tests.core.test_loops import bits
from tinygrad_cifar import nn, optim
from tinygrad_cifar.compiler import fusion

pytestmark = pytest.mark.skipif(not fusion.machine(), reason="needs numba: pip install 'tinygrad-cifar[fast]'")

BINARY = [np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum, np.greater]
UNARY = [np.sqrt, np.negative]
DTYPES = [np.float32, np.float64]


def row_of(function: Any, out: np.ndarray, operands: list[np.ndarray]) -> fusion.Row | None:
    places = [fusion.place(x.ctypes.data, x.shape, x.strides, x.dtype) for x in (out, *operands)]
    return fusion.row(function, places[0], places[1:]) if all(places) and fusion.knows(function) else None


def done(rows: list[fusion.Row], dtype: Any) -> None:
    fusion.machine().run_for(dtype)(fusion.table(rows))


@given(data=st.data(), dtype=st.sampled_from(DTYPES), function=st.sampled_from(BINARY + UNARY))
def test_any_values_give_the_bits_of_numpy(data: st.DataObject, dtype: Any, function: np.ufunc) -> None:
    """Operands are arrays or numbers, in rows or columns, the result in a place of its own or in an operand's."""
    shape = data.draw(hnp.array_shapes(max_dims=2, max_side=9))
    order = data.draw(st.sampled_from("CF"))
    kinds = [shape, data.draw(st.sampled_from([shape, ()]))][: function.nin]
    data.draw(st.randoms(use_true_random=False)).shuffle(kinds)
    operands = [np.array(data.draw(hnp.arrays(dtype, kind)), order=order) for kind in kinds]
    places: list[Any] = [x for x in operands if x.shape == shape and function is not np.greater]
    out = data.draw(st.sampled_from([None, *places]), label="out")
    if out is None:
        out = np.empty(shape, bool if function is np.greater else dtype, order=order)
    with np.errstate(all="ignore"):
        expected = function(*operands)
    row = row_of(function, out, operands)
    if row is None:  # a number first, or a result that lies where the second operand does, where it is not the same
        assert function in (np.maximum, np.minimum, np.greater)
        assert operands[0].size < operands[1].size or (out is operands[1] and out is not operands[0])
        return
    done([row], dtype)
    assert np.array_equal(bits(out.astype(dtype)), bits(expected.astype(dtype)))  # what is greater, as 0 and 1


@given(data=st.data(), dtype=st.sampled_from(DTYPES), of_bools=st.booleans())
def test_copies_are_those_of_numpy(data: st.DataObject, dtype: Any, of_bools: bool) -> None:
    """Rows and columns that are repeated, transposes, pieces; masks become numbers."""
    shape = data.draw(hnp.array_shapes(max_dims=2, max_side=9))
    whole = data.draw(hnp.arrays(bool if of_bools else dtype, hnp.array_shapes(min_dims=2, max_dims=2, min_side=9)))
    piece = whole.T if data.draw(st.booleans()) else whole
    cut = tuple([slice(None, n) if data.draw(st.booleans()) else slice(0, 1) for n in (1, 1, *shape)[-2:]])
    source = piece[cut]
    source = source if len(shape) == 2 else source[0]
    out = np.empty(shape, dtype, order=data.draw(st.sampled_from("CF")))
    row = row_of(np.ndarray.copy, out, [source])
    assert row is not None
    done([row], dtype)
    assert np.array_equal(bits(out), bits(np.broadcast_to(source, shape).astype(dtype)))


@given(data=st.data(), size=st.sampled_from([5, 2048, 2049, 7001]))
def test_chains_are_done_in_order(data: st.DataObject, size: int) -> None:
    """Of vectors that share pieces of one memory, as in a program's arena, and that do not fit a chunk."""
    memory = np.random.default_rng(0).standard_normal(4 * size).astype(np.float32)
    start = st.sampled_from([0, 1, size // 2, size, 2 * size, 3 * size])
    same = memory.copy()
    rows = []
    for _ in range(data.draw(st.integers(1, 8))):
        function = data.draw(st.sampled_from([np.add, np.subtract, np.maximum, np.ndarray.copy]))
        places = [data.draw(start) for _ in range(2 if function is np.ndarray.copy else 3)]
        out, *operands = [memory[place : place + size] for place in places]
        row = row_of(function, out, operands)
        if row is None:
            continue  # pieces that overlap in part
        rows.append(row)
        out, *operands = [same[place : place + size] for place in places]
        out[...] = function(*operands)
    if rows:
        done(rows, np.float32)
    assert np.array_equal(memory, same)


@pytest.mark.parametrize(
    ("function", "out", "operands"),
    [
        (np.exp, np.empty(3), [np.ones(3)]),
        (np.add, np.empty(3), [np.ones(3, np.float32), np.ones(3)]),
        (np.add, np.empty(3, np.float32), [np.ones(3), np.ones(3)]),
        (np.add, np.empty(3, int), [np.ones(3, int), np.ones(3, int)]),
        (np.add, np.empty(3, ">f8"), [np.ones(3, ">f8"), np.ones(3, ">f8")]),
        (np.add, np.empty((2, 3)), [np.ones((2, 3)), np.ones(3)]),
        (np.add, np.empty((2, 3)), [np.ones((2, 3)), np.ones((3, 2)).T]),
        (np.add, np.empty(6)[::2], [np.ones(3), np.ones(3)]),
        (np.ndarray.astype, np.empty(3), [np.ones(3, int)]),
        (np.ndarray.copy, np.empty((2, 2, 2)), [np.ones((2, 2, 2)).T]),
        (np.ndarray.copy, np.empty((2, 3)), [np.ones((2, 3))[::-1]]),
        (np.ndarray.copy, np.empty(3), [np.ones(3)[::-1]]),
        (np.add, np.empty(2), [np.zeros(2, [("x", "f8"), ("y", "i1")])["x"], np.ones(2)]),
    ],
)
def test_what_it_cannot_do_is_left_to_numpy(function: Any, out: np.ndarray, operands: list[np.ndarray]) -> None:
    assert row_of(function, out, operands) is None


def test_neighbours_are_one_call() -> None:
    model = nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 5))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @tg.compile
    def step(x: np.ndarray, labels: np.ndarray) -> tg.Tensor:
        optimizer.zero_grad()
        loss = nn.F.cross_entropy(model(tg.Tensor(x)), labels)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        step(np.ones((4, 12), np.float32), np.arange(4))
    told = step.explain()
    assert "at once: add, sqrt, divide, " in told
    assert "at once: multiply, add, multiply, subtract" in told  # the velocity and the weights
    assert "maximum" in step.graph().source


@pytest.mark.parametrize("operations", [[0, 3, 1, 24, 10, 11], [20, 13, 2, 5, 23], [19, 18, 12, 33, 34]])
def test_a_step_is_the_same_with_it_and_without(monkeypatch: pytest.MonkeyPatch, operations: list[int]) -> None:
    plan = [(operation, i, 0, True) for i, operation in enumerate(operations)]
    ours = run_step(tg.compile(step_of(plan)), False)
    monkeypatch.setattr(fusion, "machine", lambda: None)
    numpys = run_step(tg.compile(step_of(plan)), False)
    for a, b in zip(ours, numpys, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
