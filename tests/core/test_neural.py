"""Activations and losses at the ends of the number line and at their kinks; the matrix products in every shape."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_cifar as tg
from tests.core.agree import assert_close
from tests.core.samples import einsums, products
from tinygrad_cifar import Tensor
from tinygrad_cifar.operators import OPS

EXTREMES = [-1e4, -1000.0, -745.0, -100.0, -30.0, -1.0, -1e-8, 0.0, 1e-8, 1.0, 30.0, 100.0, 709.0, 1000.0, 1e4]


def value_and_gradient(name: str, *inputs: Any, dtype: Any = np.float64, **kwargs: Any) -> list[Any]:
    xs = [Tensor(np.array(x, dtype), requires_grad=True) for x in inputs]
    y = OPS[name](*xs, **kwargs)
    y.backward(np.ones(y.shape, dtype))
    return [y.data, *(x.grad.data for x in xs)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "erf", "gelu", "relu", "leaky_relu"])
def test_activations_are_stable(name: str, dtype: Any, in_torch: Any, torch: Any) -> None:
    """Without a warning, for they are errors here, and finite."""
    x = np.array(EXTREMES, dtype)
    y, g = value_and_gradient(name, x, dtype=dtype)
    assert np.isfinite(y).all()
    assert np.isfinite(g).all()
    t = torch.tensor(x.astype(float), requires_grad=True)
    expected = in_torch.apply(name, t)
    slope = torch.autograd.grad(expected.sum(), t)[0]
    tolerance = 1e-15 if dtype == np.float64 else 2e-7
    for ours, theirs in [(y, expected.detach().numpy()), (g, slope.numpy())]:
        np.testing.assert_allclose(ours, theirs, rtol=8 * tolerance, atol=4 * tolerance)


def test_sigmoid_is_accurate_where_it_is_small() -> None:
    y, g = value_and_gradient("sigmoid", [-700.0, -40.0, -20.0])
    np.testing.assert_allclose(y, np.exp([-700.0, -40.0, -20.0]), rtol=1e-8)
    np.testing.assert_allclose(g, y, rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_and_its_logarithm_are_stable(dtype: Any, torch: Any) -> None:
    x = np.array([[1e4, -1e4, 0], [1e4, 1e4, 1e4], [-1e4, -1e4 + 1, -1e4], [0, 1, 2]], dtype)
    for name in ("softmax", "log_softmax"):
        y, g = value_and_gradient(name, x, dtype=dtype)
        t = torch.tensor(x.astype(float), requires_grad=True)
        expected = getattr(t, name)(-1)
        assert_close(y, expected.detach(), 1e-6 if dtype == np.float32 else 1e-15)
        assert_close(g, torch.autograd.grad(expected.sum(), t)[0], 1e-6 if dtype == np.float32 else 1e-15)
    y, g = value_and_gradient("logsumexp", x, dtype=dtype, axis=1)
    assert_close(y, torch.logsumexp(torch.tensor(x.astype(float)), 1), 1e-7 if dtype == np.float32 else 1e-15)
    assert_close(g, np.asarray(torch.softmax(torch.tensor(x.astype(float)), 1)), 1e-3 if dtype == np.float32 else 1e-11)


def test_logsumexp_with_minus_infinity() -> None:
    """A masked entry counts nothing; all of them masked leave log 0."""
    y, g = value_and_gradient("logsumexp", [[0.0, -np.inf], [1.0, 1.0]], axis=1)
    np.testing.assert_allclose(y, [0, 1 + np.log(2)])
    np.testing.assert_allclose(g, [[1, 0], [0.5, 0.5]])
    with np.errstate(divide="ignore"):
        assert OPS["logsumexp"](Tensor([-np.inf, -np.inf])).item() == -np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e4])
def test_losses_are_stable(scale: float, dtype: Any, torch: Any) -> None:
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(6, 4)) * scale).astype(dtype)
    labels = rng.integers(0, 4, 6)
    t, k = torch.tensor(z.astype(float), requires_grad=True), torch.from_numpy(labels)
    functional = torch.nn.functional
    targets = rng.random((6, 4)).astype(dtype)
    for name, kwargs, expected in [
        ("softmax_cross_entropy", {"labels": labels}, functional.cross_entropy(t, k)),
        ("hinge", {"labels": labels}, functional.multi_margin_loss(t, k)),
        ("hinge", {"labels": labels, "margin": 2.5}, functional.multi_margin_loss(t, k, margin=2.5)),
        (
            "binary_cross_entropy_with_logits",
            {"targets": targets},
            functional.binary_cross_entropy_with_logits(t, torch.from_numpy(targets.astype(float))),
        ),
    ]:
        y, g = value_and_gradient(name, z, dtype=dtype, **kwargs)
        tolerance = 1e-13 if dtype == np.float64 else 1e-6
        assert_close(y, expected.detach(), tolerance)
        assert_close(g, torch.autograd.grad(expected, t)[0], tolerance)
        twin = OPS[name].twin(Tensor(z), **kwargs)
        assert_close(twin, expected.detach(), 10 * tolerance)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("relu", {}), ("abs", {}), ("leaky_relu", {"slope": 0.3}), ("clip", {"min": 0, "max": 1}), ("clip", {"max": 0})],
)
def test_kinks_agree_with_torch(name: str, kwargs: Any, in_torch: Any, torch: Any) -> None:
    x = np.array([-1.0, -0.0, 0.0, 1.0, 2.0])
    _, g = value_and_gradient(name, x, **kwargs)
    t = torch.tensor(x, requires_grad=True)
    np.testing.assert_array_equal(g, torch.autograd.grad(in_torch.apply(name, t, **kwargs).sum(), t)[0])


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_of_two_agree_with_torch(name: str, in_torch: Any) -> None:
    a, b = np.array([1.0, 2.0, 3.0, 0.0]), np.array([1.0, 3.0, 2.0, -0.0])
    _, ga, gb = value_and_gradient(name, a, b)
    ts = in_torch.leaves([a, b])
    expected = in_torch.gradients([in_torch.apply(name, *ts)], ts, [np.ones(4)])
    np.testing.assert_array_equal([ga, gb], [in_torch.numpy(g) for g in expected])


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
def test_ties_of_extremes_agree_with_torch(name: str, axis: Any, in_torch: Any) -> None:
    x = np.array([[1.0, 2.0, 2.0], [2.0, 1.0, 1.0]])
    _, g = value_and_gradient(name, x, axis=axis)
    (t,) = in_torch.leaves([x])
    y = in_torch.apply(name, t, axis=axis)
    expected = in_torch.gradients([y], [t], [np.ones(y.shape)])
    np.testing.assert_allclose(g, in_torch.numpy(expected[0]), rtol=1e-15)


def test_powers_at_zero(torch: Any) -> None:
    for exponent in (0, 1, 2, 3, 0.0, 1.0):
        (t,) = [torch.zeros(2, dtype=torch.float64, requires_grad=True)]
        x = Tensor(np.zeros(2), requires_grad=True)
        for order in (1, 2):
            y, ty = x**exponent, t**exponent
            for _ in range(order):
                (y,) = tg.grad(y, x, np.ones(2), create_graph=True) if y.requires_grad else (Tensor(np.zeros(2)),)
                ty = torch.autograd.grad(ty.sum(), t, create_graph=True)[0] if ty.requires_grad else t.detach() * 0
            np.testing.assert_array_equal(y.data, ty.detach(), err_msg=f"order {order} of x ** {exponent} at 0")
    _, ga, gb = value_and_gradient("power", [0.0, 0.0, 2.0], [2.0, 0.0, 0.0])
    ta, tb = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.0, 0, 2], [2.0, 0, 0]))
    for ours, theirs in zip((ga, gb), torch.autograd.grad((ta**tb).sum(), (ta, tb)), strict=True):
        np.testing.assert_allclose(ours, theirs)


def test_a_negative_number_to_a_power_has_no_slope(torch: Any) -> None:
    x, t = Tensor([2.0, 3.0], requires_grad=True), torch.tensor([2.0, 3.0], requires_grad=True)
    ours, theirs = (-2.0) ** x, (-2.0) ** t
    assert ours.tolist() == theirs.tolist() == [4, -8]
    np.testing.assert_array_equal(tg.grad(ours.sum(), x)[0].data, torch.autograd.grad(theirs.sum(), t)[0])


def test_batch_norm_as_torchs(torch: Any) -> None:
    """Running averages with the unbiased variance, momentum as PyTorch's; nothing moves in the backward pass."""
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.normal(3, 2, (7, 4)), rng.normal(size=4), rng.normal(size=4)
    running = [rng.normal(size=4), rng.random(4)]
    expected = [torch.tensor(r) for r in running]
    settings: dict[str, Any] = {"eps": 1e-3, "momentum": 0.3}
    xs = [Tensor(v, requires_grad=True) for v in (x, gamma, beta)]
    y = OPS["batch_norm"](*xs, running_mean=running[0], running_var=running[1], **settings)
    t = torch.nn.functional.batch_norm(
        torch.from_numpy(x), *expected, torch.from_numpy(gamma), torch.from_numpy(beta), training=True, **settings
    )
    assert_close(y, t, 1e-14)
    for create_graph in (True, False):
        tg.grad(y, xs, np.ones((7, 4)), create_graph)
        for ours, theirs in zip(running, expected, strict=True):
            assert_close(ours, theirs, 1e-14)


def test_batch_norm_far_from_zero_and_of_a_constant_column() -> None:
    x = np.random.default_rng(0).normal(1e6, 1, (50, 2))
    x[:, 1] = 7.0
    y, g, *_ = value_and_gradient("batch_norm", x, np.ones(2), np.zeros(2))
    np.testing.assert_allclose(y[:, 0].std(), 1, rtol=1e-5)
    np.testing.assert_allclose(y[:, 1], 0, atol=1e-9)
    assert np.isfinite(g).all()


def test_dropout_scales_and_zeroes() -> None:
    mask = np.array([[0.0, 2.0], [2.0, 0.0]])
    y, g = value_and_gradient("dropout", [[1.0, 2.0], [3.0, 4.0]], mask=mask)
    assert (y.tolist(), g.tolist()) == ([[0, 4], [6, 0]], mask.tolist())


def test_weights_in_either_memory_order() -> None:
    """nn.Linear keeps (out, in) as the transpose of an (in, out) array; the gradient comes in that order too."""
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    stored = rng.normal(size=(3, 2))
    results = []
    for weight in (stored.T, np.ascontiguousarray(stored.T)):
        w = Tensor(weight, requires_grad=True)
        y = OPS["linear"](x, w)
        (y + OPS["l2_penalty"](w, coefficient=0.5)).backward(g)
        results.append((y.data, w.grad.data))
        np.testing.assert_allclose(w.grad.data, g.T @ x + g.sum() * weight, rtol=1e-12)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-13)


