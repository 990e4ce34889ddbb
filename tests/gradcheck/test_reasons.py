"""Every reason that a report gives is a claim: it has to hold, and is tested against plain NumPy."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

import tinygrad_cifar as tg
from tests.gradcheck.wrong_rules import WrongRule, installed, right_gradients
from tinygrad_cifar import Tensor, nn
from tinygrad_cifar.gradcheck import check_gradients
from tinygrad_cifar.nn import F
from tinygrad_cifar.operators import OPS, unwrap

DEAD = "relu #1: dead unit: inactive in every sample"
ABSENT = "relu #1: inactive wherever the change arrives"
CUT = "linear #2: what it is multiplied with is 0 in every sample"
EMPTY = "linear #1: what it is multiplied with is 0 in every sample"
SHIFT = "a shift of all scores changes nothing"
CANCELS = "what it contributes here cancels"


def leaf(*values: object) -> Tensor:
    return Tensor(np.array(values, float), requires_grad=True)


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


@tg.custom_op
def own_square(x: np.ndarray) -> np.ndarray:
    return x * x


own_square.gradient(lambda g, out, x: (2 * g * x,))


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
    with installed(WrongRule("zero", "softmax_cross_entropy", lambda g, out, logits, **settings: (0 * logits,))):
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


def test_the_error_bar_is_not_put_down_to_the_size_of_the_result() -> None:
    op = tg.custom_op(lambda x: 1e9 + 1e-9 * np.sin(x))
    op.gradient(lambda g, out, x: (1e-9 * g * np.cos(x),))
    x = leaf(1.0, 2.0)
    (reason,) = check_gradients(lambda: (op(x) - 1e9).sum(), [x]).parameters["[0]"].reasons
    assert "rounding moves the result by up to" in reason


def test_a_rule_that_cuts_its_second_derivative_is_not_put_down_to_f_alone() -> None:
    x = leaf(0.3, -0.2)
    with installed(WrongRule("cut", "exp", lambda g, out, x: (g * unwrap(out),))):
        report = check_gradients(lambda: x.exp().sum(), [x], order=2)
    assert report.blame is not None
    assert report.blame.pattern.startswith("f, or an op's rule, takes its value out of the graph")


# Patterns -----------------------------------------------------------------------------------------------------------


def _pattern(op: str, rule: Callable[..., object], f: Callable[[], Tensor], x: Tensor) -> str:
    with installed(WrongRule("made up", op, rule)):
        blame = check_gradients(f, [x]).blame
    assert blame is not None
    return blame.pattern


def test_a_common_factor_is_not_put_down_to_few_samples() -> None:
    x = Tensor(np.random.default_rng(0).uniform(1, 2, (3, 5)), requires_grad=True)
    for c, text in [(2 / 3, "factor 0.6667, which may be n's doing: n is 3 here"), (1.7, "factor 1.7"),
                    (5, "factor 5, which an axis's length explains")]:  # fmt: skip
        assert _pattern("exp", lambda g, out, x, c=c: (c * g * out,), lambda: x.exp(), x) == text


def test_two_numbers_do_not_tell_two_terms() -> None:
    x = leaf([0.3, 0.9])
    rule = lambda g, out, x, axis=-1: (np.array([[0.123, 4.56]]) * g,)  # noqa: E731
    assert "path" not in _pattern("softmax", rule, lambda: F.softmax(x), x)


def test_one_label_does_not_tell_its_factor() -> None:
    x = leaf([0.3, 0.9, -0.4])

    def positive(g, *args, **settings):
        return tuple(np.abs(d / g) * g for d in right_gradients("softmax_cross_entropy", g, *args, **settings))

    pattern = _pattern("softmax_cross_entropy", positive, lambda: F.cross_entropy(x, np.array([1])), x)
    assert pattern.startswith("only in 1 of 3 entries")


OPPOSITE = "not linear in the gradient from above: g and -g do not give opposite results"
MORE = "not linear in the gradient from above: more of it does not give as much more"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("of", "text"),
    [
        (lambda g: np.abs(g), OPPOSITE),
        (lambda g: np.maximum(g, 0), OPPOSITE),
        (lambda g: g * g, OPPOSITE),
        (lambda g: np.clip(g, -0.1, 0.1), MORE),
        (lambda g: np.clip(g, -100, 100), MORE),
        (lambda g: np.sign(g), MORE),
        (lambda g: 1 + 0 * g, "ignores the gradient from above"),
    ],
)
def test_a_rule_is_linear_in_the_gradient_from_above(of: Callable[[object], object], text: str, seed: int) -> None:
    """Whatever gradient from above is drawn: a loss has a single number, for which a wrong rule may be right."""
    x = Tensor(np.random.default_rng(seed).uniform(1, 2, (2, 3)), requires_grad=True)
    total = tg.custom_op(lambda x: np.exp(x).sum())
    total.gradient(lambda g, out, x: (of(g) * np.exp(x),))
    blame = check_gradients(lambda: total(x), [x], seed=seed).blame
    assert blame is not None
    assert blame.pattern.startswith(text)


def test_what_is_added_to_the_gradient_from_above_is_told() -> None:
    x = leaf(0.5, 1.5)
    assert _pattern("exp", lambda g, out, x: (g * out + 0.1,), lambda: x.exp(), x) == "a constant 0.1 is added"
    pattern = _pattern("exp", lambda g, out, x: (g * out + out,), lambda: x.exp(), x)
    assert pattern == "a part ignores the gradient from above"


def test_numbers_that_leave_float64_are_no_sign_of_a_rule_that_is_not_linear() -> None:
    for scale in (1e-320, 1e-160, 1e306):
        x = leaf(0.5, 1.5)
        op = tg.custom_op(lambda x, scale=scale: scale * x)
        op.gradient(lambda g, out, x, scale=scale: (scale * g,))
        assert check_gradients(lambda op=op, x=x: op(x), [x]).blame is None


SQUARE = Tensor(np.random.default_rng(0).standard_normal((4, 4)), requires_grad=True)
ROWS = Tensor(np.random.default_rng(1).standard_normal((5, 4)), requires_grad=True)


@pytest.mark.parametrize(
    ("op", "rule", "text"),
    [
        ("matmul", lambda g, out, a, b: (g @ b, a.T @ g), "would be right if b were transposed"),
        ("matmul", lambda g, out, a, b: (g @ b.T, np.outer(a[0], g[0])), "only the first row of the gradient"),
        (
            "matmul",
            lambda g, out, a, b: (g @ b.T, a[:-1].T @ g[:-1]),
            "the last row of the gradient from above is left",
        ),
        (
            "relu",
            lambda g, out, x: (g * (out <= 0),),
            "zero exactly where it should not be: a mask the wrong way round",
        ),
    ],
)
def test_what_students_write(op: str, rule: Callable[..., object], text: str) -> None:
    f = (lambda: ROWS @ SQUARE) if op == "matmul" else (lambda: SQUARE.relu())
    with installed(WrongRule("made up", op, rule)):
        blame = check_gradients(f, [ROWS, SQUARE]).blame
    assert blame is not None
    assert blame.pattern.startswith(text)


def test_gradients_that_are_returned_in_the_wrong_order() -> None:
    a, b = SQUARE, Tensor(np.random.default_rng(2).standard_normal((4, 4)), requires_grad=True)
    with installed(WrongRule("swapped", "multiply", lambda g, out, a, b: (g * a, g * b))):
        faults = check_gradients(lambda: a * b, {"a": a, "b": b}).faults
    assert [f.pattern for f in faults] == [f"swapped: what the rule returns for {name} belongs here" for name in "ba"]


@pytest.mark.parametrize("x", [[[1.0, 1, 0.5]], [[0.0, 0, 0]], [[2.0, -1, 2]]])
def test_ties_in_an_op_of_ones_own(x: object) -> None:
    """To each entry alone a tie is a kink; the tied ones together get the gradient once."""

    def sharing(share: Callable[[object], object]) -> object:
        op = tg.custom_op(lambda x: x.max(axis=1))
        op.gradient(lambda g, out, x: (share(x == out[:, None]) * g[:, None],))
        t = leaf(*x)
        return check_gradients(lambda: op(t), [t])

    assert sharing(lambda tied: tied / tied.sum(1, keepdims=True)).ok
    assert sharing(lambda tied: np.arange(3) == tied.argmax(1)).ok
    assert "where numbers are equal" in str(sharing(lambda tied: tied).blame)


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


def test_ties_do_not_make_a_factor() -> None:
    x = leaf([1.0, 1, 0.5], [0, 2, 2], [1, 2, 3])

    def every(g, out, x, axis=None, keepdims=False):
        return (np.expand_dims(g, axis) * (x == np.expand_dims(out, axis)),)

    assert "where numbers are equal" in _pattern("max", every, lambda: x.max(axis=1), x)


def test_zeros_at_most_places_are_not_all() -> None:
    rows = Tensor(np.random.default_rng(0).standard_normal((40, 40)), requires_grad=True)

    def last_only(g, out, x, weight, bias=None):
        dx = right_gradients("linear", g, out, x, weight, bias)[0]
        return dx * (np.arange(dx.size).reshape(dx.shape) == 1599), *right_gradients("linear", g, out, x, weight)[1:2]

    assert "returns zeros" not in _pattern("linear", last_only, lambda: F.linear(rows, np.eye(40)), rows)
