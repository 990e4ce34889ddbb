"""What a study says of its trials: ranking, noise, order, edges, and the range of the fine search."""

from pathlib import Path

import pytest

from tinygrad_cifar.errors import SearchError
from tinygrad_cifar.search import Plan, Range, Space, Study, Trial
from tinygrad_cifar.train import Config

SPACE = Space({"lr": Range(1e-4, 1.0), "lam": [0.0, 1e-5, 1e-3]})


def trial(number: int, accuracy: float, turn: int | None = None, state: str = "complete", **settings: object) -> Trial:
    turn = number if turn is None else turn
    return Trial(number, turn, settings, number, state, (accuracy / 2, accuracy), accuracy + 0.1, 1.0)


def study(accuracies: list[float], noise: tuple[float, ...] = (), space: Space = SPACE, **plan: object) -> Study:
    trials = tuple(trial(k, accuracy, **space.point(k, 0)) for k, accuracy in enumerate(accuracies))
    again = tuple(trial(0, accuracy) for accuracy in noise)
    return Study("s", Plan(space, Config(), len(accuracies), len(noise)), trials, again)


def test_trials_are_ranked_by_their_final_accuracy() -> None:
    found = study([0.40, 0.43, 0.41, 0.43])
    assert [trial.number for trial in found.ranking] == [1, 3, 2, 0]
    assert found.best.number == 1
    first, *rows = found.table(top=3).splitlines()
    assert first.split()[:3] == ["trial", "lr", "lam"]
    assert [row.split()[0] for row in rows[:3]] == ["1", "3", "2"]
    assert rows[2].split()[3:5] == ["41.00", "2.00"]
    assert rows[3] == ""


def test_the_table_says_which_differences_are_noise() -> None:
    found = study([0.44, 0.438, 0.41, 0.30], noise=(0.43, 0.435, 0.44))
    assert found.seed_noise == pytest.approx(0.005)
    assert [trial.number for trial in found.unseparated] == [1]  # 2 sqrt(2) * 0.5 points = 1.41 points
    text = found.table()
    assert "~0.20" in text
    assert "~3.00" not in text
    assert "1 trials are behind the best by less than that noise explains" in text
    assert "mean is 43.50 %" in text
    assert "--noise-seeds" in study([0.44, 0.43]).table()


def test_what_is_carried_over_between_trials_is_reported() -> None:
    slide = [0.44 - 0.004 * k for k in range(14)]
    assert study(slide).order.rho == -1
    assert "depends on the order" in study(slide).table()
    mixed = [slide[(5 * k) % 14] for k in range(14)]
    assert "depends on the order" not in study(mixed).table()


def test_a_best_at_the_edge_is_reported() -> None:
    grid = Space({"lam": Range(1e-5, 1e-1, "log", 5)})
    assert "the best lam, 1e-05, is at the edge" in study([5, 4, 3, 2, 1], space=grid).table()
    assert "edge" not in study([1, 4, 5, 2, 1], space=grid).table()


def test_the_fine_range_holds_the_best_and_a_step_around_them() -> None:
    grid = Space({"lam": Range(0.0, 1.0, "linear", 11)})
    fine = study([0.1, 0.2, 0.3, 0.6, 0.7, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1], space=grid).narrowed()
    (block,) = fine.blocks
    assert [round(value, 9) for value in block["lam"].grid()] == [round(0.2 + 0.04 * k, 9) for k in range(11)]
    at_edge = study([0.9, 0.8, 0.7, *[0.1] * 8], space=grid).narrowed().blocks[0]["lam"]
    assert (at_edge.low, at_edge.high) == (0, pytest.approx(0.3)), "never beyond the old range"


def test_the_fine_range_of_random_trials() -> None:
    accuracies = [0.1] * 30
    accuracies[0], accuracies[3], accuracies[6] = 0.5, 0.6, 0.4  # all of lam = 0
    found = study(accuracies)
    (block,) = found.narrowed().blocks
    best = sorted(trial.settings["lr"] for trial in found.ranking[:3])
    step = 1e4 ** (1 / 30)
    assert isinstance(block["lr"], Range)
    assert block["lr"].low == pytest.approx(max(best[0] / step, 1e-4))
    assert block["lr"].high == pytest.approx(min(best[-1] * step, 1.0))
    assert block["lam"] == [0.0]


def test_blocks_without_a_good_trial_are_dropped() -> None:
    space = Space({"lr": Range(0.01, 0.02)}, {"lr": Range(0.03, 0.04)}, {"lr": Range(0.05, 0.06)})
    accuracies = [0.5 if k % 3 == 1 else 0.1 for k in range(12)]
    (block,) = study(accuracies, space=space).narrowed().blocks
    assert isinstance(block["lr"], Range)
    assert 0.03 <= block["lr"].low < block["lr"].high <= 0.04


def test_accuracies_of_a_trial() -> None:
    one = Trial(0, 0, {}, 0, "complete", (0.1, 0.6, 0.5, 0.4, 0.3, 0.2), 0.7, 1.0)
    assert (one.val_accuracy, one.best_val_accuracy, one.top5_val_accuracy) == (0.2, 0.6, pytest.approx(0.4))


def test_without_a_complete_trial_there_is_no_best() -> None:
    empty = Study("s", Plan(SPACE, Config(), 3), (trial(0, 0.1, state="diverged", lr=1.0, lam=0.0),), ())
    with pytest.raises(SearchError, match="1 were pruned or diverged"):
        empty.table()


@pytest.mark.parametrize(
    "space",
    [
        SPACE,
        Space({"lam": Range(1e-5, 1e-1, "log", 6)}),
        Space({"lam": [0.0, 1e-5, 1e-2], "activation": ["relu", "tanh"]}),
        Space({"lam": Range(0, 0.1, "linear"), "lr": [1e-3, 1e-2, 1e-1]}),
    ],
)
def test_the_picture_has_a_panel_for_each_setting_and_one_for_the_plane(space: Space, tmp_path: Path) -> None:
    found = study([0.3, 0.4, 0.35, 0.2, 0.1, 0.38], noise=(0.37, 0.39), space=space)
    diverged = trial(5, 0.0, state="diverged", **space.point(5, 0))
    found = Study("s", found.plan, (*found.trials[:5], diverged), found.noise)
    picture = found.figure(tmp_path / "search.png")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    panels = [axes for axes in picture.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == (1 if len(space.names) == 1 else 3)
    assert "best" in picture.get_suptitle()
