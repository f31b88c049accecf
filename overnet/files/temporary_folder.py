"""Temporary folders that are removed also where their process was killed."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = "lock"
# A folder without a locked file may be that of a process that has just begun.
_STARTING_SECONDS = 60.0


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that only this user can read, and remove it at the end; first those that others have left.

    Args:
        prefix: of its name; the same for all folders of one use.
        parent: where it is made; None for the system's place for temporary files.

    Raises:
        OSError: it cannot be made.
    """
    remove_left_folders(prefix, parent)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = FileLock(folder / LOCK)
    lock.acquire(blocking=False)
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_folders(prefix: str, parent: Path | None = None) -> None:
    """Remove the folders of processes that were killed: the file in them is no longer locked."""
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{prefix}*"):
        with suppress(OSError, Timeout):  # it is in use, or another process removes it
            found = folder.lstat()
            # What lies in another user's folder may be a link, and a lock opens it for writing.
            is_own = not folder.is_symlink() and (os.name != "posix" or found.st_uid == os.geteuid())
            if not is_own or found.st_mtime + _STARTING_SECONDS > time.time():
                continue
            with FileLock(folder / LOCK).acquire(blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
