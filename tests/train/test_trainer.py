import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar import Tensor, nn, optim, random
from tinygrad_cifar.data import Batches, Cifar10, Standardiser
from tinygrad_cifar.errors import NonFiniteError
from tinygrad_cifar.optim import schedules
from tinygrad_cifar.train import Trainer, Watcher, evaluate
from tinygrad_cifar.train.trainer import Average

Loaders = Callable[..., tuple[Batches, Batches]]


@pytest.fixture
def loaders(tiny: Cifar10) -> Loaders:
    def make(batch_size: int = 50, dtype: str = "float32") -> tuple[Batches, Batches]:
        train, val = tiny.split("all-200")
        standardiser = Standardiser.fit(train.images)
        return (
            Batches(train, batch_size, standardiser, dtype, drop_last=True),
            Batches(val, 70, standardiser, dtype, shuffle=False),
        )

    return make


def trainer_of(hidden: tuple[int, ...] = (8,), rate: float = 0.05, lam: float = 0.01, **network: object) -> Trainer:
    model = nn.mlp([3072, *hidden, 10], **network)  # type: ignore[arg-type]
    return Trainer(model, optim.SGD(model.parameters(), rate, momentum=0.5), lam=lam)


class At(Watcher):
    """Does something at a step."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self.when, self.action = step, action

    def step(self, trainer: Trainer, measured: Average) -> None:
        if trainer.steps == self.when:
            self.action()


@pytest.mark.parametrize(("convention", "factor"), [("sum", 2.0), ("half", 1.0)])
def test_a_step_is_gradient_descent_on_the_cost(loaders: Loaders, convention: str, factor: float) -> None:
    train, _ = loaders(dtype="float64")
    x, labels = next(iter(train))
    model = nn.mlp([3072, 10], dtype="float64")
    before = model.state_dict()
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.3), lam=0.1, l2_convention=convention)  # type: ignore[arg-type]
    cost, loss, right = trainer.step(x, labels)

    scores = x @ before["0.weight"].T + before["0.bias"]
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    g = (p - np.eye(10)[labels]) / len(labels)
    np.testing.assert_allclose(loss, -np.log(p[np.arange(len(labels)), labels]).mean())
    np.testing.assert_allclose(cost, loss + factor / 2 * 0.1 * np.sum(before["0.weight"] ** 2))
    assert right == np.sum(scores.argmax(axis=1) == labels)
    after = model.state_dict()
    gradient = g.T @ x + factor * 0.1 * before["0.weight"]
    np.testing.assert_allclose(after["0.weight"], before["0.weight"] - 0.3 * gradient, atol=1e-12)
    np.testing.assert_allclose(after["0.bias"], before["0.bias"] - 0.3 * g.sum(axis=0), atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_compiled_training_is_the_uncompiled_one(loaders: Loaders, dropout: float) -> None:
    histories = []
    for compile in (True, False):
        random.manual_seed(0)
        model = nn.mlp([3072, 12, 10], batch_norm=True, dropout=dropout)
        trainer = Trainer(
            model, optim.Adam(model.parameters()), schedules.triangular(1e-4, 1e-2, 5), lam=0.01, compile=compile
        )
        rows = trainer.fit(*loaders(), 2)
        histories.append([(row.train_cost, row.train_accuracy, row.val_cost) for row in rows])
    assert histories[0] == histories[1]


def test_a_network_that_cannot_be_compiled_is_trained_all_the_same(loaders: Loaders) -> None:
    class Counting(nn.Sequential):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return super().forward(x)

    model = Counting(nn.Linear(3072, 10))
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.01))
    with pytest.warns(UserWarning, match=r"uncompiled.*Counting\.calls"):
        trainer.fit(*loaders(), 1)
    assert trainer.steps == 8


def test_the_schedule_moves_the_rate_at_every_step(loaders: Loaders) -> None:
    trainer = trainer_of()
    trainer.schedule = schedules.triangular(0.01, 0.05, 4)
    rates: list[float] = []

    class Rates(Watcher):
        def step(self, trainer: Trainer, measured: Average) -> None:
            rates.append(trainer.optimizer.lr)

    history = trainer.fit(*loaders(), 2, Rates())
    assert rates == [trainer.schedule(step) for step in range(16)]
    assert history.columns()["lr"] == [rates[7], rates[15]]
    assert history.columns()["step"] == [8, 16]


def test_a_schedule_is_outside_of_what_is_compiled(loaders: Loaders) -> None:
    trainer = trainer_of()
    trainer.schedule = schedules.warm_up(schedules.constant(0.05), 3)  # its ``steps`` are not the Trainer's
    trainer.fit(*loaders(), 2)
    assert len(trainer._update.recordings) == 2  # type: ignore[attr-defined]


def test_the_columns_of_the_history_are_what_they_say(loaders: Loaders) -> None:
    trainer = trainer_of(rate=0.0)  # the weights stand still, so averages over batches are those over the split
    train, val = loaders()
    (row,) = trainer.fit(train, val, 1)
    on_train = evaluate(trainer.model, train)
    on_val = evaluate(trainer.model, val)
    assert row.train_loss == pytest.approx(on_train.loss, rel=1e-5)
    assert row.train_accuracy == on_train.accuracy
    assert (row.val_loss, row.val_accuracy) == (on_val.loss, on_val.accuracy)
    assert row.val_cost - row.val_loss == pytest.approx(trainer.penalty())
    assert row.train_cost - row.train_loss == pytest.approx(trainer.penalty(), rel=1e-4)
    assert trainer.penalty() > 0


def test_evaluation_does_not_depend_on_the_batches_and_changes_nothing(loaders: Loaders) -> None:
    trainer = trainer_of((8,), batch_norm=True, dropout=0.5)
    trainer.fit(*loaders(), 1)
    _, val = loaders()
    trainer.model.train()
    before = trainer.model.state_dict()
    small = evaluate(trainer.model, val)
    val.batch_size = 200
    large = evaluate(trainer.model, val)
    assert small.loss == pytest.approx(large.loss, rel=1e-5)
    assert np.array_equal(small.predictions, large.predictions)
    assert np.array_equal(small.labels, val.split.labels)
    assert all(module.training for module in trainer.model.modules())
    assert all(np.array_equal(before[name], array) for name, array in trainer.model.state_dict().items())


def test_the_best_weights_are_those_of_the_best_epoch(loaders: Loaders) -> None:
    trainer = trainer_of(rate=0.3)
    train, val = loaders()
    history = trainer.fit(train, val, 4)
    assert history.best is not None
    trainer.model.load_state_dict(trainer.best_weights)
    assert evaluate(trainer.model, val).accuracy == history.best.val_accuracy == max(history.columns()["val_accuracy"])


def test_fit_goes_on_where_it_stopped(loaders: Loaders) -> None:
    def weights(*lengths: int) -> dict[str, np.ndarray]:
        tg.manual_seed(1)
        trainer, (train, val) = trainer_of(batch_norm=True, dropout=0.1), loaders()
        for epochs in lengths:
            trainer.fit(train, val, epochs)
        assert [row.epoch for row in trainer.history] == [1, 2, 3]
        return trainer.model.state_dict()

    once, twice = weights(3), weights(1, 2)
    assert all(np.array_equal(once[name], twice[name]) for name in once)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_training_after_the_step(loaders: Loaders) -> None:
    trainer = trainer_of()
    history = trainer.fit(*loaders(), 5, At(11, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert trainer.interrupted
    assert [row.step for row in history] == [8, 11]
    assert trainer.best_weights
    trainer.fit(*loaders(), 1)
    assert not trainer.interrupted


@pytest.mark.usefixtures("ctrl_c")
def test_a_ctrl_c_at_the_very_end_is_not_lost(loaders: Loaders, monkeypatch: pytest.MonkeyPatch) -> None:
    signal_of = signal.signal

    def pressed(number: int, handler: Any) -> Any:
        if signal.getsignal(number) is not signal.default_int_handler:
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGINT)
        return signal_of(number, handler)

    monkeypatch.setattr("signal.signal", pressed)
    trainer = trainer_of()
    trainer.fit(*loaders(), 1)
    assert trainer.interrupted


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_kills(loaders: Loaders) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer_of().fit(*loaders(), 5, At(3, twice))


def test_training_works_outside_of_the_main_thread(loaders: Loaders) -> None:
    trainer, (train, val) = trainer_of(), loaders()
    thread = threading.Thread(target=lambda: trainer.fit(train, val, 1))
    thread.start()
    thread.join()
    assert len(trainer.history) == 1


# Numbers that explode --------------------------------------------------------------------------------------------


def exploding(loaders: Loaders, trainer: Trainer, epochs: int = 3) -> str:
    """The message of the error that training ends with; model and history are those of the last good epoch."""
    train, val = loaders()
    good = [trainer.model.state_dict()]

    class Keep(Watcher):
        def epoch(self, trainer: Trainer, row: object) -> None:
            good.append(trainer.model.state_dict())

    with pytest.raises(NonFiniteError) as caught:
        trainer.fit(train, val, epochs, Keep())
    assert len(good) == len(trainer.history) + 1
    assert all(np.array_equal(good[-1][name], array) for name, array in trainer.model.state_dict().items())
    assert np.isfinite(trainer.history.columns()["val_cost"]).all()
    return str(caught.value)


def test_an_overflow_in_the_forward_pass_names_its_op(loaders: Loaders) -> None:
    trainer = trainer_of((8, 8), rate=1e6, dropout=0.2)
    message = exploding(loaders, trainer)
    assert "the first op whose result is not finite" in message
    assert "Lower the learning rate" in message


def test_an_overflow_in_the_backward_pass_names_its_rule(loaders: Loaders) -> None:
    trainer = trainer_of((8, 8), lam=0.0)

    @tg.custom_op
    def steep(x):  # type: ignore[no-untyped-def]
        return x + 0

    @steep.gradient
    def steep_gradient(g, out, x):  # type: ignore[no-untyped-def]
        return (g * np.float32(3e38) * np.float32(3e38),)

    forward, model = trainer.model.forward, trainer.model
    model.forward = lambda x: steep(forward(x)) if trainer.steps == 9 else forward(x)  # type: ignore[method-assign]
    message = exploding(loaders, trainer)
    assert "At step 10 (learning rate 0.05): gradient of steep, input 0" in message
    assert len(trainer.history) == 1


def test_an_overflow_in_the_update_names_the_parameter(loaders: Loaders) -> None:
    trainer = trainer_of(lam=0.0)
    trainer.optimizer = optim.Adam(trainer.model.parameters(), 0.01)
    trainer.schedule = lambda step: 0.01 if step < 12 else 3e39
    message = exploding(loaders, trainer)
    assert "At step 13 (learning rate 3e+39): the update of 0.weight by Adam overflows" in message


def test_an_overflow_on_the_validation_images_names_its_op(loaders: Loaders) -> None:
    trainer = trainer_of()
    forward, model = trainer.model.forward, trainer.model
    steep = np.float32(3e38)
    model.forward = lambda x: forward(x) if model.training else forward(x) * steep * steep  # type: ignore[method-assign]
    message = exploding(loaders, trainer)
    assert "the validation cost after step 8 is nan" in message
    assert "multiply(" in message
    assert not trainer.history


def test_watchers_are_told_the_end_even_after_an_error(loaders: Loaders) -> None:
    ended = []

    class Last(Watcher):
        def end(self, trainer: Trainer) -> None:
            ended.append(trainer.steps)

    def fail() -> None:
        raise RuntimeError("somebody's watcher")

    with pytest.raises(RuntimeError, match="somebody's watcher"):
        trainer_of().fit(*loaders(), 1, At(2, fail), Last())
    assert ended == [2]


def test_watchers_that_have_begun_end_when_another_one_cannot_begin(loaders: Loaders) -> None:
    told = []

    class First(Watcher):
        def begin(self, trainer: Trainer, epochs: int, steps_per_epoch: int) -> None:
            told.append("begin")

        def end(self, trainer: Trainer) -> None:
            told.append("end")

    class Fails(First):
        def begin(self, trainer: Trainer, epochs: int, steps_per_epoch: int) -> None:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        trainer_of().fit(*loaders(), 1, First(), Fails())
    assert told == ["begin", "end"]
