"""What a wrong gradient looks like: a factor, a sign, a missing term, a transposed or misplaced array."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tinygrad_cifar.gradcheck.probe import Directions, Probe, Probes
from tinygrad_cifar.gradcheck.replay import Program
from tinygrad_cifar.gradcheck.verdicts import Sides, far
from tinygrad_cifar.tensor import Array

SMALL = 4  # numbers up to this one are common factors: that one is n may be chance
CLOSE = 1e-4  # how closely, relatively, a pattern must fit


class Wrong:
    """A wrong gradient: the rule's values and the right ones, and what they came from."""

    def __init__(self, program: Program, leaf: int, sides: Sides, probes: Probes, right: Array, where: Array):
        self.program, self.leaf, self.sides, self.probes = program, leaf, sides, probes
        (self.step,) = program.steps
        self.upstream = sides.upstream
        self.shape = program.leaves[leaf].shape
        self.rule = probes.of(sides.gradients[leaf][:1])[0]
        self.right, self.where = right, where
        self.off = float(np.abs(self.rule - right).max() / np.abs(right).max())
        self.inputs = dict(zip(self.step.op.inputs, self.step.arguments(program.values), strict=False))
        self.first = self.step.sources[0] == leaf  # whether it is the op's first input that is wrong
        self.out = program.values[program.out]

    def at(self, array: Array) -> Array:
        """An array that broadcasts to the input's shape, at the entries that were checked."""
        return self.probes.of(np.broadcast_to(array, self.shape)[None])[0]

    def fits(self, a: Array, b: Array) -> bool:
        """Whether two arrays agree, much better than the rule does with what is right: else all patterns would fit."""
        return bool(np.abs(a - b).max() <= min(CLOSE, 0.01 * self.off) * np.abs(b).max())

    def slopes(self, program: Program, upstream: Array) -> Array:
        """The numeric side of another program, or with another gradient from above."""
        probe = Probe(program, self.leaf, upstream, self.sides.noise)
        return probe.complex_slopes(self.probes) if probe.analytic else probe.slopes(self.probes).value


def nonlinear(sides: Sides, leaf: int) -> str | None:
    """Where a rule is no linear function of the gradient from above, as every gradient is, in what it fails to be.

    A rule may be right for the gradient that it was given, and wrong for the opposite one, or a larger one.
    """
    g, turned = sides.gradients[leaf][0], sides.turned[leaf]
    if not far([g], [turned]) or not np.isfinite(turned).all():  # it overflows
        return None
    opposite, twice, nothing = (sides.program.gradients(c * sides.upstream)[leaf] for c in (-1, -2, 0))
    if not far([g], [twice]):
        return "ignores the gradient from above"
    if np.isfinite(nothing).all() and nothing.any():
        constant = np.ptp(nothing) == 0
        return f"a constant {nothing.flat[0]:.4g} is added" if constant else "a part ignores the gradient from above"
    if far([g], [-opposite]):
        why = "g and -g do not give opposite results, as with abs(g), g * g or g > 0"
    else:
        why = "more of it does not give as much more, as where it is clipped or normed"
    return f"not linear in the gradient from above: {why}"


def pattern(w: Wrong) -> str:
    """What the error looks like."""
    for recognise in PATTERNS:
        if name := recognise(w):
            return name
    return f"no known pattern; off by a relative {w.off:.2g} in {int(w.where.sum())} of {len(w.where)} entries"


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False))


def _degenerate(w: Wrong) -> str | None:
    if not np.isfinite(w.rule).all():
        return "the rule returns inf or nan"
    return "missing: the rule returns zeros" if not w.sides.gradients[w.leaf][0].any() else None


def _tied(w: Wrong) -> str | None:
    """Where every entry is right, or at a kink, only what equal numbers get together can be wrong."""
    together = isinstance(w.probes, Directions) and len(w.probes) == 1
    return "wrong where numbers are equal: together they must get the gradient once" if together else None


