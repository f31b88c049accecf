"""Threads and sections of code that Ctrl-C does not end too early."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How long a thread may take to begin, where Ctrl-C hit while it was started and it is not known whether it was.
_BEGIN_SECONDS = 1.0


class Stage:
    """Runs a function in a thread.

    Waiting for it is waiting for an event of its own: until Python 3.12, Ctrl-C inside ``Thread.join`` marks a thread
    as ended that still runs, so that what it uses would be given back under it.

    Args:
        work: the function; what it raises is its own affair.
        name: of the thread.
        daemon: whether Python's end does not wait for it, as for one that may hang in a library.
    """

    def __init__(self, work: Callable[[], None], name: str, *, daemon: bool = False) -> None:
        self._work = work
        self._began, self._ended = threading.Event(), threading.Event()
        self._started = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=daemon)

    def _run(self) -> None:
        self._began.set()
        try:
            self._work()
        finally:
            self._ended.set()

    def start(self) -> None:
        """Begin.

        Raises:
            KeyboardInterrupt: at Ctrl-C meanwhile; it may run all the same, and `wait` knows.
        """
        try:
            self._thread.start()
            self._started = True
        except KeyboardInterrupt:
            self._started = self._began.wait(_BEGIN_SECONDS)
            raise

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until it has ended; True where it has, or was never started.

        Raises:
            KeyboardInterrupt: at Ctrl-C meanwhile; it still runs, and can be waited for again.
        """
        if not self._started:
            return True
        ended = self._ended.wait(timeout_seconds)
        if ended:
            self._thread.join()  # it does nothing any more
        return ended


@contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM while a file is completed: ending the process then would lose all of the file.

    Python lets only the main thread do so; in others this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
