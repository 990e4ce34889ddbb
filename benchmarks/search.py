"""Trials per minute of a search with one process and with two: ``python -m benchmarks.search``.

Turn about, three times each, on a new storage every time; what counts is the ratio, and that nothing else is running.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks import harness
from tinygrad_cifar.search import Range, search
from tinygrad_cifar.train import Config

EXAMPLES = """\
  python -m benchmarks.search              six searches of 24 trials
  python -m benchmarks.search --trials 4   a first look
"""
CONFIG = Config(hidden=(50,), epochs=4, lr=0.01)
ROUNDS = 3


def trials_per_minute(jobs: int, trials: int) -> float:
    """Of a whole search, the start of its processes and the loading of the images included."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        search({"lr": Range(1e-3, 1e-1)}, CONFIG, trials, storage=Path(folder, "search.db"), jobs=jobs)
        return 60 * trials / (time.perf_counter() - begin)


def main() -> None:
    parser = harness.described(__doc__, EXAMPLES)
    parser.add_argument("--trials", type=harness.positive, default=24, help="of a search (default 24)")
    trials = parser.parse_args().trials
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for jobs, measured in rates.items():
            measured.append(trials_per_minute(jobs, trials))
            print(f"{jobs} processes: {measured[-1]:.1f} trials a minute", flush=True)
    print(f"two processes do {median(rates[2]) / median(rates[1]):.2f} times as many trials as one")


if __name__ == "__main__":
    harness.run(main)
