"""What a wrong gradient looks like: a factor, a sign, a missing term, a transposed or misplaced array."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinygrad_cifar.gradcheck.probe import Directions, Probe, Probes
from tinygrad_cifar.gradcheck.replay import Program
from tinygrad_cifar.gradcheck.verdicts import Sides
from tinygrad_cifar.tensor import Array

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
        self.inputs = dict(zip(self.step.op.inputs, self.step.arguments(program.values), strict=False))
        self.out = program.values[program.out]

    def at(self, array: Array) -> Array:
        """An array that broadcasts to the input's shape, at the entries that were checked."""
        return self.probes.of(np.broadcast_to(array, self.shape)[None])[0]


def pattern(w: Wrong) -> str:
    """What the error looks like."""
    for recognise in PATTERNS:
        if name := recognise(w):
            return name
    off = np.abs(w.rule - w.right).max() / np.abs(w.right).max()
    return f"no known pattern; off by a relative {off:.2g} in {int(w.where.sum())} of {len(w.where)} entries"


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False))


def _fits(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).max() <= CLOSE * np.abs(b).max())


def _degenerate(w: Wrong) -> str | None:
    if not np.isfinite(w.rule).all():
        return "the rule returns inf or nan"
    return "missing: the rule returns zeros" if not w.rule.any() else None


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
    counts |= {f"{n}": n for a in (*w.inputs.values(), w.out) for n in np.shape(a)}
    for name, n in counts.items():
        if n > 1:
            known = {n: f"factor {name}: 1/{name} is missing", 1 / n: f"factor 1/{name}"}
            if name == "n" and len(shape) > 1:
                known |= {n / (n - 1): "n - 1 for n", (n - 1) / n: "n for n - 1"}
            for value, text in known.items():
                if math.isclose(c, value, rel_tol=1e-7):
                    return text
    return f"factor {c:.10g}" if abs(c - 1) < 1e-3 else f"factor {c:.4g}"


def _transposed(w: Wrong) -> str | None:
    if len(w.shape) < 2:
        return None
    if len(w.rule) == math.prod(w.shape) and _fits(w.rule, w.right.reshape(w.shape).swapaxes(-1, -2).ravel()):
        return "transposed" if w.shape[-1] == w.shape[-2] else "transposed, then reshaped"
    if w.shape[-1] != w.shape[-2]:
        return None
    return "transposed" if _fits(w.probes.of(w.sides.gradients[w.leaf][:1].swapaxes(-1, -2))[0], w.right) else None


def _deaf(w: Wrong) -> str | None:
    ones = w.program.gradients(np.ones_like(w.upstream))[w.leaf]
    return "ignores the gradient from above" if _fits(w.probes.of(ones[None])[0], w.rule) else None


def _array_factor(w: Wrong) -> str | None:
    """An input, or the result, that is a factor too few or too many."""
    arrays = {**w.inputs, "the result": w.out, "the gradient from above": w.upstream, **w.step.kwargs}
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            continue
        if not _broadcasts(value.shape, w.shape) or not value.any() or np.ptp(value) == 0:
            continue
        v = w.at(value)
        if _fits(w.rule * v, w.right):
            return f"factor {name} is missing"
        if _fits(w.rule, w.right * v):
            return f"factor {name} too much"
    return None


def _terms(w: Wrong) -> str | None:
    """Which of the terms of a known formula is missing, or has a wrong factor."""
    if w.step.op.name not in TERMS or w.leaf != 0:
        return None
    terms = {name: w.at(t) for name, t in TERMS[w.step.op.name](w).items()}
    matrix = np.stack(list(terms.values()), 1)
    if not _fits(matrix.sum(1), w.right):
        return None
    factors = np.linalg.lstsq(matrix, w.rule, rcond=None)[0]
    if np.linalg.matrix_rank(matrix) < len(terms) or not _fits(matrix @ factors, w.rule):
        return None
    off = [_name_term(w, name, float(c)) for name, c in zip(terms, factors, strict=True) if abs(c - 1) > CLOSE]
    return ", ".join(off) or None


