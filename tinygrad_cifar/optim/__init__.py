"""Optimisers and learning-rate schedules. Names and defaults are PyTorch's."""

from tinygrad_cifar.optim import schedules
from tinygrad_cifar.optim.algorithms import SGD, Adagrad, Adam, AdamW, RMSprop
from tinygrad_cifar.optim.optimizer import Optimizer, clip_grad_norm

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm", "schedules"]
