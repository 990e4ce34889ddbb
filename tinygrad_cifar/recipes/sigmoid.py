"""The sigmoid network: L2, SGD against Adam, and exponential decay, ten repeats each."""

from math import sqrt
from statistics import fmean, pvariance

from tinygrad_cifar.recipes import gradients, shows
from tinygrad_cifar.recipes.recipe import Claim, Document, Recipe, Setting
from tinygrad_cifar.train import Config

BASE = Config(
    hidden=(100, 100), activation="sigmoid", init="xavier", l2_convention="half", batch_size=64, lr=0.3, epochs=20,
    split="all-5000",
)  # fmt: skip
ADAM = BASE.with_settings(optimizer="adam")
RATES = (0.001, 0.01, 0.1, 0.2, 0.3, 0.5)
REPEATS = 10


def _clearly_below(less: list[float], more: list[float]) -> bool:
    """The difference of the means is more than two of its standard errors."""
    return fmean(more) - fmean(less) > 2 * sqrt(pvariance(less) / len(less) + pvariance(more) / len(more))


SIGMOID = Document(
    "sigmoid",
    "The sigmoid network: regularisation, optimisers, decay",
    "Two hidden layers of 100 sigmoids, batches of 64, 20 epochs, SGD with γ = 0.3, and λ/2‖w‖². The document shows "
    "the mean and standard deviation over 10 repeats of loss and accuracy on the test images, and states one figure: "
    "about 50 %. It says nothing of initialisation and preprocessing; here: Xavier, pixels standardised one by one, "
    "and 45,000 training images.",
    (
        Recipe("gradients", "2.1", "The document's formulas, backpropagation and numeric gradients",
               shows=(gradients.sigmoid_layers,)),
        Recipe(
            "default",
            "2.2, 2.6",
            "The network of the other experiments",
            {
                "SGD .3": Setting(
                    BASE,
                    {"test": 50.0},
                    why="The document says about 50 % of no particular setting; PyTorch with this one is no higher.",
                    in_pytorch=True,
                )
            },
            (shows.accuracies, shows.bands),
            repeats=REPEATS,
        ),
        Recipe(
            "l2",
            "2.3",
            "L2 regularisation",
            {f"λ={lam:g}": Setting(BASE.with_settings(lam=lam)) for lam in (0.01, 0.001, 0.0001)},
            (shows.after_training, shows.bands),
            (
                Claim("A λ that is too large does not train properly and ends with a larger loss.",
                      lambda r: r["λ=0.01"].final("test_loss") > r["λ=0.001"].final("test_loss")),
            ),
            repeats=REPEATS,
        ),
        Recipe(
            "optimisers",
            "2.4",
            "SGD and Adam over learning rates",
            {
                f"{name} {rate:g}": Setting(config.with_settings(lr=rate))
                for name, config in (("SGD", BASE), ("Adam", ADAM)) for rate in RATES
            },
            (shows.after_training, shows.bands),
            (
                Claim("Adam fails when the rate is large: from 0.1 on with less than half of its best accuracy.",
                      lambda r: all(r[f"Adam {rate:g}"].mean("test") < r["Adam 0.001"].mean("test") / 2
                                    for rate in RATES if rate >= 0.1)),
                Claim("SGD is best around 0.1.",
                      lambda r: max(RATES, key=lambda rate: r[f"SGD {rate:g}"].mean("test")) in (0.1, 0.2)),
            ),
            ("Which rate is best depends on initialisation and preprocessing, which the document does not state.",),
            repeats=REPEATS,
        ),
        Recipe(
            "decay",
            "2.5",
            "Exponential decay, γ exp(−k epoch)",
            {
                f"k={k:g}": Setting(BASE.with_settings(schedule="exponential", lr=0.3, k=k))
                for k in (0.1, 0.01, 0.001, 0.0001)
            },
            (shows.after_training, shows.bands),
            (
                Claim("A larger k ends with a lower loss on the training images.",
                      lambda r: r["k=0.1"].final("train_loss") < r["k=0.01"].final("train_loss")
                      < r["k=0.0001"].final("train_loss")),
                Claim("A larger k ends with a lower loss on the test images, by more than the noise of seeds.",
                      lambda r: _clearly_below(r["k=0.1"].test_losses(), r["k=0.0001"].test_losses())),
            ),
            ("The document's caption calls the decay rates regularisation parameter values.",),
            repeats=REPEATS,
        ),
    ),
)  # fmt: skip
