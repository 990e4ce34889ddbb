"""Where a search is kept: an Optuna storage, which many processes on many machines can share."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from tinygrad_cifar.errors import SearchError
from tinygrad_cifar.search.plan import Plan

JOURNAL = (".journal", ".log")
ATTEMPTS = 5


def open_storage(storage: str) -> optuna.storages.BaseStorage:
    """The storage that ``storage`` names.

    A name with ``://`` is the URL of a database, as ``postgresql+psycopg://USER@HOST/NAME``; a file ending in .journal
    or .log is an append-only journal, which network file systems can carry; any other file is an SQLite database.

    Raises:
        SearchError: it cannot be opened, or the driver of the database is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # creating a study is no news
    try:
        if Path(storage).suffix in JOURNAL and "://" not in storage:
            return optuna.storages.JournalStorage(JournalFileBackend(storage))
        return _open_database(storage if "://" in storage else f"sqlite:///{storage}")
    except ImportError as error:
        raise SearchError(
            f"the database driver for {storage} is not installed. For PostgreSQL: pip install 'psycopg[binary]', "
            "and write postgresql+psycopg://USER@HOST/NAME."
        ) from error
    except (SQLAlchemyError, optuna.exceptions.OptunaError, OSError, ValueError) as error:
        raise SearchError(f"the storage {storage} cannot be opened: {_origin(error)}") from error


def _open_database(url: str) -> optuna.storages.BaseStorage:
    """Two processes that create the tables of a new database at the same time may trip over each other: once more."""
    settings: dict[str, Any] = {"poolclass": NullPool}  # a pool's connections would stay open, as nobody closes a study
    if url.startswith("sqlite"):
        settings["connect_args"] = {"timeout": 60}
    for attempt in range(ATTEMPTS):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=settings)
        except SQLAlchemyError as error:
            twice = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not twice or attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.2 * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def explained(storage: str) -> Iterator[None]:
    """Inside, a storage that fails, being full, read-only, damaged or gone, is a SearchError."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, JSONDecodeError) as error:
        raise SearchError(
            f"the storage {storage} failed: {_origin(error)}\nWhat it has is kept: when it works again, the "
            "same command goes on."
        ) from error


def _origin(error: BaseException) -> BaseException:
    """What the database itself says, without the SQL that the libraries above it add."""
    return _origin(error.__cause__) if error.__cause__ else error


def open_study(storage: str, name: str) -> optuna.Study:
    """The study ``name`` of ``storage``.

    Raises:
        SearchError: there is none, or it is not one of ours.
    """
    if "://" not in storage and not Path(storage).exists():  # opening it would create it
        raise SearchError(f"the storage {storage} cannot be opened: there is no such file.")
    opened = open_storage(storage)
    try:
        study = optuna.load_study(study_name=name, storage=opened, sampler=optuna.samplers.RandomSampler())
    except KeyError:
        names = ", ".join(optuna.get_all_study_names(opened)) or "none"
        raise SearchError(f"{storage} has no study {name!r}; it has: {names}.") from None
    if "plan" not in study.user_attrs:
        raise _foreign(storage, name)
    return study


def begin_study(storage: str, name: str, plan: Plan) -> optuna.Study:
    """The study ``name``, new or as it was left, now with ``plan``.

    Raises:
        SearchError: it is there already and searches something else.
    """
    study = optuna.create_study(
        study_name=name,
        storage=open_storage(storage),
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(),
    )
    if text := study.user_attrs.get("plan"):
        differences = plan.differences(Plan.from_json(text))
        if differences:
            raise SearchError(
                f"the study {name!r} in {storage} differs in {', '.join(differences)}: take another name for the "
                "study, or the same settings to go on with it."
            )
    elif study.trials:
        raise _foreign(storage, name)
    if text != plan.to_json():
        study.set_user_attr("plan", plan.to_json())
    return study


def _foreign(storage: str, name: str) -> SearchError:
    return SearchError(f"the study {name!r} in {storage} is of another program: take another name for the study.")
