"""NumPy's functions on Tensors: the same values, differentiable, or a clear refusal."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_cifar as tg
from tests.core.agree import assert_close, slopes
from tests.core.samples import arrays, indices
from tinygrad_cifar import Tensor
from tinygrad_cifar.errors import DtypeError, UnsupportedError
from tinygrad_cifar.operators import NUMPY

A, B = np.arange(1.0, 7).reshape(2, 3) / 4, np.array([0.3, -0.7, 2.0])

DIFFERENTIABLE: dict[str, Any] = {
    "add": lambda a, b: np.add(a, b),
    "subtract": lambda a, b: np.subtract(b, a),
    "multiply": lambda a, b: np.multiply(a, b),
    "divide": lambda a, b: np.divide(a, b),
    "true_divide": lambda a, b: np.true_divide(b, a),
    "negative": lambda a, b: np.negative(a),
    "power": lambda a, b: np.power(a, b),
    "exp": lambda a, b: np.exp(a),
    "log": lambda a, b: np.log(a),
    "sqrt": lambda a, b: np.sqrt(a),
    "abs": lambda a, b: np.abs(a - b),
    "square": lambda a, b: np.square(a),
    "reciprocal": lambda a, b: np.reciprocal(b),
    "tanh": lambda a, b: np.tanh(a),
    "maximum": lambda a, b: np.maximum(a, b),
    "minimum": lambda a, b: np.minimum(a, 1.1),
    "where": lambda a, b: np.where([[True], [False]], a, b),
    "where number": lambda a, b: np.where(a > 0.9, a * b, 0),
    "clip": lambda a, b: np.clip(a, 0.6, 1.1),
    "clip low": lambda a, b: np.clip(a, 0.6, None),
    "clip keywords": lambda a, b: np.clip(a, min=0.6, max=1.1),
    "copy": lambda a, b: np.copy(a),
    "sum": lambda a, b: np.sum(a * b),
    "sum axis": lambda a, b: np.sum(a, axis=0),
    "sum positional": lambda a, b: np.sum(a, 1, keepdims=True),
    "mean": lambda a, b: np.mean(a, axis=(0, 1)),
    "var": lambda a, b: np.var(a, axis=1, ddof=1),
    "std": lambda a, b: np.std(a, axis=0, keepdims=True),
    "max": lambda a, b: np.max(a, axis=1),
    "min": lambda a, b: np.min(a),
    "amax": lambda a, b: np.amax(a, 0),
    "amin": lambda a, b: np.amin(a, 0),
    "norm": lambda a, b: np.linalg.norm(a),
    "add.reduce": lambda a, b: np.add.reduce(a),
    "maximum.reduce": lambda a, b: np.maximum.reduce(a, axis=1, keepdims=True),
    "minimum.reduce": lambda a, b: np.minimum.reduce(a, axis=None),
    "reshape": lambda a, b: np.reshape(a, (3, 2)),
    "ravel": lambda a, b: np.ravel(a),
    "transpose": lambda a, b: np.transpose(a),
    "transpose axes": lambda a, b: np.transpose(a, (1, 0)),
    "swapaxes": lambda a, b: np.swapaxes(a, 0, 1),
    "expand_dims": lambda a, b: np.expand_dims(b, (0, 2)),
    "squeeze": lambda a, b: np.squeeze(a[None]),
    "squeeze axis": lambda a, b: np.squeeze(a[None], axis=0),
    "broadcast_to": lambda a, b: np.broadcast_to(b, (4, 3)),
    "concatenate": lambda a, b: np.concatenate([a, b[None], A]),
    "concatenate axis": lambda a, b: np.concatenate((a, a), axis=-1),
    "concatenate flat": lambda a, b: np.concatenate([a, b], axis=None),
    "stack": lambda a, b: np.stack([b, b * 2, B], axis=1),
    "take": lambda a, b: np.take(a, [0, 2, 2], axis=1),
    "take flat": lambda a, b: np.take(a, np.array([[5, 0]])),
    "matmul": lambda a, b: np.matmul(a, b),
    "dot": lambda a, b: np.dot(a, b),
    "dot vectors": lambda a, b: np.dot(b, b),
    "dot number": lambda a, b: np.dot(a, 2.0),
    "einsum": lambda a, b: np.einsum("ij,j->i", a, b),
    "einsum implicit": lambda a, b: np.einsum("ij, ij", a, a, optimize=True),
    "array @ tensor": lambda a, b: A.T @ a,
    "array + tensor": lambda a, b: A + b,
    "array - tensor": lambda a, b: A - b,
    "array / tensor": lambda a, b: A / b,
    "array ** tensor": lambda a, b: A**b,
    "list * tensor": lambda a, b: [1.0, 2.0, 3.0] * b,
    "scalar * tensor": lambda a, b: np.float64(3) * a,
}


@pytest.mark.parametrize("name", sorted(DIFFERENTIABLE))
def test_value_and_gradient(name: str) -> None:
    """The call yields NumPy's value on arrays; on Tensors the same, as a Tensor, with the gradient of its slopes."""
    call = DIFFERENTIABLE[name]
    expected = call(A, B)
    a, b = Tensor(A.copy(), requires_grad=True), Tensor(B.copy(), requires_grad=True)
    if name == "power":
        expected = call(A, np.abs(B))
        b = Tensor(np.abs(B), requires_grad=True)
    y = call(a, b)
    assert type(y) is Tensor
    assert y.requires_grad
    assert_close(y, expected, 1e-15)
    above = np.cos(np.arange(y.size)).reshape(y.shape)
    found = tg.grad(y, [a, b], above, allow_unused=True)
    for x, g in zip((a, b), found, strict=True):
        with tg.no_grad():
            assert_close(g, slopes(lambda: call(a, b), x, above), 1e-8)


