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
from tinygrad_cifar.recipes.store import DONE, Run, finished, folder_of, perform
from tinygrad_cifar.train import Config, load_run, run


def same(one: Run, other: Run) -> bool:
    columns = [{name: values for name, values in r.curves().items() if name != "seconds"} for r in (one, other)]
    return columns[0] == columns[1] and one.results["final"] == other.results["final"]


def test_a_run_is_stored_and_found_again(tiny: Cifar10, tmp_path: Path) -> None:
    assert finished(tmp_path, SMALL) is None
    done = perform(SMALL, tmp_path, tiny)
    found = finished(tmp_path, SMALL)
    assert found == done
    assert finished(tmp_path, SMALL.with_settings(seed=1)) is None
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
    assert folder_of(tmp_path, SMALL.with_settings(data="somewhere")) == folder_of(tmp_path, SMALL)
    assert folder_of(tmp_path, SMALL.with_settings(synthetic=True)) != folder_of(tmp_path, SMALL)


def test_what_a_killed_run_left_is_done_again(tiny: Cifar10, tmp_path: Path) -> None:
    whole = perform(SMALL, tmp_path / "whole", tiny)
    folder = folder_of(tmp_path / "killed", SMALL)
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text("half a li")
    assert finished(tmp_path / "killed", SMALL) is None
    assert same(perform(SMALL, tmp_path / "killed", tiny), whole)


def test_a_long_training_is_not_held_up_by_the_test_images(
    tiny: Cifar10, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinygrad_cifar.recipes.store.MEASURED", 2)
    done = perform(SMALL.with_settings(epochs=5), tmp_path, tiny)
    assert done.test["epoch"] == [3, 5]
    assert done.test["accuracy"][-1] == done.accuracy("test")


def test_a_divergence_is_a_result(tiny: Cifar10, tmp_path: Path) -> None:
    done = perform(SMALL.with_settings(lr=1e30), tmp_path, tiny)
    assert "first op" in done.failed or "overflows" in done.failed
    assert finished(tmp_path, SMALL.with_settings(lr=1e30)) == done
    assert len(done.history) == len(done.test["loss"])


PROGRAM = """
import sys
from pathlib import Path
from tinygrad_cifar.recipes.store import perform_all
from tinygrad_cifar.train import Config
if __name__ == "__main__":
    configs = [Config.from_json(text) for text in sys.argv[2:]]
    for config, run in perform_all(configs, Path(sys.argv[1]), 1):
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
    left = [config for config in configs if not finished(store, config)]
    assert 0 < len(left) < 3
    command = [*command[:3], *(config.to_json() for config in left)]
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout.count("end") == len(left)
    assert all(finished(store, config) for config in configs)
    assert len(list(store.iterdir())) == 3
    accuracies = {json.loads((folder / DONE).read_text())["final"]["test"]["accuracy"] for folder in store.iterdir()}
    assert len(accuracies) == 3


def workers_of(parent: int) -> list[str]:
    """Processes whose command line names the parent, as multiprocessing's do."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if f"parent_pid={parent}," in line]
