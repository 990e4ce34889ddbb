"""One dataclass that describes a whole run: network, data, optimiser, schedule, seed."""

import dataclasses
import difflib
import json
import math
import types
from dataclasses import dataclass, field
from typing import Any, Self, get_args, get_type_hints

from tinygrad_cifar.data.standardise import KINDS
from tinygrad_cifar.errors import ConfigError
from tinygrad_cifar.nn import ACTIVATIONS

_USERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lr": ("schedule", ("constant", "exponential", "step")),
    "gamma": ("schedule", ("exponential", "step")),
    "k": ("schedule", ("exponential",)),
    "every": ("schedule", ("step",)),
    "eta_min": ("schedule", ("triangular", "cosine")),
    "eta_max": ("schedule", ("triangular", "cosine", "one_cycle")),
    "n_s": ("schedule", ("triangular",)),
    "cycles": ("schedule", ("triangular",)),
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "momentum_form": ("optimizer", ("sgd",)),
    "nesterov": ("optimizer", ("sgd",)),
    "weight_decay": ("optimizer", ("adamw",)),
}
"""For each setting that not every schedule or optimiser uses: those that do."""

_OF_HIDDEN_LAYERS = ("activation", "batch_norm", "dropout")

_RIVALS: dict[str, dict[str, Any]] = {
    "epochs": {"cycles": None},
    "cycles": {"epochs": None},
    "gamma": {"k": None},
    "k": {"gamma": None},
    "data": {"synthetic": False},
    "synthetic": {"data": None},
}
"""Giving the first puts the others out of force."""

CHOICES: dict[str, tuple[str, ...]] = {
    "activation": tuple(ACTIVATIONS),
    "dtype": ("float32", "float64"),
    "standardise": KINDS,
    "optimizer": ("sgd", "adam", "adamw", "rmsprop", "adagrad"),
    "momentum_form": ("pytorch", "classic"),
    "l2_convention": ("sum", "half"),
    "schedule": ("constant", "exponential", "step", "triangular", "cosine", "one_cycle"),
}


def _setting(group: str, default: Any, meaning: str) -> Any:
    """A field of Config. ``group`` and ``meaning`` are also what the command line shows in --help."""
    return field(default=default, metadata={"group": group, "meaning": meaning})


