"""The 2-layer network with momentum: sanity checks, random search over η and λ, the final network."""

from typing import Any

from tinygrad_cifar.recipes import gradients, shows
from tinygrad_cifar.recipes.recipe import SEED, Claim, Document, Recipe, Results, Search, Setting
from tinygrad_cifar.search import Range, Space, Study
from tinygrad_cifar.train import Config

BASE = Config(hidden=(50,), init=0.001, split="batch1", standardise="scalar-mean", momentum_form="classic")
SAMPLE = BASE.with_settings(subset=1000, lr=0.05, epochs=200)
DECAYING = SAMPLE.with_settings(schedule="exponential", lr=0.05, gamma=0.95)
FINAL = BASE.with_settings(
    momentum=0.9, schedule="exponential", lr=0.018920249916784752, gamma=0.95, lam=1e-4, epochs=30, split="all-1000"
)
SEARCHED = BASE.with_settings(momentum=0.9, schedule="exponential", gamma=0.95, epochs=10)
RATES_TRIED = [1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
FINE: list[dict[str, Any]] = [
    {"lr": Range(0.017, 0.019), "lam": [1e-6]},
    {"lr": Range(0.027, 0.029), "lam": [1e-6]},
    {"lr": Range(0.022, 0.027), "lam": [1e-5]},
    {"lr": Range(0.017, 0.019), "lam": [1e-4]},
    {"lr": Range(0.028, 0.032), "lam": [1e-3]},
]
FINER: list[dict[str, Any]] = [
    {"lr": Range(0.018, 0.020), "lam": [1e-4]},
    {"lr": Range(0.028, 0.030), "lam": [1e-3]},
    {"lr": Range(0.026, 0.028), "lam": [1e-5]},
]


def _momentum(rho: float) -> str:
    return f"ρ={rho:g}"


def _turns(results: Results, label: str) -> bool:
    """The validation loss falls first, and rises by a tenth at least afterwards."""
    losses = [row.val_loss for row in results[label][0].history]
    return losses[-1] > 1.1 * min(losses) and min(losses) < losses[0]


def _epochs_to(results: Results, label: str, loss: float) -> float:
    """The first epoch with a training loss below ``loss``; infinite if there is none."""
    rows = results[label][0].history
    return next((row.epoch for row in rows if row.train_loss < loss), float("inf"))


def _listed(*rows: tuple[float, float, float]) -> tuple[tuple[dict[str, float], tuple[float, ...]], ...]:
    """Of η, λ and validation accuracy."""
    return tuple(({"lr": lr, "lam": lam}, (accuracy,)) for lr, lam, accuracy in rows)


def _strong_ruins(study: Study) -> bool:
    """Every trial with λ >= 1 is far behind the best; those that diverged are not ranked at all."""
    strong = [trial.val_accuracy for trial in study.ranking if trial.settings["lam"] >= 1]
    return max(strong, default=0) < study.best.val_accuracy - 0.05


def _begins_best(results: Results, block: str) -> bool:
    """The best trial of a block is its first or second."""
    trials = results[block][0].results["trials"]
    return max(trials) in trials[:2]


def _block(block: dict[str, Any]) -> str:
    return f"λ={block['lam'][0]:g}, η in [{block['lr'].low}, {block['lr'].high}]"


A2 = Document(
    "a2",
    "A2: two layers, momentum and random search",
    "50 hidden units with ReLU, weights from N(0, 0.001²), batches of 100, momentum v ← ρv + ηg. Pixels in [0, 1] "
    "minus one scalar mean. The document leaves most settings to its code; they are taken from there.",
    (
        Recipe(
            "gradients",
            "0.1–0.2",
            "The network's first weights, and its gradients beside numeric ones",
            shows=(gradients.first_weights, gradients.normed),
            notes=(
                "The document's measure is mean |a−n| / max(|a|+|n|), which one large entry makes small for all: its "
                "own gradients are off by up to 0.5 % in single entries of W1. Its two images leave many entries of "
                "W1 exactly zero, which prove nothing. The verdicts beside it judge every entry.",
            ),
        ),
        Recipe(
            "overfit",
            "0.3",
            "Overfitting 1,000 images",
            {"no momentum": Setting(SAMPLE)},
            (shows.curves,),
            (
                Claim("The training loss gets small.", lambda r: r["no momentum"].final("train_loss") < 0.5),
                Claim("The validation loss falls first and rises later.", lambda r: _turns(r, "no momentum")),
            ),
            repeats=1,
        ),
        Recipe(
            "momentum",
            "0.4",
            "Momentum 0, 0.5, 0.9 and 0.99 on the same 1,000 images",
            {
                **{_momentum(rho): Setting(DECAYING.with_settings(momentum=rho)) for rho in (0.0, 0.5, 0.9, 0.99)},
                "ρ=0.5, 500 images": Setting(DECAYING.with_settings(momentum=0.5, subset=500)),
                "ρ=0.9, 2,000 images": Setting(DECAYING.with_settings(momentum=0.9, subset=2000)),
                "ρ=0.99, 2,000 images": Setting(DECAYING.with_settings(momentum=0.99, subset=2000)),
            },
            (shows.compared("train_loss", "val_loss"), shows.last_losses),
            (
                Claim("A momentum of 0.9 reaches a training loss of 1 in fewer epochs than none.",
                      lambda r: _epochs_to(r, _momentum(0.9), 1) < _epochs_to(r, _momentum(0), 1)),
                Claim("High values end with the lowest training loss.",
                      lambda r: max(r[_momentum(rho)].final("train_loss") for rho in (0.9, 0.99))
                      < min(r[_momentum(rho)].final("train_loss") for rho in (0, 0.5))),
                Claim("A momentum of 0.5 does not overfit: the validation loss does not rise again.",
                      lambda r: not _turns(r, _momentum(0.5))),
            ),
            (
                "The document's code ran ρ = 0.5 on 500 images and ρ = 0.9 and 0.99 on 2,000, so its figure compares "
                "momenta on different data. Here all four see the same 1,000 images; the last three settings are the "
                "document's own. η decays by 0.95 an epoch, as in the document's code; without decay ρ = 0.99 "
                "diverges.",
            ),
            repeats=1,
        ),
        Recipe(
            "rates",
            "0.5",
            "Random search for η: 18 values, 5 epochs",
            search=Search(
                Space({"lr": RATES_TRIED}), SEARCHED.with_settings(lam=1e-6, epochs=5), len(RATES_TRIED),
                claims={"The best η is from 0.01 to 0.15.": lambda study: 0.01 <= study.best.settings["lr"] <= 0.15},
            ),
        ),
        Recipe(
            "coarse",
            "0.6",
            "Coarse search: η in [.01, .15] with 9 values of λ, 10 epochs",
            notes=("The document does not say how many η it drew; its code drew 12 for every λ, as here.",),
            search=Search(
                Space({"lr": Range(0.01, 0.15), "lam": [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]}),
                SEARCHED, 108,
                _listed((0.02879, 1e-3, 44.07), (0.03069, 1e-3, 43.99), (0.02534, 1e-5, 43.91)),
                claims={"The best η is near 0.03.": lambda study: 0.015 <= study.best.settings["lr"] <= 0.06,
                        "λ of 1 and more ruins the accuracy.": _strong_ruins},
            ),
        ),
        Recipe(
            "fine",
            "0.7",
            "Fine search: 70 trials in five blocks",
            notes=(
                "The document's program never drew new weights between trials: within each block of its list the "
                "accuracy slides from 44 to 39 %, and its best are the first or second of their blocks. Its ranking "
                "therefore says little. In the search here every trial starts from new weights, and trials come in "
                "random order. The last table has the document's way: 14 trials a block, all with the same weights.",
            ),
            search=Search(
                Space(*FINE), SEARCHED, 70,
                _listed((0.01714, 1e-4, 44.44), (0.01839, 1e-6, 43.91), (0.02919, 1e-3, 43.71)),
            ),
            in_turn={
                _block(block): tuple(SEARCHED.with_settings(**Space(block).point(i, SEED)) for i in range(14))
                for block in FINE
            },
            claims=(
                Claim("When weights are never drawn anew, the best of each block is its first or second trial.",
                      lambda r: all(_begins_best(r, _block(block)) for block in FINE)),
            ),
        ),
        Recipe(
            "finer",
            "0.8–0.9",
            "Second fine search: 30 trials around the best",
            notes=(
                "The document gives the best of this search but neither ranges nor number of trials: here 30 trials "
                "around those best. Its merged table is 44.44, 44.16 and 43.91 %: compare their distance with the "
                "noise of seeds below.",
            ),
            search=Search(
                Space(*FINER), SEARCHED, 30,
                _listed((0.01892, 1e-4, 44.16), (0.02899, 1e-3, 43.89), (0.02693, 1e-5, 43.73)),
            ),
        ),
        Recipe(
            "final",
            "0.10–0.11",
            "The best settings on all images but 1,000, 30 epochs",
            {
                "1: η=.01892, λ=1e-4": Setting(FINAL, {"test": 50.23}),
                "2: η=.01714, λ=1e-4": Setting(FINAL.with_settings(lr=0.01713848118474131), {"test": 49.14}),
                "3: η=.02879, λ=1e-4, best weights": Setting(
                    FINAL.with_settings(lr=0.02878809988519304),
                    {"test": 51.53},
                    best=True,
                    why="with λ = 1e-3, the last setting, the document's figure is met, so λ = 1e-4 in its text is "
                    "probably a slip.",
                    in_pytorch=True,
                ),
                "3: η=.02879, λ=1e-3, best weights": Setting(
                    FINAL.with_settings(lr=0.02878809988519304, lam=1e-3), {"test": 51.53}, best=True
                ),
            },
            (shows.accuracies, shows.curves),
            (),
            (
                "The document contradicts itself: its third experiment takes λ = 1e-4, but the coarse search found "
                "that η with λ = 1e-3. Both are here.",
                "Its code leaves the first image and the last 99 of an epoch out; here none are.",
            ),
        ),
    ),
)  # fmt: skip
