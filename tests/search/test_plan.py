"""Which trials a search consists of, and what each of them is."""

import pytest

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.search import Plan, Range, Space
from tinygrad_cifar.train import Config

SPACE = Space({"lam": Range(1e-6, 1e-2)})


def test_every_trial_has_its_own_seed_and_that_is_all_that_changes_in_a_repetition() -> None:
    plan = Plan(SPACE, Config(seed=7), 20, noise_seeds=5)
    keys = [*plan.points(), *plan.noise_keys("3")]
    assert len({plan.seed(key) for key in keys}) == 25
    original = plan.configuration("3")
    for key in plan.noise_keys("3"):
        again = plan.configuration(key)
        assert again.seed != original.seed
        assert again.with_settings(seed=original.seed) == original


def test_more_trials_leave_those_before_as_they_were() -> None:
    few, many = Plan(SPACE, Config(), 5), Plan(SPACE, Config(), 50, noise_seeds=3)
    assert [few.configuration(key) for key in few.points()] == [many.configuration(key) for key in few.points()]
    assert not few.differences(many)


def test_the_order_is_mixed_and_the_noise_comes_when_the_best_is_known() -> None:
    plan = Plan(SPACE, Config(), 20, noise_seeds=2)
    wanted = plan.wanted({})
    assert sorted(wanted) == sorted(plan.points())
    assert wanted != plan.points()
    finished: dict[str, float | None] = dict.fromkeys(plan.points(), 0.5)
    finished["4"], finished["7"], finished["9"] = 0.6, 0.6, None
    assert plan.wanted(finished)[20:] == ["seed:4:0", "seed:4:1"]
    del finished["12"]
    assert len(plan.wanted(finished)) == 20
    assert Plan(SPACE, Config(), 1, noise_seeds=2).wanted({"0": None}) == ["0"], "nothing to repeat"


def test_a_plan_is_written_and_read() -> None:
    plan = Plan(SPACE, Config(hidden=(9,), data="elsewhere"), 20, 3, prune=True)
    again = Plan.from_json(plan.to_json())
    assert again.config.data is None, "where the images lie is for each machine to say"
    assert not again.differences(plan)
    assert (again.trials, again.noise_seeds, again.prune) == (20, 3, True)
    assert Plan(SPACE, Config(momentum=0.9), 20).differences(plan) == ["hidden", "momentum"]
    assert Plan(Space({"lam": [1]}), plan.config, 1).differences(plan) == ["what is varied"]


def test_widths_can_vary() -> None:
    plan = Plan(Space({"hidden": [50, (100, 50)]}), Config(), 2)
    assert [Plan.from_json(plan.to_json()).configuration(key).hidden for key in "01"] == [(50,), (100, 50)]


def test_what_cannot_vary_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot vary 'lamda'"):
        Plan(Space({"lamda": [1]}), Config(), 1).configuration("0")
    with pytest.raises(ConfigError, match="cannot vary 'seed'"):
        Plan(Space({"seed": [1]}), Config(), 1).configuration("0")
    with pytest.raises(ConfigError, match="cannot be distinct"):
        Plan(Space({"lam": [1, 2]}), Config(), 3)
    with pytest.raises(ConfigError, match="at least 2 for a spread"):
        Plan(SPACE, Config(), 3, noise_seeds=1)
    with pytest.raises(ConfigError, match="at least 1 trial"):
        Plan(SPACE, Config(), 0)