def _name_term(w: Wrong, name: str, c: float) -> str:
    if abs(c) < CLOSE:
        return f"{name} missing"
    return f"{name}: sign" if abs(c + 1) < CLOSE else f"{name}: {_name_factor(w, c)}"


def _batch_norm_terms(w: Wrong) -> dict[str, Array]:
    x, gamma, _ = w.inputs.values()
    n, g = len(x), w.upstream
    inv_std = 1 / np.sqrt(x.var(0) + w.step.kwargs.get("eps", 1e-5))
    x_hat, scale = (x - x.mean(0)) * inv_std, gamma * inv_std
    return {
        "direct path": scale * g,
        "mean path": np.broadcast_to(-scale * g.sum(0) / n, x.shape),
        "variance path": -scale * x_hat * (g * x_hat).sum(0) / n,
    }


def _softmax_terms(w: Wrong) -> dict[str, Array]:
    axis = w.step.kwargs.get("axis", -1)
    total = (w.upstream * w.out).sum(axis, keepdims=True)
    return {"direct path": w.out * w.upstream, "path through the sum": -w.out * total}


def _log_softmax_terms(w: Wrong) -> dict[str, Array]:
    axis = w.step.kwargs.get("axis", -1)
    return {"direct path": w.upstream, "path through the sum": -np.exp(w.out) * w.upstream.sum(axis, keepdims=True)}


def _cross_entropy_terms(w: Wrong) -> dict[str, Array]:
    z, labels = w.inputs["logits"], w.step.kwargs["labels"]
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    one_hot = np.eye(z.shape[1])[labels]
    return {"probabilities": p * w.upstream / len(z), "labels' term": -one_hot * w.upstream / len(z)}


TERMS: dict[str, Callable[[Wrong], dict[str, Array]]] = {
    "batch_norm": _batch_norm_terms,
    "softmax": _softmax_terms,
    "log_softmax": _log_softmax_terms,
    "softmax_cross_entropy": _cross_entropy_terms,
}


def _one_row(w: Wrong) -> str | None:
    """The contribution of one sample instead of the sum over all."""
    if w.out.ndim <= len(w.shape) and not (w.out.ndim == len(w.shape) and 1 in w.shape):
        return None
    for row in (0, -1):
        only = np.zeros_like(w.upstream)
        only[row] = w.upstream[row]
        part = Probe(w.program, w.leaf, only, w.sides.noise)
        if part.analytic and _fits(part.complex_slopes(w.probes), w.rule):
            return "missing broadcast sum: only one sample counts"
    return None


def _misplaced(w: Wrong) -> str | None:
    if _fits(np.abs(w.rule), np.abs(w.right)):
        return f"sign, in {int(w.where.sum())} of {len(w.where)} entries"
    if len(w.rule) > 1 and w.probes.of(np.zeros((1, *w.shape))).size == math.prod(w.shape):
        if _fits(np.sort(w.rule), np.sort(w.right)):
            return "right values at wrong places"
        if np.ptp(w.rule - w.right) <= CLOSE * np.abs(w.rule - w.right).max():
            return f"a constant {float(np.mean(w.rule - w.right)):.4g} is added"
    return None


def _off_by_one(w: Wrong) -> str | None:
    labels = w.step.kwargs.get("labels")
    if labels is None or w.leaf != 0:
        return None
    for shift in (1, -1):
        kwargs = {**w.step.kwargs, "labels": (labels + shift) % w.shape[-1]}
        shifted = Program(w.program.names, w.program.leaves, [replace(w.step, kwargs=kwargs)], w.program.out)
        slopes = Probe(shifted, 0, w.upstream, w.sides.noise).complex_slopes(w.probes)
        if _fits(slopes, w.rule):
            return "label off by one"
    return None


def _mask(w: Wrong) -> str | None:
    share = f"in {int(w.where.sum())} of {len(w.where)} entries"
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
    _degenerate, _deaf, _factor, _transposed, _terms, _array_factor, _off_by_one, _one_row, _mask, _few, _misplaced,
]  # fmt: skip
