"""Every op of the registry on its samples: against numeric slopes, PyTorch and its twin; and the contract of an op."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_cifar as tg
from tests.core.agree import assert_close, leaves, slopes, wanting
from tests.core.samples import SAMPLES
from tinygrad_cifar import Tensor
from tinygrad_cifar.errors import MutationError
from tinygrad_cifar.operators import OPS

few = settings(max_examples=12)
every_op = pytest.mark.parametrize("name", sorted(OPS))
fused_ops = pytest.mark.parametrize("name", sorted(name for name in OPS if OPS[name].twin))
draws = given(data=st.data(), rng=st.integers(0, 2**16).map(np.random.default_rng))


def test_every_op_has_a_sample() -> None:
    assert sorted(SAMPLES) == sorted(OPS), "each op needs its line in tests/core/samples.py, and each line its op"


def gradients(name: str, inputs: list[Any], kwargs: dict[str, Any], upstream: Any) -> list[Any]:
    xs = leaves(inputs)
    OPS[name](*xs, **kwargs).backward(upstream)
    return [x.grad.data for x in wanting(xs)]


@every_op
@few
@draws
def test_gradient_equals_central_differences(name: str, data: Any, rng: Any) -> None:
    inputs, kwargs = data.draw(SAMPLES[name])
    xs = leaves(inputs)
    y = OPS[name](*xs, **kwargs)
    upstream = rng.normal(size=y.shape)
    y.backward(upstream)
    for i, x in enumerate(wanting(xs)):
        with tg.no_grad():
            assert_close(x.grad, slopes(lambda: OPS[name](*xs, **kwargs), x, upstream), 1e-7, f"input {i}")


@every_op
@few
@draws
def test_equals_torch(name: str, data: Any, rng: Any, in_torch: Any) -> None:
    """Value and gradients to 1e-10, second derivatives (also by the upstream gradient) to 1e-8."""
    inputs, kwargs = data.draw(SAMPLES[name])
    xs, ts = leaves(inputs), in_torch.leaves(inputs)
    y, ty = OPS[name](*xs, **kwargs), in_torch.apply(name, *ts, **kwargs)
    assert_close(y, in_torch.numpy(ty), 1e-12)
    above = rng.normal(size=y.shape)
    v, tv = Tensor(above, requires_grad=True), *in_torch.leaves([above])
    first = tg.grad(y, wanting(xs), v, create_graph=True)
    theirs = in_torch.gradients([ty], ts, [tv], create_graph=True)
    for g, t in zip(first, theirs, strict=True):
        assert_close(g, in_torch.numpy(t), 1e-10, "gradient")
    weights = [rng.normal(size=g.shape) for g in first]
    pairs = [(g, w) for g, w in zip(first, weights, strict=True) if g.requires_grad]
    second = tg.grad([g for g, _ in pairs], [*wanting(xs), v], [w for _, w in pairs], allow_unused=True)
    for g, t in zip(second, in_torch.gradients(theirs, [*ts, tv], weights), strict=True):
        assert_close(g, in_torch.numpy(t), 1e-8, "second derivative")


@fused_ops
@few
@draws
def test_fused_op_equals_its_twin(name: str, data: Any, rng: Any) -> None:
    """The hand-derived rule, the twin's gradient, and the gradient taken with create_graph are one."""
    inputs, kwargs = data.draw(SAMPLES[name])
    xs, twins = leaves(inputs), leaves(inputs)
    y, twin = OPS[name](*xs, **kwargs), OPS[name].twin(*twins, **kwargs)
    assert twin.node.op.name != name
    assert_close(y, twin, 1e-12)
    upstream = rng.normal(size=y.shape)
    expected = tg.grad(twin, wanting(twins), upstream)
    graphed = tg.grad(y, wanting(xs), upstream, create_graph=True)
    for hand, composed, with_graph in zip(tg.grad(y, wanting(xs), upstream), expected, graphed, strict=True):
        assert_close(hand, composed, 1e-10)
        assert_close(with_graph, composed, 1e-12)


@every_op
@few
@draws
def test_float32_stays_float32(name: str, data: Any, rng: Any) -> None:
    inputs, kwargs = data.draw(SAMPLES[name])
    kwargs32 = {
        k: v.astype(np.float32) if isinstance(v, np.ndarray) and v.dtype == np.float64 else v for k, v in kwargs.items()
    }
    if name == "astype":
        kwargs32 = {"dtype": np.dtype(np.float32)}
    xs = leaves(inputs, np.float32)
    y = OPS[name](*xs, **kwargs32)
    assert y.dtype == np.float32
    upstream = rng.normal(size=y.shape).astype(np.float32)
    assert_close(y, OPS[name](*leaves(inputs), **kwargs), 1e-4)
    for create_graph in (True, False):
        found = tg.grad(y, wanting(xs), upstream, create_graph)
        assert [g.dtype for g in found] == [np.float32] * len(found)
    for g, exact in zip(found, gradients(name, inputs, kwargs, upstream.astype(float)), strict=True):
        assert_close(g, exact, 1e-3)


