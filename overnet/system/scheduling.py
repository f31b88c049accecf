"""The scheduling of the threads of this process."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def scheduling_kept() -> Iterator[None]:
    """Take back real-time scheduling that a library gives threads of this process while the block runs.

    As root, SVT-AV1 makes the thread that opens it, and its own threads, real-time ones of the highest priority. Other
    processes wait for those, and threads and processes that are started later inherit the priority.
    """
    if sys.platform != "linux":
        yield
        return
    policy, parameters, before = os.SCHED_OTHER, os.sched_param(0), _real_time_threads()
    with suppress(OSError):  # musl does not tell
        policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in _real_time_threads() - before:
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, policy, parameters)


def _real_time_threads() -> set[int]:
    """Return the system's numbers of the threads that wait for no others; none where it does not tell."""
    found = set()
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended
                if os.sched_getscheduler(int(task.name)) == os.SCHED_FIFO:
                    found.add(int(task.name))
    return found
