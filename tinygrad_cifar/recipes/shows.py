"""From the results of a recipe to tables and figures; captions come from the configurations that ran."""

from collections.abc import Iterator
from statistics import fmean, pstdev

from tinygrad_cifar.data import CLASSES, Cifar10
from tinygrad_cifar.recipes.recipe import Recipe, Results, Show
from tinygrad_cifar.recipes.store import Run
from tinygrad_cifar.report import pictures
from tinygrad_cifar.report.blocks import Block, Figure, Table
from tinygrad_cifar.report.pictures import TITLES, title
from tinygrad_cifar.train import Config, load_run
from tinygrad_cifar.viz import training_curves, weight_templates
from tinygrad_cifar.viz.curves import describe

TOLERANCE = 1.5
"""Points of accuracy within which a figure agrees with the document's."""


def accuracies(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """The table of accuracies: the document's, and the mean and std over the seeds here."""
    rows = []
    for label, setting in recipe.settings.items():
        group = results[label]
        for split in ("train", "val", "test"):
            figure = setting.document.get(split)
            weights = "best validation" if setting.best and split != "train" else "final"
            here = [*group.accuracies(split, setting.best)]
            rows.append([
                label, TITLES[split], "–" if figure is None else f"{figure:.2f}", spread(here), weights,
                verdict(split, figure, fmean(here) if here else float("nan")),
            ])  # fmt: skip
    yield Table(
        ("setting", "images", "document", "here", "weights", "agree?"), rows,
        f"Accuracy in per cent; here: mean ± std of {_seeds(results)}.",
    )  # fmt: skip


def verdict(split: str, document: float | None, here: float) -> str:
    """Whether a figure agrees: within ``TOLERANCE`` points. For images that were not trained on, higher is as good."""
    if document is None:
        return ""
    if abs(here - document) <= TOLERANCE:
        return "yes"
    if here > document:
        return "higher" if split == "train" else "yes, higher"
    return "lower" if here < document else "diverged"


def spread(values: list[float], digits: int = 2) -> str:
    """``53.14 ± 0.15``; without ± for a single value."""
    if not values:
        return "diverged"
    mean = f"{fmean(values):.{digits}f}"
    return f"{mean} ± {pstdev(values):.{digits}f}" if len(values) > 1 else mean


def curves(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """Cost, loss and accuracy on training and validation images, for the first seed of each setting."""
    for label, group in results.items():
        run = group[0]
        if run.history:
            picture = training_curves(run.history.columns())
            yield Figure(picture, _name(recipe, label, "curves"), f"{label}: {caption(run)}")


def bands(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """Loss and accuracy on the test images over the epochs, mean and std over the seeds."""
    yield from compared("test_loss", "test_accuracy")(recipe, results, data)


def compared(*quantities: str) -> Show:
    """All settings in one figure, a panel for each of the ``quantities``."""

    def show(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
        runs = {label: [run.curves() for run in group if not run.failed] for label, group in results.items()}
        picture = pictures.bands(runs, quantities)
        what = " and ".join(map(title, quantities)).capitalize()
        text = f"{what}, mean and ± one std of {_seeds(results)}. {common(results)}"
        yield Figure(picture, _name(recipe, "-".join(quantities)), text)

    return show


def panels(columns: int) -> Show:
    """A grid of the losses of all settings, for the first seed."""

    def show(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
        runs = {
            f"{label}: test {100 * group[0].accuracy('test'):.2f} %": group[0].curves()
            for label, group in results.items() if not group[0].failed
        }  # fmt: skip
        text = f"Loss on training and validation images, first seed. {common(results)}"
        yield Figure(pictures.loss_panels(runs, columns), _name(recipe, "grid"), text)

    return show


def after_training(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """Loss and accuracy on the test images after the last epoch."""
    rows = []
    for label, group in results.items():
        losses = [run.test["loss"][-1] for run in group if not run.failed]
        rows.append([label, spread(losses, 3), spread(group.accuracies("test"))])
    yield Table(("setting", "test loss", "test accuracy (%)"), rows, f"After the last epoch, {_seeds(results)}.")


def last_losses(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """How far training got, and when."""
    rows = []
    for label, group in results.items():
        history = group[0].history
        if group[0].failed or not history:
            rows.append([label, "diverged", "", "", ""])
            continue
        least = min(history, key=lambda row: row.val_loss)
        below = next((str(row.epoch) for row in history if row.train_loss < 1), "never")
        rows.append([label, f"{history[-1].train_loss:.4f}", below, f"{least.val_loss:.3f} (epoch {least.epoch})",
                     f"{history[-1].val_loss:.3f}"])  # fmt: skip
    yield Table(("setting", "last training loss", "training loss below 1 in epoch", "least validation loss",
                 "last validation loss"), rows)  # fmt: skip


def templates(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """The weights of each class of a linear classifier, as images."""
    for label, group in results.items():
        if not group[0].failed:
            model, _ = load_run(group[0].folder)
            weight = next(iter(model.state_dict().values()))
            text = f"Weights of the classes, each rescaled by its own extremes. {label}: {caption(group[0])}"
            yield Figure(weight_templates(weight, CLASSES), _name(recipe, label, "weights"), text)


def common(results: Results) -> str:
    """What the configurations that ran have in common and differs from the defaults."""
    each = [group[0].config.changed() for group in results.values()]
    same = set.intersection(*(set(settings.items()) for settings in each)) - {("data", each[0].get("data"))}
    return describe({name: value for name, value in each[0].items() if (name, value) in same and name != "seed"})


def caption(run: Run) -> str:
    """The configuration that ran, as one line: the network, what differs from the defaults, the seed, the outcome."""
    config: Config = run.config
    said = {name: value for name, value in config.changed().items() if name not in ("hidden", "batch_norm", "data")}
    text = f"{config.title} · {describe(said | {'dtype': config.dtype, 'seed': config.seed})}"
    if run.failed:
        return f"{text}. Diverged: {run.failed.splitlines()[0]}"
    final = ", ".join(f"{TITLES[split]} {100 * run.accuracy(split):.2f} %" for split in ("train", "val", "test"))
    return f"{text}. Final accuracies: {final}."


def _seeds(results: Results) -> str:
    seeds = [run.config.seed for run in next(iter(results.values()))]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]})"


def _name(recipe: Recipe, *parts: str) -> str:
    """A file name of plain characters."""
    plain = {"λ": "lambda", "η": "eta", "σ": "sigma", "ρ": "rho", "=": "", " ": "-", ",": "", ".": "p"}
    text = "-".join([recipe.name, *parts])
    return "".join(plain.get(letter, letter) for letter in text if letter.isascii() or letter in plain)
