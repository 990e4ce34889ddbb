"""``tinygrad-cifar check``: verdicts on a small synthetic set, the exit code, and the documents' tables."""

import sys
from collections.abc import Callable

import numpy as np
import pytest

from tinygrad_cifar import cli
from tinygrad_cifar.data import synthesise
from tinygrad_cifar.gradcheck.faults import FAULTS, replaced_rule

SMALL = ("--synthetic", "--split", "all-200", "--hidden", "6", "--entries", "20", "--images", "5")


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str]]:
    """Runs the command in this process: exit code, or the message of an error; and stdout."""
    monkeypatch.setattr("tinygrad_cifar.data.cifar10.synthesise", lambda: synthesise(600, 200))

    def run(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["tinygrad-cifar", "check", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr().out

    return run


def test_a_right_network(check: Callable[..., tuple[object, str]]) -> None:
    code, out = check(*SMALL, "--batch-norm", "--lam", "0.01")
    assert code == 0
    assert "gradients agree" in out
    assert "0.bias: 6 × batch_norm #1: batch norm removes a constant shift" in out
    assert out.count("\n1.weight") == 1


def test_second_order_and_markdown(check: Callable[..., tuple[object, str]]) -> None:
    code, out = check(*SMALL, "--activation", "tanh", "--order", "2", "--markdown")
    assert code == 0
    assert "**second derivatives agree" in out
    assert "| 0.weight | (6, 3072) | agree |" in out


def test_a_wrong_rule_ends_with_exit_code_1(check: Callable[..., tuple[object, str]]) -> None:
    with replaced_rule("batch_norm", FAULTS["batch_norm"]["variance path of batch norm missing"]):
        code, out = check(*SMALL, "--batch-norm", "--entries", "directions")
    assert code == 1
    assert "[direction, " in out, "brackets are no markup"
    assert "WRONG gradients. batch_norm #1, gradient of its input x: variance path missing" in out


def test_a_document(check: Callable[..., tuple[object, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    small = np.random.default_rng(0).random((5, 9))
    monkeypatch.setattr("tinygrad_cifar.data.Standardiser.transform", lambda *a: small)
    code, out = check("--synthetic", "--split", "all-200", "--images", "5", "--document", "a1")
    assert code == 0
    assert "| W | ANL vs CDM |" in out
    assert out.count("**Analytic, central and forward differences") == 2


def test_options_that_a_document_leaves_without_effect(check: Callable[..., tuple[object, str]]) -> None:
    code, _ = check("--synthetic", "--document", "a1", "--hidden", "7", "--no-batch-norm", "--order", "2")
    assert (
        code
        == "error: with --document, --batch-norm, --hidden, --order would change nothing: leave out one or the other."
    )


def test_entries_are_a_number_or_a_word(check: Callable[..., tuple[object, str]]) -> None:
    code, _ = check(*SMALL, "--entries", "many")
    assert code == "error: --entries takes a number above 0, all, or directions; not 'many'."
