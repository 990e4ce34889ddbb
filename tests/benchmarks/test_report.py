"""The page of benchmarks: written from what was measured, which is never measured twice; and its newer parts."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from benchmarks import epoch, harness, recipe, report, scaling
from benchmarks.networks import NETWORKS
from benchmarks.programs import SkipProgramError
from benchmarks.step import timed_program

ENVIRONMENT = harness.environment()
TIMES = {"limit": [1e-4, 2e-4, 3e-4], "torch_eager": [8e-4], "tinygrad_cifar_eager": [4e-4]}
STEP = {"environment": ENVIRONMENT, "dtype": "float32", "seconds": {"net, 100": TIMES}, "skipped": {"x": "absent"}}
EPOCHS = {"torch_eager loop": [2.0]} | {name: [1.0] for name in epoch.OURS}
RECORDS = {
    **dict.fromkeys(("step", "batch-32", "batch-256", "float64"), STEP),
    "scaling": {
        "environment": ENVIRONMENT,
        "seconds": {"depth": {"2": TIMES, "9": TIMES}, "width": {"16": TIMES}},
        "skipped": {"tinygrad_cifar_compile at depth 2": "SkipProgramError: why"},
    },
    "epoch": {
        "environment": ENVIRONMENT, "network": "net", "images": 9000,
        "seconds": EPOCHS, "seconds_one_thread": EPOCHS, "skipped": {},
    },
    "recipe": {
        "environment": ENVIRONMENT, "images": 9000, "epochs": 2,
        "seconds": {"torch_eager": [3.0, 5.0, 4.0], "tinygrad_cifar": [2.0, 2.0, 2.5]},
    },
    "gradcheck": {
        "environment": ENVIRONMENT, "peers": ["HIPS check_grads"],
        "false_alarms": {
            "tried": {"tinygrad_cifar float64": 8, "HIPS check_grads float64": 4}, "entries": {"agree": 9},
            "alarms": {"HIPS check_grads float64": 1}, "called_wrong": [],
        },
        "misses": {"rule": dict.fromkeys(("tried", "tinygrad_cifar", "blamed", "named", "pattern"), 5)
                   | {"HIPS check_grads": 2}},
    },
}  # fmt: skip


def test_the_page_shows_every_part_with_the_command_that_measures_it(tmp_path: Path) -> None:
    page = report.write(RECORDS, tmp_path).read_text()
    assert "Not measured" not in page
    for part in report.PARTS:
        assert f"## {part.title}\n\n`python -m benchmarks.{part.command}`" in page
    pictures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert pictures == {f"benchmark-{part.name}.svg" for part in report.PARTS if part.plot}
    assert all(f"(figures/{name})" in page for name in pictures)
    assert "| 9 | 200 | 800 | 400 | – | 0.50 | – | – |" in page
    assert "skipped tinygrad_cifar_compile at depth 2: SkipProgramError: why" in page
    assert "| tinygrad_cifar loop | 1.000 | 0.50 |" in page
    assert "| tinygrad_cifar | 2.00 | 0.50 | 2.00, 2.00, 2.50 |" in page
    assert "| HIPS check_grads | 1 of 4 (25.0 %) |" in page
    assert page.count(ENVIRONMENT["cpu"]) == len(report.PARTS)


def test_what_is_missing_is_said_and_a_picture_is_the_same_again(tmp_path: Path) -> None:
    page = report.write({"step": STEP}, tmp_path)
    picture = tmp_path / "figures" / "benchmark-step.svg"
    before = picture.read_bytes()
    assert page.read_text().count("Not measured yet.") == len(report.PARTS) - 1
    report.write({"step": STEP}, tmp_path)
    assert picture.read_bytes() == before


def test_a_part_that_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "benchmarks-quick"
    kept.mkdir()
    for name, record in RECORDS.items():
        if name != "epoch":
            (kept / f"{name}.json").write_text(json.dumps(record))
    measured = []

    def measure(part: report.Part, file: Path, quick: bool) -> None:
        measured.append((part.name, quick))
        file.write_text(json.dumps(RECORDS[part.name]))

    monkeypatch.setattr(report, "RUNS", tmp_path)
    monkeypatch.setattr(report, "DOCS", tmp_path / "never")
    monkeypatch.setattr(report, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["report", "--quick"])
    report.main()
    report.main()
    assert measured == [("epoch", True)]
    assert (kept / "benchmarks.md").exists()
    assert not (tmp_path / "never").exists()
    (kept / "epoch.json").write_text(json.dumps({"environment": ENVIRONMENT}))
    with pytest.raises(SystemExit, match=r"epoch\.json has no '\w+': another version wrote it"):
        report.main()


@pytest.mark.parametrize("sweep", scaling.SWEEPS)
def test_a_sweep_moves_one_size_and_passes_by_the_same_network(sweep: str) -> None:
    networks = scaling.SWEEPS[sweep]
    sizes = {"depth": lambda n: len(n.sizes) - 1, "width": lambda n: n.sizes[1], "batch": lambda n: n.batch}
    assert {value: sizes[sweep](network) for value, network in networks.items()} == {n: n for n in networks}
    base = NETWORKS["3-layer-bn"] if sweep != "depth" else dataclasses.replace(NETWORKS["3-layer-bn"], batch_norm=False)
    assert base in networks.values()


@pytest.mark.parametrize("program", ["torch_eager", "tinygrad_cifar_eager", "tinygrad_cifar_compile"])
def test_two_hundred_layers_are_checked_to_rounding(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if program == "torch_eager":
        pytest.importorskip("torch")
    network = dataclasses.replace(scaling.SWEEPS["depth"][200], batch=8)
    timed_program(program, dataclasses.asdict(network), check_dtype="float64")(1)
    other = dataclasses.replace(network, optimizer="adam", dtype="float64")
    wrong = [1.0 + 1e-8] * 6
    monkeypatch.setattr("benchmarks.step.losses", lambda name, network: wrong if name == program else [1.0] * 6)
    with pytest.raises(SkipProgramError, match="computes something else"):
        timed_program(program, dataclasses.asdict(other))


@pytest.mark.parametrize("program", recipe.PROGRAMS)
def test_a_whole_training_runs_in_a_process_of_its_own(program: str) -> None:
    if program == "torch_eager":
        pytest.importorskip("torch")
    assert float(harness.fresh(f"from benchmarks.recipe import whole; print(whole({program!r}, 900, 1))")) > 0
