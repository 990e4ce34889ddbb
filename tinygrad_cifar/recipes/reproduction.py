"""From names of recipes to reports: which runs are needed, run them, show them."""

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.recipes import shows
from tinygrad_cifar.recipes.progress import progress
from tinygrad_cifar.recipes.recipe import SEED, Document, Group, Recipe, Results, quick, without_document, work
from tinygrad_cifar.recipes.store import Run, Task, finished, perform_all
from tinygrad_cifar.report import Block, Flag, Report, Section, Table, Text, write
from tinygrad_cifar.search import Study, search
from tinygrad_cifar.train import Config
from tinygrad_cifar.train.build import load_data
from tinygrad_cifar.train.folder import environment

SEARCHES = "searches.db"
HAS_PYTORCH = importlib.util.find_spec("torch") is not None
QUICK = (
    "QUICK VERSION: at most 1,000 training images and a tenth of the epochs. It shows that everything runs; its "
    "figures say nothing about the document's, which are left out."
)
SYNTHETIC = "SYNTHETIC DATA, NOT CIFAR-10: the figures say nothing about the document's, which are left out."


@dataclass(frozen=True)
class Plan:
    """How to run recipes.

    Attributes:
        out: where runs and reports go.
        quick: a look in a minute.
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
        """The folder of the runs' folders."""
        return self.out / "runs"

    def placed(self, config: Config, seed: int) -> Config:
        """``config`` on the data of this plan."""
        place = {"data": self.data} if self.data else {"synthetic": self.synthetic}
        return config.with_settings(seed=seed, **place)

    def adapted(self, recipe: Recipe) -> Recipe:
        """``recipe`` as this plan runs it."""
        if self.quick:
            recipe = quick(recipe)
        return without_document(recipe) if self.synthetic else recipe

    def seeded(self, recipe: Recipe) -> dict[str, list[Task]]:
        """The trainings of each setting of an adapted recipe, one per seed."""
        seeds = range(SEED, SEED + (self.repeats or recipe.repeats))
        return {label: [Task((self.placed(s.config, seed),)) for seed in seeds] for label, s in recipe.settings.items()}

    def in_pytorch(self, recipe: Recipe) -> dict[str, Task]:
        """The trainings beside them in PyTorch: none where it is not installed."""
        if not HAS_PYTORCH:
            return {}
        wanted = {label: s.config for label, s in recipe.settings.items() if s.in_pytorch}
        return {label: Task((self.placed(config, SEED),), in_pytorch=True) for label, config in wanted.items()}

    def in_turn(self, recipe: Recipe) -> dict[str, Task]:
        """The trainings of the same weights one after the other; each has batches of its own."""
        return {
            label: Task(tuple(self.placed(config, SEED + i) for i, config in enumerate(configs)))
            for label, configs in recipe.in_turn.items()
        }


Chosen = Mapping[Document, Sequence[Recipe]]


def select(documents: Mapping[str, Document], names: Sequence[str]) -> dict[Document, list[Recipe]]:
    """The recipes that ``names`` stand for: "a3" a document, "a3.bn-3layer" one of its recipes, "all" everything.

    Raises:
        ConfigError: there is nothing of that name.
    """
    every = {document.full_name(recipe) for document in documents.values() for recipe in document.recipes}
    wanted: set[str] = set()
    for name in names:
        found = {full for full in every if name in ("all", full, full.partition(".")[0])}
        if not found:
            raise ConfigError(f"nothing is called {name!r}; `tinygrad-cifar reproduce list` shows all names.")
        wanted |= found
    chosen = {
        document: [recipe for recipe in document.recipes if document.full_name(recipe) in wanted]
        for document in documents.values()
    }
    return {document: recipes for document, recipes in chosen.items() if recipes}


def reproduce(chosen: Chosen, plan: Plan, say: Callable[[str], None] = print) -> list[Path]:
    """Run what is not there yet, then write a report per document; returns the paths of the report.html.

    Killed at any time and started again it goes on where it was, and ends with the same figures.
    """
    data = load_data(Config(data=plan.data, synthetic=plan.synthetic))
    if data.is_synthetic:
        plan = replace(plan, data=None, synthetic=True)
    chosen = {document: [plan.adapted(recipe) for recipe in recipes] for document, recipes in chosen.items()}
    searches = sum(recipe.search is not None for recipes in chosen.values() for recipe in recipes)
    if needed := _needed(chosen, plan):
        before = sum(finished(plan.store, task) is not None for task in needed)
        then = f"; {searches} searches follow" if searches else ""
        say(f"{len(needed)} runs, {before} of them finished before{then}")
    run_missing(needed, plan.store, plan.jobs)
    pages = []
    for document, recipes in chosen.items():
        studies = {recipe: study for recipe in recipes if (study := _search(document, recipe, plan, say))}
        name = _folder_name(document, recipes)
        say(f"writing the report of {name}")
        pages.append(write(report(document, recipes, studies, plan, data), plan.out / name))
    return pages


