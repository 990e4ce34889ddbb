"""The walk: what it computes, in which order, what it frees, what it refuses, and what it says then."""

import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_cifar as tg
from tests.core.agree import assert_close
from tinygrad_cifar import Tensor
from tinygrad_cifar.errors import (
    DtypeError,
    GraphError,
    MutationError,
    NonFiniteError,
    ShapeError,
    TinygradCifarError,
    UnsupportedError,
)
from tinygrad_cifar.operators import OPS


def leaf(*values: float, dtype: Any = np.float64) -> Tensor:
    return Tensor(np.array(values if len(values) != 1 else values[0], dtype), requires_grad=True)


def array(t: Tensor | None) -> list[float]:
    assert t is not None
    return t.data.tolist()


# Walks ----------------------------------------------------------------------------------------------------------


def test_a_chain_of_100_000_ops() -> None:
    x = leaf(1.0, 2.0)
    y = x
    for _ in range(50_000):
        y = (y + 1e-6) * 1.00001
    y.sum().backward()
    np.testing.assert_allclose(x.grad.data, 1.00001**50_000, rtol=1e-9)


def test_a_chain_that_is_never_walked_is_given_up_without_recursion() -> None:
    y = leaf(1.0)
    for _ in range(100_000):
        y = y * 1.0
    (g,) = tg.grad(y, y)
    assert g.item() == 1
    del y, g
    gc.collect()


def test_shared_subexpressions_are_visited_once() -> None:
    """A ladder of n rungs has 2^n paths and n nodes."""
    calls = []
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = y + y
        y.register_hook(lambda g: calls.append(1))
    y.backward()
    assert x.grad.item() == 2.0**60
    assert len(calls) == 60


def test_gradients_accumulate_in_leaves_only() -> None:
    x = leaf(1.0, 2.0)
    h = x * x
    y = (h * h).sum()
    y.backward(retain_graph=True)
    assert h.grad is None
    assert y.grad is None
    assert array(x.grad) == [4, 32]
    y.backward()
    assert array(x.grad) == [8, 64]
    x.grad = None
    (x * 3).sum().backward()
    assert array(x.grad) == [3, 3]


def test_accumulation_does_not_change_the_gradient_read_before() -> None:
    x = leaf(1.0, 2.0)
    (x * 2).sum().backward()
    before = x.grad
    (x * 2).sum().backward()
    assert array(before) == [2, 2]


def test_grad_leaves_dot_grad_alone_and_takes_interior_tensors() -> None:
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    h = x * w
    y = (h * h).sum()
    gx, gh, gy = tg.grad(y, [x, h, y])
    assert (array(gx), array(gh), array(gy)) == ([18, 64], [6, 16], 1)
    assert x.grad is None
    assert w.grad is None


def test_grad_of_several_outputs_is_the_weighted_sum() -> None:
    x = leaf(2.0)
    a, b = x * x, x * 5
    (g,) = tg.grad([a, b], x, [3.0, None])
    assert g.item() == 3 * 4 + 5
    (g,) = tg.grad([x * x, x], [x])  # an output that is a leaf, and the input itself
    assert g.item() == 5


def test_grad_walks_only_toward_its_inputs() -> None:
    """The branch of w is neither computed nor freed."""
    x, w = leaf(2.0), leaf(3.0)
    costly = tg.custom_op(lambda x: x * 1)
    costly.gradient(lambda g, out, x: pytest.fail("nobody asked for this gradient"))
    branch = costly(w)
    (g,) = tg.grad(x * branch, x)
    assert g.item() == 3
    assert branch.node.saved is not None


def test_the_first_layers_input_costs_nothing() -> None:
    """A lazy gradient of an input that wants none is not computed."""
    asked = []

    @tg.custom_op
    def product(a: Any, b: Any) -> Any:
        return a * b

    @product.gradient
    def _(g: Any, out: Any, a: Any, b: Any) -> Any:
        return lambda: asked.append("a") or g * b, lambda: asked.append("b") or g * a

    product(Tensor(2.0), leaf(3.0)).backward()
    assert asked == ["b"]


