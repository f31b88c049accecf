"""Folders that appear complete or not at all."""

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from overnet.errors import OutputError, file_errors, printable
from overnet.files.atomic import exists_already, link_target, sync_folder

if sys.platform != "win32":
    import fcntl

_TEMPORARY = ".overnet-folder-"


@contextmanager
def whole_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; it is renamed to `path` on success and removed on an error.

    It is locked as long as the process lives. So one that a killed process has left behind is known, and the next call
    for a folder beside it removes it.

    Args:
        path: the folder to create. A link is followed.
        overwrite: whether an existing folder may be replaced, with everything in it.

    Raises:
        OutputError: the folder exists and may not be replaced, the path is a file, or the operating system refuses.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(f"{printable(path)} is not a folder")
    target = link_target(path, overwrite=overwrite)
    parent = target.absolute().parent
    lock = -1
    with file_errors(OutputError, path, " cannot be written"):
        _remove_left_behind(parent)
        folder = parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        folder.mkdir()
        if sys.platform != "win32":  # which opens no folders
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # some network drives have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
        with file_errors(OutputError, path, " cannot be written"):
            for inner in folder.rglob("*"):
                if inner.is_dir():
                    sync_folder(inner)
                else:
                    with inner.open("rb+") as file:
                        os.fsync(file.fileno())
            _move_into_place(folder, target, path, overwrite=overwrite)
            sync_folder(parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def _move_into_place(folder: Path, target: Path, path: Path, *, overwrite: bool) -> None:
    """Rename a folder to its target; an older one is removed after that."""
    if not os.path.lexists(target):
        folder.rename(target)
        return
    if not overwrite:
        raise exists_already(path)
    older = folder.with_name(f"{folder.name}-older")
    target.rename(older)
    try:
        folder.rename(target)
    except BaseException:
        older.rename(target)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _remove_left_behind(parent: Path) -> None:
    """Remove the temporary folders in a folder that no process writes any more."""
    if sys.platform == "win32":
        return
    for left in parent.iterdir():
        # An older folder keeps its name: a process that was killed between two renames may have left nothing else.
        if re.fullmatch(rf"{re.escape(_TEMPORARY)}[0-9a-f]{{16}}", left.name):
            with suppress(OSError):
                descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
                finally:
                    os.close(descriptor)
