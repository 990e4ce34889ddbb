"""The trial of gradient checkers: the peers get the same functions as ours, and the tables add up."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import gradcheck, harness
from benchmarks.gradcheck import OURS, false_alarms
from benchmarks.gradcheck_peers import hips_checkers, torch_checkers
from tests.gradcheck.cases import case
from tests.gradcheck.wrong_rules import WRONG
from tinygrad_cifar.gradcheck.faults import replaced_rule
from tinygrad_cifar.gradcheck.random_networks import RandomNetwork
from tinygrad_cifar.gradcheck.replay import record

PEERS = {"torch": torch_checkers, "autograd": hips_checkers}


@pytest.mark.parametrize("peer", PEERS)
def test_the_peer_runs_what_we_recorded(peer: str) -> None:
    pytest.importorskip(peer, reason=f"needs {peer}: pip install 'tinygrad-cifar[peers]'")
    own, ours = PEERS[peer]()
    for settings in ({}, {"batch_norm": True, "lam": 0.1}, {"activation": "leaky_relu", "dropout": 0.3}):
        network = RandomNetwork(layers=3, batch=6, seed=3, **settings)
        program, _ = record(network.loss, dict(network.model.named_parameters()))
        assert not own(program), settings
        assert not ours(program), settings


@pytest.mark.parametrize("peer", PEERS)
def test_the_peer_gets_our_wrong_rules(peer: str) -> None:
    pytest.importorskip(peer, reason=f"needs {peer}: pip install 'tinygrad-cifar[peers]'")
    _, ours = PEERS[peer]()
    wrong = next(w for w in WRONG if str(w) == "linear: weight's sign")
    network = case(wrong.op, seed=0)
    program, _ = record(network.loss, network.parameters)
    assert not ours(program)
    with replaced_rule(wrong.op, wrong.rule):
        assert ours(program)


def test_the_tables_add_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = false_alarms(networks=4, for_peers=0, seed=0, others={})
    assert sum(found["tried"].values()) == 4
    assert found["called_wrong"] == []
    monkeypatch.setattr(gradcheck, "WRONG", [w for w in WRONG if w.op == "batch_norm"][:3])
    counts = gradcheck.misses(2, {})
    assert {(c["tried"], c[OURS], c["blamed"]) for c in counts.values()} == {(2, 2, 2)}

    environment = harness.environment()
    record = {"environment": environment, "peers": [], "false_alarms": found, "misses": counts}
    page = gradcheck.summary(record)
    assert f"| {OURS} | 0 of " in page
    assert f"| {OURS} | 6 of 6 (100.0 %) | 6 of 6 (100.0 %) |" in page
    assert "Not found" not in page
    gradcheck.plot(record, tmp_path / "bars.svg")
    assert (tmp_path / "bars.svg").exists()
    counts["a rule"] = {"tried": 2, OURS: 1, "blamed": 1, "named": 0, "pattern": 0}
    page = gradcheck.summary({"environment": environment, "peers": [], "misses": counts})
    assert "Right networks" not in page
    assert f"| {OURS} | 7 of 8 (87.5 %) |" in page
    assert "| a rule | 1 | 1 |" in page


def test_random_networks_are_the_same_for_a_seed() -> None:
    one, other = (RandomNetwork.draw(np.random.default_rng(5)) for _ in range(2))
    assert one == other