@every_op
@few
@draws
def test_nothing_handed_in_is_changed_and_nothing_is_shared(name: str, data: Any, rng: Any) -> None:
    inputs, kwargs = data.draw(SAMPLES[name])
    xs = leaves(inputs)
    given_arrays, given_kwargs = copy.deepcopy((inputs, kwargs))
    y = OPS[name](*xs, **kwargs)
    value = y.data.copy()
    upstream = rng.normal(size=y.shape)
    given_upstream = upstream.copy()
    y.backward(upstream, retain_graph=True)
    first = [x.grad.data.copy() for x in wanting(xs)]
    np.testing.assert_equal([x.data if isinstance(x, Tensor) else x for x in xs], given_arrays)
    np.testing.assert_equal(given_kwargs, kwargs)
    np.testing.assert_array_equal(given_upstream, upstream)
    np.testing.assert_array_equal(value, y.data)
    apart = [x.grad.data for x in wanting(xs)]
    others = [*(x.data for x in wanting(xs)), y.data, upstream]
    others += [v for v in kwargs.values() if isinstance(v, np.ndarray)]
    for i, g in enumerate(apart):
        assert g.flags.writeable
        assert not any(np.shares_memory(g, other) for other in [*others, *apart[:i]])
    y.backward(upstream)  # the same again: the first walk left the saved values as they were
    for x, g in zip(wanting(xs), first, strict=True):
        np.testing.assert_array_equal(x.grad.data, 2 * g)


@every_op
@few
@draws
def test_one_input_alone_gets_the_same_gradient(name: str, data: Any, rng: Any) -> None:
    """The others being constants, as arrays or as tensors."""
    inputs, kwargs = data.draw(SAMPLES[name])
    upstream = rng.normal(size=OPS[name](*inputs, **kwargs).shape)
    expected = iter(gradients(name, inputs, kwargs, upstream))
    for i, x in enumerate(inputs):
        if isinstance(x, np.ndarray):
            alone: list[Any] = [Tensor(c) if isinstance(c, np.ndarray) and rng.random() < 0.5 else c for c in inputs]
            alone[i] = Tensor(x.copy(), requires_grad=True)
            OPS[name](*alone, **kwargs).backward(upstream)
            np.testing.assert_allclose(alone[i].grad.data, next(expected), rtol=1e-13, atol=1e-13)


@every_op
@few
@draws
def test_what_an_op_saves_is_guarded_and_what_it_does_not_save_is_free(name: str, data: Any, rng: Any) -> None:
    inputs, kwargs = data.draw(SAMPLES[name])
    upstream = rng.normal(size=OPS[name](*inputs, **kwargs).shape)
    expected = gradients(name, inputs, kwargs, upstream)
    op = OPS[name]
    for i in [i for i, x in enumerate(inputs) if isinstance(x, np.ndarray)]:
        xs = leaves(inputs)
        y = op(*xs, **kwargs)
        with tg.no_grad():
            xs[i] += 1
        if op.saves[0 if op.variadic else i] or (op.saves_out and np.shares_memory(y.data, xs[i].data)):
            with pytest.raises(MutationError, match=rf"backward through {name} .*changed in place"):
                y.backward(upstream)
        else:
            y.backward(upstream)
            for x, g in zip(wanting(xs), expected, strict=True):
                np.testing.assert_array_equal(x.grad.data, g)
    xs = leaves(inputs)
    y = op(*xs, **kwargs)
    if op.saves_out:
        with tg.no_grad():
            y *= 2
        with pytest.raises(MutationError, match="its result"):
            y.backward(upstream)


@every_op
@few
@draws
def test_view_ops_and_only_they_share_a_version(name: str, data: Any, rng: Any) -> None:
    inputs, kwargs = data.draw(SAMPLES[name])
    xs = [Tensor(x) if isinstance(x, np.ndarray) else x for x in inputs]
    y = OPS[name](*xs, **kwargs)
    for x in wanting(xs):
        assert np.shares_memory(x.data, y.data) <= (x.version is y.version)
    if not any(np.may_share_memory(x.data, y.data) for x in wanting(xs)):
        assert all(x.version is not y.version for x in wanting(xs))


@every_op
def test_documented(name: str) -> None:
    assert OPS[name].__doc__
    assert OPS[name].rule is not None
    assert repr(OPS[name]) == f"<op {name}>"
