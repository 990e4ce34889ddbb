"""Hypothesis strategies for testing gradients, and ``check_op``, which makes a property test of an op.

    @check_op
    def test_hypotenuse(x, y):
        return (x * x + y * y + 1).sqrt()

    test_cube = check_op(cube)  # an op of your own, made with tg.custom_op

Needs hypothesis: ``pip install 'tinygrad-cifar[test]'``.
"""

import inspect
import math
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import DTypeLike

from tinygrad_cifar.engine import grad
from tinygrad_cifar.errors import GraphError
from tinygrad_cifar.gradcheck.check import check_gradients
from tinygrad_cifar.gradcheck.random_networks import CHOICES, RandomNetwork
from tinygrad_cifar.tensor import Array, Op, Tensor

Shape = tuple[int, ...]
Strategy = st.SearchStrategy

LAYOUTS = ("contiguous", "fortran", "reversed", "gaps", "repeated")


def dtypes() -> Strategy[np.dtype[Any]]:
    """float64 or float32."""
    return st.sampled_from([np.dtype("float64"), np.dtype("float32")])


def shapes(min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 4) -> Strategy[Shape]:
    """Shapes of ``min_dims`` to ``max_dims`` axes; a side of 0 makes an empty array."""
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)


def broadcastable(count: int, max_dims: int = 3, min_side: int = 0, max_side: int = 4) -> Strategy[tuple[Shape, ...]]:
    """``count`` shapes that NumPy broadcasts together."""
    groups = hnp.mutually_broadcastable_shapes(
        num_shapes=count, max_dims=max_dims, min_side=min_side, max_side=max_side
    )
    return groups.map(lambda group: group.input_shapes)


def values(
    low: float = -3.0,
    high: float = 3.0,
    kinks: Sequence[float] = (),
    near: Literal["anywhere", "near", "far"] = "anywhere",
) -> Strategy[float]:
    """Multiples of 2^-10 in [low, high]: exact in float32, and simple where an example is shrunk.

    Args:
        low, high: the range.
        kinks: where the function under test has kinks, as (0.0,) for ReLU.
        near: "near": on a kink or 2^-20 beside it; "far": at least 2^-4 away from all; or "anywhere".
    """
    if near == "near":
        return st.sampled_from([kink + beside for kink in kinks for beside in (0.0, 2.0**-20, -(2.0**-20))])
    numbers = st.integers(math.ceil(low * 1024), math.floor(high * 1024)).map(lambda i: i / 1024)
    if near == "far":
        return numbers.filter(lambda x: all(abs(x - k) >= 2.0**-4 for k in kinks))
    return numbers


@st.composite
def arrays(
    draw: st.DrawFn,
    shape: Shape | Strategy[Shape],
    dtype: DTypeLike | Strategy[Any] = "float64",
    elements: Strategy[float] | None = None,
    layouts: Sequence[str] = LAYOUTS,
) -> Array:
    """Arrays of every memory layout: row- or column-major, negative strides, gaps, and strides of zero."""
    shape = draw(shape) if isinstance(shape, Strategy) else shape
    dtype = np.dtype(draw(dtype) if isinstance(dtype, Strategy) else dtype)
    array: Array = draw(hnp.arrays(dtype, shape, elements=values() if elements is None else elements))
    match draw(st.sampled_from(layouts)) if shape else "contiguous":
        case "fortran":
            array = np.asfortranarray(array)
        case "reversed":
            array = array[..., ::-1]
        case "gaps":
            array = np.repeat(array, 2, axis=-1)[..., ::2]
        case "repeated":
            array = np.broadcast_to(array[..., :1], shape) if array.size else array
    return array


def networks(**fixed: Any) -> Strategy[RandomNetwork]:
    """Random classifiers with images, labels and a loss; ``networks(activation="relu")`` fixes some settings.

    Each has ``.model`` (an nn.Sequential), ``.x``, ``.y`` and ``.loss()``; see ``RandomNetwork`` for its settings.
    """
    drawn = {name: st.sampled_from(choices) for name, choices in CHOICES.items()}
    return st.builds(RandomNetwork, **(drawn | {name: st.just(value) for name, value in fixed.items()}))


# Property tests of ops --------------------------------------------------------------------------------------------


