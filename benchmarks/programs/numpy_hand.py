"""The step as a good course solution writes it: clear, vectorised NumPy, gradients derived by hand."""

import numpy as np

from benchmarks.networks import Network, layers
from benchmarks.programs import Program


def program(network: Network) -> Program:
    net = layers(network)
    last = len(net) - 1
    running = [(np.zeros_like(layer.bias), np.ones_like(layer.bias)) for layer in net]
    activation, slope = ACTIVATIONS[network.activation]
    update = OPTIMIZERS[network.optimizer]([p for layer in net for p in layer if p is not None], network.learning_rate)

    def step(x, labels):
        n = len(x)
        # Forward, keeping what backward needs.
        inputs, normed, h = [], {}, x
        for i, (w, b, gamma, beta) in enumerate(net):
            inputs.append(h)
            s = h @ w + b
            if gamma is not None:
                mean, var = s.mean(axis=0), s.var(axis=0)
                running[i] = (0.9 * running[i][0] + 0.1 * mean, 0.9 * running[i][1] + 0.1 * var * n / (n - 1))
                deviation = np.sqrt(var + 1e-5)
                s_hat = (s - mean) / deviation
                normed[i] = (s_hat, deviation)
                s = gamma * s_hat + beta
            h = activation(s) if i < last else s
        e = np.exp(h - h.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(n), labels]).mean()

        # Backward, from the last layer to the first.
        gradients = []
        g = p
        g[np.arange(n), labels] -= 1
        g /= n
        for i in reversed(range(len(net))):
            w, _, gamma, _ = net[i]
            if i < last:
                g = g * slope(inputs[i + 1])
            scale_and_shift = []
            if gamma is not None:
                s_hat, deviation = normed[i]
                scale_and_shift = [(g * s_hat).sum(axis=0), g.sum(axis=0)]
                g = g * gamma
                g = (g - g.mean(axis=0) - s_hat * (g * s_hat).mean(axis=0)) / deviation
            gradients = [inputs[i].T @ g, g.sum(axis=0), *scale_and_shift, *gradients]
            if i:
                g = g @ w.T
        update(gradients)
        return loss

    return Program(step)


def sigmoid(s):
    return 1 / (1 + np.exp(-s))


def relu(s):
    return np.maximum(s, 0)


# The slope is written in terms of the activation's output h.
ACTIVATIONS = {"relu": (relu, lambda h: h > 0), "sigmoid": (sigmoid, lambda h: h * (1 - h))}


def sgd(parameters, lr):
    def update(gradients):
        for p, g in zip(parameters, gradients, strict=True):
            p -= lr * g

    return update


def adam(parameters, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    means = [np.zeros_like(p) for p in parameters]
    squares = [np.zeros_like(p) for p in parameters]
    t = 0

    def update(gradients):
        nonlocal t
        t += 1
        for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            means[i] = beta1 * means[i] + (1 - beta1) * g
            squares[i] = beta2 * squares[i] + (1 - beta2) * g**2
            mean_hat = means[i] / (1 - beta1**t)
            square_hat = squares[i] / (1 - beta2**t)
            p -= lr * mean_hat / (np.sqrt(square_hat) + eps)

    return update


OPTIMIZERS = {"sgd": sgd, "adam": adam}
