"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from overnet.errors import OutputError, printable


def exists_already(path: Path) -> OutputError:
    """The error for a file that would have to be replaced without leave."""
    return OutputError(f"{printable(path)} exists already (--overwrite replaces it)")


def ensure_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{printable(folder)} cannot be made: {error.strerror}") from error


def temporary_beside(path: Path) -> Path:
    """Return an unused name in the folder of `path`, with its suffix: only within a folder is a rename atomic."""
    return path.with_name(f".overnet-{secrets.token_hex(8)}{path.suffix}")


@contextmanager
def atomic_write(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it becomes `path` when the block ends well, else it vanishes.

    Args:
        path: the file to make. A link is written through, as opening it would do.
        overwrite: whether an existing file may be replaced. If not, one that appears meanwhile is kept as well.

    Raises:
        OutputError: the file exists and may not be replaced, or the operating system refuses to write.
    """
    if not overwrite and os.path.lexists(path):
        raise exists_already(path)
    target = Path(os.path.realpath(path)) if overwrite else path
    # Not tempfile's: those are private, and the file is to have the permissions that any new one has.
    temporary = temporary_beside(target)
    try:
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        move_into_place(temporary, target, overwrite=overwrite)
    except FileExistsError as error:
        raise exists_already(path) from error
    except OSError as error:
        raise OutputError(f"{printable(path)} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Give a complete file its name; without `overwrite`, the temporary name may remain beside it.

    Raises:
        FileExistsError: the name is taken, and `overwrite` is False.
        OSError: the operating system refuses.
    """
    if overwrite:
        temporary.replace(target)
        return
    try:
        # A rename would replace; a hard link fails where the name is taken.
        os.link(temporary, target)
        return
    except FileExistsError:
        raise
    except OSError:
        pass  # memory cards and some network drives know no links
    # Taking the name with an empty file is atomic too, and what is replaced then is ours.
    target.open("xb").close()
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
