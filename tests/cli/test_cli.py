"""The command line on a small synthetic set: what it writes, what it says, and how it fails."""

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Shell
from tinygrad_cifar import cli, viz
from tinygrad_cifar.train import PRESETS, Config, load_run

SMALL = ("--synthetic", "--split", "all-200", "--batch-size", "50", "--hidden", "8", "--epochs", "2", "--lr", "0.01")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
import tinygrad_cifar.data.cifar10 as cifar10
from tinygrad_cifar.data import synthesise
cifar10.synthesise = lambda: synthesise(600, 200)
from tinygrad_cifar.cli import main
main()
"""
"""The command line on a small set, for a process of its own."""


def test_train_then_evaluate(shell: Shell) -> None:
    code, out, err = shell("train", *SMALL, "--out", "run", "--batch-norm", "--init", "0.1")
    assert code == 0
    assert "SYNTHETIC DATA" in out + err
    assert "Run folder: run" in out
    _, config = load_run("run")
    expected = {"hidden": (8,), "batch_norm": True, "init": 0.1, "batch_size": 50, "epochs": 2, "split": "all-200",
                "synthetic": True}  # fmt: skip
    assert config.changed() == expected | {"lr": 0.01}

    code, out, _ = shell("evaluate", "run")
    assert code == 0
    accuracy = re.search(r"test accuracy\D*([\d.]+) ?%", out)
    assert accuracy
    assert re.search(rf"^test .* {re.escape(accuracy[1])} %$", Path("run/summary.txt").read_text(), re.MULTILINE)
    assert "airplane" in out
    assert "truck" in out
    assert Path("run/confusion.png").read_bytes().startswith(b"\x89PNG")
    assert shell("evaluate", "run/best.safetensors", "--picture", "other.png")[0] == 0
    assert Path("other.png").exists()


def test_a_run_is_run_again_from_its_configuration(shell: Shell) -> None:
    assert shell("train", *SMALL, "--out", "one")[0] == 0
    assert shell("train", "--config", "one/config.json", "--out", "two")[0] == 0
    assert Path("one/model.safetensors").read_bytes() == Path("two/model.safetensors").read_bytes()
    assert shell("train", "--config", "one/config.json", "--out", "three", "--seed", "1")[0] == 0
    assert Path("one/model.safetensors").read_bytes() != Path("three/model.safetensors").read_bytes()


def test_a_folder_is_found_where_none_is_named(shell: Shell) -> None:
    code, out, _ = shell("train", *SMALL)
    assert code == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.endswith("_3072-8-10")
    assert f"Run folder: {folder}" in out


def test_runs_that_begin_at_the_same_time_have_folders_of_their_own(shell: Shell) -> None:
    for seed in ("1", "2", "3"):
        assert shell("train", *SMALL, "--seed", seed)[0] == 0
    assert len(list(Path("runs").iterdir())) == 3


def test_the_confusion_matrix_says_that_the_data_are_synthetic(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = viz.confusion_picture
    monkeypatch.setattr(viz, "confusion_picture", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    shell("train", *SMALL, "--out", "run")
    shell("evaluate", "run")
    assert drawn[0].get_suptitle() == "SYNTHETIC DATA, NOT CIFAR-10"


def test_a_setting_that_does_not_do_leaves_no_folder(shell: Shell) -> None:
    code, _, err = shell("train", *SMALL, "--augment-shift", "40", "--out", "run")
    assert code == 1
    assert "between 0 and 31" in err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "module", "message"),
    [
        (("train", *SMALL, "--out", "run"), "train.runs", "killed; run was not begun"),
        (("search", *SMALL, "--vary", "lam=0,1"), "search.farm", "killed; search.db has the trials so far"),
        (("reproduce", "a1"), "recipes.reproduction", "interrupted; the same command goes on with what is in runs"),
    ],
)
def test_ctrl_c_says_what_there_is(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], module: str, message: str
) -> None:
    if arguments[0] == "search":
        pytest.importorskip("optuna", reason="needs Optuna: pip install 'tinygrad-cifar[search]'")

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"tinygrad_cifar.{module}.load_data", pressed)
    code, _, err = shell(*arguments)
    assert code == cli.INTERRUPTED
    assert message in err


def test_a_training_that_diverges_says_where_its_folder_is(shell: Shell) -> None:
    code, _, err = shell("train", *SMALL, "--lr", "1e30")
    assert code == 1
    (folder,) = Path("runs").iterdir()
    assert err.endswith(f"Run folder: {folder}")


def test_characters_that_stdout_does_not_know(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_alone = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", ascii_alone)
    assert shell("train", *SMALL, "--out", "Köln")[0] == 0
    ascii_alone.flush()
    assert b"Run folder: K\\xf6ln" in ascii_alone.buffer.getvalue()  # type: ignore[attr-defined]
    assert Path("Köln/results.json").exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_with_other_settings(preset: str) -> None:
    words = cli._words("Preset", PRESETS)
    assert cli._config(words(preset), None, {}) == PRESETS[preset]
    assert cli._config(words(preset), None, {"seed": 7, "hidden": "none"}).hidden == ()


def test_without_any_setting_the_default_preset_is_trained() -> None:
    assert cli._config(None, None, {}) == PRESETS["three-layer-bn"]
    assert cli._config(None, None, {"seed": 7, "synthetic": True}) == PRESETS["three-layer-bn"].with_settings(
        seed=7, synthetic=True
    )
    assert cli._config(None, None, {"hidden": "50"}) == Config(hidden=(50,))


def test_data(shell: Shell) -> None:
    code, out, _ = shell("data", "--synthetic", "--grid", "grid.png", "--count", "20")
    assert code == 0
    assert "synthetic, seed 0: complete and readable" in out
    assert "automobile" in out
    assert Path("grid.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "options", [(), ("--hidden", "20,10", "--batch-norm", "--dropout", "0.5"), ("--preset", "sigmoid")]
)
def test_graph(shell: Shell, options: tuple[str, ...]) -> None:
    code, out, _ = shell("graph", *options, "--out", "network.dot")
    assert code == 0
    assert "wrote network.dot" in out
    assert "linear" in Path("network.dot").read_text()


def test_graph_without_dot(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    code, out, err = shell("graph", "--hidden", "8", "--out", "network.svg")
    assert code == 0
    assert "wrote network.dot" in out
    assert "dot" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--lr", "-1"), "lr must be at least 0"),
        (("train", "--hidden", "50;50"), "--hidden takes widths as 50,50"),
        (("train", "--init", "big"), "init must be he, xavier or a standard deviation"),
        (("train", *SMALL, "--split", "half"), "no split is called 'half'"),
        (("train", *SMALL, "--schedule", "triangular"), "does not use lr"),
        (("train", *SMALL, "--out", "."), "already there"),
        (("train", "--data", "nowhere"), "nowhere"),
        (("train", *SMALL, "--lr", "1e30", "--out", "run"), "the cost of step 2 is"),
        (("evaluate", "nowhere"), "does not exist. Give the folder of a run"),
        (("data", "--data", "nowhere"), "nowhere"),
        (("graph", "--hidden", "8", "--out", "network.xyz"), "no picture format"),
        (("train", *SMALL, "--out", "file/run"), "'file"),
        (("train", *SMALL, "--hidden", "999999999999"), "Unable to allocate"),
        (("train", "--data", ""), "no file or folder with an empty name"),
        (("train", "--config", "file"), "file: the configuration is not JSON"),
        (("train", "--config", "image"), "image: the configuration is not JSON"),
        (("data", "--synthetic", "--grid", "nowhere/grid.png"), "nowhere/grid.png"),
        (("data", "--synthetic", "--grid", "grid.xyz"), "grid.xyz: Format 'xyz' is not supported"),
        (("check", "--synthetic", "--split", "all-200", "--images", "500"), "a subset of 500 images"),
        (("search", "--range-test", "--vary", "lr=log:1e-3:1"), "leave --vary out"),
        (("search", *SMALL), "as --vary lam="),
        (("search", *SMALL, "--vary", "lam=0", "--vary", "lam=1"), "--vary names a setting twice"),
        (("train", "--preset", "sigmoid", "--config", "file"), "--preset and --config both say where to start from"),
        (("reproduce", "a5"), "nothing is called 'a5'"),
    ],
)
def test_an_error_is_one_message_and_exit_code_1(shell: Shell, arguments: tuple[str, ...], message: str) -> None:
    Path("file").write_text("")
    Path("image").write_bytes(b"\x89PNG\xff")
    code, _, err = shell(*arguments)
    assert code == 1
    assert message in err
    assert "error: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [("train", "--no-such-option"), ("train", "--activation", "rely"), ("train", "--epochs", "many"), ("nonsense",),
     ("train", "--preset", "ten-layer"), ("train", "--config", "nowhere.json"), ("evaluate",)],
)  # fmt: skip
def test_a_usage_error_is_exit_code_2(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell(*arguments)[0] == 2


COMMANDS = ["train", "data", "evaluate", "graph", "bench", "reproduce", "check", "search"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(shell: Shell, command: str) -> None:
    code, out, _ = shell(command, "--help")
    assert code == 0
    assert f"Example: tinygrad-cifar {command}" in out


def test_train_and_graph_share_their_options(shell: Shell) -> None:
    options = {command: set(re.findall(r"--[a-z0-9-]+", shell(command, "--help")[1])) for command in ("train", "graph")}
    assert {"--hidden", "--activation", "--batch-norm", "--dropout", "--init", "--dtype", "--preset"} <= (
        options["train"] & options["graph"]
    )
    assert {f"--{name.replace('_', '-')}" for name in Config.__dataclass_fields__} <= options["train"]


def test_bench_times_the_step_that_the_options_describe(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygrad_cifar.train.bench.ROUNDS", 1)
    monkeypatch.delenv("OPENBLAS_L2_SIZE", raising=False)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    network = ("--hidden", "8,7", "--batch-norm", "--dropout", "0.1", "--dtype", "float64")
    code, out, _ = shell("bench", *network, "--optimizer", "adam", "--lam", "0.01", "--batch-size", "20", "--explain")
    assert code == 0
    title, _, products, *steps = out.splitlines()
    assert title == "3072-8-7-10-bn, batch 20, adam, float64"
    assert re.fullmatch(r"matrix products +[\d,]+ +[\d,]+ +100 %", products)
    for name, line in zip(("eager", "compiled"), steps, strict=False):
        assert re.fullmatch(rf"{name} +[\d,]+ +[\d,]+ +\d+ %", line)
    assert re.fullmatch(r"recorded and planned in [\d,]+ ms, as long as \d+ eager steps", steps[2])
    assert steps[3].startswith("OPENBLAS_CORETYPE=Haswell keeps NumPy's products from this processor's own kernels")
    assert "OPENBLAS_L2_SIZE" not in out
    assert "matmul" in out.split("recording 1:")[1]


def test_help_imports_nothing_heavy() -> None:
    program = """
