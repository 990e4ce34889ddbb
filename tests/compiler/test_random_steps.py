"""Random steps in plain NumPy: the replay is right, or the step is refused; it is never wrong."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_cifar as tg
from tinygrad_cifar import random
from tinygrad_cifar.errors import CompileError


def changed(x, change):
    change(x)
    return x


def halved(a):
    a *= 0.5
    return a


def with_added(a, b):
    a += b
    return a


def ones_where_positive(a):
    ones = np.zeros_like(a)
    ones[a > 0] = 1
    return ones


def drawn(stream, shape):
    return random.stream(stream).random(shape).astype(np.float32)


def product(a, b):
    return a @ b.T if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1] else a - b


OPERATIONS = [
    lambda a, b, rate: a + b, lambda a, b, rate: a * rate, lambda a, b, rate: np.maximum(a, b),
    lambda a, b, rate: a.T, lambda a, b, rate: a[..., :2], lambda a, b, rate: a[1:], lambda a, b, rate: a[::-1],
    lambda a, b, rate: a.reshape(-1)[1:], lambda a, b, rate: a[[0, 0]], lambda a, b, rate: a[0],
    lambda a, b, rate: a.sum(axis=0), lambda a, b, rate: a - a.mean(), lambda a, b, rate: a / (1 + abs(a).max()),
    lambda a, b, rate: np.where(a > 0, a, -a), lambda a, b, rate: np.stack([a, a])[1], lambda a, b, rate: product(a, b),
    lambda a, b, rate: np.concatenate([a.ravel(), b.ravel()]), lambda a, b, rate: np.sort(a, axis=-1),
    lambda a, b, rate: a.astype(np.float64).astype(np.float32), lambda a, b, rate: ones_where_positive(a),
    lambda a, b, rate: np.add(a, b, out=np.empty(np.broadcast_shapes(a.shape, b.shape), np.float32)),
    lambda a, b, rate: np.cumsum(a, axis=0), lambda a, b, rate: np.exp(np.clip(a, -2, 2)),
    lambda a, b, rate: halved(a), lambda a, b, rate: with_added(a.copy(), b),
    lambda a, b, rate: changed(a, lambda x: halved(x[1:])),
    lambda a, b, rate: changed(a, lambda x: np.copyto(x[:1], 0)),
    lambda a, b, rate: changed(a, lambda x: x.__setitem__(0, b.ravel()[0])),
    lambda a, b, rate: a + drawn("noise", a.shape), lambda a, b, rate: with_added(a, drawn("mask", a.shape)),
    lambda a, b, rate: a * 2 if a.sum() > 0 else a - 1, lambda a, b, rate: halved(a) if (a > b).any() else a,
    lambda a, b, rate: a if drawn("mask", 1)[0] < 0.7 else -a,
    lambda a, b, rate: a * (1 - rate) ** 2, lambda a, b, rate: a / (rate + 0.5), lambda a, b, rate: b - a % 0.3,
    lambda a, b, rate: a if rate < 0.5 else -a, lambda a, b, rate: a * round(rate, 1),
    lambda a, b, rate: a * np.sqrt(rate),
]  # fmt: skip


def step_of(plan):
    def step(x, y, rate):
        pool, results = [x.data, y, rate], []
        for operation, first, second, returned in plan:
            a, b = pool[first % len(pool)], pool[second % len(pool)]
            try:
                pool.append(OPERATIONS[operation](a, b, rate))
            except (ValueError, IndexError, TypeError, AttributeError):  # shapes that do not fit; numbers are no arrays
                continue
            if returned:
                results.append(pool[-1] * 1)
        return [*results, pool[-1] * 1]

    return step


def run(step, transposed):
    tg.manual_seed(0)
    rng, results = np.random.default_rng(0), []
    for _ in range(8):
        x, y = rng.standard_normal((2, 4, 3)).astype(np.float32)
        y = np.asfortranarray(y) if transposed else y
        results.append([np.array(r) for r in step(tg.Tensor(x), y, rng.random())] + [x, y])
    return [*results, [random.stream(name).random(1) for name in ("noise", "mask")]]


operand = st.integers(0, 20)


@settings(max_examples=300, deadline=None)
@given(
    plan=st.lists(
        st.tuples(st.integers(0, len(OPERATIONS) - 1), operand, operand, st.booleans()), min_size=2, max_size=14
    ),
    transposed=st.booleans(),
)
def test_a_replay_is_never_wrong(plan, transposed):
    with np.errstate(all="ignore"):
        expected = run(step_of(plan), transposed)
        try:
            found = run(tg.compile(step_of(plan)), transposed)
        except CompileError:
            return
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ours, theirs, strict=True))
