"""Folders that appear complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from overnet.errors import OutputError, file_errors, printable
from overnet.files.atomic import exists_already, link_target, sync_folder
from overnet.files.temporary_folder import temporary_folder


@contextmanager
def whole_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder beside `path` to fill; it is renamed to `path` on success and removed on an error.

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
    with ExitStack() as removing:
        with file_errors(OutputError, path, " cannot be written"):
            folder = removing.enter_context(temporary_folder(parent, mode=0o777))
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


def _move_into_place(folder: Path, target: Path, path: Path, *, overwrite: bool) -> None:
    """Rename a folder to its target; an older one is removed after that."""
    if not os.path.lexists(target):
        folder.rename(target)
        return
    if not overwrite:
        raise exists_already(path)
    # No later run removes this one: a process that was killed between two renames may have left nothing else.
    older = folder.with_name(f"{folder.name}-older")
    target.rename(older)
    try:
        folder.rename(target)
    except BaseException:
        older.rename(target)
        raise
    shutil.rmtree(older, ignore_errors=True)
