"""A softmax classifier: one linear layer, cross entropy, mini-batch gradient descent, all written out.

python examples/softmax_classifier.py            about 35 % of CIFAR-10's test images
python examples/softmax_classifier.py --quick    a few hundred synthetic images, to see that it works
"""

import sys

import numpy as np

import tinygrad_cifar as tg
from tinygrad_cifar.data import Standardiser, load_cifar10, synthesise

quick = "--quick" in sys.argv
cifar = synthesise(2000, 500) if quick else load_cifar10()
train, validation = cifar.split("all-500" if quick else "batch1")
epochs, batch_size, rate, penalty = 4 if quick else 40, 100, 0.001, 0.1

# Pixels in [0, 1], minus their mean over the training images: the other images must not have a say in it.
standardiser = Standardiser.fit(train.images, "mean")
x_train, x_validation, x_test = (standardiser.transform(s.images) for s in (train, validation, cifar.test))

tg.manual_seed(12345)
rng = tg.random.stream("init")
W = tg.Tensor(0.01 * rng.standard_normal((3072, 10)), requires_grad=True, dtype=np.float32)
b = tg.Tensor(0.01 * rng.standard_normal(10), requires_grad=True, dtype=np.float32)


def loss_of(x, labels):
    """Cross entropy: the mean of -log of the probability that softmax gives to the right class.

    nn.F.cross_entropy is the same in one op, and cannot overflow however large the scores are.
    """
    scores = tg.Tensor(x) @ W + b
    log_probabilities = scores - np.log(np.sum(np.exp(scores), axis=1, keepdims=True))
    return -log_probabilities[np.arange(len(labels)), labels].mean()


def accuracy(x, labels):
    """The class with the highest score is the guess: softmax would not change which one that is."""
    return np.mean((x @ W.data + b.data).argmax(axis=1) == labels)


for epoch in range(1, epochs + 1):
    order = tg.random.stream("shuffle").permutation(len(train))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        cost = loss_of(x_train[chosen], train.labels[chosen]) + penalty * (W * W).sum()  # no penalty on b
        gradients = tg.grad(cost, [W, b])
        with tg.no_grad():
            for parameter, gradient in zip((W, b), gradients, strict=True):
                parameter -= rate * gradient
    if epoch % (epochs // 4) == 0:
        print(f"epoch {epoch}: cost {cost.item():.4f}, validation {accuracy(x_validation, validation.labels):.2%}")

print(f"test accuracy {accuracy(x_test, cifar.test.labels):.2%}")