def test_deep_and_wide_backward_frees_as_it_goes() -> None:
    """The peak while walking a long chain is far below the sum of its arrays."""
    n, size = 300, 20_000
    x = Tensor(np.ones(size), requires_grad=True)
    y = x
    for _ in range(n):
        y = np.exp(y * 0.5) * 0.5  # two saved arrays of 160 kB each
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        y.backward(np.ones(size))
        now, peak = (m - before for m in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert peak < 10 * 8 * size
    assert now < 3 * 8 * size


def test_arrays_and_nodes_are_freed_by_the_walk_not_by_its_end() -> None:
    alive: list[int] = []
    x = leaf(1.0, 2.0)
    h = x * 2
    deep = np.exp(h)
    saved = weakref.ref(deep.data)
    node = weakref.ref(deep.node)
    y = (deep * 3).sum()
    h.register_hook(lambda g: alive.append((saved() is not None) + (node() is not None)))
    del deep, h
    y.backward()
    gc.disable()
    try:
        assert alive in ([0], [1])  # exp's node itself may still be the one at work; its array is gone by the end
        assert saved() is None
        assert node() is None
    finally:
        gc.enable()


def test_no_reference_cycles_in_a_training_step() -> None:
    """Memory of a step is given back at once, not when the garbage collector comes round."""
    w, b = Tensor(np.ones((4, 3)), requires_grad=True), leaf(0.0, 0.0, 0.0, 0.0)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(50):
            loss = OPS["softmax_cross_entropy"](OPS["linear"](np.ones((2, 3)), w, b).relu(), labels=np.array([0, 1]))
            loss.backward()
            w.grad = b.grad = None
            del loss
        assert len(gc.get_objects()) < before + 50
    finally:
        gc.enable()


def test_memory_is_flat_over_steps() -> None:
    rng = np.random.default_rng(0)
    w1, w2 = (Tensor(rng.normal(size=s) * 0.1, requires_grad=True) for s in [(16, 32), (4, 16)])
    x, labels = rng.normal(size=(20, 32)), rng.integers(0, 4, 20)

    def step() -> None:
        hidden = OPS["linear"](x, w1).relu()
        loss = OPS["softmax_cross_entropy"](OPS["linear"](hidden, w2), labels=labels)
        loss.backward()
        with tg.no_grad():
            for w in (w1, w2):
                w -= 0.1 * w.grad
                w.grad = None

    for _ in range(20):
        step()
    tracemalloc.start()
    try:
        step()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(300):
            step()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


# A graph is walked once ------------------------------------------------------------------------------------------


def test_second_backward_through_a_freed_graph() -> None:
    y = (leaf(1.0, 2.0) * 2).sum()
    y.backward()
    with pytest.raises(GraphError, match=r"sum \(\) a second time.*retain_graph=True"):
        y.backward()


def test_a_freed_trunk_is_met_from_another_branch() -> None:
    x = leaf(1.0, 2.0)
    trunk = x * x
    trunk.sum().backward()
    with pytest.raises(GraphError, match=r"multiply .*freed"):
        (trunk * 3).sum().backward()
    with pytest.raises(GraphError, match="freed"):
        tg.grad((trunk * 3).sum(), x)


def test_a_freed_graph_is_never_taken_for_an_unused_input() -> None:
    """Half of x's gradient would be missing here, or all of it."""
    x = leaf(1.0, 2.0)
    h = x * x
    h.sum().backward()
    for y in (h.sum(), (h + x).sum()):
        with pytest.raises(GraphError, match="freed"):
            tg.grad(y, x, allow_unused=True)


def test_retain_graph() -> None:
    x = leaf(3.0)
    y = x * x
    for times in (1, 2, 3):
        y.backward(retain_graph=True)
        assert x.grad.item() == 6 * times
    assert tg.grad(y, x, retain_graph=True)[0].item() == 6
    assert tg.grad(y, x)[0].item() == 6
    with pytest.raises(GraphError, match="freed"):
        tg.grad(y, x)


# Derivatives of derivatives ----------------------------------------------------------------------------------------


def test_to_third_order() -> None:
    x = leaf(2.0)
    y = x**4 * np.exp(-x)
    derivatives = [y]
    for _ in range(3):
        derivatives.append(tg.grad(derivatives[-1], x, create_graph=True)[0])
    e = np.exp(-2.0)
    expected = [16 * e, (32 - 16) * e, (48 - 64 + 16) * e, (48 - 144 + 96 - 16) * e]
    np.testing.assert_allclose([d.item() for d in derivatives], expected, atol=1e-14)


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "hinge", "mse", "batch_norm", "linear", "l2_penalty"])
def test_fused_ops_to_third_order(name: str, in_torch: Any, torch: Any) -> None:
    """Through the composed twins of the twins' gradients."""
    rng = np.random.default_rng(1)
    inputs, kwargs = {
        "softmax_cross_entropy": ([rng.normal(size=(3, 4))], {"labels": np.array([0, 3, 1])}),
        "hinge": ([rng.normal(size=(3, 4))], {"labels": np.array([0, 3, 1])}),
        "mse": ([rng.normal(size=(3, 4)), rng.normal(size=(3, 4))], {}),
        "batch_norm": ([rng.normal(size=(5, 2)), rng.normal(size=2), rng.normal(size=2)], {}),
        "linear": ([rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), rng.normal(size=2)], {}),
        "l2_penalty": ([rng.normal(size=(3, 4)), rng.normal(size=2)], {"coefficient": 0.5}),
    }[name]
    xs = [Tensor(x, requires_grad=True) for x in inputs]
    ts = in_torch.leaves(inputs)
    # F.batch_norm takes its saved moments for constants in the third derivative, so it is no oracle there.
    there = in_torch.textbook_batch_norm if name == "batch_norm" else in_torch.IN_TORCH[name]
    y, ty = (OPS[name](*xs, **kwargs) ** 3).sum(), (there(*ts, **kwargs) ** 3).sum()
    for order in (1, 2, 3):
        first = tg.grad(y, xs, create_graph=True, allow_unused=True)
        torch_first = in_torch.gradients([ty], ts, [torch.ones((), dtype=torch.float64)], create_graph=True)
        for g, t in zip(first, torch_first, strict=True):
            assert_close(g, in_torch.numpy(t), 1e-8, f"order {order}")
        y = sum(((g * np.cos(g.data)).sum() for g in first), Tensor(0.0))
        ty = sum((t * torch.cos(t.detach())).sum() for t in torch_first)


