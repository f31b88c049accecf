"""Files for tasks on other machines: by their path where it leads to them there, else through Ray's object store."""

import io
import os
import shutil
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from overnet.errors import InputError, no_such_file, printable
from overnet.files.atomic import TemporaryFile, ensure_folder, open_regular
from overnet.files.engine_sidecar import sidecar_path
from overnet.runtime.segments.manifest import describe_source
from overnet.weights import MODEL_NAMES

# Of an object in the store: a task reads the parts of a file that it needs.
_BLOCK_BYTES = 1 << 24


class NotHereError(Exception):
    """A file that is needed is not on this machine, and was not sent."""


class ChangedError(InputError):
    """A file is another one than when the run began."""


class Parcel:
    """A file that tasks read.

    Args:
        path: the file on this machine.

    Attributes:
        name: the path for messages.
        path: the absolute path.
        identity: what tells the file from another one.

    Raises:
        InputError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.name = printable(path)
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 (links may differ on other machines)
        self.identity = describe_source(self.path)
        self._block_bytes = _BLOCK_BYTES
        self._size = self.path.stat().st_size
        self._blocks: list[Any] | None = None

    def send(self, ray: Any) -> None:
        """Put the file into the object store, once; tasks that are submitted afterwards can read it.

        Raises:
            ChangedError: see `check`.
        """
        if self._blocks is not None:
            return
        self.check()
        with open_regular(self.path) as file:
            self._blocks = [ray.put(block) for block in iter(lambda: file.read(self._block_bytes), b"")]

    def check(self) -> None:
        """Check that the file on this machine is the one that it was.

        Raises:
            ChangedError: it is not, or is gone: results of it would be a mixture.
        """
        with suppress(InputError):
            if describe_source(self.path) == self.identity:
                return
        raise ChangedError(f"{self.name} was changed or removed while the run read it")

    def is_here(self) -> bool:
        """Return whether the path leads to the same file on this machine.

        Raises:
            NotHereError: it does not, and the file was not sent.
        """
        with suppress(Exception):
            if describe_source(self.path) == self.identity:
                return True
        if self._blocks is None:
            raise NotHereError
        return False

    def open(self) -> io.BufferedReader:
        """Return a reader of a file that was sent; it fetches what is read."""
        assert self._blocks is not None
        return io.BufferedReader(_Sent(self._blocks, self._block_bytes, self._size, self.path.name), 1 << 16)

    def unpack(self, folder: Path) -> Path:
        """Write a file that was sent into a folder, and return where it is there."""
        unpacked = folder / self.path.name
        if not unpacked.exists():
            ensure_folder(folder)
            with self.open() as content, closing(TemporaryFile(unpacked)) as temporary:
                with temporary.path.open("wb") as file:
                    shutil.copyfileobj(content, file, _BLOCK_BYTES)
                temporary.path.replace(unpacked)
        return unpacked


class _Sent(io.RawIOBase):
    """The contents of a file in the object store; only the block that is read is kept."""

    def __init__(self, blocks: list[Any], block_bytes: int, size: int, name: str) -> None:
        self.name = name  # FFmpeg looks at its suffix
        self._blocks, self._block_bytes, self._size = blocks, block_bytes, size
        self._at = 0
        self._number, self._block = -1, memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        number, offset = divmod(self._at, self._block_bytes)
        if self._at >= self._size:
            return 0
        if number != self._number:
            import ray

            self._number, self._block = number, memoryview(ray.get(self._blocks[number]))
        part = self._block[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


class ParcelledModel:
    """The model of an upscaler: a bundled one by its name, or files that are sent to where they are not.

    Args:
        model: what `overnet.runtime.upscaler.Upscaler` takes.

    Raises:
        InputError: a file cannot be read.
    """

    def __init__(self, model: str | Path | None) -> None:
        self.name = None if model is None else str(model)
        self.parcels: list[Parcel] = []
        if self.name is None or self.name in MODEL_NAMES:
            return
        path = Path(self.name)
        if not path.exists():
            raise no_such_file(path, MODEL_NAMES)
        self._is_folder = path.is_dir()
        if self._is_folder:
            files = [file for ending in ("onnx", "engine", "engine.json") for file in sorted(path.glob(f"*.{ending}"))]
        else:
            files = [file for file in (path, sidecar_path(path)) if file == path or file.is_file()]
        self.parcels = [Parcel(file) for file in files]

    def unpack(self, folder: Path) -> str | None:
        """Return what an upscaler on this machine takes; files that were sent are written into a folder.

        Raises:
            NotHereError: a file is not on this machine, and was not sent.
        """
        if not self.parcels:
            return self.name
        are_here = [parcel.is_here() for parcel in self.parcels]
        first, *_ = [parcel.path if all(are_here) else parcel.unpack(folder) for parcel in self.parcels]
        return str(first.parent if self._is_folder else first)
