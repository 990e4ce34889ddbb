"""The benchmarks as commands: help, mistakes, Ctrl-C, and what is absent."""

import functools
import importlib
import json
import math
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from benchmarks import harness, recipe, step
from tinygrad_cifar.data.batches import BLAS_KERNELS, BLAS_THREADS

COMMANDS = [
    info.name
    for info in pkgutil.iter_modules(benchmarks.__path__)
    if hasattr(importlib.import_module(f"benchmarks.{info.name}"), "main")
]


def call(monkeypatch: pytest.MonkeyPatch, module: str, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", [module, *options])
    importlib.import_module(f"benchmarks.{module}").main()


@pytest.mark.parametrize("module", COMMANDS)
def test_help_has_examples_and_the_overview_names_it(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        call(monkeypatch, module, "--help")
    _, examples = capsys.readouterr().out.split("\nexamples:\n")
    assert f"  python -m benchmarks.{module}" in examples
    assert f"``python -m benchmarks.{module}``" in (benchmarks.__doc__ or "")


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["step", "--batch", "0"], "argument --batch: 0 is less than 1"),
        (["epoch", "--rounds", "0"], "argument --rounds: 0 is less than 1"),
        (["recipe", "--epochs", "-1"], "argument --epochs: -1 is less than 1"),
        (["search", "--trials", "0"], "argument --trials: 0 is less than 1"),
        (["step", "--programs", "torch_eager", "--plot", "x.svg"], "--plot draws ratios to the limit"),
        (["scaling", "--json", "nowhere/x.json"], "argument --json: there is no folder nowhere"),
        (["gradcheck", "--json", "nowhere/x.json"], "argument --json: there is no folder nowhere"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(
    command: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "environment", lambda: pytest.fail("measures"))
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, *command)
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("module", [name for name in COMMANDS if name != "report"])
def test_ctrl_c_ends_in_one_line(module: str) -> None:
    program = f"""if True:
        import runpy, sys
        from benchmarks import harness
        def pressed(*_, **__): raise KeyboardInterrupt
        sys.argv = ["{module}"]
        import argparse; argparse.ArgumentParser.parse_args = pressed
        runpy.run_module("benchmarks.{module}", run_name="__main__")"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=harness.ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, "interrupted\n")


def test_a_training_without_its_peer_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fresh(program: str) -> str:
        if "torch" in program:
            lines = "Traceback:\n  File x\nModuleNotFoundError: No module named 'torch'\n"
            raise subprocess.CalledProcessError(1, ["python"], stderr=lines)
        return "2.5\n"

    monkeypatch.setattr(harness, "fresh", fresh)
    file = tmp_path / "recipe.json"
    call(monkeypatch, "recipe", "--quick", "--json", str(file))
    out = capsys.readouterr().out
    assert "| tinygrad_cifar | 2.50 | – | 2.50, 2.50 |" in out
    assert "skipped torch_eager: ModuleNotFoundError: No module named 'torch'" in out
    assert recipe.summary(json.loads(file.read_text())) in out


def test_the_fastest_peer_is_found_for_every_network() -> None:
    times = {
        "limit": [1e-4],
        "numpy_hand": [1e-5],
        "torch_eager": [4e-4],
        "mygrad": [2e-4],
        "tinygrad_cifar_eager": [1e-4],
    }
    tables = step.tables({"net": times, "other": {"limit": [1e-4], "torch_eager": [4e-4]}})
    _, fastest = tables.split("**over the fastest peer**")
    assert "| net | 0.50 | 0.05 | 2.00 | 1.00 | 0.50 |" in fastest
    assert "| other | 0.25 | – | 1.00 | – | – |" in fastest
    assert "fastest" not in step.tables({"net": {"limit": [1e-4]}})


def test_variables_that_change_what_is_measured_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*BLAS_THREADS, *BLAS_KERNELS):
        monkeypatch.delenv(name, raising=False)
    quiet = harness.environment() | {"load": 0.0}
    assert "THREADS" not in harness.describe(quiet)
    assert "not to be quoted" not in harness.describe(quiet)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    told = harness.describe(harness.environment() | {"load": 0.0})
    assert " cores; OMP_NUM_THREADS=1; OPENBLAS_CORETYPE=Haswell; " in told
    assert "OPENBLAS_CORETYPE slowed NumPy down" in told
    assert "not to be quoted" in told


def test_the_kernels_of_numpys_blas_are_told() -> None:
    pytest.importorskip("threadpoolctl", reason="needs threadpoolctl: pip install 'tinygrad-cifar[peers]'")
    assert re.search(r"\d, \w+ kernels", harness.blas())


class Fixed:
    """A worker, or a gauge, that says what it is told to."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    def measure(self, seconds: float, blocks: int) -> object:
        return self.answers.pop(0)

    steady = functools.partialmethod(measure, 0, 0)

    def close(self) -> None:
        assert not self.answers


def test_what_a_slow_machine_measured_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "PAUSE", 0)
    gauge = Fixed(True, True, False, True, True)  # at first; after a; after b, which is measured three times
    monkeypatch.setattr(harness, "Gauge", lambda: gauge)
    workers: dict = {"a": Fixed([1.0, 9.0, 2.0]), "b": Fixed([50.0], [40.0], [3.0])}
    assert harness.interleave(workers, 1, 0, 0) == {"a": [2.0], "b": [3.0]}
    assert "2 measurements repeated" in capsys.readouterr().err


def test_a_machine_that_is_never_fast_is_measured_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "PAUSE", 0)
    monkeypatch.setattr(harness, "TRIES", 2)
    monkeypatch.setattr(harness, "Gauge", lambda: Fixed(False, False, False))
    assert harness.interleave({"a": Fixed([1.0], [2.0])}, 1, 0, 0) == {"a": [2.0]}  # type: ignore[dict-item]
    assert "1 measurements repeated" in capsys.readouterr().err


def test_the_gauge_knows_its_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PAUSE", 0)
    monkeypatch.setattr(harness.Gauge, "best", math.inf)
    times = [[4.0], [2.0], [1.0], [1.0], [1.0], [1.1], [1.5], [0.5], [1.0]]
    monkeypatch.setattr(harness, "Worker", lambda target, **settings: Fixed(*times))
    gauge = harness.Gauge()
    assert [gauge.steady() for _ in range(4)] == [True, False, True, False]
