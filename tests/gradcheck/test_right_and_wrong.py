"""No false alarm on right networks, no miss among wrong rules: the quick version of ``benchmarks/gradcheck.py``."""

import numpy as np
import pytest
from hypothesis import given, settings

from tests.gradcheck.cases import case
from tests.gradcheck.wrong_rules import WRONG, WrongRule
from tinygrad_cifar.gradcheck import check_gradients
from tinygrad_cifar.gradcheck.faults import replaced_rule
from tinygrad_cifar.gradcheck.random_networks import RandomNetwork
from tinygrad_cifar.gradcheck.strategies import networks
from tinygrad_cifar.operators import OPS


@settings(max_examples=40)
@given(networks())
def test_no_false_alarm(network: RandomNetwork) -> None:
    before = network.model.state_dict()
    report = check_gradients(network.loss, network.model)
    assert report.blame is None, f"{network}\n{report}"
    assert all("wrong" not in p.counts for p in report.parameters.values()), f"{network}\n{report}"
    for name, array in network.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_there_are_enough_wrong_rules() -> None:
    assert len(WRONG) >= 60
    assert len({str(wrong) for wrong in WRONG}) == len(WRONG)
    assert {wrong.op for wrong in WRONG} == OPS.keys()


@pytest.mark.parametrize("op", OPS)
def test_the_right_rules_pass_in_the_same_networks(op: str) -> None:
    network = case(op, seed=0)
    report = check_gradients(network.loss, network.parameters)
    assert report.ok, report


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("seed", [4, 6])
def test_saturated_units_and_equal_numbers_are_no_false_alarm(op: str, seed: int) -> None:
    """Where units are saturated, and numbers equal for that, rounding alone parts the slopes to the left and right."""
    network = case(op, seed)
    for parameter in network.parameters.values():
        parameter.data[...] = np.round(30 * parameter.data)
    report = check_gradients(network.loss, network.parameters)
    assert report.blame is None, report


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_no_miss(wrong: WrongRule) -> None:
    network = case(wrong.op, seed=1)
    with replaced_rule(wrong.op, wrong.rule):
        report = check_gradients(network.loss, network.parameters)
    assert report.blame is not None, f"missed:\n{report}"
    assert report.blame.op == wrong.op, report
    assert wrong.pattern in report.blame.pattern, report.blame
