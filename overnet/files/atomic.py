"""Files that are checked before they are read or written, and that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from overnet.errors import InputError, OutputError, file_errors, printable


def exists_already(path: Path) -> OutputError:
    """Return the error for a file that exists and may not be replaced."""
    return OutputError(f"{printable(path)} exists already (--overwrite replaces it)")


def read_file(path: Path, *, most_bytes: int) -> bytes:
    """Read an image file of at most `most_bytes` bytes.

    Raises:
        InputError: the path is missing, a folder, a device or a pipe, or the file is too large or unreadable.
    """
    name = printable(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{name} is a folder, not an image")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{name} is not a file")  # a device or a pipe may never end
        if status.st_size > most_bytes:
            raise InputError(f"{name} is too large for an image: {status.st_size} bytes, the limit is {most_bytes}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist") from error
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or type(error).__name__}") from error
    except ValueError as error:  # a NUL character
        raise InputError(f"{name} is not a file name") from error


def check_target(path: Path, *, overwrite: bool) -> None:
    """Check that an image can be written to `path`, before it is encoded.

    Raises:
        OutputError: the path is a folder or a device, its folder does not exist, or the file exists and may not be
            replaced.
    """
    name = printable(path)
    if "\0" in str(path):
        raise OutputError(f"{name} cannot be written: a file name cannot hold a NUL character")
    try:
        if path.is_dir():
            raise OutputError(f"{name} is a folder")
        if path.exists() and not path.is_file():
            raise OutputError(f"{name} is a device or a pipe; images are written to files")
        if os.path.lexists(path) and not overwrite:
            raise exists_already(path)
        if not path.parent.is_dir():
            raise OutputError(f"{name} cannot be written: the folder {printable(path.parent)} does not exist")
    except OSError as error:
        raise OutputError(f"{name} cannot be written: {error.strerror or type(error).__name__}") from error


def ensure_folder(folder: Path) -> None:
    """Create a folder, and its parents, where they are missing.

    Raises:
        OutputError: it cannot be created.
    """
    with file_errors(OutputError, folder, " cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)


def temporary_beside(path: Path) -> Path:
    """Return an unused name in the folder of `path`, with its suffix: only within a folder is a rename atomic."""
    return path.with_name(f".overnet-{secrets.token_hex(8)}{path.suffix}")


@contextmanager
def atomic_write(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it is renamed to `path` on success and removed on an error.

    Args:
        path: the file to create. A link is followed, as when it is opened.
        overwrite: whether an existing file may be replaced. If not, a file that appears meanwhile is kept as well.

    Raises:
        OutputError: the file exists and may not be replaced, or the operating system refuses to write.
    """
    if not overwrite and os.path.lexists(path):
        raise exists_already(path)
    target = Path(os.path.realpath(path)) if overwrite else path
    # Not from tempfile, whose files are private: this one gets the permissions of any new file.
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
        pass  # memory cards and some network drives have no hard links
    # Creating an empty file is atomic too, and then only this empty file is replaced.
    target.open("xb").close()
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