def test_every_numpy_function_is_tried() -> None:
    """Each function that NUMPY maps is called somewhere in the table above, under its own name."""
    tried = {name.split()[0].split(".")[0] for name in DIFFERENTIABLE} | {"absolute"}
    assert {function.__name__ for function in NUMPY} <= tried


@settings(max_examples=150)
@given(st.data())
def test_indexing_of_all_kinds(data: Any) -> None:
    x = data.draw(arrays())
    index = data.draw(indices(x.shape))
    t = Tensor(x, requires_grad=True)
    y = t[index]
    np.testing.assert_array_equal(y.data, x[index])
    above = np.random.default_rng(0).normal(size=y.shape)
    y.backward(above)
    expected = np.zeros(x.shape)
    np.add.at(expected, index, above)
    np.testing.assert_allclose(t.grad.data, expected, rtol=1e-15)


def test_indexing_with_tensors() -> None:
    x = Tensor(A.copy(), requires_grad=True)
    rows, columns, mask = Tensor([1, 0, 1]), Tensor([0, 2, 0]), x > 0.9
    np.testing.assert_array_equal(x[rows, columns].data, A[[1, 0, 1], [0, 2, 0]])
    np.testing.assert_array_equal(x[mask].data, A[A > 0.9])
    np.testing.assert_array_equal(x[Tensor(1)].data, A[1])
    np.testing.assert_array_equal(x[Tensor(0) :, [Tensor(1), 2]].data, A[0:, [1, 2]])
    np.testing.assert_array_equal(A[rows], A[[1, 0, 1]])
    np.testing.assert_array_equal(np.take(A, rows, axis=0), A[[1, 0, 1]])
    x[rows, columns].sum().backward()
    assert x.grad.tolist() == [[0, 0, 1], [2, 0, 0]]
    np.testing.assert_array_equal(x[np.where(x > 0.9)].data, A[A > 0.9])


CONSTANT: dict[str, Any] = {
    "sign": lambda t: np.sign(t - 1),
    "floor": lambda t: np.floor(t),
    "ceil": lambda t: np.ceil(t),
    "rint": lambda t: np.rint(t),
    "greater": lambda t: np.greater(t, 1),
    "less_equal": lambda t: np.less_equal(1, t),
    "equal": lambda t: np.equal(t, t),
    "isfinite": lambda t: np.isfinite(t),
    "logical_and": lambda t: np.logical_and(t > 1, t < 2),
    "invert": lambda t: np.invert(t > 1),
    "argmax": lambda t: np.argmax(t, axis=1),
    "argsort": lambda t: np.argsort(-t, axis=None),
    "zeros_like": lambda t: np.zeros_like(t),
    "ones_like": lambda t: np.ones_like(t),
    "full_like": lambda t: np.full_like(t, 2),
    "all": lambda t: np.all(t > 0),
    "any": lambda t: np.any(t > 1),
    "unique": lambda t: np.unique(t > 1),
    "count_nonzero": lambda t: np.count_nonzero(t > 1),
    "shape": lambda t: np.shape(t),
    "ndim": lambda t: np.ndim(t),
    "size": lambda t: np.size(t),
    "allclose": lambda t: np.allclose(t, A),
    "array_equal": lambda t: np.array_equal(A, t),
}


