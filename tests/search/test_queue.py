"""The two rules of the queue, one process after the other, with the clock in our hands."""

import pytest

pytest.importorskip("optuna", reason="needs Optuna: pip install 'tinygrad-cifar[search]'")

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from tinygrad_cifar.search import Plan, Range, Space
from tinygrad_cifar.search import queue as queue_module
from tinygrad_cifar.search.queue import Queue
from tinygrad_cifar.train import Config


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(queue_module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.set_user_attr("plan", Plan(Space({"lam": Range(1e-6, 1e-2)}), Config(), 2).to_json())
    return study


def taken(queue: Queue) -> optuna.Trial:
    trial = queue.take()
    assert trial is not None
    return trial


def test_each_key_is_handed_out_once(study: optuna.Study) -> None:
    one, two = Queue(study), Queue(study)
    trials = [taken(one), taken(two)]
    assert {trial.user_attrs["key"] for trial in trials} == {"0", "1"}
    assert one.take() is None
    assert len(one.missing()) == 2
    for trial in trials:
        study.tell(trial, 0.5)
    assert one.missing() == []


def test_a_trial_whose_beat_has_stopped_is_done_by_another_process(study: optuna.Study, clock: list[float]) -> None:
    killed = taken(Queue(study))
    other = Queue(study, patience=30)
    first = taken(other)
    assert other.take() is None
    clock[0] = 29.0
    first.set_user_attr("beat", 1)
    assert other.take() is None
    clock[0] = 32.0
    again = taken(other)
    assert again.user_attrs["key"] == killed.user_attrs["key"]
    assert again.user_attrs["seed"] == killed.user_attrs["seed"]
    with pytest.raises(UpdateFinishedTrialError):
        killed.report(0.9, 1)  # it was alive after all, and learns that it is too late
    study.tell(killed, 0.9, skip_if_finished=True)
    assert other.missing() != []
    study.tell(again, 0.5)
    study.tell(first, 0.6)
    assert other.missing() == []
    assert [t.value for t in study.trials if t.state is TrialState.COMPLETE] == [0.6, 0.5]


def test_a_younger_attempt_gives_way(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that looked at the same time both add an attempt at the same key."""
    slow, quick = Queue(study), Queue(study)
    add = study.add_trial
    between: list[optuna.Trial] = []

    def add_later(attempt: optuna.trial.FrozenTrial) -> None:
        monkeypatch.setattr(study, "add_trial", add)
        between.append(taken(quick))
        add(attempt)

    monkeypatch.setattr(study, "add_trial", add_later)
    assert slow.take() is None
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING, TrialState.FAIL]
    assert study.trials[0].user_attrs["key"] == study.trials[1].user_attrs["key"] == between[0].user_attrs["key"]
    assert taken(slow).user_attrs["key"] != between[0].user_attrs["key"]


def test_a_trial_that_was_given_up_is_handed_out_again(study: optuna.Study) -> None:
    queue = Queue(study)
    trial = taken(queue)
    queue.fail(trial.number)
    queue.fail(trial.number)  # whoever comes second has nothing to do
    keys = {taken(queue).user_attrs["key"], taken(queue).user_attrs["key"]}
    assert keys == {"0", "1"}


def test_a_beat_is_kept_while_a_trial_is_at_work(study: optuna.Study) -> None:
    queue = Queue(study, patience=0.06)
    trial = taken(queue)
    with queue.beating(trial):
        while "beat" not in study.trials[trial.number].user_attrs:
            pass
    study.tell(trial, 0.5)
    with queue.beating(trial):  # the thread ends by itself where the trial is finished
        pass
