"""Matrix products, and einsum for all others."""

from string import ascii_letters
from typing import Any

import numpy as np

from tinygrad_cifar.errors import UnsupportedError
from tinygrad_cifar.operators import Operand
from tinygrad_cifar.tensor import Array, Tensor, implements, op


@op(numpy=np.matmul, saves="a b")
def matmul(a: Array, b: Array) -> Array:
    """(..., n, k) @ (..., k, m) -> (..., n, m); the leading axes broadcast, vectors are promoted as NumPy does."""
    return product(a, b)


def product(a: Any, b: Any) -> Any:
    """``a @ b``. For two matrices ``np.dot`` calls BLAS just as ``@`` does, with less before it."""
    return np.dot(a, b) if a.ndim == b.ndim == 2 else a @ b


@matmul.gradient
def matmul_gradient(g: Any, out: Any, a: Any, b: Any) -> Any:
    if a.ndim == 1 and b.ndim == 1:
        return lambda: g * b, lambda: g * a
    if a.ndim == 1:
        return lambda: (b @ g[..., None])[..., 0], lambda: a[:, None] * g[..., None, :]
    if b.ndim == 1:
        return lambda: g[..., None] * b, lambda: (a.swapaxes(-1, -2) @ g[..., None])[..., 0]
    return lambda: product(g, b.swapaxes(-1, -2)), lambda: product(a.swapaxes(-1, -2), g)


@implements(np.dot)
def dot(a: Tensor, b: Tensor) -> Tensor:
    """The product of vectors and matrices; use ``@`` or einsum for more axes, where np.dot means something else."""
    if max(np.ndim(a), np.ndim(b)) > 2:
        raise UnsupportedError("np.dot on Tensors takes vectors and matrices; for more axes use @ or np.einsum.")
    return a * b if 0 in (np.ndim(a), np.ndim(b)) else a @ b


@op(saves="operands", view=True)
def einsum(*operands: Array, subscripts: str) -> Array:
    """Sum of products by index letters, as ``np.einsum(subscripts, *operands)``."""
    return np.einsum(subscripts, *operands, optimize=True)


@einsum.gradient
def einsum_gradient(g: Any, out: Any, *operands: Any, subscripts: str) -> Any:
    """With respect to one operand: einsum of g with all the others, onto that operand's letters."""
    *terms, result = _explicit(subscripts, [np.ndim(x) for x in operands])

    def to_operand(i: int) -> Any:
        others = [(t, x) for j, (t, x) in enumerate(zip(terms, operands, strict=True)) if j != i]
        factors = [(result, g), *others]
        target, shape = terms[i], operands[i].shape
        # A letter twice in one operand reads a diagonal: its gradient is spread by an identity matrix.
        for position, letter in enumerate(target):
            if letter in target[:position]:
                fresh = next(c for c in ascii_letters if not any(c in t for t in (target, *(f[0] for f in factors))))
                target = target[:position] + fresh + target[position + 1 :]
                factors.append((letter + fresh, np.eye(shape[position], dtype=g.dtype)))
        known = "".join(c for c in target if any(c in t for t, _ in factors))
        inputs = ",".join(t for t, _ in factors)
        partial = np.einsum(f"{inputs}->{known}", *[x for _, x in factors], optimize=True)
        # A letter that elsewhere is missing, or of length 1, was summed out: all along it the gradient is the same.
        if missing := tuple(p for p, c in enumerate(target) if c not in known):
            partial = np.expand_dims(partial, missing)
        whole = np.broadcast_shapes(partial.shape, shape)
        return partial if partial.shape == whole else np.broadcast_to(partial, whole)

    return [lambda i=i: to_operand(i) for i in range(len(operands))]


def _explicit(subscripts: str, ndims: list[int]) -> list[str]:
    """The terms of the operands and of the result, with ``...`` written out and the result's letters given."""
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    free = [c for c in ascii_letters if c not in subscripts]
    widths = [n - len(t.replace("...", "")) for t, n in zip(terms, ndims, strict=True) if "..." in t]
    dots = "".join(free[: max(widths, default=0)])
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        right = ("..." if dots else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    sizes = iter(widths)
    spelled = [t.replace("...", dots[len(dots) - next(sizes) :]) if "..." in t else t for t in terms]
    return [*spelled, right.replace("...", dots)]


@implements(np.einsum)
def _np_einsum(subscripts: str, *operands: Operand, optimize: Any = True) -> Tensor:
    if not isinstance(subscripts, str):
        raise UnsupportedError("np.einsum on Tensors takes its subscripts as a string: np.einsum('ij,jk->ik', a, b).")
    return einsum(*operands, subscripts=subscripts)
