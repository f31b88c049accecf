"""What the workers of pytest-xdist share: locks, and folders that one of them makes for all."""

import os
from contextlib import contextmanager, suppress

import pytest

with suppress(ImportError):  # on Windows
    # Once, as tests of file systems without locks replace it.
    from fcntl import LOCK_EX, LOCK_SH, flock


def common_folder(tmp_path_factory):
    """Return the temporary folder of this run of pytest, which all its workers have."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@contextmanager
def locked(path, *, exclusive=True):
    """Hold a lock while the block runs, with others where it is not exclusive; yield what releases it early."""
    with path.open("w") as lock:
        flock(lock, LOCK_EX if exclusive else LOCK_SH)
        yield lock.close


@contextmanager
def once_for_all_workers(tmp_path_factory, name):
    """Give a folder of all workers, and whether it is to be filled in the block; others wait until it is."""
    common = common_folder(tmp_path_factory)
    folder, done = common / name, common / f"{name}.done"
    with locked(common / f"{name}.lock"):
        if is_first := not done.exists():
            folder.mkdir(exist_ok=True)
        yield folder, is_first
        done.touch()


class TimingAlone:
    """A plugin of a worker, by which the call of a test with the marker `timing` runs while no other worker runs any.

    Its fixtures, which may take a minute, run beside others.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        """Make fixtures while nothing is measured."""
        with _beside_others(item):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        """Run a test beside others, or alone."""
        with _beside_others(item, alone=item.get_closest_marker("timing") is not None):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item):
        """Clean up while nothing is measured."""
        with _beside_others(item):
            return (yield)


@contextmanager
def _beside_others(item, *, alone=False):
    folder = common_folder(item.config._tmp_path_factory)
    with locked(folder / "queue.lock") as leave_queue, locked(folder / "run.lock", exclusive=alone):
        # Until here a test that waits to be alone keeps others from beginning.
        leave_queue()
        yield
