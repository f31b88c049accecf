"""Threads and sections of code that Ctrl-C does not end too early."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from overnet.system.ending_signals import ending_signals

# Seconds to wait for a thread to begin, where Ctrl-C came during its start and it is unknown whether it started.
_BEGIN_SECONDS = 1.0


class Stage:
    """A function that runs in a thread.

    `wait` waits for an event, not in ``Thread.join``: until Python 3.12, Ctrl-C in there marks a thread as ended that
    still runs, so that resources would be freed while it uses them.

    Args:
        work: the function; it has to handle its own exceptions.
        name: of the thread.
        daemon: whether Python may exit while it runs, as is right for one that may hang in a library.
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
        """Start the thread.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed meanwhile; where the thread has started all the same, `wait` waits for
                it.
        """
        try:
            self._thread.start()
            self._started = True
        except KeyboardInterrupt:
            self._started = self._began.wait(_BEGIN_SECONDS)
            raise

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the function has ended; return True where it has, or was never started.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed meanwhile; the function still runs, and can be waited for again.
        """
        if not self._started:
            return True
        ended = self._ended.wait(timeout_seconds)
        if ended:
            self._thread.join()  # returns at once
        return ended


@contextmanager
def ignore_interrupts() -> Iterator[None]:
    """Ignore the signals that end a run while a file is completed: ending the process then would lose all of the file.

    Python lets only the main thread do so; in others this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
