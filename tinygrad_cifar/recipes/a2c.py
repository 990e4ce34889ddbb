"""The 2-layer network with cyclical learning rates, and what else makes it better."""

from tinygrad_cifar.recipes import gradients, shows
from tinygrad_cifar.recipes.recipe import Claim, Document, Recipe, Setting
from tinygrad_cifar.train import Config

CYCLE = Config(hidden=(50,), lam=0.01, schedule="triangular", n_s=500, cycles=1, split="batch1")
FINAL = CYCLE.with_settings(lam=6.75e-4, split="all-1000", n_s=980, cycles=3)

A2C = Document(
    "a2c",
    "A2: two layers, cyclical learning rates",
    "50 hidden units with ReLU, batches of 100, η between 1e-5 and 1e-1 in triangles of n_s steps up and n_s down, and "
    "λ‖W‖² (the document's gradient has the term 2λW). Pixels standardised one by one.",
    (
        Recipe(
            "gradients",
            "3.1–3.2",
            "The document's formulas, backpropagation and numeric gradients",
            shows=(gradients.two_layers,),
            notes=("As in the document the check uses 20 features and 10 images; all features are checked in a3.",),
        ),
        Recipe(
            "cyclical",
            "3.3",
            "One and three cycles on one batch",
            {
                "n_s=500, 1 cycle": Setting(CYCLE, {"test": 45.96}),
                "n_s=800, 3 cycles": Setting(CYCLE.with_settings(n_s=800, cycles=3), {"test": 46.72}),
            },
            (shows.accuracies, shows.curves),
            (
                Claim("Three longer cycles are better than one.",
                      lambda r: r["n_s=800, 3 cycles"].mean("test") > r["n_s=500, 1 cycle"].mean("test")),
            ),
        ),
        Recipe(
            "final",
            "3.7",
            "The best λ on all images but 1,000, three cycles",
            {"λ=6.75e-4": Setting(FINAL, {"test": 51.73})},
            (shows.accuracies, shows.curves),
            notes=("The document does not say n_s here; here it is 980 steps, two epochs.",),
        ),
    ),
)  # fmt: skip
