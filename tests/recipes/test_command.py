"""``tinygrad-cifar reproduce``."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinygrad_cifar import cli
from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.recipes import DOCUMENTS


def reproduce(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["reproduce", *arguments], env={"COLUMNS": "200"})
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result.exit_code, result.output


def test_list() -> None:
    code, out = reproduce("list")
    assert code == 0
    for document in DOCUMENTS.values():
        for recipe in document.recipes:
            assert f"{document.name}.{recipe.name} " in out


def test_help_shows_an_example() -> None:
    code, out = reproduce("--help")
    assert code == 0
    assert "Example: tinygrad-cifar reproduce a3.bn-3layer --quick" in out


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="nothing is called 'a5'"):
        reproduce("a5")


def test_a_report(tmp_path: Path, tiny: Cifar10, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygrad_cifar.recipes.reproduction.load_data", lambda config: tiny)
    code, out = reproduce("a2c.gradients", "--quick", "--out", str(tmp_path))
    assert code == 0, out
    assert "report.html" in out
    text = (tmp_path / "a2c.gradients" / "report.md").read_text()
    assert "QUICK VERSION" in text
    assert "SYNTHETIC DATA" in text
    assert "all three agree" in text
