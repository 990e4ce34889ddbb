"""The verdicts, the options, what is refused, and how a report looks."""

import functools
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

import tinygrad_cifar as tg
from tests.gradcheck.cases import check, leaf, network, own, softmax
from tinygrad_cifar import Tensor, gradcheck, nn
from tinygrad_cifar.errors import ConfigError, GraphError
from tinygrad_cifar.gradcheck import check_gradients
from tinygrad_cifar.gradcheck.faults import replaced_rule
from tinygrad_cifar.nn import F


def test_the_order_of_reading_names_every_file() -> None:
    files = {path.stem for path in Path(gradcheck.__file__).parent.glob("*.py")} - {"__init__"}
    listed = re.findall(r"^    (\S.*?)  ", gradcheck.__doc__, re.MULTILINE)
    assert sorted(", ".join(listed).split(", ")) == sorted(files)


# Verdicts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "softplus"])
def test_correct_networks_agree(dtype: type, activation: str) -> None:
    model, x, y = network((6, 5, 5, 4), dtype=dtype, activation=activation, batch_norm=True, dropout=0.2)
    report = check_gradients(lambda: F.cross_entropy(model(x), y) + nn.l2_penalty(model, 0.1), model)
    assert report.ok, report
    assert report.parameters["0.weight"].verdict == "agree"


def test_a_bias_before_batch_norm_is_zero_for_a_reason() -> None:
    report = check(*network(batch_norm=True))
    assert report.parameters["0.bias"].verdict == "zero"
    (reason,) = report.parameters["0.bias"].reasons
    assert reason.startswith("5 × batch_norm #1: batch norm removes a constant shift: exactly zero by translation")
    assert reason.endswith(", so bias=False would do"), "which makes no sense for a weight"


def test_a_kink_is_named_and_bracketed() -> None:
    x = leaf(0.0, 1.0, -2.0)
    report = tg.check_gradients(lambda: x.relu(), {"x": x})
    assert report.ok
    assert report.parameters["x"].verdict == "kink"
    assert report.parameters["x"].counts == {"agree": 1, "zero": 1, "kink": 1}
    assert "relu #1 entry [0] flips" in str(report)


def test_a_kink_names_unit_and_sample() -> None:
    model, x, y = network()
    for _ in range(3):  # until it is 0 exactly
        model[0].bias.data[3] -= model[0](x).data[2, 3]
    report = check(model, x, y)
    assert report.ok, report
    assert report.parameters["0.bias"].counts["kink"] == 1
    assert "relu #1 unit 3 flips for sample 2" in str(report)


def test_a_value_outside_of_the_one_sided_slopes_is_wrong() -> None:
    x = leaf(0.0, 1.0)
    with replaced_rule("relu", lambda g, out, x: (g * np.where(out == 0, 2.0, 1.0),)):
        report = check_gradients(lambda: x.relu(), [x])
    assert report.blame is not None
    assert report.blame.op == "relu"


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8])
def test_small_slopes_do_not_hide_an_error(scale: float) -> None:
    x = leaf(0.5, -1.0)
    with replaced_rule("exp", lambda g, out, x: (g * out * np.array([1.0, 1 + 1e-6]),)):
        report = check_gradients(lambda: (x.exp() * scale).sum(), [x])
    assert report.parameters["[0]"].counts == {"agree": 1, "wrong": 1}
    assert not report.ok


def test_a_check_that_proves_nothing_is_no_success() -> None:
    x = leaf(-1.0, -2.0)
    report = check_gradients(lambda: x.relu().sum(), [x])
    assert not report.ok
    assert report.headline.startswith("NOTHING PROVEN")


def test_unresolved_says_what_would_resolve_it() -> None:
    drowned = own(lambda x: 1e9 + 1e-9 * np.sin(x), lambda g, out, x: (1e-9 * g * np.cos(x),))
    x = leaf(1.0, 2.0)
    for f in (lambda: drowned(x), lambda: (drowned(x) - 1e9).sum()):  # whatever the size of the result
        report = check_gradients(f, [x])
        assert report.parameters["[0]"].verdict == "unresolved"
        assert "rounding moves the result by up to" in str(report)
        assert not report.ok


def test_custom_kinks_are_no_false_alarm() -> None:
    relu6 = own(lambda x: np.minimum(np.maximum(x, 0), 6), lambda g, out, x: (g * (x > 0) * (x < 6),))
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
    op = own(forward, lambda g, out, x: (g * slope(x),))
    t = leaf(*x)
    report = check_gradients(lambda: op(t), [t])
    assert report.blame is None, report
    assert not {"wrong", "unresolved"} & set(report.parameters["[0]"].counts), report
    twice = own(forward, lambda g, out, x: (g * slope(x) + g / abs(x),))
    assert not check_gradients(lambda: twice(t), [t]).ok