def check_op(
    function: Any = None,
    *,
    shapes: Literal["broadcast", "same"] | Strategy[tuple[Shape, ...]] = "broadcast",
    values: Strategy[float] | Sequence[Strategy[float]] | None = None,
    max_examples: int = 50,
) -> Any:
    """A property test of ``function``: its gradients are right for all shapes, layouts, dtypes and values.

    Each example is checked three times: against numeric derivatives (``check_gradients``), against the same numbers
    in contiguous memory, and for inputs that were changed in place. The smallest failing example is shown as a
    program that reproduces it. Examples on which the function itself cannot be computed (an empty maximum), or is not
    finite, are passed over.

    Args:
        function: an op, or a function from Tensors to a Tensor: as many as it has positional parameters.
        shapes: "broadcast" together, all the "same", or a strategy of tuples with one shape per input.
        values: a strategy of numbers, as ``values(0.1, 5)`` for a logarithm; or one per input.
        max_examples: how many examples to try.

    Returns:
        A test without parameters, for pytest or to be called.
    """
    if function is None:
        return lambda f: check_op(f, shapes=shapes, values=values, max_examples=max_examples)
    names = _inputs(function)
    elements = list(values) if isinstance(values, Sequence) else [values] * len(names)

    @st.composite
    def examples(draw: st.DrawFn) -> list[Array]:
        if shapes == "broadcast":
            drawn = draw(broadcastable(len(names)))
        elif shapes == "same":
            drawn = (draw(_any_shape),) * len(names)
        else:
            drawn = draw(shapes)
        dtype = draw(dtypes())
        return [draw(arrays(shape, dtype, e)) for shape, e in zip(drawn, elements, strict=True)]

    @settings(max_examples=max_examples, deadline=None, report_multiple_bugs=False)
    @given(examples())
    def test(arrays: list[Array]) -> None:
        _check_example(function, dict(zip(names, arrays, strict=True)))

    def run() -> None:
        test()

    run.__name__ = run.__qualname__ = getattr(function, "__name__", "op")
    run.__doc__, run.__module__ = function.__doc__, getattr(function, "__module__", __name__)
    return run


_any_shape = shapes()


def _inputs(function: Any) -> list[str]:
    parameters = inspect.signature(function.forward if isinstance(function, Op) else function).parameters.values()
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.default is p.empty]


def _check_example(function: Any, arrays: dict[str, Array]) -> None:
    """Raise AssertionError, with a program that shows it, where the gradients are wrong."""
    before = {name: array.copy() for name, array in arrays.items()}
    computed = _gradients(function, arrays)
    assume(computed is not None)
    changed = [name for name, array in arrays.items() if not np.array_equal(array, before[name])]
    assert not changed, _failure(function, before, f"{', '.join(changed)} changed in place")
    assert not isinstance(computed, Exception), _failure(function, arrays, f"{type(computed).__name__}: {computed}")
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    for name, strided, plain in zip(arrays, computed, _gradients(function, contiguous), strict=True):
        slack = np.sqrt(np.finfo(plain.dtype).eps) * np.abs(plain).max(initial=0)
        same = np.abs(strided - plain).max(initial=0) <= slack
        assert same, _failure(function, arrays, f"the gradient of {name} depends on the memory layout of the inputs")
    if all(array.size for array in arrays.values()):
        tensors = {name: Tensor(array, requires_grad=True) for name, array in arrays.items()}
        report = check_gradients(lambda: function(*tensors.values()), tensors)
        assert report.blame is None, _failure(function, arrays, str(report))


def _gradients(function: Any, arrays: dict[str, Array]) -> Any:
    """The gradients for a random gradient from above; an error if a rule raises one; None without a finite result."""
    tensors = [Tensor(array, requires_grad=True) for array in arrays.values()]
    with np.errstate(all="ignore"):
        try:
            out = function(*tensors)
        except ValueError:
            return None
        if not isinstance(out, Tensor):
            raise GraphError(f"check_op: the function must return a Tensor, not {type(out).__name__}.")
        if not out.requires_grad or not np.isfinite(out.data).all():
            return None
        above = np.random.default_rng(0).uniform(0.5, 2, out.shape).astype(out.dtype)
        try:
            return [g.data for g in grad(out, tensors, above, allow_unused=True)]
        except Exception as error:
            return error