def test_backward_with_create_graph_leaves_differentiable_gradients() -> None:
    """A gradient penalty: d/dx |dy/dx|^2."""
    x = leaf(1.0, 2.0)
    (x**3).sum().backward(create_graph=True)
    penalty = (x.grad * x.grad).sum()
    (g,) = tg.grad(penalty, x)
    np.testing.assert_allclose(g.data, 36 * x.data**3)


def test_hvp_and_jacobian(torch: Any) -> None:
    rng = np.random.default_rng(3)
    a, x, v = rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=3)

    def f(x: Tensor) -> Tensor:
        return (np.exp(x) @ Tensor(a) * x.tanh()).sum()

    def g(x: Tensor) -> Tensor:
        return np.stack([x * x.sum(), (Tensor(a) @ x).sigmoid()])

    ta, tx, tv = (torch.from_numpy(z) for z in (a, x, v))
    for inputs, vectors in [([leaf(*x)], [v]), (leaf(*x), v)]:
        (product,) = tg.hvp(f, inputs, vectors)
        _, expected = torch.autograd.functional.hvp(lambda x: (x.exp() @ ta * x.tanh()).sum(), tx, tv)
        assert_close(product, expected, 1e-12)
    found = tg.jacobian(g, leaf(*x))
    torch_jacobian = torch.autograd.functional.jacobian
    assert_close(found, torch_jacobian(lambda x: torch.stack([x * x.sum(), (ta @ x).sigmoid()]), tx), 1e-12)
    hessian = tg.jacobian(lambda x: tg.grad(f(x), x, create_graph=True)[0], leaf(*x))
    assert_close(hessian, torch.autograd.functional.hessian(lambda x: (x.exp() @ ta * x.tanh()).sum(), tx), 1e-12)


def test_hvp_of_two_inputs_and_of_a_linear_function() -> None:
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    hx, hw = tg.hvp(lambda x, w: (x * w).sum(), [x, w], [np.ones(2), np.array([5.0, 6.0])])
    assert (array(hx), array(hw)) == ([5, 6], [1, 1])
    assert array(*tg.hvp(lambda x: (x * 2).sum(), [x], [np.ones(2)])) == [0, 0]


def test_jacobian_of_a_leaf_and_of_a_part() -> None:
    x = leaf(1.0, 2.0, 3.0)
    assert array(tg.jacobian(lambda x: x, x)) == np.eye(3).tolist()
    assert array(tg.jacobian(lambda x: x[1:] * 2, x)) == [[0, 2, 0], [0, 0, 2]]


def test_jacobian_of_nothing() -> None:
    assert tg.jacobian(lambda x: x[:0], leaf(1.0, 2.0)).shape == (0, 2)
    assert tg.jacobian(lambda x: x * x, leaf()).shape == (0, 0)


def test_hvp_wants_a_vector_for_each_input() -> None:
    with pytest.raises(ShapeError, match="2 inputs, but 1 vectors"):
        tg.hvp(lambda a, b: (a * b).sum(), [leaf(1.0), leaf(2.0)], [np.ones(1)])


# What is recorded ---------------------------------------------------------------------------------------------------


def test_no_grad_enable_grad_and_detach() -> None:
    x = leaf(1.0, 2.0)
    assert tg.is_recording()
    with tg.no_grad():
        assert not tg.is_recording()
        quiet = x * 2
        with tg.enable_grad():
            loud = x * 2
    assert tg.is_recording()
    assert (quiet.requires_grad, quiet.is_leaf, quiet.node) == (False, True, None)
    assert loud.requires_grad
    assert not loud.is_leaf
    cut = loud.detach()
    assert (cut.requires_grad, cut.is_leaf) == (False, True)
    assert np.shares_memory(cut.data, loud.data)
    (loud * cut).sum().backward()
    assert array(x.grad) == [4, 8]


def test_no_grad_decorates_functions() -> None:
    @tg.no_grad()
    def evaluate(x: Tensor) -> Tensor:
        return x * 2

    assert not evaluate(leaf(1.0)).requires_grad
    assert not evaluate(leaf(1.0)).requires_grad
    assert tg.is_recording()


