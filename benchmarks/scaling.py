"""How a training step grows with depth, width and batch: ``python -m benchmarks.scaling``.

One of the three is swept, the other two stay: 3 layers of 50 units, batches of 100. Width and batch have batch norm.
Depth has none: batch norm before ReLU multiplies gradients, and so rounding errors, by about 1.2 a layer, and 200
layers end in NaN in every framework. Losses are compared with the step by hand as in ``benchmarks.step``, but in
float64, since 50 layers are enough for float32 to round a ReLU open in one program and shut in another.
"""

import sys
from pathlib import Path

from benchmarks import harness
from benchmarks.networks import Network
from benchmarks.step import measure

EXAMPLES = """\
  python -m benchmarks.scaling                                     all three sweeps
  python -m benchmarks.scaling --quick --sweeps depth              a first look at one
  python -m benchmarks.scaling --json scaling.json --plot scaling.svg
"""

PROGRAMS = ("limit", "torch_eager", "tinygrad_cifar_eager", "tinygrad_cifar_compile")
RATIOS = (
    ("tinygrad_cifar_eager", "torch_eager"),
    ("tinygrad_cifar_compile", "torch_eager"),
    ("tinygrad_cifar_compile", "limit"),
)

SWEEPS = {
    "depth": {n: Network((3072, *[50] * (n - 1), 10)) for n in (2, 3, 5, 10, 20, 50, 100, 200)},
    "width": {n: Network((3072, n, n, 10), batch_norm=True) for n in (16, 50, 128, 256, 512, 1024, 2048)},
    "batch": {n: Network((3072, 50, 50, 10), batch=n, batch_norm=True) for n in (16, 32, 100, 256, 1024, 4096)},
}
TITLES = {
    "depth": "Depth: linear layers of 50 units, ReLU, batch 100",
    "width": "Width: 3072-width-width-10 with batch norm, batch 100",
    "batch": "Batch: 3072-50-50-10 with batch norm",
}


def summary(record: dict) -> str:
    """The record of a run as Markdown: a table a sweep, microseconds and ratios, and where it was measured."""
    header = [*PROGRAMS, *(f"{name} / {base}" for name, base in RATIOS)]
    parts = []
    for sweep, points in record["seconds"].items():
        rows = [[value, *row(harness.medians(times))] for value, times in points.items()]
        parts.append(f"**{TITLES[sweep]}** (µs a step)\n\n" + harness.markdown([sweep, *header], rows))
    skipped = [f"skipped {name}: {reason}" for name, reason in record["skipped"].items()]
    return "\n\n".join([*parts, *skipped, f"float32; {harness.describe(record['environment'])}"])


def row(of: dict[str, float]) -> list[str]:
    times = [f"{of[name] * 1e6:,.0f}" if name in of else "–" for name in PROGRAMS]
    return times + [f"{of[name] / of[base]:.2f}" if {name, base} <= set(of) else "–" for name, base in RATIOS]


def plot(record: dict, path: Path) -> None:
    """A panel a sweep, both axes logarithmic."""
    from tinygrad_cifar.viz.figure import Picture, plain

    picture = Picture(12, 4.2)
    panels = picture.subplots(1, len(record["seconds"]), sharey=True, squeeze=False)[0]
    for axes, (sweep, points) in zip(panels, record["seconds"].items(), strict=True):
        for name in PROGRAMS:
            known = {int(value): harness.medians(times)[name] for value, times in points.items() if name in times}
            micros = [seconds * 1e6 for seconds in known.values()]
            style = "--" if name == "limit" else "o-"
            axes.plot(list(known), micros, style, label=name, color=harness.COLOURS[name], markersize=4)
        axes.set(xscale="log", yscale="log", xlabel=sweep, xticks=[int(value) for value in points])
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:g}")
        plain(axes)
        axes.tick_params(axis="x", labelsize=9)
    panels[0].set_ylabel("µs a step")
    picture.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    harness.save(picture, path)


def main() -> None:
    parser = harness.parser(__doc__.splitlines()[0], EXAMPLES)
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="which (default all)")
    parser.add_argument("--plot", type=harness.new_file, metavar="FILE", help="also draw the sweeps")
    arguments = parser.parse_args()
    environment = harness.environment()
    results: dict[str, dict[str, dict]] = {sweep: {} for sweep in arguments.sweeps}
    all_skipped = {}
    for sweep in arguments.sweeps:
        for value, network in SWEEPS[sweep].items():
            print(f"{sweep} {value} ...", file=sys.stderr, flush=True)
            times, skipped = measure(network, PROGRAMS, harness.effort(arguments), check_dtype="float64")
            results[sweep][str(value)] = times
            all_skipped |= {f"{name} at {sweep} {value}": reason for name, reason in skipped.items()}
    record = {"environment": environment, "seconds": results, "skipped": all_skipped}
    harness.deliver(arguments, record, summary(record))
    if arguments.plot:
        plot(record, arguments.plot)


if __name__ == "__main__":
    harness.run(main)