def _factor(w: Wrong) -> str | None:
    if not w.right.any():
        return None
    c = float(w.rule @ w.right / (w.right @ w.right))
    residual = np.abs(w.rule - c * w.right).max() / np.abs(w.rule).max()
    if residual > min(CLOSE, 0.01 * abs(c - 1)):
        return None
    sign = "sign" if c < 0 else ""
    factor = "" if math.isclose(abs(c), 1, rel_tol=1e-9) else _name_factor(w, abs(c))
    return ", ".join(filter(None, [sign, factor]))


def _name_factor(w: Wrong, c: float) -> str:
    shape = w.shape if len(w.shape) > 1 else w.out.shape
    counts = {"n": shape[0] if shape else 1, "the size": math.prod(w.shape)}
    for value, text in {2: "factor 2", 0.5: "factor 1/2"}.items():
        if math.isclose(c, value, rel_tol=1e-7):
            return f"{text}, which may be n: n is 2 here" if counts["n"] == 2 else text
    for name, n in counts.items():
        known = {n: f"factor {name}: 1/{name} is missing", 1 / max(n, 1): f"factor 1/{name}"}
        if name == "n" and n > 1 and len(shape) > 1:
            known |= {n / (n - 1): "n - 1 for n", (n - 1) / n: "n for n - 1"}
        for value, text in known.items():
            if n > 1 and math.isclose(c, value, rel_tol=1e-7):
                return text if n > SMALL else f"factor {_number(c)}, which may be {name}'s doing: {name} is {n} here"
    lengths = {n for a in (*w.inputs.values(), w.out) for n in np.shape(a) if n > 1}
    axis = any(math.isclose(c, value, rel_tol=1e-7) for n in lengths for value in (n, 1 / n))
    return f"factor {_number(c)}" + (", which an axis's length explains" if axis else "")


def _number(c: float) -> str:
    return f"{c:.10g}" if abs(c - 1) < 1e-3 else f"{c:.4g}"


def _transposed(w: Wrong) -> str | None:
    if len(w.shape) < 2:
        return None
    if len(w.rule) == math.prod(w.shape) and w.fits(w.rule, w.right.reshape(w.shape).swapaxes(-1, -2).ravel()):
        return "transposed" if w.shape[-1] == w.shape[-2] else "transposed, then reshaped"
    if w.shape[-1] != w.shape[-2]:
        return None
    return "transposed" if w.fits(w.probes.of(w.sides.gradients[w.leaf][:1].swapaxes(-1, -2))[0], w.right) else None


def _array_factor(w: Wrong) -> str | None:
    """An input, or the result, that is a factor too few or too many."""
    arrays = {**w.inputs, "the result": w.out, "the gradient from above": w.upstream, **w.step.kwargs}
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            continue
        if not _broadcasts(value.shape, w.shape) or not value.any() or np.ptp(value) == 0:
            continue
        v = w.at(value)
        if w.fits(w.rule * v, w.right):
            return f"factor {name} is missing"
        if w.fits(w.rule, w.right * v):
            return f"factor {name} too much"
    return None


def _terms(w: Wrong) -> str | None:
    """Which of the terms of a known formula is missing, or has a wrong factor."""
    axis = w.step.kwargs.get("axis", -1)
    axis = axis if isinstance(axis, int) else -1
    for along in (axis, 0) if w.first else ():  # in rows, in columns
        for terms in (_batch_norm_terms(w, along), *_softmax_terms(w, along), _cross_entropy_terms(w, along)):
            if terms and (text := _off(w, {name: w.at(term) for name, term in terms.items()})):
                return text
    return None


def _off(w: Wrong, terms: dict[str, Array]) -> str | None:
    matrix = np.stack(list(terms.values()), 1)
    if len(matrix) <= len(terms) or not w.fits(matrix.sum(1), w.right) or np.linalg.matrix_rank(matrix) < len(terms):
        return None
    factors = np.linalg.lstsq(matrix, w.rule, rcond=None)[0]
    few = (matrix != 0).sum(0) <= len(terms)  # a term of so few entries has a factor for any error in them
    plain = np.isclose(factors, np.round(factors), rtol=0, atol=CLOSE) & (np.abs(factors) < 1.5)  # -1, 0 or 1
    if not w.fits(matrix @ factors, w.rule) or (few & ~plain).any():
        return None
    return ", ".join(
        _name_term(w, name, float(c)) for name, c in zip(terms, factors, strict=True) if abs(c - 1) > CLOSE
    )


