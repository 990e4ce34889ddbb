"""Accuracies beside PyTorch's, from the same first weights and the same batches: ``python -m benchmarks.accuracy``.

Every setting is trained here and in PyTorch with the same seeds, on pixels standardised one by one. Stopped and started
again it goes on where it was.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks import harness
from tinygrad_cifar.recipes.recipe import SEED, Group, quickened
from tinygrad_cifar.recipes.reproduction import run_missing
from tinygrad_cifar.recipes.shows import spread
from tinygrad_cifar.recipes.store import Task, finished
from tinygrad_cifar.train import PRESETS, Config
from tinygrad_cifar.train.build import load_data

EXAMPLES = """\
  python -m benchmarks.accuracy --quick           every row in a minute or two: a look, not a measurement
  python -m benchmarks.accuracy                   two seeds
  python -m benchmarks.accuracy --rows 9 sigmoid  the rows whose name has a 9 or "sigmoid" in it
"""
LIMIT = 1.0  # points of accuracy

ONE, TWO = PRESETS["one-layer"], PRESETS["two-layer"]
THREE, THREE_BN = PRESETS["three-layer"], PRESETS["three-layer-bn"]
NINE, NINE_BN = PRESETS["nine-layer"], PRESETS["nine-layer-bn"]
SPREADS = {
    f"3 layers{', BN' * config.batch_norm}, σ={sigma:g}{', float64' * (dtype == 'float64')}": config.with_settings(
        init=sigma, dtype=dtype
    )
    for sigma, dtype in ((0.1, "float32"), (0.001, "float32"), (0.001, "float64"), (0.0001, "float32"))
    for config in (THREE, THREE_BN)
}
ROWS: dict[str, Config] = {
    "1 layer, λ=0, η=.001": ONE,
    "1 layer, λ=.1, η=.001": ONE.with_settings(lam=0.1),
    "1 layer, λ=1, η=.001": ONE.with_settings(lam=1.0),
    "1 layer, λ=0, η=.1": ONE.with_settings(lr=0.1),
    "2 layers, n_s=500, 1 cycle": TWO.with_settings(n_s=500, cycles=1),
    "2 layers, n_s=800, 3 cycles": TWO,
    "2 layers, λ=6.75e-4, 3 cycles": TWO.with_settings(lam=6.75e-4, n_s=980, split="all-1000"),
    "2 layers, momentum": PRESETS["two-layer-momentum"],
    "3 layers": THREE,
    "3 layers, BN": THREE_BN,
    "3 layers, BN, λ=.0041, 3 cycles": THREE_BN.with_settings(lam=0.0041, cycles=3),
    "9 layers": NINE,
    "9 layers, BN, λ=.0041, 3 cycles": NINE_BN,
    **SPREADS,
    "sigmoid, SGD": PRESETS["sigmoid"],
    "sigmoid, Adam": PRESETS["sigmoid-adam"],
}


def tasks(config: Config, seeds: int, in_pytorch: bool) -> list[Task]:
    """The trainings of one setting on one side."""
    return [Task((config.with_settings(seed=seed),), in_pytorch) for seed in range(SEED, SEED + seeds)]


def table(rows: Mapping[str, Config], seeds: int, store: Path) -> str:
    """Accuracies on the test images in per cent, of the runs that ``store`` has."""
    lines = []
    for name, config in rows.items():
        ours, theirs = (
            Group(run for task in tasks(config, seeds, in_pytorch) if (run := finished(store, task)))
            for in_pytorch in (False, True)
        )
        difference = ours.mean("test") - theirs.mean("test")
        agrees = "yes" if abs(difference) <= LIMIT else "no"
        lines.append(
            [name, *(spread(group.accuracies("test")) for group in (theirs, ours)), f"{difference:+.2f}", agrees]
        )
    return harness.markdown(["setting", "PyTorch", "tinygrad_cifar", "difference", f"within {LIMIT:g} point"], lines)


def main() -> None:
    parser = harness.described(__doc__.splitlines()[0], EXAMPLES)
    parser.add_argument("--rows", nargs="+", default=[""], metavar="TEXT", help="only rows whose name contains one")
    parser.add_argument("--seeds", type=int, default=2, help=f"how many, from {SEED} (default 2)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--quick", action="store_true", help="1,000 training images, a tenth of the epochs")
    parser.add_argument(
        "--store", type=Path, default=Path("runs", "reproduce", "runs"), metavar="FOLDER",
        help="of the finished runs (default: that of `tinygrad-cifar reproduce`, which has some of these)",
    )  # fmt: skip
    arguments = parser.parse_args()
    if load_data(Config()).is_synthetic:
        parser.error("accuracies are compared on CIFAR-10: set TINYGRAD_CIFAR_DATA to its folder.")
    rows = {name: config for name, config in ROWS.items() if any(text in name for text in arguments.rows)}
    if not rows:
        parser.error(f"no row has such a name; there are: {'; '.join(ROWS)}.")
    if arguments.quick:
        rows = {name: quickened(config) for name, config in rows.items()}
    names = {
        task: f"{name}  seed {task.config.seed}{', in PyTorch' * in_pytorch}"
        for name, config in rows.items()
        for in_pytorch in (False, True)
        for task in tasks(config, arguments.seeds, in_pytorch)
    }
    run_missing(names, arguments.store, arguments.jobs)
    print("\n" + table(rows, arguments.seeds, arguments.store))
    versions = harness.environment()["versions"]
    print(
        "\nTest images right, in per cent, of the final weights, mean ± std over the seeds; first weights and batches "
        f"are the same on both sides. Seeds: {arguments.seeds}. PyTorch {versions['torch']}, NumPy {versions['numpy']}."
    )
    if arguments.quick:
        print("QUICK VERSION, which says nothing about accuracies at full length.")


if __name__ == "__main__":
    harness.run(main)
