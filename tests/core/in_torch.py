"""Every op once more, in PyTorch, under our op's names of arguments, and its gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def dims(x: Any, axis: Any) -> Any:
    return tuple(range(x.ndim)) if axis is None else axis


def extreme(name: str) -> Callable[..., Any]:
    return lambda x, axis=None, keepdims=False: getattr(torch, name)(x, dim=dims(x, axis), keepdim=keepdims)


def total(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return x.sum(dims(x, axis), keepdim=keepdims) if x.ndim else x * 1


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return x.mean(dims(x, axis), keepdim=keepdims) if x.ndim else x * 1


def var(x: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    return x.var(dims(x, axis), correction=ddof, keepdim=keepdims) if x.ndim else x * 0


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return x.logsumexp(dims(x, axis), keepdim=keepdims) if x.ndim else x * 1


def clip(x: Any, min: Any = None, max: Any = None) -> Any:
    return x * 1 if min is None and max is None else x.clamp(min, max)


def squeeze(x: Any, axis: Any = None) -> Any:
    return x.squeeze() if axis is None else x.squeeze(axis)


def reshape_like(function: Callable[..., Any]) -> Callable[..., Any]:
    """The shape that NumPy's function yields, taken by torch's reshape."""
    return lambda x, **kwargs: x.reshape(function(np.zeros(x.shape), **kwargs).shape)


def places(shape: Any, index: Any) -> Any:
    """The flat positions that NumPy's index picks out, which spares torch the kinds of index it lacks."""
    return np.arange(int(np.prod(shape))).reshape(tuple(shape))[index]


def getitem(x: Any, index: Any) -> Any:
    return x.reshape(-1)[torch.from_numpy(np.array(places(x.shape, index)))]


def scatter(g: Any, index: Any, shape: Any) -> Any:
    where = torch.from_numpy(np.array(places(shape, index)).reshape(-1))
    return torch.zeros(int(np.prod(shape)), dtype=g.dtype).index_put((where,), g.reshape(-1), True).reshape(shape)


def setitem(x: Any, value: Any, index: Any) -> Any:
    """One entry after the other, so the last one to be written stays."""
    where = np.asarray(places(x.shape, index))
    region = (1,) * max(value.ndim - where.ndim, 0) + where.shape if isinstance(value, torch.Tensor) else ()
    values = torch.broadcast_to(torch.as_tensor(value, dtype=x.dtype), region).reshape(-1)
    entries = list(x.reshape(-1))
    for place, entry in zip(where.reshape(-1), values, strict=True):
        entries[place] = entry
    return torch.stack(entries).reshape(x.shape)


def pick(scores: Any, labels: Any) -> Any:
    return scores[torch.arange(len(labels)), torch.from_numpy(labels.astype(int))]


def hinge(scores: Any, labels: Any, margin: float = 1.0) -> Any:
    """F.multi_margin_loss, which cannot be differentiated twice."""
    wrong = torch.arange(scores.shape[1]) != torch.from_numpy(labels.astype(int))[:, None]
    return (wrong * (scores - pick(scores, labels)[:, None] + margin).relu()).sum() / scores.numel()


def batch_norm(x: Any, gamma: Any, beta: Any, eps: float = 1e-5) -> Any:
    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def textbook_batch_norm(x: Any, gamma: Any, beta: Any, eps: float = 1e-5) -> Any:
    return gamma * (x - x.mean(0)) / (x.var(0, correction=0) + eps).sqrt() + beta


def einsum(*operands: Any, subscripts: str) -> Any:
    return torch.einsum(subscripts, *operands)


def tensors(*inputs: Any) -> list[Any]:
    like = next(x for x in inputs if isinstance(x, torch.Tensor))
    return [x if isinstance(x, torch.Tensor) else torch.as_tensor(x, dtype=like.dtype) for x in inputs]


IN_TORCH: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "negative": torch.neg,
    "power": lambda a, b: a**b,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "maximum": lambda a, b: torch.maximum(*tensors(a, b)),
    "minimum": lambda a, b: torch.minimum(*tensors(a, b)),
    "select": lambda a, b, condition: torch.where(torch.as_tensor(condition), *tensors(a, b)),
    "clip": clip,
    "astype": lambda x, dtype: x.to(getattr(torch, dtype.name)),
    "clone": torch.clone,
    "sum": total,
    "mean": mean,
    "var": var,
    "max": extreme("amax"),
    "min": extreme("amin"),
    "logsumexp": logsumexp,
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, axes=None: x.permute(tuple(axes) if axes is not None else tuple(range(x.ndim))[::-1]),
    "swapaxes": lambda x, axis1, axis2: x.swapaxes(axis1, axis2),
    "expand_dims": reshape_like(np.expand_dims),
    "squeeze": squeeze,
    "broadcast_to": lambda x, shape: x.broadcast_to(shape),
    "getitem": getitem,
    "scatter": scatter,
    "setitem": setitem,
    "concatenate": lambda *arrays, axis=0: torch.cat(arrays, axis),
    "stack": lambda *arrays, axis=0: torch.stack(arrays, axis),
    "matmul": torch.matmul,
    "einsum": einsum,
    "relu": torch.relu,
    "leaky_relu": lambda x, slope=0.01: F.leaky_relu(x, float(slope)),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": lambda x: F.softplus(x, threshold=600),
    "erf": torch.erf,
    "gelu": F.gelu,
    "softmax": lambda x, axis=-1: x.softmax(axis),
    "log_softmax": lambda x, axis=-1: x.log_softmax(axis),
    "linear": F.linear,
    "batch_norm": batch_norm,
    "dropout": lambda x, mask: x * torch.as_tensor(mask),
    "softmax_cross_entropy": lambda z, labels: F.cross_entropy(z, torch.from_numpy(labels.astype(int))),
    "binary_cross_entropy_with_logits": lambda z, targets: F.binary_cross_entropy_with_logits(
        z, torch.as_tensor(targets, dtype=z.dtype)
    ),
    "hinge": hinge,
    "mse": F.mse_loss,
    "l2_penalty": lambda *weights, coefficient: coefficient * sum((w**2).sum() for w in weights),
}


def apply(name: str, *inputs: Any, **kwargs: Any) -> Any:
    constants = np.ndarray | np.generic
    return IN_TORCH[name](*[torch.as_tensor(x) if isinstance(x, constants) else x for x in inputs], **kwargs)


def leaves(inputs: list[Any]) -> list[Any]:
    return [torch.tensor(x, requires_grad=True) if isinstance(x, np.ndarray) else x for x in inputs]


def gradients(outputs: list[Any], inputs: list[Any], above: list[Any], create_graph: bool = False) -> list[Any]:
    """``torch.autograd.grad`` by the tensors among the inputs; zeros where an output does not depend on one."""
    inputs = [x for x in inputs if isinstance(x, torch.Tensor)]
    pairs = [(y, torch.as_tensor(g)) for y, g in zip(outputs, above, strict=True) if y.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    ys, gs = zip(*pairs, strict=True)
    found = torch.autograd.grad(ys, inputs, gs, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def numpy(t: Any) -> Any:
    return t.detach().numpy(force=True)  # force: torch's lazily zero tensors too
