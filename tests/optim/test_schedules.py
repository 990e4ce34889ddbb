"""Schedules: their formulas, PyTorch's values, and what they print."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.optim import schedules as s


@given(n_s=st.integers(1, 50), step=st.integers(0, 1000))
def test_triangular_is_the_assignments_formula(n_s: int, step: int) -> None:
    low, high = 1e-5, 1e-1
    cycle = step // (2 * n_s)
    if step <= (2 * cycle + 1) * n_s:
        expected = low + (step - 2 * cycle * n_s) / n_s * (high - low)
    else:
        expected = high - (step - (2 * cycle + 1) * n_s) / n_s * (high - low)
    assert s.triangular(low, high, n_s)(step) == pytest.approx(expected, rel=1e-9)


def test_triangular_counts_complete_cycles() -> None:
    assert s.triangular(1e-5, 1e-1, 2250).complete_cycles(epochs=20, n=45_000, batch=100) == 2
    assert s.triangular(1e-5, 1e-1, 800).complete_cycles(epochs=48, n=10_000, batch=100) == 3
    assert s.triangular(1e-5, 1e-1, 500).complete_cycles(epochs=10, n=10_099, batch=100) == 1
    assert s.triangular(1e-5, 1e-1, 2250).complete_cycles(epochs=30, n=49_000, batch=100) == pytest.approx(3.2667, 1e-4)


def test_exponential_per_epoch_and_per_step() -> None:
    per_epoch = s.exponential(0.3, k=0.1, steps_per_epoch=450)
    assert per_epoch(449) == 0.3
    assert per_epoch(450) == pytest.approx(0.3 * math.exp(-0.1))
    per_step = s.exponential(0.3, k=0.1)
    assert per_step(7) == pytest.approx(0.3 * math.exp(-0.7))
    assert s.exponential(0.3, gamma=math.exp(-0.1))(7) == pytest.approx(per_step(7))


def test_constant_and_the_end_of_others() -> None:
    assert s.constant(0.1)(10**9) == 0.1
    assert s.cosine(0.1, 50, 0.01)(10**6) == pytest.approx(0.01)
    assert s.one_cycle(0.1, 50)(10**6) == pytest.approx(0.1 / 25 / 1e4)


def test_warm_up_rises_in_a_line_and_then_starts_the_schedule_at_0() -> None:
    schedule = s.warm_up(s.step(0.4, every=10), 4, start_factor=0.25)
    assert [schedule(i) for i in range(5)] == pytest.approx([0.1, 0.175, 0.25, 0.325, 0.4])
    assert schedule(13) == pytest.approx(0.4)
    assert schedule(14) == pytest.approx(0.04)


def test_they_print_as_they_are_written() -> None:
    text = "triangular(eta_min=1e-05, eta_max=0.1, n_s=2250)"
    assert repr(s.triangular(1e-5, 1e-1, 2250)) == text
    assert text in repr(s.warm_up(s.triangular(1e-5, 1e-1, 2250), 10))
    assert s.cosine(0.1, 5) == s.cosine(0.1, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: s.triangular(1e-5, 1e-1, 0),
        lambda: s.triangular(1e-1, 1e-5, 10),
        lambda: s.exponential(0.1),
        lambda: s.exponential(0.1, k=0.1, gamma=0.9),
        lambda: s.exponential(0.1, gamma=0.0),
        lambda: s.exponential(0.1, k=1.0, steps_per_epoch=0),
        lambda: s.step(0.1, every=0),
        lambda: s.cosine(0.1, 0),
        lambda: s.one_cycle(0.1, 2),
        lambda: s.one_cycle(0.1, 20, pct_start=1.0),
        lambda: s.one_cycle(0.1, 20, pct_start=-1.0),
        lambda: s.warm_up(s.constant(0.1), -1),
        lambda: s.constant(-0.1),
        lambda: s.constant(float("nan")),
        lambda: s.triangular(0.0, float("inf"), 10),
        lambda: s.exponential(-0.1, k=1),
        lambda: s.step(0.1, 5, gamma=-1),
        lambda: s.cosine(-0.1, 10),
        lambda: s.one_cycle(0.1, 20, div_factor=0),
        lambda: s.one_cycle(0.1, 20, final_div_factor=0),
    ],
)
def test_nonsense_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError):
        make()


PEERS: dict[str, tuple[s.Schedule, Callable[[Any, Any], Any]]] = {
    "triangular": (
        s.triangular(1e-3, 0.1, 7),
        lambda lr, o: lr.CyclicLR(o, 1e-3, 0.1, step_size_up=7, cycle_momentum=False),
    ),
    "exponential": (s.exponential(0.1, gamma=0.9), lambda lr, o: lr.ExponentialLR(o, 0.9)),
    "step": (s.step(0.1, every=5, gamma=0.3), lambda lr, o: lr.StepLR(o, 5, 0.3)),
    "cosine": (s.cosine(0.1, 30, 0.01), lambda lr, o: lr.CosineAnnealingLR(o, 30, 0.01)),
    "one_cycle": (s.one_cycle(0.1, 31), lambda lr, o: lr.OneCycleLR(o, 0.1, total_steps=31)),
    "warm_up": (
        s.warm_up(s.exponential(0.1, gamma=0.9), 6),
        lambda lr, o: lr.SequentialLR(o, [lr.LinearLR(o, 1 / 3, 1, 6), lr.ExponentialLR(o, 0.9)], [6]),
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::UserWarning:torch")
@pytest.mark.parametrize("name", PEERS)
def test_values_are_pytorchs(torch: Any, name: str) -> None:
    schedule, build = PEERS[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    peer = build(torch.optim.lr_scheduler, optimizer)
    for step in range(30):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        peer.step()