@dataclass(frozen=True)
class Config:
    """Everything that decides the result of a run; the same Config gives the same bits on the same machine.

    A setting that is None takes a default that depends on the others; ``resolved`` fills it in. A setting that the
    others leave without effect is an error, never ignored.

    Raises:
        ConfigError: a value is out of range, unknown, or contradicts another one.

    Examples:
        >>> Config(hidden=(50, 50), batch_norm=True, lam=0.005, schedule="triangular", n_s=2250, cycles=2)
    """

    hidden: tuple[int, ...] = _setting(
        "Network", (50, 50), "widths of the hidden layers, as 50,50; 'none' for a softmax classifier"
    )
    activation: str = _setting("Network", "relu", "after each hidden layer")
    batch_norm: bool = _setting("Network", False, "batch norm after each hidden layer")
    dropout: float = _setting("Network", 0.0, "probability of dropping a hidden activation, in [0, 1)")
    init: str | float = _setting("Network", "he", "he, xavier, or the standard deviation of the weights, as 0.01")
    dtype: str = _setting("Network", "float32", "of parameters and images")

    optimizer: str = _setting("Optimiser", "sgd", "which update rule")
    momentum: float = _setting("Optimiser", 0.0, "of sgd and rmsprop, in [0, 1)")
    momentum_form: str = _setting("Optimiser", "pytorch", "v <- mu v + g, or classic: v <- mu v + lr g")
    nesterov: bool = _setting("Optimiser", False, "Nesterov's momentum (sgd)")
    weight_decay: float = _setting("Optimiser", 0.0, "decoupled decay of adamw; for a penalty in the cost use lam")
    lam: float = _setting("Optimiser", 0.0, "lambda of the L2 penalty on the weights")
    l2_convention: str = _setting("Optimiser", "sum", "the penalty is lam ||W||^2 (sum) or lam/2 ||W||^2 (half)")
    batch_size: int = _setting("Optimiser", 100, "images in a step; an incomplete last batch is left out")

    schedule: str = _setting("Schedule", "constant", "how the learning rate moves")
    lr: float | None = _setting("Schedule", None, "learning rate, or the first one (default 0.01)")
    gamma: float | None = _setting("Schedule", None, "factor of the rate, per epoch or per fall")
    k: float | None = _setting("Schedule", None, "exponential: the rate is lr exp(-k epoch)")
    every: int | None = _setting("Schedule", None, "step: epochs between two falls")
    eta_min: float | None = _setting("Schedule", None, "lowest rate of triangular, cosine (default 1e-5)")
    eta_max: float | None = _setting("Schedule", None, "highest rate of triangular, cosine, one_cycle (default 0.1)")
    n_s: int | None = _setting("Schedule", None, "triangular: steps of half a cycle (default 5 epochs of them)")
    warm_up: int = _setting("Schedule", 0, "steps of a linear rise before the schedule begins")
    epochs: int | None = _setting("Schedule", None, "passes over the training images (default 20, or 2 cycles)")
    cycles: int | None = _setting("Schedule", None, "triangular: complete cycles, in place of epochs")

    data: str | None = _setting(
        "Data", None, "folder or .tar.gz of CIFAR-10 (default $TINYGRAD_CIFAR_DATA, the cache, or a download)"
    )
    synthetic: bool = _setting("Data", False, "the synthetic stand-in instead of CIFAR-10")
    split: str = _setting("Data", "all-5000", "batch1 (validates on batch 2), all-5000, all-1000, or all-N")
    subset: int | None = _setting("Data", None, "train on the first N images of the split only")
    standardise: str = _setting("Data", "pixel", "with the training images' statistics: mean and std per what")
    augment_flip: bool = _setting("Data", False, "mirror each training image with probability 1/2")
    augment_shift: int = _setting("Data", 0, "move each training image by up to so many pixels")
    seed: int = _setting("Data", 0, "of initialisation, shuffling, dropout and augmentation")

    def __post_init__(self) -> None:
        hidden: Any = self.hidden
        if isinstance(hidden, list):  # as JSON has it
            object.__setattr__(self, "hidden", tuple(hidden))
        for name, kind in get_type_hints(Config).items():
            _check_type(name, getattr(self, name), kind)
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            _require(value in choices, f"{name} {value!r} is unknown; there are {', '.join(choices)}.")
        self._check_ranges()
        self._check_that_all_is_used()

    def _check_ranges(self) -> None:
        positive = ("batch_size", "epochs", "cycles", "n_s", "every", "subset", "gamma", "k")
        for name in (*positive, "lr", "eta_min", "eta_max", "lam", "weight_decay", "warm_up", "seed", "augment_shift"):
            value = getattr(self, name)
            if value is not None:
                least = "above 0" if name in positive else "at least 0"
                fits = 0 < value < math.inf if name in positive else 0 <= value < math.inf
                _require(fits, f"{name} must be {least} and finite, not {value!r}.")
        for name in ("dropout", "momentum"):
            _require(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), not {getattr(self, name)!r}.")
        fits = self.init in ("he", "xavier") if isinstance(self.init, str) else 0 <= self.init < math.inf
        _require(fits, f"init must be he, xavier or a standard deviation as 0.01, not {self.init!r}.")
        _require(all(width > 0 for width in self.hidden), f"hidden layers need a width above 0, not {self.hidden}.")

    def _check_that_all_is_used(self) -> None:
        for name, (decider, users) in _USERS.items():
            _require(
                self._uses(name) or getattr(self, name) == getattr(Config, name),
                f"the {decider} {getattr(self, decider)!r} does not use {name}: leave it out, or choose "
                f"{' or '.join(users)}.",
            )
        for name in _OF_HIDDEN_LAYERS:
            _require(
                bool(self.hidden) or getattr(self, name) == getattr(Config, name),
                f"without hidden layers {name} has no effect: leave it out.",
            )
        both = self.epochs is not None and self.cycles is not None
        _require(not both, "epochs and cycles both say how long to train: give one of them.")
        decays = sum(value is not None for value in (self.gamma, self.k))
        _require(self.schedule != "exponential" or decays == 1, "the schedule 'exponential' needs either gamma or k.")
        _require(self.schedule != "step" or self.every is not None, "the schedule 'step' needs every, as every=10.")
        _require(self.momentum > 0 or not self.nesterov, "nesterov needs a momentum above 0, as momentum=0.9.")
        _require(not (self.synthetic and self.data), "synthetic and a path of the data contradict each other.")

    def _uses(self, name: str) -> bool:
        """Whether the schedule or the optimiser, whichever decides, uses this setting."""
        decider, users = _USERS[name]
        return getattr(self, decider) in users

    def with_settings(self, **settings: Any) -> "Config":
        """A copy with other settings; those of this Config that contradict the new ones give way.

        Raises:
            ConfigError: as for Config.
        """
        giving_way: dict[str, Any] = {}
        for name in settings:
            giving_way |= _RIVALS.get(name, {})
        unused = [name for name, (decider, users) in _USERS.items() if settings.get(decider, users[0]) not in users]
        if not settings.get("hidden", True):
            unused += _OF_HIDDEN_LAYERS
        giving_way |= {name: getattr(Config, name) for name in unused}
        return dataclasses.replace(self, **(giving_way | settings))

    def resolved(self, images: int) -> "Config":
        """With the defaults that depend on other settings filled in, for ``images`` training images.

        Raises:
            ConfigError: the cycles asked for are not a whole number of epochs, or the schedule has no room.
        """
        steps = images // self.batch_size
        _require(steps > 0, f"batch_size={self.batch_size} makes no batch of {images:,} images; choose a smaller one.")
        defaults: dict[str, Any] = {"lr": 0.01, "eta_min": 1e-5, "eta_max": 0.1, "n_s": 5 * steps}
        if self.schedule == "step":
            defaults["gamma"] = 0.1
        settings = {name: v for name, v in defaults.items() if self._uses(name) and getattr(self, name) is None}
        epochs = self._length(self.n_s or 5 * steps, steps)
        _require(
            self.warm_up < epochs * steps,
            f"warm_up={self.warm_up} takes up all {epochs} epochs of {steps} steps: choose fewer steps.",
        )
        complete = dataclasses.replace(self, **settings, epochs=epochs, cycles=None)
        low, high = complete.eta_min, complete.eta_max
        fits = low is None or high is None or low <= high
        _require(fits, f"eta_min={low} is above eta_max={high}: give both, and the lower one as eta_min.")
        return complete

    def _length(self, n_s: int, steps: int) -> int:
        """How many epochs of ``steps`` steps to train."""
        if self.epochs is not None:
            return self.epochs
        if self.schedule != "triangular":
            return 20
        cycles = self.cycles or 2
        length = self.warm_up + cycles * 2 * n_s
        epochs, rest = divmod(length, steps)
        after, multiple = (f" after warm_up={self.warm_up}", f", warm_up of {steps}") if self.warm_up else ("", "")
        _require(
            rest == 0,
            f"{cycles} cycles of n_s={n_s}{after} are {length / steps:.2f} epochs of {steps} steps, not a whole "
            f"number: choose n_s as a multiple of {steps / 2:g}{multiple}, or give epochs and accept an incomplete "
            "cycle.",
        )
        return epochs

    @property
    def title(self) -> str:
        """The network in a few characters: ``3072-50-50-10-bn``."""
        return "-".join(map(str, (3072, *self.hidden, 10))) + ("-bn" if self.batch_norm else "")

    def changed(self) -> dict[str, Any]:
        """The settings that differ from the defaults."""
        return {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default}

    def described(self) -> dict[str, Any]:
        """What distinguishes the run, for a title: the network, what else differs from the defaults, and the seed."""
        said = {"hidden", "batch_norm", "data", "synthetic"}
        others = {name: value for name, value in self.changed().items() if name not in said}
        return {"network": self.title, **others, "seed": self.seed}

    def to_json(self) -> str:
        """All settings as a JSON object, one a line."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The Config that ``to_json`` wrote; settings that are left out take their defaults.

        Raises:
            ConfigError: not a JSON object, or a setting is unknown or invalid.
        """
        try:
            settings = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"the configuration is not JSON: {error}.") from error
        _require(isinstance(settings, dict), "the configuration is not a JSON object of settings.")
        names = [f.name for f in dataclasses.fields(cls)]
        for name in settings:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            _require(name in names, f"no setting is called {name!r}{hint}")
        return cls(**settings)


def _check_type(name: str, value: Any, kind: Any) -> None:
    """``value`` is of the annotated type; an int will do for a float, a bool for neither."""
    if kind == tuple[int, ...]:
        fits = type(value) is tuple and all(type(item) is int for item in value)
    else:
        allowed = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        fits = type(value) in allowed or (type(value) is int and float in allowed)
    if not fits:
        wanted = getattr(kind, "__name__", None) or str(kind)
        raise ConfigError(f"{name} must be {wanted}, not {value!r}.")


def _require(valid: bool, message: str) -> None:
    if not valid:
        raise ConfigError(message)
