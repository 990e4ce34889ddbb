"""The order of trials: Spearman's rho against its definition, and the fault of the A2 document against its fix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar.search import order_correlation


def test_known_values() -> None:
    assert order_correlation([1, 2, 3, 4, 5, 6, 7, 8]) == (1.0, pytest.approx(1e-4, abs=2e-4))
    assert order_correlation([8, 7, 6, 5, 4, 3, 2, 1]).rho == -1
    # rho = 1 - 6 sum d^2 / (n (n^2 - 1)) = 1 - 6 * 10 / (5 * 24)
    assert order_correlation([2, 1, 5, 4, 3]).rho == pytest.approx(1 - 6 * 10 / 120)
    assert order_correlation([0.3, 0.3, 0.3]) == (0, 1)
    assert order_correlation([]) == (0, 1)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=30))
def test_rho_is_a_correlation_and_p_a_probability(accuracies: list[float]) -> None:
    rho, p = order_correlation(accuracies)
    assert -1 - 1e-9 <= rho <= 1 + 1e-9
    assert 0 < p <= 1
    backwards = order_correlation(accuracies[::-1])
    assert backwards.rho == pytest.approx(-rho, abs=1e-9)


def test_p_is_uniform_where_the_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    small = sum(order_correlation(rng.random(20).tolist()).p < 0.1 for _ in range(200))
    assert 8 <= small <= 34, "about a tenth"


def test_weights_that_are_not_initialised_again_are_exposed_within_blocks() -> None:
    """Five blocks of 14 trials; accuracy slides in each from about 44 to 39, as in the A2 document."""
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.arange(5), 14)
    slide = np.tile(np.linspace(44.4, 38.7, 14), 5) + rng.normal(0, 0.5, 70)
    sound = rng.normal(43, 0.5, 70) + blocks
    assert order_correlation(slide.tolist(), blocks.tolist()).rho < -0.9
    assert order_correlation(slide.tolist(), blocks.tolist()).p == 1e-4
    assert order_correlation(sound.tolist(), blocks.tolist()).p > 0.01
    assert order_correlation(sound.tolist()).p < 0.01, "without the blocks their differences look like an effect"
