"""Sample calls of every op: ``SAMPLES[name]`` draws (inputs, kwargs). An op without a line here fails the suite.

Shapes and settings are Hypothesis's choice; values come from a generator with a drawn seed, inside the op's domain and
away from its kinks, so that every sample has a derivative. What happens at kinks is tested by name elsewhere.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

Call = tuple[list[Any], dict[str, Any]]

# Values ---------------------------------------------------------------------------------------------------------

generators = st.integers(0, 2**16).map(np.random.default_rng)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)
DOMAINS = {
    "real": lambda rng, n: rng.normal(size=n),
    "positive": lambda rng, n: rng.uniform(0.3, 2, n),
    "apart": lambda rng, n: (rng.permutation(n) - n // 2 + 0.5) * 0.4,  # 0.2 + multiples of 0.4, no two alike
}


def split(rng: np.random.Generator, domain: str, shapes: Any) -> list[Any]:
    """Arrays of these shapes, all out of one drawing, so that "apart" holds across them too."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    pieces = np.split(DOMAINS[domain](rng, ends[-1]), ends[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


@st.composite
def arrays(draw: Any, domain: str = "real", min_dims: int = 0, min_side: int = 1) -> Any:
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=max(min_dims, 3), min_side=min_side, max_side=3))
    return split(draw(generators), domain, [shape])[0]


# Kinds of calls -------------------------------------------------------------------------------------------------


@st.composite
def unary(draw: Any, domain: str = "real", min_dims: int = 0, **kwargs: Any) -> Call:
    """One array of any shape, empty ones too, and the drawn settings."""
    x = draw(arrays(domain, min_dims, min_side=draw(st.integers(0, 1))))
    drawn = {name: draw(values) for name, values in kwargs.items()}
    return [x], {name: value for name, value in drawn.items() if value is not None or draw(st.booleans())}


@st.composite
def binary(draw: Any, domain: str = "real", scalar: Any = 1.5, **kwargs: Any) -> Call:
    """Two arrays that broadcast, or one and a number on either side."""
    shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=draw(st.integers(0, 1))))
    inputs = split(draw(generators), domain, shapes.input_shapes)
    number = draw(st.sampled_from([None, None, 0, 1]))
    if number is not None:
        inputs[number] = scalar
    return inputs, {k: draw(v) for k, v in kwargs.items()}


@st.composite
def reduction(draw: Any, domain: str = "real", min_side: int = 1) -> Call:
    """An array with any axis, axes or none; ``keepdims`` or not."""
    x = draw(arrays(domain, min_side=min_side))
    one = st.integers(-x.ndim, x.ndim - 1) if x.ndim else st.none()
    several = st.lists(st.integers(0, max(x.ndim - 1, 0)), unique=True, min_size=1, max_size=max(x.ndim, 1)).map(tuple)
    axis = draw(st.none() | one | (several if x.ndim else st.none()))
    settings = {"axis": axis, "keepdims": draw(st.booleans())}
    return [x], {k: v for k, v in settings.items() if v or draw(st.booleans())}


@st.composite
def along_axis(draw: Any) -> Call:
    x = draw(arrays(min_dims=1))
    return [x], draw(st.just({}) | st.builds(dict, axis=st.integers(-x.ndim, x.ndim - 1)))


@st.composite
def variances(draw: Any) -> Call:
    (x,), kwargs = draw(reduction(min_side=2))
    return [x], kwargs | draw(st.just({}) | st.just({"ddof": 1})) if x.ndim else {}


@st.composite
def powers(draw: Any) -> Call:
    """A positive base with any exponent, or any base with a whole number."""
    if draw(st.booleans()):
        a, b = draw(binary(scalar=1.5))[0]
        return [np.asarray(np.exp(0.3 * a)) if isinstance(a, np.ndarray) else a, b], {}
    return [draw(arrays("apart")), draw(st.sampled_from([0, 1, 2, 3, -1, -2, 0.0, 2.0]))], {}


@st.composite
def reshapes(draw: Any) -> Call:
    x = draw(arrays())
    order = draw(st.permutations([1, *x.shape]))
    return [x], {"shape": draw(st.sampled_from([tuple(order), -1, list(order), (x.size, 1), (-1, *order)]))}


@st.composite
def transposes(draw: Any) -> Call:
    x = draw(arrays())
    axes = [a - x.ndim * draw(st.booleans()) for a in draw(st.permutations(range(x.ndim)))]
    return [x], {"axes": draw(st.sampled_from([None, axes, tuple(axes)]))}


