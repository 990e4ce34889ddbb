import io
import json

import numpy as np
import pytest

import tinygrad_cifar as tg
from tests.gradcheck.wrong_rules import WRONG, WrongRule, installed
from tinygrad_cifar import Tensor, nn
from tinygrad_cifar.errors import ConfigError, GraphError
from tinygrad_cifar.gradcheck import GradientReport, check_gradients, compare_methods
from tinygrad_cifar.gradcheck.random_networks import RandomNetwork
from tinygrad_cifar.nn import F
from tinygrad_cifar.operators import OPS, unwrap

RNG = np.random.default_rng(1)


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


def network(
    sizes: tuple[int, ...] = (6, 5, 4), n: int = 5, dtype: type = np.float64, **options
) -> tuple[nn.Sequential, Tensor, np.ndarray]:
    rng = np.random.default_rng(3)
    model = nn.mlp(sizes, dtype=dtype, **options)
    return model, Tensor(rng.standard_normal((n, sizes[0])).astype(dtype)), rng.integers(0, sizes[-1], n)


def check(model: nn.Module, x: Tensor, y: np.ndarray, **options) -> GradientReport:
    return check_gradients(lambda: F.cross_entropy(model(x), y), model, **options)


def wrong(op: str, name: str) -> WrongRule:
    return next(w for w in WRONG if (w.op, w.name) == (op, name))


# Verdicts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "softplus"])
def test_correct_networks_agree(dtype: type, activation: str) -> None:
    model, x, y = network((6, 5, 5, 4), dtype=dtype, activation=activation, batch_norm=True, dropout=0.2)
    report = check_gradients(lambda: F.cross_entropy(model(x), y) + nn.l2_penalty(model, 0.1), model)
    assert report.ok, report
    assert report.blame is None
    assert report.parameters["0.weight"].verdict == "agree"


@pytest.mark.parametrize("seed", range(40))
def test_no_false_alarm_on_awkward_networks(seed: int) -> None:
    net = RandomNetwork.draw(np.random.default_rng([11, seed]))
    report = check_gradients(net.loss, net.model)
    assert report.blame is None, (net, str(report))
    assert all("wrong" not in p.counts for p in report.parameters.values()), (net, str(report))


def test_a_bias_before_batch_norm_is_zero_for_a_reason() -> None:
    report = check(*network(batch_norm=True))
    assert report.parameters["0.bias"].verdict == "zero"
    assert "batch_norm #1" in report.parameters["0.bias"].reasons[0]
    assert "translation invariance" in str(report)


def test_dead_units_unused_parameters_and_saturation_are_named() -> None:
    model, x, y = network()
    model[0].bias.data[2] = -100
    parameters = {**dict(model.named_parameters()), "spare": leaf(1.0)}
    report = check_gradients(lambda: F.cross_entropy(model(x), y), parameters)
    assert report.ok
    assert any("dead unit" in r for r in report.parameters["0.weight"].reasons)
    assert report.parameters["spare"].verdict == "zero"
    assert "unused" in report.parameters["spare"].reasons[0]

    model[0].bias.data[...] = 0
    model[2].weight.data[...] = 0
    model[2].bias.data[...] = 1e4 * (np.arange(4) == 1)
    assert any("saturated" in r for r in check(model, x, np.ones_like(y)).parameters["2.weight"].reasons)


@pytest.mark.parametrize(("loss", "op"), [(F.cross_entropy, "softmax_cross_entropy"), (F.hinge, "hinge")])
def test_what_cancels_over_the_samples_is_not_called_saturated(loss, op) -> None:
    """Where all scores are 0 and each class has as many samples, the terms of the bias's gradient add up to 0."""
    bias = Tensor(np.zeros(4), requires_grad=True)
    report = check_gradients(lambda: loss(Tensor(np.zeros((8, 4))) + bias, np.arange(8) % 4), {"bias": bias})
    assert report.parameters["bias"].counts == {"zero": 4}
    assert report.parameters["bias"].reasons == [f"4 × {op} #1: what it contributes here cancels"]


