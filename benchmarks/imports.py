"""What ``import tinygrad_cifar`` costs in a fresh process, and what it brings along.

``python -m benchmarks.imports``; the difference to ``import numpy`` is the project's own part.
"""

import statistics
import sys

from benchmarks import harness

EXAMPLES = "  python -m benchmarks.imports\n  python -m benchmarks.imports --rounds 21 --json imports.json\n"

# What the interpreter takes to start is not counted.
CLOCK = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
# Modules that Cython makes up have no file and do not count.
LOADED = """import sys; before = set(sys.modules); import tinygrad_cifar
print(*(name for name in set(sys.modules) - before if getattr(sys.modules[name], "__file__", None)))"""


def third_party() -> list[str]:
    """Top-level modules from outside the standard library and the project that the import loads."""
    top = {name.split(".")[0] for name in harness.fresh(LOADED).split()}
    return sorted(top - set(sys.stdlib_module_names) - {"tinygrad_cifar"})


def main() -> None:
    arguments = harness.parser(__doc__.splitlines()[0], EXAMPLES).parse_args()
    environment = harness.environment()
    times: dict[str, list[float]] = {"numpy": [], "tinygrad_cifar": []}
    for name in times:
        harness.fresh(CLOCK.format(name))  # files into the disk cache, byte code compiled
    for _ in range(2 if arguments.quick else arguments.rounds):
        for name, of in times.items():
            of.append(float(harness.fresh(CLOCK.format(name))))
    medians = {name: statistics.median(of) for name, of in times.items()}
    own = medians["tinygrad_cifar"] - medians["numpy"]
    rows = [[name, f"{seconds * 1e3:.0f}"] for name, seconds in {**medians, "the difference": own}.items()]
    table = harness.markdown(["import", "ms"], rows)
    loaded = f"third-party modules loaded: {', '.join(third_party())}"
    record = {"environment": environment, "seconds": times}
    harness.deliver(arguments, record, f"{table}\n\n{loaded}\n\n{harness.describe(environment)}")


if __name__ == "__main__":
    harness.run(main)