@st.composite
def swaps(draw: Any) -> Call:
    x = draw(arrays(min_dims=1))
    axis = st.integers(-x.ndim, x.ndim - 1)
    return [x], {"axis1": draw(axis), "axis2": draw(axis)}


@st.composite
def squeezes(draw: Any) -> Call:
    x = draw(arrays())
    ones = tuple(i for i, n in enumerate(x.shape) if n == 1)
    return [x], {"axis": draw(st.sampled_from([None, ones, *ones, *(i - x.ndim for i in ones)]))}


@st.composite
def expansions(draw: Any) -> Call:
    x = draw(arrays())
    return [x], {"axis": draw(st.sampled_from([0, -1, x.ndim, -x.ndim - 1, (0, -1)]))}


@st.composite
def broadcasts(draw: Any) -> Call:
    x = draw(arrays())
    longer = draw(hnp.broadcastable_shapes(x.shape, min_dims=x.ndim, max_dims=x.ndim + 2))
    return [x], {"shape": np.broadcast_shapes(longer, x.shape)}


def indices(shape: tuple[int, ...]) -> Any:
    """Everything that NumPy takes between brackets: slices, integers, None, ..., masks, integer arrays, mixtures."""
    kinds = [hnp.basic_indices(shape, allow_newaxis=True), hnp.arrays(bool, shape)]
    if shape and 0 not in shape:
        first = hnp.arrays(int, st.integers(0, 4), elements=st.integers(-shape[0], shape[0] - 1))
        kinds += [hnp.integer_array_indices(shape), first, first.map(list), first.map(lambda i: (i, ..., None))]
    if len(shape) > 1 and 0 not in shape:
        last = hnp.arrays(int, st.integers(0, 4), elements=st.integers(-shape[-1], shape[-1] - 1))
        kinds += [st.tuples(st.sampled_from([0, slice(None), slice(1, None)]), st.just(...), last)]
    return st.one_of(kinds)


@st.composite
def getitems(draw: Any) -> Call:
    x = draw(arrays())
    return [x], {"index": draw(indices(x.shape))}


@st.composite
def scatters(draw: Any) -> Call:
    shape = draw(shapes)
    index = draw(indices(shape))
    return [draw(generators).normal(size=np.zeros(shape)[index].shape)], {"index": index, "shape": shape}


@st.composite
def setitems(draw: Any) -> Call:
    x = draw(arrays())
    index = draw(indices(x.shape))
    region = np.shape(x[index])
    value = st.sampled_from([region, (), region[-1:]])
    return [x, draw(generators).normal(size=draw(value))], {"index": index}


@st.composite
def concatenations(draw: Any) -> Call:
    shape = draw(hnp.array_shapes(max_dims=3, max_side=3))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    lengths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    each = [tuple(n if i == axis % len(shape) else m for i, m in enumerate(shape)) for n in lengths]
    return split(draw(generators), "real", each), {"axis": axis} if axis or draw(st.booleans()) else {}


@st.composite
def stacks(draw: Any) -> Call:
    shape = draw(shapes)
    count = draw(st.integers(1, 3))
    return split(draw(generators), "real", [shape] * count), {"axis": draw(st.integers(-len(shape) - 1, len(shape)))}


@st.composite
def products(draw: Any) -> Call:
    shapes = draw(hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, max_side=3))
    return split(draw(generators), "real", shapes.input_shapes), {}


@st.composite
def einsums(draw: Any) -> Call:
    """Up to three operands over four letters: diagonals, letters summed out, ellipsis, explicit or implicit result."""
    sizes = {"i": 2, "j": 3, "k": 1, "l": 2}
    terms = draw(st.lists(st.text("ijkl", min_size=0, max_size=3), min_size=1, max_size=3))
    dots = draw(st.booleans())
    rest = draw(hnp.mutually_broadcastable_shapes(num_shapes=len(terms), max_dims=2, max_side=2)).input_shapes
    place = draw(st.integers(0, 3))
    spelled = [t[:place] + "..." + t[place:] if dots else t for t in terms]
    each = []
    for term, dotted in zip(terms, rest, strict=True):
        known = [sizes[c] for c in term]
        each.append((*known[:place], *dotted, *known[place:]) if dots else tuple(known))
    letters = sorted(set("".join(terms)))
    result = draw(st.permutations(letters).flatmap(lambda p: st.integers(0, len(p)).map(lambda n: "".join(p[:n]))))
    subscripts = ",".join(spelled)
    if draw(st.booleans()):
        subscripts += " -> " + ("..." * dots) + result
    return split(draw(generators), "real", each), {"subscripts": subscripts}


