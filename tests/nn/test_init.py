"""Initialisers: their distributions, in place, from one stream, alike in both precisions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar import Tensor, nn
from tinygrad_cifar.errors import ConfigError, ShapeError

init = nn.init
STDS: list[tuple[Callable[..., Tensor], tuple[float, ...], float]] = [
    (init.he_normal, (), np.sqrt(2 / 300)),
    (init.he_uniform, (), np.sqrt(2 / 300)),
    (init.xavier_normal, (), np.sqrt(2 / 500)),
    (init.xavier_uniform, (), np.sqrt(2 / 500)),
    (init.normal, (0.01,), 0.01),
    (init.uniform, (-1.0, 1.0), np.sqrt(1 / 3)),
]


@pytest.mark.parametrize(("fill", "settings", "std"), STDS, ids=[fill.__name__ for fill, *_ in STDS])
def test_mean_and_deviation(fill: Callable[..., Tensor], settings: tuple[float, ...], std: float) -> None:
    weight = Tensor(np.empty((300, 200)).T)
    array = weight.data
    assert fill(weight, *settings) is weight
    assert weight.data is array
    assert weight.version[0] == 1
    assert array.std() == pytest.approx(std, rel=0.02)
    assert abs(array.mean()) < 0.02 * std
    if "uniform" in fill.__name__:
        assert np.abs(array).max() <= std * np.sqrt(3)


@pytest.mark.parametrize(("fill", "settings", "std"), STDS, ids=[fill.__name__ for fill, *_ in STDS])
def test_both_precisions_start_from_the_same_numbers(fill: Any, settings: tuple[float, ...], std: float) -> None:
    drawn = []
    for dtype in (np.float32, np.float64):
        tg.manual_seed(9)
        drawn.append(fill(Tensor(np.empty((5, 7), dtype)), *settings).data)
    assert drawn[0].dtype == np.float32
    np.testing.assert_array_equal(drawn[0], drawn[1].astype(np.float32))


def test_constants() -> None:
    t = Tensor(np.empty(3, np.float32))
    assert init.zeros(t).tolist() == [0, 0, 0]
    assert init.ones(t).tolist() == [1, 1, 1]
    assert init.constant(t, 0.5).tolist() == [0.5, 0.5, 0.5]


def test_further_axes_are_the_receptive_field() -> None:
    kernel = Tensor(np.empty((100, 20, 5, 3)))
    assert init.he_normal(kernel).data.std() == pytest.approx(np.sqrt(2 / 300), rel=0.02)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"has no fan-in.*zeros"):
        init.he_normal(Tensor(np.empty(3)))
    with pytest.raises(ConfigError, match="at least 0"):
        init.normal(Tensor(np.empty(3)), -1.0)
    with pytest.raises(ConfigError, match="low <= high"):
        init.uniform(Tensor(np.empty(3)), 1.0, 0.0)


def test_drawing_shifts_no_other_stream() -> None:
    expected = tg.random.stream("shuffle").random()
    tg.manual_seed(0)
    init.normal(Tensor(np.empty(100)))
    assert tg.random.stream("shuffle").random() == expected


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ConfigError, match="a seed is an integer of at least 0"):
        tg.manual_seed(seed)
