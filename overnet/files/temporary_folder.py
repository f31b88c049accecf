"""Temporary folders that are removed also where their process was killed."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from overnet.files.atomic import FOLDER_SUFFIX, TemporaryFile, folder_of

LOCK = "lock"
# A folder without a locked file may be that of a process that has just begun.
_STARTING_SECONDS = 60.0


@contextmanager
def temporary_folder(parent: Path | None = None, *, mode: int = 0o700) -> Iterator[Path]:
    """Make a folder that is removed at the end, or by a later run where this process is killed; see `TemporaryFile`.

    Args:
        parent: where it is made; None for the system's place for temporary files.
        mode: its permissions, of which the umask takes some away; by default only this user can read it.

    Raises:
        OSError: it cannot be made.
    """
    with closing(TemporaryFile((parent or Path(tempfile.gettempdir())) / f"any{FOLDER_SUFFIX}")) as file:
        folder = folder_of(file.path)
        folder.mkdir(mode)
        yield folder


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
