"""Who does which trial: the queue that the processes of a search share, on one machine or many.

Each trial of the plan has a key, and the storage may hold several attempts at a key. Two rules keep them apart:

1. A process that wants work and finds a key without an attempt, because nobody has begun it or because all attempts
   have failed, adds one.
2. Of the attempts at a key that have not failed the oldest one counts. A process that has added a younger one, because
   two had looked at the same time, lets it fail.

Adding is the only step that must be atomic, and it is in every storage. Optuna's own queue, waiting trials that ``ask``
hands out, is not used: from an SQLite file two processes can be handed the same one (optuna/optuna#4621).

A process that is killed leaves its attempt running for ever. The others notice that its beat has stopped and let it
fail; should it be alive after all, its result is refused. So a trial is never lost and never counts twice, whatever the
clocks and delays are.
"""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from tinygrad_cifar.search.plan import PATIENCE, Plan

Beat = tuple[int | None, float]


class Queue:
    """The trials of a study, for one process.

    Args:
        study: with a plan.
        patience: seconds without a beat after which a trial of another process counts as left behind.
    """

    def __init__(self, study: optuna.Study, patience: float = PATIENCE) -> None:
        self.study, self.patience = study, patience
        self._beats: dict[int, Beat] = {}

    @property
    def plan(self) -> Plan:
        """As the storage has it now: another process may have asked for more trials."""
        return _parsed(self.study.user_attrs["plan"])

    def missing(self) -> list[str]:
        """The keys that nobody has finished yet."""
        finished = {
            key: attempts[0].value if attempts[0].state is TrialState.COMPLETE else None
            for key, attempts in self._attempts().items()
            if attempts[0].state.is_finished()
        }
        return [key for key in self.plan.wanted(finished) if key not in finished]

    def take(self) -> optuna.Trial | None:
        """A trial to do, with its key in ``user_attrs["key"]``; None if there is none at the moment."""
        self._fail_those_left_behind()
        attempts = self._attempts()
        key = next((key for key in self.missing() if key not in attempts), None)
        if key is None:
            return None
        token = uuid.uuid4().hex
        self.study.add_trial(_attempt(self.plan, key, token))
        rivals = self._attempts().get(key, [])
        mine = next((attempt for attempt in rivals if attempt.user_attrs["token"] == token), None)
        if mine is None:  # taken for dead already: this machine must have slept
            return None
        if mine is not rivals[0]:
            self.fail(mine.number)
            return None
        return optuna.Trial(self.study, mine._trial_id)

    def fail(self, number: int) -> None:
        """Give the trial ``number`` up: its key goes back into the queue."""
        with suppress(UpdateFinishedTrialError):  # somebody was faster
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    @contextmanager
    def beating(self, trial: optuna.Trial) -> Iterator[None]:
        """Inside, a thread tells the other processes every few seconds that this one is alive."""
        stop = threading.Event()

        def beat() -> None:
            count = 0
            with suppress(UpdateFinishedTrialError):
                while not stop.wait(self.patience / 6):
                    count += 1
                    with suppress(StorageInternalError):  # a busy database; the next beat will do
                        trial.set_user_attr("beat", count)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _attempts(self) -> dict[str, list[FrozenTrial]]:
        """For each key the attempts that have not failed, oldest first."""
        attempts = defaultdict(list)
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state is not TrialState.FAIL and "key" in trial.user_attrs:
                attempts[trial.user_attrs["key"]].append(trial)
        return attempts

    def _fail_those_left_behind(self) -> None:
        now = time.monotonic()
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            beat = trial.user_attrs.get("beat")
            last, since = self._beats.get(trial.number, (beat, now))
            self._beats[trial.number] = (beat, since if beat == last else now)
            if beat == last and now - since > self.patience:
                self.fail(trial.number)


@cache
def _parsed(plan: str) -> Plan:
    return Plan.from_json(plan)


def _attempt(plan: Plan, key: str, token: str) -> FrozenTrial:
    """A running trial. Its parameters are there for Optuna's own tools; ours go by the key."""
    settings = plan.settings(key)
    numbers = {name: float(v) for name, v in settings.items() if isinstance(v, int | float)}
    return optuna.create_trial(
        state=TrialState.RUNNING,
        params=numbers,
        distributions={name: optuna.distributions.FloatDistribution(v, v) for name, v in numbers.items()},
        user_attrs={"key": key, "token": token, "settings": settings, "seed": plan.seed(key)},
    )