@pytest.mark.parametrize("name", sorted(CONSTANT))
def test_functions_without_a_gradient_give_constants(name: str) -> None:
    expected, found = CONSTANT[name](A), CONSTANT[name](Tensor(A, requires_grad=True))
    if isinstance(expected, np.ndarray | np.generic):
        assert isinstance(found, Tensor)
        assert not found.requires_grad
        assert found.dtype == expected.dtype
    np.testing.assert_array_equal(np.asarray(found), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: np.sin(t), r"np\.sin has no gradient rule.*t\.numpy\(\).*custom_op"),
        (lambda t: np.cumsum(t), r"np\.cumsum is not supported on Tensors"),
        (lambda t: np.linalg.inv(t), r"np\.inv is not supported"),
        (lambda t: np.multiply.outer(t, t), r"np\.multiply\.outer"),
        (lambda t: np.add.accumulate(t), r"np\.add\.accumulate"),
        (lambda t: np.multiply.reduce(t), r"np\.multiply\.reduce"),
        (lambda t: np.add.at(t, 0, 1.0), r"np\.add\.at"),
        (lambda t: np.add.reduce(t, dtype=float), r"np\.add\.reduce with dtype="),
        (lambda t: np.add.reduce(t, out=Tensor(np.zeros(3))), r"np\.add\.reduce"),
        (lambda t: np.add(t, 1, where=A > 1), r"np\.add with where="),
        (lambda t: np.add(t, 1, dtype=np.float32), r"np\.add with dtype="),
        (lambda t: np.sign(A, where=t > 1), r"np\.sign with where="),
        (lambda t: np.exp(t, out=np.zeros((2, 3))), r"out= must be a Tensor"),
        (lambda t: np.sum(t, dtype=float), r"np\.sum on Tensors:.*dtype"),
        (lambda t: np.mean(t, where=A > 1), r"np\.mean on Tensors:.*where"),
        (lambda t: np.linalg.norm(t, axis=1), r"np\.norm on Tensors:.*axis"),
        (lambda t: np.reshape(t, (3, 2), order="F"), r"np\.reshape on Tensors:.*order"),
        (lambda t: np.dot(t[None], t), r"np\.dot on Tensors takes vectors and matrices"),
        (lambda t: np.einsum(t, [0, 1], [1, 0]), r"np\.einsum on Tensors takes its subscripts as a string"),
        (lambda t: np.modf(t), r"np\.modf"),
        (lambda t: A.__iadd__(t), r"out= must be a Tensor"),
    ],
)
def test_what_is_not_supported_says_so(call: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        call(Tensor(A, requires_grad=True))


def test_an_axis_that_is_not_there_is_not_taken_for_another() -> None:
    for axis in (2, -3):
        with pytest.raises(np.exceptions.AxisError):
            np.take(Tensor(A), [0], axis=axis)
    assert np.take(Tensor(A), [2, 0], axis=-1).tolist() == A[:, [2, 0]].tolist()


def test_operators_without_a_rule() -> None:
    t = Tensor(A, requires_grad=True)
    for call in (lambda: t // 2, lambda: t % 2, lambda: divmod(t, 2), lambda: A // t, lambda: t << 1):
        with pytest.raises(TypeError):
            call()


def test_out_of_an_array_expression() -> None:
    """The graph's own result can be written with out=; a tensor of constants joins the graph."""
    x, out = Tensor(A.copy(), requires_grad=True), Tensor(np.zeros((2, 3)))
    assert np.exp(x, out=out) is out
    out.backward(np.ones((2, 3)))
    assert_close(x.grad, np.exp(A), 1e-15)
    with tg.no_grad():
        assert np.multiply(x, 2, out=x) is x
    assert x.tolist() == (2 * A).tolist()
    assert x.version == [1]


def test_conversion_to_arrays() -> None:
    t, u = Tensor(A), Tensor(A * 2)
    assert np.asarray(t) is A
    np.testing.assert_array_equal(np.asarray([t, u]), [A, A * 2])
    np.testing.assert_array_equal(np.array([t, A]), [A, A])
    np.testing.assert_array_equal(np.asarray([Tensor(1.0), Tensor(2.0)]), [1, 2])
    np.testing.assert_array_equal(np.asarray([[Tensor(1.0), 2.0]]), [[1, 2]])
    assert np.asarray(t, dtype=np.float32).dtype == np.float32
    target = np.zeros((2, 3))
    target[:] = t
    np.testing.assert_array_equal(target, A)
    assert sum([Tensor(1.0), Tensor(2.0)]).item() == 3
    assert max(Tensor(1.0), Tensor(2.0)).item() == 2


def test_numpys_own_assertions_take_tensors() -> None:
    t = Tensor(A, requires_grad=True)
    np.testing.assert_allclose(t, A)
    np.testing.assert_array_equal(A, t)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(t, A + 1)
    assert np.allclose(t, t)


def test_mixed_precision_is_refused_here_too() -> None:
    t = Tensor(A.astype(np.float32), requires_grad=True)
    for call in (lambda: A + t, lambda: np.maximum(t, A), lambda: np.stack([t, A]), lambda: np.where(A > 1, t, A)):
        with pytest.raises(DtypeError):
            call()
    assert (np.float64(2) * t).dtype == np.float32
    assert np.where(A > 1, t, 0).dtype == np.float32
    assert np.where(A > 1, t, np.float64(0)).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_0_d_tensors_keep_their_dtype(dtype: Any) -> None:
    x = Tensor(np.array(0.5, dtype), requires_grad=True)
    y = np.where(x > 0, np.exp(x) * x, 0) + np.sqrt(x) / 2 - np.maximum(x, 0.1) ** 3 + 2**x + np.log(x) * x.mean()
    y.backward()
    assert (y.dtype, x.grad.dtype) == (dtype, dtype)
