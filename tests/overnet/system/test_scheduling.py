"""Real-time scheduling that a library gives threads, taken back."""

import os
import sys
import threading

import pytest

from overnet.system.scheduling import scheduling_kept

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="others cannot be given real-time scheduling"
)


def in_thread(work):
    """Run in a thread of its own, whose scheduling ends with it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def take_real_time():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@pytest.mark.parametrize("name", ["SCHED_OTHER", "SCHED_BATCH"])
def test_threads_get_the_scheduling_of_before(name):
    policy = getattr(os, name)

    def work():
        os.sched_setscheduler(0, policy, os.sched_param(0))
        with scheduling_kept():
            take_real_time()
        return os.sched_getscheduler(0)

    assert in_thread(work) == policy


def test_what_was_real_time_before_stays():
    def work():
        take_real_time()
        with scheduling_kept():
            pass
        return os.sched_getscheduler(0)

    assert in_thread(work) == os.SCHED_FIFO


def test_an_error_in_the_block_is_raised_after_it():
    def work():
        with pytest.raises(ValueError, match="no encoder"), scheduling_kept():
            take_real_time()
            raise ValueError("no encoder")
        return os.sched_getscheduler(0)

    assert in_thread(work) == os.SCHED_OTHER


def test_a_system_that_does_not_tell_is_no_error(monkeypatch):
    """As musl, on which OverNet's encoders work as well."""

    def refused(*arguments):
        raise OSError(38, "Function not implemented")

    for name in ("sched_getscheduler", "sched_getparam", "sched_setscheduler"):
        monkeypatch.setattr(os, name, refused)
    with scheduling_kept():
        pass
