"""What a recipe is: the settings of one experiment, what its document says of them, and what to show."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean

from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.recipes.store import Run, Task
from tinygrad_cifar.report.blocks import Block
from tinygrad_cifar.search import Space, Study
from tinygrad_cifar.train import Config

SEED = 12345
"""The seed of the first repeat, as in the A3 document; repeat i has SEED + i."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One network of an experiment.

    Attributes:
        config: what is trained; the seed is set by the repeat.
        document: the document's figures in per cent: "train", "val", "test", or other columns of its table.
        best: the figures are of the weights with the best validation accuracy, not of the final ones.
        why: the reason, where figures are known to differ.
        in_pytorch: also run the first seed in PyTorch, where it is installed, to stand beside.
    """

    config: Config
    document: Mapping[str, float] = field(default_factory=dict)
    best: bool = False
    why: str = ""
    in_pytorch: bool = False


class Group(list[Run]):
    """The repeats of one setting."""

    def accuracies(self, split: str, best: bool = False) -> list[float]:
        """Per cent, of the runs that did not diverge."""
        return [100 * run.accuracy(split, best) for run in self if not run.failed]

    def mean(self, split: str, best: bool = False) -> float:
        """The mean accuracy in per cent; nan if all runs diverged."""
        return fmean(self.accuracies(split, best) or [float("nan")])

    def test_losses(self) -> list[float]:
        """The loss on the test images at the last epoch, of the runs that did not diverge."""
        return [run.test["loss"][-1] for run in self if not run.failed]

    def final(self, column: str) -> float:
        """The mean over the repeats of a column of ``Run.curves`` at the last epoch; infinite where a run diverged."""
        return fmean(float("inf") if run.failed else run.curves()[column][-1] for run in self)


@dataclass(frozen=True, eq=False)
class Search:
    """A search over settings of ``config``.

    Attributes:
        space: what varies.
        config: everything else.
        trials: how many points of the space.
        document: the settings that the document lists, in order, each with figures in per cent: the final validation
            accuracy, and where it has them the mean of the five highest and the final training accuracy.
        noise_seeds: repetitions of the best trial, which tell differences from noise.
        claims: what the document concluded.
    """

    space: Space
    config: Config
    trials: int
    document: tuple[tuple[Mapping[str, float], tuple[float, ...]], ...] = ()
    noise_seeds: int = 4
    claims: Mapping[str, Callable[[Study], bool]] = field(default_factory=dict)


Results = Mapping[str, Group]
"""The groups of a recipe, by the label of their setting."""

Show = Callable[["Recipe", Results, Cifar10], Iterable[Block]]


@dataclass(frozen=True, eq=False)
class Claim:
    """A conclusion of the document, and whether it holds for the results."""

    text: str
    holds: Callable[[Results], bool]


@dataclass(frozen=True, eq=False)
class Recipe:
    """One experiment of a document.

    Attributes:
        name: unique within its document.
        numbers: of the experiments that it covers; documents are counted from 0, experiments from 1.
        title: what is done.
        settings: by label; empty where nothing is trained, or a search is.
        shows: functions that turn the results into tables and figures, in order.
        claims: what the document concluded.
        notes: contradictions and faults of the document, and what is done about them.
        repeats: how many seeds, unless the command line says otherwise.
        search: what is searched, if anything is.
        in_turn: by label, configurations that train the same weights one after the other: the literal form of a search
            that never drew new ones.
    """

    name: str
    numbers: str
    title: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    shows: tuple[Show, ...] = ()
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()
    repeats: int = 2
    search: Search | None = None
    in_turn: Mapping[str, tuple[Config, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Document:
    """The experiments of one document, in its order."""

    name: str
    title: str
    about: str
    recipes: tuple[Recipe, ...]

    def __getitem__(self, name: str) -> Recipe:
        return next(recipe for recipe in self.recipes if recipe.name == name)

    def full_name(self, recipe: Recipe) -> str:
        """``a3.bn-3layer``."""
        return f"{self.name}.{recipe.name}"


def quick(recipe: Recipe) -> Recipe:
    """A look at ``recipe`` in seconds. Its figures say nothing about the document's, which are therefore left out."""
    search = recipe.search and replace(
        recipe.search, config=quickened(recipe.search.config), trials=min(recipe.search.trials, 6), noise_seeds=2
    )
    settings = {label: replace(s, config=quickened(s.config)) for label, s in recipe.settings.items()}
    in_turn = {label: tuple(map(quickened, configs[:3])) for label, configs in recipe.in_turn.items()}
    repeats = min(recipe.repeats, 2)
    return without_document(replace(recipe, settings=settings, search=search, in_turn=in_turn, repeats=repeats))


def without_document(recipe: Recipe) -> Recipe:
    """``recipe`` without the document's figures and conclusions, for results that may not be compared with them."""
    settings = {label: replace(s, document={}, why="", in_pytorch=False) for label, s in recipe.settings.items()}
    search = recipe.search and replace(recipe.search, document=(), claims={})
    return replace(recipe, settings=settings, search=search, claims=())


def quickened(config: Config) -> Config:
    """At most 1,000 images and a tenth of the epochs; the cycles stay."""
    full = config.resolved(_images(config))
    epochs = max(2, (full.epochs or 0) // 10)
    small = full.with_settings(subset=min(1000, _images(config)), epochs=epochs)
    if full.schedule != "triangular":
        return small
    cycles = max(1, round((full.epochs or 0) * (_images(config) // full.batch_size) / (2 * (full.n_s or 1))))
    return small.with_settings(n_s=max(1, epochs * ((small.subset or 1) // full.batch_size) // (2 * cycles)))


def work(task: Task) -> int:
    """What the time of a task is about proportional to: epochs, times the images of one; measuring counts as 5,000."""
    return sum((_images(c) + 5000) * (c.resolved(_images(c)).epochs or 0) for c in task.configs)


def _images(config: Config) -> int:
    """How many images of CIFAR-10 ``config`` trains on."""
    whole = 10_000 if config.split == "batch1" else 50_000 - int(config.split.removeprefix("all-"))
    return min(config.subset or whole, whole)
