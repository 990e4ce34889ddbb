"""Every reason that a report gives is a claim: it has to hold, and is tested against plain NumPy."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from tests.gradcheck.cases import leaf, own
from tinygrad_cifar import Tensor, nn
from tinygrad_cifar.gradcheck import check_gradients
from tinygrad_cifar.gradcheck.faults import replaced_rule
from tinygrad_cifar.nn import F
from tinygrad_cifar.operators import OPS

DEAD = "relu #1: dead unit: inactive in every sample"
ABSENT = "relu #1: inactive wherever the change arrives"
CUT = "linear #2: what it is multiplied with is 0 in every sample"
EMPTY = "linear #1: what it is multiplied with is 0 in every sample"
SHIFT = "a shift of all scores changes nothing"
CANCELS = "what it contributes here cancels"


@pytest.mark.parametrize("seed", range(30))
def test_what_stops_a_weight_is_what_is_said(seed: int) -> None:
    """Sparse images, dead units, weights of 0: each zero entry of the first weights is put down to the right one."""
    rng = np.random.default_rng(seed)
    n, inputs, units = rng.integers(2, 6), 5, 6
    x = rng.standard_normal((n, inputs)) * (rng.random((n, inputs)) < 0.4)
    model = nn.mlp([inputs, units, 3], dtype=float)
    model[0].bias.data[...] = rng.choice([0.1, -1.0, -20.0], units)
    model[2].weight.data[:, rng.random(units) < 0.3] = 0
    y = rng.integers(0, 3, n)
    report = check_gradients(lambda: F.cross_entropy(model(Tensor(x)), y), model)

    active = x @ model[0].weight.data.T + model[0].bias.data > 0
    expected: Counter[str] = Counter()
    for i in range(units):
        for j in range(inputs):
            counts = x[:, j] != 0
            if not counts.any():
                expected[EMPTY] += 1
            elif not active[counts, i].any():
                expected[DEAD if not active[:, i].any() else ABSENT] += 1
            elif not model[2].weight.data[:, i].any():
                expected[CUT] += 1
    assert dict(_parsed(report.parameters["0.weight"].reasons)) == expected


def _parsed(reasons: list[str]) -> list[tuple[str, int]]:
    return [(text, int(count)) for count, text in (r.split(" × ") for r in reasons)]


SPARSE = np.array([[1.0, 0], [-5, 1], [3, 0]])  # the second input counts in the second sample alone
SIGNS = np.array([[1.0, -1, 1, -1]] * 2)
X = np.random.default_rng(0).standard_normal((5, 3))
batch_norm, dropout = OPS["batch_norm"], OPS["dropout"]


own_square = own(lambda x: x * x, lambda g, out, x: (2 * g * x,), "own_square")


@pytest.mark.parametrize(
    ("f", "at", "reasons"),
    [
        (lambda w: F.linear(SPARSE, w).relu().sum(), [[1.0, 1.0]], [ABSENT]),
        (lambda w: dropout(F.linear(SPARSE, w), mask=np.array([[2.0], [0], [2]])).sum(), [[1.0, 1.0]],
         ["dropout #1: dropped wherever the change arrives"]),
        (lambda s: F.hinge(s, np.array([0, 1])), [[5.0, 1, -9], [1, 1.2, -9]],
         ["hinge #1: none of its margins is violated"]),  # one of another class is
        (lambda b: F.cross_entropy(X + b, np.array([0, 1, 0, 0, 1])), [0.0, 0, -1e4],  # a class that is masked
         ["softmax_cross_entropy #1: saturated: its probabilities are 0 or 1"]),
        (lambda w: F.cross_entropy(SIGNS * w, np.array([0, 1])), [0.0], [f"softmax_cross_entropy #1: {CANCELS}"]),
        (lambda b: F.cross_entropy(np.zeros((8, 4)) + b, np.arange(8) % 4), [0.0] * 4,  # terms that add up to 0
         [f"softmax_cross_entropy #1: {CANCELS}"]),
        (lambda b: F.hinge(np.zeros((8, 4)) + b, np.arange(8) % 4), [0.0] * 4, [f"hinge #1: {CANCELS}"]),
        (lambda b: F.cross_entropy(X * 0 + b, np.arange(5) % 3), 0.0, [f"softmax_cross_entropy #1: {SHIFT}"]),
        (lambda w: batch_norm(F.linear(X, w), np.zeros(2), np.ones(2)), [[1.0, 2, 3], [4, -5, 6]],
         ["batch_norm #1: what it is multiplied with is 0"]),
        (lambda w: batch_norm(F.linear(np.ones((5, 1)), w), np.ones(2), np.ones(2)), [[1.0], [2]],
         ["batch_norm #1: batch norm removes a constant shift: exactly zero by translation invariance"]),
        (lambda x: (x * 1e-12 - 1).relu().sum(), [1.0, 2.0], [ABSENT]),  # small is not 0
        (lambda x: ((x - 5).relu() + (x - x)).sum(), [1.0, 2.0], [f"{ABSENT}; subtract #2: {CANCELS}"]),
        (lambda x: own_square(x).sum(), [0.0, 1.0], ["own_square #1: does not pass its change on"]),
        (lambda x: own_square(own_square(x)).sum() + (own_square(x) - own_square(x)).sum(), [0.0, 1.0],
         ["own_square #1: does not pass its change on; own_square #3: does not pass its change on; own_square #4: "
          "does not pass its change on"]),
        (lambda x: own_square(30 * x).tanh().sum(), [1.0, 0.01], ["tanh #1: saturated"]),
        (lambda x: F.softmax(x.reshape(1, -1)).sum(), [1.0, 2.0], [f"sum #1: {CANCELS}"]),
    ],
)  # fmt: skip
def test_zeros(f: Callable[[Tensor], Tensor], at: object, reasons: list[str]) -> None:
    x = Tensor(np.array(at, float), requires_grad=True)
    assert [text for text, _ in _parsed(check_gradients(lambda: f(x), [x]).parameters["[0]"].reasons)] == reasons


def test_a_wrong_rule_does_not_change_the_reason() -> None:
    b = leaf(0.0, 0.0)
    with replaced_rule("softmax_cross_entropy", lambda g, out, logits, **settings: (0 * logits,)):
        report = check_gradients(lambda: F.cross_entropy(np.zeros((4, 2)) + b, np.arange(4) % 2), [b])
    assert report.parameters["[0]"].reasons == [f"2 × softmax_cross_entropy #1: {CANCELS}"]


def test_what_fades_from_layer_to_layer_does_not_cancel() -> None:
    x = leaf(9.0, 0.1)
    f = lambda: (((x.tanh() * 9).tanh() * 9).tanh() + 1 - 1).sum()  # noqa: E731
    report = check_gradients(f, [x]).parameters["[0]"]
    assert "cancels" not in str(report.reasons)
    assert set(report.counts) <= {"agree", "zero", "unresolved"}


def test_a_threshold_is_not_said_to_have_no_effect() -> None:
    x, threshold = leaf(1.0, 2.0), leaf(1.5)
    report = check_gradients(lambda: (x * (x.data > threshold.data)).sum(), {"x": x, "threshold": threshold})
    assert report.parameters["threshold"].reasons == ["unused: no op leads from it to the result"]


def test_what_flips_is_named_where_it_stands() -> None:
    samples_in_columns, w = np.array([[1.0, 0], [2, 0]]), leaf([1.0, 1], [1, -1], [2, 3])
    text = str(check_gradients(lambda: (w @ samples_in_columns + np.array([[0.0], [1], [0]])).relu(), [w]))
    assert "sample" not in text
    x = leaf([1.0, 1], [0, 2], [1, 3])
    reasons = check_gradients(lambda: x.max(axis=0).sum(), [x]).parameters["[0]"].reasons
    assert any("max #1 entry [0, 0] flips, max #1 entry [2, 0] flips" in r for r in reasons)


def test_hooks_are_said_to_be_left_out() -> None:
    w = leaf(1.0, 2.0)

    def f() -> Tensor:
        h = w.exp()
        h.register_hook(lambda g: 2 * g)
        return h.sum()

    assert "hooks" not in str(check_gradients(lambda: w.exp().sum(), {"w": w}))
    w.register_hook(lambda g: 2 * g)
    report = check_gradients(f, {"w": w})
    assert report.hooked == ["w", "the result of exp"]
    assert "without the hooks on w, the result of exp: in .grad is what they make of the gradients" in str(report)
