"""A search is killed again and again, and several processes share it: no trial is lost, none counts twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="needs Optuna: pip install 'tinygrad-cifar[search]'")

from tests.search.crowd import NAME, PLAN, TRIALS
from tinygrad_cifar.search import Study, load
from tinygrad_cifar.search.storage import open_storage

ROOT = Path(__file__).parents[2]


Start = Callable[[Path, Path], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Begins a process of the search; those that a failing test leaves are killed."""
    begun: list[subprocess.Popen[bytes]] = []

    def start_one(storage: Path, log: Path) -> "subprocess.Popen[bytes]":
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
        command = [sys.executable, "-m", "tests.search.crowd", storage, log]
        begun.append(subprocess.Popen(command, cwd=ROOT, env=environment))
        return begun[-1]

    yield start_one
    for process in begun:
        process.kill()
        process.wait()


def lines(log: Path) -> list[list[object]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def wait_until_done(processes: list[subprocess.Popen[bytes]]) -> None:
    assert [process.wait(120) for process in processes] == [0] * len(processes)


def assert_all_done_once(study: Study) -> None:
    assert [trial.number for trial in study.trials] == list(range(TRIALS))
    assert {trial.state for trial in study.trials} == {"complete"}
    assert len({(trial.settings["lr"], trial.settings["lam"]) for trial in study.trials}) == TRIALS
    assert len({trial.seed for trial in study.trials}) == TRIALS


def test_seventy_trials_killed_five_times(tmp_path: Path, start: Start) -> None:
    import optuna

    storage, log = tmp_path / "search.db", tmp_path / "log"
    for kill in range(1, 6):
        processes = [start(storage, log) for _ in range(1 + kill % 2)]
        while len(lines(log)) < 10 * kill:
            assert all(process.poll() is None for process in processes)
            time.sleep(0.01)
        for process in processes:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    wait_until_done([start(storage, log)])

    assert_all_done_once(load(NAME, storage))
    begun = lines(log)
    assert {json.dumps(line) for line in begun} == {
        json.dumps([key, config.lr, config.lam, config.seed])
        for key in PLAN.points()
        for config in [PLAN.configuration(key)]
    }, "a trial that is done again has the settings and the seed that it had"
    assert len(begun) <= TRIALS + 10, "only what was under way is done again"
    attempts = optuna.load_study(study_name=NAME, storage=open_storage(str(storage))).trials
    complete = Counter(t.user_attrs["key"] for t in attempts if t.state is optuna.trial.TrialState.COMPLETE)
    assert complete == Counter(PLAN.points())


def test_processes_that_begin_at_the_same_time_share_a_journal(tmp_path: Path, start: Start) -> None:
    storage, log = tmp_path / "search.journal", tmp_path / "log"
    wait_until_done([start(storage, log), start(storage, log)])
    assert_all_done_once(load(NAME, storage))


def test_no_process_is_left_an_orphan() -> None:
    """The process that was killed had started another one; both held the pipe."""
    orphan = (
        "import sys; from tinygrad_cifar.search.worker import _end_with; "
        "print(1, flush=True); _end_with(int(sys.argv[1]))"
    )
    parent = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid())])"
    with subprocess.Popen([sys.executable, "-c", parent, orphan], cwd=ROOT, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"1\n"
        killed.kill()
        assert killed.stdout.read() == b"", "the pipe is closed when the last process has ended"