def test_a_kink_is_named_and_bracketed() -> None:
    x = leaf(0.0, 1.0, -2.0)
    report = tg.check_gradients(lambda: x.relu(), {"x": x})
    assert report.ok
    assert report.parameters["x"].verdict == "kink"
    assert report.parameters["x"].counts == {"agree": 1, "zero": 1, "kink": 1}
    assert "relu #1 entry [0] flips" in str(report)


def test_a_kink_names_unit_and_sample() -> None:
    model, x, y = network()
    model[0].bias.data[3] -= (x.data[2] @ model[0].weight.data.T + model[0].bias.data)[3]
    report = check(model, x, y)
    assert report.ok, report
    assert report.parameters["0.bias"].counts.get("kink", 0) <= 1
    if "kink" in report.parameters["0.bias"].counts:  # where rounding left it exactly, or almost, on the kink
        assert "relu #1 unit 3 flips for sample 2" in str(report)


def test_a_value_outside_of_the_one_sided_slopes_is_wrong() -> None:
    x = leaf(0.0, 1.0)
    rule = WrongRule("2 at the kink", "relu", lambda g, out, x: (g * np.where(out == 0, 2.0, 1.0),))
    with installed(rule):
        report = check_gradients(lambda: x.relu(), [x])
    assert not report.ok
    assert report.blame is not None
    assert report.blame.op == "relu"


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8])
def test_small_slopes_do_not_hide_an_error(scale: float) -> None:
    x = leaf(0.5, -1.0)
    rule = WrongRule("off", "exp", lambda g, out, x: (g * out * np.array([1.0, 1 + 1e-6]),))
    with installed(rule):
        report = check_gradients(lambda: (x.exp() * scale).sum(), [x])
    assert report.parameters["[0]"].counts == {"agree": 1, "wrong": 1}
    assert not report.ok


def test_a_check_that_proves_nothing_is_no_success() -> None:
    x = leaf(-1.0, -2.0)
    report = check_gradients(lambda: x.relu().sum(), [x])
    assert not report.ok
    assert report.headline.startswith("NOTHING PROVEN")


def test_unresolved_says_what_would_resolve_it() -> None:
    @tg.custom_op
    def drowned(x: np.ndarray) -> np.ndarray:
        return 1e9 + 1e-9 * np.sin(x)

    @drowned.gradient
    def drowned_gradient(g, out, x):
        return (1e-9 * g * np.cos(x),)

    x = leaf(1.0)
    report = check_gradients(lambda: drowned(x), [x])
    assert report.parameters["[0]"].verdict == "unresolved"
    assert "rounding moves the result by up to" in str(report)
    assert not report.ok


# Blame --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "name", "input_", "pattern"),
    [
        ("batch_norm", "variance path missing", "x", "variance path missing"),
        ("batch_norm", "mean path missing", "x", "mean path missing"),
        ("batch_norm", "gamma missing in dx", "x", "factor gamma is missing"),
        ("linear", "weight's sign", "weight", "sign"),
        ("linear", "bias: mean over rows", "bias", "factor 1/n"),
        (
            "linear",
            "bias: first row",
            "bias",
            "only the first row of the gradient from above counts",
        ),
        ("softmax_cross_entropy", "missing 1/n", "logits", "factor n: 1/n is missing"),
        ("softmax_cross_entropy", "label off by one", "logits", "label off by one"),
        ("softmax_cross_entropy", "right for an upstream of 1", "logits", "ignores the gradient from above"),
        ("linear", "relative error 1e-6 in the weight", "weight", "factor 1.000001"),
    ],
)
def test_the_wrong_op_is_blamed(op: str, name: str, input_: str, pattern: str) -> None:
    model, x, y = network((6, 5, 5, 4), batch_norm=True)
    model[1].weight.data[...] = RNG.uniform(0.5, 2, 5)
    with installed(wrong(op, name)):
        report = check(model, x, y)
    assert not report.ok
    assert report.blame is not None
    assert (report.blame.op, report.blame.input, report.blame.pattern) == (op, input_, pattern)
    assert report.blame.label == f"{op} #1"


