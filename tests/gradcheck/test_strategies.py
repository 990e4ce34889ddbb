"""The strategies draw what they promise; check_op finds wrong ops and shows a program that does, too."""

import math
import subprocess
import sys
from operator import mul
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_cifar as tg
from tinygrad_cifar import nn
from tinygrad_cifar.gradcheck.random_networks import RandomNetwork
from tinygrad_cifar.gradcheck.strategies import arrays, broadcastable, check_op, code_of, networks, shapes, values


@given(arrays(shapes(), tg.gradcheck.strategies.dtypes()))
def test_code_makes_the_same_array_again(array: Any) -> None:
    again = eval(code_of(array), {"np": np})
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(again, array)
    if array.size > 1:
        assert strides(again) == strides(array)


def strides(array: Any) -> list[int]:
    """The signs of the strides that matter."""
    return [int(np.sign(s)) for s, n in zip(array.strides, array.shape, strict=True) if n > 1]


@given(broadcastable(3))
def test_shapes_broadcast(group: Any) -> None:
    np.broadcast_shapes(*group)


@given(st.data())
def test_values_are_near_kinks_or_far_from_them(data: Any) -> None:
    near = data.draw(values(kinks=(0.0, 1.0), near="near"))
    assert min(abs(near), abs(near - 1)) <= 2.0**-20
    far = data.draw(values(-2, 2, kinks=(0.0, 1.0), near="far"))
    assert min(abs(far), abs(far - 1)) >= 2.0**-4
    assert np.float32(far) == far


def test_every_layout_turns_up() -> None:
    seen: set[str] = set()

    @settings(max_examples=200, derandomize=True, database=None)
    @given(arrays((3, 4)))
    def look(array: Any) -> None:
        kind = ("zero" if 0 in array.strides else "negative" if min(array.strides) < 0 else
                "plain" if array.flags.c_contiguous else "fortran" if array.flags.f_contiguous else "gaps")  # fmt: skip
        seen.add(kind)

    look()
    assert seen == {"zero", "negative", "plain", "fortran", "gaps"}


@settings(max_examples=40)
@given(networks(dropout=0.0))
def test_random_networks_build_themselves_again(network: RandomNetwork) -> None:
    assert isinstance(network.model, nn.Sequential)
    assert len([m for m in network.model if isinstance(m, nn.Linear)]) == network.layers
    again = eval(repr(network))
    assert network.loss().item() == again.loss().item()
    assert np.isfinite(network.loss().item())


def test_random_networks_leave_the_random_streams_alone() -> None:
    before = tg.random.stream("init").bit_generator.state
    assert RandomNetwork(layers=3, batch_norm=True).model is not None
    assert tg.random.stream("init").bit_generator.state == before


def test_dead_units_are_dead_and_kinks_are_met() -> None:
    dead = RandomNetwork(dead=True, batch=6)
    hidden = dead.model[1](dead.model[0](tg.Tensor(dead.x))).data
    assert not hidden[:, -1].any()
    exact = RandomNetwork(kink="exact")
    assert not exact.model[0](tg.Tensor(exact.x)).data[0].any()
    near = RandomNetwork(kink="near", batch_norm=True)
    scores = near.model[1](near.model[0](tg.Tensor(near.x))).data
    assert 0 < abs(scores[0, 0]) < 1e-6


# check_op -------------------------------------------------------------------------------------------------------------


@tg.custom_op
def cube(x: Any) -> Any:
    return x**3


@cube.gradient
def cube_gradient(g: Any, out: Any, x: Any) -> Any:
    return (3 * g * x * x,)


@tg.custom_op
def wrong_cube(x: Any) -> Any:
    return x**3


@wrong_cube.gradient
def wrong_cube_gradient(g: Any, out: Any, x: Any) -> Any:
    return (3 * g * x * abs(x),)


test_an_op = check_op(cube, max_examples=20)

OFFSET = 1.5


@check_op(max_examples=20)
def test_a_composed_function(x: Any, y: Any) -> Any:
    """Its own docstring."""
    return np.sqrt(x * x + y * y + OFFSET)


