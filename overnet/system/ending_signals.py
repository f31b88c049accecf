"""The signals that end a run as Ctrl-C does, and sections of code that they do not interrupt."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType


def ending_signals() -> list[signal.Signals]:
    """Return SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal), which Windows does not have.

    Signals that are ignored are left out: ``nohup`` starts a process so, and a shell's script with ``&``.
    """
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]


class _Noted:
    """The number of signals noted since the outermost `noted_signals` began, and whether they end the work there."""

    depth = 0
    count = 0
    ends_work = False


@contextmanager
def noted_signals(
    end_work: Callable[[], None] | None = None,
    *,
    again_raises: bool = False,
    raises_at_once: Callable[[], bool] = lambda: False,
) -> Iterator[Callable[[], bool]]:
    """Note the signals that end a run instead of raising KeyboardInterrupt in the block.

    An exception at any instruction of the main thread may leave a lock of Python's `threading` held for ever, if it
    comes between its acquisition and the ``with`` block. So code that shares locks with other threads has to be asked
    to end instead.

    Python lets only the main thread set handlers; in other threads no signal is noted.

    Args:
        end_work: called at each signal, in a thread of its own: wakes what waits, and makes it end. Until the outermost
            block ends, `raise_if_ended` then raises.
        again_raises: whether a second signal raises KeyboardInterrupt.
        raises_at_once: called at each signal, in the main thread; whether this one raises KeyboardInterrupt, since the
            block only waits for another process.

    Yields:
        A function that tells whether a signal has come, in this block or in one around it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    # A put is safe within a signal handler, unlike what else wakes a thread.
    arrived: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def note(number: int, frame: FrameType | None) -> None:
        _Noted.count += 1
        _Noted.ends_work |= end_work is not None
        arrived.put(True)
        if (again_raises and _Noted.count > 1) or raises_at_once():
            raise KeyboardInterrupt

    def watch() -> None:
        while arrived.get() and end_work is not None:
            end_work()

    watcher = threading.Thread(target=watch, name="overnet-signals", daemon=True)
    with ExitStack() as handlers:
        for number in ending_signals():
            handlers.callback(signal.signal, number, signal.signal(number, note))
        _Noted.depth += 1
        try:
            watcher.start()
            if _Noted.count:
                signal.raise_signal(signal.SIGINT)  # one came in the block around this one
            yield lambda: _Noted.count > 0
        finally:
            arrived.put(False)
            watcher.join()
            _Noted.depth -= 1
            if not _Noted.depth:
                _Noted.count, _Noted.ends_work = 0, False


def raise_if_ended() -> None:
    """Raise KeyboardInterrupt in the main thread where a signal ends the work, see `noted_signals`.

    For loops that take long, at points where nothing is left half done.
    """
    if _Noted.ends_work and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt
