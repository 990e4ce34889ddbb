"""Searches from beginning to end, through the Python API and the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs Optuna: pip install 'tinygrad-cifar[search]'")

import optuna

from tests.conftest import Shell
from tinygrad_cifar import cli
from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.errors import ConfigError, SearchError
from tinygrad_cifar.search import Range, Space, farm, load, search
from tinygrad_cifar.search.storage import open_storage
from tinygrad_cifar.train import Config

COMMAND = farm.COMMAND  # which the tests replace
SMALL = Config(hidden=(8,), epochs=2, batch_size=50, split="all-200", synthetic=True)


@pytest.fixture(autouse=True)
def _small_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Cifar10) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setattr("tinygrad_cifar.data.cifar10.synthesise", lambda: tiny)
    monkeypatch.setattr(farm, "COMMAND", [sys.executable, str(Path(__file__).with_name("tiny_worker.py"))])


def test_two_processes_fulfil_a_plan_and_say_what_they_do() -> None:
    lines: list[str] = []
    space = Space({"lr": Range(1e-3, 1e-1), "lam": [0.0, 1e-4]})
    study = search(space, SMALL, 6, storage="s.journal", jobs=2, noise_seeds=2, say=lines.append)
    assert [trial.number for trial in study.trials] == list(range(6))
    assert len(study.noise) == 2
    assert len(lines) == 8
    assert sum("other seed" in line for line in lines) == 2
    assert search(space, SMALL, 6, storage="s.journal", noise_seeds=2) == load("search", "s.journal") == study

    with pytest.raises(SearchError, match="differs in momentum, what is varied: take another name"):
        search({"lr": [1]}, SMALL.with_settings(momentum=0.9), storage="s.journal")
    with pytest.raises(SearchError, match="no study 'other'; it has: search"):
        load("other", "s.journal")


def test_a_failing_process_ends_the_search_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm, "COMMAND", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(SearchError, match="exit code 3"):
        search({"lr": [0.1]}, SMALL, storage="s.db")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({"lr": [0.1]}, SMALL, 2), ConfigError, "cannot be distinct"),
        (({"lr": [0.1]}, SMALL, 0), ConfigError, "at least 1 trial"),
        (({"momentum": [0.5, 2]}, SMALL), ConfigError, "momentum must be in"),
        (({"batch_size": [500]}, SMALL), ConfigError, "no batch"),
    ],
)
def test_every_trial_is_checked_before_the_first_one_begins(
    arguments: tuple[object, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        search(*arguments, storage="s.db")  # type: ignore[arg-type]
    assert not Path("s.db").exists()


def test_storages_that_cannot_be_had_are_explained() -> None:
    with pytest.raises(SearchError, match="cannot be opened"):
        load("s", "no/such/folder/s.db")
    with pytest.raises(SearchError, match=r"cannot be opened: unable to open database file$"):
        search({"lr": [0.1]}, SMALL, storage="no/such/folder/s.db")
    with pytest.raises(SearchError, match="cannot be opened"):
        load("s", "nosuchdatabase://host/name")
    with pytest.raises(SearchError, match="at least 1 process"):
        search({"lr": [0.1]}, SMALL, storage="s.db", jobs=0)
    with pytest.raises(SearchError, match="no such file"):
        load("s", "s.db")
    assert not Path("s.db").exists()


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("No module named 'psycopg'")

    monkeypatch.setattr(optuna.storages, "RDBStorage", missing)
    with pytest.raises(SearchError, match=r"is not installed\. For PostgreSQL: pip install 'psycopg\[binary\]'"):
        load("s", "postgresql+psycopg://host/name")


def test_a_storage_that_cannot_be_written_is_explained() -> None:
    search({"lr": [0.1]}, SMALL, storage="s.db")
    with pytest.raises(SearchError, match=r"the storage sqlite:.* failed: attempt to write a readonly database\n"):
        search({"lr": [0.1]}, SMALL, noise_seeds=2, storage="sqlite:///file:s.db?mode=ro&uri=true")


def test_a_damaged_journal_is_explained() -> None:
    Path("s.journal").write_text('{"op_code": \n')
    with pytest.raises(SearchError, match=r"the storage s\.journal (failed|cannot be opened)"):
        search({"lr": [0.1]}, SMALL, storage="s.journal")


def test_a_study_of_another_program_is_left_alone() -> None:
    theirs = optuna.create_study(study_name="search", storage=open_storage("s.db"))
    theirs.add_trial(optuna.create_trial(value=1.0))
    for ask in (lambda: load("search", "s.db"), lambda: search({"lr": [0.1]}, SMALL, storage="s.db")):
        with pytest.raises(SearchError, match="of another program: take another name"):
            ask()
    assert theirs.user_attrs == {}


def test_ctrl_c_while_a_process_begins_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "optuna.py").write_text("raise KeyboardInterrupt")  # as if pressed during the import
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(cli.__file__).parents[1]}"}
    ended = subprocess.run([sys.executable, "-c", farm.WORKER], env=environment, capture_output=True)
    assert (ended.returncode, ended.stderr) == (130, b"")


def test_a_process_does_not_import_what_lies_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('this is no module')")
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    command = [*COMMAND, "s.db", "search", "30", str(os.getpid())]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.stderr.startswith("error: the storage s.db cannot be opened")


SETTINGS = ("--synthetic", "--split", "all-200", "--hidden", "8")


def test_coarse_then_fine_on_the_command_line(shell: Shell) -> None:
    varied = ("--vary", "lr=log:1e-3:1e-1", "--vary", "lam=0,1e-4", "--trials", "4", "--noise-seeds", "2")
    code, out, _ = shell(
        "search", *SETTINGS, "--batch-size", "50", "--epochs", "1", *varied, "--storage", "s.journal", "--narrow"
    )
    assert code == 0
    assert "Study search: lr from 0.001 to 0.1 (log), lam in 0, 0.0001" in out
    assert "Study search-fine: lr from" in out
    assert out.count("4 of 4 trials done") == 2
    assert "SYNTHETIC DATA" in out
    assert Path("search.png").exists()
    assert Path("search-fine.png").exists()
