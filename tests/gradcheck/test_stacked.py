"""Copies run together give what they give one by one, in real and in complex numbers."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.gradcheck.cases import BLOCKS, LOSSES, case
from tinygrad_cifar.gradcheck import sparse, stacked
from tinygrad_cifar.gradcheck.probe import Directions, Entries, Probe
from tinygrad_cifar.gradcheck.replay import record
from tinygrad_cifar.operators import OPS
from tinygrad_cifar.tensor import Tensor

NAMES = sorted({*BLOCKS, *LOSSES, "linear", "tanh", "softmax_cross_entropy"})


def probes(op: str):
    c = case(op, seed=1)
    program, _ = record(c.loss, c.parameters)
    one = np.ones_like(program.values[program.out])
    for leaf, value in enumerate(program.leaves):
        yield Probe(program, leaf, one, one), value


@pytest.mark.parametrize("op", NAMES)
def test_stacked_copies_equal_separate_runs(op: str) -> None:
    for probe, value in probes(op):
        entries = Entries(np.arange(value.size))
        directions = Directions(np.eye(value.size).reshape(value.size, *value.shape))
        separate = []
        for i in range(value.size):
            leaves = list(probe.program.leaves)
            leaves[probe.leaf] = value + 0.01 * directions.vectors[i]
            separate.append(probe.program.run(leaves)[probe.program.out])
        np.testing.assert_allclose(probe.run(entries, 0.01), separate, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(probe.run(directions, 0.01), separate, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("op", NAMES)
def test_complex_steps_agree_with_real_ones(op: str) -> None:
    for probe, value in probes(op):
        if not probe.analytic:
            assert op in {"gelu", "erf"}
            continue
        entries = Entries(np.arange(value.size))
        found = probe.slopes(entries)
        smooth = np.isfinite(found.error)
        off = np.abs(probe.complex_slopes(entries) - found.value)
        assert (off <= found.error + 1e-12)[smooth].all()
        assert smooth.mean() > 0.9


W = np.random.default_rng(0).standard_normal((3, 3))


@pytest.mark.parametrize(
    "f",
    [
        lambda w: w @ w,
        lambda w: OPS["linear"](w, w),
        lambda w: OPS["l2_penalty"](w, w, coefficient=0.1),
        lambda w: w * w[0],
        lambda w: w @ np.ones((2, 3, 3)),
        lambda w: OPS["linear"](w[0], np.ones((2, 3))),
        lambda w: np.transpose(w, (0, 1)),
    ],
)
def test_where_a_short_way_does_not_hold_full_copies_are_made(f: Callable[[Tensor], Tensor]) -> None:
    """An op may get the changed array twice, or in another shape than its short way is for."""
    w = Tensor(W, requires_grad=True)
    program, _ = record(lambda: f(w), {"w": w})
    probe = Probe(program, 0, np.ones(f(w).shape), np.ones(f(w).shape))
    separate = [program.run([W + 0.01 * e])[program.out] for e in np.eye(9).reshape(9, 3, 3)]
    np.testing.assert_allclose(probe.run(Entries(np.arange(9)), 0.01), separate, rtol=1e-12, atol=1e-13)


def test_an_op_without_a_line_in_the_table_runs_copy_by_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    (fast, value), *_ = probes("batch_norm")
    entries = Entries(np.arange(value.size))
    with_table = fast.run(entries, 0.01)
    monkeypatch.setattr(stacked, "STACKED", {})
    monkeypatch.setattr(sparse, "SHORTCUTS", {})
    np.testing.assert_allclose(fast.run(entries, 0.01), with_table, rtol=1e-12)


def test_a_penalty_written_by_hand_needs_no_copies_of_the_weights() -> None:
    rng = np.random.default_rng(0)
    w = Tensor(rng.standard_normal((6, 5)), requires_grad=True)
    program, _ = record(
        lambda: 0.1 * ((w**2).sum() + (w * w / 3 + 2 * w).sum()) + (w.T @ np.ones(6)).exp().sum(), {"w": w}
    )
    one = np.ones(())
    probe = Probe(program, 0, one, one)
    assert probe._widest(Entries(np.arange(1))) < w.size + 1
    entries, directions = Entries(np.arange(w.size)), Directions(np.eye(w.size).reshape(-1, 6, 5))
    np.testing.assert_allclose(probe.run(entries, 0.3), probe.run(directions, 0.3), rtol=1e-12)
    np.testing.assert_allclose(probe.complex_slopes(entries), program.gradients(one)[0].ravel(), rtol=1e-12)
