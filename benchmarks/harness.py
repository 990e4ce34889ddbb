"""Runs programs fairly: each in a process of its own, rounds interleaved A B C A B C, medians.

``Worker`` is a process that holds one program ready and times blocks of it on request. What it runs is named
``module:function``; the function takes settings and returns ``run(n)``, which does the thing n times and waits
for its end.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.networks import NETWORKS
from tinygrad_cifar import tables
from tinygrad_cifar.data.batches import BLAS_KERNELS, BLAS_THREADS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "numba", "tinygrad_cifar", "torch", "jax", "autograd", "mygrad", "tinygrad")
PAUSE = 0.2  # seconds that let the previous program's threads fall asleep
TRIES = 5  # of a measurement, while the machine is slow
COLOURS = {
    "limit": "#222222", "numpy_hand": "#999999", "torch_eager": "#e69f00", "torch_compile": "#d55e00",
    "jax_jit": "#cc79a7", "autograd": "#f0e442", "mygrad": "#009e73", "tinygrad_jit": "#8c564b",
    "tinygrad_cifar_eager": "#56b4e9", "tinygrad_cifar_compile": "#0072b2",
}  # fmt: skip
"""Of the programs in every picture: Okabe & Ito's and a brown, ours the blues."""


class Worker:
    """One program in its own process, which starts while the caller goes on."""

    def __init__(self, target: str, **settings: object) -> None:
        command = [sys.executable, "-m", "benchmarks.harness", target, json.dumps(settings)]
        # A file, because a pipe that nobody reads fills up and blocks.
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True
        )

    @functools.cached_property
    def skipped(self) -> str | None:
        """Why the program cannot run, or None; known when it is ready, so the first look waits for that."""
        return self._read().get("skipped")

    def measure(self, seconds: float, blocks: int) -> list[float]:
        """Seconds per run in each of ``blocks`` blocks of about ``seconds``, after a warm-up of one block."""
        assert self.process.stdin is not None
        assert self.skipped is None
        self.process.stdin.write(json.dumps([seconds, blocks]) + "\n")
        self.process.stdin.flush()
        return self._read()["times"]

    def close(self) -> None:
        self.process.communicate()
        self.stderr.close()

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.stderr.seek(0)
            raise RuntimeError(f"{self.process.args} ended:\n{self.stderr.read()}")
        return json.loads(line)


def serve(target: str, settings: dict) -> None:
    """The other end of a Worker: answers on stdout, and keeps what the program prints off it."""
    answers, sys.stdout = sys.stdout, sys.stderr
    module, function = target.split(":")
    try:
        run: Callable[[int], object] = getattr(importlib.import_module(module), function)(**settings)
    except Exception as error:
        # Whatever stops one program (a peer that is absent or too old, no compiler) must not stop the others.
        print(json.dumps({"skipped": f"{type(error).__name__}: {error}".splitlines()[0]}), file=answers, flush=True)
        return
    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        seconds, blocks = json.loads(line)
        count = repeats(run, seconds)
        times = [timed(run, count) / count for _ in range(blocks)]
        print(json.dumps({"times": times}), file=answers, flush=True)


def timed(run: Callable[[int], object], count: int) -> float:
    start = time.perf_counter()
    run(count)
    return time.perf_counter() - start


def repeats(run: Callable[[int], object], seconds: float) -> int:
    """How many runs fill ``seconds``; finding out is the warm-up."""
    count = 1
    while (spent := timed(run, count)) < seconds / 2:
        count *= 2
    return max(1, round(count * seconds / spent))


class Gauge:
    """Tells whether the machine is at its full speed.

    Two virtual cores may share a real one for seconds or minutes, or none of its caches: then everything takes twice as
    long, or what one core has written is slow to reach the other. A program that was measured then cannot be compared
    with one that was not. So the same products and update, a network's limit, are timed again and again.
    """

    best = math.inf  # seconds that they took at best, in any gauge

    def __init__(self) -> None:
        network = dataclasses.asdict(NETWORKS["2-layer"])
        self.worker = Worker("benchmarks.step:timed_program", name="limit", network=network)
        for _ in range(5):
            self.steady()

    def steady(self) -> bool:
        """Whether they take at most a quarter longer than at their best so far."""
        time.sleep(PAUSE)
        now = min(self.worker.measure(0.02, 2))
        Gauge.best = min(Gauge.best, now)
        return now <= 1.25 * Gauge.best

    def close(self) -> None:
        self.worker.close()