def test_one_wrong_entry_among_many_is_found_and_blamed() -> None:
    def rule(g, out, x, weight, bias=None):
        dw = g.T @ x
        dw.reshape(-1)[777 % dw.size] *= 1 + 1e-6
        return lambda: g @ weight, lambda: dw, lambda: g.sum(0)

    model, x, y = network((50, 40, 4))
    with installed(WrongRule("one entry", "linear", rule)):
        report = check(model, x, y)
    assert report.parameters["0.weight"].counts["wrong"] == 1
    assert report.blame is not None
    assert (report.blame.op, report.blame.input) == ("linear", "weight")


def test_rules_that_raise_are_findings() -> None:
    w = Tensor(RNG.standard_normal((3, 4)), requires_grad=True)
    with installed(WrongRule("transposed", "exp", lambda g, out, x: ((g * out).T,))):
        report = check_gradients(lambda: w.exp(), [w])
    assert report.blame is not None
    assert (report.blame.op, report.blame.pattern) == ("exp", "transposed")


def test_rules_that_draw_at_random_or_change_their_inputs_are_found() -> None:
    x = leaf(1.0, 2.0)
    rng = np.random.default_rng(0)
    with installed(WrongRule("random", "exp", lambda g, out, x: (g * out * rng.random(),))):
        report = check_gradients(lambda: x.exp(), [x])
    assert not report.ok
    assert "at random" in str(report.blame)


def test_values_taken_out_of_the_graph_are_found() -> None:
    w = leaf(1.0, 2.0)
    report = check_gradients(lambda: (w * w.detach()).sum(), {"w": w})
    assert not report.ok
    assert report.parameters["w"].verdict == "wrong"
    assert report.blame is not None
    assert (report.blame.op, report.blame.input) == ("not recorded", "w")


def test_custom_ops_are_checked_by_the_same_call() -> None:
    @tg.custom_op
    def cube(x: np.ndarray) -> np.ndarray:
        return x**3

    @cube.gradient
    def cube_gradient(g, out, x):
        return (3 * g * x**2,)

    x = leaf(1.0, -2.0, 0.5)
    assert check_gradients(lambda: cube(x), [x]).ok
    cube.gradient(lambda g, out, x: (2 * g * x**2,))
    report = check_gradients(lambda: cube(x).sum(), [x])
    assert report.blame is not None
    assert (report.blame.op, report.blame.pattern) == ("cube", "factor 0.6667")


def test_custom_kinks_are_no_false_alarm() -> None:
    @tg.custom_op
    def relu6(x: np.ndarray) -> np.ndarray:
        return np.minimum(np.maximum(x, 0), 6)

    @relu6.gradient
    def relu6_gradient(g, out, x):
        return (g * (x > 0) * (x < 6),)

    x = leaf(0.0, 6.0, 1e-9, 6 - 1e-5, 3.0, -1.0)
    report = check_gradients(lambda: relu6(x), [x])
    assert report.ok, report
    assert report.parameters["[0]"].counts["kink"] >= 2


@pytest.mark.parametrize(
    ("forward", "slope", "x"),
    [
        (lambda x: 1 / x, lambda x: -1 / x**2, [1e-6, 1e3]),
        (lambda x: np.round(x), lambda x: 0 * x, [1.2, 1000.3]),
        (lambda x: np.sin(1e6 * x), lambda x: 1e6 * np.cos(1e6 * x), [0.5, 3.0]),
        (lambda x: -np.log(np.clip(x, 1e-12, 1)), lambda x: np.where(x > 1e-12, -1 / x, 0), [1e-20, 1e-9, 1e-3, 0.9]),
    ],
)
def test_what_a_function_does_close_by_is_seen(forward, slope, x) -> None:
    """The first steps go far beyond it, and agree with each other on another slope."""
    op = own(lambda x: forward(x), lambda g, out, x: (g * slope(x),), "op")
    t = leaf(*x)
    report = check_gradients(lambda: op(t), [t])
    assert report.blame is None, report
    assert not {"wrong", "unresolved"} & set(report.parameters["[0]"].counts), report
    twice = own(lambda x: forward(x), lambda g, out, x: (g * slope(x) + g / abs(x),), "op")
    assert not check_gradients(lambda: twice(t), [t]).ok