def _name_term(w: Wrong, name: str, c: float) -> str:
    if abs(c) < CLOSE:
        return f"{name} missing"
    return f"{name}: sign" if abs(c + 1) < CLOSE else f"{name}: {_name_factor(w, c)}"


Terms = dict[str, Array]  # empty where the formula is not that of this op


def _batch_norm_terms(w: Wrong, axis: int, eps: float | None = None) -> Terms:
    """Of (x - mean) / sqrt(var + eps), perhaps times gamma, with moments along the other axis."""
    eps = w.step.kwargs.get("eps", 1e-5) if eps is None else eps
    x, gamma = w.inputs[w.step.op.inputs[0]], next(iter([*w.inputs.values()][1:]), 1.0)
    if x.ndim != 2 or w.out.shape != x.shape or axis not in (0, -1) or not _broadcasts(np.shape(gamma), x.shape):
        return {}
    samples = -1 - axis
    g, n = w.upstream, x.shape[samples]
    inv_std = 1 / np.sqrt(x.var(samples, keepdims=True) + eps)
    x_hat, scale = (x - x.mean(samples, keepdims=True)) * inv_std, gamma * inv_std
    return {
        "direct path": scale * g,
        "mean path": -scale * g.sum(samples, keepdims=True) / n,
        "variance path": -scale * x_hat * (g * x_hat).sum(samples, keepdims=True) / n,
    }


def _softmax_terms(w: Wrong, axis: int) -> Iterator[Terms]:
    """Of softmax, by paths and by classes, and of log-softmax: each has a result for every entry of its input."""
    if w.shape and w.out.shape == w.shape:
        own = w.out * w.upstream
        total = own.sum(axis, keepdims=True)
        yield {"direct path": own, "path through the sum": -w.out * total}
        yield {"own class": own * (1 - w.out), "cross terms": -w.out * (total - own)}
        yield {"direct path": w.upstream, "path through the sum": -np.exp(w.out) * w.upstream.sum(axis, keepdims=True)}


def _cross_entropy_terms(w: Wrong, axis: int) -> Terms:
    """Of the mean over samples of -log softmax(z)[label], with classes along the axis."""
    z, (_, labels) = w.inputs[w.step.op.inputs[0]], _labels(w)
    if not len(labels) or w.out.shape or z.ndim != 2:
        return {}
    if len(labels) * z.shape[axis] != z.size or labels.max() >= z.shape[axis]:
        return {}
    p = np.exp(z - z.max(axis, keepdims=True))
    p /= p.sum(axis, keepdims=True)
    one_hot = np.moveaxis(np.eye(z.shape[axis])[labels], -1, axis)
    return {"probabilities": p * w.upstream / len(labels), "labels' term": -one_hot * w.upstream / len(labels)}


def _without_eps(w: Wrong) -> str | None:
    """Batch norm's gradient, but for eps: off by little, as no other missing part is."""
    for axis in (-1, 0) if w.first and w.off < 0.1 else ():
        terms = _batch_norm_terms(w, axis, eps=0.0)
        if terms and w.fits(w.at(sum(terms.values(), np.zeros(w.shape))), w.rule):
            return "eps missing: 1 / sqrt(var) in the place of 1 / sqrt(var + eps)"
    return None


def _labels(w: Wrong) -> tuple[str, Array]:
    """The labels among a loss's settings: name and array, which is empty where there are none."""
    for name, value in w.step.kwargs.items():
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu" and w.out.ndim <= 1:
            return name, value
    return "", np.zeros(0, int)


