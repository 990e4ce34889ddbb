"""A run folder: written whole or not at all, file by file; and read again."""

import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_cifar import nn
from tinygrad_cifar.data.batches import BLAS_THREADS
from tinygrad_cifar.errors import CheckpointError, ConfigError
from tinygrad_cifar.train.build import build_model
from tinygrad_cifar.train.config import Config
from tinygrad_cifar.train.history import Epoch, History
from tinygrad_cifar.train.trainer import Trainer, Watcher, Weights

FINAL, BEST = "model.safetensors", "best.safetensors"


class RunFolder(Watcher):
    """Keeps a run on disk while it trains.

    | file                |                                                                            |
    |---------------------|----------------------------------------------------------------------------|
    | `config.json`       | every setting; ``tinygrad-cifar train --config`` runs it again             |
    | `environment.json`  | versions, processor and threads                                            |
    | `history.csv`       | a row per epoch, see ``history.Epoch``                                     |
    | `model.safetensors` | the weights at the end of the last epoch, which reported accuracies are of |
    | `best.safetensors`  | the weights of the epoch with the highest validation accuracy              |
    | `curves.png`        | cost, loss and accuracy on training and validation images                  |
    | `results.json`      | cost, loss and accuracy of the final and the best weights                  |
    | `summary.txt`       | all of that for people                                                     |

    Each file appears under its name only when it is complete. History and weights are brought up to date after every
    epoch. The ``.safetensors`` carry the configuration, so one of them alone is enough for ``load_run``.

    Raises:
        ConfigError: ``path`` exists and is not an empty folder.
    """

    def __init__(self, path: str | os.PathLike[str], config: Config) -> None:
        self.path, self.config = Path(path), config
        if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
            raise ConfigError(f"{self.path} is already there; name another folder for the run, or remove it.")
        self.path.mkdir(parents=True, exist_ok=True)
        self.write("config.json", config.to_json())
        self.write("environment.json", json.dumps(environment(), indent=2) + "\n")

    def write(self, name: str, content: str | bytes) -> None:
        """Put a file into the folder, complete or not at all."""
        part = self.path / f".{name}.part"
        try:
            part.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            os.replace(part, self.path / name)
        except OSError as error:
            error.filename = str(self.path / name)  # a full disk does not say where
            raise
        finally:
            part.unlink(missing_ok=True)

    def write_weights(self, name: str, weights: Weights) -> None:
        """Put a ``state_dict`` into the folder."""
        from safetensors.numpy import save

        self.write(name, save(weights, {"config": self.config.to_json()}))

    def begin(self, trainer: Trainer, epochs: int, steps_per_epoch: int) -> None:
        self.write_weights(FINAL, trainer.model.state_dict())

    def epoch(self, trainer: Trainer, row: Epoch) -> None:
        self.write("history.csv", trainer.history.to_csv())
        self.write_weights(FINAL, trainer.model.state_dict())
        if trainer.history.best is row:
            self.write_weights(BEST, trainer.best_weights)

    def draw(self, history: History) -> None:
        """Write curves.png; without an epoch there is nothing to draw."""
        if history:
            from tinygrad_cifar.viz import training_curves

            title = {"SYNTHETIC DATA": self.config.synthetic, **self.config.described()}
            self.write("curves.png", training_curves(history.columns(), config=title).png())


def load_run(path: str | os.PathLike[str], *, best: bool = False) -> tuple[nn.Sequential, Config]:
    """The network of a run, in evaluation mode, and its configuration.

    Args:
        path: a run folder, or one of its ``.safetensors`` files.
        best: from a folder, the weights of the best validation accuracy instead of the final ones.

    Raises:
        CheckpointError: there is no such run, or the file is damaged, not of a run, or does not fit its configuration.
    """
    file = Path(path)
    if file.is_dir():
        file /= BEST if best else FINAL
    elif best:
        raise CheckpointError(f"{file} is no run folder, so there are no best weights to choose: give the folder.")
    weights, config = _read_weights(file)
    model = build_model(config)
    try:
        model.load_state_dict(weights)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    return model.eval(), config


def _read_weights(file: Path) -> tuple[Weights, Config]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise CheckpointError(f"{file} does not exist. Give the folder of a run, as `tinygrad-cifar train` prints it.")
    try:
        with safe_open(file, "numpy") as content:
            text = (content.metadata() or {}).get("config")
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  (it is no mapping)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two: NumPy has no such dtype
        raise CheckpointError(f"{file} is damaged or no safetensors file ({error}). Train the run again.") from error
    if text is None:
        raise CheckpointError(
            f"{file} holds weights without the configuration of a run. Build the network yourself and hand the weights "
            "to its load_state_dict."
        )
    try:
        return weights, Config.from_json(text)
    except ConfigError as error:
        raise CheckpointError(f"{file} was written by another version: {error}") from error


def environment() -> dict[str, Any]:
    """Versions, processor and threads: what timings, and the last bits of results, depend on."""
    build: Any = np.show_config(mode="dicts")
    blas = build["Build Dependencies"]["blas"]
    return {
        "tinygrad_cifar": _version("tinygrad-cifar", "a checkout that is not installed"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": _version("numba", "absent"),  # where it is there, it does Adam's update and prepares batches
        "blas": f"{blas.get('name')} {blas.get('version')}",
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": {name: os.environ.get(name) for name in BLAS_THREADS},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version(package: str, otherwise: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return otherwise


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