@settings(max_examples=60)
@given(data=st.data())
def test_matmul_in_every_shape_of_numpy(data: Any, in_torch: Any) -> None:
    (a, b), _ = data.draw(products())
    ts = in_torch.leaves([a, b])
    y = a @ b
    above = np.random.default_rng(0).normal(size=y.shape)
    x, u = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
    product = x @ u
    np.testing.assert_array_equal(product.data, y)
    for ours, theirs in zip(
        tg.grad(product, [x, u], above), in_torch.gradients([in_torch.apply("matmul", *ts)], ts, [above]), strict=True
    ):
        assert_close(ours, in_torch.numpy(theirs), 1e-13)


@settings(max_examples=100)
@given(data=st.data())
def test_einsum_of_random_subscripts(data: Any, in_torch: Any) -> None:
    """Diagonals, letters summed out, ellipsis that broadcasts, explicit and implicit results: value, first, second."""
    inputs, kwargs = data.draw(einsums())
    xs, ts = [Tensor(x, requires_grad=True) for x in inputs], in_torch.leaves(inputs)
    y, ty = np.einsum(kwargs["subscripts"], *xs), in_torch.apply("einsum", *ts, **kwargs)
    assert_close(y, in_torch.numpy(ty), 1e-13)
    above = np.random.default_rng(0).normal(size=y.shape)
    first = tg.grad(y, xs, above, create_graph=True)
    theirs = in_torch.gradients([ty], ts, [above], create_graph=True)
    weights = [np.random.default_rng(1).normal(size=x.shape) for x in inputs]
    for ours, expected in zip(first, theirs, strict=True):
        assert_close(ours, in_torch.numpy(expected), 1e-12)
    live = [(g, w) for g, w in zip(first, weights, strict=True) if g.requires_grad]
    if live:
        second = tg.grad([g for g, _ in live], xs, [w for _, w in live], allow_unused=True)
        for ours, expected in zip(second, in_torch.gradients(theirs, ts, weights), strict=True):
            assert_close(ours, in_torch.numpy(expected), 1e-12)


def test_einsum_shares_a_letter_of_length_one() -> None:
    """NumPy repeats an axis of length 1 under a letter that is longer elsewhere."""
    a, b = Tensor(np.ones((1, 3)), requires_grad=True), Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    y = np.einsum("ij,ij->ij", a, b)
    y.backward(np.ones((2, 3)))
    assert a.grad.tolist() == [[3, 5, 7]]
    assert b.grad.tolist() == [[1, 1, 1]] * 2


def test_einsum_sums_over_a_letter_that_is_one_here_and_longer_there(torch: Any) -> None:
    a, b = np.array([[1.0, 2.0, 3.0]]), np.arange(6.0).reshape(2, 3)
    xs, ts = [Tensor(x, requires_grad=True) for x in (a, b)], [torch.tensor(x, requires_grad=True) for x in (a, b)]
    np.einsum("ij,ij->j", *xs).backward(np.array([1.0, 10.0, 100.0]))
    torch.einsum("ij,ij->j", *ts).backward(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))
    for ours, theirs in zip(xs, ts, strict=True):
        assert ours.grad.tolist() == theirs.grad.tolist()


@pytest.mark.parametrize("name", ["sum", "max", "min"])
@pytest.mark.parametrize("settings", [{"axis": 0}, {"axis": -1, "keepdims": True}])
def test_numpy_reduces_a_number_over_its_first_axis(name: str, settings: Any) -> None:
    y, g = value_and_gradient(name, 2.0, **settings)
    assert (y.shape, y.item(), g.shape, g.item()) == ((), 2, (), 1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("ddof", [1, 2])
def test_the_variance_of_too_few_numbers_is_not_a_number_and_so_is_its_slope(ddof: int) -> None:
    x = Tensor([3.0], requires_grad=True)
    assert np.isnan(tg.grad(x.var(ddof=ddof), x)[0].item())
