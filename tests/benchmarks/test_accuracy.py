"""The comparison of accuracies: its table judges rightly, and both sides train the same thing."""

import json
from pathlib import Path
from types import ModuleType

from benchmarks.accuracy import ROWS, table, tasks
from tests.recipes.conftest import SMALL
from tinygrad_cifar.data import synthesise
from tinygrad_cifar.recipes.recipe import SEED, quickened
from tinygrad_cifar.recipes.store import DONE, folder_of, perform


def test_the_table_judges_by_the_means_of_those_that_did_not_diverge(tmp_path: Path) -> None:
    rows = {f"η={lr}": SMALL.with_settings(lr=lr) for lr in (0.1, 0.2, 0.3)}
    figures = {"η=0.1": ([0.50, 0.52], [0.51, 0.53]), "η=0.2": ([0.50, None], [0.49, 0.48]), "η=0.3": ([None], [0.5])}
    for name, sides in figures.items():
        for in_pytorch, accuracies in zip((False, True), sides, strict=True):
            for task, accuracy in zip(tasks(rows[name], len(accuracies), in_pytorch), accuracies, strict=True):
                folder = folder_of(tmp_path, task)
                folder.mkdir()
                results = {"failed": "" if accuracy else "why", "final": {"test": {"accuracy": accuracy}}}
                (folder / DONE).write_text(json.dumps(results))
    assert table(rows, 2, tmp_path).splitlines()[2:] == [
        "| η=0.1 | 52.00 ± 1.00 | 51.00 ± 1.00 | -1.00 | yes |",
        "| η=0.2 | 48.50 ± 0.50 | 50.00 | +1.50 | no |",
        "| η=0.3 | 50.00 | diverged | +nan | no |",
    ]


def test_both_sides_train_the_same_network(torch: ModuleType, tmp_path: Path) -> None:
    tiny = synthesise(600, 200)
    for in_pytorch in (False, True):
        for task in tasks(SMALL, 2, in_pytorch):
            assert task.config.seed in (SEED, SEED + 1)
            perform(task, tmp_path, tiny)
    line = table({"small": SMALL}, 2, tmp_path).splitlines()[-1]
    assert line.endswith("| +0.00 | yes |")
    assert "±" in line


def test_every_row_is_another_setting_and_has_a_quick_version() -> None:
    assert len(set(map(quickened, ROWS.values()))) == len(ROWS) == 23
