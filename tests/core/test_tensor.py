"""Tensor itself: what it holds, how it converts, which operands mix, and the messages when they do not."""

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_cifar as tg
from tinygrad_cifar import Tensor
from tinygrad_cifar.errors import DtypeError, ShapeError, TinygradCifarError, UnsupportedError
from tinygrad_cifar.operators import OPS
from tinygrad_cifar.tensor import Op, describe


def leaf(values: Any, dtype: Any = np.float64) -> Tensor:
    return Tensor(np.array(values, dtype), requires_grad=True)


# What it holds ------------------------------------------------------------------------------------------------------


def test_an_array_is_wrapped_without_copying() -> None:
    a = np.arange(6.0).reshape(2, 3)
    t = Tensor(a)
    assert t.data is a
    assert t.numpy() is a
    assert (t.shape, t.ndim, t.size, t.dtype, len(t)) == ((2, 3), 2, 6, np.float64, 2)
    assert (t.grad, t.node, t.name, t.hooks, t.requires_grad, t.is_leaf, t.version) == (None,) * 4 + (False, True, [0])
    assert t.tolist() == a.tolist()


def test_numbers_lists_and_tensors() -> None:
    assert Tensor(3).dtype == np.int64
    assert Tensor(3.0).dtype == np.float64
    assert Tensor([[1, 2], [3, 4]], dtype=np.float32).dtype == np.float32
    assert Tensor(True).dtype == np.bool_
    t = Tensor([1.0, 2.0])
    same = Tensor(t)
    assert np.shares_memory(same.data, t.data)
    assert same.version is t.version
    assert Tensor([Tensor(1.0), 2.0]).tolist() == [1, 2]
    assert Tensor(np.float32(2)).dtype == np.float32


@pytest.mark.parametrize("nonsense", [None, "text", [None, 1.0], 1j, object(), np.array(["a"]), np.datetime64("2020")])
def test_what_a_tensor_cannot_hold(nonsense: Any) -> None:
    with pytest.raises(DtypeError, match="floats, integers or booleans"):
        Tensor(nonsense)


def test_only_floats_have_gradients() -> None:
    for data in (1, [1, 2], True):
        with pytest.raises(DtypeError, match=r"only floating-point tensors have gradients.*dtype=float"):
            Tensor(data, requires_grad=True)
    assert Tensor(1, requires_grad=True, dtype=float).requires_grad


def test_out_of_the_graph() -> None:
    t = leaf([[2.5]])
    assert (t.item(), float(t[0, 0]), int(t[0, 0]), bool(t)) == (2.5, 2.5, 2, True)
    assert "abc"[Tensor(1)] == "b"
    assert np.asarray(t) is t.data
    assert np.asarray(t, np.float32).dtype == np.float32
    copied = np.array(t)
    copied[0] = 7
    assert t.item() == 2.5
    with pytest.raises(ValueError, match="copy"):
        np.array(t, np.float32, copy=False)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(leaf([1.0, 2.0]))
    with pytest.raises((TypeError, ValueError)):
        leaf([1.0, 2.0]).item()


def test_repr() -> None:
    assert repr(Tensor([1.0, 2.0])) == "Tensor([1., 2.])"
    assert repr(leaf([1.0])) == "Tensor([1.], requires_grad=True)"
    assert repr(leaf(1.0, np.float32) * 2) == "Tensor(2., dtype=float32, op=multiply)"
    assert repr(Tensor([1, 2])) == "Tensor([1, 2], dtype=int64)"
    assert str(Tensor(3.0)) == "Tensor(3.)"
    w = leaf([[1.0, 2.0]], np.float32)
    w.name = "weight"
    assert describe(w) == "weight (1, 2) float32"
    assert describe(w * 2) == "multiply (1, 2) float32"
    assert describe(np.ones(3)) == "array (3,) float64"
    assert describe(1.5) == "1.5"


def test_format() -> None:
    assert f"{Tensor(0.25):.1%} {Tensor(3):03d} {Tensor(2.0)}" == "25.0% 003 Tensor(2.)"
    assert f"{Tensor([1.0, 2.0])!s:>20}" == "    Tensor([1., 2.])"


def test_iteration_and_membership() -> None:
    t = leaf([[1.0, 2.0], [3.0, 4.0]])
    a, b = t
    assert (a.tolist(), b.tolist()) == ([1, 2], [3, 4])
    (a * b).sum().backward()
    assert t.grad.tolist() == [[3, 4], [1, 2]]
    with pytest.raises(TypeError):
        iter(Tensor(1.0))
    with pytest.raises(TypeError):
        len(Tensor(1.0))


def test_tensors_are_keys_by_identity() -> None:
    a, b = Tensor([1.0]), Tensor([1.0])
    assert {a: 1, b: 2}[a] == 1
    assert len({a, b, a}) == 2


