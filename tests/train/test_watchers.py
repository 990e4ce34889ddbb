import io

import pytest

from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.optim.schedules import triangular
from tinygrad_cifar.train import Config, progress, run
from tinygrad_cifar.train.watchers import Bar, Lines, clock, cycles_note

CYCLIC = Config(hidden=(4,), schedule="triangular", n_s=8, cycles=1, batch_size=50, split="all-200")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_there_is_a_line_per_epoch(tiny: Cifar10) -> None:
    stream = io.StringIO()
    watcher = progress(stream)
    assert type(watcher) is Lines
    result = run(CYCLIC, data=tiny, watchers=(watcher,))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "complete cycles: 1 = 2 epochs x 8 steps / (2 x n_s=8)"
    assert lines[1].split("  ")[-5:] == ["train loss", "accuracy", "validation loss", "accuracy", " left"]
    assert [line[:9] for line in lines[2:]] == ["epoch 1/2", "epoch 2/2"]
    row = result.history[-1]
    numbers = f"{row.train_loss:.4f}", f"{row.train_accuracy:.2%}", f"{row.val_loss:.4f}", f"{row.val_accuracy:.2%}"
    assert lines[3].split()[3:] == [*numbers, "0:00"]
    assert {len(line) for line in lines[1:]} == {74}


def test_in_a_terminal_there_is_a_bar(tiny: Cifar10, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("tinygrad_cifar.train.watchers.EVERY", 1)
    stream = Terminal()
    watcher = progress(stream)
    assert type(watcher) is Bar
    run(CYCLIC, data=tiny, watchers=(watcher,))
    assert "epoch 2/2" in stream.getvalue()
    assert watcher.bar.tasks[0].completed == 16
    assert watcher.bar.tasks[0].description.startswith("lr ")


def test_an_incomplete_cycle_is_warned_of() -> None:
    assert cycles_note(triangular(0, 1, 2250), 20, 450).startswith("complete cycles: 2 = 20 epochs")
    note = cycles_note(triangular(0, 1, 2250), 19, 450)
    assert note.startswith("warning: incomplete cycles: 1.90 = 19 epochs x 450 steps")
    assert note.endswith("Complete cycles: 2 in 20 epochs.")


def test_cycles_count_from_the_end_of_the_warm_up_and_of_an_earlier_training(tiny: Cifar10) -> None:
    lines = io.StringIO()
    run(CYCLIC.with_settings(warm_up=8, cycles=None, epochs=2), data=tiny, watchers=(progress(lines),))
    assert "(2 epochs x 8 steps - 8 of warm-up)" in lines.getvalue()
    schedule = triangular(0, 1, 10)
    assert cycles_note(schedule, 2, 8, -4).startswith("warning: incomplete cycles: 0.60 =")
    assert cycles_note(schedule, 2, 8, -4).endswith("Complete cycles: 1 in 3 epochs.")
    assert cycles_note(schedule, 2, 8, 24) == (
        "complete cycles: 2 = (2 epochs x 8 steps + 24 made before) / (2 x n_s=10)"
    )
    assert cycles_note(schedule, 1, 2, 20).endswith("Complete cycles: 2 in 10 epochs.")


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 75, 3600)] == ["0:00", "1:00", "1:15", "60:00"]


def test_without_stdout_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    progress().say("to nobody")
