"""NumPy's functions and methods in a step: the replay is right, or the step is refused."""

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar import random
from tinygrad_cifar.errors import CompileError

METHODS = [
    "sum", "mean", "var", "std", "max", "min", "prod", "any", "all", "argmax", "argmin", "argsort", "cumsum", "cumprod",
    "round", "ravel", "flatten", "squeeze", "conj", "copy", "transpose", "diagonal", "trace",
]  # fmt: skip
FUNCTIONS = {
    **{name: lambda x, name=name: getattr(x, name)() for name in METHODS},
    **{f"np.{name}": lambda x, name=name: getattr(np, name)(x * 2) for name in METHODS if hasattr(np, name)},
    "clip": lambda x: np.clip(x, -0.5, 0.5), "median": np.median, "sort": np.sort, "pad": lambda x: np.pad(x, 1),
    "tile": lambda x: np.tile(x, 2), "roll": lambda x: np.roll(x, 1), "stack": lambda x: np.stack([x, x * 2]),
    "outer": lambda x: np.outer(x[0], x[1]), "einsum": lambda x: np.einsum("ij,kj->ik", x, x),
    "tensordot": lambda x: np.tensordot(x, x, axes=[[0], [0]]), "norm": lambda x: np.linalg.norm(x, axis=1),
    "quantile": lambda x: np.quantile(x, 0.3), "diff": np.diff, "take": lambda x: np.take(x, [0, 2], axis=1),
    "take_along_axis": lambda x: np.take_along_axis(x, np.argsort(x, 1), 1), "ix_": lambda x: x[np.ix_([0, 1], [1, 2])],
    "windows": lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 2)).sum((2, 3)), "rows": sum,
    "apply_along_axis": lambda x: np.apply_along_axis(np.sum, 0, x), "views": lambda x: x.T[::-1, 1:].view("i4") + 1,
    "astype": lambda x: x.astype(np.float16) * 2, "broadcast_to": lambda x: np.broadcast_to(x[0], (5, 3)) * 2,
    "vector": lambda x: np.concatenate([x[:1] * 2, (x * 3).astype(np.float64)], axis=None),
    "matmul": lambda x: np.matmul(x, x.T, out=np.empty((4, 4), np.float32)), "maximum": lambda x: np.maximum(x, True),
    "in place": lambda x: changed(x * 1, lambda y: (y.__iadd__(1), y.__setitem__(x < 0, 0))),
    "fill": lambda x: changed(x * 1, lambda y: y.fill(3)),
    "add.at": lambda x: changed(np.zeros((4, 3), np.float32), lambda y: np.add.at(y, [0, 0], x[0])),
    "copyto": lambda x: changed(np.empty_like(x), lambda y: np.copyto(y, x)),
}  # fmt: skip
REFUSED = {
    "nonzero": np.nonzero, "modf": np.modf, "divmod": lambda x: np.divmod(x, 2), "histogram": np.histogram,
    "put": lambda x: changed(x * 1, lambda y: np.put(y, [0], 5)), "sort": lambda x: changed(x * 1, lambda y: y.sort()),
    "flat": lambda x: changed(x * 1, lambda y: y.flat.__setitem__(0, 5)),
}  # fmt: skip


DRAWS = {
    "random": lambda rng, x: rng.random(x.shape, np.float32),
    "standard_normal": lambda rng, x: rng.standard_normal(size=(4, 3)), "normal": lambda rng, x: rng.normal(size=3),
    "uniform": lambda rng, x: rng.uniform(-1, 1, (4, 1)), "integers": lambda rng, x: rng.integers(3, size=4)[:, None],
    "permutation": lambda rng, x: rng.permutation(3), "choice": lambda rng, x: rng.choice(5, 3, replace=False),
    "of arrays": lambda rng, x: rng.normal(x, 2), "permuted": lambda rng, x: rng.permutation(x),
}  # fmt: skip


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_from_a_stream(draw):
    def step(x):
        return x.data * draw(random.stream("dropout"), x.data)

    results = []
    for function in (step, tg.compile(step)):
        tg.manual_seed(5)
        results.append([function(tg.Tensor(np.full((4, 3), i, np.float32))) for i in range(1, 6)])
    assert np.array_equal(*results)


@pytest.mark.parametrize("draw", [lambda rng, x: rng.shuffle(x), lambda rng, x: rng.random()])
def test_draws_that_give_no_array_are_refused(draw):
    with pytest.raises(CompileError, match=r"test_numpy\.py:\d+: .*no array"):
        tg.compile(lambda x: draw(random.stream("dropout"), x.data))(tg.Tensor(np.ones(3)))


def changed(x, change):
    change(x)
    return x


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_numpy_functions(function):
    compiled, rng = tg.compile(lambda x: function(x.data)), np.random.default_rng(0)
    for _ in range(4):
        x = rng.standard_normal((4, 3)).astype(np.float32)
        assert np.array_equal(compiled(tg.Tensor(x.copy())), function(x))
    assert len(compiled.recordings) == 2


@pytest.mark.parametrize("function", REFUSED.values(), ids=REFUSED)
def test_numpy_functions_that_cannot_be_recorded(function):
    with pytest.raises(CompileError, match=r"test_numpy\.py:\d+"):
        tg.compile(lambda x: function(x.data))(tg.Tensor(np.ones((4, 3), np.float32)))
