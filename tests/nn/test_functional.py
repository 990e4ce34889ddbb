"""The functions: values as PyTorch's, and errors that name the remedy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar import Tensor, nn
from tinygrad_cifar.errors import DtypeError, ShapeError, UnsupportedError

F = nn.F
RNG = np.random.default_rng(4)
SCORES = Tensor(RNG.normal(size=(3, 4)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_cross_entropy_is_the_mean_negative_log_probability(dtype: Any) -> None:
    labels = np.array([0, 3, 1], dtype)
    p = np.exp(SCORES.data) / np.exp(SCORES.data).sum(1, keepdims=True)
    expected = -np.log(p[np.arange(3), labels]).mean()
    assert F.cross_entropy(SCORES, labels).item() == pytest.approx(expected)
    assert F.cross_entropy(SCORES, labels.tolist()).item() == pytest.approx(expected)
    assert F.cross_entropy(SCORES, Tensor(labels)).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [F.cross_entropy, F.hinge])
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 4, 1], ShapeError, r"in \[0, 4\).*labels\[1\] is 4\. Labels that count from 1 need labels - 1"),
        ([0, 1, -1], ShapeError, r"labels\[2\] is -1"),
        (np.array([0, 200, 1], np.uint8), ShapeError, r"labels\[1\] is 200"),
        ([0.0, 1.0, 2.0], DtypeError, r"must be integers, not float64.*astype\(int\)"),
        ([True, False, True], DtypeError, "not bool"),
        (np.eye(4)[:3], ShapeError, r"one-hot.*argmax\(axis=1\)"),
        ([0, 1], ShapeError, r"3 rows of scores need \(3,\) labels: \(2,\)"),
        ([[0], [1], [2]], ShapeError, r"need \(3,\) labels: \(3, 1\)"),
    ],
)
def test_bad_labels_are_named(loss: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        loss(SCORES, labels)


def test_scores_must_be_rows() -> None:
    for shape in [(4,), (0, 4), (2, 3, 4)]:
        with pytest.raises(ShapeError, match=r"scores must be \(N, C\)"):
            F.cross_entropy(Tensor(np.zeros(shape)), np.zeros(shape[:1], int))


@given(n=st.integers(1, 6), c=st.integers(1, 6), margin=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_losses_equal_their_definitions(n: int, c: int, margin: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    s, labels, t = rng.normal(size=(n, c)), rng.integers(0, c, n), rng.random((n, c))
    hinge = sum(max(0, margin - s[i, labels[i]] + s[i, j]) for i in range(n) for j in range(c) if j != labels[i])
    assert F.hinge(Tensor(s), labels, margin).item() == pytest.approx(hinge / c / n)
    p = 1 / (1 + np.exp(-s))
    bce = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    assert F.binary_cross_entropy_with_logits(Tensor(s), t).item() == pytest.approx(bce)
    assert F.mse_loss(Tensor(s), t).item() == pytest.approx(((s - t) ** 2).mean())


def test_losses_as_modules_are_the_functions() -> None:
    labels, t = np.array([0, 1, 2]), RNG.random((3, 4))
    assert nn.CrossEntropyLoss()(SCORES, labels).item() == F.cross_entropy(SCORES, labels).item()
    assert nn.MultiMarginLoss(0.5)(SCORES, labels).item() == F.hinge(SCORES, labels, 0.5).item()
    assert nn.MSELoss()(SCORES, t).item() == F.mse_loss(SCORES, t).item()
    expected = F.binary_cross_entropy_with_logits(SCORES, t).item()
    assert nn.BCEWithLogitsLoss()(SCORES, t).item() == expected
    assert repr(nn.MultiMarginLoss()) == "MultiMarginLoss(margin=1.0)"


def test_regression_targets_are_not_broadcast() -> None:
    for loss in (F.mse_loss, F.binary_cross_entropy_with_logits):
        with pytest.raises(ShapeError, match=r"\(3, 4\) but targets \(4,\)"):
            loss(SCORES, np.zeros(4))


def test_binary_targets_may_be_integers_but_no_other_float() -> None:
    targets = RNG.integers(0, 2, (3, 4))
    expected = F.binary_cross_entropy_with_logits(SCORES, targets.astype(float)).item()
    assert F.binary_cross_entropy_with_logits(SCORES, targets).item() == expected
    assert F.binary_cross_entropy_with_logits(SCORES, targets.astype(bool)).item() == expected
    with pytest.raises(DtypeError, match=r"targets\.astype\(float64\)"):
        F.binary_cross_entropy_with_logits(SCORES, targets.astype(np.float32))


def test_targets_in_a_list_take_the_precision_of_the_predictions() -> None:
    for loss in (F.mse_loss, F.binary_cross_entropy_with_logits):
        assert loss(Tensor(np.ones(2, np.float32)), [0.5, 1]).dtype == np.float32
        with pytest.raises(UnsupportedError, match=r"np\.stack"):
            loss(Tensor(np.ones(2)), [Tensor(1.0, requires_grad=True), 0.5])


def test_binary_targets_do_not_lose_their_gradient_silently() -> None:
    targets = Tensor(RNG.random((3, 4)), requires_grad=True)
    expected = F.binary_cross_entropy_with_logits(SCORES, targets.data).item()
    assert F.binary_cross_entropy_with_logits(SCORES, targets.detach()).item() == expected
    with pytest.raises(UnsupportedError, match=r"no gradient flows through targets=.*detach"):
        F.binary_cross_entropy_with_logits(SCORES, targets)


def test_functions_are_pytorchs(torch: Any) -> None:
    x = RNG.normal(size=(3, 4)) * 3
    u, labels, t = torch.from_numpy(x), np.array([0, 3, 1]), RNG.random((3, 4))
    G, integers, targets = torch.nn.functional, torch.from_numpy(labels), torch.from_numpy(t)
    pairs = [
        (F.relu(Tensor(x)), G.relu(u)),
        (F.leaky_relu(Tensor(x), 0.2), G.leaky_relu(u, 0.2)),
        (F.sigmoid(Tensor(x)), G.sigmoid(u)),
        (F.tanh(Tensor(x)), G.tanh(u)),
        (F.softplus(Tensor(x)), G.softplus(u)),
        (F.gelu(Tensor(x)), G.gelu(u)),
        (F.softmax(Tensor(x), axis=0), G.softmax(u, 0)),
        (F.log_softmax(Tensor(x)), G.log_softmax(u, -1)),
        (F.cross_entropy(Tensor(x), labels), G.cross_entropy(u, integers)),
        (F.hinge(Tensor(x), labels, 0.7), G.multi_margin_loss(u, integers, margin=0.7)),
        (F.binary_cross_entropy_with_logits(Tensor(x), t), G.binary_cross_entropy_with_logits(u, targets)),
        (F.mse_loss(Tensor(x), t), G.mse_loss(u, targets)),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours.data, theirs.numpy(), rtol=1e-10, atol=1e-12)