def interleave(workers: dict[str, Worker], rounds: int, seconds: float, blocks: int) -> dict[str, list[float]]:
    """Per worker the median of every round, in seconds per run: {name: [round 1, round 2, ...]}.

    What was measured while the machine was not at its full speed is measured again, ``TRIES`` times at most.
    """
    found: dict[str, list[float]] = {name: [] for name in workers}
    with contextlib.closing(Gauge()) as gauge:
        after = gauge.steady()
        for i in range(1, rounds + 1):
            again = 0
            for name, worker in workers.items():
                for attempt in range(TRIES):
                    again += attempt > 0
                    time.sleep(PAUSE)
                    before, times, after = after, worker.measure(seconds, blocks), gauge.steady()
                    if before and after:
                        break
                found[name].append(statistics.median(times))
            told = f", {again} measurements repeated: the machine was slow" if again else ""
            print(f"round {i} of {rounds}{told}", file=sys.stderr, flush=True)
    return found


def fresh(program: str) -> str:
    """What a few lines of Python print in a process that starts for them."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(of) for name, of in times.items()}


def environment() -> dict:
    """The machine, the versions and the date, and how busy the machine was: a busy one measures nothing."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load": round(load(), 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
        "blas": blas(),
        "variables": {name: os.environ[name] for name in (*BLAS_THREADS, *BLAS_KERNELS) if name in os.environ},
    }


def blas() -> str:
    """What NumPy's matrix products run on, as "openblas 0.3.31, SkylakeX kernels"."""
    try:
        import threadpoolctl
    except ImportError:
        return "unknown"
    libraries = [lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]
    return "; ".join(
        f"{lib['internal_api']} {lib['version']}, {lib.get('architecture', 'unknown')} kernels" for lib in libraries
    )


def load() -> float:
    """How many cores other work keeps busy, over a second; no average of the past, which would count our own."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return os.getloadavg()[0]

    def jiffies() -> tuple[int, int]:
        counts = [int(count) for count in stat.read_text().splitlines()[0].split()[1:9]]
        return sum(counts), counts[3] + counts[4]  # all; idle and waiting for a disk

    total, idle = jiffies()
    time.sleep(1)
    total, idle = (after - before for after, before in zip(jiffies(), (total, idle), strict=True))
    return (os.cpu_count() or 1) * (1 - idle / total)


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def describe(env: dict) -> str:
    """The environment as one sentence for under a table."""
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items() if version != "absent")
    machine = [f"{env['cpu']}, {env['cores']} cores", *(f"{k}={v}" for k, v in env["variables"].items())]
    software = [env["system"], f"Python {env['python']}", f"NumPy's products by {env['blas']}", f"{versions}."]
    text = "; ".join([env["date"], *machine, *software])
    if env["load"] > 0.5:
        text += f" The machine was busy (load {env['load']} at the start): these figures are not to be quoted."
    if forced := [name for name in BLAS_KERNELS if name in env["variables"]]:
        text += (
            f" {' and '.join(forced)} slowed NumPy down, and no other framework: these figures are not to be quoted."
        )
    return text


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    return "\n".join(tables.markdown(header, rows, numbers=1))


def save(picture: Any, path: Path) -> None:
    """Write a picture; an SVG has the same bytes for the same figures, so that a commit shows what changed."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def positive(text: str) -> int:
    """An argparse type."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def new_file(text: str) -> Path:
    """An argparse type: that its folder is missing should not be found out when all is measured."""
    if not (path := Path(text)).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def described(description: str, examples: str) -> argparse.ArgumentParser:
    """A parser whose help ends with examples."""
    return argparse.ArgumentParser(
        description=description, epilog="examples:\n" + examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def parser(description: str, examples: str, rounds: int = 7) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    result = described(description, examples)
    result.add_argument("--rounds", type=positive, default=rounds, help="interleaved rounds (default %(default)s)")
    result.add_argument("--quick", action="store_true", help="two short rounds: a look, not a measurement")
    result.add_argument("--json", type=new_file, metavar="FILE", help="also write every figure there")
    return result


def effort(arguments: argparse.Namespace) -> dict:
    """What --rounds and --quick ask of ``interleave``."""
    if arguments.quick:
        return {"rounds": 2, "seconds": 0.05, "blocks": 3}
    return {"rounds": arguments.rounds, "seconds": 0.1, "blocks": 5}


def deliver(arguments: argparse.Namespace, record: dict, summary: str) -> None:
    """Print what was found, and write all of it where --json says."""
    print(summary)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def run(main: Callable[[], None]) -> None:
    """``main()``, which Ctrl-C ends without a traceback."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