def test_deepcopy_copies_the_memory() -> None:
    t = leaf([1.0, 2.0])
    t.name = "w"
    twin = copy.deepcopy(t)
    with tg.no_grad():
        twin += 1
    assert (t.tolist(), twin.tolist(), twin.name, twin.requires_grad) == ([1, 2], [2, 3], "w", True)
    assert t.version == [0]


def test_weak_references_work() -> None:
    t = Tensor([1.0])
    ref = weakref.ref(t)
    del t
    gc.collect()
    assert ref() is None


# Operators ----------------------------------------------------------------------------------------------------------

PAIRS = st.tuples(
    hnp.arrays(np.float64, (2, 3), elements=st.floats(-4, 4)), hnp.arrays(np.float64, (3,), elements=st.floats(0.5, 4))
)


@given(PAIRS)
def test_operators_compute_what_numpy_computes(pair: Any) -> None:
    a, b = pair
    t, u = Tensor(a), Tensor(b)
    for ours, theirs in [
        (t + u, a + b), (t - u, a - b), (t * u, a * b), (t / u, a / b), (u**t, b**a), (t @ u, a @ b),
        (u @ t.T, b @ a.T),
        (a + u, a + b), (a - u, a - b), (a * u, a * b), (a / u, a / b), (b**t, b**a), (a @ u, a @ b),
        (t + 2, a + 2), (2 - t, 2 - a), (2 * t, 2 * a), (2 / u, 2 / b), (2**u, 2**b), (-t, -a), (+t, +a),
        (abs(t), abs(a)), ([1, 2, 3] * t, [1, 2, 3] * a),
        (t > 2, a > 2), (a < u, a < b), (a == u, a == b), (~(t > 0), ~(a > 0)),
        (t < u, a < b), (t <= u, a <= b), (t > u, a > b), (t >= u, a >= b), (t == u, a == b), (t != u, a != b),
        ((t > 0) & (t < 1), (a > 0) & (a < 1)), ((t > 0) | (t < -1), (a > 0) | (a < -1)),
    ]:  # fmt: skip
        assert isinstance(ours, Tensor)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.data, theirs)


def test_methods_compute_what_numpy_computes() -> None:
    a = np.arange(1.0, 7).reshape(2, 3)
    t = Tensor(a)
    for ours, theirs in [
        (t.exp(), np.exp(a)), (t.log(), np.log(a)), (t.sqrt(), np.sqrt(a)), (t.abs(), a), (t.tanh(), np.tanh(a)),
        (t.clip(2, 4), a.clip(2, 4)), (t.clip(max=3), a.clip(None, 3)), (t.relu(), a), (t.sum(0), a.sum(0)),
        (t.mean((0, 1)), a.mean()), (t.var(1, ddof=1), a.var(1, ddof=1)), (t.max(0), a.max(0)),
        (t.min(), a.min()), (t.max(-1, keepdims=True), a.max(-1, keepdims=True)), 
        (t.logsumexp(1), np.log(np.exp(a).sum(1))), (t.argmax(1), a.argmax(1)),
        (t.std(1, ddof=1), a.std(1, ddof=1)), (t.argmin(), a.argmin()), ((t > 2).all(0), (a > 2).all(0)),
        ((t > 2).any(), (a > 2).any()),
        (t.reshape(3, 2), a.reshape(3, 2)), (t.reshape((3, -1)), a.reshape(3, 2)), (t.reshape(-1), a.reshape(-1)),
        (t.T, a.T), (t.transpose(), a.T), (t.transpose(1, 0), a.T), (t.transpose([0, 1]), a), (t.swapaxes(0, 1), a.T),
        (t[None].squeeze(0), a), (t.clone(), a), (t.astype("f4"), a.astype("f4")), (t.astype(int), a.astype(int)),
    ]:  # fmt: skip
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours.data, theirs, rtol=1e-15)
    np.testing.assert_allclose(t.sigmoid().data, 1 / (1 + np.exp(-a)))


def test_clone_has_memory_of_its_own_and_stays_connected() -> None:
    x = leaf([1.0, 2.0])
    c = x.clone()
    assert not np.shares_memory(c.data, x.data)
    c += 1
    (c * c).sum().backward()
    assert x.grad.tolist() == [4, 6]


# Which operands mix -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 2.5, True, np.float64(2.5), np.float32(2.5), np.int64(2), np.bool_(True)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_numbers_take_the_dtype_beside_them(number: Any, dtype: Any) -> None:
    x = leaf([1.0, 2.0], dtype)
    for y in (x * number, number * x, x + number, number - x, x / number, x**number, number**x, np.maximum(x, number)):
        assert y.dtype == dtype
        (g,) = tg.grad(y, x, np.ones(2, dtype))
        assert g.dtype == dtype


