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
from tinygrad_cifar.operators import unwrap

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
    assert "scale it up" in str(report)
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
        ("linear", "bias: first row", "bias", "missing broadcast sum: only one sample counts"),
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
    rich.Console(width=120, file=printed).print(report)
    assert "0.weight" in printed.getvalue()


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
