"""Loss, accuracy and predictions of a network on a split."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_cifar import nn
from tinygrad_cifar.nn.module import preserved_modes
from tinygrad_cifar.tensor import Tensor, no_grad


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
    total = 0.0
    labels, predictions = [], []
    with no_grad(), preserved_modes(model):
        model.eval()
        for x, y in batches:
            scores = model(Tensor(x))
            total += nn.F.cross_entropy(scores, y).item() * len(y)
            labels.append(y)
            predictions.append(scores.data.argmax(axis=1))
    true, predicted = np.concatenate(labels), np.concatenate(predictions)
    return Evaluation(total / len(true), float(np.mean(true == predicted)), true, predicted)