import sys
from tinygrad_cifar.cli import main
sys.argv = ["tinygrad-cifar", "train", "--help"]
try:
    main()
except SystemExit:
    print("loaded:", sorted({"matplotlib", "graphviz", "safetensors", "pooch", "optuna", "torch"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "loaded: []"


def test_pictures_need_no_backend_of_a_notebook(tmp_path: Path) -> None:
    """Jupyter's kernel hands MPLBACKEND to the commands that it runs, and matplotlib refuses what is not installed."""
    command = [sys.executable, "-c", PROGRAM, "data", "--synthetic", "--grid", "grid.png"]
    subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT | {"MPLBACKEND": "absent"}, check=True)
    assert (tmp_path / "grid.png").exists()


def test_ctrl_c_ends_with_130_and_a_whole_folder(tmp_path: Path) -> None:
    """A real process and a real signal, sent once the first epoch has been reported."""
    arguments = ["train", *SMALL, "--epochs", "100000", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    assert "interrupted; what was reached is in run" in err
    assert "test" in out
    assert "INTERRUPTED" in (tmp_path / "run" / "summary.txt").read_text()
    load_run(tmp_path / "run")


def test_the_package_runs_as_the_command_does() -> None:
    command = [sys.executable, "-m", "tinygrad_cifar", "train", "--epochs", "0"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert run.returncode == 1
    assert "epochs" in run.stderr
    assert "Traceback" not in run.stderr
