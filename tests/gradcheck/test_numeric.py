import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar.gradcheck.numeric import central_difference, complex_step, extrapolated, forward_difference

POINT = np.array([0.3, -1.2, 2.0])


def smooth(x: np.ndarray) -> float:
    return (np.exp(x) * np.sin(3 * x)).sum()


SLOPES = np.exp(POINT) * (np.sin(3 * POINT) + 3 * np.cos(3 * POINT))


@pytest.mark.parametrize(
    ("method", "error"), [(forward_difference, 1e-4), (central_difference, 1e-8), (complex_step, 1e-14)]
)
def test_each_method_is_as_exact_as_it_says(method, error: float) -> None:
    off = np.abs(method(smooth, POINT) - SLOPES) / np.abs(SLOPES)
    assert off.max() < error


@given(
    st.floats(0.1, 20),
    st.floats(-3, 3),
    st.sampled_from([1e-30, 1e-4, 1.0, 1e6]),
    st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_the_error_bar_holds_and_is_narrow(frequency: float, x: float, height: float, width: float) -> None:
    found = extrapolated(lambda t: height * float(np.sin(frequency * t[0] / width + 1)), np.array([x * width]), width)
    exact = height * frequency / width * np.cos(frequency * x + 1)
    assert abs(found.value[0] - exact) <= found.error[0]
    assert found.error[0] <= 1e-7 * height * frequency / width


def test_one_sided_slopes_at_a_kink() -> None:
    found = extrapolated(lambda t: float(np.abs(t).sum() + (t**2).sum()), np.array([0.0, 1.0]))
    assert np.isinf(found.error[0])
    assert found.left[0] == pytest.approx(-1, abs=1e-6)
    assert found.right[0] == pytest.approx(1, abs=1e-6)
    assert found.value[1] == pytest.approx(3, abs=1e-9)


@pytest.mark.parametrize("distance", [1e-3, 1e-5, -1e-4])
def test_a_kink_beside_the_point_does_not_spoil_the_slope(distance: float) -> None:
    found = extrapolated(lambda t: float(np.maximum(t + distance, 0).sum() * 3 + np.sin(t).sum()), np.zeros(1))
    assert abs(found.value[0] - (3 * (distance > 0) + 1)) <= found.error[0] < 1e-3


def test_a_jump_has_no_finite_slope() -> None:
    found = extrapolated(lambda t: float((t > 0).sum()), np.zeros(1))
    assert np.isinf(found.error[0]) or abs(found.right[0]) > 1e6
