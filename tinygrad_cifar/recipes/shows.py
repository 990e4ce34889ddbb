"""From the results of a recipe to tables and figures; captions come from the configurations that ran."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, pstdev

from tinygrad_cifar.data import CLASSES, Cifar10
from tinygrad_cifar.recipes.recipe import Group, Recipe, Results, Setting, Show
from tinygrad_cifar.recipes.store import Run
from tinygrad_cifar.report import pictures
from tinygrad_cifar.report.blocks import Block, Figure, Table, Text
from tinygrad_cifar.report.pictures import TITLES, title
from tinygrad_cifar.search import Study, Trial
from tinygrad_cifar.search.space import written
from tinygrad_cifar.train import load_run
from tinygrad_cifar.viz import training_curves, weight_templates
from tinygrad_cifar.viz.curves import describe

TOP = 8  # how many trials of a search are listed
TOLERANCE = 1.5
"""Points of accuracy within which a figure agrees with the document's."""


def accuracies(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """The table of accuracies: the document's, and the mean and std over the seeds here."""
    rows = []
    for label, setting in recipe.settings.items():
        for split, images in _images(setting):
            figure, here = setting.document.get(split), results[label].accuracies(split, setting.best)
            agrees = "" if figure is None else verdict(split, figure, here)
            rows.append([label, images, "–" if figure is None else f"{figure:.2f}", spread(here), agrees])
    caption = f"Accuracy in per cent; {_seeds(results)}."
    yield Table(("setting", "images", "document", "here", "agree?"), rows, caption, 2)


def beside_pytorch(recipe: Recipe, results: Results, runs: Mapping[str, Run]) -> Iterator[Block]:
    """Accuracies here and in PyTorch, from the same first weights and the same batches."""
    rows = []
    for label, setting in recipe.settings.items():
        if label in runs:
            for split, images in _images(setting):
                here, there = (Group([run]).accuracies(split, setting.best) for run in (results[label][0], runs[label]))
                rows.append([label, images, spread(here), spread(there)])
    if rows:
        run = next(iter(runs.values()))
        caption = f"From the same first weights and the same batches, in per cent; seed {run.config.seed}."
        yield Table(("setting", "images", "here", f"PyTorch {run.results['version']}"), rows, caption, 2)
    elif any(setting.in_pytorch for setting in recipe.settings.values()):
        yield Text("PyTorch is not installed, so its runs of the same settings are left out (extra `peers`).")


def _images(setting: Setting) -> list[tuple[str, str]]:
    """The splits, each with what the table calls it and the weights that are measured on it."""
    best = {"val", "test"} if setting.best else set()
    return [(split, f"{name}, best weights" if split in best else name) for split, name in TITLES.items()]


def in_turn(recipe: Recipe, runs: Mapping[str, Run]) -> Iterator[Block]:
    """The final validation accuracy of each training, in the order in which they used the same weights."""
    if runs:
        trials = {label: [f"{100 * accuracy:.2f}" for accuracy in run.results["trials"]] for label, run in runs.items()}
        longest = max(map(len, trials.values()))
        rows = [[label, *values, *["diverged"] * (longest - len(values))] for label, values in trials.items()]
        header = ("block", *map(str, range(1, longest + 1)))
        yield Table(header, rows, "Validation accuracy in per cent, by trial, when weights are never drawn anew.")


def verdict(split: str, document: float, here: list[float]) -> str:
    """Whether a mean agrees: within ``TOLERANCE`` points. For images that were not trained on, higher is as good."""
    if not here:
        return "diverged"
    if abs(fmean(here) - document) <= TOLERANCE:
        return "yes"
    if fmean(here) < document:
        return "lower"
    return "higher" if split == "train" else "yes, higher"


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
            picture = training_curves(run.history.columns(), config=_settings(run))
            yield Figure(picture, _name(recipe, label, "curves"), f"{label}: {caption(run)}")


def compared(*quantities: str) -> Show:
    """All settings in one figure, a panel for each of the ``quantities``: mean and std over the seeds, by epoch."""

    def show(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
        runs = {label: [run.curves() for run in group if not run.failed] for label, group in results.items()}
        picture = pictures.bands(runs, quantities)
        what = " and ".join(map(title, quantities)).capitalize()
        text = f"{what}, {_seeds(results)}. {common(results)}"
        yield Figure(picture, _name(recipe, "-".join(quantities)), text)

    return show


bands = compared("test_loss", "test_accuracy")


def panels(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """The losses of all settings in a panel each, for the first seed."""
    runs = {
        f"{label}: test {100 * group[0].accuracy('test'):.2f} %": group[0].curves()
        for label, group in results.items() if not group[0].failed
    }  # fmt: skip
    text = f"Loss on training and validation images, first seed. {common(results)}"
    yield Figure(pictures.loss_panels(runs), _name(recipe, "grid"), text)


def found(recipe: Recipe, study: Study) -> Iterator[Block]:
    """The ranking of a search, the document's list, what to know before believing either, and a picture."""
    assert recipe.search is not None
    names = study.plan.space.names
    ranked = [
        [f"~{rank}" if trial in study.unseparated else str(rank), *_values(trial.settings, names)]
        + [_percent(figure) for figure in _figures(trial)]
        for rank, trial in enumerate(study.ranking[:TOP], 1)
    ]
    caption = f"The best of {len(study.trials)} trials here; accuracies in per cent."
    yield Table(("rank", *names, *FIGURES), ranked, caption)
    if listed := recipe.search.document:
        shown = FIGURES[: len(listed[0][1])]
        rows = []
        for settings, theirs in listed:
            trial = next((trial for trial in study.trials if _same(trial.settings, settings)), None)
            ours = map(_percent, _figures(trial)) if trial else ["–"] * len(theirs)
            figures = [cell for a, b in zip(theirs, ours, strict=False) for cell in (f"{a:.2f}", b)]
            agrees = verdict("val", theirs[0], [100 * trial.val_accuracy]) if trial else ""
            rows.append([*_values(settings, names), *figures, agrees])
        header = (*names, *(cell for figure in shown for cell in (f"{figure}: document", "here")), "agree?")
        yield Table(header, rows, "The document's list, and the trials with the same settings here, if any.")
    yield from map(Text, study.notes())
    if study.ranking:
        caption = f"{recipe.title}. {describe(recipe.search.config.changed())}"
        yield Figure(study.figure(), _name(recipe, "search"), caption)


FIGURES = ("final validation", "mean of top 5", "final training")


def _figures(trial: Trial) -> tuple[float | None, ...]:
    """Those of FIGURES, as fractions."""
    return trial.val_accuracy, trial.top5_val_accuracy, trial.train_accuracy


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def _values(settings: Mapping[str, object], names: Sequence[str]) -> list[str]:
    return [written(settings[name]) for name in names]


def _same(settings: Mapping[str, float], listed: Mapping[str, float]) -> bool:
    """Equal up to the digits that are listed."""
    return all(math.isclose(settings[name], value, rel_tol=1e-3) for name, value in listed.items())


def after_training(recipe: Recipe, results: Results, data: Cifar10) -> Iterator[Block]:
    """Loss and accuracy on the test images after the last epoch."""
    rows = []
    for label, group in results.items():
        rows.append([label, spread(group.test_losses(), 3), spread(group.accuracies("test"))])
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
    """The configuration that ran in one line, and its outcome."""
    text = describe(_settings(run))
    if run.failed:
        return f"{text}. Diverged: {run.failed.splitlines()[0]}"
    final = ", ".join(f"{name} {100 * run.accuracy(split):.2f} %" for split, name in TITLES.items())
    return f"{text}. Final accuracies: {final}."


def _settings(run: Run) -> dict[str, object]:
    return run.config.described() | {"dtype": run.config.dtype}


def _seeds(results: Results) -> str:
    seeds = [run.config.seed for run in next(iter(results.values()))]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± std of {len(seeds)} seeds ({seeds[0]} to {seeds[-1]})"


def _name(recipe: Recipe, *parts: str) -> str:
    """A file name of letters, digits, - and _."""
    plain = {"λ": "lambda", "η": "eta", "σ": "sigma", "ρ": "rho", " ": "-", "-": "-", "_": "_", ".": "p"}
    return "".join(letter if letter.isalnum() and letter.isascii() else plain.get(letter, "")
                   for letter in "-".join([recipe.name, *parts]))  # fmt: skip