def _failure(function: Any, arrays: dict[str, Array], finding: str) -> str:
    name = getattr(function, "__name__", "op")
    return f"the gradients of {name} are wrong:\n\n{finding}\n\nThis program shows it:\n\n{program(function, arrays)}"


def program(function: Any, arrays: dict[str, Array]) -> str:
    """A program of its own that checks ``function`` on these arrays, memory layout included."""
    name = getattr(function, "__name__", "op")
    lines = ["from __future__ import annotations\n", "import numpy as np", "import tinygrad_cifar as tg\n"]
    lines += [*_definitions(function, {}).values(), ""]
    lines += [f"{key} = tg.Tensor({code_of(array)}, requires_grad=True)" for key, array in arrays.items()]
    lines += [f"out = {name}({', '.join(arrays)})", "out.backward(np.ones(out.shape, out.dtype))"]
    lines += [f"print('gradient of {key}:', {key}.grad)" for key in arrays]
    inputs = ", ".join(f"{key!r}: {key}" for key in arrays)
    lines += [f"print(tg.gradcheck.check_gradients(lambda: {name}({', '.join(arrays)}), {{{inputs}}}))"]
    return "\n".join(lines)


def code_of(array: Array) -> str:
    """An expression that makes this array again: values, dtype and strides."""
    repeated = [stride == 0 and n > 1 for stride, n in zip(array.strides, array.shape, strict=True)]
    if any(repeated) and array.size:
        core = array[tuple(slice(1) if r else slice(None) for r in repeated)]
        return f"np.broadcast_to({code_of(core)}, {array.shape})"
    if array.ndim and array.strides[-1] < 0:
        return f"{code_of(array[..., ::-1])}[..., ::-1]"
    if array.size == 0:
        return f"np.zeros({array.shape}, {array.dtype.name!r})"
    text = f"np.array({array.tolist()}, {array.dtype.name!r})"
    if array.flags.c_contiguous:
        return text
    return f"np.asfortranarray({text})" if array.flags.f_contiguous else f"np.repeat({text}, 2, axis=-1)[..., ::2]"


def _definitions(thing: Any, found: dict[str, str]) -> dict[str, str]:
    """{name: source} of a function or op and of what it refers to, each before it is used."""
    functions: dict[str, Any] = {"": thing}  # by the decorator that stands above them
    if isinstance(thing, Op):
        functions = {"@tg.custom_op\n": thing.forward}
        if thing.rule is not None:
            functions[f"@{thing.__name__}.gradient\n"] = thing.rule
    for function in functions.values():
        referred = inspect.getclosurevars(function)
        for name, value in [*referred.globals.items(), *referred.nonlocals.items()]:
            if name not in (*found, "np", "tg") and value is not thing:
                _define(name, value, function.__module__, found)
    sources = {decorator: _source(f) for decorator, f in functions.items()}
    found[thing.__name__] = "\n\n".join(
        (decorator if text.startswith("def ") else "") + text for decorator, text in sources.items()
    )
    return found


def _define(name: str, value: Any, module: str, found: dict[str, str]) -> None:
    if inspect.ismodule(value):
        found[name] = f"import {value.__name__} as {name}"
    elif (isinstance(value, Op) and value.custom) or (inspect.isfunction(value) and value.__module__ == module):
        _definitions(value, found)
    elif callable(value):
        found[name] = f"from {value.__module__} import {value.__name__} as {name}"
    else:
        code = f"tg.Tensor({code_of(value.data)})" if isinstance(value, Tensor) else None
        found[name] = f"{name} = {code or (code_of(value) if isinstance(value, np.ndarray) else repr(value))}"


def _source(function: Any) -> str:
    """The source of a function without its decorators; a remark where there is none, as at some prompts."""
    name = function.__name__
    try:
        lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    except OSError:
        lines = []
    # What Python 3.13 has for "<string>" is the program of its -c, wherever a function of that file name was made.
    starts = [i for i, line in enumerate(lines) if line.startswith(f"def {name}(") or name == "<lambda>"]
    found = lines[starts[0] :] if starts else [f"...  # the source of {name} is not at hand"]
    return "\n".join(found) + "\n"
