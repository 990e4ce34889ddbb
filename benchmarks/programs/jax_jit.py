"""JAX: the whole step is one jitted function that donates its state."""

import functools

import jax
import jax.numpy as jnp

from benchmarks.networks import Network, layers
from benchmarks.programs import Program


def program(network: Network) -> Program:
    if network.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    net = [tuple(None if p is None else jnp.array(p) for p in layer) for layer in layers(network)]
    running = [(jnp.zeros_like(layer[1]), jnp.ones_like(layer[1])) for layer in net]
    activation = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}[network.activation]
    start, update = {"sgd": (lambda net: (), sgd), "adam": (adam_start, adam)}[network.optimizer]

    def loss_of(net, running, x, labels):
        h, moved = x, []
        for i, ((w, b, gamma, beta), (mean, var)) in enumerate(zip(net, running, strict=True)):
            h = h @ w + b
            if gamma is not None:
                m, v = h.mean(axis=0), h.var(axis=0)
                mean, var = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v * len(x) / (len(x) - 1)
                h = gamma * (h - m) / jnp.sqrt(v + 1e-5) + beta
            h = activation(h) if i < len(net) - 1 else h
            moved.append((mean, var))
        log_p = jax.nn.log_softmax(h)
        return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean(), moved

    @functools.partial(jax.jit, donate_argnums=0)
    def jitted(state, x, labels):
        net, running, memory = state
        (loss, running), gradients = jax.value_and_grad(loss_of, has_aux=True)(net, running, x, labels)
        net, memory = update(net, gradients, memory, network.learning_rate)
        return (net, running, memory), loss

    state = (net, running, start(net))

    def step(x, labels):
        nonlocal state
        state, loss = jitted(state, x, labels)
        return loss

    return Program(step, lambda x, labels: (jnp.array(x), jnp.array(labels)), lambda loss: jax.block_until_ready(state))


def sgd(net, gradients, memory, lr):
    return jax.tree.map(lambda p, g: p - lr * g, net, gradients), memory


def adam_start(net):
    return jax.tree.map(jnp.zeros_like, net), jax.tree.map(jnp.zeros_like, net), jnp.zeros((), jnp.int32)


def adam(net, gradients, memory, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    means, squares, t = memory
    t = t + 1
    means = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, means, gradients)
    squares = jax.tree.map(lambda s, g: beta2 * s + (1 - beta2) * g * g, squares, gradients)
    rate, correction = lr / (1 - beta1**t), 1 - beta2**t
    net = jax.tree.map(lambda p, m, s: p - rate * m / (jnp.sqrt(s / correction) + eps), net, means, squares)
    return net, (means, squares, t)
