"""From recipes to reports, on synthetic images, in this process."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.recipes.conftest import SMALL
from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.recipes import Document, Plan, Recipe, reproduce, shows
from tinygrad_cifar.recipes.recipe import Group, Search, Setting
from tinygrad_cifar.recipes.reproduction import HAS_PYTORCH
from tinygrad_cifar.recipes.shows import spread, verdict
from tinygrad_cifar.recipes.store import Run, Task, perform
from tinygrad_cifar.search import Plan as SearchPlan
from tinygrad_cifar.search import Space, Study, Trial
from tinygrad_cifar.train import Config


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch, tiny: Cifar10) -> list[Task]:
    """Runs take place here and now; what was run is listed."""
    ran: list[Task] = []

    def perform_all(tasks: Iterable[Task], store: Path, jobs: int) -> Iterator[tuple[Task, Run | None]]:
        for task in list(tasks):
            yield task, None
            ran.append(task)
            yield task, perform(task, store, tiny)

    monkeypatch.setattr("tinygrad_cifar.recipes.reproduction.perform_all", perform_all)
    monkeypatch.setattr("tinygrad_cifar.recipes.reproduction.load_data", lambda config: tiny)
    return ran


@pytest.fixture
def as_cifar(monkeypatch: pytest.MonkeyPatch, performed: list[Task], tiny: Cifar10) -> None:
    """The images pass for CIFAR-10."""
    real = Cifar10(tiny.train, tiny.test, "pretended", is_synthetic=False)
    monkeypatch.setattr("tinygrad_cifar.recipes.reproduction.load_data", lambda config: real)


@pytest.mark.usefixtures("as_cifar")
def test_a_document(
    document: Document, performed: list[Task], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    (page,) = reproduce({document: document.recipes}, Plan(tmp_path), said.append)
    assert page == tmp_path / "small" / "report.html"
    assert [task.config.seed for task in performed] == [12345, 12346, 12345, 12346, 12345]
    assert said[0] == "5 runs, 0 of them finished before"
    assert "[5/5]  small.one  no hidden layer  seed 12345  test" in capsys.readouterr().out

    text = (tmp_path / "small" / "report.md").read_text()
    for part in (
        "# Small things", "## Two rates (small.two)", "> **Note.** The document contradicts itself.",
        "| document | here |",
        "| η=.05 | test | 1.00 |", "| yes, higher |", "| lower |", "η=.01: There is no such network.",
        "mean ± std of 2 seeds (12345 to 12346)", "| More is more. | holds |", "| Less is more. | does not hold |",
        "figures/two-etap05-curves.png", "network 3072-8-10 · ", "seeds 12345, 12346",
        "tinygrad-cifar reproduce small`",
    ):  # fmt: skip
        assert part in text, part
    assert "SYNTHETIC" not in text
    links = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert links
    assert all((tmp_path / "small" / link).read_bytes().startswith(b"\x89PNG") for link in links)
    assert page.read_text().count("data:image/png") == len(links)

    before = text
    (page,) = reproduce({document: document.recipes}, Plan(tmp_path), said.append)
    assert len(performed) == 5  # nothing is run twice
    assert [line for line in (tmp_path / "small" / "report.md").read_text().splitlines() if line[:1] == "|"] == [
        line for line in before.splitlines() if line[:1] == "|"
    ]


def test_synthetic_images_are_compared_with_nothing(document: Document, performed: list[Task], tmp_path: Path) -> None:
    reproduce({document: [document["two"]]}, Plan(tmp_path, repeats=1), lambda line: None)
    text = (tmp_path / "small.two" / "report.md").read_text()
    assert "SYNTHETIC DATA, NOT CIFAR-10" in text
    assert "99.00" not in text
    assert "holds" not in text
    assert len(performed) == 2
    assert all(task.config.synthetic for task in performed)


@pytest.mark.usefixtures("as_cifar")
def test_a_divergence_is_reported(document: Document, tmp_path: Path) -> None:
    configs = {
        "wild": SMALL.with_settings(lr=1e30),
        "late": SMALL.with_settings(schedule="step", every=1, gamma=1e30),
        "calm": SMALL.with_settings(lr=0.01),
    }
    settings = {label: Setting(config, {"test": 1.0}) for label, config in configs.items()}
    recipe = Recipe("wild", "9.3", "Too much", settings, (*document["two"].shows, shows.last_losses), repeats=1)
    other = Document("wild", "Wild", "", (recipe,))
    reproduce({other: [recipe]}, Plan(tmp_path), lambda line: None)
    text = (tmp_path / "wild" / "report.md").read_text()
    assert "| wild | test | 1.00 | diverged | diverged |" in text
    assert "| late | diverged |  |  |  |" in text
    assert "Diverged: the cost of step" in text


@pytest.mark.usefixtures("as_cifar")
def test_pytorch_beside_and_trainings_in_turn(
    document: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = document["two"]
    settings = {"marked": Setting(SMALL, {"test": 99.0}, in_pytorch=True), "not marked": Setting(SMALL)}
    in_turn = {"a block": (SMALL, SMALL.with_settings(lr=0.01)), "wild": (SMALL, SMALL.with_settings(lr=1e30))}
    recipe = Recipe("beside", "9.5", "Beside", settings, base.shows[:1], repeats=1, in_turn=in_turn)
    other = Document("other", "Other", "", (recipe,))
    for has in (False, True) if HAS_PYTORCH else (False,):
        monkeypatch.setattr("tinygrad_cifar.recipes.reproduction.HAS_PYTORCH", has)
        reproduce({other: [recipe]}, Plan(tmp_path), lambda line: None)
        text = (tmp_path / "other" / "report.md").read_text()
        assert ("PyTorch is not installed" in text) is not has
        assert ("| setting | images | here | PyTorch" in text) is has
        assert ("From the same first weights" in text) is has
        assert "| block | 1 | 2 |" in text
        assert text.count("| diverged |") == 1


def test_a_group_without_results_is_nan() -> None:
    assert Group().mean("test") != Group().mean("test")


def test_verdicts() -> None:
    assert verdict("test", 50, [51, 52]) == "yes"
    assert verdict("test", 50, [55]) == "yes, higher"
    assert verdict("train", 50, [55]) == "higher"
    assert verdict("test", 50, [48]) == "lower"
    assert verdict("test", 50, []) == "diverged"
    assert spread([1.0]) == "1.00"
    assert spread([1.0, 3.0]) == "2.00 ± 1.00"


@pytest.mark.usefixtures("as_cifar")
def test_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space({"lam": [0.0, 1e-3, 1e-2]})
    trials = tuple(
        Trial(i, 2 - i, space.point(i, 0), i, "complete", (0.1, accuracy), 0.9, 1.0)
        for i, accuracy in enumerate((0.30, 0.42, 0.41))
    )
    asked: list[tuple[object, ...]] = []

    def pretended(space: Space, config: Config, trials_wanted: int, **options: object) -> Study:
        asked.append((config.seed, trials_wanted, options["name"], options["noise_seeds"]))
        return Study("small", SearchPlan(space, config, trials_wanted), trials, ())

    monkeypatch.setattr("tinygrad_cifar.recipes.reproduction.search", pretended)
    document = (({"lam": 1e-3}, (40.0, 30.0)), ({"lam": 5e-3}, (41.0, 31.0)))
    claims = {"The best is in the middle.": lambda study: study.best.settings["lam"] == 1e-3}
    recipe = Recipe("lam", "9.4", "Search", search=Search(space, SMALL, 3, document, 2, claims))
    reproduce({Document("found", "Found", "", (recipe,)): [recipe]}, Plan(tmp_path), lambda line: None)
    assert asked == [(12345, 3, "found.lam", 2)]
    text = (tmp_path / "found" / "report.md").read_text()
    for line in (
        "| 1 | 0.001 | 42.00 | 26.00 | 90.00 |",
        "| 0.001 | 40.00 | 42.00 | 30.00 | 26.00 | yes, higher |",
        "| 0.005 | 41.00 | – | 31.00 | – |  |",
        "| The best is in the middle. | holds |",
        "3 of 3 trials done",
        "![lam-search](figures/lam-search.png)",
    ):
        assert line in text, line
