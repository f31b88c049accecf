"""Temporary folders that are removed also where their process was killed."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from overnet.files.atomic import FOLDER_SUFFIX, TemporaryFile, folder_of


@contextmanager
def temporary_folder(parent: Path | None = None, *, mode: int = 0o700, file: Path | None = None) -> Iterator[Path]:
    """Make a folder that is removed at the end, or by a later run where this process is killed; see `TemporaryFile`.

    Args:
        parent: where it is made; None for the system's place for temporary files.
        mode: its permissions, of which the umask takes some away; by default only this user can read it.
        file: in place of `parent` a name for the file that it belongs to, see `folder_of`; None for any.

    Raises:
        OSError: it cannot be made.
    """
    target = file or (parent or Path(tempfile.gettempdir())) / f"any{FOLDER_SUFFIX}"
    with closing(TemporaryFile(target, is_named=file is not None)) as locked:
        folder = folder_of(locked.path)
        folder.mkdir(mode)
        yield folder
