"""The hand-derived gradients against backpropagation, and what check_formula says of wrong ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinygrad_cifar import Tensor, grad, nn, random
from tinygrad_cifar.errors import ConfigError, ShapeError
from tinygrad_cifar.gradcheck import check_formula, formulas
from tinygrad_cifar.gradcheck.faults import FAULTS, replaced_rule
from tinygrad_cifar.gradcheck.formula_check import document_names

N = 7
X = np.random.default_rng(0).standard_normal((N, 6))
Y = np.random.default_rng(1).integers(0, 4, N)

NETWORKS: dict[Callable[..., Any], dict[str, Any]] = {
    formulas.softmax_classifier: {"sizes": [6, 4]},
    formulas.two_layers: {"sizes": [6, 5, 4]},
    formulas.k_layers: {"sizes": [6, 5, 5, 3, 4]},
    formulas.batch_norm_layers: {"sizes": [6, 5, 5, 4], "batch_norm": True},
    formulas.sigmoid_layers: {"sizes": [6, 5, 5, 4], "activation": "sigmoid"},
}


def network(formula: Callable[..., Any]) -> nn.Sequential:
    """With every parameter away from where it starts: biases of 0 and gammas of 1 would hide mistakes."""
    model = nn.mlp(**NETWORKS[formula])
    rng = np.random.default_rng(3)
    for parameter in model.parameters():
        parameter.data += 0.2 * rng.standard_normal(parameter.shape).astype(parameter.dtype)
    return model


def by_backprop(model: nn.Module, x: Any, y: Any, op: str, mistake: str, only: int | None = None) -> dict[str, Any]:
    """The gradients of one who makes a classic mistake: in every layer, or in one, counted from the last."""
    parameters = document_names(model)
    with replaced_rule(op, FAULTS[op][mistake], only):
        found = grad(nn.F.cross_entropy(model(Tensor(x)), y), list(parameters.values()))
    return {name: g.data for name, g in zip(parameters, found, strict=True)}


@pytest.mark.parametrize("convention", ["sum", "half"])
@pytest.mark.parametrize("formula", NETWORKS)
def test_the_formulas_are_right(formula: Any, convention: Any) -> None:
    report = check_formula(formula, network(formula), X, Y, lam=0.1, convention=convention)
    assert report.ok, report
    assert report.backprop.ok
    assert report.headline == "all three agree"
    assert {v.wrong for v in report.parameters.values()} == {""}


def test_layers_without_biases_have_only_weights() -> None:
    assert list(document_names(nn.mlp([6, 5, 4], bias=False))) == ["W1", "W2"]


def test_the_network_and_the_random_streams_stay_as_they_were() -> None:
    model = network(formulas.batch_norm_layers)
    before, number = model.state_dict(), random.stream("dropout").bit_generator.state

    def draws(x: Any, y: Any, parameters: Any) -> Any:
        random.stream("dropout").random()
        for array in parameters.values():
            array += 1  # a careless student: these are copies
        return {name: np.zeros_like(array) for name, array in parameters.items()}

    check_formula(draws, model, X, Y)
    assert random.stream("dropout").bit_generator.state == number
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def edited(edit: Callable[[str, Any, Any, float], Any]) -> Callable[..., Any]:
    """The formula of k layers with each gradient edited: ``edit(name, gradient, parameter, lam)``."""

    def compute_gradients(x: Any, y: Any, parameters: Any, lam: float) -> Any:
        found = formulas.k_layers(x, y, parameters, lam)
        return {name: edit(name, g, parameters[name], lam) for name, g in found.items()}

    return compute_gradients


def weight(name: str) -> bool:
    return name.startswith("W")


@pytest.mark.parametrize(
    ("edit", "term", "layer"),
    [
        (lambda name, g, p, lam: g - 2 * lam * p if weight(name) else g, "L2 term missing: the difference is 2λW", 4),
        (lambda name, g, p, lam: g - lam * p if weight(name) else g, "λW in the place of 2λW", 4),
        (lambda name, g, p, lam: g - 4 * lam * p if weight(name) else g, "sign of the L2 term", 4),
        (lambda name, g, p, lam: g - 2 * lam * p * (1 - 1 / N) if weight(name) else g, "L2 term divided by n", 4),
        (lambda name, g, p, lam: g if weight(name) else g + 2 * lam * p, "only weights have one", 4),
        (lambda name, g, p, lam: N * g, "1/n missing", 4),
        (lambda name, g, p, lam: -g, "sign", 4),
        (lambda name, g, p, lam: 2 * g if name == "W2" else g, "factor 2", 2),
        (lambda name, g, p, lam: g.T if name == "W3" else g, "transposed", 3),
        (lambda name, g, p, lam: g.T if name == "W2" else g, "transposed", 2),  # square: only its values tell
        (lambda name, g, p, lam: 0 * g if name == "b1" else g, "missing: all zeros", 1),
        (lambda name, g, p, lam: g * np.nan if name == "b1" else g, "inf or nan", 1),
        (lambda name, g, p, lam: g + 0.1 if name == "W1" else g, "no known mistake", 1),
    ],
)
def test_it_names_the_term_and_the_layer(edit: Any, term: str, layer: int) -> None:
    report = check_formula(edited(edit), network(formulas.k_layers), X, Y, lam=0.1)
    assert not report.ok
    assert report.first is not None
    assert term in report.first.term, report
    below = [v for v in report.parameters.values() if int(v.name[-1]) < layer]
    alone = below and not any(v.wrong for v in below)
    assert (f"wrong in layer {layer}" if alone else f"wrong from layer {layer} on") in report.headline
    assert report.backprop.ok


@pytest.mark.parametrize("sizes", [(6, 3, 2), (6, 2, 3), (6, 1, 3)])
def test_one_or_two_numbers_are_not_explained_by_made_up_terms(sizes: tuple[int, ...]) -> None:
    model, rng = nn.mlp(sizes, dtype=float), np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    nonsense = edited(lambda name, g, p, lam: g + np.arange(g.size) + 0.1 if g.size <= 2 else g)
    found = [v for v in check_formula(nonsense, model, X, Y % sizes[-1]).parameters.values() if v.wrong]
    assert found
    assert {v.term for v in found} == {"no known mistake explains it"}


@pytest.mark.parametrize(
    ("sizes", "n", "options"), [((6, 5, 2), 7, {}), ((6, 2, 3), 4, {}), ((6, 5, 5, 4), 3, {"batch_norm": True})]
)
def test_what_is_said_names_the_mistake_that_was_made(sizes: tuple[int, ...], n: int, options: dict[str, Any]) -> None:
    """Two classes, two units, few images: what cannot be told apart there is named side by side."""
    model, rng = nn.mlp(sizes, dtype=float, **options), np.random.default_rng(5)
    for parameter in model.parameters():
        parameter.data += 0.2 * rng.standard_normal(parameter.shape)
    x, y = rng.standard_normal((n, 6)), rng.integers(0, sizes[-1], n)
    for op in ("relu", "softmax_cross_entropy", *(["batch_norm"] if options else [])):
        for text in FAULTS[op]:
            theirs = by_backprop(model, x, y, op, text)
            report = check_formula(lambda x, y, parameters, theirs=theirs: theirs, model, x, y)
            terms = {v.term for v in report.parameters.values() if v.wrong}
            assert len(terms) == 1, report
            assert text in terms.pop(), report


FORMULA_OF = {
    "batch_norm": formulas.batch_norm_layers,
    "relu": formulas.k_layers,
    "sigmoid": formulas.sigmoid_layers,
    "softmax_cross_entropy": formulas.k_layers,
}


@pytest.mark.parametrize(("op", "mistake"), [(op, mistake) for op in FORMULA_OF for mistake in FAULTS[op]])
def test_it_knows_the_classic_mistakes(op: str, mistake: str) -> None:
    """A student who makes a mistake in every layer gets its name."""
    model = network(FORMULA_OF[op]).astype(np.float64)

    report = check_formula(lambda x, y, parameters: by_backprop(model, x, y, op, mistake), model, X, Y)
    assert report.first is not None
    assert report.first.term == mistake, report


def test_two_images_do_not_confuse_n_with_2() -> None:
    """n / (n - 1), n and 2 are one number then; the penalty's convention is the likelier half."""
    terms = {}
    for n in (2, N):
        for name, edit in {"all": lambda name, g, p, lam: 2 * g,
                           "decay": lambda name, g, p, lam: g - lam * p if weight(name) else g}.items():  # fmt: skip
            report = check_formula(edited(edit), network(formulas.k_layers), X[:n], Y[:n], lam=0.1)
            assert report.first is not None
            terms[name, n] = report.first.term
    assert terms == {
        ("all", N): "factor 2", ("all", 2): "factor 2, or 1/n missing (n = 2)",
        ("decay", N): "L2 term: λW in the place of 2λW", ("decay", 2): "L2 term: λW in the place of 2λW",
    }  # fmt: skip


