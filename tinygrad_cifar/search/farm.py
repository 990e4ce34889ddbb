"""A search from beginning to end: processes here, and any number elsewhere, on one storage."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tinygrad_cifar.data.batches import BLAS_THREADS
from tinygrad_cifar.errors import SearchError
from tinygrad_cifar.search.plan import PATIENCE, Plan, point_of
from tinygrad_cifar.search.space import Block, Space, written
from tinygrad_cifar.search.study import Study, Trial
from tinygrad_cifar.train import Config
from tinygrad_cifar.train.build import load_data, split_data

if TYPE_CHECKING:
    import optuna

STORAGE = "search.db"
WORKER = """
try:
    from tinygrad_cifar.search.worker import main
    main()
except KeyboardInterrupt:
    raise SystemExit(130)
"""  # not "python -m", which could not keep quiet about a Ctrl-C that comes while it imports
COMMAND = [sys.executable, "-P", "-c", WORKER]  # -P: a random.py in the folder is none of its modules


def search(
    space: Space | Block,
    config: Config,
    trials: int | None = None,
    *,
    name: str = "search",
    storage: str | os.PathLike[str] = STORAGE,
    jobs: int = 1,
    noise_seeds: int = 0,
    prune: bool = False,
    patience: float = PATIENCE,
    say: Callable[[str], None] = lambda line: None,
) -> Study:
    """Train a fresh network for every point of ``space``; rank them by their final validation accuracy.

    Everything is kept in ``storage``. After a kill the same call goes on where it was, and other processes, on this or
    other machines, that call it with the same storage and name share the work. Each process keeps to one core. The
    results do not depend on ``jobs``: settings and seed of a trial follow from its number and ``config.seed``.

    Args:
        space: what varies, as ``{"lr": Range(1e-3, 1e-1), "lam": [1e-6, 1e-4]}``, or a Space of several such blocks.
        config: everything else.
        trials: how many; without it, all points of the grid, or 50. May be raised later.
        name: of the study; a storage holds any number of them.
        storage: an SQLite file, a journal file (.journal or .log, for network file systems), or the URL of a database.
        jobs: processes to start here.
        noise_seeds: repetitions of the best trial with other seeds, 0 or at least 2: they tell how much of the
            differences is noise.
        prune: end hopeless trials early; those are not ranked. The rule is described at ``worker.Training``.
        patience: seconds after which a trial that is not heard of counts as killed and is done again.
        say: is handed a line for each finished trial, as ``print``.

    Raises:
        ConfigError, DataError: a point of the space, or the data, is not usable.
        SearchError: Optuna is not installed, the storage cannot be used, holds another search of that name, or a
            process failed; its message is on stderr, and what was done before is kept.
    """
    _require_optuna()
    from tinygrad_cifar.search.storage import begin_study, explained

    if jobs < 1:
        raise SearchError(f"a search needs at least 1 process, not {jobs}.")
    space = space if isinstance(space, Space) else Space(space)
    data = load_data(config)
    if data.is_synthetic and not config.synthetic:
        config = config.with_settings(synthetic=True)
    plan = Plan(space, config, (space.size or 50) if trials is None else trials, noise_seeds, prune)
    for key in plan.points():
        setup = plan.configuration(key)
        setup.resolved(len(split_data(setup, data)[0]))
    del data
    where = os.fspath(storage)
    arguments = [where, name, str(patience), str(os.getpid()), *([config.data] if config.data else [])]
    with explained(where):
        study = begin_study(where, name, plan)
        _run_processes(arguments, jobs, study, say)
        return _read(study)


def load(name: str = "search", storage: str | os.PathLike[str] = STORAGE) -> Study:
    """The study ``name`` as far as it is.

    Raises:
        SearchError: there is none, or Optuna is not installed.
    """
    _require_optuna()
    from tinygrad_cifar.search.storage import explained, open_study

    where = os.fspath(storage)
    with explained(where):
        return _read(open_study(where, name))


def _run_processes(arguments: list[str], jobs: int, study: "optuna.Study", say: Callable[[str], None]) -> None:
    from tinygrad_cifar.search.queue import Queue

    queue = Queue(study)
    if not queue.missing():
        return
    told: set[int] = set()
    _tell(study, told, say=lambda line: None)  # what was done before is no news
    processes = _start(arguments, jobs)
    try:
        while any(process.poll() is None for process in processes):
            time.sleep(0.5)
            _tell(study, told, say)
            if any(process.poll() for process in processes):
                break
    except KeyboardInterrupt:  # the processes have got it too, and put their trials back into the queue
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        raise
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait() for process in processes]
    _tell(study, told, say)
    if queue.missing():
        raise SearchError(
            f"a process of the search ended with exit code {next(filter(None, codes), 0)}; its message is above. The "
            "trials done so far are kept: the same command goes on."
        )


def _start(arguments: list[str], jobs: int) -> list[subprocess.Popen[bytes]]:
    """Processes that import this package wherever it is, and keep to one core each."""
    package = str(Path(__file__).parents[2])
    environment = os.environ | dict.fromkeys(BLAS_THREADS, "1")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    return [subprocess.Popen([*COMMAND, *arguments], env=environment) for _ in range(jobs)]


def _tell(study: "optuna.Study", told: set[int], say: Callable[[str], None]) -> None:
    """A line for each trial that has finished since the last time."""
    now = _read(study)
    for trial in sorted((*now.trials, *now.noise), key=lambda trial: trial.turn):
        if trial.turn not in told:
            told.add(trial.turn)
            say(_line(trial, now))


def _line(trial: Trial, study: Study) -> str:
    settings = "  ".join(f"{name} {written(value)}" for name, value in trial.settings.items())
    result = f"validation {trial.val_accuracy:.2%}" if trial.state == "complete" else trial.state
    best = f", best {study.best.val_accuracy:.2%}" if study.ranking else ""
    title = f"trial {trial.number:3}" if trial in study.trials else f"trial {trial.number:3}, other seed"
    return f"{title}  {settings}  {result}  ({len(study.trials)}/{study.plan.trials} done{best})"


def _read(study: "optuna.Study") -> Study:
    from optuna.trial import TrialState

    plan = Plan.from_json(study.user_attrs["plan"])
    done: dict[str, Trial] = {}
    for attempt in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        done.setdefault(attempt.user_attrs["key"], _trial(attempt))
    trials = tuple(done[key] for key in plan.points() if key in done)
    found = Study(study.study_name, plan, trials, noise=())
    if not found.ranking:
        return found
    noise = tuple(done[key] for key in plan.noise_keys(str(found.best.number)) if key in done)
    return replace(found, noise=noise)


def _trial(attempt: "optuna.trial.FrozenTrial") -> Trial:
    """A finished attempt as the search counts it."""
    attributes = attempt.user_attrs
    return Trial(
        number=point_of(attributes["key"]),
        turn=attempt.number,
        settings=attributes["settings"],
        seed=attributes["seed"],
        state="diverged" if attributes.get("diverged") else attempt.state.name.lower(),
        accuracies=tuple(accuracy for _, accuracy in sorted(attempt.intermediate_values.items())),
        train_accuracy=attributes.get("train_accuracy"),
        seconds=attempt.duration.total_seconds() if attempt.duration else 0.0,
    )


def _require_optuna() -> None:
    if find_spec("optuna") is None:
        raise SearchError("a search needs Optuna, which is not installed: pip install 'tinygrad-cifar[search]'.")