def report(
    document: Document, recipes: Sequence[Recipe], studies: Mapping[Recipe, Study], plan: Plan, data: Cifar10
) -> Report:
    """The report on the finished runs and searches of recipes as ``plan`` has adapted them."""
    written = Report(document.title, [Text(document.about)])
    if plan.quick:
        written.intro.append(Flag(QUICK))
    if data.is_synthetic:
        written.intro.append(Flag(SYNTHETIC))
    written.intro.append(Text(_origin(document, recipes, plan)))
    for recipe in recipes:
        begin, study = time.perf_counter(), studies.get(recipe)
        results = {
            label: Group(run for task in tasks if (run := finished(plan.store, task)))
            for label, tasks in plan.seeded(recipe).items()
        }
        section = Section(f"{recipe.title} ({document.full_name(recipe)})", [Flag(note) for note in recipe.notes])
        for show in recipe.shows:
            section.blocks += show(recipe, results, data)
        if study:
            section.blocks += shows.found(recipe, study)
        section.blocks += shows.beside_pytorch(recipe, results, _runs(plan.in_pytorch(recipe), plan))
        in_turn = _runs(plan.in_turn(recipe), plan)
        section.blocks += shows.in_turn(recipe, in_turn)
        section.blocks += [Text(f"{label}: {s.why}") for label, s in recipe.settings.items() if s.why]
        section.blocks += _claims(recipe, results | {label: Group([run]) for label, run in in_turn.items()}, study)
        section.blocks.append(Text(_settings(results, study, time.perf_counter() - begin)))
        written.sections.append(section)
    return written


def _runs(tasks: Mapping[str, Task], plan: Plan) -> dict[str, Run]:
    """Those that are finished."""
    return {label: run for label, task in tasks.items() if (run := finished(plan.store, task))}


def _needed(chosen: Chosen, plan: Plan) -> dict[Task, str]:
    """All tasks, each once, with a line that says what it is for."""
    needed: dict[Task, str] = {}
    for document, recipes in chosen.items():
        for recipe in recipes:
            name = document.full_name(recipe)
            for label, tasks in plan.seeded(recipe).items():
                for task in tasks:
                    needed.setdefault(task, f"{name}  {label}  seed {task.config.seed}")
            for label, task in plan.in_pytorch(recipe).items():
                needed.setdefault(task, f"{name}  {label}  seed {task.config.seed}, in PyTorch")
            for label, task in plan.in_turn(recipe).items():
                needed.setdefault(task, f"{name}  {label}  {len(task.configs)} in turn")
    return needed


def run_missing(needed: Mapping[Task, str], store: Path, jobs: int) -> None:
    """Run those tasks that ``store`` does not have, each called by its text, and show what is running and left."""
    if missing := {task: work(task) for task in needed if not finished(store, task)}:
        with progress(missing, needed) as watch:
            for task, run in perform_all(missing, store, jobs):
                watch(task, run)


def _search(document: Document, recipe: Recipe, plan: Plan, say: Callable[[str], None]) -> Study | None:
    if recipe.search is None:
        return None
    name, wanted = document.full_name(recipe), recipe.search
    say(f"{name}: a search of {wanted.trials} trials and {wanted.noise_seeds} repetitions of the best")
    plan.out.mkdir(parents=True, exist_ok=True)
    return search(
        wanted.space, plan.placed(wanted.config, SEED), wanted.trials, name=name, storage=plan.out / SEARCHES,
        jobs=plan.jobs, noise_seeds=wanted.noise_seeds, say=say,
    )  # fmt: skip


def _claims(recipe: Recipe, results: Results, study: Study | None) -> list[Block]:
    judged = {claim.text: claim.holds(results) for claim in recipe.claims}
    if recipe.search and study:
        judged |= {text: holds(study) for text, holds in recipe.search.claims.items()}
    rows = [(text, "holds" if holds else "does not hold") for text, holds in judged.items()]
    return [Table(("what the document concludes", "here"), rows)] if rows else []


def _settings(results: Results, study: Study | None, seconds: float) -> str:
    """What was run, and how long it took."""
    if study:
        trials = [*study.trials, *study.noise]
        seconds = sum(trial.seconds for trial in trials)
        return f"{len(trials)} trials, {study.plan.config.dtype}, a seed for each, {seconds:.0f} s of one thread."
    runs = [run for group in results.values() for run in group]
    if not runs:
        return f"Nothing is trained; {seconds:.0f} s."
    seeds = ", ".join(map(str, sorted({run.config.seed for run in runs})))
    dtypes = " and ".join(sorted({run.config.dtype for run in runs}))
    seconds = sum(run.results["seconds"] for run in runs)
    return (
        f"{len(runs)} runs, {dtypes}, seeds {seeds}, {seconds:.0f} s of one thread together. All settings, the history "
        "and the weights of each are in its folder under runs/."
    )


def _origin(document: Document, recipes: Sequence[Recipe], plan: Plan) -> str:
    here = environment()
    whole = len(recipes) == len(document.recipes)
    names = document.name if whole else " ".join(map(document.full_name, recipes))
    options = " --quick" * plan.quick + (f" --repeats {plan.repeats}" if plan.repeats else "")
    return (
        f"Made by `tinygrad-cifar reproduce {names}{options}` with tinygrad_cifar {here['tinygrad_cifar']}, Python "
        f"{here['python']}, NumPy {here['numpy']} ({here['blas']}) and numba {here['numba']} on {here['processor']}, "
        "one BLAS thread a run. Accuracies are of the final weights in evaluation mode, in per cent, where nothing "
        "else is said."
    )


def _folder_name(document: Document, recipes: Sequence[Recipe]) -> str:
    whole = len(recipes) == len(document.recipes)
    return document.name if whole else f"{document.name}.{'+'.join(recipe.name for recipe in recipes)}"
