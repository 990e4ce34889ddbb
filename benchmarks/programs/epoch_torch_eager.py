"""The same epochs in PyTorch: the images lie standardised in one tensor, which a permutation indexes."""

import torch
import torch.nn.functional as F

from benchmarks.images import VALIDATION, splits
from benchmarks.networks import Network
from benchmarks.programs.torch_eager import OPTIMIZERS, model_of
from tinygrad_cifar.optim import schedules


def tensors(split, standardiser, network: Network):
    x = standardiser.transform(split.images, network.dtype)
    return torch.from_numpy(x), torch.from_numpy(split.labels.astype("int64"))


def permutation(count: int, shuffle: bool):
    return torch.randperm(count) if shuffle else torch.arange(count)


def loop(network: Network, images: int, shuffle: bool = True):
    """The steps on rows of a permutation."""
    model = model_of(network)
    optimizer = OPTIMIZERS[network.optimizer](model.parameters(), lr=network.learning_rate)
    train, _, standardiser = splits(images)
    x, labels = tensors(train, standardiser, network)

    def run(epochs: int) -> float:
        for _ in range(epochs):
            for rows in permutation(len(x), shuffle).split(network.batch):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[rows]), labels[rows])
                loss.backward()
                optimizer.step()
        return loss.item()

    return run


def training(network: Network, images: int, shuffle: bool = True):
    """What ``Trainer`` does: schedule, penalty, cost, loss and accuracy of every step, validation after the epoch."""
    model = model_of(network)
    optimizer = OPTIMIZERS[network.optimizer](model.parameters(), lr=network.learning_rate)
    weights = [p for p in model.parameters() if p.ndim > 1]
    train, validation, standardiser = splits(images)
    x, labels = tensors(train, standardiser, network)
    held_out, held_out_labels = tensors(validation, standardiser, network)
    schedule = schedules.triangular(1e-5, 1e-1, n_s=2250)
    steps = 0

    def epoch() -> None:
        nonlocal steps
        model.train()
        cost_sum = loss_sum = right = 0.0
        for rows in permutation(len(x), shuffle).split(network.batch):
            optimizer.param_groups[0]["lr"] = schedule(steps)
            optimizer.zero_grad()
            y = labels[rows]
            scores = model(x[rows])
            loss = F.cross_entropy(scores, y)
            cost = loss + 0.005 * sum((w**2).sum() for w in weights)
            cost.backward()
            optimizer.step()
            cost_sum += cost.item() * len(rows)
            loss_sum += loss.item() * len(rows)
            right += (scores.argmax(1) == y).sum().item()
            steps += 1

    def validate() -> float:
        model.eval()
        loss_sum = right = 0.0
        with torch.no_grad():
            for x_i, y in zip(held_out.split(VALIDATION), held_out_labels.split(VALIDATION), strict=True):
                scores = model(x_i)
                loss_sum += F.cross_entropy(scores, y).item() * len(y)
                right += (scores.argmax(1) == y).sum().item()
        return loss_sum / len(held_out)

    def run(epochs: int) -> float:
        for _ in range(epochs):
            epoch()
            loss = validate()
        return loss

    return run
