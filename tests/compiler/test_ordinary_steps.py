"""Training steps of other kinds than the reports': compiled, they give eager's numbers, bit for bit."""

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar import nn, optim, random

F = nn.functional
STEPS = {}  # name -> (makes (what is trained, step), shape of x, how many recordings at most)


def trains(*shape, recordings=2):
    def register(make):
        STEPS[make.__name__] = make, shape, recordings
        return make

    return register


def weight(*shape):
    return nn.Parameter((0.3 * random.stream("init").standard_normal(shape)).astype(np.float32))


def descend(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


@trains(4, 6, 5)
def recurrent():
    w, b, v = weight(13, 32), weight(32), weight(8, 3)
    optimizer = optim.Adam([w, b, v], 0.01)

    def step(x, labels):
        h = c = tg.Tensor(np.zeros((len(labels), 8), np.float32))
        for t in range(x.shape[1]):
            z = np.concatenate([x[:, t], h], axis=1) @ w + b
            i, f, g, o = (z[:, 8 * k : 8 * k + 8] for k in range(4))
            c = F.sigmoid(f) * c + F.sigmoid(i) * np.tanh(g)
            h = F.sigmoid(o) * np.tanh(c)
        return descend(optimizer, F.cross_entropy(h @ v, labels))

    return [w, b, v], step


@trains(6, 5, 8)
def attention():
    q, k, v, out = weights = [weight(8, 8), weight(8, 8), weight(8, 8), weight(8, 3)]
    optimizer = optim.SGD(weights, 0.1, momentum=0.9)

    def step(x, labels):
        scores = np.einsum("nti,ij,nsk,kj->nts", x, q, x, k) / 8**0.5
        mixed = F.softmax(scores, axis=-1) @ (x @ v)
        return descend(optimizer, F.cross_entropy(mixed.mean(axis=1) @ out, labels))

    return weights, step


@trains(6, 8, 8)
def convolution():
    w, v = weight(9, 4), weight(144, 3)
    optimizer = optim.RMSprop([w, v], 0.001)

    def step(x, labels):
        windows = np.stack([x[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)], axis=-1)
        return descend(optimizer, F.cross_entropy(F.relu(windows @ w).reshape(len(labels), -1) @ v, labels))

    return [w, v], step


@trains(6, 5)
def embedding():
    table, v = weight(9, 4), weight(4, 3)
    optimizer = optim.Adagrad([table, v], 0.1)

    def step(x, labels):
        words = np.argsort(x.data, axis=1) + np.argmax(x.data, axis=1)[:, None]
        return descend(optimizer, F.cross_entropy(table[words].mean(axis=1) @ v, labels))

    return [table, v], step


@trains(6, 5)
def two_networks_in_turns():
    g, d = weight(4, 5), weight(5, 1)
    optimizers = optim.Adam([g], 0.01), optim.Adam([d], 0.01)

    def step(x, labels):
        made = tg.Tensor(random.stream("noise").standard_normal((6, 4)).astype(np.float32)) @ g
        right, wrong = np.ones((6, 1), np.float32), np.zeros((6, 1), np.float32)
        loss = F.binary_cross_entropy_with_logits(x @ d, right)
        loss = loss + F.binary_cross_entropy_with_logits(made.detach() @ d, wrong)
        descend(optimizers[1], loss)
        return loss, descend(optimizers[0], F.binary_cross_entropy_with_logits(made @ d, right))

    return [g, d], step


@trains(6, 5)
def gradient_penalty():
    w, v = weight(5, 8), weight(8, 1)
    optimizer = optim.SGD([w, v], 0.05)

    def step(x, labels):
        x = tg.Tensor(x.data.copy(), requires_grad=True)
        y = np.tanh(x @ w) @ v
        (slope,) = tg.grad(y.sum(), [x], create_graph=True)
        norm = np.sqrt(np.sum(slope * slope, axis=1) + 1e-8)
        return descend(optimizer, np.mean(y * y) + np.mean((norm - 1) ** 2))

    return [w, v], step


@trains(6, 5)
def updates_by_hand():
    w, velocity, average = weight(5, 3), tg.Tensor(np.zeros((5, 3), np.float32)), weight(5, 3)

    def step(x, labels):
        w.grad = None
        loss = F.cross_entropy(x @ w, labels) + 0.01 * (w**2).sum()
        loss.backward()
        velocity.data *= 0.9
        velocity.data += w.grad.data
        with tg.no_grad():
            w.data -= 0.1 * velocity.data
            average.data[...] = 0.99 * average.data + 0.01 * w.data
        return loss

    return [w, velocity, average], step


@trains(6, 5)
def the_hardest_examples():
    w = weight(5, 3)
    optimizer = optim.SGD([w], 0.1)

    def step(x, labels):
        losses = -F.log_softmax(x @ w)[np.arange(6), labels]
        return descend(optimizer, losses[np.argsort(losses.data)[-3:]].mean())

    return [w], step


@trains(6, 5)
def clipped_gradients():
    w, v = weight(5, 8), weight(8, 3)
    optimizer = optim.SGD([w, v], 0.5)

    def step(x, labels):
        optimizer.zero_grad()
        loss = F.cross_entropy(np.tanh(x @ w) @ v, labels)
        loss.backward()
        norm = optim.clip_grad_norm([w, v], 0.4)
        optimizer.step()
        return loss, norm

    return [w, v], step


@trains(6, 5, recordings=8)
def clipped_on_a_condition():
    w, v = weight(5, 8), weight(8, 3)
    optimizer = optim.SGD([w, v], 0.5)

    def step(x, labels):
        optimizer.zero_grad()
        loss = F.cross_entropy(np.tanh(x @ w) @ v, labels)
        loss.backward()
        norm = np.sqrt(sum((p.grad.data**2).sum() for p in (w, v)))
        if norm > 0.4:
            for p in (w, v):
                p.grad.data *= 0.4 / norm
        optimizer.step()
        return loss, norm

    return [w, v], step


@trains(6, 5)
def mixed_examples():
    w = weight(5, 3)
    optimizer = optim.SGD([w], 0.1)

    def step(x, labels):
        share = random.stream("mix").random(1).astype(np.float32)
        other = random.stream("mix").permutation(6)
        y = (share * x + (1 - share) * x[other]) @ w
        loss = share * F.cross_entropy(y, labels) + (1 - share) * F.cross_entropy(y, labels[other])
        return descend(optimizer, loss.sum())

    return [w], step


@trains(6, 5, recordings=20)
def layers_left_out_at_random():
    w, v = weight(5, 5), weight(5, 3)
    optimizer, dropout = optim.SGD([w, v], 0.1), nn.Dropout(0.2)

    def step(x, labels):
        h = dropout(x)
        kept = random.stream("dropout").random(1)[0] < 0.9  # drawn after the dropout's mask, from the same stream
        h = F.relu(h @ w) if kept else h + 0 * (h @ w)
        return descend(optimizer, F.cross_entropy(h @ v, labels))

    return [w, v], step


def run(name, wrap):
    make, shape, _ = STEPS[name]
    tg.manual_seed(5)
    trained, step = make()
    step, rng, told = wrap(step), np.random.default_rng(0), []
    for _ in range(30):
        results = step(tg.Tensor(rng.standard_normal(shape).astype(np.float32)), rng.integers(3, size=shape[0]))
        told += [np.array(x).tobytes() for x in (results if isinstance(results, tuple) else [results])]
    told += [t.numpy().tobytes() for t in trained]
    return told, {name: generator.random() for name, generator in random._streams.items()}, step


@pytest.mark.parametrize("name", STEPS)
def test_compiled_is_eager(name):
    *expected, _ = run(name, lambda step: step)
    *ours, step = run(name, tg.compile)
    assert ours == expected
    assert 2 <= len(step.recordings) <= STEPS[name][2]
