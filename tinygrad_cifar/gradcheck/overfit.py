"""The sanity check that the documents made by eye: a network must be able to learn a few images by heart."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinygrad_cifar import nn, optim
from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.random import preserved
from tinygrad_cifar.tensor import Array, Tensor


@dataclass
class Overfit:
    """The verdict of ``overfits``: true in a condition if the network learned the batch by heart."""

    ok: bool
    losses: list[float] = field(repr=False)  # before each step, and after the last one
    accuracy: float = 0.0
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        course = f"loss {self.losses[0]:.3g} -> {self.losses[-1]:.3g} in {len(self.losses) - 1} steps"
        return f"overfits: {course}" if self.ok else f"does not overfit: {course}; {self.reason}"


def overfits(
    model: nn.Module, batch: tuple[ArrayLike, ArrayLike], *, lr: float = 0.003, steps: int = 1000, target: float = 0.01
) -> Overfit:
    """Train a copy of ``model`` on one batch with Adam until its cross-entropy is below ``target``.

    Dropout is switched off and no L2 penalty is added, since both are there to prevent what is tried here. The model,
    its running averages and the random streams stay as they are.

    Args:
        model: a classifier; its copy is trained in training mode, so batch norm uses the batch's own moments.
        batch: images (N, ...) and integer labels (N,); some 10 to 100 of them.
        lr: learning rate of Adam.
        steps: how many steps to try.
        target: the loss that counts as learned by heart.

    Raises:
        ConfigError: the model has no parameters at all.

    Examples:
        >>> print(overfits(model, (x[:100], y[:100])))
        overfits: loss 2.47 -> 0.00998 in 57 steps
    """
    learner = copy.deepcopy(model).train()
    for module in learner.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if not (own := list(learner.parameters())):
        raise ConfigError(f"overfits: {type(model).__name__} has no parameters, so there is nothing that could learn.")
    parameters, dtype = [p for p in own if p.requires_grad], own[0].dtype
    x, y = Tensor(np.asarray(batch[0], dtype)), np.asarray(batch[1])
    if not parameters:
        return _verdict(False, learner, x, y, [], "no parameter requires a gradient")
    optimizer = optim.Adam(parameters, lr)
    losses: list[float] = []
    with preserved(), np.errstate(all="ignore"):
        start = [p.data.copy() for p in parameters]
        for step in range(steps + 1):
            loss = nn.F.cross_entropy(learner(x), y)
            losses.append(loss.item())
            if losses[-1] < target:
                return _verdict(True, learner, x, y, losses)
            if not math.isfinite(losses[-1]):
                return _verdict(False, learner, x, y, losses, f"the loss is {losses[-1]} at step {step}")
            if step < steps:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        still = {
            name: _why_still(p, lr) for (name, p), old in zip(_learned(learner), start, strict=True)
            if np.array_equal(p.data, old)
        }  # fmt: skip
        return _verdict(False, learner, x, y, losses, _reason(learner, x, y, losses, still, lr))


def _verdict(ok: bool, learner: nn.Module, x: Tensor, y: Array, losses: list[float], reason: str = "") -> Overfit:
    scores = learner(x)
    accuracy = float((scores.data.argmax(1) == y).mean())
    return Overfit(ok, losses or [nn.F.cross_entropy(scores, y).item()], accuracy, reason)


def _reason(learner: nn.Module, x: Tensor, y: Array, losses: list[float], still: dict[str, str], lr: float) -> str:
    """Why the loss is not small. ``still``: the parameters that never moved, and why."""
    floor = _floor(x.data, y)
    if floor > 0 and losses[-1] < 1.5 * floor + 0.05:
        return f"equal images have different labels, so no network gets below {floor:.3g}"
    if still and (losses[-1] > 0.5 * losses[0] or len(still) == len(_learned(learner))):
        why = next(iter(still.values()))
        names = [name for name in still if still[name] == why]
        return f"{', '.join(names)} never moved: {why}"
    scores = learner(x).data
    squashed = scores.min() >= 0 and np.allclose(scores.sum(1), 1, atol=1e-4)
    if squashed or scores.min() == 0 < scores.max():
        kind = "probabilities" if squashed else "cut off at 0"
        return f"the model's scores are {kind}: cross_entropy wants them without softmax or ReLU after the last layer"
    if losses[-1] > losses[0]:
        return f"the loss rose: lower lr={lr:g}, or check the gradients' sign with check_gradients"
    if losses[-1] < 0.995 * min(losses[: 2 * len(losses) // 3]) or (np.diff(losses) < 0).all():
        return "the loss still falls: give it more steps or a higher lr"
    last = losses[-(len(losses) // 10 + 1) :]
    if np.std(last) > 0.1 * np.mean(last):
        return f"the loss jumps up and down: lower lr={lr:g}"
    return "the loss is stuck: more hidden units, another initialisation, another lr, or check_gradients"


def _why_still(parameter: Tensor, lr: float) -> str:
    if parameter.grad is None:
        return "no gradient at all, so unused, or cut off by .data, .numpy(), .detach() or no_grad()"
    if parameter.grad.data.any():
        return f"lr={lr:g} is too small"
    return "zero gradients (dead or saturated units?)"


def _learned(learner: nn.Module) -> list[tuple[str, Any]]:
    return [(name, p) for name, p in learner.named_parameters() if p.requires_grad]


def _floor(x: Array, y: Array) -> float:
    """The least mean cross-entropy there can be: that of the labels of equal images."""
    _, group = np.unique(x.reshape(len(x), -1), axis=0, return_inverse=True)
    counts = np.zeros((group.max() + 1, int(y.max()) + 1))
    np.add.at(counts, (group.ravel(), y), 1)
    shares = counts / counts.sum(1, keepdims=True)
    logs = np.log(np.where(shares > 0, shares, 1))
    return float(-(counts * logs).sum() / len(y))
