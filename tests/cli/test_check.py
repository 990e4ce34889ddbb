"""``tinygrad-cifar check``: verdicts on a small synthetic set, the exit code, and the documents' tables."""

import numpy as np
import pytest

from tests.conftest import Shell
from tinygrad_cifar.gradcheck.faults import FAULTS, replaced_rule

SMALL = ("--synthetic", "--split", "all-200", "--hidden", "6", "--entries", "20", "--images", "5")


def test_a_right_network(shell: Shell) -> None:
    code, out, _ = shell("check", *SMALL, "--batch-norm", "--lam", "0.01")
    assert code == 0
    assert "gradients agree" in out
    assert "0.bias: 6 × batch_norm #1: batch norm removes a constant shift" in out
    assert out.count("\n1.weight") == 1


def test_second_order_and_markdown(shell: Shell) -> None:
    code, out, _ = shell("check", *SMALL, "--activation", "tanh", "--order", "2", "--markdown")
    assert code == 0
    assert "**second derivatives agree" in out
    assert "| 0.weight | (6, 3072) | agree |" in out


def test_a_wrong_rule_ends_with_exit_code_1(shell: Shell) -> None:
    with replaced_rule("batch_norm", FAULTS["batch_norm"]["variance path of batch norm missing"]):
        code, out, _ = shell("check", *SMALL, "--batch-norm", "--entries", "directions")
    assert code == 1
    assert "[direction, " in out, "brackets are no markup"
    assert "WRONG gradients. batch_norm #1, gradient of its input x: variance path missing" in out


def test_a_document(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    small = np.random.default_rng(0).random((5, 9))
    monkeypatch.setattr("tinygrad_cifar.data.Standardiser.transform", lambda *a: small)
    code, out, _ = shell("check", "--synthetic", "--split", "all-200", "--images", "5", "--document", "a1")
    assert code == 0
    assert "| W | ANL vs CDM |" in out
    assert out.count("**Analytic, central and forward differences") == 2


def test_options_that_a_document_leaves_without_effect(shell: Shell) -> None:
    _, _, err = shell("check", "--synthetic", "--document", "a1", "--hidden", "7", "--no-batch-norm", "--order", "2")
    assert "with --document, --batch-norm, --hidden, --order would change nothing: leave out one or the other." in err


def test_entries_are_a_number_or_a_word(shell: Shell) -> None:
    _, _, err = shell("check", *SMALL, "--entries", "many")
    assert "--entries takes a number above 0, all, or directions; not 'many'." in err
