"""How two gradients are compared: with PyTorch's, and with central differences."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_cifar import Tensor


def leaves(inputs: list[Any], dtype: Any = np.float64) -> list[Any]:
    """Arrays as fresh tensors that want a gradient; numbers stay numbers."""
    return [Tensor(x.astype(dtype), requires_grad=True) if isinstance(x, np.ndarray) else x for x in inputs]


def wanting(inputs: list[Any]) -> list[Tensor]:
    return [x for x in inputs if isinstance(x, Tensor)]


def assert_close(ours: Any, theirs: Any, tolerance: float, what: str = "value") -> None:
    """|ours - theirs| <= tolerance * (1 + the largest of theirs): relative to the scale, not to each entry."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, expected {theirs.shape}"
    if ours.size:
        scale = 1 + np.abs(theirs).max()
        error = np.abs(ours - theirs).max()
        assert error <= tolerance * scale, f"{what}: off by {error:.2e} at scale {scale:.2e}\n{ours}\n{theirs}"


def slopes(f: Callable[[], Any], x: Tensor, upstream: Any, h: float = 1e-3) -> Any:
    """d sum(upstream * f()) / d x by central differences of order 4, entry by entry."""
    result = np.zeros_like(x.data)
    flat, out = x.data.reshape(-1), result.reshape(-1)
    for i in range(x.size):
        kept, sample = flat[i], []
        for step in (-2, -1, 1, 2):
            flat[i] = kept + step * h
            sample.append((upstream * f().data).sum())
        flat[i] = kept
        out[i] = (sample[0] - 8 * sample[1] + 8 * sample[2] - sample[3]) / (12 * h)
    return result
