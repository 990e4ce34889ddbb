"""Two sigmoid layers of 100, batches of 64: SGD against Adam, as two descriptions of a run.

python examples/sigmoid_adam.py            about 47 % of CIFAR-10's test images with either
python examples/sigmoid_adam.py --quick    a few hundred synthetic images, to see that it works
"""

import sys

from tinygrad_cifar.data import load_cifar10, synthesise
from tinygrad_cifar.train import Config, progress, run

quick = "--quick" in sys.argv
cifar = synthesise(2000, 500) if quick else load_cifar10()

shared = {
    "hidden": (100, 100),
    "activation": "sigmoid",
    "init": "xavier",
    "batch_size": 64,
    "epochs": 2 if quick else 20,
    "split": "all-500" if quick else "all-5000",
    "seed": 12345,
}
# Adam divides each step by the size of the gradients so far, hence the smaller rate.
results = {
    name: run(Config(optimizer=name, lr=rate, **shared), data=cifar, watchers=(progress(sys.stderr),))
    for name, rate in (("sgd", 0.3), ("adam", 0.001))
}
for name, result in results.items():
    print(f"{name}\n{result}")