@pytest.mark.parametrize("beside", [[1, 2], (1.5, 2.5), np.array([1, 2]), np.array([True, False]), Tensor([3, 4])])
def test_integers_and_lists_take_the_dtype_of_the_floats(beside: Any) -> None:
    for x in (leaf([1.0, 2.0], np.float32), leaf([[1.0, 2.0]], np.float32)):
        for y in (x * beside, beside * x, x - beside, beside / x, np.maximum(beside, x), x @ beside):
            assert y.dtype == np.float32
            assert tg.grad(y, x, np.ones(y.shape, np.float32))[0].dtype == np.float32


@pytest.mark.parametrize(
    "mix",
    [
        lambda a, b: a + b,
        lambda a, b: b * a,
        lambda a, b: a @ b,
        lambda a, b: a + b.data,
        lambda a, b: b.data - a,
        lambda a, b: np.maximum(a, b),
        lambda a, b: np.where([True, False], a, b),
        lambda a, b: np.concatenate([a, b]),
        lambda a, b: np.stack([b, a]),
        lambda a, b: np.einsum("i,i", a, b),
        lambda a, b: OPS["linear"](a, b.reshape(1, 2)),
        lambda a, b: OPS["mse"](a, b),
        lambda a, b: OPS["l2_penalty"](a, b, coefficient=1),
        lambda a, b: OPS["dropout"](a, mask=b.data),
        lambda a, b: OPS["binary_cross_entropy_with_logits"](a, targets=b.data),
        lambda a, b: a * b[0].data,
    ],
)
def test_float32_and_float64_do_not_mix(mix: Any) -> None:
    a, b = leaf([1.0, 2.0], np.float32), leaf([1.0, 2.0])
    with pytest.raises(DtypeError, match=r"float32.*float64|float64.*float32"):
        mix(a, b)


def test_conversion_is_differentiable_both_ways() -> None:
    x = leaf([1.0, 2.0], np.float32)
    wide = x.astype(np.float64)
    y = (wide * np.array([0.1, 0.2])).astype(np.float32)
    y.backward(np.ones(2, np.float32))
    assert x.grad.dtype == np.float32
    np.testing.assert_allclose(x.grad.data, [0.1, 0.2], rtol=1e-7)
    (g,) = tg.grad((x.astype(float) ** 2).sum(), x, create_graph=True)
    assert tg.grad(g.sum(), x)[0].tolist() == [2, 2]


def test_integers_and_booleans_leave_the_graph() -> None:
    """They are steps, whose slope is zero: no gradient passes."""
    x = leaf([1.5, -2.5])
    for dtype in (int, bool, np.uint8):
        assert not x.astype(dtype).requires_grad
    (x * x.astype(int)).sum().backward()
    assert x.grad.tolist() == [1, -2]
    with pytest.raises(DtypeError, match="complex"):
        x.astype(complex)


def test_integer_tensors_compute_without_gradients() -> None:
    n = Tensor([1, 2, 3])
    assert (n + 1).dtype == np.int64
    assert (n / 2).dtype == np.float64
    assert n.mean().item() == 2
    assert not (n * 2).requires_grad
    x = leaf([1.0, 2.0, 3.0])
    (x * n).sum().backward()
    assert x.grad.tolist() == [1, 2, 3]
    for name in ("sigmoid", "log_softmax"):
        with pytest.raises(DtypeError, match=rf"{name}\(tensor \(3,\) int64\) computes with floating-point.*astype"):
            OPS[name](n)


@pytest.mark.parametrize("nonsense", [None, "text", np.array(["a"]), np.array([1j]), object()])
def test_operands_that_are_no_numbers(nonsense: Any) -> None:
    with pytest.raises((DtypeError, TypeError, ValueError)):
        OPS["multiply"](leaf([1.0]), nonsense)
    with pytest.raises((DtypeError, TypeError, ValueError)):
        OPS["multiply"](nonsense, leaf([1.0]))


def test_a_list_of_tensors_does_not_lose_their_gradients_silently() -> None:
    x, w = leaf([1.0, 2.0]), leaf(3.0)
    assert (x * [Tensor(2.0), 3.0]).tolist() == [2, 6]
    with pytest.raises(UnsupportedError, match=r"lose their gradients.*np\.stack"):
        x * [w, 2.0]
    with pytest.raises(UnsupportedError, match=r"lose their gradients.*np\.stack"):
        Tensor([[w, w * 2]])
    (x * np.stack([w, w * 2])).sum().backward()
    assert w.grad.item() == 5


