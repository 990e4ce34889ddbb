"""From names of recipes to reports: which runs are needed, run them, show them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.recipes.progress import progress
from tinygrad_cifar.recipes.recipe import SEED, Document, Group, Recipe, images_seen, quickened
from tinygrad_cifar.recipes.store import finished, perform_all
from tinygrad_cifar.report import Flag, Report, Section, Table, Text, write
from tinygrad_cifar.report.blocks import Block
from tinygrad_cifar.train import Config
from tinygrad_cifar.train.build import load_data
from tinygrad_cifar.train.folder import environment


@dataclass(frozen=True)
class Plan:
    """How to run recipes.

    Attributes:
        out: where runs and reports go.
        quick: a look in a minute, see ``quickened``.
        repeats: seeds per setting, where the recipe's own number is not wanted.
        jobs: processes.
        data, synthetic: as in Config.
    """

    out: Path
    quick: bool = False
    repeats: int | None = None
    jobs: int = 1
    data: str | None = None
    synthetic: bool = False

    @property
    def store(self) -> Path:
        return self.out / "runs"

    def configs(self, recipe: Recipe) -> dict[str, list[Config]]:
        """What the settings of ``recipe`` run, a Config per seed."""
        repeats = self.repeats or (1 if self.quick else recipe.repeats)
        chosen = {label: setting.config for label, setting in recipe.settings.items()}
        if self.quick:
            chosen = {label: quickened(config) for label, config in chosen.items()}
        place = {"data": self.data} if self.data else {"synthetic": self.synthetic}
        return {
            label: [config.with_settings(seed=SEED + i, **place) for i in range(repeats)]
            for label, config in chosen.items()
        }


def select(documents: Mapping[str, Document], names: Sequence[str]) -> dict[Document, list[Recipe]]:
    """The recipes that ``names`` stand for: "a3" a document, "a3.bn-3layer" one of its recipes, "all" everything.

    Raises:
        ConfigError: there is nothing of that name.
    """
    chosen: dict[str, set[str]] = {}
    for name in names:
        first, _, rest = name.partition(".")
        if name == "all":
            chosen |= {key: {recipe.name for recipe in document.recipes} for key, document in documents.items()}
        elif first not in documents or (rest and rest not in {recipe.name for recipe in documents[first].recipes}):
            known = [recipe.name for recipe in documents[first].recipes] if first in documents else [*documents, "all"]
            raise ConfigError(f"nothing is called {name!r}; there are {', '.join(known)}.")
        else:
            chosen.setdefault(first, set()).update([rest] if rest else [r.name for r in documents[first].recipes])
    return {
        documents[key]: [recipe for recipe in documents[key].recipes if recipe.name in wanted]
        for key, wanted in chosen.items()
    }


def configurations(chosen: Mapping[Document, Sequence[Recipe]], plan: Plan) -> dict[Config, str]:
    """All runs that are needed, each once, with a line that says what it is for."""
    needed: dict[Config, str] = {}
    for document, recipes in chosen.items():
        for recipe in recipes:
            for label, configs in plan.configs(recipe).items():
                for config in configs:
                    needed.setdefault(config, f"{document.name}.{recipe.name}  {label}  seed {config.seed}")
    return needed


def reproduce(
    chosen: Mapping[Document, Sequence[Recipe]], plan: Plan, say: Callable[[str], None] = print
) -> list[Path]:
    """Run what is not there yet, then write a report per document; returns the paths of the report.html.

    Killed at any time and started again it goes on where it was, and ends with the same figures.
    """
    data = load_data(Config(data=plan.data, synthetic=plan.synthetic))
    if data.is_synthetic:
        plan = Plan(plan.out, plan.quick, plan.repeats, plan.jobs, synthetic=True)
    needed = configurations(chosen, plan)
    missing = {config: float(images_seen(config)) for config in needed if not finished(plan.store, config)}
    if needed:
        say(f"{len(needed)} runs, {len(needed) - len(missing)} of them finished before")
    if missing:
        with progress(missing, needed) as watch:
            for config, run in perform_all(missing, plan.store, plan.jobs):
                watch(config, run)
    pages = []
    for document, recipes in chosen.items():
        whole = len(recipes) == len(document.recipes)
        name = document.name if whole else f"{document.name}.{'+'.join(recipe.name for recipe in recipes)}"
        say(f"writing the report of {name}")
        pages.append(write(describe(document, recipes, plan, data), plan.out / name))
    return pages


def describe(document: Document, recipes: Sequence[Recipe], plan: Plan, data: Cifar10) -> Report:
    """The report of finished runs."""
    report = Report(document.title, [Text(document.about)])
    if plan.quick:
        report.intro.append(
            Flag(
                "QUICK VERSION: at most 1,000 training images and a tenth of the epochs. It shows that everything "
                "runs; its figures say nothing about the document's."
            )
        )
    if data.is_synthetic:
        report.intro.append(Flag("SYNTHETIC DATA, NOT CIFAR-10: the accuracies say nothing about the document's."))
    seconds = 0.0
    for recipe in recipes:
        begin = time.perf_counter()
        section = Section(f"{recipe.title} ({document.name}.{recipe.name})")
        results = {
            label: Group(run for config in configs if (run := finished(plan.store, config)))
            for label, configs in plan.configs(recipe).items()
        }
        section.blocks += [Flag(note) for note in recipe.notes]
        for show in recipe.shows:
            section.blocks += show(recipe, results, data)
        section.blocks += _claims(recipe, results)
        section.blocks += [Text(f"{label}: {s.why}") for label, s in recipe.settings.items() if s.why]
        took = sum(run.results["seconds"] for group in results.values() for run in group)
        took += 0 if results else time.perf_counter() - begin
        section.blocks.append(Text(_settings(document, recipe, results, took)))
        seconds += took
        report.sections.append(section)
    report.intro.append(Text(_origin(document, recipes, plan, data, seconds)))
    return report


def _claims(recipe: Recipe, results: Mapping[str, Group]) -> list[Block]:
    if not recipe.claims:
        return []
    rows = [(claim.text, "holds" if claim.holds(results) else "does not hold") for claim in recipe.claims]
    return [Table(("what the document concludes", "here"), rows)]


def _settings(document: Document, recipe: Recipe, results: Mapping[str, Group], seconds: float) -> str:
    runs = [run for group in results.values() for run in group]
    if not runs:
        return f"Nothing is trained; {seconds:.0f} s."
    seeds = sorted({run.config.seed for run in runs})
    dtypes = " and ".join(sorted({run.config.dtype for run in runs}))
    return (
        f"{len(runs)} runs, {dtypes}, seeds {', '.join(map(str, seeds))}, {seconds:.0f} s of one thread together. "
        f"Every setting of a run is in its folder: {', '.join(sorted(run.folder.name for run in runs)[:3])}"
        f"{', …' if len(runs) > 3 else ''}."
    )


def _origin(document: Document, recipes: Sequence[Recipe], plan: Plan, data: Cifar10, seconds: float) -> str:
    here = environment()
    names = document.name if len(recipes) == len(document.recipes) else " ".join(
        f"{document.name}.{recipe.name}" for recipe in recipes
    )  # fmt: skip
    command = f"tinygrad-cifar reproduce {names}" + (" --quick" if plan.quick else "")
    command += f" --repeats {plan.repeats}" if plan.repeats else ""
    return (
        f"Made by `{command}` with tinygrad_cifar {here['tinygrad_cifar']}, Python {here['python']}, NumPy "
        f"{here['numpy']} ({here['blas']}) on {here['processor']}, one BLAS thread a run, in {seconds / 60:.1f} minutes "
        "of one thread. Accuracies are of the final weights in evaluation mode, in per cent."
    )