def test_a_factor_that_two_mistakes_make_is_put_down_to_both() -> None:
    """Four classes: divided by n - 1 and by the classes are one with five images."""
    terms = {}
    for n in (5, N):
        scaled = edited(lambda name, g, p, lam, n=n: g * n / 4)
        report = check_formula(scaled, network(formulas.k_layers), X[:n], Y[:n])
        terms[n] = {v.term for v in report.parameters.values()}
    assert terms == {
        5: {"n - 1 for n, or divided by the 4 classes, not the 5 images"},
        N: {f"divided by the 4 classes, not the {N} images"},
    }


def test_settings_reach_a_function_that_takes_any() -> None:
    def any_settings(x: Any, y: Any, parameters: Any, **settings: Any) -> Any:
        return formulas.k_layers(x, y, parameters, **settings)

    assert check_formula(any_settings, network(formulas.k_layers), X, Y, lam=0.1).ok


def test_a_mistake_in_one_layer_only() -> None:
    model = network(formulas.k_layers).astype(np.float64)
    theirs = by_backprop(model, X, Y, "relu", "ReLU's mask [h > 0] missing", only=2)
    report = check_formula(lambda x, y, parameters: theirs, model, X, Y)
    assert [v.name for v in report.parameters.values() if v.wrong] == ["b1", "W1"]
    assert report.first is not None
    assert report.first.term == "ReLU's mask [h > 0] missing, in layer 1"
    assert report.headline.endswith("layers 2 to 4 are right")


