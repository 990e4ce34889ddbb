"""Epochs in this project. Each function returns ``run(n)``, which does n epochs and returns the last step's loss."""

import functools

import tinygrad_cifar as tg
from benchmarks.images import VALIDATION, splits
from benchmarks.networks import Network, batches
from benchmarks.programs.tinygrad_cifar_eager import OPTIMIZERS, model_of, prepare, step_of
from tinygrad_cifar.data import Batches
from tinygrad_cifar.optim import schedules
from tinygrad_cifar.train import Trainer


def steps(network: Network, images: int, shuffle: bool = True, compiled: bool = False):
    """As many steps as an epoch has, on batches that lie ready."""
    step = tg.compile(step_of(network)) if compiled else step_of(network)
    ready = [prepare(x, labels) for x, labels in batches(network)]

    def run(epochs: int) -> float:
        for i in range(epochs * (images // network.batch)):
            loss = step(*ready[i % len(ready)])
        return loss.item()

    return run


def loop(network: Network, images: int, shuffle: bool = True, compiled: bool = False):
    """The steps on ``Batches``."""
    step = tg.compile(step_of(network)) if compiled else step_of(network)
    train, _, standardiser = splits(images)
    data = Batches(train, network.batch, standardiser, network.dtype, shuffle=shuffle, drop_last=True)

    def run(epochs: int) -> float:
        for _ in range(epochs):
            for x, labels in data:
                loss = step(*prepare(x, labels))
        return loss.item()

    return run


compiled_steps = functools.partial(steps, compiled=True)
compiled_loop = functools.partial(loop, compiled=True)


def training(network: Network, images: int, shuffle: bool = True):
    """``Trainer``: schedule, penalty, cost, loss and accuracy of every step, validation after the epoch."""
    model = model_of(network)
    optimizer = OPTIMIZERS[network.optimizer](model.parameters(), lr=network.learning_rate)
    train, validation, standardiser = splits(images)
    data = Batches(train, network.batch, standardiser, network.dtype, shuffle=shuffle, drop_last=True)
    held_out = Batches(validation, VALIDATION, standardiser, network.dtype, shuffle=False)
    trainer = Trainer(model, optimizer, schedules.triangular(1e-5, 1e-1, n_s=2250), lam=0.005)

    def run(epochs: int) -> float:
        return trainer.fit(data, held_out, epochs)[-1].val_loss

    return run
