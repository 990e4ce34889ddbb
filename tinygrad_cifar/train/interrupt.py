"""Ctrl-C as a wish to come to an end, not as an end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def ctrl_c() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C only makes the function that is yielded return True; the second one is as ever."""
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    ours = before not in (None, signal.SIG_IGN) and threading.current_thread() is threading.main_thread()

    def first(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    if ours:
        signal.signal(signal.SIGINT, first)
    try:
        yield asked.is_set
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
