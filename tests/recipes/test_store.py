import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.recipes.conftest import SMALL
from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.recipes.store import DONE, Run, Task, finished, folder_of, perform
from tinygrad_cifar.train import Config, load_run, run

TASK = Task((SMALL,))


def task(**settings: object) -> Task:
    return Task((SMALL.with_settings(**settings),))


def same(one: Run, other: Run) -> bool:
    columns = [{name: values for name, values in r.curves().items() if name != "seconds"} for r in (one, other)]
    return columns[0] == columns[1] and one.results["final"] == other.results["final"]


def test_a_run_is_stored_and_found_again(tiny: Cifar10, tmp_path: Path) -> None:
    assert finished(tmp_path, TASK) is None
    done = perform(TASK, tmp_path, tiny)
    found = finished(tmp_path, TASK)
    assert found == done
    assert finished(tmp_path, task(seed=1)) is None
    result = run(SMALL, data=tiny)
    assert done.accuracy("test") == result.test.accuracy
    assert done.accuracy("test", best=True) == result.best_test.accuracy
    assert done.accuracy("train", best=True) == result.train.accuracy
    assert done.curves()["test_accuracy"][-1] == result.test.accuracy
    assert len(done.test["loss"]) == len(done.history) == 3
    assert done.config.changed().items() >= SMALL.changed().items()
    assert not done.failed
    model, _ = load_run(done.folder)
    assert [p.shape for p in model.parameters()] == [p.shape for p in result.model.parameters()]


def test_where_the_images_lie_does_not_matter(tmp_path: Path) -> None:
    assert folder_of(tmp_path, task(data="somewhere")) == folder_of(tmp_path, TASK)
    assert folder_of(tmp_path, task(synthetic=True)) != folder_of(tmp_path, TASK)


def test_what_a_killed_run_left_is_done_again(tiny: Cifar10, tmp_path: Path) -> None:
    whole = perform(TASK, tmp_path / "whole", tiny)
    folder = folder_of(tmp_path / "killed", TASK)
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text("half a li")
    assert finished(tmp_path / "killed", TASK) is None
    assert same(perform(TASK, tmp_path / "killed", tiny), whole)


def test_a_long_training_is_not_held_up_by_the_test_images(
    tiny: Cifar10, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinygrad_cifar.recipes.store.MEASURED", 2)
    done = perform(task(epochs=5), tmp_path, tiny)
    assert done.test["epoch"] == [3, 5]
    assert done.test["accuracy"][-1] == done.accuracy("test")


def test_a_divergence_is_a_result(tiny: Cifar10, tmp_path: Path) -> None:
    done = perform(task(lr=1e30), tmp_path, tiny)
    assert "first op" in done.failed or "overflows" in done.failed
    assert finished(tmp_path, task(lr=1e30)) == done
    assert len(done.history) == len(done.test["loss"])


PROGRAM = """
import sys
from pathlib import Path
from tinygrad_cifar.recipes.store import Task, perform_all
from tinygrad_cifar.train import Config
if __name__ == "__main__":
    tasks = [Task((Config.from_json(text),)) for text in sys.argv[2:]]
    for task, run in perform_all(tasks, Path(sys.argv[1]), 1):
        print("begin" if run is None else f"end {run.folder.name}", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills processes by signal")
def test_killed_and_started_again(tmp_path: Path) -> None:
    configs = [
        Config(hidden=(), split="batch1", subset=1000, lr=lr, epochs=2, synthetic=True) for lr in (0.01, 0.02, 0.03)
    ]
    store, program = tmp_path / "store", tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(store), *(config.to_json() for config in configs)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begin\n"
        assert process.stdout.readline().startswith("end")
        before = time.time()
        process.send_signal(signal.SIGKILL)
    while before + 60 > time.time() and workers_of(process.pid):
        time.sleep(0.05)
    left = [config for config in configs if not finished(store, Task((config,)))]
    assert 0 < len(left) < 3
    command = [*command[:3], *(config.to_json() for config in left)]
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout.count("end") == len(left)
    assert all(finished(store, Task((config,))) for config in configs)
    assert len(list(store.iterdir())) == 3
    accuracies = {json.loads((folder / DONE).read_text())["final"]["test"]["accuracy"] for folder in store.iterdir()}
    assert len(accuracies) == 3


def test_trainings_in_turn_have_the_same_weights(tiny: Cifar10, tmp_path: Path) -> None:
    second = SMALL.with_settings(lr=0.02, seed=SMALL.seed + 1)
    both = perform(Task((SMALL, second)), tmp_path, tiny)
    first, alone = perform(TASK, tmp_path, tiny), perform(Task((second,)), tmp_path, tiny)
    assert len({run.folder for run in (both, first, alone)}) == 3
    assert both.results["trials"][0] == first.accuracy("val")
    assert both.results["final"]["val"]["loss"] < alone.results["final"]["val"]["loss"]  # twice the training
    assert both.results["trials"][1] == both.accuracy("val")
    assert both.config.lr == 0.02


def test_a_divergence_ends_the_trainings_in_turn(tiny: Cifar10, tmp_path: Path) -> None:
    wild = SMALL.with_settings(lr=1e30)
    run = perform(Task((SMALL, wild, SMALL)), tmp_path, tiny)
    assert len(run.results["trials"]) == 1
    assert run.failed


def test_a_run_in_pytorch_has_a_folder_of_its_own(tiny: Cifar10, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    here = perform(TASK, tmp_path, tiny)
    there = perform(Task((SMALL,), in_pytorch=True), tmp_path, tiny)
    assert finished(tmp_path, Task((SMALL,), in_pytorch=True)) == there != here
    assert there.results["version"] == str(torch.__version__)
    assert there.accuracy("test") == pytest.approx(here.accuracy("test"), abs=0.02)
    assert there.accuracy("test", best=True) == pytest.approx(here.accuracy("test", best=True), abs=0.02)


def workers_of(parent: int) -> list[str]:
    """Processes whose command line names the parent, as multiprocessing's do."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if f"parent_pid={parent}," in line]
