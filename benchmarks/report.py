"""The page docs/benchmarks.md, measured and written: ``python -m benchmarks.report``.

Each part is another benchmark, whose figures are kept in a file of their own; a part that is there is not measured
again, so the command may be stopped and goes on where it was. The page is written after every part.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import epoch, gradcheck, harness, recipe, scaling, step
from benchmarks.programs import PROGRAMS

EXAMPLES = """\
  python -m benchmarks.report                       what is missing in runs/benchmarks, then docs/benchmarks.md
  python -m benchmarks.report --quick               a look at all of it, page and figures in runs/benchmarks-quick
  rm runs/benchmarks/scaling.json && python -m benchmarks.report       one part again
"""

DOCS = harness.ROOT / "docs"
RUNS = harness.ROOT / "runs"


class Part(NamedTuple):
    """A section of the page."""

    name: str
    title: str
    command: str  # the module of benchmarks, and its options
    summary: Callable[[dict], str]
    plot: Callable[[dict, Path], None] | None = None


# The peers that are behind everywhere are measured once, with the networks' own batches.
NEAR = "--programs " + ",".join(name for name in PROGRAMS if name not in ("autograd", "tinygrad_jit"))
PARTS = (
    Part("step", "A training step", "step --rounds 5", step.summary, step.plot),
    Part("batch-32", "The same in batches of 32", f"step --rounds 3 --batch 32 {NEAR}", step.summary, step.plot),
    Part("batch-256", "In batches of 256", f"step --rounds 3 --batch 256 {NEAR}", step.summary, step.plot),
    Part("float64", "In float64", f"step --rounds 3 --dtype float64 {NEAR}", step.summary, step.plot),
    Part("scaling", "Depth, width and batch", "scaling --rounds 2", scaling.summary, scaling.plot),
    Part("epoch", "An epoch, data included", "epoch --rounds 5", epoch.summary),
    Part("recipe", "A whole training", "recipe --rounds 3", recipe.summary),
    Part("gradcheck", "Checkers of gradients", "gradcheck", gradcheck.summary, gradcheck.plot),
)
HEAD = """\
# Benchmarks

Written by `python -m benchmarks.report`, part by part by the command above each. Every program runs in a process of its
own, and rounds are interleaved; the tables have medians. What was measured while the limit of 3072-50-10 took a quarter
longer than at its best, because the machine was slow, is measured again. What a step is, the same for all, is said in
`benchmarks/programs/__init__.py`. The limit is the matrix products of a step and one plain update of the parameters,
into ready buffers, and nothing else. PyTorch's compiler and tinygrad are as they come; both can search for faster
kernels, for minutes. How ours are made fast, and where they fall short: [performance](performance.md)."""


def measure(part: Part, file: Path, quick: bool) -> None:
    """Run the part's benchmark, which prints its progress and its tables, and leaves ``file``."""
    command = [sys.executable, "-m", *f"benchmarks.{part.command}".split(), "--json", str(file)]
    subprocess.run(command + ["--quick"] * quick, cwd=harness.ROOT, check=True)


def write(records: dict[str, dict], folder: Path) -> Path:
    """The page benchmarks.md of ``folder``, and its pictures in figures/, from what was measured so far."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    sections = [HEAD]
    for part in PARTS:
        section = [f"## {part.title}", f"`python -m benchmarks.{part.command}`"]
        if part.name not in records:
            section.append("Not measured yet.")
        else:
            section.append(part.summary(records[part.name]))
            if part.plot:
                picture = f"figures/benchmark-{part.name}.svg"
                part.plot(records[part.name], folder / picture)
                section.append(f"![{part.title}]({picture})")
        sections += section
    page = folder / "benchmarks.md"
    page.write_text("\n\n".join(sections) + "\n")
    return page


def main() -> None:
    parser = harness.described(__doc__, EXAMPLES)
    parser.add_argument("--quick", action="store_true", help="two short rounds of everything; docs/ is left alone")
    quick = parser.parse_args().quick
    kept, docs = (RUNS / "benchmarks-quick",) * 2 if quick else (RUNS / "benchmarks", DOCS)
    kept.mkdir(parents=True, exist_ok=True)
    records: dict[str, dict] = {}
    for i, part in enumerate(PARTS, start=1):
        file, begin = kept / f"{part.name}.json", time.perf_counter()
        print(f"\n== {i} of {len(PARTS)}: {part.name}", file=sys.stderr, flush=True)
        if file.exists():
            print(f"{file} is there", file=sys.stderr)
        else:
            measure(part, file, quick)
            print(f"{(time.perf_counter() - begin) / 60:.1f} minutes", file=sys.stderr, flush=True)
        records[part.name] = json.loads(file.read_text())
        try:
            page = write(records, docs)
        except KeyError as error:
            sys.exit(f"{file} has no {error}: another version wrote it. Remove it, and the command measures it again.")
    print(f"wrote {page}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on with what was measured")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd)} failed; the same command goes on with what was measured")
