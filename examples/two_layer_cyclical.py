"""Two layers and a cyclical learning rate: three cycles on the first training batch, the loop written out.

python examples/two_layer_cyclical.py            about 47 % of CIFAR-10's test images
python examples/two_layer_cyclical.py --quick    a few hundred synthetic images, to see that it works
"""

import sys

import numpy as np

import tinygrad_cifar as tg
from tinygrad_cifar import nn, optim
from tinygrad_cifar.data import Batches, Standardiser, load_cifar10, synthesise

quick = "--quick" in sys.argv
cifar = synthesise(2000, 500) if quick else load_cifar10()
train, validation = cifar.split("all-500" if quick else "batch1")
n_s, cycles, batch_size, lam = 15 if quick else 800, 3, 100, 0.01

tg.manual_seed(12345)
standardiser = Standardiser.fit(train.images, "pixel")
batches = Batches(train, batch_size, standardiser, drop_last=True)

model = nn.Sequential(nn.Linear(3072, 50), nn.ReLU(), nn.Linear(50, 10))
for layer in (model[0], model[2]):
    nn.init.he_normal(layer.weight)
    nn.init.zeros(layer.bias)

# The rate rises for n_s steps and falls for n_s: training must end with a whole cycle, at the lowest rate.
schedule = optim.schedules.triangular(eta_min=1e-5, eta_max=1e-1, n_s=n_s)
optimizer = optim.SGD(model.parameters(), lr=schedule(0))
epochs = cycles * 2 * n_s // len(batches)
print(f"{schedule.complete_cycles(epochs, len(train), batch_size):g} cycles in {epochs} epochs")


def accuracy(split):
    images = Batches(split, 1000, standardiser, shuffle=False)
    with tg.no_grad():
        right = [np.sum(model(tg.Tensor(x)).data.argmax(axis=1) == labels) for x, labels in images]
    return sum(right) / len(split)


step = 0
for epoch in range(1, epochs + 1):
    for x, labels in batches:
        optimizer.lr = schedule(step)
        optimizer.zero_grad()
        loss = nn.F.cross_entropy(model(tg.Tensor(x)), labels)
        cost = loss + nn.l2_penalty(model, lam)  # lam ||W||^2
        cost.backward()
        optimizer.step()
        step += 1
    if step % n_s == 0:  # at the highest rate and at the lowest
        result = f"loss {loss.item():.4f}, cost {cost.item():.4f}, validation {accuracy(validation):.2%}"
        print(f"epoch {epoch}: rate {schedule(step):.0e}, {result}")

print(f"test accuracy {accuracy(cifar.test):.2%}")
