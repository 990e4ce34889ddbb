"""The softmax classifier: one layer, trained on one batch of CIFAR-10."""

from itertools import pairwise

from tinygrad_cifar.recipes import gradients, images, shows
from tinygrad_cifar.recipes.recipe import Claim, Document, Recipe, Results, Setting
from tinygrad_cifar.train import Config

BASE = Config(hidden=(), init=0.01, split="batch1", standardise="mean", lr=0.001, epochs=40)

UNSTABLE, PLAIN, WEAK, STRONG = "λ=0, η=.1", "λ=0, η=.001", "λ=.1, η=.001", "λ=1, η=.001"


def _gap(results: Results, label: str) -> float:
    return results[label].mean("train") - results[label].mean("val")


def _rises(results: Results, label: str) -> int:
    """In how many epochs the validation loss rises."""
    losses = [row.val_loss for row in results[label][0].history]
    return sum(later > earlier for earlier, later in pairwise(losses))


A1 = Document(
    "a1",
    "A1: the softmax classifier",
    "One linear layer, softmax and cross entropy, plus λ‖W‖² on the weights. W and b start from N(0, 0.01²) (here b "
    "starts from 0). Training images: batch 1; validation: batch 2. Pixels in [0, 1] minus the training mean.",
    (
        Recipe(
            "images",
            "4.1",
            "The images, before and after subtracting the mean",
            shows=(images.means, images.grids),
            notes=(
                "The document's picture of normalised images was clipped by the plotting library (it printed the "
                "warning); here each normalised image is rescaled by its own extremes, so nothing is clipped.",
            ),
        ),
        Recipe(
            "gradients",
            "4.2–4.3",
            "Analytic gradients (ANL) beside central (CDM) and forward (FDM) differences",
            shows=(gradients.methods,),
            notes=(
                "The document does not say how many images and which step its table used; here: 100 images, h = 1e-6, "
                "all entries, float64. Its relative columns are dominated by entries that are zero up to rounding.",
            ),
        ),
        Recipe(
            "train",
            "4.4",
            "Four settings of λ and η, 40 epochs",
            {
                UNSTABLE: Setting(BASE.with_settings(lr=0.1), {"train": 51.6, "val": 36.8, "test": 37.2}),
                PLAIN: Setting(BASE, {"train": 37.8, "val": 35.6, "test": 36.2}),
                WEAK: Setting(BASE.with_settings(lam=0.1), {"train": 37.0, "val": 34.6, "test": 35.5}),
                STRONG: Setting(BASE.with_settings(lam=1.0), {"train": 30.9, "val": 28.8, "test": 30.7}),
            },
            (shows.accuracies, shows.curves, shows.templates),
            (
                Claim("A large λ narrows the gap between training and validation accuracy.",
                      lambda r: _gap(r, STRONG) < _gap(r, PLAIN)),
                Claim("Without regularisation the accuracy is higher.",
                      lambda r: r[PLAIN].mean("test") > r[STRONG].mean("test")),
                Claim("η = 0.1 is unstable: the loss jumps up and down.",
                      lambda r: _rises(r, UNSTABLE) > _rises(r, PLAIN)),
            ),
        ),
    ),
)  # fmt: skip