@check_op(shapes="same", values=[values(0.25, 3), values()], max_examples=20)
def test_values_for_each_input(x: Any, y: Any) -> Any:
    return x.log() * y


@check_op(shapes=st.just(((3, 2), (2, 4))), max_examples=10)
def test_shapes_of_a_product(a: Any, b: Any) -> Any:
    return a @ b


@check_op(max_examples=20)
def test_an_empty_maximum_is_passed_over(x: Any) -> Any:
    return x.max()


@check_op(values=values(0, 3), max_examples=20)
def test_what_is_not_finite_is_passed_over(x: Any) -> Any:
    return x.log()


def test_the_result_is_a_test_for_pytest() -> None:
    assert test_a_composed_function.__name__ == "test_a_composed_function"
    assert test_a_composed_function.__doc__ == "Its own docstring."


def doubled(x: Any) -> Any:
    return 2 * x


def composed(x: Any, y: Any) -> Any:
    return wrong_cube(doubled(x)) * y + OFFSET


def failure(function: Any, **options: Any) -> str:
    test = check_op(function, **options)
    with pytest.raises(AssertionError) as caught:
        test()
    return str(caught.value)


@pytest.mark.parametrize("function", [wrong_cube, composed])
def test_a_wrong_op_is_shown_by_a_program(function: Any) -> None:
    text = failure(function)
    assert "WRONG gradients. wrong_cube #1, gradient of its input x: sign" in text
    program = text.split("This program shows it:\n\n")[1]
    assert "np.array(-" in program  # the smallest example: a single negative number
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "WRONG gradients. wrong_cube #1, gradient of its input x: sign" in run.stdout


@tg.custom_op
def blind_to_strides(x: Any) -> Any:
    return 2 * x


@blind_to_strides.gradient
def blind_to_strides_gradient(g: Any, out: Any, x: Any) -> Any:
    return (2 * g if x.flags.c_contiguous else g.copy(),)


@tg.custom_op
def in_place(x: Any) -> Any:
    if x.flags.writeable:
        x += 1
    return x * 2.0


@in_place.gradient
def in_place_gradient(g: Any, out: Any, x: Any) -> Any:
    return (2 * g,)


@tg.custom_op
def of_other_precision(x: Any) -> Any:
    return x * 2


@of_other_precision.gradient
def of_other_precision_gradient(g: Any, out: Any, x: Any) -> Any:
    return (g.astype(np.float64) * 2,)


def test_layout_in_place_changes_and_precision_are_looked_at() -> None:
    assert "depends on the memory layout" in failure(blind_to_strides, max_examples=300)
    assert "x changed in place" in failure(in_place)
    assert "DtypeError" in failure(of_other_precision)


@tg.custom_op
def without_a_rule(x: Any) -> Any:
    return 2 * x


TABLE = np.array([1.0, 2.0])
WEIGHT = tg.Tensor([3.0, 4.0])


def weighted(x: Any) -> Any:
    return mul(wrong_cube(x), math.pi) * TABLE.sum().item() * WEIGHT.sum().item()


def test_the_program_is_there_for_every_kind_of_op() -> None:
    assert "op without_a_rule has no gradient rule" in failure(without_a_rule)
    text = failure(weighted)
    assert "TABLE = np.array([1.0, 2.0], 'float64')" in text
    assert "WEIGHT = tg.Tensor(np.array([3.0, 4.0], 'float64'))" in text
    assert "import math as math" in text
    assert "from _operator import mul" in text
    exec(text.split("This program shows it:\n\n")[1], {})
    typed: dict[str, Any] = {"tg": tg}
    exec("@tg.custom_op\ndef typed(x): return 2 * x\ntyped.gradient(lambda g, out, x: (3 * g,))", typed)
    assert "# the source of typed is not at hand" in failure(typed["typed"])


def test_a_function_must_return_a_tensor() -> None:
    with pytest.raises(tg.errors.GraphError, match="must return a Tensor, not float"):
        check_op(lambda x: float(x.data.sum()), max_examples=1)()
