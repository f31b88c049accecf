"""The folder beside a result that holds the segments of an unfinished video."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import filelock

from overnet.errors import OutputError, file_errors, printable
from overnet.files.atomic import sync_folder
from overnet.runtime.container.demux import error_reason
from overnet.runtime.segments.manifest import FileState, Manifest, Segment, differences
from overnet.runtime.segments.packet_file import PacketFile, is_whole

if sys.platform != "win32":
    import fcntl

_SUFFIX = ".overnet"
_MANIFEST, _LOCK = "manifest.json", "lock"
_OURS = re.compile(r"manifest\.json|lock|\d+\.packets|\.overnet-.*")
_LONGEST_NAME_BYTES = 255


def folder_of(target: Path) -> Path:
    """Return the folder for the segments of a result."""
    name = os.fsencode(target.name)[: _LONGEST_NAME_BYTES - len(_SUFFIX)]
    return target.with_name(os.fsdecode(name) + _SUFFIX)


def manifest_of(folder: Path) -> Path:
    """Return the path of a folder's manifest."""
    return folder / _MANIFEST


class SegmentFiles:
    """The files of segments, as a process writes them that has neither the lock nor the manifest on the disk.

    Args:
        path: their folder.
        manifest: what is known of the video; `add` notes segments in it.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    def file(self, number: int) -> Path:
        """Return the file of a segment."""
        return self.path / f"{number:06d}.packets"

    def open_segment(self, number: int) -> PacketFile:
        """Return a writer of a segment.

        Raises:
            OutputError: the file cannot be written.
        """
        with self.reporting():
            return PacketFile(self.file(number))

    def add(self, number: int, segment: Segment) -> None:
        """Note a segment, whose file is complete, as whole."""
        self.manifest.segments[number] = segment

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Raise the operating system's errors in the block as errors for the user."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            kept = f"whole segments are kept in {printable(self.path)}, and the same command goes on from there"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutputError(f"no space is left in {printable(self.path.absolute().parent)}: {kept}") from error
            raise OutputError(f"{printable(self.path)} cannot be written ({error_reason(error)}): {kept}") from error


class SegmentFolder(SegmentFiles):
    """The segments of an unfinished video, and their manifest; a lock keeps other runs out.

    Use `create` or `reopen` to make one, and `close` it.

    Attributes:
        path: the folder.
        manifest: its manifest.
        damaged: numbers of segments that were found to be damaged, and are missing now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged: list[int] = []
        with file_errors(OutputError, path, " cannot be made"):
            path.mkdir(parents=True, exist_ok=True)
            foreign = [entry.name for entry in path.iterdir() if not _OURS.fullmatch(entry.name)]
        if foreign:
            raise OutputError(f"{printable(path)} is needed for segments, and holds other files: move it away")
        # It is acquired in the thread that encodes, and released in another.
        self._lock = filelock.FileLock(path / _LOCK, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise OutputError(f"{printable(path)}: another run is writing this video") from error
        except OSError as error:
            raise OutputError(f"{printable(path)} cannot be written ({error.strerror or error})") from error

    @classmethod
    def create(cls, target: Path, manifest: Manifest) -> SegmentFolder:
        """Make a folder without segments.

        Raises:
            OutputError: it cannot be made, or another run uses it.
        """
        folder = cls(folder_of(target))
        try:
            folder._empty()
            folder.manifest = manifest
            folder.save()
            sync_folder(target.absolute().parent)
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def reopen(cls, target: Path, shaped_by: dict[str, str], *, overwrite: bool) -> SegmentFolder | None:
        """Return the folder that an earlier run has left; None where there is none, or nothing is in it.

        Args:
            target: the result.
            shaped_by: what determines the result now, see `Manifest`.
            overwrite: whether segments of another source, or made with other options, are removed.

        Raises:
            OutputError: these have changed, and are not to be removed; the folder is damaged; another run uses it.
        """
        path = folder_of(target)
        if not (path / _MANIFEST).exists():
            remove_useless(target)
            return None
        folder = cls(path)
        try:
            folder.manifest = Manifest.load(path / _MANIFEST)
            changed = differences(shaped_by, folder.manifest.shaped_by)
            if changed:
                raise OutputError(f"{printable(path)} holds an unfinished run in which {'; '.join(changed)}")
        except OutputError as error:
            if overwrite:
                folder.remove()
                return None
            folder.close()
            raise OutputError(f"{error}: --overwrite starts anew, --no-resume leaves it as it is") from error
        except BaseException:
            folder.close()
            raise
        for number, segment in list(folder.manifest.segments.items()):
            if not is_whole(folder.file(number), segment.contents):
                folder.damaged.append(number)
                del folder.manifest.segments[number]
        return folder

    def add(self, number: int, segment: Segment) -> None:
        """Note a segment, whose file is complete, as whole, also on the disk.

        Raises:
            OutputError: the manifest cannot be written.
        """
        super().add(number, segment)
        self.save()

    def drop(self, numbers: list[int]) -> None:
        """Remove segments.

        Raises:
            OutputError: the manifest cannot be written.
        """
        for number in numbers:
            del self.manifest.segments[number]
        self.save()
        for number in numbers:
            with suppress(OSError):
                self.file(number).unlink(missing_ok=True)

    def save(self) -> None:
        """Write the manifest; see `Manifest.save`."""
        self.manifest.save(self.path / _MANIFEST)

    def remove(self) -> None:
        """Remove the segments and the folder."""
        # Without a manifest, what is left after a power cut counts as nothing.
        with suppress(OSError):
            (self.path / _MANIFEST).unlink(missing_ok=True)
        self._empty()
        self.close()
        with suppress(OSError):
            (self.path / _LOCK).unlink(missing_ok=True)
            self.path.rmdir()

    def _empty(self) -> None:
        with suppress(OSError):
            for entry in self.path.iterdir():
                if entry.name != _LOCK:
                    entry.unlink(missing_ok=True)

    def close(self) -> None:
        """Let other runs in; the segments stay."""
        self._lock.release()


def is_joined(folder: Path, target: Path) -> bool:
    """Return whether the segments in a folder are no longer needed: a result was made of them, and has its name."""
    try:
        return Manifest.load(folder / _MANIFEST).result == FileState.of(target)
    except (OSError, OutputError):
        return False


def remove_useless(target: Path) -> None:
    """Remove the folder of a result that a run which was killed at its very beginning or end has left behind."""
    path = folder_of(target)

    def is_needed() -> bool:
        return (path / _MANIFEST).exists() and not is_joined(path, target)

    with suppress(OSError, OutputError):  # it holds other files, or another run begins just now
        if path.is_dir() and not is_needed():
            folder = SegmentFolder(path)
            if is_needed():
                folder.close()
            else:
                folder.remove()


def is_in_use(folder: Path) -> bool | None:
    """Return whether a run writes segments into a folder now; None where the lock cannot be looked at.

    No permission to write is needed, except on Windows.
    """
    try:
        if sys.platform == "win32":
            with filelock.FileLock(folder / _LOCK).acquire(timeout=0):
                return False
        with (folder / _LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except FileNotFoundError:
        return False
    except (filelock.Timeout, BlockingIOError):
        return True
    except OSError:
        return None
