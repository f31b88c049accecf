"""The temporary files of the page: uploads and results, reachable by secret addresses, and removed in time."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

from overnet.files.atomic import FOLDER_SUFFIX, folder_of, temporary_name
from overnet.files.temporary_folder import temporary_folder


class TemporaryFiles:
    """A folder for uploads and results, which only this user can read; a context manager, which makes and removes it.

    Args:
        keep_seconds: how long a file is kept after its last change.

    Attributes:
        folder: the whole folder.
        file: beside it, whose lock says that the folder is in use.
        uploads: the folder for what is dropped onto the page.
    """

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self._addresses: dict[str, Path] = {}
        self._changing = threading.Lock()
        self.file = temporary_name(Path(tempfile.gettempdir()).resolve() / f"any{FOLDER_SUFFIX}")
        self.folder = folder_of(self.file)
        self.uploads = self.folder / "uploads"
        self._closing = ExitStack()

    def __enter__(self) -> TemporaryFiles:
        self._closing.enter_context(temporary_folder(file=self.file))
        self.uploads.mkdir()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def new_folder(self) -> Path:
        """Make a folder for the results of one job, or for an image to show."""
        return Path(tempfile.mkdtemp(prefix="result-", dir=self.folder))

    def address(self, path: Path) -> str:
        """Return a new address under which the page reaches a file; nobody can guess it."""
        token = secrets.token_urlsafe(18)
        with self._changing:
            self._addresses[token] = path
        return f"/file/{token}/{quote(path.name)}"

    def at(self, token: str) -> Path | None:
        """Return the file with an address; None where there is none, or where it is gone."""
        path = self._addresses.get(token)
        return path if path is not None and path.is_file() else None

    def remove_old(self, used: Collection[Path]) -> None:
        """Remove the files whose time is over, but for those of jobs that are not done: files, or folders of them.

        The folder itself is kept from programs that remove temporary files by their age, and made anew where it was
        removed: otherwise Gradio would make it, readable for other users.
        """
        self.folder.mkdir(0o700, exist_ok=True)
        self.uploads.mkdir(exist_ok=True)
        for path in (self.file, self.uploads, self.folder):
            with suppress(OSError):
                os.utime(path)
        last = time.time() - self._keep_seconds
        # A folder comes after what it holds, the removal of which would make it new.
        old = [path for path in sorted(self.folder.rglob("*"), reverse=True) if _changed_at(path) < last]
        for path in old:
            if path == self.uploads or any(each in (path, *path.parents) for each in used):
                continue
            with suppress(OSError):  # another thread has removed it, or the folder holds something
                path.rmdir() if path.is_dir() else path.unlink()
        with self._changing:
            self._addresses = {token: path for token, path in self._addresses.items() if path.exists()}


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