def _one_row(w: Wrong) -> str | None:
    """The contribution of one sample instead of the sum over all, or of all but one."""
    for row, name in ((0, "first"), (-1, "last")) if w.out.ndim else ():
        only = np.zeros_like(w.upstream)
        only[row] = w.upstream[row]
        if w.fits(w.slopes(w.program, only), w.rule):
            return f"only the {name} row of the gradient from above counts"
        if w.fits(w.slopes(w.program, w.upstream - only), w.rule):
            return f"the {name} row of the gradient from above is left out"
    return None


def _other_input(w: Wrong) -> str | None:
    """What would be right for another input, or if another one were transposed."""
    for i, (name, x) in enumerate(zip(w.program.names, w.program.leaves, strict=True)):
        if i == w.leaf:
            continue
        if x.shape == w.shape and w.fits(w.probes.of(w.sides.gradients[i][:1])[0], w.right):
            return f"swapped: what the rule returns for {name} belongs here"
        if x.ndim == 2 and x.shape[0] == x.shape[1] > 1:
            leaves = [*w.program.leaves[:i], x.T, *w.program.leaves[i + 1 :]]
            if w.fits(w.slopes(Program(w.program.names, leaves, [w.step], w.program.out), w.upstream), w.rule):
                return f"would be right if {name} were transposed"
    return None


def _misplaced(w: Wrong) -> str | None:
    if w.fits(np.abs(w.rule), np.abs(w.right)):
        return f"sign, in {int(w.where.sum())} of {len(w.where)} entries"
    all_seen = 1 < len(w.rule) == math.prod(w.shape)
    return "right values at wrong places" if all_seen and w.fits(np.sort(w.rule), np.sort(w.right)) else None


def _off_by_one(w: Wrong) -> str | None:
    name, labels = _labels(w)
    if not w.first or not len(labels) or len(w.shape) != 2:
        return None
    classes = w.shape[-1] if len(labels) == w.shape[0] else w.shape[0]
    for shift in (1, -1):
        kwargs = {**w.step.kwargs, name: (labels + shift) % classes}
        shifted = Program(w.program.names, w.program.leaves, [replace(w.step, kwargs=kwargs)], w.program.out)
        if w.fits(w.slopes(shifted, w.upstream), w.rule):
            return "label off by one"
    return None


def _rounded(w: Wrong) -> str | None:
    return f"off by a relative {w.off:.1g}: rounded to float32?" if w.off < 2**-22 else None


def _by_line(w: Wrong) -> str | None:
    """A factor of its own for each column or row, as a standard deviation makes it."""
    if len(w.shape) != 2 or len(w.rule) != math.prod(w.shape):
        return None
    rule, right = w.rule.reshape(w.shape), w.right.reshape(w.shape)
    for axis, line in enumerate(("column", "row")):
        size = (right * right).sum(axis, keepdims=True)
        factors = (rule * right).sum(axis, keepdims=True) / np.where(size > 0, size, 1)
        if w.shape[axis] > 2 and w.fits(factors * right, rule):
            return f"a factor of its own for each {line}: from {_number(factors.min())} to {_number(factors.max())}"
    return None


def _mask(w: Wrong) -> str | None:
    share = f"in {int(w.where.sum())} of {len(w.where)} entries"
    if ((w.rule == 0) == (w.right != 0)).all() and w.rule.any() and w.right.any():
        return "zero exactly where it should not be: a mask the wrong way round"
    if not w.right[w.where].any():
        return f"not zero where it should be, {share}"
    return f"zero where it should not be, {share}" if not w.rule[w.where].any() else None


def _few(w: Wrong) -> str | None:
    places = np.flatnonzero(w.where)
    if len(places) > max(1, len(w.where) // 5) or isinstance(w.probes, Directions):
        return None
    shown = ", ".join(str(list(w.probes.index(int(i), w.shape))) for i in places[:3])
    return f"only in {len(places)} of {len(w.where)} entries: {shown}{', ...' if len(places) > 3 else ''}"


PATTERNS = [
    _degenerate, _tied, _factor, _without_eps, _rounded, _transposed, _terms, _array_factor, _off_by_one, _other_input,
    _one_row, _mask, _few, _by_line, _misplaced,
]  # fmt: skip
