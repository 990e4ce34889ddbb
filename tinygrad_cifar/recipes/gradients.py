"""The gradient checks of the documents, as tables."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_cifar import nn, random
from tinygrad_cifar.data import Cifar10, Standardiser
from tinygrad_cifar.data.splits import BATCH
from tinygrad_cifar.gradcheck import documents, formulas
from tinygrad_cifar.gradcheck.formula_check import COLUMNS, check_formula
from tinygrad_cifar.recipes.recipe import SEED, Recipe, Results
from tinygrad_cifar.report.blocks import Block, Table, Text
from tinygrad_cifar.tensor import Array


def first_weights(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """The sizes of the splits, and the statistics of freshly drawn weights."""
    random.manual_seed(SEED)
    train, val = data.split("batch1")
    sizes = f"{len(train):,} images to train on, {len(val):,} to validate on, {len(data.test):,} to test on."
    model = nn.mlp([3072, 50, 10], init=0.001)
    rows = [
        (name, "×".join(map(str, p.shape)), f"{p.data.mean():.2e}", f"{p.data.std():.2e}")
        for name, p in model.named_parameters()
    ]
    yield Table(("parameter", "shape", "mean", "std"), rows, f"The first weights, seed {SEED}. {sizes}")


def methods(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """Softmax classifier: analytic, central and forward differences; the document's figures beside."""
    x, y = _sample(data, 100)
    printed = {0.0: METHODS_0, 1.0: METHODS_1}
    for lam, document in printed.items():
        table = documents.analytic_central_forward(x, y, lam)
        rows = [
            [*row[:2], *(f"{here} ({there})" for here, there in zip(row[2:], figures.split(), strict=True))]
            for row, figures in zip(table.rows, document, strict=True)
        ]
        yield Table(table.columns, rows, f"{table.title}; in brackets the document's: {table.notes[0]}.", 2)


METHODS_0 = (
    "0.000 547.345 0.104 0.081 0.016",
    "0.000 1468.733 0.317 0.158 0.046",
    "0 2000 0.315 0.111 0.044",
    "0.000 0.016 0.004 0.039 0.015",
    "0.002 0.040 0.015 0.106 0.062",
    "0.002 0.034 0.011 0.089 0.051",
)
METHODS_1 = (
    "0.000 85.277 0.051 0.125 0.027",
    "0.000 185.524 0.078 0.178 0.039",
    "0 204.082 0.047 0.089 0.021",
    "0.001 0.026 0.006 0.054 0.022",
    "0.001 0.037 0.009 0.080 0.031",
    "0 0.021 0.003 0.044 0.009",
)


def normed(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """Mean |a - n| / max(|a| + |n|) on two images."""
    yield _table(documents.average_errors(*_sample(data, 2)))


def plain_layers(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """allclose at 1e-7 for 2, 3 and 4 layers."""
    yield _table(documents.allclose_without_batch_norm(*_sample(data, 10)))


def batch_norm_layers(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """allclose at 1e-7 for 2 and 3 layers with batch norm; right, and with the variance path dropped."""
    for variance_path in (True, False):
        for depth in (2, 3):
            yield _table(documents.allclose_with_batch_norm(*_sample(data, 10), depth, variance_path))


def two_layers(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """The maximum relative difference on 20 features, and the formulas as the third witness."""
    x, y = _sample(data, 10)
    yield _table(documents.max_relative_difference(x, y))
    yield from _three_ways(formulas.two_layers, nn.mlp([20, 50, 10], dtype=np.float64), x[:, :20], y, lam=0.01)


def sigmoid_layers(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """The formulas of the sigmoid network as the third witness."""
    x, y = _sample(data, 10)
    network = nn.mlp([3072, 100, 100, 10], "sigmoid", init="xavier", dtype=np.float64)
    yield from _three_ways(formulas.sigmoid_layers, network, x, y, lam=0.01, convention="half", entries=200)


def _three_ways(
    formula: Callable[..., Any], network: nn.Module, x: Array, y: Array, **settings: Any
) -> Iterator[Block]:
    report = check_formula(formula, network, x, y, **settings)
    derivation = (formula.__doc__ or "").split("\n\n")[0].strip()
    yield Text(f"The formulas, derived by hand: {derivation}")
    rows = [verdict.row() for verdict in report.parameters.values()]
    caption = f"Formula, backpropagation and finite differences: {report.headline}."
    yield Table(COLUMNS, rows, caption, len(COLUMNS))


def _sample(data: Cifar10, n: int) -> tuple[Array, Array]:
    """The first ``n`` images of batch 1, standardised in float64, and their labels; all draws start at SEED."""
    random.manual_seed(SEED)
    train = data.train.subset(min(BATCH, len(data.train)))
    x = Standardiser.fit(train.images).transform(train.images[:n], np.float64)
    return x, train.labels[:n].astype(np.int64)


def _table(table: documents.Table) -> Table:
    notes = "; ".join([table.title, *table.notes])
    return Table(table.columns, table.rows, f"{notes}.", len(table.columns))
