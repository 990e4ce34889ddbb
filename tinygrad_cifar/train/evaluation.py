"""Loss, accuracy and predictions of a network on a split."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar import nn
from tinygrad_cifar.tensor import Tensor, no_grad

CHUNK = 500  # images a time: large enough for the matrix products, small enough for the cache


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What ``evaluate`` measured.

    Attributes:
        loss: mean cross entropy in nats, without any penalty.
        accuracy: the fraction in [0, 1] of images whose highest score is their label's.
        labels, predictions: (N,), the true and the predicted classes.
    """

    loss: float
    accuracy: float
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]


def evaluate(model: nn.Module, batches: Iterable[tuple[NDArray[Any], NDArray[np.int64]]]) -> Evaluation:
    """Run ``model`` over ``batches`` of (images, labels) in evaluation mode, without a graph.

    The modes of its modules are put back afterwards.
    """
    modes = [(module, module.training) for module in model.modules()]
    total = 0.0
    labels, predictions = [], []
    model.eval()
    try:
        with no_grad():
            for x, y in batches:
                scores = model(Tensor(x))
                total += nn.F.cross_entropy(scores, y).item() * len(y)
                labels.append(y)
                predictions.append(scores.data.argmax(axis=1))
    finally:
        for module, training in modes:
            module.training = training
    true, predicted = np.concatenate(labels), np.concatenate(predictions)
    return Evaluation(total / len(true), float(np.mean(true == predicted)), true, predicted)