def test_no_grad_and_enable_grad_can_be_kept_and_nested() -> None:
    quiet, loud = tg.no_grad(), tg.enable_grad()
    for _ in range(2):
        with quiet:
            with quiet, loud:
                assert tg.is_recording()
            assert not tg.is_recording()
        assert tg.is_recording()


def test_no_grad_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), tg.no_grad():
        1 / 0  # noqa: B018
    assert tg.is_recording()


def test_a_failing_walk_leaves_recording_as_it_was() -> None:
    broken = tg.custom_op(lambda x: x * 1)
    broken.gradient(lambda g, out, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken(leaf(1.0)).backward()
    assert tg.is_recording()
    with tg.no_grad():
        x = leaf(1.0)
        with tg.enable_grad():
            y = x * x
        y.backward()
        assert not tg.is_recording()


def test_backward_works_inside_no_grad_and_create_graph_records_there() -> None:
    x = leaf(3.0)
    y = x**3
    with tg.no_grad():
        (g,) = tg.grad(y, x, create_graph=True)
    assert tg.grad(g, x)[0].item() == 18


def test_plain_backward_records_nothing() -> None:
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    assert not x.grad.requires_grad
    assert x.grad.node is None


@pytest.mark.parametrize("start", [lambda: Tensor(1.0), lambda: Tensor(1.0) * 2, lambda: Tensor(2)])
def test_nothing_to_differentiate(start: Callable[[], Tensor]) -> None:
    with pytest.raises(GraphError, match="requires_grad=True"):
        start().backward()
    with pytest.raises(GraphError, match="does not require a gradient"):
        tg.grad(leaf(1.0) * 2, start())


def test_a_vector_needs_a_gradient_from_above() -> None:
    y = leaf(1.0, 2.0) * 2
    with pytest.raises(GraphError, match=r"scalar, not from shape \(2,\).*\.mean\(\)"):
        y.backward()
    with pytest.raises(ShapeError, match=r"shape \(3,\), but the output has \(2,\)"):
        y.backward(np.ones(3))
    with pytest.raises(DtypeError, match=r"float32.*float64"):
        y.backward(Tensor(np.ones(2, np.float32)))
    (leaf(1.0, dtype=np.float32) * 2).backward(1.0)  # numbers and arrays are converted


def test_an_unused_input() -> None:
    x, other = leaf(1.0, 2.0), leaf(3.0)
    other.name = "other"
    with pytest.raises(GraphError, match=r"do not depend on other \(\).*allow_unused"):
        tg.grad(x.sum(), [x, other])
    gx, g = tg.grad(x.sum(), [x, other], allow_unused=True)
    assert (array(gx), g.item()) == ([1, 1], 0)


# Hooks --------------------------------------------------------------------------------------------------------------


def test_hooks_get_the_whole_gradient_once() -> None:
    seen: list[Any] = []
    x = leaf(2.0)
    h = x * 3
    x.register_hook(lambda g: seen.append(("x", g.item())))
    h.register_hook(lambda g: seen.append(("h", g.item())))
    (h * h + h + x).backward()
    assert seen == [("h", 13.0), ("x", 40.0)]
    assert x.grad.item() == 40


def test_hooks_replace_and_are_removed() -> None:
    x = leaf(2.0)
    h = x * 3
    double = h.register_hook(lambda g: g * 2)
    h.register_hook(lambda g: g + 1)  # called after the first, with what that returned
    h.backward(retain_graph=True)
    assert x.grad.item() == 9
    double()
    x.grad = None
    clip = x.register_hook(lambda g: g.clip(-1, 1))
    h.backward(retain_graph=True)
    assert x.grad.item() == 1
    clip()
    assert tg.grad(h, x)[0].item() == 6


def test_hooks_record_under_create_graph() -> None:
    x = leaf(3.0)
    x.register_hook(lambda g: g * x)
    (g,) = tg.grad(x * x, x, create_graph=True)
    assert g.item() == 18
    assert tg.grad(g, x)[0].item() == 12 * 3  # the hook acts on the second gradient too: 4 x * x


def test_what_a_hook_may_not_do() -> None:
    with pytest.raises(GraphError, match="requires a gradient"):
        Tensor(1.0).register_hook(print)
    for wrong in (np.ones(2), Tensor(np.ones(3)), Tensor(np.ones(2, np.float32)), 1.0):
        x = leaf(1.0, 2.0)
        x.register_hook(lambda g, wrong=wrong: wrong)
        with pytest.raises(GraphError, match=r"a hook returned .*Tensor \(2,\) float64"):
            x.sum().backward()


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_hook_that_changes_its_gradient_in_place_is_refused(create_graph: bool) -> None:
    """The gradient of a sum is that of each of its terms."""
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    h, k = x * 1, w * 1

    def halve(g: Tensor) -> None:
        g *= 0.5

    h.register_hook(halve)
    with pytest.raises(GraphError, match=r"in place.*g \* 0\.5, not g \*= 0\.5"):
        tg.grad((h + k) * leaf(1.0, 1.0), [x, w], np.ones(2), create_graph)


# Gradients belong to whoever got them ----------------------------------------------------------------------------


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_share_no_memory(create_graph: bool) -> None:
    a, b, v = leaf(1.0, 2.0), leaf(3.0, 4.0), np.ones(2)
    (a + b).backward(v, create_graph=create_graph)
    a.backward(v, create_graph=create_graph)
    h, k = a * 1, b * 1
    grads = [a.grad, b.grad, *tg.grad(h + k, [h, k, a], v, create_graph)]
    memory = [v, a.data, b.data, *(g.data for g in grads)]
    for i, one in enumerate(memory):
        assert not any(np.shares_memory(one, other) for other in memory[:i])
    with tg.no_grad():
        a.grad *= 10
    assert array(b.grad) == [1, 1]


@pytest.mark.parametrize("reduce", [np.sum, np.mean, lambda t: np.broadcast_to(t, (2, 2)).sum()])
def test_a_gradient_can_be_written_to(reduce: Callable[[Any], Tensor]) -> None:
    """Not a read-only repetition of one number."""
    x = leaf(1.0, 2.0)
    reduce(x).backward()
    x.grad.data[0] = 7
    assert x.grad.data[1] != 7


def test_a_gradient_handed_in_is_not_kept() -> None:
    x, v = leaf(1.0, 2.0), np.ones(2)
    x.register_hook(lambda g: Tensor(v))
    x.sum().backward()
    x.grad.data[:] = 5
    assert v.tolist() == [1, 1]


# In-place changes ---------------------------------------------------------------------------------------------------


def write_item(t: Tensor) -> None:
    t[0] = 5.0


def add_in_place(t: Tensor) -> None:
    t += 1


def subtract_in_place(t: Tensor) -> None:
    t -= 1


def multiply_in_place(t: Tensor) -> None:
    t *= 2


def divide_in_place(t: Tensor) -> None:
    t /= 2


def out_argument(t: Tensor) -> None:
    np.multiply(t, 2, out=t)


def optimiser_step(t: Tensor) -> None:
    t.data -= 0.1
    t.version[0] += 1


def through_a_view(t: Tensor) -> None:
    view = t[1:]
    view[0] = 5.0


def through_a_transpose(t: Tensor) -> None:
    view = t.T
    view *= 2


def through_a_reshape(t: Tensor) -> None:
    view = np.expand_dims(t.reshape(-1, 1), 0).squeeze()
    view *= 2


def through_einsum(t: Tensor) -> None:
    view = np.einsum("i->i", t)
    view *= 2


def through_detach(t: Tensor) -> None:
    cut = t.detach()
    cut += 1


def through_another_tensor(t: Tensor) -> None:
    same = Tensor(t)
    same += 1


CHANGES = [
    write_item, add_in_place, subtract_in_place, multiply_in_place, divide_in_place, out_argument, optimiser_step,
    through_a_view, through_a_transpose, through_a_reshape, through_einsum, through_detach, through_another_tensor,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", ["leaf", "constant", "interior", "result"])
def test_a_change_of_what_backward_needs_fails_loudly(change: Callable[[Tensor], None], which: str) -> None:
    x, c = leaf(1.0, 2.0), Tensor(np.array([3.0, 4.0]))
    h = x * c
    y = np.exp(h * h)
    with tg.no_grad():
        change({"leaf": x, "constant": c, "interior": h, "result": y}[which])
    op = "exp" if which == "result" else "multiply"
    with pytest.raises(MutationError, match=rf"backward through {op} \(2,\).*changed in place.*clone"):
        y.backward(np.ones(2))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_backward_does_not_need_is_free(change: Callable[[Tensor], None]) -> None:
    x = leaf(1.0, 2.0)
    h = x + 1
    y = h * 3
    with tg.no_grad():
        change(y)
        change(h.clone())
        change(x.clone())
    y.backward(np.ones(2))
    assert array(x.grad) == [3, 3]


def test_an_index_and_a_condition_may_change_before_backward() -> None:
    for take in (
        lambda x, at, mask: x[at],
        lambda x, at, mask: np.take(x, at),
        lambda x, at, mask: np.where(mask, x, 0),
    ):
        x, at, mask = leaf(1.0, 2.0, 3.0), Tensor([0, 1]), Tensor([True, True, False])
        y = take(x, at, mask)
        at[0], mask[0] = 2, False
        y.sum().backward()
        assert array(x.grad) == [1, 1, 0]
    x, at, v = leaf(1.0, 2.0, 3.0), Tensor([0, 1]), leaf(4.0, 5.0)
    h = x * 1
    h[at] = v
    at[0] = 2
    (h * np.array([1.0, 10.0, 100.0])).sum().backward()
    assert (array(x.grad), array(v.grad)) == ([0, 0, 100], [1, 10])


def test_a_copy_is_no_view() -> None:
    """Advanced indexing copies, so the batch drawn from a set outlives a change of the set."""
    data, w = Tensor(np.arange(6.0).reshape(3, 2)), leaf(1.0, 2.0)
    loss = (data[np.array([0, 2])] * w).sum()
    data += 1
    loss.backward()
    assert array(w.grad) == [4, 6]


def test_a_change_between_first_and_second_derivative() -> None:
    for which in ("leaf", "interior", "constant"):
        x, c = leaf(1.0, 2.0), Tensor(np.array([3.0, 4.0]))
        h = x * c
        (g,) = tg.grad((h**3).sum(), x, create_graph=True)
        with tg.no_grad():
            {"leaf": x, "interior": h, "constant": c}[which][...] = 50
        if which == "leaf":
            continue  # no second derivative needs x itself here
        with pytest.raises(MutationError):
            tg.grad(g.sum(), x)


def test_another_array_between_forward_and_create_graph() -> None:
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    x.data = np.array([5.0, 6.0])
    assert array(*tg.grad(y, x, retain_graph=True)) == [2, 4]
    with pytest.raises(MutationError, match=r"another array \(t\.data = "):
        tg.grad(y, x, create_graph=True)


def test_a_leaf_that_requires_a_gradient_is_not_changed_inside_the_graph() -> None:
    for change in CHANGES[:6]:
        x = leaf(1.0, 2.0)
        with pytest.raises(GraphError, match=r"leaf that requires a gradient.*no_grad.*clone"):
            change(x)
        assert array(x) == [1, 2]
        with tg.no_grad():
            change(x)
        assert x.version == [1]
        assert x.requires_grad
        assert x.is_leaf


def test_writing_through_a_view_inside_the_graph_is_refused() -> None:
    """t[0][1] = v would change a passing tensor and leave t as it was."""
    t = leaf(1.0, 2.0) * 1
    for view in (t[0:1], t.reshape(2, 1), t.T, np.expand_dims(t, 0)):
        with pytest.raises(GraphError, match=r"is a view.*t\[0, 1\] = v.*clone"):
            view[...] = 3.0
    copied = t[np.array([0])]
    copied[0] = 3.0
    assert (array(t), array(copied)) == ([1, 2], [3])


def test_writing_something_recorded_through_a_view_of_a_constant_is_refused_too() -> None:
    """It would not reach the constant, whose part of the gradient would be lost."""
    w, buffer = leaf(2.0), Tensor(np.zeros((2, 2)))
    for view in (buffer[0], buffer.T, buffer.reshape(4), np.expand_dims(buffer, 0)):
        with pytest.raises(GraphError, match="is a view"):
            view[0] = w
    with pytest.raises(GraphError, match="is a view"):
        buffer[0][1] += w
    buffer[0][1] = 5.0  # numbers reach the memory
    assert array(buffer) == [[0, 5], [0, 0]]
    buffer[0] += w
    flat = buffer.T.reshape(-1)  # had to be copied: no view
    flat[0] = w * 3
    assert (array(buffer), array(flat)) == ([[2, 7], [0, 0]], [6, 0, 7, 0])
    tg.grad(buffer.sum() + flat.sum(), w)


def test_augmented_assignment_to_a_part() -> None:
    """t[0:2] += v is t[0:2] = t[0:2] + v."""
    x, v = leaf(1.0, 2.0, 3.0), leaf(10.0, 20.0)
    t = x * 1
    t[0:2] += v * 2
    t[2] *= 5
    assert array(t) == [21, 42, 15]
    t.backward(np.ones(3))
    assert (array(x.grad), array(v.grad)) == ([1, 1, 5], [2, 2])
    with tg.no_grad():
        x[0:2] += v
        x[2] *= 5
    assert array(x) == [11, 22, 15]


def test_recorded_changes_are_differentiated(torch: Any) -> None:
    rng = np.random.default_rng(0)
    x, u, w = (rng.normal(size=s) for s in [(3, 4), (4,), (3, 2)])
    xs = [Tensor(z, requires_grad=True) for z in (x, u, w)]
    ts = [torch.tensor(z, requires_grad=True) for z in (x, u, w)]

    def change(x: Any, u: Any, w: Any) -> Any:
        h = x * 1
        h[1] = u
        h += x
        h[:, 1:3] = w * 2
        h *= u
        h -= 1
        h /= 3
        h[0, 0] = 7
        return h * h

    y, ty = change(*xs), change(*ts)
    assert_close(y, ty.detach(), 1e-12)
    upstream = rng.normal(size=(3, 4))
    expected = torch.autograd.grad(ty, ts, torch.from_numpy(upstream))
    for create_graph in (True, False):
        for g, t in zip(tg.grad(y, xs, upstream, create_graph), expected, strict=True):
            assert_close(g, t, 1e-12)


def test_recorded_setitem_with_duplicates_the_last_one_wins() -> None:
    x, v = leaf(1.0, 2.0, 3.0), leaf(10.0, 20.0, 30.0)
    h = x * 1
    h[np.array([0, 2, 0])] = v
    assert array(h) == [30, 2, 20]
    (h * np.array([1.0, 10.0, 100.0])).sum().backward()
    assert array(v.grad) == [0, 100, 1]
    assert array(x.grad) == [0, 10, 0]


def test_a_buffer_takes_up_the_graph() -> None:
    """A constant tensor that something recorded is written into becomes part of the graph."""
    x = leaf(2.0, 3.0)
    buffer = Tensor(np.zeros((2, 2)))
    buffer[0] = x
    buffer[1] = x * x
    assert buffer.requires_grad
    (buffer * np.array([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert array(x.grad) == [1 + 3 * 4, 2 + 4 * 6]
    with pytest.raises(GraphError, match="is a view"):
        np.add(x, 1, out=buffer[0])
    target = Tensor(np.zeros(2))
    assert np.add(x, 1, out=target) is target
    target.sum().backward()


def test_in_place_keeps_shape_and_dtype() -> None:
    t = Tensor(np.ones(2, np.float32))
    with pytest.raises(ShapeError, match=r"cannot turn \(2,\).*into \(3, 2\)"):
        t += np.ones((3, 2), np.float32)
    with pytest.raises(DtypeError, match="float32"):
        t += np.ones(2)
    with pytest.raises(DtypeError, match="int64"):
        Tensor(np.ones(2, int)).__iadd__(1.5)
    t += 1.5
    t *= np.float64(2)
    assert (t.dtype, array(t)) == (np.float32, [5, 5])


# What a rule may return -------------------------------------------------------------------------------------------


def op_with_rule(rule: Callable[..., Any]) -> Any:
    @tg.custom_op
    def product(a: Any, b: Any) -> Any:
        return a * b

    product.gradient(rule)
    return product


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ((np.ones(2), np.ones(3)), ShapeError, r"gradient of product, input 1 \(b\):.*\(3,\).*\(2,\)"),
        ((np.ones(2), np.ones(())), ShapeError, r"input 1 \(b\):.*shape \(\)"),
        ((np.ones((2, 1)), None), ShapeError, r"input 0 \(a\)"),
        ((np.ones(2, np.float32), None), DtypeError, r"gradient of product, input 0 \(a\).*float32.*float64"),
        ((None, 1.0), DtypeError, r"input 1 \(b\): the rule returned float"),
        ((lambda: np.ones(2, int), None), DtypeError, r"input 0 \(a\).*int64"),
        ((np.ones(2),), GraphError, "rule of product must return a tuple of 2"),
        (np.ones((2, 2)), GraphError, "rule of product must return a tuple of 2"),
        (None, GraphError, "rule of product must return a tuple of 2"),
    ],
)
def test_a_wrong_rule_is_named(returned: Any, error: type[TinygradCifarError], message: str) -> None:
    y = op_with_rule(lambda g, out, a, b: returned)(leaf(1.0, 2.0), leaf(3.0, 4.0))
    with pytest.raises(error, match=message):
        y.backward(np.ones(2))


def test_an_op_without_a_rule() -> None:
    shout = tg.custom_op(lambda x: x * 1)
    with pytest.raises(GraphError, match="has no gradient rule"):
        shout(leaf(1.0)).backward()


def test_custom_op_as_the_design_shows_it() -> None:
    @tg.custom_op
    def cube(x: Any) -> Any:
        """x ** 3"""
        return x**3

    @cube.gradient
    def cube_gradient(g: Any, out: Any, x: Any) -> Any:
        return (3 * g * x**2,)

    x = leaf(2.0, 3.0)
    y = cube(x)
    assert (cube.__doc__, cube.__name__, cube.name) == ("x ** 3", "cube", "cube")
    assert "cube" not in OPS
    first = tg.grad(y, x, np.ones(2), create_graph=True)
    assert array(*first) == [12, 27]
    assert array(*tg.grad(first, x, [np.ones(2)])) == [12, 18]  # the rule is NumPy, so it is differentiable itself
    cube(leaf(2.0, dtype=np.float32)).backward()


def test_custom_op_with_none_and_keyword_arguments() -> None:
    @tg.custom_op
    def gated(x: Any, gate: Any, *, scale: float = 1.0, labels: Any = None) -> Any:
        return x * (gate > 0) * scale

    @gated.gradient
    def _(g: Any, out: Any, x: Any, gate: Any, *, scale: float = 1.0, labels: Any = None) -> Any:
        return g * (gate > 0) * scale, None

    x, gate = leaf(1.0, 2.0), leaf(-1.0, 1.0)
    gated(x, gate, scale=np.float64(3), labels=Tensor(np.array([0, 1]))).sum().backward()
    assert array(x.grad) == [0, 3]
    assert gate.grad is None


def test_custom_op_whose_rule_hands_out_what_it_was_given() -> None:
    """Its gradients are copied: .grad never shares memory with an input, an upstream gradient, or another .grad."""
    op = op_with_rule(lambda g, out, a, b: (b, b))
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    op(a, b).backward(np.ones(2))
    a.grad.data[:] = 0
    assert (array(b), array(b.grad)) == ([3, 4], [3, 4])


def test_custom_op_that_returns_its_input_or_a_view() -> None:
    for forward in (lambda x: x, lambda x: x[::-1], lambda x: x.reshape(-1)):
        same = tg.custom_op(forward)
        same.gradient(lambda g, out, x: (g,))
        c, w = Tensor(np.array([1.0, 2.0])), leaf(3.0, 4.0)
        y = same(c) * w
        c[0] = 100
        with pytest.raises(MutationError):
            y.backward(np.ones(2))


def test_custom_op_that_leaves_its_precision() -> None:
    widen = tg.custom_op(lambda x: x * np.float64(2))
    with pytest.raises(DtypeError, match=r"of float32 gave float64"):
        widen(leaf(1.0, dtype=np.float32))
    with pytest.raises(DtypeError, match="no number"):
        tg.custom_op(lambda x: None)(leaf(1.0))


def test_custom_op_returns_a_python_number() -> None:
    total = tg.custom_op(lambda x: float(x.sum()))
    total.gradient(lambda g, out, x: (g * np.ones_like(x),))
    x = leaf(1.0, 2.0)
    total(x).backward()
    assert array(x.grad) == [1, 1]


def test_errors_of_a_users_forward_are_left_alone() -> None:
    def forward(x: Any) -> Any:
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        tg.custom_op(forward)(leaf(1.0))


# Anomalies ----------------------------------------------------------------------------------------------------------


def test_each_thread_records_for_itself() -> None:
    x, inside, done = leaf(1.0, 2.0), threading.Event(), threading.Event()

    def evaluates() -> None:
        with tg.no_grad():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=evaluates)
    thread.start()
    inside.wait(10)
    with tg.no_grad():
        done.set()  # the other one ends in the middle of this block, and puts back what it found
        thread.join()
        assert not (x * x).requires_grad
    (x * x).sum().backward()
    assert array(x.grad) == [2, 4]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_detect_anomaly_names_the_first_op() -> None:
    x = leaf(1.0, 0.0)
    x.name = "pixels"
    with tg.detect_anomaly():
        with pytest.raises(NonFiniteError, match=r"log\(pixels \(2,\) float64\) is the first op.*entry \(1,\) is -inf"):
            np.log(x)
        root = np.sqrt(x)
        with pytest.raises(NonFiniteError, match=r"gradient of sqrt, input 0 \(x\)"):
            root.backward(np.ones(2))
        (np.log(leaf(float("inf"))) + 1).backward()  # what comes in infinite is not this op's fault
        masked = np.where([True, False], -np.inf, x)
        with pytest.raises(NonFiniteError, match=r"subtract\(select .*not a number: entry \(0,\) is nan"):
            masked - masked
    np.log(x)  # and outside it is NumPy's business


def test_detect_anomaly_names_the_nan_that_was_there_before() -> None:
    pixels, weight = leaf(1.0, float("nan")), leaf(2.0, 3.0)
    pixels.name = "pixels"
    with tg.detect_anomaly(), pytest.raises(NonFiniteError, match=r"first op that meets a nan.*entry \(1,\) of pixels"):
        (weight * pixels).sum().backward()


def test_detect_anomaly_with_lists_numbers_and_create_graph() -> None:
    x = leaf(1.0, 2.0)
    with tg.detect_anomaly():
        y = (x * [1.0, 2.0] + 1 > 0) * x + np.float64(2)
        (g,) = tg.grad((y * y).sum(), x, create_graph=True)
        g.sum().backward()
    assert array(x.grad) == [2, 2]


# Laws -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 2**16), st.floats(-3, 3), st.floats(-3, 3))
def test_the_gradient_is_linear_in_what_comes_from_above(seed: int, p: float, q: float) -> None:
    rng = np.random.default_rng(seed)
    x = Tensor(rng.normal(size=(3, 4)), requires_grad=True)
    y = OPS["softmax"](np.exp(x * 0.1) @ x.T, axis=0)
    u, v = rng.normal(size=(2, 3, 3))

    def pulled(g: Any) -> Any:
        return tg.grad(y, x, g, retain_graph=True)[0].data

    assert_close(pulled(p * u + q * v), p * pulled(u) + q * pulled(v), 1e-11)


def test_unsupported_arguments_say_so() -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(UnsupportedError, match=r"no gradient flows through targets=.*detach"):
        OPS["binary_cross_entropy_with_logits"](x, targets=leaf(0.0, 1.0))
    with pytest.raises(UnsupportedError, match=r"no gradient flows through bias=.*by position"):
        OPS["linear"](x, leaf(*range(4)).reshape(2, 2), bias=x)
    with pytest.raises(ShapeError, match=r"1 outputs, but 2 grad_outputs.*give an array"):
        tg.grad(x * 2, x, [1.0, 1.0])
