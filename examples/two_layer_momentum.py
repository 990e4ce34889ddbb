"""Two layers and momentum: random search for learning rate and penalty, coarse then fine, and a long training.

python examples/two_layer_momentum.py            about 50 % of CIFAR-10's test images
python examples/two_layer_momentum.py --quick    a few hundred synthetic images, to see that it works

The best few often differ by no more than another seed would change. For a search that says so, goes on after a kill
and runs on several cores, there is tinygrad_cifar.search.
"""

import sys

import numpy as np

import tinygrad_cifar as tg
from tinygrad_cifar import nn, optim
from tinygrad_cifar.data import Batches, Standardiser, load_cifar10, synthesise
from tinygrad_cifar.train import Trainer, evaluate

quick = "--quick" in sys.argv
cifar = synthesise(2000, 500) if quick else load_cifar10()
short, long = (1, 2) if quick else (5, 30)  # epochs
rng = np.random.default_rng(12345)


def trained(split, eta, lam, epochs):
    """A network trained on the images of ``split``; its accuracies on the validation and the test images."""
    tg.manual_seed(12345)  # every training starts from the same new weights, so that only the settings differ
    train, validation = cifar.split(split)
    standardiser = Standardiser.fit(train.images, "pixel")
    batches = Batches(train, 100, standardiser, drop_last=True)
    in_order = [Batches(images, 1000, standardiser, shuffle=False) for images in (validation, cifar.test)]

    model = nn.mlp([3072, 50, 10])
    optimizer = optim.SGD(model.parameters(), lr=eta, momentum=0.9, form="classic")  # v <- 0.9 v + eta g, w <- w - v
    decay = optim.schedules.exponential(eta, gamma=0.95, steps_per_epoch=len(batches))  # by 5 % after each epoch
    Trainer(model, optimizer, decay, lam=lam).fit(batches, in_order[0], epochs)
    return [evaluate(model, images).accuracy for images in in_order]


def search(name, etas, lams, trials):
    """The settings with the best validation accuracy. The test images have no say in it."""
    # Uniform in the exponent: it is the order of magnitude that one does not know.
    drawn = [[np.exp(rng.uniform(*np.log(bounds))) for bounds in (etas, lams)] for _ in range(trials)]
    tried = [(trained("all-500" if quick else "batch1", *settings, short)[0], *settings) for settings in drawn]
    print(f"{name} search, the best 3 of {trials}")
    for accuracy, eta, lam in sorted(tried, reverse=True)[:3]:
        print(f"  eta {eta:.2e}, lambda {lam:.2e}: validation {accuracy:.2%}")
    return max(tried)[1:]


eta, lam = search("coarse", (1e-3, 1e-1), (1e-6, 1e-1), trials=12)
eta, lam = search("fine", (eta / 2, eta * 2), (lam / 3, lam * 3), trials=6)
validation, test = trained("all-1000", eta, lam, long)
print(f"{long} epochs on more images: validation {validation:.2%}, test accuracy {test:.2%}")
