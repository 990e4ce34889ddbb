"""The epochs that are compared do the same work: without shuffling they end at the same loss."""

import dataclasses

import pytest

from benchmarks.epoch import data_cost, rows
from benchmarks.networks import NETWORKS

TINY = dataclasses.replace(NETWORKS["3-layer-bn"], sizes=(3072, 8, 8, 10), batch=30)


@pytest.mark.parametrize("kind", ["loop", "training"])
def test_both_frameworks_train_alike(kind: str) -> None:
    pytest.importorskip("torch")
    from benchmarks.programs import epoch_tinygrad_cifar, epoch_torch_eager

    ours, theirs = (getattr(module, kind) for module in (epoch_tinygrad_cifar, epoch_torch_eager))
    expected = theirs(TINY, images=180, shuffle=False)(2)
    assert ours(TINY, images=180, shuffle=False)(2) == pytest.approx(expected, rel=1e-4)


def test_the_compiled_epochs_end_where_the_eager_ones_do() -> None:
    from benchmarks.programs import epoch_tinygrad_cifar as ours

    for eager, compiled in ((ours.steps, ours.compiled_steps), (ours.loop, ours.compiled_loop)):
        assert compiled(TINY, images=90, shuffle=False)(2) == eager(TINY, images=90, shuffle=False)(2) > 0


def test_the_table_compares_with_the_same_kind_of_epoch() -> None:
    times = {"tinygrad_cifar steps": [1.0], "tinygrad_cifar loop": [2.0, 4.0, 3.0], "torch_eager loop": [4.0]}
    assert rows(times) == [
        ["tinygrad_cifar steps", "1.000", "–"],
        ["tinygrad_cifar loop", "3.000", "0.75"],
        ["torch_eager loop", "4.000", "1.00"],
    ]


def test_what_data_cost_is_taken_round_by_round() -> None:
    eager = {"tinygrad_cifar steps": [1.0, 2.0, 1.0], "tinygrad_cifar loop": [1.1, 2.2, 9.0]}
    compiled = {"tinygrad_cifar compiled_steps": [1.0], "tinygrad_cifar compiled_loop": [0.99]}
    assert data_cost(eager | compiled) == "data cost +10.0% over the bare eager steps, -1.0% over the compiled ones"
