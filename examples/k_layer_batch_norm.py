"""A network of k layers with batch norm, trained by a Trainer.

python examples/k_layer_batch_norm.py                       3072-50-50-10: 53 to 54 % of CIFAR-10's test images
python examples/k_layer_batch_norm.py 50 30 20 20 10 10 10 10         the widths of nine layers
python examples/k_layer_batch_norm.py --quick               a few hundred synthetic images, to see that it works
"""

import sys

import tinygrad_cifar as tg
from tinygrad_cifar import nn, optim
from tinygrad_cifar.data import Batches, Standardiser, load_cifar10, synthesise
from tinygrad_cifar.train import Trainer, evaluate, progress
from tinygrad_cifar.viz import training_curves

quick = "--quick" in sys.argv
hidden = [int(word) for word in sys.argv[1:] if word.isdecimal()] or [50, 50]
cifar = synthesise(2000, 500) if quick else load_cifar10()
train, validation = cifar.split("all-500" if quick else "all-5000")

tg.manual_seed(12345)
standardiser = Standardiser.fit(train.images, "pixel")
batches = Batches(train, 100, standardiser, drop_last=True)  # in a new order each epoch
in_order = {
    name: Batches(split, 1000, standardiser, shuffle=False)
    for name, split in (("train", train), ("validation", validation), ("test", cifar.test))
}

layers = []
for fan_in, fan_out in zip([3072, *hidden[:-1]], hidden, strict=True):
    layers += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(hidden[-1], 10))
for module in model.modules():
    if isinstance(module, nn.Linear):
        nn.init.he_normal(module.weight)
        nn.init.zeros(module.bias)
print(nn.summary(model, (3072,)))

rise, cycles = 1 if quick else 5, 2  # the learning rate rises for 5 epochs and falls for 5, twice
schedule = optim.schedules.triangular(eta_min=1e-5, eta_max=1e-1, n_s=rise * len(batches))
trainer = Trainer(model, optim.SGD(model.parameters(), lr=schedule(0)), schedule, lam=0.005)
history = trainer.fit(batches, in_order["validation"], cycles * 2 * rise, progress(sys.stderr))

# With the means and variances that batch norm has gathered on the way: the answer for an image is then its own.
for name, images in in_order.items():
    print(f"{name} accuracy {evaluate(model, images).accuracy:.2%}")
training_curves(history.columns(), "curves.png")
