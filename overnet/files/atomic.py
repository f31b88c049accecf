"""Files that are checked before they are read or written, and that appear complete or not at all."""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ClassVar

from overnet.errors import InputError, OutputError, file_errors, link_problem, printable

if sys.platform != "win32":
    import fcntl

_TEMPORARY = ".overnet-"
_TEMPORARY_NAME = re.compile(rf"(?s){re.escape(_TEMPORARY)}[0-9a-f]{{16}}(\..*)?")
# Ends the names of files that are made for the sake of their folders, see `folder_of`.
FOLDER_SUFFIX = ".folder"
# By folder: how many calls of `remove_left_behind` go by until it is searched again, a call for so many names in it.
_calls_to_skip: dict[Path, int] = {}
_NAMES_A_CALL = 32
_LONGEST_NAME_BYTES = 255


class ExistsAlreadyError(OutputError):
    """A result whose name is taken by a file that may not be replaced."""


def exists_already(path: Path) -> ExistsAlreadyError:
    """Return the error for a file that exists and may not be replaced."""
    return ExistsAlreadyError(f"{printable(path)} exists already (--overwrite replaces it)")


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
            remove_left_behind(path.absolute().parent)
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
        if problem := link_problem(folder):
            raise OutputError(f"{printable(folder)} cannot be made: {problem}")
        folder.mkdir(parents=True, exist_ok=True)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe, a device or a folder, which may make a reader wait for ever, is refused.

    Raises:
        OSError: it is missing, unreadable or no file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))


class TemporaryFile:
    """A new empty file in the folder of a target, with its suffix: only within a folder is a rename atomic.

    As long as the process lives, the file is locked. So one that a killed process has left behind is known, and is
    removed when a temporary file is made in its folder; see `remove_left_behind`.

    Args:
        target: the file that it is to become.
        is_named: whether it has the target's name from the start, which is one of `temporary_name`.

    Attributes:
        path: its name.
        open_paths: of the temporary files of this process.

    Raises:
        OSError: the operating system refuses.
    """

    open_paths: ClassVar[set[Path]] = set()

    def __init__(self, target: Path, *, is_named: bool = False) -> None:
        self._locked: BinaryIO | None = None
        remove_left_behind(target.absolute().parent)
        while self._locked is None:
            # Not from tempfile, whose files are private: this one gets the permissions of any new file. A name is used
            # once: a process that has taken the file for one left behind may be about to remove what has that name.
            self.path = temporary_name(target)
            self.open_paths.add(self.path)
            try:
                self._locked = self.path.open("xb")
                if not _lock(self._locked, self.path):
                    self.close()
                    self._locked = None  # taken for one left behind
                elif is_named:  # only now, so that no other process sees this name before the lock
                    self.open_paths.discard(self.path)
                    self.path = self.path.rename(target)
                    self.open_paths.add(self.path)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Remove the file, unless it has been renamed."""
        try:
            with suppress(OSError):
                try:
                    if self._locked is not None:
                        self._locked.close()
                finally:
                    _remove(self.path)
        finally:
            self.open_paths.discard(self.path)


def _lock(file: BinaryIO, path: Path) -> bool:
    """Lock a new file as far as the system can; return False where another process has taken it for one left behind."""
    if sys.platform == "win32":  # an open file cannot be renamed or removed, which is as good as a lock
        if path.suffix != FOLDER_SUFFIX:
            file.close()
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # some network drives have no locks
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def temporary_name(target: Path) -> Path:
    """Return a new name in the folder of a target, with its suffix where that is not too long."""
    name = f"{_TEMPORARY}{secrets.token_hex(8)}"
    return target.with_name(name + target.suffix * (len(os.fsencode(name + target.suffix)) <= _LONGEST_NAME_BYTES))


def folder_of(path: Path) -> Path:
    """Return a folder beside a temporary file that is removed with it, where it is made; sockets want a short name."""
    return path.with_name(f".ov-{path.name[len(_TEMPORARY) :][:16]}")


def _remove(path: Path) -> None:
    """Remove a temporary file after its folder; while something is left of that, the file is kept for a later run."""
    folder = folder_of(path)
    if os.path.lexists(folder):
        shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        path.unlink(missing_ok=True)


def remove_left_behind(folder: Path) -> None:
    """Remove the temporary files in a folder that no process holds any more, with their folders.

    Another process may have been killed since this one looked before. Looking takes time for each file, so that in a
    large folder only every so many calls do. Where files cannot be locked, nothing is removed; on Windows only folders
    are, as other files are not kept open there.
    """
    _calls_to_skip[folder] = _calls_to_skip.get(folder, 0) - 1
    if _calls_to_skip[folder] >= 0:
        return
    with suppress(OSError):
        paths = list(folder.iterdir())
        _calls_to_skip[folder] = len(paths) // _NAMES_A_CALL
        for path in paths:
            if not _TEMPORARY_NAME.fullmatch(path.name) or path.is_symlink():
                continue
            with suppress(OSError):
                if sys.platform == "win32":
                    if path.suffix == FOLDER_SUFFIX:
                        path.rename(path)  # refused while it is open
                        _remove(path)
                    continue
                with open_regular(path) as file:
                    # A shared lock, as network drives want a file open for writing for the other kind.
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    _remove(path)


def keep_left_behind(folder: Path) -> None:
    """Let `remove_left_behind` do nothing for a folder in which other machines write: their locks may not be seen."""
    _calls_to_skip[folder] = sys.maxsize


@contextmanager
def atomic_write(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it is renamed to `path` on success and removed on an error.

    Args:
        path: the file to create. A link is followed, as when it is opened.
        overwrite: whether an existing file may be replaced. If not, a file that appears meanwhile is kept as well.

    Raises:
        OutputError: the file exists and may not be replaced, or the operating system refuses to write.
    """
    target = link_target(path, overwrite=overwrite)
    try:
        with closing(TemporaryFile(target)) as temporary:
            yield temporary.path
            with temporary.path.open("rb+") as file:
                os.fsync(file.fileno())
            move_into_place(temporary.path, target, overwrite=overwrite)
    except FileExistsError as error:
        raise exists_already(path) from error
    except OSError as error:
        raise OutputError(f"{printable(path)} cannot be written: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, so that a power cut does not undo a rename, where the system can."""
    with suppress(OSError):  # Windows opens no folders, and some network drives sync none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def link_target(path: Path, *, overwrite: bool) -> Path:
    """Return the file that a path names, which is to be written: links are followed, as when it is opened.

    Raises:
        OutputError: the path exists and may not be replaced, or is a link to itself.
    """
    if not os.path.lexists(path):
        return path
    if not overwrite:
        remove_left_behind(path.absolute().parent)
        raise exists_already(path)
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OutputError(f"{printable(path)} cannot be written: it is a link that leads back to itself")
    return target


def with_added_stem(path: Path, added: str) -> Path:
    """Return a path with `added` at the end of its stem, which is cut where the name would be too long."""
    most = _LONGEST_NAME_BYTES - len(os.fsencode(added + path.suffix))
    stem = os.fsencode(path.stem)[:most].decode(sys.getfilesystemencoding(), "ignore")
    return path.with_name(f"{stem}{added}{path.suffix}")


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
