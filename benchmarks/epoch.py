"""A whole epoch, data included: ``python -m benchmarks.epoch``.

Here the images lie in memory as uint8 and are gathered, scaled and standardised on the way; in PyTorch they lie
ready as floats and are indexed by a permutation. ``steps`` has its batches ready, ``loop`` fetches them, ``training``
also has the schedule, the penalty, the figures of every step and the validation, as ``Trainer`` has. What the data
cost is what ``loop`` takes longer than ``steps``: measured eager and compiled, with BLAS's threads as they are and
with one, in turns.
"""

import dataclasses
import importlib
import os
import statistics

from benchmarks import harness
from benchmarks.networks import NETWORKS, Network
from tinygrad_cifar.data.batches import BLAS_THREADS

EXAMPLES = """\
  python -m benchmarks.epoch                       45,000 images through the 3-layer network
  python -m benchmarks.epoch --quick               a first look, with 9,000 images
  python -m benchmarks.epoch --network wide-bn --json epoch.json
"""

OURS = ("tinygrad_cifar steps", "tinygrad_cifar loop", "tinygrad_cifar compiled_steps", "tinygrad_cifar compiled_loop")
PROGRAMS = (*OURS, "torch_eager loop", "tinygrad_cifar training", "torch_eager training")


def program(name: str, network: dict, images: int):
    """In the worker: ``run(n)``, n epochs."""
    framework, kind = name.split()
    module = importlib.import_module(f"benchmarks.programs.epoch_{framework}")
    return getattr(module, kind)(Network(**network), images)


def measure(names: tuple[str, ...], network: Network, images: int, rounds: int) -> tuple[dict, dict]:
    """({program: seconds of every epoch}, {program: why it was skipped})."""
    settings = {"network": dataclasses.asdict(network), "images": images}
    workers = {name: harness.Worker("benchmarks.epoch:program", name=name, **settings) for name in names}
    skipped = {name: worker.skipped for name, worker in workers.items() if worker.skipped}
    live = {name: worker for name, worker in workers.items() if not worker.skipped}
    times = harness.interleave(live, rounds, seconds=0, blocks=1)
    for worker in workers.values():
        worker.close()
    return times, skipped


def rows(times: dict[str, list[float]]) -> list[list[str]]:
    medians = harness.medians(times)
    result = []
    for name, seconds in medians.items():
        peer = medians.get(f"torch_eager {name.split()[1].removeprefix('compiled_')}")
        result.append([name, f"{seconds:.3f}", f"{seconds / peer:.2f}" if peer else "–"])
    return result


def data_cost(times: dict[str, list[float]]) -> str:
    """What fetching the batches adds to the steps, the median over the rounds."""

    def added(kind: str) -> float:
        bare, loop = times[f"tinygrad_cifar {kind}steps"], times[f"tinygrad_cifar {kind}loop"]
        return statistics.median(after / before for before, after in zip(bare, loop, strict=True)) - 1

    return f"data cost {added(''):+.1%} over the bare eager steps, {added('compiled_'):+.1%} over the compiled ones"


def summary(record: dict) -> str:
    """The record of a run as Markdown: the table, what the data cost, and where it was measured."""
    table = harness.markdown(["program", "s an epoch", "over torch_eager"], rows(record["seconds"]))
    data = f"Threads as they are: {data_cost(record['seconds'])}."
    one_thread = f"One BLAS thread: {data_cost(record['seconds_one_thread'])}."
    skipped = [f"skipped {name}: {reason}" for name, reason in record["skipped"].items()]
    where = f"{record['network']}; {record['images']:,} images; {harness.describe(record['environment'])}"
    return "\n\n".join([table, f"{data} {one_thread}", *skipped, where])


def main() -> None:
    parser = harness.parser(__doc__.splitlines()[0], EXAMPLES)
    parser.add_argument("--network", choices=NETWORKS, default="3-layer-bn")
    arguments = parser.parse_args()
    environment = harness.environment()
    network, images = NETWORKS[arguments.network], 9_000 if arguments.quick else 45_000
    rounds = harness.effort(arguments)["rounds"]
    times, skipped = measure(PROGRAMS, network, images, rounds)
    os.environ |= dict.fromkeys(BLAS_THREADS, "1")  # for the workers that start now
    one_thread, _ = measure(OURS, network, images, rounds)
    record = {"environment": environment, "network": str(network), "images": images,
              "seconds": times, "seconds_one_thread": one_thread, "skipped": skipped}  # fmt: skip
    harness.deliver(arguments, record, summary(record))


if __name__ == "__main__":
    harness.run(main)
