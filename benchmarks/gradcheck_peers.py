"""The gradient checkers of PyTorch and of HIPS autograd, on what ours checks.

Ours records a network as a ``Program``; here the same program is run by the peer: with the peer's own ops (is a right
network called wrong?), or with our forwards and rules as custom functions (is a wrong rule found?). A checker is a
function of a program that returns whether it raises the alarm.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_cifar.engine import sum_to
from tinygrad_cifar.gradcheck.replay import Program, Step

Checker = Callable[[Program], bool]


def torch_checkers(dtype: str = "float64") -> tuple[Checker, Checker]:
    """(with PyTorch's own ops, with our rules): ``torch.autograd.gradcheck`` with its default settings."""
    import torch
    from torch.nn import functional as F

    def tensor(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return torch.tensor(x.astype(dtype) if x.dtype.kind == "f" else x)
        return x

    own: dict[str, Callable[..., Any]] = {
        "add": torch.add,
        "linear": F.linear,
        "relu": F.relu,
        "leaky_relu": lambda x, slope=0.01: F.leaky_relu(x, slope),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "dropout": lambda x, mask: x * mask,
        "batch_norm": lambda x, gamma, beta, eps, **running: F.batch_norm(x, None, None, gamma, beta, True, 0.1, eps),
        "softmax_cross_entropy": lambda z, labels: F.cross_entropy(z, labels.long()),
        "l2_penalty": lambda *weights, coefficient: coefficient * sum((w * w).sum() for w in weights),
    }

    class Ours(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, step: Step, *inputs: Any) -> Any:
            arrays = [x.detach().numpy() if isinstance(x, torch.Tensor) else x for x in inputs]
            ctx.step, ctx.arrays = step, arrays
            ctx.out, ctx.kept = _forward(step, arrays)
            return torch.tensor(ctx.out)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            found = _backward(ctx.step, g.numpy(), ctx.out, ctx.arrays, ctx.kept)
            return None, *[None if d is None else torch.tensor(d) for d in found]

    def alarm(program: Program, call: Callable[..., Any]) -> bool:
        leaves = [tensor(x).requires_grad_() for x in program.leaves]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the input is not of double precision: we know
            try:
                return not torch.autograd.gradcheck(
                    lambda *values: _run(program, values, call, tensor), leaves, raise_exception=False
                )
            except Exception:  # a rule's error is an alarm as well
                return True

    def native(step: Step, arguments: list[Any]) -> Any:
        return own[step.op.name](*arguments, **{name: tensor(value) for name, value in step.kwargs.items()})

    return (
        lambda program: alarm(program, native),
        lambda program: alarm(program, lambda step, arguments: Ours.apply(step, *arguments)),
    )


def hips_checkers(dtype: str = "float64") -> tuple[Checker, Checker]:
    """(with autograd's own ops, with our rules): ``autograd.test_util.check_grads``, reverse mode, first order."""
    import autograd.numpy as anp
    from autograd.extend import defvjp, primitive
    from autograd.test_util import check_grads

    def array(x: Any) -> Any:
        return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    def batch_norm(x: Any, gamma: Any, beta: Any, eps: float, **running: Any) -> Any:
        centred = x - anp.mean(x, 0)
        return gamma * centred / anp.sqrt(anp.mean(centred * centred, 0) + eps) + beta

    def cross_entropy(z: Any, labels: Any) -> Any:
        z = z - anp.max(z, 1, keepdims=True)
        return anp.mean(anp.log(anp.sum(anp.exp(z), 1)) - z[np.arange(len(labels)), labels])

    own: dict[str, Callable[..., Any]] = {
        "add": lambda a, b: a + b,
        "linear": lambda x, w, b=0.0: anp.dot(x, w.T) + b,
        "relu": lambda x: anp.maximum(x, 0),
        "leaky_relu": lambda x, slope=0.01: anp.where(x > 0, x, slope * x),
        "sigmoid": lambda x: 0.5 * (anp.tanh(0.5 * x) + 1),
        "tanh": anp.tanh,
        "dropout": lambda x, mask: x * mask,
        "batch_norm": batch_norm,
        "softmax_cross_entropy": cross_entropy,
        "l2_penalty": lambda *weights, coefficient: coefficient * sum(anp.sum(w * w) for w in weights),
    }

    def ours(step: Step, arguments: list[Any]) -> Any:
        @primitive
        def call(*inputs: Any) -> Any:
            return _forward(step, list(inputs))[0]

        def vjp(i: int) -> Callable[..., Any]:
            def of(out: Any, *inputs: Any) -> Callable[[Any], Any]:
                kept = _forward(step, list(inputs))[1]
                return lambda g: _backward(step, np.asarray(g), out, list(inputs), kept)[i]

            return of

        defvjp(call, *[vjp(i) for i in range(len(arguments))])
        return call(*arguments)

    def alarm(program: Program, call: Callable[..., Any]) -> bool:
        np.random.seed(0)  # it draws its directions from NumPy's global stream
        with np.errstate(all="ignore"):
            try:
                every = tuple(range(len(program.leaves)))  # by default it checks the first argument alone
                check_grads(lambda *values: _run(program, values, call, array), every, modes=["rev"], order=1)(
                    *[array(x) for x in program.leaves]
                )
            except Exception:
                return True
        return False

    def native(step: Step, arguments: list[Any]) -> Any:
        return own[step.op.name](*arguments, **{name: array(value) for name, value in step.kwargs.items()})

    return lambda program: alarm(program, native), lambda program: alarm(program, ours)


def _run(program: Program, leaves: Any, call: Callable[..., Any], convert: Callable[[Any], Any]) -> Any:
    values = list(leaves)
    for step in program.steps:
        arguments = [convert(c) if s is None else values[s] for s, c in zip(step.sources, step.constants, strict=True)]
        values.append(call(step, arguments))
    return values[program.out]


def _forward(step: Step, arrays: list[Any]) -> tuple[Any, Any]:
    found = step.op.forward(*arrays, **step.kwargs)
    out, kept = found if step.op.keeps else (found, None)
    return np.array(out), kept


def _backward(step: Step, g: Any, out: Any, arrays: list[Any], kept: Any) -> list[Any]:
    extra = {"kept": kept} if step.op.keeps else {}
    assert step.op.rule is not None
    found = [d() if callable(d) else d for d in step.op.rule(g, out, *arrays, **extra, **step.kwargs)]
    wanted = [isinstance(x, np.ndarray) and d is not None for d, x in zip(found, arrays, strict=False)]
    return [
        np.array(d if d.shape == x.shape else sum_to(d, x.shape)) if want else None
        for d, x, want in zip(found, arrays, wanted, strict=False)
    ]
