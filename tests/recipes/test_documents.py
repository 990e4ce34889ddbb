"""The recipes as they are declared, without running them."""

import json
import re
from pathlib import Path

import pytest

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.recipes import DOCUMENTS, Group, Recipe, listing, select
from tinygrad_cifar.recipes.recipe import quick, work
from tinygrad_cifar.recipes.shows import _name
from tinygrad_cifar.recipes.store import Run, Task
from tinygrad_cifar.search import Plan, Study, Trial
from tinygrad_cifar.train import Epoch, History

RECIPES = {document.full_name(recipe): recipe for document in DOCUMENTS.values() for recipe in document.recipes}
EXPERIMENTS = {0: 11, 1: 13, 2: 6, 3: 8, 4: 4}  # how many each document has


def covered(recipe: Recipe) -> set[tuple[int, int]]:
    """``"0.8–0.9, 1.2"`` as {(0, 8), (0, 9), (1, 2)}."""
    found = set()
    for part in recipe.numbers.split(", "):
        first, _, last = part.partition("–")
        document, start = map(int, first.split("."))
        end = int(last.split(".")[1]) if last else start
        found |= {(document, number) for number in range(start, end + 1)}
    return found


def test_every_experiment_is_there() -> None:
    wanted = {(document, number) for document, last in EXPERIMENTS.items() for number in range(1, last + 1)}
    assert set().union(*map(covered, RECIPES.values())) == wanted


def test_names_are_unique() -> None:
    assert len(RECIPES) == sum(len(document.recipes) for document in DOCUMENTS.values())
    assert listing().row_count == len(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_a_run_of_whole_cycles(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.settings or recipe.search or recipe.shows
    for setting in recipe.settings.values():
        assert work(Task((setting.config,))) > 0
    if recipe.search:
        for number in range(recipe.search.trials):
            assert work(Task((recipe.search.config.with_settings(**recipe.search.space.point(number, 0)),))) > 0


@pytest.mark.parametrize("name", RECIPES)
def test_the_quick_version_is_quick_and_compares_with_nothing(name: str) -> None:
    recipe = quick(RECIPES[name])
    configs = [setting.config for setting in recipe.settings.values()]
    if recipe.search:
        assert recipe.search.trials <= 6
        assert not recipe.search.document
        configs.append(recipe.search.config)
    assert all(work(Task((config,))) <= 200_000 for config in configs)
    assert all((config.subset or 0) <= 1000 for config in configs)
    assert not any(setting.document for setting in recipe.settings.values())
    assert not recipe.claims


@pytest.mark.parametrize("name", RECIPES)
def test_quick_keeps_the_cycles(name: str) -> None:
    for label, setting in RECIPES[name].settings.items():
        if setting.config.schedule == "triangular":
            small = quick(RECIPES[name]).settings[label].config
            steps = (small.epochs or 0) * ((small.subset or 0) // small.batch_size)
            assert steps / (2 * (small.n_s or 0)) == pytest.approx(setting.config.cycles or 0, rel=0.5)


@pytest.fixture
def pretended(tmp_path: Path) -> Run:
    """A run of 50 epochs, as it lies in a store."""
    results = {"failed": "", "final": {split: {"accuracy": 0.4} for split in ("train", "val", "test")}, "trials": [0.4]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    history = History(Epoch(n, n, 0.1, 2 / n, 2 / n, 0.4, 2.0, 2.0, 0.4, 1.0) for n in range(1, 51))
    (tmp_path / "history.csv").write_text(history.to_csv())
    (tmp_path / "test.csv").write_text("epoch,loss,accuracy\n50,2.0,0.4\n")
    return Run(tmp_path)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.claims])
def test_every_claim_can_be_judged(name: str, pretended: Run) -> None:
    recipe = RECIPES[name]
    results = {label: Group([pretended]) for label in (*recipe.settings, *recipe.in_turn)}
    for claim in recipe.claims:
        assert claim.holds(results) in (True, False), claim.text


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.search and recipe.search.claims])
def test_every_claim_of_a_search_can_be_judged(name: str) -> None:
    search = RECIPES[name].search
    assert search
    points = [search.space.point(number, 0) for number in range(search.trials)]
    trials = tuple(Trial(i, i, point, i, "complete", (0.4,), 0.5, 1.0) for i, point in enumerate(points))
    study = Study("pretended", Plan(search.space, search.config, search.trials), trials, ())
    for text, holds in search.claims.items():
        assert holds(study) in (True, False), text


def test_select() -> None:
    assert sum(map(len, select(DOCUMENTS, ["all"]).values())) == len(RECIPES)
    assert select(DOCUMENTS, ["a3"]) == {DOCUMENTS["a3"]: list(DOCUMENTS["a3"].recipes)}
    (recipe,) = select(DOCUMENTS, ["a3.bn-3layer", "a3.bn-3layer"])[DOCUMENTS["a3"]]
    assert recipe is DOCUMENTS["a3"]["bn-3layer"]
    for name in ("a9", "a3.bn", "bn-3layer", ""):
        with pytest.raises(ConfigError, match="reproduce list"):
            select(DOCUMENTS, [name])


def test_every_figure_has_a_name_of_its_own_that_any_file_system_takes() -> None:
    for document in DOCUMENTS.values():
        names = [_name(recipe, label) for recipe in document.recipes for label in recipe.settings]
        assert len(names) == len(set(names))
        assert all(re.fullmatch(r"[\w-]+", name, re.ASCII) for name in names), names
