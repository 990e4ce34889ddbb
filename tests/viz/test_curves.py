"""The three panels show what the history holds; a history that cannot be drawn is refused with the reason."""

from pathlib import Path

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar.errors import DataError, ShapeError
from tinygrad_cifar.viz.curves import describe

HISTORY = {
    "epoch": [1, 2, 3],
    "step": [450, 900, 1350],
    "lr": [1e-5, 0.1, 1e-5],
    "train_cost": [2.5, 2.0, 1.8],
    "train_loss": [2.2, 1.8, 1.6],
    "train_accuracy": [0.2, 0.35, 0.45],
    "val_cost": [2.6, 2.1, 2.0],
    "val_loss": [2.3, 1.9, 1.8],
    "val_accuracy": [0.19, 0.34, 0.33],
}


def test_three_panels_of_two_lines_over_steps(tmp_path: Path) -> None:
    picture = tg.viz.training_curves(HISTORY, tmp_path / "curves.png")
    assert [axes.get_title(loc="left") for axes in picture.axes] == ["cost", "loss", "accuracy"]
    for axes, quantity in zip(picture.axes, ("cost", "loss", "accuracy"), strict=True):
        assert axes.get_xlabel() == "update step"
        train, val = axes.lines[:2]
        assert list(train.get_xdata()) == HISTORY["step"]
        assert list(train.get_ydata()) == HISTORY[f"train_{quantity}"]
        assert list(val.get_ydata()) == HISTORY[f"val_{quantity}"]
        assert train.get_linestyle() != val.get_linestyle()  # apart in black and white too
    assert picture.axes[2].get_title(loc="right") == "best validation 34.00 %"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_ticks_say_where_they_stand() -> None:
    axes = tg.viz.training_curves({"epoch": [1, 2], "train_accuracy": [0.096, 0.1128]}).axes[2]
    written = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks())
    assert [float(text.removesuffix(" %")) / 100 for text in written] == pytest.approx(list(axes.get_yticks()))
    assert axes.yaxis.get_major_formatter().format_ticks([0.5, 0.57]) == ["50 %", "57 %"]


def test_epochs_stand_in_for_steps_and_validation_may_be_missing() -> None:
    picture = tg.viz.training_curves({"epoch": [1.0], "train_loss": [2.3]})
    assert [axes.get_xlabel() for axes in picture.axes] == ["epoch"] * 3
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["training"]
    picture.canvas.draw()


def test_values_that_are_not_finite_leave_a_gap() -> None:
    picture = tg.viz.training_curves({**HISTORY, "train_loss": [2.2, np.nan, np.inf], "val_accuracy": [np.nan] * 3})
    picture.canvas.draw()
    assert picture.axes[2].get_title(loc="right") == ""


def test_the_title_is_the_configuration() -> None:
    config = {"hidden": [50, 50], "batch_norm": True, "augment": False, "schedule": {"eta_min": 1e-5, "n_s": 2250}}
    assert describe(config) == "hidden 50-50 · batch_norm · eta_min 1e-05 · n_s 2250"
    picture = tg.viz.training_curves(HISTORY, config=dict.fromkeys("abcdefghij", "a value of some length"))
    lines = picture.get_suptitle().split("\n")
    assert len(lines) > 1
    assert max(map(len, lines)) < 1.5 * min(map(len, lines))
    assert all(line.strip(" ·") == line for line in lines)
    assert picture.get_suptitle().count("a\u00a0value\u00a0of\u00a0some\u00a0length") == 10


@pytest.mark.parametrize(
    ("history", "error", "words"),
    [
        ({}, DataError, "this one has no column"),
        ({"epoch": [1]}, DataError, "at least one of train_cost"),
        ({"train_loss": [1.0]}, DataError, "'step' or 'epoch'"),
        ({"epoch": [], "train_loss": []}, DataError, "no rows"),
        ({"epoch": [1, 2], "train_loss": [1.0]}, ShapeError, "train_loss"),
        ({"epoch": [1], "val_accuracy": [46.0]}, DataError, "fractions in \\[0, 1\\], not per cent"),
    ],
)
def test_what_cannot_be_drawn_is_said(history: dict[str, list[float]], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tg.viz.training_curves(history)
