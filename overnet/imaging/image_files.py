"""Image files on disk: what is read and written is looked at first."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from overnet.errors import InputError, OutputError, printable
from overnet.files.atomic import exists_already


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def read_file(path: Path, *, most_bytes: int) -> bytes:
    """Read a file of at most this size.

    Raises:
        InputError: missing, a folder, a device, a pipe, too large, or not readable.
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
        raise InputError(f"{name} cannot be read: {_reason(error)}") from error
    except ValueError as error:  # a NUL character
        raise InputError(f"{name} is not a file name") from error


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse before the work of encoding what could not be written after it.

    Raises:
        OutputError: a folder, a device, a file that is there already, or in a folder that does not exist.
    """
    name = printable(path)
    if "\0" in str(path):
        raise OutputError(f"{name} cannot be written: no file name holds a NUL character")
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
        raise OutputError(f"{name} cannot be written: {_reason(error)}") from error
