"""``tinygrad-cifar reproduce``."""

from pathlib import Path

from tests.conftest import Shell
from tinygrad_cifar.recipes import DOCUMENTS


def test_list(shell: Shell) -> None:
    code, out, _ = shell("reproduce", "list")
    assert code == 0
    for document in DOCUMENTS.values():
        for recipe in document.recipes:
            assert f"{document.full_name(recipe)} " in out


def test_a_report(shell: Shell) -> None:
    code, out, _ = shell("reproduce", "a2c.gradients", "--quick", "--synthetic")
    folder = Path("runs", "reproduce-quick", "a2c.gradients")
    assert code == 0, out
    assert f"wrote {folder / 'report.html'}" in out
    text = (folder / "report.md").read_text()
    assert "QUICK VERSION" in text
    assert "SYNTHETIC DATA" in text
    assert "all three agree" in text