# What is said when shapes do not fit -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: a + b, r"add\(tensor \(2, 3\) float64, tensor \(4,\) float64\)"),
        (lambda a, b: a @ b, r"matmul\(tensor \(2, 3\) float64, tensor \(4,\) float64\)"),
        (lambda a, b: a.data @ b, r"matmul\(array \(2, 3\) float64, tensor \(4,\) float64\)"),
        (lambda a, b: np.concatenate([a, b]), r"concatenate\(tensor \(2, 3\)"),
        (lambda a, b: np.stack([a, b]), r"stack\(tensor \(2, 3\)"),
        (lambda a, b: np.einsum("ij,j->i", a, b), r"einsum\(tensor \(2, 3\)"),
        (lambda a, b: np.einsum("ijk->k", a), r"einsum\(tensor \(2, 3\)"),
        (lambda a, b: a.reshape(4, 4), r"reshape\(tensor \(2, 3\) float64\): cannot reshape"),
        (lambda a, b: a.sum(axis=5), r"sum\(tensor \(2, 3\) float64\): axis 5"),
        (lambda a, b: np.broadcast_to(a, (5, 5)), r"broadcast_to\(tensor \(2, 3\)"),
        (lambda a, b: a.squeeze(0), r"squeeze\(tensor \(2, 3\)"),
        (lambda a, b: a.transpose(0, 0), r"transpose\(tensor \(2, 3\)"),
        (lambda a, b: OPS["linear"](a, b.reshape(1, 4)), r"linear\(tensor \(2, 3\) float64, reshape \(1, 4\)"),
        (lambda a, b: OPS["mse"](a, b), r"mse\(tensor \(2, 3\)"),
        (lambda a, b: a[:0].max(), r"max\(getitem \(0, 3\) float64\): zero-size"),
    ],
)
def test_shape_errors_name_the_op_and_its_operands(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        call(leaf(np.ones((2, 3))), leaf(np.ones(4)))
    assert isinstance(caught.value, TinygradCifarError)
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_index_out_of_range_is_numpys_own_error() -> None:
    with pytest.raises(IndexError):
        leaf([1.0, 2.0])[5]


# Shapes at the edge -------------------------------------------------------------------------------------------------


def test_scalars_stay_arrays() -> None:
    """0-d results are 0-d arrays, not NumPy scalars, whose in-place changes would be lost."""
    x = leaf(2.0)
    for y in (x * 3, x.sum(), leaf([1.0, 2.0])[0], leaf([1.0, 2.0]) @ leaf([1.0, 2.0]), leaf([1.0]).mean()):
        assert type(y.data) is np.ndarray
        assert y.shape == ()
    (x * x).backward()
    assert type(x.grad.data) is np.ndarray


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 1)])
def test_empty_arrays(shape: Any) -> None:
    x = leaf(np.zeros(shape))
    y = (np.exp(x) * x + x.T.T).relu().sum(axis=0) + x.sum(axis=0)
    y.backward(np.ones(y.shape))
    assert x.grad.shape == shape
    assert x.sum().item() == 0


# Declaring ops ------------------------------------------------------------------------------------------------------


def test_an_op_that_saves_what_it_does_not_have() -> None:
    def f(x: Any) -> Any:
        return x

    with pytest.raises(TypeError, match=r"op f: saves names \['y'\]"):
        Op(f, saves="x y")


def test_on_keeps_to_the_kind_of_its_operands() -> None:
    sigmoid = OPS["sigmoid"]
    assert isinstance(sigmoid.on(np.zeros(2)), np.ndarray)
    assert isinstance(sigmoid.on(Tensor(np.zeros(2))), Tensor)


def test_keyword_arguments_are_unpacked() -> None:
    x = leaf([[1.0, 2.0], [3.0, 4.0]], np.float32)
    y = OPS["mean"](x, axis=np.int64(1), keepdims=np.bool_(True))
    y.backward(np.ones((2, 1), np.float32))
    assert x.grad.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    labels = Tensor(np.array([0, 1]))
    assert OPS["softmax_cross_entropy"](x, labels=labels).dtype == np.float32
    assert np.clip(x, np.float64(1.5), np.float64(2.5)).dtype == np.float32
    assert OPS["leaky_relu"](x, slope=np.float64(0.1)).dtype == np.float32
    OPS["l2_penalty"](x, coefficient=np.float64(0.1)).backward()
    with pytest.raises(UnsupportedError, match="no gradient flows through mask="):
        OPS["dropout"](x, mask=leaf(np.ones((2, 2)), np.float32))


def test_version_counts_every_change() -> None:
    t = Tensor(np.zeros(3))
    t[0] = 1
    t += 1
    t -= 1
    t *= 2
    t /= 2
    view = t[1:]
    view[0] = 5
    assert t.version == [6]
    assert t.tolist() == [1, 5, 0]
    assert t.detach().version is t.version
    assert t.clone().version == [0]
