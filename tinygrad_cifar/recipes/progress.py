"""What is running and left: bars in a terminal, and a line per finished run there and elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tinygrad_cifar.recipes.store import Run, Task
from tinygrad_cifar.train.watchers import clock

Watch = Callable[[Task, Run | None], None]


@contextmanager
def progress(work: Mapping[Task, int], names: Mapping[Task, str]) -> Iterator[Watch]:
    """Yields a function to call with a run's Task when it begins, and again with the Run when it is finished.

    Args:
        work: the runs to come, and how much each is, in any unit; the time left is estimated from it.
        names: what to call them.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stdout, soft_wrap=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()
    bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    total = bars.add_task(f"{len(work)} runs to do", total=sum(work.values()))
    running = {}
    begin, done, worked = time.perf_counter(), 0, 0

    def watch(task: Task, run: Run | None) -> None:
        nonlocal done, worked
        if run is None:
            running[task] = bars.add_task(names[task], total=None)
            return
        done, worked = done + 1, worked + work[task]
        left = (time.perf_counter() - begin) * (sum(work.values()) / worked - 1)
        outcome = "diverged" if run.failed else f"test {100 * run.accuracy('test'):.2f} %"
        line = f"[{done}/{len(work)}]  {names[task]}  {outcome}  {run.results['seconds']:.0f} s  {clock(left)} left"
        console.print(line, highlight=False, markup=False)
        bars.remove_task(running.pop(task))
        bars.update(total, completed=worked, description=f"{len(work) - done} runs left, about {clock(left)}")

    with bars:
        yield watch
