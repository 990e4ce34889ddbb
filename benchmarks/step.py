"""One training step of each network in each program: ``python -m benchmarks.step``.

What a step is, the same for all, is said in ``benchmarks/programs/__init__.py``. Before a program is timed, the
losses of its first steps are compared with those of the step written by hand; one that computes something else is
skipped.
"""

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks import harness
from benchmarks.networks import NETWORKS, Network, batches
from benchmarks.programs import PROGRAMS, SkipProgramError, load, losses

EXAMPLES = """\
  python -m benchmarks.step                                          all networks, all programs
  python -m benchmarks.step --quick --networks 3-layer-bn            a first look at one
  python -m benchmarks.step --programs limit,torch_eager,tinygrad_cifar_eager --batch 256
  python -m benchmarks.step --dtype float64 --json step.json --plot step.svg
"""

PEERS = {name for name in PROGRAMS if name not in ("limit", "numpy_hand") and not name.startswith("tinygrad_cifar")}
BASES: dict[str, set[str]] = {
    "µs a step": set(),
    "over the limit": {"limit"},
    "over torch_eager": {"torch_eager"},
    "over the fastest peer": PEERS,
}


def timed_program(name: str, network: dict, check_dtype: str | None = None):
    """In the worker: the program, checked against the step written by hand, as ``run(n)``."""
    description = Network(**network)
    if name != "limit":
        checked = dataclasses.replace(description, dtype=check_dtype or description.dtype)
        check(losses(name, checked), losses("numpy_hand", checked), checked.dtype)
    program = load(name, description)
    ready = itertools.cycle([program.prepare(x, labels) for x, labels in batches(description)])

    def run(count: int) -> None:
        for _ in range(count):
            loss = program.step(*next(ready))
        program.wait(loss)

    run(3)  # what is compiled or recorded by the first calls would be taken for the time of a step
    return run


def check(got: list[float], expected: list[float], dtype: str) -> None:
    tolerance = {"float32": 1e-4, "float64": 1e-9}[dtype]
    if any(abs(a - b) > tolerance * abs(b) for a, b in zip(got, expected, strict=True)):
        raise SkipProgramError(f"computes something else: losses {got}, by hand {expected}")


def measure(network: Network, programs: Iterable[str], effort: dict, **settings: str) -> tuple[dict, dict]:
    """({program: seconds of every round}, {program: why it was skipped}) for one network."""
    settings |= {"network": dataclasses.asdict(network)}
    workers = {name: harness.Worker("benchmarks.step:timed_program", name=name, **settings) for name in programs}
    skipped = {name: worker.skipped for name, worker in workers.items() if worker.skipped}
    times = harness.interleave({n: w for n, w in workers.items() if n not in skipped}, **effort)
    for worker in workers.values():
        worker.close()
    return times, skipped


def summary(record: dict) -> str:
    """The record of a run as Markdown: tables, what was skipped and why, and where it was measured."""
    skipped = [f"skipped {name}: {reason}" for name, reason in record["skipped"].items()]
    where = f"{record['dtype']}; {harness.describe(record['environment'])}"
    return "\n\n".join([tables(record["seconds"]), *skipped, where])


def tables(results: dict[str, dict[str, list[float]]]) -> str:
    """Medians in microseconds, then the ratios to the limit, to PyTorch eager and to whichever peer is the fastest."""
    medians = {network: harness.medians(times) for network, times in results.items()}
    programs = programs_of(results)
    parts = []
    for title, bases in BASES.items():
        if bases and not all(of.keys() & bases for of in medians.values()):
            continue
        rows = [[network, *(cell(of, name, bases) for name in programs)] for network, of in medians.items()]
        parts.append(f"**{title}**\n\n" + harness.markdown(["network, batch", *programs], rows))
    return "\n\n".join(parts)


def programs_of(results: dict[str, dict[str, list[float]]]) -> list[str]:
    """Those that ran on any network, in the order of ``PROGRAMS``."""
    return [name for name in PROGRAMS if any(name in of for of in results.values())]


def cell(medians: dict[str, float], name: str, bases: set[str]) -> str:
    if name not in medians:
        return "–"
    if not bases:
        return f"{medians[name] * 1e6:,.0f}"
    return f"{medians[name] / min(medians[base] for base in medians.keys() & bases):.2f}"


def plot(record: dict, path: Path) -> None:
    """Bars of time over the limit, a group a network."""
    from tinygrad_cifar.viz.figure import INK, Picture, plain

    medians = {network: harness.medians(times) for network, times in record["seconds"].items()}
    names = [name for name in programs_of(record["seconds"]) if name != "limit"]
    picture = Picture(12, 4.5)
    axes = picture.add_subplot()
    for i, name in enumerate(names):
        places = [g + (i - (len(names) - 1) / 2) * 0.8 / len(names) for g in range(len(medians))]
        heights = [of[name] / of["limit"] if name in of else math.nan for of in medians.values()]
        axes.bar(places, heights, 0.8 / len(names), label=name, color=harness.COLOURS[name])
    axes.axhline(1, color=INK, linewidth=1)
    labels = [network.replace(" ", "\n", 1) for network in medians]
    axes.set(xticks=range(len(medians)), xticklabels=labels, ylabel="time of a step / limit", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    plain(axes)
    axes.tick_params(axis="x", labelsize=9)
    picture.legend(loc="outside upper center", fontsize="small", ncols=len(names), frameon=False)
    harness.save(picture, path)


def main() -> None:
    parser = harness.parser(__doc__.splitlines()[0], EXAMPLES)
    parser.add_argument("--networks", type=names_from(NETWORKS), default=list(NETWORKS), help=", ".join(NETWORKS))
    parser.add_argument("--programs", type=names_from(PROGRAMS), default=list(PROGRAMS), help=", ".join(PROGRAMS))
    parser.add_argument("--batch", type=harness.positive, help="instead of the network's own")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--plot", type=harness.new_file, metavar="FILE", help="also draw ratios to the limit")
    arguments = parser.parse_args()
    if arguments.plot and "limit" not in arguments.programs:
        parser.error("--plot draws ratios to the limit: have limit among --programs")

    environment = harness.environment()
    results, all_skipped = {}, {}
    for key in arguments.networks:
        network = dataclasses.replace(NETWORKS[key], dtype=arguments.dtype)
        if arguments.batch:
            network = dataclasses.replace(network, batch=arguments.batch)
        print(f"{network} ...", file=sys.stderr, flush=True)
        results[str(network)], skipped = measure(network, arguments.programs, harness.effort(arguments))
        all_skipped |= {f"{name} on {network}": reason for name, reason in skipped.items()}
    record = {"environment": environment, "dtype": arguments.dtype, "seconds": results, "skipped": all_skipped}
    harness.deliver(arguments, record, summary(record))
    if arguments.plot:
        plot(record, arguments.plot)


def names_from(known):
    """An argparse type: a comma-separated list of known names."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    harness.run(main)
