"""MyGrad: its layers and fused softmax cross entropy, the update by hand (it has no optimisers)."""

import mygrad as mg
from mygrad.nnet.activations import relu, sigmoid
from mygrad.nnet.layers import batchnorm
from mygrad.nnet.losses import softmax_crossentropy

from benchmarks.networks import Network, layers
from benchmarks.programs import Program
from benchmarks.programs.numpy_hand import OPTIMIZERS


def program(network: Network) -> Program:
    net = [[None if p is None else mg.tensor(p, copy=False) for p in layer] for layer in layers(network)]
    running = [(0 * layer[1].data, 0 * layer[1].data + 1) for layer in net]
    parameters = [p for layer in net for p in layer if p is not None]
    update = OPTIMIZERS[network.optimizer]([p.data for p in parameters], network.learning_rate)
    activation = {"relu": relu, "sigmoid": sigmoid}[network.activation]

    def step(x, labels):
        n, h = len(x), x
        for i, (w, b, gamma, beta) in enumerate(net):
            h = h @ w + b
            if gamma is not None:
                mean, var = h.data.mean(axis=0), h.data.var(axis=0)  # batchnorm keeps its own to itself
                running[i] = (0.9 * running[i][0] + 0.1 * mean, 0.9 * running[i][1] + 0.1 * var * n / (n - 1))
                h = batchnorm(h, gamma=gamma, beta=beta, eps=1e-5)
            h = activation(h) if i < len(net) - 1 else h
        loss = softmax_crossentropy(h, labels)
        loss.backward()
        update([p.grad for p in parameters])
        return loss

    return Program(step)
