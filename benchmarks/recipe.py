"""A whole training, from the first step to the last validation: ``python -m benchmarks.recipe``.

The documents' 3-layer network with batch norm: 20 epochs of 45,000 images, triangular rate, penalty, loss and accuracy
of every step, validation on 5,000 images after each epoch; here through ``Trainer``, in PyTorch eager by the loop that
does the same (``benchmarks/programs/epoch_*.py``). Every run has a process of its own and its first step is cold:
recording and planning are in our time. What is not: starting Python, and getting the images ready, which in PyTorch
become one tensor of standardised floats, and here stay uint8, to be standardised on the way.
"""

import importlib
import subprocess
import sys
import time

from benchmarks import harness
from benchmarks.networks import NETWORKS

EXAMPLES = """\
  python -m benchmarks.recipe                        20 epochs, 3 rounds
  python -m benchmarks.recipe --epochs 2 --rounds 5  shorter
  python -m benchmarks.recipe --quick                a first look: 1 epoch of 9,000 images
"""

PROGRAMS = ("torch_eager", "tinygrad_cifar")
NETWORK = NETWORKS["3-layer-bn"]


def whole(program: str, images: int, epochs: int) -> float:
    """Seconds of one complete training, in the process that calls it."""
    train = importlib.import_module(f"benchmarks.programs.epoch_{program}").training(NETWORK, images)
    begin = time.perf_counter()
    train(epochs)
    return time.perf_counter() - begin


def summary(record: dict) -> str:
    """The record of a run as Markdown: medians, every round, the ratio, what was skipped, and where it was measured."""
    medians = harness.medians(record["seconds"])
    peer = medians.get("torch_eager")
    header = ["program", "s, median", "over torch_eager", "s, every round"]
    rows = [
        [name, f"{seconds:.2f}", f"{seconds / peer:.2f}" if peer else "–",
         ", ".join(f"{s:.2f}" for s in record["seconds"][name])]
        for name, seconds in medians.items()
    ]  # fmt: skip
    skipped = [f"skipped {name}: {reason}" for name, reason in record.get("skipped", {}).items()]
    where = f"{record['epochs']} epochs of {record['images']:,} images; {harness.describe(record['environment'])}"
    return "\n\n".join([harness.markdown(header, rows), *skipped, f"{NETWORK}; {where}"])


def main() -> None:
    parser = harness.parser(__doc__.splitlines()[0], EXAMPLES, rounds=3)
    parser.add_argument("--epochs", type=harness.positive, default=20, help="of the training (default 20)")
    arguments = parser.parse_args()
    environment = harness.environment()
    images, epochs, rounds = (9_000, 1, 2) if arguments.quick else (45_000, arguments.epochs, arguments.rounds)
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    skipped = {}
    for _ in range(rounds):
        for name in PROGRAMS:
            if name in skipped:
                continue
            call = f"from benchmarks.recipe import whole; print(whole({name!r}, {images}, {epochs}))"
            try:
                seconds[name].append(float(harness.fresh(call)))
                print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
            except subprocess.CalledProcessError as error:
                skipped[name] = error.stderr.strip().splitlines()[-1]
                del seconds[name]
    record = {"environment": environment, "images": images, "epochs": epochs, "seconds": seconds, "skipped": skipped}
    harness.deliver(arguments, record, summary(record))


if __name__ == "__main__":
    harness.run(main)
