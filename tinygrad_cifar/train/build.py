"""From the words of a Config to the things: data, batches, network, optimiser, schedule, trainer."""

from typing import Any

from tinygrad_cifar import nn, optim
from tinygrad_cifar.data import Batches, Cifar10, Split, Standardiser, load_cifar10, load_or_synthesise
from tinygrad_cifar.data.augment import Augmentation, Compose, RandomHorizontalFlip, RandomShift
from tinygrad_cifar.data.splits import CLASSES, PIXELS
from tinygrad_cifar.optim import schedules
from tinygrad_cifar.train.config import Config
from tinygrad_cifar.train.trainer import Trainer

CHUNK = 500  # images that are measured at a time: enough for the matrix products, few enough for the cache


def load_data(config: Config) -> Cifar10:
    """CIFAR-10, or the synthetic stand-in where it was asked for or nothing else can be had."""
    return load_cifar10(synthetic=True) if config.synthetic else load_or_synthesise(config.data)


def split_data(config: Config, data: Cifar10) -> tuple[Split, Split]:
    """The images to train and to validate on."""
    train, val = data.split(config.split)
    return (train.subset(config.subset) if config.subset else train), val


def training_batches(config: Config, train: Split, standardiser: Standardiser, prefetch: bool | None = None) -> Batches:
    """Shuffled and augmented, without an incomplete last one."""
    augment = build_augmentation(config)
    return Batches(
        train, config.batch_size, standardiser, config.dtype, augment=augment, drop_last=True, prefetch=prefetch
    )


def ordered_batches(config: Config, split: Split, standardiser: Standardiser, prefetch: bool | None = None) -> Batches:
    """All images of ``split`` as they come, to measure on."""
    return Batches(split, CHUNK, standardiser, config.dtype, shuffle=False, prefetch=prefetch)


def build_augmentation(config: Config) -> Augmentation | None:
    """Flip, then shift, where they are wanted."""
    steps: list[Augmentation] = []
    if config.augment_flip:
        steps.append(RandomHorizontalFlip())
    if config.augment_shift:
        steps.append(RandomShift(config.augment_shift))
    return Compose(steps) if steps else None


def build_model(config: Config) -> nn.Sequential:
    """The network, with weights drawn from the random stream "init"."""
    return nn.mlp(
        [PIXELS, *config.hidden, len(CLASSES)],
        activation=config.activation,
        batch_norm=config.batch_norm,
        dropout=config.dropout,
        init=config.init,  # type: ignore[arg-type]  # Config has checked the word
        dtype=config.dtype,
    )


def build_optimizer(config: Config, model: nn.Module) -> optim.Optimizer:
    """The optimiser; its learning rate is the schedule's business."""
    parameters = model.parameters()
    match config.optimizer:
        case "sgd":
            form = config.momentum_form
            return optim.SGD(parameters, 0.0, config.momentum, config.nesterov, form=form)  # type: ignore[arg-type]
        case "adam":
            return optim.Adam(parameters, 0.0)
        case "adamw":
            return optim.AdamW(parameters, 0.0, weight_decay=config.weight_decay)
        case "rmsprop":
            return optim.RMSprop(parameters, 0.0, momentum=config.momentum)
    return optim.Adagrad(parameters, 0.0)


def build_schedule(config: Config, steps_per_epoch: int) -> schedules.Schedule:
    """The learning rate as a function of the step, for a resolved ``config``."""
    c: Any = config  # what the schedule uses is not None
    total = c.epochs * steps_per_epoch - c.warm_up
    schedule: schedules.Schedule
    match c.schedule:
        case "exponential":
            schedule = schedules.exponential(c.lr, c.k, c.gamma, steps_per_epoch)
        case "step":
            schedule = schedules.step(c.lr, c.every, c.gamma, steps_per_epoch)
        case "triangular":
            schedule = schedules.triangular(c.eta_min, c.eta_max, c.n_s)
        case "cosine":
            schedule = schedules.cosine(c.eta_max, total, c.eta_min)
        case "one_cycle":
            schedule = schedules.one_cycle(c.eta_max, total)
        case _:
            schedule = schedules.constant(c.lr)
    return schedules.warm_up(schedule, config.warm_up) if config.warm_up else schedule


def build_trainer(
    config: Config, model: nn.Module, schedule: schedules.Schedule | None = None, *, compile: bool = True
) -> Trainer:
    """The loop with the optimiser and the penalty; without a ``schedule`` the learning rate is 0 until it is set."""
    return Trainer(
        model,
        build_optimizer(config, model),
        schedule,
        lam=config.lam,
        l2_convention=config.l2_convention,  # type: ignore[arg-type]  # Config has checked the word
        compile=compile,
    )
