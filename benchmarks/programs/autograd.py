"""HIPS autograd: the loss in its NumPy, value_and_grad, the update by hand as in its examples."""

import autograd.numpy as np
from autograd import value_and_grad
from autograd.tracer import getval

from benchmarks.networks import Network, layers
from benchmarks.programs import Program
from benchmarks.programs.numpy_hand import OPTIMIZERS

ACTIVATIONS = {"relu": lambda s: np.maximum(s, 0), "sigmoid": lambda s: 1 / (1 + np.exp(-s))}


def program(network: Network) -> Program:
    # autograd differentiates through lists, not through None
    net = [[p for p in layer if p is not None] for layer in layers(network)]
    running = [(0 * bias, 0 * bias + 1) for _, bias, *_ in net]
    update = OPTIMIZERS[network.optimizer]([p for layer in net for p in layer], network.learning_rate)
    activation = ACTIVATIONS[network.activation]

    def loss_of(net, x, labels):
        n, h = len(x), x
        for i, (w, b, *norm) in enumerate(net):
            h = np.dot(h, w) + b
            if norm:
                gamma, beta = norm
                mean, var = np.mean(h, axis=0), np.var(h, axis=0)
                m, v = getval(mean), getval(var)
                running[i] = (0.9 * running[i][0] + 0.1 * m, 0.9 * running[i][1] + 0.1 * v * n / (n - 1))
                h = gamma * (h - mean) / np.sqrt(var + 1e-5) + beta
            h = activation(h) if i < len(net) - 1 else h
        z = h - getval(h).max(axis=1, keepdims=True)
        log_p = z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))
        return -np.mean(log_p[np.arange(n), labels])

    loss_and_gradients = value_and_grad(loss_of)

    def step(x, labels):
        loss, gradients = loss_and_gradients(net, x, labels)
        update([g for layer in gradients for g in layer])
        return loss

    return Program(step)
