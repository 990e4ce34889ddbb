import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.train import PRESETS, Config
from tinygrad_cifar.train.config import CHOICES

IMAGES = {"batch1": 10_000, "all-5000": 45_000, "all-1000": 49_000}

rates = st.floats(0, 1e3, allow_subnormal=False)
configs = st.builds(
    Config,
    hidden=st.lists(st.integers(1, 5000), min_size=1, max_size=9).map(tuple),
    activation=st.sampled_from(CHOICES["activation"]),
    batch_norm=st.booleans(),
    dropout=st.floats(0, 0.9),
    init=st.sampled_from(["he", "xavier"]) | rates,
    dtype=st.sampled_from(CHOICES["dtype"]),
    lr=st.none() | rates,
    lam=rates,
    epochs=st.none() | st.integers(1, 1000),
    seed=st.integers(0, 2**40),
)


@given(configs)
def test_json_round_trip(config: Config) -> None:
    assert Config.from_json(config.to_json()) == config


def test_it_is_read_from_bytes_as_well() -> None:
    assert Config.from_json(b"\xef\xbb\xbf" + Config(lr=0.5).to_json().encode()) == Config(lr=0.5)  # as Notepad writes


def test_settings_that_are_left_out_take_their_defaults() -> None:
    assert Config.from_json('{"hidden": [7], "lr": 1}') == Config(hidden=(7,), lr=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "rely"}, "activation 'rely' is unknown; there are relu"),
        ({"batch_size": 0}, "batch_size must be above 0"),
        ({"lr": -0.1}, "lr must be at least 0"),
        ({"lr": float("nan")}, "lr must be at least 0 and finite"),
        ({"lam": float("inf")}, "lam must be at least 0 and finite"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"hidden": (50, 0)}, "hidden layers need a width above 0"),
        ({"hidden": ("50",)}, "hidden must be"),
        ({"init": "kaiming"}, "init must be he, xavier or a standard deviation"),
        ({"epochs": 2.5}, "epochs must be int"),
        ({"epochs": True}, "epochs must be int"),
        ({"schedule": "triangular", "lr": 0.1}, "the schedule 'triangular' does not use lr: leave it out"),
        ({"n_s": 800}, "the schedule 'constant' does not use n_s.*triangular"),
        ({"schedule": "triangular", "epochs": 5, "cycles": 1}, "epochs and cycles both"),
        ({"schedule": "exponential"}, "either gamma or k"),
        ({"schedule": "exponential", "gamma": 0.9, "k": 0.1}, "either gamma or k"),
        ({"schedule": "step"}, "needs every"),
        ({"optimizer": "adam", "momentum": 0.9}, "'adam' does not use momentum: leave it out, or choose sgd"),
        ({"nesterov": True}, "nesterov needs a momentum"),
        ({"weight_decay": 0.1}, "'sgd' does not use weight_decay"),
        ({"synthetic": True, "data": "here"}, "contradict each other"),
        ({"optimizer": "adam", "momentum_form": "classic"}, "'adam' does not use momentum_form"),
        ({"hidden": (), "batch_norm": True}, "without hidden layers batch_norm has no effect"),
        ({"hidden": 50}, "hidden must be .*not 50"),
    ],
)
def test_what_is_wrong_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (b"\x89PNG\xff", "not JSON"),
        ('{"batchnorm": true}', "no setting is called 'batchnorm'; did you mean 'batch_norm'?"),
    ],
)
def test_a_configuration_that_cannot_be_read(text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        Config.from_json(text)


@pytest.mark.parametrize(
    ("config", "images", "epochs"),
    [  # the documents' arithmetic: epochs floor(N / batch) = 2 n_s cycles
        (Config(schedule="triangular", n_s=500, cycles=1), 10_000, 10),
        (Config(schedule="triangular", n_s=800, cycles=3), 10_000, 48),
        (Config(schedule="triangular", n_s=2250, cycles=2), 45_000, 20),
        (Config(schedule="triangular", cycles=3), 45_000, 30),
        (Config(schedule="triangular"), 45_000, 20),
        (Config(schedule="triangular", n_s=700, epochs=7), 45_000, 7),
        (Config(), 45_000, 20),
    ],
)
def test_cycles_are_turned_into_epochs(config: Config, images: int, epochs: int) -> None:
    resolved = config.resolved(images)
    assert resolved.epochs == epochs
    assert resolved.cycles is None
    assert resolved.resolved(images) == resolved


def test_cycles_that_are_no_whole_number_of_epochs() -> None:
    with pytest.raises(ConfigError, match=r"2 cycles of n_s=1000 are 8\.89 epochs of 450 steps.*multiple of 225"):
        Config(schedule="triangular", n_s=1000, cycles=2).resolved(45_000)


def test_cycles_begin_after_the_warm_up() -> None:
    config = Config(schedule="triangular", n_s=450, cycles=2, warm_up=900)
    assert config.resolved(45_000).epochs == 2 + 4
    with pytest.raises(ConfigError, match=r"after warm_up=100 are 4\.22 epochs.*multiple of 225, warm_up of 450"):
        dataclasses.replace(config, warm_up=100).resolved(45_000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosine", "eta_min": 0.2}, r"eta_min=0\.2 is above eta_max=0\.1"),
        ({"schedule": "triangular", "eta_max": 1e-6}, "eta_min=1e-05 is above eta_max=1e-06"),
        ({"schedule": "cosine", "warm_up": 900, "epochs": 2}, "warm_up=900 takes up all 2 epochs of 450 steps"),
    ],
)
def test_a_schedule_that_has_no_room(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**settings).resolved(45_000)


def test_a_batch_larger_than_the_split() -> None:
    with pytest.raises(ConfigError, match="batch_size=100 makes no batch of 99 images"):
        Config().resolved(99)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_complete(name: str) -> None:
    config = PRESETS[name]
    resolved = config.resolved(IMAGES[config.split])
    assert resolved.epochs
    assert Config.from_json(resolved.to_json()) == resolved


def test_new_settings_put_those_that_contradict_them_out_of_force() -> None:
    two_layers = PRESETS["two-layer"]
    assert two_layers.with_settings(epochs=5) == dataclasses.replace(two_layers, cycles=None, epochs=5)
    constant = two_layers.with_settings(schedule="constant", lr=0.1)
    assert (constant.n_s, constant.cycles, constant.lr) == (None, None, 0.1)
    assert two_layers.with_settings(synthetic=True).with_settings(data="here").synthetic is False
    adam = PRESETS["two-layer-momentum"].with_settings(optimizer="adam")
    assert (adam.momentum, adam.gamma) == (0.0, 0.95)
    assert PRESETS["three-layer-bn"].with_settings(hidden=()).batch_norm is False
    with pytest.raises(ConfigError, match="epochs and cycles both"):
        two_layers.with_settings(epochs=5, cycles=1)


def test_what_is_changed_is_what_differs_from_the_defaults() -> None:
    assert Config().changed() == {}
    assert Config(hidden=(7,), lam=0.1).changed() == {"hidden": (7,), "lam": 0.1}
    assert set(json.loads(Config().to_json())) == {field.name for field in dataclasses.fields(Config)}


def test_title() -> None:
    assert PRESETS["three-layer-bn"].title == "3072-50-50-10-bn"
    assert PRESETS["one-layer"].title == "3072-10"
