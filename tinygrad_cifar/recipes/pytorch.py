"""The same training in PyTorch: it tells whether a figure is this project's or the setting's.

First weights, batches and learning rates are those of ``run``; layers, gradients, loss, penalty and optimiser are
PyTorch's. What is left is rounding, and what thousands of steps make of it.
"""

import math
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from tinygrad_cifar import nn, random
from tinygrad_cifar.data import Batches, Cifar10, Standardiser
from tinygrad_cifar.errors import ConfigError, NonFiniteError
from tinygrad_cifar.train import Config, Score, build_model
from tinygrad_cifar.train.build import build_schedule, ordered_batches, split_data, training_batches


def train_in_pytorch(config: Config, data: Cifar10) -> dict[str, Any]:
    """Train and test the network of ``config`` in PyTorch, in one thread.

    Returns:
        "version" of PyTorch; "failed", why the training diverged, or ""; "source" and "is_synthetic" of the data. If it
        did not diverge, also "epochs", "steps", "final" {"train", "val", "test"} and "best" {"epoch", "val", "test"},
        each score a cost, loss and accuracy, as in a run's results.json.

    Raises:
        ConfigError: PyTorch is not installed, or ``config`` has dropout; or as for ``run``.
        DataError: as for ``run``.
    """
    if find_spec("torch") is None:
        raise ConfigError("a run in PyTorch needs PyTorch: pip install 'tinygrad-cifar[peers]'.")
    if config.dropout:
        raise ConfigError("PyTorch would draw other masks for dropout: run in PyTorch what has no dropout.")
    import torch

    outcome = {"version": torch.__version__, "failed": "", "source": data.source, "is_synthetic": data.is_synthetic}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return outcome | _run(config, data)
    except NonFiniteError as error:
        return outcome | {"failed": str(error)}
    finally:
        torch.set_num_threads(threads)


def _run(config: Config, data: Cifar10) -> dict[str, Any]:
    train, val = split_data(config, data)
    config = config.resolved(len(train))
    random.manual_seed(config.seed)
    training = _Training(config, build_model(config))
    standardiser = Standardiser.fit(train.images, config.standardise)
    batches = training_batches(config, train, standardiser, prefetch=False)
    splits = {"train": train, "val": val, "test": data.test}
    in_order = {name: ordered_batches(config, split, standardiser, prefetch=False) for name, split in splits.items()}
    schedule = build_schedule(config, len(batches))
    best: dict[str, Any] = {}
    for epoch in range(1, (config.epochs or 0) + 1):
        for x, labels in batches:
            training.step(x, labels, schedule(training.steps))
        val_score = training.score(in_order["val"])
        if not best or val_score["accuracy"] > best["val"]["accuracy"]:
            best = {"epoch": epoch, "val": val_score, "test": training.score(in_order["test"])}
    final = {name: training.score(batches) for name, batches in in_order.items()}
    return {"epochs": config.epochs, "steps": training.steps, "final": final, "best": best}


class _Training:
    """Network, cost and optimiser, all PyTorch's; ``network`` gives the layers and the first weights."""

    def __init__(self, config: Config, network: nn.Sequential) -> None:
        import torch

        self.config, self.steps = config, 0
        self.cross_entropy = torch.nn.functional.cross_entropy
        self.model = torch.nn.Sequential(*map(_twin, network)).to(getattr(torch, config.dtype))
        self.model.load_state_dict({name: torch.from_numpy(array) for name, array in network.state_dict().items()})
        self.optimizer = _optimizer(config, self.model)

    def step(self, x: Any, labels: Any, rate: float) -> None:
        """One update, which must leave finite costs behind."""
        import torch

        self.model.train()
        self.optimizer.zero_grad()
        cost = self.cross_entropy(self.model(torch.from_numpy(x)), torch.from_numpy(labels)) + self.penalty()
        cost.backward()
        if self.config.momentum_form == "classic":
            for parameter in self.model.parameters():
                parameter.grad *= rate  # v <- mu v + rate g;  w <- w - v
            rate = 1.0
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.steps += 1
        self._require_finite(cost.item())

    def score(self, batches: Batches) -> dict[str, float]:
        """Cost, loss and accuracy in evaluation mode."""
        import torch

        self.model.eval()
        loss, right, images = 0.0, 0, len(batches.split)
        with torch.no_grad():
            for x, y in batches:
                scores, labels = self.model(torch.from_numpy(x)), torch.from_numpy(y)
                loss += self.cross_entropy(scores, labels).item() * len(y) / images
                right += (scores.argmax(1) == labels).sum().item()
            cost = loss + float(self.penalty())
        self._require_finite(cost)
        return asdict(Score(cost, loss, right / images))

    def penalty(self) -> Any:
        """lam ||W||^2 or lam/2 ||W||^2 over the weights, that is parameters of two axes; 0 if lam is."""
        if not self.config.lam:
            return 0.0
        squares = sum((w**2).sum() for w in self.model.parameters() if w.ndim > 1)
        return squares * (self.config.lam if self.config.l2_convention == "sum" else self.config.lam / 2)

    def _require_finite(self, cost: float) -> None:
        if not math.isfinite(cost):
            raise NonFiniteError(f"in PyTorch the cost at step {self.steps} is {cost}.")


def _twin(layer: nn.Module) -> Any:
    """PyTorch's layer of the same name, of the same size."""
    import torch

    kind = getattr(torch.nn, type(layer).__name__)
    match layer:
        case nn.Linear():
            return kind(layer.in_features, layer.out_features)
        case nn.BatchNorm1d():
            return kind(layer.num_features)
    return kind()


def _optimizer(config: Config, model: Any) -> Any:
    """The optimiser, with PyTorch's own defaults; its learning rate is set at every step."""
    from torch import optim

    parameters = model.parameters()
    match config.optimizer:
        case "sgd":
            return optim.SGD(parameters, momentum=config.momentum, nesterov=config.nesterov)
        case "adam":
            return optim.Adam(parameters)
        case "adamw":
            return optim.AdamW(parameters, weight_decay=config.weight_decay)
        case "rmsprop":
            return optim.RMSprop(parameters, momentum=config.momentum)
    return optim.Adagrad(parameters)
