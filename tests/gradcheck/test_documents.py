"""The documents' tables of gradient checks: their columns, and what they printed."""

import numpy as np
import pytest

import tinygrad_cifar as tg
from tests.gradcheck.cases import network
from tinygrad_cifar import nn
from tinygrad_cifar.gradcheck import compare_methods, documents

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((10, 40)), RNG.integers(0, 10, 10)


@pytest.fixture(autouse=True)
def _seed() -> None:
    tg.manual_seed(12345)


def test_methods_are_compared_for_any_network() -> None:
    model, x, y = network()
    comparison = compare_methods(lambda: nn.F.cross_entropy(model(x), y), model, h=1e-6)
    rows = {(r["parameter"], r["pair"]): r for r in comparison.statistics()}
    assert rows["0.weight", "ANL-CDM"]["absolute max"] < 1e-8
    assert rows["0.weight", "ANL-FDM"]["absolute max"] < 1e-5
    assert rows["0.weight", "ANL-CDM"]["absolute max"] < rows["0.weight", "ANL-FDM"]["absolute max"]
    assert "| 0.weight | CDM-FDM |" in str(comparison)


def test_analytic_central_forward() -> None:
    without, with_penalty = documents.a1(X, Y)
    for table in (without, with_penalty):
        assert table.ok
        assert [row[:2] for row in table.rows] == [
            (gradient, pair) for gradient in "Wb" for pair in ("ANL vs CDM", "ANL vs FDM", "CDM vs FDM")
        ]
        assert len(table.columns) == 7
    absolute = [float(row[6]) for row in with_penalty.rows]
    assert absolute[0] < 0.01 < 0.9 < absolute[1]  # a forward difference of ||W||^2 is off by h = 1e-6
    assert "λ was not in the cost" in with_penalty.notes[1]


def test_average_errors_and_maximum_relative_difference() -> None:
    averages, largest = documents.a2(X, Y)
    assert averages.title == "Success!!"
    assert [row[0] for row in averages.rows] == [
        f"Average error on {what} of {layer} layer" for layer in ("first", "second") for what in ("weights", "bias")
    ]
    assert largest.ok
    assert [row[0] for row in largest.rows] == ["W1", "b1", "W2", "b2"]
    assert all(float(row[1]) <= 1e-5 for row in largest.rows)


@pytest.fixture(scope="module")
def a3() -> list[documents.Table]:
    """The tables without batch norm, with it (2 and 3 layers), and with a rule that lacks a term (2 and 3)."""
    tg.manual_seed(12345)
    return documents.a3(X, Y)


def test_allclose_without_batch_norm(a3: list[documents.Table]) -> None:
    table = a3[0]
    assert table.ok
    assert [row[:2] for row in table.rows] == [(f"{depth}-layer network", "True") for depth in (2, 3, 4)]


@pytest.mark.parametrize("depth", [2, 3])
def test_batch_norm_is_right(a3: list[documents.Table], depth: int) -> None:
    table = a3[depth - 1]
    assert table.ok
    assert set(table.column("allclose")) == {"True"}
    for layer, gradient, *_, verdict, why in table.rows:
        last = layer == f"Layer{depth}"
        if last and gradient in ("gamma", "beta"):
            assert (verdict, why) == ("zero", "unused: no op leads from it to the result")
        elif gradient == "bias" and not last:
            assert verdict == "zero"
            assert "batch norm removes a constant shift" in why
        else:
            assert verdict == "agree"


@pytest.mark.parametrize("depth", [2, 3])
def test_the_documents_flags_come_from_a_missing_variance_path(a3: list[documents.Table], depth: int) -> None:
    table = a3[depth + 1]
    assert not table.ok
    assert table.column("allclose") == [text.split()[0] for text in table.column("as printed")]
    assert "batch_norm" in table.notes[0]
    assert "variance path missing" in table.notes[0]


def test_tables_are_markdown() -> None:
    lines = documents.average_errors(X[:2], Y[:2]).to_markdown().splitlines()
    assert lines[0] == "**Success!!**"
    assert lines[3] == "| --- | --- | --- | --- | --- |"
    assert all(line.startswith("| ") for line in lines[2:])