# Options ------------------------------------------------------------------------------------------------------------


def test_entries_may_be_sampled_or_replaced_by_directions() -> None:
    model, x, y = network((30, 20, 4))
    assert len(check(model, x, y, entries=7).parameters["0.weight"].analytic) == 7
    report = check(model, x, y, entries="directions")
    assert report.ok
    assert len(report.parameters["0.weight"].analytic) == 8
    with installed(wrong("linear", "weight doubled")):
        assert not check(model, x, y, entries="directions").ok


def test_second_order() -> None:
    model, x, y = network(batch_norm=True, activation="tanh")
    report = check(model, x, y, order=2)
    assert report.ok, report
    assert report.order == 2

    def once(g, out, x):  # its own second derivative lacks a part
        return (g * unwrap(out),)

    x = leaf(0.3, -0.2)
    with installed(WrongRule("cut", "exp", once)):
        assert check_gradients(lambda: x.exp().sum(), [x]).ok
        assert not check_gradients(lambda: x.exp().sum(), [x], order=2).ok


def test_nothing_is_changed_by_a_check() -> None:
    model, x, y = network(batch_norm=True, dropout=0.5, dtype=np.float32)
    F.cross_entropy(model(x), y).backward()
    before = {name: (t.data, t.data.copy()) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    state = tg.random.stream("dropout").bit_generator.state
    loss = lambda: F.cross_entropy(model(x), y)  # noqa: E731
    for wrt in (model, dict(model.named_parameters()), list(model.parameters())):
        assert check_gradients(loss, wrt, order=2).ok
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            array, values = before[name]
            assert t.data is array
            assert np.array_equal(t.data, values)
            assert t.data.dtype == values.dtype
        assert all(p.grad is gradients[name] for name, p in model.named_parameters())
        assert tg.random.stream("dropout").bit_generator.state == state


@pytest.mark.parametrize(
    ("f", "wrt", "error"),
    [
        (lambda: Tensor([1.0]), {}, ConfigError),
        (lambda: Tensor([1.0]), None, ConfigError),
        (lambda: Tensor([1.0]), [Tensor([1.0])], ConfigError),
        (lambda: 3.0, [leaf(1.0)], GraphError),
    ],
)
def test_misuse_raises_typed_errors(f, wrt, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_gradients(f, wrt)


def test_a_graph_built_outside_of_f_is_refused() -> None:
    x = leaf(1.0)
    y = x.exp()
    with pytest.raises(GraphError, match="before f was called"):
        check_gradients(lambda: y * 2, [x])


# Awkward users ------------------------------------------------------------------------------------------------------


def test_parameters_of_one_name_are_all_checked_and_one_tensor_once() -> None:
    first, second = nn.mlp([6, 5], dtype=float), nn.mlp([5, 4], dtype=float)
    _, x, y = network()
    loss = lambda: F.cross_entropy(second(first(x).tanh()), y)  # noqa: E731
    report = check_gradients(loss, [*first.parameters(), *second.parameters()])
    assert list(report.parameters) == ["[0] 0.weight", "[1] 0.bias", "[2] 0.weight", "[3] 0.bias"]
    w = leaf(1.0, 2.0)
    report = check_gradients(lambda: (w * w.exp()).sum(), {"encoder": w, "decoder": w})
    assert list(report.parameters) == ["encoder"]
    assert report.ok


def test_f_may_be_the_parameter_itself() -> None:
    w = leaf(1.0, 2.0)
    assert check_gradients(lambda: w, [w]).ok


def test_empty_arrays_are_no_trouble() -> None:
    w, nothing = leaf(1.0, 2.0), Tensor(np.zeros((0, 3)), requires_grad=True)
    report = check_gradients(lambda: np.concatenate([w[:0], w]).exp().sum() + nothing.sum(), {"w": w, "n": nothing})
    assert report.ok
    assert report.parameters["n"].counts == {}


@pytest.mark.parametrize("options", [{"entries": 0}, {"entries": -3}, {"entries": "some"}, {"order": 3}])
def test_settings_are_checked(options: dict) -> None:
    w = leaf(1.0)
    with pytest.raises(ConfigError, match=next(iter(options))):
        check_gradients(lambda: w.exp(), [w], **options)


def test_f_must_be_a_function() -> None:
    w = leaf(1.0)
    with pytest.raises(ConfigError, match="f must be a function"):
        check_gradients(w.exp(), [w])


def test_values_changed_outside_of_the_graph_are_refused() -> None:
    w = leaf(1.0, -2.0)

    def in_place() -> Tensor:
        s = w * 3
        s.data[s.data < 0] = 0
        return s.exp().sum()

    def at_the_end() -> Tensor:
        s = w * 3
        s.data = np.maximum(s.data, 0)
        return s

    def before_use() -> Tensor:
        with tg.no_grad():
            w[...] = 0.9 * w
        return w.exp().sum()

    for f in (in_place, at_the_end, before_use):
        with pytest.raises(GraphError, match="outside of the graph"):
            check_gradients(f, [w])
        assert w.tolist() == [1.0, -2.0]


def test_a_step_after_the_loss_does_not_matter() -> None:
    w = leaf(1.0, -2.0)

    def step() -> Tensor:
        loss = w.exp().sum()
        loss.backward()
        with tg.no_grad():
            w[...] = w - 0.1 * w.grad
        return loss

    assert check_gradients(step, [w]).ok
    assert w.tolist() == [1.0, -2.0]
    assert w.grad is None


def test_a_loss_that_overflows_in_its_own_precision_is_not_finite() -> None:
    x = Tensor(np.array([90.0], np.float32), requires_grad=True)
    with np.errstate(over="ignore"), pytest.raises(GraphError, match="not finite"):
        check_gradients(lambda: x.exp().sum(), [x])


def masked(s: Tensor) -> Tensor:
    return s * (s.data > 0).astype(s.dtype)


@pytest.mark.parametrize("activation", [masked, lambda s: np.where(s > 0, s, 0 * s), Tensor.relu])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masks_made_of_values_are_no_hidden_dependence(activation, dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, y = Tensor(rng.standard_normal((50, 20)).astype(dtype)), rng.integers(0, 10, 50)
    first, second = (Tensor((0.2 * rng.standard_normal(s)).astype(dtype), True) for s in ((100, 20), (10, 100)))
    loss = lambda: F.cross_entropy(activation(x @ first.T) @ second.T, y)  # noqa: E731
    for order in (1, 2):
        report = check_gradients(loss, {"first": first, "second": second}, entries=5, order=order)
        assert report.ok, report


def test_what_is_hidden_is_named_with_the_op_that_uses_it() -> None:
    w = leaf(1.0, 2.0)
    report = check_gradients(lambda: (w.exp() * 3 * w.detach()).sum(), {"w": w})
    assert str(report.blame).startswith("not recorded w: multiply #2 uses it as a constant")


# Rules of one's own -------------------------------------------------------------------------------------------------


def own(forward, rule, name: str):
    """An op of one's own under any name."""
    forward.__name__ = name
    made = tg.custom_op(forward)
    made.gradient(rule)
    return made


def pattern_of(op, x: Tensor, **settings) -> str:
    report = check_gradients(lambda: op(x, **settings), [x])
    assert not report.ok
    assert report.blame is not None
    return report.blame.pattern


SCORES = Tensor(RNG.standard_normal((6, 4)), requires_grad=True)
LABELS = RNG.integers(0, 4, 6)


def standardise(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def through_standardise(g, x, eps=1e-5, variance=1.0):
    inv_std = 1 / np.sqrt(x.var(0) + eps)
    x_hat = (x - x.mean(0)) * inv_std
    return inv_std * (g - g.mean(0) - variance * x_hat * (g * x_hat).mean(0))


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("name", ["batch_norm", "normalised"])
def test_a_batch_norm_of_ones_own(name: str) -> None:
    rule = lambda g, out, x: (through_standardise(g, x, variance=0),)  # noqa: E731
    assert pattern_of(own(lambda x: standardise(x), rule, name), SCORES) == "variance path missing"
    columns = own(lambda x: standardise(x.T).T, lambda g, out, x: (through_standardise(g.T, x.T, variance=0).T,), name)
    assert pattern_of(columns, SCORES) == "variance path missing"
    eps = own(lambda x: standardise(x), lambda g, out, x: (through_standardise(g, x, eps=0),), name)
    assert pattern_of(eps, SCORES) == "eps missing: 1 / sqrt(var) in the place of 1 / sqrt(var + eps)"
    eps = own(lambda x: standardise(x), lambda g, out, x: (through_standardise(g, x, eps=1e-4),), name)
    assert pattern_of(eps, SCORES).startswith("no known pattern"), "nearly right fits no pattern by being nearly right"
    std = own(lambda x: standardise(x), lambda g, out, x: (through_standardise(g, x) * x.std(0),), name)
    assert pattern_of(std, SCORES).startswith("a factor of its own for each column: from")


@pytest.mark.parametrize("name", ["softmax", "probabilities"])
def test_a_softmax_of_ones_own(name: str) -> None:
    op = own(lambda x: softmax(x), lambda g, out, x: (g * out,), name)
    assert pattern_of(op, SCORES) == "path through the sum missing"
    op = own(lambda x: softmax(x), lambda g, out, x: (g * out * (1 - out),), name)
    assert pattern_of(op, SCORES) == "cross terms missing"


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "loss"])
@pytest.mark.parametrize(
    ("wrong", "pattern"),
    [
        (lambda p, y: p / len(p), "labels' term missing"),
        (lambda p, y: (p - np.roll(y, 1, 1)) / len(p), "label off by one"),
        (lambda p, y: p - y, "factor n: 1/n is missing"),
    ],
)
def test_a_cross_entropy_of_ones_own(name: str, wrong, pattern: str) -> None:
    def forward(scores, *, y):
        total = 0.0
        for row, label in zip(scores, y, strict=True):
            total += float(np.logaddexp.reduce(row) - row[label])  # no complex numbers go through this
        return np.float64(total / len(y))

    op = own(forward, lambda g, out, s, y: (g * wrong(softmax(s), np.eye(4)[y]),), name)
    assert pattern_of(op, SCORES, y=LABELS) == pattern


@pytest.mark.parametrize("axis", [None, (0, 1), "rows"])
def test_an_axis_may_be_anything(axis) -> None:
    op = own(lambda x, *, axis: x.sum(), lambda g, out, x, axis: (g * np.arange(24.0).reshape(6, 4),), "total")
    assert pattern_of(op, SCORES, axis=axis).startswith("no known pattern")


def test_gammas_gradient_is_blamed_where_x_is_constant() -> None:
    gamma, beta = leaf(1.0, 2.0, 3.0, 4.0), leaf(0.0, 0.0, 0.0, 0.0)
    with installed(wrong("batch_norm", "gamma's gradient not standardised")):
        report = check_gradients(lambda: OPS["batch_norm"](SCORES.data, gamma, beta), [gamma, beta])
    assert report.blame is not None
    assert (report.blame.op, report.blame.input) == ("batch_norm", "gamma")


def test_a_factor_is_named_beside_kinks() -> None:
    """At a kink there is no one right number, so it is left out of what names the cause."""
    with installed(WrongRule("twice", "relu", lambda g, out, x: (2 * g * (out > 0),))):
        assert pattern_of(OPS["relu"], leaf(0.0, 1.0, -2.0, 3.0)) == "factor 2"


def test_two_samples_make_a_factor_of_2_ambiguous() -> None:
    op = own(lambda x: np.exp(x), lambda g, out, x: (2 * g * out,), "twice")
    assert pattern_of(op, SCORES) == "factor 2"
    assert pattern_of(op, Tensor(SCORES.data[:2], requires_grad=True)) == "factor 2, which may be n: n is 2 here"


def test_rounding_to_float32_is_named() -> None:
    op = own(lambda x: np.exp(x), lambda g, out, x: ((g * out).astype(np.float32).astype(float),), "rounded")
    assert pattern_of(op, SCORES).endswith("rounded to float32?")


def test_an_op_that_knows_one_precision_is_told_in_which_it_is_checked() -> None:
    def doubled(x):
        out = np.zeros(x.shape, np.float32)
        out[...] = 2 * x
        return out

    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    assert "Checks compute in float64" in pattern_of(own(doubled, lambda g, out, x: (2 * g,), "doubled"), x)


def overwrite_x(g, out, x):
    x[x > 0] = 1
    x[x <= 0] = 0
    return (g * x,)


def overwrite_g(g, out, x):
    g[x <= 0] = 0
    return (g,)


def overwrite_out(g, out, x):
    out[out > 0] = 1
    return (g * out,)


@pytest.mark.parametrize("rule", [overwrite_x, overwrite_g, overwrite_out])
def test_rules_that_write_to_what_they_are_given_are_blamed_alone(rule) -> None:
    op = own(lambda x: np.maximum(x, 0), rule, "mask")
    w = Tensor(RNG.standard_normal((4, 4)), requires_grad=True)
    report = check_gradients(lambda: op(F.sigmoid(SCORES @ w) - 0.5), {"s": SCORES, "w": w})
    assert [fault.op for fault in report.faults] == ["mask"]
    assert "in place" in report.faults[0].pattern


def test_what_draws_in_its_forward_or_keeps_what_was_given_is_told_so() -> None:
    rng = np.random.default_rng(0)
    kept = {}

    def dropped(x):
        kept["mask"] = (rng.random(x.shape) < 0.5) / 0.5
        return x * kept["mask"]

    assert "its forward draws at random" in pattern_of(own(dropped, lambda g, out, x: (g * kept["mask"],), "d"), SCORES)

    def square(x):
        kept["x"] = x
        return x * x

    op = own(square, lambda g, out, x: (2 * g * kept["x"],), "square")
    assert check_gradients(lambda: op(SCORES), [SCORES]).ok, "alone it is right"
    for entries in ("all", "directions"):
        report = check_gradients(lambda: op(op(SCORES)), [SCORES], entries=entries)
        assert "what another call left behind" in report.headline


RIGHT = {
    "relu": own(lambda x: np.maximum(x, 0), lambda g, out, x: (g * (x > 0),), "relu"),
    "clipped": own(lambda x: np.clip(x, -1, 1), lambda g, out, x: (g * ((x > -1) & (x < 1)),), "clipped"),
    "softmax": own(lambda x: softmax(x), lambda g, out, x: (out * (g - (g * out).sum(1, keepdims=True)),), "softmax"),
    "std": own(lambda x: x.std(0), lambda g, out, x: (g * (x - x.mean(0)) / (len(x) * out),), "std"),
    "logarithm": own(lambda x: np.log(x), lambda g, out, x: (g / x,), "logarithm"),
}


@pytest.mark.parametrize("seed", [2, 25, 27, 33, 37])
def test_kinks_that_meet_in_several_ops_of_ones_own(seed: int) -> None:
    """One may have the name of a built-in op, and then its kinks are known, but those of the other are not."""
    rng, relu = np.random.default_rng(seed), RIGHT["relu"]
    x, w = np.round(rng.standard_normal((4, 2))), Tensor(np.round(rng.standard_normal((2, 3))), requires_grad=True)
    report = check_gradients(lambda: RIGHT["clipped"](relu(x @ w) - relu(-(x @ w))), [w])
    assert report.blame is None, report


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("op", "x"),
    [
        ("softmax", [[-85.9, 4.1, 27.1, -123.9], [-19.2, -21.8, -21.8, 29.0]]),  # 1e-49 beside 1
        ("softmax", [[-3.2, 33.8, -1.2, 3.4, -47.7]] * 3),  # equal rows
        ("softmax", [[-16.5, 11.0, 0.7, -12.8, -24.3]] * 4),
        ("std", 1e6 + np.random.default_rng(1).standard_normal((5, 4))),
        ("logarithm", [1e-9, 1e-9, 1e3, 1.0]),  # a pole near by, and equal numbers
    ],
)
def test_what_rounding_hides_is_not_wrong(op: str, x: object, seed: int) -> None:
    t = Tensor(np.array(x), requires_grad=True)
    report = check_gradients(lambda: RIGHT[op](t), [t], seed=seed)
    assert report.blame is None, report


# Numbers as they are shown ------------------------------------------------------------------------------------------


def test_inf_and_nan_are_shown_without_a_warning() -> None:
    with installed(WrongRule("inf", "exp", lambda g, out, x: (g * out * np.array([np.inf, 1.0]),))):
        report = check_gradients(lambda: SCORES[0, :2].exp(), [SCORES])
    assert "nan" in str(report)
    found = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert found["parameters"]["[0]"]["metrics"]["max_relative"] == "nan"


def test_a_small_share_is_not_rounded_to_nothing() -> None:
    x = Tensor(np.r_[-1.0, np.ones(999)], requires_grad=True)
    assert "; 0.1 % of 1000 entries prove nothing" in check_gradients(lambda: x.relu().sum(), [x]).headline


def test_zeros_have_no_sign_and_a_single_result_no_weight() -> None:
    x = leaf(0.0, 1.0)
    assert "slopes 0 to the left, 1 to the right" in str(check_gradients(lambda: x.relu().sum(keepdims=True), [x]))
    report = check_gradients(lambda: (x * 3).sum(keepdims=True), [x])
    np.testing.assert_allclose(report.parameters["[0]"].analytic, 3)
    assert "weighted" not in str(report)
    assert "weighted with random numbers" in str(check_gradients(lambda: x * 3, [x]))


# Reports ------------------------------------------------------------------------------------------------------------


def test_reports_in_every_form() -> None:
    rich = pytest.importorskip("rich.console")
    report = check(*network(batch_norm=True))
    assert str(report).startswith("gradients agree in")
    assert "| 0.bias | (5,) | zero |" in report.to_markdown()
    found = json.loads(report.to_json())
    assert found["ok"]
    assert found["parameters"]["0.weight"]["metrics"]["allclose"]
    assert "<table>" in report._repr_html_()
    assert repr(report) == str(report), "at the prompt, a table and not the arrays behind it"
    printed = io.StringIO()
    rich.Console(width=80, file=printed).print(report)
    for row in (p.row() for p in report.parameters.values()):
        assert all(row[i] in printed.getvalue() for i in (0, 2, 5, 6)), "whole numbers, in a narrow terminal too"


def test_the_table_of_the_documents() -> None:
    model, x, y = network()
    comparison = compare_methods(lambda: F.cross_entropy(model(x), y), model, h=1e-6)
    rows = {(r["parameter"], r["pair"]): r for r in comparison.statistics()}
    assert rows["0.weight", "ANL-CDM"]["absolute max"] < 1e-8
    assert rows["0.weight", "ANL-FDM"]["absolute max"] < 1e-5
    assert rows["0.weight", "ANL-CDM"]["absolute max"] < rows["0.weight", "ANL-FDM"]["absolute max"]
    assert "| 0.weight | CDM-FDM |" in str(comparison)


def test_rounding_far_from_the_point_is_no_error_of_the_rule() -> None:
    """cube'(2.4e-27) is 1.7e-53; the differences that a numeric slope needs round at 1e-31."""

    @tg.custom_op
    def cube(x):
        return x**3

    @cube.gradient
    def cube_gradient(g, out, x):
        return (3 * g * x**2,)

    x = tg.Tensor([1.0, 2.4e-27], requires_grad=True)
    assert tg.check_gradients(lambda: cube(x), [x]).ok