RIGHT = {
    "relu": own(lambda x: np.maximum(x, 0), lambda g, out, x: (g * (x > 0),), "relu"),
    "clipped": own(lambda x: np.clip(x, -1, 1), lambda g, out, x: (g * ((x > -1) & (x < 1)),), "clipped"),
    "softmax": own(softmax, lambda g, out, x: (out * (g - (g * out).sum(1, keepdims=True)),), "softmax"),
    "std": own(lambda x: x.std(0), lambda g, out, x: (g * (x - x.mean(0)) / (len(x) * out),), "std"),
    "logarithm": own(lambda x: np.log(x), lambda g, out, x: (g / x,), "logarithm"),
    "cube": own(lambda x: x**3, lambda g, out, x: (3 * g * x**2,), "cube"),
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
        ("cube", [1.0, 2.4e-27]),  # its slope is 1.7e-53; the differences that a numeric one needs round at 1e-31
    ],
)
def test_what_rounding_hides_is_not_wrong(op: str, x: object, seed: int) -> None:
    t = Tensor(np.array(x), requires_grad=True)
    report = check_gradients(lambda: RIGHT[op](t), [t], seed=seed)
    assert report.blame is None, report


# Options ------------------------------------------------------------------------------------------------------------


def test_entries_may_be_sampled_or_replaced_by_directions() -> None:
    model, x, y = network((30, 20, 4))
    assert len(check(model, x, y, entries=7).parameters["0.weight"].analytic) == 7
    report = check(model, x, y, entries="directions")
    assert report.ok
    assert len(report.parameters["0.weight"].analytic) == 8
    assert "[direction, " in str(report)
    with replaced_rule("linear", lambda g, out, x, weight, bias: (g @ weight, 2 * g.T @ x, g.sum(0))):
        assert not check(model, x, y, entries="directions").ok


def test_second_order() -> None:
    model, x, y = network(batch_norm=True, activation="tanh")
    report = check(model, x, y, order=2)
    assert report.ok, report
    assert report.headline.startswith("second derivatives agree in")


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


def test_whatever_f_refers_to_is_put_back() -> None:
    w, rng, numbers = leaf(1.0, 2.0), np.random.default_rng(0), [Tensor([1.0]), np.random.default_rng(1)]

    def f(kept: list, counter: Tensor) -> Tensor:
        with tg.no_grad():
            counter[...] = counter + 1
            kept[0][...] = 2 * kept[0]
        return (w * (rng.random(2) + kept[1].random(2) + np.random.random(2))).sum()

    counter, legacy = Tensor([0.0]), np.random.get_state()[1].copy()
    assert check_gradients(functools.partial(f, numbers, counter=counter), [w]).ok
    assert (counter.item(), numbers[0].item()) == (0, 1)
    assert (rng.random(), numbers[1].random()) == tuple(np.random.default_rng(seed).random() for seed in (0, 1))
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)


W = leaf(1.0)
BEFORE = W.exp()


@pytest.mark.parametrize(
    ("f", "wrt", "options", "error", "text"),
    [
        (BEFORE, W, {}, ConfigError, "f must be a function"),
        (lambda: 3.0, W, {}, GraphError, "f must return a Tensor, not float"),
        (lambda: BEFORE * 2, W, {}, GraphError, "computed before f was called"),
        (W.exp, {}, {}, ConfigError, "wrt names no tensor that requires a gradient"),
        (W.exp, None, {}, ConfigError, "or {name: Tensor}, not a NoneType"),
        (W.exp, [Tensor([1.0])], {}, ConfigError, r"\[0\] must be a leaf Tensor with requires_grad=True"),
        (W.exp, W, {"entries": 0}, ConfigError, "entries is 'all', 'directions' or a number above 0, not 0"),
        (W.exp, W, {"entries": -3}, ConfigError, "entries .* not -3"),
        (W.exp, W, {"entries": "some"}, ConfigError, "entries .* not 'some'"),
        (W.exp, W, {"order": 3}, ConfigError, "order is 1 or 2, not 3"),
    ],
)
def test_misuse_raises_typed_errors(f, wrt, options: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        check_gradients(f, wrt, **options)


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
    assert "n          (0, 3)  zero" in str(report)
    assert json.loads(report.to_json())["parameters"]["n"]["worst"] is None


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


# Numbers as they are shown ------------------------------------------------------------------------------------------


def test_inf_and_nan_are_shown_without_a_warning() -> None:
    x = leaf(0.5, -1.0)
    with replaced_rule("exp", lambda g, out, x: (g * out * np.array([np.inf, 1.0]),)):
        report = check_gradients(lambda: x.exp(), [x])
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
