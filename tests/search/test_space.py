"""Ranges, lists and blocks: which settings a trial gets."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.search import Range, Space, parse_variation

RANGES = st.builds(
    lambda low, factor, scale: Range(low, low * factor, scale),
    st.floats(1e-8, 1e3), st.floats(1.001, 1e6), st.sampled_from(["log", "linear"]),
)  # fmt: skip


@given(RANGES, st.floats(0, 1))
def test_a_range_gives_what_lies_in_it(values: Range, share: float) -> None:
    value = values.at(share)
    assert values.low <= value <= values.high * (1 + 1e-12)
    assert values.share(value) == pytest.approx(share, abs=1e-6)


def test_a_grid_is_evenly_spaced_and_has_its_ends() -> None:
    assert Range(1e-5, 1e-1, "log", 5).grid() == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert Range(1e-5, 0.1, "linear", 8).grid() == pytest.approx(np.linspace(1e-5, 0.1, 8).tolist())
    assert Range(1e-5, 0.3, "log", 7).grid()[-1] == 0.3


def test_log_uniform_means_that_every_factor_is_equally_likely() -> None:
    space = Space({"lr": Range(1e-4, 1.0)})
    exponents = [math.log10(space.point(k, seed=0)["lr"]) for k in range(2000)]
    counts, _ = np.histogram(exponents, bins=4, range=(-4, 0))
    assert all(abs(count - 500) < 100 for count in counts)


@given(st.integers(0, 10_000), st.integers(0, 2**32))
def test_a_point_depends_on_its_number_and_the_seed_alone(number: int, seed: int) -> None:
    space = Space({"lr": Range(1e-3, 1e-1), "lam": [1e-6, 1e-4]})
    assert space.point(number, seed) == Space.from_json(space.to_json()).point(number, seed)
    assert space.point(number, seed) != space.point(number + 2, seed)


def test_lists_make_a_grid_of_all_combinations() -> None:
    space = Space({"lr": [0.1, 0.2], "lam": Range(0, 1, "linear", 3)})
    points = [tuple(space.point(k, 0).values()) for k in range(space.size or 0)]
    assert points == list(product([0.1, 0.2], [0, 0.5, 1]))
    assert space.block_of(5) == 0


def test_a_range_and_a_list_give_each_value_of_the_list_its_share() -> None:
    space = Space({"lr": Range(1e-3, 1e-1), "lam": [0, 1e-6, 1e-5]})
    points = [space.point(k, 0) for k in range(12)]
    assert space.size is None
    assert [point["lam"] for point in points] == [0, 1e-6, 1e-5] * 4
    assert len({point["lr"] for point in points}) == 12


def test_blocks_take_turns() -> None:
    space = Space({"lr": Range(0.017, 0.019), "lam": [1e-6]}, {"lr": Range(0.028, 0.032), "lam": [1e-3]})
    for k in range(10):
        point = space.point(k, 0)
        assert space.block_of(k) == k % 2
        assert (0.017 <= point["lr"] <= 0.019) if k % 2 == 0 else (0.028 <= point["lr"] <= 0.032)
    grid = Space({"lam": [1, 2]}, {"lam": [3]})
    assert [grid.point(k, 0)["lam"] for k in range(3)] == [1, 2, 3]
    assert [grid.block_of(k) for k in range(3)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=log:1e-3:1e-1", ("lr", Range(1e-3, 1e-1))),
        ("lam=linear:0:0.1", ("lam", Range(0, 0.1, "linear"))),
        ("lam=linear:0:0.1:8", ("lam", Range(0, 0.1, "linear", 8))),
        ("lam=1e-6,1e-5,0", ("lam", [1e-6, 1e-5, 0])),
        ("activation=relu,tanh", ("activation", ["relu", "tanh"])),
        ("batch_norm=true,false", ("batch_norm", [True, False])),
    ],
)
def test_what_is_typed_is_understood(text: str, expected: object) -> None:
    assert parse_variation(text) == expected


@pytest.mark.parametrize(
    "text", ["lr=log:1e-3", "lr=log:a:b", "lr=log:1:2:3:4", "lr=log:1:2:x", "lr", "lr=", "lr=1,,2", "lr=1:2"]
)
def test_what_cannot_be_understood_is_explained(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME=log:LOW:HIGH"):
        parse_variation(text)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Range(0, 1), "begins above 0"),
        (lambda: Range(2, 1), "from low to high"),
        (lambda: Range(1, 2, "cubic"), "log or linear"),
        (lambda: Range(1, 2, points=1), "at least 2"),
        (lambda: parse_variation("lr=lin:0:1"), "log or linear, not 'lin'"),
        (lambda: Space({}), "something to vary"),
        (lambda: Space(), "something to vary"),
        (lambda: Space({"lam": []}), "a list of values"),
        (lambda: Space({"lam": 0.1}), "a list of values"),  # type: ignore[dict-item]
        (lambda: Space({"optimizer": "adam"}), "a list of values"),
        (lambda: Space({"lam": [1]}, {"lr": [1]}), "the same settings"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(wrong: object, message: str) -> None:
    assert callable(wrong)
    with pytest.raises(ConfigError, match=message):
        wrong()
