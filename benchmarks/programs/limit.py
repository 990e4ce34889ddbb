"""The floor: the matrix products of a step and one plain parameter update, into ready buffers, and nothing else.

Forward X W; backward dW = X^T G and dX = G W^T (the first layer's dX is not needed); then w -= lr * g.
The update is SGD's for every network: Adam's own cost is part of what a program may save.
"""

import numpy as np

from benchmarks.networks import Network, layers
from benchmarks.programs import Program


def program(network: Network) -> Program:
    weights = [layer.weight for layer in layers(network)]
    gradients = [np.zeros_like(w) for w in weights]
    rng = np.random.default_rng(2)
    outputs = [rng.standard_normal((network.batch, w.shape[1])).astype(network.dtype) for w in weights]
    upstream = [1e-3 * z for z in outputs]
    scale = np.asarray(network.learning_rate * 1e-3, network.dtype)  # small: the weights stay ordinary numbers

    def step(x, labels):
        inputs = [x, *outputs[:-1]]
        for x_i, w, z in zip(inputs, weights, outputs, strict=True):
            np.matmul(x_i, w, out=z)
        for i in reversed(range(len(weights))):
            np.matmul(inputs[i].T, upstream[i], out=gradients[i])
            if i:
                np.matmul(upstream[i], weights[i].T, out=upstream[i - 1])
        for w, g in zip(weights, gradients, strict=True):
            np.multiply(g, scale, out=g)
            np.subtract(w, g, out=w)

    return Program(step)
