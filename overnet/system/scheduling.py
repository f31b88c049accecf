"""The scheduling of the threads of this process."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def scheduling_kept() -> Iterator[None]:
    """Take back real-time scheduling that a library gives this process while the block runs.

    As root, SVT-AV1 makes the thread that opens it, and its own threads, real-time ones of the highest priority. Other
    processes wait for those, and threads and processes that are started later inherit the priority.
    """
    if sys.platform != "linux":
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in (int(task.name) for task in Path("/proc/self/task").iterdir()):
                with suppress(OSError):  # it has ended
                    if os.sched_getscheduler(thread) == os.SCHED_FIFO:
                        os.sched_setscheduler(thread, policy, parameters)