def test_backprop_can_be_the_one_that_is_wrong() -> None:
    with replaced_rule("relu", FAULTS["relu"]["ReLU's mask [h > 0] missing"]):
        report = check_formula(formulas.k_layers, network(formulas.k_layers), X, Y)
    assert report.ok, report
    assert "backprop is wrong" in report.headline
    assert report.parameters["W4"].wrong == ""
    assert report.parameters["W1"].verdict == "backprop is wrong"


def test_column_vectors_are_no_mistake() -> None:
    formula = edited(lambda name, g, p, lam: g if weight(name) else g[:, None])
    assert check_formula(formula, network(formulas.k_layers), X, Y).ok


def test_what_is_not_an_answer_is_an_error() -> None:
    model = network(formulas.two_layers)
    with pytest.raises(ConfigError, match=r"must return \{name: gradient\}"):
        check_formula(lambda x, y, parameters: [1.0], model, X, Y)
    with pytest.raises(ConfigError, match="lacks W1, W2, b2"):
        check_formula(lambda x, y, parameters: {"b1": parameters["b1"]}, model, X, Y)
    with pytest.raises(ShapeError, match="gradient of W1 has shape"):
        check_formula(lambda x, y, p: {**p, "W1": np.zeros((2, 2))}, model, X, Y)
    with pytest.raises(ConfigError, match="drops units at random"):
        check_formula(formulas.two_layers, nn.mlp([6, 5, 4], dropout=0.5), X, Y)


def test_the_report_is_a_table() -> None:
    report = check_formula(edited(lambda name, g, p, lam: -g), network(formulas.k_layers), X, Y)
    lines = report.to_markdown().splitlines()
    assert lines[0].startswith("**your formula is wrong from layer 4 on")
    assert lines[2].startswith("| parameter | verdict | worst entry | yours | backprop | numeric")
    assert len(lines) == 4 + len(report.parameters)
    assert str(report).startswith(report.headline)