@st.composite
def linears(draw: Any) -> Call:
    ins, outs = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    batch = draw(st.sampled_from([(3,), (), (2, 3), (1,), (0,)]))
    return split(draw(generators), "real", [(*batch, ins), (outs, ins), (outs,)][: draw(st.integers(2, 3))]), {}


@st.composite
def batch_norms(draw: Any) -> Call:
    n, c = draw(st.integers(3, 6)), draw(st.integers(1, 3))
    rng = draw(generators)
    return [rng.normal(1, 2, (n, c)), *split(rng, "real", [(c,), (c,)])], draw(st.sampled_from([{}, {"eps": 1e-3}]))


@st.composite
def classified(draw: Any, domain: str = "real", **kwargs: Any) -> Call:
    """Scores (N, C) and integer labels (N,)."""
    n, c = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    rng = draw(generators)
    labels = rng.integers(0, c, n, draw(st.sampled_from([np.int64, np.uint8])))
    return split(rng, domain, [(n, c)]), {"labels": labels} | {k: draw(v) for k, v in kwargs.items()}


@st.composite
def beside(draw: Any, name: str, values: Any) -> Call:
    """An array, and a constant one of its shape called ``name``."""
    x = draw(arrays())
    return [x], {name: values(draw(generators), x.shape)}


@st.composite
def same_shape(draw: Any, count: int) -> Call:
    return split(draw(generators), "real", [draw(shapes)] * count), {}


@st.composite
def penalties(draw: Any) -> Call:
    each = draw(st.lists(shapes, min_size=1, max_size=3))
    return split(draw(generators), "real", each), {"coefficient": draw(st.sampled_from([0.1, 2, np.float64(0.3)]))}


def fits(inputs: list[Any], condition: Any) -> bool:
    """Whether the condition broadcasts with the operands."""
    try:
        np.broadcast_shapes(condition.shape, *[np.shape(x) for x in inputs])
    except ValueError:
        return False
    return True


# The table ------------------------------------------------------------------------------------------------------

conditions = st.sampled_from([np.array(True), np.array([[True], [False]]), np.array([False])])

SAMPLES: dict[str, Any] = {
    # elementwise
    "add": binary(),
    "subtract": binary(),
    "multiply": binary(),
    "divide": binary("apart", 2),
    "negative": unary(),
    "power": powers(),
    "exp": unary(),
    "log": unary("positive"),
    "sqrt": unary("positive"),
    "abs": unary("apart"),
    "maximum": binary("apart", 0),
    "minimum": binary("apart", 0.1),
    "select": binary(condition=conditions).filter(lambda call: fits(call[0], call[1]["condition"])),
    "clip": unary("apart", min=st.sampled_from([None, -0.9, np.float64(-0.4)]), max=st.sampled_from([None, 0.4, 0.9])),
    "astype": unary(dtype=st.just(np.dtype(np.float64))),
    "clone": unary(),
    # reduce
    "sum": reduction(min_side=0),
    "mean": reduction(),
    "var": variances(),
    "max": reduction("apart"),
    "min": reduction("apart"),
    "logsumexp": reduction(),
    # shape
    "reshape": reshapes(),
    "transpose": transposes(),
    "swapaxes": swaps(),
    "expand_dims": expansions(),
    "squeeze": squeezes(),
    "broadcast_to": broadcasts(),
    "getitem": getitems(),
    "scatter": scatters(),
    "setitem": setitems(),
    "concatenate": concatenations(),
    "stack": stacks(),
    # products
    "matmul": products(),
    "einsum": einsums(),
    # neural
    "relu": unary("apart"),
    "leaky_relu": unary("apart", slope=st.sampled_from([0.01, 0.3, np.float32(0.5)])),
    "sigmoid": unary(),
    "tanh": unary(),
    "softplus": unary(),
    "erf": unary(),
    "gelu": unary(),
    "softmax": along_axis(),
    "log_softmax": along_axis(),
    "linear": linears(),
    "batch_norm": batch_norms(),
    "dropout": beside("mask", lambda rng, shape: (rng.random(shape) < 0.7) / 0.7),
    "softmax_cross_entropy": classified(),
    "binary_cross_entropy_with_logits": beside("targets", lambda rng, shape: rng.random(shape)),
    "hinge": classified("apart", margin=st.sampled_from([1.1, 0.5])),
    "mse": same_shape(2),
    "l2_penalty": penalties(),
}
