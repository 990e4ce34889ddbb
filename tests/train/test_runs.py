import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_cifar as tg
from tinygrad_cifar.data import Cifar10
from tinygrad_cifar.errors import CheckpointError, ConfigError, NonFiniteError
from tinygrad_cifar.train import Config, History, Result, RunFolder, Trainer, Watcher, evaluate, load_run, run
from tinygrad_cifar.train.runs import evaluation_batches
from tinygrad_cifar.train.trainer import Average

SMALL = Config(hidden=(8,), batch_norm=True, dropout=0.1, lr=0.05, lam=0.01, batch_size=50, epochs=3, split="all-200",
               augment_flip=True, augment_shift=2)  # fmt: skip
FILES = {
    "best.safetensors", "config.json", "curves.png", "environment.json", "history.csv", "model.safetensors",
    "results.json", "summary.txt",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny: Cifar10, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of SMALL."""
    path = tmp_path_factory.mktemp("runs") / "small"
    run(SMALL, path, data=tiny)
    return path


def same(one: Result, other: Result) -> bool:
    columns, others = one.history.columns(), other.history.columns()
    del columns["seconds"], others["seconds"]
    weights, theirs = one.model.state_dict(), other.model.state_dict()
    equal = all(np.array_equal(weights[name], theirs[name]) for name in weights)
    return columns == others and equal and (one.train, one.val, one.test) == (other.train, other.val, other.test)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_configuration_gives_the_same_bits(tiny: Cifar10, dtype: str) -> None:
    config = SMALL.with_settings(dtype=dtype)
    first = run(config, data=tiny)
    tg.random.stream("dropout").random(7)  # what was drawn before a run does not matter
    assert same(first, run(config, data=tiny))
    assert not same(first, run(config.with_settings(seed=1), data=tiny))
    assert all(p.dtype == dtype for p in first.model.parameters())


def test_a_folder_does_not_change_the_result(tiny: Cifar10, folder: Path) -> None:
    assert json.loads((folder / "results.json").read_text())["final"]["test"]["loss"] == run(SMALL, data=tiny).test.loss


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "triangular", "lr": None, "eta_max": 0.05, "cycles": 1, "epochs": None, "n_s": 8},
        {"schedule": "exponential", "gamma": 0.9, "optimizer": "sgd", "momentum": 0.9, "momentum_form": "classic"},
        {"schedule": "exponential", "k": 0.1, "optimizer": "rmsprop"},
        {"schedule": "step", "every": 1, "nesterov": True, "momentum": 0.9},
        {"schedule": "cosine", "lr": None, "optimizer": "adamw", "weight_decay": 0.01},
        {"schedule": "one_cycle", "lr": None, "optimizer": "adagrad", "warm_up": 3},
        {"hidden": (), "init": 0.01, "l2_convention": "half", "batch_norm": False, "dropout": 0.0},
        {"subset": 100, "activation": "sigmoid", "init": "xavier", "optimizer": "adam", "standardise": "mean"},
    ],
    ids=str,
)
def test_every_kind_of_run(tiny: Cifar10, settings: dict[str, object]) -> None:
    result = run(SMALL.with_settings(**settings), data=tiny)
    assert np.isfinite(result.test.loss)
    assert result.history[-1].val_loss == result.val.loss


def test_the_folder_has_everything(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    assert Config.from_json((folder / "config.json").read_text()) == SMALL.with_settings(synthetic=True)
    history = History.from_csv((folder / "history.csv").read_text())
    assert [row.step for row in history] == [8, 16, 24]
    results = json.loads((folder / "results.json").read_text())
    assert results["final"]["val"]["loss"] == history[-1].val_loss
    assert results["best"]["val"]["accuracy"] == max(row.val_accuracy for row in history)
    assert results["steps"] == 24
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["numpy"] == np.__version__
    assert environment["numba"]  # its version, or "absent": Adam's update depends on it
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_summary_is_for_people(folder: Path) -> None:
    summary = (folder / "summary.txt").read_text()
    assert "SYNTHETIC DATA, NOT CIFAR-10" in summary
    for part in ("BatchNorm1d", "400 to train on, 200 to validate on, 200 to test on", "lam = 0.01", "test", "Best"):
        assert part in summary


@pytest.mark.parametrize("best", [False, True])
def test_a_run_is_loaded_again(tiny: Cifar10, folder: Path, best: bool) -> None:
    model, config = load_run(folder, best=best)
    assert config == SMALL.with_settings(synthetic=True)
    measured = evaluate(model, evaluation_batches(config, tiny, tiny.test))
    results = json.loads((folder / "results.json").read_text())["best" if best else "final"]
    assert (measured.loss, measured.accuracy) == (results["test"]["loss"], results["test"]["accuracy"])
    alone, _ = load_run(folder / ("best.safetensors" if best else "model.safetensors"))
    assert all(np.array_equal(a, model.state_dict()[name]) for name, a in alone.state_dict().items())


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path, tiny: Cifar10) -> None:
    (tmp_path / "precious.txt").write_text("")
    with pytest.raises(ConfigError, match="already there; name another folder"):
        run(SMALL, tmp_path, data=tiny)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_what_cannot_be_loaded(tmp_path: Path, folder: Path) -> None:
    from safetensors.numpy import save

    with pytest.raises(CheckpointError, match=r"model\.safetensors is no run folder"):
        load_run(folder / "model.safetensors", best=True)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_run(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        load_run(tmp_path)
    header = b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(CheckpointError, match=r"bfloat16|without the configuration"):  # JAX gives NumPy that dtype
        load_run(tmp_path)
    weights = {"0.weight": np.zeros((10, 3072), np.float32)}
    file.write_bytes(save(weights))
    with pytest.raises(CheckpointError, match="without the configuration"):
        load_run(tmp_path)
    file.write_bytes(save(weights, {"config": '{"colour": 1}'}))
    with pytest.raises(CheckpointError, match="written by another version: no setting is called 'colour'"):
        load_run(tmp_path)
    file.write_bytes(save(weights, {"config": Config(hidden=()).to_json()}))
    with pytest.raises(CheckpointError, match=r"missing: 0\.bias"):
        load_run(tmp_path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = RunFolder(tmp_path / "run", SMALL)
    kept.write("history.csv", "the first")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: .*history\.csv"):
        kept.write("history.csv", "the second")
    assert (kept.path / "history.csv").read_text() == "the first"
    assert {path.name for path in kept.path.iterdir()} == {"config.json", "environment.json", "history.csv"}


def test_what_is_reported_is_on_disk(tiny: Cifar10, tmp_path: Path) -> None:
    kept: list[int] = []

    class Reader(Watcher):
        def epoch(self, trainer: Trainer, row: object) -> None:
            kept.append(len(History.from_csv((tmp_path / "run" / "history.csv").read_text())))

    run(SMALL, tmp_path / "run", data=tiny, watchers=(Reader(),))
    assert kept == [1, 2, 3]


def test_the_results_are_there_before_the_picture(
    tiny: Cifar10, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "draw", pressed)
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, tmp_path / "run", data=tiny)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"curves.png"}


class Interrupt(Watcher):
    def step(self, trainer: Trainer, measured: Average) -> None:
        if trainer.steps == 11:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_a_complete_folder(tiny: Cifar10, tmp_path: Path) -> None:
    result = run(SMALL, tmp_path / "run", data=tiny, watchers=(Interrupt(),))
    assert result.interrupted
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert json.loads((tmp_path / "run" / "results.json").read_text())["interrupted"] is True
    assert "INTERRUPTED by Ctrl-C after 2 epochs, 11 steps" in (tmp_path / "run" / "summary.txt").read_text()
    model, _ = load_run(tmp_path / "run")
    assert np.array_equal(model.state_dict()["0.weight"], result.model.state_dict()["0.weight"])


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_after_the_last_epoch_waits_for_the_results(
    tiny: Cifar10, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.undo()
        return evaluate(*given)

    monkeypatch.setattr("tinygrad_cifar.train.runs.evaluate", pressed)
    result = run(SMALL, tmp_path / "run", data=tiny)
    assert result.interrupted  # so that a loop of runs ends
    assert len(result.history) == SMALL.epochs
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert "Trained after 3 epochs" in (tmp_path / "run" / "summary.txt").read_text()


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_run_that_diverges_leaves_history_and_the_last_good_weights(
    tiny: Cifar10, tmp_path: Path, epochs: int
) -> None:
    explodes = SMALL.with_settings(batch_norm=False, schedule="step", every=max(epochs, 1), gamma=1e30, epochs=5)
    if epochs == 0:
        explodes = explodes.with_settings(schedule="constant", lr=1e30)
    with pytest.raises(NonFiniteError, match=r"first op|overflows"):
        run(explodes, tmp_path / "run", data=tiny)
    summary = (tmp_path / "run" / "summary.txt").read_text()
    assert "FAILED: the cost of step" in summary
    model, config = load_run(tmp_path / "run")
    val = tiny.split("all-200")[1]
    loss = evaluate(model, evaluation_batches(config, tiny, val)).loss
    if epochs:
        history = History.from_csv((tmp_path / "run" / "history.csv").read_text())
        assert len(history) == epochs
        assert loss == history[-1].val_loss
        assert (tmp_path / "run" / "curves.png").exists()
    assert np.isfinite(loss)


def test_the_curves_say_that_the_data_are_synthetic(
    tiny: Cifar10, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    draw = tg.viz.training_curves
    monkeypatch.setattr(
        tg.viz, "training_curves", lambda *args, **kwargs: drawn.append(draw(*args, **kwargs)) or drawn[-1]
    )
    run(SMALL.with_settings(epochs=1), tmp_path / "run", data=tiny)
    assert drawn[0].get_suptitle().replace("\u00a0", " ").startswith("SYNTHETIC DATA · network")


def test_a_run_in_a_thread(tiny: Cifar10) -> None:
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(run(SMALL, data=tiny)))
    thread.start()
    thread.join()
    assert same(results[0], run(SMALL, data=tiny))


def test_what_it_says(tiny: Cifar10) -> None:
    said: list[str] = []
    result = run(SMALL, data=tiny, say=said.append)
    assert "SYNTHETIC DATA" in said[0]
    assert f"test {result.test.cost:17.4f}{result.test.loss:10.4f}" in str(result)
